//! The agent with fakes around it, in paused time.

use super::*;
use crate::dra::drivers::Version;
use crate::engine::Handlers;
use crate::pod::fixture::{object, pod};
use crate::pod::spec::dns::ClusterDns;
use crate::shutdown::fake::FakeLogind;
use crate::shutdown::logind::Logind;
use crate::testing::{FakeCluster, FakeEngine, FakeImages, FakeNetwork, TokioClock};
use api::k8s::api::core::v1::ContainerPort;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use base::SeededRandom;
use std::future::Future;
use testkit::{DraFixture, DraOptions};

/// A node with its machine; the agent on it can be restarted.
struct World {
    dir: tempfile::TempDir,
    engine: Arc<FakeEngine>,
    images: Arc<FakeImages>,
    network: Arc<FakeNetwork>,
    cluster: Arc<FakeCluster>,
    clock: Arc<dyn Clock>,
    handlers: Handlers,
}

struct Running {
    handle: AgentHandle,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        World {
            dir: tempfile::tempdir().expect("a temporary directory"),
            engine: Arc::default(),
            images: Arc::default(),
            network: Arc::default(),
            cluster: Arc::default(),
            clock: TokioClock::shared(),
            handlers: Handlers::Own,
        }
    }

    fn config(&self) -> Config {
        let resolv_conf = self.dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 1.1.1.1\n").expect("written");
        Config {
            node_name: "n1".into(),
            node_ips: vec![IpAddr::from([192, 168, 0, 1])],
            hostname: "n1".into(),
            data_dir: self.dir.path().join("data"),
            run_dir: self.dir.path().join("run"),
            kubelet_dir: self.dir.path().join("kubelet"),
            remembers: false,
            static_pod_dir: self.dir.path().join("manifests"),
            log_dir: self.dir.path().join("log"),
            dns: ClusterDns { servers: vec![IpAddr::from([10, 43, 0, 10])], domain: "cluster.local".into() },
            resolv_conf,
            port: 10250,
            max_pods: 110,
            pod_cidrs: Vec::new(),
            eviction: crate::eviction::Policy::default(),
            managers: Default::default(),
            swap: Default::default(),
            shutdown: crate::shutdown::Settings::new(Duration::from_secs(30), Duration::from_secs(10), None)
                .expect("valid"),
            labels: BTreeMap::new(),
            runtime: crate::engine::RuntimeInfo {
                name: "dhow".into(),
                handlers: self.handlers.clone(),
                ..Default::default()
            },
        }
    }

    fn start(&self) -> Running {
        let parts = Parts {
            engine: self.engine.clone(),
            mounts: self.engine.clone(),
            images: self.images.clone(),
            network: self.network.clone(),
            cluster: self.cluster.clone(),
            clock: self.clock.clone(),
            random: Arc::new(SeededRandom::new(1)),
            memory: 8 << 30,
            credential_providers: Default::default(),
            managers: Default::default(),
        };
        let agent = Agent::new(self.config(), parts);
        let handle = agent.handle();
        let (sender, changes) = mpsc::unbounded_channel();
        self.cluster.feed_into(sender);
        let feed = PodFeed { initial: self.cluster.all(), changes };
        let stop = CancellationToken::new();
        let task = base::tasks::spawn("agent", agent.run(feed, stop.clone()));
        Running { handle, stop, task }
    }

    fn phase(&self, name: &str) -> String {
        self.cluster.get(name).and_then(|p| p.status?.phase).unwrap_or_default()
    }

    fn left(&self) -> String {
        let dirs = ["data/pods", "run/pods", "log"]
            .map(|d| std::fs::read_dir(self.dir.path().join(d)).map(|entries| entries.count()).unwrap_or(0));
        format!(
            "sandboxes={} roots={} addresses={} dirs={}",
            self.engine.sandboxes().len(),
            self.images.roots(),
            self.network.attached(),
            dirs.iter().sum::<usize>()
        )
    }
}

impl Running {
    async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
        // Workers end by themselves.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

use std::net::IpAddr;

/// Waits, in paused time, until it holds.
async fn until<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    for _ in 0..100_000 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}

async fn until_phase(world: &World, name: &str, phase: &str) {
    until(&format!("{name} is {phase}"), || async { world.phase(name) == phase }).await;
}

const WEB: &str = r#"{"nodeName":"n1","containers":[{"name":"a","image":"nginx"}]}"#;

