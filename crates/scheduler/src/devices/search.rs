//! The search for devices (`structured/internal/incubating/allocator_incubating.go`): claim by claim, request by request,
//! device by device, back to where there was a choice when there is no way on. The first solution is taken.
//!
//! Of a request's devices only combinations are tried, not orders. What all searches of one decision may do is limited
//! ([`Effort`]), where upstream limits the time of each (`DRASchedulerFilterTimeout`).

use super::capacity::{self, Capacity};
use super::constraints::Constraint;
use super::counters::Counters;
use super::pools::{self, Pool, State};
use super::request::{Ask, Mode, Wanted};
use super::{DeviceId, Devices, Slice, View, result};
use crate::snapshot::NodeInfo;
use api::k8s::api::resource::v1::{AllocationResult, Device, DeviceTaint};
use api::meta::MetaExt;
use machinery::cel::device::Selector;
use machinery::selector::tolerates;
use std::collections::{BTreeMap, BTreeSet};

/// Devices that one claim may have (`AllocationResultsMaxSize`).
const MAX_RESULTS: usize = 32;
/// Devices that all claims of a pod may get: the search goes as deep, and the stack has an end.
const MAX_DEPTH: usize = 8 * MAX_RESULTS;
/// How often the searches of one decision may try a device: a second, as other pods wait meanwhile.
const MAX_TRIES: usize = 1_000_000;
/// What evaluations of selectors may cost in one decision: seconds, as a million is a tenth of one.
const MAX_COST: u64 = 20_000_000;

/// Why there are no devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Not all claims get what they want from this node.
    NotEnough,
    /// Nor is it known what there is, as pools of the node contradict themselves.
    InvalidPools,
    /// Something is wrong with a claim, a class or a slice: somebody must mend it.
    Broken(String),
    /// The search was given up.
    TooLong,
}

/// What the searches of one decision have done.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Effort {
    tries: usize,
    /// Of selectors.
    cost: u64,
}

impl Effort {
    /// Whether there may be more.
    fn check(&self) -> Result<(), Failure> {
        if self.tries > MAX_TRIES || self.cost > MAX_COST { Err(Failure::TooLong) } else { Ok(()) }
    }

    fn try_one(&mut self) -> Result<(), Failure> {
        self.tries += 1;
        self.check()
    }
}

/// What each claim gets on a node.
pub(crate) fn allocate(
    devices: &Devices,
    wanted: &[&Wanted],
    node: &NodeInfo,
    effort: &mut Effort,
) -> Result<Vec<AllocationResult>, Failure> {
    effort.check()?;
    let pools = pools::gather(devices, node).map_err(|why| broken(format!("gather pool information: {why}")))?;
    let invalid = pools.iter().any(|pool| pool.state == State::Invalid);
    let mut search = Search::new(devices, wanted, node, pools, effort);
    (0..wanted.len()).try_for_each(|claim| search.prepare(claim))?;
    match search.place_request(0, 0) {
        Ok(true) => Ok(wanted.iter().enumerate().map(|(i, w)| result::of(w, &search.picked[i], node)).collect()),
        Ok(false) | Err(Stop::TooMany) if invalid => Err(Failure::InvalidPools),
        Ok(false) | Err(Stop::TooMany) => Err(Failure::NotEnough),
        Err(Stop::Failed(failure)) => Err(failure),
    }
}

fn broken(why: impl Into<String>) -> Failure {
    Failure::Broken(why.into())
}

/// A device that may be taken.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    /// Its place in the order in which devices are tried.
    index: usize,
    pool: usize,
    slice: &'a Slice,
    view: &'a View,
    device: &'a Device,
}

/// A device that a claim gets.
#[derive(Debug)]
pub(super) struct Picked<'a> {
    pub(super) ask: &'a Ask,
    pub(super) view: &'a View,
    pub(super) slice: &'a Slice,
    pub(super) device: &'a Device,
    /// What is consumed of a device that several may have.
    pub(super) share: Option<Capacity>,
    pool: usize,
    counted: bool,
}

/// The next device to look for.
#[derive(Debug, Clone, Copy)]
struct At {
    claim: usize,
    request: usize,
    alternative: usize,
    device: usize,
}

/// Why a branch of the search ended, beside not having found anything.
enum Stop {
    /// The claim would have too many devices.
    TooMany,
    Failed(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Stop::Failed(failure)
    }
}

