//! The pod contract as scripts: spec and events in, actions and status out.

use super::script::Script;
use expect_test::{Expect, expect};

fn check_pod(spec: &str, script: &str, want: Expect) {
    want.assert_eq(&Script::new(spec).run(script));
}

/// Nothing is answered by itself.
fn check_slow_pod(spec: &str, script: &str, want: Expect) {
    let mut s = Script::new(spec);
    s.smooth = false;
    want.assert_eq(&s.run(script));
}

const ONE: &str = r#"{"containers":[{"name":"a","image":"nginx"}],"terminationGracePeriodSeconds":30}"#;

#[test]
fn a_pod_starts_and_runs() {
    check_pod(
        ONE,
        "",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
    "#]],
    );
}

#[test]
fn a_crashing_container_is_restarted_with_growing_pauses() {
    check_pod(
        ONE,
        "+1 exit a 1\n+1 exit a 1\n+5\n+5 exit a 2\n+1 exit a 2\n+19\n+1\n+601 exit a 1",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull nginx for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] exit a 1
                  pull nginx for a (IfNotPresent)
                  remove a1
                  start a #1
                  = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  2] exit a 1
                  event Warning BackOff a "Back-off restarting failed container a in pod web_default(1-2-3)"
                  remove a2
                  = Running | a CrashLoopBackOff x1 | PodReadyToStartContainers,Initialized
                  wake at 12
            [  7] (time)
                  wake at 12
            [ 12] exit a 2
                  pull nginx for a (IfNotPresent)
                  start a #2
                  = Running | a running ready x2 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [ 13] exit a 2
                  event Warning BackOff a "Back-off restarting failed container a in pod web_default(1-2-3)"
                  remove a3
                  = Running | a CrashLoopBackOff x2 | PodReadyToStartContainers,Initialized
                  wake at 33
            [ 32] (time)
                  wake at 33
            [ 33] (time)
                  pull nginx for a (IfNotPresent)
                  start a #3
                  = Running | a running ready x3 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [634] exit a 1
                  pull nginx for a (IfNotPresent)
                  remove a4
                  start a #4
                  = Running | a running ready x4 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        "#]],
    );
}

#[test]
fn on_failure_restarts_failures_only() {
    check_pod(
        r#"{"restartPolicy":"OnFailure","containers":[{"name":"a","image":"i"}]}"#,
        "+1 exit a 3\n+1 exit a 0\nstatus-written",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] exit a 3
                  pull i for a (IfNotPresent)
                  remove a1
                  start a #1
                  = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  2] exit a 0
                  stop sandbox s1
                  remove a2
                  unmount volumes
                  = Succeeded | a Completed=0 x1 | Initialized
            [  2] status-written
        "#]],
    );
}

#[test]
fn never_restart_fails_the_pod_when_all_are_done() {
    check_pod(
        r#"{"restartPolicy":"Never","containers":[{"name":"a","image":"i"},{"name":"b","image":"i"}]}"#,
        "+1 exit a 0\n+1 exit b 137 oom\nstatus-written",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  pull i for b (IfNotPresent)
                  start a #0
                  start b #0
                  = Running | a running ready | b running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] exit a 0
                  remove a1
                  = Running | a Completed=0 | b running ready | PodReadyToStartContainers,Initialized
            [  2] exit b 137 oom
                  stop sandbox s1
                  remove b1
                  unmount volumes
                  = Failed | a Completed=0 | b OOMKilled=137 | Initialized
            [  2] status-written
        "#]],
    );
}

#[test]
fn deletion_asks_waits_and_kills() {
    check_pod(
        ONE,
        "+5 delete 30\n+29\n+1\n+1 exit a 137\nstatus-written\ngone",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull nginx for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  5] delete 30
                  event Normal Killing a "Stopping container a"
                  SIGTERM to a1
                  wake at 35
            [ 34] (time)
                  wake at 35
            [ 35] (time)
                  SIGKILL to a1
                  wake at 45
            [ 36] exit a 137
                  stop sandbox s1
                  remove a1
                  unmount volumes
                  = Failed | a Error=137 | Initialized
            [ 36] status-written
                  delete object
            [ 36] gone
                  remove sandbox s1
                  forget
        "#]],
    );
}

