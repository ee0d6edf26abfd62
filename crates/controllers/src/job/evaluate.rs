//! Has the Job come to its end, and which? (`syncJob`, the evaluation of finish criteria.) Pure.

use super::indexes::Indexes;
use super::{State, count, index_of, is_tracked, policy};
use crate::plan::Plan;
use crate::pods;
use api::prelude::*;
use jiff::SignedDuration;
use std::time::Duration;

/// Where the Job is going.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Goal {
    /// `FailureTarget`, then `Failed`.
    Failure,
    /// `SuccessCriteriaMet`, then `Complete`.
    Success,
}

/// Why it ends.
#[derive(Debug, Clone)]
pub(super) struct Finish {
    pub(super) goal: Goal,
    pub(super) reason: String,
    pub(super) message: String,
    /// The interim condition is in the status already.
    pub(super) announced: bool,
}

impl Finish {
    pub(super) fn new(goal: Goal, reason: &str, message: &str) -> Self {
        Finish { goal, reason: reason.to_owned(), message: message.to_owned(), announced: false }
    }
}

/// What was found.
pub(super) struct Found {
    pub(super) finish: Option<Finish>,
    pub(super) succeeded: i32,
    /// Indexes that the status has.
    pub(super) counted: Indexes,
    /// Those and the ones of pods not counted yet.
    pub(super) done: Indexes,
    /// Failed indexes, with a limit per index.
    pub(super) failed: Option<Indexes>,
}

pub(super) fn evaluate(state: &State<'_>, plan: &mut Plan) -> Found {
    let succeeded = state.pods.iter().filter(|p| pods::phase(p) == "Succeeded");
    let newly_succeeded = succeeded.filter(|p| state.counts(p, &state.uncounted_succeeded)).count();
    let newly_failed = state.pods.iter().filter(|p| state.has_failed(p) && state.counts(p, &state.uncounted_failed));
    let policy = state.spec.pod_failure_policy.as_ref();
    let newly_failed = newly_failed.filter(|p| !policy::judge(policy, p).ignored).count();
    let mut found = Found {
        finish: announced(state),
        succeeded: state.status.succeeded.unwrap_or(0) + count(newly_succeeded + state.uncounted_succeeded.len()),
        counted: Indexes::default(),
        done: Indexes::default(),
        failed: None,
    };
    let failed = state.status.failed.unwrap_or(0) + count(newly_failed + state.uncounted_failed.len());
    if found.finish.is_none() {
        let failing = state.pods.iter().filter(|p| state.has_failed(p));
        let message = failing.into_iter().find_map(|p| policy::judge(policy, p).fails_job);
        found.finish = message.map(|m| Finish::new(Goal::Failure, "PodFailurePolicy", &m));
    }
    if found.finish.is_none() {
        found.finish = limits(state, failed, plan);
    }
    if state.is_indexed() {
        indexed(state, &mut found);
    }
    found
}

/// An end that an earlier round decided.
fn announced(state: &State<'_>) -> Option<Finish> {
    let of = |kind, goal| {
        let c = state.condition(kind)?;
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        Some(Finish { announced: true, ..Finish::new(goal, &text(&c.reason), &text(&c.message)) })
    };
    of("SuccessCriteriaMet", Goal::Success).or_else(|| of("FailureTarget", Goal::Failure))
}

/// `backoffLimit` and `activeDeadlineSeconds`.
fn limits(state: &State<'_>, failed: i32, plan: &mut Plan) -> Option<Finish> {
    let limit = state.spec.backoff_limit.unwrap_or(6);
    if failed > limit || too_many_restarts(state, limit) {
        let message = "Job has reached the specified backoff limit";
        return Some(Finish::new(Goal::Failure, "BackoffLimitExceeded", message));
    }
    let seconds = state.spec.active_deadline_seconds.filter(|_| !state.is_suspended())?;
    let since = state.status.start_time.as_ref().map_or(state.now, |t| t.0);
    let left = SignedDuration::from_secs(seconds).saturating_sub(state.now.duration_since(since));
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => {
            plan.again(left);
            None
        }
        _ => Some(Finish::new(Goal::Failure, "DeadlineExceeded", "Job was active longer than specified deadline")),
    }
}

/// `pastBackoffLimitOnFailure`
fn too_many_restarts(state: &State<'_>, limit: i32) -> bool {
    let policy = state.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
    if policy != Some("OnFailure") {
        return false;
    }
    let running = state.pods.iter().filter(|p| matches!(pods::phase(p), "Running" | "Pending"));
    let restarts: i32 = running
        .flat_map(|p| p.status.iter())
        .flat_map(|s| s.container_statuses.iter().flatten().chain(s.init_container_statuses.iter().flatten()))
        .map(|c| c.restart_count)
        .sum();
    if limit == 0 { restarts > 0 } else { restarts >= limit }
}

/// Completed and failed indexes, `maxFailedIndexes` and the success policy.
fn indexed(state: &State<'_>, found: &mut Found) {
    let completions = state.completions();
    found.counted = Indexes::parse(state.status.completed_indexes.as_deref().unwrap_or_default(), completions);
    found.done = found.counted.clone();
    let tracked = state.pods.iter().copied().filter(|p| is_tracked(p));
    for pod in tracked.clone().filter(|p| pods::phase(p) == "Succeeded") {
        if let Some(index) = state.index(pod) {
            found.done.insert(index);
        }
    }
    found.succeeded = count(found.done.total());
    if let Some(limit) = state.per_index() {
        let mut failed = Indexes::parse(state.status.failed_indexes.as_deref().unwrap_or_default(), completions);
        for pod in tracked.filter(|p| index_has_failed(state, p, limit)) {
            if let Some(index) = index_of(pod).filter(|i| *i < completions) {
                failed.insert(index);
            }
        }
        let max = state.spec.max_failed_indexes.and_then(|m| usize::try_from(m).ok());
        if found.finish.is_none() && max.is_some_and(|m| failed.total() > m) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            found.finish = Some(Finish::new(Goal::Failure, "MaxFailedIndexesExceeded", message));
        } else if found.finish.is_none() && !failed.is_empty() && failed.total() + found.done.total() >= completions {
            found.finish = Some(Finish::new(Goal::Failure, "FailedIndexes", "Job has failed indexes"));
        }
        found.failed = Some(failed);
    }
    if found.finish.is_none()
        && let Some(message) = policy::succeeded(state.spec.success_policy.as_ref(), &found.done, completions)
    {
        found.finish = Some(Finish::new(Goal::Success, "SuccessPolicy", &message));
    }
}

fn index_has_failed(state: &State<'_>, pod: &Pod, limit: i32) -> bool {
    if !state.has_failed(pod) {
        return false;
    }
    let verdict = policy::judge(state.spec.pod_failure_policy.as_ref(), pod);
    verdict.fails_index || (!verdict.ignored && super::manage::failures(pod, super::INDEX_FAILURES) >= limit)
}
