//! API aggregation: group versions that an APIService hands to a server behind a Service (`kube-aggregator/pkg/apiserver`).
//!
//! ```text
//!  APIServices ──▶ Table ──▶ proxy.rs (which requests go on), discovery.rs (groups, order, remote resources), openapi.rs
//!     ▲   ▲                                                        ▲
//!     │   └─ available.rs: Service, endpoints, an answer ──▶ status │
//!     │                                            documents.rs ───┘
//!     └─ register.rs: a local APIService for each group version served here
//!  ConfigMap kube-system/extension-apiserver-authentication ◀── published.rs: whom such servers may believe
//! ```
//!
//! One loop ([`follow`]) does all of it, level-triggered; without remote APIServices it only waits for a change of the few
//! objects it is about. Writes go through the pipeline, as `system:apiserver`.

mod available;
mod documents;
mod proxy;
mod published;
mod register;

use crate::admission::Cluster;
use crate::api_server::ApiServer;
use crate::health::{self, StartHook};
use crate::reader::{KindRef, storage_of};
use crate::request_info::RequestInfo;
use crate::service_client;
use crate::webhook_client::trust;
use api::Object;
use api::k8s::api::discovery::v1::EndpointSlice;
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use api::k8s::kube_aggregator::pkg::apis::apiregistration::v1::{APIService, APIServiceSpec};
use api::prelude::{ConfigMap, MetaExt, Service};
use arc_swap::{ArcSwap, ArcSwapOption};
pub(crate) use documents::{Documents, merge_v2};
pub(crate) use proxy::{document, forward, is_user_header};
pub use published::FRONT_PROXY;
use register::{Change, priorities};
use rustls::ClientConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use store::{Range, StoreError, WatchStream};
use tokio_util::sync::CancellationToken;

/// How often remote servers are looked at when nothing changes (`remote_available_controller.go`).
const RESYNC: Duration = Duration::from_secs(30);
/// The first wait before an unavailable server is asked again; doubled up to [`RESYNC`].
const RETRY: Duration = Duration::from_millis(250);

/// Who this server is for aggregated servers, and whom they may believe.
pub struct FrontProxy {
    /// Roots of ordinary client certificates, PEM.
    pub client_ca_pem: String,
    /// Roots of the front proxy's certificate, PEM.
    pub ca_pem: String,
    /// The certificate shown to aggregated servers, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Its key.
    pub key: PrivateKeyDer<'static>,
}

/// What the rest of the server asks.
#[derive(Default)]
pub(crate) struct Aggregation {
    table: ArcSwap<Table>,
    identity: ArcSwapOption<FrontProxy>,
}

/// All APIServices.
#[derive(Default)]
struct Table {
    all: Vec<Arc<Registered>>,
    remote: HashMap<(String, String), Arc<Remote>>,
}

/// One APIService.
struct Registered {
    group: String,
    version: String,
    group_priority: i32,
    version_priority: i32,
    name: String,
    available: bool,
}

/// An APIService that is served elsewhere.
pub(crate) struct Remote {
    pub(crate) name: String,
    pub(crate) group: String,
    pub(crate) version: String,
    spec: APIServiceSpec,
    namespace: String,
    service: String,
    port: i32,
    available: bool,
    /// How to speak with it, or why it cannot be spoken with.
    tls: Result<(Arc<ClientConfig>, ServerName<'static>), String>,
    /// The identity that `tls` was made with.
    identity: Option<Arc<FrontProxy>>,
    pub(crate) documents: Arc<Documents>,
}

/// A group version as discovery shows it.
pub(crate) struct GroupVersion {
    pub(crate) version: String,
    pub(crate) remote: Option<Arc<Remote>>,
}

impl Aggregation {
    /// Who serves this request, if not we.
    pub(crate) fn remote_of(&self, info: &RequestInfo) -> Option<Arc<Remote>> {
        let table = self.table.load();
        if table.remote.is_empty() {
            return None;
        }
        if info.is_resource {
            return table.remote.get(&(info.group.clone(), info.version.clone())).cloned();
        }
        match info.path.trim_matches('/').split('/').collect::<Vec<_>>().as_slice() {
            ["apis", group, version] => self.remote(group, version),
            _ => None,
        }
    }

