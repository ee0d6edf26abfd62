//! Volumes of vendors, in pods and in PersistentVolumes (`validate…VolumeSource` in
//! `pkg/apis/core/validation/validation.go`). Most are the same in both; where a PersistentVolume has its own type, the
//! difference is the namespace of a secret or of endpoints.

use super::common::{set, str_of, text};
use crate::field::{Errors, FieldError, Path};
use crate::validation::{
    inclusive_range_error, invalid_each, is_dns1123_label, is_in_range, one_of, required,
    validate_local_descending_path,
};
use api::k8s::api::core::v1::{
    AzureDiskVolumeSource, FCVolumeSource, FlockerVolumeSource, PersistentVolumeSpec, QuobyteVolumeSource, Volume,
};
use regex::Regex;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// Fills in what a pod leaves open of a vendor's source.
pub(super) fn default_in_pod(volume: &mut Volume) {
    if let Some(iscsi) = &mut volume.iscsi {
        text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut volume.rbd {
        default_rbd(&mut rbd.pool, &mut rbd.user, &mut rbd.keyring);
    }
    if let Some(disk) = &mut volume.azure_disk {
        default_azure_disk(disk);
    }
    if let Some(scale_io) = &mut volume.scale_io {
        default_scale_io(&mut scale_io.storage_mode, &mut scale_io.fs_type);
    }
}

/// Fills in what a PersistentVolume leaves open of a vendor's source.
pub(super) fn default_persistent(spec: &mut PersistentVolumeSpec) {
    if let Some(iscsi) = &mut spec.iscsi {
        text(&mut iscsi.iscsi_interface, "default");
    }
    if let Some(rbd) = &mut spec.rbd {
        default_rbd(&mut rbd.pool, &mut rbd.user, &mut rbd.keyring);
    }
    if let Some(disk) = &mut spec.azure_disk {
        default_azure_disk(disk);
    }
    if let Some(scale_io) = &mut spec.scale_io {
        default_scale_io(&mut scale_io.storage_mode, &mut scale_io.fs_type);
    }
}

fn default_rbd(pool: &mut Option<String>, user: &mut Option<String>, keyring: &mut Option<String>) {
    text(pool, "rbd");
    text(user, "admin");
    text(keyring, "/etc/ceph/keyring");
}

fn default_azure_disk(disk: &mut AzureDiskVolumeSource) {
    set(&mut disk.caching_mode, "ReadWrite".to_owned());
    set(&mut disk.fs_type, "ext4".to_owned());
    set(&mut disk.read_only, false);
    set(&mut disk.kind, "Shared".to_owned());
}

fn default_scale_io(mode: &mut Option<String>, fs_type: &mut Option<String>) {
    text(mode, "ThinProvisioned");
    text(fs_type, "xfs");
}

/// Errors of one source of a pod's volume, if `source` (a name of `volume_sources`) is a vendor's. Messages name two
/// sources otherwise than the API does.
pub(super) fn validate_in_pod(source: &str, volume: &Volume, path: &Path) -> Errors {
    let at = path.child(shown_as(source));
    let errors = match source {
        "gitRepo" => volume.git_repo.as_ref().map(|v| {
            let mut errors = all_required(&at, &[("repository", &v.repository)]);
            errors.extend(validate_local_descending_path(str_of(&v.directory), &at.child("directory")));
            errors
        }),
        "gcePersistentDisk" => {
            volume.gce_persistent_disk.as_ref().map(|v| validate_disk(("pdName", &v.pd_name), v.partition, &at))
        }
        "awsElasticBlockStore" => {
            volume.aws_elastic_block_store.as_ref().map(|v| validate_disk(("volumeID", &v.volume_id), v.partition, &at))
        }
        "iscsi" => volume.iscsi.as_ref().map(|v| {
            let chap = v.chap_auth_discovery == Some(true) || v.chap_auth_session == Some(true);
            let target = Iscsi {
                portal: &v.target_portal,
                iqn: &v.iqn,
                lun: v.lun,
                secret_missing: chap && v.secret_ref.is_none(),
                initiator: v.initiator_name.as_deref(),
            };
            let mut errors = target.validate(&at, true);
            if v.initiator_name.is_some() && volume.name.len() + 1 + v.target_portal.len() > ISCSI_MAX {
                errors.push(FieldError::invalid(&path.child("name"), &volume.name, ISCSI_TOO_LONG));
            }
            errors
        }),
        "glusterfs" => {
            volume.glusterfs.as_ref().map(|v| all_required(&at, &[("endpoints", &v.endpoints), ("path", &v.path)]))
        }
        "flocker" => volume.flocker.as_ref().map(|v| validate_flocker(v, &at)),
        "rbd" => volume.rbd.as_ref().map(|v| validate_rbd(&v.monitors, &v.image, &at)),
        "cinder" => volume.cinder.as_ref().map(|v| {
            let mut errors = all_required(&at, &[("volumeID", &v.volume_id)]);
            errors.extend(validate_secret_name(v.secret_ref.as_ref().map(|s| s.name.as_str()), &at));
            errors
        }),
        "cephFS" => volume.cephfs.as_ref().map(|v| validate_monitors(&v.monitors, &at)),
        "quobyte" => volume.quobyte.as_ref().map(|v| validate_quobyte(v, &at)),
        "fc" => volume.fc.as_ref().map(|v| validate_fc(v, &at)),
        "flexVolume" => volume.flex_volume.as_ref().map(|v| validate_flex(&v.driver, v.options.as_ref(), &at)),
        "azureFile" => volume
            .azure_file
            .as_ref()
            .map(|v| all_required(&at, &[("secretName", &v.secret_name), ("shareName", &v.share_name)])),
        "vsphereVolume" => volume.vsphere_volume.as_ref().map(|v| all_required(&at, &[("volumePath", &v.volume_path)])),
        "photonPersistentDisk" => {
            volume.photon_persistent_disk.as_ref().map(|v| all_required(&at, &[("pdID", &v.pd_id)]))
        }
        "portworxVolume" => volume.portworx_volume.as_ref().map(|v| all_required(&at, &[("volumeID", &v.volume_id)])),
        "azureDisk" => volume.azure_disk.as_ref().map(|v| validate_azure_disk(v, &at)),
        "storageos" => volume.storageos.as_ref().map(|v| {
            let mut errors = validate_storage_os(str_of(&v.volume_name), str_of(&v.volume_namespace), &at);
            errors.extend(validate_secret_name(v.secret_ref.as_ref().map(|s| s.name.as_str()), &at));
            errors
        }),
        "scaleIO" => volume.scale_io.as_ref().map(|v| {
            all_required(&at, &[("gateway", &v.gateway), ("system", &v.system), ("volumeName", str_of(&v.volume_name))])
        }),
        _ => None,
    };
    errors.unwrap_or_default()
}

/// Errors of one source of the PersistentVolume `name`, if `source` is a vendor's.
pub(super) fn validate_persistent(source: &str, spec: &PersistentVolumeSpec, name: &str, path: &Path) -> Errors {
    let at = path.child(shown_as(source));
    let errors = match source {
        "gcePersistentDisk" => {
            spec.gce_persistent_disk.as_ref().map(|v| validate_disk(("pdName", &v.pd_name), v.partition, &at))
        }
        "awsElasticBlockStore" => {
            spec.aws_elastic_block_store.as_ref().map(|v| validate_disk(("volumeID", &v.volume_id), v.partition, &at))
        }
        "glusterfs" => spec.glusterfs.as_ref().map(|v| {
            let mut errors = all_required(&at, &[("endpoints", &v.endpoints), ("path", &v.path)]);
            if let Some(namespace) = &v.endpoints_namespace {
                errors.extend(validate_endpoints_namespace(namespace, &at.child("endpointsNamespace")));
            }
            errors
        }),
        "flocker" => spec.flocker.as_ref().map(|v| validate_flocker(v, &at)),
        "rbd" => spec.rbd.as_ref().map(|v| validate_rbd(&v.monitors, &v.image, &at)),
        "quobyte" => spec.quobyte.as_ref().map(|v| validate_quobyte(v, &at)),
        "cephFS" => spec.cephfs.as_ref().map(|v| validate_monitors(&v.monitors, &at)),
        "iscsi" => spec.iscsi.as_ref().map(|v| {
            let chap = v.chap_auth_discovery == Some(true) || v.chap_auth_session == Some(true);
            let target = Iscsi {
                portal: &v.target_portal,
                iqn: &v.iqn,
                lun: v.lun,
                secret_missing: chap && v.secret_ref.is_none(),
                initiator: v.initiator_name.as_deref(),
            };
            let mut errors = target.validate(&at, false);
            errors.extend(validate_secret_name(v.secret_ref.as_ref().map(|s| str_of(&s.name)), &at));
            if v.initiator_name.is_some() && name.len() + 1 + v.target_portal.len() > ISCSI_MAX {
                errors.push(FieldError::invalid(&at.child("targetportal"), &v.target_portal, ISCSI_TOO_LONG));
            }
            errors
        }),
        "cinder" => spec.cinder.as_ref().map(|v| {
            let mut errors = all_required(&at, &[("volumeID", &v.volume_id)]);
            let secret = v.secret_ref.as_ref().map(|s| (str_of(&s.name), str_of(&s.namespace)));
            errors.extend(validate_secret(secret, &at));
            errors
        }),
        "fc" => spec.fc.as_ref().map(|v| validate_fc(v, &at)),
        "flexVolume" => spec.flex_volume.as_ref().map(|v| validate_flex(&v.driver, v.options.as_ref(), &at)),
        "azureFile" => spec.azure_file.as_ref().map(|v| {
            let mut errors = all_required(&at, &[("secretName", &v.secret_name), ("shareName", &v.share_name)]);
            if v.secret_namespace.as_deref() == Some("") {
                errors.push(FieldError::required(&at.child("secretNamespace"), ""));
            }
            errors
        }),
        "vsphereVolume" => spec.vsphere_volume.as_ref().map(|v| all_required(&at, &[("volumePath", &v.volume_path)])),
        "photonPersistentDisk" => {
            spec.photon_persistent_disk.as_ref().map(|v| all_required(&at, &[("pdID", &v.pd_id)]))
        }
        "portworxVolume" => spec.portworx_volume.as_ref().map(|v| all_required(&at, &[("volumeID", &v.volume_id)])),
        "azureDisk" => spec.azure_disk.as_ref().map(|v| validate_azure_disk(v, &at)),
        "scaleIO" => spec.scale_io.as_ref().map(|v| {
            all_required(&at, &[("gateway", &v.gateway), ("system", &v.system), ("volumeName", str_of(&v.volume_name))])
        }),
        "storageos" => spec.storageos.as_ref().map(|v| {
            let mut errors = validate_storage_os(str_of(&v.volume_name), str_of(&v.volume_namespace), &at);
            let secret = v.secret_ref.as_ref().map(|s| (str_of(&s.name), str_of(&s.namespace)));
            errors.extend(validate_secret(secret, &at));
            errors
        }),
        _ => None,
    };
    errors.unwrap_or_default()
}

/// Under which field upstream reports what is wrong inside of a source.
fn shown_as(source: &str) -> &str {
    match source {
        "gcePersistentDisk" => "persistentDisk",
        "cephFS" => "cephfs",
        other => other,
    }
}

fn all_required(path: &Path, fields: &[(&str, &str)]) -> Errors {
    let mut errors = Vec::new();
    for (field, value) in fields {
        required(&mut errors, &path.child(field), value);
    }
    errors
}

/// The name of a secret in the pod's own namespace.
fn validate_secret_name(name: Option<&str>, path: &Path) -> Errors {
    name.map(|name| all_required(&path.child("secretRef"), &[("name", name)])).unwrap_or_default()
}

/// The name and namespace of a secret.
fn validate_secret(secret: Option<(&str, &str)>, path: &Path) -> Errors {
    let Some((name, namespace)) = secret else { return Vec::new() };
    all_required(&path.child("secretRef"), &[("name", name), ("namespace", namespace)])
}

fn validate_disk(id: (&str, &str), partition: Option<i32>, path: &Path) -> Errors {
    let mut errors = all_required(path, &[id]);
    let partition = partition.unwrap_or(0);
    if !(0..=255).contains(&partition) {
        // Upstream's message, though zero is fine.
        let detail = inclusive_range_error(1, 255);
        errors.push(FieldError::invalid(&path.child("partition"), partition, &detail));
    }
    errors
}

fn validate_lun(lun: i32, path: &Path) -> Errors {
    let wrong = is_in_range(i64::from(lun), 0, 255);
    wrong.iter().map(|message| FieldError::invalid(&path.child("lun"), lun, message)).collect()
}

const ISCSI_MAX: usize = 64;
const ISCSI_TOO_LONG: &str = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";

struct Iscsi<'a> {
    portal: &'a str,
    iqn: &'a str,
    lun: i32,
    secret_missing: bool,
    initiator: Option<&'a str>,
}

