//! Reading stored objects: keys, headers, typed views. Shared by the pipeline, admission and authorization.
//!
//! A stored object is its final JSON (DESIGN D1). What everybody asks for sits beside it in [`Header`], made by the writer or
//! at first use; the typed object is decoded only by those who need it.

use crate::custom::Custom;
use api::{AnyObject, DecodeError, Object};
use machinery::kinds::Kind;
use machinery::selector::Labels;
use parking_lot::Mutex;
use serde::Deserialize;
use std::any::Any;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use store::{At, Entry, Key, Page, Range, Revision, Store, StoreError};
use thiserror::Error;

/// A kind: built in, or made from a CustomResourceDefinition and gone when its last user is.
#[derive(Clone)]
pub enum KindRef {
    /// One of `machinery::kinds::all()`.
    BuiltIn(&'static dyn Kind),
    /// Made at run time.
    Custom(Arc<Custom>),
}

impl Deref for KindRef {
    type Target = dyn Kind;
    fn deref(&self) -> &(dyn Kind + 'static) {
        match self {
            KindRef::BuiltIn(kind) => *kind,
            KindRef::Custom(custom) => &*custom.kind,
        }
    }
}

impl std::fmt::Debug for KindRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.info().group_resource())
    }
}

/// What everybody asks of an object, parsed once per version.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Header {
    /// `metadata.name`
    pub name: String,
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.labels`
    pub labels: KeptLabels,
    /// `metadata.deletionTimestamp`, as text.
    pub deletion_timestamp: Option<String>,
    /// Values for field selectors, beside name and namespace; made at first use, by the kind of this [`Kind::revision`].
    #[serde(skip)]
    fields: OnceLock<(u64, Fields)>,
    /// The custom kind that would decode and encode these bytes to themselves; 0 if none is known.
    #[serde(skip)]
    form: AtomicU64,
    /// The typed object or what was made of it, if somebody asked for one to share ([`Stored::kept`]).
    #[serde(skip)]
    typed: OnceLock<Arc<dyn Any + Send + Sync>>,
    /// The object as other custom kinds show it.
    #[serde(skip)]
    views: Mutex<Vec<(u64, Arc<Entry>)>>,
}

/// Labels in two stretches of memory, however many they are: every version of every object has them, and a map takes a
/// kilobyte.
#[derive(Debug, Default, Deserialize)]
#[serde(from = "BTreeMap<String, String>")]
pub struct KeptLabels {
    /// Keys and values, in turn.
    text: Box<str>,
    /// Where each of them ends.
    ends: Box<[u32]>,
}

impl From<BTreeMap<String, String>> for KeptLabels {
    fn from(labels: BTreeMap<String, String>) -> Self {
        KeptLabels::of(&labels)
    }
}

impl KeptLabels {
    fn of(labels: &BTreeMap<String, String>) -> Self {
        let mut text = String::with_capacity(labels.iter().map(|(key, value)| key.len() + value.len()).sum());
        let ends = labels.iter().flat_map(|(key, value)| [key, value]).map(|part| {
            text.push_str(part);
            text.len() as u32
        });
        let ends = ends.collect();
        KeptLabels { text: text.into(), ends }
    }
}

impl Labels for KeptLabels {
    fn value(&self, key: &str) -> Option<&str> {
        let mut start = 0;
        let mut texts =
            self.ends.iter().map(|end| &self.text[std::mem::replace(&mut start, *end as usize)..*end as usize]);
        while let (Some(name), Some(value)) = (texts.next(), texts.next()) {
            if name == key {
                return Some(value);
            }
        }
        None
    }
}

/// Names and values of selectable fields.
type Fields = Vec<(Cow<'static, str>, String)>;

/// More versions of one object than this are converted anew each time.
const MAX_VIEWS: usize = 4;

impl Header {
    /// The header of an object that is about to be written.
    pub fn of(object: &dyn AnyObject, kind: &dyn Kind) -> Self {
        let meta = object.meta();
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let fields = OnceLock::new();
        fields.get_or_init(|| (kind.revision(), kind.selectable_fields(object)));
        Header {
            name: text(&meta.name),
            namespace: text(&meta.namespace),
            uid: text(&meta.uid),
            labels: meta.labels.as_ref().map(KeptLabels::of).unwrap_or_default(),
            deletion_timestamp: meta.deletion_timestamp.as_ref().map(|t| t.0.to_string()),
            fields,
            form: AtomicU64::new(0),
            typed: OnceLock::new(),
            views: Mutex::default(),
        }
    }

    /// Whether the custom kind with this revision shows these bytes as they are.
    pub(crate) fn is_in_form_of(&self, revision: u64) -> bool {
        self.form.load(Ordering::Relaxed) == revision
    }

    /// Notes that it does.
    pub(crate) fn set_form(&self, revision: u64) {
        self.form.store(revision, Ordering::Relaxed);
    }

    /// The object as another kind shows it, if that was made before.
    pub(crate) fn view(&self, revision: u64) -> Option<Arc<Entry>> {
        self.views.lock().iter().find(|(id, _)| *id == revision).map(|(_, entry)| entry.clone())
    }

    /// Keeps it.
    pub(crate) fn set_view(&self, revision: u64, entry: Arc<Entry>) {
        let mut views = self.views.lock();
        if views.len() >= MAX_VIEWS {
            views.remove(0);
        }
        views.push((revision, entry));
    }

    fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        struct Whole {
            metadata: Header,
        }
        serde_json::from_slice::<Whole>(bytes).map(|whole| whole.metadata)
    }
}

/// Why an object could not be read.
#[derive(Debug, Error)]
pub enum ReadError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The stored bytes are not what this kind understands.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl From<ReadError> for api::Status {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Store(error) => crate::status::from_store(error),
            ReadError::Decode(error) => crate::status::internal(error),
        }
    }
}

/// One stored object version. Cheap to clone; get, list and watch share it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Key, bytes and revisions.
    pub entry: Arc<Entry>,
}

impl Stored {
    /// Its final JSON.
    pub fn bytes(&self) -> &bytes::Bytes {
        &self.entry.value
    }

    /// `metadata.resourceVersion`
    pub fn revision(&self) -> Revision {
        self.entry.modified
    }

    /// Its header. Stored bytes were written by us; damaged ones give an empty header, which matches no selector.
    pub fn header(&self) -> Arc<Header> {
        let any = self.entry.derived.get_or_init(|| {
            Arc::new(Header::parse(&self.entry.value).unwrap_or_else(|error| {
                tracing::error!(key = %self.entry.key.0, %error, "stored object is damaged");
                Header::default()
            }))
        });
        any.clone().downcast().unwrap_or_default()
    }

    /// Runs `read` on the values for field selectors.
    pub fn with_fields<T>(&self, kind: &dyn Kind, read: impl FnOnce(&[(Cow<'static, str>, String)]) -> T) -> T {
        if crate::convert::is_foreign(kind, &self.entry.value) {
            // The names of the fields are another version's.
            let decoded = kind.decode(&crate::convert::view(kind, &self.entry.value));
            return read(&decoded.map(|object| kind.selectable_fields(&*object)).unwrap_or_default());
        }
        let header = self.header();
        let find = || match kind.decode(&self.entry.value) {
            Ok(object) => kind.selectable_fields(&*object),
            Err(error) => {
                tracing::error!(key = %self.entry.key.0, %error, "stored object is damaged");
                Vec::new()
            }
        };
        match header.fields.get_or_init(|| (kind.revision(), find())) {
            (revision, fields) if *revision == kind.revision() => read(fields),
            _ => read(&find()),
        }
    }

    /// The typed object.
    pub fn decode<K: Object>(&self) -> Result<K, DecodeError> {
        K::decode(&self.entry.value)
    }

    /// The typed object, decoded once and kept beside the bytes: for objects that are few and asked for by many requests.
    pub fn shared<K: Object>(&self) -> Result<Arc<K>, DecodeError> {
        self.kept(|object: K| object)
    }

    /// What `make` makes of the typed object, made once and kept beside the bytes. One type of things is kept for a kind.
    pub fn kept<K: Object, T: Any + Send + Sync>(&self, make: impl FnOnce(K) -> T) -> Result<Arc<T>, DecodeError> {
        let header = self.header();
        if let Some(Ok(known)) = header.typed.get().map(|any| any.clone().downcast()) {
            return Ok(known);
        }
        let made = Arc::new(make(self.decode::<K>()?));
        header.typed.get_or_init(|| made.clone());
        Ok(made)
    }
}

/// `/pods/default/web`, `/apps/deployments/default/web`, `/nodes/n1`.
pub fn key_of(storage: &str, namespace: &str, name: &str) -> Key {
    let text = match namespace {
        "" => ["/", storage, "/", name].concat(),
        namespace => ["/", storage, "/", namespace, "/", name].concat(),
    };
    Key(text.into())
}

/// All keys of a resource, or of one namespace of it.
pub fn range_of(storage: &str, namespace: &str) -> Range {
    Range { prefix: key_of(storage, namespace, "").0, after: None }
}

/// Reads of the newest state, for admission plugins, authorizers and the pipeline.
#[derive(Clone)]
pub struct Reader {
    store: Arc<dyn Store>,
}

impl Reader {
    /// Over a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Reader { store }
    }

    /// The store, for watching. Writes go through the pipeline.
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// One object of the resource stored as `storage` (`KindInfo::storage`, e.g. `apps/deployments`); `namespace` is empty for
    /// cluster-scoped ones.
    pub async fn stored(&self, storage: &str, namespace: &str, name: &str) -> Result<Option<Stored>, StoreError> {
        let read = self.store.get(&key_of(storage, namespace, name), At::Latest).await?;
        Ok(read.value.map(|entry| Stored { entry }))
    }

    /// All objects of the resource, or of one namespace (`""` = all), and the revision of that state.
    pub async fn stored_list(&self, storage: &str, namespace: &str) -> Result<(Vec<Stored>, Revision), StoreError> {
        let read = self.store.list(&range_of(storage, namespace), At::Latest, Page { limit: 0 }).await?;
        Ok((read.value.entries.into_iter().map(|entry| Stored { entry }).collect(), read.revision))
    }

    /// One typed object.
    pub async fn get<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<K>, ReadError> {
        match self.stored(&storage_of::<K>(), namespace, name).await? {
            None => Ok(None),
            Some(stored) => Ok(Some(stored.decode()?)),
        }
    }

    /// [`Reader::get`], by [`Stored::shared`].
    pub async fn shared<K: Object>(&self, namespace: &str, name: &str) -> Result<Option<Arc<K>>, ReadError> {
        match self.stored(&storage_of::<K>(), namespace, name).await? {
            None => Ok(None),
            Some(stored) => Ok(Some(stored.shared()?)),
        }
    }

    /// [`Reader::list`], by [`Stored::shared`].
    pub async fn shared_list<K: Object>(&self, namespace: &str) -> Result<Vec<Arc<K>>, ReadError> {
        let (list, _) = self.stored_list(&storage_of::<K>(), namespace).await?;
        Ok(list.iter().map(Stored::shared).collect::<Result<_, _>>()?)
    }

    /// All typed objects, or those of one namespace (`""` = all).
    pub async fn list<K: Object>(&self, namespace: &str) -> Result<Vec<K>, ReadError> {
        let (list, _) = self.stored_list(&storage_of::<K>(), namespace).await?;
        Ok(list.iter().map(Stored::decode).collect::<Result<_, _>>()?)
    }
}

/// Where objects of a built-in kind are stored: `KindInfo::storage`.
pub fn storage_of<K: Object>() -> Cow<'static, str> {
    match machinery::kinds::find(K::GROUP, K::VERSION, K::PLURAL) {
        Some(kind) => Cow::Borrowed(&kind.info().storage),
        None if K::GROUP.is_empty() => K::PLURAL.into(),
        None => format!("{}/{}", K::GROUP, K::PLURAL).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_kept_as_they_are() {
        let labels = BTreeMap::from([("a", "b"), ("app", ""), ("b", "app"), ("é", "\0")]);
        let labels: BTreeMap<String, String> = labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        let read: KeptLabels = serde_json::from_value(serde_json::json!(labels)).expect("labels");
        for kept in [KeptLabels::of(&labels), read] {
            for key in ["a", "app", "b", "é", "", "\0", "ap", "none"] {
                assert_eq!(kept.value(key), labels.get(key).map(String::as_str), "{key:?}");
            }
        }
    }
}
