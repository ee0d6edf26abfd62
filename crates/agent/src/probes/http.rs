//! One HTTP GET, as `pkg/probe/http` does it: no proxy, no certificate check, redirects only on the same host.

use super::{OUTPUT_MAX_BYTES, connect, port};
use api::k8s::api::core::v1::{Container, HTTPGetAction};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use url::Url;

/// What to get.
#[derive(Debug, Clone)]
pub struct HttpTarget {
    /// Where.
    pub url: Url,
    /// Whether with TLS.
    pub tls: bool,
    headers: Vec<(String, String)>,
    agent: &'static str,
}

impl HttpTarget {
    /// Host and port, as Go's `URL.Host` has them.
    pub(super) fn authority(&self) -> String {
        self.url[url::Position::BeforeHost..url::Position::AfterPort].to_owned()
    }

    /// The same without TLS, and without what nobody else may read (`runHTTPHandler` in `pkg/kubelet/lifecycle/handlers.go`).
    #[must_use]
    pub(super) fn plain(&self) -> HttpTarget {
        let mut out = self.clone();
        out.tls = false;
        out.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("authorization"));
        // `https` to `http` is always allowed by `set_scheme`.
        if out.url.set_scheme("http").is_err() {
            tracing::debug!(url = %out.url, "the scheme cannot be changed");
        }
        out
    }
}

/// What came back.
#[derive(Debug)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// The body's beginning.
    pub body: String,
}

/// Why nothing came back.
#[derive(Debug, Error, PartialEq, Eq)]
pub(super) enum GetError {
    /// The server does not know TLS. Go's words.
    #[error("http: server gave HTTP response to HTTPS client")]
    NoTls,
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<String> for GetError {
    fn from(text: String) -> Self {
        GetError::Failed(text)
    }
}

/// A first byte that no record of TLS has: the server says something else.
fn tls_error(error: &std::io::Error) -> GetError {
    let inner = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => GetError::NoTls,
        _ => GetError::Failed(error.to_string()),
    }
}

/// `NewRequestForHTTPGetAction`.
pub(super) fn target(
    get: &HTTPGetAction,
    c: &Container,
    pod_ip: Option<IpAddr>,
    purpose: &str,
) -> Result<HttpTarget, String> {
    let tls = get.scheme.as_deref().unwrap_or("HTTP").eq_ignore_ascii_case("https");
    let own = get.host.clone().filter(|h| !h.is_empty());
    let host = own.or_else(|| pod_ip.map(|ip| ip.to_string())).ok_or("the pod has no address yet")?;
    let port = port(&get.port, c)?;
    let path = get.path.clone().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    let scheme = if tls { "https" } else { "http" };
    let text = format!("{scheme}://{}{slash}{path}", super::join(&host, port));
    let url = Url::parse(&text).map_err(|e| format!("invalid URL {text}: {e}"))?;
    let headers = get.http_headers.iter().flatten().map(|h| (h.name.clone(), h.value.clone())).collect();
    let agent = if purpose == "probe" { "kube-probe/1.36" } else { "kube-lifecycle/1.36" };
    Ok(HttpTarget { url, tls, headers, agent })
}

/// Gets it. The caller sets the time limit.
pub(super) async fn get(target: &HttpTarget) -> Result<HttpAnswer, GetError> {
    let mut target = target.clone();
    for _ in 0..10 {
        let (answer, location) = once(&target).await?;
        let next = location.filter(|_| matches!(answer.status, 301 | 302 | 303 | 307 | 308));
        let Some(next) = next.and_then(|l| target.url.join(&l).ok()).filter(|n| n.host() == target.url.host()) else {
            return Ok(answer);
        };
        target.tls = next.scheme() == "https";
        target.url = next;
    }
    Err(GetError::Failed("stopped after 10 redirects".into()))
}

async fn once(target: &HttpTarget) -> Result<(HttpAnswer, Option<String>), GetError> {
    let host = target.url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = target.url.port_or_known_default().unwrap_or(80);
    let stream = connect(&host, port).await?;
    if !target.tls {
        return Ok(exchange(target, stream).await?);
    }
    let name = ServerName::try_from(host).map_err(|e| e.to_string())?;
    let stream =
        tokio_rustls::TlsConnector::from(TLS.clone()).connect(name, stream).await.map_err(|e| tls_error(&e))?;
    Ok(exchange(target, stream).await?)
}

async fn exchange<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    target: &HttpTarget,
    stream: S,
) -> Result<(HttpAnswer, Option<String>), String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let request = request(target)?;
    // The connection makes progress beside the request and ends with it.
    let work = async {
        let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
        let status = response.status().as_u16();
        let location = response.headers().get(http::header::LOCATION).and_then(|l| l.to_str().ok()).map(str::to_owned);
        let mut body = Limited::new(response.into_body(), OUTPUT_MAX_BYTES);
        let mut text = Vec::new();
        // A longer body is cut; so is one that breaks off: the status has been given.
        while let Some(Ok(frame)) = body.frame().await {
            text.extend(frame.into_data().unwrap_or_default());
        }
        Ok((HttpAnswer { status, body: String::from_utf8_lossy(&text).into_owned() }, location))
    };
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => result,
        ended = connection => match ended {
            Ok(()) => work.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

fn request(target: &HttpTarget) -> Result<http::Request<Empty<Bytes>>, String> {
    let url = &target.url;
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let host = url.host_str().unwrap_or_default();
    let host = url.port().map_or(host.to_owned(), |port| format!("{host}:{port}"));
    let has = |name: &str| target.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let mut request = http::Request::get(path);
    if !has("host") {
        request = request.header("Host", host);
    }
    if !has("user-agent") {
        request = request.header("User-Agent", target.agent);
    }
    if !has("accept") {
        request = request.header("Accept", "*/*");
    }
    request = request.header("Connection", "close");
    for (name, value) in target.headers.iter().filter(|(_, v)| !v.is_empty()) {
        request = request.header(name, value);
    }
    request.body(Empty::new()).map_err(|e| e.to_string())
}

static TLS: LazyLock<Arc<rustls::ClientConfig>> = LazyLock::new(|| {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(provider.clone()));
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring offers the default versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    Arc::new(config)
});

/// A probe asks whether the pod answers, not who it is; upstream skips the check as well (`InsecureSkipVerify`).
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
