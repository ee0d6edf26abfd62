//! Metrics of containers and sandboxes under cAdvisor's names, for kubelets that ask their runtime (`PodAndContainerStatsFromCRI`).
//!
//! [`FAMILIES`], [`DISKS`], [`OPEN`], [`CONTAINER`] and [`SANDBOX`] say which there are. The interface knows whole numbers only, so seconds are whole. What this
//! machine does not tell is left out.

use crate::containers::SNAPSHOT_PREFIX;
use crate::record::{ContainerRecord, SandboxRecord};
use crate::{Shared, error};
use image::DiskUse;
use net::traffic::{Traffic, traffic};
use node_api::cri::{
    ContainerMetrics, LinuxContainerResources, Metric, MetricDescriptor, MetricType, PodSandboxMetrics, UInt64Value,
};
use runtime::Stats;
use runtime::metrics::{self, DISKS, FAMILIES, Kind, OPEN, Open, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tonic::Status;

/// Labels of every metric, sorted.
const LABELS: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// What was read of a container.
#[derive(Default)]
struct Sample {
    used: DiskUse,
    disk: Disk,
    resources: LinuxContainerResources,
    started_at_ns: i64,
    now_ns: i64,
}

/// The file system that containers write to.
#[derive(Default, Clone, Copy)]
struct Disk {
    bytes: u64,
    inodes: u64,
    inodes_free: u64,
}

/// A metric: its name, its help, its kind, further labels, and how it follows from what was read.
struct Family<T> {
    name: &'static str,
    help: &'static str,
    kind: MetricType,
    more: &'static [(&'static str, &'static str)],
    pick: fn(&T) -> Option<u64>,
}

const fn counter<T>(name: &'static str, help: &'static str, pick: fn(&T) -> Option<u64>) -> Family<T> {
    Family { name, help, kind: MetricType::Counter, more: &[], pick }
}

const fn gauge<T>(name: &'static str, help: &'static str, pick: fn(&T) -> Option<u64>) -> Family<T> {
    Family { name, help, kind: MetricType::Gauge, more: &[], pick }
}

fn natural(n: i64) -> Option<u64> {
    Some(u64::try_from(n).unwrap_or(0))
}

/// Beside what the kernel counts. Names and helps are cAdvisor's (`metrics/prometheus.go`).
const CONTAINER: &[Family<Sample>] = &[
    gauge("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", |s| {
        Some(s.used.bytes)
    }),
    gauge(
        "container_fs_limit_bytes",
        "Number of bytes that can be consumed by the container on this filesystem.",
        |s| Some(s.disk.bytes),
    ),
    gauge("container_fs_inodes_total", "Number of Inodes", |s| Some(s.disk.inodes)),
    gauge("container_fs_inodes_free", "Number of available Inodes", |s| Some(s.disk.inodes_free)),
    gauge("container_spec_cpu_period", "CPU period of the container.", |s| natural(s.resources.cpu_period)),
    gauge("container_spec_cpu_quota", "CPU quota of the container.", |s| {
        u64::try_from(s.resources.cpu_quota).ok().filter(|quota| *quota > 0)
    }),
    gauge("container_spec_cpu_shares", "CPU share of the container.", |s| natural(s.resources.cpu_shares)),
    gauge("container_spec_memory_limit_bytes", "Memory limit for the container.", |s| {
        natural(s.resources.memory_limit_in_bytes)
    }),
    gauge("container_spec_memory_swap_limit_bytes", "Memory swap limit for the container.", |s| {
        natural(s.resources.memory_swap_limit_in_bytes)
    }),
    gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds.", |s| {
        natural(s.started_at_ns / 1_000_000_000)
    }),
    gauge("container_last_seen", "Last time a container was seen by the exporter", |s| {
        natural(s.now_ns / 1_000_000_000)
    }),
];

const fn link(name: &'static str, help: &'static str, pick: fn(&Traffic) -> Option<u64>) -> Family<Traffic> {
    Family { more: &[("interface", "eth0")], ..counter(name, help, pick) }
}

const SANDBOX: &[Family<Traffic>] = &[
    link("container_network_receive_bytes_total", "Cumulative count of bytes received", |t| Some(t.received.bytes)),
    link("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", |t| {
        Some(t.received.errors)
    }),
    link(
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        |t| Some(t.received.dropped),
    ),
    link("container_network_receive_packets_total", "Cumulative count of packets received", |t| {
        Some(t.received.packets)
    }),
    link("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", |t| Some(t.sent.bytes)),
    link("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", |t| {
        Some(t.sent.errors)
    }),
    link(
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        |t| Some(t.sent.dropped),
    ),
    link("container_network_transmit_packets_total", "Cumulative count of packets transmitted", |t| {
        Some(t.sent.packets)
    }),
];

