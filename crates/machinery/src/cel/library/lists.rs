//! Functions of lists: Kubernetes' own (`apiserver/pkg/cel/library/lists.go`) and cel-go's (`ext/lists.go`, version 3).

use super::std::add;
use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::{List, Value};
use std::cmp::Ordering;

/// The longest list that `lists.range` makes.
const MAX_RANGE: i64 = 1_000_000;
/// How deep `flatten` goes at most.
const MAX_FLATTEN: i64 = 250;

pub(super) const OVERLOADS: &[Def] = &[
    def("isSorted", "list_int_is_sorted_bool", "list(int).() -> bool", is_sorted),
    def("isSorted", "list_uint_is_sorted_bool", "list(uint).() -> bool", is_sorted),
    def("isSorted", "list_double_is_sorted_bool", "list(double).() -> bool", is_sorted),
    def("isSorted", "list_bool_is_sorted_bool", "list(bool).() -> bool", is_sorted),
    def("isSorted", "list_duration_is_sorted_bool", "list(duration).() -> bool", is_sorted),
    def("isSorted", "list_timestamp_is_sorted_bool", "list(timestamp).() -> bool", is_sorted),
    def("isSorted", "list_string_is_sorted_bool", "list(string).() -> bool", is_sorted),
    def("isSorted", "list_bytes_is_sorted_bool", "list(bytes).() -> bool", is_sorted),
    def("sum", "list_int_sum_int", "list(int).() -> int", |a| sum(a, Value::Int(0))),
    def("sum", "list_uint_sum_uint", "list(uint).() -> uint", |a| sum(a, Value::Uint(0))),
    def("sum", "list_double_sum_double", "list(double).() -> double", |a| sum(a, Value::Double(0.0))),
    def("sum", "list_duration_sum_duration", "list(duration).() -> duration", |a| sum(a, Value::Duration(0))),
    def("min", "list_int_min_int", "list(int).() -> int", min),
    def("min", "list_uint_min_uint", "list(uint).() -> uint", min),
    def("min", "list_double_min_double", "list(double).() -> double", min),
    def("min", "list_bool_min_bool", "list(bool).() -> bool", min),
    def("min", "list_duration_min_duration", "list(duration).() -> duration", min),
    def("min", "list_timestamp_min_timestamp", "list(timestamp).() -> timestamp", min),
    def("min", "list_string_min_string", "list(string).() -> string", min),
    def("min", "list_bytes_min_bytes", "list(bytes).() -> bytes", min),
    def("max", "list_int_max_int", "list(int).() -> int", max),
    def("max", "list_uint_max_uint", "list(uint).() -> uint", max),
    def("max", "list_double_max_double", "list(double).() -> double", max),
    def("max", "list_bool_max_bool", "list(bool).() -> bool", max),
    def("max", "list_duration_max_duration", "list(duration).() -> duration", max),
    def("max", "list_timestamp_max_timestamp", "list(timestamp).() -> timestamp", max),
    def("max", "list_string_max_string", "list(string).() -> string", max),
    def("max", "list_bytes_max_bytes", "list(bytes).() -> bytes", max),
    def("indexOf", "list_a_index_of_int", "list(A).(A) -> int", |a| match a {
        [Value::List(list), item] => Ok(position(list.items.iter().position(|i| i.equals(item)))),
        _ => Err(EvalError::no_overload()),
    }),
    def("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", |a| match a {
        [Value::List(list), item] => Ok(position(list.items.iter().rposition(|i| i.equals(item)))),
        _ => Err(EvalError::no_overload()),
    }),
    def("slice", "list_slice", "list(A).(int, int) -> list(A)", slice),
    def("flatten", "list_flatten", "list(list(A)).() -> list(A)", flatten),
    def("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten),
    def("sort", "list_int_sort", "list(int).() -> list(int)", sort),
    def("sort", "list_uint_sort", "list(uint).() -> list(uint)", sort),
    def("sort", "list_double_sort", "list(double).() -> list(double)", sort),
    def("sort", "list_bool_sort", "list(bool).() -> list(bool)", sort),
    def("sort", "list_duration_sort", "list(duration).() -> list(duration)", sort),
    def("sort", "list_timestamp_sort", "list(timestamp).() -> list(timestamp)", sort),
    def("sort", "list_string_sort", "list(string).() -> list(string)", sort),
    def("sort", "list_bytes_sort", "list(bytes).() -> list(bytes)", sort),
    def("@sortByAssociatedKeys", "list_int_sortByAssociatedKeys", "list(A).(list(int)) -> list(A)", sort_by),
    def("@sortByAssociatedKeys", "list_uint_sortByAssociatedKeys", "list(A).(list(uint)) -> list(A)", sort_by),
    def("@sortByAssociatedKeys", "list_double_sortByAssociatedKeys", "list(A).(list(double)) -> list(A)", sort_by),
    def("@sortByAssociatedKeys", "list_bool_sortByAssociatedKeys", "list(A).(list(bool)) -> list(A)", sort_by),
    def("@sortByAssociatedKeys", "list_duration_sortByAssociatedKeys", "list(A).(list(duration)) -> list(A)", sort_by),
    def(
        "@sortByAssociatedKeys",
        "list_timestamp_sortByAssociatedKeys",
        "list(A).(list(timestamp)) -> list(A)",
        sort_by,
    ),
    def("@sortByAssociatedKeys", "list_string_sortByAssociatedKeys", "list(A).(list(string)) -> list(A)", sort_by),
    def("@sortByAssociatedKeys", "list_bytes_sortByAssociatedKeys", "list(A).(list(bytes)) -> list(A)", sort_by),
    def("lists.range", "lists_range", "(int) -> list(int)", |a| match a {
        [Value::Int(count)] if *count <= MAX_RANGE => Ok((0..*count).map(Value::Int).collect::<Vec<_>>().into()),
        [Value::Int(_)] => Err(EvalError::new("lists.range: the list is too long")),
        _ => Err(EvalError::no_overload()),
    }),
    def("reverse", "list_reverse", "list(A).() -> list(A)", |a| match a {
        [Value::List(list)] => Ok(list.items.iter().rev().cloned().collect::<Vec<_>>().into()),
        _ => Err(EvalError::no_overload()),
    }),
    def("distinct", "list_distinct", "list(A).() -> list(A)", distinct),
];

fn position(found: Option<usize>) -> Value {
    Value::Int(found.map_or(-1, |at| at as i64))
}

fn list_of(args: &[Value]) -> Result<&List, EvalError> {
    match args.first() {
        Some(Value::List(list)) => Ok(list),
        _ => Err(EvalError::no_overload()),
    }
}

fn order(a: &Value, b: &Value) -> Result<Ordering, EvalError> {
    a.compare(b).ok_or_else(EvalError::no_overload)
}

fn is_sorted(args: &[Value]) -> Answer {
    for pair in list_of(args)?.items.windows(2) {
        if order(&pair[0], &pair[1])? == Ordering::Greater {
            return Ok(false.into());
        }
    }
    Ok(true.into())
}

fn sum(args: &[Value], zero: Value) -> Answer {
    list_of(args)?.items.iter().try_fold(zero, |sum, item| {
        // Lists of unknown items are taken for lists of integers; their first item says what they are.
        match (&sum, item) {
            (Value::Int(0), Value::Double(_) | Value::Uint(_) | Value::Duration(_)) => Ok(item.clone()),
            _ => add(&[sum, item.clone()]),
        }
    })
}

fn extreme(args: &[Value], name: &str, better: Ordering) -> Answer {
    let mut best: Option<&Value> = None;
    for item in &list_of(args)?.items {
        let is_better = match best {
            None => true,
            Some(best) => order(item, best)? == better,
        };
        if is_better {
            best = Some(item);
        }
    }
    best.cloned().ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn min(args: &[Value]) -> Answer {
    extreme(args, "min", Ordering::Less)
}

fn max(args: &[Value]) -> Answer {
    extreme(args, "max", Ordering::Greater)
}

fn slice(args: &[Value]) -> Answer {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return Err(EvalError::no_overload()) };
    let length = list.items.len() as i64;
    if *start < 0 || *end < 0 {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), negative indexes not supported")));
    }
    if start > end {
        return Err(EvalError::new(format!(
            "cannot slice({start}, {end}), start index must be less than or equal to end index"
        )));
    }
    if *end > length {
        return Err(EvalError::new(format!("cannot slice({start}, {end}), list is length {length}")));
    }
    Ok(list.items[*start as usize..*end as usize].to_vec().into())
}

