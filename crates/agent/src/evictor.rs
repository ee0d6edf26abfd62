//! Ends pods when the node has too little left, or when they take more disk than they may; removes unused images before, those that
//! a workload may want again ([`crate::revisions`]) last.
//!
//! Deciding is pure ([`next_victim`], [`over_limit`]); [`Evictor`] reads, removes and tells. Follows
//! `pkg/kubelet/eviction/{eviction_manager,helpers}.go`. Differs: one file system for images, logs and volumes.

use crate::agent::AgentHandle;
use crate::cluster::ClusterEvent;
use crate::context::Context;
use crate::counters;
use crate::engine::ToldUse;
use crate::eviction::{Need, Resource, Tracker};
use crate::image_gc::{self, Records};
use crate::images::Image;
use crate::node::Machine;
use crate::pod::admission::is_critical;
use crate::pod::observe::Observation;
use crate::pod::seen::{Ending, Seen};
use crate::pod::spec::resources;
use crate::pod::view;
use crate::pod::worker::PodView;
use crate::revisions::Revisions;
use crate::stats::{self, PodSample, disk::DiskUse};
use api::k8s::api::core::v1::Pod;
use api::meta::MetaExt;
use jiff::{SignedDuration, Timestamp};
use machinery::quantity::{Format, Quantity};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// `status.reason` of an evicted pod, and of its event.
pub const REASON: &str = "Evicted";
/// What a pod has to stop (`immediateEvictionGracePeriodSeconds`).
const IMMEDIATELY: Duration = Duration::from_secs(1);
/// Between two looks (`evictionMonitoringPeriod`).
const PERIOD: Duration = Duration::from_secs(10);
/// Between two looks at the images (`ImageGCPeriod`).
const IMAGES_PERIOD: SignedDuration = SignedDuration::from_mins(5);

/// A pod that may be ended, with what it uses.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// The object.
    pub pod: Arc<Pod>,
    /// What it uses.
    pub sample: PodSample,
}

impl Resource {
    fn used(self, sample: &PodSample) -> i64 {
        let used = match self {
            Resource::Memory => sample.usage.memory_working_set,
            Resource::Disk => sample.ephemeral().bytes,
            Resource::Inodes => sample.ephemeral().inodes,
            Resource::Pids => sample.usage.pids,
        };
        i64::try_from(used).unwrap_or(i64::MAX)
    }

    fn requested(self, pod: &Pod) -> i64 {
        match self {
            Resource::Memory => resources::pod_requests(pod).memory,
            Resource::Disk => resources::storage_request(pod),
            Resource::Inodes | Resource::Pids => 0,
        }
    }
}

fn priority(pod: &Pod) -> i32 {
    view::spec(pod).priority.unwrap_or(0)
}

/// The pod to end: one that uses more than it asked for, of the lowest priority, the greatest excess first.
pub fn next_victim(candidates: &[Candidate], resource: Resource) -> Option<&Candidate> {
    let excess = |c: &Candidate| resource.used(&c.sample).saturating_sub(resource.requested(&c.pod));
    let rank = |c: &&Candidate| {
        // Nothing can ask for tasks, so more or less than asked for says nothing.
        let within = resource != Resource::Pids && excess(c) <= 0;
        (within, priority(&c.pod), Reverse(excess(c)))
    };
    candidates.iter().filter(|c| !is_critical(&c.pod)).min_by_key(rank)
}

fn binary(value: i64) -> String {
    Quantity::new(value, Format::BinarySi).to_string()
}

