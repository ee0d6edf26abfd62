//! What node, pods and containers use: read from the kernel when somebody asks, and at no other time.
//!
//! [`Collector`] reads; [`summary`] (`/stats/summary`) and [`prometheus`] (`/metrics/*`) only write down. A rate needs two
//! readings: the one of the last question, or one a moment ago if nobody has asked lately.
//!
//! Follows `pkg/kubelet/server/stats` and `pkg/kubelet/metrics/collectors`. Differs: the node's numbers are the machine's, not
//! those of a root cgroup.

pub mod disk;
pub mod file_systems;
pub mod prometheus;
pub mod summary;

use crate::agent::AgentHandle;
use crate::context::Context;
use crate::engine::{Engine, Resources, ToldUse};
use crate::node::Machine;
use crate::pod::seen::{Run, Volumes};
use crate::pod::spec::resources;
use crate::pod::view;
use crate::pod::worker::PodView;
use crate::static_pods;
use crate::swap::Swap;
use api::k8s::api::core::v1::{Pod, Volume};
use api::meta::MetaExt;
use disk::{DiskUse, Space};
use file_systems::FileSystem;
use jiff::Timestamp;
use net::traffic::{self, Traffic};
use parking_lot::Mutex;
use runtime::metrics::{self, Open};
use runtime::{Hierarchies, Stats};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Between the two readings of a rate that nobody has asked for lately.
const MOMENT: Duration = Duration::from_millis(250);
/// A reading older than this says nothing of what is used now.
const STALE: i64 = 120;
/// A rate is not computed anew within this time: the counters are too coarse.
const SHORTEST_WINDOW_MS: i128 = 200;
/// Name of a pod's link inside it.
const POD_LINK: &str = "eth0";
/// The machine's own reading, among those of pods and containers.
const MACHINE: &str = "";

/// What is read beside what the kernel counts anyway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Also {
    /// That alone.
    Nothing,
    /// What is in directories, by walking through them.
    Disks,
    /// What processes have open, and what the machine's disks do.
    Processes,
}

/// A cgroup that is no pod's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CgroupSample {
    /// `/kubepods/burstable`
    pub path: String,
    /// What summaries call it, if they tell of it (`SystemContainerPods` …).
    pub system: Option<&'static str>,
    /// Since when there is one, if that is known.
    pub started_at: Option<Timestamp>,
    /// What is used in it.
    pub usage: Stats,
    /// Nanoseconds of CPU per second.
    pub cpu_rate: Option<u64>,
}

/// What is used now.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct NodeSample {
    /// When.
    pub at: Timestamp,
    /// `metadata.name`
    pub name: String,
    /// When the machine started.
    pub boot: Timestamp,
    /// Its sizes.
    pub machine: Machine,
    /// CPU time of all processors since the start, nanoseconds.
    pub cpu_ns: u64,
    /// Nanoseconds of CPU per second.
    pub cpu_rate: Option<u64>,
    /// Over how many milliseconds the rates are.
    pub window_ms: u64,
    /// The file system of images and volumes.
    pub space: Space,
    /// Bytes of images.
    pub images: u64,
    /// Its links, the one of the default route first.
    pub links: Vec<Traffic>,
    /// The root of all cgroups, those of pods together, and our own.
    pub cgroups: Vec<CgroupSample>,
    /// Its disks, if processes were asked for.
    pub file_systems: Vec<FileSystem>,
    /// Names of disks that anybody has read or written, likewise.
    pub disk_names: BTreeMap<(u32, u32), String>,
    /// All pods that may run.
    pub pods: Vec<PodSample>,
}

/// What a pod uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodSample {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `status.startTime`
    pub started_at: Option<Timestamp>,
    /// `/kubepods/burstable/pod…`
    pub cgroup: String,
    /// Of its cgroup.
    pub usage: Stats,
    /// Nanoseconds of CPU per second.
    pub cpu_rate: Option<u64>,
    /// Its link, if it has one of its own.
    pub link: Option<Traffic>,
    /// Those that run.
    pub containers: Vec<ContainerSample>,
    /// Volumes whose content is the pod's or a claim's, if disks were asked for.
    pub volumes: Vec<VolumeSample>,
}

