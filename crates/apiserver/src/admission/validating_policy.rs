//! ValidatingAdmissionPolicy: expressions that judge objects
//! (`apiserver/pkg/admission/plugin/policy/validating/{dispatcher,validator}.go`).

use super::configured::Configured;
use super::expressions::{Evaluation, Expression, Failure, Verdict};
use super::matching::{is_exempt, namespace_of};
use super::policy::{Binding, Fields, Policy, error_type};
use super::{Admission, Operation, Request};
use crate::metrics::PolicyCheck;
use api::Status;
use api::k8s::api::admissionregistration::v1::{
    AuditAnnotation, ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, Validation,
};
use api::prelude::Namespace;
use api::status::StatusCause;
use async_trait::async_trait;
use machinery::cel::{self, Budget, Type, Value};
use machinery::kinds::KindInfo;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The longest message that an expression makes (`MaxEvaluatedMessageExpressionSizeBytes`).
const MAX_MESSAGE: usize = 5 * 1024;

/// The longest value of an audit annotation (`maxAuditAnnotationValueLength`).
const MAX_ANNOTATION: usize = 10 * 1024;

/// See the file's head.
pub struct ValidatingPolicies {
    policies: Configured<ValidatingAdmissionPolicy, Option<Judge>>,
    bindings: Configured<ValidatingAdmissionPolicyBinding, Option<Binding>>,
}

impl Default for ValidatingPolicies {
    fn default() -> Self {
        Self::new()
    }
}

impl ValidatingPolicies {
    /// With nothing compiled yet.
    pub fn new() -> Self {
        ValidatingPolicies { policies: Configured::new(judge_of), bindings: Configured::new(binding_of) }
    }
}

/// A policy with its own expressions.
struct Judge {
    policy: Policy,
    validations: Vec<Check>,
    annotations: Vec<(String, Expression)>,
}

struct Check {
    expression: Expression,
    message_expression: Option<Expression>,
    message: String,
    reason: String,
}

fn judge_of(policy: ValidatingAdmissionPolicy) -> Option<Judge> {
    let spec = policy.spec.unwrap_or_default();
    let policy = Policy::new(Fields {
        name: policy.metadata.name.as_deref().unwrap_or_default(),
        constraints: spec.match_constraints.as_ref(),
        param_kind: spec.param_kind.as_ref(),
        failure_policy: spec.failure_policy.as_deref(),
        conditions: spec.match_conditions.as_deref(),
        variables: spec.variables.as_deref(),
    });
    let (full, message) = (policy.env(true, false), policy.env(false, false));
    let validations = spec.validations.unwrap_or_default();
    let annotations = spec.audit_annotations.unwrap_or_default();
    Some(Judge {
        validations: validations.iter().map(|v| Check::new(v, &full, &message)).collect(),
        annotations: annotations.iter().map(|a| (a.key.clone(), annotation(a, &full))).collect(),
        policy,
    })
}

fn annotation(annotation: &AuditAnnotation, env: &cel::Env) -> Expression {
    Expression::new(annotation.value_expression.trim(), env, &[Type::String, Type::Null])
}

fn binding_of(binding: ValidatingAdmissionPolicyBinding) -> Option<Binding> {
    let (name, spec) = (binding.metadata.name.unwrap_or_default(), &binding.spec);
    let resources = spec.match_resources.as_ref();
    Some(Binding::new(&name, &spec.policy_name, resources, spec.param_ref.as_ref(), &spec.validation_actions))
}

impl Check {
    fn new(validation: &Validation, full: &cel::Env, message: &cel::Env) -> Self {
        let text = validation.message_expression.as_deref().map(str::trim).filter(|t| !t.is_empty());
        Check {
            expression: Expression::new(&validation.expression, full, &[Type::Bool]),
            message_expression: text.map(|text| Expression::new(text, message, &[Type::String])),
            message: validation.message.as_deref().unwrap_or_default().trim().to_owned(),
            reason: validation.reason.clone().unwrap_or_else(|| "Invalid".to_owned()),
        }
    }
}

/// A judgement against a request.
struct Denial {
    message: String,
    /// Empty: of an error.
    reason: String,
    /// How long the expression took.
    took: Duration,
}

impl Denial {
    fn error(message: impl Into<String>, took: Duration) -> Self {
        Denial { message: message.into(), reason: String::new(), took }
    }
}

