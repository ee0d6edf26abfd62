//! What controllers decide, as values: objects to write, events to record, when to look again.

use api::{AnyObject, Object, meta::MetaExt};
use async_trait::async_trait;
use client::{Cache, Client, ClientError, DeleteParams, EventKind, Patch};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

/// Names the object a controller works on. Cluster-scoped objects have an empty namespace.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
}

impl Key {
    /// The key of an object.
    pub fn of(object: &impl MetaExt) -> Self {
        Key { namespace: object.namespace().to_owned(), name: object.name().to_owned() }
    }
    /// A key from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Key { namespace: namespace.to_owned(), name: name.to_owned() }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What is to be done for one key.
#[derive(Default)]
pub struct Plan {
    /// Done in order; the first failure ends the round (the key is tried again with back-off). Neighbouring creates and
    /// deletes are sent together.
    pub writes: Vec<Write>,
    /// Recorded when the round begins, whatever becomes of the writes.
    pub events: Vec<PlannedEvent>,
    /// Look again after this time even if nothing changes.
    pub again_after: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn done() -> Self {
        Self::default()
    }
    /// Asks to be planned again after `wait`, or sooner if somebody asked for that already.
    pub fn again(&mut self, wait: Duration) {
        self.again_after = Some(self.again_after.map_or(wait, |w| w.min(wait)));
    }
}

/// One change, with what to tell about it.
pub struct Write {
    /// The change.
    pub verb: Verb,
    /// Recorded when it worked; `{name}` stands for the written object's name.
    pub on_success: Option<PlannedEvent>,
    /// Recorded when it failed; `{error}` stands for the error.
    pub on_failure: Option<PlannedEvent>,
    /// A failure of this kind counts as done.
    pub tolerate: Tolerate,
    /// What to write if it failed, from the error's text; e.g. a condition in a status. Its own failure is not told.
    pub(crate) otherwise: Option<Otherwise>,
}

/// See [`Write::otherwise`].
pub(crate) type Otherwise = Box<dyn Fn(&str) -> Option<Write> + Send + Sync>;

/// Failures that mean that the wish is already fulfilled or moot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tolerate {
    /// None.
    Nothing,
    /// It exists already (create) or is gone already (delete, patch).
    Done,
}

