//! The objects that every cluster begins with. Run at every start: creates what is missing, puts back what upgrades added,
//! leaves alone what users changed.

use api::k8s::api::core::v1::{
    EndpointAddress, EndpointPort as CoreEndpointPort, EndpointSubset, ServicePort, ServiceSpec,
};
use api::k8s::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use api::k8s::api::networking::v1::{ServiceCIDR, ServiceCIDRSpec};
use api::k8s::api::rbac::v1::{PolicyRule, Subject};
use api::k8s::api::scheduling::v1::PriorityClass;
use api::k8s::api::storage::v1::StorageClass;
use api::k8s::apimachinery::pkg::apis::meta::v1::Condition;
use api::prelude::*;
use apiserver::auth::bootstrap::{DefaultObject, default_objects};
use base64::Engine;
use client::{Client, ClientError};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Upstream's, which cannot be deleted (`kube-public` is readable by all).
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// Where the API is, for the `kubernetes` Service.
#[derive(Clone)]
pub(crate) struct ApiAddress {
    pub(crate) service_ip: IpAddr,
    pub(crate) node_ip: IpAddr,
    pub(crate) port: u16,
    /// Where Services get their addresses from.
    pub(crate) service_cidr: String,
}

/// Makes sure that they are all there.
pub(crate) async fn ensure(client: &Client, api: &ApiAddress, network: ConfigMap) -> Result<(), ClientError> {
    for name in NAMESPACES {
        let labels = Some(BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), name.to_owned())]));
        let metadata = ObjectMeta { name: Some(name.into()), labels, ..ObjectMeta::default() };
        create_missing(client, &Namespace { metadata, ..Namespace::default() }).await?;
    }
    for object in default_objects() {
        match object {
            DefaultObject::ClusterRole(role) => cluster_role(client, role).await?,
            DefaultObject::Role(role) => create_missing(client, &role).await?,
            DefaultObject::ClusterRoleBinding(binding) => cluster_role_binding(client, binding).await?,
            DefaultObject::RoleBinding(binding) => create_missing(client, &binding).await?,
        }
    }
    for (name, value, text) in [
        (
            "system-cluster-critical",
            2_000_000_000,
            "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
        ),
        (
            "system-node-critical",
            2_000_001_000,
            "Used for system critical pods that must not be moved from their current node.",
        ),
    ] {
        let class = PriorityClass {
            metadata: ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() },
            value: Some(value),
            description: Some(text.into()),
            ..PriorityClass::default()
        };
        create_missing(client, &class).await?;
    }
    create_missing(client, &local_class()).await?;
    service_cidr(client, &api.service_cidr).await?;
    put(client, network, |map| &map.data).await?;
    kubernetes_service(client, api).await
}

/// The range of Services as an object (`defaultservicecidr`). It is ready: the allocator hands out its addresses.
async fn service_cidr(client: &Client, range: &str) -> Result<(), ClientError> {
    let metadata = ObjectMeta { name: Some("kubernetes".into()), ..ObjectMeta::default() };
    let spec = Some(ServiceCIDRSpec { cidrs: Some(vec![range.to_owned()]) });
    create_missing(client, &ServiceCIDR { metadata, spec, status: None }).await?;
    let api = client.api::<ServiceCIDR>();
    let mut stored = api.get("", "kubernetes").await?;
    let conditions = stored.status.get_or_insert_default().conditions.get_or_insert_default();
    if conditions.iter().any(|c| c.type_ == "Ready") {
        return Ok(());
    }
    conditions.push(Condition {
        type_: "Ready".into(),
        status: "True".into(),
        message: "Kubernetes default Service CIDR is ready".into(),
        reason: String::new(),
        last_transition_time: stored
            .metadata
            .creation_timestamp
            .clone()
            .unwrap_or(api::Time(jiff::Timestamp::UNIX_EPOCH)),
        observed_generation: None,
    });
    api.update_status(&stored).await.map(drop)
}

