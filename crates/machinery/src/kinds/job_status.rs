//! What the status of a Job may say, and how it may change (`ValidateJobStatusUpdate`, `getStatusValidationOptions` of
//! `pkg/registry/batch/job/strategy.go`); and indexes as text, like `1,3-5,7`, which success policies hold too.

use super::common::str_of;
use super::job::{condition, invalid_without_value};
use super::workload::validate_counts;
use crate::field::{Errors, FieldError, Path};
use crate::validation::Raw;
use api::k8s::api::batch::v1::{JobSpec, JobStatus, UncountedTerminatedPods};
use api::prelude::Job;
use serde_json::json;

/// Errors of a status. Most rules hold only for what changes, so that a status that was bad before stays writable.
pub(super) fn validate_status(new: &Job, old: &Job, path: &Path) -> Errors {
    let (status, before) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
    let spec = new.spec.clone().unwrap_or_default();
    let counts = [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ];
    let mut errors = validate_counts(counts, path);
    if let Some(pods) = &status.uncounted_terminated_pods {
        errors.extend(validate_uncounted(pods, &path.child("uncountedTerminatedPods")));
    }
    let change = StatusChange { new, old, status: &status, before: &before, spec: &spec, path };
    errors.extend(change.completion());
    errors.extend(change.preconditions());
    errors.extend(change.finished());
    errors.extend(change.indexes());
    errors.extend(change.pods());
    errors.extend(change.transitions());
    errors
}

fn validate_uncounted(pods: &UncountedTerminatedPods, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for (field, uids) in [("succeeded", &pods.succeeded), ("failed", &pods.failed)] {
        for (i, uid) in uids.iter().flatten().enumerate() {
            let path = path.child(field).index(i);
            if uid.is_empty() {
                errors.push(FieldError::invalid(&path, uid, "must not be empty"));
            } else if seen.contains(&uid.as_str()) {
                errors.push(FieldError::duplicate(&path, uid));
            } else {
                seen.push(uid);
            }
        }
    }
    errors
}

/// A status and the one before it.
struct StatusChange<'a> {
    new: &'a Job,
    old: &'a Job,
    status: &'a JobStatus,
    before: &'a JobStatus,
    spec: &'a JobSpec,
    path: &'a Path,
}

