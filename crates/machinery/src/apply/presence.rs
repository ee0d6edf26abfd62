//! What Go's structs do to the fields of built-in types: some are in the JSON even if nobody set them, others vanish
//! when they are zero (`omitempty`). Field ownership is decided on that view (`structured-merge-diff/v6/value`,
//! structreflect.go).
//!
//! Differs: a zero `creationTimestamp` never shows, as in upstream's JSON since 1.34.

use super::typed::{Datum, Ref, SchemaRef, Shape, Types, field_type};
use crate::json::{Json, Kind};
use crate::schema::builtin::{Content, Message, Presence};
use crate::schema::{Field, Scalar, Schema, Struct, Type, TypeId, builtin};
use serde_json::Value;
use std::borrow::Cow;
use std::sync::LazyLock;

/// One per field of a struct, in the struct's order.
pub(crate) type Presences = [FieldPresence];

/// How one field behaves.
#[derive(Debug, Clone, Default)]
pub(crate) struct FieldPresence {
    /// What is there if nobody set it.
    pub(super) implied: Option<Json<'static>>,
    /// What is printed if nobody set it.
    pub(crate) shown: Option<Cow<'static, str>>,
    hides_null: bool,
    hides_zero: bool,
    hides_empty_object: bool,
}

impl FieldPresence {
    /// Whether Go leaves this value out.
    pub(super) fn hides(&self, value: impl Datum) -> bool {
        match value.kind() {
            Kind::Null => self.hides_null,
            Kind::Object => self.hides_zero && self.hides_empty_object && value.is_zero(),
            _ => self.hides_zero && value.is_zero(),
        }
    }

    /// [`FieldPresence::hides`] of one of the texts of zero values.
    pub(crate) fn hides_text(&self, zero: &str) -> bool {
        match zero {
            "null" => self.hides_null,
            "{}" => self.hides_zero && self.hides_empty_object,
            _ => self.hides_zero,
        }
    }
}

/// Sorted by address of the struct within the built-in schema, which lives for ever.
static PRESENCES: LazyLock<Vec<(usize, Vec<FieldPresence>)>> = LazyLock::new(|| {
    let b = builtin();
    let structs = b.schema.types.iter().enumerate().filter_map(|(i, ty)| match ty {
        Type::Struct(s) => Some((TypeId(u32::try_from(i).ok()?), s)),
        _ => None,
    });
    let presences = structs.filter_map(|(id, s)| {
        let mut presences = vec![FieldPresence::default(); s.fields.len()];
        fill(&b.schema, s, b.message(id)?, &mut presences);
        Some((address(s), presences))
    });
    let mut all: Vec<_> = presences.collect();
    all.sort_unstable_by_key(|(address, _)| *address);
    all
});

/// How the fields of this struct behave; `None` if it is not a built-in type.
pub(crate) fn of(s: &Struct) -> Option<&'static Presences> {
    let all = &*PRESENCES;
    let at = all.binary_search_by_key(&address(s), |(address, _)| *address).ok()?;
    Some(&all[at].1)
}

/// Whether Go would leave this value of a built-in struct's field out, other than null.
pub(crate) fn hides(s: &Struct, field: &str, value: &Value) -> bool {
    let may_be = match value {
        Value::Null => false,
        Value::Bool(flag) => !flag,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    };
    let at = || s.fields.binary_search_by(|f| f.name.as_ref().cmp(field)).ok();
    may_be && of(s).zip(at()).is_some_and(|(presences, at)| presences[at].hides(value))
}

/// Takes out of a built-in object what its Go struct would not show.
pub(super) fn drop_hidden(root: SchemaRef<'_>, value: &mut Value) {
    drop_hidden_at(Types(root.schema), Ref::Type(root.ty), value);
}

fn drop_hidden_at(types: Types<'_>, r: Ref, value: &mut Value) {
    if types.is_untyped(r) {
        return;
    }
    match (types.shape(r, Some(&*value)), value) {
        (Shape::Map { fields, element, .. }, Value::Object(map)) => {
            for (key, value) in map.iter_mut() {
                drop_hidden_at(types, field_type(fields, element, key), value);
            }
            if let Some((s, presences)) = fields.and_then(|s| Some((s, of(s)?))) {
                for (field, presence) in s.fields.iter().zip(presences) {
                    if map.get(field.name.as_ref()).is_some_and(|v| presence.hides(v)) {
                        map.remove(field.name.as_ref());
                    }
                }
            }
        }
        (Shape::List { item, .. }, Value::Array(list)) => list.iter_mut().for_each(|v| drop_hidden_at(types, item, v)),
        _ => {}
    }
}

fn address(s: &Struct) -> usize {
    std::ptr::from_ref(s).addr()
}

fn fill(schema: &Schema, s: &Struct, message: &Message, out: &mut [FieldPresence]) {
    for field in &message.fields {
        match &field.content {
            Content::Field { index, presence, .. } => {
                let field = &s.fields[*index];
                out[*index] = presence_of(schema.get(field.ty), s, field, *presence);
                out[*index].shown = if is_null_unless_set(s, field) {
                    Some(Cow::Borrowed("null"))
                } else {
                    shown(field.ty, *presence, out[*index].implied)
                };
            }
            Content::Inline(inner) => fill(schema, s, inner, out),
        }
    }
}

