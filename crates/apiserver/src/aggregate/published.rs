//! The ConfigMap that tells aggregated servers whom to believe
//! (`pkg/controlplane/controller/clusterauthenticationtrust`). What others put there stays: several servers may have several CAs.

use super::{FrontProxy, kind_of};
use crate::admission::Cluster;
use crate::api_server::ApiServer;
use api::prelude::{ConfigMap, ObjectMeta};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};

pub(super) const NAMESPACE: &str = "kube-system";
pub(super) const NAME: &str = "extension-apiserver-authentication";

/// The one name that may act as a front proxy (`--requestheader-allowed-names` of kubeadm).
pub const FRONT_PROXY: &str = "front-proxy-client";

const LISTS: [(&str, &str); 5] = [
    ("requestheader-allowed-names", FRONT_PROXY),
    ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
    ("requestheader-group-headers", "X-Remote-Group"),
    ("requestheader-uid-headers", "X-Remote-Uid"),
    ("requestheader-username-headers", "X-Remote-User"),
];

/// Writes it if it is not as it should be; false if that failed.
pub(super) async fn ensure(server: &ApiServer, proxy: Option<&FrontProxy>) -> bool {
    let Some(proxy) = proxy else { return true };
    let Ok(current) = server.reader().get::<ConfigMap>(NAMESPACE, NAME).await else { return false };
    let Some(kind) = kind_of::<ConfigMap>(server) else { return false };
    let old = current.as_ref().and_then(|c| c.data.clone()).unwrap_or_default();
    let data = wanted(&old, proxy, server.clock_now());
    if current.is_some() && data == old {
        return true;
    }
    let done = match current {
        Some(mut object) => {
            object.data = Some(data);
            server.update(&kind, "", Box::new(object)).await
        }
        None => {
            let metadata = ObjectMeta { name: Some(NAME.into()), ..ObjectMeta::default() };
            let object = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
            server.create(&kind, NAMESPACE, Box::new(object)).await
        }
    };
    done.map_err(|failure| tracing::debug!(error = failure.message, "failed to publish {NAME}")).is_ok()
}

fn wanted(old: &BTreeMap<String, String>, proxy: &FrontProxy, now: jiff::Timestamp) -> BTreeMap<String, String> {
    let mut data = BTreeMap::new();
    let text = |key: &str| old.get(key).map(String::as_str).unwrap_or_default();
    for (key, pem) in [("client-ca-file", &proxy.client_ca_pem), ("requestheader-client-ca-file", &proxy.ca_pem)] {
        data.insert(key.to_owned(), together(text(key), pem, now));
    }
    for (key, ours) in LISTS {
        let mut list: Vec<String> = serde_json::from_str(text(key)).unwrap_or_default();
        if !list.iter().any(|item| item == ours) {
            list.push(ours.to_owned());
        }
        data.insert(key.to_owned(), serde_json::Value::from(list).to_string());
    }
    data
}

/// Both bundles without repetitions and without certificates that have expired (`combineCertLists`).
fn together(old: &str, ours: &str, now: jiff::Timestamp) -> String {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut out = String::new();
    let certificates = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).flatten().collect::<Vec<_>>();
    for cert in certificates(old).into_iter().chain(certificates(ours)) {
        let valid =
            X509Certificate::from_der(&cert).is_ok_and(|(_, c)| c.validity().not_after.timestamp() > now.as_second());
        if valid && !seen.iter().any(|s| s[..] == cert[..]) {
            out.push_str(&pem_of(&cert));
            seen.push(cert.to_vec());
        }
    }
    out
}

fn pem_of(der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        out.push_str(&String::from_utf8_lossy(line));
        out.push('\n');
    }
    out + "-----END CERTIFICATE-----\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_put_there_stays_and_repetition_does_not() {
        let make = || rcgen::generate_simple_self_signed(vec!["x".into()]).expect("a certificate").cert.pem();
        let (theirs, ours) = (make(), make());
        let proxy = FrontProxy {
            client_ca_pem: ours.clone(),
            ca_pem: ours.clone(),
            chain: Vec::new(),
            key: rustls_pki_types::PrivateKeyDer::Pkcs8(Vec::new().into()),
        };
        let old = BTreeMap::from([
            ("client-ca-file".to_owned(), theirs.clone()),
            ("requestheader-allowed-names".to_owned(), r#"["other"]"#.to_owned()),
        ]);
        let now = jiff::Timestamp::from_second(1_800_000_000).expect("a time");
        let data = wanted(&old, &proxy, now);
        assert_eq!(data["client-ca-file"].matches("BEGIN").count(), 2);
        assert_eq!(data["requestheader-allowed-names"], r#"["other","front-proxy-client"]"#);
        assert_eq!(data["requestheader-username-headers"], r#"["X-Remote-User"]"#);
        assert_eq!(wanted(&data, &proxy, now), data, "settles at once");
    }
}
