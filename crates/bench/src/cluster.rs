//! A whole cluster on this machine: start to Ready, memory and CPU when nobody wants anything, the size of the binary; and pods:
//! from the create request until a watch says Running, one after another and a hundred at once.

use crate::fail::{Fail, Result, check, wrong};
use crate::http::{JSON, Pool, revision};
use crate::image;
use crate::measure::{self, Machine, Memory};
use crate::report::{Report, mb, spread, us};
use crate::servers::{Place, Server};
use bytes::Bytes;
use client::Body;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long a cluster may take to become quiet before its memory is read.
const SETTLE: Duration = Duration::from_secs(10);
/// How long idle CPU is measured.
const IDLE: Duration = Duration::from_secs(60);
/// What has not happened after so long will not.
const PATIENCE: Duration = Duration::from_secs(60);

/// Start, idle memory and CPU, binary size.
pub(crate) async fn start(binary: &Path, report: &mut Report) -> Result<()> {
    let place = Place::new(binary)?;
    report.add(
        "Start",
        "size of the binary",
        format!("**{}**", mb(place.binary_bytes())),
        "≤ 40 MB",
        "stripped, thin LTO",
    );
    let server = Server::dhow(&place)?;
    add_start(report, "first `dhow up` to node Ready", &server, "makes CA, keys, store").await?;
    server.stop()?;
    let server = Server::dhow(&place)?;
    add_start(report, "`dhow up` again to node Ready", &server, "").await?;
    idle(&server, report, true).await?;
    server.stop()
}

async fn add_start(report: &mut Report, what: &str, server: &Server, note: &str) -> Result<()> {
    let nodes = server.pool()?.get("/api/v1/nodes").await?;
    let conditions = nodes["items"][0]["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
    check(ready, "the list of nodes", || format!("the node is not Ready: {conditions:?}"))?;
    let value = format!("**{}**", us(server.started_in.as_secs_f64() * 1e6));
    report.add("Start", what, value, "≤ 1 s, aim 0.5 s", note);
    Ok(())
}

/// Memory after a while, CPU over a minute, of the whole tree.
async fn idle(server: &Server, report: &mut Report, cpu: bool) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    add_memory(server, report, "without pods", "≤ 60 MB");
    if cpu {
        let pids: Vec<i32> = measure::tree(server.pid()).into_iter().map(|(pid, _)| pid).collect();
        let (before, start) = (measure::cpu_ns(&pids), Instant::now());
        tokio::time::sleep(IDLE).await;
        let used = (measure::cpu_ns(&pids) - before) as f64;
        let share = used / start.elapsed().as_nanos() as f64 * 100.0;
        let note = format!("{} processes over {} s, {:.1} ms of CPU", pids.len(), IDLE.as_secs(), used / 1e6);
        report.add("Idle", "CPU of everything", format!("**{share:.2} % of a core**"), "≤ 0.3 %", note);
    }
    Ok(())
}

fn add_memory(server: &Server, report: &mut Report, when: &str, target: &str) {
    let mut sum = Memory::default();
    let mut parts: Vec<(String, usize, u64)> = Vec::new();
    for (pid, name) in measure::tree(server.pid()) {
        // The measured program itself is the workload, not us.
        if name == "stamp" {
            continue;
        }
        // Supervisors carry the beginning of their pod's name.
        let name = if name.starts_with("shim-") { "supervisor".to_owned() } else { name };
        let m = measure::memory(pid);
        sum = Memory { rss: sum.rss + m.rss, pss: sum.pss + m.pss, private_dirty: sum.private_dirty + m.private_dirty };
        match parts.iter_mut().find(|(n, ..)| *n == name) {
            Some(part) => (part.1, part.2) = (part.1 + 1, part.2 + m.pss),
            None => parts.push((name, 1, m.pss)),
        }
    }
    let parts: Vec<String> = parts.iter().map(|(name, n, pss)| format!("{n} × {name} {}", mb(*pss))).collect();
    let value = format!("**{}** RSS, {} PSS", mb(sum.rss), mb(sum.pss));
    let note = format!("private dirty {}; PSS: {}", mb(sum.private_dirty), parts.join(", "));
    report.add("Idle", format!("memory of everything, {when}"), value, target, note);
}

