//! Traces of requests, where somebody collects them: upstream's spans under upstream's names, with the attributes that its library
//! gives them (`apiserver/pkg/endpoints/filters/traces.go`, `component-base/tracing`, `otelhttp`). Left out are those of its filters, of
//! its storage, of encoding answers and of watches.
//!
//! Making and sending spans is `opentelemetry`'s, which `bin` sets up. Wherever the future of a request runs, its trace is found in the
//! thread (`follow`), so that nobody hands it on. Where nobody collects there never is one, and looking costs a thread-local.

use crate::api_server::Call;
use crate::auth::{MASTERS, Peer, UserInfo};
use crate::{Body, BoxError};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::{CONTENT_LENGTH, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Response, StatusCode, Uri};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use machinery::field::{Errors, FieldError, Path, aggregate};
use opentelemetry::global::BoxedTracer;
use opentelemetry::propagation::{Extractor, Injector, TextMapPropagator};
use opentelemetry::trace::{FutureExt, Link, Span, SpanKind, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue};
use parking_lot::Mutex;
use serde::Deserialize;
use std::borrow::Cow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll};
use std::time::SystemTime;

/// Members may look into everything, and may say which of our spans are kept (`user.MonitoringGroup`).
const MONITORING: &str = "system:monitoring";
/// No more of a client's name than this (`maxUserAgentLength`).
const MAX_USER_AGENT: usize = 1024;

/// Who makes spans, and how they travel in headers.
pub struct Traces {
    tracer: BoxedTracer,
    propagator: Box<dyn TextMapPropagator + Send + Sync>,
}

impl Traces {
    /// Spans of `tracer`; `propagator` reads and writes the headers (W3C's `traceparent` and `baggage`).
    pub fn new(tracer: BoxedTracer, propagator: Box<dyn TextMapPropagator + Send + Sync>) -> Self {
        Traces { tracer, propagator }
    }

    /// The span of a request. A client's own trace goes on if it is the system's; others' is only pointed to: they do not decide
    /// what is kept.
    fn span(&self, call: &Call, user: &UserInfo, peer: &Peer, received: SystemTime) -> Context {
        let remote = self.propagator.extract_with_context(&Context::new(), &Headers(&call.head.headers));
        let mut span = self.tracer.span_builder(name_of(call)).with_kind(SpanKind::Server);
        span = span.with_start_time(received);
        let is_trusted = user.is_in(MASTERS) || user.is_in(MONITORING);
        let mut span = if is_trusted {
            self.tracer.build_with_context(span, &remote)
        } else {
            if remote.has_active_span() {
                span = span.with_links(vec![Link::with_context(remote.span().span_context().clone())]);
            }
            self.tracer.build_with_context(span, &Context::new())
        };
        if span.is_recording() {
            span.set_attributes(attributes_of(call, peer));
        }
        remote.with_span(span)
    }