#[test]
fn deletion_runs_the_pre_stop_hook_within_the_grace_period() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","lifecycle":{"preStop":{"exec":{"command":["sleep"]}}}}]}"#,
        "+1 delete 10\n+4 pre-stop-done a\n+1 exit a 0",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] delete 10
                  event Normal Killing a "Stopping container a"
                  preStop a1 within 10s
                  wake at 11
            [  5] pre-stop-done a
                  SIGTERM to a1
                  wake at 11
            [  6] exit a 0
                  stop sandbox s1
                  remove a1
                  unmount volumes
                  = Succeeded | a Completed=0 | Initialized
        "#]],
    );
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","lifecycle":{"preStop":{"exec":{"command":["sleep"]}}}}]}"#,
        "+1 delete 10\n+10\n+2",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] delete 10
                  event Normal Killing a "Stopping container a"
                  preStop a1 within 10s
                  wake at 11
            [ 11] (time)
                  SIGTERM to a1
                  wake at 13
            [ 13] (time)
                  SIGKILL to a1
                  wake at 23
        "#]],
    );
}

#[test]
fn a_second_delete_shortens_the_grace() {
    check_pod(
        ONE,
        "+1 delete 30\n+5 delete 1\n+0 exit a 143",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] delete 30
              event Normal Killing a "Stopping container a"
              SIGTERM to a1
              wake at 31
        [  6] delete 1
              SIGKILL to a1
              wake at 16
        [  6] exit a 143
              stop sandbox s1
              remove a1
              unmount volumes
              = Failed | a Error=143 | Initialized
    "#]],
    );
}

#[test]
fn deletion_while_pulling_does_not_wait_for_the_pull() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"bad"}]}"#,
        "+1 delete 30\nstatus-written",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull bad for a (IfNotPresent)
              = Pending | a ContainerCreating | PodReadyToStartContainers,Initialized
        [  1] delete 30
              stop sandbox s1
              unmount volumes
              = Failed | a ContainerStatusUnknown=137 | Initialized
        [  1] status-written
              delete object
    "#]],
    );
}

#[test]
fn force_deleted_pods_are_stopped_and_forgotten() {
    check_pod(
        ONE,
        "+1 gone\n+1\n+29 exit a 137",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] gone
              event Normal Killing a "Stopping container a"
              SIGTERM to a1
              wake at 31
        [  2] (time)
              wake at 31
        [ 31] exit a 137
              stop sandbox s1
              remove a1
              unmount volumes
              remove sandbox s1
              forget
              = Failed | a Error=137 | Initialized
    "#]],
    );
}

#[test]
fn a_failing_pull_backs_off() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"bad:1"}]}"#,
        "+1 pull-failed a not found\n+1\n+9\n+1 pull-failed a not found\n+1\n+19",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull bad:1 for a (IfNotPresent)
                  = Pending | a ContainerCreating | PodReadyToStartContainers,Initialized
            [  1] pull-failed a not found
                  = Pending | a ErrImagePull | PodReadyToStartContainers,Initialized
                  wake at 2
            [  2] (time)
                  event Normal BackOff a "Back-off pulling image "bad:1""
                  event Warning Failed a "Error: ImagePullBackOff"
                  = Pending | a ImagePullBackOff | PodReadyToStartContainers,Initialized
                  wake at 11
            [ 11] (time)
                  pull bad:1 for a (IfNotPresent)
            [ 12] pull-failed a not found
                  = Pending | a ErrImagePull | PodReadyToStartContainers,Initialized
                  wake at 13
            [ 13] (time)
                  event Normal BackOff a "Back-off pulling image "bad:1""
                  event Warning Failed a "Error: ImagePullBackOff"
                  = Pending | a ImagePullBackOff | PodReadyToStartContainers,Initialized
                  wake at 32
            [ 32] (time)
                  pull bad:1 for a (IfNotPresent)
        "#]],
    );
}

#[test]
fn init_containers_run_in_order() {
    check_pod(
        r#"{"initContainers":[{"name":"i1","image":"i"},{"name":"i2","image":"i"}],"containers":[{"name":"a","image":"i"}]}"#,
        "+1 exit i1 0\n+1 exit i2 1\n+1 exit i2 0\n+10",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for i1 (IfNotPresent)
                  start i1 #0
                  = Pending | i1 running | i2 PodInitializing | a PodInitializing | PodReadyToStartContainers
            [  1] exit i1 0
                  pull i for i2 (IfNotPresent)
                  remove i11
                  start i2 #0
                  = Pending | i1 Completed=0 ready | i2 running | a PodInitializing | PodReadyToStartContainers
            [  2] exit i2 1
                  pull i for i2 (IfNotPresent)
                  remove i21
                  start i2 #1
                  = Pending | i1 Completed=0 ready | i2 running x1 | a PodInitializing | PodReadyToStartContainers
            [  3] exit i2 0
                  pull i for a (IfNotPresent)
                  remove i22
                  start a #0
                  = Running | i1 Completed=0 ready | i2 Completed=0 ready x1 | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [ 13] (time)
        "#]],
    );
}

