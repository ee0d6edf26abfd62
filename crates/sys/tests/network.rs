//! Netlink and nftables against the real kernel, each test in its own network namespace. Needs root.

use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;
use sys::netlink::{LinkDetails, Neighbour, NewAddress, NewLink, Nexthop, Route, RouteEntry, VethPeer, netns};
use sys::nft::*;

/// A namespace that vanishes with the value.
fn private_netns() -> OwnedFd {
    netns::create().expect("these tests need root: they make network namespaces")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

fn link<'a>(name: &'a str, details: LinkDetails<'a>) -> NewLink<'a> {
    NewLink { name, mtu: 0, mac: None, alias: "", master: None, details }
}

#[test]
fn bridge_veth_addresses_and_routes_are_made_read_and_removed() {
    let (host, pod) = (private_netns(), private_netns());
    let mut route = Route::open_in(host.as_fd()).expect("socket");
    let mac = [2, 0, 10, 42, 0, 1];
    let new = NewLink { mtu: 1400, mac: Some(mac), alias: "dhow test", ..link("br0", LinkDetails::Bridge) };
    route.link_add(&new).expect("bridge");
    let bridge = route.link_by_name("br0").expect("look up").expect("there");
    assert_eq!((bridge.mac, bridge.mtu, bridge.up, bridge.kind.as_str()), (Some(mac), 1400, true, "bridge"));
    assert_eq!(bridge.alias, "dhow test");

    let details = LinkDetails::Veth(VethPeer { name: "eth0", netns: pod.as_fd() });
    route.link_add(&NewLink { master: Some(bridge.index), ..link("v1", details) }).expect("veth");
    let veth = route.link_by_name("v1").expect("look up").expect("there");
    assert_eq!((veth.master, veth.up), (Some(bridge.index), true));
    route.bridge_port_set(veth.index, true, false).expect("isolate");

    let address = NewAddress { ip: ip("10.42.0.1"), prefix: 24 };
    route.address_add(bridge.index, address).expect("address");
    route.address_add(bridge.index, address).expect("again is fine");
    assert!(
        route.addresses().expect("list").iter().any(|a| (a.link, a.ip, a.prefix) == (bridge.index, address.ip, 24))
    );

    let mut inside = Route::open_in(pod.as_fd()).expect("socket");
    let eth0 = inside.link_by_name("eth0").expect("look up").expect("born inside");
    inside.link_set_up(eth0.index, true).expect("up");
    inside.link_set_up(1, true).expect("lo up");
    inside.address_add(eth0.index, NewAddress { ip: ip("10.42.0.5"), prefix: 32 }).expect("address");
    let default = RouteEntry {
        destination: ip("0.0.0.0"),
        prefix: 0,
        nexthop: Nexthop::Gateway { via: ip("10.42.0.1"), link: eth0.index, onlink: true },
        source: None,
        protocol: RouteEntry::OURS,
    };
    inside.route_replace(&default).expect("default route");
    assert!(inside.routes().expect("list").contains(&default));
    inside.route_delete(&default).expect("delete");
    inside.route_delete(&default).expect("absent is fine");
    assert!(!inside.routes().expect("list").contains(&default));

    route.link_delete(veth.index).expect("delete");
    route.link_delete_named("v1").expect("absent is fine");
    assert_eq!(inside.link_by_name("eth0").expect("look up"), None, "the peer went too");
}

#[test]
fn refusals_name_what_was_tried_and_the_kernels_reason() {
    let host = private_netns();
    let mut route = Route::open_in(host.as_fd()).expect("socket");
    route.link_add(&link("br0", LinkDetails::Bridge)).expect("bridge");
    let error = route.link_add(&link("br0", LinkDetails::Bridge)).expect_err("twice");
    assert!(error.is_exists(), "{error}");
    assert!(error.to_string().starts_with("failed to create bridge br0: "), "{error}");
    let gateway = RouteEntry {
        destination: ip("10.9.0.0"),
        prefix: 16,
        nexthop: Nexthop::Gateway { via: ip("192.0.2.1"), link: 0, onlink: false },
        source: None,
        protocol: 4,
    };
    let error = route.route_replace(&gateway).expect_err("unreachable gateway").to_string();
    assert!(error.contains("add route 10.9.0.0/16") && error.contains("invalid gateway"), "{error}");
}

#[test]
fn vxlan_with_forwarding_entries() {
    let host = private_netns();
    let mut route = Route::open_in(host.as_fd()).expect("socket");
    let details = LinkDetails::Vxlan { vni: 7, port: 8472, local: ip("192.0.2.1"), link: None };
    route.link_add(&NewLink { mtu: 1450, ..link("vx0", details) }).expect("vxlan");
    let vx = route.link_by_name("vx0").expect("look up").expect("there");
    let mac = [2, 0, 0, 0, 0, 9];
    let entries = [
        Neighbour { link: vx.index, ip: ip("10.42.1.0"), mac, forwarding: false },
        Neighbour { link: vx.index, ip: ip("192.0.2.9"), mac, forwarding: true },
    ];
    for entry in &entries {
        route.neighbour_replace(entry).expect("add");
        route.neighbour_replace(entry).expect("replace");
    }
    let found = route.neighbours(vx.index).expect("list");
    assert!(entries.iter().all(|e| found.contains(e)), "{found:?}");
    route.neighbour_delete(&entries[0]).expect("delete");
    route.neighbour_delete(&entries[0]).expect("absent is fine");
}

fn table() -> Table {
    Table { family: Family::Ip, name: "t".into() }
}

fn set(name: &str, key: &[FieldType], data: Option<MapData>) -> Set {
    Set { name: name.into(), key: key.to_vec(), data, interval: false, dynamic: false, size: None }
}

fn key(address: [u8; 4], port: u16) -> Vec<u8> {
    let [high, low] = port.to_be_bytes();
    [address, [6, 0, 0, 0], [high, low, 0, 0]].concat()
}

/// Every kind of set and expression in one table.
fn everything() -> Batch {
    use FieldType::{Ipv4, Number, Port, Proto};
    let services = set("services", &[Ipv4, Proto, Port], Some(MapData::Verdict));
    let eps = set("eps", &[Ipv4, Proto, Port, Number], Some(MapData::Fields(vec![Ipv4, Port])));
    let nets = Set { interval: true, ..set("nets", &[Ipv4], None) };
    let ranges = Set { interval: true, ..set("ranges", &[Ipv4, Port], None) };
    let dynamic = Set { dynamic: true, size: Some(1000), ..set("aff", &[Ipv4], Some(MapData::Fields(vec![Number]))) };
    let ep = |i: u32| [key([10, 0, 0, 1], 80), i.to_ne_bytes().to_vec()].concat();
    let r = Reg;
    let lb = Rule {
        exprs: vec![
            Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, dreg: r(0) },
            Expr::Meta { key: MetaKey::L4Proto, dreg: r(1) },
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg: r(2) },
            Expr::Numgen { dreg: r(3), modulus: 2, kind: NumgenKind::Random, offset: 0 },
            Expr::Map { set: "eps".into(), sreg: r(0), dreg: r(4) },
            Expr::Payload { base: PayloadBase::Network, offset: 12, len: 4, dreg: r(6) },
            Expr::Dynset {
                set: "aff".into(),
                op: DynsetOp::Update,
                key: r(6),
                data: Some(r(3)),
                timeout: Some(Duration::from_secs(60)),
            },
            Expr::Nat { kind: NatKind::Destination, family: Family::Ip, addr: Some(r(4)), port: Some(r(5)) },
        ],
    };
    let dispatch = Rule {
        exprs: vec![
            Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, dreg: r(0) },
            Expr::Meta { key: MetaKey::L4Proto, dreg: r(1) },
            Expr::Payload { base: PayloadBase::Transport, offset: 2, len: 2, dreg: r(2) },
            Expr::VerdictMap { set: "services".into(), sreg: r(0) },
        ],
    };
    let misc = Rule {
        exprs: vec![
            Expr::Ct { key: CtKey::State, dreg: r(0) },
            Expr::Bitwise { sreg: r(0), dreg: r(0), mask: 8u32.to_ne_bytes().to_vec(), xor: vec![0; 4] },
            Expr::Cmp { sreg: r(0), op: CmpOp::Neq, data: vec![0; 4] },
            Expr::FibType { of: AddressType::Destination, dreg: r(0) },
            Expr::Cmp { sreg: r(0), op: CmpOp::Eq, data: 2u32.to_ne_bytes().to_vec() },
            Expr::Payload { base: PayloadBase::Network, offset: 16, len: 4, dreg: r(0) },
            Expr::InSet { set: "nets".into(), sreg: r(0), negate: false },
            Expr::Counter,
            Expr::Reject(Reject::PortUnreachable),
        ],
    };
    let base = |kind, hook, priority| Some(BaseChain { kind, hook, priority });
    Batch {
        table: table(),
        ops: vec![
            Op::AddTable,
            Op::AddSet(services.clone()),
            Op::AddSet(eps.clone()),
            Op::AddSet(nets.clone()),
            Op::AddSet(ranges.clone()),
            Op::AddSet(dynamic),
            Op::AddChain("pre".into(), base(ChainKind::Nat, Hook::Prerouting, -100)),
            Op::AddChain("post".into(), base(ChainKind::Nat, Hook::Postrouting, 100)),
            Op::AddChain("fwd".into(), base(ChainKind::Filter, Hook::Forward, 0)),
            Op::AddChain("lb_2".into(), None),
            Op::AddRule("lb_2".into(), lb),
            Op::AddRule("pre".into(), dispatch),
            Op::AddRule("fwd".into(), misc),
            Op::AddRule("post".into(), Rule { exprs: vec![Expr::Masquerade] }),
            Op::AddElements(
                services,
                vec![Element::entry(key([10, 0, 0, 1], 80), Data::Verdict(Verdict::Goto("lb_2".into())))],
            ),
            Op::AddElements(
                eps,
                (0..700).map(|i| Element::entry(ep(i), Data::Value(vec![10, 1, 0, 1, 0, 80, 0, 0]))).collect(),
            ),
            Op::AddElements(
                nets,
                vec![
                    Element { key_end: Some(vec![10, 255, 255, 255]), ..Element::member(vec![10, 0, 0, 0]) },
                    Element { key_end: Some(vec![255; 4]), ..Element::member(vec![255, 0, 0, 0]) },
                    Element::member(vec![9, 9, 9, 9]),
                ],
            ),
            Op::AddElements(
                ranges,
                vec![Element {
                    key_end: Some(vec![10, 0, 0, 255, 0x23, 0x28, 0, 0]),
                    ..Element::member(vec![10, 0, 0, 0, 0x1f, 0x40, 0, 0])
                }],
            ),
        ],
    }
}

