//! What the kernel counts of a container, under the names that monitoring knows: cAdvisor's (`metrics/prometheus.go`). [`FAMILIES`] says
//! which there are, [`DISKS`] those of each disk, and [`OPEN`] what processes hold, which is read only when somebody asks for it.

use crate::{DiskIo, Pressure, Stats};
use std::collections::BTreeSet;
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
    gauge("container_memory_total_active_file_bytes", "Current total active file in bytes.", |s| {
        number(s.memory_active_file)
    }),
    gauge("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", |s| {
        number(s.memory_inactive_file)
    }),
    // With cgroup v2 there is no other scope than the whole, and cAdvisor says it twice.
    failures(&[("failure_type", "pgfault"), ("scope", "container")], |s| number(s.page_faults)),
    failures(&[("failure_type", "pgfault"), ("scope", "hierarchy")], |s| number(s.page_faults)),
    failures(&[("failure_type", "pgmajfault"), ("scope", "container")], |s| number(s.major_page_faults)),
    failures(&[("failure_type", "pgmajfault"), ("scope", "hierarchy")], |s| number(s.major_page_faults)),
    counter("container_oom_events_total", "Count of out of memory events observed for the container", |s| {
        number(s.oom_kills)
    }),
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

/// A counter of each disk.
pub struct DiskFamily {
    /// Its name. Several have the same if they differ in their labels.
    pub name: &'static str,
    /// Its help.
    pub help: &'static str,
    /// Keys of its labels beside those of the container.
    pub keys: &'static [&'static str],
    /// What was done; empty if the name says it.
    operation: &'static str,
    /// What it says.
    pub pick: fn(&DiskIo) -> u64,
}

impl DiskFamily {
    /// Values for [`Self::keys`]; `name` is the disk's ([`disk_name`]).
    pub fn values(&self, disk: &DiskIo, name: &str) -> Vec<String> {
        let (major, minor) = disk.device;
        let value = |key: &&str| match *key {
            "device" => name.to_owned(),
            "major" => major.to_string(),
            "minor" => minor.to_string(),
            _ => self.operation.to_owned(),
        };
        self.keys.iter().map(value).collect()
    }
}

const fn of_disk(name: &'static str, help: &'static str, pick: fn(&DiskIo) -> u64) -> DiskFamily {
    DiskFamily { name, help, keys: &["device"], operation: "", pick }
}

const fn device_usage(operation: &'static str, pick: fn(&DiskIo) -> u64) -> DiskFamily {
    const KEYS: &[&str] = &["device", "major", "minor", "operation"];
    let family = of_disk("container_blkio_device_usage_total", "Blkio Device bytes usage", pick);
    DiskFamily { keys: KEYS, operation, ..family }
}

/// All of them; those of one name stand together.
pub const DISKS: &[DiskFamily] = &[
    device_usage("Read", |d| d.read_bytes),
    device_usage("Write", |d| d.written_bytes),
    of_disk("container_fs_reads_bytes_total", "Cumulative count of bytes read", |d| d.read_bytes),
    of_disk("container_fs_reads_total", "Cumulative count of reads completed", |d| d.reads),
    of_disk("container_fs_writes_bytes_total", "Cumulative count of bytes written", |d| d.written_bytes),
    of_disk("container_fs_writes_total", "Cumulative count of writes completed", |d| d.writes),
];

/// `/dev/sda`, by its numbers; empty if there is none (any more).
pub fn disk_name((major, minor): (u32, u32)) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap_or_default();
    link.file_name().map(|name| format!("/dev/{}", name.to_string_lossy())).unwrap_or_default()
}

/// What processes hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Open {
    /// How many processes.
    pub processes: u64,
    /// What they have open.
    pub files: u64,
    /// Of it, sockets.
    pub sockets: u64,
}

impl Open {
    /// Asks the kernel about each of these processes. One that has ended meanwhile holds nothing.
    pub fn of(processes: &BTreeSet<i32>) -> Self {
        let mut out = Open { processes: processes.len() as u64, ..Open::default() };
        for pid in processes {
            for entry in std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                out.files += 1;
                let to = std::fs::read_link(entry.path()).unwrap_or_default();
                out.sockets += u64::from(to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            }
        }
        out
    }
}

/// A gauge of what processes hold.
pub struct OpenFamily {
    /// Its name.
    pub name: &'static str,
    /// Its help.
    pub help: &'static str,
    /// What it says.
    pub pick: fn(&Open) -> u64,
}

/// All of them.
pub const OPEN: &[OpenFamily] = &[
    OpenFamily {
        name: "container_processes",
        help: "Number of processes running inside the container.",
        pick: |o| o.processes,
    },
    OpenFamily {
        name: "container_file_descriptors",
        help: "Number of open file descriptors for the container.",
        pick: |o| o.files,
    },
    OpenFamily { name: "container_sockets", help: "Number of open sockets for the container.", pick: |o| o.sockets },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_have_names_and_processes_hold_files() {
        let disk = DiskIo { device: (8, 1), ..DiskIo::default() };
        assert_eq!(DISKS[1].values(&disk, "/dev/sda1"), ["/dev/sda1", "8", "1", "Write"]);
        assert_eq!(DISKS[2].values(&disk, ""), [""]);
        assert_eq!(disk_name((4_095, 1_048_575)), "");
        let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair of sockets");
        let own = i32::try_from(std::process::id()).expect("a process id");
        let open = Open::of(&BTreeSet::from([own, i32::MAX]));
        drop(socket);
        assert!(open.processes == 2 && open.sockets >= 2 && open.files > open.sockets, "{open:?}");
    }
}
