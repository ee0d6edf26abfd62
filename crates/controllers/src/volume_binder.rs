//! VolumeBinder: gives claims their volumes, and says of both in which phase they are.
//!
//! Watches   PersistentVolumeClaim, PersistentVolume (self, and each wakes the other), StorageClass (of claims that wait).
//! Writes    both and their status; creates and deletes volumes of the provisioner `dhow.dev/local`.
//! Invariant a volume is given to a claim by a write to the volume first, so two claims cannot get the same one.
//! Differs   from upstream (`pkg/controller/volume/persistentvolume`): one write per object and round; nothing is recycled. `dhow.dev/local` makes
//!           a `local` volume in the directory that the node names in its annotation; the node makes the directory at first
//!           use and removes it when the volume is gone.

use crate::plan::{Done, Key, Plan, PlannedEvent, Task, Write};
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::{
    LocalVolumeSource, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PersistentVolumeClaimStatus,
    PersistentVolumeSpec, VolumeNodeAffinity,
};
use api::k8s::api::storage::v1::StorageClass;
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError, EventKind};
use jiff::Timestamp;
use machinery::volumes::{self, Search};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// On a Node: the directory in which it keeps local volumes.
const NODE_DIRECTORY: &str = "dhow.dev/local-volumes";
const HOSTNAME: &str = "kubernetes.io/hostname";
/// How soon to look again when the server knows a claim that the cache does not.
const CATCH_UP: Duration = Duration::from_millis(500);

pub(crate) struct VolumeBinder;

pub(crate) enum View {
    Claim(Box<ClaimView>),
    Volume {
        volume: Arc<PersistentVolume>,
        /// The claim it names, if that exists.
        claim: Option<Arc<PersistentVolumeClaim>>,
    },
}

pub(crate) struct ClaimView {
    claim: Arc<PersistentVolumeClaim>,
    /// The one it names, or all.
    volumes: Vec<Arc<PersistentVolume>>,
    class: Option<Arc<StorageClass>>,
    default_class: Option<Arc<StorageClass>>,
    /// Pods without a node that use it.
    pods: Vec<String>,
    /// The node selected for it.
    node: Option<Arc<Node>>,
}

impl Controller for VolumeBinder {
    const NAME: &'static str = "persistent-volume-binder";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<PersistentVolumeClaim>(|ctx, change| {
            let claim = change.latest();
            let mut keys = vec![Key::of(claim.as_ref()), Key::new("", volumes::volume_name(claim))];
            if change.new.is_none() {
                let all = ctx.cache::<PersistentVolume>().list();
                keys.extend(all.iter().filter(|v| volumes::is_bound_to(v, claim)).map(|v| Key::of(v.as_ref())));
            }
            keys.retain(|key| !key.name.is_empty());
            keys
        });
        watches.map::<PersistentVolume>(|ctx, change| {
            let volume = change.latest();
            let mut keys = vec![Key::of(volume.as_ref())];
            for reference in [&change.old, &change.new].into_iter().flatten().filter_map(|v| volumes::claim_ref(v)) {
                let text = |t: &Option<String>| t.clone().unwrap_or_default();
                keys.push(Key::new(&text(&reference.namespace), &text(&reference.name)));
            }
            if volumes::claim_ref(volume).is_none() {
                keys.extend(unbound(ctx, |_| true));
            }
            keys
        });
        watches.map::<StorageClass>(|ctx, _| unbound(ctx, |_| true));
        watches.reads::<Pod>();
        watches.reads::<Node>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let (claims, all) = (ctx.cache::<PersistentVolumeClaim>(), ctx.cache::<PersistentVolume>());
        if key.namespace.is_empty() {
            let volume = all.get("", &key.name)?;
            let reference = volumes::claim_ref(&volume);
            let text = |t: Option<&String>| t.cloned().unwrap_or_default();
            let claim = reference.and_then(|r| claims.get(&text(r.namespace.as_ref()), &text(r.name.as_ref())));
            return Some(View::Volume { volume, claim });
        }
        let claim = claims.get(&key.namespace, &key.name)?;
        let name = volumes::volume_name(&claim);
        let volumes = if name.is_empty() { all.list() } else { all.get("", name).into_iter().collect() };
        let classes = ctx.cache::<StorageClass>();
        let uses = |pod: &Pod| {
            let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
            let mut named = volumes.filter_map(|v| machinery::volumes::claim_of(pod, v));
            pod.spec.as_ref().is_some_and(|s| s.node_name.as_deref().unwrap_or_default().is_empty())
                && named.any(|(name, _)| name == claim.name())
        };
        let pods = || ctx.cache::<Pod>().list_in(&key.namespace).into_iter().filter(|p| uses(p));
        Some(View::Claim(Box::new(ClaimView {
            class: classes.get("", volumes::class_of_claim(&claim)),
            default_class: default_class(classes.list()),
            pods: if name.is_empty() { pods().map(|p| p.name().to_owned()).collect() } else { Vec::new() },
            node: claim.annotation(machinery::volumes::SELECTED_NODE).and_then(|n| ctx.cache::<Node>().get("", n)),
            volumes,
            claim,
        })))
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        match view {
            View::Claim(view) if view.claim.annotation(volumes::BIND_COMPLETED).is_none() => {
                unbound_claim(view, &mut plan)
            }
            View::Claim(view) => bound_claim(view, &mut plan),
            View::Volume { volume, claim } => sync_volume(volume, claim.as_deref(), &mut plan),
        }
        plan
    }
}

