//! Pods, Services and DNS as real packets. Each test has its own "host" network namespace with pods as further namespaces; all vanish
//! with the test. Needs root.

use api::prelude::{EndpointSlice, Service};
use base::{SeededRandom, SystemClock};
use net::pod::{HostPort, PodNetwork, PodNetworkError};
use net::service::{HealthServer, PROXY_HEALTH_PORT, Protocol, ServiceProxy, SyncReport};
use net::{Change, NetConfig};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use sys::netlink::{LinkDetails, NewAddress, NewLink, Nexthop, Route, RouteEntry, VethPeer, netns};
use sys::nft::{Family, Nft};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(5);

struct Host {
    netns: OwnedFd,
    config: NetConfig,
    pods: PodNetwork,
    proxy: Arc<ServiceProxy>,
    forwarding_before: String,
    _state: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        Host::with(NetConfig::default())
    }

    fn with(config: NetConfig) -> Host {
        let netns = netns::create().expect("these tests need root: they make network namespaces");
        let state = tempfile::tempdir().expect("directory");
        let config = NetConfig { node_name: "n1".into(), state_dir: state.path().join("net"), ..config };
        let pods = PodNetwork::new(config.clone(), Arc::new(SeededRandom::new(1))).expect("pods");
        let proxy = Arc::new(ServiceProxy::new(config.clone(), SystemClock::shared()));
        let forwarding_before = netns::within(netns.as_fd(), forwarding).expect("enter");
        let host = Host { netns, config, pods, proxy, forwarding_before, _state: state };
        host.run(|| {
            Route::open().and_then(|mut r| r.link_set_up(1, true)).expect("lo");
            host.pods.setup().unwrap_or_else(|e| panic!("{}", base::chain(&e)));
        });
        host
    }

    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.netns.as_fd(), work).expect("enter the host")
    }

    fn sync(&self) -> SyncReport {
        self.run(|| self.proxy.sync()).unwrap_or_else(|e| panic!("{}", base::chain(&e)))
    }

    fn pod(&self, id: &str) -> Pod {
        self.pod_with(id, &[])
    }

    fn pod_with(&self, id: &str, ports: &[HostPort]) -> Pod {
        let netns = netns::create().expect("namespace");
        let ips =
            self.run(|| self.pods.attach(id, netns.as_fd(), ports)).unwrap_or_else(|e| panic!("{}", base::chain(&e)));
        Pod { id: id.into(), netns, ip: ips.primary().expect("an address") }
    }

    /// A machine beside the host, 192.0.2.2, with the host as 192.0.2.1. It knows no pod network.
    fn neighbour(&self) -> OwnedFd {
        let netns = netns::create().expect("namespace");
        self.run(|| {
            let mut route = Route::open().expect("socket");
            let details = LinkDetails::Veth(VethPeer { name: "eth0", netns: netns.as_fd() });
            let new = NewLink { name: "uplink", mtu: 0, mac: None, alias: "", master: None, details };
            route.link_add(&new).expect("veth");
            let uplink = route.link_by_name("uplink").expect("look up").expect("there").index;
            route.address_add(uplink, NewAddress { ip: ip("192.0.2.1"), prefix: 24 }).expect("address");
        });
        let mut inside = Route::open_in(netns.as_fd()).expect("socket");
        let eth0 = inside.link_by_name("eth0").expect("look up").expect("there").index;
        inside.address_add(eth0, NewAddress { ip: ip("192.0.2.2"), prefix: 24 }).expect("address");
        inside.link_set_up(eth0, true).expect("up");
        netns
    }

    fn service(&self, name: &str, spec: &str) {
        let json = format!(r#"{{"metadata":{{"namespace":"default","name":"{name}"}},"spec":{spec}}}"#);
        let service: Service = api::Codec::decode(json.as_bytes()).expect("a literal Service");
        self.proxy.apply(Change::Set(&service));
    }

    fn endpoints(&self, service: &str, protocol: &str, port: u16, pods: &[&Pod]) {
        let endpoints: Vec<String> = pods
            .iter()
            .map(|p| format!(r#"{{"addresses":["{}"],"nodeName":"n1","conditions":{{"ready":true}}}}"#, p.ip))
            .collect();
        let json = format!(
            r#"{{"metadata":{{"namespace":"default","name":"{service}-x","labels":{{"kubernetes.io/service-name":"{service}"}}}},
                "addressType":"IPv4","ports":[{{"name":"","port":{port},"protocol":"{protocol}"}}],"endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        let slice: EndpointSlice = api::Codec::decode(json.as_bytes()).expect("a literal EndpointSlice");
        self.proxy.apply(Change::Set(&slice));
    }

    fn links(&self) -> Vec<String> {
        self.run(|| Route::open().and_then(|mut r| r.links())).expect("links").into_iter().map(|l| l.name).collect()
    }
}

struct Pod {
    id: String,
    netns: OwnedFd,
    ip: IpAddr,
}

impl Pod {
    fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        netns::within(self.netns.as_fd(), work).expect("enter the pod")
    }

    /// Answers every TCP connection with "<pod> <who asked>". The listener's thread lives as long as the test process.
    fn serve_tcp(&self, port: u16) {
        let listener = self.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port))).expect("listen");
        let id = self.id.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let who = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                // A client that went away is its own business.
                drop(stream.write_all(format!("{id} {who}").as_bytes()));
            }
        });
    }

    fn serve_udp(&self, port: u16) {
        let socket = self.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))).expect("bind");
        let id = self.id.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(id.as_bytes(), from));
            }
        });
    }
}

