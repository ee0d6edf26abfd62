//! [`Look`]: fetches a target's scale and its pods' metrics, as any client does.

use super::{Note, Notes};
use crate::plan::{Done, Key, Task};
use crate::raw::{self, Resource};
use api::k8s::api::autoscaling::v2::HorizontalPodAutoscaler;
use api::prelude::*;
use async_trait::async_trait;
use client::{Client, ClientError};
use http::Method;
use jiff::Timestamp;
use machinery::quantity::Quantity;
use machinery::selector::LabelSelector;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// What was there at a time.
pub(super) struct Seen {
    /// Of the autoscaler.
    pub(super) generation: Option<i64>,
    pub(super) at: Timestamp,
    pub(super) scale: Result<Scale, String>,
    /// By pod.
    pub(super) metrics: Result<BTreeMap<String, PodUsage>, String>,
}

/// The scale subresource of a target.
#[derive(Clone)]
pub(super) struct Scale {
    pub(super) path: String,
    /// `spec.replicas`
    pub(super) replicas: i32,
    /// `None`: it has none, or one that cannot be read.
    pub(super) selector: Option<LabelSelector>,
    /// As it came.
    pub(super) object: Value,
}

/// What a pod used.
#[derive(Clone)]
pub(super) struct PodUsage {
    pub(super) at: Timestamp,
    pub(super) window: Duration,
    /// Container → resource → thousandths.
    pub(super) containers: BTreeMap<String, BTreeMap<String, i64>>,
}

/// See the file's head.
pub(super) struct Look {
    pub(super) hpa: Arc<HorizontalPodAutoscaler>,
    pub(super) notes: Arc<Notes>,
    pub(super) now: Timestamp,
}

#[async_trait]
impl Task for Look {
    fn title(&self) -> String {
        format!("look at the target of HorizontalPodAutoscaler {}", Key::of(self.hpa.as_ref()))
    }

    async fn run(&self, client: &Client) -> Result<Done, ClientError> {
        let scale = scale(client, &self.hpa).await;
        let metrics = match &scale {
            Ok(Scale { selector: Some(selector), .. }) => metrics(client, self.hpa.namespace(), selector).await,
            _ => Ok(BTreeMap::new()),
        };
        let seen = Seen { generation: self.hpa.metadata.generation, at: self.now, scale, metrics };
        let key = Key::of(self.hpa.as_ref());
        let mut notes = self.notes.0.lock();
        let memory = notes.remove(&key).unwrap_or_default().memory;
        notes.insert(key, Note { seen: Some(Arc::new(seen)), used: false, memory });
        Ok(Done::again(Duration::ZERO))
    }
}

/// Kinds that need no discovery.
const KNOWN: [(&str, &str, &str, &str); 4] = [
    ("apps", "v1", "Deployment", "deployments"),
    ("apps", "v1", "ReplicaSet", "replicasets"),
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("", "v1", "ReplicationController", "replicationcontrollers"),
];

async fn scale(client: &Client, hpa: &HorizontalPodAutoscaler) -> Result<Scale, String> {
    let target = hpa.spec.scale_target_ref.clone();
    let api_version = target.api_version.unwrap_or_default();
    let group = api_version.rsplit_once('/').map_or("", |(group, _)| group);
    let text = |e: ClientError| e.to_string();
    let known = KNOWN.iter().find(|(g, _, kind, _)| *g == group && *kind == target.kind);
    let resource = match known {
        Some((group, version, kind, plural)) => Resource {
            group: (*group).into(),
            version: (*version).into(),
            kind: (*kind).into(),
            plural: (*plural).into(),
            namespaced: true,
            verbs: Vec::new(),
        },
        None => {
            let served = raw::discover(client).await.map_err(text)?;
            let found = served.into_iter().find(|r| r.group == group && r.kind == target.kind);
            let version = if api_version.is_empty() { "v1" } else { &api_version };
            found.ok_or_else(|| format!("no matches for kind {:?} in version {version:?}", target.kind))?
        }
    };
    let path = format!("{}/scale", resource.path(hpa.namespace(), &target.name));
    let bytes = raw::call(client, Method::GET, &path, "application/json", None).await.map_err(text)?;
    let object: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let number = |at: &str| object.pointer(at).and_then(Value::as_i64).and_then(|n| i32::try_from(n).ok()).unwrap_or(0);
    let selector = object.pointer("/status/selector").and_then(Value::as_str).filter(|s| !s.is_empty());
    Ok(Scale {
        path,
        replicas: number("/spec/replicas"),
        selector: selector.and_then(|s| LabelSelector::parse(s).ok()),
        object,
    })
}

/// Writes a scale with another number of replicas.
pub(super) async fn rescale(client: &Client, scale: &Scale, replicas: i32) -> Result<(), ClientError> {
    let mut object = scale.object.clone();
    object["spec"]["replicas"] = replicas.into();
    let body = Some(("application/json", object.to_string().into_bytes()));
    raw::call(client, Method::PUT, &scale.path, "application/json", body).await.map(drop)
}

/// `GetResourceMetric`
async fn metrics(
    client: &Client,
    namespace: &str,
    selector: &LabelSelector,
) -> Result<BTreeMap<String, PodUsage>, String> {
    let text = selector.to_string();
    let selector = utf8_percent_encode(&text, NON_ALPHANUMERIC);
    let path = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods?labelSelector={selector}");
    let failed = |e: String| format!("unable to fetch metrics from resource metrics API: {e}");
    let bytes = raw::call(client, Method::GET, &path, "application/json", None).await;
    let bytes = bytes.map_err(|e| failed(e.to_string()))?;
    let list: Value = serde_json::from_slice(&bytes).map_err(|e| failed(e.to_string()))?;
    let items = list["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    if items.is_empty() {
        return Err("no metrics returned from resource metrics API".into());
    }
    Ok(items.iter().filter_map(pod_usage).collect())
}

fn pod_usage(item: &Value) -> Option<(String, PodUsage)> {
    let name = item.pointer("/metadata/name")?.as_str()?.to_owned();
    let at = item["timestamp"].as_str()?.parse().ok()?;
    let window: jiff::SignedDuration = item["window"].as_str().and_then(|w| w.parse().ok()).unwrap_or_default();
    let milli =
        |(name, amount): (&String, &Value)| Some((name.clone(), Quantity::parse(amount.as_str()?).ok()?.milli_value()));
    let containers = item["containers"].as_array()?.iter().filter_map(|c| {
        let usage = c["usage"].as_object()?.iter().filter_map(milli).collect();
        Some((c["name"].as_str()?.to_owned(), usage))
    });
    Some((
        name,
        PodUsage { at, window: Duration::try_from(window).unwrap_or_default(), containers: containers.collect() },
    ))
}
