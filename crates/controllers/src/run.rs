//! The only loop: owns watching, queueing, back-off, concurrency, read-your-writes and leadership for all controllers.
//!
//! Events only produce keys; a key is planned from the caches' newest state, so one code path serves first start, missed
//! event, crash and change. One round per key at a time. *Read your writes*: after a round the loop waits, before it
//! plans that key again, until the caches show everything the round wrote; this replaces upstream's expectations
//! (`pkg/controller/controller_utils.go`).

use crate::certificates::Signer;
use crate::metrics::{Counted, QueueMetrics};
use crate::plan::{Done, Key, Plan, PlannedEvent, Seen, SeenUntil, Tolerate, Verb, Write};
use crate::token_secrets::TokenMaker;
use api::{Object, meta::MetaExt};
use base::{Clock, backoff::Backoff};
use client::{Cache, Change, Client, ClientError, Recorder, Subscription};
use ipnet::IpNet;
use jiff::Timestamp;
use parking_lot::Mutex;
use std::any::{Any, TypeId};
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Rounds of one controller at the same time.
const CONCURRENCY: usize = 8;
/// Creates and deletes of one round in flight at the same time (upstream bursts up to 500; the server is near).
const BATCH: usize = 32;
/// How long to wait for a source before planning begins without it (as upstream's `initialSyncTimeout`).
const SOURCE_READY: Duration = Duration::from_secs(30);
/// First and longest wait after a failed round (client-go's DefaultControllerRateLimiter: 5 ms to 1000 s).
const RETRY: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1000));

/// One controller. Implemented by a unit struct; every file reads top to bottom as this trait does.
pub trait Controller: Send + Sync + 'static {
    /// Name in logs, metrics and as the events' component, e.g. `replicaset-controller`.
    const NAME: &'static str;
    /// The service account of `kube-system` that it acts as, where upstream gives several controllers one.
    const ACCOUNT: &'static str = Self::NAME;
    /// Upstream's API server does this by itself: it has the server's rights, and is wanted also where the controllers are
    /// another program's.
    const OF_API_SERVER: bool = false;
    /// Everything a plan needs, gathered from the caches.
    type View: Send;

    /// Which kinds wake it, and for which keys.
    fn watches(watches: &mut Watches<'_>);
    /// Gathers; the only reads. `None`: the object is gone and nothing is left to do.
    fn view(key: &Key, ctx: &Context) -> Option<Self::View>;
    /// Decides. Pure.
    fn plan(view: &Self::View, now: Timestamp) -> Plan;
}

/// What is the same in the whole cluster and does not change while we run.
#[derive(Debug, Clone)]
pub struct Facts {
    /// The CA that signs the API server's certificate, PEM.
    pub root_ca_pem: Arc<str>,
    /// Names and addresses by which the API server is known; nobody else gets a certificate for them.
    pub server_names: Vec<String>,
    /// Addresses of pods, a range per IP family.
    pub pod_ranges: Vec<PodRange>,
    /// Signs certificates; without one, nothing is signed.
    pub signer: Option<Arc<dyn Signer>>,
    /// Makes tokens for Secrets of service accounts; without one, none is filled.
    pub tokens: Option<Arc<dyn TokenMaker>>,
    /// What queues count.
    pub queues: QueueMetrics,
}

/// Addresses of pods of one IP family.
#[derive(Debug, Clone, Copy)]
pub struct PodRange {
    /// Those of the whole cluster.
    pub cluster: IpNet,
    /// A node gets a part with a prefix of this length.
    pub node_prefix: u8,
}

/// What controllers read from: the shared caches, and facts of the cluster.
#[derive(Clone)]
pub struct Context {
    client: Client,
    facts: Arc<Facts>,
    shared: Arc<Mutex<BTreeMap<TypeId, Arc<dyn Any + Send + Sync>>>>,
}

