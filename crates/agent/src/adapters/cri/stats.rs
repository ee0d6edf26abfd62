//! What a runtime tells of what its containers and sandboxes use. Pure.

use image::DiskUse;
use net::traffic::{Direction, Traffic};
use node_api::cri::{ContainerStats, NetworkInterfaceUsage, PodSandboxStats, UInt64Value};
use std::collections::BTreeMap;

fn number(value: Option<UInt64Value>) -> u64 {
    value.map_or(0, |v| v.value)
}

/// What containers wrote to their roots.
pub(super) fn roots(told: Vec<ContainerStats>) -> BTreeMap<String, DiskUse> {
    let root = |stats: ContainerStats| {
        let layer = stats.writable_layer?;
        let used = DiskUse { bytes: number(layer.used_bytes), inodes: number(layer.inodes_used) };
        Some((stats.attributes?.id, used))
    };
    told.into_iter().filter_map(root).collect()
}

/// The links of sandboxes; none of those with the node's network, whose links are told with the node.
pub(super) fn links(told: Vec<PodSandboxStats>) -> BTreeMap<String, Traffic> {
    let link = |stats: PodSandboxStats| {
        let usage = stats.linux?.network?.default_interface?;
        Some((stats.attributes?.id, traffic(&usage)))
    };
    told.into_iter().filter_map(link).collect()
}

/// The interface counts no packets.
fn traffic(usage: &NetworkInterfaceUsage) -> Traffic {
    let way = |bytes, errors| Direction { bytes: number(bytes), errors: number(errors), ..Direction::default() };
    Traffic {
        name: usage.name.clone(),
        received: way(usage.rx_bytes, usage.rx_errors),
        sent: way(usage.tx_bytes, usage.tx_errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::cri::{
        ContainerAttributes, FilesystemUsage, LinuxPodSandboxStats, NetworkUsage, PodSandboxAttributes,
    };

    fn some(value: u64) -> Option<UInt64Value> {
        Some(UInt64Value { value })
    }

    #[test]
    fn what_is_told_is_taken_and_the_rest_left_out() {
        let layer = FilesystemUsage { used_bytes: some(7), inodes_used: some(2), ..Default::default() };
        let container = |id: &str, writable_layer| ContainerStats {
            attributes: Some(ContainerAttributes { id: id.into(), ..Default::default() }),
            writable_layer,
            ..Default::default()
        };
        let told = roots(vec![container("a", Some(layer)), container("b", None)]);
        assert_eq!(told, BTreeMap::from([("a".to_owned(), DiskUse { bytes: 7, inodes: 2 })]));
        let usage = NetworkInterfaceUsage {
            name: "eth0".into(),
            rx_bytes: some(10),
            tx_bytes: some(20),
            tx_errors: some(3),
            ..Default::default()
        };
        let sandbox = |id: &str, network| PodSandboxStats {
            attributes: Some(PodSandboxAttributes { id: id.into(), ..Default::default() }),
            linux: Some(LinuxPodSandboxStats { network, ..Default::default() }),
            ..Default::default()
        };
        let network = NetworkUsage { default_interface: Some(usage), ..Default::default() };
        let told = links(vec![sandbox("s", Some(network)), sandbox("host", None)]);
        assert_eq!(told.len(), 1);
        let link = &told["s"];
        assert_eq!((link.name.as_str(), link.received.bytes, link.sent.bytes, link.sent.errors), ("eth0", 10, 20, 3));
    }
}
