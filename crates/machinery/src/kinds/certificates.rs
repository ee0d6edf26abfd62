//! CertificateSigningRequest (`pkg/registry/certificates/certificates/strategy.go`,
//! `pkg/apis/certificates/validation/validation.go`).
//!
//! Who asks (`spec.username` and so on) is cleared here and filled by the API server from the request's user, after
//! [`Strategy::prepare_create`]. A condition without `lastTransitionTime` gets its `lastUpdateTime`, as strategies know no clock.

use super::common::{age, age_column, column, human_duration, name, name_column, str_of};
use super::{Column, Strategy};
use crate::certificates::CertificateRequest;
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, is_dns1123_label, is_dns1123_subdomain, is_path_segment_name, one_of, required};
use api::k8s::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestSpec,
    CertificateSigningRequestStatus,
};
use serde_json::{Value, json};

/// What is particular about a request for a certificate: it stays, but for its status and approval.
pub(super) struct CertificateSigningRequestKind;

impl Strategy for CertificateSigningRequestKind {
    type Object = CertificateSigningRequest;

    fn prepare_create(request: &mut CertificateSigningRequest) {
        let spec = &mut request.spec;
        (spec.username, spec.uid, spec.groups, spec.extra) = (None, None, None, None);
        request.status = Some(CertificateSigningRequestStatus::default());
    }

    fn prepare_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
        for ty in DECISIONS {
            keep_conditions(new, old, ty);
        }
        fill_times(new, old);
    }

    fn prepare_subresource_update(name: &str, new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
        if name == "approval" {
            fill_times(new, old);
            let conditions = new.status.take().and_then(|s| s.conditions);
            let certificate = old.status.as_ref().and_then(|s| s.certificate.clone());
            new.status = Some(CertificateSigningRequestStatus { certificate, conditions });
        } else {
            new.status = old.status.clone();
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(request: &CertificateSigningRequest) -> Errors {
        let mut errors = validate_spec(&request.spec, &Path::new("spec"));
        errors.extend(validate_conditions(conditions(request), &Path::new("status").child("conditions")));
        errors
    }

    fn validate_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Errors {
        validate_change(new, old, Allowed { decisions: false, certificate: false })
    }

    fn validate_status_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Errors {
        let mut errors = Self::validate(new);
        errors.extend(validate_change(new, old, Allowed { decisions: false, certificate: true }));
        errors
    }

    fn validate_subresource_update(
        _name: &str,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> Errors {
        let mut errors = Self::validate(new);
        errors.extend(validate_change(new, old, Allowed { decisions: true, certificate: false }));
        errors
    }

    const SELECTABLE: &'static [&'static str] = &["spec.signerName"];

    fn selectable_fields(request: &CertificateSigningRequest) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", request.spec.signer_name.clone())]
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            age_column(),
            column("SignerName"),
            column("Requestor"),
            column("RequestedDuration"),
            column("Condition"),
        ]
    }

    fn cells(request: &CertificateSigningRequest, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &request.spec;
        let asked = spec.expiration_seconds.map(|s| human_duration(jiff::SignedDuration::from_secs(s.into())));
        vec![
            name(request),
            age(request, now),
            super::common::or_none(spec.signer_name.clone()).into(),
            str_of(&spec.username).into(),
            asked.unwrap_or_else(|| "<none>".to_owned()).into(),
            state(request).into(),
        ]
    }
}

/// Conditions that only the `approval` path sets.
const DECISIONS: [&str; 2] = ["Approved", "Denied"];

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn of_type<'a>(request: &'a CertificateSigningRequest, ty: &str) -> Vec<&'a CertificateSigningRequestCondition> {
    conditions(request).iter().filter(|c| c.type_ == ty).collect()
}

fn state(request: &CertificateSigningRequest) -> String {
    let has = |ty: &str| conditions(request).iter().any(|c| c.type_ == ty);
    let decision = match () {
        () if has("Denied") => "Denied",
        () if has("Approved") => "Approved",
        () => "Pending",
    };
    let failed = if has("Failed") { ",Failed" } else { "" };
    let issued = request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty());
    format!("{decision}{failed}{}", if issued { ",Issued" } else { "" })
}

/// Puts the old conditions of this type in the place of the new, if there are as many.
fn keep_conditions(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest, ty: &str) {
    let kept: Vec<_> = of_type(old, ty).into_iter().cloned().collect();
    if kept.len() != of_type(new, ty).len() {
        return;
    }
    let conditions = new.status.iter_mut().filter_map(|s| s.conditions.as_mut()).flatten();
    for (condition, old) in conditions.filter(|c| c.type_ == ty).zip(kept) {
        *condition = old;
    }
}

fn fill_times(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
    for condition in new.status.iter_mut().filter_map(|s| s.conditions.as_mut()).flatten() {
        if condition.last_transition_time.is_none() {
            let before = conditions(old).iter().find(|c| {
                c.type_ == condition.type_ && c.status == condition.status && c.last_transition_time.is_some()
            });
            let since = before.and_then(|c| c.last_transition_time.clone());
            condition.last_transition_time = since.or_else(|| condition.last_update_time.clone());
        }
    }
}