/// Whether a pointer is null in JSON if it points to nothing. Those to what must be there are, but for two, which are left out
/// (`networking/v1/types.go`, `resource/v1/types.go`); our tables do not tell.
fn is_null_if_absent(s: &Struct, field: &Field) -> bool {
    let short = s.name.rsplit('.').next().unwrap_or_default();
    let omitted = [("IPAddressSpec", "parentRef"), ("CapacityRequestPolicyRange", "min")];
    field.required && !omitted.contains(&(short, field.name.as_ref())) || is_null_unless_set(s, field)
}

/// Whether a pointer that may be absent is null in JSON then: those whose tags lack `omitempty`, and that no default fills.
fn is_null_unless_set(s: &Struct, field: &Field) -> bool {
    const NULLS: &[(&str, &str)] = &[
        ("AzureFilePersistentVolumeSource", "secretNamespace"),
        ("CapacityRequestPolicy", "default"),
        ("TokenRequestSpec", "boundObjectRef"),
        ("TokenRequestSpec", "expirationSeconds"),
        ("TypedLocalObjectReference", "apiGroup"),
        ("TypedObjectReference", "apiGroup"),
    ];
    NULLS.contains(&(s.name.rsplit('.').next().unwrap_or_default(), field.name.as_ref()))
}

fn presence_of(ty: &Type, s: &Struct, field: &Field, presence: Presence) -> FieldPresence {
    let is_struct = matches!(ty, Type::Struct(_));
    // These are structs in Go, which omitempty does not leave out.
    let go_struct = match ty {
        Type::Scalar(Scalar::IntOrString) => Some(Json::ZERO),
        Type::Scalar(Scalar::Quantity) => Some(Json::ZERO_TEXT),
        Type::Scalar(Scalar::Time | Scalar::MicroTime) if field.name != "creationTimestamp" => Some(Json::NULL),
        Type::Struct(_) if field.default.as_ref().is_some_and(Value::is_object) => Some(Json::EMPTY_OBJECT),
        _ => None,
    };
    let implied = match presence {
        Presence::Pointer => is_null_if_absent(s, field).then_some(Json::NULL),
        Presence::OmitZero => go_struct,
        Presence::Always => Some(go_struct.unwrap_or_else(|| zero(ty))),
    };
    FieldPresence {
        hides_null: implied.is_none_or(|v| v.kind() != Kind::Null),
        hides_zero: presence == Presence::OmitZero && implied.is_none(),
        hides_empty_object: !is_struct && !matches!(ty, Type::Any),
        implied,
        shown: None,
    }
}

/// What is printed of a field that nobody set, given what is implied.
fn shown(ty: TypeId, presence: Presence, implied: Option<Json<'static>>) -> Option<Cow<'static, str>> {
    let implied = implied.filter(|_| presence != Presence::Pointer)?.json();
    if implied != "{}" {
        return Some(Cow::Borrowed(implied));
    }
    let b = builtin();
    let inner = b.structure(ty).zip(b.message(ty)).map(|(s, message)| {
        let mut presences = vec![FieldPresence::default(); s.fields.len()];
        fill(&b.schema, s, message, &mut presences);
        let members = s.fields.iter().zip(presences).filter_map(|(f, p)| Some(format!("\"{}\":{}", f.name, p.shown?)));
        members.collect::<Vec<_>>().join(",")
    });
    Some(inner.filter(|text| !text.is_empty()).map_or(Cow::Borrowed("{}"), |text| format!("{{{text}}}").into()))
}

fn zero(ty: &Type) -> Json<'static> {
    match ty {
        Type::Scalar(Scalar::String | Scalar::Duration) => Json::EMPTY_TEXT,
        Type::Scalar(Scalar::Bool) => Json::FALSE,
        Type::Scalar(Scalar::Int32 | Scalar::Int64 | Scalar::Double) => Json::ZERO,
        Type::Struct(_) => Json::EMPTY_OBJECT,
        _ => Json::NULL,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_behave_as_in_go() {
        let b = builtin();
        let of = |definition: &str, field: &str| {
            let s = b.structure(b.by_name(definition).expect("defined")).expect("a struct");
            let at = s.fields.iter().position(|f| f.name == field).expect("a field");
            super::of(s).expect("built in")[at].clone()
        };
        let replicas = of("io.k8s.api.apps.v1.DeploymentSpec", "replicas");
        assert!(replicas.implied.is_none() && !replicas.hides(&json!(0)) && replicas.hides(&json!(null)));
        let paused = of("io.k8s.api.apps.v1.DeploymentSpec", "paused");
        assert!(paused.implied.is_none() && paused.hides(&json!(false)) && !paused.hides(&json!(true)));
        assert_eq!(of("io.k8s.api.apps.v1.DeploymentSpec", "template").implied.map(Json::json), Some("{}"));
        assert_eq!(of("io.k8s.api.apps.v1.DeploymentSpec", "selector").implied.map(Json::json), Some("null"));
        assert_eq!(of("io.k8s.api.core.v1.PodSpec", "containers").implied.map(Json::json), Some("null"));
        assert_eq!(of("io.k8s.api.core.v1.Container", "resources").implied.map(Json::json), Some("{}"));
        assert_eq!(of("io.k8s.api.core.v1.ServicePort", "targetPort").implied.map(Json::json), Some("0"));
        assert!(of("io.k8s.api.networking.v1.IPAddressSpec", "parentRef").implied.is_none());
        assert!(of("io.k8s.api.core.v1.ConfigMap", "data").hides(&json!({})));
        assert!(!of("io.k8s.api.core.v1.PodSpec", "securityContext").hides(&json!({})));
    }
}
