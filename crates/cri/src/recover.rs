//! What runs after a restart: records say what was asked for, the engine what there is.

use crate::containers::owner;
use crate::record::ContainerRecord;
use crate::{Shared, StartError};
use runtime::{ContainerSnapshot, ContainerState, Exit};
use std::collections::{BTreeMap, BTreeSet};

impl Shared {
    /// Makes both agree: what nobody knows is removed, what is gone has ended.
    pub(crate) async fn recover(&self) -> Result<(), StartError> {
        self.reserve_levels();
        let mut live = BTreeSet::new();
        for found in self.engine.recover().await? {
            let id = found.pod.id().to_owned();
            // One that is not ready was never told to anybody.
            if !self.state.sandbox(&id).is_ok_and(|s| s.ready) {
                self.engine.remove_pod(&found.pod).await?;
                continue;
            }
            for label in found.snapshot.containers.iter().filter_map(|c| c.selinux.as_deref()) {
                self.selinux.iter().for_each(|s| s.reserve(&id, label));
            }
            let snapshots = found.snapshot.containers.into_iter().map(|c| (c.id.clone(), c)).collect();
            self.reconcile(&id, &snapshots, &BTreeMap::new());
            self.state.put_pod(found.pod);
            live.insert(id);
        }
        for orphan in self.engine.orphans()? {
            self.reconcile(&orphan.id, &BTreeMap::new(), &orphan.exits);
            self.engine.sweep(&orphan).await?;
        }
        for sandbox in self.state.sandboxes().iter().filter(|s| !live.contains(&s.id)) {
            self.reconcile(&sandbox.id, &BTreeMap::new(), &BTreeMap::new());
            self.state.update_sandbox(&sandbox.id, |s| s.ready = false);
        }
        self.network.recover(&live)?;
        self.tell_host_ports();
        self.drop_snapshots().await
    }

    /// Nobody else gets the levels of those that there are.
    fn reserve_levels(&self) {
        let Some(selinux) = &self.selinux else { return };
        for sandbox in self.state.sandboxes() {
            selinux.reserve(&sandbox.id, &sandbox.process_label);
        }
    }

    /// What became of a sandbox' containers while nobody looked.
    fn reconcile(
        &self,
        sandbox: &str,
        snapshots: &BTreeMap<String, ContainerSnapshot>,
        exits: &BTreeMap<String, Exit>,
    ) {
        let now = self.now_ns();
        for record in self.state.containers_of(sandbox).iter().filter(|c| c.finished_at == 0) {
            let change = became(record, snapshots.get(&record.id), exits.get(&record.id), now);
            if let Some(change) = change {
                self.state.update_container(&record.id, |c| *c = change);
            }
        }
    }

    /// Root file systems of containers that nobody knows.
    async fn drop_snapshots(&self) -> Result<(), StartError> {
        let known: BTreeSet<String> = self.state.containers().iter().map(|c| c.id.clone()).collect();
        for (name, _) in self.images.snapshots() {
            if owner(&name).is_some_and(|container| !known.contains(container)) {
                self.images.remove_snapshot(&name).await?;
            }
        }
        Ok(())
    }
}

/// The record of a container that had not ended, if it is another now.
fn became(
    record: &ContainerRecord,
    snapshot: Option<&ContainerSnapshot>,
    exit: Option<&Exit>,
    now_ns: i64,
) -> Option<ContainerRecord> {
    let mut next = record.clone();
    match (snapshot.map(|s| &s.state), exit) {
        (Some(ContainerState::Exited(exit)), _) | (None, Some(exit)) => next.exited(exit),
        (Some(ContainerState::Running(started)), _) => next.started(started.started_at_ns),
        (Some(ContainerState::Starting), _) => {}
        (None, None) if record.is_running() => next.lost(now_ns),
        // Not started yet.
        (None, None) => {}
    }
    (next != *record).then_some(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::Started;

    fn snapshot(state: ContainerState) -> ContainerSnapshot {
        ContainerSnapshot {
            id: "c".into(),
            state,
            cgroup: String::new(),
            log_path: None,
            labels: BTreeMap::new(),
            tty: false,
            stdin: false,
            selinux: None,
        }
    }

    #[test]
    fn what_became_of_a_container() {
        let exit = Exit { code: 3, signal: None, oom_killed: false, started_at_ns: 5, finished_at_ns: 9, lost: false };
        let made = ContainerRecord { id: "c".into(), ..ContainerRecord::default() };
        let running = ContainerRecord { started_at: 5, ..made.clone() };
        let show = |record: &ContainerRecord, snapshot: Option<ContainerState>, exit: Option<&Exit>| {
            let snapshot = snapshot.map(super::tests::snapshot);
            became(record, snapshot.as_ref(), exit, 100)
                .map(|c| format!("{} {} {}", c.state().as_str_name(), c.exit_code, c.reason))
        };
        let runs = || Some(ContainerState::Running(Started { pid: 1, started_at_ns: 5, missing_controllers: vec![] }));
        assert_eq!(show(&made, None, None), None);
        assert_eq!(show(&running, runs(), None), None);
        // The process before us died between starting it and writing that down.
        assert_eq!(show(&made, runs(), None).as_deref(), Some("CONTAINER_RUNNING 0 "));
        let ended = Some("CONTAINER_EXITED 3 Error");
        assert_eq!(show(&running, Some(ContainerState::Exited(exit.clone())), None).as_deref(), ended);
        assert_eq!(show(&running, None, Some(&exit)).as_deref(), ended);
        assert_eq!(show(&running, None, None).as_deref(), Some("CONTAINER_EXITED 255 Unknown"));
    }
}
