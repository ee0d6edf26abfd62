//! `subPath`: a part of a volume. Directories that are missing are made here, so that no link inside the volume can lead
//! out of it; the engine then mounts it by the same rule (`pkg/volume/util/subpath`).

use super::VolumeError;
use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat2};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

/// Makes sure that `sub` exists below `volume`.
pub(super) fn ensure(volume: &Path, sub: &str) -> Result<(), VolumeError> {
    if Path::new(sub).is_absolute() {
        return Err(VolumeError::SubPath(format!("error SubPath `{sub}` must not be an absolute path")));
    }
    if Path::new(sub).components().any(|c| c == Component::ParentDir) {
        return Err(VolumeError::SubPath(format!("unable to provision SubPath `{sub}`: must not contain '..'")));
    }
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| VolumeError::io("open", volume, e.into()))?;
    let refused = |e: rustix::io::Errno| VolumeError::SubPath(format!("failed to prepare subPath `{sub}`: {e}"));
    match beneath(&root, Path::new(sub)) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::NOENT) => {
            let mode = std::fs::metadata(volume).map(|m| m.mode() & 0o7777).unwrap_or(0o755);
            make(&root, Path::new(sub), mode).map_err(refused)
        }
        Err(e) => Err(refused(e)),
    }
}

/// The file at `sub` below `volume`, reached by no link that leads out.
pub fn open(volume: &Path, sub: &Path) -> std::io::Result<OwnedFd> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    Ok(beneath(root, sub)?)
}

fn beneath(root: impl AsFd, path: &Path) -> Result<OwnedFd, rustix::io::Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Makes the missing directories one by one, never through a link that leaves the volume.
fn make(root: &OwnedFd, path: &Path, mode: u32) -> Result<(), rustix::io::Errno> {
    let mut done = PathBuf::new();
    for component in path.components() {
        let Component::Normal(name) = component else { continue };
        let parent = beneath(root, &done)?;
        match mkdirat(&parent, name, Mode::from_raw_mode(mode)) {
            Ok(()) => {
                let made = beneath(&parent, Path::new(name))?;
                // Through /proc, because an O_PATH descriptor cannot be changed directly; umask took its share.
                let path = format!("/proc/self/fd/{}", made.as_raw_fd());
                rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e),
        }
        done.push(name);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn missing_directories_are_made_with_the_volumes_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).expect("chmod");
        ensure(dir.path(), "a/b").expect("made");
        assert_eq!(fs::metadata(dir.path().join("a/b")).expect("stat").mode() & 0o777, 0o770);
    }

    #[test]
    fn links_may_stay_inside_but_not_leave() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("real")).expect("mkdir");
        symlink("real", dir.path().join("inside")).expect("link");
        symlink("/etc", dir.path().join("outside")).expect("link");
        symlink("../..", dir.path().join("up")).expect("link");
        ensure(dir.path(), "inside").expect("stays inside");
        for bad in ["outside", "up/etc", "../x", "/etc", "outside/new"] {
            assert!(ensure(dir.path(), bad).is_err(), "{bad}");
        }
        assert!(!Path::new("/etc/new").exists());
    }
}
