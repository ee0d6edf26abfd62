//! CSI drivers as plugins (type `CSIPlugin`): what a driver says about this node becomes its entry in the CSINode, labels and an
//! annotation of the Node; then its volumes can be used.
//!
//! What is written is decided by pure functions. Follows `pkg/volume/csi/{csi_plugin,csi_node_updater}.go` and
//! `pkg/volume/csi/nodeinfomanager`. Differs: CSINode names no migrated plugins, because nothing is migrated.

use super::{Plugin, PluginHandler};
use crate::context::Context;
use api::OwnerReference;
use api::k8s::api::storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources};
use api::meta::MetaExt;
use api::prelude::{Node, ObjectMeta};
use async_trait::async_trait;
use base::backoff::Backoff;
use client::{Client, ClientError, DeleteParams, Patch};
use node_api::csi::NodeGetInfoResponse;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio_util::sync::CancellationToken;

/// The type by which drivers register.
pub const KIND: &str = "CSIPlugin";
/// On a Node: what drivers call it.
const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";
/// Somebody else may write at the same time (`updateBackoff`).
const ATTEMPTS: u32 = 4;
const PAUSE: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(400));
/// How often to look whether a driver wants to be asked for its limits now and then.
const LOOK: Duration = Duration::from_secs(60);

/// Why a driver could not be entered.
#[derive(Debug, Error)]
enum InstallError {
    #[error("error adding CSI driver node info: driverNodeID must not be empty")]
    NoId,
    #[error("error updating Node object with CSI driver node info: {0}")]
    Node(String),
    #[error("error updating CSINode object with CSI driver node info: {0}")]
    CsiNode(String),
}

/// See the file's head.
pub struct CsiPlugins {
    context: Arc<Context>,
    client: Client,
    /// Stop asking a driver for its limits.
    asking: Mutex<BTreeMap<String, CancellationToken>>,
}

impl CsiPlugins {
    /// Acts as the node.
    pub fn new(context: Arc<Context>, client: &Client) -> Self {
        CsiPlugins { context, client: client.named("kubelet"), asking: Mutex::default() }
    }

    fn book(&self) -> NodeBook {
        NodeBook { client: self.client.clone(), node: self.context.config.node_name.clone() }
    }

    async fn install(&self, name: &str) -> Result<(), String> {
        let mut node = self.context.volumes.csi().drivers().node(name).await.map_err(|e| e.text)?;
        let info = node.info().await.map_err(|e| e.text)?;
        self.book().install(name, &info).await.map_err(|e| e.to_string())
    }

    async fn uninstall(&self, name: &str) {
        if let Some(stop) = self.asking.lock().remove(name) {
            stop.cancel();
        }
        self.context.volumes.csi().drivers().remove(name);
        if let Err(error) = self.book().uninstall(name).await {
            tracing::error!(driver = name, error, "failed to take a CSI driver out of the node's objects");
        }
    }

    /// Asks for limits that change (`nodeAllocatableUpdatePeriodSeconds`), and unstages what is left over.
    fn attend(&self, name: &str) {
        let stop = CancellationToken::new();
        if let Some(before) = self.asking.lock().insert(name.to_owned(), stop.clone()) {
            before.cancel();
        }
        let (context, book, name) = (self.context.clone(), self.book(), name.to_owned());
        base::tasks::detach("csi driver", async move {
            let work = async {
                context.volumes.csi().sweep(&name).await;
                loop {
                    let driver = context.cluster.csi_driver(&name).await.ok().flatten();
                    let seconds = driver.and_then(|d| d.spec.node_allocatable_update_period_seconds);
                    let period = seconds.and_then(|s| u64::try_from(s).ok()).map(Duration::from_secs);
                    tokio::time::sleep(period.unwrap_or(LOOK)).await;
                    if period.is_some()
                        && let Err(error) = update_limits(&context, &book, &name).await
                    {
                        tracing::warn!(driver = name, error, "failed to learn how many volumes a CSI driver takes");
                    }
                }
            };
            tokio::select! { () = stop.cancelled() => {}, () = work => {} }
        });
    }
}

async fn update_limits(context: &Context, book: &NodeBook, name: &str) -> Result<(), String> {
    let mut node = context.volumes.csi().drivers().node(name).await.map_err(|e| e.text)?;
    let info = node.info().await.map_err(|e| e.text)?;
    book.enter(name, &info).await
}

