//! Custom resources: a [`Kind`] for each version of a CustomResourceDefinition.
//!
//! ```text
//! definition ─ check (is the schema usable?) ─ names (which conditions follow?) ─ Definition::new ─ one CustomKind per version
//! body or stored bytes ─ embedded::coerce ─ prune ─ default ─ Unstructured ─ validate, lists, embedded, rules
//! ```
//!
//! Follows `apiextensions-apiserver`: each file names its places there. Differs: what upstream does to every object that it reads
//! from etcd (pruning, defaulting), is done here once per stored version ([`CustomKind::id`] tells which).

pub mod check;
pub mod convert;
mod embedded;
mod formats;
mod jsonpath;
mod lists;
pub mod names;
mod outline;
pub mod prune;
pub mod publish;
pub mod rules;
mod structural;
#[cfg(test)]
mod tests;
mod types;
mod validate;

pub use jsonpath::JsonPath;
pub use outline::Outline;
pub use structural::{Additional, Structural, Values};

use crate::apply::SchemaRef;
use crate::field::{ErrorType, Errors, FieldError, Path};
use crate::json;
use crate::kinds::{Column, Kind, KindInfo, ScalePaths, Subresource, human_duration, metadata};
use crate::schema::check::{BodyError, Verdict, parse_json};
use crate::schema::{Schema, TypeId};
use crate::validation::{is_dns1123_subdomain, is_label_key};
use api::any::{downcast_mut, downcast_ref};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionVersion,
};
use api::prelude::MetaExt;
use api::{AnyObject, DecodeError, Unstructured};
use publish::Published;
use rules::Rules;
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// All versions of a definition.
#[derive(Debug)]
pub struct Definition {
    /// `plural.group`
    pub name: String,
    /// Of the stored definition.
    pub uid: String,
    /// How objects get from one version to another.
    pub conversion: CustomResourceConversion,
    /// The version in which objects are stored.
    pub storage_version: String,
    /// Served or not, in the order of the definition.
    pub versions: Vec<Arc<CustomKind>>,
    /// Tells definitions apart that make different kinds.
    pub id: u64,
}

impl Definition {
    /// Makes the kinds of a definition whose names were accepted. One that is not accepted has nothing to serve.
    pub fn new(crd: &CustomResourceDefinition) -> Option<Self> {
        let names = crd.status.as_ref().and_then(|s| s.accepted_names.as_ref()).filter(|n| !n.plural.is_empty())?;
        let storage_version = crd.spec.versions.iter().find(|v| v.storage)?.name.clone();
        let id = Self::id_of(crd)?;
        let versions = crd.spec.versions.iter();
        let versions = versions.map(|version| Arc::new(CustomKind::new(crd, names, version, id))).collect();
        Some(Definition {
            name: crd.name().to_owned(),
            uid: crd.uid().to_owned(),
            conversion: crd.spec.conversion.clone().unwrap_or_default(),
            storage_version,
            versions,
            id,
        })
    }

    /// Tells definitions apart that make different kinds, without making them.
    pub fn id_of(crd: &CustomResourceDefinition) -> Option<u64> {
        let spec = serde_json::to_vec(&crd.spec).ok()?;
        let names = serde_json::to_vec(&crd.status.as_ref()?.accepted_names).ok()?;
        let mut hasher = DefaultHasher::new();
        (spec, names, crd.uid()).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// The kind of a version, or of an `apiVersion`.
    pub fn version(&self, version: &str) -> Option<&Arc<CustomKind>> {
        let version = version.rsplit('/').next().unwrap_or_default();
        self.versions.iter().find(|k| k.info.version == version)
    }

    /// The kind in whose form objects are stored.
    pub fn storage(&self) -> Option<&Arc<CustomKind>> {
        self.version(&self.storage_version)
    }

    /// Whether a webhook converts.
    pub fn has_webhook(&self) -> bool {
        self.conversion.strategy == "Webhook"
    }
}

/// One version of a custom resource.
pub struct CustomKind {
    info: KindInfo,
    /// Of the definition that it was made from, and of the version in it.
    id: u64,
    served: bool,
    deprecation: Option<String>,
    schema: Structural,
    types: (Schema, TypeId),
    rules: Rules,
    published: Published,
    columns: Vec<Column>,
    paths: Vec<(JsonPath, String)>,
    selectable: Vec<Cow<'static, str>>,
    selectable_paths: Vec<JsonPath>,
    has_status: bool,
    scale: Option<ScalePaths>,
}

impl std::fmt::Debug for CustomKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.info.api_version(), self.info.kind)
    }
}

