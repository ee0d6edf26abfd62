//! The downward API: fields of the pod and of container resources as text (`pkg/fieldpath`, `pkg/api/v1/resource`).

use super::resources;
use crate::pod::view;
use api::k8s::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use api::k8s::apimachinery::pkg::api::resource::Quantity as ApiQuantity;
use api::meta::MetaExt;
use machinery::quantity::Quantity;
use std::collections::BTreeMap;
use std::net::IpAddr;
use thiserror::Error;

/// A field that cannot be had, in upstream's words.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FieldError {
    /// Not `v1`.
    #[error("unsupported pod version: {0}")]
    Version(String),
    /// No such field.
    #[error("field label not supported: {0}")]
    Label(String),
    /// `field['key']` only works on labels and annotations.
    #[error("field label does not support subscript: {0}")]
    Subscript(String),
    /// Legal, but not as a value.
    #[error("unsupported fieldPath: {0}")]
    Path(String),
    /// No such resource.
    #[error("unsupported container resource : {0}")]
    Resource(String),
    /// No such container.
    #[error("container {0} not found")]
    Container(String),
}

/// Addresses and sizes that are not in the pod's spec.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The node's addresses.
    pub host_ips: Vec<IpAddr>,
    /// The pod's addresses, as far as known.
    pub pod_ips: Vec<IpAddr>,
    /// The node's allocatable resources: limits that are not set.
    pub allocatable: BTreeMap<String, ApiQuantity>,
}

/// One field of the pod (`podFieldSelectorRuntimeValue`).
pub fn field(pod: &Pod, selector: &ObjectFieldSelector, facts: &Facts) -> Result<String, FieldError> {
    let version = selector.api_version.as_deref().unwrap_or("v1");
    if version != "v1" {
        return Err(FieldError::Version(version.to_owned()));
    }
    let path = selector.field_path.as_str();
    if let Some((base, key)) = subscript(path) {
        let map = match base {
            "metadata.annotations" => &pod.metadata.annotations,
            "metadata.labels" => &pod.metadata.labels,
            _ => return Err(FieldError::Subscript(path.to_owned())),
        };
        return Ok(map.as_ref().and_then(|m| m.get(key)).cloned().unwrap_or_default());
    }
    let spec = view::spec(pod);
    let ips = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>();
    Ok(match path {
        "metadata.annotations" => format_map(pod.metadata.annotations.as_ref()),
        "metadata.labels" => format_map(pod.metadata.labels.as_ref()),
        "metadata.name" => pod.name().to_owned(),
        "metadata.namespace" => pod.namespace().to_owned(),
        "metadata.uid" => pod.uid().to_owned(),
        "spec.nodeName" | "spec.host" => spec.node_name.clone().unwrap_or_default(),
        "spec.serviceAccountName" => spec.service_account_name.clone().unwrap_or_default(),
        "status.hostIP" => ips(&facts.host_ips).into_iter().next().unwrap_or_default(),
        "status.hostIPs" => ips(&facts.host_ips).join(","),
        "status.podIP" => ips(&facts.pod_ips).into_iter().next().unwrap_or_default(),
        "status.podIPs" => ips(&facts.pod_ips).join(","),
        "spec.restartPolicy" | "spec.schedulerName" | "status.phase" => return Err(FieldError::Path(path.to_owned())),
        other => return Err(FieldError::Label(other.to_owned())),
    })
}

/// `a['b']` → `(a, b)`.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(base, _)| !base.is_empty())
}

/// `key="value"` lines (`FormatMap`); the value as Go quotes it.
fn format_map(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter().flatten().map(|(k, v)| format!("{k}={}", go_quote(v))).collect::<Vec<_>>().join("\n")
}

