//! The devices that a container is given by name.

use node_api::cri;
use runtime::Device;
use std::io;
use std::path::Path;
use tonic::Status;

/// The devices that were asked for; a directory stands for all below it.
pub(crate) fn wanted(devices: &[cri::Device]) -> Result<Vec<Device>, Status> {
    let mut out = Vec::new();
    for device in devices {
        let (host, target) = (Path::new(&device.host_path), Path::new(&device.container_path));
        let access = if device.permissions.is_empty() { "rwm" } else { &device.permissions };
        let failed = |e: io::Error| Status::invalid_argument(format!("device {}: {e}", host.display()));
        let found = runtime::devices::at(host, target, access).map_err(failed)?;
        if found.is_empty() {
            return Err(failed(io::Error::other("not a device")));
        }
        out.extend(found);
    }
    Ok(out)
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