/// What a container uses.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSample {
    /// Its name in the pod.
    pub name: String,
    /// The run's id.
    pub id: String,
    /// `/kubepods/burstable/pod…/<id>`
    pub cgroup: String,
    /// The image's name.
    pub image: String,
    /// When the run began.
    pub started_at: Timestamp,
    /// What it may use.
    pub limits: Resources,
    /// Of its cgroup.
    pub usage: Stats,
    /// Nanoseconds of CPU per second.
    pub cpu_rate: Option<u64>,
    /// What it wrote, if disks were asked for.
    pub rootfs: Option<DiskUse>,
    /// Its logs, likewise.
    pub logs: Option<DiskUse>,
    /// What its processes hold, if they were asked for.
    pub open: Option<Open>,
}

/// What a volume holds.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VolumeSample {
    /// Its name in the pod.
    pub name: String,
    /// The claim, if it is one's.
    pub claim: Option<String>,
    /// Of this content.
    pub used: DiskUse,
    /// Of the file system.
    pub space: Space,
    /// Counts as the pod's use of the node's disk.
    pub ephemeral: bool,
}

impl PodSample {
    /// Bytes of the node's disk (`ephemeral-storage`).
    pub fn ephemeral(&self) -> DiskUse {
        let containers = self.containers.iter().flat_map(|c| [c.rootfs, c.logs].into_iter().flatten());
        let volumes = self.volumes.iter().filter(|v| v.ephemeral).map(|v| v.used);
        containers.chain(volumes).fold(DiskUse::default(), DiskUse::plus)
    }
}

/// A counter as it was.
#[derive(Debug, Clone, Copy)]
struct Reading {
    at: Timestamp,
    cpu_ns: u64,
    rate: Option<u64>,
    window_ms: u64,
}

/// Pure: the next reading of a counter, after the last one.
fn next_reading(last: Option<Reading>, at: Timestamp, cpu_ns: u64) -> Reading {
    let Some(last) = last.filter(|l| at.duration_since(l.at).as_secs() < STALE && cpu_ns >= l.cpu_ns) else {
        return Reading { at, cpu_ns, rate: None, window_ms: 0 };
    };
    let ms = at.duration_since(last.at).as_millis();
    if ms < SHORTEST_WINDOW_MS {
        return last;
    }
    let rate = u128::from(cpu_ns - last.cpu_ns) * 1000 / ms.unsigned_abs();
    Reading { at, cpu_ns, rate: u64::try_from(rate).ok(), window_ms: u64::try_from(ms).unwrap_or(0) }
}

/// The last readings: of the machine, and of pods and containers by their ids.
#[derive(Debug, Default)]
struct Readings(BTreeMap<String, Reading>);

impl Readings {
    /// Takes in what was read now, and tells the rates in it as far as they are known. Whether all are.
    fn take(&mut self, sample: &mut NodeSample) -> bool {
        let mut before = std::mem::take(&mut self.0);
        let (at, mut all_known) = (sample.at, true);
        let mut next = |name: &str, cpu_ns| {
            let reading = next_reading(before.remove(name), at, cpu_ns);
            all_known &= reading.rate.is_some();
            self.0.insert(name.to_owned(), reading);
            reading
        };
        let machine = next(MACHINE, sample.cpu_ns);
        (sample.cpu_rate, sample.window_ms) = (machine.rate, machine.window_ms);
        for cgroup in &mut sample.cgroups {
            cgroup.cpu_rate = next(&cgroup.path, cgroup.usage.cpu_usage_ns).rate;
        }
        for pod in &mut sample.pods {
            pod.cpu_rate = next(&pod.uid, pod.usage.cpu_usage_ns).rate;
            for c in &mut pod.containers {
                c.cpu_rate = next(&c.id, c.usage.cpu_usage_ns).rate;
            }
        }
        all_known
    }
}

/// Reads what is used.
pub struct Collector {
    agent: AgentHandle,
    context: Arc<Context>,
    started: Timestamp,
    /// Where they are mounted, if they can be found. That stays, and to find it takes a look at every mount of the machine.
    hierarchies: Option<Hierarchies>,
    readings: Mutex<Readings>,
}

impl Collector {
    /// Of this agent's pods; `started`: since when this process runs.
    pub fn new(agent: AgentHandle, context: Arc<Context>, started: Timestamp) -> Self {
        let hierarchies = Hierarchies::detect().ok();
        Collector { agent, context, started, hierarchies, readings: Mutex::default() }
    }

