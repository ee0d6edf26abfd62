//! Priority and fairness: every request has a flow, every flow a priority level, every level seats and queues, so that no client
//! keeps others, and above all not the system, from being served (`apiserver/pkg/util/flowcontrol`).
//!
//! ```text
//!  request ──▶ classify.rs: FlowSchema ──▶ book.rs: seat of its level │ queue │ 429
//!  FlowSchemas, PriorityLevelConfigurations ──▶ [`follow`] ──▶ Config, limits, Dangling conditions
//!                 ▲── defaults.rs
//! ```
//!
//! Nothing is done per time: a request costs a look at the schemas and a short lock. A server whose configuration was not read
//! yet (and one in a test that does not run this) lets everything pass.

mod book;
mod classify;
mod defaults;
mod watchers;
mod width;

use crate::admission::Cluster;
use crate::api_server::{ApiServer, Call};
use crate::metrics::{Executing, FlowMetrics, FlowNumbers};
use crate::reader::{KindRef, Stored, storage_of};
use crate::{Body, status};
use api::k8s::api::flowcontrol::v1::{
    ExemptPriorityLevelConfiguration, FlowSchema, FlowSchemaCondition, PriorityLevelConfiguration,
};
use api::prelude::{AnyObject, MetaExt, Object};
use api::{Status, Time};
use arc_swap::ArcSwapOption;
use book::{Book, Entry, Limits, Queues};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use store::{At, Page, Range, StoreError};
use tokio::sync::oneshot;
use tokio_util::sync::{CancellationToken, DropGuard};
use width::Counts;

pub(crate) use watchers::{Watchers, Watching};
pub(crate) use width::Stats;

/// Seats of the server (`--max-requests-inflight` and `--max-mutating-requests-inflight`).
const SEATS: u32 = 600;
/// A request waits no longer than this in its queue (a quarter of `--request-timeout`).
const QUEUE_WAIT: Duration = Duration::from_secs(15);
/// Between a failed write of ours and the next try.
const RETRY: Duration = Duration::from_secs(1);

const SCHEMA_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_UID: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// The configuration in force, and who runs and waits.
pub(crate) struct Flow {
    config: ArcSwapOption<Config>,
    book: Mutex<Book<oneshot::Sender<()>>>,
    counts: Counts,
    watchers: Arc<Watchers>,
}

struct Config {
    /// In order of precedence; only those whose level exists.
    schemas: Vec<FlowSchema>,
    /// One of each schema.
    classes: Vec<Class>,
}

/// Where a request was put, for its answer and the metrics.
#[derive(Clone)]
pub(crate) struct Class {
    schema_uid: Arc<str>,
    level: Arc<str>,
    level_uid: Arc<str>,
    numbers: Arc<FlowNumbers>,
}

/// What a level allows, for the metrics.
pub(crate) struct LevelLimits {
    pub(crate) nominal: u32,
    pub(crate) lower: u32,
    pub(crate) upper: u32,
    pub(crate) current: u32,
}

/// A seat in use; given back when dropped.
pub(crate) struct Seat {
    flow: Arc<Flow>,
    level: Arc<str>,
    cost: Cost,
    _executing: Executing,
}

/// What a request takes: seats, which it keeps for a while after it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cost {
    seats: u32,
    linger: Duration,
}

impl Cost {
    const ONE: Cost = Cost::of(1);

    const fn of(seats: u32) -> Self {
        Cost { seats, linger: Duration::ZERO }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let (flow, level, Cost { seats, linger }) = (self.flow.clone(), self.level.clone(), self.cost);
        if linger.is_zero() {
            flow.give_back(&level, seats);
        } else {
            base::tasks::detach("flow-linger", async move {
                tokio::time::sleep(linger).await;
                flow.give_back(&level, seats);
            });
        }
    }
}

/// Whoever stopped waiting gives the seat back itself ([`Waiting`]).
fn wake(woken: Vec<oneshot::Sender<()>>) {
    for waiter in woken {
        waiter.send(()).ok();
    }
}

