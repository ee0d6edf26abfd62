//! What each level forbids, in each version (`k8s.io/pod-security-admission/policy`): one function per check, one table.

use api::ObjectMeta;
use api::k8s::api::core::v1::{Container, LifecycleHandler, PodSpec, Probe, SELinuxOptions, SecurityContext, Volume};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How strict, from nothing to much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::admission) enum Level {
    #[default]
    Privileged,
    Baseline,
    Restricted,
}

impl Level {
    pub(super) fn parse(text: &str) -> Option<Level> {
        match text {
            "privileged" => Some(Level::Privileged),
            "baseline" => Some(Level::Baseline),
            "restricted" => Some(Level::Restricted),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        }
    }
}

/// As of which Kubernetes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(in crate::admission) enum Version {
    /// `v1.x`
    Minor(u32),
    /// The newest there is.
    #[default]
    Latest,
}

impl Version {
    pub(super) fn parse(text: &str) -> Option<Version> {
        if text == "latest" {
            return Some(Version::Latest);
        }
        let minor = text.strip_prefix("v1.")?;
        let plain = minor == "0" || !minor.starts_with('0') && minor.bytes().all(|b| b.is_ascii_digit());
        plain.then(|| minor.parse().ok())?.map(Version::Minor)
    }
}

/// A level as of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::admission) struct LevelVersion {
    pub(in crate::admission) level: Level,
    pub(in crate::admission) version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = self.level.as_str();
        match self.version {
            Version::Minor(minor) => write!(f, "{level}:v1.{minor}"),
            Version::Latest => write!(f, "{level}:latest"),
        }
    }
}

/// What a pod does that it may not.
#[derive(Debug, Default)]
pub(super) struct Violations(Vec<Violation>);

#[derive(Debug)]
struct Violation {
    reason: String,
    detail: String,
}

