//! Service (`pkg/registry/core/service/strategy.go`, `storage/storage.go`, `ValidateService*`).
//!
//! ClusterIPs, node ports and families are allocated by the API server, before validation of a create and after
//! `prepare_update` of an update (which carries over what was allocated). Here they are only checked.
//!
//! Differs: a missing `healthCheckNodePort` is not reported, as it may not have been allocated yet.

use super::common::{age, age_column, column, format_labels, name, name_column, or_none, set, str_of, text, wide};
use super::endpoints::validate_endpoint_ip;
use super::{Column, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    Family, IMMUTABLE, Messages, Raw, invalid_each, is_dns1123_label, is_dns1123_subdomain, is_label_key,
    is_valid_cidr_legacy, is_valid_ip_legacy, is_valid_port, one_of, parse_ip_sloppy, required_one_of, validate_labels,
    validate_port_or_name,
};
use api::k8s::api::core::v1::{ClientIPConfig, ServicePort, ServiceSpec, ServiceStatus, SessionAffinityConfig};
use api::k8s::apimachinery::pkg::util::intstr::IntOrString;
use api::prelude::Service;
use serde_json::{Value, json};

/// What is particular about a Service: fields that depend on its type.
pub(super) struct ServiceKind;

impl Strategy for ServiceKind {
    type Object = Service;

    fn default(service: &mut Service) {
        let spec = service.spec.get_or_insert_default();
        text(&mut spec.session_affinity, "None");
        default_affinity(spec);
        text(&mut spec.type_, "ClusterIP");
        for port in spec.ports.iter_mut().flatten() {
            text(&mut port.protocol, "TCP");
            let unset = match &port.target_port {
                None | Some(IntOrString::Int(0)) => true,
                Some(IntOrString::String(name)) => name.is_empty(),
                Some(IntOrString::Int(_)) => false,
            };
            if unset {
                port.target_port = Some(IntOrString::Int(port.port));
            }
        }
        if is_externally_accessible(spec) {
            text(&mut spec.external_traffic_policy, "Cluster");
        }
        if matches!(str_of(&spec.type_), "NodePort" | "LoadBalancer" | "ClusterIP") {
            set(&mut spec.internal_traffic_policy, "Cluster".to_owned());
        }
        if str_of(&spec.type_) == "LoadBalancer" {
            set(&mut spec.allocate_load_balancer_node_ports, true);
            let mut balancer = service.status.as_mut().and_then(|s| s.load_balancer.as_mut());
            for ingress in balancer.iter_mut().flat_map(|b| b.ingress.iter_mut().flatten()) {
                if !str_of(&ingress.ip).is_empty() {
                    set(&mut ingress.ip_mode, "VIP".to_owned());
                }
            }
        }
    }

    fn prepare_create(service: &mut Service) {
        service.status = Some(ServiceStatus { load_balancer: Some(Default::default()), conditions: None });
        normalize_cluster_ips(service.spec.get_or_insert_default(), None);
    }

    fn prepare_update(new: &mut Service, old: &Service) {
        new.status = old.status.clone();
        let (Some(spec), Some(old_spec)) = (&mut new.spec, &old.spec) else { return };
        carry_over_allocated(spec, old_spec);
        normalize_cluster_ips(spec, Some(old_spec));
        drop_dependent(spec, old_spec);
        if str_of(&spec.type_) != "LoadBalancer" {
            new.status.get_or_insert_default().load_balancer = Some(Default::default());
        }
    }

    fn prepare_status_update(new: &mut Service, old: &Service) {
        new.spec = old.spec.clone();
    }

    fn warnings(service: &Service, _old: Option<&Service>) -> Vec<String> {
        service.spec.as_ref().map(warnings_of).unwrap_or_default()
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_label(name)
    }

    fn validate(service: &Service) -> Errors {
        let no_spec = ServiceSpec::default();
        validate_spec(service.spec.as_ref().unwrap_or(&no_spec), &Path::new("spec"))
    }