/// How many pods.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PodCounts {
    /// Pods one after another
    #[arg(long, default_value_t = 50)]
    sequential: usize,
    /// Replicas of the Deployment
    #[arg(long, default_value_t = 100)]
    replicas: usize,
    /// An image that is on the node
    #[arg(long, default_value = image::NAME)]
    image: String,
}

/// A dhow of our own with the image, then [`pods`] and the memory of so many pods.
pub(crate) async fn start_pods(binary: &Path, wanted: &PodCounts, report: &mut Report) -> Result<()> {
    let place = Place::new(binary)?;
    let server = Server::dhow(&place)?;
    let layout = crate::servers::directory()?;
    image::write(layout.path())?;
    place.dhow(&["image", "import", &layout.path().to_string_lossy(), "--name", image::NAME])?;
    let result = pods(&server.pool()?, Some(&server), wanted, report).await;
    server.stop()?;
    result
}

/// In a namespace of its own, which is removed.
pub(crate) async fn pods(pool: &Pool, server: Option<&Server>, wanted: &PodCounts, report: &mut Report) -> Result<()> {
    let name = format!("bench-pods-{:x}", measure::monotonic_ns());
    pool.make_namespace(&name).await?;
    let result = async {
        sequential(pool, server, &name, wanted, report).await?;
        deployment(pool, server, &name, wanted, report).await
    };
    let result = result.await;
    pool.delete(&format!("/api/v1/namespaces/{name}")).await?;
    result
}

fn spec(wanted: &PodCounts) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
        "containers": [{"name": "main", "image": wanted.image, "imagePullPolicy": "IfNotPresent"}],
    })
}

async fn sequential(
    pool: &Pool,
    server: Option<&Server>,
    namespace: &str,
    wanted: &PodCounts,
    report: &mut Report,
) -> Result<()> {
    let path = format!("/api/v1/namespaces/{namespace}/pods");
    let mut watch = Watch::start(pool, &path).await?;
    let pids: Vec<i32> =
        server.map(|s| measure::tree(s.pid()).into_iter().map(|(pid, _)| pid).collect()).unwrap_or_default();
    let (mut running, mut gone) = (Vec::new(), Vec::new());
    let before = measure::cpu_ns(&pids);
    let machine = Machine::begin();
    // The first two warm up and are not counted.
    for i in 0..wanted.sequential + 2 {
        let name = format!("p{i}");
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec(wanted)});
        let start = Instant::now();
        let answer = pool.call(0, Method::POST, &path, JSON, pod.to_string().into()).await?;
        answer.object(&path, StatusCode::CREATED)?;
        watch
            .until(|kind, pod| kind != "DELETED" && pod["metadata"]["name"] == name.as_str() && is_running(pod))
            .await?;
        let ran = start.elapsed();
        let start = Instant::now();
        pool.delete(&format!("{path}/{name}")).await?;
        watch.until(|kind, pod| kind == "DELETED" && pod["metadata"]["name"] == name.as_str()).await?;
        if i >= 2 {
            running.push(ran.as_secs_f64() * 1e6);
            gone.push(start.elapsed().as_secs_f64() * 1e6);
        }
    }
    let cpu = (measure::cpu_ns(&pids) - before) as f64 / 1e6 / (wanted.sequential + 2) as f64;
    let cpu = if pids.is_empty() {
        String::new()
    } else {
        format!("; {cpu:.1} ms of dhow's and the zygote's CPU per cycle, without supervisors")
    };
    let note = format!(
        "n={}, one after another, seen by watch: phase Running, container started{cpu}; {}",
        running.len(),
        machine.note()
    );
    report.add("Pod", "create → Running, image present", spread(running), "p50 ≤ 100 ms, aim 20 ms", note);
    report.add("Pod", "delete → gone", spread(gone), "", "grace period 0 in the pod");
    Ok(())
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running" && pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
}

