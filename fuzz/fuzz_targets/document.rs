//! Whole images as JSON and back. With an even first byte the rest is an image of the kind the second byte chooses: what can be
//! decoded comes back byte for byte, in both styles. With an odd one the rest is JSON: what can be encoded can be decoded.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_criu::image::document::{Decoder, Payloads, encode, write_json};
use torpor_criu::image::json::{Json, Layout};
use torpor_criu::image::presentation::Style;
use torpor_criu::image::{Format, ImageWriter, Limits};

const LIMITS: Limits = Limits { message: 1 << 16, payload: 1 << 16, entries: 1 << 8 };

fuzz_target!(|input: &[u8]| {
    let [choice, kind, body @ ..] = input else { return };
    if choice % 2 == 1 {
        let Ok(json) = serde_json::from_slice::<Json>(&input[1..]) else { return };
        let Ok(image) = encode(&json, Vec::new()) else { return };
        round_trip(&image);
        return;
    }
    let Some(format) = Format::all().nth(usize::from(*kind) % Format::all().count()) else { return };
    let Ok(writer) = ImageWriter::new(format.kind, Vec::new()) else { return };
    round_trip(&[writer.into_inner(), body.to_vec()].concat());
});

fn round_trip(image: &[u8]) {
    for (style, layout) in [(Style::Plain, Layout::Line), (Style::Pretty, Layout::Lines)] {
        let Some(text) = decoded(image, style, Payloads::Whole, layout) else { return };
        let json: Json = serde_json::from_slice(&text).expect("what is written is JSON");
        let again = encode(&json, Vec::new()).expect("what was decoded can be encoded");
        assert_eq!(again, image, "{}", String::from_utf8_lossy(&text));
        assert!(decoded(image, style, Payloads::Measured, layout).is_some());
    }
}

fn decoded(image: &[u8], style: Style, payloads: Payloads, layout: Layout) -> Option<Vec<u8>> {
    let mut decoder = Decoder::new(image, style, payloads, LIMITS).ok()?;
    let mut text = Vec::new();
    write_json(&mut decoder, layout, &mut text).ok()?;
    Some(text)
}
