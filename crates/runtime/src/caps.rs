//! Names and numbers of capabilities and resource limits.

const NAMES: &[&str] = &[
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// The number of `CAP_CHOWN` or `CHOWN`.
pub fn number(name: &str) -> Option<u32> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES.iter().position(|n| *n == name).map(|n| n as u32)
}

/// A bit mask; the error is the name that does not exist.
pub fn mask(names: &[String]) -> Result<u64, String> {
    names.iter().try_fold(0, |mask, name| match number(name) {
        Some(n) => Ok(mask | 1 << n),
        None => Err(name.clone()),
    })
}

/// Every capability there is, as `CAP_*` names: what a privileged container gets.
pub fn all() -> Vec<String> {
    NAMES.iter().map(|n| format!("CAP_{n}")).collect()
}

/// The usual set with these added and dropped, as `CAP_*` in the kernel's order; `ALL` stands for every one, and adding wins.
/// The error is the name that does not exist (containerd `internal/cri/server/container_create.go`).
pub fn select(add: &[String], drop: &[String]) -> Result<Vec<String>, String> {
    let plain = |name: &String| {
        let upper = name.to_uppercase();
        upper.strip_prefix("CAP_").unwrap_or(&upper).to_owned()
    };
    let [add, drop] = [add, drop].map(|names| names.iter().map(plain).collect::<Vec<_>>());
    if let Some(unknown) = add.iter().chain(&drop).find(|n| *n != "ALL" && number(n).is_none()) {
        return Err(unknown.clone());
    }
    let has = |list: &[String], name: &str| list.iter().any(|n| n == name);
    let usual = crate::spec::default_capabilities();
    let kept = |full: &String| {
        let name = full.trim_start_matches("CAP_");
        let base = (usual.contains(full) && !has(&drop, "ALL")) || has(&add, "ALL");
        (base && !has(&drop, name)) || has(&add, name)
    };
    Ok(all().into_iter().filter(kept).collect())
}

/// The number of a resource limit (`RLIMIT_NOFILE` or `NOFILE`).
pub(crate) fn rlimit(name: &str) -> Option<u32> {
    let name = name.strip_prefix("RLIMIT_").unwrap_or(name);
    // The order of include/uapi/asm-generic/resource.h.
    let names = [
        "CPU",
        "FSIZE",
        "DATA",
        "STACK",
        "CORE",
        "RSS",
        "NPROC",
        "NOFILE",
        "MEMLOCK",
        "AS",
        "LOCKS",
        "SIGPENDING",
        "MSGQUEUE",
        "NICE",
        "RTPRIO",
        "RTTIME",
    ];
    names.iter().position(|n| *n == name).map(|n| n as u32)
}

/// The number of a signal by name (`SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`).
pub fn signal(name: &str) -> Option<i32> {
    if let Ok(n) = name.parse::<i32>() {
        return (1..=64).contains(&n).then_some(n);
    }
    let name = name.strip_prefix("SIG").unwrap_or(name);
    if let Some(n) = name.strip_prefix("RTMIN") {
        let n = if n.is_empty() { 0 } else { n.strip_prefix('+')?.parse::<i32>().ok()? };
        return (0..=30).contains(&n).then_some(34 + n);
    }
    if let Some(n) = name.strip_prefix("RTMAX") {
        let n = if n.is_empty() { 0 } else { n.strip_prefix('-')?.parse::<i32>().ok()? };
        return (0..=30).contains(&n).then_some(64 - n);
    }
    let names = [
        "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE", "ALRM",
        "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ", "VTALRM", "PROF",
        "WINCH", "IO", "PWR", "SYS",
    ];
    let aliases = [("IOT", 6), ("CLD", 17), ("POLL", 29)];
    let found = names.iter().position(|n| *n == name).map(|n| n as i32 + 1);
    found.or_else(|| aliases.iter().find(|(n, _)| *n == name).map(|(_, n)| *n))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(
            [number("CAP_CHOWN"), number("SYS_ADMIN"), number("CAP_CHECKPOINT_RESTORE")],
            [Some(0), Some(21), Some(40)]
        );
        assert_eq!(mask(&["KILL".into(), "CAP_NOPE".into()]), Err("CAP_NOPE".into()));
        assert_eq!(rlimit("RLIMIT_NOFILE"), Some(libc::RLIMIT_NOFILE));
        assert_eq!(["SIGTERM", "9", "SIGRTMIN+3", "USR2"].map(signal), [Some(15), Some(9), Some(37), Some(12)]);
        assert_eq!(["SIGNOPE", "0", "65", "SIGRTMIN+99"].map(signal), [None; 4]);
    }
}
