//! Tells of processes that the kernel ended because the machine had no memory left (`SystemOOM`). What ends because its own cgroup is full is its
//! container's affair, and told there.
//!
//! `Log` is pure: records of `/dev/kmsg` go in, victims come out. [`watch`] sleeps until the kernel says something. Follows
//! `pkg/kubelet/oom` and cAdvisor's `utils/oomparser`. Differs: a victim is told of once, also when the agent starts anew, and only the
//! kernel is believed: whatever else writes into its log names itself.

use crate::cluster::ClusterEvent;
use crate::context::Context;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::io::unix::AsyncFd;
use tokio_util::sync::CancellationToken;

/// One record each read (`Documentation/ABI/testing/dev-kmsg`).
const LOG: &str = "/dev/kmsg";
/// The kernel's longest record with everything that stands beside it (`CONSOLE_EXT_LOG_MAX`).
const RECORD_MAX_BYTES: usize = 8192;
/// What was told last, in the agent's data directory: `<boot id> <number of the record>`.
const FILE: &str = "system_oom";

/// Who had to go.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Victim {
    /// The record that says so.
    number: u64,
    name: String,
    pid: u64,
}

/// What the records so far amount to.
#[derive(Debug, Default)]
struct Log {
    /// Somebody ran out of memory, and it is not said yet who has to go.
    begun: bool,
}

impl Log {
    /// Takes the next record: `<priority and facility>,<number>,<time>,<flags>;<text>`, with more lines that do not matter here.
    fn take(&mut self, record: &str) -> Option<Victim> {
        let (head, text) = record.split_once(';')?;
        let mut head = head.split(',');
        let (level, number) = (head.next()?.parse::<u32>().ok()?, head.next()?.parse().ok()?);
        if level >> 3 != 0 {
            return None;
        }
        let text = text.lines().next()?;
        if !self.begun {
            self.begun = text.contains("invoked oom-killer:");
            return None;
        }
        if text.contains("oom_memcg=") || text.contains(" killed as a result of limit of ") {
            self.begun = false;
            return None;
        }
        let (pid, name) = text.split_once("Killed process ")?.1.split_once(" (")?;
        self.begun = false;
        let (name, _) = name.rsplit_once(')')?;
        Some(Victim { number, name: name.to_owned(), pid: pid.parse().ok()? })
    }

    /// The kernel was faster than we are: there are records that nobody read.
    fn lost(&mut self) {
        self.begun = false;
    }
}

/// What was told last.
struct Told {
    file: PathBuf,
    boot: String,
    number: Option<u64>,
}

impl Told {
    fn load(data_dir: &Path, boot: &str) -> Self {
        let file = data_dir.join(FILE);
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let number = text.trim().split_once(' ').filter(|(of, _)| *of == boot).and_then(|(_, n)| n.parse().ok());
        Told { file, boot: boot.to_owned(), number }
    }

    /// Whether this is news; from now on it is none.
    fn is_new(&mut self, victim: &Victim) -> bool {
        if self.number.is_some_and(|told| victim.number <= told) {
            return false;
        }
        self.number = Some(victim.number);
        let text = format!("{} {}\n", self.boot, victim.number);
        if let Err(error) = base::files::replace(&self.file, text.as_bytes()) {
            tracing::warn!(file = %self.file.display(), %error, "failed to keep what the kernel said");
        }
        true
    }
}

/// Tells of victims until `shutdown`: those of this boot that are not told of yet, then every new one. Where the kernel's log cannot be
/// read, nothing is told.
pub async fn watch(context: Arc<Context>, shutdown: CancellationToken) {
    let log = match open() {
        Ok(log) => log,
        Err(error) => {
            return tracing::info!(%error, "cannot read {LOG}: nothing is told of processes that end for want of memory");
        }
    };
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let told = Told::load(&context.config.data_dir, boot.trim());
    tokio::select! {
        () = shutdown.cancelled() => {}
        Err(error) = follow(&log, &context, told) => tracing::warn!(%error, "failed to read {LOG}"),
    }
}

fn open() -> io::Result<AsyncFd<OwnedFd>> {
    let log = rustix::fs::open(LOG, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
    #[expect(
        deprecated,
        reason = "`register` is unsafe only for types that may give their descriptor away; OwnedFd cannot"
    )]
    AsyncFd::new(log)
}

