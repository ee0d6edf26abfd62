//! What only the Go sources say about a field: whether it is a pointer, and whether `omitempty` drops its zero value.
//! Both decide how protobuf (which always carries zero values of plain fields) maps to JSON. And what Go's reader of JSON calls
//! types and structs in its errors: `go_types.tsv`.
//!
//! The reader knows just as much Go as upstream's `types.go` files use: `type X struct {` … `}` with one field per line.

use super::read_text;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

/// One field as its Go line describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GoField {
    /// `*T`.
    pub pointer: bool,
    /// The zero value is left out of JSON.
    pub omit_empty: bool,
    /// As its line has it.
    ty: String,
}

/// A struct: JSON name -> field, and the struct whose fields JSON inlines.
#[derive(Debug, Default)]
struct GoStruct {
    package: String,
    imports: HashMap<String, String>,
    fields: BTreeMap<String, GoField>,
    embedded: Option<String>,
}

/// What the sources say.
#[derive(Debug, Default)]
pub(super) struct GoTypes {
    /// By `definition prefix.Type`.
    structs: HashMap<String, GoStruct>,
    /// Types that are no structs, by `import path.Type`.
    named: HashSet<String>,
}

impl GoTypes {
    pub(super) fn field(&self, definition: &str, name: &str) -> Option<&GoField> {
        self.structs.get(definition)?.fields.get(name)
    }

    /// `go_types.tsv`: what Go calls the types of fields of these definitions that are no structs but have names, and, without a
    /// field, the structs that one embeds, each within the one before.
    pub(super) fn table<'a>(&self, definitions: impl Iterator<Item = &'a str>) -> String {
        let mut out = String::from(
            "# Names of Go's that its reader of JSON tells, of Kubernetes 1.36; made by `cargo xtask codegen`: a struct by group and version, a\n\
             # field, its type; or a struct, nothing, and the structs that it embeds.\n",
        );
        for definition in definitions {
            let mut segments = definition.rsplitn(4, '.');
            let mut next = || segments.next().unwrap_or_default();
            let (name, version, group) = (next(), next(), next());
            for (field, ty) in self.rows(definition) {
                out.push_str(&format!("{group}.{version}.{name}\t{field}\t{ty}\n"));
            }
        }
        out
    }

    /// Fields, also of embedded structs, and their types.
    fn rows(&self, definition: &str) -> BTreeMap<&str, String> {
        let mut rows = BTreeMap::new();
        let mut embedded = Vec::new();
        let mut at = definition.to_owned();
        while let Some(found) = self.structs.get(&at) {
            let named =
                found.fields.iter().filter_map(|(name, field)| Some((name.as_str(), self.shown(found, &field.ty)?)));
            rows.extend(named);
            let Some(inner) = &found.embedded else { break };
            embedded.push(inner.as_str());
            at = format!("{}.{inner}", at.rsplit_once('.').map_or("", |(prefix, _)| prefix));
        }
        if !embedded.is_empty() {
            rows.insert("", embedded.join("."));
        }
        rows
    }

    /// A type as Go shows it, if there is one in it that has a name and is no struct.
    fn shown(&self, of: &GoStruct, ty: &str) -> Option<String> {
        let mut has_named = false;
        let mut out = String::new();
        for part in ty.trim_start_matches('*').split_inclusive(['[', ']', '*']) {
            let (word, end) = part.split_at(part.trim_end_matches(['[', ']', '*']).len());
            let (path, name) = match word.split_once('.') {
                Some((alias, name)) => (of.imports.get(alias)?.as_str(), name),
                None if word.starts_with(|c: char| c.is_ascii_uppercase()) => (of.package.as_str(), word),
                None => {
                    out.push_str(part);
                    continue;
                }
            };
            has_named |= self.named.contains(&format!("{path}.{name}"));
            let package = path.rsplit('/').next().unwrap_or_default();
            out.push_str(&format!("{package}.{name}{end}"));
        }
        has_named.then_some(out)
    }
}

