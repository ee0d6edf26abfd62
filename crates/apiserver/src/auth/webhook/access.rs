//! Authorization by webhooks: the AuthorizationConfiguration of `apiserver.config.k8s.io`, and SubjectAccessReviews out and back
//! (`apiserver/plugin/pkg/authorizer/webhook/webhook.go`, `apiserver/pkg/authorization/cel`,
//! `apiserver/pkg/apis/apiserver/validation`).
//!
//! Differs from upstream: Node and RBAC must be among the authorizers, and nothing that allows or denies everything may be. There is
//! no switch that turns authorization off.

use super::post;
use crate::auth::cache::Cache;
use crate::auth::{Attributes, Authorizer, Decision, Decisions, Rules, UserInfo};
use crate::webhook_client::{ClientConfig, WebhookClient, WebhookError};
use async_trait::async_trait;
use bytes::Bytes;
use machinery::cel::policy::compile_as;
use machinery::cel::{Budget, Decl, Env, MATCH_CONDITIONS_BUDGET, ObjectType, Program, Type, Value};
use machinery::field::{Errors, FieldError, Path, aggregate};
use machinery::schema::parse_go_duration;
use machinery::selector::{FieldRequirement, FieldSelector, LabelSelector, Operator, Requirement};
use machinery::validation::is_dns1123_subdomain;
use prometheus::core::Collector;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts};
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// Authorizers that this server has.
const KNOWN: [&str; 3] = ["Node", "RBAC", "Webhook"];
/// Answers to longer questions are not kept (`maxControlledAttrCacheSize`).
const MAX_QUESTION: usize = 10_000;

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AuthorizationConfiguration {
    api_version: String,
    kind: String,
    /// In the order in which they are asked.
    pub authorizers: Vec<Entry>,
}

/// `authorizers[*]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Entry {
    /// `Node`, `RBAC` or `Webhook`
    #[serde(rename = "type")]
    type_: String,
    /// For metrics.
    pub name: String,
    webhook: Option<Webhook>,
}

/// What an entry stands for.
pub enum AuthorizerKind<'a> {
    /// The Node authorizer.
    Node,
    /// RBAC.
    Rbac,
    /// A webhook.
    Webhook(&'a Webhook),
}

/// `authorizers[*].webhook`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Webhook {
    #[serde(rename = "authorizedTTL")]
    authorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_unauthorized_requests: Option<bool>,
    timeout: String,
    subject_access_review_version: String,
    match_condition_subject_access_review_version: String,
    failure_policy: String,
    /// How it is reached.
    pub connection_info: ConnectionInfo,
    match_conditions: Vec<MatchCondition>,
}

/// `authorizers[*].webhook.connectionInfo`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    type_: String,
    /// The file's path.
    pub kube_config_file: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct MatchCondition {
    expression: String,
}

impl AuthorizationConfiguration {
    /// Reads and checks a file (YAML or JSON). The error is for who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parsed: AuthorizationConfiguration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if parsed.kind != "AuthorizationConfiguration" || !VERSIONS.contains(&parsed.api_version.as_str()) {
            return Err(format!(
                "expected kind AuthorizationConfiguration of {}, got {:?} of {:?}",
                VERSIONS[0], parsed.kind, parsed.api_version
            ));
        }
        parsed.authorizers.iter_mut().filter_map(|entry| entry.webhook.as_mut()).for_each(Webhook::set_defaults);
        let errors = parsed.check();
        if errors.is_empty() { Ok(parsed) } else { Err(aggregate(&errors)) }
    }

    fn check(&self) -> Errors {
        let root = Path::new("authorizers");
        let mut errors = Errors::new();
        if self.authorizers.is_empty() {
            errors.push(FieldError::required(&root, "at least one authorization mode must be defined"));
            return errors;
        }
        let (mut types, mut names) = (BTreeSet::new(), BTreeSet::new());
        for (i, entry) in self.authorizers.iter().enumerate() {
            let path = root.index(i);
            let ty = entry.type_.as_str();
            match ty {
                "" => errors.push(FieldError::required(&path.child("type"), "")),
                ty if !KNOWN.contains(&ty) => {
                    errors.push(FieldError::not_supported(&path.child("type"), ty, &KNOWN));
                }
                ty if !types.insert(ty) && ty != "Webhook" => {
                    errors.push(FieldError::duplicate(&path.child("type"), ty));
                }
                _ => entry.check(&path, &mut names, &mut errors),
            }
        }
        for missing in ["Node", "RBAC"].iter().filter(|ty| !types.contains(*ty)) {
            let detail = format!("{missing} must be among the authorizers: this server does not run without it");
            errors.push(FieldError::required(&root, &detail));
        }
        errors
    }
}

