//! [`Cluster`] over crate `client`, and the feeds of watches that the agent runs on.
//!
//! ConfigMaps and Secrets are watched one by one, by name, for as long as a pod of this node refers to them: that is all the
//! Node authorizer lets a node see.

use crate::agent::{Feed, PodFeed};
use crate::cluster::{Cluster, ClusterError, ClusterEvent, ObjectReference, ReferenceKind, Token, TokenRequest};
use api::k8s::api::authentication::v1::{BoundObjectReference, TokenRequest as ApiTokenRequest, TokenRequestSpec};
use api::k8s::api::core::v1::ObjectReference as EventTarget;
use api::k8s::api::node::v1::RuntimeClass;
use api::k8s::api::resource::v1::ResourceClaim;
use api::k8s::api::storage::v1::{CSIDriver, VolumeAttachment};
use api::meta::MetaExt;
use api::prelude::{ConfigMap, Node, PersistentVolume, PersistentVolumeClaim, Pod, Secret, Service, ServiceAccount};
use api::{Codec, Object};
use async_trait::async_trait;
use client::{Cache, Client, ClientError, DeleteParams, EventKind, ListParams, Patch, Recorder, Subscription};
use parking_lot::Mutex;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// How long a pod waits for the first list of an object it refers to.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// What the adapter needs to know.
pub struct ClusterOptions {
    /// Acts as this node.
    pub client: Client,
    /// Services of the cluster, which the node's proxy follows, too.
    pub services: Cache<Service>,
    /// Nodes of the cluster, which the node's network follows, too.
    pub nodes: Cache<Node>,
    /// Records events as `kubelet` on this node.
    pub recorder: Recorder,
    /// `metadata.name` of the Node.
    pub node_name: String,
}

enum Watched {
    ConfigMap(Cache<ConfigMap>),
    Secret(Cache<Secret>),
}

/// See the file's head.
pub struct ApiCluster {
    options: ClusterOptions,
    feed: mpsc::UnboundedSender<Feed>,
    watched: Mutex<BTreeMap<ObjectReference, Watched>>,
    /// Feeds.
    _pods: (Cache<Pod>, Subscription),
}

impl ApiCluster {
    /// Starts watching this node's pods; resolves when the first list is in.
    pub async fn start(options: ClusterOptions) -> (Arc<Self>, PodFeed) {
        let (feed, changes) = mpsc::unbounded_channel();
        let pods: Cache<Pod> =
            options.client.cache_of(ListParams::all().fields(&format!("spec.nodeName={}", options.node_name)));
        pods.synced().await;
        let initial = pods.list();
        let known: BTreeMap<String, u64> = initial.iter().map(|p| (p.uid().to_owned(), p.revision())).collect();
        let sender = feed.clone();
        let told = pods.on_change(move |change| {
            let told = change.old.is_none()
                && change.new.as_ref().is_some_and(|p| known.get(p.uid()).is_some_and(|r| *r == p.revision()));
            let replaced = match (&change.old, &change.new) {
                (Some(old), Some(new)) => old.uid() != new.uid(),
                _ => false,
            };
            if replaced && let Some(old) = &change.old {
                sender.send(Feed::Gone(old.clone())).ok();
            }
            match (&change.new, &change.old) {
                (Some(_), _) if told => {}
                (Some(pod), _) => drop(sender.send(Feed::Pod(pod.clone()))),
                (None, Some(pod)) => drop(sender.send(Feed::Gone(pod.clone()))),
                (None, None) => {}
            }
        });
        let cluster = ApiCluster { options, feed, watched: Mutex::default(), _pods: (pods, told) };
        (Arc::new(cluster), PodFeed { initial, changes })
    }

    fn watch<K: Object>(&self, reference: &ObjectReference) -> Cache<K> {
        let cache: Cache<K> = self.options.client.cache_of(selection(reference));
        let (feed, reference) = (self.feed.clone(), reference.clone());
        let told = cache.on_change(move |_| {
            feed.send(Feed::Reference(reference.clone())).ok();
        });
        told.for_good();
        cache
    }

    fn config_maps(&self, reference: &ObjectReference) -> Option<Cache<ConfigMap>> {
        let mut watched = self.watched.lock();
        let slot = watched.entry(reference.clone()).or_insert_with(|| Watched::ConfigMap(self.watch(reference)));
        match slot {
            Watched::ConfigMap(cache) => Some(cache.clone()),
            Watched::Secret(_) => None,
        }
    }

