//! Real containers on the real kernel, as root: busybox in a directory, the zygote from this crate's small binary.

mod support;

use runtime::{
    Capabilities, Config, ContainerSpec, ContainerState, Engine, EngineError, EngineEvent, Event, ExecSpec, Exit, Hook,
    Hooks, IdRange, Mount, NamespaceMode, PidMode, Pod, PodSandboxSpec, Resources, Seccomp, User,
};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::{Fixture, kill9, read_all, read_until, refusal, timeout, until};
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn a_container_runs_and_its_output_and_exit_code_are_kept() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let (exit, out) = f.run(&pod, f.spec("p", "c", "echo hello; echo oops >&2; hostname; pwd; exit 7")).await;
    assert_eq!((exit.code, exit.signal, exit.oom_killed), (7, None, false));
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["/", "hello", "oops", "podhost"]);
    let log = std::fs::read_to_string(f.log("p", "c")).unwrap();
    assert!(log.contains(" stdout F hello\n") && log.contains(" stderr F oops\n"), "{log}");
    let record = f.dir.path().join("state/pods/p/c/exit.json");
    assert_eq!(serde_json::from_slice::<Exit>(&std::fs::read(record).unwrap()).unwrap(), exit);
    assert!(exit.finished_at_ns > exit.started_at_ns);
    f.engine.remove_container(&pod, "c").await.unwrap();
    assert!(f.engine.snapshot(&pod).await.unwrap().containers.is_empty());
    f.finish(pod).await;
}

