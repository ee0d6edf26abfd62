//! What `dhow token` does, in the process with the server: bootstrap tokens as Secrets of `kube-system`
//! (`cluster-bootstrap/token/api/types.go`, `kubeadm/app/apis/bootstraptoken/v1/utils.go`).
//!
//! A token lets its bearer ask for a node's certificate, and nothing else: its group is bound to `system:node-bootstrapper`.

use api::ObjectMeta;
use api::meta::MetaExt;
use api::prelude::Secret;
use base::{Clock, Random};
use client::{CaPin, Client, DeleteParams, ListParams};
use jiff::{SignedDuration, Timestamp};
use machinery::bootstrap_token::{NAME_PREFIX, SECRET_TYPE, value};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

const NAMESPACE: &str = "kube-system";
/// The group of machines that join, beside `system:bootstrappers`.
const GROUP: &str = "system:bootstrappers:dhow:default-node-token";

/// As it goes over the control socket.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum TokenRequest {
    /// Seconds to live (`None`: for ever), description.
    Create(Option<u64>, String),
    List,
    /// By its id.
    Delete(String),
}

/// Who makes tokens.
#[derive(Clone)]
pub(crate) struct Tokens {
    /// Acts as the server.
    pub(crate) client: Client,
    /// As other machines see it.
    pub(crate) server_url: String,
    pub(crate) ca: CaPin,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
}

impl Tokens {
    /// Does it. Errors are sentences.
    pub(crate) async fn run(&self, request: TokenRequest) -> Result<Value, String> {
        let text = |e: client::ClientError| base::chain(&e);
        let secrets = self.client.api::<Secret>();
        match request {
            TokenRequest::Create(seconds, description) => {
                let (id, secret) = (word(&*self.random, 6), word(&*self.random, 16));
                let expires = seconds.map(|s| self.clock.now() + SignedDuration::from_secs(s.min(TTL_MAX) as i64));
                secrets.create(&secret_of(&id, &secret, expires, &description)).await.map_err(text)?;
                Ok(json!({
                    "token": format!("{id}.{secret}"),
                    "server": self.server_url,
                    "caHash": self.ca.to_string(),
                    "expires": expires.map(|e| e.to_string()),
                }))
            }
            TokenRequest::List => {
                let params = ListParams::all().namespace(NAMESPACE).fields(&format!("type={SECRET_TYPE}"));
                let (all, _) = secrets.list(&params).await.map_err(text)?;
                Ok(all.iter().map(describe).collect())
            }
            TokenRequest::Delete(id) => {
                let name = format!("{NAME_PREFIX}{id}");
                match secrets.delete(NAMESPACE, &name, &DeleteParams::default()).await {
                    Err(e) if e.is_not_found() => Err(format!("there is no token {id:?}")),
                    done => done.map(|()| json!({"deleted": id})).map_err(text),
                }
            }
        }
    }
}

/// A hundred years, so that the sum is a date.
pub(crate) const TTL_MAX: u64 = 100 * 365 * 24 * 3600;

fn secret_of(id: &str, secret: &str, expires: Option<Timestamp>, description: &str) -> Secret {
    let mut data = BTreeMap::from([
        ("token-id", id.to_owned()),
        ("token-secret", secret.to_owned()),
        ("usage-bootstrap-authentication", "true".to_owned()),
        ("usage-bootstrap-signing", "true".to_owned()),
        ("auth-extra-groups", GROUP.to_owned()),
    ]);
    data.extend(expires.map(|e| ("expiration", e.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())));
    if !description.is_empty() {
        data.insert("description", description.to_owned());
    }
    Secret {
        metadata: ObjectMeta {
            name: Some(format!("{NAME_PREFIX}{id}")),
            namespace: Some(NAMESPACE.into()),
            ..ObjectMeta::default()
        },
        type_: Some(SECRET_TYPE.into()),
        string_data: Some(data.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ..Secret::default()
    }
}

/// Without the secret.
fn describe(secret: &Secret) -> Value {
    json!({
        "id": secret.name().strip_prefix(NAME_PREFIX).unwrap_or(secret.name()),
        "expires": value(secret, "expiration"),
        "description": value(secret, "description"),
    })
}

/// Lower-case letters and digits, all equally likely.
fn word(random: &dyn Random, length: usize) -> String {
    const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    // The largest multiple of 36 that a byte holds: what is above would make some characters more likely.
    const FAIR: u8 = 252;
    let mut out = String::with_capacity(length);
    let mut byte = [0];
    while out.len() < length {
        random.fill(&mut byte);
        if byte[0] < FAIR {
            out.push(char::from(ALPHABET[usize::from(byte[0]) % ALPHABET.len()]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_secret_that_lets_a_node_join_until_it_expires() {
        let expires = Timestamp::from_second(1_800_000_000).expect("in range");
        let secret = secret_of("abcdef", "0123456789abcdef", Some(expires), "rack 7");
        let data = secret.string_data.expect("set");
        let lines: Vec<String> = data.iter().map(|(k, v)| format!("{k}={v}")).collect();
        expect_test::expect![[r#"
            auth-extra-groups=system:bootstrappers:dhow:default-node-token
            description=rack 7
            expiration=2027-01-15T08:00:00Z
            token-id=abcdef
            token-secret=0123456789abcdef
            usage-bootstrap-authentication=true
            usage-bootstrap-signing=true"#]]
        .assert_eq(&lines.join("\n"));
        assert_eq!(secret.metadata.name.as_deref(), Some("bootstrap-token-abcdef"));
    }

    #[test]
    fn words_are_of_letters_and_digits() {
        let word = word(&base::SystemRandom, 500);
        assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{word}");
        assert_eq!(word.len(), 500);
    }
}
