//! `metrics.k8s.io/v1beta1`: what nodes and pods use, for `kubectl top` and autoscalers. Nothing is stored: the nodes are asked
//! when somebody asks here. An APIService of the same group and version, as metrics-server brings it, takes over.
//!
//! Follows `k8s.io/metrics/pkg/apis/metrics/v1beta1` and metrics-server's `pkg/api`. Differs: get and list only, as there;
//! a node that does not answer is left out of a list.

use crate::api_server::{ApiServer, Call};
use crate::options::ListOptions;
use crate::reader::{KindRef, Stored};
use crate::request_info::RequestInfo;
use crate::response::Answer;
use crate::select::Selection;
use crate::{connect, status};
use api::Status;
use api::prelude::{MetaExt, Node, Pod};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

pub(crate) const GROUP: &str = "metrics.k8s.io";
pub(crate) const VERSION: &str = "v1beta1";
const API_VERSION: &str = "metrics.k8s.io/v1beta1";
/// A node that takes longer is left out.
const PATIENCE: Duration = Duration::from_secs(10);
const SUMMARY: &str = "/stats/summary?only_cpu_and_memory=true";

/// Whether a request is about this group.
pub(crate) fn is_about(info: &RequestInfo) -> bool {
    info.is_resource && info.group == GROUP && info.version == VERSION
}

/// The group's two resources, for discovery: plural, kind, whether namespaced.
pub(crate) const RESOURCES: [(&str, &str, bool); 2] = [("nodes", "NodeMetrics", false), ("pods", "PodMetrics", true)];
pub(crate) const VERBS: [&str; 2] = ["get", "list"];

/// Answers a request about it.
pub(crate) async fn answer(server: &ApiServer, call: &Call) -> Result<Answer, Status> {
    let info = &call.info;
    if !info.subresource.is_empty() {
        return Err(status::no_such_path());
    }
    match (info.resource.as_str(), info.verb.as_ref()) {
        ("nodes", "get") => {
            let missing = || status::not_found_in(GROUP, "nodemetrics", &info.name);
            let node = server.reader().get::<Node>("", &info.name).await?.ok_or_else(missing)?;
            let summary = ask(server, node.name()).await.ok_or_else(missing)?;
            node_metrics(&node.metadata.labels.clone().unwrap_or_default(), &summary).map(json).ok_or_else(missing)
        }
        ("pods", "get") => {
            let name = format!("{}/{}", info.namespace, info.name);
            let missing = || status::not_found_in(GROUP, "podmetrics", &name);
            let pod = server.reader().get::<Pod>(&info.namespace, &info.name).await?.ok_or_else(missing)?;
            let summary = ask(server, node_of(&pod)).await.ok_or_else(missing)?;
            pod_metrics(&pod, &summary).map(json).ok_or_else(missing)
        }
        ("nodes", "list") => {
            let nodes: Vec<Node> = selected(server, call, "nodes", "").await?;
            let summaries = join_all(nodes.iter().map(|node| ask(server, node.name()))).await;
            let items = nodes.iter().zip(summaries).filter_map(|(node, summary)| {
                node_metrics(&node.metadata.labels.clone().unwrap_or_default(), &summary?)
            });
            Ok(list("NodeMetricsList", items.collect()))
        }
        ("pods", "list") => {
            let pods: Vec<Pod> = selected(server, call, "pods", &info.namespace).await?;
            let mut names: Vec<&str> = pods.iter().map(node_of).filter(|n| !n.is_empty()).collect();
            names.sort_unstable();
            names.dedup();
            let summaries = join_all(names.iter().map(|name| ask(server, name))).await;
            let by_node: BTreeMap<&str, Value> =
                names.into_iter().zip(summaries).filter_map(|(name, summary)| Some((name, summary?))).collect();
            let items = pods.iter().filter_map(|pod| pod_metrics(pod, by_node.get(node_of(pod))?));
            Ok(list("PodMetricsList", items.collect()))
        }
        ("nodes" | "pods", _) => Err(status::method_not_allowed()),
        _ => Err(status::no_such_path()),
    }
}

fn json(value: Value) -> Answer {
    Answer::json(value.to_string())
}

fn list(kind: &str, items: Vec<Value>) -> Answer {
    json(json!({"kind": kind, "apiVersion": API_VERSION, "metadata": {}, "items": items}))
}

fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or_default()
}

/// The objects that the selectors of the request mean.
async fn selected<K: api::Object>(
    server: &ApiServer,
    call: &Call,
    plural: &str,
    namespace: &str,
) -> Result<Vec<K>, Status> {
    let kind: KindRef = server.find_kind("", "v1", plural).ok_or_else(status::no_such_path)?;
    let options = ListOptions::parse(&call.query, false)?;
    let selection = Selection::parse(&options, &*kind, &call.info)?;
    let stored = server.reader().stored_list(&kind.info().storage, namespace).await;
    let (all, _): (Vec<Stored>, _) = stored.map_err(status::from_store)?;
    let wanted = all.iter().filter(|s| selection.matches(&*kind, s));
    wanted.map(|s| s.decode().map_err(status::internal)).collect()
}