fn go_quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// One resource of a container (`containerResourceRuntimeValue`); limits that are not set are the node's allocatable.
pub fn resource(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    facts: &Facts,
) -> Result<String, FieldError> {
    let named;
    let container = match selector.container_name.as_deref().filter(|n| !n.is_empty()) {
        Some(name) => {
            named = view::find_container(pod, name).ok_or_else(|| FieldError::Container(name.to_owned()))?.1;
            &*named
        }
        None => own.ok_or_else(|| FieldError::Container(String::new()))?,
    };
    let unsupported = || FieldError::Resource(selector.resource.clone());
    let (list, name) = selector.resource.split_once('.').ok_or_else(unsupported)?;
    let known = matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    let own = container.resources.as_ref();
    let milli = name == "cpu";
    let value = match list {
        "limits" if known => {
            let set = resources::amount(own.and_then(|r| r.limits.as_ref()), name, milli);
            let pod_level = view::spec(pod).resources.as_ref().and_then(|r| r.limits.as_ref());
            let pod_level = resources::amount(pod_level, name, milli);
            [set, pod_level, resources::amount(Some(&facts.allocatable), name, milli)]
                .into_iter()
                .find(|v| *v != 0)
                .unwrap_or(0)
        }
        "requests" if known => resources::amount(own.and_then(|r| r.requests.as_ref()), name, milli),
        _ => return Err(unsupported()),
    };
    let divisor = selector.divisor.as_ref().and_then(|d| Quantity::parse(&d.0).ok()).filter(|d| !d.is_zero());
    let divisor = divisor.map_or(if milli { 1000 } else { 1 }, |d| if milli { d.milli_value() } else { d.value() });
    Ok(ceiling(value, divisor.max(1)).to_string())
}

fn ceiling(value: i64, divisor: i64) -> i64 {
    value / divisor + i64::from(value % divisor > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    fn facts() -> Facts {
        Facts {
            host_ips: vec!["10.0.0.1".parse().expect("literal")],
            pod_ips: vec!["10.42.0.7".parse().expect("literal"), "fd00::7".parse().expect("literal")],
            allocatable: [
                ("cpu".to_owned(), ApiQuantity("4".into())),
                ("memory".to_owned(), ApiQuantity("8Gi".into())),
            ]
            .into(),
        }
    }

    fn check_field(path: &str, want: &str) {
        let mut pod = pod(r#"{"containers":[{"name":"a"}],"nodeName":"n1","serviceAccountName":"sa"}"#);
        pod.metadata.labels = Some([("a".to_owned(), "x\"y".to_owned()), ("b".to_owned(), "2".to_owned())].into());
        let selector = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
        let got = field(&pod, &selector, &facts()).unwrap_or_else(|e| format!("error: {e}"));
        assert_eq!(got, want, "{path}");
    }

    #[test]
    fn fields() {
        check_field("metadata.name", "web");
        check_field("metadata.labels", "a=\"x\\\"y\"\nb=\"2\"");
        check_field("metadata.labels['b']", "2");
        check_field("metadata.annotations['none']", "");
        check_field("spec.nodeName", "n1");
        check_field("status.podIP", "10.42.0.7");
        check_field("status.podIPs", "10.42.0.7,fd00::7");
        check_field("status.hostIP", "10.0.0.1");
        check_field("spec.foo", "error: field label not supported: spec.foo");
        check_field("spec.x['y']", "error: field label does not support subscript: spec.x['y']");
    }

    #[test]
    fn resources_round_up_and_default_to_allocatable() {
        let pod =
            pod(r#"{"containers":[{"name":"a","resources":{"requests":{"cpu":"250m"},"limits":{"cpu":"1500m"}}}]}"#);
        let get = |resource: &str, divisor: &str| {
            let selector = ResourceFieldSelector {
                container_name: Some("a".into()),
                divisor: Some(ApiQuantity(divisor.into())),
                resource: resource.into(),
            };
            super::resource(&pod, None, &selector, &facts()).unwrap_or_else(|e| format!("error: {e}"))
        };
        assert_eq!(get("limits.cpu", "0"), "2");
        assert_eq!(get("limits.cpu", "1m"), "1500");
        assert_eq!(get("requests.cpu", "1"), "1");
        assert_eq!(get("limits.memory", "1Mi"), "8192");
        assert_eq!(get("requests.memory", "1"), "0");
        assert_eq!(get("limits.gpu", "1"), "error: unsupported container resource : limits.gpu");
    }
}
