//! Keeps resets away from connections on the loopback device while CRIU restores them.
//!
//! To restore what a half-closed connection received, CRIU sends it the end by a packet of its own (`soccr/soccr.c`,
//! `send_fin`). The connection answers to its other end, which may not be restored yet; then the kernel answers for that
//! with a reset, and both are lost. So resets are dropped meanwhile. Who gets none asks again later.
//!
//! The rule stands in a table with an owner (Linux 5.12): it goes with our socket, however we end. Attributes are those
//! of `include/uapi/linux/netfilter/nf_tables.h`.

use std::io;
use std::os::fd::OwnedFd;

use rustix::net::SendFlags;

use super::{
    ACKNOWLEDGE, ANY, BATCH_BEGIN, BATCH_END, ERROR, INET, NAME, NEWTABLE, REQUEST, SUBSYSTEM, attribute,
    bytes, check, connect, message, messages, receive,
};
use crate::process_tree;

const CHAIN: &[u8] = b"resets";
const NEWCHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEWRULE: u16 = SUBSYSTEM << 8 | 6;
const CREATE: u16 = 0x400;
/// `NLA_F_NESTED`.
const NESTED: u16 = 0x8000;
/// `NFT_TABLE_F_OWNER`.
const OWNER: u32 = 2;
/// `NF_INET_LOCAL_OUT`.
const OUTPUT: u32 = 3;
/// The register that expressions hand values on in, `NFT_REG_1`, and that of the verdict.
const REGISTER: u32 = 1;
const VERDICT: u32 = 0;
/// Keys of `meta`.
const DEVICE: u32 = 5;
const PROTOCOL: u32 = 16;
/// Operators of `cmp`.
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;
/// The loopback device is the first of every network namespace.
const LOOPBACK: u32 = 1;
const TCP: u8 = 6;
/// `NFT_PAYLOAD_TRANSPORT_HEADER`, and where TCP has its flags.
const TRANSPORT: u32 = 2;
const FLAGS: u32 = 13;
const RESET: u8 = 4;

/// As long as it lives, no reset arrives over the loopback device of this network namespace.
#[derive(Debug)]
pub struct NoResets {
    _owner: OwnedFd,
}

impl NoResets {
    /// Begins it.
    ///
    /// # Errors
    /// The kernel has no nftables or is older than 5.12, or `CAP_NET_ADMIN` is missing.
    pub fn begin() -> io::Result<NoResets> {
        let socket = connect()?;
        rustix::net::send(&socket, &batch(table().as_bytes()), SendFlags::empty())?;
        let answer = receive(&socket)?;
        for (kind, body) in messages(&answer) {
            if kind == ERROR {
                check(body)?;
            }
        }
        Ok(NoResets { _owner: socket })
    }
}

/// A name that nobody else has in a network that containers of a pod share. Not with CRIU's prefix, or it would be taken
/// for a lock.
fn table() -> String {
    let pid = std::process::id();
    format!("torpor-restore-{pid}-{}", process_tree::started(pid.cast_signed()).unwrap_or(0))
}

fn batch(table_name: &[u8]) -> Vec<u8> {
    let (create, last) = (REQUEST | CREATE, REQUEST | CREATE | ACKNOWLEDGE);
    let table = [attribute(NAME, table_name), number(2, OWNER)].concat();
    let hook = nested(4, &[number(1, OUTPUT), number(2, 0)]);
    let chain = [attribute(1, table_name), attribute(3, CHAIN), hook, attribute(7, b"filter")].concat();
    let rule = [attribute(1, table_name), attribute(2, CHAIN), nested(4, &drop_resets())].concat();
    [
        message(BATCH_BEGIN, REQUEST, 1, ANY, SUBSYSTEM, &[]),
        message(NEWTABLE, create, 2, INET, 0, &table),
        message(NEWCHAIN, create, 3, INET, 0, &chain),
        message(NEWRULE, last, 4, INET, 0, &rule),
        message(BATCH_END, REQUEST, 5, ANY, SUBSYSTEM, &[]),
    ]
    .concat()
}

/// Out by the loopback device, TCP, with the flag for a reset: dropped.
fn drop_resets() -> Vec<Vec<u8>> {
    let meta = |key| expression(b"meta", &[number(1, REGISTER), number(2, key)]);
    let compare = |operator, value: &[u8]| {
        expression(b"cmp", &[number(1, REGISTER), number(2, operator), nested(3, &[bytes(1, value)])])
    };
    let flags = [number(1, REGISTER), number(2, TRANSPORT), number(3, FLAGS), number(4, 1)];
    let mask = [
        number(1, REGISTER),
        number(2, REGISTER),
        number(3, 1),
        nested(4, &[bytes(1, &[RESET])]),
        nested(5, &[bytes(1, &[0])]),
    ];
    // The code of the verdict is 0: drop.
    let verdict = nested(2, &[nested(2, &[number(1, 0)])]);
    vec![
        meta(DEVICE),
        compare(EQUAL, &LOOPBACK.to_ne_bytes()),
        meta(PROTOCOL),
        compare(EQUAL, &[TCP]),
        expression(b"payload", &flags),
        expression(b"bitwise", &mask),
        compare(NOT_EQUAL, &[0]),
        expression(b"immediate", &[number(1, VERDICT), verdict]),
    ]
}

/// An expression of a rule, as an element of a list.
fn expression(name: &[u8], attributes: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, attributes)])
}

fn nested(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    bytes(kind | NESTED, &attributes.concat())
}

fn number(kind: u16, number: u32) -> Vec<u8> {
    bytes(kind, &number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::time::Duration;

    use super::super::tests::alone;
    use super::*;

    #[test]
    fn nobody_is_refused_on_the_loopback_device_meanwhile() {
        alone(|| {
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            if !up.is_ok_and(|up| up.success()) {
                return eprintln!("SKIPPED: no ip here");
            }
            let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
            let connect = |to: SocketAddr| {
                TcpStream::connect_timeout(&to, Duration::from_millis(20)).unwrap_err().kind()
            };
            let resets = match NoResets::begin() {
                Ok(resets) => resets,
                Err(error) => return eprintln!("SKIPPED: no table with an owner here: {error}"),
            };
            assert_eq!(connect(nobody), io::ErrorKind::TimedOut);
            drop(resets);
            assert_eq!(connect(nobody), io::ErrorKind::ConnectionRefused);
        });
    }
}
