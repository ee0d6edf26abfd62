//! The evaluator: walks the tree and counts what every step costs, as cel-go does (`interpreter/runtimecost.go`).

use super::ast::{ACCUMULATOR, Comprehension, Expr, Kind};
use super::check::Checked;
use super::cost::{self, Budget};
use super::errors::{EvalError, Issue};
use super::library::{self, Overload, authz};
use super::value::{Key, Map, Object, Value};
use super::{Activation, Inner, PER_CALL_LIMIT};
use ::regex::Regex;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// How a call is run.
#[derive(Debug)]
pub(super) struct Call {
    overloads: &'static [Overload],
    /// If the checker left only one.
    only: Option<&'static str>,
    /// A literal pattern, compiled.
    regex: Option<Regex>,
}

/// Prepares all calls of a checked expression; finds bad literals.
pub(super) fn plan(expr: &Expr, checked: &Checked) -> Result<HashMap<usize, Call>, Vec<Issue>> {
    let mut calls = HashMap::new();
    let mut issues = Vec::new();
    walk(expr, &mut |expr| {
        let Kind::Call { function, args, .. } = &expr.kind else { return };
        let literal = args.last().and_then(|arg| match &arg.kind {
            Kind::Literal(Value::String(text)) => Some((arg.at, text)),
            _ => None,
        });
        let pattern = match (&**function, args.first().map(|a| &a.kind)) {
            ("find" | "findAll", Some(Kind::Literal(Value::String(text)))) => Some((args[0].at, text)),
            ("matches", _) => literal,
            _ => None,
        };
        let mut regex = None;
        if let Some((at, text)) = pattern {
            match library::compile_regex(text) {
                Ok(compiled) => regex = Some(compiled),
                Err(_) => issues.push(Issue::at(at, format!("invalid {function} argument"))),
            }
        }
        if let Some((at, text)) = literal
            && let Some(problem) = library::time::literal_problem(function, text)
        {
            issues.push(Issue::at(at, problem));
        }
        let only = checked.overloads.get(&expr.id).and_then(|found| match found.as_slice() {
            [one] => Some(one.id),
            _ => None,
        });
        calls.insert(expr.id, Call { overloads: library::find(function, true), only, regex });
    });
    if issues.is_empty() { Ok(calls) } else { Err(issues) }
}

/// Calls `visit` on every node.
pub(super) fn walk(expr: &Expr, visit: &mut dyn FnMut(&Expr)) {
    visit(expr);
    match &expr.kind {
        Kind::Literal(_) | Kind::Ident(_) => {}
        Kind::Select { operand, .. } => walk(operand, visit),
        Kind::Call { target, args, .. } => {
            for part in target.iter().map(|t| &**t).chain(args) {
                walk(part, visit);
            }
        }
        Kind::List(items) => items.iter().for_each(|item| walk(&item.value, visit)),
        Kind::Map(entries) => {
            for entry in entries {
                walk(&entry.key, visit);
                walk(&entry.value, visit);
            }
        }
        Kind::Struct { fields, .. } => fields.iter().for_each(|field| walk(&field.value, visit)),
        Kind::Comprehension(fold) => {
            for part in [&fold.range, &fold.init, &fold.condition, &fold.step, &fold.result] {
                walk(part, visit);
            }
        }
    }
}

/// Whether a node names this variable.
pub(super) fn uses(expr: &Expr, variable: &str) -> bool {
    let mut found = false;
    walk(expr, &mut |expr| found |= matches!(&expr.kind, Kind::Ident(name) if &**name == variable));
    found
}

/// Whether `variable.field` or `variable.?field` stands in it.
pub(super) fn selects(expr: &Expr, variable: &str, field: &str) -> bool {
    let is_variable = |expr: &Expr| matches!(&expr.kind, Kind::Ident(name) if &**name == variable);
    let mut found = false;
    walk(expr, &mut |expr| {
        found |= match &expr.kind {
            Kind::Select { operand, field: name, .. } => &**name == field && is_variable(operand),
            Kind::Call { function, args, .. } if &**function == "_?._" => match args.as_slice() {
                [operand, name] => {
                    is_variable(operand) && matches!(&name.kind, Kind::Literal(name) if name.as_str() == Some(field))
                }
                _ => false,
            },
            _ => false,
        };
    });
    found
}

