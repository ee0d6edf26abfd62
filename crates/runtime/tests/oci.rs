//! What the OCI runtime specification promises a container, one row each: what the spec says, and what the container sees of it.
//! The list follows the validators of `opencontainers/runtime-tools`.

mod support;

use runtime::{
    Capabilities, ContainerSpec, Device, Mount, MountKind, NamespaceMode, PidMode, PodSandboxSpec, ReadOnly, Rlimit,
    Seccomp, User,
};
use std::path::Path;
use support::{Fixture, refusal};

/// Name, what is changed in an ordinary spec, the script, and its output.
struct Row(&'static str, fn(&mut ContainerSpec), &'static str, &'static str);

const ROWS: &[Row] = &[
    Row("host and domain name", |_| {}, "hostname; cat /proc/sys/kernel/domainname", "podhost\nexample.org\n"),
    Row(
        "cgroups begin at the container's own, in every hierarchy it was put into",
        |_| {},
        "grep -E ':(memory|pids|cpu|devices)?:' /proc/self/cgroup | grep -vc ':/$'; \
         grep -E ' - cgroup2? ' /proc/self/mountinfo | awk '{print $4}' | sort -u",
        "0\n/\n",
    ),
    Row(
        "resource limits",
        |s| s.process.rlimits = vec![rlimit("RLIMIT_NOFILE", 100, 200), rlimit("RLIMIT_CORE", 0, 0)],
        "ulimit -Sn; ulimit -Hn; ulimit -c",
        "100\n200\n0\n",
    ),
    Row("oom score", |s| s.process.oom_score_adj = Some(500), "cat /proc/self/oom_score_adj", "500\n"),
    Row(
        "settings of the kernel's namespaces",
        |s| {
            s.sysctls =
                [("kernel.msgmax".into(), "4321".into()), ("net.ipv4.tcp_fin_timeout".into(), "17".into())].into()
        },
        "cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/tcp_fin_timeout",
        "4321\n17\n",
    ),
    Row(
        "user, group and additional groups by number, without an entry in /etc/passwd",
        |s| s.process.user = User { uid: Some(1234), gid: Some(5678), additional_gids: vec![7, 8], ..User::default() },
        "id -u; id -g; id -G; echo $HOME; touch /tmp/x 2>&1",
        "1234\n5678\n5678 7 8\n/\ntouch: /tmp/x: Permission denied\n",
    ),
    Row("file creation mask", |_| {}, "umask; mkdir /tmp/d; ls -ld /tmp/d | cut -c1-10", "0022\ndrwxr-xr-x\n"),
    Row(
        "working directory, made if it is missing",
        |s| s.process.cwd = "/not/there".into(),
        "pwd; ls -ld . | cut -c1-10",
        "/not/there\ndrwxr-xr-x\n",
    ),
    Row(
        "environment",
        |s| s.process.env = vec!["PATH=/bin".into(), "A=1".into(), "B=two words".into(), "A=2".into()],
        "echo $A; echo $B; echo $HOME",
        "2\ntwo words\n/root\n",
    ),
    Row(
        "ambient capabilities stay with a user that is not root, others go",
        |s| {
            s.process.user.uid = Some(33);
            let c = &mut s.process.capabilities;
            (c.ambient, c.inheritable) = (vec!["NET_BIND_SERVICE".into()], vec!["NET_BIND_SERVICE".into()]);
        },
        "grep -E '^Cap(Eff|Prm|Inh|Amb):' /proc/self/status | awk '{print $2}'",
        "0000000000000400\n0000000000000400\n0000000000000400\n0000000000000400\n",
    ),
    Row(
        "no capabilities",
        |s| s.process.capabilities = Capabilities::default(),
        "grep -E '^Cap' /proc/self/status | grep -vc 0000000000000000; chroot / true 2>&1",
        "0\nchroot: can't change root directory to '/': Operation not permitted\n",
    ),
    Row(
        "no new privileges",
        |s| s.process.no_new_privileges = true,
        "grep NoNewPrivs /proc/self/status | awk '{print $2}'",
        "1\n",
    ),
    Row(
        "a seccomp profile of one's own",
        |s| {
            let rule = r#"{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":28}"#;
            s.process.seccomp = Seccomp::Custom(format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{rule}]}}"#));
        },
        "mkdir /tmp/x 2>&1; touch /tmp/y && echo ok",
        "mkdir: can't create directory '/tmp/x': No space left on device\nok\n",
    ),
    Row(
        "masked paths: files are empty, directories too, and what is missing is no error",
        |s| s.masked_paths = ["/etc/passwd", "/home", "/not/there"].map(Into::into).to_vec(),
        "cat /etc/passwd | wc -c; ls /home | wc -l; touch /home/x 2>&1",
        "0\n0\ntouch: /home/x: Read-only file system\n",
    ),
    Row(
        "read-only paths",
        |s| s.readonly_paths = ["/etc", "/not/there"].map(Into::into).to_vec(),
        "touch /etc/x 2>&1; touch /tmp/x && echo ok; cat /etc/group | wc -l",
        "touch: /etc/x: Read-only file system\nok\n3\n",
    ),
    Row(
        "a read-only root with a writable mount in it",
        |s| {
            s.readonly_rootfs = true;
            s.mounts.push(Mount::tmpfs("/scratch", ""));
        },
        "touch /x 2>&1; touch /scratch/x && echo ok; touch /dev/shm/x && echo ok",
        "touch: /x: Read-only file system\nok\nok\n",
    ),
    Row(
        "options of mounts",
        |s| {
            let exec =
                Mount { noexec: false, nosuid: false, nodev: false, ..Mount::tmpfs("/t1", "size=64k,mode=1750") };
            let closed = Mount { noexec: true, readonly: ReadOnly::Yes, ..Mount::tmpfs("/t2", "") };
            s.mounts.extend([exec, closed]);
        },
        "ls -ld /t1 | cut -c1-10; df /t1 | tail -1 | awk '{print $2}'; \
         awk '$5 == \"/t2\" {print $6}' /proc/self/mountinfo",
        "drwxr-x--T\n64\nro,nosuid,nodev,noexec,relatime\n",
    ),
    Row(
        "later mounts lie over earlier ones, and private ones stay private",
        |s| {
            s.mounts.push(Mount::tmpfs("/data/inner", ""));
            s.mounts.insert(0, Mount::tmpfs("/data", "mode=700"));
        },
        "touch /data/inner/x; ls /data; awk '$5 ~ \"^/data\" {print $5, $7}' /proc/self/mountinfo",
        "inner\n/data -\n/data/inner -\n",
    ),
    Row(
        "links in an image lead where they would inside",
        |s| {
            s.process.cwd = "/tmp".into();
            s.mounts.push(Mount::tmpfs("/abs/new", ""));
            s.mounts.push(Mount::tmpfs("/up/new", ""));
        },
        "ls -d /etc/new /new",
        "/etc/new\n/new\n",
    ),
    Row(
        "the devices that every container has",
        |_| {},
        "for d in null zero full random urandom tty; do stat -c '%n %t:%T %a' /dev/$d; done; readlink /dev/fd; readlink /dev/ptmx; \
         echo x 2>/dev/null >/dev/full || echo full",
        "/dev/null 1:3 666\n/dev/zero 1:5 666\n/dev/full 1:7 666\n/dev/random 1:8 666\n/dev/urandom 1:9 666\n/dev/tty 5:0 666\n\
         /proc/self/fd\npts/ptmx\nfull\n",
    ),
    Row(
        "devices of one's own, with owner and mode; pipes too",
        |s| {
            let device = |path: &str, kind, minor| Device {
                path: path.into(),
                kind,
                major: 1,
                minor,
                mode: 0o640,
                uid: 33,
                gid: 77,
                access: "r".into(),
            };
            s.devices = vec![device("/dev/sub/zero", 'c', 5), device("/dev/pipe", 'p', 0)];
        },
        "stat -c '%n %F %a %u:%g' /dev/sub/zero /dev/pipe; head -c2 /dev/sub/zero | wc -c",
        "/dev/sub/zero character special file 640 33:77\n/dev/pipe fifo 640 33:77\n2\n",
    ),
    Row(
        "the CPUs it may run on",
        |s| s.cgroup.resources.cpuset_cpus = Some("0".into()),
        "grep Cpus_allowed_list /proc/self/status | awk '{print $2}'",
        "0\n",
    ),
    Row(
        "processes of the pod, if it shares them",
        |s| s.pid = PidMode::Pod,
        "test $$ -gt 1 && echo not the first; until ps | grep -q '[p]ause'; do :; done; ps | grep -c '[p]ause'",
        "not the first\n1\n",
    ),
    Row("its own processes only, if not", |_| {}, "echo $$; set -- /proc/[0-9]*; echo $#", "1\n1\n"),
    Row(
        "nothing but standard streams is open, and none of ours is ignored or blocked",
        |_| {},
        "ls /proc/self/fd | wc -l; grep -E '^Sig(Blk|Ign):' /proc/self/status | awk '{print $2}'",
        "4\n0000000000000000\n0000000000000000\n",
    ),
];

