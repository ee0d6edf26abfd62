//! Dynamic resource allocation, the node's part: what ResourceClaims of a pod have been allocated is prepared by its drivers before the
//! pod's containers and undone after its last pod (`pkg/kubelet/cm/dra/manager.go`).
//!
//! ```text
//!   driver ──registers──▶ plugins/dra.rs ──▶ Drivers (drivers.rs) ◀── its health (health.rs)
//!   a pod comes ─▶ uses.rs ─▶ its claims ─▶ Book (book.rs) ─▶ disk ─▶ NodePrepareResources ─▶ Book ─▶ disk
//!   a container starts ─▶ its CDI devices
//!   a pod has ended ─▶ NodeUnprepareResources for what nobody else uses ─▶ Book ─▶ disk
//! ```
//!
//! Always holds: before a driver is asked for anything it is on disk for which pods; what is on disk is undone with the last of them,
//! whenever the agent was killed. One claim is worked on by one pod at a time. Differs: pods without claims are not measured; what an
//! earlier run left is looked for when the agent starts, since from then on every pod's worker tries until it is done; a driver that
//! does not know the health service is asked for it again only over a new connection.

pub mod book;
pub mod drivers;
pub mod health;
pub mod uses;

use crate::cluster::Cluster;
use crate::counters::{self, Counters};
use api::k8s::api::core::v1::{Container, Pod};
use api::meta::MetaExt;
use base::Clock;
use base::backoff::Backoff;
use base::files::{PRIVATE, replace_durably};
use book::{Book, Claim, Key, Statuses};
use drivers::{Driver, Drivers};
use health::Healths;
use jiff::SignedDuration;
use node_api::dra_health::dra_resource_health_client::DraResourceHealthClient;
use node_api::dra_health::{DeviceHealth, NodeWatchResourcesRequest};
use node_api::pod_resources::{CdiDevice, ClaimResource, DynamicResource};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Its name in the agent's directory, as upstream has it.
const FILE: &str = "dra_manager_state";
/// Leftovers are undone until that works, with pauses up to here (`defaultReconcilePeriod`).
const STUBBORN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// A driver that has stopped to tell how its devices are is asked again after this.
const ASK_AGAIN: Duration = Duration::from_secs(5);

#[derive(Default)]
struct State {
    book: Book,
    healths: Healths,
    /// Claims that somebody works on.
    busy: BTreeSet<Key>,
    /// Pods to be told that their devices are better or worse.
    concerned: BTreeSet<String>,
}

/// See the file's head.
pub struct DynamicResources {
    file: PathBuf,
    cluster: Arc<dyn Cluster>,
    clock: Arc<dyn Clock>,
    counters: Arc<Counters>,
    /// Who has the devices.
    pub drivers: Drivers,
    state: Mutex<State>,
    /// What was last written. Who changes the book holds it, so that readers do not wait for the disk.
    written: Mutex<Vec<u8>>,
    /// Claims are not busy any more.
    freed: Notify,
    changed: Notify,
}

impl DynamicResources {
    /// Reads what an earlier run left in the agent's directory.
    pub fn new(dir: PathBuf, cluster: Arc<dyn Cluster>, clock: Arc<dyn Clock>, counters: Arc<Counters>) -> Self {
        let file = dir.join(FILE);
        let book = load(&file).unwrap_or_else(|error| {
            tracing::error!(path = %file.display(), %error, "failed to read which claims are prepared");
            Book::default()
        });
        DynamicResources {
            file,
            cluster,
            clock,
            counters,
            drivers: Drivers::default(),
            state: Mutex::new(State { book, ..State::default() }),
            written: Mutex::default(),
            freed: Notify::new(),
            changed: Notify::new(),
        }
    }

    fn with_book<T>(&self, ask: impl FnOnce(&Book) -> T) -> T {
        ask(&self.state.lock().book)
    }

    /// Changes what is on disk, if that is any different, and then the book.
    fn change<T>(&self, change: impl FnOnce(&mut Book) -> Result<T, String>) -> Result<T, String> {
        let mut written = self.written.lock();
        let mut book = self.with_book(Book::clone);
        let done = change(&mut book)?;
        self.save(&book, &mut written).map_err(|e| format!("checkpoint ResourceClaim state: {e}"))?;
        self.state.lock().book = book;
        Ok(done)
    }

    fn save(&self, book: &Book, written: &mut Vec<u8>) -> io::Result<()> {
        let text = serde_json::to_vec(&book.claims().collect::<Vec<_>>())?;
        if text != *written {
            replace_durably(&self.file, PRIVATE, |out| out.write_all(&text))?;
            *written = text;
        }
        Ok(())
    }

    // === pods ===

