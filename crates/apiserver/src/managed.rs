//! Who owns which field (`metadata.managedFields`), at the places of the pipeline where it is kept. The rules are
//! `machinery::apply`'s; here is what they need to know of each endpoint.
//!
//! Owners are as large as everything else in an object, and most writes change only a time in them. So they are [`Owners`],
//! a text beside the object, from where an object is read until it is encoded; the object itself has none meanwhile.

use crate::reader::KindRef;
use crate::status;
use api::{AnyObject, Codec, ObjectMeta, Status};
use bytes::Bytes;
use jiff::Timestamp;
use machinery::apply::{self, Change, Context, FieldSet, Filter, Given, SchemaRef};
use machinery::json::Doc;
use machinery::kinds::{Kind, KindInfo};
use machinery::scan;
use serde_json::Value;

/// `metadata.managedFields` as JSON, if there are any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners(Option<Bytes>);

/// Those of an object that has none.
pub(crate) static NO_OWNERS: Owners = Owners(None);

impl Owners {
    /// Takes an object's owners out of it.
    pub(crate) fn take(meta: &mut ObjectMeta) -> Owners {
        let Some(entries) = meta.managed_fields.take() else { return Owners(None) };
        let alone = ObjectMeta { managed_fields: Some(entries), ..ObjectMeta::default() }.encode();
        let entries = scan::member(&alone, 0, b"managedFields");
        Owners(entries.map(|range| Bytes::from(alone).slice(range)))
    }

    /// Cuts the owners out of an object's JSON.
    pub(crate) fn cut(bytes: &Bytes) -> (Bytes, Owners) {
        match scan::begin(bytes, b"metadata").and_then(|metadata| scan::cut(bytes, metadata, b"managedFields")) {
            Some((rest, range)) => (rest.into(), Owners(Some(bytes.slice(range)))),
            None => (bytes.clone(), Owners(None)),
        }
    }

    pub(crate) fn of_value(entries: Option<&Value>) -> Owners {
        Owners(entries.filter(|e| !e.is_null()).map(|e| e.to_string().into()))
    }

    pub(crate) fn json(&self) -> Option<&[u8]> {
        self.0.as_deref()
    }

    /// Puts them into an object.
    fn put_into(&self, meta: &mut ObjectMeta) -> Result<(), Status> {
        let Some(entries) = self.json() else { return Ok(()) };
        let alone = [&b"{\"managedFields\":"[..], entries, b"}"].concat();
        meta.managed_fields = ObjectMeta::decode(&alone).map_err(status::internal)?.managed_fields;
        Ok(())
    }

    fn doc(&self) -> Result<Option<Doc<'_>>, Status> {
        self.json().map(doc).transpose()
    }
}

pub(crate) fn doc(json: &[u8]) -> Result<Doc<'_>, Status> {
    Doc::parse(json).ok_or_else(|| status::internal("an object of ours is not JSON"))
}

/// What a change says about owners.
pub(crate) enum Wish {
    /// Nothing.
    Unchanged,
    /// The client sent these, or none.
    Given(Owners),
    /// The change has worked them out itself.
    Decided(Owners),
}

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
        | (
            "admissionregistration.k8s.io"
            | "apiextensions.k8s.io"
            | "apiregistration.k8s.io"
            | "flowcontrol.apiserver.k8s.io"
            | "resource.k8s.io"
            | "storage.k8s.io",
            _,
            "status",
        ) => FieldSet::of_fields(&[&["spec"], &["metadata"]]),
        (_, _, "status") => FieldSet::of_fields(&[&["spec"]]),
        ("", "Namespace", "finalize") => FieldSet::of_fields(&[&["status"]]),
        _ => return Filter::All,
    };
    Filter::Exclude(set)
}

/// The owners after a create or an update: the fields that changed belong to the manager now. `old` is the object before
/// and its owners, cut out.
pub(crate) fn record(
    kind: &KindRef,
    old: Option<(&Doc<'_>, &Owners)>,
    new: &dyn AnyObject,
    wish: Wish,
    manager: Manager<'_>,
) -> Result<Owners, Status> {
    let before = old.map_or(Owners(None), |(_, owners)| owners.clone());
    let given = match wish {
        Wish::Decided(owners) => return Ok(owners),
        Wish::Given(owners) if owners != before => Some(owners),
        Wish::Given(_) | Wish::Unchanged => None,
    };
    let new = kind.encode_owned(new);
    let (new, given_doc) = (doc(&new)?, given.as_ref().map(Owners::doc).transpose()?);
    let old_entries = before.doc()?;
    let change = Change {
        old: old.map(|(old, _)| (old, old_entries.as_ref())),
        new: &new,
        given: given_doc.as_ref().map_or(Given::Unchanged, |entries| Given::Entries(entries.as_ref())),
    };
    match with_context(kind, manager, |ctx| apply::owners_after(ctx, &change)) {
        Some(entries) => Ok(Owners(entries.map(Bytes::from))),
        None => Ok(given.unwrap_or(before)),
    }
}

/// Notes in an object that will not be stored who sent its fields.
pub(crate) fn note(kind: &KindRef, object: &mut dyn AnyObject, manager: Manager<'_>) -> Result<(), Status> {
    let given = Owners::take(object.meta_mut());
    record(kind, None, object, Wish::Given(given), manager)?.put_into(object.meta_mut())
}

/// Lets the rules look at an object together with owners that did not come from [`record`] alone.
pub(crate) fn checked<T>(
    object: &mut dyn AnyObject,
    owners: Option<&Owners>,
    check: impl FnOnce(&dyn AnyObject) -> T,
) -> Result<T, Status> {
    owners.map_or(Ok(()), |owners| owners.put_into(object.meta_mut()))?;
    let outcome = check(object);
    object.meta_mut().managed_fields = None;
    Ok(outcome)
}

/// The owners to store: a write that changes nothing but their times changes nothing
/// (`fieldmanager.IgnoreManagedFieldsTimestampsTransformer`). `is_same` tells whether it changes nothing else.
pub(crate) fn unless_only_times(owners: Owners, before: &Owners, is_same: bool) -> Result<Owners, Status> {
    if !is_same || owners == *before {
        return Ok(owners);
    }
    let (Some(now), Some(then)) = (owners.doc()?, before.doc()?) else { return Ok(owners) };
    Ok(if apply::is_same_but_for_times(&now, &then) { before.clone() } else { owners })
}