impl Violations {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// In short, for many pods.
    pub(super) fn reasons(&self) -> String {
        self.0.iter().map(|v| v.reason.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// At length, for one.
    pub(super) fn details(&self) -> String {
        let text = |v: &Violation| format!("{} ({})", v.reason, v.detail);
        self.0.iter().map(text).collect::<Vec<_>>().join(", ")
    }
}

/// All that `mode` forbids and the pod does.
pub(super) fn violations(mode: &LevelVersion, meta: &ObjectMeta, spec: &PodSpec) -> Violations {
    if mode.level == Level::Privileged {
        return Violations::default();
    }
    let applies = |c: &&Check| {
        c.level <= mode.level
            && Version::Minor(c.since) <= mode.version
            && c.until.is_none_or(|u| mode.version < Version::Minor(u))
    };
    let checks: Vec<&Check> = CHECKS.iter().filter(applies).collect();
    let overridden: Vec<&str> = checks.iter().filter_map(|c| c.instead_of).collect();
    let pod = Seen { meta, spec };
    Violations(checks.iter().filter(|c| !overridden.contains(&c.id)).filter_map(|c| (c.run)(&pod)).collect())
}

/// A check as it is in a span of versions.
struct Check {
    id: &'static str,
    level: Level,
    since: u32,
    /// From here on another version of the check counts.
    until: Option<u32>,
    /// A baseline check that this one includes.
    instead_of: Option<&'static str>,
    run: fn(&Seen<'_>) -> Option<Violation>,
}

const fn check(id: &'static str, level: Level, since: u32, run: fn(&Seen<'_>) -> Option<Violation>) -> Check {
    Check { id, level, since, until: None, instead_of: None, run }
}

impl Check {
    const fn until(self, minor: u32) -> Self {
        Check { until: Some(minor), ..self }
    }
    const fn instead_of(self, id: &'static str) -> Self {
        Check { instead_of: Some(id), ..self }
    }
}

const BASELINE: Level = Level::Baseline;
const RESTRICTED: Level = Level::Restricted;

/// In the order of their names, baseline first, as texts list them.
const CHECKS: &[Check] = &[
    check("appArmorProfile", BASELINE, 0, app_armor),
    check("capabilities_baseline", BASELINE, 0, capabilities_baseline),
    check("hostNamespaces", BASELINE, 0, host_namespaces),
    check("hostPathVolumes", BASELINE, 0, host_path_volumes),
    check("hostPorts", BASELINE, 0, host_ports),
    check("hostProbesAndHostLifecycle", BASELINE, 34, host_probes),
    check("privileged", BASELINE, 0, privileged),
    check("procMount", BASELINE, 0, proc_mount).until(35),
    check("procMount", BASELINE, 35, |pod| outside_user_namespace(pod, proc_mount)),
    check("seLinuxOptions", BASELINE, 0, |pod| selinux(pod, &SELINUX_TYPES[..4])).until(31),
    check("seLinuxOptions", BASELINE, 31, |pod| selinux(pod, &SELINUX_TYPES)),
    check("seccompProfile_baseline", BASELINE, 0, seccomp_annotations).until(19),
    check("seccompProfile_baseline", BASELINE, 19, seccomp_baseline),
    check("sysctls", BASELINE, 0, |pod| sysctls(pod, 5)).until(27),
    check("sysctls", BASELINE, 27, |pod| sysctls(pod, 6)).until(29),
    check("sysctls", BASELINE, 29, |pod| sysctls(pod, 10)).until(32),
    check("sysctls", BASELINE, 32, |pod| sysctls(pod, SYSCTLS.len())),
    check("windowsHostProcess", BASELINE, 0, windows_host_process),
    check("allowPrivilegeEscalation", RESTRICTED, 8, privilege_escalation).until(25),
    check("allowPrivilegeEscalation", RESTRICTED, 25, |pod| outside_windows(pod, privilege_escalation)),
    check("capabilities_restricted", RESTRICTED, 22, capabilities_restricted)
        .until(25)
        .instead_of("capabilities_baseline"),
    check("capabilities_restricted", RESTRICTED, 25, |pod| outside_windows(pod, capabilities_restricted))
        .instead_of("capabilities_baseline"),
    check("procMount_restricted", RESTRICTED, 35, proc_mount).instead_of("procMount"),
    check("restrictedVolumes", RESTRICTED, 0, restricted_volumes).instead_of("hostPathVolumes"),
    check("runAsNonRoot", RESTRICTED, 0, run_as_non_root).until(35),
    check("runAsNonRoot", RESTRICTED, 35, |pod| outside_user_namespace(pod, run_as_non_root)),
    check("runAsUser", RESTRICTED, 23, run_as_user).until(35),
    check("runAsUser", RESTRICTED, 35, |pod| outside_user_namespace(pod, run_as_user)),
    check("seccompProfile_restricted", RESTRICTED, 19, seccomp_restricted)
        .until(25)
        .instead_of("seccompProfile_baseline"),
    check("seccompProfile_restricted", RESTRICTED, 25, |pod| outside_windows(pod, seccomp_restricted))
        .instead_of("seccompProfile_baseline"),
];

/// Allowed SELinux types; the last one since 1.31.
const SELINUX_TYPES: [&str; 5] = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];

/// Allowed sysctls: 5 since ever, 1 more since 1.27, 4 more since 1.29, 2 more since 1.32.
const SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

// === helpers ===

struct Seen<'a> {
    meta: &'a ObjectMeta,
    spec: &'a PodSpec,
}

/// What checks look at in any container.
struct Part<'a> {
    name: &'a str,
    security: Option<&'a SecurityContext>,
    probes: Vec<&'a Probe>,
    handlers: Vec<&'a LifecycleHandler>,
    host_ports: Vec<i32>,
}

