//! Service account tokens for projected volumes: kept until 80 % of their life, then asked for again
//! (`pkg/kubelet/token/token_manager.go`). In memory only: after a restart of the agent new ones are asked for.

use crate::cluster::{Cluster, ClusterError, Token, TokenRequest};
use api::meta::MetaExt;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// Pod UID, audience, lifetime.
type Key = (String, String, i64);

/// The tokens of all pods.
#[derive(Debug, Default)]
pub struct Tokens {
    kept: Mutex<BTreeMap<Key, (Token, Timestamp)>>,
}

/// No token is used longer than this (`maxTTL`).
const LONGEST_USE: SignedDuration = SignedDuration::from_hours(24);

/// When a token that was given at `given` is to be replaced.
pub fn refresh_at(token: &Token, given: Timestamp) -> Timestamp {
    let life = token.expires_at.duration_since(given);
    given + (life * 4 / 5).min(LONGEST_USE)
}

impl Tokens {
    /// A token that is good for a while, and when to come again.
    pub async fn get(
        &self,
        cluster: &dyn Cluster,
        request: &TokenRequest<'_>,
        now: Timestamp,
    ) -> Result<(Token, Timestamp), ClusterError> {
        let key =
            (request.pod.uid().to_owned(), request.audience.unwrap_or_default().to_owned(), request.expiration_seconds);
        let kept = self.kept.lock().get(&key).cloned();
        if let Some((token, refresh)) = &kept
            && now < *refresh
        {
            return Ok((token.clone(), *refresh));
        }
        match (cluster.token(request).await, kept) {
            (Ok(token), _) => {
                let refresh = refresh_at(&token, now);
                self.kept.lock().insert(key, (token.clone(), refresh));
                Ok((token, refresh))
            }
            // The old one still works: try again soon.
            (Err(error), Some((token, _))) if now < token.expires_at => {
                tracing::warn!(error = %base::chain(&error), "failed to renew a token, the old one is still good");
                Ok((token, now + SignedDuration::from_secs(10)))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Drops the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        self.kept.lock().retain(|(pod, _, _), _| pod != uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refreshed_at_four_fifths_but_daily() {
        let at = |s| Timestamp::from_second(s).expect("small");
        let token = |s| Token { value: String::new(), expires_at: at(s) };
        assert_eq!(refresh_at(&token(1000 + 3600), at(1000)), at(1000 + 2880));
        assert_eq!(refresh_at(&token(10 * 86400), at(0)), at(86400));
    }
}
