//! A container: its settings over those of its image (containerd `internal/cri/server/container_create.go` and `…/opts`).

use crate::error::unsupported;
use image::{ImageConfig, OverlayMount};
use node_api::cri::security_profile::ProfileType;
use node_api::cri::{
    self, ContainerConfig, IdMapping, LinuxContainerSecurityContext, MountPropagation, NamespaceMode, NamespaceOption,
    PodSandboxConfig, SecurityProfile, Signal, SupplementalGroupsPolicy,
};
use runtime::apparmor::Wish as AppArmor;
use runtime::cdi::Needs;
use runtime::selinux::Wish as SeLinux;
use runtime::{
    Capabilities, Cgroup, ContainerSpec, Device, IdRange, Log, Mount, MountKind, PidMode, Process, Propagation,
    ReadOnly, Rootfs, Seccomp, SelinuxLabels, User,
};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tonic::Status;

/// Everything that had to be looked up.
pub(crate) struct Input<'a> {
    pub(crate) id: &'a str,
    pub(crate) config: &'a ContainerConfig,
    /// Of its sandbox.
    pub(crate) users: Option<IdRange>,
    pub(crate) image: &'a ImageConfig,
    pub(crate) rootfs: OverlayMount,
    /// Layers of the images that are mounted, by place in `config.mounts`.
    pub(crate) layers: BTreeMap<usize, Vec<PathBuf>>,
    /// The sandbox' own files: source and target.
    pub(crate) files: Vec<(PathBuf, &'static str)>,
    pub(crate) devices: Vec<Device>,
    /// The profile's text, if one is named.
    pub(crate) seccomp_profile: Option<String>,
    /// The profile's name, if one confines it.
    pub(crate) apparmor: Option<String>,
    /// Where the machine has SELinux.
    pub(crate) labels: Option<SelinuxLabels>,
    pub(crate) hostname: &'a str,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) cgroup: &'a str,
}

fn security(config: &ContainerConfig) -> LinuxContainerSecurityContext {
    config.linux.as_ref().and_then(|l| l.security_context.clone()).unwrap_or_default()
}

/// Has every right.
pub(crate) fn is_privileged(config: &ContainerConfig) -> bool {
    security(config).privileged
}

/// The container as the engine makes it.
pub(crate) fn spec(input: Input<'_>) -> Result<ContainerSpec, Status> {
    let config = input.config;
    let security = security(config);
    let resources = config.linux.as_ref().and_then(|l| l.resources.as_ref());
    let or_default = |paths: &[String], default: fn() -> Vec<PathBuf>| match (security.privileged, paths) {
        (true, _) => Vec::new(),
        // An empty list cannot be told from none, and a kubelet means none only with user namespaces.
        (false, []) if input.users.is_none() => default(),
        (false, paths) => paths.iter().map(PathBuf::from).collect(),
    };
    let files = input.files.iter().filter(|(_, target)| !is_mounted(config, target));
    let mut mounts = Mount::defaults(security.privileged);
    mounts.extend(files.map(|(source, target)| Mount { relabel: true, ..Mount::bind(source, *target) }));
    let (process_label, mount_label) = input.labels.map(|labels| (labels.process, labels.mount)).unzip();
    mounts.extend(own_mounts(config, &input.layers, input.users)?);
    Ok(ContainerSpec {
        id: input.id.to_owned(),
        rootfs: Rootfs::Overlay {
            lower: input.rootfs.lower,
            upper: input.rootfs.upper,
            work: input.rootfs.work,
            volatile: true,
        },
        readonly_rootfs: security.readonly_rootfs,
        mounts,
        mount_label,
        process: Process {
            apparmor: input.apparmor,
            // Nothing confines the privileged; their files have a label all the same.
            selinux: process_label.filter(|_| !security.privileged),
            ..process(config, &security, input.image, input.hostname, input.seccomp_profile)?
        },
        pid: pid(&security),
        cgroup: Cgroup {
            path: input.cgroup.to_owned(),
            resources: resources.map(super::resources).unwrap_or_default(),
        },
        masked_paths: or_default(&security.masked_paths, runtime::spec::masked_paths),
        readonly_paths: or_default(&security.readonly_paths, runtime::spec::readonly_paths),
        devices: input.devices,
        all_devices: security.privileged,
        // Kubelets rotate logs themselves and say when to open them anew.
        log: input.log_path.map(|path| Log { path, max_size: 0, max_files: 1 }),
        stdin: config.stdin,
        stdin_once: config.stdin_once,
        ..ContainerSpec::default()
    })
}