fn rlimit(kind: &str, soft: u64, hard: u64) -> Rlimit {
    Rlimit { kind: kind.into(), soft, hard }
}

#[tokio::test]
async fn a_container_is_what_its_spec_says() {
    let mut f = Fixture::new();
    let image = f.dir.path().join("image");
    std::os::unix::fs::symlink("/etc", image.join("abs")).unwrap();
    std::os::unix::fs::symlink("../../../..", image.join("up")).unwrap();
    for applet in ["stat", "cut", "rm", "sort"] {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet)).unwrap();
    }
    let pod = PodSandboxSpec { domainname: Some("example.org".into()), ..f.pod_spec("p") };
    let pod = f.engine.create_pod(&pod).await.unwrap();
    let mut wrong = String::new();
    for (n, Row(name, change, script, expected)) in ROWS.iter().enumerate() {
        let mut spec = f.spec("p", &format!("c{n}"), script);
        change(&mut spec);
        let (_, out) = f.run(&pod, spec).await;
        if out != *expected {
            wrong += &format!("{name}:\nwanted {expected:?}\nsaw    {out:?}\n");
        }
    }
    assert_eq!(wrong, "");
    f.finish(pod).await;
}

#[tokio::test]
async fn a_tree_is_read_only_as_deep_as_it_says() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    // The machine's /dev has mounts in it.
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(mounts.contains(" /dev/shm "), "{mounts}");
    let name = format!("dhow-test-{}", std::process::id());
    for (readonly, expected) in [(ReadOnly::Yes, "top\n"), (ReadOnly::Recursive, "top\ndeep\n")] {
        let script = format!("touch /m/{name} || echo top; touch /m/shm/{name} || echo deep; rm -f /m/shm/{name}");
        let mut spec = f.spec("p", &format!("{readonly:?}"), &format!("{{ {script}; }} 2>/dev/null"));
        spec.mounts.push(Mount { readonly, ..Mount::bind("/dev", "/m") });
        assert_eq!(f.run(&pod, spec).await.1, expected, "{readonly:?}");
    }
    assert!(!Path::new("/dev/shm").join(name).exists());
    f.finish(pod).await;
}

