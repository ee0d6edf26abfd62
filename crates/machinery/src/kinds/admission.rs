//! Admission webhooks and policies (`pkg/registry/admissionregistration/*/strategy.go`,
//! `pkg/apis/admissionregistration/validation/validation.go`).

use super::common::{age, age_column, bump_if, column, name, name_column, set, str_of, typed_column};
use super::metadata::reset_for_status;
use super::{Column, GenerateName, Strategy};
use crate::cel::policy::{self, Sees};
use crate::cel::{Env, Type};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    Messages, WebhookService, invalid_each, is_c_identifier, is_dns1035_label, is_dns1123_subdomain, is_label_key,
    is_path_segment_name, one_of, required, required_one_of, unique, validate_label_selector, validate_review_versions,
    validate_webhook_client,
};
use api::LabelSelector;
use api::k8s::api::admissionregistration::v1::{
    MatchCondition, MatchResources, MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding,
    MutatingWebhookConfiguration, NamedRuleWithOperations, ParamKind, ParamRef, RuleWithOperations, ServiceReference,
    ValidatingAdmissionPolicy, ValidatingAdmissionPolicyBinding, ValidatingWebhookConfiguration, Variable,
    WebhookClientConfig,
};
use api::prelude::MetaExt;
use serde_json::{Value, json};

// === shared defaults ===

fn fill_client(client: &mut WebhookClientConfig) {
    if let Some(service) = &mut client.service {
        set(&mut service.port, 443);
    }
}

fn fill_match(
    policy: &mut Option<String>,
    namespaces: &mut Option<LabelSelector>,
    objects: &mut Option<LabelSelector>,
) {
    set(policy, "Equivalent".to_owned());
    set(namespaces, LabelSelector::default());
    set(objects, LabelSelector::default());
}

fn fill_resources(resources: &mut MatchResources) {
    fill_match(&mut resources.match_policy, &mut resources.namespace_selector, &mut resources.object_selector);
    for rule in resources.resource_rules.iter_mut().chain(&mut resources.exclude_resource_rules).flatten() {
        set(&mut rule.scope, "*".to_owned());
    }
}

// === webhooks ===

