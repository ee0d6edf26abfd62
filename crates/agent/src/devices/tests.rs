//! A device plugin of ours, on a real socket.

use super::*;
use crate::pod::fixture::pod;
use async_trait::async_trait;
use base::SystemClock;
use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use node_api::device_plugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use node_api::device_plugin::registration_client::RegistrationClient;
use node_api::device_plugin::{
    AllocateResponse, ContainerAllocateResponse, ContainerPreferredAllocationResponse, Device, Empty,
    ListAndWatchResponse, PreStartContainerResponse, PreferredAllocationResponse, RegisterRequest,
};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

const RESOURCE: &str = "example.com/gpu";

/// Has the devices that it is told, and tells what it hears.
struct Fake {
    devices: watch::Receiver<String>,
    heard: mpsc::UnboundedSender<String>,
}

impl Fake {
    fn hear(&self, what: String) {
        self.heard.send(what).expect("the test listens");
    }
}

fn list(text: &str) -> ListAndWatchResponse {
    let device = |word: &str| Device {
        id: word.trim_end_matches('!').into(),
        health: if word.ends_with('!') { "Unhealthy" } else { "Healthy" }.into(),
        topology: None,
    };
    ListAndWatchResponse { devices: text.split_whitespace().map(device).collect() }
}

#[async_trait]
impl DevicePlugin for Fake {
    type ListAndWatchStream = BoxStream<'static, Result<ListAndWatchResponse, Status>>;

    async fn get_device_plugin_options(&self, _: Request<Empty>) -> Result<Response<DevicePluginOptions>, Status> {
        let options = DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true };
        Ok(Response::new(options))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let first = (self.devices.clone(), true);
        let stream = unfold(first, |(mut devices, first)| async move {
            if !first {
                devices.changed().await.ok()?;
            }
            let now = list(&devices.borrow_and_update());
            Some((Ok(now), (devices, false)))
        });
        Ok(Response::new(stream.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let asked = request.into_inner().container_requests.remove(0);
        let last = asked.available_device_i_ds.into_iter().next_back().into_iter().collect();
        let container_responses = vec![ContainerPreferredAllocationResponse { device_i_ds: last }];
        Ok(Response::new(PreferredAllocationResponse { container_responses }))
    }

    async fn allocate(&self, request: Request<AllocateRequest>) -> Result<Response<AllocateResponse>, Status> {
        let ids = request.into_inner().container_requests.remove(0).devices_ids.join(",");
        self.hear(format!("allocate {ids}"));
        if ids == "bad" {
            return Err(Status::internal("burnt"));
        }
        let answer = ContainerAllocateResponse { envs: [("GPU".to_owned(), ids)].into(), ..Default::default() };
        Ok(Response::new(AllocateResponse { container_responses: vec![answer] }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        self.hear(format!("prepare {}", request.into_inner().devices_ids.join(",")));
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

fn serve(socket: &Path, fake: Fake) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(socket).expect("a socket");
    let incoming = UnixListenerStream::new(listener);
    base::tasks::spawn("fake plugin", async move {
        let service = DevicePluginServer::new(fake);
        // It ends with the test.
        tonic::transport::Server::builder().serve_with_incoming(service, incoming).await.ok();
    })
}

async fn register(dir: &Path, version: &str, resource: &str) -> Result<(), String> {
    let socket = dir.join("kubelet.sock");
    while !socket.exists() {
        tokio::task::yield_now().await;
    }
    let mut client = RegistrationClient::new(crate::plugins::connect(&socket).await?);
    let request = RegisterRequest {
        version: version.into(),
        endpoint: "fake.sock".into(),
        resource_name: resource.into(),
        options: None,
    };
    client.register(request).await.map(drop).map_err(|e| rpc_error(&e))
}

async fn until(condition: impl Fn() -> bool) {
    let waited = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waited).await.expect("it happens");
}

fn wants(count: u32, uid: &str) -> Pod {
    let mut pod =
        pod(&format!(r#"{{"containers":[{{"name":"a","resources":{{"limits":{{"{RESOURCE}":"{count}"}}}}}}]}}"#));
    pod.metadata.uid = Some(uid.into());
    pod
}

async fn allocate(devices: &Devices, pod: &Pod) -> Result<(), String> {
    devices.allocate(pod, &view::app_containers(pod)[0], Hint::default()).await
}

#[tokio::test]
async fn a_plugin_registers_and_its_devices_reach_containers() {
    let root = tempfile::tempdir().expect("a temporary directory");
    let dir = root.path().to_owned();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let devices = Arc::new(Devices::new(dir.clone(), clock.clone(), Arc::default()));
    let shutdown = CancellationToken::new();
    let served = base::tasks::spawn("devices", devices.clone().serve(shutdown.clone()));
    let version = register(&dir, "v1alpha1", RESOURCE).await;
    assert!(version.expect_err("is old").contains("requested API version \"v1alpha1\" is not supported by kubelet"));
    let name = register(&dir, "v1beta1", "cpu").await;
    assert!(name.expect_err("is not a vendor's").ends_with("the ResourceName \"cpu\" is invalid"));

    let (say, told) = watch::channel("g1 g2 g3!".to_owned());
    let (heard, mut hears) = mpsc::unbounded_channel();
    let plugin = serve(&dir.join("fake.sock"), Fake { devices: told, heard });
    register(&dir, "v1beta1", RESOURCE).await.expect("registered");
    until(|| devices.capacity().get(RESOURCE) == Some(&(3, 2))).await;

    allocate(&devices, &wants(1, "p")).await.expect("there are two");
    assert_eq!(hears.recv().await.as_deref(), Some("allocate g2"), "as the plugin prefers");
    assert_eq!(devices.counters.of(&counters::DEVICE_PLUGINS_REGISTERED), [(vec![RESOURCE.to_owned()], 1)]);
    assert_eq!(devices.counters.spreads_of(&counters::DEVICE_ALLOCATION)[0].1.count, 1);
    let grant = devices.ready("p", "a").await.expect("the plugin makes it ready");
    assert_eq!(hears.recv().await.as_deref(), Some("prepare g2"));
    assert_eq!(grant.env, BTreeMap::from([("GPU".to_owned(), "g2".to_owned())]));
    let short = allocate(&devices, &wants(2, "q")).await;
    let want = "requested number of devices unavailable for example.com/gpu. Requested: 2, Available: 1";
    assert_eq!(short, Err(want.to_owned()));

    // Its health reaches the pod; a restart of the agent forgets nobody.
    say.send("g1 g2! bad".into()).expect("the plugin listens");
    assert_eq!(devices.concerned().await, BTreeSet::from(["p".to_owned()]));
    assert!(!devices.health("p")["a"][RESOURCE]["g2"]);
    say.send("bad".into()).expect("the plugin listens");
    until(|| devices.capacity().get(RESOURCE) == Some(&(1, 1))).await;
    let burnt = allocate(&devices, &wants(1, "r")).await;
    assert_eq!(burnt, Err("rpc error: code = Internal desc = burnt".to_owned()));
    assert_eq!(
        Devices::new(dir.clone(), clock, Arc::default()).health("p")["a"][RESOURCE].keys().collect::<Vec<_>>(),
        ["g2"]
    );
    devices.release("p");
    assert!(devices.health("p").is_empty());

    // Its connection ends with what it says.
    drop(say);
    until(|| devices.capacity().get(RESOURCE) == Some(&(1, 0))).await;
    shutdown.cancel();
    plugin.abort();
    served.await.expect("no panic");
}