#[async_trait]
impl PluginHandler for CsiPlugins {
    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        let (name, endpoint) = (&plugin.name, plugin.endpoint.display());
        let checked = self.context.volumes.csi().drivers().check("ValidatePlugin", name, &plugin.versions);
        checked.map(drop).map_err(|e| format!("validation failed for CSI Driver {name} at endpoint {endpoint}: {e}"))
    }

    async fn register(&self, plugin: &Plugin) -> Result<(), String> {
        let drivers = self.context.volumes.csi().drivers();
        let version = drivers.check("RegisterPlugin", &plugin.name, &plugin.versions)?;
        drivers.set(&plugin.name, &plugin.endpoint, version);
        let installed = self.install(&plugin.name).await;
        match &installed {
            Ok(()) => self.attend(&plugin.name),
            Err(_) => self.uninstall(&plugin.name).await,
        }
        installed
    }

    async fn deregister(&self, plugin: &Plugin) {
        self.uninstall(&plugin.name).await;
    }
}

// === the node's objects ===

/// Writes what drivers say of a node.
pub struct NodeBook {
    /// Acts as the node.
    pub client: Client,
    /// `metadata.name`
    pub node: String,
}

impl NodeBook {
    /// Makes the CSINode, if there is none of this Node (`InitializeCSINodeWithAnnotation`).
    pub async fn open(&self, node_uid: &str) -> Result<CSINode, ClientError> {
        let api = self.client.api::<CSINode>();
        match api.find("", &self.node).await? {
            Some(found) if found.metadata.owner_references.iter().flatten().any(|o| o.uid == node_uid) => {
                return Ok(found);
            }
            // Of another Node of this name.
            Some(other) => match api.delete("", &self.node, &DeleteParams::uid(other.uid())).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            },
            None => {}
        }
        match api.create(&new_csi_node(&self.node, node_uid)).await {
            Err(error) if error.is_already_exists() => api.get("", &self.node).await,
            other => other,
        }
    }

    /// `InstallCSIDriver`
    async fn install(&self, driver: &str, info: &NodeGetInfoResponse) -> Result<(), InstallError> {
        if info.node_id.is_empty() {
            return Err(InstallError::NoId);
        }
        self.change_node(|node| with_id(node, driver, info)).await.map_err(InstallError::Node)?;
        self.enter(driver, info).await.map_err(InstallError::CsiNode)
    }

    async fn enter(&self, driver: &str, info: &NodeGetInfoResponse) -> Result<(), String> {
        self.change_csi_node(|node| with_driver(node, driver, info)).await
    }

    /// `UninstallCSIDriver`
    async fn uninstall(&self, driver: &str) -> Result<(), String> {
        self.change_csi_node(|node| without_driver(node, driver)).await?;
        self.change_node(|node| Ok(without_id(node, driver))).await
    }

    async fn change_csi_node(&self, change: impl Fn(&CSINode) -> Option<CSINode> + Send + Sync) -> Result<(), String> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        loop {
            match self.try_change_csi_node(&change).await {
                Err(_) if backoff.failures() + 1 < ATTEMPTS => tokio::time::sleep(backoff.fail()).await,
                other => return other.map_err(|e| base::chain(&e)),
            }
        }
    }

    async fn try_change_csi_node(
        &self,
        change: &(impl Fn(&CSINode) -> Option<CSINode> + Send + Sync),
    ) -> Result<(), ClientError> {
        let node = self.client.api::<Node>().get("", &self.node).await?;
        let found = self.open(node.uid()).await?;
        match change(&found) {
            Some(next) => self.client.api::<CSINode>().update(&next).await.map(drop),
            None => Ok(()),
        }
    }

    async fn change_node(
        &self,
        change: impl Fn(&Node) -> Result<Option<Value>, String> + Send + Sync,
    ) -> Result<(), String> {
        let mut backoff = Backoff::new(PAUSE.0, PAUSE.1);
        let api = self.client.api::<Node>();
        loop {
            let node = api.get("", &self.node).await.map_err(|e| base::chain(&e))?;
            let Some(metadata) = change(&node)? else { return Ok(()) };
            let patch = Patch::Merge(json!({"metadata": metadata}));
            match api.patch("", &self.node, "", &patch).await {
                Err(_) if backoff.failures() + 1 < ATTEMPTS => tokio::time::sleep(backoff.fail()).await,
                other => return other.map(drop).map_err(|e| base::chain(&e)),
            }
        }
    }
}

fn new_csi_node(node: &str, node_uid: &str) -> CSINode {
    CSINode {
        metadata: ObjectMeta {
            name: Some(node.to_owned()),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".into(),
                kind: "Node".into(),
                name: node.to_owned(),
                uid: node_uid.to_owned(),
                ..OwnerReference::default()
            }]),
            ..ObjectMeta::default()
        },
        spec: CSINodeSpec { drivers: Vec::new() },
    }
}

fn topology(info: &NodeGetInfoResponse) -> BTreeMap<&String, &String> {
    info.accessible_topology.iter().flat_map(|t| &t.segments).collect()
}

