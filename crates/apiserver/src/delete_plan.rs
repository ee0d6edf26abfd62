//! What a delete does to an object: a pure decision from the object, its kind and the options
//! (`registry/rest/delete.go` `BeforeDelete`, `registry/generic/registry/store.go` `Delete`, and for namespaces
//! `pkg/registry/core/namespace/storage/storage.go`).

use crate::options::{DeleteOptions, Propagation};
use crate::status;
use api::k8s::api::core::v1::NamespaceStatus;
use api::prelude::Namespace;
use api::{AnyObject, ObjectMeta, Status, Time};
use jiff::{SignedDuration, Timestamp};
use machinery::kinds::{Kind, KindInfo};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// The next step of a deletion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is under way already; nothing to write.
    Pending,
    /// Write the object, which now says that it is being deleted. Somebody else finishes.
    Mark,
    /// Write the object, then remove it: watchers see both.
    MarkThenRemove,
    /// Remove it.
    Remove,
}

/// Decides, and changes `object` accordingly.
pub(crate) fn plan(
    object: &mut dyn AnyObject,
    kind: &dyn Kind,
    options: &DeleteOptions,
    now: Timestamp,
) -> Result<Step, Status> {
    check_preconditions(object.meta(), kind.info(), options)?;
    let now = truncate(now);
    if let Some(namespace) = api::any::downcast_mut::<Namespace>(object)
        && let Some(step) = plan_namespace(namespace, options, now)
    {
        return Ok(step);
    }
    let graceful = match before_delete(object, kind, options, now) {
        Graceful::Pending => return Ok(Step::Pending),
        Graceful::Yes(seconds) => Some(seconds),
        Graceful::No => None,
    };
    let info = kind.info();
    let meta = object.meta_mut();
    let finalizers = finalizers_after(meta, info, options);
    meta.finalizers = (!finalizers.is_empty()).then_some(finalizers);
    let waits = meta.finalizers.is_some();
    Ok(match graceful {
        Some(seconds) if waits || seconds > 0 => Step::Mark,
        Some(_) => Step::MarkThenRemove,
        None if waits => {
            mark_as_deleting(meta, now);
            Step::Mark
        }
        None => Step::Remove,
    })
}

fn check_namespace_preconditions(
    info: &KindInfo,
    name: &str,
    (uid, version): (&str, &str),
    options: &DeleteOptions,
) -> Result<(), Status> {
    let checks = [("UID", &options.uid, uid), ("ResourceVersion", &options.resource_version, version)];
    for (what, wanted, found) in checks {
        if let Some(wanted) = wanted.as_deref().filter(|wanted| *wanted != found) {
            let why = format!("Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}");
            return Err(status::conflict(info, name, &why));
        }
    }
    Ok(())
}

pub(crate) fn check_preconditions(meta: &ObjectMeta, info: &KindInfo, options: &DeleteOptions) -> Result<(), Status> {
    let name = meta.name.as_deref().unwrap_or_default();
    let text = |field: &Option<String>| field.clone().unwrap_or_default();
    let (uid, version) = (text(&meta.uid), text(&meta.resource_version));
    // Upstream names the kind here, not the resource.
    let conflict = |why: &str| {
        let mut kind = info.clone();
        kind.plural = info.kind.clone();
        kind.group = info.error_group().to_owned().into();
        status::conflict(&kind, name, why)
    };
    // Namespaces look for themselves (`registry/core/namespace/storage`).
    if info.kind == "Namespace" {
        return check_namespace_preconditions(info, name, (&uid, &version), options);
    }
    if let Some(wanted) = options.uid.as_ref().filter(|wanted| **wanted != uid) {
        return Err(conflict(&format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
        )));
    }
    if let Some(wanted) = options.resource_version.as_ref().filter(|wanted| **wanted != version) {
        return Err(conflict(&format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record ({version}). The object might have been modified"
        )));
    }
    Ok(())
}

/// A namespace first becomes Terminating and goes when its controller has emptied it.
fn plan_namespace(namespace: &mut Namespace, options: &DeleteOptions, now: Timestamp) -> Option<Step> {
    let finalizers = namespace.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default();
    if namespace.metadata.deletion_timestamp.is_some() {
        return (!finalizers.is_empty()).then_some(Step::Pending);
    }
    namespace.metadata.deletion_timestamp = Some(Time(now));
    namespace.status =
        Some(NamespaceStatus { phase: Some("Terminating".into()), ..namespace.status.take().unwrap_or_default() });
    let list = gc_finalizers(&namespace.metadata, options, false);
    namespace.metadata.finalizers = (!list.is_empty()).then_some(list);
    Some(Step::Mark)
}

enum Graceful {
    No,
    Pending,
    Yes(i64),
}

