//! AttachDetach: volumes of CSI drivers are attached to the nodes whose pods use them, and detached when none does any more
//! (`pkg/controller/volume/attachdetach`, `pkg/volume/csi/csi_attacher.go`).
//!
//! Watches   Pod, PersistentVolumeClaim, PersistentVolume, VolumeAttachment, Node, CSIDriver; each wakes the volumes it concerns.
//! Writes    VolumeAttachments, which the driver's external attacher fulfils, and `status.volumesAttached` of Nodes.
//! Invariant a volume is in `volumesAttached` only while it is attached and stays so; it is taken out by a write to the Node
//!           that fails if the node began to use it meanwhile, and only then its VolumeAttachment is deleted.
//! Differs   from upstream: one round per volume, so that two nodes cannot get an exclusive one; what is attached is read
//!           from VolumeAttachments and Nodes, not remembered.

use crate::plan::{Done, Key, Kinds, Plan, PlannedEvent, Seen, SeenUntil, Task, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::core::v1::{AttachedVolume, ContainerStatus};
use api::k8s::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec, VolumeAttachmentStatus,
};
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError, DeleteParams, EventKind};
use jiff::{SignedDuration, Timestamp};
use machinery::csi::{CsiVolume, is_exclusive};
use machinery::volumes;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// On a Node: its volumes are attached by this controller.
const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// How long an unhealthy node may keep a volume that no pod of it needs (`maxWaitForUnmountDuration`).
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(360);
/// How long the external attacher may take before somebody is told (`csiTimeout`).
const ATTACH_PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct AttachDetach;

/// One volume, and every node that has or wants it.
pub(crate) struct View {
    volume: CsiVolume,
    persistent: Option<Arc<PersistentVolume>>,
    attachable: bool,
    places: Vec<Place>,
}

/// One node's part of a [`View`].
#[derive(Default)]
struct Place {
    name: String,
    node: Option<Arc<Node>>,
    attachment: Option<Arc<VolumeAttachment>>,
    /// Pods of the node that want the volume.
    pods: Vec<Arc<Pod>>,
    unwanted_for: Duration,
}

/// Since when nobody wants a volume on a node.
#[derive(Default)]
struct Unwanted(Mutex<BTreeMap<(CsiVolume, String), Instant>>);

impl Unwanted {
    /// Notes who is wanted now, and how long the others have not been.
    fn update(&self, volume: &CsiVolume, places: &mut [Place]) {
        let now = Instant::now();
        let mut since = self.0.lock();
        since.retain(|(other, node), _| other != volume || places.iter().any(|p| p.name == *node && p.pods.is_empty()));
        for place in places.iter_mut().filter(|p| p.pods.is_empty()) {
            let begun = since.entry((volume.clone(), place.name.clone())).or_insert(now);
            place.unwanted_for = now.duration_since(*begun);
        }
    }
}

impl Controller for AttachDetach {
    const NAME: &'static str = "attachdetach-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<PersistentVolume>(|_, change| {
            [&change.old, &change.new].into_iter().flatten().filter_map(|v| CsiVolume::of(v)).map(key).collect()
        });
        watches.map::<PersistentVolumeClaim>(|ctx, change| {
            [&change.old, &change.new].into_iter().flatten().filter_map(|c| volume_of(ctx, c)).map(key).collect()
        });
        watches.map::<VolumeAttachment>(|ctx, change| {
            attached_volume(ctx, change.latest()).map(key).into_iter().collect()
        });
        watches.map::<Node>(|ctx, change| {
            let changed = match (&change.old, &change.new) {
                (Some(old), Some(new)) => facts(old) != facts(new),
                _ => true,
            };
            if changed { of_node(ctx, change.latest()) } else { Vec::new() }
        });
        watches.map::<Pod>(|ctx, change| {
            [&change.old, &change.new].into_iter().flatten().flat_map(|pod| of_pod(ctx, pod)).map(key).collect()
        });
        watches.map::<CSIDriver>(|ctx, change| {
            let all = ctx.cache::<PersistentVolume>().list();
            let volumes = all.iter().filter_map(|v| CsiVolume::of(v));
            volumes.filter(|v| v.driver == change.latest().name()).map(key).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let volume = CsiVolume::parse(&key.name)?;
        let all = ctx.cache::<PersistentVolume>().list();
        let persistent = all.into_iter().find(|v| CsiVolume::of(v).as_ref() == Some(&volume));
        let driver = ctx.cache::<CSIDriver>().get("", &volume.driver);
        let attachable = driver.is_none_or(|d| d.spec.attach_required != Some(false));
        let mut places = places(ctx, &volume, persistent.as_deref());
        ctx.shared::<Unwanted>().update(&volume, &mut places);
        Some(View { volume, persistent, attachable, places })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        view.places.iter().filter(|p| p.pods.is_empty()).for_each(|p| detach(view, p, &mut plan));
        if view.attachable
            && let Some(persistent) = &view.persistent
        {
            attach_all(view, persistent, now, &mut plan);
        }
        plan
    }
}

