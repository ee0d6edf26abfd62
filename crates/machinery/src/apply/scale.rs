//! Owners of `replicas` when it is read and written through the `scale` subresource, whose object is a Scale.
//! Follows `apimachinery/pkg/util/managedfields/scalehandler.go`.

use super::managers::{ManagerId, Managers, Owned};
use super::path::PathElement;
use super::set::FieldSet;
use super::{decode_entries, encode_entries};
use serde_json::Value;
use std::collections::HashMap;

const SCALE_VERSION: &str = "autoscaling/v1";

/// Translates managedFields between an object and its Scale.
#[derive(Debug, Clone, Copy)]
pub struct ScaleFields<'a> {
    /// Version of the object, e.g. `apps/v1`. Owners in other versions are forgotten.
    pub api_version: &'a str,
    /// Where the object has its replicas, e.g. `["spec", "replicas"]`.
    pub replicas: &'a [&'a str],
}

impl ScaleFields<'_> {
    fn path(&self) -> Vec<PathElement> {
        self.replicas.iter().map(|name| PathElement::field(name)).collect()
    }

    /// managedFields of the Scale: whoever owns the object's replicas owns `.spec.replicas`.
    pub fn to_scale(&self, object_entries: Option<&Value>) -> Option<Value> {
        let managers = decode_entries(object_entries).unwrap_or_default();
        let mut out = Managers::default();
        for (id, owned) in managers.0 {
            if owned.api_version == self.api_version && owned.set().has(&self.path()) {
                let set = FieldSet::of_fields(&[&["spec", "replicas"]]);
                out.0.insert(id, Owned::new(SCALE_VERSION, set, owned.time));
            }
        }
        encode_entries(&out)
    }

    /// managedFields of the object after a write to its Scale.
    pub fn to_object(&self, object_entries: Option<&Value>, scale_entries: Option<&Value>) -> Option<Value> {
        let replicas = FieldSet::of_fields(&[self.replicas]);
        let in_scale = [PathElement::field("spec"), PathElement::field("replicas")];
        let mut scale = decode_entries(scale_entries).unwrap_or_default();
        scale.0.retain(|_, owned| owned.set().has(&in_scale));
        let mut out = Managers::default();
        let mut times = HashMap::new();
        for (id, mut owned) in decode_entries(object_entries).unwrap_or_default().0 {
            times.insert(id.clone(), owned.time);
            if owned.api_version != self.api_version {
                continue;
            }
            if owned.set().has(&self.path()) {
                // An updater's identity has its version in it, which a Scale spells differently.
                let in_scale = ManagerId { api_version: scale_version(&id), ..id.clone() };
                if scale.0.remove(&id).or_else(|| scale.0.remove(&in_scale)).is_none() {
                    owned.replace(owned.set().difference(&replicas));
                }
            }
            out.0.insert(id, owned);
        }
        for (mut id, _) in scale.0 {
            // Upstream looks the time up among the object's owners, who do not have this one yet.
            let owned = Owned::new(self.api_version, replicas.clone(), times.remove(&id).flatten());
            if !id.api_version.is_empty() {
                id.api_version = self.api_version.to_owned();
            }
            out.0.insert(id, owned);
        }
        out.drop_empty();
        encode_entries(&out)
    }
}

fn scale_version(id: &ManagerId) -> String {
    if id.api_version.is_empty() { String::new() } else { SCALE_VERSION.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(manager: &str, operation: &str, version: &str, fields: Value) -> Value {
        json!({"manager": manager, "operation": operation, "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": fields})
    }

    #[test]
    fn replicas_are_stolen_through_scale() {
        let scale = ScaleFields { api_version: "apps/v1", replicas: &["spec", "replicas"] };
        let both = json!({"f:spec": {"f:replicas": {}, "f:paused": {}}});
        let replicas = json!({"f:spec": {"f:replicas": {}}});
        let object = json!([
            entry("a", "Apply", "apps/v1", both.clone()),
            entry("b", "Update", "apps/v1", json!({"f:spec": {"f:x": {}}}))
        ]);
        let seen = scale.to_scale(Some(&object)).expect("a owns replicas");
        assert_eq!(seen, json!([entry("a", "Apply", "autoscaling/v1", replicas.clone())]));
        // Unchanged: nothing happens.
        assert_eq!(scale.to_object(Some(&object), Some(&seen)), Some(object.clone()));
        // Somebody else scales. Upstream forgets when.
        let mut scaler = entry("hpa", "Update", "autoscaling/v1", replicas.clone());
        scaler["time"] = "2024-01-01T00:00:00Z".into();
        scaler["subresource"] = "scale".into();
        let mut after = entry("hpa", "Update", "apps/v1", replicas);
        after["subresource"] = "scale".into();
        assert_eq!(
            scale.to_object(Some(&object), Some(&json!([scaler]))),
            Some(json!([
                entry("a", "Apply", "apps/v1", json!({"f:spec": {"f:paused": {}}})),
                entry("b", "Update", "apps/v1", json!({"f:spec": {"f:x": {}}})),
                after,
            ]))
        );
    }
}
