//! Ingress, IngressClass, NetworkPolicy, IPAddress, ServiceCIDR (`pkg/registry/networking/*/strategy.go`,
//! `pkg/apis/networking/validation/validation.go`).

use super::common::{
    age, age_column, bump_if_spec_changed, column, format_selector, name, name_column, or_none, set, str_of,
};
use super::metadata::reset_for_status;
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::schema::go_shown;
use crate::validation::{
    Family, IMMUTABLE, Messages, Raw, canonical_ip, invalid_each, is_dns1123_label, is_dns1123_subdomain,
    is_path_segment_name, is_valid_cidr, is_valid_cidr_legacy, is_valid_ip_legacy, is_valid_port, is_valid_port_name,
    is_wildcard_dns1123_subdomain, one_of, parse_cidr_sloppy, parse_ip_sloppy, required, validate_domain_prefixed_path,
    validate_label_selector,
};
use api::k8s::api::core::v1::TypedLocalObjectReference;
use api::k8s::api::networking::v1::{
    HTTPIngressPath, IPAddress, IPBlock, Ingress, IngressBackend, IngressClass, IngressSpec, IngressStatus,
    NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec, ParentReference, ServiceCIDR,
    ServiceCIDRStatus,
};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::MetaExt;
use serde_json::{Value, json};

/// Which class an Ingress is of, before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";

/// What is particular about an Ingress.
pub(super) struct IngressKind;

impl Strategy for IngressKind {
    type Object = Ingress;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn prepare_create(ingress: &mut Ingress) {
        ingress.status = Some(IngressStatus { load_balancer: Some(Default::default()) });
        ingress.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut Ingress, old: &Ingress) {
        new.status = old.status.clone();
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn prepare_status_update(new: &mut Ingress, old: &Ingress) {
        new.spec = old.spec.clone();
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(ingress: &Ingress) -> Errors {
        let no_spec = IngressSpec::default();
        validate_ingress(ingress.spec.as_ref().unwrap_or(&no_spec), &Path::new("spec"))
    }

    fn validate_create(ingress: &Ingress) -> Errors {
        let field = ingress.spec.as_ref().and_then(|s| s.ingress_class_name.as_deref());
        match (ingress.annotation(CLASS_ANNOTATION), field) {
            (Some(annotation), Some(field)) if annotation != field => {
                let path = Path::new("annotations").child(CLASS_ANNOTATION);
                let detail = "must match `ingressClassName` when both are specified";
                vec![FieldError::invalid(&path, annotation, detail)]
            }
            _ => Vec::new(),
        }
    }

    fn warnings(ingress: &Ingress, old: Option<&Ingress>) -> Vec<String> {
        let is_named = ingress.spec.as_ref().is_some_and(|spec| spec.ingress_class_name.is_some());
        if old.is_some() || is_named || ingress.annotation(CLASS_ANNOTATION).is_none() {
            return Vec::new();
        }
        vec![format!("annotation {CLASS_ANNOTATION:?} is deprecated, please use 'spec.ingressClassName' instead")]
    }

    fn validate_status_update(new: &Ingress, old: &Ingress) -> Errors {
        let ingress =
            |i: &Ingress| i.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone()).unwrap_or_default();
        let before: Vec<String> = ingress(old).into_iter().filter_map(|i| i.ip).collect();
        let mut errors = Vec::new();
        for (i, point) in ingress(new).iter().enumerate() {
            let path = Path::new("status").child("loadBalancer").child("ingress").index(i);
            let (ip, host) = (str_of(&point.ip), str_of(&point.hostname));
            if !ip.is_empty() {
                errors.extend(is_valid_ip_legacy(&path.child("ip"), ip, &before));
            }
            if !host.is_empty() {
                errors.extend(invalid_each(&path.child("hostname"), host, is_dns1123_subdomain(host)));
                errors.extend(validate_not_ip(host, &path.child("hostname")));
            }
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Class"), column("Hosts"), column("Address"), column("Ports"), age_column()]
    }

    fn cells(ingress: &Ingress, now: jiff::Timestamp) -> Vec<Value> {
        let spec = ingress.spec.clone().unwrap_or_default();
        let points = ingress.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone());
        let mut addresses: Vec<String> = points
            .unwrap_or_default()
            .into_iter()
            .filter_map(|p| p.ip.filter(|ip| !ip.is_empty()).or(p.hostname))
            .filter(|a| !a.is_empty())
            .collect();
        addresses.sort();
        addresses.dedup();
        let secure = spec.tls.as_ref().is_some_and(|t| !t.is_empty());
        vec![
            name(ingress),
            spec.ingress_class_name.clone().unwrap_or_else(|| "<none>".to_owned()).into(),
            hosts_text(&spec).into(),
            addresses.join(",").into(),
            if secure { "80, 443" } else { "80" }.into(),
            age(ingress, now),
        ]
    }
}

fn hosts_text(spec: &IngressSpec) -> String {
    const MOST: usize = 3;
    let rules = spec.rules.as_deref().unwrap_or_default();
    let mut hosts: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= hosts.len() == MOST;
        if !more && !str_of(&rule.host).is_empty() {
            hosts.push(str_of(&rule.host));
        }
    }
    match (hosts.join(","), more) {
        (text, _) if text.is_empty() => "*".to_owned(),
        (text, true) => format!("{text} + {} more...", rules.len() - MOST),
        (text, false) => text,
    }
}

