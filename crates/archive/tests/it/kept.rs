//! A generation in a store of its own, with what a test puts into it.

use std::sync::Arc;

use torpor_store::{
    Credentials, Description, Draft, DraftSettings, GenerationKind, Manifest, MemoryBackend, Repository,
};

pub(crate) fn kept(fill: impl FnOnce(&mut Draft)) -> (Repository, Manifest) {
    let repository = Repository::create(Arc::new(MemoryBackend::new()), &Credentials::None).unwrap();
    let mut draft = repository.draft(DraftSettings { workers: 1, ..DraftSettings::default() }).unwrap();
    fill(&mut draft);
    let finished = draft.finish(Description {
        name: "web".to_owned(),
        epoch: 1,
        generation: 1,
        kind: GenerationKind::Running,
        parent: None,
        created: jiff::Timestamp::UNIX_EPOCH,
        phases: Vec::new(),
        facts: b"{}".to_vec(),
    });
    (repository, finished.unwrap().manifest)
}
