//! A container that Docker or Podman makes, under the runtime `torpor`, so that it is the engine's as any other.

use std::time::Duration;

use super::{HalfMade, Held, Made, Maker, Sent};
use crate::container::ContainerError;
use crate::container::adoption::{Adopter, AdoptionError, Outline, Wanted};
use crate::migration::MigrationError;
use crate::migration::gate::{self, Gate};
use crate::migration::message::Offer;
use crate::oci_runtime::settings::Settings;

/// The file in which the engine notes the container's ID, in the directory of the reception.
pub(super) const ID: &str = "container";
/// How often it is looked whether the engine has given up.
const LOOK: Duration = Duration::from_millis(50);

/// An engine that a container goes on in.
#[derive(Debug, Clone, Copy)]
pub struct Engine<'a> {
    /// The engine; by default the one it has at the source.
    pub adopter: Option<Adopter>,
    /// The image, where it is not the one it has at the source.
    pub image: Option<&'a str>,
    /// Further flags of the engine's `create`.
    pub flags: &'a [String],
    /// What `torpor-runtime` goes by.
    pub settings: &'a Settings,
}

impl<'a> Engine<'a> {
    /// Whether the engine could make a container, by what is known before it is frozen.
    pub(super) fn could_take(
        &self,
        name: Option<&str>,
        offer: &Offer,
    ) -> Result<ByEngine<'a>, MigrationError> {
        let adopter = self.adopter.or_else(|| Adopter::of(&offer.engine));
        let adopter = adopter.ok_or_else(|| MigrationError::NoBundle { id: offer.id.clone() })?;
        let wanted = Wanted { name, image: self.image, flags: self.flags };
        let image = adopter.could_make(&offer.outline, &wanted, "the container")?;
        if let Some(name) = name.filter(|name| name.starts_with('-')) {
            return Err(MigrationError::Nonsense { peer: name.to_owned(), what: "the container's name" });
        }
        if let Some(name) = name
            && adopter.has(name)?
        {
            return Err(AdoptionError::Exists { adopter, name: name.to_owned() }.into());
        }
        Ok(ByEngine {
            engine: *self,
            adopter,
            name: name.map(str::to_owned),
            outline: offer.outline.clone(),
            image,
        })
    }
}

/// The engine makes it.
pub(super) struct ByEngine<'a> {
    engine: Engine<'a>,
    adopter: Adopter,
    name: Option<String>,
    outline: Outline,
    image: String,
}

impl Maker for ByEngine<'_> {
    fn make(&self, sent: &Sent<'_>) -> Result<Made, MigrationError> {
        let path = sent.place.join(gate::MANIFEST);
        std::fs::write(&path, sent.manifest).map_err(ContainerError::place(&path))?;
        let broken = |source| MigrationError::Gate { source };
        let gate = Gate::at(sent.place).map_err(broken)?;
        HalfMade::Engine { engine: self.adopter }.note(sent.place)?;
        let wanted =
            Wanted { name: self.name.as_deref(), image: self.engine.image, flags: self.engine.flags };
        let annotation = (gate::ANNOTATION, sent.token);
        let id_file = sent.place.join(ID);
        let adopted = self.adopter.create(&self.outline, &wanted, &self.image, annotation, Some(&id_file))?;
        let mut starting = adopted.begin(&sent.place.join("said"))?;
        loop {
            if let Some(guest) = gate.knock(LOOK).map_err(broken)? {
                let (id, pid) = (adopted.id().to_owned(), guest.pid);
                return Ok(Made { id, pid, held: Held::Gate { guest, starting } });
            }
            if starting.is_done()? {
                // It began anew, and asked nobody.
                return Err(MigrationError::Anew { adopter: self.adopter });
            }
        }
    }
}
