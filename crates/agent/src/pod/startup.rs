//! [`Startup`]: how long a new pod takes to start, for `/metrics` (`pkg/kubelet/util/pod_startup_latency_tracker.go`). Pure.
//!
//! Differs: a pod counts as seen to run when the server has taken that status, not when the watch tells of it again.

use super::view;
use api::k8s::api::core::v1::{Pod, PodStatus};
use jiff::{SignedDuration, Timestamp};

/// How long it took since the pod was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Took {
    /// In all.
    pub(super) total: SignedDuration,
    /// Without pulls and init containers; `None` of a pod with volumes that may have to be waited for (`isStatefulPod`).
    pub(super) sli: Option<SignedDuration>,
}

/// See the file's head.
#[derive(Debug)]
pub(super) struct Startup {
    seen: Timestamp,
    pulling_since: Option<Timestamp>,
    pulled: SignedDuration,
    ran: bool,
    told: bool,
}

impl Startup {
    /// The node sees the pod for the first time. `None` of one that began before the agent did.
    pub(super) fn new(pod: &Pod, now: Timestamp) -> Option<Self> {
        let begun = pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        let new = Startup { seen: now, pulling_since: None, pulled: SignedDuration::ZERO, ran: false, told: false };
        (!begun).then_some(new)
    }

    /// Images are pulled for the pod, or none is any more.
    pub(super) fn pulls(&mut self, under_way: bool, now: Timestamp) {
        match (self.pulling_since, under_way) {
            (None, true) => self.pulling_since = Some(now),
            (Some(since), false) => {
                self.pulled += now.duration_since(since);
                self.pulling_since = None;
            }
            _ => {}
        }
    }

    /// How long the pod took to run since the node saw it, once.
    pub(super) fn runs(&mut self, status: &PodStatus, now: Timestamp) -> Option<SignedDuration> {
        let first = !self.ran && status.phase.as_deref() == Some("Running");
        self.ran |= first;
        first.then(|| now.duration_since(self.seen))
    }

    /// The server knows that all containers of the pod run: how long that took, once.
    pub(super) fn is_known(&mut self, pod: &Pod, now: Timestamp) -> Option<Took> {
        let status = pod.status.as_ref()?;
        let containers = status.container_statuses.as_deref().unwrap_or_default();
        let all_run = containers.iter().all(|c| c.state.as_ref().is_some_and(|s| s.running.is_some()));
        if self.told || containers.is_empty() || !all_run {
            return None;
        }
        self.told = true;
        let total = now.duration_since(pod.metadata.creation_timestamp.as_ref()?.0);
        let in_init: SignedDuration = init_runs(status).sum();
        Some(Took { total, sli: (!waits_for_volumes(pod)).then(|| total - self.pulled - in_init) })
    }
}

/// How long the init containers that are over ran.
fn init_runs(status: &PodStatus) -> impl Iterator<Item = SignedDuration> {
    status.init_container_statuses.iter().flatten().filter_map(|c| {
        let ended = c.state.as_ref()?.terminated.as_ref()?;
        Some(ended.finished_at.as_ref()?.0.duration_since(ended.started_at.as_ref()?.0))
    })
}

fn waits_for_volumes(pod: &Pod) -> bool {
    view::spec(pod).volumes.iter().flatten().any(|v| {
        v.secret.is_none()
            && v.config_map.is_none()
            && v.downward_api.is_none()
            && v.empty_dir.is_none()
            && v.projected.is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::object;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    fn pod(volumes: &str, state: &str) -> Pod {
        let ended =
            r#"{"terminated":{"exitCode":0,"startedAt":"1970-01-01T00:00:20Z","finishedAt":"1970-01-01T00:00:24Z"}}"#;
        let one = |state: &str| {
            format!(r#"[{{"name":"a","image":"","imageID":"","ready":true,"restartCount":0,"state":{state}}}]"#)
        };
        object(&format!(
            r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"name":"p","creationTimestamp":"1970-01-01T00:00:10Z"}},
                "spec":{{"containers":[],"volumes":[{volumes}]}},
                "status":{{"phase":"Running","initContainerStatuses":{},"containerStatuses":{}}}}}"#,
            one(ended),
            one(state)
        ))
    }

    #[test]
    fn a_start_is_told_once_and_without_what_the_node_cannot_help() {
        let running = r#"{"running":{"startedAt":"1970-01-01T00:00:29Z"}}"#;
        let ready = pod(r#"{"name":"e","emptyDir":{}}"#, running);
        let mut startup = Startup::new(&Pod::default(), at(11)).expect("new");
        startup.pulls(true, at(12));
        startup.pulls(true, at(13));
        startup.pulls(false, at(19));
        assert_eq!(startup.runs(&PodStatus::default(), at(20)), None);
        assert_eq!(startup.runs(ready.status.as_ref().expect("one"), at(29)), Some(SignedDuration::from_secs(18)));
        assert_eq!(startup.runs(ready.status.as_ref().expect("one"), at(30)), None);
        assert_eq!(startup.is_known(&pod("", r#"{"waiting":{}}"#), at(29)), None);
        let took = startup.is_known(&ready, at(30)).expect("it runs");
        assert_eq!((took.total.as_secs(), took.sli.map(|s| s.as_secs())), (20, Some(9)));
        assert_eq!(startup.is_known(&ready, at(31)), None);
        let mut other = Startup::new(&Pod::default(), at(11)).expect("new");
        let took = other.is_known(&pod(r#"{"name":"h","hostPath":{"path":"/"}}"#, running), at(30));
        assert_eq!(took.expect("it runs").sli, None);
        let begun: Pod = object(r#"{"metadata":{"name":"p"},"status":{"startTime":"1970-01-01T00:00:20Z"}}"#);
        assert!(Startup::new(&begun, at(1)).is_none());
    }
}
