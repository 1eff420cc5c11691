//! Configuration files (Torpor's, crik's), variables, seccomp profiles, what runtimes write about containers, and what the sides of a migration say, chosen by the
//! first byte: a configuration that can be resolved means the same once it was printed and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_node::documents::Document;

fuzz_target!(|input: &[u8]| {
    let _ = Document::read_any(input);
});
