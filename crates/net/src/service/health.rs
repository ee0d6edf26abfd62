//! What load balancers are told of this node. Pure.
//!
//! Two questions, as kube-proxy answers them (`pkg/proxy/healthcheck/{service_health,proxy_health}.go`): whether a Service of type
//! LoadBalancer with `externalTrafficPolicy: Local` has an endpoint here (on its `healthCheckNodePort`), and whether this node's packet
//! rules keep up with the cluster (`/healthz`, `/livez`).

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::Full;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tokio::time::Instant;

/// Rules that wait longer than this are late: twice kube-proxy's default `syncPeriod`.
const PATIENCE: Duration = Duration::from_secs(60);
const NO_SNIFF: HeaderName = HeaderName::from_static("x-content-type-options");
const WEIGHT: HeaderName = HeaderName::from_static("x-load-balancing-endpoint-weight");

/// Names a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceName {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A Service whose load balancer asks every node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthCheck {
    /// `healthCheckNodePort`
    pub port: u16,
    /// How many addresses of this node are ready to answer.
    pub local_endpoints: usize,
}

/// All such Services.
pub type HealthChecks = BTreeMap<ServiceName, HealthCheck>;

/// Whether the packet rules keep up with what is known.
#[derive(Debug)]
pub(crate) struct Pace {
    changes: u64,
    waiting_since: Option<Instant>,
    updated: Timestamp,
}

impl Pace {
    /// Nothing is known yet, which is no fault.
    pub(crate) fn new(now: Timestamp) -> Self {
        Pace { changes: 0, waiting_since: None, updated: now }
    }

    /// Something is to be done.
    pub(crate) fn change(&mut self, now: Instant) {
        self.changes += 1;
        self.waiting_since.get_or_insert(now);
    }

    /// How much there was to be done so far.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// The first `changes` are done. What came since then waits from now on.
    pub(crate) fn done(&mut self, changes: u64, now: Instant, at: Timestamp) {
        self.waiting_since = (self.changes > changes).then_some(now);
        self.updated = at;
    }

    pub(crate) fn health(&self, now: Instant) -> ProxyHealth {
        let late = self.waiting_since.is_some_and(|since| now.duration_since(since) >= PATIENCE);
        ProxyHealth { healthy: !late, updated: self.updated }
    }
}

/// How the packet rules are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHealth {
    /// Whether nothing waits for too long.
    pub healthy: bool,
    /// When they were last as they should be.
    pub updated: Timestamp,
}

/// An answer to a load balancer.
pub(crate) type Answer = Response<Full<Bytes>>;

