//! Pod sandboxes: made, stopped, removed.
//!
//! A sandbox that is stopped keeps its record until it is removed; its supervisor, namespaces and address go at once. Everything
//! but making can be repeated.

use crate::record::SandboxRecord;
use crate::spec::sandbox;
use crate::{Shared, error};
use node_api::cri::{ContainerEventType, PodSandboxConfig};
use runtime::SelinuxLabels;
use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tonic::Status;

/// How long killed processes may take to be gone.
pub(crate) const KILL_PATIENCE: Duration = Duration::from_secs(10);

/// Names of the runtime: there is one, and it is the default.
pub(crate) const HANDLERS: [&str; 2] = ["", "dhow"];

/// The files that every container of a sandbox has, and where.
pub(crate) const FILES: [(&str, &str); 3] =
    [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("hostname", "/etc/hostname")];

impl Shared {
    /// Where the sandbox' own files are.
    pub(crate) fn sandbox_dir(&self, id: &str) -> PathBuf {
        self.config.run_dir.join("sandboxes").join(id)
    }

    /// Makes a sandbox; the id is new.
    pub(crate) async fn run_sandbox(&self, config: PodSandboxConfig, handler: &str) -> Result<String, Status> {
        if !HANDLERS.contains(&handler) {
            return Err(Status::invalid_argument(format!("no runtime for {handler:?} is configured")));
        }
        let id = self.new_id();
        // Says what is wrong before anything is made.
        let plain = sandbox::spec(&id, &config, &self.config.cgroup_parent)?;
        let created_at = self.now_ns();
        let labels = self.label_sandbox(&id, &config)?;
        let spec = runtime::PodSandboxSpec { selinux: labels.clone(), ..plain };
        let labels = labels.unwrap_or_default();
        let record = SandboxRecord {
            id: id.clone(),
            config,
            created_at,
            runtime_handler: handler.to_owned(),
            process_label: labels.process,
            mount_label: labels.mount,
            ..SandboxRecord::default()
        };
        self.state.add_sandbox(record.clone()).inspect_err(|_| self.release_label(&id))?;
        match self.make_sandbox(&record, spec).await {
            Ok(ips) => {
                self.state.update_sandbox(&id, |s| {
                    s.ips = ips.iter().map(IpAddr::to_string).collect();
                    s.ready = true;
                });
                self.tell(&id, &id, ContainerEventType::ContainerCreatedEvent);
                self.tell(&id, &id, ContainerEventType::ContainerStartedEvent);
                Ok(id)
            }
            Err(failure) => {
                if let Err(left) = self.remove_sandbox(&id).await {
                    // The failure is the news; the record tells the next start what is left.
                    tracing::warn!(sandbox = id, error = %left, "a sandbox that was not made left something");
                }
                Err(failure)
            }
        }
    }

    /// The SELinux labels of a new sandbox, which has its level from now on.
    fn label_sandbox(&self, id: &str, config: &PodSandboxConfig) -> Result<Option<SelinuxLabels>, Status> {
        let Some(selinux) = &self.selinux else { return Ok(None) };
        selinux.pod(id, &sandbox::selinux(config)).map_err(error::label)
    }

    fn release_label(&self, sandbox: &str) {
        self.selinux.iter().for_each(|s| s.release(sandbox));
    }

    async fn make_sandbox(&self, record: &SandboxRecord, spec: runtime::PodSandboxSpec) -> Result<Vec<IpAddr>, Status> {
        let ports = sandbox::host_ports(&record.config)?;
        if !record.config.log_directory.is_empty() {
            std::fs::create_dir_all(&record.config.log_directory).map_err(|e| error::other(&e))?;
        }
        self.write_files(record).map_err(|e| error::other(&e))?;
        let pod = self.engine.create_pod(&spec).await.map_err(error::engine)?;
        self.state.put_pod(pod.clone());
        if sandbox::is_host_network(&record.config) {
            return Ok(Vec::new());
        }
        let netns = self.engine.netns(&pod).await.map_err(error::engine)?;
        let (network, id, any) = (self.network.clone(), record.id.clone(), !ports.is_empty());
        let attached = tokio::task::spawn_blocking(move || network.attach(&id, netns.as_fd(), &ports)).await;
        let ips = attached.map_err(|e| error::other(&e))?.map_err(|e| error::other(&e))?;
        if any {
            self.tell_host_ports();
        }
        Ok(ips.ips)
    }

