//! Pod and container specs become what the engine is told. Pure: everything looked up before is an argument.
//!
//! One file per question: [`mod@env`], [`fields`] (downward API), [`resources`] (cgroups, QoS), [`security`] (user,
//! capabilities, seccomp), [`hosts`], [`dns`], [`expand`] (`$(NAME)`).

pub mod dns;
pub mod env;
pub mod env_file;
pub mod expand;
pub mod fields;
pub mod hosts;
pub mod resources;
pub mod security;

use super::view;
use crate::engine::{ContainerSpec, Device, Mount, Processes, Rootfs, SandboxSpec};
use crate::images::{Image, ImageConfig};
use crate::network::HostPort;
use crate::swap::Swap;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use thiserror::Error;

/// A spec that cannot be formed: `CreateContainerConfigError`.
#[derive(Debug, Error)]
pub enum SpecError {
    /// Environment.
    #[error(transparent)]
    Env(#[from] env::EnvError),
    /// User, capabilities, profiles.
    #[error(transparent)]
    Security(#[from] security::SecurityError),
    /// Hostname.
    #[error(transparent)]
    Name(#[from] hosts::NameError),
}

/// The sandbox of a pod; its ids, if it is to have its own, its runtime handler and its log directory are still to be given.
pub fn sandbox_spec(pod: &Pod, attempt: u32, id: String, cluster_domain: &str) -> Result<SandboxSpec, SpecError> {
    let spec = view::spec(pod);
    let (hostname, domain) = hosts::names(pod, cluster_domain)?;
    let hostname = hosts::kernel_name(pod, &hostname, &domain)?;
    let sysctls = spec.security_context.as_ref().and_then(|c| c.sysctls.as_ref()).into_iter().flatten();
    Ok(SandboxSpec {
        id,
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        attempt,
        hostname: (!view::is_host_network(pod)).then_some(hostname),
        sysctls: sysctls.map(|s| (dotted(&s.name), s.value.clone())).collect(),
        cgroup: resources::pod_cgroup_path(pod),
        resources: resources::pod_cgroup(pod),
        host_network: view::is_host_network(pod),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
        users: None,
        selinux: security::of_pod(pod),
        runtime_handler: String::new(),
        log_dir: PathBuf::new(),
        host_ports: host_ports(pod),
        privileged: view::all_containers(pod).iter().any(|(_, c)| security::effective(pod, c).privileged == Some(true)),
    })
}

/// `net/ipv4/ip_forward` → `net.ipv4.ip_forward`; with a first separator `.` nothing changes (`sysctl.NormalizeName`).
pub fn dotted(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => name
            .chars()
            .map(|c| {
                if c == '/' {
                    '.'
                } else if c == '.' {
                    '/'
                } else {
                    c
                }
            })
            .collect(),
        _ => name.to_owned(),
    }
}

/// The pod's `hostPort`s; none with the node's network, where the process itself binds.
pub fn host_ports(pod: &Pod) -> Vec<HostPort> {
    if view::is_host_network(pod) {
        return Vec::new();
    }
    let sidecars = view::init_containers(pod).iter().filter(|c| view::is_sidecar(c));
    let ports = view::app_containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let port = |n: i32| u16::try_from(n).ok().filter(|n| *n != 0);
    ports
        .filter_map(|p| {
            Some(HostPort {
                host_ip: p.host_ip.as_deref().and_then(|ip| ip.parse().ok()),
                host_port: port(p.host_port.unwrap_or(0))?,
                container_port: port(p.container_port)?,
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
            })
        })
        .collect()
}

/// Everything about a container that had to be looked up.
#[derive(Debug)]
pub struct ContainerInput<'a> {
    /// The sandbox.
    pub sandbox: &'a str,
    /// The new run's id.
    pub id: String,
    /// Kept by the engine and given back after a restart of the agent.
    pub labels: BTreeMap<String, String>,
    /// `restartCount`
    pub restarts: u32,
    /// The image.
    pub image: &'a Image,
    /// Its root file system.
    pub rootfs: Rootfs,
    /// Objects that the environment refers to.
    pub sources: &'a env::Sources,
    /// Addresses and sizes.
    pub facts: &'a fields::Facts,
    /// Volumes, `/etc/hosts`, … in order.
    pub mounts: Vec<Mount>,
    /// Raw block volumes.
    pub devices: Vec<Device>,
    /// What `uname -n` says in the pod.
    pub hostname: &'a str,
    /// Log file.
    pub log_path: PathBuf,
    /// The run whose processes an ephemeral container sees.
    pub target: Option<String>,
    /// The node's memory, bytes.
    pub node_memory: i64,
    /// The node's swap.
    pub swap: &'a Swap,
}

/// A container.
pub fn container_spec(pod: &Pod, c: &Container, input: ContainerInput<'_>) -> Result<ContainerSpec, SpecError> {
    let context = security::effective(pod, c);
    let user = security::user(pod, c, &input.image.config.user)?;
    let env = env::environment(pod, c, input.sources, input.facts)?;
    let (command, args) = command(c, &env);
    let privileged = context.privileged == Some(true);
    Ok(ContainerSpec {
        sandbox: input.sandbox.to_owned(),
        id: input.id,
        name: c.name.clone(),
        restarts: input.restarts,
        labels: input.labels,
        image: input.image.clone(),
        command,
        args,
        env,
        hostname: input.hostname.to_owned(),
        cwd: c.working_dir.clone().unwrap_or_default(),
        user,
        rootfs: input.rootfs,
        read_only_rootfs: context.read_only_root_filesystem == Some(true),
        mounts: input.mounts,
        cdi_devices: BTreeSet::new(),
        capabilities: security::capabilities(&context)?,
        privileged,
        stop_signal: stop_signal(c, &input.image.config),
        no_new_privileges: context.allow_privilege_escalation == Some(false),
        seccomp: security::seccomp(&context)?,
        app_armor: security::app_armor(&context)?,
        selinux: security::selinux(context.se_linux_options.as_ref()),
        unmasked_proc: privileged || context.proc_mount.as_deref() == Some("Unmasked"),
        resources: resources::container_cgroup(pod, c, input.swap),
        oom_score_adj: resources::oom_score_adj(pod, c, input.node_memory),
        tty: c.tty == Some(true),
        stdin: c.stdin == Some(true),
        stdin_once: c.stdin_once == Some(true),
        hooks: runtime::Hooks::default(),
        log_path: input.log_path,
        processes: processes(pod, input.target),
        devices: input.devices,
        cgroup: resources::pod_cgroup_path(pod),
    })
}

fn processes(pod: &Pod, target: Option<String>) -> Processes {
    let spec = view::spec(pod);
    match (spec.host_pid, spec.share_process_namespace, target) {
        (Some(true), ..) => Processes::Host,
        (_, Some(true), _) => Processes::Pod,
        (.., Some(id)) => Processes::Of(id),
        _ => Processes::Own,
    }
}

/// The signal that asks a container to stop.
pub fn stop_signal(c: &Container, image: &ImageConfig) -> String {
    let own = c.lifecycle.as_ref().and_then(|l| l.stop_signal.clone());
    own.or_else(|| image.stop_signal.clone()).filter(|s| !s.is_empty()).unwrap_or_else(|| "SIGTERM".into())
}

/// `command` and `args` with their variables replaced.
fn command(c: &Container, env: &[(String, String)]) -> (Vec<String>, Vec<String>) {
    let lookup = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        list.iter().flatten().map(|s| expand::expand(s, lookup)).collect()
    };
    (expanded(&c.command), expanded(&c.args))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use expect_test::{Expect, expect};

