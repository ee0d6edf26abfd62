//! Client certificates: common name = user, organizations = groups (`apiserver/pkg/authentication/request/x509`).
//!
//! TLS has already checked chain, validity and key usage against the client CA.

use super::{AuthError, Authenticator, ClientChain, Peer, PeerIdentity, UserInfo};
use async_trait::async_trait;
use x509_parser::prelude::{FromDer, X509Certificate};

/// See the file's head.
pub struct ClientCertificates;

#[async_trait]
impl Authenticator for ClientCertificates {
    async fn authenticate(&self, _head: &http::request::Parts, peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        let PeerIdentity::Certificates(chain) = &peer.identity else { return Ok(None) };
        let Some(leaf) = &chain.leaf else { return Ok(None) };
        chain.user.get_or_init(|| user_of(leaf)).clone().map_err(AuthError)
    }
}

impl ClientChain {
    /// When the certificate ends, in seconds.
    pub(crate) fn expires(&self) -> Option<i64> {
        let (_, cert) = X509Certificate::from_der(self.leaf.as_ref()?).ok()?;
        Some(cert.validity().not_after.timestamp())
    }
}

fn user_of(leaf: &[u8]) -> Result<Option<UserInfo>, String> {
    let (_, cert) = X509Certificate::from_der(leaf).map_err(|e| format!("the client certificate is malformed: {e}"))?;
    let name = cert.subject().iter_common_name().find_map(|a| a.as_str().ok()).unwrap_or_default();
    if name.is_empty() {
        return Ok(None);
    }
    let groups: Vec<&str> = cert.subject().iter_organization().filter_map(|a| a.as_str().ok()).collect();
    Ok(Some(UserInfo::new(name, &groups)))
}
