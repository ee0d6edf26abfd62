//! Values against schemas, with the errors of `kube-openapi/pkg/validation/validate` as
//! `apiextensions-apiserver/pkg/apiserver/validation/{validation,ratcheting}.go` shows them.
//!
//! Ratcheting: what a value had wrong before may stay as it is, as long as it is not touched.

use super::formats::{is_known, matches};
use super::structural::{Additional, Structural, Values};
use crate::field::{ErrorType, Errors, FieldError, Path};
use serde_json::{Map, Number, Value};
use std::collections::BTreeSet;
use std::fmt;

/// All mistakes of a new value. `at` is where the value is in the object; the root path for a whole one.
pub(super) fn validate(schema: &Structural, value: &Value, at: &Path) -> Errors {
    check(schema, value, "", None).into_errors(at)
}

/// Mistakes of a changed value that are new.
pub(super) fn validate_update(schema: &Structural, new: &Value, old: Option<&Value>, at: &Path) -> Errors {
    let node = old.map(|old| Node { new, old, schema });
    ratcheted(schema, new, "", node).into_errors(at)
}

// === results ===

/// A mistake before it has its place in the object.
#[derive(Debug, Clone)]
struct Wrong {
    /// Dotted path below the validated value; `None` for what upstream reports without one.
    name: Option<String>,
    kind: Code,
    message: String,
    value: Option<Value>,
}

#[derive(Debug, Clone)]
enum Code {
    Required,
    Enum(Vec<Value>),
    TooLong(i64),
    TooMany { actual: usize, most: i64 },
    Type,
    Other,
}

/// Mistakes, and how much was right: of several alternatives, upstream shows the one that fits best.
#[derive(Debug, Default)]
struct Outcome {
    wrong: Vec<Wrong>,
    right: usize,
}

impl Outcome {
    fn add(&mut self, wrong: Wrong) {
        if self.wrong.iter().all(|w| w.message != wrong.message) {
            self.wrong.push(wrong);
        }
    }

    fn merge(&mut self, other: Outcome) {
        other.wrong.into_iter().for_each(|w| self.add(w));
        self.right += other.right;
    }

    fn fails(&self) -> bool {
        !self.wrong.is_empty()
    }

    fn into_errors(self, at: &Path) -> Errors {
        self.wrong.into_iter().map(|w| w.into_error(at)).collect()
    }
}

impl Wrong {
    fn new(path: &str, kind: Code, value: Option<Value>, message: String) -> Self {
        Wrong { name: Some(path.to_owned()), kind, message, value }
    }

    fn other(path: &str, value: impl Into<Value>, message: String) -> Self {
        Self::new(path, Code::Other, Some(value.into()), message)
    }

    fn bare(message: String) -> Self {
        Wrong { name: None, kind: Code::Other, message, value: None }
    }

    fn into_error(self, at: &Path) -> FieldError {
        let name = self.name.as_deref().unwrap_or_default().trim_start_matches('.');
        let path = if name.is_empty() { at.clone() } else { at.child(name) };
        let shown = self.value.unwrap_or_else(|| "".into());
        let invalid = |kind: ErrorType| FieldError {
            kind,
            path: path.clone(),
            body: format!("Invalid value: {}: {}", show(&shown), self.message),
        };
        match self.kind {
            Code::Required => FieldError::required(&path, ""),
            Code::Enum(values) => {
                let texts: Vec<String> =
                    values.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
                let supported: Vec<&str> = texts.iter().map(String::as_str).collect();
                let value = if shown.is_null() { Value::from("null") } else { shown };
                FieldError::not_supported(&path, &value, &supported)
            }
            Code::TooLong(most) => FieldError::too_long(&path, usize::try_from(most).unwrap_or_default()),
            Code::TooMany { actual, most } => {
                FieldError::too_many(&path, actual, usize::try_from(most).unwrap_or_default())
            }
            Code::Type => invalid(ErrorType::TypeInvalid),
            Code::Other => invalid(ErrorType::Invalid),
        }
    }
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "\"null\"".to_owned(),
        Value::Number(n) if n.as_i64().is_none() => n.as_f64().map_or_else(|| n.to_string(), float),
        other => other.to_string(),
    }
}

