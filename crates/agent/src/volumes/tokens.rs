//! Service account tokens for projected volumes: kept until 80 % of their life, then asked for again
//! (`pkg/kubelet/token/token_manager.go`). Differs: where the server may be away the last ones are also on disk, for root only, so that pods
//! can be started again while the server is away; even one that has expired is used then, until the server answers.

use crate::cluster::{Cluster, ClusterError, Token, TokenRequest};
use api::meta::MetaExt;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Pod UID, audience, lifetime.
type Key = (String, String, i64);

/// When a server that was away is asked again.
const ASK_AGAIN: SignedDuration = SignedDuration::from_secs(10);

/// The tokens of all pods.
#[derive(Debug)]
pub struct Tokens {
    file: Option<PathBuf>,
    kept: Mutex<BTreeMap<Key, (Token, Timestamp)>>,
}

/// As it is on disk.
#[derive(Serialize, Deserialize)]
struct Written {
    key: Key,
    token: String,
    expires_at: Timestamp,
    refresh_at: Timestamp,
}

/// No token is used longer than this (`maxTTL`).
const LONGEST_USE: SignedDuration = SignedDuration::from_hours(24);

/// When a token that was given at `given` is to be replaced.
pub fn refresh_at(token: &Token, given: Timestamp) -> Timestamp {
    let life = token.expires_at.duration_since(given);
    given + (life * 4 / 5).min(LONGEST_USE)
}

impl Tokens {
    /// Those that an earlier run left in `file`, which is kept up to date; in memory only if there is none.
    pub fn load(file: Option<PathBuf>) -> Self {
        let read = file.as_deref().map_or(Ok(Vec::new()), read).unwrap_or_else(|error| {
            tracing::warn!(%error, "failed to read the tokens of an earlier run");
            Vec::new()
        });
        let entry = |w: Written| (w.key, (Token { value: w.token, expires_at: w.expires_at }, w.refresh_at));
        Tokens { file, kept: Mutex::new(read.into_iter().map(entry).collect()) }
    }

    fn save(&self, kept: &BTreeMap<Key, (Token, Timestamp)>) {
        let written = |(key, (token, refresh_at)): (&Key, &(Token, Timestamp))| Written {
            key: key.clone(),
            token: token.value.clone(),
            expires_at: token.expires_at,
            refresh_at: *refresh_at,
        };
        let Some(file) = &self.file else { return };
        let all: Vec<Written> = kept.iter().map(written).collect();
        if let Err(error) = serde_json::to_vec(&all).map_err(io::Error::from).and_then(|text| put(file, &text)) {
            tracing::warn!(file = %file.display(), %error, "failed to write the tokens down");
        }
    }

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
                let mut kept = self.kept.lock();
                kept.insert(key, (token.clone(), refresh));
                self.save(&kept);
                Ok((token, refresh))
            }
            // The old one still works, or nobody is there for whom it would have to: try again soon.
            (Err(error), Some((token, _)))
                if now < token.expires_at || matches!(error, ClusterError::Unreachable(_)) =>
            {
                tracing::warn!(error = %base::chain(&error), "failed to renew a token; going on with the old one");
                Ok((token, now + ASK_AGAIN))
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Drops the tokens of a pod.
    pub fn forget(&self, uid: &str) {
        let mut kept = self.kept.lock();
        let before = kept.len();
        kept.retain(|(pod, _, _), _| pod != uid);
        if kept.len() != before {
            self.save(&kept);
        }
    }
}

fn read(file: &Path) -> io::Result<Vec<Written>> {
    match std::fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => Ok(serde_json::from_slice(&other?)?),
    }
}

/// Not synced: a start must not wait for the disk, and a token that a power cut took is asked for again.
fn put(file: &Path, text: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(file.parent().unwrap_or(file))?;
    base::files::replace(file, text)
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

    #[tokio::test]
    async fn the_last_token_is_used_while_the_server_is_away() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("tokens.json");
        let (cluster, pod) = (crate::testing::FakeCluster::default(), crate::pod::fixture::pod("{}"));
        let request = TokenRequest { pod: &pod, audience: None, expiration_seconds: 3600 };
        let at = |s: i64| Timestamp::from_second(1_000_000 + s).expect("small");
        let (first, _) = Tokens::load(Some(file.clone())).get(&cluster, &request, at(0)).await.expect("given");
        assert_eq!(std::fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
        cluster.go_away();
        let later = Tokens::load(Some(file.clone()));
        let (again, ask) = later.get(&cluster, &request, at(90_000)).await.expect("expired, but nobody is there");
        assert_eq!((again.value, ask), (first.value, at(90_010)));
        later.forget(pod.uid());
        assert!(Tokens::load(Some(file)).get(&cluster, &request, at(1)).await.is_err(), "nothing is left of the pod");
    }
}
