//! Mounts of volumes on the node, which outlive both the agent and the sandboxes, whatever engine runs the pods.

use crate::engine::{EngineError, Mounts};
use crate::volumes::persistent::{Local, Nfs};
use async_trait::async_trait;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};
use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// By this process, in the node's mount namespace.
pub struct NodeMounts;

#[async_trait]
impl Mounts for NodeMounts {
    async fn tmpfs(&self, path: &Path, size_bytes: Option<u64>) -> Result<(), EngineError> {
        if is_mount_point(path) {
            return Ok(());
        }
        // The kernel's own mode is 1777, as upstream leaves it (`generateTmpfsMountOptions` in
        // `pkg/volume/emptydir/empty_dir.go`).
        let size = size_bytes.map(|size| format!("size={size}"));
        let never_swapped = mount_tmpfs(path, size.iter().map(String::as_str).chain(["noswap"]));
        match never_swapped {
            // Known since Linux 6.4.
            Err(Errno::INVAL) => mount_tmpfs(path, size.iter().map(String::as_str)),
            other => other,
        }
        .map_err(|e| EngineError::Failed(format!("failed to mount a tmpfs at {}: {e}", path.display())))
    }

    async fn nfs(&self, path: &Path, nfs: &Nfs) -> Result<(), EngineError> {
        if is_mount_point(path) {
            return Ok(());
        }
        let (at, what) = (path.to_owned(), nfs.clone());
        let mounted = tokio::task::spawn_blocking(move || super::nfs::mount(&what, &at)).await;
        let mounted = mounted.map_err(|e| EngineError::Failed(e.to_string()))?;
        mounted.map_err(|e| EngineError::Failed(format!("mount of {}:{} failed: {e}", nfs.server, nfs.path)))
    }

    async fn disk(&self, path: &Path, disk: &Local, read_only: bool) -> Result<(), EngineError> {
        if is_mount_point(path) {
            return Ok(());
        }
        let (at, what) = (path.to_owned(), disk.clone());
        let mounted = tokio::task::spawn_blocking(move || super::disk::mount(&what, read_only, &at)).await;
        mounted.map_err(|e| EngineError::Failed(e.to_string()))?.map_err(EngineError::Failed)
    }

    async fn unmount(&self, path: &Path) -> Result<(), EngineError> {
        unmount(path)
    }
}

fn mount_tmpfs<'a>(path: &Path, options: impl Iterator<Item = &'a str>) -> Result<(), Errno> {
    let options = CString::new(options.collect::<Vec<_>>().join(",")).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))
}

/// Options of mount(8) as flags, and those that are for the file system.
pub(super) fn parse_options(options: &[String]) -> (MountFlags, Vec<String>) {
    let (mut flags, mut data) = (MountFlags::empty(), Vec::new());
    for option in options.iter().flat_map(|o| o.split(',')) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            // For mount(8) and systemd, not for the kernel.
            "" | "rw" | "suid" | "dev" | "exec" | "atime" | "defaults" | "_netdev" | "bg" | "fg" => {}
            other => data.push(other.to_owned()),
        }
    }
    (flags, data)
}

/// Nothing is mounted at `path` afterwards.
pub(super) fn unmount(path: &Path) -> Result<(), EngineError> {
    if !is_mount_point(path) {
        return Ok(());
    }
    rustix::mount::unmount(path, UnmountFlags::DETACH)
        .map_err(|e| EngineError::Failed(format!("failed to unmount {}: {e}", path.display())))
}

/// Whether something is mounted exactly here.
fn is_mount_point(path: &Path) -> bool {
    let device = |p: &Path| std::fs::symlink_metadata(p).map(|m| m.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(above)) => own != above,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points() {
        assert!(is_mount_point(Path::new("/proc")));
        assert!(!is_mount_point(Path::new("/proc/self/fd")));
        assert!(!is_mount_point(Path::new("/nowhere/at/all")));
    }
}
