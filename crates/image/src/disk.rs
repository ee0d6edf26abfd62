//! [`DiskUse`]: how much a directory holds.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What a directory holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Bytes of blocks, holes not counted.
    pub bytes: u64,
    /// Files and directories.
    pub inodes: u64,
}

impl DiskUse {
    /// Walks through it, without leaving its file system; what vanishes meanwhile is not counted, nor is a second link.
    pub fn of(path: &Path) -> Self {
        let Ok(meta) = fs::symlink_metadata(path) else { return DiskUse::default() };
        let mut linked = std::collections::HashSet::new();
        let mut out = DiskUse::default();
        let mut open = vec![path.to_owned()];
        out.count(&meta);
        while let Some(dir) = open.pop() {
            for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
                let Ok(found) = entry.metadata() else { continue };
                if found.dev() != meta.dev() || (found.nlink() > 1 && !found.is_dir() && !linked.insert(found.ino())) {
                    continue;
                }
                out.count(&found);
                if found.is_dir() {
                    open.push(entry.path());
                }
            }
        }
        out
    }

    fn count(&mut self, meta: &fs::Metadata) {
        self.bytes += meta.blocks() * 512;
        self.inodes += 1;
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: DiskUse) -> DiskUse {
        DiskUse { bytes: self.bytes + other.bytes, inodes: self.inodes + other.inodes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_holes_count_once_and_not_at_all() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("d")).expect("made");
        fs::write(dir.path().join("d/f"), vec![1u8; 8192]).expect("written");
        let before = DiskUse::of(dir.path());
        assert_eq!(before.inodes, 3);
        assert!(before.bytes >= 8192, "{before:?}");
        fs::hard_link(dir.path().join("d/f"), dir.path().join("again")).expect("linked");
        let hole = fs::File::create(dir.path().join("hole")).expect("made");
        hole.set_len(1 << 30).expect("grown");
        let after = DiskUse::of(dir.path());
        assert_eq!(after.inodes, 4);
        assert!(after.bytes - before.bytes < 1 << 20, "{after:?}");
        assert_eq!(DiskUse::of(&dir.path().join("none")), DiskUse::default());
    }
}