    fn validate_update(new: &Service, old: &Service) -> Errors {
        let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return Vec::new() };
        validate_change(new, old, &Path::new("spec"))
    }

    fn validate_status_update(new: &Service, old: &Service) -> Errors {
        let kind = new.spec.as_ref().map(|s| str_of(&s.type_)).unwrap_or_default();
        let ingress =
            |s: &Service| s.status.as_ref().and_then(|s| s.load_balancer.as_ref()?.ingress.clone()).unwrap_or_default();
        let path = Path::new("status").child("loadBalancer").child("ingress");
        let now = ingress(new);
        if kind != "LoadBalancer" && !now.is_empty() {
            return vec![FieldError::forbidden(&path, "may only be used when `spec.type` is 'LoadBalancer'")];
        }
        let before: Vec<String> = ingress(old).into_iter().filter_map(|i| i.ip).collect();
        let mut errors = Vec::new();
        for (i, ingress) in now.iter().enumerate() {
            let path = path.index(i);
            let (ip, host) = (str_of(&ingress.ip), str_of(&ingress.hostname));
            if !ip.is_empty() {
                errors.extend(is_valid_ip_legacy(&path.child("ip"), ip, &before));
            }
            match (&ingress.ip_mode, ip.is_empty()) {
                (None, false) => {
                    errors.push(FieldError::required(&path.child("ipMode"), "must be specified when `ip` is set"));
                }
                (Some(_), true) => {
                    let detail = "may not be specified when `ip` is not set";
                    errors.push(FieldError::forbidden(&path.child("ipMode"), detail));
                }
                (Some(mode), false) => one_of(&mut errors, &path.child("ipMode"), mode, &["Proxy", "VIP"]),
                (None, true) => {}
            }
            if !host.is_empty() {
                errors.extend(invalid_each(&path.child("hostname"), host, is_dns1123_subdomain(host)));
                if parse_ip_sloppy(host).is_some() {
                    let detail = "must be a DNS name, not an IP address";
                    errors.push(FieldError::invalid(&path.child("hostname"), host, detail));
                }
            }
        }
        errors
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    const SELECTABLE: &'static [&'static str] = &["spec.clusterIP", "spec.type"];

    fn selectable_fields(service: &Service) -> Vec<(&'static str, String)> {
        let spec = service.spec.clone().unwrap_or_default();
        vec![("spec.clusterIP", spec.cluster_ip.unwrap_or_default()), ("spec.type", spec.type_.unwrap_or_default())]
    }

    fn columns() -> Vec<Column> {
        vec![
            name_column(),
            column("Type"),
            column("Cluster-IP"),
            column("External-IP"),
            column("Port(s)"),
            age_column(),
            wide("Selector"),
        ]
    }

    fn cells(service: &Service, now: jiff::Timestamp) -> Vec<Value> {
        let spec = service.spec.clone().unwrap_or_default();
        let ip = spec.cluster_ips.iter().flatten().next().cloned().unwrap_or_default();
        let ports: Vec<String> = spec.ports.iter().flatten().map(port_text).collect();
        vec![
            name(service),
            str_of(&spec.type_).into(),
            or_none(ip).into(),
            external_ip(service, &spec).into(),
            or_none(ports.join(",")).into(),
            age(service, now),
            format_labels(spec.selector.as_ref()).into(),
        ]
    }
}

// === defaults ===

fn default_affinity(spec: &mut ServiceSpec) {
    /// Three hours.
    const SECONDS: i32 = 10800;
    match str_of(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let config = spec.session_affinity_config.get_or_insert_with(SessionAffinityConfig::default);
            let client = config.client_ip.get_or_insert_with(ClientIPConfig::default);
            set(&mut client.timeout_seconds, SECONDS);
        }
        _ => {}
    }
}

fn is_externally_accessible(spec: &ServiceSpec) -> bool {
    match str_of(&spec.type_) {
        "LoadBalancer" | "NodePort" => true,
        "ClusterIP" => spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty()),
        _ => false,
    }
}

fn needs_health_port(spec: &ServiceSpec) -> bool {
    str_of(&spec.type_) == "LoadBalancer" && str_of(&spec.external_traffic_policy) == "Local"
}

fn needs_cluster_ip(spec: &ServiceSpec) -> bool {
    str_of(&spec.type_) != "ExternalName"
}

