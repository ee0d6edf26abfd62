//! The launcher: what runs in a freshly cloned child between the supervisor and the container's program.
//!
//! Single-threaded, disposable: it either becomes the program or sends one sentence over `sync` and exits. It tells the supervisor
//! "started" by the close of `sync` at exec. Steps and their order follow runc (`libcontainer/rootfs_linux.go`,
//! `libcontainer/init_linux.go`, `standard_init_linux.go`); the mounts themselves are made detached and attached by descriptor.
//! Invariants: not dumpable until exec; every path in the container is resolved inside its root; nothing but stdio survives exec.

use crate::caps;
use crate::hooks::{self, Bundle};
use crate::seccomp;
use crate::selinux::{self, OnExec};
use crate::spec::{
    ContainerSpec, Device, Hook, IdRange, Mount, MountKind, PodSandboxSpec, Process, Propagation, ReadOnly, Rootfs,
};
use crate::user;
use crate::users::Users;
use std::convert::Infallible;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use sys::cgroup::Mode;
use sys::mount::{Attr, Detached, Resolve};

/// A sentence that names the step and what it was about.
#[derive(Debug)]
pub(crate) struct Failure(String);

type Result<T> = std::result::Result<T, Failure>;

/// The kernel's reason without Rust's decoration, in the lower case that people know from other runtimes.
pub(crate) fn reason(e: &io::Error) -> String {
    let text = e.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_lowercase().collect::<String>() + chars.as_str())
}

trait Step<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Step<T> for io::Result<T> {
    fn step(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|e| Failure(format!("{}: {}", what(), reason(&e))))
    }
}

/// First byte of a message on `sync`: a terminal's master comes with it.
pub(crate) const SYNC_TERMINAL: u8 = b'T';
/// First byte of a message on `sync`: nothing is left to do but to shed rights and execute. Without it the close of `sync` is the
/// launcher's death, not the start of the program.
pub(crate) const SYNC_READY: u8 = b'R';
/// First byte of a message on `sync`: the rest is why it failed.
pub(crate) const SYNC_FAILURE: u8 = b'E';

/// Where the process's standard streams come from.
#[derive(Debug)]
pub(crate) enum Stdio {
    /// These.
    Given([OwnedFd; 3]),
    /// A terminal of the container's own devpts; the master goes to the supervisor.
    Terminal,
}

/// What a container's launcher needs beyond the spec.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) spec: &'a ContainerSpec,
    pub(crate) pod: &'a PodSandboxSpec,
    /// An existing empty directory onto which the root is attached for a moment, in our mount namespace only.
    pub(crate) scratch: &'a Path,
    /// The pod's `/dev/shm`.
    pub(crate) shm: Option<Detached>,
    /// A mount that shows the pod's network, for the one place that wants it.
    pub(crate) sysfs: Option<Detached>,
    /// The parts of the cgroup that the process was not born in.
    pub(crate) cgroup: sys::cgroup::Entry,
    pub(crate) cgroup_mode: Mode,
    pub(crate) v1_mounts: Vec<sys::cgroup::V1Mount>,
    pub(crate) stdio: Stdio,
    pub(crate) sync: OwnedFd,
}

/// What an exec's launcher needs beyond the process.
#[derive(Debug)]
pub(crate) struct LaunchExec<'a> {
    pub(crate) process: &'a Process,
    /// The container's first process.
    pub(crate) target: OwnedFd,
    /// Of the pod's user namespace.
    pub(crate) ids: Option<IdRange>,
    /// The parts of the cgroup that the process was not born in.
    pub(crate) cgroup: sys::cgroup::Entry,
    pub(crate) stdio: Stdio,
    pub(crate) sync: OwnedFd,
}

/// Becomes the container, or reports and exits.
pub(crate) fn run(launch: Launch<'_>) -> ! {
    let sync = launch.sync.as_fd();
    let Err(failure) = container(&launch, sync);
    report(sync, &failure)
}

/// Becomes the process, or reports and exits.
pub(crate) fn run_exec(launch: LaunchExec<'_>) -> ! {
    let sync = launch.sync.as_fd();
    let Err(failure) = exec(&launch, sync);
    report(sync, &failure)
}

fn report(sync: BorrowedFd<'_>, failure: &Failure) -> ! {
    let text = failure.0.as_bytes();
    let cut = text.len().min(8000);
    // If the supervisor is gone nobody is left to be told.
    sys::socket::send(sync, &[&[SYNC_FAILURE], &text[..cut]], &[], false).ok();
    sys::process::exit_now(1)
}