/// The default class: directories of the node that the claim's first pod goes to.
fn local_class() -> StorageClass {
    let annotations = Some(BTreeMap::from([(machinery::volumes::DEFAULT_CLASS.to_owned(), "true".to_owned())]));
    StorageClass {
        metadata: ObjectMeta { name: Some("local".into()), annotations, ..ObjectMeta::default() },
        provisioner: machinery::volumes::LOCAL_PROVISIONER.into(),
        reclaim_policy: Some("Delete".into()),
        volume_binding_mode: Some("WaitForFirstConsumer".into()),
        ..StorageClass::default()
    }
}

async fn create_missing<K: Object>(client: &Client, object: &K) -> Result<(), ClientError> {
    let api = client.api::<K>();
    if api.find(object.namespace(), object.name()).await?.is_some() {
        return Ok(());
    }
    match api.create(object).await {
        Ok(_) => Ok(()),
        Err(e) if e.is_already_exists() => Ok(()),
        Err(e) => Err(e),
    }
}

fn wants_update<K: Object>(object: &K) -> bool {
    object.annotation(AUTOUPDATE) == Some("true")
}

/// Adds the rules that are missing (`reconciliation.ReconcileRoleOptions`); aggregated roles are the aggregator's.
async fn cluster_role(client: &Client, wanted: ClusterRole) -> Result<(), ClientError> {
    let api = client.api::<ClusterRole>();
    let Some(mut current) = api.find("", wanted.name()).await? else { return create_missing(client, &wanted).await };
    if !wants_update(&current) || wanted.aggregation_rule.is_some() {
        return Ok(());
    }
    let rules = current.rules.get_or_insert_default();
    let missing: Vec<PolicyRule> = wanted.rules.iter().flatten().filter(|r| !rules.contains(r)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    rules.extend(missing);
    api.update(&current).await.map(drop)
}

async fn cluster_role_binding(client: &Client, wanted: ClusterRoleBinding) -> Result<(), ClientError> {
    let api = client.api::<ClusterRoleBinding>();
    let Some(mut current) = api.find("", wanted.name()).await? else { return create_missing(client, &wanted).await };
    if !wants_update(&current) {
        return Ok(());
    }
    let subjects = current.subjects.get_or_insert_default();
    let missing: Vec<Subject> = wanted.subjects.iter().flatten().filter(|s| !subjects.contains(s)).cloned().collect();
    if missing.is_empty() {
        return Ok(());
    }
    subjects.extend(missing);
    api.update(&current).await.map(drop)
}

/// `pkg/controlplane/controller/kubernetesservice` and `reconcilers`: the Service by which pods find the API.
async fn kubernetes_service(client: &Client, at: &ApiAddress) -> Result<(), ClientError> {
    let labels = BTreeMap::from([
        ("component".to_owned(), "apiserver".to_owned()),
        ("provider".to_owned(), "kubernetes".to_owned()),
    ]);
    let metadata = ObjectMeta {
        name: Some("kubernetes".into()),
        namespace: Some("default".into()),
        labels: Some(labels),
        ..ObjectMeta::default()
    };
    let port = ServicePort {
        name: Some("https".into()),
        port: 443,
        protocol: Some("TCP".into()),
        target_port: Some(api::k8s::apimachinery::pkg::util::intstr::IntOrString::Int(at.port.into())),
        ..ServicePort::default()
    };
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        cluster_ip: Some(at.service_ip.to_string()),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    create_missing(client, &Service { metadata, spec: Some(spec), status: None }).await
}

/// Where the API is: the Endpoints and the EndpointSlice of the Service `kubernetes`.
pub(crate) async fn api_endpoints(client: &Client, addresses: &[IpAddr], port: u16) -> Result<(), ClientError> {
    let metadata = |key: &str, value: &str| ObjectMeta {
        name: Some("kubernetes".into()),
        namespace: Some("default".into()),
        labels: Some(BTreeMap::from([(key.to_owned(), value.to_owned())])),
        ..ObjectMeta::default()
    };
    let of = |ip: &IpAddr| EndpointAddress { ip: ip.to_string(), ..EndpointAddress::default() };
    let subset = EndpointSubset {
        addresses: Some(addresses.iter().map(of).collect()),
        ports: Some(vec![CoreEndpointPort {
            name: Some("https".into()),
            port: port.into(),
            protocol: Some("TCP".into()),
            ..CoreEndpointPort::default()
        }]),
        not_ready_addresses: None,
    };
    let mirror = metadata("endpointslice.kubernetes.io/skip-mirror", "true");
    put(client, Endpoints { metadata: mirror, subsets: Some(vec![subset]) }, |e| &e.subsets).await?;

    let ready = |ip: &IpAddr| Endpoint {
        addresses: vec![ip.to_string()],
        conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
        ..Endpoint::default()
    };
    let slice = EndpointSlice {
        metadata: metadata("kubernetes.io/service-name", "kubernetes"),
        address_type: if addresses.iter().all(IpAddr::is_ipv4) { "IPv4" } else { "IPv6" }.into(),
        endpoints: Some(addresses.iter().map(ready).collect()),
        ports: Some(vec![EndpointPort {
            name: Some("https".into()),
            port: Some(port.into()),
            protocol: Some("TCP".into()),
            app_protocol: None,
        }]),
    };
    put(client, slice, |s| &s.endpoints).await
}

/// `kube-public/cluster-info`: address and CA of the cluster, for machines that join
/// (`cmd/kubeadm/app/phases/bootstraptoken/clusterinfo`). Its signatures are the bootstrap signer's.
pub(crate) async fn cluster_info(client: &Client, server: &str, ca_pem: &str) -> Result<(), ClientError> {
    const KEY: &str = "kubeconfig";
    let ca = base64::engine::general_purpose::STANDARD.encode(ca_pem);
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "", "contexts": [], "users": [], "preferences": {},
        "clusters": [{"name": "", "cluster": {"server": server, "certificate-authority-data": ca}}],
    })
    .to_string();
    let api = client.api::<ConfigMap>();
    if let Some(mut current) = api.find("kube-public", "cluster-info").await? {
        let before = current.data.get_or_insert_default().insert(KEY.to_owned(), kubeconfig.clone());
        return match before == Some(kubeconfig) {
            true => Ok(()),
            false => api.update(&current).await.map(drop),
        };
    }
    let metadata = ObjectMeta {
        name: Some("cluster-info".into()),
        namespace: Some("kube-public".into()),
        ..ObjectMeta::default()
    };
    let data = Some(BTreeMap::from([(KEY.to_owned(), kubeconfig)]));
    create_missing(client, &ConfigMap { metadata, data, ..ConfigMap::default() }).await
}

/// Since when the use of legacy tokens is noted (`pkg/controlplane/controller/legacytokentracking`).
pub(crate) async fn token_tracking(client: &Client, now: jiff::Timestamp) -> Result<(), ClientError> {
    let metadata = ObjectMeta {
        name: Some("kube-apiserver-legacy-service-account-token-tracking".into()),
        namespace: Some("kube-system".into()),
        ..ObjectMeta::default()
    };
    let data = Some(BTreeMap::from([("since".to_owned(), now.strftime("%Y-%m-%d").to_string())]));
    create_missing(client, &ConfigMap { metadata, data, ..ConfigMap::default() }).await
}

/// Creates, or replaces if the part that matters differs (the address of this machine may have changed).
async fn put<K: Object, P: PartialEq>(client: &Client, wanted: K, part: impl Fn(&K) -> &P) -> Result<(), ClientError> {
    let api = client.api::<K>();
    match api.find(wanted.namespace(), wanted.name()).await? {
        None => create_missing(client, &wanted).await,
        Some(current) if part(&current) == part(&wanted) => Ok(()),
        Some(current) => {
            let mut next = wanted;
            next.meta_mut().resource_version.clone_from(&current.meta().resource_version);
            api.update(&next).await.map(drop)
        }
    }
}
