//! Seccomp profiles compiled to BPF, purely: profile and capabilities in, program out.
//!
//! The program is a binary search over intervals of system call numbers, so that it is short and its cost does not grow with the
//! list; what does not depend on arguments the kernel answers from a bitmap anyway. Calls of another architecture are killed, as
//! libseccomp does. [`RuntimeDefault`](crate::Seccomp::RuntimeDefault) says what `github.com/moby/profiles/seccomp/default.json`
//! says for this architecture (checked 2026-11 against commit 02e898b); its names are kept here as our own table.
//! Invariant: a profile that cannot be compiled exactly is an error, never a weaker filter.

use crate::spec::Seccomp;
use crate::syscalls;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use sys::seccomp::Instruction;

/// Why there is no filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("seccomp: {0}")]
pub struct Error(String);

type Program = Cow<'static, [Instruction]>;

/// [`Seccomp::RuntimeDefault`] for the bounding sets that most containers have.
static PREPARED: OnceLock<Vec<(u64, Vec<Instruction>)>> = OnceLock::new();

/// Compiles what most containers need. The zygote does this once; whoever is forked from it finds it done.
pub(crate) fn prepare() {
    let usual = [crate::caps::mask(&crate::spec::default_capabilities()).unwrap_or(0), 0];
    // One that does not compile is missing here, and its error is told when somebody wants it.
    let compiled = || usual.into_iter().filter_map(|caps| Some((caps, assemble(&default_rules(caps)).ok()?))).collect();
    PREPARED.get_or_init(compiled);
}

/// The filter for a process with these capabilities (bit mask of the bounding set); `None` if everything is allowed.
pub fn compile(profile: &Seccomp, caps: u64) -> Result<Option<Program>, Error> {
    match profile {
        Seccomp::Unconfined => Ok(None),
        Seccomp::RuntimeDefault => {
            let prepared = PREPARED.get().and_then(|all| all.iter().find(|(of, _)| *of == caps));
            prepared.map_or_else(
                || assemble(&default_rules(caps)).map(|program| Some(program.into())),
                |(_, program)| Ok(Some(program.into())),
            )
        }
        Seccomp::Custom(json) => {
            let profile: Profile =
                serde_json::from_str(json).map_err(|e| Error(format!("the profile is not valid: {e}")))?;
            assemble(&profile.rules(caps)?).map(|program| Some(program.into()))
        }
    }
}

