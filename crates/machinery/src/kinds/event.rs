//! Event of core and of events.k8s.io: one object whose fields have two names (`pkg/apis/core/validation/events.go`,
//! `pkg/apis/events/v1/conversion.go`).
//!
//! The core group checks little, for the sake of old clients; the newer group checks that what it calls deprecated is
//! unset.

use super::common::{column, human_duration, make_column, name, since, str_of, wide};
use super::{Column, Strategy};
use crate::field::{Errors, FieldError, Path};
use crate::schema::go_shown;
use crate::validation::{
    IMMUTABLE, Messages, Raw, invalid_each, is_dns1123_subdomain, is_label_key, is_path_segment_name,
};
use api::k8s::api::core::v1::{Event as CoreEvent, EventSeries, EventSource};
use api::k8s::api::events::v1::{Event, EventSeries as NewSeries};
use api::k8s::apimachinery::pkg::apis::meta::v1::MicroTime;
use api::prelude::MetaExt;
use serde_json::{Value, json};

/// What is particular about an Event of the core group.
pub(super) struct CoreEventKind;

impl Strategy for CoreEventKind {
    type Object = CoreEvent;

    const CHECKS_FINALIZERS: bool = false;

    // Plain fields that Go always shows.
    fn default(event: &mut CoreEvent) {
        event.source.get_or_insert_default();
        event.reporting_component.get_or_insert_default();
        event.reporting_instance.get_or_insert_default();
    }

    fn validate_name(name: &str) -> Messages {
        // Upstream asks nothing of the name of an old event but that it fits into a URL.
        is_path_segment_name(name)
    }

    fn validate(event: &CoreEvent) -> Errors {
        validate_common(event, "reportingComponent")
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    const SELECTABLE: &'static [&'static str] = &[
        "involvedObject.kind",
        "involvedObject.namespace",
        "involvedObject.name",
        "involvedObject.uid",
        "involvedObject.apiVersion",
        "involvedObject.resourceVersion",
        "involvedObject.fieldPath",
        "reason",
        "reportingComponent",
        "source",
        "type",
    ];

    fn selectable_fields(event: &CoreEvent) -> Vec<(&'static str, String)> {
        let involved = &event.involved_object;
        let source = event.source.as_ref().map(|s| str_of(&s.component)).unwrap_or_default();
        let reporter = str_of(&event.reporting_component);
        let pairs = [
            ("involvedObject.kind", str_of(&involved.kind)),
            ("involvedObject.namespace", str_of(&involved.namespace)),
            ("involvedObject.name", str_of(&involved.name)),
            ("involvedObject.uid", str_of(&involved.uid)),
            ("involvedObject.apiVersion", str_of(&involved.api_version)),
            ("involvedObject.resourceVersion", str_of(&involved.resource_version)),
            ("involvedObject.fieldPath", str_of(&involved.field_path)),
            ("reason", str_of(&event.reason)),
            ("reportingComponent", reporter),
            ("source", if source.is_empty() { reporter } else { source }),
            ("type", str_of(&event.type_)),
        ];
        pairs.map(|(field, value)| (field, value.to_owned())).into()
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(event: &CoreEvent, now: jiff::Timestamp) -> Vec<Value> {
        cells(event, now)
    }
}

/// What is particular about an Event of events.k8s.io.
pub(super) struct EventKind;

impl Strategy for EventKind {
    type Object = Event;

    fn validate_name(name: &str) -> Messages {
        is_dns1123_subdomain(name)
    }

    fn validate(event: &Event) -> Errors {
        validate_common(&to_core(event), "reportingController")
    }

    fn validate_create(event: &Event) -> Errors {
        let mut errors = validate_series(event.series.as_ref());
        if event.event_time.is_none() {
            errors.push(FieldError::required(&Path::new("eventTime"), ""));
        }
        let ty = str_of(&event.type_);
        if !matches!(ty, "Normal" | "Warning") {
            errors.push(FieldError::invalid(&Path::new("type"), "", &format!("has invalid value: {ty}")));
        }
        let deprecated = [
            ("firstTimestamp", event.deprecated_first_timestamp.is_some()),
            ("lastTimestamp", event.deprecated_last_timestamp.is_some()),
            ("count", event.deprecated_count.unwrap_or(0) != 0),
            ("source", event.deprecated_source.as_ref().is_some_and(|s| *s != EventSource::default())),
        ];
        let set = deprecated.iter().filter(|d| d.1);
        errors.extend(set.map(|(field, _)| FieldError::invalid(&Path::new(field), "", "needs to be unset")));
        errors
    }

