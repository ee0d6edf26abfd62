//! The type checker: gives every node a type and every call its overloads, or complains (`cel-go/checker/checker.go`,
//! `…/types.go`).

use super::Env;
use super::ast::{Expr, Kind};
use super::errors::Issue;
use super::library::{self, Overload};
use super::types::{ObjectType, Type};
use super::value::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// What the checker found out.
#[derive(Debug, Default)]
pub(super) struct Checked {
    /// By node.
    pub(super) types: Vec<Type>,
    /// By node: the overloads that a call may mean.
    pub(super) overloads: HashMap<usize, Vec<&'static Overload>>,
}

/// Checks `expr`, which has `count` nodes; rewrites qualified names to identifiers.
pub(super) fn check(env: &Env, expr: &mut Expr, count: usize) -> Result<Checked, Vec<Issue>> {
    let mut checker = Checker {
        env,
        scopes: Vec::new(),
        checked: Checked { types: vec![Type::Dyn; count], ..Checked::default() },
        found: HashMap::new(),
        free: 0,
        issues: Vec::new(),
    };
    checker.check(expr);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let types = std::mem::take(&mut checker.checked.types);
    checker.checked.types = types.iter().map(|ty| substitute(&checker.found, ty, true)).collect();
    Ok(checker.checked)
}

struct Checker<'a> {
    env: &'a Env,
    /// Variables of comprehensions, innermost last.
    scopes: Vec<(Arc<str>, Type)>,
    checked: Checked,
    /// What free types turned out to be.
    found: Found,
    free: usize,
    issues: Vec<Issue>,
}

type Found = HashMap<usize, Type>;

