//! How many pods there should be: creates what is missing, deletes what is too much (`manageJob`). Pure.

use super::evaluate::{Finish, Found, Goal};
use super::{FINALIZER, INDEX, INDEX_FAILURES, INDEX_IGNORED, State, count, index_of, is_tracked, policy, untrack};
use crate::plan::{Plan, Write};
use crate::pods;
use crate::replicaset::deletion_order;
use api::k8s::api::core::v1::{Container, EnvVar, EnvVarSource, ObjectFieldSelector};
use api::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Creates or deletes of a round (`MaxPodCreateDeletePerSync`).
const BURST: usize = 500;
/// Longest generated prefix (`names.MaxGeneratedNameLength`).
const PREFIX_CHARS: usize = 58;

/// What there will be once the writes are done.
pub(super) struct Managed {
    pub(super) writes: Vec<Write>,
    pub(super) active: i32,
    pub(super) ready: i32,
    pub(super) terminating: i32,
    /// The end, if reached (now perhaps by completions).
    pub(super) finish: Option<Finish>,
    /// The last failed pods of indexes that wait for their replacement, which takes over their failure count.
    pub(super) delayed: BTreeMap<usize, String>,
}

pub(super) fn manage(state: &State<'_>, found: &Found, plan: &mut Plan) -> Managed {
    let delayed = delayed(state, found);
    let mut managed = Managed {
        writes: Vec::new(),
        active: count(state.active.len()),
        ready: state.ready,
        terminating: state.terminating,
        finish: found.finish.clone(),
        delayed: delayed.iter().map(|(i, p)| (*i, p.uid().to_owned())).collect(),
    };
    if managed.finish.is_some() {
        // The finalizers go with the counting.
        state.active.iter().for_each(|p| managed.delete(state, p, false));
        return managed;
    }
    if state.job.is_deleting() {
        return managed;
    }
    if state.is_suspended() {
        state.active.iter().for_each(|p| managed.delete(state, p, true));
    } else {
        scale(state, found, &delayed, &mut managed, plan);
    }
    let complete = match state.spec.completions {
        None => found.succeeded > 0 && managed.active == 0,
        Some(wanted) => found.succeeded >= wanted && managed.active == 0,
    };
    if complete {
        let message = "Reached expected number of succeeded pods";
        managed.finish = Some(Finish::new(Goal::Success, "CompletionsReached", message));
    }
    managed
}

impl Managed {
    fn delete(&mut self, state: &State<'_>, pod: &Pod, untracked: bool) {
        if untracked && is_tracked(pod) {
            self.writes.push(untrack(pod));
        }
        let deleted = format!("Deleted pod: {}", pod.name());
        self.writes.push(Write::delete(pod).telling(
            state.job,
            ("SuccessfulDelete", &deleted),
            ("FailedDelete", "Error deleting: {error}"),
        ));
        self.active -= 1;
        self.terminating += 1;
        self.ready -= i32::from(pods::is_ready(pod));
    }
}

fn scale(state: &State<'_>, found: &Found, delayed: &BTreeMap<usize, &Pod>, managed: &mut Managed, plan: &mut Plan) {
    let parallelism = state.spec.parallelism.unwrap_or(1);
    let wanted = match state.spec.completions {
        None if found.succeeded > 0 => managed.active,
        None => parallelism,
        Some(completions) => (completions - found.succeeded).clamp(0, parallelism.max(0)),
    };
    let surplus = usize::try_from(managed.active - wanted).unwrap_or(0);
    let removed = to_remove(state, surplus);
    if !removed.is_empty() {
        removed.into_iter().take(BURST).for_each(|p| managed.delete(state, p, true));
        return;
    }
    let held = if state.replaces_only_failed() { state.terminating } else { 0 };
    let missing = usize::try_from(wanted - held - managed.active).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    if state.per_index().is_none()
        && let Some(wait) = held_up(state)
    {
        plan.again(wait);
        return;
    }
    if !state.is_indexed() {
        (0..missing).for_each(|_| create(state, None, None, managed));
        return;
    }
    let pending = pending(state, found, missing);
    let wait = |i: &usize| {
        let last = delayed.get(i).filter(|_| state.per_index().is_some())?;
        let failures = failures(last, INDEX_FAILURES) + failures(last, INDEX_IGNORED) + 1;
        policy::remaining_after(usize::try_from(failures).unwrap_or(0), policy::finished_at(last)?, state.now)
    };
    let waits: Vec<(usize, Option<Duration>)> = pending.into_iter().map(|i| (i, wait(&i))).collect();
    waits.iter().filter_map(|(_, wait)| *wait).for_each(|wait| plan.again(wait));
    for (index, _) in waits.into_iter().filter(|(_, wait)| wait.is_none()) {
        create(state, Some(index), delayed.get(&index).copied(), managed);
    }
}

fn held_up(state: &State<'_>) -> Option<Duration> {
    let succeeded: Vec<&Pod> = state.pods.iter().copied().filter(|p| pods::phase(p) == "Succeeded").collect();
    let failed: Vec<&Pod> = state.pods.iter().copied().filter(|p| state.has_failed(p)).collect();
    policy::remaining(&succeeded, &failed, state.now)
}

