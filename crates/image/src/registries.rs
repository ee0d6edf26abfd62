//! Which hosts stand for a registry, how they are reached, and who we are there. A table per registry, like
//! containerd's `hosts.toml`, in any format serde reads:
//!
//! ```yaml
//! docker.io:
//!   mirrors: [{ url: "https://mirror.local", ca: /etc/mirror.pem }, { url: "http://10.0.0.5:5000" }]
//! registry.local:5000: { insecure: true, credentials: { username: me, password: secret } }
//! ```
//!
//! Like Docker, registries on this machine (`localhost`, `127.0.0.0/8`, `::1`) are insecure without being named.

use crate::reference::DEFAULT_REGISTRY;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

/// By registry as written in references; `*` is for all that are not named.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Registries(pub BTreeMap<String, Registry>);

/// One registry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Registry {
    /// Asked first, in order, when pulling. Never pushed to.
    pub mirrors: Vec<Mirror>,
    /// Accept any certificate, and plain HTTP if there is no TLS.
    pub insecure: bool,
    /// PEM file of authorities trusted besides the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Who we are, unless a pull brings its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// A host that has copies of a registry's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Mirror {
    /// `https://host[:port][/prefix]` or `http://…`.
    pub url: String,
    /// Accept any certificate.
    #[serde(default)]
    pub insecure: bool,
    /// PEM file of authorities trusted besides the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca: Option<PathBuf>,
    /// Who we are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
}

/// Who we are. `Debug` does not show secrets.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// User name; ignored with an identity token.
    pub username: String,
    /// Password or token.
    #[serde(default)]
    pub password: String,
    /// An OAuth refresh token (`identitytoken` of a Docker configuration).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity_token: Option<String>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({:?}, …)", self.username)
    }
}

/// One place to send requests to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Without a slash at the end: `https://registry-1.docker.io`.
    pub(crate) base: String,
    pub(crate) tls: Tls,
    pub(crate) credentials: Option<Credentials>,
    /// A mirror is told which registry it stands for.
    pub(crate) mirror_of: Option<String>,
}

/// How a server proves who it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Tls {
    pub(crate) insecure: bool,
    pub(crate) ca: Option<PathBuf>,
}

impl Registries {
    /// Where content of `registry` may be, in the order to try.
    pub(crate) fn pull_endpoints(&self, registry: &str, credentials: Option<&Credentials>) -> Vec<Endpoint> {
        let mirrors = self.of(registry).into_iter().flat_map(|known| &known.mirrors).map(|mirror| Endpoint {
            base: mirror.url.trim_end_matches('/').to_owned(),
            tls: Tls { insecure: mirror.insecure, ca: mirror.ca.clone() },
            credentials: mirror.credentials.clone(),
            mirror_of: Some(registry.to_owned()),
        });
        mirrors.chain(self.push_endpoints(registry, credentials)).collect()
    }

    /// The registry itself: several only because TLS may be tried before plain HTTP.
    pub(crate) fn push_endpoints(&self, registry: &str, credentials: Option<&Credentials>) -> Vec<Endpoint> {
        let known = self.of(registry);
        let insecure = known.is_some_and(|known| known.insecure) || is_local(registry);
        let host = if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry };
        let at = |scheme: &str| Endpoint {
            base: format!("{scheme}://{host}"),
            tls: Tls { insecure, ca: known.and_then(|known| known.ca.clone()) },
            credentials: credentials.cloned().or_else(|| known.and_then(|known| known.credentials.clone())),
            mirror_of: None,
        };
        if insecure { vec![at("https"), at("http")] } else { vec![at("https")] }
    }

    fn of(&self, registry: &str) -> Option<&Registry> {
        self.0.get(registry).or_else(|| self.0.get("*"))
    }
}

fn is_local(registry: &str) -> bool {
    let host = match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => registry.split(':').next().unwrap_or_default(),
    };
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(registries: &Registries, registry: &str) -> Vec<String> {
        registries.pull_endpoints(registry, None).into_iter().map(|endpoint| endpoint.base).collect()
    }

    #[test]
    fn mirrors_come_first_and_local_hosts_may_be_plain() {
        let text = r#"{"docker.io":{"mirrors":[{"url":"http://m:5000/"}]},"r.local":{"insecure":true,"credentials":{"username":"u","password":"p"}}}"#;
        let registries: Registries = serde_json::from_str(text).unwrap();
        assert_eq!(bases(&registries, "docker.io"), ["http://m:5000", "https://registry-1.docker.io"]);
        assert_eq!(bases(&registries, "quay.io"), ["https://quay.io"]);
        assert_eq!(bases(&registries, "r.local"), ["https://r.local", "http://r.local"]);
        assert_eq!(bases(&registries, "127.0.0.1:5000"), ["https://127.0.0.1:5000", "http://127.0.0.1:5000"]);
        assert_eq!(bases(&registries, "[::1]:5000"), ["https://[::1]:5000", "http://[::1]:5000"]);
        let endpoint = &registries.push_endpoints("r.local", None)[0];
        assert_eq!(format!("{:?}", endpoint.credentials), r#"Some(Credentials("u", …))"#);
    }
}
