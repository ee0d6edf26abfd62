//! Who owns which fields: `metadata.managedFields` decoded. Follows `apimachinery/pkg/util/managedfields/internal`
//! (managedfields.go, capmanagers.go).
//!
//! Always holds: no manager owns an empty set once a change is done.

use super::set::{FieldSet, write_text};
use crate::json::{Json, Kind};
use jiff::Timestamp;
use std::borrow::Cow;
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
    pub(super) time: Option<Timestamp>,
    set: FieldSet,
    /// How the set was written last time, while it is still so.
    text: Option<String>,
}

impl Owned {
    pub(super) fn new(api_version: &str, set: FieldSet, time: Option<Timestamp>) -> Self {
        Owned { api_version: api_version.to_owned(), time, set, text: None }
    }

    /// Whether nothing is owned, neither in the set nor in the text that stands for one that was not read.
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.text.is_none()
    }

    pub(super) fn set(&self) -> &FieldSet {
        &self.set
    }

    pub(super) fn take_set(&mut self) -> FieldSet {
        self.text = None;
        std::mem::take(&mut self.set)
    }

    pub(super) fn replace(&mut self, set: FieldSet) {
        self.text = None;
        self.set = set;
    }
}

/// Where entries of managedFields come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Written by [`Managers::encode`], so that a set that does not change need not be written anew.
    Ours,
    /// Anybody.
    Client,
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Managers(pub(super) BTreeMap<ManagerId, Owned>);

/// Upstream's `DefaultMaxUpdateManagers`.
const MAX_UPDATE_MANAGERS: usize = 10;

impl Managers {
    /// Reads `metadata.managedFields`.
    pub(super) fn decode(entries: Option<Json<'_>>, source: Source) -> Result<Managers, String> {
        let mut managers = Managers::default();
        for (i, entry) in entries.into_iter().flat_map(Json::items).enumerate() {
            let (id, mut owned, fields) = read_entry(i, entry)?;
            owned.set = FieldSet::from_json(fields)
                .map_err(|e| format!("error decoding versioned set: error decoding set: {e}"))?;
            owned.text = owned.text.filter(|_| source == Source::Ours);
            managers.0.insert(id, owned);
        }
        Ok(managers)
    }

    /// Reads entries of ours without their sets, which stay the texts that they are. `None` if there are none, or none like ours.
    pub(super) fn unread(entries: Json<'_>) -> Option<Vec<(ManagerId, Owned, Json<'_>)>> {
        let read = |(i, entry)| read_entry(i, entry).ok().filter(|(_, owned, _)| owned.text.is_some());
        entries.items().enumerate().map(read).collect::<Option<Vec<_>>>().filter(|all| !all.is_empty())
    }

    /// Whether none need be merged, see [`Managers::cap_updaters`].
    pub(super) fn is_few(&self) -> bool {
        self.0.len() <= MAX_UPDATE_MANAGERS
    }

    /// Writes `metadata.managedFields`, sorted as upstream sorts; the members of an entry as our typed objects have them.
    /// `None` if there is nothing to say.
    pub(super) fn encode(&self) -> Option<String> {
        if self.0.is_empty() {
            return None;
        }
        let seconds = |owned: &Owned| owned.time.map_or(0, Timestamp::as_second);
        let mut entries: Vec<(&ManagerId, &Owned)> = self.0.iter().collect();
        entries.sort_by(|(a, x), (b, y)| {
            let one = (a.operation, seconds(x), &a.manager, &x.api_version, &a.subresource);
            one.cmp(&(b.operation, seconds(y), &b.manager, &y.api_version, &b.subresource))
        });
        let mut out = String::with_capacity(1024);
        out.push('[');
        for (i, (id, owned)) in entries.into_iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            write_entry(&mut out, id, owned);
        }
        out.push(']');
        Some(out)
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
                let set = owned.take_set().union(merged.set);
                owned.replace(set);
                // The one merged last is the most recent.
                owned.time = merged.time;
                count -= 1;
            }
        }
    }
}