const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const FORMATS: [&str; 9] = ["", "byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

impl CustomKind {
    fn new(
        crd: &CustomResourceDefinition,
        names: &api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames,
        version: &CustomResourceDefinitionVersion,
        definition: u64,
    ) -> Self {
        let props = version.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref());
        // Definitions from before schemas were required keep whatever they are given.
        let mut schema = props.map_or_else(
            || Structural { ty: "object".into(), preserve_unknown: true, ..Structural::default() },
            Structural::of,
        );
        prune::prune_defaults(&mut schema);
        let columns = columns_of(version);
        let selectable: Vec<String> = version.selectable_fields.iter().flatten().map(|f| f.json_path.clone()).collect();
        let subresources = version.subresources.clone().unwrap_or_default();
        let split = |path: &str| path.trim_start_matches('.').split('.').map(str::to_owned).collect::<Vec<_>>();
        let scale = subresources.scale.as_ref().map(|scale| ScalePaths {
            spec: split(&scale.spec_replicas_path),
            status: split(&scale.status_replicas_path),
            selector: scale.label_selector_path.as_deref().filter(|p| !p.is_empty()).map(split),
        });
        let mut hasher = DefaultHasher::new();
        (definition, &version.name).hash(&mut hasher);
        CustomKind {
            info: info_of(crd, names, version, subresources.status.is_some(), scale.is_some()),
            id: hasher.finish(),
            served: version.served,
            deprecation: deprecation_of(crd, version),
            types: types::types_of(&schema),
            rules: Rules::compile(props),
            published: Published::new(props, &selectable),
            paths: columns
                .iter()
                .filter_map(|c| Some((JsonPath::parse(&c.json_path).ok()?, c.type_.clone())))
                .collect(),
            columns: std::iter::once(name_column()).chain(columns.iter().map(column)).collect(),
            selectable_paths: selectable.iter().filter_map(|p| JsonPath::parse(p).ok()).collect(),
            selectable: selectable.iter().map(|p| p.trim_start_matches('.').to_owned().into()).collect(),
            has_status: subresources.status.is_some(),
            scale,
            schema,
        }
    }

    /// Tells kinds apart that treat the same bytes differently.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether the version is served.
    pub fn is_served(&self) -> bool {
        self.served
    }

    /// The text for `Warning:` headers of a deprecated version.
    pub fn deprecation(&self) -> Option<&str> {
        self.deprecation.as_deref()
    }

    /// The schema for OpenAPI documents.
    pub fn published(&self) -> &Published {
        &self.published
    }

    /// Bytes to an object, and what a strict server complains about besides duplicates. `lenient` drops metadata that cannot be
    /// read, for objects from before it was checked.
    fn read(&self, mut value: Value, lenient: bool) -> Result<(Unstructured, Vec<String>), DecodeError> {
        let wrong = |why: String| DecodeError { kind: "Unstructured", source: serde::de::Error::custom(why) };
        let mut unknown = Vec::new();
        if let Some(meta) = value.get_mut("metadata").filter(|m| !m.is_null()) {
            match embedded::read_meta(meta) {
                Ok((read, extra)) => {
                    unknown.extend(extra.into_iter().map(|field| format!("metadata.{field}")));
                    *meta = read;
                }
                Err(_) if lenient => *meta = embedded::valid_fields(meta),
                Err(why) => return Err(wrong(why)),
            }
        }
        let mut object = Unstructured::from_value(value)?;
        unknown.extend(prune::prune_root(&mut object.body, &self.schema));
        prune::drop_nulls(&mut object.body, &self.schema);
        let coerced = embedded::coerce(&self.schema, &mut object.body, lenient);
        unknown.extend(coerced.map_err(|error| wrong(error.to_string()))?);
        Ok((object, unknown))
    }

    /// An object of any version under this one's name, pruned as its schema says.
    pub fn rename(&self, mut value: Value) -> Result<Unstructured, DecodeError> {
        value["apiVersion"] = self.info.api_version().into();
        Ok(self.read(value, true)?.0)
    }

    /// The same as readers see it: with defaults.
    pub fn adopt(&self, value: Value) -> Result<Unstructured, DecodeError> {
        let mut object = self.rename(value)?;
        prune::default(&mut object.body, &self.schema);
        // Very old objects have no generation.
        if object.metadata.generation.unwrap_or(0) == 0 {
            object.metadata.generation = Some(1);
        }
        Ok(object)
    }

    fn identity_errors(&self, object: &Unstructured) -> Errors {
        let mut errors = Vec::new();
        let pairs = [
            ("kind", &object.kind, self.info.kind.to_string()),
            ("apiVersion", &object.api_version, self.info.api_version()),
        ];
        for (field, found, wanted) in pairs {
            if *found != wanted {
                errors.push(FieldError::invalid(&Path::new(field), found, &format!("must be {wanted}")));
            }
        }
        errors
    }

    /// `ValidateScaleSpec` and `ValidateScaleStatus`.
    fn scale_errors(&self, whole: &Value, status_only: bool) -> Errors {
        let Some(scale) = &self.scale else { return Vec::new() };
        let mut errors = Vec::new();
        let mut number = |path: &[String]| {
            let at = Path::new(&format!(".{}", path.join(".")));
            match at_path(whole, path) {
                None => {}
                Some(value) => match value.as_i64() {
                    None => errors.push(FieldError::invalid(&at, 0i64, &accessor_error(path, value, "int64"))),
                    Some(n) if n < 0 => errors.push(FieldError::invalid(&at, n, "should be a non-negative integer")),
                    Some(n) if n > i64::from(i32::MAX) => {
                        let detail = format!("should be less than or equal to {}", i32::MAX);
                        errors.push(FieldError::invalid(&at, n, &detail));
                    }
                    Some(_) => {}
                },
            }
        };
        if !status_only {
            number(&scale.spec);
        }
        number(&scale.status);
        if let Some(path) = &scale.selector
            && let Some(value) = at_path(whole, path).filter(|v| !v.is_string())
        {
            let at = Path::new(&format!(".{}", path.join(".")));
            errors.push(FieldError::invalid(&at, "", &accessor_error(path, value, "string")));
        }
        errors
    }
}

