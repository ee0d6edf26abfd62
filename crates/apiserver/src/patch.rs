//! PATCH as a [`Change`]: JSON, merge and strategic patches of the current object, and server-side apply
//! (`apiserver/pkg/endpoints/handlers/patch.go`).

use crate::codec::{self, Expected};
use crate::options::{FieldValidation, WriteOptions};
use crate::reader::KindRef;
use crate::status;
use crate::write::{Change, Existing, Wanted};
use api::Status;
use jiff::Timestamp;
use machinery::patch::{Patch, PatchType};
use machinery::schema::{self, Schema, TypeId};
use parking_lot::Mutex;
use serde_json::Value;

const TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

/// A patch on its way to an object.
pub(crate) struct PatchChange {
    how: How,
    kind: KindRef,
    validation: FieldValidation,
    warnings: Mutex<Vec<String>>,
}

enum How {
    Patch(Patch),
}

impl PatchChange {
    pub(crate) fn parse(
        media_type: &str,
        body: &[u8],
        kind: &KindRef,
        _subresource: &str,
        options: &WriteOptions,
        _manager: &str,
        _now: Timestamp,
    ) -> Result<Self, Status> {
        options.check_patch(media_type == "application/apply-patch+yaml")?;
        let how = match PatchType::from_media_type(media_type) {
            Some(ty) => How::Patch(Patch::parse(ty, body).map_err(|e| e.to_status())?),
            None => return Err(status::unsupported_media_type(TYPES)),
        };
        Ok(PatchChange {
            how,
            kind: kind.clone(),
            validation: options.field_validation,
            warnings: Mutex::new(Vec::new()),
        })
    }

    /// What there was to warn of, of the last try.
    pub(crate) fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }
}

impl Change for PatchChange {
    fn wanted(&self, existing: Option<&Existing<'_>>) -> Result<Wanted, Status> {
        let Some(existing) = existing else {
            return Err(status::internal("a patch needs an object"));
        };
        match &self.how {
            How::Patch(patch) => {
                let current: Value = serde_json::from_slice(existing.bytes).map_err(status::internal)?;
                let patched = patch.apply(schema_of(&self.kind), &current).map_err(|e| e.to_status())?;
                let json = serde_json::to_vec(&patched).map_err(status::internal)?;
                let mut warnings = Vec::new();
                let object = codec::decode(&*self.kind, &json, self.validation, &mut warnings)?;
                *self.warnings.lock() = warnings;
                Ok(Wanted { object, owns_fields: false, uid: None })
            }
        }
    }
}

/// The schema of a kind, if it has one.
pub(crate) fn schema_of(kind: &KindRef) -> Option<(&'static Schema, TypeId)> {
    let builtin = schema::builtin();
    let Expected { group, version, kind } = Expected::of(&**kind);
    Some((&builtin.schema, builtin.by_kind(group, version, kind)?))
}