#[tokio::test]
async fn what_cannot_start_is_a_sentence_and_leaves_nothing() {
    let f = Fixture::new();
    let pod = f.pod("p").await;
    let try_args = |args: &[&str]| {
        let mut spec = f.spec("p", "c", "");
        spec.process.args = args.iter().map(|a| (*a).to_owned()).collect();
        spec
    };
    for (spec, want) in [
        (try_args(&["/nope"]), r#"exec: "/nope": no such file or directory"#),
        (try_args(&["nope"]), r#"exec: "nope": executable file not found in $PATH"#),
        (try_args(&["/etc/passwd"]), r#"exec: "/etc/passwd": permission denied"#),
        (try_args(&["/etc"]), r#"exec: "/etc": is a directory"#),
        (try_args(&[]), "no command: neither args nor image say what to run"),
        (
            ContainerSpec { mounts: vec![Mount::bind("/no/such/source", "/x")], ..f.spec("p", "c", "true") },
            r#"error mounting "/no/such/source" to rootfs at "/x": failed to open "/no/such/source": no such file or directory"#,
        ),
        (
            {
                let mut spec = f.spec("p", "c", "true");
                spec.process.user = User { name: Some("ghost".into()), ..User::default() };
                spec
            },
            "unable to find user ghost: no matching entries in passwd file",
        ),
        (
            {
                let mut spec = f.spec("p", "c", "true");
                spec.process.seccomp = Seccomp::Custom("{}".into());
                spec
            },
            "seccomp: the profile is not valid: missing field `defaultAction` at line 1 column 2",
        ),
        (
            ContainerSpec { sysctls: [("kernel.panic".into(), "1".into())].into(), ..f.spec("p", "c", "true") },
            r#"sysctl "kernel.panic" is not in a namespace of the pod"#,
        ),
        (ContainerSpec { id: "../x".into(), ..f.spec("p", "c", "true") }, r#"container id "../x" is not valid"#),
    ] {
        assert_eq!(refusal(f.engine.start_container(&pod, &spec).await), want);
    }
    assert!(refusal(f.engine.kill(&pod, "c", 15).await).contains("not found"));
    assert!(f.engine.snapshot(&pod).await.unwrap().containers.is_empty());
    assert!(refusal(f.engine.create_pod(&f.pod_spec("p")).await).contains("exists already"));
    f.finish(pod).await;
}

fn hook(script: &str, timeout_seconds: Option<u32>) -> Hook {
    let args = ["sh", "-c", script].map(String::from).to_vec();
    Hook { path: "/bin/sh".into(), args, env: vec!["WHO=hook".into(), "PATH=/bin:/usr/bin".into()], timeout_seconds }
}

#[tokio::test]
async fn hooks_change_a_container_before_its_program_runs() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let state = f.dir.path().join("state.json");
    let value = |key: &str, file: &str| format!(r#"$(sed 's/.*"{key}":"\([^"]*\)".*/\1/' {file})"#);
    let (bundle, root) = (value("bundle", "$S"), value("path", "$B/config.json"));
    // It finds the root as real ones do, and sees the machine's files beside it.
    let create = format!("S={}; cat > $S; B={bundle}; R={root}; echo made by $WHO > $R/made", state.display());
    let start = "cat > /tmp/state; cat /made > /tmp/again";
    let hooks = Hooks { create_container: vec![hook(&create, Some(20))], start_container: vec![hook(start, None)] };
    let script = "cat /made /tmp/again; grep -o '\"status\":\"[a-z]*\"' /tmp/state; ls /proc | grep -c '^[0-9]'";
    let (exit, out) = f.run(&pod, ContainerSpec { hooks, ..f.spec("p", "c", script) }).await;
    assert_eq!((exit.code, out.as_str()), (0, "made by hook\nmade by hook\n\"status\":\"created\"\n3\n"));
    let state: serde_json::Value = serde_json::from_slice(&std::fs::read(state).unwrap()).unwrap();
    assert_eq!((&state["id"], &state["status"], &state["pid"]), (&"c".into(), &"creating".into(), &1.into()));
    assert!(!Path::new(state["bundle"].as_str().unwrap()).exists(), "it is there while hooks run");
    f.finish(pod).await;
}

#[tokio::test]
async fn a_hook_that_fails_or_takes_too_long_keeps_the_container_from_starting() {
    let f = Fixture::new();
    let pod = f.pod("p").await;
    let creating = |hooks: Vec<Hook>| {
        let hooks = Hooks { create_container: hooks, ..Hooks::default() };
        ContainerSpec { hooks, ..f.spec("p", "c", "true") }
    };
    let nowhere = Hook { path: "/no/such/hook".into(), ..Hook::default() };
    let inside = Hooks { start_container: vec![hook("exit 4", None)], ..Hooks::default() };
    for (spec, want) in [
        (
            creating(vec![hook("true", None), hook("echo no room >&2; exit 3", None)]),
            "error running createContainer hook #1: exit status 3, output: no room",
        ),
        (
            creating(vec![hook("echo waiting; sleep 1000", Some(1))]),
            "error running createContainer hook #0: context deadline exceeded, output: waiting",
        ),
        (
            creating(vec![nowhere]),
            r#"error running createContainer hook #0: "/no/such/hook": no such file or directory"#,
        ),
        (
            ContainerSpec { hooks: inside, ..f.spec("p", "c", "true") },
            "error running startContainer hook #0: exit status 4, output: ",
        ),
    ] {
        assert_eq!(refusal(f.engine.start_container(&pod, &spec).await), want);
    }
    f.finish(pod).await;
}

#[tokio::test]
async fn a_bad_pod_is_refused_and_leaves_nothing() {
    let f = Fixture::new();
    let mut spec = f.pod_spec("bad");
    spec.sysctls = BTreeMap::from([("kernel.panic".to_owned(), "1".to_owned())]);
    assert_eq!(refusal(f.engine.create_pod(&spec).await), r#"sysctl "kernel.panic" is not in a namespace of the pod"#);
    let mut spec = f.pod_spec("good");
    spec.sysctls = BTreeMap::from([("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())]);
    let pod = f.engine.create_pod(&spec).await.unwrap();
    f.finish(pod).await;
}

#[tokio::test]
async fn signals_reach_the_container() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let trap = "trap 'echo got term; exit 5' TERM; echo ready; while :; do sleep 0.01; done";
    f.engine.start_container(&pod, &f.spec("p", "term", trap)).await.unwrap();
    until(|| f.output("p", "term").contains("ready")).await;
    f.engine.kill(&pod, "term", libc::SIGTERM).await.unwrap();
    let (_, exit) = f.exited().await;
    assert_eq!((exit.code, f.output("p", "term").as_str()), (5, "ready\ngot term\n"));
    f.engine.start_container(&pod, &f.spec("p", "kill", "sleep 1000 & sleep 1000")).await.unwrap();
    f.engine.kill(&pod, "kill", libc::SIGKILL).await.unwrap();
    let (_, exit) = f.exited().await;
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    f.finish(pod).await;
}

#[tokio::test]
async fn rights_are_what_the_spec_says() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let status = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t' ' '";
    let (_, out) = f.run(&pod, f.spec("p", "default", status)).await;
    assert_eq!(out, "CapEff: 00000000a80425fb\nCapBnd: 00000000a80425fb\nNoNewPrivs: 0\nSeccomp: 2\n");
    let mut spec = f.spec("p", "user", &format!("{status}; id; pwd; echo $HOME; umask; touch /home/x 2>&1"));
    spec.process.no_new_privileges = true;
    spec.process.umask = Some(0o027);
    spec.process.cwd = "/tmp".into();
    spec.process.user =
        User { name: Some("web".into()), additional_gids: vec![5], merge_image_groups: true, ..User::default() };
    let (_, out) = f.run(&pod, spec).await;
    assert_eq!(
        out,
        "CapEff: 0000000000000000\nCapBnd: 00000000a80425fb\nNoNewPrivs: 1\nSeccomp: 2\n\
         uid=33(web) gid=33(web) groups=5,33(web),77(extra)\n/tmp\n/home/web\n0027\ntouch: /home/x: Permission denied\n"
    );
    let mut spec = f.spec(
        "p",
        "none",
        &format!("{status}; mount -t tmpfs x /tmp 2>&1; mknod /tmp/n c 1 3 2>&1; unshare -m true 2>&1"),
    );
    spec.process.capabilities = Capabilities::default();
    let (_, out) = f.run(&pod, spec).await;
    assert!(out.starts_with("CapEff: 0000000000000000\nCapBnd: 0000000000000000\n"), "{out}");
    assert_eq!(out.matches("not permitted").count() + out.matches("ermission denied").count(), 3, "{out}");
    f.finish(pod).await;
}

#[tokio::test]
async fn the_root_and_the_kernels_files_are_protected() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let cgroup = if f.pure_v2() { "/sys/fs/cgroup/x" } else { "/sys/fs/cgroup/cpu/x" };
    let mut spec = f.spec(
        "p",
        "c",
        &"exec 2>&1; touch /x; echo y > /proc/sys/kernel/hostname; cat /proc/kcore | wc -c; ls /sys/firmware | wc -l; touch /sys/x 2>&1; \
         echo > /dev/null && echo null works; ls /dev | tr '\\n' ' '; echo; ls /sys/fs/cgroup | wc -l; mkdir CGROUP 2>&1; \
         cat /proc/self/mountinfo | wc -l; ls /proc/self/fd | wc -l; echo w > /data/w; cat /file; touch /file 2>&1"
            .replace("CGROUP", cgroup),
    );
    spec.readonly_rootfs = true;
    let volume = f.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("sub")).unwrap();
    let file = f.dir.path().join("file");
    std::fs::write(&file, "content\n").unwrap();
    let mut sub = Mount::bind(&volume, "/data");
    sub.kind = runtime::MountKind::Bind { source: volume.clone(), sub_path: Some("sub".into()), recursive: true };
    spec.mounts.extend([sub, Mount::bind(&file, "/file").read_only()]);
    let (exit, out) = f.run(&pod, spec).await;
    let lines: Vec<&str> = out.lines().collect();
    assert!(out.contains("touch: /x: Read-only file system"), "{out}");
    assert!(out.contains("can't create /proc/sys/kernel/hostname: Read-only file system"), "{out}");
    assert!(out.contains("\n0\n0\ntouch: /sys/x: "), "{out}");
    assert!(
        out.contains("null works\nfd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero "),
        "{out}"
    );
    assert!(out.contains(&format!("mkdir: can't create directory '{cgroup}': Read-only file system")), "{out}");
    assert!(lines.contains(&"4"), "0, 1, 2 and the directory itself: {out}");
    assert!(out.contains("content\ntouch: /file: Read-only file system"), "{out}");
    assert_eq!(std::fs::read_to_string(volume.join("sub/w")).unwrap(), "w\n");
    assert_eq!(exit.code, 1);
    std::os::unix::fs::symlink("/etc", volume.join("evil")).unwrap();
    let mut spec = f.spec("p", "evil", "true");
    let mut evil = Mount::bind(&volume, "/data");
    evil.kind = runtime::MountKind::Bind { source: volume.clone(), sub_path: Some("evil".into()), recursive: true };
    spec.mounts.push(evil);
    let message = refusal(f.engine.start_container(&pod, &spec).await);
    assert!(message.contains("invalid cross-device link"), "{message}");
    f.finish(pod).await;
}

#[tokio::test]
async fn limits_hold() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let mut spec = f.spec("p", "oom", "echo start; dd if=/dev/zero of=/dev/shm/x bs=1M count=64");
    spec.cgroup.resources =
        Resources { memory_limit: Some(16 << 20), memory_swap: Some(16 << 20), ..Resources::default() };
    let (exit, _) = f.run(&pod, spec).await;
    assert!(exit.oom_killed, "{exit:?}");
    let mut spec = f.spec("p", "pids", "for i in 1 2 3 4 5 6 7 8; do sleep 100 & done 2>&1; echo survived");
    spec.cgroup.resources = Resources { pids: Some(4), ..Resources::default() };
    let (_, out) = f.run(&pod, spec).await;
    assert!(out.contains("can't fork"), "{out}");
    let file = if f.pure_v2() { "cpu.max" } else { "cpu/cpu.cfs_quota_us" };
    let mut spec = f.spec("p", "cpu", &format!("read q rest < /sys/fs/cgroup/{file}; echo $q; while :; do :; done"));
    spec.cgroup.resources = Resources {
        cpu_quota_us: Some(10_000),
        cpu_period_us: Some(100_000),
        cpu_shares: Some(512),
        ..Resources::default()
    };
    let path = spec.cgroup.path.clone();
    let started = f.engine.start_container(&pod, &spec).await.unwrap();
    assert_eq!(started.missing_controllers, Vec::<String>::new());
    until(|| f.output("p", "cpu") == "10000\n" && f.engine.stats(&path).cpu_throttled_periods >= 3).await;
    let stats = f.engine.stats(&path);
    assert!(stats.cpu_usage_ns > 0 && stats.pids == 1 && stats.memory_working_set > 0, "{stats:?}");
    f.engine
        .update_resources(
            &path,
            &Resources { cpu_quota_us: Some(20_000), memory_limit: Some(64 << 20), ..Resources::default() },
        )
        .unwrap();
    if f.pure_v2() {
        let root = Path::new("/sys/fs/cgroup").join(path.trim_matches('/'));
        let read = |name: &str| std::fs::read_to_string(root.join(name)).unwrap();
        assert_eq!(["cpu.max", "cpu.weight", "memory.max"].map(read), ["20000 100000\n", "20\n", "67108864\n"]);
        let unified = [("memory.high".to_owned(), "4194304".to_owned())].into();
        let missing = f.engine.update_resources(&path, &Resources { unified, ..Resources::default() }).unwrap();
        assert_eq!((missing.0.len(), read("memory.high").as_str()), (0, "4194304\n"));
    } else {
        // No v1 hierarchy of this machine has it, and in the v2 tree beside them nothing is limited.
        let resources = Resources { hugetlb: [("2MB".into(), 0)].into(), ..Resources::default() };
        assert_eq!(f.engine.update_resources(&path, &resources).unwrap().0, ["hugetlb"]);
    }
    f.engine.kill_all(&pod, "cpu", 9).await.unwrap();
    f.exited().await;
    f.finish(pod).await;
}

/// systemd or a container engine inside hands controllers down to cgroups of its own; then its own cgroup may have no process, and
/// exec must go where the first process is.
#[tokio::test]
async fn exec_finds_a_container_that_has_made_cgroups_of_its_own() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let script = "cd /sys/fs/cgroup; test -d unified && cd unified; mkdir inner && echo 1 > inner/cgroup.procs; \
                  for c in $(cat cgroup.controllers); do echo +$c > cgroup.subtree_control; done; echo ready; sleep 1000";
    let mut spec = f.spec("p", "c", script);
    spec.mounts = Mount::defaults(true);
    spec.cgroup.resources = Resources { pids: Some(100), ..Resources::default() };
    let path = spec.cgroup.path.clone();
    f.engine.start_container(&pod, &spec).await.unwrap();
    until(|| f.output("p", "c").contains("ready")).await;
    let args = ["sh", "-c", "grep ^0:: /proc/self/cgroup; echo done"].map(String::from).to_vec();
    let mut e = f.engine.exec(&pod, "c", ExecSpec { args, ..ExecSpec::default() }, false).await.unwrap();
    let out = read_all(e.streams.stdout.take()).await;
    let expected = if f.pure_v2() { "0::/inner\ndone\n" } else { "done\n" };
    assert!(out.ends_with(expected), "{out}");
    assert_eq!(timeout(e.wait()).await.unwrap(), 0);
    assert!(f.engine.stats(&path).pids > 0, "counted also below");
    f.engine.kill_all(&pod, "c", 9).await.unwrap();
    f.exited().await;
    f.finish(pod).await;
}

#[tokio::test]
async fn devices_outside_the_list_cannot_be_used() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    // kmsg (1:11) may be made, and then not be opened.
    let script = "mknod /dev/kmsg2 c 1 11 && head -c1 /dev/kmsg2 2>&1; head -c1 /dev/zero | wc -c; ls -l /dev/mine | awk '{print $1}'; test -c /dev/mine && echo mine";
    let mut spec = f.spec("p", "c", script);
    spec.devices.push(runtime::Device {
        path: "/dev/mine".into(),
        kind: 'c',
        major: 1,
        minor: 5,
        mode: 0o600,
        access: "rw".into(),
        ..Default::default()
    });
    let (_, out) = f.run(&pod, spec).await;
    assert_eq!(out, "head: /dev/kmsg2: Operation not permitted\n1\ncrw-------\nmine\n");
    f.finish(pod).await;
}

#[tokio::test]
async fn exec_runs_beside_and_attach_follows() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let mut spec = f.spec("p", "c", "echo started; while read line; do echo \"line $line\"; done; echo eof; exit 3");
    (spec.stdin, spec.stdin_once) = (true, true);
    f.engine.start_container(&pod, &spec).await.unwrap();
    let args = |a: &[&str]| ExecSpec { args: a.iter().map(|s| (*s).to_owned()).collect(), ..ExecSpec::default() };
    let mut e = f
        .engine
        .exec(&pod, "c", args(&["sh", "-c", "cat; echo err >&2; ps | wc -l; hostname; exit 9"]), true)
        .await
        .unwrap();
    let mut stdin = e.streams.stdin.take().unwrap();
    stdin.write_all(b"through\n").await.unwrap();
    drop(stdin);
    let out = read_all(e.streams.stdout.take()).await;
    assert_eq!(out.lines().next_back(), Some("podhost"), "{out}");
    assert!(out.starts_with("through\n"), "{out}");
    assert_eq!(read_all(e.streams.stderr.take()).await, "err\n");
    assert_eq!(timeout(e.wait()).await.unwrap(), 9);
    assert_eq!(
        refusal(f.engine.exec(&pod, "c", args(&["nope"]), false).await),
        r#"exec: "nope": executable file not found in $PATH"#
    );
    assert!(refusal(f.engine.exec(&pod, "x", args(&["true"]), false).await).contains("not found"));
    let mut a = f.engine.attach(&pod, "c", true, true, true).await.unwrap();
    let mut stdin = a.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    let mut stdout = a.stdout.take().unwrap();
    assert_eq!(read_until(&mut stdout, "two\n").await, "line one\nline two\n");
    drop(stdin);
    assert_eq!(read_all(Some(stdout)).await, "eof\n");
    let (_, exit) = f.exited().await;
    assert_eq!((exit.code, f.output("p", "c").as_str()), (3, "started\nline one\nline two\neof\n"));
    f.finish(pod).await;
}

#[tokio::test]
async fn a_client_whose_input_ends_leaves_and_the_container_reads_on() {
    let f = Fixture::new();
    let pod = f.pod("p").await;
    let mut spec = f.spec("p", "c", "while read line; do echo \"line $line\"; done; exit 3");
    spec.stdin = true;
    f.engine.start_container(&pod, &spec).await.unwrap();
    for word in ["one", "two"] {
        let mut client = f.engine.attach(&pod, "c", true, true, true).await.unwrap();
        let mut stdin = client.stdin.take().unwrap();
        stdin.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        let mut stdout = client.stdout.take().unwrap();
        let line = format!("line {word}\n");
        assert_eq!(read_until(&mut stdout, &line).await, line);
        drop(stdin);
        assert_eq!(read_all(Some(stdout)).await, "");
        assert_eq!(read_all(client.stderr.take()).await, "");
    }
    assert_eq!(f.output("p", "c"), "line one\nline two\n");
    f.finish(pod).await;
}

#[tokio::test]
async fn terminals_are_the_containers_own() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let mut spec = f.spec("p", "c", "tty; test -c /dev/console && echo console; read x; stty size; exit 4");
    (spec.process.tty, spec.stdin) = (true, true);
    f.engine.start_container(&pod, &spec).await.unwrap();
    until(|| f.output("p", "c").contains("console")).await;
    f.engine.resize(&pod, "c", 80, 25).await.unwrap();
    let mut e = f
        .engine
        .exec(
            &pod,
            "c",
            ExecSpec {
                args: vec!["sh".into(), "-c".into(), "tty; read y; stty size".into()],
                tty: true,
                process: None,
            },
            true,
        )
        .await
        .unwrap();
    let mut stdout = e.streams.stdout.take().unwrap();
    assert_eq!(read_until(&mut stdout, "\n").await, "/dev/pts/1\r\n");
    e.terminal.as_ref().unwrap().resize(100, 30).unwrap();
    e.streams.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    assert!(read_until(&mut stdout, "30 100\r\n").await.ends_with("30 100\r\n"));
    assert_eq!(timeout(e.wait()).await.unwrap(), 0);
    let mut a = f.engine.attach(&pod, "c", true, true, false).await.unwrap();
    a.stdin.as_mut().unwrap().write_all(b"\n").await.unwrap();
    assert!(read_until(a.stdout.as_mut().unwrap(), "25 80").await.contains("25 80"));
    let (_, exit) = f.exited().await;
    assert_eq!(exit.code, 4);
    let out = f.output("p", "c").replace('\r', "");
    assert!(out.starts_with("/dev/pts/0\nconsole\n") && out.ends_with("25 80\n"), "{out}");
    f.finish(pod).await;
}

