//! Judgements of Pod Security (`pod-security-admission/metrics/metrics.go`).

use super::Family;
use crate::admission::Request;
use prometheus::IntCounterVec;

/// See the file's head.
pub(crate) struct PodSecurityMetrics {
    evaluations: IntCounterVec,
    exemptions: IntCounterVec,
}

impl PodSecurityMetrics {
    pub(super) fn new(family: &Family<'_>) -> Self {
        PodSecurityMetrics {
            evaluations: family.counter(
                "pod_security_evaluations_total",
                "[ALPHA] Number of policy evaluations that occurred, not counting ignored or exempt requests.",
                &["decision", "policy_level", "policy_version", "mode", "request_operation", "resource", "subresource"],
            ),
            exemptions: family.counter(
                "pod_security_exemptions_total",
                "[ALPHA] Number of exempt requests, not counting ignored or out of scope requests.",
                &["request_operation", "resource", "subresource"],
            ),
        }
    }

    /// A request was allowed or not, by this level as of this version, for `enforce`, `audit` or `warn`.
    pub(crate) fn evaluated(&self, request: &Request<'_>, allowed: bool, (level, version): (&str, &str), mode: &str) {
        let [operation, resource, subresource] = labels(request);
        let decision = if allowed { "allow" } else { "deny" };
        let all = [decision, level, version, mode, operation, resource, subresource];
        self.evaluations.with_label_values(&all).inc();
    }

    /// A request was not looked at.
    pub(crate) fn exempted(&self, request: &Request<'_>) {
        self.exemptions.with_label_values(&labels(request)).inc();
    }
}

fn labels<'a>(request: &'a Request<'_>) -> [&'a str; 3] {
    let resource = match (&*request.info().group, &*request.info().plural) {
        ("", "pods") => "pod",
        ("", "namespaces") => "namespace",
        _ => "controller",
    };
    let operation = if request.operation == crate::admission::Operation::Create { "create" } else { "update" };
    [operation, resource, request.subresource]
}
