//! [`Cache`]: the newest state of a kind (or part of it), kept by list + watch, shared by all users in a process.
//!
//! Guarantees: a handler sees every object's latest state eventually, in revision order, first all present objects;
//! intermediate states may be skipped after a re-list. Handlers run in the cache's task and must only enqueue.

use crate::{Api, Client, ClientError, ListParams, Shelf, Transport, WatchEvent};
use api::{Object, meta::MetaExt};
use base::backoff::Backoff;
use parking_lot::{Mutex, RwLock};
use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{oneshot, watch};

/// How long a server may take to answer before it counts as away, if something is known without it.
const SERVER_PATIENCE: Duration = Duration::from_secs(5);
/// Between two writes to the shelf: many changes are one.
const SHELF_PAUSE: Duration = Duration::from_secs(5);
/// Every write is of all objects, so that the pause grows with them: by one more for every so many.
const OBJECTS_PER_PAUSE: usize = 200;

fn shelf_pause(objects: usize) -> Duration {
    let pauses = 1 + objects / OBJECTS_PER_PAUSE;
    SHELF_PAUSE * u32::try_from(pauses).unwrap_or(u32::MAX)
}

/// What happened to an object.
#[derive(Debug, Clone)]
pub struct Change<K> {
    /// Before; `None` = it appeared.
    pub old: Option<Arc<K>>,
    /// After; `None` = it is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The newest known state: after, or before for a deletion.
    pub fn latest(&self) -> &Arc<K> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has at least one side")
    }
}

type Handler<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;
type ObjectKey = (String, String);

struct Handlers<K> {
    next: u64,
    /// In the order in which they came.
    all: Vec<(u64, Handler<K>)>,
}

/// Somebody is told of changes until this is dropped, which waits for a change that is being told: not in a handler of the same cache.
#[must_use = "nothing is told any more when it is dropped"]
pub struct Subscription {
    /// `None`: nobody ends it.
    cache: Option<Weak<dyn Told>>,
    id: u64,
}

impl Subscription {
    /// As long as the cache lives. Not for a handler that holds the cache or its client: then neither would ever go.
    pub fn for_good(mut self) {
        // Not by forgetting itself: that would keep the memory of a cache that is gone.
        self.cache = None;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(cache) = self.cache.as_ref().and_then(Weak::upgrade) {
            cache.unsubscribe(self.id);
        }
    }
}

/// A cache of any kind, for [`Subscription`].
trait Told: Send + Sync {
    fn unsubscribe(&self, id: u64);
}

impl<K: Object> Told for Inner<K> {
    fn unsubscribe(&self, id: u64) {
        let mut handlers = self.handlers.lock();
        let at = handlers.all.iter().position(|(other, _)| *other == id);
        let gone = at.map(|at| handlers.all.remove(at));
        drop(handlers);
        // What it holds may do anything when it goes.
        drop(gone);
    }
}

struct Inner<K> {
    objects: RwLock<BTreeMap<ObjectKey, Arc<K>>>,
    /// Object keys by the UID of their controller.
    by_controller: RwLock<BTreeMap<String, Vec<ObjectKey>>>,
    /// Also serialises changes: a handler is registered between two changes.
    handlers: Mutex<Handlers<K>>,
    progress: Mutex<Progress>,
    /// Tells the task that fills it that nobody holds it any more.
    _held: Option<oneshot::Sender<()>>,
}

impl<K> Default for Inner<K> {
    fn default() -> Self {
        Inner {
            objects: RwLock::default(),
            by_controller: RwLock::default(),
            handlers: Mutex::new(Handlers { next: 0, all: Vec::new() }),
            progress: Mutex::default(),
            _held: None,
        }
    }
}

/// How far the cache is. Every follower has a channel of its own, so that followers wake in the order in which they came:
/// one channel for all wakes them in an order that tokio draws at random, which the simulation cannot have.
#[derive(Default)]
struct Progress {
    /// Newest revision seen; `None` until the first list is in.
    revision: Option<u64>,
    followers: Vec<watch::Sender<Option<u64>>>,
}

impl Progress {
    fn advance(&mut self, reached: u64) {
        if self.revision.is_some_and(|r| r >= reached) {
            return;
        }
        self.revision = Some(reached);
        self.followers.retain(|follower| follower.send(self.revision).is_ok());
    }
}