impl Iscsi<'_> {
    fn validate(&self, path: &Path, in_pod: bool) -> Errors {
        let mut errors = all_required(path, &[("targetPortal", self.portal)]);
        if self.iqn.is_empty() {
            errors.push(FieldError::required(&path.child("iqn"), ""));
        } else {
            errors.extend(validate_iscsi_name(self.iqn, &path.child("iqn"), in_pod));
        }
        errors.extend(validate_lun(self.lun, path));
        if self.secret_missing {
            errors.push(FieldError::required(&path.child("secretRef"), ""));
        }
        if let Some(initiator) = self.initiator {
            errors.extend(validate_iscsi_name(initiator, &path.child("initiatorname"), in_pod));
        }
        errors
    }
}

/// Upstream's patterns, of which the first is not anchored in front.
fn validate_iscsi_name(name: &str, path: &Path, in_pod: bool) -> Errors {
    static PATTERNS: LazyLock<[(&str, Regex); 3]> = LazyLock::new(|| {
        let compile = |pattern| Regex::new(pattern).expect("a constant pattern");
        [
            ("iqn", compile(r"iqn\.[0-9]{4}-[0-9]{2}\.([[:alnum:]\-.]+)(:[^,;*&$|\s]+)$")),
            ("eui", compile(r"^eui.[[:alnum:]]{16}$")),
            ("naa", compile(r"^naa.[[:alnum:]]{32}$")),
        ]
    });
    let detail = match PATTERNS.iter().find(|(prefix, _)| name.starts_with(prefix)) {
        Some((_, pattern)) if pattern.is_match(name) => return Vec::new(),
        None if in_pod => "must be valid format starting with iqn, eui, or naa",
        _ => "must be valid format",
    };
    vec![FieldError::invalid(path, name, detail)]
}