fn container(launch: &Launch<'_>, sync: BorrowedFd<'_>) -> Result<Infallible> {
    let spec = launch.spec;
    let label = before_namespaces(&spec.process, &launch.cgroup)?;
    let users = Users::of_pod(launch.pod).step(|| "failed to open the user namespace of the pod".into())?;
    let users = users.as_ref();
    let shared = open_shared_sources(spec, users)?;
    sys::mount::make_all_slaves().step(|| "failed to make the mounts of the host slaves".into())?;
    let null = verified_null()?;
    let root = attach_root(launch, users)?;
    let root = root.as_fd();
    let ids = users.map(|u| u.ids);
    own_what_is_made(ids)?;
    let cgroups = own_cgroups(launch);
    sys::process::unshare(libc::CLONE_NEWCGROUP).step(|| "failed to create a cgroup namespace".into())?;
    for (mount, shared) in spec.mounts.iter().zip(shared) {
        mount_one(launch, users, root, mount, shared, &cgroups).map_err(|f| {
            Failure(format!("error mounting {} to rootfs at {:?}: {}", source_of(mount), mount.destination, f.0))
        })?;
    }
    for (name, value) in &spec.sysctls {
        if !crate::supervisor::is_namespaced(name, launch.pod) {
            return Err(Failure(format!("sysctl {name:?} is not in a namespace of the pod")));
        }
        write_sysctl(name, value).step(|| format!("failed to set sysctl {name}={value}"))?;
    }
    run_create_hooks(launch)?;
    let tty = match launch.stdio {
        Stdio::Terminal => Some(container_terminal(root, sync)?),
        Stdio::Given(_) => None,
    };
    if let Some(slave) = &tty {
        bind_console(root, slave.as_fd()).step(|| "failed to bind /dev/console".into())?;
    }
    for path in &spec.masked_paths {
        mask(root, path, null.as_fd(), spec.mount_label.as_deref()).step(|| format!("failed to mask path {path:?}"))?;
    }
    for path in &spec.readonly_paths {
        make_readonly(root, path).step(|| format!("failed to make path {path:?} read-only"))?;
    }
    make_cwd(root, &spec.process.cwd)?;
    if spec.readonly_rootfs {
        sys::mount::set_attr(root, Attr::RDONLY, None, false).step(|| "failed to make the rootfs read-only".into())?;
    }
    sys::mount::pivot_root(root).step(|| "failed to change the root (pivot_root)".into())?;
    let program = Program { process: &spec.process, label, container: &spec.id, hooks: &spec.hooks.start_container };
    become_process(program, &launch.stdio, tty, sync, ids, || {
        users.map_or(Ok(()), |u| u.enter_new()).step(|| "failed to enter the user namespace of the pod".into())
    })
}

fn exec(launch: &LaunchExec<'_>, sync: BorrowedFd<'_>) -> Result<Infallible> {
    let label = before_namespaces(launch.process, &launch.cgroup)?;
    sys::process::setns(launch.target.as_fd(), libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP)
        .step(|| "failed to join the namespaces of the container".into())?;
    own_what_is_made(launch.ids)?;
    let tty = match launch.stdio {
        Stdio::Terminal => {
            let root = sys::fd::open_path(Path::new("/")).step(|| "failed to open /".into())?;
            Some(container_terminal(root.as_fd(), sync)?)
        }
        Stdio::Given(_) => None,
    };
    let program = Program { process: launch.process, label, container: "", hooks: &[] };
    become_process(program, &launch.stdio, tty, sync, launch.ids, || match launch.ids {
        Some(_) => sys::process::setns(launch.target.as_fd(), libc::CLONE_NEWUSER)
            .step(|| "failed to join the user namespace of the container".into()),
        None => Ok(()),
    })
}

/// Programs of the machine that change what the container finds, in its mount namespace but with the machine's files still in sight.
fn run_create_hooks(launch: &Launch<'_>) -> Result<()> {
    let spec = launch.spec;
    if spec.hooks.is_empty() {
        return Ok(());
    }
    if launch.pod.users.is_some() {
        return Err(Failure("hooks are not supported in a pod with users of its own".into()));
    }
    let dir = launch.scratch.with_file_name(format!("bundle-{}", spec.id));
    let bundle = Bundle::make(dir, spec, launch.scratch).step(|| "failed to write the bundle for hooks".into())?;
    bundle.run("createContainer", &spec.hooks.create_container, &spec.id).map_err(Failure)
}

/// What is made in the container from here on (mount points, devices, `/dev/shm`) belongs to its root.
fn own_what_is_made(ids: Option<IdRange>) -> Result<()> {
    ids.map_or(Ok(()), |ids| sys::process::set_file_owner(ids.first, ids.first))
        .step(|| "failed to become the owner of the container's files".into())
}

/// What needs the machine's /proc and rights.
fn before_namespaces<'a>(process: &'a Process, cgroup: &sys::cgroup::Entry) -> Result<Option<OnExec<'a>>> {
    // Half a container that nobody knows of must not go on; a whole one is found in its cgroup.
    sys::process::set_parent_death_signal(libc::SIGKILL).step(|| "failed to be bound to the supervisor".into())?;
    sys::process::set_dumpable(false).step(|| "failed to become undumpable".into())?;
    sys::process::reset_signals().step(|| "failed to reset signals".into())?;
    sys::process::setsid().step(|| "failed to start a session".into())?;
    cgroup.complete().step(|| "failed to join the cgroup".into())?;
    if let Some(adj) = process.oom_score_adj {
        match std::fs::write("/proc/self/oom_score_adj", adj.to_string()) {
            // Lowering needs CAP_SYS_RESOURCE, which not every machine gives us (ENGINE §6.9).
            Err(e) if e.raw_os_error() == Some(libc::EACCES) || e.raw_os_error() == Some(libc::EPERM) => {}
            other => other.step(|| format!("failed to set oom_score_adj to {adj}"))?,
        }
    }
    if let Some(profile) = &process.apparmor {
        crate::apparmor::enter_on_exec(profile).step(|| format!("failed to apply the AppArmor profile {profile:?}"))?;
    }
    for limit in &process.rlimits {
        let Some(number) = caps::rlimit(&limit.kind) else {
            return Err(Failure(format!("invalid rlimit type: {}", limit.kind)));
        };
        let max = sys::process::rlimit(number).map_or(u64::MAX, |(_, hard)| hard);
        if sys::process::set_rlimit(number, limit.soft, limit.hard).is_err() {
            // Above our own hard limit without CAP_SYS_RESOURCE: as much as there is.
            sys::process::set_rlimit(number, limit.soft.min(max), limit.hard.min(max))
                .step(|| format!("failed to set {}", limit.kind))?;
        }
    }
    process.selinux.as_deref().map(OnExec::open).transpose().step(|| label_failed(process.selinux.as_deref()))
}