    fn secrets(&self, reference: &ObjectReference) -> Option<Cache<Secret>> {
        let mut watched = self.watched.lock();
        let slot = watched.entry(reference.clone()).or_insert_with(|| Watched::Secret(self.watch(reference)));
        match slot {
            Watched::Secret(cache) => Some(cache.clone()),
            Watched::ConfigMap(_) => None,
        }
    }
}

fn selection(reference: &ObjectReference) -> ListParams {
    ListParams::all().namespace(&reference.namespace).fields(&format!("metadata.name={}", reference.name))
}

async fn first<K: Object>(cache: Option<Cache<K>>, r: &ObjectReference) -> Result<Option<Arc<K>>, ClusterError> {
    let cache = cache.ok_or_else(|| ClusterError::Failed(format!("{} has two kinds", r.name)))?;
    tokio::time::timeout(FIRST_LIST, cache.synced()).await.map_err(|_| {
        ClusterError::Failed(format!("failed to sync {} {}/{}: timed out", K::KIND, r.namespace, r.name))
    })?;
    Ok(cache.get(&r.namespace, &r.name))
}

fn failed(error: ClientError) -> ClusterError {
    let text = base::chain(&error);
    if error.is_not_found() {
        ClusterError::NotFound(text)
    } else if error.is_conflict() {
        ClusterError::Conflict(text)
    } else if error.is_unreachable() {
        ClusterError::Unreachable(text)
    } else {
        ClusterError::Failed(text)
    }
}

#[async_trait]
impl Cluster for ApiCluster {
    async fn pod(&self, namespace: &str, name: &str) -> Result<Option<Pod>, ClusterError> {
        self.options.client.api::<Pod>().find(namespace, name).await.map_err(failed)
    }

    async fn patch_pod_status(&self, namespace: &str, name: &str, patch: &Value) -> Result<Pod, ClusterError> {
        let patch = Patch::Merge(patch.clone());
        self.options.client.api::<Pod>().patch(namespace, name, "status", &patch).await.map_err(failed)
    }

    async fn create_pod(&self, pod: &Pod) -> Result<Pod, ClusterError> {
        self.options.client.api::<Pod>().create(pod).await.map_err(failed)
    }

    async fn read_node(&self) -> Result<Node, ClusterError> {
        let node = self.options.client.api::<Node>().find("", &self.options.node_name).await.map_err(failed)?;
        node.ok_or_else(|| ClusterError::NotFound(format!("node {}", self.options.node_name)))
    }