impl Context {
    /// A context over a client.
    pub fn new(client: Client, facts: Arc<Facts>) -> Self {
        Context { client, facts, shared: Arc::default() }
    }
    /// What does not change.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }
    /// What this controller keeps beside the caches, one value of each type: fed by a [`Source`], read by `view`.
    pub fn shared<T: Default + Send + Sync + 'static>(&self) -> Arc<T> {
        let value = self.shared.lock().entry(TypeId::of::<T>()).or_insert_with(|| Arc::<T>::default()).clone();
        value.downcast().expect("keyed by its type")
    }
    /// The shared cache of a kind. A controller reads only kinds it watches, so that it is synced before the first plan.
    pub fn cache<K: Object>(&self) -> Cache<K> {
        self.client.cache()
    }
}

/// Collects what wakes a controller.
pub struct Watches<'a> {
    ctx: &'a Context,
    queue: &'a Arc<Queue>,
    shutdown: &'a CancellationToken,
    synced: Vec<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
    /// Until the term ends.
    told: Vec<Subscription>,
}

impl Watches<'_> {
    /// The objects it works on.
    pub fn own<K: Object>(&mut self) {
        self.map::<K>(|_, change| vec![Key::of(change.latest().meta())]);
    }

    /// Objects whose controller is of kind `O`: wakes the controller.
    pub fn owned<K: Object, O: Object>(&mut self) {
        self.map::<K>(|_, change| {
            let mut keys: Vec<Key> = [&change.old, &change.new]
                .into_iter()
                .flatten()
                .filter_map(|o| {
                    let owner = o.controller().filter(|c| c.kind == O::KIND && c.api_version == O::API_VERSION)?;
                    Some(Key::new(if O::NAMESPACED { o.namespace() } else { "" }, &owner.name))
                })
                .collect();
            keys.dedup();
            keys
        });
    }

    /// Any other relation. The mapping must be quick and may read caches (of kinds named earlier).
    pub fn map<K: Object>(&mut self, keys: impl Fn(&Context, &Change<K>) -> Vec<Key> + Send + Sync + 'static) {
        let cache = self.ctx.cache::<K>();
        let (ctx, queue) = (self.ctx.clone(), self.queue.clone());
        self.told.push(cache.on_change(move |change| keys(&ctx, change).into_iter().for_each(|key| queue.add(key))));
        self.synced.push(Box::pin(async move { cache.synced().await }));
    }

    /// A kind that is read but wakes nobody.
    pub fn reads<K: Object>(&mut self) {
        self.map::<K>(|_, _| Vec::new());
    }

    /// A source of its own, e.g. watches over kinds known only at run time: runs until the term ends. Planning begins when
    /// it says [`Source::ready`], or after half a minute.
    pub fn source<F: Future<Output = ()> + Send + 'static>(&mut self, run: impl FnOnce(Source) -> F) {
        let (ready, mut is_ready) = watch::channel(false);
        let source = Source { ctx: self.ctx.clone(), queue: self.queue.clone(), ready: Arc::new(ready) };
        let (work, shutdown) = (run(source), self.shutdown.clone());
        base::tasks::detach("source", async move {
            tokio::select! { biased; () = shutdown.cancelled() => {}, () = work => {} }
        });
        self.synced.push(Box::pin(async move {
            // Late or gone: better to work on what there is than not at all.
            drop(tokio::time::timeout(SOURCE_READY, is_ready.wait_for(|r| *r)).await);
        }));
    }

    /// A key that is planned once at start.
    pub fn once(&mut self, key: Key) {
        self.queue.add(key);
    }
}

/// What a source of keys works with. Cheap to clone.
#[derive(Clone)]
pub struct Source {
    ctx: Context,
    queue: Arc<Queue>,
    ready: Arc<watch::Sender<bool>>,
}