impl StatusChange<'_> {
    fn is(&self, ty: &str) -> bool {
        condition(self.new, ty)
    }

    fn changed(&self, ty: &str) -> bool {
        condition(self.new, ty) != condition(self.old, ty)
    }

    fn is_finished(&self) -> bool {
        self.is("Complete") || self.is("Failed")
    }

    fn finish_changed(&self) -> bool {
        (condition(self.old, "Complete") || condition(self.old, "Failed")) != self.is_finished()
    }

    fn start_changed(&self) -> bool {
        self.status.start_time != self.before.start_time
    }

    fn conditions(&self, detail: &str) -> FieldError {
        invalid_without_value(&self.path.child("conditions"), detail)
    }

    /// What completion excludes, and its time.
    fn completion(&self) -> Errors {
        let mut errors = Vec::new();
        let complete = self.is("Complete");
        if (self.changed("Complete") || self.changed("Failed")) && complete && self.is("Failed") {
            errors.push(self.conditions("cannot set Complete=True and Failed=true conditions"));
        }
        if (self.changed("Complete") || self.changed("FailureTarget")) && complete && self.is("FailureTarget") {
            errors.push(self.conditions("cannot set Complete=True and FailureTarget=true conditions"));
        }
        let path = self.path.child("completionTime");
        let time_changed = self.status.completion_time != self.before.completion_time;
        let shown = json!(self.status.completion_time);
        if self.changed("Complete") || time_changed {
            match &self.status.completion_time {
                Some(_) if !complete => {
                    let detail = "cannot set completionTime when there is no Complete=True condition";
                    errors.push(FieldError::invalid(&path, &shown, detail));
                }
                None if complete => {
                    errors.push(FieldError::required(&path, "completionTime is required for Complete jobs"));
                }
                _ => {}
            }
        }
        let times = self.status.start_time.as_ref().zip(self.status.completion_time.as_ref());
        if (self.start_changed() || time_changed) && times.is_some_and(|(start, end)| end.0 < start.0) {
            errors.push(FieldError::invalid(&path, &shown, "must be equal to or after `startTime`"));
        }
        errors
    }

    /// The conditions that go before the last ones.
    fn preconditions(&self) -> Errors {
        let mut errors = Vec::new();
        let indexes_changed = self.status.failed_indexes != self.before.failed_indexes;
        if (self.changed("Failed") || indexes_changed) && self.is("Failed") && !self.is("FailureTarget") {
            errors.push(self.conditions("cannot set Failed=True condition without the FailureTarget=true condition"));
        }
        let changed = self.changed("Complete") || self.changed("SuccessCriteriaMet");
        if changed && self.is("Complete") && !self.is("SuccessCriteriaMet") {
            let detail = "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
            errors.push(self.conditions(detail));
        }
        errors
    }

    /// What a job that is done no longer has.
    fn finished(&self) -> Errors {
        let mut errors = Vec::new();
        if !self.is_finished() {
            return errors;
        }
        let (status, before) = (self.status, self.before);
        let active = status.active.unwrap_or(0);
        if (self.finish_changed() || active != before.active.unwrap_or(0)) && active > 0 {
            errors.push(FieldError::invalid(
                &self.path.child("active"),
                active,
                "active>0 is invalid for finished job",
            ));
        }
        let never_ran = self.spec.suspend == Some(true) && self.spec.completions == Some(0);
        if (self.finish_changed() || self.start_changed()) && !never_ran && status.start_time.is_none() {
            let path = self.path.child("startTime");
            errors.push(FieldError::required(&path, "startTime is required for finished job"));
        }
        if self.finish_changed() || status.uncounted_terminated_pods != before.uncounted_terminated_pods {
            let pods = status.uncounted_terminated_pods.as_ref().filter(|pods| count_of(pods) > 0);
            errors.extend(pods.map(|pods| {
                let value =
                    Raw(format!(r#"{{"Succeeded":{},"Failed":{}}}"#, json!(pods.succeeded), json!(pods.failed)));
                let path = self.path.child("uncountedTerminatedPods");
                FieldError::invalid(&path, value, "must be empty for finished job")
            }));
        }
        errors
    }

    fn indexes(&self) -> Errors {
        let mut errors = Vec::new();
        let (completed, failed) = (str_of(&self.status.completed_indexes), &self.status.failed_indexes);
        let completed_changed = completed != str_of(&self.before.completed_indexes);
        let failed_changed = *failed != self.before.failed_indexes;
        let (completed_path, failed_path) = (self.path.child("completedIndexes"), self.path.child("failedIndexes"));
        if let Some(completions) = self.spec.completions {
            if let (true, Err(why)) = (completed_changed, count_indexes(completed, completions)) {
                let detail = format!("error parsing completedIndexes: {why}");
                errors.push(FieldError::invalid(&completed_path, completed, &detail));
            }
            if let (true, true, Some(failed)) = (failed_changed, self.spec.backoff_limit_per_index.is_some(), failed)
                && let Err(why) = count_indexes(failed, completions)
            {
                errors.push(FieldError::invalid(&failed_path, failed, &format!("error parsing failedIndexes: {why}")));
            }
        }
        if completed_changed && !completed.is_empty() && str_of(&self.spec.completion_mode) != "Indexed" {
            let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
            errors.push(FieldError::invalid(&completed_path, completed, detail));
        }
        let Some(failed) = failed else { return errors };
        if failed_changed && self.spec.backoff_limit_per_index.is_none() {
            let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
            errors.push(FieldError::invalid(&failed_path, failed, detail));
        }
        if let Some(completions) = self.spec.completions.filter(|_| failed_changed || completed_changed)
            && let Some(index) = overlap(completed, failed, completions)
        {
            let detail = format!("failedIndexes and completedIndexes overlap at index: {index}");
            errors.push(FieldError::invalid(&failed_path, failed, &detail));
        }
        errors
    }

    /// Pods that still end or are ready, and conditions that exclude success.
    fn pods(&self) -> Errors {
        let mut errors = Vec::new();
        let (status, before) = (self.status, self.before);
        let terminating = status.terminating.unwrap_or(0);
        if (self.finish_changed() || status.terminating != before.terminating) && terminating > 0 && self.is_finished()
        {
            let detail = "terminating>0 is invalid for finished job";
            errors.push(FieldError::invalid(&self.path.child("terminating"), terminating, detail));
        }
        let (ready, active) = (status.ready.unwrap_or(0), status.active.unwrap_or(0));
        let changed = status.ready != before.ready || active != before.active.unwrap_or(0);
        if changed && status.ready.is_some() && ready > active {
            let detail = "cannot set more ready pods than active";
            errors.push(FieldError::invalid(&self.path.child("ready"), ready, detail));
        }
        for other in ["Failed", "FailureTarget"] {
            if self.is("SuccessCriteriaMet") && self.is(other) {
                errors
                    .push(self.conditions(&format!("cannot set SuccessCriteriaMet=True and {other}=true conditions")));
            }
        }
        if self.spec.success_policy.is_some() && !self.is("SuccessCriteriaMet") && self.is("Complete") {
            let detail = "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
            errors.push(self.conditions(detail));
        }
        errors
    }

    /// What may not be taken back.
    fn transitions(&self) -> Errors {
        let mut errors = Vec::new();
        let (status, before) = (self.status, self.before);
        for ty in ["Failed", "Complete", "FailureTarget"] {
            if condition(self.old, ty) && !self.is(ty) {
                errors.push(self.conditions(&format!("cannot disable the terminal {ty}=True condition")));
            }
        }
        // The succeeded of an indexed job falls when it is scaled down.
        let scalable =
            str_of(&self.spec.completion_mode) == "Indexed" && self.spec.completions == self.spec.parallelism;
        let counters = [
            ("failed", status.failed, before.failed, true),
            ("succeeded", status.succeeded, before.succeeded, !scalable),
        ];
        for (field, now, before, only_grows) in counters {
            if only_grows && now.unwrap_or(0) < before.unwrap_or(0) {
                let detail = format!("cannot decrease the {field} counter");
                errors.push(FieldError::invalid(&self.path.child(field), now.unwrap_or(0), &detail));
            }
        }
        let times = status.completion_time.as_ref().zip(before.completion_time.as_ref());
        if times.is_some_and(|(now, before)| now != before) {
            let path = self.path.child("completionTime");
            errors.push(FieldError::invalid(&path, &json!(status.completion_time), crate::validation::IMMUTABLE));
        }
        let was_started = before.start_time.is_some() && self.start_changed();
        if was_started && !self.is_resuming() && self.spec.suspend != Some(true) {
            let detail = "field is immutable for unsuspended job once set";
            errors.push(FieldError::invalid(&self.path.child("startTime"), &json!(status.start_time), detail));
        }
        let met = condition(self.old, "SuccessCriteriaMet");
        if met && !self.is("SuccessCriteriaMet") {
            errors.push(self.conditions("cannot disable the SuccessCriteriaMet=True condition"));
        }
        if condition(self.old, "Complete") && !met && self.is("SuccessCriteriaMet") {
            let detail = "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
            errors.push(self.conditions(detail));
        }
        errors
    }

    fn is_resuming(&self) -> bool {
        let conditions = self.status.conditions.iter().flatten();
        condition(self.old, "Suspended")
            && conditions.into_iter().any(|c| c.type_ == "Suspended" && c.status == "False")
    }
}

fn count_of(pods: &UncountedTerminatedPods) -> usize {
    [&pods.succeeded, &pods.failed].into_iter().flatten().map(Vec::len).sum()
}

/// How many indexes a text names, each below `completions`.
pub(super) fn count_indexes(text: &str, completions: i32) -> Result<i32, String> {
    let (mut total, mut last) = (0, None);
    if text.is_empty() {
        return Ok(total);
    }
    for part in text.split(',') {
        let (first, end) = interval(part, completions)?;
        if let Some(last) = last.filter(|last| *last >= first) {
            return Err(format!("non-increasing order, previous: {last}, current: {first}"));
        }
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn interval(part: &str, completions: i32) -> Result<(i32, i32), String> {
    let limits: Vec<&str> = part.split('-').collect();
    if limits.len() > 2 {
        return Err(format!(
            "the fragment {part:?} violates the requirement that an index interval can have at most two parts separated by '-'"
        ));
    }
    let index = |text: &str| match text.parse::<i64>() {
        Err(_) => Err(format!("cannot convert string to integer for index: {text:?}")),
        Ok(index) if index >= i64::from(completions) => Err(format!("too large index: {text:?}")),
        // It is below an i32; what is below all of them is out of order anyway.
        Ok(index) => Ok(i32::try_from(index).unwrap_or(i32::MIN)),
    };
    let first = index(limits[0])?;
    let Some(end) = limits.get(1) else { return Ok((first, first)) };
    let end = index(end)?;
    if first >= end {
        return Err(format!("non-increasing order, previous: {first}, current: {end}"));
    }
    Ok((first, end))
}

/// The first index that is in both texts; parts that cannot be read do not count.
fn overlap(completed: &str, failed: &str, completions: i32) -> Option<i32> {
    let intervals = |text: &str| -> Vec<(i32, i32)> {
        text.split(',').filter_map(|part| interval(part, completions).ok()).collect()
    };
    let failed = intervals(failed);
    let pairs = intervals(completed).into_iter().flat_map(|c| failed.iter().map(move |f| (c, *f)));
    pairs.filter(|(c, f)| c.0 <= f.1 && f.0 <= c.1).map(|(c, f)| c.0.max(f.0)).min()
}

#[cfg(test)]
mod tests {
    use super::{Path, count_indexes, overlap, validate_status};
    use api::prelude::Job;

    #[test]
    fn what_is_done_stays_done() {
        let job = |status: &str| -> Job {
            let text = format!(r#"{{"metadata":{{"name":"a"}},"spec":{{"template":{{}}}},"status":{{{status}}}}}"#);
            serde_json::from_str(&text).expect("a job")
        };
        let done = r#""startTime":"2024-01-01T00:00:00Z","completionTime":"2024-01-01T00:01:00Z","conditions":[{"type":"SuccessCriteriaMet","status":"True"},{"type":"Complete","status":"True"}]"#;
        let errors = validate_status(&job(r#""startTime":"2025-01-01T00:00:00Z""#), &job(done), &Path::new("status"));
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "status.conditions: Invalid value: cannot disable the terminal Complete=True condition",
                r#"status.startTime: Invalid value: "2025-01-01T00:00:00Z": field is immutable for unsuspended job once set"#,
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ]
        );
        assert!(validate_status(&job(done), &job(done), &Path::new("status")).is_empty());
    }

    #[test]
    fn indexes_are_counted() {
        assert_eq!(count_indexes("", 3), Ok(0));
        assert_eq!(count_indexes("0,2-4,6", 7), Ok(5));
        assert_eq!(count_indexes("3", 3), Err("too large index: \"3\"".to_owned()));
        assert_eq!(count_indexes("1-0", 3), Err("non-increasing order, previous: 1, current: 0".to_owned()));
        assert_eq!(count_indexes("1,0", 3), Err("non-increasing order, previous: 1, current: 0".to_owned()));
        assert_eq!(count_indexes("-1", 3), Err("cannot convert string to integer for index: \"\"".to_owned()));
        assert!(count_indexes("0-1-2", 3).is_err());
    }

    #[test]
    fn failed_and_completed_indexes_must_not_meet() {
        assert_eq!(overlap("0-3,7", "4-6", 10), None);
        assert_eq!(overlap("0-3,7", "2,7", 10), Some(2));
        assert_eq!(overlap("x,7", "7", 10), Some(7));
    }
}
