//! ConfigMap (`pkg/registry/core/configmap/strategy.go`, `ValidateConfigMap`).

use super::common::{age, age_column, name, name_column, typed_column};
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{Messages, invalid_each, is_config_map_key, is_dns1123_subdomain};
use api::prelude::ConfigMap;
use serde_json::Value;

/// Most bytes of data, also of a Secret.
pub(super) const MAX_DATA: usize = 1 << 20;

/// What is particular about a ConfigMap: size, keys, and that an immutable one stays as it is.
pub(super) struct ConfigMapKind;

impl Strategy for ConfigMapKind {
    type Object = ConfigMap;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(map: &ConfigMap) -> Errors {
        let mut errors = Vec::new();
        let mut size = 0;
        for (key, value) in map.data.iter().flatten() {
            errors.extend(invalid_each(&Path::new("data").key(key), key, is_config_map_key(key)));
            if map.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                let detail = "duplicate of key present in binaryData";
                errors.push(FieldError::invalid(&Path::new("data").key(key), key, detail));
            }
            size += value.len();
        }
        for (key, value) in map.binary_data.iter().flatten() {
            errors.extend(invalid_each(&Path::new("binaryData").key(key), key, is_config_map_key(key)));
            size += value.0.len();
        }
        if size > MAX_DATA {
            // Upstream prints a path without a name so.
            errors.push(FieldError::too_long(&Path::new("[]"), MAX_DATA));
        }
        errors
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap) -> Errors {
        let mut errors = Vec::new();
        if old.immutable == Some(true) {
            let detail = "field is immutable when `immutable` is set";
            if new.immutable != Some(true) {
                errors.push(FieldError::forbidden(&Path::new("immutable"), detail));
            }
            if new.data.iter().flatten().ne(old.data.iter().flatten()) {
                errors.push(FieldError::forbidden(&Path::new("data"), detail));
            }
            if new.binary_data.iter().flatten().ne(old.binary_data.iter().flatten()) {
                errors.push(FieldError::forbidden(&Path::new("binaryData"), detail));
            }
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), typed_column("Data", "string"), age_column()]
    }

    fn cells(map: &ConfigMap, now: jiff::Timestamp) -> Vec<Value> {
        let count = map.data.iter().flatten().count() + map.binary_data.iter().flatten().count();
        vec![name(map), count.into(), age(map, now)]
    }
}