impl Source {
    /// One whose keys nobody takes.
    #[cfg(test)]
    pub(crate) fn for_test(client: Client) -> Self {
        let facts = Arc::new(Facts {
            root_ca_pem: "".into(),
            server_names: Vec::new(),
            pod_ranges: Vec::new(),
            signer: None,
            tokens: None,
            queues: QueueMetrics::default(),
        });
        Source { ctx: Context::new(client, facts), queue: Arc::default(), ready: Arc::new(watch::channel(false).0) }
    }
    /// What the controller's views read.
    pub fn ctx(&self) -> &Context {
        &self.ctx
    }
    /// Acts as the controller.
    pub fn client(&self) -> &Client {
        &self.ctx.client
    }
    /// This key is to be planned.
    pub fn add(&self, key: Key) {
        self.queue.add(key);
    }
    /// Everything that was there at the start has been told.
    pub fn ready(&self) {
        self.ready.send_replace(true);
    }
}

/// A controller with its type erased, for the table.
pub struct Runner {
    /// [`Controller::NAME`]
    pub name: &'static str,
    /// [`Controller::ACCOUNT`]
    pub account: &'static str,
    /// [`Controller::OF_API_SERVER`]
    pub of_api_server: bool,
    start: fn(Context, Arc<dyn Clock>, watch::Receiver<bool>, CancellationToken) -> tokio::task::JoinHandle<()>,
}

impl Runner {
    /// The controller `C`.
    pub fn of<C: Controller>() -> Self {
        Runner {
            name: C::NAME,
            account: C::ACCOUNT,
            of_api_server: C::OF_API_SERVER,
            start: |ctx, clock, leading, shutdown| {
                base::tasks::spawn(C::NAME, lead::<C>(ctx, clock, leading, shutdown))
            },
        }
    }

    /// Starts it with a client that acts as this controller; it works while `leading` is true, until `shutdown`.
    pub fn start(
        &self,
        client: Client,
        facts: &Arc<Facts>,
        clock: &Arc<dyn Clock>,
        leading: watch::Receiver<bool>,
        shutdown: &CancellationToken,
    ) -> tokio::task::JoinHandle<()> {
        (self.start)(Context::new(client, facts.clone()), clock.clone(), leading, shutdown.clone())
    }
}

/// Works whenever we lead; forgets everything in between.
async fn lead<C: Controller>(
    ctx: Context,
    clock: Arc<dyn Clock>,
    mut leading: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            won = becomes(&mut leading, true) => if !won { return },
        }
        let term = shutdown.child_token();
        let work = work::<C>(ctx.clone(), clock.clone(), term.clone());
        tokio::pin!(work);
        tokio::select! {
            biased;
            () = &mut work => return,
            _ = becomes(&mut leading, false) => {
                term.cancel();
                work.await;
            }
        }
    }
}

/// Waits until leadership is `wanted`; false if it will never change again.
async fn becomes(leading: &mut watch::Receiver<bool>, wanted: bool) -> bool {
    leading.wait_for(|l| *l == wanted).await.is_ok()
}

/// One term: watch, queue, plan, execute.
async fn work<C: Controller>(ctx: Context, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let client = ctx.client.clone();
    let queue = Arc::new(Queue::counted(ctx.facts().queues.of(C::NAME)));
    let mut watches = Watches { ctx: &ctx, queue: &queue, shutdown: &shutdown, synced: Vec::new(), told: Vec::new() };
    C::watches(&mut watches);
    let Watches { synced, told: _told, .. } = watches;
    for synced in synced {
        tokio::select! { biased; () = shutdown.cancelled() => return, () = synced => {} }
    }
    let recorder = Recorder::new(&client, C::NAME, "", clock.clone());
    let mut rounds: JoinSet<(Key, Outcome)> = JoinSet::new();
    let mut running: BTreeMap<tokio::task::Id, Key> = BTreeMap::new();
    let mut pending: BTreeMap<Key, Vec<Seen>> = BTreeMap::new();
    let mut failures: BTreeMap<Key, Backoff> = BTreeMap::new();
    loop {
        while rounds.len() < CONCURRENCY
            && let Some(key) = queue.take()
        {
            let seen = pending.remove(&key).unwrap_or_default();
            let task = round::<C>(key.clone(), seen, ctx.clone(), client.clone(), recorder.clone(), clock.clone());
            running.insert(rounds.spawn(task).id(), key);
        }
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(done) = rounds.join_next_with_id() => {
                let id = match &done { Ok((id, _)) => *id, Err(panic) => panic.id() };
                let key = running.remove(&id).expect("every spawned round is in `running`");
                let Ok((_, (_, outcome))) = done else {
                    tracing::error!(controller = C::NAME, %key, "a round panicked; the key waits for its next change");
                    queue.finished(&key, None);
                    continue;
                };
                settle(C::NAME, &queue, &mut pending, &mut failures, key, outcome);
            }
            () = queue.ready() => {}
        }
    }
    rounds.shutdown().await;
}

