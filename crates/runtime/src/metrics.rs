//! What the kernel counts of a container, under the names that monitoring knows: cAdvisor's (`metrics/prometheus.go`). [`FAMILIES`] says
//! which there are. Differs from cAdvisor: disks and processors are added up.

use crate::{Pressure, Stats};
use std::time::Duration;

/// How a number moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
}

/// What a metric says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value {
    /// So many, or so many bytes.
    Number(u64),
    /// So long.
    Time(Duration),
}

/// A metric: its name and help, further labels, and how it follows from what the kernel counts; `None`: this machine does not tell.
pub struct Family {
    /// Its name. Several have the same if they differ in their labels.
    pub name: &'static str,
    /// Its help.
    pub help: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// Labels beside those of the container.
    pub more: &'static [(&'static str, &'static str)],
    /// What it says.
    pub pick: fn(&Stats) -> Option<Value>,
}

type Labels = &'static [(&'static str, &'static str)];

const fn counter(name: &'static str, help: &'static str, pick: fn(&Stats) -> Option<Value>) -> Family {
    Family { name, help, kind: Kind::Counter, more: &[], pick }
}

const fn gauge(name: &'static str, help: &'static str, pick: fn(&Stats) -> Option<Value>) -> Family {
    Family { name, help, kind: Kind::Gauge, more: &[], pick }
}

const fn failures(more: Labels, pick: fn(&Stats) -> Option<Value>) -> Family {
    let help = "Cumulative count of memory allocation failures.";
    Family { more, ..counter("container_memory_failures_total", help, pick) }
}

const fn disk_use(more: Labels, pick: fn(&Stats) -> Option<Value>) -> Family {
    Family { more, ..counter("container_blkio_device_usage_total", "Blkio device bytes usage", pick) }
}

fn number(n: u64) -> Option<Value> {
    Some(Value::Number(n))
}

fn time(ns: u64) -> Option<Value> {
    Some(Value::Time(Duration::from_nanos(ns)))
}

fn waiting(pressure: Option<Pressure>) -> Option<Value> {
    Some(Value::Time(Duration::from_micros(pressure?.some.total_us)))
}

fn stalled(pressure: Option<Pressure>) -> Option<Value> {
    Some(Value::Time(Duration::from_micros(pressure?.full.total_us)))
}

/// All of them; those of one name stand together.
pub const FAMILIES: &[Family] = &[
    counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", |s| time(s.cpu_usage_ns)),
    counter("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |s| {
        time(s.cpu_user_ns)
    }),
    counter("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |s| {
        time(s.cpu_system_ns)
    }),
    counter("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |s| {
        number(s.cpu_periods)
    }),
    counter("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |s| {
        number(s.cpu_throttled_periods)
    }),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |s| time(s.cpu_throttled_ns),
    ),
    gauge(
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |s| number(s.memory_usage),
    ),
    gauge("container_memory_working_set_bytes", "Current working set in bytes.", |s| number(s.memory_working_set)),
    gauge("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |s| number(s.memory_max_usage)),
    gauge("container_memory_rss", "Size of RSS in bytes.", |s| number(s.memory_rss)),
    gauge("container_memory_cache", "Number of bytes of page cache memory.", |s| number(s.memory_cache)),
    gauge("container_memory_mapped_file", "Size of memory mapped files in bytes.", |s| number(s.memory_mapped)),
    gauge("container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", |s| number(s.memory_kernel)),
    gauge("container_memory_swap", "Container swap usage in bytes.", |s| number(s.swap_usage)),
    counter("container_memory_failcnt", "Number of memory usage hits limits", |s| number(s.memory_limit_hits)),
    failures(&[("failure_type", "pgfault"), ("scope", "hierarchy")], |s| number(s.page_faults)),
    failures(&[("failure_type", "pgmajfault"), ("scope", "hierarchy")], |s| number(s.major_page_faults)),
    counter("container_oom_events_total", "Count of out of memory events observed for the container", |s| {
        number(s.oom_kills)
    }),
    disk_use(&[("operation", "Read")], |s| number(s.io?.read_bytes)),
    disk_use(&[("operation", "Write")], |s| number(s.io?.written_bytes)),
    counter("container_fs_reads_bytes_total", "Cumulative count of bytes read", |s| number(s.io?.read_bytes)),
    counter("container_fs_reads_total", "Cumulative count of reads completed", |s| number(s.io?.reads)),
    counter("container_fs_writes_bytes_total", "Cumulative count of bytes written", |s| number(s.io?.written_bytes)),
    counter("container_fs_writes_total", "Cumulative count of writes completed", |s| number(s.io?.writes)),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |s| waiting(s.cpu_pressure),
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |s| stalled(s.cpu_pressure),
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |s| waiting(s.memory_pressure),
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |s| stalled(s.memory_pressure),
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |s| waiting(s.io_pressure),
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |s| stalled(s.io_pressure),
    ),
    gauge("container_threads", "Number of threads running inside the container", |s| number(s.pids)),
    gauge(
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |s| number(s.pids_limit.unwrap_or(0)),
    ),
];
