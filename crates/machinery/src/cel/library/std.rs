//! CEL's standard functions and operators (`cel-go/common/stdlib/standard.go`). Logic, conditions and selections are the
//! evaluator's own.

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::{Key, Value};
use std::cmp::Ordering;
use std::sync::Arc;

pub(super) const OVERLOADS: &[Def] = &[
    // The evaluator knows these by name; here they are for the checker.
    def("_?_:_", "conditional", "(bool, A, A) -> A", unsupported),
    def("_&&_", "logical_and", "(bool, bool) -> bool", unsupported),
    def("_||_", "logical_or", "(bool, bool) -> bool", unsupported),
    def("@not_strictly_false", "not_strictly_false", "(bool) -> bool", unsupported),
    def("_[_]", "index_list", "(list(A), int) -> A", index),
    def("_[_]", "index_map", "(map(A, B), A) -> B", index),
    def("_[_]", "optional_list_index_int", "(optional(list(A)), int) -> optional(A)", index),
    def("_[_]", "optional_map_index_value", "(optional(map(A, B)), A) -> optional(B)", index),
    def("_[?_]", "list_optindex_optional_int", "(list(A), int) -> optional(A)", unsupported),
    def("_[?_]", "optional_list_optindex_optional_int", "(optional(list(A)), int) -> optional(A)", unsupported),
    def("_[?_]", "map_optindex_optional_value", "(map(A, B), A) -> optional(B)", unsupported),
    def("_[?_]", "optional_map_optindex_optional_value", "(optional(map(A, B)), A) -> optional(B)", unsupported),
    // Equality and order.
    def("_==_", "equals", "(A, A) -> bool", |a| Ok(a[0].equals(&a[1]).into())),
    def("_!=_", "not_equals", "(A, A) -> bool", |a| Ok((!a[0].equals(&a[1])).into())),
    def("_<_", "less_bool", "(bool, bool) -> bool", less),
    def("_<_", "less_int64", "(int, int) -> bool", less),
    def("_<_", "less_int64_double", "(int, double) -> bool", less),
    def("_<_", "less_int64_uint64", "(int, uint) -> bool", less),
    def("_<_", "less_uint64", "(uint, uint) -> bool", less),
    def("_<_", "less_uint64_double", "(uint, double) -> bool", less),
    def("_<_", "less_uint64_int64", "(uint, int) -> bool", less),
    def("_<_", "less_double", "(double, double) -> bool", less),
    def("_<_", "less_double_int64", "(double, int) -> bool", less),
    def("_<_", "less_double_uint64", "(double, uint) -> bool", less),
    def("_<_", "less_string", "(string, string) -> bool", less),
    def("_<_", "less_bytes", "(bytes, bytes) -> bool", less),
    def("_<_", "less_timestamp", "(timestamp, timestamp) -> bool", less),
    def("_<_", "less_duration", "(duration, duration) -> bool", less),
    def("_<=_", "less_equals_bool", "(bool, bool) -> bool", less_equals),
    def("_<=_", "less_equals_int64", "(int, int) -> bool", less_equals),
    def("_<=_", "less_equals_int64_double", "(int, double) -> bool", less_equals),
    def("_<=_", "less_equals_int64_uint64", "(int, uint) -> bool", less_equals),
    def("_<=_", "less_equals_uint64", "(uint, uint) -> bool", less_equals),
    def("_<=_", "less_equals_uint64_double", "(uint, double) -> bool", less_equals),
    def("_<=_", "less_equals_uint64_int64", "(uint, int) -> bool", less_equals),
    def("_<=_", "less_equals_double", "(double, double) -> bool", less_equals),
    def("_<=_", "less_equals_double_int64", "(double, int) -> bool", less_equals),
    def("_<=_", "less_equals_double_uint64", "(double, uint) -> bool", less_equals),
    def("_<=_", "less_equals_string", "(string, string) -> bool", less_equals),
    def("_<=_", "less_equals_bytes", "(bytes, bytes) -> bool", less_equals),
    def("_<=_", "less_equals_timestamp", "(timestamp, timestamp) -> bool", less_equals),
    def("_<=_", "less_equals_duration", "(duration, duration) -> bool", less_equals),
    def("_>_", "greater_bool", "(bool, bool) -> bool", greater),
    def("_>_", "greater_int64", "(int, int) -> bool", greater),
    def("_>_", "greater_int64_double", "(int, double) -> bool", greater),
    def("_>_", "greater_int64_uint64", "(int, uint) -> bool", greater),
    def("_>_", "greater_uint64", "(uint, uint) -> bool", greater),
    def("_>_", "greater_uint64_double", "(uint, double) -> bool", greater),
    def("_>_", "greater_uint64_int64", "(uint, int) -> bool", greater),
    def("_>_", "greater_double", "(double, double) -> bool", greater),
    def("_>_", "greater_double_int64", "(double, int) -> bool", greater),
    def("_>_", "greater_double_uint64", "(double, uint) -> bool", greater),
    def("_>_", "greater_string", "(string, string) -> bool", greater),
    def("_>_", "greater_bytes", "(bytes, bytes) -> bool", greater),
    def("_>_", "greater_timestamp", "(timestamp, timestamp) -> bool", greater),
    def("_>_", "greater_duration", "(duration, duration) -> bool", greater),
    def("_>=_", "greater_equals_bool", "(bool, bool) -> bool", greater_equals),
    def("_>=_", "greater_equals_int64", "(int, int) -> bool", greater_equals),
    def("_>=_", "greater_equals_int64_double", "(int, double) -> bool", greater_equals),
    def("_>=_", "greater_equals_int64_uint64", "(int, uint) -> bool", greater_equals),
    def("_>=_", "greater_equals_uint64", "(uint, uint) -> bool", greater_equals),
    def("_>=_", "greater_equals_uint64_double", "(uint, double) -> bool", greater_equals),
    def("_>=_", "greater_equals_uint64_int64", "(uint, int) -> bool", greater_equals),
    def("_>=_", "greater_equals_double", "(double, double) -> bool", greater_equals),
    def("_>=_", "greater_equals_double_int64", "(double, int) -> bool", greater_equals),
    def("_>=_", "greater_equals_double_uint64", "(double, uint) -> bool", greater_equals),
    def("_>=_", "greater_equals_string", "(string, string) -> bool", greater_equals),
    def("_>=_", "greater_equals_bytes", "(bytes, bytes) -> bool", greater_equals),
    def("_>=_", "greater_equals_timestamp", "(timestamp, timestamp) -> bool", greater_equals),
    def("_>=_", "greater_equals_duration", "(duration, duration) -> bool", greater_equals),
    // Arithmetic.
    def("_+_", "add_bytes", "(bytes, bytes) -> bytes", add),
    def("_+_", "add_double", "(double, double) -> double", add),
    def("_+_", "add_duration_duration", "(duration, duration) -> duration", add),
    def("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", add),
    def("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", add),
    def("_+_", "add_int64", "(int, int) -> int", add),
    def("_+_", "add_list", "(list(A), list(A)) -> list(A)", add),
    def("_+_", "add_string", "(string, string) -> string", add),
    def("_+_", "add_uint64", "(uint, uint) -> uint", add),
    def("_-_", "subtract_double", "(double, double) -> double", subtract),
    def("_-_", "subtract_duration_duration", "(duration, duration) -> duration", subtract),
    def("_-_", "subtract_int64", "(int, int) -> int", subtract),
    def("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", subtract),
    def("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", subtract),
    def("_-_", "subtract_uint64", "(uint, uint) -> uint", subtract),
    def("_*_", "multiply_double", "(double, double) -> double", multiply),
    def("_*_", "multiply_int64", "(int, int) -> int", multiply),
    def("_*_", "multiply_uint64", "(uint, uint) -> uint", multiply),
    def("_/_", "divide_double", "(double, double) -> double", divide),
    def("_/_", "divide_int64", "(int, int) -> int", divide),
    def("_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    def("_%_", "modulo_int64", "(int, int) -> int", modulo),
    def("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    def("-_", "negate_double", "(double) -> double", negate),
    def("-_", "negate_int64", "(int) -> int", negate),
    def("!_", "logical_not", "(bool) -> bool", |a| match a {
        [Value::Bool(truth)] => Ok((!truth).into()),
        _ => Err(EvalError::no_overload()),
    }),
    // Containers.
    def("@in", "in_list", "(A, list(A)) -> bool", contains),
    def("@in", "in_map", "(A, map(A, B)) -> bool", contains),
    def("size", "size_bytes", "(bytes) -> int", size),
    def("size", "bytes_size", "bytes.() -> int", size),
    def("size", "size_list", "(list(A)) -> int", size),
    def("size", "list_size", "list(A).() -> int", size),
    def("size", "size_map", "(map(A, B)) -> int", size),
    def("size", "map_size", "map(A, B).() -> int", size),
    def("size", "size_string", "(string) -> int", size),
    def("size", "string_size", "string.() -> int", size),
    def("cel.@mapInsert", "@mapInsert_map_key_value", "(map(K, V), K, V) -> map(K, V)", insert),
    def("cel.@mapInsert", "@mapInsert_map_map", "(map(K, V), map(K, V)) -> map(K, V)", insert),
    // Conversions.
    def("type", "type", "(A) -> type(A)", |a| Ok(Value::Type(a[0].type_name()))),
    def("dyn", "to_dyn", "(A) -> dyn", |a| Ok(a[0].clone())),
    def("bool", "bool_to_bool", "(bool) -> bool", |a| Ok(a[0].clone())),
    def("bool", "string_to_bool", "(string) -> bool", string_to_bool),
    def("bytes", "bytes_to_bytes", "(bytes) -> bytes", |a| Ok(a[0].clone())),
    def("bytes", "string_to_bytes", "(string) -> bytes", |a| match a {
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => Err(EvalError::no_overload()),
    }),
    def("double", "double_to_double", "(double) -> double", to_double),
    def("double", "int64_to_double", "(int) -> double", to_double),
    def("double", "string_to_double", "(string) -> double", to_double),
    def("double", "uint64_to_double", "(uint) -> double", to_double),
    def("int", "int64_to_int64", "(int) -> int", to_int),
    def("int", "double_to_int64", "(double) -> int", to_int),
    def("int", "duration_to_int64", "(duration) -> int", to_int),
    def("int", "string_to_int64", "(string) -> int", to_int),
    def("int", "timestamp_to_int64", "(timestamp) -> int", to_int),
    def("int", "uint64_to_int64", "(uint) -> int", to_int),
    def("uint", "uint64_to_uint64", "(uint) -> uint", to_uint),
    def("uint", "double_to_uint64", "(double) -> uint", to_uint),
    def("uint", "int64_to_uint64", "(int) -> uint", to_uint),
    def("uint", "string_to_uint64", "(string) -> uint", to_uint),
    def("string", "string_to_string", "(string) -> string", to_string),
    def("string", "bool_to_string", "(bool) -> string", to_string),
    def("string", "bytes_to_string", "(bytes) -> string", to_string),
    def("string", "double_to_string", "(double) -> string", to_string),
    def("string", "duration_to_string", "(duration) -> string", to_string),
    def("string", "int64_to_string", "(int) -> string", to_string),
    def("string", "timestamp_to_string", "(timestamp) -> string", to_string),
    def("string", "uint64_to_string", "(uint) -> string", to_string),
    // Text.
    def("contains", "contains_string", "string.(string) -> bool", |a| two(a, |a, b| Ok(a.contains(b).into()))),
    def("endsWith", "ends_with_string", "string.(string) -> bool", |a| two(a, |a, b| Ok(a.ends_with(b).into()))),
    def("startsWith", "starts_with_string", "string.(string) -> bool", |a| two(a, |a, b| Ok(a.starts_with(b).into()))),
];

/// For functions that never get here.
fn unsupported(_: &[Value]) -> Answer {
    Err(EvalError::no_overload())
}

/// A function of two texts.
pub(super) fn two(args: &[Value], run: impl FnOnce(&str, &str) -> Answer) -> Answer {
    match args {
        [Value::String(a), Value::String(b)] => run(a, b),
        _ => Err(EvalError::no_overload()),
    }
}

// === order ===

fn ordered(args: &[Value], holds: fn(Ordering) -> bool) -> Answer {
    let [a, b] = args else { return Err(EvalError::no_overload()) };
    match a.compare(b) {
        Some(order) => Ok(holds(order).into()),
        None if a.is_number() && b.is_number() => Err(EvalError::new("NaN values cannot be ordered")),
        None => Err(EvalError::no_overload()),
    }
}

fn less(args: &[Value]) -> Answer {
    ordered(args, Ordering::is_lt)
}

fn less_equals(args: &[Value]) -> Answer {
    ordered(args, Ordering::is_le)
}

fn greater(args: &[Value]) -> Answer {
    ordered(args, Ordering::is_gt)
}

fn greater_equals(args: &[Value]) -> Answer {
    ordered(args, Ordering::is_ge)
}

// === arithmetic ===

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

fn time_or_overflow(time: Option<jiff::Timestamp>) -> Answer {
    time.filter(super::time::in_range).map(Value::Timestamp).ok_or_else(|| overflow("timestamp"))
}

/// `a + b`
pub(crate) fn add(args: &[Value]) -> Answer {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_add(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_add(*b).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a + b)),
        [Value::String(a), Value::String(b)] => Ok(Value::String(format!("{a}{b}").into())),
        [Value::Bytes(a), Value::Bytes(b)] => Ok(Value::Bytes([&**a, &**b].concat().into())),
        [Value::List(a), Value::List(b)] => {
            let mut sum = (**a).clone();
            sum.extend(b);
            Ok(Value::List(Arc::new(sum)))
        }
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_add(*b).map(Value::Duration).ok_or_else(|| overflow("duration"))
        }
        [Value::Timestamp(time), Value::Duration(nanos)] | [Value::Duration(nanos), Value::Timestamp(time)] => {
            time_or_overflow(time.checked_add(jiff::SignedDuration::from_nanos(*nanos)).ok())
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn subtract(args: &[Value]) -> Answer {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_sub(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_sub(*b).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a - b)),
        [Value::Duration(a), Value::Duration(b)] => {
            a.checked_sub(*b).map(Value::Duration).ok_or_else(|| overflow("duration"))
        }
        [Value::Timestamp(a), Value::Timestamp(b)] => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            i64::try_from(nanos).map(Value::Duration).map_err(|_| overflow("duration"))
        }
        [Value::Timestamp(time), Value::Duration(nanos)] => {
            time_or_overflow(time.checked_sub(jiff::SignedDuration::from_nanos(*nanos)).ok())
        }
        _ => Err(EvalError::no_overload()),
    }
}

