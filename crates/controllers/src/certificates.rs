//! Certificates: approves, signs and cleans away CertificateSigningRequests (`pkg/controller/certificates`).
//!
//! Watches   CertificateSigningRequest (self); reads Node.
//! Writes    their approval, status, and delete.
//! Invariant what is signed was approved, by somebody who may, and is what its signer gives.
//! Differs   from upstream, which leaves serving certificates of nodes to people: a node's own request for its own name and
//!           addresses is approved here, so that joining takes one command. But a node says itself what its addresses are, and
//!           the same authority vouches for the API server: what belongs to that or to another node is not approved.
//!           Requests for legacy-unknown stay unsigned.

use crate::plan::{Done, Key, Plan, Task, Write};
use crate::run::{Context, Controller, Watches};
use api::k8s::ByteString;
use api::k8s::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use api::k8s::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use api::k8s::api::core::v1::NodeAddress;
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError};
use jiff::{SignedDuration, Timestamp};
use machinery::certificates::{CLIENT_SIGNER, CertificateRequest, NODE_CLIENT_SIGNER, NODE_SERVING_SIGNER};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How long requests stay (`cleaner.go`).
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const WAITING: SignedDuration = SignedDuration::from_hours(24);
/// How long certificates are good, unless less is asked (`--cluster-signing-duration`).
const LIFE: SignedDuration = SignedDuration::from_hours(365 * 24);
const SHORTEST: SignedDuration = SignedDuration::from_mins(10);
/// For clocks that differ. A life shorter than [`SHORT`] is not shortened by it.
const BACKDATE: SignedDuration = SignedDuration::from_mins(5);
const SHORT: SignedDuration = SignedDuration::from_hours(8);

/// The cluster's certificate authority.
pub trait Signer: Send + Sync + fmt::Debug {
    /// A certificate in PEM for the subject, names and key of `request`.
    fn sign(&self, request: &CertificateRequest, usages: &[String], life: Life) -> Result<Vec<u8>, String>;

    /// When the authority's own certificate ends.
    fn expires(&self) -> Timestamp;
}

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// From.
    pub start: Timestamp,
    /// To.
    pub end: Timestamp,
}

pub(crate) struct Certificates;

pub(crate) struct View {
    request: Arc<CertificateSigningRequest>,
    /// The node that asks, if it is one.
    node: Option<Arc<Node>>,
    /// Names and addresses of the API server and of all other nodes.
    others: BTreeSet<String>,
    signer: Option<Arc<dyn Signer>>,
}

impl Controller for Certificates {
    const NAME: &'static str = "certificate-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.own::<CertificateSigningRequest>();
        // A node may ask for its serving certificate before it has told its addresses.
        watches.map::<Node>(|ctx, change| {
            let user = format!("system:node:{}", change.latest().name());
            let addresses = |n: &Option<Arc<Node>>| n.as_ref().and_then(|n| n.status.as_ref()?.addresses.clone());
            if addresses(&change.old) == addresses(&change.new) {
                return Vec::new();
            }
            let all = ctx.cache::<CertificateSigningRequest>().list();
            // What a node had that is gone, another may have.
            let gone = change.new.is_none();
            let own = all.iter().filter(|r| gone || r.spec.username.as_deref() == Some(&*user));
            own.map(|r| Key::of(r.as_ref())).collect()
        });
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let request = ctx.cache::<CertificateSigningRequest>().get("", &key.name)?;
        let node = request.spec.username.as_deref().and_then(|user| user.strip_prefix("system:node:"));
        let mut others: BTreeSet<String> = ctx.facts().server_names.iter().cloned().collect();
        for other in ctx.cache::<Node>().list().iter().filter(|n| Some(n.name()) != node) {
            others.insert(other.name().to_owned());
            others.extend(addresses(other).iter().map(|a| a.address.clone()));
        }
        let node = node.and_then(|name| ctx.cache::<Node>().get("", name));
        Some(View { node, others, signer: ctx.facts().signer.clone(), request })
    }

    fn plan(view: &View, now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let request = &view.request;
        match goes_at(request) {
            Some(at) if at <= now => {
                plan.writes.push(Write::delete(request.as_ref()));
                return plan;
            }
            Some(at) => plan.again(Duration::try_from(at.duration_since(now)).unwrap_or_default()),
            None => {}
        }
        if is_issued(request) || has(request, "Denied") || has(request, "Failed") {
            return plan;
        }
        // What cannot be read was refused on creation, or is somebody else's business.
        let Ok(asked) = CertificateRequest::parse(&request.spec.request.0) else { return plan };
        if !has(request, "Approved") {
            let tries = tries(request, &asked, view.node.as_deref(), &view.others);
            if !tries.is_empty() {
                plan.writes.push(Write::run(Approve { request: request.clone(), tries, now }));
            }
            return plan;
        }
        let ours = [CLIENT_SIGNER, NODE_CLIENT_SIGNER, NODE_SERVING_SIGNER].contains(&&*request.spec.signer_name);
        let Some(signer) = view.signer.clone().filter(|_| ours) else { return plan };
        let usages = request.spec.usages.clone().unwrap_or_default();
        if let Err(why) = asked.check(&request.spec.signer_name, &usages) {
            let condition = condition("Failed", "SignerValidationFailure", &why, now);
            plan.writes.push(Write::status(with_condition(request, condition)));
            return plan;
        }
        match life(request.spec.expiration_seconds, signer.expires(), now) {
            Some(life) => {
                let request = request.clone();
                plan.writes.push(Write::run(Sign { request, asked, usages, life, signer }));
            }
            None => tracing::error!(request = request.name(), "the certificate authority has expired"),
        }
        plan
    }
}

