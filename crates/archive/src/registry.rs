//! Registries: images pushed to them and pulled from them (OCI distribution specification 1.1, `spec.md`).
//!
//! A blob is uploaded in chunks that are kept until the registry has them, so that an upload goes on after a connection breaks; a
//! download goes on at the byte where it broke. Blobs of another repository of the same registry are taken over where it lets us.

use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::oci::{Depot, Descriptor, Digest, OciError, Origin, Writer};

mod challenge;
mod client;
mod credentials;
mod error;
mod reference;
mod upload;

pub use client::{Access, Client};
pub use credentials::{Credential, Credentials};
pub use error::RegistryError;
pub use reference::Reference;

use upload::Upload;

/// How often a download goes on after it broke.
const RESUMPTIONS: u32 = 8;

/// An image in a registry.
#[derive(Debug)]
pub struct Remote {
    client: Client,
}

impl Remote {
    /// The image of this name.
    ///
    /// # Errors
    /// Where certificates or credentials cannot be read.
    pub fn new(reference: Reference, access: &Access) -> Result<Self, RegistryError> {
        Ok(Self { client: Client::new(reference, access)? })
    }

    /// Its name.
    #[must_use]
    pub fn reference(&self) -> &Reference {
        self.client.reference()
    }
}

/// What a request to delete an image came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deleted {
    /// It was there, and is no more.
    Now,
    /// There is none.
    NotThere,
    /// The registry deletes nothing.
    Never,
}

impl Remote {
    /// Deletes an image, with all names that stand for it. It is asked once only: an error leaves open whether it is still there.
    ///
    /// # Errors
    /// Where the registry does not answer, or refuses.
    pub fn delete(&self, digest: &Digest) -> Result<Deleted, RegistryError> {
        self.client.delete_manifest(digest)
    }
}

impl Origin for Remote {
    fn name(&self) -> String {
        self.reference().to_string()
    }

    fn top(&self) -> Result<(Descriptor, Vec<u8>), OciError> {
        let (media_type, bytes) = self.client.manifest()?;
        let digest = Digest::of(&bytes);
        if let Some(wanted) = self.reference().digest().filter(|wanted| **wanted != digest) {
            let (place, expected) = (Origin::name(self), wanted.clone());
            return Err(OciError::Digest { place, expected, found: digest });
        }
        let size = bytes.len() as u64;
        Ok((Descriptor { media_type, digest, size, annotations: BTreeMap::new(), platform: None }, bytes))
    }

    fn open(&self, blob: &Descriptor, offset: u64) -> Result<Box<dyn Read + '_>, OciError> {
        let body = self.client.blob(&blob.digest, offset)?;
        let (digest, size) = (blob.digest.clone(), blob.size);
        Ok(Box::new(Download { client: &self.client, digest, size, at: offset, body, left: RESUMPTIONS }))
    }

    fn repository(&self) -> Option<(&str, &str)> {
        Some((self.reference().host(), self.reference().repository()))
    }
}

/// A blob that is downloaded.
struct Download<'a> {
    client: &'a Client,
    digest: Digest,
    size: u64,
    at: u64,
    body: Box<dyn Read>,
    left: u32,
}

impl Read for Download<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() || self.at >= self.size {
            return Ok(0);
        }
        loop {
            match self.body.read(into) {
                Ok(read) if read > 0 => {
                    self.at += read as u64;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // It ended early, or broke.
                broken => {
                    self.left = self.left.checked_sub(1).ok_or_else(|| match broken {
                        Err(error) => error,
                        Ok(_) => io::ErrorKind::UnexpectedEof.into(),
                    })?;
                    self.body = self.client.blob(&self.digest, self.at).map_err(io::Error::other)?;
                }
            }
        }
    }
}

impl Depot for Remote {
    fn name(&self) -> String {
        self.reference().to_string()
    }

    fn has(&mut self, blob: &Descriptor, from: Option<&dyn Origin>) -> Result<bool, OciError> {
        if self.client.has_blob(&blob.digest)? {
            return Ok(true);
        }
        let repository = from.and_then(Origin::repository);
        match repository.filter(|(host, _)| *host == self.reference().host()) {
            Some((_, repository)) if repository != self.reference().repository() => {
                Ok(self.client.mount(&blob.digest, repository)?)
            }
            _ => Ok(false),
        }
    }

    fn put(
        &mut self,
        expected: Option<&Descriptor>,
        write: &mut Writer<'_>,
    ) -> Result<(Digest, u64), OciError> {
        // The next chunks are made while one is sent.
        std::thread::scope(|scope| {
            let (mut chunks, made) = upload::chunks(self.client.chunk);
            let upload = Upload::new(&self.client);
            let sender = scope.spawn(move || upload.take(&made, expected));
            let written = write(&mut chunks);
            if written.is_ok() {
                chunks.end();
            }
            drop(chunks);
            let sent = sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            written?;
            let unended = || RegistryError::Answer { host: self.client.host(), what: "an end of the upload" };
            Ok(sent.ok_or_else(unended)?)
        })
    }

    fn publish(
        &mut self,
        manifest: &Descriptor,
        bytes: &[u8],
        _: &BTreeMap<String, String>,
    ) -> Result<(), OciError> {
        Ok(self.client.put_manifest(&manifest.media_type, bytes, self.reference().tag_or_digest())?)
    }

    fn document(&mut self, descriptor: &Descriptor, bytes: &[u8]) -> Result<(), OciError> {
        if descriptor.media_type.contains("manifest") {
            return Ok(self.client.put_manifest(
                &descriptor.media_type,
                bytes,
                &descriptor.digest.to_string(),
            )?);
        }
        self.put(Some(descriptor), &mut |output| {
            output
                .write_all(bytes)
                .map_err(|source| OciError::Output { entry: descriptor.digest.to_string(), source })
        })?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), OciError> {
        Ok(())
    }
}