struct Outcome {
    seen: Vec<Seen>,
    again_after: Option<Duration>,
    error: Option<ClientError>,
}

impl Outcome {
    fn note(&mut self, result: Result<Done, ClientError>) {
        match result {
            Ok(done) => {
                self.seen.extend(done.seen);
                self.again_after = self.again_after.into_iter().chain(done.again_after).min();
            }
            Err(error) => self.error = Some(error),
        }
    }
}

fn settle(
    name: &str,
    queue: &Queue,
    pending: &mut BTreeMap<Key, Vec<Seen>>,
    failures: &mut BTreeMap<Key, Backoff>,
    key: Key,
    outcome: Outcome,
) {
    if !outcome.seen.is_empty() {
        pending.insert(key.clone(), outcome.seen);
    }
    let wait = match &outcome.error {
        None => {
            failures.remove(&key);
            outcome.again_after
        }
        Some(error) => {
            queue.count(Counted::retried);
            let wait = failures.entry(key.clone()).or_insert_with(|| Backoff::new(RETRY.0, RETRY.1)).fail();
            tracing::debug!(controller = name, %key, error = %base::chain(error), ?wait, "round failed");
            Some(outcome.again_after.map_or(wait, |again| again.min(wait)))
        }
    };
    queue.finished(&key, wait);
}

/// One key: waits for its earlier writes to show, plans, executes.
async fn round<C: Controller>(
    key: Key,
    seen: Vec<Seen>,
    ctx: Context,
    client: Client,
    recorder: Recorder,
    clock: Arc<dyn Clock>,
) -> (Key, Outcome) {
    for seen in &seen {
        seen.kind.wait(&client, &seen.until).await;
    }
    let plan = match C::view(&key, &ctx) {
        Some(view) => C::plan(&view, clock.now()),
        None => Plan::done(),
    };
    (key, execute(plan, &client, &recorder).await)
}

/// Does the writes in order, neighbouring creates and deletes together.
async fn execute(plan: Plan, client: &Client, recorder: &Recorder) -> Outcome {
    for event in plan.events {
        recorder.record_ref(event.about, event.kind, &event.reason, &event.message);
    }
    let mut outcome = Outcome { seen: Vec::new(), again_after: plan.again_after, error: None };
    let mut writes = plan.writes.into_iter().peekable();
    while let Some(first) = writes.next() {
        let mut batch = vec![first];
        while batch[0].is_parallel() && batch.len() < BATCH {
            match writes.next_if(Write::is_parallel) {
                Some(next) => batch.push(next),
                None => break,
            }
        }
        // One needs no task of its own.
        if let [write] = &batch[..] {
            outcome.note(send(write, client, recorder).await);
        } else {
            let mut set = JoinSet::new();
            for write in batch {
                let (client, recorder) = (client.clone(), recorder.clone());
                set.spawn(async move { send(&write, &client, &recorder).await });
            }
            while let Some(done) = set.join_next().await {
                let panicked = |panic| Err(ClientError::Malformed(format!("a write panicked: {panic}")));
                outcome.note(done.unwrap_or_else(panicked));
            }
        }
        if outcome.error.is_some() {
            break;
        }
    }
    outcome
}

