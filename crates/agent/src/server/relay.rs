//! [`relay`]: a client's streams go to the container runtime that serves them itself, as they are
//! (`proxyStream` of the kubelet).

use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::fmt::Display;
use streaming::Refusal;
use streaming::answer::{Body, empty, text};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use url::Url;

/// What a refusal of the runtime's says at most.
const REFUSAL_MAX_BYTES: usize = 64 * 1024;

/// What the client asked for.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) headers: &'a HeaderMap,
    pub(super) upgrade: Option<OnUpgrade>,
}

/// Asks the runtime the same, and when both have switched protocols, carries bytes both ways.
pub(super) async fn relay(
    asked: Asked<'_>,
    to: &Url,
    shutdown: CancellationToken,
) -> Result<http::Response<Body>, Refusal> {
    let failed = |error: &dyn Display| Refusal::new(502, format!("failed to reach the container runtime: {error}"));
    let place = (to.host_str().unwrap_or_default(), to.port_or_known_default().unwrap_or(80));
    let connection = TcpStream::connect(place).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(connection)).await.map_err(|e| failed(&e))?;
    base::tasks::detach("relay", async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "the container runtime's connection ended");
        }
    });
    let mut answer = sender.send_request(request(&asked, to)).await.map_err(|e| failed(&e))?;
    if answer.status() != http::StatusCode::SWITCHING_PROTOCOLS {
        let code = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), REFUSAL_MAX_BYTES).collect().await.map_err(|e| failed(&e))?;
        return Ok(text(code, body.to_bytes()));
    }
    let theirs = hyper::upgrade::on(&mut answer);
    let mut response = empty(101);
    response.headers_mut().clone_from(answer.headers());
    streaming::upgraded(asked.upgrade, response, shutdown, async move |mut io| {
        let Ok(theirs) = theirs.await else { return };
        // Either side may go away at any time.
        tokio::io::copy_bidirectional(&mut io, &mut TokioIo::new(theirs)).await.ok();
    })
}

/// The client's headers without its credentials, which are not the runtime's business.
fn request(asked: &Asked<'_>, to: &Url) -> Request<Empty<Bytes>> {
    let path = &to[url::Position::BeforePath..url::Position::AfterQuery];
    let mut request = Request::new(Empty::new());
    *request.method_mut() = asked.method.clone();
    *request.uri_mut() = path.parse().unwrap_or_default();
    request.headers_mut().clone_from(asked.headers);
    request.headers_mut().remove(header::AUTHORIZATION);
    let host = &to[url::Position::BeforeHost..url::Position::BeforePath];
    if let Ok(host) = host.parse() {
        request.headers_mut().insert(header::HOST, host);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_stay_here() {
        let headers: HeaderMap =
            [(header::AUTHORIZATION, "Bearer secret"), (header::UPGRADE, "SPDY/3.1"), (header::HOST, "node:10250")]
                .into_iter()
                .map(|(name, value)| (name, value.parse().expect("a value")))
                .collect();
        let asked = Asked { method: &Method::POST, headers: &headers, upgrade: None };
        let to = Url::parse("http://127.0.0.1:5/exec/token?x=1").expect("an address");
        let request = request(&asked, &to);
        let got: Vec<String> = request.headers().iter().map(|(n, v)| format!("{n}={v:?}")).collect();
        assert_eq!(request.uri(), "/exec/token?x=1");
        assert!(got.contains(&r#"host="127.0.0.1:5""#.to_owned()) && got.contains(&r#"upgrade="SPDY/3.1""#.to_owned()));
        assert!(!got.iter().any(|h| h.contains("secret")), "{got:?}");
    }
}
