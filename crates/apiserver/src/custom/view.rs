//! Objects of custom resources in the version that is asked for, and in the one that is stored
//! (`apiextensions-apiserver/pkg/apiserver/conversion`).
//!
//! Stored bytes are handed out as they are if this version's schema would make them so anyway, which is found out once per stored
//! version and kind; otherwise the converted form is kept beside them.

use super::Custom;
use crate::api_server::ApiServer;
use crate::encode::Bare;
use crate::managed::{NO_OWNERS, Owners};
use crate::reader::{Header, KindRef, Stored};
use crate::webhook_client::{ClientConfig, Target};
use crate::{encode, status};
use api::{AnyObject, Status, Unstructured};
use bytes::Bytes;
use machinery::custom::{CustomKind, convert};
use machinery::kinds::Kind;
use serde_json::Value;
use std::sync::{Arc, OnceLock};
use store::Entry;

/// Entries as `kind` shows them, in order.
pub(crate) async fn entries(
    server: &ApiServer,
    kind: &KindRef,
    mut list: Vec<Arc<Entry>>,
) -> Result<Vec<Arc<Entry>>, Status> {
    let KindRef::Custom(custom) = kind else { return Ok(list) };
    let mut asked: Vec<(usize, Value)> = Vec::new();
    for (i, entry) in list.iter_mut().enumerate() {
        match seen(custom, entry)? {
            Seen::Same => {}
            Seen::Other(other) => *entry = other,
            Seen::Ask(value) => asked.push((i, value)),
        }
    }
    if asked.is_empty() {
        return Ok(list);
    }
    let (places, objects): (Vec<usize>, Vec<Value>) = asked.into_iter().unzip();
    let converted = by_webhook(server, custom, &custom.kind, objects).await?;
    for (place, value) in places.into_iter().zip(converted) {
        let object = custom.kind.adopt(value).map_err(status::internal)?;
        list[place] = keep(custom, &list[place], &object);
    }
    Ok(list)
}

/// One entry as `kind` shows it.
pub(crate) async fn stored(server: &ApiServer, kind: &KindRef, stored: Stored) -> Result<Stored, Status> {
    let mut list = entries(server, kind, vec![stored.entry]).await?;
    let entry = list.pop().ok_or_else(|| status::internal("a conversion lost its object"))?;
    Ok(Stored { entry })
}

enum Seen {
    /// As it is stored.
    Same,
    Other(Arc<Entry>),
    /// A webhook has to say.
    Ask(Value),
}

fn seen(custom: &Custom, entry: &Arc<Entry>) -> Result<Seen, Status> {
    let header = Stored { entry: entry.clone() }.header();
    let id = custom.kind.revision();
    if header.is_in_form_of(id) {
        return Ok(Seen::Same);
    }
    if let Some(view) = header.view(id) {
        return Ok(Seen::Other(view));
    }
    let value: Value = serde_json::from_slice(&entry.value).map_err(status::internal)?;
    let own = value["apiVersion"].as_str() == Some(custom.kind.info().api_version().as_str());
    if !own && custom.definition.has_webhook() {
        return Ok(Seen::Ask(value));
    }
    let object = custom.kind.adopt(value).map_err(status::internal)?;
    if own && object.encode() == entry.value {
        header.set_form(id);
        return Ok(Seen::Same);
    }
    Ok(Seen::Other(keep(custom, entry, &object)))
}

/// The same entry with other bytes, remembered beside the original.
fn keep(custom: &Custom, entry: &Arc<Entry>, object: &Unstructured) -> Arc<Entry> {
    let derived = OnceLock::new();
    let id = custom.kind.revision();
    let header = Header::of(object, &*custom.kind);
    header.set_form(id);
    let header: Arc<dyn std::any::Any + Send + Sync> = Arc::new(header);
    derived.get_or_init(|| header);
    let view = Arc::new(Entry {
        key: entry.key.clone(),
        value: Bytes::from(object.encode()),
        created: entry.created,
        modified: entry.modified,
        derived,
    });
    Stored { entry: entry.clone() }.header().set_view(id, view.clone());
    view
}

