//! [`Given`]: how to reach a server that is not dhow's, from a kubeconfig: kubeadm's `bootstrap-kubelet.conf` with a token, or one
//! with a certificate of this node (`k8s.io/client-go/tools/clientcmd/api/v1/types.go`).

use crate::bootstrap::pki::KeyCert;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What a kubeconfig says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) server: String,
    pub(super) ca_pem: String,
    pub(super) credentials: Credentials,
}

/// Who we are to that server.
#[derive(PartialEq, Eq)]
pub(super) enum Credentials {
    /// Good for asking for a certificate.
    Token(String),
    /// This node's.
    Certificate(KeyCert),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Tokens and keys belong in no log.
        f.write_str(match self {
            Credentials::Token(_) => "Token",
            Credentials::Certificate(_) => "Certificate",
        })
    }
}

/// A kubeconfig is of no use.
#[derive(Debug, Error)]
#[error("{} is not a kubeconfig that a node can join with: {why}", path.display())]
pub(crate) struct GivenError {
    path: PathBuf,
    why: String,
}

impl Given {
    /// Reads a kubeconfig and the files that it names.
    pub(super) fn read(path: &Path) -> Result<Self, GivenError> {
        let failed = |why: String| GivenError { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|e| failed(e.to_string()))?;
        let config: Value = serde_saphyr::from_str(&text).map_err(|e| failed(e.to_string()))?;
        let beside = path.parent().unwrap_or(Path::new("/"));
        Given::of(&config, |name| std::fs::read_to_string(beside.join(name)).map_err(|e| format!("{name}: {e}")))
            .map_err(failed)
    }

    /// The entries of the current context. Files are read by their names.
    fn of(config: &Value, read: impl Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let named = |list: &str, name: &Value, entry: &str| -> Result<Value, String> {
            let found = config[list].as_array().into_iter().flatten().find(|item| &item["name"] == name);
            found.map(|item| item[entry].clone()).ok_or_else(|| format!("{list} has no {name}"))
        };
        let context = named("contexts", &config["current-context"], "context")?;
        let (cluster, user) =
            (named("clusters", &context["cluster"], "cluster")?, named("users", &context["user"], "user")?);
        // `name-data` is the content in base64, `name` a file; the content wins.
        let content = |entry: &Value, name: &str| -> Result<Option<String>, String> {
            if let Some(data) = entry[format!("{name}-data")].as_str() {
                let bytes = STANDARD.decode(data).map_err(|e| format!("{name}-data: {e}"))?;
                return String::from_utf8(bytes).map(Some).map_err(|e| format!("{name}-data: {e}"));
            }
            entry[name].as_str().map(&read).transpose()
        };
        let token = match (user["token"].as_str(), user["tokenFile"].as_str()) {
            (Some(token), _) => Some(token.to_owned()),
            (None, Some(file)) => Some(read(file)?.trim().to_owned()),
            (None, None) => None,
        };
        let pair = (content(&user, "client-certificate")?, content(&user, "client-key")?);
        let credentials = match (pair, token) {
            ((Some(cert_pem), Some(key_pem)), _) => Credentials::Certificate(KeyCert { cert_pem, key_pem }),
            (_, Some(token)) => Credentials::Token(token),
            _ => return Err("its user has neither a token nor a client certificate with its key".into()),
        };
        Ok(Given {
            server: cluster["server"].as_str().ok_or("its cluster has no server")?.to_owned(),
            ca_pem: content(&cluster, "certificate-authority")?.ok_or("its cluster has no certificate authority")?,
            credentials,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn config(user: Value) -> Value {
        json!({
            "clusters": [
                {"name": "other", "cluster": {"server": "https://nowhere"}},
                {"name": "c", "cluster": {"server": "https://10.0.0.1:6443", "certificate-authority-data": "Q0E="}},
            ],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        })
    }

    fn credentials(user: Value) -> Result<Credentials, String> {
        let given = Given::of(&config(user), |name| Ok(format!("<{name}>")))?;
        assert_eq!((given.server.as_str(), given.ca_pem.as_str()), ("https://10.0.0.1:6443", "CA"));
        Ok(given.credentials)
    }

    #[test]
    fn tokens_and_certificates_in_the_file_or_beside_it() {
        let pair =
            |cert: &str, key: &str| Credentials::Certificate(KeyCert { cert_pem: cert.into(), key_pem: key.into() });
        let inline = json!({"client-certificate-data": "Qw==", "client-key-data": "Sw==", "token": "t"});
        assert_eq!(credentials(inline), Ok(pair("C", "K")));
        let files = json!({"client-certificate": "c.crt", "client-key": "c.key"});
        assert_eq!(credentials(files), Ok(pair("<c.crt>", "<c.key>")));
        assert_eq!(credentials(json!({"token": "a.b"})), Ok(Credentials::Token("a.b".into())));
        assert_eq!(credentials(json!({"tokenFile": "t"})), Ok(Credentials::Token("<t>".into())));
    }

    #[test]
    fn what_is_missing_is_named() {
        assert!(credentials(json!({"client-certificate": "c"})).expect_err("no key").contains("neither"));
        let mut config = config(json!({"token": "t"}));
        config["current-context"] = json!("y");
        let error = Given::of(&config, |_| Ok(String::new())).expect_err("no such context");
        assert_eq!(error, "contexts has no \"y\"");
    }
}
