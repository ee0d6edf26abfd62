//! `/etc/resolv.conf` of a pod (`pkg/kubelet/network/dns/dns.go`).

use crate::pod::view;
use api::k8s::api::core::v1::Pod;
use api::meta::MetaExt;
use std::net::IpAddr;
use std::path::Path;

/// The cluster's DNS as the agent is configured.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterDns {
    /// Its servers.
    pub servers: Vec<IpAddr>,
    /// `cluster.local`
    pub domain: String,
}

/// A parsed resolv.conf. Options keep their order; upstream's is random.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resolver {
    /// `nameserver`
    pub servers: Vec<String>,
    /// `search`
    pub searches: Vec<String>,
    /// `options`
    pub options: Vec<String>,
}

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_DOMAIN_CHARS: usize = 253;

impl Resolver {
    /// Reads resolv.conf. Later `search` lines replace earlier ones.
    pub fn parse(text: &str) -> Resolver {
        let mut out = Resolver::default();
        for line in text.lines().map(str::trim).filter(|l| !l.starts_with('#') && !l.starts_with(';')) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
                Some("search") => {
                    out.searches = words.filter(|s| *s != ".").map(|s| s.trim_end_matches('.').to_owned()).collect();
                }
                Some("options") => words.for_each(|o| out.set_option(o)),
                _ => {}
            }
        }
        out
    }

    fn set_option(&mut self, option: &str) {
        let name = |o: &str| o.split(':').next().unwrap_or_default().to_owned();
        self.options.retain(|o| name(o) != name(option));
        self.options.push(option.to_owned());
    }

    /// As a file.
    pub fn render(&self) -> String {
        let mut out = String::new();
        if !self.searches.is_empty() {
            out += &format!("search {}\n", self.searches.join(" "));
        }
        for server in &self.servers {
            out += &format!("nameserver {server}\n");
        }
        if !self.options.is_empty() {
            out += &format!("options {}\n", self.options.join(" "));
        }
        out
    }
}

/// Why pods cannot have all of the node's resolv.conf, which is at `path` (`CheckLimitsForResolvConf`).
pub fn excess(node: &Resolver, path: &Path, cluster: &ClusterDns) -> Option<String> {
    // Those of the cluster come first.
    let max = if cluster.domain.is_empty() { MAX_SEARCHES } else { MAX_SEARCHES - 3 };
    let path = path.display();
    if node.searches.len() > max {
        return Some(format!("Resolv.conf file '{path}' contains search line consisting of more than {max} domains!"));
    }
    if node.searches.iter().any(|s| s.len() > MAX_DOMAIN_CHARS) {
        return Some(format!(
            "Resolv.conf file \"{path}\" contains a search path which length is more than allowed {MAX_DOMAIN_CHARS} chars!"
        ));
    }
    (node.searches.join(" ").len() > MAX_SEARCH_CHARS).then(|| {
        format!(
            "Resolv.conf file '{path}' contains search line which length is more than allowed {MAX_SEARCH_CHARS} chars!"
        )
    })
}

/// The pod's resolver and what had to be left out, as texts of `DNSConfigForming` events. `node` is the node's file.
pub fn pod_dns(pod: &Pod, cluster: &ClusterDns, node: &Resolver) -> (Resolver, Vec<String>) {
    let spec = view::spec(pod);
    let mut warnings = Vec::new();
    let cluster_first = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !view::is_host_network(pod),
        _ => false,
    };
    let mut out = match spec.dns_policy.as_deref() {
        Some("None") => Resolver::default(),
        _ if cluster_first && !cluster.servers.is_empty() => cluster_resolver(pod, cluster, node),
        _ => node.clone(),
    };
    if let Some(own) = &spec.dns_config {
        out.servers.extend(own.nameservers.iter().flatten().cloned());
        out.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let value = option.value.as_ref().filter(|v| !v.is_empty());
            out.set_option(&value.map_or(name.clone(), |v| format!("{name}:{v}")));
        }
    }
    dedupe(&mut out.servers);
    dedupe(&mut out.searches);
    fit(&mut out, &mut warnings);
    (out, warnings)
}

fn cluster_resolver(pod: &Pod, cluster: &ClusterDns, node: &Resolver) -> Resolver {
    let domain = &cluster.domain;
    let mut searches = if domain.is_empty() {
        Vec::new()
    } else {
        vec![format!("{}.svc.{domain}", pod.namespace()), format!("svc.{domain}"), domain.clone()]
    };
    searches.extend(node.searches.iter().cloned());
    Resolver {
        servers: cluster.servers.iter().map(IpAddr::to_string).collect(),
        searches,
        options: vec!["ndots:5".into()],
    }
}

fn dedupe(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|s| seen.insert(s.clone()));
}

fn fit(out: &mut Resolver, warnings: &mut Vec<String>) {
    if out.servers.len() > MAX_SERVERS {
        out.servers.truncate(MAX_SERVERS);
        warnings.push(format!(
            "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: {}",
            out.servers.join(" ")
        ));
    }
    let before = out.searches.len();
    out.searches.truncate(MAX_SEARCHES);
    out.searches.retain(|s| s.len() <= MAX_DOMAIN_CHARS);
    while out.searches.join(" ").len() > MAX_SEARCH_CHARS {
        out.searches.pop();
    }
    if out.searches.len() < before {
        warnings.push(format!(
            "Search Line limits were exceeded, some search paths have been omitted, the applied search line is: {}",
            out.searches.join(" ")
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use expect_test::{Expect, expect};

    fn check_dns(spec: &str, want: Expect) {
        let cluster =
            ClusterDns { servers: vec!["10.43.0.10".parse().expect("literal")], domain: "cluster.local".into() };
        let node = Resolver::parse("# c\nnameserver 192.168.1.1\nsearch lan. corp\noptions timeout:2 rotate\n");
        let (resolver, warnings) = pod_dns(&pod(spec), &cluster, &node);
        let warned: String = warnings.iter().map(|w| format!("! {w}\n")).collect();
        want.assert_eq(&(resolver.render() + &warned));
    }

    #[test]
    fn cluster_first() {
        check_dns(
            r#"{"containers":[]}"#,
            expect![[r#"
                search default.svc.cluster.local svc.cluster.local cluster.local lan corp
                nameserver 10.43.0.10
                options ndots:5
            "#]],
        );
    }

    #[test]
    fn host_network_falls_back_to_the_node() {
        check_dns(
            r#"{"containers":[],"hostNetwork":true,"dnsPolicy":"ClusterFirst"}"#,
            expect![[r#"
                search lan corp
                nameserver 192.168.1.1
                options timeout:2 rotate
            "#]],
        );
    }

    #[test]
    fn none_takes_only_what_the_pod_says() {
        check_dns(
            r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1"],"searches":["my.dns"],
                "options":[{"name":"ndots","value":"2"},{"name":"edns0"}]}}"#,
            expect![[r#"
                search my.dns
                nameserver 1.1.1.1
                options ndots:2 edns0
            "#]],
        );
    }

    #[test]
    fn too_many_servers_are_left_out_with_a_warning() {
        check_dns(
            r#"{"containers":[],"dnsPolicy":"None","dnsConfig":{"nameservers":["1.1.1.1","1.1.1.2","1.1.1.3","1.1.1.4"]}}"#,
            expect![[r#"
                nameserver 1.1.1.1
                nameserver 1.1.1.2
                nameserver 1.1.1.3
                ! Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 1.1.1.2 1.1.1.3
            "#]],
        );
    }
}
