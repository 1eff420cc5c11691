//! The head's encoding.
