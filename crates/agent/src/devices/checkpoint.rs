//! What containers hold, on disk, in the shape of upstream's `kubelet_internal_checkpoint` (`cm/devicemanager/checkpoint`), which tools
//! of device makers read. Differs: no checksum; the file is replaced as a whole.

use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

/// Its name in the plugins' directory.
pub const FILE: &str = "kubelet_internal_checkpoint";

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Checkpoint {
    /// Who holds what.
    #[serde(default)]
    pub pod_device_entries: Vec<Entry>,
    /// Healthy devices by resource.
    #[serde(default)]
    pub registered_devices: BTreeMap<String, Vec<String>>,
}

/// One container's devices of one resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Entry {
    /// `metadata.uid`
    #[serde(rename = "PodUID")]
    pub pod_uid: String,
    /// Of the container.
    pub container_name: String,
    /// Such as `vendor.example/gpu`.
    pub resource_name: String,
    /// By NUMA node.
    #[serde(rename = "DeviceIDs")]
    pub device_ids: BTreeMap<i64, BTreeSet<String>>,
    /// The plugin's answer, encoded.
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub alloc_resp: Vec<u8>,
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    base64::engine::general_purpose::STANDARD.decode(text).map_err(serde::de::Error::custom)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Whole<T> {
    data: T,
}

impl Checkpoint {
    /// What is there; nothing if there is no file.
    pub fn load(dir: &Path) -> io::Result<Checkpoint> {
        match std::fs::read(dir.join(FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Checkpoint::default()),
            Err(e) => Err(e),
            Ok(text) => Ok(serde_json::from_slice::<Whole<Checkpoint>>(&text)?.data),
        }
    }

    /// Replaces it.
    pub fn save(&self, dir: &Path) -> io::Result<()> {
        base::files::replace(&dir.join(FILE), &serde_json::to_vec(&Whole { data: self })?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_saved_is_upstreams_shape_and_comes_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert_eq!(Checkpoint::load(dir.path()).expect("no file is no error"), Checkpoint::default());
        let text = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"e.com/gpu","DeviceIDs":{"-1":["g1"]},"AllocResp":"AQI="}],"RegisteredDevices":{"e.com/gpu":["g1"]}}}"#;
        std::fs::write(dir.path().join(FILE), text).expect("written");
        let read = Checkpoint::load(dir.path()).expect("valid");
        assert_eq!(read.pod_device_entries[0].alloc_resp, [1, 2]);
        read.save(dir.path()).expect("saved");
        assert_eq!(std::fs::read_to_string(dir.path().join(FILE)).expect("there"), text);
    }
}
