//! How a request reaches an API server.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use thiserror::Error;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A response body: streamed, so that watches and logs work the same in-process and over TLS.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The request did not get an answer. Whether the server acted on it is unknown.
#[derive(Debug, Error)]
#[error("failed to reach the API server: {0}")]
pub struct TransportError(#[source] pub BoxError);

/// In-process (plugged in by `bin` and `sim`) or [`crate::HttpTransport`].
#[async_trait]
pub trait Transport: Send + Sync {
    /// Sends one request. The URI has path and query only. Resolves when the response head is there.
    async fn send(&self, request: Request<Bytes>) -> Result<Response<Body>, TransportError>;
}

/// A body of known bytes.
pub fn body_from(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// Reads a body to its end.
pub async fn collect(body: Body) -> Result<Bytes, TransportError> {
    Ok(body.collect().await.map_err(TransportError)?.to_bytes())
}