#[test]
fn a_failed_init_container_fails_a_never_restarting_pod() {
    check_pod(
        r#"{"restartPolicy":"Never","initContainers":[{"name":"i1","image":"i"}],"containers":[{"name":"a","image":"i"}]}"#,
        "+1 exit i1 2\nstatus-written",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for i1 (IfNotPresent)
                  start i1 #0
                  = Pending | i1 running | a PodInitializing | PodReadyToStartContainers
            [  1] exit i1 2
                  stop sandbox s1
                  remove i11
                  unmount volumes
                  = Failed | i1 Error=2 | a PodInitializing | 
            [  1] status-written
        "#]],
    );
}

#[test]
fn sidecars_start_before_and_stop_after_the_app() {
    check_pod(
        r#"{"restartPolicy":"Never","initContainers":[
             {"name":"s1","image":"i","restartPolicy":"Always","startupProbe":{"exec":{"command":["x"]},"periodSeconds":1}},
             {"name":"s2","image":"i","restartPolicy":"Always"}],
            "containers":[{"name":"a","image":"i"}]}"#,
        "+1 probe s1 startup ok\n+1 exit s2 1\n+1 exit a 0\n+1 exit s2 0\n+1 exit s1 0\nstatus-written",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for s1 (IfNotPresent)
                  start s1 #0
                  probe s11 Startup
                  = Pending | s1 running | s2 PodInitializing | a PodInitializing | PodReadyToStartContainers
            [  1] probe s1 startup ok
                  pull i for s2 (IfNotPresent)
                  start s2 #0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | s1 running ready | s2 running ready | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  2] exit s2 1
                  pull i for s2 (IfNotPresent)
                  remove s21
                  start s2 #1
                  = Running | s1 running ready | s2 running ready x1 | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  3] exit a 0
                  event Normal Killing s1 "Stopping container s1"
                  event Normal Killing s2 "Stopping container s2"
                  SIGTERM to s22
                  remove a1
                  = Running | s1 running ready | s2 running ready x1 | a Completed=0 | PodReadyToStartContainers,Initialized
                  wake at 33
            [  4] exit s2 0
                  SIGTERM to s11
                  remove s22
                  = Running | s1 running ready | s2 Completed=0 x1 | a Completed=0 | PodReadyToStartContainers,Initialized
                  wake at 33
            [  5] exit s1 0
                  stop sandbox s1
                  remove s11
                  unmount volumes
                  = Succeeded | s1 Completed=0 | s2 Completed=0 x1 | a Completed=0 | Initialized
            [  5] status-written
        "#]],
    );
}

#[test]
fn a_failing_liveness_probe_restarts_the_container() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","livenessProbe":{"exec":{"command":["x"]},"periodSeconds":5,
            "failureThreshold":2,"terminationGracePeriodSeconds":3}}],"terminationGracePeriodSeconds":30}"#,
        "+0 probe a liveness fail\n+5\n+0 probe a liveness fail\n+3\n+0 exit a 137",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  probe a1 Liveness
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  0] probe a liveness fail
                  wake at 5
            [  5] (time)
                  probe a1 Liveness
            [  5] probe a liveness fail
                  event Normal Killing a "Container a failed liveness probe, will be restarted"
                  SIGTERM to a1
                  wake at 8
            [  8] (time)
                  SIGKILL to a1
                  wake at 18
            [  8] exit a 137
                  pull i for a (IfNotPresent)
                  remove a1
                  start a #1
                  probe a2 Liveness
                  = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        "#]],
    );
}

