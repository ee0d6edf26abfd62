//! [`DnsServer`]: the wire. UDP and TCP in, answers from the index or from other resolvers out.
//!
//! Bad packets get FORMERR or nothing; one client cannot hold another up (questions to other resolvers run beside, with a limit).

use super::answer::{Answer, answer, soa};
use super::forward::{Transport, forward};
use super::index::DnsIndex;
use crate::{Apply, Change};
use base::Random;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use ipnet::IpNet;
use parking_lot::RwLock;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Questions waiting for other resolvers at a time; more get SERVFAIL. CoreDNS' forward plugin advises 1000 (its `max_concurrent`).
const FORWARDS: usize = 1000;
/// TCP clients at a time.
const TCP_CLIENTS: usize = 500;
/// How long a TCP client may be silent.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// What fits every path without fragments (DNS flag day 2020); also what we announce.
const EDNS_PAYLOAD: u16 = 1232;
const PLAIN_PAYLOAD: u16 = 512;
/// Aliases of aliases of …
const ALIAS_DEPTH: usize = 8;

/// What the server must know.
#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// The cluster's domain, without a dot at the end.
    pub zone: String,
    /// How long clients may remember; also a "no".
    pub ttl_seconds: u32,
    /// Addresses to bind.
    pub listen: Vec<IpAddr>,
    /// Port to bind; 53 but in tests.
    pub port: u16,
    /// Other resolvers, in order of preference (see [`parse_resolv_conf`]).
    pub upstreams: Vec<SocketAddr>,
    /// How long to wait for each.
    pub upstream_timeout: Duration,
    /// Pod and Service networks: their reverse names are nobody else's.
    pub networks: Vec<IpNet>,
}

impl Default for DnsConfig {
    fn default() -> Self {
        DnsConfig {
            zone: "cluster.local".into(),
            ttl_seconds: 5,
            listen: vec![IpAddr::from([10, 43, 0, 10])],
            port: 53,
            upstreams: Vec::new(),
            upstream_timeout: Duration::from_secs(2),
            networks: Vec::new(),
        }
    }
}

/// Why DNS does not answer.
#[derive(Debug, Error)]
pub enum DnsError {
    /// An address cannot be bound.
    #[error("failed to listen for DNS on {address} ({transport})")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// `UDP` or `TCP`.
        transport: &'static str,
        /// The error.
        #[source]
        source: io::Error,
    },
}

/// Resolvers named in a `resolv.conf`, without those that are ourselves.
pub fn parse_resolv_conf(text: &str, ourselves: &[IpAddr]) -> Vec<SocketAddr> {
    let words = text.lines().map(|l| l.split_whitespace().collect::<Vec<_>>());
    words
        .filter_map(|w| match w.as_slice() {
            ["nameserver", ip, ..] => ip.parse::<IpAddr>().ok(),
            _ => None,
        })
        .filter(|ip| !ourselves.contains(ip))
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

/// Cluster DNS of a node. Feed it changes, bind it, run it.
pub struct DnsServer {
    config: DnsConfig,
    index: RwLock<DnsIndex>,
    random: Arc<dyn Random>,
    forwards: Semaphore,
    tcp_clients: Arc<Semaphore>,
}

/// Bound sockets, ready to answer.
#[derive(Debug)]
pub struct DnsSockets {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
}

impl DnsSockets {
    /// Where UDP and TCP are answered.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|s| s.local_addr().ok()).collect()
    }
}

impl DnsServer {
    /// A server that knows no names yet.
    pub fn new(config: DnsConfig, random: Arc<dyn Random>) -> DnsServer {
        DnsServer {
            config,
            index: RwLock::new(DnsIndex::new()),
            random,
            forwards: Semaphore::new(FORWARDS),
            tcp_clients: Arc::new(Semaphore::new(TCP_CLIENTS)),
        }
    }