impl<'a> Seen<'a> {
    /// Init containers, containers, ephemeral ones (`visitContainers`).
    fn parts(&self) -> Vec<Part<'a>> {
        let ordinary = |c: &'a Container| Part {
            name: &c.name,
            security: c.security_context.as_ref(),
            probes: [&c.liveness_probe, &c.readiness_probe, &c.startup_probe].into_iter().flatten().collect(),
            handlers: c.lifecycle.iter().flat_map(|l| [&l.post_start, &l.pre_stop]).flatten().collect(),
            host_ports: c.ports.iter().flatten().filter_map(|p| p.host_port).collect(),
        };
        let init = self.spec.init_containers.iter().flatten().map(ordinary);
        let main = self.spec.containers.iter().map(ordinary);
        let ephemeral = self.spec.ephemeral_containers.iter().flatten().map(|c| Part {
            name: &c.name,
            security: c.security_context.as_ref(),
            probes: [&c.liveness_probe, &c.readiness_probe, &c.startup_probe].into_iter().flatten().collect(),
            handlers: c.lifecycle.iter().flat_map(|l| [&l.post_start, &l.pre_stop]).flatten().collect(),
            host_ports: c.ports.iter().flatten().filter_map(|p| p.host_port).collect(),
        });
        init.chain(main).chain(ephemeral).collect()
    }

    fn containers_that(&self, bad: impl Fn(&Part<'a>) -> bool) -> Vec<&'a str> {
        self.parts().iter().filter(|p| bad(p)).map(|p| p.name).collect()
    }
}

fn violation(reason: impl Into<String>, detail: impl Into<String>) -> Option<Violation> {
    Some(Violation { reason: reason.into(), detail: detail.into() })
}

fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect::<Vec<_>>().join(", ")
}

fn plural(word: &str, count: usize) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

/// `container "a"`, `containers "a", "b"`
fn containers(names: &[&str]) -> String {
    format!("{} {}", plural("container", names.len()), quoted(names))
}

/// `pod`, `container "a"`, or both with `and`.
fn setters(pod: bool, names: &[&str]) -> String {
    let own = pod.then(|| "pod".to_owned());
    let theirs = (!names.is_empty()).then(|| containers(names));
    own.into_iter().chain(theirs).collect::<Vec<_>>().join(" and ")
}

fn outside_windows(pod: &Seen<'_>, run: fn(&Seen<'_>) -> Option<Violation>) -> Option<Violation> {
    if pod.spec.os.as_ref().is_some_and(|os| os.name == "windows") { None } else { run(pod) }
}

/// `relaxPolicyForUserNamespacePod`
fn outside_user_namespace(pod: &Seen<'_>, run: fn(&Seen<'_>) -> Option<Violation>) -> Option<Violation> {
    if pod.spec.host_users == Some(false) { None } else { run(pod) }
}

// === baseline ===

fn app_armor(pod: &Seen<'_>) -> Option<Violation> {
    fn bad(profile: Option<&str>) -> Option<&str> {
        profile.filter(|t| !matches!(*t, "RuntimeDefault" | "Localhost"))
    }
    let of_pod = bad(pod.spec.security_context.as_ref().and_then(|s| s.app_armor_profile.as_ref()).map(|p| &*p.type_));
    let of =
        |p: &Part<'_>| bad(p.security.and_then(|s| s.app_armor_profile.as_ref()).map(|p| &*p.type_)).map(str::to_owned);
    let names = pod.containers_that(|p| of(p).is_some());
    let mut values: BTreeSet<String> = pod.parts().iter().filter_map(of).collect();
    values.extend(of_pod.map(str::to_owned));
    let allowed = |v: &str| v.is_empty() || v == "runtime/default" || v.starts_with("localhost/");
    let annotations: Vec<String> = pod
        .meta
        .annotations
        .iter()
        .flatten()
        .filter(|(k, v)| k.starts_with("container.apparmor.security.beta.kubernetes.io/") && !allowed(v))
        .map(|(k, v)| format!("{k}={v:?}"))
        .collect();
    let mut who = setters(of_pod.is_some(), &names);
    if !annotations.is_empty() {
        let and = if who.is_empty() { "" } else { " and " };
        who = format!("{who}{and}{}", plural("annotation", annotations.len()));
    }
    let values: Vec<String> = values.into_iter().chain(annotations).collect();
    if who.is_empty() {
        return None;
    }
    violation(
        plural("forbidden AppArmor profile", values.len()),
        format!("{who} must not set AppArmor profile type to {}", quoted(values)),
    )
}

