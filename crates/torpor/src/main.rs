//! The command line of Torpor.

fn main() {}