fn key(volume: CsiVolume) -> Key {
    Key::new("", &volume.unique_name())
}

// === what concerns which volumes ===

/// The CSI volume that a claim is bound to.
fn volume_of(ctx: &Context, claim: &PersistentVolumeClaim) -> Option<CsiVolume> {
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let name = Some(volumes::volume_name(claim)).filter(|n| bound && !n.is_empty())?;
    CsiVolume::of(ctx.cache::<PersistentVolume>().get("", name)?.as_ref())
}

fn of_pod(ctx: &Context, pod: &Pod) -> Vec<CsiVolume> {
    let claims = ctx.cache::<PersistentVolumeClaim>();
    let named = claims_of(pod).filter_map(|name| claims.get(pod.namespace(), &name));
    named.filter_map(|claim| volume_of(ctx, &claim)).collect()
}

fn claims_of(pod: &Pod) -> impl Iterator<Item = String> {
    let volumes = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    volumes.filter_map(|v| volumes::claim_of(pod, v)).map(|(name, _)| name)
}

/// What a VolumeAttachment attaches. Where its PersistentVolume is gone, its node may still tell.
fn attached_volume(ctx: &Context, attachment: &VolumeAttachment) -> Option<CsiVolume> {
    let node = attachment.spec.node_name.as_str();
    let known = || {
        let name = attachment.spec.source.persistent_volume_name.as_deref()?;
        CsiVolume::of(ctx.cache::<PersistentVolume>().get("", name)?.as_ref())
    };
    let told = || {
        let node = ctx.cache::<Node>().get("", node)?;
        attached(&node).filter_map(CsiVolume::parse).find(|v| v.attachment_name(node.name()) == attachment.name())
    };
    known().or_else(told)
}

fn attached(node: &Node) -> impl Iterator<Item = &str> {
    node.status.iter().flat_map(|s| s.volumes_attached.iter().flatten()).map(|v| v.name.as_str())
}

/// What of a node matters here.
fn facts(node: &Node) -> (Vec<&str>, Option<&Vec<String>>, bool, bool, bool) {
    let in_use = node.status.as_ref().and_then(|s| s.volumes_in_use.as_ref());
    (attached(node).collect(), in_use, is_healthy(node), is_out_of_service(node), is_managed(node))
}

