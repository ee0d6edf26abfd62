//! SELinux: which labels a pod's processes and files get, and that no two pods get the same by chance.
//!
//! A label (context) is `user:role:type:level`. The machine's policy names those of containers (`lxc_contexts`); what a pod or container
//! wishes replaces parts; a level that nobody wishes is a pair of categories that no other pod has, so pods cannot reach each other's
//! files though their types are the same. Follows `github.com/opencontainers/selinux` (`go-selinux/label/label_linux.go`, `InitLabels`) as
//! containerd uses it (`internal/cri/server/container_create.go`). Differs: a container that wishes no level has its pod's (there it
//! gets one of its own, and then the pod's containers cannot share files); wishes are refused where the policy names nothing for
//! containers, instead of left out; text that could not be a label is refused before it is a mount's option.
//!
//! Levels in use are not written down: whoever restarts reads them from the supervisors of what runs, and gives them to
//! [`Selinux::reserve`].

mod context;
mod levels;
mod relabel;

pub use context::{Context, Wish};
pub(crate) use relabel::relabel;

use crate::spec::SelinuxLabels;
use base::Random;
use context::Defaults;
use levels::Levels;
use parking_lot::Mutex;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Where the kernel's side of SELinux is.
const FS: &str = "/sys/fs/selinux";

/// A label cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Error {
    /// As containerd's `checkSelinuxLevel` (`internal/cri/server/helpers.go`).
    #[error("the format of 'level' {0:?} is not correct")]
    Level(String),
    /// The kernel does not know its user, role, type or level, or not in this combination.
    #[error("{0:?} is not a valid SELinux context in this machine's policy")]
    Invalid(String),
    /// Nothing to begin with.
    #[error(
        "this machine's SELinux policy names no contexts for containers (lxc_contexts, of the package container-selinux)"
    )]
    NoDefaults,
    /// More pods than pairs.
    #[error("all pairs of SELinux categories are in use")]
    Exhausted,
}

/// Whether this kernel has SELinux and a policy in it (`GetEnabled`).
pub fn is_enabled() -> bool {
    // SELINUX_MAGIC; the flag is ST_RDONLY.
    let real = rustix::fs::statfs(FS).is_ok_and(|s| s.f_type as u64 & 0xffff_ffff == 0xf97c_ff8c)
        && rustix::fs::statvfs(FS).is_ok_and(|s| !s.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY));
    // Before a policy is loaded everything is called "kernel".
    real && std::fs::read("/proc/thread-self/attr/current")
        .is_ok_and(|now| now.split(|b| *b == 0).next() != Some(b"kernel"))
}

/// The labels of one machine's pods.
pub struct Selinux {
    defaults: Option<Defaults>,
    levels: Mutex<Levels>,
    random: Arc<dyn Random>,
    /// Whether the kernel would take a label.
    check: fn(&str) -> Result<(), Error>,
}

impl Selinux {
    /// `None` where the kernel has none: there wishes have no effect.
    pub fn of_machine(random: Arc<dyn Random>) -> Option<Selinux> {
        if !is_enabled() {
            return None;
        }
        let defaults = Defaults::read();
        if defaults.is_none() {
            tracing::warn!("SELinux confines no containers: {}", Error::NoDefaults);
        }
        Some(Selinux { defaults, levels: Mutex::default(), random, check })
    }

    /// The labels of a new pod, which has its level from now on. `None`: the policy names none, and none are wished.
    pub fn pod(&self, pod: &str, wish: &Wish) -> Result<Option<SelinuxLabels>, Error> {
        wish.check()?;
        let Some(defaults) = &self.defaults else {
            return if wish.is_empty() { Ok(None) } else { Err(Error::NoDefaults) };
        };
        let level = match wish.level.as_str() {
            "" if defaults.process.level.is_empty() => String::new(),
            "" => self.levels.lock().hand_out(pod, self.random.next_u64()).ok_or(Error::Exhausted)?,
            level => {
                self.levels.lock().reserve(pod, level);
                level.to_owned()
            }
        };
        let labels = defaults.labels(wish, &level);
        // That of processes is for containers to complain of; none of the pod's own runs with it.
        (self.check)(&labels.mount).inspect_err(|_| self.release(pod))?;
        Ok(Some(labels))
    }

