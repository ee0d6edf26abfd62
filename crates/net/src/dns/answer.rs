//! The zone: question in, [`Answer`] out. Pure.
//!
//! "No such name" and "no such record of that name" are told apart with care: resolvers go on along their search path after the former
//! only, and remember both.

use super::index::{DnsIndex, EndpointEntry, Port, ServiceEntry, Target};
use super::server::DnsConfig;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What is to be said to a question.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// These records, and others that will be asked for next.
    Records {
        /// The answer.
        answers: Vec<Record>,
        /// Addresses of names in the answer.
        additionals: Vec<Record>,
    },
    /// The name is another's; its records are wanted too.
    Alias {
        /// The CNAME.
        record: Box<Record>,
        /// The other name.
        target: Name,
    },
    /// The name exists, but has no such record.
    NoData,
    /// The name does not exist.
    NxDomain,
    /// Not our zone: ask others.
    Forward,
}

/// Answers a question about `name`.
pub fn answer(index: &DnsIndex, config: &DnsConfig, name: &Name, kind: RecordType) -> Answer {
    let labels: Vec<String> = name.iter().map(|l| String::from_utf8_lossy(l).to_ascii_lowercase()).collect();
    let zone: Vec<&str> = config.zone.split('.').collect();
    let question = Question { index, config, name, kind };
    if let Some(below) = labels.len().checked_sub(zone.len()).filter(|n| labels[*n..] == zone[..]) {
        let below: Vec<&str> = labels[..below].iter().map(String::as_str).collect();
        return question.in_zone(&below);
    }
    match name.parse_arpa_name() {
        Ok(net) if net.prefix_len() == net.max_prefix_len() => question.reverse(net.addr()),
        _ => Answer::Forward,
    }
}

/// The zone's SOA, which goes with every "no" and says how long to remember it.
pub(super) fn soa(index: &DnsIndex, config: &DnsConfig) -> Option<Record> {
    let zone = absolute(&config.zone)?;
    let (server, mailbox) =
        (absolute(&format!("ns.dns.{}", config.zone))?, absolute(&format!("hostmaster.{}", config.zone))?);
    let ttl = config.ttl_seconds;
    let data = SOA::new(server, mailbox, index.serial(), 7200, 1800, 86_400, ttl);
    Some(Record::from_rdata(zone, ttl, RData::SOA(data)))
}

struct Question<'a> {
    index: &'a DnsIndex,
    config: &'a DnsConfig,
    name: &'a Name,
    kind: RecordType,
}

