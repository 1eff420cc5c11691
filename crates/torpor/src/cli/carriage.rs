//! A registry as the carrier of a container that moves.

use std::collections::BTreeMap;
use std::path::Path;

use torpor_archive::oci::{self, Digest, Image, OciError, Origin};
use torpor_archive::registry::{Deleted, Reference, RegistryError, Remote};
use torpor_node::migration::carrier::{Carrier, CarrierError, Claim, Parcel, Published};

use super::failure::Failure;
use super::{Exit, depot};

/// For the source.
#[derive(Debug)]
pub(super) struct Outward {
    remote: Remote,
    parcel: oci::Parcel,
}

/// For the target: what was found, whatever comes under its name later.
#[derive(Debug)]
pub(super) struct Inward {
    name: String,
    remote: Remote,
    image: Image,
}

fn failed(error: OciError) -> CarrierError {
    CarrierError { remedy: error.remedy(), source: Box::new(error) }
}

fn refused(message: String, remedy: &str) -> CarrierError {
    CarrierError { remedy: remedy.to_owned(), source: message.into() }
}

fn deletes_nothing(host: &str) -> CarrierError {
    refused(
        format!("{host} deletes nothing, so that nobody can tell whether a container was taken before"),
        "let it delete images (`storage: delete: enabled: true` in the registry's configuration), or move it by a store",
    )
}

impl Outward {
    pub(super) fn new(reference: Reference, access: &depot::Args) -> anyhow::Result<Outward> {
        Ok(Outward { remote: access.remote(&reference)?, parcel: oci::Parcel::default() })
    }
}

impl Carrier for Outward {
    fn place(&self) -> String {
        self.remote.reference().to_string()
    }

    fn ready(&mut self) -> Result<(), CarrierError> {
        match self.remote.top() {
            Err(OciError::Registry(RegistryError::NotFound { .. })) => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => {
                return Err(refused(
                    "there is an image of that name".to_owned(),
                    "use a tag that is for this container alone, or delete that image",
                ));
            }
        }
        // Asked about nothing that there is, a registry says whether it would.
        match self.remote.delete(&Digest::of(b"no such image")).map_err(OciError::from).map_err(failed)? {
            Deleted::Never => Err(deletes_nothing(self.remote.reference().host())),
            Deleted::Now | Deleted::NotThere => Ok(()),
        }
    }

    fn send(&mut self, directory: &Path, names: &[String]) -> Result<(), CarrierError> {
        self.parcel.add(directory, names, &mut self.remote).map_err(failed)
    }

    fn publish(&mut self, said: &BTreeMap<String, String>) -> Result<Published, CarrierError> {
        match self.parcel.publish(said, &mut self.remote) {
            Ok(_) => Ok(Published::Yes),
            // It may have been done all the same.
            Err(OciError::Registry(RegistryError::Unreachable { .. })) => {
                let found =
                    Image::for_here(&self.remote).is_ok_and(|image| image.manifest.annotations == *said);
                Ok(if found { Published::Yes } else { Published::Unknown })
            }
            Err(error) => Err(failed(error)),
        }
    }
}

impl Inward {
    /// What is there under a name: `docker://NAME`.
    pub(super) fn find(place: &str, access: &depot::Args) -> anyhow::Result<Inward> {
        let depot::Place::Registry(reference) = depot::Place::parse(place, |_| false)? else {
            let message = format!("{place} is no image in a registry");
            return Err(Failure::new(Exit::Usage, message, "write docker://HOST/REPOSITORY[:TAG]").into());
        };
        let remote = access.remote(&reference)?;
        let image = Image::for_here(&remote)?;
        let pinned = format!("{}/{}@{}", reference.host(), reference.repository(), image.descriptor.digest);
        Ok(Inward { name: reference.to_string(), remote: access.remote(&pinned.parse()?)?, image })
    }
}

impl Parcel for Inward {
    fn place(&self) -> String {
        self.name.clone()
    }

    fn said(&self) -> Result<BTreeMap<String, String>, CarrierError> {
        Ok(self.image.manifest.annotations.clone())
    }

    fn unpack(&self, directory: &Path) -> Result<(), CarrierError> {
        oci::unpack(&self.remote, &directory.join("image"), directory).map_err(failed)
    }

    fn claim(&self) -> Result<Claim, CarrierError> {
        match self.remote.delete(&self.image.descriptor.digest).map_err(OciError::from).map_err(failed)? {
            Deleted::Now => Ok(Claim::Ours),
            Deleted::NotThere => Ok(Claim::Others),
            Deleted::Never => Err(deletes_nothing(self.remote.reference().host())),
        }
    }
}
