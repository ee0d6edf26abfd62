//! After a restart of the agent: the checkpoint and the engine's snapshot become what is known again. Pure.
//!
//! Static facts of a run travel as labels of its container, so a start that was under way when the agent died is adopted
//! even if no checkpoint tells of it.

use super::observe::{ExitFacts, Observation, observe, unknown_exit};
use super::seen::{Doing, Pause, PostStart, Running, Sandbox, Seen};
use crate::engine::{ContainerSnapshot, EngineExit, SandboxSnapshot};
use api::k8s::api::core::v1::Pod;
use jiff::Timestamp;
use std::collections::BTreeMap;

const NAME: &str = "name";
const IMAGE: &str = "image";
const IMAGE_ID: &str = "image-id";
const DEFINITION: &str = "definition";
const STOP_SIGNAL: &str = "stop-signal";
const RESTARTS: &str = "restarts";
const USER: &str = "user";

/// The labels of a run.
pub fn labels(container: &str, restarts: u32, run: &Running) -> BTreeMap<String, String> {
    [
        (NAME, container.to_owned()),
        (RESTARTS, restarts.to_string()),
        (IMAGE, run.image.clone()),
        (IMAGE_ID, run.image_id.clone()),
        (DEFINITION, run.definition.clone()),
        (STOP_SIGNAL, run.stop_signal.clone()),
        (USER, serde_json::to_string(&run.user).unwrap_or_default()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into()
}

fn from_labels(snapshot: &ContainerSnapshot) -> Option<(String, Running)> {
    let label = |key: &str| snapshot.labels.get(key).cloned().unwrap_or_default();
    let name = snapshot.labels.get(NAME)?.clone();
    let run = Running {
        id: snapshot.id.clone(),
        image: label(IMAGE),
        image_id: label(IMAGE_ID),
        definition: label(DEFINITION),
        started_at: snapshot.started_at?,
        stop_signal: label(STOP_SIGNAL),
        post_start: PostStart::Done,
        stop: None,
        // Filled in from the checkpoint.
        resources: Default::default(),
        // Containers of an earlier version do not tell.
        user: serde_json::from_str(&label(USER)).unwrap_or_default(),
    };
    Some((name, run))
}

/// How the engine's word for an end becomes ours.
pub fn exit_facts(exit: &EngineExit, message: String) -> ExitFacts {
    let (reason, message) = if exit.lost {
        let message = "The container ended while nobody watched it, and nothing tells how";
        (Some("ContainerStatusUnknown".into()), message.into())
    } else {
        (None, message)
    };
    ExitFacts { code: exit.code, oom: exit.oom, reason, message, finished_at: exit.finished_at }
}

/// What is known again. `message` reads the termination message of a run, given container name and `restartCount`.
pub fn recover(
    pod: &Pod,
    kept: Seen,
    snapshot: Option<&SandboxSnapshot>,
    message: impl Fn(&str, u32, &EngineExit) -> String,
    now: Timestamp,
) -> Seen {
    let starting: Vec<String> =
        kept.containers.iter().filter(|(_, c)| c.doing == Doing::Starting).map(|(n, _)| n.clone()).collect();
    let mut seen = kept.recovered();
    let Sandbox::Ready { id } = seen.sandbox.clone() else { return seen };
    let Some(snapshot) = snapshot.filter(|s| s.alive && s.id == id) else {
        // The machine was rebooted, or everything stopped: what ran did not crash, and a kubelet that starts has no back-off for it.
        for container in seen.containers.values_mut().filter(|c| c.running().is_some()) {
            container.crash = Pause::default();
        }
        observe(pod, &mut seen, Observation::SandboxLost, now);
        return seen;
    };
    for found in &snapshot.containers {
        let Some((name, running)) = from_labels(found) else { continue };
        if starting.contains(&name) && seen.container(&name).is_none_or(|c| c.running().is_none()) {
            let resources = seen.allocated.as_ref().map(|a| a.of(&name)).unwrap_or_default();
            let running = Box::new(Running { resources, ..running });
            observe(pod, &mut seen, Observation::Started { container: name, running }, now);
        }
    }
    let runs: Vec<(String, u32, String)> = seen
        .containers
        .iter()
        .filter_map(|(name, c)| Some((name.clone(), c.restarts, c.running()?.id.clone())))
        .collect();
    for (name, restarts, id) in runs {
        let how = match snapshot.containers.iter().find(|c| c.id == id) {
            Some(ContainerSnapshot { exit: None, .. }) => continue,
            Some(ContainerSnapshot { exit: Some(exit), .. }) => exit_facts(exit, message(&name, restarts, exit)),
            None => unknown_exit(now),
        };
        observe(pod, &mut seen, Observation::Exited { id, how }, now);
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::fixture::pod;
    use crate::pod::seen::{ContainerSeen, Run};

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(s).expect("small")
    }

    fn running(id: &str) -> Running {
        Running {
            id: id.into(),
            image: "i".into(),
            image_id: "sha256:i".into(),
            definition: "a@i".into(),
            started_at: at(10),
            stop_signal: "SIGTERM".into(),
            post_start: PostStart::Done,
            stop: None,
            resources: Default::default(),
            user: None,
        }
    }

    fn snapshot(containers: Vec<ContainerSnapshot>) -> SandboxSnapshot {
        SandboxSnapshot {
            id: "s".into(),
            namespace: "default".into(),
            name: "web".into(),
            uid: "1-2-3".into(),
            attempt: 0,
            alive: true,
            containers,
        }
    }

    fn container(id: &str, exit: Option<EngineExit>) -> ContainerSnapshot {
        ContainerSnapshot { id: id.into(), labels: labels("a", 0, &running(id)), started_at: Some(at(10)), exit }
    }

    fn kept(run: Run, doing: Doing) -> Seen {
        let seen = ContainerSeen { run, doing, ..ContainerSeen::default() };
        Seen {
            sandbox: Sandbox::Ready { id: "s".into() },
            containers: [("a".to_owned(), seen)].into(),
            ..Seen::default()
        }
    }

    fn check(kept: Seen, snapshot: Option<&SandboxSnapshot>, want: &str) {
        let pod = pod(r#"{"containers":[{"name":"a","image":"i"}]}"#);
        let seen = recover(&pod, kept, snapshot, |_, _, _| "last words".into(), at(100));
        let got = match &seen.containers["a"].run {
            Run::None => "none".to_owned(),
            Run::Running(run) => format!("running {}", run.id),
            Run::Exited(exit) => format!("exited {} {}={} {}", exit.id, exit.reason, exit.code, exit.message),
        };
        assert_eq!(format!("{:?}: {got}", seen.sandbox), want);
    }

    #[test]
    fn what_runs_goes_on_and_what_ended_meanwhile_is_known() {
        let exit = EngineExit { code: 3, oom: false, lost: false, finished_at: at(50) };
        let ready = "Ready { id: \"s\" }";
        let runs = || kept(Run::Running(running("c1")), Doing::Nothing);
        check(runs(), Some(&snapshot(vec![container("c1", None)])), &format!("{ready}: running c1"));
        check(
            runs(),
            Some(&snapshot(vec![container("c1", Some(exit.clone()))])),
            &format!("{ready}: exited c1 Error=3 last words"),
        );
        let unknown =
            "exited c1 ContainerStatusUnknown=137 The container could not be located when the pod was terminated";
        check(runs(), Some(&snapshot(vec![])), &format!("{ready}: {unknown}"));
        check(runs(), None, &format!("Lost {{ id: \"s\" }}: {unknown}"));
        // Started, but the agent died before it was told so.
        let starting = || kept(Run::None, Doing::Starting);
        check(starting(), Some(&snapshot(vec![container("c2", None)])), &format!("{ready}: running c2"));
        check(
            starting(),
            Some(&snapshot(vec![container("c2", Some(exit))])),
            &format!("{ready}: exited c2 Error=3 last words"),
        );
        check(starting(), Some(&snapshot(vec![])), &format!("{ready}: none"));
    }

    #[test]
    fn a_reboot_is_no_crash_of_what_ran() {
        let pod = pod(r#"{"containers":[{"name":"a","image":"i"}]}"#);
        let pause = Pause { length: std::time::Duration::from_secs(20), set_at: Some(at(90)), key: "a".into() };
        let after = |run: Run, snapshot: Option<&SandboxSnapshot>| {
            let mut kept = kept(run, Doing::Nothing);
            kept.containers.get_mut("a").expect("there").crash = pause.clone();
            recover(&pod, kept, snapshot, |_, _, _| String::new(), at(100)).containers["a"].crash.clone()
        };
        assert_eq!(after(Run::Running(running("c1")), None), Pause::default());
        // Ended by itself, while only the agent was away, or waiting for its restart already.
        assert_eq!(after(Run::Running(running("c1")), Some(&snapshot(vec![]))), pause);
        assert_eq!(after(Run::None, None), pause);
    }
}
