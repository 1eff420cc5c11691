//! The project's own chores: set-up, tests, demo, benchmarks.

fn main() {}
