//! [`Grant`]: what a container gets of its devices: variables, mounts, device files, and what CDI says
//! (`podDevices.deviceRunContainerOptions`).

use crate::engine::{ContainerSpec, Device, Mount};
use node_api::device_plugin::ContainerAllocateResponse;
use prost::Message as _;
use runtime::cdi;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// See the file's head.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Grant {
    /// Variables; those of the container's own spec win.
    pub env: BTreeMap<String, String>,
    /// Of the node.
    pub mounts: Vec<Mount>,
    /// Of the node.
    pub devices: Vec<Device>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Programs of the node that take part in the making of the container.
    pub hooks: runtime::Hooks,
    /// Devices that CDI specs tell of.
    pub cdi_devices: BTreeSet<String>,
}

impl Grant {
    /// From the plugins' answers. Of two that want the same place the first has it.
    pub fn of<'a>(answers: impl Iterator<Item = &'a [u8]>) -> Result<Grant, String> {
        let mut grant = Grant::default();
        for answer in answers {
            let answer = ContainerAllocateResponse::decode(answer).map_err(|e| base::chain(&e))?;
            for (name, value) in answer.envs {
                grant.env.entry(name).or_insert(value);
            }
            for mount in answer.mounts {
                grant.add_mount(Mount {
                    source: mount.host_path.into(),
                    target: mount.container_path.into(),
                    read_only: mount.read_only,
                    ..Mount::default()
                });
            }
            for device in answer.devices {
                let (from, to) = (Path::new(&device.host_path), Path::new(&device.container_path));
                let found = device_files(from, to, &device.permissions);
                grant.add_devices(found.map_err(|e| format!("error gathering device information {from:?}: {e}"))?);
            }
            grant.cdi_devices.extend(answer.cdi_devices.into_iter().map(|d| d.name));
        }
        Ok(grant)
    }

    /// Adds what the CDI specs of the node say that its CDI devices need.
    pub fn resolve(&mut self) -> Result<(), String> {
        let names = std::mem::take(&mut self.cdi_devices);
        if !names.is_empty() {
            self.add_needs(cdi::needs(&names, &cdi::Specs::read(cdi::DIRS))?);
        }
        Ok(())
    }

    fn add_needs(&mut self, needs: cdi::Needs) {
        for (name, value) in needs.env {
            self.env.entry(name).or_insert(value);
        }
        for mount in needs.mounts {
            let runtime::MountKind::Bind { source, .. } = mount.kind else { continue };
            let read_only = mount.readonly != runtime::ReadOnly::No;
            self.add_mount(Mount { source, target: mount.destination, read_only, ..Mount::default() });
        }
        let device = |(source, d): (std::path::PathBuf, runtime::Device)| Device {
            source,
            target: d.path,
            kind: d.kind,
            major: d.major,
            minor: d.minor,
            mode: d.mode,
            owner: (d.uid, d.gid),
            access: d.access,
        };
        self.add_devices(needs.devices.into_iter().map(device).collect());
        self.groups.extend(needs.groups);
        self.hooks.extend(needs.hooks);
    }

    fn add_mount(&mut self, mount: Mount) {
        if self.mounts.iter().all(|m| m.target != mount.target) {
            self.mounts.push(mount);
        }
    }

    fn add_devices(&mut self, devices: Vec<Device>) {
        for device in devices {
            if self.devices.iter().all(|d| d.target != device.target) {
                self.devices.push(device);
            }
        }
    }

    /// Gives it to a container that is about to start.
    pub fn apply(self, spec: &mut ContainerSpec) {
        let missing = self.env.into_iter().filter(|(name, _)| spec.env.iter().all(|(n, _)| n != name));
        let missing: Vec<_> = missing.collect();
        spec.env.extend(missing);
        spec.mounts.splice(0..0, self.mounts);
        spec.devices.splice(0..0, self.devices);
        spec.user.groups.extend(self.groups);
        spec.hooks.extend(self.hooks);
        spec.cdi_devices.extend(self.cdi_devices);
    }
}

/// The device file, or all of a directory.
fn device_files(from: &Path, to: &Path, access: &str) -> io::Result<Vec<Device>> {
    let meta = std::fs::metadata(from)?;
    if meta.is_dir() {
        let mut out = Vec::new();
        for entry in std::fs::read_dir(from)? {
            let name = entry?.file_name();
            // A directory of devices may hold other things, too.
            out.extend(device_files(&from.join(&name), &to.join(&name), access).unwrap_or_default());
        }
        return Ok(out);
    }
    let kind = match meta.file_type() {
        t if t.is_char_device() => 'c',
        t if t.is_block_device() => 'b',
        _ => return Err(io::Error::other("not a device node")),
    };
    Ok(vec![Device {
        source: from.to_owned(),
        target: to.to_owned(),
        kind,
        major: rustix::fs::major(meta.rdev()),
        minor: rustix::fs::minor(meta.rdev()),
        mode: meta.mode() & 0o777,
        owner: (meta.uid(), meta.gid()),
        access: if access.is_empty() { "rwm".into() } else { access.to_owned() },
    }])
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::device_plugin::DeviceSpec;

    #[test]
    fn the_container_has_the_last_word_and_devices_are_as_on_the_node() {
        let device = |container_path: &str, host_path: &str, permissions: &str| DeviceSpec {
            container_path: container_path.into(),
            host_path: host_path.into(),
            permissions: permissions.into(),
        };
        let mount = |host: &str, read_only| node_api::device_plugin::Mount {
            container_path: "/lib/gpu".into(),
            host_path: host.into(),
            read_only,
        };
        let answer = |devices, mounts| {
            let envs = [("A".to_owned(), "plugin".to_owned()), ("B".to_owned(), "plugin".to_owned())].into();
            ContainerAllocateResponse { envs, devices, mounts, ..Default::default() }.encode_to_vec()
        };
        let first = answer(vec![device("/dev/gpu", "/dev/null", "r")], vec![mount("/one", true)]);
        let second = answer(vec![device("/dev/gpu", "/dev/zero", "")], vec![mount("/two", false)]);
        let grant = Grant::of([first.as_slice(), second.as_slice()].into_iter()).expect("devices are there");
        let mut spec = ContainerSpec { env: vec![("A".into(), "own".into())], ..ContainerSpec::default() };
        grant.apply(&mut spec);
        assert_eq!(spec.env, [("A".into(), "own".into()), ("B".into(), "plugin".into())]);
        assert_eq!(
            spec.mounts.iter().map(|m| (&*m.source, m.read_only)).collect::<Vec<_>>(),
            [(Path::new("/one"), true)]
        );
        let [d] = spec.devices.as_slice() else { panic!("{:?}", spec.devices) };
        assert_eq!((d.kind, d.major, d.minor, d.access.as_str()), ('c', 1, 3, "r"));
        let missing = answer(vec![device("/dev/x", "/dev/there-is-none", "")], vec![]);
        assert!(Grant::of([missing.as_slice()].into_iter()).expect_err("no such device").contains("gathering device"));
    }
}