fn flatten(args: &[Value]) -> Answer {
    let depth = match args {
        [_] => 1,
        [_, Value::Int(depth)] if *depth < 0 => return Err(EvalError::new("level must be non-negative")),
        [_, Value::Int(depth)] => (*depth).min(MAX_FLATTEN),
        _ => return Err(EvalError::no_overload()),
    };
    let mut out = Vec::new();
    flatten_into(&mut out, list_of(args)?, depth);
    Ok(out.into())
}

fn flatten_into(out: &mut Vec<Value>, list: &List, depth: i64) {
    for item in &list.items {
        match item {
            Value::List(inner) if depth > 0 => flatten_into(out, inner, depth - 1),
            other => out.push(other.clone()),
        }
    }
}

fn sort(args: &[Value]) -> Answer {
    let list = list_of(args)?;
    sorted(&list.items, &list.items)
}

fn sort_by(args: &[Value]) -> Answer {
    match args {
        [Value::List(list), Value::List(keys)] if list.items.len() == keys.items.len() => {
            sorted(&list.items, &keys.items)
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn sorted(items: &[Value], keys: &[Value]) -> Answer {
    if let Some(first) = keys.first() {
        for key in keys {
            if first.type_name() != key.type_name() || key.compare(key).is_none() {
                return Err(EvalError::new("list elements must have the same type"));
            }
        }
    }
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by(|a, b| keys[*a].compare(&keys[*b]).unwrap_or(Ordering::Equal));
    Ok(order.into_iter().map(|i| items[i].clone()).collect::<Vec<_>>().into())
}

fn distinct(args: &[Value]) -> Answer {
    let mut seen: Vec<Value> = Vec::new();
    for item in &list_of(args)?.items {
        if !seen.iter().any(|s| s.equals(item)) {
            seen.push(item.clone());
        }
    }
    Ok(seen.into())
}