fn before_delete(object: &mut dyn AnyObject, kind: &dyn Kind, options: &DeleteOptions, now: Timestamp) -> Graceful {
    let Some(default) = kind.graceful_period(object, options.grace_period_seconds) else { return Graceful::No };
    let meta = object.meta_mut();
    let Some(deletion) = meta.deletion_timestamp.clone() else {
        meta.deletion_timestamp = Some(Time(plus(now, default)));
        meta.deletion_grace_period_seconds = Some(default);
        bump_generation(meta);
        return Graceful::Yes(default);
    };
    let current = match meta.deletion_grace_period_seconds {
        None | Some(0) => return Graceful::No,
        Some(seconds) if seconds < 0 => 1,
        Some(seconds) => seconds,
    };
    // Only a shorter period may be asked for.
    let Some(mut period) = options.grace_period_seconds.filter(|asked| *asked < current) else {
        return Graceful::Pending;
    };
    let asked = period;
    let mut at = plus(plus(deletion.0, -current), period);
    if at < now {
        at = now;
        if period != 0 {
            // Whoever watches still has to finish the deletion, with a period of zero.
            period = 1;
        }
    }
    meta.deletion_timestamp = Some(Time(at));
    meta.deletion_grace_period_seconds = Some(period);
    Graceful::Yes(asked)
}

fn mark_as_deleting(meta: &mut ObjectMeta, now: Timestamp) {
    if meta.deletion_timestamp.is_none() {
        bump_generation(meta);
    }
    if meta.deletion_timestamp.as_ref().is_none_or(|t| t.0 > now) {
        meta.deletion_timestamp = Some(Time(now));
    }
    meta.deletion_grace_period_seconds = Some(0);
}

fn bump_generation(meta: &mut ObjectMeta) {
    if let Some(generation) = meta.generation.filter(|g| *g > 0) {
        meta.generation = Some(generation + 1);
    }
}

/// What the garbage collector must do first, as finalizers.
fn finalizers_after(meta: &ObjectMeta, info: &KindInfo, options: &DeleteOptions) -> Vec<String> {
    if info.kind == "Event" {
        return meta.finalizers.clone().unwrap_or_default();
    }
    gc_finalizers(meta, options, orphans_by_default(info))
}

/// What to warn of who deletes without saying what becomes of the dependents (`registry/batch/job/storage`).
pub(crate) fn warning(info: &KindInfo, options: &DeleteOptions) -> Option<String> {
    let unsaid = options.propagation.is_none() && options.orphan_dependents.is_none();
    (unsaid && info.group == "batch" && info.kind == "Job").then(|| {
        "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning".to_owned()
    })
}

/// Kinds that keep an old promise (`DefaultGarbageCollectionPolicy`): `kubectl` always says what it wants.
fn orphans_by_default(info: &KindInfo) -> bool {
    matches!((info.group.as_ref(), info.kind.as_ref()), ("batch", "Job") | ("", "ReplicationController"))
}

fn gc_finalizers(meta: &ObjectMeta, options: &DeleteOptions, orphan_by_default: bool) -> Vec<String> {
    let has = |name: &str| meta.finalizers.iter().flatten().any(|f| f == name);
    let (orphan, foreground) = match (options.orphan_dependents, options.propagation) {
        (Some(orphan), _) => (orphan, false),
        (None, Some(Propagation::Orphan)) => (true, false),
        (None, Some(Propagation::Background)) => (false, false),
        (None, Some(Propagation::Foreground)) => (false, true),
        (None, None) if has(ORPHAN) => (true, false),
        (None, None) if has(FOREGROUND) => (false, true),
        (None, None) => (orphan_by_default, false),
    };
    let mut list: Vec<String> =
        meta.finalizers.iter().flatten().filter(|f| *f != ORPHAN && *f != FOREGROUND).cloned().collect();
    if orphan {
        list.push(ORPHAN.into());
    }
    if foreground {
        list.push(FOREGROUND.into());
    }
    let same = |a: &[String], b: &[String]| a.len() == b.len() && a.iter().all(|x| b.contains(x));
    match &meta.finalizers {
        Some(old) if same(old, &list) => old.clone(),
        _ => list,
    }
}

/// Whether an update finishes a deletion: nothing holds the object any more (`ShouldDeleteDuringUpdate`).
pub(crate) fn ends_with_update(new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    let namespace_is_empty = api::any::downcast_ref::<Namespace>(new)
        .is_none_or(|n| n.spec.as_ref().and_then(|s| s.finalizers.as_deref()).unwrap_or_default().is_empty());
    namespace_is_empty
        && new.meta().finalizers.as_deref().unwrap_or_default().is_empty()
        && old.meta().deletion_timestamp.is_some()
        && old.meta().deletion_grace_period_seconds.unwrap_or(0) == 0
}