// === old and new ===

/// A value with the one it was before (`apiserver/pkg/cel/common/equality.go`).
#[derive(Clone, Copy)]
pub(super) struct Node<'a> {
    pub(super) new: &'a Value,
    pub(super) old: &'a Value,
    pub(super) schema: &'a Structural,
}

impl<'a> Node<'a> {
    pub(super) fn key(self, name: &str) -> Option<Node<'a>> {
        Some(Node { new: self.new.get(name)?, old: self.old.get(name)?, schema: self.schema.child(name)? })
    }

    /// Items are told apart by their keys; other lists have none.
    pub(super) fn index(self, index: usize) -> Option<Node<'a>> {
        if self.schema.list_type.as_deref() != Some("map") {
            return None;
        }
        let item = self.new.get(index)?;
        let schema = self.schema.items.as_deref()?;
        let of =
            |v: &'a Value| -> Vec<Option<&'a Value>> { self.schema.list_map_keys.iter().map(|k| v.get(k)).collect() };
        let keys = of(item);
        let old = self.old.as_array()?.iter().find(|old| old.is_object() && of(old) == keys)?;
        Some(Node { new: item, old, schema })
    }

    pub(super) fn is_unchanged(self) -> bool {
        match (self.old, self.new) {
            (Value::Array(old), Value::Array(new)) if self.schema.list_type.as_deref() == Some("map") => {
                old.len() == new.len() && (0..new.len()).all(|i| self.index(i).is_some_and(Node::is_unchanged))
            }
            (Value::Object(old), Value::Object(new)) => {
                old.len() == new.len() && new.keys().all(|key| self.key(key).is_some_and(Node::is_unchanged))
            }
            (old, new) => old == new,
        }
    }
}

// === the validators, in upstream's order ===

fn ratcheted(schema: &Structural, value: &Value, path: &str, node: Option<Node<'_>>) -> Outcome {
    let outcome = check(schema, value, path, node);
    if outcome.fails() && node.is_some_and(Node::is_unchanged) {
        return Outcome { wrong: Vec::new(), right: outcome.right };
    }
    outcome
}

fn check(schema: &Structural, value: &Value, path: &str, node: Option<Node<'_>>) -> Outcome {
    let mut out = Outcome::default();
    let format = format_of(schema);
    if value.is_null() {
        out.merge(check_type(schema, format, value, path));
        out.merge(check_enum(&schema.values, value, path));
        return out;
    }
    let mut step = |result: Outcome| {
        out.merge(result);
        out.right += 1;
    };
    if !types(schema).is_empty() || !format.is_empty() {
        step(check_type(schema, format, value, path));
    }
    step(check_junctors(&schema.values, value, path, node));
    match value {
        Value::String(text) => {
            step(check_text(&schema.values, text, path));
            if is_known(format) {
                step(check_format(format, text, path));
            }
        }
        Value::Number(number) => step(check_number(schema, format, number, path)),
        Value::Array(items) => step(check_items(schema, items, path, node)),
        _ => {}
    }
    step(check_enum(&schema.values, value, path));
    if let Value::Object(fields) = value {
        step(check_fields(schema, fields, path, node));
    }
    out.right += 1;
    out
}

/// A single mistake, or something right that counts nothing by itself.
fn one(wrong: Option<Wrong>) -> Outcome {
    Outcome { wrong: wrong.into_iter().collect(), right: 0 }
}

fn types(schema: &Structural) -> Vec<&str> {
    if schema.int_or_string {
        return vec!["integer", "string"];
    }
    if schema.ty.is_empty() { Vec::new() } else { vec![&schema.ty] }
}

