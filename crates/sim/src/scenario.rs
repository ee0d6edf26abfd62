//! [`Scenario`]: users who change their minds, and a cluster that breaks under them; then peace, in which everything must become
//! what was asked for last, and stay so.

use crate::cluster::Cluster;
use crate::world::World;
use api::prelude::*;
use client::{Client, ClientError, DeleteParams, ListParams, Patch, Propagation};
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use store::{Revision, Store};
use testkit::{Dice, Habits, NodeShape};

/// Longest simulated time from the end of all faults until everything is as asked for.
const SETTLE: Duration = Duration::from_secs(1500);
/// Simulated time in which nobody may write anything but Leases afterwards.
const QUIET: Duration = Duration::from_secs(120);
const CALM: Habits = Habits { start_ms: 500, ready_ms: 500, failing: 0 };
const NAMESPACES: [&str; 2] = ["default", "team"];

/// One seed's story.
pub struct Scenario {
    world: Arc<World>,
    cluster: Cluster,
    dice: Dice,
    client: Client,
    running: BTreeSet<&'static str>,
    /// Watches that must show the stored state in the end, whatever happened to them.
    observer: Observer,
    sleepers: BTreeSet<usize>,
    made: usize,
}

struct Observer {
    pods: client::Cache<Pod>,
    deployments: client::Cache<Deployment>,
    sets: client::Cache<ReplicaSet>,
}

impl Scenario {
    /// A cluster that has just started.
    pub async fn start(world: &Arc<World>, dice: &Dice) -> Result<Self, String> {
        let mut cluster = Cluster::new(world, dice);
        cluster.start_api().await?;
        cluster.bootstrap().await.map_err(|e| base::chain(&e))?;
        cluster.start_controllers();
        cluster.start_scheduler();
        let habits = Habits {
            start_ms: [200, 1000, 5000][dice.below(3)],
            ready_ms: [100, 1000, 8000][dice.below(3)],
            failing: [0, 0, 100, 400][dice.below(4)],
        };
        for i in 0..2 + dice.below(3) {
            let subnet = u8::try_from(i).unwrap_or(u8::MAX);
            let shape = NodeShape {
                name: format!("n{i}"),
                subnet,
                cpu_milli: [1000, 2000, 4000][dice.below(3)],
                pods: [4, 10, 110][dice.below(3)],
            };
            cluster.add_node(shape, habits, dice);
            cluster.start_kubelet(i);
        }
        let process = tokio_util::sync::CancellationToken::new();
        let wire = crate::net::Wire::new(world, &process, "observer", &["system:masters"]);
        let watcher = Client::new(wire, "observer");
        let observer = Observer { pods: watcher.cache(), deployments: watcher.cache(), sets: watcher.cache() };
        let client = cluster.user();
        let running = controllers::all().iter().map(|r| r.name).collect();
        let (world, dice) = (world.clone(), dice.split());
        Ok(Scenario { world, cluster, dice, client, running, observer, sleepers: BTreeSet::new(), made: 0 })
    }

    /// The whole story.
    pub async fn run(&mut self, steps: usize) -> Result<(), String> {
        tokio::time::sleep(Duration::from_secs(2)).await;
        self.world.set_faults(true);
        for _ in 0..steps {
            self.step().await?;
            let wait = if self.dice.chance(700) { self.dice.millis(1, 1500) } else { self.dice.millis(1000, 8000) };
            tokio::time::sleep(wait).await;
            self.calm()?;
        }
        self.world.set_faults(false);
        self.world.note(|| "peace".into());
        self.peace().await?;
        self.settle().await?;
        self.stay().await?;
        self.compare_observer()
    }

    fn calm(&self) -> Result<(), String> {
        self.world.violation().map_or(Ok(()), Err)
    }

