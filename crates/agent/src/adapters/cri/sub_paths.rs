//! `subPath`s for a runtime that mounts whole paths only: what is there is bound to a place of ours first, because on its way the
//! runtime would follow a link that somebody in the pod made meanwhile (`pkg/volume/util/subpath`, `doBindSubPath`).

use super::super::mounts;
use crate::engine::{ContainerSpec, EngineError, Mount};
use crate::volumes::sub_path;
use rustix::fs::{Mode, OFlags};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where they are bound: `<dir>/<sandbox>/<container's name>/<number>`.
pub(super) struct SubPaths(pub(super) PathBuf);

impl SubPaths {
    /// Binds the sub-paths of a container; its mounts then name them. Those of its last run, which has ended, go first.
    pub(super) fn bind(&self, spec: &mut ContainerSpec) -> Result<(), EngineError> {
        let dir = self.0.join(&spec.sandbox).join(&spec.name);
        unmount_all(&dir)?;
        for (i, mount) in spec.mounts.iter_mut().enumerate() {
            let Some(sub) = mount.sub_path.take_if(|_| mount.image.is_none()) else { continue };
            let place = dir.join(i.to_string());
            bind(mount, &sub, &place)
                .map_err(|e| EngineError::Failed(format!("failed to prepare subPath `{}`: {e}", sub.display())))?;
            mount.source = place;
        }
        Ok(())
    }

    /// Takes those of a sandbox back.
    pub(super) fn release(&self, sandbox: &str) -> Result<(), EngineError> {
        let dir = self.0.join(sandbox);
        for container in entries(&dir) {
            unmount_all(&container)?;
        }
        match std::fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                Err(EngineError::Failed(format!("failed to remove {}: {e}", dir.display())))
            }
            _ => Ok(()),
        }
    }
}

fn unmount_all(dir: &Path) -> Result<(), EngineError> {
    entries(dir).iter().try_for_each(|place| mounts::unmount(place))
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn bind(mount: &Mount, sub: &Path, place: &Path) -> io::Result<()> {
    let found = sub_path::open(&mount.source, sub)?;
    let parent = place.parent().unwrap_or(place);
    std::fs::create_dir_all(parent)?;
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    if kind == rustix::fs::FileType::Directory {
        std::fs::create_dir_all(place)?;
    } else {
        rustix::fs::open(place, OFlags::CREATE | OFlags::CLOEXEC, Mode::from_raw_mode(0o600))?;
    }
    Ok(rustix::mount::mount_bind(format!("/proc/self/fd/{}", found.as_raw_fd()), place)?)
}
