//! Containers: made, started, asked, stopped, removed.
//!
//! Making one prepares its root file system and writes its record; the engine hears of it when it is started.

use crate::pods::{FILES, KILL_PATIENCE};
use crate::record::{ContainerRecord, SandboxRecord};
use crate::spec::container;
use crate::{Shared, devices, error, spec};
use image::{Image, OverlayMount};
use node_api::cri::{
    ContainerConfig, ContainerEventType, ContainerUser, CreateContainerRequest, ExecSyncResponse,
    LinuxContainerResources, LinuxContainerUser,
};
use runtime::apparmor::{self, Wish};
use runtime::{Capture, ContainerSpec, SelinuxLabels, cdi};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tonic::Status;

/// What root file systems are called in the image store, before the container's id.
pub(crate) const SNAPSHOT_PREFIX: &str = "cri-";
/// What a command may answer at most, as the interface demands.
const OUTPUT_MAX_BYTES: usize = 16 << 20;

impl Shared {
    /// Makes a container; the id is new.
    pub(crate) async fn create_container(&self, request: CreateContainerRequest) -> Result<String, Status> {
        let config = request.config.ok_or_else(|| Status::invalid_argument("container config is nil"))?;
        let sandbox = self.state.sandbox(&request.pod_sandbox_id)?;
        if !sandbox.ready {
            return Err(Status::failed_precondition(format!("sandbox {:?} is not running", sandbox.id)));
        }
        let asked = config.image.as_ref().map_or("", |i| i.image.as_str());
        let image = self.image(asked)?;
        container::check(&config, &sandbox.config)?;
        let record = self.new_record(&sandbox, config, &image)?;
        self.state.add_container(record.clone())?;
        let formed = match self.container_user(&record, &image) {
            Ok(user) => self.form(&record, &sandbox).await.map(|_| user),
            Err(failure) => Err(failure),
        };
        match formed {
            Ok(user) => {
                self.state.update_container(&record.id, |c| c.user = Some(user));
                self.tell(&record.id, &record.sandbox, ContainerEventType::ContainerCreatedEvent);
                Ok(record.id)
            }
            Err(failure) => {
                if let Err(left) = self.remove_container(&record.id).await {
                    // The failure is the news; the record tells the next start what is left.
                    tracing::warn!(container = record.id, error = %left, "a container that was not made left something");
                }
                Err(failure)
            }
        }
    }

    fn new_record(
        &self,
        sandbox: &SandboxRecord,
        config: ContainerConfig,
        image: &Image,
    ) -> Result<ContainerRecord, Status> {
        let id = self.new_id();
        let log_path = spec::log_path(&sandbox.config.log_directory, &config.log_path);
        let sandbox_cgroup = spec::sandbox::cgroup(&sandbox.id, &sandbox.config, &self.config.cgroup_parent);
        if config.metadata.is_none() {
            return Err(Status::invalid_argument("container config has no metadata"));
        }
        Ok(ContainerRecord {
            sandbox: sandbox.id.clone(),
            image_id: image.id.to_string(),
            image_ref: image.digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
            created_at: self.now_ns(),
            log_path: log_path.map(|p| p.to_string_lossy().into_owned()).unwrap_or_default(),
            stop_signal: container::stop_signal(&config, &image.config),
            cgroup: format!("{sandbox_cgroup}/{id}"),
            id,
            config,
            ..ContainerRecord::default()
        })
    }

    /// The numbers that its first process will run as.
    fn container_user(&self, record: &ContainerRecord, image: &Image) -> Result<ContainerUser, Status> {
        let user = container::user_of(&record.config, &image.config.user)?;
        let files = self.images.files(image);
        let read = |path: &str| files.read(path).map(Option::unwrap_or_default).map_err(|e| error::other(&e));
        let resolved = runtime::user::resolve(&user, &read("/etc/passwd")?, &read("/etc/group")?);
        let resolved = resolved.map_err(Status::invalid_argument)?;
        Ok(ContainerUser {
            linux: Some(LinuxContainerUser {
                uid: resolved.uid.into(),
                gid: resolved.gid.into(),
                supplemental_groups: resolved.groups.into_iter().map(i64::from).collect(),
            }),
        })
    }