fn added<'a>(part: &Part<'a>, bad: impl Fn(&str) -> bool) -> Vec<&'a str> {
    let capabilities = part.security.and_then(|s| s.capabilities.as_ref());
    let list = capabilities.and_then(|c| c.add.as_deref()).unwrap_or_default();
    list.iter().map(String::as_str).filter(|c| bad(c)).collect()
}

fn capabilities_baseline(pod: &Seen<'_>) -> Option<Violation> {
    let bad = |c: &str| !CAPABILITIES.contains(&c);
    let names = pod.containers_that(|p| !added(p, bad).is_empty());
    let values: BTreeSet<&str> = pod.parts().iter().flat_map(|p| added(p, bad)).collect();
    if names.is_empty() {
        return None;
    }
    violation(
        "non-default capabilities",
        format!("{} must not include {} in securityContext.capabilities.add", containers(&names), quoted(values)),
    )
}

fn host_namespaces(pod: &Seen<'_>) -> Option<Violation> {
    let spec = pod.spec;
    let all = [("hostNetwork", spec.host_network), ("hostPID", spec.host_pid), ("hostIPC", spec.host_ipc)];
    let used: Vec<String> =
        all.iter().filter(|(_, on)| *on == Some(true)).map(|(name, _)| format!("{name}=true")).collect();
    if used.is_empty() { None } else { violation("host namespaces", used.join(", ")) }
}

fn volumes(names: &[&str]) -> String {
    format!("{} {}", plural("volume", names.len()), quoted(names))
}

fn host_path_volumes(pod: &Seen<'_>) -> Option<Violation> {
    let list = pod.spec.volumes.iter().flatten().filter(|v| v.host_path.is_some());
    let names: Vec<&str> = list.map(|v| v.name.as_str()).collect();
    if names.is_empty() { None } else { violation("hostPath volumes", volumes(&names)) }
}

fn uses(names: usize) -> &'static str {
    if names == 1 { "uses" } else { "use" }
}

fn host_ports(pod: &Seen<'_>) -> Option<Violation> {
    let bad =
        |p: &Part<'_>| -> Vec<String> { p.host_ports.iter().filter(|port| **port != 0).map(i32::to_string).collect() };
    let names = pod.containers_that(|p| !bad(p).is_empty());
    let ports: BTreeSet<String> = pod.parts().iter().flat_map(bad).collect();
    if names.is_empty() {
        return None;
    }
    let list: Vec<&str> = ports.iter().map(String::as_str).collect();
    let ports = plural("hostPort", list.len());
    violation("hostPort", format!("{} {} {ports} {}", containers(&names), uses(names.len()), list.join(", ")))
}

fn host_probes(pod: &Seen<'_>) -> Option<Violation> {
    let bad = |p: &Part<'_>| -> Vec<String> {
        let of_probes = p.probes.iter().flat_map(|probe| {
            [
                probe.http_get.as_ref().and_then(|g| g.host.clone()),
                probe.tcp_socket.as_ref().and_then(|s| s.host.clone()),
            ]
        });
        let of_handlers = p.handlers.iter().flat_map(|h| {
            [h.http_get.as_ref().and_then(|g| g.host.clone()), h.tcp_socket.as_ref().and_then(|s| s.host.clone())]
        });
        of_probes.chain(of_handlers).flatten().filter(|host| !host.is_empty()).collect()
    };
    let mut names = pod.containers_that(|p| !bad(p).is_empty());
    names.sort_unstable();
    names.dedup();
    let hosts: BTreeSet<String> = pod.parts().iter().flat_map(bad).collect();
    if names.is_empty() {
        return None;
    }
    let what = plural("probe or lifecycle host", hosts.len());
    violation(
        "probe or lifecycle host",
        format!("{} {} {what} {}", containers(&names), uses(names.len()), quoted(hosts)),
    )
}

fn privileged(pod: &Seen<'_>) -> Option<Violation> {
    let names = pod.containers_that(|p| p.security.and_then(|s| s.privileged) == Some(true));
    if names.is_empty() {
        return None;
    }
    violation("privileged", format!("{} must not set securityContext.privileged=true", containers(&names)))
}

