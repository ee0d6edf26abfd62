//! Sandboxes and containers in the interface's words (`pkg/kubelet/kuberuntime`: `kuberuntime_sandbox.go`,
//! `kuberuntime_container_linux.go`, `security_context.go`). Pure.
//!
//! What the agent must know of a sandbox or container after a restart travels as annotations, which the runtime keeps: the whole
//! configuration of the sandbox, and the labels of the container's run.

use crate::engine::{
    AppArmor, ContainerSpec, Device, Mount, Processes, Propagation, Resources, SandboxSpec, SeLinux, Seccomp, User,
};
use api::k8s::api::core::v1::{ContainerUser, LinuxContainerUser};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use node_api::cri::security_profile::ProfileType;
use node_api::cri::{
    Capability, CdiDevice, ContainerConfig, ContainerMetadata, IdMapping, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
    LinuxSandboxSecurityContext, MountPropagation, NamespaceMode, NamespaceOption, PodSandboxConfig,
    PodSandboxMetadata, PortMapping, Protocol, SeLinuxOption, SecurityProfile, Signal, SupplementalGroupsPolicy,
    UserNamespace,
};
use node_api::cri::{ContainerUser as CriUser, Device as CriDevice, Mount as CriMount};
use prost::Message as _;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Labels that tools for container runtimes look for (`pkg/kubelet/types/labels.go`).
const POD_NAME: &str = "io.kubernetes.pod.name";
const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
const POD_UID: &str = "io.kubernetes.pod.uid";
const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: the sandbox' own configuration, without this annotation.
const CONFIG: &str = "dhow.dev/config";
/// What the names of annotations that are labels of a run begin with.
const LABEL: &str = "dhow.dev/label-";

/// The sandbox' configuration. `cgroup_root` is empty or `/path`.
pub(super) fn sandbox(spec: &SandboxSpec, cgroup_root: &str) -> PodSandboxConfig {
    let labels = [(POD_NAME, &spec.name), (POD_NAMESPACE, &spec.namespace), (POD_UID, &spec.uid)];
    let mut config = PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: spec.name.clone(),
            uid: spec.uid.clone(),
            namespace: spec.namespace.clone(),
            attempt: spec.attempt,
        }),
        // The kubelet gives the node's name to pods of the node's network, too.
        hostname: spec.hostname.clone().unwrap_or_default(),
        log_directory: spec.log_dir.display().to_string(),
        port_mappings: spec.host_ports.iter().map(port_mapping).collect(),
        labels: labels.map(|(k, v)| (k.to_owned(), v.clone())).into(),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: format!("{cgroup_root}/{}", spec.cgroup),
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(spec)),
                privileged: spec.privileged,
                selinux_options: selinux(&spec.selinux),
                seccomp: Some(profile(&Seccomp::RuntimeDefault)),
                ..LinuxSandboxSecurityContext::default()
            }),
            sysctls: spec.sysctls.clone().into_iter().collect(),
            resources: Some(resources(&spec.resources)),
            ..LinuxPodSandboxConfig::default()
        }),
        ..PodSandboxConfig::default()
    };
    let kept = STANDARD.encode(config.encode_to_vec());
    config.annotations.insert(CONFIG.into(), kept);
    config
}

/// The configuration of a sandbox that we made; `None`: somebody else did.
pub(super) fn own_sandbox(annotations: &HashMap<String, String>) -> Option<PodSandboxConfig> {
    let kept = annotations.get(CONFIG)?;
    let mut config = PodSandboxConfig::decode(STANDARD.decode(kept).ok()?.as_slice()).ok()?;
    config.annotations.insert(CONFIG.into(), kept.clone());
    Some(config)
}

/// The labels of a run, from its container's annotations.
pub(super) fn labels(annotations: &HashMap<String, String>) -> BTreeMap<String, String> {
    annotations.iter().filter_map(|(k, v)| Some((k.strip_prefix(LABEL)?.to_owned(), v.clone()))).collect()
}

fn port_mapping(port: &crate::network::HostPort) -> PortMapping {
    PortMapping {
        protocol: Protocol::from_str_name(&port.protocol).unwrap_or(Protocol::Tcp).into(),
        container_port: port.container_port.into(),
        host_port: port.host_port.into(),
        host_ip: port.host_ip.map(|ip| ip.to_string()).unwrap_or_default(),
    }
}

fn namespaces(spec: &SandboxSpec) -> NamespaceOption {
    let mode = |host: bool, own: NamespaceMode| if host { NamespaceMode::Node } else { own };
    let pid = if spec.share_pid { NamespaceMode::Pod } else { NamespaceMode::Container };
    NamespaceOption {
        network: mode(spec.host_network, NamespaceMode::Pod).into(),
        pid: mode(spec.host_pid, pid).into(),
        ipc: mode(spec.host_ipc, NamespaceMode::Pod).into(),
        target_id: String::new(),
        userns_options: spec.users.map(|ids| {
            let all = vec![IdMapping { host_id: ids.first, container_id: 0, length: ids.length }];
            UserNamespace { mode: NamespaceMode::Pod.into(), uids: all.clone(), gids: all }
        }),
    }
}

