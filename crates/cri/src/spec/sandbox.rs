//! A pod sandbox.

use net::pod::HostPort;
use net::service::Protocol;
use node_api::cri::{self, DnsConfig, IdMapping, NamespaceMode, NamespaceOption, PodSandboxConfig};
use runtime::selinux::Wish as SeLinux;
use runtime::{Cgroup, IdRange, PodSandboxSpec, Resources};
use std::net::IpAddr;
use tonic::Status;

pub(crate) fn namespaces(config: &PodSandboxConfig) -> Option<&NamespaceOption> {
    config.linux.as_ref()?.security_context.as_ref()?.namespace_options.as_ref()
}

/// What it says of its SELinux label.
pub(crate) fn selinux(config: &PodSandboxConfig) -> SeLinux {
    let security = config.linux.as_ref().and_then(|l| l.security_context.as_ref());
    super::selinux(security.and_then(|s| s.selinux_options.as_ref()))
}

/// Uses the machine's network.
pub(crate) fn is_host_network(config: &PodSandboxConfig) -> bool {
    namespaces(config).is_some_and(|n| n.network() == NamespaceMode::Node)
}

/// The cgroup of a sandbox: its own below the parent that was said, because attempts of one pod share the parent, and the end of one
/// must not be the other's.
pub(crate) fn cgroup(id: &str, config: &PodSandboxConfig, default_parent: &str) -> String {
    let parent = config.linux.as_ref().map(|l| l.cgroup_parent.trim_end_matches('/')).filter(|p| !p.is_empty());
    format!("{}/{id}", parent.unwrap_or(default_parent))
}

/// A slice is systemd's: a cgroup that is made in it without systemd's knowledge loses its controllers when systemd next looks at it.
fn refuse_slices(config: &PodSandboxConfig) -> Result<(), Status> {
    match config.linux.as_ref().map(|l| l.cgroup_parent.trim_end_matches('/')) {
        Some(parent) if parent.ends_with(".slice") => Err(Status::unimplemented(format!(
            "the cgroup parent {parent:?} of the cgroup driver systemd is not supported by dhow: let the kubelet use cgroupfs"
        ))),
        _ => Ok(()),
    }
}

/// The sandbox as the engine makes it.
pub(crate) fn spec(id: &str, config: &PodSandboxConfig, default_parent: &str) -> Result<PodSandboxSpec, Status> {
    refuse_slices(config)?;
    let metadata =
        config.metadata.as_ref().ok_or_else(|| Status::invalid_argument("sandbox config has no metadata"))?;
    let options = namespaces(config);
    let mode = |mode: Option<NamespaceMode>| match mode {
        Some(NamespaceMode::Node) => runtime::NamespaceMode::Host,
        _ => runtime::NamespaceMode::Pod,
    };
    let network = mode(options.map(NamespaceOption::network));
    let labels = [("name", &metadata.name), ("namespace", &metadata.namespace), ("uid", &metadata.uid)];
    Ok(PodSandboxSpec {
        id: id.to_owned(),
        hostname: (!is_host_network(config) && !config.hostname.is_empty()).then(|| config.hostname.clone()),
        network,
        ipc: mode(options.map(NamespaceOption::ipc)),
        // Whoever has the machine's network has its name.
        uts: network,
        users: options.map_or(Ok(None), users)?,
        sysctls: config.linux.iter().flat_map(|l| l.sysctls.clone()).collect(),
        cgroup: Some(Cgroup { path: cgroup(id, config, default_parent), resources: Resources::default() }),
        labels: labels.map(|(k, v)| (k.to_owned(), v.clone())).into(),
        ..PodSandboxSpec::default()
    })
}

/// The users that a sandbox has of its own (containerd `internal/cri/server/helpers.go`, `parseUsernsIDs`). Differs: users and groups are
/// mapped alike and from 0, as kubelets want it.
pub(crate) fn users(options: &NamespaceOption) -> Result<Option<IdRange>, Status> {
    let invalid = |text: String| Err(Status::invalid_argument(text));
    let Some(said) = &options.userns_options else { return Ok(None) };
    let (mode, mapped) = (said.mode(), !said.uids.is_empty() || !said.gids.is_empty());
    match mode {
        NamespaceMode::Node if mapped => invalid(format!("can't use user namespace mode {mode:?} with mappings")),
        NamespaceMode::Node => Ok(None),
        NamespaceMode::Pod => match (said.uids.as_slice(), said.gids.as_slice()) {
            ([ids @ IdMapping { container_id: 0, host_id: 1.., length: 1.. }], [gids]) if ids == gids => {
                Ok(Some(IdRange { first: ids.host_id, length: ids.length }))
            }
            (uids, gids) => invalid(format!(
                "a user namespace needs one mapping from 0, the same for users and groups; got {uids:?} and {gids:?}"
            )),
        },
        NamespaceMode::Container | NamespaceMode::Target => {
            invalid(format!("unsupported user namespace mode: {mode:?}"))
        }
    }
}

/// Ports of the machine that lead into the sandbox; none with the machine's network, where the process itself binds.
pub(crate) fn host_ports(config: &PodSandboxConfig) -> Result<Vec<HostPort>, Status> {
    if is_host_network(config) {
        return Ok(Vec::new());
    }
    let wanted = config.port_mappings.iter().filter(|m| m.host_port != 0);
    wanted
        .map(|m| {
            let port = |n: i32| {
                let found = u16::try_from(n).ok().filter(|n| *n > 0);
                found.ok_or_else(|| Status::invalid_argument(format!("{n} is not a port")))
            };
            let host_ip = match m.host_ip.as_str() {
                "" => None,
                text => Some(text.parse::<IpAddr>().map_err(|e| Status::invalid_argument(format!("{text:?}: {e}")))?),
            };
            Ok(HostPort {
                host_ip: host_ip.filter(|ip| !ip.is_unspecified()),
                host_port: port(m.host_port)?,
                container_port: port(m.container_port)?,
                protocol: match m.protocol() {
                    cri::Protocol::Tcp => Protocol::Tcp,
                    cri::Protocol::Udp => Protocol::Udp,
                    cri::Protocol::Sctp => Protocol::Sctp,
                },
            })
        })
        .collect()
}

