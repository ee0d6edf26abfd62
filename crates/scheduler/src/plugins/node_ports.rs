//! NodePorts: host ports are taken by one pod only.

use super::Filter;

pub(super) const FILTER: Filter = Filter {
    name: "NodePorts",
    check: |pod, info| {
        let taken = |port| info.used_ports().any(|used| used.conflicts(port));
        if pod.host_ports.iter().any(taken) {
            return Err(vec!["node(s) didn't have free ports for the requested pod ports".into()]);
        }
        Ok(())
    },
};
