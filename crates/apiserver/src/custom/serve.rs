//! Which custom resources are served: follows the stored CustomResourceDefinitions, serves those whose names were accepted, and
//! writes down what became of them (`apiextensions-apiserver/pkg/apiserver/customresource_handler.go` and the controllers in
//! `pkg/controller`; the conditions are [`machinery::custom::names`]').
//!
//! Always holds: a definition is served before it is called established, and is gone from the table only after its last object.
//! A kind whose definition did not change stays the same kind, with its watches.

use super::Custom;
use crate::admission::Cluster;
use crate::api_server::ApiServer;
use crate::kinds_table::KindTable;
use crate::options::DeleteOptions;
use crate::reader::{KindRef, Stored, range_of, storage_of};
use crate::request_info::Query;
use crate::status;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use api::prelude::MetaExt;
use api::{AnyObject, DecodeError, Status, Time};
use machinery::custom::{Definition, Outline, compare_versions, names};
use machinery::kinds::Kind;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the objects of a dying definition are counted, if they wait for finalizers of somebody else.
const RECOUNT: Duration = Duration::from_millis(500);
/// How long to wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Before the first delete of a definition (`registry/customresourcedefinition/etcd.go`): it waits for its objects to go.
pub(crate) fn prepare_delete(object: &mut dyn AnyObject, now: jiff::Timestamp) {
    let Some(crd) = api::any::downcast_mut::<CustomResourceDefinition>(object) else { return };
    if crd.is_deleting() {
        return;
    }
    let finalizers = crd.metadata.finalizers.get_or_insert_default();
    if finalizers.iter().all(|f| f != names::CLEANUP_FINALIZER) {
        finalizers.push(names::CLEANUP_FINALIZER.to_owned());
    }
    let why = "CustomResourceDefinition marked for deletion; CustomResource deletion will begin soon";
    names::set_condition(crd, "Terminating", "True", "InstanceDeletionPending", why, &Time(now));
}