#[tokio::test(start_paused = true)]
async fn a_pod_runs_from_creation_to_deletion_and_nothing_is_left() {
    let world = World::new();
    let agent = world.start();
    world.cluster.put(pod(WEB));
    until_phase(&world, "web", "Running").await;
    let status = world.cluster.get("web").and_then(|p| p.status).expect("written");
    assert_eq!(status.pod_ip.as_deref(), Some("10.42.0.2"));
    assert_eq!(status.host_ip.as_deref(), Some("192.168.0.1"));
    let hosts = std::fs::read_to_string(world.dir.path().join("run/pods/1-2-3/hosts")).expect("written");
    assert!(hosts.contains("10.42.0.2\tweb"), "{hosts}");
    let target = agent.handle.container("default", "web", None, "").expect("it runs");
    assert_eq!(target.sandbox, "1-2-3-0");

    let mut deleted = world.cluster.get("web").expect("there");
    deleted.metadata.deletion_timestamp = Some(api::Time(world.clock.now()));
    deleted.metadata.deletion_grace_period_seconds = Some(5);
    let began = tokio::time::Instant::now();
    world.cluster.put(deleted);
    until("it is gone", || async { world.cluster.get("web").is_none() }).await;
    assert!(began.elapsed() >= Duration::from_secs(5), "it ignores TERM, so KILL comes after the grace");
    until("all is removed", || async { agent.handle.pods().is_empty() }).await;
    assert_eq!(world.left(), "sandboxes=0 roots=0 addresses=0 dirs=0");
    let events = world.cluster.events();
    let want = [
        "Normal Pulled spec.containers{a} \"Container image \"nginx\" already present on machine and can be accessed by the pod\"",
        "Normal Created spec.containers{a} \"Container created\"",
        "Normal Started spec.containers{a} \"Container started\"",
        "Normal Killing spec.containers{a} \"Stopping container a\"",
    ];
    assert_eq!(events, want);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_crashing_container_is_restarted_and_its_last_words_are_kept() {
    let world = World::new();
    let agent = world.start();
    world.cluster.put(pod(WEB));
    until_phase(&world, "web", "Running").await;
    let (sandbox, id) = world.engine.running("a").expect("it runs");
    std::fs::write(world.dir.path().join("data/pods/1-2-3/containers/a/0"), "I am done").expect("written");
    world.engine.end(&sandbox, &id, 3, world.clock.now());
    until("it runs again", || async { world.engine.running("a").is_some_and(|(_, new)| new != id) }).await;
    until("the status says so", || async {
        let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).unwrap_or_default();
        status.first().is_some_and(|s| s.restart_count == 1)
    })
    .await;
    let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("there").remove(0);
    let last = status.last_state.and_then(|s| s.terminated).expect("it ended");
    assert_eq!(
        (last.exit_code, last.reason.as_deref(), last.message.as_deref()),
        (3, Some("Error"), Some("I am done"))
    );
    let log = agent.handle.log("default", "web", None, "a", true).expect("the previous log");
    assert!(log.path.ends_with("default_web_1-2-3/a/0.log"), "{}", log.path.display());
    assert_eq!(world.images.roots(), 1, "the ended run's root is released");
    let count = |counter| agent.handle.context.counters.of(counter);
    assert_eq!(count(&counters::CONTAINERS_STARTED), [(vec!["container".into()], 2)]);
    assert_eq!(count(&counters::CONTAINERS_ENDED), [(["container", "3", "Error"].map(String::from).into(), 1)]);
    let operations = count(&counters::OPERATIONS);
    assert!(operations.contains(&(vec!["start_container".into()], 2)), "{operations:?}");
    let took = |histogram| agent.handle.context.counters.spreads_of(histogram);
    assert_eq!(took(&counters::POD_START)[0].1.count, 1, "it began to run once");
    let turns: Vec<_> = took(&counters::POD_WORKER).into_iter().map(|(labels, _)| labels.concat()).collect();
    assert!(turns.contains(&"create".to_owned()) && turns.contains(&"sync".to_owned()), "{turns:?}");
    assert!(took(&counters::POD_STATUS)[0].1.count > 0);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_before_we_know_that_it_started_keeps_its_last_words() {
    let world = World::new();
    let agent = world.start();
    let spec =
        r#"{"nodeName":"n1","restartPolicy":"Never","containers":[{"name":"a","image":"nginx","command":["quick"]}]}"#;
    world.cluster.put(pod(spec));
    until_phase(&world, "web", "Succeeded").await;
    let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("there").remove(0);
    let ended = status.state.and_then(|s| s.terminated).expect("it ended");
    assert_eq!((ended.exit_code, ended.message.as_deref()), (0, Some("gone already")));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn restarting_the_agent_restarts_nothing_and_misses_no_exit() {
    let world = World::new();
    let agent = world.start();
    let two =
        r#"{"nodeName":"n1","restartPolicy":"Never","containers":[{"name":"a","image":"i"},{"name":"b","image":"i"}]}"#;
    world.cluster.put(pod(two));
    until("both run", || async { world.engine.running("a").is_some() && world.engine.running("b").is_some() }).await;
    until_phase(&world, "web", "Running").await;
    agent.stop().await;

    let calls = world.engine.calls().len();
    let (sandbox, id) = world.engine.running("a").expect("it still runs");
    world.engine.end(&sandbox, &id, 7, world.clock.now());
    let agent = world.start();
    until("the exit is reported", || async {
        let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).unwrap_or_default();
        status.iter().any(|s| s.state.as_ref().and_then(|s| s.terminated.as_ref()).is_some_and(|t| t.exit_code == 7))
    })
    .await;
    assert_eq!(world.engine.calls()[calls..], [] as [String; 0], "nothing was started, stopped or made");
    assert!(world.engine.running("b").is_some());
    let (sandbox, id) = world.engine.running("b").expect("it runs");
    world.engine.end(&sandbox, &id, 0, world.clock.now());
    until_phase(&world, "web", "Failed").await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_api_no_longer_has_is_stopped_and_removed_at_start() {
    let world = World::new();
    let agent = world.start();
    world.cluster.put(pod(WEB));
    until_phase(&world, "web", "Running").await;
    agent.stop().await;
    world.cluster.take_away("web");
    world.engine.obey("SIGTERM");
    let agent = world.start();
    until("it is stopped", || async { world.engine.sandboxes().is_empty() }).await;
    until("all is removed", || async { agent.handle.pods().is_empty() }).await;
    assert_eq!(world.left(), "sandboxes=0 roots=0 addresses=0 dirs=0");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn directories_of_pods_that_nobody_knows_are_removed_at_start() {
    let world = World::new();
    world.cluster.put(pod(WEB));
    let agent = world.start();
    until_phase(&world, "web", "Running").await;
    agent.stop().await;
    let known = world.left();
    for dir in ["data/pods/gone/volumes/cache", "run/pods/gone/volumes/token", "log/default_old_gone/a"] {
        std::fs::create_dir_all(world.dir.path().join(dir)).expect("made");
    }
    std::fs::write(world.dir.path().join("data/pods/gone/seen.tmp"), "{").expect("written");
    let agent = world.start();
    until_phase(&world, "web", "Running").await;
    until("they are removed", || async { world.left() == known }).await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn volumes_wait_for_a_config_map_and_follow_its_changes() {
    let world = World::new();
    let agent = world.start();
    let spec = r#"{"nodeName":"n1","volumes":[{"name":"v","configMap":{"name":"cfg"}}],
        "containers":[{"name":"a","image":"i","volumeMounts":[{"name":"v","mountPath":"/cfg"}]}]}"#;
    world.cluster.put(pod(spec));
    let failed = "Warning FailedMount \"MountVolume.SetUp failed for volume \"v\" : configmap \"cfg\" not found\"";
    until("the event tells", || async { world.cluster.events().iter().any(|e| e == failed) }).await;
    let map = |color: &str| {
        object(&format!(r#"{{"metadata":{{"name":"cfg","namespace":"default"}},"data":{{"color":"{color}"}}}}"#))
    };
    world.cluster.put_config_map(map("red"));
    until_phase(&world, "web", "Running").await;
    let spec = world.engine.spec_of("a").expect("it runs");
    let mount = spec.mounts.iter().find(|m| m.target == std::path::Path::new("/cfg")).expect("mounted");
    assert!(mount.read_only);
    let color = || std::fs::read_to_string(mount.source.join("color")).unwrap_or_default();
    assert_eq!(color(), "red");
    world.cluster.put_config_map(map("blue"));
    until("the file follows", || async { color() == "blue" }).await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_volume_whose_map_changes_faster_than_it_is_written_ends_with_the_last_content() {
    let world = World::new();
    let agent = world.start();
    let spec = r#"{"nodeName":"n1","volumes":[{"name":"v","configMap":{"name":"cfg"}}],
        "containers":[{"name":"a","image":"i","volumeMounts":[{"name":"v","mountPath":"/cfg"}]}]}"#;
    // A key of its own in every version, so that each write adds and removes names.
    let map = |version: u32| {
        object(&format!(r#"{{"metadata":{{"name":"cfg","namespace":"default"}},"data":{{"key{version}":"x"}}}}"#))
    };
    world.cluster.put_config_map(map(0));
    world.cluster.put(pod(spec));
    until_phase(&world, "web", "Running").await;
    let mounts = world.engine.spec_of("a").expect("it runs").mounts;
    let source = &mounts.iter().find(|m| m.target == std::path::Path::new("/cfg")).expect("mounted").source;
    for version in 1..=200 {
        world.cluster.put_config_map(map(version));
        tokio::task::yield_now().await;
    }
    let shown = || {
        let entries = std::fs::read_dir(source).expect("there").map(|e| e.expect("readable").file_name());
        let mut names: Vec<_> = entries.filter_map(|n| n.into_string().ok()).filter(|n| !n.starts_with("..")).collect();
        names.sort();
        names
    };
    until("the last version shows alone", || async { shown() == ["key200"] }).await;
    let failed: Vec<_> = world.cluster.events().into_iter().filter(|e| e.contains("FailedMount")).collect();
    assert!(failed.is_empty(), "{failed:?}");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn errors_name_what_is_wrong() {
    let world = World::new();
    let agent = world.start();
    let spec = r#"{"nodeName":"n1","containers":[
        {"name":"image","image":"missing/image:1"},
        {"name":"key","image":"i","env":[{"name":"X","valueFrom":{"configMapKeyRef":{"name":"nowhere","key":"k"}}}]},
        {"name":"command","image":"i","command":["nope"]}]}"#;
    world.cluster.put(pod(spec));
    let reason = |name: &'static str| {
        let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).unwrap_or_default();
        let found = status.into_iter().find(|s| s.name == name).and_then(|s| s.state?.waiting);
        found.map(|w| format!("{} {}", w.reason.unwrap_or_default(), w.message.unwrap_or_default())).unwrap_or_default()
    };
    until("the image is backed off", || async { reason("image").starts_with("ImagePullBackOff") }).await;
    assert_eq!(reason("image"), "ImagePullBackOff Back-off pulling image \"missing/image:1\": ErrImagePull: not found");
    until("the key is missed", || async {
        reason("key") == "CreateContainerConfigError configmap \"nowhere\" not found"
    })
    .await;
    until("the command loops", || async { reason("command").starts_with("CrashLoopBackOff back-off") }).await;
    assert_eq!(world.images.roots(), 0);
    let error = agent.handle.log("default", "web", None, "image", false).expect_err("no log");
    assert_eq!(
        error.to_string(),
        "container \"image\" in pod \"web\" is waiting to start: trying and failing to pull image"
    );
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_agent_does_nothing() {
    let world = World::new();
    let agent = world.start();
    world.cluster.put(pod(WEB));
    until_phase(&world, "web", "Running").await;
    let before = world.cluster.get("web").and_then(|p| p.metadata.resource_version);
    let calls = world.engine.calls().len();
    tokio::time::sleep(Duration::from_secs(24 * 3600)).await;
    assert_eq!(world.engine.calls().len(), calls);
    assert_eq!(world.cluster.get("web").and_then(|p| p.metadata.resource_version), before);
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_show_is_written_ever_more_rarely() {
    let world = World::new();
    world.cluster.hide("hostIP");
    let agent = world.start();
    world.cluster.put(pod(WEB));
    until_phase(&world, "web", "Running").await;
    let writes = || world.cluster.get("web").map(|p| p.revision()).unwrap_or_default();
    let before = writes();
    tokio::time::sleep(Duration::from_secs(60)).await;
    // 0.2 s, 0.4 s, … up to 10 s.
    assert!((5..=12).contains(&(writes() - before)), "{before} {}", writes());
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_static_pod_runs_without_the_api_and_its_mirror_shows_it() {
    let world = World::new();
    let manifests = world.dir.path().join("manifests");
    std::fs::create_dir(&manifests).expect("made");
    let manifest = "kind: Pod\nmetadata: {name: web}\nspec: {terminationGracePeriodSeconds: 0, containers: [{name: a, image: nginx}]}\n";
    std::fs::write(manifests.join("web.yaml"), manifest).expect("written");
    let agent = world.start();
    until_phase(&world, "web-n1", "Running").await;
    let mirror = world.cluster.get("web-n1").expect("there");
    let annotations = mirror.metadata.annotations.clone().expect("some");
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(annotations["kubernetes.io/config.mirror"], annotations["kubernetes.io/config.hash"]);
    assert_eq!(mirror.metadata.owner_references.expect("one")[0].kind, "Node");

    world.cluster.take_away("web-n1");
    until_phase(&world, "web-n1", "Running").await;
    let starts = || world.engine.calls().iter().filter(|c| c.starts_with("start a")).count();
    assert_eq!(starts(), 1, "a lost mirror is shown again and nothing is restarted");

    agent.stop().await;
    let agent = world.start();
    until("it is known again", || async { agent.handle.pods().len() == 1 }).await;
    assert_eq!(starts(), 1);
    std::fs::remove_file(manifests.join("web.yaml")).expect("removed");
    until("the mirror is gone", || async { world.cluster.get("web-n1").is_none() }).await;
    until("all is removed", || async { agent.handle.pods().is_empty() }).await;
    assert_eq!(world.left(), "sandboxes=0 roots=0 addresses=0 dirs=0");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_status_tells_who_a_container_runs_as() {
    for (policy, want) in [("Merge", vec![44, 50, 7]), ("Strict", vec![44, 7])] {
        let world = World::new();
        let agent = world.start();
        world.cluster.put(pod(&format!(
            r#"{{"nodeName":"n1","securityContext":{{"runAsUser":33,"supplementalGroups":[7],"supplementalGroupsPolicy":"{policy}"}},
            "containers":[{{"name":"a","image":"nginx"}}]}}"#
        )));
        until_phase(&world, "web", "Running").await;
        let status = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("there").remove(0);
        let user = status.user.and_then(|u| u.linux).expect("known");
        assert_eq!((user.uid, user.gid, user.supplemental_groups), (33, 44, Some(want)), "{policy}");
        agent.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_was_pulled_with_a_login_is_not_for_pods_without_one() {
    let world = World::new();
    let agent = world.start();
    // {"auths":{"docker.io":{"auth":"bWU6cHc="}}}
    world.cluster.put_secret(object(
        r#"{"metadata":{"name":"login","namespace":"default","uid":"s"},
        "data":{".dockerconfigjson":"eyJhdXRocyI6eyJkb2NrZXIuaW8iOnsiYXV0aCI6ImJXVTZjSGM9In19fQ=="}}"#,
    ));
    let named = |name: &str, policy: &str, more: &str| -> Pod {
        object(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default","uid":"{name}"}},
            "spec":{{"nodeName":"n1"{more},"containers":[{{"name":"{name}","image":"private/app","imagePullPolicy":"{policy}"}}]}}}}"#
        ))
    };
    let login = r#","imagePullSecrets":[{"name":"login"}]"#;
    world.cluster.put(named("first", "Always", login));
    until_phase(&world, "first", "Running").await;
    world.cluster.put(named("friend", "IfNotPresent", login));
    until_phase(&world, "friend", "Running").await;
    let told = |text: &str| world.cluster.events().iter().any(|e| e.contains(text));
    assert!(told("already present on machine and can be accessed by the pod"));
    world.cluster.put(named("stranger", "IfNotPresent", ""));
    until("it is refused", || async {
        told("Failed to pull image \\\"private/app\\\": access denied")
            || told("Failed to pull image \"private/app\": access denied")
    })
    .await;
    world.cluster.put(named("never", "Never", ""));
    until("it is refused", || async { told("is not present with pull policy of Never") }).await;
    assert!(world.engine.running("stranger").is_none() && world.engine.running("never").is_none());
    agent.stop().await;
}

/// Returns when a shutdown of the machine would be held up.
async fn watch_over_shutdowns(agent: &Running, logind: &FakeLogind, client: Logind) -> tokio::task::JoinHandle<()> {
    let handle = agent.handle.clone();
    let watching = base::tasks::spawn("shutdown", async move {
        crate::shutdown::watch_over(&client, &handle, &handle.context).await.expect("logind answers");
    });
    until("shutdowns are held up", || async { logind.held() == 1 }).await;
    watching
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_hurries_pods_that_end_already_and_waits_for_them() {
    let world = World::new();
    let file = world.dir.path().join("logind.conf.d/dhow.conf");
    let (logind, client) = FakeLogind::start(&file).await;
    world.engine.obey("SIGTERM");
    let agent = world.start();
    let spec = r#"{"nodeName":"n1","terminationGracePeriodSeconds":600,"containers":[{"name":"a","image":"nginx",
        "lifecycle":{"preStop":{"sleep":{"seconds":500}}}}]}"#;
    let pod = world.cluster.put(pod(spec));
    until_phase(&world, "web", "Running").await;
    let mut deleted = pod;
    deleted.metadata.deletion_timestamp = Some(api::Time(world.clock.now()));
    deleted.metadata.deletion_grace_period_seconds = Some(600);
    world.cluster.put(deleted);
    until("it is being ended", || async { agent.handle.views().iter().all(|v| v.seen.ending.is_some()) }).await;
    let watching = watch_over_shutdowns(&agent, &logind, client).await;
    let begun = world.clock.now();
    logind.tell(true).await;
    until("the machine may go on", || async { logind.held() == 0 }).await;
    assert!(world.engine.running("a").is_none(), "the machine waited");
    assert!(world.clock.now().duration_since(begun).as_secs() <= 21, "and not for long");
    watching.abort();
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_waits_for_the_pods_and_takes_no_new_ones() {
    let world = World::new();
    let file = world.dir.path().join("logind.conf.d/dhow.conf");
    let (logind, client) = FakeLogind::start(&file).await;
    world.engine.obey("SIGTERM");
    let agent = world.start();
    let named = |name: &str, priority: i32| -> Pod {
        object(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"{name}","namespace":"default","uid":"{name}"}},
            "spec":{{"nodeName":"n1","priority":{priority},"containers":[{{"name":"{name}","image":"nginx"}}]}}}}"#
        ))
    };
    world.cluster.put(named("web", 0));
    world.cluster.put(named("vital", 2_000_000_000));
    until_phase(&world, "web", "Running").await;
    until_phase(&world, "vital", "Running").await;
    let watching = watch_over_shutdowns(&agent, &logind, client).await;
    let granted = std::fs::read_to_string(&file).expect("written");
    assert!(granted.contains("InhibitDelayMaxSec=30"), "{granted}");

    logind.tell(true).await;
    until("the machine may go on", || async { logind.held() == 0 }).await;
    assert_eq!(world.engine.calls().iter().filter(|c| *c == "SIGTERM").count(), 2);
    until_phase(&world, "vital", "Failed").await;
    until_phase(&world, "web", "Failed").await;
    let status = world.cluster.get("web").and_then(|p| p.status).expect("written");
    let message = Some("Pod was terminated in response to imminent node shutdown.");
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("Terminated"), message));
    let disruption = status.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").expect("told");
    assert_eq!(disruption.reason.as_deref(), Some("TerminationByKubelet"));
    assert_eq!(agent.handle.context.not_ready(), ["node is shutting down"]);
    world.cluster.put(named("late", 0));
    until_phase(&world, "late", "Failed").await;
    let status = world.cluster.get("late").and_then(|p| p.status).expect("written");
    let message = Some("Pod was rejected: Pod was rejected as the node is shutting down.");
    assert_eq!((status.reason.as_deref(), status.message.as_deref()), (Some("NodeShutdown"), message));

    logind.tell(false).await;
    until("the next shutdown is held up", || async { logind.held() == 1 }).await;
    assert!(agent.handle.context.not_ready().is_empty());
    watching.abort();
    agent.stop().await;
}

