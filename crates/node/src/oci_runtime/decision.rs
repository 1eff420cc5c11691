//! Whether a container that is to be is restored: what its annotations say, and its image.
//!
//! Annotations of a pod reach the container's configuration where the handler lets them pass (containerd: `pod_annotations`). All containers of a pod get all of them, so one that is about a container alone ends with its name.

use std::collections::BTreeMap;

use torpor_store::name::{NameError, Reference};

use crate::migration::gate;
use crate::pod_annotations::{Fact, PodAnnotations, TwoEngines};

/// Names a checkpoint: `NAME` for the newest of a name, `NAME@NUMBER`, or `none`. With `.CONTAINER` behind it, for that container.
pub const RESTORE: &str = "torpor.dev/restore";
/// `fresh` or `fail`: what a restore that fails becomes.
pub const ON_FAILURE: &str = "torpor.dev/on-restore-failure";
/// `true`: a container that starts again may go back to a checkpoint that it was restored from before.
pub const AGAIN: &str = "torpor.dev/restore-again";
/// Where an image carries a checkpoint, below the container's root.
pub const CARRIED: &str = ".torpor/checkpoint";

/// A container's place in a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// What tells this pod from others of the same name.
    pub uid: String,
    /// The container's name in the pod.
    pub container: String,
}

/// What a restore that fails becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnFailure {
    /// The container does not start.
    #[default]
    Fail,
    /// It starts from its beginning.
    Fresh,
}

/// Where the checkpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In one of the node's stores.
    Store(Reference),
    /// In the image.
    Image,
    /// Where `torpor receive` has got it from another machine: its token.
    Received(String),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Source::Store(reference) => reference.fmt(f),
            Source::Image => f.write_str("the checkpoint in its image"),
            Source::Received(_) => f.write_str("what is received from another machine"),
        }
    }
}

/// A restore that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// Where the checkpoint is.
    pub source: Source,
    /// What becomes of it where it fails.
    pub on_failure: OnFailure,
    /// Whether the container may go back to where it was restored from before.
    pub again: bool,
    /// Its place in a pod.
    pub place: Option<Place>,
}

/// What is to be done about a new container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is the real runtime's.
    Fresh,
    /// It is restored.
    Restore(Order),
}

/// Annotations that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecisionError {
    /// It names a place.
    #[error("annotation {key} is {value:?}: it names a place, and a pod names checkpoints only")]
    Place {
        /// The annotation.
        key: String,
        /// What it says.
        value: String,
    },
    /// It is no name of a checkpoint.
    #[error("annotation {key} is {value:?}, which names no checkpoint")]
    Name {
        /// The annotation.
        key: String,
        /// What it says.
        value: String,
        /// Why not.
        #[source]
        source: NameError,
    },
    /// The pod is not known for certain.
    #[error(transparent)]
    TwoEngines(#[from] TwoEngines),
    /// A word that it does not take.
    #[error("annotation {key} is {value:?}, and takes {words}")]
    Word {
        /// The annotation.
        key: String,
        /// What it says.
        value: String,
        /// What it may say.
        words: &'static str,
    },
}

impl DecisionError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            DecisionError::Place { .. } => {
                "write NAME or NAME@NUMBER; stores are named in /etc/torpor/runtime.yaml on the node"
                    .to_owned()
            }
            DecisionError::Name { source, .. } => source.remedy().to_owned(),
            DecisionError::TwoEngines(TwoEngines) => {
                "remove annotations of the pod that begin with io.kubernetes.cri".to_owned()
            }
            DecisionError::Word { key, words, .. } => format!("set {key} to one of {words}, or remove it"),
        }
    }
}

impl Place {
    /// The place that the engine's annotations tell. None for what is in no pod.
    ///
    /// # Errors
    /// It cannot be told which engine's they are.
    pub fn of(annotations: &BTreeMap<String, String>) -> Result<Option<Place>, TwoEngines> {
        Ok(PodAnnotations::of(annotations)?.and_then(|pod| {
            let say = |fact| pod.get(fact).map(str::to_owned);
            Some(Place {
                namespace: say(Fact::Namespace)?,
                pod: say(Fact::Pod)?,
                uid: say(Fact::Uid).unwrap_or_default(),
                container: say(Fact::Container)?,
            })
        }))
    }
}

