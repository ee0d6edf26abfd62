//! Calls to webhooks: conversion, admission, authentication, authorization. HTTP/1.1 over TLS to a Service or a URL
//! (`apiserver/pkg/util/webhook/client.go`, texts as Go's `net/http` and client-go make them). Whether a URL may do without TLS is
//! who configures it to check.
//!
//! Always holds: a call ends at its deadline; nothing of a connection is shared between webhooks of different trust; an answer
//! larger than `MAX_ANSWER` is refused.

mod proxy;
pub(crate) mod trust;

pub use proxy::Proxy;

use crate::reader::Reader;
use crate::{service_client, status, trace};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, Uri, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use opentelemetry::Context;
use opentelemetry::trace::SpanKind;
use parking_lot::Mutex;
use rustls::ClientConfig as TlsConfig;
use rustls_pki_types::ServerName;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use url::Url;

/// An answer is not longer than this.
const MAX_ANSWER: usize = 64 << 20;
/// Webhooks whose connections and trust are kept (`defaultCacheSize`).
const MAX_WEBHOOKS: usize = 200;
/// Connections that wait for the next call, per webhook.
const MAX_IDLE: usize = 16;
/// An unused connection is closed after this (`http.DefaultTransport`, `IdleConnTimeout`).
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// A call whose caller sets no deadline ends after this (`defaultRequestTimeout`).
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);
/// No more of a foreign error text than this (`maxUnstructuredResponseTextBytes`).
const MAX_ERROR_TEXT: usize = 2048;

/// How to reach a webhook.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    /// A URL or a Service.
    pub target: Target,
    /// PEM roots that may sign the webhook's certificate; empty = those of the system.
    pub ca_bundle: Vec<u8>,
    /// Who we are for the webhook.
    pub credentials: Credentials,
    /// What is particular about the way there.
    pub reach: Reach,
}

/// What a kubeconfig may say of the way to a webhook.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Reach {
    /// Whom the certificate must name, if not the host of the URL.
    pub server_name: Option<String>,
    /// Any certificate will do.
    pub unchecked: bool,
    /// Through whom it is reached.
    pub proxy: Option<Proxy>,
}

/// Who we are for a webhook. Nobody, if empty.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    /// A client certificate and its key, PEM.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The `Authorization` header.
    pub authorization: Option<String>,
}

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// `https://host[:port][/path]`, or `http://` without TLS.
    Url(String),
    /// A Service of the cluster, reached at one of its ready endpoints; its certificate names `<name>.<namespace>.svc`.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// Path of the URL, or empty.
        path: String,
        /// Port of the Service; 0 = 443.
        port: u16,
    },
}

/// Why a call brought nothing. The text is what upstream's client says.
#[derive(Debug, Error)]
pub enum WebhookError {
    /// The deadline passed.
    #[error("{verb} {url:?}: context deadline exceeded")]
    Timeout {
        /// `Post` or `Get`.
        verb: &'static str,
        /// What was called.
        url: String,
    },
    /// No connection, or it broke.
    #[error("{verb} {url:?}: {why}")]
    Transport {
        /// `Post` or `Get`.
        verb: &'static str,
        /// What was called.
        url: String,
        /// Why not.
        why: String,
    },
    /// The webhook answered with a failure.
    #[error("{message}")]
    Answered {
        /// HTTP code.
        code: u16,
        /// What upstream's client makes of code and body.
        message: String,
    },
    /// The configuration cannot be used.
    #[error("{0}")]
    Config(String),
}

/// Calls webhooks over connections that are kept. One per server.
pub struct WebhookClient {
    reader: Reader,
    pools: Mutex<HashMap<ClientConfig, Arc<Pool>>>,
    /// Connections made to Services.
    turns: AtomicUsize,
}

/// The two ways of a connection.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}
type Stream = Box<dyn Duplex>;

/// One webhook's trust and idle connections.
struct Pool {
    tls: Arc<TlsConfig>,
    server_name: Option<String>,
    proxy: Option<Proxy>,
    idle: Mutex<Vec<(Instant, SendRequest<Full<Bytes>>)>>,
    used: Mutex<Instant>,
}

/// A config, read: what stands in the request, and what is dialled.
struct Address {
    url: String,
    uri: Uri,
    authority: String,
    /// Whom the certificate must name; `None`: no TLS.
    server_name: Option<String>,
    dial: Dial,
}

enum Dial {
    Host(String, u16),
    Service { namespace: String, name: String, port: u16 },
}

/// How a try on one connection failed.
enum Failure {
    /// The other side had closed the kept connection: a new one may do.
    Stale,
    Why(String),
}

