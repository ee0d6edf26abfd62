//! Job and CronJob (`pkg/registry/batch/{job,cronjob}/strategy.go`, `pkg/apis/batch/validation/validation.go`).
//!
//! A job's selector is made from its UID, so name and UID are set before `prepare_create`, as upstream's generic
//! registry does.

use super::common::{
    age, age_column, bump_if_spec_changed, column, human_duration, name, name_column, set, since, str_of, text,
    typed_column, wide,
};
use super::job_status::{count_indexes, validate_status};
use super::pod::defaults;
use super::pod::validate::validate_template;
use super::pod::warnings::of_template;
use super::workload::{
    is_new_generation, labels_value, matches_template, name_warning, selector_cell, selector_value, template_cells,
    validate_counts, validate_immutable,
};
use super::{Column, GenerateName, Strategy};
use crate::cron::Schedule;
use crate::field::{ErrorType, Errors, FieldError, Path};
use crate::validation::{
    Messages, Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, is_label_key, one_of,
    validate_domain_prefixed_path, validate_label_selector, validate_non_negative,
};
use api::k8s::api::batch::v1::{
    CronJobSpec, CronJobStatus, JobSpec, JobStatus, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement,
    PodFailurePolicyOnPodConditionsPattern, PodFailurePolicyRule, SuccessPolicy, SuccessPolicyRule,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::{CronJob, Job, MetaExt, PodSpec, PodTemplateSpec};
use serde_json::{Value, json};

const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", "batch.kubernetes.io/controller-uid"];

/// What is particular about a Job: a generated selector, and a template that stays.
pub(super) struct JobKind;

impl Strategy for JobKind {
    type Object = Job;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn pod_spec(object: &mut Job) -> Option<&mut PodSpec> {
        object.spec.as_mut()?.template.spec.as_mut()
    }

    fn default(job: &mut Job) {
        let spec = job.spec.get_or_insert_default();
        default_spec(spec);
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        set(&mut spec.parallelism, 1);
        set(&mut spec.backoff_limit, if spec.backoff_limit_per_index.is_some() { i32::MAX } else { 6 });
        set(&mut spec.completion_mode, "NonIndexed".to_owned());
        set(&mut spec.suspend, false);
        let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        set(&mut spec.pod_replacement_policy, replacement.to_owned());
        set(&mut spec.manual_selector, false);
        default_labels(job);
    }

    fn prepare_create(job: &mut Job) {
        generate_selector(job);
        // Upstream's defaults come again when the stored object is read.
        default_labels(job);
        job.status = Some(JobStatus::default());
        job.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut Job, old: &Job) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut Job, old: &Job) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(job: &Job) -> Errors {
        let no_spec = JobSpec::default();
        let spec = job.spec.as_ref().unwrap_or(&no_spec);
        let path = Path::new("spec");
        let mut errors = validate_generated_selector(job, spec);
        errors.extend(validate_spec(spec, &path));
        match &spec.selector {
            None => errors.push(FieldError::required(&path.child("selector"), "")),
            Some(selector) => {
                errors.extend(validate_label_selector(Some(selector), &path.child("selector")));
            }
        }
        if !spec.selector.as_ref().is_some_and(|s| matches_template(s, &spec.template)) {
            let path = path.child("template").child("metadata").child("labels");
            let detail = "`selector` does not match template `labels`";
            errors.push(FieldError::invalid(&path, &labels_value(&spec.template), detail));
        }
        errors.extend(validate_indexed_name(job, spec));
        errors
    }

    fn validate_update(new: &Job, old: &Job) -> Errors {
        let (Some(new_spec), Some(old_spec)) = (&new.spec, &old.spec) else { return Vec::new() };
        validate_change(new_spec, old_spec, old, &Path::new("spec"))
    }

    fn validate_status_update(new: &Job, old: &Job) -> Errors {
        validate_status(new, old, &Path::new("status"))
    }

    fn warnings(job: &Job, old: Option<&Job>) -> Vec<String> {
        let mut warnings = if old.is_some() { Vec::new() } else { name_warning(job.name()) };
        if is_new_generation(job, old) {
            warnings.extend(job.spec.iter().flat_map(|spec| spec_warnings(spec, &Path::new("spec"))));
        }
        warnings
    }

    const SELECTABLE: &'static [&'static str] = &["status.successful"];

    fn selectable_fields(job: &Job) -> Vec<(&'static str, String)> {
        vec![("status.successful", job.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0).to_string())]
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Status"),
            column("Completions"),
            column("Duration"),
            age_column(),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(job: &Job, now: jiff::Timestamp) -> Vec<Value> {
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.clone().unwrap_or_default();
        let succeeded = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, parallel) if parallel > 1 => format!("{succeeded}/1 of {parallel}"),
            (None, _) => format!("{succeeded}/1"),
        };
        let duration = match (&status.start_time, &status.completion_time) {
            (None, _) => String::new(),
            (Some(start), None) => human_duration(now.duration_since(start.0)),
            (Some(start), Some(end)) => human_duration(end.0.duration_since(start.0)),
        };
        let [names, images] = template_cells(Some(&spec.template));
        vec![
            name(job),
            status_text(job).into(),
            completions.into(),
            duration.into(),
            age(job, now),
            names,
            images,
            selector_cell(spec.selector.as_ref()),
        ]
    }

    fn quantities(job: &mut Job, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = job.spec.as_mut().and_then(|s| s.template.spec.as_mut()) {
            defaults::quantities(spec, visit);
        }
    }
}

