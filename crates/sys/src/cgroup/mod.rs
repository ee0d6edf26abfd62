//! Control groups v1, v2 and hybrid behind one type. A [`Cgroup`] is one path in every hierarchy that matters; hybrid is the
//! composition of both back ends: limits in v1, the same path in the v2 tree for `cgroup.kill` and freezing.
//!
//! Invariant: a limit that was asked for is set, or its name is in the returned [`Missing`], or there is an error. Never silence.

mod v1;
mod v2;

use crate::device::Rule;
use crate::process::Pid;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A file of a cgroup could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cgroup: failed to {verb} {path}")]
pub struct Error {
    /// "write \"100\" to", "create", "remove", …
    pub verb: String,
    /// Which file or directory.
    pub path: String,
    /// The kernel's answer.
    #[source]
    pub source: io::Error,
}

/// Result of a cgroup operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Limits. `None` leaves what is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// Bytes; -1 is no limit.
    pub memory_limit: Option<i64>,
    /// Bytes of memory and swap together; -1 is no limit. Ignored where the kernel does not account swap.
    pub memory_swap: Option<i64>,
    /// Relative weight, in the units of cgroup v1 (2 to 262144, 1024 is one CPU in Kubernetes).
    pub cpu_shares: Option<u64>,
    /// Microseconds of CPU per period; -1 is no limit.
    pub cpu_quota_us: Option<i64>,
    /// Length of the period.
    pub cpu_period_us: Option<u64>,
    /// Number of tasks; -1 is no limit.
    pub pids: Option<i64>,
    /// Such as `0-3,7`.
    pub cpuset_cpus: Option<String>,
    /// Such as `0`.
    pub cpuset_mems: Option<String>,
    /// Page size as the kernel writes it (`2MB`) and bytes.
    pub hugetlb: Vec<(String, u64)>,
    /// Only these devices may be used; `None` restricts nothing.
    pub devices: Option<Vec<Rule>>,
    /// Further files of cgroup v2, such as `memory.high`.
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    fn asked(&self) -> BTreeSet<&'static str> {
        let all = [
            ("memory", self.memory_limit.is_some()),
            ("cpu", self.cpu_shares.is_some() || self.cpu_quota_us.is_some() || self.cpu_period_us.is_some()),
            ("pids", self.pids.is_some()),
            ("cpuset", self.cpuset_cpus.is_some() || self.cpuset_mems.is_some()),
            ("hugetlb", !self.hugetlb.is_empty()),
            ("devices", self.devices.is_some()),
            ("unified", !self.unified.is_empty()),
        ];
        all.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect()
    }
}

/// Names of controllers that this machine lacks although a limit was asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing(pub Vec<&'static str>);

/// What the kernel counted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// CPU time used by all tasks, ever.
    pub cpu_usage_ns: u64,
    /// Of it, in user mode.
    pub cpu_user_ns: u64,
    /// Of it, in the kernel.
    pub cpu_system_ns: u64,
    /// Bytes charged now, page cache included.
    pub memory_usage: u64,
    /// `memory_usage` without inactive file pages: what the eviction logic looks at.
    pub memory_working_set: u64,
    /// Anonymous memory.
    pub memory_rss: u64,
    /// Page cache.
    pub memory_cache: u64,
    /// Of the page cache, what was used lately.
    pub memory_active_file: u64,
    /// Of the page cache, what was not.
    pub memory_inactive_file: u64,
    /// Of the page cache, what is mapped.
    pub memory_mapped: u64,
    /// Bytes of its limit, if it has one.
    pub memory_limit: Option<u64>,
    /// The most that was ever charged.
    pub memory_max_usage: u64,
    /// Memory of the kernel.
    pub memory_kernel: u64,
    /// Times the limit was hit.
    pub memory_limit_hits: u64,
    /// Bytes in swap.
    pub swap_usage: u64,
    /// Bytes that may be in swap, if that is limited.
    pub swap_limit: Option<u64>,
    /// Page faults, ever.
    pub page_faults: u64,
    /// Page faults that read from disk, ever.
    pub major_page_faults: u64,
    /// Tasks now.
    pub pids: u64,
    /// How many tasks there may be, if that is limited.
    pub pids_limit: Option<u64>,
    /// What went from and to each disk; only v2 tells.
    pub io: Option<Vec<DiskIo>>,
    /// Times a task was killed for lack of memory.
    pub oom_kills: u64,
    /// Periods of the CPU quota that have passed.
    pub cpu_periods: u64,
    /// Of these, those in which it was used up.
    pub cpu_throttled_periods: u64,
    /// How long tasks waited for the next one.
    pub cpu_throttled_ns: u64,
    /// Waiting for CPU; only v2 tells.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory; only v2 tells.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks; only v2 tells.
    pub io_pressure: Option<Pressure>,
}

