//! Metrics in Prometheus' text format: [`resource`] (`/metrics/resource`), [`cadvisor`] (`/metrics/cadvisor`), [`probes`]
//! (`/metrics/probes`) and [`own`] (`/metrics`). Pure. Names and help texts that dashboards know (`pkg/kubelet/metrics/collectors/resource_metrics.go`,
//! cAdvisor's `metrics/prometheus.go`). Differs from cAdvisor: what containers write to their roots is in the summary, not here, since one has to
//! walk through it; loads and states of tasks, which a kubelet's cAdvisor always tells as 0, and limits of open files are left out.

use super::file_systems::FileSystem;
use super::{ContainerSample, NodeSample, PodSample, VolumeSample};
use crate::counters::{self, Counter, Counters, Histogram, Spread};
use crate::managers::cpus;
use crate::node::Machine;
use crate::shutdown::times::Times;
use jiff::Timestamp;
use net::traffic::Traffic;
use runtime::Stats;
use runtime::metrics::{self, DISKS, FAMILIES, Kind, OPEN, Value};
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
        let at = at_ms.map(|ms| format!(" {ms}")).unwrap_or_default();
        write_value(self.out, self.name, labels, format_args!("{value}{at}"));
    }
}

fn write_value(out: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(k, v)| format!("{k}=\"{}\"", escape(v))).collect();
    let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
    writeln!(out, "{name}{labels} {value}").ok();
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
    let of = |p: &'_ PodSample, c: &'_ ContainerSample| {
        [("container", c.name.clone()), ("namespace", p.namespace.clone()), ("pod", p.name.clone())]
    };
    let mut family = Family::new(
        out,
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for (p, c) in containers_of(node) {
        family.value(&borrowed(&of(p, c)), seconds(c.usage.cpu_usage_ns), at);
    }
    let mut family = Family::new(
        out,
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for (p, c) in containers_of(node) {
        family.value(&borrowed(&of(p, c)), c.usage.memory_working_set, at);
    }
    let mut family = Family::new(
        out,
        "container_start_time_seconds",
        "gauge",
        "[STABLE] Start time of the container since unix epoch in seconds",
    );
    for (p, c) in containers_of(node) {
        family.value(&borrowed(&of(p, c)), start(c), None);
    }
    let help = "[ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems";
    let mut family = Family::new(out, "container_swap_limit_bytes", "gauge", help);
    for (p, c) in containers_of(node) {
        if let Some(limit) = c.usage.swap_limit {
            family.value(&borrowed(&of(p, c)), limit, at);
        }
    }
    let help = "[ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems";
    let mut family = Family::new(out, "container_swap_usage_bytes", "gauge", help);
    for (p, c) in containers_of(node) {
        family.value(&borrowed(&of(p, c)), c.usage.swap_usage, at);
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
    let help = "[ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems";
    let swapped = node.machine.swap.saturating_sub(node.machine.swap_free);
    Family::new(out, "node_swap_usage_bytes", "gauge", help).value(&[], swapped, at);
    let mut family = Family::new(
        out,
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for p in &node.pods {
        family.value(&[("namespace", &p.namespace), ("pod", &p.name)], seconds(p.usage.cpu_usage_ns), at);
    }
    let mut family =
        Family::new(out, "pod_memory_working_set_bytes", "gauge", "[STABLE] Current working set of the pod in bytes");
    for p in &node.pods {
        family.value(&[("namespace", &p.namespace), ("pod", &p.name)], p.usage.memory_working_set, at);
    }
    let help = "[ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems";
    let mut family = Family::new(out, "pod_swap_usage_bytes", "gauge", help);
    for p in &node.pods {
        family.value(&[("namespace", &p.namespace), ("pod", &p.name)], p.usage.swap_usage, at);
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
    let mut text = String::new();
    let out = &mut text;
    let at = Some(node.at.as_millisecond());
    let all = all_cgroups(node);
    for same in FAMILIES.chunk_by(|a, b| a.name == b.name) {
        let kind = match same[0].kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let mut family = Family::new(out, same[0].name, kind, same[0].help);
        for (labels, usage) in &all {
            same.iter().for_each(|f| counted(&mut family, f, usage, labels, at));
        }
    }
    disks(out, node, &all);
    held(out, node);
    containers(out, node);
    network(out, node);
    Family::new(
        out,
        "container_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    )
    .value(&[], 0, None);
    let Machine { boot_id, machine_id, system_uuid, .. } = &node.machine;
    let labels = [("boot_id", boot_id.as_str()), ("machine_id", machine_id), ("system_uuid", system_uuid)];
    let mut machine = |name, help, value: u64| Family::new(out, name, "gauge", help).value(&labels, value, at);
    machine("machine_cpu_cores", "Number of logical CPU cores.", node.machine.cpus);
    machine("machine_memory_bytes", "Amount of memory installed on the machine.", node.machine.memory);
    let swap = u64::try_from(node.machine.swap).unwrap_or(0);
    machine("machine_swap_bytes", "Amount of swap memory available on the machine.", swap);
    text
}

type Labels<'a> = Vec<(&'static str, &'a str)>;

fn containers_of(node: &NodeSample) -> impl Iterator<Item = (&PodSample, &ContainerSample)> {
    node.pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)))
}

/// Containers, pods, and cgroups that are no pod's.
fn all_cgroups(node: &NodeSample) -> Vec<(Labels<'_>, &Stats)> {
    let labels = |id, namespace, pod| {
        let own = [("container", ""), ("id", id), ("image", ""), ("name", "")];
        [&own[..], &[("namespace", namespace), ("pod", pod)]].concat()
    };
    let containers = containers_of(node).map(|(p, c)| (of_container(p, c), &c.usage));
    let pods = node.pods.iter().map(|p| (labels(&*p.cgroup, &*p.namespace, &*p.name), &p.usage));
    let others = node.cgroups.iter().map(|c| (labels(&c.path, "", ""), &c.usage));
    containers.chain(pods).chain(others).collect()
}

/// What went from and to disks, by who did it; and what the machine's file systems have and did, which is the root cgroup's.
fn disks(out: &mut String, node: &NodeSample, all: &[(Labels<'_>, &Stats)]) {
    let at = Some(node.at.as_millisecond());
    for same in DISKS.chunk_by(|a, b| a.name == b.name) {
        let mut family = Family::new(out, same[0].name, "counter", same[0].help);
        let of_machine = FILE_SYSTEMS.iter().find(|whole| whole.name == same[0].name);
        // A disk without partitions would be told of twice.
        let is_told = |labels: &Labels<'_>| of_machine.is_none() || !labels.contains(&("id", "/"));
        for (labels, usage) in all.iter().filter(|(labels, _)| is_told(labels)) {
            for disk in usage.io.iter().flatten() {
                let name = node.disk_names.get(&disk.device).map_or("", String::as_str);
                for f in same {
                    let values = f.values(disk, name);
                    let more = f.keys.iter().copied().zip(values.iter().map(String::as_str));
                    let labels: Labels<'_> = labels.iter().copied().chain(more).collect();
                    family.value(&labels, (f.pick)(disk), at);
                }
            }
        }
        if let Some(of_machine) = of_machine {
            file_systems(&mut family, of_machine, node);
        }
    }
    for of_machine in FILE_SYSTEMS.iter().filter(|whole| DISKS.iter().all(|f| f.name != whole.name)) {
        file_systems(&mut Family::new(out, of_machine.name, of_machine.kind, of_machine.help), of_machine, node);
    }
}

/// What is told of the machine's file systems.
struct OfFileSystem {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    pick: fn(&FileSystem) -> String,
}

const fn has(name: &'static str, help: &'static str, pick: fn(&FileSystem) -> String) -> OfFileSystem {
    OfFileSystem { name, kind: "gauge", help, pick }
}

const fn did(name: &'static str, help: &'static str, pick: fn(&FileSystem) -> String) -> OfFileSystem {
    OfFileSystem { name, kind: "counter", help, pick }
}

fn milliseconds(ms: u64) -> String {
    seconds(ms.saturating_mul(1_000_000))
}

const FILE_SYSTEMS: &[OfFileSystem] = &[
    has("container_fs_inodes_free", "Number of available Inodes", |f| f.space.inodes_free.to_string()),
    has("container_fs_inodes_total", "Number of Inodes", |f| f.space.inodes.to_string()),
    has("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", |f| {
        f.space.capacity.to_string()
    }),
    has("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", |f| {
        f.space.used().bytes.to_string()
    }),
    did("container_fs_reads_total", "Cumulative count of reads completed", |f| f.work.reads.to_string()),
    did("container_fs_sector_reads_total", "Cumulative count of sector reads completed", |f| {
        f.work.sectors_read.to_string()
    }),
    did("container_fs_reads_merged_total", "Cumulative count of reads merged", |f| f.work.reads_merged.to_string()),
    did("container_fs_read_seconds_total", "Cumulative count of seconds spent reading", |f| {
        milliseconds(f.work.reading_ms)
    }),
    did("container_fs_writes_total", "Cumulative count of writes completed", |f| f.work.writes.to_string()),
    did("container_fs_sector_writes_total", "Cumulative count of sector writes completed", |f| {
        f.work.sectors_written.to_string()
    }),
    did("container_fs_writes_merged_total", "Cumulative count of writes merged", |f| f.work.writes_merged.to_string()),
    did("container_fs_write_seconds_total", "Cumulative count of seconds spent writing", |f| {
        milliseconds(f.work.writing_ms)
    }),
    has("container_fs_io_current", "Number of I/Os currently in progress", |f| f.work.in_progress.to_string()),
    did("container_fs_io_time_seconds_total", "Cumulative count of seconds spent doing I/Os", |f| {
        milliseconds(f.work.busy_ms)
    }),
    did("container_fs_io_time_weighted_seconds_total", "Cumulative weighted I/O time in seconds", |f| {
        milliseconds(f.work.weighted_ms)
    }),
];

fn file_systems(family: &mut Family<'_>, told: &OfFileSystem, node: &NodeSample) {
    for f in &node.file_systems {
        let labels = [
            ("container", ""),
            ("id", "/"),
            ("image", ""),
            ("name", ""),
            ("namespace", ""),
            ("pod", ""),
            ("device", &f.device),
        ];
        family.value(&labels, (told.pick)(f), Some(node.at.as_millisecond()));
    }
}

/// What processes of containers hold.
fn held(out: &mut String, node: &NodeSample) {
    for told in OPEN {
        let mut family = Family::new(out, told.name, "gauge", told.help);
        for (p, c) in containers_of(node) {
            if let Some(open) = &c.open {
                family.value(&of_container(p, c), (told.pick)(open), Some(node.at.as_millisecond()));
            }
        }
    }
}

/// One value of a family, if the machine tells it.
fn counted(out: &mut Family<'_>, family: &metrics::Family, usage: &Stats, labels: &[(&str, &str)], at: Option<i64>) {
    let mut labels = labels.to_vec();
    labels.extend(family.more);
    if family.name == "container_cpu_usage_seconds_total" {
        labels.push(("cpu", "total"));
    }
    match (family.pick)(usage) {
        Some(Value::Number(number)) => out.value(&labels, number, at),
        Some(Value::Time(time)) => out.value(&labels, seconds(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)), at),
        None => {}
    }
}

fn of_container<'a>(p: &'a PodSample, c: &'a ContainerSample) -> Labels<'a> {
    let own = [("container", c.name.as_str()), ("id", &c.cgroup), ("image", &c.image), ("name", c.id.as_str())];
    [&own[..], &[("namespace", p.namespace.as_str()), ("pod", p.name.as_str())]].concat()
}

/// What a container may use, and when it was there.
fn containers(out: &mut String, node: &NodeSample) {
    type Pick = fn(&ContainerSample, Timestamp) -> Option<String>;
    const PERIOD_US: u64 = 100_000;
    let families: [(&'static str, &str, Pick); 8] = [
        ("container_last_seen", "Last time a container was seen by the exporter", |_, at| {
            Some(at.as_second().to_string())
        }),
        ("container_spec_cpu_period", "CPU period of the container.", |c, _| {
            Some(c.limits.cpu_period_us.unwrap_or(PERIOD_US).to_string())
        }),
        ("container_spec_cpu_quota", "CPU quota of the container.", |c, _| Some(c.limits.cpu_quota_us?.to_string())),
        ("container_spec_cpu_shares", "CPU share of the container.", |c, _| Some(c.limits.cpu_shares?.to_string())),
        ("container_spec_memory_limit_bytes", "Memory limit for the container.", |c, _| {
            Some(c.usage.memory_limit.unwrap_or(0).to_string())
        }),
        ("container_spec_memory_reservation_limit_bytes", "Memory reservation limit for the container.", |_, _| {
            Some("0".into())
        }),
        ("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |c, _| {
            Some(c.usage.swap_limit.unwrap_or(0).to_string())
        }),
        ("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |c, _| {
            Some(start(c))
        }),
    ];
    for (name, help, pick) in families {
        let mut family = Family::new(out, name, "gauge", help);
        for (p, c) in containers_of(node) {
            if let Some(value) = pick(c, node.at) {
                family.value(&of_container(p, c), value, Some(node.at.as_millisecond()));
            }
        }
    }
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
        .filter_map(|p| Some((p.cgroup.as_str(), p.namespace.as_str(), p.name.as_str(), p.link.as_ref()?)));
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
    /// Pods, and those of them that go on, by whether they are static.
    pub by_source: BTreeMap<bool, (usize, usize)>,
    /// Pods by how far they are and whether the API still has them (`lifecycle`, `config`), and by whether they are static.
    pub working: BTreeMap<(&'static str, &'static str, bool), usize>,
    /// Of the machine.
    pub cgroup_version: u8,
    /// Of all pods.
    pub ephemeral_containers: usize,
    /// Volumes of claims, with the namespace.
    pub claims: Vec<(String, VolumeSample)>,
    /// The last shutdown of the machine.
    pub shutdown: Times,
    /// What has happened.
    pub counters: Option<&'a Counters>,
    /// Processors, if containers can have some for themselves.
    pub cpus: Option<cpus::Numbers>,
    /// Claims to devices that are prepared, by driver.
    pub dynamic: BTreeMap<String, usize>,
    /// Resizes that are not granted, by reason, and those under way.
    pub resizes: (BTreeMap<String, usize>, usize),
    /// Volumes by plugin and state.
    pub volumes: BTreeMap<(String, &'static str), usize>,
    /// Bytes of this process.
    pub resident: u64,
    /// CPU time of this process, ns.
    pub cpu_ns: u64,
}

/// `/metrics`.
pub fn own(own: &Own<'_>) -> String {
    let mut text = String::new();
    let out = &mut text;
    gauge(out, "kubelet_node_name", "[ALPHA] The node's name. The count is always 1.", &[("node", own.node)], 1);
    gauge(out, "kubelet_running_pods", "[ALPHA] Number of pods that have a running pod sandbox", &[], own.pods);
    let mut family =
        Family::new(out, "kubelet_running_containers", "gauge", "[ALPHA] Number of containers currently running");
    for (state, count) in &own.containers {
        family.value(&[("container_state", state)], count, None);
    }
    pods(out, own);
    let help = "[ALPHA] cgroup version on the hosts.";
    gauge(out, "kubelet_cgroup_version", help, &[], own.cgroup_version);
    claims(out, own);
    let seconds_of = |at: Option<Timestamp>| at.map_or(0, Timestamp::as_second);
    let help = "[ALPHA] Last graceful shutdown start time since unix epoch in seconds";
    gauge(out, "kubelet_graceful_shutdown_start_time_seconds", help, &[], seconds_of(own.shutdown.start_time));
    let help = "[ALPHA] Last graceful shutdown end time since unix epoch in seconds";
    gauge(out, "kubelet_graceful_shutdown_end_time_seconds", help, &[], seconds_of(own.shutdown.end_time));
    managed(out, own);
    if let Some(counters) = own.counters {
        happened(out, counters, counters::ALL, counters::HISTOGRAMS);
    }
    let help = "Total user and system CPU time spent in seconds.";
    Family::new(out, "process_cpu_seconds_total", "counter", help).value(&[], seconds(own.cpu_ns), None);
    gauge(out, "process_resident_memory_bytes", "Resident memory size in bytes.", &[], own.resident);
    text
}

/// How a health check went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HealthCount {
    /// The last time.
    well: bool,
    successes: u64,
    errors: u64,
}

impl HealthCount {
    /// Once more.
    pub fn add(&mut self, well: bool) {
        self.well = well;
        *(if well { &mut self.successes } else { &mut self.errors }) += 1;
    }
}

/// `/metrics/slis`: of checks that were made, by name (`component-base/metrics/prometheus/slis/metrics.go`).
pub fn slis(checks: &BTreeMap<&'static str, HealthCount>, started: Timestamp) -> String {
    let mut text = String::new();
    let out = &mut text;
    let help = "[STABLE] This metric records the result of a single healthcheck.";
    let mut family = Family::new(out, "kubernetes_healthcheck", "gauge", help);
    for (name, count) in checks {
        family.value(&[("name", name), ("type", "healthz")], u8::from(count.well), None);
    }
    let help = "[STABLE] This metric records the results of all healthcheck.";
    let mut family = Family::new(out, "kubernetes_healthchecks_total", "counter", help);
    for (name, count) in checks {
        for (status, n) in [("error", count.errors), ("success", count.successes)].into_iter().filter(|(_, n)| *n > 0) {
            family.value(&[("name", name), ("status", status), ("type", "healthz")], n, None);
        }
    }
    start_time(out, started);
    text
}

fn start_time(out: &mut String, started: Timestamp) {
    let help = "[ALPHA] Start time of the process since unix epoch in seconds.";
    gauge(out, "process_start_time_seconds", help, &[], started.as_second());
}

/// `/metrics/probes`
pub fn probes(counters: &Counters) -> String {
    let mut text = String::new();
    happened(&mut text, counters, counters::PROBES, counters::PROBE_HISTOGRAMS);
    text
}

fn happened(out: &mut String, counters: &Counters, counts: &[&Counter], histograms: &[&Histogram]) {
    for counter in counts {
        let mut family = Family::new(out, counter.name, "counter", counter.help);
        for (values, count) in counters.of(counter) {
            let labels: Vec<(&str, &str)> =
                counter.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
            family.value(&labels, count, None);
        }
    }
    for histogram in histograms {
        spread(out, histogram, &counters.spreads_of(histogram));
    }
}

/// Buckets count all values up to their bound.
fn spread(out: &mut String, histogram: &Histogram, spreads: &[(Vec<String>, Spread)]) {
    let Histogram { name, help, labels, buckets } = histogram;
    Family::new(out, name, "histogram", help);
    for (values, Spread { buckets: counts, sum, count }) in spreads {
        let labels: Vec<(&str, &str)> = labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
        let mut line = |suffix: &str, bound: Option<&str>, value: &dyn std::fmt::Display| {
            let labels = labels.iter().copied().chain(bound.map(|bound| ("le", bound)));
            write_value(out, &format!("{name}{suffix}"), &labels.collect::<Vec<_>>(), value);
        };
        let mut so_far = 0;
        for (bound, in_it) in buckets.iter().zip(counts) {
            so_far += in_it;
            line("_bucket", Some(&bound.to_string()), &so_far);
        }
        line("_bucket", Some("+Inf"), count);
        line("_sum", None, sum);
        line("_count", None, count);
    }
}

/// What managers of the node's resources and volumes have.
fn managed(out: &mut String, own: &Own<'_>) {
    if let Some(cpus) = &own.cpus {
        let help = "[ALPHA] Number of CPUs allocated per NUMA node";
        let mut family = Family::new(out, "kubelet_cpu_manager_allocation_per_numa", "gauge", help);
        for (node, count) in &cpus.by_node {
            family.value(&[("numa_node", &node.to_string())], count, None);
        }
        let help = "[ALPHA] The total number of CPUs exclusively allocated to containers running on this node";
        let all: usize = cpus.by_node.values().sum();
        gauge(out, "kubelet_cpu_manager_exclusive_cpu_allocation_count", help, &[], all);
        let help = "[ALPHA] The size of the shared CPU pool for non-guaranteed QoS pods, in millicores.";
        gauge(out, "kubelet_cpu_manager_shared_pool_size_millicores", help, &[], cpus.free * 1000);
    }
    let help = "[ALPHA] The number of ResourceClaims that are currently in use on the node, by driver name (driver_name label value) and across \
                all drivers (special value <any> for driver_name). Note that the sum of all by-driver counts is not the total number of \
                in-use ResourceClaims because the same ResourceClaim might use devices from different drivers. Instead, use the count for \
                the <any> driver_name.";
    let mut family = Family::new(out, "dra_resource_claims_in_use", "gauge", help);
    for (driver, count) in &own.dynamic {
        family.value(&[("driver_name", driver)], count, None);
    }
    let (pending, in_progress) = &own.resizes;
    let help = "[ALPHA] Number of in-progress resizes for pods.";
    gauge(out, "kubelet_pod_in_progress_resizes", help, &[], in_progress);
    let help = "[ALPHA] Number of pending resizes for pods.";
    let mut family = Family::new(out, "kubelet_pod_pending_resizes", "gauge", help);
    for (reason, count) in pending {
        family.value(&[("reason", reason)], count, None);
    }
    let help = "[ALPHA] Number of volumes in Volume Manager";
    let mut family = Family::new(out, "volume_manager_total_volumes", "gauge", help);
    for ((plugin, state), count) in &own.volumes {
        family.value(&[("plugin_name", plugin), ("state", state)], count, None);
    }
}

fn gauge(out: &mut String, name: &'static str, help: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    Family::new(out, name, "gauge", help).value(labels, value, None);
}

fn pods(out: &mut String, own: &Own<'_>) {
    let from = |is_static: bool| if is_static { "true" } else { "" };
    let help = "[ALPHA] The number of pods the kubelet considers active and which are being considered when admitting new pods. static \
                is true if the pod is not from the apiserver.";
    let mut family = Family::new(out, "kubelet_active_pods", "gauge", help);
    for (is_static, (_, active)) in &own.by_source {
        family.value(&[("static", from(*is_static))], active, None);
    }
    let help = "[ALPHA] The number of pods the kubelet is being instructed to run. static is true if the pod is not from the apiserver.";
    let mut family = Family::new(out, "kubelet_desired_pods", "gauge", help);
    for (is_static, (all, _)) in &own.by_source {
        family.value(&[("static", from(*is_static))], all, None);
    }
    let mirrors = own.by_source.get(&true).map_or(0, |(all, _)| *all);
    let help = "[ALPHA] The number of mirror pods the kubelet will try to create (one per admitted static pod)";
    gauge(out, "kubelet_mirror_pods", help, &[], mirrors);
    let help = "[ALPHA] Number of pods the kubelet is actually running, broken down by lifecycle phase, whether the pod is desired, orphaned, or \
                runtime only (also orphaned), and whether the pod is static. An orphaned pod has been removed from local configuration or \
                force deleted in the API and consumes resources that are not otherwise visible.";
    let mut family = Family::new(out, "kubelet_working_pods", "gauge", help);
    for ((lifecycle, config, is_static), count) in &own.working {
        family.value(&[("lifecycle", lifecycle), ("config", config), ("static", from(*is_static))], count, None);
    }
    let help = "[ALPHA] Current number of ephemeral containers in pods managed by this kubelet.";
    gauge(out, "kubelet_managed_ephemeral_containers", help, &[], own.ephemeral_containers);
}

/// `collectors/volume_stats.go`
fn claims(out: &mut String, own: &Own<'_>) {
    type Pick = fn(&VolumeSample) -> u64;
    let families: [(&'static str, &str, Pick); 6] = [
        ("kubelet_volume_stats_available_bytes", "[ALPHA] Number of available bytes in the volume", |v| {
            v.space.available
        }),
        ("kubelet_volume_stats_capacity_bytes", "[ALPHA] Capacity in bytes of the volume", |v| v.space.capacity),
        ("kubelet_volume_stats_inodes", "[ALPHA] Maximum number of inodes in the volume", |v| v.space.inodes),
        ("kubelet_volume_stats_inodes_free", "[ALPHA] Number of free inodes in the volume", |v| v.space.inodes_free),
        ("kubelet_volume_stats_inodes_used", "[ALPHA] Number of used inodes in the volume", |v| v.used.inodes),
        ("kubelet_volume_stats_used_bytes", "[ALPHA] Number of used bytes in the volume", |v| v.used.bytes),
    ];
    for (name, help, pick) in families {
        let mut family = Family::new(out, name, "gauge", help);
        for (namespace, volume) in &own.claims {
            let claim = volume.claim.as_deref().unwrap_or_default();
            family.value(&[("namespace", namespace), ("persistentvolumeclaim", claim)], pick(volume), None);
        }
    }
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
            # HELP container_swap_limit_bytes [ALPHA] Current amount of the container swap limit in bytes. Reported only on non-windows systems
            # TYPE container_swap_limit_bytes gauge
            container_swap_limit_bytes{container="c",namespace="ns",pod="p"} 4 100000
            # HELP container_swap_usage_bytes [ALPHA] Current amount of the container swap usage in bytes. Reported only on non-windows systems
            # TYPE container_swap_usage_bytes gauge
            container_swap_usage_bytes{container="c",namespace="ns",pod="p"} 1 100000
            # HELP node_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the node in core-seconds
            # TYPE node_cpu_usage_seconds_total counter
            node_cpu_usage_seconds_total 0.000000009 100000
            # HELP node_memory_working_set_bytes [STABLE] Current working set of the node in bytes
            # TYPE node_memory_working_set_bytes gauge
            node_memory_working_set_bytes 400 100000
            # HELP node_swap_usage_bytes [ALPHA] Current swap usage of the node in bytes. Reported only on non-windows systems
            # TYPE node_swap_usage_bytes gauge
            node_swap_usage_bytes 30 100000
            # HELP pod_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the pod in core-seconds
            # TYPE pod_cpu_usage_seconds_total counter
            pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 1.5 100000
            # HELP pod_memory_working_set_bytes [STABLE] Current working set of the pod in bytes
            # TYPE pod_memory_working_set_bytes gauge
            pod_memory_working_set_bytes{namespace="ns",pod="p"} 10 100000
            # HELP pod_swap_usage_bytes [ALPHA] Current amount of the pod swap usage in bytes. Reported only on non-windows systems
            # TYPE pod_swap_usage_bytes gauge
            pod_swap_usage_bytes{namespace="ns",pod="p"} 1 100000
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
            .filter(|l| {
                [
                    "container_cpu_u",
                    "container_memory_f",
                    "container_network_receive_b",
                    "container_pressure_cpu",
                    "container_spec",
                    "machine",
                ]
                .iter()
                .any(|p| l.starts_with(p))
            })
            .collect();
        expect![[r#"
            container_cpu_usage_seconds_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",cpu="total"} 1.5 100000
            container_cpu_usage_seconds_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",cpu="total"} 1.5 100000
            container_cpu_usage_seconds_total{container="",id="/kubepods",image="",name="",namespace="",pod="",cpu="total"} 1.5 100000
            container_cpu_user_seconds_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 0 100000
            container_cpu_user_seconds_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p"} 0 100000
            container_cpu_user_seconds_total{container="",id="/kubepods",image="",name="",namespace="",pod=""} 0 100000
            container_memory_failcnt{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 0 100000
            container_memory_failcnt{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p"} 0 100000
            container_memory_failcnt{container="",id="/kubepods",image="",name="",namespace="",pod=""} 0 100000
            container_memory_failures_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",failure_type="pgfault",scope="container"} 0 100000
            container_memory_failures_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",failure_type="pgfault",scope="hierarchy"} 0 100000
            container_memory_failures_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",failure_type="pgmajfault",scope="container"} 0 100000
            container_memory_failures_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",failure_type="pgmajfault",scope="hierarchy"} 0 100000
            container_memory_failures_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",failure_type="pgfault",scope="container"} 0 100000
            container_memory_failures_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",failure_type="pgfault",scope="hierarchy"} 0 100000
            container_memory_failures_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",failure_type="pgmajfault",scope="container"} 0 100000
            container_memory_failures_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",failure_type="pgmajfault",scope="hierarchy"} 0 100000
            container_memory_failures_total{container="",id="/kubepods",image="",name="",namespace="",pod="",failure_type="pgfault",scope="container"} 0 100000
            container_memory_failures_total{container="",id="/kubepods",image="",name="",namespace="",pod="",failure_type="pgfault",scope="hierarchy"} 0 100000
            container_memory_failures_total{container="",id="/kubepods",image="",name="",namespace="",pod="",failure_type="pgmajfault",scope="container"} 0 100000
            container_memory_failures_total{container="",id="/kubepods",image="",name="",namespace="",pod="",failure_type="pgmajfault",scope="hierarchy"} 0 100000
            container_pressure_cpu_waiting_seconds_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 1.5 100000
            container_pressure_cpu_waiting_seconds_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p"} 1.5 100000
            container_pressure_cpu_waiting_seconds_total{container="",id="/kubepods",image="",name="",namespace="",pod=""} 1.5 100000
            container_pressure_cpu_stalled_seconds_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 0 100000
            container_pressure_cpu_stalled_seconds_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p"} 0 100000
            container_pressure_cpu_stalled_seconds_total{container="",id="/kubepods",image="",name="",namespace="",pod=""} 0 100000
            container_spec_cpu_period{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 100000 100000
            container_spec_cpu_shares{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 2 100000
            container_spec_memory_limit_bytes{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 30 100000
            container_spec_memory_reservation_limit_bytes{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 0 100000
            container_spec_memory_swap_limit_bytes{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 4 100000
            container_network_receive_bytes_total{container="",id="/",image="",interface="dhow1",name="",namespace="",pod=""} 50 100000
            container_network_receive_bytes_total{container="",id="/kubepods/podu",image="",interface="eth0",name="",namespace="ns",pod="p"} 60 100000
            machine_cpu_cores{boot_id="",machine_id="",system_uuid=""} 2 100000
            machine_memory_bytes{boot_id="",machine_id="",system_uuid=""} 1000 100000
            machine_swap_bytes{boot_id="",machine_id="",system_uuid=""} 50 100000"#]].assert_eq(&lines.join("\n"));
    }

    #[test]
    fn what_the_agent_tells_of_itself() {
        let counters = Counters::default();
        counters.count(&counters::CONTAINERS_STARTED, &["container"]);
        counters.count(&counters::CONTAINERS_STARTED, &["container"]);
        counters.count(&counters::CONTAINERS_ENDED, &["init_container", "1", "Error"]);
        counters.observe(&counters::CONTAINERS_PER_POD, &[], 2.0);
        counters.observe(&counters::CONTAINERS_PER_POD, &[], 99.0);
        counters.storage("kubernetes.io/nfs", "volume_mount", true, std::time::Duration::from_millis(200));
        let space = crate::stats::disk::Space { capacity: 9, available: 7, ..Default::default() };
        let claim = VolumeSample { claim: Some("data".into()), space, ..VolumeSample::default() };
        let start_time = Some(Timestamp::from_second(50).expect("small"));
        let text = own(&Own {
            node: "n1",
            by_source: BTreeMap::from([(false, (3, 2)), (true, (1, 1))]),
            working: BTreeMap::from([(("sync", "desired", false), 2)]),
            cgroup_version: 2,
            claims: vec![("ns".into(), claim)],
            shutdown: Times { start_time, end_time: None },
            counters: Some(&counters),
            cpus: Some(cpus::Numbers { free: 3, by_node: [(1, 2)].into() }),
            resizes: ([("deferred".to_owned(), 1)].into(), 0),
            volumes: [(("kubernetes.io/nfs".to_owned(), "desired_state_of_world"), 1)].into(),
            ..Own::default()
        });
        let wanted = [
            "containers_total{",
            "_pods{",
            "pods_total",
            "capacity_bytes{",
            "shutdown",
            "per_pod",
            "cpu_m",
            "volumes{",
            "_resizes",
        ];
        let lines: Vec<&str> =
            text.lines().filter(|l| !l.starts_with('#') && wanted.iter().any(|w| l.contains(w))).collect();
        expect![[r#"
            kubelet_active_pods{static=""} 2
            kubelet_active_pods{static="true"} 1
            kubelet_desired_pods{static=""} 3
            kubelet_desired_pods{static="true"} 1
            kubelet_working_pods{lifecycle="sync",config="desired",static=""} 2
            kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="data"} 9
            kubelet_graceful_shutdown_start_time_seconds 50
            kubelet_graceful_shutdown_end_time_seconds 0
            kubelet_cpu_manager_allocation_per_numa{numa_node="1"} 2
            kubelet_cpu_manager_exclusive_cpu_allocation_count 2
            kubelet_cpu_manager_shared_pool_size_millicores 3000
            kubelet_pod_in_progress_resizes 0
            kubelet_pod_pending_resizes{reason="deferred"} 1
            volume_manager_total_volumes{plugin_name="kubernetes.io/nfs",state="desired_state_of_world"} 1
            kubelet_started_containers_total{container_type="container"} 2
            kubelet_started_pods_total 0
            kubelet_started_user_namespaced_pods_total 0
            kubelet_terminated_containers_total{container_type="init_container",exit_code="1",reason="Error"} 1
            kubelet_orphaned_runtime_pods_total 0
            kubelet_cpu_manager_pinning_errors_total 0
            kubelet_cpu_manager_pinning_requests_total 0
            kubelet_containers_per_pod_count_bucket{le="1"} 0
            kubelet_containers_per_pod_count_bucket{le="2"} 1
            kubelet_containers_per_pod_count_bucket{le="4"} 1
            kubelet_containers_per_pod_count_bucket{le="8"} 1
            kubelet_containers_per_pod_count_bucket{le="16"} 1
            kubelet_containers_per_pod_count_bucket{le="+Inf"} 2
            kubelet_containers_per_pod_count_sum 101
            kubelet_containers_per_pod_count_count 2"#]]
        .assert_eq(&lines.join("\n"));
        let names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        assert!(text.contains("\nstorage_operation_duration_seconds_bucket{volume_plugin=\"kubernetes.io/nfs\",operation_name=\"volume_mount\",status=\"success\",migrated=\"false\",le=\"0.25\"} 1\n"), "{text}");
        assert!(counters::ALL.iter().all(|c| names.contains(&format!("{} counter", c.name).as_str())), "{names:?}");
    }

    #[test]
    fn what_probes_said_is_told_until_their_pod_is_gone() {
        let counters = Counters::default();
        for (pod, uid) in [("web", "u"), ("other", "v")] {
            counters.count(&counters::PROBE_RESULTS, &["Liveness", "successful", "c", pod, "ns", uid]);
            counters.observe(&counters::PROBE_TIME, &["Liveness", "c", pod, "ns"], 0.5);
        }
        let pod = r#"{"metadata":{"name":"other","namespace":"ns","uid":"v"},"spec":{"containers":[]}}"#;
        counters.forget_probes(&crate::pod::fixture::object(pod));
        let text = probes(&counters);
        let lines: Vec<&str> =
            text.lines().filter(|l| l.contains("_total{") || l.contains("+Inf") || l.contains("_count")).collect();
        expect![[r#"
            prober_probe_total{probe_type="Liveness",result="successful",container="c",pod="web",namespace="ns",pod_uid="u"} 1
            prober_probe_duration_seconds_bucket{probe_type="Liveness",container="c",pod="web",namespace="ns",le="+Inf"} 1
            prober_probe_duration_seconds_count{probe_type="Liveness",container="c",pod="web",namespace="ns"} 1"#]]
        .assert_eq(&lines.join("\n"));
    }

    #[test]
    fn disks_are_told_by_their_names_and_processes_by_what_they_hold() {
        let text = cadvisor(&sample());
        let families =
            ["container_blkio", "container_fs_reads_", "container_fs_read_s", "container_fs_l", "container_so"];
        let lines: Vec<&str> = text.lines().filter(|l| families.iter().any(|f| l.starts_with(f))).collect();
        expect![[r#"
            container_blkio_device_usage_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",device="/dev/sda",major="8",minor="0",operation="Read"} 512 100000
            container_blkio_device_usage_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",device="/dev/sda",major="8",minor="0",operation="Write"} 0 100000
            container_blkio_device_usage_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",device="/dev/sda",major="8",minor="0",operation="Read"} 512 100000
            container_blkio_device_usage_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",device="/dev/sda",major="8",minor="0",operation="Write"} 0 100000
            container_blkio_device_usage_total{container="",id="/kubepods",image="",name="",namespace="",pod="",device="/dev/sda",major="8",minor="0",operation="Read"} 512 100000
            container_blkio_device_usage_total{container="",id="/kubepods",image="",name="",namespace="",pod="",device="/dev/sda",major="8",minor="0",operation="Write"} 0 100000
            container_fs_reads_bytes_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",device="/dev/sda"} 512 100000
            container_fs_reads_bytes_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",device="/dev/sda"} 512 100000
            container_fs_reads_bytes_total{container="",id="/kubepods",image="",name="",namespace="",pod="",device="/dev/sda"} 512 100000
            container_fs_reads_total{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p",device="/dev/sda"} 1 100000
            container_fs_reads_total{container="",id="/kubepods/podu",image="",name="",namespace="ns",pod="p",device="/dev/sda"} 1 100000
            container_fs_reads_total{container="",id="/kubepods",image="",name="",namespace="",pod="",device="/dev/sda"} 1 100000
            container_fs_reads_total{container="",id="/",image="",name="",namespace="",pod="",device="/dev/sda1"} 5 100000
            container_fs_limit_bytes{container="",id="/",image="",name="",namespace="",pod="",device="/dev/sda1"} 100 100000
            container_fs_reads_merged_total{container="",id="/",image="",name="",namespace="",pod="",device="/dev/sda1"} 0 100000
            container_fs_read_seconds_total{container="",id="/",image="",name="",namespace="",pod="",device="/dev/sda1"} 1.5 100000
            container_sockets{container="c",id="/kubepods/podu/i",image="im",name="i",namespace="ns",pod="p"} 3 100000"#]].assert_eq(&lines.join("\n"));
        let mut names: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all, "each family stands in one place");
    }

    #[test]
    fn labels_are_escaped() {
        let mut out = String::new();
        Family::new(&mut out, "m", "gauge", "h").value(&[("a", "x\"\\\n")], 1, None);
        assert!(out.ends_with("m{a=\"x\\\"\\\\\\n\"} 1\n"), "{out}");
    }
}
