//! B17 of PERFORMANCE §4: one tenant asks for several times of what the server can do, another for a little, and nodes renew their
//! leases. Each is a user of its own, impersonated; the quiet ones have a thread and connections of their own, so that what they
//! wait for is the server.
//!
//! Checked: the noisy tenant is served or told 429 with `Retry-After`, nothing else; the quiet ones are served.

use crate::fail::{Result, check, refused};
use crate::http::{Answer, JSON, MERGE, Pool};
use crate::load::{self, Loop};
use crate::measure;
use crate::objects::Objects;
use crate::report::{Report, mb, us};
use bytes::Bytes;
use http::{Method, StatusCode};
use rand::SeedableRng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// Pods of the noisy tenant.
const PODS: usize = 200;
/// Requests by which the capacity is measured.
const PROBES: usize = 2000;
/// Requests that the noisy client has open at once; beyond that it does not send.
const OPEN: usize = 800;
/// Requests a second of the quiet tenant, and renewals of all leases.
const QUIET_RATE: usize = 20;
const LEASES: usize = 10;
/// How often a node renews its lease.
const RENEWAL: Duration = Duration::from_secs(10);
/// Where nodes have their leases.
const NODE_LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

/// How much of it.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct OverloadLoad {
    /// Seconds of overload
    #[arg(long, default_value_t = 15)]
    pub(crate) overload_seconds: usize,
    /// How many times of the capacity the noisy tenant asks for
    #[arg(long, default_value_t = 3.0)]
    pub(crate) overload_factor: f64,
}

/// Who takes part, and where.
struct Bench<'a> {
    admin: &'a Pool,
    pids: &'a [i32],
    load: &'a OverloadLoad,
    objects: Objects,
    seed: u64,
}

/// What became of the noisy tenant's requests.
#[derive(Default)]
struct Fate {
    served: AtomicUsize,
    rejected: AtomicUsize,
    unsent: AtomicUsize,
}

/// Runs it in namespaces of its own, which it removes with the rights it gives.
pub(crate) async fn run(pool: &Pool, pids: &[i32], load: &OverloadLoad, seed: u64, report: &mut Report) -> Result<()> {
    let bench = Bench { admin: pool, pids, load, objects: Objects::new(seed), seed };
    let result = match bench.prepare().await {
        Ok(()) => bench.measure(report).await,
        failed => failed,
    };
    bench.remove().await?;
    result
}