#[test]
fn restarts_by_a_probe_wait_from_the_fourth_on() {
    let life = "+15 probe a liveness fail\n+0 exit a 137\n";
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","livenessProbe":{"exec":{"command":["x"]},"initialDelaySeconds":14,
            "periodSeconds":100,"failureThreshold":1}}],"terminationGracePeriodSeconds":30}"#,
        &format!("{}+5\n+15", life.repeat(4)),
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 14
            [ 15] probe a liveness fail
                  event Normal Killing a "Container a failed liveness probe, will be restarted"
                  SIGTERM to a1
                  wake at 45
            [ 15] exit a 137
                  pull i for a (IfNotPresent)
                  remove a1
                  start a #1
                  = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 29
            [ 30] probe a liveness fail
                  event Normal Killing a "Container a failed liveness probe, will be restarted"
                  SIGTERM to a2
                  wake at 60
            [ 30] exit a 137
                  pull i for a (IfNotPresent)
                  remove a2
                  start a #2
                  = Running | a running ready x2 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 44
            [ 45] probe a liveness fail
                  event Normal Killing a "Container a failed liveness probe, will be restarted"
                  SIGTERM to a3
                  wake at 75
            [ 45] exit a 137
                  pull i for a (IfNotPresent)
                  remove a3
                  start a #3
                  = Running | a running ready x3 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 59
            [ 60] probe a liveness fail
                  event Normal Killing a "Container a failed liveness probe, will be restarted"
                  SIGTERM to a4
                  wake at 90
            [ 60] exit a 137
                  event Warning BackOff a "Back-off restarting failed container a in pod web_default(1-2-3)"
                  remove a4
                  = Running | a CrashLoopBackOff x3 | PodReadyToStartContainers,Initialized
                  wake at 80
            [ 65] (time)
                  wake at 80
            [ 80] (time)
                  pull i for a (IfNotPresent)
                  start a #4
                  = Running | a running ready x4 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 94
        "#]],
    );
}

#[test]
fn startup_gates_the_other_probes_and_readiness_makes_ready() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i",
            "startupProbe":{"exec":{"command":["x"]},"periodSeconds":2,"failureThreshold":3,"initialDelaySeconds":1},
            "readinessProbe":{"exec":{"command":["x"]},"periodSeconds":4,"successThreshold":1,"failureThreshold":1}}]}"#,
        "+1\n+0 probe a startup fail\n+2\n+0 probe a startup ok\n+0 probe a readiness ok\n+4\n+0 probe a readiness fail",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running | PodReadyToStartContainers,Initialized
                  wake at 1
            [  1] (time)
                  probe a1 Startup
            [  1] probe a startup fail
                  wake at 3
            [  3] (time)
                  probe a1 Startup
            [  3] probe a startup ok
                  probe a1 Readiness
            [  3] probe a readiness ok
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 7
            [  7] (time)
                  probe a1 Readiness
            [  7] probe a readiness fail
                  = Running | a running | PodReadyToStartContainers,Initialized
                  wake at 11
        "#]],
    );
}

#[test]
fn who_is_not_ready_yet_is_asked_again_soon_and_then_every_period() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","readinessProbe":{"exec":{"command":["x"]},"periodSeconds":3}}]}"#,
        "+0 probe a readiness fail\n+1\n+0 probe a readiness fail\n+1\n+0 probe a readiness fail\n+2\n+0 probe a readiness fail\n+3\n+0 probe a readiness ok",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  probe a1 Readiness
                  = Running | a running | PodReadyToStartContainers,Initialized
            [  0] probe a readiness fail
                  wake at 0
            [  1] (time)
                  probe a1 Readiness
            [  1] probe a readiness fail
                  wake at 2
            [  2] (time)
                  probe a1 Readiness
            [  2] probe a readiness fail
                  wake at 4
            [  4] (time)
                  probe a1 Readiness
            [  4] probe a readiness fail
                  wake at 7
            [  7] (time)
                  probe a1 Readiness
            [  7] probe a readiness ok
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 10
        "#]],
    );
}

#[test]
fn the_post_start_hook_delays_the_next_container_and_its_failure_kills() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","lifecycle":{"postStart":{"exec":{"command":["x"]}}}},{"name":"b","image":"i"}]}"#,
        "+1 post-start-failed a\n+1 exit a 137",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  pull i for b (IfNotPresent)
                  start a #0
                  = Pending | a running | b ContainerCreating | PodReadyToStartContainers,Initialized
            [  1] post-start-failed a
                  event Normal Killing a "FailedPostStartHook"
                  start b #0
                  SIGTERM to a1
                  = Running | a running | b running ready | PodReadyToStartContainers,Initialized
                  wake at 31
            [  2] exit a 137
                  pull i for a (IfNotPresent)
                  remove a1
                  start a #1
                  = Running | a running x1 | b running ready | PodReadyToStartContainers,Initialized
        "#]],
    );
}