impl Checker<'_> {
    fn complain(&mut self, at: usize, message: String) {
        self.issues.push(Issue::at(at, message));
    }

    fn set(&mut self, expr: &Expr, ty: Type) -> Type {
        self.checked.types[expr.id] = ty.clone();
        ty
    }

    fn free(&mut self) -> Type {
        self.free += 1;
        Type::Free(self.free)
    }

    fn assignable(&mut self, from: &Type, to: &Type) -> bool {
        let mut found = self.found.clone();
        let fits = assign(&mut found, from, to);
        if fits {
            self.found = found;
        }
        fits
    }

    fn check(&mut self, expr: &mut Expr) -> Type {
        let ty = self.type_of(expr);
        self.set(expr, ty)
    }

    fn type_of(&mut self, expr: &mut Expr) -> Type {
        if let Some(name) = expr.qualified_name()
            && let Some((kind, ty)) = self.named(&name)
        {
            expr.kind = kind;
            return ty;
        }
        let at = expr.at;
        match &mut expr.kind {
            Kind::Literal(value) => literal_type(value),
            Kind::Ident(name) => {
                let message = format!("undeclared reference to '{name}' (in container '')");
                self.complain(at, message);
                Type::Error
            }
            Kind::Select { operand, field, test_only } => {
                let (field, test_only) = (field.clone(), *test_only);
                let operand = self.check(operand);
                let ty = self.select(at, &operand, &field, false);
                if test_only { Type::Bool } else { substitute(&self.found, &ty, false) }
            }
            Kind::Call { .. } => self.call(expr),
            Kind::List(items) => {
                let mut ty: Option<Type> = None;
                for item in items {
                    let mut found = self.check(&mut item.value);
                    if item.optional {
                        found = self.unwrap_optional(item.value.at, found);
                    }
                    ty = Some(self.join(item.value.at, ty, found));
                }
                let item = ty.unwrap_or_else(|| self.free());
                Type::list(item)
            }
            Kind::Map(entries) => {
                let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
                for entry in entries {
                    let found = self.check(&mut entry.key);
                    key = Some(self.join(entry.key.at, key, found));
                    let mut found = self.check(&mut entry.value);
                    if entry.optional {
                        found = self.unwrap_optional(entry.value.at, found);
                    }
                    value = Some(self.join(entry.value.at, value, found));
                }
                match (key, value) {
                    (Some(key), Some(value)) => Type::map(key, value),
                    _ => {
                        let (key, value) = (self.free(), self.free());
                        Type::map(key, value)
                    }
                }
            }
            Kind::Struct { .. } => self.structure(expr),
            Kind::Comprehension(_) => self.comprehension(expr),
        }
    }

    /// A variable or the name of a type. Names with dots may be declared as a whole (`authorizer.requestResource`,
    /// `variables.x`), unless a variable of a comprehension hides their first part.
    fn named(&self, name: &str) -> Option<(Kind, Type)> {
        let ident = |ty: &Type| Some((Kind::Ident(name.into()), ty.clone()));
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| &**n == name) {
            return ident(ty);
        }
        let first = name.split('.').next().unwrap_or_default();
        if self.scopes.iter().any(|(n, _)| &**n == first) {
            return None;
        }
        if let Some(decl) = self.env.variable(name) {
            return ident(&decl.ty);
        }
        let ty = type_named(self.env, name)?;
        Some((Kind::Literal(Value::Type(ty.name().into())), Type::Type(Some(Arc::new(ty)))))
    }

    fn unwrap_optional(&mut self, at: usize, ty: Type) -> Type {
        match substitute(&self.found, &ty, false) {
            Type::Optional(inner) => (*inner).clone(),
            Type::Dyn => Type::Dyn,
            other => {
                let wanted = Type::optional(other.clone());
                self.complain(at, format!("expected type '{wanted}' but found '{other}'"));
                other
            }
        }
    }

    fn join(&mut self, at: usize, before: Option<Type>, now: Type) -> Type {
        let Some(before) = before else { return now };
        if self.assignable(&before, &now) {
            return most_general(before, now);
        }
        let (shown, found) = (substitute(&self.found, &before, true), substitute(&self.found, &now, true));
        self.complain(at, format!("expected type '{shown}' but found '{found}'"));
        Type::Error
    }

    fn select(&mut self, at: usize, operand: &Type, field: &str, optional: bool) -> Type {
        let operand = substitute(&self.found, operand, false);
        let (target, was_optional) = match &operand {
            Type::Optional(inner) => ((**inner).clone(), true),
            other => (other.clone(), false),
        };
        let result = match &target {
            Type::Map(both) => both.1.clone(),
            Type::Object(object) => self.field(at, object, field),
            Type::Patch(_) => Type::Dyn,
            Type::Free(_) => {
                self.assignable(&Type::Dyn, &target);
                Type::Dyn
            }
            Type::Dyn | Type::Error => Type::Dyn,
            Type::Library(_) => {
                self.complain(at, format!("undefined field '{field}'"));
                Type::Error
            }
            other => {
                self.complain(at, format!("type '{other}' does not support field selection"));
                Type::Dyn
            }
        };
        if was_optional || optional { Type::optional(result) } else { result }
    }

    fn field(&mut self, at: usize, object: &Arc<ObjectType>, field: &str) -> Type {
        match object.field(field) {
            Some(decl) => decl.ty,
            None => {
                self.complain(at, format!("undefined field '{field}'"));
                Type::Error
            }
        }
    }

    fn call(&mut self, expr: &mut Expr) -> Type {
        let (id, at) = (expr.id, expr.at);
        let Kind::Call { function, target, args } = &mut expr.kind else { return Type::Error };
        if &**function == "_?._" {
            return self.optional_select(at, args);
        }
        let mut types: Vec<Type> = Vec::with_capacity(args.len() + 1);
        for arg in args.iter_mut() {
            types.push(self.check(arg));
        }
        // `a.b.c()` may be the function `a.b.c`.
        if let Some(prefix) = target.as_ref().and_then(|t| t.qualified_name()) {
            let name = format!("{prefix}.{function}");
            if !library::find(&name, self.env.has_patch_types()).is_empty() {
                *function = name.into();
                *target = None;
            }
        }
        let is_member = target.is_some();
        if let Some(target) = target {
            types.insert(0, self.check(target));
        }
        let candidates = library::find(function, self.env.has_patch_types());
        if candidates.is_empty() {
            let message = format!("undeclared reference to '{function}' (in container '')");
            self.complain(at, message);
            return Type::Error;
        }
        if matches!(&**function, "_&&_" | "_||_") {
            return self.logical(args, &types);
        }
        self.resolve(id, at, function.clone().as_ref(), candidates, is_member, &types)
    }

    fn logical(&mut self, args: &[Expr], types: &[Type]) -> Type {
        for (arg, ty) in args.iter().zip(types) {
            if !self.assignable(ty, &Type::Bool) {
                let found = substitute(&self.found, ty, true);
                self.complain(arg.at, format!("expected type 'bool' but found '{found}'"));
            }
        }
        Type::Bool
    }

    fn optional_select(&mut self, at: usize, args: &mut [Expr]) -> Type {
        let [operand, field] = args else { return Type::Error };
        let Kind::Literal(Value::String(name)) = &field.kind else {
            self.complain(field.at, "unsupported optional field selection".to_owned());
            return Type::Error;
        };
        let name = name.clone();
        self.set(field, Type::String);
        let operand = self.check(operand);
        let ty = self.select(at, &operand, &name, true);
        substitute(&self.found, &ty, false)
    }

    fn resolve(
        &mut self,
        id: usize,
        at: usize,
        function: &str,
        candidates: &'static [Overload],
        is_member: bool,
        types: &[Type],
    ) -> Type {
        let mut result: Option<Type> = None;
        let mut fitting = Vec::new();
        for overload in candidates.iter().filter(|o| o.is_member == is_member) {
            let mut fresh: HashMap<char, Type> = HashMap::new();
            let mut wanted = Vec::with_capacity(overload.args.len());
            for arg in &overload.args {
                wanted.push(self.instantiate(&mut fresh, arg));
            }
            if wanted.len() != types.len() || !self.all_assignable(types, &wanted) {
                continue;
            }
            fitting.push(overload);
            let returned = self.instantiate(&mut fresh, &overload.result);
            let returned = substitute(&self.found, &returned, false);
            result = Some(match result {
                None => returned,
                Some(before) if before == Type::Dyn || before == returned => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else {
            let shown: Vec<String> = types.iter().map(|ty| substitute(&self.found, ty, true).to_string()).collect();
            let signature = match (is_member, shown.as_slice()) {
                (true, [target, args @ ..]) => format!("{target}.({})", args.join(", ")),
                (_, args) => format!("({})", args.join(", ")),
            };
            self.complain(at, format!("found no matching overload for '{function}' applied to '{signature}'"));
            return Type::Error;
        };
        self.checked.overloads.insert(id, fitting);
        result
    }

    fn instantiate(&mut self, fresh: &mut HashMap<char, Type>, ty: &Type) -> Type {
        match ty {
            Type::Param(name) => match fresh.get(name) {
                Some(found) => found.clone(),
                None => {
                    let found = self.free();
                    fresh.insert(*name, found.clone());
                    found
                }
            },
            Type::List(item) => Type::list(self.instantiate(fresh, item)),
            Type::Map(both) => Type::map(self.instantiate(fresh, &both.0), self.instantiate(fresh, &both.1)),
            Type::Optional(inner) => Type::optional(self.instantiate(fresh, inner)),
            Type::Type(Some(inner)) => Type::Type(Some(Arc::new(self.instantiate(fresh, inner)))),
            other => other.clone(),
        }
    }

    fn all_assignable(&mut self, from: &[Type], to: &[Type]) -> bool {
        let mut found = self.found.clone();
        let fits = from.iter().zip(to).all(|(f, t)| assign(&mut found, f, t));
        if fits {
            self.found = found;
        }
        fits
    }

    fn structure(&mut self, expr: &mut Expr) -> Type {
        let at = expr.at;
        let Kind::Struct { name, fields } = &mut expr.kind else { return Type::Error };
        let name = name.clone();
        let (ty, problem) = match type_named(self.env, &name) {
            Some(ty @ (Type::Patch(_) | Type::Object(_))) => (ty, None),
            Some(other) => (Type::Error, Some(format!("'{other}' is not a message type"))),
            None if self.named(&name).is_some() => (Type::Error, Some(format!("'{name}' is not a type"))),
            None => (Type::Error, Some(format!("undeclared reference to '{name}' (in container '')"))),
        };
        if let Some(problem) = problem {
            self.complain(at, problem);
        }
        for field in fields {
            let mut found = self.check(&mut field.value);
            if field.optional {
                found = self.unwrap_optional(field.value.at, found);
            }
            let wanted = match &ty {
                // Any value goes into a field of an `Object` (`cel/mutation/dynamic`).
                Type::Patch(_) => Type::Dyn,
                Type::Object(object) => self.field(field.at, &object.clone(), &field.name),
                _ => Type::Error,
            };
            if !self.assignable(&wanted, &found) {
                let found = substitute(&self.found, &found, true);
                let message =
                    format!("expected type of field '{}' is '{wanted}' but provided type is '{found}'", field.name);
                self.complain(field.at, message);
            }
        }
        ty
    }

    fn comprehension(&mut self, expr: &mut Expr) -> Type {
        let Kind::Comprehension(fold) = &mut expr.kind else { return Type::Error };
        let range = self.check(&mut fold.range);
        let accu = self.check(&mut fold.init);
        let range = substitute(&self.found, &range, false);
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(item) if two => (Type::Int, (**item).clone()),
            Type::List(item) => ((**item).clone(), Type::Error),
            Type::Map(both) => (both.0.clone(), both.1.clone()),
            Type::Dyn | Type::Error | Type::Free(_) => {
                self.assignable(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.complain(fold.range.at, message);
                (Type::Error, Type::Error)
            }
        };
        self.scopes.push((fold.accu.clone(), accu.clone()));
        let outside = self.scopes.len();
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        let condition = self.check(&mut fold.condition);
        self.assert(fold.condition.at, &Type::Bool, &condition);
        let step = self.check(&mut fold.step);
        self.assert(fold.step.at, &accu, &step);
        self.scopes.truncate(outside);
        let result = self.check(&mut fold.result);
        self.scopes.pop();
        substitute(&self.found, &result, false)
    }

    fn assert(&mut self, at: usize, wanted: &Type, found: &Type) {
        if !self.assignable(wanted, found) {
            let (wanted, found) = (substitute(&self.found, wanted, true), substitute(&self.found, found, true));
            self.complain(at, format!("expected type '{wanted}' but found '{found}'"));
        }
    }
}

fn literal_type(value: &Value) -> Type {
    match value {
        Value::Null => Type::Null,
        Value::Bool(_) => Type::Bool,
        Value::Int(_) => Type::Int,
        Value::Uint(_) => Type::Uint,
        Value::Double(_) => Type::Double,
        Value::String(_) => Type::String,
        Value::Bytes(_) => Type::Bytes,
        _ => Type::Dyn,
    }
}

/// Names of types are variables, too.
pub(super) fn type_named(env: &Env, name: &str) -> Option<Type> {
    Some(match name {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "null_type" => Type::Null,
        "google.protobuf.Timestamp" => Type::Timestamp,
        "google.protobuf.Duration" => Type::Duration,
        "list" => Type::list(Type::Dyn),
        "map" => Type::map(Type::Dyn, Type::Dyn),
        "type" => Type::Type(None),
        "optional_type" => Type::optional(Type::Dyn),
        "JSONPatch" if env.has_patch_types() => Type::Object(library::json_patch_type()),
        _ if env.has_patch_types() && (name == "Object" || name.starts_with("Object.")) => Type::Patch(name.into()),
        _ => return library::type_named(name),
    })
}

// === inference ===

fn is_dyn(ty: &Type) -> bool {
    matches!(ty, Type::Dyn | Type::Error)
}

/// Whether a value of `a` may stand where `b` is wanted; notes what free types become.
fn assign(found: &mut Found, a: &Type, b: &Type) -> bool {
    if let Type::Free(n) = b {
        let (valid, known) = substitution(found, a, *n, b);
        if valid || known {
            return valid;
        }
    }
    if let Type::Free(n) = a {
        return substitution(found, b, *n, a).0;
    }
    if is_dyn(a) || is_dyn(b) {
        return true;
    }
    match (a, b) {
        (Type::Null, other) | (other, Type::Null) => is_nullable(other),
        (Type::Type(_), Type::Type(_)) => true,
        (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => assign(found, x, y),
        (Type::Map(x), Type::Map(y)) => assign(found, &x.0, &y.0) && assign(found, &x.1, &y.1),
        (Type::Patch(_), Type::Patch(_)) => a == b,
        _ => a == b,
    }
}

fn is_nullable(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Null
            | Type::Optional(_)
            | Type::Object(_)
            | Type::Library(_)
            | Type::Patch(_)
            | Type::Timestamp
            | Type::Duration
    )
}

/// Whether `ty` may be what the free type `n` stands for, and whether that stood for something before.
fn substitution(found: &mut Found, ty: &Type, n: usize, free: &Type) -> (bool, bool) {
    if ty == free {
        return (true, true);
    }
    if let Some(known) = found.get(&n).cloned() {
        if *ty == known {
            return (true, true);
        }
        if assign(found, ty, &known) {
            let general = most_general(ty.clone(), known);
            if !occurs(found, n, &general) {
                found.insert(n, general);
            }
            return (true, true);
        }
        return (false, true);
    }
    if occurs(found, n, ty) {
        return (false, false);
    }
    found.insert(n, ty.clone());
    (true, false)
}

fn occurs(found: &Found, n: usize, within: &Type) -> bool {
    match within {
        Type::Free(m) if *m == n => true,
        Type::Free(m) => found.get(m).is_some_and(|ty| occurs(found, n, ty)),
        Type::List(item) | Type::Optional(item) => occurs(found, n, item),
        Type::Map(both) => occurs(found, n, &both.0) || occurs(found, n, &both.1),
        Type::Type(Some(of)) => occurs(found, n, of),
        _ => false,
    }
}

fn most_general(a: Type, b: Type) -> Type {
    if is_less_specific(&a, &b) { a } else { b }
}

fn is_less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Free(_), _) => true,
        (_, Type::Dyn | Type::Free(_)) => false,
        (Type::List(x), Type::List(y)) | (Type::Optional(x), Type::Optional(y)) => is_less_specific(x, y),
        (Type::Map(x), Type::Map(y)) => is_less_specific(&x.0, &y.0) && is_less_specific(&x.1, &y.1),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

fn substitute(found: &Found, ty: &Type, free_to_dyn: bool) -> Type {
    match ty {
        Type::Free(n) => match found.get(n) {
            Some(known) => substitute(found, known, free_to_dyn),
            None if free_to_dyn => Type::Dyn,
            None => ty.clone(),
        },
        Type::List(item) => Type::list(substitute(found, item, free_to_dyn)),
        Type::Map(both) => Type::map(substitute(found, &both.0, free_to_dyn), substitute(found, &both.1, free_to_dyn)),
        Type::Optional(inner) => Type::optional(substitute(found, inner, free_to_dyn)),
        Type::Type(Some(of)) => Type::Type(Some(Arc::new(substitute(found, of, free_to_dyn)))),
        other => other.clone(),
    }
}
