//! Endpoints and EndpointSlice (`pkg/registry/core/endpoint`, `pkg/registry/discovery/endpointslice/strategy.go`,
//! `ValidateEndpoint*`).

use super::common::{age, age_column, column, name, name_column, or_none, set, str_of, text};
use super::{Column, GenerateName, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    Family, IMMUTABLE, Messages, invalid_each, ip_warning, is_dns1123_label, is_dns1123_subdomain, is_label_key,
    is_label_value, is_valid_ip, is_valid_ip_legacy, is_valid_port, one_of, parse_ip_sloppy, required_one_of, unique,
    validate_labels,
};
use api::k8s::api::core::v1::{EndpointAddress, EndpointSubset};
use api::k8s::api::discovery::v1::{Endpoint, EndpointHints};
use api::prelude::{EndpointSlice, Endpoints};
use serde_json::Value;
use std::net::IpAddr;

const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];

/// What is particular about Endpoints.
pub(super) struct EndpointsKind;

impl Strategy for EndpointsKind {
    type Object = Endpoints;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(endpoints: &mut Endpoints) {
        for port in endpoints.subsets.iter_mut().flatten().flat_map(|s| s.ports.iter_mut().flatten()) {
            text(&mut port.protocol, "TCP");
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn warnings(endpoints: &Endpoints, _old: Option<&Endpoints>) -> Vec<String> {
        let mut warnings = Vec::new();
        for (i, subset) in endpoints.subsets.iter().flatten().enumerate() {
            let path = Path::new("subsets").index(i);
            for (field, addresses) in
                [("addresses", &subset.addresses), ("notReadyAddresses", &subset.not_ready_addresses)]
            {
                for (j, address) in addresses.iter().flatten().enumerate() {
                    warnings.extend(ip_warning(&address.ip, || path.child(field).index(j).child("ip")));
                }
            }
        }
        warnings
    }

    fn validate(endpoints: &Endpoints) -> Errors {
        let subsets = endpoints.subsets.iter().flatten().enumerate();
        subsets.flat_map(|(i, subset)| validate_subset(subset, &Path::new("subsets").index(i))).collect()
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    fn columns() -> Vec<Column> {
        vec![name_column(), column("Endpoints"), age_column()]
    }

    fn cells(endpoints: &Endpoints, now: jiff::Timestamp) -> Vec<Value> {
        vec![name(endpoints), endpoints_text(endpoints).into(), age(endpoints, now)]
    }
}

fn validate_subset(subset: &EndpointSubset, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let ready = subset.addresses.as_deref().unwrap_or_default();
    let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
    if ready.is_empty() && not_ready.is_empty() {
        errors.push(FieldError::required(path, "must specify `addresses` or `notReadyAddresses`"));
    }
    for (field, addresses) in [("addresses", ready), ("notReadyAddresses", not_ready)] {
        for (i, address) in addresses.iter().enumerate() {
            errors.extend(validate_address(address, &path.child(field).index(i)));
        }
    }
    let ports = subset.ports.as_deref().unwrap_or_default();
    for (i, port) in ports.iter().enumerate() {
        let path = path.child("ports").index(i);
        let name = str_of(&port.name);
        if !name.is_empty() {
            errors.extend(invalid_each(&path.child("name"), name, is_dns1123_label(name)));
        } else if ports.len() > 1 {
            errors.push(FieldError::required(&path.child("name"), ""));
        }
        let wrong = is_valid_port(i64::from(port.port));
        errors.extend(wrong.iter().map(|m| FieldError::invalid(&path.child("port"), port.port, m)));
        required_one_of(&mut errors, &path.child("protocol"), str_of(&port.protocol), PROTOCOLS);
        if let Some(protocol) = &port.app_protocol {
            errors.extend(invalid_each(&path.child("appProtocol"), protocol, is_label_key(protocol)));
        }
    }
    errors
}

fn validate_address(address: &EndpointAddress, path: &Path) -> Errors {
    let mut errors = is_valid_ip_legacy(&path.child("ip"), &address.ip, &[]);
    let host = str_of(&address.hostname);
    if !host.is_empty() {
        errors.extend(invalid_each(&path.child("hostname"), host, is_dns1123_label(host)));
    }
    if let Some(node) = &address.node_name {
        errors.extend(invalid_each(&path.child("nodeName"), node, is_dns1123_subdomain(node)));
    }
    errors.extend(validate_endpoint_ip(&address.ip, &path.child("ip")));
    errors
}

/// Errors of an address that traffic is sent to: not this host, not this link (`ValidateEndpointIP`).
pub(super) fn validate_endpoint_ip(text: &str, path: &Path) -> Errors {
    let Some(ip) = parse_ip_sloppy(text).map(|ip| ip.to_canonical()) else {
        return vec![FieldError::invalid(path, text, "must be a valid IP address")];
    };
    let (local_unicast, local_multicast) = match ip {
        IpAddr::V4(v4) => (v4.is_link_local(), v4.octets()[..3] == [224, 0, 0]),
        IpAddr::V6(v6) => (v6.segments()[0] & 0xffc0 == 0xfe80, v6.segments()[0] & 0xff0f == 0xff02),
    };
    let checks = [
        (ip.is_unspecified(), format!("may not be unspecified ({text})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (local_unicast, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (local_multicast, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ];
    checks.iter().filter(|c| c.0).map(|(_, detail)| FieldError::invalid(path, text, detail)).collect()
}

/// At most three, then how many more.
fn listed(all: &[String]) -> String {
    const MOST: usize = 3;
    let shown = or_none(all[..all.len().min(MOST)].join(","));
    if all.len() > MOST { format!("{shown} + {} more...", all.len() - MOST) } else { shown }
}

fn endpoints_text(endpoints: &Endpoints) -> String {
    let mut all = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let addresses = subset.addresses.as_deref().unwrap_or_default();
        let ports = subset.ports.as_deref().unwrap_or_default();
        if ports.is_empty() {
            all.extend(addresses.iter().map(|a| a.ip.clone()));
        }
        for port in ports {
            let host = |ip: &str| if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
            all.extend(addresses.iter().map(|a| format!("{}:{}", host(&a.ip), port.port)));
        }
    }
    // Upstream prints nothing, not `<none>`, for subsets without ready addresses.
    if all.is_empty() && endpoints.subsets.as_ref().is_some_and(|s| !s.is_empty()) {
        return String::new();
    }
    listed(&all)
}

/// What is particular about an EndpointSlice: it has no status, and any change but of metadata is a new generation.
pub(super) struct EndpointSliceKind;

impl Strategy for EndpointSliceKind {
    type Object = EndpointSlice;
    const GENERATE_NAME: GenerateName = GenerateName::Always;

    fn default(slice: &mut EndpointSlice) {
        for port in slice.ports.iter_mut().flatten() {
            set(&mut port.name, String::new());
            set(&mut port.protocol, "TCP".to_owned());
        }
    }

    fn prepare_create(slice: &mut EndpointSlice) {
        slice.metadata.generation = Some(1);
        for endpoint in slice.endpoints.iter_mut().flatten() {
            drop_topology(endpoint);
        }
    }

    fn prepare_update(new: &mut EndpointSlice, old: &EndpointSlice) {
        for endpoint in new.endpoints.iter_mut().flatten() {
            drop_topology(endpoint);
        }
        let body = |s: &EndpointSlice| EndpointSlice { metadata: Default::default(), ..s.clone() };
        let labels = |s: &EndpointSlice| s.metadata.labels.clone().unwrap_or_default();
        if body(new) != body(old) || labels(new) != labels(old) {
            new.metadata.generation = Some(old.metadata.generation.unwrap_or(0) + 1);
        }
    }

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(slice: &EndpointSlice) -> Errors {
        let mut errors = Vec::new();
        let kind = slice.address_type.as_str();
        required_one_of(&mut errors, &Path::new("addressType"), kind, &["FQDN", "IPv4", "IPv6"]);
        errors.extend(validate_ports(slice, &Path::new("ports")));
        let path = Path::new("endpoints");
        let endpoints = slice.endpoints.as_deref().unwrap_or_default();
        if endpoints.len() > 1000 {
            errors.push(FieldError::too_many(&path, endpoints.len(), 1000));
            return errors;
        }
        for (i, endpoint) in endpoints.iter().enumerate() {
            errors.extend(validate_endpoint(endpoint, kind, &path.index(i)));
        }
        errors
    }

    fn warnings(slice: &EndpointSlice, _old: Option<&EndpointSlice>) -> Vec<String> {
        let is_fqdn = slice.address_type == "FQDN";
        // The path is upstream's.
        is_fqdn.then(|| "spec.addressType: FQDN endpoints are deprecated".to_owned()).into_iter().collect()
    }

    fn validate_update(new: &EndpointSlice, old: &EndpointSlice) -> Errors {
        if new.address_type == old.address_type {
            return Vec::new();
        }
        vec![FieldError::invalid(&Path::new("addressType"), &new.address_type, IMMUTABLE)]
    }

    fn columns() -> Vec<Column> {
        vec![name_column(), column("AddressType"), column("Ports"), column("Endpoints"), age_column()]
    }

    fn cells(slice: &EndpointSlice, now: jiff::Timestamp) -> Vec<Value> {
        let port = |p: &api::k8s::api::discovery::v1::EndpointPort| match (p.port, &p.name) {
            (Some(number), _) => number.to_string(),
            (None, Some(name)) => name.clone(),
            (None, None) => "*".to_owned(),
        };
        let ports: Vec<String> = slice.ports.iter().flatten().map(port).collect();
        let ports = if ports.is_empty() { "<unset>".to_owned() } else { listed(&ports) };
        let addresses: Vec<String> = slice.endpoints.iter().flatten().flat_map(|e| e.addresses.clone()).collect();
        let addresses = if addresses.is_empty() { "<unset>".to_owned() } else { listed(&addresses) };
        vec![name(slice), slice.address_type.as_str().into(), ports.into(), addresses.into(), age(slice, now)]
    }
}

/// v1 has fields of its own for node and zone.
fn drop_topology(endpoint: &mut Endpoint) {
    endpoint.deprecated_topology = None;
}

fn validate_ports(slice: &EndpointSlice, path: &Path) -> Errors {
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.len() > 20000 {
        return vec![FieldError::too_many(path, ports.len(), 20000)];
    }
    let mut errors = Vec::new();
    unique(&mut errors, ports.iter().enumerate().map(|(i, p)| (path.index(i).child("name"), str_of(&p.name))));
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        let name = str_of(&port.name);
        if !name.is_empty() {
            errors.extend(invalid_each(&path.child("name"), name, is_dns1123_label(name)));
        }
        match &port.protocol {
            Some(protocol) => one_of(&mut errors, &path.child("protocol"), protocol, PROTOCOLS),
            None => errors.push(FieldError::required(&path.child("protocol"), "")),
        }
        if let Some(protocol) = &port.app_protocol {
            errors.extend(invalid_each(&path.child("appProtocol"), protocol, is_label_key(protocol)));
        }
    }
    errors
}

fn validate_endpoint(endpoint: &Endpoint, kind: &str, path: &Path) -> Errors {
    let addresses_path = path.child("addresses");
    let mut errors = Vec::new();
    if endpoint.addresses.is_empty() {
        errors.push(FieldError::required(&addresses_path, "must contain at least 1 address"));
    } else if endpoint.addresses.len() > 100 {
        errors.push(FieldError::too_many(&addresses_path, endpoint.addresses.len(), 100));
    }
    for (i, address) in endpoint.addresses.iter().enumerate() {
        errors.extend(validate_slice_address(address, kind, &addresses_path, i));
    }
    if let Some(node) = &endpoint.node_name {
        errors.extend(invalid_each(&path.child("nodeName"), node, is_dns1123_subdomain(node)));
    }
    errors.extend(validate_labels(endpoint.deprecated_topology.as_ref(), &path.child("deprecatedTopology")));
    if let Some(host) = &endpoint.hostname {
        errors.extend(invalid_each(&path.child("hostname"), host, is_dns1123_label(host)));
    }
    if let Some(hints) = &endpoint.hints {
        errors.extend(validate_hints(hints, &path.child("hints")));
    }
    errors
}

fn validate_slice_address(address: &str, kind: &str, path: &Path, i: usize) -> Errors {
    let at = path.index(i);
    let (wrong, wanted) = match kind {
        "IPv4" => (is_valid_ip_legacy(&at, address, &[]), Family::V4),
        "IPv6" => (is_valid_ip(&at, address), Family::V6),
        "FQDN" => return validate_domain(address, &at),
        _ => return Vec::new(),
    };
    if !wrong.is_empty() {
        return wrong;
    }
    let mut errors = Vec::new();
    if parse_ip_sloppy(address).map(Family::of) != Some(wanted) {
        let detail = format!("must be an {} address", wanted.as_str());
        errors.push(FieldError::invalid(path, address, &detail));
    }
    errors.extend(validate_endpoint_ip(address, &at));
    errors
}

/// `IsFullyQualifiedDomainName`.
fn validate_domain(name: &str, path: &Path) -> Errors {
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    let messages = is_dns1123_subdomain(name);
    if !messages.is_empty() {
        return vec![FieldError::invalid(path, name, &messages.join(","))];
    }
    if !name.contains('.') {
        let detail = "should be a domain with at least two segments separated by dots";
        return vec![FieldError::invalid(path, name, detail)];
    }
    Vec::new()
}

fn validate_hints(hints: &EndpointHints, path: &Path) -> Errors {
    let zones: Vec<&str> = hints.for_zones.iter().flatten().map(|z| z.name.as_str()).collect();
    let nodes: Vec<&str> = hints.for_nodes.iter().flatten().map(|n| n.name.as_str()).collect();
    let mut errors = Vec::new();
    let lists: [(&str, Vec<&str>, fn(&str) -> Messages); 2] =
        [("forZones", zones, is_label_value), ("forNodes", nodes, is_dns1123_subdomain)];
    for (field, names, check) in lists {
        let path = path.child(field);
        if names.len() > 8 {
            errors.push(FieldError::too_many(&path, names.len(), 8));
            return errors;
        }
        let at = |i: usize| path.index(i).child("name");
        unique(&mut errors, names.iter().enumerate().map(|(i, n)| (at(i), *n)));
        for (i, name) in names.iter().enumerate() {
            errors.extend(invalid_each(&at(i), name, check(name)));
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_row, check_warnings};
    use expect_test::expect;

    #[test]
    fn slices() {
        let slice = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1}
addressType: IPv4
ports: [{port: 80}]
endpoints: [{addresses: [10.0.0.1]}, {addresses: [10.0.0.2]}, {addresses: [10.0.0.3]}, {addresses: [10.0.0.4]}]";
        check_create(slice, expect![""]);
        check_create(
            &slice.replace("IPv4", "IPv6"),
            expect![[r#"
            endpoints[0].addresses: Invalid value: "10.0.0.1": must be an IPv6 address
            endpoints[1].addresses: Invalid value: "10.0.0.2": must be an IPv6 address
            endpoints[2].addresses: Invalid value: "10.0.0.3": must be an IPv6 address
            endpoints[3].addresses: Invalid value: "10.0.0.4": must be an IPv6 address"#]],
        );
        check_create(
            &slice.replace("[10.0.0.1]", "[]").replace("[10.0.0.2]", "[127.0.0.1]"),
            expect![[r#"
            endpoints[0].addresses: Required value: must contain at least 1 address
            endpoints[1].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)"#]],
        );
        check_row(
            slice,
            expect![[r#"
            Name | AddressType | Ports | Endpoints | Age
            web-1 | IPv4 | 80 | 10.0.0.1,10.0.0.2,10.0.0.3 + 1 more... | <unknown>"#]],
        );
    }

    #[test]
    fn slices_of_names_are_deprecated() {
        check_warnings(
            "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: s}, addressType: FQDN, endpoints: [{addresses: [a.b]}]}",
            None,
            expect!["spec.addressType: FQDN endpoints are deprecated"],
        );
    }

    #[test]
    fn addresses_that_are_not_written_so_are_warned_of() {
        check_warnings(
            "{apiVersion: v1, kind: Endpoints, metadata: {name: a, namespace: b}, subsets: [{addresses: [{ip: '2001:DB8::1'}], notReadyAddresses: [{ip: 10.0.0.1}]}]}",
            None,
            expect![[
                r#"subsets[0].addresses[0].ip: IPv6 address "2001:DB8::1" should be in RFC 5952 canonical format ("2001:db8::1")"#
            ]],
        );
    }
}
