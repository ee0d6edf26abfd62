//! What Services hold, and which ranges it comes from.

use api::k8s::api::core::v1::ServiceSpec;
use api::k8s::api::networking::v1::ServiceCIDR;
use ipnet::IpNet;
use std::collections::BTreeSet;
use std::net::IpAddr;

/// Whether it is but another name for something outside.
pub fn is_external_name(spec: &ServiceSpec) -> bool {
    spec.type_.as_deref() == Some("ExternalName")
}

/// Its addresses in the cluster.
pub fn addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> + use<> {
    let first = spec.cluster_ip.as_deref().into_iter();
    let all = first.chain(spec.cluster_ips.iter().flatten().map(String::as_str));
    let parsed: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
    let list = if is_external_name(spec) { BTreeSet::new() } else { parsed };
    list.into_iter()
}

/// The ranges of a ServiceCIDR.
pub fn ranges(range: &ServiceCIDR) -> Vec<IpNet> {
    let texts = range.spec.iter().flat_map(|s| s.cidrs.iter().flatten());
    texts.filter_map(|cidr| cidr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_an_address_in_the_cluster_counts() {
        let check = |json: &str, want: &[&str]| {
            let spec: ServiceSpec = serde_json::from_str(json).expect("a spec");
            let got: Vec<String> = addresses(&spec).map(|ip| ip.to_string()).collect();
            assert_eq!(got, want, "{json}");
        };
        check(r#"{"clusterIP":"10.0.0.2","clusterIPs":["10.0.0.2","fd00::2"]}"#, &["10.0.0.2", "fd00::2"]);
        check(r#"{"clusterIP":"None","clusterIPs":["None"]}"#, &[]);
        check(r#"{"type":"ExternalName","clusterIP":"10.0.0.2"}"#, &[]);
    }
}