    async fn delete_pod(&self, pod: &Pod) -> Result<(), ClusterError> {
        let params = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::uid(pod.uid()) };
        self.options.client.api::<Pod>().delete(pod.namespace(), pod.name(), &params).await.map_err(failed)
    }

    async fn config_map(&self, namespace: &str, name: &str) -> Result<Option<Arc<ConfigMap>>, ClusterError> {
        let r = reference(ReferenceKind::ConfigMap, namespace, name);
        first(self.config_maps(&r), &r).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Result<Option<Arc<Secret>>, ClusterError> {
        let r = reference(ReferenceKind::Secret, namespace, name);
        first(self.secrets(&r), &r).await
    }

    async fn claim(&self, namespace: &str, name: &str) -> Result<Option<PersistentVolumeClaim>, ClusterError> {
        self.options.client.api::<PersistentVolumeClaim>().find(namespace, name).await.map_err(failed)
    }

    async fn resource_claim(&self, namespace: &str, name: &str) -> Result<ResourceClaim, ClusterError> {
        self.options.client.api::<ResourceClaim>().get(namespace, name).await.map_err(failed)
    }

    async fn persistent_volume(&self, name: &str) -> Result<Option<PersistentVolume>, ClusterError> {
        self.options.client.api::<PersistentVolume>().find("", name).await.map_err(failed)
    }

    async fn runtime_handler(&self, class: &str) -> Result<Option<String>, ClusterError> {
        let found = self.options.client.api::<RuntimeClass>().find("", class).await.map_err(failed)?;
        Ok(found.map(|class| class.handler))
    }

    async fn read_secret(&self, namespace: &str, name: &str) -> Result<Option<Secret>, ClusterError> {
        self.options.client.api::<Secret>().find(namespace, name).await.map_err(failed)
    }

    async fn csi_driver(&self, name: &str) -> Result<Option<Arc<CSIDriver>>, ClusterError> {
        // Watched from when the first is asked for: most nodes have none.
        let drivers = self.options.client.cache::<CSIDriver>();
        tokio::time::timeout(FIRST_LIST, drivers.synced())
            .await
            .map_err(|_| ClusterError::Failed(format!("failed to sync {}: timed out", CSIDriver::KIND)))?;
        Ok(drivers.get("", name))
    }

    async fn volume_attachment(&self, name: &str) -> Result<Option<VolumeAttachment>, ClusterError> {
        self.options.client.api::<VolumeAttachment>().find("", name).await.map_err(failed)
    }

    async fn patch_claim_status(
        &self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<PersistentVolumeClaim, ClusterError> {
        let patch = Patch::Merge(patch.clone());
        self.options
            .client
            .api::<PersistentVolumeClaim>()
            .patch(namespace, name, "status", &patch)
            .await
            .map_err(failed)
    }

    fn node(&self) -> Option<Arc<Node>> {
        self.options.nodes.get("", &self.options.node_name)
    }

    fn node_moves(&self) -> watch::Receiver<Option<u64>> {
        self.options.nodes.revisions()
    }

    async fn services(&self, namespace: &str) -> Result<Vec<Arc<Service>>, ClusterError> {
        let cache = &self.options.services;
        cache.synced().await;
        let mut all = cache.list_in(namespace);
        if namespace != "default" {
            all.extend(cache.get("default", "kubernetes"));
        }
        Ok(all)
    }

    async fn token(&self, request: &TokenRequest<'_>) -> Result<Token, ClusterError> {
        let pod = request.pod;
        let account =
            pod.spec.as_ref().and_then(|s| s.service_account_name.clone()).unwrap_or_else(|| "default".into());
        let spec = TokenRequestSpec {
            audiences: Some(request.audience.map(|a| vec![a.to_owned()]).unwrap_or_default()),
            expiration_seconds: Some(request.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name().to_owned()),
                uid: Some(pod.uid().to_owned()),
            }),
        };
        let body = Codec::encode(&ApiTokenRequest { spec: Some(spec), ..ApiTokenRequest::default() });
        let api = self.options.client.api::<ServiceAccount>();
        let answer: ApiTokenRequest =
            api.post_subresource(pod.namespace(), &account, "token", body).await.map_err(failed)?;
        let status = answer.status.unwrap_or_default();
        match (status.token, status.expiration_timestamp) {
            (Some(value), Some(expires)) => Ok(Token { value, expires_at: expires.0 }),
            _ => Err(ClusterError::Failed("the answer to a token request has no token".into())),
        }
    }

    fn release(&self, wanted: &BTreeSet<ObjectReference>) {
        self.watched.lock().retain(|reference, _| wanted.contains(reference));
        let of = |kind: ReferenceKind| wanted.iter().filter(move |r| r.kind == kind).map(selection);
        self.options.client.remember_only::<ConfigMap>(of(ReferenceKind::ConfigMap));
        self.options.client.remember_only::<Secret>(of(ReferenceKind::Secret));
    }

    fn event(&self, event: ClusterEvent<'_>) {
        let about = match event.pod {
            Some(pod) => EventTarget {
                api_version: Some("v1".into()),
                kind: Some("Pod".into()),
                name: Some(pod.name().to_owned()),
                namespace: Some(pod.namespace().to_owned()),
                uid: Some(pod.uid().to_owned()),
                resource_version: pod.metadata.resource_version.clone(),
                field_path: event.field_path,
            },
            None => EventTarget {
                api_version: Some("v1".into()),
                kind: Some(Node::KIND.into()),
                name: Some(self.options.node_name.clone()),
                uid: Some(self.options.node_name.clone()),
                ..EventTarget::default()
            },
        };
        let kind = if event.warning { EventKind::Warning } else { EventKind::Normal };
        self.options.recorder.record_ref(about, kind, event.reason, event.message);
    }

    fn claim_event(&self, claim: &PersistentVolumeClaim, warning: bool, reason: &str, message: &str) {
        let about = EventTarget {
            api_version: Some("v1".into()),
            kind: Some(PersistentVolumeClaim::KIND.into()),
            name: Some(claim.name().to_owned()),
            namespace: Some(claim.namespace().to_owned()),
            uid: Some(claim.uid().to_owned()),
            resource_version: claim.metadata.resource_version.clone(),
            field_path: None,
        };
        let kind = if warning { EventKind::Warning } else { EventKind::Normal };
        self.options.recorder.record_ref(about, kind, reason, message);
    }
}

fn reference(kind: ReferenceKind, namespace: &str, name: &str) -> ObjectReference {
    ObjectReference { kind, namespace: namespace.to_owned(), name: name.to_owned() }
}
