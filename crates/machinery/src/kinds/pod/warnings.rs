//! What the server warns of in pods and pod templates (`pkg/api/pod/warnings.go`, `pkg/api/node/util.go`), in upstream's
//! words and order.
//!
//! Only valid objects are warned of, so what a new pod or a template cannot have (ephemeral containers) is not looked at.

use super::annotations::{APP_ARMOR, Annotations, SECCOMP, SECCOMP_OF_POD, profile_of};
use crate::field::{Path, quote};
use crate::kinds::common::str_of;
use crate::kinds::persistentvolumeclaim;
use crate::quantity::Quantity as Number;
use crate::validation::{ip_warning, is_dns1123_label, is_label_value};
use api::k8s::api::core::v1::{
    Container, ContainerPort, DownwardAPIVolumeFile, EnvVar, KeyToPath, NodeSelectorTerm, PodAffinityTerm, PodSpec,
    Volume, VolumeProjection, WeightedPodAffinityTerm,
};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::{MetaExt, Pod, PodTemplateSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// As many as an answer can show, which has room for 4096 characters of them. Keeps what is compared with each other
/// from giving a warning for every pair.
const MOST: usize = 4096;

const NO_MATCH: &str = "a null labelSelector results in matching no pod";

const ANNOTATIONS: &[(&str, &str)] = &[
    ("scheduler.alpha.kubernetes.io/critical-pod", "v1.16+; use the \"priorityClassName\" field instead"),
    ("security.alpha.kubernetes.io/sysctls", "v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "v1.11+; use the \"sysctls\" field instead"),
];

/// The warnings about a new pod.
pub(super) fn of_pod(pod: &Pod) -> Vec<String> {
    let (no_spec, none) = (PodSpec::default(), Annotations::new());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let annotations = pod.metadata.annotations.as_ref().unwrap_or(&none);
    let mut warnings = Vec::new();
    // Upstream warns of these first, while it copies the annotations to the fields.
    if spec.os.as_ref().is_none_or(|os| os.name != "windows") {
        warnings.extend(containers(spec).filter_map(|(_, c)| app_armor(spec, annotations, c, &Path::root())));
    }
    let messages = is_dns1123_label(pod.name());
    if !messages.is_empty() {
        warnings.push(format!(
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [{}]",
            messages.join(" ")
        ));
    }
    warnings.extend(of_spec(spec, annotations, &Path::root(), false));
    warnings
}

/// The warnings about a template at `path`.
pub(in crate::kinds) fn of_template(template: &PodTemplateSpec, path: &Path) -> Vec<String> {
    let (no_spec, none) = (PodSpec::default(), Annotations::new());
    let annotations = template.metadata.as_ref().and_then(|m| m.annotations.as_ref()).unwrap_or(&none);
    of_spec(template.spec.as_ref().unwrap_or(&no_spec), annotations, path, true)
}

fn of_spec(spec: &PodSpec, annotations: &Annotations, root: &Path, is_template: bool) -> Vec<String> {
    let path = root.child("spec");
    let mut warnings = node_labels(spec, &path);
    warnings.extend(spread(spec, &path));
    warnings.extend(
        ANNOTATIONS
            .iter()
            .filter(|(key, _)| annotations.contains_key(*key))
            .map(|(key, instead)| format!("{}: non-functional in {instead}", annotation(root, key))),
    );
    warnings.extend(volumes(spec, &path.child("volumes")));
    warnings.extend(repeated_names(spec, &path));
    let overhead = ["memory", "ephemeral-storage"].map(|resource| (spec.overhead.as_ref(), resource));
    warnings.extend(overhead.iter().filter_map(|(list, name)| fractional(*list, name, || path.child("overhead"))));
    let profile = spec.security_context.as_ref().and_then(|c| c.seccomp_profile.as_ref());
    if profile.is_none() && annotations.contains_key(SECCOMP_OF_POD) {
        warnings.push(seccomp(root, SECCOMP_OF_POD));
    }
    for (place, container) in containers(spec) {
        warnings.extend(seccomp_of_container(annotations, container, root));
        if is_template {
            warnings.extend(app_armor(spec, annotations, container, root));
        }
        warnings.extend(resources(container, || place.path(&path)));
        warnings.extend(hidden_variables(container, || place.path(&path)));
    }
    warnings.extend(ports(spec, &path));
    warnings.extend(port_names(spec, &path));
    if spec.termination_grace_period_seconds.is_some_and(|s| s < 0) {
        let path = path.child("terminationGracePeriodSeconds");
        warnings.push(format!("{path}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    warnings.extend(pod_affinity(spec, &path.child("affinity")));
    warnings.extend(addresses(spec, &path));
    warnings
}

/// Where a container stands in its spec.
struct Place {
    field: &'static str,
    index: usize,
}

impl Place {
    fn path(&self, spec: &Path) -> Path {
        spec.child(self.field).index(self.index)
    }
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = (Place, &Container)> {
    let place = |field| move |(index, container)| (Place { field, index }, container);
    let init = spec.init_containers.iter().flatten().enumerate().map(place("initContainers"));
    init.chain(spec.containers.iter().enumerate().map(place("containers")))
}

fn annotation(root: &Path, key: &str) -> Path {
    root.child("metadata").child("annotations").key(key)
}

/// What to use instead of a label of nodes, if that goes out of use.
pub(in crate::kinds) fn deprecated_label(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => "deprecated since v1.22; use Taints and Tolerations instead",
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// The warning about such a label in a term at `path`.
pub(in crate::kinds) fn label_warning(key: &str, path: impl FnOnce() -> Path) -> Option<String> {
    deprecated_label(key).map(|text| format!("{}: {key} is {text}", path()))
}

fn node_labels(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for key in spec.node_selector.iter().flatten().map(|(key, _)| key) {
        if let Some(text) = deprecated_label(key) {
            warnings.push(format!("{}: {text}", path.child("nodeSelector").key(key)));
        }
    }
    let Some(affinity) = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) else { return warnings };
    let path = path.child("affinity").child("nodeAffinity");
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref();
    let terms = path.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
    for (i, term) in required.iter().flat_map(|r| &r.node_selector_terms).enumerate() {
        warnings.extend(selector_term(term, false, &terms.index(i)));
    }
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    let terms = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    for (i, term) in preferred.enumerate() {
        warnings.extend(selector_term(&term.preference, true, &terms.index(i).child("preference")));
    }
    warnings
}

/// Validation looks at the values of required terms only, so those of preferred ones are warned of (`check_values`).
pub(in crate::kinds) fn selector_term(term: &NodeSelectorTerm, check_values: bool, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        warnings.extend(label_warning(&requirement.key, || path.child("key")));
        for (i, value) in requirement.values.iter().flatten().enumerate().filter(|_| check_values) {
            let path = path.child("values").index(i);
            warnings.extend(is_label_value(value).iter().map(|text| format!("{path}: {value} is invalid, {text}")));
        }
    }
    warnings
}

fn spread(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    for (i, constraint) in spec.topology_spread_constraints.iter().flatten().enumerate() {
        let path = path.child("topologySpreadConstraints").index(i);
        warnings.extend(label_warning(&constraint.topology_key, || path.child("topologyKey")));
        if constraint.label_selector.is_none() {
            warnings.push(format!("{}: {NO_MATCH}", path.child("labelSelector")));
        }
    }
    warnings
}

fn volumes(spec: &PodSpec, path: &Path) -> Vec<String> {
    let volumes = spec.volumes.as_deref().unwrap_or_default();
    let mut warnings = Vec::new();
    for (i, volume) in volumes.iter().enumerate() {
        let plugins = [
            ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
            ("gitRepo", volume.git_repo.is_some()),
            ("scaleIO", volume.scale_io.is_some()),
            ("flocker", volume.flocker.is_some()),
            ("storageOS", volume.storageos.is_some()),
            ("quobyte", volume.quobyte.is_some()),
            ("glusterfs", volume.glusterfs.is_some()),
            ("cephfs", volume.cephfs.is_some()),
            ("rbd", volume.rbd.is_some()),
        ];
        warnings.extend(gone_plugins(&plugins, &path.index(i)));
        if let Some(claim) = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) {
            let path = path.index(i).child("ephemeral").child("volumeClaimTemplate").child("spec");
            warnings.extend(persistentvolumeclaim::spec_warnings(&claim.spec, &path));
        }
    }
    warnings.extend(volumes.iter().flat_map(overlaps));
    warnings
}

/// What is said of the fields of a volume at `path` that no longer work, of those that it uses.
pub(in crate::kinds) fn gone_plugins(plugins: &[(&str, bool)], path: &Path) -> Vec<String> {
    let warn = |field: &str| {
        let text = match field {
            "photonPersistentDisk" => "deprecated in v1.11, non-functional in v1.16+",
            "gitRepo" => "deprecated in v1.11, and disabled by default in v1.33+",
            "scaleIO" => "deprecated in v1.16, non-functional in v1.22+",
            "glusterfs" => "deprecated in v1.25, non-functional in v1.26+",
            "cephfs" | "rbd" => "deprecated in v1.28, non-functional in v1.31+",
            // storageOS, flocker, quobyte
            _ => "deprecated in v1.22, non-functional in v1.25+",
        };
        format!("{}: {text}", path.child(field))
    };
    plugins.iter().filter(|(_, is_used)| *is_used).map(|(field, _)| warn(field)).collect()
}

/// A file of a volume, and the source it comes from if there are several.
struct File<'a> {
    path: &'a str,
    source: String,
}

impl<'a> File<'a> {
    fn new(path: &'a str, source: impl Into<String>) -> Self {
        File { path: path.trim_end_matches('/'), source: source.into() }
    }

    fn shown(&self) -> String {
        let path = quote(self.path);
        if self.source.is_empty() { path } else { format!("{path} ({})", self.source) }
    }
}

fn keys<'a>(items: &'a Option<Vec<KeyToPath>>, source: &str) -> Vec<File<'a>> {
    items.iter().flatten().map(|item| File::new(&item.path, source)).collect()
}

