//! Facts of the Kubernetes API, taken from upstream's published files and written as small text tables.
//!
//! Invariant: the output depends only on the input and is written in a fixed order, so a second run changes nothing.
//! Only facts are kept (names, numbers, types, keys), no descriptions.

pub(crate) mod enums;
mod go_types;
mod kinds;
mod schema;

use serde_json::Value;
use std::path::Path;

/// Reads `api` (and `kubernetes` for what only Go says) and writes the tables into `out`.
pub(crate) fn run(api: &Path, kubernetes: &Path, out: &Path) -> Result<String, String> {
    let kinds = kinds::table(api)?;
    let go = go_types::read(kubernetes)?;
    let (schema, notes) = schema::table(api, &go)?;
    let definitions = schema.lines().filter_map(|line| line.strip_prefix("D ")?.split(' ').next());
    let go_types = go.table(definitions);
    write(&out.join("kinds.tsv"), &kinds)?;
    write(&out.join("schema.txt"), &schema)?;
    write(&out.join("go_types.tsv"), &go_types)?;
    let sizes = (kinds.len(), schema.len(), go_types.len());
    let mut report =
        format!("kinds.tsv {} bytes, schema.txt {} bytes, go_types.tsv {} bytes", sizes.0, sizes.1, sizes.2);
    for note in notes {
        report.push_str("\nnote: ");
        report.push_str(&note);
    }
    Ok(report)
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

fn read_text(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display()))
}

fn read_json(path: &Path) -> Result<Value, String> {
    serde_json::from_str(&read_text(path)?).map_err(|e| format!("cannot parse {}: {e}", path.display()))
}

/// The text at `key`, or nothing.
fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

/// The texts of an array at `key`.
fn texts<'a>(value: &'a Value, key: &str) -> Vec<&'a str> {
    value[key].as_array().map(|a| a.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// Whether a version is GA: `v` and digits.
fn is_ga(version: &str) -> bool {
    version.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
}
