//! What a request leaves beside its answer: texts for `Warning:` headers, annotations for the audit log, and how long it waited for
//! others.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;

/// More warnings than fit into an answer are not kept.
const MOST: usize = 4096;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Remarks {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
    /// Those that say as much as a request's body.
    of_bodies: Mutex<BTreeMap<String, String>>,
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
        self.annotations.lock().entry(format!("{prefix}{key}")).or_insert_with(|| value.to_owned());
    }

    /// As [`Self::annotate`], where the audit log is told the bodies of requests (`AddAnnotationWithLevel`).
    pub fn annotate_body(&self, prefix: &str, key: &str, value: String) {
        self.of_bodies.lock().entry(format!("{prefix}{key}")).or_insert(value);
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
    pub(crate) fn take_annotations(&self, bodies: bool) -> BTreeMap<String, String> {
        let mut all = std::mem::take(&mut *self.annotations.lock());
        if bodies {
            all.extend(std::mem::take(&mut *self.of_bodies.lock()));
        }
        all
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}