fn validate_fc(fc: &FCVolumeSource, path: &Path) -> Errors {
    let names = fc.target_wwns.as_deref().unwrap_or_default();
    let ids = fc.wwids.as_deref().unwrap_or_default();
    let at = path.child("targetWWNs");
    let mut errors = Vec::new();
    if names.is_empty() && ids.is_empty() {
        errors.push(FieldError::required(&at, "must specify either targetWWNs or wwids, but not both"));
    }
    if names.is_empty() {
        return errors;
    }
    if !ids.is_empty() {
        let detail = "targetWWNs and wwids can not be specified simultaneously";
        errors.push(FieldError::invalid(&at, &json!(names), detail));
    }
    match fc.lun {
        None => errors.push(FieldError::required(&path.child("lun"), "lun is required if targetWWNs is specified")),
        Some(lun) => errors.extend(validate_lun(lun, path)),
    }
    errors
}

fn validate_flocker(flocker: &FlockerVolumeSource, path: &Path) -> Errors {
    let (name, uuid) = (str_of(&flocker.dataset_name), str_of(&flocker.dataset_uuid));
    let mut errors = Vec::new();
    if name.is_empty() && uuid.is_empty() {
        errors.push(FieldError::required(path, "one of datasetName and datasetUUID is required"));
    }
    if !name.is_empty() && !uuid.is_empty() {
        let detail = "datasetName and datasetUUID can not be specified simultaneously";
        errors.push(FieldError::invalid(path, "resource", detail));
    }
    if name.contains('/') {
        errors.push(FieldError::invalid(&path.child("datasetName"), name, "must not contain '/'"));
    }
    errors
}

