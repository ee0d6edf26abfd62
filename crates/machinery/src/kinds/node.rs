//! Node (`pkg/registry/core/node/strategy.go`, `ValidateNode*`).

use super::common::{age, age_column, column, name, name_column, set, str_of, visit_list, wide};
use super::pod::validate::validate_taint_effect;
use super::resources::validate_quantity;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    Family, Messages, Raw, is_dns1123_subdomain, is_label_value, is_valid_cidr_legacy, parse_cidr_sloppy,
    validate_label_key,
};
use api::k8s::api::core::v1::{NodeSpec, NodeStatus, Taint};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::Node;
use serde_json::{Value, json};

/// What is particular about a Node: addresses of its pods and its provider stay once they are known.
pub(super) struct NodeKind;

impl Strategy for NodeKind {
    type Object = Node;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(node: &mut Node) {
        even_out_cidrs(node.spec.get_or_insert_default());
        let status = node.status.get_or_insert_default();
        // Plain structs, which Go always shows.
        status.daemon_endpoints.get_or_insert_default().kubelet_endpoint.get_or_insert_default();
        status.node_info.get_or_insert_default();
        if let Some(capacity) = status.capacity.clone() {
            set(&mut status.allocatable, capacity);
        }
    }

    // Configurations by the API are a feature that is gone: they stay where they were.
    fn prepare_create(node: &mut Node) {
        node.spec.iter_mut().for_each(|spec| spec.config_source = None);
        node.status.iter_mut().for_each(|status| status.config = None);
    }

    fn prepare_update(new: &mut Node, old: &Node) {
        new.status = old.status.clone();
        let was_there = old.spec.as_ref().is_some_and(|spec| spec.config_source.is_some());
        if let Some(spec) = new.spec.as_mut().filter(|_| !was_there) {
            spec.config_source = None;
        }
    }

    fn prepare_status_update(new: &mut Node, old: &Node) {
        new.spec = old.spec.clone();
        let was_there = old.status.as_ref().is_some_and(|status| status.config.is_some());
        if let Some(status) = new.status.as_mut().filter(|_| !was_there) {
            status.config = None;
        }
    }

    fn warnings(node: &Node, _old: Option<&Node>) -> Vec<String> {
        let Some(spec) = &node.spec else { return Vec::new() };
        let texts = [
            (spec.config_source.is_some(), "spec.configSource: the feature is removed"),
            (
                !str_of(&spec.external_id).is_empty(),
                "spec.externalID: this field is deprecated, and is unused by Kubernetes",
            ),
        ];
        texts.iter().filter(|(is_set, _)| *is_set).map(|(_, text)| (*text).to_owned()).collect()
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(node: &Node) -> Errors {
        let no_spec = NodeSpec::default();
        let spec = node.spec.as_ref().unwrap_or(&no_spec);
        let mut errors =
            validate_taints(spec.taints.as_deref().unwrap_or_default(), &Path::new("metadata").child("taints"));
        errors.extend(validate_resources(node));
        errors.extend(validate_features(node));
        let path = Path::new("spec").child("podCIDRs");
        let cidrs = spec.pod_cidrs.as_deref().unwrap_or_default();
        for (i, cidr) in cidrs.iter().enumerate() {
            errors.extend(is_valid_cidr_legacy(&path.index(i), cidr, &[]));
        }
        let families: Vec<Option<Family>> =
            cidrs.iter().map(|c| parse_cidr_sloppy(c).map(|(ip, _)| Family::of(ip))).collect();
        if cidrs.len() > 2 || (cidrs.len() == 2 && families[0] == families[1]) {
            let detail = "may specify no more than one CIDR for each IP family";
            errors.push(FieldError::invalid(&path, &json!(cidrs), detail));
        }
        errors
    }

    fn validate_update(new: &Node, old: &Node) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
        let path = Path::new("spec");
        let mut errors = Vec::new();
        let cidrs = |s: &NodeSpec| s.pod_cidrs.clone().unwrap_or_default();
        if !cidrs(old).is_empty() && cidrs(new) != cidrs(old) {
            let detail = "node updates may not change podCIDR except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("podCIDRs"), detail));
        }
        let before = str_of(&old.provider_id);
        if !before.is_empty() && str_of(&new.provider_id) != before {
            let detail = "node updates may not change providerID except from \"\" to valid";
            errors.push(FieldError::forbidden(&path.child("providerID"), detail));
        }
        if str_of(&new.external_id) != str_of(&old.external_id) {
            errors.push(FieldError::forbidden(&path.child("externalID"), "may not be updated"));
        }
        errors
    }