/// What went from and to a disk, ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskIo {
    /// Its major and minor number.
    pub device: (u32, u32),
    /// Bytes read.
    pub read_bytes: u64,
    /// Bytes written.
    pub written_bytes: u64,
    /// Read operations.
    pub reads: u64,
    /// Write operations.
    pub writes: u64,
}

impl DiskIo {
    /// Reads `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0` and the like, a line per disk; one may have no fields.
    fn read_all(text: &str) -> Vec<DiskIo> {
        text.lines().filter_map(DiskIo::read).collect()
    }

    fn read(line: &str) -> Option<DiskIo> {
        let (device, fields) = line.split_once(' ')?;
        let (major, minor) = device.split_once(':')?;
        let field = |key: &str| {
            let value = fields.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='));
            value.and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        Some(DiskIo {
            device: (major.parse().ok()?, minor.parse().ok()?),
            read_bytes: field("rbytes"),
            written_bytes: field("wbytes"),
            reads: field("rios"),
            writes: field("wios"),
        })
    }
}

/// How long tasks waited for a resource (PSI).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pressure {
    /// At least one task did.
    pub some: Stall,
    /// All tasks that could have run did.
    pub full: Stall,
}

/// One line of a pressure file.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    /// Percent of the last 10 seconds.
    pub avg10: f64,
    /// Percent of the last minute.
    pub avg60: f64,
    /// Percent of the last 5 minutes.
    pub avg300: f64,
    /// Ever.
    pub total_us: u64,
}

impl Pressure {
    /// Reads `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the like; lines that are missing are zero.
    fn read(text: &str) -> Pressure {
        let stall = |kind: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(kind)).unwrap_or_default();
            let field = |key: &str| line.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='));
            let percent = |key: &str| field(key).and_then(|v| v.parse().ok()).unwrap_or(0.0);
            Stall {
                avg10: percent("avg10"),
                avg60: percent("avg60"),
                avg300: percent("avg300"),
                total_us: field("total").and_then(|v| v.parse().ok()).unwrap_or(0),
            }
        };
        Pressure { some: stall("some"), full: stall("full") }
    }
}

/// One hierarchy, or the v1 hierarchies taken together.
trait Backend: fmt::Debug + Send + Sync {
    /// Makes the directories.
    fn create(&self) -> Result<()>;
    /// Sets what it can and what is not yet in `done`, and adds the names of that.
    fn apply(&self, resources: &Resources, done: &mut BTreeSet<&'static str>) -> Result<()>;
    /// Files into which a process with one thread writes `0` to join.
    fn entries(&self) -> Result<Vec<OwnedFd>>;
    /// The directory that a process can be born in, if the kernel can do that here; `resident` is a process that is in already.
    fn birthplace(&self, resident: Option<Pid>) -> Result<Option<OwnedFd>>;
    /// Processes in it and below.
    fn procs(&self) -> BTreeSet<i32>;
    /// Kills everything in it at once; false if the kernel cannot.
    fn kill(&self) -> Result<bool>;
    /// Stops or continues everything in it; false if the kernel cannot.
    fn freeze(&self, frozen: bool) -> Result<bool>;
    /// Adds what it counts.
    fn stats(&self, stats: &mut Stats);
    /// Times a task was killed for lack of memory.
    fn oom_kills(&self) -> u64;
    /// Removes the directories.
    fn delete(&self) -> Result<()>;
}

/// Which kind of hierarchies are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Only v1.
    V1,
    /// Only v2.
    V2,
    /// Controllers in v1, and a v2 tree beside.
    Hybrid,
}