#[test]
fn active_deadline_fails_the_pod() {
    check_pod(
        r#"{"activeDeadlineSeconds":10,"terminationGracePeriodSeconds":5,"containers":[{"name":"a","image":"i"}]}"#,
        "+9\n+1\n+1 exit a 143\nstatus-written",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
                  wake at 10
            [  9] (time)
                  wake at 10
            [ 10] (time)
                  event Normal DeadlineExceeded "Pod was active on the node longer than the specified deadline"
                  event Normal Killing a "Stopping container a"
                  SIGTERM to a1
                  = Running | a running ready | PodReadyToStartContainers,Initialized
                  wake at 15
            [ 11] exit a 143
                  stop sandbox s1
                  remove a1
                  unmount volumes
                  = Failed(DeadlineExceeded) | a Error=143 | Initialized
            [ 11] status-written
        "#]],
    );
}

#[test]
fn a_new_image_restarts_the_container() {
    check_pod(
        ONE,
        "+1 image a nginx:2\n+1 exit a 0",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] image a nginx:2
              event Normal Killing a "Container a definition changed, will be restarted"
              SIGTERM to a1
              wake at 31
        [  2] exit a 0
              pull nginx:2 for a (IfNotPresent)
              remove a1
              start a #1
              = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
    "#]],
    );
}

#[test]
fn a_lost_sandbox_is_replaced_and_init_runs_again() {
    check_pod(
        r#"{"initContainers":[{"name":"i1","image":"i"}],"containers":[{"name":"a","image":"i"}]}"#,
        "+1 exit i1 0\n+5 sandbox-lost\n+1 exit i1 0",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for i1 (IfNotPresent)
                  start i1 #0
                  = Pending | i1 running | a PodInitializing | PodReadyToStartContainers
            [  1] exit i1 0
                  pull i for a (IfNotPresent)
                  remove i11
                  start a #0
                  = Running | i1 Completed=0 ready | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  6] sandbox-lost
                  event Normal SandboxChanged "Pod sandbox changed, it will be killed and re-created."
                  remove sandbox s1
                  remove a1
                  create sandbox 1
                  pull i for i1 (IfNotPresent)
                  start i1 #1
                  = Pending | i1 running x1 | a ContainerStatusUnknown=137 | PodReadyToStartContainers,Initialized
            [  7] exit i1 0
                  pull i for a (IfNotPresent)
                  remove i12
                  start a #1
                  = Running | i1 Completed=0 ready x1 | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        "#]],
    );
}

#[test]
fn config_errors_wait_for_the_missing_object() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"odd"}]}"#,
        "+1 start-failed a configmap \"x\" not found\n+3 references-changed",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull odd for a (IfNotPresent)
                  start a #0
                  = Pending | a ContainerCreating | PodReadyToStartContainers,Initialized
            [  1] start-failed a configmap "x" not found
                  = Pending | a CreateContainerConfigError | PodReadyToStartContainers,Initialized
                  wake at 11
            [  4] references-changed
                  pull odd for a (IfNotPresent)
                  start a #0
        "#]],
    );
}

#[test]
fn a_command_that_cannot_run_crash_loops() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"odd"}]}"#,
        "+1 run-failed a exec: \"nope\": executable file not found in $PATH",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull odd for a (IfNotPresent)
                  start a #0
                  = Pending | a ContainerCreating | PodReadyToStartContainers,Initialized
            [  1] run-failed a exec: "nope": executable file not found in $PATH
                  pull odd for a (IfNotPresent)
                  start a #1
                  = Running | a RunContainerError | PodReadyToStartContainers,Initialized
        "#]],
    );
}

