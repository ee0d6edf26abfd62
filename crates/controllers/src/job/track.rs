//! Counting ended pods, and the status (`trackJobStatusAndRemoveFinalizers`). Pure.

use super::evaluate::{Finish, Found, Goal};
use super::manage::Managed;
use super::{State, count, is_tracked, policy, untrack};
use crate::plan::{Plan, PlannedEvent, Write};
use crate::pods;
use api::Time;
use api::k8s::api::batch::v1::{JobCondition, JobStatus};
use api::prelude::*;
use client::EventKind;
use std::collections::BTreeSet;

/// UIDs in the status at a time (`MaxUncountedPods`).
const MAX_UNCOUNTED: usize = 500;

/// Puts the writes in order: what is counted must be in the status before a finalizer goes.
pub(super) fn track(state: &State<'_>, found: Found, managed: Managed, plan: &mut Plan) {
    let mut status = state.status.clone();
    let mut events = Vec::new();
    if status.start_time.is_none() && !state.is_suspended() {
        status.start_time = Some(Time(state.now));
    }
    if managed.finish.is_none() && !state.job.is_deleting() {
        suspended(state, &mut status, &mut events);
    }
    status.active = Some(managed.active).filter(|n| *n != 0);
    status.ready = Some(managed.ready);
    status.terminating = Some(managed.terminating);
    move_counters(state, &mut status);
    let (untracked, reached_max) = count_ended(state, &found, &managed, &mut status);
    if state.is_indexed() {
        indexed(state, &found, &untracked, &mut status);
    }
    if let Some(finish) = &managed.finish {
        if finish.announced {
            let waits = reached_max || !untracked.is_empty() || managed.terminating > 0 || has_uncounted(&status);
            if !waits {
                enact(state, finish, &mut status, &mut events);
            }
        } else {
            let kind = if finish.goal == Goal::Success { "SuccessCriteriaMet" } else { "FailureTarget" };
            status.conditions.get_or_insert_default().push(condition(state, kind, finish));
        }
    }
    order(state, status, untracked, managed, events, plan);
}

fn order(
    state: &State<'_>,
    status: JobStatus,
    untracked: Vec<&Pod>,
    managed: Managed,
    mut events: Vec<PlannedEvent>,
    plan: &mut Plan,
) {
    let counts = |s: &JobStatus| {
        let lists = s.uncounted_terminated_pods.clone().unwrap_or_default();
        (s.conditions.clone(), s.succeeded, s.failed, s.completed_indexes.clone(), s.failed_indexes.clone(), lists)
    };
    let counted = counts(&status) != counts(&state.status);
    let write = (state.job.status.as_ref() != Some(&status)).then(|| {
        let mut write = Write::status(Job { status: Some(status), ..state.job.clone() });
        write.on_success = events.pop();
        write
    });
    plan.events.append(&mut events);
    let finalizers = untracked.into_iter().map(untrack);
    if counted {
        plan.writes.extend(write);
        plan.writes.extend(finalizers);
        plan.writes.extend(managed.writes);
    } else {
        // Only numbers of running pods: they go last, so that one write tells of them.
        plan.writes.extend(finalizers);
        plan.writes.extend(managed.writes);
        plan.writes.extend(write);
    }
}

/// `cleanUncountedPodsWithoutFinalizers`: UIDs whose finalizer is gone become numbers.
fn move_counters(state: &State<'_>, status: &mut JobStatus) {
    let tracked: BTreeSet<&str> = state.pods.iter().filter(|p| is_tracked(p)).map(|p| p.uid()).collect();
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let clean = |list: &mut Option<Vec<String>>, counter: &mut Option<i32>| {
        let all = list.take().unwrap_or_default();
        let before = all.len();
        let kept: Vec<String> = all.into_iter().filter(|uid| tracked.contains(uid.as_str())).collect();
        let gone = count(before - kept.len());
        if gone > 0 {
            *counter = Some(counter.unwrap_or(0) + gone);
        }
        *list = Some(kept).filter(|k| !k.is_empty());
    };
    clean(&mut uncounted.succeeded, &mut status.succeeded);
    clean(&mut uncounted.failed, &mut status.failed);
}