    fn below(
        &self,
        parent: &Context,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Context {
        let mut span = self.tracer.build_with_context(self.tracer.span_builder(name).with_kind(kind), parent);
        if span.is_recording() {
            span.set_attributes(attributes());
        }
        parent.with_span(span)
    }
}

/// The trace of one request.
struct Followed {
    traces: Arc<Traces>,
    /// When the request came.
    received: SystemTime,
    /// The span below which others begin; `None` before it is known who asks.
    current: Mutex<Option<Context>>,
}

impl Followed {
    /// A span below the current one.
    fn start(
        &self,
        name: impl Into<Cow<'static, str>>,
        kind: SpanKind,
        attributes: impl FnOnce() -> Vec<KeyValue>,
    ) -> Option<Context> {
        let parent = self.current.lock().clone()?;
        Some(self.traces.below(&parent, name, kind, attributes))
    }
}

/// The trace of the request for which this runs.
fn followed() -> Option<Arc<Followed>> {
    Context::map_current(|context| context.get::<Arc<Followed>>().cloned())
}

/// Answers a request whose trace is found wherever its future runs.
pub(crate) fn follow<T>(traces: &Arc<Traces>, answer: BoxFuture<'_, T>) -> impl Future<Output = T> + Send {
    let received = opentelemetry::time::now();
    let followed = Arc::new(Followed { traces: traces.clone(), received, current: Mutex::new(None) });
    answer.with_context(Context::new().with_value(followed))
}

/// The span of a request, if it is followed, from when it came; ends with [`answered`].
pub(crate) fn begin(call: &Call, user: &UserInfo, peer: &Peer) -> Option<Context> {
    let followed = followed()?;
    let span = followed.traces.span(call, user, peer, followed.received);
    *followed.current.lock() = Some(span.clone());
    Some(span)
}

/// The request is answered; its span ends when the answer is written.
pub(crate) fn answered(context: Context, response: Response<Body>) -> Response<Body> {
    let code = response.status();
    context.span().set_attribute(code_of(code));
    if code.is_server_error() {
        context.span().set_status(Status::error(""));
    }
    response.map(|body| Traced { body, written: 0, context }.boxed_unsync())
}

/// A span below the current one, if the request is traced. It ends with the context that is returned.
pub(crate) fn start(
    name: impl Into<Cow<'static, str>>,
    kind: SpanKind,
    attributes: impl FnOnce() -> Vec<KeyValue>,
) -> Option<Context> {
    followed()?.start(name, kind, attributes)
}

/// The same below a span that is not the current one, as those of what is done at the same time are.
pub(crate) fn start_below(
    parent: Option<&Context>,
    name: &'static str,
    kind: SpanKind,
    attributes: impl FnOnce() -> Vec<KeyValue>,
) -> Option<Context> {
    match parent {
        None => start(name, kind, attributes),
        Some(parent) => Some(followed()?.traces.below(parent, name, kind, attributes)),
    }
}

/// A step of a request: others begin below it until this is dropped.
pub(crate) struct Step {
    followed: Arc<Followed>,
    above: Option<Context>,
}

/// Begins a step, if the request is traced.
pub(crate) fn enter(name: &'static str, attributes: impl FnOnce() -> Vec<KeyValue>) -> Option<Step> {
    let followed = followed()?;
    let span = followed.start(name, SpanKind::Internal, attributes)?;
    let above = followed.current.lock().replace(span);
    Some(Step { followed, above })
}

impl Drop for Step {
    fn drop(&mut self) {
        *self.followed.current.lock() = self.above.take();
    }
}

/// Puts the span into the headers of what is sent within it.
pub(crate) fn inject(span: &Context, headers: &mut HeaderMap) {
    if let Some(followed) = followed() {
        followed.traces.propagator.inject_context(span, &mut Outgoing(headers));
    }
}

/// What a client's span says of a request to `url`.
pub(crate) fn client_attributes(method: &str, authority: &str, url: &str) -> Vec<KeyValue> {
    let (host, port) = host_and_port(authority);
    let mut all = vec![
        KeyValue::new("http.request.method", method.to_owned()),
        KeyValue::new("url.full", url.to_owned()),
        KeyValue::new("server.address", host.to_owned()),
    ];
    all.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    all.push(KeyValue::new("network.protocol.version", "1.1"));
    all
}

/// Somebody else answered our request.
pub(crate) fn responded(span: &Context, code: StatusCode) {
    let span = span.span();
    span.set_attribute(code_of(code));
    if code.is_client_error() || code.is_server_error() {
        span.set_attribute(KeyValue::new("error.type", code.as_str().to_owned()));
        span.set_status(Status::error(""));
    }
}

/// Our request was not answered.
pub(crate) fn failed(span: &Context, why: &str) {
    span.span().set_status(Status::error(why.to_owned()));
}

/// What the span of a verb says of its request (`traceFields`).
pub(crate) fn fields_of(call: &Call) -> Vec<KeyValue> {
    let info = &call.info;
    let mut agent = call.user_agent().to_owned();
    if let Some((end, _)) = agent.char_indices().nth(MAX_USER_AGENT) {
        agent.truncate(end);
        agent.push_str("...TRUNCATED");
    }
    let text = |name: &'static str, value: &str| KeyValue::new(name, value.to_owned());
    vec![
        text("accept", header(call, "accept")),
        text("audit-id", call.audit_id.as_deref().unwrap_or_default()),
        text("api-group", &info.group),
        text("api-version", &info.version),
        text("name", &info.name),
        text("subresource", &info.subresource),
        text("namespace", &info.namespace),
        text("protocol", &format!("{:?}", call.head.version)),
        text("resource", &info.resource),
        text("url", &info.path),
        text("user-agent", &agent),
        text("verb", &info.verb),
    ]
}

/// The span of a verb, where upstream has one.
pub(crate) fn verb_name(verb: &str) -> Option<&'static str> {
    Some(match verb {
        "get" => "Get",
        "list" => "List",
        "create" => "Create",
        "update" => "Update",
        "patch" => "Patch",
        "delete" | "deletecollection" => "Delete",
        _ => return None,
    })
}