/// The hierarchies of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroups {
    /// Controllers and where they are mounted.
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<PathBuf>,
}

impl Cgroups {
    /// Looks at what is mounted.
    pub fn detect() -> Result<Self> {
        let path = "/proc/self/mountinfo";
        let text = std::fs::read_to_string(path).map_err(|e| error("read", Path::new(path), e))?;
        let found = Self::from_mountinfo(&text);
        if found.v1.is_empty() && found.v2.is_none() {
            return Err(error("find a mounted hierarchy in", Path::new(path), io::ErrorKind::NotFound.into()));
        }
        Ok(found)
    }

    fn from_mountinfo(text: &str) -> Self {
        let mut out = Cgroups { v1: Vec::new(), v2: None };
        for line in text.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(at) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let mut right = right.split(' ');
            match right.next() {
                Some("cgroup2") if out.v2.is_none() => out.v2 = Some(at),
                Some("cgroup") => {
                    let options = right.nth(1).unwrap_or_default();
                    let names: Vec<String> = options
                        .split(',')
                        .filter(|o| v1::CONTROLLERS.contains(o) || o.starts_with("name="))
                        .map(str::to_owned)
                        .collect();
                    if !names.is_empty() && !out.v1.iter().any(|(n, _)| *n == names) {
                        out.v1.push((names, at));
                    }
                }
                _ => {}
            }
        }
        out
    }

    /// Which kind of hierarchies are mounted.
    pub fn mode(&self) -> Mode {
        let controllers = self.v1.iter().any(|(names, _)| names.iter().any(|n| !n.starts_with("name=")));
        match (controllers, &self.v2) {
            (false, Some(_)) => Mode::V2,
            (_, None) => Mode::V1,
            (true, Some(_)) => Mode::Hybrid,
        }
    }

    /// Mounted v1 hierarchies.
    pub fn v1_mounts(&self) -> Vec<V1Mount> {
        let mount = |(names, at): &(Vec<String>, PathBuf)| V1Mount {
            options: names.join(","),
            name: at.file_name().map_or_else(|| names.join(","), |n| n.to_string_lossy().into_owned()),
            at: at.clone(),
        };
        self.v1.iter().map(mount).collect()
    }

    /// The name of the directory of the v2 tree beside v1 hierarchies.
    pub fn has_v2(&self) -> bool {
        self.v2.is_some()
    }

    /// Names of the controllers that limit and count something here.
    pub fn controllers(&self) -> BTreeSet<String> {
        let v1 = self.v1.iter().flat_map(|(names, _)| names).filter(|n| !n.starts_with("name=")).cloned();
        let v2 = self.v2.iter().filter_map(|root| std::fs::read_to_string(root.join("cgroup.controllers")).ok());
        let v2: Vec<String> = v2.flat_map(|t| t.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
        v1.chain(v2).collect()
    }

    /// The cgroup at `path` (`/dhow/pod1/main`), which need not exist.
    pub fn cgroup(&self, path: &str) -> Cgroup {
        let mut backends: Vec<Box<dyn Backend>> = Vec::new();
        let relative = path.trim_matches('/').to_owned();
        if self.mode() != Mode::V2 {
            backends.push(Box::new(v1::V1::new(&self.v1, &relative, self.v2.is_some())));
        }
        if let Some(root) = &self.v2 {
            backends.push(Box::new(v2::V2::new(root, &relative, self.mode() == Mode::V2)));
        }
        Cgroup { path: format!("/{relative}"), backends }
    }

    /// Children of the cgroup at `path` in any hierarchy, for finding leftovers.
    pub fn children(&self, path: &str) -> BTreeSet<String> {
        let relative = path.trim_matches('/');
        let roots = self.v1.iter().map(|(_, at)| at).chain(&self.v2);
        roots.flat_map(|root| subdirs(&root.join(relative))).collect()
    }
}