/// The init of the shared namespace is made for the first container, and has a copy of its descriptors until it has closed them: on a busy machine
/// after the container has ended.
#[tokio::test]
async fn a_container_that_ends_at_once_has_started_in_a_shared_namespace_too() {
    let busy = std::sync::atomic::AtomicBool::new(true);
    let work = || {
        while busy.load(std::sync::atomic::Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    };
    let codes = std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(work);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let codes = std::thread::spawn(move || {
            runtime.block_on(async {
                let mut codes = Vec::new();
                for _ in 0..8 {
                    let mut f = Fixture::new();
                    let pod = f.pod("p").await;
                    let mut spec = f.spec("p", "c", "exit 7");
                    spec.pid = PidMode::Pod;
                    let started = f.engine.start_container(&pod, &spec).await;
                    codes.push(match started {
                        Ok(_) => f.exited().await.1.code.to_string(),
                        Err(error) => error.to_string(),
                    });
                    f.finish(pod).await;
                }
                codes
            })
        })
        .join();
        busy.store(false, std::sync::atomic::Ordering::Relaxed);
        codes
    });
    assert_eq!(codes.unwrap(), ["7"; 8]);
}

#[tokio::test]
async fn containers_of_a_pod_share_what_they_should() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let mut main = f.spec(
        "p",
        "main",
        "echo shared > /dev/shm/f; readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; sleep 1000",
    );
    main.pid = PidMode::Pod;
    f.engine.start_container(&pod, &main).await.unwrap();
    until(|| f.output("p", "main").lines().count() == 2).await;
    let mut side = f.spec(
        "p",
        "side",
        "readlink /proc/self/ns/net; readlink /proc/self/ns/ipc; cat /dev/shm/f; ps | grep -c '[s]leep 1000'",
    );
    side.pid = PidMode::Pod;
    let (_, out) = f.run(&pod, side).await;
    assert_eq!(out, f.output("p", "main") + "shared\n1\n");
    let mut debug = f.spec("p", "debug", "ps | grep -c '[s]leep 1000'; df /dev/shm | tail -1 | awk '{print $2}'");
    debug.pid = PidMode::Target("main".into());
    let (_, out) = f.run(&pod, debug).await;
    assert_eq!(out, "1\n65536\n");
    let (_, out) = f.run(&pod, f.spec("p", "own", "ps | grep -c '[s]leep 1000'; echo $$")).await;
    assert_eq!(out, "0\n1\n");
    let netns = std::fs::read_link(sys_path(&f.engine.netns(&pod).await.unwrap())).unwrap();
    assert!(f.output("p", "main").starts_with(&*netns.to_string_lossy()));
    assert_ne!(netns, std::fs::read_link("/proc/self/ns/net").unwrap());
    let mode = NamespaceMode::Host;
    let spec = PodSandboxSpec { network: mode, ipc: mode, uts: mode, hostname: None, ..f.pod_spec("host") };
    let host = f.engine.create_pod(&spec).await.unwrap();
    let mut spec = f.spec("host", "c", "readlink /proc/self/ns/net; test -d /proc/2 && echo host pids");
    spec.pid = PidMode::Host;
    let (_, out) = f.run(&host, spec).await;
    assert_eq!(out, format!("{}\nhost pids\n", std::fs::read_link("/proc/self/ns/net").unwrap().display()));
    f.engine.remove_pod(&host).await.unwrap();
    f.finish(pod).await;
}

