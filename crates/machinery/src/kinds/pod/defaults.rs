//! Defaults of pods and pod specs (`pkg/apis/core/v1/defaults.go`, `zz_generated.defaults.go`) and of what upstream's
//! conversion evens out (`conversion.go`): service account alias, negative grace periods, `podIP` and `podIPs`.
//!
//! Workload templates get [`pod_spec`] only; a pod also gets requests from limits, host ports and service links.

use crate::kinds::common::{nonzero, set, str_of, text, visit_list};
use crate::kinds::vendor_volumes;
use crate::quantity::Quantity;
use api::k8s::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, ObjectFieldSelector, PodIP,
    PodSpec, Probe, ResourceRequirements, Volume,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use api::prelude::{Pod, PodTemplateSpec};
use std::collections::BTreeMap;

type ResourceList = BTreeMap<String, Text>;

/// Defaults of a pod.
pub(super) fn pod(pod: &mut Pod) {
    let spec = pod.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        requests_from_limits(container);
    }
    pod_level_requests(spec);
    set(&mut spec.enable_service_links, true);
    if spec.host_network == Some(true) {
        host_ports(&mut spec.containers);
        host_ports(spec.init_containers.as_deref_mut().unwrap_or_default());
    }
    pod_spec(spec);
    // Templates keep what they say, and are warned (`pkg/apis/core/v1/conversion.go`).
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        spec.termination_grace_period_seconds = Some(1);
    }
    if let Some(status) = &mut pod.status {
        even_out_ips(&mut status.pod_ip, &mut status.pod_ips);
    }
}

/// Defaults of a pod template.
pub(in crate::kinds) fn template(template: &mut PodTemplateSpec) {
    pod_spec(template.spec.get_or_insert_default());
}

/// Defaults of a pod spec wherever it stands.
pub(in crate::kinds) fn pod_spec(spec: &mut PodSpec) {
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.restart_policy, "Always");
    set(&mut spec.security_context, Default::default());
    set(&mut spec.termination_grace_period_seconds, 30);
    text(&mut spec.scheduler_name, "default-scheduler");
    service_account_alias(spec);
    spec.volumes.iter_mut().flatten().for_each(volume);
    spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()).for_each(container);
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        as_container(ephemeral, container);
    }
    round_up(&mut spec.overhead);
    if let Some(resources) = &mut spec.resources {
        round_up(&mut resources.limits);
        round_up(&mut resources.requests);
    }
}

/// `serviceAccount` is an old alias: both names are always the same.
fn service_account_alias(spec: &mut PodSpec) {
    let name = str_of(&spec.service_account_name);
    let name = if name.is_empty() { str_of(&spec.service_account) } else { name };
    if !name.is_empty() {
        let name = Some(name.to_owned());
        spec.service_account = name.clone();
        spec.service_account_name = name;
    }
}

/// `podIP` is the first of `podIPs`; where they differ, the single one is right.
fn even_out_ips(single: &mut Option<String>, list: &mut Option<Vec<PodIP>>) {
    let first = list.iter().flatten().next().map(|ip| ip.ip.clone());
    match (str_of(single), first) {
        ("", Some(first)) => *single = Some(first),
        ("", None) => {}
        (ip, first) => {
            if first.as_deref() != Some(ip) {
                *list = Some(vec![PodIP { ip: ip.to_owned() }]);
            }
        }
    }
}

// === containers ===