/// Both webhook configurations are the same but for `reinvocationPolicy`.
macro_rules! webhooks {
    ($(#[$doc:meta])* $strategy:ident, $object:ty, |$hook:ident| $default:block, |$checked:ident, $errors:ident, $path:ident| $check:block) => {
        $(#[$doc])*
        pub(super) struct $strategy;

        impl Strategy for $strategy {
            type Object = $object;
            const GENERATE_NAME: GenerateName = GenerateName::Always;

            const CHECKS_FINALIZERS: bool = false;

            fn default(configuration: &mut $object) {
                for $hook in configuration.webhooks.iter_mut().flatten() {
                    fill_client(&mut $hook.client_config);
                    set(&mut $hook.failure_policy, "Fail".to_owned());
                    fill_match(&mut $hook.match_policy, &mut $hook.namespace_selector, &mut $hook.object_selector);
                    set(&mut $hook.timeout_seconds, 10);
                    for rule in $hook.rules.iter_mut().flatten() {
                        set(&mut rule.scope, "*".to_owned());
                    }
                    $default
                }
            }

            fn prepare_create(configuration: &mut $object) {
                configuration.metadata.generation = Some(1);
            }

            fn prepare_update(new: &mut $object, old: &$object) {
                let changed = new.webhooks != old.webhooks;
                bump_if(&mut new.metadata, &old.metadata, changed);
            }

            fn validate_name(name: &str) -> Messages {
                is_dns1123_subdomain(name)
            }

            fn validate(configuration: &$object) -> Errors {
                let hooks = configuration.webhooks.as_deref().unwrap_or_default();
                let path = |i: usize| Path::new("webhooks").index(i);
                let mut $errors = Vec::new();
                for (i, $checked) in hooks.iter().enumerate() {
                    let $path = &path(i);
                    $errors.extend(validate_hook(
                        &Hook {
                            name: &$checked.name,
                            rules: $checked.rules.as_deref().unwrap_or_default(),
                            failure_policy: &$checked.failure_policy,
                            match_policy: &$checked.match_policy,
                            side_effects: &$checked.side_effects,
                            timeout: $checked.timeout_seconds,
                            selectors: [
                                ("namespaceSelector", $checked.namespace_selector.as_ref()),
                                ("objectSelector", $checked.object_selector.as_ref()),
                            ],
                            client: &$checked.client_config,
                            conditions: $checked.match_conditions.as_deref().unwrap_or_default(),
                            versions: &$checked.admission_review_versions,
                        },
                        $path,
                    ));
                    $check
                }
                let names = hooks.iter().enumerate().filter(|(_, h)| !h.name.is_empty());
                unique(&mut $errors, names.map(|(i, h)| (path(i).child("name"), h.name.as_str())));
                $errors
            }

            const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

            fn columns() -> Vec<Column> {
                vec![name_column(), typed_column("Webhooks", "integer"), age_column()]
            }

            fn cells(configuration: &$object, now: jiff::Timestamp) -> Vec<Value> {
                let count = configuration.webhooks.as_ref().map_or(0, Vec::len);
                vec![name(configuration), count.into(), age(configuration, now)]
            }
        }
    };
}

webhooks!(
    /// What is particular about webhooks that change objects.
    MutatingWebhookConfigurationKind,
    MutatingWebhookConfiguration,
    |hook| {
        set(&mut hook.reinvocation_policy, "Never".to_owned());
    },
    |hook, errors, path| {
        if let Some(policy) = &hook.reinvocation_policy {
            one_of(&mut errors, &path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        }
    }
);

webhooks!(
    /// What is particular about webhooks that judge objects.
    ValidatingWebhookConfigurationKind,
    ValidatingWebhookConfiguration,
    |hook| {},
    |hook, errors, _path| {}
);

/// What both kinds of webhook have.
struct Hook<'a> {
    name: &'a str,
    rules: &'a [RuleWithOperations],
    failure_policy: &'a Option<String>,
    match_policy: &'a Option<String>,
    side_effects: &'a str,
    timeout: Option<i32>,
    selectors: [(&'static str, Option<&'a LabelSelector>); 2],
    client: &'a WebhookClientConfig,
    conditions: &'a [MatchCondition],
    versions: &'a [String],
}

fn validate_hook(hook: &Hook<'_>, path: &Path) -> Errors {
    let mut errors = validate_full_name(hook.name, &path.child("name"));
    for (i, rule) in hook.rules.iter().enumerate() {
        errors.extend(validate_rule(&Rule::from(rule), &path.child("rules").index(i)));
    }
    if let Some(policy) = hook.failure_policy {
        one_of(&mut errors, &path.child("failurePolicy"), policy, &["Fail", "Ignore"]);
    }
    if let Some(policy) = hook.match_policy {
        one_of(&mut errors, &path.child("matchPolicy"), policy, &["Equivalent", "Exact"]);
    }
    let effects_path = path.child("sideEffects");
    if hook.side_effects.is_empty() {
        errors.push(FieldError::required(&effects_path, "must specify one of None, NoneOnDryRun"));
    } else {
        one_of(&mut errors, &effects_path, hook.side_effects, &["None", "NoneOnDryRun"]);
    }
    if let Some(timeout) = hook.timeout.filter(|t| !(1..=30).contains(t)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.push(FieldError::invalid(&path.child("timeoutSeconds"), timeout, detail));
    }
    for (field, selector) in hook.selectors {
        errors.extend(validate_label_selector(selector, &path.child(field)));
    }
    let service = hook.client.service.as_ref().map(service);
    errors.extend(validate_webhook_client(hook.client.url.as_deref(), service, &path.child("clientConfig")));
    errors.extend(validate_conditions(hook.conditions, false, &path.child("matchConditions")));
    let missing = "must specify one of v1, v1beta1";
    errors.extend(validate_review_versions(hook.versions, missing, &path.child("admissionReviewVersions")));
    errors
}

fn service(service: &ServiceReference) -> WebhookService<'_> {
    WebhookService {
        name: &service.name,
        namespace: &service.namespace,
        path: service.path.as_deref(),
        port: service.port.unwrap_or(0),
    }
}

fn validate_full_name(name: &str, path: &Path) -> Errors {
    let messages = is_dns1123_subdomain(name);
    match () {
        () if name.is_empty() => vec![FieldError::required(path, "")],
        () if !messages.is_empty() => vec![FieldError::invalid(path, name, &messages.join(","))],
        () if name.split('.').count() < 3 => {
            let detail = "should be a domain with at least three segments separated by dots";
            vec![FieldError::invalid(path, name, detail)]
        }
        () => Vec::new(),
    }
}

// === rules ===

/// What rules of webhooks and of policies have.
struct Rule<'a> {
    operations: &'a [String],
    groups: &'a [String],
    versions: &'a [String],
    resources: &'a [String],
    scope: &'a Option<String>,
}

impl<'a> From<&'a RuleWithOperations> for Rule<'a> {
    fn from(rule: &'a RuleWithOperations) -> Self {
        Rule {
            operations: rule.operations.as_deref().unwrap_or_default(),
            groups: rule.api_groups.as_deref().unwrap_or_default(),
            versions: rule.api_versions.as_deref().unwrap_or_default(),
            resources: rule.resources.as_deref().unwrap_or_default(),
            scope: &rule.scope,
        }
    }
}