    /// Shared state of the agent.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// What is counted anyway, and what else is asked for, which takes time.
    pub async fn collect(&self, also: Also) -> std::io::Result<NodeSample> {
        let views: Vec<PodView> = self.agent.views().into_iter().filter(|v| v.seen.may_run()).collect();
        let mut sample = self.sample(&views)?;
        if !self.readings.lock().take(&mut sample) {
            tokio::time::sleep(MOMENT).await;
            sample = self.sample(&views)?;
            self.readings.lock().take(&mut sample);
        }
        let told = self.context.engine.told_use().await;
        for (pod, view) in sample.pods.iter_mut().zip(&views) {
            add_told(pod, view, &told);
        }
        let images = self.context.images.list().await.unwrap_or_default();
        sample.images = images.iter().map(|i| i.size).sum();
        let context = self.context.clone();
        match also {
            Also::Nothing => Ok(sample),
            Also::Disks => {
                let measured = tokio::task::spawn_blocking(move || {
                    sample.pods.iter_mut().zip(&views).for_each(|(pod, view)| measure(&context, pod, view));
                    (sample, views)
                });
                let (mut sample, views) = measured.await.map_err(std::io::Error::other)?;
                for (pod, view) in sample.pods.iter_mut().zip(&views) {
                    ask_drivers(&self.context, pod, view).await;
                }
                Ok(sample)
            }
            Also::Processes => {
                let looked = tokio::task::spawn_blocking(move || {
                    look_closer(&*context.engine, &mut sample);
                    sample
                });
                looked.await.map_err(std::io::Error::other)
            }
        }
    }

    /// What is in the volumes of claims that pods use: each once, with the claim's namespace.
    pub async fn claims(&self, views: &[PodView]) -> Vec<(String, VolumeSample)> {
        let mut out: Vec<(String, VolumeSample)> = Vec::new();
        for view in views.iter().filter(|v| v.seen.may_run()) {
            let volumes = view::spec(&view.pod).volumes.iter().flatten();
            let claimed = |v: &Volume| crate::volumes::persistent::claim_of(&view.pod, v).is_some();
            let volumes: Vec<Volume> = volumes.filter(|v| claimed(v)).cloned().collect();
            if volumes.is_empty() {
                continue;
            }
            let (context, of) = (self.context.clone(), view.clone());
            let measure = move || volumes.iter().filter_map(|v| volume_sample(&context, &of, v)).collect();
            let volumes = tokio::task::spawn_blocking(measure).await.unwrap_or_default();
            let mut sample = PodSample { volumes, ..PodSample::default() };
            ask_drivers(&self.context, &mut sample, view).await;
            let namespace = view.pod.namespace();
            for volume in sample.volumes {
                if !out.iter().any(|(n, known)| n == namespace && known.claim == volume.claim) {
                    out.push((namespace.to_owned(), volume));
                }
            }
        }
        out
    }

    /// Reads everything once, but for disks.
    fn sample(&self, views: &[PodView]) -> std::io::Result<NodeSample> {
        let context = &self.context;
        let machine = Machine::read(&context.images.root())?;
        let space = Space::of(&context.images.root())?;
        let links = links();
        let pod = |view: &PodView| {
            let end = view.seen.sandbox.ready().and_then(|id| context.network.link(id));
            let link = end.and_then(|end| links.iter().find(|l| l.name == end));
            let link = link.map(|l| l.from_the_other_end(POD_LINK));
            PodSample { link, ..pod_sample(&*context.engine, view) }
        };
        let pods = views.iter().map(pod).collect();
        Ok(NodeSample {
            at: context.clock.now(),
            name: context.config.node_name.clone(),
            boot: boot_time(),
            machine,
            cpu_ns: machine_cpu_ns(),
            cpu_rate: None,
            window_ms: 0,
            space,
            images: 0,
            links,
            cgroups: self.cgroups(),
            file_systems: Vec::new(),
            disk_names: BTreeMap::new(),
            pods,
        })
    }

