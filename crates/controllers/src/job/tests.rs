//! A Job and its pods in a world that does what a plan says, round by round.

use super::*;
use crate::plan::Verb;
use crate::testing::{at, merge, object, show};
use expect_test::{Expect, expect};
use serde_json::Value;

struct World {
    job: Arc<Job>,
    pods: BTreeMap<String, Arc<Pod>>,
    seconds: i64,
    made: usize,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut job = json!({
            "metadata": {"name": "j", "namespace": "ns", "uid": "uid-j"},
            "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 2, "selector": {"matchLabels": {"job": "j"}},
                     "template": {"metadata": {"labels": {"job": "j"}},
                                  "spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}},
        });
        merge(&mut job["spec"], spec);
        World { job: object(job), pods: BTreeMap::new(), seconds: 0, made: 0 }
    }

    /// Plans and does until nothing is left to do; returns what was done, short.
    fn settle(&mut self) -> String {
        let mut text = String::new();
        for round in 0.. {
            assert!(round < 20, "does not settle:\n{text}");
            let pods = self.pods.values().cloned().collect();
            let plan = Jobs::plan(&View::Job { job: self.job.clone(), pods }, at(self.seconds));
            let shown = show(&plan);
            let nothing = plan.writes.is_empty();
            if let Some(wait) = plan.again_after {
                text.push_str(&format!("again in {wait:?}\n"));
            }
            if nothing {
                break;
            }
            text.push_str(&shown.lines().filter_map(short).map(|l| format!("{l}\n")).collect::<String>());
            plan.writes.into_iter().for_each(|w| self.apply(w.verb));
        }
        text
    }

    fn apply(&mut self, verb: Verb) {
        match verb {
            Verb::Create(o) => {
                let mut pod = o.as_any().downcast_ref::<Pod>().expect("Jobs create pods").clone();
                let name = format!("{}{}", pod.metadata.generate_name.take().unwrap_or_default(), self.made);
                self.made += 1;
                pod.metadata.uid = Some(format!("uid-{name}"));
                pod.metadata.name = Some(name.clone());
                self.pods.insert(name, Arc::new(pod));
            }
            Verb::UpdateStatus(o) => {
                self.job = Arc::new(o.as_any().downcast_ref::<Job>().expect("only the Job has a status").clone());
            }
            Verb::Patch(target, _, _) => self.change(&target.key.name, |pod| pod.metadata.finalizers = None),
            Verb::Delete(target, _) => {
                self.change(&target.key.name, |p| p.metadata.deletion_timestamp = Some(api::Time(at(0))));
            }
            _ => panic!("a Job does nothing else"),
        }
        // Nobody runs these pods: being deleted without a finalizer, they are gone.
        self.pods.retain(|_, p| !(p.is_deleting() && p.metadata.finalizers.is_none()));
    }

    fn change(&mut self, name: &str, change: impl FnOnce(&mut Pod)) {
        if let Some(pod) = self.pods.get_mut(name) {
            change(Arc::make_mut(pod));
        }
    }

    /// The pod ended with this phase now.
    fn end(&mut self, name: &str, phase: &str) -> &mut Self {
        let status = json!({"phase": phase, "containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false,
            "restartCount": 0, "state": {"terminated": {"exitCode": 1, "finishedAt": at(self.seconds).to_string()}}}]});
        let pod: Arc<Pod> = object(json!({"metadata": {}, "status": status}));
        self.change(name, |p| p.status = pod.status.clone());
        self
    }
}