impl<'a> From<&'a NamedRuleWithOperations> for Rule<'a> {
    fn from(rule: &'a NamedRuleWithOperations) -> Self {
        Rule {
            operations: rule.operations.as_deref().unwrap_or_default(),
            groups: rule.api_groups.as_deref().unwrap_or_default(),
            versions: rule.api_versions.as_deref().unwrap_or_default(),
            resources: rule.resources.as_deref().unwrap_or_default(),
            scope: &rule.scope,
        }
    }
}

fn validate_rule(rule: &Rule<'_>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let lists = [
        ("operations", rule.operations, "operations"),
        ("apiGroups", rule.groups, "API groups"),
        ("apiVersions", rule.versions, "API versions"),
    ];
    for (field, values, what) in lists {
        let path = path.child(field);
        if values.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        if values.len() > 1 && values.iter().any(|v| v == "*") {
            let detail = format!("if '*' is present, must not specify other {what}");
            errors.push(FieldError::invalid(&path, &json!(values), &detail));
        }
        for (i, value) in values.iter().enumerate() {
            match field {
                "operations" => {
                    one_of(&mut errors, &path.index(i), value, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"]);
                }
                "apiVersions" => required(&mut errors, &path.index(i), value),
                _ => {}
            }
        }
    }
    errors.extend(validate_resources(rule.resources, &path.child("resources")));
    if let Some(scope) = rule.scope {
        one_of(&mut errors, &path.child("scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
    errors
}

fn validate_resources(resources: &[String], path: &Path) -> Errors {
    if resources.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    for (i, resource) in resources.iter().enumerate() {
        required(&mut errors, &path.index(i), resource);
        let Some((of, part)) = resource.split_once('/') else { continue };
        let before = |wanted: &str| resources[..i].iter().any(|r| r == wanted);
        for wide in [format!("{of}/*"), format!("*/{part}")].iter().filter(|wide| before(wide)) {
            let detail = format!("if '{wide}' is present, must not specify {resource}");
            errors.push(FieldError::invalid(&path.index(i), resource, &detail));
        }
    }
    let has = |wanted: &str| resources.iter().any(|r| r == wanted);
    if resources.len() > 1 && has("*/*") {
        let detail = "if '*/*' is present, must not specify other resources";
        errors.push(FieldError::invalid(path, &json!(resources), detail));
    }
    // Upstream looks only at the last name without a part.
    let last = resources.iter().rev().find(|r| !r.is_empty() && !r.contains('/'));
    if has("*") && last.is_some_and(|r| r != "*") {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.push(FieldError::invalid(path, &json!(resources), detail));
    }
    errors
}

fn validate_conditions(conditions: &[MatchCondition], params: bool, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let env = policy::env(Sees { params, authorizer: true, patch_types: false });
    if conditions.len() > 64 {
        errors.push(FieldError::too_many(path, conditions.len(), 64));
    }
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        let expression = condition.expression.trim();
        let at = path.child("expression");
        required(&mut errors, &at, expression);
        if !expression.is_empty() {
            compiled(&mut errors, &at, expression, &env, &[Type::Bool]);
        }
        let at = path.child("name");
        if condition.name.is_empty() {
            errors.push(FieldError::required(&at, ""));
        } else {
            let wrong = crate::validation::is_label_key(&condition.name);
            errors.extend(invalid_each(&at, &condition.name, wrong));
        }
        if !condition.name.is_empty() && conditions[..i].iter().any(|c| c.name == condition.name) {
            errors.push(FieldError::duplicate(&at, &condition.name));
        }
    }
    errors
}

/// `maxAuditAnnotationValueExpressionLength`
const MAX_ANNOTATION_EXPRESSION: usize = 5 * 1024;

/// Compiles an expression; gives back its type, or complains.
fn compiled(errors: &mut Errors, path: &Path, expression: &str, env: &Env, wanted: &[Type]) -> Option<Type> {
    match policy::compile_as(expression, env, wanted) {
        Ok(program) => Some(program.output_type().clone()),
        Err(why) => {
            errors.push(FieldError::invalid(path, expression, &why));
            None
        }
    }
}

// === policies ===

/// What is particular about a policy that judges objects.
pub(super) struct ValidatingAdmissionPolicyKind;

impl Strategy for ValidatingAdmissionPolicyKind {
    type Object = ValidatingAdmissionPolicy;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    const CHECKS_FINALIZERS: bool = false;

    fn default(policy: &mut ValidatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        set(&mut spec.failure_policy, "Fail".to_owned());
        spec.match_constraints.iter_mut().for_each(fill_resources);
    }

    fn prepare_create(policy: &mut ValidatingAdmissionPolicy) {
        policy.metadata.generation = Some(1);
        policy.status = Some(Default::default());
    }

    fn prepare_update(new: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        new.status = old.status.clone();
        let changed = new.spec != old.spec;
        bump_if(&mut new.metadata, &old.metadata, changed);
    }

    fn prepare_status_update(new: &mut ValidatingAdmissionPolicy, old: &ValidatingAdmissionPolicy) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_status_update(new: &ValidatingAdmissionPolicy, _old: &ValidatingAdmissionPolicy) -> Errors {
        let conditions = new.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        crate::validation::validate_conditions(conditions, &Path::new("status").child("conditions"))
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(policy: &ValidatingAdmissionPolicy) -> Errors {
        let spec = policy.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut errors = validate_policy(
            &spec.failure_policy,
            spec.param_kind.as_ref(),
            spec.match_constraints.as_ref(),
            spec.match_conditions.as_deref().unwrap_or_default(),
            &path,
        );
        let params = spec.param_kind.is_some();
        let variables = spec.variables.as_deref().unwrap_or_default();
        let defined = validate_variables(&mut errors, variables, params, &path.child("variables"));
        let env = |authorizer| {
            let env = policy::env(Sees { params, authorizer, patch_types: false });
            if variables.is_empty() { env } else { policy::with_variables(env, &defined) }
        };
        let (full_env, message_env) = (env(true), env(false));
        let validations = spec.validations.as_deref().unwrap_or_default();
        let annotations = spec.audit_annotations.as_deref().unwrap_or_default();
        if validations.is_empty() && annotations.is_empty() {
            for field in ["validations", "auditAnnotations"] {
                let detail = "validations or auditAnnotations must contain at least one item";
                errors.push(FieldError::required(&path.child(field), detail));
            }
        }
        for (i, validation) in validations.iter().enumerate() {
            let path = path.child("validations").index(i);
            if validation.expression.trim().is_empty() {
                errors.push(FieldError::required(&path.child("expression"), "expression is not specified"));
            } else {
                compiled(&mut errors, &path.child("expression"), &validation.expression, &full_env, &[Type::Bool]);
            }
            for (field, text) in
                [("messageExpression", &validation.message_expression), ("message", &validation.message)]
            {
                let text = str_of(text);
                if !text.is_empty() && text.trim().is_empty() {
                    errors.push(FieldError::invalid(&path.child(field), text, "must be non-empty if specified"));
                } else if field == "message" && text.trim().contains(['\n', '\r']) {
                    errors.push(FieldError::invalid(&path.child(field), text, "must not contain line breaks"));
                } else if field == "messageExpression" && !text.is_empty() {
                    compiled(&mut errors, &path.child(field), text, &message_env, &[Type::String]);
                }
            }
            if let Some(reason) = &validation.reason {
                let reasons = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
                one_of(&mut errors, &path.child("reason"), reason, &reasons);
            }
        }
        for (i, annotation) in annotations.iter().enumerate() {
            let path = path.child("auditAnnotations").index(i);
            errors.extend(validate_annotation_key(policy.name(), &annotation.key, &path.child("key")));
            let (at, expression) = (path.child("valueExpression"), annotation.value_expression.trim());
            match expression.len() {
                0 => errors.push(FieldError::required(&at, "valueExpression is not specified")),
                length if length > MAX_ANNOTATION_EXPRESSION => {
                    let detail = format!("must not exceed {MAX_ANNOTATION_EXPRESSION} bytes in length");
                    errors.push(FieldError::required(&at, &detail));
                }
                _ => drop(compiled(&mut errors, &at, expression, &full_env, &[Type::String, Type::Null])),
            }
            if annotations[..i].iter().any(|a| a.key == annotation.key) {
                errors.push(FieldError::duplicate(&path.child("key"), &annotation.key));
            }
        }
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), typed_column("Validations", "integer"), column("ParamKind"), age_column()]
    }

    fn cells(policy: &ValidatingAdmissionPolicy, now: jiff::Timestamp) -> Vec<Value> {
        let spec = policy.spec.clone().unwrap_or_default();
        let count = spec.validations.map_or(0, |v| v.len());
        vec![name(policy), count.into(), param_kind_cell(spec.param_kind.as_ref()), age(policy, now)]
    }
}

/// What is particular about a policy that changes objects.
pub(super) struct MutatingAdmissionPolicyKind;

impl Strategy for MutatingAdmissionPolicyKind {
    type Object = MutatingAdmissionPolicy;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    const CHECKS_FINALIZERS: bool = false;

    fn default(policy: &mut MutatingAdmissionPolicy) {
        let spec = policy.spec.get_or_insert_default();
        set(&mut spec.failure_policy, "Fail".to_owned());
        spec.match_constraints.iter_mut().for_each(fill_resources);
    }

    fn prepare_create(policy: &mut MutatingAdmissionPolicy) {
        policy.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut MutatingAdmissionPolicy, old: &MutatingAdmissionPolicy) {
        let changed = new.spec != old.spec;
        bump_if(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(policy: &MutatingAdmissionPolicy) -> Errors {
        let spec = policy.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut errors = validate_policy(
            &spec.failure_policy,
            spec.param_kind.as_ref(),
            spec.match_constraints.as_ref(),
            spec.match_conditions.as_deref().unwrap_or_default(),
            &path,
        );
        errors.extend(validate_no_deletes(spec.match_constraints.as_ref(), &path.child("matchConstraints")));
        let params = spec.param_kind.is_some();
        let variables = spec.variables.as_deref().unwrap_or_default();
        let defined = validate_variables(&mut errors, variables, params, &path.child("variables"));
        let env = policy::env(Sees { params, authorizer: true, patch_types: true });
        let env = policy::with_variables(env, &defined);
        let mutations = spec.mutations.as_deref().unwrap_or_default();
        if mutations.is_empty() {
            let detail = "mutations must contain at least one item";
            errors.push(FieldError::required(&path.child("mutations"), detail));
        }
        for (i, mutation) in mutations.iter().enumerate() {
            let path = path.child("mutations").index(i);
            let forms = [
                ("jsonPatch", "JSONPatch", mutation.json_patch.as_ref().map(|p| &p.expression)),
                (
                    "applyConfiguration",
                    "ApplyConfiguration",
                    mutation.apply_configuration.as_ref().map(|a| &a.expression),
                ),
            ];
            let ty = mutation.patch_type.as_str();
            required_one_of(&mut errors, &path.child("patchType"), ty, &["ApplyConfiguration", "JSONPatch"]);
            if !forms.iter().any(|form| form.1 == ty) {
                continue;
            }
            for (field, of, form) in forms {
                let path = path.child(field);
                if let Some(expression) = form.filter(|_| of == ty) {
                    let at = path.child("expression");
                    let text = str_of(expression);
                    if text.trim().is_empty() {
                        errors.push(FieldError::required(&at, ""));
                    } else {
                        compiled(&mut errors, &at, text, &env, &[mutation_type(ty)]);
                    }
                } else if of == ty && form.is_none() {
                    let detail = format!("must be specified when patchType is {ty}");
                    errors.push(FieldError::required(&path, &detail));
                } else if of != ty && form.is_some() {
                    let detail = format!("must not be specified when patchType is {ty}");
                    errors.push(FieldError::invalid(&path, format!("{{{field}}}"), &detail));
                }
            }
        }
        let policy = str_of(&spec.reinvocation_policy);
        required_one_of(&mut errors, &path.child("reinvocationPolicy"), policy, &["IfNeeded", "Never"]);
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), typed_column("Mutations", "integer"), column("ParamKind"), age_column()]
    }

    fn cells(policy: &MutatingAdmissionPolicy, now: jiff::Timestamp) -> Vec<Value> {
        let spec = policy.spec.clone().unwrap_or_default();
        let count = spec.mutations.map_or(0, |m| m.len());
        vec![name(policy), count.into(), param_kind_cell(spec.param_kind.as_ref()), age(policy, now)]
    }
}

fn param_kind_cell(kind: Option<&ParamKind>) -> Value {
    let text = kind.map(|k| format!("{}/{}", str_of(&k.api_version), str_of(&k.kind)));
    text.unwrap_or_else(|| "<unset>".to_owned()).into()
}

fn validate_policy(
    failure_policy: &Option<String>,
    param_kind: Option<&ParamKind>,
    constraints: Option<&MatchResources>,
    conditions: &[MatchCondition],
    path: &Path,
) -> Errors {
    let mut errors = Vec::new();
    match failure_policy {
        None => errors.push(FieldError::required(&path.child("failurePolicy"), "")),
        Some(policy) => one_of(&mut errors, &path.child("failurePolicy"), policy, &["Fail", "Ignore"]),
    }
    if let Some(kind) = param_kind {
        errors.extend(validate_param_kind(kind, &path.child("paramKind")));
    }
    let constraints_path = path.child("matchConstraints");
    match constraints {
        None => errors.push(FieldError::required(&constraints_path, "")),
        Some(constraints) => {
            errors.extend(validate_match(constraints, &constraints_path));
            if constraints.resource_rules.as_ref().is_none_or(Vec::is_empty) {
                errors.push(FieldError::required(&constraints_path.child("resourceRules"), ""));
            }
        }
    }
    errors.extend(validate_conditions(conditions, param_kind.is_some(), &path.child("matchConditions")));
    errors
}

fn validate_param_kind(param: &ParamKind, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let (api_version, kind) = (str_of(&param.api_version), str_of(&param.kind));
    let at = path.child("apiVersion");
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    if api_version.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else if version.contains('/') {
        let detail = format!("unexpected GroupVersion string: {api_version}");
        errors.push(FieldError::invalid(&at, api_version, &detail));
    } else {
        let wrong = if group.is_empty() { Vec::new() } else { is_dns1123_subdomain(group) };
        if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at, group, &wrong.join(",")));
        }
        let wrong = is_dns1035_label(version);
        if version.is_empty() {
            errors.push(FieldError::invalid(&at, api_version, "version must be specified"));
        } else if !wrong.is_empty() {
            errors.push(FieldError::invalid(&at, version, &wrong.join(",")));
        }
    }
    let wrong = is_dns1035_label(&kind.to_lowercase());
    if kind.is_empty() {
        errors.push(FieldError::required(&path.child("kind"), ""));
    } else if !wrong.is_empty() {
        let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
        errors.push(FieldError::invalid(&path.child("kind"), kind, &detail));
    }
    errors
}