/// The change itself.
pub enum Verb {
    /// POST.
    Create(Box<dyn Writable>),
    /// PUT.
    Update(Box<dyn Writable>),
    /// PUT to `/status`.
    UpdateStatus(Box<dyn Writable>),
    /// PATCH; the string is the subresource.
    Patch(Target, &'static str, Patch),
    /// DELETE.
    Delete(Target, DeleteParams),
    /// More than one request.
    Run(Box<dyn Task>),
}

/// Work on kinds that are known only at run time, or whose next request needs the answer of the one before. What can be
/// decided beforehand, or from the answers, is decided by pure functions of the controller.
#[async_trait]
pub trait Task: Send + Sync {
    /// For logs and tests: `empty Namespace a`.
    fn title(&self) -> String;
    /// Does it. A failure is tried again with back-off.
    async fn run(&self, client: &Client) -> Result<Done, ClientError>;
}

/// What a task leaves to be done.
#[derive(Default)]
pub struct Done {
    /// What the caches must show before the key is planned again.
    pub seen: Vec<Seen>,
    /// Look again after this time.
    pub again_after: Option<Duration>,
}

impl Done {
    /// It must be looked at again.
    pub fn again(wait: Duration) -> Self {
        Done { again_after: Some(wait), ..Self::default() }
    }
}

impl Write {
    fn new(verb: Verb, tolerate: Tolerate) -> Self {
        Write { verb, on_success: None, on_failure: None, tolerate, otherwise: None }
    }
    /// Creates `object`; finding it there already is a failure (names are generated, or the cache was stale).
    pub fn create<K: Object>(object: K) -> Self {
        Self::new(Verb::Create(Box::new(object)), Tolerate::Nothing)
    }
    /// Creates `object` unless it exists.
    pub fn ensure<K: Object>(object: K) -> Self {
        Self::new(Verb::Create(Box::new(object)), Tolerate::Done)
    }
    /// Replaces `object`, whose resourceVersion must be the newest.
    pub fn update<K: Object>(object: K) -> Self {
        Self::new(Verb::Update(Box::new(object)), Tolerate::Nothing)
    }
    /// Replaces the status of `object`.
    pub fn status<K: Object>(object: K) -> Self {
        Self::new(Verb::UpdateStatus(Box::new(object)), Tolerate::Nothing)
    }
    /// Patches `object` or one of its subresources (`""` = itself).
    pub fn patch<K: Object>(object: &K, subresource: &'static str, patch: Patch) -> Self {
        Self::new(Verb::Patch(Target::of(object), subresource, patch), Tolerate::Done)
    }
    /// Deletes exactly this object (its UID is a precondition).
    pub fn delete<K: Object>(object: &K) -> Self {
        Self::delete_with(object, DeleteParams::default())
    }
    /// Deletes exactly this object, with options.
    pub fn delete_with<K: Object>(object: &K, params: DeleteParams) -> Self {
        let params = DeleteParams { uid: Some(object.uid().to_owned()), ..params };
        Self::new(Verb::Delete(Target::of(object), params), Tolerate::Done)
    }
    /// Runs a task.
    pub fn run(task: impl Task + 'static) -> Self {
        Self::new(Verb::Run(Box::new(task)), Tolerate::Nothing)
    }
    /// Tells `about` what became of it.
    #[must_use]
    pub fn telling<K: Object>(mut self, about: &K, success: (&str, &str), failure: (&str, &str)) -> Self {
        self.on_success = Some(PlannedEvent::new(about, EventKind::Normal, success.0, success.1));
        self.on_failure = Some(PlannedEvent::new(about, EventKind::Warning, failure.0, failure.1));
        self
    }
    /// Writes something else if it failed.
    #[must_use]
    pub(crate) fn otherwise(mut self, instead: impl Fn(&str) -> Option<Write> + Send + Sync + 'static) -> Self {
        self.otherwise = Some(Box::new(instead));
        self
    }
    /// Whether it may be sent together with its neighbours.
    pub(crate) fn is_parallel(&self) -> bool {
        matches!(self.verb, Verb::Create(_) | Verb::Delete(..))
    }
}

/// An event to record about an object.
#[derive(Clone)]
pub struct PlannedEvent {
    /// What it is about.
    pub about: api::k8s::api::core::v1::ObjectReference,
    /// Normal or Warning.
    pub kind: EventKind,
    /// `reason`
    pub reason: String,
    /// `message`
    pub message: String,
}

impl PlannedEvent {
    /// An event about a typed object.
    pub fn new<K: Object>(about: &K, kind: EventKind, reason: &str, message: &str) -> Self {
        let about = api::k8s::api::core::v1::ObjectReference {
            api_version: Some(K::API_VERSION.to_owned()),
            kind: Some(K::KIND.to_owned()),
            name: Some(about.name().to_owned()),
            namespace: Some(about.namespace().to_owned()).filter(|n| !n.is_empty()),
            uid: Some(about.uid().to_owned()),
            resource_version: about.meta().resource_version.clone(),
            field_path: None,
        };
        PlannedEvent { about, kind, reason: reason.to_owned(), message: message.to_owned() }
    }
}

type Sent<'a, T> = Pin<Box<dyn Future<Output = Result<T, ClientError>> + Send + 'a>>;

/// What the cache must show before the same key is planned again (read your writes).
#[derive(Clone)]
pub struct Seen {
    pub(crate) kind: Kinds,
    pub(crate) until: SeenUntil,
}

/// See [`Seen`].
#[derive(Clone)]
pub(crate) enum SeenUntil {
    /// The cache has reached this revision.
    Revision(u64),
    /// The object with this UID is gone or marked as being deleted.
    Deleted {
        /// Where it was.
        key: Key,
        /// Which it was.
        uid: String,
    },
}

/// A typed object that can be sent, with its type erased.
pub trait Writable: AnyObject {
    /// Its kind.
    fn kinds(&self) -> Kinds;
    /// POST; returns the name and revision that were stored.
    fn create<'a>(&'a self, client: &'a Client) -> Sent<'a, (String, u64)>;
    /// PUT.
    fn update<'a>(&'a self, client: &'a Client) -> Sent<'a, (String, u64)>;
    /// PUT to `/status`.
    fn update_status<'a>(&'a self, client: &'a Client) -> Sent<'a, (String, u64)>;
}

fn stored<K: Object>(object: K) -> (String, u64) {
    (object.name().to_owned(), object.revision())
}

impl<K: Object> Writable for K {
    fn kinds(&self) -> Kinds {
        Kinds::of::<K>()
    }
    fn create<'a>(&'a self, client: &'a Client) -> Sent<'a, (String, u64)> {
        Box::pin(async move { client.api::<K>().create(self).await.map(stored) })
    }
    fn update<'a>(&'a self, client: &'a Client) -> Sent<'a, (String, u64)> {
        Box::pin(async move { client.api::<K>().update(self).await.map(stored) })
    }
    fn update_status<'a>(&'a self, client: &'a Client) -> Sent<'a, (String, u64)> {
        Box::pin(async move { client.api::<K>().update_status(self).await.map(stored) })
    }
}

/// An object to patch or delete.
#[derive(Clone)]
pub struct Target {
    /// Its kind.
    pub kinds: Kinds,
    /// Its name.
    pub key: Key,
    /// Its UID as planned.
    pub uid: String,
}

impl Target {
    /// The target that is this object.
    pub fn of<K: Object>(object: &K) -> Self {
        Target { kinds: Kinds::of::<K>(), key: Key::of(object), uid: object.uid().to_owned() }
    }
}

/// A kind as a value: the requests for it, with the type erased.
#[derive(Clone, Copy)]
pub struct Kinds {
    /// CamelCase kind.
    pub kind: &'static str,
    delete: for<'a> fn(&'a Client, &'a Key, &'a DeleteParams) -> Sent<'a, ()>,
    patch: for<'a> fn(&'a Client, &'a Key, &'a str, &'a Patch) -> Sent<'a, u64>,
    wait: for<'a> fn(&'a Client, &'a SeenUntil) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
}