// === the language of rules ===

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Eq,
    Ne,
    Lt,
    Le,
    Ge,
    Gt,
    /// Equal after masking.
    Masked(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Condition {
    arg: u8,
    compare: Compare,
    value: u64,
}

/// All conditions must hold. No condition: always.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    conditions: Vec<Condition>,
    action: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rules {
    default: u32,
    calls: BTreeMap<u32, Vec<Rule>>,
}

impl Rules {
    fn add(&mut self, name: &str, conditions: &[Condition], action: u32) {
        if let Some(nr) = syscalls::number(name) {
            self.calls.entry(nr).or_default().push(Rule { conditions: conditions.to_vec(), action });
        }
    }

    fn allow(&mut self, names: &str) {
        names.split_whitespace().for_each(|name| self.add(name, &[], ALLOW));
    }
}

// === RuntimeDefault ===

const ALWAYS: &str = "
    accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown clock_adjtime clock_getres
    clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1
    epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group
    faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchownat fcntl fdatasync
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_requeue futex_wait
    futex_waitv futex_wake futimesat getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername
    getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit get_robust_list getrusage getsid
    getsockname getsockopt get_thread_area gettid gettimeofday getuid getxattr getxattrat inotify_add_watch inotify_init
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents ioprio_get ioprio_set io_setup
    io_submit kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen
    listmount listxattr listxattrat llistxattr lremovexattr lseek lsetxattr lstat madvise map_shadow_stack membarrier
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify
    mq_open mq_timedreceive mq_timedsend mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap
    name_to_handle_at nanosleep newfstatat open openat openat2 pause pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
    pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pwrite64 pwritev
    pwritev2 read readahead readlink readlinkat readv recvfrom recvmmsg recvmsg remap_file_pages removexattr removexattrat
    rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
    rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo sched_getaffinity sched_getattr sched_getparam sched_get_priority_max
    sched_get_priority_min sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam
    sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto setfsgid
    setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid setresuid setreuid setrlimit set_robust_list
    setsid setsockopt set_thread_area set_tid_address setuid setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack
    signalfd signalfd4 socketpair splice stat statfs statmount statx symlink symlinkat sync sync_file_range syncfs sysinfo tee
    tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
    timerfd_settime times tkill truncate umask uname unlink unlinkat uretprobe utime utimensat utimes vfork vmsplice wait4
    waitid write writev process_vm_readv process_vm_writev ptrace arch_prctl modify_ldt";

/// Allowed with a capability.
const WITH_CAPABILITY: &[(&str, &str)] = &[
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr lsm_list_modules
         lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname
         sethostname setns syslog umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday clock_settime"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// Address families above AF_RDS - those below 12 are all allowed - that sockets may have. Missing are families with a history of
/// holes (AF_ALG) or that leave the pod (AF_VSOCK).
const FAMILIES: &[u64] =
    &[13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30, 31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45];

/// Every CLONE_NEW* flag that a process without CAP_SYS_ADMIN could misuse.
const CLONE_NEW: u64 = 0x7e02_0000;

fn default_rules(caps: u64) -> Rules {
    let mut rules = Rules { default: EPERM, calls: BTreeMap::new() };
    rules.allow(ALWAYS);
    let first = |compare, value| Condition { arg: 0, compare, value };
    rules.add("socket", &[first(Compare::Lt, 12)], ALLOW);
    for family in FAMILIES {
        rules.add("socket", &[first(Compare::Eq, *family)], ALLOW);
    }
    for persona in [0, 8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.add("personality", &[first(Compare::Eq, persona)], ALLOW);
    }
    let has = |name| crate::caps::number(name).is_some_and(|n| caps & (1 << n) != 0);
    for (cap, names) in WITH_CAPABILITY {
        if has(cap) {
            rules.allow(names);
        }
    }
    if !has("SYS_ADMIN") {
        rules.add("clone", &[first(Compare::Masked(CLONE_NEW), 0)], ALLOW);
        // Its flags are in memory, out of a filter's sight; libc falls back to clone.
        rules.add("clone3", &[], libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    }
    rules
}

// === profiles in JSON ===

/// OCI's `linux.seccomp` and Docker's superset with includes and excludes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    syscalls: Vec<Call>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Call {
    #[serde(default)]
    names: Vec<String>,
    name: Option<String>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<Arg>>,
    includes: Option<Filter>,
    excludes: Option<Filter>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Arg {
    index: u8,
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Filter {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

#[cfg(target_arch = "x86_64")]
const DOCKER_ARCH: &str = "amd64";
#[cfg(target_arch = "aarch64")]
const DOCKER_ARCH: &str = "arm64";
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const DOCKER_ARCH: &str = "unknown";

impl Filter {
    fn has_caps(&self, caps: u64, all: bool) -> bool {
        let has = |name: &String| crate::caps::number(name).is_some_and(|n| caps & (1 << n) != 0);
        let list = self.caps.iter().flatten();
        if all { list.clone().all(has) } else { list.clone().any(has) }
    }

    fn has_arch(&self) -> bool {
        self.arches.iter().flatten().any(|a| a == DOCKER_ARCH)
    }

    /// Everything named must hold. Every kernel we run on is newer than any `minKernel` in use (4.8).
    fn included(&self, caps: u64) -> bool {
        let arch = self.arches.as_ref().is_none_or(Vec::is_empty) || self.has_arch();
        let _known = &self.min_kernel;
        arch && self.has_caps(caps, true)
    }

    /// Anything named is enough.
    fn excluded(&self, caps: u64) -> bool {
        self.has_arch() || self.has_caps(caps, false)
    }
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, Error> {
    let data = |default: u32| errno.unwrap_or(default) & libc::SECCOMP_RET_DATA;
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => libc::SECCOMP_RET_ERRNO | data(libc::EPERM as u32),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => libc::SECCOMP_RET_KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => libc::SECCOMP_RET_KILL_PROCESS,
        "SCMP_ACT_TRAP" => libc::SECCOMP_RET_TRAP,
        "SCMP_ACT_LOG" => libc::SECCOMP_RET_LOG,
        "SCMP_ACT_TRACE" => libc::SECCOMP_RET_TRACE | data(libc::EPERM as u32),
        other => return Err(Error(format!("action {other:?} is not supported"))),
    })
}

impl Profile {
    fn rules(&self, caps: u64) -> Result<Rules, Error> {
        let mut rules =
            Rules { default: action(&self.default_action, self.default_errno_ret)?, calls: BTreeMap::new() };
        for call in &self.syscalls {
            let included = call.includes.as_ref().is_none_or(|f| f.included(caps));
            let excluded = call.excludes.as_ref().is_some_and(|f| f.excluded(caps));
            if !included || excluded {
                continue;
            }
            let action = action(&call.action, call.errno_ret)?;
            let conditions: Result<Vec<Condition>, Error> = call.args.iter().flatten().map(Arg::condition).collect();
            let conditions = conditions?;
            for name in call.names.iter().chain(&call.name) {
                rules.add(name, &conditions, action);
            }
        }
        Ok(rules)
    }
}

impl Arg {
    fn condition(&self) -> Result<Condition, Error> {
        let (compare, value) = match self.op.as_str() {
            "SCMP_CMP_EQ" => (Compare::Eq, self.value),
            "SCMP_CMP_NE" => (Compare::Ne, self.value),
            "SCMP_CMP_LT" => (Compare::Lt, self.value),
            "SCMP_CMP_LE" => (Compare::Le, self.value),
            "SCMP_CMP_GE" => (Compare::Ge, self.value),
            "SCMP_CMP_GT" => (Compare::Gt, self.value),
            "SCMP_CMP_MASKED_EQ" => (Compare::Masked(self.value), self.value_two),
            other => return Err(Error(format!("comparison {other:?} is not supported"))),
        };
        if self.index > 5 {
            return Err(Error(format!("a system call has no argument {}", self.index)));
        }
        Ok(Condition { arg: self.index, compare, value })
    }
}

// === the assembler ===

const LOAD: u16 = 0x20; // A = data[k]
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const IF_EQ: u16 = 0x15;
const IF_GT: u16 = 0x25;
const IF_GE: u16 = 0x35;
const RETURN: u16 = 0x06;

#[cfg(target_arch = "x86_64")]
const AUDIT_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const AUDIT_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const AUDIT_ARCH: u32 = 0xc000_00f3;

const fn op(code: u16, jt: u8, jf: u8, k: u32) -> Instruction {
    Instruction { code, jt, jf, k }
}

/// The kernel takes no longer program.
const MAX_INSTRUCTIONS: usize = 4096;

fn assemble(rules: &Rules) -> Result<Vec<Instruction>, Error> {
    let mut program = vec![
        op(LOAD, 0, 0, 4),
        op(IF_EQ, 1, 0, AUDIT_ARCH),
        op(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        op(LOAD, 0, 0, 0),
    ];
    program.extend(search(&intervals(rules)?));
    if program.len() > MAX_INSTRUCTIONS {
        return Err(Error(format!(
            "the profile needs {} instructions, the kernel takes {MAX_INSTRUCTIONS}",
            program.len()
        )));
    }
    Ok(program)
}

/// From which number on what is executed; the first starts at 0. Neighbours that do the same are one.
fn intervals(rules: &Rules) -> Result<Vec<(u32, Vec<Instruction>)>, Error> {
    let default = vec![op(RETURN, 0, 0, rules.default)];
    let mut out: Vec<(u32, Vec<Instruction>)> = vec![(0, default.clone())];
    let mut push = |start: u32, code: Vec<Instruction>| match out.last_mut() {
        Some(last) if last.1 == code => {}
        Some(last) if last.0 == start => last.1 = code,
        _ => out.push((start, code)),
    };
    for (&nr, list) in &rules.calls {
        push(nr, leaf(list, rules.default)?);
        push(nr + 1, default.clone());
    }
    // Replacing the code of an interval can make it equal to the one before.
    out.dedup_by(|b, a| a.1 == b.1);
    Ok(out)
}

fn search(intervals: &[(u32, Vec<Instruction>)]) -> Vec<Instruction> {
    match intervals {
        [] => Vec::new(),
        [(_, code)] => code.clone(),
        _ => {
            let (low, high) = intervals.split_at(intervals.len() / 2);
            let low = search(low);
            // Conditional jumps reach 255 instructions, unconditional ones any number.
            let mut out = vec![op(IF_GE, 0, 1, high[0].0), op(JUMP, 0, 0, low.len() as u32)];
            out.extend(low);
            out.extend(search(high));
            out
        }
    }
}

/// The rules of one system call, in order of strictness as libseccomp has it: one without conditions decides alone.
fn leaf(rules: &[Rule], default: u32) -> Result<Vec<Instruction>, Error> {
    if let Some(rule) = rules.iter().find(|r| r.conditions.is_empty()) {
        return Ok(vec![op(RETURN, 0, 0, rule.action)]);
    }
    let mut out = Vec::new();
    for rule in rules {
        out.extend(block(rule)?);
    }
    out.push(op(RETURN, 0, 0, default));
    Ok(out)
}

/// One rule: falls through to whatever follows if a condition does not hold.
fn block(rule: &Rule) -> Result<Vec<Instruction>, Error> {
    // Conditions are emitted back to front, so that the distance to the end of the block is known.
    let mut tail = vec![op(RETURN, 0, 0, rule.action)];
    for c in rule.conditions.iter().rev() {
        let miss = u8::try_from(tail.len()).map_err(|_| Error("a rule has too many conditions".into()))?;
        let mut code = condition(c, miss)?;
        code.extend(tail);
        tail = code;
    }
    Ok(tail)
}

/// Falls through if it holds, else skips itself and `miss` more instructions. Compares 64 bits as two words, high word first.
fn condition(c: &Condition, miss: u8) -> Result<Vec<Instruction>, Error> {
    let low_at = 16 + 8 * u32::from(c.arg);
    let (high, low) = ((c.value >> 32) as u32, c.value as u32);
    let load_high = op(LOAD, 0, 0, low_at + 4);
    let load_low = op(LOAD, 0, 0, low_at);
    let far = |n: u8| miss.checked_add(n).ok_or_else(|| Error("a rule has too many conditions".into()));
    Ok(match c.compare {
        Compare::Eq => vec![load_high, op(IF_EQ, 0, far(2)?, high), load_low, op(IF_EQ, 0, miss, low)],
        Compare::Ne => vec![load_high, op(IF_EQ, 0, 2, high), load_low, op(IF_EQ, miss, 0, low)],
        Compare::Masked(mask) => vec![
            load_high,
            op(AND, 0, 0, (mask >> 32) as u32),
            op(IF_EQ, 0, far(3)?, high),
            load_low,
            op(AND, 0, 0, mask as u32),
            op(IF_EQ, 0, miss, low),
        ],
        // high > : holds; high < : misses; equal: the low word decides.
        Compare::Gt => {
            vec![load_high, op(IF_GT, 3, 0, high), op(IF_EQ, 0, far(2)?, high), load_low, op(IF_GT, 0, miss, low)]
        }
        Compare::Ge => {
            vec![load_high, op(IF_GT, 3, 0, high), op(IF_EQ, 0, far(2)?, high), load_low, op(IF_GE, 0, miss, low)]
        }
        // high > : misses; high < : holds.
        Compare::Lt => {
            vec![load_high, op(IF_GT, far(3)?, 0, high), op(IF_EQ, 0, 2, high), load_low, op(IF_GE, miss, 0, low)]
        }
        Compare::Le => {
            vec![load_high, op(IF_GT, far(3)?, 0, high), op(IF_EQ, 0, 2, high), load_low, op(IF_GT, miss, 0, low)]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], call: &str, args: &[u64]) -> u32 {
        let nr = syscalls::number(call).unwrap();
        let mut data = vec![nr, AUDIT_ARCH, 0, 0];
        for i in 0..6 {
            let arg = args.get(i).copied().unwrap_or(0);
            data.extend([arg as u32, (arg >> 32) as u32]);
        }
        let (mut pc, mut a) = (0, 0);
        loop {
            let i = program[pc];
            pc += 1;
            let mut branch = |yes: bool| pc += usize::from(if yes { i.jt } else { i.jf });
            match i.code {
                LOAD => a = data[i.k as usize / 4],
                AND => a &= i.k,
                JUMP => pc += i.k as usize,
                IF_EQ => branch(a == i.k),
                IF_GT => branch(a > i.k),
                IF_GE => branch(a >= i.k),
                RETURN => return i.k,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    #[test]
    fn the_default_profile_depends_on_capabilities() {
        let plain = compile(&Seccomp::RuntimeDefault, 0).unwrap().unwrap();
        let admin = compile(&Seccomp::RuntimeDefault, 1 << 21).unwrap().unwrap();
        assert!(plain.len() < 600, "{}", plain.len());
        for (call, args, plain_want, admin_want) in [
            ("read", &[][..], ALLOW, ALLOW),
            ("write", &[], ALLOW, ALLOW),
            ("mount", &[], EPERM, ALLOW),
            ("unshare", &[], EPERM, ALLOW),
            ("clone3", &[], ENOSYS, ALLOW),
            ("clone", &[0x11], ALLOW, ALLOW),
            ("clone", &[0x2000_0011], EPERM, ALLOW),
            ("clone", &[0x10_0000_0000], ALLOW, ALLOW),
            ("socket", &[2], ALLOW, ALLOW),
            ("socket", &[16], ALLOW, ALLOW),
            ("socket", &[38], EPERM, EPERM),
            ("socket", &[40], EPERM, EPERM),
            ("personality", &[0xffff_ffff], ALLOW, ALLOW),
            ("personality", &[1], EPERM, EPERM),
            ("reboot", &[], EPERM, EPERM),
            ("keyctl", &[], EPERM, EPERM),
            ("kexec_load", &[], EPERM, EPERM),
            ("io_uring_setup", &[], EPERM, EPERM),
        ] {
            assert_eq!((run(&plain, call, args), run(&admin, call, args)), (plain_want, admin_want), "{call} {args:?}");
        }
    }

    #[test]
    fn every_name_of_the_default_profile_exists() {
        let names = ALWAYS.split_whitespace().chain(WITH_CAPABILITY.iter().flat_map(|(_, n)| n.split_whitespace()));
        let unknown: Vec<&str> = names.filter(|n| syscalls::number(n).is_none()).collect();
        if cfg!(target_arch = "x86_64") {
            assert_eq!(unknown, Vec::<&str>::new());
        }
    }

    #[test]
    fn comparisons_are_64_bits_wide() {
        let big = 0x1_0000_0005u64;
        for (op, holds) in [
            ("EQ", [false, true, false]),
            ("NE", [true, false, true]),
            ("LT", [true, false, false]),
            ("LE", [true, true, false]),
            ("GE", [false, true, true]),
            ("GT", [false, false, true]),
        ] {
            let json = format!(
                r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{{"names":["kill"],"action":"SCMP_ACT_ERRNO","errnoRet":9,
                    "args":[{{"index":1,"value":{big},"op":"SCMP_CMP_{op}"}},{{"index":0,"value":3,"op":"SCMP_CMP_EQ"}}]}}]}}"#
            );
            let program = compile(&Seccomp::Custom(json), 0).unwrap().unwrap();
            for (value, held) in [big - 1, big, big + 1].into_iter().zip(holds) {
                let want = if held { libc::SECCOMP_RET_ERRNO | 9 } else { ALLOW };
                assert_eq!(run(&program, "kill", &[3, value]), want, "{op} {value:#x}");
                assert_eq!(run(&program, "kill", &[4, value]), ALLOW);
            }
            for value in [5, 0x2_0000_0000] {
                let want = if holds[usize::from(value > big) * 2] { libc::SECCOMP_RET_ERRNO | 9 } else { ALLOW };
                assert_eq!(run(&program, "kill", &[3, value]), want, "{op} {value:#x}");
            }
        }
    }

    #[test]
    fn a_profile_that_is_not_understood_is_an_error() {
        for json in ["", "{}", r#"{"defaultAction":"SCMP_ACT_NOTIFY"}"#] {
            compile(&Seccomp::Custom(json.into()), 0).unwrap_err();
        }
    }
}
