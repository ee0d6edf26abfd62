//! Objects that several groups or versions share, each reader seeing its own (`pkg/apis/events/v1/conversion.go`,
//! `pkg/apis/autoscaling/v1/conversion.go`). Pure.
//!
//! An object is stored in the version it was written in and converted where it is read in another one.

use bytes::Bytes;
use machinery::kinds::{Kind, KindInfo};
use serde_json::{Map, Value};

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
    let info = kind.info();
    if info.group == "autoscaling" {
        return autoscaler(kind, bytes).map_or_else(|| bytes.clone(), Bytes::from);
    }
    let Ok(Value::Object(mut object)) = serde_json::from_slice::<Value>(bytes) else { return bytes.clone() };
    match info.group.as_ref() {
        "" => rename(&mut object, |(core, new)| (new, core)),
        _ => {
            rename(&mut object, |(core, new)| (core, new));
            // The core group shows these even if they are empty.
            object.retain(|key, value| !key.starts_with("reporting") || value.as_str() != Some(""));
        }
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

/// An autoscaler as the version that it was not written in.
fn autoscaler(kind: &dyn Kind, bytes: &[u8]) -> Option<Vec<u8>> {
    let info = kind.info();
    let written_in = if info.version == "v1" { "v2" } else { "v1" };
    let written = machinery::kinds::find(&info.group, written_in, &info.plural)?.decode(bytes).ok()?;
    Some(kind.encode(&*kind.convert(&*written)?))
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
        let spec = r#""maxReplicas":3,"#;
        let target = r#""scaleTargetRef":{"kind":"Deployment","name":"d"}"#;
        let object = |version: &str, metadata: &str, spec: &str| {
            format!(
                r#"{{"apiVersion":"autoscaling/{version}","kind":"HorizontalPodAutoscaler","metadata":{{{metadata}"name":"a"}},"spec":{{{spec}}}}}"#
            )
        };
        let pods = r#""annotations":{"autoscaling.alpha.kubernetes.io/metrics":"[{\"type\":\"Pods\",\"pods\":{\"metricName\":\"m\",\"targetAverageValue\":\"1\"}}]"},"#;
        let one = object("v1", pods, &format!(r#"{spec}"minReplicas":1,{target},"targetCPUUtilizationPercentage":50"#));
        let metrics = r#""metrics":[{"pods":{"metric":{"name":"m"},"target":{"averageValue":"1","type":"AverageValue"}},"type":"Pods"},{"resource":{"name":"cpu","target":{"averageUtilization":50,"type":"Utilization"}},"type":"Resource"}],"#;
        let two = object("v2", "", &format!(r#"{spec}{metrics}"minReplicas":1,{target}"#));
        for (version, stored, wanted) in [("v2", &one, &two), ("v1", &two, &one)] {
            let kind = machinery::kinds::find("autoscaling", version, "horizontalpodautoscalers").expect("a kind");
            let seen = view(kind, &Bytes::from(stored.clone()));
            let mut seen: Value = serde_json::from_slice(&seen).expect("JSON");
            // That there is none yet is shown as zeroes.
            seen.as_object_mut().and_then(|object| object.remove("status"));
            assert_eq!(seen, serde_json::from_str::<Value>(wanted).expect("JSON"));
        }
    }
}
