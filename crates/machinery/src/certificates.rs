//! What a CertificateSigningRequest asks for, and whether Kubernetes' own signers give it
//! (`pkg/apis/certificates/helpers.go`, `pkg/controller/certificates/signer/signer.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

/// Signs client certificates for the API server.
pub const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";
/// Signs client certificates of nodes.
pub const NODE_CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs serving certificates of nodes.
pub const NODE_SERVING_SIGNER: &str = "kubernetes.io/kubelet-serving";

/// A PKCS #10 request, taken apart. Its signature was checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateRequest {
    /// The subject's last common name: the user.
    pub common_name: String,
    /// The subject's organizations: the groups.
    pub organizations: Vec<String>,
    /// Alternative names.
    pub dns_names: Vec<String>,
    /// Alternative names.
    pub ips: Vec<IpAddr>,
    /// Alternative names.
    pub emails: Vec<String>,
    /// Alternative names.
    pub uris: Vec<String>,
    /// The subject, DER.
    pub subject: Vec<u8>,
    /// The SubjectPublicKeyInfo, DER.
    pub public_key: Vec<u8>,
}

/// What is wrong with certificates in PEM (`validateCertificate` in `pkg/apis/certificates/validation/validation.go`).
pub fn check_chain(pem: &[u8]) -> Result<(), String> {
    let mut blocks = 0;
    for block in x509_parser::pem::Pem::iter_from_buffer(pem) {
        // What is no block is passed over.
        let Ok(block) = block else { break };
        if block.label != "CERTIFICATE" {
            return Err(format!("only CERTIFICATE PEM blocks are allowed, found {:?}", block.label));
        }
        x509_parser::certificate::X509Certificate::from_der(&block.contents).map_err(|e| format!("x509: {e}"))?;
        blocks += 1;
    }
    if blocks == 0 { Err("must contain at least one CERTIFICATE PEM block".to_owned()) } else { Ok(()) }
}

impl CertificateRequest {
    /// Reads PEM. Errors are in words for the user.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        const WRONG: &str = "PEM block type must be CERTIFICATE REQUEST";
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem).map_err(|_| WRONG.to_owned())?;
        if pem.label != "CERTIFICATE REQUEST" {
            return Err(WRONG.into());
        }
        let (rest, request) = X509CertificationRequest::from_der(&pem.contents).map_err(|e| format!("asn1: {e}"))?;
        if !rest.is_empty() {
            return Err("asn1: syntax error: trailing data".into());
        }
        request.verify_signature().map_err(|_| "x509: the signature of the request does not match".to_owned())?;
        let info = &request.certification_request_info;
        let text = |values: Vec<Result<&str, _>>| -> Vec<String> {
            values
                .into_iter()
                .filter_map(|v: Result<&str, x509_parser::error::X509Error>| v.ok())
                .map(str::to_owned)
                .collect()
        };
        let names = text(info.subject.iter_common_name().map(|a| a.as_str()).collect());
        let mut found = CertificateRequest {
            common_name: names.last().cloned().unwrap_or_default(),
            organizations: text(info.subject.iter_organization().map(|a| a.as_str()).collect()),
            subject: info.subject.as_raw().to_vec(),
            public_key: info.subject_pki.raw.to_vec(),
            ..CertificateRequest::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => found.dns_names.push((*name).to_owned()),
                    GeneralName::RFC822Name(name) => found.emails.push((*name).to_owned()),
                    GeneralName::URI(name) => found.uris.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => found.ips.push(ip(bytes).ok_or("x509: cannot parse IP address")?),
                    // Not carried over, as upstream.
                    _ => {}
                }
            }
        }
        Ok(found)
    }

    /// Whether a signer of Kubernetes gives this for `usages`; why not (`getCSRVerificationFuncForSignerName`).
    pub fn check(&self, signer: &str, usages: &[String]) -> Result<(), String> {
        match signer {
            NODE_SERVING_SIGNER => self.check_node_serving(usages),
            NODE_CLIENT_SIGNER => self.check_node_client(usages),
            _ => check_client(usages),
        }
    }

    /// `ValidateKubeletServingCSR`
    fn check_node_serving(&self, usages: &[String]) -> Result<(), String> {
        let refuse = |why: &str| Err(why.to_owned());
        match self {
            r if r.organizations != ["system:nodes"] => refuse("subject organization is not system:nodes"),
            r if r.dns_names.is_empty() && r.ips.is_empty() => refuse("DNS or IP subjectAltName is required"),
            r if !r.emails.is_empty() => refuse("Email subjectAltNames are not allowed"),
            r if !r.uris.is_empty() => refuse("URI subjectAltNames are not allowed"),
            _ if !is_usage(usages, "server auth") => {
                refuse("usages did not match [digital signature key encipherment server auth]")
            }
            r if !r.is_of_node() => refuse("subject common name does not begin with system:node:"),
            _ => Ok(()),
        }
    }

    /// `ValidateKubeletClientCSR`
    fn check_node_client(&self, usages: &[String]) -> Result<(), String> {
        let refuse = |why: &str| Err(why.to_owned());
        match self {
            r if r.organizations != ["system:nodes"] => refuse("subject organization is not system:nodes"),
            r if !r.dns_names.is_empty() => refuse("DNS subjectAltNames are not allowed"),
            r if !r.emails.is_empty() => refuse("Email subjectAltNames are not allowed"),
            r if !r.ips.is_empty() => refuse("IP subjectAltNames are not allowed"),
            r if !r.uris.is_empty() => refuse("URI subjectAltNames are not allowed"),
            r if !r.is_of_node() => refuse("subject common name does not begin with system:node:"),
            _ if !is_usage(usages, "client auth") => {
                refuse("usages did not match [client auth digital signature key encipherment]")
            }
            _ => Ok(()),
        }
    }

    fn is_of_node(&self) -> bool {
        self.common_name.starts_with("system:node:")
    }
}

