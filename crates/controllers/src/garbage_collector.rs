//! GarbageCollector: deletes what has only absent owners, and finishes foreground and orphaning deletions.
//!
//! Watches   the metadata of every resource that can be deleted, listed and watched (custom ones when they appear).
//! Writes    any object: delete, `ownerReferences` and `finalizers`.
//! Invariant nothing is deleted before each of its owners was found absent at the API server, by UID; every write has the
//!           object's UID or resourceVersion as a precondition.
//! Differs   from upstream (`pkg/controller/garbagecollector`): no virtual nodes; an owner that the graph does not know is
//!           asked for once and remembered. An owner that the graph knows is not asked for again.

use crate::garbage_graph::{Dependent, Graph, Node, Owner, OwnerState};
use crate::plan::{Done, Key, Plan, PlannedEvent, Task, Write};
use crate::raw::{self, MetaEvent, Resource};
use crate::run::{Context, Controller, Source, Watches};
use api::k8s::api::core::v1::ObjectReference;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use api::prelude::*;
use async_trait::async_trait;
use base::backoff::Backoff;
use client::{Client, ClientError, EventKind};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";
/// A new CustomResourceDefinition is served a moment after it appears: look at once, and once more.
const REDISCOVER: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

pub(crate) struct GarbageCollector;

/// The graph, shared by the watches that fill it and the plans that read it.
type Shared = Mutex<Graph>;

pub(crate) struct View {
    item: Arc<Node>,
    owners: Vec<Owner>,
    dependents: Vec<Dependent>,
    graph: Arc<Shared>,
}

impl Controller for GarbageCollector {
    const NAME: &'static str = "generic-garbage-collector";
    type View = View;

    fn watches(watches: &mut Watches<'_>) {
        watches.source(|source| async move { watch_everything(source).await });
    }

    /// The key's name is the item's UID.
    fn view(key: &Key, ctx: &Context) -> Option<View> {
        let graph = ctx.shared::<Shared>();
        let (item, owners, dependents) = graph.lock().around(&key.name)?;
        Some(View { item, owners, dependents, graph })
    }

    fn plan(view: &View, _now: Timestamp) -> Plan {
        let mut plan = Plan::done();
        for owner in view.owners.iter().filter(|o| o.wrong_namespace) {
            plan.events.push(invalid_namespace(&view.item, owner));
        }
        match decide(&view.item, &view.owners, &view.dependents) {
            Decision::Keep => {}
            Decision::Verify(owners) => {
                plan.writes.push(Write::run(Verify { item: view.item.clone(), owners, graph: view.graph.clone() }));
            }
            Decision::Act(acts) => plan.writes.extend(acts.into_iter().map(Write::run)),
        }
        plan
    }
}

// === deciding ===

/// What is to be done about one item.
enum Decision {
    Keep,
    /// These owners are not in the graph: ask for them first.
    Verify(Vec<api::OwnerReference>),
    /// In this order.
    Act(Vec<Act>),
}

/// `attemptToDeleteItem`, `processDeletingDependentsItem` and `attemptToOrphanWorker` in one.
fn decide(item: &Node, owners: &[Owner], dependents: &[Dependent]) -> Decision {
    if item.deleting && item.has(ORPHAN) {
        let mut acts: Vec<Act> = dependents.iter().map(|d| Act::disown(&d.node, &[item.uid.as_str()])).collect();
        acts.push(Act::without_finalizer(item, ORPHAN));
        return Decision::Act(acts);
    }
    if item.deleting && item.has(FOREGROUND) {
        return match dependents.iter().any(|d| d.blocks) {
            true => Decision::Keep,
            false => Decision::Act(vec![Act::without_finalizer(item, FOREGROUND)]),
        };
    }
    if item.deleting || owners.is_empty() {
        return Decision::Keep;
    }
    let unknown: Vec<api::OwnerReference> =
        owners.iter().filter(|o| o.state == OwnerState::Unknown).map(|o| o.reference.clone()).collect();
    if !unknown.is_empty() {
        return Decision::Verify(unknown);
    }
    let uids = |wanted: &[OwnerState]| -> Vec<&str> {
        owners.iter().filter(|o| wanted.contains(&o.state)).map(|o| o.reference.uid.as_str()).collect()
    };
    let waiting = uids(&[OwnerState::WaitsForDependents]);
    if !uids(&[OwnerState::Solid]).is_empty() {
        let gone = uids(&[OwnerState::Absent, OwnerState::WaitsForDependents]);
        return if gone.is_empty() { Decision::Keep } else { Decision::Act(vec![Act::disown(item, &gone)]) };
    }
    if !waiting.is_empty() && !dependents.is_empty() {
        let mut acts = Vec::new();
        // A circle: whoever waits for us would never stop waiting.
        if dependents.iter().any(|d| d.node.deleting && d.node.has(FOREGROUND)) {
            acts.extend(Act::unblock(item));
        }
        // After unblocking the resourceVersion is another one.
        acts.push(Act::delete(item, "Foreground", acts.is_empty()));
        return Decision::Act(acts);
    }
    let policy = match (item.has(ORPHAN), item.has(FOREGROUND)) {
        (true, _) => "Orphan",
        (false, true) => "Foreground",
        (false, false) => "Background",
    };
    Decision::Act(vec![Act::delete(item, policy, true)])
}

