//! Conversion of objects by a webhook: the review that asks and the one that answers
//! (`apiextensions-apiserver/pkg/apiserver/conversion/webhook_converter.go`). Sending is the caller's.

use super::{CustomKind, Definition};
use crate::field::{Path, aggregate};
use crate::kinds::Kind;
use crate::validation::{validate_annotations, validate_labels};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// The first review version that both sides know.
pub fn review_version(definition: &Definition) -> Option<&str> {
    let versions = definition.conversion.webhook.as_ref()?.conversion_review_versions.iter();
    versions.map(String::as_str).find(|v| matches!(*v, "v1" | "v1beta1"))
}

/// `ConversionReview` with objects to convert.
pub fn request(review: &str, uid: &str, desired: &str, objects: &[Value]) -> Value {
    json!({
        "kind": "ConversionReview",
        "apiVersion": format!("apiextensions.k8s.io/{review}"),
        "request": {"uid": uid, "desiredAPIVersion": desired, "objects": objects},
    })
}

/// The converted objects of an answer, checked and with the metadata that a webhook may not change. Errors are upstream's, after
/// `conversion webhook for <kind> `.
pub fn answer(review: &str, uid: &str, to: &CustomKind, asked: &[Value], body: &[u8]) -> Result<Vec<Value>, String> {
    let failed = |why: String| format!("failed: {why}");
    let answer: Value = serde_json::from_slice(body).map_err(|e| failed(e.to_string()))?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if review == "v1" {
        let (api_version, kind) = (text(&answer["apiVersion"]), text(&answer["kind"]));
        if api_version != "apiextensions.k8s.io/v1" || kind != "ConversionReview" {
            return Err(failed(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {}, Kind={kind}",
                if api_version.contains('/') { api_version } else { format!("/{api_version}") }
            )));
        }
    }
    let response = &answer["response"];
    if response.is_null() {
        return Err(failed("no response provided".into()));
    }
    let answered = text(&response["uid"]);
    if review == "v1" && answered != uid {
        return Err(failed(format!("expected response.uid={uid:?}, got {answered:?}")));
    }
    let state = text(&response["result"]["status"]);
    if state != "Success" {
        let message = text(&response["result"]["message"]);
        let why =
            if message.is_empty() { format!("response.result.status was '{state}', not 'Success'") } else { message };
        return Err(failed(why));
    }
    let converted = response["convertedObjects"].as_array().cloned().unwrap_or_default();
    if converted.len() != asked.len() {
        return Err(format!("returned {} objects, expected {}", converted.len(), asked.len()));
    }
    let pairs = asked.iter().zip(converted).enumerate();
    pairs.map(|(i, (old, new))| checked(to, i, old, new)).collect()
}

fn checked(to: &CustomKind, index: usize, old: &Value, mut new: Value) -> Result<Value, String> {
    let invalid = |why: String| format!("returned invalid object at index {index}: {why}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let wanted = to.info().api_version();
    if text(&new["apiVersion"]) != wanted {
        let got = text(&new["apiVersion"]);
        return Err(invalid(format!("invalid groupVersion (expected {wanted}, received {got})")));
    }
    if new["kind"] != old["kind"] {
        let (expected, got) = (text(&old["kind"]), text(&new["kind"]));
        return Err(invalid(format!("invalid kind (expected {expected}, received {got})")));
    }
    for (field, name) in [("name", "name"), ("namespace", "namespace"), ("uid", "UID")] {
        let (before, after) = (text(&old["metadata"][field]), text(&new["metadata"][field]));
        if before != after {
            return Err(format!("returned invalid object: must have the same {name}: {before} != {after}"));
        }
    }
    let meta =
        restore(&old["metadata"], &new["metadata"]).map_err(|why| format!("returned invalid metadata: {why}"))?;
    new["metadata"] = meta;
    Ok(new)
}

/// A webhook may change labels and annotations, nothing else of metadata.
fn restore(old: &Value, new: &Value) -> Result<Value, String> {
    let Value::Object(new) = new else { return Err("missing metadata in converted object".into()) };
    let mut meta = old.as_object().cloned().unwrap_or_else(Map::new);
    for field in ["labels", "annotations"] {
        let Some(value) = new.get(field).filter(|v| !v.is_null()) else {
            meta.remove(field);
            continue;
        };
        let Value::Object(map) = value else { return Err(format!("invalid metadata.{field} in converted object")) };
        let mut texts: BTreeMap<String, String> = BTreeMap::new();
        for (key, value) in map {
            let Some(text) = value.as_str() else {
                return Err(format!("metadata.{field}[{key}] must be a string in converted object"));
            };
            texts.insert(key.clone(), text.to_owned());
        }
        if meta.get(field) != Some(value) {
            let path = Path::new("metadata").child(field);
            let errors = match field {
                "labels" => validate_labels(Some(&texts), &path),
                _ => validate_annotations(Some(&texts), &path),
            };
            if !errors.is_empty() {
                return Err(aggregate(&errors));
            }
        }
        meta.insert(field.to_owned(), value.clone());
    }
    Ok(Value::Object(meta))
}