    pub(crate) fn remote(&self, group: &str, version: &str) -> Option<Arc<Remote>> {
        self.table.load().remote.get(&(group.to_owned(), version.to_owned())).cloned()
    }

    /// All APIServices by name, and whether requests may go there.
    pub(crate) fn availability(&self) -> Vec<(String, bool)> {
        self.table.load().all.iter().map(|r| (r.name.clone(), r.available)).collect()
    }

    /// All remote group versions.
    pub(crate) fn remotes(&self) -> Vec<Arc<Remote>> {
        self.table.load().remote.values().cloned().collect()
    }

    /// Named groups with their versions: those in `local` and the remote ones, in order of priority
    /// (`v1helper.SortedByGroupAndVersion`).
    pub(crate) fn groups<'a>(
        &self,
        local: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Vec<(String, Vec<GroupVersion>)> {
        let table = self.table.load();
        let mut all: BTreeSet<(String, String)> = local.map(|(g, v)| (g.to_owned(), v.to_owned())).collect();
        all.extend(table.remote.keys().cloned());
        let mut groups: HashMap<String, (i32, Vec<(i32, GroupVersion)>)> = HashMap::new();
        for (group, version) in all.into_iter().filter(|(group, _)| !group.is_empty()) {
            let known = table.all.iter().find(|r| r.group == group && r.version == version);
            let (of_group, of_version) =
                known.map_or_else(|| priorities(&group, &version), |r| (r.group_priority, r.version_priority));
            let remote = table.remote.get(&(group.clone(), version.clone())).cloned();
            let entry = groups.entry(group).or_default();
            entry.0 = entry.0.max(of_group);
            entry.1.push((of_version, GroupVersion { version, remote }));
        }
        let mut list: Vec<_> = groups.into_iter().collect();
        list.sort_by(|(a, (p, _)), (b, (q, _))| q.cmp(p).then_with(|| a.cmp(b)));
        list.into_iter()
            .map(|(group, (_, mut versions))| {
                versions.sort_by_key(|(priority, v)| Reverse((*priority, version_rank(&v.version))));
                (group, versions.into_iter().map(|(_, v)| v).collect())
            })
            .collect()
    }

    fn rebuild(&self, services: &[APIService]) {
        let identity = self.identity.load_full();
        let old = self.table.load();
        let mut table = Table::default();
        for service in services {
            let spec = service.spec.clone().unwrap_or_default();
            let (group, version) = (spec.group.clone().unwrap_or_default(), spec.version.clone().unwrap_or_default());
            table.all.push(Arc::new(Registered {
                group: group.clone(),
                version: version.clone(),
                group_priority: spec.group_priority_minimum,
                version_priority: spec.version_priority,
                name: service.name().to_owned(),
                available: available::is_available(service),
            }));
            if spec.service.is_some() {
                let key = (group, version);
                let remote = Remote::of(service, spec, identity.clone(), old.remote.get(&key).map(|r| &**r));
                table.remote.insert(key, Arc::new(remote));
            }
        }
        self.table.store(Arc::new(table));
    }
}

impl Remote {
    fn of(service: &APIService, spec: APIServiceSpec, identity: Option<Arc<FrontProxy>>, old: Option<&Remote>) -> Self {
        let reference = spec.service.clone().unwrap_or_default();
        let text = |t: &Option<String>| t.clone().unwrap_or_default();
        let (namespace, name) = (text(&reference.namespace), text(&reference.name));
        let same_identity = |old: &&Remote| match (&old.identity, &identity) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (a, b) => a.is_none() && b.is_none(),
        };
        let kept = old.filter(|o| o.spec.service == spec.service);
        let documents = kept.map(|o| o.documents.clone()).unwrap_or_default();
        let tls = match kept.filter(|o| o.spec.ca_bundle == spec.ca_bundle).filter(same_identity) {
            Some(old) if old.spec.insecure_skip_tls_verify == spec.insecure_skip_tls_verify => old.tls.clone(),
            _ => tls(&spec, &format!("{name}.{namespace}.svc"), identity.as_deref()),
        };
        Remote {
            name: service.name().to_owned(),
            group: text(&spec.group),
            version: text(&spec.version),
            namespace,
            service: name,
            port: reference.port.unwrap_or(443),
            available: available::is_available(service),
            spec,
            tls,
            identity,
            documents,
        }
    }
}