impl Question<'_> {
    fn in_zone(&self, labels: &[&str]) -> Answer {
        match labels {
            [] => self.apex(),
            ["dns-version"] => self.only(RecordType::TXT, || RData::TXT(TXT::new(vec!["1.1.0".into()]))),
            ["ns", "dns"] => self.addresses(&self.config.listen),
            ["dns"] | ["svc"] | ["pod"] => Answer::NoData,
            [namespace, "svc"] | [namespace, "pod"] => {
                if self.index.has_namespace(namespace) {
                    Answer::NoData
                } else {
                    Answer::NxDomain
                }
            }
            [ip, _, "pod"] => dashed_ip(ip).map_or(Answer::NxDomain, |ip| self.addresses(&[ip])),
            [rest @ .., service, namespace, "svc"] => match self.index.service(namespace, service) {
                Some(entry) => self.service(entry, rest, service, namespace),
                None => Answer::NxDomain,
            },
            _ => Answer::NxDomain,
        }
    }

    fn apex(&self) -> Answer {
        match self.kind {
            RecordType::SOA => soa(self.index, self.config)
                .map_or(Answer::NoData, |record| Answer::Records { answers: vec![record], additionals: vec![] }),
            RecordType::NS => match absolute(&format!("ns.dns.{}", self.config.zone)) {
                Some(server) => self.only(RecordType::NS, || RData::NS(NS(server))),
                None => Answer::NoData,
            },
            _ => Answer::NoData,
        }
    }

    /// `rest` is what stands before the Service's name.
    fn service(&self, entry: &ServiceEntry, rest: &[&str], service: &str, namespace: &str) -> Answer {
        if let (Target::Name(target), []) = (&entry.target, rest) {
            return match absolute(target.trim_end_matches('.')) {
                Some(target) => {
                    Answer::Alias { record: Box::new(self.record(RData::CNAME(CNAME(target.clone())))), target }
                }
                None => Answer::NoData,
            };
        }
        match rest {
            [] if self.kind == RecordType::SRV => self.srv(entry, None, service, namespace),
            [] => match &entry.target {
                Target::Addresses(ips) => self.addresses(ips),
                _ => self.endpoints(service, namespace, |_| true),
            },
            [protocol] if protocol.starts_with('_') => {
                let known = entry.ports.iter().any(|p| is_protocol(p, protocol));
                if known { Answer::NoData } else { Answer::NxDomain }
            }
            [port, protocol] if port.starts_with('_') && protocol.starts_with('_') => {
                self.srv(entry, Some((&port[1..], protocol)), service, namespace)
            }
            [label] => self.endpoints(service, namespace, |e| e.label().eq_ignore_ascii_case(label)),
            _ => Answer::NxDomain,
        }
    }

    /// Addresses of a Service's endpoints. Without any the name does not exist, as with CoreDNS.
    fn endpoints(&self, service: &str, namespace: &str, keep: impl Fn(&EndpointEntry) -> bool) -> Answer {
        let slices = self.index.slices(namespace, service);
        let ips: BTreeSet<IpAddr> = slices.flat_map(|s| &s.endpoints).filter(|e| keep(e)).map(|e| e.ip).collect();
        if ips.is_empty() {
            return Answer::NxDomain;
        }
        self.addresses(&ips.into_iter().collect::<Vec<_>>())
    }

    /// Where a port is served; `None` = all ports.
    fn srv(&self, entry: &ServiceEntry, port: Option<(&str, &str)>, service: &str, namespace: &str) -> Answer {
        let wanted = |p: &Port| port.is_none_or(|(name, protocol)| p.name == name && is_protocol(p, protocol));
        let base = format!("{service}.{namespace}.svc.{}", self.config.zone);
        // Target name, its addresses, port.
        let mut found: Vec<(String, Vec<IpAddr>, u16)> = Vec::new();
        match &entry.target {
            Target::Addresses(ips) => {
                found.extend(entry.ports.iter().filter(|p| wanted(p)).map(|p| (base.clone(), ips.clone(), p.number)));
            }
            _ => {
                for slice in self.index.slices(namespace, service) {
                    for p in slice.ports.iter().filter(|p| wanted(p)) {
                        let targets =
                            slice.endpoints.iter().map(|e| (format!("{}.{base}", e.label()), vec![e.ip], p.number));
                        found.extend(targets);
                    }
                }
            }
        }
        if found.is_empty() {
            return Answer::NxDomain;
        }
        if self.kind != RecordType::SRV && self.kind != RecordType::ANY {
            return Answer::NoData;
        }
        let weight = (100 / found.len()).max(1) as u16;
        let (mut answers, mut additionals, mut seen) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (target, ips, number) in found {
            let Some(target_name) = absolute(&target) else { continue };
            answers.push(self.record(RData::SRV(SRV::new(0, weight, number, target_name.clone()))));
            if seen.insert(target) {
                let record =
                    |ip: &IpAddr| Record::from_rdata(target_name.clone(), self.config.ttl_seconds, address(*ip));
                additionals.extend(ips.iter().map(record));
            }
        }
        Answer::Records { answers, additionals }
    }

    fn reverse(&self, ip: IpAddr) -> Answer {
        let names = self.index.names_of(&ip);
        let ours = !names.is_empty() || self.config.networks.iter().any(|n| n.contains(&ip));
        match (ours, self.kind) {
            (false, _) => Answer::Forward,
            (true, _) if names.is_empty() => Answer::NxDomain,
            (true, RecordType::PTR | RecordType::ANY) => {
                let name = |n: &String| absolute(&format!("{n}.svc.{}", self.config.zone));
                let answers = names.iter().filter_map(name).map(|n| self.record(RData::PTR(PTR(n)))).collect();
                Answer::Records { answers, additionals: vec![] }
            }
            (true, _) => Answer::NoData,
        }
    }

    /// Those of the addresses that were asked for.
    fn addresses(&self, ips: &[IpAddr]) -> Answer {
        let wanted = |ip: &&IpAddr| match self.kind {
            RecordType::A => ip.is_ipv4(),
            RecordType::AAAA => ip.is_ipv6(),
            kind => kind == RecordType::ANY,
        };
        let answers: Vec<Record> = ips.iter().filter(wanted).map(|ip| self.record(address(*ip))).collect();
        if answers.is_empty() { Answer::NoData } else { Answer::Records { answers, additionals: vec![] } }
    }

    fn only(&self, kind: RecordType, data: impl FnOnce() -> RData) -> Answer {
        if self.kind == kind || self.kind == RecordType::ANY {
            return Answer::Records { answers: vec![self.record(data())], additionals: vec![] };
        }
        Answer::NoData
    }

    /// A record of the name as it was asked, with its upper and lower case: some resolvers check that.
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), self.config.ttl_seconds, data)
    }
}

