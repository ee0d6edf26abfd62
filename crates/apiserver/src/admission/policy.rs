//! What validating and mutating admission policies have in common: bindings, parameters, when a policy is for a request
//! (`apiserver/pkg/admission/plugin/policy/generic`).

use super::Request;
use super::expressions::{Compiled, Conditions};
use super::matching::Criteria;
use crate::reader::KindRef;
use crate::status;
use api::Status;
use api::k8s::api::admissionregistration::v1::{MatchCondition, MatchResources, ParamKind, ParamRef, Variable};
use machinery::cel::policy::{self, Sees};
use machinery::cel::{self, Type};
use machinery::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;

/// The part of a policy that both kinds have, compiled.
pub(super) struct Policy {
    pub(super) name: String,
    /// `None`: the policy has no match constraints.
    criteria: Option<Criteria>,
    param_kind: Option<ParamKind>,
    /// `failurePolicy: Ignore`
    pub(super) ignores_failures: bool,
    pub(super) conditions: Conditions,
    pub(super) variables: Arc<[(String, Compiled)]>,
    /// What the policy's other expressions see, without patch types.
    defined: Vec<(String, Type)>,
}

/// Fields of a policy.
pub(super) struct Fields<'a> {
    pub(super) name: &'a str,
    pub(super) constraints: Option<&'a MatchResources>,
    pub(super) param_kind: Option<&'a ParamKind>,
    pub(super) failure_policy: Option<&'a str>,
    pub(super) conditions: Option<&'a [MatchCondition]>,
    pub(super) variables: Option<&'a [Variable]>,
}

/// A binding of a policy.
pub(super) struct Binding {
    pub(super) name: String,
    pub(super) policy: String,
    /// `None`: everything that the policy is for.
    criteria: Option<Criteria>,
    param_ref: Option<ParamRef>,
    pub(super) actions: Vec<String>,
}

impl Policy {
    pub(super) fn new(of: Fields<'_>) -> Self {
        let params = of.param_kind.is_some();
        let sees = Sees { params, authorizer: true, patch_types: false };
        let mut defined: Vec<(String, Type)> = Vec::new();
        let mut variables = Vec::new();
        for variable in of.variables.unwrap_or_default() {
            let env = policy::with_variables(policy::env(sees), &defined);
            let program = policy::compile_as(&variable.expression, &env, &[]);
            let ty = program.as_ref().map_or(Type::Dyn, |p| p.output_type().clone());
            defined.push((variable.name.clone(), ty));
            variables.push((variable.name.clone(), program));
        }
        let env = policy::with_variables(policy::env(sees), &defined);
        Policy {
            name: of.name.to_owned(),
            criteria: of.constraints.map(Criteria::of_policy),
            param_kind: of.param_kind.cloned(),
            ignores_failures: of.failure_policy == Some("Ignore"),
            conditions: Conditions::new(of.conditions, &env),
            variables: variables.into(),
            defined,
        }
    }

    /// The environment of the policy's own expressions.
    pub(super) fn env(&self, authorizer: bool, patch_types: bool) -> cel::Env {
        let sees = Sees { params: self.param_kind.is_some(), authorizer, patch_types };
        policy::with_variables(policy::env(sees), &self.defined)
    }

    /// The kind as which the policy sees the request, if it is for it. An error is one of configuration.
    pub(super) async fn matches(&self, request: &Request<'_>) -> Result<Option<KindRef>, String> {
        let criteria = self.criteria.as_ref().ok_or("policy contained no match constraints, a required field")?;
        let found = criteria.matches(request).await.map_err(|status| status.message)?;
        if found.is_some()
            && let Some(wanted) = &self.param_kind
        {
            self.find_param_kind(request, wanted)?;
        }
        Ok(found)
    }

    fn find_param_kind(&self, request: &Request<'_>, wanted: &ParamKind) -> Result<KindRef, String> {
        let (api_version, kind) =
            (wanted.api_version.as_deref().unwrap_or_default(), wanted.kind.as_deref().unwrap_or_default());
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        request
            .cluster
            .kind_named(group, version, kind)
            .ok_or_else(|| format!("failed to find resource referenced by paramKind: '{group}/{version}, Kind={kind}'"))
    }

    /// The parameters with which a binding wants the policy evaluated (`CollectParams`): null once if there are none to
    /// look for, nothing if none were found and that does not matter.
    pub(super) async fn params(&self, request: &Request<'_>, binding: &Binding) -> Result<Vec<Value>, String> {
        let (Some(wanted), Some(reference)) = (&self.param_kind, &binding.param_ref) else {
            return Ok(vec![Value::Null]);
        };
        let kind = self.find_param_kind(request, wanted)?;
        let info = kind.info();
        let given = reference.namespace.as_deref().unwrap_or_default();
        let namespace = match (info.namespaced, given) {
            (false, "") => "",
            (false, _) => return Err("paramRef.namespace must not be provided for a cluster-scoped `paramKind`".into()),
            (true, "") if request.namespace.is_empty() => {
                return Err(
                    "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".into()
                );
            }
            (true, "") => request.namespace,
            (true, given) => given,
        };
        let failed = |error: store::StoreError| status::from_store(error).message;
        let name = reference.name.as_deref().unwrap_or_default();
        let found = if !name.is_empty() {
            let found = request.reader().stored(&info.storage, namespace, name).await.map_err(failed)?;
            found.into_iter().collect()
        } else {
            let selector = LabelSelector::from_api(reference.selector.as_ref()).map_err(|e| e.to_string())?;
            let (mut list, _) = request.reader().stored_list(&info.storage, namespace).await.map_err(failed)?;
            list.retain(|stored| selector.matches(&stored.header().labels));
            list
        };
        if found.is_empty() && reference.parameter_not_found_action.as_deref() == Some("Deny") {
            return Err("no params found for policy binding with `Deny` parameterNotFoundAction".into());
        }
        let mut params = Vec::with_capacity(found.len());
        for stored in &found {
            let json: Value = serde_json::from_slice(stored.bytes()).map_err(|e| e.to_string())?;
            let own = json["apiVersion"] == info.api_version();
            params.push(match own {
                true => json,
                false => request.cluster.convert(json, &kind, &kind).await.map_err(|status| status.message)?,
            });
        }
        Ok(params)
    }
}

impl Binding {
    pub(super) fn new(
        name: &str,
        policy: &str,
        resources: Option<&MatchResources>,
        param_ref: Option<&ParamRef>,
        actions: &[String],
    ) -> Self {
        Binding {
            name: name.to_owned(),
            policy: policy.to_owned(),
            criteria: resources.map(Criteria::of_policy),
            param_ref: param_ref.cloned(),
            actions: actions.to_vec(),
        }
    }

    pub(super) async fn matches(&self, request: &Request<'_>) -> Result<bool, Status> {
        match &self.criteria {
            None => Ok(true),
            Some(criteria) => Ok(criteria.matches(request).await?.is_some()),
        }
    }
}

/// What metrics call a failure of an expression with this text (`ErrorType`).
pub(super) fn error_type(why: &str) -> &'static str {
    match why {
        why if why.starts_with("compilation") => "compile_error",
        why if why.starts_with("validation failed due to running out of cost budget") => "out_of_budget",
        _ => "invalid_error",
    }
}