/// Which metrics there are, each once.
pub(crate) fn descriptors() -> Vec<MetricDescriptor> {
    let describe = |name: &str, help: &str, more: &[(&str, &str)]| {
        let keys = LABELS.iter().copied().chain(more.iter().map(|(key, _)| *key));
        MetricDescriptor { name: name.to_owned(), help: help.to_owned(), label_keys: keys.map(str::to_owned).collect() }
    };
    let counted = FAMILIES.iter().map(|f| describe(f.name, f.help, f.more));
    let disks = DISKS.iter().map(|f| {
        let more: Vec<(&str, &str)> = f.keys.iter().map(|key| (*key, "")).collect();
        describe(f.name, f.help, &more)
    });
    let open = OPEN.iter().map(|f| describe(f.name, f.help, &[]));
    let known = CONTAINER.iter().map(|f| describe(f.name, f.help, f.more));
    let links = SANDBOX.iter().map(|f| describe(f.name, f.help, f.more));
    let mut told = BTreeSet::new();
    counted.chain(disks).chain(open).chain(known).chain(links).filter(|d| told.insert(d.name.clone())).collect()
}

fn metric<'a>(
    name: &str,
    kind: MetricType,
    labels: &[&'a str],
    more: impl IntoIterator<Item = &'a str>,
    value: u64,
) -> Metric {
    let values = labels.iter().copied().chain(more);
    Metric {
        name: name.to_owned(),
        // Read just now.
        timestamp: 0,
        metric_type: kind.into(),
        label_values: values.map(str::to_owned).collect(),
        value: Some(UInt64Value { value }),
    }
}

/// What the kernel has counted.
fn counted(stats: &Stats, labels: &[&str; LABELS.len()]) -> Vec<Metric> {
    let one = |family: &metrics::Family| {
        let kind = match family.kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
        };
        let value = match (family.pick)(stats)? {
            Value::Number(number) => number,
            Value::Time(time) => time.as_secs(),
        };
        Some(metric(family.name, kind, labels, values_of(family.more), value))
    };
    let disks = stats.io.iter().flatten().flat_map(|disk| {
        let name = metrics::disk_name(disk.device);
        DISKS.iter().map(move |family| {
            let more = family.values(disk, &name);
            metric(family.name, MetricType::Counter, labels, more.iter().map(String::as_str), (family.pick)(disk))
        })
    });
    FAMILIES.iter().filter_map(one).chain(disks).collect()
}

fn values_of<'a>(more: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = &'a str> {
    more.iter().map(|(_, value)| *value)
}

/// What processes hold.
fn held(open: &Open, labels: &[&str; LABELS.len()]) -> Vec<Metric> {
    OPEN.iter().map(|f| metric(f.name, MetricType::Gauge, labels, [], (f.pick)(open))).collect()
}

/// The metrics of one container or sandbox, whose labels are `labels` (values of [`LABELS`]).
fn write_down<T>(families: &[Family<T>], of: &T, labels: &[&str; LABELS.len()]) -> Vec<Metric> {
    let one =
        |family: &Family<T>| Some(metric(family.name, family.kind, labels, values_of(family.more), (family.pick)(of)?));
    families.iter().filter_map(one).collect()
}