fn needs_node_port(spec: &ServiceSpec) -> bool {
    matches!(str_of(&spec.type_), "NodePort" | "LoadBalancer")
}

fn ips(spec: &ServiceSpec) -> &[String] {
    spec.cluster_ips.as_deref().unwrap_or_default()
}

fn is_headless(spec: &ServiceSpec) -> bool {
    ips(spec) == ["None"]
}

/// `clusterIP` is the first of `clusterIPs`: whichever the user touched wins (`normalizeClusterIPs`).
fn normalize_cluster_ips(new: &mut ServiceSpec, old: Option<&ServiceSpec>) {
    let single = str_of(&new.cluster_ip).to_owned();
    let Some(old) = old else {
        if !single.is_empty() && ips(new).is_empty() {
            new.cluster_ips = Some(vec![single]);
        }
        return;
    };
    let before = str_of(&old.cluster_ip);
    let list_changed = ips(new) != ips(old);
    if single.is_empty() && !before.is_empty() && !list_changed {
        new.cluster_ips = None;
    } else if single != before && !list_changed {
        new.cluster_ips = (!single.is_empty()).then(|| vec![single]);
    }
}

/// An update that does not name what was allocated keeps it (`patchAllocatedValues`).
fn carry_over_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        if str_of(&new.cluster_ip).is_empty() {
            new.cluster_ip = old.cluster_ip.clone();
        }
        if ips(new).is_empty() && !ips(old).is_empty() {
            new.cluster_ips = old.cluster_ips.clone();
        }
    }
    if needs_node_port(new) && needs_node_port(old) {
        let port = |p: &ServicePort| p.node_port.filter(|n| *n != 0);
        let taken: Vec<i32> = new.ports.iter().flatten().filter_map(port).collect();
        for now in new.ports.iter_mut().flatten().filter(|p| port(p).is_none()) {
            let before = old.ports.iter().flatten().find(|p| str_of(&p.name) == str_of(&now.name));
            now.node_port = before.and_then(port).filter(|n| !taken.contains(n));
        }
    }
    if needs_health_port(new) && needs_health_port(old) && new.health_check_node_port.unwrap_or(0) == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// A change of type drops what the new type has no use for, unless the user changed it too (`dropTypeDependentFields`).