fn fields<'a>(items: &'a Option<Vec<DownwardAPIVolumeFile>>, source: &str) -> Vec<File<'a>> {
    items.iter().flatten().map(|item| File::new(&item.path, source)).collect()
}

/// Files of one volume where one takes the place of another, or stands where another needs a directory.
fn overlaps(volume: &Volume) -> Vec<String> {
    let name = quote(&volume.name);
    let mut warnings = Vec::new();
    let (files, shown) = if let Some(map) = &volume.config_map {
        (keys(&map.items, ""), format!("ConfigMap {}", quote(&map.name)))
    } else if let Some(secret) = &volume.secret {
        (keys(&secret.items, ""), format!("Secret {}", quote(str_of(&secret.secret_name))))
    } else if let Some(downward) = &volume.downward_api {
        (fields(&downward.items, ""), "DownwardAPI".to_owned())
    } else if let Some(projected) = &volume.projected {
        let sources = projected.sources.as_deref().unwrap_or_default();
        let empty = sources.iter().filter(|source| **source == VolumeProjection::default());
        warnings.extend(empty.map(|_| format!("volume {name} (Projected) has no sources provided")));
        (sources.iter().flat_map(projected_files).collect(), "Projected".to_owned())
    } else {
        return warnings;
    };
    let pairs = overlapping(&files).into_iter();
    warnings.extend(pairs.map(|(file, other)| {
        format!("volume {name} ({shown}): overlapping paths: {} with {}", files[file].shown(), files[other].shown())
    }));
    warnings
}