fn label_failed(label: Option<&str>) -> String {
    format!("failed to apply the SELinux label {:?}", label.unwrap_or_default())
}

// === the root ===

fn attach_root(launch: &Launch<'_>, users: Option<&Users>) -> Result<OwnedFd> {
    let rootfs = match &launch.spec.rootfs {
        Rootfs::Path(path) => {
            let tree = Detached::clone_path(path, true).step(|| format!("failed to bind rootfs {path:?}"))?;
            mapped(tree, users, true).step(|| format!("failed to map the owners of rootfs {path:?}"))?
        }
        Rootfs::Overlay { lower, upper, work, volatile } => {
            make_upper(lower, upper, work, users)?;
            if *volatile {
                // The kernel's mark of an earlier volatile mount, as after a failed start; it means nothing within one boot.
                std::fs::remove_dir_all(work.join("work/incompat")).ok();
            }
            with_mapped(lower, users, launch.scratch, |lower| {
                let context = launch.spec.mount_label.as_deref();
                sys::mount::Overlay { lower, upper: Some((upper, work)), volatile: *volatile, context }
                    .mount(launch.scratch)
            })
            .step(|| format!("failed to mount overlay of {lower:?} with upper {upper:?}"))?
        }
    };
    rootfs
        .set(Attr::default(), Some(sys::mount::Propagation::Private), true)
        .step(|| "failed to make the rootfs private".into())?;
    let scratch = sys::fd::open_path(launch.scratch).step(|| format!("failed to open {:?}", launch.scratch))?;
    rootfs.attach(scratch.as_fd()).step(|| format!("failed to attach the rootfs at {:?}", launch.scratch))?;
    sys::fd::open_path(launch.scratch).step(|| format!("failed to open {:?}", launch.scratch))
}

/// A tree whose files belong to the pod's users.
fn mapped(tree: Detached, users: Option<&Users>, recursive: bool) -> io::Result<Detached> {
    let Some(users) = users else { return Ok(tree) };
    match tree.map_ids(users.namespace.as_fd(), recursive) {
        Ok(()) => Ok(tree),
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "the kernel cannot map owners of files on this file system, which a pod with a user namespace needs (tmpfs: Linux 6.3)",
        )),
        Err(e) => Err(e),
    }
}

/// Mounts layers whose files belong to the pod's users: overlay takes paths, so they are attached for a moment, on a tmpfs at `scratch`.
fn with_mapped(
    layers: &[PathBuf],
    users: Option<&Users>,
    scratch: &Path,
    mount: impl FnOnce(&[PathBuf]) -> io::Result<Detached>,
) -> io::Result<Detached> {
    if users.is_none() {
        return mount(layers);
    }
    let shelf = Detached::new_fs("tmpfs", &[("mode", "700")], Attr::default())?;
    shelf.attach(sys::fd::open_path(scratch)?.as_fd())?;
    let place = |(at, layer): (usize, &PathBuf)| {
        let path = scratch.join(at.to_string());
        std::fs::create_dir(&path)?;
        mapped(Detached::clone_path(layer, false)?, users, false)?.attach(sys::fd::open_path(&path)?.as_fd())?;
        Ok(path)
    };
    let mounted =
        layers.iter().enumerate().map(place).collect::<io::Result<Vec<PathBuf>>>().and_then(|all| mount(&all));
    sys::mount::unmount_lazily(scratch)?;
    mounted
}

/// The root directory looks like the upper one, so a new upper directory gets mode and owner of the layer below.
fn make_upper(lower: &[PathBuf], upper: &Path, work: &Path, users: Option<&Users>) -> Result<()> {
    if !upper.exists() {
        std::fs::create_dir_all(upper).step(|| format!("failed to create {upper:?}"))?;
        if let Some(meta) = lower.first().and_then(|l| std::fs::metadata(l).ok()) {
            std::fs::set_permissions(upper, meta.permissions())
                .step(|| format!("failed to set the mode of {upper:?}"))?;
            std::os::unix::fs::chown(upper, Some(meta.uid()), Some(meta.gid()))
                .step(|| format!("failed to set the owner of {upper:?}"))?;
        }
    }
    if let Some(users) = users {
        // Whoever made it knew nothing of them; after a failed start it is theirs already.
        let meta = std::fs::metadata(upper).step(|| format!("failed to look at {upper:?}"))?;
        std::os::unix::fs::chown(upper, users.on_machine(meta.uid()), users.on_machine(meta.gid()))
            .step(|| format!("failed to give {upper:?} to the users of the pod"))?;
    }
    std::fs::create_dir_all(work).step(|| format!("failed to create {work:?}"))
}

