//! Who owns which field (`metadata.managedFields`), at the places of the pipeline where it is kept. The rules are
//! `machinery::apply`'s; here is what they need to know of each endpoint.

use crate::reader::KindRef;
use api::{AnyObject, Codec, ObjectMeta, Status};
use jiff::Timestamp;
use machinery::apply::{self, Context, FieldSet, Filter, SchemaRef};
use machinery::kinds::{Kind, KindInfo};
use serde_json::{Value, json};

/// One write, as managed fields remember it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manager<'a> {
    /// `fieldManager`, or the first word of the user agent.
    pub(crate) name: &'a str,
    /// Subresource, or empty.
    pub(crate) subresource: &'a str,
    /// When.
    pub(crate) now: Timestamp,
}

/// Runs `f` with what the rules need to know of a write; `None` for kinds without a schema.
pub(crate) fn with_context<T>(kind: &KindRef, manager: Manager<'_>, f: impl FnOnce(&Context<'_>) -> T) -> Option<T> {
    let root = kind.schema()?;
    let convert = |value: &Value, version: &str| in_version(kind, value, version);
    let is_custom = matches!(kind, KindRef::Custom(_));
    let filter = filter(kind.info(), manager.subresource, is_custom);
    let info = kind.info();
    let api_version = info.api_version();
    Some(f(&Context {
        root,
        api_version: &api_version,
        kind: &info.kind,
        subresource: manager.subresource,
        manager: manager.name,
        now: manager.now,
        filter: &filter,
        convert: is_custom.then_some(&convert as &apply::Convert<'_>),
    }))
}

/// An object in another version of its definition, for owners of that version. Differs from upstream where a webhook converts:
/// fields are compared under their names here, not as the webhook would move them.
fn in_version<'a>(kind: &'a KindRef, value: &Value, version: &str) -> Option<(Value, SchemaRef<'a>)> {
    let KindRef::Custom(custom) = kind else { return None };
    let (group, _) = version.split_once('/')?;
    let other = custom.definition.version(version).filter(|_| group == custom.kind.info().group)?;
    let mut value = value.clone();
    value["apiVersion"] = version.into();
    Some((value, other.schema()?))
}

/// Fields that an endpoint resets and that therefore nobody comes to own through it (`GetResetFields` of the strategies).
fn filter(info: &KindInfo, subresource: &str, is_custom: bool) -> Filter {
    if is_custom && subresource == "status" {
        return Filter::Exclude(FieldSet::of_fields(&[&["spec"], &["metadata"]]));
    }
    let set = match (info.group.as_ref(), info.kind.as_ref(), subresource) {
        (_, _, "") if info.subresource("status").is_none() => return Filter::All,
        ("certificates.k8s.io", _, "") => FieldSet::of_fields(&[&["spec"], &["status"]]),
        (_, _, "") => FieldSet::of_fields(&[&["status"]]),
        ("", "Pod", "status") => {
            FieldSet::of_fields(&[&["spec"], &["metadata", "deletionTimestamp"], &["metadata", "ownerReferences"]])
        }
        ("apps", "Deployment", "status") => FieldSet::of_fields(&[&["spec"], &["metadata", "labels"]]),
        ("certificates.k8s.io", _, "status") => FieldSet::of_fields(&[&["spec"], &["status", "conditions"]]),
        ("certificates.k8s.io", _, "approval") => FieldSet::of_fields(&[&["spec"], &["status", "certificate"]]),
        ("networking.k8s.io", "ServiceCIDR", "status")
        | ("resource.k8s.io" | "storage.k8s.io" | "apiextensions.k8s.io" | "apiregistration.k8s.io", _, "status") => {
            FieldSet::of_fields(&[&["spec"], &["metadata"]])
        }
        (_, _, "status") => FieldSet::of_fields(&[&["spec"]]),
        _ => return Filter::All,
    };
    Filter::Exclude(set)
}

/// After a create or an update that is no apply: the fields that changed belong to the manager now.
pub(crate) fn record(
    kind: &KindRef,
    live: Option<&dyn AnyObject>,
    new: &mut dyn AnyObject,
    manager: Manager<'_>,
) -> Result<(), Status> {
    let value_of =
        |object: &dyn AnyObject| serde_json::from_slice::<Value>(&object.encode()).map_err(crate::status::internal);
    let live = live.map(value_of).transpose()?;
    let mut value = value_of(new)?;
    if with_context(kind, manager, |ctx| apply::update(ctx, live.as_ref(), &mut value)).is_some() {
        set_entries(new.meta_mut(), value["metadata"].get("managedFields").cloned())?;
    }
    Ok(())
}

/// Puts entries, as JSON, into metadata.
pub(crate) fn set_entries(meta: &mut ObjectMeta, entries: Option<Value>) -> Result<(), Status> {
    meta.managed_fields = match entries {
        None | Some(Value::Null) => None,
        Some(entries) => {
            let text = json!({"managedFields": entries}).to_string();
            ObjectMeta::decode(text.as_bytes()).map_err(crate::status::internal)?.managed_fields
        }
    };
    Ok(())
}

/// A write that changes nothing but the times of managed fields changes nothing
/// (`fieldmanager.IgnoreManagedFieldsTimestampsTransformer`).
pub(crate) fn keep_times_if_unchanged(new: &mut dyn AnyObject, old: &dyn AnyObject) {
    let (Some(now), Some(then)) = (&new.meta().managed_fields, &old.meta().managed_fields) else { return };
    let same_but_time = now.len() == then.len()
        && now.iter().zip(then).all(|(a, b)| {
            let mut a = a.clone();
            a.time = b.time.clone();
            a == *b
        });
    if !same_but_time || now == then {
        return;
    }
    let mut candidate = new.boxed_clone();
    candidate.meta_mut().managed_fields = old.meta().managed_fields.clone();
    candidate.meta_mut().resource_version = old.meta().resource_version.clone();
    if candidate.encode() == old.encode() {
        new.meta_mut().managed_fields = old.meta().managed_fields.clone();
    }
}