    /// Looks up everything and forms what the engine is told. Repeating it gives the same.
    async fn form(&self, record: &ContainerRecord, sandbox: &SandboxRecord) -> Result<ContainerSpec, Status> {
        let config = &record.config;
        let image = self.image(&record.image_id)?;
        let mut devices = devices::wanted(&config.devices)?;
        if container::is_privileged(config) {
            let others = runtime::devices::all_but(&devices).map_err(|e| error::other(&e))?;
            devices.extend(others);
        }
        let seccomp_profile = match container::seccomp_file(config) {
            Some(path) => Some(std::fs::read_to_string(&path).map_err(|e| {
                Status::invalid_argument(format!("failed to load seccomp profile {}: {e}", path.display()))
            })?),
            None => None,
        };
        let apparmor = app_armor(config)?;
        let labels = self.labels(config, sandbox)?;
        make_sources(config)?;
        let dir = self.sandbox_dir(&sandbox.id);
        let hostname = self.hostname(&sandbox.config).map_err(|e| error::other(&e))?;
        let options = spec::sandbox::namespaces(&sandbox.config);
        let mut made = container::spec(container::Input {
            id: &record.id,
            config,
            users: options.map_or(Ok(None), spec::sandbox::users)?,
            image: &image.config,
            layers: self.image_mounts(record).await?,
            rootfs: self.snapshot(&record.id, &image).await?,
            files: FILES.iter().map(|(name, target)| (dir.join(name), *target)).collect(),
            devices,
            seccomp_profile,
            apparmor,
            labels,
            hostname: &hostname,
            log_path: Some(PathBuf::from(&record.log_path)).filter(|p| !p.as_os_str().is_empty()),
            cgroup: &record.cgroup,
        })?;
        if !config.cdi_devices.is_empty() {
            let names = config.cdi_devices.iter().map(|d| d.name.clone()).collect();
            let needs = cdi::needs(&names, &cdi::Specs::read(&self.config.cdi_dirs));
            container::grant(&mut made, needs.map_err(Status::invalid_argument)?);
        }
        Ok(made)
    }

    /// Its SELinux labels.
    fn labels(&self, config: &ContainerConfig, sandbox: &SandboxRecord) -> Result<Option<SelinuxLabels>, Status> {
        let Some(selinux) = &self.selinux else { return Ok(None) };
        let (privileged, wish) = (container::is_privileged(config), container::selinux(config));
        selinux.container(&sandbox.id, sandbox.labels().as_ref(), &wish, privileged).map_err(error::label)
    }

    async fn snapshot(&self, name: &str, image: &Image) -> Result<OverlayMount, Status> {
        self.images.prepare(&format!("{SNAPSHOT_PREFIX}{name}"), image).await.map_err(error::image)
    }

    /// The layers of images that are mounted as volumes.
    async fn image_mounts(&self, record: &ContainerRecord) -> Result<BTreeMap<usize, Vec<PathBuf>>, Status> {
        let mut out = BTreeMap::new();
        for (at, mount) in record.config.mounts.iter().enumerate() {
            let Some(wanted) = mount.image.as_ref().filter(|i| !i.image.is_empty()) else { continue };
            let image = self.image(&wanted.image)?;
            out.insert(at, self.snapshot(&format!("{}.{at}", record.id), &image).await?.lower);
        }
        Ok(out)
    }