#[tokio::test]
async fn namespaces_of_the_host_are_the_hosts() {
    let mut f = Fixture::new();
    let host = NamespaceMode::Host;
    let pod = PodSandboxSpec { hostname: None, network: host, ipc: host, uts: host, ..f.pod_spec("p") };
    let pod = f.engine.create_pod(&pod).await.unwrap();
    let mut spec = f.spec("p", "c", "for n in net ipc uts pid; do readlink /proc/self/ns/$n; done");
    spec.pid = PidMode::Host;
    let ours = ["net", "ipc", "uts", "pid"].map(|ns| std::fs::read_link(format!("/proc/self/ns/{ns}")).unwrap());
    let ours: String = ours.iter().map(|ns| format!("{}\n", ns.display())).collect();
    assert_eq!(f.run(&pod, spec).await.1, ours);
    f.finish(pod).await;
}

/// `tests/cgroup2` boots a kernel with AppArmor and loads `dhow-test`, which may not write to `/tmp/no`. Other machines refuse.
#[tokio::test]
async fn a_profile_of_apparmor_confines_or_is_refused() {
    let mut f = Fixture::new();
    let pod = f.pod("p").await;
    let confined = |id: &str, profile: &str, f: &Fixture| {
        let mut spec =
            f.spec("p", id, "cat /proc/self/attr/current; { echo > /tmp/no; } 2>&1; echo > /tmp/yes && echo ok");
        spec.process.apparmor = Some(profile.into());
        spec
    };
    assert_eq!(
        refusal(f.engine.start_container(&pod, &confined("none", "dhow-none", &f)).await),
        "failed to apply the AppArmor profile \"dhow-none\": no such file or directory"
    );
    if runtime::apparmor::is_loaded("dhow-test") {
        for no_new_privileges in [false, true] {
            let mut spec = confined(&format!("c{no_new_privileges}"), "dhow-test", &f);
            spec.process.no_new_privileges = no_new_privileges;
            let want = "dhow-test (enforce)\nsh: can't create /tmp/no: Permission denied\nok\n";
            assert_eq!(f.run(&pod, spec).await.1, want, "{no_new_privileges}");
        }
    }
    f.finish(pod).await;
}

