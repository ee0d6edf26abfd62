//! Servers behind Services, as this server reaches them: their ready endpoints, and TLS towards them.
//!
//! Differs from upstream's default (`apiserver/pkg/util/proxy/proxy.go`, `ResolveCluster`): connections go to a ready endpoint,
//! as with `--enable-aggregator-routing`. That works whether or not this host has the Service rules, and needs one lookup.

use crate::reader::{Reader, Stored};
use crate::status;
use crate::webhook_client::trust::Identity;
use api::Status;
use api::k8s::api::discovery::v1::EndpointSlice;
use api::prelude::Service;
use machinery::selector::Labels;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// The EndpointSlices of a Service.
pub(crate) async fn slices_of(reader: &Reader, namespace: &str, name: &str) -> Result<Vec<EndpointSlice>, Status> {
    let read = reader.stored_list("discovery.k8s.io/endpointslices", namespace).await;
    let (list, _) = read.map_err(status::from_store)?;
    let of_service = |s: &&Stored| s.header().labels.value("kubernetes.io/service-name").is_some_and(|n| n == name);
    list.iter().filter(of_service).map(|s| s.decode().map_err(status::internal)).collect()
}

/// Addresses that are ready at the port called `port` (unnamed = empty).
pub(crate) fn ready_endpoints(slices: &[EndpointSlice], port: &str) -> Vec<(String, u16)> {
    let mut found = Vec::new();
    for slice in slices {
        let named = slice.ports.iter().flatten().find(|p| p.name.as_deref().unwrap_or_default() == port);
        let Some(number) = named.and_then(|p| p.port).and_then(|p| u16::try_from(p).ok()) else { continue };
        let ready =
            slice.endpoints.iter().flatten().filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
        found.extend(ready.filter_map(|e| e.addresses.first()).map(|a| (a.clone(), number)));
    }
    found
}

/// Where the port `port` of a Service can be reached now; empty if nowhere.
pub(crate) async fn resolve(
    reader: &Reader,
    namespace: &str,
    name: &str,
    port: i32,
) -> Result<Vec<(String, u16)>, Status> {
    let service = reader.get::<Service>(namespace, name).await?;
    let service = service.ok_or_else(|| status::not_found_in("", "service", name))?;
    let spec = service.spec.unwrap_or_default();
    if spec.type_.as_deref() == Some("ExternalName") {
        let host = spec.external_name.unwrap_or_default();
        return Ok(u16::try_from(port).map(|port| vec![(host, port)]).unwrap_or_default());
    }
    let Some(found) = spec.ports.iter().flatten().find(|p| p.port == port) else {
        return Err(status::unavailable(format!("no service port {port} found for service {name:?}")));
    };
    let slices = slices_of(reader, namespace, name).await?;
    Ok(ready_endpoints(&slices, found.name.as_deref().unwrap_or_default()))
}

/// TLS that shows `identity` and trusts whoever answers.
pub(crate) fn trusting_anybody(identity: Option<Identity>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let anybody = Arc::new(Anybody(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(anybody);
    Ok(Arc::new(match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    }))
}

/// Believes every certificate; the other side must still hold its key.
#[derive(Debug)]
struct Anybody(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _chain: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