/// The container's configuration. Sub-paths of its mounts are resolved before.
pub(super) fn container(spec: &ContainerSpec, sandbox: &PodSandboxConfig) -> ContainerConfig {
    let log_dir = Path::new(&sandbox.log_directory);
    let log_path = spec.log_path.strip_prefix(log_dir).unwrap_or(&spec.log_path);
    let mut labels = sandbox.labels.clone();
    labels.insert(CONTAINER_NAME.into(), spec.name.clone());
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: spec.name.clone(), attempt: spec.restarts }),
        image: Some(image(&spec.image.id)),
        command: spec.command.clone(),
        args: spec.args.clone(),
        working_dir: spec.cwd.clone(),
        envs: spec.env.iter().map(|(k, v)| KeyValue { key: k.clone(), value: v.clone().into_bytes() }).collect(),
        mounts: spec.mounts.iter().map(|m| mount(m, sandbox)).collect(),
        devices: spec.devices.iter().map(device).collect(),
        cdi_devices: spec.cdi_devices.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
        labels,
        annotations: spec.labels.iter().map(|(k, v)| (format!("{LABEL}{k}"), v.clone())).collect(),
        log_path: log_path.display().to_string(),
        stdin: spec.stdin,
        stdin_once: spec.stdin_once,
        tty: spec.tty,
        linux: Some(LinuxContainerConfig {
            resources: Some(LinuxContainerResources {
                oom_score_adj: spec.oom_score_adj.into(),
                ..resources(&spec.resources)
            }),
            security_context: Some(security(spec, sandbox)),
        }),
        stop_signal: Signal::from_str_name(&spec.stop_signal).unwrap_or(Signal::RuntimeDefault).into(),
        ..ContainerConfig::default()
    }
}

/// An image by its id.
pub(super) fn image(id: &str) -> ImageSpec {
    ImageSpec { image: id.to_owned(), ..ImageSpec::default() }
}

fn mount(mount: &Mount, sandbox: &PodSandboxConfig) -> CriMount {
    let propagation = match mount.propagation {
        Propagation::Private => MountPropagation::PropagationPrivate,
        Propagation::HostToContainer => MountPropagation::PropagationHostToContainer,
        Propagation::Bidirectional => MountPropagation::PropagationBidirectional,
    };
    let users = sandbox.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let users = users.and_then(|s| s.namespace_options.as_ref()?.userns_options.clone()).unwrap_or_default();
    CriMount {
        container_path: mount.target.display().to_string(),
        host_path: match &mount.image {
            None => mount.source.display().to_string(),
            Some(_) => String::new(),
        },
        readonly: mount.read_only || mount.recursive_read_only,
        recursive_read_only: mount.recursive_read_only,
        propagation: propagation.into(),
        image: mount.image.as_ref().map(|files| image(&files.id)),
        image_sub_path: match (&mount.image, &mount.sub_path) {
            (Some(_), Some(path)) => path.display().to_string(),
            _ => String::new(),
        },
        // What is mounted of an image is the runtime's.
        selinux_relabel: mount.relabel && mount.image.is_none() && runtime::selinux::is_enabled(),
        uid_mappings: users.uids,
        gid_mappings: users.gids,
    }
}

fn device(device: &Device) -> CriDevice {
    CriDevice {
        container_path: device.target.display().to_string(),
        host_path: device.source.display().to_string(),
        permissions: device.access.clone(),
    }
}

fn security(spec: &ContainerSpec, sandbox: &PodSandboxConfig) -> LinuxContainerSecurityContext {
    let of_pod = sandbox.linux.as_ref().and_then(|l| l.security_context.as_ref());
    let mut namespaces = of_pod.and_then(|s| s.namespace_options.clone()).unwrap_or_default();
    if let Processes::Of(id) = &spec.processes {
        namespaces.pid = NamespaceMode::Target.into();
        namespaces.target_id.clone_from(id);
    }
    let paths = |all: fn() -> Vec<std::path::PathBuf>| {
        let all = if spec.unmasked_proc { Vec::new() } else { all() };
        all.iter().map(|p| p.display().to_string()).collect()
    };
    let policy =
        if spec.user.merge_image_groups { SupplementalGroupsPolicy::Merge } else { SupplementalGroupsPolicy::Strict };
    let (run_as_user, run_as_username) = user(&spec.user);
    LinuxContainerSecurityContext {
        // All of them are told, so the runtime's own set must go first.
        capabilities: Some(Capability {
            add_capabilities: spec.capabilities.iter().map(|c| c.trim_start_matches("CAP_").to_owned()).collect(),
            drop_capabilities: vec!["ALL".into()],
            add_ambient_capabilities: Vec::new(),
        }),
        privileged: spec.privileged,
        namespace_options: Some(namespaces),
        run_as_user,
        run_as_username,
        run_as_group: spec.user.gid.map(number),
        readonly_rootfs: spec.read_only_rootfs,
        supplemental_groups: spec.user.groups.iter().map(|g| i64::from(*g)).collect(),
        supplemental_groups_policy: policy.into(),
        no_new_privs: spec.no_new_privileges,
        masked_paths: paths(runtime::spec::masked_paths),
        readonly_paths: paths(runtime::spec::readonly_paths),
        seccomp: Some(profile(&spec.seccomp)),
        apparmor: spec.app_armor.as_ref().map(app_armor),
        selinux_options: selinux(&spec.selinux),
        ..LinuxContainerSecurityContext::default()
    }
}

