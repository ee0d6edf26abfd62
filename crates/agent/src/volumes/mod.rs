//! A pod's volumes on the node: set up, kept up to date, taken down. One file per kind.
//!
//! Directories: `emptyDir` below the agent's data directory; what comes from the API (`configMap`, `secret`,
//! `downwardAPI`, `projected`) below its run directory, which is a tmpfs, so nothing needs to be mounted, and all of it
//! survives the agent and ends with the machine. A node whose server is elsewhere remembers Secrets and tokens on disk, for root
//! only (`client::Shelf`, `tokens.json`), to start its pods after a power cut while the server is away.
//!
//! Always holds: setting up twice is the same as once; kinds that are not built are refused by name
//! (`FailedMount` event), never skipped.

pub mod atomic;
pub mod config_map;
pub mod csi;
pub mod downward_api;
pub mod empty_dir;
mod env_file;
pub mod host_path;
pub mod local;
mod ownership;
pub mod persistent;
pub mod projected;
pub mod secret;
pub mod size;
pub mod sub_path;
pub mod tokens;

use crate::cluster::{Cluster, ClusterError, ClusterEvent, ObjectReference, ReferenceKind};
use crate::context::Config;
use crate::counters::Counters;
use crate::engine::{Device, Mount, Mounts, Propagation};
use crate::pod::spec::fields::{Facts, FieldError};
use crate::pod::spec::{env, expand};
use crate::pod::view;
use api::k8s::api::core::v1::{Container, FileKeySelector, Pod, Volume, VolumeMount};
use api::meta::MetaExt;
use atomic::Payload;
use jiff::Timestamp;
use machinery::pod_references;
use persistent::{Backing, Kind, Local, Nfs, Place, Places};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use thiserror::Error;

/// Why a volume could not be set up, in upstream's words.
#[derive(Debug, Error)]
pub enum VolumeError {
    /// There is no such ConfigMap.
    #[error("configmap \"{0}\" not found")]
    NoConfigMap(String),
    /// There is no such Secret.
    #[error("secret \"{0}\" not found")]
    NoSecret(String),
    /// The ConfigMap lacks a key.
    #[error("configmap references non-existent config key: {0}")]
    NoConfigMapKey(String),
    /// The Secret lacks a key.
    #[error("references non-existent secret key: {0}")]
    NoSecretKey(String),
    /// The downward API refuses.
    #[error(transparent)]
    Field(#[from] FieldError),
    /// The host has something else there.
    #[error("hostPath type check failed: {path} is not {what}")]
    HostPathType {
        /// On the node.
        path: String,
        /// What was asked for.
        what: &'static str,
    },
    /// A `subPath` that cannot be opened.
    #[error("{0}")]
    SubPath(String),
    /// The mount names a volume that the pod does not have.
    #[error("cannot find volume \"{volume}\" to mount into container \"{container}\"")]
    NoVolume {
        /// The volume's name.
        volume: String,
        /// The container's name.
        container: String,
    },
    /// What a CSI driver, or what it needs, refused.
    #[error("{operation} failed for volume \"{volume}\" : {why}")]
    Operation {
        /// Upstream's name of the step.
        operation: &'static str,
        /// Upstream's name of the volume.
        volume: String,
        /// Why.
        why: String,
    },
    /// The control plane has not attached it in time.
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{0}], unattached volumes=[{0}], failed to process volumes=[]: context deadline exceeded"
    )]
    NotAttached(String),
    /// The pod ended meanwhile.
    #[error("the pod is being terminated")]
    GaveUp,
    /// A claim that cannot be used, or whose volume cannot.
    #[error("{0}")]
    Claim(String),
    /// Not built.
    #[error("{0} is not supported by dhow")]
    Unsupported(String),
    /// The API server did not answer.
    #[error("{0}")]
    Unreachable(String),
    /// The API server refused.
    #[error("{0}")]
    Cluster(String),
    /// A tmpfs could not be mounted.
    #[error("failed to mount tmpfs: {0}")]
    Tmpfs(String),
    /// A set of files could not be written.
    #[error(transparent)]
    Write(#[from] atomic::WriteError),
    /// The file system refused.
    #[error("failed to {what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Several at once, for projected volumes.
    #[error("[{}]", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Several(Vec<VolumeError>),
}