fn validate_monitors(monitors: &[String], path: &Path) -> Errors {
    if monitors.is_empty() { vec![FieldError::required(&path.child("monitors"), "")] } else { Vec::new() }
}

fn validate_rbd(monitors: &[String], image: &str, path: &Path) -> Errors {
    let mut errors = validate_monitors(monitors, path);
    errors.extend(all_required(path, &[("image", image)]));
    errors
}

fn validate_quobyte(quobyte: &QuobyteVolumeSource, path: &Path) -> Errors {
    let mut errors = Vec::new();
    let pairs = "must be a host:port pair or multiple pairs separated by commas";
    let at = path.child("registry");
    if quobyte.registry.is_empty() {
        errors.push(FieldError::required(&at, pairs));
    } else if str_of(&quobyte.tenant).len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(&path.child("tenant"), detail));
    } else {
        let wrong = quobyte.registry.split(',').filter(|pair| !is_host_port(pair));
        errors.extend(wrong.map(|_| FieldError::invalid(&at, &quobyte.registry, pairs)));
    }
    errors.extend(all_required(path, &[("volume", &quobyte.volume)]));
    errors
}

/// Whether Go's `net.SplitHostPort` takes it: one colon, or an address in brackets and a colon.
fn is_host_port(pair: &str) -> bool {
    let bare = |text: &str| !text.contains(['[', ']']);
    let Some((host, port)) = pair.rsplit_once(':') else { return false };
    let host_is_sound = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').is_some_and(bare),
        None => bare(host) && !host.contains(':'),
    };
    host_is_sound && bare(port)
}