fn proc_mount(pod: &Seen<'_>) -> Option<Violation> {
    let bad = |p: &Part<'_>| p.security.and_then(|s| s.proc_mount.clone()).filter(|m| m != "Default");
    let names = pod.containers_that(|p| bad(p).is_some());
    let values: BTreeSet<String> = pod.parts().iter().filter_map(bad).collect();
    if names.is_empty() {
        return None;
    }
    violation(
        "procMount",
        format!("{} must not set securityContext.procMount to {}", containers(&names), quoted(values)),
    )
}

fn selinux(pod: &Seen<'_>, allowed: &[&str]) -> Option<Violation> {
    let set = |text: &Option<String>| text.as_ref().is_some_and(|t| !t.is_empty());
    let kind = |o: &SELinuxOptions| o.type_.clone().unwrap_or_default();
    let bad = |o: &&SELinuxOptions| !allowed.contains(&&*kind(o)) || set(&o.user) || set(&o.role);
    let of_pod = pod.spec.security_context.as_ref().and_then(|s| s.se_linux_options.as_ref()).filter(bad);
    let names = pod.containers_that(|p| p.security.and_then(|s| s.se_linux_options.as_ref()).filter(bad).is_some());
    let parts = pod.parts();
    let wrong: Vec<&SELinuxOptions> = of_pod
        .into_iter()
        .chain(parts.iter().filter_map(|p| p.security?.se_linux_options.as_ref()).filter(bad))
        .collect();
    if wrong.is_empty() {
        return None;
    }
    let types: BTreeSet<String> = wrong.iter().map(|o| kind(o)).filter(|t| !allowed.contains(&&**t)).collect();
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(&types)));
    }
    if wrong.iter().any(|o| set(&o.user)) {
        data.push("user may not be set".into());
    }
    if wrong.iter().any(|o| set(&o.role)) {
        data.push("role may not be set".into());
    }
    let who = setters(of_pod.is_some(), &names);
    violation("seLinuxOptions", format!("{who} set forbidden securityContext.seLinuxOptions: {}", data.join("; ")))
}

fn seccomp_annotations(pod: &Seen<'_>) -> Option<Violation> {
    let none = BTreeMap::new();
    let annotations = pod.meta.annotations.as_ref().unwrap_or(&none);
    let allowed = |v: &str| matches!(v, "runtime/default" | "docker/default") || v.starts_with("localhost/");
    let of_containers =
        pod.parts().into_iter().map(|p| format!("container.seccomp.security.alpha.kubernetes.io/{}", p.name));
    let keys = std::iter::once("seccomp.security.alpha.kubernetes.io/pod".to_owned()).chain(of_containers);
    let bad: BTreeSet<String> = keys
        .filter_map(|key| {
            let value = annotations.get(&key).filter(|v| !allowed(v))?;
            Some(format!("{key}={value:?}"))
        })
        .collect();
    if bad.is_empty() {
        return None;
    }
    let list: Vec<&str> = bad.iter().map(String::as_str).collect();
    violation("seccompProfile", format!("forbidden {} {}", plural("annotation", list.len()), list.join(", ")))
}

/// Profiles that are set and wrong: of the pod, of containers; and whether the pod's is right.
fn seccomp(pod: &Seen<'_>) -> (Option<Violation>, bool) {
    let good = |t: &str| matches!(t, "RuntimeDefault" | "Localhost");
    let of_pod = pod.spec.security_context.as_ref().and_then(|s| s.seccomp_profile.as_ref()).map(|p| &*p.type_);
    let own = |p: &Part<'_>| p.security.and_then(|s| s.seccomp_profile.as_ref()).map(|p| p.type_.clone());
    let bad = |p: &Part<'_>| own(p).filter(|t| !good(t));
    let names = pod.containers_that(|p| bad(p).is_some());
    let mut values: BTreeSet<String> = pod.parts().iter().filter_map(bad).collect();
    let bad_pod = of_pod.filter(|t| !good(t));
    values.extend(bad_pod.map(str::to_owned));
    let who = setters(bad_pod.is_some(), &names);
    let wrong = (!who.is_empty()).then(|| Violation {
        reason: "seccompProfile".into(),
        detail: format!("{who} must not set securityContext.seccompProfile.type to {}", quoted(&values)),
    });
    (wrong, of_pod.is_some_and(good))
}