    /// One thing that a user does or that breaks.
    async fn step(&mut self) -> Result<(), String> {
        if !self.cluster.has_api() && self.dice.chance(600) {
            self.cluster.start_api().await?;
        }
        if self.dice.chance(600) {
            let asked = self.ask().await;
            if let Err(error) = asked {
                self.world.note(|| format!("user: {}", base::chain(&error)));
                if matches!(error.code(), Some(422 | 400 | 500..)) && !error.to_string().contains("simulated") {
                    return Err(format!("a user was told: {}", base::chain(&error)));
                }
            }
            return Ok(());
        }
        self.break_something().await
    }

    // === users ===

    async fn ask(&mut self) -> Result<(), ClientError> {
        let namespace = NAMESPACES[self.dice.below(NAMESPACES.len())];
        match self.dice.below(100) {
            0..20 => self.create_deployment(namespace).await,
            20..38 => {
                let replicas = self.dice.below(7);
                self.change_deployment(json!({"spec": {"replicas": replicas}})).await
            }
            38..58 => {
                let image = format!("app:{}", self.dice.below(5));
                let containers = json!([{"name": "app", "image": image}]);
                self.change_deployment(json!({"spec": {"template": {"spec": {"containers": containers}}}})).await
            }
            58..63 => {
                let strategy = self.strategy();
                self.change_deployment(json!({"spec": {"strategy": strategy}})).await
            }
            63..67 => {
                let paused = self.dice.chance(500);
                self.change_deployment(json!({"spec": {"paused": paused}})).await
            }
            67..75 => self.delete_pod().await,
            75..80 => self.meddle().await,
            80..85 => self.delete_deployment().await,
            85..91 => self.create_service(namespace).await,
            91..95 => self.create_job(namespace).await,
            95..97 => self.delete_namespace().await,
            _ => self.create_namespace().await,
        }
    }

    fn has(&self, controller: &str) -> bool {
        self.running.iter().any(|name| name.contains(controller))
    }