impl VolumeError {
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        VolumeError::Io { what, path: path.to_path_buf(), source }
    }
}

/// A volume that could not be set up.
#[derive(Debug, Error)]
#[error("{}", self.text())]
pub struct MountError {
    /// Its name in the pod.
    pub volume: String,
    /// Why.
    #[source]
    pub source: VolumeError,
}

impl MountError {
    fn text(&self) -> String {
        match &self.source {
            // These say what they were about.
            VolumeError::Operation { .. } | VolumeError::NotAttached(_) => self.source.to_string(),
            other => format!("MountVolume.SetUp failed for volume \"{}\" : {other}", self.volume),
        }
    }

    /// The reason of the event that tells of it; `None`: nobody is to be told.
    pub fn reason(&self) -> Option<&'static str> {
        match &self.source {
            VolumeError::GaveUp => None,
            VolumeError::Operation { operation, .. } if operation.starts_with("MapVolume") => Some("FailedMapVolume"),
            _ => Some("FailedMount"),
        }
    }
}

/// What is in a directory of volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Our files, or a tmpfs.
    Ours,
    /// Mounts whose content belongs to somebody else, and is never removed.
    Others,
}

/// Sets up volumes of all pods.
pub struct VolumeManager {
    data_dir: PathBuf,
    run_dir: PathBuf,
    mounts: Arc<dyn Mounts>,
    cluster: Arc<dyn Cluster>,
    tokens: tokens::Tokens,
    csi: csi::CsiVolumes,
    counters: Arc<Counters>,
    sizes: size::Sizes,
}

impl VolumeManager {
    /// Reads what an earlier run left: tokens, if they are kept, and what CSI drivers did for it.
    pub fn new(config: &Config, mounts: Arc<dyn Mounts>, cluster: Arc<dyn Cluster>, counters: Arc<Counters>) -> Self {
        let Config { data_dir, run_dir, kubelet_dir, node_name, .. } = config.clone();
        let tokens = tokens::Tokens::load(config.remembers.then(|| data_dir.join("tokens.json")));
        let csi = csi::CsiVolumes::new(kubelet_dir, node_name, cluster.clone(), counters.clone());
        VolumeManager { data_dir, run_dir, mounts, cluster, tokens, csi, counters, sizes: size::Sizes::default() }
    }

    /// Volumes of CSI drivers.
    pub fn csi(&self) -> &csi::CsiVolumes {
        &self.csi
    }

    /// A pod ends: what it waits for need not come any more.
    pub fn give_up(&self, uid: &str) {
        self.csi.give_up(uid);
    }

    /// A pod is gone.
    pub fn forget(&self, uid: &str) {
        self.csi.forget(uid);
    }

