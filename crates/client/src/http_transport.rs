//! [`HttpTransport`]: TLS 1.3 and HTTP/2 to one API server, one shared connection, reconnecting.
//!
//! The identity may be replaced while requests run ([`HttpTransport::reload`]): the next request opens a connection with the new
//! one, streams on the old connection end by themselves.

use crate::ca_pin::{CaPin, PinnedCa};
use crate::{Body, BoxError, Transport, TransportError};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri, header, uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::RwLock;
use rustls::client::WantsClientCert;
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use url::Url;

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A dead peer is noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Who the client is.
#[derive(Clone)]
pub enum TlsIdentity {
    /// A client certificate chain and its key, PEM.
    Certificate {
        /// Chain, leaf first.
        cert_pem: Vec<u8>,
        /// Private key.
        key_pem: Vec<u8>,
    },
    /// A bearer token.
    Token(String),
}

/// A connection to one API server.
pub struct HttpTransport {
    host: String,
    port: u16,
    credentials: RwLock<Credentials>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

#[derive(Clone)]
struct Credentials {
    token: Option<String>,
    tls: Arc<ClientConfig>,
}

impl HttpTransport {
    /// `server` is `https://host:port`; `ca_pem` the roots that may sign its certificate.
    pub fn new(server: &str, ca_pem: &[u8], identity: TlsIdentity) -> Result<Self, TransportError> {
        Self::to(server, credentials(trusting(ca_pem)?, identity)?)
    }

    /// For the first contact: the server must show a CA certificate with this key, and its own must be signed by that. The PEM of the
    /// CA is there after the first request.
    pub fn pinned(server: &str, pin: CaPin, identity: TlsIdentity) -> Result<(Self, Arc<PinnedCa>), TransportError> {
        let verifier = Arc::new(PinnedCa::new(pin));
        let builder = builder()?.dangerous().with_custom_certificate_verifier(verifier.clone());
        Ok((Self::to(server, credentials(builder, identity)?)?, verifier))
    }

    /// From the next request on, the connection is made with these.
    pub async fn reload(&self, ca_pem: &[u8], identity: TlsIdentity) -> Result<(), TransportError> {
        let new = credentials(trusting(ca_pem)?, identity)?;
        *self.credentials.write() = new;
        *self.connection.lock().await = None;
        Ok(())
    }

    fn to(server: &str, credentials: Credentials) -> Result<Self, TransportError> {
        let url = Url::parse(server).map_err(boxed)?;
        if url.scheme() != "https" {
            return Err(text(format!("server {server:?} must begin with https://")));
        }
        let host = url.host_str().ok_or_else(|| text(format!("server {server:?} has no host")))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let port = url.port().unwrap_or(443);
        Ok(HttpTransport { host, port, credentials: RwLock::new(credentials), connection: Mutex::new(None) })
    }

    async fn connection(&self) -> Result<SendRequest<Full<Bytes>>, TransportError> {
        let mut slot = self.connection.lock().await;
        if let Some(sender) = slot.as_ref()
            && !sender.is_closed()
        {
            return Ok(sender.clone());
        }
        let sender = tokio::time::timeout(CONNECT_TIMEOUT, self.connect())
            .await
            .map_err(|_| text(format!("no connection to {}:{} within {CONNECT_TIMEOUT:?}", self.host, self.port)))??;
        *slot = Some(sender.clone());
        Ok(sender)
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>, TransportError> {
        let tcp = tokio::net::TcpStream::connect((self.host.as_str(), self.port)).await.map_err(boxed)?;
        tcp.set_nodelay(true).map_err(boxed)?;
        let name = ServerName::try_from(self.host.clone()).map_err(boxed)?;
        let config = self.credentials.read().tls.clone();
        let tls = tokio_rustls::TlsConnector::from(config).connect(name, tcp).await.map_err(boxed)?;
        let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .handshake(TokioIo::new(tls))
            .await
            .map_err(boxed)?;
        base::tasks::detach("api-connection", async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %base::chain(&error), "connection to the API server ended");
            }
        });
        Ok(sender)
    }
}

#[async_trait]
impl Transport for HttpTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError> {
        let (mut head, body) = request.into_parts();
        let authority = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        let mut parts = uri::Parts::from(head.uri);
        parts.scheme = Some(uri::Scheme::HTTPS);
        parts.authority = Some(authority.parse().map_err(boxed)?);
        head.uri = Uri::from_parts(parts).map_err(boxed)?;
        if let Some(token) = self.credentials.read().token.clone() {
            head.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().map_err(boxed)?);
        }
        let mut sender = self.connection().await?;
        let response = sender.send_request(Request::from_parts(head, Full::new(body))).await.map_err(boxed)?;
        Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }
}

fn builder() -> Result<ConfigBuilder<ClientConfig, rustls::WantsVerifier>, TransportError> {
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(boxed)
}

fn trusting(ca_pem: &[u8]) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TransportError> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca_pem) {
        roots.add(cert.map_err(boxed)?).map_err(boxed)?;
    }
    Ok(builder()?.with_root_certificates(roots))
}

fn credentials(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    identity: TlsIdentity,
) -> Result<Credentials, TransportError> {
    let (mut tls, token) = match identity {
        TlsIdentity::Token(token) => (builder.with_no_client_auth(), Some(token)),
        TlsIdentity::Certificate { cert_pem, key_pem } => {
            let chain = CertificateDer::pem_slice_iter(&cert_pem).collect::<Result<Vec<_>, _>>().map_err(boxed)?;
            let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(boxed)?;
            (builder.with_client_auth_cert(chain, key).map_err(boxed)?, None)
        }
    };
    tls.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Credentials { token, tls: Arc::new(tls) })
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> TransportError {
    TransportError(Box::new(error))
}

fn text(message: String) -> TransportError {
    TransportError(message.into())
}