#[test]
fn nothing_starts_before_volumes_and_sandbox() {
    check_slow_pod(
        ONE,
        "+1 mount-failed\n+1\nmounted\n+1 sandbox-failed\n+10\nsandbox",
        expect![[r#"
        [  0] bound
              mount volumes
              = Pending | a ContainerCreating | Initialized
        [  1] mount-failed
              wake at 1
        [  2] (time)
              mount volumes
        [  2] mounted
              create sandbox 0
        [  3] sandbox-failed
              wake at 13
        [ 13] (time)
              create sandbox 1
        [ 13] sandbox
              pull nginx for a (IfNotPresent)
              = Pending | a ContainerCreating | PodReadyToStartContainers,Initialized
    "#]],
    );
}

#[test]
fn a_restarted_agent_disturbs_nothing() {
    check_pod(
        ONE,
        "+5 restart-agent\n+1 exit a 0",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  5] restart-agent
              mount volumes
        [  6] exit a 0
              pull nginx for a (IfNotPresent)
              remove a1
              start a #1
              = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
    "#]],
    );
}

#[test]
fn the_same_question_gets_no_second_action() {
    let mut s = Script::new(ONE);
    s.smooth = false;
    let at = jiff::Timestamp::from_second(5).expect("small");
    let first = super::plan::plan(&s.pod, &s.seen, at);
    assert!(!first.actions.is_empty());
    assert_eq!(super::plan::plan(&s.pod, &first.seen, at).actions, []);
}

#[test]
fn a_resize_is_asked_for_granted_and_done() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","resources":{"requests":{"cpu":"1"}}},
            {"name":"b","image":"i","resizePolicy":[{"resourceName":"cpu","restartPolicy":"RestartContainer"}]}]}"#,
        "+1 cpu a 2\n+1 cpu b 1\nexit b 143\n+10",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  pull i for b (IfNotPresent)
                  start a #0
                  start b #0
                  = Running | a running ready | b running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] cpu a 2
                  ask for resources
                  resize a1,b1
                  event Normal ResizeCompleted "Pod resize completed: {"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}},{"name":"b","resources":{}}],"generation":2}"
            [  2] cpu b 1
                  ask for resources
                  event Normal Killing b "Container b resize requires restart"
                  resize a1
                  SIGTERM to b1
                  = Running | a running ready | b running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodResizeInProgress
                  wake at 32
            [  2] exit b 143
                  event Normal ResizeCompleted "Pod resize completed: {"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}},{"name":"b","resources":{"requests":{"cpu":"1"}}}],"generation":3}"
                  pull i for b (IfNotPresent)
                  remove b1
                  start b #1
                  = Running | a running ready | b running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [ 12] (time)
        "#]],
    );
}

#[test]
fn a_resize_waits_for_room_and_for_memory() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"i","resources":{"requests":{"cpu":"1"}}}]}"#,
        "node full\n+1 cpu a 2\n+1\nnode roomy\nnode tight\n+1 cpu a 3\n+1\nnode roomy\n+9",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  0] node full
            [  1] cpu a 2
                  ask for resources
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodResizePending
            [  2] (time)
            [  2] node roomy
                  ask for resources
                  resize a1
                  event Normal ResizeCompleted "Pod resize completed: {"containers":[{"name":"a","resources":{"requests":{"cpu":"2"}}}],"generation":2}"
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  2] node tight
            [  3] cpu a 3
                  ask for resources
                  resize a1
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady,PodResizeInProgress
                  wake at 13
            [  4] (time)
                  wake at 13
            [  4] node roomy
                  wake at 13
            [ 13] (time)
                  resize a1
                  event Normal ResizeCompleted "Pod resize completed: {"containers":[{"name":"a","resources":{"requests":{"cpu":"3"}}}],"generation":3}"
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        "#]],
    );
}

#[test]
fn an_evicted_pod_gets_a_second_and_says_why() {
    check_pod(
        ONE,
        "+1 evict\n+1\n+1 exit a 143\nstatus-written",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] evict
              event Normal Killing a "Stopping container a"
              SIGTERM to a1
              = Running | a running ready | DisruptionTarget,PodReadyToStartContainers,Initialized
              wake at 3
        [  2] (time)
              wake at 3
        [  3] exit a 143
              stop sandbox s1
              remove a1
              unmount volumes
              = Failed(Evicted) | a Error=143 | DisruptionTarget,Initialized
        [  3] status-written
    "#]],
    );
}

#[test]
fn a_pod_that_takes_more_than_it_may_is_not_disrupted() {
    check_pod(
        ONE,
        "+1 evict for-itself\n+1 exit a 143",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] evict for-itself
              event Normal Killing a "Stopping container a"
              SIGTERM to a1
              = Running | a running ready | PodReadyToStartContainers,Initialized
              wake at 3
        [  2] exit a 143
              stop sandbox s1
              remove a1
              unmount volumes
              = Failed(Evicted) | a Error=143 | Initialized
    "#]],
    );
}