/// The warnings about a job spec at `path` (`WarningsForJobSpec`).
fn spec_warnings(spec: &JobSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_indexed = str_of(&spec.completion_mode) == "Indexed";
    if is_indexed && spec.completions.unwrap_or(0) > 100_000 && spec.parallelism.unwrap_or(0) > 10_000 {
        warnings.push(format!("{path}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"));
    }
    warnings.extend(of_template(&spec.template, &path.child("template")));
    warnings
}

/// Defaults of a job spec wherever it stands, also in a CronJob.
fn default_spec(spec: &mut JobSpec) {
    defaults::template(&mut spec.template);
    let rules = spec.pod_failure_policy.iter_mut().flat_map(|p| &mut p.rules);
    for pattern in rules.flat_map(|r| r.on_pod_conditions.iter_mut().flatten()) {
        text(&mut pattern.status, "True");
    }
}

/// A job without labels has those of its pods.
fn default_labels(job: &mut Job) {
    let template = job.spec.as_ref().and_then(|spec| spec.template.metadata.as_ref()).and_then(|m| m.labels.clone());
    if job.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) && template.is_some() {
        job.metadata.labels = template;
    }
}

/// Labels pods with name and UID and selects the UID, unless the user selects by hand. What the user set stays;
/// validation refuses it if it is wrong.
fn generate_selector(job: &mut Job) {
    let (name, uid) = (job.name().to_owned(), job.uid().to_owned());
    let Some(spec) = job.spec.as_mut().filter(|s| s.manual_selector != Some(true)) else { return };
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            labels.entry(key.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let selector = spec.selector.get_or_insert_default().match_labels.get_or_insert_default();
    selector.entry(UID_LABELS[1].to_owned()).or_insert(uid);
}

/// Whether a job has a condition.
pub(super) fn condition(job: &Job, ty: &str) -> bool {
    let conditions = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().find(|c| c.type_ == ty).is_some_and(|c| c.status == "True")
}

fn status_text(job: &Job) -> &'static str {
    for (ty, text) in [("Complete", "Complete"), ("Failed", "Failed")] {
        if condition(job, ty) {
            return text;
        }
    }
    if job.is_deleting() {
        return "Terminating";
    }
    let rest =
        [("Suspended", "Suspended"), ("FailureTarget", "FailureTarget"), ("SuccessCriteriaMet", "SuccessCriteriaMet")];
    rest.iter().find(|(ty, _)| condition(job, ty)).map_or("Running", |(_, text)| text)
}

fn validate_generated_selector(job: &Job, spec: &JobSpec) -> Errors {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    if job.uid().is_empty() {
        errors.push(FieldError::required(&Path::new("metadata").child("uid"), ""));
    }
    let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let pairs = [
        (UID_LABELS[0], job.uid()),
        (NAME_LABELS[0], job.name()),
        (UID_LABELS[1], job.uid()),
        (NAME_LABELS[1], job.name()),
    ];
    for (key, expected) in pairs {
        let detail = format!("must be '{expected}'");
        match labels.get(key) {
            None => errors.push(FieldError::required(&path.key(key), &detail)),
            Some(value) if value != expected => {
                errors.push(FieldError::invalid(&path.key(key), &json!(labels), &detail));
            }
            Some(_) => {}
        }
    }
    let expected = PodTemplateSpec {
        metadata: Some(api::ObjectMeta {
            labels: Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()),
            ..Default::default()
        }),
        spec: None,
    };
    if !matches_template(selector, &expected) {
        let path = Path::new("spec").child("selector");
        errors.push(FieldError::invalid(&path, selector_value(selector), "`selector` not auto-generated"));
    }
    errors
}

