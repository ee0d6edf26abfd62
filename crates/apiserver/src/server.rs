//! The edge: TLS 1.3 with optional client certificates, HTTP/1.1 and HTTP/2, limits, graceful shutdown. Everything else is
//! [`ApiServer::handle`]; how many requests run at one time is `flow`'s.
//!
//! Certificates are replaced at run time with [`Tls::reload`]: the next handshake sees the new ones, open connections stay.

use crate::auth::{Peer, PeerIdentity};
use crate::gather::gather;
use crate::{ApiServer, Body, BoxError, response};
use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A handshake takes no longer than this.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Request heads arrive within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(32);
/// Longest head of a request (Go's `DefaultMaxHeaderBytes`, which upstream leaves as it is).
const MAX_HEAD: usize = 1 << 20;
/// The same for HTTP/2.
const MAX_HEAD_2: u32 = 1 << 20;
/// A request that streams nothing is answered within this time (`--request-timeout`).
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Dead HTTP/2 peers are noticed within twice this time.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// Streams of one HTTP/2 connection at one time (`--http2-max-streams-per-connection`).
const MAX_STREAMS: u32 = 1000;
/// Open connections at one time; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 10_000;
/// How long connections get to finish at shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Certificates that TLS cannot work with.
#[derive(Debug, Error)]
pub enum TlsError {
    /// The chain and key do not fit each other, or TLS does not take them.
    #[error("failed to use the serving certificate: {0}")]
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
    /// Roots of front proxies' certificates: who shows one may speak for users (`--requestheader-client-ca-file`).
    pub front_proxy_ca: Vec<CertificateDer<'static>>,
}

/// Reloadable TLS.
pub struct Tls {
    state: ArcSwap<State>,
}

struct State {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    front_proxies: Option<Arc<dyn ClientCertVerifier>>,
}

impl Tls {
    /// TLS 1.3 over `material`.
    pub fn new(material: TlsMaterial) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Tls { state: ArcSwap::from(state(material)?) }))
    }

    /// From the next handshake on, `material`. On an error the old one stays.
    pub fn reload(&self, material: TlsMaterial) -> Result<(), TlsError> {
        self.state.store(state(material)?);
        Ok(())
    }
}

impl State {
    /// What a chain that TLS took proves. Who is a client is never a front proxy.
    fn identity(&self, chain: Vec<CertificateDer<'static>>) -> PeerIdentity {
        let Some((leaf, rest)) = chain.split_first() else { return PeerIdentity::None };
        let passes = |verifier: &Option<Arc<dyn ClientCertVerifier>>| {
            verifier.as_ref().is_some_and(|v| v.verify_client_cert(leaf, rest, UnixTime::now()).is_ok())
        };
        if passes(&self.front_proxies) && !passes(&self.clients) {
            return PeerIdentity::FrontProxy(chain);
        }
        PeerIdentity::Certificates(chain.into())
    }
}

fn verifier(roots: &[CertificateDer<'static>]) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    if roots.is_empty() {
        return Ok(None);
    }
    let mut store = RootCertStore::empty();
    for ca in roots {
        store.add(ca.clone()).map_err(|e| TlsError::ClientCa(e.into()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider).allow_unauthenticated();
    Ok(Some(builder.build().map_err(|e| TlsError::ClientCa(e.into()))?))
}

fn state(material: TlsMaterial) -> Result<Arc<State>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(TlsError::Serving)?;
    let everybody = [material.client_ca.as_slice(), &material.front_proxy_ca].concat();
    let builder = match verifier(&everybody)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(material.chain, material.key).map_err(TlsError::Serving)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(State {
        config: Arc::new(config),
        clients: verifier(&material.client_ca)?,
        front_proxies: verifier(&material.front_proxy_ca)?,
    }))
}

/// Accepts connections until `shutdown`, then lets those that are open finish. Several listeners: call it several times.
pub async fn serve(server: ApiServer, listener: TcpListener, tls: Arc<Tls>, shutdown: CancellationToken) {
    let connections = TaskTracker::new();
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let ((stream, address), slot) = tokio::select! {
            accepted = base::accept::next(&slots, || listener.accept()) => accepted,
            () = shutdown.cancelled() => break,
        };
        let connection = Connection { server: server.clone(), shutdown: shutdown.clone(), address };
        let tls = tls.clone();
        let work = connections.track_future(async move {
            connection.run(stream, &tls).await;
            drop(slot);
        });
        base::tasks::detach("api-server-connection", work);
    }
    server.begin_shutdown();
    connections.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, connections.wait()).await.is_err() {
        tracing::warn!(open = connections.len(), "connections did not finish in time");
    }
}

#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) server: ApiServer,
    pub(crate) shutdown: CancellationToken,
    pub(crate) address: SocketAddr,
}

impl Connection {
    async fn run(self, stream: TcpStream, tls: &Tls) {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "failed to set TCP_NODELAY");
        }
        let tls = tls.state.load_full();
        let acceptor = TlsAcceptor::from(tls.config.clone());
        let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                self.server.inner.metrics.tls_errors.inc();
                tracing::debug!(%error, peer = %self.address, "TLS handshake failed");
                return;
            }
            Err(_) => {
                self.server.inner.metrics.tls_errors.inc();
                return;
            }
        };
        let certificates = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let identity = certificates.map_or(PeerIdentity::None, |chain| {
            tls.identity(chain.into_iter().map(CertificateDer::into_owned).collect())
        });
        let expires = match &identity {
            PeerIdentity::Certificates(chain) => chain.expires(),
            _ => None,
        };
        let peer = Peer { address: Some(self.address), identity };
        let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        self.converse(stream, is_http2, peer, expires).await;
    }

    /// Requests and answers until one side ends it. `is_http2`: so it was agreed on; others may be upgraded, and then write for
    /// themselves. `expires`: the certificate that the client showed.
    pub(crate) async fn converse(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        is_http2: bool,
        peer: Peer,
        expires: Option<i64>,
    ) {
        let shutdown = self.shutdown.clone();
        let service = service_fn(move |request| {
            let this = self.clone();
            let peer = peer.clone();
            if let Some(expires) = expires {
                this.server.inner.metrics.access.certificate(expires - this.server.clock_now().as_second());
            }
            // Boxed: the compiler cannot see through the nested futures that they are Send.
            let answer: BoxFuture<'static, Response<Body>> = Box::pin(this.answer(request, peer));
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let mut builder = Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(MAX_HEAD);
        builder
            .http2()
            .max_header_list_size(MAX_HEAD_2)
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE);
        let (stream, mut gatherer) = gather(stream, is_http2);
        let mut connection = pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
        let result = tokio::select! {
            result = poll_fn(|cx| gatherer.turn(cx, connection.as_mut())) => result,
            () = shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                poll_fn(|cx| gatherer.turn(cx, connection.as_mut())).await
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended");
        }
    }

    async fn answer(self, request: Request<Incoming>, peer: Peer) -> Response<Body> {
        let request = request.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync());
        let is_head = request.method() == Method::HEAD;
        let answer = self.server.handle(request, peer);
        let response = tokio::time::timeout(REQUEST_TIMEOUT, answer).await.unwrap_or_else(|_| response::too_late());
        if is_head { response::without_body(response) } else { response }
    }
}