/// The format, if it means something for the type (`StripUnsupportedFormatsPostProcess`).
fn format_of(schema: &Structural) -> &str {
    let format = schema.values.format.as_str();
    let known = match if schema.int_or_string { "" } else { schema.ty.as_str() } {
        "" | "string" => is_known(format),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if known { format } else { "" }
}

fn is_whole(number: &Number) -> bool {
    number.as_f64().is_some_and(|f| f.fract() == 0.0 && f.abs() < 9_007_199_254_740_992.0)
}

/// The type of a value, and the format that its representation implies.
fn type_of(value: &Value) -> (&'static str, &'static str) {
    match value {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        // Integers beyond Go's are floats.
        Value::Number(n) if n.as_i64().is_none() => ("number", "float64"),
        Value::Number(_) => ("integer", "int64"),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
    }
}

fn wrong_type(path: &str, wanted: &str, found: &str) -> Outcome {
    let message = format!("{path} in body must be of type {wanted}: {found:?}");
    one(Some(Wrong::new(path, Code::Type, Some(found.into()), message)))
}

fn check_type(schema: &Structural, format: &str, value: &Value, path: &str) -> Outcome {
    let types = types(schema);
    let right = Outcome { wrong: Vec::new(), right: 1 };
    let (found, implied) = type_of(value);
    if value.is_null() {
        let fits = types.is_empty() || schema.nullable;
        return if fits { right } else { wrong_type(path, &types.join(","), found) };
    }
    let has = |name: &str| types.contains(&name);
    let whole_float = matches!(value, Value::Number(n) if n.is_f64() && is_whole(n)) && has("integer");
    let fits = has(found) || whole_float || (found == "integer" && has("number"));
    let textual = matches!(value, Value::String(_) | Value::Array(_));
    let misfits = !fits && implied != format;
    if !textual && !format.is_empty() && misfits {
        return wrong_type(path, format, implied);
    }
    if !has("number") && !has("integer") && !format.is_empty() && textual {
        return right;
    }
    if fits { right } else { wrong_type(path, &types.join(","), found) }
}

fn check_enum(values: &Values, value: &Value, path: &str) -> Outcome {
    let allowed = &values.one_of_values;
    let same = |a: &Value| match (a, value) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => !a.is_null() && a == b,
    };
    if allowed.is_empty() || allowed.iter().any(same) {
        return Outcome::default();
    }
    let list: Vec<String> = allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
    let message = format!("{path} in body should be one of [{}]", list.join(" "));
    one(Some(Wrong::new(path, Code::Enum(allowed.clone()), Some(value.clone()), message)))
}

fn check_text(values: &Values, text: &str, path: &str) -> Outcome {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    if let Some(most) = values.max_length.filter(|most| length > *most) {
        let message = format!("{path} in body should be at most {most} chars long");
        return one(Some(Wrong::new(path, Code::TooLong(most), Some(text.into()), message)));
    }
    if let Some(least) = values.min_length.filter(|least| length < *least) {
        return one(Some(Wrong::other(path, text, format!("{path} in body should be at least {least} chars long"))));
    }
    let Some(pattern) = &values.pattern else { return Outcome::default() };
    let shown = match pattern.regex() {
        Ok(regex) if regex.is_match(text) => return Outcome::default(),
        Ok(_) => pattern.text().to_owned(),
        Err(error) => format!("{}, but pattern is invalid: {error}", pattern.text()),
    };
    one(Some(Wrong::other(path, text, format!("{path} in body should match '{shown}'"))))
}

fn check_format(format: &str, text: &str, path: &str) -> Outcome {
    if matches(format, text) {
        return Outcome::default();
    }
    let message = format!("{path} in body must be of type {format}: {text:?}");
    one(Some(Wrong::new(path, Code::Type, Some(text.into()), message)))
}

// === numbers ===