fn validate_not_ip(host: &str, path: &Path) -> Errors {
    if parse_ip_sloppy(host).is_none() {
        return Vec::new();
    }
    vec![FieldError::invalid(path, host, "must be a DNS name, not an IP address")]
}

fn host_messages(host: &str) -> Messages {
    if host.contains('*') { is_wildcard_dns1123_subdomain(host) } else { is_dns1123_subdomain(host) }
}

fn validate_ingress(spec: &IngressSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let rules = spec.rules.as_deref().unwrap_or_default();
    if rules.is_empty() && spec.default_backend.is_none() {
        let detail = "either `defaultBackend` or `rules` must be specified";
        errors.push(FieldError::invalid(path, &Value::Null, detail));
    }
    if let Some(backend) = &spec.default_backend {
        errors.extend(validate_backend(backend, &path.child("defaultBackend")));
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.child("rules").index(i);
        let host = str_of(&rule.host);
        if !host.is_empty() {
            errors.extend(validate_not_ip(host, &path.child("host")));
            errors.extend(invalid_each(&path.child("host"), host, host_messages(host)));
        }
        if let Some(http) = &rule.http {
            let path = path.child("http").child("paths");
            if http.paths.is_empty() {
                errors.push(FieldError::required(&path, ""));
            }
            for (j, route) in http.paths.iter().enumerate() {
                errors.extend(validate_route(route, &path.index(j)));
            }
        }
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        let path = path.child("tls").index(i);
        for (j, host) in tls.hosts.iter().flatten().enumerate() {
            errors.extend(invalid_each(&path.child("hosts").index(j), host, host_messages(host)));
        }
        let secret = str_of(&tls.secret_name);
        if !secret.is_empty() {
            errors.extend(invalid_each(&path.child("secretName"), secret, is_dns1123_subdomain(secret)));
        }
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.extend(invalid_each(&path.child("ingressClassName"), class, is_dns1123_subdomain(class)));
    }
    errors
}

fn validate_route(route: &HTTPIngressPath, path: &Path) -> Errors {
    let at = path.child("path");
    let text = str_of(&route.path);
    let mut errors = Vec::new();
    let absolute = |errors: &mut Errors| {
        if !text.starts_with('/') {
            errors.push(FieldError::invalid(&at, text, "must be an absolute path"));
        }
    };
    match route.path_type.as_str() {
        "" => return vec![FieldError::required(&path.child("pathType"), "pathType must be specified")],
        "Exact" | "Prefix" => {
            absolute(&mut errors);
            for part in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|p| text.contains(**p)) {
                errors.push(FieldError::invalid(&at, text, &format!("must not contain '{part}'")));
            }
            for end in ["/..", "/."].iter().filter(|e| text.ends_with(**e)) {
                errors.push(FieldError::invalid(&at, text, &format!("cannot end with '{end}'")));
            }
        }
        "ImplementationSpecific" if !text.is_empty() => absolute(&mut errors),
        other => {
            let supported = ["Exact", "ImplementationSpecific", "Prefix"];
            one_of(&mut errors, &path.child("pathType"), other, &supported);
        }
    }
    errors.extend(validate_backend(&route.backend, &path.child("backend")));
    errors
}