fn validate_match(resources: &MatchResources, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match &resources.match_policy {
        None => errors.push(FieldError::required(&path.child("matchPolicy"), "")),
        Some(policy) => one_of(&mut errors, &path.child("matchPolicy"), policy, &["Equivalent", "Exact"]),
    }
    let selectors =
        [("namespaceSelector", &resources.namespace_selector), ("objectSelector", &resources.object_selector)];
    for (field, selector) in selectors {
        if selector.is_none() {
            errors.push(FieldError::required(&path.child(field), ""));
        }
        errors.extend(validate_label_selector(selector.as_ref(), &path.child(field)));
    }
    let lists =
        [("resourceRules", &resources.resource_rules), ("excludeResourceRules", &resources.exclude_resource_rules)];
    for (field, rules) in lists {
        for (i, rule) in rules.iter().flatten().enumerate() {
            errors.extend(validate_named_rule(rule, &path.child(field).index(i)));
        }
    }
    errors
}

fn validate_named_rule(rule: &NamedRuleWithOperations, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let names = rule.resource_names.as_deref().unwrap_or_default();
    for (i, name) in names.iter().enumerate() {
        let path = path.child("resourceNames").index(i);
        errors.extend(invalid_each(&path, name, is_path_segment_name(name)));
        if names[..i].contains(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
    }
    errors.extend(validate_rule(&Rule::from(rule), path));
    errors
}

/// What is deleted cannot be changed.
fn validate_no_deletes(resources: Option<&MatchResources>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let rules = resources.and_then(|r| r.resource_rules.as_deref()).unwrap_or_default();
    let path = path.child("resourceRules").child("operations");
    for operation in rules.iter().filter_map(|r| r.operations.as_ref()).flatten() {
        one_of(&mut errors, &path, operation, &["*", "CONNECT", "CREATE", "UPDATE"]);
    }
    errors
}

/// What the expression of a mutation must be.
fn mutation_type(patch_type: &str) -> Type {
    match patch_type {
        "JSONPatch" => Type::list(policy::json_patch_type()),
        _ => Type::Patch("Object".into()),
    }
}

/// Checks the variables one after the other, since each may use those before; gives back their types.
fn validate_variables(errors: &mut Errors, variables: &[Variable], params: bool, path: &Path) -> Vec<(String, Type)> {
    let mut defined = Vec::new();
    let env = policy::env(Sees { params, authorizer: true, patch_types: false });
    for (i, variable) in variables.iter().enumerate() {
        let path = path.index(i);
        if variable.name.trim().is_empty() {
            errors.push(FieldError::required(&path.child("name"), "name is not specified"));
        } else if !is_c_identifier(&variable.name).is_empty() {
            let detail = "must be a valid CEL identifier";
            errors.push(FieldError::invalid(&path.child("name"), &variable.name, detail));
        }
        if variable.expression.trim().is_empty() {
            errors.push(FieldError::required(&path.child("expression"), "expression is not specified"));
        } else {
            let env = policy::with_variables(env.clone(), &defined);
            let ty = compiled(errors, &path.child("expression"), &variable.expression, &env, &[]);
            defined.push((variable.name.clone(), ty.unwrap_or(Type::Dyn)));
        }
    }
    defined
}

// === bindings ===

/// What is particular about a binding of a policy that judges objects.
pub(super) struct ValidatingAdmissionPolicyBindingKind;

impl Strategy for ValidatingAdmissionPolicyBindingKind {
    type Object = ValidatingAdmissionPolicyBinding;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    const CHECKS_FINALIZERS: bool = false;

    fn default(binding: &mut ValidatingAdmissionPolicyBinding) {
        binding.spec.match_resources.iter_mut().for_each(fill_resources);
    }

    fn prepare_create(binding: &mut ValidatingAdmissionPolicyBinding) {
        binding.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut ValidatingAdmissionPolicyBinding, old: &ValidatingAdmissionPolicyBinding) {
        let changed = new.spec != old.spec;
        bump_if(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(binding: &ValidatingAdmissionPolicyBinding) -> Errors {
        let spec = &binding.spec;
        let path = Path::new("spec");
        let mut errors =
            validate_binding(&spec.policy_name, spec.param_ref.as_ref(), spec.match_resources.as_ref(), &path);
        let actions = &spec.validation_actions;
        let path = path.child("validationActions");
        for (i, action) in actions.iter().enumerate() {
            one_of(&mut errors, &path.index(i), action, &["Audit", "Deny", "Warn"]);
            if actions[..i].contains(action) {
                errors.push(FieldError::duplicate(&path.index(i), action));
            }
        }
        let has = |wanted: &str| actions.iter().any(|a| a == wanted);
        if has("Deny") && has("Warn") {
            let detail = "must not contain both Deny and Warn (repeating the same validation failure information in \
                          the API response and headers serves no purpose)";
            errors.push(FieldError::invalid(&path, &json!(actions), detail));
        }
        if actions.is_empty() {
            errors.push(FieldError::required(&path, "at least one validation action is required"));
        }
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), column("PolicyName"), column("ParamRef"), age_column()]
    }

    fn cells(binding: &ValidatingAdmissionPolicyBinding, now: jiff::Timestamp) -> Vec<Value> {
        let spec = &binding.spec;
        let param = param_cell(spec.param_ref.as_ref());
        vec![name(binding), spec.policy_name.as_str().into(), param, age(binding, now)]
    }
}

/// What is particular about a binding of a policy that changes objects.
pub(super) struct MutatingAdmissionPolicyBindingKind;

impl Strategy for MutatingAdmissionPolicyBindingKind {
    type Object = MutatingAdmissionPolicyBinding;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    const CHECKS_FINALIZERS: bool = false;

    fn default(binding: &mut MutatingAdmissionPolicyBinding) {
        binding.spec.iter_mut().filter_map(|s| s.match_resources.as_mut()).for_each(fill_resources);
    }

    fn prepare_create(binding: &mut MutatingAdmissionPolicyBinding) {
        binding.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut MutatingAdmissionPolicyBinding, old: &MutatingAdmissionPolicyBinding) {
        let changed = new.spec != old.spec;
        bump_if(&mut new.metadata, &old.metadata, changed);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(binding: &MutatingAdmissionPolicyBinding) -> Errors {
        let spec = binding.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let resources = spec.match_resources.as_ref();
        let mut errors = validate_binding(str_of(&spec.policy_name), spec.param_ref.as_ref(), resources, &path);
        errors.extend(validate_no_deletes(resources, &path.child("matchResources")));
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), column("PolicyName"), column("ParamRef"), age_column()]
    }

    fn cells(binding: &MutatingAdmissionPolicyBinding, now: jiff::Timestamp) -> Vec<Value> {
        let spec = binding.spec.clone().unwrap_or_default();
        let param = param_cell(spec.param_ref.as_ref());
        vec![name(binding), str_of(&spec.policy_name).into(), param, age(binding, now)]
    }
}

