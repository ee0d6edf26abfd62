//! What is kept of sandboxes and containers beyond the engine: what was asked for, and what became of it.
//!
//! Records are protocol buffers because what they hold are messages of the interface. They are not synced: after a power cut nothing
//! that they describe runs, and a kubelet makes all anew. A record that cannot be read is forgotten, and its traces are removed as
//! anybody's who is unknown.

use node_api::cri::{ContainerConfig, ContainerState, ContainerUser, PodSandboxConfig};
use prost::Message;
use runtime::SelinuxLabels;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// A pod sandbox.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(message, required, tag = "2")]
    pub(crate) config: PodSandboxConfig,
    #[prost(int64, tag = "3")]
    pub(crate) created_at: i64,
    /// Complete and not stopped.
    #[prost(bool, tag = "4")]
    pub(crate) ready: bool,
    #[prost(string, repeated, tag = "5")]
    pub(crate) ips: Vec<String>,
    #[prost(string, tag = "6")]
    pub(crate) runtime_handler: String,
    /// What its containers get unless they say otherwise; empty where there is no SELinux.
    #[prost(string, tag = "7")]
    pub(crate) process_label: String,
    #[prost(string, tag = "8")]
    pub(crate) mount_label: String,
}

impl SandboxRecord {
    /// Its SELinux labels, if it has any.
    pub(crate) fn labels(&self) -> Option<SelinuxLabels> {
        let labels = SelinuxLabels { process: self.process_label.clone(), mount: self.mount_label.clone() };
        (!labels.process.is_empty()).then_some(labels)
    }
}

/// A container.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerRecord {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
    #[prost(string, tag = "2")]
    pub(crate) sandbox: String,
    #[prost(message, required, tag = "3")]
    pub(crate) config: ContainerConfig,
    /// In the store.
    #[prost(string, tag = "4")]
    pub(crate) image_id: String,
    /// `name@digest` if known, else the id.
    #[prost(string, tag = "5")]
    pub(crate) image_ref: String,
    #[prost(int64, tag = "6")]
    pub(crate) created_at: i64,
    /// 0: not yet.
    #[prost(int64, tag = "7")]
    pub(crate) started_at: i64,
    /// 0: not yet.
    #[prost(int64, tag = "8")]
    pub(crate) finished_at: i64,
    #[prost(int32, tag = "9")]
    pub(crate) exit_code: i32,
    #[prost(string, tag = "10")]
    pub(crate) reason: String,
    #[prost(string, tag = "11")]
    pub(crate) message: String,
    /// Absolute.
    #[prost(string, tag = "12")]
    pub(crate) log_path: String,
    /// Asks it to stop: `SIGTERM`.
    #[prost(string, tag = "13")]
    pub(crate) stop_signal: String,
    /// Who its first process runs as.
    #[prost(message, optional, tag = "14")]
    pub(crate) user: Option<ContainerUser>,
    #[prost(string, tag = "15")]
    pub(crate) cgroup: String,
}

/// What a container that could not be started ends with (containerd `internal/cri/server/container_start.go`).
const START_ERROR_CODE: i32 = 128;

impl ContainerRecord {
    pub(crate) fn state(&self) -> ContainerState {
        match (self.started_at, self.finished_at) {
            (_, 1..) => ContainerState::ContainerExited,
            (1.., _) => ContainerState::ContainerRunning,
            _ => ContainerState::ContainerCreated,
        }
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state() == ContainerState::ContainerRunning
    }

    /// Its first process began.
    pub(crate) fn started(&mut self, at_ns: i64) {
        self.started_at = at_ns;
    }

    /// Its first process ended. The first end counts.
    pub(crate) fn exited(&mut self, exit: &runtime::Exit) {
        if self.finished_at != 0 {
            return;
        }
        self.started_at = exit.started_at_ns;
        self.finished_at = exit.finished_at_ns.max(1);
        self.exit_code = exit.code;
        let reason = match exit {
            e if e.lost => "Unknown",
            e if e.oom_killed => "OOMKilled",
            e if e.code == 0 => "Completed",
            _ => "Error",
        };
        self.reason = reason.to_owned();
    }

