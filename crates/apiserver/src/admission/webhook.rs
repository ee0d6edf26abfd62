//! What mutating and validating webhooks have in common: when a hook is called, the AdmissionReview, its answer
//! (`apiserver/pkg/admission/plugin/webhook/{generic,request,errors}`).

use super::expressions::{Conditions, Evaluation, Verdict};
use super::matching::Criteria;
use super::review::request_of;
use super::{Operation, Request};
use crate::metrics::{Phase, Rejection, WebhookCall};
use crate::reader::KindRef;
use crate::webhook_client::{ClientConfig, Target};
use crate::{status, trace};
use api::Status;
use api::k8s::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhook, RuleWithOperations, ValidatingWebhook, WebhookClientConfig,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use opentelemetry::trace::SpanKind;
use opentelemetry::{Context, KeyValue};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// A webhook, ready to be called.
pub(super) struct Hook {
    /// `<configuration>/<index>/<name>`, for reinvocation.
    pub(super) id: String,
    pub(super) configuration: String,
    pub(super) name: String,
    criteria: Criteria,
    conditions: Conditions,
    /// `failurePolicy: Ignore`
    pub(super) ignores_failures: bool,
    /// `reinvocationPolicy: IfNeeded`
    pub(super) reinvoked: bool,
    side_effects: String,
    timeout: Option<Duration>,
    /// `v1` or `v1beta1`, the first that we know.
    version: Option<String>,
    client: ClientConfig,
}

/// The fields that both kinds of webhook have.
macro_rules! hook {
    ($configuration:expr, $index:expr, $hook:expr, $reinvoked:expr) => {
        Hook::new(
            $configuration,
            $index,
            Fields {
                name: &$hook.name,
                rules: $hook.rules.as_deref(),
                criteria: (&$hook.namespace_selector, &$hook.object_selector, $hook.match_policy.as_deref()),
                conditions: $hook.match_conditions.as_deref(),
                failure_policy: $hook.failure_policy.as_deref(),
                reinvoked: $reinvoked,
                side_effects: &$hook.side_effects,
                timeout: $hook.timeout_seconds,
                versions: &$hook.admission_review_versions,
                client: &$hook.client_config,
            },
        )
    };
}

struct Fields<'a> {
    name: &'a str,
    rules: Option<&'a [RuleWithOperations]>,
    criteria: (&'a Option<api::LabelSelector>, &'a Option<api::LabelSelector>, Option<&'a str>),
    conditions: Option<&'a [MatchCondition]>,
    failure_policy: Option<&'a str>,
    reinvoked: bool,
    side_effects: &'a str,
    timeout: Option<i32>,
    versions: &'a [String],
    client: &'a WebhookClientConfig,
}

/// Why a hook did not let a request pass.
pub(super) enum Failure {
    /// It could not be asked; `failurePolicy` decides.
    Calling(String),
    /// It said no.
    Refused(Box<Status>),
    /// Its answer cannot be used, whatever the policy, or the request is not for it.
    Unusable(Box<Status>),
}

/// What a hook answered.
#[derive(Debug, Default)]
pub(super) struct Answer {
    warnings: Vec<String>,
    annotations: BTreeMap<String, String>,
    /// A JSON patch.
    pub(super) patch: Option<Value>,
}

impl Answer {
    /// Passes warnings and annotations on.
    pub(super) fn remark(&self, hook: &Hook, request: &Request<'_>) {
        request.remarks.add(self.warnings.iter().cloned());
        for (key, value) in &self.annotations {
            request.remarks.annotate(&format!("{}/", hook.name), key, value);
        }
    }
}

impl Hook {
    pub(super) fn mutating(configuration: &str, index: usize, hook: &MutatingWebhook) -> Self {
        hook!(configuration, index, hook, hook.reinvocation_policy.as_deref() == Some("IfNeeded"))
    }

    pub(super) fn validating(configuration: &str, index: usize, hook: &ValidatingWebhook) -> Self {
        hook!(configuration, index, hook, false)
    }

