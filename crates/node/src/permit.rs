//! Signed permission to restore a checkpoint in another namespace than it was made in.
//!
//! A permit names one generation by its manifest, which names all it holds by digests, the namespaces, and until when it holds. It is
//! signed by Ed25519 (RFC 8032) with a key of whoever may say so; a node's configuration names the keys that it believes. It is
//! kept with the generation in the store ([`Signed`]), and nobody who can only write the store can make one.

mod key;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use torpor_store::ManifestId;
use torpor_store::lineage::Signed;
use torpor_store::name::Name;

pub use key::{KeyPairError, PublicKey, SecretKey};

/// The version of a permit's form.
const VERSION: u32 = 1;
/// What goes before the statement where it is signed, so that a signature of something else is none of a permit.
const CONTEXT: &[u8] = b"torpor permit\n";

/// What is permitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Permit {
    version: u32,
    /// The checkpoint's name, for people.
    pub name: Name,
    /// The generation, for people.
    pub generation: u64,
    /// Its manifest.
    pub manifest: ManifestId,
    /// Where it may be restored.
    pub namespaces: Vec<String>,
    /// From when on it may not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

/// Why a permit permits nothing here.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection {
    /// No key of those that are believed has signed it.
    #[error("a permit is signed by none of the keys that this node trusts")]
    Unknown,
    /// It has a form of another version, or none.
    #[error("a permit cannot be understood")]
    Form,
    /// It is about something else.
    #[error("a permit is for another checkpoint, {name}@{generation}")]
    Other {
        /// Its name.
        name: Name,
        /// The generation.
        generation: u64,
    },
    /// It is for other namespaces.
    #[error("a permit is for namespaces {} only", .0.join(", "))]
    Namespace(Vec<String>),
    /// Its time is over.
    #[error("a permit expired at {0}")]
    Expired(Timestamp),
}

impl Permit {
    /// A permit.
    #[must_use]
    pub fn new(
        name: Name,
        generation: u64,
        manifest: ManifestId,
        namespaces: Vec<String>,
        expires: Option<Timestamp>,
    ) -> Permit {
        Permit { version: VERSION, name, generation, manifest, namespaces, expires }
    }

    /// The permit as it is kept.
    #[must_use]
    pub fn sign(&self, key: &SecretKey) -> Signed {
        // A value of texts and numbers is always written.
        let statement = serde_json::to_string(self).unwrap_or_default();
        let signature = STANDARD.encode(key.sign(&signed_bytes(&statement)));
        Signed { statement, signature }
    }

    /// What `signed` permits about `manifest` in `namespace`, where one of the keys has signed it.
    ///
    /// # Errors
    /// It permits nothing of that.
    pub fn verify(
        signed: &Signed,
        trusted: &[PublicKey],
        manifest: ManifestId,
        namespace: &str,
        now: Timestamp,
    ) -> Result<Permit, Objection> {
        // Nothing of a statement is read before its signature is known to be good.
        let signature = STANDARD.decode(&signed.signature).map_err(|_| Objection::Form)?;
        let bytes = signed_bytes(&signed.statement);
        if !trusted.iter().any(|key| key.verifies(&bytes, &signature)) {
            return Err(Objection::Unknown);
        }
        let permit: Permit = serde_json::from_str(&signed.statement).map_err(|_| Objection::Form)?;
        if permit.version != VERSION {
            return Err(Objection::Form);
        }
        if permit.manifest != manifest {
            return Err(Objection::Other { name: permit.name, generation: permit.generation });
        }
        if !permit.namespaces.iter().any(|granted| granted == namespace) {
            return Err(Objection::Namespace(permit.namespaces));
        }
        match permit.expires {
            Some(expires) if expires <= now => Err(Objection::Expired(expires)),
            _ => Ok(permit),
        }
    }
}

fn signed_bytes(statement: &str) -> Vec<u8> {
    [CONTEXT, statement.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(digit: char) -> ManifestId {
        digit.to_string().repeat(64).parse().unwrap()
    }

    #[test]
    fn a_permit_holds_for_its_checkpoint_its_namespaces_and_its_time_and_by_its_key() {
        let key = SecretKey::generate().unwrap();
        let other = SecretKey::generate().unwrap();
        let expires: Timestamp = "2030-01-01T00:00:00Z".parse().unwrap();
        let (before, after) =
            ("2029-12-31T00:00:00Z".parse().unwrap(), "2030-01-02T00:00:00Z".parse().unwrap());
        let name: Name = "shop/web".parse().unwrap();
        let namespaces = vec!["test".to_owned(), "stage".to_owned()];
        let permit = Permit::new(name.clone(), 3, manifest('a'), namespaces.clone(), Some(expires));
        let signed = permit.sign(&key);
        let trusted = [other.public(), key.public()];
        for (keys, checkpoint, namespace, now, expected) in [
            (&trusted[..], 'a', "test", before, Ok(())),
            (&trusted, 'a', "stage", before, Ok(())),
            (&trusted, 'a', "prod", before, Err(Objection::Namespace(namespaces))),
            (&trusted, 'a', "test", after, Err(Objection::Expired(expires))),
            (&trusted, 'b', "test", before, Err(Objection::Other { name, generation: 3 })),
            (&trusted[..1], 'a', "test", before, Err(Objection::Unknown)),
            (&[], 'a', "test", before, Err(Objection::Unknown)),
        ] {
            let verified = Permit::verify(&signed, keys, manifest(checkpoint), namespace, now);
            assert_eq!(verified.map(drop), expected, "{checkpoint} {namespace} {now}");
        }
        let forever = Permit { expires: None, ..permit }.sign(&key);
        assert!(Permit::verify(&forever, &trusted, manifest('a'), "test", after).is_ok());
    }

    #[test]
    fn a_statement_that_was_changed_is_signed_by_nobody() {
        let key = SecretKey::generate().unwrap();
        let permit =
            Permit::new("web".parse().unwrap(), 1, manifest('a'), vec!["test".into()], None).sign(&key);
        let verify = |signed: &Signed| {
            Permit::verify(signed, &[key.public()], manifest('a'), "prod", Timestamp::now()).unwrap_err()
        };
        let changed = permit.statement.replace("test", "prod");
        assert_eq!(verify(&Signed { statement: changed, ..permit.clone() }), Objection::Unknown);
        // A signature of the bare words, without what says that it is about a permit.
        let signature = STANDARD.encode(key.sign(permit.statement.as_bytes()));
        assert_eq!(verify(&Signed { signature, ..permit.clone() }), Objection::Unknown);
        assert_eq!(verify(&Signed { signature: "!".into(), ..permit }), Objection::Form);
    }

    proptest::proptest! {
        #[test]
        fn nothing_that_is_signed_wrongly_permits_anything(statement: String, signature: String) {
            let key = SecretKey::generate().unwrap();
            let signed = Signed { statement, signature };
            let verified = Permit::verify(&signed, &[key.public()], manifest('a'), "test", Timestamp::UNIX_EPOCH);
            proptest::prop_assert!(verified.is_err());
        }
    }
}
