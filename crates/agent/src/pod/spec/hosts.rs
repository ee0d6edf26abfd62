//! The pod's name for itself and for others: hostname, domain, `/etc/hosts` (`pkg/kubelet/kubelet_pods.go`).

use crate::pod::view;
use api::k8s::api::core::v1::{HostAlias, Pod};
use api::meta::MetaExt;
use std::net::IpAddr;
use thiserror::Error;

/// A name that the kernel or DNS would refuse.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Nothing is left of it.
    #[error("hostname for pod \"{pod}\" was invalid: \"{hostname}\"")]
    Empty {
        /// The pod.
        pod: String,
        /// Its hostname.
        hostname: String,
    },
    /// More than the kernel takes.
    #[error(
        "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {len} characters requested)"
    )]
    Long {
        /// The name.
        fqdn: String,
        /// Its length.
        len: usize,
    },
}

/// Hostname and domain (`GeneratePodHostNameAndDomain`).
pub fn names(pod: &Pod, cluster_domain: &str) -> Result<(String, String), NameError> {
    let spec = view::spec(pod);
    let set = |s: &Option<String>| s.clone().filter(|s| !s.is_empty());
    if let Some(name) = set(&spec.hostname_override) {
        return Ok((shorten(pod, &name)?, String::new()));
    }
    let hostname = shorten(pod, &set(&spec.hostname).unwrap_or_else(|| pod.name().to_owned()))?;
    let domain = set(&spec.subdomain).map(|sub| format!("{sub}.{}.svc.{cluster_domain}", pod.namespace()));
    Ok((hostname, domain.unwrap_or_default()))
}

/// At most 63 characters, not ending in `-` or `.`.
fn shorten(pod: &Pod, hostname: &str) -> Result<String, NameError> {
    let cut: String = hostname.chars().take(63).collect();
    if cut.len() == hostname.len() {
        return Ok(cut);
    }
    let trimmed = cut.trim_end_matches(['-', '.']);
    if trimmed.is_empty() {
        return Err(NameError::Empty { pod: pod.name().to_owned(), hostname: hostname.to_owned() });
    }
    Ok(trimmed.to_owned())
}

/// What `uname -n` says (`GetNodenameForKernel`).
pub fn kernel_name(pod: &Pod, hostname: &str, domain: &str) -> Result<String, NameError> {
    if domain.is_empty() || view::spec(pod).set_hostname_as_fqdn != Some(true) {
        return Ok(hostname.to_owned());
    }
    let fqdn = format!("{hostname}.{domain}");
    if fqdn.len() > 64 {
        return Err(NameError::Long { len: fqdn.len(), fqdn });
    }
    Ok(fqdn)
}

/// `/etc/hosts` of a pod with its own network.
pub fn managed_hosts(ips: &[IpAddr], hostname: &str, domain: &str, aliases: &[HostAlias]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            out += &format!("{ip}\t{hostname}\n");
        } else {
            out += &format!("{ip}\t{hostname}.{domain}\t{hostname}\n");
        }
    }
    out + &alias_lines(aliases)
}

/// `/etc/hosts` of a pod with the node's network.
pub fn node_hosts(node: &str, aliases: &[HostAlias]) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{node}{}", alias_lines(aliases))
}

fn alias_lines(aliases: &[HostAlias]) -> String {
    if aliases.is_empty() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        out += &format!("{}\t{}\n", alias.ip, alias.hostnames.as_deref().unwrap_or_default().join("\t"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use expect_test::expect;

    #[test]
    fn hosts_file_with_domain_and_aliases() {
        let aliases =
            [HostAlias { ip: "1.2.3.4".into(), hostnames: Some(vec!["foo.local".into(), "bar.local".into()]) }];
        let got =
            managed_hosts(&["10.42.0.5".parse().expect("literal")], "web", "sub.default.svc.cluster.local", &aliases);
        expect![[r#"
            # Kubernetes-managed hosts file.
            127.0.0.1	localhost
            ::1	localhost ip6-localhost ip6-loopback
            fe00::0	ip6-localnet
            fe00::0	ip6-mcastprefix
            fe00::1	ip6-allnodes
            fe00::2	ip6-allrouters
            10.42.0.5	web.sub.default.svc.cluster.local	web

            # Entries added by HostAliases.
            1.2.3.4	foo.local	bar.local
        "#]]
        .assert_eq(&got);
    }

    #[test]
    fn long_names_are_cut_and_fqdn_is_bounded() {
        let mut p = pod(r#"{"containers":[],"subdomain":"sub","setHostnameAsFQDN":true}"#);
        assert_eq!(names(&p, "cluster.local"), Ok(("web".into(), "sub.default.svc.cluster.local".into())));
        assert_eq!(
            kernel_name(&p, "web", "sub.default.svc.cluster.local"),
            Ok("web.sub.default.svc.cluster.local".into())
        );
        p.metadata.name = Some(format!("{}-{}", "a".repeat(62), "b".repeat(10)));
        let (hostname, domain) = names(&p, "cluster.local").expect("it can be cut");
        assert_eq!(hostname, "a".repeat(62));
        assert!(kernel_name(&p, &hostname, &domain).is_err());
    }
}
