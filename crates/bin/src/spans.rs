//! Traces of the API server's requests, sent to a collector over OTLP (`apiserver/pkg/server/options/tracing.go`,
//! `component-base/tracing`): what spans there are is `apiserver::trace`'s; here they are kept or not, gathered and sent.

use apiserver::trace::{Traces, TracingConfiguration};
use opentelemetry::KeyValue;
use opentelemetry::global::BoxedTracer;
use opentelemetry::propagation::TextMapCompositePropagator;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use std::path::Path;

/// Sends spans until it is stopped.
pub(crate) struct Sender(SdkTracerProvider);

/// Begins to send spans as the file says, as those of `instance`. Needs tokio's runtime.
pub(crate) fn start(path: &Path, instance: &str) -> Result<(Traces, Sender), String> {
    let wrong = |why: String| format!("tracing-config-file {}: {why}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| wrong(e.to_string()))?;
    send(&TracingConfiguration::parse(&text).map_err(wrong)?, instance).map_err(wrong)
}

fn send(config: &TracingConfiguration, instance: &str) -> Result<(Traces, Sender), String> {
    let exporter = SpanExporter::builder().with_tonic().with_endpoint(config.url()?).build();
    let sampler = match config.ratio() {
        0.0 => Sampler::AlwaysOff,
        ratio => Sampler::TraceIdRatioBased(ratio),
    };
    let names = [
        KeyValue::new("service.name", "apiserver"),
        KeyValue::new("service.instance.id", format!("apiserver-{instance}")),
    ];
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(exporter.map_err(|e| base::chain(&e))?)
        .with_sampler(Sampler::ParentBased(Box::new(sampler)))
        .with_resource(Resource::builder_empty().with_attributes(names).build())
        .build();
    let tracer = BoxedTracer::new(Box::new(provider.tracer("dhow")));
    let propagators = TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ]);
    Ok((Traces::new(tracer, Box::new(propagators)), Sender(provider)))
}

impl Sender {
    /// Sends what is left. A collector that is away is not waited for longer than the library does (5 s).
    pub(crate) async fn stop(self) {
        // It waits on its thread's answer.
        let stopped = tokio::task::spawn_blocking(move || self.0.shutdown()).await;
        if !matches!(stopped, Ok(Ok(()))) {
            tracing::warn!("the last spans may not have reached their collector");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiserver::auth::{AllowAll, LocalOnly, MASTERS, Peer, UserInfo};
    use apiserver::{ApiServer, Body, Deps, ServiceNetwork};
    use http::Request;
    use http_body_util::{BodyExt, Empty};
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{TraceService, TraceServiceServer};
    use opentelemetry_proto::tonic::collector::trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse};
    use std::sync::Arc;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
    use tokio_stream::wrappers::TcpListenerStream;

    struct Collector(UnboundedSender<ExportTraceServiceRequest>);

    #[tonic::async_trait]
    impl TraceService for Collector {
        async fn export(
            &self,
            request: tonic::Request<ExportTraceServiceRequest>,
        ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
            self.0.send(request.into_inner()).expect("the test waits");
            Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
        }
    }

    async fn server() -> ApiServer {
        let deps = Deps {
            store: Arc::new(store::MemoryStore::new(store::Limits::default())),
            authenticator: Arc::new(LocalOnly),
            authorizer: Arc::new(AllowAll),
            admission: Vec::new(),
            token_issuer: None,
            services: ServiceNetwork::default(),
            node_client: None,
            audit: None,
            clock: base::SystemClock::shared(),
            random: Arc::new(base::SystemRandom),
        };
        ApiServer::new(deps).await.expect("an empty store")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn spans_reach_their_collector() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, mut received) = unbounded_channel();
        let incoming = TcpListenerStream::new(listener);
        let service = TraceServiceServer::new(Collector(sender));
        base::tasks::detach("test-collector", async move {
            drop(tonic::transport::Server::builder().serve_with_incoming(service, incoming).await);
        });
        let text = format!(
            "{{apiVersion: apiserver.config.k8s.io/v1, kind: TracingConfiguration, endpoint: '{address}', samplingRatePerMillion: 1000000}}"
        );
        let config = TracingConfiguration::parse(&text).expect("is well-formed");
        let (traces, sending) = send(&config, "a").expect("nothing is dialled yet");
        let server = server().await;
        server.set_traces(traces);
        let body: Body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get("/api/v1/nodes/n").body(body).expect("a request");
        let response = server.handle(request, Peer::local(UserInfo::new("admin", &[MASTERS]))).await;
        assert_eq!(response.status(), 404);
        drop(response);
        sending.stop().await;

        let batch = received.recv().await.expect("was sent");
        let of_us = &batch.resource_spans[0];
        let resource = of_us.resource.as_ref().expect("has one");
        let mut names: Vec<&str> = resource.attributes.iter().map(|a| a.key.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["service.instance.id", "service.name"]);
        let spans: Vec<&str> = of_us.scope_spans[0].spans.iter().map(|span| span.name.as_str()).collect();
        assert_eq!(spans, ["Get", "GET /api/v1/nodes/{:name}"]);
    }
}
