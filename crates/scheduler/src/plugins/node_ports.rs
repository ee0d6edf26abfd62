//! NodePorts: host ports are taken by one pod only.

use super::Filter;
use crate::cycle::Refusal;
use crate::events::Events;

pub(super) const FILTER: Filter = Filter {
    name: "NodePorts",
    hears: Events::NODE.and(Events::POD_GONE),
    check: |cycle, info| {
        let taken = |port| info.used_ports().any(|used| used.conflicts(port));
        if cycle.pod.host_ports.iter().any(taken) {
            return Err(Refusal::by_pods("node(s) didn't have free ports for the requested pod ports"));
        }
        Ok(())
    },
};
