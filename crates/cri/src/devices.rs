//! Device files of the machine, for containers.

use node_api::cri;
use runtime::Device;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use tonic::Status;

/// The devices that were asked for; a directory stands for all below it.
pub(crate) fn wanted(devices: &[cri::Device]) -> Result<Vec<Device>, Status> {
    let mut out = Vec::new();
    for device in devices {
        let (host, target) = (Path::new(&device.host_path), Path::new(&device.container_path));
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        let failed = |e: io::Error| Status::invalid_argument(format!("device {}: {e}", host.display()));
        collect(host, target, access, &mut out).map_err(failed)?;
        if out.is_empty() {
            return Err(failed(io::Error::other("not a device")));
        }
    }
    Ok(out)
}

/// All that the machine has, for privileged containers, but for those that every container has of its own.
pub(crate) fn all() -> io::Result<Vec<Device>> {
    let mut out = Vec::new();
    collect(Path::new("/dev"), Path::new("/dev"), "rwm", &mut out)?;
    Ok(out)
}

/// Below `/dev`, but every container's own.
const OWN: [&str; 8] =
    ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console", "/dev/ptmx", "/dev/.lxc", "/dev/.udev"];

fn collect(host: &Path, target: &Path, access: &str, out: &mut Vec<Device>) -> io::Result<()> {
    let meta = std::fs::metadata(host)?;
    let kind = meta.file_type();
    if meta.is_dir() {
        for entry in std::fs::read_dir(host)? {
            let entry = entry?;
            let is_own = OWN.iter().any(|own| entry.path() == Path::new(own));
            // Links lead to what is listed anyway, or out of here.
            if !is_own && !entry.file_type()?.is_symlink() {
                collect(&entry.path(), &target.join(entry.file_name()), access, out)?;
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
    fn a_device_is_described_by_its_numbers() {
        let device = |host: &str| cri::Device {
            host_path: host.into(),
            container_path: "/dev/x".into(),
            permissions: "r".into(),
        };
        let got = wanted(&[device("/dev/null")]).expect("is there");
        let got: Vec<_> =
            got.iter().map(|d| (d.path.to_string_lossy(), d.kind, d.major, d.minor, &*d.access)).collect();
        assert_eq!(got, [("/dev/x".into(), 'c', 1, 3, "r")]);
        for wrong in ["/dev/nope", "/etc/passwd"] {
            assert_eq!(wanted(&[device(wrong)]).expect_err("no device").code(), tonic::Code::InvalidArgument);
        }
    }
}