impl ApiServer {
    /// Serves custom resources until `shutdown`. Runs once per server.
    pub async fn serve_custom_resources(&self, shutdown: CancellationToken) {
        while !shutdown.is_cancelled() {
            let wait = match self.follow_definitions(&shutdown).await {
                Ok(()) => return,
                Err(failure) => {
                    tracing::warn!(error = %failure.message, "failed to follow the custom resource definitions");
                    RETRY
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn follow_definitions(&self, shutdown: &CancellationToken) -> Result<(), Status> {
        let store = &self.inner.deps.store;
        let range = range_of(&storage_of::<CustomResourceDefinition>(), "");
        let mut watch = store.watch(&range, store.revision()).await.map_err(status::from_store)?;
        loop {
            // Own writes come back as events, so one step at a time is enough.
            let waiting = self.step().await?;
            let recount = async {
                match waiting {
                    true => tokio::time::sleep(RECOUNT).await,
                    false => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                events = watch.next() => drop(events.map_err(status::from_store)?),
                () = recount => {}
            }
        }
    }

    /// Brings the table up to the stored definitions. The server begins with it.
    pub(crate) async fn load_definitions(&self) -> Result<(), Status> {
        self.load().await.map(drop)
    }

    async fn load(&self) -> Result<Vec<Known>, Status> {
        let (stored, _) = self
            .inner
            .reader
            .stored_list(&storage_of::<CustomResourceDefinition>(), "")
            .await
            .map_err(status::from_store)?;
        let all = stored.into_iter().map(Known::of).collect::<Result<Vec<_>, _>>().map_err(status::internal)?;
        let old = self.inner.kinds.load_full();
        let new = table_of(&all, &old);
        let kept: HashSet<u64> = customs(&new).map(|c| c.kind.revision()).collect();
        let ended: Vec<Arc<Custom>> = customs(&old).filter(|c| !kept.contains(&c.kind.revision())).cloned().collect();
        self.inner.kinds.store(Arc::new(new));
        ended.iter().for_each(|custom| custom.closed.cancel());
        Ok(all)
    }

    /// One look at all definitions; tells whether some wait for their last objects.
    async fn step(&self) -> Result<bool, Status> {
        let all = self.load().await?;
        let outlines: Vec<Arc<Outline>> = all.iter().map(|known| known.outline.clone()).collect();
        let now = Time(crate::delete_plan::truncate(self.clock_now()));
        let Some(kind) = self.find_kind("apiextensions.k8s.io", "v1", "customresourcedefinitions") else {
            return Ok(false);
        };
        let mut waiting = false;
        for known in &all {
            let result = if known.outline.crd.is_deleting() {
                self.clean_up(&kind, known.whole()?, &now).await
            } else if let Some(status) = names::next_status(&known.outline, &outlines, &now) {
                let next = CustomResourceDefinition { status: Some(status), ..known.whole()? };
                self.update(&kind, "status", Box::new(next)).await.map(|_| false)
            } else {
                Ok(false)
            };
            match result {
                Ok(waits) => waiting |= waits,
                // Somebody else wrote; the event brings us back.
                Err(failure) if matches!(failure.reason.as_str(), "Conflict" | "NotFound") => {}
                Err(failure) => return Err(failure),
            }
        }
        Ok(waiting)
    }

    /// Deletes the objects of a dying definition, then lets it go; tells whether objects are left
    /// (`controller/finalizer/crd_finalizer.go`).
    async fn clean_up(&self, kind: &KindRef, crd: CustomResourceDefinition, now: &Time) -> Result<bool, Status> {
        if !crd.has_finalizer(names::CLEANUP_FINALIZER) {
            return Ok(false);
        }
        if names::is_true(&crd, "Established") {
            let mut next = crd.clone();
            let why = "CustomResource deletion is in progress";
            names::set_condition(&mut next, "Terminating", "True", "InstanceDeletionInProgress", why, now);
            if next.status != crd.status {
                // What comes next begins with the event of this write.
                self.update(kind, "status", Box::new(next)).await?;
                return Ok(false);
            }
            if self.delete_instances(&crd).await? {
                return Ok(true);
            }
        }
        let mut next = crd;
        if let Some(finalizers) = &mut next.metadata.finalizers {
            finalizers.retain(|f| f != names::CLEANUP_FINALIZER);
        }
        self.update(kind, "", Box::new(next)).await?;
        self.load_definitions().await?;
        Ok(false)
    }

    /// Deletes what is there; tells whether something is left.
    async fn delete_instances(&self, crd: &CustomResourceDefinition) -> Result<bool, Status> {
        let custom = customs(&self.inner.kinds.load()).find(|c| c.definition.uid == crd.uid()).cloned();
        let Some(custom) = custom else { return Ok(false) };
        let storage = custom.kind.info().storage.to_string();
        let kind = KindRef::Custom(custom);
        let options = DeleteOptions::parse(&Query::default(), b"{}")?;
        let (objects, _) = self.inner.reader.stored_list(&storage, "").await.map_err(status::from_store)?;
        for object in &objects {
            let header = object.header();
            if header.deletion_timestamp.is_some() {
                continue;
            }
            match crate::pipeline::delete_by_server(self, &kind, &header.namespace, &header.name, &options).await {
                Ok(()) => {}
                Err(failure) if failure.reason == "NotFound" => {}
                Err(failure) => return Err(failure),
            }
        }
        let (left, _) = self.inner.reader.stored_list(&storage, "").await.map_err(status::from_store)?;
        Ok(!left.is_empty())
    }
}

fn customs(table: &KindTable) -> impl Iterator<Item = &Arc<Custom>> {
    table.all().iter().filter_map(|kind| match kind {
        KindRef::Custom(custom) => Some(custom),
        KindRef::BuiltIn(_) => None,
    })
}

/// A stored definition. What is asked of all of them whenever one changes is its outline, made once.
struct Known {
    stored: Stored,
    outline: Arc<Outline>,
}

impl Known {
    fn of(stored: Stored) -> Result<Known, DecodeError> {
        Ok(Known { outline: stored.kept(Outline::of)?, stored })
    }

    fn whole(&self) -> Result<CustomResourceDefinition, Status> {
        self.stored.decode().map_err(status::internal)
    }

    /// The definition as it is served, or newly made. Schemas are compiled once.
    fn definition(&self, served: &HashMap<u64, &Arc<Definition>>) -> Option<Arc<Definition>> {
        let same = served.get(&self.outline.id?).map(|definition| Arc::clone(definition));
        // Damaged bytes were refused when the outline was made.
        same.or_else(|| Definition::new(&self.whole().ok()?).map(Arc::new))
    }
}

/// The built-in kinds and all accepted definitions. Versions come in the order of preference. Kinds of `old` whose definition
/// is the same are kept.
fn table_of(all: &[Known], old: &KindTable) -> KindTable {
    let kinds: HashMap<u64, &Arc<Custom>> = customs(old).map(|c| (c.kind.revision(), c)).collect();
    let definitions: HashMap<u64, &Arc<Definition>> = customs(old).map(|c| (c.definition.id, &c.definition)).collect();
    let mut new: Vec<Custom> = Vec::new();
    for known in all {
        let crd = &known.outline.crd;
        let established = names::is_true(crd, "Established");
        if !established && !names::is_true(crd, "NamesAccepted") {
            continue;
        }
        let Some(definition) = known.definition(&definitions) else { continue };
        for kind in definition.versions.iter().filter(|v| v.is_served()) {
            let before = kinds.get(&kind.revision());
            new.push(Custom {
                kind: before.map_or_else(|| kind.clone(), |c| c.kind.clone()),
                definition: definition.clone(),
                established,
                terminating: crd.is_deleting(),
                closed: before.map_or_else(CancellationToken::new, |c| c.closed.clone()),
            });
        }
    }
    new.sort_by(|a, b| {
        let (x, y) = (a.kind.info(), b.kind.info());
        x.group
            .cmp(&y.group)
            .then_with(|| compare_versions(&y.version, &x.version))
            .then_with(|| x.plural.cmp(&y.plural))
    });
    let built_in = machinery::kinds::all().iter().map(|k| KindRef::BuiltIn(*k));
    KindTable::new(built_in.chain(new.into_iter().map(|c| KindRef::Custom(Arc::new(c)))).collect())
}