/// Kinds whose finished delete answers the object (`ReturnDeletedObject`); the others answer a Status.
pub(crate) fn returns_object(info: &KindInfo) -> bool {
    matches!(
        (info.group.as_ref(), info.kind.as_ref()),
        (
            "",
            "Namespace"
                | "PersistentVolume"
                | "PersistentVolumeClaim"
                | "Pod"
                | "PodTemplate"
                | "ResourceQuota"
                | "Service"
                | "ServiceAccount"
        ) | ("resource.k8s.io", _)
            | (
                "storage.k8s.io",
                "CSIDriver" | "CSINode" | "StorageClass" | "VolumeAttachment" | "VolumeAttributesClass"
            )
    )
}

fn plus(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// Times of the API have whole seconds.
pub(crate) fn truncate(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(kind: (&str, &str), object: &str, options: &str, expected: Expect) {
        let kind = machinery::kinds::find(kind.0, "v1", kind.1).expect("a kind");
        let mut object = kind.decode(object.as_bytes()).expect("an object");
        let options =
            DeleteOptions::parse(&crate::request_info::Query::default(), options.as_bytes()).expect("options");
        let now = "2026-01-01T00:00:00.7Z".parse().expect("a time");
        let got = match plan(&mut *object, kind, &options, now) {
            Ok(step) => {
                let meta = object.meta();
                let at = meta.deletion_timestamp.as_ref().map(|t| t.0.to_string());
                format!("{step:?} {at:?} {:?} {:?}", meta.deletion_grace_period_seconds, meta.finalizers)
            }
            Err(status) => status.message,
        };
        expected.assert_eq(&got);
    }

    #[test]
    fn plain_objects_go_at_once() {
        check(("", "configmaps"), r#"{"metadata":{"name":"a"}}"#, "", expect!["Remove None None None"]);
    }

    #[test]
    fn finalizers_hold() {
        check(
            ("", "configmaps"),
            r#"{"metadata":{"name":"a","finalizers":["x/y"]}}"#,
            "",
            expect![[r#"Mark Some("2026-01-01T00:00:00Z") Some(0) Some(["x/y"])"#]],
        );
        check(
            ("", "configmaps"),
            r#"{"metadata":{"name":"a"}}"#,
            r#"{"propagationPolicy":"Foreground"}"#,
            expect![[r#"Mark Some("2026-01-01T00:00:00Z") Some(0) Some(["foregroundDeletion"])"#]],
        );
        check(
            ("", "configmaps"),
            r#"{"metadata":{"name":"a","finalizers":["orphan"]}}"#,
            r#"{"propagationPolicy":"Background"}"#,
            expect!["Remove None None None"],
        );
    }

    #[test]
    fn pods_are_given_time() {
        let running = r#"{"metadata":{"name":"a"},"spec":{"nodeName":"n","terminationGracePeriodSeconds":30,"containers":[]},"status":{"phase":"Running"}}"#;
        check(("", "pods"), running, "", expect![[r#"Mark Some("2026-01-01T00:00:30Z") Some(30) None"#]]);
        check(
            ("", "pods"),
            running,
            r#"{"gracePeriodSeconds":0}"#,
            expect![[r#"MarkThenRemove Some("2026-01-01T00:00:00Z") Some(0) None"#]],
        );
        let dying = r#"{"metadata":{"name":"a","deletionTimestamp":"2026-01-01T00:00:20Z","deletionGracePeriodSeconds":30},"spec":{"nodeName":"n","containers":[]},"status":{"phase":"Running"}}"#;
        check(("", "pods"), dying, "", expect![[r#"Pending Some("2026-01-01T00:00:20Z") Some(30) None"#]]);
        check(
            ("", "pods"),
            dying,
            r#"{"gracePeriodSeconds":5}"#,
            expect![[r#"Mark Some("2026-01-01T00:00:00Z") Some(1) None"#]],
        );
        check(
            ("", "pods"),
            dying,
            r#"{"gracePeriodSeconds":0}"#,
            expect![[r#"MarkThenRemove Some("2026-01-01T00:00:00Z") Some(0) None"#]],
        );
    }

    #[test]
    fn namespaces_end_in_two_steps() {
        check(
            ("", "namespaces"),
            r#"{"metadata":{"name":"a"},"spec":{"finalizers":["kubernetes"]}}"#,
            "",
            expect![[r#"Mark Some("2026-01-01T00:00:00Z") None None"#]],
        );
    }

    #[test]
    fn preconditions() {
        check(
            ("", "configmaps"),
            r#"{"metadata":{"name":"a","uid":"u1","resourceVersion":"5"}}"#,
            r#"{"preconditions":{"uid":"u2"}}"#,
            expect![[
                r#"Operation cannot be fulfilled on ConfigMap "a": the UID in the precondition (u2) does not match the UID in record (u1). The object might have been deleted and then recreated"#
            ]],
        );
    }
}
