//! What only the Go sources say about a field: whether it is a pointer, and whether `omitempty` drops its zero value.
//! Both decide how protobuf (which always carries zero values of plain fields) maps to JSON.
//!
//! The reader knows just as much Go as upstream's `types.go` files use: `type X struct {` … `}` with one field per line.

use super::read_text;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// One field as its Go line describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct GoField {
    /// `*T`.
    pub pointer: bool,
    /// The zero value is left out of JSON.
    pub omit_empty: bool,
}

/// `definition prefix.Type` -> JSON name -> field. Inlined structs keep their own name only.
pub(super) type GoTypes = HashMap<String, HashMap<String, GoField>>;

/// Reads the types of every published package.
pub(super) fn read(kubernetes: &Path) -> Result<GoTypes, String> {
    let staging = kubernetes.join("staging/src/k8s.io");
    let mut types = GoTypes::new();
    let api = staging.join("api");
    for group in folders(&api)? {
        for version in folders(&api.join(&group))? {
            let folder = api.join(&group).join(&version);
            read_folder(&folder, &format!("io.k8s.api.{group}.{version}"), &mut types)?;
        }
    }
    for (folder, prefix) in [
        ("apimachinery/pkg/apis/meta/v1", "io.k8s.apimachinery.pkg.apis.meta.v1"),
        (
            "apiextensions-apiserver/pkg/apis/apiextensions/v1",
            "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1",
        ),
        ("kube-aggregator/pkg/apis/apiregistration/v1", "io.k8s.kube-aggregator.pkg.apis.apiregistration.v1"),
    ] {
        read_folder(&staging.join(folder), prefix, &mut types)?;
    }
    Ok(types)
}

fn folders(path: &Path) -> Result<Vec<String>, String> {
    let entries = std::fs::read_dir(path).map_err(|e| format!("cannot list {}: {e}", path.display()))?;
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    Ok(names)
}

fn read_folder(folder: &Path, prefix: &str, types: &mut GoTypes) -> Result<(), String> {
    let entries = std::fs::read_dir(folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| {
            let name = p.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            (name.starts_with("types") || ["group_version.go", "watch.go"].contains(&name)) && name.ends_with(".go")
        })
        .collect();
    files.sort();
    for file in files {
        parse(&read_text(&file)?, prefix, types);
    }
    Ok(())
}

fn parse(source: &str, prefix: &str, types: &mut GoTypes) {
    let mut current: Option<String> = None;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("type ").and_then(|l| l.strip_suffix(" struct {")) {
            current = Some(format!("{prefix}.{name}"));
            types.entry(format!("{prefix}.{name}")).or_default();
        } else if line == "}" {
            current = None;
        } else if let Some(name) = &current
            && let Some((json, field)) = parse_field(line)
        {
            types.entry(name.clone()).or_default().insert(json, field);
        }
    }
}

/// `Name *Type `json:"name,omitempty" …`` to (`name`, …). Inlined fields have an empty JSON name.
fn parse_field(line: &str) -> Option<(String, GoField)> {
    let line = line.trim();
    if line.starts_with("//") {
        return None;
    }
    let (declaration, tags) = line.split_once('`')?;
    let tag = tags.split_once("json:\"")?.1.split_once('"')?.0;
    let mut parts = tag.split(',');
    let name = parts.next()?;
    let options: Vec<&str> = parts.collect();
    let ty = declaration.split_whitespace().nth(1).unwrap_or("");
    let field = GoField {
        pointer: ty.starts_with('*'),
        omit_empty: options.contains(&"omitempty") || options.contains(&"omitzero"),
    };
    Some((name.to_owned(), field))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_and_omitempty_are_read_from_field_lines() {
        let mut types = GoTypes::new();
        parse(
            "type A struct {\n\tmetav1.ObjectMeta `json:\"metadata,omitempty\"`\n\t// x `json:\"no\"`\n\tR *int32 `json:\"r,omitempty\"`\n\tN string `json:\"n\"`\n}\n",
            "p",
            &mut types,
        );
        let a = &types["p.A"];
        assert_eq!(a.len(), 3);
        assert_eq!(a["r"], GoField { pointer: true, omit_empty: true });
        assert_eq!(a["n"], GoField { pointer: false, omit_empty: false });
        assert_eq!(a["metadata"], GoField { pointer: false, omit_empty: true });
    }
}