/// `remote_available_controller.go`, `BuildTransportConfig`.
fn tls(
    spec: &APIServiceSpec,
    name: &str,
    identity: Option<&FrontProxy>,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let bundle = spec.ca_bundle.as_ref().map_or(&[][..], |b| &b.0);
    let shown = identity.map(|i| (i.chain.clone(), i.key.clone_key()));
    let config = match spec.insecure_skip_tls_verify {
        Some(true) => service_client::trusting_anybody(shown).map_err(|e| e.to_string())?,
        _ => trust::client_config(bundle, shown)?,
    };
    let name = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
    Ok((config, name))
}

/// `v10 > v2 > v1 > v2beta1 > v1alpha1 > foo` (`apimachinery/pkg/version/helpers.go`, `CompareKubeAwareVersionStrings`).
fn version_rank(version: &str) -> (u8, u32, u32, Reverse<String>) {
    let text = || Reverse(version.to_owned());
    let parse = || {
        let rest = version.strip_prefix('v')?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let (stage, minor) = match &rest[digits..] {
            "" => (3, 0),
            tail => match (tail.strip_prefix("beta"), tail.strip_prefix("alpha")) {
                (Some(minor), _) => (2, minor.parse().ok()?),
                (_, Some(minor)) => (1, minor.parse().ok()?),
                _ => return None,
            },
        };
        Some((stage, major, minor))
    };
    let (stage, major, minor) = parse().unwrap_or((0, 0, 0));
    (stage, major, minor, text())
}

impl ApiServer {
    /// From now on, this identity towards aggregated servers. Called again when its certificate was renewed.
    pub fn set_front_proxy(&self, proxy: FrontProxy) {
        self.inner.aggregation.identity.store(Some(Arc::new(proxy)));
    }

    /// Registers what is served here and follows the APIServices until `shutdown`. Needs [`Self::set_front_proxy`] first.
    pub async fn run_aggregation(self, shutdown: CancellationToken) {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = follow(&self) => {}
        }
    }
}

/// What wakes the loop. Services and their endpoints are followed only while some APIService needs them.
struct Wakes {
    always: Vec<Box<dyn WatchStream>>,
    remote: Vec<Box<dyn WatchStream>>,
}

impl Wakes {
    async fn open(server: &ApiServer, remote: bool) -> Result<Self, StoreError> {
        let store = server.reader().store();
        let after = store.revision();
        let open = async |storage: &str| store.watch(&Range::all(format!("/{storage}/")), after).await;
        let mut wakes = Wakes {
            always: vec![
                open(&storage_of::<APIService>()).await?,
                open(&storage_of::<CustomResourceDefinition>()).await?,
                open(&format!("{}/{}", storage_of::<ConfigMap>(), published::NAMESPACE)).await?,
            ],
            remote: Vec::new(),
        };
        if remote {
            wakes.remote = vec![open(&storage_of::<Service>()).await?, open(&storage_of::<EndpointSlice>()).await?];
        }
        Ok(wakes)
    }

    /// Returns when something may have changed; false if the watches must be opened anew.
    async fn next(&mut self, server: &ApiServer) -> bool {
        loop {
            let streams = self.always.iter_mut().chain(&mut self.remote).map(|w| w.next());
            let (events, _, _) = futures_util::future::select_all(streams).await;
            match events {
                Err(_) => return false,
                Ok(events) if events.iter().any(|e| concerns(server, e.change.key().as_str())) => return true,
                Ok(_) => {}
            }
        }
    }
}

