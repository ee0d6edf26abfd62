//! Device files of the machine, for containers.

use crate::Device;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Below `/dev`, but every container's own.
const OWN: [&str; 8] =
    ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx", "/dev/.lxc", "/dev/.udev"];

/// The device at `host`, to stand at `target` in a container; of a directory, all below it. Empty if `host` is neither.
pub fn at(host: &Path, target: &Path, access: &str) -> io::Result<Vec<Device>> {
    let mut out = Vec::new();
    collect(host, target, access, &mut out)?;
    Ok(out)
}

/// All that the machine has, for privileged containers, but for those that every container has of its own and those in
/// `asked`, which stand there already.
pub fn all_but(asked: &[Device]) -> io::Result<Vec<Device>> {
    let mut all = at(Path::new("/dev"), Path::new("/dev"), "rwm")?;
    all.retain(|device| asked.iter().all(|a| a.path != device.path));
    Ok(all)
}

fn collect(host: &Path, target: &Path, access: &str, out: &mut Vec<Device>) -> io::Result<()> {
    let meta = std::fs::metadata(host)?;
    let kind = meta.file_type();
    if meta.is_dir() {
        for entry in std::fs::read_dir(host)? {
            let entry = entry?;
            let is_own = OWN.iter().any(|own| entry.path() == Path::new(own));
            // Links lead to what is listed anyway, or out of here.
            if is_own || entry.file_type()?.is_symlink() {
                continue;
            }
            match collect(&entry.path(), &target.join(entry.file_name()), access, out) {
                // Unplugged since it was listed.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
    } else if kind.is_char_device() || kind.is_block_device() {
        out.push(Device {
            path: target.to_owned(),
            kind: if kind.is_block_device() { 'b' } else { 'c' },
            major: major(meta.rdev()),
            minor: minor(meta.rdev()),
            mode: meta.mode() & 0o7777,
            uid: meta.uid(),
            gid: meta.gid(),
            access: access.to_owned(),
        });
    }
    Ok(())
}

/// As `makedev(3)` packs them.
fn major(device: u64) -> u32 {
    (((device >> 8) & 0xfff) | ((device >> 32) & !0xfff)) as u32
}

fn minor(device: u64) -> u32 {
    ((device & 0xff) | ((device >> 12) & !0xff)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_devices_are_those_of_the_machine_but_what_was_asked_for() {
        let all = all_but(&[]).expect("readable");
        let null = all.iter().find(|d| d.path == Path::new("/dev/null")).expect("every machine has it");
        assert_eq!((null.kind, null.major, null.minor), ('c', 1, 3));
        assert!(all.iter().all(|d| !d.path.starts_with("/dev/pts")));
        let asked = [null.clone()];
        assert!(all_but(&asked).expect("readable").iter().all(|d| d.path != Path::new("/dev/null")));
    }
}