    fn new(configuration: &str, index: usize, of: Fields<'_>) -> Self {
        let (namespaces, objects, match_policy) = of.criteria;
        Hook {
            id: format!("{configuration}/{index}/{}", of.name),
            configuration: configuration.to_owned(),
            name: of.name.to_owned(),
            criteria: Criteria::of_webhook(namespaces.as_ref(), objects.as_ref(), of.rules, match_policy),
            conditions: Conditions::of_webhook(of.conditions),
            ignores_failures: of.failure_policy == Some("Ignore"),
            reinvoked: of.reinvoked,
            side_effects: of.side_effects.to_owned(),
            timeout: of.timeout.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs),
            version: of.versions.iter().find(|v| matches!(v.as_str(), "v1" | "v1beta1")).cloned(),
            client: client_of(of.client),
        }
    }

    /// The kind as which the hook wants to see the request, if it does.
    pub(super) async fn wants(&self, request: &Request<'_>) -> Result<Option<KindRef>, Status> {
        let Some(kind) = self.criteria.matches(request).await? else { return Ok(None) };
        if self.conditions.is_empty() {
            return Ok(Some(kind));
        }
        let evaluation = Evaluation::new(request, &kind).await?;
        match self.conditions.hold(&evaluation).await {
            Verdict::Holds => Ok(Some(kind)),
            Verdict::Fails => Ok(None),
            Verdict::Error(_) if self.ignores_failures => Ok(None),
            Verdict::Error(why) => Err(request.forbidden(&why)),
        }
    }

    /// Asks the hook about a request whose objects are given as JSON of `kind`.
    pub(super) async fn call(
        &self,
        request: &Request<'_>,
        kind: &KindRef,
        objects: (&Value, &Value),
        uid: &str,
        mutating: bool,
    ) -> Result<Answer, Failure> {
        if request.dry_run && !matches!(self.side_effects.as_str(), "None" | "NoneOnDryRun") {
            let why = format!("admission webhook {:?} does not support dry run", self.name);
            return Err(Failure::Unusable(Box::new(status::bad_request(why))));
        }
        let Some(version) = &self.version else {
            let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
            return Err(Failure::Calling(why.into()));
        };
        let review = review(request, kind, objects, uid, version);
        let span = self.span(request, uid, mutating);
        let body = Bytes::from(review.to_string());
        let sent = request.cluster.webhooks().post(&self.client, self.timeout, body, span.as_ref()).await;
        let body = sent.map_err(|error| Failure::Calling(format!("failed to call webhook: {error}")))?;
        let invalid = |why: String| Failure::Calling(format!("received invalid webhook response: {why}"));
        let response = read(&body, uid, version, mutating).map_err(invalid)?;
        if !response.allowed {
            let Response { warnings, audit_annotations: annotations, .. } = &response;
            Answer { warnings: warnings.clone(), annotations: annotations.clone(), patch: None }.remark(self, request);
            return Err(Failure::Refused(Box::new(self.refusal(response.status))));
        }
        let undecodable =
            |why: String| Failure::Calling(format!("received undecodable patch in webhook response: {why}"));
        let patch = match response.patch.as_deref().filter(|p| mutating && !p.is_empty()) {
            None => None,
            Some(text) => {
                let bytes = BASE64.decode(text).map_err(|e| undecodable(e.to_string()))?;
                let patch: Value = serde_json::from_slice(&bytes).map_err(|e| undecodable(e.to_string()))?;
                let ty = response.patch_type.as_deref().unwrap_or("JSONPatch");
                if ty != "JSONPatch" {
                    return Err(Failure::Calling(format!("unsupported patch type {ty:?}")));
                }
                Some(patch).filter(|p| p.as_array().is_none_or(|list| !list.is_empty()))
            }
        };
        Ok(Answer { warnings: response.warnings, annotations: response.audit_annotations, patch })
    }

    /// A call, in the trace of its request (`webhook/{mutating,validating}/dispatcher.go`).
    fn span(&self, request: &Request<'_>, uid: &str, mutating: bool) -> Option<Context> {
        let name = if mutating { "Call mutating webhook" } else { "Call validating webhook" };
        trace::start(name, SpanKind::Internal, || {
            let info = request.info();
            vec![
                KeyValue::new("configuration", self.configuration.clone()),
                KeyValue::new("webhook", self.name.clone()),
                KeyValue::new("resource", format!("{}/{}, Resource={}", info.group, info.version, info.plural)),
                KeyValue::new("subresource", request.subresource.to_owned()),
                KeyValue::new("operation", request.operation.as_str()),
                KeyValue::new("UID", uid.to_owned()),
            ]
        })
    }

    /// The hook's refusal in admission's words (`errors.ToStatusErr`).
    fn refusal(&self, given: Option<Status>) -> Status {
        let mut status = given.unwrap_or_default();
        let denied = format!("admission webhook {:?} denied the request", self.name);
        status.message = match (status.message.as_str(), status.reason.as_str()) {
            ("", "") => format!("{denied} without explanation"),
            ("", reason) => format!("{denied}: {reason}"),
            (message, _) => format!("{denied}: {message}"),
        };
        status.kind = "Status".into();
        status.api_version = "v1".into();
        status.code = status.code.max(400);
        if status.status.is_empty() || status.status == "Success" {
            status.status = "Failure".into();
        }
        status
    }

    /// Counts a call.
    pub(super) fn count<T>(&self, request: &Request<'_>, phase: Phase, begun: Instant, result: &Result<T, Failure>) {
        let (code, rejection) = match result {
            Ok(_) => (200, None),
            // Upstream's stand-in for a hook that could not be asked.
            Err(Failure::Calling(_)) if self.ignores_failures => (503, None),
            Err(Failure::Calling(_)) => (503, Some(Rejection::Calling)),
            Err(Failure::Refused(status)) => (status.code, Some(Rejection::Answer)),
            Err(Failure::Unusable(_)) => (0, Some(Rejection::Internal)),
        };
        let (name, operation, took) = (&self.name, request.operation, begun.elapsed());
        request.cluster.metrics().webhook(&WebhookCall { name, phase, operation, took, code, rejection });
    }

    /// A failed call as the client sees it if it is not ignored.
    pub(super) fn failed(&self, why: &str) -> Status {
        status::internal(format!("failed calling webhook {:?}: {why}", self.name))
    }
}

