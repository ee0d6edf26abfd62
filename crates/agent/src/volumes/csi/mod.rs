//! Volumes of CSI drivers: `csi` volumes of pods, and claims whose PersistentVolume is one.
//!
//! ```text
//!   wanted ─▶ (attached, by the control plane) ─▶ staged, once per node ─▶ published, once per pod ─▶ expanded
//!   not wanted ─▶ unpublished ─▶ unstaged, when no pod has it ─▶ no longer in use, so it may be detached
//! ```
//!
//! Always holds: what a driver is asked to do is written down first (`record.rs`), so that a restarted agent undoes it; a volume is in
//! use ([`CsiVolumes::in_use`], `status.volumesInUse` of the Node) from before it is waited for until it is unstaged; one
//! operation at a time per volume.
//!
//! Follows `pkg/volume/csi`, `pkg/volume/util/operationexecutor` and `pkg/kubelet/volumemanager`. Differs: no in-tree volume is
//! translated to CSI, and a pod is not failed when its node turns out to have no room for one
//! more attachment.

pub mod drivers;
mod expand;
mod record;
mod request;

use super::persistent::{Place, needs_group};
use super::{VolumeError, fs_group, ownership, tokens::Tokens};
use crate::cluster::{Cluster, ClusterEvent, TokenRequest};
use crate::counters::Counters;
use crate::engine::SeLinux;
use api::k8s::api::core::v1::{CSIVolumeSource, SecretReference};
use api::k8s::api::storage::v1::CSIDriver;
use api::meta::MetaExt;
use api::prelude::*;
use drivers::{CallError, Capability, Drivers, NodeService};
use jiff::{SignedDuration, Timestamp};
use machinery::csi::CsiVolume;
use machinery::quantity::Quantity;
use machinery::volumes;
use node_api::csi::volume_usage::Unit;
use node_api::csi::{CapacityRange, NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest};
use parking_lot::Mutex;
use record::{Places, Record, is_mount_point, remove_mount_point};
use request::{Texts, Wanted, needs_attach};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How long a pod waits for its volumes before somebody is told (`podAttachAndMountTimeout`).
const ATTACH_PATIENCE: Duration = Duration::from_secs(123);
/// A change that was missed is seen after this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often volumes are looked at that may have grown, or whose driver wants to publish them again (the pods' resync).
const REVISIT: SignedDuration = SignedDuration::from_secs(60);

/// A PersistentVolume and its claim.
#[derive(Debug, Clone, PartialEq)]
pub struct Persistent {
    /// The volume.
    pub volume: PersistentVolume,
    /// The claim it is bound to.
    pub claim: PersistentVolumeClaim,
}

/// What is in a volume, as its driver tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes: all, free, used.
    pub bytes: [u64; 3],
    /// Files likewise.
    pub inodes: [u64; 3],
}

#[derive(Default)]
struct State {
    /// Volumes by the pod that wants them, and whether they are attached by the control plane.
    wanted: BTreeMap<String, BTreeMap<CsiVolume, bool>>,
    /// Volumes that are attached and staged, or may be.
    held: BTreeSet<CsiVolume>,
    /// Pods that are ending.
    given_up: BTreeSet<String>,
    /// How large volumes are on this node.
    sizes: BTreeMap<CsiVolume, Quantity>,
    locks: BTreeMap<CsiVolume, Arc<tokio::sync::Mutex<()>>>,
}

/// See the file's head.
pub struct CsiVolumes {
    places: Places,
    node: String,
    cluster: Arc<dyn Cluster>,
    drivers: Arc<Drivers>,
    counters: Arc<Counters>,
    tokens: Tokens,
    /// The SELinux label of files, if this node has any.
    label: fn(&SeLinux) -> Option<String>,
    state: Mutex<State>,
    in_use_changed: Notify,
    gave_up: Notify,
}

/// `MountVolume.SetUp failed for volume "v" : why`
fn failed(operation: &'static str, wanted: &Wanted, why: impl ToString) -> VolumeError {
    VolumeError::Operation { operation, volume: wanted.name.clone(), why: why.to_string() }
}

/// Upstream's name of what sets volumes of a driver up (`GetFullQualifiedPluginNameForVolume`).
pub fn plugin(driver: &str) -> String {
    format!("kubernetes.io/csi:{driver}")
}