    /// The labels of a container of this pod. Without a wish they are the pod's. The processes of a `privileged` one do not run with theirs:
    /// nothing confines them, so whatever that label is does. `None`: the pod has none either, because the policy names none, or because
    /// nobody knew of labels when it was made; then a container that is made later must not be kept from the others.
    pub fn container(
        &self,
        pod: &str,
        of_pod: Option<&SelinuxLabels>,
        wish: &Wish,
        privileged: bool,
    ) -> Result<Option<SelinuxLabels>, Error> {
        wish.check()?;
        let labels = match (&self.defaults, of_pod) {
            (None, _) if !wish.is_empty() => return if privileged { Ok(None) } else { Err(Error::NoDefaults) },
            (Some(defaults), Some(of_pod)) if !wish.is_empty() => {
                let inherited = Context::parse(&of_pod.process).map(|c| c.level).unwrap_or_default();
                let level = if wish.level.is_empty() { &inherited } else { &wish.level };
                self.levels.lock().reserve(pod, level);
                defaults.labels(wish, level)
            }
            (_, Some(of_pod)) => of_pod.clone(),
            (_, None) => return Ok(None),
        };
        (self.check)(&labels.mount)?;
        if !privileged {
            (self.check)(&labels.process)?;
        }
        Ok(Some(labels))
    }

    /// The level of this label is in use by this pod.
    pub fn reserve(&self, pod: &str, label: &str) {
        if let Some(context) = Context::parse(label) {
            self.levels.lock().reserve(pod, &context.level);
        }
    }

    /// Nothing of this pod runs any more.
    pub fn release(&self, pod: &str) {
        self.levels.lock().release(pod);
    }
}

/// The label of files of a container with these wishes, for who mounts a file system for it before it is made (`SELinuxOptionsToFileLabel` in
/// `pkg/volume/util/selinux.go` of Kubernetes). `None`: there is none to be known in advance, as a level is not said.
pub fn file_label(wish: &Wish) -> Option<String> {
    if wish.level.is_empty() || wish.check().is_err() || !is_enabled() {
        return None;
    }
    let label = Defaults::read()?.labels(wish, &wish.level).mount;
    check(&label).is_ok().then_some(label)
}

/// Whether the kernel would take this label (`SecurityCheckContext`).
fn check(label: &str) -> Result<(), Error> {
    std::fs::write(Path::new(FS).join("context"), label).map_err(|_| Error::Invalid(label.to_owned()))
}

/// Gives a directory of image layers the label that containers may read: what of a layer is mapped into memory is judged by its own label
/// and not by that of the overlay. What is made in there later has it from its directory. Blocks, the first time for long.
pub fn label_layers(dir: &Path) -> io::Result<()> {
    let Some(defaults) = is_enabled().then(Defaults::read).flatten() else { return Ok(()) };
    let (dir, label) = (sys::fd::open_path(dir)?, defaults.shared.to_string());
    // The top is the last to be labelled.
    match relabel::label_of(dir.as_fd()).as_deref() == Some(&label) {
        true => Ok(()),
        false => relabel(dir.as_fd(), &label),
    }
}

/// Adds a label to the options of a mount, for all its files (`FormatMountLabel`).
pub(crate) fn mount_options(options: &str, label: Option<&str>) -> String {
    match label {
        None => options.to_owned(),
        Some(label) if options.is_empty() => format!("context=\"{label}\""),
        Some(label) => format!("{options},context=\"{label}\""),
    }
}