/// The value below a path of names.
pub fn at_path<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, name| value.get(name))
}

fn accessor_error(path: &[String], value: &Value, wanted: &str) -> String {
    let found = match value {
        Value::Null => "<nil>",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    };
    let shown = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    format!(".{} accessor error: {shown} is of the type {found}, expected {wanted}", path.join("."))
}

/// Errors that keep rules from being run (`hasBlockingErr`).
fn block_rules(errors: &Errors) -> bool {
    let blocking = |e: &FieldError| {
        matches!(
            e.kind,
            ErrorType::NotSupported
                | ErrorType::Required
                | ErrorType::TooLong
                | ErrorType::TooMany
                | ErrorType::TypeInvalid
        )
    };
    errors.iter().any(blocking)
}

fn of(object: &dyn AnyObject) -> &Unstructured {
    downcast_ref(object).expect("a kind is given only objects that it decoded itself")
}

fn of_mut(object: &mut dyn AnyObject) -> &mut Unstructured {
    downcast_mut(object).expect("a kind is given only objects that it decoded itself")
}

fn parse(bytes: &[u8]) -> Result<Value, DecodeError> {
    serde_json::from_slice(bytes).map_err(|source| DecodeError { kind: "Unstructured", source })
}

impl Kind for CustomKind {
    fn info(&self) -> &KindInfo {
        &self.info
    }

    fn decode(&self, bytes: &[u8]) -> Result<Box<dyn AnyObject>, DecodeError> {
        let (mut object, _) = self.read(parse(bytes)?, false)?;
        // A body that does not say what it is, is what the URL says.
        if object.api_version.is_empty() {
            object.api_version = self.info.api_version();
        }
        if object.kind.is_empty() {
            object.kind = self.info.kind.to_string();
        }
        Ok(Box::new(object))
    }

