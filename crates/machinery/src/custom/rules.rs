//! `x-kubernetes-validations`: rules in CEL beside a schema (`apiextensions-apiserver/pkg/apiserver/schema/cel/{compilation,
//! validation}.go`, and for their costs `pkg/apis/apiextensions/validation/cel_validation.go`). Pure, like all of CEL here.
//!
//! Differs: types of `self` are called `selfType`, where upstream draws a new name each time.

use super::check::field_at;
use super::structural::Structural;
use super::validate::Node;
use crate::cel::{self, Budget, Decl, Env, EvalError, Program, REQUEST_BUDGET, Type};
use crate::field::{ErrorType, Errors, FieldError, Path};
use crate::validation::Raw;
use api::Codec;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `StaticEstimatedCostLimit`: what one expression may cost at most.
const EXPRESSION_LIMIT: u64 = 10_000_000;
/// `StaticEstimatedCRDCostLimit`: what all of a schema may cost together.
const SCHEMA_LIMIT: u64 = 100_000_000;
/// `MaxEvaluatedMessageExpressionSizeBytes`
const MAX_MESSAGE: usize = 5 * 1024;
/// `MaxRequestSizeBytes`
const MAX_REQUEST: u64 = 3 << 20;
/// So many of the costliest expressions are named if all together cost too much.
const MOST_EXPENSIVE: usize = 4;

/// The compiled rules of a schema.
#[derive(Debug, Default)]
pub struct Rules {
    root: Option<Scope>,
}

/// Rules of one schema and of those within it.
#[derive(Debug)]
struct Scope {
    ty: String,
    decl: Option<Decl>,
    rules: Vec<Rule>,
    items: Option<Box<Scope>>,
    properties: BTreeMap<String, Scope>,
    additional: Option<Box<Scope>>,
}

#[derive(Debug)]
struct Rule {
    source: ValidationRule,
    /// An error keeps no object out that other rules let in; it is shown where the rule would run.
    program: Result<Program, String>,
    message: Option<Program>,
    uses_old: bool,
    /// `oldSelf` is an optional value.
    optional: bool,
    field: String,
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

impl Rule {
    fn compile(source: &ValidationRule, decl: &Decl, schema: &Structural) -> Self {
        let env = env_of(source, decl);
        let program =
            compile(&source.rule, &env, &Type::Bool, "compilation failed: ", "cel expression must evaluate to a bool");
        let message = match text(&source.message_expression) {
            "" => None,
            expression => cel::compile(expression, &env).ok(),
        };
        Rule {
            uses_old: program.as_ref().is_ok_and(|p| p.uses("oldSelf")),
            optional: source.optional_old_self == Some(true),
            field: match text(&source.field_path) {
                "" => String::new(),
                path => field_at(schema, path, true).map(|(names, _)| names.join(".")).unwrap_or_default(),
            },
            source: source.clone(),
            program,
            message,
        }
    }

    /// As errors call the rule.
    fn name(&self) -> &str {
        let message = text(&self.source.message).trim();
        if message.is_empty() { self.source.rule.trim() } else { message }
    }
}

fn env_of(rule: &ValidationRule, decl: &Decl) -> Env {
    let old = match rule.optional_old_self {
        Some(true) => Decl::from(Type::optional(decl.ty.clone())),
        _ => decl.clone(),
    };
    Env::new().with("self", decl.clone()).with("oldSelf", old)
}

fn compile(source: &str, env: &Env, wanted: &Type, prefix: &str, wrong: &str) -> Result<Program, String> {
    let program = cel::compile(source, env).map_err(|e| format!("{prefix}{e}"))?;
    if program.output_type() == wanted { Ok(program) } else { Err(wrong.to_owned()) }
}

fn items(props: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &props.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items),
        _ => None,
    }
}

fn additional(props: &JSONSchemaProps) -> Option<&JSONSchemaProps> {
    match &props.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => Some(schema),
        _ => None,
    }
}

fn decl_of(props: &JSONSchemaProps, resource: bool) -> Option<Decl> {
    let json: Value = serde_json::from_slice(&props.encode()).ok()?;
    cel::from_json_schema(&json, "selfType", resource)
}

