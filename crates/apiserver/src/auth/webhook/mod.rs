//! Authentication and authorization by webhooks outside the cluster (`apiserver/pkg/util/webhook/webhook.go`).

mod access;
pub mod kubeconfig;
#[cfg(test)]
mod tests;
mod token;

pub use access::{
    AuthorizationConfiguration, AuthorizationMetrics, AuthorizerKind, ConnectionInfo, Entry, Webhook, WebhookAuthorizer,
};
pub use token::WebhookTokens;

use crate::webhook_client::{ClientConfig, WebhookClient, WebhookError};
use bytes::Bytes;
use std::time::Duration;
use tokio::time::Instant;

/// A webhook is asked so often (`DefaultRetryBackoffWithInitialDelay`, jitter left out), and waited for in between, half as long
/// again each time.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Sends a review; a failure that may pass is tried again (`WithExponentialBackoff`). `read` gets what each try brought, and how long
/// it took.
async fn post<T>(
    client: &WebhookClient,
    config: &ClientConfig,
    timeout: Duration,
    body: Bytes,
    read: impl Fn(Result<Bytes, WebhookError>, Duration) -> Result<T, WebhookError>,
) -> Result<T, WebhookError> {
    let mut waits = (0..TRIES - 1).scan(FIRST_WAIT, |wait, _| Some(std::mem::replace(wait, *wait * 3 / 2)));
    loop {
        let begun = Instant::now();
        let answer = client.review(config, timeout, body.clone()).await;
        let result = read(answer, begun.elapsed());
        let may_pass = result.as_ref().is_err_and(may_pass);
        match waits.next().filter(|_| may_pass) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return result,
        }
    }
}

/// A failure on the way, or one of the other side that it may get over (`DefaultShouldRetry`).
fn may_pass(error: &WebhookError) -> bool {
    match error {
        WebhookError::Transport { why, .. } => why.contains("connection reset"),
        WebhookError::Answered { code, .. } => matches!(code, 429 | 500 | 504),
        WebhookError::Timeout { .. } | WebhookError::Config(_) => false,
    }
}