    /// Go decodes `1.0` as a float and writes it as `1`: whole numbers are integers once they are written, however they came.
    fn encode(&self, object: &dyn AnyObject) -> Vec<u8> {
        match downcast_ref::<Unstructured>(object) {
            Some(custom) if custom.body.values().any(json::has_whole_floats) => {
                let mut written = custom.clone();
                written.body.values_mut().for_each(json::make_whole);
                AnyObject::encode(&written)
            }
            _ => object.encode(),
        }
    }

    fn check(&self, json: &[u8]) -> Result<Verdict, BodyError> {
        let parsed = parse_json(json)?;
        let mut problems = parsed.problems;
        let (_, unknown) = self.read(parsed.value, false).map_err(|e| BodyError::Type(e.source.to_string()))?;
        problems.extend(unknown.into_iter().map(|path| format!("unknown field \"{path}\"")));
        Ok(Verdict { problems, adjusted: false })
    }

    fn schema(&self) -> Option<SchemaRef<'_>> {
        Some(SchemaRef { schema: &self.types.0, ty: self.types.1 })
    }

    fn revision(&self) -> u64 {
        self.id
    }

    fn default(&self, object: &mut dyn AnyObject) {
        prune::default(&mut of_mut(object).body, &self.schema);
    }

    fn prepare_create(&self, object: &mut dyn AnyObject) {
        let object = of_mut(object);
        object.metadata.deletion_timestamp = None;
        object.metadata.deletion_grace_period_seconds = None;
        object.metadata.generation = Some(1);
        if self.has_status {
            object.body.remove("status");
            // Upstream's defaults come again when the stored object is read.
            prune::default(&mut object.body, &self.schema);
        }
    }

    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, subresource: Option<&str>) {
        let (new, old) = (of_mut(new), of(old));
        metadata::before_prepare_update(&mut new.metadata, &old.metadata);
        if subresource == Some("status") {
            let status = new.body.remove("status");
            let managed = new.metadata.managed_fields.take();
            *new = old.clone();
            new.metadata.managed_fields = managed;
            match status {
                Some(status) => new.body.insert("status".to_owned(), status),
                None => new.body.remove("status"),
            };
        } else {
            if self.has_status {
                match old.body.get("status") {
                    Some(status) => new.body.insert("status".to_owned(), status.clone()),
                    None => new.body.remove("status"),
                };
            }
            // Everything but metadata makes a new generation.
            if new.body != old.body || new.kind != old.kind || new.api_version != old.api_version {
                new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
            }
        }
        metadata::after_prepare_update(&mut new.metadata, &old.metadata, false);
    }

    fn validate_create(&self, object: &dyn AnyObject) -> Errors {
        let object = of(object);
        let mut errors = self.identity_errors(object);
        if !errors.is_empty() {
            return errors;
        }
        let whole = object.to_value();
        let meta = Path::new("metadata");
        errors.extend(metadata::validate_at(&object.metadata, self.info.namespaced, is_dns1123_subdomain, &meta));
        errors.extend(validate::validate(&self.schema, &whole, &Path::root()));
        errors.extend(self.scale_errors(&whole, false));
        errors.extend(embedded::validate(&self.schema, &whole, &Path::root()));
        errors.extend(list_errors(&self.schema, &whole));
        self.add_rule_errors(&mut errors, &whole, None);
        errors
    }

    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, subresource: Option<&str>) -> Errors {
        let (new, old) = (of(new), of(old));
        let mut errors = self.identity_errors(new);
        if !errors.is_empty() {
            return errors;
        }
        let (whole, before) = (new.to_value(), old.to_value());
        errors.extend(metadata::validate_update(&new.metadata, &old.metadata));
        if subresource == Some("status") {
            if let (Some(status), Some(schema)) = (whole.get("status"), self.schema.properties.get("status")) {
                let path = Path::new("status");
                errors.extend(validate::validate_update(schema, status, before.get("status"), &path));
            }
            errors.extend(self.scale_errors(&whole, true));
        } else {
            errors.extend(validate::validate_update(&self.schema, &whole, Some(&before), &Path::root()));
            errors.extend(self.scale_errors(&whole, false));
            errors.extend(embedded::validate(&self.schema, &whole, &Path::root()));
        }
        if list_errors(&self.schema, &before).is_empty() {
            errors.extend(list_errors(&self.schema, &whole));
        }
        self.add_rule_errors(&mut errors, &whole, Some(&before));
        errors
    }

    fn warnings(&self, object: &dyn AnyObject, old: Option<&dyn AnyObject>) -> Vec<String> {
        let had = old.and_then(|old| old.meta().finalizers.clone()).unwrap_or_default();
        let mut new: Vec<&String> = object.meta().finalizers.iter().flatten().filter(|f| !had.contains(f)).collect();
        new.sort();
        new.iter().flat_map(|finalizer| finalizer_warnings(finalizer)).collect()
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn selectable_fields(&self, object: &dyn AnyObject) -> Vec<(Cow<'static, str>, String)> {
        if self.selectable.is_empty() {
            return Vec::new();
        }
        let whole = of(object).to_value();
        let text = |path: &JsonPath| match path.find(&whole).ok().and_then(|found| found.into_iter().next()) {
            None => String::new(),
            Some(value) => match value.as_ref() {
                Value::Null => String::new(),
                Value::String(text) => text.clone(),
                other => other.to_string(),
            },
        };
        self.selectable.iter().cloned().zip(self.selectable_paths.iter().map(text)).collect()
    }

    fn selectable_field_names(&self) -> &[Cow<'static, str>] {
        &self.selectable
    }

    fn scale(&self) -> Option<&ScalePaths> {
        self.scale.as_ref()
    }

    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn cells(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value> {
        let object = of(object);
        let whole = object.to_value();
        let mut cells = vec![Value::from(object.metadata.name.clone().unwrap_or_default())];
        cells.extend(self.paths.iter().map(|(path, ty)| {
            let found = path.find(&whole).ok().and_then(|found| found.into_iter().next());
            found.map_or(Value::Null, |value| cell(ty, &value, now))
        }));
        cells
    }
}

impl CustomKind {
    fn add_rule_errors(&self, errors: &mut Errors, new: &Value, old: Option<&Value>) {
        if self.rules.is_empty() {
            return;
        }
        if block_rules(errors) {
            let why = "some validation rules were not checked because the object was invalid; correct the existing errors to complete validation";
            errors.push(FieldError::invalid(&Path::root(), &Value::Null, why));
        } else {
            errors.extend(self.rules.evaluate(&self.schema, new, old));
        }
    }
}

fn list_errors(schema: &Structural, whole: &Value) -> Errors {
    let empty = Map::new();
    lists::validate_lists(schema, whole.as_object().unwrap_or(&empty), &Path::root())
}

/// `validateKubeFinalizerName`
fn finalizer_warnings(finalizer: &str) -> Vec<String> {
    let at = |why: &str| format!("metadata.finalizers: {finalizer:?}: {why}");
    let mut all: Vec<String> = is_label_key(finalizer).iter().map(|why| at(why)).collect();
    if !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion") {
        all.push(at(if finalizer.contains('.') {
            "prefer a domain-qualified finalizer name including a path (/) to avoid accidental conflicts with other finalizer writers"
        } else {
            "prefer a domain-qualified finalizer name to avoid accidental conflicts with other finalizer writers"
        }));
    }
    all
}