#[tokio::test]
async fn the_root_of_a_pod_with_a_user_namespace_is_nobody_on_the_machine() {
    use std::os::unix::fs::MetadataExt;
    const FIRST: u32 = 7 << 16;
    let mut f = Fixture::new();
    let sysctls = [("kernel.shm_rmid_forced", "1"), ("net.ipv4.tcp_fin_timeout", "7")];
    let sysctls = sysctls.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    let users = Some(IdRange { first: FIRST, length: 1 << 16 });
    let pod = f.engine.create_pod(&PodSandboxSpec { users, sysctls, ..f.pod_spec("p") }).await.unwrap();
    let data = f.dir.path().join("data");
    std::fs::create_dir_all(data.join("web")).unwrap();
    std::os::unix::fs::chown(data.join("web"), Some(33), Some(33)).unwrap();
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map; id -u; ls -ldn / /bin/busybox /data/web /dev/null /dev/shm | awk '{print $3, $4}'; \
        touch /data/new /made; cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/tcp_fin_timeout; hostname; \
        ip link set lo down && echo net; mount -t tmpfs x /tmp && echo mount; mount -o remount,rw /proc/sys 2>&1; \
        echo out > /dev/stdout; sleep 1000";
    let mut spec = f.spec("p", "c", script);
    spec.mounts.push(Mount::bind(&data, "/data"));
    // An image store makes it, and knows nothing of the pod's users.
    std::fs::create_dir_all(f.dir.path().join("containers/p/c/upper")).unwrap();
    let (caps, seccomp) = (["CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_DAC_OVERRIDE"], Seccomp::Unconfined);
    (spec.process.capabilities, spec.process.seccomp) = (Capabilities::of(caps), seccomp);
    let started = match f.engine.start_container(&pod, &spec).await {
        Err(refused) if kernel() < (6, 3) => {
            assert!(refused.to_string().contains("the kernel cannot map owners of files"), "{refused}");
            return f.finish(pod).await;
        }
        other => other.unwrap(),
    };
    until(|| f.output("p", "c").ends_with("out\n")).await;
    let owners = "0 0\n0 0\n33 33\n0 0\n0 0\n";
    let refused = "mount: permission denied (are you root?)\n";
    let want = format!("0 {FIRST} 65536\n0\n{owners}1\n7\npodhost\nnet\nmount\n{refused}out\n");
    assert_eq!(f.output("p", "c"), want);
    let owner = |path: PathBuf| std::fs::metadata(path).unwrap().uid();
    assert_eq!(owner(format!("/proc/{}/cwd/..", started.pid).into()), FIRST);
    assert_eq!(owner(data.join("new")), 0);
    assert_eq!(owner(f.dir.path().join("containers/p/c/upper/made")), FIRST);

    // Another supervisor knows the namespace, too.
    assert!(f.replace_supervisor(&pod).await.is_empty());
    let args = ["sh", "-c", "id -u; cat /proc/self/uid_map | awk '{print $2}'; ls /data"].map(String::from).to_vec();
    let exec = ExecSpec { args, ..ExecSpec::default() };
    let mut session = timeout(f.engine.exec(&pod, "c", exec, false)).await.unwrap();
    assert_eq!(read_all(session.streams.stdout.take()).await, format!("0\n{FIRST}\nnew\nweb\n"));
    session.wait().await.unwrap();
    let mut spec = f.spec("p", "web", "id -u; touch /data/web/mine; mount -t tmpfs x /tmp 2>&1");
    spec.mounts.push(Mount::bind(&data, "/data"));
    spec.process.user = User { uid: Some(33), gid: Some(33), ..User::default() };
    let (_, out) = f.run(&pod, spec).await;
    assert_eq!(out, format!("33\n{refused}"));
    assert_eq!(owner(data.join("web/mine")), 33);
    f.finish(pod).await;
}