/// A mounted hierarchy of v1.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct V1Mount {
    /// The `-o` option that names it.
    pub options: String,
    /// The directory it is usually mounted under.
    pub name: String,
    at: PathBuf,
}

impl V1Mount {
    /// The directory of a process in it, by the text of its `/proc/PID/cgroup`; none if it is out of sight.
    pub fn directory(&self, cgroups: &str) -> Option<PathBuf> {
        let of_line = |line: &str| {
            let mut fields = line.splitn(3, ':').skip(1);
            let mut names = fields.next()?.split(',');
            let path = fields.next()?.trim_start_matches('/');
            names.any(|n| self.options.split(',').any(|o| o == n)).then(|| path.to_owned())
        };
        let path = cgroups.lines().find_map(of_line)?;
        (!path.split('/').any(|part| part == "..")).then(|| self.at.join(path))
    }
}

/// One path in every hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    path: String,
    backends: Vec<Box<dyn Backend>>,
}

impl Cgroup {
    /// The path below the roots of the hierarchies.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes the directories, and those above them.
    pub fn create(&self) -> Result<()> {
        self.backends.iter().try_for_each(|b| b.create())
    }

    /// Sets limits; also for changing them later.
    pub fn apply(&self, resources: &Resources) -> Result<Missing> {
        let mut done = BTreeSet::new();
        self.backends.iter().try_for_each(|b| b.apply(resources, &mut done))?;
        Ok(Missing(resources.asked().into_iter().filter(|name| !done.contains(name)).collect()))
    }

    /// The way in for a child of this process. With `resident`, a process that is in already, it leads to the same place even if that
    /// has made cgroups of its own below this one, where only leaves may have processes.
    pub fn entry(&self, resident: Option<Pid>) -> Result<Entry> {
        let mut entry = Entry::default();
        for b in &self.backends {
            match b.birthplace(resident)? {
                Some(dir) => entry.birthplace = Some(dir),
                None => entry.files.extend(b.entries()?),
            }
        }
        Ok(entry)
    }

    /// Moves the calling process, which has one thread, into it.
    pub fn join(&self) -> Result<()> {
        for b in &self.backends {
            let entry = Entry { birthplace: None, files: b.entries()? };
            entry.complete().map_err(|e| error("join", Path::new(&self.path), e))?;
        }
        Ok(())
    }

    /// Processes in it and below.
    pub fn procs(&self) -> BTreeSet<i32> {
        self.backends.iter().flat_map(|b| b.procs()).collect()
    }

