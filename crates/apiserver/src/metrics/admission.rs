//! Admission: its steps, plugins, webhooks and policies (`apiserver/pkg/admission/metrics/metrics.go`,
//! `…/plugin/policy/{validating,mutating}/metrics`, `apiserver/pkg/cel/metrics`).

use super::{Family, PodSecurityMetrics};
use crate::admission::Operation;
use prometheus::{Histogram, HistogramVec, IntCounterVec};
use std::sync::OnceLock;
use std::time::Duration;

const SECONDS: [f64; 6] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5];
const WEBHOOK_SECONDS: [f64; 8] = [0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 10.0, 25.0];
const POLICY_SECONDS: [f64; 5] = [0.000_000_5, 0.001, 0.01, 0.1, 1.0];

/// A step of admission.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Phase {
    /// What changes objects.
    Admit,
    /// What judges them.
    Validate,
}

impl Phase {
    fn step(self) -> &'static str {
        match self {
            Phase::Admit => "admit",
            Phase::Validate => "validate",
        }
    }

    /// As metrics of webhooks call it.
    fn of_webhooks(self) -> &'static str {
        match self {
            Phase::Admit => "admit",
            Phase::Validate => "validating",
        }
    }
}

/// Durations by step, operation and outcome. Found once, since every write is measured many times.
struct Timings {
    histograms: HistogramVec,
    /// Empty for all steps together.
    name: &'static str,
    found: [OnceLock<Histogram>; 16],
}

impl Timings {
    fn new(histograms: &HistogramVec, name: &'static str) -> Self {
        Timings { histograms: histograms.clone(), name, found: Default::default() }
    }

    fn observe(&self, phase: Phase, operation: Operation, rejected: bool, took: Duration) {
        let place = (phase as usize) * 8 + (operation as usize) * 2 + usize::from(rejected);
        let histogram = self.found[place].get_or_init(|| {
            let rejected = if rejected { "true" } else { "false" };
            match self.name {
                "" => self.histograms.with_label_values(&[phase.step(), operation.as_str(), rejected]),
                name => self.histograms.with_label_values(&[name, phase.step(), operation.as_str(), rejected]),
            }
        });
        histogram.observe(took.as_secs_f64());
    }
}

/// A call of a webhook, as it ended.
pub(crate) struct WebhookCall<'a> {
    pub(crate) name: &'a str,
    pub(crate) phase: Phase,
    pub(crate) operation: Operation,
    pub(crate) took: Duration,
    /// What it answered, or what stands for it.
    pub(crate) code: u16,
    /// `None`: the request goes on.
    pub(crate) rejection: Option<Rejection>,
}

/// Why a webhook ended a request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Rejection {
    /// It said no.
    Answer,
    /// It could not be asked.
    Calling,
    /// We could not use what it said.
    Internal,
}

/// One evaluation of a policy.
pub(crate) struct PolicyCheck<'a> {
    pub(crate) policy: &'a str,
    pub(crate) binding: &'a str,
    /// `no_error`, `compile_error`, `invalid_error`, `out_of_budget`
    pub(crate) error: &'static str,
    /// `allow`, `deny`, `audit`, `warn`
    pub(crate) action: &'static str,
    pub(crate) took: Duration,
}

/// What admission counts.
pub struct AdmissionMetrics {
    steps: Timings,
    controllers: HistogramVec,
    plugins: OnceLock<Vec<Timings>>,
    webhooks: HistogramVec,
    webhook_requests: IntCounterVec,
    webhook_rejections: IntCounterVec,
    webhooks_open: IntCounterVec,
    policies: IntCounterVec,
    policy_seconds: HistogramVec,
    mutations: IntCounterVec,
    mutation_seconds: HistogramVec,
    pub(crate) pod_security: PodSecurityMetrics,
    cel: Histogram,
}

