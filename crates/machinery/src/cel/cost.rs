//! What expressions cost: counted while they run, and estimated before (`cel-go/interpreter/runtimecost.go`,
//! `…/checker/cost.go`, `apiserver/pkg/cel/library/cost.go`). The estimate decides which rules a CRD may have, so its
//! numbers are upstream's.

use super::Env;
use super::ast::{ACCUMULATOR, Comprehension, Expr, Kind};
use super::check::Checked;
use super::types::Type;
use super::value::Value;
use std::collections::HashMap;
use std::sync::Arc;

/// An identifier, a selection or an index.
pub(super) const SELECT: u64 = 1;
/// A list literal.
pub(super) const LIST: u64 = 10;
/// A map literal.
pub(super) const MAP: u64 = 30;
/// An object literal.
pub(super) const STRUCT: u64 = 40;
/// Reading a text, per character.
const TRAVERSAL: f64 = 0.1;
/// A regular expression, per character.
const REGEX: f64 = 0.25;
/// A question to the authorizer; two per expression.
const AUTHORIZER_CHECK: u64 = 350_000;
/// `MaxNameFormatRegexSize`
const MAX_FORMAT_REGEX: f64 = 128.0;
/// `MaxFormatSize`
const MAX_FORMAT: u64 = 64;

/// What a request may still spend.
#[derive(Debug, Clone)]
pub struct Budget {
    remaining: u64,
    exhausted: bool,
}

impl Budget {
    /// A budget, e.g. [`super::REQUEST_BUDGET`].
    pub fn new(total: u64) -> Self {
        Budget { remaining: total, exhausted: false }
    }

    /// What is left.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Whether more was spent than there was.
    pub fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Takes from the budget; `false` if there was not enough.
    pub fn spend(&mut self, cost: u64) -> bool {
        self.exhausted |= cost > self.remaining;
        self.remaining = self.remaining.saturating_sub(cost);
        !self.exhausted
    }
}

// === at run time ===

fn size(value: &Value) -> u64 {
    match value {
        Value::Optional(Some(inner)) => size(inner),
        other => other.size().unwrap_or(1),
    }
}

fn scaled(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn traversal(value: &Value) -> u64 {
    match value {
        Value::String(text) => (text.len() as f64 * TRAVERSAL) as u64,
        Value::Bytes(bytes) => (bytes.len() as f64 * TRAVERSAL) as u64,
        Value::List(list) => list.items.iter().map(traversal).sum(),
        Value::Map(map) => map.iter().map(|(k, v)| traversal(&k.value()) + traversal(v)).sum(),
        _ => 1,
    }
}

/// What a call cost, its arguments not counted. `overload` is known if only one was possible.
pub(super) fn of_call(function: &str, overload: Option<&str>, args: &[Value], result: Option<&Value>) -> u64 {
    let first = args.first().map_or(1, size);
    let second = args.get(1).map_or(1, size);
    let is_member_of_cidr = matches!(args.first(), Some(Value::Cidr(..)));
    match function {
        "check" => AUTHORIZER_CHECK,
        "fieldSelector" | "labelSelector" => selector(Size::fixed(second)).max,
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url" | "lowerAscii" | "upperAscii" | "substring" | "trim" | "jsonpatch.escapeKey" => scaled(first, TRAVERSAL),
        "replace" | "split" => scaled(first, 2.0 * TRAVERSAL),
        "join" => scaled(result.map_or(0, size), 2.0 * TRAVERSAL),
        "find" | "findAll" => scaled(first + 1, TRAVERSAL) * scaled(second, REGEX),
        "ip" if is_member_of_cidr => 1,
        "cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver" => {
            scaled(first, TRAVERSAL)
        }
        "ip.isCanonical" => scaled(first, 2.0 * TRAVERSAL),
        "containsIP" | "containsCIDR" => {
            let whole = scaled(2 * first, TRAVERSAL);
            let masked = if function == "containsCIDR" { scaled(first, TRAVERSAL) + 1 } else { 0 };
            let parsed = if matches!(args.get(1), Some(Value::String(_))) { scaled(second, TRAVERSAL) } else { 0 };
            whole + masked + parsed
        }
        "validate" => match args.first() {
            Some(Value::Format(format)) => scaled(second + 1, TRAVERSAL) * scaled(format.regex_size, REGEX),
            _ => 1,
        },
        "_==_" if args.first().is_some_and(is_library) => 1,
        "sets.contains" | "sets.intersects" => 1 + first * second,
        "sets.equivalent" => 1 + 2 * first * second,
        _ => of_overload(overload.unwrap_or_default(), first, second),
    }
}

fn is_library(value: &Value) -> bool {
    matches!(
        value,
        Value::Quantity(_)
            | Value::Ip(_)
            | Value::Cidr(..)
            | Value::Format(_)
            | Value::Url(_)
            | Value::Semver(_)
            | Value::Authorizer(_)
    )
}

fn of_overload(overload: &str, first: u64, second: u64) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string" | "strings_quote"
        | "string_format" => scaled(first, TRAVERSAL),
        "in_list" => second,
        "matches_string" => scaled(first + 1, TRAVERSAL) * scaled(second, REGEX),
        "contains_string" => scaled(first, TRAVERSAL) * scaled(second, TRAVERSAL),
        "add_string" | "add_bytes" => scaled(first + second, TRAVERSAL),
        other if is_comparison(other) => scaled(first.min(second), TRAVERSAL),
        _ => 1,
    }
}

