//! `kubectl get pods` (`printPod` in `pkg/printers/internalversion/printers.go`).

use super::is_sidecar;
use crate::kinds::Column;
use crate::kinds::common::{age, age_column, column, name, name_column, or_none, since, str_of, wide};
use api::Time;
use api::k8s::api::core::v1::{Container, ContainerState, ContainerStateTerminated, ContainerStatus, PodStatus};
use api::prelude::{MetaExt, Pod};
use serde_json::Value;

pub(super) fn columns() -> Vec<Column> {
    vec![
        name_column(),
        column("Ready"),
        column("Status"),
        column("Restarts"),
        age_column(),
        wide("IP"),
        wide("Node"),
        wide("Nominated Node"),
        wide("Readiness Gates"),
    ]
}

pub(super) fn cells(pod: &Pod, now: jiff::Timestamp) -> Vec<Value> {
    let no_status = PodStatus::default();
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = Summary::of(pod, status);
    let restarts = match &summary.last_restart {
        Some(time) if summary.restarts != 0 => format!("{} ({} ago)", summary.restarts, since(Some(time), now)),
        _ => summary.restarts.to_string(),
    };
    let node = pod.spec.as_ref().map(|s| str_of(&s.node_name)).unwrap_or_default();
    let ip = status.pod_ips.iter().flatten().next().map(|ip| ip.ip.clone()).unwrap_or_default();
    vec![
        name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        age(pod, now),
        or_none(ip).into(),
        or_none(node.to_owned()).into(),
        or_none(str_of(&status.nominated_node_name).to_owned()).into(),
        readiness_gates(pod, status).into(),
    ]
}

/// One line about all containers.
struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Time>,
}

/// Restarts and the time of the last one.
#[derive(Default)]
struct Restarts {
    count: i64,
    last: Option<Time>,
}

impl Restarts {
    fn take(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let finished = terminated(container.last_state.as_ref()).and_then(|t| t.finished_at.clone());
        if finished > self.last {
            self.last = finished;
        }
    }
}

fn terminated(state: Option<&ContainerState>) -> Option<&ContainerStateTerminated> {
    state?.terminated.as_ref()
}

fn waiting_reason(container: &ContainerStatus) -> &str {
    let waiting = container.state.as_ref().and_then(|s| s.waiting.as_ref());
    waiting.map(|w| str_of(&w.reason)).unwrap_or_default()
}

fn exit_reason(end: &ContainerStateTerminated) -> String {
    match (str_of(&end.reason), end.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", end.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn has_condition(status: &PodStatus, ty: &str) -> bool {
    status.conditions.iter().flatten().any(|c| c.type_ == ty && c.status == "True")
}

impl Summary {
    fn of(pod: &Pod, status: &PodStatus) -> Summary {
        let spec = pod.spec.as_ref();
        let init = spec.and_then(|s| s.init_containers.as_deref()).unwrap_or_default();
        let sidecars = init.iter().filter(|c| is_sidecar(c)).count();
        let mut summary = Summary {
            reason: first_reason(status),
            ready: 0,
            total: spec.map_or(0, |s| s.containers.len()) + sidecars,
            restarts: 0,
            last_restart: None,
        };
        let (all, of_sidecars, initializing) = summary.init_containers(init, status);
        let mut restarts = all;
        if !initializing || has_condition(status, "Initialized") {
            restarts = of_sidecars;
            summary.containers(status, &mut restarts);
        }
        summary.restarts = restarts.count;
        summary.last_restart = restarts.last;
        if pod.is_deleting() {
            if str_of(&status.reason) == "NodeLost" {
                summary.reason = "Unknown".to_owned();
            } else if !matches!(str_of(&status.phase), "Failed" | "Succeeded") {
                summary.reason = "Terminating".to_owned();
            }
        }
        summary
    }

    /// Walks init containers up to the first that is not done. Returns the restarts of all, those of sidecars, and
    /// whether one is not done.
    fn init_containers(&mut self, init: &[Container], status: &PodStatus) -> (Restarts, Restarts, bool) {
        let (mut all, mut of_sidecars) = (Restarts::default(), Restarts::default());
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            let sidecar = init.iter().any(|c| c.name == container.name && is_sidecar(c));
            all.take(container);
            if sidecar {
                of_sidecars.take(container);
            }
            let end = terminated(container.state.as_ref());
            if end.is_some_and(|e| e.exit_code == 0) {
                continue;
            }
            if sidecar && container.started == Some(true) {
                self.ready += usize::from(container.ready);
                continue;
            }
            let waiting = waiting_reason(container);
            self.reason = match end {
                Some(end) => format!("Init:{}", exit_reason(end)),
                None if !waiting.is_empty() && waiting != "PodInitializing" => format!("Init:{waiting}"),
                None => format!("Init:{i}/{}", init.len()),
            };
            return (all, of_sidecars, true);
        }
        (all, of_sidecars, false)
    }

    fn containers(&mut self, status: &PodStatus, restarts: &mut Restarts) {
        let mut running = false;
        let mut error_reason = String::new();
        for container in status.container_statuses.iter().flatten().rev() {
            restarts.take(container);
            let waiting = waiting_reason(container);
            if !waiting.is_empty() {
                self.reason = waiting.to_owned();
            } else if let Some(end) = terminated(container.state.as_ref()) {
                self.reason = exit_reason(end);
                if end.exit_code != 0 {
                    error_reason = self.reason.clone();
                }
            } else if container.ready && container.state.as_ref().is_some_and(|s| s.running.is_some()) {
                running = true;
                self.ready += 1;
            }
        }
        if self.reason == "Completed" {
            if running && has_condition(status, "Ready") {
                self.reason = "Running".to_owned();
            } else if !error_reason.is_empty() {
                self.reason = error_reason;
            } else if running {
                self.reason = "NotReady".to_owned();
            }
        }
    }
}