/// Reads the types of every published package.
pub(super) fn read(kubernetes: &Path) -> Result<GoTypes, String> {
    let staging = kubernetes.join("staging/src/k8s.io");
    let mut types = GoTypes::default();
    types.named.insert("k8s.io/apimachinery/pkg/types.UID".to_owned());
    let api = staging.join("api");
    for group in folders(&api)? {
        for version in folders(&api.join(&group))? {
            let folder = format!("api/{group}/{version}");
            read_folder(&staging, &folder, &format!("io.k8s.api.{group}.{version}"), &mut types)?;
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
        read_folder(&staging, folder, prefix, &mut types)?;
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

fn read_folder(staging: &Path, path: &str, prefix: &str, types: &mut GoTypes) -> Result<(), String> {
    let folder = staging.join(path);
    let entries = std::fs::read_dir(&folder).map_err(|e| format!("cannot list {}: {e}", folder.display()))?;
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
        parse(&read_text(&file)?, &format!("k8s.io/{path}"), prefix, types);
    }
    Ok(())
}

fn parse(source: &str, package: &str, prefix: &str, types: &mut GoTypes) {
    let imports: HashMap<String, String> = source.lines().filter_map(parse_import).collect();
    let mut current: Option<String> = None;
    for line in source.lines() {
        if let Some(name) = line.strip_prefix("type ").and_then(|l| l.strip_suffix(" struct {")) {
            let definition = format!("{prefix}.{name}");
            let new = GoStruct { package: package.to_owned(), imports: imports.clone(), ..GoStruct::default() };
            types.structs.insert(definition.clone(), new);
            current = Some(definition);
        } else if line == "}" {
            current = None;
        } else if let Some(found) = current.as_ref().and_then(|name| types.structs.get_mut(name)) {
            match parse_field(line) {
                Some((json, field)) if json.is_empty() && !field.ty.ends_with("TypeMeta") => {
                    found.embedded = Some(field.ty)
                }
                Some((json, field)) if !json.is_empty() => drop(found.fields.insert(json, field)),
                _ => {}
            }
        } else if let Some((name, ty)) = line.strip_prefix("type ").and_then(|l| l.split_once(' '))
            && !ty.starts_with("struct")
        {
            types.named.insert(format!("{package}.{name}"));
        }
    }
}

/// `alias "path"` or `"path"`, of a block of imports.
fn parse_import(line: &str) -> Option<(String, String)> {
    let (alias, path) = line.strip_prefix('\t')?.strip_suffix('"')?.split_once('"')?;
    let alias = if alias.is_empty() { path.rsplit('/').next()? } else { alias.trim() };
    Some((alias.to_owned(), path.to_owned()))
}

/// `Name *Type `json:"name,omitempty" …`` to (`name`, …). Inlined fields have an empty JSON name, and no name of their own.
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
    let ty = declaration.split_whitespace().next_back().unwrap_or("");
    let field = GoField {
        pointer: ty.starts_with('*'),
        omit_empty: options.contains(&"omitempty") || options.contains(&"omitzero"),
        ty: ty.to_owned(),
    };
    Some((name.to_owned(), field))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "import (\n\tmetav1 \"k8s.io/a/meta/v1\"\n\t\"k8s.io/apimachinery/pkg/types\"\n)\n\
        type T string\n\
        type A struct {\n\tmetav1.TypeMeta `json:\",inline\"`\n\tmetav1.ObjectMeta `json:\"metadata,omitempty\"`\n\
        \t// x `json:\"no\"`\n\tR *int32 `json:\"r,omitempty\"`\n\tN string `json:\"n\"`\n\tB `json:\",inline\"`\n}\n\
        type B struct {\n\tM map[T]*metav1.X `json:\"m\"`\n\tU *types.UID `json:\"u\"`\n\tO []metav1.X `json:\"o\"`\n}\n";

    fn parsed() -> GoTypes {
        let mut types = GoTypes::default();
        types.named.insert("k8s.io/apimachinery/pkg/types.UID".to_owned());
        parse(SOURCE, "k8s.io/api/g/v1", "io.k8s.api.g.v1", &mut types);
        types
    }

    #[test]
    fn pointers_and_omitempty_are_read_from_field_lines() {
        let types = parsed();
        let said = |name: &str| types.field("io.k8s.api.g.v1.A", name).map(|f| (f.pointer, f.omit_empty));
        assert_eq!(types.structs["io.k8s.api.g.v1.A"].fields.len(), 3);
        assert_eq!(said("r"), Some((true, true)));
        assert_eq!(said("n"), Some((false, false)));
        assert_eq!(said("metadata"), Some((false, true)));
    }

    #[test]
    fn named_types_and_embedded_structs_are_in_the_table() {
        let table = parsed().table(["io.k8s.api.g.v1.A"].into_iter());
        let rows: Vec<&str> = table.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rows, ["g.v1.A\t\tB", "g.v1.A\tm\tmap[v1.T]*v1.X", "g.v1.A\tu\ttypes.UID"]);
    }
}
