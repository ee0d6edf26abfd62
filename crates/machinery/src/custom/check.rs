//! Whether the schema of a CustomResourceDefinition may be used
//! (`apiextensions-apiserver/pkg/apis/apiextensions/validation/validation.go`, `pkg/apiserver/schema/validation.go`,
//! `pkg/apiserver/schema/defaulting/validation.go`).

use super::rules::{self, Part, Rules, Trial};
use super::structural::{Additional, Structural};
use super::{embedded, prune, validate};
use crate::field::{Errors, FieldError, Path};
use crate::go_regex::Pattern;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinitionSpec, CustomResourceDefinitionVersion, JSONSchemaProps, JSONSchemaPropsOrArray,
    JSONSchemaPropsOrBool, SelectableField,
};
use serde_json::{Value, json};
use std::collections::HashSet;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const META: [&str; 3] = ["metadata", "kind", "apiVersion"];
/// `MaxSelectableFields`
const MAX_SELECTABLE: usize = 8;

/// Whether a PEM bundle has certificates; an empty one is fine.
pub fn is_ca_bundle(bundle: &[u8]) -> bool {
    let text = bundle.trim_ascii();
    if text.is_empty() {
        return true;
    }
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let blocks = text.split("-----BEGIN CERTIFICATE-----").skip(1);
    let mut count = 0;
    for block in blocks {
        let Some((body, _)) = block.split_once("-----END CERTIFICATE-----") else { return false };
        let body: String = body.split_whitespace().collect();
        use base64::Engine;
        match base64::engine::general_purpose::STANDARD.decode(body) {
            // A certificate is a DER sequence.
            Ok(der) if der.first() == Some(&0x30) => count += 1,
            _ => return false,
        }
    }
    count > 0
}

/// Groups of the Kubernetes community.
pub fn is_protected_group(group: &str) -> bool {
    let within = |domain: &str| group.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
    within("k8s.io") || within("kubernetes.io")
}

/// What an existing definition has wrong may stay as it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strictness {
    types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
    rule_costs: bool,
}

impl Strictness {
    /// Of a new definition.
    pub(crate) const FULL: Strictness = Strictness {
        types: true,
        structural: true,
        pruned_defaults: true,
        atomic_sets: true,
        map_keys: true,
        rule_costs: true,
    };

    /// Of a changed one.
    pub(crate) fn after(old: &CustomResourceDefinitionSpec) -> Self {
        let any = |bad: &dyn Fn(&JSONSchemaProps) -> bool| old.versions.iter().filter_map(schema_of).any(bad);
        let anywhere = |bad: &dyn Fn(&JSONSchemaProps) -> bool| any(&|schema| has(schema, bad));
        Strictness {
            types: !anywhere(&|s| is_unknown_type(s)),
            // Pruning needs structural schemas, and nothing else is possible in v1.
            structural: true,
            pruned_defaults: !any(&|schema| {
                let kept = Structural::of(schema);
                let mut pruned = kept.clone();
                prune::prune_defaults(&mut pruned);
                kept != pruned
            }),
            atomic_sets: !anywhere(&|s| non_atomic_set(s).is_some()),
            map_keys: !anywhere(&|s| !map_key_errors(s, &Path::root()).is_empty()),
            rule_costs: true,
        }
    }

    /// Of a version whose schema is the one that was accepted before: each of its rules may cost what it did.
    pub(crate) fn of_same_schema(self) -> Self {
        Strictness { rule_costs: false, ..self }
    }
}

fn schema_of(version: &CustomResourceDefinitionVersion) -> Option<&JSONSchemaProps> {
    version.schema.as_ref()?.open_api_v3_schema.as_ref()
}

fn has(schema: &JSONSchemaProps, predicate: &dyn Fn(&JSONSchemaProps) -> bool) -> bool {
    predicate(schema) || children(schema).into_iter().any(|(_, child)| has(child, predicate))
}

/// All schemas within a schema with their paths below it.
fn children(s: &JSONSchemaProps) -> Vec<(String, &JSONSchemaProps)> {
    let mut all: Vec<(String, &JSONSchemaProps)> = Vec::new();
    match &s.additional_properties {
        Some(JSONSchemaPropsOrBool::Schema(schema)) => all.push(("additionalProperties".into(), schema)),
        Some(JSONSchemaPropsOrBool::Bool(_)) | None => {}
    }
    all.extend(s.properties.iter().flatten().map(|(k, v)| (format!("properties[{k}]"), v)));
    all.extend(s.not.as_deref().map(|not| ("not".to_owned(), not)));
    for (name, list) in [("allOf", &s.all_of), ("oneOf", &s.one_of), ("anyOf", &s.any_of)] {
        all.extend(list.iter().flatten().enumerate().map(|(i, v)| (format!("{name}[{i}]"), v)));
    }
    all.extend(s.definitions.iter().flatten().map(|(k, v)| (format!("definitions[{k}]"), v)));
    match &s.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => all.push(("items".into(), items)),
        Some(JSONSchemaPropsOrArray::Schemas(list)) => {
            all.extend(list.iter().enumerate().map(|(i, v)| (format!("items[{i}]"), v)));
        }
        None => {}
    }
    all
}