/// The value of an expression.
pub(super) fn eval(program: &Inner, variables: &dyn Activation, budget: &mut Budget) -> Result<Value, EvalError> {
    let mut run = Run { program, variables, budget, scopes: Vec::new(), cost: 0 };
    let result = run.eval(&program.expr);
    let cost = run.cost;
    match budget.spend(cost) {
        true => result,
        false => Err(EvalError::OutOfBudget),
    }
}

struct Run<'a> {
    program: &'a Inner,
    variables: &'a dyn Activation,
    budget: &'a mut Budget,
    /// Variables of comprehensions, innermost last. An accumulator may be an error: `all` and `exists` go on and may find
    /// an item that decides.
    scopes: Vec<(Arc<str>, Result<Value, EvalError>)>,
    cost: u64,
}

impl Run<'_> {
    fn spend(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > PER_CALL_LIMIT { Err(EvalError::CostLimit) } else { Ok(()) }
    }

    fn eval(&mut self, expr: &Expr) -> Result<Value, EvalError> {
        match &expr.kind {
            Kind::Literal(value) => Ok(value.clone()),
            Kind::Ident(name) => self.ident(name),
            Kind::Select { operand, field, test_only } => {
                let operand = self.eval(operand)?;
                if *test_only {
                    return has(&operand, field).map(Value::Bool);
                }
                self.spend(cost::SELECT)?;
                select(&operand, field)
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => {
                let mut list = Vec::with_capacity(items.len());
                for item in items {
                    let value = self.eval(&item.value)?;
                    match (item.optional, value) {
                        (false, value) => list.push(value),
                        (true, Value::Optional(Some(value))) => list.push((*value).clone()),
                        (true, Value::Optional(None)) => {}
                        (true, _) => return Err(EvalError::no_overload()),
                    }
                }
                self.spend(cost::LIST)?;
                Ok(list.into())
            }
            Kind::Map(entries) => {
                let mut map = Map::new();
                for entry in entries {
                    let key = self.eval(&entry.key)?;
                    let key = Key::of(&key).ok_or_else(|| EvalError::new("unsupported key type"))?;
                    let value = match (entry.optional, self.eval(&entry.value)?) {
                        (false, value) => value,
                        (true, Value::Optional(Some(value))) => (*value).clone(),
                        (true, Value::Optional(None)) => continue,
                        (true, _) => return Err(EvalError::no_overload()),
                    };
                    if map.contains_key(&key) {
                        return Err(EvalError::new(format!("Failed with repeated key: {key}")));
                    }
                    map.insert(key, value);
                }
                self.spend(cost::MAP)?;
                Ok(map.into())
            }
            Kind::Struct { name, fields } => {
                let mut object = Object { name: name.as_str().into(), fields: BTreeMap::new() };
                for field in fields {
                    let value = match (field.optional, self.eval(&field.value)?) {
                        (false, value) => value,
                        (true, Value::Optional(Some(value))) => (*value).clone(),
                        (true, Value::Optional(None)) => continue,
                        (true, _) => return Err(EvalError::no_overload()),
                    };
                    object.fields.insert(field.name.clone(), value);
                }
                self.spend(cost::STRUCT)?;
                Ok(Value::Object(Arc::new(object)))
            }
            Kind::Comprehension(fold) => self.fold(fold),
        }
    }

    fn ident(&mut self, name: &Arc<str>) -> Result<Value, EvalError> {
        self.spend(cost::SELECT)?;
        if let Some((_, value)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return value.clone();
        }
        match self.variables.variable(name, self.budget) {
            Some(value) => value,
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }

    fn call(
        &mut self,
        expr: &Expr,
        function: &Arc<str>,
        target: Option<&Expr>,
        args: &[Expr],
    ) -> Result<Value, EvalError> {
        match (&**function, args) {
            ("_&&_", [left, right]) => return self.logical(left, right, false),
            ("_||_", [left, right]) => return self.logical(left, right, true),
            ("_?_:_", [condition, yes, no]) => {
                return match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(EvalError::no_overload()),
                };
            }
            ("@not_strictly_false", [value]) => {
                let holds = match self.eval(value) {
                    Ok(value) => value.as_bool() != Some(false),
                    Err(error) if error.is_final() => return Err(error),
                    Err(_) => true,
                };
                self.spend(1)?;
                return Ok(holds.into());
            }
            ("_[_]", [container, key]) => {
                let (container, key) = (self.eval(container)?, self.eval(key)?);
                self.spend(cost::SELECT)?;
                return library::index(&[container, key]);
            }
            ("_[?_]", [container, key]) => {
                let (container, key) = (self.eval(container)?, self.eval(key)?);
                self.spend(cost::SELECT)?;
                return optional_index(&container, &key);
            }
            ("_?._", [operand, field]) => {
                let (operand, field) = (self.eval(operand)?, self.eval(field)?);
                self.spend(cost::SELECT)?;
                return optional_index(&operand, &field);
            }
            ("_+_" | "cel.@mapInsert", [accu, more @ ..]) if is_accumulator(accu) => {
                return self.accumulate(expr, function, more);
            }
            _ => {}
        }
        let mut values = Vec::with_capacity(args.len() + 1);
        if let Some(target) = target {
            values.push(self.eval(target)?);
        }
        for arg in args {
            values.push(self.eval(arg)?);
        }
        let plan = self.program.calls.get(&expr.id).ok_or_else(EvalError::no_overload)?;
        let result = if &**function == authz::CHECK {
            self.decision(&values)
        } else {
            match &plan.regex {
                Some(regex) => library::run_regex(function, regex, &values),
                None => library::run(plan.overloads, target.is_some(), &values),
            }
        };
        let cost = cost::of_call(function, plan.only, &values, result.as_ref().ok());
        self.spend(cost)?;
        result
    }

    fn decision(&self, values: &[Value]) -> Result<Value, EvalError> {
        let [Value::Authorizer(check), Value::String(verb)] = values else { return Err(EvalError::no_overload()) };
        let question = check.question(verb).ok_or_else(EvalError::no_overload)?;
        match self.variables.decision(&question) {
            Some(decision) => Ok(authz::Check::decided(decision)),
            None => Err(EvalError::Undecided(Box::new(question))),
        }
    }

    /// `&&` and `||`: one decisive side is enough, whatever the other side is.
    fn logical(&mut self, left: &Expr, right: &Expr, decisive: bool) -> Result<Value, EvalError> {
        let left = match self.eval(left) {
            Ok(Value::Bool(value)) if value == decisive => return Ok(value.into()),
            Err(error) if error.is_final() => return Err(error),
            other => other,
        };
        match (left, self.eval(right)) {
            (_, Ok(Value::Bool(value))) if value == decisive => Ok(value.into()),
            (_, Err(error)) if error.is_final() => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(Value::Bool(_)), Ok(Value::Bool(value))) => Ok(value.into()),
            _ => Err(EvalError::no_overload()),
        }
    }

    /// `accumulator + more`, in place: copying the list for every item would make a fold quadratic.
    fn accumulate(&mut self, expr: &Expr, function: &str, more: &[Expr]) -> Result<Value, EvalError> {
        self.spend(cost::SELECT)?;
        let slot =
            self.scopes.iter().rposition(|(name, _)| &**name == ACCUMULATOR).ok_or_else(EvalError::no_overload)?;
        let mut values = Vec::with_capacity(more.len() + 1);
        for arg in more {
            values.push(self.eval(arg)?);
        }
        // Nothing reads the accumulator between here and the end of the step.
        let accumulator = std::mem::replace(&mut self.scopes[slot].1, Ok(Value::Null))?;
        let plan = self.program.calls.get(&expr.id).ok_or_else(EvalError::no_overload)?;
        match (accumulator, values.as_slice()) {
            (Value::List(mut list), [Value::List(more)]) if function == "_+_" => {
                self.spend(1)?;
                Arc::make_mut(&mut list).extend(more);
                Ok(Value::List(list))
            }
            (Value::Map(mut map), [key, value]) if function != "_+_" => {
                self.spend(1)?;
                let key = Key::of(key).ok_or_else(EvalError::no_overload)?;
                if map.contains_key(&key) {
                    return Err(EvalError::new(format!("insert failed: key {key} already exists")));
                }
                Arc::make_mut(&mut map).insert(key, value.clone());
                Ok(Value::Map(map))
            }
            (accumulator, _) => {
                values.insert(0, accumulator);
                let result = library::run(plan.overloads, false, &values);
                self.spend(cost::of_call(function, plan.only, &values, result.as_ref().ok()))?;
                result
            }
        }
    }

    fn fold(&mut self, fold: &Comprehension) -> Result<Value, EvalError> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init)?;
        let accu = self.scopes.len();
        self.scopes.push((fold.accu.clone(), Ok(init)));
        let result = self.fold_over(fold, accu, &range);
        let result = result.and_then(|()| self.eval(&fold.result));
        self.scopes.truncate(accu);
        result
    }

    fn fold_over(&mut self, fold: &Comprehension, accu: usize, range: &Value) -> Result<(), EvalError> {
        match range {
            Value::List(list) => {
                for (i, item) in list.items.iter().enumerate() {
                    let first = if fold.var2.is_some() { Value::Int(i as i64) } else { item.clone() };
                    if !self.fold_step(fold, accu, first, item)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Map(map) => {
                for (key, value) in map.iter() {
                    if !self.fold_step(fold, accu, key.value(), value)? {
                        break;
                    }
                }
                Ok(())
            }
            Value::Object(object) => {
                for (name, value) in &object.fields {
                    if !self.fold_step(fold, accu, Value::String(name.clone()), value)? {
                        break;
                    }
                }
                Ok(())
            }
            _ => Err(EvalError::no_overload()),
        }
    }

    /// One round; `false` if it was the last.
    fn fold_step(
        &mut self,
        fold: &Comprehension,
        accu: usize,
        first: Value,
        second: &Value,
    ) -> Result<bool, EvalError> {
        self.scopes.truncate(accu + 1);
        self.scopes.push((fold.var.clone(), Ok(first)));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), Ok(second.clone())));
        }
        match self.eval(&fold.condition)? {
            Value::Bool(true) => {}
            _ => {
                self.scopes.truncate(accu + 1);
                return Ok(false);
            }
        }
        let next = self.eval(&fold.step);
        self.scopes.truncate(accu + 1);
        match next {
            Err(error) if error.is_final() => Err(error),
            next => {
                self.scopes[accu].1 = next;
                Ok(true)
            }
        }
    }
}

