//! The network of a restored container: the pod's, whatever the container had where it was.
//!
//! CRIU takes a network from somebody else where images say so, and else makes one, which would have nothing in it that the pod has.

use std::path::Path;

use torpor_criu::image::namespace::NetworkNamespace;
use torpor_criu::image::process::{Ids, Inventory, TreeEntry};
use torpor_criu::image::{Kind, Name, edit};

use super::create::Network;
use super::images::entries;
use crate::container::ContainerError;

/// What both runtimes call a network that a container joins (runc, `libcontainer/criu_linux.go`; crun, `src/libcrun/criu.c`).
const JOINED: &str = "extRootNetNS";

/// Has images take the network that the container is to be in.
///
/// # Errors
/// They take one from somebody else, and there is none; or one cannot be read or written.
pub(super) fn fit(images: &Path, network: &Network) -> Result<(), ContainerError> {
    let listed = std::fs::read_dir(images).map_err(ContainerError::place(images))?;
    let mut paths = Vec::new();
    for entry in listed {
        let entry = entry.map_err(ContainerError::place(images))?;
        let name = Name::parse(&entry.file_name().to_string_lossy());
        if name.is_some_and(|name| name.kind == Kind::NetworkNamespace) {
            paths.push(entry.path());
        }
    }
    let path = match paths.as_slice() {
        [path] => path.clone(),
        // runc has CRIU leave a network out that has nothing in it.
        [] => match own(images)? {
            Some(id) => images.join(Kind::NetworkNamespace.file_name(u64::from(id))),
            None => return Ok(()),
        },
        // One is the container's, and the others are in it.
        _ => return Ok(()),
    };
    let taken = match path.exists() {
        true => entries::<NetworkNamespace>(&path)?.iter().any(|namespace| namespace.ext_key.is_some()),
        false => false,
    };
    match network {
        Network::Joined(_) if !taken => {
            let image = edit::external_network(JOINED).map_err(ContainerError::place(&path))?;
            std::fs::write(&path, image).map_err(ContainerError::place(&path))
        }
        Network::New if taken => Err(ContainerError::NoNetwork),
        _ => Ok(()),
    }
}

/// The number of the network that the first process was in; none where it was the machine's.
fn own(images: &Path) -> Result<Option<u32>, ContainerError> {
    let inventory: Vec<Inventory> = entries(&images.join("inventory.img"))?;
    let machines = inventory.into_iter().find_map(|entry| entry.root_ids?.net_ns_id);
    let Some(first) = entries::<TreeEntry>(&images.join("pstree.img"))?.into_iter().next() else {
        return Ok(None);
    };
    let path = images.join(format!("ids-{}.img", first.pid));
    if !path.exists() {
        return Ok(None);
    }
    let own = entries::<Ids>(&path)?.into_iter().find_map(|ids| ids.net_ns_id);
    Ok(own.filter(|own| Some(*own) != machines))
}

#[cfg(test)]
mod tests {
    use torpor_criu::image::ImageWriter;

    use super::*;

    fn images(own: usize) -> tempfile::TempDir {
        let place = tempfile::tempdir().unwrap();
        for number in 0..own {
            let mut image = ImageWriter::new(Kind::NetworkNamespace, Vec::new()).unwrap();
            image.entry(&[], &[]).unwrap();
            std::fs::write(place.path().join(format!("netns-{number}.img")), image.into_inner()).unwrap();
        }
        place
    }

    fn key(place: &tempfile::TempDir) -> Option<String> {
        entries::<NetworkNamespace>(&place.path().join("netns-0.img")).unwrap()[0].ext_key.clone()
    }

    #[test]
    fn in_a_pod_it_is_the_pods() {
        let pod = Network::Joined("/run/netns/pod".into());
        let place = images(1);
        fit(place.path(), &Network::New).unwrap();
        assert_eq!(key(&place), None);
        fit(place.path(), &pod).unwrap();
        assert_eq!(key(&place).as_deref(), Some(JOINED));
        fit(place.path(), &pod).unwrap();
        assert!(matches!(fit(place.path(), &Network::New), Err(ContainerError::NoNetwork)));
    }

    #[test]
    fn others_are_left_alone() {
        let pod = Network::Joined("/run/netns/pod".into());
        let place = images(2);
        fit(place.path(), &pod).unwrap();
        assert_eq!(key(&place), None);
    }
}