fn multiply(args: &[Value]) -> Answer {
    match args {
        [Value::Int(a), Value::Int(b)] => a.checked_mul(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        [Value::Uint(a), Value::Uint(b)] => {
            a.checked_mul(*b).map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
        }
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn divide(args: &[Value]) -> Answer {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("division by zero")),
        [Value::Int(a), Value::Int(b)] => a.checked_div(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a / b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn modulo(args: &[Value]) -> Answer {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => Err(EvalError::new("modulus by zero")),
        [Value::Int(a), Value::Int(b)] => a.checked_rem(*b).map(Value::Int).ok_or_else(|| overflow("integer")),
        [Value::Uint(a), Value::Uint(b)] => Ok(Value::Uint(a % b)),
        _ => Err(EvalError::no_overload()),
    }
}

fn negate(args: &[Value]) -> Answer {
    match args {
        [Value::Int(number)] => number.checked_neg().map(Value::Int).ok_or_else(|| overflow("integer")),
        [Value::Double(number)] => Ok(Value::Double(-number)),
        _ => Err(EvalError::no_overload()),
    }
}

// === containers ===

/// `container[key]`
pub(crate) fn index(args: &[Value]) -> Answer {
    match args {
        [Value::Optional(None), _] => Ok(Value::Optional(None)),
        [Value::Optional(Some(inner)), key] => match find(inner, key)? {
            Some(value) => Ok(Value::some(value)),
            None => Ok(Value::Optional(None)),
        },
        [container, key] => match find(container, key)? {
            Some(value) => Ok(value),
            None => match (container, Key::of(key)) {
                (Value::List(_), Some(key)) => Err(EvalError::new(format!("index out of bounds: {key}"))),
                (_, Some(key)) => Err(EvalError::no_key(key)),
                (_, None) => Err(EvalError::no_overload()),
            },
        },
        _ => Err(EvalError::no_overload()),
    }
}

/// What is under a key or index; `None` if nothing is.
pub(crate) fn find(container: &Value, key: &Value) -> Result<Option<Value>, EvalError> {
    match container {
        Value::List(list) => match Key::of(key) {
            Some(Key::Int(at)) => Ok(usize::try_from(at).ok().and_then(|at| list.items.get(at)).cloned()),
            Some(Key::Uint(_)) => Ok(None),
            _ => Err(EvalError::new("unsupported index type in list")),
        },
        Value::Map(map) => match Key::of(key) {
            Some(key) => Ok(map.find(&key).cloned()),
            None => Ok(None),
        },
        Value::Object(object) => match key {
            Value::String(name) => Ok(object.fields.get(&**name).cloned()),
            _ => Err(EvalError::no_overload()),
        },
        _ => Err(EvalError::no_overload()),
    }
}

fn contains(args: &[Value]) -> Answer {
    match args {
        [item, Value::List(list)] => Ok(list.items.iter().any(|i| i.equals(item)).into()),
        [key, Value::Map(map)] => Ok(Key::of(key).is_some_and(|key| map.contains_key(&key)).into()),
        [Value::String(name), Value::Object(object)] => Ok(object.fields.contains_key(&**name).into()),
        _ => Err(EvalError::no_overload()),
    }
}

fn size(args: &[Value]) -> Answer {
    let size = match &args[0] {
        Value::Object(object) => Some(object.fields.len() as u64),
        other => other.size(),
    };
    size.map(|n| Value::Int(n as i64)).ok_or_else(EvalError::no_overload)
}

fn insert(args: &[Value]) -> Answer {
    let taken = |key: &Key| EvalError::new(format!("insert failed: key {key} already exists"));
    match args {
        [Value::Map(map), key, value] => {
            let key = Key::of(key).ok_or_else(EvalError::no_overload)?;
            if map.contains_key(&key) {
                return Err(taken(&key));
            }
            let mut map = (**map).clone();
            map.insert(key, value.clone());
            Ok(map.into())
        }
        [Value::Map(map), Value::Map(more)] => {
            let mut map = (**map).clone();
            for (key, value) in more.iter() {
                if map.contains_key(key) {
                    return Err(taken(key));
                }
                map.insert(key.clone(), value.clone());
            }
            Ok(map.into())
        }
        _ => Err(EvalError::no_overload()),
    }
}

// === conversions ===

fn string_to_bool(args: &[Value]) -> Answer {
    // What Go's strconv.ParseBool takes.
    match args[0].as_str() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true.into()),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false.into()),
        _ => Err(EvalError::new("type conversion error from 'string' to 'bool'")),
    }
}