impl Entry {
    /// What it stands for.
    pub fn kind(&self) -> AuthorizerKind<'_> {
        match (&self.webhook, self.type_.as_str()) {
            (Some(webhook), _) => AuthorizerKind::Webhook(webhook),
            (None, "Node") => AuthorizerKind::Node,
            (None, _) => AuthorizerKind::Rbac,
        }
    }

    fn check<'a>(&'a self, path: &Path, names: &mut BTreeSet<&'a str>, errors: &mut Errors) {
        let at = path.child("name");
        if self.name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else if !names.insert(&self.name) {
            errors.push(FieldError::duplicate(&at, self.name.as_str()));
        } else if let bad = is_dns1123_subdomain(&self.name)
            && !bad.is_empty()
        {
            let detail = format!("authorizer name is invalid: {}", bad.join(", "));
            errors.push(FieldError::invalid(&at, self.name.as_str(), &detail));
        }
        match (&self.webhook, self.type_ == "Webhook") {
            (Some(webhook), true) => webhook.check(path, errors),
            (None, true) => errors.push(FieldError::required(&path.child("webhook"), "required when type=Webhook")),
            (Some(_), false) => {
                let detail = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid(&path.child("webhook"), "non-null", detail));
            }
            (None, false) => {}
        }
    }
}

fn duration(text: &str) -> Option<i64> {
    if text.is_empty() { Some(0) } else { parse_go_duration(text) }
}

fn positive(text: &str) -> Duration {
    Duration::from_nanos(duration(text).and_then(|nanos| u64::try_from(nanos).ok()).unwrap_or_default())
}

impl Webhook {
    /// `SetDefaults_WebhookConfiguration` (`apiserver/v1/defaults.go`).
    fn set_defaults(&mut self) {
        for (ttl, default) in [(&mut self.authorized_ttl, "5m"), (&mut self.unauthorized_ttl, "30s")] {
            if duration(ttl) == Some(0) {
                *ttl = default.to_owned();
            }
        }
    }

    fn check(&self, path: &Path, errors: &mut Errors) {
        let limits = [
            ("timeout", &self.timeout, 30_000_000_000, "must be > 0s and <= 30s"),
            ("authorizedTTL", &self.authorized_ttl, i64::MAX, "must be > 0s"),
            ("unauthorizedTTL", &self.unauthorized_ttl, i64::MAX, "must be > 0s"),
        ];
        for (name, text, most, detail) in limits {
            match duration(text) {
                Some(0) => errors.push(FieldError::required(&path.child(name), "")),
                Some(nanos) if nanos > 0 && nanos <= most => {}
                _ => errors.push(FieldError::invalid(&path.child(name), text.as_str(), detail)),
            }
        }
        let mut one_of = |name: &str, value: &str, known: &[&str]| match value {
            "" => errors.push(FieldError::required(&path.child(name), "")),
            value if known.contains(&value) => {}
            value => errors.push(FieldError::not_supported(&path.child(name), value, known)),
        };
        one_of("subjectAccessReviewVersion", &self.subject_access_review_version, &["v1", "v1beta1"]);
        one_of("failurePolicy", &self.failure_policy, &["NoOpinion", "Deny"]);
        match self.match_condition_subject_access_review_version.as_str() {
            "v1" => {}
            "" if self.match_conditions.is_empty() => {}
            "" => {
                let at = path.child("matchConditionSubjectAccessReviewVersion");
                errors.push(FieldError::required(&at, "required if match conditions are specified"));
            }
            other => {
                let at = path.child("matchConditionSubjectAccessReviewVersion");
                errors.push(FieldError::not_supported(&at, other, &["v1"]));
            }
        }
        self.check_connection(&path.child("connectionInfo"), errors);
        for (i, condition) in self.match_conditions.iter().enumerate() {
            let (at, text) = (path.child("matchConditions").index(i).child("expression"), &condition.expression);
            if text.trim().is_empty() {
                errors.push(FieldError::required(&at, ""));
            } else if let Err(why) = compile_as(text, &env(), &[Type::Bool]) {
                errors.push(FieldError::invalid(&at, text.as_str(), &why));
            }
        }
    }