fn validate_backend(backend: &IngressBackend, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            return vec![FieldError::invalid(path, "", "cannot set both resource and service backends")];
        }
        (Some(resource), None) => return validate_local_reference(resource, &path.child("resource")),
        (None, None) => return vec![FieldError::invalid(path, "", "resource or service backend is required")],
        (None, Some(service)) => service,
    };
    let service_path = path.child("service");
    if service.name.is_empty() {
        errors.push(FieldError::required(&service_path.child("name"), ""));
    } else {
        let messages = is_dns1123_label(&service.name);
        errors.extend(invalid_each(&service_path.child("name"), &service.name, messages));
    }
    let port = service.port.clone().unwrap_or_default();
    let port_path = service_path.child("port");
    match (str_of(&port.name), port.number.unwrap_or(0)) {
        ("", 0) => errors.push(FieldError::required(path, "port name or number is required")),
        ("", number) => {
            let wrong = is_valid_port(i64::from(number));
            errors.extend(wrong.iter().map(|m| FieldError::invalid(&port_path.child("number"), number, m)));
        }
        (name, 0) => errors.extend(invalid_each(&port_path.child("name"), name, is_valid_port_name(name))),
        _ => errors.push(FieldError::invalid(path, "", "cannot set both port name & port number")),
    }
    errors
}

fn validate_local_reference(reference: &TypedLocalObjectReference, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(group) = &reference.api_group {
        errors.extend(invalid_each(&path.child("apiGroup"), group, is_dns1123_subdomain(group)));
    }
    for (field, value) in [("kind", &reference.kind), ("name", &reference.name)] {
        required(&mut errors, &path.child(field), value);
        errors.extend(invalid_each(&path.child(field), value, is_path_segment_name(value)));
    }
    errors
}

/// What is particular about an IngressClass: its controller stays.
pub(super) struct IngressClassKind;

impl Strategy for IngressClassKind {
    type Object = IngressClass;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(class: &mut IngressClass) {
        if let Some(parameters) = class.spec.as_mut().and_then(|s| s.parameters.as_mut()) {
            super::common::set(&mut parameters.scope, "Cluster".to_owned());
        }
    }

    fn prepare_create(class: &mut IngressClass) {
        class.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut IngressClass, old: &IngressClass) {
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(class: &IngressClass) -> Errors {
        let spec = class.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let controller = str_of(&spec.controller);
        let mut errors = Vec::new();
        if controller.len() > 250 {
            errors.push(FieldError::too_long(&path.child("controller"), 250));
        }
        errors.extend(validate_domain_prefixed_path(controller, &path.child("controller")));
        let Some(parameters) = spec.parameters else { return errors };
        let path = path.child("parameters");
        let reference =
            TypedLocalObjectReference { api_group: parameters.api_group, kind: parameters.kind, name: parameters.name };
        errors.extend(validate_local_reference(&reference, &path));
        let Some(scope) = &parameters.scope else {
            errors.push(FieldError::required(&path.child("scope"), ""));
            return errors;
        };
        match (scope.as_str(), &parameters.namespace) {
            ("Namespace", None) => {
                let detail = "`parameters.scope` is set to 'Namespace'";
                errors.push(FieldError::required(&path.child("namespace"), detail));
            }
            ("Namespace", Some(namespace)) => {
                errors.extend(invalid_each(&path.child("namespace"), namespace, is_dns1123_label(namespace)));
            }
            ("Cluster", Some(_)) => {
                let detail = "`parameters.scope` is set to 'Cluster'";
                errors.push(FieldError::forbidden(&path.child("namespace"), detail));
            }
            (scope, _) => one_of(&mut errors, &path.child("scope"), scope, &["Cluster", "Namespace"]),
        }
        errors
    }