/// What is ignored or goes out of use (`pkg/api/service/warnings.go`). Not warned of: the form of addresses.
fn warnings_of(spec: &ServiceSpec) -> Vec<String> {
    let mut warnings = Vec::new();
    let is_external = str_of(&spec.type_) == "ExternalName";
    let has_external_ips = spec.external_ips.as_ref().is_some_and(|ips| !ips.is_empty());
    if is_headless(spec) {
        let affinity = !["", "None"].contains(&str_of(&spec.session_affinity));
        let ignored = [
            ("loadBalancerIP", !str_of(&spec.load_balancer_ip).is_empty()),
            ("externalIPs", has_external_ips),
            // Upstream's spelling.
            ("SessionAffinity", affinity),
        ];
        let set = ignored.iter().filter(|(_, set)| *set);
        warnings.extend(set.map(|(field, _)| format!("spec.{field} is ignored for headless services")));
    } else if has_external_ips && !is_external {
        warnings.push("spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned());
    }
    if is_external && has_external_ips {
        warnings.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !is_external && !str_of(&spec.external_name).is_empty() {
        warnings.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if spec.traffic_distribution.as_deref() == Some("PreferClose") {
        warnings.push("spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned());
    }
    warnings
}

fn drop_dependent(new: &mut ServiceSpec, old: &ServiceSpec) {
    if needs_cluster_ip(old) && !needs_cluster_ip(new) {
        if new.cluster_ip == old.cluster_ip && ips(new) == ips(old) {
            new.cluster_ip = None;
            new.cluster_ips = None;
        }
        if new.ip_families == old.ip_families {
            new.ip_families = None;
        }
        if new.ip_family_policy == old.ip_family_policy {
            new.ip_family_policy = None;
        }
    }
    if needs_node_port(old) && !needs_node_port(new) {
        let ports = |s: &ServiceSpec| -> Vec<i32> {
            s.ports.iter().flatten().filter_map(|p| p.node_port).filter(|n| *n != 0).collect()
        };
        let before = ports(old);
        if ports(new).iter().all(|n| before.contains(n)) {
            new.ports.iter_mut().flatten().for_each(|p| p.node_port = None);
        }
    }
    if needs_health_port(old) && !needs_health_port(new) && new.health_check_node_port == old.health_check_node_port {
        new.health_check_node_port = None;
    }
    let balancer = |s: &ServiceSpec| str_of(&s.type_) == "LoadBalancer";
    if balancer(old) && !balancer(new) {
        if new.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            new.allocate_load_balancer_node_ports = None;
        }
        if new.load_balancer_class == old.load_balancer_class {
            new.load_balancer_class = None;
        }
    }
    if is_externally_accessible(old)
        && !is_externally_accessible(new)
        && new.external_traffic_policy == old.external_traffic_policy
    {
        new.external_traffic_policy = None;
    }
}

// === validation ===

fn validate_spec(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let kind = str_of(&spec.type_);
    let ports = spec.ports.as_deref().unwrap_or_default();
    if ports.is_empty() && !is_headless(spec) && kind != "ExternalName" {
        errors.push(FieldError::required(&path.child("ports"), ""));
    }
    errors.extend(validate_type(spec, path));
    let mut names: Vec<&str> = Vec::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(i);
        errors.extend(validate_port(port, ports.len() > 1, &mut names, &path));
    }
    errors.extend(validate_labels(spec.selector.as_ref(), &path.child("selector")));
    errors.extend(validate_affinity(spec, path));
    errors.extend(validate_cluster_ips(spec, path));
    for (i, ip) in spec.external_ips.iter().flatten().enumerate() {
        let path = path.child("externalIPs").index(i);
        let wrong = is_valid_ip_legacy(&path, ip, &[]);
        errors.extend(if wrong.is_empty() { validate_endpoint_ip(ip, &path) } else { wrong });
    }
    let types = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
    required_one_of(&mut errors, &path.child("type"), kind, &types);
    errors.extend(validate_port_pairs(spec, &path.child("ports")));
    errors.extend(validate_balancer(spec, path));
    errors.extend(validate_policies(spec, path));
    errors
}

fn validate_type(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match str_of(&spec.type_) {
        kind @ ("LoadBalancer" | "NodePort") if is_headless(spec) => {
            let detail = format!("may not be set to 'None' for {kind} services");
            errors.push(FieldError::invalid(&path.child("clusterIPs").index(0), "None", &detail));
        }
        "ExternalName" => {
            let detail = "may not be set for ExternalName services";
            if !ips(spec).is_empty() {
                errors.push(FieldError::forbidden(&path.child("clusterIPs"), detail));
            }
            if spec.ip_families.as_ref().is_some_and(|f| !f.is_empty()) {
                errors.push(FieldError::forbidden(&path.child("ipFamilies"), detail));
            }
            if spec.ip_family_policy.is_some() {
                errors.push(FieldError::forbidden(&path.child("ipFamilyPolicy"), detail));
            }
            let target = str_of(&spec.external_name);
            let target = target.strip_suffix('.').unwrap_or(target);
            let path = path.child("externalName");
            if target.is_empty() {
                errors.push(FieldError::required(&path, ""));
            } else {
                errors.extend(invalid_each(&path, target, is_dns1123_subdomain(target)));
            }
        }
        _ => {}
    }
    errors
}

fn validate_port<'a>(port: &'a ServicePort, need_name: bool, names: &mut Vec<&'a str>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let name = str_of(&port.name);
    if name.is_empty() {
        if need_name {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
    } else {
        errors.extend(invalid_each(&path.child("name"), name, is_dns1123_label(name)));
        if names.contains(&name) {
            errors.push(FieldError::duplicate(&path.child("name"), name));
        }
        names.push(name);
    }
    let wrong = is_valid_port(i64::from(port.port));
    errors.extend(wrong.iter().map(|m| FieldError::invalid(&path.child("port"), port.port, m)));
    required_one_of(&mut errors, &path.child("protocol"), str_of(&port.protocol), &["SCTP", "TCP", "UDP"]);
    let target = port.target_port.clone().unwrap_or_default();
    errors.extend(validate_port_or_name(&target, &path.child("targetPort")));
    if let Some(protocol) = &port.app_protocol {
        errors.extend(invalid_each(&path.child("appProtocol"), protocol, is_label_key(protocol)));
    }
    errors
}

fn validate_affinity(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let affinity = str_of(&spec.session_affinity);
    required_one_of(&mut errors, &path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    let path = path.child("sessionAffinityConfig");
    match (affinity, &spec.session_affinity_config) {
        ("None", Some(_)) => {
            errors.push(FieldError::forbidden(&path, "must not be set when session affinity is None"));
        }
        ("ClientIP", config) => {
            let seconds = config.as_ref().and_then(|c| c.client_ip.as_ref()).and_then(|c| c.timeout_seconds);
            let path_of_seconds = path.child("clientIP").child("timeoutSeconds");
            match seconds {
                None => errors.push(FieldError::required(&path, "when session affinity type is ClientIP")),
                Some(seconds) if !(1..=86400).contains(&seconds) => {
                    let detail = "must be greater than 0 and less than 86400";
                    errors.push(FieldError::invalid(&path_of_seconds, seconds, detail));
                }
                Some(_) => {}
            }
        }
        _ => {}
    }
    errors
}

/// Errors of addresses and families, without which none can be given out (`ValidateServiceClusterIPsRelatedFields`).
pub fn validate_cluster_ips(spec: &ServiceSpec, path: &Path) -> Errors {
    if str_of(&spec.type_) == "ExternalName" {
        return Vec::new();
    }
    let list_path = path.child("clusterIPs");
    let list = json!(ips(spec));
    let mut errors = Vec::new();
    let single = str_of(&spec.cluster_ip);
    match (single, ips(spec).first()) {
        ("", Some(_)) => {
            let detail = "must be empty when `clusterIP` is not specified";
            errors.push(FieldError::invalid(&list_path, &list, detail));
        }
        (ip, None) if !ip.is_empty() => errors.push(FieldError::required(&list_path, "")),
        (ip, Some(first)) if first != ip => {
            errors.push(FieldError::invalid(&list_path, &list, "first value must match `clusterIP`"));
        }
        _ => {}
    }
    errors.extend(validate_families(spec, path));
    let mut wrong = Vec::new();
    for (i, ip) in ips(spec).iter().enumerate() {
        if i == 0 && ip == "None" {
            if ips(spec).len() > 1 {
                wrong.push(FieldError::invalid(&list_path, &list, "'None' must be the first and only value"));
            }
        } else {
            wrong.extend(is_valid_ip_legacy(&list_path.index(i), ip, &[]));
        }
    }
    if ips(spec).len() > 2 {
        errors.push(FieldError::invalid(&list_path, &list, "may only hold up to 2 values"));
    }
    if !wrong.is_empty() {
        errors.extend(wrong);
        return errors;
    }
    let families: Vec<Option<Family>> = ips(spec).iter().map(|ip| parse_ip_sloppy(ip).map(Family::of)).collect();
    if families.len() == 2 && families[0] == families[1] {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(&list_path, &list, detail));
    }
    if !is_headless(spec) {
        let wanted = spec.ip_families.iter().flatten();
        for (i, ((ip, family), wanted)) in ips(spec).iter().zip(&families).zip(wanted).enumerate() {
            if matches!(wanted.as_str(), "IPv4" | "IPv6") && family.is_some_and(|f| f.as_str() != wanted) {
                let detail = format!("expected an {wanted} value as indicated by `ipFamilies[{i}]`");
                errors.push(FieldError::invalid(&list_path.index(i), ip, &detail));
            }
        }
    }
    errors
}

fn validate_families(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let families = spec.ip_families.as_deref().unwrap_or_default();
    for (i, family) in families.iter().enumerate() {
        let path = path.child("ipFamilies").index(i);
        one_of(&mut errors, &path, family, &["IPv4", "IPv6"]);
        if families[..i].contains(family) {
            errors.push(FieldError::duplicate(&path, family));
        }
    }
    if let Some(policy) = &spec.ip_family_policy {
        let supported = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(&mut errors, &path.child("ipFamilyPolicy"), policy, &supported);
    }
    errors
}

fn validate_port_pairs(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let ports = spec.ports.as_deref().unwrap_or_default();
    let node_port = |p: &ServicePort| p.node_port.unwrap_or(0);
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let before = &ports[..i];
        if node_port(port) != 0 {
            if str_of(&spec.type_) == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                errors.push(FieldError::forbidden(&path.child("nodePort"), detail));
            }
            if before.iter().any(|p| p.protocol == port.protocol && node_port(p) == node_port(port)) {
                errors.push(FieldError::duplicate(&path.child("nodePort"), node_port(port)));
            }
        }
        if before.iter().any(|p| p.protocol == port.protocol && p.port == port.port) {
            // Upstream prints its internal struct.
            let (protocol, number) = (str_of(&port.protocol), port.port);
            let value = format!(
                r#"{{"Name":"","Protocol":{protocol:?},"AppProtocol":null,"Port":{number},"TargetPort":0,"NodePort":0}}"#
            );
            errors.push(FieldError::duplicate(&path, Raw(value)));
        }
    }
    errors
}

