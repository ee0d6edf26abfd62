//! What is done about a decision, beside the loop: binding a pod (its volumes first), making room for one, noting why one
//! waits. A task tells how it ended; nothing here decides.

use crate::decide::{Preparation, Undo, Waiting};
use crate::devices::ClaimPlan;
use crate::preempt::Room;
use crate::reserve;
use crate::volumes::VolumePlan;
use api::k8s::api::core::v1::{Binding, ObjectReference};
use api::k8s::apimachinery::pkg::apis::meta::v1::Status;
use api::prelude::*;
use api::{Codec, ObjectMeta, Time};
use base::Clock;
use client::{Cache, Client, ClientError, DeleteParams, EventKind, Patch, Recorder};
use machinery::volumes;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The longest a single write may take. One that never ends must not keep a pod from being tried again.
pub(crate) const WRITE: Duration = Duration::from_secs(60);
/// How long volumes may take to be bound or made (`bindTimeoutSeconds`).
const VOLUMES: Duration = Duration::from_secs(600);
/// How long the cache may take to show that victims go.
const SEEN: Duration = Duration::from_secs(5);

/// How far a cache is.
pub(crate) type Moves = watch::Receiver<Option<u64>>;

/// What tasks work with. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tools {
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) clock: Arc<dyn Clock>,
}

/// How a task ended.
pub(crate) enum Done {
    /// A binding; the error's text.
    Bind(Result<(), String>),
    /// Whether the pod's waiting was noted and, if so planned, room made.
    Wait(Waiting, Result<(), String>),
    /// Nothing could be decided, which was noted.
    Fail,
}

pub(crate) async fn in_time<T>(write: impl Future<Output = Result<T, ClientError>>) -> Result<T, String> {
    match tokio::time::timeout(WRITE, write).await {
        Ok(done) => done.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {WRITE:?}")),
    }
}

/// Binds volumes, reserves devices and then binds the pod.
pub(crate) async fn bind(tools: Tools, pod: Arc<Pod>, node: String, plan: Arc<Preparation>) -> Done {
    // Claims that are made have a name afterwards.
    let mut claims = plan.claims.clone();
    let done = prepare_and_bind(&tools, &pod, &node, &plan, &mut claims).await;
    if done.is_err() {
        reserve::release(&tools, &pod, &claims).await;
    }
    Done::Bind(done)
}

async fn prepare_and_bind(
    tools: &Tools,
    pod: &Pod,
    node: &str,
    plan: &Preparation,
    claims: &mut ClaimPlan,
) -> Result<(), String> {
    let failed = |plugin: &str, error| format!("running PreBind plugin {plugin:?}: {error}");
    let done = bind_volumes(&tools.client, pod, node, &plan.volumes).await;
    done.map_err(|error| failed("VolumeBinding", error))?;
    let done = reserve::reserve(tools, pod, node, claims).await;
    done.map_err(|error| failed("DynamicResources", error))?;
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            kind: Some("Node".into()),
            name: Some(node.to_owned()),
            ..ObjectReference::default()
        },
    };
    let api = tools.client.api::<Pod>();
    let sent = api.post_subresource::<Status>(pod.namespace(), pod.name(), "binding", Codec::encode(&binding));
    let sent = in_time(sent).await.map(drop);
    if sent.is_ok() {
        let text = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
        tools.recorder.record(pod, EventKind::Normal, "Scheduled", &text);
    }
    sent.map_err(|error| format!("running Bind plugin \"DefaultBinder\": {error}"))
}

// === volumes ===

/// Reserves chosen volumes, asks for others to be made, and waits until all claims are bound (`BindPodVolumes`).
async fn bind_volumes(client: &Client, pod: &Pod, node: &str, plan: &VolumePlan) -> Result<(), String> {
    if plan.is_empty() {
        return Ok(());
    }
    let (claims, all) = (client.cache::<PersistentVolumeClaim>(), client.cache::<PersistentVolume>());
    for (volume, (namespace, name)) in &plan.bind {
        let (Some(volume), Some(claim)) = (all.get("", volume), claims.get(namespace, name)) else {
            return Err(format!("claim {namespace}/{name} or its volume is gone"));
        };
        if let Some(next) = volumes::bound_to(&volume, &claim) {
            let stored = in_time(client.api::<PersistentVolume>().update(&next)).await?;
            all.reached(stored.revision()).await;
        }
    }
    for (namespace, name) in &plan.provision {
        let Some(claim) = claims.get(namespace, name) else { return Err(format!("claim {namespace}/{name} is gone")) };
        let metadata = json!({"uid": claim.uid(), "resourceVersion": claim.metadata.resource_version,
            "annotations": {volumes::SELECTED_NODE: node}});
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let stored = in_time(client.api::<PersistentVolumeClaim>().patch(namespace, name, "", &patch)).await?;
        claims.reached(stored.revision()).await;
    }
    let bound = async {
        let (mut claim_moves, mut pod_moves) = (claims.revisions(), client.cache::<Pod>().revisions());
        while !are_bound(client, pod, node, plan)? {
            either(&mut claim_moves, &mut pod_moves).await;
        }
        Ok(())
    };
    match tokio::time::timeout(VOLUMES, bound).await {
        Ok(done) => done.map_err(|error: String| format!("binding volumes: {error}")),
        Err(_) => Err("binding volumes: context deadline exceeded".into()),
    }
}