fn projected_files(source: &VolumeProjection) -> Vec<File<'_>> {
    if let Some(map) = source.config_map.as_ref().filter(|m| m.items.is_some()) {
        keys(&map.items, &format!("ConfigMap {}", quote(&map.name)))
    } else if let Some(secret) = source.secret.as_ref().filter(|s| s.items.is_some()) {
        keys(&secret.items, &format!("Secret {}", quote(&secret.name)))
    } else if let Some(downward) = source.downward_api.as_ref().filter(|d| d.items.is_some()) {
        fields(&downward.items, "DownwardAPI")
    } else if let Some(token) = &source.service_account_token {
        vec![File::new(&token.path, "ServiceAccountToken")]
    } else if let Some(bundle) = &source.cluster_trust_bundle {
        let name = str_of(if bundle.name.is_some() { &bundle.name } else { &bundle.signer_name });
        vec![File::new(&bundle.path, format!("ClusterTrustBundle {}", quote(name)))]
    } else if let Some(certificate) = &source.pod_certificate {
        let files = [
            (&certificate.certificate_chain_path, "PodCertificate chain"),
            (&certificate.key_path, "PodCertificate key"),
            (&certificate.credential_bundle_path, "PodCertificate credential bundle"),
        ];
        files.map(|(path, source)| File::new(str_of(path), source)).into()
    } else {
        Vec::new()
    }
}

