//! `kubelet.sock`: plugins register here, and are then asked what they have (`cm/devicemanager/plugin/v1beta1`).

use super::registry::Device;
use super::{Devices, Plugin};
use crate::counters;
use crate::plugins::{connect, rpc_error};
use machinery::kinds::is_extended_resource;
use node_api::device_plugin::device_plugin_client::DevicePluginClient;
use node_api::device_plugin::registration_server::{Registration, RegistrationServer};
use node_api::device_plugin::{DevicePluginOptions, Empty, ListAndWatchResponse, RegisterRequest};
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const SOCKET: &str = "kubelet.sock";
const VERSION: &str = "v1beta1";

impl Devices {
    /// Takes registrations until `shutdown`.
    pub async fn serve(self: Arc<Self>, shutdown: CancellationToken) {
        let listener = match listen(&self.dir) {
            Ok(listener) => listener,
            Err(error) => {
                let dir = self.dir.display();
                return tracing::error!(%dir, %error, "failed to listen: no device plugin can register");
            }
        };
        let incoming = UnixListenerStream::new(listener);
        let service = RegistrationServer::new(Registrations { devices: self.clone(), shutdown: shutdown.clone() });
        let served = tonic::transport::Server::builder().serve_with_incoming_shutdown(
            service,
            incoming,
            shutdown.cancelled_owned(),
        );
        if let Err(error) = served.await {
            tracing::error!(error = %base::chain(&error), "registration of device plugins ended");
        }
    }

    /// Asks a plugin what it has, until it leaves or another comes in its place.
    async fn follow(self: Arc<Self>, resource: String, mut plugin: Plugin, shutdown: CancellationToken) {
        let mut stream = match plugin.client.list_and_watch(Empty {}).await {
            Ok(stream) => stream.into_inner(),
            Err(error) => return self.left(&resource, &plugin, &rpc_error(&error)),
        };
        loop {
            let next = tokio::select! {
                () = shutdown.cancelled() => return,
                next = stream.message() => next,
            };
            match next {
                Ok(Some(list)) => self.listed(&resource, &plugin, list),
                Ok(None) => return self.left(&resource, &plugin, "EOF"),
                Err(error) => return self.left(&resource, &plugin, &rpc_error(&error)),
            }
        }
    }

    fn is_current(plugins: &BTreeMap<String, Plugin>, resource: &str, plugin: &Plugin) -> bool {
        plugins.get(resource).is_some_and(|p| p.number == plugin.number)
    }

    fn listed(&self, resource: &str, plugin: &Plugin, list: ListAndWatchResponse) {
        let mut state = self.state.lock();
        if Self::is_current(&state.plugins, resource, plugin) {
            let concerned = state.registry.update(resource, described(list));
            state.concerned.extend(concerned);
            self.save(&state.registry);
            self.changed.notify_one();
        }
    }

    fn left(&self, resource: &str, plugin: &Plugin, why: &str) {
        let mut state = self.state.lock();
        if Self::is_current(&state.plugins, resource, plugin) {
            tracing::warn!(resource, why, "a device plugin is gone");
            state.plugins.remove(resource);
            let concerned = state.registry.plugin_left(resource, self.clock.now());
            state.concerned.extend(concerned);
            self.changed.notify_one();
        }
    }
}

fn described(list: ListAndWatchResponse) -> BTreeMap<String, Device> {
    let device = |d: node_api::device_plugin::Device| {
        let nodes = d.topology.into_iter().flat_map(|t| t.nodes).map(|n| n.id).collect();
        (d.id, Device { healthy: d.health == "Healthy", nodes })
    };
    list.devices.into_iter().map(device).collect()
}

/// Sockets of plugins that knew an earlier agent are removed, which is how they notice that they have to register again.
fn listen(dir: &Path) -> io::Result<UnixListener> {
    std::fs::create_dir_all(dir)?;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_socket() {
            std::fs::remove_file(entry.path())?;
        }
    }
    UnixListener::bind(dir.join(SOCKET))
}

struct Registrations {
    devices: Arc<Devices>,
    shutdown: CancellationToken,
}

#[tonic::async_trait]
impl Registration for Registrations {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let RegisterRequest { version, endpoint, resource_name, options: _ } = request.into_inner();
        if version != VERSION {
            return Err(Status::unknown(format!(
                "requested API version {version:?} is not supported by kubelet. Supported version is {VERSION:?}"
            )));
        }
        if !is_extended_resource(&resource_name) {
            return Err(Status::unknown(format!("the ResourceName {resource_name:?} is invalid")));
        }
        let plugin = self.connected(&resource_name, &endpoint).await.map_err(Status::unknown)?;
        tracing::info!(resource = resource_name, endpoint, "a device plugin has registered");
        let follow = self.devices.clone().follow(resource_name, plugin, self.shutdown.clone());
        base::tasks::detach("device plugin", follow);
        Ok(Response::new(Empty {}))
    }
}

impl Registrations {
    async fn connected(&self, resource: &str, endpoint: &str) -> Result<Plugin, String> {
        let channel = connect(&self.devices.dir.join(endpoint))
            .await
            .map_err(|e| format!("failed to dial device plugin: {e}"))?;
        let mut client = DevicePluginClient::new(channel);
        let options: DevicePluginOptions =
            client.get_device_plugin_options(Empty {}).await.map_err(|e| rpc_error(&e))?.into_inner();
        let mut state = self.devices.state.lock();
        state.connections += 1;
        let plugin = Plugin { client, options, number: state.connections };
        state.plugins.insert(resource.to_owned(), plugin.clone());
        self.devices.counters.count(&counters::DEVICE_PLUGINS_REGISTERED, &[resource]);
        Ok(plugin)
    }
}