fn param_cell(param: Option<&ParamRef>) -> Value {
    let Some(param) = param else { return "<unset>".into() };
    match (str_of(&param.name), str_of(&param.namespace), &param.selector) {
        ("", _, None) => "<unset>".into(),
        ("", _, Some(selector)) => super::common::format_selector(Some(selector)).into(),
        (name, "", _) => format!("*/{name}").into(),
        (name, namespace, _) => format!("{namespace}/{name}").into(),
    }
}

fn validate_binding(policy: &str, param: Option<&ParamRef>, resources: Option<&MatchResources>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if policy.is_empty() {
        errors.push(FieldError::required(&path.child("policyName"), ""));
    } else {
        errors.extend(invalid_each(&path.child("policyName"), policy, is_dns1123_subdomain(policy)));
    }
    if let Some(param) = param {
        errors.extend(validate_param_ref(param, &path.child("paramRef")));
    }
    if let Some(resources) = resources {
        errors.extend(validate_match(resources, &path.child("matchResources")));
    }
    errors
}

fn validate_param_ref(param: &ParamRef, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let name = str_of(&param.name);
    errors.extend(invalid_each(&path.child("name"), name, is_path_segment_name(name)));
    if !name.is_empty() && param.selector.is_some() {
        let detail = "name and selector are mutually exclusive";
        errors.push(FieldError::forbidden(&path.child("name"), detail));
        errors.push(FieldError::forbidden(&path.child("selector"), detail));
    }
    errors.extend(validate_label_selector(param.selector.as_ref(), &path.child("selector")));
    if name.is_empty() && param.selector.is_none() {
        errors.push(FieldError::required(path, "one of name or selector must be specified"));
    }
    let action = str_of(&param.parameter_not_found_action);
    let at = path.child("parameterNotFoundAction");
    if action.is_empty() {
        errors.push(FieldError::required(&at, ""));
    } else {
        one_of(&mut errors, &at, action, &["Deny", "Allow"]);
    }
    errors
}