/// Lets `f` see an ephemeral container as a container.
pub(in crate::kinds) fn as_container(ephemeral: &mut EphemeralContainer, f: impl FnOnce(&mut Container)) {
    let target = ephemeral.target_container_name.take();
    let e = std::mem::take(ephemeral);
    let mut c = Container {
        args: e.args,
        command: e.command,
        env: e.env,
        env_from: e.env_from,
        image: e.image,
        image_pull_policy: e.image_pull_policy,
        lifecycle: e.lifecycle,
        liveness_probe: e.liveness_probe,
        name: e.name,
        ports: e.ports,
        readiness_probe: e.readiness_probe,
        resize_policy: e.resize_policy,
        resources: e.resources,
        restart_policy: e.restart_policy,
        restart_policy_rules: e.restart_policy_rules,
        security_context: e.security_context,
        startup_probe: e.startup_probe,
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path,
        termination_message_policy: e.termination_message_policy,
        tty: e.tty,
        volume_devices: e.volume_devices,
        volume_mounts: e.volume_mounts,
        working_dir: e.working_dir,
    };
    f(&mut c);
    *ephemeral = EphemeralContainer {
        args: c.args,
        command: c.command,
        env: c.env,
        env_from: c.env_from,
        image: c.image,
        image_pull_policy: c.image_pull_policy,
        lifecycle: c.lifecycle,
        liveness_probe: c.liveness_probe,
        name: c.name,
        ports: c.ports,
        readiness_probe: c.readiness_probe,
        resize_policy: c.resize_policy,
        resources: c.resources,
        restart_policy: c.restart_policy,
        restart_policy_rules: c.restart_policy_rules,
        security_context: c.security_context,
        startup_probe: c.startup_probe,
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        target_container_name: target,
        termination_message_path: c.termination_message_path,
        termination_message_policy: c.termination_message_policy,
        tty: c.tty,
        volume_devices: c.volume_devices,
        volume_mounts: c.volume_mounts,
        working_dir: c.working_dir,
    };
}

fn container(container: &mut Container) {
    text(&mut container.image_pull_policy, pull_policy(container.image.as_deref().unwrap_or_default()));
    text(&mut container.termination_message_path, "/dev/termination-log");
    text(&mut container.termination_message_policy, "File");
    for port in container.ports.iter_mut().flatten() {
        text(&mut port.protocol, "TCP");
    }
    container.env.iter_mut().flatten().for_each(env);
    let resources = container.resources.get_or_insert_default();
    round_up(&mut resources.limits);
    round_up(&mut resources.requests);
    let probes = [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    probes.into_iter().flatten().for_each(probe);
    if let Some(lifecycle) = &mut container.lifecycle {
        hooks(lifecycle);
    }
}

/// `Always` for `:latest` and no tag at all, else `IfNotPresent` (also if the name is not one).
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, ""), |(n, d)| (n, d));
    let last = name.rsplit('/').next().unwrap_or_default();
    let (repository, tag) = last.split_once(':').unwrap_or((last, ""));
    let is_letter = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [repository.as_bytes().first(), repository.as_bytes().last()];
    // Docker Hub's names are longer than they are written (`normalized`), and the longest have 255 bytes.
    let implied = match name.split_once('/') {
        None => "docker.io/library/".len(),
        Some((host, _)) if !host.contains(['.', ':']) && host != "localhost" => "docker.io/".len(),
        Some(_) => 0,
    };
    let length = implied + name.len() - tag.len() - usize::from(!tag.is_empty());
    // What could be the beginning of a digest is no name.
    let is_digest = name == repository && repository.len() == 64 && repository.bytes().all(|b| b.is_ascii_hexdigit());
    let is_name = length <= 255
        && !is_digest
        && ends.iter().all(|end| end.is_some_and(is_letter))
        && repository.bytes().all(|b| is_letter(&b) || b"._-".contains(&b));
    let latest = tag == "latest" || (tag.is_empty() && digest.is_empty());
    if is_name && latest { "Always" } else { "IfNotPresent" }
}

fn env(env: &mut EnvVar) {
    let Some(from) = &mut env.value_from else { return };
    if let Some(field) = &mut from.field_ref {
        field_ref(field);
    }
    if let Some(file) = &mut from.file_key_ref {
        set(&mut file.optional, false);
    }
    if let Some(resource) = &mut from.resource_field_ref {
        set(&mut resource.divisor, Text("0".to_owned()));
    }
}

fn field_ref(field: &mut ObjectFieldSelector) {
    text(&mut field.api_version, "v1");
}