fn is_comparison(overload: &str) -> bool {
    matches!(
        overload,
        "equals"
            | "not_equals"
            | "less_string"
            | "less_equals_string"
            | "greater_string"
            | "greater_equals_string"
            | "less_bytes"
            | "less_equals_bytes"
            | "greater_bytes"
            | "greater_equals_bytes"
    )
}

// === before ===

/// A range of costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CostEstimate {
    /// At least.
    pub min: u64,
    /// At most; `u64::MAX` if nothing bounds it.
    pub max: u64,
}

/// A range of sizes.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Size {
    min: u64,
    max: u64,
}

fn times(x: u64, factor: f64) -> u64 {
    let product = (x as f64 * factor).ceil();
    if product >= u64::MAX as f64 { u64::MAX } else { product as u64 }
}

impl CostEstimate {
    fn fixed(cost: u64) -> Self {
        CostEstimate { min: cost, max: cost }
    }
    fn add(self, other: Self) -> Self {
        CostEstimate { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
    fn multiply(self, other: Self) -> Self {
        CostEstimate { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }
    fn scale(self, factor: f64) -> Self {
        CostEstimate { min: times(self.min, factor), max: times(self.max, factor) }
    }
    fn union(self, other: Self) -> Self {
        CostEstimate { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

impl Size {
    const UNKNOWN: Size = Size { min: 0, max: u64::MAX };
    fn fixed(size: u64) -> Self {
        Size { min: size, max: size }
    }
    fn add(self, other: Self) -> Self {
        Size { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }
    fn multiply(self, other: Self) -> Self {
        Size { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }
    fn by_cost(self, cost: CostEstimate) -> CostEstimate {
        CostEstimate { min: self.min.saturating_mul(cost.min), max: self.max.saturating_mul(cost.max) }
    }
    fn scale(self, factor: f64) -> CostEstimate {
        CostEstimate { min: times(self.min, factor), max: times(self.max, factor) }
    }
    fn union(self, other: Self) -> Self {
        Size { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

fn selector(length: Size) -> CostEstimate {
    let requirements = length.scale(0.5);
    CostEstimate::fixed(LIST).add(length.scale(TRAVERSAL)).add(requirements.scale((LIST + STRUCT) as f64))
}

/// Sizes of the keys and values of a container.
#[derive(Debug, Clone, Copy)]
struct Entries {
    key: Size,
    value: Size,
}

#[derive(Debug, Clone)]
struct Local {
    path: Vec<String>,
    size: Option<Size>,
    entries: Option<Entries>,
}

struct Coster<'a> {
    checked: &'a Checked,
    env: &'a Env,
    paths: HashMap<usize, Vec<String>>,
    locals: Vec<(Arc<str>, Local)>,
    sizes: HashMap<usize, Size>,
    entries: HashMap<usize, Entries>,
}

/// The range of what a checked expression costs.
pub(super) fn estimate(expr: &Expr, checked: &Checked, env: &Env) -> CostEstimate {
    let mut coster = Coster {
        checked,
        env,
        paths: HashMap::new(),
        locals: Vec::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    coster.cost(expr)
}

/// What a call costs, and how large its result is.
type CallCost = (CostEstimate, Option<Size>);

impl Coster<'_> {
    fn ty(&self, expr: &Expr) -> &Type {
        &self.checked.types[expr.id]
    }

    fn local(&self, name: &str) -> Option<&Local> {
        self.locals.iter().rev().find(|(n, _)| &**n == name).map(|(_, local)| local)
    }

    fn path(&self, expr: &Expr) -> Vec<String> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.path.clone();
        }
        self.paths.get(&expr.id).cloned().unwrap_or_default()
    }

    fn below(&self, expr: &Expr, step: &str) -> Vec<String> {
        let mut path = self.path(expr);
        path.push(step.to_owned());
        path
    }

    /// What the schema says about the value at a path. As upstream's `EstimateSize`
    /// (`apiextensions-apiserver/pkg/apiserver/schema/cel/compilation.go`), which takes every path to begin at `self`: what is in a
    /// list that has no path, as that of a conditional, is as large as `self`.
    fn declared_size(&self, path: &[String]) -> Option<Size> {
        let (first, rest) = path.split_first()?;
        let decl = self.env.variable(first).or_else(|| self.env.variable("self"))?.at(rest)?;
        Some(Size { min: 0, max: decl.max_elements().unwrap_or(0) })
    }

    fn size(&mut self, expr: &Expr) -> Option<Size> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        let literal = match &expr.kind {
            Kind::Literal(value) => Some(value.size().unwrap_or(1)),
            Kind::List(items) => Some(items.len() as u64),
            Kind::Map(entries) => Some(entries.len() as u64),
            _ => None,
        };
        if let Some(size) = literal {
            return Some(Size::fixed(size));
        }
        let path = self.path(expr);
        if path.first().is_none_or(|first| first != ACCUMULATOR)
            && let Some(size) = self.declared_size(&path)
        {
            self.sizes.insert(expr.id, size);
            return Some(size);
        }
        if is_scalar(self.ty(expr)) {
            return Some(Size::fixed(1));
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, expr: &Expr) -> Size {
        self.size(expr).unwrap_or(Size::UNKNOWN)
    }

    fn entries(&self, expr: &Expr) -> Option<Entries> {
        let known = self.entries.get(&expr.id).copied();
        known.or_else(|| match &expr.kind {
            Kind::Ident(name) => self.local(name).and_then(|local| local.entries),
            _ => None,
        })
    }

    fn set_size(&mut self, expr: &Expr, size: Option<Size>) {
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
    }

    fn cost(&mut self, expr: &Expr) -> CostEstimate {
        match &expr.kind {
            Kind::Literal(_) => CostEstimate::fixed(0),
            Kind::Ident(name) => {
                let path = self.local(name).map_or_else(|| vec![name.to_string()], |local| local.path.clone());
                self.paths.insert(expr.id, path);
                CostEstimate::fixed(SELECT)
            }
            Kind::Select { operand, test_only: true, .. } => self.cost(operand),
            Kind::Select { operand, field, .. } => {
                let mut sum = self.cost(operand);
                if matches!(self.ty(operand), Type::Map(_) | Type::Object(_) | Type::Library(_) | Type::Patch(_)) {
                    sum = sum.add(CostEstimate::fixed(SELECT));
                }
                let path = self.below(operand, field);
                self.paths.insert(expr.id, path);
                sum
            }
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => {
                let mut sum = CostEstimate::fixed(LIST);
                let mut item_size: Option<Size> = None;
                for item in items {
                    sum = sum.add(self.cost(&item.value));
                    let size = self.size_or_unknown(&item.value);
                    item_size = Some(item_size.map_or(size, |s| s.union(size)));
                }
                let entries = Entries { key: Size::fixed(1), value: item_size.unwrap_or(Size::fixed(0)) };
                self.entries.insert(expr.id, entries);
                sum
            }
            Kind::Map(list) => {
                let mut sum = CostEstimate::fixed(MAP);
                let mut sizes: Option<(Size, Size)> = None;
                for entry in list {
                    sum = sum.add(self.cost(&entry.key)).add(self.cost(&entry.value));
                    let (key, value) = (self.size_or_unknown(&entry.key), self.size_or_unknown(&entry.value));
                    sizes = Some(sizes.map_or((key, value), |(k, v)| (k.union(key), v.union(value))));
                }
                let (key, value) = sizes.unwrap_or((Size::fixed(0), Size::fixed(0)));
                self.entries.insert(expr.id, Entries { key, value });
                sum
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(CostEstimate::fixed(STRUCT), |sum, field| sum.add(self.cost(&field.value)))
            }
            Kind::Comprehension(fold) if is_bind(fold) => self.bind(expr, fold),
            Kind::Comprehension(fold) => self.fold(expr, fold),
        }
    }

    fn bind(&mut self, expr: &Expr, fold: &Comprehension) -> CostEstimate {
        let sum = self.cost(&fold.range).add(self.cost(&fold.init));
        self.push(&fold.accu, &fold.init);
        let sum = sum.add(self.cost(&fold.result));
        let size = self.size(&fold.result);
        let entries = self.entries(&fold.result);
        self.locals.pop();
        self.set_size(expr, size);
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
        sum
    }

    fn push(&mut self, name: &Arc<str>, value: &Expr) {
        let local = Local { path: self.path(value), size: self.size(value), entries: self.entries(value) };
        self.locals.push((name.clone(), local));
    }

    fn fold(&mut self, expr: &Expr, fold: &Comprehension) -> CostEstimate {
        let mut sum = self.cost(&fold.range).add(self.cost(&fold.init));
        self.push(&fold.accu, &fold.init);
        let entries = self.entries(&fold.range);
        let is_list = matches!(self.ty(&fold.range), Type::List(_));
        let key = entries.map(|e| e.key);
        let value = entries.map(|e| e.value);
        let local = |path, size| Local { path, size, entries: None };
        match &fold.var2 {
            None if is_list => {
                let path = self.below(&fold.range, "@items");
                self.locals.push((fold.var.clone(), local(path, value)));
            }
            None => {
                let path = self.below(&fold.range, "@keys");
                self.locals.push((fold.var.clone(), local(path, key)));
            }
            Some(var2) => {
                let (first, second) = if is_list { ("@indices", "@items") } else { ("@keys", "@values") };
                let (first, second) = (self.below(&fold.range, first), self.below(&fold.range, second));
                self.locals.push((fold.var.clone(), local(first, key)));
                self.locals.push((var2.clone(), local(second, value)));
            }
        }
        let round = self.cost(&fold.condition).add(self.cost(&fold.step));
        let step_entries = self.entries(&fold.step);
        self.locals.pop();
        if fold.var2.is_some() {
            self.locals.pop();
        }
        sum = sum.add(self.cost(&fold.result));
        self.locals.pop();
        let count = self.size_or_unknown(&fold.range);
        sum = sum.add(count.by_cost(round));
        match &fold.init.kind {
            Kind::Literal(_) => {
                let size = self.size(&fold.init);
                self.set_size(expr, size);
            }
            Kind::List(_) | Kind::Map(_) => {
                self.set_size(expr, Some(count));
                if let Some(entries) = step_entries {
                    self.entries.insert(expr.id, entries);
                }
            }
            _ => {}
        }
        sum
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> CostEstimate {
        if function == "dyn"
            && let [arg] = args
        {
            let cost = self.cost(arg).add(CostEstimate::fixed(1));
            let size = self.size(arg);
            self.set_size(expr, size);
            if let Some(entries) = self.entries(arg) {
                self.entries.insert(expr.id, entries);
            }
            return cost;
        }
        let costs: Vec<CostEstimate> = args.iter().map(|arg| self.cost(arg)).collect();
        let of_target = target.map(|t| self.cost(t)).unwrap_or_default();
        let overloads: Vec<&'static str> = match self.checked.overloads.get(&expr.id) {
            Some(found) => found.iter().map(|o| o.id).collect(),
            None => match function {
                "_&&_" => vec!["logical_and"],
                "_||_" => vec!["logical_or"],
                "_?._" => vec!["select_optional_field"],
                _ => return CostEstimate::default(),
            },
        };
        let mut cost = CostEstimate { min: u64::MAX, max: 0 };
        let mut result: Option<Size> = None;
        for overload in overloads {
            let (of_call, size) = self.function(expr, function, overload, target, args, &costs);
            cost = cost.union(of_call);
            if let Some(size) = size {
                result = Some(result.map_or(size, |r| r.union(size)));
            }
            let step = match overload {
                "index_list" => Some("@items"),
                "index_map" => Some("@values"),
                _ => None,
            };
            if let (Some(step), Some(container)) = (step, args.first()) {
                result = self.entries(container).map(|e| e.value);
                let path = self.below(container, step);
                self.paths.insert(expr.id, path);
            }
            if result.is_none() {
                result = self.size(expr);
            }
        }
        self.set_size(expr, result);
        of_target.add(cost)
    }

    /// An element of a list: its type and what is known of its size.
    fn element_size(&mut self, list: &Expr) -> Option<(Type, Size)> {
        let Type::List(item) = self.ty(list) else { return None };
        let item = (**item).clone();
        let path = self.below(list, "@items");
        let size = self.declared_size(&path).unwrap_or(Size::UNKNOWN);
        Some((item, size))
    }

    fn function(
        &mut self,
        expr: &Expr,
        function: &str,
        overload: &str,
        target: Option<&Expr>,
        args: &[Expr],
        costs: &[CostEstimate],
    ) -> CallCost {
        let of_args = costs.iter().fold(CostEstimate::default(), |sum, cost| sum.add(*cost));
        if let Some((cost, size)) = self.kubernetes(function, overload, target, args) {
            return (cost.add(of_args), size);
        }
        let (cost, size) = match (overload, target, args) {
            ("string_format", Some(target), _) => (self.size_or_unknown(target).scale(TRAVERSAL), None),
            ("string_to_bytes", _, [arg]) => {
                let size = self.size_or_unknown(arg);
                (size.scale(TRAVERSAL), Some(Size { min: size.min, max: size.max.saturating_mul(4) }))
            }
            ("bytes_to_string", _, [arg]) => {
                let size = self.size_or_unknown(arg);
                (size.scale(TRAVERSAL), Some(Size { min: size.min / 4, max: size.max }))
            }
            ("strings_quote", _, [arg]) => {
                let size = self.size_or_unknown(arg);
                let quoted = size.max.saturating_mul(2).saturating_add(2);
                (size.scale(TRAVERSAL), Some(Size { min: size.min.saturating_add(2), max: quoted }))
            }
            ("starts_with_string" | "ends_with_string", _, [arg]) => (self.size_or_unknown(arg).scale(TRAVERSAL), None),
            ("in_list", _, [_, list]) => (self.size_or_unknown(list).scale(1.0), None),
            ("matches_string", Some(target), [pattern]) => {
                let text = self.size_or_unknown(target).add(Size::fixed(1)).scale(TRAVERSAL);
                (text.multiply(self.size_or_unknown(pattern).scale(REGEX)), None)
            }
            ("contains_string", Some(target), [part]) => {
                let text = self.size_or_unknown(target).scale(TRAVERSAL);
                (text.multiply(self.size_or_unknown(part).scale(TRAVERSAL)), None)
            }
            ("logical_or" | "logical_and", _, [_, _]) => {
                return (CostEstimate { min: costs[0].min, max: costs[0].add(costs[1]).max }, None);
            }
            ("conditional", _, [_, yes, no]) => {
                let size = self.size_or_unknown(yes).union(self.size_or_unknown(no));
                self.join_entries(expr, yes, no);
                return (costs[0].add(costs[1].union(costs[2])), Some(size));
            }
            ("add_string" | "add_bytes" | "add_list", _, [a, b]) => {
                let size = self.size_or_unknown(a).add(self.size_or_unknown(b));
                self.join_entries(expr, a, b);
                let cost = if overload == "add_list" { CostEstimate::fixed(1) } else { size.scale(TRAVERSAL) };
                (cost, Some(size))
            }
            (other, _, [a, b]) if is_comparison(other) => {
                let smallest = self.size_or_unknown(a).max.min(self.size_or_unknown(b).max);
                (CostEstimate { min: u64::from(smallest > 0), max: smallest }.scale(TRAVERSAL), None)
            }
            _ => (CostEstimate::fixed(1), None),
        };
        (cost.add(of_args), size)
    }

    fn join_entries(&mut self, expr: &Expr, a: &Expr, b: &Expr) {
        if let (Some(a), Some(b)) = (self.entries(a), self.entries(b)) {
            let joined = Entries { key: a.key.union(b.key), value: a.value.union(b.value) };
            self.entries.insert(expr.id, joined);
        }
    }

    /// Functions of Kubernetes' libraries (`library.CostEstimator.EstimateCallCost`).
    fn kubernetes(&mut self, function: &str, overload: &str, target: Option<&Expr>, args: &[Expr]) -> Option<CallCost> {
        let one = Some((CostEstimate::fixed(1), None));
        match (function, target, args) {
            ("check", ..) => Some((CostEstimate::fixed(AUTHORIZER_CHECK), None)),
            ("fieldSelector" | "labelSelector", _, [text]) => Some((selector(self.size_or_unknown(text)), None)),
            ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(target), _) => {
                let size = self.size_or_unknown(target);
                match self.element_size(target) {
                    Some((Type::String | Type::Bytes, item)) => {
                        Some((size.by_cost(CostEstimate::fixed(1).add(item.scale(TRAVERSAL))), None))
                    }
                    Some(_) => Some((size.by_cost(CostEstimate::fixed(1)), None)),
                    None => Some((size.scale(TRAVERSAL), None)),
                }
            }
            ("url" | "jsonpatch.escapeKey", _, [text]) => {
                let size = self.size_or_unknown(text);
                Some((size.scale(TRAVERSAL), Some(size)))
            }
            ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(target), _) => {
                let size = self.size_or_unknown(target);
                Some((size.scale(TRAVERSAL), Some(size)))
            }
            ("replace", Some(target), [old, new, ..]) => {
                let (text, old, new) =
                    (self.size_or_unknown(target), self.size_or_unknown(old), self.size_or_unknown(new));
                Some((text.scale(2.0 * TRAVERSAL), Some(replaced(text, old, new))))
            }
            ("split", Some(target), _) => {
                let text = self.size_or_unknown(target);
                let limit = match args.get(1).map(|arg| &arg.kind) {
                    Some(Kind::Literal(Value::Int(limit))) => *limit as u64,
                    _ => text.max,
                };
                Some((text.scale(2.0 * TRAVERSAL), Some(Size { min: 0, max: limit })))
            }
            ("join", Some(target), _) => {
                let list = self.size_or_unknown(target);
                let mut size = Size::fixed(0);
                if let Some((_, item)) = self.element_size(target) {
                    size = list.multiply(item);
                }
                if let Some(separator) = args.first() {
                    let between = Size { min: list.min.saturating_sub(1), max: list.max.saturating_sub(1) };
                    size = size.add(self.size_or_unknown(separator).multiply(between));
                }
                Some((size.scale(TRAVERSAL), Some(size)))
            }
            ("find" | "findAll", Some(target), [pattern, ..]) => {
                let text = self.size_or_unknown(target);
                let cost = text.add(Size::fixed(1)).scale(TRAVERSAL);
                let cost = cost.multiply(self.size_or_unknown(pattern).scale(REGEX));
                Some((cost, Some(Size { min: 0, max: text.max })))
            }
            ("ip", ..) if overload == "cidr_ip" => one,
            ("cidr" | "isIP" | "isCIDR" | "ip" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [text, ..]) => {
                Some((self.size_or_unknown(text).scale(TRAVERSAL), None))
            }
            ("ip.isCanonical", _, [text]) => Some((self.size_or_unknown(text).scale(2.0 * TRAVERSAL), None)),
            ("containsIP" | "containsCIDR", _, [other]) => {
                let bytes = Size { min: 4, max: 16 };
                let mut cost = bytes.add(bytes).scale(TRAVERSAL);
                if function == "containsCIDR" {
                    cost = cost.add(bytes.scale(TRAVERSAL)).add(CostEstimate::fixed(1));
                }
                if overload.ends_with("_string") {
                    cost = cost.add(self.size_or_unknown(other).scale(TRAVERSAL));
                }
                Some((cost, None))
            }
            ("validate", _, [text]) => {
                let cost = self.size_or_unknown(text).scale(TRAVERSAL).scale(MAX_FORMAT_REGEX * REGEX);
                Some((cost, None))
            }
            ("_==_", _, [a, b]) if self.ty(a) == self.ty(b) => match self.ty(a) {
                Type::Library("kubernetes.NamedFormat") => {
                    Some((CostEstimate { min: 1, max: MAX_FORMAT }.scale(TRAVERSAL), None))
                }
                Type::Library(_) => one,
                _ => None,
            },
            ("sets.contains" | "sets.intersects" | "sets.equivalent", _, [a, b]) => {
                let factor = if function == "sets.equivalent" { 2.0 } else { 1.0 };
                let pairs = self.size_or_unknown(a).multiply(self.size_or_unknown(b));
                Some((pairs.scale(factor).add(CostEstimate::fixed(1)), None))
            }
            _ => None,
        }
    }
}

fn is_bind(fold: &Comprehension) -> bool {
    matches!(&fold.range.kind, Kind::List(items) if items.is_empty())
        && matches!(&fold.condition.kind, Kind::Literal(Value::Bool(false)))
        && &*fold.accu != ACCUMULATOR
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(inner) => is_scalar(inner),
        _ => false,
    }
}

/// The size of a text with `old` replaced by `new` as often as that may happen.
fn replaced(text: Size, old: Size, new: Size) -> Size {
    let (mut count, mut kept) = (Size::fixed(0), Size::fixed(0));
    if old.min == 0 {
        count.max = text.max.saturating_add(1);
        kept.max = text.max;
    } else if new.max <= old.min {
        kept.max = text.max;
    } else {
        count.max = (text.max as f64 / old.min as f64).ceil() as u64;
    }
    if old.max == 0 {
        count.min = text.min.saturating_add(1);
        kept.min = text.min;
    } else if old.max <= new.min {
        kept.min = text.min;
    } else {
        count.min = (text.min as f64 / old.max as f64).ceil() as u64;
    }
    count.multiply(new).add(kept)
}
