//! What a node must know of its cluster, and remembers of itself.
//!
//! The server publishes the cluster's network as ConfigMap `kube-system/dhow-cluster`, as kubeadm does `kubelet-config`; nodes may
//! read it. What a node learned is in `<data>/node.json`, so that it can start while the server is away.

use crate::bootstrap::files::{self, FileError};
use crate::config::Config;
use api::ObjectMeta;
use api::prelude::{ConfigMap, Node as ApiNode};
use client::{Client, ClientError, ListParams};
use ipnet::IpNet;
use net::overlay::Mode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

const NAMESPACE: &str = "kube-system";
const NAME: &str = "dhow-cluster";

/// What is the same on all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Network {
    cluster_cidr: IpNet,
    service_cidr: IpNet,
    cluster_dns: IpAddr,
    cluster_domain: String,
    overlay: Mode,
}

impl Network {
    /// The server's own.
    pub(crate) fn of(config: &Config) -> Network {
        Network {
            cluster_cidr: config.cluster_cidr,
            service_cidr: config.service_cidr,
            cluster_dns: config.cluster_dns,
            cluster_domain: config.cluster_domain.clone(),
            overlay: config.overlay,
        }
    }

    /// The configuration of a node in this network.
    pub(crate) fn over(&self, config: &Config) -> Config {
        Config {
            cluster_cidr: self.cluster_cidr,
            service_cidr: self.service_cidr,
            cluster_dns: self.cluster_dns,
            cluster_domain: self.cluster_domain.clone(),
            overlay: self.overlay,
            ..config.clone()
        }
    }

    /// For the nodes.
    pub(crate) fn config_map(&self) -> ConfigMap {
        let fields = serde_json::to_value(self).unwrap_or_default();
        let text = |(key, value): (&String, &Value)| (key.clone(), value.as_str().unwrap_or_default().to_owned());
        ConfigMap {
            metadata: ObjectMeta {
                name: Some(NAME.into()),
                namespace: Some(NAMESPACE.into()),
                ..ObjectMeta::default()
            },
            data: Some(fields.as_object().into_iter().flatten().map(text).collect()),
            ..ConfigMap::default()
        }
    }

    fn from_config_map(map: ConfigMap) -> Result<Network, ClientError> {
        let fields: BTreeMap<String, String> = map.data.unwrap_or_default();
        serde_json::to_value(fields)
            .and_then(serde_json::from_value)
            .map_err(|e| ClientError::Malformed(format!("ConfigMap {NAMESPACE}/{NAME}: {e}")))
    }

    /// Asks the server. One that is not dhow's has no answer, or keeps it from nodes; then it is as this machine's settings say.
    pub(crate) async fn fetch(client: &Client, config: &Config) -> Result<Network, ClientError> {
        match client.api::<ConfigMap>().get(NAMESPACE, NAME).await {
            Err(e) if e.is_not_found() || e.is_forbidden() => {
                tracing::info!("the server publishes no {NAMESPACE}/{NAME}; this machine's settings tell the network");
                Ok(Network::of(config))
            }
            found => Network::from_config_map(found?),
        }
    }
}

/// `<data>/node.json`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Memory {
    /// `https://host:port`, if the server is another process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) server: Option<String>,
    /// The name under which this machine is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) node_name: Option<String>,
    /// The cluster's network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<Network>,
    /// `spec.podCIDRs` of the Node.
    pub(crate) pod_cidrs: Vec<IpNet>,
}

impl Memory {
    fn path(config: &Config) -> PathBuf {
        config.data_dir.join("node.json")
    }

    /// Nothing, if there is no file.
    pub(crate) fn load(config: &Config) -> Result<Memory, String> {
        let path = Memory::path(config);
        match files::read(&path).map_err(|e| base::chain(&e))? {
            None => Ok(Memory::default()),
            Some(bytes) => {
                serde_json::from_slice(&bytes).map_err(|e| format!("{} is damaged: {e}; remove it", path.display()))
            }
        }
    }

    /// Writes it, if it is new.
    pub(crate) fn store(&self, config: &Config) -> Result<(), FileError> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        let path = Memory::path(config);
        if files::read(&path)?.as_deref() == Some(&bytes) {
            return Ok(());
        }
        files::write(&path, &bytes, 0o600)
    }
}

/// `spec.podCIDRs`
pub(crate) fn cidrs_of(node: &ApiNode) -> Vec<IpNet> {
    let texts = node.spec.iter().flat_map(|s| s.pod_cidrs.iter().flatten());
    texts.filter_map(|t| t.parse().ok()).collect()
}

/// The addresses for pods that the Node has, or gets from the cluster's IPAM. `new` is registered if there is no such Node.
pub(crate) async fn pod_cidrs(client: &Client, new: &ApiNode) -> Result<Vec<IpNet>, ClientError> {
    let name = new.metadata.name.as_deref().unwrap_or_default();
    let nodes = client.api::<ApiNode>();
    let node = match nodes.find("", name).await? {
        Some(node) => node,
        None => match nodes.create(new).await {
            Err(e) if e.is_already_exists() => nodes.get("", name).await?,
            created => created?,
        },
    };
    let cidrs = cidrs_of(&node);
    if !cidrs.is_empty() {
        return Ok(cidrs);
    }
    let cache = client.cache_of::<ApiNode>(ListParams::all().fields(&format!("metadata.name={name}")));
    let mut moves = cache.revisions();
    loop {
        let cidrs = cache.get("", name).as_deref().map(cidrs_of).unwrap_or_default();
        if !cidrs.is_empty() {
            return Ok(cidrs);
        }
        // The sender lives in `cache`.
        drop(moves.changed().await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn nodes_read_the_network_as_the_server_wrote_it() {
        let said = Settings {
            cluster_cidr: Some("10.9.0.0/16".into()),
            cluster_domain: Some("example.org".into()),
            overlay: Some("vxlan".into()),
            node_name: Some("a".into()),
            ..Settings::default()
        };
        let server = said.resolve().expect("valid");
        let map = Network::of(&server).config_map();
        assert_eq!(map.data.as_ref().map(|d| d["overlay"].as_str()), Some("vxlan"));
        let network = Network::from_config_map(map).expect("our own words");
        assert_eq!(network, Network::of(&server));
        let other = Settings { node_name: Some("b".into()), ..Settings::default() }.resolve().expect("valid");
        let node = network.over(&other);
        assert_eq!((node.node_name.as_str(), node.cluster_domain.as_str()), ("b", "example.org"));
    }
}
