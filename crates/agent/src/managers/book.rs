//! [`Book`]: what containers have for themselves, in memory and in a file of upstream's shape (`cpu_manager_state`,
//! `memory_manager_state`). Differs: no checksum.

use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;

/// By pod and container.
type Entries<T> = BTreeMap<String, BTreeMap<String, T>>;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State<T> {
    policy_name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_cpu_set: Option<String>,
    #[serde(default = "Entries::new")]
    entries: Entries<T>,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Book<T> {
    file: PathBuf,
    entries: Entries<T>,
}

impl<T> Default for Book<T> {
    fn default() -> Self {
        Book { file: PathBuf::new(), entries: Entries::new() }
    }
}

impl<T: Serialize + DeserializeOwned> Book<T> {
    /// As an earlier run left it.
    pub(super) fn open(file: PathBuf) -> Result<Self, String> {
        let read = |text: Vec<u8>| serde_json::from_slice::<State<T>>(&text).map_err(io::Error::from);
        let entries = match std::fs::read(&file).and_then(read) {
            Ok(state) => state.entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Entries::new(),
            Err(e) => return Err(format!("failed to read {}: {e}", file.display())),
        };
        Ok(Book { file, entries })
    }

    /// What a container has.
    pub(super) fn get(&self, pod: &str, container: &str) -> Option<&T> {
        self.entries.get(pod)?.get(container)
    }

    /// What a container has.
    pub(super) fn get_mut(&mut self, pod: &str, container: &str) -> Option<&mut T> {
        self.entries.get_mut(pod)?.get_mut(container)
    }

    /// A container has this now.
    pub(super) fn put(&mut self, pod: &Pod, container: &Container, what: T) {
        self.entries.entry(pod.uid().to_owned()).or_default().insert(container.name.clone(), what);
    }

    /// What all containers have.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.entries.values().flat_map(BTreeMap::values)
    }

    /// Only these pods have something. Whether others had.
    pub(super) fn retain(&mut self, pods: impl Fn(&str) -> bool) -> bool {
        let before = self.entries.len();
        self.entries.retain(|pod, _| pods(pod));
        self.entries.len() != before
    }

    /// Writes the file.
    pub(super) fn save(&self, policy: &str, default_cpu_set: Option<String>)
    where
        T: Clone,
    {
        let state = State { policy_name: policy.to_owned(), default_cpu_set, entries: self.entries.clone() };
        let written = serde_json::to_vec(&state).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| base::files::replace(&self.file, &text)) {
            tracing::error!(file = %self.file.display(), %error, "failed to save which container has what for itself");
        }
    }
}
