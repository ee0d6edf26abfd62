//! B13: from the wish for a container to the first instruction of its program, and to nothing of it being left; ours against
//! Debian's runc and crun, interleaved, each with the same program.
//!
//! Time zero is before the first call of ours, or before the runtime's process is started. The program itself notes when it began.
//! Everything happens in a network namespace that is made for the run, and below one directory and one cgroup.

use crate::fail::{Fail, Result, io, refused};
use crate::measure::{Machine, monotonic_ns};
use crate::oci::Oci;
use crate::program;
use crate::report::{Report, spread};
use base::SystemRandom;
use ipnet::{IpNet, Ipv4Net};
use net::NetConfig;
use net::pod::PodNetwork;
use runtime::{
    Capabilities, Cgroup, Config, ContainerSpec, Engine, EngineEvent, Event, Events, Log, Mount, Pod, PodSandboxSpec,
    Process, Resources, Rootfs, Seccomp, spec,
};
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Rounds {
    /// Rounds; each starts every variant once
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Pods with network that run meanwhile and do nothing
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// Where containers and their records are; the file system matters
    #[arg(long, default_value = "/var/tmp")]
    place: PathBuf,
}

/// When a container's program began and when all of it was gone, on the monotonic clock.
pub(crate) struct Run {
    pub(crate) start: u64,
    pub(crate) first: u64,
    pub(crate) gone: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Variant {
    Pod,
    PodWithNetwork,
    SecondContainer,
    Runc,
    Crun,
}

impl Variant {
    const ALL: [Variant; 5] =
        [Variant::Pod, Variant::PodWithNetwork, Variant::SecondContainer, Variant::Runc, Variant::Crun];

    fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Variant::Pod => (
                "dhow: new pod and container",
                "p50 ≤ 3 ms",
                "supervisor, 6 namespaces, cgroups, overlay, seccomp, log file",
            ),
            Variant::PodWithNetwork => ("dhow: the same with veth, address, routes", "p50 ≤ 3 ms", "as pods have it"),
            Variant::SecondContainer => ("dhow: one more container in a pod", "", "pod is there; what a restart costs"),
            Variant::Runc => {
                ("runc run", "", "namespaces, cgroups; no overlay, no seccomp, no log, no veth: less than ours")
            }
            Variant::Crun => ("crun run", "", ""),
        }
    }
}

/// Runs all variants, interleaved.
pub(crate) async fn run(rounds: &Rounds, report: &mut Report) -> Result<()> {
    let made = tempfile::Builder::new().prefix("dhow-bench-").tempdir_in(&rounds.place);
    let dir = made.map_err(io(format!("make a directory in {}", rounds.place.display())))?;
    let image = dir.path().join("image");
    for sub in ["out", "etc", "proc", "dev", "sys", "tmp"] {
        std::fs::create_dir_all(image.join(sub)).map_err(io("make an image"))?;
    }
    program::write(&image.join("stamp"))?;
    let mut ours = Ours::start(dir.path(), &image)?;
    let result = crate::unless_interrupted(interleaved(rounds, dir.path(), &image, &mut ours, report)).await;
    ours.end().await?;
    result
}

