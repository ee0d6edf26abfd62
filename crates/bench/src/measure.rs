//! What the kernel says of processes and of the machine: CPU time, memory, who else was busy.

use crate::fail::{Result, io};
use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// CPU time of all threads of `pids`, in nanoseconds: the kernel's per-process clock, which is the sum of `task/*/schedstat`
/// and, unlike it, keeps the time of threads that have ended. Processes that are gone count nothing.
pub(crate) fn cpu_ns(pids: &[i32]) -> u64 {
    let of = |pid: &i32| clock_getcpuclockid(Pid::from_raw(*pid)).and_then(ClockId::now).ok();
    pids.iter().filter_map(of).map(nanos).sum()
}

/// CPU time of this process.
pub(crate) fn own_cpu_ns() -> u64 {
    ClockId::CLOCK_PROCESS_CPUTIME_ID.now().map(nanos).unwrap_or(0)
}

/// The clock that containers stamp, too.
pub(crate) fn monotonic_ns() -> u64 {
    ClockId::CLOCK_MONOTONIC.now().map(nanos).unwrap_or(0)
}

fn nanos(t: nix::sys::time::TimeSpec) -> u64 {
    Duration::from(t).as_nanos() as u64
}

/// A stretch of work: server CPU, client CPU, wall time, and the share of the machine that others took.
pub(crate) struct Stretch {
    pids: Vec<i32>,
    server: u64,
    client: u64,
    machine: u64,
    start: Instant,
}

/// What a stretch cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) server_us: f64,
    pub(crate) client_us: f64,
    pub(crate) wall: Duration,
    /// Of all CPUs, taken by neither server nor client, steal included.
    pub(crate) foreign: f64,
}

impl Stretch {
    pub(crate) fn begin(pids: &[i32]) -> Self {
        let (server, client) = (cpu_ns(pids), own_cpu_ns());
        Stretch { pids: pids.to_vec(), server, client, machine: busy_ns(), start: Instant::now() }
    }

    pub(crate) fn end(self) -> Cost {
        let wall = self.start.elapsed();
        let server = (cpu_ns(&self.pids) - self.server) as f64 / 1000.0;
        let client = (own_cpu_ns() - self.client) as f64 / 1000.0;
        let busy = (busy_ns() - self.machine) as f64 / 1000.0;
        let capacity = wall.as_secs_f64() * 1e6 * cpus();
        let foreign = ((busy - server - client) / capacity).clamp(0.0, 1.0);
        Cost { server_us: server, client_us: client, wall, foreign }
    }
}

/// How busy the whole machine is during work whose processes cannot be told apart.
pub(crate) struct Machine {
    busy: u64,
    start: Instant,
}

impl Machine {
    pub(crate) fn begin() -> Self {
        Machine { busy: busy_ns(), start: Instant::now() }
    }

    /// For the table: our own work and everybody else's.
    pub(crate) fn note(&self) -> String {
        let capacity = self.start.elapsed().as_nanos() as f64 * cpus();
        format!("box {:.0} % busy", (busy_ns() - self.busy) as f64 / capacity * 100.0)
    }
}

fn cpus() -> f64 {
    std::thread::available_parallelism().map_or(1, usize::from) as f64
}

/// Busy and stolen time of all CPUs, from `/proc/stat` (hundredths of a second).
fn busy_ns() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    let field: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let at = |i: usize| field.get(i).copied().unwrap_or(0);
    // user nice system idle iowait irq softirq steal
    (at(0) + at(1) + at(2) + at(5) + at(6) + at(7)) * 10_000_000
}

/// Resident and proportional memory, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    pub(crate) rss: u64,
    pub(crate) pss: u64,
    pub(crate) private_dirty: u64,
}

/// Memory of one process.
pub(crate) fn memory(pid: i32) -> Memory {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
    };
    Memory { rss: field("Rss:"), pss: field("Pss:"), private_dirty: field("Private_Dirty:") }
}

/// Starts measuring the peak of resident memory anew; returns what is resident now.
pub(crate) fn reset_peak(pid: i32) -> Result<u64> {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").map_err(io("reset the peak of resident memory"))?;
    Ok(status_kb(pid, "VmRSS:"))
}

/// The peak since [`reset_peak`].
pub(crate) fn peak(pid: i32) -> u64 {
    status_kb(pid, "VmHWM:")
}

fn status_kb(pid: i32, field: &str) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 1024
}

/// `pid` and all its descendants, with their names.
pub(crate) fn tree(pid: i32) -> Vec<(i32, String)> {
    let mut all: BTreeMap<i32, (i32, String)> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        if let Some((parent, name)) = parse_stat(&stat) {
            all.insert(id, (parent, name));
        }
    }
    let mut found: Vec<(i32, String)> = all.get(&pid).map(|(_, n)| (pid, n.clone())).into_iter().collect();
    let mut next = 0;
    while let Some((parent, _)) = found.get(next).cloned() {
        found.extend(all.iter().filter(|(_, (p, _))| *p == parent).map(|(id, (_, n))| (*id, n.clone())));
        next += 1;
    }
    found
}

/// Parent and name in `/proc/PID/stat`; the name may hold spaces and brackets.
fn parse_stat(stat: &str) -> Option<(i32, String)> {
    let (open, close) = (stat.find('(')?, stat.rfind(')')?);
    let parent = stat.get(close + 1..)?.split_whitespace().nth(1)?.parse().ok()?;
    Some((parent, stat.get(open + 1..close)?.to_owned()))
}

/// What the table was measured on.
pub(crate) fn machine() -> serde_json::Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model = cpuinfo
        .lines()
        .find_map(|l| l.strip_prefix("model name"))
        .map_or("", |l| l.trim_start_matches([' ', '\t', ':']));
    let memory = read("/proc/meminfo").lines().next().and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
    serde_json::json!({
        "cpu": model,
        "cpus": std::thread::available_parallelism().map_or(1, usize::from),
        "memoryGB": memory.unwrap_or(0) / 1_000_000,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "load": read("/proc/loadavg").split_whitespace().take(3).collect::<Vec<_>>().join(" "),
        "date": base::Clock::now(&base::SystemClock).to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_stat_may_hold_anything() {
        let cases = ["7 (a b) S 3 7", "8 (x) y) S) R 1 8", "9 oops"].map(parse_stat);
        assert_eq!(cases, [Some((3, "a b".into())), Some((1, "x) y) S".into())), None]);
    }

    #[test]
    fn own_process_is_seen() {
        let me = std::process::id() as i32;
        assert!(tree(me).iter().any(|(pid, _)| *pid == me));
        assert!(memory(me).rss > 0 && cpu_ns(&[me]) > 0 && cpu_ns(&[4_194_305]) == 0);
    }
}