impl Shared {
    /// Of all sandboxes that run.
    pub(crate) async fn all_metrics(self: &Arc<Self>) -> Result<Vec<PodSandboxMetrics>, Status> {
        let shared = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let links = shared.links();
            let ready = shared.state.sandboxes().into_iter().filter(|s| s.ready);
            ready.map(|s| shared.sandbox_metrics(&s, links.get(&s.id))).collect()
        });
        read.await.map_err(|e| error::other(&e))
    }

    /// What went through the links of sandboxes, as they see it.
    pub(crate) fn links(&self) -> BTreeMap<String, Traffic> {
        let table = std::fs::read_to_string("/proc/net/dev").unwrap_or_default();
        let links: BTreeMap<String, Traffic> = traffic(&table).into_iter().map(|t| (t.name.clone(), t)).collect();
        let seen = |id: &str| Some(links.get(&self.network.link(id)?)?.from_the_other_end("eth0"));
        let sandboxes = self.state.sandboxes();
        sandboxes.iter().filter_map(|s| Some((s.id.clone(), seen(&s.id)?))).collect()
    }

    fn sandbox_metrics(&self, sandbox: &SandboxRecord, link: Option<&Traffic>) -> PodSandboxMetrics {
        let metadata = sandbox.config.metadata.clone().unwrap_or_default();
        let pod = [metadata.namespace.as_str(), metadata.name.as_str()];
        let labels = ["", &sandbox.id, "", "", pod[0], pod[1]];
        let containers = self.state.containers_of(&sandbox.id);
        PodSandboxMetrics {
            pod_sandbox_id: sandbox.id.clone(),
            metrics: link.map(|link| write_down(SANDBOX, link, &labels)).unwrap_or_default(),
            container_metrics: containers
                .iter()
                .filter(|c| c.is_running())
                .map(|c| self.container_metrics(c, pod))
                .collect(),
        }
    }

    fn container_metrics(&self, container: &ContainerRecord, pod: [&str; 2]) -> ContainerMetrics {
        let upper = self.images.upper(&format!("{SNAPSHOT_PREFIX}{}", container.id));
        let linux = container.config.linux.as_ref().and_then(|l| l.resources.clone());
        let sample = Sample {
            used: upper.map(|dir| DiskUse::of(&dir)).unwrap_or_default(),
            disk: self.disk(),
            resources: linux.unwrap_or_default(),
            started_at_ns: container.started_at,
            now_ns: self.now_ns(),
        };
        let name = container.config.metadata.as_ref().map_or("", |m| &m.name);
        let image = container.config.image.as_ref().map_or("", |i| &i.image);
        let labels = [name, &container.id, image, &container.id, pod[0], pod[1]];
        let mut metrics = counted(&self.engine.stats(&container.cgroup), &labels);
        metrics.extend(held(&Open::of(&self.engine.processes(&container.cgroup)), &labels));
        metrics.extend(write_down(CONTAINER, &sample, &labels));
        ContainerMetrics { container_id: container.id.clone(), metrics }
    }

    fn disk(&self) -> Disk {
        let found = rustix::fs::statvfs(&self.config.images_dir);
        found.map_or_else(
            |_| Disk::default(),
            |s| Disk { bytes: s.f_blocks.saturating_mul(s.f_frsize), inodes: s.f_files, inodes_free: s.f_ffree },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::{DiskIo, Pressure, Stall};

    #[test]
    fn every_metric_is_described_with_its_labels() {
        let described: BTreeMap<String, usize> =
            descriptors().into_iter().map(|d| (d.name, d.label_keys.len())).collect();
        let pressure =
            Some(Pressure { some: Stall { total_us: 2_500_000, ..Stall::default() }, ..Pressure::default() });
        let stats = Stats {
            cpu_usage_ns: 3_900_000_000,
            io: Some(vec![DiskIo::default()]),
            cpu_pressure: pressure,
            memory_pressure: pressure,
            io_pressure: pressure,
            ..Stats::default()
        };
        let resources = LinuxContainerResources { cpu_quota: 5, cpu_period: -1, ..Default::default() };
        let labels = ["main", "c", "box:1", "c", "ns", "web"];
        let mut told = counted(&stats, &labels);
        told.extend(held(&Open::default(), &labels));
        told.extend(write_down(CONTAINER, &Sample { resources, ..Sample::default() }, &labels));
        let network = write_down(SANDBOX, &Traffic::default(), &labels);
        for metric in told.iter().chain(&network) {
            assert_eq!(described.get(&metric.name), Some(&metric.label_values.len()), "{}", metric.name);
        }
        let names: BTreeSet<&str> = told.iter().chain(&network).map(|m| m.name.as_str()).collect();
        assert_eq!(names.len(), described.len());
        let value = |name: &str| told.iter().find(|m| m.name == name).and_then(|m| Some(m.value?.value));
        assert_eq!(value("container_cpu_usage_seconds_total"), Some(3));
        assert_eq!(value("container_pressure_cpu_waiting_seconds_total"), Some(2));
        assert_eq!(value("container_spec_cpu_period"), Some(0));
    }

    #[test]
    fn what_the_machine_does_not_tell_is_left_out() {
        let mut told = counted(&Stats::default(), &[""; 6]);
        told.extend(write_down(CONTAINER, &Sample::default(), &[""; 6]));
        let has = |name: &str| told.iter().any(|m| m.name == name);
        assert!(has("container_memory_rss") && !has("container_pressure_io_waiting_seconds_total"));
        assert!(!has("container_fs_reads_total") && !has("container_spec_cpu_quota"));
    }
}
