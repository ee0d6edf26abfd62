//! [`Ruleset`]: what the kernel's table should be, as a value. Pure.
//!
//! ```text
//!   prerouting, output (nat) ──> services ──vmap by address.protocol.port──> lb-N      random number below N, endpoint N of the
//!                                        └─vmap by protocol.port (NodePort)─> np-N     Service from one map, dnat
//! ```
//! There is one chain per endpoint *count* (and policy and affinity), not per Service; a Service is elements of maps. Chains:
//! `lb-N` ClusterIP; `ext-N` external address (masquerades, then `lb-N`); `ext-N-local-M` policy "Local" (from inside the cluster: `lb-N`,
//! from outside: one of the M endpoints here); `np-…` the same for NodePorts; `…-aff-T` with affinity for T seconds.
//!
//! Affinity: a dynamic map remembers an endpoint's *id* (a hash of its address) per client; another map leads from Service and id to
//! the address. When the endpoint goes, its id leads nowhere and the client gets a new endpoint: nothing must be cleaned up.
//!
//! Unlike upstream, NodePorts answer on 127.0.0.1 too, and TCP is refused with a reset (ICMP is filtered on many networks).

use super::index::{Backend, HostPortMapping, PortName, Protocol, ServiceMap, ServicePort};
use crate::NetConfig;
use ipnet::IpNet;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use sys::nft::{
    AddressType, BaseChain, ChainKind, CmpOp, CtKey, Data, DynsetOp, Element, Expr, Family, FieldType, Hook, MapData,
    MetaKey, NatKind, NumgenKind, PayloadBase, Reg, Reject, Rule, Set, Table, Verdict,
};

/// The bit of the packet mark that asks for masquerade; upstream's (`--iptables-masquerade-bit` 14).
const MASQUERADE_MARK: u32 = 0x4000;
/// Indexes of this node's endpoints in the endpoint maps start here; those of all endpoints at 0.
const LOCAL_OFFSET: u32 = 0x1_0000;
/// Ids of endpoints chosen by policy "Local" have this bit, so that affinity cannot lead to another node.
const LOCAL_ID: u32 = 0x8000_0000;
/// How many clients can have affinity at a time; the kernel wants a limit.
const AFFINITY_CLIENTS: u32 = 262_144;

/// A table's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruleset {
    /// The table.
    pub table: Table,
    /// Sets and maps by name.
    pub sets: BTreeMap<String, SetPlan>,
    /// Chains by name.
    pub chains: BTreeMap<String, ChainPlan>,
}

/// A set with its elements (none for dynamic ones: rules fill them).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetPlan {
    /// Its shape.
    pub set: Set,
    /// Its elements.
    pub elements: BTreeSet<Element>,
}

/// A chain with its rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainPlan {
    /// `None` = reached only by jumps.
    pub base: Option<BaseChain>,
    /// In order.
    pub rules: Vec<RulePlan>,
}

/// A rule, and how nft would write it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RulePlan {
    /// For people.
    pub text: String,
    /// For the kernel.
    pub rule: Rule,
}

/// What a family's table should be.
pub fn ruleset(config: &NetConfig, family: Family, map: &ServiceMap, host_ports: &[HostPortMapping]) -> Ruleset {
    let mut builder = Builder::new(config, family);
    builder.base_chains();
    for (name, port) in map.ports.iter().filter(|(n, _)| n.ipv6 == (family == Family::Ip6)) {
        builder.service_port(name, port);
    }
    for mapping in host_ports.iter().filter(|m| m.pod_ip.is_ipv6() == (family == Family::Ip6)) {
        builder.host_port(mapping);
    }
    builder.dispatch_chains();
    builder.ruleset
}

// === Registers ===

/// Where fields stand while a rule runs. `saddr daddr proto port index` and then the endpoint's `addr dport` are consecutive, so that
/// every key of every map is a run of them; IPv6 fills all sixteen registers exactly.
#[derive(Debug, Clone, Copy)]
struct Layout {
    address: u8,
}

impl Layout {
    const SADDR: Reg = Reg(0);
    fn daddr(self) -> Reg {
        Reg(self.address)
    }
    fn proto(self) -> Reg {
        Reg(2 * self.address)
    }
    fn port(self) -> Reg {
        Reg(2 * self.address + 1)
    }
    fn index(self) -> Reg {
        Reg(2 * self.address + 2)
    }
    fn endpoint(self) -> Reg {
        Reg(2 * self.address + 3)
    }
    fn endpoint_port(self) -> Reg {
        Reg(3 * self.address + 3)
    }
}

// === Dispatch ===

/// What a packet was sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Front {
    Address,
    NodePort,
}

/// A load-balancing chain: everything it depends on, so equal ones are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Dispatch {
    front: Front,
    /// Endpoints of policy "Cluster".
    count: u32,
    /// Whether the packet comes from outside; then it is masqueraded unless `local`.
    external: bool,
    /// Policy "Local": endpoints on this node.
    local: Option<u32>,
    affinity_seconds: Option<u32>,
}

impl Dispatch {
    fn name(&self) -> String {
        let kind = match (self.front, self.external) {
            (Front::NodePort, true) => "np",
            (Front::NodePort, false) => "np-lb",
            (Front::Address, true) => "ext",
            (Front::Address, false) => "lb",
        };
        let local = self.local.map(|m| format!("-local-{m}")).unwrap_or_default();
        let affinity = self.affinity_seconds.map(|t| format!("-aff-{t}")).unwrap_or_default();
        format!("{kind}-{}{local}{affinity}", self.count)
    }

    /// The chain that only balances over all endpoints.
    fn plain(&self) -> Dispatch {
        Dispatch { external: false, local: None, ..*self }
    }
}

struct Builder<'a> {
    config: &'a NetConfig,
    family: Family,
    layout: Layout,
    ruleset: Ruleset,
    dispatches: BTreeSet<Dispatch>,
}