/// Reads of cached objects. Cheap to clone; the watch ends when the last clone is dropped.
pub struct Cache<K> {
    inner: Arc<Inner<K>>,
}

impl<K> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Cache { inner: self.inner.clone() }
    }
}

impl<K: Object> Cache<K> {
    pub(crate) fn start(api: Api<K>, params: ListParams, shelf: Option<Arc<Shelf>>) -> Self {
        let (held, gone) = oneshot::channel();
        let inner = Arc::new(Inner { _held: Some(held), ..Inner::default() });
        let cache = Cache { inner };
        let weak = Arc::downgrade(&cache.inner);
        if let Some(shelf) = shelf.clone() {
            base::tasks::detach("cache-shelf", shelve(weak.clone(), cache.revisions(), params.clone(), shelf));
        }
        base::tasks::detach("cache", async move {
            tokio::select! { biased; _ = gone => {}, () = keep(weak, api, params, shelf) => {} }
        });
        cache
    }

    /// One object; `namespace` is `""` for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.inner.objects.read().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.objects.read().values().cloned().collect()
    }

    /// All objects of a namespace, ordered by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        let start = (namespace.to_owned(), String::new());
        let objects = self.inner.objects.read();
        objects.range(start..).take_while(|((ns, _), _)| ns == namespace).map(|(_, o)| o.clone()).collect()
    }

    /// All objects whose controller has this UID.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<K>> {
        let keys = self.inner.by_controller.read().get(uid).cloned().unwrap_or_default();
        let objects = self.inner.objects.read();
        keys.iter().filter_map(|k| objects.get(k).cloned()).collect()
    }

    /// How many objects.
    pub fn len(&self) -> usize {
        self.inner.objects.read().len()
    }

    /// Whether there are none (or none yet: see [`Self::synced`]).
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The newest revision the cache has reached; `None` before the first list.
    pub fn revision(&self) -> Option<u64> {
        self.inner.progress.lock().revision
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        self.reached(0).await;
    }

    /// Waits until the cache has seen `revision` (read your writes).
    pub async fn reached(&self, revision: u64) {
        if self.revision().is_some_and(|r| r >= revision) {
            return;
        }
        let mut seen = self.revisions();
        // The sender lives in `inner`, which `self` keeps, so waiting cannot fail.
        drop(seen.wait_for(|r| r.is_some_and(|r| r >= revision)).await);
    }

    /// Follows [`Self::revision`]; several moves may be noticed as one.
    pub fn revisions(&self) -> watch::Receiver<Option<u64>> {
        let mut progress = self.inner.progress.lock();
        let (follower, revisions) = watch::channel(progress.revision);
        progress.followers.push(follower);
        revisions
    }

    /// Calls `handler` for every present object (as appeared) and then for every change. It must not block.
    pub fn on_change(&self, handler: impl Fn(&Change<K>) + Send + Sync + 'static) -> Subscription {
        let mut handlers = self.inner.handlers.lock();
        for object in self.list() {
            handler(&Change { old: None, new: Some(object) });
        }
        let id = handlers.next;
        handlers.next += 1;
        handlers.all.push((id, Box::new(handler)));
        let cache: Arc<dyn Told> = self.inner.clone();
        Subscription { cache: Some(Arc::downgrade(&cache)), id }
    }
}

impl<K: Object> Inner<K> {
    fn key(object: &K) -> ObjectKey {
        (object.namespace().to_owned(), object.name().to_owned())
    }

