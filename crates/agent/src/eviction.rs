//! When the node has too little left: eviction thresholds (`pkg/kubelet/eviction/{helpers,eviction_manager}.go`,
//! `apis/config/v1beta1/defaults_linux.go`).
//!
//! Pure. The thresholds make the node's pressure conditions; the hard ones are kept out of what pods may be promised.

use crate::node::Machine;
use jiff::{SignedDuration, Timestamp};
use machinery::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::time::Duration;
use thiserror::Error;

/// Below this it is too little.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// An amount: bytes, or files.
    Amount(u64),
    /// A share of what there is, 0 to 1.
    Share(f64),
}

impl Threshold {
    /// As an amount, of a resource that has `capacity` in all.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a share of a size"
    )]
    pub fn of(self, capacity: u64) -> u64 {
        match self {
            Threshold::Amount(amount) => amount,
            Threshold::Share(share) => (capacity as f64 * share) as u64,
        }
    }
}

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// `memory`
    Memory,
    /// `ephemeral-storage`
    Disk,
    /// `inodes`
    Inodes,
    /// `pids`
    Pids,
}

impl Resource {
    /// All, the most urgent first.
    pub const ALL: [Resource; 4] = [Resource::Memory, Resource::Disk, Resource::Inodes, Resource::Pids];

    /// As the API has it.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Memory => "memory",
            Resource::Disk => "ephemeral-storage",
            Resource::Inodes => "inodes",
            Resource::Pids => "pids",
        }
    }

    /// The kubelet's eviction signal; `imagefs` means the same file system as `nodefs` here.
    pub(crate) fn signal(self) -> &'static str {
        match self {
            Resource::Memory => "memory.available",
            Resource::Disk => "nodefs.available",
            Resource::Inodes => "nodefs.inodesFree",
            Resource::Pids => "pid.available",
        }
    }

    /// How much is left, and of how much.
    fn of(self, machine: &Machine) -> (u64, u64) {
        match self {
            Resource::Memory => (machine.memory_available, machine.memory),
            Resource::Disk => (machine.disk_available, machine.disk),
            Resource::Inodes => (machine.inodes_free, machine.inodes),
            Resource::Pids => (machine.tasks.0.saturating_sub(machine.tasks.1), machine.tasks.0),
        }
    }
}

/// Something for each signal that is named.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Signals<T> {
    /// `memory.available`
    pub memory: Option<T>,
    /// `nodefs.available`
    pub disk: Option<T>,
    /// `nodefs.inodesFree`
    pub inodes: Option<T>,
    /// `pid.available`
    pub pids: Option<T>,
}

impl<T> Default for Signals<T> {
    fn default() -> Self {
        Signals { memory: None, disk: None, inodes: None, pids: None }
    }
}

impl<T: Copy> Signals<T> {
    /// That of one resource.
    pub fn get(&self, resource: Resource) -> Option<T> {
        match resource {
            Resource::Memory => self.memory,
            Resource::Disk => self.disk,
            Resource::Inodes => self.inodes,
            Resource::Pids => self.pids,
        }
    }

    fn slot(&mut self, resource: Resource) -> &mut Option<T> {
        match resource {
            Resource::Memory => &mut self.memory,
            Resource::Disk => &mut self.disk,
            Resource::Inodes => &mut self.inodes,
            Resource::Pids => &mut self.pids,
        }
    }

    /// `memory.available<100Mi,nodefs.available<10%`, with whatever stands between signal and value.
    fn read(text: &str, between: char, value: impl Fn(&str) -> Result<T, SignalError>) -> Result<Self, SignalError> {
        let mut out = Self::default();
        for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (signal, given) =
                part.split_once(between).ok_or_else(|| SignalError::Form { part: part.to_owned(), between })?;
            let resource = Resource::ALL.into_iter().find(|r| r.signal() == signal.trim());
            let resource = resource.ok_or_else(|| SignalError::Signal(signal.trim().to_owned()))?;
            *out.slot(resource) = Some(value(given.trim())?);
        }
        Ok(out)
    }
}