/// Trees that stay peers of the host's must be cloned before everything becomes a slave.
fn open_shared_sources(spec: &ContainerSpec, users: Option<&Users>) -> Result<Vec<Option<Detached>>> {
    let open = |mount: &Mount| match (&mount.kind, mount.propagation) {
        (MountKind::Bind { .. }, Propagation::Shared) => open_source(spec, mount, users)
            .map(Some)
            .map_err(|f| Failure(format!("error mounting {}: {}", source_of(mount), f.0))),
        _ => Ok(None),
    };
    spec.mounts.iter().map(open).collect()
}

fn open_source(spec: &ContainerSpec, mount: &Mount, users: Option<&Users>) -> Result<Detached> {
    let MountKind::Bind { source, sub_path, recursive } = &mount.kind else {
        return Err(Failure("not a bind mount".into()));
    };
    let open = || sys::fd::open_path(source).step(|| format!("failed to open {source:?}"));
    let label = spec.mount_label.as_deref().filter(|_| mount.relabel);
    let relabel = |place: BorrowedFd<'_>, label: &str| {
        selinux::relabel(place, label).step(|| format!("failed to give {source:?} the SELinux label {label:?}"))
    };
    let tree = match sub_path {
        None => {
            label.map_or(Ok(()), |label| relabel(open()?.as_fd(), label))?;
            Detached::clone_path(source, *recursive).step(|| format!("failed to open {source:?}"))
        }
        Some(sub) => {
            let base = open()?;
            let below = sys::mount::open_below(base.as_fd(), sub, Resolve::Beneath)
                .step(|| format!("failed to open {sub:?} below {source:?}"))?;
            label.map_or(Ok(()), |label| relabel(below.as_fd(), label))?;
            Detached::clone_fd(below.as_fd(), *recursive).step(|| format!("failed to bind {sub:?} below {source:?}"))
        }
    };
    let users = users.filter(|_| !mount.unmapped);
    mapped(tree?, users, *recursive).step(|| format!("failed to map the owners of {source:?}"))
}

fn source_of(mount: &Mount) -> String {
    match &mount.kind {
        MountKind::Bind { source, .. } => format!("{source:?}"),
        MountKind::Tmpfs { .. } => "tmpfs".into(),
        MountKind::Overlay { .. } => "overlay".into(),
        MountKind::Proc => "proc".into(),
        MountKind::Sysfs => "sysfs".into(),
        MountKind::Dev => "dev".into(),
        MountKind::Shm => "shm".into(),
        MountKind::Mqueue => "mqueue".into(),
        MountKind::Cgroup => "cgroup".into(),
    }
}

fn attr_of(mount: &Mount) -> Attr {
    let pairs = [
        (mount.readonly != ReadOnly::No, Attr::RDONLY),
        (mount.nosuid, Attr::NOSUID),
        (mount.nodev, Attr::NODEV),
        (mount.noexec, Attr::NOEXEC),
    ];
    pairs.into_iter().filter(|(on, _)| *on).fold(Attr::default(), |all, (_, a)| all.and(a))
}

fn mount_one(
    launch: &Launch<'_>,
    users: Option<&Users>,
    root: BorrowedFd<'_>,
    mount: &Mount,
    shared: Option<Detached>,
    cgroups: &[Option<Detached>],
) -> Result<()> {
    let to = &mount.destination;
    let attr = attr_of(mount);
    // A symlink at /proc or /sys of an image would have us configure something else than the kernel's files.
    let resolve = match mount.kind {
        MountKind::Proc | MountKind::Sysfs => Resolve::NoSymlinks,
        _ => Resolve::InRoot,
    };
    let dir = || sys::mount::make_dir_below(root, to, resolve).step(|| "failed to create the mount point".into());
    let at = |kind: &str, attr: Attr, options: &str| {
        sys::mount::mount_at(kind, kind, dir()?.as_fd(), attr, options).step(|| format!("failed to mount {kind}"))
    };
    let label = launch.spec.mount_label.as_deref();
    let memory = |attr: Attr, options: &str| at("tmpfs", attr, &selinux::mount_options(options, label));
    match &mount.kind {
        MountKind::Bind { .. } => bind(root, mount, shared.map_or_else(|| open_source(launch.spec, mount, users), Ok)?),
        MountKind::Overlay { lower, sub_path } => {
            let tree = overlay_readonly(lower, users, launch.scratch, label)?;
            match sub_path {
                None => bind(root, mount, tree),
                Some(sub) => bind(root, mount, part_of(tree, sub, launch.scratch)?),
            }
        }
        MountKind::Tmpfs { options } => memory(attr, options),
        MountKind::Proc => at("proc", attr, ""),
        MountKind::Sysfs => match &launch.sysfs {
            Some(tree) => attach(tree, attr, dir()?.as_fd()),
            None => at("sysfs", attr, ""),
        },
        MountKind::Mqueue => {
            at("mqueue", attr, "")?;
            // Belongs to the namespace: a label as option would be refused where it is mounted already, and the machine's stays.
            let own = launch.pod.ipc != crate::spec::NamespaceMode::Host;
            let Some(label) = label.filter(|_| own) else { return Ok(()) };
            sys::mount::open_below(root, to, Resolve::InRoot)
                .and_then(|top| selinux::set_file_label(top.as_fd(), label))
                .step(|| format!("failed to give it the SELinux label {label:?}"))
        }
        MountKind::Shm => match &launch.shm {
            Some(shm) => {
                let tree = Detached::clone_fd(shm.as_fd(), false);
                // A tree can be attached once only; where the kernel cannot clone a detached one the supervisor cloned for us.
                attach(tree.as_ref().unwrap_or(shm), attr, dir()?.as_fd())
            }
            None if launch.pod.ipc == crate::spec::NamespaceMode::Host => bind(
                root,
                mount,
                Detached::clone_path(Path::new("/dev/shm"), false).step(|| "failed to open /dev/shm".into())?,
            ),
            None => memory(attr, "mode=1777,size=65536k"),
        },
        MountKind::Dev => {
            memory(Attr::NOSUID, "mode=755,size=65536k")?;
            fill_dev(launch.spec, users, root, to)
        }
        MountKind::Cgroup => mount_cgroup(launch, root, mount, attr, cgroups),
    }
}

