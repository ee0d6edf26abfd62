//! Authentication and authorization by webhooks outside the cluster (`apiserver/pkg/util/webhook/webhook.go`).

mod access;
mod cache;
pub mod kubeconfig;
mod token;

pub use access::{
    AuthorizationConfiguration, AuthorizationMetrics, AuthorizerKind, ConnectionInfo, Entry, Webhook, WebhookAuthorizer,
};
pub use token::WebhookTokens;

use crate::webhook_client::{ClientConfig, WebhookClient, WebhookError};
use bytes::Bytes;
use std::time::Duration;

/// A webhook is asked so often (`DefaultRetryBackoffWithInitialDelay`, jitter left out), and waited for in between, half as long
/// again each time.
const TRIES: u32 = 5;
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// Sends a review; a failure that may pass is tried again (`WithExponentialBackoff`).
async fn post(
    client: &WebhookClient,
    config: &ClientConfig,
    timeout: Duration,
    body: Bytes,
) -> Result<Bytes, WebhookError> {
    let mut wait = FIRST_WAIT;
    for _ in 1..TRIES {
        match client.review(config, timeout, body.clone()).await {
            Err(error) if may_pass(&error) => {
                tokio::time::sleep(wait).await;
                wait = wait * 3 / 2;
            }
            result => return result,
        }
    }
    client.review(config, timeout, body).await
}

/// A failure on the way, or one of the other side that it may get over (`DefaultShouldRetry`).
fn may_pass(error: &WebhookError) -> bool {
    match error {
        WebhookError::Transport { why, .. } => why.contains("connection reset"),
        WebhookError::Answered { code, .. } => matches!(code, 429 | 500 | 504),
        WebhookError::Timeout { .. } | WebhookError::Config(_) => false,
    }
}
