//! Container Device Interface: files of device makers that say what a container needs for a device (CDI specification 1.0).
//!
//! Pure but for [`Specs::read`] and the looks at device files. Differs: hooks that run in the runtime's namespaces (`createRuntime`,
//! `prestart`, `poststart`, `poststop`), network devices and cache partitions are refused by name.

use crate::devices;
use crate::spec::{Device, Hook, Hooks, Mount, ReadOnly};
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
    hooks: Vec<SpecHook>,
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

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SpecHook {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<u32>,
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

/// What a container gets for its devices.
#[derive(Debug, Default)]
pub struct Needs {
    /// Variables; of two of one name the first counts.
    pub env: Vec<(String, String)>,
    /// Bind mounts; of two at one place the first counts.
    pub mounts: Vec<Mount>,
    /// Device files, each after the one of the machine that it stands for; of two at one place the first counts.
    pub devices: Vec<(PathBuf, Device)>,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// Programs of the machine.
    pub hooks: Hooks,
}

/// What the named devices need.
pub fn needs(names: &BTreeSet<String>, specs: &Specs) -> Result<Needs, String> {
    let unknown: Vec<&str> = names.iter().filter(|n| !specs.0.contains_key(*n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        return Err(format!("CDI device injection failed: unresolvable CDI devices {}", unknown.join(", ")));
    }
    let mut needs = Needs::default();
    for name in names {
        let (own, common) = &specs.0[name];
        for edits in [own, common] {
            needs.edit(edits).map_err(|e| format!("CDI device injection failed: {name}: {e}"))?;
        }
    }
    Ok(needs)
}

impl Needs {
    fn edit(&mut self, edits: &Edits) -> Result<(), String> {
        let refused = [("netDevices", !edits.net_devices.is_empty()), ("intelRdt", edits.intel_rdt.is_some())];
        if let Some((what, _)) = refused.into_iter().find(|(_, there)| *there) {
            return Err(format!("{what} of a CDI spec is not supported by dhow"));
        }
        for (name, value) in edits.env.iter().filter_map(|e| e.split_once('=')) {
            if self.env.iter().all(|(n, _)| n != name) {
                self.env.push((name.to_owned(), value.to_owned()));
            }
        }
        for mount in edits.mounts.iter().map(mount) {
            if self.mounts.iter().all(|m| m.destination != mount.destination) {
                self.mounts.push(mount);
            }
        }
        for node in &edits.device_nodes {
            for found in device(node)? {
                if self.devices.iter().all(|(_, d)| d.path != found.1.path) {
                    self.devices.push(found);
                }
            }
        }
        self.groups.extend(&edits.groups);
        edits.hooks.iter().try_for_each(|hook| self.add_hook(hook))
    }

    fn add_hook(&mut self, said: &SpecHook) -> Result<(), String> {
        let SpecHook { hook_name, path, args, env, timeout } = said;
        let all = match hook_name.as_str() {
            "createContainer" => &mut self.hooks.create_container,
            "startContainer" => &mut self.hooks.start_container,
            "createRuntime" | "prestart" | "poststart" | "poststop" => {
                return Err(format!("a {hook_name} hook of a CDI spec is not supported by dhow"));
            }
            _ => return Err(format!("invalid hook name {hook_name:?}")),
        };
        if !path.is_absolute() {
            return Err(format!("invalid hook path {path:?}: it is not absolute"));
        }
        all.push(Hook { path: path.clone(), args: args.clone(), env: env.clone(), timeout_seconds: *timeout });
        Ok(())
    }
}

fn mount(said: &SpecMount) -> Mount {
    let has = |option: &str| said.options.iter().any(|o| o == option);
    Mount {
        readonly: if has("ro") { ReadOnly::Yes } else { ReadOnly::No },
        nosuid: has("nosuid"),
        nodev: has("nodev"),
        noexec: has("noexec"),
        ..Mount::bind(&said.host_path, &said.container_path)
    }
}

/// What the spec leaves out is as on the machine.
fn device(node: &DeviceNode) -> Result<Vec<(PathBuf, Device)>, String> {
    let from = node.host_path.as_ref().unwrap_or(&node.path);
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    let (Some(major), Some(minor)) = (node.major, node.minor) else {
        let found = devices::at(from, &node.path, access).map_err(|e| format!("{}: {e}", from.display()))?;
        if found.is_empty() {
            return Err(format!("{}: not a device node", from.display()));
        }
        let like_the_machines = |found: Device| {
            let source = found.path.strip_prefix(&node.path).map_or_else(|_| from.clone(), |rest| join(from, rest));
            let device = Device {
                uid: node.uid.unwrap_or(found.uid),
                gid: node.gid.unwrap_or(found.gid),
                mode: node.file_mode.unwrap_or(found.mode),
                ..found
            };
            (source, device)
        };
        return Ok(found.into_iter().map(like_the_machines).collect());
    };
    let device = Device {
        path: node.path.clone(),
        kind: if node.r#type == "b" { 'b' } else { 'c' },
        major,
        minor,
        mode: node.file_mode.unwrap_or(0o660),
        uid: node.uid.unwrap_or(0),
        gid: node.gid.unwrap_or(0),
        access: access.to_owned(),
    };
    Ok(vec![(from.clone(), device)])
}

/// Without the slash that joining nothing leaves behind.
fn join(path: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) }
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
                {name: n, containerEdits: {deviceNodes: [{path: /dev/n, hostPath: /dev/null, permissions: r}]}},\
                {name: h, containerEdits: {hooks: [{hookName: createContainer, path: /bin/x, args: [x, link], timeout: 5}]}},\
                {name: b, containerEdits: {hooks: [{hookName: poststop, path: /bin/x}]}}]}",
            )
            .expect("valid");
        let names = names.iter().map(|n| (*n).to_owned()).collect();
        let got = match needs(&names, &specs) {
            Err(error) => error,
            Ok(needs) => {
                let devices = needs.devices.iter();
                let devices: Vec<String> = devices
                    .map(|(from, d)| format!("{} {}{}:{} {}", from.display(), d.kind, d.major, d.minor, d.access))
                    .collect();
                let mounts: Vec<String> =
                    needs.mounts.iter().map(|m| format!("{} {:?}", m.destination.display(), m.readonly)).collect();
                let hooks = needs.hooks.create_container.iter();
                let hooks: Vec<String> = hooks.map(|h| format!("{:?} {:?}", h.args, h.timeout_seconds)).collect();
                format!("{:?} {} {}{}", needs.env, devices.join(","), mounts.join(","), hooks.join(","))
            }
        };
        assert_eq!(got, want);
    }

    #[test]
    fn devices_bring_what_their_spec_says() {
        check(&["v.example/gpu=a"], r#"[("LIB", "1")] /dev/a c9:1 rwm /c Yes"#);
        check(&["v.example/gpu=n"], r#"[("LIB", "1")] /dev/null c1:3 r "#);
        check(&["v.example/gpu=x"], "CDI device injection failed: unresolvable CDI devices v.example/gpu=x");
        check(&["v.example/gpu=h"], r#"[("LIB", "1")]  ["x", "link"] Some(5)"#);
        let refused =
            "CDI device injection failed: v.example/gpu=b: a poststop hook of a CDI spec is not supported by dhow";
        check(&["v.example/gpu=b"], refused);
    }
}