/// Version of the kernel; tmpfs can map owners since 6.3.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split('.').map(|n| n.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}

fn sys_path(fd: &std::os::fd::OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd)).into()
}

#[tokio::test]
async fn logs_rotate_without_losing_a_line() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let mut spec = f.spec("p", "c", "seq 1 5000");
    spec.log.as_mut().unwrap().max_size = 64 << 10;
    spec.log.as_mut().unwrap().max_files = 50;
    f.engine.start_container(&pod, &spec).await.unwrap();
    f.exited().await;
    let dir = f.log("p", "c").parent().unwrap().to_owned();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.rotate_left(1); // 0.log sorts first and is the newest
    let text: String = files.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let numbers: Vec<u32> = text.lines().map(|l| l.rsplit(' ').next().unwrap().parse().unwrap()).collect();
    assert!(files.len() > 2, "{files:?}");
    assert_eq!(numbers, (1..=5000).collect::<Vec<_>>());
    f.finish(pod).await;
}

#[tokio::test]
async fn the_death_of_agent_and_zygote_loses_nothing() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let go = f.dir.path().join("go");
    std::fs::create_dir(&go).unwrap();
    let script = "i=0; while ! test -e /go/stop; do i=$((i+1)); echo line $i; usleep 1000; done; echo last; exit 42";
    let mut spec = f.spec("p", "c", script);
    spec.mounts.push(Mount::bind(&go, "/go"));
    spec.labels.insert("k".into(), "v".into());
    let started = f.engine.start_container(&pod, &spec).await.unwrap();
    f.engine.start_container(&pod, &f.spec("p", "stays", "sleep 1000")).await.unwrap();
    until(|| f.output("p", "c").lines().count() > 5).await;
    // The agent forgets everything; its zygote is killed.
    let zygote = zygote_of(f.dir.path());
    kill9(zygote);
    drop(pod);
    let (engine, events) = Engine::start(Fixture::config(f.dir.path())).unwrap();
    drop(std::mem::replace(&mut f.engine, engine));
    f.events = events;
    let before = f.output("p", "c").lines().count();
    until(|| f.output("p", "c").lines().count() > before + 5).await;
    std::fs::write(go.join("stop"), "").unwrap();
    until(|| f.dir.path().join("state/pods/p/c/exit.json").exists()).await;
    let mut recovered = f.engine.recover().await.unwrap();
    assert_eq!(recovered.len(), 1);
    let r = recovered.remove(0);
    assert_eq!((r.pod.id(), r.snapshot.containers.len()), ("p", 2));
    let c = &r.snapshot.containers[0];
    assert_eq!((c.id.as_str(), c.labels["k"].as_str()), ("c", "v"));
    let ContainerState::Exited(exit) = &c.state else { panic!("{c:?}") };
    assert_eq!((exit.code, exit.started_at_ns), (42, started.started_at_ns));
    assert!(matches!(&r.snapshot.containers[1].state, ContainerState::Running(_)));
    let out = f.output("p", "c");
    let lines: Vec<&str> = out.lines().collect();
    let (last, numbered) = lines.split_last().unwrap();
    assert_eq!(*last, "last");
    assert!(numbered.iter().enumerate().all(|(i, l)| *l == format!("line {}", i + 1)), "{out}");
    // And the new engine can do everything.
    let (_, out) = f.run(&r.pod, f.spec("p", "new", "echo new")).await;
    assert_eq!(out, "new\n");
    assert!(f.engine.orphans().unwrap().is_empty());
    f.finish(r.pod).await;
}

