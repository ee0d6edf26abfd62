//! Type checking of ValidatingAdmissionPolicies against the kinds that they are for
//! (`pkg/controller/validatingadmissionpolicystatus`, `apiserver/pkg/admission/plugin/policy/validating/typechecking.go`).
//!
//! Watches   ValidatingAdmissionPolicy (self); reads CustomResourceDefinitions.
//! Writes    ValidatingAdmissionPolicy/status.
//! Invariant every generation is checked once; what is found never changes what the policy does.
//! Differs   from upstream: schemas come from the tables of the built-in API and from CRDs, not from the published OpenAPI;
//!           kinds of aggregated APIs are not checked.

use crate::plan::{Key, Plan, Write};
use crate::run::{Context, Controller, Watches};
use api::Codec;
use api::k8s::api::admissionregistration::v1::{
    ExpressionWarning, TypeChecking, ValidatingAdmissionPolicy, ValidatingAdmissionPolicySpec,
};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use jiff::Timestamp;
use machinery::cel::policy::{Sees, compile_as, typed_env, with_variables};
use machinery::cel::{Decl, Env, Type, built_in, from_json_schema};
use machinery::schema::builtin;
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `maxTypesToCheck`
const MAX_TYPES: usize = 10;

pub(crate) struct PolicyStatus;

pub(crate) struct View {
    policy: Arc<ValidatingAdmissionPolicy>,
    definitions: Vec<Arc<CustomResourceDefinition>>,
}

impl Controller for PolicyStatus {
    const NAME: &'static str = "validatingadmissionpolicy-status-controller";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.reads::<CustomResourceDefinition>();
        watches.own::<ValidatingAdmissionPolicy>();
    }

    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let policy = ctx.cache::<ValidatingAdmissionPolicy>().get("", &key.name)?;
        Some(View { policy, definitions: ctx.cache::<CustomResourceDefinition>().list() })
    }

    fn plan(view: &View, _: Timestamp) -> Plan {
        let mut plan = Plan::done();
        let policy = &view.policy;
        let generation = policy.metadata.generation.unwrap_or(0);
        let observed = policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
        if generation <= observed {
            return plan;
        }
        let warnings = check(&policy.spec.clone().unwrap_or_default(), &view.definitions);
        let mut next = policy.as_ref().clone();
        let status = next.status.get_or_insert_default();
        status.observed_generation = Some(generation);
        status.type_checking =
            Some(TypeChecking { expression_warnings: Some(warnings).filter(|warnings| !warnings.is_empty()) });
        plan.writes.push(Write::status(next));
        plan
    }
}

/// All complaints about the expressions of a policy.
fn check(
    spec: &ValidatingAdmissionPolicySpec,
    definitions: &[Arc<CustomResourceDefinition>],
) -> Vec<ExpressionWarning> {
    let kinds = kinds_of(spec, definitions);
    let params = spec.param_kind.as_ref().map(|wanted| {
        let api_version = wanted.api_version.as_deref().unwrap_or_default();
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        declaration(group, version, wanted.kind.as_deref().unwrap_or_default(), definitions)
            .unwrap_or_else(|| Decl::from(Type::Dyn))
    });
    let environments: Vec<(&String, Env)> =
        kinds.iter().map(|(name, object)| (name, environment(spec, object, params.as_ref()))).collect();
    let mut warnings = Vec::new();
    let mut complain = |field: String, expression: &str| {
        let found = environments.iter().filter_map(|(name, env)| {
            // What the expression evaluates to was checked when the policy was written.
            let error = machinery::cel::compile(expression, env).err()?;
            Some(format!("{name}: {error}\n"))
        });
        let found: Vec<String> = found.collect();
        if !found.is_empty() {
            warnings.push(ExpressionWarning { field_ref: field, warning: found.join("\n") });
        }
    };
    for (i, validation) in spec.validations.iter().flatten().enumerate() {
        complain(format!("spec.validations[{i}].expression"), &validation.expression);
        if let Some(message) = validation.message_expression.as_deref().filter(|m| !m.is_empty()) {
            complain(format!("spec.validations[{i}].messageExpression"), message);
        }
    }
    warnings
}

fn environment(spec: &ValidatingAdmissionPolicySpec, object: &Decl, params: Option<&Decl>) -> Env {
    let sees = Sees { params: params.is_some(), authorizer: true, patch_types: false };
    let params = params.cloned().unwrap_or_else(|| Decl::from(Type::Dyn));
    let base = typed_env(sees, object.clone(), params);
    let mut defined: Vec<(String, Type)> = Vec::new();
    for variable in spec.variables.iter().flatten() {
        let env = with_variables(base.clone(), &defined);
        let ty = compile_as(&variable.expression, &env, &[]).map_or(Type::Dyn, |p| p.output_type().clone());
        defined.push((variable.name.clone(), ty));
    }
    with_variables(base, &defined)
}