/// Options of a flex volume must not be in Kubernetes' own namespaces.
fn validate_flex(driver: &str, options: Option<&BTreeMap<String, String>>, path: &Path) -> Errors {
    let mut errors = all_required(path, &[("driver", driver)]);
    for key in options.into_iter().flatten().map(|(key, _)| key) {
        let namespace = key.split_once('/').map_or(key.as_str(), |(namespace, _)| namespace);
        let domain = format!(".{}", namespace.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(&path.child("options").key(key), key, detail));
        }
    }
    errors
}

fn validate_azure_disk(disk: &AzureDiskVolumeSource, path: &Path) -> Errors {
    const MANAGED: &str =
        "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}";
    const BLOB: &str = "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd";
    let mut errors = all_required(path, &[("diskName", &disk.disk_name), ("diskURI", &disk.disk_uri)]);
    if let Some(mode) = &disk.caching_mode {
        one_of(&mut errors, &path.child("cachingMode"), mode, &["None", "ReadOnly", "ReadWrite"]);
    }
    let Some(kind) = &disk.kind else { return errors };
    one_of(&mut errors, &path.child("kind"), kind, &["Dedicated", "Managed", "Shared"]);
    let (prefix, pattern) = if kind == "Managed" { ("/subscriptions/", MANAGED) } else { ("https://", BLOB) };
    if !disk.disk_uri.starts_with(prefix) {
        errors.push(FieldError::not_supported(&path.child("diskURI"), &disk.disk_uri, &[pattern]));
    }
    errors
}