/// Digital signature and this one; key encipherment if somebody still uses RSA.
fn is_usage(usages: &[String], wanted: &str) -> bool {
    let given: BTreeSet<&str> = usages.iter().map(String::as_str).filter(|u| *u != "key encipherment").collect();
    given == BTreeSet::from(["digital signature", wanted])
}

/// `validAPIServerClientUsages`
fn check_client(usages: &[String]) -> Result<(), String> {
    let optional = ["digital signature", "key encipherment"];
    if let Some(wrong) = usages.iter().find(|u| *u != "client auth" && !optional.contains(&u.as_str())) {
        return Err(format!("invalid usage for client certificate: {wrong}"));
    }
    if usages.iter().any(|u| u == "client auth") {
        return Ok(());
    }
    Err("missing required usage for client certificate: client auth".into())
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usages(list: &[&str]) -> Vec<String> {
        list.iter().map(|u| (*u).to_owned()).collect()
    }

    #[test]
    fn only_nodes_get_certificates_of_nodes() {
        let node = CertificateRequest {
            common_name: "system:node:a".into(),
            organizations: vec!["system:nodes".into()],
            ..CertificateRequest::default()
        };
        let client = usages(&["digital signature", "client auth"]);
        assert_eq!(node.check(NODE_CLIENT_SIGNER, &client), Ok(()));
        let why = node.check(NODE_CLIENT_SIGNER, &usages(&["client auth"])).expect_err("too few usages");
        assert_eq!(why, "usages did not match [client auth digital signature key encipherment]");
        let other = CertificateRequest { common_name: "admin".into(), ..node.clone() };
        let why = other.check(NODE_CLIENT_SIGNER, &client).expect_err("no node");
        assert_eq!(why, "subject common name does not begin with system:node:");
        let serving = usages(&["digital signature", "server auth", "key encipherment"]);
        let why = node.check(NODE_SERVING_SIGNER, &serving).expect_err("no address");
        assert_eq!(why, "DNS or IP subjectAltName is required");
        let serves = CertificateRequest { ips: vec![IpAddr::from([10, 0, 0, 1])], ..node };
        assert_eq!(serves.check(NODE_SERVING_SIGNER, &serving), Ok(()));
    }

    #[test]
    fn clients_get_client_certificates_only() {
        let anybody = CertificateRequest::default();
        assert_eq!(anybody.check(CLIENT_SIGNER, &usages(&["client auth"])), Ok(()));
        let why = anybody.check(CLIENT_SIGNER, &usages(&["client auth", "server auth"])).expect_err("a server");
        assert_eq!(why, "invalid usage for client certificate: server auth");
    }
}
