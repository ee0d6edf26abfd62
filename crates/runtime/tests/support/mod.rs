//! A place to run real containers in, as root: busybox in a directory, the zygote from this crate's small binary.
#![allow(dead_code, reason = "each test binary uses its part")]

use runtime::{
    Capabilities, Cgroup, Config, ContainerSpec, Engine, EngineError, EngineEvent, Event, Events, Exit, Log, Mount,
    Pod, PodSandboxSpec, Process, Resources, Rootfs, Seccomp, Stream, spec,
};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt;

const APPLETS: &[&str] = &[
    "sh", "cat", "echo", "sleep", "id", "ls", "grep", "mount", "touch", "head", "dd", "tty", "stty", "kill", "ps",
    "wc", "seq", "yes", "true", "false", "hostname", "env", "pwd", "unshare", "mknod", "test", "tail", "df",
    "readlink", "mkdir", "tr", "awk", "chroot", "ip", "usleep", "nohup",
];

pub(crate) struct Fixture {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) engine: Engine,
    pub(crate) events: Events,
    pub(crate) cgroup: String,
}

static COUNT: AtomicU32 = AtomicU32::new(0);

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let me = std::fs::metadata("/proc/self").unwrap();
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&me), 0, "the kernel tests need root");
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("image");
        for sub in ["bin", "etc", "tmp", "home/web"] {
            std::fs::create_dir_all(root.join(sub)).unwrap();
        }
        std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static");
        for applet in APPLETS {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
        std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/home/web:/bin/sh\n").unwrap();
        std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\nextra:x:77:web\n").unwrap();
        let (engine, events) = Engine::start(Self::config(dir.path())).unwrap();
        let cgroup = format!("/dhow-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Fixture { dir, engine, events, cgroup }
    }

    pub(crate) fn config(dir: &Path) -> Config {
        Config {
            run_dir: dir.join("run"),
            state_dir: dir.join("state"),
            exe: env!("CARGO_BIN_EXE_runtime-zygote").into(),
            supervisor_cgroup: None,
            patience: Config::PATIENCE,
        }
    }

    pub(crate) fn pod_spec(&self, id: &str) -> PodSandboxSpec {
        PodSandboxSpec {
            id: id.into(),
            hostname: Some("podhost".into()),
            cgroup: Some(Cgroup { path: format!("{}/{id}", self.cgroup), resources: Resources::default() }),
            ..PodSandboxSpec::default()
        }
    }

    pub(crate) async fn pod(&self, id: &str) -> Pod {
        self.engine.create_pod(&self.pod_spec(id)).await.unwrap()
    }

    pub(crate) fn log(&self, pod: &str, id: &str) -> PathBuf {
        self.dir.path().join("logs").join(pod).join(id).join("0.log")
    }

    pub(crate) fn spec(&self, pod: &str, id: &str, script: &str) -> ContainerSpec {
        let layer = self.dir.path().join("containers").join(pod).join(id);
        ContainerSpec {
            id: id.into(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.dir.path().join("image")],
                upper: layer.join("upper"),
                work: layer.join("work"),
                volatile: true,
            },
            mounts: Mount::defaults(false),
            process: Process {
                args: ["sh", "-c", script].map(String::from).to_vec(),
                env: vec!["PATH=/bin".into()],
                capabilities: Capabilities::of(spec::default_capabilities()),
                seccomp: Seccomp::RuntimeDefault,
                ..Process::default()
            },
            cgroup: Cgroup { path: format!("{}/{pod}/{id}", self.cgroup), resources: Resources::default() },
            masked_paths: spec::masked_paths(),
            readonly_paths: spec::readonly_paths(),
            log: Some(Log { path: self.log(pod, id), max_size: 0, max_files: 1 }),
            ..ContainerSpec::default()
        }
    }

    /// Limits are cgroup v2's here, and no v1 hierarchy is mounted.
    pub(crate) fn pure_v2(&self) -> bool {
        self.engine.cgroups().mode() == sys::cgroup::Mode::V2
    }

    /// The text of the log without times, streams and tags.
    pub(crate) fn output(&self, pod: &str, id: &str) -> String {
        let text = std::fs::read_to_string(self.log(pod, id)).unwrap_or_default();
        text.lines().map(|l| l.splitn(4, ' ').nth(3).unwrap().to_owned() + "\n").collect()
    }

    pub(crate) async fn exited(&mut self) -> (String, Exit) {
        loop {
            match timeout(self.events.recv()).await.expect("the engine lives") {
                EngineEvent::Pod { event: Event::Exited { container, exit }, .. } => return (container, exit),
                EngineEvent::Pod { .. } | EngineEvent::SupervisorReplaced { .. } => {}
                EngineEvent::SupervisorLost { pod } => panic!("supervisor of {pod} lost: {}", self.zygote_log()),
            }
        }
    }

    /// Runs to the end and returns exit and output.
    pub(crate) async fn run(&mut self, pod: &Pod, spec: ContainerSpec) -> (Exit, String) {
        self.engine.start_container(pod, &spec).await.unwrap();
        let (id, exit) = self.exited().await;
        assert_eq!(id, spec.id);
        (exit, self.output(pod.id(), &id))
    }

    pub(crate) fn zygote_log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("state/zygote.log")).unwrap_or_default()
    }

    /// Removes the pod and checks that no trace of it is left.
    pub(crate) async fn finish(self, pod: Pod) {
        let pid = self.engine.snapshot(&pod).await.unwrap().supervisor_pid;
        timeout(self.engine.remove_pod(&pod)).await.unwrap();
        until(|| !Path::new(&format!("/proc/{pid}")).exists()).await;
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&*self.dir.path().to_string_lossy()), "{mounts}");
        assert_eq!(std::fs::read_dir(self.dir.path().join("run/pods")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(self.dir.path().join("state/pods")).unwrap().count(), 0);
        self.engine.remove_cgroup(&self.cgroup).await.unwrap();
        let left = self.engine.cgroups().children("/");
        assert!(!left.contains(self.cgroup.trim_matches('/')), "{left:?}");
        assert_eq!(self.zygote_log(), "");
    }
}