/// `%v` of a float64.
fn float(value: f64) -> String {
    let plain = value == 0.0 || (1e-4..1e6).contains(&value.abs());
    if plain {
        return value.to_string();
    }
    let text = format!("{value:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, power) = exponent.strip_prefix('-').map_or(('+', exponent), |power| ('-', power));
            format!("{digits}e{sign}{power:0>2}")
        }
        None => text,
    }
}

/// Whether a number is one of the type and format (`IsValueValidAgainstRange`).
fn out_of_range(value: f64, whole: Option<i64>, ty: &str, format: &str, what: &str, path: &str) -> Option<Wrong> {
    let as_int = whole.or_else(|| {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        (value.fract() == 0.0 && value.abs() < 9.2e18).then_some(value as i64)
    });
    let fits = match (ty, format) {
        ("integer", "int32") => as_int.is_some_and(|i| i32::try_from(i).is_ok()),
        ("integer", _) => as_int.is_some(),
        (_, "float") => value.abs() <= f64::from(f32::MAX),
        _ => true,
    };
    let of = if format.is_empty() { "(default format)".to_owned() } else { format!("with format {format}") };
    (!fits).then(|| Wrong::bare(format!("{what} value must be of type {ty} {of} in {path}")))
}

fn check_number(schema: &Structural, format: &str, number: &Number, path: &str) -> Outcome {
    let mut out = Outcome { wrong: Vec::new(), right: 1 };
    let Some(value) = number.as_f64() else { return out };
    let whole = number.as_i64();
    let ty = match schema.ty.as_str() {
        ty @ ("integer" | "number") if !schema.int_or_string => ty,
        _ => "",
    };
    let format = if ty.is_empty() { "" } else { format };
    out.wrong.extend(out_of_range(value, whole, ty, format, "Checked", path));
    let values = &schema.values;
    let limit = |limit: f64, what: &str, out: &mut Outcome| {
        let wrong = out_of_range(limit, None, ty, format, what, path);
        // An integer is compared with the whole part of a limit that fits, as upstream's conversion to int64 leaves it.
        let is_whole = whole.is_some() && wrong.is_none();
        out.wrong.extend(wrong);
        Limit { value: if is_whole { limit.trunc() } else { limit }, is_whole }
    };
    if let Some(factor) = values.multiple_of {
        let factor = limit(factor, "MultipleOf", &mut out);
        out.wrong.extend(not_multiple(number, factor, path));
    }
    if let Some(least) = values.minimum {
        let least = limit(least, "Minimum boundary", &mut out);
        let (exceeds, text) = match values.exclusive_minimum {
            true => (value <= least.value, "greater than"),
            false => (value < least.value, "greater than or equal to"),
        };
        if exceeds {
            out.add(Wrong::other(path, number.clone(), format!("{path} in body should be {text} {least}")));
        }
    }
    if let Some(most) = values.maximum {
        let most = limit(most, "Maximum boundary", &mut out);
        let (exceeds, text) = match values.exclusive_maximum {
            true => (value >= most.value, "less than"),
            false => (value > most.value, "less than or equal to"),
        };
        if exceeds {
            out.add(Wrong::other(path, number.clone(), format!("{path} in body should be {text} {most}")));
        }
    }
    out
}

/// A bound or factor that a number is compared with.
#[derive(Clone, Copy)]
struct Limit {
    value: f64,
    /// As an integer.
    is_whole: bool,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // An integer of Go's prints all its digits.
        if self.is_whole { write!(f, "{}", self.value) } else { f.write_str(&float(self.value)) }
    }
}