    /// Nobody saw how it ended.
    pub(crate) fn lost(&mut self, now_ns: i64) {
        let exit = runtime::Exit {
            code: 255,
            signal: None,
            oom_killed: false,
            started_at_ns: self.started_at,
            finished_at_ns: now_ns,
            lost: true,
        };
        self.exited(&exit);
    }

    /// It did not even begin.
    pub(crate) fn not_started(&mut self, now_ns: i64, why: &str) {
        self.finished_at = now_ns;
        self.exit_code = START_ERROR_CODE;
        self.reason = "StartError".to_owned();
        self.message = why.to_owned();
    }
}

/// A kind of record with its folder.
pub(crate) trait Record: Message + Default {
    const FOLDER: &'static str;
    fn id(&self) -> &str;
}

impl Record for SandboxRecord {
    const FOLDER: &'static str = "sandboxes";
    fn id(&self) -> &str {
        &self.id
    }
}

impl Record for ContainerRecord {
    const FOLDER: &'static str = "containers";
    fn id(&self) -> &str {
        &self.id
    }
}

/// The folder of all records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
}

impl Records {
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        for folder in [SandboxRecord::FOLDER, ContainerRecord::FOLDER] {
            std::fs::create_dir_all(dir.join(folder))?;
        }
        Ok(Records { dir: dir.to_owned() })
    }

    fn path<R: Record>(&self, id: &str) -> PathBuf {
        self.dir.join(R::FOLDER).join(id)
    }

    /// All of a kind, by id.
    pub(crate) fn load<R: Record>(&self) -> io::Result<BTreeMap<String, R>> {
        let mut out = BTreeMap::new();
        for entry in std::fs::read_dir(self.dir.join(R::FOLDER))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            match R::decode(std::fs::read(entry.path())?.as_slice()) {
                Ok(record) if record.id() == name => drop(out.insert(name, record)),
                _ => {
                    tracing::warn!(path = %entry.path().display(), "a record that cannot be read is forgotten");
                    std::fs::remove_file(entry.path())?;
                }
            }
        }
        Ok(out)
    }

    /// Replaces a record whole.
    pub(crate) fn save<R: Record>(&self, record: &R) -> io::Result<()> {
        base::files::replace(&self.path::<R>(record.id()), &record.encode_to_vec())
    }

    pub(crate) fn remove<R: Record>(&self, id: &str) -> io::Result<()> {
        match std::fs::remove_file(self.path::<R>(id)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32, oom_killed: bool) -> runtime::Exit {
        runtime::Exit { code, signal: None, oom_killed, started_at_ns: 5, finished_at_ns: 9, lost: false }
    }

    #[test]
    fn a_container_ends_once_and_its_end_has_a_reason() {
        let mut c = ContainerRecord::default();
        assert_eq!(c.state(), ContainerState::ContainerCreated);
        c.started(5);
        assert_eq!(c.state(), ContainerState::ContainerRunning);
        c.exited(&exit(137, true));
        c.exited(&exit(0, false));
        assert_eq!((c.state(), c.exit_code, c.reason.as_str()), (ContainerState::ContainerExited, 137, "OOMKilled"));
        let mut c = ContainerRecord::default();
        c.not_started(7, "no such file");
        assert_eq!((c.exit_code, c.reason.as_str(), c.started_at), (128, "StartError", 0));
    }

    #[test]
    fn records_come_back_and_broken_ones_do_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = Records::open(dir.path()).expect("open");
        let kept = SandboxRecord { id: "a".into(), created_at: 3, ready: true, ..SandboxRecord::default() };
        records.save(&kept).expect("saved");
        std::fs::write(dir.path().join("sandboxes/b"), b"").expect("written");
        std::fs::write(dir.path().join("sandboxes/c"), b"\xff\xff").expect("written");
        let found = records.load::<SandboxRecord>().expect("loaded");
        assert_eq!(found.into_values().collect::<Vec<_>>(), vec![kept]);
        assert!(!dir.path().join("sandboxes/b").exists());
        records.remove::<SandboxRecord>("a").expect("removed");
        records.remove::<SandboxRecord>("a").expect("is gone already");
        assert!(records.load::<SandboxRecord>().expect("loaded").is_empty());
    }
}
