//! Addresses of network namespaces, as `ip addr save` wrote them: a magic, then messages of rtnetlink(7) (iproute2
//! `ip/ipaddress.c`).

use std::net::IpAddr;

/// The magic of such a file.
const MAGIC: u32 = 0x4736_1222;
/// The message that tells of an address.
const NEW_ADDRESS: u16 = 20;
/// Bytes of a message's head, and of what tells of an address before its attributes.
const HEAD: usize = 16;
const ADDRESS_HEAD: usize = 8;

/// An address of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// The device's number.
    pub(super) device: u32,
    /// The address with the length of its prefix, as `10.0.0.2/24`.
    pub(super) address: String,
}

/// All addresses in a file, in its order. What cannot be understood ends it.
pub(super) fn addresses(file: &[u8]) -> Vec<Found> {
    let mut found = Vec::new();
    let Some((magic, mut rest)) = file.split_first_chunk() else { return found };
    if u32::from_le_bytes(*magic) != MAGIC {
        return found;
    }
    while let Some((length, kind)) = head(rest) {
        let Some(message) = rest.get(HEAD..length) else { return found };
        if kind == NEW_ADDRESS {
            found.extend(address(message));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// A message's length with its head, and its kind.
fn head(message: &[u8]) -> Option<(usize, u16)> {
    let length = u32::from_le_bytes(*message.first_chunk()?) as usize;
    let kind = u16::from_le_bytes(*message.get(4..)?.first_chunk()?);
    (length >= HEAD).then_some((length, kind))
}

fn address(message: &[u8]) -> Option<Found> {
    let [_, prefix, ..] = *message.first_chunk::<4>()?;
    let device = u32::from_le_bytes(*message.get(4..)?.first_chunk()?);
    // Of a connection between two points the first kind is the other end, and the second its own.
    let (mut of_device, mut own) = (None, None);
    let mut rest = message.get(ADDRESS_HEAD..)?;
    while let Some([length, _, kind, _]) = rest.first_chunk::<4>() {
        let length = usize::from(*length);
        match (kind, rest.get(4..length)) {
            (1, Some(value)) => of_device = ip(value),
            (2, Some(value)) => own = ip(value),
            _ => {}
        }
        rest = rest.get(length.max(4).next_multiple_of(4)..).unwrap_or_default();
    }
    let ip = own.or(of_device)?;
    Some(Found { device, address: format!("{ip}/{prefix}") })
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(value).ok().map(IpAddr::from);
    four.or_else(|| <[u8; 16]>::try_from(value).ok().map(IpAddr::from))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let length = (HEAD + body.len()) as u32;
        [&length.to_le_bytes()[..], &kind.to_le_bytes(), &[0; 10], body].concat()
    }

    #[test]
    fn addresses_belong_to_devices() {
        let loopback =
            [&[2, 8, 0, 254, 1, 0, 0, 0][..], &[8, 0, 1, 0, 127, 0, 0, 1], &[8, 0, 2, 0, 127, 0, 0, 1]];
        let six = [&[10, 64, 0, 0, 7, 0, 0, 0][..], &[20, 0, 1, 0], &[0xfe, 0x80], &[0; 13], &[1]];
        let file = [
            MAGIC.to_le_bytes().to_vec(),
            message(NEW_ADDRESS, &loopback.concat()),
            message(3, &[0; 12]),
            message(NEW_ADDRESS, &six.concat()),
        ];
        let found = addresses(&file.concat());
        let found: Vec<_> = found.iter().map(|found| (found.device, found.address.as_str())).collect();
        assert_eq!(found, [(1, "127.0.0.1/8"), (7, "fe80::1/64")]);
    }

    proptest! {
        #[test]
        fn any_bytes_come_to_an_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = addresses(&[&MAGIC.to_le_bytes(), bytes.as_slice()].concat());
        }
    }
}
