//! `sets.contains`, `sets.equivalent`, `sets.intersects` (`cel-go/ext/sets.go`).

use super::{Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::{List, Value};

pub(super) const OVERLOADS: &[Def] = &[
    def("sets.contains", "list_sets_contains_list", "(list(A), list(A)) -> bool", |a| match a {
        [Value::List(all), Value::List(some)] => Ok(holds(all, some).into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("sets.equivalent", "list_sets_equivalent_list", "(list(A), list(A)) -> bool", |a| match a {
        [Value::List(a), Value::List(b)] => Ok((holds(a, b) && holds(b, a)).into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("sets.intersects", "list_sets_intersects_list", "(list(A), list(A)) -> bool", |a| match a {
        [Value::List(a), Value::List(b)] => Ok(a.items.iter().any(|x| has(b, x)).into()),
        _ => Err(EvalError::no_overload()),
    }),
];

fn has(list: &List, item: &Value) -> bool {
    list.items.iter().any(|i| i.equals(item))
}

fn holds(all: &List, some: &List) -> bool {
    some.items.iter().all(|item| has(all, item))
}
