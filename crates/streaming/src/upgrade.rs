//! From a request to the connection behind it.

use crate::answer::{Body, Refusal};
use http::Response;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::future::Future;
use tokio_util::sync::CancellationToken;

/// Gives the connection to `serve` as soon as the response, a successful handshake, is out; until `shutdown`.
pub fn upgraded<F>(
    upgrade: Option<OnUpgrade>,
    response: Response<Body>,
    shutdown: CancellationToken,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Result<Response<Body>, Refusal>
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(upgrade) = upgrade else {
        return Err(Refusal::new(400, "Upgrade request required"));
    };
    base::tasks::detach("stream", async move {
        match upgrade.await {
            Ok(io) => tokio::select! {
                () = serve(TokioIo::new(io)) => {}
                () = shutdown.cancelled() => {}
            },
            Err(error) => tracing::debug!(%error, "the client went away during the upgrade"),
        }
    });
    Ok(response)
}