/// `MultipleOfNativeType`
fn not_multiple(number: &Number, factor: Limit, path: &str) -> Option<Wrong> {
    if factor.value <= 0.0 {
        let message = format!("factor MultipleOf declared for {path} must be positive: {factor}");
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        let shown = if factor.value.fract() == 0.0 { Value::from(factor.value as i64) } else { factor.value.into() };
        return Some(Wrong::other(path, shown, message));
    }
    let value = number.as_f64()?;
    let fits = match number.as_i64().filter(|_| factor.is_whole) {
        #[expect(clippy::cast_possible_truncation, reason = "checked to be whole and in range")]
        Some(whole) => whole % (factor.value as i64) == 0,
        None if factor.value < 1.0 => is_nearly_whole(1.0 / factor.value * value),
        None => is_nearly_whole(value / factor.value),
    };
    (!fits).then(|| Wrong::other(path, number.clone(), format!("{path} in body should be a multiple of {factor}")))
}

/// `IsFloat64AJSONInteger` (`go-openapi/swag/conv/convert.go`).
fn is_nearly_whole(value: f64) -> bool {
    const EPSILON: f64 = 1e-9;
    const MOST: f64 = 9_007_199_254_740_991.0;
    let rounded = value.round();
    value.abs() <= MOST && (value == rounded || rounded != 0.0 && (value - rounded).abs() < EPSILON * rounded.abs())
}

// === containers ===

fn check_items(schema: &Structural, items: &[Value], path: &str, node: Option<Node<'_>>) -> Outcome {
    let mut out = Outcome { wrong: Vec::new(), right: 1 };
    if let Some(of) = &schema.items {
        for (i, item) in items.iter().enumerate() {
            out.merge(ratcheted(of, item, &format!("{path}[{i}]"), node.and_then(|n| n.index(i))));
        }
    }
    let count = i64::try_from(items.len()).unwrap_or(i64::MAX);
    let values = &schema.values;
    if let Some(least) = values.min_items.filter(|least| count < *least) {
        out.add(Wrong::other(path, count, format!("{path} in body should have at least {least} items")));
    }
    if let Some(most) = values.max_items.filter(|most| count > *most) {
        let message = format!("{path} in body should have at most {most} items");
        out.add(Wrong::new(path, Code::TooMany { actual: items.len(), most }, Some(count.into()), message));
    }
    if values.unique_items {
        let texts: BTreeSet<String> = items.iter().map(Value::to_string).collect();
        if texts.len() < items.len() {
            let message = format!("{path} in body shouldn't contain duplicates");
            out.add(Wrong::new(path, Code::Other, None, message));
        }
    }
    out
}

fn check_fields(schema: &Structural, fields: &Map<String, Value>, path: &str, node: Option<Node<'_>>) -> Outcome {
    let mut out = Outcome::default();
    let count = i64::try_from(fields.len()).unwrap_or(i64::MAX);
    let values = &schema.values;
    if let Some(least) = values.min_properties.filter(|least| count < *least) {
        out.add(Wrong::other(path, count, format!("{path} in body should have at least {least} properties")));
    }
    if let Some(most) = values.max_properties.filter(|most| count > *most) {
        let message = format!("{path} in body should have at most {most} properties");
        out.add(Wrong::new(path, Code::TooMany { actual: fields.len(), most }, Some(count.into()), message));
    }
    // The versions of root objects are not visible to old and new alike, so they are never ratcheted.
    let below = |key: &str| node.filter(|_| !(path.is_empty() && matches!(key, "kind" | "apiVersion")))?.key(key);
    for (key, value) in fields.iter().filter(|(key, _)| !schema.properties.contains_key(*key)) {
        match &schema.additional {
            Some(Additional::Allowed(false)) => {
                out.add(Wrong::other(path, key.as_str(), format!("{path}.{key} in body is a forbidden property")));
            }
            Some(Additional::Schema(of)) => out.merge(ratcheted(of, value, &format!("{path}.{key}"), below(key))),
            _ => {}
        }
    }
    for (key, of) in &schema.properties {
        if let Some(value) = fields.get(key) {
            let name = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            out.merge(ratcheted(of, value, &name, below(key)));
        }
    }
    for key in values.required.iter().filter(|key| !fields.contains_key(*key)) {
        let name = format!("{path}.{key}");
        out.add(Wrong::new(&name, Code::Required, None, format!("{name} in body is required")));
    }
    out
}