    fn check_connection(&self, path: &Path, errors: &mut Errors) {
        let at = path.child("kubeConfigFile");
        match (self.connection_info.type_.as_str(), self.connection_info.kube_config_file.as_deref()) {
            ("", _) => errors.push(FieldError::required(&path.child("type"), "")),
            ("KubeConfigFile", None | Some("")) => errors.push(FieldError::required(&at, "")),
            ("KubeConfigFile", Some(file)) if !file.starts_with('/') => {
                errors.push(FieldError::invalid(&at, file, "must be an absolute path"));
            }
            ("KubeConfigFile", Some(_)) => {}
            (other, _) => errors.push(FieldError::not_supported(&path.child("type"), other, &["KubeConfigFile"])),
        }
    }
}

/// What is counted (`apiserver/plugin/pkg/authorizer/webhook/metrics`).
#[derive(Clone)]
pub struct AuthorizationMetrics {
    /// By who made them.
    pub decisions: Decisions,
    evaluations: IntCounterVec,
    durations: HistogramVec,
    fail_open: IntCounterVec,
    exclusions: IntCounterVec,
}

impl Default for AuthorizationMetrics {
    fn default() -> Self {
        let counter = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(format!("apiserver_authorization_{name}"), help), labels)
                .expect("the name is well-formed")
        };
        let durations = HistogramOpts::new(
            "apiserver_authorization_webhook_duration_seconds",
            "[ALPHA] Request latency in seconds.",
        );
        AuthorizationMetrics {
            decisions: Decisions::default(),
            evaluations: counter(
                "webhook_evaluations_total",
                "[ALPHA] Round-trips to authorization webhooks.",
                &["name", "result"],
            ),
            durations: HistogramVec::new(durations, &["name", "result"]).expect("the name is well-formed"),
            fail_open: counter(
                "webhook_evaluations_fail_open_total",
                "[ALPHA] NoOpinion results due to webhook timeout or error.",
                &["name", "result"],
            ),
            exclusions: counter(
                "match_condition_exclusions_total",
                "[ALPHA] Total number of exclusions when an authorization webhook is skipped because match conditions exclude it.",
                &["type", "name"],
            ),
        }
    }
}

impl AuthorizationMetrics {
    /// For whoever shows them.
    pub fn collectors(&self) -> Vec<Box<dyn Collector>> {
        vec![
            Box::new(self.decisions.collector()),
            Box::new(self.evaluations.clone()),
            Box::new(self.durations.clone()),
            Box::new(self.fail_open.clone()),
            Box::new(self.exclusions.clone()),
        ]
    }
}

/// Asks one webhook.
pub struct WebhookAuthorizer {
    name: String,
    client: Arc<WebhookClient>,
    config: ClientConfig,
    version: String,
    timeout: Duration,
    allowed_ttl: Duration,
    refused_ttl: Duration,
    on_error: Decision,
    conditions: Vec<(String, Program)>,
    cache: Cache<String, Decision>,
    metrics: AuthorizationMetrics,
}

impl WebhookAuthorizer {
    /// `webhook` was checked; `config` is what its kubeconfig says.
    pub fn new(
        name: &str,
        webhook: &Webhook,
        config: ClientConfig,
        client: Arc<WebhookClient>,
        metrics: AuthorizationMetrics,
    ) -> Self {
        let kept = |keep: Option<bool>, ttl: &str| if keep == Some(false) { Duration::ZERO } else { positive(ttl) };
        let env = env();
        let compiled = |c: &MatchCondition| {
            let program = compile_as(&c.expression, &env, &[Type::Bool]).ok()?;
            Some((c.expression.clone(), program))
        };
        WebhookAuthorizer {
            name: name.to_owned(),
            client,
            config,
            version: webhook.subject_access_review_version.clone(),
            timeout: positive(&webhook.timeout),
            allowed_ttl: kept(webhook.cache_authorized_requests, &webhook.authorized_ttl),
            refused_ttl: kept(webhook.cache_unauthorized_requests, &webhook.unauthorized_ttl),
            on_error: match webhook.failure_policy.as_str() {
                "Deny" => Decision::Deny(String::new()),
                _ => Decision::NoOpinion(String::new()),
            },
            conditions: webhook.match_conditions.iter().filter_map(compiled).collect(),
            cache: Cache::default(),
            metrics,
        }
    }