fn is_mounted(config: &ContainerConfig, target: &str) -> bool {
    config.mounts.iter().any(|m| Path::new(&m.container_path) == Path::new(target))
}

fn pid(security: &LinuxContainerSecurityContext) -> PidMode {
    let options = security.namespace_options.as_ref();
    match options.map(cri::NamespaceOption::pid) {
        Some(NamespaceMode::Node) => PidMode::Host,
        Some(NamespaceMode::Container) => PidMode::Container,
        Some(NamespaceMode::Target) => PidMode::Target(options.map(|o| o.target_id.clone()).unwrap_or_default()),
        Some(NamespaceMode::Pod) | None => PidMode::Pod,
    }
}

fn process(
    config: &ContainerConfig,
    security: &LinuxContainerSecurityContext,
    image: &ImageConfig,
    hostname: &str,
    seccomp_profile: Option<String>,
) -> Result<Process, Status> {
    let args = runtime::defaults::command(&image.entrypoint, &image.cmd, config.command.clone(), config.args.clone());
    if args.is_empty() {
        return Err(Status::invalid_argument("no command specified"));
    }
    let own = config.envs.iter().map(|e| (e.key.clone(), String::from_utf8_lossy(&e.value).into_owned()));
    let env = runtime::defaults::environment(&image.env, own, hostname, config.tty);
    let cwd = [&config.working_dir, &image.working_dir].into_iter().find(|d| !d.is_empty());
    let resources = config.linux.as_ref().and_then(|l| l.resources.as_ref());
    Ok(Process {
        args,
        env: env.iter().map(|(k, v)| format!("{k}={v}")).collect(),
        cwd: cwd.map(PathBuf::from).unwrap_or_default(),
        user: user(security, &image.user)?,
        capabilities: capabilities(security)?,
        no_new_privileges: security.no_new_privs,
        seccomp: seccomp(security, seccomp_profile),
        oom_score_adj: resources.and_then(|r| i32::try_from(r.oom_score_adj).ok()),
        tty: config.tty,
        ..Process::default()
    })
}

/// Who its first process runs as.
pub(crate) fn user(security: &LinuxContainerSecurityContext, image_user: &str) -> Result<User, Status> {
    let id = |n: i64| u32::try_from(n).map_err(|_| Status::invalid_argument(format!("{n} is not a user or group id")));
    let uid = security.run_as_user.as_ref().map(|v| id(v.value)).transpose()?;
    let gid = security.run_as_group.as_ref().map(|v| id(v.value)).transpose()?;
    let name = match (uid, security.run_as_username.as_str()) {
        // A user that is said does not take the image's group with it.
        (Some(_), _) => "",
        (None, "") => image_user,
        (None, name) => name,
    };
    if gid.is_some() && uid.is_none() && security.run_as_username.is_empty() {
        return Err(Status::invalid_argument("run_as_group is specified without run_as_user or run_as_username"));
    }
    Ok(User {
        name: Some(name.to_owned()).filter(|n| !n.is_empty()),
        uid,
        gid,
        additional_gids: security.supplemental_groups.iter().map(|g| id(*g)).collect::<Result<_, _>>()?,
        merge_image_groups: security.supplemental_groups_policy() == SupplementalGroupsPolicy::Merge,
    })
}

/// [`user`] of a whole configuration.
pub(crate) fn user_of(config: &ContainerConfig, image_user: &str) -> Result<User, Status> {
    user(&security(config), image_user)
}

fn capabilities(security: &LinuxContainerSecurityContext) -> Result<Capabilities, Status> {
    if security.privileged {
        return Ok(Capabilities::of(runtime::caps::all()));
    }
    let said = security.capabilities.clone().unwrap_or_default();
    let unknown = |name: String| Status::invalid_argument(format!("unknown capability {name:?}"));
    let kept = runtime::caps::select(&said.add_capabilities, &said.drop_capabilities).map_err(unknown)?;
    let ambient = &said.add_ambient_capabilities;
    runtime::caps::mask(ambient).map_err(unknown)?;
    Ok(Capabilities { inheritable: ambient.clone(), ambient: ambient.clone(), ..Capabilities::of(kept) })
}