#[test]
fn hooks_are_begun_though_there_is_no_time() {
    check_pod(
        r#"{"containers":[{"name":"a","image":"nginx","lifecycle":{"preStop":{"sleep":{"seconds":5}}}}]}"#,
        "+1 delete 0\n+1\n+1 exit a 0",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull nginx for a (IfNotPresent)
                  start a #0
                  = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] delete 0
                  event Normal Killing a "Stopping container a"
                  preStop a1 within 1s
                  wake at 2
            [  2] (time)
                  SIGTERM to a1
                  wake at 4
            [  3] exit a 0
                  stop sandbox s1
                  remove a1
                  unmount volumes
                  = Succeeded | a Completed=0 | Initialized
        "#]],
    );
}

const RESTARTS_ALL: &str = r#"{"restartPolicy":"Never","initContainers":[{"name":"init","image":"i"},
    {"name":"side","image":"i","restartPolicy":"Always"}],"containers":[{"name":"a","image":"i","restartPolicy":"Never",
    "restartPolicyRules":[{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}}]},
    {"name":"b","image":"i"}]}"#;

#[test]
fn a_rule_restarts_all_containers() {
    check_pod(
        RESTARTS_ALL,
        "+1 exit init 0\nstatus-written\n+5 exit a 42\n+1 exit b 143\n+1 exit side 143\n+1 exit init 0",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull i for init (IfNotPresent)
              start init #0
              = Pending | init running | side PodInitializing | a PodInitializing | b PodInitializing | PodReadyToStartContainers
        [  1] exit init 0
              pull i for side (IfNotPresent)
              remove init1
              start side #0
              pull i for a (IfNotPresent)
              pull i for b (IfNotPresent)
              start a #0
              start b #0
              = Running | init Completed=0 ready | side running ready | a running ready | b running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] status-written
        [  6] exit a 42
              event Normal Killing b "killing"
              SIGTERM to b1
              remove a1
              = Running | init Completed=0 ready | side running ready | a Error=42 | b running ready | PodReadyToStartContainers,Initialized,AllContainersRestarting
              wake at 8
        [  7] exit b 143
              event Normal Killing side "killing"
              SIGTERM to side1
              remove b1
              = Running | init Completed=0 ready | side running ready | a Error=42 | b Error=143 | PodReadyToStartContainers,Initialized,AllContainersRestarting
              wake at 9
        [  8] exit side 143
              pull i for init (IfNotPresent)
              remove side1
              start init #1
              = Pending | init running x1 | side RestartingAllContainers x1 | a RestartingAllContainers x1 | b RestartingAllContainers x1 | PodReadyToStartContainers,Initialized
        [  9] exit init 0
              pull i for side (IfNotPresent)
              remove init2
              start side #1
              pull i for a (IfNotPresent)
              pull i for b (IfNotPresent)
              start a #1
              start b #1
              = Running | init Completed=0 ready x1 | side running ready x1 | a running ready x1 | b running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
    "#]],
    );
}

#[test]
fn all_containers_are_not_restarted_more_than_once_a_second() {
    let spec = r#"{"containers":[{"name":"a","image":"i","restartPolicy":"Never",
        "restartPolicyRules":[{"action":"RestartAllContainers","exitCodes":{"operator":"In","values":[42]}}]}]}"#;
    check_pod(
        spec,
        "exit a 42\n+1",
        expect![[r#"
        [  0] bound
              mount volumes
              create sandbox 0
              pull i for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  0] exit a 42
              remove a1
              = Running | a Error=42 | PodReadyToStartContainers,Initialized,AllContainersRestarting
              wake at 1
        [  1] (time)
              pull i for a (IfNotPresent)
              start a #1
              = Running | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
    "#]],
    );
}