/// What a policy says of a request.
#[derive(Default)]
struct Judgement {
    /// With the place of the validation.
    denials: Vec<(usize, Denial)>,
    /// Errors that `failurePolicy` lets pass.
    ignored: Vec<Denial>,
    annotations: Vec<(String, String)>,
    /// Errors of audit annotations.
    errors: Vec<String>,
}

#[async_trait]
impl Admission for ValidatingPolicies {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn handles(&self, _: Operation, kind: &KindInfo, _: &str) -> bool {
        !is_exempt(kind)
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let bindings = self.bindings.all(request).await?;
        if bindings.is_empty() {
            return Ok(());
        }
        let policies = self.policies.all(request).await?;
        // The first denial is answered; all policies may warn.
        let mut denied = None;
        for judge in policies.iter().filter_map(|p| p.as_ref().as_ref()) {
            let own = bindings.iter().filter_map(|b| b.as_ref().as_ref());
            let own: Vec<&Binding> = own.filter(|b| b.policy == judge.policy.name).collect();
            if !own.is_empty() {
                judge.validate(request, &own, &mut denied).await?;
            }
        }
        denied.map_or(Ok(()), Err)
    }
}

impl Judge {
    async fn validate(
        &self,
        request: &Request<'_>,
        bindings: &[&Binding],
        denied: &mut Option<Status>,
    ) -> Result<(), Status> {
        let mut deny = |message: &str, reason: &str| {
            denied.get_or_insert_with(|| refusal(request, message, reason));
        };
        let policy = &self.policy;
        let name = &policy.name;
        let kind = match policy.matches(request).await {
            Ok(Some(kind)) => kind,
            Ok(None) => return Ok(()),
            Err(_) if policy.ignores_failures => return Ok(()),
            Err(why) => {
                deny(
                    &format!("ValidatingAdmissionPolicy '{name}' denied request: failed to configure policy: {why}"),
                    "",
                );
                return Ok(());
            }
        };
        let mut namespace: Option<Option<Namespace>> = None;
        // Of several bindings with different values all are noted (`auditAnnotationCollector`).
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in bindings {
            let params = match binding.matches(request).await {
                Ok(false) => continue,
                Ok(true) => policy.params(request, binding).await,
                Err(status) => Err(status.message),
            };
            let told = |why: &str| {
                format!("ValidatingAdmissionPolicy '{name}' with binding '{}' denied request: {why}", binding.name)
            };
            let params = match params {
                Ok(params) => params,
                Err(_) if policy.ignores_failures => continue,
                Err(why) => {
                    deny(&told(&format!("failed to configure binding: {why}")), "");
                    continue;
                }
            };
            if namespace.is_none() {
                namespace = Some(namespace_of(request).await?);
            }
            let object = namespace.as_ref().and_then(|n| n.as_ref()).map(|n| n as &dyn api::AnyObject);
            for params in &params {
                let evaluation = Evaluation::new(request, &kind).await?;
                let evaluation = evaluation.in_namespace(object).with_policy(params, &policy.variables);
                let judgement = self.judge(&evaluation).await;
                let count = |denial: &Denial, action| {
                    let (error, took) = (error_type(&denial.message), denial.took);
                    let check = PolicyCheck { policy: name, binding: &binding.name, error, action, took };
                    request.cluster.metrics().policy(&check);
                };
                judgement.ignored.iter().for_each(|error| count(error, "allow"));
                for (index, denial) in &judgement.denials {
                    for action in &binding.actions {
                        match action.as_str() {
                            "Deny" => {
                                deny(&told(&denial.message), &denial.reason);
                                count(denial, "deny");
                            }
                            "Warn" => {
                                request.remarks.add([format!(
                                    "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{}': {}",
                                    binding.name, denial.message
                                )]);
                                count(denial, "warn");
                            }
                            _ => {
                                annotate_failure(request, name, binding, *index, &denial.message);
                                count(denial, "audit");
                            }
                        }
                    }
                }
                for why in &judgement.errors {
                    deny(&told(why), "");
                }
                for (key, value) in judgement.annotations {
                    let values: &mut Vec<String> = annotations.entry(key).or_default();
                    if !values.contains(&value) {
                        values.push(value);
                    }
                }
            }
        }
        for (key, values) in annotations {
            request.remarks.annotate(&format!("{name}/"), key.as_str(), &values.join(", "));
        }
        Ok(())
    }