/// One write, with its events.
async fn send(write: &Write, client: &Client, recorder: &Recorder) -> Result<Done, ClientError> {
    let tell = |event: &Option<PlannedEvent>, from: &str, to: &str| {
        if let Some(e) = event {
            recorder.record_ref(e.about.clone(), e.kind, &e.reason, &e.message.replace(from, to));
        }
    };
    match send_verb(&write.verb, client).await {
        Ok((name, done)) => {
            tell(&write.on_success, "{name}", &name);
            Ok(done)
        }
        Err(e) if write.tolerate == Tolerate::Done && (e.is_already_exists() || e.is_not_found()) => {
            Ok(Done::default())
        }
        // A precondition on the UID failed: the object planned for is gone.
        Err(e) if matches!(write.verb, Verb::Delete(..)) && e.is_conflict() => Ok(Done::default()),
        // Nothing can be created in a namespace that goes away; its controller cleans up.
        Err(e) if e.is_namespace_terminating() => Ok(Done::default()),
        Err(error) => {
            tracing::debug!(%write, error = %base::chain(&error), "write failed");
            // A conflict is settled by planning again from newer state; nobody needs to hear of it.
            if !error.is_conflict() {
                let text = error.to_string();
                tell(&write.on_failure, "{error}", &text);
                if let Some(instead) = write.otherwise.as_ref().and_then(|o| o(&text))
                    && let Err(e) = send_verb(&instead.verb, client).await
                {
                    tracing::debug!(write = %instead, error = %base::chain(&e), "telling of the failure failed");
                }
            }
            Err(error)
        }
    }
}

async fn send_verb(verb: &Verb, client: &Client) -> Result<(String, Done), ClientError> {
    let seen = |kind, until| Done { seen: vec![Seen { kind, until }], again_after: None };
    let at = |kind, revision| seen(kind, SeenUntil::Revision(revision));
    match verb {
        Verb::Create(o) => o.create(client).await.map(|(name, r)| (name, at(o.kinds(), r))),
        Verb::Update(o) => o.update(client).await.map(|(name, r)| (name, at(o.kinds(), r))),
        Verb::UpdateStatus(o) => o.update_status(client).await.map(|(name, r)| (name, at(o.kinds(), r))),
        Verb::Patch(t, sub, patch) => {
            t.kinds.patch(client, &t.key, sub, patch).await.map(|r| (t.key.name.clone(), at(t.kinds, r)))
        }
        Verb::Delete(t, params) => {
            t.kinds.delete(client, &t.key, params).await?;
            let until = SeenUntil::Deleted { key: t.key.clone(), uid: t.uid.clone() };
            Ok((t.key.name.clone(), seen(t.kinds, until)))
        }
        Verb::Run(task) => task.run(client).await.map(|done| (task.title(), done)),
    }
}

// === Queue ===

/// Keys to plan: each at most once, never one that is being planned, delayed ones at their time.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<QueueState>,
    changed: Notify,
    counted: Option<Counted>,
}

#[derive(Default)]
struct QueueState {
    /// Since when each waits.
    ready: BTreeMap<Key, Instant>,
    /// Since when each is planned.
    running: BTreeMap<Key, Instant>,
    delayed: Delayed,
}

/// Keys that wait for their time.
#[derive(Default)]
struct Delayed {
    at: BTreeMap<Key, Instant>,
    /// The same by time: most keys wait for long, and are not looked at for each that is taken.
    order: BTreeSet<(Instant, Key)>,
}

impl Delayed {
    fn insert(&mut self, key: Key, at: Instant) {
        self.remove(&key);
        self.order.insert((at, key.clone()));
        self.at.insert(key, at);
    }

    fn remove(&mut self, key: &Key) {
        if let Some((key, at)) = self.at.remove_entry(key) {
            self.order.remove(&(at, key));
        }
    }

    fn next(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// One whose time has come.
    fn take_due(&mut self, now: Instant) -> Option<Key> {
        let (_, key) = self.order.first().filter(|(at, _)| *at <= now)?.clone();
        self.remove(&key);
        Some(key)
    }
}

impl Queue {
    fn counted(counted: Counted) -> Self {
        Queue { counted: Some(counted), ..Queue::default() }
    }

