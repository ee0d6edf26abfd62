//! Objects that several groups or versions share, each reader seeing its own (`pkg/apis/events/v1/conversion.go`,
//! `pkg/apis/autoscaling/v1/conversion.go`). Pure.
//!
//! An object is stored in the version it was written in and converted where it is read in another one. Differs from upstream
//! in one detail: metrics that autoscaling/v1 cannot say are kept in their annotation in v2's form, not in v2beta1's.

use bytes::Bytes;
use machinery::kinds::{Kind, KindInfo};
use serde_json::{Map, Value, json};

/// `v1` and `events.k8s.io/v1` names of the same fields.
const EVENT: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
/// The target of an autoscaler that names no metric.
const DEFAULT_CPU: i64 = 80;

fn is_shared(info: &KindInfo) -> bool {
    matches!(
        (info.group.as_ref(), info.kind.as_ref()),
        ("" | "events.k8s.io", "Event") | ("autoscaling", "HorizontalPodAutoscaler")
    )
}

/// Whether stored bytes are in another version than `kind`'s.
pub(crate) fn is_foreign(kind: &dyn Kind, bytes: &[u8]) -> bool {
    let info = kind.info();
    is_shared(info) && !bytes.starts_with(format!("{{\"apiVersion\":\"{}\",", info.api_version()).as_bytes())
}

/// Stored bytes as `kind`'s version. Almost always they are that already.
pub(crate) fn view(kind: &dyn Kind, bytes: &Bytes) -> Bytes {
    if !is_foreign(kind, bytes) {
        return bytes.clone();
    }
    let Ok(Value::Object(mut object)) = serde_json::from_slice::<Value>(bytes) else { return bytes.clone() };
    let info = kind.info();
    match (info.group.as_ref(), info.version.as_ref()) {
        ("", _) => rename(&mut object, |(core, new)| (new, core)),
        ("events.k8s.io", _) => rename(&mut object, |(core, new)| (core, new)),
        (_, "v1") => to_autoscaling_v1(&mut object),
        _ => to_autoscaling_v2(&mut object),
    }
    // Identity and metadata come first in stored bytes.
    let metadata = object.remove("metadata").unwrap_or_default();
    object.remove("apiVersion");
    object.remove("kind");
    let mut out = format!(r#"{{"apiVersion":"{}","kind":"{}","metadata":{metadata}"#, info.api_version(), info.kind);
    for (key, value) in object {
        out.push_str(&format!(",{}:{value}", Value::from(key)));
    }
    out.push('}');
    out.into()
}

/// An object of one kind as the other kind's version, for admission.
pub(crate) fn between(mut object: Value, from: &dyn Kind, to: &dyn Kind) -> Result<Value, serde_json::Error> {
    if is_shared(from.info()) {
        return serde_json::from_slice(&view(to, &Bytes::from(object.to_string())));
    }
    object["apiVersion"] = to.info().api_version().into();
    Ok(object)
}

fn rename(
    object: &mut Map<String, Value>,
    pair: impl Fn(&(&'static str, &'static str)) -> (&'static str, &'static str),
) {
    for (from, to) in EVENT.iter().map(pair) {
        if let Some(value) = object.remove(from) {
            object.insert(to.to_owned(), value);
        }
    }
}

fn is_cpu_utilization(metric: &Value) -> bool {
    metric["type"] == "Resource"
        && metric["resource"]["name"] == "cpu"
        && metric["resource"]["target"]["averageUtilization"].is_i64()
}

fn annotate(object: &mut Map<String, Value>, name: &str, value: Option<Value>) {
    let Some(value) = value.filter(|v| !v.is_null() && v.as_array().is_none_or(|a| !a.is_empty())) else { return };
    object.entry("metadata").or_insert_with(|| json!({}))["annotations"][name] = value.to_string().into();
}

fn take_annotation(object: &mut Map<String, Value>, name: &str) -> Option<Value> {
    let annotations = object.get_mut("metadata")?.get_mut("annotations")?.as_object_mut()?;
    serde_json::from_str(annotations.remove(name)?.as_str()?).ok()
}

fn to_autoscaling_v1(object: &mut Map<String, Value>) {
    let spec = object.get_mut("spec").and_then(Value::as_object_mut);
    let (mut others, mut behavior) = (None, None);
    if let Some(spec) = spec {
        behavior = spec.remove("behavior");
        if let Some(Value::Array(metrics)) = spec.remove("metrics") {
            let (cpu, rest): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu_utilization);
            if let Some(first) = cpu.first() {
                let percent = first["resource"]["target"]["averageUtilization"].clone();
                spec.insert("targetCPUUtilizationPercentage".into(), percent);
            }
            others = Some(Value::Array(rest));
        }
    }
    let status = object.get_mut("status").and_then(Value::as_object_mut);
    let (mut current, mut conditions) = (None, None);
    if let Some(status) = status {
        conditions = status.remove("conditions");
        current = status.remove("currentMetrics");
        let percent = current.as_ref().and_then(Value::as_array).into_iter().flatten().find_map(|m| {
            let cpu = m["type"] == "Resource" && m["resource"]["name"] == "cpu";
            m["resource"]["current"]["averageUtilization"].as_i64().filter(|_| cpu)
        });
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent.into());
        }
    }
    annotate(object, METRICS, others);
    annotate(object, BEHAVIOR, behavior);
    annotate(object, CURRENT, current);
    annotate(object, CONDITIONS, conditions);
}

