//! LimitRange and ResourceQuota (`pkg/registry/core/{limitrange,resourcequota}/strategy.go`, `ValidateLimitRange`,
//! `ValidateResourceQuota*`).

use super::common::{age, age_column, column, name, name_column, visit_list};
use super::resources::{self, ResourceList, validate_container_name, validate_quantity};
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::quantity::Quantity as Number;
use crate::validation::{IMMUTABLE, Messages, Raw, invalid_each, is_dns1123_subdomain, is_label_key};
use api::k8s::api::core::v1::{
    LimitRange, LimitRangeItem, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus,
    ScopedResourceSelectorRequirement,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// What is particular about a LimitRange.
pub(super) struct LimitRangeKind;

impl Strategy for LimitRangeKind {
    type Object = LimitRange;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(range: &mut LimitRange) {
        for item in &mut range.spec.get_or_insert_default().limits {
            default_item(item);
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(range: &LimitRange) -> Errors {
        let items = range.spec.as_ref().map(|s| s.limits.as_slice()).unwrap_or_default();
        let mut errors = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let path = Path::new("spec").child("limits").index(i);
            let ty = item.type_.as_str();
            let wrong = invalid_each(&path.child("type"), ty, is_label_key(ty));
            if wrong.is_empty() && !ty.contains('/') && !matches!(ty, "Pod" | "Container" | "PersistentVolumeClaim") {
                let detail = "must be a standard limit type or fully qualified";
                errors.push(FieldError::invalid(&path.child("type"), ty, detail));
            }
            errors.extend(wrong);
            if items[..i].iter().any(|other| other.type_ == ty) {
                errors.push(FieldError::duplicate(&path.child("type"), ty));
            }
            errors.extend(validate_item(item, &path));
        }
        errors
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn quantities(range: &mut LimitRange, visit: &mut dyn FnMut(&mut Quantity)) {
        for item in range.spec.iter_mut().flat_map(|s| &mut s.limits) {
            for list in [&mut item.max, &mut item.min, &mut item.default, &mut item.default_request] {
                visit_list(list, visit);
            }
            visit_list(&mut item.max_limit_request_ratio, visit);
        }
    }
}

/// For containers: limits default to the maximum, requests to limits, else to the minimum.
fn default_item(item: &mut LimitRangeItem) {
    if item.type_ != "Container" {
        return;
    }
    let fill = |list: &mut ResourceList, from: &ResourceList| {
        for (name, quantity) in from {
            list.entry(name.clone()).or_insert_with(|| quantity.clone());
        }
    };
    let mut limits = item.default.take().unwrap_or_default();
    fill(&mut limits, item.max.as_ref().unwrap_or(&ResourceList::new()));
    let mut requests = item.default_request.take().unwrap_or_default();
    fill(&mut requests, &limits);
    fill(&mut requests, item.min.as_ref().unwrap_or(&ResourceList::new()));
    item.default = (!limits.is_empty()).then_some(limits);
    item.default_request = (!requests.is_empty()).then_some(requests);
}

fn validate_item(item: &LimitRangeItem, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let pod = item.type_ == "Pod";
    let lists = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut names: BTreeSet<&str> = BTreeSet::new();
    for (field, list) in lists {
        let given = list.iter().flatten().next().is_some();
        if pod && given && matches!(field, "default" | "defaultRequest") {
            errors.push(FieldError::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            continue;
        }
        for name in list.iter().flatten().map(|(name, _)| name) {
            let path = path.child(field).key(name);
            let container = pod || item.type_ == "Container";
            let check = if container { validate_container_name } else { resources::validate_name };
            errors.extend(check(name, &path));
            names.insert(name);
        }
    }
    let has_storage = |list: &Option<ResourceList>| list.as_ref().is_some_and(|l| l.contains_key("storage"));
    if item.type_ == "PersistentVolumeClaim" && !has_storage(&item.min) && !has_storage(&item.max) {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.push(FieldError::required(&path.child("limits"), detail));
    }
    for name in names {
        errors.extend(validate_order(item, name, path));
    }
    errors
}

/// min ≤ default request ≤ default ≤ max, and the ratio is one that they allow.
fn validate_order(item: &LimitRangeItem, name: &str, path: &Path) -> Errors {
    let of = |list: &Option<ResourceList>| {
        let text = list.as_ref()?.get(name)?;
        Some((Number::parse(&text.0).ok()?, text.0.clone()))
    };
    let (min, max) = (of(&item.min), of(&item.max));
    let (limit, request) = (of(&item.default), of(&item.default_request));
    let ratio = of(&item.max_limit_request_ratio);
    let mut errors = Vec::new();
    let mut check =
        |low: &Option<(Number, String)>, high: &Option<(Number, String)>, field: &str, shown: bool, text: [&str; 2]| {
            if let (Some(low), Some(high)) = (low, high)
                && low.0 > high.0
            {
                let detail = format!("{} {} is greater than {} {}", text[0], low.1, text[1], high.1);
                let value = if shown { &low.1 } else { &high.1 };
                errors.push(FieldError::invalid(&path.child(field).key(name), value, &detail));
            }
        };
    check(&min, &max, "min", true, ["min value", "max value"]);
    check(&min, &request, "defaultRequest", false, ["min value", "default request value"]);
    check(&request, &max, "defaultRequest", true, ["default request value", "max value"]);
    check(&request, &limit, "defaultRequest", true, ["default request value", "default limit value"]);
    check(&min, &limit, "default", true, ["min value", "default value"]);
    check(&limit, &max, "default", false, ["default value", "max value"]);
    if let Some((number, text)) = &ratio {
        let path = path.child("maxLimitRequestRatio").key(name);
        if *number < Number::new(1, crate::quantity::Format::DecimalSi) {
            errors.push(FieldError::invalid(&path, text, &format!("ratio {text} is less than 1")));
        }
        if let (Some(min), Some(max)) = (&min, &max) {
            let most = max.0.as_f64() / min.0.as_f64();
            if number.as_f64() > most {
                let detail = format!("ratio {text} is greater than max/min = {most:.6}");
                errors.push(FieldError::invalid(&path, text, &detail));
            }
        }
    }
    errors
}

/// What is particular about a ResourceQuota: its scopes stay.
pub(super) struct ResourceQuotaKind;

impl Strategy for ResourceQuotaKind {
    type Object = ResourceQuota;

    fn prepare_create(quota: &mut ResourceQuota) {
        quota.status = Some(ResourceQuotaStatus::default());
    }

    fn prepare_update(new: &mut ResourceQuota, old: &ResourceQuota) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut ResourceQuota, old: &ResourceQuota) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(quota: &ResourceQuota, old: Option<&ResourceQuota>) -> Vec<String> {
        let Some(hard) = quota.spec.as_ref().and_then(|s| s.hard.as_ref()).filter(|_| old.is_none()) else {
            return Vec::new();
        };
        let mut warnings = Vec::new();
        for resource in ["cpu", "memory", "storage", "ephemeral-storage"] {
            let plain = matches!(resource, "cpu" | "memory").then_some(resource);
            let (requests, limits) = (format!("requests.{resource}"), format!("limits.{resource}"));
            let found = hard.get_key_value(&requests).or_else(|| hard.get_key_value(plain?));
            let (Some((name, request)), Some(limit)) = (found, hard.get(&limits)) else { continue };
            if let (Ok(asked), Ok(most)) = (Number::parse(&request.0), Number::parse(&limit.0))
                && asked > most
            {
                let (request, limit) = (&request.0, &limit.0);
                warnings.push(format!("ResourceQuota {name} ({request}) should be less than {limits} ({limit})"));
            }
        }
        warnings
    }

    fn validate(quota: &ResourceQuota) -> Errors {
        let no_spec = ResourceQuotaSpec::default();
        let spec = quota.spec.as_ref().unwrap_or(&no_spec);
        let path = Path::new("spec");
        let mut errors = validate_hard(spec.hard.as_ref(), &path.child("hard"));
        errors.extend(validate_scopes(spec, &path));
        errors
    }

    fn validate_update(new: &ResourceQuota, old: &ResourceQuota) -> Errors {
        let scopes = |q: &ResourceQuota| -> BTreeSet<String> {
            q.spec.iter().flat_map(|s| s.scopes.iter().flatten().cloned()).collect()
        };
        if scopes(new) == scopes(old) {
            return Vec::new();
        }
        let value = json!(new.spec.as_ref().and_then(|s| s.scopes.clone()));
        vec![FieldError::invalid(&Path::new("spec").child("scopes"), &value, IMMUTABLE)]
    }

    fn validate_status_update(new: &ResourceQuota, _old: &ResourceQuota) -> Errors {
        let Some(status) = &new.status else { return Vec::new() };
        let path = Path::new("status");
        let mut errors = validate_hard(status.hard.as_ref(), &path.child("hard"));
        errors.extend(validate_hard(status.used.as_ref(), &path.child("used")));
        errors
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Request"), column("Limit"), age_column()]
    }

    fn cells(quota: &ResourceQuota, now: jiff::Timestamp) -> Vec<Value> {
        let status = quota.status.clone().unwrap_or_default();
        let used = status.used.unwrap_or_default();
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in status.hard.iter().flatten() {
            let used = used.get(resource).map_or("0", |q| q.0.as_str());
            let list = if resource.starts_with("limits.") { &mut limits } else { &mut requests };
            list.push(format!("{resource}: {used}/{}", hard.0));
        }
        vec![name(quota), requests.join(", ").into(), limits.join(", ").into(), age(quota, now)]
    }

    fn quantities(quota: &mut ResourceQuota, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(spec) = &mut quota.spec {
            visit_list(&mut spec.hard, visit);
        }
        if let Some(status) = &mut quota.status {
            visit_list(&mut status.hard, visit);
            visit_list(&mut status.used, visit);
        }
    }
}

/// `IsStandardQuotaResourceName`
fn is_standard(resource: &str) -> bool {
    const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
    const COUNTED: [&str; 9] = [
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "persistentvolumeclaims",
        "configmaps",
        "services.nodeports",
        "services.loadbalancers",
    ];
    let (half, of) = resource.split_once('.').unwrap_or(("requests", resource));
    match half {
        _ if COUNTED.contains(&resource) => true,
        "requests" if resource == "requests.storage" || of.starts_with("hugepages-") => true,
        "requests" | "limits" => COMPUTE.contains(&of),
        _ => false,
    }
}

fn validate_hard(hard: Option<&ResourceList>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (resource, quantity) in hard.into_iter().flatten() {
        let path = path.key(resource);
        errors.extend(resources::validate_name(resource, &path));
        if !resource.contains('/') && !is_standard(resource) {
            errors.push(FieldError::invalid(&path, resource, "must be a standard resource for quota"));
        }
        errors.extend(validate_quantity(resource, quantity, &path));
    }
    errors
}

/// Resources of a quota that a scope does not apply to.
fn misfits<'a>(spec: &'a ResourceQuotaSpec, scope: &str) -> impl Iterator<Item = &'a str> {
    const COMPUTE: &[&str] =
        &["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
    let fitting: Option<&[&str]> = match scope {
        "Terminating" | "NotTerminating" | "NotBestEffort" | "PriorityClass" | "CrossNamespacePodAffinity" => {
            Some(COMPUTE)
        }
        "BestEffort" => Some(&["pods"]),
        "VolumeAttributesClass" => Some(&["persistentvolumeclaims", "requests.storage"]),
        _ => None,
    };
    let names = spec.hard.iter().flatten().map(|(name, _)| name.as_str()).filter(|name| is_standard(name));
    names.filter(move |name| fitting.is_some_and(|fitting| !fitting.contains(name)))
}

/// `validateScopedResourceSelectorRequirement`: it names no indexes.
fn validate_scope_selector(spec: &ResourceQuotaSpec, scopes: &[&str], path: &Path) -> Errors {
    let mut errors = Vec::new();
    let requirements = spec.scope_selector.as_ref().and_then(|s| s.match_expressions.as_deref()).unwrap_or_default();
    for requirement in requirements {
        let (scope, operator) = (requirement.scope_name.as_str(), requirement.operator.as_str());
        if !scopes.contains(&scope) {
            errors.push(FieldError::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        let detail = "unsupported scope applied to resource";
        errors.extend(misfits(spec, scope).map(|_| FieldError::invalid(path, selector_value(requirements), detail)));
        let by_value = ["PriorityClass", "VolumeAttributesClass"].contains(&scope) || !scopes.contains(&scope);
        if !by_value && operator != "Exists" {
            let detail = "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity";
            errors.push(FieldError::invalid(&path.child("operator"), operator, detail));
        }
        let values = requirement.values.as_deref().unwrap_or_default();
        match operator {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.push(FieldError::required(&path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector";
                errors.push(FieldError::invalid(&path.child("values"), &json!(values), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.push(FieldError::invalid(&path.child("operator"), other, "not a valid selector operator"));
            }
        }
    }
    errors
}

/// A scope selector as messages show it: upstream's internal struct.
fn selector_value(requirements: &[ScopedResourceSelectorRequirement]) -> Raw {
    let shown = requirements.iter().map(|r| {
        let (scope, operator, values) = (json!(r.scope_name), json!(r.operator), json!(r.values));
        format!(r#"{{"ScopeName":{scope},"Operator":{operator},"Values":{values}}}"#)
    });
    Raw(format!(r#"{{"MatchExpressions":[{}]}}"#, shown.collect::<Vec<_>>().join(",")))
}

fn validate_scopes(spec: &ResourceQuotaSpec, path: &Path) -> Errors {
    const SCOPES: &[&str] = &[
        "Terminating",
        "NotTerminating",
        "BestEffort",
        "NotBestEffort",
        "PriorityClass",
        "CrossNamespacePodAffinity",
        "VolumeAttributesClass",
    ];
    let scopes = spec.scopes.as_deref().unwrap_or_default();
    let value = json!(scopes);
    let path_of_scopes = path.child("scopes");
    let mut errors = Vec::new();
    let has = |scope: &str| scopes.iter().any(|s| s == scope);
    for scope in scopes {
        if !SCOPES.contains(&scope.as_str()) {
            errors.push(FieldError::invalid(&path_of_scopes, &value, "unsupported scope"));
        }
        let detail = "unsupported scope applied to resource";
        errors.extend(misfits(spec, scope).map(|_| FieldError::invalid(&path_of_scopes, &value, detail)));
    }
    if (has("BestEffort") && has("NotBestEffort")) || (has("Terminating") && has("NotTerminating")) {
        errors.push(FieldError::invalid(&path_of_scopes, &value, "conflicting scopes"));
    }
    errors.extend(validate_scope_selector(spec, SCOPES, &path.child("scopeSelector").child("matchExpressions")));
    errors
}

#[cfg(test)]
mod tests {
    use super::super::testing::{check_create, check_warnings};
    use expect_test::expect;

    #[test]
    fn a_name_without_a_domain_is_a_standard_one() {
        check_create(
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 1, requests.storage: 1, limits.cpu: 1, hugepages-2Mi: 2Mi, storage: 1, limits.pods: 1, a.b/c: 1}}}",
            expect![[r#"
                spec.hard[limits.pods]: Invalid value: "limits.pods": must be a standard resource type or fully qualified
                spec.hard[limits.pods]: Invalid value: "limits.pods": must be a standard resource for quota
                spec.hard[storage]: Invalid value: "storage": must be a standard resource for quota"#]],
        );
    }

    #[test]
    fn scopes_by_selector() {
        check_create(
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 1, requests.storage: 1}, scopeSelector: {matchExpressions: [{scopeName: PriorityClass, operator: In}, {scopeName: Terminating, operator: DoesNotExist}]}}}",
            expect![[r#"
                spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"PriorityClass","Operator":"In","Values":null},{"ScopeName":"Terminating","Operator":"DoesNotExist","Values":null}]}: unsupported scope applied to resource
                spec.scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector
                spec.scopeSelector.matchExpressions: Invalid value: {"MatchExpressions":[{"ScopeName":"PriorityClass","Operator":"In","Values":null},{"ScopeName":"Terminating","Operator":"DoesNotExist","Values":null}]}: unsupported scope applied to resource
                spec.scopeSelector.matchExpressions.operator: Invalid value: "DoesNotExist": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"#]],
        );
    }

    #[test]
    fn scopes_are_asked_of_resources_that_are_known() {
        check_create(
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: q}, spec: {hard: {pods: 1, zzz: 1}, scopes: [BestEffort]}}",
            expect![[r#"
                spec.hard[zzz]: Invalid value: "zzz": must be a standard resource type or fully qualified
                spec.hard[zzz]: Invalid value: "zzz": must be a standard resource for quota"#]],
        );
    }

    #[test]
    fn more_requests_than_limits_are_warned_of() {
        check_warnings(
            "{apiVersion: v1, kind: ResourceQuota, metadata: {name: a, namespace: b}, spec: {hard: {cpu: 2, limits.cpu: 1500m, requests.memory: 1Gi, limits.memory: 1Gi}}}",
            None,
            expect!["ResourceQuota cpu (2) should be less than limits.cpu (1500m)"],
        );
    }
}