/// `evictionMessage`.
pub fn message(candidate: &Candidate, resource: Resource, threshold: i64, available: i64) -> String {
    let name = resource.name();
    let mut out = format!("The node was low on resource: {name}. ");
    let shown = |n: i64| if matches!(resource, Resource::Memory | Resource::Disk) { binary(n) } else { n.to_string() };
    out += &format!("Threshold quantity: {}, available: {}. ", shown(threshold), shown(available));
    for sample in &candidate.sample.containers {
        let Some((_, c)) = view::find_container(&candidate.pod, &sample.name) else { continue };
        let used = match resource {
            Resource::Memory => sample.usage.memory_working_set,
            Resource::Disk => sample.rootfs.unwrap_or_default().plus(sample.logs.unwrap_or_default()).bytes,
            Resource::Inodes | Resource::Pids => continue,
        };
        let used = i64::try_from(used).unwrap_or(i64::MAX);
        let requests = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let asked = resources::amount(requests, name, false);
        if used > asked {
            let asked = requests.and_then(|r| r.get(name)).map_or_else(|| "0".to_owned(), |q| q.0.clone());
            out += &format!(
                "Container {} was using {}, request is {asked}, has larger consumption of {name}. ",
                sample.name,
                binary(used)
            );
        }
    }
    out
}

/// Whose limit of disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// A volume's.
    EmptyDir,
    /// The pod's.
    Pod,
    /// A container's.
    Container,
}

impl Limit {
    /// The eviction signal of one that is passed.
    fn signal(self) -> &'static str {
        match self {
            Limit::EmptyDir => "emptydirfs.limit",
            Limit::Pod => "ephemeralpodfs.limit",
            Limit::Container => "ephemeralcontainerfs.limit",
        }
    }
}

/// Why a pod has to go.
#[derive(Debug, Clone, Copy)]
enum Why {
    /// The node has too little of this left.
    Pressure(Resource),
    /// It has more on disk than it may; that is no disruption (`localStorageEviction` sets no condition).
    Limit(Limit),
}

/// Why a pod has more on disk than it may (`localStorageEviction`).
pub fn over_limit(candidate: &Candidate) -> Option<(Limit, String)> {
    let (pod, sample) = (&candidate.pod, &candidate.sample);
    let more = |used: DiskUse, limit: &str| {
        Quantity::parse(limit).is_ok_and(|q| q.value() > 0 && i128::from(used.bytes) > i128::from(q.value()))
    };
    for volume in view::spec(pod).volumes.iter().flatten() {
        let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref()) else { continue };
        if sample.volumes.iter().any(|v| v.name == volume.name && more(v.used, &limit.0)) {
            let text = format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}. ", volume.name, limit.0);
            return Some((Limit::EmptyDir, text));
        }
    }
    let limit = resources::storage_limit(pod);
    if limit > 0 && sample.ephemeral().bytes > limit.unsigned_abs() {
        let text = "Pod ephemeral local storage usage exceeds the total limit of containers";
        return Some((Limit::Pod, format!("{text} {}. ", binary(limit))));
    }
    for c in view::app_containers(pod) {
        let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
        let Some(limit) = limits.and_then(|l| l.get("ephemeral-storage")) else { continue };
        let found = sample.containers.iter().find(|s| s.name == c.name);
        let used = found.map(|s| s.rootfs.unwrap_or_default().plus(s.logs.unwrap_or_default())).unwrap_or_default();
        if more(used, &limit.0) {
            let text = format!("Container {} exceeded its local ephemeral storage limit {:?}. ", c.name, limit.0);
            return Some((Limit::Container, text));
        }
    }
    None
}

/// Which volumes take more than they should, though nobody keeps them from it, by their names.
fn oversized(candidate: &Candidate, watched: &BTreeMap<String, u64>) -> BTreeMap<String, String> {
    let over = |(name, size): (&String, &u64)| {
        let found = candidate.sample.volumes.iter().find(|v| v.name == *name && v.used.bytes > *size)?;
        let text =
            format!("volume {name:?} takes {} bytes, {} more than its size", found.used.bytes, found.used.bytes - size);
        Some((name.clone(), text))
    };
    watched.iter().filter_map(over).collect()
}

/// Whether a pod's disk has to be measured at every look.
fn has_disk_limit(pod: &Pod) -> bool {
    let volume =
        view::spec(pod).volumes.iter().flatten().any(|v| v.empty_dir.as_ref().is_some_and(|e| e.size_limit.is_some()));
    volume || resources::storage_limit(pod) > 0
}