async fn interleaved(rounds: &Rounds, dir: &Path, image: &Path, ours: &mut Ours, report: &mut Report) -> Result<()> {
    let mut peers = [(Variant::Runc, Oci::runc(dir, image)), (Variant::Crun, Oci::crun(dir, image))];
    let mut runs: Vec<(Variant, Run)> = Vec::new();
    let shared = ours.pod("shared").await?;
    for number in 0..rounds.beside {
        ours.waiting_pod(&format!("beside{number}")).await?;
    }
    let machine = Machine::begin();
    // The first round warms up and is not counted; every other round goes the other way.
    for round in 0..=rounds.rounds {
        let mut order = Variant::ALL;
        if round % 2 == 1 {
            order.reverse();
        }
        for variant in order {
            let name = format!("r{round}");
            let run = match variant {
                Variant::Pod => ours.whole_pod(&format!("p-{name}"), false).await?,
                Variant::PodWithNetwork => ours.whole_pod(&format!("n-{name}"), true).await?,
                Variant::SecondContainer => ours.container(&shared, &name).await?,
                Variant::Runc | Variant::Crun => match peers.iter_mut().find(|(v, _)| *v == variant) {
                    Some((_, Ok(oci))) => oci.run(&name)?,
                    _ => continue,
                },
            };
            if round > 0 {
                runs.push((variant, run));
            }
        }
    }
    ours.engine.remove_pod(&shared).await.map_err(refused("remove a pod"))?;
    let beside = format!("beside {} pods", rounds.beside);
    let rest = machine.note();
    for variant in Variant::ALL {
        let (what, target, note) = variant.describe();
        let peer = peers.iter().find(|(v, _)| *v == variant).map(|(_, oci)| oci);
        let note = match peer {
            Some(Err(refusal)) => {
                report.add("Container", what, "refused", target, refusal.to_string());
                continue;
            }
            Some(Ok(oci)) => format!("{note}{}", oci.note()),
            None => note.to_owned(),
        };
        let micros = |end: fn(&Run) -> u64| -> Vec<f64> {
            let of = runs.iter().filter(|(v, _)| *v == variant);
            of.map(|(_, r)| end(r).saturating_sub(r.start) as f64 / 1000.0).collect()
        };
        let whole = spread(micros(|r| r.gone)).replace("**", "");
        let note = format!("{note}; {beside}; n={}; until removed: {whole}; {rest}", micros(|r| r.first).len());
        report.add("Container", format!("{what} → first instruction"), spread(micros(|r| r.first)), target, note);
    }
    Ok(())
}

/// The project's engine and network, as the agent uses them.
struct Ours {
    dir: PathBuf,
    image: PathBuf,
    engine: Engine,
    events: Events,
    network: Arc<PodNetwork>,
    config: NetConfig,
    cgroup: String,
}

impl Ours {
    fn start(dir: &Path, image: &Path) -> Result<Ours> {
        let exe = std::env::current_exe().map_err(io("find this program"))?;
        let cgroup = format!("/dhow-bench-{}", std::process::id());
        let config = Config {
            run_dir: dir.join("run"),
            state_dir: dir.join("state"),
            exe,
            supervisor_cgroup: None,
            patience: Config::PATIENCE,
        };
        let (engine, events) = Engine::start(config).map_err(refused("start the engine"))?;
        let pod_cidrs = vec![IpNet::from(Ipv4Net::new_assert(Ipv4Addr::new(10, 42, 0, 0), 20))];
        let state_dir = dir.join("net");
        let config = NetConfig { node_name: "bench".into(), state_dir, pod_cidrs, ..NetConfig::default() };
        let network = PodNetwork::new(config.clone(), Arc::new(SystemRandom)).map_err(refused("set up the network"))?;
        network.setup().map_err(refused("set up the network"))?;
        let network = Arc::new(network);
        let networks = network.clone().prepare(engine.networks_in_advance(), Engine::SPARES);
        base::tasks::detach("networks-in-advance", networks);
        Ok(Ours { dir: dir.into(), image: image.into(), engine, events, network, config, cgroup })
    }

    async fn pod(&self, id: &str) -> Result<Pod> {
        let cgroup = Some(Cgroup { path: format!("{}/{id}", self.cgroup), resources: Resources::default() });
        let spec =
            PodSandboxSpec { id: id.into(), hostname: Some("bench".into()), cgroup, ..PodSandboxSpec::default() };
        self.engine.create_pod(&spec).await.map_err(refused("create a pod"))
    }

    fn spec(&self, pod: &str, id: &str) -> ContainerSpec {
        let layer = self.dir.join("containers").join(pod).join(id);
        ContainerSpec {
            id: id.into(),
            rootfs: Rootfs::Overlay {
                lower: vec![self.image.clone()],
                upper: layer.join("upper"),
                work: layer.join("work"),
                volatile: true,
            },
            mounts: [Mount::defaults(false), vec![Mount::bind(self.out(pod, id), "/out")]].concat(),
            process: Process {
                args: vec!["/stamp".into()],
                env: vec!["PATH=/bin".into()],
                capabilities: Capabilities::of(spec::default_capabilities()),
                seccomp: Seccomp::RuntimeDefault,
                ..Process::default()
            },
            cgroup: Cgroup { path: format!("{}/{pod}/{id}", self.cgroup), resources: Resources::default() },
            masked_paths: spec::masked_paths(),
            readonly_paths: spec::readonly_paths(),
            log: Some(Log { path: self.dir.join("logs").join(pod).join(id), max_size: 0, max_files: 1 }),
            ..ContainerSpec::default()
        }
    }