/// The key of an annotation in the audit log, which begins with the policy's name.
fn validate_annotation_key(policy: &str, key: &str, path: &Path) -> Errors {
    if policy.is_empty() {
        return vec![FieldError::invalid(path, key, "requires metadata.name be non-empty")];
    }
    let whole = format!("{policy}/{key}");
    invalid_each(path, &whole, is_label_key(&whole))
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update};
    use expect_test::expect;

    const HOOKS: &str = "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
webhooks:
- name: pods.example.com
  clientConfig: {service: {name: hook, namespace: default}}
  sideEffects: None
  admissionReviewVersions: [v1]
  rules: [{operations: [CREATE], apiGroups: [''], apiVersions: [v1], resources: [pods]}]
";

    #[test]
    fn webhooks() {
        check_defaults(
            HOOKS,
            expect![[r#"
            webhooks[0].clientConfig.service.port: 443
            webhooks[0].failurePolicy: "Fail"
            webhooks[0].matchPolicy: "Equivalent"
            webhooks[0].namespaceSelector: {}
            webhooks[0].objectSelector: {}
            webhooks[0].reinvocationPolicy: "Never"
            webhooks[0].rules[0].scope: "*"
            webhooks[0].timeoutSeconds: 10"#]],
        );
        check_row(
            HOOKS,
            expect![[r#"
            Name | Webhooks | Age
            a | 1 | 60m"#]],
        );
        check_create(HOOKS, expect![""]);
        check_create(
            &HOOKS.replace("sideEffects: None\n", "timeoutSeconds: 31\n").replace("[v1]\n", "[v2, v2]\n"),
            expect![[r#"
            webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun
            webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds
            webhooks[0].admissionReviewVersions[1]: Invalid value: "v2": duplicate version
            webhooks[0].admissionReviewVersions: Invalid value: ["v2","v2"]: must include at least one of v1, v1beta1"#]],
        );
        check_create(
            &HOOKS
                .replace("service: {name: hook, namespace: default}", "url: 'http://me@/x?y'")
                .replace("pods.example", "example")
                .replace("[pods]", "['*', pods, pods/*, pods/log]"),
            expect![[r#"
                webhooks[0].name: Invalid value: "example.com": should be a domain with at least three segments separated by dots
                webhooks[0].rules[0].resources[3]: Invalid value: "pods/log": if 'pods/*' is present, must not specify pods/log
                webhooks[0].rules[0].resources: Invalid value: ["*","pods","pods/*","pods/log"]: if '*' is present, must not specify other resources without subresources
                webhooks[0].clientConfig.url: Invalid value: "http": 'https' is the only allowed URL scheme; desired format: https://host[/path]
                webhooks[0].clientConfig.url: Invalid value: "": host must be specified; desired format: https://host[/path]
                webhooks[0].clientConfig.url: Invalid value: "me": user information is not permitted in the URL
                webhooks[0].clientConfig.url: Invalid value: "y": query parameters are not permitted in the URL"#]],
        );
        check_update(
            HOOKS,
            &HOOKS.replace("[pods]", "[nodes]").replace("{name: a,", "{name: a, resourceVersion: '1',"),
            None,
            expect!["generation 2"],
        );
    }

    #[test]
    fn policies() {
        let policy = "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}
spec:
  paramKind: {apiVersion: a/b/c, kind: Rule_s}
  matchConstraints: {}
  variables: [{name: 9a, expression: ' '}]
";
        check_create(
            policy,
            expect![[r#"
            spec.paramKind.apiVersion: Invalid value: "a/b/c": unexpected GroupVersion string: a/b/c
            spec.paramKind.kind: Invalid value: "Rule_s": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.matchConstraints.resourceRules: Required value
            spec.variables[0].name: Invalid value: "9a": must be a valid CEL identifier
            spec.variables[0].expression: Required value: expression is not specified
            spec.validations: Required value: validations or auditAnnotations must contain at least one item
            spec.auditAnnotations: Required value: validations or auditAnnotations must contain at least one item"#]],
        );
        check_row(
            policy,
            expect![[r#"
            Name | Validations | ParamKind | Age
            a | 0 | a/b/c/Rule_s | 60m"#]],
        );
        check_create(
            "
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: a}
spec: {policyName: a, paramRef: {name: a, selector: {}}, validationActions: [Deny, Warn]}
",
            expect![[r#"
                spec.paramRef.name: Forbidden: name and selector are mutually exclusive
                spec.paramRef.selector: Forbidden: name and selector are mutually exclusive
                spec.paramRef.parameterNotFoundAction: Required value
                spec.validationActions: Invalid value: ["Deny","Warn"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"#]],
        );
    }
}