fn first_reason(status: &PodStatus) -> String {
    let gated = status
        .conditions
        .iter()
        .flatten()
        .any(|c| c.type_ == "PodScheduled" && c.reason.as_deref() == Some("SchedulingGated"));
    if gated {
        return "SchedulingGated".to_owned();
    }
    let reason = str_of(&status.reason);
    if reason.is_empty() { str_of(&status.phase).to_owned() } else { reason.to_owned() }
}

fn readiness_gates(pod: &Pod, status: &PodStatus) -> String {
    let gates = pod.spec.as_ref().and_then(|s| s.readiness_gates.as_deref()).unwrap_or_default();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = |gate: &str| {
        let condition = status.conditions.iter().flatten().find(|c| c.type_ == gate);
        condition.is_some_and(|c| c.status == "True")
    };
    format!("{}/{}", gates.iter().filter(|g| met(&g.condition_type)).count(), gates.len())
}

/// Only for tests of this file: a pod from JSON.
#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use expect_test::{Expect, expect};

    fn check_row(json: &str, expected: Expect) {
        let pod = Pod::decode(json.as_bytes()).expect("a literal");
        let now = "2024-01-01T01:00:00Z".parse().expect("a literal");
        let row: Vec<String> =
            cells(&pod, now).iter().map(|c| c.as_str().map_or_else(|| c.to_string(), str::to_owned)).collect();
        expected.assert_eq(&row.join(" | "));
    }

    const SPEC: &str = r#""metadata":{"name":"p","creationTimestamp":"2024-01-01T00:00:00Z"},"spec":{"nodeName":"n1","initContainers":[{"name":"i"},{"name":"side","restartPolicy":"Always"}],"containers":[{"name":"a"},{"name":"b"}]}"#;

    fn with_status(status: &str) -> String {
        format!("{{{SPEC},\"status\":{status}}}")
    }

    #[test]
    fn init_containers_show_progress_and_failure() {
        check_row(
            &with_status(r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","state":{"running":{}}}]}"#),
            expect!["p | 0/3 | Init:0/2 | 0 | 60m | <none> | n1 | <none> | <none>"],
        );
        check_row(
            &with_status(
                r#"{"phase":"Pending","initContainerStatuses":[{"name":"i","restartCount":3,"lastState":{"terminated":{"exitCode":1,"finishedAt":"2024-01-01T00:59:00Z"}},"state":{"waiting":{"reason":"CrashLoopBackOff"}}}]}"#,
            ),
            expect!["p | 0/3 | Init:CrashLoopBackOff | 3 (60s ago) | 60m | <none> | n1 | <none> | <none>"],
        );
        check_row(
            &with_status(
                r#"{"phase":"Failed","initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":2}}}]}"#,
            ),
            expect!["p | 0/3 | Init:ExitCode:2 | 0 | 60m | <none> | n1 | <none> | <none>"],
        );
    }

    #[test]
    fn running_completed_and_failed_containers() {
        let init = r#""initContainerStatuses":[{"name":"i","state":{"terminated":{"exitCode":0}}},{"name":"side","started":true,"ready":true,"state":{"running":{}}}]"#;
        let status = |a: &str, b: &str| {
            with_status(&format!(
                r#"{{"phase":"Running","podIPs":[{{"ip":"10.0.0.1"}}],{init},"conditions":[{{"type":"Ready","status":"True"}}],"containerStatuses":[{{"name":"a",{a}}},{{"name":"b",{b}}}]}}"#
            ))
        };
        let up = r#""ready":true,"state":{"running":{}}"#;
        check_row(&status(up, up), expect!["p | 3/3 | Running | 0 | 60m | 10.0.0.1 | n1 | <none> | <none>"]);
        let done = r#""ready":false,"state":{"terminated":{"exitCode":0,"reason":"Completed"}}"#;
        check_row(&status(done, up), expect!["p | 2/3 | Running | 0 | 60m | 10.0.0.1 | n1 | <none> | <none>"]);
        check_row(&status(done, done), expect!["p | 1/3 | Completed | 0 | 60m | 10.0.0.1 | n1 | <none> | <none>"]);
        let error = r#""ready":false,"state":{"terminated":{"exitCode":3,"reason":"Error"}}"#;
        check_row(&status(done, error), expect!["p | 1/3 | Error | 0 | 60m | 10.0.0.1 | n1 | <none> | <none>"]);
        let killed = r#""ready":false,"state":{"terminated":{"exitCode":137,"signal":9}}"#;
        check_row(&status(killed, up), expect!["p | 2/3 | Signal:9 | 0 | 60m | 10.0.0.1 | n1 | <none> | <none>"]);
    }

    #[test]
    fn deletion_and_gates() {
        check_row(
            r#"{"metadata":{"name":"p","deletionTimestamp":"2024-01-01T00:00:00Z"},"spec":{"containers":[{"name":"a"}],"readinessGates":[{"conditionType":"x"},{"conditionType":"y"}]},"status":{"phase":"Running","conditions":[{"type":"x","status":"True"}]}}"#,
            expect!["p | 0/1 | Terminating | 0 | <unknown> | <none> | <none> | <none> | 1/2"],
        );
        check_row(
            r#"{"metadata":{"name":"p"},"spec":{"containers":[{"name":"a"}]},"status":{"phase":"Pending","conditions":[{"type":"PodScheduled","status":"False","reason":"SchedulingGated"}]}}"#,
            expect!["p | 0/1 | SchedulingGated | 0 | <unknown> | <none> | <none> | <none> | <none>"],
        );
    }
}
