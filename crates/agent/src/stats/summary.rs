//! [`summary`]: `/stats/summary` (`k8s.io/kubelet/pkg/apis/stats/v1alpha1`). Pure.
//!
//! Differs: `node.cpu.rateWindowMilliseconds` tells over which time all rates are; the API server's `metrics.k8s.io` needs it.

use super::disk::{DiskUse, Space};
use super::{CgroupSample, ContainerSample, NodeSample, PodSample, VolumeSample};
use crate::pod::status::time;
use jiff::Timestamp;
use net::traffic::Traffic;
use runtime::{Pressure, Stall, Stats};
use serde_json::{Value, json};

/// The whole document.
pub fn summary(node: &NodeSample) -> Value {
    let available = node.machine.memory_available;
    let memory = json!({
        "time": time(node.at),
        "availableBytes": available,
        "usageBytes": node.machine.memory.saturating_sub(node.machine.memory_free),
        "workingSetBytes": node.machine.memory.saturating_sub(available),
    });
    let mut node_cpu = cpu(node.at, node.cpu_ns, node.cpu_rate, None);
    let image_fs = fs(node.at, &node.space, DiskUse { bytes: node.images, inodes: node.space.used().inodes });
    node_cpu["rateWindowMilliseconds"] = node.window_ms.into();
    json!({
        "node": {
            "nodeName": node.name,
            "systemContainers": node.cgroups.iter().filter_map(|c| system_container(node.at, c)).collect::<Vec<_>>(),
            "startTime": time(node.boot),
            "cpu": node_cpu,
            "memory": memory,
            "network": links(node.at, &node.links),
            "fs": fs(node.at, &node.space, node.space.used()),
            "runtime": {"imageFs": image_fs, "containerFs": image_fs},
            "swap": {
                "time": time(node.at),
                "swapAvailableBytes": node.machine.swap_free,
                "swapUsageBytes": node.machine.swap.saturating_sub(node.machine.swap_free),
            },
            "rlimit": {"time": time(node.at), "maxpid": node.machine.tasks.0, "curproc": node.machine.tasks.1},
        },
        "pods": node.pods.iter().map(|pod| pod_stats(node, pod)).collect::<Vec<_>>(),
    })
}

/// They have no file system (`GetSystemContainersStats` in `summary_sys_containers.go`).
fn system_container(at: Timestamp, cgroup: &CgroupSample) -> Option<Value> {
    let mut out = json!({
        "name": cgroup.system?,
        "startTime": cgroup.started_at.map(time),
        "cpu": cpu(at, cgroup.usage.cpu_usage_ns, cgroup.cpu_rate, cgroup.usage.cpu_pressure),
        "memory": memory(at, &cgroup.usage),
        "swap": swap(at, &cgroup.usage),
    });
    if let Some(io) = io(at, &cgroup.usage) {
        out["io"] = io;
    }
    Some(out)
}

fn pod_stats(node: &NodeSample, pod: &PodSample) -> Value {
    let mut out = json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": pod.started_at.map(time),
        "containers": pod.containers.iter().map(|c| container(node, c)).collect::<Vec<_>>(),
        "cpu": cpu(node.at, pod.usage.cpu_usage_ns, pod.cpu_rate, pod.usage.cpu_pressure),
        "memory": memory(node.at, &pod.usage),
        "swap": swap(node.at, &pod.usage),
        "ephemeral-storage": fs(node.at, &node.space, pod.ephemeral()),
        "process_stats": {"process_count": pod.usage.pids},
    });
    if let Some(io) = io(node.at, &pod.usage) {
        out["io"] = io;
    }
    if let Some(link) = &pod.link {
        out["network"] = links(node.at, std::slice::from_ref(link));
    }
    if !pod.volumes.is_empty() {
        out["volume"] = pod.volumes.iter().map(|v| volume(node.at, pod, v)).collect();
    }
    out
}

fn container(node: &NodeSample, c: &ContainerSample) -> Value {
    let mut out = json!({
        "name": c.name,
        "startTime": time(c.started_at),
        "cpu": cpu(node.at, c.usage.cpu_usage_ns, c.cpu_rate, c.usage.cpu_pressure),
        "memory": memory(node.at, &c.usage),
        "swap": swap(node.at, &c.usage),
    });
    if let Some(io) = io(node.at, &c.usage) {
        out["io"] = io;
    }
    for (key, used) in [("rootfs", c.rootfs), ("logs", c.logs)] {
        if let Some(used) = used {
            out[key] = fs(node.at, &node.space, used);
        }
    }
    out
}

fn volume(at: Timestamp, pod: &PodSample, volume: &VolumeSample) -> Value {
    let mut out = fs(at, &volume.space, volume.used);
    out["name"] = volume.name.clone().into();
    if let Some(claim) = &volume.claim {
        out["pvcRef"] = json!({"name": claim, "namespace": pod.namespace});
    }
    out
}

