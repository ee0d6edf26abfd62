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
    replace_with(path, PRIVATE, |mut file| file.write_all(content))
}

/// Replaces a file with what `write` writes. It is on the disk, under its name, when this returns. `mode` are its permission bits.
pub fn replace_durably(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> io::Result<()> {
    replace_with(path, mode, |file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.into_inner()?.sync_all()
    })?;
    sync_parent(path)
}

fn replace_with(path: &Path, mode: u32, write: impl FnOnce(File) -> io::Result<()>) -> io::Result<()> {
    let temporary = temporary(path);
    let replaced = create(&temporary, mode).and_then(write).and_then(|()| std::fs::rename(&temporary, path));
    if replaced.is_err() {
        // It would only take room, perhaps the last there is. If it cannot be removed, the next one replaces it.
        std::fs::remove_file(&temporary).ok();
    }
    replaced
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
    let new = || OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    match new() {
        // What was left there may be for others to read, too.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::fs::remove_file(path).and_then(|()| new()),
        created => created,
    }
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
        let files = || std::fs::read_dir(dir.path()).expect("it is there").count();
        assert_eq!(files(), 1, "what was half written is gone");
        std::fs::write(dir.path().join("a.json.tmp"), "half").expect("written");
        replace(&path, b"three").expect("what was left half done is in nobody's way");
        assert_eq!(content(), "three");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, PRIVATE);
        assert_eq!(files(), 1);
    }
}
