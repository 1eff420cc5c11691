//! The container before and after, as its engine knows it.

use serde::Serialize;

use super::change::Changes;
use super::process::FieldChange;
use crate::Checkpoint;
use crate::engine::{self, Change, Container, EngineError};
use crate::inspect::{Problem, command_line};

/// A path that differs from the container's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerPath {
    /// The path, from the root of the container.
    pub path: String,
    /// What happened to it.
    #[serde(flatten)]
    pub change: Change,
}

/// What differs about the container itself. Times and annotations are not compared: they differ between any two.
pub(super) fn fields(
    before: &Checkpoint,
    after: &Checkpoint,
    problems: &mut Vec<Problem>,
) -> Vec<FieldChange> {
    let (Some(before), Some(after)) =
        (told(engine::container(before), problems), told(engine::container(after), problems))
    else {
        return Vec::new();
    };
    type Value<'f> = &'f dyn Fn(&Container) -> Option<String>;
    let image = |container: &Container| container.image.clone();
    let pod = |container: &Container| container.pod.clone();
    let all: [(&'static str, Value<'_>); 11] = [
        ("engine", &|of| Some(of.engine.to_string())),
        ("name", &|of| of.name.clone()),
        ("id", &|of| of.id.clone()),
        ("image", &|of| image(of)?.name),
        ("imageRequested", &|of| image(of)?.requested),
        ("imageId", &|of| image(of)?.id),
        ("runtime", &|of| of.runtime.clone()),
        ("command", &|of| (!of.command.is_empty()).then(|| command_line(&of.command))),
        ("hostName", &|of| of.host_name.clone()),
        ("pod", &|of| pod(of)?.name),
        ("namespace", &|of| pod(of)?.namespace),
    ];
    all.into_iter()
        .filter_map(|(field, value)| {
            let (before, after) = (value(&before), value(&after));
            (before != after).then_some(FieldChange { field, before, after })
        })
        .collect()
}

/// What differs between what the two changed. Where one of them changed nothing, all of the other's is new or gone.
pub(super) fn writable_layer(
    before: &Checkpoint,
    after: &Checkpoint,
    problems: &mut Vec<Problem>,
) -> Option<Changes<LayerPath>> {
    let layers = [before, after].map(|checkpoint| told(engine::changes(checkpoint), problems).flatten());
    if layers.iter().all(Option::is_none) {
        return None;
    }
    let [before, after] = layers.map(|layer| {
        let paths = layer.unwrap_or_default().paths.into_iter();
        paths.map(|(path, change)| LayerPath { path, change }).collect::<Vec<_>>()
    });
    Some(Changes::between(before, after, |path| path.path.clone(), |before, after| before == after))
}

fn told<T>(result: Result<T, EngineError>, problems: &mut Vec<Problem>) -> Option<T> {
    result
        .map_err(|error| {
            let entry = match &error {
                EngineError::Document { entry, .. } => entry.clone(),
                _ => "the engine's files".to_owned(),
            };
            problems.push(Problem { entry, message: error.to_string() });
        })
        .ok()
}