/// The label as it is stored, or as the kernel sees the file; a symlink's own.
fn label_of(path: impl AsRef<Path>) -> String {
    let mut buffer = [0u8; 256];
    let length = rustix::fs::lgetxattr(path.as_ref(), "security.selinux", &mut buffer[..]).unwrap();
    String::from_utf8_lossy(&buffer[..length]).trim_end_matches('\0').to_owned()
}

#[tokio::test]
async fn a_label_that_nothing_knows_is_refused() {
    let f = Fixture::new();
    let pod = f.pod("p").await;
    let mut spec = f.spec("p", "c", "true");
    spec.process.selinux = Some("nobody:nowhere:none_t:s0".into());
    let refused = refusal(f.engine.start_container(&pod, &spec).await);
    assert!(refused.starts_with("failed to apply the SELinux label \"nobody:nowhere:none_t:s0\": "), "{refused}");
    f.finish(pod).await;
}

#[tokio::test]
#[ignore = "needs the kernel with SELinux and the policy of tests/cgroup2"]
async fn selinux_labels_are_those_of_the_spec() {
    const PROCESS: &str = "other_u:system_r:container_t:s0:c3,c4";
    const FILES: &str = "other_u:object_r:container_file_t:s0:c3,c4";
    let f = Fixture::new();
    assert!(runtime::selinux::is_enabled());
    runtime::selinux::label_layers(&f.dir.path().join("image")).unwrap();
    let labels = runtime::SelinuxLabels { process: PROCESS.into(), mount: FILES.into() };
    let pod_spec = runtime::PodSandboxSpec { selinux: Some(labels), ..f.pod_spec("p") };
    let pod = f.engine.create_pod(&pod_spec).await.unwrap();
    let volume = f.dir.path().join("volume");
    std::fs::create_dir_all(volume.join("deep/er")).unwrap();
    std::fs::create_dir(f.dir.path().join("other")).unwrap();
    std::fs::write(volume.join("deep/er/file"), "x").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", volume.join("evil")).unwrap();
    let before = label_of("/etc/passwd");
    let wanted = |id: &str, no_new_privileges: bool, f: &Fixture| {
        let mut spec = f.spec(
            "p",
            id,
            "cat /proc/self/attr/current; echo; cat /volume/deep/er/file /image/etc/group; exec sleep 1000",
        );
        spec.process.selinux = Some(PROCESS.into());
        spec.process.no_new_privileges = no_new_privileges;
        spec.mount_label = Some(FILES.into());
        spec.mounts.push(Mount { relabel: true, ..Mount::bind(&volume, "/volume") });
        spec.mounts.push(Mount::bind(f.dir.path().join("other"), "/other"));
        spec.mounts.push(Mount::tmpfs("/memory", ""));
        let kind = MountKind::Overlay { lower: vec![f.dir.path().join("image")], sub_path: None };
        spec.mounts.push(Mount { destination: "/image".into(), kind, ..Mount::default() });
        spec
    };
    for no_new_privileges in [false, true] {
        let spec = wanted(&format!("c{no_new_privileges}"), no_new_privileges, &f);
        let started = f.engine.start_container(&pod, &spec).await.unwrap();
        let group = std::fs::read_to_string(f.dir.path().join("image/etc/group")).unwrap();
        let want = format!("{PROCESS}\n\u{0}x{group}").replace('\u{0}', "");
        support::until(|| f.output("p", &spec.id).replace('\0', "") == want).await;
        for path in
            ["", "bin/busybox", "dev", "dev/pts", "dev/shm", "dev/mqueue", "memory", "volume/deep/er/file", "image/bin"]
        {
            assert_eq!(label_of(format!("/proc/{}/root/{path}", started.pid)), FILES, "{path}");
        }
        assert_ne!(label_of(format!("/proc/{}/root/other", started.pid)), FILES);
        let args = ["cat", "/proc/self/attr/current"].map(String::from).to_vec();
        let exec = runtime::ExecSpec { args, ..runtime::ExecSpec::default() };
        let mut session = f.engine.exec(&pod, &spec.id, exec, false).await.unwrap();
        let said = support::read_all(session.streams.stdout.take()).await;
        assert_eq!((said.trim_end_matches('\0'), session.wait().await.unwrap()), (PROCESS, 0));
    }
    assert_eq!(label_of(volume.join("evil")), FILES, "the link itself");
    assert_eq!(label_of("/etc/passwd"), before, "and not what it means");
    let told: Vec<_> =
        f.engine.snapshot(&pod).await.unwrap().containers.into_iter().filter_map(|c| c.selinux).collect();
    assert_eq!(told, [PROCESS, PROCESS], "which is how levels in use are found after a restart");
    let mut forbidden = wanted("forbidden", false, &f);
    forbidden.mounts.push(Mount { relabel: true, ..Mount::bind("/etc", "/machine") });
    let refused = refusal(f.engine.start_container(&pod, &forbidden).await);
    assert!(refused.ends_with("relabeling of /etc is not allowed"), "{refused}");
    f.finish(pod).await;
}

