//! What the engine needs of the kernel, and what the one that runs lacks of it.

use std::collections::BTreeSet;
use std::fmt;
use sys::cgroup::Cgroups;

/// Something that the kernel does not offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lack {
    what: &'static str,
    effect: &'static str,
    remedy: &'static str,
    /// No container can start without it.
    pub fatal: bool,
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel offers no {}: {}; {}", self.what, self.effect, self.remedy)
    }
}

const OVERLAY: Lack = Lack {
    what: "overlayfs",
    effect: "no container can get its root",
    remedy: "load it (modprobe overlay), or run a kernel with CONFIG_OVERLAY_FS",
    fatal: true,
};
const SECCOMP: Lack = Lack {
    what: "seccomp filters",
    effect: "only containers with the seccomp profile Unconfined start",
    remedy: "run a kernel with CONFIG_SECCOMP_FILTER",
    fatal: true,
};
/// By the name of the controller; cpuacct and devices have other ways on v2.
const CONTROLLERS: [(&str, Lack); 4] = [
    (
        "memory",
        Lack {
            what: "memory cgroup controller",
            effect: "limits of memory are not enforced",
            remedy: "boot with cgroup_enable=memory",
            fatal: false,
        },
    ),
    (
        "cpu",
        Lack {
            what: "cpu cgroup controller",
            effect: "limits and shares of processors are not enforced",
            remedy: "mount it, or run a kernel with CONFIG_CGROUP_SCHED",
            fatal: false,
        },
    ),
    (
        "pids",
        Lack {
            what: "pids cgroup controller",
            effect: "limits of processes are not enforced",
            remedy: "mount it, or run a kernel with CONFIG_CGROUP_PIDS",
            fatal: false,
        },
    ),
    (
        "cpuset",
        Lack {
            what: "cpuset cgroup controller",
            effect: "no container can have processors or memory nodes of its own",
            remedy: "mount it, or run a kernel with CONFIG_CPUSETS",
            fatal: false,
        },
    ),
];

/// What the kernel offers of what we need.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Features {
    overlay: bool,
    seccomp: bool,
    controllers: BTreeSet<String>,
}

impl Features {
    pub(crate) fn read(cgroups: &Cgroups) -> Self {
        // Asking for it loads a module that is there.
        let overlay = rustix::mount::fsopen("overlay", rustix::mount::FsOpenFlags::FSOPEN_CLOEXEC);
        let actions = std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
        Features {
            // Whoever may not ask is told when a container starts.
            overlay: !matches!(overlay, Err(rustix::io::Errno::NODEV)),
            seccomp: actions.split_whitespace().any(|a| a == "errno"),
            controllers: cgroups.controllers(),
        }
    }

    pub(crate) fn lacks(&self) -> Vec<Lack> {
        let essential = [(self.overlay, OVERLAY), (self.seccomp, SECCOMP)];
        let limits = CONTROLLERS.map(|(name, lack)| (self.controllers.contains(name), lack));
        essential.into_iter().chain(limits).filter(|(there, _)| !there).map(|(_, lack)| lack).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn features(controllers: &str) -> Features {
        let controllers = controllers.split_whitespace().map(str::to_owned).collect();
        Features { overlay: true, seccomp: true, controllers }
    }

    #[test]
    fn what_is_missing_is_named_with_effect_and_remedy() {
        let shown = |f: &Features| f.lacks().iter().map(Lack::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(shown(&features("cpu cpuacct cpuset memory pids")), "");
        assert_eq!(
            shown(&Features { overlay: false, ..features("cpu cpuset pids") }),
            "the kernel offers no overlayfs: no container can get its root; load it (modprobe overlay), or run a kernel with \
             CONFIG_OVERLAY_FS\n\
             the kernel offers no memory cgroup controller: limits of memory are not enforced; boot with cgroup_enable=memory"
        );
        let fatal = Features { seccomp: false, ..features("") }.lacks();
        assert_eq!(fatal.iter().map(|l| l.fatal).collect::<Vec<_>>(), [true, false, false, false, false]);
    }

    #[test]
    fn this_kernel_runs_containers() {
        let found = Features::read(&Cgroups::detect().expect("cgroups are mounted"));
        assert!(found.lacks().iter().all(|l| !l.fatal), "{found:?}");
        assert!(found.controllers.contains("memory"), "{found:?}");
    }
}
