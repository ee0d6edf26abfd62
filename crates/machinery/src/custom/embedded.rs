//! Resources within resources (`x-kubernetes-embedded-resource`): their identity and metadata
//! (`apiextensions-apiserver/pkg/apiserver/schema/objectmeta`).

use super::structural::Structural;
use crate::field::{Errors, FieldError, Path};
use crate::kinds::metadata;
use crate::schema::builtin;
use crate::schema::check::check_value;
use crate::validation::{is_dns1035_label, is_path_segment_name};
use api::{Codec, ObjectMeta};
use serde_json::{Map, Value};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Metadata as the server's type reads it, with the paths of fields it does not know (`unknownField`); an error is a field of
/// the wrong type.
pub(super) fn read_meta(value: &Value) -> Result<(Value, Vec<String>), String> {
    let types = builtin();
    let Some(ty) = types.by_name(META) else { return Err("no type for metadata".to_owned()) };
    match check_value(&types.schema, ty, value) {
        Ok(checked) => {
            let unknown = checked.problems.iter().filter_map(|p| p.strip_prefix("unknown field \"")?.strip_suffix('"'));
            let unknown = unknown.map(str::to_owned).collect();
            Ok((checked.value, unknown))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Brings embedded resources into form: unknown metadata goes (its paths are returned), metadata of wrong types is an error, or
/// goes as well if `drop_invalid`.
pub(super) fn coerce(
    schema: &Structural,
    fields: &mut Map<String, Value>,
    drop_invalid: bool,
) -> Result<Vec<String>, FieldError> {
    let mut unknown = Vec::new();
    coerce_object(schema, fields, &Path::root(), drop_invalid, &mut unknown)?;
    unknown.sort();
    Ok(unknown)
}

fn coerce_object(
    schema: &Structural,
    fields: &mut Map<String, Value>,
    path: &Path,
    drop_invalid: bool,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    if schema.embedded {
        for key in ["apiVersion", "kind"] {
            match fields.get(key) {
                Some(value) if !value.is_string() && !drop_invalid => {
                    return Err(FieldError::invalid(&path.child(key), value, "must be a string"));
                }
                Some(value) if !value.is_string() => {
                    fields.remove(key);
                }
                _ => {}
            }
        }
        if let Some(meta) = fields.get_mut("metadata") {
            let at = path.child("metadata");
            match read_meta(meta) {
                Ok((read, extra)) => {
                    unknown.extend(extra.iter().map(|field| format!("{at}.{field}")));
                    *meta = read;
                }
                Err(_) if drop_invalid => *meta = valid_fields(meta),
                Err(why) => return Err(FieldError::invalid(&at, &*meta, &why)),
            }
        }
    }
    for (key, value) in fields.iter_mut() {
        if let Some(property) = schema.properties.get(key) {
            coerce_value(property, value, &path.child(key), drop_invalid, unknown)?;
        } else if let Some(additional) = schema.additional_schema() {
            coerce_value(additional, value, &path.key(key), drop_invalid, unknown)?;
        }
    }
    Ok(())
}

fn coerce_value(
    schema: &Structural,
    value: &mut Value,
    path: &Path,
    drop_invalid: bool,
    unknown: &mut Vec<String>,
) -> Result<(), FieldError> {
    match (value, &schema.items) {
        (Value::Object(map), _) => coerce_object(schema, map, path, drop_invalid, unknown),
        (Value::Array(items), Some(of)) => items
            .iter_mut()
            .enumerate()
            .try_for_each(|(i, item)| coerce_value(of, item, &path.index(i), drop_invalid, unknown)),
        _ => Ok(()),
    }
}

/// The fields of metadata that can be read, one by one.
pub(super) fn valid_fields(meta: &Value) -> Value {
    let fields = meta.as_object().into_iter().flatten();
    let valid = fields.filter(|(key, value)| {
        read_meta(&Value::Object(Map::from_iter([((*key).clone(), (*value).clone())]))).is_ok_and(|(_, u)| u.is_empty())
    });
    Value::Object(valid.map(|(k, v)| (k.clone(), v.clone())).collect())
}

/// Mistakes in the identity and metadata of embedded resources.
pub(super) fn validate(schema: &Structural, value: &Value, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match value {
        Value::Object(map) => {
            if schema.embedded {
                errors.extend(validate_resource(map, path));
            }
            for (key, value) in map {
                if let Some(property) = schema.properties.get(key) {
                    errors.extend(validate(property, value, &path.child(key)));
                } else if let Some(additional) = schema.additional_schema() {
                    errors.extend(validate(additional, value, &path.key(key)));
                }
            }
        }
        Value::Array(items) => {
            if let Some(of) = &schema.items {
                errors.extend(items.iter().enumerate().flat_map(|(i, item)| validate(of, item, &path.index(i))));
            }
        }
        _ => {}
    }
    errors
}

fn validate_resource(fields: &Map<String, Value>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for key in ["apiVersion", "kind"] {
        let at = path.child(key);
        match fields.get(key) {
            None => errors.push(FieldError::required(&at, "")),
            Some(Value::String(text)) if text.is_empty() => {
                errors.push(FieldError::invalid(&at, text, "must not be empty"));
            }
            Some(Value::String(text)) if key == "apiVersion" && text.matches('/').count() > 1 => {
                errors.push(FieldError::invalid(&at, text, &format!("unexpected GroupVersion string: {text}")));
            }
            Some(Value::String(text)) if key == "kind" => {
                let wrong = is_dns1035_label(&text.to_lowercase());
                if !wrong.is_empty() {
                    let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
                    errors.push(FieldError::invalid(&at, text, &detail));
                }
            }
            Some(Value::String(_)) => {}
            Some(other) => errors.push(FieldError::invalid(&at, other, "must be a string")),
        }
    }
    let Some(meta) = fields.get("metadata") else { return errors };
    let at = path.child("metadata");
    match ObjectMeta::decode(meta.to_string().as_bytes()) {
        Err(error) => errors.push(FieldError::invalid(&at, meta, &error.source.to_string())),
        Ok(mut meta) => {
            if meta.name.as_deref().unwrap_or_default().is_empty() {
                // Embedded resources need no name.
                meta.name = Some("fakename".to_owned());
            }
            let namespaced = !meta.namespace.as_deref().unwrap_or_default().is_empty();
            errors.extend(metadata::validate_at(&meta, namespaced, is_path_segment_name, &at));
        }
    }
    errors
}