    fn validate_status_update(new: &Node, _old: &Node) -> Errors {
        let mut errors = validate_resources(new);
        errors.extend(validate_features(new));
        let no_status = NodeStatus::default();
        let addresses = new.status.as_ref().unwrap_or(&no_status).addresses.as_deref().unwrap_or_default();
        for (i, address) in addresses.iter().enumerate() {
            if addresses[..i].contains(address) {
                let path = Path::new("status").child("addresses").index(i);
                let shown = format!(r#"{{"Type":{:?},"Address":{:?}}}"#, address.type_, address.address);
                errors.push(FieldError::duplicate(&path, Raw(shown)));
            }
        }
        errors
    }

    const SELECTABLE: &'static [&'static str] = &["spec.unschedulable"];

    fn selectable_fields(node: &Node) -> Vec<(&'static str, String)> {
        let unschedulable = node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true));
        vec![("spec.unschedulable", unschedulable.to_string())]
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Status"),
            column("Roles"),
            age_column(),
            column("Version"),
            wide("Internal-IP"),
            wide("External-IP"),
            wide("OS-Image"),
            wide("Kernel-Version"),
            wide("Container-Runtime"),
        ]
    }

    fn cells(node: &Node, now: jiff::Timestamp) -> Vec<Value> {
        let status = node.status.clone().unwrap_or_default();
        let info = status.node_info.clone().unwrap_or_default();
        let known = |text: &str| if text.is_empty() { "<unknown>".to_owned() } else { text.to_owned() };
        let mut kernel = known(&info.kernel_version);
        if !info.architecture.is_empty() {
            kernel = format!("{kernel} ({})", info.architecture);
        }
        let address = |ty: &str| {
            let addresses = status.addresses.iter().flatten();
            addresses.into_iter().find(|a| a.type_ == ty).map_or("<none>".to_owned(), |a| a.address.clone())
        };
        vec![
            name(node),
            status_text(node, &status).into(),
            roles(node).into(),
            age(node, now),
            info.kubelet_version.into(),
            address("InternalIP").into(),
            address("ExternalIP").into(),
            known(&info.os_image).into(),
            kernel.into(),
            known(&info.container_runtime_version).into(),
        ]
    }

    fn quantities(node: &mut Node, visit: &mut dyn FnMut(&mut Quantity)) {
        if let Some(status) = &mut node.status {
            visit_list(&mut status.capacity, visit);
            visit_list(&mut status.allocatable, visit);
        }
    }
}

/// `podCIDR` is the first of `podCIDRs`; where they differ, the single one is right.
fn even_out_cidrs(spec: &mut NodeSpec) {
    let first = spec.pod_cidrs.iter().flatten().next().cloned();
    match (str_of(&spec.pod_cidr), first) {
        ("", Some(first)) => spec.pod_cidr = Some(first),
        (single, first) if !single.is_empty() && first.as_deref() != Some(single) => {
            spec.pod_cidrs = Some(vec![single.to_owned()]);
        }
        _ => {}
    }
}

fn validate_taints(taints: &[Taint], path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, taint) in taints.iter().enumerate() {
        let path = path.index(i);
        errors.extend(validate_label_key(&taint.key, &path.child("key")));
        let messages = is_label_value(str_of(&taint.value));
        if !messages.is_empty() {
            errors.push(FieldError::invalid(&path.child("value"), str_of(&taint.value), &messages.join(";")));
        }
        if taint.effect.is_empty() {
            errors.push(FieldError::required(&path.child("effect"), ""));
        } else {
            validate_taint_effect(&mut errors, &taint.effect, &path.child("effect"));
        }
        if taints[..i].iter().any(|t| t.key == taint.key && t.effect == taint.effect) {
            let (key, value, effect) = (&taint.key, str_of(&taint.value), &taint.effect);
            let shown = format!(r#"{{"Key":{key:?},"Value":{value:?},"Effect":{effect:?},"TimeAdded":null}}"#);
            let mut error = FieldError::duplicate(&path, Raw(shown));
            error.body.push_str(": taints must be unique by key and effect pair");
            errors.push(error);
        }
    }
    errors
}

fn validate_resources(node: &Node) -> Errors {
    let Some(status) = &node.status else { return Vec::new() };
    let mut errors = Vec::new();
    for (field, list) in [("capacity", &status.capacity), ("allocatable", &status.allocatable)] {
        let path = Path::new("status").child(field);
        for (resource, quantity) in list.iter().flatten() {
            errors.extend(validate_quantity(resource, quantity, &path.child(resource)));
        }
    }
    errors
}

