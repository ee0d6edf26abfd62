//! Extensions of the API: CustomResourceDefinition
//! (`apiextensions-apiserver/pkg/registry/customresourcedefinition/strategy.go`, `pkg/apis/apiextensions/validation`)
//! and APIService (`kube-aggregator/pkg/registry/apiservice/strategy.go`).
//!
//! What a definition's schemas may say is in [`crate::custom::check`].

use super::common::{age, age_column, bump_if_spec_changed, column, name, name_column, set, str_of, text};
use super::metadata::reset_for_status;
use super::{Column, Strategy};
use crate::custom::check::{self, Strictness};
use crate::custom::names;
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    IMMUTABLE, Messages, WebhookService, is_dns1035_label, is_dns1123_subdomain, is_path_segment_name, is_valid_port,
    one_of, required, validate_review_versions, validate_webhook_client,
};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceConversion, CustomResourceDefinition, CustomResourceDefinitionNames,
    CustomResourceDefinitionSpec, CustomResourceDefinitionStatus, CustomResourceDefinitionVersion,
    CustomResourceSubresourceScale,
};
use api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceCondition, APIServiceStatus};
use api::prelude::MetaExt;
use serde_json::{Value, json};

/// What is particular about a CustomResourceDefinition.
pub(super) struct CustomResourceDefinitionKind;

impl Strategy for CustomResourceDefinitionKind {
    type Object = CustomResourceDefinition;

    const CHECKS_FINALIZERS: bool = false;

    fn default(crd: &mut CustomResourceDefinition) {
        let spec = &mut crd.spec;
        let kind = spec.names.kind.clone();
        if !kind.is_empty() {
            text(&mut spec.names.singular, &kind.to_lowercase());
            text(&mut spec.names.list_kind, &format!("{kind}List"));
        }
        set(
            &mut spec.conversion,
            CustomResourceConversion { strategy: "None".to_owned(), ..CustomResourceConversion::default() },
        );
        let service =
            spec.conversion.as_mut().and_then(|c| c.webhook.as_mut()?.client_config.as_mut()?.service.as_mut());
        if let Some(service) = service {
            set(&mut service.port, 443);
        }
        if crd.status.as_ref().and_then(|s| s.stored_versions.as_ref()).is_none_or(Vec::is_empty) {
            add_stored_version(crd);
        }
    }

    fn prepare_create(crd: &mut CustomResourceDefinition) {
        crd.status = Some(CustomResourceDefinitionStatus::default());
        crd.metadata.generation = Some(1);
        add_stored_version(crd);
    }

    fn prepare_update(new: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
        add_stored_version(new);
    }

    fn prepare_status_update(new: &mut CustomResourceDefinition, old: &CustomResourceDefinition) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(crd: &CustomResourceDefinition) -> Errors {
        let spec = &crd.spec;
        let mut errors = Vec::new();
        if !crd.name().is_empty() && crd.name() != format!("{}.{}", spec.names.plural, spec.group) {
            let detail = r#"must be spec.names.plural+"."+spec.group"#;
            errors.push(FieldError::invalid(&Path::new("metadata").child("name"), crd.name(), detail));
        }
        errors.extend(validate_spec(spec, &Path::new("spec")));
        errors.extend(validate_accepted(crd));
        errors.extend(validate_stored_versions(crd));
        if spec.preserve_unknown_fields == Some(true) {
            let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                          spec.versions[*].schema instead";
            errors.push(FieldError::invalid(&Path::new("spec").child("preserveUnknownFields"), &json!(true), detail));
        }
        errors
    }

