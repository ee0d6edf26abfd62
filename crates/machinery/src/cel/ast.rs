//! The tree of an expression, as the parser makes it and checker, cost estimator and evaluator walk it.

use super::value::Value;
use std::sync::Arc;

/// One node. `id` counts from 0 within an expression; `at` is the place (in characters) that errors point to.
#[derive(Debug, Clone)]
pub(super) struct Expr {
    pub(super) id: usize,
    pub(super) at: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Literal(Value),
    /// A variable; with dots if the checker found a qualified name.
    Ident(Arc<str>),
    Select {
        operand: Box<Expr>,
        field: Arc<str>,
        /// `has(operand.field)`
        test_only: bool,
    },
    /// Operators go by cel-go's names, e.g. `_+_`.
    Call {
        function: Arc<str>,
        target: Option<Box<Expr>>,
        args: Vec<Expr>,
    },
    List(Vec<Element>),
    Map(Vec<Entry>),
    Struct {
        name: String,
        fields: Vec<FieldInit>,
    },
    Comprehension(Box<Comprehension>),
}

/// An item of a list; `optional` if written `?item`.
#[derive(Debug, Clone)]
pub(super) struct Element {
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: Expr,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

#[derive(Debug, Clone)]
pub(super) struct FieldInit {
    pub(super) name: Arc<str>,
    pub(super) at: usize,
    pub(super) value: Expr,
    pub(super) optional: bool,
}

/// What macros become: a fold over a list or map.
#[derive(Debug, Clone)]
pub(super) struct Comprehension {
    pub(super) range: Expr,
    /// Item of a list, key of a map; with `var2`: index or key.
    pub(super) var: Arc<str>,
    /// Item or value.
    pub(super) var2: Option<Arc<str>>,
    pub(super) accu: Arc<str>,
    pub(super) init: Expr,
    pub(super) condition: Expr,
    pub(super) step: Expr,
    pub(super) result: Expr,
}

/// The accumulator of macros. Expressions cannot write this name.
pub(super) const ACCUMULATOR: &str = "@result";

impl Expr {
    /// `a.b.c` of nothing but names.
    pub(super) fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.to_string()),
            Kind::Select { operand, field, test_only: false } => {
                operand.qualified_name().map(|base| format!("{base}.{field}"))
            }
            _ => None,
        }
    }
}
