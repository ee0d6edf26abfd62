//! What is written down about volumes of CSI drivers, and where: upstream's files in upstream's places, so that it is found again
//! after a crash of the agent and whoever looks for it there finds it.
//!
//! ```text
//!   pods/<uid>/volumes/kubernetes.io~csi/<name>/{vol_data.json, mount}        published to a pod
//!   plugins/kubernetes.io/csi/<driver>/<sha256>/{vol_data.json, globalmount}  staged
//!   pods/<uid>/volumeDevices/kubernetes.io~csi/<name>/vol_data.json           published to a pod as a device, at
//!   plugins/kubernetes.io/csi/volumeDevices/publish/<name>/<uid>
//!   plugins/kubernetes.io/csi/volumeDevices/<name>/data/vol_data.json         staged as a device, at
//!   plugins/kubernetes.io/csi/volumeDevices/staging/<name>
//! ```
//!
//! Follows `pkg/volume/csi/{csi_mounter,csi_attacher,csi_block}.go`. Differs: what upstream reads back from the kernel or the
//! API is among the data, and a pod's device is a file of its own instead of a link.

use crate::volumes::VolumeError;
use machinery::csi::CsiVolume;
use machinery::digest::sha256_hex;
use serde::{Deserialize, Serialize};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const FILE: &str = "vol_data.json";
const ESCAPED: &str = "kubernetes.io~csi";

/// `vol_data.json`; all values are texts, as upstream's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Record {
    #[serde(rename = "specVolID")]
    pub(super) name: String,
    pub(super) volume_handle: String,
    pub(super) driver_name: String,
    pub(super) node_name: String,
    #[serde(rename = "attachmentID")]
    pub(super) attachment: String,
    pub(super) volume_lifecycle_mode: String,
    /// `true` if it is a device.
    pub(super) block: String,
    /// `true` if it is attached to the node by the control plane.
    pub(super) attachable: String,
    /// The SELinux label that it was mounted with.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) selinux_mount_context: String,
}

impl Record {
    pub(super) fn volume(&self) -> CsiVolume {
        CsiVolume { driver: self.driver_name.clone(), handle: self.volume_handle.clone() }
    }

    pub(super) fn is_block(&self) -> bool {
        self.block == "true"
    }

    pub(super) fn is_attachable(&self) -> bool {
        self.attachable == "true"
    }

    pub(super) fn save(&self, dir: &Path) -> Result<(), VolumeError> {
        let path = dir.join(FILE);
        fs::create_dir_all(dir).map_err(|e| VolumeError::io("create", dir, e))?;
        let text = serde_json::to_vec(self).map_err(|e| VolumeError::io("encode", &path, e.into()))?;
        base::files::replace(&path, &text).map_err(|e| VolumeError::io("write", &path, e))
    }

    pub(super) fn load(dir: &Path) -> Option<Record> {
        serde_json::from_slice(&fs::read(dir.join(FILE)).ok()?).ok()
    }
}

/// A volume of a pod, as found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) uid: String,
    /// Where its record is.
    pub(super) dir: PathBuf,
    pub(super) record: Record,
}

/// Where things are below the kubelet's directory.
#[derive(Debug, Clone)]
pub(super) struct Places(pub(super) PathBuf);

impl Places {
    fn plugin(&self) -> PathBuf {
        self.0.join("plugins/kubernetes.io/csi")
    }

    fn pod(&self, uid: &str) -> PathBuf {
        self.0.join("pods").join(uid)
    }

    /// Where a pod's record of a volume is.
    pub(super) fn of_pod(&self, uid: &str, name: &str, block: bool) -> PathBuf {
        self.pod(uid).join(if block { "volumeDevices" } else { "volumes" }).join(ESCAPED).join(name)
    }

    /// Where the driver is to publish it.
    pub(super) fn target(&self, uid: &str, name: &str, block: bool) -> PathBuf {
        if block {
            self.plugin().join("volumeDevices/publish").join(name).join(uid)
        } else {
            self.of_pod(uid, name, false).join("mount")
        }
    }

    /// Where the record of a staged volume is.
    pub(super) fn staged(&self, volume: &CsiVolume, name: &str, block: bool) -> PathBuf {
        if block {
            self.plugin().join("volumeDevices").join(name).join("data")
        } else {
            self.plugin().join(&volume.driver).join(sha256_hex(&volume.handle))
        }
    }