    async fn judge(&self, evaluation: &Evaluation<'_>) -> Judgement {
        let ignores = self.policy.ignores_failures;
        let mut found = Judgement::default();
        let begun = Instant::now();
        match self.policy.conditions.hold(evaluation).await {
            Verdict::Holds => {}
            Verdict::Fails => return found,
            Verdict::Error(why) => return found.failed(ignores, 0, Denial::error(why, begun.elapsed())),
        }
        let mut budget = Budget::new(cel::REQUEST_BUDGET);
        let mut results = Vec::with_capacity(self.validations.len());
        for check in &self.validations {
            let begun = Instant::now();
            match evaluation.eval(&check.expression, &mut budget).await {
                Err(Failure::OutOfBudget(why)) => {
                    return found.failed(ignores, 0, Denial::error(why, begun.elapsed()));
                }
                result => results.push((result, begun.elapsed())),
            }
        }
        for (i, (check, (result, took))) in self.validations.iter().zip(results).enumerate() {
            match result {
                Ok(Value::Bool(true)) => {}
                Ok(_) => match check.message(evaluation, &mut budget).await {
                    Ok(message) => found.denials.push((i, Denial { message, reason: check.reason.clone(), took })),
                    Err(why) => {
                        let error = Denial::error(format!("failed messageExpression: {why}"), took);
                        found = found.failed(ignores, i, error);
                    }
                },
                Err(failure) => found = found.failed(ignores, i, Denial::error(failure.text(), took)),
            }
        }
        let mut budget = Budget::new(cel::REQUEST_BUDGET);
        for (key, annotation) in &self.annotations {
            match evaluation.eval(annotation, &mut budget).await {
                Ok(value) => {
                    if let Some(text) = value.as_str().map(str::trim).filter(|text| !text.is_empty()) {
                        let cut = text.floor_char_boundary(MAX_ANNOTATION);
                        found.annotations.push((key.clone(), text[..cut].to_owned()));
                    }
                }
                Err(_) if ignores => {}
                Err(failure) => found.errors.push(failure.text().to_owned()),
            }
        }
        found
    }
}

impl Judgement {
    fn failed(mut self, ignored: bool, index: usize, error: Denial) -> Self {
        match ignored {
            true => self.ignored.push(error),
            false => self.denials.push((index, error)),
        }
        self
    }
}

impl Check {
    /// The text for a failed check: of its expression, its own, or the expression itself.
    async fn message(&self, evaluation: &Evaluation<'_>, budget: &mut Budget) -> Result<String, String> {
        if let Some(expression) = &self.message_expression {
            match evaluation.eval(expression, budget).await {
                Err(Failure::OutOfBudget(why)) => return Err(why),
                Err(Failure::Expression(error)) => tracing::debug!(%error, "messageExpression failed"),
                Ok(value) => {
                    let text = value.as_str().unwrap_or_default().trim();
                    if !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n') {
                        return Ok(text.to_owned());
                    }
                }
            }
        }
        match self.message.is_empty() {
            false => Ok(self.message.clone()),
            true => Ok(format!("failed expression: {}", self.expression.text.trim())),
        }
    }
}

/// What the audit log is told of a validation that failed.
fn annotate_failure(request: &Request<'_>, policy: &str, binding: &Binding, index: usize, message: &str) {
    let (binding, validation_actions) = (binding.name.as_str(), binding.actions.as_slice());
    let failure = ValidationFailure { message, policy, binding, expression_index: index, validation_actions };
    let text = serde_json::to_string(&[failure]).unwrap_or_default();
    request.remarks.annotate("validation.policy.admission.k8s.io/", "validation_failure", &text);
}

/// `ValidationFailureValue`
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ValidationFailure<'a> {
    message: &'a str,
    policy: &'a str,
    binding: &'a str,
    expression_index: usize,
    validation_actions: &'a [String],
}

fn refusal(request: &Request<'_>, message: &str, reason: &str) -> Status {
    let cause = StatusCause { message: message.to_owned(), ..StatusCause::default() };
    let mut status = request.forbidden_because(message, cause);
    let (reason, code) = match reason {
        "Forbidden" => ("Forbidden", 403),
        "Unauthorized" => ("Unauthorized", 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    status.reason = reason.to_owned();
    status.code = code;
    status
}