fn invalid_namespace(item: &Node, owner: &Owner) -> PlannedEvent {
    let r = &owner.reference;
    let about = ObjectReference {
        api_version: Some(item.resource.api_version()),
        kind: Some(item.resource.kind.clone()),
        namespace: Some(item.namespace.clone()).filter(|n| !n.is_empty()),
        name: Some(item.name.clone()),
        uid: Some(item.uid.clone()),
        ..ObjectReference::default()
    };
    let named =
        format!("[{}/{}, namespace: {}, name: {}, uid: {}]", r.api_version, r.kind, item.namespace, r.name, r.uid);
    PlannedEvent {
        about,
        kind: EventKind::Warning,
        reason: "OwnerRefInvalidNamespace".into(),
        message: format!("ownerRef {named} does not exist in namespace {:?}", item.namespace),
    }
}

// === doing ===

/// One write on an object of any kind.
struct Act {
    resource: Arc<Resource>,
    namespace: String,
    name: String,
    change: Change,
}

enum Change {
    /// `DeleteOptions`.
    Delete(Value),
    /// A merge patch that has the resourceVersion in it.
    Patch(Value),
}

impl Act {
    fn on(item: &Node, change: Change) -> Self {
        let (namespace, name) = (item.namespace.clone(), item.name.clone());
        Act { resource: item.resource.clone(), namespace, name, change }
    }

    fn delete(item: &Node, policy: &str, this_revision: bool) -> Self {
        let mut preconditions = json!({"uid": item.uid});
        if this_revision {
            preconditions["resourceVersion"] = item.revision.as_str().into();
        }
        Self::on(
            item,
            Change::Delete(json!({
                "kind": "DeleteOptions", "apiVersion": "v1",
                "propagationPolicy": policy, "preconditions": preconditions,
            })),
        )
    }

    fn metadata(item: &Node, field: &str, value: Value) -> Self {
        let mut metadata = json!({"uid": item.uid, "resourceVersion": item.revision});
        metadata[field] = value;
        Self::on(item, Change::Patch(json!({"metadata": metadata})))
    }

    /// Takes owners off.
    fn disown(item: &Node, owners: &[&str]) -> Self {
        let kept: Vec<&api::OwnerReference> =
            item.owners.iter().filter(|o| !owners.contains(&o.uid.as_str())).collect();
        Self::metadata(item, "ownerReferences", json!(kept))
    }

    /// Stops holding up its owners' deletion; `None` if it does not.
    fn unblock(item: &Node) -> Option<Self> {
        let mut owners = item.owners.clone();
        let mut blocking = owners.iter_mut().filter(|o| o.block_owner_deletion == Some(true)).peekable();
        blocking.peek()?;
        blocking.for_each(|o| o.block_owner_deletion = Some(false));
        Some(Self::metadata(item, "ownerReferences", json!(owners)))
    }

    fn without_finalizer(item: &Node, finalizer: &str) -> Self {
        let kept: Vec<&String> = item.finalizers.iter().filter(|f| *f != finalizer).collect();
        Self::metadata(item, "finalizers", json!(kept))
    }
}

