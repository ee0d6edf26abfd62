//! What tables say about their columns: mostly what upstream says about the field that a column shows, by `data/columns.tsv`. Read at
//! the first table of a kind.

use super::{Column, KindInfo};
use crate::openapi::description;

static TABLE: &str = include_str!("../../data/columns.tsv");
const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The columns with their descriptions.
pub(super) fn described(mut columns: Vec<Column>, info: &KindInfo) -> Vec<Column> {
    let resource =
        if info.group.is_empty() { info.plural.to_string() } else { format!("{}/{}", info.group, info.plural) };
    let sources = sources(&resource);
    for column in &mut columns {
        let source = sources.iter().find(|(name, _)| *name == column.name).map(|(_, source)| *source);
        column.description = match source {
            Some(source) => text(source),
            None if column.name == "Name" => description(META, "name"),
            // `Age`, and `Created At` where upstream has no columns of its own.
            None => description(META, "creationTimestamp"),
        }
        .into();
    }
    columns
}

/// Columns of a resource, and where their texts are.
fn sources(resource: &str) -> Vec<(&'static str, &'static str)> {
    let lines = TABLE.lines().skip_while(|line| *line != resource).skip(1);
    lines.map_while(|line| line.strip_prefix('\t')?.split_once('\t')).collect()
}

/// `=text`, or `definition#field`.
fn text(source: &str) -> String {
    if let Some(own) = source.strip_prefix('=') {
        return own.to_owned();
    }
    let (definition, field) = source.split_once('#').unwrap_or((source, ""));
    match definition.strip_prefix("k:") {
        Some(rest) => description(&format!("io.k8s.api.{rest}"), field),
        None => description(definition, field),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;

    #[test]
    fn every_line_is_about_a_column_and_a_field_that_exist() {
        for block in TABLE.split('\n').filter(|line| !line.is_empty() && !line.starts_with(['#', '\t'])) {
            let of_block = |kind: &&&'static dyn kinds::Kind| {
                let info = kind.info();
                let name = if info.group.is_empty() {
                    info.plural.to_string()
                } else {
                    format!("{}/{}", info.group, info.plural)
                };
                name == block
            };
            let kind = kinds::all().iter().find(of_block).expect(block);
            for (name, source) in sources(block) {
                assert!(kind.columns().iter().any(|c| c.name == name), "{block}: {name}");
                assert!(source.starts_with('=') || !text(source).is_empty(), "{block}: {name}: {source}");
            }
        }
    }

    #[test]
    fn columns_say_what_their_fields_say() {
        let pods = kinds::find("", "v1", "pods").expect("served");
        let of = |name: &str| {
            let column = pods.columns().iter().find(|c| c.name == name).expect("a column");
            column.description.chars().take(40).collect::<String>()
        };
        assert_eq!(of("Name"), "Name must be unique within a namespace. ");
        assert_eq!(of("Ready"), "The aggregate readiness state of this po");
        assert_eq!(of("IP"), "podIP address allocated to the pod. Rout");
        assert_eq!(of("Age"), "CreationTimestamp is a timestamp represe");
    }
}
