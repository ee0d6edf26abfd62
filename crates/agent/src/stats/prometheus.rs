//! Metrics in Prometheus' text format: [`resource`] (`/metrics/resource`), [`cadvisor`] (`/metrics/cadvisor`) and [`own`]
//! (`/metrics`). Pure. Names and help texts that dashboards know (`pkg/kubelet/metrics/collectors/resource_metrics.go`,
//! cAdvisor's `metrics/prometheus.go`).

use super::{ContainerSample, NodeSample, PodSample};
use net::traffic::Traffic;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One family: head, then its values.
struct Family<'a> {
    out: &'a mut String,
    name: &'static str,
}

impl<'a> Family<'a> {
    fn new(out: &'a mut String, name: &'static str, kind: &str, help: &str) -> Self {
        // Writing to a String cannot fail.
        write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n").ok();
        Family { out, name }
    }

    fn value(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display, at_ms: Option<i64>) {
        let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let at = at_ms.map(|ms| format!(" {ms}")).unwrap_or_default();
        writeln!(self.out, "{}{labels} {value}{at}", self.name).ok();
    }
}

/// Seconds with all digits of the nanoseconds.
fn seconds(ns: u64) -> String {
    let text = format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn start(c: &ContainerSample) -> String {
    format!("{}.{:03}", c.started_at.as_second(), c.started_at.subsec_millisecond())
}

/// `/metrics/resource`: what metrics-server reads.
pub fn resource(node: &NodeSample) -> String {
    let mut text = String::new();
    let out = &mut text;
    let at = Some(node.at.as_millisecond());
    let containers = || node.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)));
    let of = |p: &'_ PodSample, c: &'_ ContainerSample| {
        [("container", c.name.clone()), ("namespace", p.namespace.clone()), ("pod", p.name.clone())]
    };
    let mut family = Family::new(
        out,
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (p, c) in containers() {
        family.value(&borrowed(&of(p, c)), seconds(c.usage.cpu_ns), at);
    }
    let mut family = Family::new(
        out,
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for (p, c) in containers() {
        family.value(&borrowed(&of(p, c)), c.usage.memory_working_set, at);
    }
    let mut family = Family::new(
        out,
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (p, c) in containers() {
        family.value(&borrowed(&of(p, c)), start(c), None);
    }
    Family::new(
        out,
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    )
    .value(&[], seconds(node.cpu_ns), at);
    let working_set = node.machine.memory.saturating_sub(node.machine.memory_available);
    Family::new(out, "node_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the node in bytes")
        .value(&[], working_set, at);
    let mut family = Family::new(
        out,
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for p in &node.pods {
        family.value(&[("namespace", &p.namespace), ("pod", &p.name)], seconds(p.usage.cpu_ns), at);
    }
    let mut family =
        Family::new(out, "pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    for p in &node.pods {
        family.value(&[("namespace", &p.namespace), ("pod", &p.name)], p.usage.memory_working_set, at);
    }
    Family::new(
        out,
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    )
    .value(&[], 0, None);
    text
}

fn borrowed<'a, const N: usize>(labels: &'a [(&'a str, String); N]) -> [(&'a str, &'a str); N] {
    std::array::from_fn(|i| (labels[i].0, labels[i].1.as_str()))
}

/// `/metrics/cadvisor`: by container, and by pod with an empty container name.
pub fn cadvisor(node: &NodeSample) -> String {
    type Pick = fn(&crate::engine::Usage) -> String;
    let families: [(&'static str, &str, &str, Pick); 7] = [
        ("container_cpu_usage_seconds_total", "counter", "Cumulative cpu time consumed in seconds.", |u| {
            seconds(u.cpu_ns)
        }),
        (
            "container_memory_usage_bytes",
            "gauge",
            "Current memory usage in bytes, including all memory regardless of when it was accessed",
            |u| u.memory_usage.to_string(),
        ),
        ("container_memory_working_set_bytes", "gauge", "Current working set in bytes.", |u| {
            u.memory_working_set.to_string()
        }),
        ("container_memory_rss", "gauge", "Size of RSS in bytes.", |u| u.memory_rss.to_string()),
        ("container_memory_failures_total", "counter", "Cumulative count of memory allocation failures.", |u| {
            u.page_faults.to_string()
        }),
        ("container_oom_events_total", "counter", "Count of out of memory events observed for the container", |u| {
            u.oom_kills.to_string()
        }),
        ("container_threads", "gauge", "Number of threads running inside the container", |u| u.pids.to_string()),
    ];
    let mut text = String::new();
    let out = &mut text;
    let at = Some(node.at.as_millisecond());
    for (name, kind, help, pick) in families {
        let mut family = Family::new(out, name, kind, help);
        let more: &[(&str, &str)] = match name {
            "container_cpu_usage_seconds_total" => &[("cpu", "total")],
            "container_memory_failures_total" => &[("failure_type", "pgfault"), ("scope", "hierarchy")],
            _ => &[],
        };
        for p in &node.pods {
            for c in &p.containers {
                let mut labels =
                    vec![("container", c.name.as_str()), ("id", c.id.as_str()), ("image", c.image.as_str())];
                labels.extend([("name", c.id.as_str()), ("namespace", p.namespace.as_str()), ("pod", p.name.as_str())]);
                labels.extend(more);
                family.value(&labels, pick(&c.usage), at);
            }
            let mut labels = vec![("container", ""), ("id", p.uid.as_str()), ("image", ""), ("name", "")];
            labels.extend([("namespace", p.namespace.as_str()), ("pod", p.name.as_str())]);
            labels.extend(more);
            family.value(&labels, pick(&p.usage), at);
        }
    }
    let mut family = Family::new(
        out,
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds.",
    );
    for p in &node.pods {
        for c in &p.containers {
            let labels = [
                ("container", c.name.as_str()),
                ("id", c.id.as_str()),
                ("image", c.image.as_str()),
                ("name", c.id.as_str()),
                ("namespace", p.namespace.as_str()),
                ("pod", p.name.as_str()),
            ];
            family.value(&labels, start(c), at);
        }
    }
    network(out, node);
    Family::new(out, "machine_cpu_cores", "gauge", "Number of logical CPU cores.").value(&[], node.machine.cpus, at);
    Family::new(out, "machine_memory_bytes", "gauge", "Amount of memory installed on the machine.").value(
        &[],
        node.machine.memory,
        at,
    );
    text
}

/// Of pods, and of the node's links with an empty pod name.
fn network(out: &mut String, node: &NodeSample) {
    type Pick = fn(&Traffic) -> u64;
    let families: [(&'static str, &str, Pick); 8] = [
        ("container_network_receive_bytes_total", "Cumulative count of bytes received", |t| t.received.bytes),
        ("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |t| {
            t.received.errors
        }),
        ("container_network_receive_packets_total", "Cumulative count of packets received", |t| t.received.packets),
        (
            "container_network_receive_packets_dropped_total",
            "Cumulative count of packets dropped while receiving",
            |t| t.received.dropped,
        ),
        ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |t| t.sent.bytes),
        ("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |t| {
            t.sent.errors
        }),
        ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |t| t.sent.packets),
        (
            "container_network_transmit_packets_dropped_total",
            "Cumulative count of packets dropped while transmitting",
            |t| t.sent.dropped,
        ),
    ];
    let at = Some(node.at.as_millisecond());
    let of_node = node.links.iter().map(|link| ("/", "", "", link));
    let of_pods = node
        .pods
        .iter()
        .filter_map(|p| Some((p.uid.as_str(), p.namespace.as_str(), p.name.as_str(), p.link.as_ref()?)));
    let links: Vec<_> = of_node.chain(of_pods).collect();
    for (name, help, pick) in families {
        let mut family = Family::new(out, name, "counter", help);
        for (id, namespace, pod, link) in &links {
            let mut labels = vec![("container", ""), ("id", *id), ("image", ""), ("interface", link.name.as_str())];
            labels.extend([("name", ""), ("namespace", *namespace), ("pod", *pod)]);
            family.value(&labels, pick(link), at);
        }
    }
}

/// What the agent tells of itself.
#[derive(Debug, Default)]
pub struct Own<'a> {
    /// `metadata.name` of the Node.
    pub node: &'a str,
    /// Pods that may run.
    pub pods: usize,
    /// Runs by state.
    pub containers: BTreeMap<&'static str, usize>,
    /// Bytes of this process.
    pub resident: u64,
    /// CPU time of this process, ns.
    pub cpu_ns: u64,
}

/// `/metrics`.
pub fn own(own: &Own<'_>) -> String {
    let mut text = String::new();
    let out = &mut text;
    Family::new(out, "kubelet_node_name", "gauge", "[ALPHA] The node's name. The count is always 1.").value(
        &[("node", own.node)],
        1,
        None,
    );
    Family::new(out, "kubelet_running_pods", "gauge", "[BETA] Number of pods that have a running pod sandbox").value(
        &[],
        own.pods,
        None,
    );
    let mut family =
        Family::new(out, "kubelet_running_containers", "gauge", "[BETA] Number of containers currently running");
    for (state, count) in &own.containers {
        family.value(&[("container_state", state)], count, None);
    }
    Family::new(out, "process_cpu_seconds_total", "counter", "Total user and system CPU time spent in seconds.").value(
        &[],
        seconds(own.cpu_ns),
        None,
    );
    Family::new(out, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.").value(
        &[],
        own.resident,
        None,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::summary::tests::sample;
    use expect_test::expect;

    #[test]
    fn what_metrics_server_reads() {
        expect![[r##"
            # HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container in core-seconds
            # TYPE container_cpu_usage_seconds_total counter
            container_cpu_usage_seconds_total{container="c",namespace="ns",pod="p"} 1.5 100000
            # HELP container_memory_working_set_bytes [STABLE] Current working set of the container in bytes
            # TYPE container_memory_working_set_bytes gauge
            container_memory_working_set_bytes{container="c",namespace="ns",pod="p"} 10 100000
            # HELP container_start_time_seconds [STABLE] Start time of the container since unix epoch in seconds
            # TYPE container_start_time_seconds gauge
            container_start_time_seconds{container="c",namespace="ns",pod="p"} 100.000
            # HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
            # TYPE node_cpu_usage_seconds_total counter
            node_cpu_usage_seconds_total 0.000000009 100000
            # HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes
            # TYPE node_memory_working_set_bytes gauge
            node_memory_working_set_bytes 400 100000
            # HELP pod_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the pod in core-seconds
            # TYPE pod_cpu_usage_seconds_total counter
            pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1.5 100000
            # HELP pod_memory_working_set_bytes [STABLE] Current working set of the pod in bytes
            # TYPE pod_memory_working_set_bytes gauge
            pod_memory_working_set_bytes{namespace="ns",pod="p"} 10 100000
            # HELP resource_scrape_error [STABLE] 1 if there was an error while getting container metrics, 0 otherwise
            # TYPE resource_scrape_error gauge
            resource_scrape_error 0
        "##]].assert_eq(&resource(&sample()));
    }

    #[test]
    fn values_of_cadvisor_have_upstreams_labels() {
        let text = cadvisor(&sample());
        let lines: Vec<&str> = text
            .lines()
            .filter(|l| ["container_cpu", "container_network_receive_b", "machine"].iter().any(|p| l.starts_with(p)))
            .collect();
        expect![[r#"
            container_cpu_usage_seconds_total{container="c",id="i",image="im",name="i",namespace="ns",pod="p",cpu="total"} 1.5 100000
            container_cpu_usage_seconds_total{container="",id="u",image="",name="",namespace="ns",pod="p",cpu="total"} 1.5 100000
            container_network_receive_bytes_total{container="",id="/",image="",interface="dhow1",name="",namespace="",pod=""} 50 100000
            container_network_receive_bytes_total{container="",id="u",image="",interface="eth0",name="",namespace="ns",pod="p"} 60 100000
            machine_cpu_cores 2 100000
            machine_memory_bytes 1000 100000"#]].assert_eq(&lines.join("\n"));
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        Family::new(&mut out, "m", "gauge", "h").value(&[("a", "x\"\\\n")], 1, None);
        assert!(out.ends_with("m{a=\"x\\\"\\\\\\n\"} 1\n"), "{out}");
    }
}
