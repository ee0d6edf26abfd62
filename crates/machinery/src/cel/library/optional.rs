//! Optional values (`cel-go/cel/library.go`, `OptionalTypes`). `optMap` and `optFlatMap` are macros.

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;

pub(super) const OVERLOADS: &[Def] = &[
    def("optional.of", "optional_of", "(A) -> optional(A)", |a| Ok(Value::some(a[0].clone()))),
    def("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(A) -> optional(A)", |a| match a[0].is_zero() {
        true => Ok(Value::Optional(None)),
        false => Ok(Value::some(a[0].clone())),
    }),
    def("optional.none", "optional_none", "() -> optional(A)", |_| Ok(Value::Optional(None))),
    def("hasValue", "optional_hasValue", "optional(A).() -> bool", |a| match a {
        [Value::Optional(inner)] => Ok(inner.is_some().into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("value", "optional_value", "optional(A).() -> A", |a| match a {
        [Value::Optional(Some(inner))] => Ok((**inner).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => Err(EvalError::no_overload()),
    }),
    def("or", "optional_or_optional", "optional(A).(optional(A)) -> optional(A)", |a| match a {
        [Value::Optional(None), other] => Ok(other.clone()),
        [this, _] => Ok(this.clone()),
        _ => Err(EvalError::no_overload()),
    }),
    def("orValue", "optional_orValue_value", "optional(A).(A) -> A", |a| match a {
        [Value::Optional(Some(inner)), _] => Ok((**inner).clone()),
        [_, other] => Ok(other.clone()),
        _ => Err(EvalError::no_overload()),
    }),
    def("optional.unwrap", "optional_unwrap", "(list(optional(A))) -> list(A)", unwrap),
    def("unwrapOpt", "optional_unwrapOpt", "list(optional(A)).() -> list(A)", unwrap),
    def("first", "list_first", "list(A).() -> optional(A)", |a| match a {
        [Value::List(list)] => Ok(Value::Optional(list.items.first().cloned().map(Into::into))),
        _ => Err(EvalError::no_overload()),
    }),
    def("last", "list_last", "list(A).() -> optional(A)", |a| match a {
        [Value::List(list)] => Ok(Value::Optional(list.items.last().cloned().map(Into::into))),
        _ => Err(EvalError::no_overload()),
    }),
];

fn unwrap(args: &[Value]) -> Answer {
    let [Value::List(list)] = args else { return Err(EvalError::no_overload()) };
    let values = list.items.iter().filter_map(|item| match item {
        Value::Optional(Some(inner)) => Some((**inner).clone()),
        _ => None,
    });
    Ok(values.collect::<Vec<_>>().into())
}