/// The annotation for this container, before the one for all.
fn said<'a>(
    annotations: &'a BTreeMap<String, String>,
    key: &str,
    place: Option<&Place>,
) -> Option<(String, &'a str)> {
    let own = place.map(|place| format!("{key}.{}", place.container));
    own.into_iter()
        .chain([key.to_owned()])
        .find_map(|key| annotations.get(&key).map(|value| (key, value.trim())))
}

/// Decides. `carries` is asked whether the image carries a checkpoint, where that counts.
///
/// # Errors
/// [`DecisionError`]: annotations that cannot be followed; it must not start.
pub fn decide(
    annotations: &BTreeMap<String, String>,
    carries: impl FnOnce() -> bool,
) -> Result<Decision, DecisionError> {
    if PodAnnotations::of(annotations)?.is_some_and(|pod| pod.is_sandbox()) {
        return Ok(Decision::Fresh);
    }
    let place = Place::of(annotations)?;
    if let Some(token) = annotations.get(gate::ANNOTATION) {
        return received(token, place.as_ref());
    }
    let source = match said(annotations, RESTORE, place.as_ref()) {
        Some((_, "none")) => None,
        Some((key, value)) => Some(Source::Store(reference(key, value, place.as_ref())?)),
        None => carries().then_some(Source::Image),
    };
    let Some(source) = source else { return Ok(Decision::Fresh) };
    let on_failure = match said(annotations, ON_FAILURE, place.as_ref()) {
        None => OnFailure::default(),
        Some((_, "fail")) => OnFailure::Fail,
        Some((_, "fresh")) => OnFailure::Fresh,
        Some((key, value)) => {
            return Err(DecisionError::Word { key, value: value.to_owned(), words: "fresh, fail" });
        }
    };
    let again = match said(annotations, AGAIN, place.as_ref()) {
        None | Some((_, "false")) => false,
        Some((_, "true")) => true,
        Some((key, value)) => {
            return Err(DecisionError::Word { key, value: value.to_owned(), words: "true, false" });
        }
    };
    Ok(Decision::Restore(Order { source, on_failure, again, place }))
}

/// A container that moves here never begins anew: it runs on elsewhere where it cannot be restored.
fn received(token: &str, place: Option<&Place>) -> Result<Decision, DecisionError> {
    if place.is_some() || !gate::is_token(token) {
        let (key, value) = (gate::ANNOTATION.to_owned(), token.to_owned());
        return Err(DecisionError::Word { key, value, words: "what `torpor receive` says, in no pod" });
    }
    let source = Source::Received(token.to_owned());
    Ok(Decision::Restore(Order { source, on_failure: OnFailure::Fail, again: false, place: None }))
}