/// A node's summary; `None` if it cannot be had.
async fn ask(server: &ApiServer, node: &str) -> Option<Value> {
    let answer = tokio::time::timeout(PATIENCE, connect::fetch(server, node, SUMMARY)).await;
    let failed = |error: &dyn std::fmt::Display| tracing::debug!(node, %error, "a node does not tell what it uses");
    let bytes = match answer {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(refused)) => {
            failed(&refused.message);
            return None;
        }
        Err(late) => {
            failed(&late);
            return None;
        }
    };
    serde_json::from_slice(&bytes).map_err(|e| failed(&e)).ok()
}

fn window(summary: &Value) -> String {
    let ms = summary["node"]["cpu"]["rateWindowMilliseconds"].as_u64().unwrap_or(0);
    let text = format!("{}.{:03}", ms / 1000, ms % 1000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

/// CPU in nanocores, memory in Ki, as metrics-server tells them; `None` while a rate is not known.
fn usage(cpu: &Value, memory: &Value) -> Option<Value> {
    let (cpu, memory) = (cpu["usageNanoCores"].as_u64()?, memory["workingSetBytes"].as_u64()?);
    Some(json!({"cpu": format!("{cpu}n"), "memory": format!("{}Ki", memory / 1024)}))
}

fn node_metrics(labels: &BTreeMap<String, String>, summary: &Value) -> Option<Value> {
    let node = &summary["node"];
    Some(json!({
        "kind": "NodeMetrics",
        "apiVersion": API_VERSION,
        "metadata": {"name": node["nodeName"], "creationTimestamp": node["cpu"]["time"], "labels": labels},
        "timestamp": node["cpu"]["time"],
        "window": window(summary),
        "usage": usage(&node["cpu"], &node["memory"])?,
    }))
}

fn pod_metrics(pod: &Pod, summary: &Value) -> Option<Value> {
    let found = summary["pods"].as_array()?.iter().find(|p| p["podRef"]["uid"] == pod.uid())?;
    let containers = found["containers"].as_array()?.iter();
    let containers: Vec<Value> =
        containers.filter_map(|c| Some(json!({"name": c["name"], "usage": usage(&c["cpu"], &c["memory"])?}))).collect();
    let at = &summary["node"]["cpu"]["time"];
    (!containers.is_empty()).then(|| {
        json!({
            "kind": "PodMetrics",
            "apiVersion": API_VERSION,
            "metadata": {
                "name": pod.name(), "namespace": pod.namespace(), "creationTimestamp": at,
                "labels": pod.metadata.labels.clone().unwrap_or_default(),
            },
            "timestamp": at,
            "window": window(summary),
            "containers": containers,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use expect_test::expect;

    #[test]
    fn a_summary_becomes_metrics() {
        let cpu = |n: u64| json!({"time": "2026-01-01T00:00:00Z", "usageNanoCores": n});
        let mut node_cpu = cpu(1_500_000);
        node_cpu["rateWindowMilliseconds"] = 10_500.into();
        let container = json!({"name": "c", "cpu": cpu(7), "memory": {"workingSetBytes": 4096}});
        let unknown = json!({"name": "new", "cpu": {}, "memory": {"workingSetBytes": 1}});
        let summary = json!({
            "node": {"nodeName": "n", "cpu": node_cpu, "memory": {"workingSetBytes": 1 << 20}},
            "pods": [{"podRef": {"uid": "u"}, "containers": [container, unknown]}],
        });
        let node = node_metrics(&BTreeMap::new(), &summary).expect("known").to_string();
        expect![[r#"{"apiVersion":"metrics.k8s.io/v1beta1","kind":"NodeMetrics","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","labels":{},"name":"n"},"timestamp":"2026-01-01T00:00:00Z","usage":{"cpu":"1500000n","memory":"1024Ki"},"window":"10.5s"}"#]].assert_eq(&node);
        let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","namespace":"ns","uid":"u"}}"#;
        let pod = Pod::decode(pod.as_bytes()).expect("a pod");
        let text = pod_metrics(&pod, &summary).expect("known").to_string();
        expect![[r#"{"apiVersion":"metrics.k8s.io/v1beta1","containers":[{"name":"c","usage":{"cpu":"7n","memory":"4Ki"}}],"kind":"PodMetrics","metadata":{"creationTimestamp":"2026-01-01T00:00:00Z","labels":{},"name":"p","namespace":"ns"},"timestamp":"2026-01-01T00:00:00Z","window":"10.5s"}"#]].assert_eq(&text);
        let other = Pod { metadata: api::ObjectMeta { uid: Some("x".into()), ..pod.metadata.clone() }, ..pod };
        assert_eq!(pod_metrics(&other, &summary), None);
    }
}