fn is_true(flag: Option<bool>) -> bool {
    flag == Some(true)
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// All mistakes of a version's schema. `path` is that of `schema`.
pub(crate) fn schema_errors(version: &CustomResourceDefinitionVersion, path: &Path, strictness: Strictness) -> Errors {
    let Some(schema) = schema_of(version) else { return Vec::new() };
    let mut errors = Vec::new();
    let at = path.child("openAPIV3Schema");
    if version.subresources.as_ref().is_some_and(|s| s.status.is_some()) {
        errors.extend(root_errors(schema, path));
    }
    if is_true(schema.nullable) {
        errors.push(FieldError::forbidden(
            &path.child("openAPIV3Schema.nullable"),
            "nullable cannot be true at the root",
        ));
    }
    let mut unsupported = Vec::new();
    if strictness.structural {
        if let Some(why) = unsupported_field(schema) {
            unsupported.push(FieldError::invalid(&at, "", &why));
        } else {
            let wrong = structural_errors(schema, &at);
            if wrong.is_empty() {
                errors.extend(default_errors(schema, &at, strictness.pruned_defaults));
            } else {
                errors.extend(wrong);
            }
        }
    }
    let context = Context { strictness, defaults: Ok(()), inside_meta: false };
    errors.extend(openapi_errors(schema, &at, &context, true));
    if errors.is_empty() {
        errors.extend(unsupported);
        errors.extend(rules::check(schema, &at, strictness.rule_costs));
    }
    errors
}

/// Only these may stand at the root if the status is validated by itself.
const ROOT_FIELDS: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";

fn root_errors(schema: &JSONSchemaProps, path: &Path) -> Errors {
    if text(&schema.type_) != "object" && !text(&schema.type_).is_empty() {
        let detail =
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return vec![FieldError::invalid(&path.child("openAPIV3Schema.type"), text(&schema.type_), detail)];
    }
    let others = [
        schema.id.is_some(),
        schema.schema.is_some(),
        schema.ref_path.is_some(),
        is_true(schema.nullable),
        schema.default.is_some(),
        schema.max_properties.is_some(),
        schema.min_properties.is_some(),
        schema.enum_.as_ref().is_some_and(|e| !e.is_empty()),
        schema.all_of.is_some(),
        schema.one_of.is_some(),
        schema.any_of.is_some(),
        schema.not.is_some(),
        schema.additional_properties.is_some(),
        schema.pattern_properties.is_some(),
        schema.dependencies.is_some(),
        schema.additional_items.is_some(),
        schema.definitions.is_some(),
        is_true(schema.x_kubernetes_embedded_resource),
        is_true(schema.x_kubernetes_int_or_string),
        schema.x_kubernetes_list_map_keys.is_some(),
        schema.x_kubernetes_list_type.is_some(),
        schema.x_kubernetes_map_type.is_some(),
    ];
    if !others.contains(&true) {
        return Vec::new();
    }
    let shown: Value = serde_json::from_slice(&api::Codec::encode(schema)).unwrap_or_default();
    let detail =
        format!("only {ROOT_FIELDS} fields are allowed at the root of the schema if the status subresource is enabled");
    vec![FieldError::invalid(&path.child("openAPIV3Schema"), &shown, &detail)]
}

// === structural schemas ===

/// What `NewStructural` refuses.
fn unsupported_field(schema: &JSONSchemaProps) -> Option<String> {
    let fields = [
        ("id", !text(&schema.id).is_empty()),
        ("schema", !text(&schema.schema).is_empty()),
        ("$ref", !text(&schema.ref_path).is_empty()),
        ("patternProperties", schema.pattern_properties.as_ref().is_some_and(|p| !p.is_empty())),
        ("dependencies", schema.dependencies.as_ref().is_some_and(|p| !p.is_empty())),
        ("additionalItems", schema.additional_items.is_some()),
        ("definitions", schema.definitions.as_ref().is_some_and(|p| !p.is_empty())),
    ];
    if let Some((name, _)) = fields.into_iter().find(|(_, set)| *set) {
        return Some(format!("OpenAPIV3Schema '{name}' is not supported"));
    }
    if matches!(&schema.items, Some(JSONSchemaPropsOrArray::Schemas(list)) if !list.is_empty()) {
        return Some("OpenAPIV3Schema 'items' must be a schema, but is an array".to_owned());
    }
    if schema.x_kubernetes_preserve_unknown_fields == Some(false) {
        return Some("internal error: 'x-kubernetes-preserve-unknown-fields' must be true or undefined".to_owned());
    }
    children(schema).into_iter().find_map(|(_, child)| unsupported_field(child))
}

/// Where in the structure a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Why a schema is not structural, sorted.
pub fn structural_errors(schema: &JSONSchemaProps, path: &Path) -> Errors {
    let mut errors = Vec::new();
    invariants(schema, Level::Root, path, &mut errors);
    completeness(schema, path, &mut errors);
    errors.sort_by_key(ToString::to_string);
    errors
}

fn invariants(s: &JSONSchemaProps, level: Level, path: &Path, errors: &mut Errors) {
    let ty = text(&s.type_);
    let embedded = is_true(s.x_kubernetes_embedded_resource);
    let preserves = is_true(s.x_kubernetes_preserve_unknown_fields);
    let int_or_string = is_true(s.x_kubernetes_int_or_string);
    match &s.items {
        None if ty == "array" => errors.push(FieldError::required(&path.child("items"), "must be specified")),
        Some(JSONSchemaPropsOrArray::Schema(items)) => invariants(items, Level::Item, &path.child("items"), errors),
        _ => {}
    }
    let empty = Default::default();
    let properties = s.properties.as_ref().unwrap_or(&empty);
    for (name, property) in properties {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    if let Some(additional) = &s.additional_properties {
        let at = path.child("additionalProperties");
        if level == Level::Root {
            errors.push(FieldError::forbidden(&at, "must not be used at the root"));
        }
        if let JSONSchemaPropsOrBool::Schema(schema) = additional {
            invariants(schema, Level::Field, &at, errors);
        }
        if embedded {
            errors.push(FieldError::forbidden(&at, "must not be used if x-kubernetes-embedded-resource is set"));
        }
    }
    if int_or_string && preserves {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    if int_or_string && embedded {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(FieldError::invalid(&at, true, "must be false if x-kubernetes-int-or-string is true"));
    }
    let any_of = is_int_or_string(s.any_of.as_deref());
    let first_all_of = is_int_or_string(s.all_of.as_ref().and_then(|all| all.first()?.any_of.as_deref()));
    junctors(s, any_of, first_all_of, path, errors);
    let at = path.child("type");
    if embedded && ty != "object" {
        let detail = "must be object if x-kubernetes-embedded-resource is true";
        errors.push(if ty.is_empty() {
            FieldError::required(&at, detail)
        } else {
            FieldError::invalid(&at, ty, detail)
        });
    } else if ty.is_empty() && !int_or_string && !preserves {
        let detail = match level {
            Level::Root => "must not be empty at the root",
            Level::Item => "must not be empty for specified array items",
            Level::Field => "must not be empty for specified object fields",
        };
        errors.push(FieldError::required(&at, detail));
    }
    if level == Level::Root && !ty.is_empty() && ty != "object" {
        errors.push(FieldError::invalid(&at, ty, "must be object at the root"));
    }
    let is_resource = level == Level::Root || embedded;
    for name in ["kind", "apiVersion"] {
        if let Some(property) = properties.get(name).filter(|p| is_resource && text(&p.type_) != "string") {
            let at = path.child("properties").key(name).child("type");
            errors.push(FieldError::invalid(&at, text(&property.type_), "must be string"));
        }
    }
    if let Some(meta) = properties.get("metadata") {
        let at = path.child("properties").key("metadata");
        if is_resource && text(&meta.type_) != "object" {
            errors.push(FieldError::invalid(&at.child("type"), text(&meta.type_), "must be object"));
        }
        if level == Level::Root && !restricts_names_only(meta) {
            let detail =
                "must not specify anything other than name and generateName, but metadata is implicitly specified";
            errors.push(FieldError::forbidden(&at, detail));
        }
    }
    if embedded && !preserves && properties.is_empty() {
        let detail =
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields";
        errors.push(FieldError::required(&path.child("properties"), detail));
    }
}

fn restricts_names_only(meta: &JSONSchemaProps) -> bool {
    let mut rest = meta.clone();
    let names_only = rest.properties.iter().flatten().all(|(name, _)| name == "name" || name == "generateName");
    rest.type_ = None;
    rest.default = None;
    rest.properties = None;
    names_only && rest == JSONSchemaProps::default()
}

fn is_int_or_string(list: Option<&[JSONSchemaProps]>) -> bool {
    let only = |s: &JSONSchemaProps, ty: &str| {
        *s == JSONSchemaProps { type_: Some(ty.to_owned()), ..JSONSchemaProps::default() }
    };
    matches!(list, Some([a, b]) if only(a, "integer") && only(b, "string"))
}

fn junctors(s: &JSONSchemaProps, skip_any_of: bool, skip_first_all_of: bool, path: &Path, errors: &mut Errors) {
    if !skip_any_of {
        for (i, schema) in s.any_of.iter().flatten().enumerate() {
            nested(schema, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, schema) in s.all_of.iter().flatten().enumerate() {
        nested(schema, skip_first_all_of && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, schema) in s.one_of.iter().flatten().enumerate() {
        nested(schema, false, &path.child("oneOf").index(i), errors);
    }
    if let Some(not) = &s.not {
        nested(not, false, &path.child("not"), errors);
    }
    if let Some(pattern) = s.pattern.as_deref().filter(|p| !p.is_empty()).map(Pattern::new)
        && let Err(error) = pattern.regex()
    {
        let detail = format!("must be a valid regular expression, but isn't: {error}");
        errors.push(FieldError::invalid(&path.child("pattern"), text(&s.pattern), &detail));
    }
}

/// In junctors only values are restricted; the structure stands outside.
fn nested(s: &JSONSchemaProps, skip_any_of: bool, path: &Path, errors: &mut Errors) {
    junctors(s, skip_any_of, false, path, errors);
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &s.items {
        nested(items, false, &path.child("items"), errors);
    }
    for (name, property) in s.properties.iter().flatten() {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    let not_structural = [
        ("type", !text(&s.type_).is_empty(), "must be empty to be structural"),
        (
            "additionalProperties",
            matches!(
                &s.additional_properties,
                Some(JSONSchemaPropsOrBool::Schema(_) | JSONSchemaPropsOrBool::Bool(true))
            ),
            "must be undefined to be structural",
        ),
        ("default", s.default.is_some(), "must be undefined to be structural"),
        ("title", !text(&s.title).is_empty(), "must be empty to be structural"),
        ("description", !text(&s.description).is_empty(), "must be empty to be structural"),
        ("nullable", is_true(s.nullable), "must be false to be structural"),
        (
            "x-kubernetes-preserve-unknown-fields",
            is_true(s.x_kubernetes_preserve_unknown_fields),
            "must be false to be structural",
        ),
        ("x-kubernetes-embedded-resource", is_true(s.x_kubernetes_embedded_resource), "must be false to be structural"),
        ("x-kubernetes-int-or-string", is_true(s.x_kubernetes_int_or_string), "must be false to be structural"),
        (
            "x-kubernetes-list-map-keys",
            s.x_kubernetes_list_map_keys.as_ref().is_some_and(|k| !k.is_empty()),
            "must be empty to be structural",
        ),
        ("x-kubernetes-list-type", s.x_kubernetes_list_type.is_some(), "must be undefined to be structural"),
        ("x-kubernetes-map-type", s.x_kubernetes_map_type.is_some(), "must be undefined to be structural"),
        (
            "x-kubernetes-validations",
            s.x_kubernetes_validations.as_ref().is_some_and(|v| !v.is_empty()),
            "must be empty to be structural",
        ),
    ];
    for (field, _, detail) in not_structural.into_iter().filter(|(_, set, _)| *set) {
        errors.push(FieldError::forbidden(&path.child(field), detail));
    }
    if s.properties.as_ref().is_some_and(|p| p.contains_key("metadata")) {
        let at = path.child("properties").key("metadata");
        errors.push(FieldError::forbidden(&at, "must not be specified in a nested context"));
    }
}

/// Every field that a junctor restricts is also specified outside (`schema/complete.go`).
fn completeness(s: &JSONSchemaProps, path: &Path, errors: &mut Errors) {
    let lists = [("allOf", &s.all_of), ("anyOf", &s.any_of), ("oneOf", &s.one_of)];
    for (name, list) in lists {
        for (i, schema) in list.iter().flatten().enumerate() {
            complete(schema, Some(s), path, &path.child(name).index(i), errors);
        }
    }
    if let Some(not) = &s.not {
        complete(not, Some(s), path, &path.child("not"), errors);
    }
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &s.items {
        completeness(items, &path.child("items"), errors);
    }
    for (name, property) in s.properties.iter().flatten() {
        completeness(property, &path.child("properties").key(name), errors);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(additional)) = &s.additional_properties {
        completeness(additional, &path.child("additionalProperties"), errors);
    }
}

/// `inner` restricts what `outer` specifies; `at` is where the latter is.
fn complete(inner: &JSONSchemaProps, outer: Option<&JSONSchemaProps>, at: &Path, path: &Path, errors: &mut Errors) {
    let missing = |at: &Path, path: &Path, errors: &mut Errors| {
        errors.push(FieldError::required(at, &format!("because it is defined in {path}")));
    };
    let Some(outer) = outer else { return missing(at, path, errors) };
    let outer_items = match &outer.items {
        Some(JSONSchemaPropsOrArray::Schema(items)) => Some(items.as_ref()),
        _ => None,
    };
    if let Some(JSONSchemaPropsOrArray::Schema(items)) = &inner.items {
        complete(items, outer_items, &at.child("items"), &path.child("items"), errors);
    }
    for (name, property) in inner.properties.iter().flatten() {
        let found = outer.properties.as_ref().and_then(|p| p.get(name));
        let (at, path) = (at.child("properties").key(name), path.child("properties").key(name));
        complete(property, found, &at, &path, errors);
    }
    let lists = [("allOf", &inner.all_of), ("anyOf", &inner.any_of), ("oneOf", &inner.one_of)];
    for (name, list) in lists {
        for (i, schema) in list.iter().flatten().enumerate() {
            complete(schema, Some(outer), at, &path.child(name).index(i), errors);
        }
    }
    if let Some(not) = &inner.not {
        complete(not, Some(outer), at, &path.child("not"), errors);
    }
}

// === defaults ===

fn default_errors(schema: &JSONSchemaProps, path: &Path, pruned: bool) -> Errors {
    let rules = Rules::compile(Some(schema));
    let mut walk = Defaults { pruned, trial: Trial::new(), errors: Vec::new() };
    walk.part(&Structural::of(schema), Part::root(&rules), true, path, false);
    walk.errors
}

/// A walk through the defaults of a schema.
struct Defaults {
    /// They must have no unknown fields.
    pruned: bool,
    trial: Trial,
    errors: Errors,
}

impl Defaults {
    fn part(&mut self, s: &Structural, rules: Part<'_>, root: bool, path: &Path, inside_meta: bool) {
        let resource = root || s.embedded;
        let inside_meta = inside_meta && !resource;
        if let Some(value) = &s.default {
            self.check(s, rules, value, &path.child("default"), inside_meta);
        }
        if let Some(items) = &s.items {
            self.part(items, rules.items(), false, &path.child("items"), inside_meta);
        }
        for (name, property) in &s.properties {
            let meta = inside_meta || (resource && META.contains(&name.as_str()));
            self.part(property, rules.property(name), false, &path.child("properties").key(name), meta);
        }
    }

    /// Rules are tried on what is well otherwise.
    fn check(&mut self, s: &Structural, rules: Part<'_>, value: &Value, at: &Path, inside_meta: bool) {
        let mut clean = value.clone();
        if !inside_meta {
            prune::prune(&mut clean, s);
        }
        if self.pruned && clean != *value {
            self.errors.push(FieldError::invalid(at, value, "must not have unknown fields"));
        }
        let mut wrong = embedded_errors(s, value, at);
        if wrong.is_empty() {
            wrong = validate::validate(s, value, at);
        }
        if wrong.is_empty() {
            wrong = self.trial.errors(rules, s, value, at);
        }
        self.errors.extend(wrong);
    }
}

fn embedded_errors(s: &Structural, value: &Value, at: &Path) -> Errors {
    let Value::Object(map) = value else { return Vec::new() };
    match embedded::coerce(s, &mut map.clone(), false) {
        Err(error) => vec![FieldError { path: at.child(error.path.as_str()), ..error }],
        Ok(_) => embedded::validate(s, value, at),
    }
}

// === what OpenAPI has and we do not, and Kubernetes' extensions ===

/// What holds where a schema stands.
struct Context {
    strictness: Strictness,
    /// Why defaults may not be set here.
    defaults: Result<(), String>,
    inside_meta: bool,
}

fn is_unknown_type(s: &JSONSchemaProps) -> bool {
    !text(&s.type_).is_empty() && !TYPES.contains(&text(&s.type_))
}

fn openapi_errors(s: &JSONSchemaProps, path: &Path, context: &Context, root: bool) -> Errors {
    let mut errors = standard_errors(s, path, context);
    if is_true(s.unique_items) {
        let detail = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(FieldError::forbidden(&path.child("uniqueItems"), detail));
    }
    let has_properties = s.properties.as_ref().is_some_and(|p| !p.is_empty());
    if has_properties && !matches!(s.additional_properties, None | Some(JSONSchemaPropsOrBool::Bool(true))) {
        let detail = "additionalProperties and properties are mutual exclusive";
        errors.push(FieldError::forbidden(&path.child("additionalProperties"), detail));
    }
    for (name, child) in children(s) {
        let mut below = Context { defaults: context.defaults.clone(), ..*context };
        if name == "additionalProperties" && context.inside_meta {
            below.defaults = Err(" inside additionalProperties applying to object metadata".into());
        }
        let property = name.strip_prefix("properties[").and_then(|n| n.strip_suffix(']'));
        if let Some(meta) = property.filter(|p| META.contains(p)) {
            if root || is_true(s.x_kubernetes_embedded_resource) {
                below.inside_meta = true;
            }
            if root {
                below.defaults = Err(format!(" in top-level {meta}"));
            }
        }
        errors.extend(openapi_errors(child, &path.child(&name), &below, false));
    }
    errors.extend(extension_errors(s, path, context));
    errors.extend(rule_errors(s, path));
    errors
}

fn standard_errors(s: &JSONSchemaProps, path: &Path, context: &Context) -> Errors {
    let mut errors = Vec::new();
    if context.strictness.types && is_unknown_type(s) {
        errors.push(FieldError::not_supported(&path.child("type"), text(&s.type_), &TYPES));
    }
    if let (Some(_), Err(why)) = (&s.default, &context.defaults) {
        errors.push(FieldError::forbidden(&path.child("default"), &format!("must not be set{why}")));
    }
    let forbidden = [
        ("id", !text(&s.id).is_empty(), "id is not supported"),
        ("additionalItems", s.additional_items.is_some(), "additionalItems is not supported"),
        (
            "patternProperties",
            s.pattern_properties.as_ref().is_some_and(|p| !p.is_empty()),
            "patternProperties is not supported",
        ),
        ("definitions", s.definitions.as_ref().is_some_and(|d| !d.is_empty()), "definitions is not supported"),
        ("dependencies", s.dependencies.is_some(), "dependencies is not supported"),
        ("$ref", s.ref_path.is_some(), "$ref is not supported"),
        ("type", text(&s.type_) == "null", "type cannot be set to null, use nullable as an alternative"),
        (
            "items",
            matches!(&s.items, Some(JSONSchemaPropsOrArray::Schemas(list)) if !list.is_empty()),
            "items must be a schema object and not an array",
        ),
        (
            "x-kubernetes-embedded-resource",
            context.inside_meta && is_true(s.x_kubernetes_embedded_resource),
            "must not be used inside of resource meta",
        ),
    ];
    for (field, _, detail) in forbidden.into_iter().filter(|(_, set, _)| *set) {
        errors.push(FieldError::forbidden(&path.child(field), detail));
    }
    errors
}

/// The item of a set that is not owned as a whole: which extension says so.
fn non_atomic_set(s: &JSONSchemaProps) -> Option<&'static str> {
    let Some(JSONSchemaPropsOrArray::Schema(items)) = &s.items else { return None };
    if s.x_kubernetes_list_type.as_deref() != Some("set") {
        return None;
    }
    match text(&items.type_) {
        "array" if items.x_kubernetes_list_type.as_deref().is_some_and(|t| t != "atomic") => {
            Some("x-kubernetes-list-type")
        }
        "object" if items.x_kubernetes_map_type.as_deref() != Some("atomic") => Some("x-kubernetes-map-type"),
        _ => None,
    }
}

fn extension_errors(s: &JSONSchemaProps, path: &Path, context: &Context) -> Errors {
    let mut errors = Vec::new();
    let ty = text(&s.type_);
    if s.x_kubernetes_preserve_unknown_fields == Some(false) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(FieldError::invalid(&at, false, "must be true or undefined"));
    }
    let mut needs_type = |wanted: &str, extension: &str| {
        let detail = format!("must be {wanted} if {extension} is specified");
        let at = path.child("type");
        errors.push(if ty.is_empty() {
            FieldError::required(&at, &detail)
        } else {
            FieldError::invalid(&at, ty, &detail)
        });
    };
    if s.x_kubernetes_map_type.is_some() && ty != "object" {
        needs_type("object", "x-kubernetes-map-type");
    }
    if s.x_kubernetes_list_type.is_some() && ty != "array" {
        needs_type("array", "x-kubernetes-list-type");
    } else if let Some(extension) = non_atomic_set(s).filter(|_| context.strictness.atomic_sets) {
        let found = match &s.items {
            Some(JSONSchemaPropsOrArray::Schema(items)) => items.x_kubernetes_list_type.clone(),
            _ => None,
        };
        let detail = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let at = path.child("items").child(extension);
        errors.push(FieldError::invalid(&at, &found.map_or_else(|| json!("null"), Value::from), detail));
    }
    if let Some(map_type) = s.x_kubernetes_map_type.as_deref().filter(|t| !matches!(*t, "atomic" | "granular")) {
        let at = path.child("x-kubernetes-map-type");
        errors.push(FieldError::not_supported(&at, map_type, &["atomic", "granular"]));
    }
    let list_type = s.x_kubernetes_list_type.as_deref();
    let at = path.child("x-kubernetes-list-type");
    if let Some(other) = list_type.filter(|t| !matches!(*t, "atomic" | "set" | "map")) {
        errors.push(FieldError::not_supported(&at, other, &["atomic", "set", "map"]));
    }
    let keys = s.x_kubernetes_list_map_keys.as_deref().unwrap_or_default();
    if !keys.is_empty() {
        let detail = "must be map if x-kubernetes-list-map-keys is non-empty";
        match list_type {
            None => errors.push(FieldError::required(&at, detail)),
            Some("map") => {}
            Some(other) => errors.push(FieldError::invalid(&at, other, detail)),
        }
    }
    if list_type == Some("map") {
        errors.extend(map_list_errors(s, keys, path));
    }
    if context.strictness.map_keys {
        errors.extend(map_key_errors(s, path));
    }
    errors
}

fn map_list_errors(s: &JSONSchemaProps, keys: &[String], path: &Path) -> Errors {
    let mut errors = Vec::new();
    let at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(FieldError::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = match &s.items {
        None => {
            let detail = "must have a schema if x-kubernetes-list-type is map";
            errors.push(FieldError::required(&path.child("items"), detail));
            return errors;
        }
        Some(JSONSchemaPropsOrArray::Schemas(_)) => {
            let detail = "must only have a single schema if x-kubernetes-list-type is map";
            errors.push(FieldError::invalid(&path.child("items"), "", detail));
            return errors;
        }
        Some(JSONSchemaPropsOrArray::Schema(items)) => items,
    };
    if text(&items.type_) != "object" {
        let detail = "must be object if parent array's x-kubernetes-list-type is map";
        errors.push(FieldError::invalid(&path.child("items").child("type"), text(&items.type_), detail));
        return errors;
    }
    let mut seen = HashSet::new();
    for key in keys {
        match items.properties.as_ref().and_then(|p| p.get(key)) {
            Some(property) if matches!(text(&property.type_), "array" | "object") => {
                let at = path.child("items").child("properties").key(key).child("type");
                let detail = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(FieldError::invalid(&at, text(&items.type_), detail));
            }
            Some(_) => {}
            None => {
                let detail = "entries must all be names of item properties";
                errors.push(FieldError::invalid(&at, &json!(keys), detail));
            }
        }
        if !seen.insert(key) {
            errors.push(FieldError::invalid(&at, &json!(keys), "must not contain duplicate entries"));
        }
    }
    errors
}

/// Keys of map lists are always there (`validateMapListKeysMapSet`).
fn map_key_errors(s: &JSONSchemaProps, path: &Path) -> Errors {
    let (Some(JSONSchemaPropsOrArray::Schema(items)), Some(list_type @ ("set" | "map"))) =
        (&s.items, s.x_kubernetes_list_type.as_deref())
    else {
        return Vec::new();
    };
    let mut errors = Vec::new();
    let at = path.child("items");
    if is_true(items.nullable) {
        let detail = format!("cannot be nullable when x-kubernetes-list-type is {list_type}");
        errors.push(FieldError::forbidden(&at.child("nullable"), &detail));
    }
    if list_type == "set" {
        return errors;
    }
    for key in s.x_kubernetes_list_map_keys.iter().flatten() {
        let Some(property) = items.properties.as_ref().and_then(|p| p.get(key)) else { continue };
        let at = at.child("properties").key(key);
        let required = items.required.iter().flatten().any(|r| r == key);
        if !required && property.default.is_none() {
            let detail =
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property";
            errors.push(FieldError::required(&at.child("default"), detail));
        }
        if is_true(property.nullable) {
            let detail = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(FieldError::forbidden(&at.child("nullable"), detail));
        }
    }
    errors
}

/// The form of `x-kubernetes-validations`; what the expressions mean is [`super::rules`]'.
fn rule_errors(s: &JSONSchemaProps, path: &Path) -> Errors {
    const REASONS: [&str; 4] =
        ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];
    let mut errors = Vec::new();
    let breaks = |text: &str| text.contains(['\n', '\r']);
    for (i, rule) in s.x_kubernetes_validations.iter().flatten().enumerate() {
        let at = path.child("x-kubernetes-validations").index(i);
        let message = text(&rule.message);
        let (expression, trimmed) = (rule.rule.trim(), message.trim());
        if expression.is_empty() {
            errors.push(FieldError::required(&at.child("rule"), "rule is not specified"));
        } else if !message.is_empty() && trimmed.is_empty() {
            errors.push(FieldError::invalid(&at.child("message"), message, "must be non-empty if specified"));
        } else if breaks(trimmed) {
            errors.push(FieldError::invalid(&at.child("message"), message, "must not contain line breaks"));
        } else if breaks(expression) && trimmed.is_empty() {
            let detail = "message must be specified if rule contains line breaks";
            errors.push(FieldError::required(&at.child("message"), detail));
        }
        let expression = text(&rule.message_expression);
        if !expression.is_empty() && expression.trim().is_empty() {
            let detail = "messageExpression must be non-empty if specified";
            errors.push(FieldError::required(&at.child("messageExpression"), detail));
        }
        if let Some(reason) = rule.reason.as_deref().filter(|r| !REASONS.contains(r)) {
            errors.push(FieldError::not_supported(&at.child("reason"), reason, &REASONS));
        }
        let field = text(&rule.field_path);
        if !field.is_empty() && field.trim().is_empty() {
            errors.push(FieldError::invalid(&at.child("fieldPath"), field, "must be non-empty if specified"));
        }
        if breaks(field) {
            errors.push(FieldError::invalid(&at.child("fieldPath"), field, "must not contain line breaks"));
        }
        if !field.is_empty() && field_at(&Structural::of(s), field, true).is_err() {
            errors.push(FieldError::invalid(&at.child("fieldPath"), field, "must be a valid path"));
        }
    }
    errors
}

// === selectable fields ===

/// Follows a simple path like `.spec.color` or `.spec['a.b']` through a schema (`schema/cel/validation.go`, `ValidFieldPath`).
pub(crate) fn field_at<'s>(
    schema: &'s Structural,
    path: &str,
    brackets: bool,
) -> Result<(Vec<String>, &'s Structural), String> {
    let mut names = Vec::new();
    let mut at = schema;
    let mut rest = path;
    let end = |text: &str| text.find(['.', '[']).unwrap_or(text.len());
    if rest.is_empty() {
        return Err("empty field path".to_owned());
    }
    while !rest.is_empty() {
        let name;
        if let Some(after) = rest.strip_prefix('.') {
            let stop = end(after);
            (name, rest) = (after[..stop].to_owned(), &after[stop..]);
            if name.is_empty() {
                return Err(format!("unexpected end of path {path:?}"));
            }
        } else if let Some(after) = rest.strip_prefix("['").filter(|_| brackets) {
            let stop = after.find("']").ok_or_else(|| format!("unclosed bracket in {path:?}"))?;
            (name, rest) = (after[..stop].to_owned(), &after[stop + 2..]);
        } else {
            return Err(format!("expected [ or . but got: {}", &rest[..end(rest)]));
        }
        at = match at.properties.get(&name) {
            Some(property) => property,
            None => match &at.additional {
                Some(Additional::Schema(schema)) if brackets => schema,
                _ => return Err("does not refer to a valid field".to_owned()),
            },
        };
        names.push(name);
    }
    Ok((names, at))
}

/// Mistakes of `selectableFields`.
pub(crate) fn selectable_errors(version: &CustomResourceDefinitionVersion, path: &Path) -> Errors {
    let fields: &[SelectableField] = version.selectable_fields.as_deref().unwrap_or_default();
    let mut errors = Vec::new();
    if fields.is_empty() {
        return errors;
    }
    let Some(schema) = schema_of(version) else {
        let detail = "may only be set when `version.schema.openAPIV3Schema` is not included";
        return vec![FieldError::invalid(path, "", detail)];
    };
    let schema = Structural::of(schema);
    let mut seen: HashSet<Vec<String>> = HashSet::new();
    for (i, field) in fields.iter().enumerate() {
        let at = path.index(i).child("jsonPath");
        let given = field.json_path.as_str();
        if given.is_empty() {
            errors.push(FieldError::required(&at, ""));
            continue;
        }
        let (names, found) = match field_at(&schema, given, false) {
            Ok(found) => found,
            Err(why) => {
                errors.push(FieldError::invalid(&at, given, &format!("is an invalid path: {why}")));
                continue;
            }
        };
        if names.first().is_some_and(|n| n == "metadata") {
            errors.push(FieldError::invalid(&at, given, "must not point to fields in metadata"));
        }
        if !matches!(found.ty.as_str(), "string" | "boolean" | "integer") {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(FieldError::invalid(&at, given, detail));
        }
        if !seen.insert(names) {
            errors.push(FieldError::duplicate(&at, given));
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.push(FieldError::too_many(path, seen.len(), MAX_SELECTABLE));
    }
    errors
}

/// Formats that nothing checks, for a warning (`getUnrecognizedFormatsInCRD`).
pub(crate) fn unknown_formats(spec: &CustomResourceDefinitionSpec) -> Vec<String> {
    fn collect(s: &JSONSchemaProps, found: &mut Vec<String>) {
        let format = text(&s.format);
        let known = match text(&s.type_) {
            "" | "string" => super::formats::is_known(format),
            "integer" => matches!(format, "int32" | "int64"),
            "number" => matches!(format, "float" | "double"),
            _ => false,
        };
        if !format.is_empty() && !known && found.iter().all(|f| f != format) {
            found.push(format.to_owned());
        }
        children(s).into_iter().for_each(|(_, child)| collect(child, found));
    }
    let mut found = Vec::new();
    spec.versions.iter().filter_map(schema_of).for_each(|schema| collect(schema, &mut found));
    found
}
