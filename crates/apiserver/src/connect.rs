//! Connections through the API server: log, exec, attach and port-forward to the node agent; proxy to nodes, pods and Services.
//!
//! Bytes are tunnelled as they are, also after an HTTP/1.1 Upgrade (WebSocket, SPDY): the agent speaks both, so nothing is
//! translated here but logs, which the agent knows only as a stream. Follows `pkg/registry/core/pod/strategy.go`
//! (locations and parameters), `…/service/storage/storage.go`, `…/node/strategy.go`,
//! `apimachinery/pkg/util/proxy/upgradeaware.go`.

use crate::admission::{Operation, Request as Admitted};
use crate::aggregate::is_user_header;
use crate::api_server::{ApiServer, Call};
use crate::managed::{NO_OWNERS, Owners};
use crate::proxy_links::Links;
use crate::reader::KindRef;
use crate::request_info::Query;
use crate::response::{Answer, plain};
use crate::{Body, BoxError, service_client, status, websocket};
use api::Status;
use api::k8s::api::core::v1::Pod;
use api::prelude::{MetaExt, Node, Service};
use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// So much of what a node says when it refuses a log is told (`maxReadLength`).
const REFUSAL_MAX: usize = 50_000;

/// A node, pod or endpoint answers the connection within this time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What a node may answer to the server itself.
const FETCH_MAX_BYTES: usize = 16 << 20;
/// The node agent's port where its node does not say.
const AGENT_PORT: u16 = 10250;

/// Where a connection goes.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
    /// Path and query.
    pub(crate) path: String,
}

/// What a connection is wrapped in.
#[derive(Debug, Clone)]
pub(crate) enum Security {
    /// Nothing.
    Plain,
    /// TLS with a node agent: both sides show certificates.
    Agent,
    /// TLS with whoever is there (pods and Services; upstream's `CreateProxyTransport` verifies nobody either).
    Anybody,
    /// TLS with the holder of a name.
    Named { config: Arc<rustls::ClientConfig>, name: ServerName<'static> },
}

impl Target {
    /// `host:port`, as a URL names it.
    fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{host}:{}", self.port)
    }
}

impl Security {
    fn of_scheme(scheme: &str) -> Self {
        if scheme == "https" { Security::Anybody } else { Security::Plain }
    }
}

/// Any request to `log`, `exec`, `attach`, `portforward` or `proxy`.
pub(crate) async fn answer(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    admit(server, call, kind).await?;
    let target = match (kind.info().kind.as_ref(), call.info.subresource.as_str()) {
        ("Pod", "log") => match log_target(server, call).await? {
            Some(target) => target,
            None => return Ok(Answer::Raw(plain(200, "text/plain", Bytes::new()))),
        },
        ("Pod", "exec" | "attach" | "portforward") => stream_target(server, call).await?,
        (_, "proxy") => match proxy_target(server, call, kind).await? {
            Proxy::To(target) => target,
            Proxy::AddSlash => return Ok(add_slash(call)),
        },
        (_, other) => return Err(status::unsupported(other)),
    };
    let links = (call.info.subresource == "proxy").then(|| links_of(call, &target));
    forward(server, call, &target, HeaderMap::new(), links, body).await
}

/// What is left of the request's path without what goes on to the target.
fn links_of(call: &Call, target: &Target) -> Links {
    let path = target.path.split('?').next().unwrap_or_default();
    let prefix = call.info.path.strip_suffix(path).unwrap_or(&call.info.path).to_owned();
    let host = call.head.headers.get(header::HOST).and_then(|v| v.to_str().ok());
    let host = host.or(call.head.uri.authority().map(|a| a.as_str())).unwrap_or_default().to_owned();
    Links { prefix, target: target.authority(), host }
}

