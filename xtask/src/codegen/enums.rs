//! `enums.tsv`: which values the text fields of the API may have. Upstream's published files do not say it; its servers do
//! (`/openapi/v2` of a kube-apiserver).
//!
//! Lines `definition TAB field TAB value TAB value …`, of lists and maps for what is in them.

use super::{read_json, write};
use serde_json::Value;
use std::path::Path;

const HEAD: &str = "# Values of text fields in Kubernetes 1.36; made by `cargo xtask enums`.\n";

/// Reads the document `served` and writes the table into `out`.
pub(crate) fn run(served: &Path, out: &Path) -> Result<String, String> {
    let document = read_json(served)?;
    let definitions = document["definitions"].as_object().ok_or("there are no definitions in the document")?;
    let mut lines: Vec<String> = Vec::new();
    for (definition, schema) in definitions {
        for (field, property) in schema["properties"].as_object().into_iter().flatten() {
            let values = [property, &property["items"], &property["additionalProperties"]];
            let values = values.into_iter().find_map(|schema| schema["enum"].as_array());
            let values: Vec<&str> = values.into_iter().flatten().filter_map(Value::as_str).collect();
            if !values.is_empty() {
                lines.push(format!("{definition}\t{field}\t{}\n", values.join("\t")));
            }
        }
    }
    lines.sort();
    let text = format!("{HEAD}{}", lines.concat());
    write(&out.join("enums.tsv"), &text)?;
    Ok(format!("enums.tsv {} bytes", text.len()))
}