// === validation ===

const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];

fn validate_spec(spec: &CertificateSigningRequestSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Err(detail) = CertificateRequest::parse(&spec.request.0) {
        errors.push(FieldError::invalid(&path.child("request"), &json!(spec.request), &detail));
    }
    let usages = spec.usages.as_deref().unwrap_or_default();
    let usages_path = path.child("usages");
    if usages.is_empty() {
        errors.push(FieldError::required(&usages_path, ""));
    }
    for (i, usage) in usages.iter().enumerate() {
        one_of(&mut errors, &usages_path.index(i), usage, &USAGES);
    }
    for (i, usage) in usages.iter().enumerate().filter(|(i, u)| usages[..*i].contains(u)) {
        errors.push(FieldError::duplicate(&usages_path.index(i), usage));
    }
    let signer = spec.signer_name.as_str();
    if signer == "kubernetes.io/legacy-unknown" {
        let detail = "the legacy signerName is not allowed via this API version";
        errors.push(FieldError::invalid(&path.child("signerName"), signer, detail));
    } else {
        errors.extend(validate_signer(signer, &path.child("signerName")));
    }
    if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < 600) {
        let detail = "may not specify a duration less than 600 seconds (10 minutes)";
        errors.push(FieldError::invalid(&path.child("expirationSeconds"), seconds, detail));
    }
    errors
}

fn validate_signer(signer: &str, path: &Path) -> Errors {
    if signer.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut parts = signer.split('/');
    let (Some(domain), Some(name), None) = (parts.next(), parts.next(), parts.next()) else {
        let detail = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return vec![FieldError::invalid(path, signer, detail)];
    };
    // Upstream stops at the first bad label.
    let first_wrong = |text: &str, check: fn(&str) -> Messages| -> Errors {
        let wrong = text.split('.').map(|label| (label, check(label))).find(|(_, messages)| !messages.is_empty());
        let Some((label, messages)) = wrong else { return Vec::new() };
        let detail = |m: &String| format!("validating label {label:?}: {m}");
        messages.iter().map(|m| FieldError::invalid(path, text, &detail(m))).collect()
    };
    let mut errors = Vec::new();
    if domain.len() > 253 {
        errors.push(FieldError::too_long(path, 253));
    }
    errors.extend(first_wrong(domain, is_dns1123_label));
    if !domain.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        errors.push(FieldError::invalid(path, domain, detail));
    }
    errors.extend(first_wrong(name, is_dns1123_subdomain));
    errors
}

fn validate_conditions(conditions: &[CertificateSigningRequestCondition], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, condition) in conditions.iter().enumerate() {
        let ty = condition.type_.as_str();
        let at = path.index(i);
        required(&mut errors, &at.child("type"), ty);
        let only_true = ["Approved", "Denied", "Failed"].contains(&ty);
        let statuses: &[&str] = if only_true { &["True"] } else { &["False", "True", "Unknown"] };
        if condition.status.is_empty() {
            errors.push(FieldError::required(&at.child("status"), ""));
        } else {
            one_of(&mut errors, &at.child("status"), &condition.status, statuses);
        }
        let opposite = match ty {
            "Approved" => "Denied",
            "Denied" => "Approved",
            _ => "",
        };
        let before = &conditions[..i];
        if !opposite.is_empty() && before.iter().any(|c| c.type_ == opposite) {
            let detail = "Approved and Denied conditions are mutually exclusive";
            errors.push(FieldError::invalid(path, ty, detail));
        }
        if before.iter().any(|c| c.type_ == ty) {
            errors.push(FieldError::duplicate(&at.child("type"), ty));
        }
    }
    errors
}

/// What a path may set.
struct Allowed {
    decisions: bool,
    certificate: bool,
}

