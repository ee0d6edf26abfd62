//! HTTP/1.1 over TCP or TLS: connections, time limits, bodies. Knows no registry.
//!
//! Always holds: every step has a time limit (connect, TLS, answer, each piece of a body), so a silent server cannot
//! hold a pull for ever.

use crate::registries::Tls;
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// To connect and to shake hands: a host that needs longer is as good as away.
const CONNECT: Duration = Duration::from_secs(15);

/// To begin an answer. Registries that fetch from elsewhere take their time.
const ANSWER: Duration = Duration::from_secs(60);

/// Between two pieces of a body.
const PIECE: Duration = Duration::from_secs(60);

/// A connection is kept for the next request this long.
const IDLE: Duration = Duration::from_secs(20);

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// Why there was no answer.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address is not one.
    #[error("invalid URL {0:?}")]
    Url(String),
    /// A file of certificates cannot be used.
    #[error("cannot use the CA file {}", path.display())]
    Ca {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// No connection, or no TLS.
    #[error("cannot connect to {host}: {why}")]
    Connect {
        /// To whom.
        host: String,
        /// Why.
        why: String,
    },
    /// The connection broke.
    #[error("the connection to {host} broke: {why}")]
    Broken {
        /// To whom.
        host: String,
        /// Why.
        why: String,
    },
    /// It took too long.
    #[error("{host} did not answer within {} s", limit.as_secs())]
    Timeout {
        /// Who.
        host: String,
        /// How long was waited.
        limit: Duration,
    },
    /// More than an answer of its kind may have.
    #[error("the answer of {host} is longer than {limit} bytes")]
    TooLong {
        /// Who.
        host: String,
        /// What is allowed.
        limit: usize,
    },
}

impl HttpError {
    /// Whether trying again may help.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, HttpError::Broken { .. } | HttpError::Timeout { .. } | HttpError::Connect { .. })
    }
}

/// Clients by the way servers prove who they are. Connections are kept and shared.
#[derive(Default)]
pub(crate) struct Http {
    clients: Mutex<HashMap<Tls, Client<Connector, Body>>>,
}

impl Http {
    pub(crate) async fn send(&self, tls: &Tls, request: Request<Body>) -> Result<Response<Incoming>, HttpError> {
        let client = self.client(tls)?;
        let host = host_of(request.uri());
        match timeout(ANSWER, client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(HttpError::Connect { host, why: causes(&error) }),
            Ok(Err(error)) => Err(HttpError::Broken { host, why: causes(&error) }),
            Err(_) => Err(HttpError::Timeout { host, limit: ANSWER }),
        }
    }

    fn client(&self, tls: &Tls) -> Result<Client<Connector, Body>, HttpError> {
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(tls) {
            return Ok(client.clone());
        }
        let connector = Connector { tls: TlsConnector::from(Arc::new(tls_config(tls)?)) };
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(connector);
        clients.insert(tls.clone(), client.clone());
        Ok(client)
    }
}

/// The next piece of a body; `None` at its end.
pub(crate) async fn piece(host: &str, body: &mut Incoming) -> Result<Option<Bytes>, HttpError> {
    loop {
        let broken = |why: String| HttpError::Broken { host: host.to_owned(), why };
        match timeout(PIECE, body.frame()).await {
            Err(_) => return Err(HttpError::Timeout { host: host.to_owned(), limit: PIECE }),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return Err(broken(causes(&error))),
            Ok(Some(Ok(frame))) => {
                if let Ok(bytes) = frame.into_data() {
                    return Ok(Some(bytes));
                }
            }
        }
    }
}

/// The whole body, if it is not longer than `limit`.
pub(crate) async fn collect(host: &str, mut body: Incoming, limit: usize) -> Result<Bytes, HttpError> {
    let mut all = Vec::new();
    while let Some(bytes) = piece(host, &mut body).await? {
        if all.len() + bytes.len() > limit {
            return Err(HttpError::TooLong { host: host.to_owned(), limit });
        }
        all.extend_from_slice(&bytes);
    }
    Ok(all.into())
}

pub(crate) fn host_of(uri: &Uri) -> String {
    uri.authority().map(|authority| authority.to_string()).unwrap_or_default()
}

/// hyper's errors hide what happened behind "client error (Connect)".
fn causes(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), base::chain)
}

fn tls_config(tls: &Tls) -> Result<ClientConfig, HttpError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("ring supports TLS 1.2 and 1.3");
    if tls.insecure {
        let any = Arc::new(AnyCertificate(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    let system = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(system.certs);
    if roots.is_empty() {
        // A machine without ca-certificates can still pull from public registries.
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = &tls.ca {
        let unusable = |source| HttpError::Ca { path: path.clone(), source };
        let wrong = |error: &dyn std::fmt::Display| unusable(io::Error::other(error.to_string()));
        let pem = std::fs::read(path).map_err(unusable)?;
        let mut found = false;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            roots.add(certificate.map_err(|error| wrong(&error))?).map_err(|error| wrong(&error))?;
            found = true;
        }
        if !found {
            return Err(wrong(&"it contains no PEM certificate"));
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

// === Connector ===

#[derive(Clone)]
struct Connector {
    tls: TlsConnector,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let tls = self.tls.clone();
        Box::pin(async move {
            let late =
                |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {} s", CONNECT.as_secs()));
            timeout(CONNECT, connect(tls, uri)).await.map_err(late)?.map(TokioIo::new)
        })
    }
}

async fn connect(tls: TlsConnector, uri: Uri) -> io::Result<Stream> {
    let secure = uri.scheme_str() == Some("https");
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    tcp.set_nodelay(true)?;
    if !secure {
        return Ok(Stream::Plain(tcp));
    }
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    Ok(Stream::Tls(Box::new(tls.connect(name, tcp).await?)))
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// For hosts that the configuration calls insecure. Content is verified by digest all the same; credentials are not safe.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