fn check_junctors(values: &Values, value: &Value, path: &str, node: Option<Node<'_>>) -> Outcome {
    let mut out = Outcome::default();
    if !values.any_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut fits = false;
        for schema in &values.any_of {
            let result = check(schema, value, path, node);
            if !result.fails() {
                best = Some(result);
                fits = true;
                break;
            }
            if best.as_ref().is_none_or(|b| result.right > b.right) {
                best = Some(result);
            }
        }
        if !fits {
            out.add(Wrong::bare(format!("{path:?} must validate at least one schema (anyOf)")));
        }
        out.merge(best.unwrap_or_default());
    }
    if !values.one_of.is_empty() {
        let mut best: Option<Outcome> = None;
        let mut first: Option<Outcome> = None;
        let mut fitting = 0;
        for schema in &values.one_of {
            let result = check(schema, value, path, node);
            if !result.fails() {
                fitting += 1;
                best = None;
                first.get_or_insert(result);
            } else if fitting == 0 && best.as_ref().is_none_or(|b| result.right > b.right) {
                best = Some(result);
            }
        }
        if fitting == 1 {
            out.merge(first.unwrap_or_default());
        } else {
            let found = match fitting {
                0 => "Found none valid".to_owned(),
                n => format!("Found {n} valid alternatives"),
            };
            out.add(Wrong::bare(format!("{path:?} must validate one and only one schema (oneOf). {found}")));
            out.merge(best.unwrap_or_default());
        }
    }
    if !values.all_of.is_empty() {
        let mut fitting = 0;
        for schema in &values.all_of {
            let result = check(schema, value, path, node);
            fitting += usize::from(!result.fails());
            out.merge(result);
        }
        if fitting != values.all_of.len() {
            let none = if fitting == 0 { ". None validated" } else { "" };
            out.add(Wrong::bare(format!("{path:?} must validate all the schemas (allOf){none}")));
        }
    }
    if let Some(not) = &values.not
        && !check(not, value, path, node).fails()
    {
        out.add(Wrong::bare(format!("{path:?} must not validate the schema (not)")));
    }
    out.right += 1;
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn wrong(schema: Value, value: Value) -> String {
        let schema = serde_json::from_value(schema).expect("a schema");
        let errors = validate(&Structural::of(&schema), &value, &Path::new("x"));
        errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn limits_are_compared_as_the_numbers_they_are_of() {
        let schema = |limits: &str| -> Value {
            let text = format!(r#"{{"type":"integer","format":"int32",{limits}}}"#);
            serde_json::from_str(&text).expect("JSON")
        };
        let check = |limits: &str, value: i64, expected: &str| {
            assert_eq!(wrong(schema(limits), json!(value)), expected, "{limits} of {value}");
        };
        check(r#""multipleOf":2147483647"#, 1, "x: Invalid value: 1:  in body should be a multiple of 2147483647");
        check(r#""multipleOf":3"#, 9, "");
        check(r#""maximum":10,"exclusiveMaximum":true"#, 10, "x: Invalid value: 10:  in body should be less than 10");
        let zero = "x: Invalid value: 0: factor MultipleOf declared for  must be positive: 0";
        check(r#""multipleOf":0"#, 1, zero);
        let tenth = json!({"type": "number", "multipleOf": 0.1});
        assert_eq!(wrong(tenth.clone(), json!(0.3)), "");
        assert_eq!(wrong(tenth, json!(0.35)), "x: Invalid value: 0.35:  in body should be a multiple of 0.1");
        let huge = json!({"type": "number", "minimum": 1e7});
        assert_eq!(wrong(huge, json!(1.5)), "x: Invalid value: 1.5:  in body should be greater than or equal to 1e+07");
    }
}