#[async_trait]
impl Task for Act {
    fn title(&self) -> String {
        let at = format!("{} {}", self.resource.plural, Key::new(&self.namespace, &self.name));
        match &self.change {
            Change::Delete(options) => {
                format!("delete {at} {}", options["propagationPolicy"].as_str().unwrap_or_default())
            }
            Change::Patch(patch) => format!("patch {at} {patch}"),
        }
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let result = match &self.change {
            Change::Delete(options) => raw::delete(client, &self.resource, &self.namespace, &self.name, options).await,
            Change::Patch(patch) => raw::merge_patch(client, &self.resource, &self.namespace, &self.name, patch).await,
        };
        match result {
            Err(e) if e.is_not_found() => Ok(Done::default()),
            // The graph lags behind; the event is on its way, and the back-off is short.
            other => other.map(|()| Done::default()),
        }
    }
}

/// Asks for owners that the graph does not know, and tells the graph.
struct Verify {
    item: Arc<Node>,
    owners: Vec<api::OwnerReference>,
    graph: Arc<Shared>,
}

#[async_trait]
impl Task for Verify {
    fn title(&self) -> String {
        let names: Vec<String> = self.owners.iter().map(|o| format!("{} {}", o.kind, o.name)).collect();
        format!("verify {} of {}", names.join(", "), self.item.name)
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        for reference in &self.owners {
            let Some(resource) = self.graph.lock().resource(&reference.api_version, &reference.kind) else {
                let what = format!("no resource is served for owner {} {}", reference.api_version, reference.kind);
                return Err(ClientError::Malformed(what));
            };
            let namespace = if resource.namespaced { self.item.namespace.as_str() } else { "" };
            // A cluster-scoped object cannot have a namespaced owner; upstream leaves such an object alone.
            let state = if resource.namespaced && namespace.is_empty() {
                OwnerState::Solid
            } else {
                match raw::find(client, &resource, namespace, &reference.name).await? {
                    Some(meta) if meta.uid() == reference.uid => {
                        let waits = meta.is_deleting() && meta.has_finalizer(FOREGROUND);
                        if waits { OwnerState::WaitsForDependents } else { OwnerState::Solid }
                    }
                    _ => OwnerState::Absent,
                }
            };
            self.graph.lock().verified(&self.item.namespace, reference, state);
        }
        Ok(Done::again(Duration::ZERO))
    }
}

// === watching ===