fn number(id: u32) -> Int64Value {
    Int64Value { value: id.into() }
}

/// Number or name. Nothing if the image alone says it: then its group counts, too.
fn user(user: &User) -> (Option<Int64Value>, String) {
    if let Some(uid) = user.uid {
        return (Some(number(uid)), String::new());
    }
    if user.gid.is_none() {
        return (None, String::new());
    }
    // A group alone is refused, so the image's user is told with it.
    let name = user.name.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(uid) => (Some(number(uid)), String::new()),
        Err(_) if name.is_empty() => (Some(number(0)), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

fn profile(seccomp: &Seccomp) -> SecurityProfile {
    let (profile_type, localhost_ref) = match seccomp {
        Seccomp::RuntimeDefault => (ProfileType::RuntimeDefault, String::new()),
        Seccomp::Unconfined => (ProfileType::Unconfined, String::new()),
        Seccomp::Localhost(name) => (ProfileType::Localhost, name.clone()),
        Seccomp::Profile { path, .. } => (ProfileType::Localhost, path.display().to_string()),
    };
    SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

/// Whom a container runs as, in the API's words.
pub(super) fn user_of(user: CriUser) -> Option<ContainerUser> {
    let linux = user.linux?;
    let linux =
        LinuxContainerUser { uid: linux.uid, gid: linux.gid, supplemental_groups: Some(linux.supplemental_groups) };
    Some(ContainerUser { linux: Some(linux) })
}

fn app_armor(wish: &AppArmor) -> SecurityProfile {
    let (profile_type, localhost_ref) = match wish {
        AppArmor::Default => (ProfileType::RuntimeDefault, String::new()),
        AppArmor::Unconfined => (ProfileType::Unconfined, String::new()),
        AppArmor::Profile(name) => (ProfileType::Localhost, name.clone()),
    };
    SecurityProfile { profile_type: profile_type.into(), localhost_ref }
}

/// `None` if nothing was said: then a runtime decides.
fn selinux(said: &SeLinux) -> Option<SeLinuxOption> {
    let SeLinux { user, role, kind, level } = said.clone();
    (!said.is_empty()).then_some(SeLinuxOption { user, role, r#type: kind, level })
}

/// Limits in the interface's words; 0 is none.
pub(super) fn resources(resources: &Resources) -> LinuxContainerResources {
    let number = |n: Option<u64>| n.and_then(|n| i64::try_from(n).ok()).unwrap_or(0);
    LinuxContainerResources {
        cpu_period: number(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us.unwrap_or(0),
        cpu_shares: number(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_bytes.unwrap_or(0),
        // As much as the limit is no swap.
        memory_swap_limit_in_bytes: resources.memory_bytes.unwrap_or(0),
        unified: resources.swap_bytes.map(|n| ("memory.swap.max".to_owned(), n.to_string())).into_iter().collect(),
        cpuset_mems: resources.memory_nodes.clone().unwrap_or_default(),
        cpuset_cpus: resources.cpuset.clone().unwrap_or_default(),
        ..LinuxContainerResources::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ImageFiles;
    use crate::images::Image;
    use expect_test::{Expect, expect};

    fn spec() -> SandboxSpec {
        SandboxSpec {
            name: "web".into(),
            namespace: "default".into(),
            uid: "1-2-3".into(),
            hostname: Some("web".into()),
            cgroup: "kubepods/pod1-2-3".into(),
            log_dir: "/logs/default_web_1-2-3".into(),
            ..SandboxSpec::default()
        }
    }

    #[test]
    fn a_sandbox_is_known_again_by_its_annotations() {
        let config = sandbox(&spec(), "/root");
        assert_eq!(config.linux.as_ref().expect("linux").cgroup_parent, "/root/kubepods/pod1-2-3");
        assert_eq!(own_sandbox(&config.annotations), Some(config));
        assert_eq!(own_sandbox(&HashMap::new()), None);
        let broken = HashMap::from([(CONFIG.to_owned(), "?".to_owned())]);
        assert_eq!(own_sandbox(&broken), None);
    }

    fn check_user(name: &str, uid: Option<u32>, gid: Option<u32>, want: &str) {
        let spec =
            ContainerSpec { user: User { name: name.into(), uid, gid, ..User::default() }, ..ContainerSpec::default() };
        let s = security(&spec, &sandbox(&super::tests::spec(), ""));
        let value = |v: Option<Int64Value>| v.map_or("-".to_owned(), |v| v.value.to_string());
        assert_eq!(format!("{} {:?} {}", value(s.run_as_user), s.run_as_username, value(s.run_as_group)), want);
    }

    #[test]
    fn a_group_goes_with_a_user() {
        check_user("nobody", None, None, "- \"\" -");
        check_user("nobody", Some(5), None, "5 \"\" -");
        check_user("nobody:users", None, Some(7), "- \"nobody\" 7");
        check_user("12:13", None, Some(7), "12 \"\" 7");
        check_user("", None, Some(7), "0 \"\" 7");
    }

    #[test]
    fn selinux_options_are_passed_on_if_there_are_any() {
        let wish = SeLinux { kind: "t".into(), level: "s0:c1".into(), ..SeLinux::default() };
        let want = SeLinuxOption { r#type: "t".into(), level: "s0:c1".into(), ..SeLinuxOption::default() };
        let of_sandbox = |spec: &SandboxSpec| {
            sandbox(spec, "").linux.and_then(|l| l.security_context).and_then(|s| s.selinux_options)
        };
        assert_eq!(of_sandbox(&spec()), None);
        assert_eq!(of_sandbox(&SandboxSpec { selinux: wish.clone(), ..spec() }), Some(want.clone()));
        let of_container = |selinux| {
            security(&ContainerSpec { selinux, ..ContainerSpec::default() }, &sandbox(&spec(), "")).selinux_options
        };
        assert_eq!(of_container(SeLinux::default()), None);
        assert_eq!(of_container(wish), Some(want));
    }

    fn check_container(spec: &ContainerSpec, want: Expect) {
        let c = container(spec, &sandbox(&super::tests::spec(), ""));
        let linux = c.linux.clone().expect("linux");
        let security = linux.security_context.expect("security");
        let mounts: Vec<String> = c
            .mounts
            .iter()
            .map(|m| {
                let image = m.image.as_ref().map(|i| format!("{}#{}", i.image, m.image_sub_path));
                let ro = if m.readonly { "ro" } else { "rw" };
                format!("{} on {} {ro}", image.unwrap_or(m.host_path.clone()), m.container_path)
            })
            .collect();
        want.assert_eq(&format!(
            "{:?} {:?} of {} log {}\nmounts {mounts:?}\ncaps {:?} masked {} pid {:?} signal {:?}\nmemory {} labels {:?}\n",
            c.command,
            c.args,
            c.image.clone().expect("image").image,
            c.log_path,
            security.capabilities.clone().expect("capabilities"),
            security.masked_paths.len(),
            security.namespace_options.clone().expect("namespaces").pid(),
            c.stop_signal(),
            linux.resources.expect("resources").memory_limit_in_bytes,
            labels(&c.annotations),
        ));
    }

    #[test]
    fn a_container() {
        let mounts = vec![
            Mount { source: "/v".into(), target: "/data".into(), read_only: true, ..Mount::default() },
            Mount {
                image: Some(ImageFiles { id: "sha256:2".into(), layers: vec!["/l".into()] }),
                sub_path: Some("dir".into()),
                target: "/files".into(),
                ..Mount::default()
            },
        ];
        let spec = ContainerSpec {
            image: Image { id: "sha256:1".into(), ..Image::default() },
            args: vec!["a".into()],
            labels: BTreeMap::from([("name".to_owned(), "c".to_owned())]),
            capabilities: vec!["CAP_CHOWN".into()],
            processes: Processes::Of("other".into()),
            stop_signal: "SIGUSR1".into(),
            log_path: "/logs/default_web_1-2-3/c/0.log".into(),
            mounts,
            resources: Resources { memory_bytes: Some(4096), ..Resources::default() },
            ..ContainerSpec::default()
        };
        check_container(
            &spec,
            expect![[r#"
            [] ["a"] of sha256:1 log c/0.log
            mounts ["/v on /data ro", "sha256:2#dir on /files rw"]
            caps Capability { add_capabilities: ["CHOWN"], drop_capabilities: ["ALL"], add_ambient_capabilities: [] } masked 12 pid Target signal Sigusr1
            memory 4096 labels {"name": "c"}
        "#]],
        );
    }
}