    /// Takes in a change of a Service or EndpointSlice.
    pub fn apply<K>(&self, change: Change<'_, K>)
    where
        DnsIndex: Apply<K>,
    {
        self.index.write().apply(change);
    }

    /// Binds all addresses, in the network namespace of the calling thread.
    pub async fn bind(&self) -> Result<DnsSockets, DnsError> {
        let mut sockets = DnsSockets { udp: Vec::new(), tcp: Vec::new() };
        for ip in &self.config.listen {
            let address = SocketAddr::new(*ip, self.config.port);
            let fail = |transport| move |source| DnsError::Bind { address, transport, source };
            let udp = UdpSocket::bind(address).await.map_err(fail("UDP"))?;
            // With port 0 (tests) TCP takes the port that UDP got.
            let bound = udp.local_addr().map_err(fail("UDP"))?;
            sockets.tcp.push(TcpListener::bind(bound).await.map_err(fail("TCP"))?);
            sockets.udp.push(udp);
        }
        Ok(sockets)
    }

    /// Answers until cancelled.
    pub async fn run(self: Arc<Self>, sockets: DnsSockets, cancel: CancellationToken) {
        let mut tasks = Vec::new();
        for socket in sockets.udp {
            let (server, cancel) = (Arc::clone(&self), cancel.clone());
            tasks.push(base::tasks::spawn("dns-udp", async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = server.serve_udp(Arc::new(socket)) => {}
                }
            }));
        }
        for listener in sockets.tcp {
            let (server, cancel) = (Arc::clone(&self), cancel.clone());
            tasks.push(base::tasks::spawn("dns-tcp", async move {
                tokio::select! {
                    () = cancel.cancelled() => {}
                    () = server.serve_tcp(listener) => {}
                }
            }));
        }
        for task in tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a DNS listener ended");
            }
        }
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; 65_535];
        loop {
            let (len, from) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                // A client that closed its port shows up here as an error of the next receive.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => continue,
                Err(error) => {
                    tracing::warn!(%error, "receiving a DNS question failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            match self.consider(&buffer[..len], Transport::Udp) {
                Reply::Nothing => {}
                Reply::Now(bytes) => send(&socket, &bytes, from).await,
                Reply::Later(question) => {
                    let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
                    let bytes = buffer[..len].to_vec();
                    base::tasks::detach("dns-forward", async move {
                        let answer = server.resolve(&bytes, *question, Transport::Udp).await;
                        send(&socket, &answer, from).await;
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        loop {
            let ((stream, _), slot) = base::accept::next(&self.tcp_clients, || listener.accept()).await;
            let server = Arc::clone(&self);
            base::tasks::detach("dns-client", async move {
                // The client's troubles are its own; it sees a closed connection.
                if let Err(error) = server.serve_client(stream).await {
                    tracing::debug!(%error, "a DNS client over TCP went away");
                }
                drop(slot);
            });
        }
    }

    async fn serve_client(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let question = async {
                let len = usize::from(stream.read_u16().await?);
                let mut bytes = vec![0; len];
                stream.read_exact(&mut bytes).await.map(|_| bytes)
            };
            let bytes = tokio::time::timeout(TCP_IDLE, question).await.map_err(io::Error::other)??;
            let answer = match self.consider(&bytes, Transport::Tcp) {
                Reply::Nothing => return Ok(()),
                Reply::Now(answer) => answer,
                Reply::Later(question) => self.resolve(&bytes, *question, Transport::Tcp).await,
            };
            let len = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream.write_all(&[&len.to_be_bytes()[..], &answer].concat()).await?;
        }
    }

    /// Decides what can be decided without asking others.
    fn consider(&self, bytes: &[u8], transport: Transport) -> Reply {
        let request = match Message::from_vec(bytes) {
            Ok(request) => request,
            Err(_) => return malformed(bytes),
        };
        if request.metadata.message_type != MessageType::Query {
            return Reply::Nothing;
        }
        let refuse = |code| Reply::Now(Response::new(&request).code(code).encode(transport));
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        if request.edns.as_ref().is_some_and(|e| e.version() > 0) {
            return refuse(ResponseCode::BADVERS);
        }
        let [query] = request.queries.as_slice() else { return refuse(ResponseCode::FormErr) };
        if query.query_class() != DNSClass::IN || matches!(query.query_type(), RecordType::AXFR | RecordType::IXFR) {
            return refuse(ResponseCode::Refused);
        }
        let index = self.index.read();
        let found = answer(&index, &self.config, query.name(), query.query_type());
        match self.respond(&index, &request, found) {
            Ok(response) => Reply::Now(response.encode(transport)),
            Err(found) => Reply::Later(Box::new((request.clone(), found))),
        }
    }

    /// The response to a question of our own zone; gives the answer back if others must be asked.
    fn respond(&self, index: &DnsIndex, request: &Message, found: Answer) -> Result<Response, Answer> {
        let mut response = Response::new(request);
        response.message.metadata.authoritative = true;
        match found {
            Answer::Records { mut answers, additionals } => {
                // Clients take the first; let every question have another.
                let turn = usize::from(request.metadata.id) % answers.len().max(1);
                answers.rotate_left(turn);
                response.message.add_answers(answers);
                response.message.add_additionals(additionals);
            }
            Answer::Alias { record, .. } if request.queries.iter().any(|q| q.query_type() == RecordType::CNAME) => {
                response.message.add_answer(*record);
            }
            Answer::NoData => response.deny(soa(index, &self.config), ResponseCode::NoError),
            Answer::NxDomain => response.deny(soa(index, &self.config), ResponseCode::NXDomain),
            other => return Err(other),
        }
        Ok(response)
    }

    /// Asks other resolvers: for the whole question, or for what an alias leads to.
    async fn resolve(&self, bytes: &[u8], (request, found): (Message, Answer), transport: Transport) -> Vec<u8> {
        let failed = || Response::new(&request).code(ResponseCode::ServFail).encode(transport);
        let Ok(_permit) = self.forwards.try_acquire() else { return failed() };
        match found {
            Answer::Alias { record, target } => self.follow(&request, *record, target).await.encode(transport),
            _ => self.ask_others(bytes, transport).await.unwrap_or_else(failed),
        }
    }

    async fn ask_others(&self, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let config = &self.config;
        forward(bytes, transport, &config.upstreams, config.upstream_timeout, self.random.as_ref()).await
    }

    /// Answers with an alias and the records of what it leads to, here or elsewhere.
    async fn follow(&self, request: &Message, record: Record, target: hickory_proto::rr::Name) -> Response {
        let mut response = Response::new(request);
        response.message.metadata.authoritative = true;
        response.message.add_answer(record);
        let kind = request.queries.first().map_or(RecordType::A, Query::query_type);
        let mut target = target;
        for _ in 0..ALIAS_DEPTH {
            let next = answer(&self.index.read(), &self.config, &target, kind);
            match next {
                Answer::Records { answers, .. } => {
                    response.message.add_answers(answers);
                    return response;
                }
                Answer::Alias { record, target: further } => {
                    response.message.add_answer(*record);
                    target = further;
                }
                Answer::NoData => return response,
                Answer::NxDomain => return response.code(ResponseCode::NXDomain),
                Answer::Forward => {
                    let mut question = Message::query();
                    question.metadata.recursion_desired = true;
                    question.add_query(Query::query(target, kind));
                    let asked = question.to_vec().unwrap_or_default();
                    let answer = self.ask_others(&asked, Transport::Udp).await;
                    let Some(answer) = answer.and_then(|a| Message::from_vec(&a).ok()) else {
                        return response.code(ResponseCode::ServFail);
                    };
                    response.message.add_answers(answer.answers);
                    return response.code(answer.metadata.response_code);
                }
            }
        }
        response.code(ResponseCode::ServFail)
    }
}

impl std::fmt::Debug for DnsServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DnsServer").field("config", &self.config).finish_non_exhaustive()
    }
}

enum Reply {
    Nothing,
    Now(Vec<u8>),
    Later(Box<(Message, Answer)>),
}

async fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    if let Err(error) = socket.send_to(bytes, to).await {
        tracing::debug!(%error, %to, "sending a DNS answer failed");
    }
}