/// A failed test leaves nothing behind either: supervisors by the process id that their sockets tell, then whatever is in the cgroup.
impl Drop for Fixture {
    fn drop(&mut self) {
        for pod in std::fs::read_dir(self.dir.path().join("run/pods")).into_iter().flatten().flatten() {
            let peer = sys::socket::connect(&pod.path().join("sock")).and_then(|s| sys::socket::peer(s.as_fd()));
            if let Ok(peer) = peer {
                kill9(peer.pid);
            }
        }
        let cgroup = self.engine.cgroups().cgroup(&self.cgroup);
        for _ in 0..200 {
            if !cgroup.exists(self.engine.cgroups()) || (cgroup.kill().is_ok() && cgroup.delete().is_ok()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(crate) async fn timeout<F: std::future::Future>(f: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), f).await.expect("done within 20 seconds")
}

/// Waits for a condition of the outside world that nobody announces.
pub(crate) async fn until(mut condition: impl FnMut() -> bool) {
    timeout(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) async fn read_all(stream: Option<Stream>) -> String {
    let mut out = Vec::new();
    timeout(stream.expect("asked for").read_to_end(&mut out)).await.unwrap();
    String::from_utf8(out).unwrap()
}

pub(crate) async fn read_until(stream: &mut Stream, end: &str) -> String {
    let mut out = String::new();
    while !out.contains(end) {
        let mut buf = [0; 1024];
        let n = timeout(stream.read(&mut buf)).await.unwrap();
        assert!(n > 0, "the stream ended after {out:?} without {end:?}");
        out.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    out
}

pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, EngineError>) -> String {
    result.unwrap_err().to_string()
}

pub(crate) fn kill9(pid: i32) {
    sys::process::kill(pid, libc::SIGKILL).unwrap();
}
