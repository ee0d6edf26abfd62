//! Stopping all containers of this machine and removing what dhow made: the second half of `dhow down` and `dhow reset`.
//! Works without a running dhow, from what the kernel and the run directory show.

use crate::config::Config;
use crate::node;
use agent::adapters::{CriError, CriRuntime, Endpoints};
use agent::engine::Engine as _;
use base::SystemClock;
use runtime::{Engine, EngineError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use thiserror::Error;

/// How long a killed process may take to leave its cgroup.
const LEAVE: Duration = Duration::from_secs(5);

/// Something could not be stopped or removed; the rest was.
#[derive(Debug, Error)]
pub(crate) enum TraceError {
    /// Containers.
    #[error("failed to stop the containers")]
    Engine(#[from] EngineError),
    /// A container runtime that is not ours.
    #[error(transparent)]
    Runtime(#[from] CriError),
    /// Containers in it.
    #[error("failed to stop the containers in the container runtime")]
    Foreign(#[from] agent::engine::EngineError),
    /// Links, rules, routes.
    #[error(transparent)]
    Network(#[from] net::TeardownError),
    /// A mount below our directories.
    #[error("failed to unmount {}", path.display())]
    Mount {
        /// Which mount.
        path: PathBuf,
        /// Why it stays.
        #[source]
        source: std::io::Error,
    },
    /// A cgroup of ours.
    #[error("failed to remove the cgroup {path}")]
    Cgroup {
        /// Below every hierarchy.
        path: String,
        /// Why it stays.
        #[source]
        source: sys::cgroup::Error,
    },
    /// A directory or a file of ours.
    #[error("failed to remove {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why it stays.
        #[source]
        source: std::io::Error,
    },
    /// The mount table.
    #[error("failed to read /proc/self/mountinfo")]
    Mountinfo(#[source] std::io::Error),
}

/// Where an engine leaves what it makes.
pub(crate) struct Place {
    /// Everything that is mounted below.
    pub(crate) mounts: Vec<PathBuf>,
    /// All ours.
    pub(crate) dirs: Vec<PathBuf>,
    /// Outside of these.
    pub(crate) files: Vec<PathBuf>,
    pub(crate) network: net::NetConfig,
    pub(crate) engine: runtime::Config,
    /// All ours, with everything below.
    pub(crate) cgroups: Vec<String>,
    /// Goes if it is empty then; empty: there is none.
    pub(crate) cgroup_root: String,
}

impl Place {
    /// Of a node.
    pub(crate) fn of(config: &Config) -> Self {
        let kubelet_dir = config.kubelet_dir.join(OURS).exists().then(|| config.kubelet_dir.clone());
        let dirs = [config.data_dir.clone(), config.run_dir.clone()];
        Place {
            mounts: [dirs.as_slice(), std::slice::from_ref(&config.kubelet_dir)].concat(),
            dirs: dirs.into_iter().chain(kubelet_dir).collect(),
            files: config.shutdown.is_on().then(|| agent::shutdown::logind::OVERRIDE.into()).into_iter().collect(),
            // Whatever addresses its pods had: everything is found by name.
            network: node::net_config(config, &[node::first_pod_cidr(config)]),
            engine: node::engine_config(config),
            cgroups: node::cgroups(config).into(),
            cgroup_root: config.cgroup_root.clone(),
        }
    }
}

/// Kills every pod and removes its namespaces, cgroups and mounts. Data and images stay.
pub(crate) async fn stop_containers(engine: &runtime::Config) -> Result<usize, TraceError> {
    if !engine.run_dir.exists() {
        return Ok(0);
    }
    let (engine, _events) = Engine::start(engine.clone())?;
    let pods = engine.recover().await?;
    let count = pods.len();
    for found in pods {
        engine.remove_pod(&found.pod).await?;
    }
    for orphan in engine.orphans()? {
        engine.sweep(&orphan).await?;
    }
    Ok(count)
}

/// Stops the node's containers, whoever runs them; tells of how many pods.
pub(crate) async fn stop_all(config: &Config) -> Result<usize, TraceError> {
    let own = stop_containers(&node::engine_config(config)).await?;
    let foreign = match node::foreign_runtime(config) {
        Some(at) => stop_foreign_containers(at).await?,
        None => 0,
    };
    Ok(own + foreign)
}

/// Removes our pods from a container runtime that is not ours.
async fn stop_foreign_containers(at: Endpoints) -> Result<usize, TraceError> {
    let (engine, ..) = CriRuntime::connect(at, SystemClock::shared()).await?;
    let pods = engine.recover().await?;
    for pod in &pods {
        engine.remove_sandbox(&pod.id).await?;
    }
    Ok(pods.len())
}

/// Removes mounts, links, rules, cgroups and directories.
pub(crate) fn remove_all(place: &Place) -> Result<(), TraceError> {
    place.mounts.iter().try_for_each(|dir| unmount_below(dir))?;
    net::teardown(&place.network)?;
    remove_cgroups(&place.cgroups)?;
    remove_cgroup_root(&place.cgroup_root)?;
    let dirs = place.dirs.iter().map(|path| (path, std::fs::remove_dir_all(path)));
    let files = place.files.iter().map(|path| (path, std::fs::remove_file(path)));
    for (path, removed) in dirs.chain(files) {
        match removed {
            // A disk of its own is empty now.
            Err(e) if e.kind() == std::io::ErrorKind::ResourceBusy && is_empty(path) => {}
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                return Err(TraceError::Directory { path: path.clone(), source });
            }
            _ => {}
        }
    }
    Ok(())
}

fn is_empty(dir: &Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none())
}

/// In the kubelet's directory: dhow made it. One that somebody else made stays when dhow goes.
const OURS: &str = ".made-by-dhow";

/// Makes the directory where plugins of the node expect the kubelet's files.
pub(crate) fn make_kubelet_dir(config: &Config) -> std::io::Result<()> {
    if !config.kubelet_dir.exists() {
        std::fs::create_dir_all(&config.kubelet_dir)?;
        std::fs::write(config.kubelet_dir.join(OURS), "")?;
    }
    // Drivers mount these into their pods: they are there first, and stay.
    ["pods", "plugins"].iter().try_for_each(|name| std::fs::create_dir_all(config.kubelet_dir.join(name)))
}

/// Deepest first. What is mounted over the directory itself is the machine's.
fn unmount_below(dir: &Path) -> Result<(), TraceError> {
    let own = |path: &PathBuf| dir.canonicalize().is_ok_and(|dir| dir == *path);
    for path in sys::mount::mounted_below(dir).map_err(TraceError::Mountinfo)?.into_iter().filter(|p| !own(p)) {
        sys::mount::unmount_lazily(&path).map_err(|source| TraceError::Mount { path, source })?;
    }
    Ok(())
}

/// The cgroup that ours were in, if nobody else is in it.
fn remove_cgroup_root(path: &str) -> Result<(), TraceError> {
    if path.is_empty() {
        return Ok(());
    }
    let cgroups = sys::cgroup::Cgroups::detect().map_err(|source| TraceError::Cgroup { path: "/".into(), source })?;
    if cgroups.children(path).is_empty()
        && let Err(error) = cgroups.cgroup(path).delete()
    {
        tracing::debug!(error = %base::chain(&error), path, "the cgroup stays");
    }
    Ok(())
}

fn remove_cgroups(roots: &[String]) -> Result<(), TraceError> {
    let cgroups = sys::cgroup::Cgroups::detect().map_err(|source| TraceError::Cgroup { path: "/".into(), source })?;
    for root in roots {
        let mut all = vec![root.clone()];
        let mut next = 0;
        while next < all.len() {
            let parent = all[next].clone();
            all.extend(cgroups.children(&parent).into_iter().map(|child| format!("{parent}/{child}")));
            next += 1;
        }
        for path in all.into_iter().rev() {
            let cgroup = cgroups.cgroup(&path);
            if cgroup.exists(&cgroups) {
                empty_and_delete(&cgroup).map_err(|source| TraceError::Cgroup { path, source })?;
            }
        }
    }
    Ok(())
}

/// Supervisors end in their own time after their pods; whoever is left is ended, and what was ended needs a moment to leave.
fn empty_and_delete(cgroup: &sys::cgroup::Cgroup) -> sys::cgroup::Result<()> {
    let deadline = Instant::now() + LEAVE;
    cgroup.kill()?;
    loop {
        match cgroup.delete() {
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
            Ok(()) => return Ok(()),
        }
    }
}