impl Scope {
    fn compile(props: &JSONSchemaProps, resource: bool) -> Option<Scope> {
        let rules = props.x_kubernetes_validations.as_deref().unwrap_or_default();
        let decl = if rules.is_empty() { None } else { decl_of(props, resource) };
        let embedded = |p: &JSONSchemaProps| p.x_kubernetes_embedded_resource == Some(true);
        let below = |p: &JSONSchemaProps| Scope::compile(p, embedded(p));
        let scope = Scope {
            ty: text(&props.type_).to_owned(),
            rules: match &decl {
                None => Vec::new(),
                Some(decl) => {
                    let schema = Structural::of(props);
                    let written = rules.iter().filter(|r| !r.rule.trim().is_empty());
                    written.map(|rule| Rule::compile(rule, decl, &schema)).collect()
                }
            },
            decl,
            items: items(props).and_then(below).map(Box::new),
            properties: props
                .properties
                .iter()
                .flatten()
                .filter_map(|(name, property)| Some((name.clone(), below(property)?)))
                .collect(),
            additional: additional(props).and_then(below).map(Box::new),
        };
        let empty = scope.rules.is_empty()
            && scope.items.is_none()
            && scope.properties.is_empty()
            && scope.additional.is_none();
        (!empty).then_some(scope)
    }
}

// === at run time ===

/// Where old and new values are seen together (`ratchetingOptions`).
#[derive(Clone, Copy, Default)]
struct Ratchet<'a> {
    current: Option<Node<'a>>,
    parent: Option<Node<'a>>,
}

impl<'a> Ratchet<'a> {
    fn key(self, name: &str) -> Self {
        match self.current {
            None => self,
            Some(_) if self.parent.is_none() && matches!(name, "apiVersion" | "kind") => Ratchet::default(),
            Some(node) => Ratchet { current: node.key(name), parent: self.current },
        }
    }

    fn index(self, index: usize) -> Self {
        match self.current {
            None => self,
            Some(node) => Ratchet { current: node.index(index), parent: self.current },
        }
    }

    /// What was wrong before may stay.
    fn is_unchanged(self) -> bool {
        self.current.or(self.parent).is_some_and(Node::is_unchanged)
    }
}

/// No more rules are run.
struct Stop;

struct Run {
    budget: Budget,
    errors: Errors,
}

impl Rules {
    /// Compiles all rules of a schema that was accepted.
    pub fn compile(props: Option<&JSONSchemaProps>) -> Self {
        Rules { root: props.and_then(|props| Scope::compile(props, true)) }
    }

    /// Whether there is nothing to run.
    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Runs all rules on an object, and on the change if there was one before.
    pub fn evaluate(&self, schema: &Structural, new: &Value, old: Option<&Value>) -> Errors {
        let Some(root) = &self.root else { return Vec::new() };
        let mut run = Run { budget: Budget::new(REQUEST_BUDGET), errors: Vec::new() };
        let ratchet = Ratchet { current: old.map(|old| Node { new, old, schema }), parent: None };
        // An early end has said why.
        let _ended: Result<(), Stop> = run.scope(root, Some(schema), new, old, &Path::root(), ratchet);
        run.errors
    }
}

// === on the defaults of a definition ===

/// The rules that concern one part of a schema, if there are any.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a>(Option<&'a Scope>);

impl<'a> Part<'a> {
    /// Those of the whole schema.
    pub(super) fn root(rules: &'a Rules) -> Self {
        Part(rules.root.as_ref())
    }

    pub(super) fn items(self) -> Self {
        Part(self.0.and_then(|scope| scope.items.as_deref()))
    }

    pub(super) fn property(self, name: &str) -> Self {
        Part(self.0.and_then(|scope| scope.properties.get(name)))
    }
}

/// Runs rules on defaults (`schema/defaulting/validation.go`); all of a schema have one budget.
pub(super) struct Trial {
    budget: Budget,
}

impl Trial {
    pub(super) fn new() -> Self {
        Trial { budget: Budget::new(REQUEST_BUDGET) }
    }