/// Whether a load balancer may send a Service's traffic here.
pub(crate) fn service_answer(service: &ServiceName, local_endpoints: usize, healthy: bool) -> Answer {
    let ServiceName { namespace, name } = service;
    let body = format!(
        "{{\n\t\"service\": {{\n\t\t\"namespace\": {namespace:?},\n\t\t\"name\": {name:?}\n\t}},\n\t\"localEndpoints\": {local_endpoints},\n\t\"serviceProxyHealthy\": {healthy}\n}}"
    );
    let mut answer = answer(local_endpoints > 0 && healthy, "application/json", body);
    answer.headers_mut().insert(WEIGHT, HeaderValue::from(local_endpoints));
    answer
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FamilyReport {
    last_updated: Timestamp,
    healthy: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    last_updated: Timestamp,
    current_time: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_eligible: Option<bool>,
    healthy: bool,
    status: BTreeMap<&'static str, FamilyReport>,
}

/// What the node says of itself: on `/healthz` also whether it is about to be removed, which is nothing that a restart would help
/// (`/livez`).
pub(crate) fn proxy_answer(
    path: &str,
    health: ProxyHealth,
    eligible: bool,
    families: &[&'static str],
    now: Timestamp,
) -> Answer {
    let node_eligible = match path {
        "/healthz" => Some(eligible),
        "/livez" => None,
        _ => {
            let mut answer = answer(false, "text/plain; charset=utf-8", "404 page not found\n".into());
            *answer.status_mut() = StatusCode::NOT_FOUND;
            return answer;
        }
    };
    let ProxyHealth { healthy, updated } = health;
    let good = healthy && node_eligible.unwrap_or(true);
    let report = Report {
        // Of a node that is well this has always been the time of asking.
        last_updated: if good { now } else { updated },
        current_time: now,
        node_eligible,
        healthy,
        status: families.iter().map(|f| (*f, FamilyReport { last_updated: updated, healthy })).collect(),
    };
    answer(good, "application/json", serde_json::to_string(&report).unwrap_or_default())
}

fn answer(good: bool, content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    if !good {
        *answer.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer.headers_mut().insert(NO_SNIFF, HeaderValue::from_static("nosniff"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use http_body_util::BodyExt;

    fn check(answer: Answer, expected: Expect) {
        let mut text = format!("{}\n", answer.status());
        for (name, value) in answer.headers() {
            text += &format!("{name}: {}\n", value.to_str().expect("text"));
        }
        let body = body_of(answer);
        expected.assert_eq(&format!("{text}\n{}", String::from_utf8_lossy(&body)));
    }

    /// A full body is there at once.
    fn body_of(answer: Answer) -> Bytes {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(answer.into_body().collect()).expect("a body").to_bytes()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    #[test]
    fn a_service_is_well_with_an_endpoint_here_and_rules_that_keep_up() {
        let web = ServiceName { namespace: "default".into(), name: "web".into() };
        check(
            service_answer(&web, 2, true),
            expect![[r#"
                200 OK
                content-type: application/json
                x-content-type-options: nosniff
                x-load-balancing-endpoint-weight: 2

                {
                	"service": {
                		"namespace": "default",
                		"name": "web"
                	},
                	"localEndpoints": 2,
                	"serviceProxyHealthy": true
                }"#]],
        );
        assert_eq!(service_answer(&web, 0, true).status(), 503);
        assert_eq!(service_answer(&web, 2, false).status(), 503);
    }

    #[test]
    fn a_node_about_to_be_removed_is_alive_but_gets_no_more_traffic() {
        let (updated, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-01T00:01:00.5Z"));
        let ask =
            |path, healthy, eligible| proxy_answer(path, ProxyHealth { healthy, updated }, eligible, &["IPv4"], now);
        check(
            ask("/healthz", true, false),
            expect![[r#"
                503 Service Unavailable
                content-type: application/json
                x-content-type-options: nosniff

                {"lastUpdated":"2026-01-01T00:00:00Z","currentTime":"2026-01-01T00:01:00.5Z","nodeEligible":false,"healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true}}}"#]],
        );
        check(
            ask("/livez", true, false),
            expect![[r#"
                200 OK
                content-type: application/json
                x-content-type-options: nosniff

                {"lastUpdated":"2026-01-01T00:01:00.5Z","currentTime":"2026-01-01T00:01:00.5Z","healthy":true,"status":{"IPv4":{"lastUpdated":"2026-01-01T00:00:00Z","healthy":true}}}"#]],
        );
        assert_eq!(ask("/healthz", true, true).status(), 200);
        assert_eq!(ask("/livez", false, true).status(), 503);
        assert_eq!(ask("/metrics", true, true).status(), 404);
    }

    #[test]
    fn rules_are_late_when_a_change_waits_for_a_minute() {
        let (start, day) = (Instant::now(), at("2026-01-01T00:00:00Z"));
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut pace = Pace::new(day);
        assert!(pace.health(after(1000)).healthy, "nothing is to be done");
        pace.change(after(0));
        let seen = pace.changes();
        pace.change(after(50));
        assert!(pace.health(after(59)).healthy);
        assert!(!pace.health(after(60)).healthy, "the first change counts");
        pace.done(seen, after(61), day);
        assert!(pace.health(after(120)).healthy);
        assert!(!pace.health(after(121)).healthy, "what came meanwhile is not done");
        pace.done(pace.changes(), after(130), day);
        assert!(pace.health(after(1000)).healthy);
    }
}
