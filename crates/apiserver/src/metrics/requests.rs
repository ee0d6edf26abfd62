//! Requests, watches and lists (`apiserver/pkg/endpoints/metrics/metrics.go`).

use super::{Family, Held, exponential};
use crate::api_server::Call;
use crate::reader::KindRef;
use http::StatusCode;
use http::header::CONTENT_TYPE;
use machinery::kinds::KindInfo;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::Duration;

const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// Subresources that are told apart: others come from clients and would grow the tables without bound.
const SUBRESOURCES: [&str; 15] = [
    "status",
    "scale",
    "log",
    "exec",
    "attach",
    "portforward",
    "proxy",
    "binding",
    "eviction",
    "token",
    "ephemeralcontainers",
    "resize",
    "approval",
    "finalize",
    "resourceclaims",
];
/// Requests of these are connections (`validConnectRequests`).
const CONNECTIONS: [&str; 5] = ["log", "exec", "portforward", "attach", "proxy"];

/// See the file's head.
pub(crate) struct Requests {
    total: IntCounterVec,
    durations: HistogramVec,
    reading: IntGauge,
    mutating: IntGauge,
    long_running: IntGaugeVec,
    watch_events: IntCounterVec,
    watch_sizes: HistogramVec,
}

/// What a request is counted under.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    verb: &'static str,
    dry_run: &'static str,
    /// `None`: no resource that we serve; names of others come from clients.
    kind: Option<KindRef>,
    subresource: &'static str,
    scope: &'static str,
    reads: bool,
    streams: bool,
}

/// What a watcher counts.
pub(crate) struct WatchMetrics {
    events: IntCounter,
    sizes: Histogram,
    _open: Held,
}

impl WatchMetrics {
    /// An event of this size was sent.
    pub(crate) fn sent(&self, size: usize) {
        self.events.inc();
        self.sizes.observe(size as f64);
    }
}

impl Requests {
    pub(super) fn new(family: &Family<'_>) -> Self {
        let kind = ["group", "version", "resource"];
        let in_flight = family.gauge(
            "apiserver_current_inflight_requests",
            "[STABLE] Maximal number of currently used inflight request limit of this apiserver per request kind in last second.",
            &["request_kind"],
        );
        Requests {
            total: family.counter(
                "apiserver_request_total",
                "[STABLE] Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code.",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component", "code"],
            ),
            durations: family.histogram(
                "apiserver_request_duration_seconds",
                "[STABLE] Response latency distribution in seconds for each verb, dry run value, group, version, resource, subresource, scope and component.",
                &["verb", "dry_run", "group", "version", "resource", "subresource", "scope", "component"],
                &DURATIONS,
            ),
            reading: in_flight.with_label_values(&["readOnly"]),
            mutating: in_flight.with_label_values(&["mutating"]),
            long_running: family.gauge(
                "apiserver_longrunning_requests",
                "[STABLE] Gauge of all active long-running apiserver requests broken out by verb, group, version, resource, scope and component. Not all requests are tracked this way.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
            ),
            watch_events: family.counter(
                "apiserver_watch_events_total",
                "[ALPHA] Number of events sent in watch clients",
                &kind,
            ),
            watch_sizes: family.histogram(
                "apiserver_watch_events_sizes",
                "[ALPHA] Watch event size distribution in bytes",
                &kind,
                &exponential(1024.0, 2.0, 8),
            ),
        }
    }

    /// Of a request that begins; those that stay open are no load by themselves.
    pub(crate) fn in_flight(&self, labels: &Labels) -> Option<Held> {
        let gauge = if labels.reads { &self.reading } else { &self.mutating };
        (!labels.streams).then(|| Held::new(gauge.clone()))
    }

    /// A watch begins.
    pub(crate) fn watch_started(&self, call: &Call, kind: &KindRef) -> WatchMetrics {
        let info = kind.info();
        let of_kind = [&*info.group, &*info.version, &*info.plural];
        let [group, version, resource] = of_kind;
        let open = [super::requests::WATCH, group, version, resource, "", scope(call), "apiserver"];
        WatchMetrics {
            events: self.watch_events.with_label_values(&of_kind),
            sizes: self.watch_sizes.with_label_values(&of_kind),
            _open: Held::new(self.long_running.with_label_values(&open)),
        }
    }

    /// A request is answered.
    pub(crate) fn observe(&self, labels: &Labels, code: StatusCode, took: Duration) {
        let info = labels.kind.as_ref().map(|kind| kind.info());
        let text = |field: fn(&KindInfo) -> &str| info.map(field).unwrap_or_default();
        let all = [
            labels.verb,
            labels.dry_run,
            text(|i| &i.group),
            text(|i| &i.version),
            text(|i| &i.plural),
            labels.subresource,
            labels.scope,
            "apiserver",
            code.as_str(),
        ];
        if !labels.streams {
            self.durations.with_label_values(&all[..8]).observe(took.as_secs_f64());
        }
        self.total.with_label_values(&all).inc();
    }
}

const WATCH: &str = "WATCH";

/// What a call is counted under; `kind` is what it asks for, if that is served.
pub(crate) fn labels(call: &Call, kind: Option<KindRef>) -> Labels {
    let info = &call.info;
    let listed = |list: &[&'static str], name: &str| list.iter().find(|known| **known == name).copied();
    let subresource = match info.is_resource {
        true => kind.as_ref().and_then(|_| listed(&SUBRESOURCES, &info.subresource)).unwrap_or_default(),
        // The handlers of health checks are told apart this way.
        false => listed(&["/healthz", "/livez", "/readyz"], &info.path).unwrap_or_default(),
    };
    let connects = CONNECTIONS.contains(&subresource);
    let is_apply =
        || call.head.headers.get(CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/apply-patch"));
    let verb = match info.verb.as_ref() {
        _ if connects => "CONNECT",
        "create" | "post" => "POST",
        "update" | "put" => "PUT",
        "patch" if is_apply() => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "get" => "GET",
        "list" => "LIST",
        "watch" => WATCH,
        _ => "other",
    };
    Labels {
        verb,
        dry_run: match call.query.get("dryRun") {
            None => "",
            Some("All") => "All",
            Some(_) => "invalid",
        },
        kind,
        subresource,
        scope: scope(call),
        reads: matches!(info.verb.as_ref(), "get" | "list" | "watch"),
        streams: verb == WATCH || connects,
    }
}

/// `CleanScope`
fn scope(call: &Call) -> &'static str {
    let info = &call.info;
    match info.is_resource {
        _ if !info.name.is_empty() || info.verb == "create" => "resource",
        _ if !info.namespace.is_empty() => "namespace",
        true => "cluster",
        false => "",
    }
}