// === deciding ===

fn conditions(request: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    request.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn has(request: &CertificateSigningRequest, kind: &str) -> bool {
    conditions(request).iter().any(|c| c.type_ == kind)
}

fn is_issued(request: &CertificateSigningRequest) -> bool {
    request.status.as_ref().and_then(|s| s.certificate.as_ref()).is_some_and(|c| !c.0.is_empty())
}

/// When it is cleaned away (`cleaner.go`).
fn goes_at(request: &CertificateSigningRequest) -> Option<Timestamp> {
    let issued = is_issued(request);
    let since = |c: &CertificateSigningRequestCondition| c.last_update_time.as_ref().map(|t| t.0);
    let decided = conditions(request).iter().filter_map(|c| {
        let stays = match c.type_.as_str() {
            "Denied" | "Failed" => DECIDED,
            "Approved" if issued => DECIDED,
            "Approved" => WAITING,
            _ => return None,
        };
        Some(since(c)? + stays)
    });
    let created = request.metadata.creation_timestamp.as_ref().map(|t| t.0 + WAITING);
    decided.min().or(created.filter(|_| conditions(request).is_empty()))
}

/// A right that, if the asking one has it, approves; and the words for it.
#[derive(Clone, Copy)]
enum Try {
    /// `create certificatesigningrequests/…`
    Right(&'static str, &'static str),
    /// No more is needed.
    Granted(&'static str),
}

/// What may approve a request (`recognizers` in sarapprove.go), the strongest first.
fn tries(
    request: &CertificateSigningRequest,
    asked: &CertificateRequest,
    node: Option<&Node>,
    others: &BTreeSet<String>,
) -> Vec<Try> {
    let spec = &request.spec;
    let usages = spec.usages.as_deref().unwrap_or_default();
    let own = spec.username.as_deref() == Some(&*asked.common_name);
    if asked.check(&spec.signer_name, usages).is_err() {
        return Vec::new();
    }
    match spec.signer_name.as_str() {
        NODE_CLIENT_SIGNER => {
            let of_self = Try::Right(
                "selfnodeclient",
                "Auto approving self kubelet client certificate after SubjectAccessReview.",
            );
            let of_any =
                Try::Right("nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview.");
            if own { vec![of_self, of_any] } else { vec![of_any] }
        }
        NODE_SERVING_SIGNER if own && node.is_some_and(|n| has_names(n, asked, others)) => {
            vec![Try::Granted("Auto approving kubelet serving certificate for the node's own name and addresses.")]
        }
        _ => Vec::new(),
    }
}

fn addresses(node: &Node) -> &[NodeAddress] {
    node.status.as_ref().and_then(|s| s.addresses.as_deref()).unwrap_or_default()
}

/// Whether everything that is asked for is the node's own, and nobody else's.
fn has_names(node: &Node, asked: &CertificateRequest, others: &BTreeSet<String>) -> bool {
    let own = |text: &str| addresses(node).iter().any(|a| a.address == text) && !others.contains(text);
    let name = |dns: &String| own(dns) || (dns == node.name() && !others.contains(dns));
    asked.dns_names.iter().all(name) && asked.ips.iter().all(|ip| own(&ip.to_string()))
}

/// `PermissiveSigningPolicy.apply`
fn life(seconds: Option<i32>, authority_ends: Timestamp, now: Timestamp) -> Option<Life> {
    let asked = seconds.map(|s| SignedDuration::from_secs(s.into()).clamp(SHORTEST, LIFE));
    let length = asked.unwrap_or(LIFE);
    let end = if length < SHORT { now + length } else { now + length - BACKDATE };
    (now < authority_ends).then_some(Life { start: now - BACKDATE, end: end.min(authority_ends) })
}

fn condition(kind: &str, reason: &str, message: &str, now: Timestamp) -> CertificateSigningRequestCondition {
    CertificateSigningRequestCondition {
        type_: kind.into(),
        status: "True".into(),
        reason: Some(reason.into()),
        message: Some(message.into()),
        last_update_time: Some(api::Time(now)),
        last_transition_time: None,
    }
}

fn with_condition(
    request: &CertificateSigningRequest,
    condition: CertificateSigningRequestCondition,
) -> CertificateSigningRequest {
    let mut request = request.clone();
    request.status.get_or_insert_default().conditions.get_or_insert_default().push(condition);
    request
}

// === doing ===

/// Asks whether the asking one may have it, and approves.
struct Approve {
    request: Arc<CertificateSigningRequest>,
    tries: Vec<Try>,
    now: Timestamp,
}

#[async_trait]
impl Task for Approve {
    fn title(&self) -> String {
        let rights = self.tries.iter().map(|t| match t {
            Try::Right(right, _) => *right,
            Try::Granted(_) => "granted",
        });
        format!("approve {} {}", self.request.name(), rights.collect::<Vec<_>>().join(" "))
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        for one in &self.tries {
            let (allowed, message) = match *one {
                Try::Granted(message) => (true, message),
                Try::Right(right, message) => (self.may(client, right).await?, message),
            };
            if allowed {
                let approved = with_condition(&self.request, condition("Approved", "AutoApproved", message, self.now));
                client.api::<CertificateSigningRequest>().update_subresource(&approved, "approval").await?;
                break;
            }
        }
        Ok(Done::default())
    }
}

impl Approve {
    async fn may(&self, client: &Client, right: &str) -> Result<bool, ClientError> {
        let spec = &self.request.spec;
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: spec.username.clone(),
                uid: spec.uid.clone(),
                groups: spec.groups.clone(),
                extra: spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".into()),
                    resource: Some("certificatesigningrequests".into()),
                    subresource: Some(right.into()),
                    verb: Some("create".into()),
                    version: Some("*".into()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let review = client.api::<SubjectAccessReview>().create(&review).await?;
        Ok(review.status.is_some_and(|s| s.allowed))
    }
}

/// Signs and stores the certificate.
struct Sign {
    request: Arc<CertificateSigningRequest>,
    asked: CertificateRequest,
    usages: Vec<String>,
    life: Life,
    signer: Arc<dyn Signer>,
}

#[async_trait]
impl Task for Sign {
    fn title(&self) -> String {
        format!("sign {} from {} to {}", self.request.name(), self.life.start, self.life.end)
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let signed = self.signer.sign(&self.asked, &self.usages, self.life);
        let pem = signed.map_err(|why| ClientError::Malformed(format!("error auto signing csr: {why}")))?;
        let mut request = self.request.as_ref().clone();
        request.status.get_or_insert_default().certificate = Some(ByteString(pem));
        client.api::<CertificateSigningRequest>().update_status(&request).await?;
        Ok(Done::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, merge, object, show};
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    /// `O=system:nodes, CN=system:node:a`, for 10.0.0.1.
    const NODE_REQUEST: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlJQkREQ0Jzd0lCQURBdk1SVXdFd1lEVlFRS0RBeHplWE4wWlcwNmJtOWtaWE14RmpBVUJnTlZCQU1NRFhONQpjM1JsYlRwdWIyUmxPbUV3V1RBVEJnY3Foa2pPUFFJQkJnZ3Foa2pPUFFNQkJ3TkNBQVI0SFJSTFUxUmYwM1JBCkYrQyt6NWppWk9WMjVuSjZXTDNiQjhkQ2RMQm9yRkhUVG43YTUrUjY3OU5Uc3ZPdTVGVllxaEhNRnREQS8xR3YKMW80c3lCN0xvQ0l3SUFZSktvWklodmNOQVFrT01STXdFVEFQQmdOVkhSRUVDREFHaHdRS0FBQUJNQW9HQ0NxRwpTTTQ5QkFNQ0EwZ0FNRVVDSVFDa1pmY2h2eGNvTXBFZUY1WlpHS0ZmRTlUWjhOajlFT09Vc1JaaU92NTlYQUlnCmVkdHo2VERhS0dNYytXb0NFQVNQUkJCbDgwS3NjcTMrMDFvRE02UXdWK1k9Ci0tLS0tRU5EIENFUlRJRklDQVRFIFJFUVVFU1QtLS0tLQo=";

    #[derive(Debug)]
    struct Nobody;

    impl Signer for Nobody {
        fn sign(&self, _: &CertificateRequest, _: &[String], _: Life) -> Result<Vec<u8>, String> {
            Err("plans do not sign".into())
        }
        fn expires(&self) -> Timestamp {
            at(3600 * 24 * 30)
        }
    }

    fn check_plan(fields: Value, seconds: i64, expected: Expect) {
        let mut request = json!({
            "metadata": {"name": "r", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"request": NODE_REQUEST, "signerName": NODE_SERVING_SIGNER, "username": "system:node:a",
                     "usages": ["digital signature", "server auth"]},
        });
        merge(&mut request, fields);
        let node = json!({"metadata": {"name": "a"}, "status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}});
        let others = BTreeSet::from(["10.0.0.2".to_owned(), "kubernetes".to_owned()]);
        let view = View { request: object(request), node: Some(object(node)), others, signer: Some(Arc::new(Nobody)) };
        expected.assert_eq(&show(&Certificates::plan(&view, at(seconds))));
    }

    #[test]
    fn a_node_gets_the_serving_certificate_of_its_own_addresses() {
        check_plan(
            json!({}),
            0,
            expect![[r#"
                approve r granted
                again in 86400s
            "#]],
        );
        check_plan(
            json!({"spec": {"username": "system:node:b"}}),
            0,
            expect![[r#"
                again in 86400s
            "#]],
        );
    }

    #[test]
    fn nobody_gets_the_names_of_the_api_server_or_of_another_node() {
        let check = |name: &str, addresses: &[&str], dns: &[&str], ips: &[&str]| {
            let addresses: Vec<Value> = addresses.iter().map(|a| json!({"type": "InternalIP", "address": a})).collect();
            let node = object::<Node>(json!({"metadata": {"name": name}, "status": {"addresses": addresses}}));
            let asked = CertificateRequest {
                dns_names: dns.iter().map(|d| (*d).to_owned()).collect(),
                ips: ips.iter().map(|ip| ip.parse().expect("a literal address")).collect(),
                ..CertificateRequest::default()
            };
            has_names(&node, &asked, &BTreeSet::from(["10.0.0.2", "kubernetes"].map(str::to_owned)))
        };
        assert!(check("a", &["10.0.0.1"], &["a"], &["10.0.0.1"]));
        assert!(!check("a", &["10.0.0.1"], &[], &["10.0.0.9"]), "not its address");
        assert!(!check("a", &["10.0.0.1", "10.0.0.2"], &["a"], &["10.0.0.2"]), "another's address");
        assert!(!check("kubernetes", &["10.0.0.1"], &["kubernetes"], &[]), "the API server's name");
    }

    #[test]
    fn what_is_approved_is_signed_if_its_signer_gives_it() {
        let approved =
            json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "2026-01-01T00:00:00Z"}]});
        check_plan(
            json!({"status": approved, "spec": {"expirationSeconds": 3600}}),
            0,
            expect![[r#"
                sign r from 2025-12-31T23:55:00Z to 2026-01-01T01:00:00Z
                again in 86400s
            "#]],
        );
        check_plan(
            json!({"status": approved, "spec": {"signerName": NODE_CLIENT_SIGNER}}),
            0,
            expect![[r#"
                status CertificateSigningRequest r {"conditions":[{"lastUpdateTime":"2026-01-01T00:00:00Z","status":"True","type":"Approved"},{"lastUpdateTime":"2026-01-01T00:00:00Z","message":"IP subjectAltNames are not allowed","reason":"SignerValidationFailure","status":"True","type":"Failed"}]}
                again in 86400s
            "#]],
        );
        check_plan(
            json!({"status": approved, "spec": {"signerName": "example.com/own"}}),
            86400,
            expect![[r#"
                delete CertificateSigningRequest r
            "#]],
        );
    }
}