async fn admit(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<(), Status> {
    if call.info.subresource == "log" {
        return Ok(());
    }
    let name = call.info.name.split(':').next().unwrap_or_default();
    let options = options_of(kind, call);
    let mut request = Admitted {
        operation: Operation::Connect,
        kind,
        subresource: &call.info.subresource,
        namespace: &call.info.namespace,
        name,
        user: &call.user,
        dry_run: false,
        options: &options,
        object: None,
        old_object: None,
        owners: Owners::default(),
        old_owners: &NO_OWNERS,
        remarks: &call.warnings,
        reinvocation: Default::default(),
        cluster: server,
    };
    server.admit(&mut request).await?;
    server.admit_final(&request).await
}

/// What admission sees of a connection: the query as `PodExecOptions` and the like.
fn options_of(kind: &KindRef, call: &Call) -> serde_json::Value {
    let of = kind.info().subresource(&call.info.subresource).map(|s| s.kind.to_string()).unwrap_or_default();
    let mut options = serde_json::json!({"kind": of, "apiVersion": "v1"});
    for name in ["stdin", "stdout", "stderr", "tty"] {
        if call.query.get(name).is_some_and(|v| !matches!(v, "" | "false" | "0")) {
            options[name] = true.into();
        }
    }
    if let Some(container) = call.query.text("container") {
        options["container"] = container.into();
    }
    let command: Vec<&str> = call.query.all("command").collect();
    if !command.is_empty() {
        options["command"] = command.into();
    }
    let ports: Vec<i64> = call.query.all("ports").flat_map(|p| p.split(',')).filter_map(|p| p.parse().ok()).collect();
    if !ports.is_empty() {
        options["ports"] = ports.into();
    }
    if call.info.subresource == "proxy" && !call.info.rest.is_empty() {
        options["path"] = call.info.rest.as_str().into();
    }
    options
}

// === where to ===

async fn pod_of(server: &ApiServer, call: &Call, name: &str) -> Result<Pod, Status> {
    let found = server.reader().get::<Pod>(&call.info.namespace, name).await?;
    found.ok_or_else(|| status::not_found_in("", "pods", name))
}

/// `/containerLogs/<namespace>/<pod>/<container>`; `None` if the pod is on no node yet.
async fn log_target(server: &ApiServer, call: &Call) -> Result<Option<Target>, Status> {
    let pod = pod_of(server, call, &call.info.name).await?;
    let container = container_of(&pod, call.query.get("container").unwrap_or_default())?;
    let Some(node) = node_name(&pod) else { return Ok(None) };
    let path = format!("/containerLogs/{}/{}/{container}", call.info.namespace, call.info.name);
    agent_target(server, node, path, &log_query(&call.query)).await.map(Some)
}

/// The options that the agent knows; the container is in the path.
fn log_query(query: &Query) -> String {
    let known = ["follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream"];
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    for name in known {
        if let Some(value) = query.text(name) {
            out.append_pair(name, value);
        }
    }
    out.finish()
}

/// `/exec/…`, `/attach/…`, `/portForward/…`.
async fn stream_target(server: &ApiServer, call: &Call) -> Result<Target, Status> {
    let pod = pod_of(server, call, &call.info.name).await?;
    let subresource = call.info.subresource.as_str();
    let (namespace, name) = (&call.info.namespace, &call.info.name);
    let path = if subresource == "portforward" {
        format!("/portForward/{namespace}/{name}")
    } else {
        let container = container_of(&pod, call.query.get("container").unwrap_or_default())?;
        format!("/{subresource}/{namespace}/{name}/{container}")
    };
    let node =
        node_name(&pod).ok_or_else(|| status::bad_request(format!("pod {name} does not have a host assigned")))?;
    agent_target(server, node, path, &stream_query(&call.query, subresource)).await
}

/// The agent's names of the options (`streamParams`).
fn stream_query(query: &Query, subresource: &str) -> String {
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    if subresource == "portforward" {
        let ports: Vec<&str> = query.all("ports").collect();
        if !ports.is_empty() {
            out.append_pair("port", &ports.join(","));
        }
        return out.finish();
    }
    // PodExecOptions' and PodAttachOptions' defaults (`pkg/apis/core/v1/defaults.go` has none; attach defaults in the client).
    for (name, agent) in [("stdin", "input"), ("stdout", "output"), ("stderr", "error"), ("tty", "tty")] {
        if query.flag(name) == Some(true) {
            out.append_pair(agent, "1");
        }
    }
    for word in query.all("command") {
        out.append_pair("command", word);
    }
    out.finish()
}

fn node_name(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// The asked container, or the only one (`validateContainer`).
fn container_of(pod: &Pod, asked: &str) -> Result<String, Status> {
    let spec = pod.spec.clone().unwrap_or_default();
    let init = spec.init_containers.iter().flatten().map(|c| c.name.as_str());
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| c.name.as_str());
    let all: Vec<&str> = init.chain(spec.containers.iter().map(|c| c.name.as_str())).chain(ephemeral).collect();
    let pod = pod.name();
    if !asked.is_empty() {
        return match all.contains(&asked) {
            true => Ok(asked.to_owned()),
            false => Err(status::bad_request(format!("container {asked} is not valid for pod {pod}"))),
        };
    }
    match spec.containers.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => Err(status::bad_request(format!("a container name must be specified for pod {pod}"))),
        _ => Err(status::bad_request(format!(
            "a container name must be specified for pod {pod}, choose one of: [{}]",
            all.join(" ")
        ))),
    }
}