/// `getSpanNameFromRequestInfo`
fn name_of(call: &Call) -> String {
    let (info, method) = (&call.info, &call.head.method);
    if !info.is_resource {
        return method.to_string();
    }
    let mut name =
        format!("{method} /{}", if info.path.trim_start_matches('/').starts_with("apis/") { "apis" } else { "api" });
    let mut add = |part: &str| {
        if !part.is_empty() {
            name.push('/');
            name.push_str(part);
        }
    };
    add(&info.group);
    add(&info.version);
    add(if info.namespace.is_empty() { "" } else { "namespaces/{:namespace}" });
    add(&info.resource);
    add(if info.name.is_empty() { "" } else { "{:name}" });
    add(&info.subresource);
    name
}

/// What `otelhttp` says of a request, and `WithTracing` beside it.
fn attributes_of(call: &Call, peer: &Peer) -> Vec<KeyValue> {
    let uri = &call.head.uri;
    let host = match uri.authority() {
        Some(authority) => authority.as_str(),
        None => header(call, HOST.as_str()),
    };
    let (host, port) = host_and_port(host);
    let mut all = vec![
        KeyValue::new("server.address", host.to_owned()),
        KeyValue::new("http.request.method", call.head.method.to_string()),
        KeyValue::new("url.scheme", "https"),
    ];
    all.extend(port.map(|port| KeyValue::new("server.port", i64::from(port))));
    let address = peer.address.map(|address| address.ip().to_string());
    all.extend(address.clone().map(|ip| KeyValue::new("network.peer.address", ip)));
    all.extend(peer.address.map(|address| KeyValue::new("network.peer.port", i64::from(address.port()))));
    let forwarded = header(call, "x-forwarded-for").split(',').next().filter(|ip| !ip.is_empty());
    let client = forwarded.map(str::to_owned).or(address);
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    let texts = [
        ("user_agent.original", some(header(call, USER_AGENT.as_str()))),
        ("client.address", client),
        ("url.path", some(uri.path())),
        ("network.protocol.version", some(format!("{:?}", call.head.version).trim_start_matches("HTTP/"))),
        ("http.target", some(&target(uri))),
        ("audit-id", call.audit_id.as_deref().and_then(some)),
    ];
    all.extend(texts.into_iter().filter_map(|(name, value)| Some(KeyValue::new(name, value?))));
    let size = header(call, CONTENT_LENGTH.as_str()).parse::<i64>().ok().filter(|size| *size > 0);
    all.extend(size.map(|size| KeyValue::new("http.request.body.size", size)));
    all
}

fn target(uri: &Uri) -> String {
    uri.path_and_query().map(|target| target.as_str().to_owned()).unwrap_or_default()
}

fn header<'a>(call: &'a Call, name: &str) -> &'a str {
    call.head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

fn code_of(code: StatusCode) -> KeyValue {
    KeyValue::new("http.response.status_code", i64::from(code.as_u16()))
}

