//! [`NetConfig`]: what the network of a node needs to know, checked once, all errors at once.

use ipnet::IpNet;
use std::net::IpAddr;
use std::path::PathBuf;
use sys::nft::{Family, Table};
use thiserror::Error;

/// Interface names are at most 15 bytes; host ends of pods are `link_prefix` and eight random characters.
const LINK_NAME_MAX: usize = 15;
pub(crate) const LINK_SUFFIX: usize = 8;

/// The network of one node.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// This node's name, as in `spec.nodeName`.
    pub node_name: String,
    /// The link that holds the node's pod-network addresses: a bridge without ports.
    pub bridge: String,
    /// What names of the host's ends of pod links begin with.
    pub link_prefix: String,
    /// Name of the nftables tables.
    pub table: String,
    /// Addresses for pods of this node, at most one network per IP family.
    pub pod_cidrs: Vec<IpNet>,
    /// Addresses of all pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Addresses of Services.
    pub service_cidrs: Vec<IpNet>,
    /// Where cluster DNS answers; inside `service_cidrs`.
    pub dns_ips: Vec<IpAddr>,
    /// MTU of pods; 0 = that of the link of the default route.
    pub mtu: u32,
    /// Where address leases are kept.
    pub state_dir: PathBuf,
}

/// All that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("invalid network configuration: {}", .0.join("; "))]
pub struct ConfigError(pub Vec<String>);

impl Default for NetConfig {
    /// DESIGN §4: the first node of a cluster with default networks.
    fn default() -> Self {
        let net = |text: &str| vec![text.parse().expect("a literal network")];
        NetConfig {
            node_name: String::new(),
            bridge: "dhow0".into(),
            link_prefix: "dhow".into(),
            table: "dhow".into(),
            pod_cidrs: net("10.42.0.0/24"),
            cluster_cidrs: net("10.42.0.0/16"),
            service_cidrs: net("10.43.0.0/16"),
            dns_ips: vec![IpAddr::from([10, 43, 0, 10])],
            mtu: 0,
            state_dir: "/var/lib/dhow/net".into(),
        }
    }
}

impl NetConfig {
    /// Checks everything.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let mut errors = Vec::new();
        let mut check = |ok: bool, text: String| {
            if !ok {
                errors.push(text);
            }
        };
        let bridge = &self.bridge;
        check(is_link_name(bridge, LINK_NAME_MAX), format!("bridge {bridge:?} is not an interface name"));
        let prefix = &self.link_prefix;
        let longest = LINK_NAME_MAX - LINK_SUFFIX;
        check(is_link_name(prefix, longest), format!("link prefix {prefix:?} is not 1 to {longest} letters or digits"));
        check(!self.pod_cidrs.is_empty(), "no pod CIDR".into());
        for v4 in [true, false] {
            let count = |nets: &[IpNet]| nets.iter().filter(|n| n.addr().is_ipv4() == v4).count();
            let family = if v4 { "IPv4" } else { "IPv6" };
            check(count(&self.pod_cidrs) <= 1, format!("more than one {family} pod CIDR for this node"));
            check(count(&self.cluster_cidrs) <= 1, format!("more than one {family} cluster CIDR"));
        }
        for pod in &self.pod_cidrs {
            check(
                self.cluster_cidrs.iter().any(|c| c.contains(pod)),
                format!("pod CIDR {pod} is outside the cluster CIDRs"),
            );
            let room = pod.max_prefix_len() - pod.prefix_len();
            check(room >= 3, format!("pod CIDR {pod} has room for fewer than six pods"));
            for service in &self.service_cidrs {
                let overlap = service.contains(pod) || pod.contains(service);
                check(!overlap, format!("pod CIDR {pod} and Service CIDR {service} overlap"));
            }
        }
        for dns in &self.dns_ips {
            let inside = self.service_cidrs.iter().any(|s| s.contains(dns));
            check(inside, format!("DNS address {dns} is outside the Service CIDRs"));
        }
        if errors.is_empty() { Ok(()) } else { Err(ConfigError(errors)) }
    }

    /// IP families in use.
    pub fn families(&self) -> Vec<Family> {
        let has = |v4| self.pod_cidrs.iter().any(|n| n.addr().is_ipv4() == v4);
        [(has(true), Family::Ip), (has(false), Family::Ip6)].into_iter().filter(|(h, _)| *h).map(|(_, f)| f).collect()
    }

    /// The nftables table of a family.
    pub fn nft_table(&self, family: Family) -> Table {
        Table { family, name: self.table.clone() }
    }
}

/// The node's own address in a pod network: the first.
pub(crate) fn gateway(cidr: &IpNet) -> IpAddr {
    offset(cidr.network(), 1)
}

/// `base` + `n`.
pub(crate) fn offset(base: IpAddr, n: u128) -> IpAddr {
    match base {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip).wrapping_add(n as u32)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip).wrapping_add(n)).to_be_bytes()),
    }
}

fn is_link_name(name: &str, longest: usize) -> bool {
    !name.is_empty()
        && name.len() <= longest
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        assert_eq!(NetConfig::default().validate(), Ok(()));
    }

    #[test]
    fn all_errors_are_reported_together() {
        let config = NetConfig {
            bridge: "a/b".into(),
            link_prefix: "muchtoolong".into(),
            pod_cidrs: vec!["10.43.0.0/30".parse().expect("literal")],
            dns_ips: vec![IpAddr::from([1, 1, 1, 1])],
            ..NetConfig::default()
        };
        let errors = config.validate().expect_err("bad").0;
        expect_test::expect![[r#"
            bridge "a/b" is not an interface name
            link prefix "muchtoolong" is not 1 to 7 letters or digits
            pod CIDR 10.43.0.0/30 is outside the cluster CIDRs
            pod CIDR 10.43.0.0/30 has room for fewer than six pods
            pod CIDR 10.43.0.0/30 and Service CIDR 10.43.0.0/16 overlap
            DNS address 1.1.1.1 is outside the Service CIDRs"#]]
        .assert_eq(&errors.join("\n"));
    }
}