    /// Those that are no pod's. Upstream's own cgroup is where its process is (`ensureProcessInContainerWithOOMScore`), and it names no others
    /// unless it is told to.
    fn cgroups(&self) -> Vec<CgroupSample> {
        let of = |path: &str, system, started_at, usage| CgroupSample {
            path: path.to_owned(),
            system,
            started_at,
            usage,
            cpu_rate: None,
        };
        let engine = &self.context.engine;
        let pods = |name: &str, system| of(&format!("/{name}"), system, None, engine.usage(name));
        let mut out =
            vec![pods("kubepods", Some("pods")), pods("kubepods/besteffort", None), pods("kubepods/burstable", None)];
        let Some(hierarchies) = &self.hierarchies else { return out };
        out.insert(0, of("/", None, None, hierarchies.stats("/")));
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        // One that is in the root has none of its own.
        if let Some(path) = Hierarchies::path(&own).filter(|path| *path != "/") {
            out.push(of(path, Some("kubelet"), Some(self.started), hierarchies.stats(path)));
        }
        out
    }
}

/// What processes have open, what the machine's disks do, and how they are called.
fn look_closer(engine: &dyn Engine, sample: &mut NodeSample) {
    for pod in &mut sample.pods {
        for c in &mut pod.containers {
            c.open = Some(Open::of(&engine.processes(c.cgroup.trim_start_matches('/'))));
        }
    }
    sample.file_systems = file_systems::read();
    let of_containers = sample.pods.iter().flat_map(|p| p.containers.iter().map(|c| &c.usage).chain([&p.usage]));
    let all = of_containers.chain(sample.cgroups.iter().map(|c| &c.usage));
    let devices = all.flat_map(|usage| usage.io.iter().flatten().map(|disk| disk.device));
    let devices: BTreeSet<(u32, u32)> = devices.collect();
    sample.disk_names = devices.into_iter().map(|device| (device, metrics::disk_name(device))).collect();
}

/// What a pod uses, but for disk and network.
pub fn pod_sample(engine: &dyn Engine, view: &PodView) -> PodSample {
    let pod = &view.pod;
    let path = resources::pod_cgroup_path(pod);
    let usage = |cgroup: &str| engine.usage(cgroup);
    let allocated = view.seen.allocated.as_ref();
    let granted = allocated.map_or(Cow::Borrowed(&**pod), |allocated| allocated.apply(pod));
    let limits = |name: &str| {
        let (_, c) = view::find_container(&granted, name)?;
        // What it may swap is read from its cgroup.
        Some(resources::container_cgroup(&granted, &c, &Swap::default()))
    };
    let containers = view.seen.containers.iter().filter_map(|(name, c)| {
        let run = c.running()?;
        Some(ContainerSample {
            name: name.clone(),
            id: run.id.clone(),
            image: run.image.clone(),
            started_at: run.started_at,
            limits: limits(name).unwrap_or_default(),
            cgroup: format!("/{path}/{}", run.id),
            usage: usage(&format!("{path}/{}", run.id)),
            ..ContainerSample::default()
        })
    });
    PodSample {
        namespace: pod.namespace().to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        started_at: pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|t| t.0),
        cgroup: format!("/{path}"),
        usage: usage(&path),
        containers: containers.collect(),
        ..PodSample::default()
    }
}

/// What the engine alone knows.
pub fn add_told(sample: &mut PodSample, view: &PodView, told: &ToldUse) {
    let link = view.seen.sandbox.ready().and_then(|id| told.links.get(id));
    sample.link = link.cloned().or(sample.link.take());
    for c in &mut sample.containers {
        c.rootfs = told.roots.get(&c.id).copied();
    }
}

/// Walks through what a pod has on disk.
pub fn measure(context: &Context, sample: &mut PodSample, view: &PodView) {
    let pod = &view.pod;
    for c in &mut sample.containers {
        if let Some(dir) = context.images.upper(&c.id) {
            c.rootfs = Some(DiskUse::of(&dir));
        }
        let logs = context.pod_log_dir(pod.namespace(), pod.name(), pod.uid()).join(&c.name);
        c.logs = Some(DiskUse::of(&logs));
    }
    let volumes = view::spec(pod).volumes.iter().flatten();
    sample.volumes = volumes.filter_map(|v| volume_sample(context, view, v)).collect();
}

/// What is in volumes whose drivers know better than their file system (`csi_metrics.go`).
async fn ask_drivers(context: &Context, sample: &mut PodSample, view: &PodView) {
    let told = context.volumes.csi().stats(view.pod.uid()).await;
    for volume in view::spec(&view.pod).volumes.iter().flatten().filter(|_| !told.is_empty()) {
        let place = context.volumes.place(&view.pod, volume);
        let Some(stats) = place.and_then(|path| told.get(&path)) else { continue };
        let Some(sample) = sample.volumes.iter_mut().find(|s| s.name == volume.name) else { continue };
        let ([capacity, available, used], [inodes, inodes_free, inodes_used]) = (stats.bytes, stats.inodes);
        sample.space = Space { capacity, available, free: available, inodes, inodes_free, is_alone: true };
        sample.used = DiskUse { bytes: used, inodes: inodes_used };
    }
}

