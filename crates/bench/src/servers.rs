//! Servers that a run starts and ends: the shipped `dhow`, or the API server alone. Everything is in one directory on a real disk
//! (rule 5: no tmpfs), and goes with it.
#![expect(clippy::disallowed_methods, reason = "the measured server is a process of its own")]

use crate::fail::{Fail, Result, io, refused};
use crate::http::Pool;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A server that has not ended after this long hangs.
const STOP_PATIENCE: Duration = Duration::from_secs(45);

/// A directory that lives as long as the value.
pub(crate) fn directory() -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("dhow-bench-").tempdir_in("/var/tmp");
    made.map_err(io("make a directory in /var/tmp"))
}

/// A server process.
pub(crate) struct Server {
    child: Child,
    /// From before the process was started until it said that it is ready.
    pub(crate) started_in: Duration,
    kubeconfig: PathBuf,
}

impl Server {
    /// The API server and its store alone.
    pub(crate) fn alone(dir: &Path) -> Result<Server> {
        let exe = std::env::current_exe().map_err(io("find this program"))?;
        let mut command = Command::new(exe);
        command.arg("serve").arg("--data-dir").arg(dir);
        Server::start(command, "ready", dir.join("kubeconfig"), dir)
    }

    /// `dhow up`, until it says that its node is ready.
    pub(crate) fn dhow(place: &Place) -> Result<Server> {
        let mut command = place.command(&["up", "--foreground"]);
        command.arg("--listen").arg(format!("127.0.0.1:{}", place.port)).arg("--no-merge-kubeconfig");
        Server::start(command, " ready after ", place.kubeconfig(), &place.dir)
    }

    fn start(mut command: Command, word: &str, kubeconfig: PathBuf, dir: &Path) -> Result<Server> {
        let what = || format!("start {}", command_name(&kubeconfig));
        let log_path = dir.join("server.log");
        let log = std::fs::File::options().create(true).append(true).open(&log_path).map_err(io(what()))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let start = Instant::now();
        let mut child = command.spawn().map_err(io(what()))?;
        let Some(output) = child.stdout.take() else { return Err(io(what())(std::io::ErrorKind::BrokenPipe.into())) };
        let mut lines = BufReader::new(output).lines();
        let ready = lines.by_ref().map_while(std::result::Result::ok).any(|line| line.contains(word));
        let started_in = start.elapsed();
        let server = Server { child, started_in, kubeconfig };
        if !ready {
            let log = std::fs::read_to_string(&log_path).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(3).collect();
            return Err(Fail::Refused {
                what: "start the server".into(),
                why: tail.into_iter().rev().collect::<Vec<_>>().join(" / "),
            });
        }
        // What it says later must find a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(server)
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        self.child.id() as i32
    }

    /// A client of it.
    pub(crate) fn pool(&self) -> Result<Pool> {
        Pool::open(&self.kubeconfig)
    }

    /// Ends it as an administrator does; it closes its store.
    pub(crate) fn stop(mut self) -> Result<()> {
        self.terminate()
    }

    /// Kills it, as a crash does, and waits for its end.
    pub(crate) fn kill(&mut self) -> Result<()> {
        self.child.kill().and_then(|()| self.child.wait()).map(drop).map_err(io("kill the server"))
    }

    fn terminate(&mut self) -> Result<()> {
        let ended = || io("wait for the server");
        if self.child.try_wait().map_err(ended())?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(self.pid()), Signal::SIGTERM).map_err(refused("end the server"))?;
        // A child of ours tells its end by no descriptor that the standard library gives.
        let begun = Instant::now();
        while begun.elapsed() < STOP_PATIENCE {
            if self.child.try_wait().map_err(ended())?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.child.kill().and_then(|()| self.child.wait()).map_err(ended())?;
        let why = format!("it did not end within {STOP_PATIENCE:?} and was killed");
        Err(Fail::Refused { what: "end the server".into(), why })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.terminate() {
            eprintln!("{}", base::chain(&error));
        }
    }
}

fn command_name(kubeconfig: &Path) -> String {
    format!("the server of {}", kubeconfig.display())
}

/// Where a dhow of ours lives. Dropping it runs `dhow reset`.
pub(crate) struct Place {
    binary: PathBuf,
    dir: PathBuf,
    port: u16,
    _made: TempDir,
}

impl Place {
    pub(crate) fn new(binary: &Path) -> Result<Place> {
        let made = directory()?;
        let probe =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_err(io("find a free port"))?;
        Ok(Place { binary: binary.into(), dir: made.path().into(), port: probe.port(), _made: made })
    }

    /// Of this place's cluster.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.dir.join("kubeconfig")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(words).arg("--data-dir").arg(self.dir.join("data")).arg("--run-dir").arg(self.dir.join("run"));
        command.arg("--kubeconfig").arg(self.kubeconfig());
        command
    }

    /// Runs a command of dhow to its end.
    pub(crate) fn dhow(&self, words: &[&str]) -> Result<()> {
        let what = format!("run dhow {}", words.join(" "));
        let output = self.command(words).stdin(Stdio::null()).output().map_err(io(what.clone()))?;
        let why = || String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(()) } else { Err(Fail::Refused { what, why: why() }) }
    }

    /// The file's size.
    pub(crate) fn binary_bytes(&self) -> u64 {
        std::fs::metadata(&self.binary).map_or(0, |m| m.len())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = self.dhow(&["reset", "--yes"]) {
            eprintln!("{}", base::chain(&error));
        }
    }
}