    fn validate_update(new: &IngressClass, old: &IngressClass) -> Errors {
        let controller =
            |c: &IngressClass| c.spec.as_ref().map(|s| str_of(&s.controller).to_owned()).unwrap_or_default();
        if controller(new) == controller(old) {
            return Vec::new();
        }
        vec![FieldError::invalid(&Path::new("spec").child("controller"), controller(new), IMMUTABLE)]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Controller"), column("Parameters"), age_column()]
    }

    fn cells(class: &IngressClass, now: jiff::Timestamp) -> Vec<Value> {
        let spec = class.spec.clone().unwrap_or_default();
        let default = class.annotation("ingressclass.kubernetes.io/is-default-class") == Some("true");
        let shown = format!("{}{}", class.name(), if default { " (default)" } else { "" });
        let parameters = spec.parameters.map(|p| match &p.api_group {
            Some(group) => format!("{}.{group}/{}", p.kind, p.name),
            None => format!("{}/{}", p.kind, p.name),
        });
        vec![
            shown.into(),
            str_of(&spec.controller).into(),
            or_none(parameters.unwrap_or_default()).into(),
            age(class, now),
        ]
    }
}

/// What is particular about a NetworkPolicy.
pub(super) struct NetworkPolicyKind;

impl Strategy for NetworkPolicyKind {
    type Object = NetworkPolicy;

    fn default(policy: &mut NetworkPolicy) {
        let spec = policy.spec.get_or_insert_default();
        let inward = spec.ingress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        let outward = spec.egress.iter_mut().flatten().flat_map(|r| r.ports.iter_mut().flatten());
        for port in inward.chain(outward) {
            set(&mut port.protocol, "TCP".to_owned());
        }
        if spec.policy_types.as_ref().is_none_or(Vec::is_empty) {
            let mut types = vec!["Ingress".to_owned()];
            if spec.egress.as_ref().is_some_and(|e| !e.is_empty()) {
                types.push("Egress".to_owned());
            }
            spec.policy_types = Some(types);
        }
        spec.pod_selector.get_or_insert_default();
    }

    fn prepare_create(policy: &mut NetworkPolicy) {
        policy.metadata.generation = Some(1);
    }