fn probe(probe: &mut Probe) {
    nonzero(&mut probe.timeout_seconds, 1);
    nonzero(&mut probe.period_seconds, 10);
    nonzero(&mut probe.success_threshold, 1);
    nonzero(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        http_get(http);
    }
    if let Some(grpc) = &mut probe.grpc {
        set(&mut grpc.service, String::new());
    }
}

fn http_get(http: &mut HTTPGetAction) {
    text(&mut http.path, "/");
    text(&mut http.scheme, "HTTP");
}

fn hooks(lifecycle: &mut Lifecycle) {
    for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
        if let Some(http) = &mut hook.http_get {
            http_get(http);
        }
    }
}

fn host_ports(containers: &mut [Container]) {
    for port in containers.iter_mut().flat_map(|c| c.ports.iter_mut().flatten()) {
        nonzero(&mut port.host_port, port.container_port);
    }
}

// === resources ===

fn requests_from_limits(container: &mut Container) {
    let Some(resources) = &mut container.resources else { return };
    let Some(limits) = &resources.limits else { return };
    let requests = resources.requests.get_or_insert_default();
    for (name, limit) in limits {
        requests.entry(name.clone()).or_insert_with(|| limit.clone());
    }
}

/// Requests of the pod as a whole, where it has limits: what its containers ask for, else the limits.
fn pod_level_requests(spec: &mut PodSpec) {
    let supported = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with("hugepages-");
    let needed = effective_requests(spec);
    let Some(resources) = &mut spec.resources else { return };
    let Some(limits) = resources.limits.clone().filter(|l| !l.is_empty()) else { return };
    let mut requests = resources.requests.take().unwrap_or_default();
    for (name, quantity) in needed {
        if matches!(name.as_str(), "cpu" | "memory") {
            requests.entry(name).or_insert_with(|| Text(quantity.to_string()));
        }
    }
    for (name, limit) in limits {
        if supported(&name) {
            requests.entry(name).or_insert(limit);
        }
    }
    resources.requests = (!requests.is_empty()).then_some(requests);
}

/// What the containers need together: the sum of those that run at once, or the largest step of initialization
/// (`AggregateContainerRequests` in `component-helpers/resource/helpers.go`).
pub(in crate::kinds) fn effective_requests(spec: &PodSpec) -> BTreeMap<String, Quantity> {
    fn requests(container: &Container) -> BTreeMap<String, Quantity> {
        let list = container.resources.as_ref().and_then(|r| r.requests.as_ref());
        let parse = |(name, text): (&String, &Text)| Some((name.clone(), Quantity::parse(&text.0).ok()?));
        list.into_iter().flatten().filter_map(parse).collect()
    }
    fn add(sum: &mut BTreeMap<String, Quantity>, list: &BTreeMap<String, Quantity>) {
        for (name, quantity) in list {
            sum.entry(name.clone()).or_default().add(quantity);
        }
    }
    let mut sum = BTreeMap::new();
    for container in &spec.containers {
        add(&mut sum, &requests(container));
    }
    let (mut sidecars, mut peak) = (BTreeMap::new(), BTreeMap::<String, Quantity>::new());
    for container in spec.init_containers.iter().flatten() {
        let mut step = requests(container);
        if super::is_sidecar(container) {
            add(&mut sum, &step);
            add(&mut sidecars, &step);
            step = sidecars.clone();
        } else {
            add(&mut step, &sidecars);
        }
        raise(&mut peak, step);
    }
    raise(&mut sum, peak);
    sum
}

fn raise(list: &mut BTreeMap<String, Quantity>, other: BTreeMap<String, Quantity>) {
    for (name, quantity) in other {
        let entry = list.entry(name).or_default();
        if quantity > *entry {
            *entry = quantity;
        }
    }
}

/// Quantities finer than a thousandth are rounded up (`SetDefaults_ResourceList`).
pub(in crate::kinds) fn round_up(list: &mut Option<ResourceList>) {
    for text in list.iter_mut().flat_map(BTreeMap::values_mut) {
        if let Ok(mut quantity) = Quantity::parse(&text.0) {
            // Already fine ones keep their text.
            if !quantity.round_up(-3) {
                text.0 = quantity.to_string();
            }
        }
    }
}