/// The checkpoint that is named. In a pod, `{namespace}`, `{pod}` and `{container}` stand for its own.
fn reference(key: String, value: &str, place: Option<&Place>) -> Result<Reference, DecisionError> {
    if value.contains("://") || value.starts_with(['/', '.']) {
        return Err(DecisionError::Place { key, value: value.to_owned() });
    }
    let mut text = value.to_owned();
    if let Some(place) = place {
        for (word, meaning) in
            [("{namespace}", &place.namespace), ("{pod}", &place.pod), ("{container}", &place.container)]
        {
            text = text.replace(word, meaning);
        }
    }
    text.parse().map_err(|source| DecisionError::Name { key, value: text, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn annotations(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn in_pod(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let mut all = annotations(pairs);
        for (key, value) in [
            ("io.kubernetes.cri.container-type", "container"),
            ("io.kubernetes.cri.sandbox-namespace", "shop"),
            ("io.kubernetes.cri.sandbox-name", "web-0"),
            ("io.kubernetes.cri.sandbox-uid", "u-1"),
            ("io.kubernetes.cri.container-name", "app"),
        ] {
            all.insert(key.to_owned(), value.to_owned());
        }
        all
    }

    fn order(source: Source, place: Option<Place>) -> Order {
        Order { source, on_failure: OnFailure::Fail, again: false, place }
    }

    fn store(reference: &str) -> Source {
        Source::Store(reference.parse().unwrap())
    }

    #[test]
    fn what_annotations_say() {
        let place = Place::of(&in_pod(&[])).unwrap();
        assert_eq!(place.as_ref().unwrap().uid, "u-1");
        for (given, carries, expected) in [
            (annotations(&[]), false, None),
            (annotations(&[]), true, Some(order(Source::Image, None))),
            (annotations(&[(RESTORE, "none")]), true, None),
            (annotations(&[(RESTORE, "shop/web@3")]), false, Some(order(store("shop/web@3"), None))),
            (in_pod(&[(RESTORE, "shop/web")]), true, Some(order(store("shop/web"), place.clone()))),
            (
                in_pod(&[(RESTORE, "{namespace}/{pod}/{container}")]),
                false,
                Some(order(store("shop/web-0/app"), place.clone())),
            ),
            (
                in_pod(&[("torpor.dev/restore.app", "web@2"), (RESTORE, "other")]),
                false,
                Some(order(store("web@2"), place.clone())),
            ),
            (in_pod(&[("torpor.dev/restore.sidecar", "web@2")]), false, None),
            (in_pod(&[("torpor.dev/restore.app", "none"), (RESTORE, "other")]), false, None),
            (
                in_pod(&[(RESTORE, "web"), (ON_FAILURE, "fresh"), (AGAIN, "true")]),
                false,
                Some(Order {
                    on_failure: OnFailure::Fresh,
                    again: true,
                    ..order(store("web"), place.clone())
                }),
            ),
        ] {
            let decision = expected.map_or(Decision::Fresh, Decision::Restore);
            assert_eq!(decide(&given, || carries), Ok(decision), "{given:?}");
        }
    }

    #[test]
    fn what_is_received_is_named_by_a_word_that_is_no_path_and_in_no_pod() {
        let token = "0123456789abcdef".repeat(2);
        let given = [(gate::ANNOTATION, token.as_str()), (ON_FAILURE, "fresh"), (RESTORE, "web")];
        let expected = order(Source::Received(token.clone()), None);
        assert_eq!(decide(&annotations(&given), || true), Ok(Decision::Restore(expected)));
        for given in [in_pod(&given), annotations(&[(gate::ANNOTATION, "../store")])] {
            assert!(matches!(decide(&given, || false), Err(DecisionError::Word { .. })), "{given:?}");
        }
    }

    #[test]
    fn a_pods_sandbox_is_nobodys_checkpoint() {
        let mut given = in_pod(&[(RESTORE, "web")]);
        given.insert("io.kubernetes.cri.container-type".to_owned(), "sandbox".to_owned());
        assert_eq!(decide(&given, || true), Ok(Decision::Fresh));
    }

    #[test]
    fn cri_o_has_other_words_for_a_place() {
        let given = annotations(&[
            ("io.kubernetes.cri-o.ContainerType", "container"),
            ("io.kubernetes.pod.namespace", "shop"),
            ("io.kubernetes.pod.name", "web-0"),
            ("io.kubernetes.pod.uid", "u-1"),
            ("io.kubernetes.container.name", "app"),
        ]);
        assert_eq!(Place::of(&given), Place::of(&in_pod(&[])));
        // A pod's own annotations reach the configuration, too: one that would be of another namespace.
        let mut spoofed = given.clone();
        spoofed.insert("io.kubernetes.cri.sandbox-namespace".to_owned(), "victim".to_owned());
        assert_eq!(Place::of(&spoofed), Place::of(&given));
        spoofed.insert("io.kubernetes.cri.container-type".to_owned(), "container".to_owned());
        assert!(matches!(decide(&spoofed, || false), Err(DecisionError::TwoEngines(_))));
    }

    #[test]
    fn what_cannot_be_followed_is_refused_by_its_key() {
        for (key, value, part) in [
            (RESTORE, "s3://bucket/web", "names a place"),
            (RESTORE, "/var/lib/torpor", "names a place"),
            (RESTORE, "../web", "names a place"),
            (RESTORE, "web@new", "names no checkpoint"),
            (RESTORE, "", "names no checkpoint"),
            (RESTORE, "{node}", "names no checkpoint"),
        ] {
            let error = decide(&in_pod(&[(key, value)]), || false).unwrap_err();
            let said = error.to_string();
            assert!(said.contains(key) && said.contains(part), "{said}");
            assert!(!error.remedy().is_empty());
        }
        for (key, value) in [(ON_FAILURE, "retry"), (AGAIN, "yes")] {
            let error = decide(&in_pod(&[(RESTORE, "web"), (key, value)]), || false).unwrap_err();
            assert!(matches!(&error, DecisionError::Word { key: named, .. } if named == key), "{error}");
        }
    }
}