fn attach(tree: &Detached, attr: Attr, target: BorrowedFd<'_>) -> Result<()> {
    tree.set(attr, Some(sys::mount::Propagation::Private), false).step(|| "failed to set attributes".into())?;
    tree.attach(target).step(|| "failed to attach".into())
}

/// One layer needs no overlay, and overlay takes no single one. With a label there must be one, as layers are shared.
fn overlay_readonly(
    lower: &[PathBuf],
    users: Option<&Users>,
    scratch: &Path,
    context: Option<&str>,
) -> Result<Detached> {
    let nothing = scratch.with_file_name("empty");
    let lower = match (lower, context) {
        ([one], None) => {
            return Detached::clone_path(one, false)
                .and_then(|tree| mapped(tree, users, false))
                .step(|| format!("failed to open {one:?}"));
        }
        ([one], Some(_)) => {
            std::fs::create_dir_all(&nothing).step(|| format!("failed to create {nothing:?}"))?;
            &[one.clone(), nothing]
        }
        _ => lower,
    };
    with_mapped(lower, users, scratch, |lower| {
        sys::mount::Overlay { lower, upper: None, volatile: false, context }.mount(scratch)
    })
    .step(|| format!("failed to mount overlay of {lower:?}"))
}

/// A part of a tree that is mounted nowhere: the kernel clones only what is mounted somewhere, so for a moment it is.
fn part_of(tree: Detached, sub: &Path, scratch: &Path) -> Result<Detached> {
    let open = || sys::fd::open_path(scratch).step(|| format!("failed to open {scratch:?}"));
    tree.attach(open()?.as_fd()).step(|| format!("failed to attach at {scratch:?}"))?;
    let part = sys::mount::open_below(open()?.as_fd(), sub, Resolve::Beneath)
        .and_then(|below| Detached::clone_fd(below.as_fd(), false))
        .step(|| format!("failed to open {sub:?} of the image"));
    sys::mount::unmount_lazily(scratch).step(|| format!("failed to unmount {scratch:?}"))?;
    part
}

fn bind(root: BorrowedFd<'_>, mount: &Mount, tree: Detached) -> Result<()> {
    let kind = sys::mount::file_kind(tree.as_fd()).step(|| "failed to look at the source".into())?;
    let target = if kind.directory {
        sys::mount::make_dir_below(root, &mount.destination, Resolve::InRoot)
    } else {
        sys::mount::make_file_below(root, &mount.destination, Resolve::InRoot)
    };
    let target = target.step(|| "failed to create the mount point".into())?;
    let propagation = match mount.propagation {
        Propagation::Private => sys::mount::Propagation::Private,
        Propagation::Slave => sys::mount::Propagation::Slave,
        Propagation::Shared => sys::mount::Propagation::Shared,
    };
    tree.set(Attr::default(), Some(propagation), true).step(|| "failed to set propagation".into())?;
    let readonly = matches!(mount.kind, MountKind::Overlay { .. });
    let attr = if readonly { attr_of(mount).and(Attr::RDONLY) } else { attr_of(mount) };
    if attr != Attr::default() {
        tree.set(attr, None, mount.readonly == ReadOnly::Recursive).step(|| "failed to set attributes".into())?;
    }
    tree.attach(target.as_fd()).step(|| "failed to attach".into())
}

