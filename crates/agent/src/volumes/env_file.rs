//! Files of volumes that a container's environment is taken from (`fileKeyRef`). Pods write them, so nothing about them is
//! trusted: links stay inside the volume, only regular files are read, and not more of them than [`LIMIT`].

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// Bytes of the largest file that is read. Upstream has no limit, but an environment cannot hold more anyway.
const LIMIT: u64 = 1 << 20;

/// The content of `path` below `volume`.
pub(super) fn read(volume: &Path, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = File::from(openat2(File::open(volume)?, path, flags, Mode::empty(), resolve)?);
    let about = file.metadata()?;
    if !about.is_file() || about.len() > LIMIT {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file of at most 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_stay_in_the_volume_and_pipes_do_not_hold_us_up() {
        let dir = tempfile::tempdir().expect("a directory");
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).expect("made");
        std::fs::write(dir.path().join("secret"), "outside").expect("written");
        std::fs::write(volume.join("secret"), "inside").expect("written");
        std::os::unix::fs::symlink("../secret", volume.join("up")).expect("linked");
        let (cwd, fifo) = (rustix::fs::CWD, rustix::fs::FileType::Fifo);
        rustix::fs::mknodat(cwd, volume.join("pipe"), fifo, Mode::RWXU, 0).expect("made");
        assert_eq!(read(&volume, "up").expect("read"), "inside");
        assert_eq!(read(&volume, "pipe").unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(read(&volume, "gone").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