impl<'a> Builder<'a> {
    fn new(config: &'a NetConfig, family: Family) -> Builder<'a> {
        use FieldType::{Ipv4, Ipv6, Number, Port, Proto};
        let address = if family == Family::Ip6 { Ipv6 } else { Ipv4 };
        let table = config.nft_table(family);
        let ruleset = Ruleset { table, sets: BTreeMap::new(), chains: BTreeMap::new() };
        let layout = Layout { address: address.registers() };
        let mut builder = Builder { config, family, layout, ruleset, dispatches: BTreeSet::new() };
        let endpoint = || Some(MapData::Fields(vec![address, Port]));
        let number = || Some(MapData::Fields(vec![Number]));
        builder.set("cluster-ips", &[address], None);
        builder.set("service-ips", &[address, Proto, Port], Some(MapData::Verdict));
        builder.set("service-nodeports", &[Proto, Port], Some(MapData::Verdict));
        builder.set("no-endpoint-services", &[address, Proto, Port], Some(MapData::Verdict));
        builder.set("no-endpoint-nodeports", &[Proto, Port], Some(MapData::Verdict));
        builder.set("hairpin", &[address, address, Proto, Port], None);
        builder.set("restricted-ips", &[address, Proto, Port], None);
        builder.set("restricted-sources", &[address, address, Proto, Port], None);
        builder.set("host-ports", &[Proto, Port], endpoint());
        builder.set("host-ip-ports", &[address, Proto, Port], endpoint());
        // By number; with affinity the number leads to an id, and the id to the endpoint.
        builder.set("endpoints", &[address, Proto, Port, Number], endpoint());
        builder.set("endpoint-ids", &[address, Proto, Port, Number], number());
        builder.set("endpoints-by-id", &[address, Proto, Port, Number], endpoint());
        builder.set("affinity", &[address, address, Proto, Port], number());
        builder.set("np-endpoints", &[Proto, Port, Number], endpoint());
        builder.set("np-endpoint-ids", &[Proto, Port, Number], number());
        builder.set("np-endpoints-by-id", &[Proto, Port, Number], endpoint());
        builder.set("np-affinity", &[address, Proto, Port], number());
        builder
    }

    fn set(&mut self, name: &str, key: &[FieldType], data: Option<MapData>) {
        let dynamic = name.ends_with("affinity");
        let set = Set {
            name: name.into(),
            key: key.to_vec(),
            data,
            interval: name == "restricted-sources",
            dynamic,
            size: dynamic.then_some(AFFINITY_CLIENTS),
        };
        self.ruleset.sets.insert(name.into(), SetPlan { set, elements: BTreeSet::new() });
    }

    fn add(&mut self, set: &str, element: Element) {
        let plan = self.ruleset.sets.get_mut(set).expect("all sets are declared in new()");
        // Two Services may claim the same external address or port; the first in name order has it, as the kernel would refuse
        // a second element with the same key.
        if plan.elements.range(Element::member(element.key.clone())..).next().is_none_or(|e| e.key != element.key) {
            plan.elements.insert(element);
        }
    }

    fn chain(&mut self, name: &str, base: Option<BaseChain>, rules: Vec<RulePlan>) {
        self.ruleset.chains.insert(name.into(), ChainPlan { base, rules });
    }

    fn rule(&self) -> RuleBuilder {
        RuleBuilder { family: self.family, layout: self.layout, text: Vec::new(), exprs: Vec::new() }
    }

    fn cluster_cidr(&self) -> Option<IpNet> {
        let v6 = self.family == Family::Ip6;
        self.config.cluster_cidrs.iter().find(|n| n.addr().is_ipv6() == v6).map(IpNet::trunc)
    }

    // === The fixed part ===

    fn base_chains(&mut self) {
        use ChainKind::{Filter, Nat};
        use Hook::{Forward, Input, Output, Postrouting, Prerouting};
        let base = |kind, hook, priority| Some(BaseChain { kind, hook, priority });
        let jump = |b: &Self, chain: &str| b.rule().jump(chain);
        let jump_new = |b: &Self, chain: &str| b.rule().ct_new().jump(chain);

        // `route_localnet` lets answers to 127.0.0.1 come back from the bridge; nobody may *begin* there (CVE-2020-8558).
        // Raw priority: before the tracker turns an answer's receiver into 127.0.0.1.
        if self.family == Family::Ip {
            let loopback: IpNet = "127.0.0.0/8".parse().expect("a literal network");
            let rule = self.rule().iif_not("lo").daddr_in(&loopback, true).verdict(Verdict::Drop);
            self.chain("raw-prerouting", base(Filter, Prerouting, -300), vec![rule]);
        }
        for (name, hook) in [("pre-dnat-prerouting", Prerouting), ("pre-dnat-output", Output)] {
            let rules = vec![jump_new(self, "restrict-sources")];
            self.chain(name, base(Filter, hook, -110), rules);
        }
        for (name, hook) in [("nat-prerouting", Prerouting), ("nat-output", Output)] {
            let rules = vec![jump(self, "services")];
            self.chain(name, base(Nat, hook, -100), rules);
        }
        let rules = vec![jump(self, "masquerading")];
        self.chain("nat-postrouting", base(Nat, Postrouting, 100), rules);
        let input = vec![jump_new(self, "check-nodeports"), jump_new(self, "check-services")];
        self.chain("filter-input", base(Filter, Input, 0), input);
        for (name, hook) in [("filter-forward", Forward), ("filter-output", Output)] {
            let rules = vec![jump_new(self, "check-services"), jump_new(self, "check-cluster-ips")];
            self.chain(name, base(Filter, hook, 0), rules);
        }
        self.check_chains();
        self.services_chain();
        self.masquerading_chain();
    }

    fn check_chains(&mut self) {
        let rules = vec![self.rule().front(Front::Address).vmap("no-endpoint-services", Front::Address)];
        self.chain("check-services", None, rules);
        let rules = vec![self.rule().front(Front::NodePort).vmap("no-endpoint-nodeports", Front::NodePort)];
        self.chain("check-nodeports", None, rules);
        let rules = vec![self.rule().daddr_in_set("cluster-ips").verdict(Verdict::Goto("reject".into()))];
        self.chain("check-cluster-ips", None, rules);
        let rules = vec![self.rule().tcp().reject(Reject::TcpReset), self.rule().reject(Reject::PortUnreachable)];
        self.chain("reject", None, rules);
        let rule = self.rule().restricted().verdict(Verdict::Drop);
        self.chain("restrict-sources", None, vec![rule]);
    }

    fn services_chain(&mut self) {
        let mut rules = Vec::new();
        // From the host or from outside to a ClusterIP: the answer must come back through this node.
        if let Some(cluster) = self.cluster_cidr() {
            rules.push(self.rule().saddr_in(&cluster, false).daddr_in_set("cluster-ips").mark_masquerade().done());
        }
        rules.push(self.rule().front(Front::Address).vmap("service-ips", Front::Address));
        let local = || self.rule().fib_local(AddressType::Destination);
        rules.push(local().front(Front::NodePort).vmap("service-nodeports", Front::NodePort));
        rules.push(local().front(Front::Address).dnat_map("host-ip-ports", Front::Address));
        rules.push(local().front(Front::NodePort).dnat_map("host-ports", Front::NodePort));
        self.chain("services", None, rules);
    }

    fn masquerading_chain(&mut self) {
        let mut rules = vec![self.rule().masquerade_mark().masquerade(), self.rule().hairpin().masquerade()];
        if self.family == Family::Ip {
            // NodePorts on 127.0.0.1: no answer could find that sender.
            let loopback: IpNet = "127.0.0.0/8".parse().expect("a literal network");
            rules.push(self.rule().oif_not("lo").saddr_in(&loopback, true).masquerade());
        }
        let multicast: IpNet =
            if self.family == Family::Ip { "224.0.0.0/4" } else { "ff00::/8" }.parse().expect("a literal network");
        let v6 = self.family == Family::Ip6;
        let pods: Vec<IpNet> = self.config.pod_cidrs.iter().filter(|n| n.addr().is_ipv6() == v6).copied().collect();
        for pods in &pods {
            let mut rule = self.rule().saddr_in(&pods.trunc(), true);
            if let Some(cluster) = self.cluster_cidr() {
                rule = rule.daddr_in(&cluster, false);
            }
            let rule = rule.daddr_in(&multicast, false).oif_not(&self.config.bridge);
            rules.push(rule.masquerade());
        }
        self.chain("masquerading", None, rules);
    }

    // === Services ===

    fn service_port(&mut self, name: &PortName, port: &ServicePort) {
        self.add("cluster-ips", Element::member(address_key(port.cluster_ip)));
        let front = |ip: IpAddr| front_key(Some(ip), name.protocol, port.port);
        let internal = if port.internal_local { &port.local } else { &port.cluster };
        let refused = port.internal_local && port.has_any;
        let plain = Dispatch {
            front: Front::Address,
            count: internal.len() as u32,
            external: false,
            local: None,
            affinity_seconds: port.affinity_seconds,
        };
        self.front(plain, front(port.cluster_ip), internal, &[], refused);
        let local = if port.external_local { port.local.as_slice() } else { &[] };
        let external = Dispatch {
            count: port.cluster.len() as u32,
            external: true,
            local: port.external_local.then_some(local.len() as u32),
            ..plain
        };
        let refused = port.external_local && port.has_any;
        for ip in &port.external_ips {
            self.front(external, front(*ip), &port.cluster, local, refused);
        }
        if let Some(node_port) = port.node_port {
            let external = Dispatch { front: Front::NodePort, ..external };
            self.front(external, front_key(None, name.protocol, node_port), &port.cluster, local, refused);
        }
        for ip in &port.restricted_ips {
            self.restrict(*ip, name.protocol, port);
        }
        for backend in port.cluster.iter().chain(&port.local).filter(|b| b.local) {
            self.hairpin(backend.address, name.protocol);
        }
    }

    /// Everything about one front: its verdict, its endpoints. `refused` = say nothing instead of "no", as upstream does if
    /// endpoints exist but not here.
    fn front(&mut self, dispatch: Dispatch, key: Vec<u8>, all: &[Backend], local: &[Backend], refused: bool) {
        let (services, nobody, prefix) = match dispatch.front {
            Front::Address => ("service-ips", "no-endpoint-services", ""),
            Front::NodePort => ("service-nodeports", "no-endpoint-nodeports", "np-"),
        };
        if !all.is_empty() || !local.is_empty() {
            let verdict = Data::Verdict(Verdict::Goto(dispatch.name()));
            self.add(services, Element::entry(key.clone(), verdict));
            self.dispatches.insert(dispatch);
            self.dispatches.insert(dispatch.plain());
        }
        if all.is_empty() || (dispatch.local.is_some() && local.is_empty()) {
            let verdict = if refused { Verdict::Drop } else { Verdict::Goto("reject".into()) };
            self.add(nobody, Element::entry(key.clone(), Data::Verdict(verdict)));
        }
        for (backends, offset, id_bit) in [(all, 0, 0), (local, LOCAL_OFFSET, LOCAL_ID)] {
            let ids = endpoint_ids(backends, id_bit);
            for (i, (backend, id)) in backends.iter().zip(ids).enumerate() {
                let with = |n: u32| [key.clone(), n.to_ne_bytes().to_vec()].concat();
                let (number, address) = (offset + i as u32, Data::Value(endpoint_data(backend.address)));
                if dispatch.affinity_seconds.is_some() {
                    let id_data = Data::Value(id.to_ne_bytes().to_vec());
                    self.add(&format!("{prefix}endpoint-ids"), Element::entry(with(number), id_data));
                    self.add(&format!("{prefix}endpoints-by-id"), Element::entry(with(id), address));
                } else {
                    self.add(&format!("{prefix}endpoints"), Element::entry(with(number), address));
                }
            }
        }
    }

    fn restrict(&mut self, ip: IpAddr, protocol: Protocol, port: &ServicePort) {
        let key = front_key(Some(ip), protocol, port.port);
        self.add("restricted-ips", Element::member(key.clone()));
        for source in &port.sources {
            let with = |first: IpAddr| [address_key(first), key.clone()].concat();
            let element =
                Element { key_end: Some(with(source.broadcast())), ..Element::member(with(source.network())) };
            self.add("restricted-sources", element);
        }
    }

    fn host_port(&mut self, m: &HostPortMapping) {
        let set = if m.host_ip.is_some() { "host-ip-ports" } else { "host-ports" };
        let to = SocketAddr::new(m.pod_ip, m.pod_port);
        let element = Element::entry(front_key(m.host_ip, m.protocol, m.host_port), Data::Value(endpoint_data(to)));
        self.add(set, element);
        self.hairpin(to, m.protocol);
    }

    /// An endpoint that reaches itself through a Service would see its own address as the sender.
    fn hairpin(&mut self, endpoint: SocketAddr, protocol: Protocol) {
        let key = [address_key(endpoint.ip()), front_key(Some(endpoint.ip()), protocol, endpoint.port())].concat();
        self.add("hairpin", Element::member(key));
    }

    fn dispatch_chains(&mut self) {
        for dispatch in std::mem::take(&mut self.dispatches) {
            if dispatch.plain() == dispatch && dispatch.count == 0 {
                continue;
            }
            let rules = self.dispatch_rules(&dispatch);
            self.chain(&dispatch.name(), None, rules);
        }
    }

    fn dispatch_rules(&self, d: &Dispatch) -> Vec<RulePlan> {
        let plain = || Verdict::Goto(d.plain().name());
        let Some(here) = d.local else {
            if d.external {
                return vec![self.rule().mark_masquerade().verdict(plain())];
            }
            return self.balance(d, d.count, 0);
        };
        let mut rules = Vec::new();
        // From inside the cluster the policy does not matter (upstream calls it short-circuiting).
        if d.count > 0 {
            if let Some(cluster) = self.cluster_cidr() {
                rules.push(self.rule().saddr_in(&cluster, true).verdict(plain()));
            }
            rules.push(self.rule().fib_local(AddressType::Source).mark_masquerade().verdict(plain()));
        }
        if here > 0 {
            rules.extend(self.balance(d, here, LOCAL_OFFSET));
        }
        rules
    }

    /// One of `count` endpoints, numbered from `offset`.
    fn balance(&self, d: &Dispatch, count: u32, offset: u32) -> Vec<RulePlan> {
        let Some(seconds) = d.affinity_seconds else {
            return vec![self.rule().front(d.front).pick(count, offset).endpoint(d.front, "endpoints").dnat()];
        };
        let known = self.rule().saddr().front(d.front).remembered(d.front).endpoint(d.front, "endpoints-by-id");
        let chosen = self.rule().saddr().front(d.front).pick(count, offset);
        let chosen = chosen.id(d.front).endpoint(d.front, "endpoints-by-id");
        vec![known.remember(d.front, seconds).dnat(), chosen.remember(d.front, seconds).dnat()]
    }
}

// === Keys ===

fn address_key(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}

/// `[address .] protocol . port`, each padded to four bytes.
fn front_key(ip: Option<IpAddr>, protocol: Protocol, port: u16) -> Vec<u8> {
    let mut key = ip.map(address_key).unwrap_or_default();
    let [high, low] = port.to_be_bytes();
    key.extend_from_slice(&[protocol.number(), 0, 0, 0, high, low, 0, 0]);
    key
}

/// `address . port`.
fn endpoint_data(endpoint: SocketAddr) -> Vec<u8> {
    let [high, low] = endpoint.port().to_be_bytes();
    [address_key(endpoint.ip()), vec![high, low, 0, 0]].concat()
}

/// A number per endpoint that stays when others come and go: a hash, moved on where two are equal. `id_bit` marks all of them.
fn endpoint_ids(backends: &[Backend], id_bit: u32) -> Vec<u32> {
    let mut taken = BTreeSet::new();
    let mut id_of = |backend: &Backend| {
        let bytes = endpoint_data(backend.address);
        let mut id = bytes.iter().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
        loop {
            id = (id & !LOCAL_ID) | id_bit;
            if taken.insert(id) {
                return id;
            }
            id = id.wrapping_add(1);
        }
    };
    backends.iter().map(&mut id_of).collect()
}

// === Rules ===

/// Writes a rule and its text side by side.
struct RuleBuilder {
    family: Family,
    layout: Layout,
    text: Vec<String>,
    exprs: Vec<Expr>,
}

impl RuleBuilder {
    fn say(mut self, text: impl Into<String>) -> Self {
        self.text.push(text.into());
        self
    }