fn validate_indexed_name(job: &Job, spec: &JobSpec) -> Errors {
    let completions = spec.completions.unwrap_or(0);
    if str_of(&spec.completion_mode) != "Indexed" || completions <= 0 {
        return Vec::new();
    }
    let host = format!("{}-{}", job.name(), completions - 1);
    if is_dns1123_label(&host).is_empty() {
        return Vec::new();
    }
    let detail = format!("will not able to create pod with invalid DNS label: {host}");
    vec![FieldError::invalid(&Path::new("metadata").child("name"), job.name(), &detail)]
}

fn validate_spec(spec: &JobSpec, path: &Path) -> Errors {
    let counts = [("parallelism", spec.parallelism), ("completions", spec.completions)];
    let mut errors = validate_counts(counts, path);
    if let Some(seconds) = spec.active_deadline_seconds {
        errors.extend(validate_non_negative(seconds, &path.child("activeDeadlineSeconds")));
    }
    let counts = [
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ];
    errors.extend(validate_counts(counts, path));
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.push(FieldError::required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = &spec.managed_by {
        errors.extend(validate_domain_prefixed_path(manager, &path.child("managedBy")));
        if manager.len() > 63 {
            errors.push(FieldError::too_long(&path.child("managedBy"), 63));
        }
    }
    errors.extend(validate_indexes(spec, path));
    errors.extend(validate_policies(spec, path));
    errors.extend(validate_template(&spec.template, &path.child("template")));
    errors.extend(validate_restart(spec, &path.child("template").child("spec").child("restartPolicy")));
    errors
}

fn validate_indexes(spec: &JobSpec, path: &Path) -> Errors {
    const MOST: i32 = 100_000;
    let mut errors = Vec::new();
    let mode = spec.completion_mode.as_deref();
    if let Some(mode) = mode {
        one_of(&mut errors, &path.child("completionMode"), mode, &["NonIndexed", "Indexed"]);
    }
    if mode == Some("Indexed") {
        if spec.completions.is_none() {
            errors.push(FieldError::required(&path.child("completions"), "when completion mode is Indexed"));
        }
        if let Some(parallel) = spec.parallelism.filter(|p| *p > MOST) {
            let detail = "must be less than or equal to 100000 when completion mode is Indexed";
            errors.push(FieldError::invalid(&path.child("parallelism"), parallel, detail));
        }
        if let Some(failed) = spec.max_failed_indexes {
            let path = path.child("maxFailedIndexes");
            if spec.completions.is_some_and(|c| failed > c) {
                errors.push(FieldError::invalid(&path, failed, "must be less than or equal to completions"));
            }
            if failed > MOST {
                errors.push(FieldError::invalid(&path, failed, "must be less than or equal to 100000"));
            }
        }
        errors.extend(validate_many_indexes(spec, path));
    } else if matches!(mode, None | Some("NonIndexed")) {
        let fields =
            [("backoffLimitPerIndex", spec.backoff_limit_per_index), ("maxFailedIndexes", spec.max_failed_indexes)];
        for (field, value) in fields {
            if let Some(value) = value {
                errors.push(FieldError::invalid(&path.child(field), value, "requires indexed completion mode"));
            }
        }
    }
    errors
}

/// With more than 100000 completions and a limit per index, less may run and fail at once.
fn validate_many_indexes(spec: &JobSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if spec.completions.unwrap_or(0) <= 100_000 || spec.backoff_limit_per_index.is_none() {
        return errors;
    }
    if spec.max_failed_indexes.is_none() {
        let detail = "must be specified when completions is above 100000";
        errors.push(FieldError::required(&path.child("maxFailedIndexes"), detail));
    }
    for (field, value) in [("parallelism", spec.parallelism), ("maxFailedIndexes", spec.max_failed_indexes)] {
        if let Some(value) = value.filter(|v| *v > 10_000) {
            let detail = "must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index";
            errors.push(FieldError::invalid(&path.child(field), value, detail));
        }
    }
    errors
}

fn validate_policies(spec: &JobSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy").child("rules");
        if policy.rules.len() > 20 {
            errors.push(FieldError::too_many(&path, policy.rules.len(), 20));
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            errors.extend(validate_rule(spec, rule, &path.index(i)));
        }
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        if str_of(&spec.completion_mode) != "Indexed" {
            errors.push(FieldError::invalid(&path, success_value(policy), "requires indexed completion mode"));
        } else {
            errors.extend(validate_success(policy, spec.completions, &path.child("rules")));
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let supported: &[&str] =
            if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        one_of(&mut errors, &path.child("podReplacementPolicy"), policy, supported);
    }
    errors
}

fn validate_success(policy: &SuccessPolicy, completions: Option<i32>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if policy.rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path, detail));
    }
    if policy.rules.len() > 20 {
        errors.push(FieldError::too_many(path, policy.rules.len(), 20));
    }
    for (i, rule) in policy.rules.iter().enumerate() {
        // Upstream's server fails on an indexed job without completions; here that is an error of the completions alone.
        if let Some(completions) = completions {
            errors.extend(validate_success_rule(rule, completions, &path.index(i)));
        }
    }
    errors
}