fn validate_balancer(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let balancer = str_of(&spec.type_) == "LoadBalancer";
    let only = "may only be used when `type` is 'LoadBalancer'";
    let ranges = spec.load_balancer_source_ranges.as_deref().unwrap_or_default();
    let ranges_path = path.child("LoadBalancerSourceRanges");
    if !ranges.is_empty() && !balancer {
        errors.push(FieldError::forbidden(&ranges_path, only));
    }
    for (i, range) in ranges.iter().enumerate() {
        errors.extend(is_valid_cidr_legacy(&ranges_path.index(i), range.trim(), &[]));
    }
    if !balancer && spec.allocate_load_balancer_node_ports.is_some() {
        errors.push(FieldError::forbidden(&path.child("allocateLoadBalancerNodePorts"), only));
    }
    if balancer && spec.allocate_load_balancer_node_ports.is_none() {
        errors.push(FieldError::required(&Path::new("allocateLoadBalancerNodePorts"), ""));
    }
    if let Some(class) = &spec.load_balancer_class {
        let path = path.child("loadBalancerClass");
        if balancer {
            errors.extend(invalid_each(&path, class, is_label_key(class)));
        } else {
            errors.push(FieldError::forbidden(&path, only));
        }
    }
    errors
}

fn validate_policies(spec: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let external = str_of(&spec.external_traffic_policy);
    let external_path = path.child("externalTrafficPolicy");
    if is_externally_accessible(spec) {
        required_one_of(&mut errors, &external_path, external, &["Cluster", "Local"]);
    } else if !external.is_empty() {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&external_path, external, detail));
    }
    if let Some(port) = spec.health_check_node_port.filter(|p| *p != 0) {
        let path = path.child("healthCheckNodePort");
        if needs_health_port(spec) {
            let wrong = is_valid_port(i64::from(port));
            errors.extend(wrong.iter().map(|m| FieldError::invalid(&path, port, m)));
        } else {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            errors.push(FieldError::invalid(&path, port, detail));
        }
    }
    let internal_path = path.child("internalTrafficPolicy");
    match &spec.internal_traffic_policy {
        Some(policy) => one_of(&mut errors, &internal_path, policy, &["Cluster", "Local"]),
        None if matches!(str_of(&spec.type_), "ClusterIP" | "NodePort" | "LoadBalancer") => {
            errors.push(FieldError::required(&internal_path, ""));
        }
        None => {}
    }
    if let Some(distribution) = &spec.traffic_distribution {
        let supported = ["PreferClose", "PreferSameZone", "PreferSameNode"];
        one_of(&mut errors, &path.child("trafficDistribution"), distribution, &supported);
    }
    errors
}