fn to_double(args: &[Value]) -> Answer {
    match &args[0] {
        Value::Double(number) => Ok(Value::Double(*number)),
        Value::Int(number) => Ok(Value::Double(*number as f64)),
        Value::Uint(number) => Ok(Value::Double(*number as f64)),
        Value::String(text) => text
            .parse()
            .map(Value::Double)
            .map_err(|_| EvalError::new(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax"))),
        _ => Err(EvalError::no_overload()),
    }
}

fn to_int(args: &[Value]) -> Answer {
    match &args[0] {
        Value::Int(number) => Ok(Value::Int(*number)),
        Value::Uint(number) => i64::try_from(*number).map(Value::Int).map_err(|_| overflow("integer")),
        Value::Double(number) if *number > -(2f64.powi(63)) && *number < 2f64.powi(63) => {
            Ok(Value::Int(*number as i64))
        }
        Value::Double(_) => Err(overflow("integer")),
        Value::Duration(nanos) => Ok(Value::Int(*nanos)),
        Value::Timestamp(time) => Ok(Value::Int(time.as_second())),
        Value::String(text) => text
            .parse()
            .map(Value::Int)
            .map_err(|_| EvalError::new(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))),
        _ => Err(EvalError::no_overload()),
    }
}

fn to_uint(args: &[Value]) -> Answer {
    match &args[0] {
        Value::Uint(number) => Ok(Value::Uint(*number)),
        Value::Int(number) => u64::try_from(*number).map(Value::Uint).map_err(|_| overflow("unsigned integer")),
        Value::Double(number) if *number >= 0.0 && *number < 2f64.powi(64) => Ok(Value::Uint(*number as u64)),
        Value::Double(_) => Err(overflow("unsigned integer")),
        Value::String(text) => text
            .parse()
            .map(Value::Uint)
            .map_err(|_| EvalError::new(format!("strconv.ParseUint: parsing {text:?}: invalid syntax"))),
        _ => Err(EvalError::no_overload()),
    }
}

/// `string(value)`
pub(super) fn to_string(args: &[Value]) -> Answer {
    Ok(match &args[0] {
        Value::String(text) => Value::String(text.clone()),
        Value::Bool(truth) => truth.to_string().into(),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.into(),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Double(number) => show_double(*number).into(),
        Value::Duration(nanos) => super::time::show_duration(*nanos).into(),
        Value::Int(number) => number.to_string().into(),
        Value::Uint(number) => number.to_string().into(),
        Value::Timestamp(time) => time.to_string().into(),
        Value::Ip(ip) => ip.to_string().into(),
        Value::Cidr(ip, bits) => format!("{ip}/{bits}").into(),
        Value::Type(name) => Value::String(name.clone()),
        _ => return Err(EvalError::no_overload()),
    })
}

/// As Go's `strconv.FormatFloat(number, 'g', -1, 64)`.
fn show_double(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let exponent = if number == 0.0 { 0 } else { number.abs().log10().floor() as i32 };
    if (-4..21).contains(&exponent) {
        return number.to_string();
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let value: i32 = exponent.parse().unwrap_or(0);
            format!("{digits}e{}{:02}", if value < 0 { '-' } else { '+' }, value.abs())
        }
        None => text,
    }
}