fn seccomp_baseline(pod: &Seen<'_>) -> Option<Violation> {
    seccomp(pod).0
}

fn sysctls(pod: &Seen<'_>, allowed: usize) -> Option<Violation> {
    let allowed = SYSCTLS.get(..allowed).unwrap_or(&SYSCTLS);
    let all = pod.spec.security_context.as_ref().and_then(|s| s.sysctls.as_deref()).unwrap_or_default();
    let bad: Vec<&str> = all.iter().map(|s| s.name.as_str()).filter(|n| !allowed.contains(n)).collect();
    if bad.is_empty() { None } else { violation("forbidden sysctls", bad.join(", ")) }
}

fn windows_host_process(pod: &Seen<'_>) -> Option<Violation> {
    let own = pod.spec.security_context.as_ref().and_then(|s| s.windows_options.as_ref()?.host_process) == Some(true);
    let names =
        pod.containers_that(|p| p.security.and_then(|s| s.windows_options.as_ref()?.host_process) == Some(true));
    let who = setters(own, &names);
    if who.is_empty() {
        return None;
    }
    violation("hostProcess", format!("{who} must not set securityContext.windowsOptions.hostProcess=true"))
}

// === restricted ===

fn privilege_escalation(pod: &Seen<'_>) -> Option<Violation> {
    let names = pod.containers_that(|p| p.security.and_then(|s| s.allow_privilege_escalation) != Some(false));
    if names.is_empty() {
        return None;
    }
    violation(
        "allowPrivilegeEscalation != false",
        format!("{} must set securityContext.allowPrivilegeEscalation=false", containers(&names)),
    )
}

fn capabilities_restricted(pod: &Seen<'_>) -> Option<Violation> {
    let drops_all = |p: &Part<'_>| {
        let capabilities = p.security.and_then(|s| s.capabilities.as_ref());
        capabilities.and_then(|c| c.drop.as_ref()).is_some_and(|d| d.iter().any(|c| c == "ALL"))
    };
    let bad = |c: &str| c != "NET_BIND_SERVICE";
    let keeping = pod.containers_that(|p| !drops_all(p));
    let adding = pod.containers_that(|p| !added(p, bad).is_empty());
    let values: BTreeSet<&str> = pod.parts().iter().flat_map(|p| added(p, bad)).collect();
    let mut details = Vec::new();
    if !keeping.is_empty() {
        details.push(format!("{} must set securityContext.capabilities.drop=[\"ALL\"]", containers(&keeping)));
    }
    if !adding.is_empty() {
        let (who, what) = (containers(&adding), quoted(values));
        details.push(format!("{who} must not include {what} in securityContext.capabilities.add"));
    }
    if details.is_empty() { None } else { violation("unrestricted capabilities", details.join("; ")) }
}

/// The kind of a volume, if it is restricted.
fn restricted_kind(v: &Volume) -> Option<&'static str> {
    let allowed = v.config_map.is_some()
        || v.csi.is_some()
        || v.downward_api.is_some()
        || v.empty_dir.is_some()
        || v.ephemeral.is_some()
        || v.image.is_some()
        || v.persistent_volume_claim.is_some()
        || v.projected.is_some()
        || v.secret.is_some();
    let kinds = [
        ("hostPath", v.host_path.is_some()),
        ("gcePersistentDisk", v.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", v.aws_elastic_block_store.is_some()),
        ("gitRepo", v.git_repo.is_some()),
        ("nfs", v.nfs.is_some()),
        ("iscsi", v.iscsi.is_some()),
        ("glusterfs", v.glusterfs.is_some()),
        ("rbd", v.rbd.is_some()),
        ("flexVolume", v.flex_volume.is_some()),
        ("cinder", v.cinder.is_some()),
        ("cephfs", v.cephfs.is_some()),
        ("flocker", v.flocker.is_some()),
        ("fc", v.fc.is_some()),
        ("azureFile", v.azure_file.is_some()),
        ("vsphereVolume", v.vsphere_volume.is_some()),
        ("quobyte", v.quobyte.is_some()),
        ("azureDisk", v.azure_disk.is_some()),
        ("photonPersistentDisk", v.photon_persistent_disk.is_some()),
        ("portworxVolume", v.portworx_volume.is_some()),
        ("scaleIO", v.scale_io.is_some()),
        ("storageos", v.storageos.is_some()),
    ];
    let kind = kinds.iter().find(|(_, is)| *is).map_or("unknown", |(name, _)| name);
    (!allowed).then_some(kind)
}