impl Kinds {
    /// The kind `K`.
    pub fn of<K: Object>() -> Self {
        Kinds {
            kind: K::KIND,
            delete: |client, key, params| {
                Box::pin(async move { client.api::<K>().delete(&key.namespace, &key.name, params).await })
            },
            patch: |client, key, subresource, patch| {
                Box::pin(async move {
                    let object = client.api::<K>().patch(&key.namespace, &key.name, subresource, patch).await?;
                    Ok(object.revision())
                })
            },
            wait: |client, until| Box::pin(wait_for(client.cache::<K>(), until)),
        }
    }
    pub(crate) async fn delete(&self, client: &Client, key: &Key, params: &DeleteParams) -> Result<(), ClientError> {
        (self.delete)(client, key, params).await
    }
    pub(crate) async fn patch(&self, client: &Client, key: &Key, sub: &str, patch: &Patch) -> Result<u64, ClientError> {
        (self.patch)(client, key, sub, patch).await
    }
    pub(crate) async fn wait(&self, client: &Client, until: &SeenUntil) {
        (self.wait)(client, until).await;
    }
}

async fn wait_for<K: Object>(cache: Cache<K>, until: &SeenUntil) {
    match until {
        SeenUntil::Revision(revision) => cache.reached(*revision).await,
        SeenUntil::Deleted { key, uid } => {
            let mut moves = cache.revisions();
            while cache.get(&key.namespace, &key.name).is_some_and(|o| o.uid() == uid && !o.is_deleting()) {
                if moves.changed().await.is_err() {
                    return;
                }
            }
        }
    }
}

impl fmt::Display for Write {
    /// `create Pod default/web-`: for logs and tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let object = |o: &dyn Writable| {
            let meta = o.meta();
            let name = meta.name.clone().or_else(|| meta.generate_name.clone()).unwrap_or_default();
            format!("{} {}", o.kinds().kind, Key::new(meta.namespace.as_deref().unwrap_or_default(), &name))
        };
        match &self.verb {
            Verb::Create(o) => write!(f, "create {}", object(o.as_ref())),
            Verb::Update(o) => write!(f, "update {}", object(o.as_ref())),
            Verb::UpdateStatus(o) => write!(f, "status {}", object(o.as_ref())),
            Verb::Patch(t, "", _) => write!(f, "patch {} {}", t.kinds.kind, t.key),
            Verb::Patch(t, sub, _) => write!(f, "patch {} {} {sub}", t.kinds.kind, t.key),
            Verb::Delete(t, _) => write!(f, "delete {} {}", t.kinds.kind, t.key),
            Verb::Run(task) => f.write_str(&task.title()),
        }
    }
}