// === facts ===

fn info_of(
    crd: &CustomResourceDefinition,
    names: &api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinitionNames,
    version: &CustomResourceDefinitionVersion,
    status: bool,
    scale: bool,
) -> KindInfo {
    let words = |list: &Option<Vec<String>>| list.iter().flatten().map(|w| Cow::Owned(w.clone())).collect();
    let verbs = |list: &[&'static str]| list.iter().map(|v| Cow::Borrowed(*v)).collect::<Vec<_>>();
    let subresource = |name: &'static str, kind: String, group: &'static str, version: &'static str| Subresource {
        name: name.into(),
        kind: kind.into(),
        group: group.into(),
        version: version.into(),
        verbs: verbs(&["get", "patch", "update"]),
    };
    let mut subresources = Vec::new();
    if scale {
        subresources.push(subresource("scale", "Scale".into(), "autoscaling", "v1"));
    }
    if status {
        subresources.push(subresource("status", names.kind.clone(), "", ""));
    }
    let list_kind = names.list_kind.clone().filter(|k| !k.is_empty());
    KindInfo {
        group: crd.spec.group.clone().into(),
        version: version.name.clone().into(),
        kind: names.kind.clone().into(),
        list_kind: list_kind.unwrap_or_else(|| format!("{}List", names.kind)).into(),
        plural: names.plural.clone().into(),
        singular: names.singular.clone().unwrap_or_default().into(),
        short_names: words(&names.short_names),
        categories: words(&names.categories),
        namespaced: crd.spec.scope == "Namespaced",
        verbs: verbs(&["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]),
        subresources,
        storage: format!("{}/{}", crd.spec.group, names.plural).into(),
    }
}

fn deprecation_of(crd: &CustomResourceDefinition, version: &CustomResourceDefinitionVersion) -> Option<String> {
    if version.deprecated != Some(true) {
        return None;
    }
    if let Some(text) = &version.deprecation_warning {
        return Some(text.clone());
    }
    let (group, kind) = (&crd.spec.group, &crd.spec.names.kind);
    let newer = crd.spec.versions.iter().filter(|v| {
        v.served && v.deprecated != Some(true) && compare_versions(&version.name, &v.name) == Ordering::Less
    });
    let best = newer.max_by(|a, b| compare_versions(&a.name, &b.name));
    let instead = best.map(|v| format!("; use {group}/{} {kind}", v.name)).unwrap_or_default();
    Some(format!("{group}/{} {kind} is deprecated{instead}", version.name))
}

/// `version.CompareKubeAwareVersionStrings`: v2 over v1 over v1beta2 over v1alpha1 over anything else.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    fn parts(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..end].parse().ok()?;
        let (stage, minor) = match &rest[end..] {
            "" => (2, ""),
            stage => match (stage.strip_prefix("beta"), stage.strip_prefix("alpha")) {
                (Some(minor), _) => (1, minor),
                (_, Some(minor)) => (0, minor),
                _ => return None,
            },
        };
        let minor = if stage == 2 { 0 } else { minor.parse().ok()? };
        Some((stage, major, minor))
    }
    match (parts(a), parts(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (Some(_), None) => Ordering::Greater,
        (None, Some(_)) => Ordering::Less,
        // Otherwise the alphabet's first is the best.
        (None, None) => b.cmp(a),
    }
}

// === tables ===

fn name_column() -> Column {
    Column {
        name: "Name".into(),
        ty: "string",
        format: "name",
        priority: 0,
        description: crate::openapi::description("io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta", "name").into(),
    }
}

fn columns_of(version: &CustomResourceDefinitionVersion) -> Vec<CustomResourceColumnDefinition> {
    let given = version.additional_printer_columns.clone().unwrap_or_default();
    // Upstream shows none at all if one cannot be read.
    if given.iter().any(|c| JsonPath::parse(&c.json_path).is_err()) {
        return Vec::new();
    }
    if !given.is_empty() {
        return given;
    }
    vec![CustomResourceColumnDefinition {
        name: "Age".into(),
        type_: "date".into(),
        description: Some(crate::openapi::description(
            "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
            "creationTimestamp",
        )),
        json_path: ".metadata.creationTimestamp".into(),
        ..CustomResourceColumnDefinition::default()
    }]
}

fn column(column: &CustomResourceColumnDefinition) -> Column {
    let known = |list: &[&'static str], text: &str| list.iter().copied().find(|t| *t == text).unwrap_or_default();
    let description = column.description.clone().filter(|d| !d.is_empty());
    let default = || format!("Custom resource definition column (in JSONPath format): {}", column.json_path);
    Column {
        name: column.name.clone().into(),
        ty: known(&TYPES, &column.type_),
        format: known(&FORMATS, column.format.as_deref().unwrap_or_default()),
        priority: column.priority.unwrap_or(0),
        description: description.unwrap_or_else(default).into(),
    }
}

/// One cell (`cellForJSONValue`). Texts are printed as kubectl's JSONPath prints them.
fn cell(ty: &str, value: &Value, now: jiff::Timestamp) -> Value {
    match (ty, value) {
        ("string", Value::String(text)) => text.clone().into(),
        ("string", other) => other.to_string().into(),
        ("integer", Value::Number(n)) if n.is_i64() => value.clone(),
        #[expect(clippy::cast_possible_truncation, reason = "as Go converts")]
        ("integer", Value::Number(n)) => n.as_f64().map(|f| f as i64).into(),
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<jiff::Timestamp>() {
            Ok(time) => human_duration(now.duration_since(time)).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}
