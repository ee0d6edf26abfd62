//! B1 to B4 and B7 of PERFORMANCE §4: CPU of the server per create, get, list, watch event, status patch, lease renewal, delete. With
//! them, in files of their own: B5 and B16 (`bystanders.rs`) and B8 (`apply.rs`).
//!
//! Works in namespaces of its own (`bench-SEED-N`), which it removes. Pods name a scheduler that nobody is, so they stay as made.

use crate::fail::{Fail, Result, check, wrong};
use crate::http::{Answer, JSON, MERGE, Pool, STRATEGIC, revision};
use crate::load::{Loop, Revisions, closed};
use crate::measure::{self, Stretch};
use crate::objects::{GROUPS, Objects, SELECT, contains};
use crate::report::{Report, mb, us};
use crate::watchers::Watchers;
use crate::{apply, bystanders};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// Pods to create; the other loops follow from it
    #[arg(long, default_value_t = 3000)]
    pub(crate) objects: usize,
    /// Namespaces they are spread over
    #[arg(long, default_value_t = 20)]
    pub(crate) namespaces: usize,
    /// Watchers of one namespace
    #[arg(long, default_value_t = 100)]
    pub(crate) watchers: usize,
}

/// A pod as the server acknowledged it.
#[derive(Debug, Clone)]
pub(crate) struct Acked {
    uid: String,
    revision: u64,
}

/// What all loops work with.
pub(crate) struct Bench<'a> {
    pub(crate) pool: &'a Pool,
    pub(crate) pids: &'a [i32],
    pub(crate) load: &'a Load,
    pub(crate) objects: Objects,
    prefix: String,
    revisions: Revisions,
    /// By index of the pod.
    acked: Mutex<BTreeMap<usize, Acked>>,
}

/// Runs all of it and cleans up, also after a failure.
pub(crate) async fn run(pool: &Pool, pids: &[i32], load: &Load, seed: u64, report: &mut Report) -> Result<()> {
    let bench = Bench {
        pool,
        pids,
        load,
        objects: Objects::new(seed),
        prefix: format!("bench-{seed:x}"),
        revisions: Revisions::default(),
        acked: Mutex::default(),
    };
    let result = bench.all(report).await;
    for n in 0..=load.namespaces {
        pool.delete(&format!("/api/v1/namespaces/{}", bench.namespace(n))).await?;
    }
    result
}