/// Sizes of volumes that nobody keeps to them, by pod and name.
type Watched = BTreeMap<String, BTreeMap<String, u64>>;

/// See the file's head.
pub struct Evictor {
    agent: AgentHandle,
    context: Arc<Context>,
    tracker: Tracker,
    images: Records,
    images_looked: Option<Timestamp>,
    images_failed: bool,
    revisions: Revisions,
    /// Volumes that are known to be larger than they should, by pod.
    oversized: BTreeSet<(String, String)>,
}

impl Evictor {
    /// Reads which images are needed beside those in use.
    pub fn new(agent: AgentHandle, context: Arc<Context>) -> Self {
        let revisions = Revisions::load(&context.config.data_dir);
        let (tracker, images) = (Tracker::default(), Records::default());
        Evictor {
            agent,
            context,
            tracker,
            images,
            images_looked: None,
            images_failed: false,
            revisions,
            oversized: BTreeSet::new(),
        }
    }

    /// Looks until `shutdown`.
    pub async fn run(mut self, shutdown: CancellationToken) {
        loop {
            self.look().await;
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(PERIOD) => {}
            }
        }
    }

    async fn look(&mut self) {
        let now = self.context.clock.now();
        let Some(machine) = self.machine() else { return };
        let (pressure, need) = self.tracker.look(&self.context.config.eviction, &machine, now);
        *self.context.pressure.write() = pressure;
        self.revisions.look(&self.agent.views());
        if self.images_looked.is_none_or(|at| now.duration_since(at) >= IMAGES_PERIOD) {
            self.images_looked = Some(now);
            let failed = self.care_for_images(&machine, now).await.err();
            if let Some(image_gc::Failure { reason, message }) = &failed {
                self.event(reason, message);
                if self.images_failed {
                    // Once may be chance (`StartGarbageCollection`).
                    self.event("ImageGCFailed", message);
                }
            }
            self.images_failed = failed.is_some();
        }
        if self.limits().await {
            return;
        }
        let Some(mut need) = need else { return };
        self.event("EvictionThresholdMet", &format!("Attempting to reclaim {}", need.resource.name()));
        if matches!(need.resource, Resource::Disk | Resource::Inodes) {
            match self.free_images_for(now).await {
                Some(still) => need = still,
                None => return,
            }
        }
        self.relieve(need).await;
    }

    fn machine(&self) -> Option<Machine> {
        let read = Machine::read(&self.context.images.root());
        read.map_err(|error| tracing::error!(%error, "failed to read what this machine has")).ok()
    }

    fn event(&self, reason: &str, message: &str) {
        self.context.cluster.event(ClusterEvent { pod: None, field_path: None, warning: true, reason, message });
    }

    // === pods ===

    /// Pods that go on.
    fn active(&self) -> Vec<PodView> {
        self.agent.views().into_iter().filter(|v| v.seen.ending.is_none() && v.seen.may_run()).collect()
    }

    /// With what they use; their directories are walked through if `disks`.
    async fn candidates(&self, views: Vec<PodView>, disks: bool) -> Vec<Candidate> {
        let context = self.context.clone();
        let told = if disks { context.engine.told_use().await } else { ToldUse::default() };
        let measure = move || {
            let one = |view: &PodView| {
                let mut sample = stats::pod_sample(&*context.engine, view);
                if disks {
                    stats::add_told(&mut sample, view, &told);
                    stats::measure(&context, &mut sample, view);
                }
                Candidate { pod: view.pod.clone(), sample }
            };
            views.iter().map(one).collect()
        };
        tokio::task::spawn_blocking(measure).await.unwrap_or_default()
    }

    fn evict(&self, victim: &Candidate, why: Why, message: String, grace: Duration) {
        let (signal, disrupted) = match why {
            Why::Pressure(resource) => (resource.signal(), true),
            Why::Limit(limit) => (limit.signal(), false),
        };
        self.context.counters.count(&counters::EVICTIONS, &[signal]);
        tracing::warn!(pod = view::describe(&victim.pod), message, "evicting a pod");
        let pod = Some(&*victim.pod);
        let event = ClusterEvent { pod, field_path: None, warning: true, reason: REASON, message: &message };
        self.context.cluster.event(event);
        let ends = Observation::Evicted { reason: REASON.into(), message, grace, disrupted };
        self.agent.tell(victim.pod.uid(), ends);
    }

    /// Ends pods that have more on disk than they may. Whether there were any.
    async fn limits(&mut self) -> bool {
        let mut watched = Watched::new();
        let mut views = self.active();
        views.retain(|v| {
            let of_pod = self.context.volumes.watched(&v.pod);
            let looks = has_disk_limit(&v.pod) || !of_pod.is_empty();
            watched.insert(v.pod.uid().to_owned(), of_pod);
            looks
        });
        if views.is_empty() {
            self.oversized.clear();
            return false;
        }
        let mut any = false;
        let candidates = self.candidates(views, true).await;
        self.tell_of_sizes(&candidates, &watched);
        for candidate in candidates {
            if let Some((limit, message)) = over_limit(&candidate).filter(|_| !is_critical(&candidate.pod)) {
                self.evict(&candidate, Why::Limit(limit), message, IMMEDIATELY);
                any = true;
            }
        }
        any
    }

    /// Evicting a pod would not make its volume smaller, so who looks after it is told, once until it is small again.
    fn tell_of_sizes(&mut self, candidates: &[Candidate], watched: &Watched) {
        let mut now = BTreeSet::new();
        for (candidate, sizes) in candidates.iter().filter_map(|c| Some((c, watched.get(c.pod.uid())?))) {
            let pod = &candidate.pod;
            for (volume, message) in oversized(candidate, sizes) {
                let key = (pod.uid().to_owned(), volume);
                if !self.oversized.contains(&key) {
                    let (reason, message) = ("VolumeSizeExceeded", message.as_str());
                    let event = ClusterEvent { pod: Some(pod), field_path: None, warning: true, reason, message };
                    self.context.cluster.event(event);
                }
                now.insert(key);
            }
        }
        self.oversized = now;
    }

    /// Ends one pod, unless one is on its way already.
    async fn relieve(&self, need: Need) {
        let Need { resource, threshold, available, soft } = need;
        if self.agent.views().iter().any(|v| is_leaving(&v.seen)) {
            return;
        }
        let disks = matches!(resource, Resource::Disk | Resource::Inodes);
        let candidates = self.candidates(self.active(), disks).await;
        let grace = if soft { self.context.config.eviction.max_pod_grace } else { IMMEDIATELY };
        match next_victim(&candidates, resource) {
            Some(victim) => {
                let message = message(victim, resource, threshold, available);
                self.evict(victim, Why::Pressure(resource), message, grace);
            }
            None => {
                tracing::warn!(resource = resource.name(), "the node is low on a resource, and no pod can be evicted")
            }
        }
    }

    // === images ===

    async fn look_at_images(&mut self, now: Timestamp) {
        let (images, pulls) = (&self.context.images, &self.context.pulls);
        let mut gone = pulls.known();
        match tokio::try_join!(images.list(), images.in_use()) {
            Ok((all, mut in_use)) => {
                // A foreign runtime tells only of images that containers run from.
                let containers = self.active();
                let containers = containers.iter().flat_map(|v| v.seen.containers.values());
                in_use.extend(containers.flat_map(|c| c.volume_images.iter().cloned()));
                self.images.look(&all, &in_use, now);
                gone.retain(|id| !all.iter().any(|image| image.id == *id));
                pulls.forget(&gone).await;
            }
            Err(error) => tracing::warn!(error = %base::chain(&error), "failed to list images"),
        }
    }

    /// Images that workloads may want again, and others.
    async fn images(&self) -> (Vec<Image>, Vec<Image>) {
        let images = self.context.images.list().await.unwrap_or_default();
        images.into_iter().partition(|image| self.revisions.need(image))
    }

    /// Removes unused images that no workload needs until so much is freed; tells how much it was.
    async fn free_images(&mut self, bytes: u64, now: Timestamp) -> u64 {
        self.look_at_images(now).await;
        let (_, others) = self.images().await;
        let (ids, _) = self.images.plan(&others, bytes, now);
        self.remove_images(ids).await
    }

    /// Removes unused images before a pod has to go, and those that workloads need one by one, after all others. What is still
    /// needed then.
    async fn free_images_for(&mut self, now: Timestamp) -> Option<Need> {
        self.free_images(u64::MAX, now).await;
        let (needed, _) = self.images().await;
        let mut last = self.images.plan(&needed, u64::MAX, now).0.into_iter();
        loop {
            // A machine that cannot be read needs nothing that we could know of.
            let machine = self.machine()?;
            let still = self.tracker.look(&self.context.config.eviction, &machine, now).1?;
            if !matches!(still.resource, Resource::Disk | Resource::Inodes) {
                return Some(still);
            }
            let Some(id) = last.next() else { return Some(still) };
            self.remove_images(vec![id]).await;
        }
    }

    async fn remove_images(&self, ids: Vec<String>) -> u64 {
        let mut freed = 0;
        for id in ids {
            match self.context.images.remove(&id).await {
                Ok(bytes) => {
                    tracing::info!(image = id, bytes, "removed an unused image");
                    // None is removed for its age.
                    self.context.counters.count(&counters::IMAGES_REMOVED, &["space"]);
                    freed += bytes;
                }
                Err(error) => tracing::warn!(image = id, error = %base::chain(&error), "failed to remove an image"),
            }
        }
        freed
    }

    /// Looks at the images, and frees the disk of those that are not used if it is too full.
    async fn care_for_images(&mut self, machine: &Machine, now: Timestamp) -> Result<(), image_gc::Failure> {
        match image_gc::to_free(machine.disk, machine.disk_available)? {
            0 => self.look_at_images(now).await,
            bytes => {
                let freed = self.free_images(bytes, now).await;
                image_gc::judge(machine, bytes, freed)?;
            }
        }
        Ok(())
    }
}