#[test]
fn a_sidecars_rule_restarts_all_containers_even_those_that_do_not_heed_term() {
    let spec = r#"{"restartPolicy":"Never","initContainers":[{"name":"init","image":"i"},{"name":"side","image":"i","restartPolicy":"Always"},
        {"name":"source","image":"i","restartPolicy":"Always","restartPolicyRules":[{"action":"RestartAllContainers",
        "exitCodes":{"operator":"In","values":[42]}}]}],"containers":[{"name":"a","image":"i"}]}"#;
    check_pod(
        spec,
        "+1 exit init 0\nstatus-written\n+30 exit source 42\n+2\nexit a 137\n+2\n+1 exit side 137\n+1 exit init 0",
        expect![[r#"
            [  0] bound
                  mount volumes
                  create sandbox 0
                  pull i for init (IfNotPresent)
                  start init #0
                  = Pending | init running | side PodInitializing | source PodInitializing | a PodInitializing | PodReadyToStartContainers
            [  1] exit init 0
                  pull i for side (IfNotPresent)
                  remove init1
                  start side #0
                  pull i for source (IfNotPresent)
                  start source #0
                  pull i for a (IfNotPresent)
                  start a #0
                  = Running | init Completed=0 ready | side running ready | source running ready | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
            [  1] status-written
            [ 31] exit source 42
                  event Normal Killing a "killing"
                  SIGTERM to a1
                  remove source1
                  = Running | init Completed=0 ready | side running ready | source Error=42 | a running ready | PodReadyToStartContainers,Initialized,AllContainersRestarting
                  wake at 33
            [ 33] (time)
                  SIGKILL to a1
                  wake at 43
            [ 33] exit a 137
                  event Normal Killing side "killing"
                  SIGTERM to side1
                  remove a1
                  = Running | init Completed=0 ready | side running ready | source Error=42 | a Error=137 | PodReadyToStartContainers,Initialized,AllContainersRestarting
                  wake at 35
            [ 35] (time)
                  SIGKILL to side1
                  wake at 45
            [ 36] exit side 137
                  pull i for init (IfNotPresent)
                  remove side1
                  start init #1
                  = Pending | init running x1 | side RestartingAllContainers x1 | source RestartingAllContainers x1 | a RestartingAllContainers x1 | PodReadyToStartContainers,Initialized
            [ 37] exit init 0
                  pull i for side (IfNotPresent)
                  remove init2
                  start side #1
                  pull i for source (IfNotPresent)
                  start source #1
                  pull i for a (IfNotPresent)
                  start a #1
                  = Running | init Completed=0 ready x1 | side running ready x1 | source running ready x1 | a running ready x1 | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        "#]],
    );
}

const CLAIM: &str = r#"{"containers":[{"name":"a","image":"nginx"}],"resourceClaims":[{"name":"c","resourceClaimName":"gpu"}],"terminationGracePeriodSeconds":0}"#;

#[test]
fn claims_are_prepared_before_the_sandbox_and_undone_after_it() {
    check_pod(
        CLAIM,
        "+1 status-written\n+1 delete 0\nexit a 0\nstatus-written\n+1 gone",
        expect![[r#"
        [  0] bound
              mount volumes
              prepare claims
              create sandbox 0
              pull nginx for a (IfNotPresent)
              start a #0
              = Running | a running ready | PodReadyToStartContainers,Initialized,Ready,ContainersReady
        [  1] status-written
        [  2] delete 0
              event Normal Killing a "Stopping container a"
              SIGTERM to a1
              wake at 4
        [  2] exit a 0
              stop sandbox s1
              remove a1
              undo claims
              unmount volumes
              = Succeeded | a Completed=0 | Initialized
        [  2] status-written
              delete object
        [  3] gone
              remove sandbox s1
              forget
    "#]],
    );
}

#[test]
fn claims_are_prepared_again_after_failures_and_restarts() {
    check_slow_pod(
        CLAIM,
        "mounted\nprepare-failed\n+10 prepare-failed\n+1 restart-agent\nmounted\nprepared\nsandbox-failed\n+1 restart-agent\nmounted\nprepared\nsandbox",
        expect![[r#"
            [  0] bound
                  mount volumes
                  = Pending | a ContainerCreating | Initialized
            [  0] mounted
                  prepare claims
            [  0] prepare-failed
                  wake at 10
            [ 10] prepare-failed
                  wake at 20
            [ 11] restart-agent
                  mount volumes
            [ 11] mounted
                  prepare claims
            [ 11] prepared
                  create sandbox 0
            [ 11] sandbox-failed
                  wake at 21
            [ 12] restart-agent
                  mount volumes
            [ 12] mounted
                  prepare claims
            [ 12] prepared
                  create sandbox 1
            [ 12] sandbox
                  pull nginx for a (IfNotPresent)
                  = Pending | a ContainerCreating | PodReadyToStartContainers,Initialized
        "#]],
    );
}
