//! Bootstrap tokens as bearer tokens (`plugin/pkg/auth/authenticator/token/bootstrap/bootstrap.go`): who shows one is
//! `system:bootstrap:ID` in `system:bootstrappers`, which may ask for a node's certificate and nothing else.

use super::{AuthError, Authenticator, Peer, UserInfo, is_equal};
use crate::reader::Reader;
use api::prelude::*;
use async_trait::async_trait;
use base::Clock;
use machinery::bootstrap_token::{self, Expiry};
use std::sync::Arc;

/// See the file's head.
pub struct BootstrapTokens {
    reader: Reader,
    clock: Arc<dyn Clock>,
}

impl BootstrapTokens {
    /// Looks tokens up in the store; a deleted one is good no more.
    pub fn new(reader: Reader, clock: Arc<dyn Clock>) -> Self {
        BootstrapTokens { reader, clock }
    }

    async fn check(&self, token: &str) -> Result<Option<UserInfo>, AuthError> {
        let Some((id, secret)) = bootstrap_token::parse(token) else { return Ok(None) };
        let name = format!("{}{id}", bootstrap_token::NAME_PREFIX);
        let stored = self.reader.get::<Secret>("kube-system", &name).await;
        let Some(stored) = stored.map_err(|e| AuthError(base::chain(&e)))? else { return Ok(None) };
        let known = bootstrap_token::value(&stored, "token-secret");
        let good = !stored.is_deleting()
            && stored.type_.as_deref() == Some(bootstrap_token::SECRET_TYPE)
            && is_equal(known.as_bytes(), secret.as_bytes())
            && bootstrap_token::value(&stored, "token-id") == id
            && bootstrap_token::expiry(&stored, self.clock.now()) != Expiry::Over
            && bootstrap_token::value(&stored, "usage-bootstrap-authentication") == "true";
        let Some(groups) = bootstrap_token::groups(&stored).filter(|_| good) else { return Ok(None) };
        Ok(Some(UserInfo { name: format!("{}{id}", bootstrap_token::USER_PREFIX), groups, ..UserInfo::default() }))
    }
}

#[async_trait]
impl Authenticator for BootstrapTokens {
    async fn authenticate(&self, head: &http::request::Parts, _peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        match super::tokens::bearer(head) {
            Some(token) => self.check(token).await,
            None => Ok(None),
        }
    }

    async fn review_token(
        &self,
        token: &str,
        _audiences: &[String],
    ) -> Result<Option<(UserInfo, Vec<String>)>, AuthError> {
        Ok(self.check(token).await?.map(|user| (user, Vec::new())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::store_with;
    use base::clock::ManualClock;
    use serde_json::json;

    #[tokio::test]
    async fn a_good_token_names_its_user() {
        let b64 = |text: &str| {
            use base64::{Engine, engine::general_purpose::STANDARD};
            STANDARD.encode(text)
        };
        let secret = |expiration: &str| {
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "bootstrap-token-abcdef", "namespace": "kube-system"},
                "type": "bootstrap.kubernetes.io/token",
                "data": {"token-id": b64("abcdef"), "token-secret": b64("0123456789abcdef"), "expiration": b64(expiration),
                    "usage-bootstrap-authentication": b64("true"), "auth-extra-groups": b64("system:bootstrappers:dhow")}})
        };
        let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().expect("a time"));
        let tokens = |expiration: &str| {
            let store = store_with(vec![("/secrets/kube-system/bootstrap-token-abcdef", secret(expiration))]);
            let clock = clock.clone();
            async move { BootstrapTokens::new(Reader::new(store.await), clock) }
        };
        let good = tokens("2026-01-01T00:00:01Z").await;
        let user = good.check("abcdef.0123456789abcdef").await.expect("the store works").expect("a good token");
        assert_eq!(
            user,
            UserInfo::new("system:bootstrap:abcdef", &["system:bootstrappers", "system:bootstrappers:dhow"])
        );
        assert_eq!(good.check("abcdef.0123456789abcdee").await.expect("the store works"), None);
        let late = tokens("2026-01-01T00:00:00Z").await;
        assert_eq!(late.check("abcdef.0123456789abcdef").await.expect("the store works"), None);
    }
}
