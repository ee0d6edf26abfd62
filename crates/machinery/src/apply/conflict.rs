//! What apply answers when it does not merge. Follows `managedfields/internal/conflict.go`.

use super::managers::{ManagerId, Operation};
use super::path::{PathElement, show_path};
use super::set::FieldSet;
use super::typed::TypeErrors;
use api::Status;
use api::status::{StatusCause, StatusDetails};
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// Why a configuration was not applied.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ApplyError {
    /// 409: others own fields that the configuration sets to something else.
    #[error(transparent)]
    Conflict(#[from] Conflicts),
    /// 400: not something that can be applied here.
    #[error("{0}")]
    BadRequest(String),
    /// The configuration does not fit the type. Upstream answers 500.
    #[error("failed to create typed patch object ({object}): {source}")]
    Typed {
        /// `namespace/name; group/version, Kind=kind`.
        object: String,
        /// All mistakes.
        #[source]
        source: TypeErrors,
    },
    /// The live object or its managedFields are not what they should be. Upstream answers 500.
    #[error("{0}")]
    Live(String),
}

impl ApplyError {
    /// The answer.
    pub fn to_status(&self) -> Status {
        match self {
            ApplyError::Conflict(conflicts) => conflicts.to_status(),
            ApplyError::BadRequest(text) => Status::failure(400, "BadRequest", text),
            ApplyError::Typed { .. } | ApplyError::Live(_) => Status::failure(500, "", self.to_string()),
        }
    }
}

/// Fields that others own, sorted by manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflicts(pub(super) Vec<(ManagerId, Vec<PathElement>)>);

impl std::error::Error for Conflicts {}

impl Conflicts {
    pub(super) fn of(sets: BTreeMap<ManagerId, FieldSet>) -> Self {
        let paths = |(id, set): (ManagerId, FieldSet)| set.paths().into_iter().map(move |p| (id.clone(), p));
        let mut all: Vec<_> = sets.into_iter().flat_map(paths).collect();
        // Upstream sorts by the identity's JSON, in which a subresource sorts before the closing brace.
        let key =
            |id: &ManagerId| (id.manager.clone(), id.operation, id.api_version.clone(), id.subresource.is_empty());
        all.sort_by_key(|(id, _)| key(id));
        Conflicts(all)
    }

    /// Without those about paths in `allowed`; `None` if nothing is left.
    pub(super) fn without(&self, allowed: &FieldSet) -> Option<Conflicts> {
        let left: Vec<_> = self.0.iter().filter(|(_, path)| !allowed.has(path)).cloned().collect();
        (!left.is_empty()).then_some(Conflicts(left))
    }

    fn to_status(&self) -> Status {
        let cause = |(id, path): &(ManagerId, Vec<PathElement>)| StatusCause {
            reason: "FieldManagerConflict".to_owned(),
            message: format!("conflict with {}", show_manager(id)),
            field: show_path(path),
        };
        let causes = self.0.iter().map(cause).collect();
        Status::failure(409, "Conflict", self.to_string()).with_details(StatusDetails { causes, ..Default::default() })
    }
}

impl fmt::Display for Conflicts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [(id, path)] = self.0.as_slice() {
            let (id, path) = (show_manager(id), show_path(path));
            return write!(f, "Apply failed with 1 conflict: conflict with {id}: {path}");
        }
        write!(f, "Apply failed with {} conflicts: ", self.0.len())?;
        let mut last: Option<&ManagerId> = None;
        for (id, path) in &self.0 {
            let line = if last.is_some() { "\n" } else { "" };
            if last != Some(id) {
                write!(f, "{line}conflicts with {}:", show_manager(id))?;
                last = Some(id);
            }
            write!(f, "\n- {}", show_path(path))?;
        }
        Ok(())
    }
}

fn show_manager(id: &ManagerId) -> String {
    let mut text = format!("{:?}", id.manager);
    if !id.subresource.is_empty() {
        text = format!("{text} with subresource {:?}", id.subresource);
    }
    if id.operation == Operation::Update {
        text = format!("{text} using {}", id.api_version);
    }
    text
}
