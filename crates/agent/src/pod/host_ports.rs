//! Which ports of the node are whose (`scheduler/framework/types.go`, `HostPortInfo`): the scheduler keeps pods apart, but a pod
//! may come with its node's name.

use super::admission::Rejection;
use super::view;
use api::k8s::api::core::v1::Pod;
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// A port of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

const ANY: &str = "0.0.0.0";

/// Those that a pod wants: of its containers and its sidecars.
fn wanted(pod: &Pod) -> Vec<HostPort> {
    let sidecars = view::init_containers(pod).iter().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = view::app_containers(pod).iter().chain(sidecars).flat_map(|c| c.ports.iter().flatten());
    let text = |given: &Option<String>, default: &str| {
        given.as_deref().filter(|t| !t.is_empty()).unwrap_or(default).to_owned()
    };
    ports
        .filter_map(|p| {
            let port = p.host_port.filter(|port| *port > 0)?;
            Some(HostPort { ip: text(&p.host_ip, ANY), protocol: text(&p.protocol, "TCP"), port })
        })
        .collect()
}

fn conflict(a: &HostPort, b: &HostPort) -> bool {
    a.port == b.port && a.protocol == b.protocol && (a.ip == b.ip || a.ip == ANY || b.ip == ANY)
}

/// The ports of all pods of the node, by UID.
#[derive(Debug, Default)]
pub struct HostPorts(Mutex<BTreeMap<String, Vec<HostPort>>>);

impl HostPorts {
    /// Gives a pod its ports, if no other has them.
    pub fn take(&self, pod: &Pod, uid: &str) -> Result<(), Rejection> {
        let ports = wanted(pod);
        let mut taken = self.0.lock();
        let others = || taken.iter().filter(|(other, _)| *other != uid).flat_map(|(_, ports)| ports);
        if ports.iter().any(|port| others().any(|other| conflict(port, other))) {
            return Err(Rejection {
                reason: "NodePorts".into(),
                message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
                    .into(),
            });
        }
        if !ports.is_empty() {
            taken.insert(uid.to_owned(), ports);
        }
        Ok(())
    }

    /// Writes down what a pod has already.
    pub fn record(&self, pod: &Pod, uid: &str) {
        self.0.lock().insert(uid.to_owned(), wanted(pod));
    }

    /// The pod needs them no more.
    pub fn release(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    fn with(port: &str) -> Pod {
        pod(&format!(r#"{{"containers":[{{"name":"a","image":"i","ports":[{{{port}}}]}}]}}"#))
    }

    #[test]
    fn a_port_has_one_pod_at_a_time() {
        let ports = HostPorts::default();
        ports.take(&with(r#""containerPort":1,"hostPort":80,"hostIP":"10.0.0.1""#), "a").expect("free");
        let same = with(r#""containerPort":2,"hostPort":80"#);
        let refused = ports.take(&same, "b").expect_err("taken on one address");
        assert_eq!(refused.reason, "NodePorts");
        ports.take(&with(r#""containerPort":2,"hostPort":80,"hostIP":"10.0.0.2""#), "c").expect("another address");
        ports.take(&with(r#""containerPort":2,"hostPort":80,"protocol":"UDP""#), "d").expect("another protocol");
        ports.take(&with(r#""containerPort":80"#), "e").expect("no port of the node");
        ports.release("a");
        ports.take(&same, "b").expect_err("c has it");
        ports.release("c");
        ports.take(&same, "b").expect("free again");
    }
}