fn validate_change(new: &ServiceSpec, old: &ServiceSpec, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if needs_cluster_ip(new) && needs_cluster_ip(old) {
        if !(is_headless(new) && is_headless(old)) {
            let families = new.ip_family_policy.as_deref();
            errors.extend(validate_list_change(ips(new), ips(old), ("clusterIPs", "clusterIP"), families, path));
        }
        if !is_headless(new) && !is_headless(old) {
            let lists = [new, old].map(|s| s.ip_families.as_deref().unwrap_or_default());
            let policy = new.ip_family_policy.as_deref();
            errors.extend(validate_list_change(lists[0], lists[1], ("ipFamilies", "ipFamily"), policy, path));
        }
    }
    let balancer = |s: &ServiceSpec| str_of(&s.type_) == "LoadBalancer";
    if balancer(new) && balancer(old) && new.load_balancer_class != old.load_balancer_class {
        let value = json!(new.load_balancer_class);
        errors.push(FieldError::invalid(&path.child("loadBalancerClass"), &value, "may not change once set"));
    }
    if needs_health_port(new) && needs_health_port(old) && new.health_check_node_port != old.health_check_node_port {
        errors.push(FieldError::forbidden(&path.child("healthCheckNodePort"), IMMUTABLE));
    }
    errors
}

