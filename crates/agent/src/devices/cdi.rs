//! Container Device Interface: files of device makers that say what a container needs for a device (CDI specification 1.0).
//!
//! Pure but for [`Specs::read`]. Differs: programs of the node that a spec wants to be run (hooks), network devices and cache
//! partitions are refused by name.

use super::grant::{Grant, device_files};
use crate::engine::{Device, Mount};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where specs are; the later directory wins.
pub const DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    kind: String,
    devices: Vec<SpecDevice>,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecDevice {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<DeviceNode>,
    mounts: Vec<SpecMount>,
    #[serde(rename = "additionalGids")]
    groups: Vec<u32>,
    hooks: Vec<serde_json::Value>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct DeviceNode {
    path: PathBuf,
    host_path: Option<PathBuf>,
    r#type: String,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecMount {
    host_path: PathBuf,
    container_path: PathBuf,
    options: Vec<String>,
}

/// Devices by their full names (`vendor.example/class=name`), each with what every device of its spec needs.
#[derive(Debug, Default)]
pub struct Specs(BTreeMap<String, (Edits, Edits)>);

impl Specs {
    /// All files of the directories; one that cannot be read is told of in the log.
    pub fn read<P: AsRef<Path>>(dirs: impl IntoIterator<Item = P>) -> Specs {
        let mut out = Specs::default();
        for dir in dirs {
            let mut files: Vec<PathBuf> =
                std::fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            files.retain(|f| matches!(f.extension().and_then(|e| e.to_str()), Some("json" | "yaml")));
            files.sort();
            for file in files {
                let read = std::fs::read_to_string(&file).map_err(|e| e.to_string());
                if let Err(error) = read.and_then(|text| out.add(&text)) {
                    tracing::warn!(file = %file.display(), error, "a CDI spec is unreadable");
                }
            }
        }
        out
    }

    fn add(&mut self, text: &str) -> Result<(), String> {
        let spec: Spec = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        for device in spec.devices {
            let name = format!("{}={}", spec.kind, device.name);
            self.0.insert(name, (device.container_edits, spec.container_edits.clone()));
        }
        Ok(())
    }
}

/// Adds what the named devices need.
pub fn inject(grant: &mut Grant, names: &BTreeSet<String>, specs: &Specs) -> Result<(), String> {
    let unknown: Vec<&str> = names.iter().filter(|n| !specs.0.contains_key(*n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("CDI device injection failed: unresolvable CDI devices {}", unknown.join(", ")));
    }
    for name in names {
        let (own, common) = &specs.0[name];
        for edits in [own, common] {
            edit(grant, edits).map_err(|e| format!("CDI device injection failed: {name}: {e}"))?;
        }
    }
    Ok(())
}

fn edit(grant: &mut Grant, edits: &Edits) -> Result<(), String> {
    let refused = [
        ("hooks", !edits.hooks.is_empty()),
        ("netDevices", !edits.net_devices.is_empty()),
        ("intelRdt", edits.intel_rdt.is_some()),
    ];
    if let Some((what, _)) = refused.into_iter().find(|(_, there)| *there) {
        return Err(format!("{what} of a CDI spec is not supported by dhow"));
    }
    for (name, value) in edits.env.iter().filter_map(|e| e.split_once('=')) {
        grant.env.entry(name.to_owned()).or_insert_with(|| value.to_owned());
    }
    for mount in &edits.mounts {
        grant.add_mount(Mount {
            source: mount.host_path.clone(),
            target: mount.container_path.clone(),
            read_only: mount.options.iter().any(|o| o == "ro"),
            ..Mount::default()
        });
    }
    for node in &edits.device_nodes {
        grant.add_devices(device(node)?);
    }
    grant.groups.extend(&edits.groups);
    Ok(())
}

/// What the spec leaves out is as on the node.
fn device(node: &DeviceNode) -> Result<Vec<Device>, String> {
    let (Some(major), Some(minor)) = (node.major, node.minor) else {
        let from = node.host_path.as_ref().unwrap_or(&node.path);
        let mut found =
            device_files(from, &node.path, &node.permissions).map_err(|e| format!("{}: {e}", from.display()))?;
        for device in &mut found {
            device.owner = (node.uid.unwrap_or(device.owner.0), node.gid.unwrap_or(device.owner.1));
            device.mode = node.file_mode.unwrap_or(device.mode);
        }
        return Ok(found);
    };
    Ok(vec![Device {
        source: node.host_path.clone().unwrap_or_else(|| node.path.clone()),
        target: node.path.clone(),
        kind: if node.r#type == "b" { 'b' } else { 'c' },
        major,
        minor,
        mode: node.file_mode.unwrap_or(0o660),
        owner: (node.uid.unwrap_or(0), node.gid.unwrap_or(0)),
        access: if node.permissions.is_empty() { "rwm".into() } else { node.permissions.clone() },
    }])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(names: &[&str], want: &str) {
        let mut specs = Specs::default();
        specs
            .add(
                "{cdiVersion: 0.6.0, kind: v.example/gpu, containerEdits: {env: [LIB=1]}, devices: [\
                {name: a, containerEdits: {deviceNodes: [{path: /dev/a, type: c, major: 9, minor: 1}], mounts: [{hostPath: /h, containerPath: /c, options: [ro]}]}},\
                {name: b, containerEdits: {hooks: [{hookName: createContainer, path: /bin/x}]}}]}",
            )
            .expect("valid");
        let mut grant = Grant::default();
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let got = match inject(&mut grant, &names, &specs) {
            Err(error) => error,
            Ok(()) => {
                let devices: Vec<String> =
                    grant.devices.iter().map(|d| format!("{}{}:{} {}", d.kind, d.major, d.minor, d.access)).collect();
                let mounts: Vec<String> =
                    grant.mounts.iter().map(|m| format!("{} ro={}", m.target.display(), m.read_only)).collect();
                format!("{:?} {} {}", grant.env, devices.join(","), mounts.join(","))
            }
        };
        assert_eq!(got, want);
    }

    #[test]
    fn devices_bring_what_their_spec_says() {
        check(&["v.example/gpu=a"], r#"{"LIB": "1"} c9:1 rwm /c ro=true"#);
        check(&["v.example/gpu=x"], "CDI device injection failed: unresolvable CDI devices v.example/gpu=x");
        let refused = "CDI device injection failed: v.example/gpu=b: hooks of a CDI spec is not supported by dhow";
        check(&["v.example/gpu=b"], refused);
    }
}
