//! Processors for one container alone: the kubelet's CPU manager (`pkg/kubelet/cm/cpumanager/{policy_static,cpu_assignment}.go`).
//!
//! With policy `static` a container of a Guaranteed pod that asks for whole processors gets them for itself; all others share the
//! rest. [`take`] decides which ones; what is given is in `cpu_manager_state`, in upstream's shape, before the pod is taken. Differs:
//! no policy options and one NUMA node; no checksum in the file.

use crate::agent::AgentHandle;
use crate::context::Context;
use crate::engine::{Engine, Resources};
use crate::pod::spec::resources::{Qos, pod_cgroup_path, qos_class};
use crate::pod::view;
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use machinery::quantity::Quantity;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// `cpuManagerReconcilePeriod`
const PERIOD: Duration = Duration::from_secs(10);
const FILE: &str = "cpu_manager_state";

/// Processors, written like `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CpuSet(pub BTreeSet<u32>);

impl FromStr for CpuSet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let bad = |part: &str| format!("{part:?} is not a list of processors like 0-3,8");
        let mut out = BTreeSet::new();
        for part in text.trim().split(',').filter(|p| !p.is_empty()) {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            let (from, to): (u32, u32) = from
                .parse()
                .ok()
                .zip(to.parse().ok())
                .filter(|(f, t)| f <= t && *t < 1 << 16)
                .ok_or_else(|| bad(part))?;
            out.extend(from..=to);
        }
        Ok(CpuSet(out))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for cpu in &self.0 {
            match ranges.last_mut() {
                Some((_, to)) if *to + 1 == *cpu => *to = *cpu,
                _ => ranges.push((*cpu, *cpu)),
            }
        }
        let shown = |(from, to): &(u32, u32)| if from == to { from.to_string() } else { format!("{from}-{to}") };
        f.write_str(&ranges.iter().map(shown).collect::<Vec<_>>().join(","))
    }
}

impl CpuSet {
    fn without(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.difference(&other.0).copied().collect())
    }
}

/// Who gets processors alone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Nobody.
    #[default]
    None,
    /// Who asks for whole ones.
    Static,
}

/// What the administrator says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// `--cpu-manager-policy`
    pub policy: Policy,
    /// `--reserved-cpus`: never given to one container alone, and not promised to pods.
    pub reserved: CpuSet,
}

/// Socket and core of every processor.
pub type Topology = BTreeMap<u32, (u32, u32)>;

/// Which processors to give: whole sockets, then whole cores, then what is left of cores, so that little is torn apart; none if there
/// are too few (`takeByTopologyNUMAPacked`).
pub fn take(topology: &Topology, available: &CpuSet, mut count: usize) -> Option<CpuSet> {
    let mut left = available.clone();
    let mut taken = CpuSet::default();
    if left.0.len() < count {
        return None;
    }
    let groups: [fn((u32, u32)) -> (u32, u32); 2] = [|(socket, _)| (socket, 0), |(socket, core)| (socket, core)];
    for group in groups {
        let place = |cpu: &u32| topology.get(cpu).map(|at| group(*at));
        for whole in members(topology.keys(), place).into_values() {
            if whole.len() <= count && whole.iter().all(|cpu| left.0.contains(cpu)) {
                count -= whole.len();
                left.0.retain(|cpu| !whole.contains(cpu));
                taken.0.extend(whole);
            }
        }
    }
    // From the cores of which least is left.
    let place = |cpu: &u32| topology.get(cpu).copied();
    let mut torn: Vec<Vec<u32>> = members(left.0.iter(), place).into_values().collect();
    torn.sort_by_key(Vec::len);
    taken.0.extend(torn.into_iter().flatten().take(count));
    Some(taken)
}

fn members<'a>(
    cpus: impl Iterator<Item = &'a u32>,
    place: impl Fn(&u32) -> Option<(u32, u32)>,
) -> BTreeMap<Option<(u32, u32)>, Vec<u32>> {
    let mut out: BTreeMap<Option<(u32, u32)>, Vec<u32>> = BTreeMap::new();
    for cpu in cpus {
        out.entry(place(cpu)).or_default().push(*cpu);
    }
    out
}