fn forwarding() -> String {
    std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").expect("read")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a literal address")
}

/// Asks, in the namespace of the calling thread: "<pod> <who asked>", or the error.
fn ask(to: &str) -> Result<String, std::io::Error> {
    let to: SocketAddr = to.parse().expect("a literal address");
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// How often each pod answered `n` questions.
fn spread(to: &str, n: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let text = ask(to).unwrap_or_else(|e| panic!("{to}: {e}"));
        *counts.entry(text.split(' ').next().unwrap_or_default().to_owned()).or_default() += 1;
    }
    counts
}

#[test]
fn pods_reach_each_other_and_keep_their_addresses() {
    let host = Host::new();
    let (a, b) = (host.pod("a"), host.pod("b"));
    assert_eq!((a.ip, b.ip), (ip("10.42.0.2"), ip("10.42.0.3")));
    b.serve_tcp(80);
    assert_eq!(a.run(|| ask("10.42.0.3:80")).expect("pod to pod"), "b 10.42.0.2");
    assert_eq!(host.run(|| ask("10.42.0.3:80")).expect("host to pod"), "b 10.42.0.1");

    let again = host.run(|| host.pods.attach("b", b.netns.as_fd(), &[])).expect("again");
    assert_eq!(again.primary(), Some(b.ip));
    assert_eq!(a.run(|| ask("10.42.0.3:80")).expect("still"), "b 10.42.0.2");

    // A new process: same leases, and what died in between is freed.
    let restarted = PodNetwork::new(host.config.clone(), Arc::new(SeededRandom::new(2))).expect("pods");
    host.run(|| restarted.setup()).expect("setup again");
    assert_eq!(restarted.addresses("b"), Some(again));
    let links = host.links().len();
    let freed = host.run(|| restarted.recover(&BTreeSet::from(["b".to_owned()]))).expect("recover");
    assert_eq!(freed, ["a"]);
    assert_eq!(host.links().len(), links - 1);
    assert_eq!(host.run(|| ask("10.42.0.3:80")).expect("untouched"), "b 10.42.0.1");
    host.run(|| restarted.detach("b")).expect("detach");
    host.run(|| restarted.detach("b")).expect("absent is fine");
}

