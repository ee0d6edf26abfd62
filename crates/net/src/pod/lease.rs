//! Who has which address: one small file per pod, so that a restart knows, and a pool over them.
//!
//! A lease is written (temporary file, rename) before anything is made in the kernel. No fsync: links do not survive the power cut
//! that could lose the file. A file that cannot be read is therefore from before a reboot, and is dropped with a warning.

use crate::config::offset;
use crate::service::{HostPortMapping, Protocol};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A port of the node that leads to a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostPort {
    /// The node's address; `None` = all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_ip: Option<IpAddr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl HostPort {
    /// Whether both cannot be served at once.
    pub(crate) fn clashes_with(&self, other: &HostPort) -> bool {
        self.host_port == other.host_port
            && self.protocol == other.protocol
            && (self.host_ip.is_none() || other.host_ip.is_none() || self.host_ip == other.host_ip)
    }
}

/// What a pod holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The pod.
    pub pod_id: String,
    /// Its addresses, one per family, in the order of the node's pod CIDRs.
    pub ips: Vec<IpAddr>,
    /// Name of the host's end of its link. Random: the kernel takes a removed namespace's links apart in its own time, so a
    /// name derived from the pod could still be taken when the pod is made again.
    pub link: String,
    /// Its ports on the node.
    #[serde(default)]
    pub host_ports: Vec<HostPort>,
    /// Counts leases, so that after a restart allocation goes on behind the last.
    pub sequence: u64,
}

impl Lease {
    /// The packet rules' view of its ports.
    pub(crate) fn mappings(&self) -> impl Iterator<Item = HostPortMapping> {
        self.host_ports.iter().flat_map(move |port| {
            let ips = self.ips.iter().filter(move |ip| port.host_ip.is_none_or(|h| h.is_ipv4() == ip.is_ipv4()));
            ips.map(move |ip| HostPortMapping {
                host_ip: port.host_ip.filter(|h| !h.is_unspecified()),
                host_port: port.host_port,
                protocol: port.protocol,
                pod_ip: *ip,
                pod_port: port.container_port,
            })
        })
    }
}

/// All leases of a node, in memory and on disk.
#[derive(Debug)]
pub(crate) struct Leases {
    directory: PathBuf,
    by_pod: BTreeMap<String, Lease>,
    next_sequence: u64,
}