/// The kinds that the rules name without wildcards, as messages show them, in order.
fn kinds_of(
    spec: &ValidatingAdmissionPolicySpec,
    definitions: &[Arc<CustomResourceDefinition>],
) -> BTreeMap<String, Decl> {
    let mut kinds = BTreeMap::new();
    let rules = spec.match_constraints.as_ref().and_then(|c| c.resource_rules.as_deref()).unwrap_or_default();
    for rule in rules {
        let (groups, versions) = (rule.api_groups.as_deref(), rule.api_versions.as_deref());
        let (groups, versions) = (groups.unwrap_or_default(), versions.unwrap_or_default());
        if groups.iter().chain(versions).any(|name| name.contains('*')) {
            continue;
        }
        for group in groups {
            for version in versions {
                let resources = rule.resources.iter().flatten().filter(|r| !r.contains(['*', '/']));
                for resource in resources {
                    let Some(kind) = kind_of(group, version, resource, definitions) else { continue };
                    let Some(decl) = declaration(group, version, &kind, definitions) else { continue };
                    if kinds.len() < MAX_TYPES {
                        kinds.insert(format!("{group}/{version}, Kind={kind}"), decl);
                    }
                }
            }
        }
    }
    kinds
}

fn kind_of(group: &str, version: &str, plural: &str, definitions: &[Arc<CustomResourceDefinition>]) -> Option<String> {
    if let Some(kind) = machinery::kinds::find(group, version, plural) {
        return Some(kind.info().kind.to_string());
    }
    let found = definitions.iter().find(|d| d.spec.group == group && d.spec.names.plural == plural)?;
    let served = found.spec.versions.iter().any(|v| v.name == version && v.served);
    served.then(|| found.spec.names.kind.clone())
}

fn declaration(group: &str, version: &str, kind: &str, definitions: &[Arc<CustomResourceDefinition>]) -> Option<Decl> {
    if let Some(id) = builtin().by_kind(group, version, kind) {
        return built_in(id);
    }
    let definition = definitions.iter().find(|d| d.spec.group == group && d.spec.names.kind == kind)?;
    let json: Value = serde_json::from_slice(&Codec::encode(definition.as_ref())).ok()?;
    let versions = json["spec"]["versions"].as_array()?;
    let of_version = versions.iter().find(|v| v["name"] == version)?;
    from_json_schema(&of_version["schema"]["openAPIV3Schema"], kind, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object, show};
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn every_expression_is_checked_against_every_kind() {
        let policy = |generation: i64| -> Arc<ValidatingAdmissionPolicy> {
            object(json!({
                "metadata": {"name": "p", "generation": generation},
                "spec": {
                    "matchConstraints": {"resourceRules": [
                        {"apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments", "*/scale"]},
                        {"apiGroups": ["stable.example.com"], "apiVersions": ["v1"], "resources": ["crontabs"]},
                        {"apiGroups": ["*"], "apiVersions": ["v1"], "resources": ["pods"]},
                    ]},
                    "variables": [{"name": "replicas", "expression": "object.spec.replicas"}],
                    "validations": [
                        {"expression": "variables.replicas > 1"},
                        {"expression": "object.spec.replicas > '1'", "messageExpression": "'got ' + variables.replicas"},
                        {"expression": "object.spec.cronSpec != ''"},
                    ],
                },
                "status": {"observedGeneration": 1},
            }))
        };
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "cronSpec": {"type": "string"}, "replicas": {"type": "integer"},
        }}}});
        let definitions = vec![object(json!({
            "metadata": {"name": "crontabs.stable.example.com"},
            "spec": {
                "group": "stable.example.com", "scope": "Namespaced", "names": {"plural": "crontabs", "kind": "CronTab"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        }))];
        let plan = PolicyStatus::plan(&View { policy: policy(2), definitions: definitions.clone() }, at(0));
        expect![[r#"
            status ValidatingAdmissionPolicy p {"observedGeneration":2,"typeChecking":{"expressionWarnings":[{"fieldRef":"spec.validations[1].expression","warning":"apps/v1, Kind=Deployment: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n\nstable.example.com/v1, Kind=CronTab: ERROR: <input>:1:22: found no matching overload for '_>_' applied to '(int, string)'\n | object.spec.replicas > '1'\n | .....................^\n"},{"fieldRef":"spec.validations[1].messageExpression","warning":"apps/v1, Kind=Deployment: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(string, int)'\n | 'got ' + variables.replicas\n | .......^\n\nstable.example.com/v1, Kind=CronTab: ERROR: <input>:1:8: found no matching overload for '_+_' applied to '(string, int)'\n | 'got ' + variables.replicas\n | .......^\n"},{"fieldRef":"spec.validations[2].expression","warning":"apps/v1, Kind=Deployment: ERROR: <input>:1:12: undefined field 'cronSpec'\n | object.spec.cronSpec != ''\n | ...........^\n"}]}}
        "#]].assert_eq(&show(&plan));
        assert_eq!(show(&PolicyStatus::plan(&View { policy: policy(1), definitions }, at(0))), "");
    }
}