fn cpu(at: Timestamp, total_ns: u64, rate: Option<u64>, pressure: Option<Pressure>) -> Value {
    let mut out = json!({"time": time(at), "usageCoreNanoSeconds": total_ns});
    if let Some(rate) = rate {
        out["usageNanoCores"] = rate.into();
    }
    if let Some(pressure) = pressure {
        out["psi"] = psi(&pressure);
    }
    out
}

fn memory(at: Timestamp, usage: &Stats) -> Value {
    let mut out = json!({
        "time": time(at),
        "usageBytes": usage.memory_usage,
        "workingSetBytes": usage.memory_working_set,
        "rssBytes": usage.memory_rss,
        "pageFaults": usage.page_faults,
        "majorPageFaults": usage.major_page_faults,
    });
    if let Some(limit) = usage.memory_limit {
        out["availableBytes"] = limit.saturating_sub(usage.memory_working_set).into();
    }
    if let Some(pressure) = usage.memory_pressure {
        out["psi"] = psi(&pressure);
    }
    out
}

fn swap(at: Timestamp, usage: &Stats) -> Value {
    let mut out = json!({"time": time(at), "swapUsageBytes": usage.swap_usage});
    if let Some(limit) = usage.swap_limit {
        out["swapAvailableBytes"] = limit.saturating_sub(usage.swap_usage).into();
    }
    out
}

fn io(at: Timestamp, usage: &Stats) -> Option<Value> {
    let pressure = usage.io_pressure?;
    Some(json!({"time": time(at), "psi": psi(&pressure)}))
}

fn psi(pressure: &Pressure) -> Value {
    let one = |stall: &Stall| json!({"total": stall.total_us, "avg10": stall.avg10, "avg60": stall.avg60, "avg300": stall.avg300});
    json!({"full": one(&pressure.full), "some": one(&pressure.some)})
}

/// The first link's counters, and those of all.
fn links(at: Timestamp, links: &[Traffic]) -> Value {
    let one = |link: &Traffic| {
        json!({
            "name": link.name,
            "rxBytes": link.received.bytes,
            "rxErrors": link.received.errors,
            "txBytes": link.sent.bytes,
            "txErrors": link.sent.errors,
        })
    };
    let mut out = links.first().map_or_else(|| json!({"name": ""}), one);
    out["time"] = json!(time(at));
    out["interfaces"] = links.iter().map(one).collect();
    out
}