    fn out(&self, pod: &str, id: &str) -> PathBuf {
        self.dir.join("out").join(pod).join(id)
    }

    async fn attach(&self, pod: &Pod) -> Result<()> {
        let netns = self.engine.netns(pod).await.map_err(refused("get a network namespace"))?;
        let (plumber, id) = (self.network.clone(), pod.id().to_owned());
        let attached = tokio::task::spawn_blocking(move || plumber.attach(&id, netns.as_fd(), &[])).await;
        attached.map_err(refused("attach"))?.map_err(refused("attach")).map(drop)
    }

    /// A pod whose container waits for its end.
    async fn waiting_pod(&self, id: &str) -> Result<()> {
        let mut spec = self.spec(id, "main");
        spec.process.args.push("wait".into());
        std::fs::create_dir_all(self.out(id, "main")).map_err(io("make a directory"))?;
        let pod = self.pod(id).await?;
        self.attach(&pod).await?;
        self.engine.start_container(&pod, &spec).await.map_err(refused("start a container")).map(drop)
    }

    /// Pod, network if wanted, container; then all of it gone.
    async fn whole_pod(&mut self, id: &str, network: bool) -> Result<Run> {
        let spec = self.spec(id, "main");
        std::fs::create_dir_all(self.out(id, "main")).map_err(io("make a directory"))?;
        let start = monotonic_ns();
        let pod = self.pod(id).await?;
        if network {
            self.attach(&pod).await?;
        }
        self.engine.start_container(&pod, &spec).await.map_err(refused("start a container"))?;
        self.exited(id).await?;
        let first = program::read_stamp(&self.out(id, "main").join("stamp"))?;
        self.engine.remove_pod(&pod).await.map_err(refused("remove a pod"))?;
        if network {
            let (plumber, id) = (self.network.clone(), id.to_owned());
            let detached = tokio::task::spawn_blocking(move || plumber.detach(&id)).await;
            detached.map_err(refused("detach"))?.map_err(refused("detach"))?;
        }
        Ok(Run { start, first, gone: monotonic_ns() })
    }

    async fn container(&mut self, pod: &Pod, id: &str) -> Result<Run> {
        let spec = self.spec(pod.id(), id);
        std::fs::create_dir_all(self.out(pod.id(), id)).map_err(io("make a directory"))?;
        let start = monotonic_ns();
        self.engine.start_container(pod, &spec).await.map_err(refused("start a container"))?;
        self.exited(pod.id()).await?;
        let first = program::read_stamp(&self.out(pod.id(), id).join("stamp"))?;
        self.engine.remove_container(pod, id).await.map_err(refused("remove a container"))?;
        Ok(Run { start, first, gone: monotonic_ns() })
    }

    async fn exited(&mut self, of: &str) -> Result<()> {
        let why = |why: &str| Fail::Refused { what: format!("run a container in pod {of}"), why: why.into() };
        loop {
            match self.events.recv().await {
                Some(EngineEvent::Pod { pod, event: Event::Exited { exit, .. } }) if pod == of => {
                    return if exit.code == 0 { Ok(()) } else { Err(why(&format!("exit code {}", exit.code))) };
                }
                Some(EngineEvent::SupervisorLost { pod }) if pod == of => return Err(why("its supervisor is gone")),
                Some(_) => {}
                None => return Err(why("the engine is gone")),
            }
        }
    }

    /// No trace is left; also after a failure.
    async fn end(self) -> Result<()> {
        for recovered in self.engine.recover().await.map_err(refused("find what is left"))? {
            self.engine.remove_pod(&recovered.pod).await.map_err(refused("remove a pod"))?;
        }
        self.engine.remove_cgroup(&self.cgroup).await.map_err(refused("remove the cgroup"))?;
        net::teardown(&self.config).map_err(refused("remove the network"))
    }
}
