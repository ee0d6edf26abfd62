//! [`Structural`]: the schema of one version of a CustomResourceDefinition, read once
//! (`apiextensions-apiserver/pkg/apiserver/schema/{structural,convert}.go`).
//!
//! Junctors (`allOf` and so on) hold the same type: what may not stand in them is refused when the definition is validated
//! ([`super::check`]), so that those who walk an accepted schema need not care.

use crate::go_regex::Pattern;
use crate::json;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool, ValidationRule,
};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What a value may look like.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Structural {
    /// `object`, `array`, `string`, `integer`, `number`, `boolean`, or empty.
    pub ty: String,
    /// Null is a value.
    pub nullable: bool,
    /// What stands for an absent value.
    pub default: Option<Value>,
    /// Items of an array.
    pub items: Option<Box<Structural>>,
    /// Fields of an object. Boxed: a leaf of a map has room for eleven entries, and most objects have few fields.
    pub properties: BTreeMap<String, Box<Structural>>,
    /// Keys that are no fields.
    pub additional: Option<Additional>,
    /// `x-kubernetes-preserve-unknown-fields`
    pub preserve_unknown: bool,
    /// `x-kubernetes-embedded-resource`
    pub embedded: bool,
    /// `x-kubernetes-int-or-string`
    pub int_or_string: bool,
    /// `x-kubernetes-list-type`
    pub list_type: Option<String>,
    /// `x-kubernetes-list-map-keys`
    pub list_map_keys: Vec<String>,
    /// `x-kubernetes-map-type`
    pub map_type: Option<String>,
    /// What values may be.
    pub values: Values,
    /// `x-kubernetes-validations`
    pub rules: Vec<ValidationRule>,
}

/// `additionalProperties`
#[derive(Debug, Clone, PartialEq)]
pub enum Additional {
    /// `true` or `false`.
    Allowed(bool),
    /// All of one form.
    Schema(Box<Structural>),
}

/// The part of a schema that restricts values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Values {
    /// `int32`, `date-time`, …
    pub format: String,
    /// `maximum`
    pub maximum: Option<f64>,
    /// `exclusiveMaximum`
    pub exclusive_maximum: bool,
    /// `minimum`
    pub minimum: Option<f64>,
    /// `exclusiveMinimum`
    pub exclusive_minimum: bool,
    /// `multipleOf`
    pub multiple_of: Option<f64>,
    /// `maxLength`
    pub max_length: Option<i64>,
    /// `minLength`
    pub min_length: Option<i64>,
    /// `pattern`
    pub pattern: Option<Arc<Pattern>>,
    /// `maxItems`
    pub max_items: Option<i64>,
    /// `minItems`
    pub min_items: Option<i64>,
    /// `uniqueItems`
    pub unique_items: bool,
    /// `maxProperties`
    pub max_properties: Option<i64>,
    /// `minProperties`
    pub min_properties: Option<i64>,
    /// `required`
    pub required: Vec<String>,
    /// `enum`
    pub one_of_values: Vec<Value>,
    /// `allOf`
    pub all_of: Vec<Structural>,
    /// `anyOf`
    pub any_of: Vec<Structural>,
    /// `oneOf`
    pub one_of: Vec<Structural>,
    /// `not`
    pub not: Option<Box<Structural>>,
}

impl Structural {
    /// Reads a schema. What structural schemas do not know (`$ref`, `patternProperties`, …) is left out.
    pub fn of(props: &JSONSchemaProps) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let flag = |field: Option<bool>| field == Some(true);
        let all = |list: &Option<Vec<JSONSchemaProps>>| list.iter().flatten().map(Structural::of).collect();
        Structural {
            ty: text(&props.type_),
            nullable: flag(props.nullable),
            default: props.default.as_ref().map(|d| d.0.clone()),
            items: match &props.items {
                Some(JSONSchemaPropsOrArray::Schema(items)) => Some(Box::new(Structural::of(items))),
                _ => None,
            },
            properties: props
                .properties
                .iter()
                .flatten()
                .map(|(k, v)| (k.clone(), Box::new(Structural::of(v))))
                .collect(),
            additional: props.additional_properties.as_ref().map(|additional| match additional {
                JSONSchemaPropsOrBool::Bool(allowed) => Additional::Allowed(*allowed),
                JSONSchemaPropsOrBool::Schema(schema) => Additional::Schema(Box::new(Structural::of(schema))),
            }),
            preserve_unknown: flag(props.x_kubernetes_preserve_unknown_fields),
            embedded: flag(props.x_kubernetes_embedded_resource),
            int_or_string: flag(props.x_kubernetes_int_or_string),
            list_type: props.x_kubernetes_list_type.clone(),
            list_map_keys: props.x_kubernetes_list_map_keys.clone().unwrap_or_default(),
            map_type: props.x_kubernetes_map_type.clone(),
            values: Values {
                format: text(&props.format),
                maximum: props.maximum,
                exclusive_maximum: flag(props.exclusive_maximum),
                minimum: props.minimum,
                exclusive_minimum: flag(props.exclusive_minimum),
                multiple_of: props.multiple_of,
                max_length: props.max_length,
                min_length: props.min_length,
                pattern: props.pattern.as_deref().filter(|p| !p.is_empty()).map(Pattern::new),
                max_items: props.max_items,
                min_items: props.min_items,
                unique_items: flag(props.unique_items),
                max_properties: props.max_properties,
                min_properties: props.min_properties,
                required: props.required.clone().unwrap_or_default(),
                one_of_values: props.enum_.iter().flatten().map(|v| whole(&v.0)).collect(),
                all_of: all(&props.all_of),
                any_of: all(&props.any_of),
                one_of: all(&props.one_of),
                not: props.not.as_ref().map(|not| Box::new(Structural::of(not))),
            },
            rules: props.x_kubernetes_validations.clone().unwrap_or_default(),
        }
    }

    /// The schema of keys that are no fields, if they have one.
    pub fn additional_schema(&self) -> Option<&Structural> {
        match &self.additional {
            Some(Additional::Schema(schema)) => Some(schema),
            _ => None,
        }
    }

    /// The schema of a key of an object: the field's, or that of all other keys.
    pub fn child(&self, key: &str) -> Option<&Structural> {
        self.properties.get(key).map(Box::as_ref).or_else(|| self.additional_schema())
    }
}

/// As Go reads it: `1.0` is 1.
fn whole(value: &Value) -> Value {
    let mut value = value.clone();
    json::make_whole(&mut value);
    value
}