/// Lists pods that ended and were not counted. Returns those whose finalizer can go, and whether there are too many.
fn count_ended<'a>(
    state: &State<'a>,
    found: &Found,
    managed: &Managed,
    status: &mut JobStatus,
) -> (Vec<&'a Pod>, bool) {
    let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
    let mut untracked = Vec::new();
    let ends_badly = managed.finish.as_ref().is_some_and(|f| f.goal == Goal::Failure);
    let mut listed = 0;
    for pod in state.pods.iter().copied().filter(|p| is_tracked(p)) {
        let failed = state.has_failed(pod);
        let succeeded = pods::phase(pod) == "Succeeded";
        let delayed = state.index(pod).is_some_and(|i| managed.delayed.get(&i).is_some_and(|uid| uid == pod.uid()));
        let over = state.job.is_deleting() || managed.finish.is_some() || succeeded;
        if !(over || (failed && !delayed)) {
            continue;
        }
        untracked.push(pod);
        let in_failed = state.uncounted_failed.contains(pod.uid());
        if succeeded && !in_failed {
            if state.is_indexed() {
                listed += usize::from(state.index(pod).is_some_and(|i| !found.counted.has(i)));
            } else if !state.uncounted_succeeded.contains(pod.uid()) {
                uncounted.succeeded.get_or_insert_default().push(pod.uid().to_owned());
                listed += 1;
            }
        } else if (failed || ends_badly) && !in_failed && (!state.is_indexed() || state.index(pod).is_some()) {
            let ignored = policy::judge(state.spec.pod_failure_policy.as_ref(), pod).ignored;
            if !ignored {
                uncounted.failed.get_or_insert_default().push(pod.uid().to_owned());
                listed += 1;
            }
        }
        if listed >= MAX_UNCOUNTED {
            return (untracked, true);
        }
    }
    (untracked, false)
}

fn has_uncounted(status: &JobStatus) -> bool {
    status.uncounted_terminated_pods.as_ref().is_some_and(|u| u.succeeded.is_some() || u.failed.is_some())
}

fn indexed(state: &State<'_>, found: &Found, untracked: &[&Pod], status: &mut JobStatus) {
    let mut done = found.counted.clone();
    for pod in untracked.iter().filter(|p| pods::phase(p) == "Succeeded") {
        if let Some(index) = state.index(pod) {
            done.insert(index);
        }
    }
    status.succeeded = Some(count(done.total())).filter(|n| *n > 0);
    status.completed_indexes = Some(done.to_string()).filter(|s| !s.is_empty());
    status.failed_indexes = found.failed.as_ref().map(ToString::to_string);
}

fn suspended(state: &State<'_>, status: &mut JobStatus, events: &mut Vec<PlannedEvent>) {
    let old = status.conditions.iter().flatten().find(|c| c.type_ == "Suspended").map(|c| c.status == "True");
    let event = |reason, message| PlannedEvent::new(state.job, EventKind::Normal, reason, message);
    let (now, reason, message) = match (old, state.is_suspended()) {
        (Some(true), true) | (None | Some(false), false) => return,
        (_, true) => {
            events.push(event("Suspended", "Job suspended"));
            status.start_time = None;
            ("True", "JobSuspended", "Job suspended")
        }
        (Some(true), false) => {
            events.push(event("Resumed", "Job resumed"));
            status.start_time = Some(Time(state.now));
            ("False", "JobResumed", "Job resumed")
        }
    };
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|c| c.type_ != "Suspended");
    conditions.push(JobCondition {
        status: now.into(),
        ..condition(state, "Suspended", &Finish::new(Goal::Success, reason, message))
    });
}

/// `enactJobFinished` and `recordJobFinished`.
fn enact(state: &State<'_>, finish: &Finish, status: &mut JobStatus, events: &mut Vec<PlannedEvent>) {
    let kind = if finish.goal == Goal::Success { "Complete" } else { "Failed" };
    status.conditions.get_or_insert_default().push(condition(state, kind, finish));
    if finish.goal == Goal::Failure {
        events.push(PlannedEvent::new(state.job, EventKind::Warning, &finish.reason, &finish.message));
        return;
    }
    status.completion_time = Some(Time(state.now));
    if state.spec.completions.is_some_and(|c| status.succeeded.unwrap_or(0) > c) {
        let message = "Too many succeeded pods running after completion count reached";
        events.push(PlannedEvent::new(state.job, EventKind::Warning, "TooManySucceededPods", message));
    }
    events.push(PlannedEvent::new(state.job, EventKind::Normal, "Completed", "Job completed"));
}

fn condition(state: &State<'_>, kind: &str, finish: &Finish) -> JobCondition {
    JobCondition {
        last_probe_time: Some(Time(state.now)),
        last_transition_time: Some(Time(state.now)),
        message: Some(finish.message.clone()),
        reason: Some(finish.reason.clone()),
        status: "True".into(),
        type_: kind.into(),
    }
}