    fn validate_update(new: &Event, old: &Event) -> Errors {
        let mut errors = Vec::new();
        if new.series != old.series {
            errors.extend(validate_series(new.series.as_ref()));
        }
        let texts = [
            ("reason", &new.reason, &old.reason),
            ("message", &new.note, &old.note),
            ("type", &new.type_, &old.type_),
            ("action", &new.action, &old.action),
            ("reportingController", &new.reporting_controller, &old.reporting_controller),
            ("reportingInstance", &new.reporting_instance, &old.reporting_instance),
        ];
        for (field, new, _) in texts.into_iter().filter(|(_, new, old)| str_of(new) != str_of(old)) {
            errors.push(FieldError::invalid(&Path::new(field), str_of(new), IMMUTABLE));
        }
        let source = |event: &Event| event.deprecated_source.clone().unwrap_or_default();
        let regarding = |event: &Event| event.regarding.clone().unwrap_or_default();
        let count = |event: &Event| event.deprecated_count.unwrap_or(0);
        let (first, last) = (&new.deprecated_first_timestamp, &new.deprecated_last_timestamp);
        const REFERENCE: &str = "io.k8s.api.core.v1.ObjectReference";
        let others: [(_, _, &dyn Fn() -> Raw); 7] = [
            ("involvedObject", regarding(new) != regarding(old), &|| go_shown(REFERENCE, &regarding(new))),
            ("source", source(new) != source(old), &|| go_shown("io.k8s.api.core.v1.EventSource", &source(new))),
            ("firstTimestamp", *first != old.deprecated_first_timestamp, &|| json!(first).into()),
            ("lastTimestamp", *last != old.deprecated_last_timestamp, &|| json!(last).into()),
            ("count", count(new) != count(old), &|| json!(count(new)).into()),
            ("eventTime", new.event_time != old.event_time, &|| json!(new.event_time).into()),
            ("related", new.related != old.related, &|| go_shown(REFERENCE, &new.related)),
        ];
        for (field, _, shown) in others.iter().filter(|o| o.1) {
            errors.push(FieldError::invalid(&Path::new(field), shown(), IMMUTABLE));
        }
        errors
    }

    const ALLOW_CREATE_ON_UPDATE: bool = true;

    const SELECTABLE: &'static [&'static str] = &[
        "reason",
        "regarding.kind",
        "regarding.namespace",
        "regarding.name",
        "regarding.uid",
        "regarding.apiVersion",
        "regarding.resourceVersion",
        "regarding.fieldPath",
        "reportingController",
        "type",
    ];

    fn selectable_fields(event: &Event) -> Vec<(&'static str, String)> {
        let regarding = event.regarding.clone().unwrap_or_default();
        let pairs = [
            ("reason", str_of(&event.reason)),
            ("regarding.kind", str_of(&regarding.kind)),
            ("regarding.namespace", str_of(&regarding.namespace)),
            ("regarding.name", str_of(&regarding.name)),
            ("regarding.uid", str_of(&regarding.uid)),
            ("regarding.apiVersion", str_of(&regarding.api_version)),
            ("regarding.resourceVersion", str_of(&regarding.resource_version)),
            ("regarding.fieldPath", str_of(&regarding.field_path)),
            ("reportingController", str_of(&event.reporting_controller)),
            ("type", str_of(&event.type_)),
        ];
        pairs.map(|(field, value)| (field, value.to_owned())).into()
    }

    fn columns() -> Vec<Column> {
        columns()
    }

    fn cells(event: &Event, now: jiff::Timestamp) -> Vec<Value> {
        cells(&to_core(event), now)
    }
}

// === conversion ===

fn to_core(event: &Event) -> CoreEvent {
    let e = event.clone();
    CoreEvent {
        action: e.action,
        count: e.deprecated_count,
        event_time: e.event_time,
        first_timestamp: e.deprecated_first_timestamp,
        involved_object: e.regarding.unwrap_or_default(),
        last_timestamp: e.deprecated_last_timestamp,
        message: e.note,
        metadata: e.metadata,
        reason: e.reason,
        related: e.related,
        reporting_component: e.reporting_controller,
        reporting_instance: e.reporting_instance,
        series: e.series.map(|s| EventSeries { count: Some(s.count), last_observed_time: Some(s.last_observed_time) }),
        source: e.deprecated_source,
        type_: e.type_,
    }
}

// === validation ===

fn validate_series(series: Option<&NewSeries>) -> Errors {
    let mut errors = Vec::new();
    let Some(series) = series else { return errors };
    if series.count < 2 {
        errors.push(FieldError::invalid(&Path::new("series.count"), "", "should be at least 2"));
    }
    // Go's zero time stands for none.
    if series.last_observed_time.0 == jiff::Timestamp::constant(ZERO_TIME, 0) {
        errors.push(FieldError::required(&Path::new("series.lastObservedTime"), ""));
    }
    errors
}

/// Seconds of Go's zero time.
const ZERO_TIME: i64 = -62_135_596_800;