#[test]
fn a_table_is_committed_and_read_back() {
    let host = private_netns();
    let batch = everything();
    netns::within(host.as_fd(), || {
        let mut nft = Nft::open().expect("socket");
        nft.commit(&batch).unwrap_or_else(|e| panic!("{}", base::chain(&e)));
        let state = nft.read(&table()).expect("read").expect("there");
        assert_eq!(state.sets["eps"].elements.len(), 700);
        for op in &batch.ops {
            match op {
                Op::AddSet(set) => assert!(state.sets[&set.name].has_shape_of(set), "{}: {state:?}", set.name),
                Op::AddElements(set, elements) => {
                    let sorted = |mut e: Vec<Element>| {
                        e.sort();
                        e
                    };
                    assert_eq!(sorted(state.sets[&set.name].elements.clone()), sorted(elements.clone()));
                }
                Op::AddRule(chain, rule) => assert_eq!(state.chains[chain].rules, [rule.fingerprint()]),
                Op::AddChain(name, base) => assert_eq!(state.chains[name].base, *base),
                _ => {}
            }
        }
        let listing = list_ruleset();
        assert!(listing.contains("goto lb_2") && listing.contains("numgen random mod 2"), "{listing}");
        nft.delete_table(&table()).expect("delete");
        nft.delete_table(&table()).expect("absent is fine");
        assert_eq!(nft.read(&table()).expect("read"), None);
    })
    .expect("enter");
}