struct Search<'a, 'e> {
    devices: &'a Devices,
    wanted: &'a [&'a Wanted],
    /// By claim: the next one that requests something.
    after: Vec<Option<usize>>,
    node: &'a NodeInfo,
    pools: Vec<Pool<'a>>,
    /// Of usable pools.
    candidates: Vec<Candidate<'a>>,
    /// By claim, request and alternative: all devices that match, for those that want all.
    all: BTreeMap<(usize, usize, usize), Vec<Candidate<'a>>>,
    /// By the same and candidate.
    matches: BTreeMap<(usize, usize, usize, usize), bool>,
    /// By claim.
    constraints: Vec<Vec<Constraint<'a>>>,
    picked: Vec<Vec<Picked<'a>>>,
    /// Which claims are to get a device for themselves.
    taken: BTreeMap<&'a DeviceId, BTreeSet<usize>>,
    /// What they are to consume of one that others have, too.
    shared: BTreeMap<&'a DeviceId, Vec<Capacity>>,
    /// By pool, when first needed.
    counters: BTreeMap<usize, Counters<'a>>,
    /// How many devices are picked.
    depth: usize,
    effort: &'e mut Effort,
}

impl<'a, 'e> Search<'a, 'e> {
    fn new(
        devices: &'a Devices,
        wanted: &'a [&'a Wanted],
        node: &'a NodeInfo,
        pools: Vec<Pool<'a>>,
        effort: &'e mut Effort,
    ) -> Self {
        let mut candidates = Vec::new();
        for (pool, slice) in pools.iter().enumerate().flat_map(|(i, pool)| pool.here.iter().map(move |s| (i, *s))) {
            for (device, view) in slice.devices() {
                candidates.push(Candidate { index: candidates.len(), pool, slice, view, device });
            }
        }
        Search {
            devices,
            wanted,
            after: after(wanted),
            node,
            pools,
            candidates,
            all: BTreeMap::new(),
            matches: BTreeMap::new(),
            constraints: Vec::new(),
            picked: wanted.iter().map(|_| Vec::new()).collect(),
            taken: BTreeMap::new(),
            shared: BTreeMap::new(),
            counters: BTreeMap::new(),
            depth: 0,
            effort,
        }
    }

    /// Counts what a claim wants at least, and reads its constraints.
    fn prepare(&mut self, claim: usize) -> Result<(), Failure> {
        let wanted = self.wanted[claim];
        let mut least = 0usize;
        for (request, alternatives) in wanted.requests.iter().map(|r| &r.alternatives).enumerate() {
            let mut counts = Vec::new();
            for alternative in 0..alternatives.len() {
                counts.push(self.prepare_ask(At { claim, request, alternative, device: 0 })?);
            }
            least = least.saturating_add(counts.into_iter().min().unwrap_or(0));
        }
        if least > MAX_RESULTS {
            let name = wanted.name();
            let why = format!("number of requested devices {least} exceeds the claim limit of {MAX_RESULTS}");
            return Err(broken(format!("claim {name}: {why}")));
        }
        let mut constraints = Vec::new();
        for (i, constraint) in wanted.spec().constraints.iter().flatten().enumerate() {
            let unknown = || {
                let name = wanted.name();
                broken(format!("claim {name}, constraint #{i}: empty constraint (unsupported constraint type?)"))
            };
            constraints.push(Constraint::of(constraint).ok_or_else(unknown)?);
        }
        self.constraints.push(constraints);
        Ok(())
    }

    /// How many devices an alternative wants; if all, which these are.
    fn prepare_ask(&mut self, at: At) -> Result<usize, Failure> {
        let ask = self.ask(at);
        let Mode::All = ask.mode else { return Ok(self.count(at)) };
        if let Some(pool) = self.pools.iter().find(|pool| pool.state != State::Usable) {
            let state = if pool.state == State::Incomplete { "being updated" } else { "invalid" };
            let (claim, pool) = (self.wanted[at.claim].name(), pool.name());
            let why = format!("asks for all devices, but resource pool {pool} is currently {state}");
            return Err(broken(format!("claim {claim}, request {}: {why}", ask.short)));
        }
        let mut all = Vec::new();
        for candidate in self.candidates.clone() {
            self.effort.try_one()?;
            if self.is_selected(at, candidate)? && self.fits(ask, candidate) {
                all.push(candidate);
            }
        }
        let count = all.len();
        self.all.insert((at.claim, at.request, at.alternative), all);
        Ok(count)
    }

    fn ask(&self, at: At) -> &'a Ask {
        let wanted = self.wanted;
        &wanted[at.claim].requests[at.request].alternatives[at.alternative]
    }

    fn count(&self, at: At) -> usize {
        match self.ask(at).mode {
            Mode::Exactly(count) => count,
            Mode::All => self.all.get(&(at.claim, at.request, at.alternative)).map_or(0, Vec::len),
        }
    }

    // === the search ===

    /// Finds devices for a request and all that follow.
    fn place_request(&mut self, claim: usize, request: usize) -> Result<bool, Stop> {
        let wanted = self.wanted;
        let Some(found) = wanted.get(claim).and_then(|current| current.requests.get(request)) else {
            return self.place_claim_after(claim);
        };
        let at = At { claim, request, alternative: 0, device: 0 };
        match found.is_list {
            true => self.place_alternatives(at, found.alternatives.len()),
            false => self.place_devices(at, 0),
        }
    }

    /// Goes on with the next claim that requests something.
    fn place_claim_after(&mut self, claim: usize) -> Result<bool, Stop> {
        let Some(next) = self.after.get(claim).copied().flatten() else { return Ok(true) };
        match self.place_request(next, 0) {
            // Another choice before may leave room.
            Err(Stop::TooMany) => Ok(false),
            other => other,
        }
    }

    /// One of the alternatives is enough. If each leads to too many devices, so does whatever was chosen before.
    fn place_alternatives(&mut self, at: At, count: usize) -> Result<bool, Stop> {
        let mut too_many = true;
        for alternative in 0..count {
            match self.place_devices(At { alternative, ..at }, 0) {
                Ok(true) => return Ok(true),
                Ok(false) => too_many = false,
                Err(Stop::TooMany) => {}
                Err(failed) => return Err(failed),
            }
        }
        if too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// Finds what is missing of an alternative, among candidates from `from` on, and for all requests that follow.
    fn place_devices(&mut self, at: At, from: usize) -> Result<bool, Stop> {
        let (ask, count) = (self.ask(at), self.count(at));
        // Of all devices, there must be at least one.
        if count == 0 && matches!(ask.mode, Mode::All) {
            return Ok(false);
        }
        if at.device >= count {
            return self.place_request(at.claim, at.request + 1);
        }
        if self.picked[at.claim].len() + count - at.device > MAX_RESULTS {
            return Err(Stop::TooMany);
        }
        if let Some(candidate) = self.all.get(&(at.claim, at.request, at.alternative)).map(|all| all[at.device]) {
            // In whatever order, all are needed.
            self.effort.try_one()?;
            return self.place_with(at, candidate, true);
        }
        for index in from..self.candidates.len() {
            self.effort.try_one()?;
            let candidate = self.candidates[index];
            if self.is_free(ask, at.claim, candidate)
                && self.is_selected(at, candidate)?
                && self.place_with(at, candidate, false)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Takes a candidate and goes on; gives it back if that leads nowhere.
    fn place_with(&mut self, at: At, candidate: Candidate<'a>, must: bool) -> Result<bool, Stop> {
        if self.depth >= MAX_DEPTH {
            return Err(Failure::TooLong.into());
        }
        if !self.try_take(at, candidate, must)? {
            return Ok(false);
        }
        let done = self.place_devices(At { device: at.device + 1, ..at }, candidate.index + 1);
        if !matches!(done, Ok(true)) {
            self.give_back(at.claim);
        }
        done
    }

    // === devices ===

    /// Administrative access is to devices in use as well, once for each claim.
    fn is_free(&self, ask: &Ask, claim: usize, candidate: Candidate<'a>) -> bool {
        let id = &candidate.view.id;
        let taken = self.taken.get(id);
        match ask.admin_access {
            true => taken.is_none_or(|claims| !claims.contains(&claim)),
            false => taken.is_none_or(BTreeSet::is_empty) && !self.devices.in_use.is_dedicated(id),
        }
    }

    /// Whether class, request and slice let the device be chosen (`isSelectable`).
    fn is_selected(&mut self, at: At, candidate: Candidate<'a>) -> Result<bool, Failure> {
        let key = (at.claim, at.request, at.alternative, candidate.index);
        if let Some(known) = self.matches.get(&key) {
            return Ok(*known);
        }
        let (ask, view) = (self.ask(at), candidate.view);
        let class = || format!("class {}", ask.class.object.name());
        let wanted = self.wanted[at.claim];
        let claim = || format!("claim {}", wanted.name());
        let found = selected(&ask.class.selectors, view, class, self.effort)?
            && selected(&ask.selectors, view, claim, self.effort)?
            && (candidate.slice.object.spec.per_device_node_selection != Some(true)
                || pools::device_matches(self.node, candidate.device, view).map_err(broken)?);
        self.matches.insert(key, found);
        Ok(found)
    }

    fn fits(&self, ask: &Ask, candidate: Candidate<'a>) -> bool {
        let id = &candidate.view.id;
        let mut others: Vec<&Capacity> = self.devices.in_use.consumed(id).into_iter().collect();
        others.extend(self.shared.get(id).into_iter().flatten());
        capacity::fits(&ask.capacity, &candidate.view.offers, &others)
    }

    /// Takes a device that was selected, if it is free, not tainted, allowed by the constraints, and has what is needed
    /// (`allocateDevice`).
    fn try_take(&mut self, at: At, candidate: Candidate<'a>, must: bool) -> Result<bool, Failure> {
        let (ask, device, view) = (self.ask(at), candidate.device, candidate.view);
        let id = &view.id;
        let multiple = device.allow_multiple_allocations == Some(true);
        if !self.is_free(ask, at.claim, candidate) || is_tainted(ask, device) || !self.fits(ask, candidate) {
            return Ok(false);
        }
        let constraints = &mut self.constraints[at.claim];
        if let Some(violated) = constraints.iter_mut().position(|c| !c.try_add(ask, device, id)) {
            constraints[..violated].iter_mut().for_each(|c| c.remove(ask));
            let why = "because a claim constraint would not be satisfied";
            let wanted = self.wanted[at.claim];
            // To want all devices and not all of them makes no sense.
            let error =
                || broken(format!("claim {}, request {}: cannot add device {id} {why}", wanted.name(), ask.short));
            return if must { Err(error()) } else { Ok(false) };
        }
        // The first share of a device takes its counters.
        let is_shared =
            self.devices.in_use.consumed(id).is_some() || self.shared.get(id).is_some_and(|s| !s.is_empty());
        let counted = !(view.consumes.is_empty() || multiple && is_shared);
        if counted && !self.counters(candidate.pool).try_take(view) {
            self.constraints[at.claim].iter_mut().for_each(|c| c.remove(ask));
            return Ok(false);
        }
        let share = multiple.then(|| capacity::consumed(&ask.capacity, &view.offers));
        match &share {
            Some(share) => self.shared.entry(id).or_default().push(share.clone()),
            None => drop(self.taken.entry(id).or_default().insert(at.claim)),
        }
        let (slice, pool) = (candidate.slice, candidate.pool);
        self.picked[at.claim].push(Picked { ask, view, slice, device, share, pool, counted });
        self.depth += 1;
        Ok(true)
    }

    /// Takes back what a claim was given last.
    fn give_back(&mut self, claim: usize) {
        let Some(last) = self.picked[claim].pop() else { return };
        self.depth -= 1;
        self.constraints[claim].iter_mut().for_each(|c| c.remove(last.ask));
        if last.counted {
            self.counters(last.pool).give_back(last.view);
        }
        match last.share {
            Some(_) => drop(self.shared.get_mut(&last.view.id).and_then(Vec::pop)),
            None => drop(self.taken.get_mut(&last.view.id).map(|claims| claims.remove(&claim))),
        }
    }

    fn counters(&mut self, pool: usize) -> &mut Counters<'a> {
        let (pools, in_use) = (&self.pools, &self.devices.in_use);
        self.counters.entry(pool).or_insert_with(|| Counters::of(&pools[pool], in_use))
    }
}

/// By claim: the next one that requests something.
fn after(wanted: &[&Wanted]) -> Vec<Option<usize>> {
    let mut after = vec![None; wanted.len()];
    let mut next = None;
    for (claim, wanted) in wanted.iter().enumerate().rev() {
        after[claim] = next;
        if !wanted.requests.is_empty() {
            next = Some(claim);
        }
    }
    after
}

/// Whether all selectors match a device; `of` says whose they are.
fn selected(
    selectors: &[Result<Selector, String>],
    view: &View,
    of: impl Fn() -> String,
    effort: &mut Effort,
) -> Result<bool, Failure> {
    let failed = |i, what: &str, why: &str| broken(format!("{}: selector #{i}: CEL {what} error: {why}", of()));
    for (i, selector) in selectors.iter().enumerate() {
        effort.check()?;
        let compiled = selector.as_ref().map_err(|why| failed(i, "compile", why))?;
        let found =
            view.value.as_ref().map_err(String::clone).and_then(|device| compiled.matches(device, &mut effort.cost));
        if !found.map_err(|why| failed(i, "runtime", &why))? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// `taintPreventsAllocation`: effects that nobody knows, and none, are ignored.
fn is_tainted(ask: &Ask, device: &Device) -> bool {
    let tolerated = |taint: &DeviceTaint| ask.tolerations.iter().flatten().any(|t| tolerates(t, taint));
    let effects = ["NoSchedule", "NoExecute"];
    let mut taints = device.taints.iter().flatten().filter(|taint| effects.contains(&taint.effect.as_str()));
    taints.any(|taint| !tolerated(taint))
}
