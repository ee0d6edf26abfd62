//! [`tolerates`]: taints of nodes and of devices, and tolerations of pods and of claims.

use api::k8s::api::core::v1::{Taint, Toleration};
use api::k8s::api::resource::v1::{DeviceTaint, DeviceToleration};

/// What all taints and tolerations have; what is not given is empty.
#[derive(Debug, Clone, Copy)]
pub struct Parts<'a> {
    key: &'a str,
    operator: &'a str,
    value: &'a str,
    effect: &'a str,
}

fn text(optional: &Option<String>) -> &str {
    optional.as_deref().unwrap_or_default()
}

impl<'a> From<&'a Toleration> for Parts<'a> {
    fn from(t: &'a Toleration) -> Self {
        Parts { key: text(&t.key), operator: text(&t.operator), value: text(&t.value), effect: text(&t.effect) }
    }
}

impl<'a> From<&'a DeviceToleration> for Parts<'a> {
    fn from(t: &'a DeviceToleration) -> Self {
        Parts { key: text(&t.key), operator: text(&t.operator), value: text(&t.value), effect: text(&t.effect) }
    }
}

impl<'a> From<&'a Taint> for Parts<'a> {
    fn from(t: &'a Taint) -> Self {
        Parts { key: &t.key, operator: "", value: text(&t.value), effect: &t.effect }
    }
}

impl<'a> From<&'a DeviceTaint> for Parts<'a> {
    fn from(t: &'a DeviceTaint) -> Self {
        Parts { key: &t.key, operator: "", value: text(&t.value), effect: &t.effect }
    }
}

/// Whether a toleration makes up for a taint (`ToleratesTaint` of `component-helpers/scheduling/corev1/helpers.go` and
/// `dynamic-resource-allocation/resourceclaim/devicetoleration.go`).
pub fn tolerates<'a>(toleration: impl Into<Parts<'a>>, taint: impl Into<Parts<'a>>) -> bool {
    let (toleration, taint): (Parts<'_>, Parts<'_>) = (toleration.into(), taint.into());
    let is = |wanted: &str, found: &str| wanted.is_empty() || wanted == found;
    let same_value = match toleration.operator {
        "Exists" => true,
        "" | "Equal" => toleration.value == taint.value,
        _ => false,
    };
    is(toleration.effect, taint.effect) && is(toleration.key, taint.key) && same_value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_values_and_effects_are_compared() {
        let taint: Taint = serde_json::from_str(r#"{"key":"k","value":"v","effect":"NoExecute"}"#).expect("a taint");
        let check = |json: &str, want: bool| {
            let toleration: Toleration = serde_json::from_str(json).expect("a toleration");
            assert_eq!(tolerates(&toleration, &taint), want, "{json}");
        };
        check(r#"{"operator":"Exists"}"#, true);
        check(r#"{"key":"k","operator":"Exists","effect":"NoExecute"}"#, true);
        check(r#"{"key":"k","operator":"Exists","effect":"NoSchedule"}"#, false);
        check(r#"{"key":"k","value":"v"}"#, true);
        check(r#"{"key":"k","operator":"Equal","value":"w"}"#, false);
        check(r#"{"key":"other","operator":"Exists"}"#, false);
        check(r#"{"key":"k","operator":"Near","value":"v"}"#, false);
    }
}
