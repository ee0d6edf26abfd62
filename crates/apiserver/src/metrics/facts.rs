//! What is so when it is asked for: what Services hold (`pkg/registry/core/service/{ipallocator,portallocator}/metrics.go`) and which
//! version this is (`component-base/metrics/version.go`).

use super::WELL_FORMED;
use crate::api_server::ApiServer;
use crate::routes;
use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntGaugeVec, Opts};

fn gauge(name: &str, help: &str, labels: &[(&str, &str)], value: i64) -> Vec<MetricFamily> {
    let (names, values): (Vec<&str>, Vec<&str>) = labels.iter().copied().unzip();
    let gauge = IntGaugeVec::new(Opts::new(name, help), &names).expect(WELL_FORMED);
    gauge.with_label_values(&values).set(value);
    gauge.collect()
}

/// Addresses and ports of Services.
pub(super) fn services(server: &ApiServer) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    // More addresses than fit are as good as endless.
    let number = |n: u128| i64::try_from(n).unwrap_or(i64::MAX);
    for use_ in server.inner.allocator.uses() {
        let cidr = [("cidr", use_.cidr.as_str())];
        let name = |rest: &str| format!("kube_apiserver_clusterip_allocator_{rest}");
        families.extend(gauge(
            &name("allocated_ips"),
            "[ALPHA] Gauge measuring the number of allocated IPs for Services",
            &cidr,
            number(use_.taken),
        ));
        families.extend(gauge(
            &name("available_ips"),
            "[ALPHA] Gauge measuring the number of available IPs for Services",
            &cidr,
            number(use_.free),
        ));
    }
    let (taken, free) = server.inner.allocator.port_uses();
    let name = |rest: &str| format!("kube_apiserver_nodeport_allocator_{rest}");
    let (allocated, available) = (name("allocated_ports"), name("available_ports"));
    let help = |what: &str| format!("[ALPHA] Gauge measuring the number of {what} NodePorts for Services");
    families.extend(gauge(&allocated, &help("allocated"), &[], number(taken as u128)));
    families.extend(gauge(&available, &help("available"), &[], number(free as u128)));
    families
}

/// The version.
pub(super) fn build() -> Vec<MetricFamily> {
    let version = routes::version();
    let text = |field: &str| version[field].as_str().unwrap_or_default().to_owned();
    let facts = [
        ("major", text("major")),
        ("minor", text("minor")),
        ("git_version", text("gitVersion")),
        ("git_commit", text("gitCommit")),
        ("git_tree_state", text("gitTreeState")),
        ("build_date", text("buildDate")),
        ("go_version", text("goVersion")),
        ("compiler", text("compiler")),
        ("platform", text("platform")),
    ];
    let facts: Vec<(&str, &str)> = facts.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let help = "[BETA] A metric with a constant '1' value labeled by major, minor, git version, git commit, git tree state, build date, Go version, and compiler from which Kubernetes was built, and platform on which it is running.";
    gauge("kubernetes_build_info", help, &facts, 1)
}