    fn disk_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid).join("volumes")
    }

    fn memory_dir(&self, uid: &str) -> PathBuf {
        self.run_dir.join("pods").join(uid).join("volumes")
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.data_dir.join("pods").join(uid)
    }

    /// Where file systems of servers are mounted: apart from everything that is ever removed with its content.
    fn remote_dir(&self, uid: &str) -> PathBuf {
        self.pod_dir(uid).join("mounts")
    }

    /// Where a volume's content is, if it has some of its own.
    pub fn place(&self, pod: &Pod, volume: &Volume) -> Option<PathBuf> {
        self.path_of(pod, volume, &persistent::load(&self.pod_dir(pod.uid())))
    }

    fn path_of(&self, pod: &Pod, volume: &Volume, places: &Places) -> Option<PathBuf> {
        if let Some(host) = &volume.host_path {
            return Some(PathBuf::from(&host.path));
        }
        if needs_place(volume) {
            return places.get(&volume.name).filter(|p| !p.block).map(|p| p.path.clone());
        }
        let base = if volume.empty_dir.is_some() { self.disk_dir(pod.uid()) } else { self.memory_dir(pod.uid()) };
        unsupported_kind(volume).is_none().then(|| base.join(&volume.name))
    }

    /// Sets up all volumes, or brings them up to date. Returns when a token is to be renewed.
    pub async fn set_up(&self, pod: &Pod, facts: &Facts, now: Timestamp) -> Result<Option<Timestamp>, MountError> {
        let mut renew = None;
        let mut places = Places::new();
        for volume in view::spec(pod).volumes.iter().flatten() {
            let failed = |source| MountError { volume: volume.name.clone(), source };
            if needs_place(volume) {
                let place = match self.find_place(pod, volume, now).await {
                    Err(VolumeError::Unreachable(why)) => self.last_place(pod, volume, why).map(|place| (place, None)),
                    found => found,
                };
                let (place, again) = place.map_err(failed)?;
                places.insert(volume.name.clone(), place);
                renew = [renew, again].into_iter().flatten().min();
                continue;
            }
            let begun = Instant::now();
            let at = self.set_up_one(pod, volume, facts, now).await;
            self.counters.storage(plugin(volume), "volume_mount", at.is_ok(), begun.elapsed());
            let at = at.map_err(failed)?;
            renew = [renew, at].into_iter().flatten().min();
        }
        persistent::save(&self.pod_dir(pod.uid()), &places)
            .map_err(|source| MountError { volume: places.keys().cloned().collect::<Vec<_>>().join(", "), source })?;
        Ok(renew)
    }

    /// Makes a claim's volume, a server's directory or a CSI driver's volume usable; tells where it is, and when to look again.
    async fn find_place(
        &self,
        pod: &Pod,
        volume: &Volume,
        now: Timestamp,
    ) -> Result<(Place, Option<Timestamp>), VolumeError> {
        if let Some(source) = &volume.csi {
            let plugin = csi::plugin(&source.driver);
            return self.counted(&plugin, self.csi.set_up_inline(pod, &volume.name, source, now)).await;
        }
        let backing = self.backing(pod, volume).await?;
        self.counted(&backing.plugin(), self.make_usable(pod, volume, &backing, now)).await
    }

    async fn counted(
        &self,
        plugin: &str,
        doing: impl Future<Output = Result<(Place, Option<Timestamp>), VolumeError>>,
    ) -> Result<(Place, Option<Timestamp>), VolumeError> {
        let begun = Instant::now();
        let found = doing.await;
        self.counters.storage(plugin, "volume_mount", found.is_ok(), begun.elapsed());
        found.map(|(place, again)| (Place { plugin: plugin.to_owned(), ..place }, again))
    }

    async fn make_usable(
        &self,
        pod: &Pod,
        volume: &Volume,
        backing: &Backing,
        now: Timestamp,
    ) -> Result<(Place, Option<Timestamp>), VolumeError> {
        let path = match &backing.kind {
            Kind::HostPath(source) => host_path::set_up(source)?,
            Kind::Local(local) => return self.make_local(pod, volume, local, backing).await.map(|place| (place, None)),
            Kind::Nfs(nfs) => {
                let dir = self.remote_dir(pod.uid()).join(&volume.name);
                std::fs::create_dir_all(&dir).map_err(|e| VolumeError::io("create", &dir, e))?;
                self.mounts.nfs(&dir, nfs).await.map_err(|e| VolumeError::Claim(e.to_string()))?;
                dir
            }
            Kind::Csi(persistent) => {
                return self.csi.set_up_persistent(pod, &volume.name, persistent, backing.read_only, now).await;
            }
        };
        Ok((Place { path, read_only: backing.read_only, block: backing.block, ..Place::default() }, None))
    }

    async fn make_local(
        &self,
        pod: &Pod,
        volume: &Volume,
        local: &Local,
        backing: &Backing,
    ) -> Result<Place, VolumeError> {
        let mut path = local.path.clone();
        if persistent::make_local(&path, backing)? {
            path = self.remote_dir(pod.uid()).join(&volume.name);
            std::fs::create_dir_all(&path).map_err(|e| VolumeError::io("create", &path, e))?;
            let mounted = self.mounts.disk(&path, local, backing.read_only).await;
            mounted.map_err(|e| VolumeError::Claim(e.to_string()))?;
        }
        if let Some((root, group)) = persistent::to_be_owned(pod, &path, backing, fs_group(pod))? {
            let given = ownership::give(&*self.cluster, pod, &path, root, group).await;
            given.map_err(|e| VolumeError::io("change the group of", &path, e))?;
        }
        let watched = backing.size.filter(|bytes| !backing.block && !self.limit(pod, volume, &path, *bytes));
        Ok(Place { path, read_only: backing.read_only, block: backing.block, watched, ..Place::default() })
    }

    /// Whether a volume of ours cannot take more than its size now. If not, the pod is told when the volume is set up first.
    fn limit(&self, pod: &Pod, volume: &Volume, path: &Path, bytes: u64) -> bool {
        let Err(why) = self.sizes.limit(path, bytes) else { return true };
        if !persistent::load(&self.pod_dir(pod.uid())).contains_key(&volume.name) {
            let message = format!("volume {:?} can take more than its {bytes} bytes: {why}", volume.name);
            self.cluster.event(ClusterEvent {
                pod: Some(pod),
                field_path: None,
                warning: true,
                reason: "VolumeSizeNotEnforced",
                message: &message,
            });
        }
        false
    }

    /// How many bytes volumes of a pod should take that nobody keeps from taking more.
    pub fn watched(&self, pod: &Pod) -> BTreeMap<String, u64> {
        self.places(pod).into_iter().filter_map(|(name, place)| Some((name, place.watched?))).collect()
    }

    /// Volumes of a pod by the names of upstream's plugins; what is behind a claim is known once it is set up.
    pub fn plugins(&self, pod: &Pod) -> Vec<String> {
        self.named_plugins(pod).into_iter().map(|(_, plugin)| plugin).collect()
    }

    /// With the volumes' names.
    fn named_plugins(&self, pod: &Pod) -> Vec<(String, String)> {
        let places = self.places(pod);
        let of = |volume: &Volume| match places.get(&volume.name) {
            Some(place) if !place.plugin.is_empty() => place.plugin.clone(),
            _ => plugin(volume).to_owned(),
        };
        view::spec(pod).volumes.iter().flatten().map(|v| (v.name.clone(), of(v))).collect()
    }

    /// Where volumes of a pod are, as far as that is written down; most pods have none for which it is.
    fn places(&self, pod: &Pod) -> Places {
        match view::spec(pod).volumes.iter().flatten().any(needs_place) {
            true => persistent::load(&self.pod_dir(pod.uid())),
            false => Places::new(),
        }
    }

    /// Where a volume of the machine itself was before; one of a server would have to be mounted first.
    fn last_place(&self, pod: &Pod, volume: &Volume, why: String) -> Result<Place, VolumeError> {
        let known = persistent::load(&self.pod_dir(pod.uid())).remove(&volume.name);
        let is_here = |p: &Place| !p.path.starts_with(self.remote_dir(pod.uid())) && self.csi.still_has(&p.path);
        known.filter(is_here).ok_or(VolumeError::Unreachable(why))
    }

    async fn backing(&self, pod: &Pod, volume: &Volume) -> Result<Backing, VolumeError> {
        if let Some(source) = &volume.nfs {
            let kind = Kind::Nfs(Nfs::new(source, &[]));
            return Ok(Backing {
                kind,
                block: false,
                read_only: source.read_only == Some(true),
                ours: false,
                size: None,
            });
        }
        let missing = || VolumeError::Unsupported("a volume without a source".into());
        let (name, own) = persistent::claim_of(pod, volume).ok_or_else(missing)?;
        let failed = |e: ClusterError| match e {
            ClusterError::Unreachable(text) => VolumeError::Unreachable(text),
            other => VolumeError::Cluster(other.to_string()),
        };
        let claim = self.cluster.claim(pod.namespace(), &name).await.map_err(failed)?;
        let bound_to = persistent::volume_of(pod, &name, own, claim.as_ref())?;
        let found = self.cluster.persistent_volume(&bound_to).await.map_err(failed)?;
        persistent::resolve(pod, volume, &claim.unwrap_or_default(), found.as_ref())
    }

    /// The devices of one container.
    pub fn devices(&self, pod: &Pod, c: &Container) -> Result<Vec<Device>, VolumeError> {
        if c.volume_devices.as_ref().is_none_or(Vec::is_empty) {
            return Ok(Vec::new());
        }
        persistent::devices(pod, c, &persistent::load(&self.pod_dir(pod.uid())))
    }

    async fn set_up_one(
        &self,
        pod: &Pod,
        volume: &Volume,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<Option<Timestamp>, VolumeError> {
        if let Some(kind) = unsupported_kind(volume) {
            return Err(VolumeError::Unsupported(format!("volume kind {kind}")));
        }
        if volume.image.is_some() {
            // Pulled with the images of the containers, mounted by the engine.
            return Ok(None);
        }
        let group = fs_group(pod);
        if let Some(source) = &volume.host_path {
            return host_path::set_up(source).map(|_| None);
        }
        if let Some(source) = &volume.empty_dir {
            let dir = self.disk_dir(pod.uid()).join(&volume.name);
            let medium = empty_dir::medium(pod, source)?;
            empty_dir::set_up(&dir, medium, group, &*self.mounts).await?;
            return Ok(None);
        }
        let (payload, renew) = self.collect(pod, volume, facts, now).await?;
        let dir = self.memory_dir(pod.uid()).join(&volume.name);
        let stamp = stamp(now);
        let write = move || atomic::write(&dir, &payload, &stamp, group);
        tokio::task::spawn_blocking(write).await.map_err(|e| VolumeError::Cluster(format!("writer ended: {e}")))??;
        Ok(renew)
    }

    /// The files of a volume whose content comes from the API.
    async fn collect(
        &self,
        pod: &Pod,
        volume: &Volume,
        facts: &Facts,
        now: Timestamp,
    ) -> Result<(Payload, Option<Timestamp>), VolumeError> {
        const MODE: i32 = 0o644;
        if let Some(source) = &volume.config_map {
            let map = self.config_map(pod.namespace(), &source.name).await?;
            let mode = source.default_mode.unwrap_or(MODE);
            let optional = source.optional == Some(true);
            return Ok((
                config_map::payload(&source.name, map.as_deref(), source.items.as_ref(), mode, optional)?,
                None,
            ));
        }
        if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            let secret = self.secret(pod.namespace(), &name).await?;
            let mode = source.default_mode.unwrap_or(MODE);
            let optional = source.optional == Some(true);
            return Ok((secret::payload(&name, secret.as_deref(), source.items.as_ref(), mode, optional)?, None));
        }
        if let Some(source) = &volume.downward_api {
            let items = source.items.as_deref().unwrap_or_default();
            return Ok((downward_api::payload(pod, items, source.default_mode.unwrap_or(MODE), facts)?, None));
        }
        match &volume.projected {
            Some(source) => projected::collect(self, pod, source, facts, now).await,
            None => Ok((Payload::new(), None)),
        }
    }

    pub(crate) async fn config_map(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<api::prelude::ConfigMap>>, VolumeError> {
        self.cluster.config_map(namespace, name).await.map_err(|e| VolumeError::Cluster(e.to_string()))
    }

    pub(crate) async fn secret(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Arc<api::prelude::Secret>>, VolumeError> {
        self.cluster.secret(namespace, name).await.map_err(|e| VolumeError::Cluster(e.to_string()))
    }

    /// Takes everything of the pod with this uid down; fine if there is nothing. The pod itself, if it is known, tells for `/metrics` what
    /// its volumes are.
    pub async fn tear_down(&self, uid: &str, pod: Option<&Pod>) -> Result<(), VolumeError> {
        self.tokens.forget(uid);
        self.csi.tear_down(uid).await?;
        let plugins: BTreeMap<String, String> = pod.map(|pod| self.named_plugins(pod)).into_iter().flatten().collect();
        let (disk, remote, memory) = (self.disk_dir(uid), self.remote_dir(uid), self.memory_dir(uid));
        for (dir, content) in [(&disk, Content::Ours), (&remote, Content::Others), (&memory, Content::Ours)] {
            for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
                let begun = Instant::now();
                let done = self.take_down(entry.path(), content).await;
                let plugin =
                    entry.file_name().to_str().and_then(|name| plugins.get(name)).map_or("N/A", String::as_str);
                self.counters.storage(plugin, "volume_unmount", done.is_ok(), begun.elapsed());
                done?;
            }
        }
        [disk, memory].iter().try_for_each(|dir| remove_dir(dir))
    }

    async fn take_down(&self, path: PathBuf, content: Content) -> Result<(), VolumeError> {
        // Unmounting what is no mount is refused and harmless.
        self.mounts.unmount(&path).await.map_err(|e| VolumeError::Tmpfs(e.to_string()))?;
        match content {
            Content::Ours => {
                let remove = move || remove_dir(&path);
                let removed = tokio::task::spawn_blocking(remove).await;
                removed.map_err(|e| VolumeError::Cluster(format!("remover ended: {e}")))?
            }
            Content::Others => std::fs::remove_dir(&path).map_err(|e| VolumeError::io("remove", &path, e)),
        }
    }

    /// The files that a container's environment is taken from. Upstream's API lets them
    /// be in emptyDirs only (`validateFileKeyRefVolumes`), ours does not look yet.
    pub fn env_files(&self, pod: &Pod, c: &Container) -> BTreeMap<(String, String), env::EnvFile> {
        let references = c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()?.file_key_ref.as_ref());
        let file = |r: &FileKeySelector| {
            let volume = view::volume(pod, &r.volume_name)?;
            let dir = self.path_of(pod, volume, &Places::new())?;
            let text = env_file::read(&dir, &r.path).inspect_err(|error| {
                tracing::debug!(pod = view::describe(pod), path = r.path, %error, "cannot read an env file");
            });
            let found = env::EnvFile { path: dir.join(&r.path), text: text.ok() };
            Some(((r.volume_name.clone(), r.path.clone()), found))
        };
        references.filter_map(file).collect()
    }

    /// The mounts of one container, in the order of the spec.
    pub fn mounts(
        &self,
        pod: &Pod,
        c: &Container,
        environment: &[(String, String)],
    ) -> Result<Vec<Mount>, VolumeError> {
        let places = if view::spec(pod).volumes.iter().flatten().any(needs_place) {
            persistent::load(&self.pod_dir(pod.uid()))
        } else {
            Places::new()
        };
        let mount = |mount: &VolumeMount| {
            let missing = || VolumeError::NoVolume { volume: mount.name.clone(), container: c.name.clone() };
            let volume = view::volume(pod, &mount.name).ok_or_else(missing)?;
            if volume.image.is_some() {
                // Its layers are filled in when everything else is known to be right.
                return Ok(make_mount(mount, PathBuf::new(), sub_path_of(mount, environment)?, true, false));
            }
            let source = self.path_of(pod, volume, &places).ok_or_else(missing)?;
            let sub = sub_path_of(mount, environment)?;
            if !sub.is_empty() {
                sub_path::ensure(&source, &sub)?;
            }
            let place = places.get(&volume.name);
            let read_only = is_api_volume(volume) || place.is_some_and(|p| p.read_only);
            Ok(make_mount(mount, source, sub, read_only, is_the_pods(volume, place)))
        };
        c.volume_mounts.iter().flatten().map(mount).collect()
    }
}