/// Indexes of files and of earlier ones that they overlap with. A file overlaps with what has its path, with its
/// directories and with what is in it; those are looked up, since there may be many.
fn overlapping(files: &[File<'_>]) -> Vec<(usize, usize)> {
    let mut seen = BTreeSet::new();
    let mut pairs = Vec::new();
    for (i, path) in files.iter().map(|file| file.path).enumerate().filter(|(_, path)| !path.is_empty()) {
        let inside = format!("{path}/");
        let ends = inside.match_indices('/').map(|(end, _)| &path[..end]).filter(|parent| !parent.is_empty());
        let same_or_parents = ends.flat_map(|parent| seen.range((parent, 0)..=(parent, usize::MAX)));
        let children = seen.range((inside.as_str(), 0)..).take_while(|(path, _)| path.starts_with(&inside));
        let mut others: Vec<usize> = same_or_parents.chain(children).map(|(_, other)| *other).take(MOST).collect();
        others.sort_unstable();
        pairs.extend(others.into_iter().map(|other| (i, other)));
        if pairs.len() >= MOST {
            break;
        }
        seen.insert((path, i));
    }
    pairs
}

fn repeated_names(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen = HashSet::new();
    for (i, alias) in spec.host_aliases.iter().flatten().enumerate() {
        if !seen.insert(&alias.ip) {
            let path = path.child("hostAliases").index(i).child("ip");
            warnings.push(format!("{path}: duplicate ip {}", quote(&alias.ip)));
        }
    }
    let path = path.child("imagePullSecrets");
    let secrets = spec.image_pull_secrets.as_deref().unwrap_or_default();
    let mut seen = HashSet::new();
    for (i, secret) in secrets.iter().enumerate() {
        if !seen.insert(&secret.name) {
            warnings.push(format!("{}: duplicate name {}", path.index(i).child("name"), quote(&secret.name)));
        }
    }
    let unnamed = secrets.iter().enumerate().filter(|(_, secret)| secret.name.is_empty());
    warnings.extend(unnamed.map(|(i, _)| format!("{}: invalid empty name \"\"", path.index(i).child("name"))));
    warnings
}

/// The warning about an amount of bytes that is no whole number.
pub(in crate::kinds) fn fractional(
    list: Option<&BTreeMap<String, Quantity>>,
    resource: &str,
    path: impl FnOnce() -> Path,
) -> Option<String> {
    let value = list?.get(resource)?;
    let is_whole = Number::parse(&value.0).is_ok_and(|number| number.milli_value() % 1000 == 0);
    let text = || {
        let value = quote(&value.0);
        format!("{}: fractional byte value {value} is invalid, must be an integer", path().key(resource))
    };
    (!is_whole).then(text)
}

fn resources(container: &Container, path: impl Fn() -> Path) -> Vec<String> {
    let Some(resources) = &container.resources else { return Vec::new() };
    let lists = [("limits", resources.limits.as_ref()), ("requests", resources.requests.as_ref())];
    let names = ["memory", "ephemeral-storage"].into_iter();
    let all = names.flat_map(|name| lists.map(|(field, list)| (name, field, list)));
    all.filter_map(|(name, field, list)| fractional(list, name, || path().child("resources").child(field))).collect()
}

fn seccomp(root: &Path, key: &str) -> String {
    format!("{}: non-functional in v1.27+; use the \"seccompProfile\" field instead", annotation(root, key))
}

fn seccomp_of_container(annotations: &Annotations, container: &Container, root: &Path) -> Option<String> {
    if annotations.is_empty() || container.security_context.as_ref().is_some_and(|c| c.seccomp_profile.is_some()) {
        return None;
    }
    let key = format!("{SECCOMP}{}", container.name);
    annotations.contains_key(&key).then(|| seccomp(root, &key))
}

/// A container's annotation of AppArmor that its pod's profile does not say as well. It was copied into the container's
/// field before: whoever sets both alike is warned, too, which upstream can tell apart.
fn app_armor(spec: &PodSpec, annotations: &Annotations, container: &Container, root: &Path) -> Option<String> {
    if annotations.is_empty() {
        return None;
    }
    let key = format!("{APP_ARMOR}{}", container.name);
    let wanted = profile_of(annotations.get(&key)?);
    let of_pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let given = container.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    if of_pod.is_some() && of_pod == wanted.as_ref() || given.is_some() && given != wanted.as_ref() {
        return None;
    }
    Some(format!("{}: deprecated since v1.30; use the \"appArmorProfile\" field instead", annotation(root, &key)))
}

/// Variables that take the place of an earlier one and do not contain it.
fn hidden_variables(container: &Container, path: impl Fn() -> Path) -> Vec<String> {
    let mut seen = HashSet::new();
    let mut warnings = Vec::new();
    for (i, variable) in container.env.iter().flatten().enumerate() {
        if !seen.insert(&variable.name) && hides(variable) {
            let (path, name) = (path().child("env").index(i), quote(&variable.name));
            warnings
                .push(format!("{path}: hides previous definition of {name}, which may be dropped when using apply"));
        }
    }
    warnings
}

fn hides(variable: &EnvVar) -> bool {
    let reference = format!("$({})", variable.name);
    let value = str_of(&variable.value);
    variable.value_from.is_some() || value == reference || !value.contains(&reference)
}

/// All ports of a pod, and where they stand.
fn all_ports<'a>(spec: &'a PodSpec, path: &'a Path) -> impl Iterator<Item = (Path, &'a ContainerPort)> {
    containers(spec).flat_map(move |(place, container)| {
        let ports = container.ports.iter().flatten().enumerate();
        ports.map(move |(i, port)| (place.path(path).child("ports").index(i), port))
    })
}