/// The devices every container has (OCI runtime spec, config-linux "Default Devices").
const DEVICES: &[(&str, u32, u32)] =
    &[("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

fn fill_dev(spec: &ContainerSpec, users: Option<&Users>, root: BorrowedFd<'_>, at: &Path) -> Result<()> {
    let owner = |inside: u32| users.map_or(inside, |u| u.ids.first.saturating_add(inside));
    let dev = sys::mount::open_below(root, at, Resolve::InRoot).step(|| "failed to open it".into())?;
    for (name, major, minor) in DEVICES {
        let number = sys::process::device_number(*major, *minor);
        sys::mount::make_node(dev.as_fd(), Path::new(name), libc::S_IFCHR, 0o666, number, (owner(0), owner(0)))
            .step(|| format!("failed to create device {name}"))?;
    }
    let links = [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("ptmx", "pts/ptmx"),
    ];
    for (name, to) in links {
        sys::mount::make_symlink(dev.as_fd(), name, to).step(|| format!("failed to create link {name}"))?;
    }
    let pts = sys::mount::make_dir_below(dev.as_fd(), Path::new("pts"), Resolve::NoSymlinks)
        .step(|| "failed to create pts".into())?;
    let options = format!("newinstance,ptmxmode=0666,mode=0620,gid={}", owner(5));
    let options = selinux::mount_options(&options, spec.mount_label.as_deref());
    sys::mount::mount_at("devpts", "devpts", pts.as_fd(), Attr::NOSUID.and(Attr::NOEXEC), &options)
        .step(|| "failed to mount devpts".into())?;
    spec.devices.iter().try_for_each(|d| make_device(root, d, (owner(d.uid), owner(d.gid))))
}

fn make_device(root: BorrowedFd<'_>, device: &Device, owner: (u32, u32)) -> Result<()> {
    let step = || format!("failed to create device {:?}", device.path);
    let (Some(parent), Some(name)) = (device.path.parent(), device.path.file_name()) else {
        return Err(Failure(format!("{}: not a path", step())));
    };
    let kind = match device.kind {
        'c' | 'u' => libc::S_IFCHR,
        'b' => libc::S_IFBLK,
        'p' => libc::S_IFIFO,
        other => return Err(Failure(format!("{}: unknown kind {other:?}", step()))),
    };
    let dir = sys::mount::make_dir_below(root, parent, Resolve::InRoot).step(step)?;
    let number = sys::process::device_number(device.major, device.minor);
    match sys::mount::make_node(dir.as_fd(), Path::new(name), kind, device.mode & 0o7777, number, owner) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.step(step),
    }
}

/// Our directory in each hierarchy of v1 as a bind mount, where it can be had. Seen from the namespace that begins there, it is what a new
/// mount would be, but for a new mount the kernel looks at every cgroup of the machine.
fn own_cgroups(launch: &Launch<'_>) -> Vec<Option<Detached>> {
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let bind = |mount: &sys::cgroup::V1Mount| Detached::clone_path(&mount.directory(&own)?, false).ok();
    launch.v1_mounts.iter().map(bind).collect()
}

fn mount_cgroup(
    launch: &Launch<'_>,
    root: BorrowedFd<'_>,
    mount: &Mount,
    attr: Attr,
    cgroups: &[Option<Detached>],
) -> Result<()> {
    let to = &mount.destination;
    let dir = |path: &Path| {
        sys::mount::make_dir_below(root, path, Resolve::InRoot).step(|| format!("failed to create {path:?}"))
    };
    if launch.cgroup_mode == Mode::V2 {
        return sys::mount::mount_at("cgroup2", "cgroup", dir(to)?.as_fd(), attr, "")
            .step(|| "failed to mount cgroup2".into());
    }
    let writable = Attr::NOSUID.and(Attr::NODEV).and(Attr::NOEXEC);
    let options = selinux::mount_options("mode=755", launch.spec.mount_label.as_deref());
    sys::mount::mount_at("tmpfs", "tmpfs", dir(to)?.as_fd(), writable, &options)
        .step(|| "failed to mount tmpfs".into())?;
    // Of the tmpfs, which is empty: what is in it needs no way through the root.
    let top = dir(to)?;
    let inner = |name: &str| {
        sys::mount::make_dir_below(top.as_fd(), Path::new(name), Resolve::NoSymlinks)
            .step(|| format!("failed to create {name:?}"))
    };
    for (v1, own) in launch.v1_mounts.iter().zip(cgroups) {
        let at = inner(&v1.name)?;
        let mounted = match own {
            Some(tree) => {
                tree.set(attr, Some(sys::mount::Propagation::Private), false).and_then(|()| tree.attach(at.as_fd()))
            }
            None => sys::mount::mount_at("cgroup", "cgroup", at.as_fd(), attr, &v1.options),
        };
        mounted.step(|| format!("failed to mount cgroup {}", v1.options))?;
    }
    // Other engines show only the v1 hierarchies here, and software takes a v2 mount for a sign of v2 alone.
    if launch.cgroup_mode == Mode::Hybrid && mount.readonly == ReadOnly::No {
        sys::mount::mount_at("cgroup2", "cgroup", inner("unified")?.as_fd(), attr, "")
            .step(|| "failed to mount cgroup2".into())?;
    }
    sys::mount::set_attr(top.as_fd(), attr, None, false).step(|| "failed to set attributes".into())
}

// === hiding ===

/// The host's /dev/null, checked to be that: a forged one would unmask what it hides (CVE-2025-31133).
fn verified_null() -> Result<OwnedFd> {
    let null = sys::fd::open_path(Path::new("/dev/null")).step(|| "failed to open /dev/null".into())?;
    match sys::mount::file_kind(null.as_fd()) {
        Ok(kind) if kind.char_device == Some((1, 3)) => Ok(null),
        Ok(_) => Err(Failure("/dev/null of this machine is not the null device".into())),
        Err(e) => Err(e).step(|| "failed to look at /dev/null".into()),
    }
}

fn mask(root: BorrowedFd<'_>, path: &Path, null: BorrowedFd<'_>, label: Option<&str>) -> io::Result<()> {
    let target = match sys::mount::open_below(root, path, Resolve::InRoot) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    if sys::mount::file_kind(target.as_fd())?.directory {
        let options = selinux::mount_options("nr_blocks=1,nr_inodes=1", label);
        sys::mount::mount_at("tmpfs", "tmpfs", target.as_fd(), Attr::RDONLY, &options)
    } else {
        let tree = Detached::clone_fd(null, false)?;
        tree.set(Attr::default(), Some(sys::mount::Propagation::Private), false)?;
        tree.attach(target.as_fd())
    }
}

fn make_readonly(root: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let target = match sys::mount::open_below(root, path, Resolve::InRoot) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(()),
        other => other?,
    };
    let tree = Detached::clone_fd(target.as_fd(), true)?;
    let attr = Attr::RDONLY.and(Attr::NOSUID).and(Attr::NODEV).and(Attr::NOEXEC);
    tree.set(attr, Some(sys::mount::Propagation::Private), true)?;
    tree.attach(target.as_fd())
}