#[tokio::test]
async fn networks_in_advance_are_those_of_pods_to_come_also_of_another_zygote() {
    let f = Fixture::new();
    let mut networks = f.engine.networks_in_advance();
    let inode = |fd: OwnedFd| std::fs::File::from(fd).metadata().unwrap().ino();
    let ended = |owner: &OwnedFd| {
        let mut owner = [sys::fd::PollFd::new(owner.as_fd(), true, false)];
        sys::fd::poll(&mut owner, Some(0)).unwrap() == 1
    };
    for zygote in 0..2 {
        let first = timeout(networks.recv()).await.unwrap();
        assert!(!ended(&first.owner), "it waits");
        let mut told = vec![inode(first.netns)];
        // A pod that comes before its network is told has another one.
        timeout(async {
            loop {
                let pod = f.pod("p").await;
                let network = inode(f.engine.netns(&pod).await.unwrap());
                f.engine.remove_pod(&pod).await.unwrap();
                while let Ok(network) = networks.try_recv() {
                    told.push(inode(network.netns));
                }
                if told.contains(&network) {
                    return;
                }
            }
        })
        .await;
        let pid = zygote_of(f.dir.path());
        kill9(pid);
        until(|| !Path::new(&format!("/proc/{pid}")).exists()).await;
        until(|| processes_of(f.dir.path(), "dhow-spare").is_empty()).await;
        assert!(ended(&first.owner), "it was a pod's, or died with its zygote");
        let pod = f.pod("q").await;
        f.engine.remove_pod(&pod).await.unwrap();
        assert!(zygote == 1 || timeout(networks.recv()).await.is_some());
    }
}

#[tokio::test]
async fn a_supervisor_without_an_agent_that_dies_leaves_what_can_be_swept() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let started = f.engine.start_container(&pod, &f.spec("p", "c", "sleep 1000")).await.unwrap();
    let supervisor = f.engine.snapshot(&pod).await.unwrap().supervisor_pid;
    let (engine, events) = Engine::start(Fixture::config(f.dir.path())).unwrap();
    drop(std::mem::replace(&mut f.engine, engine));
    kill9(supervisor);
    let lost = timeout(f.events.recv()).await.unwrap();
    assert_eq!(lost, EngineEvent::SupervisorLost { pod: "p".into() });
    f.events = events;
    assert!(Path::new(&format!("/proc/{}", started.pid)).exists(), "the container lives on");
    assert!(matches!(f.engine.snapshot(&pod).await, Err(EngineError::SupervisorLost { .. })));
    let orphans = f.engine.orphans().unwrap();
    assert_eq!((orphans.len(), orphans[0].id.as_str(), orphans[0].processes), (1, "p", 1));
    f.engine.sweep(&orphans[0]).await.unwrap();
    until(|| !Path::new(&format!("/proc/{}", started.pid)).exists()).await;
    assert!(f.engine.orphans().unwrap().is_empty());
    let pod = f.pod("p").await;
    f.finish(pod).await;
}

#[tokio::test]
async fn a_pod_goes_also_when_its_supervisor_dies_over_it() {
    let f = Fixture::new();
    for i in 0..6 {
        let pod = f.pod("p").await;
        let spec = f.spec("p", "c", "trap '' TERM; while true; do sleep 1000; done");
        f.engine.start_container(&pod, &spec).await.unwrap();
        let supervisor = f.engine.snapshot(&pod).await.unwrap().supervisor_pid;
        let killer = async {
            tokio::time::sleep(Duration::from_micros(300 * i)).await;
            // It may have done its work and ended.
            sys::process::kill(supervisor, libc::SIGKILL).ok();
        };
        let (removed, ()) = tokio::join!(timeout(f.engine.remove_pod(&pod)), killer);
        removed.unwrap();
        let cgroup = f.engine.cgroups().cgroup(&spec.cgroup.path);
        until(|| !cgroup.exists(f.engine.cgroups())).await;
        assert!(f.engine.orphans().unwrap().is_empty());
    }
    let pod = f.pod("p").await;
    f.finish(pod).await;
}

