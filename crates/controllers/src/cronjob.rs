//! CronJob: makes a Job at each time of its schedule.
//!
//! Watches   CronJob (self), Job (by controller).
//! Writes    Job create/delete, CronJob/status.
//! Invariant one Job per scheduled time: its name is made of the time.
//! Differs   from upstream (`pkg/controller/cronjob/cronjob_controllerv2.go`): a Job gets into `status.active` in the round after
//!           it was made; time zones other than UTC need a time zone database in `jiff` (see `zone`).

use crate::job::is_finished;
use crate::plan::{Key, Plan, PlannedEvent, Write};
use crate::pods::controller_ref;
use crate::run::{Context, Controller, Watches};
use api::Time;
use api::k8s::api::batch::v1::{CronJobSpec, CronJobStatus};
use api::k8s::api::core::v1::ObjectReference;
use api::prelude::*;
use client::{DeleteParams, EventKind, Propagation};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use machinery::cron::Schedule;
use machinery::field::quote;
use std::sync::Arc;
use std::time::Duration;

/// Annotation of Jobs: the time they were made for.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// A little later than the time itself, so that it is over (`nextScheduleDelta`).
const DELTA: Duration = Duration::from_millis(100);
/// So many missed times are told of.
const MANY: i64 = 100;

pub(crate) struct CronJobs;

pub(crate) struct View {
    cron: Arc<CronJob>,
    /// The Jobs it controls.
    jobs: Vec<Arc<Job>>,
    /// Names of all Jobs of the namespace that could be its own.
    names: Vec<String>,
}

impl Controller for CronJobs {
    const NAME: &'static str = "cronjob-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<CronJob>();
        watches.owned::<Job, CronJob>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let cron = ctx.cache::<CronJob>().get(&key.namespace, &key.name)?;
        let cache = ctx.cache::<Job>();
        let jobs = cache.controlled_by(cron.uid());
        let mut names: Vec<String> = cache.list_in(&key.namespace).iter().map(|j| j.name().to_owned()).collect();
        names.retain(|n| n.starts_with(&key.name));
        Some(View { cron, jobs, names })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let spec = &view.cron.spec;
        let mut status = view.cron.status.clone().unwrap_or_default();
        account(view, &mut status, &mut plan);
        clean_up(view, spec, &mut plan);
        if !view.cron.is_deleting() {
            start(view, spec, &mut status, now, &mut plan);
        }
        status.active = status.active.take().filter(|a| !a.is_empty());
        if status != view.cron.status.clone().unwrap_or_default() {
            plan.writes.push(Write::status(CronJob { status: Some(status), ..view.cron.as_ref().clone() }));
        }
        plan
    }
}

// === accounting ===

/// Brings `active` and the times in line with the Jobs that are there.
fn account(view: &View, status: &mut CronJobStatus, plan: &mut Plan) {
    let cron = view.cron.as_ref();
    let active = status.active.get_or_insert_default();
    for job in &view.jobs {
        let listed = active.iter().any(|r| r.uid.as_deref() == Some(job.uid()));
        match (is_finished(job), listed) {
            (false, false) => {
                match minutes_of(cron, job.name()) {
                    Some(at) => status.last_schedule_time = status.last_schedule_time.take().max(Some(Time(at))),
                    None => {
                        let message = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                        plan.events.push(PlannedEvent::new(cron, EventKind::Warning, "UnexpectedJob", &message));
                        continue;
                    }
                }
                active.push(reference(job));
            }
            (true, true) => {
                active.retain(|r| r.uid.as_deref() != Some(job.uid()));
                let message = format!("Saw completed job: {}, condition: {}", job.name(), end_of(job).unwrap_or("?"));
                plan.events.push(PlannedEvent::new(cron, EventKind::Normal, "SawCompletedJob", &message));
            }
            _ => {}
        }
        if let Some(at) = minutes_of(cron, job.name()) {
            // A Job may have ended before it was ever listed.
            status.last_schedule_time = status.last_schedule_time.take().max(Some(Time(at)));
        }
        if end_of(job) == Some("Complete") {
            let completed = job.status.as_ref().and_then(|s| s.completion_time.clone());
            status.last_successful_time = status.last_successful_time.take().max(completed);
        }
    }
    active.retain(|r| {
        let found = view.jobs.iter().any(|j| r.uid.as_deref() == Some(j.uid()));
        if !found {
            let message = format!("Active job went missing: {}", r.name.as_deref().unwrap_or_default());
            plan.events.push(PlannedEvent::new(cron, EventKind::Normal, "MissingJob", &message));
        }
        found
    });
}