fn is_accumulator(expr: &Expr) -> bool {
    matches!(&expr.kind, Kind::Ident(name) if &**name == ACCUMULATOR)
}

fn select(operand: &Value, field: &Arc<str>) -> Result<Value, EvalError> {
    match operand {
        Value::Map(map) => map.find(&Key::String(field.clone())).cloned().ok_or_else(|| EvalError::no_key(field)),
        Value::Object(object) => object.fields.get(field).cloned().ok_or_else(|| EvalError::no_key(field)),
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => optional_index(inner, &Value::String(field.clone())),
        _ => Err(EvalError::no_overload()),
    }
}

fn has(operand: &Value, field: &Arc<str>) -> Result<bool, EvalError> {
    match operand {
        Value::Map(map) => Ok(map.contains_key(&Key::String(field.clone()))),
        Value::Object(object) => Ok(object.fields.contains_key(field)),
        Value::Optional(None) => Ok(false),
        Value::Optional(Some(inner)) => has(inner, field),
        _ => Err(EvalError::no_overload()),
    }
}

/// `container[?key]` and `operand.?field`
fn optional_index(container: &Value, key: &Value) -> Result<Value, EvalError> {
    match container {
        Value::Optional(None) => Ok(Value::Optional(None)),
        Value::Optional(Some(inner)) => optional_index(inner, key),
        container => Ok(Value::Optional(library::find_in(container, key)?.map(Arc::new))),
    }
}