/// Host, and port unless it is the usual one.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    };
    (host.trim_matches(['[', ']']), port.filter(|port| *port > 0 && *port != 443))
}

/// Headers that came.
struct Headers<'a>(&'a HeaderMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Headers that go.
struct Outgoing<'a>(&'a mut HeaderMap);

impl Injector for Outgoing<'_> {
    fn set(&mut self, key: &str, value: String) {
        if value.is_empty() {
            return;
        }
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

/// A body whose end is the end of a span.
struct Traced {
    body: Body,
    written: i64,
    context: Context,
}

impl http_body::Body for Traced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let next = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &next {
            let size = frame.data_ref().map_or(0, Bytes::len);
            self.written = self.written.saturating_add(i64::try_from(size).unwrap_or(i64::MAX));
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Traced {
    fn drop(&mut self) {
        if self.written > 0 {
            self.context.span().set_attribute(KeyValue::new("http.response.body.size", self.written));
        }
        self.context.span().end();
    }
}

// === the configuration ===

/// A TracingConfiguration of `apiserver.config.k8s.io` (`component-base/tracing/api/v1`).
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TracingConfiguration {
    api_version: String,
    kind: String,
    endpoint: Option<String>,
    sampling_rate_per_million: Option<i32>,
}

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// Where a collector is if nobody says otherwise.
const ENDPOINT: &str = "localhost:4317";

impl TracingConfiguration {
    /// Reads and checks a file (YAML or JSON). The error is for who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: TracingConfiguration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if parsed.kind != "TracingConfiguration" || !VERSIONS.contains(&parsed.api_version.as_str()) {
            let (kind, version) = (&parsed.kind, &parsed.api_version);
            return Err(format!("expected kind TracingConfiguration of {}, got {kind:?} of {version:?}", VERSIONS[0]));
        }
        let errors = parsed.check();
        if errors.is_empty() { Ok(parsed) } else { Err(aggregate(&errors)) }
    }

    /// `ValidateTracingConfiguration`; what we do not dial is refused by name.
    fn check(&self) -> Errors {
        let mut errors = Errors::new();
        let at = Path::new("samplingRatePerMillion");
        match self.sampling_rate_per_million.unwrap_or_default() {
            rate if rate < 0 => errors.push(FieldError::invalid(&at, rate, "sampling rate must be positive")),
            rate if rate > 1_000_000 => {
                let detail = "sampling rate per million must be less than or equal to one million";
                errors.push(FieldError::invalid(&at, rate, detail));
            }
            _ => {}
        }
        if let Err(why) = self.url() {
            errors.push(FieldError::invalid(
                &Path::new("endpoint"),
                self.endpoint.as_deref().unwrap_or_default(),
                &why,
            ));
        }
        errors
    }

    /// The collector's address as a URL.
    pub fn url(&self) -> Result<String, String> {
        let endpoint = self.endpoint.as_deref().unwrap_or(ENDPOINT);
        let Some((scheme, rest)) = endpoint.split_once("//") else { return Ok(format!("http://{endpoint}")) };
        match (scheme, rest.split_once('/')) {
            ("dns:", Some(("", host))) => Ok(format!("http://{host}")),
            ("dns:", None) => Ok(format!("http://{rest}")),
            ("dns:", Some(_)) => Err("unsupported: a DNS server of its own".to_owned()),
            ("unix:", Some(("", _))) => Ok(endpoint.to_owned()),
            ("unix:", _) => Err("unsupported: a socket without an absolute path".to_owned()),
            ("unix-abstract:", _) => Err("unsupported: unix-abstract".to_owned()),
            (other, _) => Err(format!(
                "unsupported scheme: {}.  Options are none, dns, unix, or unix-abstract.  See https://github.com/grpc/grpc/blob/master/doc/naming.md",
                other.trim_end_matches(':')
            )),
        }
    }

    /// How many of those traces are kept about which the client did not decide, from 0 to 1.
    pub fn ratio(&self) -> f64 {
        f64::from(self.sampling_rate_per_million.unwrap_or_default()) / 1e6
    }
}