/// The label of what a descriptor means. Where labels cannot be stored there are none to be wrong.
pub(crate) fn set_file_label(fd: BorrowedFd<'_>, label: &str) -> io::Result<()> {
    use rustix::fs::{XattrFlags, setxattr};
    match setxattr(sys::fd::proc_path(fd), relabel::ATTRIBUTE, label.as_bytes(), XattrFlags::empty()) {
        Err(e) if e == rustix::io::Errno::OPNOTSUPP => Ok(()),
        other => other.map_err(Into::into),
    }
}

/// The way to say what the next exec of this thread becomes, which the machine's /proc has: it is opened while that is at hand, and used
/// when nothing else is left to do. The kernel takes it from the process that opened it only.
#[derive(Debug)]
pub(crate) struct OnExec<'a> {
    label: &'a str,
    file: OwnedFd,
}

impl<'a> OnExec<'a> {
    pub(crate) fn open(label: &'a str) -> io::Result<OnExec<'a>> {
        let file = std::fs::File::options().write(true).open("/proc/thread-self/attr/exec")?;
        Ok(OnExec { label, file: file.into() })
    }

    /// As runc's `SetExecLabel`, before rights are shed. There is no keyring of the container's own to be labelled.
    pub(crate) fn enter(self) -> io::Result<()> {
        use std::io::Write as _;
        std::fs::File::from(self.file).write_all(self.label.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXTS: &str =
        "process = \"system_u:system_r:container_t:s0\"\nfile = \"system_u:object_r:container_file_t:s0\"\n";

    /// Draws the same place every time.
    struct Fixed;

    impl Random for Fixed {
        fn fill(&self, buf: &mut [u8]) {
            buf.fill(7);
        }
    }

    /// The kernel knows everything but this type.
    const UNKNOWN: &str = "unknown_t";

    fn with(contexts: &str) -> Selinux {
        let check = |label: &str| match label.contains(UNKNOWN) {
            true => Err(Error::Invalid(label.to_owned())),
            false => Ok(()),
        };
        Selinux { defaults: Defaults::parse(contexts), levels: Mutex::default(), random: Arc::new(Fixed), check }
    }

    fn selinux() -> Selinux {
        with(CONTEXTS)
    }

    fn wish(user: &str, role: &str, kind: &str, level: &str) -> Wish {
        Wish { user: user.into(), role: role.into(), kind: kind.into(), level: level.into() }
    }

    fn show(labels: &SelinuxLabels) -> String {
        format!("{} {}", labels.process, labels.mount)
    }

    #[test]
    fn pods_have_levels_of_their_own_until_they_are_gone() {
        let selinux = selinux();
        let a = selinux.pod("a", &Wish::default()).unwrap().unwrap();
        let b = selinux.pod("b", &Wish::default()).unwrap().unwrap();
        assert!(a.process.starts_with("system_u:system_r:container_t:s0:c"), "{a:?}");
        let level = Context::parse(&a.process).unwrap().level;
        assert_eq!(a.mount, format!("system_u:object_r:container_file_t:{level}"));
        assert_ne!(a, b);
        selinux.release("a");
        assert_eq!(selinux.pod("c", &Wish::default()).unwrap().unwrap(), a);
    }

    #[test]
    fn levels_of_what_runs_are_not_handed_out_after_a_restart() {
        let before = selinux().pod("a", &Wish::default()).unwrap().unwrap();
        let after = selinux();
        after.reserve("a", &before.process);
        assert_ne!(after.pod("b", &Wish::default()).unwrap().unwrap(), before);
    }

    #[test]
    fn levels_that_were_wished_are_not_handed_out() {
        let drawn = selinux().pod("a", &Wish::default()).unwrap().unwrap();
        let level = Context::parse(&drawn.process).unwrap().level;
        let selinux = selinux();
        for pod in ["a", "b"] {
            let wished = selinux.pod(pod, &wish("", "", "", &level)).unwrap().unwrap();
            assert_eq!(wished, drawn, "a wish is no claim to have it alone");
        }
        selinux.release("a");
        assert_ne!(selinux.pod("c", &Wish::default()).unwrap().unwrap(), drawn, "b has it still");
    }

    #[test]
    fn wishes_replace_parts_and_the_level_stays_the_pods() {
        let selinux = selinux();
        let pod = selinux.pod("a", &wish("", "", "", "s0:c1,c2")).unwrap().unwrap();
        let check = |wish: Wish, want: &str| {
            assert_eq!(show(&selinux.container("a", Some(&pod), &wish, false).unwrap().unwrap()), want)
        };
        let file = "object_r:container_file_t";
        check(Wish::default(), &format!("system_u:system_r:container_t:s0:c1,c2 system_u:{file}:s0:c1,c2"));
        check(wish("", "", "spc_t", ""), &format!("system_u:system_r:spc_t:s0:c1,c2 system_u:{file}:s0:c1,c2"));
        check(wish("u", "r", "t", "s0:c9"), &format!("u:r:t:s0:c9 u:{file}:s0:c9"));
        check(wish("", "r", "", "s0"), &format!("system_u:r:container_t:s0 system_u:{file}:s0"));
    }

    #[test]
    fn what_cannot_be_a_label_is_refused() {
        let selinux = selinux();
        let check = |wish: Wish, want: Error| assert_eq!(selinux.pod("a", &wish), Err(want));
        check(wish("", "", "", "c1,c2"), Error::Level("c1,c2".into()));
        check(wish("", "", "a\",size=1", ""), Error::Invalid("a\",size=1".into()));
        check(wish("a:b", "", "", ""), Error::Invalid("a:b".into()));
    }

    #[test]
    fn without_contexts_for_containers_only_wishes_are_refused() {
        let none = with("sepgsql = \"x\"\n");
        assert_eq!(none.pod("a", &Wish::default()), Ok(None));
        assert_eq!(none.pod("a", &wish("", "", "t", "")), Err(Error::NoDefaults));
        assert_eq!(none.container("a", None, &Wish::default(), false), Ok(None));
        assert_eq!(none.container("a", None, &wish("", "", "t", ""), false), Err(Error::NoDefaults));
        assert_eq!(none.container("a", None, &wish("", "", "t", ""), true), Ok(None), "nothing is to confine it");
        assert_eq!(selinux().container("a", None, &wish("", "", "t", ""), false), Ok(None), "a pod from before");
    }

    #[test]
    fn what_the_kernel_does_not_know_is_refused_where_it_would_be_used() {
        let files = with(&CONTEXTS.replace("container_file_t", UNKNOWN));
        let refused = files.pod("a", &Wish::default());
        assert!(matches!(&refused, Err(Error::Invalid(label)) if label.contains(UNKNOWN)), "{refused:?}");
        assert_eq!(*files.levels.lock(), Levels::default(), "there is no such pod");
        let selinux = selinux();
        let typed = wish("", "", UNKNOWN, "");
        let pod = selinux.pod("a", &typed).unwrap().unwrap();
        for wish in [&typed, &Wish::default()] {
            let refused = selinux.container("a", Some(&pod), wish, false);
            assert_eq!(refused, Err(Error::Invalid(pod.process.clone())));
            assert_eq!(selinux.container("a", Some(&pod), wish, true), Ok(Some(pod.clone())));
        }
        assert!(files.container("a", Some(&pod), &typed, true).is_err(), "its files have a label");
    }

    #[test]
    fn the_label_is_a_quoted_option() {
        assert_eq!(mount_options("mode=755", Some("u:r:t:s0:c1,c2")), "mode=755,context=\"u:r:t:s0:c1,c2\"");
        assert_eq!(mount_options("", Some("u:r:t:s0")), "context=\"u:r:t:s0\"");
        assert_eq!(mount_options("mode=755", None), "mode=755");
    }
}