/// Ended Jobs beyond the history limits go, oldest first.
fn clean_up(view: &View, spec: &CronJobSpec, plan: &mut Plan) {
    let limits = [("Complete", spec.successful_jobs_history_limit), ("Failed", spec.failed_jobs_history_limit)];
    for (end, limit) in limits {
        let Some(keep) = limit.and_then(|l| usize::try_from(l).ok()) else { continue };
        let mut ended: Vec<&Arc<Job>> =
            view.jobs.iter().filter(|j| end_of(j) == Some(end) && !j.is_deleting()).collect();
        let started = |j: &Job| j.status.as_ref().and_then(|s| s.start_time.clone()).map(|t| t.0);
        ended.sort_by(|a, b| started(a).cmp(&started(b)).then_with(|| a.name().cmp(b.name())));
        let surplus = ended.len().saturating_sub(keep);
        plan.writes.extend(ended.into_iter().take(surplus).map(|j| delete(view, j)));
    }
}

fn delete(view: &View, job: &Job) -> Write {
    let params = DeleteParams { propagation: Some(Propagation::Background), ..DeleteParams::default() };
    Write::delete_with(job, params).telling(
        view.cron.as_ref(),
        ("SuccessfulDelete", &format!("Deleted job {}", job.name())),
        ("FailedDelete", "Deleted job: {error}"),
    )
}

// === starting ===

/// Makes the Job of the latest time that is over, unless something forbids it; asks to look again at the next time.
fn start(view: &View, spec: &CronJobSpec, status: &mut CronJobStatus, now: Timestamp, plan: &mut Plan) {
    let cron = view.cron.as_ref();
    let note = |kind, reason, message: &str| PlannedEvent::new(cron, kind, reason, message);
    let Some(zone) = zone(spec) else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        let message = format!("invalid timeZone: {}: unknown time zone {name}", quote(name));
        plan.events.push(note(EventKind::Warning, "UnknownTimeZone", &message));
        return;
    };
    if spec.suspend == Some(true) {
        return;
    }
    if spec.schedule.contains("TZ") {
        let message = format!(
            "CRON_TZ or TZ used in schedule {} is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details",
            quote(&spec.schedule)
        );
        plan.events.push(note(EventKind::Warning, "UnsupportedSchedule", &message));
    }
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(why) => {
            let message = format!("unparseable schedule: {} : {why}", quote(&spec.schedule));
            plan.events.push(note(EventKind::Warning, "UnparseableSchedule", &message));
            return;
        }
    };
    if let Some(next) = schedule.next(now, &zone) {
        plan.again(Duration::try_from(next.duration_since(now)).unwrap_or_default() + DELTA);
    }
    let (at, missed) = match latest(cron, spec, status, &schedule, &zone, now) {
        Ok(Some(found)) => found,
        Ok(None) => return,
        Err(why) => {
            let message = format!("invalid schedule: {} : {why}", spec.schedule);
            plan.events.push(note(EventKind::Warning, "InvalidSchedule", &message));
            return;
        }
    };
    if missed > MANY {
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.events.push(note(EventKind::Warning, "TooManyMissedTimes", message));
    }
    let deadline = spec.starting_deadline_seconds.map(SignedDuration::from_secs);
    if deadline.and_then(|d| at.saturating_add(d).ok()).is_some_and(|end| end < now) {
        let message = format!("Missed scheduled time to start a job: {}", at.strftime("%a, %d %b %Y %H:%M:%S +0000"));
        plan.events.push(note(EventKind::Warning, "MissSchedule", &message));
        return;
    }
    let name = format!("{}-{}", cron.name(), at.as_second() / 60);
    let done = status.last_schedule_time.as_ref().is_some_and(|last| last.0 == at);
    if done || view.names.contains(&name) {
        return;
    }
    let active = status.active.get_or_insert_default();
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.events.push(note(EventKind::Normal, "JobAlreadyActive", message));
            return;
        }
        Some("Replace") => {
            for job in view.jobs.iter().filter(|j| active.iter().any(|r| r.uid.as_deref() == Some(j.uid()))) {
                plan.writes.push(delete(view, job));
            }
            active.clear();
        }
        _ => {}
    }
    let created = format!("Created job {name}");
    plan.writes.push(Write::create(job(cron, spec, name, at, &zone)).telling(
        cron,
        ("SuccessfulCreate", &created),
        ("FailedCreate", "Error creating job: {error}"),
    ));
}

