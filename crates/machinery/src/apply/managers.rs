//! Who owns which fields: `metadata.managedFields` decoded. Follows `apimachinery/pkg/util/managedfields/internal`
//! (managedfields.go, capmanagers.go).
//!
//! Always holds: no manager owns an empty set once a change is done.

use super::set::FieldSet;
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// How a manager wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Anything else.
    Update,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Operation::Apply => "Apply",
            Operation::Update => "Update",
        }
    }
}

/// What tells entries of managedFields apart. Appliers are the same in every version, updaters are not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ManagerId {
    /// Name.
    pub manager: String,
    /// How it wrote.
    pub operation: Operation,
    /// Version of an updater; empty for appliers.
    pub api_version: String,
    /// Empty for the main resource.
    pub subresource: String,
}

/// What a manager owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    /// The version that the set's paths are of.
    pub(super) api_version: String,
    pub(super) set: FieldSet,
    pub(super) time: Option<Timestamp>,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managers(pub(super) BTreeMap<ManagerId, Owned>);

/// Upstream's `DefaultMaxUpdateManagers`.
const MAX_UPDATE_MANAGERS: usize = 10;

impl Managers {
    /// Reads `metadata.managedFields`.
    pub(super) fn decode(entries: Option<&Value>) -> Result<Managers, String> {
        let mut managers = Managers::default();
        for (i, entry) in entries.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType").as_str() {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
            }
            let set = FieldSet::from_value(entry.get("fieldsV1").unwrap_or(&Value::Null))
                .map_err(|e| format!("error decoding versioned set: error decoding set: {e}"))?;
            let time = entry.get("time").and_then(Value::as_str).and_then(|t| t.parse().ok());
            let id = ManagerId {
                manager: text("manager"),
                operation,
                api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
                subresource: text("subresource"),
            };
            managers.0.insert(id, Owned { api_version, set, time });
        }
        Ok(managers)
    }

    /// Writes `metadata.managedFields`, sorted as upstream sorts. `None` if there is nothing to say.
    pub(super) fn encode(&self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let seconds = |owned: &Owned| owned.time.map_or(0, Timestamp::as_second);
        let mut entries: Vec<(&ManagerId, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let key = |id: &ManagerId, owned: &Owned| (id.operation, seconds(owned), id.manager.clone());
            let rest = |id: &ManagerId, owned: &Owned| (owned.api_version.clone(), id.subresource.clone());
            key(a, x).cmp(&key(b, y)).then_with(|| rest(a, x).cmp(&rest(b, y)))
        });
        Some(Value::Array(entries.into_iter().map(|(id, owned)| entry(id, owned)).collect()))
    }

    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|_, owned| !owned.set.is_empty());
    }

    /// Merges the oldest updaters of each version into one called `ancient-changes`, until there are at most ten.
    pub(super) fn cap_updaters(&mut self) {
        let seconds = |owned: &Owned| owned.time.map_or(0, Timestamp::as_second);
        let mut updaters: Vec<(i64, ManagerId)> = self
            .0
            .iter()
            .filter(|(id, _)| id.operation == Operation::Update)
            .map(|(id, owned)| (seconds(owned), id.clone()))
            .collect();
        let mut count = updaters.len();
        if count <= MAX_UPDATE_MANAGERS {
            return;
        }
        updaters.sort();
        let mut first_of_version: BTreeMap<String, ManagerId> = BTreeMap::new();
        for (_, id) in updaters {
            if count <= MAX_UPDATE_MANAGERS {
                return;
            }
            let Some(version) = self.0.get(&id).map(|owned| owned.api_version.clone()) else { continue };
            let Some(first) = first_of_version.get(&version).cloned() else {
                first_of_version.insert(version, id);
                continue;
            };
            let bucket = ManagerId {
                manager: "ancient-changes".to_owned(),
                operation: Operation::Update,
                api_version: version,
                subresource: String::new(),
            };
            if !self.0.contains_key(&bucket)
                && let Some(owned) = self.0.remove(&first)
            {
                self.0.insert(bucket.clone(), owned);
            }
            if id == bucket {
                continue;
            }
            if let Some(merged) = self.0.remove(&id)
                && let Some(owned) = self.0.get_mut(&bucket)
            {
                owned.set = std::mem::take(&mut owned.set).union(merged.set);
                // The one merged last is the most recent.
                owned.time = merged.time;
                count -= 1;
            }
        }
    }
}