/// `/etc/resolv.conf`.
pub(crate) fn resolv_conf(dns: &DnsConfig) -> String {
    let mut out = String::new();
    if !dns.searches.is_empty() {
        out += &format!("search {}\n", dns.searches.join(" "));
    }
    for server in &dns.servers {
        out += &format!("nameserver {server}\n");
    }
    if !dns.options.is_empty() {
        out += &format!("options {}\n", dns.options.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::cri::{
        LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PodSandboxMetadata, PortMapping, UserNamespace,
    };

    fn config(options: NamespaceOption) -> PodSandboxConfig {
        let security = LinuxSandboxSecurityContext { namespace_options: Some(options), ..Default::default() };
        let linux = LinuxPodSandboxConfig {
            cgroup_parent: "/kubepods/podx/".into(),
            security_context: Some(security),
            ..Default::default()
        };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: "web".into(), ..Default::default() }),
            hostname: "web-0".into(),
            linux: Some(linux),
            ..Default::default()
        }
    }

    fn node() -> i32 {
        NamespaceMode::Node.into()
    }

    #[test]
    fn slices_of_systemd_are_refused() {
        let mut config = config(NamespaceOption::default());
        config.linux.get_or_insert_default().cgroup_parent = "kubepods-besteffort-podx.slice".into();
        assert_eq!(spec("id", &config, "/d").expect_err("systemd's").code(), tonic::Code::Unimplemented);
    }

    #[test]
    fn namespaces_are_the_pods_or_the_machines() {
        let own = spec("id", &config(NamespaceOption::default()), "/d").expect("valid");
        assert_eq!(own.hostname.as_deref(), Some("web-0"));
        assert_eq!((own.network, own.uts), (runtime::NamespaceMode::Pod, runtime::NamespaceMode::Pod));
        assert_eq!(own.cgroup.expect("one").path, "/kubepods/podx/id");
        let hosts = config(NamespaceOption { network: node(), ipc: node(), ..Default::default() });
        let hosts = spec("id", &hosts, "/d").expect("valid");
        assert_eq!(hosts.hostname, None);
        let host = runtime::NamespaceMode::Host;
        assert_eq!((hosts.network, hosts.ipc, hosts.uts), (host, host, host));
        assert_eq!(cgroup("id", &PodSandboxConfig::default(), "/d"), "/d/id");
    }

    #[test]
    fn users_of_its_own_are_one_range() {
        let ids = |container_id, host_id, length| IdMapping { container_id, host_id, length };
        let check = |mode: NamespaceMode, uids: &[IdMapping], gids: &[IdMapping]| {
            let users = UserNamespace { mode: mode.into(), uids: uids.to_vec(), gids: gids.to_vec() };
            let options = NamespaceOption { userns_options: Some(users), ..Default::default() };
            spec("id", &config(options), "/d").map(|s| s.users).map_err(|e| e.code())
        };
        let (good, refused) = (ids(0, 65536, 65536), Err(tonic::Code::InvalidArgument));
        assert_eq!(check(NamespaceMode::Pod, &[good], &[good]), Ok(Some(IdRange { first: 65536, length: 65536 })));
        assert_eq!(check(NamespaceMode::Node, &[], &[]), Ok(None));
        assert_eq!(check(NamespaceMode::Node, &[good], &[good]), refused);
        assert_eq!(check(NamespaceMode::Container, &[good], &[good]), refused);
        for wrong in [ids(1, 65536, 65536), ids(0, 0, 65536), ids(0, 65536, 0)] {
            assert_eq!(check(NamespaceMode::Pod, &[wrong], &[wrong]), refused);
        }
        assert_eq!(check(NamespaceMode::Pod, &[good], &[ids(0, 131_072, 65536)]), refused);
        assert_eq!(check(NamespaceMode::Pod, &[good, good], &[good, good]), refused);
        assert_eq!(check(NamespaceMode::Pod, &[], &[]), refused);
    }

    #[test]
    fn ports_of_the_host() {
        let port = |host_port, container_port, host_ip: &str| PortMapping {
            host_port,
            container_port,
            host_ip: host_ip.into(),
            ..Default::default()
        };
        let mut config = config(NamespaceOption::default());
        config.port_mappings = vec![port(0, 80, ""), port(8080, 80, "0.0.0.0"), port(8081, 81, "127.0.0.1")];
        let got = host_ports(&config).expect("valid");
        let got: Vec<_> = got.iter().map(|p| format!("{:?}:{}→{}", p.host_ip, p.host_port, p.container_port)).collect();
        assert_eq!(got, ["None:8080→80", "Some(127.0.0.1):8081→81"]);
        config.port_mappings = vec![port(70000, 80, "")];
        assert_eq!(host_ports(&config).expect_err("no port").code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn resolver() {
        let dns = DnsConfig {
            servers: vec!["10.0.0.10".into()],
            searches: vec!["a.svc".into(), "svc".into()],
            options: vec!["ndots:5".into()],
        };
        assert_eq!(resolv_conf(&dns), "search a.svc svc\nnameserver 10.0.0.10\noptions ndots:5\n");
    }
}
