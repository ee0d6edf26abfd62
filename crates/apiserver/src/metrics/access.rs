//! Authentication, authorization and audit (`apiserver/pkg/endpoints/filters/metrics.go`, `…/request/x509/x509.go`).

use super::{Family, exponential};
use crate::auth::Decision;
use prometheus::{Histogram, HistogramVec, IntCounterVec};
use std::time::Duration;

/// What authentication found.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Authenticated<'a> {
    /// This user.
    User(&'a str),
    /// No credentials that somebody knows.
    Nobody,
    /// Wrong credentials.
    Error,
}

/// See the file's head.
pub(crate) struct Access {
    users: IntCounterVec,
    authentications: IntCounterVec,
    authentication_seconds: HistogramVec,
    authorizations: IntCounterVec,
    authorization_seconds: HistogramVec,
    authenticating: Histogram,
    authorizing: Histogram,
    certificates: Histogram,
}

impl Access {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let seconds = exponential(0.001, 2.0, 15);
        let filters = family.histogram(
            "apiserver_request_filter_duration_seconds",
            "[ALPHA] Request filter latency distribution in seconds, for each filter type",
            &["filter"],
            &[0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 5.0, 10.0, 15.0, 30.0],
        );
        let certificates = family.histogram(
            "apiserver_client_certificate_expiration_seconds",
            "[ALPHA] Distribution of the remaining lifetime on the certificate used to authenticate a request.",
            &[],
            &[
                0.0,
                1800.0,
                3600.0,
                7200.0,
                21600.0,
                43200.0,
                86400.0,
                172_800.0,
                345_600.0,
                604_800.0,
                2_592_000.0,
                7_776_000.0,
                15_552_000.0,
                31_104_000.0,
            ],
        );
        Access {
            users: family.counter(
                "authenticated_user_requests",
                "[ALPHA] Counter of authenticated requests broken out by username.",
                &["username"],
            ),
            authentications: family.counter(
                "authentication_attempts",
                "[ALPHA] Counter of authenticated attempts.",
                &["result"],
            ),
            authentication_seconds: family.histogram(
                "authentication_duration_seconds",
                "[ALPHA] Authentication duration in seconds broken out by result.",
                &["result"],
                &seconds,
            ),
            authorizations: family.counter(
                "authorization_attempts_total",
                "[ALPHA] Counter of authorization attempts broken down by result. It can be either 'allowed', 'denied', 'no-opinion' or 'error'.",
                &["result"],
            ),
            authorization_seconds: family.histogram(
                "authorization_duration_seconds",
                "[ALPHA] Authorization duration in seconds broken out by result.",
                &["result"],
                &seconds,
            ),
            authenticating: filters.with_label_values(&["authentication"]),
            authorizing: filters.with_label_values(&["authorization"]),
            certificates: certificates.with_label_values::<&str>(&[]),
        }
    }

    pub(crate) fn authenticated(&self, result: Authenticated<'_>, took: Duration) {
        let label = match result {
            Authenticated::User(name) => {
                self.users.with_label_values(&[class_of(name)]).inc();
                "success"
            }
            Authenticated::Nobody => "failure",
            Authenticated::Error => "error",
        };
        self.authentications.with_label_values(&[label]).inc();
        self.authentication_seconds.with_label_values(&[label]).observe(took.as_secs_f64());
        self.authenticating.observe(took.as_secs_f64());
    }

    pub(crate) fn authorized(&self, decision: &Decision, took: Duration) {
        let label = match decision {
            Decision::Allow(_) => "allowed",
            Decision::Deny(_) => "denied",
            Decision::NoOpinion(_) => "no-opinion",
        };
        self.authorizations.with_label_values(&[label]).inc();
        self.authorization_seconds.with_label_values(&[label]).observe(took.as_secs_f64());
        self.authorizing.observe(took.as_secs_f64());
    }

    /// A request came with a client certificate that is good for so long.
    pub(crate) fn certificate(&self, seconds_left: i64) {
        self.certificates.observe(seconds_left as f64);
    }
}

/// Names of users are not for metrics (`compressUsername`).
fn class_of(username: &str) -> &str {
    match username {
        "admin" | "client" | "kube_proxy" | "kubelet" | "system:serviceaccount:kube-system:default" => username,
        name if name.contains('@') => "email_id",
        _ => "other",
    }
}