#[tokio::test]
async fn what_a_runtime_must_refuse_is_refused_by_name() {
    let f = Fixture::new();
    let pod = f.pod("p").await;
    type Change = fn(&mut ContainerSpec);
    let rows: [(Change, &str); 6] = [
        (|s| s.process.rlimits = vec![rlimit("RLIMIT_NONE", 1, 1)], "invalid rlimit type: RLIMIT_NONE"),
        (|s| s.process.capabilities.bounding.push("CAP_NONE".into()), "unknown capability \"CAP_NONE\""),
        (|s| s.process.cwd = "relative".into(), "working directory \"relative\" is not an absolute path"),
        (
            |s| s.devices = vec![Device { path: "/dev/x".into(), kind: 'x', ..Device::default() }],
            "error mounting dev to rootfs at \"/dev\": failed to create device \"/dev/x\": unknown kind 'x'",
        ),
        (
            |s| s.mounts.push(Mount { kind: MountKind::Proc, ..Mount::tmpfs("/abs", "") }),
            "error mounting proc to rootfs at \"/abs\": failed to create the mount point: too many levels of symbolic links",
        ),
        (|s| s.process.args = vec!["a\0b".into()], "\"a\\0b\" contains a NUL byte"),
    ];
    std::os::unix::fs::symlink("/etc", f.dir.path().join("image/abs")).unwrap();
    for (change, expected) in rows {
        let mut spec = f.spec("p", "c", "true");
        change(&mut spec);
        assert_eq!(refusal(f.engine.start_container(&pod, &spec).await), expected);
    }
    f.finish(pod).await;
}