/// Writes a sysctl of the current namespaces.
pub(crate) fn write_sysctl(name: &str, value: &str) -> io::Result<()> {
    if name.split(['.', '/']).any(|part| part.is_empty() || part == "..") {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // `net.ipv4.conf.eth0/1.x` writes dots of interface names as slashes; plain names are the common case.
    let path: String = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    std::fs::write(Path::new("/proc/sys").join(path), value)
}

// === terminal ===

fn container_terminal(root: BorrowedFd<'_>, sync: BorrowedFd<'_>) -> Result<OwnedFd> {
    let step = || "failed to open a terminal in the container".to_owned();
    let ptmx =
        sys::mount::open_file_below(root, Path::new("/dev/pts/ptmx"), libc::O_RDWR | libc::O_NOCTTY).step(step)?;
    if !sys::pty::is_devpts(ptmx.as_fd()).step(step)? {
        return Err(Failure(format!("{}: /dev/pts is not a devpts file system", step())));
    }
    let (master, slave) = sys::pty::pair_of(ptmx).step(step)?;
    sys::socket::send(sync, &[&[SYNC_TERMINAL]], &[master.as_fd()], false).step(step)?;
    Ok(slave)
}

fn bind_console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> io::Result<()> {
    let target = sys::mount::make_file_below(root, Path::new("/dev/console"), Resolve::InRoot)?;
    // The slave is in a mount of our namespace (the container's devpts), so it can be cloned.
    let tree = Detached::clone_fd(slave, false)?;
    tree.attach(target.as_fd())
}

// === the process ===

fn make_cwd(root: BorrowedFd<'_>, cwd: &Path) -> Result<()> {
    if cwd.as_os_str().is_empty() || cwd == Path::new("/") {
        return Ok(());
    }
    if !cwd.is_absolute() {
        return Err(Failure(format!("working directory {cwd:?} is not an absolute path")));
    }
    sys::mount::make_dir_below(root, cwd, Resolve::InRoot)
        .map(drop)
        .step(|| format!("failed to create the working directory {cwd:?}"))
}

/// What is left to become.
struct Program<'a> {
    process: &'a Process,
    /// What it becomes by the exec.
    label: Option<OnExec<'a>>,
    container: &'a str,
    /// Run just before it.
    hooks: &'a [Hook],
}

/// Sheds rights in the order of runc's `finalizeNamespace` and executes.
/// `enter` joins the pod's user namespace, if it has one: from there on this is nobody on the machine.
fn become_process(
    program: Program<'_>,
    stdio: &Stdio,
    tty: Option<OwnedFd>,
    sync: BorrowedFd<'_>,
    ids: Option<IdRange>,
    enter: impl FnOnce() -> Result<()>,
) -> Result<Infallible> {
    let process = program.process;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let user = user::resolve(&process.user, &read("/etc/passwd"), &read("/etc/group")).map_err(Failure)?;
    let (env, path) = environment(process, &user);
    let cap = |names: &[String]| caps::mask(names).map_err(|name| Failure(format!("unknown capability {name:?}")));
    let c = &process.capabilities;
    // Nobody can give what he has not got: "all capabilities" means all of ours, which on some machines lack one or two.
    let ours = sys::process::caps().step(|| "failed to read our capabilities".into())?.permitted;
    let bounding = cap(&c.bounding)?;
    let permitted = cap(&c.permitted)? & ours;
    let sets = sys::process::Caps {
        effective: cap(&c.effective)? & permitted,
        permitted,
        inheritable: cap(&c.inheritable)? & ours,
    };
    let ambient = cap(&c.ambient)? & permitted & sets.inheritable;
    let filter = seccomp::compile(&process.seccomp, bounding).map_err(|e| Failure(e.to_string()))?;
    let install = || match &filter {
        Some(program) => sys::seccomp::install(program, false).step(|| "failed to load the seccomp filter".into()),
        None => Ok(()),
    };
    if let Some(label) = program.label {
        // Without user namespace and seccomp filter yet, as runc does it.
        label.enter().step(|| label_failed(process.selinux.as_deref()))?;
    }
    connect_stdio(stdio, tty, ids.map_or(user.uid, |ids| ids.first.saturating_add(user.uid)))?;
    enter()?;
    sys::process::umask(process.umask.unwrap_or(0o022));
    // Before the filter, which may not allow it.
    sys::process::set_parent_death_signal(0).step(|| "failed to be unbound from the supervisor".into())?;
    sys::socket::send(sync, &[&[SYNC_READY]], &[], false).step(|| "failed to tell the supervisor".into())?;
    if !process.no_new_privileges {
        // Needs CAP_SYS_ADMIN, which is about to go.
        install()?;
    }
    sys::process::limit_bounding_caps(bounding).step(|| "failed to drop capabilities".into())?;
    sys::process::set_keep_caps(true).step(|| "failed to keep capabilities".into())?;
    sys::process::set_groups(&user.groups).step(|| format!("failed to set groups {:?}", user.groups))?;
    sys::process::set_gid(user.gid).step(|| format!("failed to set group id {}", user.gid))?;
    sys::process::set_uid(user.uid).step(|| format!("failed to set user id {}", user.uid))?;
    sys::process::set_keep_caps(false).step(|| "failed to forget keeping capabilities".into())?;
    let cwd = if process.cwd.as_os_str().is_empty() { Path::new("/") } else { &process.cwd };
    std::env::set_current_dir(cwd).step(|| format!("chdir to cwd ({cwd:?}) failed"))?;
    // A directory outside the root would be a way out (CVE-2024-21626).
    match sys::process::cwd() {
        Ok(path) if path.starts_with('/') => {}
        Ok(_) => return Err(Failure("current working directory is outside of container mount namespace root".into())),
        Err(e) => return Err(e).step(|| "failed to name the working directory".into()),
    }
    // Permitted first without what the file system user lost: for non-root users only ambient ones survive the exec.
    sys::process::set_caps(sets).step(|| "failed to apply capabilities".into())?;
    sys::process::set_ambient_caps(ambient).step(|| "failed to set ambient capabilities".into())?;
    if process.no_new_privileges {
        sys::process::set_no_new_privs().step(|| "failed to set no_new_privs".into())?;
        install()?;
    }
    sys::fd::cloexec_from(3).step(|| "failed to close descriptors".into())?;
    hooks::run_inside(program.hooks, program.container).map_err(Failure)?;
    execute(&process.args, &env, &path)
}

