//! `emptyDir` volumes (`pkg/volume/emptydir`): a directory, or a tmpfs with `medium: Memory`.
//!
//! Differs: a tmpfs is as large as the smallest of `sizeLimit`, the pod's memory limit and half the node's memory
//! (the kernel's default), not the node's allocatable. `HugePages` is refused by name; sizes on disk are not enforced.

use super::VolumeError;
use crate::engine::Mounts;
use crate::pod::spec::resources;
use api::k8s::api::core::v1::{EmptyDirVolumeSource, Pod};
use machinery::quantity::Quantity;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where the data live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Medium {
    /// On the node's disk.
    Disk,
    /// In memory, at most so many bytes.
    Memory(Option<u64>),
}

/// What the source asks for. Pure.
pub fn medium(pod: &Pod, source: &EmptyDirVolumeSource) -> Result<Medium, VolumeError> {
    match source.medium.as_deref().unwrap_or_default() {
        "" => Ok(Medium::Disk),
        "Memory" => {
            let limit = source.size_limit.as_ref().and_then(|q| Quantity::parse(&q.0).ok()).map(|q| q.value());
            let of_pod = resources::pod_cgroup(pod).memory_bytes;
            let smallest = [limit, of_pod].into_iter().flatten().filter(|n| *n > 0).min();
            Ok(Medium::Memory(smallest.and_then(|n| u64::try_from(n).ok())))
        }
        other => Err(VolumeError::Unsupported(format!("emptyDir with medium {other}"))),
    }
}

/// Makes it. Repeating it keeps the data.
pub async fn set_up(dir: &Path, medium: Medium, group: Option<u32>, mounts: &dyn Mounts) -> Result<(), VolumeError> {
    let fresh = !dir.exists();
    std::fs::create_dir_all(dir).map_err(|e| VolumeError::io("create", dir, e))?;
    if let Medium::Memory(size) = medium {
        // Anybody may write there from the start.
        mounts.tmpfs(dir, size).await.map_err(|e| VolumeError::Tmpfs(e.to_string()))?;
    }
    if !fresh {
        return Ok(());
    }
    if medium == Medium::Disk {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o777))
            .map_err(|e| VolumeError::io("open up", dir, e))?;
    }
    match group {
        Some(group) => {
            super::atomic::own_tree(dir, group, false).map_err(|e| VolumeError::io("change the group of", dir, e))
        }
        None => Ok(()),
    }
}
