//! Hooks: programs of the machine that take part in the making of a container (OCI runtime specification, `config.md`,
//! "POSIX-platform Hooks"). The launcher runs them, so nobody but the container waits, and they count to its cgroup.
//!
//! Follows runc (`libcontainer/configs/config.go`, `Command.Run`). A hook finds `config.json` in the bundle that its state names; of what
//! stands there only the root and the process are sure to be of use.

use crate::spec::{ContainerSpec, Hook};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use sys::fd::PollFd;

const OCI_VERSION: &str = "1.2.0";
/// How much of a failed hook's output is told.
const OUTPUT: u64 = 1024;

/// A directory with the container's `config.json`, for as long as hooks run that may read it.
pub(crate) struct Bundle(PathBuf);

impl Bundle {
    /// At `dir`, which nobody else uses; the container's root is at `root` in our mount namespace.
    pub(crate) fn make(dir: PathBuf, spec: &ContainerSpec, root: &Path) -> io::Result<Bundle> {
        std::fs::create_dir_all(&dir)?;
        let bundle = Bundle(dir);
        std::fs::write(bundle.0.join("config.json"), config(spec, root).to_string())?;
        Ok(bundle)
    }

    /// Runs hooks one after another. The first that fails is the last.
    pub(crate) fn run(&self, when: &str, hooks: &[Hook], container: &str) -> Result<(), String> {
        run(when, hooks, || state(container, "creating", &self.0))
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        // What stays goes with the pod's directory.
        std::fs::remove_dir_all(&self.0).ok();
    }
}

/// Runs `startContainer` hooks, in the container.
pub(crate) fn run_inside(hooks: &[Hook], container: &str) -> Result<(), String> {
    run("startContainer", hooks, || state(container, "created", Path::new("/")))
}

fn config(spec: &ContainerSpec, root: &Path) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "root": {"path": root, "readonly": spec.readonly_rootfs},
        "process": {"args": spec.process.args, "env": spec.process.env, "cwd": spec.process.cwd},
    })
}

fn state(container: &str, status: &str, bundle: &Path) -> Value {
    json!({
        "ociVersion": OCI_VERSION,
        "id": container,
        "status": status,
        "pid": std::process::id(),
        "bundle": bundle,
    })
}

fn run(when: &str, hooks: &[Hook], state: impl FnOnce() -> Value) -> Result<(), String> {
    if hooks.is_empty() {
        return Ok(());
    }
    let state = state().to_string();
    for (at, hook) in hooks.iter().enumerate() {
        run_one(hook, &state).map_err(|why| format!("error running {when} hook #{at}: {why}"))?;
    }
    Ok(())
}

fn run_one(hook: &Hook, state: &str) -> Result<(), String> {
    let failed = |e: io::Error| format!("{:?}: {}", hook.path, crate::launcher::reason(&e));
    let mut output = sys::fd::memfd("hook-output").map_err(failed)?;
    let mut child = start(hook, state, &output).map_err(failed)?;
    let status = wait(&mut child, hook.timeout_seconds).map_err(failed)?;
    match status {
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(format!("{}, output: {}", shown(status), said(&mut output))),
        None => Err(format!("context deadline exceeded, output: {}", said(&mut output))),
    }
}

/// Files instead of pipes: a hook that does not read must not end us by a signal, nor one that writes a lot wait for us.
fn start(hook: &Hook, state: &str, output: &File) -> io::Result<Child> {
    let mut input = sys::fd::memfd("hook-state")?;
    input.write_all(state.as_bytes())?;
    input.rewind()?;
    #[expect(clippy::disallowed_methods, reason = "hooks are programs of the host: docs/decisions/0006")]
    let mut command = Command::new(&hook.path);
    command.env_clear().envs(hook.env.iter().filter_map(|e| e.split_once('=')));
    if let Some((name, args)) = hook.args.split_first() {
        command.arg0(name).args(args);
    }
    command.stdin(input).stdout(output.try_clone()?).stderr(output.try_clone()?).spawn()
}

/// `None`: it did not end in time, and is killed.
fn wait(child: &mut Child, timeout_seconds: Option<u32>) -> io::Result<Option<ExitStatus>> {
    if let Some(seconds) = timeout_seconds {
        let pidfd = sys::process::pidfd_open(child.id().cast_signed())?;
        let ms = i32::try_from(seconds).unwrap_or(i32::MAX).saturating_mul(1000);
        if sys::fd::poll(&mut [PollFd::new(pidfd.as_fd(), true, false)], Some(ms))? == 0 {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
    }
    child.wait().map(Some)
}

fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, signal) => format!("signal {}", signal.unwrap_or_default()),
    }
}

fn said(output: &mut File) -> String {
    let mut text = Vec::new();
    let read = output.rewind().and_then(|()| output.take(OUTPUT).read_to_end(&mut text));
    match read {
        Ok(_) => String::from_utf8_lossy(&text).trim().to_owned(),
        Err(e) => format!("(unreadable: {e})"),
    }
}