    fn prepare_update(new: &mut NetworkPolicy, old: &NetworkPolicy) {
        let same = new.spec == old.spec;
        bump_if_spec_changed(new, old, same);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(policy: &NetworkPolicy) -> Errors {
        let no_spec = NetworkPolicySpec::default();
        validate_policy(policy.spec.as_ref().unwrap_or(&no_spec), &Path::new("spec"))
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Pod-Selector"), age_column()]
    }

    fn cells(policy: &NetworkPolicy, now: jiff::Timestamp) -> Vec<Value> {
        let selector = policy.spec.as_ref().and_then(|s| s.pod_selector.as_ref());
        vec![name(policy), format_selector(selector).into(), age(policy, now)]
    }
}

fn validate_policy(spec: &NetworkPolicySpec, path: &Path) -> Errors {
    let mut errors = validate_label_selector(spec.pod_selector.as_ref(), &path.child("podSelector"));
    let check = |errors: &mut Errors,
                 ports: Option<&[NetworkPolicyPort]>,
                 peers: (&str, Option<&[NetworkPolicyPeer]>),
                 path: &Path| {
        for (i, port) in ports.unwrap_or_default().iter().enumerate() {
            errors.extend(validate_policy_port(port, &path.child("ports").index(i)));
        }
        for (i, peer) in peers.1.unwrap_or_default().iter().enumerate() {
            errors.extend(validate_peer(peer, &path.child(peers.0).index(i)));
        }
    };
    for (i, rule) in spec.ingress.iter().flatten().enumerate() {
        let path = path.child("ingress").index(i);
        check(&mut errors, rule.ports.as_deref(), ("from", rule.from.as_deref()), &path);
    }
    for (i, rule) in spec.egress.iter().flatten().enumerate() {
        let path = path.child("egress").index(i);
        check(&mut errors, rule.ports.as_deref(), ("to", rule.to.as_deref()), &path);
    }
    let types = spec.policy_types.as_deref().unwrap_or_default();
    let path = path.child("policyTypes");
    if types.len() > 2 {
        errors.push(FieldError::invalid(&path, &json!(types), "may not specify more than two policyTypes"));
        return errors;
    }
    for (i, ty) in types.iter().enumerate() {
        one_of(&mut errors, &path.index(i), ty, &["Ingress", "Egress"]);
    }
    errors
}

fn validate_policy_port(port: &NetworkPolicyPort, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if let Some(protocol) = &port.protocol {
        one_of(&mut errors, &path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]);
    }
    let end_path = path.child("endPort");
    match (&port.port, port.end_port) {
        (Some(IntOrString::Int(number)), end) => {
            let wrong = is_valid_port(i64::from(*number));
            errors.extend(wrong.iter().map(|m| FieldError::invalid(&path.child("port"), *number, m)));
            if let Some(end) = end {
                if end < *number {
                    let detail = "must be greater than or equal to `port`";
                    errors.push(FieldError::invalid(&end_path, *number, detail));
                }
                let wrong = is_valid_port(i64::from(end));
                errors.extend(wrong.iter().map(|m| FieldError::invalid(&end_path, end, m)));
            }
        }
        (Some(IntOrString::String(name)), end) => {
            if let Some(end) = end {
                let detail = "may not be specified when `port` is non-numeric";
                errors.push(FieldError::invalid(&end_path, end, detail));
            }
            errors.extend(invalid_each(&path.child("port"), name, is_valid_port_name(name)));
        }
        (None, Some(end)) => {
            let detail = "may not be specified when `port` is not specified";
            errors.push(FieldError::invalid(&end_path, end, detail));
        }
        (None, None) => {}
    }
    errors
}

fn validate_peer(peer: &NetworkPolicyPeer, path: &Path) -> Errors {
    let mut errors = validate_label_selector(peer.pod_selector.as_ref(), &path.child("podSelector"));
    errors.extend(validate_label_selector(peer.namespace_selector.as_ref(), &path.child("namespaceSelector")));
    let selectors = peer.pod_selector.is_some() || peer.namespace_selector.is_some();
    match &peer.ip_block {
        Some(block) => {
            errors.extend(validate_block(block, &path.child("ipBlock")));
            if selectors {
                errors.push(FieldError::forbidden(path, "may not specify both ipBlock and another peer"));
            }
        }
        None if !selectors => errors.push(FieldError::required(path, "must specify a peer")),
        None => {}
    }
    errors
}

fn validate_block(block: &IPBlock, path: &Path) -> Errors {
    if block.cidr.is_empty() {
        return vec![FieldError::required(&path.child("cidr"), "")];
    }
    let mut errors = is_valid_cidr_legacy(&path.child("cidr"), &block.cidr, &[]);
    let Ok(whole) = block.cidr.parse::<ipnet::IpNet>() else { return errors };
    for (i, except) in block.except.iter().flatten().enumerate() {
        let path = path.child("except").index(i);
        errors.extend(is_valid_cidr_legacy(&path, except, &[]));
        if let Ok(part) = except.parse::<ipnet::IpNet>()
            && (!whole.contains(&part.addr()) || whole.prefix_len() >= part.prefix_len())
        {
            errors.push(FieldError::invalid(&path, except, "must be a strict subset of `cidr`"));
        }
    }
    errors
}

/// What is particular about an IPAddress: its name is the address.
pub(super) struct IPAddressKind;

impl Strategy for IPAddressKind {
    type Object = IPAddress;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn validate_name(name: &str) -> Messages {
        match parse_ip_sloppy(name) {
            None => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()],
            Some(ip) if canonical_ip(ip) != name => {
                vec![format!("must be in canonical form ({:?})", canonical_ip(ip))]
            }
            Some(_) => Vec::new(),
        }
    }