    /// Where the driver is to stage it.
    pub(super) fn staging(&self, volume: &CsiVolume, name: &str, block: bool) -> PathBuf {
        if block {
            self.plugin().join("volumeDevices/staging").join(name)
        } else {
            self.staged(volume, name, false).join("globalmount")
        }
    }

    /// Everything that is published to a pod, or may be.
    pub(super) fn published_to(&self, uid: &str) -> Vec<Published> {
        let dirs = ["volumes", "volumeDevices"].map(|kind| self.pod(uid).join(kind).join(ESCAPED));
        let entries = dirs.iter().flat_map(|dir| children(dir));
        let found = entries.filter_map(|dir| Some(Published { uid: uid.to_owned(), record: Record::load(&dir)?, dir }));
        found.collect()
    }

    /// Likewise, to any pod.
    pub(super) fn published(&self) -> Vec<Published> {
        let uids = children(&self.0.join("pods"));
        let names = uids.iter().filter_map(|dir| dir.file_name()?.to_str().map(str::to_owned));
        names.flat_map(|uid| self.published_to(&uid)).collect()
    }

    /// Records of everything that is staged, or may be.
    pub(super) fn all_staged(&self) -> Vec<Record> {
        let drivers = children(&self.plugin()).into_iter().filter(|dir| !dir.ends_with("volumeDevices"));
        let mounts = drivers.flat_map(|dir| children(&dir));
        let devices = children(&self.plugin().join("volumeDevices")).into_iter().map(|dir| dir.join("data"));
        mounts.chain(devices).filter_map(|dir| Record::load(&dir)).collect()
    }

    /// Removes a record and what is around it, if that is empty: never anything that a driver left, nor directories that drivers
    /// may have mounted.
    pub(super) fn forget(&self, dir: &Path) -> Result<(), VolumeError> {
        remove(fs::remove_file(dir.join(FILE)), &dir.join(FILE))?;
        let keep = [self.0.join("pods"), self.plugin()];
        let mut next = Some(dir);
        while let Some(dir) = next.filter(|d| keep.iter().any(|k| d.starts_with(k) && *d != k)) {
            match fs::remove_dir(dir) {
                Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => break,
                other => remove(other, dir)?,
            }
            next = dir.parent();
        }
        Ok(())
    }
}

/// A target or staging path that the driver has given up; it should have removed it, but not all do.
pub(super) fn remove_mount_point(path: &Path) -> Result<(), VolumeError> {
    if is_mount_point(path) {
        return Err(VolumeError::io("remove", path, io::ErrorKind::ResourceBusy.into()));
    }
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => remove(fs::remove_dir(path), path),
        Ok(_) => remove(fs::remove_file(path), path),
        Err(_) => Ok(()),
    }
}

/// Whether something is mounted there, a part of the same file system included.
pub(super) fn is_mount_point(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|s| s.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn remove(result: io::Result<()>, path: &Path) -> Result<(), VolumeError> {
    match result {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(VolumeError::io("remove", path, e)),
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_upstreams_and_found_again() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let places = Places(dir.path().to_path_buf());
        let record =
            Record { name: "v".into(), driver_name: "d".into(), volume_handle: "h".into(), ..Record::default() };
        let at = places.of_pod("u", "v", false);
        record.save(&at).expect("written");
        let text = fs::read_to_string(at.join(FILE)).expect("it is there");
        assert!(
            text.starts_with(r#"{"specVolID":"v","volumeHandle":"h","driverName":"d","nodeName":"","attachmentID":"""#),
            "{text}"
        );
        assert_eq!(places.published().len(), 1);
        assert_eq!(places.published_to("u")[0].record, record);
        record.save(&places.staged(&record.volume(), "v", false)).expect("written");
        record.save(&places.staged(&record.volume(), "v", true)).expect("written");
        assert_eq!(places.all_staged().len(), 2);
        fs::write(at.join("other"), "").expect("written");
        places.forget(&at).expect("forgotten");
        assert!(at.join("other").exists() && places.published().is_empty());
        places.forget(&places.of_pod("w", "v", true)).expect("nothing to forget");
        fs::remove_file(at.join("other")).expect("it is there");
        places.forget(&at).expect("forgotten");
        assert!(!dir.path().join("pods/u").exists() && dir.path().join("pods").exists());
        assert!(is_mount_point(Path::new("/proc")) && !is_mount_point(dir.path()));
    }
}