    /// Has all claims of a pod prepared, or tells why not. How their devices are is told by [`Self::concerned`].
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let done = self.measured("PrepareResources", self.prepare_all(pod)).await;
        done.map_err(|e| format!("prepare dynamic resources: {e}"))
    }

    async fn prepare_all(&self, pod: &Pod) -> Result<(), String> {
        let mut wanted = Vec::new();
        for used in uses::of_pod(pod)? {
            let object = self.cluster.resource_claim(pod.namespace(), used.name).await;
            let object = object.map_err(|e| format!("fetch ResourceClaim {}: {}", used.name, base::chain(&e)))?;
            let claim = Claim::usable(pod, &object, used.made_for_pod)?;
            // A driver that is not there is told of before anything is done: then nothing has to be undone.
            claim.drivers.keys().try_for_each(|driver| self.drivers.get(driver).map(drop))?;
            wanted.push(claim);
        }
        let _turn = self.turn(wanted.iter().map(Claim::key).collect()).await;
        let todo = self.change(|book| book.refer(pod.uid(), &wanted))?;
        for (driver, claims) in book::by_driver(&todo) {
            let answer = self.drivers.get(&driver)?.prepare(claims.clone(), &self.counters).await?;
            let answered = answer.claims.iter().map(|(uid, a)| (uid, &a.error));
            book::judge("NodePrepareResources", &claims, answered)?;
            self.change(|book| {
                for (uid, answer) in answer.claims {
                    book.set_devices(&uid, &driver, answer.devices.into_iter().map(Into::into).collect());
                }
                Ok(())
            })?;
        }
        self.change(|book| {
            book.set_prepared(&todo);
            Ok(())
        })?;
        self.state.lock().concerned.insert(pod.uid().to_owned());
        self.changed.notify_one();
        Ok(())
    }

    /// Undoes it for what no other pod uses, or tells why that is not possible now.
    pub async fn unprepare(&self, uid: &str) -> Result<(), String> {
        let keys = self.with_book(|book| book.of_pod(uid));
        if keys.is_empty() {
            return Ok(());
        }
        let done = self.measured("UnprepareResources", self.unprepare_all(uid, keys)).await;
        done.map_err(|e| format!("unprepare dynamic resources: {e}"))
    }

    async fn unprepare_all(&self, uid: &str, keys: BTreeSet<Key>) -> Result<(), String> {
        let _turn = self.turn(keys).await;
        let last = self.change(|book| Ok(book.let_go(uid)))?;
        for (driver, claims) in book::by_driver(&last) {
            let answer = self.drivers.get(&driver)?.unprepare(claims.clone(), &self.counters).await?;
            let answered = answer.claims.iter().map(|(uid, a)| (uid, &a.error));
            book::judge("NodeUnprepareResources", &claims, answered)?;
        }
        self.change(|book| {
            book.forget(&last);
            Ok(())
        })
    }

    async fn measured(&self, operation: &str, doing: impl Future<Output = Result<(), String>>) -> Result<(), String> {
        let begun = Instant::now();
        let done = doing.await;
        let failed = if done.is_err() { "true" } else { "false" };
        self.counters.observe(&counters::DRA_OPERATIONS, &[operation, failed], begun.elapsed().as_secs_f64());
        done
    }

    /// Whether an earlier run has begun something for a pod.
    pub fn knows(&self, uid: &str) -> bool {
        !self.with_book(|book| book.of_pod(uid)).is_empty()
    }

    /// Waits until nobody else works on these claims.
    async fn turn(&self, keys: BTreeSet<Key>) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            {
                let mut state = self.state.lock();
                if state.busy.is_disjoint(&keys) {
                    state.busy.extend(keys.iter().cloned());
                    return Turn { of: self, keys };
                }
            }
            freed.await;
        }
    }

    /// Undoes what belongs to none of these pods, in the background.
    pub fn undo_others(self: &Arc<Self>, pods: &BTreeSet<String>) {
        for uid in self.with_book(Book::pods).into_iter().filter(|uid| !pods.contains(uid)) {
            let own = self.clone();
            base::tasks::detach("leftover claims", async move {
                let mut backoff = Backoff::new(STUBBORN.0, STUBBORN.1);
                while let Err(error) = own.unprepare(&uid).await {
                    tracing::warn!(pod = uid, error, "failed to undo what was prepared for a pod that is gone");
                    tokio::time::sleep(backoff.fail()).await;
                }
            });
        }
    }

    // === containers ===

    /// What a container gets.
    pub fn cdi_devices(&self, pod: &Pod, container: &Container) -> Result<BTreeSet<String>, String> {
        if !uses::uses_any(pod) {
            return Ok(BTreeSet::new());
        }
        self.with_book(|book| book.cdi_devices(pod, container))
    }

    /// What a container has, for monitoring agents.
    pub fn shown(&self, pod: &Pod, container: &Container) -> Vec<DynamicResource> {
        self.with_book(|book| book.of_container(pod, container).into_iter().map(shown).collect())
    }

    /// How many claims are prepared, by driver.
    pub fn in_use(&self) -> BTreeMap<String, usize> {
        self.with_book(Book::in_use)
    }

    // === health ===

    /// How the devices of a pod are.
    pub fn statuses(&self, pod: &Pod) -> Statuses {
        if !uses::uses_any(pod) {
            return Statuses::new();
        }
        let state = self.state.lock();
        state.book.statuses(pod, &state.healths, self.clock.now())
    }

    /// Asks a driver how its devices are, as long as somebody wants to know. This is also what connects to it, and to one that was away.
    pub async fn follow(&self, driver: &Driver) {
        loop {
            self.listen_to(driver).await;
            self.lose(&driver.name);
            tokio::time::sleep(ASK_AGAIN).await;
        }
    }

    async fn listen_to(&self, driver: &Driver) {
        let mut client = DraResourceHealthClient::new(driver.channel());
        match client.node_watch_resources(NodeWatchResourcesRequest {}).await {
            Ok(stream) => {
                let mut stream = stream.into_inner();
                while let Ok(Some(told)) = stream.message().await {
                    self.hear(&driver.name, told.devices);
                }
            }
            Err(status) if status.code() == tonic::Code::Unimplemented => {
                // It has nothing to tell as long as it is this one; an error would mean that it is gone already.
                driver.lines().wait_for(|lines| *lines == 0).await.ok();
            }
            Err(status) => tracing::debug!(driver = driver.name, %status, "a driver does not tell how its devices are"),
        }
    }

    fn hear(&self, driver: &str, devices: Vec<DeviceHealth>) {
        let mut state = self.state.lock();
        let changed = state.healths.hear(driver, devices, self.clock.now());
        let pods = state.book.pods_with(driver, |d| changed.contains(&(d.pool.clone(), d.name.clone())));
        state.concerned.extend(pods);
        // Even if nobody is concerned it is believed for longer now.
        self.changed.notify_one();
    }

    /// A driver does not tell any more.
    pub fn lose(&self, driver: &str) {
        let mut state = self.state.lock();
        if !state.healths.forget(driver) {
            return;
        }
        let pods = state.book.pods_with(driver, |_| true);
        state.concerned.extend(pods);
        self.changed.notify_one();
    }

    /// Waits until devices of pods are better or worse, and names the pods. One caller.
    pub async fn concerned(&self) -> BTreeSet<String> {
        loop {
            let (pods, next) = self.look();
            if !pods.is_empty() {
                return pods;
            }
            match next {
                None => self.changed.notified().await,
                Some(left) => tokio::select! {
                    () = self.changed.notified() => {}
                    () = tokio::time::sleep(left) => {}
                },
            }
        }
    }

    /// Who is concerned now, and how long until somebody may be only because time passes.
    fn look(&self) -> (BTreeSet<String>, Option<Duration>) {
        let now = self.clock.now();
        let mut state = self.state.lock();
        for (driver, (pool, device)) in state.healths.expire(now) {
            let pods = state.book.pods_with(&driver, |d| d.pool == pool && d.name == device);
            state.concerned.extend(pods);
        }
        let past_it = |at: jiff::Timestamp| at.duration_since(now) + SignedDuration::from_millis(1);
        let next = state.healths.next_expiry().map(|at| Duration::try_from(past_it(at)).unwrap_or_default());
        (std::mem::take(&mut state.concerned), next)
    }
}

