//! [`tolerates`]: taints of nodes and tolerations of pods.

use api::k8s::api::core::v1::{Taint, Toleration};

/// Whether a toleration makes up for a taint (`ToleratesTaint` of `component-helpers/scheduling/corev1/helpers.go`).
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    fn text(o: &Option<String>) -> &str {
        o.as_deref().unwrap_or_default()
    }
    let (key, effect) = (text(&toleration.key), text(&toleration.effect));
    if !effect.is_empty() && effect != taint.effect || !key.is_empty() && key != taint.key {
        return false;
    }
    match toleration.operator.as_deref() {
        Some("Exists") => true,
        None | Some("" | "Equal") => text(&toleration.value) == text(&taint.value),
        Some(_) => false,
    }
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
