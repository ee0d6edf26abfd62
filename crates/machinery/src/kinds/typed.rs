//! [`Typed`]: a [`Strategy`] as the [`Kind`] the pipeline sees. What all kinds share stands here once: decoding with
//! canonical quantities, metadata rules before and after (`apiserver/pkg/registry/rest/{create,update}.go`).

use super::column_texts::described;
use super::pod::gated;
use super::{Column, GenerateName, Kind, KindInfo, Strategy, metadata, table};
use crate::field::Errors;
use crate::schema::{TypeId, builtin, shown, shown_before_storage};
use api::any::{downcast_mut, downcast_ref};
use api::{AnyObject, DecodeError, Object};
use serde_json::Value;
use std::borrow::Cow;
use std::marker::PhantomData;
use std::sync::OnceLock;

/// A [`Strategy`] as a [`Kind`].
pub struct Typed<S: Strategy> {
    info: KindInfo,
    /// Made when they are asked for: most kinds are never shown as tables.
    columns: OnceLock<Vec<Column>>,
    selectable: Vec<Cow<'static, str>>,
    strategy: PhantomData<fn() -> S>,
}

impl<S: Strategy> Typed<S> {
    /// The kind, with its facts from the table of served resources.
    pub fn new() -> Self {
        Typed {
            info: info_of::<S::Object>(),
            columns: OnceLock::new(),
            selectable: S::SELECTABLE.iter().map(|name| Cow::Borrowed(*name)).collect(),
            strategy: PhantomData,
        }
    }
}

impl<S: Strategy> Default for Typed<S> {
    fn default() -> Self {
        Self::new()
    }
}

/// Facts of a kind. A kind that no discovery document lists is not served; the walk in `tests` finds it.
fn info_of<K: Object>() -> KindInfo {
    table::info(K::GROUP, K::VERSION, K::KIND).expect("every listed kind is in the table of served resources")
}

/// The typed object. The pipeline hands a kind only what that kind decoded, so another type is our own mistake.
fn typed<K: Object>(object: &dyn AnyObject) -> &K {
    downcast_ref(object).expect("a kind is given only objects that it decoded itself")
}

fn typed_mut<K: Object>(object: &mut dyn AnyObject) -> &mut K {
    downcast_mut(object).expect("a kind is given only objects that it decoded itself")
}

/// Drops from pods what is not served, unless it was there before.
fn drop_gated<S: Strategy>(new: &mut S::Object, old: &S::Object) {
    let Some(pods) = S::pod_spec(new) else { return };
    if gated::uses(pods) == gated::Uses::default() {
        return;
    }
    let kept = S::pod_spec(&mut old.clone()).map(gated::uses).unwrap_or_default();
    gated::drop_all_but(kept, pods);
}

fn encode_with<S: Strategy>(shown: fn(TypeId, &[u8]) -> Vec<u8>, object: &dyn AnyObject) -> Vec<u8> {
    let ty = || builtin().by_kind(S::Object::GROUP, S::Object::VERSION, S::Object::KIND);
    match downcast_ref::<S::Object>(object).and_then(|_| ty()) {
        Some(ty) => shown(ty, &object.encode()),
        None => object.encode(),
    }
}

impl<S: Strategy> Kind for Typed<S> {
    fn info(&self) -> &KindInfo {
        &self.info
    }

    fn decode(&self, bytes: &[u8]) -> Result<Box<dyn AnyObject>, DecodeError> {
        let mut object: S::Object = api::Codec::decode(bytes)?;
        let mut bad = None;
        S::quantities(&mut object, &mut |quantity| match crate::quantity::canonical(&quantity.0) {
            // Ours is empty where a quantity that must be there is not; Go's is zero.
            _ if quantity.0.is_empty() => "0".clone_into(&mut quantity.0),
            Ok(canonical) => quantity.0 = canonical,
            Err(error) => bad = bad.take().or(Some(error)),
        });
        match bad {
            None => Ok(Box::new(object)),
            Some(error) => Err(DecodeError { kind: S::Object::KIND, source: serde::de::Error::custom(error) }),
        }
    }