/// Discovers, watches what is served, and does so again when custom resources change.
async fn watch_everything(source: Source) {
    let graph = source.ctx().shared::<Shared>();
    graph.lock().clear();
    let changed = Arc::new(Notify::new());
    let mut definitions = None;
    let mut running: BTreeMap<(String, String), (Arc<Resource>, AbortHandle)> = BTreeMap::new();
    let mut tasks = JoinSet::new();
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
    loop {
        match raw::discover(source.client()).await {
            Ok(all) => {
                backoff.reset();
                if definitions.is_none() && all.iter().any(|r| r.plural == "customresourcedefinitions") {
                    let (changed, cache) = (changed.clone(), source.ctx().cache::<CustomResourceDefinition>());
                    definitions = Some(cache.on_change(move |_| changed.notify_one()));
                }
                let listed = adjust(&source, &graph, all, &mut running, &mut tasks);
                if !listed.is_empty() {
                    for mut listed in listed {
                        // The sender is dropped only with its task; then there is nothing to wait for.
                        drop(listed.wait_for(|l| *l).await);
                    }
                }
                source.ready();
                changed.notified().await;
                tokio::time::sleep(REDISCOVER[0]).await;
                // Once more a little later, without holding up this look.
                let changed = changed.clone();
                tasks.spawn(async move {
                    tokio::time::sleep(REDISCOVER[1]).await;
                    changed.notify_one();
                });
            }
            Err(error) => {
                tracing::debug!(error = %base::chain(&error), "discovery failed");
                tokio::time::sleep(backoff.fail()).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Starts and stops watches so that they are those of `all`; tells when the new ones have listed.
fn adjust(
    source: &Source,
    graph: &Arc<Shared>,
    all: Vec<Resource>,
    running: &mut BTreeMap<(String, String), (Arc<Resource>, AbortHandle)>,
    tasks: &mut JoinSet<()>,
) -> Vec<watch::Receiver<bool>> {
    graph.lock().serve(all.iter().cloned().map(Arc::new).collect());
    let wanted: BTreeMap<(String, String), Resource> =
        all.into_iter().filter(is_collected).map(|r| ((r.group.clone(), r.plural.clone()), r)).collect();
    running.retain(|key, (resource, task)| {
        let same = wanted.get(key).is_some_and(|r| r == resource.as_ref());
        if !same {
            task.abort();
            graph.lock().unwatched(resource).into_iter().for_each(|uid| source.add(Key::new("", &uid)));
        }
        same
    });
    let mut listed = Vec::new();
    for (key, resource) in wanted {
        if running.contains_key(&key) {
            continue;
        }
        let resource = Arc::new(resource);
        let (done, receiver) = watch::channel(false);
        let task = tasks.spawn(follow(source.clone(), graph.clone(), resource.clone(), done));
        running.insert(key, (resource, task));
        listed.push(receiver);
    }
    listed
}

/// All but events, which have no owners and come in masses (`DefaultIgnoredResources`).
fn is_collected(resource: &Resource) -> bool {
    ["delete", "list", "watch"].iter().all(|v| resource.supports(v))
        && !(resource.plural == "events" && matches!(resource.group.as_str(), "" | "events.k8s.io"))
}

/// Keeps the graph's part of one resource.
async fn follow(source: Source, graph: Arc<Shared>, resource: Arc<Resource>, listed: watch::Sender<bool>) {
    let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(30));
    let mut from: Option<String> = None;
    loop {
        let ended = follow_once(&source, &graph, &resource, &listed, &mut from, &mut backoff).await;
        // A server that ends watches at once (it is stopping) must not make us spin.
        let wait = backoff.fail();
        if let Err(error) = ended {
            if error.is_gone() {
                from = None;
            }
            // What cannot be listed must not hold up the rest.
            listed.send_replace(true);
            tracing::debug!(resource = resource.plural, error = %base::chain(&error), ?wait, "metadata watch failed");
        }
        tokio::time::sleep(wait).await;
    }
}

async fn follow_once(
    source: &Source,
    graph: &Arc<Shared>,
    resource: &Arc<Resource>,
    listed: &watch::Sender<bool>,
    from: &mut Option<String>,
    backoff: &mut Backoff,
) -> Result<(), ClientError> {
    let add = |uids: Vec<String>| uids.into_iter().for_each(|uid| source.add(Key::new("", &uid)));
    let start = match from.clone() {
        Some(revision) => revision,
        None => {
            let (items, revision) = raw::list(source.client(), resource, "").await?;
            add(graph.lock().replace(resource, items));
            listed.send_replace(true);
            *from = Some(revision.clone());
            revision
        }
    };
    let mut watch = raw::MetaWatch::start(source.client(), resource, &start).await?;
    while let Some(event) = watch.next().await? {
        backoff.reset();
        *from = Some(match event {
            MetaEvent::Present(meta) => {
                let revision = meta.resource_version.clone().unwrap_or_default();
                add(graph.lock().present(resource, *meta));
                revision
            }
            MetaEvent::Gone(meta) => {
                add(graph.lock().gone(meta.uid()));
                meta.resource_version.clone().unwrap_or_default()
            }
            MetaEvent::Bookmark(revision) => revision,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// A server that is stopping: lists are empty, watches end at once. More requests than anybody may make are a panic.
    struct Stopping(std::sync::atomic::AtomicUsize);

    #[async_trait::async_trait]
    impl client::Transport for Stopping {
        async fn send(
            &self,
            _: http::Request<bytes::Bytes>,
        ) -> Result<http::Response<client::Body>, client::TransportError> {
            let before = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            assert!(before < 1000, "the watch spins");
            tokio::task::yield_now().await;
            let list = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;
            Ok(http::Response::new(client::body_from(if before == 0 { list } else { "" })))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_watches_at_once_is_asked_ever_less() {
        let transport = Arc::new(Stopping(Default::default()));
        let client = client::Client::new(transport.clone(), "test");
        let source = Source::for_test(client);
        let (listed, _) = watch::channel(false);
        let work = follow(source, Arc::default(), resource("Pod"), listed);
        tokio::time::timeout(Duration::from_secs(10), work).await.expect_err("follows for ever");
        let asked = transport.0.load(std::sync::atomic::Ordering::Relaxed);
        assert!((3..30).contains(&asked), "{asked}");
    }

    fn resource(kind: &str) -> Arc<Resource> {
        Arc::new(Resource {
            group: String::new(),
            version: "v1".into(),
            kind: kind.into(),
            plural: format!("{}s", kind.to_lowercase()),
            namespaced: true,
            verbs: vec!["get".into()],
        })
    }

    /// `child owner,owner! orphan foreground deleting`: name, owners (`!` = blocks its deletion), and what holds.
    fn meta(line: &str) -> ObjectMeta {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let mut meta = ObjectMeta {
            name: Some(name.into()),
            namespace: Some("ns".into()),
            uid: Some(name.into()),
            resource_version: Some("7".into()),
            ..ObjectMeta::default()
        };
        for word in words {
            match word {
                "deleting" => meta.deletion_timestamp = Some(api::Time(crate::testing::at(0))),
                "orphan" => meta.finalizers.get_or_insert_default().push(ORPHAN.into()),
                "foreground" => meta.finalizers.get_or_insert_default().push(FOREGROUND.into()),
                owners => {
                    let owners = owners.split(',').map(|o| api::OwnerReference {
                        api_version: "v1".into(),
                        kind: "Thing".into(),
                        name: o.trim_end_matches('!').into(),
                        uid: o.trim_end_matches('!').into(),
                        controller: None,
                        block_owner_deletion: Some(o.ends_with('!')),
                    });
                    meta.owner_references = Some(owners.collect());
                }
            }
        }
        meta
    }

    /// The plan for `item` in a world of `things`; `absent` were asked for and not found.
    fn check_plan(things: &[&str], absent: &[&str], item: &str, expected: Expect) {
        let graph = Arc::new(Shared::default());
        for thing in things {
            graph.lock().present(&resource("Thing"), meta(thing));
        }
        let (node, _, _) = graph.lock().around(item).expect("the item is in the graph");
        for reference in node.owners.iter().filter(|o| absent.contains(&o.uid.as_str())) {
            graph.lock().verified("ns", reference, OwnerState::Absent);
        }
        let (item, owners, dependents) = graph.lock().around(item).expect("the item is in the graph");
        let view = View { item, owners, dependents, graph };
        expected.assert_eq(&crate::testing::show(&GarbageCollector::plan(&view, crate::testing::at(0))));
    }

    #[test]
    fn owned_by_something_that_exists_is_kept() {
        check_plan(&["a", "b a"], &[], "b", expect![[""]]);
        check_plan(&["b"], &[], "b", expect![[""]]);
    }

    #[test]
    fn an_unknown_owner_is_asked_for_and_an_absent_one_means_deletion() {
        check_plan(
            &["b a"],
            &[],
            "b",
            expect![[r#"
            verify Thing a of b
        "#]],
        );
        check_plan(
            &["b a"],
            &["a"],
            "b",
            expect![[r#"
            delete things ns/b Background
        "#]],
        );
        check_plan(
            &["b a orphan"],
            &["a"],
            "b",
            expect![[r#"
            delete things ns/b Orphan
        "#]],
        );
        check_plan(&["b a deleting"], &["a"], "b", expect![[""]]);
    }

    #[test]
    fn one_of_two_owners_gone_is_taken_off() {
        check_plan(
            &["a", "b a,x"],
            &["x"],
            "b",
            expect![[r#"
            patch things ns/b {"metadata":{"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":false,"kind":"Thing","name":"a","uid":"a"}],"resourceVersion":"7","uid":"b"}}
        "#]],
        );
        check_plan(
            &["a deleting foreground", "s", "b a!,s"],
            &[],
            "b",
            expect![[r#"
            patch things ns/b {"metadata":{"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":false,"kind":"Thing","name":"s","uid":"s"}],"resourceVersion":"7","uid":"b"}}
        "#]],
        );
    }

    #[test]
    fn foreground_waits_for_blocking_dependents() {
        check_plan(&["a deleting foreground", "b a!"], &[], "a", expect![[""]]);
        check_plan(
            &["a deleting foreground", "b a!"],
            &[],
            "b",
            expect![[r#"
            delete things ns/b Background
        "#]],
        );
        check_plan(
            &["a deleting foreground", "b a!", "c b!"],
            &[],
            "b",
            expect![[r#"
            delete things ns/b Foreground
        "#]],
        );
        check_plan(
            &["a deleting foreground", "b a"],
            &[],
            "a",
            expect![[r#"
            patch things ns/a {"metadata":{"finalizers":[],"resourceVersion":"7","uid":"a"}}
        "#]],
        );
    }

    #[test]
    fn circles_are_broken() {
        check_plan(
            &["a b! deleting foreground", "b a!"],
            &[],
            "b",
            expect![[r#"
            patch things ns/b {"metadata":{"ownerReferences":[{"apiVersion":"v1","blockOwnerDeletion":false,"kind":"Thing","name":"a","uid":"a"}],"resourceVersion":"7","uid":"b"}}
            delete things ns/b Foreground
        "#]],
        );
    }

    #[test]
    fn orphaning_takes_the_owner_off_its_dependents_first() {
        check_plan(
            &["a deleting orphan", "b a!"],
            &[],
            "a",
            expect![[r#"
            patch things ns/b {"metadata":{"ownerReferences":[],"resourceVersion":"7","uid":"b"}}
            patch things ns/a {"metadata":{"finalizers":[],"resourceVersion":"7","uid":"a"}}
        "#]],
        );
    }

    #[test]
    fn changes_wake_whom_they_concern() {
        let mut graph = Graph::default();
        let things = resource("Thing");
        assert_eq!(graph.present(&things, meta("a")), [""; 0], "no owner, nothing to do");
        assert_eq!(graph.present(&things, meta("b a!")), ["b"]);
        assert_eq!(graph.present(&things, meta("a deleting foreground")), ["a", "b"]);
        assert_eq!(graph.present(&things, meta("b")), ["a"], "the owner waits no more");
        graph.present(&things, meta("b a!"));
        assert_eq!(graph.gone("b"), ["a"]);
        graph.present(&things, meta("c a"));
        assert_eq!(graph.gone("a"), ["c"]);
        assert_eq!(graph.replace(&things, Vec::new()), [""; 0]);
    }

    #[test]
    fn an_answer_that_comes_late_is_not_believed() {
        let things = resource("Thing");
        let state = |answers: &[&str]| {
            let mut graph = Graph::default();
            graph.present(&things, meta("b a"));
            for what in answers {
                let (item, _, _) = graph.around("b").expect("it is there");
                match *what {
                    "came" => drop(graph.present(&things, meta("a"))),
                    "went" => assert_eq!(graph.gone("a"), ["b"]),
                    _ => graph.verified("ns", &item.owners[0], OwnerState::Solid),
                }
            }
            graph.around("b").map(|(_, owners, _)| owners[0].state)
        };
        assert_eq!(state(&["answer"]), Some(OwnerState::Solid));
        assert_eq!(state(&["came", "answer", "went"]), Some(OwnerState::Absent));
        assert_eq!(state(&["came", "went", "answer"]), Some(OwnerState::Absent));
        assert_eq!(state(&["answer", "came", "went"]), Some(OwnerState::Absent));
    }

    #[test]
    fn what_is_not_watched_any_more_is_not_gone() {
        let (mut graph, things, others) = (Graph::default(), resource("Thing"), resource("Other"));
        graph.present(&things, meta("a"));
        graph.present(&others, meta("b a"));
        assert_eq!(graph.unwatched(&things), ["b"]);
        let (_, owners, _) = graph.around("b").expect("it is there");
        assert_eq!(owners[0].state, OwnerState::Unknown);
    }

    #[test]
    fn a_reference_that_names_another_object_is_asked_for_once() {
        let (mut graph, things) = (Graph::default(), resource("Thing"));
        graph.present(&things, meta("a"));
        let mut wrong = meta("b a");
        wrong.owner_references.iter_mut().flatten().for_each(|o| o.name = "other".into());
        graph.present(&things, wrong);
        let state =
            |graph: &Graph| graph.around("b").map(|(item, owners, _)| (item.owners[0].clone(), owners[0].state));
        let (reference, unknown) = state(&graph).expect("it is there");
        assert_eq!(unknown, OwnerState::Unknown);
        graph.verified("ns", &reference, OwnerState::Absent);
        assert_eq!(state(&graph).map(|(_, state)| state), Some(OwnerState::Absent));
    }
}