#[test]
fn a_refused_batch_changes_nothing_and_names_the_operation() {
    let host = private_netns();
    netns::within(host.as_fd(), || {
        let mut nft = Nft::open().expect("socket");
        let rule = Rule { exprs: vec![Expr::Verdict(Verdict::Jump("nowhere".into()))] };
        let ops = vec![Op::AddTable, Op::AddChain("a".into(), None), Op::AddRule("a".into(), rule)];
        let error = nft.commit(&Batch { table: table(), ops }).expect_err("no such chain");
        let text = error.to_string();
        assert!(text.contains("add a rule of 1 expressions to chain a in table ip t"), "{text}");
        assert_eq!(nft.read(&table()).expect("read"), None);
    })
    .expect("enter");
}

/// What Debian's `nft` makes of our table: a second reader that knows nothing of our encoder.
#[expect(clippy::disallowed_methods, reason = "tests may run programs")]
fn list_ruleset() -> String {
    let output = std::process::Command::new("nft").args(["list", "ruleset"]).output();
    let output = output.expect("the nft program is missing: apt-get install nftables");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn sysctls_belong_to_the_namespace() {
    let (a, b) = (private_netns(), private_netns());
    let set = |ns: &OwnedFd, v| netns::within(ns.as_fd(), || netns::write_sysctl("ipv4/ip_forward", v)).expect("enter");
    let first = set(&a, "1").expect("write");
    assert_eq!(set(&a, "1").expect("write"), "1");
    assert_eq!(set(&b, "0").expect("read"), first, "the other namespace has its own");
}