impl WebhookClient {
    /// Services are looked up in `reader`.
    pub fn new(reader: Reader) -> Self {
        WebhookClient { reader, pools: Mutex::new(HashMap::new()), turns: AtomicUsize::new(0) }
    }

    /// POSTs a JSON review and returns the body of a successful answer. A `timeout` is the call's deadline and is told to the
    /// webhook as the query's `timeout`, as client-go does. Its trace goes on `within` a span of the request.
    pub async fn post(
        &self,
        config: &ClientConfig,
        timeout: Option<Duration>,
        body: Bytes,
        within: Option<&Context>,
    ) -> Result<Bytes, WebhookError> {
        let address = Address::of(&config.target, timeout)?;
        let span = trace::start_below(within, "HTTP POST", SpanKind::Client, || {
            trace::client_attributes("POST", &address.authority, &address.url)
        });
        let message = Message { body: Some(body), span: span.as_ref(), ..Message::get(&address, config) };
        let answer = self.send(config, message, timeout.unwrap_or(DEFAULT_TIMEOUT)).await;
        if let (Some(span), Err(error)) = (&span, &answer) {
            trace::failed(span, &error.to_string());
        }
        answer
    }

    /// POSTs a review to somebody who is told no deadline.
    pub(crate) async fn review(
        &self,
        config: &ClientConfig,
        timeout: Duration,
        body: Bytes,
    ) -> Result<Bytes, WebhookError> {
        let address = Address::of(&config.target, None)?;
        self.send(config, Message { body: Some(body), ..Message::get(&address, config) }, timeout).await
    }

    /// GETs a document.
    pub(crate) async fn get(&self, config: &ClientConfig, timeout: Duration) -> Result<Bytes, WebhookError> {
        let address = Address::of(&config.target, None)?;
        self.send(config, Message::get(&address, config), timeout).await
    }

    /// GETs a document as who has this `Authorization`, which is not remembered.
    pub(crate) async fn get_as(
        &self,
        config: &ClientConfig,
        authorization: &str,
        timeout: Duration,
    ) -> Result<Bytes, WebhookError> {
        let address = Address::of(&config.target, None)?;
        let message = Message { authorization: Some(authorization), ..Message::get(&address, config) };
        self.send(config, message, timeout).await
    }

    async fn send(
        &self,
        config: &ClientConfig,
        message: Message<'_>,
        timeout: Duration,
    ) -> Result<Bytes, WebhookError> {
        let pool = self.pool(config)?;
        let verb = if message.body.is_some() { "Post" } else { "Get" };
        match tokio::time::timeout(timeout, self.call(&pool, &message, verb)).await {
            Ok(answer) => answer,
            Err(_) => Err(WebhookError::Timeout { verb, url: message.address.url.clone() }),
        }
    }

    fn pool(&self, config: &ClientConfig) -> Result<Arc<Pool>, WebhookError> {
        let now = Instant::now();
        let mut pools = self.pools.lock();
        if let Some(pool) = pools.get(config) {
            *pool.used.lock() = now;
            return Ok(pool.clone());
        }
        if pools.len() >= MAX_WEBHOOKS {
            let oldest = pools.iter().min_by_key(|(_, pool)| *pool.used.lock()).map(|(config, _)| config.clone());
            oldest.and_then(|config| pools.remove(&config));
        }
        let identity = config.credentials.identity.as_ref().map(|(chain, key)| trust::identity(chain, key));
        let identity = identity.transpose().map_err(WebhookError::Config)?;
        let tls = match config.reach.unchecked {
            true => service_client::trusting_anybody(identity).map_err(|e| e.to_string()),
            false => trust::client_config(&config.ca_bundle, identity),
        };
        let tls = tls.map_err(WebhookError::Config)?;
        let Reach { server_name, proxy, .. } = config.reach.clone();
        let pool = Arc::new(Pool { tls, server_name, proxy, idle: Mutex::new(Vec::new()), used: Mutex::new(now) });
        pools.insert(config.clone(), pool.clone());
        Ok(pool)
    }

    async fn call(&self, pool: &Pool, message: &Message<'_>, verb: &'static str) -> Result<Bytes, WebhookError> {
        let address = message.address;
        let failed = |why: String| WebhookError::Transport { verb, url: address.url.clone(), why };
        // Kept connections may have been closed by the other side; the last try is on a new one.
        while let Some(sender) = pool.take() {
            match exchange(pool, sender, message).await {
                Ok(answer) => return read_answer(answer),
                Err(Failure::Stale) => {}
                Err(Failure::Why(why)) => return Err(failed(why)),
            }
        }
        let sender = self.connect(pool, address).await.map_err(failed)?;
        match exchange(pool, sender, message).await {
            Ok(answer) => read_answer(answer),
            Err(Failure::Stale) => Err(failed("EOF".into())),
            Err(Failure::Why(why)) => Err(failed(why)),
        }
    }

