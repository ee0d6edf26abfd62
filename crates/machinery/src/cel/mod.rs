//! CEL, the expressions of custom resources, webhooks and policies: this module hides the engine.
//!
//! ```text
//! text ─parse→ tree (macros expanded) ─check→ types, overloads ─eval→ value, cost
//!                                          └─cost→ estimate before anything runs
//! ```
//!
//! The environment is Kubernetes' (`apiserver/pkg/cel/environment/base.go`): standard library, `strings`, `lists`, `sets`,
//! optional values, two-variable comprehensions, and Kubernetes' lists, regular expressions, URLs, quantities, IP addresses,
//! CIDRs, named formats, semantic versions and authorizer. Messages of the checker are cel-go's.
//!
//! Always holds: evaluation is pure and ends. It asks nobody (answers of the authorizer are given, see
//! [`EvalError::Undecided`]), and every step has a cost that is counted against a limit.

mod ast;
mod check;
mod cost;
pub mod device;
mod errors;
mod eval;
mod library;
mod macros;
mod parse;
pub mod policy;
#[cfg(test)]
mod tests;
mod types;
mod value;

pub use cost::{Budget, CostEstimate};
pub use errors::{CompileError, EvalError, Issue};
pub use library::authz::{Check, Decision, Question};
pub use types::{Decl, ObjectType, Type, built_in, escape, from_json_schema, unescape};
pub use value::{Key, List, Map, Object, Value};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// What one evaluation may cost (`PerCallLimit`, about a tenth of a second).
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// What all evaluations for one custom resource or one policy binding may cost together (`RuntimeCELCostBudget`).
pub const REQUEST_BUDGET: u64 = 10_000_000;
/// The same for match conditions (`RuntimeCELCostBudgetMatchConditions`).
pub const MATCH_CONDITIONS_BUDGET: u64 = 2_500_000;

/// What an expression may name: variables with their types.
#[derive(Debug, Clone, Default)]
pub struct Env {
    variables: BTreeMap<String, Decl>,
    patch_types: bool,
    bindings: bool,
}

impl Env {
    /// No variables.
    pub fn new() -> Self {
        Env::default()
    }

    /// With a variable. A name with dots (`authorizer.requestResource`) is one variable.
    pub fn with(mut self, name: &str, decl: impl Into<Decl>) -> Self {
        self.variables.insert(name.to_owned(), decl.into());
        self
    }

    /// With `Object{…}` and `JSONPatch{…}`.
    pub fn with_patch_types(mut self) -> Self {
        self.patch_types = true;
        self
    }

    /// With `cel.bind(name, value, result)`.
    pub fn with_bindings(mut self) -> Self {
        self.bindings = true;
        self
    }

    fn variable(&self, name: &str) -> Option<&Decl> {
        self.variables.get(name)
    }

    fn has_patch_types(&self) -> bool {
        self.patch_types
    }
}

/// The values of the variables of one evaluation.
pub trait Activation {
    /// A variable's value, perhaps worked out now against the same budget; `None` if there is none of that name.
    fn variable(&self, name: &str, budget: &mut Budget) -> Option<Result<Value, EvalError>>;

    /// What the authorizer said, if it was asked.
    fn decision(&self, _question: &Question) -> Option<Decision> {
        None
    }
}

/// Variables as a plain map.
impl Activation for HashMap<&str, Value> {
    fn variable(&self, name: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
        self.get(name).cloned().map(Ok)
    }
}

/// Variables as a short list.
impl<const N: usize> Activation for [(&str, Value); N] {
    fn variable(&self, name: &str, _: &mut Budget) -> Option<Result<Value, EvalError>> {
        self.iter().find(|(n, _)| *n == name).map(|(_, value)| Ok(value.clone()))
    }
}

/// An expression that compiled.
#[derive(Debug, Clone)]
pub struct Program {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    expr: ast::Expr,
    checked: check::Checked,
    /// By node: how a call is run.
    calls: HashMap<usize, eval::Call>,
}

/// Parses and checks an expression.
pub fn compile(source: &str, env: &Env) -> Result<Program, CompileError> {
    let failed = |issues| CompileError::new(source, issues);
    let (mut expr, count) = parse::parse(source, env.bindings).map_err(failed)?;
    let checked = check::check(env, &mut expr, count).map_err(failed)?;
    let calls = eval::plan(&expr, &checked).map_err(failed)?;
    Ok(Program { inner: Arc::new(Inner { expr, checked, calls }) })
}

impl Program {
    /// The type of the value.
    pub fn output_type(&self) -> &Type {
        &self.inner.checked.types[self.inner.expr.id]
    }

    /// The value. What it cost is taken from the budget, also if it failed.
    pub fn eval(&self, variables: &dyn Activation, budget: &mut Budget) -> Result<Value, EvalError> {
        eval::eval(&self.inner, variables, budget)
    }

    /// What an evaluation costs at least and at most, from the limits of the schemas of `env`'s variables.
    pub fn estimate(&self, env: &Env) -> CostEstimate {
        cost::estimate(&self.inner.expr, &self.inner.checked, env)
    }

    /// Whether the expression names this variable (`oldSelf` makes a rule a transition rule).
    pub fn uses(&self, variable: &str) -> bool {
        eval::uses(&self.inner.expr, variable)
    }

    /// Whether the expression reads this field of this variable by name.
    pub fn selects(&self, variable: &str, field: &str) -> bool {
        eval::selects(&self.inner.expr, variable, field)
    }
}
