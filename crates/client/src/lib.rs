//! The only door to the API, for controllers, scheduler and agent: typed requests, watches and shared caches over any
//! transport (in-process or TLS). Knows nothing of the API server; `bin` plugs one into the other.
//!
//! Start reading at [`Client`], then [`Api`], then [`Cache`].

mod api_handle;
mod ca_pin;
mod cache;
mod error;
mod events;
mod http_transport;
mod lease;
mod params;
mod shelf;
mod transport;
mod watch;

pub use api_handle::Api;
pub use ca_pin::{CaPin, PinnedCa};
pub use cache::{Cache, Caches, Change, Subscription};
pub use error::ClientError;
pub use events::{EventKind, Recorder};
pub use http_transport::{HttpTransport, TlsIdentity};
pub use lease::{LeaderElection, LeaseConfig};
pub use params::{DeleteParams, ListParams, Patch, Propagation};
pub use shelf::Shelf;
pub use transport::{Body, BoxError, Transport, TransportError, body_from, collect};
pub use watch::{Lines, WatchEvent, Watcher, event_of, metadata_of};

use api::Object;
use std::sync::Arc;

/// A handle to one API server as one user. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    caches: Arc<Caches>,
    user_agent: Arc<str>,
    shelf: Option<Arc<Shelf>>,
}

impl Client {
    /// A client over `transport`; `user_agent` also becomes the default field manager.
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        let caches = Arc::new(Caches::new(transport.clone()));
        Client { caches, transport, user_agent: user_agent.into(), shelf: None }
    }

    /// Caches that begin from now on keep on `shelf` what they know, and start from there if the server does not answer.
    #[must_use]
    pub fn remembering(self, shelf: Shelf) -> Self {
        Client { shelf: Some(Arc::new(shelf)), ..self }
    }

    /// Only these caches of a kind will be needed when the server is away.
    pub fn remember_only<K: Object>(&self, selections: impl Iterator<Item = ListParams>) {
        if let Some(Err(error)) = self.shelf.as_ref().map(|shelf| shelf.retain::<K>(selections)) {
            tracing::warn!(kind = K::KIND, %error, "failed to remove what caches knew from disk");
        }
    }

    /// The same caches (read as the first client's user), but requests go through `transport`, as its user.
    #[must_use]
    pub fn acting(&self, transport: Arc<dyn Transport>, user_agent: &str) -> Self {
        Client { transport, user_agent: user_agent.into(), ..self.clone() }
    }

    /// The same connection and the same caches under another user agent (one per component).
    #[must_use]
    pub fn named(&self, user_agent: &str) -> Self {
        Client { user_agent: user_agent.into(), ..self.clone() }
    }

    /// Requests for one kind.
    pub fn api<K: Object>(&self) -> Api<K> {
        Api::new(self.clone())
    }

    /// The process-wide cache of a whole kind, shared by everybody who holds this client; started at first use.
    pub fn cache<K: Object>(&self) -> Cache<K> {
        self.caches.shared(self)
    }

    /// A cache of part of a kind (label or field selectors, one namespace), for this caller alone.
    pub fn cache_of<K: Object>(&self, params: ListParams) -> Cache<K> {
        Cache::start(self.api(), params, self.shelf.clone())
    }

    /// Sends a raw request; errors other than transport failures are left in the response.
    pub async fn send(&self, request: http::Request<bytes::Bytes>) -> Result<http::Response<Body>, ClientError> {
        Ok(self.transport.send(request).await?)
    }

    /// `User-Agent` and field manager.
    pub fn user_agent(&self) -> &str {
        &self.user_agent
    }
}
