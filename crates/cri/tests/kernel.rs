//! The whole interface on the real kernel, as root, over its socket: busybox as the image, pods with the machine's network.

use base::{SystemClock, SystemRandom};
use futures_util::{SinkExt, StreamExt};
use image::{ImageStore, Options};
use net::NetConfig;
use net::pod::PodNetwork;
use node_api::cri::image_service_client::ImageServiceClient;
use node_api::cri::runtime_service_client::RuntimeServiceClient;
use node_api::cri::*;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tokio::net::UnixListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

const APPLETS: &[&str] = &["sh", "cat", "echo", "sleep", "id", "true", "false", "kill", "mount", "touch"];
const IMAGE: &str = "docker.io/library/box:1";

static COUNT: AtomicU32 = AtomicU32::new(0);

struct World {
    dir: tempfile::TempDir,
    images: ImageStore,
    network: Arc<PodNetwork>,
    cgroup: String,
}

struct Running {
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    engine: runtime::Engine,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
}

impl World {
    async fn new() -> World {
        let me = std::fs::metadata("/proc/self").expect("there");
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&me), 0, "the kernel tests need root");
        let dir = tempfile::tempdir().expect("a directory");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let images = ImageStore::open(&dir.path().join("images"), Options::default()).expect("opened");
        runtime::selinux::label_layers(&dir.path().join("images/layers")).expect("labelled, where there is SELinux");
        let archive = dir.path().join("box.tar");
        std::fs::write(&archive, box_archive(&dir.path().join("box"))).expect("written");
        images.import(&archive).await.expect("imported");
        // Nothing is attached to it; its links are named so that nobody else's are taken for them.
        let config = NetConfig {
            link_prefix: format!("t{}{number}", std::process::id() % 1000),
            pod_cidrs: vec!["10.85.0.0/24".parse().expect("literal")],
            cluster_cidrs: vec!["10.85.0.0/24".parse().expect("literal")],
            service_cidrs: Vec::new(),
            dns_ips: Vec::new(),
            state_dir: dir.path().join("net"),
            ..NetConfig::default()
        };
        let network = Arc::new(PodNetwork::new(config, Arc::new(SystemRandom)).expect("valid"));
        World { dir, images, network, cgroup: format!("/dhow-test-cri-{}-{number}", std::process::id()) }
    }

    fn path(&self, sub: &str) -> PathBuf {
        self.dir.path().join(sub)
    }

    fn engine_config(&self) -> runtime::Config {
        runtime::Config {
            run_dir: self.path("engine-run"),
            state_dir: self.path("engine-state"),
            exe: env!("CARGO_BIN_EXE_cri-zygote").into(),
            supervisor_cgroup: None,
            patience: runtime::Config::PATIENCE,
        }
    }

    async fn start(&self) -> Running {
        let (engine, events) = runtime::Engine::start(self.engine_config()).expect("the engine starts");
        let config = cri::Config {
            data_dir: self.path("data"),
            run_dir: self.path("run"),
            images_dir: self.path("images"),
            cgroup_parent: self.cgroup.clone(),
            cdi_dirs: vec![self.path("cdi")],
            version: "0".into(),
        };
        let parts = cri::Parts {
            engine: engine.clone(),
            events,
            images: self.images.clone(),
            network: self.network.clone(),
            on_host_ports: Arc::new(|_| {}),
            clock: SystemClock::shared(),
            random: Arc::new(SystemRandom),
        };
        let stop = CancellationToken::new();
        let server = cri::Server::start(config, parts, stop.clone()).await.expect("recovered");
        let socket = self.path("cri.sock");
        // There is none the first time.
        std::fs::remove_file(&socket).ok();
        let listener = UnixListener::bind(&socket).expect("bound");
        let until = stop.clone();
        let task = base::tasks::spawn("cri", async move { server.serve(listener, until).await });
        let url = format!("unix://{}", socket.display());
        let channel = Endpoint::from_shared(url).expect("a URL").connect().await.expect("connected");
        Running {
            runtime: RuntimeServiceClient::new(channel.clone()),
            image: ImageServiceClient::new(channel),
            engine,
            stop,
            task,
        }
    }

    fn sandbox(&self, name: &str) -> PodSandboxConfig {
        let node = NamespaceMode::Node.into();
        let namespaces = NamespaceOption { network: node, ..NamespaceOption::default() };
        let security = LinuxSandboxSecurityContext { namespace_options: Some(namespaces), ..Default::default() };
        PodSandboxConfig {
            metadata: Some(PodSandboxMetadata { name: name.into(), uid: "1-2-3".into(), ..Default::default() }),
            hostname: "box".into(),
            log_directory: self.path("logs").to_string_lossy().into_owned(),
            labels: [("app".to_owned(), name.to_owned())].into(),
            linux: Some(LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        }
    }

    fn log(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path("logs").join(format!("{name}.log"))).unwrap_or_default();
        text.lines().filter_map(|l| Some(l.split_once(' ')?.1.to_owned() + "\n")).collect()
    }
}

fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.into(), ..ImageSpec::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}.log"),
        ..ContainerConfig::default()
    }
}

impl Running {
    async fn run_sandbox(&mut self, config: PodSandboxConfig) -> String {
        let request = RunPodSandboxRequest { config: Some(config), ..Default::default() };
        self.runtime.run_pod_sandbox(request).await.expect("it runs").into_inner().pod_sandbox_id
    }

    async fn create(&mut self, sandbox: &str, config: ContainerConfig) -> Result<String, tonic::Status> {
        let request =
            CreateContainerRequest { pod_sandbox_id: sandbox.into(), config: Some(config), ..Default::default() };
        self.runtime.create_container(request).await.map(|r| r.into_inner().container_id)
    }

    async fn start(&mut self, id: &str) -> Result<(), tonic::Status> {
        self.runtime.start_container(StartContainerRequest { container_id: id.into() }).await.map(drop)
    }

    async fn begin(&mut self, sandbox: &str, config: ContainerConfig) -> String {
        let id = self.create(sandbox, config).await.expect("made");
        self.start(&id).await.expect("started");
        id
    }

    async fn status(&mut self, id: &str) -> ContainerStatus {
        let request = ContainerStatusRequest { container_id: id.into(), verbose: false };
        self.runtime.container_status(request).await.expect("known").into_inner().status.expect("one")
    }