fn validate_success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path) -> Errors {
    const LONGEST: usize = 64 * 1024;
    let mut errors = Vec::new();
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut total = None;
    if let Some(indexes) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if indexes.len() > LONGEST {
            errors.push(FieldError::too_long(&path, LONGEST));
        }
        total = Some(count_indexes(indexes, completions).unwrap_or_else(|why| {
            errors.push(FieldError::invalid(&path, indexes, &format!("error parsing succeededIndexes: {why}")));
            0
        }));
    }
    if let Some(count) = rule.succeeded_count {
        let path = path.child("succeededCount");
        errors.extend(validate_non_negative(i64::from(count), &path));
        let limits = [
            (Some(completions), "the number of specified completions"),
            (total, "the number of indexes in the specified succeededIndexes field"),
        ];
        for (most, what) in limits {
            if let Some(most) = most.filter(|most| count > *most) {
                errors.push(FieldError::invalid(
                    &path,
                    count,
                    &format!("must be less than or equal to {most} ({what})"),
                ));
            }
        }
    }
    errors
}

/// A list as Go shows one that is empty: as null.
fn or_null<T>(items: &[T], show: impl Fn(&T) -> String) -> String {
    if items.is_empty() {
        return "null".to_owned();
    }
    format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(","))
}

/// A success policy as messages show it: upstream's internal struct.
fn success_value(policy: &SuccessPolicy) -> Raw {
    let rule = |rule: &SuccessPolicyRule| {
        let (indexes, count) = (json!(rule.succeeded_indexes), json!(rule.succeeded_count));
        format!(r#"{{"SucceededIndexes":{indexes},"SucceededCount":{count}}}"#)
    };
    Raw(format!(r#"{{"Rules":{}}}"#, or_null(&policy.rules, rule)))
}

/// A failure policy as messages show it: upstream's internal struct.
fn failure_value(policy: &PodFailurePolicy) -> Raw {
    let codes = |codes: &PodFailurePolicyOnExitCodesRequirement| {
        let (container, operator) = (json!(codes.container_name), json!(codes.operator));
        let values = or_null(&codes.values, i32::to_string);
        format!(r#"{{"ContainerName":{container},"Operator":{operator},"Values":{values}}}"#)
    };
    let pattern = |pattern: &PodFailurePolicyOnPodConditionsPattern| {
        format!(r#"{{"Type":{},"Status":{}}}"#, json!(pattern.type_), json!(str_of(&pattern.status)))
    };
    let rule = |rule: &PodFailurePolicyRule| {
        let codes = rule.on_exit_codes.as_ref().map_or_else(|| "null".to_owned(), codes);
        let patterns = or_null(rule.on_pod_conditions.as_deref().unwrap_or_default(), pattern);
        format!(r#"{{"Action":{},"OnExitCodes":{codes},"OnPodConditions":{patterns}}}"#, json!(rule.action))
    };
    Raw(format!(r#"{{"Rules":{}}}"#, or_null(&policy.rules, rule)))
}

/// `Invalid value: detail` without the value.
pub(super) fn invalid_without_value(path: &Path, detail: &str) -> FieldError {
    FieldError { kind: ErrorType::Invalid, path: path.clone(), body: format!("Invalid value: {detail}") }
}

fn validate_rule(spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path) -> Errors {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    let mut errors = Vec::new();
    match rule.action.as_str() {
        "" => {
            let detail = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            errors.push(FieldError::required(&path.child("action"), detail));
        }
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(&path.child("action"), "FailIndex", detail));
        }
        other => one_of(&mut errors, &path.child("action"), other, ACTIONS),
    }
    let conditions = rule.on_pod_conditions.as_deref().unwrap_or_default();
    if let Some(codes) = &rule.on_exit_codes {
        errors.extend(validate_exit_codes(spec, codes, &path.child("onExitCodes")));
    }
    for (i, pattern) in conditions.iter().enumerate() {
        let path = path.child("onPodConditions").index(i);
        errors.extend(invalid_each(&path.child("type"), &pattern.type_, is_label_key(&pattern.type_)));
        one_of(&mut errors, &path.child("status"), str_of(&pattern.status), &["False", "True", "Unknown"]);
    }
    match (rule.on_exit_codes.is_some(), conditions.is_empty()) {
        (true, false) => {
            errors.push(invalid_without_value(path, "specifying both OnExitCodes and OnPodConditions is not supported"))
        }
        (false, true) => {
            errors.push(invalid_without_value(path, "specifying one of OnExitCodes and OnPodConditions is required"))
        }
        _ => {}
    }
    errors
}

fn validate_exit_codes(spec: &JobSpec, codes: &PodFailurePolicyOnExitCodesRequirement, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if codes.operator.is_empty() {
        errors.push(FieldError::required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]"));
    } else {
        one_of(&mut errors, &path.child("operator"), &codes.operator, &["In", "NotIn"]);
    }
    if let Some(container) = &codes.container_name {
        let no_spec = PodSpec::default();
        let pod = spec.template.spec.as_ref().unwrap_or(&no_spec);
        let mut known = pod.containers.iter().chain(pod.init_containers.iter().flatten());
        if !known.any(|c| c.name == *container) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.push(FieldError::invalid(&path.child("containerName"), container, detail));
        }
    }
    let path = path.child("values");
    let values = &codes.values;
    if values.is_empty() {
        errors.push(FieldError::invalid(&path, &Value::Null, "at least one value is required"));
    } else if values.len() > 255 {
        errors.push(FieldError::too_many(&path, values.len(), 255));
    }
    for (i, value) in values.iter().enumerate() {
        if codes.operator == "In" && *value == 0 {
            errors.push(FieldError::invalid(&path.index(i), 0, "must not be 0 for the In operator"));
        }
        if values[..i].contains(value) {
            errors.push(FieldError::duplicate(&path.index(i), *value));
        }
    }
    if !values.is_sorted() {
        errors.push(FieldError::invalid(&path, &json!(values), "must be ordered"));
    }
    errors
}

fn validate_restart(spec: &JobSpec, path: &Path) -> Errors {
    let policy = spec.template.spec.as_ref().map(|s| str_of(&s.restart_policy)).unwrap_or_default();
    match policy {
        "" | "Always" => vec![FieldError::required(path, "valid values: \"OnFailure\", \"Never\"")],
        "Never" => Vec::new(),
        "OnFailure" if spec.pod_failure_policy.is_none() => Vec::new(),
        "OnFailure" => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            vec![FieldError::invalid(path, policy, detail)]
        }
        _ => vec![FieldError::not_supported(path, policy, &["OnFailure", "Never"])],
    }
}

fn shown_or_null<T>(value: Option<&T>, show: impl FnOnce(&T) -> Raw) -> Raw {
    value.map_or_else(|| Raw("null".to_owned()), show)
}

fn validate_change(new: &JobSpec, old: &JobSpec, old_job: &Job, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let count = |value: Option<i32>| json!(value);
    let completions = path.child("completions");
    if str_of(&new.completion_mode) != "Indexed" {
        errors.extend(validate_immutable(&new.completions, &old.completions, || count(new.completions), &completions));
    } else if new.completions != old.completions
        && let Some(wanted) = new.completions.filter(|c| Some(*c) != new.parallelism)
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.push(FieldError::invalid(&completions, wanted, detail));
    }
    let selector = || shown_or_null(new.selector.as_ref(), selector_value);
    errors.extend(validate_immutable(&new.selector, &old.selector, selector, &path.child("selector")));
    errors.extend(validate_template_change(new, old, old_job, &path.child("template")));
    let mode = || json!(new.completion_mode);
    errors.extend(validate_immutable(&new.completion_mode, &old.completion_mode, mode, &path.child("completionMode")));
    let policy = path.child("podFailurePolicy");
    let failure = || shown_or_null(new.pod_failure_policy.as_ref(), failure_value);
    errors.extend(validate_immutable(&new.pod_failure_policy, &old.pod_failure_policy, failure, &policy));
    let limit = path.child("backoffLimitPerIndex");
    let value = || count(new.backoff_limit_per_index);
    errors.extend(validate_immutable(&new.backoff_limit_per_index, &old.backoff_limit_per_index, value, &limit));
    let manager = || json!(new.managed_by);
    errors.extend(validate_immutable(&new.managed_by, &old.managed_by, manager, &path.child("managedBy")));
    let path = path.child("successPolicy");
    let success = || shown_or_null(new.success_policy.as_ref(), success_value);
    errors.extend(validate_immutable(&new.success_policy, &old.success_policy, success, &path));
    errors
}

/// The template stays; while the job is suspended and nothing runs, where its pods go and what they need may change.
fn validate_template_change(new: &JobSpec, old: &JobSpec, old_job: &Job, path: &Path) -> Errors {
    let mut expected = old.template.clone();
    let suspended = old.suspend == Some(true);
    let status = old_job.status.clone().unwrap_or_default();
    let idle = status.start_time.is_none() || condition(old_job, "Suspended");
    if suspended && idle && status.active.unwrap_or(0) == 0 {
        expected.metadata = new.template.metadata.clone();
        if let (Some(expected), Some(new)) = (&mut expected.spec, &new.template.spec) {
            allow_scheduling(expected, new);
        }
    }
    validate_immutable(&new.template, &expected, || labels_value(&new.template), path)
}

fn allow_scheduling(expected: &mut PodSpec, new: &PodSpec) {
    expected.node_selector = new.node_selector.clone();
    expected.tolerations = new.tolerations.clone();
    expected.scheduling_gates = new.scheduling_gates.clone();
    let node = new.affinity.as_ref().and_then(|a| a.node_affinity.clone());
    if let Some(affinity) = &mut expected.affinity {
        affinity.node_affinity = node;
        if *affinity == Default::default() {
            expected.affinity = None;
        }
    } else if node.is_some() {
        expected.affinity = Some(api::k8s::api::core::v1::Affinity { node_affinity: node, ..Default::default() });
    }
    let init = new.init_containers.as_deref().unwrap_or_default();
    let pairs = expected.containers.iter_mut().zip(&new.containers);
    for (expected, new) in pairs.chain(expected.init_containers.iter_mut().flatten().zip(init)) {
        if expected.name == new.name {
            expected.resources = new.resources.clone();
        }
    }
}

/// What is particular about a CronJob: its schedule.
pub(super) struct CronJobKind;

impl Strategy for CronJobKind {
    type Object = CronJob;

    fn pod_spec(object: &mut CronJob) -> Option<&mut PodSpec> {
        object.spec.job_template.spec.as_mut()?.template.spec.as_mut()
    }

    fn default(job: &mut CronJob) {
        let spec = &mut job.spec;
        text(&mut spec.concurrency_policy, "Allow");
        set(&mut spec.suspend, false);
        set(&mut spec.successful_jobs_history_limit, 3);
        set(&mut spec.failed_jobs_history_limit, 1);
        spec.job_template.metadata.get_or_insert_default();
        default_spec(spec.job_template.spec.get_or_insert_default());
    }

    fn prepare_create(job: &mut CronJob) {
        job.status = Some(CronJobStatus::default());
        job.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut CronJob, old: &CronJob) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut CronJob, old: &CronJob) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(job: &CronJob) -> Errors {
        validate_cron_spec(&job.spec, &Path::new("spec"))
    }

    fn validate_create(job: &CronJob) -> Errors {
        if job.name().len() <= 52 {
            return Vec::new();
        }
        let path = Path::new("metadata").child("name");
        vec![FieldError::invalid(&path, job.name(), "must be no more than 52 characters")]
    }

    fn warnings(job: &CronJob, old: Option<&CronJob>) -> Vec<String> {
        let mut warnings = if old.is_some() { Vec::new() } else { name_warning(job.name()) };
        if is_new_generation(job, old) {
            let path = Path::new("spec").child("jobTemplate").child("spec");
            warnings.extend(job.spec.job_template.spec.iter().flat_map(|spec| spec_warnings(spec, &path)));
        }
        // Validation takes it only from a job that had it before. The path is upstream's.
        if old.is_some() && job.spec.schedule.contains("TZ") {
            let text = "cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details";
            warnings.push(text.to_owned());
        }
        warnings
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Schedule"),
            column("Timezone"),
            typed_column("Suspend", "boolean"),
            typed_column("Active", "integer"),
            column("Last Schedule"),
            age_column(),
            wide("Containers"),
            wide("Images"),
            wide("Selector"),
        ]
    }

    fn cells(job: &CronJob, now: jiff::Timestamp) -> Vec<Value> {
        let spec = job.spec.clone();
        let status = job.status.clone().unwrap_or_default();
        let last = status.last_schedule_time.as_ref().map_or_else(|| "<none>".to_owned(), |t| since(Some(t), now));
        let suspend = spec.suspend.map_or("<unset>", |s| if s { "True" } else { "False" });
        let template = spec.job_template.spec.unwrap_or_default();
        let [names, images] = template_cells(Some(&template.template));
        vec![
            name(job),
            spec.schedule.into(),
            spec.time_zone.unwrap_or_else(|| "<none>".to_owned()).into(),
            suspend.into(),
            status.active.map_or(0, |a| a.len()).into(),
            last.into(),
            age(job, now),
            names,
            images,
            selector_cell(template.selector.as_ref()),
        ]
    }

    fn quantities(job: &mut CronJob, visit: &mut dyn FnMut(&mut Quantity)) {
        let template = job.spec.job_template.spec.as_mut().map(|s| &mut s.template);
        if let Some(spec) = template.and_then(|t| t.spec.as_mut()) {
            defaults::quantities(spec, visit);
        }
    }
}

fn validate_cron_spec(spec: &CronJobSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let schedule = spec.schedule.as_str();
    if schedule.is_empty() {
        errors.push(FieldError::required(&path.child("schedule"), ""));
    } else {
        if let Err(message) = Schedule::parse(schedule) {
            errors.push(FieldError::invalid(&path.child("schedule"), schedule, &message));
        }
        if schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.push(FieldError::invalid(&path.child("schedule"), schedule, detail));
        }
    }
    if let Some(seconds) = spec.starting_deadline_seconds {
        errors.extend(validate_non_negative(seconds, &path.child("startingDeadlineSeconds")));
    }
    errors.extend(validate_time_zone(spec.time_zone.as_deref(), &path.child("timeZone")));
    let policy = str_of(&spec.concurrency_policy);
    one_of(&mut errors, &path.child("concurrencyPolicy"), policy, &["Allow", "Forbid", "Replace"]);
    let template = spec.job_template.spec.clone().unwrap_or_default();
    let template_path = path.child("jobTemplate").child("spec");
    errors.extend(validate_spec(&template, &template_path));
    if let Some(selector) = &template.selector {
        let path = template_path.child("selector");
        errors.push(FieldError::invalid(&path, selector_value(selector), "`selector` will be auto-generated"));
    }
    if template.manual_selector == Some(true) {
        errors.push(FieldError::not_supported(&template_path.child("manualSelector"), true, &["nil", "false"]));
    }
    let limits = [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ];
    errors.extend(validate_counts(limits, path));
    errors
}