    fn with(mut self, exprs: impl IntoIterator<Item = Expr>) -> Self {
        self.exprs.extend(exprs);
        self
    }

    fn done(self) -> RulePlan {
        RulePlan { text: self.text.join(" "), rule: Rule { exprs: self.exprs } }
    }

    fn verdict(self, verdict: Verdict) -> RulePlan {
        self.say(verdict.to_string()).with([Expr::Verdict(verdict)]).done()
    }

    fn jump(self, chain: &str) -> RulePlan {
        self.verdict(Verdict::Jump(chain.into()))
    }

    fn masquerade(self) -> RulePlan {
        self.say("masquerade fully-random").with([Expr::Masquerade]).done()
    }

    fn reject(self, reject: Reject) -> RulePlan {
        let text = match reject {
            Reject::TcpReset => "reject with tcp reset",
            Reject::PortUnreachable => "reject with icmpx port-unreachable",
        };
        self.say(text).with([Expr::Reject(reject)]).done()
    }

    fn ip(&self) -> &'static str {
        if self.family == Family::Ip6 { "ip6" } else { "ip" }
    }

    fn address(&self, of: AddressType, dreg: Reg) -> Expr {
        let offset = match (self.family, of) {
            (Family::Ip6, AddressType::Source) => 8,
            (Family::Ip6, AddressType::Destination) => 24,
            (_, AddressType::Source) => 12,
            (_, AddressType::Destination) => 16,
        };
        let len = u32::from(self.layout.address) * 4;
        Expr::Payload { base: PayloadBase::Network, offset, len, dreg }
    }