impl Fixture {
    /// Kills the supervisor and waits until another one has taken its place. Exits that are told meanwhile are returned.
    async fn replace_supervisor(&mut self, pod: &Pod) -> Vec<(String, Exit)> {
        let old = self.engine.snapshot(pod).await.unwrap().supervisor_pid;
        kill9(old);
        let mut exits = Vec::new();
        loop {
            match timeout(self.events.recv()).await.expect("the engine lives") {
                EngineEvent::SupervisorReplaced { .. } => break,
                EngineEvent::Pod { event: Event::Exited { container, exit }, .. } => exits.push((container, exit)),
                EngineEvent::Pod { .. } => {}
                EngineEvent::SupervisorLost { .. } => panic!("not replaced: {}", self.zygote_log()),
            }
        }
        assert_ne!(self.engine.snapshot(pod).await.unwrap().supervisor_pid, old);
        exits
    }
}

/// Whether the kernel tells how a process ended to others than its parent (`PIDFD_INFO_EXIT`, Linux 6.15). Older ones leave the
/// zombie, which may be gone before it is seen.
fn exits_are_told_to_all() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|n| n.trim().parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(6), Some(15))
}

/// The exit is known, or honestly lost where the kernel does not tell it.
fn assert_known_or_lost(exit: &Exit, code: i32) {
    let lost = exit.code == 255 && exit.lost && !exits_are_told_to_all();
    assert!(lost || (exit.code == code && !exit.lost), "{exit:?}, wanted {code}");
}

#[tokio::test]
async fn the_death_of_a_supervisor_stops_nothing() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let go = f.dir.path().join("go");
    std::fs::create_dir(&go).unwrap();
    let with_go = |id: &str, script: &str, pid: PidMode| {
        let mut spec = f.spec("p", id, script);
        spec.mounts.push(Mount::bind(&go, "/go"));
        spec.pid = pid;
        spec
    };
    let wait = "while ! test -e /go/stop; do usleep 1000; done";
    let ender = with_go("ender", &format!("{wait}; exit 42"), PidMode::Container);
    let shares = with_go("shares", "echo shared >/dev/shm/f; exec sleep 12345", PidMode::Pod);
    let mut reader = with_go("reader", "cat", PidMode::Container);
    reader.stdin = true;
    let over = with_go("over", "exit 3", PidMode::Container);
    let later = with_go("later", "cat /dev/shm/f; hostname; ps | grep -c '[1]2345'", PidMode::Pod);
    let mut started = Vec::new();
    for spec in [&ender, &shares, &reader, &over] {
        started.push(f.engine.start_container(&pod, spec).await.unwrap());
    }
    assert_eq!(f.exited().await.0, "over");
    let exec = |script: &str| ExecSpec { args: ["sh", "-c", script].map(String::from).to_vec(), ..ExecSpec::default() };
    let mut session = f.engine.exec(&pod, "shares", exec(&format!("{wait}; exit 9")), false).await.unwrap();
    let before = f.engine.snapshot(&pod).await.unwrap();
    let netns = f.engine.netns(&pod).await.unwrap();
    for _ in 0..3 {
        assert!(f.replace_supervisor(&pod).await.is_empty());
    }
    let after = f.engine.snapshot(&pod).await.unwrap();
    assert_eq!((&after.containers, after.created_at_ns), (&before.containers, before.created_at_ns));
    let link = |fd| std::fs::read_link(sys_path(fd)).unwrap();
    assert_eq!(link(&f.engine.netns(&pod).await.unwrap()), link(&netns));
    // Everything can still be done.
    let mut input = f.engine.attach(&pod, "reader", true, false, false).await.unwrap().stdin.unwrap();
    input.write_all(b"typed\n").await.unwrap();
    until(|| f.output("p", "reader") == "typed\n").await;
    let (_, out) = f.run(&pod, later).await;
    assert_eq!(out, "shared\npodhost\n1\n");
    let mut ran = f.engine.exec(&pod, "shares", exec("echo hi"), false).await.unwrap();
    assert_eq!((read_all(ran.streams.stdout.take()).await.as_str(), ran.wait().await.unwrap()), ("hi\n", 0));
    std::fs::write(go.join("stop"), "").unwrap();
    let code = timeout(session.wait()).await.unwrap();
    assert!(code == 9 || (code == 255 && !exits_are_told_to_all()), "{code}");
    let (id, exit) = f.exited().await;
    assert_eq!((id.as_str(), exit.started_at_ns), ("ender", started[0].started_at_ns));
    assert_known_or_lost(&exit, 42);
    f.engine.kill(&pod, "reader", libc::SIGKILL).await.unwrap();
    assert_known_or_lost(&f.exited().await.1, 128 + libc::SIGKILL);
    f.engine.remove_container(&pod, "over").await.unwrap();
    f.finish(pod).await;
}

#[tokio::test]
async fn a_supervisor_that_hangs_is_replaced() {
    let mut f = Fixture::new();
    let short = Config { patience: Duration::from_secs(1), ..Fixture::config(f.dir.path()) };
    (f.engine, f.events) = Engine::start(short).unwrap();
    let pod = f.pod("p").await;
    let counts = "i=0; while [ $i -lt 40 ]; do echo $i; i=$((i+1)); usleep 100000; done; exit 4";
    let started = f.engine.start_container(&pod, &f.spec("p", "c", counts)).await.unwrap();
    let hung = f.engine.snapshot(&pod).await.unwrap().supervisor_pid;
    sys::process::kill(hung, libc::SIGSTOP).unwrap();
    // A request waits meanwhile and is answered.
    let after = timeout(f.engine.snapshot(&pod)).await.unwrap();
    assert_ne!(after.supervisor_pid, hung);
    assert_eq!(after.containers[0].state, ContainerState::Running(started));
    let mut replaced = false;
    let exit = loop {
        match timeout(f.events.recv()).await.unwrap() {
            EngineEvent::SupervisorReplaced { .. } => replaced = true,
            EngineEvent::Pod { event: Event::Exited { exit, .. }, .. } => break exit,
            other => assert!(matches!(other, EngineEvent::Pod { .. }), "{other:?}"),
        }
    };
    assert!(replaced);
    assert_known_or_lost(&exit, 4);
    assert_eq!(f.output("p", "c"), (0..40).map(|i| format!("{i}\n")).collect::<String>());
    // One that is silent because there is nothing to tell is left alone.
    let (quiet, _) = f.run(&pod, f.spec("p", "quiet", "usleep 2500000; exit 6")).await;
    assert_eq!(quiet.code, 6);
    assert_eq!(f.engine.snapshot(&pod).await.unwrap().supervisor_pid, after.supervisor_pid);
    f.finish(pod).await;
}

