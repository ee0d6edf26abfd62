//! A file system on a block device of the node: made if the device is empty, then mounted (`FormatAndMount` in
//! `k8s.io/mount-utils/mount_linux.go`).
//!
//! Differs: a device is empty if its first and last MiB are zeros, so nothing is ever made over something that blkid does not know;
//! without a type, the one that is there is mounted, whichever it is; file systems are not checked first.

use super::mounts::parse_options;
use crate::volumes::persistent::Local;
use rustix::mount::MountFlags;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Looked for, and at the ends of what is empty.
const EDGE: u64 = 1 << 20;
/// Tried in turn when the user names none; the first is made.
const TYPES: [&str; 3] = ["ext4", "xfs", "btrfs"];

/// Mounts at an existing directory. Blocks.
pub(super) fn mount(disk: &Local, read_only: bool, at: &Path) -> Result<(), String> {
    let device = &disk.path;
    let shown = device.display();
    let name = if disk.fs_type.is_empty() { TYPES[0] } else { &disk.fs_type };
    if is_empty(device).map_err(|e| format!("failed to get disk format of disk {shown}: {e}"))? {
        if read_only {
            return Err(format!("cannot mount unformatted disk {shown} as we are manipulating it in read-only mode"));
        }
        tracing::info!(device = %shown, name, "making a file system on an empty device");
        make(device, name).map_err(|e| format!("format of disk {shown:?} failed: type:({name:?}) {e}"))?;
    }
    let (mut flags, data) = parse_options(&disk.options);
    flags.set(MountFlags::RDONLY, read_only || flags.contains(MountFlags::RDONLY));
    let data = CString::new(data.join(",")).map_err(|e| e.to_string())?;
    let types = if disk.fs_type.is_empty() { &TYPES[..] } else { &[name][..] };
    let mut error = None;
    for name in types {
        match rustix::mount::mount(device, at, *name, flags, Some(data.as_c_str())) {
            Ok(()) => return Ok(()),
            Err(e) => error = error.or(Some(format!("mount of {shown} as {name} failed: {e}"))),
        }
    }
    Err(error.unwrap_or_default())
}

fn is_empty(device: &Path) -> io::Result<bool> {
    let mut file = File::open(device)?;
    let size = file.seek(SeekFrom::End(0))?;
    let mut zeros = |from: u64| {
        file.seek(SeekFrom::Start(from))?;
        let mut edge = Vec::new();
        (&mut file).take(EDGE).read_to_end(&mut edge)?;
        Ok::<_, io::Error>(edge.iter().all(|byte| *byte == 0))
    };
    Ok(zeros(0)? && zeros(size.saturating_sub(EDGE))?)
}

/// Runs the node's own `mkfs`, as upstream does.
fn make(device: &Path, name: &str) -> Result<(), String> {
    if !name.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("there is no such file system".into());
    }
    let options: &[&str] = match name {
        "ext3" | "ext4" => &["-F", "-m0"],
        "xfs" => &["-f"],
        _ => &[],
    };
    #[expect(clippy::disallowed_methods, reason = "making file systems is their own programs' business")]
    let ran = std::process::Command::new(format!("mkfs.{name}")).args(options).arg(device).output();
    let ran = ran.map_err(|e| format!("mkfs.{name}: {e}"))?;
    if ran.status.success() {
        return Ok(());
    }
    Err(format!("{}: {}{}", ran.status, String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_zero_at_both_ends_is_empty() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let check = |text: &[(usize, u8)], want: bool| {
            let mut bytes = vec![0; 3 << 20];
            text.iter().for_each(|(at, byte)| bytes[*at] = *byte);
            let path = dir.path().join("device");
            std::fs::write(&path, bytes).expect("written");
            assert_eq!(is_empty(&path).expect("read"), want, "{text:?}");
        };
        check(&[], true);
        check(&[(1 << 10, 1)], false);
        check(&[((3 << 20) - 1, 1)], false);
        check(&[((1 << 20) + 1, 1)], true);
        std::fs::write(dir.path().join("small"), "").expect("written");
        assert!(is_empty(&dir.path().join("small")).expect("read"));
    }

    #[test]
    fn what_cannot_be_mounted_says_why() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("device");
        std::fs::write(&path, vec![0; 1 << 20]).expect("written");
        let mount = |fs_type: &str, read_only| {
            let disk = Local { path: path.clone(), fs_type: fs_type.into(), options: Vec::new() };
            super::mount(&disk, read_only, dir.path()).expect_err("refused")
        };
        assert!(mount("", true).starts_with("cannot mount unformatted disk"));
        assert!(mount("../bin/sh", false).ends_with("there is no such file system"));
        assert!(mount("nosuchfs", false).contains("mkfs.nosuchfs: "));
    }
}