    async fn connect(&self, pool: &Pool, address: &Address) -> Result<SendRequest<Full<Bytes>>, String> {
        let stream: Stream = match (&pool.proxy, &address.dial) {
            (Some(proxy), Dial::Host(host, port)) => proxy.dial(pool, host, *port).await?,
            (_, dial) => Box::new(self.dial(dial).await?),
        };
        match &address.server_name {
            None => converse(stream).await,
            Some(name) => converse(pool.secure(stream, name.clone()).await?).await,
        }
    }

    /// Connects to the host, or to an endpoint of the Service that answers.
    async fn dial(&self, to: &Dial) -> Result<TcpStream, String> {
        let mut addresses = match to {
            Dial::Host(host, port) => vec![(host.clone(), *port)],
            Dial::Service { namespace, name, port } => {
                let found = service_client::resolve(&self.reader, namespace, name, i32::from(*port)).await;
                let found = found.map_err(|status| status.message)?;
                if found.is_empty() {
                    return Err(format!("no endpoints available for service {name:?}"));
                }
                found
            }
        };
        // Several endpoints take turns.
        let turn = self.turns.fetch_add(1, Ordering::Relaxed) % addresses.len();
        addresses.rotate_left(turn);
        let mut failure = String::new();
        for (host, port) in addresses {
            match open(&host, port).await {
                Ok(tcp) => return Ok(tcp),
                Err(why) => failure = why,
            }
        }
        Err(failure)
    }
}

/// A connection that sends at once: reviews are small, and a delayed segment is a delayed write of somebody.
async fn open(host: &str, port: u16) -> Result<TcpStream, String> {
    let failed = |error| format!("dial tcp {}: connect: {}", join(host, port), io_text(&error));
    let tcp = TcpStream::connect((host, port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    Ok(tcp)
}

/// HTTP over a connection.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
) -> Result<SendRequest<Full<Bytes>>, String> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| base::chain(&error))?;
    base::tasks::detach("webhook-connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %base::chain(&error), "connection to a webhook ended");
        }
    });
    Ok(sender)
}

impl Pool {
    /// TLS on a connection to `name`, or to whom the certificate must name instead.
    async fn secure(&self, stream: Stream, name: String) -> Result<Stream, String> {
        let name = self.server_name.clone().unwrap_or(name);
        let server_name = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(self.tls.clone()).connect(server_name, stream).await;
        Ok(Box::new(tls.map_err(|error| trust::explain(&error, &name))?))
    }

    /// A kept connection that is still open.
    fn take(&self) -> Option<SendRequest<Full<Bytes>>> {
        let now = Instant::now();
        let mut idle = self.idle.lock();
        idle.retain(|(since, sender)| !sender.is_closed() && now.duration_since(*since) < IDLE_TIMEOUT);
        idle.pop().map(|(_, sender)| sender)
    }

    fn keep(&self, sender: SendRequest<Full<Bytes>>) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push((Instant::now(), sender));
        }
    }
}

/// What is asked.
struct Message<'a> {
    address: &'a Address,
    authorization: Option<&'a str>,
    /// `None`: a GET.
    body: Option<Bytes>,
    /// In which it is sent.
    span: Option<&'a Context>,
}