/// Something with a header and no more sense gets FORMERR; anything else silence.
fn malformed(bytes: &[u8]) -> Reply {
    const RESPONSE: u8 = 0x80;
    match bytes {
        [a, b, flags, _, _, _, _, _, _, _, _, _, ..] if flags & RESPONSE == 0 => {
            let message = Message::error_msg(u16::from_be_bytes([*a, *b]), OpCode::Query, ResponseCode::FormErr);
            message.to_vec().map_or(Reply::Nothing, Reply::Now)
        }
        _ => Reply::Nothing,
    }
}

/// A response under construction.
struct Response {
    message: Message,
    /// Largest UDP answer that the client takes.
    payload: u16,
}

impl Response {
    fn new(request: &Message) -> Response {
        let mut message = Message::response(request.metadata.id, request.metadata.op_code);
        message.metadata.recursion_desired = request.metadata.recursion_desired;
        message.metadata.recursion_available = true;
        message.add_queries(request.queries.iter().cloned());
        let mut payload = PLAIN_PAYLOAD;
        if let Some(edns) = &request.edns {
            payload = edns.max_payload().clamp(PLAIN_PAYLOAD, EDNS_PAYLOAD);
            let mut own = Edns::new();
            own.set_max_payload(EDNS_PAYLOAD).set_dnssec_ok(edns.flags().dnssec_ok);
            message.set_edns(own);
        }
        Response { message, payload }
    }