    async fn ask(&self, spec: Json) -> Result<Decision, WebhookError> {
        let review = json!({
            "kind": "SubjectAccessReview", "apiVersion": format!("authorization.k8s.io/{}", self.version),
            "metadata": {}, "spec": spec, "status": {"allowed": false},
        });
        let read = |answer: Result<Bytes, WebhookError>, took: Duration| {
            let decision = answer.and_then(|answer| decision_of(&answer).map_err(WebhookError::Config));
            let labels = [&*self.name, result_of(&decision)];
            self.metrics.evaluations.with_label_values(&labels).inc();
            self.metrics.durations.with_label_values(&labels).observe(took.as_secs_f64());
            decision
        };
        let body = Bytes::from(review.to_string());
        let decision = post(&self.client, &self.config, self.timeout, body, read).await;
        if decision.is_err() && matches!(self.on_error, Decision::NoOpinion(_)) {
            self.metrics.fail_open.with_label_values(&[&self.name, result_of(&decision)]).inc();
        }
        decision
    }
}

/// As metrics name it.
fn result_of(decision: &Result<Decision, WebhookError>) -> &'static str {
    match decision {
        Ok(_) => "success",
        Err(WebhookError::Timeout { .. } | WebhookError::Answered { code: 504, .. }) => "timeout",
        Err(_) => "error",
    }
}

fn decision_of(answer: &[u8]) -> Result<Decision, String> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Review {
        status: Status,
    }
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Status {
        allowed: bool,
        denied: bool,
        reason: String,
    }
    let Review { status } = serde_json::from_slice(answer).map_err(|e| e.to_string())?;
    Ok(match (status.denied, status.allowed) {
        (true, _) => Decision::Deny(status.reason),
        (_, true) => Decision::Allow((!status.reason.is_empty()).then(|| status.reason.into())),
        _ => Decision::NoOpinion(status.reason),
    })
}

#[async_trait]
impl Authorizer for WebhookAuthorizer {
    async fn authorize(&self, attributes: &Attributes<'_>) -> Decision {
        if !self.conditions.is_empty() {
            match holds(&self.conditions, attributes) {
                Ok(true) => {}
                Ok(false) => {
                    self.metrics.exclusions.with_label_values(&["Webhook", &self.name]).inc();
                    return Decision::NoOpinion(String::new());
                }
                Err(why) => {
                    tracing::warn!(authorizer = %self.name, %why, "a match condition cannot be evaluated");
                    return self.on_error.clone();
                }
            }
        }
        let spec = spec_of(attributes, &self.version);
        let key = spec.to_string();
        if let Some(known) = self.cache.get(&key) {
            return known;
        }
        match self.ask(spec).await {
            Ok(decision) => {
                let ttl = if decision.is_allowed() { self.allowed_ttl } else { self.refused_ttl };
                if key.len() < MAX_QUESTION {
                    self.cache.keep(key, decision.clone(), ttl);
                }
                decision
            }
            Err(error) => {
                tracing::error!(authorizer = %self.name, %error, "failed to make webhook authorizer request");
                self.on_error.clone()
            }
        }
    }

    async fn rules_for(&self, _user: &UserInfo, _namespace: &str) -> Rules {
        let why = "webhook authorizer does not support user rule resolution";
        Rules { incomplete: Some(why.to_owned()), ..Rules::default() }
    }
}

// === questions ===

/// The spec of a SubjectAccessReview, without what is empty.
fn spec_of(a: &Attributes<'_>, version: &str) -> Json {
    let mut spec = Map::new();
    let mut part = Map::new();
    let fields = match a.is_resource_request {
        true => vec![
            ("namespace", a.namespace),
            ("verb", a.verb),
            ("group", a.group),
            ("version", a.version),
            ("resource", a.resource),
            ("subresource", a.subresource),
            ("name", a.name),
        ],
        false => vec![("path", a.path), ("verb", a.verb)],
    };
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
        part.insert(name.into(), value.into());
    }
    for (name, requirements) in selectors(a) {
        part.insert(name.into(), json!({"requirements": requirements}));
    }
    let name = if a.is_resource_request { "resourceAttributes" } else { "nonResourceAttributes" };
    spec.insert(name.into(), Json::Object(part));
    if !a.user.name.is_empty() {
        spec.insert("user".into(), a.user.name.as_str().into());
    }
    if !a.user.groups.is_empty() {
        spec.insert(if version == "v1" { "groups" } else { "group" }.into(), json!(a.user.groups));
    }
    if !a.user.extra.is_empty() {
        spec.insert("extra".into(), json!(a.user.extra));
    }
    if !a.user.uid.is_empty() {
        spec.insert("uid".into(), a.user.uid.as_str().into());
    }
    Json::Object(spec)
}