/// The kubelet's `evictionHard` or `evictionSoft`. A signal that is not named is not watched, as there.
pub type Thresholds = Signals<Threshold>;

/// Upstream's defaults for Linux.
pub const DEFAULT: Thresholds = Signals {
    memory: Some(Threshold::Amount(100 << 20)),
    disk: Some(Threshold::Share(0.10)),
    inodes: Some(Threshold::Share(0.05)),
    pids: None,
};

/// When pods are ended, and how gently.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Below these at once, without grace.
    pub hard: Thresholds,
    /// Below these after a while.
    pub soft: Thresholds,
    /// For each of the soft ones: that while.
    pub soft_grace: Signals<SignedDuration>,
    /// A pod that a soft threshold ends has at most so long to stop (`evictionMaxPodGracePeriod`).
    pub max_pod_grace: Duration,
    /// So much more than the threshold is reclaimed, once one is met (`evictionMinimumReclaim`).
    pub minimum_reclaim: Signals<Threshold>,
    /// A condition stays for this long after its cause (`evictionPressureTransitionPeriod`).
    pub transition: SignedDuration,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            hard: DEFAULT,
            soft: Signals::default(),
            soft_grace: Signals::default(),
            max_pod_grace: Duration::ZERO,
            minimum_reclaim: Signals::default(),
            transition: SignedDuration::from_mins(5),
        }
    }
}

impl Policy {
    /// Of so much memory, what pods are not promised.
    pub fn memory_kept_free(&self, all: u64) -> u64 {
        self.hard.memory.map_or(0, |threshold| threshold.of(all))
    }
}

/// The settings as texts, under the names of the kubelet's flags.
#[derive(Debug, Clone, Copy, Default)]
pub struct PolicyTexts<'a> {
    /// `--eviction-hard`
    pub hard: Option<&'a str>,
    /// `--eviction-soft`
    pub soft: Option<&'a str>,
    /// `--eviction-soft-grace-period`
    pub soft_grace: Option<&'a str>,
    /// `--eviction-max-pod-grace-period`, seconds.
    pub max_pod_grace: Option<u32>,
    /// `--eviction-minimum-reclaim`
    pub minimum_reclaim: Option<&'a str>,
    /// `--eviction-pressure-transition-period`
    pub transition: Option<&'a str>,
}

impl PolicyTexts<'_> {
    /// What they mean, or every mistake (`ParseThresholdConfig`).
    pub fn read(self) -> Result<Policy, Vec<String>> {
        let mut mistakes = Vec::new();
        let hard = self.hard.map_or(Ok(DEFAULT), |t| Signals::read(t, '<', str::parse));
        let hard = kept("eviction-hard", hard, &mut mistakes);
        let soft = Signals::read(self.soft.unwrap_or_default(), '<', str::parse);
        let soft = kept("eviction-soft", soft, &mut mistakes);
        let soft_grace = Signals::read(self.soft_grace.unwrap_or_default(), '=', period);
        let soft_grace = kept("eviction-soft-grace-period", soft_grace, &mut mistakes);
        let minimum_reclaim = Signals::read(self.minimum_reclaim.unwrap_or_default(), '=', str::parse);
        let minimum_reclaim = kept("eviction-minimum-reclaim", minimum_reclaim, &mut mistakes);
        let transition = self.transition.map_or(Ok(Policy::default().transition), period);
        let transition = transition.map_err(|e| mistakes.push(format!("eviction-pressure-transition-period: {e}")));
        for resource in Resource::ALL {
            if soft.get(resource).is_some() && soft_grace.get(resource).is_none() {
                mistakes.push(format!(
                    "eviction-soft: grace period must be specified for the soft eviction threshold {}",
                    resource.signal()
                ));
            }
        }
        let max_pod_grace = Duration::from_secs(self.max_pod_grace.unwrap_or_default().into());
        match transition {
            Ok(transition) if mistakes.is_empty() => {
                Ok(Policy { hard, soft, soft_grace, max_pod_grace, minimum_reclaim, transition })
            }
            _ => Err(mistakes),
        }
    }
}

