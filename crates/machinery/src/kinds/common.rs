//! What strategies share: setting defaults, comparing as upstream compares, columns and cells.

use super::Column;
use crate::scan;
use crate::schema::{builtin, shown};
use api::k8s::api::core::v1::Container;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::MetaExt;
use api::{LabelSelector, Object, ObjectMeta, Time};
use serde_json::Value;
use std::collections::BTreeMap;

// === defaults ===

/// Sets a text that is absent or empty (Go's zero value).
pub(super) fn text(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or_default().is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Sets a value that is absent (Go's nil pointer).
pub(super) fn set<T>(field: &mut Option<T>, value: T) {
    if field.is_none() {
        *field = Some(value);
    }
}

/// Sets a number that is absent or zero (Go's zero value).
pub(super) fn nonzero(field: &mut Option<i32>, value: i32) {
    if field.unwrap_or(0) == 0 {
        *field = Some(value);
    }
}

/// A text field as Go sees it: absent is empty.
pub(super) fn str_of(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}

/// Shows every quantity of a resource list.
pub(super) fn visit_list(list: &mut Option<BTreeMap<String, Quantity>>, visit: &mut dyn FnMut(&mut Quantity)) {
    list.iter_mut().flat_map(BTreeMap::values_mut).for_each(visit);
}

// === change ===

/// Whether the top-level `field` of two objects differs, as `equality.Semantic.DeepEqual` sees it: what is absent and what is
/// empty in Go's structs is the same. Call it only when the typed values differ; it is slow.
fn differs<K: Object>(new: &K, old: &K, field: &str) -> bool {
    let Some(ty) = builtin().by_kind(K::GROUP, K::VERSION, K::KIND) else { return true };
    let (new, old) = (shown(ty, &new.encode()), shown(ty, &old.encode()));
    let part = |json: &[u8]| scan::member(json, 0, field.as_bytes()).map(|at| json[at].to_vec());
    let (new, old) = (part(&new), part(&old));
    // What is shown although nobody set it stands behind what was set, so the order may differ.
    let value = |json: Option<Vec<u8>>| json.and_then(|json| serde_json::from_slice::<Value>(&json).ok());
    new != old && value(new) != value(old)
}

/// Bumps the generation if the specs differ: most kinds' rule. `same` is the quick typed comparison.
pub(super) fn bump_if_spec_changed<K: Object>(new: &mut K, old: &K, same: bool) {
    if !same && differs(new, old, "spec") {
        new.meta_mut().generation = Some(old.meta().generation.unwrap_or(0) + 1);
    }
}

/// Bumps the generation if something changed that a new generation stands for.
pub(super) fn bump_if(new: &mut ObjectMeta, old: &ObjectMeta, changed: bool) {
    if changed {
        new.generation = Some(old.generation.unwrap_or(0) + 1);
    }
}

/// Whether the specs differ, as upstream compares. `same` is the quick typed comparison.
pub(super) fn spec_changed<K: Object>(new: &K, old: &K, same: bool) -> bool {
    !same && differs(new, old, "spec")
}

// === columns ===

/// A column in full, but for its description (`column_texts.rs`).
pub(super) fn make_column(name: &'static str, ty: &'static str, format: &'static str, priority: i32) -> Column {
    Column { name: name.into(), ty, format, priority, description: "".into() }
}

/// The first column.
pub(super) fn name_column() -> Column {
    make_column("Name", "string", "name", 0)
}

/// The age column.
pub(super) fn age_column() -> Column {
    make_column("Age", "string", "", 0)
}

/// A column of text.
pub(super) fn column(name: &'static str) -> Column {
    make_column(name, "string", "", 0)
}

/// A column of another type.
pub(super) fn typed_column(name: &'static str, ty: &'static str) -> Column {
    make_column(name, ty, "", 0)
}

/// A column that only `-o wide` shows.
pub(super) fn wide(name: &'static str) -> Column {
    make_column(name, "string", "", 1)
}

/// The name cell.
pub(super) fn name<K: Object>(object: &K) -> Value {
    object.name().into()
}

/// The age cell.
pub(super) fn age<K: Object>(object: &K, now: jiff::Timestamp) -> Value {
    since(object.meta().creation_timestamp.as_ref(), now).into()
}

/// The cell of `Created At`, the default table's second column.
pub(super) fn created_at<K: Object>(object: &K) -> Value {
    object.meta().creation_timestamp.as_ref().map(rfc3339).into()
}

/// How long ago, for people (`translateTimestampSince`).
pub(super) fn since(time: Option<&Time>, now: jiff::Timestamp) -> String {
    match time {
        None => "<unknown>".to_owned(),
        Some(time) => human_duration(now.duration_since(time.0)),
    }
}

/// A duration with two or three significant figures (`apimachinery/pkg/util/duration`).
pub fn human_duration(duration: jiff::SignedDuration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let (days, years) = (hours / 24, hours / 24 / 365);
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match () {
        () if seconds < -1 => "<invalid>".to_owned(),
        () if seconds < 0 => "0s".to_owned(),
        () if seconds < 120 => format!("{seconds}s"),
        () if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => two(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => two(days, "d", hours % 24, "h"),
        () if days < 365 * 2 => format!("{days}d"),
        () if days < 365 * 8 => two(years, "y", days % 365, "d"),
        () => format!("{years}y"),
    }
}

/// A time as it stands in JSON.
pub(super) fn rfc3339(time: &Time) -> String {
    time.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `a=1,b=2`, or `<none>`.
pub(super) fn format_labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let pairs: Vec<String> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    or_none(pairs.join(","))
}

/// `<none>` for an empty text.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// `metav1.FormatLabelSelector`: requirements sorted by key; `<none>` if it selects nothing or everything.
pub(super) fn format_selector(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else { return "<none>".to_owned() };
    let mut parts: Vec<(String, String)> = Vec::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        parts.push((key.clone(), format!("{key}={value}")));
    }
    for requirement in selector.match_expressions.iter().flatten() {
        let key = &requirement.key;
        let mut values = requirement.values.clone().unwrap_or_default();
        values.sort();
        let values = values.join(",");
        let text = match requirement.operator.as_str() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.clone(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".to_owned(),
        };
        parts.push((key.clone(), text));
    }
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    or_none(parts.into_iter().map(|p| p.1).collect::<Vec<_>>().join(","))
}

/// Names and images of containers, comma separated.
pub(super) fn container_cells(containers: &[Container]) -> (Value, Value) {
    let names: Vec<&str> = containers.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<&str> = containers.iter().map(|c| str_of(&c.image)).collect();
    (names.join(",").into(), images.join(",").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_print_as_kubectl_prints_them() {
        let text = |s: i64| human_duration(jiff::SignedDuration::from_secs(s));
        let cases = [
            (-5, "<invalid>"),
            (-1, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (10800, "3h"),
            (11100, "3h5m"),
            (28800, "8h"),
            (172_800, "2d"),
            (176_400, "2d1h"),
            (691_200, "8d"),
            (63_072_000, "2y"),
            (63_158_400, "2y1d"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(text(seconds), expected);
        }
    }
}
