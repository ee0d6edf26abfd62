//! TtlAfterFinished: deletes Jobs some time after they ended (`pkg/controller/ttlafterfinished/ttlafterfinished_controller.go`).
//!
//! Watches   Job (self).
//! Writes    Job delete, in the foreground.
//! Differs   from upstream: the resourceVersion is a precondition of the delete, which replaces a second look.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::prelude::*;
use client::{DeleteParams, Propagation};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    const NAME: &'static str = "ttl-after-finished-controller";
    type View = Arc<Job>;

    fn watches(watches: &mut Watches<'_>) {
        watches.map::<Job>(|_, change| match &change.new {
            Some(job) if expires_at(job).is_some() => vec![Key::of(job.as_ref())],
            _ => Vec::new(),
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<Arc<Job>> {
        ctx.cache::<Job>().get(&key.namespace, &key.name)
    }

    fn plan(job: &Arc<Job>, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let Some(at) = expires_at(job) else { return plan };
        match Duration::try_from(at.duration_since(now)) {
            Ok(left) if !left.is_zero() => plan.again(left),
            _ => plan.writes.push(Write::delete_with(
                job.as_ref(),
                DeleteParams {
                    resource_version: job.metadata.resource_version.clone(),
                    propagation: Some(Propagation::Foreground),
                    ..DeleteParams::default()
                },
            )),
        }
        plan
    }
}

/// When it is to go: it ended, has a time to live, and is not going already.
fn expires_at(job: &Job) -> Option<Timestamp> {
    let ttl = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    if job.is_deleting() {
        return None;
    }
    ended.last_transition_time.as_ref()?.0.saturating_add(SignedDuration::from_secs(i64::from(ttl))).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check_plan(condition: &str, now: i64, expected: Expect) {
        let job = object(json!({
            "metadata": {"name": "j", "namespace": "ns", "uid": "u", "resourceVersion": "5"},
            "spec": {"ttlSecondsAfterFinished": 10, "template": {}},
            "status": {"conditions": [{"type": condition, "status": "True", "lastTransitionTime": at(0).to_string()}]},
        }));
        expected.assert_eq(&show(&TtlAfterFinished::plan(&job, at(now))));
    }

    #[test]
    fn an_ended_job_goes_after_its_time() {
        check_plan("SuccessCriteriaMet", 99, expect![[""]]);
        check_plan(
            "Complete",
            4,
            expect![[r#"
            again in 6s
        "#]],
        );
        check_plan(
            "Failed",
            10,
            expect![[r#"
            delete Job ns/j
        "#]],
        );
    }
}