/// The first of `clusterIPs` or `ipFamilies` stays; the second comes and goes with the policy.
fn validate_list_change(
    new: &[String],
    old: &[String],
    (list, one): (&str, &str),
    policy: Option<&str>,
    path: &Path,
) -> Errors {
    let value = json!(new);
    let at = |i: usize| path.child(list).index(i);
    let mut errors = Vec::new();
    if new.len() == old.len() {
        let changed = new.iter().zip(old).enumerate().filter(|(_, (n, o))| n != o);
        return changed.map(|(i, _)| FieldError::invalid(&at(i), &value, "may not change once set")).collect();
    }
    match (new.first(), old.first()) {
        (None, Some(_)) => {
            errors.push(FieldError::invalid(&at(0), &value, &format!("primary {one} can not be unset")));
        }
        (Some(n), Some(o)) if n != o => {
            errors.push(FieldError::invalid(&at(0), &value, "may not change once set"));
        }
        _ => {}
    }
    if old.len() > new.len() && new.len() == 1 && policy != Some("SingleStack") {
        let detail = format!("must be set to 'SingleStack' when releasing the secondary {one}");
        errors.push(FieldError::invalid(&path.child("ipFamilyPolicy"), &json!(policy), &detail));
    }
    errors
}

// === columns ===

fn port_text(port: &ServicePort) -> String {
    let protocol = str_of(&port.protocol);
    match port.node_port.filter(|n| *n > 0) {
        Some(node) => format!("{}:{node}/{protocol}", port.port),
        None => format!("{}/{protocol}", port.port),
    }
}