/// Everything that is or should be attached to a node.
fn of_node(ctx: &Context, node: &Node) -> Vec<Key> {
    let attachments = ctx.cache::<VolumeAttachment>().list();
    let here = attachments.iter().filter(|a| a.spec.node_name == node.name());
    let mut keys: Vec<Key> = here.filter_map(|a| attached_volume(ctx, a)).map(key).collect();
    keys.extend(attached(node).filter_map(CsiVolume::parse).map(key));
    // Most clusters have none, and many pods.
    let any = !ctx.cache::<PersistentVolume>().is_empty();
    let pods = if any { ctx.cache::<Pod>().list() } else { Vec::new() };
    keys.extend(pods.iter().filter(|p| node_of(p) == node.name()).flat_map(|p| of_pod(ctx, p)).map(key));
    keys.sort();
    keys.dedup();
    keys
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

fn places(ctx: &Context, volume: &CsiVolume, persistent: Option<&PersistentVolume>) -> Vec<Place> {
    let mut places: BTreeMap<String, Place> = BTreeMap::new();
    let is_ours = |a: &VolumeAttachment| {
        a.spec.attacher == volume.driver
            && persistent.is_none_or(|v| a.spec.source.persistent_volume_name.as_deref() == Some(v.name()))
            && a.name() == volume.attachment_name(&a.spec.node_name)
    };
    for attachment in ctx.cache::<VolumeAttachment>().list().into_iter().filter(|a| is_ours(a)) {
        let node = attachment.spec.node_name.clone();
        places.entry(node).or_default().attachment = Some(attachment);
    }
    let nodes = ctx.cache::<Node>();
    let name = volume.unique_name();
    for node in nodes.list().into_iter().filter(|n| attached(n).any(|v| v == name)) {
        places.entry(node.name().to_owned()).or_default();
    }
    for pod in persistent.map(|v| users(ctx, v)).unwrap_or_default() {
        places.entry(node_of(&pod).to_owned()).or_default().pods.push(pod);
    }
    let complete = |(name, place): (String, Place)| Place { node: nodes.get("", &name), name, ..place };
    places.into_iter().map(complete).collect()
}

/// The pods on nodes that use a volume.
fn users(ctx: &Context, volume: &PersistentVolume) -> Vec<Arc<Pod>> {
    let Some(reference) = volumes::claim_ref(volume) else { return Vec::new() };
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (namespace, name) = (text(&reference.namespace), text(&reference.name));
    let claim = ctx.cache::<PersistentVolumeClaim>().get(&namespace, &name);
    let bound = claim.is_some_and(|c| {
        c.uid() == text(&reference.uid)
            && volumes::volume_name(&c) == volume.name()
            && c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound")
    });
    let uses = |pod: &Arc<Pod>| !node_of(pod).is_empty() && !is_over(pod) && claims_of(pod).any(|c| c == name);
    if bound { ctx.cache::<Pod>().list_in(&namespace).into_iter().filter(uses).collect() } else { Vec::new() }
}

/// Nothing of the pod runs any more (`IsPodTerminated`).
fn is_over(pod: &Pod) -> bool {
    let status = pod.status.clone().unwrap_or_default();
    let stands = |list: &Option<Vec<ContainerStatus>>| {
        let runs = |c: &ContainerStatus| c.state.as_ref().is_none_or(|s| s.terminated.is_none() && s.waiting.is_none());
        !list.iter().flatten().any(runs)
    };
    let lists = [&status.init_container_statuses, &status.container_statuses, &status.ephemeral_container_statuses];
    pods::is_terminal(pod) || (pod.is_deleting() && lists.into_iter().all(stands))
}

fn is_managed(node: &Node) -> bool {
    node.annotation(MANAGED).is_some()
}

fn is_healthy(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_out_of_service(node: &Node) -> bool {
    node.spec.iter().flat_map(|s| s.taints.iter().flatten()).any(|t| t.key == OUT_OF_SERVICE)
}

fn uses(node: &Node, volume: &str) -> bool {
    node.status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).any(|v| v == volume)
}

// === attaching ===

fn attach_all(view: &View, persistent: &PersistentVolume, now: Timestamp, plan: &mut Plan) {
    let mut taken: Vec<&Place> = view.places.iter().filter(|p| p.attachment.is_some()).collect();
    for place in view.places.iter().filter(|p| !p.pods.is_empty()) {
        match &place.attachment {
            Some(attachment) => follow(view, persistent, place, attachment, now, plan),
            None if !place.node.as_ref().is_some_and(|n| is_managed(n)) => {}
            None if is_exclusive(persistent) && !taken.is_empty() => {
                let text = |pod: &Pod| multi_attach(persistent, pod, &taken);
                tell(place, EventKind::Warning, "FailedAttachVolume", text, plan);
            }
            None => {
                plan.writes.push(Write::ensure(new_attachment(view, persistent, place)));
                taken.push(place);
            }
        }
    }
}

fn new_attachment(view: &View, persistent: &PersistentVolume, place: &Place) -> VolumeAttachment {
    VolumeAttachment {
        metadata: ObjectMeta { name: Some(view.volume.attachment_name(&place.name)), ..ObjectMeta::default() },
        spec: VolumeAttachmentSpec {
            attacher: view.volume.driver.clone(),
            node_name: place.name.clone(),
            source: VolumeAttachmentSource {
                inline_volume_spec: None,
                persistent_volume_name: Some(persistent.name().to_owned()),
            },
        },
        status: None,
    }
}

/// An attachment that is wanted: told of once it is there, and what keeps it from being there.
fn follow(
    view: &View,
    persistent: &PersistentVolume,
    place: &Place,
    attachment: &VolumeAttachment,
    now: Timestamp,
    plan: &mut Plan,
) {
    let status = attachment.status.clone().unwrap_or_default();
    let failed = |why: &str, plan: &mut Plan| {
        let text = format!("AttachVolume.Attach failed for volume {:?} : {why}", persistent.name());
        tell(place, EventKind::Warning, "FailedAttachVolume", |_| text.clone(), plan);
    };
    if attachment.is_deleting() {
        failed("volume attachment is being deleted", plan);
    } else if status.attached {
        let name = view.volume.unique_name();
        if place.node.as_ref().is_some_and(|n| !attached(n).any(|v| v == name)) {
            let text = format!("AttachVolume.Attach succeeded for volume {:?} ", persistent.name());
            tell(place, EventKind::Normal, "SuccessfulAttachVolume", |_| text.clone(), plan);
            plan.writes.push(Write::run(Attached { node: place.name.clone(), volume: name }));
        }
    } else if let VolumeAttachmentStatus { attach_error: Some(error), .. } = &status {
        failed(error.message.as_deref().unwrap_or_default(), plan);
    } else {
        let begun = attachment.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
        if now.duration_since(begun) >= SignedDuration::try_from(ATTACH_PATIENCE).unwrap_or_default() {
            let CsiVolume { driver, handle } = &view.volume;
            let why =
                format!("timed out waiting for external-attacher of {driver} CSI driver to attach volume {handle}");
            failed(&why, plan);
        }
        plan.again(ATTACH_PATIENCE);
    }
}

fn tell(place: &Place, kind: EventKind, reason: &str, text: impl Fn(&Pod) -> String, plan: &mut Plan) {
    plan.events.extend(place.pods.iter().map(|p| PlannedEvent::new(p.as_ref(), kind, reason, &text(p))));
}

/// `reportMultiAttachError`: nobody is told names of pods in other namespaces.
fn multi_attach(persistent: &PersistentVolume, pod: &Pod, taken: &[&Place]) -> String {
    let others: Vec<&Arc<Pod>> = taken.iter().flat_map(|p| &p.pods).collect();
    let (near, far): (Vec<&Arc<Pod>>, Vec<&Arc<Pod>>) =
        others.into_iter().partition(|other| other.namespace() == pod.namespace());
    let names: Vec<&str> = near.iter().map(|p| p.name()).collect();
    let elsewhere = format!("{} pod(s) in different namespaces", far.len());
    let text = match (names.is_empty(), far.is_empty()) {
        (true, true) => {
            "Volume is already exclusively attached to one node and can't be attached to another".to_owned()
        }
        (true, false) => format!("Volume is already used by {elsewhere}"),
        (false, true) => format!("Volume is already used by pod(s) {}", names.join(", ")),
        (false, false) => format!("Volume is already used by pod(s) {} and {elsewhere}", names.join(", ")),
    };
    format!("Multi-Attach error for volume {:?} {text}", persistent.name())
}

/// Tells a node that a volume is attached.
struct Attached {
    node: String,
    volume: String,
}

#[async_trait]
impl Task for Attached {
    fn title(&self) -> String {
        format!("report {} attached to {}", self.volume, self.node)
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let nodes = client.api::<Node>();
        let Some(mut node) = nodes.find("", &self.node).await? else { return Ok(Done::default()) };
        if attached(&node).any(|v| v == self.volume) {
            return Ok(Done::default());
        }
        let list = node.status.get_or_insert_default().volumes_attached.get_or_insert_default();
        list.push(AttachedVolume { device_path: String::new(), name: self.volume.clone() });
        Ok(shown(&nodes.update_status(&node).await?))
    }
}

fn shown(node: &Node) -> Done {
    Done {
        seen: vec![Seen { kind: Kinds::of::<Node>(), until: SeenUntil::Revision(node.revision()) }],
        again_after: None,
    }
}

// === detaching ===

/// A node that has the volume but no pod for it (`reconcile`).
fn detach(view: &View, place: &Place, plan: &mut Plan) {
    let volume = view.volume.unique_name();
    let listed = place.node.as_ref().is_some_and(|n| attached(n).any(|v| v == volume));
    let going = place.attachment.as_ref().is_none_or(|a| a.is_deleting());
    if going && !listed {
        return;
    }
    // A node that is gone cannot say that it uses nothing.
    let mounted = place.node.as_ref().is_none_or(|n| uses(n, &volume));
    let out_of_service = place.node.as_ref().is_some_and(|n| is_out_of_service(n));
    let expired = place.unwanted_for >= UNMOUNT_PATIENCE && !place.node.as_ref().is_some_and(|n| is_healthy(n));
    if mounted && !expired && !out_of_service {
        // What the node does is told by itself; only waiting ends without being told.
        return plan.again(UNMOUNT_PATIENCE.saturating_sub(place.unwanted_for).max(Duration::from_secs(1)));
    }
    plan.writes.push(Write::run(Detach {
        node: place.name.clone(),
        volume,
        attachment: place.attachment.clone().filter(|a| !a.is_deleting()),
        verify: !expired && !out_of_service,
    }));
}

/// Takes a volume out of a node's status, then deletes its attachment.
struct Detach {
    node: String,
    volume: String,
    attachment: Option<Arc<VolumeAttachment>>,
    /// Not if the node uses it.
    verify: bool,
}

#[async_trait]
impl Task for Detach {
    fn title(&self) -> String {
        format!("detach {} from {}", self.volume, self.node)
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let nodes = client.api::<Node>();
        let mut done = Done::default();
        if let Some(mut node) = nodes.find("", &self.node).await? {
            if self.verify && uses(&node, &self.volume) {
                // It will tell when that ends.
                return Ok(done);
            }
            let listed = attached(&node).any(|v| v == self.volume);
            if listed {
                let status = node.status.get_or_insert_default();
                let all = status.volumes_attached.take().unwrap_or_default();
                let rest: Vec<AttachedVolume> = all.into_iter().filter(|v| v.name != self.volume).collect();
                status.volumes_attached = Some(rest).filter(|r| !r.is_empty());
                done = shown(&nodes.update_status(&node).await?);
            }
        }
        let Some(attachment) = &self.attachment else { return Ok(done) };
        let params = DeleteParams::uid(attachment.uid());
        match client.api::<VolumeAttachment>().delete("", attachment.name(), &params).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
        let until = SeenUntil::Deleted { key: Key::of(attachment.as_ref()), uid: attachment.uid().to_owned() };
        done.seen.push(Seen { kind: Kinds::of::<VolumeAttachment>(), until });
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, pod, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    const VOLUME: &str = "kubernetes.io/csi/d^h";

    fn volume(mode: &str) -> Arc<PersistentVolume> {
        object(
            json!({"metadata": {"name": "v"}, "spec": {"accessModes": [mode], "csi": {"driver": "d", "volumeHandle": "h"}}}),
        )
    }

    fn node(name: &str, fields: Value) -> Arc<Node> {
        let mut node = json!({
            "metadata": {"name": name, "annotations": {MANAGED: "true"}},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        merge(&mut node, fields);
        object(node)
    }

    fn attachment(node: &str, fields: Value) -> Option<Arc<VolumeAttachment>> {
        let mut value = json!({
            "metadata": {"name": format!("of-{node}"), "uid": "a", "creationTimestamp": at(0).to_string()},
            "spec": {"attacher": "d", "nodeName": node, "source": {"persistentVolumeName": "v"}},
        });
        merge(&mut value, fields);
        Some(object(value))
    }

    fn place(name: &str, node: Value, attachment: Option<Arc<VolumeAttachment>>, pods: &[&str]) -> Place {
        let pods = pods.iter().map(|p| pod(p, json!({}))).collect();
        let node = Some(self::node(name, node));
        Place { name: name.into(), node, attachment, pods, unwanted_for: Duration::ZERO }
    }

    fn check(mode: &str, places: Vec<Place>, expected: Expect) {
        let volume = CsiVolume { driver: "d".into(), handle: "h".into() };
        let view = View { volume, persistent: Some(self::volume(mode)), attachable: true, places };
        let text = show(&AttachDetach::plan(&view, at(60)));
        // The name is a hash.
        let text = text.replace(&view.volume.attachment_name("n"), "csi-n");
        expected.assert_eq(&text);
    }

    #[test]
    fn a_wanted_volume_is_attached_and_told_of() {
        check("ReadWriteOnce", vec![place("n", json!({}), None, &["p"])], expect![["create VolumeAttachment csi-n\n"]]);
        check(
            "ReadWriteOnce",
            vec![place("n", json!({}), attachment("n", json!({})), &["p"])],
            expect![["again in 120s\n"]],
        );
        check(
            "ReadWriteOnce",
            vec![place("n", json!({}), attachment("n", json!({"status": {"attached": true}})), &["p"])],
            expect![[r#"
                event Normal SuccessfulAttachVolume: AttachVolume.Attach succeeded for volume "v" 
                report kubernetes.io/csi/d^h attached to n
            "#]],
        );
        let listed = json!({"status": {"volumesAttached": [{"name": VOLUME, "devicePath": ""}]}});
        check(
            "ReadWriteOnce",
            vec![place("n", listed, attachment("n", json!({"status": {"attached": true}})), &["p"])],
            expect![[""]],
        );
        let error = json!({"status": {"attached": false, "attachError": {"message": "no slot"}}});
        check(
            "ReadWriteOnce",
            vec![place("n", json!({}), attachment("n", error), &["p"])],
            expect![[r#"
                event Warning FailedAttachVolume: AttachVolume.Attach failed for volume "v" : no slot
            "#]],
        );
    }

    #[test]
    fn an_exclusive_volume_is_on_one_node_only() {
        let places = || {
            vec![
                place(
                    "m",
                    json!({}),
                    attachment("m", json!({"metadata": {"deletionTimestamp": at(1).to_string()}})),
                    &[],
                ),
                place("n", json!({}), None, &["p"]),
            ]
        };
        check(
            "ReadWriteOnce",
            places(),
            expect![[r#"
                event Warning FailedAttachVolume: Multi-Attach error for volume "v" Volume is already exclusively attached to one node and can't be attached to another
            "#]],
        );
        check("ReadWriteMany", places(), expect![["create VolumeAttachment csi-n\n"]]);
        check(
            "ReadWriteOncePod",
            vec![place("n", json!({}), None, &["a"]), place("o", json!({}), None, &["p"])],
            expect![[r#"
                event Warning FailedAttachVolume: Multi-Attach error for volume "v" Volume is already used by pod(s) a
                create VolumeAttachment csi-n
            "#]],
        );
    }

    #[test]
    fn an_unwanted_volume_is_detached_when_the_node_is_done_with_it() {
        let there = || attachment("n", json!({"status": {"attached": true}}));
        let in_use = json!({"status": {"volumesInUse": [VOLUME]}});
        check(
            "ReadWriteOnce",
            vec![place("n", json!({}), there(), &[])],
            expect![["detach kubernetes.io/csi/d^h from n\n"]],
        );
        check("ReadWriteOnce", vec![place("n", in_use.clone(), there(), &[])], expect![["again in 360s\n"]]);
        let mut out = in_use.clone();
        merge(&mut out, json!({"spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}}));
        check("ReadWriteOnce", vec![place("n", out, there(), &[])], expect![["detach kubernetes.io/csi/d^h from n\n"]]);
        let mut dead = in_use;
        merge(&mut dead, json!({"status": {"conditions": []}}));
        let late = Place { unwanted_for: UNMOUNT_PATIENCE, ..place("n", dead, there(), &[]) };
        check("ReadWriteOnce", vec![late], expect![["detach kubernetes.io/csi/d^h from n\n"]]);
    }

    #[test]
    fn pods_that_end_want_nothing() {
        let running = json!({"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}});
        let mut leaving = running.clone();
        merge(&mut leaving, json!({"metadata": {"deletionTimestamp": at(0).to_string()}}));
        assert!(!is_over(&pod("p", leaving)));
        let gone = json!({"metadata": {"deletionTimestamp": at(0).to_string()}, "status": {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0}}}]}});
        assert!(is_over(&pod("p", gone)) && !is_over(&pod("p", running)));
        assert!(is_over(&pod("p", json!({"status": {"phase": "Succeeded"}}))));
    }
}
