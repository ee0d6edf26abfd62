//! One certificate by way of a CertificateSigningRequest (`pkg/kubelet/certificate/bootstrap/bootstrap.go`).
//!
//! The key is on disk before its request is sent, and the request is named by the key: after a crash the same request is found again.

use crate::bootstrap::files::{self, FileError};
use crate::bootstrap::pki::{self, KeyCert, Leaf, PkiError};
use api::ObjectMeta;
use api::k8s::ByteString;
use api::k8s::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec, CertificateSigningRequestStatus,
};
use client::{Client, ClientError, ListParams};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// What kind of certificate.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    signer: &'static str,
    usage: &'static str,
}

/// By which the node is known to the API server.
pub(super) const CLIENT: Kind = Kind { signer: "kubernetes.io/kube-apiserver-client-kubelet", usage: "client auth" };
/// By which the node's own API is known.
pub(super) const SERVING: Kind = Kind { signer: "kubernetes.io/kubelet-serving", usage: "server auth" };

/// What is asked for; the signer may give less.
const LIFE_SECONDS: i32 = 90 * 24 * 3600;

/// There is no certificate.
#[derive(Debug, Error)]
pub(crate) enum RequestError {
    /// The key could not be kept.
    #[error(transparent)]
    File(#[from] FileError),
    /// The request could not be made.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// The server did not take it.
    #[error("failed to ask for a certificate")]
    Ask(#[source] ClientError),
    /// Somebody said no.
    #[error("the request {name} for a certificate was {how}: {why}")]
    Refused { name: String, how: String, why: String },
    /// The request is gone.
    #[error("the request {0} for a certificate disappeared")]
    Gone(String),
}

fn key_path(dir: &Path, leaf: &Leaf) -> PathBuf {
    dir.join(format!("{}.next.key", leaf.file))
}

/// Asks, and waits for the answer. Call [`done`] when the pair has been stored.
pub(super) async fn obtain(client: &Client, dir: &Path, leaf: &Leaf, kind: Kind) -> Result<KeyCert, RequestError> {
    let path = key_path(dir, leaf);
    let key_pem = match files::read(&path)?.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(key) if pki::key_digest(&key).is_ok() => key,
        _ => {
            let key = pki::new_key(&leaf.file)?;
            files::write(&path, key.as_bytes(), 0o600)?;
            key
        }
    };
    let name = format!("node-csr-{}", pki::key_digest(&key_pem)?);
    let request = CertificateSigningRequest {
        metadata: ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() },
        spec: CertificateSigningRequestSpec {
            request: ByteString(pki::signing_request(leaf, &key_pem)?.into_bytes()),
            signer_name: kind.signer.into(),
            usages: Some(vec!["digital signature".into(), kind.usage.into()]),
            expiration_seconds: Some(LIFE_SECONDS),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    };
    match client.api::<CertificateSigningRequest>().create(&request).await {
        Err(e) if e.is_already_exists() => {}
        created => drop(created.map_err(RequestError::Ask)?),
    }
    let answer = answer(client, &name).await;
    // A request that will never be answered is not asked again with the same key, that is: under the same name.
    if matches!(answer, Err(RequestError::Refused { .. })) {
        done(dir, leaf)?;
    }
    Ok(KeyCert { cert_pem: answer?, key_pem })
}

/// The key of the last request is in use, or of no use any more.
pub(super) fn done(dir: &Path, leaf: &Leaf) -> Result<(), FileError> {
    files::remove(&key_path(dir, leaf))
}

async fn answer(client: &Client, name: &str) -> Result<String, RequestError> {
    let params = ListParams::all().fields(&format!("metadata.name={name}"));
    let cache = client.cache_of::<CertificateSigningRequest>(params);
    let mut moves = cache.revisions();
    cache.synced().await;
    loop {
        let request = cache.get("", name).ok_or_else(|| RequestError::Gone(name.to_owned()))?;
        if let Some(verdict) = request.status.as_ref().and_then(|status| verdict(name, status)) {
            return verdict;
        }
        // The sender lives in `cache`.
        drop(moves.changed().await);
    }
}

fn verdict(name: &str, status: &CertificateSigningRequestStatus) -> Option<Result<String, RequestError>> {
    let refusal = status.conditions.iter().flatten().find(|c| matches!(c.type_.as_str(), "Denied" | "Failed"));
    if let Some(refusal) = refusal {
        let why = refusal.message.clone().or(refusal.reason.clone()).unwrap_or_default();
        let how = refusal.type_.to_lowercase();
        return Some(Err(RequestError::Refused { name: name.to_owned(), how, why }));
    }
    let pem = String::from_utf8(status.certificate.clone()?.0).ok()?;
    (!pem.is_empty()).then_some(Ok(pem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;

    fn check(status: &str, expected: Option<&str>) {
        let json = format!(r#"{{"metadata":{{"name":"r"}},"spec":{{}},"status":{status}}}"#);
        let request = CertificateSigningRequest::decode(json.as_bytes()).expect("a literal request");
        let found = verdict("r", &request.status.unwrap_or_default());
        let text = found.map(|v| v.unwrap_or_else(|e| e.to_string()));
        assert_eq!(text.as_deref(), expected, "{status}");
    }

    #[test]
    fn a_request_is_open_until_it_is_signed_or_refused() {
        check("{}", None);
        check(r#"{"conditions":[{"type":"Approved","status":"True"}]}"#, None);
        check(r#"{"conditions":[{"type":"Approved","status":"True"}],"certificate":"UEVN"}"#, Some("PEM"));
        check(
            r#"{"conditions":[{"type":"Denied","status":"True","message":"not you"}]}"#,
            Some("the request r for a certificate was denied: not you"),
        );
    }
}
