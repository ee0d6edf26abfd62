//! How volumes of CSI drivers are named, by the attach-detach controller and by nodes alike (`pkg/volume/csi`,
//! `pkg/volume/util`).

use crate::digest::sha256_hex;
use api::prelude::*;

/// What the names in `status.volumesAttached` and `status.volumesInUse` of a Node begin with.
const PREFIX: &str = "kubernetes.io/csi/";
/// Between driver and handle (`volNameSep`).
const SEPARATOR: char = '^';

/// A volume as its driver knows it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CsiVolume {
    /// The driver's name.
    pub driver: String,
    /// The driver's name for the volume.
    pub handle: String,
}

impl CsiVolume {
    /// What stands behind a PersistentVolume, if a CSI driver does.
    pub fn of(volume: &PersistentVolume) -> Option<Self> {
        let source = volume.spec.as_ref()?.csi.as_ref()?;
        Some(CsiVolume { driver: source.driver.clone(), handle: source.volume_handle.clone() })
    }

    /// The name by which Nodes tell of it (`GetUniqueVolumeName`).
    pub fn unique_name(&self) -> String {
        format!("{PREFIX}{}{SEPARATOR}{}", self.driver, self.handle)
    }

    /// The reverse of [`Self::unique_name`].
    pub fn parse(unique_name: &str) -> Option<Self> {
        let (driver, handle) = unique_name.strip_prefix(PREFIX)?.split_once(SEPARATOR)?;
        Some(CsiVolume { driver: driver.to_owned(), handle: handle.to_owned() })
    }

    /// The name of the VolumeAttachment that attaches it to a node (`getAttachmentName`).
    pub fn attachment_name(&self, node: &str) -> String {
        format!("csi-{}", sha256_hex(&format!("{}{}{node}", self.handle, self.driver)))
    }
}

/// Whether the volume may be attached to one node only (the reverse of `IsMultiAttachAllowed`).
pub fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_deref()).unwrap_or_default();
    !modes.is_empty() && !modes.iter().any(|m| m == "ReadWriteMany" || m == "ReadOnlyMany")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_upstreams() {
        let volume = CsiVolume { driver: "d.example.com".into(), handle: "h^1".into() };
        assert_eq!(volume.unique_name(), "kubernetes.io/csi/d.example.com^h^1");
        assert_eq!(CsiVolume::parse(&volume.unique_name()), Some(volume.clone()));
        assert_eq!(CsiVolume::parse("kubernetes.io/nfs/x"), None);
        // printf 'h^1d.example.comn1' | sha256sum
        let name = "csi-7135422236911a1c14966e996da13ca6e26853e28e7e7ce621574d5117f6a9bb";
        assert_eq!(volume.attachment_name("n1"), name);
    }
}
