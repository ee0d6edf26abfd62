//! What Go's reader of JSON calls types and fields in its errors, where that is not their name in JSON: types of text have names of
//! their own, and fields of an embedded struct stand behind its name. Looked up when there is an error only.

use super::builtin::{Content, Message};
use super::{Schema, Type, TypeId, builtin};

/// Made by `cargo xtask codegen`.
const TYPES: &str = include_str!("../../data/go_types.tsv");

/// What the table says of a field of a struct (`io.k8s.api.core.v1.PodSpec`); of no field, which structs it embeds.
fn row(definition: &str, field: &str) -> Option<&'static str> {
    TYPES.lines().find_map(|line| {
        let mut columns = line.split('\t');
        let owner = columns.next()?;
        let is_it =
            definition.strip_suffix(owner).is_some_and(|rest| rest.ends_with('.')) && columns.next() == Some(field);
        columns.next().filter(|_| is_it)
    })
}

/// The type of a field of a struct, or of the items in it, whose values have the type `wanted`.
pub(super) fn of_type(definition: &str, field: &str, wanted: &str) -> String {
    match row(definition, field) {
        None => wanted.to_owned(),
        // A value in the map.
        Some(named) if named.starts_with("map[") && !wanted.starts_with("map[") => wanted.to_owned(),
        // A value in the list.
        Some(named) if !wanted.starts_with("[]") => named.trim_start_matches("[]").to_owned(),
        Some(named) => named.to_owned(),
    }
}

/// A path of fields from `root`, with the embedded structs on the way.
pub(super) fn of_path(schema: &Schema, root: TypeId, path: &str) -> String {
    let mut names = Vec::new();
    let mut at = Some(root);
    for field in path.split('.') {
        if let Some(ty) = at.map(|ty| element(schema, ty))
            && let Type::Struct(s) = schema.get(ty)
        {
            let index = s.fields.iter().position(|f| f.name == field);
            let depth = index.and_then(|index| builtin().message(ty).and_then(|m| depth_of(m, index)));
            let embedded = row(&s.name, "").into_iter().flat_map(|structs| structs.split('.'));
            names.extend(embedded.take(depth.unwrap_or(0)));
            at = index.map(|index| s.fields[index].ty);
        } else {
            at = None;
        }
        names.push(field);
    }
    names.join(".")
}

/// The type of what is in lists and maps: Go's paths have no indexes and keys.
fn element(schema: &Schema, ty: TypeId) -> TypeId {
    match schema.get(ty) {
        Type::List { item, .. } => element(schema, *item),
        Type::Map { value, .. } => element(schema, *value),
        _ => ty,
    }
}

/// In how many embedded structs a field stands.
fn depth_of(message: &Message, wanted: usize) -> Option<usize> {
    message.fields.iter().find_map(|field| match &field.content {
        Content::Field { index, .. } => (*index == wanted).then_some(0),
        Content::Inline(inner) => depth_of(inner, wanted).map(|depth| depth + 1),
    })
}

#[cfg(test)]
mod tests {
    use super::super::check::check_json;
    use super::*;

    #[test]
    fn types_and_embedded_structs_have_gos_names() {
        let b = builtin();
        let told = |kind: (&str, &str), json: &str| {
            let ty = b.by_kind(kind.0, "v1", kind.1).expect("a kind");
            let error = check_json(&b.schema, ty, json.as_bytes()).expect_err("a wrong type").to_string();
            error.split_once("Go struct field ").map(|(_, told)| told.to_owned()).unwrap_or(error)
        };
        for (kind, json, expected) in [
            (("", "Pod"), r#"{"metadata":{"uid":1}}"#, "ObjectMeta.metadata.uid of type types.UID"),
            (("", "Pod"), r#"{"spec":{"restartPolicy":1}}"#, "PodSpec.spec.restartPolicy of type v1.RestartPolicy"),
            (
                ("", "Pod"),
                r#"{"spec":{"volumes":[{"hostPath":{"path":1}}]}}"#,
                "HostPathVolumeSource.spec.volumes.VolumeSource.hostPath.path of type string",
            ),
            (("", "Pod"), r#"{"spec":{"volumes":[{"name":1}]}}"#, "Volume.spec.volumes.name of type string"),
            (
                ("", "Pod"),
                r#"{"spec":{"containers":[{"resources":{"limits":[]}}]}}"#,
                "ResourceRequirements.spec.containers.resources.limits of type v1.ResourceList",
            ),
            (
                ("", "Pod"),
                r#"{"spec":{"ephemeralContainers":[{"imagePullPolicy":1}]}}"#,
                "EphemeralContainer.spec.ephemeralContainers.EphemeralContainerCommon.imagePullPolicy of type v1.PullPolicy",
            ),
            (
                ("", "PersistentVolume"),
                r#"{"spec":{"accessModes":[1]}}"#,
                "PersistentVolumeSpec.spec.accessModes of type v1.PersistentVolumeAccessMode",
            ),
            (
                ("", "PersistentVolume"),
                r#"{"spec":{"accessModes":1}}"#,
                "PersistentVolumeSpec.spec.accessModes of type []v1.PersistentVolumeAccessMode",
            ),
            (
                ("admissionregistration.k8s.io", "ValidatingAdmissionPolicy"),
                r#"{"spec":{"matchConstraints":{"resourceRules":[{"apiGroups":1}]}}}"#,
                "NamedRuleWithOperations.spec.matchConstraints.resourceRules.RuleWithOperations.Rule.apiGroups of type []string",
            ),
        ] {
            assert_eq!(told(kind, json), expected);
        }
    }
}
