//! [`HttpTransport`]: TLS 1.3 and HTTP/2 to one API server, one shared connection, reconnecting.

use crate::{Body, BoxError, Transport, TransportError};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri, header, uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
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
    token: Option<String>,
    tls: Arc<ClientConfig>,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

impl HttpTransport {
    /// `server` is `https://host:port`; `ca_pem` the roots that may sign its certificate.
    pub fn new(server: &str, ca_pem: &[u8], identity: TlsIdentity) -> Result<Self, TransportError> {
        let url = Url::parse(server).map_err(boxed)?;
        if url.scheme() != "https" {
            return Err(text(format!("server {server:?} must begin with https://")));
        }
        let host = url.host_str().ok_or_else(|| text(format!("server {server:?} has no host")))?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_slice_iter(ca_pem) {
            roots.add(cert.map_err(boxed)?).map_err(boxed)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(boxed)?
            .with_root_certificates(roots);
        let (mut tls, token) = match identity {
            TlsIdentity::Token(token) => (builder.with_no_client_auth(), Some(token)),
            TlsIdentity::Certificate { cert_pem, key_pem } => {
                let chain = CertificateDer::pem_slice_iter(&cert_pem).collect::<Result<Vec<_>, _>>().map_err(boxed)?;
                let key = PrivateKeyDer::from_pem_slice(&key_pem).map_err(boxed)?;
                (builder.with_client_auth_cert(chain, key).map_err(boxed)?, None)
            }
        };
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let port = url.port().unwrap_or(443);
        Ok(HttpTransport { host, port, token, tls: Arc::new(tls), connection: Mutex::new(None) })
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
        let tls = tokio_rustls::TlsConnector::from(self.tls.clone()).connect(name, tcp).await.map_err(boxed)?;
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
        if let Some(token) = &self.token {
            head.headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().map_err(boxed)?);
        }
        let mut sender = self.connection().await?;
        let response = sender.send_request(Request::from_parts(head, Full::new(body))).await.map_err(boxed)?;
        Ok(response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync()))
    }
}

fn boxed(error: impl std::error::Error + Send + Sync + 'static) -> TransportError {
    TransportError(Box::new(error))
}

fn text(message: String) -> TransportError {
    TransportError(message.into())
}