#[test]
fn a_link_made_in_advance_is_the_pods_and_otherwise_goes() {
    let host = Host::new();
    let pods = Arc::new(PodNetwork::new(host.config.clone(), Arc::new(SeededRandom::new(3))).expect("pods"));
    let waiting = [(); 3].map(|()| netns::create().expect("namespace"));
    // It lives as long as the other end of the pipe.
    let (owner, _process) = std::io::pipe().expect("pipe");
    let links_before = host.links().len();
    host.run(|| {
        pods.setup().expect("setup");
        let (sender, receiver) = tokio::sync::mpsc::channel(3);
        for netns in &waiting {
            let owner = owner.try_clone().expect("descriptor").into();
            let owned = netns::Owned { netns: netns.try_clone().expect("descriptor"), owner };
            sender.try_send(owned).expect("room");
        }
        drop(sender);
        let tokio = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build().expect("tokio");
        tokio.block_on(pods.clone().prepare(receiver, 2));
    });
    assert_eq!(host.links().len(), links_before + 3);
    let mac = |netns: &OwnedFd| {
        let mut route = Route::open_in(netns.as_fd()).expect("socket");
        route.link_by_name("eth0").expect("look up").expect("there").mac
    };
    let [forgotten, second, _third] = &waiting;
    let (before, replaced) = (mac(second), mac(forgotten));
    // The one that is beyond what is kept is an orphan, the others are not.
    host.run(|| pods.recover(&BTreeSet::new())).expect("recover");
    assert_eq!(host.links().len(), links_before + 2);
    let attach = |id: &str, netns: &OwnedFd| {
        let ips = host.run(|| pods.attach(id, netns.as_fd(), &[])).unwrap_or_else(|e| panic!("{}", base::chain(&e)));
        ips.primary().expect("an address")
    };
    let b = Pod { id: "b".into(), ip: attach("b", second), netns: second.try_clone().expect("descriptor") };
    assert_eq!(mac(second), before, "the link that was there");
    b.serve_tcp(80);
    assert_eq!(host.run(|| ask(&format!("{}:80", b.ip))).expect("host to pod"), "b 10.42.0.1");
    // Without a link, as after the loss of one, it is made now.
    let a = Pod { id: "a".into(), ip: attach("a", forgotten), netns: forgotten.try_clone().expect("descriptor") };
    assert_ne!(mac(forgotten), replaced);
    assert_eq!(a.run(|| ask(&format!("{}:80", b.ip))).expect("pod to pod"), format!("b {}", a.ip));
}

#[test]
fn a_full_network_and_a_taken_host_port_say_so() {
    let mut host = Host::new();
    host.config.pod_cidrs = vec!["10.42.0.0/29".parse().expect("net")];
    host.pods = PodNetwork::new(host.config.clone(), Arc::new(SeededRandom::new(1))).expect("pods");
    let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
    let _first = host.pod_with("p0", &[port]);
    let taken = host.run(|| host.pods.attach("other", host.netns.as_fd(), &[port])).expect_err("taken");
    assert_eq!(taken.to_string(), "host port 8080/TCP for pod other is in use by pod p0");
    let _rest: Vec<Pod> = (1..5).map(|i| host.pod(&format!("p{i}"))).collect();
    let full = host.run(|| host.pods.attach("p9", host.netns.as_fd(), &[])).expect_err("full");
    assert!(matches!(full, PodNetworkError::NoFreeAddress { .. }));
    assert_eq!(full.to_string(), "no free address for pod p9 in 10.42.0.0/29: all 5 are in use by pods of this node");
}

#[test]
fn cluster_ip_spreads_over_ready_pods_and_follows_them() {
    let host = Host::new();
    let (client, a, b) = (host.pod("client"), host.pod("a"), host.pod("b"));
    a.serve_tcp(8080);
    b.serve_tcp(8080);
    host.service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80,"targetPort":8080}]}"#);
    host.endpoints("web", "TCP", 8080, &[&a, &b]);
    assert!(host.sync().operations > 0);
    assert_eq!(host.sync().operations, 0, "nothing to do twice");

    for (who, counts) in
        [("pod", client.run(|| spread("10.43.0.5:80", 40))), ("host", host.run(|| spread("10.43.0.5:80", 40)))]
    {
        assert!(counts["a"] > 5 && counts["b"] > 5, "{who}: {counts:?}");
    }
    assert_eq!(
        client.run(|| ask("10.43.0.5:80")).expect("answer").split(' ').nth(1),
        Some("10.42.0.2"),
        "not masqueraded"
    );

    // Hairpin: the only endpoint asks for itself.
    host.endpoints("web", "TCP", 8080, &[&a]);
    host.sync();
    assert_eq!(client.run(|| spread("10.43.0.5:80", 10)), BTreeMap::from([("a".to_owned(), 10)]));
    assert_eq!(a.run(|| ask("10.43.0.5:80")).expect("hairpin"), "a 10.42.0.1");

    // Nobody left: refused at once, from a pod and from the host, also a port that the Service never had.
    host.endpoints("web", "TCP", 8080, &[]);
    host.sync();
    for refused in
        [client.run(|| ask("10.43.0.5:80")), host.run(|| ask("10.43.0.5:80")), client.run(|| ask("10.43.0.5:81"))]
    {
        assert_eq!(refused.expect_err("nobody").kind(), std::io::ErrorKind::ConnectionRefused);
    }
}