/// A place in a queue; given up when dropped, also if a seat came in that moment.
struct Waiting {
    flow: Arc<Flow>,
    level: Arc<str>,
    id: u64,
    seats: u32,
    seated: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.seated {
            return;
        }
        let mut book = self.flow.book.lock();
        let woken = if book.give_up(&self.level, self.id) { Vec::new() } else { book.leave(&self.level, self.seats) };
        drop(book);
        wake(woken);
    }
}

impl Default for Flow {
    fn default() -> Self {
        Flow {
            config: ArcSwapOption::empty(),
            book: Mutex::new(Book::new(SEATS)),
            counts: Counts::default(),
            watchers: Arc::default(),
        }
    }
}

impl Flow {
    /// Which flow a request is of; `None` if requests are not told apart.
    pub(crate) fn classify(&self, call: &Call) -> Option<(Class, u64)> {
        let config = self.config.load();
        let config = config.as_ref()?;
        if is_long_running(call) {
            return None;
        }
        let place = classify::classify(&config.schemas, &call.info, &call.user)?;
        let flow = classify::flow_of(&config.schemas[place], &call.info, &call.user);
        Some((config.classes[place].clone(), flow))
    }

    /// A seat, now or after some waiting; the reason if there is none.
    pub(crate) async fn seat(
        self: &Arc<Self>,
        class: &Class,
        flow: u64,
        cost: Cost,
        is_watch: bool,
    ) -> Result<Seat, &'static str> {
        let (sender, receiver) = oneshot::channel();
        let (level, seats) = (&class.level, cost.seats);
        let entry = self.book.lock().enter(level, flow, seats, sender);
        let seat = || {
            let _executing = class.numbers.executes(seats, is_watch);
            Seat { flow: self.clone(), level: level.clone(), cost, _executing }
        };
        match entry {
            Entry::Runs => Ok(seat()),
            Entry::Refused(why) => Err(why),
            Entry::Waits { id, place } => {
                let mut waiting = Waiting { flow: self.clone(), level: level.clone(), id, seats, seated: false };
                let _counted = class.numbers.waits(seats, place);
                match tokio::time::timeout(QUEUE_WAIT, receiver).await {
                    Ok(Ok(())) => {
                        waiting.seated = true;
                        Ok(seat())
                    }
                    _ => Err("time-out"),
                }
            }
        }
    }

    fn give_back(&self, level: &str, seats: u32) {
        let woken = self.book.lock().leave(level, seats);
        wake(woken);
    }

    /// Who watches.
    pub(crate) fn watchers(&self) -> &Arc<Watchers> {
        &self.watchers
    }

    /// What a request costs: lists and watches that begin with one take more seats than others, and so do writes that many watch.
    pub(crate) async fn cost(&self, server: &ApiServer, call: &Call, class: &Class) -> Cost {
        let most = || self.book.lock().limits_of(&class.level).map_or(1, Limits::widest);
        match call.info.verb.as_ref() {
            "create" | "update" | "patch" | "delete" => match self.watchers.of_write(&call.info) {
                None => Cost::ONE,
                Some(watchers) => {
                    class.numbers.watched_by(watchers);
                    watchers::cost(watchers, most)
                }
            },
            "list" | "watch" => Cost::of(self.width(server, call, most).await),
            _ => Cost::ONE,
        }
    }

    async fn width(&self, server: &ApiServer, call: &Call, most: impl FnOnce() -> u32) -> u32 {
        let info = &call.info;
        let query = |name: &str| call.query.get(name).unwrap_or_default();
        let lists = match info.verb.as_ref() {
            "list" => true,
            "watch" => {
                call.query.flag("sendInitialEvents") == Some(true) || matches!(query("resourceVersion"), "" | "0")
            }
            _ => false,
        };
        // A list of one name is a get.
        if !lists || !info.name.is_empty() {
            return 1;
        }
        let Some(kind) = server.find_kind(&info.group, &info.version, &info.resource) else { return 1 };
        let range = Range::all(format!("/{}/", kind.info().storage));
        let stats = match self.counts.get(&range.prefix) {
            Some(known) => known,
            None => {
                let page = Page { limit: width::SAMPLE };
                let Ok(read) = server.reader().store().list(&range, At::Latest, page).await else { return 1 };
                let stats = Stats::of(&read.value);
                self.counts.put(&range.prefix, stats);
                stats
            }
        };
        width::seats(stats, query("limit").parse().unwrap_or_default(), most())
    }

    /// What each level allows.
    pub(crate) fn limits(&self) -> Vec<(String, LevelLimits)> {
        let of = |limits: &Limits, current| LevelLimits {
            nominal: limits.nominal,
            lower: limits.nominal.saturating_sub(limits.lendable),
            upper: limits.most,
            current,
        };
        self.book.lock().limits().map(|(name, limits, current)| (name.to_owned(), of(limits, current))).collect()
    }

    #[cfg(test)]
    fn counts(&self) -> Vec<(String, u32, usize)> {
        self.book.lock().counts()
    }

    fn configure(&self, mut schemas: Vec<FlowSchema>, levels: &[PriorityLevelConfiguration], metrics: &FlowMetrics) {
        schemas.retain(|s| level_exists(s, levels));
        sort(&mut schemas);
        let woken = self.book.lock().configure(limits(levels));
        wake(woken);
        let classes = schemas.iter().map(|schema| Class::of(schema, levels, metrics)).collect();
        self.config.store(Some(Arc::new(Config { schemas, classes })));
    }
}