fn address(ip: IpAddr) -> RData {
    match ip {
        IpAddr::V4(ip) => RData::A(A(ip)),
        IpAddr::V6(ip) => RData::AAAA(AAAA(ip)),
    }
}

fn is_protocol(port: &Port, label: &str) -> bool {
    label.strip_prefix('_').is_some_and(|p| port.protocol.to_string().eq_ignore_ascii_case(p))
}

/// `10-42-0-5` or `fd00--5`.
fn dashed_ip(label: &str) -> Option<IpAddr> {
    label
        .replace('-', ".")
        .parse::<Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| label.replace('-', ":").parse::<Ipv6Addr>().map(IpAddr::V6))
        .ok()
}

fn absolute(name: &str) -> Option<Name> {
    Name::from_ascii(format!("{name}.")).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Apply, Change};
    use api::prelude::{EndpointSlice, Service};
    use expect_test::{Expect, expect};

    fn index() -> DnsIndex {
        let mut index = DnsIndex::new();
        for (namespace, name, spec) in [
            ("default", "kubernetes", r#"{"clusterIP":"10.43.0.1","ports":[{"name":"https","port":443}]}"#),
            (
                "default",
                "dual",
                r#"{"clusterIP":"10.43.0.2","clusterIPs":["10.43.0.2","fd00:43::2"],"ports":[{"port":80}]}"#,
            ),
            (
                "data",
                "db",
                r#"{"clusterIP":"None","ports":[{"name":"sql","port":5432},{"name":"x","port":9,"protocol":"UDP"}]}"#,
            ),
            ("data", "empty", r#"{"clusterIP":"None","ports":[{"port":80}]}"#),
            ("data", "out", r#"{"type":"ExternalName","externalName":"www.example.org"}"#),
        ] {
            let json = format!(r#"{{"metadata":{{"namespace":"{namespace}","name":"{name}"}},"spec":{spec}}}"#);
            let service: Service = api::Codec::decode(json.as_bytes()).expect("a literal Service");
            assert!(index.apply(Change::Set(&service)));
            assert!(!index.apply(Change::Set(&service)), "the same again is no change");
        }
        let json = r#"{"metadata":{"namespace":"data","name":"db-x","labels":{"kubernetes.io/service-name":"db"}},"addressType":"IPv4",
            "ports":[{"name":"sql","port":5432,"protocol":"TCP"}],"endpoints":[
            {"addresses":["10.42.0.7"],"hostname":"db-0","conditions":{"ready":true}},
            {"addresses":["10.42.1.7"],"conditions":{}},
            {"addresses":["10.42.2.7"],"hostname":"db-2","conditions":{"ready":false}}]}"#;
        let slice: EndpointSlice = api::Codec::decode(json.as_bytes()).expect("a literal EndpointSlice");
        index.apply(Change::Set(&slice));
        index
    }

    fn ask(question: &str) -> String {
        let (name, kind) = question.split_once(' ').expect("name and type");
        let config = DnsConfig { networks: vec!["10.42.0.0/15".parse().expect("net")], ..DnsConfig::default() };
        let name = Name::from_ascii(format!("{name}.")).expect("a literal name");
        match answer(&index(), &config, &name, kind.parse().expect("a literal type")) {
            Answer::Records { answers, additionals } => {
                let show = |r: &Record| format!("{} {} {}", r.name, r.record_type(), r.data);
                let mut lines: Vec<String> = answers.iter().map(show).collect();
                lines.extend(additionals.iter().map(|r| format!("+ {}", show(r))));
                lines.join("\n  ")
            }
            Answer::Alias { record, target } => format!("{} -> {target}", record.data),
            other => format!("{other:?}"),
        }
    }

    fn check(questions: &[&str], expected: Expect) {
        let lines: Vec<String> = questions.iter().map(|q| format!("{q}\n  {}\n", ask(q))).collect();
        expected.assert_eq(&lines.concat());
    }

    #[test]
    fn services() {
        check(
            &[
                "kubernetes.default.svc.cluster.local A",
                "Kubernetes.Default.svc.Cluster.Local A",
                "kubernetes.default.svc.cluster.local AAAA",
                "dual.default.svc.cluster.local AAAA",
                "nobody.default.svc.cluster.local A",
                "_https._tcp.kubernetes.default.svc.cluster.local SRV",
                "_tcp.kubernetes.default.svc.cluster.local SRV",
                "_http._tcp.kubernetes.default.svc.cluster.local SRV",
            ],
            expect![[r#"
                kubernetes.default.svc.cluster.local A
                  kubernetes.default.svc.cluster.local. A 10.43.0.1
                Kubernetes.Default.svc.Cluster.Local A
                  Kubernetes.Default.svc.Cluster.Local. A 10.43.0.1
                kubernetes.default.svc.cluster.local AAAA
                  NoData
                dual.default.svc.cluster.local AAAA
                  dual.default.svc.cluster.local. AAAA fd00:43::2
                nobody.default.svc.cluster.local A
                  NxDomain
                _https._tcp.kubernetes.default.svc.cluster.local SRV
                  _https._tcp.kubernetes.default.svc.cluster.local. SRV 0 100 443 kubernetes.default.svc.cluster.local.
                  + kubernetes.default.svc.cluster.local. A 10.43.0.1
                _tcp.kubernetes.default.svc.cluster.local SRV
                  NoData
                _http._tcp.kubernetes.default.svc.cluster.local SRV
                  NxDomain
            "#]],
        );
    }

    #[test]
    fn headless_services_are_their_ready_endpoints() {
        check(
            &[
                "db.data.svc.cluster.local A",
                "db-0.db.data.svc.cluster.local A",
                "10-42-1-7.db.data.svc.cluster.local A",
                "db-2.db.data.svc.cluster.local A",
                "_sql._tcp.db.data.svc.cluster.local SRV",
                "empty.data.svc.cluster.local A",
            ],
            expect![[r#"
                db.data.svc.cluster.local A
                  db.data.svc.cluster.local. A 10.42.0.7
                  db.data.svc.cluster.local. A 10.42.1.7
                db-0.db.data.svc.cluster.local A
                  db-0.db.data.svc.cluster.local. A 10.42.0.7
                10-42-1-7.db.data.svc.cluster.local A
                  10-42-1-7.db.data.svc.cluster.local. A 10.42.1.7
                db-2.db.data.svc.cluster.local A
                  NxDomain
                _sql._tcp.db.data.svc.cluster.local SRV
                  _sql._tcp.db.data.svc.cluster.local. SRV 0 50 5432 db-0.db.data.svc.cluster.local.
                  _sql._tcp.db.data.svc.cluster.local. SRV 0 50 5432 10-42-1-7.db.data.svc.cluster.local.
                  + db-0.db.data.svc.cluster.local. A 10.42.0.7
                  + 10-42-1-7.db.data.svc.cluster.local. A 10.42.1.7
                empty.data.svc.cluster.local A
                  NxDomain
            "#]],
        );
    }

    #[test]
    fn external_names_are_aliases() {
        check(
            &["out.data.svc.cluster.local A", "out.data.svc.cluster.local CNAME"],
            expect![[r#"
            out.data.svc.cluster.local A
              www.example.org. -> www.example.org.
            out.data.svc.cluster.local CNAME
              www.example.org. -> www.example.org.
        "#]],
        );
    }

    #[test]
    fn pods_and_reverse_names() {
        check(
            &[
                "10-42-0-9.default.pod.cluster.local A",
                "fd00--9.default.pod.cluster.local AAAA",
                "10-42-0-9.default.pod.cluster.local AAAA",
                "hello.default.pod.cluster.local A",
                "1.0.43.10.in-addr.arpa PTR",
                "7.0.42.10.in-addr.arpa PTR",
                "7.1.42.10.in-addr.arpa PTR",
                "9.9.42.10.in-addr.arpa PTR",
                "8.8.8.8.in-addr.arpa PTR",
            ],
            expect![[r#"
                10-42-0-9.default.pod.cluster.local A
                  10-42-0-9.default.pod.cluster.local. A 10.42.0.9
                fd00--9.default.pod.cluster.local AAAA
                  fd00--9.default.pod.cluster.local. AAAA fd00::9
                10-42-0-9.default.pod.cluster.local AAAA
                  NoData
                hello.default.pod.cluster.local A
                  NxDomain
                1.0.43.10.in-addr.arpa PTR
                  1.0.43.10.in-addr.arpa. PTR kubernetes.default.svc.cluster.local.
                7.0.42.10.in-addr.arpa PTR
                  7.0.42.10.in-addr.arpa. PTR db-0.db.data.svc.cluster.local.
                7.1.42.10.in-addr.arpa PTR
                  7.1.42.10.in-addr.arpa. PTR 10-42-1-7.db.data.svc.cluster.local.
                9.9.42.10.in-addr.arpa PTR
                  NxDomain
                8.8.8.8.in-addr.arpa PTR
                  Forward
            "#]],
        );
    }

    #[test]
    fn the_zone_itself_and_what_is_not_ours() {
        check(
            &[
                "cluster.local SOA",
                "cluster.local NS",
                "cluster.local A",
                "dns-version.cluster.local TXT",
                "ns.dns.cluster.local A",
                "svc.cluster.local A",
                "default.svc.cluster.local A",
                "nowhere.svc.cluster.local A",
                "example.org A",
                "org A",
            ],
            expect![[r#"
                cluster.local SOA
                  cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 6 7200 1800 86400 5
                cluster.local NS
                  cluster.local. NS ns.dns.cluster.local.
                cluster.local A
                  NoData
                dns-version.cluster.local TXT
                  dns-version.cluster.local. TXT 1.1.0
                ns.dns.cluster.local A
                  ns.dns.cluster.local. A 10.43.0.10
                svc.cluster.local A
                  NoData
                default.svc.cluster.local A
                  NoData
                nowhere.svc.cluster.local A
                  NxDomain
                example.org A
                  Forward
                org A
                  Forward
            "#]],
        );
    }

    #[test]
    fn the_search_path_is_refused_quickly_until_the_name_itself() {
        check(
            &[
                "example.org.default.svc.cluster.local A",
                "example.org.svc.cluster.local A",
                "example.org.cluster.local A",
                "a.b.example.org.default.svc.cluster.local A",
            ],
            expect![[r#"
                example.org.default.svc.cluster.local A
                  NxDomain
                example.org.svc.cluster.local A
                  NxDomain
                example.org.cluster.local A
                  NxDomain
                a.b.example.org.default.svc.cluster.local A
                  NxDomain
            "#]],
        );
    }

    #[test]
    fn removal_leaves_no_name() {
        let mut index = index();
        for (namespace, name) in
            [("default", "kubernetes"), ("default", "dual"), ("data", "db"), ("data", "empty"), ("data", "out")]
        {
            let gone: Change<'_, Service> = Change::Gone { namespace, name };
            assert!(index.apply(gone));
        }
        let gone: Change<'_, EndpointSlice> = Change::Gone { namespace: "data", name: "db-x" };
        assert!(index.apply(gone));
        let left = format!("{index:?}");
        assert!(!left.contains("10."), "{left}");
    }
}