async fn follow(log: &AsyncFd<OwnedFd>, context: &Context, mut told: Told) -> io::Result<()> {
    let (mut state, mut buffer) = (Log::default(), vec![0; RECORD_MAX_BYTES]);
    loop {
        let mut ready = log.readable().await?;
        let length = match ready.try_io(|log| Ok(rustix::io::read(log, &mut buffer[..])?)) {
            Ok(Ok(length)) => length,
            Ok(Err(error)) => match Errno::from_io_error(&error) {
                Some(Errno::PIPE) => {
                    state.lost();
                    continue;
                }
                Some(Errno::INTR) => continue,
                _ => return Err(error),
            },
            // It has been read to its end.
            Err(_) => continue,
        };
        let victim = state.take(&String::from_utf8_lossy(&buffer[..length]));
        if let Some(victim) = victim.filter(|victim| told.is_new(victim)) {
            let Victim { name, pid, .. } = victim;
            let message = format!("System OOM encountered, victim process: {name}, pid: {pid}");
            let event =
                ClusterEvent { pod: None, field_path: None, warning: true, reason: "SystemOOM", message: &message };
            context.cluster.event(event);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(records: &[&str], want: &[(u64, &str, u64)]) {
        let mut log = Log::default();
        let found: Vec<Victim> = records.iter().filter_map(|r| log.take(r)).collect();
        let found: Vec<(u64, &str, u64)> = found.iter().map(|v| (v.number, v.name.as_str(), v.pid)).collect();
        assert_eq!(found, want);
    }

    const BEGUN: &str =
        "4,10,5,-;stress invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE), order=0, oom_score_adj=0\n";
    const KILLED: &str =
        "3,12,7,-;Out of memory: Killed process 4711 ((sd) x) total-vm:9kB, anon-rss:1kB, UID:0 pgtables:48kB\n";

    #[test]
    fn who_ends_for_want_of_memory_of_the_machine_is_named() {
        let global = "6,11,6,-;oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,global_oom,\
                      task_memcg=/kubepods/pod1/c,task=(sd) x,pid=4711,uid=0\n";
        check(
            &["6,9,5,-;eth0: up\n", BEGUN, "4,10,5,c;Mem-Info:\n SUBSYSTEM=x\n", global, KILLED],
            &[(12, "(sd) x", 4711)],
        );
        check(&[BEGUN, KILLED, KILLED, BEGUN, KILLED], &[(12, "(sd) x", 4711), (12, "(sd) x", 4711)]);
    }

    #[test]
    fn a_full_cgroup_is_its_own_affair() {
        let memcg = "6,11,6,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=c,mems_allowed=0,oom_memcg=/kubepods/pod1,\
                     task_memcg=/kubepods/pod1/c,task=stress,pid=7,uid=0\n";
        check(&[BEGUN, memcg, "3,12,7,-;Memory cgroup out of memory: Killed process 7 (stress) total-vm:9kB\n"], &[]);
        let old = "6,11,6,-;Task in /kubepods/pod1/c killed as a result of limit of /kubepods/pod1\n";
        check(&[BEGUN, old, "3,12,7,-;Killed process 7 (stress) total-vm:9kB\n"], &[]);
    }

    #[tokio::test]
    async fn this_machines_log_can_be_read_to_its_end() {
        // Who may not read it has nothing to show.
        let Ok(log) = open() else { return };
        let (mut state, mut buffer) = (Log::default(), vec![0; RECORD_MAX_BYTES]);
        loop {
            match rustix::io::read(log.get_ref(), &mut buffer[..]) {
                Ok(length) => drop(state.take(&String::from_utf8_lossy(&buffer[..length]))),
                Err(Errno::PIPE) => state.lost(),
                Err(error) => return assert_eq!(error, Errno::AGAIN),
            }
        }
    }

    #[test]
    fn only_the_kernel_is_believed() {
        check(&["12,10,5,-;a invoked oom-killer: x\n", KILLED], &[]);
        check(&[BEGUN, "12,11,5,-;Killed process 1 (init) x\n", KILLED], &[(12, "(sd) x", 4711)]);
        check(&["", "x", "3,y;z", ";", "3,1,1,-;"], &[]);
        check(&[BEGUN, "3,12,7,-;Killed process many (x) y\n", KILLED], &[]);
    }

    #[test]
    fn what_is_told_is_told_once_in_a_boot() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let victim = |number| Victim { number, name: "x".into(), pid: 1 };
        let mut told = Told::load(dir.path(), "a");
        assert!(told.is_new(&victim(5)) && !told.is_new(&victim(5)) && told.is_new(&victim(6)));
        let mut again = Told::load(dir.path(), "a");
        assert!(!again.is_new(&victim(6)) && again.is_new(&victim(7)));
        assert!(Told::load(dir.path(), "b").is_new(&victim(5)), "records are counted anew");
    }
}