    pub(crate) fn tell_host_ports(&self) {
        (self.on_host_ports)(self.network.host_ports());
    }

    fn write_files(&self, record: &SandboxRecord) -> io::Result<()> {
        let dir = self.sandbox_dir(&record.id);
        std::fs::create_dir_all(&dir)?;
        let config = &record.config;
        let resolv = match &config.dns_config {
            Some(dns) => sandbox::resolv_conf(dns),
            None => of_machine("/etc/resolv.conf")?,
        };
        let hostname = self.hostname(config)?;
        let texts = [of_machine("/etc/hosts")?, resolv, format!("{hostname}\n")];
        FILES.iter().zip(texts).try_for_each(|((name, _), text)| std::fs::write(dir.join(name), text))
    }

    /// What `uname -n` says in the sandbox.
    pub(crate) fn hostname(&self, config: &PodSandboxConfig) -> io::Result<String> {
        if !config.hostname.is_empty() {
            return Ok(config.hostname.clone());
        }
        Ok(std::fs::read_to_string("/proc/sys/kernel/hostname")?.trim().to_owned())
    }

    /// Ends whatever runs in it and gives its address back. Fine if it is so already, or if there is none.
    pub(crate) async fn stop_sandbox(&self, id: &str) -> Result<(), Status> {
        let Ok(record) = self.state.sandbox(id) else { return Ok(()) };
        let id = record.id.as_str();
        for container in self.state.containers_of(id).iter().filter(|c| c.is_running()) {
            self.kill(container).await?;
        }
        if let Some(pod) = self.state.take_pod(id)
            && let Err(failure) = self.engine.remove_pod(&pod).await
        {
            self.state.put_pod(pod);
            return Err(error::engine(failure));
        }
        let (network, sandbox, before) = (self.network.clone(), record.id.clone(), self.network.host_ports().len());
        let detached = tokio::task::spawn_blocking(move || network.detach(&sandbox)).await;
        detached.map_err(|e| error::other(&e))?.map_err(|e| error::other(&e))?;
        if self.network.host_ports().len() != before {
            self.tell_host_ports();
        }
        if record.ready {
            self.state.update_sandbox(id, |s| s.ready = false);
            self.tell(id, id, ContainerEventType::ContainerStoppedEvent);
        }
        Ok(())
    }

    /// Removes it with its containers. Fine if there is none.
    pub(crate) async fn remove_sandbox(&self, id: &str) -> Result<(), Status> {
        let Ok(record) = self.state.sandbox(id) else { return Ok(()) };
        self.stop_sandbox(&record.id).await?;
        for container in self.state.containers_of(&record.id) {
            self.remove_container(&container.id).await?;
        }
        remove_dir(&self.sandbox_dir(&record.id)).map_err(|e| error::other(&e))?;
        self.state.remove_sandbox(&record.id)?;
        self.release_label(&record.id);
        self.tell(&record.id, &record.id, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// The supervisor is gone and nothing replaces it: nobody will tell how its containers end.
    pub(crate) fn sandbox_lost(&self, id: &str) {
        tracing::warn!(sandbox = id, "the supervisor of a sandbox is lost");
        self.state.take_pod(id);
        self.state.update_sandbox(id, |s| s.ready = false);
        let now = self.now_ns();
        for container in self.state.containers_of(id).iter().filter(|c| c.is_running()) {
            self.state.update_container(&container.id, |c| c.lost(now));
        }
    }
}

/// A machine may lack such a file.
fn of_machine(path: &str) -> io::Result<String> {
    match std::fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        other => other,
    }
}

pub(crate) fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
