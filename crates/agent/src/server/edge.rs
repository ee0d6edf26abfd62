//! The edge: TLS 1.3 with optional client certificates, HTTP/1.1 (with upgrades) and HTTP/2, limits, shutdown.
//!
//! Certificates are replaced at run time with [`Tls::reload`]: the next handshake sees the new ones, open connections stay.

use super::NodeApi;
use super::auth::{self, User};
use super::routes;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use parking_lot::RwLock;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use streaming::answer::{Body, BoxError, without_body};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// A handshake takes no longer than this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Request heads arrive within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Dead HTTP/2 peers are noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection at one time.
const MAX_STREAMS: u32 = 250;
/// Open connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 4_000;

/// Certificates that TLS cannot work with.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The chain and key do not fit each other, or TLS does not take them.
    #[error("failed to use the node's serving certificate: {0}")]
    Serving(#[source] rustls::Error),
    /// The client CA is no certificate.
    #[error("failed to use the client CA: {0}")]
    ClientCa(#[source] BoxError),
}

/// What the server shows and whom it believes.
pub struct TlsMaterial {
    /// The serving certificate, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
    /// Roots of client certificates; none = no client certificates.
    pub client_ca: Vec<CertificateDer<'static>>,
}

/// Reloadable TLS.
pub struct Tls {
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// TLS 1.3 over `material`.
    pub fn new(material: TlsMaterial) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Tls { config: RwLock::new(config(material)?) }))
    }

    /// From the next handshake on, `material`. On an error the old one stays.
    pub fn reload(&self, material: TlsMaterial) -> Result<(), TlsError> {
        let new = config(material)?;
        *self.config.write() = new;
        Ok(())
    }
}

fn config(material: TlsMaterial) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Serving)?;
    let builder = if material.client_ca.is_empty() {
        builder.with_no_client_auth()
    } else {
        let mut roots = RootCertStore::empty();
        for ca in material.client_ca {
            roots.add(ca).map_err(|e| TlsError::ClientCa(e.into()))?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .allow_unauthenticated()
            .build()
            .map_err(|e| TlsError::ClientCa(e.into()))?;
        builder.with_client_cert_verifier(verifier)
    };
    let mut config = builder.with_single_cert(material.chain, material.key).map_err(TlsError::Serving)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Accepts connections until `shutdown`. Open streams (exec, logs …) end with it: the node's containers do not.
pub async fn serve(server: NodeApi, listener: TcpListener, tls: Arc<Tls>, shutdown: CancellationToken) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let ((stream, address), slot) = tokio::select! {
            accepted = base::accept::next(&slots, || listener.accept()) => accepted,
            () = shutdown.cancelled() => break,
        };
        let connection = Connection { server: server.clone(), tls: tls.clone(), shutdown: shutdown.clone(), address };
        base::tasks::detach("node-api-connection", async move {
            connection.run(stream).await;
            drop(slot);
        });
    }
}

struct Connection {
    server: NodeApi,
    tls: Arc<Tls>,
    shutdown: CancellationToken,
    address: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
        let config = self.tls.config.read().clone();
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(%error, peer = %self.address, "TLS handshake failed");
                return;
            }
            Err(_) => return,
        };
        let leaf = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let user: Option<Arc<User>> = leaf.and_then(auth::user_of).map(Arc::new);
        let (server, shutdown) = (self.server, self.shutdown.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, user, shutdown) = (server.clone(), user.clone(), shutdown.clone());
            // Boxed: the compiler cannot see through the nested futures that they are Send.
            let answer: BoxFuture<'static, Response<Body>> = Box::pin(async move {
                let is_head = request.method() == Method::HEAD;
                let response = routes::answer(&server, user.as_deref(), request, shutdown).await;
                if is_head { without_body(response) } else { response }
            });
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        let result = tokio::select! {
            result = connection => result,
            () = self.shutdown.cancelled() => Ok(()),
        };
        if let Err(error) = result {
            tracing::debug!(%error, peer = %self.address, "connection ended");
        }
    }
}