    fn validate_create(crd: &CustomResourceDefinition) -> Errors {
        let mut errors = validate_schemas(&crd.spec, None);
        // The rule for names, which no prefix of one can keep to.
        let prefix = crd.metadata.generate_name.as_deref().unwrap_or_default();
        if !prefix.is_empty() && prefix != format!("{}.{}", crd.spec.names.plural, crd.spec.group) {
            let path = Path::new("metadata").child("generateName");
            errors.push(FieldError::invalid(&path, prefix, r#"must be spec.names.plural+"."+spec.group"#));
        }
        errors.extend(validate_approval(crd));
        errors
    }

    fn validate_update(new: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Errors {
        let path = Path::new("spec");
        let mut errors = validate_schemas(&new.spec, Some(&old.spec));
        errors.extend(validate_bundle(new, old));
        if approval(new) != approval(old) {
            errors.extend(validate_approval(new));
        }
        let (n, o) = (&new.spec, &old.spec);
        let mut fields = vec![
            (path.child("group"), &n.group, &o.group),
            (path.child("names").child("plural"), &n.names.plural, &o.names.plural),
        ];
        if names::is_true(old, "Established") {
            fields.insert(0, (path.child("scope"), &n.scope, &o.scope));
            fields.insert(1, (path.child("names").child("kind"), &n.names.kind, &o.names.kind));
        }
        for (path, new, _) in fields.into_iter().filter(|(_, new, old)| new != old) {
            errors.push(FieldError::invalid(&path, new, IMMUTABLE));
        }
        errors
    }

    fn validate_status_update(new: &CustomResourceDefinition, _old: &CustomResourceDefinition) -> Errors {
        validate_accepted(new)
    }

    fn warnings(crd: &CustomResourceDefinition, _old: Option<&CustomResourceDefinition>) -> Vec<String> {
        let formats = check::unknown_formats(&crd.spec);
        formats.iter().map(|format| format!("unrecognized format {format:?}")).collect()
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;
}

/// Schemas and what refers to them.
fn validate_schemas(spec: &CustomResourceDefinitionSpec, old: Option<&CustomResourceDefinitionSpec>) -> Errors {
    let mut errors = Vec::new();
    let strictness = old.map_or(Strictness::FULL, Strictness::after);
    let path = Path::new("spec");
    let alike = Alike::of(&spec.versions);
    let with_status = spec.versions.iter().find(|v| v.subresources.as_ref().is_some_and(|s| s.status.is_some()));
    for (i, version) in spec.versions.iter().enumerate() {
        let mut before = old.into_iter().flat_map(|o| &o.versions).filter(|o| o.name == version.name);
        let same = before.any(|o| o.schema == version.schema);
        let strictness = if same { strictness.of_same_schema() } else { strictness };
        let version_path = path.child("versions").index(i);
        if !alike.schemas {
            errors.extend(check::schema_errors(version, &version_path.child("schema"), strictness));
        } else if i == 0 {
            let version = with_status.unwrap_or(version);
            errors.extend(check::schema_errors(version, &path.child("validation"), strictness));
        }
        if let Some(path) = Alike::path(alike.selectable_fields, &path, i) {
            errors.extend(check::selectable_errors(version, &path.child("selectableFields")));
        }
    }
    errors
}

/// Which parts all versions have in common: upstream's internal type has them once, in the spec, and its errors name them there
/// (`apiextensions/v1/conversion.go`).
struct Alike {
    schemas: bool,
    subresources: bool,
    columns: bool,
    selectable_fields: bool,
}

impl Alike {
    fn of(versions: &[CustomResourceDefinitionVersion]) -> Self {
        let all = |same: &dyn Fn(&CustomResourceDefinitionVersion, &CustomResourceDefinitionVersion) -> bool| {
            versions.iter().all(|version| same(version, &versions[0]))
        };
        Alike {
            schemas: all(&|a, b| a.schema == b.schema),
            subresources: all(&|a, b| a.subresources == b.subresources),
            columns: all(&|a, b| a.additional_printer_columns == b.additional_printer_columns),
            selectable_fields: all(&|a, b| a.schema == b.schema && a.selectable_fields == b.selectable_fields),
        }
    }

    /// What a part of a version stands below; `None` if it was looked at with the first one. `spec` is the path of the spec.
    fn path(is_alike: bool, spec: &Path, version: usize) -> Option<Path> {
        match (is_alike, version) {
            (true, 0) => Some(spec.clone()),
            (true, _) => None,
            (false, version) => Some(spec.child("versions").index(version)),
        }
    }
}

/// A bundle that cannot be read may stay, or be given while nothing is served yet.
fn validate_bundle(new: &CustomResourceDefinition, old: &CustomResourceDefinition) -> Errors {
    let bundle = |crd: &CustomResourceDefinition| {
        let webhook = crd.spec.conversion.as_ref()?.webhook.as_ref()?;
        Some(webhook.client_config.as_ref()?.ca_bundle.as_ref()?.0.clone())
    };
    let valid = |bundle: &Option<Vec<u8>>| bundle.as_ref().is_none_or(|b| check::is_ca_bundle(b));
    let (before, after) = (bundle(old), bundle(new));
    if !names::is_true(old, "Established") || valid(&after) || !valid(&before) {
        return Vec::new();
    }
    let path = Path::new("spec").child("conversion").child("webhookClientConfig").child("caBundle");
    let detail = "unable to load root certificates: unable to parse bytes as PEM block";
    vec![FieldError::invalid(&path, &json!(after), detail)]
}

/// Notes the version that objects are stored in.
fn add_stored_version(crd: &mut CustomResourceDefinition) {
    let Some(version) = crd.spec.versions.iter().find(|v| v.storage).map(|v| v.name.clone()) else { return };
    let stored = crd.status.get_or_insert_default().stored_versions.get_or_insert_default();
    if !stored.contains(&version) {
        stored.push(version);
    }
}

/// All messages in one, as upstream joins them here.
fn joined(errors: &mut Errors, path: &Path, value: &str, messages: &[String]) {
    if !messages.is_empty() {
        errors.push(FieldError::invalid(path, value, &messages.join(",")));
    }
}

fn validate_spec(spec: &CustomResourceDefinitionSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let group_path = path.child("group");
    let wrong = is_dns1123_subdomain(&spec.group);
    if spec.group.is_empty() {
        errors.push(FieldError::required(&group_path, ""));
    } else if wrong.is_empty() && !spec.group.contains('.') {
        errors.push(FieldError::invalid(&group_path, &spec.group, "should be a domain with at least one dot"));
    } else {
        joined(&mut errors, &group_path, &spec.group, &wrong);
    }
    if spec.scope.is_empty() {
        errors.push(FieldError::required(&path.child("scope"), ""));
    } else {
        one_of(&mut errors, &path.child("scope"), &spec.scope, &["Cluster", "Namespaced"]);
    }
    errors.extend(validate_versions(&spec.versions, path));
    let names = &spec.names;
    let needed = [
        ("plural", names.plural.as_str()),
        ("singular", str_of(&names.singular)),
        ("kind", names.kind.as_str()),
        ("listKind", str_of(&names.list_kind)),
    ];
    for (field, value) in needed {
        required(&mut errors, &path.child("names").child(field), value);
    }
    errors.extend(validate_names(names, &path.child("names")));
    if let Some(conversion) = &spec.conversion {
        errors.extend(validate_conversion(conversion, &path.child("conversion")));
    }
    errors
}

fn validate_versions(versions: &[CustomResourceDefinitionVersion], spec: &Path) -> Errors {
    let mut errors = Vec::new();
    let path = &spec.child("versions");
    let alike = Alike::of(versions);
    for (i, version) in versions.iter().enumerate() {
        if version.schema.as_ref().is_none_or(|s| s.open_api_v3_schema.is_none()) {
            let path = path.index(i).child("schema").child("openAPIV3Schema");
            errors.push(FieldError::required(&path, ""));
        }
    }
    for (i, version) in versions.iter().enumerate() {
        let path = path.index(i);
        joined(&mut errors, &path.child("name"), &version.name, &is_dns1035_label(&version.name));
        errors.extend(validate_deprecation(version, &path));
        if let Some(path) = Alike::path(alike.subresources, spec, i)
            && let Some(scale) = version.subresources.as_ref().and_then(|s| s.scale.as_ref())
        {
            errors.extend(validate_scale(scale, &path.child("subresources")));
        }
        if let Some(path) = Alike::path(alike.columns, spec, i) {
            let path = path.child("additionalPrinterColumns");
            let columns = version.additional_printer_columns.iter().flatten().enumerate();
            errors.extend(columns.flat_map(|(i, column)| validate_column(column, &path.index(i))));
        }
    }
    let unique = (0..versions.len()).all(|i| versions[..i].iter().all(|v| v.name != versions[i].name));
    let stored = versions.iter().filter(|v| v.storage).count();
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(path, &json!(versions), detail));
    if !unique {
        wrong("must contain unique version names");
    }
    if stored != 1 {
        wrong("must have exactly one version marked as storage version");
    }
    // Upstream's internal type says the first one's name once more.
    if let Some(first) = versions.first().filter(|first| !first.name.is_empty()) {
        joined(&mut errors, &spec.child("version"), &first.name, &is_dns1035_label(&first.name));
    }
    errors
}

fn validate_deprecation(version: &CustomResourceDefinitionVersion, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(warning) = &version.deprecation_warning {
        let path = path.child("deprecationWarning");
        let mut wrong = |detail: &str| errors.push(FieldError::invalid(&path, warning, detail));
        if version.deprecated != Some(true) {
            wrong("can only be set for deprecated versions");
        } else if warning.len() > 256 {
            wrong("must be <= 256 characters long");
        } else if warning.is_empty() {
            wrong("must not be an empty string");
        }
    }
    errors
}

fn validate_json_path(target: &str, path: &Path) -> Errors {
    if target.starts_with('.') {
        return Vec::new();
    }
    vec![FieldError::invalid(path, target, "must be a simple json path starting with .")]
}

fn validate_scale(scale: &CustomResourceSubresourceScale, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let paths = [
        (
            "scale.specReplicasPath",
            scale.spec_replicas_path.as_str(),
            &[".spec."][..],
            "should be a json path under .spec",
        ),
        ("scale.statusReplicasPath", &scale.status_replicas_path, &[".status."], "should be a json path under .status"),
        (
            "scale.labelSelectorPath",
            str_of(&scale.label_selector_path),
            &[".spec.", ".status."],
            "should be a json path under either .spec or .status",
        ),
    ];
    for (field, target, roots, detail) in paths {
        let path = path.child(field);
        let malformed = validate_json_path(target, &path);
        if target.is_empty() {
            if field != "scale.labelSelectorPath" {
                errors.push(FieldError::required(&path, ""));
            }
        } else if !malformed.is_empty() {
            errors.extend(malformed);
        } else if !roots.iter().any(|root| target.starts_with(root)) {
            errors.push(FieldError::invalid(&path, target, detail));
        }
    }
    errors
}

fn validate_column(column: &CustomResourceColumnDefinition, path: &Path) -> Errors {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    let mut errors = Vec::new();
    required(&mut errors, &path.child("name"), &column.name);
    let detail = format!("must be one of {}", TYPES.join(","));
    if column.type_.is_empty() {
        errors.push(FieldError::required(&path.child("type"), &detail));
    } else if !TYPES.contains(&column.type_.as_str()) {
        errors.push(FieldError::invalid(&path.child("type"), &column.type_, &detail));
    }
    let format = str_of(&column.format);
    if !format.is_empty() && !FORMATS.contains(&format) {
        let detail = format!("must be one of {}", FORMATS.join(","));
        errors.push(FieldError::invalid(&path.child("format"), format, &detail));
    }
    // Upstream's spelling.
    let json_path = path.child("JSONPath");
    if column.json_path.is_empty() {
        errors.push(FieldError::required(&json_path, ""));
    } else {
        errors.extend(validate_json_path(&column.json_path, &json_path));
    }
    errors
}

fn validate_names(names: &CustomResourceDefinitionNames, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let list_kind = str_of(&names.list_kind);
    for (field, value) in [("plural", names.plural.as_str()), ("singular", str_of(&names.singular))] {
        if !value.is_empty() {
            joined(&mut errors, &path.child(field), value, &is_dns1035_label(value));
        }
    }
    for (field, value) in [("kind", names.kind.as_str()), ("listKind", list_kind)] {
        let wrong = is_dns1035_label(&value.to_lowercase());
        if !value.is_empty() && !wrong.is_empty() {
            let detail = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(FieldError::invalid(&path.child(field), value, &detail));
        }
    }
    for (i, name) in names.short_names.iter().flatten().enumerate() {
        joined(&mut errors, &path.child("shortNames").index(i), name, &is_dns1035_label(name));
    }
    if !names.kind.is_empty() && names.kind == list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(FieldError::invalid(&path.child("listKind"), list_kind, detail));
    }
    for (i, category) in names.categories.iter().flatten().enumerate() {
        joined(&mut errors, &path.child("categories").index(i), category, &is_dns1035_label(category));
    }
    errors
}

fn validate_conversion(conversion: &CustomResourceConversion, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if conversion.strategy.is_empty() {
        errors.push(FieldError::required(&path.child("strategy"), ""));
    } else {
        one_of(&mut errors, &path.child("strategy"), &conversion.strategy, &["None", "Webhook"]);
    }
    // Upstream checks the internal version, whose fields are one level higher than v1's.
    let client_path = path.child("webhookClientConfig");
    let client = conversion.webhook.as_ref().and_then(|w| w.client_config.as_ref());
    let versions = conversion.webhook.as_ref().map(|w| w.conversion_review_versions.as_slice()).unwrap_or_default();
    if conversion.strategy != "Webhook" {
        let fields = [(client_path, client.is_some()), (path.child("conversionReviewVersions"), !versions.is_empty())];
        for (path, _) in fields.into_iter().filter(|(_, is_set)| *is_set) {
            errors.push(FieldError::forbidden(&path, "should not be set when strategy is not set to Webhook"));
        }
        return errors;
    }
    match client {
        None => errors.push(FieldError::required(&client_path, "required when strategy is set to Webhook")),
        Some(client) => {
            let service = client.service.as_ref().map(|s| WebhookService {
                name: &s.name,
                namespace: &s.namespace,
                path: s.path.as_deref(),
                port: s.port.unwrap_or(0),
            });
            errors.extend(validate_webhook_client(client.url.as_deref(), service, &client_path));
        }
    }
    errors.extend(validate_review_versions(versions, "", &path.child("conversionReviewVersions")));
    errors
}

fn validate_accepted(crd: &CustomResourceDefinition) -> Errors {
    let path = Path::new("status").child("acceptedNames");
    let names = crd.status.as_ref().and_then(|s| s.accepted_names.as_ref());
    names.map(|n| validate_names(n, &path)).unwrap_or_default()
}

fn validate_stored_versions(crd: &CustomResourceDefinition) -> Errors {
    let path = Path::new("status").child("storedVersions");
    let stored = crd.status.as_ref().and_then(|s| s.stored_versions.as_deref()).unwrap_or_default();
    if stored.is_empty() {
        return vec![FieldError::invalid(&path, &json!(stored), "must have at least one stored version")];
    }
    let mut errors = Vec::new();
    let versions = &crd.spec.versions;
    for version in versions.iter().filter(|v| v.storage && !stored.contains(&v.name)) {
        let detail = format!("must have the storage version {}", version.name);
        errors.push(FieldError::invalid(&path, &json!(stored), &detail));
    }
    for (i, name) in stored.iter().enumerate().filter(|(_, name)| versions.iter().all(|v| v.name != **name)) {
        let detail = format!(
            "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
             until a storage migration ensures no data remains persisted in {name} and removes {name} from \
             status.storedVersions"
        );
        errors.push(FieldError::invalid(&path.index(i), name, &detail));
    }
    errors
}

fn approval(crd: &CustomResourceDefinition) -> &str {
    crd.annotation("api-approved.kubernetes.io").unwrap_or_default()
}

/// Groups of the Kubernetes community need an approval, or the word that there is none.
fn validate_approval(crd: &CustomResourceDefinition) -> Errors {
    const KEY: &str = "api-approved.kubernetes.io";
    let protected = check::is_protected_group(&crd.spec.group);
    let approval = approval(crd);
    let is_url = approval.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
    if !protected || approval.starts_with("unapproved") || is_url {
        return Vec::new();
    }
    let path = Path::new("metadata").child("annotations").key(KEY);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if approval.is_empty() {
        let detail = format!("protected groups must have approval annotation {KEY:?}, {see}");
        return vec![FieldError::required(&path, &detail)];
    }
    let detail = format!(
        "protected groups must have approval annotation {KEY:?} with either a URL or a reason starting with \
         \"unapproved\", {see}"
    );
    vec![FieldError::invalid(&path, approval, &detail)]
}

/// What is particular about an APIService: one without a service is served here, and available at once.
pub(super) struct APIServiceKind;

impl Strategy for APIServiceKind {
    type Object = APIService;

    const CHECKS_FINALIZERS: bool = false;

    fn default(service: &mut APIService) {
        if let Some(reference) = service.spec.as_mut().and_then(|s| s.service.as_mut()) {
            set(&mut reference.port, 443);
        }
    }

    fn prepare_create(service: &mut APIService) {
        let mut status = APIServiceStatus::default();
        if service.spec.as_ref().is_none_or(|s| s.service.is_none()) {
            status.conditions = Some(vec![APIServiceCondition {
                type_: "Available".to_owned(),
                status: "True".to_owned(),
                reason: Some("Local".to_owned()),
                message: Some("Local APIServices are always available".to_owned()),
                last_transition_time: service.metadata.creation_timestamp.clone(),
            }]);
        }
        service.status = Some(status);
    }

    fn prepare_update(new: &mut APIService, old: &APIService) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut APIService, old: &APIService) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_name(name: &str) -> Messages {
        is_path_segment_name(name)
    }

    fn validate(service: &APIService) -> Errors {
        validate_service(service)
    }

    fn validate_status_update(new: &APIService, _old: &APIService) -> Errors {
        let mut errors = Vec::new();
        let conditions = new.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        for (i, condition) in conditions.iter().enumerate() {
            let path = Path::new("status").child("conditions").index(i).child("status");
            one_of(&mut errors, &path, &condition.status, &["True", "False", "Unknown"]);
        }
        errors
    }

    const ALLOW_UNCONDITIONAL_UPDATE: bool = false;

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Service"), column("Available"), age_column()]
    }