/// Every quantity of a pod spec.
pub(in crate::kinds) fn quantities(spec: &mut PodSpec, visit: &mut dyn FnMut(&mut Text)) {
    let of_resources = |resources: &mut ResourceRequirements, visit: &mut dyn FnMut(&mut Text)| {
        visit_list(&mut resources.limits, visit);
        visit_list(&mut resources.requests, visit);
    };
    let of_container = |container: &mut Container, visit: &mut dyn FnMut(&mut Text)| {
        if let Some(resources) = &mut container.resources {
            of_resources(resources, visit);
        }
        for from in container.env.iter_mut().flatten().filter_map(|e| e.value_from.as_mut()) {
            if let Some(divisor) = from.resource_field_ref.as_mut().and_then(|r| r.divisor.as_mut()) {
                visit(divisor);
            }
        }
    };
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        of_container(container, visit);
    }
    for ephemeral in spec.ephemeral_containers.iter_mut().flatten() {
        as_container(ephemeral, |c| of_container(c, visit));
    }
    if let Some(resources) = &mut spec.resources {
        of_resources(resources, visit);
    }
    visit_list(&mut spec.overhead, visit);
    for volume in spec.volumes.iter_mut().flatten() {
        if let Some(limit) = volume.empty_dir.as_mut().and_then(|e| e.size_limit.as_mut()) {
            visit(limit);
        }
        if let Some(claim) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut())
            && let Some(resources) = &mut claim.spec.resources
        {
            visit_list(&mut resources.limits, visit);
            visit_list(&mut resources.requests, visit);
        }
        let items = volume.downward_api.iter_mut().flat_map(|d| d.items.iter_mut().flatten());
        let projected = volume
            .projected
            .iter_mut()
            .flat_map(|p| p.sources.iter_mut().flatten())
            .filter_map(|s| s.downward_api.as_mut())
            .flat_map(|d| d.items.iter_mut().flatten());
        for item in items.chain(projected) {
            if let Some(divisor) = item.resource_field_ref.as_mut().and_then(|r| r.divisor.as_mut()) {
                visit(divisor);
            }
        }
    }
}

// === volumes ===

/// Whether no source at all is given.
pub(in crate::kinds) fn has_no_source(volume: &Volume) -> bool {
    *volume == Volume { name: volume.name.clone(), ..Volume::default() }
}

/// Permission bits of files from ConfigMaps, Secrets and the downward API.
const FILE_MODE: i32 = 0o644;

fn volume(volume: &mut Volume) {
    if has_no_source(volume) {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(image) = &mut volume.image {
        text(&mut image.pull_policy, pull_policy(image.reference.as_deref().unwrap_or_default()));
    }
    if let Some(path) = &mut volume.host_path {
        set(&mut path.type_, String::new());
    }
    if let Some(secret) = &mut volume.secret {
        set(&mut secret.default_mode, FILE_MODE);
    }
    if let Some(map) = &mut volume.config_map {
        set(&mut map.default_mode, FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        set(&mut downward.default_mode, FILE_MODE);
        downward.items.iter_mut().flatten().for_each(downward_file);
    }
    if let Some(projected) = &mut volume.projected {
        set(&mut projected.default_mode, FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(downward) = &mut source.downward_api {
                downward.items.iter_mut().flatten().for_each(downward_file);
            }
            if let Some(token) = &mut source.service_account_token {
                set(&mut token.expiration_seconds, 3600);
            }
        }
    }
    if let Some(claim) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        set(&mut claim.spec.volume_mode, "Filesystem".to_owned());
        if let Some(resources) = &mut claim.spec.resources {
            round_up(&mut resources.limits);
            round_up(&mut resources.requests);
        }
    }
    vendor_volumes::default_in_pod(volume);
}

fn downward_file(file: &mut api::k8s::api::core::v1::DownwardAPIVolumeFile) {
    if let Some(field) = &mut file.field_ref {
        field_ref(field);
    }
    if let Some(resource) = &mut file.resource_field_ref {
        set(&mut resource.divisor, Text("0".to_owned()));
    }
}
