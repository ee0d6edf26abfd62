//! What the machine's disks with file systems have and have done: one by each line of `/proc/self/mountinfo` that names a block device,
//! with its line of `/proc/diskstats`. Parsing is pure (`mounted`, `work`).
//!
//! Follows cAdvisor's `fs/fs.go`, for its root container. Differs: file systems in memory are not told of.

use super::disk::Space;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// A disk that has a file system.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FileSystem {
    /// `/dev/sda1`
    pub device: String,
    /// What it has.
    pub space: Space,
    /// What it has done.
    pub work: DiskWork,
}

/// A disk's line in `/proc/diskstats` (`Documentation/admin-guide/iostats.rst`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskWork {
    /// Reads that are done.
    pub reads: u64,
    /// Reads that were made part of others.
    pub reads_merged: u64,
    /// Of 512 bytes.
    pub sectors_read: u64,
    /// All reads together, milliseconds.
    pub reading_ms: u64,
    /// Writes that are done.
    pub writes: u64,
    /// Writes that were made part of others.
    pub writes_merged: u64,
    /// Of 512 bytes.
    pub sectors_written: u64,
    /// All writes together, milliseconds.
    pub writing_ms: u64,
    /// What it is at now.
    pub in_progress: u64,
    /// While there was something to do, milliseconds.
    pub busy_ms: u64,
    /// The same, times how much there was to do.
    pub weighted_ms: u64,
}

/// Reads all of them.
pub fn read() -> Vec<FileSystem> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let work = work(&text("/proc/diskstats"));
    let read = |(device, at): (String, PathBuf)| {
        let space = Space::of(&at).ok()?;
        // A name like /dev/mapper/x is a link to the kernel's.
        let real = std::fs::canonicalize(&device).unwrap_or_else(|_| PathBuf::from(&device));
        let name = real.strip_prefix("/dev").unwrap_or(&real);
        let work = name.to_str().and_then(|name| work.get(name)).copied().unwrap_or_default();
        Some(FileSystem { device, space, work })
    };
    mounted(&text("/proc/self/mountinfo")).into_iter().filter_map(read).collect()
}

/// Block devices and where one of their directories is, each once: `36 35 98:0 / /mnt rw shared:1 - ext4 /dev/sda1 rw`.
fn mounted(mountinfo: &str) -> Vec<(String, PathBuf)> {
    let mut seen = BTreeSet::new();
    let mut out = Vec::new();
    for line in mountinfo.lines() {
        let Some((numbers, device, at)) = mount(line) else { continue };
        // A path with such signs is written with numbers in their place; there are others to look at the same file system.
        let is_told = device.starts_with("/dev/") && !at.contains('\\');
        // Parts of a btrfs may have numbers of their own.
        if is_told && seen.insert(numbers) && seen.insert(device) {
            out.push((device.to_owned(), PathBuf::from(at)));
        }
    }
    out
}

/// Of a line: the device's numbers, the device, and where it is mounted.
fn mount(line: &str) -> Option<(&str, &str, &str)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(2);
    let (numbers, at) = (left.next()?, left.nth(1)?);
    Some((numbers, right.split(' ').nth(1)?, at))
}

/// By the kernel's name of the disk: `   8       1 sda1 1 2 3 4 5 6 7 8 9 10 11`, and what newer kernels add.
fn work(diskstats: &str) -> BTreeMap<String, DiskWork> {
    let one = |line: &str| {
        let mut words = line.split_whitespace().skip(2);
        let name = words.next()?.to_owned();
        let mut number = || words.next()?.parse().ok();
        let work = DiskWork {
            reads: number()?,
            reads_merged: number()?,
            sectors_read: number()?,
            reading_ms: number()?,
            writes: number()?,
            writes_merged: number()?,
            sectors_written: number()?,
            writing_ms: number()?,
            in_progress: number()?,
            busy_ms: number()?,
            weighted_ms: number()?,
        };
        Some((name, work))
    };
    diskstats.lines().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_disk_with_a_file_system_is_found_once() {
        let text = "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n\
                    23 22 0:5 / /dev rw - devtmpfs udev rw\n\
                    24 22 254:1 /x /var/lib/y rw - ext4 /dev/vda1 rw\n\
                    25 22 254:2 / /a\\040b rw - xfs /dev/vdb rw\n\
                    26 22 254:2 / /b rw master:2 - xfs /dev/vdb rw\n\
                    27 22 0:50 /s /c rw - btrfs /dev/vdb rw\nnonsense\n";
        let want = [("/dev/vda1".to_owned(), PathBuf::from("/")), ("/dev/vdb".to_owned(), PathBuf::from("/b"))];
        assert_eq!(mounted(text), want);
    }

    #[test]
    fn this_machines_disks_have_room() {
        assert!(read().iter().all(|f| f.space.capacity > 0 && f.device.starts_with("/dev/")), "{:?}", read());
    }

    #[test]
    fn what_disks_do_is_read() {
        let read = work(" 254       1 vda1 1 2 3 4 5 6 7 8 9 10 11 12 13\n 8 0 sda 1 2\n\n");
        let vda1 = read["vda1"];
        assert_eq!(
            (read.len(), vda1.reads, vda1.sectors_written, vda1.in_progress, vda1.weighted_ms),
            (1, 1, 7, 9, 11)
        );
    }
}