fn cpus(amount: &str) -> BTreeMap<String, Quantity> {
    [("cpu".to_owned(), Quantity(amount.to_owned()))].into()
}

/// A pod that asks for this much of a processor.
fn asking(name: &str, cpu: &str, priority: i32) -> Pod {
    let mut pod = pod(&format!(
        r#"{{"nodeName":"n1","priority":{priority},"containers":[{{"name":"a","image":"i","resources":{{"requests":{{"cpu":"{cpu}"}}}}}}]}}"#
    ));
    pod.metadata.name = Some(name.to_owned());
    pod.metadata.uid = Some(name.to_owned());
    pod
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_the_node_needs_gets_room_from_others() {
    let world = World::new();
    let agent = world.start();
    *agent.handle.context.allocatable.write() = cpus("1");
    let status = |name: &str| world.cluster.get(name).and_then(|p| p.status).expect("written");
    world.cluster.put(asking("web", "800m", 0));
    until_phase(&world, "web", "Running").await;
    world.cluster.put(asking("other", "800m", 0));
    until_phase(&world, "other", "Failed").await;
    assert_eq!(status("other").reason.as_deref(), Some("OutOfcpu"));

    let with_port = |mut pod: Pod| {
        let port = r#"[{"containerPort":1,"hostPort":80}]"#;
        pod.spec.as_mut().expect("one").containers[0].ports = Some(serde_json::from_str(port).expect("ports"));
        pod
    };
    world.cluster.put(with_port(asking("first", "0", 0)));
    until_phase(&world, "first", "Running").await;
    world.cluster.put(with_port(asking("second", "1", 2_000_000_000)));
    until_phase(&world, "second", "Failed").await;
    assert_eq!(status("second").reason.as_deref(), Some("NodePorts"));
    assert_eq!(world.phase("web"), "Running", "nobody leaves for who cannot come");

    world.cluster.put(asking("vital", "1", 2_000_000_000));
    until_phase(&world, "vital", "Running").await;
    assert_eq!(world.phase("web"), "Failed");
    let calls = world.engine.calls();
    let order = calls.iter().rposition(|c| c == "SIGKILL").zip(calls.iter().rposition(|c| c.starts_with("start a")));
    assert!(order.is_some_and(|(end, start)| end < start), "it begins when the other has ended: {calls:?}");
    let web = status("web");
    let why = Some("Preempted in order to admit critical pod");
    assert_eq!((web.reason.as_deref(), web.message.as_deref()), (Some("Preempting"), why));
    let disruption = web.conditions.iter().flatten().find(|c| c.type_ == "DisruptionTarget").expect("told");
    let why = Some("Pod was preempted by Kubelet to accommodate a critical pod.");
    assert_eq!((disruption.reason.as_deref(), disruption.message.as_deref()), (Some("TerminationByKubelet"), why));

    world.cluster.put(asking("fickle", "1", 2_000_000_001));
    until("the pod makes room", || async { world.engine.calls().iter().filter(|c| *c == "SIGTERM").count() == 2 })
        .await;
    world.cluster.take_away("fickle");
    until_phase(&world, "vital", "Failed").await;
    world.cluster.put(asking("heir", "1", 0));
    until_phase(&world, "heir", "Running").await;
    assert!(world.cluster.get("fickle").is_none(), "what waited and is gone has nothing");

    world.cluster.put(asking("too-much", "2", 2_000_000_000));
    until_phase(&world, "too-much", "Failed").await;
    let refused = status("too-much");
    assert_eq!(refused.reason.as_deref(), Some("UnexpectedAdmissionError"));
    let why = "Pod was rejected: Unexpected error while attempting to recover from admission failure: preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: [(res: cpu, q: 1000), ]";
    assert_eq!(refused.message.as_deref(), Some(why));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_comes_while_others_make_room_is_asked_again_then() {
    let world = World::new();
    let agent = world.start();
    *agent.handle.context.allocatable.write() = cpus("2");
    for name in ["web", "other"] {
        world.cluster.put(asking(name, "1", 0));
        until_phase(&world, name, "Running").await;
    }
    // One of the two must end for the first; for the second the other one, and for the third nobody needs to.
    for (name, cpu, priority) in
        [("first", "500m", 2_000_000_000), ("second", "1", 2_000_000_000), ("third", "500m", 0), ("fourth", "1", 0)]
    {
        world.cluster.put(asking(name, cpu, priority));
    }
    for name in ["first", "second", "third"] {
        until_phase(&world, name, "Running").await;
    }
    until_phase(&world, "fourth", "Failed").await;
    assert_eq!((world.phase("web"), world.phase("other")), ("Failed".into(), "Failed".into()));
    let reason = |name: &str| world.cluster.get(name).and_then(|p| p.status?.reason).unwrap_or_default();
    assert_eq!((reason("web"), reason("fourth")), ("Preempting".into(), "OutOfcpu".into()));
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_is_deleted_while_others_make_room_does_not_wait_for_them() {
    let world = World::new();
    let agent = world.start();
    *agent.handle.context.allocatable.write() = cpus("1");
    world.cluster.put(asking("web", "1", 0));
    until_phase(&world, "web", "Running").await;
    let pods = [asking("first", "1", 2_000_000_000), asking("second", "1", 0)];
    pods.iter().for_each(|pod| drop(world.cluster.put(pod.clone())));
    tokio::time::sleep(Duration::from_secs(1)).await;
    for mut pod in pods {
        pod.metadata.deletion_timestamp = Some(api::Time(world.clock.now()));
        world.cluster.put(pod);
    }
    for name in ["first", "second"] {
        until(&format!("{name} is gone"), || async { world.cluster.get(name).is_none() }).await;
    }
    assert!(world.engine.running("a").is_some(), "the other one takes its time");
    until_phase(&world, "web", "Failed").await;
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_gone_does_not_count_though_it_takes_its_time() {
    let world = World::new();
    let agent = world.start();
    *agent.handle.context.allocatable.write() = cpus("1");
    let with_port = |name: &str| {
        let mut pod = asking(name, "1", 0);
        let port = ContainerPort { container_port: 80, host_port: Some(80), ..ContainerPort::default() };
        pod.spec.as_mut().expect("a spec").containers[0].ports = Some(vec![port]);
        pod
    };
    world.cluster.put(with_port("first"));
    until_phase(&world, "first", "Running").await;
    // The server writes down that it is deleted, and removes it.
    let mut deleted = world.cluster.get("first").expect("it is there");
    deleted.metadata.deletion_timestamp = Some(api::Time(world.clock.now()));
    deleted.metadata.deletion_grace_period_seconds = Some(0);
    world.cluster.put(deleted);
    world.cluster.take_away("first");
    world.cluster.put(with_port("second"));
    until_phase(&world, "second", "Running").await;
    assert_eq!(agent.handle.views().len(), 2, "it has not obeyed yet");
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_answers_after_its_pod_is_gone_is_not_counted() {
    let world = World::new();
    world.engine.obey("SIGTERM");
    let agent = world.start();
    let probed = |command: &str| {
        pod(&format!(
            r#"{{"nodeName":"n1","containers":[{{"name":"a","image":"i","readinessProbe":{{"exec":{{"command":["{command}"]}},"periodSeconds":1,"timeoutSeconds":100}}}}]}}"#
        ))
    };
    let counted = || agent.handle.context.counters.of(&counters::PROBE_RESULTS);
    for (command, answers) in [("true", true), ("sleep", false)] {
        world.cluster.put(probed(command));
        until_phase(&world, "web", "Running").await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(counted().is_empty(), !answers, "{command}");
        let mut deleted = world.cluster.get("web").expect("it is there");
        deleted.metadata.deletion_timestamp = Some(api::Time(world.clock.now()));
        world.cluster.put(deleted);
        until("the pod is gone", || async { agent.handle.views().is_empty() }).await;
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert_eq!(counted(), [], "{command}");
    }
    agent.stop().await;
}

#[tokio::test(start_paused = true)]
async fn devices_of_claims_are_prepared_before_the_pod_and_undone_before_it_is_over() {
    let world = World { handlers: Handlers::Foreign(Vec::new()), ..World::new() };
    let driver = DraFixture::new(DraOptions {
        name: "d.example".into(),
        cdi: world.dir.path().join("cdi"),
        services: vec!["v1.DRAPlugin".into()],
    });
    let socket = world.dir.path().join("dra.sock");
    let server = driver.serve(&socket).expect("a socket");
    world.cluster.put_resource_claim(object(
        r#"{"apiVersion":"resource.k8s.io/v1","kind":"ResourceClaim","metadata":{"name":"gpu","namespace":"default","uid":"cu"},"spec":{},
            "status":{"reservedFor":[{"resource":"pods","name":"web","uid":"1-2-3"}],
                "allocation":{"devices":{"results":[{"driver":"d.example","pool":"pool","device":"gpu","request":"r"}]}}}}"#,
    ));
    let agent = world.start();
    world.cluster.put(pod(
        r#"{"nodeName":"n1","containers":[{"name":"a","image":"nginx","resources":{"claims":[{"name":"c"}]}}],
            "resourceClaims":[{"name":"c","resourceClaimName":"gpu"}],"restartPolicy":"Never"}"#,
    ));
    let missing = "Warning FailedPrepareDynamicResources \"Failed to prepare dynamic resources: prepare dynamic resources: DRA driver d.example is not registered\"";
    until("it is told what is missing", || async { world.cluster.events().iter().any(|e| e == missing) }).await;
    agent.handle.context.dynamic.drivers.add("d.example", &socket, Version::V1).expect("it is new");
    until_phase(&world, "web", "Running").await;
    let spec = world.engine.spec_of("a").expect("it runs");
    assert_eq!(spec.cdi_devices, BTreeSet::from(["d.example/device=cu".to_owned()]));
    until("it is told how the device is", || async {
        let statuses = world.cluster.get("web").and_then(|p| p.status?.container_statuses).expect("written");
        statuses[0].allocated_resources_status.iter().flatten().any(|s| s.name == "claim:c")
    })
    .await;

    // Killed now, the agent still knows what it has prepared; the pod is over only once that is undone.
    agent.stop().await;
    driver.refuse("unprepare", Some("stuck"));
    let agent = world.start();
    agent.handle.context.dynamic.drivers.add("d.example", &socket, Version::V1).expect("it is new");
    let (sandbox, id) = world.engine.running("a").expect("it runs");
    world.engine.end(&sandbox, &id, 0, world.clock.now());
    until("the driver is asked", || async { driver.calls().iter().filter(|c| *c == "unprepare gpu").count() > 2 })
        .await;
    assert_eq!(world.phase("web"), "Running");
    driver.refuse("unprepare", None);
    until_phase(&world, "web", "Succeeded").await;
    assert_eq!(driver.calls().iter().filter(|c| *c == "prepare gpu").count(), 1);
    assert_eq!(agent.handle.context.dynamic.in_use(), BTreeMap::from([("<any>".to_owned(), 0)]));
    agent.stop().await;
    server.abort();
}
