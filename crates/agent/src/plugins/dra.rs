//! Drivers of dynamic resources as plugins (type `DRAPlugin`): a driver that registers can be called; the ResourceSlices of one that
//! stays away are deleted, so that the scheduler gives nobody devices that nobody can prepare.
//!
//! Follows `pkg/kubelet/cm/dra/plugin/dra_plugin_manager.go`.

use super::{Plugin, PluginHandler};
use crate::context::Context;
use crate::dra::drivers::{Driver, choose};
use api::k8s::api::resource::v1::ResourceSlice;
use api::prelude::Node;
use async_trait::async_trait;
use base::backoff::Backoff;
use client::{Client, ListParams};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The type by which drivers register.
pub const KIND: &str = "DRAPlugin";
/// How long a driver may stay away before its slices are deleted (`defaultWipingDelay`).
const WIPE_AFTER: Duration = Duration::from_secs(30);
/// Pauses between attempts to delete slices.
const WIPE_RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// See the file's head.
pub struct DraPlugins(Arc<Inner>);

struct Inner {
    context: Arc<Context>,
    client: Client,
    /// Stop following a plugin, by driver and endpoint.
    followed: Mutex<BTreeMap<(String, PathBuf), CancellationToken>>,
    /// Drivers whose slices are about to be deleted.
    wipes: Mutex<BTreeMap<String, CancellationToken>>,
}

impl DraPlugins {
    /// Acts as the node. No driver has registered yet, so all slices of the node are deleted: drivers that come back make them again.
    pub fn start(context: Arc<Context>, client: &Client) -> Self {
        let client = client.named("kubelet");
        let inner = Arc::new(Inner { context, client, followed: Mutex::default(), wipes: Mutex::default() });
        let own = inner.clone();
        base::tasks::detach("resource slices", async move { own.wipe(None).await });
        DraPlugins(inner)
    }
}

#[async_trait]
impl PluginHandler for DraPlugins {
    fn validate(&self, plugin: &Plugin) -> Result<(), String> {
        choose(&plugin.name, &plugin.endpoint, &plugin.versions).map(drop)
    }

    async fn register(&self, plugin: &Plugin) -> Result<(), String> {
        let version = choose(&plugin.name, &plugin.endpoint, &plugin.versions)?;
        let driver = self.0.context.dynamic.drivers.add(&plugin.name, &plugin.endpoint, version)?;
        let stop = CancellationToken::new();
        self.0.followed.lock().insert((plugin.name.clone(), plugin.endpoint.clone()), stop.clone());
        let inner = self.0.clone();
        base::tasks::detach("dra driver", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = inner.follow_connection(&driver) => {}
                () = inner.context.dynamic.follow(&driver) => {}
            }
            inner.context.dynamic.lose(&driver.name);
        });
        Ok(())
    }

    async fn deregister(&self, plugin: &Plugin) {
        if let Some(stop) = self.0.followed.lock().remove(&(plugin.name.clone(), plugin.endpoint.clone())) {
            stop.cancel();
        }
        self.0.context.dynamic.drivers.remove(&plugin.name, &plugin.endpoint);
        self.0.judge(&plugin.name);
    }
}

impl Inner {
    async fn follow_connection(self: &Arc<Self>, driver: &Driver) {
        let mut lines = driver.lines();
        loop {
            self.judge(&driver.name);
            if lines.changed().await.is_err() {
                return;
            }
        }
    }

    /// Begins or ends the wait for a driver that is away (`sync`).
    fn judge(self: &Arc<Self>, driver: &str) {
        let mut wipes = self.wipes.lock();
        if self.context.dynamic.drivers.is_usable(driver) {
            if let Some(wipe) = wipes.remove(driver) {
                wipe.cancel();
            }
            return;
        }
        if wipes.contains_key(driver) {
            return;
        }
        let stop = CancellationToken::new();
        wipes.insert(driver.to_owned(), stop.clone());
        let (inner, driver) = (self.clone(), driver.to_owned());
        base::tasks::detach("resource slices", async move {
            let wipe = async {
                tokio::time::sleep(WIPE_AFTER).await;
                inner.wipe(Some(&driver)).await;
            };
            tokio::select! { () = stop.cancelled() => {}, () = wipe => {} }
        });
    }

    /// Deletes the node's slices, or those of one driver, however long it takes (`wipeResourceSlices`).
    async fn wipe(&self, driver: Option<&str>) {
        let mut backoff = Backoff::new(WIPE_RETRY.0, WIPE_RETRY.1);
        while let Err(error) = self.try_wipe(driver).await {
            tracing::debug!(driver, error, "failed to delete ResourceSlices, trying again");
            tokio::time::sleep(backoff.fail()).await;
        }
    }

    async fn try_wipe(&self, driver: Option<&str>) -> Result<(), String> {
        let name = &self.context.config.node_name;
        // Before there is a Node it may not be this one's name yet.
        self.client.api::<Node>().get("", name).await.map_err(|e| base::chain(&e))?;
        let selector = match driver {
            Some(driver) => format!("spec.driver={driver},spec.nodeName={name}"),
            None => format!("spec.nodeName={name}"),
        };
        let slices = ListParams::all().fields(&selector);
        self.client.api::<ResourceSlice>().delete_collection(&slices).await.map_err(|e| base::chain(&e))
    }
}