/// The selectors of a request that demand something.
fn selectors(a: &Attributes<'_>) -> impl Iterator<Item = (&'static str, Vec<Json>)> {
    let both = [("fieldSelector", of_fields(a.field_selector)), ("labelSelector", of_labels(a.label_selector))];
    both.into_iter().filter(|(_, requirements)| !requirements.is_empty())
}

/// A label selector as LabelSelectorRequirements (`labelSelectorToAuthorizationAPI`).
fn of_labels(selector: &str) -> Vec<Json> {
    let parsed = LabelSelector::parse(selector).unwrap_or_default();
    let one = |r: &Requirement| {
        let operator = match r.operator() {
            Operator::In | Operator::Equals | Operator::DoubleEquals => "In",
            Operator::NotIn | Operator::NotEquals => "NotIn",
            Operator::Exists => return Some(json!({"key": r.key(), "operator": "Exists"})),
            Operator::DoesNotExist => return Some(json!({"key": r.key(), "operator": "DoesNotExist"})),
            // The review has no word for these; without them it asks for more.
            Operator::GreaterThan | Operator::LessThan => return None,
        };
        Some(json!({"key": r.key(), "operator": operator, "values": r.values()}))
    };
    parsed.requirements().iter().filter_map(one).collect()
}

/// A field selector as FieldSelectorRequirements (`fieldSelectorToAuthorizationAPI`).
fn of_fields(selector: &str) -> Vec<Json> {
    // What cannot be read is no narrower than nothing.
    let parsed = FieldSelector::parse(selector).unwrap_or_default();
    let one = |r: &FieldRequirement| {
        let operator = if r.equal { "In" } else { "NotIn" };
        json!({"key": r.field, "operator": operator, "values": [r.value]})
    };
    parsed.requirements().iter().map(one).collect()
}