fn client_of(config: &WebhookClientConfig) -> ClientConfig {
    let target = match (&config.service, &config.url) {
        (Some(service), _) => Target::Service {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            path: service.path.clone().unwrap_or_default(),
            port: service.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(443),
        },
        (None, url) => Target::Url(url.clone().unwrap_or_default()),
    };
    ClientConfig {
        target,
        ca_bundle: config.ca_bundle.as_ref().map(|b| b.0.clone()).unwrap_or_default(),
        credentials: Default::default(),
        reach: Default::default(),
    }
}

fn review(request: &Request<'_>, kind: &KindRef, (object, old): (&Value, &Value), uid: &str, version: &str) -> Value {
    let mut body = request_of(request, kind);
    body.insert("uid".into(), uid.into());
    body.insert("object".into(), object.clone());
    body.insert("oldObject".into(), old.clone());
    if request.operation == Operation::Connect {
        body.insert("options".into(), Value::Null);
    }
    json!({"kind": "AdmissionReview", "apiVersion": format!("admission.k8s.io/{version}"), "request": body})
}

/// The part of an AdmissionReview that we read.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Review {
    api_version: String,
    kind: String,
    response: Option<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Response {
    uid: String,
    allowed: bool,
    status: Option<Status>,
    patch: Option<String>,
    patch_type: Option<String>,
    #[serde(deserialize_with = "or_default")]
    warnings: Vec<String>,
    #[serde(deserialize_with = "or_default")]
    audit_annotations: BTreeMap<String, String>,
}

/// Go shows empty lists and maps as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(source: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(source)?.unwrap_or_default())
}

/// `VerifyAdmissionResponse`
fn read(body: &[u8], uid: &str, version: &str, mutating: bool) -> Result<Response, String> {
    let review: Review = serde_json::from_slice(body).map_err(|error| error.to_string())?;
    let response = review.response.ok_or("webhook response was absent")?;
    let has_patch = response.patch.as_deref().is_some_and(|p| !p.is_empty());
    if version != "v1" {
        // v1beta1 was never checked.
        return Ok(Response { patch_type: None, ..response });
    }
    if response.uid != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", response.uid));
    }
    if review.kind != "AdmissionReview" || review.api_version != "admission.k8s.io/v1" {
        let (group, version) = review.api_version.split_once('/').unwrap_or(("", &review.api_version));
        let got = format!("{group}/{version}, Kind={}", review.kind);
        return Err(format!("expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got {got}"));
    }
    match (mutating, has_patch, response.patch_type.as_deref()) {
        (true, true, None) => Err("webhook returned response.patch but not response.patchType".into()),
        (true, false, Some(_)) => Err("webhook returned response.patchType but not response.patch".into()),
        (true, true, Some("")) => Err("webhook returned invalid response.patchType of \"\"".into()),
        (false, true, _) => Err("validating webhook may not return response.patch".into()),
        (false, false, Some(_)) => Err("validating webhook may not return response.patchType".into()),
        _ => Ok(response),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(body: &str, mutating: bool, expected: Expect) {
        let result = match read(body.as_bytes(), "u", "v1", mutating) {
            Ok(response) => format!("allowed: {}, warnings: {:?}", response.allowed, response.warnings),
            Err(why) => why,
        };
        expected.assert_eq(&result);
    }

    #[test]
    fn answers_are_verified() {
        let review = |response: &str| {
            format!(r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","response":{response}}}"#)
        };
        check(&review(r#"{"uid":"u","allowed":true,"warnings":null}"#), true, expect!["allowed: true, warnings: []"]);
        check(&review(r#"{"uid":"x","allowed":true}"#), true, expect![[r#"expected response.uid="u", got "x""#]]);
        check(&review("null"), true, expect!["webhook response was absent"]);
        check(
            r#"{"response":{"uid":"u"}}"#,
            false,
            expect!["expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind="],
        );
        check(
            &review(r#"{"uid":"u","patch":"W10="}"#),
            true,
            expect!["webhook returned response.patch but not response.patchType"],
        );
        check(
            &review(r#"{"uid":"u","patchType":"JSONPatch"}"#),
            false,
            expect!["validating webhook may not return response.patchType"],
        );
    }
}
