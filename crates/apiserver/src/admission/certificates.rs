//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction (`plugin/pkg/admission/certificates`): who may
//! decide about a request of which signer, and that nobody becomes a master by certificate.

use super::{Admission, Operation, Request};
use crate::auth::{Attributes, MASTERS};
use api::Status;
use api::k8s::api::certificates::v1::CertificateSigningRequest;
use async_trait::async_trait;
use machinery::certificates::{CLIENT_SIGNER, CertificateRequest};
use machinery::kinds::KindInfo;

fn is_request(kind: &KindInfo) -> bool {
    kind.group == "certificates.k8s.io" && kind.kind == "CertificateSigningRequest"
}

/// For this signer, or for all of its domain (`certauthorization.IsAuthorizedForSignerName`).
async fn may(request: &Request<'_>, verb: &str, signer: &str) -> bool {
    let domain = format!("{}/*", signer.split('/').next().unwrap_or_default());
    let attributes = |name| Attributes {
        user: request.user,
        verb,
        group: "certificates.k8s.io",
        version: "*",
        resource: "signers",
        subresource: "",
        namespace: "",
        name,
        path: "",
        is_resource_request: true,
        field_selector: "",
        label_selector: "",
    };
    request.cluster.allowed(&attributes(signer)).await || request.cluster.allowed(&attributes(&domain)).await
}

/// See the file's head.
pub struct CertificateApproval;

#[async_trait]
impl Admission for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Update && is_request(kind) && subresource == "approval"
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        // The old one: whoever names another signer here must not win by it.
        let Some(old) = request.old_object_as::<CertificateSigningRequest>() else { return Ok(()) };
        let signer = &old.spec.signer_name;
        if may(request, "approve", signer).await {
            return Ok(());
        }
        Err(request.forbidden(&format!("user not permitted to approve requests with signerName {signer:?}")))
    }
}

/// See the file's head.
pub struct CertificateSigning;

#[async_trait]
impl Admission for CertificateSigning {
    fn name(&self) -> &'static str {
        "CertificateSigning"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Update && is_request(kind) && subresource == "status"
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let (Some(new), Some(old)) =
            (request.object_as::<CertificateSigningRequest>(), request.old_object_as::<CertificateSigningRequest>())
        else {
            return Ok(());
        };
        let what = |r: &CertificateSigningRequest| {
            let status = r.status.clone().unwrap_or_default();
            (status.certificate, status.conditions.unwrap_or_default())
        };
        let signer = &old.spec.signer_name;
        if what(new) == what(old) || may(request, "sign", signer).await {
            return Ok(());
        }
        Err(request.forbidden(&format!("user not permitted to sign requests with signerName {signer:?}")))
    }
}

/// See the file's head.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Admission for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create && is_request(kind) && subresource.is_empty()
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let Some(new) = request.object_as::<CertificateSigningRequest>() else { return Ok(()) };
        if new.spec.signer_name != CLIENT_SIGNER {
            return Ok(());
        }
        let asked = CertificateRequest::parse(&new.spec.request.0)
            .map_err(|why| request.forbidden(&format!("failed to parse CSR: {why}")))?;
        if asked.organizations.iter().any(|o| o == MASTERS) {
            let why = format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed");
            return Err(request.forbidden(&why));
        }
        Ok(())
    }
}