fn restricted_volumes(pod: &Seen<'_>) -> Option<Violation> {
    let all = || pod.spec.volumes.iter().flatten();
    let names: Vec<&str> = all().filter(|v| restricted_kind(v).is_some()).map(|v| v.name.as_str()).collect();
    let kinds: BTreeSet<&str> = all().filter_map(restricted_kind).collect();
    if names.is_empty() {
        return None;
    }
    let what = plural("restricted volume type", kinds.len());
    violation("restricted volume types", format!("{} {} {what} {}", volumes(&names), uses(names.len()), quoted(kinds)))
}

fn run_as_non_root(pod: &Seen<'_>) -> Option<Violation> {
    let of_pod = pod.spec.security_context.as_ref().and_then(|s| s.run_as_non_root);
    let own = |p: &Part<'_>| p.security.and_then(|s| s.run_as_non_root);
    let who = setters(of_pod == Some(false), &pod.containers_that(|p| own(p) == Some(false)));
    const REASON: &str = "runAsNonRoot != true";
    if !who.is_empty() {
        return violation(REASON, format!("{who} must not set securityContext.runAsNonRoot=false"));
    }
    let silent = pod.containers_that(|p| own(p).is_none() && of_pod != Some(true));
    if silent.is_empty() {
        return None;
    }
    violation(REASON, format!("pod or {} must set securityContext.runAsNonRoot=true", containers(&silent)))
}

fn run_as_user(pod: &Seen<'_>) -> Option<Violation> {
    let of_pod = pod.spec.security_context.as_ref().and_then(|s| s.run_as_user);
    let names = pod.containers_that(|p| p.security.and_then(|s| s.run_as_user) == Some(0));
    let who = setters(of_pod == Some(0), &names);
    if who.is_empty() { None } else { violation("runAsUser=0", format!("{who} must not set runAsUser=0")) }
}