/// How many processors a container gets for itself (`guaranteedCPUs`).
pub fn exclusive(pod: &Pod, container: &Container) -> usize {
    let request = container.resources.as_ref().and_then(|r| r.requests.as_ref().or(r.limits.as_ref())?.get("cpu"));
    let milli = request.and_then(|q| Quantity::parse(&q.0).ok()).map_or(0, |q| q.milli_value());
    if qos_class(pod) == Qos::Guaranteed && milli % 1000 == 0 { usize::try_from(milli / 1000).unwrap_or(0) } else { 0 }
}

/// By pod and container.
type Entries = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default)]
    entries: Entries,
}

/// The processors of this node.
#[derive(Debug, Default)]
pub struct Cpus {
    settings: Settings,
    topology: Topology,
    file: PathBuf,
    given: Mutex<BTreeMap<(String, String), CpuSet>>,
    changed: Notify,
}

impl Cpus {
    /// Reads the machine, and what an earlier run gave.
    pub fn load(settings: Settings, data_dir: &Path) -> Result<Self, String> {
        if settings.policy == Policy::None {
            return Ok(Cpus::default());
        }
        let topology = topology().map_err(|e| format!("failed to read which processors there are: {e}"))?;
        if settings.reserved.0.is_empty() || settings.reserved.0.iter().any(|cpu| !topology.contains_key(cpu)) {
            let all = CpuSet(topology.keys().copied().collect());
            return Err(format!("cpu-manager-policy static needs reserved-cpus among those of this machine, {all}"));
        }
        let file = data_dir.join(FILE);
        let given = read(&file).map_err(|e| format!("failed to read {}: {e}", file.display()))?;
        Ok(Cpus { settings, topology, file, given: Mutex::new(given), changed: Notify::new() })
    }

    fn all(&self) -> CpuSet {
        CpuSet(self.topology.keys().copied().collect())
    }

    fn shared(&self, given: &BTreeMap<(String, String), CpuSet>) -> CpuSet {
        self.all().without(&CpuSet(given.values().flat_map(|set| set.0.iter().copied()).collect()))
    }

    /// Gives a pod's containers the processors that they are to have for themselves, or tells why not.
    pub fn allocate(&self, pod: &Pod) -> Result<(), String> {
        if self.settings.policy == Policy::None {
            return Ok(());
        }
        let mut given = self.given.lock();
        let before = given.clone();
        let mut reusable = CpuSet::default();
        for c in view::init_containers(pod).iter().chain(view::app_containers(pod)) {
            let key = (pod.uid().to_owned(), c.name.clone());
            let count = exclusive(pod, c);
            if count == 0 || given.contains_key(&key) {
                continue;
            }
            let mut free = self.shared(&given).without(&self.settings.reserved);
            free.0.extend(&reusable.0);
            let Some(set) = take(&self.topology, &free, count) else {
                let available = free.0.len();
                *given = before;
                return Err(format!(
                    "not enough cpus available to satisfy request: requested={count}, available={available}"
                ));
            };
            let hands_on = view::init_containers(pod).iter().any(|i| i.name == c.name && !view::is_sidecar(i));
            if hands_on {
                reusable.0.extend(&set.0);
            } else {
                reusable = reusable.without(&set);
            }
            given.insert(key, set);
        }
        if *given != before {
            self.save(&given);
        }
        Ok(())
    }

    /// Only these pods have processors for themselves.
    pub fn retain(&self, pods: impl Fn(&str) -> bool) {
        let mut given = self.given.lock();
        let before = given.len();
        given.retain(|(pod, _), _| pods(pod));
        if given.len() != before {
            self.save(&given);
        }
    }

    /// On which processors a container runs; `None` if nobody cares.
    pub fn of(&self, pod: &str, container: &str) -> Option<String> {
        if self.settings.policy == Policy::None {
            return None;
        }
        let given = self.given.lock();
        let own = given.get(&(pod.to_owned(), container.to_owned())).cloned();
        Some(own.unwrap_or_else(|| self.shared(&given)).to_string())
    }

