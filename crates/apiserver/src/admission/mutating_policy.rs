//! MutatingAdmissionPolicy: expressions that change objects
//! (`apiserver/pkg/admission/plugin/policy/{generic/policy_dispatcher.go,mutating}`).

use super::configured::Configured;
use super::expressions::{Evaluation, Expression, Verdict};
use super::matching::{is_exempt, namespace_of};
use super::mutating_webhook::replace;
use super::policy::{Binding, Fields, Policy, error_type};
use super::review::objects_of;
use super::{Admission, Operation, Request};
use crate::reader::KindRef;
use api::Status;
use api::k8s::api::admissionregistration::v1::{MutatingAdmissionPolicy, MutatingAdmissionPolicyBinding, Mutation};
use api::status::StatusCause;
use async_trait::async_trait;
use machinery::apply;
use machinery::cel::policy::json_patch_type;
use machinery::cel::{self, Budget, Type, Value};
use machinery::kinds::KindInfo;
use machinery::patch::{Patch, PatchError, PatchType};
use serde_json::{Map, Value as Json};
use tokio::time::Instant;

const NAME: &str = "MutatingAdmissionPolicy";

/// See the file's head.
pub struct MutatingPolicies {
    policies: Configured<MutatingAdmissionPolicy, Option<Mutator>>,
    bindings: Configured<MutatingAdmissionPolicyBinding, Option<Binding>>,
}

impl Default for MutatingPolicies {
    fn default() -> Self {
        Self::new()
    }
}

impl MutatingPolicies {
    /// With nothing compiled yet.
    pub fn new() -> Self {
        MutatingPolicies { policies: Configured::new(mutator_of), bindings: Configured::new(binding_of) }
    }
}

/// A policy with its mutations.
struct Mutator {
    policy: Policy,
    /// `reinvocationPolicy: IfNeeded`
    reinvoked: bool,
    mutations: Vec<Change>,
}

enum Change {
    /// Evaluates to `Object{…}`.
    Apply(Expression),
    /// Evaluates to a list of `JSONPatch{…}`.
    JsonPatch(Expression),
}

fn mutator_of(policy: MutatingAdmissionPolicy) -> Option<Mutator> {
    let spec = policy.spec.unwrap_or_default();
    let policy = Policy::new(Fields {
        name: policy.metadata.name.as_deref().unwrap_or_default(),
        constraints: spec.match_constraints.as_ref(),
        param_kind: spec.param_kind.as_ref(),
        failure_policy: spec.failure_policy.as_deref(),
        conditions: spec.match_conditions.as_deref(),
        variables: spec.variables.as_deref(),
    });
    let env = policy.env(true, true);
    let mutations = spec.mutations.unwrap_or_default();
    Some(Mutator {
        mutations: mutations.iter().map(|m| Change::new(m, &env)).collect(),
        reinvoked: spec.reinvocation_policy.as_deref() == Some("IfNeeded"),
        policy,
    })
}

fn binding_of(binding: MutatingAdmissionPolicyBinding) -> Option<Binding> {
    let (name, spec) = (binding.metadata.name.unwrap_or_default(), binding.spec.unwrap_or_default());
    let policy = spec.policy_name.as_deref().unwrap_or_default();
    Some(Binding::new(&name, policy, spec.match_resources.as_ref(), spec.param_ref.as_ref(), &[]))
}

/// A policy that cannot be evaluated, with the text for the client.
struct Problem {
    message: String,
    reason: &'static str,
}

/// How a mutation ended without a new object.
enum Failed {
    /// The policy's `failurePolicy` decides.
    Policy(String),
    /// The request fails.
    Request(Box<Status>),
}

#[async_trait]
impl Admission for MutatingPolicies {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, _: &str) -> bool {
        !is_exempt(kind) && matches!(operation, Operation::Create | Operation::Update | Operation::Connect)
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let bindings = self.bindings.all(request).await?;
        if bindings.is_empty() {
            return Ok(());
        }
        let policies = self.policies.all(request).await?;
        request.reinvocation.begin(NAME, request.object.as_deref());
        let mut problems = Vec::new();
        for mutator in policies.iter().filter_map(|p| p.as_ref().as_ref()) {
            let own = bindings.iter().filter_map(|b| b.as_ref().as_ref());
            let own: Vec<&Binding> = own.filter(|b| b.policy == mutator.policy.name).collect();
            if !own.is_empty() {
                let found = mutator.mutate(request, &own).await?;
                if !mutator.policy.ignores_failures {
                    problems.extend(found);
                }
            }
        }
        request.reinvocation.end(NAME, request.object.as_deref());
        if problems.is_empty() { Ok(()) } else { Err(refusal(request, &problems)) }
    }
}

