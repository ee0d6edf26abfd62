//! Cgroups on the real kernel, in whatever hierarchies this machine has. `tests/cgroup2` runs these in a machine with v2 only.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use sys::cgroup::{Cgroup, Cgroups, Mode, Resources};

fn v2_root() -> PathBuf {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().find(|l| l.contains(" - cgroup2 ")).expect("a mounted cgroup v2 tree");
    line.split(' ').nth(4).unwrap().into()
}

/// A cgroup that is killed and removed with the value.
struct Temporary {
    cgroup: Cgroup,
    /// In the v2 tree.
    dir: PathBuf,
}

impl Temporary {
    fn new(name: &str) -> Temporary {
        let me = std::fs::metadata("/proc/self").unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&me), 0, "these tests need root: they make cgroups");
        let path = format!("dhow-test-{name}-{}/leaf", std::process::id());
        let cgroup = Cgroups::detect().unwrap().cgroup(&path);
        cgroup.create().unwrap();
        Temporary { cgroup, dir: v2_root().join(path) }
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// A shell in it that says so and then runs `script`.
    fn spawn(&self, script: &str) -> Child {
        let script = format!("echo $$ > $0/cgroup.procs && echo in; {script}");
        #[expect(clippy::disallowed_methods, reason = "a test may run programs of the host")]
        let mut command = std::process::Command::new("/bin/busybox");
        let command = command.args(["sh", "-c", &script]).arg(&self.dir);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 3];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(&line, b"in\n");
        child
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let parent = self.cgroup.path().rsplit_once('/').map(|(parent, _)| parent.to_owned());
        let parent = Cgroups::detect().unwrap().cgroup(&parent.unwrap_or_default());
        // Processes leave their cgroup a moment after they were killed.
        for _ in 0..1000 {
            if parent.kill().is_ok() && parent.delete().is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }
}

#[test]
fn frozen_means_frozen_and_killed_means_killed() {
    let t = Temporary::new("freeze");
    let mut child = t.spawn("while :; do :; done");
    t.cgroup.freeze(true).unwrap();
    assert!(t.read("cgroup.events").contains("frozen 1\n"), "{}", t.read("cgroup.events"));
    assert_eq!(t.cgroup.procs().into_iter().collect::<Vec<_>>(), [child.id() as i32]);
    t.cgroup.freeze(false).unwrap();
    t.cgroup.freeze(true).unwrap();
    t.cgroup.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9), "also while frozen");
}

#[test]
fn limits_are_set_or_named_as_missing() {
    let t = Temporary::new("limits");
    let pure = Cgroups::detect().unwrap().mode() == Mode::V2;
    let resources = Resources {
        memory_limit: Some(64 << 20),
        cpu_quota_us: Some(50_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(1024),
        pids: Some(10),
        ..Resources::default()
    };
    assert_eq!(t.cgroup.apply(&resources).unwrap().0, Vec::<&str>::new());
    if pure {
        let files = ["memory.max", "cpu.max", "cpu.weight", "pids.max"].map(|name| t.read(name));
        assert_eq!(files, ["67108864\n", "50000 100000\n", "39\n", "10\n"]);
    }
    let looser = Resources { memory_limit: Some(-1), pids: Some(-1), cpu_quota_us: Some(-1), ..Resources::default() };
    assert_eq!(t.cgroup.apply(&looser).unwrap().0, Vec::<&str>::new());
    if pure {
        assert_eq!(["memory.max", "cpu.max", "pids.max"].map(|name| t.read(name)), ["max\n", "max 100000\n", "max\n"]);
    }
}

#[test]
fn the_root_tells_what_the_machine_uses() {
    let stats = Cgroups::detect().unwrap().cgroup("/").stats();
    assert!(stats.cpu_usage_ns > 0 && stats.memory_usage > 0 && stats.memory_working_set > 0, "{stats:?}");
}

/// Only leaves may have processes: a cgroup with one in it cannot hand controllers down, and what is made below it must neither break
/// it nor pretend to be limited.
#[test]
fn below_an_inhabited_cgroup_limits_are_missing_and_nothing_is_broken() {
    let t = Temporary::new("inhabited");
    let mut child = t.spawn("read never");
    let below = Cgroups::detect().unwrap().cgroup(&format!("{}/below", t.cgroup.path()));
    below.create().unwrap();
    assert_eq!(std::fs::read_to_string(t.dir.join("below/cgroup.type")).unwrap(), "domain\n");
    let missing =
        below.apply(&Resources { pids: Some(10), memory_limit: Some(64 << 20), ..Resources::default() }).unwrap();
    if Cgroups::detect().unwrap().mode() == Mode::V2 {
        assert_eq!(missing.0, ["memory", "pids"]);
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