    /// The processors that a container has for itself.
    pub fn alone(&self, pod: &str, container: &str) -> Vec<i64> {
        let given = self.given.lock();
        let own = given.get(&(pod.to_owned(), container.to_owned()));
        own.into_iter().flat_map(|set| set.0.iter().map(|cpu| i64::from(*cpu))).collect()
    }

    /// Those that containers could have for themselves.
    pub fn allocatable(&self) -> Vec<i64> {
        self.all().without(&self.settings.reserved).0.into_iter().map(i64::from).collect()
    }

    fn save(&self, given: &BTreeMap<(String, String), CpuSet>) {
        let mut state = State {
            policy_name: "static".into(),
            default_cpu_set: self.shared(given).to_string(),
            entries: Entries::new(),
        };
        for ((pod, container), set) in given {
            state.entries.entry(pod.clone()).or_default().insert(container.clone(), set.to_string());
        }
        let temporary = self.file.with_extension("tmp");
        let written = serde_json::to_vec(&state).map_err(io::Error::from);
        let written = written.and_then(|text| std::fs::write(&temporary, text));
        if let Err(error) = written.and_then(|()| std::fs::rename(&temporary, &self.file)) {
            tracing::error!(file = %self.file.display(), %error, "failed to save who has which processors");
        }
        self.changed.notify_one();
    }
}

fn read(file: &Path) -> io::Result<BTreeMap<(String, String), CpuSet>> {
    let state: State = match std::fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        other => serde_json::from_slice(&other?)?,
    };
    let of = |(pod, containers): (String, BTreeMap<String, String>)| {
        containers.into_iter().map(move |(container, set)| {
            set.parse().map(|set| ((pod.clone(), container), set)).map_err(io::Error::other)
        })
    };
    state.entries.into_iter().flat_map(of).collect()
}

/// From `/sys/devices/system/cpu`.
fn topology() -> io::Result<Topology> {
    let root = Path::new("/sys/devices/system/cpu");
    let online: CpuSet = std::fs::read_to_string(root.join("online"))?.parse().map_err(io::Error::other)?;
    let place = |cpu: u32| {
        let number = |name: &str| {
            let text = std::fs::read_to_string(root.join(format!("cpu{cpu}/topology/{name}"))).ok()?;
            text.trim().parse().ok()
        };
        // A machine that does not tell has one socket, and no core with two processors.
        (cpu, (number("physical_package_id").unwrap_or(0), number("core_id").unwrap_or(cpu)))
    };
    Ok(online.0.into_iter().map(place).collect())
}

/// Moves running containers to the processors that they are to have, whenever that changes, until `shutdown`.
pub async fn run(agent: AgentHandle, context: Arc<Context>, shutdown: CancellationToken) {
    if context.cpus.settings.policy == Policy::None {
        return;
    }
    let mut last: BTreeMap<String, String> = BTreeMap::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = context.cpus.changed.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
        let mut now = BTreeMap::new();
        for view in agent.views() {
            for (name, c) in &view.seen.containers {
                let (Some(run), Some(set)) = (c.running(), context.cpus.of(view.pod.uid(), name)) else { continue };
                now.insert(format!("{}/{}", pod_cgroup_path(&view.pod), run.id), set);
            }
        }
        last = move_all(&*context.engine, now, &last).await;
    }
}

