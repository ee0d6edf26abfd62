//! Plugs the API server into the client: requests of this process go straight into the pipeline, as a given user.

use apiserver::auth::{Peer, UserInfo};
use apiserver::{ApiServer, Body};
use async_trait::async_trait;
use bytes::Bytes;
use client::{Transport, TransportError};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use std::sync::Arc;

/// Requests of one user.
pub(crate) struct LocalTransport {
    server: ApiServer,
    user: UserInfo,
}

impl LocalTransport {
    /// Requests as `user` in `groups`; authorization and admission are as for everybody.
    pub(crate) fn new(server: &ApiServer, user: &str, groups: &[&str]) -> Arc<Self> {
        Arc::new(LocalTransport { server: server.clone(), user: UserInfo::new(user, groups) })
    }
}

#[async_trait]
impl Transport for LocalTransport {
    async fn send(&self, request: Request<Bytes>) -> Result<Response<client::Body>, TransportError> {
        let request = request.map(|bytes| -> Body { Full::new(bytes).map_err(|never| match never {}).boxed_unsync() });
        Ok(self.server.handle(request, Peer::local(self.user.clone())).await)
    }
}