fn kept<T>(flag: &str, read: Result<Signals<T>, SignalError>, mistakes: &mut Vec<String>) -> Signals<T> {
    read.unwrap_or_else(|error| {
        mistakes.push(format!("{flag}: {error}"));
        Signals::default()
    })
}

fn period(text: &str) -> Result<SignedDuration, SignalError> {
    let nanos = machinery::schema::parse_go_duration(text).filter(|nanos| *nanos >= 0);
    nanos.map(SignedDuration::from_nanos).ok_or_else(|| SignalError::Period(text.to_owned()))
}

/// What is wrong with a text.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum SignalError {
    /// Not `signal<value` or `signal=value`.
    #[error("{part:?} is not of the form SIGNAL{between}VALUE, like memory.available<100Mi")]
    Form {
        /// The text.
        part: String,
        /// What it lacks.
        between: char,
    },
    /// A signal that is not watched.
    #[error(
        "unsupported eviction signal {0:?}: memory.available, nodefs.available, nodefs.inodesFree and pid.available are watched"
    )]
    Signal(String),
    /// Neither a quantity nor a share.
    #[error("{0:?} is neither a quantity like 100Mi nor a share like 10%")]
    Value(String),
    /// Not a time.
    #[error("{0:?} is not a duration like 1m30s")]
    Period(String),
}

impl FromStr for Threshold {
    type Err = SignalError;
    fn from_str(text: &str) -> Result<Self, SignalError> {
        let bad = || SignalError::Value(text.to_owned());
        if let Some(percent) = text.strip_suffix('%') {
            let percent: f64 = percent.parse().map_err(|_| bad())?;
            return if (0.0..=100.0).contains(&percent) { Ok(Threshold::Share(percent / 100.0)) } else { Err(bad()) };
        }
        let quantity = Quantity::parse(text).map_err(|_| bad())?;
        u64::try_from(quantity.value()).map(Threshold::Amount).map_err(|_| bad())
    }
}

impl Thresholds {
    /// As the kubelet's configuration shows them.
    pub fn shown(&self) -> BTreeMap<&'static str, String> {
        let shown = |threshold: Threshold| match threshold {
            Threshold::Amount(amount) => amount.to_string(),
            Threshold::Share(share) => format!("{}%", share * 100.0),
        };
        Resource::ALL.into_iter().filter_map(|r| Some((r.signal(), shown(self.get(r)?)))).collect()
    }
}

/// What there is too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Pressure {
    /// Memory.
    pub memory: bool,
    /// Space or files of the disk.
    pub disk: bool,
    /// Tasks.
    pub pids: bool,
}

impl Pressure {
    /// What either says.
    #[must_use]
    pub fn or(self, other: Pressure) -> Pressure {
        Pressure { memory: self.memory || other.memory, disk: self.disk || other.disk, pids: self.pids || other.pids }
    }

    /// The node's conditions.
    pub fn conditions(self) -> Vec<&'static str> {
        let all = [("MemoryPressure", self.memory), ("DiskPressure", self.disk), ("PIDPressure", self.pids)];
        all.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect()
    }
}

impl Pressure {
    fn of(resources: impl Iterator<Item = Resource>) -> Pressure {
        resources.fold(Pressure::default(), |mut all, resource| {
            match resource {
                Resource::Memory => all.memory = true,
                Resource::Disk | Resource::Inodes => all.disk = true,
                Resource::Pids => all.pids = true,
            }
            all
        })
    }
}

/// One threshold of a policy.
#[derive(Debug, Clone, Copy)]
struct Rule {
    resource: Resource,
    threshold: Threshold,
    /// None for hard ones.
    grace: Option<SignedDuration>,
    reclaim: Option<Threshold>,
}

