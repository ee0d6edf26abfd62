//! Schemas as data. One representation serves the built-in kinds (tables generated from upstream's published OpenAPI
//! and protobuf field numbers) and custom resources (made from their CRD). Strict field checks, pruning,
//! strategic-merge patch, server-side apply and protobuf all walk it.

pub(crate) mod builtin;
pub mod check;
mod empties;
mod go_names;
mod go_shown;
mod json;
mod restore;
mod shown;
pub(crate) mod time;
pub mod yaml;

pub use builtin::{Builtin, builtin};
pub use empties::adopt_empties;
pub(crate) use go_shown::go_shown;
pub use restore::restore_error;
pub use shown::{shown, shown_before_storage};
pub use time::parse_go_duration;

use serde_json::Value;
use std::borrow::Cow;

/// Index of a [`Type`] within its [`Schema`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(pub u32);

/// A set of types that refer to each other by [`TypeId`].
#[derive(Debug, Clone, Default)]
pub struct Schema {
    /// All types.
    pub types: Vec<Type>,
}

impl Schema {
    /// The type with this id. Ids come only from the same schema.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }
}

/// What a JSON value may look like, and how it is merged.
#[derive(Debug, Clone)]
pub enum Type {
    /// A leaf.
    Scalar(Scalar),
    /// Anything: `RawExtension`, `JSON`, `FieldsV1`, `x-kubernetes-preserve-unknown-fields` without properties.
    Any,
    /// An object with known fields.
    Struct(Struct),
    /// An object with arbitrary keys (labels, `data`, …).
    Map {
        /// The type of every value.
        value: TypeId,
        /// `x-kubernetes-map-type: atomic`: owned and replaced as a whole.
        atomic: bool,
    },
    /// An array.
    List {
        /// The type of every item.
        item: TypeId,
        /// How items are told apart by server-side apply.
        topology: ListTopology,
    },
}

/// Leaf types, as far as rules care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// 32-bit integer.
    Int32,
    /// 64-bit integer.
    Int64,
    /// IEEE double.
    Double,
    /// Base64 text in JSON, raw bytes in protobuf.
    Bytes,
    /// RFC 3339 time, seconds.
    Time,
    /// RFC 3339 time, microseconds.
    MicroTime,
    /// `metav1.Duration`: Go duration text.
    Duration,
    /// `resource.Quantity`.
    Quantity,
    /// Integer or text.
    IntOrString,
}

/// An object with known fields.
#[derive(Debug, Clone, Default)]
pub struct Struct {
    /// Definition name, e.g. `io.k8s.api.core.v1.PodSpec`; empty for anonymous (CRD) structs.
    pub name: Cow<'static, str>,
    /// Sorted by name.
    pub fields: Vec<Field>,
    /// `x-kubernetes-map-type: atomic`: owned and replaced as a whole.
    pub atomic: bool,
    /// Unknown fields are kept (custom resources with preserve-unknown-fields).
    pub preserve_unknown: bool,
    /// The fully qualified protobuf message, e.g. `k8s.io.api.core.v1.PodSpec`; empty if there is none.
    pub proto: Cow<'static, str>,
}

impl Struct {
    /// The field called `name`.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.as_ref().cmp(name)).ok().map(|i| &self.fields[i])
    }

    /// Which field is called `name`; looked for from `next` on first, since our encoder writes fields in their order.
    pub(crate) fn position(&self, next: usize, name: &[u8]) -> Option<usize> {
        let is_it = |f: &Field| f.name.as_bytes() == name;
        let ahead = self.fields.get(next..).and_then(|fields| fields.iter().position(is_it)).map(|i| next + i);
        ahead.or_else(|| self.fields.iter().position(is_it))
    }
}

/// One field of a [`Struct`].
#[derive(Debug, Clone)]
pub struct Field {
    /// JSON name.
    pub name: Cow<'static, str>,
    /// Its type.
    pub ty: TypeId,
    /// Listed in `required`.
    pub required: bool,
    /// Published default, used by server-side apply to find list keys that were left out.
    pub default: Option<Value>,
    /// `x-kubernetes-patch-strategy` and merge key, for strategic-merge patch.
    pub patch: PatchStrategy,
    /// Protobuf field number; 0 if there is none.
    pub proto_number: u32,
}

/// How strategic-merge patch treats a field (`x-kubernetes-patch-strategy`, `x-kubernetes-patch-merge-key`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// `merge` for lists and maps.
    pub merge: bool,
    /// `retainKeys`.
    pub retain_keys: bool,
    /// The key that identifies list items; empty for lists of scalars.
    pub merge_key: Cow<'static, str>,
}

/// How server-side apply tells list items apart (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListTopology {
    /// Owned and replaced as a whole.
    Atomic,
    /// Items are their own identity.
    Set,
    /// Items are objects identified by these fields.
    Map(Vec<Cow<'static, str>>),
}
