//! Options of requests.

/// What to list or watch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListParams {
    /// One namespace, or all.
    pub namespace: Option<String>,
    /// `labelSelector`
    pub label_selector: Option<String>,
    /// `fieldSelector`
    pub field_selector: Option<String>,
}

impl ListParams {
    /// Everything.
    pub fn all() -> Self {
        Self::default()
    }
    /// Narrows to one namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }
    /// Narrows by labels.
    #[must_use]
    pub fn labels(mut self, selector: &str) -> Self {
        self.label_selector = Some(selector.to_owned());
        self
    }
    /// Narrows by fields.
    #[must_use]
    pub fn fields(mut self, selector: &str) -> Self {
        self.field_selector = Some(selector.to_owned());
        self
    }
}

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Dependents lose their owner reference.
    Orphan,
    /// Dependents are collected afterwards.
    Background,
    /// Dependents are collected first.
    Foreground,
}

/// Options of a delete.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeleteParams {
    /// Seconds; `None` = the object's own.
    pub grace_period_seconds: Option<i64>,
    /// Only if the object still has this UID.
    pub uid: Option<String>,
    /// Only if the object still has this resourceVersion.
    pub resource_version: Option<String>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
}

impl DeleteParams {
    /// Only the object with this UID.
    pub fn uid(uid: &str) -> Self {
        DeleteParams { uid: Some(uid.to_owned()), ..Self::default() }
    }
}

/// A change to an object.
#[derive(Debug, Clone)]
pub enum Patch {
    /// RFC 7386.
    Merge(serde_json::Value),
    /// Kubernetes' own, which knows list keys.
    Strategic(serde_json::Value),
    /// RFC 6902.
    Json(serde_json::Value),
    /// Server-side apply; `force` takes over conflicting fields.
    Apply {
        /// The applied configuration.
        config: serde_json::Value,
        /// Take over fields of other managers.
        force: bool,
    },
}

impl Patch {
    pub(crate) fn content_type(&self) -> &'static str {
        match self {
            Patch::Merge(_) => "application/merge-patch+json",
            Patch::Strategic(_) => "application/strategic-merge-patch+json",
            Patch::Json(_) => "application/json-patch+json",
            Patch::Apply { .. } => "application/apply-patch+yaml",
        }
    }
    pub(crate) fn body(&self) -> Vec<u8> {
        match self {
            Patch::Merge(v) | Patch::Strategic(v) | Patch::Json(v) | Patch::Apply { config: v, .. } => {
                v.to_string().into_bytes()
            }
        }
    }
}