/// `checkBindings`; an error means that the pod has to be decided about again.
fn are_bound(client: &Client, pod: &Pod, node: &str, plan: &VolumePlan) -> Result<bool, String> {
    let (claims, all) = (client.cache::<PersistentVolumeClaim>(), client.cache::<PersistentVolume>());
    still_there(&client.cache::<Pod>(), pod)?;
    let claim = |(namespace, name): &(String, String)| {
        let gone = || format!("failed to check binding: persistentvolumeclaim {name:?} not found");
        claims.get(namespace, name).ok_or_else(gone)
    };
    for (volume, key) in &plan.bind {
        let known = all.get("", volume);
        let known = known.ok_or_else(|| format!("failed to check binding: persistentvolume {volume:?} not found"))?;
        if volumes::claim_ref(&known).is_none_or(|r| r.uid.as_deref().unwrap_or_default().is_empty()) {
            return Err(format!("ClaimRef got reset for pv {volume:?}"));
        }
        if !volumes::is_fully_bound(&*claim(key)?) {
            return Ok(false);
        }
    }
    for key in &plan.provision {
        let claim = claim(key)?;
        if claim.annotation(volumes::SELECTED_NODE) != Some(node) {
            return Err(format!("provisioning failed for PVC {:?}", claim.name()));
        }
        if !volumes::is_fully_bound(&claim) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Waits until one of two caches moves. The client keeps its caches, so that neither ends while we wait.
pub(crate) async fn either(one: &mut Moves, other: &mut Moves) {
    tokio::select! { _ = one.changed() => {}, _ = other.changed() => {} }
}

/// There is no use in waiting for a pod that is gone.
pub(crate) fn still_there(pods: &Cache<Pod>, pod: &Pod) -> Result<(), String> {
    match pods.get(pod.namespace(), pod.name()) {
        Some(newest) if newest.uid() == pod.uid() => Ok(()),
        _ => Err(format!("pod does not exist any more: pod {:?} not found", pod.name())),
    }
}

// === waiting ===

/// Notes what is wrong.
pub(crate) async fn fail(tools: Tools, pod: Arc<Pod>, why: String) -> Done {
    if let Err(error) = note(&tools, &pod, ("SchedulerError", &why), None, false).await {
        tracing::debug!(pod = pod.name(), error, "failed to note what is wrong about a pod");
    }
    Done::Fail
}

/// Gives back devices and makes room, if that is planned, and notes why the pod waits.
pub(crate) async fn wait(tools: Tools, pod: Arc<Pod>, room: Option<Room>, waiting: Waiting) -> Done {
    let promise = room.as_ref().map(|room| room.node.clone());
    let noted = note(&tools, &pod, ("Unschedulable", &waiting.why), promise.as_deref(), waiting.ends_promise).await;
    let made = match room {
        Some(room) => make_room(&tools, &pod, &room).await,
        None => Ok(()),
    };
    let undone = match &waiting.undoes {
        Some(Undo::GiveBack(claim)) => reserve::give_back(&tools, claim).await,
        Some(Undo::Delete(claim)) => reserve::delete(&tools, claim).await,
        None => Ok(()),
    };
    Done::Wait(waiting, noted.and(made).and(undone))
}

/// `prepareCandidate`: who was promised the node and is less important loses the promise; victims are told why and deleted.
async fn make_room(tools: &Tools, pod: &Pod, room: &Room) -> Result<(), String> {
    let api = tools.client.api::<Pod>();
    for other in &room.disappointed {
        let patch = json!({"metadata": {"uid": other.uid()}, "status": {"nominatedNodeName": null}});
        let sent = in_time(api.patch(other.namespace(), other.name(), "status", &Patch::Merge(patch))).await;
        if let Err(error) = sent {
            tracing::debug!(pod = other.name(), %error, "failed to take a promise back");
        }
    }
    let pods = tools.client.cache::<Pod>();
    for victim in room.victims.iter().filter(|v| !v.is_deleting()) {
        match in_time(evict(tools, victim)).await? {
            Some(()) => {
                let text = format!("Preempted by pod {} on node {}", pod.uid(), room.node);
                tools.recorder.record(victim.as_ref(), EventKind::Normal, "Preempted", &text);
            }
            None => tracing::debug!(victim = victim.name(), "the victim is gone already"),
        }
    }
    // The next attempt must not choose again among pods that only look as if they stayed.
    let goes = |victim: &Pod| {
        pods.get(victim.namespace(), victim.name()).is_none_or(|p| p.uid() != victim.uid() || p.is_deleting())
    };
    let seen = all_seen(&pods, || room.victims.iter().all(|v| goes(v)));
    if tokio::time::timeout(SEEN, seen).await.is_err() {
        tracing::debug!("victims are deleted but the cache does not show it yet");
    }
    Ok(())
}

async fn all_seen(pods: &Cache<Pod>, seen: impl Fn() -> bool) {
    let mut moves = pods.revisions();
    while !seen() && moves.changed().await.is_ok() {}
}

/// `None`: it is gone already.
async fn evict(tools: &Tools, victim: &Pod) -> Result<Option<()>, ClientError> {
    let api = tools.client.api::<Pod>();
    let message = format!("{}: preempting to accommodate a higher priority pod", crate::run::NAME);
    let condition = json!({
        "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": message,
        "lastTransitionTime": Time(tools.clock.now()), "observedGeneration": victim.metadata.generation,
    });
    let patch = Patch::Strategic(json!({"metadata": {"uid": victim.uid()}, "status": {"conditions": [condition]}}));
    let params = DeleteParams { uid: Some(victim.uid().to_owned()), ..DeleteParams::default() };
    let done = async {
        api.patch(victim.namespace(), victim.name(), "status", &patch).await?;
        api.delete(victim.namespace(), victim.name(), &params).await
    };
    match done.await {
        Ok(()) => Ok(Some(())),
        // Gone, or another pod of the same name.
        Err(e) if e.is_not_found() || e.is_conflict() => Ok(None),
        Err(e) => Err(e),
    }
}

/// Event and status: the condition if it says something new, and the promised node.
pub(crate) async fn note(
    tools: &Tools,
    pod: &Pod,
    (reason, why): (&str, &str),
    promise: Option<&str>,
    ends_promise: bool,
) -> Result<(), String> {
    tools.recorder.record(pod, EventKind::Warning, "FailedScheduling", why);
    let Some(status) = news(pod, (reason, why), promise, ends_promise, Time(tools.clock.now())) else { return Ok(()) };
    let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid()}, "status": status}));
    let api = tools.client.api::<Pod>();
    match tokio::time::timeout(WRITE, api.patch(pod.namespace(), pod.name(), "status", &patch)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(e)) if e.is_not_found() || e.is_conflict() => Ok(()),
        Ok(Err(e)) => Err(e.to_string()),
        Err(_) => Err(format!("no answer within {WRITE:?}")),
    }
}

/// What of the status is new.
fn news(pod: &Pod, (reason, why): (&str, &str), promise: Option<&str>, ends_promise: bool, now: Time) -> Option<Value> {
    let mut status = json!({});
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let current = conditions.iter().find(|c| c.type_ == "PodScheduled");
    let known = |c: &api::k8s::api::core::v1::PodCondition| {
        c.status == "False" && c.reason.as_deref() == Some(reason) && c.message.as_deref() == Some(why)
    };
    if !current.is_some_and(known) {
        let since = current.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone()).unwrap_or(now);
        status["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": why, "lastTransitionTime": since,
            "observedGeneration": pod.metadata.generation,
        }]);
    }
    let promised = crate::pod::nominated(pod);
    match promise {
        Some(node) if node != promised => status["nominatedNodeName"] = node.into(),
        None if ends_promise && !promised.is_empty() => status["nominatedNodeName"] = Value::Null,
        _ => {}
    }
    status.as_object().is_some_and(|s| !s.is_empty()).then_some(status)
}