    /// Kills everything in it. Returns as soon as every process has its signal; they may still be dying.
    pub fn kill(&self) -> Result<()> {
        for b in &self.backends {
            if b.kill()? {
                return Ok(());
            }
        }
        // A frozen process of v1 ignores SIGKILL until thawed. Forking processes are met again in the next round.
        self.freeze(false)?;
        let mut signaled = BTreeSet::new();
        for _ in 0..100 {
            let fresh: Vec<i32> = self.procs().into_iter().filter(|pid| signaled.insert(*pid)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                match crate::process::kill(pid, libc::SIGKILL) {
                    Err(e) if e.raw_os_error() != Some(libc::ESRCH) => {
                        return Err(error("kill the processes of", Path::new(&self.path), e));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Stops or continues everything in it.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        for b in &self.backends {
            if b.freeze(frozen)? {
                return Ok(());
            }
        }
        if frozen {
            Err(error("freeze", Path::new(&self.path), io::Error::from_raw_os_error(libc::EOPNOTSUPP)))
        } else {
            Ok(())
        }
    }

    /// What the kernel counted. Counters that cannot be read are zero.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        self.backends.iter().for_each(|b| b.stats(&mut stats));
        stats
    }

    /// Times a task in it was killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        self.backends.iter().map(|b| b.oom_kills()).max().unwrap_or(0)
    }

    /// Removes it and everything below. Fails with `EBUSY` while a process is in it.
    pub fn delete(&self) -> Result<()> {
        let results: Vec<Result<()>> = self.backends.iter().map(|b| b.delete()).collect();
        results.into_iter().collect()
    }

    /// Whether a directory of it exists anywhere.
    pub fn exists(&self, cgroups: &Cgroups) -> bool {
        let relative = self.path.trim_matches('/');
        cgroups.v1.iter().map(|(_, at)| at).chain(&cgroups.v2).any(|root| root.join(relative).exists())
    }
}

/// The way into a cgroup. Stays valid in any mount namespace.
#[derive(Debug, Default)]
pub struct Entry {
    birthplace: Option<OwnedFd>,
    files: Vec<OwnedFd>,
}

impl Entry {
    /// Where the child is to be born ([`SingleThreaded::clone`](crate::process::SingleThreaded::clone)): moving a process later makes
    /// the kernel wait for every CPU.
    pub fn birthplace(&self) -> Option<BorrowedFd<'_>> {
        self.birthplace.as_ref().map(|dir| dir.as_fd())
    }

    /// Moves the calling process, which has one thread and was born in [`birthplace`](Self::birthplace), into the rest: the
    /// hierarchies of v1.
    pub fn complete(&self) -> io::Result<()> {
        self.files.iter().try_for_each(|file| crate::fd::write(file.as_fd(), b"0").map(drop))
    }
}

// === helpers of both back ends ===

fn error(verb: impl Into<String>, path: &Path, source: io::Error) -> Error {
    Error { verb: verb.into(), path: path.display().to_string(), source }
}

fn write(path: &Path, value: &str) -> Result<()> {
    write_each(path, [value])
}

/// Each value is a write of its own, as the kernel wants it.
fn write_each(path: &Path, values: impl IntoIterator<Item = impl AsRef<str>>) -> Result<()> {
    let mut file: Option<std::fs::File> = None;
    for value in values {
        let value = value.as_ref();
        let fail = |e| error(format!("write {value:?} to"), path, e);
        let file = match &mut file {
            Some(file) => file,
            none => none.insert(std::fs::OpenOptions::new().write(true).open(path).map_err(fail)?),
        };
        file.write_all(value.as_bytes()).map_err(fail)?;
    }
    Ok(())
}

fn open_entry(dir: &Path, name: &str) -> Result<OwnedFd> {
    let path = dir.join(name);
    std::fs::OpenOptions::new().write(true).open(&path).map(OwnedFd::from).map_err(|e| error("open", &path, e))
}

fn read_number(path: &Path) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// `key value` lines.
fn read_table(path: &Path) -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|l| l.split_once(' '))
        .filter_map(|(k, v)| Some((k.to_owned(), v.trim().parse().ok()?)))
        .collect()
}

fn subdirs(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect()
}

fn procs_below(dir: &Path, out: &mut BTreeSet<i32>) {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    out.extend(text.lines().filter_map(|l| l.parse::<i32>().ok()));
    for child in subdirs(dir) {
        procs_below(&dir.join(child), out);
    }
}

/// Makes `root/a`, `root/a/b`, … for `relative` = `a/b`; calls `level` for each whether new or not, parents first.
fn make_dirs(root: &Path, relative: &str, mut level: impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let mut dir = root.to_path_buf();
    for part in relative.split('/').filter(|p| !p.is_empty()) {
        dir.push(part);
        match std::fs::create_dir(&dir) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(error("create", &dir, e)),
            _ => level(&dir)?,
        }
    }
    Ok(())
}

