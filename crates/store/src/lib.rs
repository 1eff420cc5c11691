//! Keep checkpoints: blocks, packs, manifests and the lineage of a name.
