//! `/metrics`: requests and watches under upstream's names (`apiserver/pkg/endpoints/metrics/metrics.go`).

use crate::api_server::Call;
use crate::flow::{Class, Flow};
use machinery::kinds::KindInfo;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use std::time::Duration;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    verb: String,
    dry_run: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: String,
    code: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    verb: String,
    group: String,
    version: String,
    resource: String,
    subresource: String,
    scope: String,
    component: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    group: String,
    version: String,
    resource: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FlowLabels {
    priority_level: String,
    flow_schema: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    priority_level: String,
    flow_schema: String,
    reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LevelLabels {
    priority_level: String,
}

/// Of priority and fairness (`apiserver/pkg/util/flowcontrol/metrics/metrics.go`).
#[derive(Default)]
struct FlowMetrics {
    dispatched: Family<FlowLabels, Counter>,
    rejected: Family<RejectedLabels, Counter>,
    executing: Family<LevelLabels, Gauge>,
    waiting: Family<LevelLabels, Gauge>,
    nominal: Family<LevelLabels, Gauge>,
}

impl FlowMetrics {
    fn register(&self, registry: &mut Registry) {
        let name = |rest: &str| format!("apiserver_flowcontrol_{rest}");
        registry.register(
            name("dispatched_requests"),
            "Number of requests executed by API Priority and Fairness subsystem",
            self.dispatched.clone(),
        );
        registry.register(
            name("rejected_requests"),
            "Number of requests rejected by API Priority and Fairness subsystem",
            self.rejected.clone(),
        );
        registry.register(
            name("current_executing_requests"),
            "Number of requests in initial (for a WATCH) or any (for a non-WATCH) execution stage in the API Priority and Fairness subsystem",
            self.executing.clone(),
        );
        registry.register(
            name("current_inqueue_requests"),
            "Number of requests currently pending in queues of the API Priority and Fairness subsystem",
            self.waiting.clone(),
        );
        registry.register(
            name("nominal_limit_seats"),
            "Nominal number of execution seats configured for each priority level",
            self.nominal.clone(),
        );
    }
}

/// What a request is counted under.
#[derive(Debug, Clone)]
pub(crate) struct Labels {
    request: RequestLabels,
    streams: bool,
}

/// All metrics of one server.
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
    watches: Family<WatchLabels, Gauge>,
    flow: FlowMetrics,
}

/// Counts down when dropped.
pub(crate) struct Held(Gauge);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn histogram() -> Histogram {
    Histogram::new([
        0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0,
        30.0, 45.0, 60.0,
    ])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::default();
        let requests = Family::default();
        let durations = Family::new_with_constructor(histogram as fn() -> Histogram);
        let in_flight = Family::default();
        let watches = Family::default();
        registry.register(
            "apiserver_request",
            "Counter of apiserver requests broken out for each verb, dry run value, group, version, resource, scope, component, and HTTP response code",
            requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Response latency distribution in seconds for each verb, group, version, resource, subresource, scope and component",
            durations.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Number of requests in flight per request kind",
            in_flight.clone(),
        );
        registry.register("apiserver_longrunning_requests", "Number of active watches", watches.clone());
        let flow = FlowMetrics::default();
        flow.register(&mut registry);
        Metrics { registry, requests, durations, in_flight, watches, flow }
    }

    /// A request got its seat, or none for this reason.
    pub(crate) fn flow(&self, class: &Class, refused: Option<&'static str>) {
        let (priority_level, flow_schema) = (class.level.clone(), class.schema.clone());
        match refused {
            None => self.flow.dispatched.get_or_create(&FlowLabels { priority_level, flow_schema }).inc(),
            Some(reason) => {
                let labels = RejectedLabels { priority_level, flow_schema, reason: reason.into() };
                self.flow.rejected.get_or_create(&labels).inc()
            }
        };
    }

    pub(crate) fn labels(&self, call: &Call) -> Labels {
        let info = &call.info;
        let scope = match (info.is_resource, info.name.is_empty(), info.namespace.is_empty()) {
            (false, ..) => "",
            (true, false, _) => "resource",
            (true, true, false) => "namespace",
            (true, true, true) => "cluster",
        };
        let streams = info.verb == "watch"
            || matches!(info.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy");
        // Names of unknown resources come from clients and would grow the table without bound.
        let known = info.is_resource && machinery::kinds::find(&info.group, &info.version, &info.resource).is_some();
        let text = |value: &str| if known { value.to_owned() } else { String::new() };
        let verb = match info.verb.as_ref() {
            "create" => "POST",
            "update" => "PUT",
            "patch" => "PATCH",
            "delete" => "DELETE",
            "deletecollection" => "DELETECOLLECTION",
            "get" => "GET",
            "list" => "LIST",
            "watch" => "WATCH",
            "post" => "POST",
            "put" => "PUT",
            _ => "other",
        };
        let request = RequestLabels {
            verb: verb.into(),
            dry_run: if call.query.get("dryRun") == Some("All") { "All".into() } else { String::new() },
            group: text(&info.group),
            version: text(&info.version),
            resource: text(&info.resource),
            subresource: if known && info.subresource.len() < 24 { info.subresource.clone() } else { String::new() },
            scope: scope.into(),
            component: "apiserver".into(),
            code: String::new(),
        };
        Labels { request, streams }
    }

    pub(crate) fn in_flight(&self, call: &Call) -> Held {
        let kind = if matches!(call.info.verb.as_ref(), "get" | "list" | "watch") { "readOnly" } else { "mutating" };
        let gauge = self.in_flight.get_or_create(&InFlightLabels { request_kind: kind.into() }).clone();
        gauge.inc();
        Held(gauge)
    }

    pub(crate) fn watch_started(&self, info: &KindInfo) -> Held {
        let labels = WatchLabels {
            group: info.group.to_string(),
            version: info.version.to_string(),
            resource: info.plural.to_string(),
        };
        let gauge = self.watches.get_or_create(&labels).clone();
        gauge.inc();
        Held(gauge)
    }

    pub(crate) fn observe(&self, labels: Labels, code: u16, took: Duration) {
        let mut request = labels.request;
        if !labels.streams {
            let d = DurationLabels {
                verb: request.verb.clone(),
                group: request.group.clone(),
                version: request.version.clone(),
                resource: request.resource.clone(),
                subresource: request.subresource.clone(),
                scope: request.scope.clone(),
                component: request.component.clone(),
            };
            self.durations.get_or_create(&d).observe(took.as_secs_f64());
        }
        request.code = code.to_string();
        self.requests.get_or_create(&request).inc();
    }

    /// The exposition text.
    pub(crate) fn text(&self, flow: &Flow) -> String {
        for (priority_level, executing, waiting, nominal) in flow.counts() {
            let labels = LevelLabels { priority_level };
            self.flow.executing.get_or_create(&labels).set(executing.into());
            self.flow.waiting.get_or_create(&labels).set(i64::try_from(waiting).unwrap_or(i64::MAX));
            self.flow.nominal.get_or_create(&labels).set(nominal.into());
        }
        let mut out = String::new();
        match prometheus_client::encoding::text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(error) => format!("# {error}\n"),
        }
    }
}