    fn validate(address: &IPAddress) -> Errors {
        let parent = &address.spec.parent_ref;
        let path = Path::new("spec").child("parentRef");
        // A pointer upstream, which nobody sets to nothing.
        if *parent == ParentReference::default() {
            return vec![FieldError::required(&path, "")];
        }
        let mut errors = Vec::new();
        let group = str_of(&parent.group);
        if !group.is_empty() {
            errors.extend(invalid_each(&path.child("group"), group, is_dns1123_subdomain(group)));
        }
        for (field, value) in [("resource", &parent.resource), ("name", &parent.name)] {
            required(&mut errors, &path.child(field), value);
            errors.extend(invalid_each(&path.child(field), value, is_path_segment_name(value)));
        }
        let namespace = str_of(&parent.namespace);
        errors.extend(invalid_each(&path.child("namespace"), namespace, is_path_segment_name(namespace)));
        errors
    }

    fn validate_update(new: &IPAddress, old: &IPAddress) -> Errors {
        if new.spec == old.spec {
            return Vec::new();
        }
        let parent = Some(&new.spec.parent_ref).filter(|parent| **parent != ParentReference::default());
        let shown = go_shown("io.k8s.api.networking.v1.ParentReference", &parent);
        vec![FieldError::invalid(&Path::new("spec").child("parentRef"), shown, IMMUTABLE)]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("ParentRef"), age_column()]
    }

    fn cells(address: &IPAddress, now: jiff::Timestamp) -> Vec<Value> {
        let parent = &address.spec.parent_ref;
        let mut shown = parent.resource.to_lowercase();
        for (mark, part) in [(".", str_of(&parent.group)), ("/", str_of(&parent.namespace))] {
            if !part.is_empty() {
                shown = format!("{shown}{mark}{part}");
            }
        }
        vec![name(address), format!("{shown}/{}", parent.name).into(), age(address, now)]
    }
}

/// What is particular about a ServiceCIDR: its ranges stay.
pub(super) struct ServiceCIDRKind;

impl Strategy for ServiceCIDRKind {
    type Object = ServiceCIDR;

    fn prepare_create(cidr: &mut ServiceCIDR) {
        cidr.status = Some(ServiceCIDRStatus::default());
    }

    fn prepare_update(new: &mut ServiceCIDR, old: &ServiceCIDR) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut ServiceCIDR, old: &ServiceCIDR) {
        new.spec = old.spec.clone();
        reset_for_status(&mut new.metadata, &old.metadata);
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(_cidr: &ServiceCIDR) -> Errors {
        Vec::new()
    }

    fn validate_create(cidr: &ServiceCIDR) -> Errors {
        validate_cidrs(cidrs_of(cidr))
    }

    fn validate_update(new: &ServiceCIDR, old: &ServiceCIDR) -> Errors {
        let path = Path::new("spec").child("cidrs");
        let (new, old) = (cidrs_of(new), cidrs_of(old));
        // A second range may be added: that makes a cluster dual-stack.
        if new.len() != old.len() && (old.len(), new.len()) != (1, 2) {
            let new = if new.is_empty() { Value::Null } else { json!(new) };
            return vec![FieldError::invalid(&path, &new, IMMUTABLE)];
        }
        let changed = (0..old.len()).filter(|i| new[*i] != old[*i]);
        let mut errors: Errors = changed.map(|i| FieldError::invalid(&path.index(i), &new[i], IMMUTABLE)).collect();
        if new.len() > old.len() {
            errors.extend(validate_cidrs(new));
        }
        errors
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("CIDRs"), age_column()]
    }

    fn cells(cidr: &ServiceCIDR, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(cidr), cidrs_of(cidr).join(",").into(), age(cidr, now)]
    }
}

