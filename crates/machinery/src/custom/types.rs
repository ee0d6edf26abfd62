//! A structural schema as the types that server-side apply walks (`kube-openapi/pkg/schemaconv/openapi.go`).

use super::structural::{Additional, Structural};
use crate::schema::{Field, ListTopology, PatchStrategy, Scalar, Schema, Struct, Type, TypeId, builtin};
use std::collections::HashMap;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The types of a custom resource, and which of them is the whole object.
pub(super) fn types_of(root: &Structural) -> (Schema, TypeId) {
    let mut builder = Builder { types: Vec::new(), copied: HashMap::new() };
    let id = builder.object(root, true, false);
    (Schema { types: builder.types }, id)
}

struct Builder {
    types: Vec<Type>,
    /// Built-in types that were copied, by their id there.
    copied: HashMap<TypeId, TypeId>,
}

impl Builder {
    fn push(&mut self, ty: Type) -> TypeId {
        let id = TypeId(u32::try_from(self.types.len()).unwrap_or(u32::MAX));
        self.types.push(ty);
        id
    }

    /// `open`: something above keeps unknown fields, and that holds all the way down.
    fn ty(&mut self, schema: &Structural, open: bool) -> TypeId {
        let open = open || schema.preserve_unknown;
        if schema.int_or_string {
            return self.push(Type::Scalar(Scalar::IntOrString));
        }
        let scalar = match schema.ty.as_str() {
            "string" => Scalar::String,
            "boolean" => Scalar::Bool,
            "integer" => Scalar::Int64,
            "number" => Scalar::Double,
            "array" => return self.list(schema, open),
            "object" => return self.object(schema, schema.embedded, open),
            _ => return self.push(Type::Any),
        };
        self.push(Type::Scalar(scalar))
    }

    fn list(&mut self, schema: &Structural, open: bool) -> TypeId {
        let item = match &schema.items {
            Some(items) => self.ty(items, open),
            None => self.push(Type::Any),
        };
        let topology = match schema.list_type.as_deref() {
            Some("set") => ListTopology::Set,
            Some("map") => ListTopology::Map(schema.list_map_keys.iter().cloned().map(Into::into).collect()),
            _ => ListTopology::Atomic,
        };
        self.push(Type::List { item, topology })
    }

    fn object(&mut self, schema: &Structural, resource: bool, open: bool) -> TypeId {
        let open = open || schema.preserve_unknown;
        let atomic = schema.map_type.as_deref() == Some("atomic");
        if schema.properties.is_empty() && !resource {
            let value = match &schema.additional {
                Some(Additional::Schema(of)) => Some(self.ty(of, open)),
                Some(Additional::Allowed(true)) => Some(self.push(Type::Any)),
                _ => None,
            };
            if let Some(value) = value {
                return self.push(Type::Map { value, atomic });
            }
        }
        let mut fields: Vec<Field> = Vec::new();
        let own = schema.properties.iter().filter(|(k, _)| !(resource && is_meta(k)));
        for (name, property) in own {
            let ty = self.ty(property, open);
            fields.push(field(name, ty, property.default.clone()));
        }
        if resource {
            let text = self.push(Type::Scalar(Scalar::String));
            fields.extend([field("apiVersion", text, None), field("kind", text, None)]);
            let meta = self.metadata();
            fields.push(field("metadata", meta, None));
        }
        fields.sort_by(|a, b| a.name.cmp(&b.name));
        self.push(Type::Struct(Struct { fields, atomic, preserve_unknown: open, ..Struct::default() }))
    }

    fn metadata(&mut self) -> TypeId {
        match builtin().by_name(META) {
            Some(id) => self.copy(id),
            None => self.push(Type::Any),
        }
    }

    /// A built-in type with all it refers to. The copy has no Go struct behind it: a custom resource is plain JSON.
    fn copy(&mut self, from: TypeId) -> TypeId {
        if let Some(id) = self.copied.get(&from) {
            return *id;
        }
        let id = self.push(Type::Any);
        self.copied.insert(from, id);
        let mut ty = builtin().schema.get(from).clone();
        match &mut ty {
            Type::Struct(s) => s.fields.iter_mut().for_each(|f| f.ty = self.copy(f.ty)),
            Type::Map { value, .. } => *value = self.copy(*value),
            Type::List { item, .. } => *item = self.copy(*item),
            Type::Scalar(_) | Type::Any => {}
        }
        self.types[id.0 as usize] = ty;
        id
    }
}

fn is_meta(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

fn field(name: &str, ty: TypeId, default: Option<serde_json::Value>) -> Field {
    Field {
        name: name.to_owned().into(),
        ty,
        required: false,
        default,
        patch: PatchStrategy::default(),
        proto_number: 0,
    }
}