/// Who, what is known without the set, and the set's text.
fn read_entry(i: usize, entry: Json<'_>) -> Result<(ManagerId, Owned, Json<'_>), String> {
    let text = |key: &str| entry.get(key).and_then(Json::text).unwrap_or_default();
    let operation = match &*text("operation") {
        "Apply" => Operation::Apply,
        "Update" => Operation::Update,
        _ => return Err("operation must be `Apply` or `Update`".to_owned()),
    };
    let api_version = text("apiVersion").into_owned();
    if api_version.is_empty() {
        return Err("apiVersion must not be empty".to_owned());
    }
    match &*text("fieldsType") {
        "FieldsV1" => {}
        "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
        other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
    }
    let fields = entry.get("fieldsV1").unwrap_or(Json::NULL);
    let time = entry.get("time").and_then(Json::text).and_then(|t| t.parse().ok());
    let id = ManagerId {
        manager: text("manager").into_owned(),
        operation,
        api_version: if operation == Operation::Apply { String::new() } else { api_version.clone() },
        subresource: text("subresource").into_owned(),
    };
    let text = (fields.kind() == Kind::Object).then(|| fields.json().to_owned());
    Ok((id, Owned { api_version, time, set: FieldSet::new(), text }, fields))
}

fn write_entry(out: &mut String, id: &ManagerId, owned: &Owned) {
    let text = |out: &mut String, start: &str, text: &str| {
        out.push_str(start);
        write_text(out, text);
    };
    text(out, "{\"apiVersion\":", &owned.api_version);
    out.push_str(",\"fieldsType\":\"FieldsV1\",\"fieldsV1\":");
    match &owned.text {
        Some(fields) => out.push_str(fields),
        None => owned.set.write_sorted(out),
    }
    if !id.manager.is_empty() {
        text(out, ",\"manager\":", &id.manager);
    }
    text(out, ",\"operation\":", id.operation.as_str());
    if !id.subresource.is_empty() {
        text(out, ",\"subresource\":", &id.subresource);
    }
    if let Some(time) = owned.time {
        text(out, ",\"time\":", &format!("{time:.0}"));
    }
    out.push('}');
}

/// Whether two texts of [`Managers::encode`] differ in nothing but times.
pub(super) fn is_same_but_for_times(a: Json<'_>, b: Json<'_>) -> bool {
    fn timeless(entry: Json<'_>) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
        entry.members().filter(|(key, _)| key != "time").map(|(key, value)| (key, value.json()))
    }
    a.items().count() == b.items().count() && a.items().zip(b.items()).all(|(a, b)| timeless(a).eq(timeless(b)))
}

/// Whether a client asks to forget all owners: `[]` or `[{}]`.
pub(super) fn is_reset(entries: Option<Json<'_>>) -> bool {
    let Some(list) = entries.filter(|e| e.kind() == Kind::Array) else { return false };
    let mut items = list.items();
    match (items.next(), items.next()) {
        (None, _) => true,
        (Some(one), None) => is_blank(one),
        _ => false,
    }
}

/// An entry whose every field is null or empty, as a typed client sends `{}`.
fn is_blank(entry: Json<'_>) -> bool {
    entry.kind() == Kind::Object && entry.members().all(|(_, v)| matches!(v.json(), "null" | "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Doc;
    use serde_json::{Value, json};

    fn decode(entries: &Value) -> Result<Managers, String> {
        Managers::decode(Some(Doc::of(entries).root()), Source::Client)
    }

    fn updater(name: &str, version: &str, second: i64) -> (ManagerId, Owned) {
        let id = ManagerId {
            manager: name.to_owned(),
            operation: Operation::Update,
            api_version: version.to_owned(),
            subresource: String::new(),
        };
        let set = FieldSet::of_fields(&[&[name]]);
        (id, Owned::new(version, set, Timestamp::from_second(second).ok()))
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
        let managers = decode(&shuffled).expect("valid");
        let text = managers.encode().expect("there are some");
        assert_eq!(serde_json::from_str::<Value>(&text).expect("JSON"), list);
        let again = Managers::decode(Some(Doc::parse(text.as_bytes()).expect("JSON").root()), Source::Ours);
        assert_eq!(again.expect("valid").encode(), Some(text));
        for bad in [
            json!([{"operation": "Zap"}]),
            json!([{"operation": "Apply"}]),
            json!([{"operation": "Apply", "apiVersion": "v1"}]),
            json!([{"operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV2"}]),
        ] {
            assert!(decode(&bad).is_err(), "{bad}");
        }
    }
}
