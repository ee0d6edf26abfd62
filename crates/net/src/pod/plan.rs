//! The node's bridge and a pod's link as values. Pure.
//!
//! ```text
//!   pod: eth0 10.42.0.5/32, default via 10.42.0.1 ──veth── dhowXXXXXXXX 10.42.0.1/32; host: 10.42.0.5/32 dev dhowXXXXXXXX
//!   host: dhow0 10.42.0.1/24, 10.43.0.10/32 (DNS), 10.43.0.0/16 dev dhow0
//! ```
//! Every packet of a pod is routed, also one to its neighbour, so it passes the packet rules both ways. On a common bridge the answer
//! from a Service's pod to a neighbour would take the short way past the address translation (unless `br_netfilter` is loaded, and
//! with it, rules and bridge work against each other), and pods could speak to each other behind the back of NetworkPolicy. The
//! bridge `dhow0` has no ports: it holds the node's addresses, and swallows packets to addresses that no pod has.

use super::lease::Lease;
use crate::NetConfig;
use crate::config::gateway;
use ipnet::IpNet;
use std::net::IpAddr;

/// Interface name inside pods.
pub const POD_LINK: &str = "eth0";
/// What the kernel keeps as the alias of a pod's link. Which pod's, the lease of that name says.
pub(crate) const ALIAS: &str = "dhow pod";

/// What the node itself needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodePlan {
    /// The bridge.
    pub bridge: String,
    /// Its hardware address: a bridge without one of its own would change it with its ports.
    pub mac: [u8; 6],
    /// MTU.
    pub mtu: u32,
    /// Addresses of the bridge: the gateways with their networks, and those of DNS.
    pub addresses: Vec<IpNet>,
    /// Networks reached through the bridge, with the sender address for programs of the host: the Services. A host without a
    /// default route could not even begin to send to a ClusterIP, because routing comes before translation.
    pub routes: Vec<(IpNet, IpAddr)>,
    /// Settings under `/proc/sys/net`. Those of the whole namespace come first.
    pub sysctls: Vec<Sysctl>,
}

/// A setting under `/proc/sys/net`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sysctl {
    /// Path under `/proc/sys/net`.
    pub path: String,
    /// The value.
    pub value: &'static str,
    /// Whether it outlives the bridge and must be put back by a reset.
    pub global: bool,
    /// Whether the network is good without it, too.
    pub optional: bool,
}

/// The link of a pod, whichever pod that will be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkPlan {
    /// Name of the host's end.
    pub name: String,
    /// MTU.
    pub mtu: u32,
    /// Addresses of the host's end: the gateways of all families. With them neighbour discovery works on the link, and masquerade has
    /// a sender address.
    pub gateways: Vec<IpAddr>,
    /// Settings under `/proc/sys/net` of the host, for the host's end.
    pub host_sysctls: Vec<Sysctl>,
    /// Settings under `/proc/sys/net` inside the pod.
    pub sysctls: Vec<Sysctl>,
}

/// What a pod needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodPlan {
    /// Its link.
    pub link: LinkPlan,
    /// The pod's addresses, each with the gateway of its family.
    pub addresses: Vec<(IpAddr, IpAddr)>,
}

/// The node's plan.
pub fn node_plan(config: &NetConfig, mtu: u32) -> NodePlan {
    let gateways: Vec<IpNet> =
        config.pod_cidrs.iter().map(|cidr| IpNet::new(gateway(cidr), cidr.prefix_len()).unwrap_or(*cidr)).collect();
    let source = |v4: bool| gateways.iter().map(IpNet::addr).find(|g| g.is_ipv4() == v4);
    let routes = config.service_cidrs.iter().filter_map(|s| Some((s.trunc(), source(s.addr().is_ipv4())?))).collect();
    let dns = config.dns_ips.iter().filter(|ip| source(ip.is_ipv4()).is_some()).map(|ip| IpNet::from(*ip));
    NodePlan {
        bridge: config.bridge.clone(),
        mac: bridge_mac(&gateways),
        mtu,
        addresses: gateways.iter().copied().chain(dns).collect(),
        routes,
        sysctls: node_sysctls(config),
    }
}

fn node_sysctls(config: &NetConfig) -> Vec<Sysctl> {
    let global = |path: &str, value| Sysctl { path: path.to_owned(), value, global: true, optional: false };
    let bridge = &config.bridge;
    let local = |family: &str, name: &str, value| Sysctl {
        path: format!("{family}/conf/{bridge}/{name}"),
        value,
        global: false,
        optional: false,
    };
    // How long connections are remembered that are open, and that only one side has closed (kube-proxy's defaults: `SetDefaults_KubeProxyConfiguration` in
    // `pkg/proxy/apis/config/v1alpha1/defaults.go`). It sets their greatest number by the processors, too; the kernel has set it by the memory.
    let tracked = [("established", "86400"), ("close_wait", "3600")].map(|(state, value)| Sysctl {
        path: format!("netfilter/nf_conntrack_tcp_timeout_{state}"),
        value,
        global: true,
        optional: true,
    });
    let mut all = Vec::from(tracked);
    let has = |v4| config.pod_cidrs.iter().any(|c| c.addr().is_ipv4() == v4);
    if has(true) {
        all.push(global("ipv4/ip_forward", "1"));
    }
    if has(false) {
        all.push(global("ipv6/conf/all/forwarding", "1"));
        all.push(local("ipv6", "accept_ra", "0"));
    }
    all
}