/// Makes `root/relative`, mostly with one call, and what is missing above; calls `made` for each new level, parents first.
fn make_missing(root: &Path, relative: &str, made: &mut impl FnMut(&Path) -> Result<()>) -> Result<()> {
    let dir = root.join(relative);
    let create = || std::fs::create_dir(&dir);
    let created = match (create(), relative.rsplit_once('/')) {
        (Err(e), Some((above, _))) if e.kind() == io::ErrorKind::NotFound => {
            make_missing(root, above, made)?;
            create()
        }
        (other, _) => other,
    };
    match created {
        Ok(()) => made(&dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(error("create", &dir, e)),
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    match std::fs::remove_dir(dir) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => {}
    }
    for child in subdirs(dir) {
        remove_tree(&dir.join(child))?;
    }
    match std::fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(error("remove", dir, e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
33 30 0:29 / /sys/fs/cgroup/unified rw,relatime - cgroup2 none rw
";

    #[test]
    fn what_is_missing_is_made_and_told_once() {
        let root = tempfile::tempdir().unwrap();
        let make = |relative: &str| {
            let mut told = Vec::new();
            let mut made = |dir: &Path| {
                told.push(dir.strip_prefix(root.path()).unwrap().display().to_string());
                Ok(())
            };
            make_missing(root.path(), relative, &mut made).map(|()| told)
        };
        assert_eq!(make("a/b/c").unwrap(), ["a", "a/b", "a/b/c"]);
        assert_eq!(make("a/b/d").unwrap(), ["a/b/d"]);
        assert_eq!(make("a/b/d").unwrap(), [""; 0]);
        assert_eq!(make("").unwrap(), [""; 0]);
        std::fs::write(root.path().join("file"), "").unwrap();
        assert!(make("file/x").unwrap_err().to_string().ends_with("file/x"));
    }

    #[test]
    fn pressure_is_read_with_and_without_a_full_line() {
        let text =
            "some avg10=1.50 avg60=0.25 avg300=0.00 total=1234\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        let got = Pressure::read(text);
        assert_eq!(got.some, Stall { avg10: 1.5, avg60: 0.25, avg300: 0.0, total_us: 1234 });
        assert_eq!(got.full.total_us, 7);
        assert_eq!(Pressure::read("some avg10=x\n"), Pressure::default());
    }

    #[test]
    fn each_disk_is_read() {
        let text = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=9 dios=9\n254:1 wbytes=20 rios=x\n7:0 \nx:y rios=1\n\n";
        let first = DiskIo { device: (8, 0), read_bytes: 1, written_bytes: 2, reads: 3, writes: 4 };
        let second = DiskIo { device: (254, 1), written_bytes: 20, ..DiskIo::default() };
        let idle = DiskIo { device: (7, 0), ..DiskIo::default() };
        assert_eq!(DiskIo::read_all(text), [first, second, idle]);
    }

    #[test]
    fn the_mode_follows_from_what_is_mounted() {
        let found = Cgroups::from_mountinfo(HYBRID);
        assert_eq!(found.mode(), Mode::Hybrid);
        let mounts: Vec<_> = found.v1_mounts();
        let names: Vec<_> = mounts.iter().map(|m| (m.options.as_str(), m.name.as_str())).collect();
        assert_eq!(names, [("cpu,cpuacct", "cpu,cpuacct"), ("name=systemd", "systemd")]);
        let process = "3:cpuacct,cpu:/pod/c:1\n2:name=systemd:/../x\n1:pids:/elsewhere\n";
        assert_eq!(mounts[0].directory(process), Some("/sys/fs/cgroup/cpu,cpuacct/pod/c:1".into()));
        assert_eq!(mounts[1].directory(process), None);
        let without =
            |word: &str| HYBRID.lines().filter(|l| !l.contains(word)).map(|l| format!("{l}\n")).collect::<String>();
        assert_eq!(Cgroups::from_mountinfo(&without("cpuacct")).mode(), Mode::V2);
        assert_eq!(Cgroups::from_mountinfo(&without("unified")).mode(), Mode::V1);
    }
}