impl Mutator {
    async fn mutate(&self, request: &mut Request<'_>, bindings: &[&Binding]) -> Result<Vec<Problem>, Status> {
        let name = &self.policy.name;
        let mut problems = Vec::new();
        let of_policy = |why: String| Problem {
            message: format!("policy {name:?} denied request: failed to configure policy: {why}"),
            reason: "",
        };
        let kind = match self.policy.matches(request).await {
            Ok(Some(kind)) => kind,
            Ok(None) => return Ok(problems),
            Err(why) => return Ok(vec![of_policy(why)]),
        };
        for binding in bindings {
            let of_binding = |why: &str, reason| Problem {
                message: format!("policy '{name}' with binding '{}' denied request: {why}", binding.name),
                reason,
            };
            let params = match binding.matches(request).await {
                Ok(false) => continue,
                Ok(true) => self.policy.params(request, binding).await,
                Err(status) => Err(status.message),
            };
            let params = match params {
                Ok(params) => params,
                Err(why) => {
                    problems.push(of_binding(&format!("failed to configure binding: {why}"), ""));
                    continue;
                }
            };
            for params in &params {
                let begun = Instant::now();
                let result = self.mutate_with(request, &kind, binding, params).await?;
                let error = result.as_ref().err().map_or("no_error", |why| error_type(why));
                request.cluster.metrics().mutation(name, &binding.name, error, begun.elapsed());
                if let Err(why) = result {
                    problems.push(of_binding(&why, "Invalid"));
                }
            }
        }
        Ok(problems)
    }

    /// Runs all mutations for one binding and parameter. The inner error is the policy's.
    async fn mutate_with(
        &self,
        request: &mut Request<'_>,
        kind: &KindRef,
        binding: &Binding,
        params: &Json,
    ) -> Result<Result<(), String>, Status> {
        let namespace = namespace_of(request).await?;
        let namespace = namespace.as_ref().map(|n| n as &dyn api::AnyObject);
        let before;
        let mut object;
        let mut failure = None;
        {
            let evaluation = Evaluation::new(request, kind).await?;
            let mut evaluation = evaluation.in_namespace(namespace).with_policy(params, &self.policy.variables);
            match self.policy.conditions.hold(&evaluation).await {
                Verdict::Holds => {}
                Verdict::Fails => return Ok(Ok(())),
                Verdict::Error(why) => return Ok(Err(why)),
            }
            if !request.reinvocation.may_run(NAME, &self.id(binding, params)) {
                return Ok(Ok(()));
            }
            (object, _) = objects_of(request, kind).await?;
            before = object.clone();
            if request.object.is_some() {
                for change in &self.mutations {
                    match change.apply(&evaluation, kind, &object).await {
                        Ok(changed) => {
                            // Each mutation sees the one before with its defaults.
                            object = defaulted(kind, changed)?;
                            evaluation.set_object(&object);
                        }
                        Err(Failed::Policy(why)) => failure = failure.or(Some(why)),
                        Err(Failed::Request(status)) => return Err(*status),
                    }
                }
            }
        }
        if object != before {
            replace(request, kind, object).await?;
            request.reinvocation.changed(NAME);
        }
        if self.reinvoked {
            request.reinvocation.ran(NAME, &self.id(binding, params));
        }
        Ok(failure.map_or(Ok(()), Err))
    }

    fn id(&self, binding: &Binding, params: &Json) -> String {
        let text = |field: &str| params["metadata"][field].as_str().unwrap_or_default().to_owned();
        format!("{}/{}/{}/{}", self.policy.name, binding.name, text("namespace"), text("name"))
    }
}

fn defaulted(kind: &KindRef, changed: Json) -> Result<Json, Status> {
    if changed["kind"] != kind.info().kind.as_ref() {
        return Ok(changed);
    }
    let bytes = serde_json::to_vec(&changed).map_err(crate::status::internal)?;
    let mut object = kind.decode(&bytes).map_err(|e| crate::status::internal(e.source))?;
    kind.default(&mut *object);
    serde_json::from_slice(&kind.encode(&*object)).map_err(crate::status::internal)
}