fn validate_change(new: &CertificateSigningRequest, old: &CertificateSigningRequest, allowed: Allowed) -> Errors {
    let path = Path::new("status");
    let mut errors = Vec::new();
    let mut refuse = |what: String| errors.push(FieldError::forbidden(&path.child("conditions"), &what));
    for ty in ["Approved", "Denied", "Failed"] {
        if of_type(new, ty).len() < of_type(old, ty).len() {
            refuse(format!("updates may not remove a condition of type {ty:?}"));
        }
    }
    for ty in DECISIONS.iter().filter(|_| !allowed.decisions) {
        let (new, old) = (of_type(new, ty), of_type(old, ty));
        if new.len() > old.len() {
            refuse(format!("updates may not add a condition of type {ty:?}"));
        } else if new.len() == old.len() && new != old {
            refuse(format!("updates may not modify a condition of type {ty:?}"));
        }
    }
    let certificate = |request: &CertificateSigningRequest| {
        request.status.as_ref().and_then(|s| s.certificate.clone()).map(|c| c.0).unwrap_or_default()
    };
    if certificate(new) != certificate(old) {
        let path = path.child("certificate");
        if !allowed.certificate {
            errors.push(FieldError::forbidden(&path, "updates may not set certificate content"));
        } else if !certificate(old).is_empty() {
            errors.push(FieldError::forbidden(&path, "updates may not modify existing certificate content"));
        } else if let Err(why) = crate::certificates::check_chain(&certificate(new)) {
            errors.push(FieldError::invalid(&path, "<certificate data>", &why));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_row, check_update};
    use expect_test::expect;

    const REQUEST: &str = "
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {name: node, creationTimestamp: 2024-01-01T00:00:00Z}
spec:
  request: LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQkREQ0Jzd0lCQURBdk1SVXdFd1lEVlFRS0RBeHplWE4wWlcwNmJtOWtaWE14RmpBVUJnTlZCQU1NRFhONQpjM1JsYlRwdWIyUmxPbUV3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVI0SFJSTFUxUmYwM1JBCkYrQyt6NWppWk9WMjVuSjZXTDNiQjhkQ2RMQm9yRkhUVG43YTUrUjY3OU5Uc3ZPdTVGVllxaEhNRnREQS8xR3YKMW80c3lCN0xvQ0l3SUFZSktvWklodmNOQVFrT01STXdFVEFQQmdOVkhSRUVDREFHaHdRS0FBQUJNQW9HQ0NxRwpTTTQ5QkFNQ0EwZ0FNRVVDSVFDa1pmY2h2eGNvTXBFZUY1WlpHS0ZmRTlUWjhOajlFT09Vc1JaaU92NTlYQUlnCmVkdHo2VERhS0dNYytXb0NFQVNQUkJCbDgwS3NjcTMrMDFvRE02UXdWK1k9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=
  signerName: kubernetes.io/kubelet-serving
  usages: [server auth]
  username: mallory
";

    #[test]
    fn what_is_wrong_with_requests() {
        check_create(REQUEST, expect![""]);
        check_create(
            &REQUEST.replace("kubernetes.io/k", "kubernetes/K"),
            expect![[r#"
            spec.signerName: Invalid value: "kubernetes": should be a domain with at least two segments separated by dots
            spec.signerName: Invalid value: "Kubelet-serving": validating label "Kubelet-serving": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"#]],
        );
        check_create(
            &REQUEST.replace("server auth", "a, client auth, client auth").replace(" LS0t", " AAAA"),
            expect![[r#"
            spec.request: Invalid value: "AAAALS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQkREQ0Jzd0lCQURBdk1SVXdFd1lEVlFRS0RBeHplWE4wWlcwNmJtOWtaWE14RmpBVUJnTlZCQU1NRFhONQpjM1JsYlRwdWIyUmxPbUV3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVI0SFJSTFUxUmYwM1JBCkYrQyt6NWppWk9WMjVuSjZXTDNiQjhkQ2RMQm9yRkhUVG43YTUrUjY3OU5Uc3ZPdTVGVllxaEhNRnREQS8xR3YKMW80c3lCN0xvQ0l3SUFZSktvWklodmNOQVFrT01STXdFVEFQQmdOVkhSRUVDREFHaHdRS0FBQUJNQW9HQ0NxRwpTTTQ5QkFNQ0EwZ0FNRVVDSVFDa1pmY2h2eGNvTXBFZUY1WlpHS0ZmRTlUWjhOajlFT09Vc1JaaU92NTlYQUlnCmVkdHo2VERhS0dNYytXb0NFQVNQUkJCbDgwS3NjcTMrMDFvRE02UXdWK1k9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=": PEM block type must be CERTIFICATE REQUEST
            spec.usages[0]: Unsupported value: "a": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment", "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel", "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime", "server auth", "signing", "timestamping"
            spec.usages[2]: Duplicate value: "client auth""#]],
        );
    }

    #[test]
    fn only_approval_approves() {
        let approved = format!("{REQUEST}status: {{conditions: [{{type: Approved, status: 'True'}}]}}\n");
        check_update(REQUEST, &approved, None, expect!["generation 0"]);
        check_update(
            REQUEST,
            &approved,
            Some("status"),
            expect![[r#"status.conditions: Forbidden: updates may not add a condition of type "Approved""#]],
        );
        check_update(REQUEST, &approved, Some("approval"), expect!["generation 0"]);
        check_row(
            &approved,
            expect![[r#"
            Name | Age | SignerName | Requestor | RequestedDuration | Condition
            node | 60m | kubernetes.io/kubelet-serving | mallory | <none> | Approved"#]],
        );
    }

    #[test]
    fn a_certificate_is_one() {
        let issued = |text: &str| {
            use base64::Engine;
            let text = base64::engine::general_purpose::STANDARD.encode(text);
            format!("{REQUEST}status: {{certificate: {text}}}\n")
        };
        let refused = [
            (
                "aa",
                expect![[
                    r#"status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block"#
                ]],
            ),
            (
                "-----BEGIN X-----\nAAAA\n-----END X-----\n",
                expect![[
                    r#"status.certificate: Invalid value: "<certificate data>": only CERTIFICATE PEM blocks are allowed, found "X""#
                ]],
            ),
        ];
        for (text, expected) in refused {
            check_update(REQUEST, &issued(text), Some("status"), expected);
        }
    }
}
