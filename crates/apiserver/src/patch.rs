//! PATCH as a [`Change`]: JSON, merge and strategic patches of the current object, and server-side apply
//! (`apiserver/pkg/endpoints/handlers/patch.go`).

use crate::codec::{self, Expected};
use crate::managed::{self, Manager, Owners, Wish};
use crate::options::FieldValidation;
use crate::pipeline::check_names;
use crate::reader::KindRef;
use crate::status;
use crate::write::{Change, Existing, Wanted, Write};
use api::Status;
use jiff::Timestamp;
use machinery::apply;
use machinery::field::{FieldError, Path};
use machinery::patch::{Patch, PatchType, Patched};
use machinery::schema::check::strict_error;
use machinery::schema::{self, Schema, TypeId, yaml};
use parking_lot::Mutex;
use serde_json::Value;

const APPLY: &str = "application/apply-patch+yaml";

/// Custom resources have no Go struct whose tags would say how to merge.
const CUSTOM_TYPES: &str = "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml";

/// A patch on its way to an object.
pub(crate) struct PatchChange {
    how: How,
    kind: KindRef,
    /// Of the URL.
    namespace: String,
    name: String,
    validation: FieldValidation,
    warnings: Mutex<Vec<String>>,
}

/// What a PATCH body says, for any object.
pub(crate) enum How {
    /// A change of what there is.
    Patch(Patch),
    /// A configuration that its manager wants to hold.
    Apply {
        config: Value,
        force: bool,
        manager: String,
        subresource: String,
        namespace: String,
        name: String,
        now: Timestamp,
    },
}

impl How {
    /// From a media type and a body.
    pub(crate) fn parse(media_type: &str, body: &[u8], w: &Write<'_>, manager: Manager<'_>) -> Result<Self, Status> {
        w.options.check_patch(media_type == APPLY)?;
        if media_type == APPLY {
            let config = apply::parse_config(body).map_err(|e| e.to_status())?;
            match w.options.field_validation {
                FieldValidation::Strict if !config.problems.is_empty() => {
                    let why = format!("error strict decoding YAML: {}", config.problems.join(", "));
                    return Err(status::bad_request(why));
                }
                FieldValidation::Ignore => {}
                _ => w.warnings.add(yaml::warnings(config.problems)),
            }
            return Ok(How::Apply {
                config: config.value,
                force: w.options.force == Some(true),
                manager: manager.name.to_owned(),
                subresource: manager.subresource.to_owned(),
                namespace: w.namespace.to_owned(),
                name: w.name.to_owned(),
                now: manager.now,
            });
        }
        let is_custom = matches!(w.kind, KindRef::Custom(_));
        match PatchType::from_media_type(media_type) {
            Some(PatchType::Strategic) | None if is_custom => Err(status::unsupported_media_type(CUSTOM_TYPES)),
            Some(ty) => Ok(How::Patch(Patch::parse(ty, body).map_err(|e| e.to_status())?)),
            None => Err(status::restful(415, "UnsupportedMediaType", "Unsupported Media Type")),
        }
    }
}

impl PatchChange {
    pub(crate) fn parse(media_type: &str, body: &[u8], w: &Write<'_>, manager: Manager<'_>) -> Result<Self, Status> {
        let how = How::parse(media_type, body, w, manager)?;
        let validation = w.options.field_validation;
        Ok(PatchChange {
            how,
            kind: w.kind.clone(),
            namespace: if w.kind.info().namespaced { w.namespace.to_owned() } else { String::new() },
            name: w.name.to_owned(),
            validation,
            warnings: Mutex::new(Vec::new()),
        })
    }

    /// A configuration that a part of this server holds whatever others say.
    pub(crate) fn apply(w: &Write<'_>, config: Value, manager: Manager<'_>) -> Self {
        let how = How::Apply {
            config,
            force: true,
            manager: manager.name.to_owned(),
            subresource: manager.subresource.to_owned(),
            namespace: w.namespace.to_owned(),
            name: w.name.to_owned(),
            now: manager.now,
        };
        PatchChange {
            how,
            kind: w.kind.clone(),
            namespace: w.namespace.to_owned(),
            name: w.name.to_owned(),
            validation: FieldValidation::Ignore,
            warnings: Mutex::default(),
        }
    }