/// Upstream's name of what sets a volume up (`GetPluginName`); `N/A` if it depends on a claim.
fn plugin(volume: &Volume) -> &'static str {
    let named = [
        (volume.config_map.is_some(), "kubernetes.io/configmap"),
        (volume.downward_api.is_some(), "kubernetes.io/downward-api"),
        (volume.empty_dir.is_some(), "kubernetes.io/empty-dir"),
        (volume.host_path.is_some(), "kubernetes.io/host-path"),
        (volume.image.is_some(), "kubernetes.io/image"),
        (volume.nfs.is_some(), "kubernetes.io/nfs"),
        (volume.projected.is_some(), "kubernetes.io/projected"),
        (volume.secret.is_some(), "kubernetes.io/secret"),
    ];
    named.iter().find(|(is, _)| *is).map_or("N/A", |(_, name)| name)
}

/// Whether where its data are is looked up, and written down.
fn needs_place(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some()
        || volume.ephemeral.is_some()
        || volume.nfs.is_some()
        || volume.csi.is_some()
}

fn remove_dir(dir: &Path) -> Result<(), VolumeError> {
    runtime::remove_tree(dir).map_err(|e| VolumeError::io("remove", dir, e))
}

/// `2026_11_20_13_00_00.123456789`: sorts, and does not repeat.
fn stamp(now: Timestamp) -> String {
    format!("{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond())
}

/// The files of these cannot be written, whatever the mount says.
fn is_api_volume(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Whether its files may get the SELinux label of a pod, because nobody but pods has to do with them (`Managed` and `SELinuxRelabel` of the
/// `GetAttributes` in `pkg/volume/*`).
fn is_the_pods(volume: &Volume, place: Option<&Place>) -> bool {
    volume.empty_dir.is_some()
        || is_api_volume(volume)
        || place.is_some_and(|p| {
            !p.read_only && (p.plugin == "kubernetes.io/local-volume" || p.plugin.starts_with(&csi::plugin("")))
        })
}

/// Where a mount is in the container.
pub fn target_of(mount: &VolumeMount) -> PathBuf {
    if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) }.into()
}

fn make_mount(mount: &VolumeMount, source: PathBuf, sub: String, must_be_read_only: bool, relabel: bool) -> Mount {
    let read_only = mount.read_only == Some(true) || must_be_read_only;
    Mount {
        source,
        image: None,
        sub_path: (!sub.is_empty()).then(|| sub.into()),
        target: target_of(mount),
        read_only,
        recursive_read_only: mount.read_only == Some(true)
            && matches!(mount.recursive_read_only.as_deref(), Some("Enabled" | "IfPossible")),
        propagation: match mount.mount_propagation.as_deref() {
            Some("HostToContainer") => Propagation::HostToContainer,
            Some("Bidirectional") => Propagation::Bidirectional,
            _ => Propagation::Private,
        },
        relabel,
    }
}

/// `subPath`, or `subPathExpr` with the container's variables (`ExpandContainerVolumeMounts`).
fn sub_path_of(mount: &VolumeMount, environment: &[(String, String)]) -> Result<String, VolumeError> {
    let Some(expression) = mount.sub_path_expr.as_deref().filter(|e| !e.is_empty()) else {
        return Ok(mount.sub_path.clone().unwrap_or_default());
    };
    let missing = parking_lot::Mutex::new(BTreeSet::new());
    let expanded = expand::expand(expression, |name| {
        let value = environment.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()).filter(|v| !v.is_empty());
        if value.is_none() {
            missing.lock().insert(name.to_owned());
        }
        value
    });
    let missing = missing.into_inner();
    if missing.is_empty() {
        return Ok(expanded);
    }
    Err(VolumeError::SubPath(format!("missing value for {}", missing.into_iter().collect::<Vec<_>>().join(", "))))
}