fn to_autoscaling_v2(object: &mut Map<String, Value>) {
    let others = take_annotation(object, METRICS);
    let behavior = take_annotation(object, BEHAVIOR);
    let current = take_annotation(object, CURRENT);
    let conditions = take_annotation(object, CONDITIONS);
    if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
        let mut metrics = others.and_then(|o| o.as_array().cloned()).unwrap_or_default();
        let percent = spec.remove("targetCPUUtilizationPercentage").and_then(|p| p.as_i64());
        let percent = percent.or_else(|| metrics.is_empty().then_some(DEFAULT_CPU));
        if let Some(percent) = percent {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            metrics.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        spec.insert("metrics".into(), metrics.into());
        if let Some(behavior) = behavior {
            spec.insert("behavior".into(), behavior);
        }
    }
    if let Some(status) = object.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("currentCPUUtilizationPercentage");
        for (name, value) in [("currentMetrics", current), ("conditions", conditions)] {
            if let Some(value) = value {
                status.insert(name.into(), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(group: &str, version: &str, plural: &str, stored: &str, expected: &str) {
        let kind = machinery::kinds::find(group, version, plural).expect("a kind");
        let seen = view(kind, &Bytes::from(stored.to_owned()));
        assert_eq!(seen, Bytes::from(expected.to_owned()));
    }

    #[test]
    fn events_have_two_names() {
        let core = r#"{"apiVersion":"v1","kind":"Event","metadata":{"resourceVersion":"1"},"involvedObject":{"kind":"Pod"},"message":"m"}"#;
        let new = r#"{"apiVersion":"events.k8s.io/v1","kind":"Event","metadata":{"resourceVersion":"1"},"note":"m","regarding":{"kind":"Pod"}}"#;
        check("events.k8s.io", "v1", "events", core, new);
        check("", "v1", "events", core, core);
        check("", "v1", "events", new, core);
    }

    #[test]
    fn autoscalers_have_two_versions() {
        let one = r#"{"apiVersion":"autoscaling/v1","kind":"HorizontalPodAutoscaler","metadata":{},"spec":{"maxReplicas":3,"targetCPUUtilizationPercentage":50}}"#;
        let two = r#"{"apiVersion":"autoscaling/v2","kind":"HorizontalPodAutoscaler","metadata":{},"spec":{"maxReplicas":3,"metrics":[{"resource":{"name":"cpu","target":{"averageUtilization":50,"type":"Utilization"}},"type":"Resource"}]}}"#;
        check("autoscaling", "v2", "horizontalpodautoscalers", one, two);
        check("autoscaling", "v1", "horizontalpodautoscalers", two, one);
    }
}