async fn agent_target(server: &ApiServer, node: &str, path: String, query: &str) -> Result<Target, Status> {
    let (host, port) = agent_of(server, node).await?;
    let path = if query.is_empty() { path } else { format!("{path}?{query}") };
    Ok(Target { host, port, security: Security::Agent, path })
}

/// Address and port of a node's agent: InternalIP first, as `--kubelet-preferred-address-types` may say.
async fn agent_of(server: &ApiServer, name: &str) -> Result<(String, u16), Status> {
    let node = server.reader().get::<Node>("", name).await?;
    let node = node.ok_or_else(|| status::not_found_in("", "nodes", name))?;
    let state = node.status.unwrap_or_default();
    let addresses = state.addresses.unwrap_or_default();
    let of = |kind: &str| addresses.iter().find(|a| a.type_ == kind).map(|a| a.address.clone());
    let host = of("InternalIP").or_else(|| of("ExternalIP")).or_else(|| of("Hostname"));
    let host = host.ok_or_else(|| {
        status::internal(format!("no preferred addresses found for node {name:?}; known addresses: []"))
    })?;
    let port = state.daemon_endpoints.and_then(|d| d.kubelet_endpoint).map(|e| e.port);
    Ok((host, port.and_then(|p| u16::try_from(p).ok()).filter(|p| *p != 0).unwrap_or(AGENT_PORT)))
}

enum Proxy {
    To(Target),
    /// Relative links only work below a slash.
    AddSlash,
}

/// A name as `name`, `name:port` or `scheme:name:port` (`SplitSchemeNamePort`).
fn split_name(id: &str) -> Option<(&str, &str, &str)> {
    let (scheme, name, port) = match id.split(':').collect::<Vec<_>>().as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && matches!(scheme, "" | "http" | "https")).then_some((scheme, name, port))
}

async fn proxy_target(server: &ApiServer, call: &Call, kind: &KindRef) -> Result<Proxy, Status> {
    let what = kind.info().singular.as_ref();
    let id = call.info.name.as_str();
    let (scheme, name, port) =
        split_name(id).ok_or_else(|| status::bad_request(format!("invalid {what} request {id:?}")))?;
    if call.info.rest.is_empty()
        && !call.info.path.ends_with('/')
        && matches!(call.head.method, Method::GET | Method::HEAD)
    {
        return Ok(Proxy::AddSlash);
    }
    let query = call.head.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let path = format!("/{}{query}", call.info.rest);
    let (host, port, security) = match what {
        "node" => {
            let (host, agent) = agent_of(server, name).await?;
            match port {
                "" => (host, agent, Security::Agent),
                text if text.parse() == Ok(agent) => (host, agent, Security::Agent),
                text => (host, number(text)?, Security::of_scheme(scheme)),
            }
        }
        "pod" => {
            let (host, port) = pod_address(&pod_of(server, call, name).await?, port)?;
            (host, port, Security::of_scheme(scheme))
        }
        "service" => {
            let (host, port) = service_address(server, call, id, name, port).await?;
            (host, port, Security::of_scheme(scheme))
        }
        other => return Err(status::unsupported(&format!("proxy to a {other}"))),
    };
    Ok(Proxy::To(Target { host, port, security, path }))
}

fn number(text: &str) -> Result<u16, Status> {
    text.parse().map_err(|_| status::bad_request(format!("invalid port {text:?}")))
}