    fn decode(&self, patch: &Patch, patched: &Patched) -> Result<codec::Read, Status> {
        let read = codec::read_patched(&self.kind, patched);
        let schema = self.kind.schema().map(|s| (s.schema, s.ty));
        let (read, warnings) = judged(patch, schema, &patched.text, read, self.validation)?;
        *self.warnings.lock() = warnings;
        check_names(&*read.object, &self.namespace, &self.name)?;
        Ok(read)
    }
}

/// What was read of what a patch made, and what there is to warn of. What could not be read is the patch's fault, and so is what a
/// strict server complains about.
pub(crate) fn judged<T>(
    patch: &Patch,
    schema: Option<(&Schema, TypeId)>,
    patched: &[u8],
    read: Result<(T, Vec<String>), Status>,
    validation: FieldValidation,
) -> Result<(T, Vec<String>), Status> {
    let refuse = |text: String, why: &str| {
        let error = FieldError::invalid(&Path::new("patch"), text, why);
        status::invalid("", "", "", &vec![error])
    };
    let blame = || patch.to_blame(schema, patched);
    let (object, found) = read.map_err(|status| {
        let (text, why) = blame();
        refuse(text, &why.unwrap_or(status.message))
    })?;
    let problems = [patch.problems(), &found].concat();
    match validation {
        FieldValidation::Strict if !problems.is_empty() => Err(refuse(blame().0, &strict_error(&problems))),
        FieldValidation::Warn => Ok((object, problems)),
        FieldValidation::Strict | FieldValidation::Ignore => Ok((object, Vec::new())),
    }
}

impl Change for PatchChange {
    fn verb(&self) -> &'static str {
        "patch"
    }

    fn wanted(&self, existing: Option<&Existing<'_>>) -> Result<Wanted, Status> {
        match &self.how {
            How::Patch(patch) => {
                let existing = existing.ok_or_else(|| status::not_found(self.kind.info(), &self.name))?;
                let whole = patch.touches_owners().then(|| managed::doc(existing.whole)).transpose()?;
                let current = whole.as_ref().unwrap_or(existing.bare);
                let schema = self.kind.schema().map(|s| (s.schema, s.ty));
                let patched = patch.apply_text(schema, current).map_err(|e| e.to_status())?;
                let codec::Read { mut object, sent } = self.decode(patch, &patched)?;
                let given = Owners::take(object.meta_mut());
                let owners = if patch.touches_owners() { Wish::Given(given) } else { Wish::Unchanged };
                Ok(Wanted { object, owners, uid: None, sent })
            }
            How::Apply { config, force, manager, subresource, namespace, name, now } => {
                let parse = |e: &Existing<'_>| serde_json::from_slice::<Value>(e.whole).map_err(status::internal);
                let current = existing.map(parse).transpose()?;
                check_namespace(config, namespace)?;
                let by = Manager { name: manager, subresource, now: *now };
                let run = |ctx: &apply::Context<'_>| apply::apply(ctx, current.as_ref(), config, *force);
                let applied = managed::with_context(&self.kind, by, run)
                    .ok_or_else(|| status::unsupported("server-side apply without a schema"))?
                    .map_err(|e| e.to_status())?;
                let applied = serde_json::to_vec(&applied).map_err(status::internal)?;
                let codec::Read { mut object, sent } = codec::read(&*self.kind, &applied)?.0;
                // A configuration without a name takes the one of the object there is.
                check_names(&*object, namespace, name)?;
                let owners = Wish::Decided(Owners::take(object.meta_mut()));
                // An object that is made anew expects nothing of an old one.
                let uid = current.is_none().then(|| object.meta().uid.clone().filter(|u| !u.is_empty())).flatten();
                Ok(Wanted { object, owners, uid, sent })
            }
        }
    }

    fn take_warnings(&self) -> Vec<String> {
        std::mem::take(&mut self.warnings.lock())
    }

    fn may_create(&self) -> bool {
        matches!(self.how, How::Apply { .. })
    }
}

/// `EnsureObjectNamespaceMatchesRequestNamespace`
fn check_namespace(config: &Value, namespace: &str) -> Result<(), Status> {
    let given = config["metadata"]["namespace"].as_str().unwrap_or_default();
    if given.is_empty() || namespace.is_empty() || given == namespace {
        return Ok(());
    }
    Err(status::other_namespace())
}

/// The schema of a body, if it has one.
pub(crate) fn schema_for(expected: Expected<'_>) -> Option<(&'static Schema, TypeId)> {
    let builtin = schema::builtin();
    let Expected { group, version, kind } = expected;
    Some((&builtin.schema, builtin.by_kind(group, version, kind)?))
}