    fn cells(service: &APIService, now: jiff::Timestamp) -> Vec<Value> {
        let reference = service.spec.as_ref().and_then(|s| s.service.as_ref());
        let place = reference.map(|r| format!("{}/{}", str_of(&r.namespace), str_of(&r.name)));
        let conditions = service.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let available = match conditions.iter().find(|c| c.type_ == "Available") {
            None => "Unknown".to_owned(),
            Some(c) if c.status != "True" && !str_of(&c.reason).is_empty() => {
                format!("{} ({})", c.status, str_of(&c.reason))
            }
            Some(c) => c.status.clone(),
        };
        vec![name(service), place.unwrap_or_else(|| "Local".to_owned()).into(), available.into(), age(service, now)]
    }
}

fn validate_service(service: &APIService) -> Errors {
    let spec = service.spec.clone().unwrap_or_default();
    let (group, version) = (str_of(&spec.group), str_of(&spec.version));
    let path = Path::new("spec");
    let mut errors = Vec::new();
    let name = format!("{version}.{group}");
    let prefix = service.metadata.generate_name.as_deref().unwrap_or_default();
    for (field, given) in [("generateName", prefix), ("name", service.name())] {
        if !given.is_empty() && given != name {
            let detail = format!(r#"must be `spec.version+"."+spec.group`: {name:?}"#);
            errors.push(FieldError::invalid(&Path::new("metadata").child(field), given, &detail));
        }
    }
    if group.is_empty() && version != "v1" {
        let detail = "only v1 may have an empty group and it better be legacy kube";
        errors.push(FieldError::required(&path.child("group"), detail));
    }
    let mut wrong = |field: &str, value: &str, messages: Messages| {
        errors.extend(crate::validation::invalid_each(&path.child(field), value, messages));
    };
    if !group.is_empty() {
        wrong("group", group, is_dns1123_subdomain(group));
    }
    wrong("version", version, is_dns1035_label(version));
    for (field, value, most) in [
        ("groupPriorityMinimum", spec.group_priority_minimum, 20_000),
        ("versionPriority", spec.version_priority, 1000),
    ] {
        if value <= 0 || value > most {
            let detail = format!("must be positive and less than {most}");
            errors.push(FieldError::invalid(&path.child(field), value, &detail));
        }
    }
    let bundle = spec.ca_bundle.as_ref().map_or(0, |b| b.0.len());
    let insecure = spec.insecure_skip_tls_verify == Some(true);
    let Some(reference) = &spec.service else {
        if bundle > 0 {
            let value = format!("{bundle} bytes");
            let detail = "local APIServices may not have a caBundle";
            errors.push(FieldError::invalid(&path.child("caBundle"), &value, detail));
        }
        if insecure {
            let detail = "local APIServices may not have insecureSkipTLSVerify";
            errors.push(FieldError::invalid(&path.child("insecureSkipTLSVerify"), &json!(true), detail));
        }
        return errors;
    };
    let service_path = path.child("service");
    required(&mut errors, &service_path.child("namespace"), str_of(&reference.namespace));
    required(&mut errors, &service_path.child("name"), str_of(&reference.name));
    let port = reference.port.unwrap_or(0);
    let wrong = is_valid_port(i64::from(port));
    if !wrong.is_empty() {
        let detail = format!("port is not valid: {}", wrong.join(", "));
        errors.push(FieldError::invalid(&service_path.child("port"), port, &detail));
    }
    if insecure && bundle > 0 {
        let detail = "may not be true if caBundle is present";
        errors.push(FieldError::invalid(&path.child("insecureSkipTLSVerify"), &json!(true), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update};
    use expect_test::expect;

    const CRD: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com, creationTimestamp: 2024-01-01T00:00:00Z}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object}}}