    async fn ended(&mut self, id: &str) -> ContainerStatus {
        let began = Instant::now();
        loop {
            let status = self.status(id).await;
            if status.state() == ContainerState::ContainerExited {
                return status;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn exec(&mut self, id: &str, script: &str, timeout: i64) -> Result<ExecSyncResponse, tonic::Status> {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        let request = ExecSyncRequest { container_id: id.into(), cmd, timeout };
        self.runtime.exec_sync(request).await.map(tonic::Response::into_inner)
    }

    async fn remove_sandbox(&mut self, id: &str) {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        self.runtime.remove_pod_sandbox(request).await.expect("removed");
    }

    /// As if the process had been killed: nobody says goodbye to anybody.
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic").expect("served");
    }
}

/// Runs a test; whatever came of it, ends what it started.
async fn in_world<F: Future<Output = ()> + Send + 'static>(body: impl FnOnce(Arc<World>) -> F) {
    let world = Arc::new(World::new().await);
    let result = base::tasks::spawn("test", body(world.clone())).await;
    let (engine, _events) = runtime::Engine::start(world.engine_config()).expect("the engine starts");
    let left = engine.recover().await.expect("recovered");
    for found in &left {
        engine.remove_pod(&found.pod).await.expect("removed");
    }
    engine.remove_cgroup(&world.cgroup).await.expect("removed");
    result.expect("the test passes");
    assert!(left.is_empty(), "sandboxes are left");
    for dir in ["data/sandboxes", "data/containers", "run/sandboxes", "engine-run/pods", "engine-state/pods"] {
        let left = std::fs::read_dir(world.path(dir)).map(|entries| entries.count()).unwrap_or(0);
        assert_eq!(left, 0, "{dir}");
    }
    assert!(world.images.snapshots().is_empty(), "root file systems are left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_from_its_image_to_its_end() {
    in_world(|world| async move {
        let mut run = world.start().await;
        let sandbox = run.run_sandbox(world.sandbox("web")).await;
        std::fs::create_dir_all(world.path("shared")).expect("made");
        let mut config = container("main", "echo out; echo err >&2; exec sleep 1000");
        config.mounts = vec![Mount {
            container_path: "/shared".into(),
            host_path: world.path("shared").to_string_lossy().into_owned(),
            readonly: true,
            ..Mount::default()
        }];
        config.envs = vec![KeyValue { key: "WHO".into(), value: b"me".to_vec() }];
        let security = LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 33 }),
            supplemental_groups: vec![7],
            ..Default::default()
        };
        config.linux = Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() });
        let id = run.create(&sandbox, config.clone()).await.expect("made");
        assert_eq!(run.status(&id).await.state(), ContainerState::ContainerCreated);
        assert_eq!(run.create(&sandbox, config).await.expect_err("the name is taken").code(), Code::AlreadyExists);
        run.start(&id).await.expect("started");
        let status = run.status(&id).await;
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        let user = status.user.and_then(|u| u.linux).expect("a user");
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (33, 33, vec![33, 77, 7]));
        let script = "id -u; id -G; echo $WHO; touch /shared/x; cat /etc/hostname; exit 3";
        let done = run.exec(&id, script, 0).await.expect("ran");
        assert_eq!(String::from_utf8_lossy(&done.stdout), "33\n33 7 77\nme\nbox\n");
        assert_eq!(String::from_utf8_lossy(&done.stderr), "touch: /shared/x: Read-only file system\n");
        assert_eq!(done.exit_code, 3);
        let late = run.exec(&id, "sleep 1000", 1).await.expect_err("too late");
        assert_eq!(late.code(), Code::DeadlineExceeded);
        assert_eq!(world.log("main"), "stdout F out\nstderr F err\n");
        let listed = ListContainersRequest {
            filter: Some(ContainerFilter { pod_sandbox_id: sandbox[..8].to_owned(), ..Default::default() }),
        };
        let listed = run.runtime.list_containers(listed).await.expect("listed").into_inner().containers;
        assert_eq!(listed.iter().map(|c| &c.id).collect::<Vec<_>>(), [&id]);
        let stop = StopContainerRequest { container_id: id.clone(), timeout: 20 };
        run.runtime.stop_container(stop).await.expect("stopped");
        let status = run.status(&id).await;
        assert_eq!((status.exit_code, status.reason.as_str()), (143, "Error"));
        run.remove_sandbox(&sandbox).await;
        run.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_the_server_is_replaced() {
    in_world(|world| async move {
        let mut run = world.start().await;
        let sandbox = run.run_sandbox(world.sandbox("web")).await;
        let stays = run.begin(&sandbox, container("stays", "exec sleep 1000")).await;
        let flag = world.path("flag");
        let mut config = container("ends", "while ! [ -e /w/flag ]; do sleep 0.02; done; echo bye; exit 7");
        let host_path = world.dir.path().to_string_lossy().into_owned();
        config.mounts = vec![Mount { container_path: "/w".into(), host_path, ..Mount::default() }];
        let ends = run.begin(&sandbox, config).await;
        let waits = run.create(&sandbox, container("waits", "exit 5")).await.expect("made");
        run.stop().await;
        std::fs::write(&flag, "").expect("written");
        let began = Instant::now();
        while !world.log("ends").contains("bye") {
            assert!(began.elapsed() < Duration::from_secs(20), "the container does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let mut run = world.start().await;
        assert_eq!(run.status(&stays).await.state(), ContainerState::ContainerRunning);
        assert_eq!(run.ended(&ends).await.exit_code, 7);
        run.start(&waits).await.expect("was made before");
        assert_eq!(run.ended(&waits).await.exit_code, 5);
        let stop = StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
        run.runtime.stop_pod_sandbox(stop.clone()).await.expect("stopped");
        run.runtime.stop_pod_sandbox(stop).await.expect("stopped already");
        assert_eq!(run.status(&stays).await.exit_code, 137);
        let request = PodSandboxStatusRequest { pod_sandbox_id: sandbox.clone(), verbose: false };
        let status = run.runtime.pod_sandbox_status(request).await.expect("known").into_inner();
        assert_eq!(status.status.expect("one").state(), PodSandboxState::SandboxNotready);
        assert_eq!(status.containers_statuses.len(), 3);
        run.remove_sandbox(&sandbox).await;
        run.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the kernel with SELinux and the policy of tests/cgroup2"]
async fn selinux_labels_are_those_of_sandbox_and_container() {
    in_world(|world| async move {
        let option = |kind: &str, level: &str| SeLinuxOption {
            r#type: kind.into(),
            level: level.into(),
            ..SeLinuxOption::default()
        };
        let labelled = |name: &str, option: Option<SeLinuxOption>, privileged: bool| {
            let mut config = container(name, "exec sleep 1000");
            let security =
                LinuxContainerSecurityContext { selinux_options: option, privileged, ..Default::default() };
            config.linux = Some(LinuxContainerConfig { security_context: Some(security), ..Default::default() });
            config
        };
        let mut sandbox_config = world.sandbox("web");
        let security = sandbox_config.linux.as_mut().and_then(|l| l.security_context.as_mut()).expect("made");
        security.selinux_options = Some(option("", "s0:c7,c8"));
        let mut run = world.start().await;
        let sandbox = run.run_sandbox(sandbox_config).await;
        let volume = world.path("volume");
        std::fs::create_dir_all(&volume).expect("made");
        let mut config = labelled("main", None, false);
        let mount = |container_path: &str, selinux_relabel| Mount {
            container_path: container_path.into(),
            host_path: volume.to_string_lossy().into_owned(),
            selinux_relabel,
            ..Mount::default()
        };
        config.mounts = vec![mount("/v", true)];
        let main = run.begin(&sandbox, config).await;
        async fn said(run: &mut Running, id: &str, script: &str) -> String {
            let done = run.exec(id, script, 0).await.expect("ran");
            String::from_utf8_lossy(&done.stdout).trim_end_matches('\0').to_owned()
        }
        const OWN: &str = "cat /proc/self/attr/current";
        assert_eq!(said(&mut run, &main, OWN).await, "system_u:system_r:container_t:s0:c7,c8");
        assert_eq!(said(&mut run, &main, "echo x > /v/file; cat /v/file /etc/hostname").await, "x\nbox\n");
        let mut stored = [0u8; 256];
        let length = rustix::fs::getxattr(&volume, "security.selinux", &mut stored[..]).expect("labelled");
        let stored = String::from_utf8_lossy(&stored[..length]).into_owned();
        assert_eq!(stored.trim_end_matches('\0'), "system_u:object_r:container_file_t:s0:c7,c8");
        run.stop().await;

        // The sandbox has its labels after a restart.
        let mut run = world.start().await;
        let typed = run.begin(&sandbox, labelled("typed", Some(option("other_t", "")), false)).await;
        assert_eq!(said(&mut run, &typed, OWN).await, "system_u:system_r:other_t:s0:c7,c8");
        let mut config = labelled("levelled", Some(option("", "s0:c1")), false);
        config.mounts = vec![mount("/v", false)];
        let levelled = run.begin(&sandbox, config).await;
        assert_eq!(said(&mut run, &levelled, OWN).await, "system_u:system_r:container_t:s0:c1");
        assert_eq!(said(&mut run, &levelled, "cat /v/file 2>/dev/null || echo no").await, "no\n");
        let all = run.begin(&sandbox, labelled("all", Some(option("other_t", "")), true)).await;
        assert_eq!(said(&mut run, &all, OWN).await, "system_u:system_r:kernel_t:s0-s0:c0.c1023");
        let wrong = run.create(&sandbox, labelled("wrong", Some(option("none_t", "")), false)).await;
        let error = wrong.expect_err("the policy has no such type");
        let want = "selinux_options: \"system_u:system_r:none_t:s0:c7,c8\" is not a valid SELinux context in this machine's policy";
        assert_eq!((error.code(), error.message()), (Code::InvalidArgument, want));
        let wrong = run.create(&sandbox, labelled("wrong", Some(option("", "x")), false)).await;
        assert_eq!(wrong.expect_err("no level").message(), "selinux_options: the format of 'level' \"x\" is not correct");
        run.remove_sandbox(&sandbox).await;
        run.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_says_why() {
    in_world(|world| async move {
        let mut run = world.start().await;
        let sandbox = run.run_sandbox(world.sandbox("web")).await;
        let mut wrong = container("wrong", "");
        wrong.command = vec!["/nope".into()];
        let id = run.create(&sandbox, wrong).await.expect("made");
        let error = run.start(&id).await.expect_err("there is no such program");
        assert!(error.message().contains("/nope"), "{error}");
        let status = run.status(&id).await;
        assert_eq!((status.state(), status.exit_code), (ContainerState::ContainerExited, 128));
        assert_eq!(status.reason, "StartError");
        let mut none = container("none", "true");
        none.image = Some(ImageSpec { image: "no/such:image".into(), ..Default::default() });
        assert_eq!(run.create(&sandbox, none).await.expect_err("no image").code(), Code::NotFound);
        let request = RunPodSandboxRequest { config: Some(world.sandbox("web")), ..Default::default() };
        let taken = run.runtime.run_pod_sandbox(request).await.expect_err("the name is taken");
        assert_eq!(taken.code(), Code::AlreadyExists);
        let checkpoint = CheckpointContainerRequest { container_id: id, ..Default::default() };
        let error = run.runtime.checkpoint_container(checkpoint).await.expect_err("is not built");
        assert_eq!(error.code(), Code::Unimplemented);
        assert_eq!(error.message(), "CheckpointContainer is not supported by dhow");
        let asked = ImageStatusRequest {
            image: Some(ImageSpec { image: "box:1".into(), ..Default::default() }),
            verbose: false,
        };
        let found = run.image.image_status(asked).await.expect("asked").into_inner().image.expect("is here");
        assert_eq!(found.repo_tags, [IMAGE]);
        assert!(run.engine.orphans().expect("read").is_empty());
        run.remove_sandbox(&sandbox).await;
        run.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_stats_and_events() {
    in_world(|world| async move {
        let mut run = world.start().await;
        let mut events = run.runtime.get_container_events(GetEventsRequest {}).await.expect("listens").into_inner();
        let sandbox = run.run_sandbox(world.sandbox("web")).await;
        let id = run.begin(&sandbox, container("main", "exec sleep 1000")).await;
        let exec = ExecRequest {
            container_id: id.clone(),
            cmd: vec!["cat".into()],
            stdin: true,
            stdout: true,
            stderr: true,
            ..ExecRequest::default()
        };
        let url = run.runtime.exec(exec).await.expect("an address").into_inner().url;
        let (stdout, status) = talk(&url, b"hello\n").await.expect("answered");
        assert_eq!(stdout, "hello\n");
        assert!(status.contains(r#""status":"Success""#), "{status}");
        assert!(talk(&url, b"again").await.is_none(), "an address is good once");
        let stats = run.runtime.list_container_stats(ListContainerStatsRequest::default()).await.expect("measured");
        let stats = stats.into_inner().stats.pop().expect("one runs");
        assert_eq!(stats.attributes.expect("its own").id, id);
        assert!(stats.memory.and_then(|m| m.usage_bytes).is_some_and(|b| b.value > 0));
        assert!(stats.writable_layer.and_then(|l| l.inodes_used).is_some_and(|n| n.value > 0));
        let asked = PodSandboxStatsRequest { pod_sandbox_id: sandbox.clone() };
        let stats = run.runtime.pod_sandbox_stats(asked).await.expect("measured").into_inner().stats.expect("some");
        assert_eq!(stats.linux.expect("of Linux").containers.len(), 1);
        run.remove_sandbox(&sandbox).await;
        let mut told = Vec::new();
        while told.last() != Some(&(true, ContainerEventType::ContainerDeletedEvent)) {
            let event = events.message().await.expect("goes on").expect("goes on");
            told.push((event.container_id == sandbox, event.container_event_type()));
        }
        use ContainerEventType::{ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent};
        let begin = [
            (true, ContainerCreatedEvent),
            (true, ContainerStartedEvent),
            (false, ContainerCreatedEvent),
            (false, ContainerStartedEvent),
        ];
        assert_eq!(told[..4], begin);
        assert!(told.contains(&(false, ContainerEventType::ContainerStoppedEvent)));
        assert!(told.contains(&(false, ContainerDeletedEvent)));
        run.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_by_name_and_metrics() {
    in_world(|world| async move {
        let spec = json!({"cdiVersion": "0.6.0", "kind": "v.example/gpu", "devices": [{"name": "a", "containerEdits":
            {"env": ["GPU=a"], "deviceNodes": [{"path": "/dev/gpu", "hostPath": "/dev/zero", "permissions": "r"}]}}]});
        std::fs::create_dir(world.path("cdi")).expect("made");
        std::fs::write(world.path("cdi/gpu.json"), spec.to_string()).expect("written");
        let mut run = world.start().await;
        let sandbox = run.run_sandbox(world.sandbox("web")).await;
        let device = |name: &str| vec![CdiDevice { name: format!("v.example/gpu={name}") }];
        let unknown = ContainerConfig { cdi_devices: device("b"), ..container("unknown", "true") };
        let error = run.create(&sandbox, unknown).await.expect_err("no such device");
        assert_eq!(error.message(), "CDI device injection failed: unresolvable CDI devices v.example/gpu=b");
        let config = ContainerConfig { cdi_devices: device("a"), ..container("main", "exec sleep 1000") };
        let id = run.begin(&sandbox, config).await;
        let script = "echo $GPU; read -n 1 x < /dev/gpu && echo read";
        let done = run.exec(&id, script, 0).await.expect("ran");
        assert_eq!(String::from_utf8_lossy(&done.stdout), "a\nread\n");
        let told = run.runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await.expect("measured");
        let [pod] = told.into_inner().pod_metrics.try_into().expect("one runs");
        let [metrics] = pod.container_metrics.try_into().expect("one runs");
        let value = |name: &str| metrics.metrics.iter().find(|m| m.name == name).and_then(|m| Some(m.value?.value));
        assert_eq!((metrics.container_id.as_str(), value("container_processes")), (id.as_str(), Some(1)));
        assert!(value("container_memory_usage_bytes") > Some(0) && value("container_start_time_seconds") > Some(0));
        run.remove_sandbox(&sandbox).await;
        run.stop().await;
    })
    .await;
}

/// Writes to a command's standard input over a WebSocket, as kubectl does; what it wrote to its standard output, and its status.
async fn talk(url: &str, input: &[u8]) -> Option<(String, String)> {
    let address = url.strip_prefix("http://").expect("an address");
    let (host, _) = address.split_once('/').expect("an address");
    let mut request = format!("ws://{address}").into_client_request().expect("a request");
    request.headers_mut().insert("sec-websocket-protocol", "v5.channel.k8s.io".parse().expect("literal"));
    let socket = tokio::net::TcpStream::connect(host).await.expect("connected");
    let (mut socket, _) = tokio_tungstenite::client_async(request, socket).await.ok()?;
    socket.send(Message::binary([&[0], input].concat())).await.expect("sent");
    socket.send(Message::binary(vec![255, 0])).await.expect("sent");
    let (mut stdout, mut status) = (String::new(), String::new());
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(bytes) = message else { continue };
        match bytes.split_first() {
            Some((1, text)) => stdout += &String::from_utf8_lossy(text),
            Some((3, text)) => status += &String::from_utf8_lossy(text),
            _ => {}
        }
    }
    Some((stdout, status))
}

/// A docker-save archive with busybox.
fn box_archive(root: &Path) -> Vec<u8> {
    for sub in ["bin", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(sub)).expect("made");
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).expect("Debian's busybox-static");
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(applet)).expect("linked");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/sh\n").expect("written");
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:33:\nextra:x:77:web\n").expect("written");
    let mut layer = tar::Builder::new(Vec::new());
    layer.follow_symlinks(false);
    layer.append_dir_all(".", root).expect("packed");
    let layer = layer.into_inner().expect("packed");
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let diff_id = format!("sha256:{}", hex::encode(Sha256::digest(&layer)));
    let config = json!({"architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
    .to_string();
    let name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let manifest = json!([{"Config": name, "RepoTags": ["box:1"], "Layers": ["layer.tar"]}]).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [(name.as_str(), config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        archive.append_data(&mut header, name, bytes).expect("packed");
    }
    archive.into_inner().expect("packed")
}
