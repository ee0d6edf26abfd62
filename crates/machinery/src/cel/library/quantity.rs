//! `quantity('1Gi')` and what it can do (`apiserver/pkg/cel/library/quantity.go`).

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
use crate::quantity::{Format, Quantity};
use std::cmp::Ordering;
use std::sync::Arc;

pub(super) const OVERLOADS: &[Def] = &[
    def("quantity", "string_to_quantity", "(string) -> Quantity", |a| match a {
        [Value::String(text)] => match Quantity::parse(text) {
            Ok(quantity) => Ok(Value::Quantity(Arc::new(quantity))),
            Err(error) => Err(EvalError::new(error.to_string())),
        },
        _ => Err(EvalError::no_overload()),
    }),
    def("isQuantity", "is_quantity_string", "(string) -> bool", |a| match a {
        [Value::String(text)] => Ok(Quantity::parse(text).is_ok().into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("sign", "quantity_sign", "Quantity.() -> int", |a| one(a, |q| Ok(Value::Int(i64::from(q.sign()))))),
    def("isGreaterThan", "quantity_is_greater_than", "Quantity.(Quantity) -> bool", |a| {
        compare(a, |order| (order == Ordering::Greater).into())
    }),
    def("isLessThan", "quantity_is_less_than", "Quantity.(Quantity) -> bool", |a| {
        compare(a, |order| (order == Ordering::Less).into())
    }),
    def("compareTo", "quantity_compare_to", "Quantity.(Quantity) -> int", |a| compare(a, |o| Value::Int(o as i64))),
    def("asApproximateFloat", "quantity_get_float", "Quantity.() -> double", |a| {
        one(a, |q| Ok(Value::Double(q.as_f64())))
    }),
    def("asInteger", "quantity_get_int", "Quantity.() -> int", |a| {
        one(a, |q| q.as_i64().map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer")))
    }),
    def("isInteger", "quantity_is_integer", "Quantity.() -> bool", |a| one(a, |q| Ok(q.as_i64().is_some().into()))),
    def("add", "quantity_add", "Quantity.(Quantity) -> Quantity", |a| change(a, Quantity::add)),
    def("add", "quantity_add_int", "Quantity.(int) -> Quantity", |a| change(a, Quantity::add)),
    def("sub", "quantity_sub", "Quantity.(Quantity) -> Quantity", |a| change(a, Quantity::sub)),
    def("sub", "quantity_sub_int", "Quantity.(int) -> Quantity", |a| change(a, Quantity::sub)),
];

fn one(args: &[Value], run: impl FnOnce(&Quantity) -> Answer) -> Answer {
    match args {
        [Value::Quantity(quantity)] => run(quantity),
        _ => Err(EvalError::no_overload()),
    }
}

fn compare(args: &[Value], answer: impl FnOnce(Ordering) -> Value) -> Answer {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(answer((**a).cmp(b))),
        _ => Err(EvalError::no_overload()),
    }
}

fn change(args: &[Value], run: fn(&mut Quantity, &Quantity)) -> Answer {
    let (a, b) = match args {
        [Value::Quantity(a), Value::Quantity(b)] => (a, (**b).clone()),
        [Value::Quantity(a), Value::Int(b)] => (a, Quantity::new(*b, Format::DecimalExponent)),
        _ => return Err(EvalError::no_overload()),
    };
    let mut result = (**a).clone();
    run(&mut result, &b);
    Ok(Value::Quantity(Arc::new(result)))
}