/// The latest time of the schedule that is over and not older than may be, and about how many were missed
/// (`mostRecentScheduleTime`). Fails if the schedule has no times, as of 31 February.
fn latest(
    cron: &CronJob,
    spec: &CronJobSpec,
    status: &CronJobStatus,
    schedule: &Schedule,
    zone: &TimeZone,
    now: Timestamp,
) -> Result<Option<(Timestamp, i64)>, &'static str> {
    let created = cron.metadata.creation_timestamp.as_ref().map(|t| t.0);
    let Some(mut earliest) = status.last_schedule_time.as_ref().map(|t| t.0).or(created) else { return Ok(None) };
    if let Some(seconds) = spec.starting_deadline_seconds {
        let oldest = now.saturating_sub(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MIN);
        earliest = earliest.max(oldest);
    }
    let no_times = "time difference between two schedules is less than 1 second";
    let first = schedule.next(earliest, zone).ok_or(no_times)?;
    if now < first {
        return Ok(None);
    }
    let second = schedule.next(first, zone).ok_or(no_times)?;
    if now < second {
        return Ok(Some((first, 0)));
    }
    let apart = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / apart + 1;
    let mut at = first + SignedDuration::from_secs((missed - 2).max(0) * apart);
    let mut found = first;
    while let Some(next) = schedule.next(at, zone).filter(|n| *n <= now) {
        found = next;
        at = next;
    }
    Ok(Some((found, missed)))
}

/// `getJobFromTemplate2`
fn job(cron: &CronJob, spec: &CronJobSpec, name: String, at: Timestamp, zone: &TimeZone) -> Job {
    let template = spec.job_template.metadata.clone().unwrap_or_default();
    let mut annotations = template.annotations.unwrap_or_default();
    let local = at.to_zoned(zone.clone());
    let offset = if local.offset().is_zero() { "Z".to_owned() } else { local.strftime("%:z").to_string() };
    annotations.insert(SCHEDULED.to_owned(), format!("{}{offset}", local.strftime("%Y-%m-%dT%H:%M:%S")));
    Job {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(cron.namespace().to_owned()),
            labels: template.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_ref(cron)]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    }
}

// === helpers ===

/// The time zone of the schedule; `None` if it is unknown.
fn zone(spec: &CronJobSpec) -> Option<TimeZone> {
    match spec.time_zone.as_deref() {
        None => Some(TimeZone::UTC),
        Some(name) => machinery::time_zone::find(name),
    }
}

/// The time in the name of a Job that we made.
fn minutes_of(cron: &CronJob, job: &str) -> Option<Timestamp> {
    let minutes: i64 = job.strip_prefix(cron.name())?.strip_prefix('-')?.parse().ok()?;
    Timestamp::from_second(minutes.checked_mul(60)?).ok()
}

fn end_of(job: &Job) -> Option<&str> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    let ended = conditions.iter().find(|c| matches!(c.type_.as_str(), "Complete" | "Failed") && c.status == "True")?;
    Some(&ended.type_)
}

fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some(Job::API_VERSION.to_owned()),
        kind: Some(Job::KIND.to_owned()),
        name: Some(job.name().to_owned()),
        namespace: Some(job.namespace().to_owned()),
        uid: Some(job.uid().to_owned()),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn cron(spec: Value, status: Value) -> Arc<CronJob> {
        let mut all = json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {}}}});
        merge(&mut all, spec);
        object(json!({
            "metadata": {"name": "c", "namespace": "ns", "uid": "uid-c", "creationTimestamp": at(0).to_string()},
            "spec": all, "status": status,
        }))
    }

    fn job(name: &str, end: Option<&str>) -> Arc<Job> {
        let conditions: Vec<Value> = end.iter().map(|e| json!({"type": e, "status": "True"})).collect();
        object(json!({
            "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
            "status": {"conditions": conditions, "completionTime": at(400).to_string()},
        }))
    }

    fn check_plan(cron: Arc<CronJob>, jobs: Vec<Arc<Job>>, now: i64, expected: Expect) {
        let names = jobs.iter().map(|j| j.name().to_owned()).collect();
        expected.assert_eq(&show(&CronJobs::plan(&View { cron, jobs, names }, at(now))));
    }

    /// The name of the Job of 00:05 and of 00:10.
    const FIVE: &str = "c-29453765";
    const TEN: &str = "c-29453770";

    #[test]
    fn a_job_is_made_when_its_time_has_come_and_only_once() {
        check_plan(
            cron(json!({}), json!({})),
            Vec::new(),
            299,
            expect![[r#"
            again in 1.1s
        "#]],
        );
        check_plan(
            cron(json!({}), json!({})),
            Vec::new(),
            300,
            expect![[r#"
            create Job ns/c-29453765 -> SuccessfulCreate Created job c-29453765
            again in 300.1s
        "#]],
        );
        check_plan(
            cron(json!({}), json!({})),
            vec![job(FIVE, None)],
            301,
            expect![[r#"
            status CronJob ns/c {"active":[{"apiVersion":"batch/v1","kind":"Job","name":"c-29453765","namespace":"ns","uid":"uid-c-29453765"}],"lastScheduleTime":"2026-01-01T00:05:00Z"}
            again in 299.1s
        "#]],
        );
    }

    #[test]
    fn of_many_missed_times_the_latest_counts() {
        check_plan(
            cron(json!({}), json!({})),
            Vec::new(),
            300 * 3 + 7,
            expect![[r#"
            create Job ns/c-29453775 -> SuccessfulCreate Created job c-29453775
            again in 293.1s
        "#]],
        );
        check_plan(
            cron(json!({"startingDeadlineSeconds": 5}), json!({})),
            Vec::new(),
            310,
            expect![[r#"
            again in 290.1s
        "#]],
        );
        check_plan(
            cron(json!({"startingDeadlineSeconds": i64::MAX}), json!({})),
            Vec::new(),
            310,
            expect![[r#"
            create Job ns/c-29453765 -> SuccessfulCreate Created job c-29453765
            again in 290.1s
        "#]],
        );
        check_plan(cron(json!({"suspend": true}), json!({})), Vec::new(), 310, expect![[""]]);
    }

    fn running() -> Value {
        json!({"active": [{"name": FIVE, "uid": format!("uid-{FIVE}")}], "lastScheduleTime": at(300).to_string()})
    }

    #[test]
    fn concurrency_policies() {
        check_plan(
            cron(json!({"concurrencyPolicy": "Forbid"}), running()),
            vec![job(FIVE, None)],
            600,
            expect![[r#"
            event Normal JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid
            again in 300.1s
        "#]],
        );
        check_plan(
            cron(json!({"concurrencyPolicy": "Replace"}), running()),
            vec![job(FIVE, None)],
            600,
            expect![[r#"
            delete Job ns/c-29453765 -> SuccessfulDelete Deleted job c-29453765
            create Job ns/c-29453770 -> SuccessfulCreate Created job c-29453770
            status CronJob ns/c {"lastScheduleTime":"2026-01-01T00:05:00Z"}
            again in 300.1s
        "#]],
        );
    }

    #[test]
    fn ended_jobs_leave_the_list_and_old_ones_go() {
        let limited = cron(json!({"successfulJobsHistoryLimit": 1}), running());
        check_plan(
            limited,
            vec![job(FIVE, Some("Complete")), job(TEN, Some("Complete"))],
            601,
            expect![[r#"
            event Normal SawCompletedJob: Saw completed job: c-29453765, condition: Complete
            delete Job ns/c-29453765 -> SuccessfulDelete Deleted job c-29453765
            status CronJob ns/c {"lastScheduleTime":"2026-01-01T00:10:00Z","lastSuccessfulTime":"2026-01-01T00:06:40Z"}
            again in 299.1s
        "#]],
        );
    }

    #[test]
    fn what_cannot_be_understood_is_told() {
        check_plan(
            cron(json!({"schedule": "59 23 31 2 *"}), json!({})),
            Vec::new(),
            300,
            expect![[r#"
            event Warning InvalidSchedule: invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second
        "#]],
        );
        check_plan(
            cron(json!({"schedule": "TZ=UTC 0 0 * * *"}), json!({})),
            Vec::new(),
            300,
            expect![[r#"
            event Warning UnsupportedSchedule: CRON_TZ or TZ used in schedule "TZ=UTC 0 0 * * *" is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details
            again in 86100.1s
        "#]],
        );
        check_plan(
            cron(json!({"timeZone": "Mars/Base"}), json!({})),
            Vec::new(),
            300,
            expect![[r#"
            event Warning UnknownTimeZone: invalid timeZone: "Mars/Base": unknown time zone Mars/Base
        "#]],
        );
        check_plan(
            cron(json!({"schedule": "nonsense"}), json!({})),
            Vec::new(),
            300,
            expect![[r#"
                event Warning UnparseableSchedule: unparseable schedule: "nonsense" : expected exactly 5 fields, found 1: [nonsense]
            "#]],
        );
    }
}
