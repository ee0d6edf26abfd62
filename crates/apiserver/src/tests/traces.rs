//! Spans of requests, as a collector gets them.

use super::admission::{VALIDATING, fixture, hook};
use super::*;
use crate::trace::{Traces, TracingConfiguration};
use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
use parking_lot::Mutex;
use serde_json::json;

/// Spans that ended.
#[derive(Debug, Clone, Default)]
struct Collected(Arc<Mutex<Vec<SpanData>>>);

impl SpanExporter for Collected {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        self.0.lock().extend(batch);
        Ok(())
    }
}

impl Collected {
    /// Traces all requests from now on; only those that the client wants kept are.
    fn of(server: &ApiServer) -> Self {
        let collected = Collected::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(collected.clone())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::AlwaysOff)))
            .build();
        let tracer = BoxedTracer::new(Box::new(provider.tracer("test")));
        server.set_traces(Traces::new(tracer, Box::new(TraceContextPropagator::new())));
        collected
    }

    /// Each span and the one above it; what was given from outside is named `client`.
    fn tree(&self) -> Vec<String> {
        let spans = self.0.lock();
        let name = |id| match spans.iter().find(|s| s.span_context.span_id() == id) {
            Some(span) => span.name.clone(),
            None => "client".into(),
        };
        spans.iter().map(|s| format!("{} < {}", s.name, name(s.parent_span_id))).collect()
    }

    fn attribute(&self, span: &str, key: &str) -> String {
        let spans = self.0.lock();
        let of_span = spans.iter().filter(|s| s.name == span).flat_map(|s| &s.attributes);
        of_span.filter(|a| a.key.as_str() == key).map(|a| a.value.to_string()).collect()
    }
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
async fn a_trace_of_the_system_goes_on_to_webhooks() {
    let f = fixture().await;
    let hook = hook(|_| json!({"allowed": true})).await;
    f.post(VALIDATING, hook.configured("ValidatingWebhookConfiguration", "judge", json!({}))).await;
    let collected = Collected::of(&f.server);
    let path = "/api/v1/namespaces/default/configmaps";
    let wanted = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    let made =
        format!("POST {path}?fieldManager=m | {wanted} | content-length: 27\n{{\"metadata\":{{\"name\":\"a\"}}}}");
    assert_eq!(f.ask(&made).await.0, 201);
    let root = "POST /api/v1/namespaces/{:namespace}/configmaps";
    let wanted = [
        "HTTP POST < Call validating webhook".to_owned(),
        "Call validating webhook < Create".to_owned(),
        format!("Create < {root}"),
        format!("{root} < client"),
    ];
    assert_eq!(collected.tree(), wanted);
    let seen = hook.seen.lock()[0]["traceparent"].as_str().unwrap_or_default().to_owned();
    let sent = collected.0.lock()[0].span_context.span_id();
    assert_eq!(seen, format!("00-{TRACE}-{sent}-01"), "the webhook continues our call's span");
    assert_eq!(collected.attribute(root, "http.target"), format!("{path}?fieldManager=m"));
    assert_eq!(collected.attribute(root, "http.response.status_code"), "201");
    assert_eq!(collected.attribute("Call validating webhook", "webhook"), "judge.example.com");
    assert_eq!(collected.attribute("HTTP POST", "http.response.status_code"), "200");

    f.ask(&format!("GET {path}")).await;
    assert_eq!(collected.tree().len(), 4, "nobody asked for it");
}

#[tokio::test]
async fn strangers_do_not_decide_what_is_kept() {
    let f = fixture().await;
    let collected = Collected::of(&f.server);
    let request = Request::get("/version").header("traceparent", format!("00-{TRACE}-00f067aa0ba902b7-01"));
    let request = request.body(response::body_from(Bytes::new())).expect("a request");
    let answer = f.server.handle(request, Peer::local(UserInfo::new("jane", &["devs"]))).await;
    assert_eq!(answer.status(), 200);
    drop(answer);
    assert!(collected.tree().is_empty());
}

#[test]
fn the_configuration_is_checked_as_upstream_does() {
    let check = |fields: &str| {
        let text = format!("{{apiVersion: apiserver.config.k8s.io/v1, kind: TracingConfiguration{fields}}}");
        match TracingConfiguration::parse(&text) {
            Ok(config) => format!("{} {}", config.url().expect("was checked"), config.ratio()),
            Err(why) => why,
        }
    };
    assert_eq!(check(""), "http://localhost:4317 0");
    assert_eq!(check(", endpoint: 'dns:///c:1', samplingRatePerMillion: 500000"), "http://c:1 0.5");
    assert_eq!(check(", endpoint: 'unix:///run/c.sock'"), "unix:///run/c.sock 0");
    assert_eq!(
        check(", samplingRatePerMillion: 1000001, endpoint: 'unix-abstract://c'"),
        r#"[samplingRatePerMillion: Invalid value: 1000001: sampling rate per million must be less than or equal to one million, endpoint: Invalid value: "unix-abstract://c": unsupported: unix-abstract]"#
    );
    assert_eq!(
        check(", endpoint: 'http://c:1'"),
        r#"endpoint: Invalid value: "http://c:1": unsupported scheme: http.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md"#
    );
}
