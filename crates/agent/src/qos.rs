//! How classes of pods share the processors (`pkg/kubelet/cm/qos_container_manager_linux.go`): `kubepods` as much as the node may give
//! to pods, `kubepods/burstable` as much as its pods ask for, `kubepods/besteffort` next to nothing.
//!
//! [`shares`] is pure. Written when pods come or go, and every minute as upstream does. An event tells when `kubepods` has its share for the first
//! time (`enforceNodeAllocatableCgroups` in `cm/node_container_manager_linux.go`; differs: that is with the first pod), or why it has not.

use crate::agent::AgentHandle;
use crate::cluster::ClusterEvent;
use crate::context::Context;
use crate::engine::{EngineError, Resources};
use crate::pod::spec::resources::{MIN_SHARES, Qos, milli_cpu_to_shares, pod_requests, qos_class};
use api::k8s::api::core::v1::Pod;
use machinery::quantity::Quantity;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// `periodicQOSCgroupUpdateInterval`
const PERIOD: Duration = Duration::from_secs(60);

/// The cgroup of all pods.
const ALL_PODS: &str = "kubepods";

/// cgroups and their `cpu.shares`.
pub fn shares<'a>(pods: impl Iterator<Item = &'a Pod>, allocatable_milli: i64) -> [(&'static str, u64); 3] {
    let burstable = pods.filter(|p| qos_class(p) == Qos::Burstable).map(|p| pod_requests(p).cpu_milli).sum();
    [
        (ALL_PODS, milli_cpu_to_shares(allocatable_milli)),
        ("kubepods/burstable", milli_cpu_to_shares(burstable)),
        ("kubepods/besteffort", MIN_SHARES),
    ]
}

/// Writes them until `shutdown`.
pub async fn run(agent: AgentHandle, context: Arc<Context>, shutdown: CancellationToken) {
    let mut enforced = false;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = context.pods_changed.notified() => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
        let milli = allocatable(&context);
        if milli == 0 {
            // The node does not know itself yet.
            continue;
        }
        let active: Vec<_> = agent.views().into_iter().filter(|v| v.seen.may_run()).map(|v| v.pod).collect();
        for (cgroup, shares) in shares(active.iter().map(|p| &**p), milli) {
            let wanted = Resources { cpu_shares: Some(shares), ..Resources::default() };
            let written = context.engine.update(cgroup, &wanted).await;
            if cgroup == ALL_PODS && !enforced {
                enforced = written.is_ok();
                tell(&context, &written);
            }
            match written {
                // There is none before the first pod of the class.
                Ok(()) | Err(EngineError::NotFound(_)) => {}
                Err(error) => tracing::debug!(cgroup, error = %base::chain(&error), "failed to share the processors"),
            }
        }
    }
}

/// Whether all pods together are kept to what the node may give them.
fn tell(context: &Context, written: &Result<(), EngineError>) {
    let (warning, reason, message) = match written {
        Ok(()) => (false, "NodeAllocatableEnforced", "Updated Node Allocatable limit across pods".to_owned()),
        Err(EngineError::NotFound(_)) => return,
        Err(error) => {
            let why = base::chain(error);
            let message = format!("Failed to update Node Allocatable Limits [{ALL_PODS:?}]: {why}");
            (true, "FailedNodeAllocatableEnforcement", message)
        }
    };
    context.cluster.event(ClusterEvent { pod: None, field_path: None, warning, reason, message: &message });
}

/// Thousandths of a CPU.
fn allocatable(context: &Context) -> i64 {
    let cpu = context.allocatable.read().get("cpu").map(|q| q.0.clone());
    cpu.and_then(|q| Quantity::parse(&q).ok()).map_or(0, |q| q.milli_value())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;

    #[test]
    fn burstable_pods_share_what_they_ask_for_together() {
        let of = |resources: &str| pod(&format!(r#"{{"containers":[{{"name":"a","resources":{resources}}}]}}"#));
        let pods = [
            of(r#"{"requests":{"cpu":"250m"}}"#),
            of(r#"{"requests":{"cpu":"750m","memory":"1Mi"},"limits":{"memory":"2Mi"}}"#),
            of(r#"{"limits":{"cpu":"4","memory":"1Gi"}}"#),
            of("{}"),
        ];
        let want = [("kubepods", 8192), ("kubepods/burstable", 1024), ("kubepods/besteffort", 2)];
        assert_eq!(shares(pods.iter(), 8000), want);
        assert_eq!(shares(pods[3..].iter(), 8000)[1], ("kubepods/burstable", 2));
    }
}
