//! What Torpor does, seen from outside.