/// Locally administered, and the same for the same gateway.
fn bridge_mac(gateways: &[IpNet]) -> [u8; 6] {
    let bytes: [u8; 4] = match gateways.first().map(IpNet::addr) {
        Some(IpAddr::V4(ip)) => ip.octets(),
        Some(IpAddr::V6(ip)) => {
            let o = ip.octets();
            std::array::from_fn(|i| o[i] ^ o[i + 4] ^ o[i + 8] ^ o[i + 12])
        }
        None => [0; 4],
    };
    [0x02, 0xd4, bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// A pod's plan.
pub fn pod_plan(config: &NetConfig, lease: &Lease, mtu: u32) -> PodPlan {
    let gateway_of = |ip: &IpAddr| config.pod_cidrs.iter().find(|c| c.contains(ip)).map(gateway);
    PodPlan {
        link: link_plan(config, &lease.link, mtu),
        addresses: lease.ips.iter().filter_map(|ip| Some((*ip, gateway_of(ip)?))).collect(),
    }
}

/// The plan of a link of this name.
pub(super) fn link_plan(config: &NetConfig, name: &str, mtu: u32) -> LinkPlan {
    let needed = |path: &str, value| Sysctl { path: path.to_owned(), value, global: false, optional: false };
    // A read-only /proc or an old kernel must not keep a pod from running.
    let wanted = |path: &str, value| Sysctl { optional: true, ..needed(path, value) };
    LinkPlan {
        name: name.to_owned(),
        mtu,
        gateways: config.pod_cidrs.iter().map(gateway).collect(),
        // NodePorts on 127.0.0.1: the packet leaves through this link. The rules drop what begins on the other side.
        host_sysctls: vec![needed(&format!("ipv4/conf/{name}/route_localnet"), "1")],
        sysctls: vec![
            // A pod that reaches itself through a Service would be told to save the detour.
            wanted("ipv4/conf/all/accept_redirects", "0"),
            wanted("ipv4/conf/default/accept_redirects", "0"),
            // As containerd and Docker do: ports and pings need no capability inside a pod's own network.
            wanted("ipv4/ip_unprivileged_port_start", "0"),
            wanted("ipv4/ping_group_range", "0\t2147483647"),
        ],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;

    #[test]
    fn node_plan_of_the_default_network() {
        expect![[r#"
            NodePlan {
                bridge: "dhow0",
                mac: [
                    2,
                    212,
                    10,
                    42,
                    0,
                    1,
                ],
                mtu: 1500,
                addresses: [
                    10.42.0.1/24,
                    10.43.0.10/32,
                ],
                routes: [
                    (
                        10.43.0.0/16,
                        10.42.0.1,
                    ),
                ],
                sysctls: [
                    Sysctl {
                        path: "netfilter/nf_conntrack_tcp_timeout_established",
                        value: "86400",
                        global: true,
                        optional: true,
                    },
                    Sysctl {
                        path: "netfilter/nf_conntrack_tcp_timeout_close_wait",
                        value: "3600",
                        global: true,
                        optional: true,
                    },
                    Sysctl {
                        path: "ipv4/ip_forward",
                        value: "1",
                        global: true,
                        optional: false,
                    },
                ],
            }
        "#]]
        .assert_debug_eq(&node_plan(&NetConfig::default(), 1500));
    }

    #[test]
    fn pod_gets_a_gateway_per_family() {
        let config = NetConfig {
            pod_cidrs: vec!["10.42.3.0/24".parse().expect("net"), "fd00:42::/64".parse().expect("net")],
            ..NetConfig::default()
        };
        let lease = Lease {
            pod_id: "p1".into(),
            ips: vec!["10.42.3.9".parse().expect("ip"), "fd00:42::9".parse().expect("ip")],
            link: "dhowabcdefgh".into(),
            host_ports: vec![],
            sequence: 1,
        };
        let plan = pod_plan(&config, &lease, 1450);
        let text: Vec<String> = plan.addresses.iter().map(|(a, g)| format!("{a} via {g}")).collect();
        expect!["10.42.3.9 via 10.42.3.1; fd00:42::9 via fd00:42::1"].assert_eq(&text.join("; "));
    }
}