/// Claims that one pod works on.
struct Turn<'a> {
    of: &'a DynamicResources,
    keys: BTreeSet<Key>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.of.state.lock().busy.retain(|key| !self.keys.contains(key));
        self.of.freed.notify_waiters();
    }
}

/// `GetDynamicResources`
fn shown(claim: &Claim) -> DynamicResource {
    let devices = claim.drivers.iter().flat_map(|(driver, all)| all.iter().map(move |d| (driver, d)));
    let resource = |(driver, device): (&String, &book::Device)| ClaimResource {
        cdi_devices: device.cdi.iter().map(|name| CdiDevice { name: name.clone() }).collect(),
        driver_name: driver.clone(),
        pool_name: device.pool.clone(),
        device_name: device.name.clone(),
        share_id: device.share.clone(),
    };
    DynamicResource {
        claim_name: claim.name.clone(),
        claim_namespace: claim.namespace.clone(),
        claim_resources: devices.map(resource).collect(),
    }
}

fn load(file: &Path) -> io::Result<Book> {
    match std::fs::read(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Book::default()),
        Err(e) => Err(e),
        Ok(text) => Ok(serde_json::from_slice::<Vec<Claim>>(&text)?.into_iter().collect()),
    }
}

#[cfg(test)]
mod tests;
