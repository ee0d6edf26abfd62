//! `parameters.tsv`: what upstream says about the parameters of requests' queries.
//!
//! Lines `where TAB name TAB text`; `where` is empty, or `patch`, `log` or the kind that describes a connection if the text is
//! another there. Line breaks and backslashes of texts are escaped.

use super::{read_json, write};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

const HEAD: &str = "# Texts of queries' parameters in Kubernetes 1.36; made by `cargo xtask parameters`.\n";

/// Reads the published v2 document and writes the table into `out`.
pub(crate) fn run(published: &Path, out: &Path) -> Result<String, String> {
    let document = read_json(published)?;
    let paths = document["paths"].as_object().ok_or("there are no paths in the document")?;
    let mut texts: BTreeMap<(String, String), String> = BTreeMap::new();
    for (path, item) in paths {
        for (method, operation) in item.as_object().into_iter().flatten().filter(|(method, _)| *method != "parameters")
        {
            let at = place(path, method, operation);
            let all = [&item["parameters"], &operation["parameters"]];
            for parameter in all.into_iter().filter_map(Value::as_array).flatten() {
                let parameter = resolved(&document, parameter);
                if let ("query", Some(name), Some(text)) = (
                    parameter["in"].as_str().unwrap_or_default(),
                    parameter["name"].as_str(),
                    parameter["description"].as_str(),
                ) {
                    let text = text.replace('\\', "\\\\").replace('\n', "\\n");
                    texts.insert((at.clone(), name.to_owned()), text);
                }
            }
        }
    }
    let general = texts.clone();
    texts.retain(|(at, name), text| at.is_empty() || general.get(&(String::new(), name.clone())) != Some(text));
    let lines: Vec<String> = texts.iter().map(|((at, name), text)| format!("{at}\t{name}\t{text}\n")).collect();
    let text = format!("{HEAD}{}", lines.concat());
    write(&out.join("parameters.tsv"), &text)?;
    Ok(format!("parameters.tsv {} bytes", text.len()))
}

fn place(path: &str, method: &str, operation: &Value) -> String {
    match operation["x-kubernetes-action"].as_str() {
        Some("connect") => operation["x-kubernetes-group-version-kind"]["kind"].as_str().unwrap_or_default().to_owned(),
        _ if method == "patch" => "patch".to_owned(),
        _ if path.ends_with("/log") => "log".to_owned(),
        _ => String::new(),
    }
}

fn resolved<'d>(document: &'d Value, parameter: &'d Value) -> &'d Value {
    let shared = parameter["$ref"].as_str().and_then(|r| r.strip_prefix("#/parameters/"));
    shared.map_or(parameter, |name| &document["parameters"][name])
}