/// Without a word no system call is filtered: kubelets always say.
fn seccomp(security: &LinuxContainerSecurityContext, profile: Option<String>) -> Seccomp {
    let kind = security.seccomp.as_ref().map(SecurityProfile::profile_type);
    match (security.privileged, kind, profile) {
        (false, Some(ProfileType::Localhost), Some(json)) => Seccomp::Custom(json),
        (false, Some(ProfileType::RuntimeDefault), _) => Seccomp::RuntimeDefault,
        _ => Seccomp::Unconfined,
    }
}

/// The file of a seccomp profile, if one is named.
pub(crate) fn seccomp_file(config: &ContainerConfig) -> Option<PathBuf> {
    let security = security(config);
    let profile = security.seccomp.filter(|p| p.profile_type() == ProfileType::Localhost && !security.privileged)?;
    Some(profile.localhost_ref.trim_start_matches("localhost/").into())
}

/// What it asks of AppArmor. The older way to say it counts where the newer says nothing.
pub(crate) fn app_armor(config: &ContainerConfig) -> Result<Option<AppArmor>, Status> {
    let security = security(config);
    if let Some(profile) = &security.apparmor {
        return Ok(Some(match profile.profile_type() {
            ProfileType::RuntimeDefault => AppArmor::Default,
            ProfileType::Unconfined => AppArmor::Unconfined,
            ProfileType::Localhost => {
                let name = profile.localhost_ref.as_str();
                AppArmor::Profile(name.strip_prefix("localhost/").unwrap_or(name).to_owned())
            }
        }));
    }
    #[expect(deprecated, reason = "clients may use it")]
    match security.apparmor_profile.as_str() {
        "" => Ok(None),
        "runtime/default" => Ok(Some(AppArmor::Default)),
        "unconfined" => Ok(Some(AppArmor::Unconfined)),
        other => match other.strip_prefix("localhost/") {
            Some(name) => Ok(Some(AppArmor::Profile(name.to_owned()))),
            None => Err(Status::invalid_argument(format!("invalid apparmor profile {other:?}"))),
        },
    }
}

/// What it says of its SELinux label; nothing: it is the sandbox'.
pub(crate) fn selinux(config: &ContainerConfig) -> SeLinux {
    super::selinux(security(config).selinux_options.as_ref())
}

/// Refuses other users than those of its sandbox.
pub(crate) fn check(config: &ContainerConfig, sandbox: &PodSandboxConfig) -> Result<(), Status> {
    let security = security(config);
    let users = |options: Option<&NamespaceOption>| options.map_or(Ok(None), super::sandbox::users);
    if users(security.namespace_options.as_ref())? != users(super::sandbox::namespaces(sandbox))? {
        let text = "user namespace config for sandbox is different from container";
        return Err(Status::invalid_argument(text));
    }
    Ok(())
}

/// Gives a container what its devices need. Their variables win, as with containerd.
pub(crate) fn grant(spec: &mut ContainerSpec, needs: Needs) {
    for (name, value) in needs.env {
        spec.process.env.retain(|e| e.split('=').next() != Some(name.as_str()));
        spec.process.env.push(format!("{name}={value}"));
    }
    spec.mounts.extend(needs.mounts);
    spec.devices.extend(needs.devices.into_iter().map(|(_, device)| device));
    spec.process.user.additional_gids.extend(needs.groups);
    spec.hooks.extend(needs.hooks);
}

/// What was asked to be mounted; what lies deeper comes later.
fn own_mounts(
    config: &ContainerConfig,
    layers: &BTreeMap<usize, Vec<PathBuf>>,
    users: Option<IdRange>,
) -> Result<Vec<Mount>, Status> {
    let made = config.mounts.iter().enumerate().map(|(at, m)| mount(m, layers.get(&at), users));
    let mut mounts = made.collect::<Result<Vec<_>, _>>()?;
    mounts.sort_by_key(|m| m.destination.components().count());
    Ok(mounts)
}