    /// New connections only.
    fn ct_new(self) -> Self {
        const NEW: u32 = 8;
        self.say("ct state new").with([
            Expr::Ct { key: CtKey::State, dreg: Reg(0) },
            Expr::Bitwise { sreg: Reg(0), dreg: Reg(0), mask: NEW.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expr::Cmp { sreg: Reg(0), op: CmpOp::Neq, data: vec![0; 4] },
        ])
    }

    fn link_not(self, key: MetaKey, name: &str) -> Self {
        let mut data = name.as_bytes().to_vec();
        data.resize(16, 0);
        let exprs = [Expr::Meta { key, dreg: Reg(0) }, Expr::Cmp { sreg: Reg(0), op: CmpOp::Neq, data }];
        self.with(exprs)
    }

    fn iif_not(self, name: &str) -> Self {
        self.say(format!("iifname != \"{name}\"")).link_not(MetaKey::IifName, name)
    }

    fn oif_not(self, name: &str) -> Self {
        self.say(format!("oifname != \"{name}\"")).link_not(MetaKey::OifName, name)
    }

    fn in_network(self, of: AddressType, net: &IpNet, inside: bool) -> Self {
        let load = self.address(of, Reg(0));
        let mask = address_key(net.netmask());
        let xor = vec![0; mask.len()];
        let op = if inside { CmpOp::Eq } else { CmpOp::Neq };
        let data = address_key(net.network());
        self.with([load, Expr::Bitwise { sreg: Reg(0), dreg: Reg(0), mask, xor }, Expr::Cmp { sreg: Reg(0), op, data }])
    }

    fn saddr_in(self, net: &IpNet, inside: bool) -> Self {
        let text = format!("{} saddr {}{net}", self.ip(), if inside { "" } else { "!= " });
        self.say(text).in_network(AddressType::Source, net, inside)
    }

    fn daddr_in(self, net: &IpNet, inside: bool) -> Self {
        let text = format!("{} daddr {}{net}", self.ip(), if inside { "" } else { "!= " });
        self.say(text).in_network(AddressType::Destination, net, inside)
    }

    fn daddr_in_set(self, set: &str) -> Self {
        let text = format!("{} daddr @{set}", self.ip());
        let load = self.address(AddressType::Destination, Reg(0));
        self.say(text).with([load, Expr::InSet { set: set.into(), sreg: Reg(0), negate: false }])
    }

    fn tcp(self) -> Self {
        self.say("meta l4proto tcp").with([
            Expr::Meta { key: MetaKey::L4Proto, dreg: Reg(0) },
            Expr::Cmp { sreg: Reg(0), op: CmpOp::Eq, data: vec![Protocol::Tcp.number()] },
        ])
    }

    /// The address belongs to this machine.
    fn fib_local(self, of: AddressType) -> Self {
        const RTN_LOCAL: u32 = 2;
        let name = if of == AddressType::Source { "saddr" } else { "daddr" };
        self.say(format!("fib {name} type local")).with([
            Expr::FibType { of, dreg: Reg(0) },
            Expr::Cmp { sreg: Reg(0), op: CmpOp::Eq, data: RTN_LOCAL.to_ne_bytes().to_vec() },
        ])
    }

    fn mark_masquerade(self) -> Self {
        self.say(format!("meta mark set meta mark or {MASQUERADE_MARK:#x}")).with([
            Expr::Meta { key: MetaKey::Mark, dreg: Reg(0) },
            Expr::Bitwise {
                sreg: Reg(0),
                dreg: Reg(0),
                mask: (!MASQUERADE_MARK).to_ne_bytes().to_vec(),
                xor: MASQUERADE_MARK.to_ne_bytes().to_vec(),
            },
            Expr::SetMark { sreg: Reg(0) },
        ])
    }

    /// Packets with the mark, which is taken off, so that a tunnel's outer packet is not masqueraded too.
    fn masquerade_mark(self) -> Self {
        let mark = MASQUERADE_MARK.to_ne_bytes().to_vec();
        let text = format!("meta mark and {MASQUERADE_MARK:#x} != 0 meta mark set meta mark xor {MASQUERADE_MARK:#x}");
        self.say(text).with([
            Expr::Meta { key: MetaKey::Mark, dreg: Reg(0) },
            Expr::Bitwise { sreg: Reg(0), dreg: Reg(0), mask: mark.clone(), xor: vec![0; 4] },
            Expr::Cmp { sreg: Reg(0), op: CmpOp::Neq, data: vec![0; 4] },
            Expr::Meta { key: MetaKey::Mark, dreg: Reg(0) },
            Expr::Bitwise { sreg: Reg(0), dreg: Reg(0), mask: vec![255; 4], xor: mark },
            Expr::SetMark { sreg: Reg(0) },
        ])
    }

    fn hairpin(self) -> Self {
        const DNAT: u32 = 32;
        let ip = self.ip();
        let text = format!("ct status dnat {ip} saddr . {ip} daddr . meta l4proto . th dport @hairpin");
        let status = [
            Expr::Ct { key: CtKey::Status, dreg: Reg(0) },
            Expr::Bitwise { sreg: Reg(0), dreg: Reg(0), mask: DNAT.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expr::Cmp { sreg: Reg(0), op: CmpOp::Neq, data: vec![0; 4] },
        ];
        let found = Expr::InSet { set: "hairpin".into(), sreg: Layout::SADDR, negate: false };
        let loaded = self.say(text).with(status).load_saddr().load_front(Front::Address);
        loaded.with([found])
    }

    /// Receivers with a list of allowed senders, from others.
    fn restricted(self) -> Self {
        let ip = self.ip();
        let front = format!("{ip} daddr . meta l4proto . th dport");
        let text = format!("{front} @restricted-ips {ip} saddr . {front} != @restricted-sources");
        let daddr = self.layout.daddr();
        let limited = Expr::InSet { set: "restricted-ips".into(), sreg: daddr, negate: false };
        let stranger = Expr::InSet { set: "restricted-sources".into(), sreg: Layout::SADDR, negate: true };
        self.say(text).load_saddr().load_front(Front::Address).with([limited, stranger])
    }

    fn load_saddr(self) -> Self {
        let load = self.address(AddressType::Source, Layout::SADDR);
        self.with([load])
    }

    fn load_front(self, front: Front) -> Self {
        let layout = self.layout;
        let daddr = self.address(AddressType::Destination, layout.daddr());
        let loaded = if front == Front::Address { self.with([daddr]) } else { self };
        loaded.with([
            Expr::Meta { key: MetaKey::L4Proto, dreg: layout.proto() },
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg: layout.port() },
        ])
    }

    /// Loads the sender without a word: the text of affinity rules is one phrase.
    fn saddr(self) -> Self {
        self.load_saddr()
    }

    /// Loads what the packet was sent to.
    fn front(self, front: Front) -> Self {
        let text = match front {
            Front::Address => format!("{} daddr . meta l4proto . th dport", self.ip()),
            Front::NodePort => "meta l4proto . th dport".into(),
        };
        self.say(text).load_front(front)
    }

    fn front_reg(&self, front: Front) -> Reg {
        if front == Front::Address { self.layout.daddr() } else { self.layout.proto() }
    }

    fn vmap(self, set: &str, front: Front) -> RulePlan {
        let sreg = self.front_reg(front);
        self.say(format!("vmap @{set}")).with([Expr::VerdictMap { set: set.into(), sreg }]).done()
    }

    /// Looks the whole front up and translates.
    fn dnat_map(self, set: &str, front: Front) -> RulePlan {
        let (sreg, dreg) = (self.front_reg(front), self.layout.endpoint());
        self.say(format!("map @{set}")).with([Expr::Map { set: set.into(), sreg, dreg }]).dnat()
    }

    fn pick(self, modulus: u32, offset: u32) -> Self {
        let dreg = self.layout.index();
        let shown = if offset > 0 { format!(" offset {offset}") } else { String::new() };
        self.say(format!(". numgen random mod {modulus}{shown}")).with([Expr::Numgen {
            dreg,
            modulus,
            kind: NumgenKind::Random,
            offset,
        }])
    }

    fn prefixed(front: Front, set: &str) -> String {
        if front == Front::NodePort { format!("np-{set}") } else { set.into() }
    }

    /// Number to id.
    fn id(self, front: Front) -> Self {
        let set = Self::prefixed(front, "endpoint-ids");
        let (sreg, dreg) = (self.front_reg(front), self.layout.index());
        self.say(format!("map @{set}")).with([Expr::Map { set, sreg, dreg }])
    }

    /// Number or id to endpoint.
    fn endpoint(self, front: Front, set: &str) -> Self {
        let set = Self::prefixed(front, set);
        let (sreg, dreg) = (self.front_reg(front), self.layout.endpoint());
        self.say(format!("map @{set}")).with([Expr::Map { set, sreg, dreg }])
    }

    /// The sender's key in the affinity map: for NodePorts the sender stands directly before the protocol.
    fn client(self, front: Front) -> (Self, Reg) {
        match front {
            Front::Address => (self, Layout::SADDR),
            Front::NodePort => {
                let reg = self.layout.daddr();
                let load = self.address(AddressType::Source, reg);
                (self.with([load]), reg)
            }
        }
    }

    /// The id that the client had last time.
    fn remembered(self, front: Front) -> Self {
        let set = Self::prefixed(front, "affinity");
        let dreg = self.layout.index();
        let text = format!("of {} saddr map @{set}", self.ip());
        let (rule, sreg) = self.client(front);
        rule.say(text).with([Expr::Map { set, sreg, dreg }])
    }

    fn remember(self, front: Front, seconds: u32) -> Self {
        let set = Self::prefixed(front, "affinity");
        let text = format!("update @{set} {{ {} saddr timeout {seconds}s : id }}", self.ip());
        let data = Some(self.layout.index());
        let (rule, key) = self.client(front);
        let timeout = Some(Duration::from_secs(u64::from(seconds)));
        rule.say(text).with([Expr::Dynset { set, op: DynsetOp::Update, key, data, timeout }])
    }

    fn dnat(self) -> RulePlan {
        let (addr, port) = (Some(self.layout.endpoint()), Some(self.layout.endpoint_port()));
        let nat = Expr::Nat { kind: NatKind::Destination, family: self.family, addr, port };
        self.say("dnat").with([nat]).done()
    }
}

// === Text ===

impl fmt::Display for Ruleset {
    /// The table as nft would list it, more or less: for reading and for tests.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "table {} {{", self.table)?;
        for (name, plan) in self.sets.iter().filter(|(_, p)| !p.elements.is_empty()) {
            writeln!(f, "  {} {name} {{", if plan.set.data.is_some() { "map" } else { "set" })?;
            for element in &plan.elements {
                writeln!(f, "    {}", element_text(&plan.set, element))?;
            }
            writeln!(f, "  }}")?;
        }
        for (name, chain) in &self.chains {
            writeln!(f, "  chain {name} {{")?;
            if let Some(base) = chain.base {
                let kind = if base.kind == ChainKind::Nat { "nat" } else { "filter" };
                writeln!(f, "    type {kind} hook {} priority {}", base.hook, base.priority)?;
            }
            for rule in &chain.rules {
                writeln!(f, "    {}", rule.text)?;
            }
            writeln!(f, "  }}")?;
        }
        writeln!(f, "}}")
    }
}