/// Moves cgroups to their processors, but for those that are there since `last`. Returns which are there now: what failed is
/// not among them, and is tried again.
async fn move_all(
    engine: &dyn Engine,
    wanted: BTreeMap<String, String>,
    last: &BTreeMap<String, String>,
) -> BTreeMap<String, String> {
    let mut there = BTreeMap::new();
    for (cgroup, set) in wanted {
        if last.get(&cgroup) != Some(&set) {
            let resources = Resources { cpuset: Some(set.clone()), ..Resources::default() };
            if let Err(error) = engine.update(&cgroup, &resources).await {
                tracing::warn!(cgroup, set, error = %base::chain(&error), "failed to move a container to its processors");
                continue;
            }
        }
        there.insert(cgroup, set);
    }
    there
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::testing::FakeEngine;

    fn set(text: &str) -> CpuSet {
        text.parse().expect("a list")
    }

    /// Two sockets of two cores of two threads: 0 and 4 are one core.
    fn two_sockets() -> Topology {
        (0..8).map(|cpu| (cpu, (cpu % 4 / 2, cpu % 4))).collect()
    }

    #[test]
    fn lists_are_read_and_written() {
        assert_eq!(set("0-3,8, ".trim()).0.len(), 5);
        assert_eq!(set("8,0-2,3").to_string(), "0-3,8");
        assert_eq!(set("\n").to_string(), "");
        for bad in ["x", "3-1", "0-999999999"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn little_is_torn_apart() {
        for (available, count, want) in [
            ("0-7", 4, "0-1,4-5"),
            ("0-7", 2, "0,4"),
            ("1-7", 4, "2-3,6-7"),
            ("1-7", 3, "1,4-5"),
            ("1-7", 1, "4"),
            ("1-3", 2, "1-2"),
        ] {
            assert_eq!(take(&two_sockets(), &set(available), count), Some(set(want)), "{count} of {available}");
        }
        assert_eq!(take(&two_sockets(), &set("1-3"), 4), None);
    }

    fn named(uid: &str, cpu: &str) -> Pod {
        let limits =
            format!(r#"{{"limits":{{"cpu":"{cpu}","memory":"1Gi"}},"requests":{{"cpu":"{cpu}","memory":"1Gi"}}}}"#);
        let mut pod = pod(&format!(r#"{{"containers":[{{"name":"a","resources":{limits}}}]}}"#));
        pod.metadata.uid = Some(uid.into());
        pod
    }

    #[test]
    fn whole_processors_of_guaranteed_pods_are_theirs_alone() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join(FILE);
        let settings = Settings { policy: Policy::Static, reserved: set("0") };
        let cpus = Cpus { settings, topology: two_sockets(), file: file.clone(), ..Cpus::default() };
        cpus.allocate(&named("p", "2")).expect("there are seven");
        assert_eq!(cpus.of("p", "a").as_deref(), Some("1,5"));
        assert_eq!(cpus.of("q", "a").as_deref(), Some("0,2-4,6-7"));
        cpus.allocate(&named("half", "1500m")).expect("shares");
        assert_eq!(cpus.of("half", "a").as_deref(), Some("0,2-4,6-7"));
        let error = cpus.allocate(&named("big", "6")).expect_err("five are left");
        assert_eq!(error, "not enough cpus available to satisfy request: requested=6, available=5");
        let text = std::fs::read_to_string(&file).expect("written");
        assert_eq!(text, r#"{"policyName":"static","defaultCpuSet":"0,2-4,6-7","entries":{"p":{"a":"1,5"}}}"#);
        assert_eq!(read(&file).expect("valid").into_values().collect::<Vec<_>>(), [set("1,5")]);
        cpus.retain(|_| false);
        assert_eq!(cpus.of("q", "a").as_deref(), Some("0-7"));
        assert_eq!(Cpus::default().of("q", "a"), None);
    }

    #[test]
    fn a_static_policy_needs_reserved_processors() {
        let dir = Path::new("/nowhere");
        let load = |policy, reserved: &str| Cpus::load(Settings { policy, reserved: set(reserved) }, dir);
        assert!(load(Policy::None, "").is_ok());
        assert!(load(Policy::Static, "").expect_err("is refused").contains("needs reserved-cpus"));
        assert!(load(Policy::Static, "0").is_ok());
        assert!(load(Policy::Static, "9999").is_err());
    }

    #[tokio::test]
    async fn a_container_that_could_not_be_moved_is_moved_at_the_next_look() {
        let engine = FakeEngine::default();
        let wanted = BTreeMap::from([("pods/c1".to_owned(), "2-3".to_owned())]);
        engine.refuse_updates(1);
        let there = move_all(&engine, wanted.clone(), &BTreeMap::new()).await;
        assert!(there.is_empty(), "{there:?}");
        let there = move_all(&engine, wanted.clone(), &there).await;
        assert_eq!(there, wanted);
        let moves = engine.calls().len();
        move_all(&engine, wanted, &there).await;
        assert_eq!(engine.calls().len(), moves, "what is there is left alone");
    }
}