impl Class {
    fn of(schema: &FlowSchema, levels: &[PriorityLevelConfiguration], metrics: &FlowMetrics) -> Self {
        let level = schema.spec.as_ref().map(|s| s.priority_level_configuration.name.as_str()).unwrap_or_default();
        let found = levels.iter().find(|l| l.name() == level);
        Class {
            schema_uid: schema.metadata.uid.as_deref().unwrap_or_default().into(),
            level: level.into(),
            level_uid: found.and_then(|l| l.metadata.uid.as_deref()).unwrap_or_default().into(),
            numbers: Arc::new(metrics.of(level, schema.name())),
        }
    }

    /// What is counted of its requests.
    pub(crate) fn numbers(&self) -> &FlowNumbers {
        &self.numbers
    }

    /// `X-Kubernetes-PF-*` (`setResponseHeaders`).
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        for (name, uid) in [(SCHEMA_UID, &self.schema_uid), (LEVEL_UID, &self.level_uid)] {
            if let Ok(value) = HeaderValue::from_str(uid) {
                headers.insert(name, value);
            }
        }
    }
}

/// 429.
pub(crate) fn refusal() -> Status {
    status::too_many_requests("Too many requests, please try again later.", 1)
}

/// Connections that stay open for their own sake; watches take a seat until they have begun.
pub(crate) fn is_long_running(call: &Call) -> bool {
    call.info.verb == "proxy"
        || matches!(call.info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

/// Precedence, then name (`apihelpers.FlowSchemaSequence`).
fn sort(schemas: &mut [FlowSchema]) {
    let precedence = |s: &FlowSchema| s.spec.as_ref().and_then(|s| s.matching_precedence).unwrap_or_default();
    schemas.sort_by(|a, b| precedence(a).cmp(&precedence(b)).then_with(|| a.name().cmp(b.name())));
}

fn level_exists(schema: &FlowSchema, levels: &[PriorityLevelConfiguration]) -> bool {
    let name = schema.spec.as_ref().map(|s| s.priority_level_configuration.name.as_str()).unwrap_or_default();
    levels.iter().any(|l| l.name() == name)
}

/// Seats in proportion to shares (`apf_controller.go`, `finishQueueSetReconfigsLocked`).
fn limits(levels: &[PriorityLevelConfiguration]) -> HashMap<String, Limits> {
    let shares = |level: &PriorityLevelConfiguration| -> u32 {
        let spec = level.spec.clone().unwrap_or_default();
        let shares = match (spec.limited, spec.exempt) {
            (Some(limited), _) => limited.nominal_concurrency_shares.unwrap_or(30),
            (_, Some(exempt)) => exempt.nominal_concurrency_shares.unwrap_or(0),
            _ => 0,
        };
        u32::try_from(shares).unwrap_or_default()
    };
    let sum: u64 = levels.iter().map(|l| u64::from(shares(l))).sum::<u64>().max(1);
    let percent = |of: u32, percent: i32| (f64::from(of) * f64::from(percent) / 100.0).round() as u32;
    let one = |level: &PriorityLevelConfiguration| {
        let spec = level.spec.clone().unwrap_or_default();
        let nominal = u32::try_from((u64::from(SEATS) * u64::from(shares(level))).div_ceil(sum)).unwrap_or(SEATS);
        let limited = spec.limited.unwrap_or_default();
        let queuing = limited.limit_response.filter(|r| r.type_ == "Queue").and_then(|r| r.queuing);
        let number = |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        let lendable = match &spec.exempt {
            Some(ExemptPriorityLevelConfiguration { lendable_percent, .. }) => lendable_percent.unwrap_or(0),
            None => limited.lendable_percent.unwrap_or(0),
        };
        Limits {
            exempt: spec.type_ == "Exempt",
            nominal,
            lendable: percent(nominal, lendable),
            most: limited.borrowing_limit_percent.map_or(SEATS, |p| nominal.saturating_add(percent(nominal, p))),
            queues: queuing.map(|q| Queues {
                count: number(q.queues, 64),
                hand: number(q.hand_size, 8),
                length: number(q.queue_length_limit, 50) as usize,
            }),
        }
    };
    levels.iter().map(|l| (l.name().to_owned(), one(l))).collect()
}

/// A list holds its seat until it is written: that is most of its work. Who does not read what he asked for holds it no longer
/// than a request may take.
pub(crate) fn hold_until_written(body: Body, seat: Seat) -> Body {
    let written = CancellationToken::new();
    let held = written.clone();
    base::tasks::detach("list-seat", async move {
        // Either is the end of it.
        tokio::time::timeout(crate::server::REQUEST_TIMEOUT, held.cancelled()).await.ok();
        drop(seat);
    });
    http_body_util::BodyExt::boxed_unsync(Held { body, _written: written.drop_guard() })
}

struct Held {
    body: Body,
    _written: DropGuard,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = crate::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === the configuration ===

impl ApiServer {
    /// Keeps the default flow schemas and priority levels, and follows all of them, until `shutdown`.
    pub async fn run_flow_control(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow(&self) => {}
        }
    }
}

async fn follow(server: &ApiServer) {
    let started = server.begin_start("poststarthook/priority-and-fairness-config-consumer");
    let store = server.reader().store();
    loop {
        let after = store.revision();
        let open = async |storage: &str| store.watch(&Range::all(format!("/{storage}/")), after).await;
        let opened = (open(&storage_of::<FlowSchema>()).await, open(&storage_of::<PriorityLevelConfiguration>()).await);
        let (mut schemas, mut levels) = match opened {
            (Ok(schemas), Ok(levels)) => (schemas, levels),
            (Err(StoreError::Closed), _) | (_, Err(StoreError::Closed)) => return,
            _ => {
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        loop {
            let well = reconcile(server).await;
            if well {
                started.done();
            }
            let changed = async {
                tokio::select! {
                    events = schemas.next() => events.is_ok(),
                    events = levels.next() => events.is_ok(),
                }
            };
            let again = if well { Duration::MAX } else { RETRY };
            if tokio::time::timeout(again, changed).await == Ok(false) {
                break;
            }
        }
    }
}

/// Puts the defaults in their place, takes over what there is; false if something is to be tried again.
async fn reconcile(server: &ApiServer) -> bool {
    let same_level = |a: &PriorityLevelConfiguration, b: &PriorityLevelConfiguration| a.spec == b.spec || exempt(a, b);
    let well = ensure(server, defaults::levels(), same_level, |a, b| a.spec.clone_from(&b.spec)).await
        & ensure(server, defaults::schemas(), |a, b| a.spec == b.spec, |a, b| a.spec.clone_from(&b.spec)).await;
    let (Ok(schemas), Ok(levels)) =
        (server.reader().list::<FlowSchema>("").await, server.reader().list::<PriorityLevelConfiguration>("").await)
    else {
        return false;
    };
    let Some(kind) = kind_of::<FlowSchema>(server) else { return false };
    let changes = schemas.iter().filter_map(|schema| with_condition(schema, &levels, server.clock_now()));
    let all = changes.map(async |schema| server.apply_own(&kind, "status", CONSUMER, status_config(&schema)).await);
    let written = all_done(futures_util::future::join_all(all).await);
    server.inner.flow.configure(schemas, &levels, &server.inner.metrics.flow);
    well & written
}

/// Of the exempt level, shares and lending are the user's.
fn exempt(a: &PriorityLevelConfiguration, b: &PriorityLevelConfiguration) -> bool {
    let kind = |l: &PriorityLevelConfiguration| l.spec.as_ref().map(|s| s.type_.clone()).unwrap_or_default();
    kind(a) == "Exempt" && kind(b) == "Exempt"
}

async fn ensure<K: Object + MetaExt>(
    server: &ApiServer,
    defaults: Vec<K>,
    same_spec: impl Fn(&K, &K) -> bool,
    take_spec: impl Fn(&mut K, &K),
) -> bool {
    let Ok(stored) = server.reader().list::<K>("").await else { return false };
    let Some(kind) = kind_of::<K>(server) else { return false };
    let find = |name: &str| stored.iter().find(|s| s.name() == name);
    let changed = defaults.iter().filter_map(|d| defaults::revised(find(d.name()), d, &same_spec, &take_spec));
    // All at once: the store syncs them together.
    let all = changed.map(async |object| {
        let is_new = object.meta().resource_version.is_none();
        let object: Box<dyn AnyObject> = Box::new(object);
        match is_new {
            true => server.create(&kind, "", object).await,
            false => server.update(&kind, "", object).await,
        }
    });
    all_done(futures_util::future::join_all(all).await)
}

/// Whether nothing is to be written once more. Another server may have been faster; its write wakes us.
fn all_done(results: Vec<Result<Stored, Status>>) -> bool {
    let lost = |failure: &Status| matches!(failure.reason.as_str(), "AlreadyExists" | "Conflict" | "NotFound");
    results.into_iter().filter_map(Result::err).all(|failure| lost(&failure))
}

/// Who holds the conditions of schemas (`pkg/util/flowcontrol/apf_controller.go`, `asFieldManager`).
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";

/// The part of a schema that is ours.
fn status_config(schema: &FlowSchema) -> Value {
    let conditions = schema.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let own: Vec<&FlowSchemaCondition> = conditions.filter(|c| c.type_.as_deref() == Some(DANGLING)).collect();
    json!({
        "apiVersion": FlowSchema::API_VERSION,
        "kind": FlowSchema::KIND,
        "metadata": { "name": schema.name() },
        "status": { "conditions": own },
    })
}

const DANGLING: &str = "Dangling";

fn kind_of<K: Object>(server: &ApiServer) -> Option<KindRef> {
    server.find_kind(K::GROUP, K::VERSION, K::PLURAL)
}

/// Whether its level exists; `None` if the condition says so already (`apf_controller.go`, `syncFlowSchemaStatus`).
fn with_condition(
    schema: &FlowSchema,
    levels: &[PriorityLevelConfiguration],
    now: jiff::Timestamp,
) -> Option<FlowSchema> {
    let name = schema.spec.as_ref().map(|s| s.priority_level_configuration.name.clone()).unwrap_or_default();
    let start = format!("This FlowSchema references the PriorityLevelConfiguration object named {name:?}");
    let (status, reason, message) = match level_exists(schema, levels) {
        true => ("False", "Found", format!("{start} and it exists")),
        false => ("True", "NotFound", format!("{start} but there is no such object")),
    };
    let is = |c: &FlowSchemaCondition| c.type_.as_deref() == Some(DANGLING);
    let old = schema.status.iter().flat_map(|s| s.conditions.iter().flatten()).find(|c| is(c));
    if old.is_some_and(|c| c.status.as_deref() == Some(status) && c.message.as_deref() == Some(&message)) {
        return None;
    }
    let mut next = schema.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    conditions.retain(|c| !is(c));
    conditions.push(FlowSchemaCondition {
        type_: Some(DANGLING.to_owned()),
        status: Some(status.to_owned()),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
    });
    Some(next)
}

#[cfg(test)]
mod tests;