impl<'a> Message<'a> {
    fn get(address: &'a Address, config: &'a ClientConfig) -> Self {
        Message { address, authorization: config.credentials.authorization.as_deref(), body: None, span: None }
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, http::Error> {
        let uri = self.address.uri.clone();
        let mut builder = match &self.body {
            Some(_) => Request::post(uri).header(header::CONTENT_TYPE, "application/json"),
            None => Request::get(uri),
        };
        if let Some(authorization) = self.authorization {
            builder = builder.header(header::AUTHORIZATION, authorization);
        }
        let mut request = builder
            .header(header::HOST, &self.address.authority)
            .header(header::ACCEPT, "application/json, */*")
            .header(header::USER_AGENT, "dhow")
            .body(Full::new(self.body.clone().unwrap_or_default()))?;
        if let Some(span) = self.span {
            trace::inject(span, request.headers_mut());
        }
        Ok(request)
    }
}

/// One request on one connection, which is kept afterwards.
async fn exchange(
    pool: &Pool,
    mut sender: SendRequest<Full<Bytes>>,
    message: &Message<'_>,
) -> Result<(http::response::Parts, Bytes), Failure> {
    if sender.ready().await.is_err() {
        return Err(Failure::Stale);
    }
    let request = message.request().map_err(|error| Failure::Why(error.to_string()))?;
    let answer: Response<Incoming> = match sender.send_request(request).await {
        Ok(answer) => answer,
        Err(error) if error.is_incomplete_message() || error.is_canceled() || error.is_closed() => {
            return Err(Failure::Stale);
        }
        Err(error) => return Err(Failure::Why(base::chain(&error))),
    };
    let (head, mut incoming) = answer.into_parts();
    if let Some(span) = message.span {
        trace::responded(span, head.status);
    }
    let mut all = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let broken = |why: String| {
            Failure::Why(format!("unexpected error when reading response body. Please retry. Original error: {why}"))
        };
        let Ok(data) = frame.map_err(|error| broken(base::chain(&error)))?.into_data() else { continue };
        if all.len() + data.len() > MAX_ANSWER {
            return Err(broken(format!("the answer is larger than {MAX_ANSWER} bytes")));
        }
        all.extend_from_slice(&data);
    }
    pool.keep(sender);
    Ok((head, all.freeze()))
}

/// The body of a success; of a failure, what client-go says (`rest/request.go`, `transformResponse`).
fn read_answer((head, body): (http::response::Parts, Bytes)) -> Result<Bytes, WebhookError> {
    let code = head.status.as_u16();
    if (200..=206).contains(&code) {
        return Ok(body);
    }
    let stated = serde_json::from_slice::<serde_json::Value>(&body).ok().filter(|v| v["kind"] == "Status");
    if let Some(message) = stated.and_then(|v| v["message"].as_str().map(str::to_owned)) {
        return Err(WebhookError::Answered { code, message });
    }
    let media = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let text = if media.is_empty() || media.starts_with("text/") {
        String::from_utf8_lossy(&body[..body.len().min(MAX_ERROR_TEXT)]).trim().to_owned()
    } else {
        "unknown".to_owned()
    };
    let (_, message) = status::generic_response(code, &text);
    Err(WebhookError::Answered { code, message })
}

impl Address {
    fn of(target: &Target, timeout: Option<Duration>) -> Result<Self, WebhookError> {
        let timeout = timeout.map(|t| format!("timeout={}", go_duration(t)));
        let (authority, tls_name, path, own, dial) = match target {
            Target::Service { namespace, name, path, port } => {
                let port = if *port == 0 { 443 } else { *port };
                let server_name = format!("{name}.{namespace}.svc");
                let dial = Dial::Service { namespace: namespace.clone(), name: name.clone(), port };
                (format!("{server_name}:{port}"), Some(server_name), path.clone(), None, dial)
            }
            Target::Url(text) => {
                let url = Url::parse(text).map_err(|e| WebhookError::Config(format!("Unparsable URL: {e}")))?;
                let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
                let is_plain = url.scheme() == "http";
                let port = url.port().unwrap_or(if is_plain { 80 } else { 443 });
                let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
                let tls_name = (!is_plain).then(|| host.clone());
                let query = url.query().map(str::to_owned);
                (authority.to_owned(), tls_name, url.path().to_owned(), query, Dial::Host(host, port))
            }
        };
        let path = if path.starts_with('/') { path } else { format!("/{path}") };
        let query: Vec<String> = own.into_iter().chain(timeout).collect();
        let target = if query.is_empty() { path } else { format!("{path}?{}", query.join("&")) };
        let scheme = if tls_name.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{authority}{target}");
        let uri = target.parse().map_err(|e| WebhookError::Config(format!("parse {url:?}: {e}")))?;
        Ok(Address { url, uri, authority, server_name: tls_name, dial })
    }
}

/// `10s`, `1m30s`, `500ms`: whole numbers as Go prints them.
fn go_duration(duration: Duration) -> String {
    let (seconds, millis) = (duration.as_secs(), duration.subsec_millis());
    match (seconds / 60, seconds % 60, millis) {
        (0, 0, millis) => format!("{millis}ms"),
        (0, seconds, 0) => format!("{seconds}s"),
        (minutes, seconds, 0) => format!("{minutes}m{seconds}s"),
        (_, _, millis) => format!("{seconds}.{millis:03}s"),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// As Go names the same errors.
fn io_text(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::ConnectionReset => "connection reset by peer".into(),
        std::io::ErrorKind::HostUnreachable => "no route to host".into(),
        std::io::ErrorKind::NetworkUnreachable => "network is unreachable".into(),
        std::io::ErrorKind::TimedOut => "connection timed out".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