fn pod_address(pod: &Pod, port: &str) -> Result<(String, u16), Status> {
    let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
    check_address(&ip)?;
    let declared = pod.spec.iter().flat_map(|s| &s.containers).flat_map(|c| c.ports.iter().flatten()).next();
    let port = match (port, declared) {
        ("", Some(declared)) => u16::try_from(declared.container_port).unwrap_or(80),
        ("", None) => 80,
        (text, _) => number(text)?,
    };
    Ok((ip, port))
}

/// Never the machine itself or its neighbours' link (`IsProxyableIP`).
fn check_address(ip: &str) -> Result<(), Status> {
    let allowed = ip.parse::<IpAddr>().is_ok_and(|ip| {
        let link_local = match ip {
            IpAddr::V4(v4) => v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_unicast_link_local(),
        };
        !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast() && !link_local
    });
    if allowed { Ok(()) } else { Err(status::bad_request("address not allowed")) }
}

/// A ready endpoint of a Service's port.
async fn service_address(
    server: &ApiServer,
    call: &Call,
    id: &str,
    name: &str,
    port: &str,
) -> Result<(String, u16), Status> {
    let namespace = call.info.namespace.as_str();
    let service = server.reader().get::<Service>(namespace, name).await?;
    let service = service.ok_or_else(|| status::not_found_in("", "services", name))?;
    let ports = service.spec.and_then(|s| s.ports).unwrap_or_default();
    let wanted = match port.parse::<i32>() {
        Err(_) => port.to_owned(),
        Ok(number) => match ports.iter().find(|p| p.port == number) {
            Some(found) => found.name.clone().unwrap_or_default(),
            None => {
                return Err(status::unavailable(format!("no service port {number} found for service {name:?}")));
            }
        },
    };
    let slices = service_client::slices_of(server.reader(), namespace, name).await?;
    let mut found = service_client::ready_endpoints(&slices, &wanted);
    if found.is_empty() {
        return Err(status::unavailable(format!("no endpoints available for service {id:?}")));
    }
    let pick = server.inner.deps.random.next_u64() as usize % found.len();
    let (ip, port) = found.swap_remove(pick);
    check_address(&ip)?;
    Ok((ip, port))
}

fn add_slash(call: &Call) -> Answer {
    let query = call.head.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    let mut response = plain(301, "text/html; charset=utf-8", Bytes::new());
    if let Ok(value) = HeaderValue::from_str(&format!("{}/{query}", call.info.path)) {
        response.headers_mut().insert(header::LOCATION, value);
    }
    Answer::Raw(response)
}

// === the tunnel ===

/// Sends the request on to `target` with `extra` headers, and its answer back, its links changed.
pub(crate) async fn forward(
    server: &ApiServer,
    call: &Call,
    target: &Target,
    extra: HeaderMap,
    links: Option<Links>,
    body: Body,
) -> Result<Answer, Status> {
    let failed = |what: &str, error: &dyn std::fmt::Display| {
        status::internal(format!("error dialing backend: {what} {}:{}: {error}", target.host, target.port))
    };
    let stream = match connect(server, target).await {
        Err(Dial::Unsupported(why)) => return Err(status::unsupported(why)),
        Err(Dial::Failed(error)) => return Err(failed("dial", &error)),
        Ok(stream) => stream,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed("HTTP to", &e))?;
    base::tasks::detach("proxy-connection", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "proxied connection ended");
        }
    });
    let mut request = request_to(call, target, body)?;
    // The agent knows logs only as a stream.
    let over_websocket = call.info.subresource == "log" && websocket::is_request(&call.head.headers);
    if over_websocket {
        remove_hop_headers(request.headers_mut());
    }
    if !extra.is_empty() {
        // They say who the user is: nobody else says so.
        let forged: Vec<HeaderName> = request.headers().keys().filter(|n| is_user_header(n)).cloned().collect();
        forged.iter().for_each(|name| drop(request.headers_mut().remove(name)));
        request.headers_mut().extend(extra);
    }
    if let Some(links) = &links {
        links.prepare(request.headers_mut(), &target.path);
    }
    let wants_upgrade = is_upgrade(&call.head.headers);
    let response = sender.send_request(request).await.map_err(|e| failed("request to", &e))?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS && wants_upgrade {
        return Ok(Answer::Raw(upgraded(call, response)));
    }
    let (mut head, body) = response.into_parts();
    if call.info.subresource == "log" && !head.status.is_success() {
        let text = beginning(body).await.map_err(|error| status::internal(error.to_string()))?;
        return Err(status::refused_by_node(head.status.as_u16(), &call.info.name, &text));
    }
    remove_hop_headers(&mut head.headers);
    let body = body.map_err(|e| Box::new(e) as BoxError).boxed_unsync();
    if over_websocket && head.status.is_success() {
        return websocket::answer(call, body).map(Answer::Raw);
    }
    let body = match links {
        Some(links) => links.answer(&mut head, body),
        None => body,
    };
    Ok(Answer::Raw(Response::from_parts(head, body)))
}