fn ports(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: HashMap<(i32, &str), Vec<(Path, &ContainerPort)>> = HashMap::new();
    for (path, port) in all_ports(spec, path) {
        let host_ip = str_of(&port.host_ip);
        if !host_ip.is_empty() && host_port(port) == 0 {
            let (name, protocol) = (str_of(&port.name), str_of(&port.protocol));
            warnings.push(format!(
                "{path}: hostIP set without hostPort: {{Name:{name} HostPort:0 ContainerPort:{} Protocol:{protocol} HostIP:{host_ip}}}",
                port.container_port
            ));
        }
        let others = seen.entry((port.container_port, str_of(&port.protocol))).or_default();
        let clashes = others.iter().filter_map(|(other, before)| Some((clash(port, before)?, other)));
        warnings.extend(clashes.map(|(how, other)| format!("{path}: {how} port definition with {other}")).take(MOST));
        if warnings.len() >= MOST {
            break;
        }
        others.push((path, port));
    }
    warnings
}

fn host_port(port: &ContainerPort) -> i32 {
    port.host_port.unwrap_or(0)
}

/// How two definitions of a container's port get in each other's way.
fn clash(port: &ContainerPort, other: &ContainerPort) -> Option<&'static str> {
    let is_same = host_port(port) == host_port(other);
    let (ip, other_ip) = (str_of(&port.host_ip), str_of(&other.host_ip));
    if is_same && ip == other_ip {
        Some("duplicate")
    } else if host_port(port) == 0 || host_port(other) == 0 {
        Some("overlapping")
    } else if is_same && ip.is_empty() != other_ip.is_empty() {
        Some("dangerously ambiguous")
    } else {
        None
    }
}

