//! What containers and sandboxes use, read from the kernel when asked. Only those that run use anything.

use crate::containers::SNAPSHOT_PREFIX;
use crate::record::{ContainerRecord, SandboxRecord};
use crate::{Shared, error, spec, view};
use image::DiskUse;
use net::traffic::Traffic;
use node_api::cri::{
    ContainerAttributes, ContainerStats, ContainerStatsFilter, CpuUsage, FilesystemIdentifier, FilesystemUsage,
    IoUsage, LinuxPodSandboxStats, MemoryUsage, NetworkInterfaceUsage, NetworkUsage, PodSandboxAttributes,
    PodSandboxStats, PodSandboxStatsFilter, ProcessUsage, PsiData, PsiStats, SwapUsage, UInt64Value,
};
use runtime::{Pressure, Stall, Stats};
use std::sync::Arc;
use tonic::Status;

fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// How much CPU per second is for the client to find out, from two answers.
fn cpu(stats: &Stats, timestamp: i64) -> CpuUsage {
    CpuUsage {
        timestamp,
        usage_core_nano_seconds: some(stats.cpu_usage_ns),
        psi: stats.cpu_pressure.map(psi),
        ..CpuUsage::default()
    }
}

fn memory(stats: &Stats, timestamp: i64) -> MemoryUsage {
    MemoryUsage {
        timestamp,
        working_set_bytes: some(stats.memory_working_set),
        usage_bytes: some(stats.memory_usage),
        rss_bytes: some(stats.memory_rss),
        page_faults: some(stats.page_faults),
        major_page_faults: some(stats.major_page_faults),
        // 0: there is no limit.
        available_bytes: some(stats.memory_limit.map_or(0, |limit| limit.saturating_sub(stats.memory_working_set))),
        psi: stats.memory_pressure.map(psi),
    }
}

fn swap(stats: &Stats, timestamp: i64) -> SwapUsage {
    SwapUsage {
        timestamp,
        swap_usage_bytes: some(stats.swap_usage),
        swap_available_bytes: some(stats.swap_limit.map_or(0, |limit| limit.saturating_sub(stats.swap_usage))),
    }
}

fn io(stats: &Stats, timestamp: i64) -> Option<IoUsage> {
    Some(IoUsage { timestamp, psi: Some(psi(stats.io_pressure?)) })
}

