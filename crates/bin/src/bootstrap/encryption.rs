//! Secrets are encrypted on the disk, from the first start (AES-256-GCM; `apiserver/pkg/storage/value/encrypt/aes`).
//!
//! The file `<data>/pki/encryption.yaml` is upstream's EncryptionConfiguration: which resources, and by which keys. It is made
//! with one key for secrets. To change the key, put a new one before it and restart: what is stored is sealed anew then, and
//! the old key may go with the next restart. What was stored in plain text before is sealed at the start, too.
//!
//! A sealed value is `k8s:enc:aesgcm:v1:NAME:`, 12 bytes of nonce, the ciphertext and its tag; the store's key is authenticated
//! with it, so that values cannot be swapped. In memory, and so for every reader and watcher, values are plain. Only the store
//! on the disk seals; an etcd has its own ways.

use super::files::{self, FileError};
use base64::{Engine, engine::general_purpose::STANDARD};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use store::Seal;
use thiserror::Error;

const PREFIX: &[u8] = b"k8s:enc:aesgcm:v1:";
const API_VERSION: &str = "apiserver.config.k8s.io/v1";
const KIND: &str = "EncryptionConfiguration";

/// The keys cannot be used.
#[derive(Debug, Error)]
pub(crate) enum EncryptionError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The file does not say what it must.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Configuration {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Provider {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    aesgcm: Option<Keys>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    secret: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {}

/// Seals and opens values by the file.
pub(crate) struct Encryption {
    rules: Vec<Rule>,
    random: SystemRandom,
}

struct Rule {
    /// Where such objects are in the store; `/` is everything.
    prefixes: Vec<String>,
    /// The first one seals; none: new values stay plain.
    first: Option<usize>,
    keys: Vec<(String, LessSafeKey)>,
}

impl fmt::Debug for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encryption") // Keys are nobody's to read.
    }
}

impl Encryption {
    /// Reads the keys in `dir`, or makes some if there are none.
    pub(crate) fn open(dir: &Path) -> Result<Encryption, EncryptionError> {
        files::private_dir(dir)?;
        let path = dir.join("encryption.yaml");
        let text = match files::read(&path)? {
            Some(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            None => {
                let text = fresh().map_err(|why| EncryptionError::Invalid { path: path.clone(), why })?;
                files::write(&path, text.as_bytes(), 0o600)?;
                text
            }
        };
        Encryption::parse(&text).map_err(|why| EncryptionError::Invalid { path, why })
    }

    fn parse(text: &str) -> Result<Encryption, String> {
        let configuration: Configuration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if configuration.api_version != API_VERSION || configuration.kind != KIND {
            return Err(format!("it must be an {KIND} of {API_VERSION}"));
        }
        let rules = configuration.resources.into_iter().map(Rule::parse).collect::<Result<_, _>>()?;
        Ok(Encryption { rules, random: SystemRandom::new() })
    }

    /// The first rule that names the resource counts, as upstream.
    fn rule(&self, key: &str) -> Option<&Rule> {
        self.rules.iter().find(|r| r.prefixes.iter().any(|p| key.starts_with(p.as_str())))
    }
}

/// One new key for secrets.
fn fresh() -> Result<String, String> {
    let mut secret = [0u8; 32];
    SystemRandom::new().fill(&mut secret).map_err(|_| "no random numbers".to_owned())?;
    let keys = Keys { keys: vec![Key { name: "key1".into(), secret: STANDARD.encode(secret) }] };
    let aesgcm = Provider { aesgcm: Some(keys), identity: None };
    let identity = Provider { aesgcm: None, identity: Some(Identity {}) };
    let configuration = Configuration {
        api_version: API_VERSION.into(),
        kind: KIND.into(),
        resources: vec![Resources { resources: vec!["secrets".into()], providers: vec![aesgcm, identity] }],
    };
    serde_json::to_string_pretty(&configuration).map_err(|e| e.to_string())
}

impl Rule {
    fn parse(from: Resources) -> Result<Rule, String> {
        let prefix = |name: &String| match name.split_once('.') {
            _ if name == "*.*" => Ok("/".to_owned()),
            _ if name.contains('*') => Err(format!("{name}: of wildcards only *.* is supported")),
            None => Ok(format!("/{name}/")),
            Some((plural, group)) => Ok(format!("/{group}/{plural}/")),
        };
        let prefixes = from.resources.iter().map(prefix).collect::<Result<_, _>>()?;
        let mut rule = Rule { prefixes, first: None, keys: Vec::new() };
        for (i, provider) in from.providers.into_iter().enumerate() {
            match (provider.aesgcm, provider.identity) {
                (Some(keys), None) => {
                    if i == 0 {
                        rule.first = Some(0);
                    }
                    for key in keys.keys {
                        let secret = STANDARD.decode(&key.secret).map_err(|e| format!("key {}: {e}", key.name))?;
                        let unbound = UnboundKey::new(&AES_256_GCM, &secret)
                            .map_err(|_| format!("key {}: the secret must be 32 bytes, base64-encoded", key.name))?;
                        if key.name.is_empty() || key.name.contains(':') {
                            return Err(format!("key {:?}: a name without colons is required", key.name));
                        }
                        rule.keys.push((key.name, LessSafeKey::new(unbound)));
                    }
                }
                (None, Some(Identity {})) => {}
                _ => return Err("each provider must be one of aesgcm and identity; others are not supported".into()),
            }
        }
        if rule.first.is_some() && rule.keys.is_empty() {
            return Err("aesgcm needs a key".into());
        }
        Ok(rule)
    }