/// Differs: long lists of load balancer addresses are never cut, as upstream does with `-o wide`.
fn external_ip(service: &Service, spec: &ServiceSpec) -> String {
    let own = spec.external_ips.clone().unwrap_or_default();
    match str_of(&spec.type_) {
        "ClusterIP" | "NodePort" => or_none(own.join(",")),
        "LoadBalancer" => {
            let balancer = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
            let mut all: Vec<String> = balancer
                .iter()
                .flat_map(|b| b.ingress.iter().flatten())
                .map(|i| if str_of(&i.ip).is_empty() { str_of(&i.hostname) } else { str_of(&i.ip) }.to_owned())
                .filter(|a| !a.is_empty())
                .collect();
            all.sort();
            all.dedup();
            all.extend(own);
            if all.is_empty() { "<pending>".to_owned() } else { all.join(",") }
        }
        "ExternalName" => str_of(&spec.external_name).to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults, check_row, check_update};
    use expect_test::expect;

    const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80}]}";

    #[test]
    fn a_minimal_service_gets_upstreams_defaults() {
        check_defaults(
            WEB,
            expect![[r#"
            spec.internalTrafficPolicy: "Cluster"
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.sessionAffinity: "None"
            spec.type: "ClusterIP""#]],
        );
        check_defaults(
            &WEB.replace("spec: {", "spec: {type: LoadBalancer, sessionAffinity: ClientIP, "),
            expect![[r#"
            spec.allocateLoadBalancerNodePorts: true
            spec.externalTrafficPolicy: "Cluster"
            spec.internalTrafficPolicy: "Cluster"
            spec.ports[0].protocol: "TCP"
            spec.ports[0].targetPort: 80
            spec.sessionAffinityConfig.clientIP.timeoutSeconds: 10800"#]],
        );
    }

    #[test]
    fn what_no_type_has_is_asked_of_known_types_only() {
        check_create(
            &WEB.replace("spec: {", "spec: {type: Foo, trafficDistribution: '', "),
            expect![[r#"
                spec.type: Unsupported value: "Foo": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"
                spec.trafficDistribution: Unsupported value: "": supported values: "PreferClose", "PreferSameZone", "PreferSameNode""#]],
        );
    }

    #[test]
    fn mistakes() {
        check_create(
            "{apiVersion: v1, kind: Service, metadata: {name: 1a.b}}",
            expect![[r#"
            metadata.name: Invalid value: "1a.b": must not contain dots
            spec.ports: Required value"#]],
        );
        check_create(
            &WEB.replace("{port: 80}", "{port: 80}, {port: 80, nodePort: 3}, {port: 0, targetPort: '-'}"),
            expect![[r#"
            spec.ports[0].name: Required value
            spec.ports[1].name: Required value
            spec.ports[2].name: Required value
            spec.ports[2].port: Invalid value: 0: must be between 1 and 65535, inclusive
            spec.ports[2].targetPort: Invalid value: "-": must contain at least one letter (a-z)
            spec.ports[2].targetPort: Invalid value: "-": must not begin or end with a hyphen
            spec.ports[1].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'
            spec.ports[1]: Duplicate value: {"Name":"","Protocol":"TCP","AppProtocol":null,"Port":80,"TargetPort":0,"NodePort":0}"#]],
        );
        check_create(
            &WEB.replace("spec: {", "spec: {type: ExternalName, clusterIP: 10.0.0.1, "),
            expect![[r#"
            spec.clusterIPs: Forbidden: may not be set for ExternalName services
            spec.externalName: Required value"#]],
        );
        check_create(
            &WEB.replace("spec: {", "spec: {clusterIP: 10.0.0.01, externalTrafficPolicy: Local, ipFamilies: [IPv5], "),
            expect![[r#"
            spec.ipFamilies[0]: Unsupported value: "IPv5": supported values: "IPv4", "IPv6"
            spec.clusterIPs[0]: Invalid value: "10.0.0.01": must not have leading 0s
            spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services"#]],
        );
        check_create(
            &WEB.replace("spec: {", "spec: {type: NodePort, clusterIP: None, "),
            expect![[r#"spec.clusterIPs[0]: Invalid value: "None": may not be set to 'None' for NodePort services"#]],
        );
    }

    #[test]
    fn addresses_stay_and_are_carried_over() {
        let up = WEB.replace("spec: {", "spec: {clusterIP: 10.0.0.1, ");
        check_update(&up, WEB, None, expect!["generation 0"]);
        check_update(
            &up,
            &WEB.replace("spec: {", "spec: {clusterIP: 10.0.0.2, "),
            None,
            expect![[r#"spec.clusterIPs[0]: Invalid value: ["10.0.0.2"]: may not change once set"#]],
        );
        check_update(
            &up,
            &WEB.replace("spec: {", "spec: {type: ExternalName, externalName: a.b, "),
            None,
            expect!["generation 0"],
        );
    }

    #[test]
    fn rows() {
        check_row(
            &WEB.replace("spec: {", "spec: {type: NodePort, clusterIPs: [10.0.0.1], ")
                .replace("80}", "80, nodePort: 30080, protocol: TCP}"),
            expect![[r#"
            Name | Type | Cluster-IP | External-IP | Port(s) | Age | Selector
            web | NodePort | 10.0.0.1 | <none> | 80:30080/TCP | <unknown> | app=web"#]],
        );
        check_row(
            &WEB.replace("spec: {", "spec: {type: LoadBalancer, "),
            expect![[r#"
            Name | Type | Cluster-IP | External-IP | Port(s) | Age | Selector
            web | LoadBalancer | <none> | <pending> | 80/ | <unknown> | app=web"#]],
        );
    }
}