fn seccomp_restricted(pod: &Seen<'_>) -> Option<Violation> {
    let (wrong, pod_is_set) = seccomp(pod);
    if wrong.is_some() {
        return wrong;
    }
    let silent = pod.containers_that(|p| !pod_is_set && p.security.is_none_or(|s| s.seccomp_profile.is_none()));
    if silent.is_empty() {
        return None;
    }
    violation(
        "seccompProfile",
        format!(
            "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \"Localhost\"",
            containers(&silent)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use api::prelude::Pod;
    use expect_test::{Expect, expect};

    fn check_pod(level: Level, version: Version, pod: &str, expected: Expect) {
        let pod = Pod::decode(pod.as_bytes()).expect("a literal");
        let found = violations(&LevelVersion { level, version }, &pod.metadata, &pod.spec.unwrap_or_default());
        expected.assert_eq(&found.details());
    }

    const PLAIN: &str = r#"{"spec":{"containers":[{"name":"a"},{"name":"b"}]}}"#;

    #[test]
    fn an_ordinary_pod_is_baseline_but_not_restricted() {
        check_pod(Level::Baseline, Version::Latest, PLAIN, expect![""]);
        check_pod(
            Level::Restricted,
            Version::Latest,
            PLAIN,
            expect![[
                r#"allowPrivilegeEscalation != false (containers "a", "b" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities (containers "a", "b" must set securityContext.capabilities.drop=["ALL"]), runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true), seccompProfile (pod or containers "a", "b" must set securityContext.seccompProfile.type to "RuntimeDefault" or "Localhost")"#
            ]],
        );
        // Before 1.8 and 1.19 there was less to say.
        check_pod(
            Level::Restricted,
            Version::Minor(7),
            PLAIN,
            expect![[
                r#"runAsNonRoot != true (pod or containers "a", "b" must set securityContext.runAsNonRoot=true)"#
            ]],
        );
    }

    #[test]
    fn a_restricted_pod_passes() {
        let pod = r#"{"spec":{"securityContext":{"runAsNonRoot":true,"seccompProfile":{"type":"RuntimeDefault"}},
            "containers":[{"name":"a","securityContext":{"allowPrivilegeEscalation":false,"capabilities":{"drop":["ALL"]}}}]}}"#;
        check_pod(Level::Restricted, Version::Latest, pod, expect![""]);
    }

    #[test]
    fn every_way_onto_the_host_is_told() {
        let pod = r#"{"metadata":{"annotations":{"container.apparmor.security.beta.kubernetes.io/a":"unconfined"}},
            "spec":{"hostNetwork":true,"hostPID":true,"securityContext":{"sysctls":[{"name":"kernel.msgmax","value":"1"}],
                "seLinuxOptions":{"type":"spc_t","user":"root"},"windowsOptions":{"hostProcess":true},"seccompProfile":{"type":"Unconfined"}},
            "volumes":[{"name":"v","hostPath":{"path":"/"}}],
            "containers":[{"name":"a","ports":[{"containerPort":1,"hostPort":80},{"containerPort":2,"hostPort":8080}],
                "livenessProbe":{"tcpSocket":{"host":"10.0.0.1","port":1}},
                "securityContext":{"privileged":true,"procMount":"Unmasked","capabilities":{"add":["NET_ADMIN","CHOWN"]}}}]}}"#;
        check_pod(
            Level::Baseline,
            Version::Latest,
            pod,
            expect![[
                r#"forbidden AppArmor profile (annotation must not set AppArmor profile type to "container.apparmor.security.beta.kubernetes.io/a="unconfined""), non-default capabilities (container "a" must not include "NET_ADMIN" in securityContext.capabilities.add), host namespaces (hostNetwork=true, hostPID=true), hostPath volumes (volume "v"), hostPort (container "a" uses hostPorts 80, 8080), probe or lifecycle host (container "a" uses probe or lifecycle host "10.0.0.1"), privileged (container "a" must not set securityContext.privileged=true), procMount (container "a" must not set securityContext.procMount to "Unmasked"), seLinuxOptions (pod set forbidden securityContext.seLinuxOptions: type "spc_t"; user may not be set), seccompProfile (pod must not set securityContext.seccompProfile.type to "Unconfined"), forbidden sysctls (kernel.msgmax), hostProcess (pod must not set securityContext.windowsOptions.hostProcess=true)"#
            ]],
        );
        // What restricted says instead of baseline it says alone.
        let volume = r#"{"spec":{"containers":[],"volumes":[{"name":"v","hostPath":{"path":"/"}}]}}"#;
        check_pod(
            Level::Restricted,
            Version::Latest,
            volume,
            expect![[r#"restricted volume types (volume "v" uses restricted volume type "hostPath")"#]],
        );
    }

    #[test]
    fn versions_choose_the_check() {
        let pod = r#"{"spec":{"hostUsers":false,"securityContext":{"sysctls":[{"name":"net.ipv4.tcp_rmem","value":"1"}]},
            "containers":[{"name":"a","securityContext":{"procMount":"Unmasked"}}]}}"#;
        check_pod(
            Level::Baseline,
            Version::Minor(31),
            pod,
            expect![[
                r#"procMount (container "a" must not set securityContext.procMount to "Unmasked"), forbidden sysctls (net.ipv4.tcp_rmem)"#
            ]],
        );
        check_pod(Level::Baseline, Version::Minor(35), pod, expect![""]);
        assert_eq!(Version::parse("v1.05"), None);
        assert_eq!(Version::parse("v1.5"), Some(Version::Minor(5)));
        assert_eq!(Version::parse("v1."), None);
    }
}