/// An object in the form in which it is stored, with its owners and its header.
pub(crate) async fn to_stored(
    server: &ApiServer,
    kind: &KindRef,
    object: &mut dyn AnyObject,
    owners: &Owners,
) -> Result<store::Value, Status> {
    let bare = Bare::of(&**kind, object)?;
    bare_to_stored(server, kind, object, bare, owners).await
}

/// [`to_stored`] of an object that is encoded already.
pub(crate) async fn bare_to_stored(
    server: &ApiServer,
    kind: &KindRef,
    object: &dyn AnyObject,
    bare: Bare,
    owners: &Owners,
) -> Result<store::Value, Status> {
    let own = |bare: Bare| {
        let mut value = bare.with(owners);
        let header = Header::of(object, &**kind);
        header.set_form(kind.revision());
        value.derived = Some(Arc::new(header));
        Ok(value)
    };
    let KindRef::Custom(custom) = kind else { return own(bare) };
    let Some(storage) = custom.definition.storage().filter(|s| s.revision() != custom.kind.revision()) else {
        return own(bare);
    };
    let mut value: Value = serde_json::from_slice(&encode::whole(&**kind, object, owners)).map_err(status::internal)?;
    if custom.definition.has_webhook() {
        let mut converted = by_webhook(server, custom, storage, vec![value]).await?;
        value = converted.pop().ok_or_else(|| status::internal("a conversion lost its object"))?;
    }
    let mut stored = storage.rename(value).map_err(status::internal)?;
    let mut value = encode::to_value(&**storage, &mut stored, &NO_OWNERS)?;
    value.derived = Some(Arc::new(Header::of(&stored, &**storage)));
    Ok(value)
}

/// An object of another version, as JSON, in the version of `to`.
pub(crate) async fn converted(server: &ApiServer, to: &Custom, value: Value) -> Result<Value, Status> {
    if !to.definition.has_webhook() {
        return Ok(to.kind.adopt(value).map_err(status::internal)?.to_value());
    }
    let mut converted = by_webhook(server, to, &to.kind, vec![value]).await?;
    converted.pop().ok_or_else(|| status::internal("a conversion lost its object"))
}

/// Asks the definition's webhook for objects in the version of `to`.
async fn by_webhook(
    server: &ApiServer,
    custom: &Custom,
    to: &CustomKind,
    objects: Vec<Value>,
) -> Result<Vec<Value>, Status> {
    let info = to.info();
    let from = objects.first().and_then(|o| o["apiVersion"].as_str()).unwrap_or_default().to_owned();
    let failed = |why: String| status::internal(format!("conversion webhook for {from}, Kind={} {why}", info.kind));
    let definition = &custom.definition;
    let version = convert::review_version(definition);
    let version = version.ok_or_else(|| status::internal("no supported conversion review versions"))?;
    let config = client_config(custom)
        .ok_or_else(|| failed("failed: webhook configuration must have either service or URL".into()))?;
    let uid = server.inner.deps.random.uuid();
    let review = convert::request(version, &uid, &info.api_version(), &objects);
    let answer = server.inner.webhooks.post(&config, None, review.to_string().into(), None).await;
    let answer = answer.map_err(|error| failed(format!("failed: {error}")))?;
    convert::answer(version, &uid, to, &objects, &answer).map_err(failed)
}

fn client_config(custom: &Custom) -> Option<ClientConfig> {
    let client = custom.definition.conversion.webhook.as_ref()?.client_config.as_ref()?;
    let target = match (&client.url, &client.service) {
        (Some(url), _) => Target::Url(url.clone()),
        (None, Some(service)) => Target::Service {
            namespace: service.namespace.clone(),
            name: service.name.clone(),
            path: service.path.clone().unwrap_or_default(),
            port: service.port.and_then(|p| u16::try_from(p).ok()).unwrap_or(0),
        },
        (None, None) => return None,
    };
    let ca_bundle = client.ca_bundle.as_ref().map(|b| b.0.clone()).unwrap_or_default();
    Some(ClientConfig { target, ca_bundle, credentials: Default::default(), reach: Default::default() })
}