fn status_text(node: &Node, status: &NodeStatus) -> String {
    let ready = status.conditions.iter().flatten().rfind(|c| c.type_ == "Ready");
    let mut text = match ready {
        Some(condition) if condition.status == "True" => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if node.spec.as_ref().is_some_and(|s| s.unschedulable == Some(true)) {
        text.push_str(",SchedulingDisabled");
    }
    text
}

fn roles(node: &Node) -> String {
    let role = |(key, value): (&String, &String)| match key.strip_prefix("node-role.kubernetes.io/") {
        Some(role) => Some(role.to_owned()),
        None if key == "kubernetes.io/role" => Some(value.clone()),
        None => None,
    };
    let mut roles: Vec<String> =
        node.metadata.labels.iter().flatten().filter_map(role).filter(|r| !r.is_empty()).collect();
    roles.sort();
    roles.dedup();
    super::common::or_none(roles.join(","))
}

/// Errors of the features that a node declares: names in order, each once (`validateNodeDeclaredFeatures`).
fn validate_features(node: &Node) -> Errors {
    let is_word = |word: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic()) && word.bytes().all(|b| b.is_ascii_alphanumeric())
    };
    let features = node.status.as_ref().and_then(|s| s.declared_features.as_deref()).unwrap_or_default();
    let path = Path::new("status").child("declaredFeatures");
    let mut errors = Vec::new();
    for (i, feature) in features.iter().enumerate() {
        let why = if feature.len() > 253 {
            Some("must be no more than 253 characters")
        } else if !feature.starts_with(|c: char| c.is_ascii_uppercase()) || !feature.split('/').all(is_word) {
            Some(
                "must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
            )
        } else {
            None
        };
        errors.extend(why.map(|why| {
            let detail = format!("invalid feature name {}: {why}", crate::field::quote(feature));
            FieldError::invalid(&path.index(i), feature, &detail)
        }));
        match features.get(i + 1) {
            Some(next) if next == feature => errors.push(FieldError::duplicate(&path.index(i + 1), next)),
            Some(next) if next < feature => {
                errors.push(FieldError::invalid(&path.index(i + 1), next, "list must be sorted alphabetically"));
            }
            _ => {}
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_row, check_update, check_warnings, created, flat};
    use expect_test::expect;

    #[test]
    fn nodes() {
        let node = "
apiVersion: v1
kind: Node
metadata: {name: n1, labels: {node-role.kubernetes.io/control-plane: '', kubernetes.io/role: edge}}
spec: {podCIDR: 10.42.0.0/24, unschedulable: true}
status: {conditions: [{type: Ready, status: 'False'}], nodeInfo: {kubeletVersion: v1.36.2, architecture: amd64, kernelVersion: '6.18'}}";
        check_row(
            node,
            expect![[r#"
            Name | Status | Roles | Age | Version | Internal-IP | External-IP | OS-Image | Kernel-Version | Container-Runtime
            n1 | NotReady,SchedulingDisabled | control-plane,edge | <unknown> | v1.36.2 | <none> | <none> | <unknown> | 6.18 (amd64) | <unknown>"#]],
        );
        check_create(
            &node.replace("spec: {", "spec: {taints: [{key: a, effect: Never}, {key: a, effect: Never}], "),
            expect![[r#"
            metadata.taints[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            metadata.taints[1].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"
            metadata.taints[1]: Duplicate value: {"Key":"a","Value":"","Effect":"Never","TimeAdded":null}: taints must be unique by key and effect pair"#]],
        );
        check_update(
            node,
            &node.replace("10.42.0.0/24", "10.42.1.0/24"),
            None,
            expect![[r#"spec.podCIDRs: Forbidden: node updates may not change podCIDR except from "" to valid"#]],
        );
    }

    #[test]
    fn features_of_a_node_and_what_is_gone() {
        check_create(
            "{apiVersion: v1, kind: Node, metadata: {name: one}, status: {declaredFeatures: [B, A, A, x, A/b, 'A/', 'A b']}}",
            expect![[r#"
                status.declaredFeatures[1]: Invalid value: "A": list must be sorted alphabetically
                status.declaredFeatures[2]: Duplicate value: "A"
                status.declaredFeatures[3]: Invalid value: "x": invalid feature name "x": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes
                status.declaredFeatures[4]: Invalid value: "A/b": list must be sorted alphabetically
                status.declaredFeatures[5]: Invalid value: "A/": list must be sorted alphabetically
                status.declaredFeatures[5]: Invalid value: "A/": invalid feature name "A/": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes
                status.declaredFeatures[6]: Invalid value: "A b": list must be sorted alphabetically
                status.declaredFeatures[6]: Invalid value: "A b": invalid feature name "A b": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes"#]],
        );
        let node = "{apiVersion: v1, kind: Node, metadata: {name: one}, spec: {externalID: x, configSource: {}}, status: {config: {}}}";
        check_warnings(node, None, expect!["spec.externalID: this field is deprecated, and is unused by Kubernetes"]);
        let shown = flat(&serde_json::from_slice(&created(node).1.encode()).expect("JSON"));
        assert!(!shown.contains("config"), "{shown}");
    }
}
