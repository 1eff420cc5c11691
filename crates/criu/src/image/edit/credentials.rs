//! What tasks may do, made less before they are restored.

use super::edit_entries;
use crate::image::credential::Creds;
use crate::image::{ImageError, Kind};
use crate::wire::{Message, WireError};

/// Numbers of the fields that are changed (CRIU `images/core.proto`, `images/creds.proto`).
mod field {
    pub(super) const THREAD: u32 = 5;
    pub(super) const CREDENTIALS: u32 = 10;
    pub(super) const INHERITABLE: u32 = 9;
    pub(super) const PERMITTED: u32 = 10;
    pub(super) const EFFECTIVE: u32 = 11;
    pub(super) const BOUNDING: u32 = 12;
    pub(super) const AMBIENT: u32 = 19;
}

/// A `core-TID.img` in which the task has, of all capabilities, only those that are `allowed`, a bit each: in none of its five sets are
/// others left, so that no program that it executes gets them either.
///
/// # Errors
///
/// When the image is damaged.
pub fn limit_capabilities(core: &[u8], allowed: u64) -> Result<Vec<u8>, ImageError> {
    edit_entries(Kind::Core, core, |entry| {
        entry.edit(field::THREAD, |thread| {
            thread.edit(field::CREDENTIALS, |credentials| limit(credentials, allowed)).map(drop)
        })?;
        Ok(())
    })
}

fn limit(credentials: &mut Message<'_>, allowed: u64) -> Result<(), WireError> {
    let sets = <Creds as prost::Message>::decode(credentials.encode().as_slice())
        .map_err(|_| WireError::Mismatch { number: field::CREDENTIALS, expected: "credentials" })?;
    for (number, words) in [
        (field::INHERITABLE, sets.cap_inh),
        (field::PERMITTED, sets.cap_prm),
        (field::EFFECTIVE, sets.cap_eff),
        (field::BOUNDING, sets.cap_bnd),
        (field::AMBIENT, sets.cap_amb),
    ] {
        let allowed =
            (0..).map(|word: u32| allowed.checked_shr(32 * word).unwrap_or(0) & u64::from(u32::MAX));
        let limited: Vec<u64> =
            words.iter().zip(allowed).map(|(word, allowed)| u64::from(*word) & allowed).collect();
        // One that an older CRIU left out stays out.
        if !limited.is_empty() {
            credentials.set_varints(number, &limited);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::image::framing::tests::image;
    use crate::image::process::{Core, Thread};
    use crate::image::read_all;

    #[test]
    fn capabilities_that_are_not_allowed_are_in_no_set() {
        const NET_RAW: u32 = 1 << 13;
        const BPF: u32 = 1 << (39 - 32);
        let all = vec![u32::MAX, u32::MAX];
        let creds = Creds {
            uid: 7,
            cap_inh: vec![0, 0],
            cap_prm: all.clone(),
            cap_eff: all.clone(),
            cap_bnd: all,
            no_new_privs: Some(1),
            ..Creds::default()
        };
        let core = Core {
            mtype: 1,
            thread_core: Some(Thread { creds: Some(creds.clone()), ..Thread::default() }),
            ..Core::default()
        };
        let mut encoded = core.encode_to_vec();
        // A field that nobody here knows.
        encoded.extend([0xfa, 0x3f, 3, b'n', b'e', b'w']);
        let limited = limit_capabilities(
            &image(Kind::Core, &[(&encoded, b"")]),
            u64::from(NET_RAW) | u64::from(BPF) << 32,
        );
        let limited = limited.unwrap();
        let few = vec![NET_RAW, BPF];
        let expected = Creds { cap_prm: few.clone(), cap_eff: few.clone(), cap_bnd: few, ..creds };
        let read = read_all::<Core>(limited.as_slice()).unwrap();
        assert_eq!(read[0].thread_core.as_ref().unwrap().creds.as_ref(), Some(&expected));
        assert!(limited.ends_with(b"new"));
        // A zombie has no credentials.
        let dead = image(Kind::Core, &[(&Core { mtype: 1, ..Core::default() }.encode_to_vec(), b"")]);
        assert_eq!(limit_capabilities(&dead, 0).unwrap(), dead);
        assert!(limit_capabilities(b"nothing", 0).is_err());
    }
}
