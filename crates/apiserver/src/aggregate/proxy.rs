//! Requests to aggregated servers (`kube-aggregator/pkg/apiserver/handler_proxy.go`): the user travels in `X-Remote-*` headers,
//! believed because the connection shows the front proxy's certificate.

use super::{Aggregation, Remote};
use crate::api_server::{ApiServer, Call};
use crate::auth::{MASTERS, Peer, UserInfo};
use crate::connect::{self, Dial, Security, Target};
use crate::response::{Answer, body_from, plain};
use crate::{Body, status, trace};
use api::Status;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use opentelemetry::trace::SpanKind;
use std::sync::Arc;
use std::time::Duration;

/// An aggregated server answers our own questions within this time.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest document taken from one (OpenAPI of a big server is some MiB).
const MAX_DOCUMENT: usize = 32 << 20;

/// Sends a client's request on.
pub(crate) async fn forward(server: &ApiServer, call: &Call, remote: &Arc<Remote>, body: Body) -> Answer {
    let query = call.head.uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    forward_to(server, call, remote, &format!("{}{query}", call.head.uri.path()), body).await
}

/// A document of the server itself, e.g. its part of `/openapi/v3`, as it answers the client.
pub(crate) async fn document(server: &ApiServer, call: &Call, remote: &Arc<Remote>, path: &str) -> Answer {
    forward_to(server, call, remote, path, body_from(Bytes::new())).await
}

async fn forward_to(server: &ApiServer, call: &Call, remote: &Arc<Remote>, path: &str, body: Body) -> Answer {
    if !remote.available {
        return refusal(503, "service unavailable");
    }
    let mut targets = match (&remote.tls, targets(server, remote, path).await) {
        (Err(why), _) => return refusal(500, why),
        (_, Err(why)) => {
            tracing::debug!(name = remote.name, why, "failed to resolve an aggregated server");
            return refusal(503, "service unavailable");
        }
        (Ok(_), Ok(targets)) => targets,
    };
    let target = targets.swap_remove(server.inner.deps.random.next_u64() as usize % targets.len());
    let method = call.head.method.as_str();
    let span = trace::start(format!("HTTP {method}"), SpanKind::Client, || {
        let authority = format!("{}:{}", target.host, target.port);
        trace::client_attributes(method, &authority, &format!("https://{authority}{}", target.path))
    });
    let mut headers = user_headers(&call.user);
    if let Some(span) = &span {
        trace::inject(span, &mut headers);
    }
    let sent = connect::forward(server, call, &target, headers, None, body).await;
    if let Some(span) = &span {
        match &sent {
            Ok(Answer::Raw(response)) => trace::responded(span, response.status()),
            Ok(_) => {}
            Err(failure) => trace::failed(span, &failure.message),
        }
    }
    match sent {
        Ok(answer) => answer,
        Err(failure) => refusal(503, &failure.message),
    }
}

/// Go's `http.Error`.
fn refusal(code: u16, text: &str) -> Answer {
    let mut response: Response<Body> = plain(code, "text/plain; charset=utf-8", format!("{text}\n").into());
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    Answer::Raw(response)
}

/// The ready endpoints, at least one.
pub(super) async fn targets(server: &ApiServer, remote: &Remote, path: &str) -> Result<Vec<Target>, String> {
    let (config, name) = remote.tls.clone()?;
    let found = crate::service_client::resolve(server.reader(), &remote.namespace, &remote.service, remote.port).await;
    let found = found.map_err(|s| s.message)?;
    if found.is_empty() {
        return Err(format!("no endpoints available for service {:?}", remote.service));
    }
    let target = |(host, port)| Target {
        host,
        port,
        security: Security::Named { config: config.clone(), name: name.clone() },
        path: path.to_owned(),
    };
    Ok(found.into_iter().map(target).collect())
}

/// Headers that clients may not send themselves: removed from what is sent on.
pub(crate) fn is_user_header(name: &HeaderName) -> bool {
    let name = name.as_str();
    matches!(name, "x-remote-user" | "x-remote-uid" | "x-remote-group") || name.starts_with("x-remote-extra-")
}