/// Whether a pod was evicted and something of it may still run: it is about to give back what others need. A driver that does not
/// undo its claims would let the others wait in vain.
fn is_leaving(seen: &Seen) -> bool {
    seen.has_processes() && matches!(&seen.ending, Some(Ending::Failed { reason, .. }) if reason == REASON)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture;
    use crate::pod::seen::{Claims, Sandbox};
    use crate::stats::{ContainerSample, VolumeSample};

    fn candidate(name: &str, spec: &str, memory: u64) -> Candidate {
        let mut pod = fixture::pod(spec);
        pod.metadata.name = Some(name.into());
        let usage = runtime::Stats { memory_working_set: memory, ..Default::default() };
        let containers = vec![ContainerSample { name: "a".into(), usage: usage.clone(), ..ContainerSample::default() }];
        Candidate { pod: Arc::new(pod), sample: PodSample { usage, containers, ..PodSample::default() } }
    }

    fn memory(name: &str, request: &str, priority: i32, used: u64) -> Candidate {
        let spec = format!(
            r#"{{"priority":{priority},"containers":[{{"name":"a","resources":{{"requests":{{"memory":"{request}"}}}}}}]}}"#
        );
        candidate(name, &spec, used)
    }

    fn check_victim(candidates: &[Candidate], want: Option<&str>) {
        let got = next_victim(candidates, Resource::Memory).map(|c| c.pod.name().to_owned());
        assert_eq!(got.as_deref(), want);
    }

    #[test]
    fn whoever_takes_more_than_asked_goes_first_then_the_least_important() {
        let modest = memory("modest", "100Mi", 0, 90 << 20);
        let greedy = memory("greedy", "10Mi", 5, 90 << 20);
        let greedier = memory("greedier", "10Mi", 5, 95 << 20);
        let lowly = memory("lowly", "10Mi", 1, 11 << 20);
        let critical = memory("critical", "1Mi", 2_000_000_000, 1 << 30);
        check_victim(&[modest.clone(), greedy.clone(), critical.clone()], Some("greedy"));
        check_victim(&[greedy.clone(), greedier.clone()], Some("greedier"));
        check_victim(&[greedy, greedier, lowly], Some("lowly"));
        check_victim(&[modest, critical.clone()], Some("modest"));
        check_victim(&[critical], None);
    }

    #[test]
    fn an_evicted_pod_is_leaving_until_its_processes_are_gone() {
        let ending = Some(Ending::Failed { reason: REASON.into(), message: String::new() });
        let mut seen = Seen { sandbox: Sandbox::Ready { id: "s".into() }, claims: Claims::Prepared, ..Seen::default() };
        assert!(!is_leaving(&seen), "nobody evicted it");
        seen.ending = ending;
        assert!(is_leaving(&seen));
        seen.sandbox = Sandbox::Stopped { id: "s".into() };
        seen.claims = Claims::Undoing;
        assert!(seen.may_run() && !is_leaving(&seen), "its driver is away, and others can be evicted all the same");
    }

    #[test]
    fn the_message_names_who_took_more() {
        let text = message(&memory("greedy", "10Mi", 0, 90 << 20), Resource::Memory, 100 << 20, 50 << 20);
        assert_eq!(
            text,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container a was using 90Mi, \
             request is 10Mi, has larger consumption of memory. "
        );
    }

    #[test]
    fn volumes_that_outgrow_their_size_are_told_of() {
        let mut c = candidate("p", r#"{"containers":[{"name":"a"}]}"#, 0);
        let used = DiskUse { bytes: 1500, inodes: 1 };
        let space = crate::stats::disk::Space::default();
        let volume = |name: &str| VolumeSample { name: name.into(), claim: None, used, space, ephemeral: false };
        c.sample.volumes = vec![volume("big"), volume("small"), volume("other")];
        let watched = BTreeMap::from([("big".to_owned(), 1000), ("small".to_owned(), 1500), ("gone".to_owned(), 1)]);
        let told: Vec<String> = oversized(&c, &watched).into_values().collect();
        assert_eq!(told, ["volume \"big\" takes 1500 bytes, 500 more than its size"]);
    }

    #[test]
    fn disk_limits_of_volumes_pods_and_containers() {
        let used = DiskUse { bytes: 2 << 20, inodes: 1 };
        let with = |spec: &str| {
            let mut c = candidate("p", spec, 0);
            c.sample.containers[0].rootfs = Some(used);
            let space = crate::stats::disk::Space::default();
            c.sample.volumes = vec![VolumeSample { name: "v".into(), claim: None, used, space, ephemeral: true }];
            over_limit(&c).map(|(_, text)| text).unwrap_or_default()
        };
        let limit = |n: &str| format!(r#"{{"limits":{{"ephemeral-storage":"{n}"}}}}"#);
        assert_eq!(
            with(r#"{"volumes":[{"name":"v","emptyDir":{"sizeLimit":"1Mi"}}],"containers":[{"name":"a"}]}"#),
            "Usage of EmptyDir volume \"v\" exceeds the limit \"1Mi\". "
        );
        assert_eq!(
            with(&format!(r#"{{"containers":[{{"name":"a","resources":{}}}]}}"#, limit("3Mi"))),
            "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "
        );
        let two = format!(
            r#"{{"containers":[{{"name":"a","resources":{}}},{{"name":"b","resources":{}}}]}}"#,
            limit("1Mi"),
            limit("9Mi")
        );
        assert_eq!(with(&two), "Container a exceeded its local ephemeral storage limit \"1Mi\". ");
        assert_eq!(with(r#"{"containers":[{"name":"a"}]}"#), "");
    }
}
