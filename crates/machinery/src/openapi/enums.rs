//! Which values text fields may have (`data/enums.tsv`, made by `cargo xtask enums`). Nothing of it is held: documents are made
//! seldom.

use serde_json::Value;

pub(super) const TEXT: &str = include_str!("../../data/enums.tsv");

/// The fields of a definition that have certain values only.
pub(super) fn of(definition: &str) -> Vec<(&'static str, Value)> {
    let lines = TEXT.lines().filter_map(|line| line.strip_prefix(definition)?.strip_prefix('\t'));
    lines
        .filter_map(|line| line.split_once('\t'))
        .map(|(field, values)| (field, values.split('\t').collect()))
        .collect()
}

/// Puts the values where the text is: in the field itself, or in what it has many of.
pub(super) fn add(schema: &mut Value, values: &Value) {
    for inner in ["items", "additionalProperties"] {
        if schema.get(inner).is_some() {
            return add(&mut schema[inner], values);
        }
    }
    schema["enum"] = values.clone();
}