    fn mark(&self, index: usize) -> Vec<u8> {
        let name = self.keys.get(index).map(|(name, _)| name.as_bytes()).unwrap_or_default();
        [PREFIX, name, b":"].concat()
    }
}

impl Seal for Encryption {
    fn seal<'a>(&self, key: &str, value: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let Some((rule, index)) = self.rule(key).and_then(|r| Some((r, r.first?))) else { return Ok(value.into()) };
        let mut nonce = [0u8; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| "no random numbers for a nonce".to_owned())?;
        let mut text = value.to_vec();
        let (_, secret) = &rule.keys[index];
        secret
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key.as_bytes()), &mut text)
            .map_err(|_| format!("{key} cannot be encrypted"))?;
        Ok([rule.mark(index).as_slice(), &nonce, &text].concat().into())
    }

    fn open<'a>(&self, key: &str, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let Some(rest) = stored.strip_prefix(PREFIX) else { return Ok(stored.into()) };
        let end = rest.iter().position(|b| *b == b':').ok_or_else(|| format!("{key}: its key has no name"))?;
        let name = String::from_utf8_lossy(&rest[..end]).into_owned();
        let keys = self.rules.iter().flat_map(|r| &r.keys).filter(|(known, _)| *known == name);
        let (nonce, text) =
            rest[end + 1..].split_at_checked(NONCE_LEN).ok_or_else(|| format!("{key}: it is too short"))?;
        for (_, secret) in keys {
            let mut text = text.to_vec();
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| format!("{key}: a bad nonce"))?;
            if let Ok(plain) = secret.open_in_place(nonce, Aad::from(key.as_bytes()), &mut text) {
                return Ok(plain.to_vec().into());
            }
        }
        Err(format!("no key called {name:?} decrypts {key}"))
    }

    fn is_current(&self, key: &str, stored: &[u8]) -> bool {
        match self.rule(key).and_then(|r| Some((r, r.first?))) {
            Some((rule, index)) => stored.starts_with(&rule.mark(index)),
            None => !stored.starts_with(PREFIX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(providers: &str) -> Result<Encryption, String> {
        Encryption::parse(&format!(
            "apiVersion: {API_VERSION}\nkind: {KIND}\nresources: [{{resources: [secrets, foos.ex.io], providers: {providers}}}]"
        ))
    }

    const OLD: &str = "{name: old, secret: MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=}";
    const NEW: &str = "{name: new, secret: YWJjZGVmMDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODk=}";

    #[test]
    fn secrets_are_sealed_by_the_first_key_and_opened_by_any() {
        let old = parse(&format!("[{{aesgcm: {{keys: [{OLD}]}}}}, {{identity: {{}}}}]")).expect("two providers");
        let both = parse(&format!("[{{aesgcm: {{keys: [{NEW}, {OLD}]}}}}]")).expect("two keys");
        let key = "/secrets/ns/a";
        let sealed = old.seal(key, b"hidden").expect("seals").into_owned();
        assert!(sealed.starts_with(b"k8s:enc:aesgcm:v1:old:") && !sealed.windows(6).any(|w| w == b"hidden"));
        assert_eq!(&*both.open(key, &sealed).expect("the old key is still there"), b"hidden");
        assert!(old.is_current(key, &sealed) && !both.is_current(key, &sealed));
        assert!(old.seal("/foos.ex.io/x", b"v").expect("seals").starts_with(b"v"), "another resource");
        assert!(old.seal("/ex.io/foos/ns/x", b"v").expect("seals").starts_with(PREFIX));
        // A value is good only where it was stored, and only unchanged.
        assert_eq!(
            old.open("/secrets/ns/b", &sealed).expect_err("moved"),
            "no key called \"old\" decrypts /secrets/ns/b"
        );
        assert_eq!(&*both.open(key, b"{}").expect("plain from before"), b"{}");
        let plain = parse(&format!("[{{identity: {{}}}}, {{aesgcm: {{keys: [{OLD}]}}}}]")).expect("decrypting");
        assert!(!plain.is_current(key, &sealed) && plain.seal(key, b"v").expect("plain").starts_with(b"v"));
    }

    #[test]
    fn a_file_is_made_once_and_mistakes_are_named() {
        let dir = tempfile::tempdir().expect("temp dir");
        let first = Encryption::open(dir.path()).expect("makes keys");
        let sealed = first.seal("/secrets/a", b"x").expect("seals").into_owned();
        let again = Encryption::open(dir.path()).expect("reads them");
        assert_eq!(&*again.open("/secrets/a", &sealed).expect("the same key"), b"x");
        let why = |providers: &str| parse(providers).err().unwrap_or_default();
        assert_eq!(
            why("[{aesgcm: {keys: [{name: a, secret: YQ==}]}}]"),
            "key a: the secret must be 32 bytes, base64-encoded"
        );
        assert_eq!(why("[{}]"), "each provider must be one of aesgcm and identity; others are not supported");
    }
}