fn mount(mount: &cri::Mount, layers: Option<&Vec<PathBuf>>, users: Option<IdRange>) -> Result<Mount, Status> {
    let mapping = users.map(|ids| IdMapping { container_id: 0, host_id: ids.first, length: ids.length });
    let mapped = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped && [&mount.uid_mappings, &mount.gid_mappings].iter().any(|said| **said != Vec::from_iter(mapping)) {
        return Err(unsupported("a mount whose ids are mapped in another way than those of its pod"));
    }
    if mount.recursive_read_only && mount.propagation() != MountPropagation::PropagationPrivate {
        let text = format!("recursive_read_only mount {:?} must have private propagation", mount.container_path);
        return Err(Status::invalid_argument(text));
    }
    let readonly = match (mount.readonly, mount.recursive_read_only) {
        (false, true) => {
            let text = format!("recursive_read_only mount {:?} must be readonly", mount.container_path);
            return Err(Status::invalid_argument(text));
        }
        (true, true) => ReadOnly::Recursive,
        (true, false) => ReadOnly::Yes,
        (false, false) => ReadOnly::No,
    };
    let sub_path = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
    let kind = match layers {
        Some(lower) => MountKind::Overlay { lower: lower.clone(), sub_path: sub_path(&mount.image_sub_path) },
        None => MountKind::Bind { source: mount.host_path.clone().into(), sub_path: None, recursive: true },
    };
    Ok(Mount {
        destination: mount.container_path.clone().into(),
        kind,
        readonly,
        propagation: match mount.propagation() {
            MountPropagation::PropagationPrivate => Propagation::Private,
            MountPropagation::PropagationHostToContainer => Propagation::Slave,
            MountPropagation::PropagationBidirectional => Propagation::Shared,
        },
        relabel: mount.selinux_relabel && layers.is_none(),
        unmapped: users.is_some() && !mapped && layers.is_none(),
        ..Mount::default()
    })
}

/// The signal that asks a container to stop, as the kernel's documentation writes it.
pub(crate) fn stop_signal(config: &ContainerConfig, image: &ImageConfig) -> String {
    match config.stop_signal() {
        Signal::RuntimeDefault => image.stop_signal.clone().filter(|s| !s.is_empty()).unwrap_or("SIGTERM".into()),
        signal => signal.as_str_name().replace("PLUS", "+").replace("MINUS", "-"),
    }
}

