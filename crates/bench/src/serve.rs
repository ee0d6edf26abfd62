//! The API server and its store alone, over TLS, for `bench api`: what a write costs without controllers, scheduler and agent that
//! react to it. Certificates are made for the run.

use crate::fail::{Fail, Result, io, refused};
use apiserver::auth::{Authenticators, ClientCertificates, Rbac};
use apiserver::{ApiServer, Deps, Reader, ServiceNetwork, Tls, TlsMaterial, serve};
use base::{SystemClock, SystemRandom};
use base64::Engine;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::json;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Serves until SIGTERM or interrupt. Writes `DIR/kubeconfig`, then says `ready` on standard output.
pub(crate) async fn run(dir: &Path) -> Result<()> {
    let opened = store::DiskStore::open(&dir.join("store"), store::Options::default());
    let store = Arc::new(opened.map_err(refused("open the store"))?);
    let reader = Reader::new(store.clone());
    let rbac = Rbac::start(&reader).await.map_err(refused("start RBAC"))?;
    let random = Arc::new(SystemRandom);
    let deps = Deps {
        store,
        authenticator: Arc::new(Authenticators(vec![Arc::new(ClientCertificates)])),
        authorizer: rbac,
        admission: apiserver::admission::default_plugins(random.clone()),
        token_issuer: None,
        services: ServiceNetwork::default(),
        node_client: None,
        audit: None,
        clock: SystemClock::shared(),
        random,
    };
    let started = ApiServer::new(deps).await;
    let api = started.map_err(|e| Fail::Refused { what: "start the API server".into(), why: e.message })?;
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(io("listen"))?;
    let address = listener.local_addr().map_err(io("listen"))?;
    let (material, kubeconfig) = certificates(&format!("https://{address}"))?;
    let tls = Tls::new(material).map_err(refused("use the certificate"))?;
    std::fs::write(dir.join("kubeconfig"), kubeconfig).map_err(io("write the kubeconfig"))?;
    let shutdown = CancellationToken::new();
    base::tasks::spawn("flow-control", api.clone().run_flow_control(shutdown.clone()));
    let server = base::tasks::spawn("api-listener", serve(api, listener, tls, shutdown.clone()));
    let mut out = std::io::stdout();
    writeln!(out, "ready").and_then(|()| out.flush()).map_err(io("say that it is ready"))?;
    use tokio::signal::unix::{SignalKind, signal};
    let mut term = signal(SignalKind::terminate()).map_err(io("wait for a signal"))?;
    tokio::select! {
        _ = term.recv() => {}
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(io("wait for a signal"))?,
    }
    shutdown.cancel();
    server.await.map_err(refused("end the server"))
}

/// A CA, a server certificate for 127.0.0.1, and a kubeconfig with a client certificate of `system:masters`.
fn certificates(url: &str) -> Result<(TlsMaterial, String)> {
    let failed = || refused::<rcgen::Error>("make certificates");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "bench-ca");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(failed())?).map_err(failed())?;
    let leaf = |name: &str, group: Option<&str>, usage: ExtendedKeyUsagePurpose| -> Result<(String, String)> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.subject_alt_names = vec![SanType::IpAddress(IpAddr::from(Ipv4Addr::LOCALHOST))];
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(failed())?;
        let cert = params.signed_by(&key, &ca).map_err(failed())?;
        Ok((cert.pem(), key.serialize_pem()))
    };
    let (cert, key) = leaf("bench", None, ExtendedKeyUsagePurpose::ServerAuth)?;
    let bad = || refused::<rustls_pki_types::pem::Error>("read a certificate of ours");
    let certs = |pem: &str| CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<std::result::Result<Vec<_>, _>>();
    let material = TlsMaterial {
        chain: certs(&cert).map_err(bad())?,
        key: PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(bad())?,
        client_ca: certs(&ca.pem()).map_err(bad())?,
        front_proxy_ca: Vec::new(),
    };
    let (cert, key) = leaf("bench-admin", Some("system:masters"), ExtendedKeyUsagePurpose::ClientAuth)?;
    let encode = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "bench",
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
        "clusters": [{"name": "bench", "cluster": {"server": url, "certificate-authority-data": encode(&ca.pem())}}],
        "users": [{"name": "bench", "user": {"client-certificate-data": encode(&cert), "client-key-data": encode(&key)}}],
    });
    Ok((material, kubeconfig.to_string()))
}