    fn convert(&self, other: &dyn AnyObject) -> Option<Box<dyn AnyObject>> {
        S::convert(other).map(|object| Box::new(object) as Box<dyn AnyObject>)
    }

    fn encode(&self, object: &dyn AnyObject) -> Vec<u8> {
        encode_with::<S>(shown, object)
    }

    fn encode_owned(&self, object: &dyn AnyObject) -> Vec<u8> {
        encode_with::<S>(shown_before_storage, object)
    }

    fn default(&self, object: &mut dyn AnyObject) {
        S::default(typed_mut(object));
    }

    fn prepare_create(&self, object: &mut dyn AnyObject) {
        let meta = object.meta_mut();
        meta.deletion_timestamp = None;
        meta.deletion_grace_period_seconds = None;
        if let Some(pods) = S::pod_spec(typed_mut(object)) {
            gated::drop_all_but(gated::Uses::default(), pods);
        }
        S::prepare_create(typed_mut(object));
    }

    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, subresource: Option<&str>) {
        metadata::before_prepare_update(new.meta_mut(), old.meta());
        {
            let (new, old) = (typed_mut(new), typed(old));
            drop_gated::<S>(new, old);
            match subresource {
                None => S::prepare_update(new, old),
                Some("status") => S::prepare_status_update(new, old),
                Some(other) => S::prepare_subresource_update(other, new, old),
            }
        }
        metadata::after_prepare_update(new.meta_mut(), old.meta(), S::ALLOW_UNCONDITIONAL_UPDATE);
    }

    fn validate_create(&self, object: &dyn AnyObject) -> Errors {
        let mut errors = Vec::new();
        if S::GENERATE_NAME != GenerateName::Never {
            errors.extend(metadata::validate_generate_name(object.meta(), S::validate_name));
        }
        errors.extend(metadata::validate(object.meta(), S::Object::NAMESPACED, S::validate_name));
        if S::CHECKS_FINALIZERS {
            errors.extend(metadata::validate_own_finalizers(object.meta()));
        }
        errors.extend(S::validate(typed(object)));
        errors.extend(S::validate_create(typed(object)));
        errors
    }

    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, subresource: Option<&str>) -> Errors {
        let mut errors = metadata::validate_update(new.meta(), old.meta());
        if S::CHECKS_FINALIZERS {
            errors.extend(metadata::validate_own_finalizers(new.meta()));
        }
        if subresource.is_none() && S::GENERATE_NAME == GenerateName::Always {
            errors.extend(metadata::validate_generate_name(new.meta(), S::validate_name));
        }
        let (new, old) = (typed(new), typed(old));
        match subresource {
            None => {
                errors.extend(S::validate(new));
                errors.extend(S::validate_update(new, old));
            }
            Some("status") => errors.extend(S::validate_status_update(new, old)),
            Some(other) => errors.extend(S::validate_subresource_update(other, new, old)),
        }
        errors
    }

    fn warnings(&self, object: &dyn AnyObject, old: Option<&dyn AnyObject>) -> Vec<String> {
        S::warnings(typed(object), old.map(typed))
    }

    fn allow_create_on_update(&self) -> bool {
        S::ALLOW_CREATE_ON_UPDATE
    }

    fn allow_unconditional_update(&self) -> bool {
        S::ALLOW_UNCONDITIONAL_UPDATE
    }

    fn graceful_period(&self, object: &dyn AnyObject, asked: Option<i64>) -> Option<i64> {
        S::graceful_period(typed(object), asked)
    }

    fn selectable_fields(&self, object: &dyn AnyObject) -> Vec<(Cow<'static, str>, String)> {
        S::selectable_fields(typed(object)).into_iter().map(|(name, value)| (name.into(), value)).collect()
    }

    fn selectable_field_names(&self) -> &[Cow<'static, str>] {
        &self.selectable
    }

    fn columns(&self) -> &[Column] {
        self.columns.get_or_init(|| described(S::columns(), &self.info))
    }

    fn cells(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value> {
        S::cells(typed(object), now)
    }
}