    fn code(mut self, code: ResponseCode) -> Response {
        self.set_code(code);
        self
    }

    fn set_code(&mut self, code: ResponseCode) {
        self.message.metadata.response_code = code;
        if let Some(edns) = &mut self.message.edns {
            edns.set_rcode_high(code.high());
        }
    }

    fn deny(&mut self, soa: Option<Record>, code: ResponseCode) {
        self.message.add_authorities(soa);
        self.set_code(code);
    }

    /// The packet. One that is too big for the client's UDP is emptied and marked, and the client asks again over TCP.
    fn encode(&self, transport: Transport) -> Vec<u8> {
        // Names and sections come from us or were parsed by the same library; if it refuses them still, silence is all that is left.
        let bytes = self.message.to_vec().unwrap_or_default();
        if transport == Transport::Tcp || bytes.len() <= usize::from(self.payload) {
            return bytes;
        }
        let mut cut = self.message.clone();
        cut.answers.clear();
        cut.authorities.clear();
        cut.additionals.clear();
        cut.metadata.truncation = true;
        cut.to_vec().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::prelude::{EndpointSlice, Service};
    use base::SeededRandom;
    use hickory_proto::rr::{Name, RData};

    fn service(name: &str, spec: &str) -> Service {
        let json = format!(r#"{{"metadata":{{"namespace":"default","name":"{name}"}},"spec":{spec}}}"#);
        api::Codec::decode(json.as_bytes()).expect("a literal Service")
    }

    struct Running {
        address: SocketAddr,
        cancel: CancellationToken,
        server: Arc<DnsServer>,
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.cancel.cancel();
        }
    }

    /// On a port that is free for both transports: another test may have TCP's of the one that UDP got.
    async fn bind(server: &DnsServer) -> DnsSockets {
        for _ in 0..100 {
            match server.bind().await {
                Err(DnsError::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {}
                bound => return bound.expect("bind"),
            }
        }
        panic!("of 100 ports that were free for UDP none was for TCP");
    }

    async fn start(upstreams: Vec<SocketAddr>) -> Running {
        let config = DnsConfig {
            listen: vec![IpAddr::from([127, 0, 0, 1])],
            port: 0,
            upstreams,
            upstream_timeout: Duration::from_millis(300),
            ..DnsConfig::default()
        };
        let server = Arc::new(DnsServer::new(config, Arc::new(SeededRandom::new(7))));
        server.apply(Change::Set(&service("web", r#"{"clusterIP":"10.43.0.5","ports":[{"port":80}]}"#)));
        let sockets = bind(&server).await;
        let (address, cancel) = (sockets.addresses()[0], CancellationToken::new());
        base::tasks::detach("dns", Arc::clone(&server).run(sockets, cancel.clone()));
        Running { address, cancel, server }
    }

    fn question(name: &str, kind: RecordType, edns: Option<u16>) -> Message {
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(Query::query(Name::from_ascii(format!("{name}.")).expect("name"), kind));
        if let Some(payload) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(payload);
            message.set_edns(edns);
        }
        message
    }

    async fn raw_udp(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        socket.send_to(bytes, to).await.expect("send");
        let mut buffer = vec![0; 65_535];
        let received = tokio::time::timeout(Duration::from_secs(5), socket.recv_from(&mut buffer)).await;
        let (len, _) = received.expect("in time").expect("receive");
        buffer.truncate(len);
        buffer
    }

    async fn udp(to: SocketAddr, message: &Message) -> Message {
        let bytes = raw_udp(to, &message.to_vec().expect("encode")).await;
        let answer = Message::from_vec(&bytes).expect("decode");
        assert_eq!(answer.metadata.id, message.metadata.id);
        answer
    }

    async fn tcp(to: SocketAddr, message: &Message) -> Message {
        let mut stream = TcpStream::connect(to).await.expect("connect");
        let bytes = message.to_vec().expect("encode");
        stream.write_all(&[&(bytes.len() as u16).to_be_bytes()[..], &bytes].concat()).await.expect("write");
        let mut answer = vec![0; usize::from(stream.read_u16().await.expect("length"))];
        stream.read_exact(&mut answer).await.expect("read");
        Message::from_vec(&answer).expect("decode")
    }

    fn ips(message: &Message) -> Vec<String> {
        message.answers.iter().filter_map(|r| r.data.ip_addr()).map(|ip| ip.to_string()).collect()
    }

    #[tokio::test]
    async fn answers_over_udp_and_tcp_with_the_right_flags() {
        let dns = start(vec![]).await;
        let asked = question("web.default.svc.cluster.local", RecordType::A, None);
        for answer in [udp(dns.address, &asked).await, tcp(dns.address, &asked).await] {
            assert_eq!(ips(&answer), ["10.43.0.5"]);
            assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
            assert_eq!(answer.answers[0].ttl, 5);
        }
        let nobody = udp(dns.address, &question("x.default.svc.cluster.local", RecordType::A, None)).await;
        assert_eq!(nobody.metadata.response_code, ResponseCode::NXDomain);
        assert!(matches!(&nobody.authorities[0].data, RData::SOA(soa) if soa.minimum == 5));
        let no_data = udp(dns.address, &question("web.default.svc.cluster.local", RecordType::AAAA, None)).await;
        assert_eq!((no_data.metadata.response_code, no_data.authorities.len()), (ResponseCode::NoError, 1));
    }

    #[tokio::test]
    async fn big_answers_are_cut_over_udp_and_whole_over_tcp() {
        let dns = start(vec![]).await;
        dns.server.apply(Change::Set(&service("many", r#"{"clusterIP":"None","ports":[{"port":80}]}"#)));
        let endpoints: Vec<String> = (1..=60).map(|i| format!(r#"{{"addresses":["10.42.0.{i}"]}}"#)).collect();
        let json = format!(
            r#"{{"metadata":{{"namespace":"default","name":"many-x","labels":{{"kubernetes.io/service-name":"many"}}}},
                "addressType":"IPv4","ports":[{{"name":"","port":80}}],"endpoints":[{}]}}"#,
            endpoints.join(",")
        );
        let slice: EndpointSlice = api::Codec::decode(json.as_bytes()).expect("a literal EndpointSlice");
        dns.server.apply(Change::Set(&slice));
        let asked = |edns| question("many.default.svc.cluster.local", RecordType::A, edns);
        let plain = udp(dns.address, &asked(None)).await;
        assert!(plain.metadata.truncation && plain.answers.is_empty());
        let with_edns = udp(dns.address, &asked(Some(4096))).await;
        assert_eq!((with_edns.metadata.truncation, ips(&with_edns).len()), (false, 60));
        assert_eq!(with_edns.edns.expect("edns in, edns out").max_payload(), EDNS_PAYLOAD);
        assert_eq!(ips(&tcp(dns.address, &asked(None)).await).len(), 60);
    }

    #[tokio::test]
    async fn nonsense_is_refused_by_the_right_name() {
        let dns = start(vec![]).await;
        let id = [0xab, 0xcd];
        let garbage = [&id[..], &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0], &[0xff; 5]].concat();
        let answer = Message::from_vec(&raw_udp(dns.address, &garbage).await).expect("decode");
        assert_eq!((answer.metadata.id, answer.metadata.response_code), (0xabcd, ResponseCode::FormErr));
        let mut update = question("cluster.local", RecordType::SOA, None);
        update.metadata.op_code = OpCode::Update;
        let mut transfer = question("cluster.local", RecordType::AXFR, None);
        transfer.metadata.id = 9;
        assert_eq!(udp(dns.address, &transfer).await.metadata.response_code, ResponseCode::Refused);
        let mut future = question("cluster.local", RecordType::SOA, Some(1232));
        future.edns.as_mut().expect("set").set_version(1);
        let code = udp(dns.address, &future).await.metadata.response_code;
        assert_eq!(u16::from(code), u16::from(ResponseCode::BADVERS), "16 also means BADSIG to the decoder");
        assert_eq!(udp(dns.address, &update).await.metadata.response_code, ResponseCode::NotImp);
    }

    /// A resolver that answers every A question with 192.0.2.53, after one wrong packet that must be ignored.
    async fn resolver() -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let address = socket.local_addr().expect("bound");
        base::tasks::detach("resolver", async move {
            let mut buffer = vec![0; 2048];
            while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
                let asked = Message::from_vec(&buffer[..len]).expect("a question");
                let mut answer = Message::response(asked.metadata.id.wrapping_add(1), OpCode::Query);
                answer.add_queries(asked.queries.clone());
                let name = asked.queries[0].name().clone();
                answer.add_answer(Record::from_rdata(
                    name,
                    60,
                    RData::A(hickory_proto::rr::rdata::A::new(192, 0, 2, 53)),
                ));
                socket.send_to(&answer.to_vec().expect("encode"), from).await.expect("send");
                answer.metadata.id = asked.metadata.id;
                socket.send_to(&answer.to_vec().expect("encode"), from).await.expect("send");
            }
        });
        address
    }

    #[tokio::test]
    async fn other_names_go_to_the_next_resolver_that_answers() {
        let silent = UdpSocket::bind("127.0.0.1:0").await.expect("bind");
        let dns = start(vec![silent.local_addr().expect("bound"), resolver().await]).await;
        let answer = udp(dns.address, &question("example.org", RecordType::A, None)).await;
        assert_eq!((ips(&answer), answer.metadata.authoritative), (vec!["192.0.2.53".to_owned()], false));

        dns.server.apply(Change::Set(&service("out", r#"{"type":"ExternalName","externalName":"example.org"}"#)));
        let answer = udp(dns.address, &question("out.default.svc.cluster.local", RecordType::A, None)).await;
        assert_eq!(answer.answers[0].record_type(), RecordType::CNAME);
        assert_eq!(ips(&answer), ["192.0.2.53"]);

        dns.server.apply(Change::Set(&service(
            "loop",
            r#"{"type":"ExternalName","externalName":"loop.default.svc.cluster.local"}"#,
        )));
        let answer = udp(dns.address, &question("loop.default.svc.cluster.local", RecordType::A, None)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[tokio::test]
    async fn without_resolvers_other_names_fail() {
        let dns = start(vec![]).await;
        let answer = udp(dns.address, &question("example.org", RecordType::A, None)).await;
        assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    }

    #[test]
    fn resolv_conf_names_resolvers() {
        let text = "# comment\nsearch x\nnameserver 192.0.2.1\nnameserver 10.43.0.10\nnameserver fd00::1 # two\nnameserver nonsense\n";
        let found = parse_resolv_conf(text, &[IpAddr::from([10, 43, 0, 10])]);
        assert_eq!(found.iter().map(ToString::to_string).collect::<Vec<_>>(), ["192.0.2.1:53", "[fd00::1]:53"]);
    }
}
