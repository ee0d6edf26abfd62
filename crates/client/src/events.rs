//! [`Recorder`]: Kubernetes Events, with repeats counted instead of stored again.
//!
//! Differs from client-go's correlator: repeats of the same (object, reason, message) within a bound become a patch of
//! `count` and `lastTimestamp`; there is no aggregation of similar messages. Recording never blocks and never fails the
//! caller: the queue is bounded, what does not fit is dropped and logged.

use crate::{Client, Patch};
use api::k8s::api::core::v1::{Event, EventSource, ObjectReference};
use api::{Object, ObjectMeta, Time, meta::MetaExt};
use base::Clock;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// `type` of an Event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// All is well.
    Normal,
    /// Somebody should look.
    Warning,
}

/// Events waiting to be sent; more are dropped rather than slow down a controller.
const QUEUE: usize = 1024;
/// Remembered (object, reason, message) triples for counting.
const REMEMBERED: usize = 4096;

/// Records events as one component. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    queue: mpsc::Sender<Event>,
    clock: Arc<dyn Clock>,
    component: Arc<str>,
    host: Arc<str>,
}

impl Recorder {
    /// Events from `component` (e.g. `kubelet`) on `host` (may be empty).
    pub fn new(client: &Client, component: &str, host: &str, clock: Arc<dyn Clock>) -> Self {
        let (queue, events) = mpsc::channel(QUEUE);
        base::tasks::detach("events", send_all(client.named(component), events));
        Recorder { queue, clock, component: component.into(), host: host.into() }
    }

    /// Records an event about a typed object.
    pub fn record<K: Object>(&self, about: &K, kind: EventKind, reason: &str, message: &str) {
        self.record_ref(reference(about), kind, reason, message);
    }

    /// Records an event about anything, e.g. a pod's container (`fieldPath`).
    pub fn record_ref(&self, about: ObjectReference, kind: EventKind, reason: &str, message: &str) {
        let now = self.clock.now();
        let namespace = about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
        let event = Event {
            metadata: ObjectMeta {
                name: Some(format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond())),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: about,
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            type_: Some(if kind == EventKind::Normal { "Normal" } else { "Warning" }.to_owned()),
            source: Some(EventSource {
                component: Some(self.component.to_string()),
                host: Some(self.host.to_string()).filter(|h| !h.is_empty()),
            }),
            first_timestamp: Some(Time(now)),
            last_timestamp: Some(Time(now)),
            count: Some(1),
            reporting_component: Some(self.component.to_string()),
            reporting_instance: Some(self.host.to_string()),
            ..Event::default()
        };
        if self.queue.try_send(event).is_err() {
            tracing::warn!(reason, message, "event dropped: the queue is full");
        }
    }
}

/// The reference that events and owner-like fields use.
fn reference<K: Object>(about: &K) -> ObjectReference {
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: Some(about.name().to_owned()),
        namespace: Some(about.namespace().to_owned()).filter(|n| !n.is_empty()),
        uid: Some(about.uid().to_owned()),
        resource_version: about.meta().resource_version.clone(),
        field_path: None,
    }
}

type Seen = BTreeMap<(String, String, String, String), (String, String, i32)>;

async fn send_all(client: Client, mut events: mpsc::Receiver<Event>) {
    let api = client.api::<Event>();
    let mut seen = Seen::new();
    while let Some(event) = events.recv().await {
        let about = &event.involved_object;
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let id = (
            format!("{}{}", text(&about.uid), text(&about.name)),
            text(&about.field_path),
            text(&event.reason),
            text(&event.message),
        );
        if let Some((namespace, name, count)) = seen.get_mut(&id) {
            *count += 1;
            let patch = Patch::Merge(serde_json::json!({"count": *count, "lastTimestamp": event.last_timestamp}));
            match api.patch(namespace, name, "", &patch).await {
                Ok(_) => continue,
                Err(e) if e.is_not_found() => {}
                Err(e) => {
                    tracing::debug!(error = %base::chain(&e), "failed to count an event");
                    continue;
                }
            }
        }
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        match api.create(&event).await {
            Ok(stored) => {
                seen.insert(id, (stored.namespace().to_owned(), stored.name().to_owned(), 1));
            }
            // Expected while a namespace goes away; an event is advice, not state.
            Err(e) => tracing::debug!(error = %base::chain(&e), "failed to record an event"),
        }
    }
}