fn fs(at: Timestamp, space: &Space, used: DiskUse) -> Value {
    json!({
        "time": time(at),
        "availableBytes": space.available,
        "capacityBytes": space.capacity,
        "usedBytes": used.bytes,
        "inodesFree": space.inodes_free,
        "inodes": space.inodes,
        "inodesUsed": used.inodes,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::engine::Resources;
    use crate::node::Machine;
    use crate::stats::file_systems::{DiskWork, FileSystem};
    use expect_test::expect;
    use net::traffic::Direction;
    use runtime::DiskIo;
    use runtime::metrics::Open;

    pub(in crate::stats) fn sample() -> NodeSample {
        let at = Timestamp::from_second(100).expect("small");
        let waited =
            Pressure { some: Stall { avg10: 0.5, total_us: 1_500_000, ..Stall::default() }, ..Pressure::default() };
        let usage = Stats {
            cpu_usage_ns: 1_500_000_000,
            cpu_pressure: Some(waited),
            memory_usage: 20,
            memory_working_set: 10,
            memory_limit: Some(30),
            swap_usage: 1,
            swap_limit: Some(4),
            pids: 2,
            io: Some(vec![DiskIo { device: (8, 0), read_bytes: 512, reads: 1, ..DiskIo::default() }]),
            ..Stats::default()
        };
        let used = DiskUse { bytes: 4096, inodes: 1 };
        let way = |bytes| Direction { bytes, packets: 1, errors: 0, dropped: 0 };
        let link = Traffic { name: "dhow1".into(), received: way(50), sent: way(60) };
        let container = ContainerSample {
            name: "c".into(),
            id: "i".into(),
            cgroup: "/kubepods/podu/i".into(),
            image: "im".into(),
            started_at: at,
            limits: Resources { cpu_shares: Some(2), ..Resources::default() },
            usage: usage.clone(),
            cpu_rate: Some(5),
            rootfs: Some(used),
            logs: Some(used),
            open: Some(Open { processes: 2, files: 9, sockets: 3 }),
        };
        let space = Space { capacity: 100, available: 40, free: 50, inodes: 10, inodes_free: 4, is_alone: false };
        let data = VolumeSample { name: "d".into(), claim: Some("pvc".into()), used, space, ephemeral: false };
        let pod = PodSample {
            namespace: "ns".into(),
            name: "p".into(),
            uid: "u".into(),
            started_at: Some(at),
            cgroup: "/kubepods/podu".into(),
            usage: usage.clone(),
            cpu_rate: Some(7),
            link: Some(link.from_the_other_end("eth0")),
            containers: vec![container],
            volumes: vec![data],
        };
        let machine = Machine {
            cpus: 2,
            memory: 1000,
            memory_available: 600,
            memory_free: 500,
            tasks: (100, 3),
            swap: 50,
            swap_free: 20,
            ..Machine::default()
        };
        NodeSample {
            at,
            name: "n".into(),
            boot: Timestamp::UNIX_EPOCH,
            machine,
            cpu_ns: 9,
            cpu_rate: None,
            window_ms: 0,
            space,
            images: 30,
            links: vec![link],
            cgroups: vec![CgroupSample {
                path: "/kubepods".into(),
                system: Some("pods"),
                usage,
                ..CgroupSample::default()
            }],
            file_systems: vec![FileSystem {
                device: "/dev/sda1".into(),
                space,
                work: DiskWork { reads: 5, reading_ms: 1500, ..DiskWork::default() },
            }],
            disk_names: [((8, 0), "/dev/sda".to_owned())].into(),
            pods: vec![pod],
        }
    }

    #[test]
    fn a_pod_in_the_summary() {
        let document = summary(&sample());
        assert_eq!(document["node"]["memory"]["workingSetBytes"], 400);
        assert!(document["node"]["cpu"].get("usageNanoCores").is_none(), "not known is not zero");
        let all = &document["node"]["systemContainers"];
        assert_eq!(
            (&all[0]["name"], &all[0]["memory"]["workingSetBytes"], all.get(1)),
            (&"pods".into(), &10.into(), None)
        );
        let network = document["pods"][0]["network"].to_string();
        expect![[r#"{"interfaces":[{"name":"eth0","rxBytes":60,"rxErrors":0,"txBytes":50,"txErrors":0}],"name":"eth0","rxBytes":60,"rxErrors":0,"time":"1970-01-01T00:01:40Z","txBytes":50,"txErrors":0}"#]].assert_eq(&network);
        let mut pod = document["pods"][0].clone();
        pod.as_object_mut().expect("an object").remove("network");
        let pod = serde_json::to_string(&pod).expect("a value");
        expect![[r#"{"containers":[{"cpu":{"psi":{"full":{"avg10":0.0,"avg300":0.0,"avg60":0.0,"total":0},"some":{"avg10":0.5,"avg300":0.0,"avg60":0.0,"total":1500000}},"time":"1970-01-01T00:01:40Z","usageCoreNanoSeconds":1500000000,"usageNanoCores":5},"logs":{"availableBytes":40,"capacityBytes":100,"inodes":10,"inodesFree":4,"inodesUsed":1,"time":"1970-01-01T00:01:40Z","usedBytes":4096},"memory":{"availableBytes":20,"majorPageFaults":0,"pageFaults":0,"rssBytes":0,"time":"1970-01-01T00:01:40Z","usageBytes":20,"workingSetBytes":10},"name":"c","rootfs":{"availableBytes":40,"capacityBytes":100,"inodes":10,"inodesFree":4,"inodesUsed":1,"time":"1970-01-01T00:01:40Z","usedBytes":4096},"startTime":"1970-01-01T00:01:40Z","swap":{"swapAvailableBytes":3,"swapUsageBytes":1,"time":"1970-01-01T00:01:40Z"}}],"cpu":{"psi":{"full":{"avg10":0.0,"avg300":0.0,"avg60":0.0,"total":0},"some":{"avg10":0.5,"avg300":0.0,"avg60":0.0,"total":1500000}},"time":"1970-01-01T00:01:40Z","usageCoreNanoSeconds":1500000000,"usageNanoCores":7},"ephemeral-storage":{"availableBytes":40,"capacityBytes":100,"inodes":10,"inodesFree":4,"inodesUsed":2,"time":"1970-01-01T00:01:40Z","usedBytes":8192},"memory":{"availableBytes":20,"majorPageFaults":0,"pageFaults":0,"rssBytes":0,"time":"1970-01-01T00:01:40Z","usageBytes":20,"workingSetBytes":10},"podRef":{"name":"p","namespace":"ns","uid":"u"},"process_stats":{"process_count":2},"startTime":"1970-01-01T00:01:40Z","swap":{"swapAvailableBytes":3,"swapUsageBytes":1,"time":"1970-01-01T00:01:40Z"},"volume":[{"availableBytes":40,"capacityBytes":100,"inodes":10,"inodesFree":4,"inodesUsed":1,"name":"d","pvcRef":{"name":"pvc","namespace":"ns"},"time":"1970-01-01T00:01:40Z","usedBytes":4096}]}"#]].assert_eq(&pod);
    }
}