/// As much of a body as goes into a message.
async fn beginning(mut body: Incoming) -> Result<String, hyper::Error> {
    let mut text = Vec::new();
    while text.len() < REFUSAL_MAX
        && let Some(frame) = body.frame().await
    {
        text.extend_from_slice(frame?.data_ref().map_or(&[], |data| &data[..]));
    }
    text.truncate(REFUSAL_MAX);
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Why there is no connection.
pub(crate) enum Dial {
    Unsupported(&'static str),
    Failed(BoxError),
}

/// Bytes in both directions.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects within [`CONNECT_TIMEOUT`].
pub(crate) async fn connect(server: &ApiServer, target: &Target) -> Result<Box<dyn Stream>, Dial> {
    let (config, name) = match &target.security {
        Security::Plain => return within(dial(target)).await.map(|tcp| Box::new(tcp) as Box<dyn Stream>),
        Security::Agent => {
            let config = server.inner.deps.node_client.clone();
            (config.ok_or(Dial::Unsupported("connections to node agents without client TLS"))?, host_name(target)?)
        }
        Security::Anybody => {
            (service_client::trusting_anybody(None).map_err(|e| Dial::Failed(e.into()))?, host_name(target)?)
        }
        Security::Named { config, name } => (config.clone(), name.clone()),
    };
    within(async {
        let tcp = dial(target).await?;
        let tls = TlsConnector::from(config).connect(name, tcp).await.map_err(|e| Dial::Failed(e.into()))?;
        Ok(Box::new(tls) as Box<dyn Stream>)
    })
    .await
}

fn host_name(target: &Target) -> Result<ServerName<'static>, Dial> {
    ServerName::try_from(target.host.clone()).map_err(|e| Dial::Failed(e.into()))
}

async fn within<T>(connecting: impl Future<Output = Result<T, Dial>>) -> Result<T, Dial> {
    let late = || Dial::Failed("i/o timeout".into());
    tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.unwrap_or_else(|_| Err(late()))
}

async fn dial(target: &Target) -> Result<TcpStream, Dial> {
    let failed = |e: std::io::Error| Dial::Failed(e.into());
    let tcp = TcpStream::connect((target.host.as_str(), target.port)).await.map_err(failed)?;
    tcp.set_nodelay(true).map_err(failed)?;
    Ok(tcp)
}

/// The client's request as the target sees it. Credentials stay here.
fn request_to(call: &Call, target: &Target, body: Body) -> Result<Request<Body>, Status> {
    let uri: Uri = target.path.parse().map_err(|e| status::bad_request(format!("invalid path: {e}")))?;
    let mut request = Request::new(body);
    *request.method_mut() = call.head.method.clone();
    *request.uri_mut() = uri;
    let upgrade = is_upgrade(&call.head.headers);
    let mut headers = call.head.headers.clone();
    let upgrade_to = headers.get(header::UPGRADE).cloned();
    remove_hop_headers(&mut headers);
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
    // Tokens of WebSocket clients travel as a subprotocol; the target is not to see them.
    strip_token_protocol(&mut headers);
    if upgrade && let Some(to) = upgrade_to {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, to);
    }
    if let Ok(value) = HeaderValue::from_str(&target.authority()) {
        headers.insert(header::HOST, value);
    }
    *request.headers_mut() = headers;
    Ok(request)
}

