//! What a request leaves beside its answer: texts for `Warning:` headers, annotations for the audit log, and how long it waited for
//! others.

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use std::time::Duration;

/// More warnings than fit into an answer are not kept.
const MOST: usize = 4096;

/// A map of texts, in order. A list, because most are of two, and those of watches live as long.
#[derive(Debug, Default)]
pub(crate) struct Annotations(Vec<(String, String)>);

impl Annotations {
    /// What was noted first stays.
    fn note(&mut self, key: String, value: impl FnOnce() -> String) {
        if let Err(at) = self.0.binary_search_by(|(other, _)| other.cmp(&key)) {
            self.0.insert(at, (key, value()));
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Annotations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(key, value)| (key, value)))
    }
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct Remarks {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<Annotations>,
    /// Those that say as much as a request's body.
    of_bodies: Mutex<Annotations>,
    waited: Mutex<Duration>,
}

impl Remarks {
    /// Warns of these, each once.
    pub fn add(&self, texts: impl IntoIterator<Item = String>) {
        let mut list = self.warnings.lock();
        for text in texts {
            if list.len() < MOST && !list.contains(&text) {
                list.push(text);
            }
        }
    }

    /// Notes `PREFIXkey=value` for the audit log; what was noted first stays.
    pub fn annotate(&self, prefix: &str, key: &str, value: &str) {
        self.annotations.lock().note(format!("{prefix}{key}"), || value.to_owned());
    }

    /// As [`Self::annotate`], where the audit log is told the bodies of requests (`AddAnnotationWithLevel`).
    pub fn annotate_body(&self, prefix: &str, key: &str, value: String) {
        self.of_bodies.lock().note(format!("{prefix}{key}"), || value);
    }

    /// The request waited for a webhook, or for its turn: time that is not this server's.
    pub(crate) fn waited(&self, time: Duration) {
        *self.waited.lock() += time;
    }

    /// How long it waited in all.
    pub(crate) fn waiting(&self) -> Duration {
        *self.waited.lock()
    }

    /// What was noted, with what tells of bodies if `bodies`.
    pub(crate) fn take_annotations(&self, bodies: bool) -> Annotations {
        let mut all = std::mem::take(&mut *self.annotations.lock());
        if bodies {
            let of_bodies = std::mem::take(&mut *self.of_bodies.lock());
            of_bodies.0.into_iter().for_each(|(key, value)| all.note(key, || value));
        }
        all
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}
