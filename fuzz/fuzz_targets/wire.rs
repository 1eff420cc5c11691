//! Messages at the level of the wire: untouched fields stay, a changed one reads back.
#![no_main]

use libfuzzer_sys::fuzz_target;
use torpor_criu::wire::{Message, WireError};

fuzz_target!(|input: (u8, u64, &[u8])| {
    let (number, value, bytes) = input;
    let number = u32::from(number % 31) + 1;
    let Ok(mut message) = Message::parse(bytes) else { return };
    assert_eq!(message.encode(), bytes);

    let untouched = message.edit(number, |nested| {
        let _ = nested.varints(number);
        Ok::<_, WireError>(())
    });
    if untouched.is_ok() {
        assert_eq!(message.encode(), bytes);
    }

    message.set_varints(number, &[value, 1]);
    let encoded = message.encode();
    let again = Message::parse(&encoded).expect("what was written can be read");
    assert_eq!(again.varints(number), Ok(vec![value, 1]));

    message.set_varint(number, value);
    let encoded = message.encode();
    let again = Message::parse(&encoded).expect("what was written can be read");
    assert_eq!(again.varint(number), Ok(Some(value)));
});