/// The status and body of `GET path` at a port of this namespace.
async fn get(port: u16, path: &str) -> std::io::Result<(String, String)> {
    let mut stream = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let status = text.split(' ').nth(1).unwrap_or_default().to_owned();
    Ok((status, text.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()))
}

/// Asks until the answer has this status ("refused" = nobody listens).
async fn until(port: u16, path: &str, wanted: &str) -> String {
    let asking = async {
        loop {
            match get(port, path).await {
                Ok((status, body)) if status == wanted => return body,
                Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused && wanted == "refused" => {
                    return String::new();
                }
                _ => tokio::task::yield_now().await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("{port}{path} never answers {wanted}"))
}

#[test]
fn load_balancers_are_told_where_endpoints_are() {
    let host = Host::new();
    let a = host.pod("a");
    let balanced = |ip: &str, port: u16| {
        format!(
            r#"{{"type":"LoadBalancer","externalTrafficPolicy":"Local","clusterIP":"{ip}","healthCheckNodePort":{port},
                "ports":[{{"port":80}}]}}"#
        )
    };
    host.service("web", &balanced("10.43.0.5", 31000));
    host.service("taken", &balanced("10.43.0.6", 31001));
    host.endpoints("web", "TCP", 80, &[&a]);
    let _taken = host.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 31001))).expect("listen");
    let (failed, mut failures) = tokio::sync::mpsc::unbounded_channel();
    let on_failure = move |service: &net::service::ServiceName, port: u16, error: &std::io::Error| {
        failed.send(format!("{service} {port} {:?}", error.kind())).expect("the test waits");
    };
    let server = HealthServer::new(host.proxy.clone(), SystemClock::shared(), Box::new(on_failure));
    let story = async {
        let cancel = CancellationToken::new();
        let services = base::tasks::spawn("services", server.clone().services(cancel.clone()));
        let node = base::tasks::spawn("node", server.node(PROXY_HEALTH_PORT, cancel.clone()));
        host.proxy.sync().expect("rules");
        assert_eq!(failures.recv().await.as_deref(), Some("default/taken 31001 AddrInUse"));
        assert!(until(31000, "/any", "200").await.contains(r#""localEndpoints": 1"#));
        assert!(until(PROXY_HEALTH_PORT, "/livez", "200").await.contains(r#""status":{"IPv4":"#));
        let unknown = until(PROXY_HEALTH_PORT, "/healthz", "503").await;
        assert!(unknown.contains(r#""nodeEligible":false,"healthy":true"#), "{unknown}");

        host.endpoints("web", "TCP", 80, &[]);
        assert!(get(31000, "/").await.expect("answer").0 == "200", "the rules do not know it yet");
        host.proxy.sync().expect("rules");
        until(31000, "/", "503").await;
        // Another Service takes over the port.
        let gone = |name| -> Change<'static, Service> { Change::Gone { namespace: "default", name } };
        host.proxy.apply(gone("web"));
        host.service("heir", &balanced("10.43.0.7", 31000));
        host.proxy.sync().expect("rules");
        while !until(31000, "/", "503").await.contains("heir") {}
        host.proxy.apply(gone("heir"));
        host.proxy.sync().expect("rules");
        until(31000, "/", "refused").await;
        cancel.cancel();
        services.await.expect("ends");
        node.await.expect("ends");
    };
    host.run(|| tokio::runtime::Builder::new_current_thread().enable_all().build().expect("tokio").block_on(story));
}

#[test]
fn a_restarted_proxy_finds_its_rules_and_repairs_foreign_damage() {
    let host = Host::new();
    let a = host.pod("a");
    a.serve_tcp(80);
    host.service(
        "web",
        r#"{"type":"NodePort","clusterIP":"10.43.0.5","sessionAffinity":"ClientIP","ports":[{"port":80,"nodePort":30080}]}"#,
    );
    host.endpoints("web", "TCP", 80, &[&a]);
    host.sync();
    let again = Arc::new(ServiceProxy::new(host.config.clone(), SystemClock::shared()));
    let mut restarted = Host { proxy: again, ..host };
    restarted.service(
        "web",
        r#"{"type":"NodePort","clusterIP":"10.43.0.5","sessionAffinity":"ClientIP","ports":[{"port":80,"nodePort":30080}]}"#,
    );
    restarted.endpoints("web", "TCP", 80, &[&a]);
    assert_eq!(restarted.sync().operations, 0, "the kernel was read back and found right");

    let table = restarted.config.nft_table(Family::Ip);
    restarted.run(|| Nft::open().and_then(|mut n| n.delete_table(&table))).expect("somebody flushes");
    assert!(restarted.sync().operations > 0);
    assert_eq!(restarted.run(|| ask("10.43.0.5:80")).expect("repaired").split(' ').next(), Some("a"));

    // Another version's table, with other hooks: replaced whole.
    restarted.run(|| nft("flush chain ip dhow nat-output; delete chain ip dhow nat-output; add chain ip dhow nat-output { type nat hook output priority 5; }"));
    restarted.proxy = Arc::new(ServiceProxy::new(restarted.config.clone(), SystemClock::shared()));
    restarted.sync();
    assert_eq!(restarted.sync().operations, 0);
}

#[test]
fn node_ports_external_addresses_and_masquerade() {
    let host = Host::new();
    let outside = host.neighbour();
    let (client, a, b) = (host.pod("client"), host.pod("a"), host.pod("b"));
    a.serve_tcp(80);
    b.serve_tcp(80);
    host.service(
        "web",
        r#"{"type":"NodePort","clusterIP":"10.43.0.5","externalIPs":["198.51.100.9"],"ports":[{"port":80,"nodePort":30080}]}"#,
    );
    host.endpoints("web", "TCP", 80, &[&a, &b]);
    host.sync();
    let from_outside = |to: &str| netns::within(outside.as_fd(), || ask(to)).expect("enter");
    let who = |answer: std::io::Result<String>| answer.expect("an answer").split(' ').nth(1).map(str::to_owned);
    assert_eq!(who(from_outside("192.0.2.1:30080")).as_deref(), Some("10.42.0.1"), "masqueraded");
    assert_eq!(who(host.run(|| ask("127.0.0.1:30080"))).as_deref(), Some("10.42.0.1"), "also on loopback");
    assert_eq!(who(host.run(|| ask("192.0.2.1:30080"))).as_deref(), Some("10.42.0.1"));
    assert_eq!(who(client.run(|| ask("192.0.2.1:30080"))).as_deref(), Some("10.42.0.1"));
    assert_eq!(who(client.run(|| ask("198.51.100.9:80"))).as_deref(), Some("10.42.0.1"));
    let counts = netns::within(outside.as_fd(), || spread("192.0.2.1:30080", 30)).expect("enter");
    assert!(counts["a"] > 3 && counts["b"] > 3, "{counts:?}");

    // Pod to the outside world: the neighbour has no route to pods.
    let server = Pod { id: "outside".into(), netns: outside, ip: ip("192.0.2.2") };
    server.serve_tcp(9000);
    assert_eq!(client.run(|| ask("192.0.2.2:9000")).expect("out"), "outside 192.0.2.1");

    // Nobody can reach the host's own loopback through the bridge.
    let private = host.run(|| TcpListener::bind("127.0.0.1:0")).expect("listen");
    let port = private.local_addr().expect("bound").port();
    client.run(|| {
        let mut route = Route::open().expect("socket");
        let eth0 = route.link_by_name("eth0").expect("look up").expect("there").index;
        netns::write_sysctl("ipv4/conf/all/route_localnet", "1").expect("sysctl");
        for old in route.addresses().expect("list").iter().filter(|a| a.link == 1) {
            route.address_delete(1, NewAddress { ip: old.ip, prefix: old.prefix }).expect("delete");
        }
        let via = Nexthop::Gateway { via: ip("10.42.0.1"), link: eth0, onlink: true };
        let entry = RouteEntry { destination: ip("127.0.0.0"), prefix: 8, nexthop: via, source: None, protocol: 4 };
        route.route_replace(&entry).expect("route");
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let error = TcpStream::connect_timeout(&to, Duration::from_millis(300)).expect_err("dropped");
        assert_eq!(error.kind(), std::io::ErrorKind::TimedOut, "{error}");
    });
}

#[test]
fn external_policy_local_keeps_the_senders_address() {
    let host = Host::new();
    let outside = host.neighbour();
    // The neighbour must find its way back to a sender that is not masqueraded: answers come through the host anyway.
    let a = host.pod("a");
    a.serve_tcp(80);
    host.service(
        "web",
        r#"{"type":"NodePort","clusterIP":"10.43.0.5","externalTrafficPolicy":"Local","ports":[{"port":80,"nodePort":30080}]}"#,
    );
    host.endpoints("web", "TCP", 80, &[&a]);
    host.sync();
    let answer = netns::within(outside.as_fd(), || ask("192.0.2.1:30080")).expect("enter").expect("answer");
    assert_eq!(answer, "a 192.0.2.2");
}

#[test]
fn affinity_holds_until_the_endpoint_goes() {
    let host = Host::new();
    let (client, a, b) = (host.pod("client"), host.pod("a"), host.pod("b"));
    a.serve_tcp(80);
    b.serve_tcp(80);
    host.service(
        "web",
        r#"{"type":"NodePort","clusterIP":"10.43.0.5","sessionAffinity":"ClientIP","ports":[{"port":80,"nodePort":30080}]}"#,
    );
    host.endpoints("web", "TCP", 80, &[&a, &b]);
    host.sync();
    let all = client.run(|| spread("10.43.0.5:80", 12));
    assert_eq!(all.len(), 1, "one endpoint for one client: {all:?}");
    let node_port = client.run(|| spread("10.42.0.1:30080", 12));
    assert_eq!(node_port.len(), 1, "{node_port:?}");
    let (gone, left) = if all.contains_key("a") { ("a", &b) } else { ("b", &a) };
    host.endpoints("web", "TCP", 80, &[left]);
    host.sync();
    let all = client.run(|| spread("10.43.0.5:80", 5));
    assert!(!all.contains_key(gone), "{all:?}");
}

#[test]
fn udp_flows_move_when_their_endpoint_goes() {
    let host = Host::new();
    let (client, a, b) = (host.pod("client"), host.pod("a"), host.pod("b"));
    a.serve_udp(53);
    b.serve_udp(53);
    host.service("dns", r#"{"clusterIP":"10.43.0.5","ports":[{"port":53,"protocol":"UDP"}]}"#);
    host.endpoints("dns", "UDP", 53, &[&a]);
    host.sync();
    let socket = client.run(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
    let ask = || {
        let mut buffer = [0; 16];
        socket.send_to(b"?", "10.43.0.5:53").expect("send");
        let (len, from) = socket.recv_from(&mut buffer).expect("answer");
        assert_eq!(from.to_string(), "10.43.0.5:53");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    assert_eq!(ask(), "a");
    host.endpoints("dns", "UDP", 53, &[&b]);
    let report = host.sync();
    assert_eq!(report.flows, 1, "the flow to the old endpoint was forgotten");
    assert_eq!(ask(), "b", "same socket, new endpoint");
}

#[test]
fn host_ports_lead_to_their_pod() {
    let host = Host::new();
    let outside = host.neighbour();
    let port = HostPort { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
    let a = host.pod_with("a", &[port]);
    a.serve_tcp(80);
    host.proxy.set_host_ports(host.pods.host_ports());
    host.sync();
    assert_eq!(
        netns::within(outside.as_fd(), || ask("192.0.2.1:8080")).expect("enter").expect("answer"),
        "a 192.0.2.2"
    );
    assert_eq!(host.run(|| ask("127.0.0.1:8080")).expect("loopback"), "a 10.42.0.1");
    assert_eq!(a.run(|| ask("192.0.2.1:8080")).expect("hairpin"), "a 10.42.0.1");
    host.run(|| host.pods.detach("a")).expect("detach");
    host.proxy.set_host_ports(host.pods.host_ports());
    host.sync();
    assert!(netns::within(outside.as_fd(), || ask("192.0.2.1:8080")).expect("enter").is_err());
}

#[test]
fn ipv6_beside_ipv4() {
    let net = |text: &str| text.parse().expect("a literal network");
    let host = Host::with(NetConfig {
        pod_cidrs: vec![net("10.42.0.0/24"), net("fd00:42::/64")],
        cluster_cidrs: vec![net("10.42.0.0/16"), net("fd00:42::/48")],
        service_cidrs: vec![net("10.43.0.0/16"), net("fd00:43::/112")],
        dns_ips: vec![ip("10.43.0.10"), ip("fd00:43::a")],
        ..NetConfig::default()
    });
    let (client, a) = (host.pod("client"), host.pod("a"));
    let six = host.pods.addresses("a").expect("attached").ips[1];
    assert_eq!(six, ip("fd00:42::3"));
    let listener = a.run(|| TcpListener::bind("[::]:80")).expect("listen");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let who = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
            drop(stream.write_all(who.as_bytes()));
        }
    });
    let spec = r#"{"type":"NodePort","clusterIP":"10.43.0.5","clusterIPs":["10.43.0.5","fd00:43::5"],"sessionAffinity":"ClientIP",
        "ports":[{"port":80,"nodePort":30080}]}"#;
    host.service("web", spec);
    host.endpoints(
        "web",
        "TCP",
        80,
        &[&Pod { id: String::new(), netns: netns::create().expect("namespace"), ip: six }],
    );
    host.sync();
    assert_eq!(host.sync().operations, 0);
    for _ in 0..2 {
        assert_eq!(client.run(|| ask("[fd00:43::5]:80")).expect("pod to Service"), "fd00:42::2");
    }
    assert_eq!(a.run(|| ask("[fd00:43::5]:80")).expect("hairpin"), "fd00:42::1");
    assert_eq!(host.run(|| ask("[fd00:43::5]:80")).expect("host to Service"), "fd00:42::1");
    assert_eq!(client.run(|| ask("[fd00:42::1]:30080")).expect("NodePort"), "fd00:42::1");
    let refused = client.run(|| ask("[fd00:43::5]:81")).expect_err("no such port");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    assert_eq!(
        client.run(|| ask("10.43.0.5:80")).expect_err("no IPv4 endpoint").kind(),
        std::io::ErrorKind::ConnectionRefused
    );
    host.run(|| net::teardown(&host.config)).expect("teardown");
    assert_eq!(host.links(), ["lo"]);
}

#[test]
fn dns_answers_pods_and_the_host_at_the_cluster_address() {
    use tokio_util::sync::CancellationToken;
    let host = Host::new();
    let pod = host.pod("client");
    // A Service object for DNS must not lead packets elsewhere.
    host.service("kube-dns", r#"{"clusterIP":"10.43.0.10","ports":[{"port":53,"protocol":"UDP"}]}"#);
    host.service("other", r#"{"clusterIP":"10.43.0.11","ports":[{"port":53,"protocol":"UDP"}]}"#);
    host.sync();
    let server = Arc::new(net::dns::DnsServer::new(net::dns::DnsConfig::default(), Arc::new(SeededRandom::new(3))));
    let json =
        r#"{"metadata":{"namespace":"default","name":"web"},"spec":{"clusterIP":"10.43.0.5","ports":[{"port":80}]}}"#;
    let web: Service = api::Codec::decode(json.as_bytes()).expect("a literal Service");
    server.apply(Change::Set(&web));
    let cancel = CancellationToken::new();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (server, cancel_inside) = (Arc::clone(&server), cancel.clone());
        scope.spawn(|| {
            host.run(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
                runtime.block_on(async {
                    let sockets = server.bind().await.expect("bind 10.43.0.10:53");
                    ready.send(()).expect("the test waits");
                    server.run(sockets, cancel_inside).await;
                });
            });
        });
        is_ready.recv().expect("the server starts");
        // id 7, recursion desired, one question: web.default.svc.cluster.local A IN.
        let mut question = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        for label in ["web", "default", "svc", "cluster", "local"] {
            question.push(label.len() as u8);
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, 1, 0, 1]);
        let udp = || {
            let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
            socket.set_read_timeout(Some(PATIENCE)).expect("timeout");
            socket.send_to(&question, "10.43.0.10:53").expect("send");
            let mut buffer = [0; 512];
            let (len, from) = socket.recv_from(&mut buffer).expect("answer");
            assert_eq!(from.to_string(), "10.43.0.10:53");
            buffer[..len].to_vec()
        };
        for answer in [pod.run(udp), host.run(udp)] {
            assert_eq!(answer[..2], [0, 7]);
            assert_eq!(answer[answer.len() - 4..], [10, 43, 0, 5]);
        }
        let tcp = pod.run(|| {
            let mut stream = TcpStream::connect("10.43.0.10:53").expect("connect");
            stream.write_all(&[&(question.len() as u16).to_be_bytes()[..], &question].concat()).expect("write");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("length");
            let mut answer = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut answer).expect("answer");
            answer
        });
        assert_eq!(tcp[tcp.len() - 4..], [10, 43, 0, 5]);
        cancel.cancel();
    });
}

#[test]
fn tunnels_to_other_nodes_come_and_go() {
    use net::overlay::{Mode, OverlayIndex, Underlay, apply};
    use net::{Apply, Change};
    let host = Host::new();
    let _neighbour = host.neighbour();
    let json = r#"{"metadata":{"name":"n2"},"spec":{"podCIDRs":["10.42.1.0/24"]},
        "status":{"addresses":[{"type":"InternalIP","address":"192.0.2.2"}]}}"#;
    let node: api::prelude::Node = api::Codec::decode(json.as_bytes()).expect("a literal Node");
    let mut index = OverlayIndex::new(host.config.clone(), Mode::Vxlan, ip("192.0.2.1"));
    index.apply(Change::Set(&node));
    let underlay = host.run(|| Underlay::read(ip("192.0.2.1"))).expect("addresses");
    // IPv6 link-local routes come when the kernel feels like it.
    let routes = || {
        let all = host.run(|| Route::open().and_then(|mut r| r.routes())).expect("routes");
        all.into_iter().filter(|r| r.destination.is_ipv4()).collect::<Vec<_>>()
    };
    let before = routes();
    for _ in 0..2 {
        host.run(|| apply(&index.plan(&underlay), &host.config)).unwrap_or_else(|e| panic!("{}", base::chain(&e)));
    }
    assert!(host.links().contains(&"dhow.vx".to_owned()));
    assert!(routes().iter().any(|r| r.destination == ip("10.42.1.0")));
    let gone: Change<'_, api::prelude::Node> = Change::Gone { namespace: "", name: "n2" };
    index.apply(gone);
    host.run(|| apply(&index.plan(&underlay), &host.config)).expect("nobody left");
    assert!(!host.links().contains(&"dhow.vx".to_owned()));
    assert_eq!(routes(), before, "pods' and Services' routes stay");
}

#[test]
fn teardown_leaves_nothing() {
    let host = Host::new();
    let (a, _b) = (host.pod("a"), host.pod("b"));
    host.service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#);
    host.endpoints("web", "TCP", 80, &[&a]);
    host.sync();
    assert!(host.run(|| nft("list ruleset")).contains("10.43.0.5"));
    for _ in 0..2 {
        host.run(|| net::teardown(&host.config)).expect("teardown");
        assert_eq!(host.links(), ["lo"]);
        assert_eq!(host.run(|| nft("list ruleset")), "");
        assert!(host.run(|| Route::open().and_then(|mut r| r.routes())).expect("routes").is_empty());
        assert!(!host.config.state_dir.exists());
    }
    assert_eq!(host.run(forwarding), host.forwarding_before, "put back");
}

/// Debian's `nft`, in the namespace of the calling thread.
#[expect(clippy::disallowed_methods, reason = "tests may run programs")]
fn nft(command: &str) -> String {
    let output = std::process::Command::new("nft").arg(command).output();
    let output = output.expect("the nft program is missing: apt-get install nftables");
    assert!(output.status.success(), "nft {command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
