//! The device filter of cgroup v2 on the real kernel, also where v1 has the limits: the v2 tree beside them takes it as well.

use std::os::fd::AsFd;
use std::path::PathBuf;
use sys::device::{Kind, Rule};

fn v2_root() -> PathBuf {
    let text = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = text.lines().find(|l| l.contains(" - cgroup2 ")).expect("a mounted cgroup v2 tree");
    line.split(' ').nth(4).unwrap().into()
}

#[test]
fn a_filter_denies_what_no_rule_allows() {
    let me = std::fs::metadata("/proc/self").unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&me), 0, "this test needs root");
    let dir = v2_root().join(format!("dhow-test-device-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let rule =
        |minor| Rule { kind: Kind::Char, major: Some(1), minor: Some(minor), read: true, write: true, mknod: false };
    sys::device::attach(std::fs::File::open(&dir).unwrap().as_fd(), &[rule(3), rule(5)]).unwrap();
    let script = "echo $$ > $0/cgroup.procs; head -c1 /dev/zero >/dev/null && echo zero; head -c1 /dev/urandom 2>&1";
    #[expect(clippy::disallowed_methods, reason = "a test may run programs of the host")]
    let out = std::process::Command::new("/bin/busybox").args(["sh", "-c", script]).arg(&dir).output().unwrap();
    std::fs::remove_dir(&dir).unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(text.starts_with("zero\n") && text.contains("Operation not permitted"), "{text} {out:?}");
}