impl Leases {
    /// Reads what a process before us left.
    pub(crate) fn load(directory: &Path) -> io::Result<Leases> {
        std::fs::create_dir_all(directory)?;
        let mut by_pod = BTreeMap::new();
        for entry in std::fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_none_or(|e| e != "json") {
                continue;
            }
            match serde_json::from_slice::<Lease>(&std::fs::read(&path)?) {
                Ok(lease) => {
                    by_pod.insert(lease.pod_id.clone(), lease);
                }
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropping an unreadable address lease");
                    std::fs::remove_file(&path)?;
                }
            }
        }
        let next_sequence = by_pod.values().map(|l| l.sequence + 1).max().unwrap_or(1);
        Ok(Leases { directory: directory.to_owned(), by_pod, next_sequence })
    }

    pub(crate) fn get(&self, pod_id: &str) -> Option<&Lease> {
        self.by_pod.get(pod_id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Lease> {
        self.by_pod.values()
    }

    pub(crate) fn next_sequence(&self) -> u64 {
        self.next_sequence
    }

    /// Writes a lease, then remembers it.
    pub(crate) fn put(&mut self, lease: Lease) -> io::Result<()> {
        let path = self.path(&lease.pod_id);
        let bytes = serde_json::to_vec(&lease).expect("a lease has string keys only");
        base::files::replace(&path, &bytes)?;
        self.next_sequence = self.next_sequence.max(lease.sequence + 1);
        self.by_pod.insert(lease.pod_id.clone(), lease);
        Ok(())
    }

    /// Forgets a lease.
    pub(crate) fn remove(&mut self, pod_id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path(pod_id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        self.by_pod.remove(pod_id);
        Ok(())
    }

    fn path(&self, pod_id: &str) -> PathBuf {
        self.directory.join(format!("{pod_id}.json"))
    }

    /// The next free address of each network; `Err` names a network that has none. Goes on behind the newest lease, so that an
    /// address rests as long as possible before somebody else gets it.
    pub(crate) fn free_addresses(&self, cidrs: &[IpNet]) -> Result<Vec<IpAddr>, IpNet> {
        let used: BTreeSet<IpAddr> = self.iter().flat_map(|l| l.ips.iter().copied()).collect();
        let newest = self.iter().max_by_key(|l| l.sequence);
        cidrs
            .iter()
            .map(|cidr| {
                let last = newest.and_then(|l| l.ips.iter().copied().find(|ip| cidr.contains(ip)));
                free_address(cidr, last, &used).ok_or(*cidr)
            })
            .collect()
    }
}

/// Names of pods become file names.
pub(crate) fn is_pod_id(id: &str) -> bool {
    (1..=200).contains(&id.len())
        && !id.starts_with('.')
        && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

fn free_address(cidr: &IpNet, last: Option<IpAddr>, used: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let number = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => u128::from(u32::from(ip)),
        IpAddr::V6(ip) => u128::from(ip),
    };
    let bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len()).min(127);
    // 0 is the network, 1 the gateway; the last IPv4 address is the broadcast.
    let (first, end) = (2u128, (1u128 << bits) - u128::from(cidr.addr().is_ipv4()));
    let room = end.checked_sub(first).filter(|room| *room > 0)?;
    let start =
        last.map_or(0, |ip| number(ip).wrapping_sub(number(cidr.network())).wrapping_sub(first).wrapping_add(1));
    // One of `used + 1` consecutive addresses must be free.
    let tries = room.min(used.len() as u128 + 1);
    (0..tries).map(|i| offset(cidr.network(), first + (start.wrapping_add(i)) % room)).find(|ip| !used.contains(ip))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(id: &str, ip: &str, sequence: u64) -> Lease {
        let ips = vec![ip.parse().expect("ip")];
        Lease { pod_id: id.into(), ips, link: format!("dhow{id}"), host_ports: vec![], sequence }
    }

    fn next(leases: &Leases, cidr: &str) -> String {
        match leases.free_addresses(&[cidr.parse().expect("net")]) {
            Ok(ips) => ips[0].to_string(),
            Err(net) => format!("{net} is full"),
        }
    }

    #[test]
    fn allocation_goes_on_behind_the_newest_and_wraps() {
        let dir = tempfile::tempdir().expect("dir");
        let mut leases = Leases::load(dir.path()).expect("load");
        assert_eq!(next(&leases, "10.0.0.0/29"), "10.0.0.2");
        leases.put(lease("a", "10.0.0.2", 1)).expect("put");
        leases.put(lease("b", "10.0.0.6", 2)).expect("put");
        assert_eq!(next(&leases, "10.0.0.0/29"), "10.0.0.3");
        leases.remove("b").expect("remove");
        assert_eq!(next(&leases, "10.0.0.0/29"), "10.0.0.3");
        for (i, n) in [3, 4, 5, 6].into_iter().enumerate() {
            leases.put(lease(&format!("x{n}"), &format!("10.0.0.{n}"), 10 + i as u64)).expect("put");
        }
        assert_eq!(next(&leases, "10.0.0.0/29"), "10.0.0.0/29 is full");
        assert_eq!(next(&leases, "fd00::/64"), "fd00::2");
    }

    #[test]
    fn leases_survive_a_restart_and_garbage_does_not() {
        let dir = tempfile::tempdir().expect("dir");
        let mut leases = Leases::load(dir.path()).expect("load");
        leases.put(lease("a", "10.0.0.2", 7)).expect("put");
        std::fs::write(dir.path().join("b.json"), b"{\"podId\":").expect("write");
        let again = Leases::load(dir.path()).expect("load");
        assert_eq!(again.get("a"), leases.get("a"));
        assert_eq!((again.iter().count(), again.next_sequence()), (1, 8));
        assert!(!dir.path().join("b.json").exists());
    }

    #[test]
    fn host_ports_clash_on_the_same_address_only() {
        let port = |ip: Option<&str>, n| HostPort {
            host_ip: ip.map(|i| i.parse().expect("ip")),
            host_port: n,
            container_port: 80,
            protocol: Protocol::Tcp,
        };
        assert!(port(None, 80).clashes_with(&port(Some("10.0.0.1"), 80)));
        assert!(!port(Some("10.0.0.2"), 80).clashes_with(&port(Some("10.0.0.1"), 80)));
        assert!(!port(None, 80).clashes_with(&port(None, 81)));
    }

    #[test]
    fn pod_ids_are_file_names() {
        assert!(is_pod_id("0a1b-22_x.y"));
        for bad in ["", "../x", ".x", "a/b", "a b"] {
            assert!(!is_pod_id(bad), "{bad:?}");
        }
    }
}