    pub(crate) fn add(&self, key: Key) {
        let mut state = self.state.lock();
        state.delayed.remove(&key);
        let is_new = match state.ready.entry(key) {
            Entry::Vacant(place) => {
                place.insert(Instant::now());
                true
            }
            Entry::Occupied(_) => false,
        };
        if is_new {
            let waiting = state.ready.len();
            drop(state);
            self.count(|counted| counted.added(waiting));
            self.changed.notify_one();
        }
    }

    fn count(&self, count: impl FnOnce(&Counted)) {
        if let Some(counted) = &self.counted {
            count(counted);
        }
    }

    /// The next key that may be planned now.
    fn take(&self) -> Option<Key> {
        let mut state = self.state.lock();
        let now = Instant::now();
        while let Some(key) = state.delayed.take_due(now) {
            state.ready.insert(key, now);
        }
        let key = state.ready.keys().find(|k| !state.running.contains_key(*k)).cloned()?;
        let since = state.ready.remove(&key).unwrap_or(now);
        state.running.insert(key.clone(), now);
        let waiting = state.ready.len();
        drop(state);
        self.count(|counted| counted.taken(now.duration_since(since), waiting));
        Some(key)
    }

    fn finished(&self, key: &Key, again_after: Option<Duration>) {
        let mut state = self.state.lock();
        let since = state.running.remove(key);
        if let Some(since) = since {
            self.count(|counted| counted.worked(since.elapsed()));
        }
        // Some objects name seconds that no clock will ever count: those never come.
        if let Some(at) = again_after.and_then(|wait| Instant::now().checked_add(wait))
            && !state.ready.contains_key(key)
        {
            state.delayed.insert(key.clone(), at);
        }
    }

    /// Resolves when [`Self::take`] may have something new.
    async fn ready(&self) {
        let next = self.state.lock().delayed.next();
        match next {
            Some(at) => {
                tokio::select! { biased; () = self.changed.notified() => {}, () = tokio::time::sleep_until(at) => {} }
            }
            None => self.changed.notified().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_runs_once_at_a_time_and_is_kept_when_added_meanwhile() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
        queue.add(key("a"));
        assert_eq!(queue.take(), None);
        queue.finished(&key("a"), None);
        assert_eq!(queue.take(), Some(key("a")));
        queue.finished(&key("a"), None);
        assert_eq!(queue.take(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_delayed_key_is_ready_at_its_time_or_when_added() {
        let queue = Queue::default();
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
        queue.finished(&key("a"), Some(Duration::from_secs(5)));
        queue.changed.notified().await;
        assert_eq!(queue.take(), None);
        let before = Instant::now();
        queue.ready().await;
        assert_eq!(before.elapsed(), Duration::from_secs(5));
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_may_be_delayed_for_ever() {
        let queue = Queue::default();
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
        queue.finished(&key("a"), Some(Duration::from_secs(u64::MAX)));
        assert_eq!(queue.take(), None);
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")));
    }

    #[tokio::test(start_paused = true)]
    async fn delayed_keys_come_in_the_order_of_their_times_and_a_later_one_replaces_an_earlier() {
        let queue = Queue::default();
        for (name, seconds) in [("a", 30), ("b", 10), ("c", 20), ("b", 40)] {
            queue.finished(&key(name), Some(Duration::from_secs(seconds)));
        }
        queue.add(key("a"));
        assert_eq!(queue.take(), Some(key("a")), "added meanwhile: it no longer waits");
        queue.changed.notified().await;
        let begin = Instant::now();
        let mut order = Vec::new();
        for _ in 0..2 {
            queue.ready().await;
            order.push((queue.take(), begin.elapsed().as_secs()));
        }
        assert_eq!(order, [(Some(key("c")), 20), (Some(key("b")), 40)]);
    }
}