/// Claims that have no volume yet.
fn unbound(ctx: &Context, which: impl Fn(&PersistentVolumeClaim) -> bool) -> Vec<Key> {
    let claims = ctx.cache::<PersistentVolumeClaim>().list();
    let open = claims.iter().filter(|c| c.annotation(volumes::BIND_COMPLETED).is_none() && which(c));
    open.map(|c| Key::of(c.as_ref())).collect()
}

/// The newest of the default classes (`GetDefaultClass`).
fn default_class(classes: Vec<Arc<StorageClass>>) -> Option<Arc<StorageClass>> {
    let is_default = |c: &Arc<StorageClass>| {
        [volumes::DEFAULT_CLASS, volumes::BETA_DEFAULT_CLASS].iter().any(|a| c.annotation(a) == Some("true"))
    };
    let created = |c: &Arc<StorageClass>| c.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let newer = |a: &Arc<StorageClass>, b: &Arc<StorageClass>| created(a).cmp(&created(b)).then(b.name().cmp(a.name()));
    classes.into_iter().filter(is_default).max_by(newer)
}

// === claims ===

/// `syncUnboundClaim`
fn unbound_claim(view: &ClaimView, plan: &mut Plan) {
    let claim = view.claim.as_ref();
    let warn = |reason: &str, text: String| PlannedEvent::new(claim, EventKind::Warning, reason, &text);
    if !volumes::volume_name(claim).is_empty() {
        let Some(volume) = view.volumes.first() else { return pending(claim, plan) };
        if volumes::is_bound_to(volume, claim) {
            return bind(volume, claim, plan);
        }
        if volumes::claim_ref(volume).is_some() {
            let text = format!("volume {:?} already bound to a different claim.", volume.name());
            plan.events.push(warn("FailedBinding", text));
            return pending(claim, plan);
        }
        return match mismatch(volume, claim) {
            None => bind(volume, claim, plan),
            Some(why) => {
                let text = format!("Cannot bind to requested volume {:?}: {why}", volume.name());
                plan.events.push(warn("VolumeMismatch", text));
                pending(claim, plan);
            }
        };
    }
    let waits = view.class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    let none = BTreeSet::new();
    let search = Search::<BTreeMap<String, String>> { claim, node: None, delayed: waits, taken: &none };
    if let Some(volume) = volumes::find_matching(&search, view.volumes.iter()) {
        return bind(volume, claim, plan);
    }
    let asks_for_class = claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
        || !volumes::class_of_claim(claim).is_empty();
    if let Some(class) = view.default_class.as_ref().filter(|_| !asks_for_class) {
        let mut next = claim.clone();
        next.spec.get_or_insert_default().storage_class_name = Some(class.name().to_owned());
        return plan.writes.push(Write::update(next));
    }
    let tell = |reason: &str, text: &str| PlannedEvent::new(claim, EventKind::Normal, reason, text);
    if waits && claim.annotation(volumes::SELECTED_NODE).is_none() {
        plan.events.push(match view.pods.as_slice() {
            [] => tell("WaitForFirstConsumer", "waiting for first consumer to be created before binding"),
            [pod] => tell("WaitForPodScheduled", &format!("waiting for pod {pod} to be scheduled")),
            pods => tell("WaitForPodScheduled", &format!("waiting for pods {} to be scheduled", pods.join(","))),
        });
    } else if !volumes::class_of_claim(claim).is_empty() {
        provision(view, plan);
    } else {
        let text = "no persistent volumes available for this claim and no storage class is set";
        plan.events.push(tell("FailedBinding", text));
    }
    pending(claim, plan);
}