fn strip_token_protocol(headers: &mut HeaderMap) {
    const PREFIX: &str = "base64url.bearer.authorization.k8s.io.";
    let Some(text) = headers.get(header::SEC_WEBSOCKET_PROTOCOL).and_then(|v| v.to_str().ok()) else { return };
    if !text.contains(PREFIX) {
        return;
    }
    let kept: Vec<&str> = text.split(',').map(str::trim).filter(|p| !p.starts_with(PREFIX)).collect();
    match HeaderValue::from_str(&kept.join(", ")) {
        Ok(value) if !kept.is_empty() => drop(headers.insert(header::SEC_WEBSOCKET_PROTOCOL, value)),
        _ => drop(headers.remove(header::SEC_WEBSOCKET_PROTOCOL)),
    }
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).iter().filter_map(|v| v.to_str().ok());
    values.flat_map(|v| v.split(',')).any(|v| v.trim().eq_ignore_ascii_case("upgrade"))
}

/// Headers that are about one connection only (RFC 9110, 7.6.1).
fn remove_hop_headers(headers: &mut HeaderMap) {
    for name in ["connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"] {
        headers.remove(name);
    }
}

/// Joins both sides; the bytes flow until one of them ends.
fn upgraded(call: &Call, mut response: Response<hyper::body::Incoming>) -> Response<Body> {
    let theirs = hyper::upgrade::on(&mut response);
    let ours = call.head.extensions.get::<hyper::upgrade::OnUpgrade>().cloned();
    let mut answer = plain(101, "text/plain", Bytes::new());
    *answer.headers_mut() = response.headers().clone();
    let Some(ours) = ours else {
        return plain(400, "text/plain", Bytes::from_static(b"this connection cannot be upgraded\n"));
    };
    base::tasks::detach("proxy-upgraded", async move {
        let (Ok(ours), Ok(theirs)) = (ours.await, theirs.await) else { return };
        let (mut ours, mut theirs) = (TokioIo::new(ours), TokioIo::new(theirs));
        if let Err(error) = tokio::io::copy_bidirectional(&mut ours, &mut theirs).await {
            tracing::debug!(%error, "tunnel ended");
        }
    });
    answer
}

/// What a node's agent answers to a GET, asked by the server itself.
pub(crate) async fn fetch(server: &ApiServer, node: &str, path: &str) -> Result<Bytes, Status> {
    let target = agent_target(server, node, path.to_owned(), "").await?;
    let failed = |error: &dyn std::fmt::Display| status::internal(format!("error dialing backend: {error}"));
    let stream = match connect(server, &target).await {
        Err(Dial::Unsupported(why)) => return Err(status::unsupported(why)),
        Err(Dial::Failed(error)) => return Err(failed(&error)),
        Ok(stream) => stream,
    };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    let task = base::tasks::spawn("node-fetch", connection);
    let request = Request::get(path).header(header::HOST, target.host.as_str());
    let request = request.body(http_body_util::Empty::<Bytes>::new()).map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let code = response.status();
    let body = http_body_util::Limited::new(response.into_body(), FETCH_MAX_BYTES);
    let bytes = body.collect().await.map_err(|e| failed(&e))?.to_bytes();
    task.abort();
    if !code.is_success() {
        return Err(failed(&format!("{code}")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_schemes_and_ports() {
        assert_eq!(split_name("a"), Some(("", "a", "")));
        assert_eq!(split_name("a:80"), Some(("", "a", "80")));
        assert_eq!(split_name("https:a:http"), Some(("https", "a", "http")));
        assert_eq!(split_name("ftp:a:1"), None);
        assert_eq!(split_name("a:b:c:d"), None);
        assert_eq!(split_name(":1"), None);
    }

    #[test]
    fn options_as_the_agent_names_them() {
        let query = Query::parse(Some("command=sh&command=-c&stdin=true&stdout=1&tty=false&container=c"));
        assert_eq!(stream_query(&query, "exec"), "input=1&output=1&command=sh&command=-c");
        assert_eq!(stream_query(&Query::parse(Some("ports=80&ports=81")), "portforward"), "port=80%2C81");
    }

    #[test]
    fn credentials_do_not_travel_on() {
        let mut headers = HeaderMap::new();
        let value = "base64url.bearer.authorization.k8s.io.abc, v4.channel.k8s.io";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(value));
        strip_token_protocol(&mut headers);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v4.channel.k8s.io");
    }

    #[test]
    fn addresses_of_the_machine_are_refused() {
        assert!(check_address("10.42.0.5").is_ok());
        for bad in ["127.0.0.1", "169.254.169.254", "", "x", "::1", "0.0.0.0"] {
            assert!(check_address(bad).is_err(), "{bad}");
        }
    }
}