async fn deployment(
    pool: &Pool,
    server: Option<&Server>,
    namespace: &str,
    wanted: &PodCounts,
    report: &mut Report,
) -> Result<()> {
    let path = format!("/apis/apps/v1/namespaces/{namespace}/deployments");
    let mut watch = Watch::start(pool, &path).await?;
    let labels = json!({"app": "many"});
    let many = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "many"},
        "spec": {"replicas": wanted.replicas, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec_for_deployment(wanted)}},
    });
    let (start, machine) = (Instant::now(), Machine::begin());
    pool.call(0, Method::POST, &path, JSON, many.to_string().into()).await?.object(&path, StatusCode::CREATED)?;
    watch
        .until(|_, d| {
            d["status"]["readyReplicas"] == wanted.replicas && d["status"]["availableReplicas"] == wanted.replicas
        })
        .await?;
    let (took, rest) = (start.elapsed(), machine.note());
    let pods = pool.get(&format!("/api/v1/namespaces/{namespace}/pods")).await?;
    let running = pods["items"].as_array().map_or(0, |items| items.iter().filter(|p| is_running(p)).count());
    check(running == wanted.replicas, "the list of pods", || format!("{running} pods run"))?;
    let rate = wanted.replicas as f64 / took.as_secs_f64();
    let what = format!("Deployment of {} → all available", wanted.replicas);
    report.add("Pod", what, format!("**{}**", us(took.as_secs_f64() * 1e6)), "", format!("{rate:.0} pods/s; {rest}"));
    if let Some(server) = server {
        tokio::time::sleep(SETTLE).await;
        add_memory(server, report, &format!("with {} pods", wanted.replicas), "");
    }
    let pods = format!("/api/v1/namespaces/{namespace}/pods");
    let mut watch = Watch::start(pool, &pods).await?;
    let start = Instant::now();
    pool.delete(&format!("{path}/many")).await?;
    let mut left = wanted.replicas;
    watch
        .until(|kind, _| {
            left -= usize::from(kind == "DELETED");
            left == 0
        })
        .await?;
    let what = format!("the same deleted → {} pods gone", wanted.replicas);
    report.add("Pod", what, us(start.elapsed().as_secs_f64() * 1e6), "", "");
    Ok(())
}

/// A template has everything a pod has but a name.
fn spec_for_deployment(wanted: &PodCounts) -> Value {
    spec(wanted)
}

/// One watch, read as it comes.
struct Watch {
    body: Body,
    buffer: Vec<u8>,
}

impl Watch {
    /// Of everything at `path` that happens from now on.
    async fn start(pool: &Pool, path: &str) -> Result<Watch> {
        let at = revision(&pool.get(&format!("{path}?limit=1")).await?, path)?;
        let path = format!("{path}?watch=1&resourceVersion={at}");
        let response = pool.send(1, Method::GET, &path, JSON, Bytes::new()).await?;
        check(response.status() == StatusCode::OK, &path, || response.status().to_string())?;
        Ok(Watch { body: response.into_body(), buffer: Vec::new() })
    }

    /// Reads events until one is `wanted`.
    async fn until(&mut self, mut wanted: impl FnMut(&str, &Value) -> bool) -> Result<()> {
        let (mut last, deadline) = (Value::Null, tokio::time::Instant::now() + PATIENCE);
        loop {
            while let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).map_err(|e| wrong("watch", e))?;
                let kind = event["type"].as_str().unwrap_or_default();
                check(kind != "ERROR", "watch", || event["object"].to_string())?;
                if wanted(kind, &event["object"]) {
                    return Ok(());
                }
                last = event["object"]["status"].clone();
            }
            let frame = tokio::time::timeout_at(deadline, self.body.frame()).await;
            let frame = frame.map_err(|_| {
                wrong("watch", format!("not what was waited for within {PATIENCE:?}; last status: {last}"))
            })?;
            let frame = frame.ok_or_else(|| wrong("watch", "the stream ended"))?;
            let frame = frame.map_err(|e| Fail::Refused { what: "read a watch".into(), why: e.to_string() })?;
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }
}
