//! What the store keeps besides blocks (indexes, tables of packs, manifests, headers, records), chosen by the first byte: what
//! can be decoded means the same once it was encoded again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_store::decoders::Decoder;

fuzz_target!(|input: &[u8]| {
    let _ = Decoder::decode_any(input);
});