    fn set(&self, key: ObjectKey, new: Option<Arc<K>>) {
        let handlers = self.handlers.lock();
        let old = {
            let mut objects = self.objects.write();
            match &new {
                Some(object) => objects.insert(key.clone(), object.clone()),
                None => objects.remove(&key),
            }
        };
        if old.is_none() && new.is_none() {
            return;
        }
        self.reindex(&key, old.as_deref(), new.as_deref());
        let change = Change { old, new };
        for (_, handler) in &handlers.all {
            // All users of the kind depend on this task: one's bug must not end it for the others.
            let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| handler(&change)));
            if told.is_err() {
                tracing::error!(kind = K::KIND, "a handler of the cache panicked; it missed a change");
            }
        }
    }

    fn reindex(&self, key: &ObjectKey, old: Option<&K>, new: Option<&K>) {
        let uid = |o: Option<&K>| o.and_then(|o| o.controller()).map(|c| c.uid.clone());
        let (before, after) = (uid(old), uid(new));
        if before == after {
            return;
        }
        let mut index = self.by_controller.write();
        if let Some(uid) = before
            && let Some(keys) = index.get_mut(&uid)
        {
            keys.retain(|k| k != key);
            if keys.is_empty() {
                index.remove(&uid);
            }
        }
        if let Some(uid) = after {
            index.entry(uid).or_default().push(key.clone());
        }
    }

    fn replace(&self, items: Vec<K>, revision: &str) {
        let mut gone: Vec<ObjectKey> = self.objects.read().keys().cloned().collect();
        for item in items {
            let key = Self::key(&item);
            if let Ok(at) = gone.binary_search(&key) {
                gone.remove(at);
            }
            let same =
                self.objects.read().get(&key).is_some_and(|o| o.revision() == item.revision() && o.uid() == item.uid());
            if !same {
                self.set(key, Some(kept(item)));
            }
        }
        for key in gone {
            self.set(key, None);
        }
        self.advance(revision);
    }

    /// `resourceVersion` is our own server's: a number.
    fn advance(&self, revision: &str) {
        self.progress.lock().advance(revision.parse().unwrap_or(0));
    }

    /// Returns the revision to go on from.
    fn apply(&self, event: WatchEvent<K>) -> String {
        let revision = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let revision = object.meta().resource_version.clone().unwrap_or_default();
                self.set(Self::key(&object), Some(kept(object)));
                revision
            }
            WatchEvent::Deleted(last) => {
                self.set((last.namespace.unwrap_or_default(), last.name.unwrap_or_default()), None);
                last.resource_version.unwrap_or_default()
            }
            WatchEvent::Bookmark(revision) => revision,
        };
        self.advance(&revision);
        revision
    }
}

/// An object as caches hold it.
fn kept<K: Object>(mut object: K) -> Arc<K> {
    api::shrink(&mut object);
    Arc::new(object)
}

/// Lists, watches, and starts over as often as needed, until nobody holds the cache.
async fn keep<K: Object>(weak: Weak<Inner<K>>, api: Api<K>, params: ListParams, shelf: Option<Arc<Shelf>>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));
    let mut from: Option<String> = None;
    if let Some(shelf) = shelf {
        from = first_list(&weak, &api, &params, &shelf).await;
    }
    while weak.strong_count() > 0 {
        match round(&weak, &api, &params, &mut from, &mut backoff).await {
            // A server that ends watches at once (it is stopping) must not make us spin.
            Ok(true) => tokio::time::sleep(backoff.fail()).await,
            Ok(false) => return,
            Err(error) => {
                if error.is_gone() {
                    from = None;
                }
                let wait = backoff.fail();
                tracing::debug!(kind = K::KIND, error = %base::chain(&error), ?wait, "watch failed, trying again");
                tokio::time::sleep(wait).await;
            }
        }
    }
}

