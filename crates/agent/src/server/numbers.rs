//! [`AgentNumbers`]: what the server tells of the running agent's use.

use super::seams::Numbers;
use crate::agent::AgentHandle;
use crate::context::Config;
use crate::node;
use crate::pod::view;
use crate::shutdown::times::Times;
use crate::stats::{self, Also, Collector, NodeSample, prometheus};
use async_trait::async_trait;
use serde_json::{Value, json};
use std::path::PathBuf;

/// [`Numbers`] over a [`Collector`].
pub struct AgentNumbers {
    agent: AgentHandle,
    collector: Collector,
}

impl AgentNumbers {
    /// Reads at every call anew.
    pub fn new(agent: AgentHandle, collector: Collector) -> Self {
        AgentNumbers { agent, collector }
    }
}

#[async_trait]
impl Numbers for AgentNumbers {
    async fn collect(&self, also: Also) -> std::io::Result<NodeSample> {
        self.collector.collect(also).await
    }

    async fn own(&self) -> String {
        let views = self.agent.views();
        let context = self.collector.context();
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let (cpu_ns, resident) = process(&stat);
        prometheus::own(&prometheus::Own {
            node: &context.config.node_name,
            pods: views.iter().filter(|v| v.seen.may_run()).count(),
            containers: stats::count_containers(&views),
            by_source: stats::count_pods(&views),
            working: stats::count_working(&views),
            cgroup_version: node::cgroup_version(),
            ephemeral_containers: views.iter().map(|v| view::ephemeral_containers(&v.pod).len()).sum(),
            claims: self.collector.claims(&views).await,
            shutdown: Times::load(&context.config.data_dir),
            counters: Some(&context.counters),
            cpus: context.managers.cpus.numbers(),
            dynamic: context.dynamic.in_use(),
            resizes: stats::count_resizes(&views),
            volumes: stats::count_volumes(&views, |pod| context.volumes.plugins(pod)),
            resident,
            cpu_ns,
        })
    }

    fn probes(&self) -> String {
        prometheus::probes(&self.collector.context().counters)
    }

    fn settings(&self) -> Value {
        settings(&self.collector.context().config)
    }

    fn fault(&self) -> Option<String> {
        self.agent.has_ended().then(|| "pods are not looked after any more".to_owned())
    }

    fn log_dir(&self) -> PathBuf {
        let pods = &self.collector.context().config.log_dir;
        pods.parent().unwrap_or(pods).to_owned()
    }
}

/// CPU time in nanoseconds and resident bytes of a `/proc/PID/stat`: `12 (name) S …`.
fn process(stat: &str) -> (u64, u64) {
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let fields: Vec<u64> = after_name.split_whitespace().map(|f| f.parse().unwrap_or(0)).collect();
    let field = |i: usize| fields.get(i).copied().unwrap_or(0);
    // Fields 14, 15 and 24 of proc(5), counted from the state, which is the third.
    ((field(11) + field(12)) * 10_000_000, field(21) * rustix::param::page_size() as u64)
}

/// The kubelet's names for what is set (`k8s.io/kubelet/config/v1beta1`).
fn settings(config: &Config) -> Value {
    json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "port": config.port,
        "address": "0.0.0.0",
        "authentication": {"x509": {}, "webhook": {"enabled": true}, "anonymous": {"enabled": false}},
        "authorization": {"mode": "Webhook"},
        "clusterDomain": config.dns.domain,
        "clusterDNS": config.dns.servers,
        "maxPods": config.max_pods,
        "cgroupDriver": "cgroupfs",
        "cgroupsPerQOS": true,
        "resolvConf": config.resolv_conf,
        "enableSystemLogHandler": true,
        "enableSystemLogQuery": true,
        "containerLogMaxSize": "10Mi",
        "containerLogMaxFiles": 5,
        "evictionHard": config.eviction.hard.shown(),
        "evictionSoft": config.eviction.soft.shown(),
        "podLogsDir": config.log_dir,
        "staticPodPath": config.static_pod_dir,
    }})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_read_whatever_its_name_is() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 8 0 99 1000 5 18446744073709551615";
        assert_eq!(process(stat), (420_000_000, 5 * rustix::param::page_size() as u64));
        assert!(process(&std::fs::read_to_string("/proc/self/stat").expect("there")).1 > 0);
    }
}
