//! What the Deployment says of itself: counts and conditions (`progress.go`, `sync.go` calculateStatus). Pure.

use super::{Sets, replicas, rollout, spec, wanted};
use crate::plan::{Plan, Write};
use api::Time;
use api::k8s::api::apps::v1::{DeploymentCondition, DeploymentStatus};
use api::meta::MetaExt;
use api::prelude::*;
use jiff::Timestamp;
use std::time::Duration;

const NEW_AVAILABLE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// Counts only; conditions are kept.
pub(super) fn calculate(d: &Deployment, set: &Sets<'_>) -> DeploymentStatus {
    let sum = |count: fn(&ReplicaSet) -> i32| set.all().map(count).sum::<i32>();
    let of = |rs: &ReplicaSet| rs.status.as_ref().map_or(0, |s| s.replicas);
    let total = sum(|rs| rs.status.as_ref().map_or(0, |s| s.replicas));
    let available = sum(super::available);
    let some = |n: i32| Some(n).filter(|n| *n != 0);
    let old = d.status.clone().unwrap_or_default();
    DeploymentStatus {
        observed_generation: d.metadata.generation,
        replicas: some(total),
        updated_replicas: some(set.new.map_or(0, of)),
        ready_replicas: some(sum(|rs| rs.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0))),
        available_replicas: some(available),
        // By what the ReplicaSets want, not by what they have made so far.
        unavailable_replicas: some((set.all().map(wanted).sum::<i32>() - available).max(0)),
        terminating_replicas: Some(sum(|rs| rs.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0))),
        collision_count: old.collision_count,
        conditions: old.conditions,
    }
}

/// Writes the status if it changed.
pub(super) fn sync(d: &Deployment, set: &Sets<'_>, now: Timestamp, plan: &mut Plan) {
    let mut status = calculate(d, set);
    let enough = status.available_replicas.unwrap_or(0) >= replicas(d) - rollout::max_unavailable(d);
    let availability = if enough {
        ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
    } else {
        ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
    };
    set_condition(&mut status, condition("Available", availability.0, availability.1, availability.2, now));
    if d.is_deleting() {
        write(d, status, plan);
        return;
    }
    progress(d, set, &mut status, now, plan);
    let failure =
        set.new.into_iter().chain(set.old.iter().copied()).find_map(|rs| {
            rs.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure").cloned()
        });
    match failure {
        Some(c) => {
            let text = |t: Option<String>| t.unwrap_or_default();
            let found = condition("ReplicaFailure", &c.status, &text(c.reason), &text(c.message), now);
            set_condition(&mut status, found);
        }
        None => remove_condition(&mut status, "ReplicaFailure"),
    }
    write(d, status, plan);
}

fn write(d: &Deployment, status: DeploymentStatus, plan: &mut Plan) {
    if d.status.as_ref() != Some(&status) {
        plan.writes.push(Write::status(Deployment { status: Some(status), ..d.clone() }));
    }
}

/// The Progressing condition: paused, resumed, progressing, done or too slow.
fn progress(d: &Deployment, set: &Sets<'_>, status: &mut DeploymentStatus, now: Timestamp, plan: &mut Plan) {
    let Some(deadline) = spec(d).progress_deadline_seconds.filter(|s| *s != i32::MAX) else {
        remove_condition(status, "Progressing");
        return;
    };
    let current = find(status, "Progressing").cloned();
    let reason = current.as_ref().and_then(|c| c.reason.clone()).unwrap_or_default();
    if spec(d).paused == Some(true) {
        // A rollout that failed before keeps saying so.
        if reason != "DeploymentPaused" && reason != TIMED_OUT {
            set_condition(status, condition("Progressing", "Unknown", "DeploymentPaused", "Deployment is paused", now));
        }
        return;
    }
    if reason == "DeploymentPaused" {
        set_condition(status, condition("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed", now));
        return;
    }
    let name = set.new.map_or_else(|| format!("Deployment {:?}", d.name()), |rs| format!("ReplicaSet {:?}", rs.name()));
    if status.replicas == status.updated_replicas && reason == NEW_AVAILABLE {
        return;
    }
    if is_complete(d, status) {
        let text = format!("{name} has successfully progressed.");
        set_condition(status, condition("Progressing", "True", NEW_AVAILABLE, &text, now));
    } else if has_progressed(d, status) {
        let mut next = condition("Progressing", "True", "ReplicaSetUpdated", &format!("{name} is progressing."), now);
        if let Some(current) = current.filter(|c| c.status == "True") {
            next.last_transition_time = current.last_transition_time;
        }
        remove_condition(status, "Progressing");
        set_condition(status, next);
    } else if let Some(current) = current.filter(|_| reason != NEW_AVAILABLE && reason != TIMED_OUT) {
        let since = current.last_update_time.map_or(now, |t| t.0);
        let left = i64::from(deadline) - now.duration_since(since).as_secs();
        if left < 0 {
            let text = format!("{name} has timed out progressing.");
            set_condition(status, condition("Progressing", "False", TIMED_OUT, &text, now));
        } else {
            plan.again(Duration::from_secs(left.unsigned_abs() + 1));
        }
    }
}

/// The condition that a new ReplicaSet was made, at once and not only when the cache shows it.
pub(super) fn note_new(d: &Deployment, name: &str, now: Timestamp, plan: &mut Plan) {
    if spec(d).progress_deadline_seconds.is_none_or(|s| s == i32::MAX) {
        return;
    }
    let mut status = d.status.clone().unwrap_or_default();
    let text = format!("Created new replica set {name:?}");
    set_condition(&mut status, condition("Progressing", "True", "NewReplicaSetCreated", &text, now));
    write(d, status, plan);
}

/// `DeploymentComplete`
pub(super) fn is_complete(d: &Deployment, status: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    n(status.updated_replicas) == replicas(d)
        && n(status.replicas) == replicas(d)
        && n(status.available_replicas) == replicas(d)
        && status.observed_generation >= d.metadata.generation
}

/// `DeploymentProgressing`
fn has_progressed(d: &Deployment, status: &DeploymentStatus) -> bool {
    let old = d.status.clone().unwrap_or_default();
    let n = |count: Option<i32>| count.unwrap_or(0);
    n(status.updated_replicas) > n(old.updated_replicas)
        || n(status.replicas) - n(status.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(status.ready_replicas) > n(old.ready_replicas)
        || n(status.available_replicas) > n(old.available_replicas)
}

fn condition(kind: &str, status: &str, reason: &str, message: &str, now: Timestamp) -> DeploymentCondition {
    // Kubernetes' times have whole seconds.
    let now = Timestamp::from_second(now.as_second()).unwrap_or(now);
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    }
}

fn find<'a>(status: &'a DeploymentStatus, kind: &str) -> Option<&'a DeploymentCondition> {
    status.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// `SetDeploymentCondition`: nothing if status and reason are the same; the transition time moves with the status.
fn set_condition(status: &mut DeploymentStatus, mut next: DeploymentCondition) {
    if let Some(current) = find(status, &next.type_) {
        if current.status == next.status && current.reason == next.reason {
            return;
        }
        if current.status == next.status {
            next.last_transition_time.clone_from(&current.last_transition_time);
        }
    }
    remove_condition(status, &next.type_);
    status.conditions.get_or_insert_default().push(next);
}

fn remove_condition(status: &mut DeploymentStatus, kind: &str) {
    if let Some(conditions) = status.conditions.as_mut() {
        conditions.retain(|c| c.type_ != kind);
    }
}
