//! CEL in admission: the variables of one request, answers of the authorizer, match conditions
//! (`apiserver/pkg/admission/plugin/cel/activation.go`, `…/plugin/webhook/matchconditions/matcher.go`).

use super::review::{objects_of, request_of};
use super::{Cluster, Operation, Request};
use crate::auth::{Attributes, UserInfo};
use crate::reader::KindRef;
use api::k8s::api::admissionregistration::v1::MatchCondition;
use api::{AnyObject, Status};
use machinery::cel::policy::{self, Sees, VARIABLES};
use machinery::cel::{self, Budget, Check, Decision, EvalError, Program, Question, Type, Value};
use parking_lot::Mutex;
use serde_json::Value as Json;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// An expression, or why it does not compile.
pub(super) type Compiled = Result<Program, String>;

/// An expression with its text, for messages.
#[derive(Debug)]
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) program: Compiled,
}

impl Expression {
    pub(super) fn new(text: &str, env: &cel::Env, wanted: &[Type]) -> Self {
        Expression { text: text.to_owned(), program: policy::compile_as(text, env, wanted) }
    }
}

/// Conditions that must all hold.
#[derive(Debug, Default)]
pub(super) struct Conditions(Vec<Expression>);

/// Whether conditions hold.
pub(super) enum Verdict {
    Holds,
    Fails,
    /// Some could not be evaluated, none was false.
    Error(String),
}

impl Conditions {
    pub(super) fn new(conditions: Option<&[MatchCondition]>, env: &cel::Env) -> Self {
        let conditions = conditions.unwrap_or_default();
        Conditions(conditions.iter().map(|c| Expression::new(&c.expression, env, &[Type::Bool])).collect())
    }

    pub(super) fn of_webhook(conditions: Option<&[MatchCondition]>) -> Self {
        let env = policy::env(Sees { authorizer: true, ..Sees::default() });
        Conditions::new(conditions, &env)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One false condition decides, also after errors.
    pub(super) async fn hold(&self, evaluation: &Evaluation<'_>) -> Verdict {
        let mut budget = Budget::new(cel::MATCH_CONDITIONS_BUDGET);
        let mut errors = Vec::new();
        for condition in &self.0 {
            match evaluation.eval(condition, &mut budget).await {
                Ok(Value::Bool(false)) => return Verdict::Fails,
                Ok(_) => {}
                Err(Failure::OutOfBudget(why)) => return Verdict::Error(why),
                Err(Failure::Expression(why)) => errors.push(why),
            }
        }
        match errors.as_slice() {
            [] => Verdict::Holds,
            [one] => Verdict::Error(one.clone()),
            many => Verdict::Error(format!("[{}]", many.join(", "))),
        }
    }
}

/// Why an expression has no value.
#[derive(Debug)]
pub(super) enum Failure {
    /// This expression failed.
    Expression(String),
    /// None may be evaluated any more.
    OutOfBudget(String),
}

impl Failure {
    pub(super) fn text(&self) -> &str {
        match self {
            Failure::Expression(why) | Failure::OutOfBudget(why) => why,
        }
    }
}

/// The values of one request seen as one kind, and what was worked out so far.
pub(super) struct Evaluation<'a> {
    cluster: &'a dyn Cluster,
    user: &'a UserInfo,
    object: Value,
    old_object: Value,
    request: Value,
    request_resource: Value,
    namespace: Value,
    params: Value,
    variables: Arc<[(String, Compiled)]>,
    /// Variables that were worked out, by name.
    known: Mutex<HashMap<String, Result<Value, EvalError>>>,
    decisions: Mutex<HashMap<Question, Decision>>,
}

impl<'a> Evaluation<'a> {
    pub(super) async fn new(request: &'a Request<'_>, kind: &KindRef) -> Result<Self, Status> {
        let (object, old_object) = objects_of(request, kind).await?;
        // Policies and conditions see no object where webhooks see the options of a connection.
        let object = if request.operation == Operation::Connect { Json::Null } else { object };
        let question = Question {
            group: request.info().group.to_string(),
            resource: request.info().plural.to_string(),
            subresource: request.subresource.to_owned(),
            namespace: request.namespace.to_owned(),
            name: request.name.to_owned(),
            ..Question::default()
        };
        Ok(Evaluation {
            cluster: request.cluster,
            user: request.user,
            object: Value::from_json(&object),
            old_object: Value::from_json(&old_object),
            request: Value::from_json(&Json::Object(request_of(request, kind))),
            request_resource: Check::resource(question),
            namespace: Value::Null,
            params: Value::Null,
            variables: Arc::from([]),
            known: Mutex::default(),
            decisions: Mutex::default(),
        })
    }