/// `checkVolumeSatisfyClaim`
fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let attributes = |name: Option<&String>| name.cloned().unwrap_or_default();
    let own = attributes(volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref()));
    let why = if volume.is_deleting() {
        return Some(format!("the volume is marked for deletion {:?}", volume.name()));
    } else if !volumes::is_large_enough(volume, claim) {
        "requested PV is too small"
    } else if volumes::class_of_volume(volume) != volumes::class_of_claim(claim) {
        "storageClassName does not match"
    } else if own != attributes(claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_ref())) {
        "volumeAttributesClassName does not match"
    } else if volumes::modes_differ(claim, volume) {
        "incompatible volumeMode"
    } else if !volumes::offers_access(claim, volume) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.into())
}

/// `syncBoundClaim`
fn bound_claim(view: &ClaimView, plan: &mut Plan) {
    let claim = view.claim.as_ref();
    let (reason, text) = if volumes::volume_name(claim).is_empty() {
        ("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
    } else {
        let Some(volume) = view.volumes.first() else {
            return lose(
                claim,
                "ClaimLost",
                "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
                plan,
            );
        };
        match volumes::claim_ref(volume) {
            None => return bind(volume, claim, plan),
            Some(r) if r.uid.as_deref() == Some(claim.uid()) => return bind(volume, claim, plan),
            Some(_) => ("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly"),
        }
    };
    lose(claim, reason, text, plan);
}

fn lose(claim: &PersistentVolumeClaim, reason: &str, text: &str, plan: &mut Plan) {
    if let Some(mut write) = claim_status(claim, "Lost", None) {
        write.on_success = Some(PlannedEvent::new(claim, EventKind::Warning, reason, text));
        plan.writes.push(write);
    }
}

fn pending(claim: &PersistentVolumeClaim, plan: &mut Plan) {
    // A write to the claim itself makes this one's version old; its round will be another.
    if plan.writes.is_empty() {
        plan.writes.extend(claim_status(claim, "Pending", None));
    }
}

/// `updateClaimStatus`; nothing if it is so already.
fn claim_status(claim: &PersistentVolumeClaim, phase: &str, volume: Option<&PersistentVolume>) -> Option<Write> {
    let old = claim.status.clone().unwrap_or_default();
    let becomes = old.phase.as_deref() != Some(phase);
    let spec = volume.and_then(|v| v.spec.as_ref());
    let mut next = PersistentVolumeClaimStatus { phase: Some(phase.to_owned()), ..old.clone() };
    match spec {
        None => {
            next.access_modes = None;
            next.capacity = None;
            next.current_volume_attributes_class_name = None;
        }
        Some(spec) => {
            next.access_modes.clone_from(&spec.access_modes);
            // Later differences are a resize under way.
            if becomes {
                next.capacity.clone_from(&spec.capacity);
                next.current_volume_attributes_class_name.clone_from(&spec.volume_attributes_class_name);
            }
        }
    }
    (next != old).then(|| Write::status(PersistentVolumeClaim { status: Some(next), ..claim.clone() }))
}

/// `bind`: volume first, then claim; the status of both in the next round.
fn bind(volume: &PersistentVolume, claim: &PersistentVolumeClaim, plan: &mut Plan) {
    if let Some(next) = volumes::bound_to(volume, claim) {
        plan.writes.push(Write::update(next));
    }
    let mut next = claim.clone();
    let annotations = next.metadata.annotations.get_or_insert_default();
    if volumes::volume_name(claim) != volume.name() {
        annotations.entry(volumes::BOUND_BY_CONTROLLER.into()).or_insert_with(|| "yes".into());
        next.spec.get_or_insert_default().volume_name = Some(volume.name().to_owned());
    }
    next.metadata.annotations.get_or_insert_default().insert(volumes::BIND_COMPLETED.into(), "yes".into());
    if next != *claim {
        plan.writes.push(Write::update(next));
    }
    if plan.writes.is_empty() {
        plan.writes.extend(volume_phase(volume, "Bound", ""));
        plan.writes.extend(claim_status(claim, "Bound", Some(volume)));
    }
}

// === making volumes ===

/// `provisionClaim`
fn provision(view: &ClaimView, plan: &mut Plan) {
    let claim = view.claim.as_ref();
    let failed = |text: &str| PlannedEvent::new(claim, EventKind::Warning, "ProvisioningFailed", text);
    let Some(class) = &view.class else {
        let text = format!("storageclass.storage.k8s.io {:?} not found", volumes::class_of_claim(claim));
        return plan.events.push(failed(&text));
    };
    let name = class.provisioner.as_str();
    if name.starts_with("kubernetes.io/") {
        return plan.events.push(failed(&format!("no volume plugin matched name: {name}")));
    }
    let announced = |key: &str| claim.annotation(key) == Some(name);
    if !announced(volumes::PROVISIONER) || !announced(volumes::BETA_PROVISIONER) {
        let mut next = claim.clone();
        let annotations = next.metadata.annotations.get_or_insert_default();
        annotations.insert(volumes::PROVISIONER.into(), name.into());
        annotations.insert(volumes::BETA_PROVISIONER.into(), name.into());
        return plan.writes.push(Write::update(next));
    }
    if name != volumes::LOCAL_PROVISIONER {
        let text = format!(
            "Waiting for a volume to be created either by the external provisioner '{name}' or manually by the system \
             administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered."
        );
        return plan.events.push(PlannedEvent::new(claim, EventKind::Normal, "ExternalProvisioning", &text));
    }
    match local_volume(view, class) {
        Ok(volume) => {
            let text = format!("Successfully provisioned volume {} using {name}", volume.name());
            let mut write = Write::ensure(volume);
            write.on_success = Some(PlannedEvent::new(claim, EventKind::Normal, "ProvisioningSucceeded", &text));
            plan.writes.push(write);
        }
        Err(why) => {
            let text = format!("Failed to provision volume with StorageClass {:?}: {why}", class.name());
            plan.events.push(failed(&text));
            // The scheduler tries another node (`rescheduleProvisioning`).
            if claim.annotation(volumes::SELECTED_NODE).is_some() {
                let mut next = claim.clone();
                next.metadata.annotations.get_or_insert_default().remove(volumes::SELECTED_NODE);
                plan.writes.push(Write::update(next));
            }
        }
    }
}

/// A directory of the selected node.
fn local_volume(view: &ClaimView, class: &StorageClass) -> Result<PersistentVolume, String> {
    let claim = view.claim.as_ref();
    let spec = claim.spec.clone().unwrap_or_default();
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("block volumes are not supported".into());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err("claims with a data source are not supported".into());
    }
    let Some(node_name) = claim.annotation(volumes::SELECTED_NODE) else {
        return Err("a class of local volumes needs volumeBindingMode WaitForFirstConsumer".into());
    };
    let node = view.node.as_ref().ok_or_else(|| format!("node {node_name:?} not found"))?;
    let directory =
        node.annotation(NODE_DIRECTORY).ok_or_else(|| format!("node {node_name:?} keeps no local volumes"))?;
    let name = format!("pvc-{}", claim.uid());
    let host = NodeSelectorRequirement {
        key: HOSTNAME.into(),
        operator: "In".into(),
        values: Some(vec![node.label(HOSTNAME).unwrap_or(node_name).to_owned()]),
    };
    let term = NodeSelectorTerm { match_expressions: Some(vec![host]), match_fields: None };
    let pairs = [(volumes::PROVISIONED_BY, volumes::LOCAL_PROVISIONER), (volumes::BOUND_BY_CONTROLLER, "yes")];
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            annotations: Some(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes,
            capacity: spec.resources.and_then(|r| r.requests),
            claim_ref: Some(volumes::reference(claim)),
            local: Some(LocalVolumeSource {
                path: format!("{}/{name}", directory.trim_end_matches('/')),
                fs_type: None,
            }),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector { node_selector_terms: vec![term] }),
            }),
            persistent_volume_reclaim_policy: class.reclaim_policy.clone(),
            storage_class_name: Some(class.name().to_owned()),
            volume_mode: spec.volume_mode,
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