fn element_text(set: &Set, element: &Element) -> String {
    let mut text = fields_text(&set.key, &element.key);
    if let Some(end) = &element.key_end {
        text = format!("{text} - {}", fields_text(&set.key, end));
    }
    match (&element.data, &set.data) {
        (Some(Data::Verdict(verdict)), _) => format!("{text} : {verdict}"),
        (Some(Data::Value(value)), Some(MapData::Fields(fields))) => format!("{text} : {}", fields_text(fields, value)),
        _ => text,
    }
}

fn fields_text(fields: &[FieldType], mut bytes: &[u8]) -> String {
    let mut texts = Vec::new();
    for field in fields {
        let (value, rest) = bytes.split_at(field.size().min(bytes.len()));
        bytes = rest.get(field.size().next_multiple_of(4) - field.size()..).unwrap_or_default();
        texts.push(field_text(*field, value));
    }
    texts.join(" . ")
}

fn field_text(field: FieldType, value: &[u8]) -> String {
    let broken = || format!("{value:?}");
    match field {
        FieldType::Ipv4 => <[u8; 4]>::try_from(value).map_or_else(|_| broken(), |b| IpAddr::from(b).to_string()),
        FieldType::Ipv6 => <[u8; 16]>::try_from(value).map_or_else(|_| broken(), |b| IpAddr::from(b).to_string()),
        FieldType::Number => {
            <[u8; 4]>::try_from(value).map_or_else(|_| broken(), |b| format!("{:#x}", u32::from_ne_bytes(b)))
        }
        FieldType::Port => <[u8; 2]>::try_from(value).map_or_else(|_| broken(), |b| u16::from_be_bytes(b).to_string()),
        FieldType::Proto => match value {
            [6] => "tcp".into(),
            [17] => "udp".into(),
            [132] => "sctp".into(),
            _ => broken(),
        },
        FieldType::IfName => String::from_utf8_lossy(value).trim_end_matches('\0').to_owned(),
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Objects from a few words.

    use api::Object;
    use api::prelude::{EndpointSlice, MetaExt, Service};

    /// A Service in namespace `default` with this spec.
    pub(crate) fn service(name: &str, spec: &str) -> Service {
        let json = format!(r#"{{"metadata":{{"namespace":"default","name":"{name}"}},"spec":{spec}}}"#);
        api::Codec::decode(json.as_bytes()).expect("a literal Service")
    }

    /// A slice `<service>-x` with one port; endpoints are address, node, condition (`ready`, `no` or `terminating`).
    pub(crate) fn slice(service: &str, port_name: &str, port: u16, endpoints: &[(&str, &str, &str)]) -> EndpointSlice {
        let endpoints = endpoints.iter().map(|(ip, node, condition)| {
            let conditions = match *condition {
                "terminating" => r#"{"ready":false,"serving":true,"terminating":true}"#,
                "no" => r#"{"ready":false,"serving":false,"terminating":false}"#,
                _ => r#"{"ready":true,"serving":true,"terminating":false}"#,
            };
            format!(r#"{{"addresses":["{ip}"],"nodeName":"{node}","conditions":{conditions}}}"#)
        });
        let protocol = if port_name == "dns" { "UDP" } else { "TCP" };
        let json = format!(
            r#"{{"metadata":{{"namespace":"default","name":"{service}-x","labels":{{"kubernetes.io/service-name":"{service}"}}}},
                "addressType":"IPv4","ports":[{{"name":"{port_name}","port":{port},"protocol":"{protocol}"}}],
                "endpoints":[{}]}}"#,
            endpoints.collect::<Vec<_>>().join(",")
        );
        let slice: EndpointSlice = api::Codec::decode(json.as_bytes()).expect("a literal EndpointSlice");
        assert_eq!(slice.name(), format!("{service}-x"));
        assert_eq!(EndpointSlice::KIND, "EndpointSlice");
        slice
    }
}

#[cfg(test)]
mod tests {
    use super::fixture::{service, slice};
    use super::*;
    use crate::service::ServiceIndex;
    use crate::{Apply, Change};
    use api::prelude::{EndpointSlice, Service};
    use expect_test::{Expect, expect};

    fn build(
        services: &[Service],
        slices: &[EndpointSlice],
        host_ports: &[HostPortMapping],
        family: Family,
    ) -> Ruleset {
        let mut index = ServiceIndex::new("n1", []);
        services.iter().for_each(|s| {
            index.apply(Change::Set(s));
        });
        slices.iter().for_each(|s| {
            index.apply(Change::Set(s));
        });
        let config = NetConfig {
            pod_cidrs: vec!["10.42.0.0/24".parse().expect("net"), "fd00:42::/64".parse().expect("net")],
            cluster_cidrs: vec!["10.42.0.0/16".parse().expect("net"), "fd00:42::/48".parse().expect("net")],
            ..NetConfig::default()
        };
        ruleset(&config, family, index.service_map(), host_ports)
    }

    /// What Services add to an empty table.
    fn check(services: &[Service], slices: &[EndpointSlice], host_ports: &[HostPortMapping], expected: Expect) {
        let mut full = build(services, slices, host_ports, Family::Ip);
        for chain in build(&[], &[], &[], Family::Ip).chains.keys() {
            full.chains.remove(chain);
        }
        expected.assert_eq(&full.to_string());
    }

    #[test]
    fn an_empty_table() {
        expect![[r#"
            table ip dhow {
              chain check-cluster-ips {
                ip daddr @cluster-ips goto reject
              }
              chain check-nodeports {
                meta l4proto . th dport vmap @no-endpoint-nodeports
              }
              chain check-services {
                ip daddr . meta l4proto . th dport vmap @no-endpoint-services
              }
              chain filter-forward {
                type filter hook forward priority 0
                ct state new jump check-services
                ct state new jump check-cluster-ips
              }
              chain filter-input {
                type filter hook input priority 0
                ct state new jump check-nodeports
                ct state new jump check-services
              }
              chain filter-output {
                type filter hook output priority 0
                ct state new jump check-services
                ct state new jump check-cluster-ips
              }
              chain masquerading {
                meta mark and 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random
                ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin masquerade fully-random
                oifname != "lo" ip saddr 127.0.0.0/8 masquerade fully-random
                ip saddr 10.42.0.0/24 ip daddr != 10.42.0.0/16 ip daddr != 224.0.0.0/4 oifname != "dhow0" masquerade fully-random
              }
              chain nat-output {
                type nat hook output priority -100
                jump services
              }
              chain nat-postrouting {
                type nat hook postrouting priority 100
                jump masquerading
              }
              chain nat-prerouting {
                type nat hook prerouting priority -100
                jump services
              }
              chain pre-dnat-output {
                type filter hook output priority -110
                ct state new jump restrict-sources
              }
              chain pre-dnat-prerouting {
                type filter hook prerouting priority -110
                ct state new jump restrict-sources
              }
              chain raw-prerouting {
                type filter hook prerouting priority -300
                iifname != "lo" ip daddr 127.0.0.0/8 drop
              }
              chain reject {
                meta l4proto tcp reject with tcp reset
                reject with icmpx port-unreachable
              }
              chain restrict-sources {
                ip daddr . meta l4proto . th dport @restricted-ips ip saddr . ip daddr . meta l4proto . th dport != @restricted-sources drop
              }
              chain services {
                ip saddr != 10.42.0.0/16 ip daddr @cluster-ips meta mark set meta mark or 0x4000
                ip daddr . meta l4proto . th dport vmap @service-ips
                fib daddr type local meta l4proto . th dport vmap @service-nodeports
                fib daddr type local ip daddr . meta l4proto . th dport map @host-ip-ports dnat
                fib daddr type local meta l4proto . th dport map @host-ports dnat
              }
            }
        "#]].assert_eq(&build(&[], &[], &[], Family::Ip).to_string());
    }

    #[test]
    fn cluster_ip_over_two_endpoints() {
        check(
            &[service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#)],
            &[slice("web", "", 8080, &[("10.42.0.2", "n1", "ready"), ("10.42.1.2", "n2", "ready")])],
            &[],
            expect![[r#"
                table ip dhow {
                  set cluster-ips {
                    10.43.0.5
                  }
                  map endpoints {
                    10.43.0.5 . tcp . 80 . 0x0 : 10.42.0.2 . 8080
                    10.43.0.5 . tcp . 80 . 0x1 : 10.42.1.2 . 8080
                  }
                  set hairpin {
                    10.42.0.2 . 10.42.0.2 . tcp . 8080
                  }
                  map service-ips {
                    10.43.0.5 . tcp . 80 : goto lb-2
                  }
                  chain lb-2 {
                    ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints dnat
                  }
                }
            "#]],
        );
    }

    #[test]
    fn no_endpoints_is_refused_and_local_without_local_endpoints_is_dropped() {
        check(
            &[
                service("web", r#"{"type":"NodePort","clusterIP":"10.43.0.5","ports":[{"port":80,"nodePort":30080}]}"#),
                service("here", r#"{"clusterIP":"10.43.0.6","internalTrafficPolicy":"Local","ports":[{"port":80}]}"#),
            ],
            &[slice("here", "", 80, &[("10.42.1.2", "n2", "ready")])],
            &[],
            expect![[r#"
                table ip dhow {
                  set cluster-ips {
                    10.43.0.5
                    10.43.0.6
                  }
                  map no-endpoint-nodeports {
                    tcp . 30080 : goto reject
                  }
                  map no-endpoint-services {
                    10.43.0.5 . tcp . 80 : goto reject
                    10.43.0.6 . tcp . 80 : drop
                  }
                }
            "#]],
        );
    }

    #[test]
    fn node_port_external_ip_and_policy_local() {
        check(
            &[service(
                "web",
                r#"{"type":"NodePort","clusterIP":"10.43.0.5","externalTrafficPolicy":"Local","externalIPs":["192.0.2.7"],
                    "ports":[{"port":80,"nodePort":30080}]}"#,
            )],
            &[slice("web", "", 80, &[("10.42.0.2", "n1", "ready"), ("10.42.1.2", "n2", "ready")])],
            &[],
            expect![[r#"
                table ip dhow {
                  set cluster-ips {
                    10.43.0.5
                  }
                  map endpoints {
                    10.43.0.5 . tcp . 80 . 0x0 : 10.42.0.2 . 80
                    10.43.0.5 . tcp . 80 . 0x1 : 10.42.1.2 . 80
                    192.0.2.7 . tcp . 80 . 0x0 : 10.42.0.2 . 80
                    192.0.2.7 . tcp . 80 . 0x10000 : 10.42.0.2 . 80
                    192.0.2.7 . tcp . 80 . 0x1 : 10.42.1.2 . 80
                  }
                  set hairpin {
                    10.42.0.2 . 10.42.0.2 . tcp . 80
                  }
                  map np-endpoints {
                    tcp . 30080 . 0x0 : 10.42.0.2 . 80
                    tcp . 30080 . 0x10000 : 10.42.0.2 . 80
                    tcp . 30080 . 0x1 : 10.42.1.2 . 80
                  }
                  map service-ips {
                    10.43.0.5 . tcp . 80 : goto lb-2
                    192.0.2.7 . tcp . 80 : goto ext-2-local-1
                  }
                  map service-nodeports {
                    tcp . 30080 : goto np-2-local-1
                  }
                  chain ext-2-local-1 {
                    ip saddr 10.42.0.0/16 goto lb-2
                    fib saddr type local meta mark set meta mark or 0x4000 goto lb-2
                    ip daddr . meta l4proto . th dport . numgen random mod 1 offset 65536 map @endpoints dnat
                  }
                  chain lb-2 {
                    ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints dnat
                  }
                  chain np-2-local-1 {
                    ip saddr 10.42.0.0/16 goto np-lb-2
                    fib saddr type local meta mark set meta mark or 0x4000 goto np-lb-2
                    meta l4proto . th dport . numgen random mod 1 offset 65536 map @np-endpoints dnat
                  }
                  chain np-lb-2 {
                    meta l4proto . th dport . numgen random mod 2 map @np-endpoints dnat
                  }
                }
            "#]],
        );
    }

    #[test]
    fn affinity_goes_through_ids() {
        check(
            &[service(
                "web",
                r#"{"type":"NodePort","clusterIP":"10.43.0.5","sessionAffinity":"ClientIP","ports":[{"port":80,"nodePort":30080}]}"#,
            )],
            &[slice("web", "", 80, &[("10.42.0.2", "n1", "ready")])],
            &[],
            expect![[r#"
                table ip dhow {
                  set cluster-ips {
                    10.43.0.5
                  }
                  map endpoint-ids {
                    10.43.0.5 . tcp . 80 . 0x0 : 0x504da8b7
                  }
                  map endpoints-by-id {
                    10.43.0.5 . tcp . 80 . 0x504da8b7 : 10.42.0.2 . 80
                  }
                  set hairpin {
                    10.42.0.2 . 10.42.0.2 . tcp . 80
                  }
                  map np-endpoint-ids {
                    tcp . 30080 . 0x0 : 0x504da8b7
                  }
                  map np-endpoints-by-id {
                    tcp . 30080 . 0x504da8b7 : 10.42.0.2 . 80
                  }
                  map service-ips {
                    10.43.0.5 . tcp . 80 : goto lb-1-aff-10800
                  }
                  map service-nodeports {
                    tcp . 30080 : goto np-1-aff-10800
                  }
                  chain lb-1-aff-10800 {
                    ip daddr . meta l4proto . th dport of ip saddr map @affinity map @endpoints-by-id update @affinity { ip saddr timeout 10800s : id } dnat
                    ip daddr . meta l4proto . th dport . numgen random mod 1 map @endpoint-ids map @endpoints-by-id update @affinity { ip saddr timeout 10800s : id } dnat
                  }
                  chain np-1-aff-10800 {
                    meta mark set meta mark or 0x4000 goto np-lb-1-aff-10800
                  }
                  chain np-lb-1-aff-10800 {
                    meta l4proto . th dport of ip saddr map @np-affinity map @np-endpoints-by-id update @np-affinity { ip saddr timeout 10800s : id } dnat
                    meta l4proto . th dport . numgen random mod 1 map @np-endpoint-ids map @np-endpoints-by-id update @np-affinity { ip saddr timeout 10800s : id } dnat
                  }
                }
            "#]],
        );
    }

    #[test]
    fn host_ports_lead_to_pods() {
        let mapping = |host_ip: Option<&str>| HostPortMapping {
            host_ip: host_ip.map(|i| i.parse().expect("ip")),
            host_port: 8080,
            protocol: Protocol::Udp,
            pod_ip: "10.42.0.9".parse().expect("ip"),
            pod_port: 80,
        };
        check(
            &[],
            &[],
            &[mapping(None), mapping(Some("192.0.2.1"))],
            expect![[r#"
            table ip dhow {
              set hairpin {
                10.42.0.9 . 10.42.0.9 . udp . 80
              }
              map host-ip-ports {
                192.0.2.1 . udp . 8080 : 10.42.0.9 . 80
              }
              map host-ports {
                udp . 8080 : 10.42.0.9 . 80
              }
            }
        "#]],
        );
    }

    #[test]
    fn load_balancer_sources_are_limited() {
        let mut web = service(
            "web",
            r#"{"type":"LoadBalancer","clusterIP":"10.43.0.5","loadBalancerSourceRanges":["192.0.2.0/24"],"ports":[{"port":80}]}"#,
        );
        web.status = api::Codec::decode(
            br#"{"metadata":{},"status":{"loadBalancer":{"ingress":[{"ip":"198.51.100.1"},{"ip":"198.51.100.2","ipMode":"Proxy"}]}}}"#,
        )
        .map(|s: Service| s.status)
        .expect("a literal status");
        let full = build(&[web], &[slice("web", "", 80, &[("10.42.0.2", "n1", "ready")])], &[], Family::Ip);
        let shown = |name: &str| {
            let plan = &full.sets[name];
            plan.elements.iter().map(|e| element_text(&plan.set, e)).collect::<Vec<_>>().join("\n")
        };
        expect!["198.51.100.1 . tcp . 80"].assert_eq(&shown("restricted-ips"));
        expect!["192.0.2.0 . 198.51.100.1 . tcp . 80 - 192.0.2.255 . 198.51.100.1 . tcp . 80"]
            .assert_eq(&shown("restricted-sources"));
    }

    #[test]
    fn every_register_is_within_bounds_in_ipv6() {
        let layout = Layout { address: 4 };
        assert_eq!(layout.endpoint_port(), Reg(15));
    }

    #[test]
    fn endpoint_ids_are_distinct_and_stable() {
        let backend = |n: u8| Backend { address: SocketAddr::from(([10, 42, 0, n], 80)), local: true };
        let all: Vec<Backend> = (0..200).map(backend).collect();
        let ids = endpoint_ids(&all, LOCAL_ID);
        assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), 200);
        assert!(ids.iter().all(|id| id & LOCAL_ID != 0));
        assert_eq!(endpoint_ids(&all[100..], LOCAL_ID), ids[100..], "others gone, ids stay");
    }
}
