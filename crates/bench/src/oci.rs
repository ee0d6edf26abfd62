//! Other people's runtimes: runc, and crun, which refuses machines with cgroups v1 and v2 mixed and is then started where it sees
//! v2 only and told to leave cgroups alone (PERFORMANCE §4.0).
#![expect(clippy::disallowed_methods, reason = "other people's programs are what is measured here")]

use crate::containers::Run;
use crate::fail::{Fail, Result, io};
use crate::measure::monotonic_ns;
use crate::program;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A runtime and its bundle.
pub(crate) struct Oci {
    out: PathBuf,
    bundle: PathBuf,
    program: &'static str,
    /// Runs it in a mount namespace of its own.
    helper: Option<Helper>,
    note: String,
}

/// This program again, where only cgroup v2 is mounted.
struct Helper {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Oci {
    /// Debian's runc.
    pub(crate) fn runc(dir: &Path, image: &Path) -> Result<Oci> {
        let mut oci = Oci::new("runc", dir, image, true)?;
        oci.run("try")?;
        Ok(oci)
    }

    /// Debian's crun: as it is, or without cgroups if it refuses this machine's.
    pub(crate) fn crun(dir: &Path, image: &Path) -> Result<Oci> {
        let mut oci = Oci::new("crun", dir, image, true)?;
        let Err(refusal) = oci.run("try") else { return Ok(oci) };
        let mut oci = Oci::new("crun", dir, image, false)?;
        oci.helper = Some(Helper::start()?);
        oci.note += ", --cgroup-manager=disabled, where only cgroup v2 is mounted (no cgroup at all)";
        oci.run("try").map(|_| ()).map_err(|second| Fail::Refused {
            what: "use crun".into(),
            why: format!("{}; without cgroups: {}", base::chain(&refusal), base::chain(&second)),
        })?;
        oci.note += "; as it is it refuses this machine";
        Ok(oci)
    }

    fn new(program: &'static str, dir: &Path, image: &Path, cgroups: bool) -> Result<Oci> {
        let bundle = dir.join(format!("{program}-{cgroups}"));
        let out = bundle.join("out");
        std::fs::create_dir_all(&out).map_err(io("make a bundle"))?;
        let config = config(image, &out, &format!("/dhow-bench-{program}-{}", std::process::id()), cgroups);
        std::fs::write(bundle.join("config.json"), config.to_string()).map_err(io("write a bundle"))?;
        Ok(Oci { out, bundle, program, helper: None, note: version(program)? })
    }

    /// What the reader of the table must know.
    pub(crate) fn note(&self) -> String {
        format!(" ({})", self.note)
    }

    /// One container, from nothing to nothing.
    pub(crate) fn run(&mut self, name: &str) -> Result<Run> {
        let stamp = self.out.join("stamp");
        std::fs::remove_file(&stamp).ok(); // the first run has none
        let id = format!("dhow-bench-{}-{name}", std::process::id());
        let (start, gone) = match &mut self.helper {
            Some(helper) => helper.run(&self.bundle, &id)?,
            None => timed(Command::new(self.program).arg("run").arg("--bundle").arg(&self.bundle).arg(&id))?,
        };
        Ok(Run { start, first: program::read_stamp(&stamp)?, gone })
    }
}

/// Start and end of a program that must succeed.
fn timed(command: &mut Command) -> Result<(u64, u64)> {
    let what = format!("run {}", command.get_program().display());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let start = monotonic_ns();
    let output = command.output().map_err(io(what.clone()))?;
    let gone = monotonic_ns();
    if output.status.success() {
        return Ok((start, gone));
    }
    Err(Fail::Refused { what, why: String::from_utf8_lossy(&output.stderr).trim().replace('\n', " ") })
}

fn version(program: &str) -> Result<String> {
    let output =
        Command::new(program).arg("--version").output().map_err(io(format!("run {program}; is it installed?")))?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

const ENTER: &str = "umount -R -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup && exec \"$0\" crun-helper";

impl Helper {
    fn start() -> Result<Helper> {
        let exe = std::env::current_exe().map_err(io("find this program"))?;
        let mut child = Command::new("unshare")
            .args(["-m", "sh", "-c", ENTER])
            .arg(exe)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(io("run unshare"))?;
        let closed = || io("talk to the helper")(std::io::ErrorKind::BrokenPipe.into());
        let input = child.stdin.take().ok_or_else(closed)?;
        let output = BufReader::new(child.stdout.take().ok_or_else(closed)?);
        Ok(Helper { child, input: Some(input), output })
    }

    fn run(&mut self, bundle: &Path, id: &str) -> Result<(u64, u64)> {
        let closed = || io("talk to the helper")(std::io::ErrorKind::BrokenPipe.into());
        let input = self.input.as_mut().ok_or_else(closed)?;
        writeln!(input, "{id} {}", bundle.display()).map_err(io("talk to the helper"))?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(io("talk to the helper"))?;
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        match numbers[..] {
            [start, gone] => Ok((start, gone)),
            _ => Err(Fail::Refused { what: "run crun".into(), why: line.trim().to_owned() }),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // The end of its input ends it.
        self.input.take();
        drop(self.child.wait());
    }
}

/// The other side of [`Helper`]: a container per line, answered by its times or by why not.
pub(crate) fn crun_helper() -> Result<()> {
    for line in std::io::stdin().lines() {
        let line = line.map_err(io("read the next order"))?;
        let (id, bundle) = line.split_once(' ').unwrap_or((&line, ""));
        let answer =
            match timed(Command::new("crun").args(["--cgroup-manager=disabled", "run", "--bundle", bundle, id])) {
                Ok((start, gone)) => format!("{start} {gone}"),
                Err(e) => base::chain(&e).replace('\n', " "),
            };
        let mut out = std::io::stdout();
        writeln!(out, "{answer}").and_then(|()| out.flush()).map_err(io("answer"))?;
    }
    Ok(())
}

/// What `runc spec` writes, with our program, a bind mount for its stamp, and the same capabilities and hidden paths as ours.
fn config(image: &Path, out: &Path, cgroup: &str, cgroups: bool) -> Value {
    let capabilities = runtime::spec::default_capabilities();
    let mount = |destination: &str, kind: &str, options: &[&str]| json!({"destination": destination, "type": kind, "source": kind, "options": options});
    let mut mounts = vec![
        mount("/proc", "proc", &[]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        json!({"destination": "/out", "type": "bind", "source": out, "options": ["rbind", "rw"]}),
    ];
    let namespaces = ["pid", "network", "ipc", "uts", "mount"].map(|kind| json!({"type": kind}));
    let mut linux = json!({
        "namespaces": namespaces,
        "maskedPaths": runtime::spec::masked_paths(),
        "readonlyPaths": runtime::spec::readonly_paths(),
        "resources": {},
    });
    if cgroups {
        mounts.push(mount("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]));
        linux["cgroupsPath"] = json!(cgroup);
        linux["resources"] = json!({"devices": [{"allow": false, "access": "rwm"}]});
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false, "user": {"uid": 0, "gid": 0}, "args": ["/stamp"], "env": ["PATH=/bin"], "cwd": "/",
            "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        },
        "root": {"path": image, "readonly": false},
        "hostname": "bench",
        "mounts": mounts,
        "linux": linux,
    })
}