/// `transport.SetAuthProxyHeaders`.
fn user_headers(user: &UserInfo) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let mut add = |name: &str, value: &str| {
        // What is no header (control characters) cannot be told; the other side then knows less, never more.
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
            headers.append(name, value);
        }
    };
    add("x-remote-user", &user.name);
    if !user.uid.is_empty() {
        add("x-remote-uid", &user.uid);
    }
    for group in &user.groups {
        add("x-remote-group", group);
    }
    for (key, values) in &user.extra {
        let name = format!("x-remote-extra-{}", escape(key));
        for value in values {
            add(&name, value);
        }
    }
    headers
}

/// `headerKeyEscape`: what is no header's letter becomes `%XX`.
fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte != b'%' && (byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte)) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// An answer to us.
pub(super) struct Got {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Asks as the aggregator itself, who may see everything there.
pub(super) async fn get(server: &ApiServer, target: &Target, headers: &[(HeaderName, &str)]) -> Result<Got, String> {
    let asking = ask(server, target, headers);
    tokio::time::timeout(TIMEOUT, asking).await.unwrap_or_else(|_| Err("request timed out".to_owned()))
}

async fn ask(server: &ApiServer, target: &Target, headers: &[(HeaderName, &str)]) -> Result<Got, String> {
    let text = |e: hyper::Error| e.to_string();
    let stream = connect::connect(server, target).await.map_err(|dial| match dial {
        Dial::Unsupported(what) => what.to_owned(),
        Dial::Failed(error) => error.to_string(),
    })?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(text)?;
    base::tasks::detach("aggregated-connection", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to an aggregated server ended");
        }
    });
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.uri_mut() = target.path.parse().map_err(|e| format!("invalid path: {e}"))?;
    *request.headers_mut() = user_headers(&UserInfo::new("system:kube-aggregator", &[MASTERS]));
    let host = if target.host.contains(':') { format!("[{}]", target.host) } else { target.host.clone() };
    let host = (header::HOST, format!("{host}:{}", target.port));
    for (name, value) in headers.iter().map(|(n, v)| (n, *v)).chain([(&host.0, host.1.as_str())]) {
        request.headers_mut().insert(name, HeaderValue::from_str(value).map_err(|e| e.to_string())?);
    }
    let (head, mut body) = sender.send_request(request).await.map_err(text)?.into_parts();
    let mut all = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(text)?.into_data() else { continue };
        if all.len() + data.len() > MAX_DOCUMENT {
            return Err(format!("the answer is larger than {MAX_DOCUMENT} bytes"));
        }
        all.extend_from_slice(&data);
    }
    Ok(Got { code: head.status.as_u16(), headers: head.headers, body: all.freeze() })
}

/// Deletes an APIService of ours through the front door.
pub(super) async fn delete(server: &ApiServer, name: &str) -> Result<(), Status> {
    let uri = format!("/apis/apiregistration.k8s.io/v1/apiservices/{name}");
    let request = Request::delete(uri).body(body_from(Bytes::new())).map_err(status::internal)?;
    let response = server.handle(request, Peer::local(UserInfo::new("system:apiserver", &[MASTERS]))).await;
    match response.status().as_u16() {
        200..300 | 404 => Ok(()),
        code => Err(status::internal(format!("deleting {name}: {code}"))),
    }
}

impl std::fmt::Debug for Aggregation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Aggregation").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_travel_in_headers() {
        let mut user = UserInfo::new("jane", &["a", "b"]);
        user.uid = "1".into();
        user.extra.insert("example.com/foo%".into(), vec!["x".into(), "y".into()]);
        let headers = user_headers(&user);
        let all = |name: &str| -> Vec<&str> { headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).collect() };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["1"]);
        assert_eq!(all("x-remote-group"), ["a", "b"]);
        assert_eq!(all("x-remote-extra-example.com%2ffoo%25"), ["x", "y"]);
    }
}
