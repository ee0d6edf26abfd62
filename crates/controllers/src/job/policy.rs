//! When a Job has failed or succeeded by its policies, and how long failures hold up new pods (`pod_failure_policy.go`,
//! `success_policy.go`, `backoff_utils.go`). Pure.

use super::indexes::Indexes;
use api::k8s::api::batch::v1::{PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, SuccessPolicy};
use api::k8s::api::core::v1::ContainerStatus;
use api::prelude::*;
use jiff::Timestamp;
use std::time::Duration;

/// First and longest wait after failures (`DefaultJobPodFailureBackOff`, `MaxJobPodFailureBackOff`).
const BACKOFF: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));

/// What the pod failure policy says of a failed pod.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The whole Job fails, with this message.
    pub(super) fails_job: Option<String>,
    /// Its index fails.
    pub(super) fails_index: bool,
    /// It does not count.
    pub(super) ignored: bool,
}

/// `matchPodFailurePolicy`: the first rule that matches decides.
pub(super) fn judge(policy: Option<&PodFailurePolicy>, pod: &Pod) -> Verdict {
    let rules = policy.map(|p| p.rules.as_slice()).unwrap_or_default();
    for (at, rule) in rules.iter().enumerate() {
        let place = format!("{}/{}", pod.namespace(), pod.name());
        let why = match (&rule.on_exit_codes, &rule.on_pod_conditions) {
            (Some(codes), _) => failed_container(pod, codes).map(|(name, code)| {
                let action = &rule.action;
                format!(
                    "Container {name} for pod {place} failed with exit code {code} matching {action} rule at index {at}"
                )
            }),
            (None, Some(patterns)) => {
                let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
                let status = |s: &Option<String>| s.clone().unwrap_or_else(|| "True".into());
                let mut found =
                    conditions.filter(|c| patterns.iter().any(|p| p.type_ == c.type_ && status(&p.status) == c.status));
                found.next().map(|c| {
                    format!("Pod {place} has condition {} matching {} rule at index {at}", c.type_, rule.action)
                })
            }
            (None, None) => None,
        };
        let Some(why) = why else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict { ignored: true, ..Verdict::default() },
            "FailIndex" => Verdict { fails_index: true, ..Verdict::default() },
            "FailJob" => Verdict { fails_job: Some(why), ..Verdict::default() },
            _ => Verdict::default(),
        };
    }
    Verdict::default()
}

fn failed_container(pod: &Pod, codes: &PodFailurePolicyOnExitCodesRequirement) -> Option<(String, i32)> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().flatten().chain(status.init_container_statuses.iter().flatten());
    let fits = |c: &ContainerStatus| {
        let code = c.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = codes.container_name.as_ref().is_none_or(|n| *n == c.name);
        let listed = codes.values.contains(&code);
        let matches = if codes.operator == "In" { listed } else { codes.operator == "NotIn" && !listed };
        (code != 0 && named && matches).then(|| (c.name.clone(), code))
    };
    all.into_iter().find_map(fits)
}

/// `matchSuccessPolicy`: the message of the first rule that is met.
pub(super) fn succeeded(policy: Option<&SuccessPolicy>, done: &Indexes, completions: usize) -> Option<String> {
    let rules = policy.map(|p| p.rules.as_slice()).filter(|_| !done.is_empty())?;
    let enough = |count: Option<i32>, have: usize| count.is_some_and(|c| usize::try_from(c).is_ok_and(|c| have >= c));
    let met = rules.iter().position(|rule| match &rule.succeeded_indexes {
        Some(text) => {
            let wanted = Indexes::parse(text, completions);
            let have = wanted.overlap(done);
            !wanted.is_empty() && (have == wanted.total() || enough(rule.succeeded_count, have))
        }
        None => enough(rule.succeeded_count, done.total()),
    })?;
    Some(format!("Matched rules at index {met}"))
}

// === back-off ===

/// When a pod ended, as well as can be known (`getFinishedTime`).
pub(super) fn finished_at(pod: &Pod) -> Option<Timestamp> {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let ends: Option<Vec<Timestamp>> =
        statuses.map(|c| Some(c.state.as_ref()?.terminated.as_ref()?.finished_at.as_ref()?.0)).collect();
    let of_containers = ends.and_then(|e| e.into_iter().max());
    let not_ready = crate::pods::condition(pod, "Ready").filter(|c| c.status == "False");
    let grace = jiff::SignedDuration::from_secs(pod.metadata.deletion_grace_period_seconds.unwrap_or(0));
    of_containers
        .or_else(|| not_ready?.last_transition_time.as_ref().map(|t| t.0))
        .or_else(|| pod.metadata.deletion_timestamp.as_ref()?.0.saturating_sub(grace).ok())
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|t| t.0))
}

/// How long the failures after the last success hold up new pods.
pub(super) fn remaining(succeeded: &[&Pod], failed: &[&Pod], now: Timestamp) -> Option<Duration> {
    let last_success = succeeded.iter().filter_map(|p| finished_at(p)).max();
    let since: Vec<Timestamp> =
        failed.iter().filter_map(|p| finished_at(p)).filter(|at| last_success.is_none_or(|s| *at > s)).collect();
    remaining_after(since.len(), since.into_iter().max()?, now)
}

/// 10 s after the first failure, twice as long after each further one, 10 min at most.
pub(super) fn remaining_after(failures: usize, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures.checked_sub(1)?).unwrap_or(u32::MAX).min(16);
    let wait = (BACKOFF.0 * 2u32.pow(doublings)).min(BACKOFF.1);
    let passed = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    wait.checked_sub(passed).filter(|left| !left.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, pod};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn check_verdict(rules: Value, status: Value, expected: Expect) {
        let job: std::sync::Arc<Job> = crate::testing::object(json!({
            "metadata": {}, "spec": {"template": {"spec": {"containers": []}}, "podFailurePolicy": {"rules": rules}},
        }));
        let policy = job.spec.as_ref().and_then(|s| s.pod_failure_policy.as_ref());
        expected.assert_eq(&format!("{:?}", judge(policy, &pod("a", json!({"status": status})))));
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let rules = json!([
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "FailJob", "onExitCodes": {"operator": "In", "values": [3]}},
            {"action": "FailIndex", "onExitCodes": {"containerName": "c", "operator": "NotIn", "values": [5]}},
        ]);
        let exit = |code: i32| {
            json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": code}}}]})
        };
        check_verdict(
            rules.clone(),
            exit(3),
            expect![[
                r#"Verdict { fails_job: Some("Container c for pod ns/a failed with exit code 3 matching FailJob rule at index 1"), fails_index: false, ignored: false }"#
            ]],
        );
        check_verdict(
            rules.clone(),
            exit(4),
            expect!["Verdict { fails_job: None, fails_index: true, ignored: false }"],
        );
        check_verdict(
            rules.clone(),
            exit(5),
            expect!["Verdict { fails_job: None, fails_index: false, ignored: false }"],
        );
        let disrupted = json!({"conditions": [{"type": "DisruptionTarget", "status": "True"}]});
        check_verdict(rules, disrupted, expect!["Verdict { fails_job: None, fails_index: false, ignored: true }"]);
    }

    #[test]
    fn waits_double_up_to_ten_minutes() {
        let left = |failures, passed| remaining_after(failures, at(0), at(passed)).map(|d| d.as_secs());
        assert_eq!([left(0, 0), left(1, 0), left(1, 4), left(1, 10)], [None, Some(10), Some(6), None]);
        assert_eq!([left(3, 0), left(7, 0), left(500, 0)], [Some(40), Some(600), Some(600)]);
    }
}