/// `securityContext.fsGroup`.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    u32::try_from(view::spec(pod).security_context.as_ref()?.fs_group?).ok()
}

/// The user that all containers run as, if they all name the same (`FsUserFrom`).
pub fn fs_user(pod: &Pod) -> Option<u32> {
    let mut all =
        view::all_containers(pod).into_iter().map(|(_, c)| crate::pod::spec::security::effective(pod, &c).run_as_user);
    let first = all.next()??;
    all.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// The name of the kind, if it is not built.
fn unsupported_kind(v: &Volume) -> Option<&'static str> {
    let kinds = [
        ("iscsi", v.iscsi.is_some()),
        ("fc", v.fc.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("cinder", v.cinder.is_some()),
        ("flocker", v.flocker.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("rbd", v.rbd.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("storageos", v.storageos.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
    ];
    kinds.into_iter().find(|(_, set)| *set).map(|(name, _)| name)
}

/// Every ConfigMap and Secret that the pod refers to, volumes, environment and pull secrets.
pub fn references(pod: &Pod) -> BTreeSet<ObjectReference> {
    let spec = view::spec(pod);
    let maps = pod_references::config_maps(spec).into_iter().map(|name| (ReferenceKind::ConfigMap, name));
    let secrets = pod_references::secrets(spec).into_iter().map(|name| (ReferenceKind::Secret, name));
    let reference = |(kind, name): (_, &str)| ObjectReference {
        kind,
        namespace: pod.namespace().to_owned(),
        name: name.to_owned(),
    };
    maps.chain(secrets).map(reference).collect()
}

/// The objects that a container's environment needs, fetched.
pub async fn sources(
    cluster: &dyn Cluster,
    pod: &Pod,
    c: &Container,
) -> Result<env::Sources, crate::cluster::ClusterError> {
    let wanted = env::references(c);
    let mut out = env::Sources { services: cluster.services(pod.namespace()).await?, ..env::Sources::default() };
    for name in wanted.config_maps {
        if let Some(map) = cluster.config_map(pod.namespace(), &name).await? {
            out.config_maps.insert(name, map);
        }
    }
    for name in wanted.secrets {
        if let Some(secret) = cluster.secret(pod.namespace(), &name).await? {
            out.secrets.insert(name, secret);
        }
    }
    Ok(out)
}