    /// What rules say of the default that stands at `path`: as something that stays as it is, and as something new.
    pub(super) fn errors(&mut self, part: Part<'_>, schema: &Structural, default: &Value, path: &Path) -> Errors {
        let Some(scope) = part.0.filter(|_| !self.budget.is_exhausted()) else { return Vec::new() };
        let run = |old: Option<&Value>| {
            let mut run = Run { budget: self.budget.clone(), errors: Vec::new() };
            // An early end has said why.
            let _ended: Result<(), Stop> = run.scope(scope, Some(schema), default, old, path, Ratchet::default());
            run
        };
        let unchanged = run(Some(default));
        if !unchanged.errors.is_empty() {
            self.budget = unchanged.budget;
            return unchanged.errors;
        }
        let added = run(None);
        let costlier =
            if added.budget.remaining() < unchanged.budget.remaining() { added.budget } else { unchanged.budget };
        self.budget = costlier;
        added.errors
    }
}

impl Run {
    fn scope(
        &mut self,
        scope: &Scope,
        schema: Option<&Structural>,
        new: &Value,
        old: Option<&Value>,
        path: &Path,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        if new.is_null() {
            return Ok(());
        }
        self.rules(scope, new, old.filter(|o| !o.is_null()), path, ratchet)?;
        match new {
            Value::Array(list) => {
                let Some(inner) = &scope.items else { return Ok(()) };
                let of = schema.and_then(|s| s.items.as_deref());
                for (i, item) in list.iter().enumerate() {
                    let before = schema.zip(old).and_then(|(schema, old)| Node { new, old, schema }.index(i));
                    self.scope(inner, of, item, before.map(|n| n.old), &path.index(i), ratchet.index(i))?;
                }
            }
            Value::Object(map) => {
                for (key, value) in map {
                    let before = old.and_then(|o| o.get(key));
                    let of = schema.and_then(|s| s.child(key));
                    if let Some(inner) = &scope.additional {
                        self.scope(inner, of, value, before, &path.key(key), ratchet.key(key))?;
                    }
                    if let Some(inner) = scope.properties.get(key) {
                        self.scope(inner, of, value, before, &path.child(key), ratchet.key(key))?;
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn rules(
        &mut self,
        scope: &Scope,
        new: &Value,
        old: Option<&Value>,
        path: &Path,
        ratchet: Ratchet<'_>,
    ) -> Result<(), Stop> {
        let Some(decl) = scope.decl.as_ref().filter(|_| !scope.rules.is_empty()) else { return Ok(()) };
        let own = cel::Value::from_declared_json(new, decl);
        let before = old.map(|old| cel::Value::from_declared_json(old, decl));
        for rule in &scope.rules {
            if rule.uses_old && before.is_none() && !rule.optional {
                continue;
            }
            let program = match &rule.program {
                Ok(program) => program,
                Err(why) => {
                    self.invalid(path, scope, &format!("rule compile error: {why}"));
                    continue;
                }
            };
            let old_self = match (rule.optional, &before) {
                (true, before) => cel::Value::Optional(before.clone().map(Arc::new)),
                (false, Some(before)) => before.clone(),
                (false, None) => cel::Value::Null,
            };
            let variables = [("self", own.clone()), ("oldSelf", old_self)];
            match self.eval(program, &variables) {
                Ok(cel::Value::Bool(true)) => continue,
                Ok(_) => {}
                Err(error) => {
                    self.failed(path, scope, rule, &error)?;
                    continue;
                }
            }
            let detail = self.message(path, scope, rule, &variables)?;
            if !rule.uses_old && ratchet.is_unchanged() {
                continue;
            }
            let at = if rule.field.is_empty() { path.clone() } else { path.child(&rule.field) };
            self.errors.push(violation(&at, scope, new, &detail, rule.source.reason.as_deref()));
        }
        Ok(())
    }

    /// One evaluation: bounded by itself, and paid from the budget of all.
    fn eval(&mut self, program: &Program, variables: &[(&str, cel::Value); 2]) -> Result<cel::Value, EvalError> {
        if self.budget.remaining() == 0 {
            return Err(EvalError::OutOfBudget);
        }
        let result = program.eval(variables, &mut self.budget);
        if self.budget.is_exhausted() { Err(EvalError::OutOfBudget) } else { result }
    }

    fn invalid(&mut self, path: &Path, scope: &Scope, detail: &str) {
        self.errors.push(FieldError::invalid(path, scope.ty.as_str(), detail));
    }

    fn failed(&mut self, path: &Path, scope: &Scope, rule: &Rule, error: &EvalError) -> Result<(), Stop> {
        let name = rule.name();
        match error {
            EvalError::OutOfBudget => {
                self.invalid(path, scope, &error.to_string());
                return Err(Stop);
            }
            EvalError::CostLimit => {
                let why = format!(
                    "'{error}': no further validation rules will be run due to call cost exceeds limit for rule: {name}"
                );
                self.invalid(path, scope, &why);
                return Err(Stop);
            }
            EvalError::Failed(why) if why.starts_with("no such overload") => {
                let why = format!(
                    "'{why}': call arguments did not match a supported operator, function or macro signature for rule: {name}"
                );
                self.invalid(path, scope, &why);
            }
            other => self.invalid(path, scope, &format!("{other} evaluating rule: {name}")),
        }
        Ok(())
    }

    /// What is said about a rule that does not hold. A message that cannot be made is left out, unless it costs too much.
    fn message(
        &mut self,
        path: &Path,
        scope: &Scope,
        rule: &Rule,
        variables: &[(&str, cel::Value); 2],
    ) -> Result<String, Stop> {
        let fixed = match text(&rule.source.message) {
            "" => format!("failed rule: {}", rule.name()),
            message => message.trim().to_owned(),
        };
        let Some(program) = &rule.message else { return Ok(fixed) };
        let source = text(&rule.source.message_expression);
        match self.eval(program, variables) {
            Ok(value) => {
                let made = value.as_str().map(str::trim).unwrap_or_default();
                let usable = !made.is_empty() && made.len() <= MAX_MESSAGE && !made.contains('\n');
                Ok(if usable { made.to_owned() } else { fixed })
            }
            Err(EvalError::OutOfBudget) => {
                let why = "messageExpression evaluation failed due to running out of cost budget, no further validation rules will be run";
                self.invalid(path, scope, why);
                Err(Stop)
            }
            Err(EvalError::CostLimit) => {
                let why = format!(
                    "no further validation rules will be run due to call cost exceeds limit for messageExpression: {source:?}"
                );
                self.invalid(path, scope, &why);
                Err(Stop)
            }
            Err(_) => Ok(fixed),
        }
    }
}

fn violation(path: &Path, scope: &Scope, value: &Value, detail: &str, reason: Option<&str>) -> FieldError {
    // Objects and lists are not repeated in the error.
    let shown = if matches!(scope.ty.as_str(), "object" | "array") { String::new() } else { format!(": {value}") };
    match reason {
        Some("FieldValueForbidden") => FieldError::forbidden(path, detail),
        Some("FieldValueRequired") => FieldError::required(path, detail),
        Some("FieldValueDuplicate") => {
            FieldError { kind: ErrorType::Duplicate, path: path.clone(), body: format!("Duplicate value{shown}") }
        }
        _ => {
            FieldError { kind: ErrorType::Invalid, path: path.clone(), body: format!("Invalid value{shown}: {detail}") }
        }
    }
}

// === when a definition is made ===

/// Costs of the expressions of one schema.
#[derive(Default)]
struct Costs {
    total: u64,
    each: Vec<(u64, Path)>,
}

/// How often a schema may occur in an object; `None` if nothing bounds it.
type Cardinality = Option<u64>;

/// All mistakes of the rules of a schema without other mistakes. Rules that the definition had before may cost what they did.
pub(super) fn check(props: &JSONSchemaProps, path: &Path, limit_each: bool) -> Errors {
    let mut errors = Vec::new();
    let mut costs = Costs::default();
    let mut walk = Walk { errors: &mut errors, costs: &mut costs, limit_each };
    walk.scope(props, path, true, Some(1), None);
    if costs.total > SCHEMA_LIMIT {
        costs.each.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, at) in costs.each.iter().take(MOST_EXPENSIVE) {
            let why = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(FieldError::forbidden(at, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(FieldError::forbidden(path, &too_costly(what, costs.total, SCHEMA_LIMIT)));
    }
    errors
}

/// An error about a rule, which is shown as Go writes upstream's internal type: its fields have no JSON names.
fn invalid_rule(path: &Path, rule: &ValidationRule, detail: &str) -> FieldError {
    let shown = Raw::go_struct(&[
        ("Rule", &json!(rule.rule)),
        ("Message", &json!(text(&rule.message))),
        ("MessageExpression", &json!(text(&rule.message_expression))),
        ("Reason", &json!(rule.reason)),
        ("FieldPath", &json!(text(&rule.field_path))),
        ("OptionalOldSelf", &json!(rule.optional_old_self)),
    ]);
    FieldError::invalid(path, shown, detail)
}

/// `getCostErrorMessage`
fn too_costly(what: &str, cost: u64, limit: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a factor for people")]
    let factor = cost as f64 / limit as f64;
    let factor = match factor {
        f if f > 100.0 => "more than 100x".to_owned(),
        f if f < 1.5 => format!("{f:.6}x"),
        f => format!("{f:.1}x"),
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

struct Walk<'a> {
    errors: &'a mut Errors,
    costs: &'a mut Costs,
    limit_each: bool,
}

impl Walk<'_> {
    /// `blind` is the first schema around this one whose parts cannot be told apart before and after a change.
    fn scope(
        &mut self,
        props: &JSONSchemaProps,
        path: &Path,
        resource: bool,
        often: Cardinality,
        blind: Option<&Path>,
    ) {
        let rules = props.x_kubernetes_validations.as_deref().unwrap_or_default();
        if !rules.is_empty() {
            match decl_of(props, resource) {
                None => {
                    let why = "internal error: failed to retrieve type information for x-kubernetes-validations";
                    let at = path.child("x-kubernetes-validations");
                    let body = format!("Internal error: {why}");
                    self.errors.push(FieldError { kind: ErrorType::Internal, path: at, body });
                }
                Some(decl) => {
                    let often = often.unwrap_or_else(|| MAX_REQUEST / (decl.min_bytes() + 1));
                    for (i, rule) in rules.iter().enumerate() {
                        let at = path.child("x-kubernetes-validations").index(i);
                        self.rule(rule, &decl, &at, often, blind);
                    }
                }
            }
        }
        let embedded = |p: &JSONSchemaProps| p.x_kubernetes_embedded_resource == Some(true);
        let times = |most: Option<i64>| Some(often?.saturating_mul(u64::try_from(most?).unwrap_or(0)));
        if let Some(inner) = items(props) {
            let at = path.child("items");
            let is_map = props.x_kubernetes_list_type.as_deref() == Some("map");
            let blind = blind.or((!is_map).then_some(path));
            self.scope(inner, &at, embedded(inner), times(props.max_items), blind);
        }
        if let Some(inner) = additional(props) {
            let at = path.child("additionalProperties");
            self.scope(inner, &at, embedded(inner), times(props.max_properties), blind);
        }
        for (name, inner) in props.properties.iter().flatten() {
            self.scope(inner, &path.child("properties").key(name), embedded(inner), often, blind);
        }
    }

    fn rule(&mut self, rule: &ValidationRule, decl: &Decl, at: &Path, often: u64, blind: Option<&Path>) {
        if rule.rule.trim().is_empty() {
            return;
        }
        let env = env_of(rule, decl);
        let wrong = "cel expression must evaluate to a bool";
        let program = match compile(&rule.rule, &env, &Type::Bool, "compilation failed: ", wrong) {
            Ok(program) => program,
            Err(why) => return self.errors.push(invalid_rule(&at.child("rule"), rule, &why)),
        };
        let cost = program.estimate(&env).max.saturating_mul(often);
        self.cost(cost, "estimated rule cost", &at.child("rule"));
        let expression = text(&rule.message_expression);
        if !expression.is_empty() {
            let wrong = "messageExpression must evaluate to a string";
            match compile(expression, &env, &Type::String, "messageExpression compilation failed: ", wrong) {
                Ok(message) => {
                    let cost = message.estimate(&env).max;
                    self.cost(cost, "estimated messageExpression cost", &at.child("messageExpression"));
                }
                Err(why) => self.errors.push(invalid_rule(&at.child("messageExpression"), rule, &why)),
            }
        }
        if program.uses("oldSelf") {
            if let Some(blind) = blind {
                let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {blind}");
                self.errors.push(FieldError::invalid(&at.child("rule"), &rule.rule, &why));
            }
        } else if let Some(optional) = rule.optional_old_self {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.push(FieldError::invalid(&at.child("optionalOldSelf"), optional, why));
        }
    }

    fn cost(&mut self, cost: u64, what: &str, at: &Path) {
        if self.limit_each && cost > EXPRESSION_LIMIT {
            self.errors.push(FieldError::forbidden(at, &too_costly(what, cost, EXPRESSION_LIMIT)));
        }
        self.costs.total = self.costs.total.saturating_add(cost);
        self.costs.each.push((cost, at.clone()));
    }
}