/// The interface's word for a signal; `SIGTERM` for those that it has no word for.
pub(crate) fn signal_word(name: &str) -> Signal {
    let upper = name.to_uppercase();
    let plain = upper.trim_start_matches("SIG").replace('+', "PLUS").replace('-', "MINUS");
    Signal::from_str_name(&format!("SIG{plain}")).unwrap_or(Signal::Sigterm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use node_api::cri::{Capability, Int64Value, KeyValue, LinuxContainerConfig, NamespaceOption};

    fn made(config: &ContainerConfig) -> Result<ContainerSpec, Status> {
        let image = ImageConfig {
            entrypoint: vec!["/entry".into()],
            cmd: vec!["default".into()],
            env: vec!["PATH=/image/bin".into()],
            user: "web:www".into(),
            working_dir: "/work".into(),
            ..ImageConfig::default()
        };
        spec(Input {
            id: "id",
            config,
            users: None,
            image: &image,
            rootfs: OverlayMount { lower: Vec::new(), upper: PathBuf::new(), work: PathBuf::new() },
            layers: BTreeMap::from([(1, vec!["/layer".into()])]),
            files: vec![("/run/hosts".into(), "/etc/hosts"), ("/run/resolv.conf".into(), "/etc/resolv.conf")],
            devices: Vec::new(),
            seccomp_profile: None,
            apparmor: None,
            labels: None,
            hostname: "web-0",
            log_path: None,
            cgroup: "/p/id",
        })
    }

    fn with(security_context: LinuxContainerSecurityContext) -> ContainerConfig {
        let linux = LinuxContainerConfig { security_context: Some(security_context), ..Default::default() };
        ContainerConfig { linux: Some(linux), ..Default::default() }
    }

    #[test]
    fn the_image_says_what_the_container_does_not() {
        let process = made(&ContainerConfig::default()).expect("valid").process;
        assert_eq!(process.args, ["/entry", "default"]);
        assert_eq!(process.env, ["PATH=/image/bin", "HOSTNAME=web-0"]);
        assert_eq!((process.cwd, process.user.name.as_deref()), ("/work".into(), Some("web:www")));
        assert_eq!(process.seccomp, Seccomp::Unconfined);
        assert_eq!(process.capabilities.bounding.len(), 14);
        let said = ContainerConfig {
            args: vec!["more".into()],
            envs: vec![KeyValue { key: "PATH".into(), value: b"/own".to_vec() }],
            tty: true,
            ..Default::default()
        };
        let process = made(&said).expect("valid").process;
        assert_eq!(process.args, ["/entry", "more"]);
        assert_eq!(process.env, ["PATH=/own", "HOSTNAME=web-0", "TERM=xterm"]);
    }

    #[test]
    fn rights() {
        let caps = Capability {
            add_capabilities: vec!["NET_ADMIN".into()],
            drop_capabilities: vec!["ALL".into()],
            ..Default::default()
        };
        let process = made(&with(LinuxContainerSecurityContext {
            capabilities: Some(caps),
            run_as_user: Some(Int64Value { value: 5 }),
            supplemental_groups: vec![7],
            supplemental_groups_policy: SupplementalGroupsPolicy::Strict.into(),
            no_new_privs: true,
            ..Default::default()
        }))
        .expect("valid")
        .process;
        assert_eq!(process.capabilities.effective, ["CAP_NET_ADMIN"]);
        assert_eq!(
            process.user,
            User { uid: Some(5), additional_gids: vec![7], merge_image_groups: false, ..User::default() }
        );
        assert!(process.no_new_privileges);
        let all = made(&with(LinuxContainerSecurityContext { privileged: true, ..Default::default() })).expect("valid");
        assert_eq!((all.process.seccomp, all.all_devices), (Seccomp::Unconfined, true));
        assert!(all.masked_paths.is_empty() && all.readonly_paths.is_empty());
        let group =
            with(LinuxContainerSecurityContext { run_as_group: Some(Int64Value { value: 5 }), ..Default::default() });
        assert_eq!(made(&group).expect_err("no user").code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn mounts_come_by_depth_and_replace_the_sandbox_files() {
        let mount = |target: &str, readonly, recursive_read_only| cri::Mount {
            container_path: target.into(),
            host_path: "/src".into(),
            readonly,
            recursive_read_only,
            ..Default::default()
        };
        let config = ContainerConfig {
            mounts: vec![mount("/a/b", true, true), mount("/image", true, false), mount("/etc/hosts", false, false)],
            ..Default::default()
        };
        let spec = made(&config).expect("valid");
        let own: Vec<String> = spec.mounts[Mount::defaults(false).len()..]
            .iter()
            .map(|m| {
                format!("{} {:?} {}", m.destination.display(), m.readonly, matches!(m.kind, MountKind::Overlay { .. }))
            })
            .collect();
        let want = ["/etc/resolv.conf No false", "/image Yes true", "/a/b Recursive false", "/etc/hosts No false"];
        assert_eq!(own, want);
        let wrong = ContainerConfig { mounts: vec![mount("/a", false, true)], ..Default::default() };
        assert_eq!(made(&wrong).expect_err("contradicts itself").code(), tonic::Code::InvalidArgument);
    }

    #[test]
    fn recursively_read_only_mounts_are_private() {
        let mount = |propagation: MountPropagation| cri::Mount {
            container_path: "/a".into(),
            host_path: "/src".into(),
            readonly: true,
            recursive_read_only: true,
            propagation: propagation.into(),
            ..Default::default()
        };
        for wrong in [MountPropagation::PropagationHostToContainer, MountPropagation::PropagationBidirectional] {
            let config = ContainerConfig { mounts: vec![mount(wrong)], ..Default::default() };
            assert_eq!(made(&config).expect_err("contradicts itself").code(), tonic::Code::InvalidArgument);
        }
    }

    #[test]
    fn users_are_those_of_the_sandbox() {
        let ids = |host_id| vec![IdMapping { container_id: 0, host_id, length: 65536 }];
        let options = |first| {
            let mode = NamespaceMode::Pod.into();
            let users = node_api::cri::UserNamespace { mode, uids: ids(first), gids: ids(first) };
            Some(NamespaceOption { userns_options: Some(users), ..Default::default() })
        };
        let container =
            |first| with(LinuxContainerSecurityContext { namespace_options: options(first), ..Default::default() });
        let security =
            node_api::cri::LinuxSandboxSecurityContext { namespace_options: options(65536), ..Default::default() };
        let linux = node_api::cri::LinuxPodSandboxConfig { security_context: Some(security), ..Default::default() };
        let sandbox = PodSandboxConfig { linux: Some(linux), ..Default::default() };
        assert!(check(&container(65536), &sandbox).is_ok());
        let refused = |config: &ContainerConfig| check(config, &sandbox).expect_err("is refused").message().to_owned();
        for other in [container(131_072), ContainerConfig::default()] {
            assert_eq!(refused(&other), "user namespace config for sandbox is different from container");
        }
        let range = Some(IdRange { first: 65536, length: 65536 });
        let mapped = |first| {
            let said = cri::Mount { uid_mappings: ids(first), gid_mappings: ids(first), ..Default::default() };
            mount(&said, None, range).map(|m| m.unmapped).map_err(|e| e.code())
        };
        assert_eq!(mapped(65536), Ok(false));
        assert_eq!(mapped(131_072), Err(tonic::Code::Unimplemented));
        assert_eq!(mount(&cri::Mount::default(), None, range).map(|m| m.unmapped).ok(), Some(true));
    }

    #[test]
    fn what_devices_need_is_added_and_their_variables_win() {
        let mut spec = made(&ContainerConfig::default()).expect("valid");
        let needs = Needs {
            env: vec![("PATH".into(), "/gpu".into())],
            mounts: vec![Mount::bind("/lib/gpu", "/gpu")],
            groups: vec![44],
            ..Needs::default()
        };
        grant(&mut spec, needs);
        assert_eq!(spec.process.env, ["HOSTNAME=web-0", "PATH=/gpu"]);
        assert_eq!(spec.mounts.last().map(|m| m.destination.clone()), Some("/gpu".into()));
        assert_eq!(spec.process.user.additional_gids, [44]);
    }

    #[test]
    #[expect(deprecated, reason = "clients may use it")]
    fn profiles_of_app_armor_are_said_in_two_ways() {
        let new = |kind: ProfileType, name: &str| {
            let profile = SecurityProfile { profile_type: kind.into(), localhost_ref: name.into() };
            let security = LinuxContainerSecurityContext {
                apparmor: Some(profile),
                apparmor_profile: "localhost/old".into(),
                ..Default::default()
            };
            app_armor(&with(security))
        };
        let old = |text: &str| {
            let security = LinuxContainerSecurityContext { apparmor_profile: text.into(), ..Default::default() };
            app_armor(&with(security)).map_err(|e| e.code())
        };
        assert_eq!(new(ProfileType::RuntimeDefault, "").expect("valid"), Some(AppArmor::Default));
        assert_eq!(new(ProfileType::Unconfined, "").expect("valid"), Some(AppArmor::Unconfined));
        let named = Some(AppArmor::Profile("x".into()));
        assert_eq!(new(ProfileType::Localhost, "localhost/x").expect("valid"), named);
        assert_eq!(new(ProfileType::Localhost, "x").expect("valid"), named);
        assert_eq!((old(""), old("localhost/x")), (Ok(None), Ok(named)));
        assert_eq!(old("x"), Err(tonic::Code::InvalidArgument));
    }

    #[test]
    fn processes_of_whom() {
        let pid = |mode: NamespaceMode| {
            let options = NamespaceOption { pid: mode.into(), target_id: "t".into(), ..Default::default() };
            made(&with(LinuxContainerSecurityContext { namespace_options: Some(options), ..Default::default() }))
                .expect("valid")
                .pid
        };
        assert_eq!(pid(NamespaceMode::Pod), PidMode::Pod);
        assert_eq!(pid(NamespaceMode::Container), PidMode::Container);
        assert_eq!(pid(NamespaceMode::Node), PidMode::Host);
        assert_eq!(pid(NamespaceMode::Target), PidMode::Target("t".into()));
    }

    #[test]
    fn signals_both_ways() {
        let config = |signal: Signal| ContainerConfig { stop_signal: signal.into(), ..Default::default() };
        let image = ImageConfig { stop_signal: Some("SIGQUIT".into()), ..ImageConfig::default() };
        assert_eq!(stop_signal(&config(Signal::RuntimeDefault), &image), "SIGQUIT");
        let name = stop_signal(&config(Signal::Sigrtminplus3), &image);
        assert_eq!((name.as_str(), runtime::signal::number(&name)), ("SIGRTMIN+3", Some(37)));
        for signal in [Signal::Sigrtminplus3, Signal::Sigrtmaxminus14, Signal::Sighup, Signal::Sigiot, Signal::Sigcld] {
            let name = stop_signal(&config(signal), &image);
            assert!(runtime::signal::number(&name).is_some(), "{name}");
            assert_eq!(signal_word(&name), signal);
        }
        assert_eq!((signal_word("quit"), signal_word("3")), (Signal::Sigquit, Signal::Sigterm));
    }
}