    fn strategy(&self) -> Value {
        if self.dice.chance(250) {
            return json!({"type": "Recreate", "rollingUpdate": null});
        }
        let share = |none: bool| match self.dice.below(4) {
            0 if !none => json!(0),
            1 => json!("25%"),
            2 => json!("60%"),
            _ => json!(1 + self.dice.below(2)),
        };
        let surge = share(false);
        let unavailable = share(surge == json!(0));
        json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}})
    }

    fn next_name(&mut self, prefix: &str) -> String {
        self.made += 1;
        format!("{prefix}{}", self.made)
    }

    async fn create_deployment(&mut self, namespace: &str) -> Result<(), ClientError> {
        if self.world.checker.lock().index("Deployment").len() >= 4 {
            return Ok(());
        }
        let name = self.next_name("web");
        let cpu = ["0", "100m", "300m"][self.dice.below(3)];
        let body = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {
                "replicas": self.dice.below(6),
                "minReadySeconds": ([0, 0, 2][self.dice.below(3)]),
                "revisionHistoryLimit": ([0, 2, 10][self.dice.below(3)]),
                "strategy": self.strategy(),
                "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name, "tier": "web"}}, "spec": {
                    "terminationGracePeriodSeconds": ([0, 2, 30][self.dice.below(3)]),
                    "containers": [{"name": "app", "image": "app:0", "resources": {"requests": {"cpu": cpu}}}]}},
            },
        });
        self.create::<Deployment>(&body).await
    }

    async fn create<K: Object>(&self, body: &Value) -> Result<(), ClientError> {
        self.world.note(|| format!("user: create {} {}", K::KIND, body["metadata"]["name"]));
        self.client.api::<K>().create(&K::decode(body.to_string().as_bytes())?).await.map(drop)
    }

    /// Some object of a kind.
    fn some(&self, kind: &str) -> Option<(String, String, String)> {
        let list = self.world.checker.lock().index(kind);
        self.dice.pick(&list).map(|(namespace, name, uid, _)| (namespace.clone(), name.clone(), uid.clone()))
    }

    async fn change_deployment(&mut self, patch: Value) -> Result<(), ClientError> {
        let Some((namespace, name, _)) = self.some("Deployment") else { return Ok(()) };
        self.world.note(|| format!("user: patch {namespace}/{name} {patch}"));
        self.client.api::<Deployment>().patch(&namespace, &name, "", &Patch::Strategic(patch)).await.map(drop)
    }

    async fn delete_pod(&mut self) -> Result<(), ClientError> {
        let Some((namespace, name, uid)) = self.some("Pod") else { return Ok(()) };
        let force = self.dice.chance(200);
        if force {
            self.world.checker.lock().force(&uid);
        }
        self.world.note(|| format!("user: delete pod {namespace}/{name} force={force}"));
        let params = DeleteParams { grace_period_seconds: force.then_some(0), ..DeleteParams::default() };
        self.client.api::<Pod>().delete(&namespace, &name, &params).await
    }

    /// Writes that interest nobody, but make others' revisions stale.
    async fn meddle(&mut self) -> Result<(), ClientError> {
        let patch = Patch::Merge(json!({"metadata": {"annotations": {"meddled": self.dice.below(1000).to_string()}}}));
        for _ in 0..3 {
            for kind in ["Pod", "ReplicaSet", "Deployment"] {
                let Some((namespace, name, _)) = self.some(kind) else { continue };
                match kind {
                    "Pod" => drop(self.client.api::<Pod>().patch(&namespace, &name, "", &patch).await?),
                    "ReplicaSet" => drop(self.client.api::<ReplicaSet>().patch(&namespace, &name, "", &patch).await?),
                    _ => drop(self.client.api::<Deployment>().patch(&namespace, &name, "", &patch).await?),
                }
            }
        }
        Ok(())
    }

    async fn delete_deployment(&mut self) -> Result<(), ClientError> {
        let Some((namespace, name, uid)) = self.some("Deployment").filter(|_| self.has("garbage")) else {
            return Ok(());
        };
        let propagation = [Propagation::Background, Propagation::Foreground, Propagation::Orphan][self.dice.below(3)];
        if propagation == Propagation::Background {
            self.world.checker.lock().force(&uid);
        }
        self.world.note(|| format!("user: delete deployment {namespace}/{name} {propagation:?}"));
        let params = DeleteParams { propagation: Some(propagation), ..DeleteParams::default() };
        self.client.api::<Deployment>().delete(&namespace, &name, &params).await
    }

    async fn create_service(&mut self, namespace: &str) -> Result<(), ClientError> {
        let name = self.next_name("svc");
        let selector = match self.some("Deployment") {
            Some((_, app, _)) if self.dice.chance(700) => json!({"app": app}),
            _ => json!({"tier": "web"}),
        };
        let body = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": namespace},
            "spec": {"selector": selector, "ports": [{"port": 80}]}});
        self.create::<Service>(&body).await
    }

    async fn create_job(&mut self, namespace: &str) -> Result<(), ClientError> {
        if !self.has("job") {
            return Ok(());
        }
        let name = self.next_name("job");
        let body = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name, "namespace": namespace},
            "spec": {"completions": 1 + self.dice.below(4), "parallelism": 1 + self.dice.below(3), "template": {"spec": {
                "restartPolicy": (["Never", "OnFailure"][self.dice.below(2)]),
                "containers": [{"name": "app", "image": "job:0", "resources": {"requests": {"cpu": "100m"}}}]}}}});
        self.create::<Job>(&body).await
    }

    async fn create_namespace(&mut self) -> Result<(), ClientError> {
        self.create::<Namespace>(&json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})).await
    }

    async fn delete_namespace(&mut self) -> Result<(), ClientError> {
        if !self.has("namespace") || !self.has("garbage") {
            return Ok(());
        }
        self.world.note(|| "user: delete namespace team".into());
        self.client.api::<Namespace>().delete("", "team", &DeleteParams::default()).await
    }

    // === breaking ===

    async fn break_something(&mut self) -> Result<(), String> {
        let node = self.dice.below(self.cluster.nodes());
        match self.dice.below(100) {
            0..20 => self.cluster.start_controllers(),
            20..25 => self.cluster.crash_controllers(),
            25..40 => self.cluster.start_scheduler(),
            40..43 => self.cluster.crash_scheduler(),
            43..58 => {
                self.cluster.crash_api();
                if self.dice.chance(600) {
                    self.cluster.start_api().await?;
                }
            }
            58..70 => self.cluster.start_kubelet(node),
            70..74 => self.cluster.reboot_node(node),
            74..82 => {
                let awake = self.sleepers.remove(&node);
                if !awake {
                    self.sleepers.insert(node);
                }
                self.cluster.set_awake(node, awake);
            }
            82..92 => {
                let revision = self.cluster.store().revision().0;
                let keep = u64::try_from(self.dice.below(50)).unwrap_or(0);
                self.world.note(|| format!("compact all but {keep} of {revision}"));
                let compacted = self.cluster.store().compact(Revision(revision.saturating_sub(keep))).await;
                compacted.map_err(|e| format!("compaction: {e}"))?;
            }
            _ => {
                let by = i64::try_from(self.dice.below(600)).unwrap_or(0) - 300;
                self.world.note(|| format!("the clock jumps by {by} s"));
                self.world.clock.jump(SignedDuration::from_secs(by));
            }
        }
        Ok(())
    }

    // === peace ===

    async fn peace(&mut self) -> Result<(), String> {
        self.cluster.mend(CALM).await?;
        let shape = NodeShape { name: "big".into(), subnet: 200, cpu_milli: 64_000, pods: 200 };
        self.cluster.add_node(shape, CALM, &self.dice);
        self.cluster.start_kubelet(self.cluster.nodes() - 1);
        let paused = self.client.api::<Deployment>().list(&ListParams::all()).await.map_err(|e| base::chain(&e))?.0;
        let resume = Patch::Merge(json!({"spec": {"paused": false}}));
        for d in paused.iter().filter(|d| d.spec.as_ref().is_some_and(|s| s.paused == Some(true))) {
            let done = self.client.api::<Deployment>().patch(d.namespace(), d.name(), "", &resume).await;
            if let Err(error) = done
                && !error.is_not_found()
            {
                return Err(format!("resuming {}: {}", d.name(), base::chain(&error)));
            }
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<(), String> {
        let deadline = self.world.clock.elapsed() + SETTLE;
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            self.calm()?;
            let Some(why) = self.world.checker.lock().unsettled(&self.running) else { return Ok(()) };
            if self.world.clock.elapsed() > deadline {
                return Err(format!("not settled after {} s: {why}", SETTLE.as_secs()));
            }
        }
    }

    /// Settled is settled: after what is under way is done, nobody writes any more.
    async fn stay(&mut self) -> Result<(), String> {
        tokio::time::sleep(Duration::from_secs(60)).await;
        let before = self.world.checker.lock().writes();
        tokio::time::sleep(QUIET).await;
        self.calm()?;
        let checker = self.world.checker.lock();
        if let Some(why) = checker.unsettled(&self.running) {
            return Err(format!("it did not stay settled: {why}"));
        }
        match checker.writes() - before {
            0 => Ok(()),
            n => Err(format!("{n} writes although everything is settled")),
        }
    }

    /// List and watch together are the state, whatever happened on the way.
    fn compare_observer(&self) -> Result<(), String> {
        fn shown<K: Object>(cache: &client::Cache<K>) -> Vec<(String, String, String, u64)> {
            let entry = |o: &Arc<K>| (o.namespace().into(), o.name().into(), o.uid().into(), o.revision());
            cache.list().iter().map(entry).collect()
        }
        let all = [
            ("Pod", shown(&self.observer.pods)),
            ("Deployment", shown(&self.observer.deployments)),
            ("ReplicaSet", shown(&self.observer.sets)),
        ];
        for (kind, shown) in all {
            let stored = self.world.checker.lock().index(kind);
            if shown != stored {
                return Err(format!("a watch of {kind} shows {shown:?}, stored are {stored:?}"));
            }
        }
        Ok(())
    }
}