fn psi(pressure: Pressure) -> PsiStats {
    let data = |stall: Stall| PsiData {
        total: stall.total_us.saturating_mul(1000),
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}

fn network(link: &Traffic, timestamp: i64) -> NetworkUsage {
    let usage = NetworkInterfaceUsage {
        name: link.name.clone(),
        rx_bytes: some(link.received.bytes),
        rx_errors: some(link.received.errors),
        tx_bytes: some(link.sent.bytes),
        tx_errors: some(link.sent.errors),
    };
    NetworkUsage { timestamp, default_interface: Some(usage), interfaces: Vec::new() }
}

fn wants_container(filter: &ContainerStatsFilter, record: &ContainerRecord) -> bool {
    record.id.starts_with(&filter.id)
        && record.sandbox.starts_with(&filter.pod_sandbox_id)
        && view::selects(&filter.label_selector, &record.config.labels)
}

fn wants_sandbox(filter: &PodSandboxStatsFilter, record: &SandboxRecord) -> bool {
    record.id.starts_with(&filter.id) && view::selects(&filter.label_selector, &record.config.labels)
}

impl Shared {
    pub(crate) async fn container_stats(self: &Arc<Self>, id: &str) -> Result<ContainerStats, Status> {
        let record = self.running(id)?;
        let mut all = self.measure(vec![record]).await?;
        all.pop().ok_or_else(|| Status::not_found(format!("container {id:?} not found")))
    }

    pub(crate) async fn all_container_stats(
        self: &Arc<Self>,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<ContainerStats>, Status> {
        let filter = filter.unwrap_or_default();
        let all = self.state.containers().into_iter().filter(|c| c.is_running() && wants_container(&filter, c));
        self.measure(all.collect()).await
    }

    pub(crate) async fn sandbox_stats(self: &Arc<Self>, id: &str) -> Result<PodSandboxStats, Status> {
        let record = self.state.sandbox(id)?;
        self.measure_sandbox(&record).await
    }

    pub(crate) async fn all_sandbox_stats(
        self: &Arc<Self>,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<PodSandboxStats>, Status> {
        let filter = filter.unwrap_or_default();
        let mut out = Vec::new();
        for record in self.state.sandboxes().iter().filter(|s| s.ready && wants_sandbox(&filter, s)) {
            out.push(self.measure_sandbox(record).await?);
        }
        Ok(out)
    }

    async fn measure_sandbox(self: &Arc<Self>, record: &SandboxRecord) -> Result<PodSandboxStats, Status> {
        let timestamp = self.now_ns();
        let stats = self.engine.stats(&spec::sandbox::cgroup(&record.id, &record.config, &self.config.cgroup_parent));
        // With the machine's network it has no link.
        let link = self.links().remove(&record.id);
        let containers = self.state.containers_of(&record.id).into_iter().filter(|c| c.is_running()).collect();
        Ok(PodSandboxStats {
            attributes: Some(PodSandboxAttributes {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            }),
            linux: Some(LinuxPodSandboxStats {
                cpu: Some(cpu(&stats, timestamp)),
                memory: Some(memory(&stats, timestamp)),
                network: link.map(|link| network(&link, timestamp)),
                io: io(&stats, timestamp),
                process: Some(ProcessUsage { timestamp, process_count: some(stats.pids) }),
                containers: self.measure(containers).await?,
            }),
            ..PodSandboxStats::default()
        })
    }

    /// Reads counters and walks through what containers wrote, on a thread that may block.
    async fn measure(self: &Arc<Self>, records: Vec<Arc<ContainerRecord>>) -> Result<Vec<ContainerStats>, Status> {
        let shared = self.clone();
        let measured = tokio::task::spawn_blocking(move || records.iter().map(|r| shared.measure_one(r)).collect());
        measured.await.map_err(|e| error::other(&e))
    }

    fn measure_one(&self, record: &ContainerRecord) -> ContainerStats {
        let stats = self.engine.stats(&record.cgroup);
        let timestamp = self.now_ns();
        let upper = self.images.upper(&format!("{SNAPSHOT_PREFIX}{}", record.id));
        let used = upper.map(|dir| DiskUse::of(&dir)).unwrap_or_default();
        let mountpoint = self.config.images_dir.to_string_lossy().into_owned();
        ContainerStats {
            attributes: Some(ContainerAttributes {
                id: record.id.clone(),
                metadata: record.config.metadata.clone(),
                labels: record.config.labels.clone(),
                annotations: record.config.annotations.clone(),
            }),
            cpu: Some(cpu(&stats, timestamp)),
            memory: Some(memory(&stats, timestamp)),
            swap: Some(swap(&stats, timestamp)),
            io: io(&stats, timestamp),
            writable_layer: Some(FilesystemUsage {
                timestamp,
                fs_id: Some(FilesystemIdentifier { mountpoint }),
                used_bytes: some(used.bytes),
                inodes_used: some(used.inodes),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_what_the_limit_leaves() {
        let value = |v: Option<UInt64Value>| v.map(|v| v.value);
        let stats = Stats {
            memory_limit: Some(100),
            memory_working_set: 30,
            swap_limit: Some(50),
            swap_usage: 60,
            io_pressure: Some(Pressure { full: Stall { total_us: 7, ..Stall::default() }, ..Pressure::default() }),
            ..Stats::default()
        };
        assert_eq!(value(memory(&stats, 1).available_bytes), Some(70));
        assert_eq!(value(swap(&stats, 1).swap_available_bytes), Some(0));
        assert_eq!(io(&stats, 1).and_then(|io| Some(io.psi?.full?.total)), Some(7000));
        let unlimited = Stats::default();
        assert_eq!(value(memory(&unlimited, 1).available_bytes), Some(0));
        assert!(io(&unlimited, 1).is_none() && cpu(&unlimited, 1).psi.is_none());
    }
}
