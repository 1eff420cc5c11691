//! What the source of a migration must know of its target, and shows in return: keys that are made for one migration.
//!
//! Both sides have an Ed25519 key and no certificate around it (RFC 7250). The ticket holds the fingerprint of the target's public
//! key, and the source's secret one.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustls::crypto::ring::sign::any_eddsa_type;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};

use super::MigrationError;

/// What a ticket begins with: its form.
const PREFIX: &str = "torpor1-";
/// Bytes of a secret key, and of a fingerprint.
const LENGTH: usize = 32;
/// What comes before the secret key in its document (RFC 8410, section 7).
const PKCS8: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A secret key.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; LENGTH]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// A new one.
    ///
    /// # Errors
    /// The kernel gives no random bytes.
    pub fn new() -> Result<Secret, MigrationError> {
        let mut bytes = [0; LENGTH];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
            .map_err(|errno| MigrationError::Random(errno.into()))?;
        Ok(Secret(bytes))
    }

    /// The key as TLS has it.
    pub(super) fn key(&self) -> Result<Arc<CertifiedKey>, MigrationError> {
        let mut document = PKCS8.to_vec();
        document.extend(self.0);
        let key = any_eddsa_type(&PrivatePkcs8KeyDer::from(document))?;
        let public = public(&*key)?;
        Ok(Arc::new(CertifiedKey::new(vec![CertificateDer::from(public)], key)))
    }

    /// What others know it by.
    ///
    /// # Errors
    /// The key cannot be used.
    pub fn fingerprint(&self) -> Result<Fingerprint, MigrationError> {
        Ok(Fingerprint::of(self.key()?.cert.first().map_or(&[], |public| public.as_ref())))
    }
}

/// The document of a public key.
fn public(key: &dyn SigningKey) -> Result<Vec<u8>, MigrationError> {
    let public = key.public_key().ok_or(rustls::Error::General("the key has no public part".to_owned()))?;
    Ok(public.to_vec())
}

/// The hash of a public key's document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; LENGTH]);

impl Fingerprint {
    /// Of a public key's document.
    #[must_use]
    pub fn of(public: &[u8]) -> Fingerprint {
        Fingerprint(*blake3::hash(public).as_bytes())
    }
}

/// What the source gets from the target, by hand. Whoever has it can send a container to the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// The target's key.
    pub target: Fingerprint,
    /// The source's own.
    pub source: Secret,
}

/// Words that are no ticket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this is no ticket: one begins with {PREFIX} and has {} digits behind that", 4 * LENGTH)]
pub struct NotATicket;

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PREFIX)?;
        self.target.0.iter().chain(&self.source.0).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Ticket {
    type Err = NotATicket;

    fn from_str(text: &str) -> Result<Ticket, NotATicket> {
        let digits = text.trim().strip_prefix(PREFIX).ok_or(NotATicket)?;
        if digits.len() != 4 * LENGTH || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(NotATicket);
        }
        let byte = |place: usize| u8::from_str_radix(&digits[2 * place..2 * place + 2], 16);
        let mut bytes = [0; 2 * LENGTH];
        for (place, slot) in bytes.iter_mut().enumerate() {
            *slot = byte(place).map_err(|_| NotATicket)?;
        }
        let half = |from: usize| std::array::from_fn(|place| bytes[from + place]);
        Ok(Ticket { target: Fingerprint(half(0)), source: Secret(half(LENGTH)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_passed_on_as_text() {
        let (target, source) = (Secret::new().unwrap(), Secret::new().unwrap());
        let ticket = Ticket { target: target.fingerprint().unwrap(), source };
        let text = ticket.to_string();
        assert_eq!(format!(" {text}\n").parse(), Ok(ticket.clone()));
        assert_ne!(target.fingerprint().unwrap(), ticket.source.fingerprint().unwrap());
        assert!(!format!("{ticket:?}").contains(&text[text.len() - 64..]), "secrets are not printed");
        for text in ["", "torpor1-", &text[1..], &text[..text.len() - 1], &text.replace('1', "x")] {
            assert_eq!(text.parse::<Ticket>(), Err(NotATicket), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "(torpor1-)?.{0,140}") {
            let _ = text.parse::<Ticket>();
        }
    }
}