impl Bench<'_> {
    async fn all(&self, report: &mut Report) -> Result<()> {
        for n in 0..=self.load.namespaces {
            self.pool.make_namespace(&self.namespace(n)).await?;
        }
        bystanders::memory_of_watches(self, report).await?;
        let before = bystanders::resident(self.pids);
        self.creates(report).await?;
        bystanders::memory_of_pods(self, before, report);
        self.gets(report).await?;
        self.lists(report).await?;
        self.watch_events(report).await?;
        bystanders::run(self, report).await?;
        self.status_patches(report).await?;
        self.leases(report).await?;
        apply::run(self, report).await?;
        self.deletes(report).await
    }

    pub(crate) fn namespace(&self, n: usize) -> String {
        format!("{}-{n}", self.prefix)
    }

    fn pods(&self, index: usize) -> String {
        format!("/api/v1/namespaces/{}/pods", self.namespace(index % self.load.namespaces))
    }

    fn pod(&self, index: usize) -> String {
        format!("{}/{}", self.pods(index), self.objects.name(index))
    }

    fn acked(&self, index: usize) -> Result<Acked> {
        let map = self.acked.lock().map_err(|_| wrong("a loop", "a worker panicked"))?;
        map.get(&index).cloned().ok_or_else(|| wrong("a loop", format!("pod {index} was not created")))
    }

    fn remember(&self, index: usize, acked: Acked) -> Result<()> {
        self.acked.lock().map_err(|_| wrong("a loop", "a worker panicked"))?.insert(index, acked);
        Ok(())
    }

    /// Sends a write and checks status and revision; returns the object.
    async fn write(
        &self,
        worker: usize,
        method: Method,
        path: &str,
        kind: &str,
        body: &Value,
        expected: StatusCode,
    ) -> Result<Value> {
        let floor = self.revisions.floor();
        let answer = self.pool.call(worker, method, path, kind, body.to_string().into()).await?;
        let object = answer.object(path, expected)?;
        self.revisions.answered(floor, revision(&object, path)?, path)?;
        Ok(object)
    }

    pub(crate) async fn create(&self, index: usize, worker: usize, namespace: &str) -> Result<Acked> {
        let path = format!("/api/v1/namespaces/{namespace}/pods");
        let sent = self.objects.pod(index, namespace);
        let object = self.write(worker, Method::POST, &path, JSON, &sent, StatusCode::CREATED).await?;
        check(contains(&object, &sent), &path, || format!("the object is not the one that was sent: {object}"))?;
        let uid = object["metadata"]["uid"].as_str().unwrap_or_default().to_owned();
        check(uid.len() == 36, &path, || format!("uid {uid:?}"))?;
        Ok(Acked { uid, revision: revision(&object, &path)? })
    }

    async fn creates(&self, report: &mut Report) -> Result<()> {
        let total = self.load.objects;
        let mut from = 0;
        for (concurrency, count) in [(1, total / 6), (16, total / 3), (64, total - total / 6 - total / 3)] {
            let first = from;
            let done = closed(self.pids, concurrency, count, |i, worker| async move {
                let index = first + i;
                let acked = self.create(index, worker, &self.namespace(index % self.load.namespaces)).await?;
                self.remember(index, acked)
            });
            let done = done.await?;
            add(report, format!("B1 create pod, c={concurrency}"), &done, "≤ 150 µs; c=1 p50 ≤ 0.45 ms");
            from += count;
        }
        Ok(())
    }

    async fn gets(&self, report: &mut Report) -> Result<()> {
        for (concurrency, query) in [(1, ""), (16, ""), (64, ""), (64, "?resourceVersion=0")] {
            let count = if concurrency == 1 { 2000 } else { 6000 };
            let done = closed(self.pids, concurrency, count, |i, worker| async move {
                // A stride that is no divisor walks over all of them in no order.
                let index = i.wrapping_mul(7919) % self.load.objects;
                let path = format!("{}{query}", self.pod(index));
                let answer = self.pool.call(worker, Method::GET, &path, JSON, Bytes::new()).await?;
                let head: Head = head(&answer, &path)?;
                let acked = self.acked(index)?;
                let same =
                    head.metadata.uid == acked.uid && head.metadata.resource_version == acked.revision.to_string();
                check(same, &path, || format!("expected {acked:?}, got {:?}", head.metadata))
            });
            let done = done.await?;
            let query = if query.is_empty() { "" } else { ", rv=0" };
            add(report, format!("B2 get pod, c={concurrency}{query}"), &done, "≤ 25 µs");
        }
        Ok(())
    }

    /// Names and revisions of our pods in a list, page by page.
    async fn list(&self, query: &str) -> Result<Listed> {
        let (mut listed, mut token) = (Listed::default(), String::new());
        loop {
            let path = format!("/api/v1/pods?{query}{token}");
            let answer = self.pool.call(0, Method::GET, &path, JSON, Bytes::new()).await?;
            let page: Page = head(&answer, &path)?;
            listed.bytes += answer.body.len();
            listed.first_byte.get_or_insert(answer.first_byte);
            let ours = page.items.iter().filter(|i| i.metadata.namespace.starts_with(&self.prefix));
            listed.items.extend(ours.map(|i| (i.metadata.uid.clone(), i.metadata.resource_version.clone())));
            match page.metadata.next.filter(|n| !n.is_empty()) {
                Some(next) => token = format!("&continue={next}"),
                None => return Ok(listed),
            }
        }
    }

    async fn lists(&self, report: &mut Report) -> Result<()> {
        let expected: BTreeMap<String, (usize, String)> = {
            let acked = self.acked.lock().map_err(|_| wrong("a list", "a worker panicked"))?;
            acked.iter().map(|(i, a)| (a.uid.clone(), (*i, a.revision.to_string()))).collect()
        };
        let hit = format!("labelSelector={SELECT}%3Dg7");
        let cases: [(&str, String, fn(usize) -> bool, usize, &str); 5] = [
            ("all, JSON", "a=".into(), |_| true, 10, "≤ 1.05 µs/KB (40 ms of 38.2 MB)"),
            ("all, limit=500", "limit=500".into(), |_| true, 5, ""),
            ("labelSelector, 1 % hit", hit, |i| i % GROUPS == 7, 50, ""),
            ("labelSelector, no hit", format!("labelSelector={SELECT}%3Dnone"), |_| false, 200, "≤ 200 µs"),
            (
                "fieldSelector spec.nodeName, no hit",
                "fieldSelector=spec.nodeName%3Dnone".into(),
                |_| false,
                200,
                "≤ 200 µs",
            ),
        ];
        for (name, query, wanted, times, target) in cases {
            let main = self.pids.first().copied();
            let before = main.and_then(|pid| measure::reset_peak(pid).ok());
            let stretch = Stretch::begin(self.pids);
            let mut last = Listed::default();
            for _ in 0..times {
                last = self.list(&query).await?;
                let right: BTreeMap<&str, &str> =
                    expected.iter().filter(|(_, (i, _))| wanted(*i)).map(|(uid, (_, rv))| (&**uid, &**rv)).collect();
                let got: BTreeMap<&str, &str> = last.items.iter().map(|(uid, rv)| (&**uid, &**rv)).collect();
                check(got.len() == last.items.len() && got == right, &query, || {
                    format!("listed {} of {} pods", last.items.len(), right.len())
                })?;
            }
            let cost = stretch.end();
            let each = cost.server_us / times as f64;
            let grown = before.zip(main).map(|(b, pid)| measure::peak(pid).saturating_sub(b));
            let per_kb = if last.bytes > 10_000 {
                format!(" ({:.2} µs/KB)", each / (last.bytes as f64 / 1000.0))
            } else {
                String::new()
            };
            let first = us(last.first_byte.unwrap_or_default().as_secs_f64() * 1e6);
            let grown = grown.map(|g| format!("; peak RSS +{}", mb(g))).unwrap_or_default();
            let note = format!(
                "{} items, {}; first byte {first}{grown}; others {:.0} % of the box",
                last.items.len(),
                mb(last.bytes as u64),
                cost.foreign * 100.0
            );
            report.add("API", format!("B3 list pods, {name}"), format!("**{}**{per_kb}", us(each)), target, note);
        }
        Ok(())
    }

    /// The same creates without and with watchers; the difference is the watchers'.
    async fn watch_events(&self, report: &mut Report) -> Result<()> {
        let namespace = self.namespace(self.load.namespaces);
        let base = 10_000_000;
        for (name, concurrency, count, target, offset) in
            [("one by one", 1, 100, "≤ 7 µs", 0), ("in bursts, c=16", 16, 500, "≤ 3.5 µs", 10_000)]
        {
            let create = |offset: usize| {
                let namespace = &namespace;
                closed(self.pids, concurrency, count, move |i, worker| async move {
                    self.create(base + offset + i, worker, namespace).await.map(drop)
                })
            };
            let without = create(offset).await?;
            let at = revision(&self.pool.get(&format!("/api/v1/namespaces/{namespace}/pods?limit=1")).await?, "list")?;
            let watchers = Watchers::start(self.pool, &namespace, at, self.load.watchers, count).await?;
            let stretch = Stretch::begin(self.pids);
            let with = create(offset + 5000).await?;
            let last_write = std::time::Instant::now();
            let seen = watchers.finish().await?;
            let cost = stretch.end();
            let events = (count * self.load.watchers) as f64;
            let each = (cost.server_us - without.cost.server_us) / events;
            let lag = seen.saturating_duration_since(last_write).as_secs_f64() * 1e6;
            let note = format!(
                "{} watchers × {count} events, none lost, doubled or out of order; creates {} → {}; last delivery {} after the last answer; others {:.0} % of the box",
                self.load.watchers,
                us(without.server_us()),
                us(with.server_us()),
                us(lag),
                cost.foreign * 100.0
            );
            report.add("API", format!("B4 watch event, {name}"), format!("**{}**", us(each)), target, note);
        }
        Ok(())
    }

    async fn status_patches(&self, report: &mut Report) -> Result<()> {
        for (round, concurrency) in [1usize, 16, 64].into_iter().enumerate() {
            let count = if concurrency == 1 { 500 } else { self.load.objects };
            let done = closed(self.pids, concurrency, count, |i, worker| async move {
                // A patch that changes nothing would be no write: every lap differs.
                let index = i % self.load.objects;
                let path = format!("{}/status", self.pod(index));
                let patch = self.objects.status_patch(index, round * 1000 + i / self.load.objects);
                let object = self.write(worker, Method::PATCH, &path, STRATEGIC, &patch, StatusCode::OK).await?;
                let same = contains(&object["status"]["containerStatuses"], &patch["status"]["containerStatuses"])
                    && object["status"]["podIP"] == patch["status"]["podIP"]
                    && object["metadata"]["uid"] == self.acked(index)?.uid;
                check(same, &path, || format!("the patch is not in the object: {object}"))
            });
            add(report, format!("B7 status patch, c={concurrency}"), &done.await?, "≤ 180 µs");
        }
        Ok(())
    }

    async fn leases(&self, report: &mut Report) -> Result<()> {
        let path = format!("/apis/coordination.k8s.io/v1/namespaces/{}/leases", self.namespace(0));
        let count = 100;
        for i in 0..count {
            let name = self.objects.name(i);
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name},
                "spec": {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000000Z"},
            });
            self.write(0, Method::POST, &path, JSON, &lease, StatusCode::CREATED).await?;
        }
        for (concurrency, renewals) in [(1, 500), (16, 3000)] {
            let path = &path;
            let done = closed(self.pids, concurrency, renewals, |i, worker| async move {
                let path = format!("{path}/{}", self.objects.name(i % count));
                let time = format!("2026-01-01T{:02}:{:02}:{:02}.{:06}Z", concurrency, i / 60 % 60, i % 60, i);
                let patch = json!({"spec": {"renewTime": time}});
                let object = self.write(worker, Method::PATCH, &path, MERGE, &patch, StatusCode::OK).await?;
                check(object["spec"]["renewTime"] == time, &path, || format!("not renewed: {object}"))
            });
            add(report, format!("B7 lease renewal, c={concurrency}"), &done.await?, "≤ 70 µs");
        }
        Ok(())
    }

    async fn deletes(&self, report: &mut Report) -> Result<()> {
        let body = json!({"gracePeriodSeconds": 0});
        let done = closed(self.pids, 16, self.load.objects, |index, worker| {
            let body = Bytes::from(body.to_string());
            async move {
                let path = self.pod(index);
                let answer = self.pool.call(worker, Method::DELETE, &path, JSON, body).await?;
                answer.object(&path, StatusCode::OK).map(drop)
            }
        });
        add(report, "delete pod, grace 0, c=16".into(), &done.await?, "≤ 130 µs");
        let left = self.list("a=").await?.items.len();
        // Those of the watch benchmarks are in a namespace of their own.
        check(left == 1800, "the list after deletion", || format!("{left} pods are left instead of 1800"))
    }
}

fn add(report: &mut Report, what: String, done: &Loop, target: &str) {
    report.add("API", what, format!("**{}**", us(done.server_us())), target, done.note());
}

#[derive(Default)]
struct Listed {
    items: Vec<(String, String)>,
    bytes: usize,
    first_byte: Option<Duration>,
}

/// As much of an object as every answer is checked by.
#[derive(Debug, Deserialize)]
struct Head {
    metadata: Meta,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    #[serde(default)]
    namespace: String,
    uid: String,
    resource_version: String,
}

#[derive(Deserialize)]
struct Page {
    metadata: PageMeta,
    items: Vec<Head>,
}

#[derive(Deserialize)]
struct PageMeta {
    #[serde(rename = "continue")]
    next: Option<String>,
}

fn head<T: serde::de::DeserializeOwned>(answer: &Answer, what: &str) -> std::result::Result<T, Fail> {
    check(answer.status == StatusCode::OK, what, || answer.text())?;
    serde_json::from_slice(&answer.body).map_err(|e| wrong(what, e))
}