/// `activePodsForRemoval`: pods without a good index and doubles always, then as many as are too much.
fn to_remove<'a>(state: &State<'a>, surplus: usize) -> Vec<&'a Pod> {
    let none = BTreeMap::new();
    let mut left = state.active.clone();
    left.sort_by(|a, b| deletion_order(a, b, &none));
    let mut removed = Vec::new();
    if state.is_indexed() {
        let mut kept = BTreeSet::new();
        // The best pod of an index stands last.
        let keep: Vec<bool> = left.iter().rev().map(|p| state.index(p).is_some_and(|i| kept.insert(i))).collect();
        let (stay, go): (Vec<_>, Vec<_>) = left.into_iter().zip(keep.into_iter().rev()).partition(|(_, keep)| *keep);
        removed = go.into_iter().map(|(p, _)| p).collect();
        left = stay.into_iter().map(|(p, _)| p).collect();
    }
    let more = surplus.saturating_sub(removed.len());
    removed.extend(left.into_iter().take(more));
    removed
}

/// The first indexes that nobody works on (`firstPendingIndexes`).
fn pending(state: &State<'_>, found: &Found, wanted: usize) -> Vec<usize> {
    let mut busy: BTreeSet<usize> = state.active.iter().filter_map(|p| index_of(p)).collect();
    if state.replaces_only_failed() {
        let terminating = state.pods.iter().filter(|p| p.is_deleting() && !pods::is_terminal(p));
        busy.extend(terminating.filter_map(|p| index_of(p)));
    }
    let free =
        |i: &usize| !found.done.has(*i) && !busy.contains(i) && !found.failed.as_ref().is_some_and(|f| f.has(*i));
    (0..state.completions()).filter(free).take(wanted).collect()
}

/// `getPodsWithDelayedDeletionPerIndex`
fn delayed<'a>(state: &State<'a>, found: &Found) -> BTreeMap<usize, &'a Pod> {
    let mut last: BTreeMap<usize, &Pod> = BTreeMap::new();
    if state.per_index().is_none() {
        return last;
    }
    let active: BTreeSet<usize> = state.active.iter().filter_map(|p| index_of(p)).collect();
    let rank = |p: &Pod| (failures(p, INDEX_FAILURES) + failures(p, INDEX_IGNORED), policy::finished_at(p));
    for pod in state.pods.iter().copied().filter(|p| is_tracked(p) && state.has_failed(p)) {
        let Some(index) = state.index(pod) else { continue };
        let settled = found.done.has(index) || found.failed.as_ref().is_some_and(|f| f.has(index));
        if !settled && !active.contains(&index) && last.get(&index).is_none_or(|l| rank(l) <= rank(pod)) {
            last.insert(index, pod);
        }
    }
    last
}

pub(super) fn failures(pod: &Pod, annotation: &str) -> i32 {
    pod.annotation(annotation).and_then(|v| v.parse().ok()).filter(|n| *n >= 0).unwrap_or(0)
}

fn create(state: &State<'_>, index: Option<usize>, replaced: Option<&Pod>, managed: &mut Managed) {
    let mut pod = pods::from_template(&state.spec.template, state.job);
    let finalizers = pod.metadata.finalizers.get_or_insert_default();
    if !finalizers.iter().any(|f| f == FINALIZER) {
        finalizers.push(FINALIZER.to_owned());
    }
    if let Some(index) = index {
        number(state, index, replaced, &mut pod);
    }
    managed.writes.push(Write::create(pod).telling(
        state.job,
        ("SuccessfulCreate", "Created pod: {name}"),
        ("FailedCreate", "Error creating: {error}"),
    ));
    managed.active += 1;
}

/// What makes a pod the one of its index: annotation, label, hostname, name and variable.
fn number(state: &State<'_>, index: usize, replaced: Option<&Pod>, pod: &mut Pod) {
    let name = state.job.name();
    let suffix = format!("-{index}-");
    let room = PREFIX_CHARS.saturating_sub(suffix.len()).min(name.len());
    pod.metadata.generate_name = Some(format!("{}{suffix}", name.get(..room).unwrap_or(name)));
    pod.metadata.labels.get_or_insert_default().insert(INDEX.to_owned(), index.to_string());
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.insert(INDEX.to_owned(), index.to_string());
    if state.per_index().is_some() {
        let (mut counted, mut ignored) = (0, 0);
        if let Some(last) = replaced {
            let skip = policy::judge(state.spec.pod_failure_policy.as_ref(), last).ignored;
            counted = failures(last, INDEX_FAILURES) + i32::from(!skip);
            ignored = failures(last, INDEX_IGNORED) + i32::from(skip);
        }
        annotations.insert(INDEX_FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(INDEX_IGNORED.to_owned(), ignored.to_string());
        }
    }
    let spec = pod.spec.get_or_insert_default();
    spec.hostname = Some(format!("{name}-{index}"));
    spec.init_containers.iter_mut().flatten().for_each(add_variable);
    spec.containers.iter_mut().for_each(add_variable);
}

fn add_variable(container: &mut Container) {
    const VARIABLE: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if !env.iter().any(|e| e.name == VARIABLE) {
        let field_path = format!("metadata.labels['{INDEX}']");
        let from = ObjectFieldSelector { api_version: None, field_path };
        let value_from = Some(EnvVarSource { field_ref: Some(from), ..EnvVarSource::default() });
        env.push(EnvVar { name: VARIABLE.to_owned(), value: None, value_from });
    }
}