impl Rule {
    /// The threshold, and what is left, if that is less; with `reclaim` if it is not yet so much more as is to be reclaimed.
    fn met(&self, machine: &Machine, reclaim: bool) -> Option<(u64, u64)> {
        let (available, capacity) = self.resource.of(machine);
        let threshold = self.threshold.of(capacity);
        let more = self.reclaim.filter(|_| reclaim).map_or(0, |r| r.of(capacity));
        (capacity > 0 && available < threshold.saturating_add(more)).then_some((threshold, available))
    }
}

/// The hard ones of a resource before its soft ones.
fn rules(policy: &Policy) -> Vec<Rule> {
    let of = |resource: Resource| {
        let reclaim = policy.minimum_reclaim.get(resource);
        let rule = |threshold, grace| Rule { resource, threshold, grace, reclaim };
        let soft = policy.soft.get(resource).zip(policy.soft_grace.get(resource));
        [policy.hard.get(resource).map(|t| rule(t, None)), soft.map(|(t, grace)| rule(t, Some(grace)))]
    };
    Resource::ALL.into_iter().flat_map(of).flatten().collect()
}

/// Compares the machine with the thresholds.
pub fn pressure(policy: &Policy, machine: &Machine) -> Pressure {
    Pressure::of(rules(policy).iter().filter(|r| r.met(machine, false).is_some()).map(|r| r.resource))
}

/// What is to be reclaimed now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Of what.
    pub resource: Resource,
    /// What should be left.
    pub threshold: i64,
    /// What is left.
    pub available: i64,
    /// Only a soft threshold says so.
    pub soft: bool,
}

/// What earlier looks at the machine have seen (`managerImpl`).
#[derive(Debug, Default)]
pub struct Tracker {
    /// For the rules that are met, by their place: since when.
    since: BTreeMap<usize, Timestamp>,
    /// Those of them whose grace is over.
    due: BTreeSet<usize>,
    last_seen: LastSeen,
}

impl Tracker {
    /// Looks once: what the node is under, or was a moment ago, and what has to be done about it.
    pub fn look(&mut self, policy: &Policy, machine: &Machine, now: Timestamp) -> (Pressure, Option<Need>) {
        let rules = rules(policy);
        let met: BTreeMap<usize, (u64, u64)> = rules
            .iter()
            .enumerate()
            .filter_map(|(at, rule)| Some((at, rule.met(machine, self.due.contains(&at))?)))
            .collect();
        self.since.retain(|at, _| met.contains_key(at));
        for at in met.keys() {
            self.since.entry(*at).or_insert(now);
        }
        let over = |at: &usize| rules[*at].grace.is_none_or(|grace| now.duration_since(self.since[at]) >= grace);
        self.due = met.keys().copied().filter(over).collect();
        let held = self.last_seen.held(Pressure::of(met.keys().map(|at| rules[*at].resource)), policy.transition, now);
        let need = self.due.first().map(|at| {
            let (threshold, available) = met[at];
            let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            let rule = &rules[*at];
            let (resource, soft) = (rule.resource, rule.grace.is_some());
            Need { resource, threshold: number(threshold), available: number(available), soft }
        });
        (held, need)
    }
}

/// When each pressure was last seen.
#[derive(Debug, Default)]
struct LastSeen {
    memory: Option<Timestamp>,
    disk: Option<Timestamp>,
    pids: Option<Timestamp>,
}

