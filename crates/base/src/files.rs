//! Files that are replaced whole: whoever reads one finds what it was before or what it is now, even if we are killed meanwhile.
//! What that leaves beside a file is called like it, with `.tmp` at the end.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Only its owner may read a file, unless somebody says otherwise.
pub const PRIVATE: u32 = 0o600;

/// Replaces a file that need not survive a power cut: nobody waits for the disk.
pub fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = temporary(path);
    create(&temporary, PRIVATE)?.write_all(content)?;
    std::fs::rename(temporary, path)
}

/// Replaces a file with what `write` writes. It is on the disk, under its name, when this returns. `mode` are its permission bits.
pub fn replace_durably(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    let temporary = temporary(path);
    let mut out = BufWriter::new(create(&temporary, mode)?);
    write(&mut out)?;
    out.into_inner()?.sync_all()?;
    std::fs::rename(temporary, path)?;
    sync_parent(path)
}

/// What was made in the directory of `path`, or renamed to it, is on the disk.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

fn temporary(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    name.into()
}

fn create(path: &Path, mode: u32) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_file_is_replaced_or_stays_as_it_was() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.json");
        let content = || std::fs::read_to_string(&path).expect("it is there");
        replace(&path, b"one").expect("replaced");
        assert_eq!(content(), "one");
        replace_durably(&path, 0o644, |out| out.write_all(b"two")).expect("replaced");
        assert_eq!(content(), "two");
        let failed = replace_durably(&path, PRIVATE, |out| {
            out.write_all(b"half")?;
            Err(io::Error::other("no more"))
        });
        assert_eq!(failed.expect_err("it was not written").to_string(), "no more");
        assert_eq!(content(), "two");
        replace(&path, b"three").expect("what was left half done is in nobody's way");
        assert_eq!(content(), "three");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        assert_eq!(std::fs::read_dir(dir.path()).expect("it is there").count(), 1);
    }
}