/// `status succeeded=1 Complete` and such; times and zeros left out.
fn short(line: &str) -> Option<String> {
    if let Some(rest) = line.strip_prefix("status Job ns/j ") {
        let end = rest.rfind('}').map_or(rest.len(), |e| e + 1);
        let value: Value = serde_json::from_str(&rest[..end]).unwrap_or_default();
        let mut out = "status".to_owned();
        for field in ["active", "succeeded", "failed", "terminating", "completedIndexes", "failedIndexes"] {
            if !value[field].is_null() && value[field] != json!(0) {
                out.push_str(&format!(" {field}={}", value[field]));
            }
        }
        for list in ["succeeded", "failed"] {
            if !value["uncountedTerminatedPods"][list].is_null() {
                out.push_str(&format!(" {list}+{}", value["uncountedTerminatedPods"][list]));
            }
        }
        for c in value["conditions"].as_array().into_iter().flatten() {
            out.push_str(&format!(" {}={}({})", text(&c["type"]), text(&c["status"]), text(&c["reason"])));
        }
        out.push_str(&rest[end..]);
        return Some(out);
    }
    if line.starts_with("again in") {
        return None;
    }
    Some(line.split(" {").next().unwrap_or_default().split(" -> ").next().unwrap_or_default().to_owned())
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn check_settles(world: &mut World, expected: Expect) {
    expected.assert_eq(&world.settle());
}

#[test]
fn one_pod_succeeds() {
    let mut w = World::new(json!({}));
    check_settles(
        &mut w,
        expect![[r#"
        create Pod ns/j-
        status active=1
    "#]],
    );
    check_settles(
        w.end("j-0", "Succeeded"),
        expect![[r#"
        status succeeded+["uid-j-0"] SuccessCriteriaMet=True(CompletionsReached)
        patch Pod ns/j-0
        status succeeded=1 SuccessCriteriaMet=True(CompletionsReached) Complete=True(CompletionsReached) -> Completed Job completed
    "#]],
    );
    check_settles(&mut w, expect![[""]]);
}

#[test]
fn failures_are_retried_with_growing_waits_until_the_limit() {
    let mut w = World::new(json!({"backoffLimit": 1}));
    w.settle();
    check_settles(
        w.end("j-0", "Failed"),
        expect![[r#"
        again in 10s
        status failed+["uid-j-0"]
        patch Pod ns/j-0
        again in 10s
        status failed=1
        again in 10s
    "#]],
    );
    w.seconds = 10;
    check_settles(
        &mut w,
        expect![[r#"
        create Pod ns/j-
        status active=1 failed=1
    "#]],
    );
    check_settles(
        w.end("j-1", "Failed"),
        expect![[r#"
        status failed=1 failed+["uid-j-1"] FailureTarget=True(BackoffLimitExceeded)
        patch Pod ns/j-1
        status failed=2 FailureTarget=True(BackoffLimitExceeded) Failed=True(BackoffLimitExceeded) -> BackoffLimitExceeded Job has reached the specified backoff limit
    "#]],
    );
}

#[test]
fn a_deadline_may_be_beyond_all_times() {
    let mut w = World::new(json!({"activeDeadlineSeconds": i64::MAX}));
    check_settles(
        &mut w,
        expect![[r#"
        again in 9223372036854775807s
        create Pod ns/j-
        status active=1
        again in 9223372036854775807s
    "#]],
    );
    // The clock was put back.
    w.seconds = -5;
    check_settles(
        &mut w,
        expect![[r#"
        again in 9223372036854775807.999999999s
    "#]],
    );
}

#[test]
fn the_deadline_ends_running_pods() {
    let mut w = World::new(json!({"activeDeadlineSeconds": 5, "parallelism": 2, "completions": 2}));
    check_settles(
        &mut w,
        expect![[r#"
        again in 5s
        create Pod ns/j-
        create Pod ns/j-
        status active=2
        again in 5s
    "#]],
    );
    w.seconds = 5;
    check_settles(
        &mut w,
        expect![[r#"
        status terminating=2 failed+["uid-j-0","uid-j-1"] FailureTarget=True(DeadlineExceeded)
        patch Pod ns/j-0
        patch Pod ns/j-1
        delete Pod ns/j-0
        delete Pod ns/j-1
        status failed=2 FailureTarget=True(DeadlineExceeded) Failed=True(DeadlineExceeded) -> DeadlineExceeded Job was active longer than specified deadline
    "#]],
    );
}

#[test]
fn indexes_are_worked_off_and_written_as_intervals() {
    let mut w = World::new(json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2}));
    check_settles(
        &mut w,
        expect![[r#"
        create Pod ns/j-0-
        create Pod ns/j-1-
        status active=2
    "#]],
    );
    let pod = &w.pods["j-1-1"];
    assert_eq!((pod.annotation(INDEX), pod.label(INDEX)), (Some("1"), Some("1")));
    let spec = pod.spec.as_ref().expect("pods have specs");
    assert_eq!(spec.hostname.as_deref(), Some("j-1"));
    assert_eq!(spec.containers[0].env.as_ref().map(|e| e[0].name.as_str()), Some("JOB_COMPLETION_INDEX"));
    check_settles(
        w.end("j-0-0", "Succeeded"),
        expect![[r#"
        status active=2 succeeded=1 completedIndexes="0"
        patch Pod ns/j-0-0
        create Pod ns/j-2-
    "#]],
    );
    check_settles(
        w.end("j-1-1", "Succeeded").end("j-2-2", "Succeeded"),
        expect![[r#"
        status succeeded=3 completedIndexes="0-2" SuccessCriteriaMet=True(CompletionsReached)
        patch Pod ns/j-1-1
        patch Pod ns/j-2-2
        status succeeded=3 completedIndexes="0-2" SuccessCriteriaMet=True(CompletionsReached) Complete=True(CompletionsReached) -> Completed Job completed
    "#]],
    );
}

#[test]
fn a_failed_index_keeps_its_count_and_does_not_stop_the_others() {
    let mut w =
        World::new(json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1}));
    w.settle();
    check_settles(
        w.end("j-0-0", "Failed"),
        expect![[r#"
            again in 10s
            status active=1 failedIndexes=""
            again in 10s
        "#]],
    );
    w.seconds = 10;
    w.settle();
    assert_eq!(w.pods["j-0-2"].annotation(INDEX_FAILURES), Some("1"));
    check_settles(
        w.end("j-0-2", "Failed"),
        expect![[r#"
        status active=1 failed=1 failedIndexes="0" failed+["uid-j-0-2"]
        patch Pod ns/j-0-2
        status active=1 failed=2 failedIndexes="0"
    "#]],
    );
    check_settles(
        w.end("j-1-1", "Succeeded"),
        expect![[r#"
        status succeeded=1 failed=2 completedIndexes="1" failedIndexes="0" FailureTarget=True(FailedIndexes)
        patch Pod ns/j-1-1
        status succeeded=1 failed=2 completedIndexes="1" failedIndexes="0" FailureTarget=True(FailedIndexes) Failed=True(FailedIndexes) -> FailedIndexes Job has failed indexes
    "#]],
    );
}

#[test]
fn suspending_deletes_and_resuming_starts_the_clock_again() {
    let mut w = World::new(json!({}));
    w.settle();
    let suspend = |w: &mut World, on: bool| {
        Arc::make_mut(&mut w.job).spec.get_or_insert_default().suspend = Some(on);
    };
    suspend(&mut w, true);
    check_settles(
        &mut w,
        expect![[r#"
        status terminating=1 Suspended=True(JobSuspended) -> Suspended Job suspended
        patch Pod ns/j-0
        delete Pod ns/j-0
        status Suspended=True(JobSuspended)
    "#]],
    );
    w.seconds = 60;
    suspend(&mut w, false);
    check_settles(
        &mut w,
        expect![[r#"
        status active=1 Suspended=False(JobResumed) -> Resumed Job resumed
        create Pod ns/j-
    "#]],
    );
    assert_eq!(w.job.status.as_ref().and_then(|s| s.start_time.clone()).map(|t| t.0), Some(at(60)));
}

#[test]
fn fewer_parallel_pods_lose_the_surplus() {
    let mut w = World::new(json!({"parallelism": 3, "completions": 3}));
    w.settle();
    Arc::make_mut(&mut w.job).spec.get_or_insert_default().parallelism = Some(1);
    check_settles(
        &mut w,
        expect![[r#"
        patch Pod ns/j-0
        delete Pod ns/j-0
        patch Pod ns/j-1
        delete Pod ns/j-1
        status active=1 terminating=2
        status active=1
    "#]],
    );
}

#[test]
fn strays_lose_the_finalizer() {
    let pod = crate::testing::pod("a", json!({"metadata": {"finalizers": [FINALIZER]}}));
    expect![[r#"
        patch Pod ns/a {"metadata":{"$deleteFromPrimitiveList/finalizers":["batch.kubernetes.io/job-tracking"],"uid":"uid-a"}}
    "#]]
    .assert_eq(&show(&Jobs::plan(&View::Strays(vec![pod]), at(0))));
}