/// Whether a change of `key` matters: Services and slices only in namespaces of remote servers, ConfigMaps only ours.
fn concerns(server: &ApiServer, key: &str) -> bool {
    let parts: Vec<&str> = key.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["configmaps", _, name] => *name == published::NAME,
        ["services" | "services/specs", namespace, _] | ["discovery.k8s.io", "endpointslices", namespace, _] => {
            server.inner.aggregation.table.load().remote.values().any(|r| r.namespace == *namespace)
        }
        _ => true,
    }
}

async fn follow(server: &ApiServer) {
    let started = server.begin_starts(&health::OF_AGGREGATION);
    let mut first = true;
    let mut failures = 0u32;
    loop {
        let had_remotes = !server.inner.aggregation.table.load().remote.is_empty();
        let mut wakes = match Wakes::open(server, had_remotes).await {
            Ok(wakes) => wakes,
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(%error, "failed to follow APIServices");
                tokio::time::sleep(RETRY).await;
                continue;
            }
        };
        loop {
            let outcome = reconcile(server, first).await;
            // A server elsewhere that is away is no reason to wait; what could not be read is.
            if outcome != Outcome::Unread {
                started.iter().for_each(StartHook::done);
                first = false;
            }
            let all_well = outcome == Outcome::Well;
            failures = if all_well { 0 } else { failures.saturating_add(1) };
            let has_remotes = !server.inner.aggregation.table.load().remote.is_empty();
            if has_remotes != had_remotes {
                break; // Other watches are needed.
            }
            let again = match (all_well, has_remotes) {
                (true, true) => RESYNC,
                (true, false) => Duration::MAX,
                (false, _) => RETRY.saturating_mul(1 << failures.min(8)).min(RESYNC),
            };
            if let Ok(false) = tokio::time::timeout(again, wakes.next(server)).await {
                break;
            }
        }
    }
}

/// How a [`reconcile`] went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// There is nothing to do until something changes.
    Well,
    /// Something is to be tried again soon.
    Again,
    /// Not even the APIServices could be read.
    Unread,
}

/// Brings everything up to date.
async fn reconcile(server: &ApiServer, first: bool) -> Outcome {
    let aggregation = &server.inner.aggregation;
    let mut well = published::ensure(server, aggregation.identity.load_full().as_deref()).await;
    let Ok(mut services) = list::<APIService>(server).await else { return Outcome::Unread };
    let Ok(crds) = list::<CustomResourceDefinition>(server).await else { return Outcome::Unread };
    let wanted = register::wanted(&server.inner.kinds.load(), &crds);
    let changes = register::plan(&wanted, &services, first);
    if !changes.is_empty() {
        well &= apply(server, changes).await;
        let Ok(again) = list::<APIService>(server).await else { return Outcome::Unread };
        services = again;
    }
    aggregation.rebuild(&services);
    well &= available::update_all(server, &services).await;
    if well { Outcome::Well } else { Outcome::Again }
}

async fn list<K: Object>(server: &ApiServer) -> Result<Vec<K>, ()> {
    server.reader().list::<K>("").await.map_err(|error| tracing::warn!(%error, kind = K::KIND, "failed to list"))
}

fn kind_of<K: Object>(server: &ApiServer) -> Option<KindRef> {
    server.find_kind(K::GROUP, K::VERSION, K::PLURAL)
}

async fn apply(server: &ApiServer, changes: Vec<Change>) -> bool {
    let Some(kind) = kind_of::<APIService>(server) else { return false };
    // Together: the store syncs them in one go.
    let all = changes.into_iter().map(async |change| match change {
        Change::Create(service) => server.create(&kind, "", Box::new(service)).await.map(drop),
        Change::Update(service) => server.update(&kind, "", Box::new(service)).await.map(drop),
        Change::Delete(name) => proxy::delete(server, &name).await,
    });
    let mut well = true;
    for failure in futures_util::future::join_all(all).await.into_iter().filter_map(Result::err) {
        // Another server may have been faster.
        if !matches!(failure.reason.as_str(), "AlreadyExists" | "NotFound") {
            tracing::debug!(error = failure.message, "failed to register an APIService");
            well = false;
        }
    }
    well
}

#[cfg(test)]
mod tests;