/// `installDriverToCSINode`; `None` if it says so already.
fn with_driver(node: &CSINode, driver: &str, info: &NodeGetInfoResponse) -> Option<CSINode> {
    let limit = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
    let keys: Vec<String> = topology(info).into_keys().cloned().collect();
    let entry = CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys).filter(|k| !k.is_empty()),
        allocatable: (limit > 0).then_some(VolumeNodeResources { count: Some(limit) }),
    };
    if node.spec.drivers.contains(&entry) {
        return None;
    }
    let mut next = without_driver(node, driver).unwrap_or_else(|| node.clone());
    next.spec.drivers.push(entry);
    Some(next)
}

/// `None` if it is not there.
fn without_driver(node: &CSINode, driver: &str) -> Option<CSINode> {
    let mut next = node.clone();
    next.spec.drivers.retain(|d| d.name != driver);
    (next != *node).then_some(next)
}

fn ids(node: &Node) -> BTreeMap<String, String> {
    node.annotation(NODE_ID).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

fn ids_changed(node: &Node, ids: &BTreeMap<String, String>) -> Value {
    let text = if ids.is_empty() { Value::Null } else { json!(json!(ids).to_string()) };
    json!({"resourceVersion": node.metadata.resource_version, "annotations": {NODE_ID: text}})
}

/// What changes in the Node's metadata (`updateNodeIDInNode`, `updateTopologyLabels`).
fn with_id(node: &Node, driver: &str, info: &NodeGetInfoResponse) -> Result<Option<Value>, String> {
    let topology = topology(info);
    for (key, value) in &topology {
        if let Some(other) = node.label(key).filter(|label| *label != value.as_str()) {
            return Err(format!(
                "detected topology value collision: driver reported {key:?}:{value:?} but existing label is {key:?}:{other:?}"
            ));
        }
    }
    let mut ids = ids(node);
    let same = ids.insert(driver.to_owned(), info.node_id.clone()).as_ref() == Some(&info.node_id);
    if same && topology.keys().all(|key| node.label(key).is_some()) {
        return Ok(None);
    }
    let mut metadata = ids_changed(node, &ids);
    metadata["labels"] = json!(topology);
    Ok(Some(metadata))
}

/// `removeNodeIDFromNode`; labels stay.
fn without_id(node: &Node, driver: &str) -> Option<Value> {
    let mut ids = ids(node);
    ids.remove(driver).map(|_| ids_changed(node, &ids))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;
    use node_api::csi::Topology;

    fn info(limit: i64) -> NodeGetInfoResponse {
        let segments = [("topology.d/zone".to_owned(), "a".to_owned())].into();
        NodeGetInfoResponse {
            node_id: "id-1".into(),
            max_volumes_per_node: limit,
            accessible_topology: Some(Topology { segments }),
        }
    }

    #[test]
    fn a_driver_is_entered_once_and_taken_out() {
        let empty = new_csi_node("n", "u");
        let entered = with_driver(&empty, "d", &info(5)).expect("it is new");
        let driver = &entered.spec.drivers[0];
        assert_eq!((driver.name.as_str(), driver.node_id.as_str()), ("d", "id-1"));
        assert_eq!(driver.topology_keys.as_deref(), Some(&["topology.d/zone".to_owned()][..]));
        assert_eq!(driver.allocatable.as_ref().and_then(|a| a.count), Some(5));
        assert_eq!(with_driver(&entered, "d", &info(5)), None);
        let changed = with_driver(&entered, "d", &info(0)).expect("another limit");
        assert_eq!((changed.spec.drivers.len(), changed.spec.drivers[0].allocatable.as_ref()), (1, None));
        assert_eq!(without_driver(&entered, "d"), Some(empty.clone()));
        assert_eq!(without_driver(&empty, "d"), None);
    }

    #[test]
    fn the_node_tells_what_drivers_call_it_and_where_it_is() {
        let node: Node = object(
            r#"{"metadata":{"name":"n","resourceVersion":"3","annotations":{"csi.volume.kubernetes.io/nodeid":"{\"other\":\"x\"}"}}}"#,
        );
        let change = with_id(&node, "d", &info(0)).expect("no collision").expect("it is new");
        assert_eq!(
            change.to_string(),
            r#"{"annotations":{"csi.volume.kubernetes.io/nodeid":"{\"d\":\"id-1\",\"other\":\"x\"}"},"labels":{"topology.d/zone":"a"},"resourceVersion":"3"}"#
        );
        let elsewhere: Node = object(r#"{"metadata":{"name":"n","labels":{"topology.d/zone":"b"}}}"#);
        assert_eq!(
            with_id(&elsewhere, "d", &info(0)).expect_err("not there"),
            r#"detected topology value collision: driver reported "topology.d/zone":"a" but existing label is "topology.d/zone":"b""#
        );
        assert_eq!(
            without_id(&node, "other").expect("it was there")["annotations"].to_string(),
            r#"{"csi.volume.kubernetes.io/nodeid":null}"#
        );
        assert_eq!(without_id(&node, "d"), None);
    }
}
