//! What a request leaves beside its answer: texts for `Warning:` headers, and annotations for the audit log.

use parking_lot::Mutex;
use std::collections::BTreeMap;

/// See the file's head.
#[derive(Debug, Default)]
pub struct Remarks {
    warnings: Mutex<Vec<String>>,
    annotations: Mutex<BTreeMap<String, String>>,
}

impl Remarks {
    /// Warns of these, each once.
    pub fn add(&self, texts: impl IntoIterator<Item = String>) {
        let mut list = self.warnings.lock();
        for text in texts {
            if !list.contains(&text) {
                list.push(text);
            }
        }
    }

    /// Notes `PREFIXkey=value` for the audit log; what was noted first stays.
    pub fn annotate(&self, prefix: &str, key: &str, value: &str) {
        self.annotations.lock().entry(format!("{prefix}{key}")).or_insert_with(|| value.to_owned());
    }

    pub(crate) fn take_annotations(&self) -> BTreeMap<String, String> {
        std::mem::take(&mut self.annotations.lock())
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}