// === volumes ===

/// `updateVolumePhase`; nothing if it is so already.
fn volume_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Option<Write> {
    if volume.status.as_ref().and_then(|s| s.phase.as_deref()) == Some(phase) {
        return None;
    }
    let mut next = volume.clone();
    let status = next.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = Some(message.to_owned()).filter(|m| !m.is_empty());
    Some(Write::status(next))
}

/// `syncVolume`
fn sync_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>, plan: &mut Plan) {
    let uid = volumes::claim_ref(volume).and_then(|r| r.uid.as_deref()).unwrap_or_default();
    if uid.is_empty() {
        // Free, or reserved for a claim whose own round binds it.
        return plan.writes.extend(volume_phase(volume, "Available", ""));
    }
    let Some(claim) = claim.filter(|c| c.uid() == uid) else {
        return release(volume, plan);
    };
    let by_controller = volume.annotation(volumes::BOUND_BY_CONTROLLER).is_some();
    match volumes::volume_name(claim) {
        name if name == volume.name() => plan.writes.extend(volume_phase(volume, "Bound", "")),
        "" if volumes::modes_differ(claim, volume) => {
            let of_volume = format!(
                "Cannot bind PersistentVolume to requested PersistentVolumeClaim {:?} due to incompatible volumeMode.",
                claim.name()
            );
            let of_claim = format!(
                "Cannot bind PersistentVolume {:?} to requested PersistentVolumeClaim due to incompatible volumeMode.",
                volume.name()
            );
            plan.events.push(PlannedEvent::new(volume, EventKind::Warning, "VolumeMismatch", &of_volume));
            plan.events.push(PlannedEvent::new(claim, EventKind::Warning, "VolumeMismatch", &of_claim));
        }
        // The claim's own round goes on.
        "" => {}
        // The claim got another one. What was made for it is not needed; what was there before is free again.
        _ if volume.annotation(volumes::PROVISIONED_BY).is_some() && policy(volume) == "Delete" => {
            release(volume, plan)
        }
        _ => {
            let mut next = volume.clone();
            if by_controller {
                next.spec.get_or_insert_default().claim_ref = None;
                next.metadata.annotations.get_or_insert_default().remove(volumes::BOUND_BY_CONTROLLER);
            } else if let Some(r) = next.spec.as_mut().and_then(|s| s.claim_ref.as_mut()) {
                r.uid = None;
            }
            plan.writes.push(Write::update(next));
        }
    }
}

