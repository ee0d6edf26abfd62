//! Users that a front proxy vouches for (`apiserver/pkg/authentication/request/headerrequest`): another server of the cluster, or
//! an aggregator before this one. Believed only over a connection that shows a certificate of the front-proxy CA.

use super::{AuthError, Authenticator, Peer, PeerIdentity, UserInfo};
use async_trait::async_trait;
use http::HeaderMap;
use x509_parser::prelude::{FromDer, X509Certificate};

const EXTRA: &str = "x-remote-extra-";

/// See the file's head.
pub struct RequestHeaders {
    /// Common names that may vouch; empty = every one.
    pub allowed_names: Vec<String>,
}

#[async_trait]
impl Authenticator for RequestHeaders {
    async fn authenticate(&self, head: &http::request::Parts, peer: &Peer) -> Result<Option<UserInfo>, AuthError> {
        let PeerIdentity::FrontProxy(chain) = &peer.identity else { return Ok(None) };
        let Some(leaf) = chain.first() else { return Ok(None) };
        let (_, cert) = X509Certificate::from_der(leaf)
            .map_err(|e| AuthError(format!("the client certificate is malformed: {e}")))?;
        let name = cert.subject().iter_common_name().find_map(|a| a.as_str().ok()).unwrap_or_default();
        if !self.allowed_names.is_empty() && !self.allowed_names.iter().any(|n| n == name) {
            return Err(AuthError(format!("x509: subject with cn={name} is not in the allowed list")));
        }
        // Without a user it is a client with a certificate that no client CA signed.
        user_of(&head.headers)
            .map(Some)
            .ok_or_else(|| AuthError("x509: certificate signed by unknown authority".into()))
    }
}

fn user_of(headers: &HeaderMap) -> Option<UserInfo> {
    let all = |name: &str| headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned);
    let name = all("x-remote-user").find(|n| !n.is_empty())?;
    let uid = all("x-remote-uid").find(|n| !n.is_empty()).unwrap_or_default();
    let mut user = UserInfo { name, uid, groups: all("x-remote-group").collect(), ..UserInfo::default() };
    for (header, value) in headers {
        if let (Some(key), Ok(value)) = (header.as_str().strip_prefix(EXTRA), value.to_str()) {
            let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().to_lowercase();
            user.extra.entry(key).or_default().push(value.to_owned());
        }
    }
    Some(user)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls_pki_types::CertificateDer;

    async fn check(identity: fn(Vec<CertificateDer<'static>>) -> PeerIdentity, headers: &str) -> String {
        let mut params = rcgen::CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name.push(rcgen::DnType::CommonName, "front-proxy-client");
        let key = rcgen::KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate").der().clone();
        let mut request = http::Request::new(());
        for line in headers.lines() {
            let (name, value) = line.split_once(": ").expect("name: value");
            let name: http::HeaderName = name.parse().expect("a name");
            request.headers_mut().append(name, value.parse().expect("a value"));
        }
        let peer = Peer { address: None, identity: identity(vec![cert]) };
        let authenticator = RequestHeaders { allowed_names: vec!["front-proxy-client".into()] };
        match authenticator.authenticate(&request.into_parts().0, &peer).await {
            Ok(Some(u)) => format!("{} {:?} {:?}", u.name, u.groups, u.extra),
            Ok(None) => "nobody".into(),
            Err(error) => error.0,
        }
    }

    #[tokio::test]
    async fn only_the_front_proxy_vouches() {
        let headers = "X-Remote-User: jane\nX-Remote-Group: a\nX-Remote-Group: b\nX-Remote-Extra-Foo%2fbar: x";
        assert_eq!(check(PeerIdentity::FrontProxy, headers).await, r#"jane ["a", "b"] {"foo/bar": ["x"]}"#);
        assert_eq!(check(|chain| PeerIdentity::Certificates(chain.into()), headers).await, "nobody");
        let unknown = "x509: certificate signed by unknown authority";
        assert_eq!(check(PeerIdentity::FrontProxy, "X-Remote-Group: system:masters").await, unknown);
    }
}