    fn check_spec(container: &str, want: Expect) {
        let pod = pod(&format!(r#"{{"containers":[{container}]}}"#));
        let config = ImageConfig { stop_signal: Some("SIGQUIT".into()), ..ImageConfig::default() };
        let image = Image { config, ..Image::default() };
        let c = &view::app_containers(&pod)[0];
        let input = ContainerInput {
            sandbox: "s",
            id: "id".into(),
            restarts: 0,
            labels: BTreeMap::new(),
            image: &image,
            rootfs: Rootfs::default(),
            sources: &env::Sources::default(),
            facts: &fields::Facts::default(),
            mounts: Vec::new(),
            devices: Vec::new(),
            hostname: "web",
            log_path: PathBuf::new(),
            target: None,
            node_memory: 1 << 30,
            swap: &Swap::default(),
        };
        let got = match container_spec(&pod, c, input) {
            Ok(s) => {
                let env: Vec<String> = s.env.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!(
                    "command {:?} args {:?}\nenv {}\ncwd {:?} stop {}\nreadonly={} privileged={} nnp={} caps={} seccomp={:?} tty={}\n",
                    s.command,
                    s.args,
                    env.join(" "),
                    s.cwd,
                    s.stop_signal,
                    s.read_only_rootfs,
                    s.privileged,
                    s.no_new_privileges,
                    s.capabilities.len(),
                    s.seccomp,
                    s.tty
                )
            }
            Err(e) => format!("error: {e}\n"),
        };
        want.assert_eq(&got);
    }

    #[test]
    fn what_is_open_is_left_to_the_image() {
        check_spec(
            r#"{"name":"a"}"#,
            expect![[r#"
                command [] args []
                env 
                cwd "" stop SIGQUIT
                readonly=false privileged=false nnp=false caps=14 seccomp=RuntimeDefault tty=false
            "#]],
        );
    }

    #[test]
    fn arguments_expand() {
        check_spec(
            r#"{"name":"a","args":["$(X)","$(Y)"],"env":[{"name":"X","value":"1"}],"tty":true}"#,
            expect![[r#"
                command [] args ["1", "$(Y)"]
                env X=1
                cwd "" stop SIGQUIT
                readonly=false privileged=false nnp=false caps=14 seccomp=RuntimeDefault tty=true
            "#]],
        );
    }

    #[test]
    fn security_is_applied() {
        check_spec(
            r#"{"name":"a","command":["sh"],"workingDir":"/x","lifecycle":{"stopSignal":"SIGUSR1"},
                "securityContext":{"readOnlyRootFilesystem":true,"allowPrivilegeEscalation":false,
                "capabilities":{"drop":["ALL"]},"seccompProfile":{"type":"Unconfined"}}}"#,
            expect![[r#"
                command ["sh"] args []
                env 
                cwd "/x" stop SIGUSR1
                readonly=true privileged=false nnp=true caps=0 seccomp=Unconfined tty=false
            "#]],
        );
    }

    #[test]
    fn sysctl_names() {
        assert_eq!(dotted("net/ipv4/conf/eth0.1/forwarding"), "net.ipv4.conf.eth0/1.forwarding");
        assert_eq!(dotted("kernel.shm_rmid_forced"), "kernel.shm_rmid_forced");
    }
}