    /// With the namespace of the request.
    pub(super) fn in_namespace(mut self, namespace: Option<&dyn AnyObject>) -> Self {
        let json = namespace.and_then(|n| serde_json::from_slice::<Json>(&n.encode()).ok());
        self.namespace = json.map_or(Value::Null, |mut json| {
            // Owners and their like are not shown (`CreateNamespaceObject`).
            if let Some(metadata) = json.get_mut("metadata").and_then(Json::as_object_mut) {
                metadata.retain(|key, _| !matches!(key.as_str(), "managedFields" | "ownerReferences" | "selfLink"));
            }
            Value::from_json(&json)
        });
        self
    }

    /// With the parameters of a binding and the variables of its policy.
    pub(super) fn with_policy(mut self, params: &Json, variables: &Arc<[(String, Compiled)]>) -> Self {
        self.params = Value::from_json(params);
        self.variables = variables.clone();
        self
    }

    /// The object has changed.
    pub(super) fn set_object(&mut self, object: &Json) {
        self.object = Value::from_json(object);
        self.known.lock().clear();
    }

    /// The value of an expression. The authorizer is asked when an expression needs it, and the expression then evaluated anew.
    pub(super) async fn eval(&self, expression: &Expression, budget: &mut Budget) -> Result<Value, Failure> {
        let program = match &expression.program {
            Ok(program) => program,
            Err(why) => return Err(Failure::Expression(format!("compilation error: {why}"))),
        };
        loop {
            let mut attempt = budget.clone();
            let begun = tokio::time::Instant::now();
            let result = program.eval(self, &mut attempt);
            self.cluster.metrics().expression(begun.elapsed());
            if let Err(EvalError::Undecided(question)) = result {
                let decision = self.ask(&question).await;
                self.decisions.lock().insert(*question, decision);
                continue;
            }
            *budget = attempt;
            return result.map_err(|error| match error {
                EvalError::OutOfBudget => Failure::OutOfBudget(error.to_string()),
                error => Failure::Expression(format!("expression '{}' resulted in error: {error}", expression.text)),
            });
        }
    }

    async fn ask(&self, question: &Question) -> Decision {
        let account = question.service_account.as_ref().map(|(namespace, name)| UserInfo {
            name: format!("system:serviceaccount:{namespace}:{name}"),
            groups: vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")],
            ..UserInfo::default()
        });
        let attributes = Attributes {
            user: account.as_ref().unwrap_or(self.user),
            verb: &question.verb,
            group: &question.group,
            version: "*",
            resource: &question.resource,
            subresource: &question.subresource,
            namespace: &question.namespace,
            name: &question.name,
            path: question.path.as_deref().unwrap_or_default(),
            is_resource_request: question.path.is_none(),
            field_selector: &question.field_selector,
            label_selector: &question.label_selector,
        };
        Decision { allowed: self.cluster.allowed(&attributes).await, ..Decision::default() }
    }

    fn policy_variable(&self, name: &str, budget: &mut Budget) -> Option<Result<Value, EvalError>> {
        let (_, program) = self.variables.iter().find(|(n, _)| n == name)?;
        if let Some(known) = self.known.lock().get(name) {
            return Some(known.clone());
        }
        let failed =
            |what: &str, why: String| EvalError::Failed(format!("composited variable {name:?} fails to {what}: {why}"));
        let result = match program {
            Err(why) => Err(failed("compile", why.clone())),
            Ok(program) => program.eval(self, budget).map_err(|error| match error {
                EvalError::Failed(why) => failed("evaluate", why),
                EvalError::CostLimit => failed("evaluate", error.to_string()),
                other => other,
            }),
        };
        if !matches!(result, Err(EvalError::Undecided(_))) {
            self.known.lock().insert(name.to_owned(), result.clone());
        }
        Some(result)
    }

    /// All variables at once, for `variables['x']` and `has(variables.x)`.
    fn all_variables(&self, budget: &mut Budget) -> Result<Value, EvalError> {
        let mut fields = BTreeMap::new();
        for (name, _) in self.variables.iter() {
            match self.policy_variable(name, budget) {
                Some(Ok(value)) => drop(fields.insert(Arc::from(name.as_str()), value)),
                Some(Err(error @ (EvalError::Undecided(_) | EvalError::OutOfBudget))) => return Err(error),
                _ => {}
            }
        }
        Ok(Value::Object(Arc::new(cel::Object { name: "kubernetes.variables".into(), fields })))
    }
}

impl cel::Activation for Evaluation<'_> {
    fn variable(&self, name: &str, budget: &mut Budget) -> Option<Result<Value, EvalError>> {
        let value = match name {
            "object" => &self.object,
            "oldObject" => &self.old_object,
            "request" => &self.request,
            "namespaceObject" => &self.namespace,
            "params" => &self.params,
            "authorizer" => return Some(Ok(Check::authorizer())),
            "authorizer.requestResource" => &self.request_resource,
            VARIABLES => return Some(self.all_variables(budget)),
            other => {
                let name = other.strip_prefix(VARIABLES)?.strip_prefix('.')?;
                return self.policy_variable(name, budget);
            }
        };
        Some(Ok(value.clone()))
    }

    fn decision(&self, question: &Question) -> Option<Decision> {
        self.decisions.lock().get(question).cloned()
    }
}