/// The first list: the server's, whose revision is returned, or what was known last if it does not answer soon.
async fn first_list<K: Object>(
    weak: &Weak<Inner<K>>,
    api: &Api<K>,
    params: &ListParams,
    shelf: &Shelf,
) -> Option<String> {
    let listed = tokio::time::timeout(SERVER_PATIENCE, api.list(params)).await;
    let inner = weak.upgrade()?;
    match listed {
        Ok(Ok((items, revision))) => {
            inner.replace(items, &revision);
            return Some(revision);
        }
        // It is there, and asked again soon.
        Ok(Err(error)) if !error.is_unreachable() => return None,
        Ok(Err(_)) | Err(_) => {}
    }
    match shelf.load::<K>(params) {
        Ok(Some(items)) => {
            tracing::warn!(
                kind = K::KIND,
                objects = items.len(),
                "the server does not answer; going on with what was known last"
            );
            inner.replace(items, "0");
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(kind = K::KIND, %error, "failed to read what was known last"),
    }
    None
}

/// Writes down what the cache knows, until nobody holds it.
async fn shelve<K: Object>(
    weak: Weak<Inner<K>>,
    mut revisions: watch::Receiver<Option<u64>>,
    params: ListParams,
    shelf: Arc<Shelf>,
) {
    let mut written: Option<Vec<(String, String)>> = None;
    while revisions.changed().await.is_ok() {
        // At once at first: what a new pod needs must be there if the power fails in its first seconds.
        if let Some(written) = &written {
            tokio::time::sleep(shelf_pause(written.len())).await;
        }
        let Some(inner) = weak.upgrade() else { return };
        // What came from the shelf is there already.
        if inner.progress.lock().revision == Some(0) {
            continue;
        }
        let objects: Vec<Arc<K>> = inner.objects.read().values().cloned().collect();
        drop(inner);
        let version = |o: &Arc<K>| (o.uid().to_owned(), o.meta().resource_version.clone().unwrap_or_default());
        let versions = Some(objects.iter().map(version).collect());
        // Time passes (bookmarks) more often than something changes.
        if versions == written {
            continue;
        }
        let (shelf, params) = (shelf.clone(), params.clone());
        let stored = tokio::task::spawn_blocking(move || shelf.store(&params, &objects)).await;
        match stored.unwrap_or_else(|e| Err(std::io::Error::other(e))) {
            Ok(()) => written = versions,
            Err(error) => tracing::warn!(kind = K::KIND, %error, "failed to write down what is known"),
        }
    }
}

/// One list (if needed) and one watch to its end. `false`: nobody holds the cache any more.
async fn round<K: Object>(
    weak: &Weak<Inner<K>>,
    api: &Api<K>,
    params: &ListParams,
    from: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<bool, ClientError> {
    let start = match from.clone() {
        Some(revision) => revision,
        None => {
            let (items, revision) = api.list(params).await?;
            let Some(inner) = weak.upgrade() else { return Ok(false) };
            inner.replace(items, &revision);
            *from = Some(revision.clone());
            revision
        }
    };
    let mut watcher = api.watch(params, &start).await?;
    while let Some(event) = watcher.next().await? {
        backoff.reset();
        let Some(inner) = weak.upgrade() else { return Ok(false) };
        *from = Some(inner.apply(event));
    }
    Ok(weak.strong_count() > 0)
}

/// The shared caches of a process, one per kind, all read through one transport.
pub struct Caches {
    transport: Arc<dyn Transport>,
    by_type: Mutex<BTreeMap<TypeId, Box<dyn Any + Send + Sync>>>,
}

impl Caches {
    pub(crate) fn new(transport: Arc<dyn Transport>) -> Self {
        Caches { transport, by_type: Mutex::default() }
    }

    pub(crate) fn shared<K: Object>(&self, client: &Client) -> Cache<K> {
        let mut caches = self.by_type.lock();
        let any = caches.entry(TypeId::of::<K>()).or_insert_with(|| {
            // A client of its own: with these caches it would keep itself alive.
            let api = Client::new(self.transport.clone(), "dhow-cache").api();
            Box::new(Cache::<K>::start(api, ListParams::all(), client.shelf.clone()))
        });
        any.downcast_ref::<Cache<K>>().expect("keyed by its type").clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, TransportError, body_from};
    use api::prelude::ConfigMap;
    use async_trait::async_trait;

    /// Answers lists with one map, and says no more; or is away.
    struct Server(bool);

    #[async_trait]
    impl Transport for Server {
        async fn send(&self, request: http::Request<bytes::Bytes>) -> Result<http::Response<Body>, TransportError> {
            if !self.0 {
                return Err(TransportError("connection refused".into()));
            }
            if request.uri().query().is_some_and(|q| q.contains("watch")) {
                std::future::pending::<()>().await;
            }
            let map = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","namespace":"b","uid":"u","resourceVersion":"7"},"data":{"k":"v"}}"#;
            let list =
                format!(r#"{{"kind":"List","apiVersion":"v1","metadata":{{"resourceVersion":"7"}},"items":[{map}]}}"#);
            Ok(http::Response::new(body_from(list)))
        }
    }

    #[tokio::test]
    async fn a_cache_starts_from_what_was_known_while_the_server_is_away() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("known");
        let client = |there| {
            let shelf = Shelf::open(path.clone()).expect("made");
            Client::new(Arc::new(Server(there)), "test").remembering(shelf)
        };
        let params = || ListParams::all().namespace("b");
        tokio::time::pause();
        let cache = client(true).cache_of::<ConfigMap>(params());
        cache.synced().await;
        let files = || {
            std::fs::read_dir(&path)
                .expect("there")
                .flatten()
                .filter(|f| f.path().extension().is_some_and(|e| e == "json"))
                .count()
        };
        while files() == 0 {
            tokio::time::sleep(SHELF_PAUSE).await;
        }
        drop(cache);
        let offline = client(false);
        let cache = offline.cache_of::<ConfigMap>(params());
        cache.synced().await;
        assert_eq!(cache.get("b", "a").and_then(|m| m.data.clone()), Some([("k".into(), "v".into())].into()));
        // Nothing is known of others, which is not the same as that there are none.
        let other = offline.cache_of::<ConfigMap>(ListParams::all().namespace("c"));
        assert!(tokio::time::timeout(Duration::from_secs(60), other.synced()).await.is_err());
        offline.remember_only::<ConfigMap>([params()].into_iter());
        assert_eq!(files(), 1);
        let half = path.join("configmaps-0.json.tmp");
        std::fs::write(&half, "[").expect("written");
        offline.remember_only::<ConfigMap>(std::iter::empty());
        assert_eq!(files(), 0);
        assert!(!half.exists(), "what a kill left half written");
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_gone_is_told_nothing_and_keeps_no_cache() {
        let server: Arc<dyn Transport> = Arc::new(Server(true));
        let client = Client::new(server.clone(), "test");
        let cache = client.cache::<ConfigMap>();
        cache.synced().await;
        let told = Arc::new(Mutex::new(Vec::new()));
        let follow = |who: &'static str| {
            // As controllers do, it holds the client, and with that the cache.
            let (told, client) = (told.clone(), client.clone());
            cache.on_change(move |change| {
                told.lock().push((who, change.new.is_some()));
                drop(client.cache::<ConfigMap>());
            })
        };
        let (gone, stays) = (follow("gone"), follow("stays"));
        drop(gone);
        cache.inner.set(("b".into(), "a".into()), None);
        assert_eq!(*told.lock(), [("gone", true), ("stays", true), ("stays", false)]);
        drop((stays, cache, client));
        let ends = async {
            while Arc::strong_count(&server) > 1 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(1), ends).await.expect("the watch ends");
    }

    #[test]
    fn many_objects_are_written_down_less_often() {
        assert_eq!(shelf_pause(0), SHELF_PAUSE);
        assert_eq!(shelf_pause(OBJECTS_PER_PAUSE), 2 * SHELF_PAUSE);
        assert_eq!(shelf_pause(1000), Duration::from_secs(30));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_first_is_written_down_at_once() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shelf = Shelf::open(dir.path().to_owned()).expect("made");
        let begun = tokio::time::Instant::now();
        let cache =
            Client::new(Arc::new(Server(true)), "test").remembering(shelf).cache_of::<ConfigMap>(ListParams::all());
        cache.synced().await;
        let is_file = |f: std::fs::DirEntry| f.path().extension().is_some_and(|e| e == "json");
        while !std::fs::read_dir(dir.path()).expect("there").flatten().any(is_file) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(begun.elapsed() < SHELF_PAUSE, "took {:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_cache_is_written_down_once_however_often_time_passes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let shelf = Arc::new(Shelf::open(dir.path().to_owned()).expect("made"));
        let files = || std::fs::read_dir(dir.path()).expect("there").count();
        let inner = Arc::new(Inner::<ConfigMap>::default());
        inner.replace(Vec::new(), "1");
        let (revisions, follower) = watch::channel(None);
        base::tasks::detach("shelf", shelve(Arc::downgrade(&inner), follower, ListParams::all(), shelf.clone()));
        revisions.send(Some(1)).expect("followed");
        while files() == 0 {
            tokio::time::sleep(SHELF_PAUSE).await;
        }
        shelf.retain::<ConfigMap>(std::iter::empty()).expect("removed");
        for revision in 2..5 {
            revisions.send(Some(revision)).expect("followed");
            tokio::time::sleep(2 * SHELF_PAUSE).await;
        }
        assert_eq!(files(), 0, "bookmarks alone must not cause writes");
    }
}