impl Bench<'_> {
    fn user(&self, name: &str) -> String {
        format!("bench-{name}-{:x}", self.seed)
    }

    fn node(&self, i: usize) -> String {
        format!("bench-{:x}-{i}", self.seed)
    }

    fn pods(&self, tenant: &str) -> String {
        format!("/api/v1/namespaces/{}/pods", self.user(tenant))
    }

    fn rights(&self) -> [(String, Value); 2] {
        let name = self.user("overload");
        let mut users: Vec<String> = vec![self.user("noisy"), self.user("quiet")];
        users.extend((0..LEASES).map(|i| format!("system:node:{}", self.node(i))));
        let user = |name: &String| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": name});
        let rules = json!([
            {"apiGroups": [""], "resources": ["pods"], "verbs": ["*"]},
            {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["*"]},
        ]);
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": name}, "rules": rules});
        let binding = json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": users.iter().map(user).collect::<Vec<_>>(),
        });
        let of = |resource: &str| format!("/apis/rbac.authorization.k8s.io/v1/{resource}");
        [(of("clusterroles"), role), (of("clusterrolebindings"), binding)]
    }

    async fn prepare(&self) -> Result<()> {
        for (tenant, pods) in [("noisy", PODS), ("quiet", 1)] {
            let namespace = self.user(tenant);
            self.admin.make_namespace(&namespace).await?;
            for i in 0..pods {
                self.admin.ensure(&self.pods(tenant), &self.objects.pod(i, &namespace)).await?;
            }
        }
        self.admin
            .ensure(
                "/api/v1/namespaces",
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-node-lease"}}),
            )
            .await?;
        for i in 0..LEASES {
            let lease = json!({
                "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self.node(i)},
                "spec": {"holderIdentity": self.node(i), "leaseDurationSeconds": 40},
            });
            self.admin.ensure(NODE_LEASES, &lease).await?;
        }
        for (path, object) in self.rights() {
            self.admin.ensure(&path, &object).await?;
        }
        Ok(())
    }

    async fn remove(&self) -> Result<()> {
        for (path, object) in self.rights() {
            self.admin.delete(&format!("{path}/{}", object["metadata"]["name"].as_str().unwrap_or_default())).await?;
        }
        for i in 0..LEASES {
            self.admin.delete(&format!("{NODE_LEASES}/{}", self.node(i))).await?;
        }
        for tenant in ["noisy", "quiet"] {
            self.admin.delete(&format!("/api/v1/namespaces/{}", self.user(tenant))).await?;
        }
        Ok(())
    }

    async fn measure(&self, report: &mut Report) -> Result<()> {
        let noisy = &self.admin.impersonating(&self.user("noisy"), "system:authenticated")?;
        let probe = load::closed(self.pids, 64, PROBES, |i, worker| async move {
            let answer = self.noise(noisy, i, worker).await?;
            check(answer.status == StatusCode::OK, "a request within the capacity", || answer.text())
        });
        let probe = probe.await?;
        let capacity = PROBES as f64 / probe.cost.wall.as_secs_f64();
        let main = self.pids.first().copied();
        let before = main.and_then(|pid| measure::reset_peak(pid).ok());
        let quiet = self.begin_quiet()?;
        let (fate, rate) = (Fate::default(), capacity * self.load.overload_factor);
        let seen = self.overload(noisy, rate, &fate).await?;
        let (quiet, leases) = quiet.await.map_err(refused("wait for the quiet ones"))??;
        let grown = before.zip(main).map(|(b, pid)| format!("; RSS {}, at most {}", mb(b), mb(measure::peak(pid))));
        self.report(report, capacity, &seen, &fate, grown.unwrap_or_default());
        let value = format!("p50 {} · **p99 {}**", us(quiet.latency(0.5)), us(quiet.latency(0.99)));
        let note = format!("{QUIET_RATE} gets and patches a second, all served");
        report.add("Overload", "B17 quiet tenant", value, "p99 ≤ 50 ms", note);
        let value = format!("**{} of {}** on time", leases.within(RENEWAL), leases.operations);
        let note = format!("all renewed, p99 {}", us(leases.latency(0.99)));
        report.add("Overload", "B17 node leases", value, "all", note);
        Ok(())
    }

    fn report(&self, report: &mut Report, capacity: f64, seen: &Loop, fate: &Fate, memory: String) {
        let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
        let (served, rejected, unsent) = (count(&fate.served), count(&fate.rejected), count(&fate.unsent));
        let goodput = served as f64 / seen.cost.wall.as_secs_f64();
        let note = format!(
            "{:.0} × of {capacity:.0}/s for {} s: {served} served, {rejected} told 429, {unsent} not sent by a client with {OPEN} open{memory}",
            self.load.overload_factor, self.load.overload_seconds
        );
        report.add("Overload", "B17 noisy tenant", format!("**{goodput:.0}/s** served"), "near the capacity", note);
    }

    /// A get (7 of 10), a patch (2 of 10), or a list of the noisy tenant.
    async fn noise(&self, pool: &Pool, i: usize, worker: usize) -> Result<Answer> {
        let pods = self.pods("noisy");
        let pod = format!("{pods}/{}", self.objects.name(i.wrapping_mul(7919) % PODS));
        match i % 10 {
            0..7 => pool.call(worker, Method::GET, &pod, JSON, Bytes::new()).await,
            7..9 => pool.call(worker, Method::PATCH, &pod, MERGE, lap(i)).await,
            _ => pool.call(worker, Method::GET, &pods, JSON, Bytes::new()).await,
        }
    }

    async fn overload(&self, noisy: &Pool, rate: f64, fate: &Fate) -> Result<Loop> {
        let open = Semaphore::new(OPEN);
        let operations = (rate * self.load.overload_seconds as f64) as usize;
        let mut rng = StdRng::seed_from_u64(self.seed);
        load::open(self.pids, &mut rng, rate, operations, |i, _| {
            let open = &open;
            async move {
                let Ok(_permit) = open.try_acquire() else {
                    fate.unsent.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                };
                let answer = self.noise(noisy, i, i).await?;
                match answer.status {
                    StatusCode::OK => fate.served.fetch_add(1, Ordering::Relaxed),
                    StatusCode::TOO_MANY_REQUESTS => fate.rejected.fetch_add(1, Ordering::Relaxed),
                    _ => return check(false, "the noisy tenant", || answer.text()),
                };
                let told = answer.status == StatusCode::OK || answer.headers.contains_key("retry-after");
                check(told, "the noisy tenant", || "429 without Retry-After".into())
            }
        })
        .await
    }

    /// The quiet tenant and the leases, on a thread of their own, for as long as the overload lasts.
    fn begin_quiet(&self) -> Result<tokio::task::JoinHandle<Result<(Loop, Loop)>>> {
        let quiet = self.admin.impersonating(&self.user("quiet"), "system:authenticated")?;
        let mut nodes = Vec::with_capacity(LEASES);
        for i in 0..LEASES {
            let pool = self.admin.impersonating(&format!("system:node:{}", self.node(i)), "system:nodes")?;
            nodes.push((pool, format!("{NODE_LEASES}/{}", self.node(i))));
        }
        let pod = format!("{}/{}", self.pods("quiet"), self.objects.name(0));
        let (seconds, seed) = (self.load.overload_seconds, self.seed);
        Ok(tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(crate::fail::io("start a thread"))?;
            runtime.block_on(async {
                let (mut rng, mut other) = (StdRng::seed_from_u64(seed), StdRng::seed_from_u64(!seed));
                tokio::try_join!(tenant(&quiet, &pod, seconds, &mut rng), renewals(&nodes, seconds, &mut other))
            })
        }))
    }
}