impl LastSeen {
    /// What is under pressure, or was a moment ago.
    fn held(&mut self, pressure: Pressure, transition: SignedDuration, now: Timestamp) -> Pressure {
        let hold = |seen: &mut Option<Timestamp>, is: bool| {
            if is {
                *seen = Some(now);
            }
            is || seen.is_some_and(|at| now.duration_since(at) < transition)
        };
        Pressure {
            memory: hold(&mut self.memory, pressure.memory),
            disk: hold(&mut self.disk, pressure.disk),
            pids: hold(&mut self.pids, pressure.pids),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hard(text: &str) -> Result<Thresholds, String> {
        let read = PolicyTexts { hard: Some(text), ..PolicyTexts::default() }.read();
        read.map(|p| p.hard).map_err(|mistakes| mistakes.join("; "))
    }

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        assert_eq!(hard("memory.available<100Mi, nodefs.available<10%,nodefs.inodesFree<5%"), Ok(DEFAULT));
        let some = hard("nodefs.available<1Gi").expect("valid");
        assert_eq!((some.disk, some.memory), (Some(Threshold::Amount(1 << 30)), None));
        let error = |text: &str| hard(text).expect_err("is wrong");
        assert!(error("memory").contains("SIGNAL<VALUE"));
        assert!(error("imagefs.available<1").contains("unsupported eviction signal \"imagefs.available\""));
        assert!(error("memory.available<lots").contains("\"lots\" is neither"));
        assert!(error("memory.available<101%").contains("\"101%\" is neither"));
        let soft = PolicyTexts {
            soft: Some("memory.available<1Gi,pid.available<5%"),
            soft_grace: Some("memory.available=1m30s,nodefs.available=soon"),
            transition: Some("-1s"),
            ..PolicyTexts::default()
        };
        let want = [
            "eviction-soft-grace-period: \"soon\" is not a duration like 1m30s",
            "eviction-pressure-transition-period: \"-1s\" is not a duration like 1m30s",
            "eviction-soft: grace period must be specified for the soft eviction threshold memory.available",
            "eviction-soft: grace period must be specified for the soft eviction threshold pid.available",
        ];
        assert_eq!(soft.read().expect_err("is wrong"), want);
    }

    fn machine(disk_available: u64, memory_available: u64) -> Machine {
        Machine { disk: 100, disk_available, memory: 1 << 30, memory_available, ..Machine::default() }
    }

    #[test]
    fn pressure_begins_below_the_threshold() {
        let of = |m: &Machine| pressure(&Policy::default(), m);
        assert_eq!(of(&machine(10, 100 << 20)), Pressure::default());
        assert_eq!(of(&machine(9, 99 << 20)), Pressure { memory: true, disk: true, pids: false });
        assert_eq!(
            pressure(&Policy { hard: Signals::default(), ..Policy::default() }, &machine(0, 0)),
            Pressure::default()
        );
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    #[test]
    fn pressure_is_held_for_a_while() {
        let mut tracker = Tracker::default();
        let mut held = |m: &Machine, s: i64| tracker.look(&Policy::default(), m, at(s)).0;
        let memory = Pressure { memory: true, ..Pressure::default() };
        assert_eq!(held(&machine(50, 1), 0), memory);
        assert_eq!(held(&machine(50, 1 << 30), 299), memory);
        assert_eq!(held(&machine(50, 1 << 30), 300), Pressure::default());
    }

    #[test]
    fn soft_thresholds_wait_and_hard_ones_do_not() {
        let texts = PolicyTexts {
            hard: Some("nodefs.available<10"),
            soft: Some("nodefs.available<20"),
            soft_grace: Some("nodefs.available=1m"),
            minimum_reclaim: Some("nodefs.available=5"),
            ..PolicyTexts::default()
        };
        let policy = texts.read().expect("valid");
        let mut tracker = Tracker::default();
        let mut need = |left: u64, s: i64| {
            let (pressure, need) = tracker.look(&policy, &machine(left, 1), at(s));
            assert_eq!(pressure.disk, left < 26);
            need.map(|n| (n.threshold, n.available, n.soft))
        };
        assert_eq!(need(30, 0), None);
        assert_eq!(need(19, 10), None);
        assert_eq!(need(9, 20), Some((10, 9, false)), "a hard one at once");
        assert_eq!(need(14, 30), Some((10, 14, false)), "until some more is reclaimed");
        assert_eq!(need(15, 40), None);
        assert_eq!(need(19, 70), Some((20, 19, true)), "a soft one after its grace");
        assert_eq!(need(24, 80), Some((20, 24, true)));
        assert_eq!(need(25, 90), None);
        assert_eq!(need(19, 100), None, "and the grace begins anew");
    }
}