/// Time zones that there are, by their exact names.
fn validate_time_zone(zone: Option<&str>, path: &Path) -> Errors {
    let Some(zone) = zone else { return Vec::new() };
    if zone.is_empty() {
        return vec![FieldError::invalid(path, zone, "timeZone must be nil or non-empty string")];
    }
    if zone.eq_ignore_ascii_case("Local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        return vec![FieldError::invalid(path, zone, detail)];
    }
    if crate::time_zone::find(zone).is_none() {
        return vec![FieldError::invalid(path, zone, &format!("unknown time zone {zone}"))];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update, created};
    use expect_test::expect;

    const JOB: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: pi, uid: '7'}
spec:
  template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'pi:1'}]}}";

    const CRON: &str = "
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: '*/5 * * * *'
  jobTemplate: {spec: {template: {spec: {restartPolicy: Never, containers: [{name: c, image: 'pi:1'}]}}}}";

    #[test]
    fn defaults_and_mistakes() {
        check_defaults(
            JOB,
            expect![[r#"
            spec.backoffLimit: 6
            spec.completionMode: "NonIndexed"
            spec.completions: 1
            spec.manualSelector: false
            spec.parallelism: 1
            spec.podReplacementPolicy: "TerminatingOrFailed"
            spec.suspend: false
            spec.template.spec.containers[0].imagePullPolicy: "IfNotPresent"
            spec.template.spec.containers[0].resources: {}
            spec.template.spec.containers[0].terminationMessagePath: "/dev/termination-log"
            spec.template.spec.containers[0].terminationMessagePolicy: "File"
            spec.template.spec.dnsPolicy: "ClusterFirst"
            spec.template.spec.schedulerName: "default-scheduler"
            spec.template.spec.securityContext: {}
            spec.template.spec.terminationGracePeriodSeconds: 30"#]],
        );
        check_create(JOB, expect![""]);
        check_create(
            &JOB.replace("restartPolicy: Never, ", ""),
            expect![[r#"spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#]],
        );
        check_create(
            &JOB.replace(
                "  template",
                "  completionMode: Indexed\n  completions: 0\n  parallelism: -1\n  maxFailedIndexes: 3\n  template",
            ),
            expect![[r#"
            spec.parallelism: Invalid value: -1: must be greater than or equal to 0
            spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified
            spec.maxFailedIndexes: Invalid value: 3: must be less than or equal to completions"#]],
        );
    }

    #[test]
    fn a_new_job_without_labels_has_those_of_its_pods() {
        let labels =
            |yaml: &str| created(yaml).1.meta().labels.clone().unwrap_or_default().into_keys().collect::<Vec<_>>();
        let all = ["batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name", "controller-uid", "job-name"];
        assert_eq!(labels(JOB), all);
        assert_eq!(labels(&JOB.replace("name: pi,", "name: pi, labels: {own: x},")), ["own"]);
    }

    #[test]
    fn the_template_stays_unless_suspended() {
        let with_labels = JOB.replace("template: {", "selector: {matchLabels: {batch.kubernetes.io/controller-uid: '7'}}\n  template: {metadata: {labels: {controller-uid: '7', batch.kubernetes.io/controller-uid: '7', job-name: pi, batch.kubernetes.io/job-name: pi}}, ");
        check_update(
            &with_labels,
            &with_labels.replace("pi:1", "pi:2"),
            None,
            expect![[
                r#"spec.template: Invalid value: {"batch.kubernetes.io/controller-uid":"7","batch.kubernetes.io/job-name":"pi","controller-uid":"7","job-name":"pi"}: field is immutable"#
            ]],
        );
        check_update(
            &with_labels,
            &with_labels.replace("  selector", "  completions: 1\n  parallelism: 2\n  selector"),
            None,
            expect!["generation 2"],
        );
        let suspended = with_labels.replace("  selector", "  suspend: true\n  selector");
        check_update(
            &suspended,
            &suspended.replace("restartPolicy", "nodeSelector: {a: b}, restartPolicy"),
            None,
            expect!["generation 2"],
        );
    }

    #[test]
    fn success_policies_name_indexes_that_there_are() {
        let with = |rules: &str| {
            let text =
                format!("completionMode: Indexed\n  completions: 3\n  successPolicy: {{rules: [{rules}]}}\n  template");
            JOB.replace("template", &text)
        };
        check_create(&with("{succeededIndexes: '0-1', succeededCount: 2}"), expect![""]);
        check_create(
            &with("{}, {succeededIndexes: '2-5'}, {succeededIndexes: '0', succeededCount: 4}"),
            expect![[r#"
            spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified
            spec.successPolicy.rules[1].succeededIndexes: Invalid value: "2-5": error parsing succeededIndexes: too large index: "5"
            spec.successPolicy.rules[2].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)
            spec.successPolicy.rules[2].succeededCount: Invalid value: 4: must be less than or equal to 1 (the number of indexes in the specified succeededIndexes field)"#]],
        );
        check_create(
            &with("{succeededCount: 1}").replace("completionMode: Indexed\n  ", ""),
            expect![[
                r#"spec.successPolicy: Invalid value: {"Rules":[{"SucceededIndexes":null,"SucceededCount":1}]}: requires indexed completion mode"#
            ]],
        );
    }

    #[test]
    fn a_status_keeps_its_word() {
        let status = |fields: &str| format!("{JOB}\nstatus: {{{fields}}}");
        let done = "startTime: '2024-01-01T00:00:00Z', completionTime: '2024-01-01T00:01:00Z', conditions: [{type: SuccessCriteriaMet, status: 'True'}, {type: Complete, status: 'True'}]";
        check_update(JOB, &status(done), Some("status"), expect!["generation 1"]);
        check_update(
            JOB,
            &status("active: 1, conditions: [{type: Complete, status: 'True'}]"),
            Some("status"),
            expect![[r#"
            status.completionTime: Required value: completionTime is required for Complete jobs
            status.conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition
            status.active: Invalid value: 1: active>0 is invalid for finished job
            status.startTime: Required value: startTime is required for finished job"#]],
        );
    }

    #[test]
    fn schedules() {
        check_create(CRON, expect![""]);
        check_create(
            &CRON.replace("*/5 * * * *", "* * *").replace("Never", "Always"),
            expect![[r#"
            spec.schedule: Invalid value: "* * *": expected exactly 5 fields, found 3: [* * *]
            spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never""#]],
        );
        check_create(
            &CRON.replace("*/5 * * * *", "TZ=UTC 61 * * * *"),
            expect![[r#"
            spec.schedule: Invalid value: "TZ=UTC 61 * * * *": end of range (61) above maximum (59): 61
            spec.schedule: Invalid value: "TZ=UTC 61 * * * *": cannot use TZ or CRON_TZ in schedule, use timeZone field instead"#]],
        );
    }

    #[test]
    fn rows() {
        check_row(
            &format!(
                "{JOB}\nstatus: {{succeeded: 1, startTime: '2024-01-01T00:00:00Z', completionTime: '2024-01-01T00:01:05Z', conditions: [{{type: Complete, status: 'True'}}]}}"
            ),
            expect![[r#"
            Name | Status | Completions | Duration | Age | Containers | Images | Selector
            pi | Complete | 1/1 | 65s | <unknown> | c | pi:1 | <none>"#]],
        );
        check_row(
            CRON,
            expect![[r#"
            Name | Schedule | Timezone | Suspend | Active | Last Schedule | Age | Containers | Images | Selector
            tick | */5 * * * * | <none> | <unset> | 0 | <none> | <unknown> | c | pi:1 | <none>"#]],
        );
    }
}
