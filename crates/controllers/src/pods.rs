//! Questions about pods that several controllers ask, and making pods from templates
//! (`pkg/api/v1/pod/util.go`, `pkg/controller/controller_utils.go`). Pure.

use crate::plan::{Plan, PlannedEvent, Write};
use api::meta::MetaExt;
use api::prelude::*;
use api::{OwnerReference, Time, k8s::api::core::v1::PodCondition};
use client::{EventKind, Patch};
use jiff::Timestamp;
use serde_json::json;
use std::time::Duration;

/// The condition of a type.
pub(crate) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// Its phase, or the empty string before the first status.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default()
}

/// Somebody, most likely the scheduler, said where it runs.
pub(crate) fn is_placed(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty())
}

/// Neither ended nor being deleted (`IsPodActive`).
pub(crate) fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !pod.is_deleting()
}

/// Ended for good (`IsPodTerminal`).
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// The Ready condition is true (`IsPodReady`).
pub(crate) fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// When it became ready, if it is.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    condition(pod, "Ready").filter(|c| c.status == "True")?.last_transition_time.as_ref().map(|t| t.0)
}

/// Ready for at least `min_ready_seconds` (`IsPodAvailable`); otherwise, if it is ready, how long until then.
pub(crate) fn available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Result<(), Option<Duration>> {
    if !is_ready(pod) {
        return Err(None);
    }
    if min_ready_seconds == 0 {
        return Ok(());
    }
    let Some(since) = ready_since(pod) else { return Err(None) };
    let left = i64::from(min_ready_seconds) - now.as_second().saturating_sub(since.as_second());
    if left <= 0 { Ok(()) } else { Err(Some(Duration::from_secs(left.unsigned_abs()))) }
}

/// Restarts of all containers; the most restarted one decides (`maxContainerRestarts`).
pub(crate) fn max_restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    statuses.into_iter().flatten().map(|c| c.restart_count).max().unwrap_or(0)
}

/// How it is told that a pod is deleted because of a taint: an event, and a condition of the pod.
pub(crate) struct Eviction<'a> {
    pub(crate) event: &'a str,
    pub(crate) text: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// Deletes a pod and says why (`addConditionAndDeletePod`).
pub(crate) fn evict(pod: &Pod, eviction: &Eviction<'_>, now: Timestamp, plan: &mut Plan) {
    plan.events.push(PlannedEvent::new(pod, EventKind::Normal, eviction.event, eviction.text));
    let condition = PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        reason: Some(eviction.reason.into()),
        message: Some(eviction.message.into()),
        last_transition_time: Some(Time(now)),
        ..PodCondition::default()
    };
    let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": [condition]}});
    plan.writes.push(Write::patch(pod, "status", Patch::Strategic(patch)));
    plan.writes.push(Write::delete(pod));
}

/// A controlling owner reference to `owner`.
pub(crate) fn controller_ref<K: Object>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: owner.name().to_owned(),
        uid: owner.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// A pod of `template`, controlled by `owner`, named by the server after `owner` (`GetPodFromTemplate`).
pub(crate) fn from_template<K: Object>(template: &PodTemplateSpec, owner: &K) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            namespace: Some(owner.namespace().to_owned()),
            generate_name: Some(format!("{}-", owner.name())),
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}