impl CsiVolumes {
    /// Reads what an earlier run left below `kubelet_dir`.
    pub(super) fn new(kubelet_dir: PathBuf, node: String, cluster: Arc<dyn Cluster>, counters: Arc<Counters>) -> Self {
        let places = Places(kubelet_dir);
        let mut state = State::default();
        for published in places.published() {
            let (volume, attachable) = (published.record.volume(), published.record.is_attachable());
            state.wanted.entry(published.uid).or_default().insert(volume, attachable);
        }
        state.held = places.all_staged().iter().filter(|r| r.is_attachable()).map(Record::volume).collect();
        CsiVolumes {
            places,
            node,
            cluster,
            drivers: Arc::new(Drivers::new(counters.clone())),
            counters,
            tokens: Tokens::load(None),
            label: runtime::selinux::file_label,
            state: Mutex::new(state),
            in_use_changed: Notify::new(),
            gave_up: Notify::new(),
        }
    }

    /// The drivers that have registered.
    pub fn drivers(&self) -> Arc<Drivers> {
        self.drivers.clone()
    }

    /// `status.volumesInUse` of the Node.
    pub fn in_use(&self) -> Vec<String> {
        let state = self.state.lock();
        let wanted = state.wanted.values().flatten().filter(|(_, attachable)| **attachable).map(|(volume, _)| volume);
        let all: BTreeSet<&CsiVolume> = wanted.chain(&state.held).collect();
        all.into_iter().map(CsiVolume::unique_name).collect()
    }

    /// Waits until [`Self::in_use`] may be different.
    pub async fn in_use_changed(&self) {
        self.in_use_changed.notified().await;
    }

    /// A pod ends: nothing of it is waited for any more.
    pub(super) fn give_up(&self, uid: &str) {
        if self.state.lock().given_up.insert(uid.to_owned()) {
            self.gave_up.notify_waiters();
        }
    }

    /// Whether a place of a pod's volume is as it was: one of a driver is gone after a restart of the machine.
    pub(super) fn still_has(&self, path: &std::path::Path) -> bool {
        !path.starts_with(&self.places.0) || is_mount_point(path)
    }

    /// A pod is gone, and so may everything be that is remembered of it.
    pub(super) fn forget(&self, uid: &str) {
        self.state.lock().given_up.remove(uid);
    }

    fn check_wanted(&self, pod: &Pod) -> Result<(), VolumeError> {
        if self.state.lock().given_up.contains(pod.uid()) { Err(VolumeError::GaveUp) } else { Ok(()) }
    }

    // === setting up ===

    /// A `csi` volume of a pod.
    pub(super) async fn set_up_inline(
        &self,
        pod: &Pod,
        name: &str,
        source: &CSIVolumeSource,
        now: Timestamp,
    ) -> Result<(Place, Option<Timestamp>), VolumeError> {
        let wanted = Wanted::inline(pod, name, source);
        let driver = self.driver(&wanted).await?;
        self.want(pod.uid(), &wanted.volume, false);
        let _one = self.lock(&wanted.volume).await;
        let place = self.publish(pod, &wanted, driver.as_deref(), false, now).await?;
        Ok((place, revisit(driver.as_deref(), &wanted, now)))
    }

    /// A claim's volume.
    pub(super) async fn set_up_persistent(
        &self,
        pod: &Pod,
        name: &str,
        persistent: &Persistent,
        read_only: bool,
        now: Timestamp,
    ) -> Result<(Place, Option<Timestamp>), VolumeError> {
        let source = persistent.volume.spec.as_ref().and_then(|s| s.csi.as_ref());
        let missing = || VolumeError::Claim("CSIPersistentVolumeSource not defined in spec".into());
        let mut wanted = Wanted::persistent(&persistent.volume, source.ok_or_else(missing)?, read_only);
        let driver = self.driver(&wanted).await?;
        // What a pod has been given stays as it was mounted.
        wanted.label = match Record::load(&self.places.of_pod(pod.uid(), &wanted.name, wanted.block)) {
            Some(published) => published.selinux_mount_context,
            None => {
                wanted.selinux(pod, name, driver.as_deref()).and_then(|wish| (self.label)(&wish)).unwrap_or_default()
            }
        };
        let attachable = needs_attach(driver.as_deref());
        self.want(pod.uid(), &wanted.volume, attachable);
        if !self.is_published(pod.uid(), &wanted) {
            self.check_node(&persistent.volume, &wanted)?;
            if attachable {
                self.wait_attached(pod, name, &wanted.volume).await?;
            }
        }
        let _one = self.lock(&wanted.volume).await;
        self.check_alone(pod.uid(), &wanted)?;
        let place = self.publish(pod, &wanted, driver.as_deref(), attachable, now).await?;
        self.expand(pod, &wanted, persistent, now).await?;
        Ok((place, revisit(driver.as_deref(), &wanted, now)))
    }

