//! What is counted of issuers (`plugin/pkg/authenticator/token/oidc/metrics.go`).
//!
//! Issuers are named by hashes, as upstream. Differs from upstream: the server that asked has no label, since it has no identity of
//! its own, and the hash of an issuer's keys is not told.

use machinery::digest::sha256_hex;
use prometheus::core::Collector;
use prometheus::{GaugeVec, HistogramOpts, HistogramVec, Opts};
use std::time::Duration;

const WELL_FORMED: &str = "the name is well-formed";

/// Of all issuers. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct JwtMetrics {
    latencies: HistogramVec,
    fetches: GaugeVec,
}

impl Default for JwtMetrics {
    fn default() -> Self {
        let name = |rest: &str| format!("apiserver_authentication_jwt_authenticator_{rest}");
        let labels = ["result", "jwt_issuer_hash"];
        let latencies = HistogramOpts::new(
            name("latency_seconds"),
            "[ALPHA] Latency of jwt authentication operations in seconds. This is the time spent authenticating a token for cache miss only (i.e. when the token is not found in the cache).",
        )
        .buckets(vec![0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0]);
        let fetches = Opts::new(
            name("jwks_fetch_last_timestamp_seconds"),
            "[ALPHA] Timestamp of the last successful or failed JWKS fetch split by result, api server identity and jwt issuer for the JWT authenticator.",
        );
        JwtMetrics {
            latencies: HistogramVec::new(latencies, &labels).expect(WELL_FORMED),
            fetches: GaugeVec::new(fetches, &labels).expect(WELL_FORMED),
        }
    }
}

impl JwtMetrics {
    /// For whoever shows them.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![Box::new(self.latencies.clone()), Box::new(self.fetches.clone())]
    }

    /// A token of this issuer was good or not.
    pub(super) fn authenticated(&self, issuer: &str, good: bool, took: Duration) {
        self.latencies.with_label_values(&[result(good), issuer]).observe(took.as_secs_f64());
    }

    /// An issuer was asked for its keys.
    pub(super) fn fetched(&self, issuer: &str, good: bool, now: jiff::Timestamp) {
        self.fetches.with_label_values(&[result(good), issuer]).set(now.as_millisecond() as f64 / 1000.0);
    }

    /// The issuer with this hash is none any more.
    pub(super) fn forget(&self, issuer: &str) {
        for good in [true, false] {
            let labels = [result(good), issuer];
            // Whoever never came has left no numbers.
            self.latencies.remove_label_values(&labels).ok();
            self.fetches.remove_label_values(&labels).ok();
        }
    }
}

fn result(good: bool) -> &'static str {
    if good { "success" } else { "failure" }
}

/// `getHash`
pub(super) fn hash(issuer: &str) -> String {
    format!("sha256:{}", sha256_hex(issuer))
}