/// What match conditions see: `request`, a SubjectAccessReviewSpec (`buildRequestType`).
fn env() -> Env {
    let object = |name: &str, fields: &[(&str, Type)]| {
        let fields = fields.iter().map(|(name, ty)| ((*name).to_owned(), Decl::from(ty.clone())));
        Type::Object(Arc::new(ObjectType::new(name, fields)))
    };
    let text = Type::String;
    let requirement = object(
        "kubernetes.SelectorRequirement",
        &[("key", text.clone()), ("operator", text.clone()), ("values", Type::list(text.clone()))],
    );
    let selector =
        |name| object(name, &[("rawSelector", Type::String), ("requirements", Type::list(requirement.clone()))]);
    let resource = object(
        "kubernetes.ResourceAttributes",
        &[
            ("namespace", text.clone()),
            ("verb", text.clone()),
            ("group", text.clone()),
            ("version", text.clone()),
            ("resource", text.clone()),
            ("subresource", text.clone()),
            ("name", text.clone()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let path = object("kubernetes.NonResourceAttributes", &[("path", text.clone()), ("verb", text.clone())]);
    let request = object(
        "kubernetes.SubjectAccessReviewSpec",
        &[
            ("resourceAttributes", resource),
            ("nonResourceAttributes", path),
            ("user", text.clone()),
            ("groups", Type::list(text.clone())),
            ("extra", Type::map(text.clone(), Type::list(text.clone()))),
            ("uid", text),
        ],
    );
    Env::new().with("request", request)
}

/// The request as conditions see it: what is empty is there (`convertObjectToUnstructured`).
fn request_of(a: &Attributes<'_>) -> Json {
    let mut request = json!({"user": a.user.name, "groups": a.user.groups, "uid": a.user.uid, "extra": a.user.extra});
    if a.is_resource_request {
        let mut resource = json!({
            "namespace": a.namespace, "verb": a.verb, "group": a.group, "version": a.version, "resource": a.resource,
            "subresource": a.subresource, "name": a.name,
        });
        for (name, requirements) in selectors(a) {
            resource[name] = json!({"requirements": requirements});
        }
        request["resourceAttributes"] = resource;
    } else {
        request["nonResourceAttributes"] = json!({"path": a.path, "verb": a.verb});
    }
    request
}

/// Whether all conditions hold; one that is false decides, also after errors.
fn holds(conditions: &[(String, Program)], a: &Attributes<'_>) -> Result<bool, String> {
    let variables = [("request", Value::from_json(&request_of(a)))];
    let mut budget = Budget::new(MATCH_CONDITIONS_BUDGET);
    let mut errors = Vec::new();
    for (text, program) in conditions {
        match program.eval(&variables, &mut budget) {
            Ok(Value::Bool(false)) => return Ok(false),
            Ok(_) => {}
            Err(error) => {
                errors.push(format!("cel evaluation error: expression '{text}' resulted in error: {error}"));
            }
        }
    }
    if errors.is_empty() { Ok(true) } else { Err(errors.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(authorizers: &str, expected: Expect) {
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers: [{authorizers}]"
        );
        let result = AuthorizationConfiguration::parse(&text);
        expected.assert_eq(&result.map_or_else(|why| why, |c| format!("{} authorizers", c.authorizers.len())));
    }

    const OWN: &str = "{type: Node, name: node}, {type: RBAC, name: rbac}";
    const HOOK: &str = "timeout: 3s, subjectAccessReviewVersion: v1, matchConditionSubjectAccessReviewVersion: v1, failurePolicy: Deny, connectionInfo: {type: KubeConfigFile, kubeConfigFile: /k}";

    #[test]
    fn node_and_rbac_cannot_be_left_out() {
        check(&format!("{{type: Webhook, name: hook, webhook: {{{HOOK}}}}}, {OWN}"), expect!["3 authorizers"]);
        check(
            "{type: RBAC, name: rbac}",
            expect![
                "authorizers: Required value: Node must be among the authorizers: this server does not run without it"
            ],
        );
        check(
            &format!("{OWN}, {{type: AlwaysAllow, name: all}}, {{type: RBAC, name: again}}"),
            expect![[
                r#"[authorizers[2].type: Unsupported value: "AlwaysAllow": supported values: "Node", "RBAC", "Webhook", authorizers[3].type: Duplicate value: "RBAC"]"#
            ]],
        );
        check(
            &format!(
                "{OWN}, {{type: Webhook, name: rbac, webhook: {{timeout: 31s, authorizedTTL: -1s, failurePolicy: Allow, matchConditions: [{{expression: request.nothing}}]}}}}"
            ),
            expect![[r#"
                [authorizers[2].name: Duplicate value: "rbac", authorizers[2].timeout: Invalid value: "31s": must be > 0s and <= 30s, authorizers[2].authorizedTTL: Invalid value: "-1s": must be > 0s, authorizers[2].subjectAccessReviewVersion: Required value, authorizers[2].failurePolicy: Unsupported value: "Allow": supported values: "NoOpinion", "Deny", authorizers[2].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions are specified, authorizers[2].connectionInfo.type: Required value, authorizers[2].matchConditions[0].expression: Invalid value: "request.nothing": compilation failed: ERROR: <input>:1:8: undefined field 'nothing'
                 | request.nothing
                 | .......^]"#]],
        );
    }

    #[test]
    fn conditions_see_the_review() {
        let compile = |text: &str| (text.to_owned(), compile_as(text, &env(), &[Type::Bool]).expect("compiles"));
        let user = UserInfo::new("jane", &["devs"]);
        let attributes = Attributes {
            user: &user,
            verb: "list",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "a",
            name: "",
            path: "",
            is_resource_request: true,
            field_selector: "spec.nodeName=n,status.phase!=Failed",
            label_selector: "e,c!=d,!f,g in (x,y),a=b,n>3",
        };
        let check = |text: &str| holds(&[compile(text)], &attributes);
        assert_eq!(check("has(request.resourceAttributes) && request.resourceAttributes.namespace == 'a'"), Ok(true));
        assert_eq!(check("'system:nodes' in request.groups"), Ok(false));
        assert!(check("request.nonResourceAttributes.path == '/x'").is_err());
        expect![[r#"{"groups":["devs"],"resourceAttributes":{"fieldSelector":{"requirements":[{"key":"spec.nodeName","operator":"In","values":["n"]},{"key":"status.phase","operator":"NotIn","values":["Failed"]}]},"labelSelector":{"requirements":[{"key":"a","operator":"In","values":["b"]},{"key":"c","operator":"NotIn","values":["d"]},{"key":"e","operator":"Exists"},{"key":"f","operator":"DoesNotExist"},{"key":"g","operator":"In","values":["x","y"]}]},"namespace":"a","resource":"pods","verb":"list","version":"v1"},"user":"jane"}"#]].assert_eq(&spec_of(&attributes, "v1").to_string());
        assert_eq!(
            decision_of(br#"{"status":{"allowed":true,"denied":true,"reason":"no"}}"#),
            Ok(Decision::Deny("no".into()))
        );
    }
}