impl Change {
    fn new(mutation: &Mutation, env: &cel::Env) -> Self {
        let text = |expression: Option<&String>| expression.cloned().unwrap_or_default();
        match mutation.patch_type.as_str() {
            "JSONPatch" => {
                let text = text(mutation.json_patch.as_ref().and_then(|p| p.expression.as_ref()));
                Change::JsonPatch(Expression::new(&text, env, &[Type::list(json_patch_type())]))
            }
            _ => {
                let text = text(mutation.apply_configuration.as_ref().and_then(|a| a.expression.as_ref()));
                Change::Apply(Expression::new(&text, env, &[Type::Patch("Object".into())]))
            }
        }
    }

    async fn apply(&self, evaluation: &Evaluation<'_>, kind: &KindRef, object: &Json) -> Result<Json, Failed> {
        let (Change::Apply(expression) | Change::JsonPatch(expression)) = self;
        let mut budget = Budget::new(cel::REQUEST_BUDGET);
        let value = evaluation.eval(expression, &mut budget).await;
        let value = value.map_err(|failure| Failed::Policy(failure.text().to_owned()))?;
        match self {
            Change::Apply(_) => apply_object(kind, object, &value),
            Change::JsonPatch(_) => apply_operations(object, &value),
        }
    }
}

/// Objects must be of the type that their place says (`CheckTypeNamesMatchFieldPathNames`).
fn check_names(value: &Value, wanted: &str) -> Result<(), Failed> {
    match value {
        Value::Object(object) => {
            if &*object.name != wanted {
                return Err(Failed::Policy(format!(
                    "type mismatch: unexpected type name {:?}, expected {wanted:?}, which matches field name path from root Object type",
                    object.name
                )));
            }
            object.fields.iter().try_for_each(|(name, field)| check_names(field, &format!("{wanted}.{name}")))
        }
        Value::List(list) => list.items.iter().try_for_each(|item| check_names(item, wanted)),
        Value::Map(map) => map.values().try_for_each(|item| check_names(item, wanted)),
        _ => Ok(()),
    }
}

fn json_of(value: &Value) -> Result<Json, Failed> {
    value.to_json().ok_or_else(|| Failed::Policy("the expression evaluated to a type that is no JSON".to_owned()))
}

fn apply_object(kind: &KindRef, object: &Json, value: &Value) -> Result<Json, Failed> {
    check_names(value, "Object")?;
    let mut patch = json_of(value)?;
    patch["apiVersion"] = object["apiVersion"].clone();
    patch["kind"] = object["kind"].clone();
    let info = kind.info();
    let Some(root) = kind.schema() else {
        return Err(Failed::Request(Box::new(crate::status::unavailable(format!(
            "Resource kind {}, Kind={} not found. There can be a delay between when CustomResourceDefinitions are created and when they are available.",
            info.api_version(),
            info.kind
        )))));
    };
    let merged = apply::merge_policy_patch(root, object, &patch);
    merged.map_err(|why| Failed::Policy(format!("error applying patch: {why}")))
}

fn apply_operations(object: &Json, value: &Value) -> Result<Json, Failed> {
    let Value::List(list) = value else {
        let why = "type mismatch: JSONPatchType.expression should evaluate to array";
        return Err(Failed::Policy(why.to_owned()));
    };
    let mut operations = Vec::with_capacity(list.items.len());
    for item in &list.items {
        let Value::Object(operation) = item else {
            let why = "type mismatch: JSONPatchType.expression should evaluate to array of JSONPatch";
            return Err(Failed::Policy(why.to_owned()));
        };
        let mut json = Map::new();
        for (name, field) in &operation.fields {
            if let Value::Object(inner) = field {
                check_names(field, &inner.name.clone())?;
            }
            json.insert(name.to_string(), json_of(field)?);
        }
        operations.push(Json::Object(json));
    }
    let patch = Patch::from_value(PatchType::Json, Json::Array(operations))
        .map_err(|error| Failed::Policy(format!("JSON Patch: {error}")))?;
    match patch.apply(None, object) {
        Ok(changed) => Ok(changed),
        // A test that fails only means that there is nothing to do.
        Err(PatchError::TestFailed(_)) => Ok(object.clone()),
        Err(error) => Err(Failed::Policy(format!("JSON Patch: {error}"))),
    }
}

fn refusal(request: &Request<'_>, problems: &[Problem]) -> Status {
    let mut status = request.forbidden("admission request denied by policy");
    if let Some(first) = problems.first() {
        status.message = first.message.clone();
        if !first.reason.is_empty() {
            status.reason = first.reason.to_owned();
        }
    }
    if let Some(details) = &mut status.details {
        let cause = |p: &Problem| StatusCause { message: p.message.clone(), ..StatusCause::default() };
        details.causes.extend(problems.iter().map(cause));
    }
    status
}