fn validate_storage_os(name: &str, namespace: &str, path: &Path) -> Errors {
    let mut errors = all_required(path, &[("volumeName", name)]);
    for (field, value) in [("volumeName", name), ("volumeNamespace", namespace)] {
        if !value.is_empty() {
            errors.extend(invalid_each(&path.child(field), value, is_dns1123_label(value)));
        }
    }
    errors
}

fn validate_endpoints_namespace(namespace: &str, path: &Path) -> Errors {
    if namespace.is_empty() {
        let detail = "if the endpointnamespace is set, it must be a valid namespace name";
        return vec![FieldError::invalid(path, namespace, detail)];
    }
    invalid_each(path, namespace, is_dns1123_label(namespace))
}

#[cfg(test)]
mod tests {
    use crate::kinds::testing::{check_create, check_defaults};
    use expect_test::expect;

    #[test]
    fn sources_of_vendors_are_sound() {
        let pod = "
apiVersion: v1
kind: Pod
metadata: {name: a, namespace: b}
spec:
  containers: [{name: a, image: a}]
  volumes:
  - {name: iscsi, iscsi: {targetPortal: a, iqn: foo, lun: 256, initiatorName: iqn.2001}}
  - {name: fc, fc: {targetWWNs: [a]}}
  - {name: disk, gcePersistentDisk: {pdName: '', partition: -1}}
  - {name: flex, flexVolume: {driver: a/b, options: {A.Kubernetes.io/b: c}}}
  - {name: quobyte, quobyte: {registry: 'a:1,b', volume: v}}
";
        check_create(
            pod,
            expect![[r#"
            spec.volumes[0].iscsi.iqn: Invalid value: "foo": must be valid format starting with iqn, eui, or naa
            spec.volumes[0].iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive
            spec.volumes[0].iscsi.initiatorname: Invalid value: "iqn.2001": must be valid format
            spec.volumes[1].fc.lun: Required value: lun is required if targetWWNs is specified
            spec.volumes[2].persistentDisk.pdName: Required value
            spec.volumes[2].persistentDisk.partition: Invalid value: -1: must be between 1 and 255, inclusive
            spec.volumes[3].flexVolume.options[A.Kubernetes.io/b]: Invalid value: "A.Kubernetes.io/b": kubernetes.io and k8s.io namespaces are reserved
            spec.volumes[4].quobyte.registry: Invalid value: "a:1,b": must be a host:port pair or multiple pairs separated by commas"#]],
        );
    }

    #[test]
    fn persistent_volumes_name_secrets_with_their_namespaces() {
        let volume = "
apiVersion: v1
kind: PersistentVolume
metadata: {name: a}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  azureDisk: {diskName: a, diskURI: b}
";
        check_defaults(
            volume,
            expect![[r#"
            spec.azureDisk.cachingMode: "ReadWrite"
            spec.azureDisk.fsType: "ext4"
            spec.azureDisk.kind: "Shared"
            spec.azureDisk.readOnly: false
            spec.persistentVolumeReclaimPolicy: "Retain"
            spec.volumeMode: "Filesystem"
            status.phase: "Pending""#]],
        );
        check_create(
            volume,
            expect![[
                r#"spec.azureDisk.diskURI: Unsupported value: "b": supported values: "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd""#
            ]],
        );
        let cinder =
            volume.replace("azureDisk: {diskName: a, diskURI: b}", "cinder: {volumeID: a, secretRef: {name: b}}");
        check_create(&cinder, expect!["spec.cinder.secretRef.namespace: Required value"]);
    }
}