/// Gets and patches of one pod.
async fn tenant(pool: &Pool, pod: &str, seconds: usize, rng: &mut StdRng) -> Result<Loop> {
    load::open(&[], rng, QUIET_RATE as f64, QUIET_RATE * seconds, |i, _| async move {
        let answer = match i % 2 {
            0 => pool.call(i, Method::GET, pod, JSON, Bytes::new()).await?,
            _ => pool.call(i, Method::PATCH, pod, MERGE, lap(i)).await?,
        };
        check(answer.status == StatusCode::OK, "the quiet tenant", || answer.text())
    })
    .await
}

/// Each node once a second: ten times as often as it needs.
async fn renewals(nodes: &[(Pool, String)], seconds: usize, rng: &mut StdRng) -> Result<Loop> {
    let count = nodes.len();
    load::open(&[], rng, count as f64, count * seconds, |i, _| async move {
        let (pool, lease) = &nodes[i % count];
        let time = format!("2026-01-01T00:{:02}:{:02}.{:06}Z", i / 60 % 60, i % 60, i);
        let patch = Bytes::from(json!({"spec": {"renewTime": time}}).to_string());
        let answer = pool.call(i, Method::PATCH, lease, MERGE, patch).await?;
        check(answer.status == StatusCode::OK, "a node's lease", || answer.text())
    })
    .await
}

/// A patch that changes something.
fn lap(i: usize) -> Bytes {
    json!({"metadata": {"annotations": {"lap": i.to_string()}}}).to_string().into()
}
