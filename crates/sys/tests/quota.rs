//! Project quotas on the real kernel: where the temporary directory can have them (in the guest of tests/cgroup2 it can), a limit holds;
//! elsewhere that is found out, and nothing pretends.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::fd::AsFd;
use sys::process::Caps;
use sys::quota;

const MIB: u64 = 1 << 20;

/// Who has CAP_SYS_RESOURCE is not limited on ext4; containers have it only if they ask for it.
fn as_a_container<T>(mut write: impl FnMut() -> T) -> T {
    const SYS_RESOURCE: u64 = 1 << 24;
    let before = sys::process::caps().unwrap();
    sys::process::set_caps(Caps { effective: before.effective & !SYS_RESOURCE, ..before }).unwrap();
    let done = write();
    sys::process::set_caps(before).unwrap();
    done
}

#[test]
fn a_full_project_takes_no_more_and_its_neighbours_do() {
    let dir = tempfile::tempdir().unwrap();
    let fs = File::open(dir.path()).unwrap();
    if !quota::enforces(fs.as_fd()).unwrap_or(false) {
        assert!(quota::limit(fs.as_fd(), 4242, MIB).is_err(), "who cannot enforce a limit takes none");
        return;
    }
    let full = dir.path().join("full");
    std::fs::create_dir(&full).unwrap();
    let project = File::open(&full).unwrap();
    quota::set_project(project.as_fd(), 4242, true).unwrap();
    quota::limit(fs.as_fd(), 4242, MIB).unwrap();
    std::fs::create_dir(full.join("sub")).unwrap();
    let mut file = File::create(full.join("sub/file")).unwrap();
    assert_eq!(quota::project_of(file.as_fd()).unwrap(), 4242, "it is inherited");
    let error = as_a_container(|| file.write_all(&vec![1; 2 * MIB as usize])).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::QuotaExceeded | ErrorKind::StorageFull), "{error:?}");
    let seen = quota::get(fs.as_fd(), 4242).unwrap();
    assert!(seen.limit == MIB && seen.used <= MIB && seen.used > MIB / 2, "{seen:?}");
    std::fs::write(dir.path().join("neighbour"), vec![1; 2 * MIB as usize]).unwrap();
    quota::limit(fs.as_fd(), 4242, 4 * MIB).unwrap();
    as_a_container(|| file.write_all(&vec![1; MIB as usize])).unwrap();
    std::fs::remove_dir_all(&full).unwrap();
    quota::limit(fs.as_fd(), 4242, 0).unwrap();
    assert_eq!(quota::get(fs.as_fd(), 4242).map_or(0, |p| p.limit), 0);
}