impl AdmissionMetrics {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let name = |rest: &str| format!("apiserver_admission_{rest}");
        let policy = ["policy", "policy_binding", "error_type", "enforcement_action"];
        let mutation = &policy[..3];
        let steps = family.histogram(
            &name("step_admission_duration_seconds"),
            "[STABLE] Admission sub-step latency histogram in seconds, broken out for each operation and API resource and step type (validate or admit).",
            &["type", "operation", "rejected"],
            &SECONDS,
        );
        let cel = family.histogram(
            "apiserver_cel_evaluation_duration_seconds",
            "[BETA] CEL evaluation time in seconds.",
            &[],
            prometheus::DEFAULT_BUCKETS,
        );
        AdmissionMetrics {
            steps: Timings::new(&steps, ""),
            controllers: family.histogram(
                &name("controller_admission_duration_seconds"),
                "[STABLE] Admission controller latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                &["name", "type", "operation", "rejected"],
                &SECONDS,
            ),
            plugins: OnceLock::new(),
            webhooks: family.histogram(
                &name("webhook_admission_duration_seconds"),
                "[STABLE] Admission webhook latency histogram in seconds, identified by name and broken out for each operation and API resource and type (validate or admit).",
                &["name", "type", "operation", "rejected"],
                &WEBHOOK_SECONDS,
            ),
            webhook_requests: family.counter(
                &name("webhook_request_total"),
                "[ALPHA] Admission webhook request total, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify whether the request was rejected or not and an HTTP status code. Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["name", "type", "operation", "code", "rejected"],
            ),
            webhook_rejections: family.counter(
                &name("webhook_rejection_count"),
                "[ALPHA] Admission webhook rejection count, identified by name and broken out for each admission type (validating or admit) and operation. Additional labels specify an error type (calling_webhook_error or apiserver_internal_error if an error occurred; no_error otherwise) and optionally a non-zero rejection code if the webhook rejects the request with an HTTP status code (honored by the apiserver when the code is greater or equal to 400). Codes greater than 600 are truncated to 600, to keep the metrics cardinality bounded.",
                &["name", "type", "operation", "error_type", "rejection_code"],
            ),
            webhooks_open: family.counter(
                &name("webhook_fail_open_count"),
                "[ALPHA] Admission webhook fail open count, identified by name and broken out for each admission type (validating or admit).",
                &["name", "type"],
            ),
            policies: family.counter(
                "apiserver_validating_admission_policy_check_total",
                "[BETA] Validation admission policy check total, labeled by policy and further identified by binding and enforcement action taken.",
                &policy,
            ),
            policy_seconds: family.histogram(
                "apiserver_validating_admission_policy_check_duration_seconds",
                "[BETA] Validation admission latency for individual validation expressions in seconds, labeled by policy and further including binding and enforcement action taken.",
                &policy,
                &POLICY_SECONDS,
            ),
            mutations: family.counter(
                "apiserver_mutating_admission_policy_check_total",
                "[ALPHA] Mutation admission policy check total, labeled by policy and further identified by binding.",
                mutation,
            ),
            mutation_seconds: family.histogram(
                "apiserver_mutating_admission_policy_check_duration_seconds",
                "[ALPHA] Mutation admission latency for individual mutation expressions in seconds, labeled by policy and binding.",
                mutation,
                &POLICY_SECONDS,
            ),
            pod_security: PodSecurityMetrics::new(family),
            cel: cel.with_label_values::<&str>(&[]),
        }
    }

    /// The names of the plugins, in the order in which they run.
    pub(crate) fn know(&self, plugins: impl Iterator<Item = &'static str>) {
        self.plugins.get_or_init(|| plugins.map(|name| Timings::new(&self.controllers, name)).collect());
    }

    /// The plugin at this place is done.
    pub(crate) fn plugin(&self, place: usize, phase: Phase, operation: Operation, rejected: bool, took: Duration) {
        if let Some(timings) = self.plugins.get().and_then(|all| all.get(place)) {
            timings.observe(phase, operation, rejected, took);
        }
    }

    /// A whole step is done.
    pub(crate) fn step(&self, phase: Phase, operation: Operation, rejected: bool, took: Duration) {
        self.steps.observe(phase, operation, rejected, took);
    }

    /// A webhook was called.
    pub(crate) fn webhook(&self, call: &WebhookCall<'_>) {
        let (ty, operation) = (call.phase.of_webhooks(), call.operation.as_str());
        let code = call.code.min(600).to_string();
        let rejected = if call.rejection.is_some() { "true" } else { "false" };
        self.webhook_requests.with_label_values(&[call.name, ty, operation, &code, rejected]).inc();
        let seconds = self.webhooks.with_label_values(&[call.name, ty, operation, rejected]);
        seconds.observe(call.took.as_secs_f64());
        if let Some(rejection) = call.rejection {
            let why = match rejection {
                Rejection::Answer => "no_error",
                Rejection::Calling => "calling_webhook_error",
                Rejection::Internal => "apiserver_internal_error",
            };
            self.webhook_rejections.with_label_values(&[call.name, ty, operation, why, &code]).inc();
        }
    }

    /// A webhook could not be asked, and that does not matter.
    pub(crate) fn failed_open(&self, name: &str, phase: Phase) {
        self.webhooks_open.with_label_values(&[name, phase.of_webhooks()]).inc();
    }

    /// A validating policy was evaluated.
    pub(crate) fn policy(&self, check: &PolicyCheck<'_>) {
        let labels = [check.policy, check.binding, check.error, check.action];
        self.policies.with_label_values(&labels).inc();
        self.policy_seconds.with_label_values(&labels).observe(check.took.as_secs_f64());
    }

    /// A mutating policy was applied, or failed in this way.
    pub(crate) fn mutation(&self, policy: &str, binding: &str, error: &str, took: Duration) {
        let labels = [policy, binding, error];
        self.mutations.with_label_values(&labels).inc();
        self.mutation_seconds.with_label_values(&labels).observe(took.as_secs_f64());
    }

    /// An expression was evaluated.
    pub(crate) fn expression(&self, took: Duration) {
        self.cel.observe(took.as_secs_f64());
    }
}
