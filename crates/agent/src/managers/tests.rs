//! Processors, memory and NUMA nodes together.

use super::*;
use crate::pod::fixture::pod;
use api::meta::MetaExt;
use base::SystemClock;
use topology::{Node, Place};

/// Two NUMA nodes of four processors and a gigabyte each.
fn two_nodes() -> Arc<Topology> {
    let cpus = (0..8).map(|cpu| (cpu, Place { node: cpu / 4, socket: cpu / 4, core: cpu })).collect();
    let nodes = (0..2).map(|n| (n, Node { memory: 1 << 30, ..Node::default() })).collect();
    Arc::new(Topology { cpus, nodes })
}

fn wants(uid: &str, containers: &[(&str, &str)]) -> Pod {
    let one = |(i, (cpu, memory)): (usize, &(&str, &str))| {
        let amounts = format!(r#"{{"cpu":"{cpu}","memory":"{memory}"}}"#);
        format!(r#"{{"name":"c{i}","resources":{{"limits":{amounts},"requests":{amounts}}}}}"#)
    };
    let list = containers.iter().enumerate().map(one).collect::<Vec<_>>().join(",");
    let mut pod = pod(&format!(r#"{{"containers":[{list}]}}"#));
    pod.metadata.uid = Some(uid.into());
    pod
}

/// Gives pods what they want, one after the other, and tells on which processors and nodes their containers are.
async fn check(policy: &str, scope: &str, pods: &[(&[(&str, &str)], &str)]) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let written = Written {
        cpu_policy: Some("static"),
        reserved_cpus: Some("0"),
        memory_policy: Some("Static"),
        topology_policy: Some(policy),
        topology_scope: Some(scope),
        ..Written::default()
    };
    let settings = Settings::read(&written).expect("valid");
    let managers = Managers::new(&settings, two_nodes(), |_| 0, dir.path()).expect("it can be read");
    let devices = Devices::new(dir.path().to_owned(), Arc::new(SystemClock), Arc::default());
    let counters = Counters::default();
    for (i, (containers, want)) in pods.iter().enumerate() {
        let pod = wants(&i.to_string(), containers);
        let where_it_is = |c: &Container| {
            let cpus = managers.cpus.of(pod.uid(), &c.name).unwrap_or_default();
            format!("{cpus} of {}", managers.memories.nodes(pod.uid(), &c.name).unwrap_or_default())
        };
        let got = match managers.allocate(&pod, &devices, &counters).await {
            Ok(()) => view::containers_in_order(&pod).map(where_it_is).collect::<Vec<_>>().join("; "),
            Err(Rejection { reason, message }) => {
                managers.retain(|uid| uid != pod.uid());
                format!("{reason}: {message}")
            }
        };
        assert_eq!(got, *want, "{policy}, {scope}, pod {i}");
    }
    let rejected = pods.iter().filter(|(_, want)| *want == REJECTED).count() as u64;
    assert_eq!(counters.of(&counters::TOPOLOGY_FAILED), [(Vec::new(), rejected)]);
    assert_eq!(counters.of(&counters::TOPOLOGY_ASKED), [(Vec::new(), pods.len() as u64)]);
}

const REJECTED: &str = "TopologyAffinityError: Resources cannot be allocated with Topology locality";

#[tokio::test]
async fn processors_and_memory_are_of_the_same_nodes() {
    check(
        "single-numa-node",
        "container",
        &[
            (&[("4", "100Mi")], "4-7 of 1"),
            (&[("2", "100Mi")], "1-2 of 0"),
            (&[("2", "100Mi")], REJECTED),
            (&[("1", "100Mi")], "3 of 0"),
        ],
    )
    .await;
    check("restricted", "container", &[(&[("3", "1500Mi")], REJECTED), (&[("5", "1500Mi")], "1,4-7 of 0-1")]).await;
    check("best-effort", "container", &[(&[("3", "1500Mi")], "1-3 of 0-1")]).await;
}

#[tokio::test]
async fn the_containers_of_a_pod_are_on_the_same_nodes_if_it_is_asked() {
    let pod: &[_] = &[("2", "100Mi"), ("2", "100Mi")];
    check("single-numa-node", "container", &[(pod, "1-2 of 0; 4-5 of 1")]).await;
    check("single-numa-node", "pod", &[(pod, "4-5 of 1; 6-7 of 1"), (pod, REJECTED)]).await;
}

#[test]
fn all_mistakes_of_the_settings_are_told() {
    let written = Written {
        cpu_policy: Some("Static"),
        reserved_cpus: Some("x"),
        memory_policy: Some("static"),
        reserved_memory: Some("0=1Mi"),
        topology_policy: Some("strict"),
        ..Written::default()
    };
    let flags: Vec<String> = Settings::read(&written)
        .expect_err("wrong")
        .iter()
        .map(|e| e.split([' ', ':']).next().unwrap_or_default().to_owned())
        .collect();
    let all =
        ["cpu-manager-policy", "reserved-cpus", "memory-manager-policy", "reserved-memory", "topology-manager-policy"];
    assert_eq!(flags, all);
    let written = Written { reserved_memory: Some("0:memory=1Mi,1:memory=2Mi"), ..Written::default() };
    assert_eq!(Settings::read(&written).expect("valid").reserved_memory, [(0, 1 << 20), (1, 2 << 20)].into());
}