fn entry(id: &ManagerId, owned: &Owned) -> Value {
    let mut map = Map::new();
    if !id.manager.is_empty() {
        map.insert("manager".to_owned(), id.manager.clone().into());
    }
    map.insert("operation".to_owned(), id.operation.as_str().into());
    map.insert("apiVersion".to_owned(), owned.api_version.clone().into());
    if let Some(time) = owned.time {
        map.insert("time".to_owned(), time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string().into());
    }
    map.insert("fieldsType".to_owned(), "FieldsV1".into());
    map.insert("fieldsV1".to_owned(), owned.set.to_value());
    if !id.subresource.is_empty() {
        map.insert("subresource".to_owned(), id.subresource.clone().into());
    }
    Value::Object(map)
}

/// Whether a client asks to forget all owners: `[]` or `[{}]`.
pub(super) fn is_reset(entries: Option<&Value>) -> bool {
    match entries.and_then(Value::as_array).map(Vec::as_slice) {
        Some([]) => true,
        Some([one]) => *one == json!({}) || is_blank(one),
        _ => false,
    }
}

/// An entry whose every field is null or empty, as a typed client sends `{}`.
fn is_blank(entry: &Value) -> bool {
    entry.as_object().is_some_and(|m| m.values().all(|v| v.is_null() || *v == ""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn updater(name: &str, version: &str, second: i64) -> (ManagerId, Owned) {
        let id = ManagerId {
            manager: name.to_owned(),
            operation: Operation::Update,
            api_version: version.to_owned(),
            subresource: String::new(),
        };
        let set = FieldSet::of_fields(&[&[name]]);
        let time = Timestamp::from_second(second).ok();
        (id, Owned { api_version: version.to_owned(), set, time })
    }

    #[test]
    fn the_oldest_updaters_of_a_version_are_merged() {
        let mut managers = Managers::default();
        managers.0.extend((0..11).map(|i| updater(&format!("m{i:02}"), "v1", 100 - i)));
        managers.0.extend([updater("other", "v2", 1)]);
        managers.cap_updaters();
        let names: Vec<&str> = managers.0.keys().map(|id| id.manager.as_str()).collect();
        assert_eq!(names, ["ancient-changes", "m00", "m01", "m02", "m03", "m04", "m05", "m06", "m07", "other"]);
        let ancient = managers.0.values().next().expect("the bucket");
        assert_eq!(ancient.set, FieldSet::of_fields(&[&["m10"], &["m09"], &["m08"]]));
        assert_eq!(ancient.time, Timestamp::from_second(92).ok());
        let before = managers.clone();
        managers.cap_updaters();
        assert_eq!(managers, before);
    }

    #[test]
    fn entries_round_trip_in_upstreams_order() {
        let list = json!([
            {"manager": "b", "operation": "Apply", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:a": {}}},
            {"manager": "a", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:04Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:b": {}}},
            {"manager": "a", "operation": "Update", "apiVersion": "v1", "time": "2026-01-02T03:04:05Z", "fieldsType": "FieldsV1", "fieldsV1": {"f:c": {}}, "subresource": "status"},
        ]);
        let mut shuffled = list.clone();
        shuffled.as_array_mut().expect("a list").reverse();
        let managers = Managers::decode(Some(&shuffled)).expect("valid");
        assert_eq!(managers.encode(), Some(list));
        for bad in [
            json!([{"operation": "Zap"}]),
            json!([{"operation": "Apply"}]),
            json!([{"operation": "Apply", "apiVersion": "v1"}]),
            json!([{"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV2"}]),
        ] {
            assert!(Managers::decode(Some(&bad)).is_err(), "{bad}");
        }
    }
}