fn volume_sample(context: &Context, view: &PodView, volume: &Volume) -> Option<VolumeSample> {
    let claim = crate::volumes::persistent::claim_of(&view.pod, volume).map(|(name, _)| name);
    let in_memory = volume.empty_dir.as_ref().is_some_and(|e| e.medium.as_deref() == Some("Memory"));
    if volume.host_path.is_some() || volume.image.is_some() {
        return None;
    }
    let path: PathBuf = context.volumes.place(&view.pod, volume)?;
    let space = Space::of(&path).ok()?;
    let used = if claim.is_some() && space.is_alone { space.used() } else { DiskUse::of(&path) };
    Some(VolumeSample {
        name: volume.name.clone(),
        ephemeral: claim.is_none() && !in_memory && volume.empty_dir.is_some(),
        claim,
        used,
        space,
    })
}

/// Runs of containers by state, for `/metrics`.
pub fn count_containers(views: &[PodView]) -> BTreeMap<&'static str, usize> {
    let mut out = BTreeMap::new();
    for c in views.iter().flat_map(|v| v.seen.containers.values()) {
        let state = match c.run {
            Run::Running(_) => "running",
            Run::Exited(_) => "exited",
            Run::None => continue,
        };
        *out.entry(state).or_insert(0) += 1;
    }
    out
}

/// Pods of the node, and those that go on, by whether they are static; for `/metrics`.
pub fn count_pods(views: &[PodView]) -> BTreeMap<bool, (usize, usize)> {
    let mut out = BTreeMap::from([(false, (0, 0)), (true, (0, 0))]);
    for view in views {
        let (all, active) = out.entry(static_pods::is_static(&view.pod)).or_default();
        *all += 1;
        *active += usize::from(view.seen.ending.is_none());
    }
    out
}

/// Pods by how far they are, by whether the API or the directory of static pods still has them, and by whether they are static; for
/// `/metrics` (`PodWorkerSync`). What the runtime alone knows of is gone before the first pod begins.
pub fn count_working(views: &[PodView]) -> BTreeMap<(&'static str, &'static str, bool), usize> {
    let states = ["sync", "terminating", "terminated"];
    let places = states.into_iter().flat_map(|state| ["desired", "orphan"].map(|config| (state, config)));
    let mut out: BTreeMap<_, _> =
        places.flat_map(|(state, config)| [false, true].map(|is_static| ((state, config, is_static), 0))).collect();
    for view in views {
        let state = match (&view.seen.ending, view.seen.may_run()) {
            (None, _) => "sync",
            (Some(_), true) => "terminating",
            (Some(_), false) => "terminated",
        };
        let config = if view.seen.object_gone { "orphan" } else { "desired" };
        *out.entry((state, config, static_pods::is_static(&view.pod))).or_default() += 1;
    }
    out
}

/// Resizes that are not granted, by reason, and how many are being done; for `/metrics`.
pub fn count_resizes(views: &[PodView]) -> (BTreeMap<String, usize>, usize) {
    let mut pending = BTreeMap::new();
    for reason in views.iter().filter_map(|v| Some(v.seen.resize.pending.as_ref()?.reason())) {
        *pending.entry(reason.to_lowercase()).or_insert(0) += 1;
    }
    (pending, views.iter().filter(|v| v.seen.resize.progress.is_some()).count())
}

/// Volumes by their plugin and state: those that are wanted, and those that are set up; for `/metrics`
/// (`volumemanager/metrics/metrics.go`).
pub fn count_volumes(
    views: &[PodView],
    plugins: impl Fn(&Pod) -> Vec<String>,
) -> BTreeMap<(String, &'static str), usize> {
    let mut out = BTreeMap::new();
    for view in views {
        let states = [
            ("actual_state_of_world", matches!(view.seen.volumes, Volumes::Mounted)),
            ("desired_state_of_world", view.seen.ending.is_none()),
        ];
        for (plugin, (state, _)) in plugins(&view.pod)
            .into_iter()
            .flat_map(|plugin| states.iter().filter(|(_, is)| *is).map(move |state| (plugin.clone(), state)))
        {
            *out.entry((plugin, *state)).or_insert(0) += 1;
        }
    }
    out
}