";

    #[test]
    fn definitions_are_defaulted() {
        check_defaults(
            CRD,
            expect![[r#"
            spec.conversion.strategy: "None"
            spec.names.listKind: "WidgetList"
            spec.names.singular: "widget"
            status.storedVersions[0]: "v1""#]],
        );
        check_create(CRD, expect![""]);
        check_row(
            CRD,
            expect![[r#"
            Name | Created At
            widgets.example.com | 2024-01-01T00:00:00Z"#]],
        );
    }

    #[test]
    fn what_is_wrong_with_definitions() {
        check_create(
            &CRD.replace("group: example.com", "group: example"),
            expect![[r#"
            metadata.name: Invalid value: "widgets.example.com": must be spec.names.plural+"."+spec.group
            spec.group: Invalid value: "example": should be a domain with at least one dot"#]],
        );
        check_create(
            &CRD.replace("kind: Widget", "kind: Widget_s, shortNames: [W]").replace("Namespaced", "All"),
            expect![[r#"
            spec.scope: Unsupported value: "All": supported values: "Cluster", "Namespaced"
            spec.names.singular: Invalid value: "widget_s": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.names.kind: Invalid value: "Widget_s": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.names.listKind: Invalid value: "Widget_sList": may have mixed case, but should otherwise match: a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')
            spec.names.shortNames[0]: Invalid value: "W": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')"#]],
        );
        check_create(
            &CRD.replace("storage: true, schema: {openAPIV3Schema: {type: object}}", "storage: false"),
            expect![[r#"
            spec.versions[0].schema.openAPIV3Schema: Required value
            spec.versions: Invalid value: [{"name":"v1","served":true,"storage":false}]: must have exactly one version marked as storage version
            status.storedVersions: Invalid value: []: must have at least one stored version"#]],
        );
        check_create(
            &CRD.replace(
                "storage: true,",
                "storage: true, additionalPrinterColumns: [{name: a, type: text, jsonPath: spec.a}], \
                 subresources: {scale: {specReplicasPath: .status.n, statusReplicasPath: ''}},",
            ),
            expect![[r#"
                spec.subresources.scale.specReplicasPath: Invalid value: ".status.n": should be a json path under .spec
                spec.subresources.scale.statusReplicasPath: Required value
                spec.additionalPrinterColumns[0].type: Invalid value: "text": must be one of boolean,date,integer,number,string
                spec.additionalPrinterColumns[0].JSONPath: Invalid value: "spec.a": must be a simple json path starting with ."#]],
        );
        check_create(
            &CRD.replace("example.com", "example.k8s.io"),
            expect![[
                r#"metadata.annotations[api-approved.kubernetes.io]: Required value: protected groups must have approval annotation "api-approved.kubernetes.io", see https://github.com/kubernetes/enhancements/pull/1111"#
            ]],
        );
        check_update(
            CRD,
            &CRD.replace("plural: widgets", "plural: gadgets")
                .replace("{name: widgets", "{resourceVersion: '1', name: widgets"),
            None,
            expect![[r#"
            metadata.name: Invalid value: "widgets.example.com": must be spec.names.plural+"."+spec.group
            spec.names.plural: Invalid value: "gadgets": field is immutable"#]],
        );
    }

    #[test]
    fn api_services() {
        let service = "
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.metrics.example.com, creationTimestamp: 2024-01-01T00:00:00Z}
spec: {group: metrics.example.com, version: v1, groupPriorityMinimum: 100, versionPriority: 0}
";
        check_create(service, expect!["spec.versionPriority: Invalid value: 0: must be positive and less than 1000"]);
        check_create(
            &service.replace("version: v1", "version: v2, service: {name: a}"),
            expect![[r#"
            metadata.name: Invalid value: "v1.metrics.example.com": must be `spec.version+"."+spec.group`: "v2.metrics.example.com"
            spec.versionPriority: Invalid value: 0: must be positive and less than 1000
            spec.service.namespace: Required value"#]],
        );
        check_row(
            service,
            expect![[r#"
            Name | Service | Available | Age
            v1.metrics.example.com | Local | Unknown | 60m"#]],
        );
    }
}