#[tokio::test]
async fn an_exit_while_there_is_no_supervisor_is_known() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    for i in 0..5 {
        let id = format!("c{i}");
        let started = f.engine.start_container(&pod, &f.spec("p", &id, "echo said; exec sleep 1000")).await.unwrap();
        until(|| f.output("p", &id) == "said\n").await;
        let supervisor = f.engine.snapshot(&pod).await.unwrap().supervisor_pid;
        kill9(supervisor);
        kill9(started.pid);
        let (container, exit) = f.exited().await;
        assert_eq!(container, id);
        assert_known_or_lost(&exit, 137);
    }
    f.finish(pod).await;
}

#[tokio::test]
async fn no_byte_of_a_log_is_lost_or_written_twice_when_supervisors_die() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    // Fast and in large pieces, and slowly with lines that come in parts.
    let fast = "i=0; while [ $i -lt 40 ]; do seq $((i*10000)) $((i*10000+9999)); i=$((i+1)); usleep 10000; done";
    let slow = "i=0; while [ $i -lt 400 ]; do printf 'half of '; usleep 500; echo $i; i=$((i+1)); done";
    let mut rotated = f.spec("p", "fast", fast);
    rotated.log.as_mut().unwrap().max_size = 1 << 20;
    rotated.log.as_mut().unwrap().max_files = 1000;
    f.engine.start_container(&pod, &rotated).await.unwrap();
    f.engine.start_container(&pod, &f.spec("p", "slow", slow)).await.unwrap();
    let (mut replaced, mut over) = (0, 0);
    while over < 2 {
        over += f.replace_supervisor(&pod).await.len();
        replaced += 1;
        tokio::time::sleep(Duration::from_millis(60)).await;
        while let Ok(event) = f.events.try_recv() {
            over += usize::from(matches!(event, EngineEvent::Pod { event: Event::Exited { .. }, .. }));
        }
        assert!(replaced < 500);
    }
    let dir = f.log("p", "fast").parent().unwrap().to_owned();
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.rotate_left(1); // 0.log sorts first and is the newest
    let text: String = files.iter().map(|p| std::fs::read_to_string(p).unwrap()).collect();
    let mut next = 0;
    for line in text.lines() {
        assert_eq!(line.rsplit(' ').next().unwrap(), next.to_string(), "after {replaced} replacements: {line}");
        next += 1;
    }
    assert_eq!(next, 400_000);
    let want: String = (0..400).map(|i| format!("half of {i}\n")).collect();
    assert_eq!(f.output("p", "slow"), want);
    assert!(replaced > 3, "{replaced}");
    f.finish(pod).await;
}

#[tokio::test]
async fn a_start_goes_on_when_the_supervisor_dies_in_the_middle() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    for i in 0..8 {
        let id = format!("c{i}");
        let spec = f.spec("p", &id, "exec sleep 1000");
        let supervisor = f.engine.snapshot(&pod).await.unwrap().supervisor_pid;
        let killer = async {
            tokio::time::sleep(Duration::from_micros(400 * i)).await;
            kill9(supervisor);
        };
        let (started, ()) = tokio::join!(f.engine.start_container(&pod, &spec), killer);
        let started = started.unwrap();
        let cgroup = f.engine.cgroups().cgroup(&spec.cgroup.path);
        until(|| cgroup.procs().into_iter().eq([started.pid])).await;
        f.engine.kill(&pod, &id, libc::SIGKILL).await.unwrap();
        let (ended, exit) = f.exited().await;
        assert_eq!((ended, exit.code), (id, 137));
    }
    f.finish(pod).await;
}

/// The zygote of an engine: the process that has the engine's zygote.log open and was not forked as a supervisor.
fn zygote_of(dir: &Path) -> i32 {
    *processes_of(dir, "dhow-zygote").first().expect("a zygote runs")
}

/// Those that write to the zygote's log and have this name.
fn processes_of(dir: &Path, wanted: &str) -> Vec<i32> {
    let log = dir.join("state/zygote.log");
    let pids =
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok());
    let found = pids.filter(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        name.trim_end() == wanted && std::fs::read_link(format!("/proc/{pid}/fd/2")).is_ok_and(|to| to == log)
    });
    found.collect()
}

/// Not a gate, a number to look at: `cargo test -p runtime --test kernel -- --nocapture start_latency`.
#[tokio::test]
async fn start_latency_is_milliseconds() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let mut times = Vec::new();
    for i in 0..40 {
        let mut spec = f.spec("p", &format!("c{i}"), "");
        spec.process.args = vec!["true".into()];
        let begin = std::time::Instant::now();
        f.engine.start_container(&pod, &spec).await.unwrap();
        times.push(begin.elapsed());
        f.exited().await;
        f.engine.remove_container(&pod, &spec.id).await.unwrap();
    }
    times.sort();
    let mut pods = Vec::new();
    for i in 0..10 {
        let begin = std::time::Instant::now();
        let pod = f.pod(&format!("q{i}")).await;
        pods.push(begin.elapsed());
        f.engine.remove_pod(&pod).await.unwrap();
    }
    pods.sort();
    let pid = f.engine.snapshot(&pod).await.unwrap().supervisor_pid;
    let smaps = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = smaps.lines().find(|l| l.starts_with("Private_Dirty")).unwrap().to_owned();
    eprintln!("start p50 {:?} p90 {:?}; create_pod p50 {:?}; supervisor {private}", times[20], times[36], pods[5]);
    assert!(times[20] < Duration::from_millis(250), "{times:?}");
    f.finish(pod).await;
}

#[test]
fn what_others_mounted_into_a_directory_is_not_removed_with_it() {
    let (ours, theirs) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let inside = ours.path().join("volume/a b");
    std::fs::create_dir_all(&inside).unwrap();
    std::fs::write(theirs.path().join("precious"), "").unwrap();
    let mount = sys::mount::Detached::clone_path(theirs.path(), false).unwrap();
    mount.attach(std::fs::File::open(&inside).unwrap().as_fd()).unwrap();
    let refused = runtime::remove_tree(&ours.path().join("volume")).unwrap_err();
    assert!(refused.to_string().contains(&inside.display().to_string()), "{refused}");
    sys::mount::unmount_lazily(&inside).unwrap();
    assert!(theirs.path().join("precious").exists());
    runtime::remove_tree(&ours.path().join("volume")).unwrap();
    assert!(!ours.path().join("volume").exists());
}