fn policy(volume: &PersistentVolume) -> &str {
    volume.spec.as_ref().and_then(|s| s.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

/// The claim is gone: `reclaimVolume`.
fn release(volume: &PersistentVolume, plan: &mut Plan) {
    let phase = volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    if phase != "Released" && phase != "Failed" {
        return plan.writes.push(Write::run(Release { volume: volume.clone() }));
    }
    let maker = volume.annotation(volumes::PROVISIONED_BY).unwrap_or_default();
    let is_csi = volume.spec.as_ref().is_some_and(|s| s.csi.is_some());
    let (reason, text) = match policy(volume) {
        "Retain" => return,
        "Delete" if maker == volumes::LOCAL_PROVISIONER => {
            if !volume.is_deleting() {
                plan.writes.push(Write::delete(volume));
            }
            return;
        }
        // Whoever made it deletes it.
        "Delete" if is_csi || (!maker.is_empty() && !maker.starts_with("kubernetes.io/")) => return,
        "Delete" => {
            let name = volume.name();
            let text =
                format!("error getting deleter volume plugin for volume {name:?}: no deletable volume plugin matched");
            ("VolumeFailedDelete", text)
        }
        "Recycle" => ("VolumeFailedRecycle", "No recycler plugin found for the volume!".to_owned()),
        _ => ("VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy".to_owned()),
    };
    if let Some(mut write) = volume_phase(volume, "Failed", &text) {
        write.on_success = Some(PlannedEvent::new(volume, EventKind::Warning, reason, &text));
        plan.writes.push(write);
    }
}

/// Says that a volume is released, unless the server knows the claim that the cache does not show (yet).
struct Release {
    volume: PersistentVolume,
}

#[async_trait]
impl Task for Release {
    fn title(&self) -> String {
        format!("release PersistentVolume {}", self.volume.name())
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let reference = volumes::claim_ref(&self.volume).cloned().unwrap_or_default();
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let api = client.api::<PersistentVolumeClaim>();
        let claim = api.find(&text(&reference.namespace), &text(&reference.name)).await?;
        let holds = |claim: &PersistentVolumeClaim| {
            let name = volumes::volume_name(claim);
            claim.uid() == text(&reference.uid) && (name.is_empty() || name == self.volume.name())
        };
        if claim.as_ref().is_some_and(holds) {
            return Ok(Done::again(CATCH_UP));
        }
        let mut next = self.volume.clone();
        next.status.get_or_insert_default().phase = Some("Released".into());
        client.api::<PersistentVolume>().update_status(&next).await?;
        Ok(Done::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn claim(fields: Value) -> Arc<PersistentVolumeClaim> {
        let mut value = json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Pending"},
        });
        merge(&mut value, fields);
        object(value)
    }

    fn volume(fields: Value) -> Arc<PersistentVolume> {
        let mut value = json!({
            "metadata": {"name": "v"},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}, "persistentVolumeReclaimPolicy": "Retain"},
            "status": {"phase": "Available"},
        });
        merge(&mut value, fields);
        object(value)
    }

    fn class(fields: Value) -> Arc<StorageClass> {
        let mut value = json!({
            "metadata": {"name": "local", "annotations": {volumes::DEFAULT_CLASS: "true"}}, "provisioner": "dhow.dev/local",
            "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
        });
        merge(&mut value, fields);
        object(value)
    }

    fn view(claim: &Arc<PersistentVolumeClaim>, volumes: &[&Arc<PersistentVolume>]) -> ClaimView {
        let volumes = volumes.iter().map(|v| (*v).clone()).collect();
        ClaimView { claim: claim.clone(), volumes, class: None, default_class: None, pods: Vec::new(), node: None }
    }

    fn check_claim(view: ClaimView, expected: Expect) {
        expected.assert_eq(&show(&VolumeBinder::plan(&View::Claim(Box::new(view)), at(0))));
    }

    fn check_volume(volume: Arc<PersistentVolume>, claim: Option<Arc<PersistentVolumeClaim>>, expected: Expect) {
        expected.assert_eq(&show(&VolumeBinder::plan(&View::Volume { volume, claim }, at(0))));
    }

    const REF: &str = r#"{"spec": {"claimRef": {"name": "c", "namespace": "ns", "uid": "u"}}}"#;

    fn reserved() -> Value {
        serde_json::from_str(REF).expect("a literal")
    }

    #[test]
    fn a_claim_gets_a_volume_in_two_rounds() {
        let open = claim(json!({}));
        check_claim(
            view(&open, &[&volume(json!({}))]),
            expect![[r#"
            update PersistentVolume v
            update PersistentVolumeClaim ns/c
        "#]],
        );
        let done =
            claim(json!({"metadata": {"annotations": {volumes::BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}}));
        check_claim(
            view(&done, &[&volume(reserved())]),
            expect![[r#"
            status PersistentVolume v {"phase":"Bound"}
            status PersistentVolumeClaim ns/c {"accessModes":["ReadWriteOnce"],"capacity":{"storage":"2Gi"},"phase":"Bound"}
        "#]],
        );
    }

    #[test]
    fn a_claim_without_volume_says_what_it_waits_for() {
        check_claim(
            view(&claim(json!({"status": {"phase": ""}})), &[]),
            expect![[r#"
            event Normal FailedBinding: no persistent volumes available for this claim and no storage class is set
            status PersistentVolumeClaim ns/c {"phase":"Pending"}
        "#]],
        );
        let with_default = ClaimView { default_class: Some(class(json!({}))), ..view(&claim(json!({})), &[]) };
        check_claim(
            with_default,
            expect![[r#"
            update PersistentVolumeClaim ns/c
        "#]],
        );
        let waiting = claim(json!({"spec": {"storageClassName": "local"}}));
        let one = ClaimView { class: Some(class(json!({}))), pods: vec!["p".into()], ..view(&waiting, &[]) };
        check_claim(
            one,
            expect![[r#"
            event Normal WaitForPodScheduled: waiting for pod p to be scheduled
        "#]],
        );
        let wanted = claim(json!({"spec": {"volumeName": "v"}}));
        check_claim(
            view(&wanted, &[&volume(json!({"spec": {"capacity": {"storage": "1Mi"}}}))]),
            expect![[r#"
            event Warning VolumeMismatch: Cannot bind to requested volume "v": requested PV is too small
        "#]],
        );
    }

    #[test]
    fn a_bound_claim_that_lost_its_volume_is_lost() {
        let done = claim(
            json!({"metadata": {"annotations": {volumes::BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}}),
        );
        check_claim(
            view(&done, &[]),
            expect![[r#"
            status PersistentVolumeClaim ns/c {"phase":"Lost"} -> ClaimLost Bound claim has lost its PersistentVolume. Data on the volume is lost!
        "#]],
        );
        let other = volume(json!({"spec": {"claimRef": {"name": "c", "namespace": "ns", "uid": "other"}}}));
        check_claim(
            view(&done, &[&other]),
            expect![[r#"
            status PersistentVolumeClaim ns/c {"phase":"Lost"} -> ClaimMisbound Two claims are bound to the same volume, this one is bound incorrectly
        "#]],
        );
    }

    #[test]
    fn a_local_volume_is_made_on_the_selected_node() {
        let annotations = json!({volumes::SELECTED_NODE: "n", volumes::PROVISIONER: "dhow.dev/local", volumes::BETA_PROVISIONER: "dhow.dev/local"});
        let wanted = claim(json!({"metadata": {"annotations": annotations}, "spec": {"storageClassName": "local"}}));
        let node = object(
            json!({"metadata": {"name": "n", "labels": {HOSTNAME: "host"}, "annotations": {NODE_DIRECTORY: "/data/volumes"}}}),
        );
        let full = ClaimView { class: Some(class(json!({}))), node: Some(node), ..view(&wanted, &[]) };
        let made = local_volume(&full, full.class.as_ref().expect("set above")).expect("all is there");
        let text = String::from_utf8(api::AnyObject::encode(&made)).expect("JSON is text");
        expect![[r#"{"apiVersion":"v1","kind":"PersistentVolume","metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":"yes","pv.kubernetes.io/provisioned-by":"dhow.dev/local"},"name":"pvc-u"},"spec":{"accessModes":["ReadWriteOnce"],"capacity":{"storage":"1Gi"},"claimRef":{"apiVersion":"v1","kind":"PersistentVolumeClaim","name":"c","namespace":"ns","uid":"u"},"local":{"path":"/data/volumes/pvc-u"},"nodeAffinity":{"required":{"nodeSelectorTerms":[{"matchExpressions":[{"key":"kubernetes.io/hostname","operator":"In","values":["host"]}]}]}},"persistentVolumeReclaimPolicy":"Delete","storageClassName":"local"}}"#]].assert_eq(&text);
        check_claim(
            full,
            expect![[r#"
            create PersistentVolume pvc-u -> ProvisioningSucceeded Successfully provisioned volume pvc-u using dhow.dev/local
        "#]],
        );
        let lost = ClaimView { class: Some(class(json!({}))), ..view(&wanted, &[]) };
        check_claim(
            lost,
            expect![[r#"
            event Warning ProvisioningFailed: Failed to provision volume with StorageClass "local": node "n" not found
            update PersistentVolumeClaim ns/c
        "#]],
        );
    }

    #[test]
    fn a_volume_whose_claim_is_gone_is_released_and_reclaimed() {
        check_volume(volume(json!({})), None, expect![]);
        check_volume(
            volume(json!({"status": {"phase": "Pending"}})),
            None,
            expect![[r#"
            status PersistentVolume v {"phase":"Available"}
        "#]],
        );
        check_volume(
            volume(reserved()),
            None,
            expect![[r#"
                release PersistentVolume v
            "#]],
        );
        let mut deletable = reserved();
        merge(
            &mut deletable,
            json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}, "status": {"phase": "Released"}}),
        );
        check_volume(
            volume(deletable.clone()),
            None,
            expect![[r#"
            status PersistentVolume v {"message":"error getting deleter volume plugin for volume \"v\": no deletable volume plugin matched","phase":"Failed"} -> VolumeFailedDelete error getting deleter volume plugin for volume "v": no deletable volume plugin matched
        "#]],
        );
        merge(&mut deletable, json!({"metadata": {"annotations": {volumes::PROVISIONED_BY: "dhow.dev/local"}}}));
        check_volume(
            volume(deletable),
            None,
            expect![[r#"
            delete PersistentVolume v
        "#]],
        );
    }

    #[test]
    fn a_volume_chosen_in_vain_is_free_again() {
        let elsewhere = claim(json!({"spec": {"volumeName": "other"}}));
        let mut chosen = reserved();
        merge(&mut chosen, json!({"metadata": {"annotations": {volumes::BOUND_BY_CONTROLLER: "yes"}}}));
        check_volume(
            volume(chosen),
            Some(elsewhere),
            expect![[r#"
            update PersistentVolume v
        "#]],
        );
    }
}