fn port_names(spec: &PodSpec, path: &Path) -> Vec<String> {
    let mut warnings = Vec::new();
    let mut seen: HashMap<&str, Path> = HashMap::new();
    for (path, port) in all_ports(spec, path) {
        let name = str_of(&port.name);
        if name.is_empty() {
            continue;
        }
        if let Some(other) = seen.get(name) {
            let name = quote(name);
            warnings.push(format!(
                "{path}: duplicate port name {name} with {other}, services and probes that select ports by name will use {other}"
            ));
        } else {
            seen.insert(name, path);
        }
    }
    warnings
}

fn pod_affinity(spec: &PodSpec, path: &Path) -> Vec<String> {
    let Some(affinity) = &spec.affinity else { return Vec::new() };
    let mut warnings = Vec::new();
    if let Some(near) = &affinity.pod_affinity {
        let required = near.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = near.preferred_during_scheduling_ignored_during_execution.as_deref();
        warnings.extend(affinity_terms(required, preferred, &path.child("podAffinity")));
    }
    if let Some(far) = &affinity.pod_anti_affinity {
        let required = far.required_during_scheduling_ignored_during_execution.as_deref();
        let preferred = far.preferred_during_scheduling_ignored_during_execution.as_deref();
        warnings.extend(affinity_terms(required, preferred, &path.child("podAntiAffinity")));
    }
    warnings
}

fn affinity_terms(
    required: Option<&[PodAffinityTerm]>,
    preferred: Option<&[WeightedPodAffinityTerm]>,
    path: &Path,
) -> Vec<String> {
    let warning = |path: Path| format!("{}: {NO_MATCH}", path.child("labelSelector"));
    let list = path.child("requiredDuringSchedulingIgnoredDuringExecution");
    let required = required.unwrap_or_default().iter().enumerate().filter(|(_, term)| term.label_selector.is_none());
    let mut warnings: Vec<String> = required.map(|(i, _)| warning(list.index(i))).collect();
    let list = path.child("preferredDuringSchedulingIgnoredDuringExecution");
    let preferred = preferred.unwrap_or_default().iter().map(|weighted| &weighted.pod_affinity_term).enumerate();
    let matching_none = preferred.filter(|(_, term)| term.label_selector.is_none());
    warnings.extend(matching_none.map(|(i, _)| warning(list.index(i).child("podAffinityTerm"))));
    warnings
}

fn addresses(spec: &PodSpec, path: &Path) -> Vec<String> {
    let servers = spec.dns_config.iter().flat_map(|dns| dns.nameservers.iter().flatten()).enumerate();
    let servers =
        servers.filter_map(|(i, ip)| ip_warning(ip, || path.child("dnsConfig").child("nameservers").index(i)));
    let aliases = spec.host_aliases.iter().flatten().enumerate();
    let aliases = aliases.filter_map(|(i, a)| ip_warning(&a.ip, || path.child("hostAliases").index(i).child("ip")));
    servers.chain(aliases).collect()
}

#[cfg(test)]
mod tests;