fn cidrs_of(cidr: &ServiceCIDR) -> &[String] {
    cidr.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn validate_cidrs(cidrs: &[String]) -> Errors {
    let path = Path::new("spec").child("cidrs");
    match cidrs.len() {
        0 => return vec![FieldError::required(&path, "at least one CIDR required")],
        1 | 2 => {}
        _ => {
            return vec![FieldError::invalid(
                &path,
                Raw::go_struct(&[("CIDRs", &json!(cidrs))]),
                "may only hold up to 2 values",
            )];
        }
    }
    let mut errors: Errors = Vec::new();
    for (i, cidr) in cidrs.iter().enumerate() {
        errors.extend(is_valid_cidr(&path.index(i), cidr));
    }
    let families: Vec<_> = cidrs.iter().map(|c| parse_cidr_sloppy(c).map(|(ip, _)| Family::of(ip))).collect();
    if families.len() == 2 && families[0].is_some() && families[0] == families[1] {
        let detail = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errors.push(FieldError::invalid(&path, &json!(cidrs), detail));
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update, check_warnings};
    use expect_test::expect;

    #[test]
    fn ingresses() {
        let ingress = "
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{host: a.example.com, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}";
        check_create(ingress, expect![""]);
        let old = "metadata: {name: web, annotations: {kubernetes.io/ingress.class: nginx}}";
        let old = &ingress.replace("metadata: {name: web}", old);
        check_warnings(
            old,
            None,
            expect![
                "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead"
            ],
        );
        check_warnings(old, Some(old), expect![""]);
        check_row(
            ingress,
            expect![[r#"
            Name | Class | Hosts | Address | Ports | Age
            web | <none> | a.example.com |  | 80 | <unknown>"#]],
        );
        check_create(
            &ingress
                .replace("path: /,", "path: 'a//b',")
                .replace("number: 80", "number: 80, name: http")
                .replace("a.example.com", "10.0.0.1"),
            expect![[r#"
            spec.rules[0].host: Invalid value: "10.0.0.1": must be a DNS name, not an IP address
            spec.rules[0].http.paths[0].path: Invalid value: "a//b": must be an absolute path
            spec.rules[0].http.paths[0].path: Invalid value: "a//b": must not contain '//'
            spec.rules[0].http.paths[0].backend: Invalid value: "": cannot set both port name & port number"#]],
        );
        check_create(
            "{apiVersion: networking.k8s.io/v1, kind: Ingress, metadata: {name: a}}",
            expect!["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
        );
    }

    #[test]
    fn policies() {
        let policy = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p}
spec: {podSelector: {}, egress: [{ports: [{port: 53}], to: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.1.0.0/16]}}]}]}";
        check_defaults(
            policy,
            expect![[r#"
            spec.egress[0].ports[0].protocol: "TCP"
            spec.policyTypes[0]: "Ingress"
            spec.policyTypes[1]: "Egress""#]],
        );
        check_create(policy, expect![""]);
        check_create(
            &policy.replace("10.1.0.0/16", "11.0.0.0/16").replace("{port: 53}", "{endPort: 3}"),
            expect![[r#"
            spec.egress[0].ports[0].endPort: Invalid value: 3: may not be specified when `port` is not specified
            spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "11.0.0.0/16": must be a strict subset of `cidr`"#]],
        );
        check_create(
            &policy.replace("{port: 53}", "{port: 53, protocol: ''}"),
            expect![[
                r#"spec.egress[0].ports[0].protocol: Unsupported value: "": supported values: "TCP", "UDP", "SCTP""#
            ]],
        );
    }

    #[test]
    fn a_scope_may_be_missing_or_empty() {
        let class = "{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: a}, spec: {controller: a.b/c, parameters: {kind: K, name: x, scope: ''}}}";
        check_create(
            class,
            expect![[r#"spec.parameters.scope: Unsupported value: "": supported values: "Cluster", "Namespace""#]],
        );
    }

    #[test]
    fn ranges_are_checked_when_they_come() {
        let range =
            "{apiVersion: networking.k8s.io/v1, kind: ServiceCIDR, metadata: {name: a}, spec: {cidrs: [10.7.0.0/16]}}";
        check_create(
            &range.replace("10.7.0.0/16", ""),
            expect!["spec.cidrs: Required value: at least one CIDR required"],
        );
        check_update(
            range,
            &range.replace("10.7.0.0/16", "''"),
            None,
            expect![[r#"spec.cidrs[0]: Invalid value: "": field is immutable"#]],
        );
        check_create(
            "{apiVersion: networking.k8s.io/v1, kind: IPAddress, metadata: {name: 10.7.0.1}}",
            expect!["spec.parentRef: Required value"],
        );
    }
}