fn connect_stdio(stdio: &Stdio, tty: Option<OwnedFd>, uid: u32) -> Result<()> {
    let step = || "failed to connect stdio".to_owned();
    match (stdio, tty) {
        (Stdio::Given(fds), _) => {
            // First out of the way of 0, 1 and 2, whatever numbers they have.
            let above: io::Result<Vec<OwnedFd>> = fds.iter().map(|fd| sys::fd::dup_above(fd.as_fd(), 10)).collect();
            for (target, fd) in above.step(step)?.iter().enumerate() {
                own_by(fd.as_fd(), uid);
                sys::fd::dup_onto(fd.as_fd(), target as i32).step(step)?;
            }
            Ok(())
        }
        (Stdio::Terminal, Some(slave)) => {
            own_by(slave.as_fd(), uid);
            sys::pty::make_controlling(slave.as_fd()).step(|| "failed to take the terminal".into())?;
            let slave = sys::fd::dup_above(slave.as_fd(), 10).step(step)?;
            (0..3).try_for_each(|target| sys::fd::dup_onto(slave.as_fd(), target).step(step))
        }
        (Stdio::Terminal, None) => Err(Failure(format!("{}: no terminal", step()))),
    }
}

/// So that a non-root process can open /dev/stdout. Not for files that others use too, such as /dev/null.
fn own_by(fd: BorrowedFd<'_>, uid: u32) {
    let shared = sys::mount::file_kind(fd).is_ok_and(|k| k.char_device == Some((1, 3)));
    if uid != 0 && !shared {
        // Pipes of another owner still work through the open descriptor; only opening by name does not.
        std::os::unix::fs::fchown(fd, Some(uid), None).ok();
    }
}

fn environment(process: &Process, user: &user::Resolved) -> (Vec<String>, String) {
    let mut env = process.env.clone();
    let get = |env: &[String], key: &str| {
        env.iter().rev().find_map(|e| e.strip_prefix(key)?.strip_prefix('=').map(str::to_owned))
    };
    if get(&env, "HOME").is_none_or(|h| h.is_empty()) {
        env.retain(|e| !e.starts_with("HOME="));
        env.push(format!("HOME={}", user.home.as_deref().unwrap_or("/")));
    }
    let path = get(&env, "PATH").unwrap_or_else(|| {
        let default = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        env.push(format!("PATH={default}"));
        default.to_owned()
    });
    (env, path)
}

fn execute(args: &[String], env: &[String], path: &str) -> Result<Infallible> {
    let c = |s: &String| CString::new(s.as_str()).map_err(|_| Failure(format!("{s:?} contains a NUL byte")));
    let argv: Vec<CString> = args.iter().map(c).collect::<Result<_>>()?;
    let envp: Vec<CString> = env.iter().map(c).collect::<Result<_>>()?;
    let Some(program) = args.first().filter(|a| !a.is_empty()) else {
        return Err(Failure("no command: neither args nor image say what to run".into()));
    };
    let fail = |e: io::Error| Failure(format!("exec: {program:?}: {}", reason(&e)));
    if program.contains('/') {
        let file = std::fs::metadata(program).map_err(fail)?;
        if file.is_dir() {
            return Err(Failure(format!("exec: {program:?}: is a directory")));
        }
        return Err(fail(sys::process::exec(&c(program)?, &argv, &envp)));
    }
    let mut denied = None;
    for dir in path.split(':') {
        let file = format!("{}/{program}", if dir.is_empty() { "." } else { dir });
        if std::fs::metadata(&file).is_ok_and(|m| m.is_file()) {
            let e = sys::process::exec(&c(&file)?, &argv, &envp);
            if e.raw_os_error() != Some(libc::EACCES) {
                return Err(fail(e));
            }
            denied = Some(e);
        }
    }
    Err(denied.map_or_else(|| Failure(format!("exec: {program:?}: executable file not found in $PATH")), fail))
}
