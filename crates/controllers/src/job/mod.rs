//! Job: runs pods until enough of them have succeeded, or too many have failed.
//!
//! Watches   Job (self), Pod (by controller; orphans by selector; strays that still have our finalizer).
//! Writes    Pod create/delete, Pod finalizers and ownerReferences, Job/status.
//! Invariant a pod is counted exactly once: its UID stands in `uncountedTerminatedPods` before its finalizer goes, and the
//!           counters move only after the finalizer is gone.
//! Differs   from upstream (`pkg/controller/job/job_controller.go`): a round plans one step; back-off is computed from the
//!           pods that are there, not from memory; no Workload/PodGroup (alpha).

mod evaluate;
mod indexes;
mod manage;
mod policy;
mod track;

use crate::plan::{Key, Plan, Write};
use crate::pods;
use crate::run::{Context, Controller, Watches};
use api::k8s::api::batch::v1::{JobSpec, JobStatus};
use api::prelude::*;
use client::Patch;
use jiff::Timestamp;
use machinery::selector::LabelSelector;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const FINALIZER: &str = "batch.kubernetes.io/job-tracking";
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
pub(super) const INDEX_FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const INDEX_IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// Key prefix of a pod that has our finalizer and no Job. No name contains a slash.
const STRAY: &str = "pod/";

pub(crate) struct Jobs;

pub(crate) enum View {
    /// A Job, and the pods that it controls or that match its selector and have no controller.
    Job { job: Arc<Job>, pods: Vec<Arc<Pod>> },
    /// Pods that nobody counts any more but that still have the finalizer.
    Strays(Vec<Arc<Pod>>),
}

impl Controller for Jobs {
    const NAME: &'static str = "job-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<Job>();
        watches.owned::<Pod, Job>();
        watches.map::<Pod>(|ctx, change| without_controller(ctx, change.latest()));
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let cache = ctx.cache::<Pod>();
        if let Some(name) = key.name.strip_prefix(STRAY) {
            let pod = cache.get(&key.namespace, name).filter(|p| p.controller().is_none())?;
            return Some(View::Strays(vec![pod]));
        }
        let Some(job) = ctx.cache::<Job>().get(&key.namespace, &key.name) else {
            let mut strays = cache.list_in(&key.namespace);
            strays.retain(|p| p.controller().is_some_and(|c| c.kind == "Job" && c.name == key.name));
            return Some(View::Strays(strays));
        };
        let mut pods = cache.controlled_by(job.uid());
        if let Some(selector) = selector(&job) {
            let orphans = cache.list_in(&key.namespace).into_iter().filter(|p| p.controller().is_none());
            pods.extend(orphans.filter(|p| matches(&selector, p)));
        }
        Some(View::Job { job, pods })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        match view {
            View::Strays(pods) => plan.writes.extend(pods.iter().filter(|p| is_tracked(p)).map(|p| untrack(p))),
            View::Job { job, pods } => sync(job, pods, now, &mut plan),
        }
        plan
    }
}

/// `syncJob`.
fn sync(job: &Job, pods: &[Arc<Pod>], now: Timestamp, plan: &mut Plan) {
    let Some(spec) = &job.spec else { return };
    if spec.managed_by.as_deref().is_some_and(|m| m != "kubernetes.io/job-controller") {
        return;
    }
    if is_finished(job) {
        let ours = pods.iter().filter(|p| p.is_controlled_by(job.uid()) && is_tracked(p));
        plan.writes.extend(ours.map(|p| untrack(p)));
        return;
    }
    let Some(owned) = claim(job, pods, plan) else { return };
    let state = State::new(job, spec, owned, now);
    let found = evaluate::evaluate(&state, plan);
    let managed = manage::manage(&state, &found, plan);
    track::track(&state, found, managed, plan);
}

/// What is seen of a Job, counted.
pub(super) struct State<'a> {
    pub(super) job: &'a Job,
    pub(super) spec: &'a JobSpec,
    pub(super) status: JobStatus,
    pub(super) now: Timestamp,
    /// All pods it controls.
    pub(super) pods: Vec<&'a Pod>,
    /// Neither ended nor being deleted.
    pub(super) active: Vec<&'a Pod>,
    pub(super) ready: i32,
    /// Being deleted and not ended.
    pub(super) terminating: i32,
    pub(super) uncounted_succeeded: BTreeSet<String>,
    pub(super) uncounted_failed: BTreeSet<String>,
}

impl<'a> State<'a> {
    fn new(job: &'a Job, spec: &'a JobSpec, pods: Vec<&'a Pod>, now: Timestamp) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        let active: Vec<&Pod> = pods.iter().copied().filter(|p| pods::is_active(p)).collect();
        State {
            job,
            spec,
            now,
            ready: count(active.iter().filter(|p| pods::is_ready(p)).count()),
            terminating: count(pods.iter().filter(|p| p.is_deleting() && !pods::is_terminal(p)).count()),
            uncounted_succeeded: uncounted.succeeded.into_iter().flatten().collect(),
            uncounted_failed: uncounted.failed.into_iter().flatten().collect(),
            status,
            active,
            pods,
        }
    }