/// `legacyValidateEvent`: the namespaces agree; an event with a time names who saw what.
fn validate_common(event: &CoreEvent, reporter_field: &str) -> Errors {
    let mut errors = Vec::new();
    let involved = str_of(&event.involved_object.namespace);
    let namespace = event.namespace();
    let timed = event.event_time.is_some();
    let agrees = match (timed, involved) {
        (false, "") => matches!(namespace, "" | "default"),
        (false, involved) => namespace == involved,
        (true, "") => matches!(namespace, "default" | "kube-system"),
        (true, _) => true,
    };
    if !agrees {
        let path = Path::new("involvedObject").child("namespace");
        errors.push(FieldError::invalid(&path, involved, "does not match event.namespace"));
    }
    if timed {
        let reporter = str_of(&event.reporting_component);
        let path = Path::new(reporter_field);
        if reporter.is_empty() {
            errors.push(FieldError::required(&path, ""));
        }
        errors.extend(invalid_each(&path, reporter, is_label_key(reporter)));
        let limits = [
            ("reportingInstance", &event.reporting_instance, 128, true),
            ("action", &event.action, 128, true),
            ("reason", &event.reason, 128, true),
            ("message", &event.message, 1024, false),
        ];
        for (field, value, most, needed) in limits {
            let value = str_of(value);
            if needed && value.is_empty() {
                errors.push(FieldError::required(&Path::new(field), ""));
            }
            if value.len() > most {
                let detail = format!("can have at most {most} characters");
                errors.push(FieldError::invalid(&Path::new(field), "", &detail));
            }
        }
    }
    errors.extend(invalid_each(&Path::new("namespace"), namespace, is_dns1123_subdomain(namespace)));
    errors
}

// === columns ===

fn columns() -> Vec<Column> {
    vec![
        column("Last Seen"),
        column("Type"),
        column("Reason"),
        column("Object"),
        wide("Subobject"),
        wide("Source"),
        column("Message"),
        wide("First Seen"),
        wide("Count"),
        make_column("Name", "string", "name", 1),
    ]
}

fn cells(event: &CoreEvent, now: jiff::Timestamp) -> Vec<Value> {
    let micro = |time: Option<&MicroTime>| {
        time.map_or_else(|| "<unknown>".to_owned(), |t| human_duration(now.duration_since(t.0)))
    };
    let first = match &event.first_timestamp {
        Some(time) => since(Some(time), now),
        None => micro(event.event_time.as_ref()),
    };
    let (mut last, mut count) = match &event.last_timestamp {
        Some(time) => (since(Some(time), now), event.count.unwrap_or(0)),
        None => (first.clone(), event.count.unwrap_or(0)),
    };
    if let Some(series) = &event.series {
        last = micro(series.last_observed_time.as_ref());
        count = series.count.unwrap_or(0);
    } else if count == 0 {
        count = 1;
    }
    let involved = &event.involved_object;
    let mut target = str_of(&involved.kind).to_lowercase();
    if !str_of(&involved.name).is_empty() {
        target = format!("{target}/{}", str_of(&involved.name));
    }
    vec![
        last.into(),
        str_of(&event.type_).into(),
        str_of(&event.reason).into(),
        target.into(),
        str_of(&involved.field_path).into(),
        source_text(event).into(),
        str_of(&event.message).trim().into(),
        first.into(),
        count.into(),
        name(event),
    ]
}

fn source_text(event: &CoreEvent) -> String {
    let source = event.source.clone().unwrap_or_default();
    let first = |a: &Option<String>, b: &Option<String>| {
        if str_of(a).is_empty() { str_of(b).to_owned() } else { str_of(a).to_owned() }
    };
    let component = first(&source.component, &event.reporting_component);
    let instance = first(&source.host, &event.reporting_instance);
    if instance.is_empty() { component } else { format!("{component}, {instance}") }
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_row};
    use expect_test::expect;

    const OLD: &str = "
apiVersion: v1
kind: Event
metadata: {name: web.1, namespace: default}
involvedObject: {kind: Pod, name: web, namespace: default, fieldPath: 'spec.containers{c}'}
reason: Pulled
message: 'Container image present '
type: Normal
count: 3
source: {component: kubelet, host: n1}
firstTimestamp: '2024-01-01T00:00:00Z'
lastTimestamp: '2024-01-01T00:59:00Z'";

    #[test]
    fn old_events() {
        check_row(
            OLD,
            expect![[r#"
            Last Seen | Type | Reason | Object | Subobject | Source | Message | First Seen | Count | Name
            60s | Normal | Pulled | pod/web | spec.containers{c} | kubelet, n1 | Container image present | 60m | 3 | web.1"#]],
        );
        check_create(OLD, expect![""]);
        check_create(
            &OLD.replace("name: web, namespace: default", "name: web, namespace: other"),
            expect![[r#"involvedObject.namespace: Invalid value: "other": does not match event.namespace"#]],
        );
    }

    #[test]
    fn new_events_leave_old_fields_unset() {
        check_create(
            "{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: a}, deprecatedCount: 1}",
            expect![[r#"
            eventTime: Required value
            type: Invalid value: "": has invalid value: 
            count: Invalid value: "": needs to be unset"#]],
        );
        let event = "{apiVersion: events.k8s.io/v1, kind: Event, metadata: {name: a}, eventTime: '2024-01-01T00:00:00.000000Z', action: a, reason: r, type: Normal, reportingController: a/b, reportingInstance: i, series: {count: 1}}";
        check_create(
            event,
            expect![[r#"
            series.count: Invalid value: "": should be at least 2
            series.lastObservedTime: Required value"#]],
        );
    }
}
