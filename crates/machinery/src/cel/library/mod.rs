//! Functions of expressions: one file per library, each a table of overloads; [`find`] walks all of them.
//!
//! Signatures are text, e.g. `string.(string) -> bool` for a member and `(list(A), A) -> int` for a free function.

pub(super) mod authz;
pub(super) mod format;
mod ip;
pub(super) mod json_patch;
mod lists;
mod optional;
mod quantity;
mod regex;
pub(super) mod semver;
mod sets;
mod std;
mod strings;
pub(super) mod time;
mod urls;

pub(super) use json_patch::operation as json_patch_type;
pub(super) use regex::{compile as compile_regex, run as run_regex};
pub(super) use std::{find as find_in, index};

use super::errors::EvalError;
use super::types::Type;
use super::value::Value;
use ::std::collections::HashMap;
use ::std::sync::{Arc, LazyLock};

/// What a function answers.
pub(super) type Answer = Result<Value, EvalError>;

/// One overload, as a library writes it down.
pub(super) struct Def {
    function: &'static str,
    id: &'static str,
    signature: &'static str,
    run: fn(&[Value]) -> Answer,
}

const fn def(function: &'static str, id: &'static str, signature: &'static str, run: fn(&[Value]) -> Answer) -> Def {
    Def { function, id, signature, run }
}

/// One overload. The target of a member is the first argument.
#[derive(Debug)]
pub(super) struct Overload {
    pub(super) id: &'static str,
    pub(super) is_member: bool,
    pub(super) args: Vec<Type>,
    pub(super) result: Type,
    pub(super) run: fn(&[Value]) -> Answer,
}

static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let libraries = [
        std::OVERLOADS,
        time::OVERLOADS,
        optional::OVERLOADS,
        strings::OVERLOADS,
        lists::OVERLOADS,
        sets::OVERLOADS,
        regex::OVERLOADS,
        urls::OVERLOADS,
        quantity::OVERLOADS,
        ip::OVERLOADS,
        format::OVERLOADS,
        semver::OVERLOADS,
        authz::OVERLOADS,
        json_patch::OVERLOADS,
    ];
    let mut functions: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for def in libraries.into_iter().flatten() {
        functions.entry(def.function).or_default().push(overload(def));
    }
    functions
});

/// The overloads of a function; none if there is no such function. Those of patches are there for policies that change
/// objects only.
pub(super) fn find(function: &str, patch_types: bool) -> &'static [Overload] {
    if function == json_patch::ESCAPE_KEY && !patch_types {
        return &[];
    }
    FUNCTIONS.get(function).map(Vec::as_slice).unwrap_or_default()
}

/// Library types have names that expressions may use.
pub(super) fn type_named(name: &str) -> Option<Type> {
    LIBRARY_TYPES.iter().find(|(_, full)| *full == name).map(|(_, full)| Type::Library(full))
}

/// Names in signatures, full names.
const LIBRARY_TYPES: &[(&str, &str)] = &[
    ("Quantity", "kubernetes.Quantity"),
    ("URL", "kubernetes.URL"),
    ("IP", "net.IP"),
    ("CIDR", "net.CIDR"),
    ("Semver", "kubernetes.Semver"),
    ("Format", "kubernetes.NamedFormat"),
    ("Authorizer", "kubernetes.authorization.Authorizer"),
    ("PathCheck", "kubernetes.authorization.PathCheck"),
    ("GroupCheck", "kubernetes.authorization.GroupCheck"),
    ("ResourceCheck", "kubernetes.authorization.ResourceCheck"),
    ("Decision", "kubernetes.authorization.Decision"),
];

// === signatures ===

/// The tables are tested, so a malformed signature is a bug of ours and panics.
fn overload(def: &'static Def) -> Overload {
    let (head, result) = def.signature.split_once(" -> ").expect("a signature has a result");
    let (target, args) = match head.split_once(".(") {
        Some((target, args)) => (Some(target), args),
        None => (None, head.strip_prefix('(').expect("a signature has arguments")),
    };
    let args = args.strip_suffix(')').expect("arguments end");
    let types = target.into_iter().chain(split(args)).map(read).collect();
    Overload { id: def.id, is_member: target.is_some(), args: types, result: read(result), run: def.run }
}

/// At commas that are not within parentheses.
fn split(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(text[start..i].trim());
                start = i + 1;
            }
            _ => {}
        }
    }
    if !text.trim().is_empty() {
        parts.push(text[start..].trim());
    }
    parts
}

fn read(text: &str) -> Type {
    if let Some((name, inner)) = text.split_once('(') {
        let inner = split(inner.strip_suffix(')').expect("parentheses close"));
        return match (name, inner.as_slice()) {
            ("list", [item]) => Type::list(read(item)),
            ("map", [key, value]) => Type::map(read(key), read(value)),
            ("optional", [value]) => Type::optional(read(value)),
            ("type", [of]) => Type::Type(Some(Arc::new(read(of)))),
            _ => unreachable!("no such type constructor: {text}"),
        };
    }
    match text {
        "dyn" => Type::Dyn,
        "null" => Type::Null,
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::String,
        "bytes" => Type::Bytes,
        "timestamp" => Type::Timestamp,
        "duration" => Type::Duration,
        "type" => Type::Type(None),
        _ => match LIBRARY_TYPES.iter().find(|(short, _)| *short == text) {
            Some((_, full)) => Type::Library(full),
            None => Type::Param(text.chars().next().expect("a type has a name")),
        },
    }
}

/// Whether a value may be an argument of this type. What is within lists and maps is not looked at.
pub(super) fn accepts(ty: &Type, value: &Value) -> bool {
    match (ty, value) {
        (Type::Dyn | Type::Param(_) | Type::Free(_) | Type::Error, _) => true,
        (Type::Bool, Value::Bool(_))
        | (Type::Int, Value::Int(_))
        | (Type::Uint, Value::Uint(_))
        | (Type::Double, Value::Double(_))
        | (Type::String, Value::String(_))
        | (Type::Bytes, Value::Bytes(_))
        | (Type::Null, Value::Null)
        | (Type::Timestamp, Value::Timestamp(_))
        | (Type::Duration, Value::Duration(_))
        | (Type::List(_), Value::List(_))
        // Objects without a schema are maps.
        | (Type::Map(_), Value::Map(_) | Value::Object(_))
        | (Type::Optional(_), Value::Optional(_))
        | (Type::Type(_), Value::Type(_)) => true,
        (Type::Library(name), value) => *name == &*value.type_name(),
        (Type::Object(object), Value::Object(value)) => object.name == value.name,
        _ => false,
    }
}

/// Runs the first overload that takes these values.
pub(super) fn run(overloads: &'static [Overload], is_member: bool, args: &[Value]) -> Answer {
    let fits = |o: &&Overload| {
        o.is_member == is_member && o.args.len() == args.len() && o.args.iter().zip(args).all(|(t, v)| accepts(t, v))
    };
    match overloads.iter().find(fits) {
        Some(overload) => (overload.run)(args),
        None => Err(EvalError::no_overload()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_is_read() {
        assert!(FUNCTIONS.len() > 100);
        for (name, overloads) in FUNCTIONS.iter() {
            for overload in overloads {
                assert!(!overload.id.is_empty(), "{name}");
            }
        }
    }
}