    pub(super) fn is_indexed(&self) -> bool {
        self.spec.completion_mode.as_deref() == Some("Indexed")
    }
    pub(super) fn is_suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }
    /// Wanted completions of an indexed Job.
    pub(super) fn completions(&self) -> usize {
        self.spec.completions.and_then(|c| usize::try_from(c).ok()).unwrap_or(0)
    }
    pub(super) fn per_index(&self) -> Option<i32> {
        self.spec.backoff_limit_per_index.filter(|_| self.is_indexed())
    }
    /// Terminating pods are not replaced before they have failed (`onlyReplaceFailedPods`).
    pub(super) fn replaces_only_failed(&self) -> bool {
        self.spec.pod_replacement_policy.as_deref() == Some("Failed") || self.spec.pod_failure_policy.is_some()
    }
    /// `isPodFailed`
    pub(super) fn has_failed(&self, pod: &Pod) -> bool {
        let gone = pod.is_deleting() && pods::phase(pod) != "Succeeded";
        pods::phase(pod) == "Failed" || (gone && !self.replaces_only_failed())
    }
    /// Its index, if that is one of this Job's.
    pub(super) fn index(&self, pod: &Pod) -> Option<usize> {
        index_of(pod).filter(|i| *i < self.completions())
    }
    /// Not counted yet, and to be counted (`getValidPodsWithFilter`).
    pub(super) fn counts(&self, pod: &Pod, uncounted: &BTreeSet<String>) -> bool {
        is_tracked(pod) && !uncounted.contains(pod.uid()) && (!self.is_indexed() || self.index(pod).is_some())
    }
    pub(super) fn condition(&self, kind: &str) -> Option<&api::k8s::api::batch::v1::JobCondition> {
        self.status.conditions.iter().flatten().find(|c| c.type_ == kind && c.status == "True")
    }
}

// === owning ===

/// The pods it controls. `None`: some were adopted or released first; look again then.
fn claim<'a>(job: &Job, pods: &'a [Arc<Pod>], plan: &mut Plan) -> Option<Vec<&'a Pod>> {
    let selector = selector(job)?;
    let mut owned = Vec::new();
    for pod in pods {
        match (pod.is_controlled_by(job.uid()), matches(&selector, pod)) {
            (true, true) => owned.push(pod.as_ref()),
            (true, false) if !job.is_deleting() && !pod.is_deleting() => {
                let patch = json!({"metadata": {
                    "uid": pod.uid(), "ownerReferences": [{"$patch": "delete", "uid": job.uid()}],
                    "$deleteFromPrimitiveList/finalizers": [FINALIZER],
                }});
                plan.writes.push(Write::patch(pod.as_ref(), "", Patch::Strategic(patch)));
            }
            (false, true) if !job.is_deleting() && pods::is_active(pod) && pod.controller().is_none() => {
                let owner = pods::controller_ref(job);
                let patch =
                    json!({"metadata": {"uid": pod.uid(), "ownerReferences": [owner], "finalizers": [FINALIZER]}});
                plan.writes.push(Write::patch(pod.as_ref(), "", Patch::Strategic(patch)));
            }
            _ => {}
        }
    }
    plan.writes.is_empty().then_some(owned)
}

/// Takes our finalizer off.
pub(super) fn untrack(pod: &Pod) -> Write {
    let patch = json!({"metadata": {"uid": pod.uid(), "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
    Write::patch(pod, "", Patch::Strategic(patch))
}

// === helpers ===

pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.has_finalizer(FINALIZER)
}

pub(super) fn index_of(pod: &Pod) -> Option<usize> {
    pod.annotation(INDEX)?.parse().ok()
}

pub(super) fn count(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// Complete or Failed is true.
pub(crate) fn is_finished(job: &Job) -> bool {
    let conditions = job.status.iter().flat_map(|s| s.conditions.iter().flatten());
    conditions.into_iter().any(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")
}

fn selector(job: &Job) -> Option<LabelSelector> {
    LabelSelector::from_api(job.spec.as_ref()?.selector.as_ref()).ok().filter(|s| !s.is_nothing())
}

fn matches(selector: &LabelSelector, pod: &Pod) -> bool {
    let empty = BTreeMap::new();
    selector.matches(pod.metadata.labels.as_ref().unwrap_or(&empty))
}

/// A pod without controller: Jobs that may want it, or itself if it still has our finalizer.
fn without_controller(ctx: &Context, pod: &Pod) -> Vec<Key> {
    if pod.controller().is_some() {
        return Vec::new();
    }
    let all = ctx.cache::<Job>().list_in(pod.namespace());
    let wanted = all.iter().filter(|j| !is_finished(j) && selector(j).is_some_and(|s| matches(&s, pod)));
    let mut keys: Vec<Key> = wanted.map(|j| Key::of(j.as_ref())).collect();
    if keys.is_empty() && is_tracked(pod) {
        keys.push(Key::new(pod.namespace(), &format!("{STRAY}{}", pod.name())));
    }
    keys
}

#[cfg(test)]
mod tests;