    /// Starts a container that was made.
    pub(crate) async fn start_container(&self, id: &str) -> Result<(), Status> {
        let record = self.state.container(id)?;
        if record.started_at != 0 || record.finished_at != 0 {
            let text = format!("container {:?} is in {} state", record.id, record.state().as_str_name());
            return Err(Status::failed_precondition(text));
        }
        let sandbox = self.state.sandbox(&record.sandbox)?;
        let pod = self.state.pod(&record.sandbox)?;
        let started = match self.form(&record, &sandbox).await {
            Ok(spec) => self.engine.start_container(&pod, &spec).await.map_err(error::engine),
            Err(failure) => Err(failure),
        };
        match started {
            Ok(started) => {
                if !started.missing_controllers.is_empty() {
                    let missing = started.missing_controllers;
                    tracing::warn!(container = record.id, ?missing, "limits that this machine cannot set");
                }
                // Its end may have been told already.
                self.state.update_container(&record.id, |c| {
                    if c.finished_at == 0 {
                        c.started(started.started_at_ns);
                    }
                });
                self.tell(&record.id, &record.sandbox, ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Err(failure) => {
                let now = self.now_ns();
                self.state.update_container(&record.id, |c| c.not_started(now, failure.message()));
                error::gone_is_fine(self.engine.remove_container(&pod, &record.id).await)?;
                Err(failure)
            }
        }
    }

    /// Asks it to stop; after `timeout` ends it. Fine if it has ended, or if there is none.
    pub(crate) async fn stop_container(&self, id: &str, timeout: Duration) -> Result<(), Status> {
        let Ok(record) = self.state.container(id) else { return Ok(()) };
        if !record.is_running() {
            return Ok(());
        }
        if !timeout.is_zero() {
            let signal = runtime::signal::number(&record.stop_signal).unwrap_or(runtime::signal::TERM);
            let pod = self.state.pod(&record.sandbox)?;
            error::gone_is_fine(self.engine.kill(&pod, &record.id, signal).await)?;
            if self.state.ended(&record.id, timeout).await {
                return Ok(());
            }
        }
        self.kill(&record).await
    }

    /// Ends all its processes.
    pub(crate) async fn kill(&self, record: &ContainerRecord) -> Result<(), Status> {
        let pod = self.state.pod(&record.sandbox)?;
        error::gone_is_fine(self.engine.kill_all(&pod, &record.id, runtime::signal::KILL).await)?;
        match self.state.ended(&record.id, KILL_PATIENCE).await {
            true => Ok(()),
            false => Err(Status::deadline_exceeded(format!("container {:?} does not end", record.id))),
        }
    }

    /// Removes it, running or not. Its log stays. Fine if there is none.
    pub(crate) async fn remove_container(&self, id: &str) -> Result<(), Status> {
        let Ok(record) = self.state.container(id) else { return Ok(()) };
        if record.is_running() {
            self.kill(&record).await?;
        }
        if let Ok(pod) = self.state.pod(&record.sandbox) {
            error::gone_is_fine(self.engine.remove_container(&pod, &record.id).await)?;
        }
        self.release(&record.id).await?;
        self.state.remove_container(&record.id)?;
        self.tell(&record.id, &record.sandbox, ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Gives up the root file system of a container and the images that it mounts.
    async fn release(&self, container: &str) -> Result<(), Status> {
        for (name, _) in self.images.snapshots() {
            if owner(&name) == Some(container) {
                self.images.remove_snapshot(&name).await.map_err(error::image)?;
            }
        }
        Ok(())
    }

    /// Changes limits in place.
    pub(crate) fn update_resources(&self, id: &str, said: Option<LinuxContainerResources>) -> Result<(), Status> {
        let record = self.state.container(id)?;
        let Some(said) = said else { return Ok(()) };
        if record.is_running() {
            let missing = self.engine.update_resources(&record.cgroup, &spec::resources(&said));
            missing.map_err(error::engine)?;
        }
        self.state.update_container(&record.id, |c| {
            let linux = c.config.linux.get_or_insert_default();
            merge(linux.resources.get_or_insert_default(), said);
        });
        Ok(())
    }

    /// After the log was renamed.
    pub(crate) async fn reopen_log(&self, id: &str) -> Result<(), Status> {
        let record = self.running(id)?;
        self.engine.reopen_log(&self.state.pod(&record.sandbox)?, &record.id).await.map_err(error::engine)
    }

    /// Runs a command to its end.
    pub(crate) async fn exec_sync(
        &self,
        id: &str,
        command: &[String],
        timeout: Option<Duration>,
    ) -> Result<ExecSyncResponse, Status> {
        let record = self.running(id)?;
        let pod = self.state.pod(&record.sandbox)?;
        let [out, err] = [(); 2].map(|()| Capture::new(OUTPUT_MAX_BYTES));
        let ran = self.engine.run(&pod, &record.id, command, timeout, [&out, &err]).await.map_err(error::engine)?;
        match ran {
            Some(exit_code) => Ok(ExecSyncResponse { stdout: out.take(), stderr: err.take(), exit_code }),
            None => {
                let seconds = timeout.unwrap_or_default().as_secs();
                Err(Status::deadline_exceeded(format!("timeout {seconds}s exceeded: context deadline exceeded")))
            }
        }
    }

    pub(crate) fn running(&self, id: &str) -> Result<Arc<ContainerRecord>, Status> {
        let record = self.state.container(id)?;
        match record.is_running() {
            true => Ok(record),
            false => Err(Status::failed_precondition(format!("container {:?} is not running", record.id))),
        }
    }
}

/// The container that a root file system or mounted image belongs to, if it is one of ours.
pub(crate) fn owner(snapshot: &str) -> Option<&str> {
    snapshot.strip_prefix(SNAPSHOT_PREFIX)?.split('.').next()
}

/// The AppArmor profile that confines it. Refuses what nothing would enforce.
fn app_armor(config: &ContainerConfig) -> Result<Option<String>, Status> {
    let wish = container::app_armor(config)?;
    match &wish {
        Some(Wish::Default | Wish::Profile(_)) if !apparmor::is_enabled() => {
            return Err(Status::invalid_argument("apparmor is not supported"));
        }
        Some(Wish::Profile(name)) if !apparmor::is_loaded(name) => {
            return Err(Status::invalid_argument(format!("apparmor profile not found {name}")));
        }
        _ => {}
    }
    Ok(apparmor::profile(wish.as_ref(), container::is_privileged(config)))
}

/// What is bound and not there becomes a directory, as with containerd.
fn make_sources(config: &ContainerConfig) -> Result<(), Status> {
    for mount in config.mounts.iter().filter(|m| !m.host_path.is_empty()) {
        let path = PathBuf::from(&mount.host_path);
        if !path.exists() {
            let failed = |e| Status::invalid_argument(format!("failed to mkdir {}: {e}", path.display()));
            std::fs::create_dir_all(&path).map_err(failed)?;
        }
    }
    Ok(())
}

/// What is said wins; 0 and empty are "not said".
fn merge(into: &mut LinuxContainerResources, said: LinuxContainerResources) {
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    number(&mut into.cpu_period, said.cpu_period);
    number(&mut into.cpu_quota, said.cpu_quota);
    number(&mut into.cpu_shares, said.cpu_shares);
    number(&mut into.memory_limit_in_bytes, said.memory_limit_in_bytes);
    number(&mut into.memory_swap_limit_in_bytes, said.memory_swap_limit_in_bytes);
    number(&mut into.oom_score_adj, said.oom_score_adj);
    for (old, new) in [(&mut into.cpuset_cpus, said.cpuset_cpus), (&mut into.cpuset_mems, said.cpuset_mems)] {
        if !new.is_empty() {
            *old = new;
        }
    }
    if !said.hugepage_limits.is_empty() {
        into.hugepage_limits = said.hugepage_limits;
    }
    into.unified.extend(said.unified);
}
