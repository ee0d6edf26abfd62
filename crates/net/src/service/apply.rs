//! [`ServiceProxy`]: keeps the kernel's tables as the index says.
//!
//! A sync makes one atomic batch per IP family out of the difference. What is in the kernel is known from the last commit as long as
//! nftables' generation number shows that nobody committed since; otherwise it is read back. So a restart, a stranger's `flush
//! ruleset` or a lost race end in the same repair.

use super::conntrack::{UdpFronts, stale_flows};
use super::health::{HealthChecks, Pace, ProxyHealth};
use super::index::{HostPortMapping, Protocol, ServiceIndex};
use super::ruleset::{Ruleset, ruleset};
use crate::{Apply, NetConfig};
use base::Clock;
use base::backoff::Backoff;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use sys::netlink::{Conntrack, NetlinkError};
use sys::nft::{BaseChain, Batch, Element, Family, Nft, NftError, Op, TableState};
use thiserror::Error;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Changes that come together become one batch.
const SETTLE: Duration = Duration::from_millis(5);
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Why the packet rules are not what they should be.
#[derive(Debug, Error)]
pub enum ServiceProxyError {
    /// The rules could not be changed or read.
    #[error("failed to bring the packet rules of Services up to date")]
    Rules(#[from] NftError),
    /// Stale flows could not be removed.
    #[error("failed to forget UDP flows to endpoints that are gone")]
    Conntrack(#[from] NetlinkError),
    /// The task that does it ended without an answer.
    #[error("the task that changes packet rules failed")]
    Task(#[from] tokio::task::JoinError),
}

impl ServiceProxyError {
    /// With a word on what to do if the kernel does not know what it was asked for.
    fn with_remedy(&self) -> String {
        let text = base::chain(self);
        match self {
            ServiceProxyError::Rules(e) if e.is_unknown() => format!("{text}; {REMEDY}"),
            _ => text,
        }
    }
}

const REMEDY: &str = "the kernel may lack nftables: load it (modprobe nf_tables nft_chain_nat), or run a kernel with CONFIG_NF_TABLES and CONFIG_NFT_NAT";

/// What a sync did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Operations committed; 0 = the kernel was as it should be.
    pub operations: usize,
    /// UDP flows forgotten.
    pub flows: usize,
}

/// What a family's table was after our last commit, and when that was.
#[derive(Debug)]
struct Applied {
    ruleset: Ruleset,
    generation: u32,
}

#[derive(Debug)]
struct State {
    index: ServiceIndex,
    host_ports: Vec<HostPortMapping>,
    pace: Pace,
}

/// The service proxy of a node. Feed it changes, then [`ServiceProxy::run`] it (or call [`ServiceProxy::sync`]).
#[derive(Debug)]
pub struct ServiceProxy {
    config: NetConfig,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    /// Held for a whole sync: one at a time.
    applied: Mutex<BTreeMap<Family, Applied>>,
    fronts: Mutex<Option<UdpFronts>>,
    /// Why the last sync failed.
    fault: Mutex<Option<String>>,
    /// As of the last sync: a load balancer should not send what the rules do not know yet.
    health_checks: watch::Sender<HealthChecks>,
    changed: Notify,
}

impl ServiceProxy {
    /// A proxy that knows no Services yet.
    pub fn new(config: NetConfig, clock: Arc<dyn Clock>) -> ServiceProxy {
        let index = ServiceIndex::new(&config.node_name, config.dns_ips.iter().copied());
        ServiceProxy {
            state: Mutex::new(State { index, host_ports: Vec::new(), pace: Pace::new(clock.now()) }),
            config,
            clock,
            applied: Mutex::default(),
            fronts: Mutex::default(),
            fault: Mutex::default(),
            health_checks: watch::Sender::default(),
            changed: Notify::new(),
        }
    }

    /// Takes in a change of a Service, EndpointSlice or Node.
    pub fn apply<K>(&self, change: crate::Change<'_, K>)
    where
        ServiceIndex: Apply<K>,
    {
        let mut state = self.state.lock();
        if state.index.apply(change) {
            state.pace.change(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Replaces all host ports ([`crate::pod::PodNetwork::host_ports`]).
    pub fn set_host_ports(&self, host_ports: Vec<HostPortMapping>) {
        let mut state = self.state.lock();
        if state.host_ports != host_ports {
            state.host_ports = host_ports;
            state.pace.change(Instant::now());
            self.changed.notify_one();
        }
    }

    /// Why the kernel is not as the index says, if the last attempt to make it so failed.
    pub fn fault(&self) -> Option<String> {
        self.fault.lock().clone()
    }

    /// Services whose load balancers ask this node, and what they are told.
    pub fn health_checks(&self) -> watch::Receiver<HealthChecks> {
        self.health_checks.subscribe()
    }

    /// Whether the kernel keeps up with the index.
    pub fn health(&self) -> ProxyHealth {
        self.state.lock().pace.health(Instant::now())
    }

    /// See [`ServiceIndex::node_eligible`].
    pub fn node_eligible(&self) -> bool {
        self.state.lock().index.node_eligible()
    }

    /// The IP families in use, as the API names them.
    pub(super) fn family_names(&self) -> Vec<&'static str> {
        let name = |family| if family == Family::Ip { "IPv4" } else { "IPv6" };
        self.config.families().into_iter().map(name).collect()
    }

    /// Syncs now and after every change, until cancelled. Start it when the first lists are in: it removes what the index lacks.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        let mut backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
        loop {
            let proxy = Arc::clone(&self);
            let outcome = tokio::task::spawn_blocking(move || proxy.sync()).await;
            let retry = match outcome.map_err(ServiceProxyError::from).and_then(|r| r) {
                Ok(report) => {
                    tracing::debug!(?report, "packet rules are up to date");
                    backoff.reset();
                    *self.fault.lock() = None;
                    None
                }
                Err(error) => {
                    tracing::error!(error = base::chain(&error), "packet rules are not up to date; trying again");
                    *self.fault.lock() = Some(error.with_remedy());
                    Some(backoff.fail())
                }
            };
            let wait = async {
                match retry {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => {
                        self.changed.notified().await;
                        tokio::time::sleep(SETTLE).await;
                    }
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = wait => {}
            }
        }
    }

    /// Makes the kernel as the index says. Blocks for milliseconds. When it fails, nothing has changed.
    pub fn sync(&self) -> Result<SyncReport, ServiceProxyError> {
        let mut applied = self.applied.lock();
        let (wanted, fronts, health_checks, changes) = {
            let state = self.state.lock();
            let map = state.index.service_map();
            let one = |family| (family, ruleset(&self.config, family, map, &state.host_ports));
            let wanted: Vec<(Family, Ruleset)> = self.config.families().into_iter().map(one).collect();
            (wanted, UdpFronts::new(map, &state.host_ports), map.health_checks.clone(), state.pace.changes())
        };
        let mut nft = Nft::open()?;
        let mut report = SyncReport::default();
        for (family, wanted) in wanted {
            let known = applied.remove(&family);
            let (now, operations) = sync_table(&mut nft, known, wanted)?;
            report.operations += operations;
            applied.insert(family, now);
        }
        self.state.lock().pace.done(changes, Instant::now(), self.clock.now());
        self.health_checks.send_if_modified(|known| {
            let changed = *known != health_checks;
            *known = health_checks;
            changed
        });
        let mut last = self.fronts.lock();
        if last.as_ref() != Some(&fronts) {
            report.flows = forget_stale_flows(&fronts)?;
            *last = Some(fronts);
        }
        Ok(report)
    }
}

fn sync_table(nft: &mut Nft, known: Option<Applied>, wanted: Ruleset) -> Result<(Applied, usize), NftError> {
    let before = nft.generation()?;
    let change = match known.filter(|k| k.generation == before) {
        Some(known) => Change::between(Some(&View::of_ruleset(&known.ruleset)), &wanted),
        None => {
            let state = nft.read(&wanted.table)?;
            Change::between(state.as_ref().map(|s| View::of_kernel(s, &wanted)).as_ref(), &wanted)
        }
    };
    let operations = change.ops.len();
    nft.commit(&Batch { table: wanted.table.clone(), ops: change.ops })?;
    // Our batch counts one. If somebody else's came in between, the next sync finds another number and reads back.
    let generation = if operations == 0 { before } else { before.wrapping_add(1) };
    Ok((Applied { ruleset: wanted, generation }, operations))
}

fn forget_stale_flows(fronts: &UdpFronts) -> Result<usize, NetlinkError> {
    if *fronts == UdpFronts::default() {
        return Ok(0);
    }
    let mut conntrack = Conntrack::open()?;
    let flows = conntrack.flows(Protocol::Udp.number())?;
    let stale = stale_flows(&flows, fronts);
    for flow in &stale {
        conntrack.delete(flow)?;
    }
    Ok(stale.len())
}

// === Difference ===

/// The operations that lead from what is to what should be. Pure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// In order; empty if nothing is to be done.
    pub ops: Vec<Op>,
}

/// A table as far as it can be compared.
struct View {
    chains: BTreeMap<String, (Option<BaseChain>, Vec<String>)>,
    /// `None` = a set of another shape.
    sets: BTreeMap<String, Option<BTreeSet<Element>>>,
}

impl View {
    fn of_ruleset(ruleset: &Ruleset) -> View {
        let chains = ruleset.chains.iter().map(|(name, chain)| {
            (name.clone(), (chain.base, chain.rules.iter().map(|r| r.rule.fingerprint()).collect()))
        });
        let sets = ruleset.sets.iter().map(|(name, plan)| (name.clone(), Some(plan.elements.clone())));
        View { chains: chains.collect(), sets: sets.collect() }
    }

    fn of_kernel(state: &TableState, wanted: &Ruleset) -> View {
        let chains = state.chains.iter().map(|(name, chain)| (name.clone(), (chain.base, chain.rules.clone())));
        let sets = state.sets.iter().map(|(name, set)| {
            let fits = wanted.sets.get(name).is_none_or(|plan| set.has_shape_of(&plan.set));
            (name.clone(), fits.then(|| set.elements.iter().cloned().collect()))
        });
        View { chains: chains.collect(), sets: sets.collect() }
    }
}

impl Change {
    fn between(now: Option<&View>, wanted: &Ruleset) -> Change {
        let Some(now) = now else {
            return Change { ops: Change::from_nothing(wanted, vec![Op::AddTable]) };
        };
        let misfit_set = now.sets.values().any(Option::is_none);
        let misfit_chain =
            now.chains.iter().any(|(name, (base, _))| wanted.chains.get(name).is_some_and(|c| c.base != *base));
        if misfit_set || misfit_chain {
            // Another version's table. The kernel cannot reshape a set or move a hook; replace all, still in one step.
            return Change { ops: Change::from_nothing(wanted, vec![Op::AddTable, Op::DeleteTable, Op::AddTable]) };
        }
        Change { ops: Change::from_view(now, wanted) }
    }

    fn from_nothing(wanted: &Ruleset, first: Vec<Op>) -> Vec<Op> {
        let empty = View { chains: BTreeMap::new(), sets: BTreeMap::new() };
        first.into_iter().chain(Change::from_view(&empty, wanted)).collect()
    }

    fn from_view(now: &View, wanted: &Ruleset) -> Vec<Op> {
        let mut ops = Vec::new();
        let (mut removed, mut added) = (Vec::new(), Vec::new());
        for (name, plan) in &wanted.sets {
            let old = now.sets.get(name).and_then(Option::as_ref);
            if old.is_none() {
                ops.push(Op::AddSet(plan.set.clone()));
            }
            let none = BTreeSet::new();
            let old = old.unwrap_or(&none);
            let gone: Vec<Element> = old.difference(&plan.elements).cloned().collect();
            let new: Vec<Element> = plan.elements.difference(old).cloned().collect();
            if !gone.is_empty() {
                removed.push(Op::DeleteElements(plan.set.clone(), gone));
            }
            if !new.is_empty() {
                added.push(Op::AddElements(plan.set.clone(), new));
            }
        }
        // Elements and rules refer to chains, so chains come first and go last.
        for (name, chain) in wanted.chains.iter().filter(|(name, _)| !now.chains.contains_key(*name)) {
            ops.push(Op::AddChain(name.clone(), chain.base));
        }
        ops.extend(removed);
        for (name, chain) in &wanted.chains {
            let old = now.chains.get(name).map(|(_, rules)| rules.as_slice()).unwrap_or_default();
            let new: Vec<String> = chain.rules.iter().map(|r| r.rule.fingerprint()).collect();
            if old == new.as_slice() {
                continue;
            }
            if !old.is_empty() {
                ops.push(Op::FlushChain(name.clone()));
            }
            ops.extend(chain.rules.iter().map(|r| Op::AddRule(name.clone(), r.rule.clone())));
        }
        ops.extend(added);
        let doomed = || now.chains.iter().filter(|(name, _)| !wanted.chains.contains_key(*name));
        ops.extend(doomed().filter(|(_, (_, rules))| !rules.is_empty()).map(|(name, _)| Op::FlushChain(name.clone())));
        ops.extend(doomed().map(|(name, _)| Op::DeleteChain(name.clone())));
        ops.extend(now.sets.keys().filter(|n| !wanted.sets.contains_key(*n)).map(|n| Op::DeleteSet(n.clone())));
        ops
    }
}

#[cfg(test)]
mod tests {
    use super::super::index::ServiceMap;
    use super::super::ruleset::fixture::{service, slice};
    use super::*;
    use expect_test::{Expect, expect};

    type Endpoints<'a> = &'a [(&'a str, &'a str, &'a str)];

    fn with_endpoints(endpoints: Endpoints<'_>) -> Ruleset {
        let mut index = ServiceIndex::new("n1", []);
        index.apply(crate::Change::Set(&service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#)));
        index.apply(crate::Change::Set(&slice("web", "", 80, endpoints)));
        ruleset(&NetConfig::default(), Family::Ip, index.service_map(), &[])
    }

    fn check(before: Endpoints<'_>, after: Endpoints<'_>, expected: Expect) {
        let change = Change::between(Some(&View::of_ruleset(&with_endpoints(before))), &with_endpoints(after));
        let lines: Vec<String> = change.ops.iter().map(|op| format!("{op}\n")).collect();
        expected.assert_eq(&lines.concat());
    }

    const A: (&str, &str, &str) = ("10.42.0.2", "n1", "ready");
    const B: (&str, &str, &str) = ("10.42.1.2", "n2", "ready");
    const C: (&str, &str, &str) = ("10.42.1.3", "n2", "ready");

    #[test]
    fn nothing_changes_nothing() {
        check(&[A], &[A], expect![[r#""#]]);
    }

    #[test]
    fn another_endpoint_with_the_same_count_moves_elements_only() {
        check(
            &[A, B],
            &[A, C],
            expect![[r#"
                delete 1 elements from set endpoints
                add 1 elements to set endpoints
            "#]],
        );
    }

    #[test]
    fn another_count_makes_its_chain_and_removes_the_unused_one() {
        check(
            &[A],
            &[A, B],
            expect![[r#"
            add chain lb-2
            delete 1 elements from set service-ips
            add a rule of 6 expressions to chain lb-2
            add 1 elements to set endpoints
            add 1 elements to set service-ips
            flush chain lb-1
            delete chain lb-1
        "#]],
        );
    }

    #[test]
    fn a_new_table_is_built_whole() {
        let wanted = ruleset(&NetConfig::default(), Family::Ip, &ServiceMap::default(), &[]);
        let change = Change::between(None, &wanted);
        assert_eq!(change.ops.first(), Some(&Op::AddTable));
        assert!(change.ops.iter().all(|op| !matches!(op, Op::DeleteTable | Op::FlushChain(_))));
    }
}
