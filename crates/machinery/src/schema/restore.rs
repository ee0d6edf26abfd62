//! Why a value is no object of a type, as Go's converter of untyped values says it (`apimachinery/pkg/runtime/converter.go`). It
//! names no path, other than decoding JSON does.

use super::json::{go_scalar, go_type};
use super::{Scalar, Schema, Type, TypeId};
use serde_json::{Number, Value};

/// The first thing that does not fit; `None` if nothing is found, as inside of types that read themselves.
pub fn restore_error(schema: &Schema, ty: TypeId, value: &Value) -> Option<String> {
    match (schema.get(ty), value) {
        (_, Value::Null) | (Type::Any, _) => None,
        (Type::Struct(s), Value::Object(members)) => {
            s.fields.iter().find_map(|field| restore_error(schema, field.ty, members.get(field.name.as_ref())?))
        }
        (Type::Struct(_), other) => Some(format!("cannot restore struct from: {}", kind(other))),
        (Type::Map { value, .. }, Value::Object(members)) => {
            members.values().find_map(|member| restore_error(schema, *value, member))
        }
        (Type::Map { .. }, other) => Some(format!("cannot restore map from {}", kind(other))),
        (Type::List { item, .. }, Value::Array(items)) => {
            items.iter().find_map(|found| restore_error(schema, *item, found))
        }
        (Type::List { .. }, other) => Some(format!("cannot restore slice from {}", kind(other))),
        (Type::Scalar(scalar), value) => refuses(*scalar, value).then(|| unfit(schema, ty, *scalar, value)),
    }
}

/// Whether a plain type does not take a value.
fn refuses(scalar: Scalar, value: &Value) -> bool {
    match (scalar, value) {
        (Scalar::String, value) => !value.is_string(),
        (Scalar::Bool, value) => !value.is_boolean(),
        (Scalar::Int32 | Scalar::Int64, Value::Number(n)) => !is_whole(n),
        (Scalar::Int32 | Scalar::Int64, _) => true,
        (Scalar::Double, value) => !value.is_number(),
        (Scalar::Bytes, value) => !value.is_string(),
        _ => false,
    }
}

fn unfit(schema: &Schema, ty: TypeId, scalar: Scalar, value: &Value) -> String {
    match (scalar, value) {
        (Scalar::Bytes, other) => format!("cannot restore slice from {}", kind(other)),
        // What Go could convert, but JSON could not.
        (Scalar::String, Value::Number(n)) if n.is_i64() => format!("cannot convert int64 to {}", go_type(schema, ty)),
        (Scalar::Int32 | Scalar::Int64, Value::Number(_)) => {
            format!("cannot convert float64 to {}", go_type(schema, ty))
        }
        (scalar, _) => format!("unrecognized type: {}", go_scalar(scalar)),
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.as_f64().is_some_and(|f| f.trunc() == f)
}

/// Of a value in Go.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "invalid",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_i64() => "int64",
        Value::Number(_) => "float64",
        Value::String(_) => "string",
        Value::Array(_) => "slice",
        Value::Object(_) => "map",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::builtin;
    use expect_test::expect;
    use serde_json::json;

    #[test]
    fn what_does_not_fit_is_told_in_the_converters_words() {
        let builtin = builtin();
        let pod = builtin.by_kind("", "v1", "Pod").expect("is a kind");
        let why = |value: Value| restore_error(&builtin.schema, pod, &value).unwrap_or_default() + "\n";
        let all = [
            json!({"metadata": {"labels": "invalid"}}),
            json!({"metadata": {"labels": {"a": 1}}}),
            json!({"metadata": {"labels": {"a": true}}}),
            json!({"spec": []}),
            json!({"spec": {"containers": {}}}),
            json!({"spec": {"hostNetwork": "yes", "priority": 1.5}}),
            json!({"spec": {"priority": "high"}}),
            json!({"spec": {"priority": 1.5}}),
            json!({"metadata": {"labels": null}, "spec": {"priority": 1.0}}),
        ];
        expect![[r#"
            cannot restore map from string
            cannot convert int64 to string
            unrecognized type: string
            cannot restore struct from: slice
            cannot restore slice from map
            unrecognized type: bool
            unrecognized type: int32
            cannot convert float64 to int32

        "#]]
        .assert_eq(&all.map(why).concat());
    }
}