// === the machine ===

/// User, nice, system, irq, softirq and steal of all processors (`/proc/stat`), in ticks of a hundredth.
fn cpu_ticks(stat: &str) -> u64 {
    let fields: Vec<u64> = stat
        .lines()
        .find_map(|l| l.strip_prefix("cpu "))
        .map(|l| l.split_whitespace().filter_map(|n| n.parse().ok()).collect())
        .unwrap_or_default();
    [0, 1, 2, 5, 6, 7].iter().filter_map(|i| fields.get(*i)).sum()
}

fn machine_cpu_ns() -> u64 {
    // The kernel tells user space hundredths on every architecture (`USER_HZ`).
    cpu_ticks(&std::fs::read_to_string("/proc/stat").unwrap_or_default()) * 10_000_000
}

fn links() -> Vec<Traffic> {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let mut links = traffic::traffic(&text("/proc/net/dev"));
    let route = text("/proc/net/route");
    let default = traffic::default_link(&route);
    links.sort_by_key(|l| default != Some(l.name.as_str()));
    links
}

fn boot_time() -> Timestamp {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let seconds = stat.lines().find_map(|l| l.strip_prefix("btime ")?.trim().parse::<i64>().ok()).unwrap_or(0);
    Timestamp::from_second(seconds).unwrap_or_default()
}

/// `pid_max`, and how many tasks there are (`/proc/loadavg`: `0.1 0.2 0.3 2/345 6789`).
pub fn tasks() -> (u64, u64) {
    let text = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let number = |path: &str| text(path).trim().parse::<u64>().unwrap_or(u64::MAX);
    let max = number("/proc/sys/kernel/pid_max").min(number("/proc/sys/kernel/threads-max"));
    let load = text("/proc/loadavg");
    let now = load.split_whitespace().nth(3).and_then(|f| f.split_once('/')?.1.parse().ok()).unwrap_or(0);
    (max, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_000_000 + ms).expect("small")
    }

    #[test]
    fn rates_need_two_readings_that_are_neither_too_close_nor_too_old() {
        let first = next_reading(None, at(0), 1_000);
        assert_eq!(first.rate, None);
        let second = next_reading(Some(first), at(500), 1_000 + 250_000_000);
        assert_eq!(second.rate, Some(500_000_000), "half a processor");
        let at_once = next_reading(Some(second), at(510), 1_000 + 250_000_001);
        assert_eq!((at_once.at, at_once.rate), (at(500), Some(500_000_000)));
        assert_eq!(next_reading(Some(second), at(500_000), u64::MAX).rate, None, "too long ago");
        assert_eq!(next_reading(Some(second), at(1_000), 0).rate, None, "another cgroup of the same name");
    }

    #[test]
    fn rates_are_those_of_all_counters_that_went_on() {
        let mut readings = Readings::default();
        let first = summary::tests::sample();
        assert!(!readings.take(&mut first.clone()), "nothing was read before");
        let mut second = NodeSample { at: first.at + Duration::from_millis(500), ..first };
        second.cpu_ns += 1_000_000_000;
        second.pods[0].usage.cpu_usage_ns += 250_000_000;
        second.pods[0].containers[0].usage.cpu_usage_ns = 0;
        assert!(!readings.take(&mut second), "a cgroup is gone");
        let pod = &second.pods[0];
        assert_eq!((second.cpu_rate, second.window_ms), (Some(2_000_000_000), 500));
        assert_eq!((pod.cpu_rate, pod.containers[0].cpu_rate), (Some(500_000_000), None));
        second.pods.clear();
        second.cgroups.clear();
        assert!(readings.take(&mut second));
        assert_eq!(readings.0.len(), 1, "what is gone is forgotten");
    }

    #[test]
    fn processors_count_what_is_not_idle() {
        assert_eq!(cpu_ticks("cpu  1 2 3 400 50 6 7 8 9 10\ncpu0 1 1 1"), 1 + 2 + 3 + 6 + 7 + 8);
        assert!(machine_cpu_ns() > 0 && boot_time().as_second() > 0);
        let (max, now) = tasks();
        assert!(max > now && now > 0);
    }
}