    async fn driver(&self, wanted: &Wanted) -> Result<Option<Arc<CSIDriver>>, VolumeError> {
        let found = self.cluster.csi_driver(&wanted.volume.driver).await;
        found.map_err(|e| failed(set_up(wanted), wanted, e))
    }

    fn want(&self, uid: &str, volume: &CsiVolume, attachable: bool) {
        let mut state = self.state.lock();
        let before = state.wanted.entry(uid.to_owned()).or_default().insert(volume.clone(), attachable);
        if attachable && before != Some(true) {
            self.in_use_changed.notify_one();
        }
    }

    fn is_published(&self, uid: &str, wanted: &Wanted) -> bool {
        let recorded = Record::load(&self.places.of_pod(uid, &wanted.name, wanted.block)).is_some();
        recorded && is_mount_point(&self.places.target(uid, &wanted.name, wanted.block))
    }

    async fn lock(&self, volume: &CsiVolume) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = self.state.lock().locks.entry(volume.clone()).or_default().clone();
        lock.lock_owned().await
    }

    /// `checkNodeAffinity`
    fn check_node(&self, pv: &PersistentVolume, wanted: &Wanted) -> Result<(), VolumeError> {
        let Some(node) = self.cluster.node() else { return Ok(()) };
        let labels = node.metadata.labels.clone().unwrap_or_default();
        if volumes::is_reachable_from(pv, &labels) {
            return Ok(());
        }
        Err(failed("MountVolume.NodeAffinity check", wanted, "no matching NodeSelectorTerms"))
    }

    /// ReadWriteOncePod, among the pods of this node.
    fn check_alone(&self, uid: &str, wanted: &Wanted) -> Result<(), VolumeError> {
        let other = |p: &record::Published| p.uid != uid && p.record.volume() == wanted.volume;
        if wanted.is_for_one_pod() && self.places.published().iter().any(other) {
            let why = "volume uses the ReadWriteOncePod access mode and is already in use by another pod";
            return Err(failed(set_up(wanted), wanted, why));
        }
        Ok(())
    }

    /// Waits until the Node says that the volume is in use and attached: then nobody detaches it.
    async fn wait_attached(&self, pod: &Pod, name: &str, volume: &CsiVolume) -> Result<(), VolumeError> {
        let unique = volume.unique_name();
        let ready = |node: &Node| {
            let status = node.status.clone().unwrap_or_default();
            status.volumes_in_use.iter().flatten().any(|v| *v == unique)
                && status.volumes_attached.iter().flatten().any(|v| v.name == unique)
        };
        let wait = async {
            let mut moves = self.cluster.node_moves();
            loop {
                let ended = self.gave_up.notified();
                self.check_wanted(pod)?;
                moves.borrow_and_update();
                if self.cluster.node().is_some_and(|n| ready(&n)) {
                    return Ok(());
                }
                tokio::select! {
                    () = ended => {}
                    _ = moves.changed() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                }
            }
        };
        let attached = tokio::time::timeout(ATTACH_PATIENCE, wait).await;
        attached.unwrap_or_else(|_| Err(VolumeError::NotAttached(name.to_owned())))
    }

    /// What the attacher tells the driver. The attachment is asked for anew: the Node may be older.
    async fn publish_context(&self, wanted: &Wanted, attachable: bool) -> Result<Texts, VolumeError> {
        if !attachable {
            return Ok(Texts::new());
        }
        let (name, handle) = (wanted.volume.attachment_name(&self.node), &wanted.volume.handle);
        let refused = |why: String| failed("MountVolume.WaitForAttach", wanted, why);
        let found = self.cluster.volume_attachment(&name).await.and_then(|found| {
            found.ok_or_else(|| {
                crate::cluster::ClusterError::Failed(format!("volumeattachments.storage.k8s.io {name:?} not found"))
            })
        });
        let attachment =
            found.map_err(|e| refused(format!("volume {handle} has GET error for volume attachment {name}: {e}")))?;
        if attachment.metadata.deletion_timestamp.is_some() {
            return Err(refused("volume attachment is being deleted".into()));
        }
        let status = attachment.status.unwrap_or_default();
        match (status.attached, status.attach_error) {
            (true, _) => Ok(status.attachment_metadata.unwrap_or_default().into_iter().collect()),
            (false, Some(error)) => Err(refused(error.message.unwrap_or_default())),
            (false, None) => Err(refused(format!("volume {handle} is not attached for volume attachment {name}"))),
        }
    }

    async fn secret(&self, reference: Option<&SecretReference>) -> Result<Texts, String> {
        let Some(reference) = reference else { return Ok(Texts::new()) };
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let (namespace, name) = (text(&reference.namespace), text(&reference.name));
        let found = self.cluster.read_secret(&namespace, &name).await;
        let lost = |why: String| {
            format!(
                "{namespace}/{name} failed: kubernetes.io/csi: failed to find the secret {name} in the namespace {namespace} with error: {why}"
            )
        };
        let secret = match found {
            Ok(Some(secret)) => secret,
            Ok(None) => return Err(lost(format!("secrets {name:?} not found"))),
            Err(e) => return Err(lost(e.to_string())),
        };
        let value = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(secret.data.iter().flatten().map(|(k, v)| (k.clone(), value(&v.0))).collect())
    }

    /// Stages the volume if that is not done and the driver knows how; then publishes it to the pod. Both again and again is as
    /// once.
    async fn publish(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        driver: Option<&CSIDriver>,
        attachable: bool,
        now: Timestamp,
    ) -> Result<Place, VolumeError> {
        // What a pod that ends had is being taken down.
        self.check_wanted(pod)?;
        let target = self.places.target(pod.uid(), &wanted.name, wanted.block);
        let place =
            Place { path: target.clone(), read_only: wanted.read_only, block: wanted.block, ..Place::default() };
        let again = driver.is_some_and(|d| d.spec.requires_republish == Some(true));
        let published = self.is_published(pod.uid(), wanted);
        if published && !again {
            return Ok(place);
        }
        let refused = |why: String| failed(set_up(wanted), wanted, why);
        let kind = |what: &str, e: &dyn std::fmt::Display| format!("kubernetes.io/csi: mounter.{what}: {e}");
        wanted.check_mode(driver).map_err(|e| refused(kind("SetupAt failed to check volume lifecycle mode", &e)))?;
        let context = self.publish_context(wanted, attachable).await?;
        let mut node = self.node_service(wanted).await?;
        let group = fs_group(pod).filter(|_| node.can(Capability::VolumeMountGroup));
        let staging = if !wanted.ephemeral && node.can(Capability::StageUnstageVolume) {
            self.stage(&mut node, wanted, &context, group, attachable).await?
        } else {
            String::new()
        };
        let mut secrets = self
            .secret(wanted.publish_secret.as_ref())
            .await
            .map_err(|e| refused(format!("fetching NodePublishSecretRef {e}")))?;
        let mut volume_context = wanted.context(pod, driver);
        let tokens = self
            .tokens(pod, driver, now)
            .await
            .map_err(|e| refused(kind("SetUpAt failed to get service accoount token attributes", &e)))?;
        if driver.is_some_and(|d| d.spec.service_account_token_in_secrets == Some(true)) {
            secrets.extend(tokens);
        } else {
            volume_context.extend(tokens);
        }
        let dir = self.places.of_pod(pod.uid(), &wanted.name, wanted.block);
        self.record(wanted, attachable).save(&dir)?;
        if let Some(parent) = target.parent() {
            std::fs::create_dir_all(parent).map_err(|e| VolumeError::io("create", parent, e))?;
        }
        let multi_writer = node.can(Capability::SingleNodeMultiWriter);
        let request = NodePublishVolumeRequest {
            volume_id: wanted.volume.handle.clone(),
            publish_context: context,
            staging_target_path: staging,
            target_path: target.display().to_string(),
            volume_capability: Some(wanted.capability(multi_writer, group)),
            readonly: wanted.read_only,
            secrets,
            volume_context,
        };
        if let Err(error) = node.publish(request).await {
            // A pod that has it keeps it; and one that may have it is asked to give it up.
            if error.is_final() && !published {
                remove_mount_point(&target)?;
                self.places.forget(&dir)?;
            }
            return Err(refused(error.text));
        }
        if group.is_none() && wanted.takes_group(driver) && !published {
            self.give_to_group(pod, wanted, &target).await?;
        }
        Ok(place)
    }

    async fn node_service(&self, wanted: &Wanted) -> Result<NodeService, VolumeError> {
        let lost = |e: CallError| {
            failed(set_up(wanted), wanted, format!("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: {e}"))
        };
        self.drivers.node(&wanted.volume.driver).await.map_err(lost)
    }

    fn record(&self, wanted: &Wanted, attachable: bool) -> Record {
        Record {
            name: wanted.name.clone(),
            volume_handle: wanted.volume.handle.clone(),
            driver_name: wanted.volume.driver.clone(),
            node_name: self.node.clone(),
            attachment: wanted.volume.attachment_name(&self.node),
            volume_lifecycle_mode: wanted.mode().to_owned(),
            block: wanted.block.to_string(),
            attachable: attachable.to_string(),
            selinux_mount_context: wanted.label.clone(),
        }
    }

    /// `MountDevice`, and `SetUpDevice` of devices. Returns the staging path.
    async fn stage(
        &self,
        node: &mut NodeService,
        wanted: &Wanted,
        context: &Texts,
        group: Option<u32>,
        attachable: bool,
    ) -> Result<String, VolumeError> {
        let staging = self.places.staging(&wanted.volume, &wanted.name, wanted.block);
        let dir = self.places.staged(&wanted.volume, &wanted.name, wanted.block);
        let path = staging.display().to_string();
        if let Some(staged) = Record::load(&dir) {
            let others = self.has_others(wanted);
            if staged.selinux_mount_context != wanted.label && !others {
                // The label of a mount is for good, and that of the pod before is another.
                self.unstage_one(&wanted.volume, &staged).await?;
            } else if is_mount_point(&staging) || others {
                return Ok(path);
            }
        }
        let operation = if wanted.block { "MapVolume.SetUpDevice" } else { "MountVolume.MountDevice" };
        let refused = |why: String| failed(operation, wanted, why);
        let secrets = self.secret(wanted.stage_secret.as_ref()).await;
        let secrets = secrets.map_err(|e| refused(format!("fetching NodeStageSecretRef {e}")))?;
        self.record(wanted, attachable).save(&dir)?;
        std::fs::create_dir_all(&staging).map_err(|e| VolumeError::io("create", &staging, e))?;
        if attachable {
            self.state.lock().held.insert(wanted.volume.clone());
        }
        let multi_writer = node.can(Capability::SingleNodeMultiWriter);
        let request = NodeStageVolumeRequest {
            volume_id: wanted.volume.handle.clone(),
            publish_context: context.clone(),
            staging_target_path: path.clone(),
            volume_capability: Some(wanted.capability(multi_writer, group)),
            secrets,
            volume_context: wanted.attributes.clone(),
        };
        if let Err(error) = node.stage(request).await {
            if error.is_final() && !is_mount_point(&staging) {
                remove_mount_point(&staging)?;
                self.places.forget(&dir)?;
                self.state.lock().held.remove(&wanted.volume);
            }
            return Err(refused(error.text));
        }
        Ok(path)
    }

    /// Whether pods of this node have the volume.
    fn has_others(&self, wanted: &Wanted) -> bool {
        self.places.published().iter().any(|p| p.record.volume() == wanted.volume)
    }

    /// `csi.storage.k8s.io/serviceAccount.tokens`, if the driver wants some.
    async fn tokens(&self, pod: &Pod, driver: Option<&CSIDriver>, now: Timestamp) -> Result<Texts, String> {
        let requests = driver.and_then(|d| d.spec.token_requests.as_deref()).unwrap_or_default();
        let mut all = serde_json::Map::new();
        for wanted in requests {
            let request = TokenRequest {
                pod,
                audience: Some(wanted.audience.as_str()).filter(|a| !a.is_empty()),
                expiration_seconds: wanted.expiration_seconds.unwrap_or(3600),
            };
            let (token, _) = self.tokens.get(&*self.cluster, &request, now).await.map_err(|e| e.to_string())?;
            let expires = token.expires_at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            all.insert(wanted.audience.clone(), json!({"token": token.value, "expirationTimestamp": expires}));
        }
        let key = "csi.storage.k8s.io/serviceAccount.tokens".to_owned();
        Ok(if all.is_empty() { Texts::new() } else { Texts::from([(key, Value::Object(all).to_string())]) })
    }

    async fn give_to_group(&self, pod: &Pod, wanted: &Wanted, target: &std::path::Path) -> Result<(), VolumeError> {
        let Some(group) = fs_group(pod) else { return Ok(()) };
        let meta = std::fs::metadata(target).map_err(|e| VolumeError::io("look at", target, e))?;
        if !needs_group(pod, &meta, group) {
            return Ok(());
        }
        let handle = &wanted.volume.handle;
        let given = ownership::give(&*self.cluster, pod, target, target.to_path_buf(), group).await;
        given.map_err(|e| failed("MountVolume.SetUp", wanted, format!("applyFSGroup failed for vol {handle}: {e}")))
    }

    // === growing ===

    /// The node's part of an expansion, if it is due.
    async fn expand(
        &self,
        pod: &Pod,
        wanted: &Wanted,
        persistent: &Persistent,
        now: Timestamp,
    ) -> Result<(), VolumeError> {
        let Persistent { volume, claim } = persistent;
        let known = self.state.lock().sizes.get(&wanted.volume).cloned();
        match expand::step(claim, volume, known.as_ref()) {
            expand::Step::Nothing => {
                if known.is_none() {
                    self.note_size(wanted, volumes::storage(claim.status.as_ref().and_then(|s| s.capacity.as_ref())));
                }
                Ok(())
            }
            expand::Step::Done(size) => {
                self.note_size(wanted, Some(size));
                Ok(())
            }
            expand::Step::Expand { .. } if wanted.read_only => {
                let name = &wanted.name;
                let text =
                    format!("MountVolume.NodeExpandVolume failed for volume {name:?} requested read-only file system");
                self.tell(pod, claim, true, "FileSystemResizeFailed", &text);
                Ok(())
            }
            expand::Step::Expand { to, recovers, updated } => {
                let done = self.expand_to(wanted, claim, &to, recovers && !updated, now).await?;
                if done {
                    let text =
                        format!("MountVolume.NodeExpandVolume succeeded for volume {:?} {}", wanted.name, self.node);
                    self.tell(pod, claim, false, "FileSystemResizeSuccessful", &text);
                    self.note_size(wanted, Some(to));
                }
                Ok(())
            }
        }
    }

    fn note_size(&self, wanted: &Wanted, size: Option<Quantity>) {
        if let Some(size) = size {
            self.state.lock().sizes.insert(wanted.volume.clone(), size);
        }
    }

    fn tell(&self, pod: &Pod, claim: &PersistentVolumeClaim, warning: bool, reason: &str, message: &str) {
        self.cluster.event(ClusterEvent { pod: Some(pod), field_path: None, warning, reason, message });
        self.cluster.claim_event(claim, warning, reason, message);
    }

    /// Tells the driver, and the claim's status what came of it. `false`: the driver cannot now, which hinders nobody.
    async fn expand_to(
        &self,
        wanted: &Wanted,
        claim: &PersistentVolumeClaim,
        to: &Quantity,
        recovers: bool,
        now: Timestamp,
    ) -> Result<bool, VolumeError> {
        let refused = |why: String| failed("NodeExpandVolume.NodeExpandVolume", wanted, why);
        let mut claim = claim.clone();
        let mut node = self.node_service(wanted).await?;
        if !node.can(Capability::ExpandVolume) {
            // Older control planes expect the node to say that it is done.
            return if recovers {
                Ok(false)
            } else {
                self.show_size(&claim, to).await.map_err(refused).map(|()| false)
            };
        }
        if recovers {
            let next = expand::in_progress(&claim.status.clone().unwrap_or_default());
            claim = self.write_status(&claim, &next).await.map_err(&refused)?;
        }
        let staged = node.can(Capability::StageUnstageVolume);
        let secrets = self.secret(wanted.expand_secret.as_ref()).await;
        let secrets =
            secrets.map_err(|e| refused(format!("expander.NodeExpand failed to get NodeExpandSecretRef {e}")))?;
        let path = self.any_target(wanted);
        let staging = self.places.staging(&wanted.volume, &wanted.name, wanted.block).display().to_string();
        let request = NodeExpandVolumeRequest {
            volume_id: wanted.volume.handle.clone(),
            volume_path: path.display().to_string(),
            capacity_range: Some(CapacityRange { required_bytes: to.value(), limit_bytes: 0 }),
            staging_target_path: if staged { staging } else { String::new() },
            volume_capability: Some(wanted.capability(node.can(Capability::SingleNodeMultiWriter), None)),
            secrets,
        };
        let Err(error) = node.expand(request).await else {
            return self.show_size(&claim, to).await.map_err(refused).map(|()| true);
        };
        let text = format!("Expander.NodeExpand failed to expand the volume : {error}");
        if recovers && error.is_final() {
            let status = claim.status.clone().unwrap_or_default();
            let next = expand::failed(&status, &text, error.is_infeasible(), now);
            if let Err(error) = self.write_status(&claim, &next).await {
                tracing::warn!(claim = claim.name(), error, "failed to say that an expansion failed");
            }
        }
        // Not while it is used: that must not keep pods from using it.
        if error.code == Some(tonic::Code::FailedPrecondition) { Ok(false) } else { Err(refused(text)) }
    }

    fn any_target(&self, wanted: &Wanted) -> PathBuf {
        let published = self.places.published();
        let found = published.iter().find(|p| p.record.volume() == wanted.volume);
        let uid = found.map(|p| p.uid.clone()).unwrap_or_default();
        self.places.target(&uid, &wanted.name, wanted.block)
    }

    /// Says in the claim's status that it has this size, if it does not say so.
    async fn show_size(&self, claim: &PersistentVolumeClaim, size: &Quantity) -> Result<(), String> {
        let status = claim.status.clone().unwrap_or_default();
        let shown = volumes::storage(status.capacity.as_ref()).is_some_and(|has| has >= *size);
        if shown && status.allocated_resource_statuses.is_none() {
            return Ok(());
        }
        self.write_status(claim, &expand::finished(&status, size)).await.map(drop)
    }

    async fn write_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: &api::k8s::api::core::v1::PersistentVolumeClaimStatus,
    ) -> Result<PersistentVolumeClaim, String> {
        let patch = expand::patch(claim, status);
        self.cluster.patch_claim_status(claim.namespace(), claim.name(), &patch).await.map_err(|e| e.to_string())
    }

    // === taking down ===

    /// Takes everything of a pod down that a driver published, and what no other pod needs.
    pub(super) async fn tear_down(&self, uid: &str) -> Result<(), VolumeError> {
        self.tokens.forget(uid);
        self.give_up(uid);
        let wanted = self.state.lock().wanted.get(uid).cloned().unwrap_or_default();
        let mut concerned: BTreeSet<CsiVolume> = wanted.into_keys().collect();
        for published in self.places.published_to(uid) {
            let volume = published.record.volume();
            let _one = self.lock(&volume).await;
            let operation = if published.record.is_block() { "unmap_volume" } else { "volume_unmount" };
            self.measured(&volume, operation, self.unpublish(&published)).await?;
            concerned.insert(volume);
        }
        for volume in &concerned {
            self.release(uid, volume).await?;
        }
        self.state.lock().wanted.remove(uid);
        if !concerned.is_empty() {
            self.in_use_changed.notify_one();
        }
        Ok(())
    }

    async fn measured(
        &self,
        volume: &CsiVolume,
        operation: &str,
        doing: impl Future<Output = Result<(), VolumeError>>,
    ) -> Result<(), VolumeError> {
        let begun = Instant::now();
        let done = doing.await;
        self.counters.storage(&plugin(&volume.driver), operation, done.is_ok(), begun.elapsed());
        done
    }

    async fn unpublish(&self, published: &record::Published) -> Result<(), VolumeError> {
        let record = &published.record;
        let refused = |why: CallError| {
            let text = format!("kubernetes.io/csi: Unmounter.TearDownAt failed: {why}");
            VolumeError::Operation { operation: "UnmountVolume.TearDown", volume: record.name.clone(), why: text }
        };
        let target = self.places.target(&published.uid, &record.name, record.is_block());
        let mut node = self.drivers.node(&record.driver_name).await.map_err(refused)?;
        node.unpublish(&record.volume_handle, &target).await.map_err(refused)?;
        remove_mount_point(&target)?;
        self.places.forget(&published.dir)?;
        if let Some(parent) = target.parent().filter(|_| record.is_block()) {
            // Other pods may have theirs beside it.
            std::fs::remove_dir(parent).ok();
        }
        Ok(())
    }

    /// A pod needs the volume no longer: unstages it if no other does.
    async fn release(&self, uid: &str, volume: &CsiVolume) -> Result<(), VolumeError> {
        let _one = self.lock(volume).await;
        let others = self.state.lock().wanted.iter().any(|(other, all)| other != uid && all.contains_key(volume));
        if others || self.places.published().iter().any(|p| p.record.volume() == *volume) {
            return Ok(());
        }
        self.unstage(volume).await?;
        let mut state = self.state.lock();
        state.held.remove(volume);
        state.sizes.remove(volume);
        // The table and we have it; whoever waits for it would have it, too.
        if state.locks.get(volume).is_some_and(|lock| Arc::strong_count(lock) <= 2) {
            state.locks.remove(volume);
        }
        drop(state);
        self.in_use_changed.notify_one();
        Ok(())
    }

    /// Unstages a volume; fine if it is not staged.
    async fn unstage(&self, volume: &CsiVolume) -> Result<(), VolumeError> {
        for record in self.places.all_staged().into_iter().filter(|r| r.volume() == *volume) {
            let operation = if record.is_block() { "unmap_device" } else { "unmount_device" };
            self.measured(volume, operation, self.unstage_one(volume, &record)).await?;
        }
        Ok(())
    }

    async fn unstage_one(&self, volume: &CsiVolume, record: &Record) -> Result<(), VolumeError> {
        let refused = |why: CallError| {
            let operation = if record.is_block() { "UnmapVolume.TearDownDevice" } else { "UnmountDevice" };
            let why = format!("kubernetes.io/csi: attacher.UnmountDevice failed: {why}");
            VolumeError::Operation { operation, volume: record.name.clone(), why }
        };
        let staging = self.places.staging(volume, &record.name, record.is_block());
        let mut node = self.drivers.node(&volume.driver).await.map_err(refused)?;
        if node.can(Capability::StageUnstageVolume) {
            node.unstage(&volume.handle, &staging).await.map_err(refused)?;
        }
        if record.is_block() && !is_mount_point(&staging) {
            // Drivers put files of their own there.
            match std::fs::remove_dir_all(&staging) {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(VolumeError::io("remove", &staging, e));
                }
                _ => {}
            }
        } else {
            remove_mount_point(&staging)?;
        }
        self.places.forget(&self.places.staged(volume, &record.name, record.is_block()))
    }

    /// Unstages what an earlier run left staged for nobody. A driver has come (back).
    pub async fn sweep(&self, driver: &str) {
        let ours = |v: &CsiVolume| v.driver == driver;
        let staged: BTreeSet<CsiVolume> = self.places.all_staged().iter().map(Record::volume).filter(ours).collect();
        for volume in staged {
            if let Err(error) = self.release("", &volume).await {
                tracing::warn!(volume = volume.unique_name(), error = %base::chain(&error), "failed to unstage a volume");
            }
        }
    }

    // === questions ===

    /// What is in the volumes of a pod, by the names of PersistentVolumes or of the pod's volumes, from drivers that tell.
    pub async fn stats(&self, uid: &str) -> BTreeMap<PathBuf, Stats> {
        let mut out = BTreeMap::new();
        for published in self.places.published_to(uid) {
            let record = &published.record;
            let target = self.places.target(uid, &record.name, record.is_block());
            if let Some(stats) = self.stats_of(record, &target).await {
                out.insert(target, stats);
            }
        }
        out
    }

    async fn stats_of(&self, record: &Record, target: &std::path::Path) -> Option<Stats> {
        let mut node = self.drivers.node(&record.driver_name).await.ok()?;
        if !node.can(Capability::GetVolumeStats) {
            return None;
        }
        let mut stats = Stats::default();
        for usage in node.usage(&record.volume_handle, target).await.ok()? {
            let numbers = [usage.total, usage.available, usage.used].map(|n| n.max(0).unsigned_abs());
            match Unit::try_from(usage.unit) {
                Ok(Unit::Bytes) => stats.bytes = numbers,
                Ok(Unit::Inodes) => stats.inodes = numbers,
                _ => {}
            }
        }
        Some(stats)
    }
}

fn set_up(wanted: &Wanted) -> &'static str {
    if wanted.block { "MapVolume.MapPodDevice" } else { "MountVolume.SetUp" }
}

/// When to look at a volume again.
fn revisit(driver: Option<&CSIDriver>, wanted: &Wanted, now: Timestamp) -> Option<Timestamp> {
    let again = driver.is_some_and(|d| d.spec.requires_republish == Some(true));
    (again || !wanted.ephemeral).then(|| now + REVISIT)
}

#[cfg(test)]
mod tests;
