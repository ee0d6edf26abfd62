//! Requests, watches and lists (`apiserver/pkg/endpoints/metrics/metrics.go`).

use super::{Family, Held, exponential, linear};
use crate::Body;
use crate::api_server::Call;
use crate::reader::KindRef;
use bytes::Bytes;
use http::Response;
use http::header::CONTENT_TYPE;
use http_body::{Body as _, Frame};
use http_body_util::BodyExt;
use machinery::kinds::KindInfo;
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
use std::time::Duration;

pub(super) const DURATIONS: [f64; 23] = [
    0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0,
    45.0, 60.0,
];

/// Buckets of durations without what others took.
const OWN_DURATIONS: [f64; 21] =
    [0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0];
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
    own_durations: HistogramVec,
    response_sizes: HistogramVec,
    body_sizes: HistogramVec,
    deprecated: IntGaugeVec,
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
            own_durations: family.histogram(
                "apiserver_request_sli_duration_seconds",
                "[ALPHA] Response latency distribution (not counting webhook duration and priority & fairness queue wait times) in seconds for each verb, group, version, resource, subresource, scope and component.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
                &OWN_DURATIONS,
            ),
            response_sizes: family.histogram(
                "apiserver_response_sizes",
                "[STABLE] Response size distribution in bytes for each group, version, verb, resource, subresource, scope and component.",
                &["verb", "group", "version", "resource", "subresource", "scope", "component"],
                &exponential(1000.0, 10.0, 7),
            ),
            body_sizes: family.histogram(
                "apiserver_request_body_size_bytes",
                "[ALPHA] Apiserver request body size in bytes broken out by resource and verb.",
                &["group", "resource", "verb"],
                &linear(50_000.0, 100_000.0, 31),
            ),
            deprecated: family.gauge(
                "apiserver_requested_deprecated_apis",
                "[STABLE] Gauge of deprecated APIs that have been requested, broken out by API group, version, resource, subresource, and removed_release.",
                &["group", "version", "resource", "subresource", "removed_release"],
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

    /// A request came with a body of this size (`apiserver/pkg/endpoints/handlers/metrics/metrics.go`).
    pub(crate) fn body(&self, call: &Call, size: usize) {
        let info = &call.info;
        let labels = [&*info.group, &*info.resource, &*info.verb];
        self.body_sizes.with_label_values(&labels).observe(size as f64);
    }

    /// A built-in API that is deprecated was asked for.
    pub(crate) fn deprecated(&self, kind: &KindInfo, subresource: &str) {
        let subresource = SUBRESOURCES.iter().find(|known| **known == subresource).copied().unwrap_or_default();
        self.deprecated.with_label_values(&[&kind.group, &kind.version, &kind.plural, subresource, ""]).set(1);
    }

    /// A request is answered. Some of the time it `waited` for webhooks and its turn. Sizes are those before compression.
    pub(crate) fn observe(
        &self,
        labels: &Labels,
        response: Response<Body>,
        took: Duration,
        waited: Duration,
    ) -> Response<Body> {
        let code = response.status();
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
        self.total.with_label_values(&all).inc();
        // These do not tell dry runs apart.
        let shared = [all[0], all[2], all[3], all[4], all[5], all[6], all[7]];
        if !labels.streams {
            self.durations.with_label_values(&all[..8]).observe(took.as_secs_f64());
            if labels.dry_run.is_empty() {
                self.own_durations.with_label_values(&shared).observe(took.saturating_sub(waited).as_secs_f64());
            }
        }
        if matches!(labels.verb, "GET" | "LIST") && !labels.streams {
            let sizes = self.response_sizes.with_label_values(&shared);
            return response.map(|body| measured(body, sizes));
        }
        response
    }
}

/// Observes the size of a body; of one that is written piece by piece, when it is written.
fn measured(body: Body, sizes: Histogram) -> Body {
    if let Some(size) = body.size_hint().exact() {
        sizes.observe(size as f64);
        return body;
    }
    let mut written = Written { size: 0, sizes };
    let counted = body.map_frame(move |frame| {
        written.add(&frame);
        frame
    });
    counted.boxed_unsync()
}

/// Observes what was written when dropped.
struct Written {
    size: usize,
    sizes: Histogram,
}

impl Written {
    fn add(&mut self, frame: &Frame<Bytes>) {
        self.size += frame.data_ref().map_or(0, Bytes::len);
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        self.sizes.observe(self.size as f64);
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
