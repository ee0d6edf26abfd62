//! Volumes of a pod: sources of the node and of the API here, the vendors' in `kinds/vendor_volumes.rs`.

use crate::field::{Errors, FieldError, Path, quote};
use crate::kinds::common::str_of;
use crate::kinds::persistentvolumeclaim::validate_template as validate_claim_template;
use crate::kinds::vendor_volumes;
use crate::quantity::Quantity;
use crate::validation::{
    invalid_each, is_dns1123_label, is_dns1123_subdomain, one_of, required, validate_file_mode, validate_local_path,
    validate_no_backsteps,
};
use api::ObjectMeta;
use api::k8s::api::core::v1::{
    CSIVolumeSource, DownwardAPIVolumeFile, KeyToPath, ProjectedVolumeSource, Volume, VolumeProjection,
};

const FIELDS: &[&str] =
    &["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Checks volumes at `spec.volumes`; returns the sound ones: name, and whether it may be a block device.
pub(super) fn validate_volumes<'a>(
    volumes: &'a [Volume],
    pod: Option<&ObjectMeta>,
    spec: &Path,
    errors: &mut Errors,
) -> Vec<(&'a str, bool)> {
    let mut sound: Vec<(&str, bool)> = Vec::new();
    for (i, volume) in volumes.iter().enumerate() {
        let path = spec.child("volumes").index(i);
        let mut own = validate_source(volume, &path);
        if let (Some(pod), false) = (pod.and_then(|pod| pod.name.as_deref()), volume.name.is_empty())
            && volume_sources(volume).first() == Some(&"ephemeral")
        {
            let claim = format!("{pod}-{}", volume.name);
            let messages = is_dns1123_subdomain(&claim).into_iter();
            let messages = messages.map(|message| format!("PVC name {}: {message}", quote(&claim))).collect();
            own.extend(invalid_each(&path.child("name"), &volume.name, messages));
        }
        if volume.name.is_empty() {
            own.push(FieldError::required(&path.child("name"), ""));
        } else {
            own.extend(invalid_each(&path.child("name"), &volume.name, is_dns1123_label(&volume.name)));
        }
        if sound.iter().any(|(name, _)| *name == volume.name) {
            own.push(FieldError::duplicate(&path.child("name"), &volume.name));
        }
        if own.is_empty() {
            let block = volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some();
            sound.push((&volume.name, block));
        }
        errors.extend(own);
    }
    sound
}

/// The sources that are set, in upstream's order, by their field names.
pub(in crate::kinds) fn volume_sources(volume: &Volume) -> Vec<&'static str> {
    [
        ("emptyDir", volume.empty_dir.is_some()),
        ("hostPath", volume.host_path.is_some()),
        ("gitRepo", volume.git_repo.is_some()),
        ("gcePersistentDisk", volume.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", volume.aws_elastic_block_store.is_some()),
        ("secret", volume.secret.is_some()),
        ("nfs", volume.nfs.is_some()),
        ("iscsi", volume.iscsi.is_some()),
        ("glusterfs", volume.glusterfs.is_some()),
        ("flocker", volume.flocker.is_some()),
        ("persistentVolumeClaim", volume.persistent_volume_claim.is_some()),
        ("rbd", volume.rbd.is_some()),
        ("cinder", volume.cinder.is_some()),
        ("cephFS", volume.cephfs.is_some()),
        ("quobyte", volume.quobyte.is_some()),
        // Upstream's message has this spelling.
        ("downwarAPI", volume.downward_api.is_some()),
        ("fc", volume.fc.is_some()),
        ("flexVolume", volume.flex_volume.is_some()),
        ("configMap", volume.config_map.is_some()),
        ("azureFile", volume.azure_file.is_some()),
        ("vsphereVolume", volume.vsphere_volume.is_some()),
        ("photonPersistentDisk", volume.photon_persistent_disk.is_some()),
        ("portworxVolume", volume.portworx_volume.is_some()),
        ("azureDisk", volume.azure_disk.is_some()),
        ("storageos", volume.storageos.is_some()),
        ("projected", volume.projected.is_some()),
        ("scaleIO", volume.scale_io.is_some()),
        ("csi", volume.csi.is_some()),
        ("ephemeral", volume.ephemeral.is_some()),
        ("image", volume.image.is_some()),
    ]
    .into_iter()
    .filter_map(|(name, set)| set.then_some(name))
    .collect()
}

fn validate_source(volume: &Volume, path: &Path) -> Errors {
    let sources = volume_sources(volume);
    let mut errors = Vec::new();
    match sources.split_first() {
        None => return vec![FieldError::required(path, "must specify a volume type")],
        Some((first, rest)) => {
            errors.extend(validate_one(first, volume, path));
            let detail = "may not specify more than 1 volume type";
            errors.extend(rest.iter().map(|other| FieldError::forbidden(&path.child(other), detail)));
        }
    }
    errors
}

fn validate_one(source: &str, volume: &Volume, path: &Path) -> Errors {
    let mut errors = Vec::new();
    if source == "emptyDir"
        && let Some(limit) = volume.empty_dir.as_ref().and_then(|e| e.size_limit.as_ref())
        && Quantity::parse(&limit.0).is_ok_and(|q| q.sign() < 0)
    {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(&path.child("emptyDir").child("sizeLimit"), detail));
    }
    if source == "hostPath"
        && let Some(host) = &volume.host_path
    {
        errors.extend(validate_host_path(&host.path, host.type_.as_deref(), &path.child("hostPath")));
    }
    if source == "nfs"
        && let Some(nfs) = &volume.nfs
    {
        errors.extend(validate_nfs(&nfs.server, &nfs.path, &path.child("nfs")));
    }
    if source == "persistentVolumeClaim"
        && let Some(claim) = &volume.persistent_volume_claim
    {
        required(&mut errors, &path.child("persistentVolumeClaim").child("claimName"), &claim.claim_name);
    }
    if source == "csi"
        && let Some(csi) = &volume.csi
    {
        errors.extend(validate_csi(csi, &path.child("csi")));
    }
    if source == "ephemeral"
        && let Some(ephemeral) = &volume.ephemeral
    {
        let path = path.child("ephemeral").child("volumeClaimTemplate");
        errors.extend(match &ephemeral.volume_claim_template {
            None => vec![FieldError::required(&path, "")],
            Some(template) => validate_claim_template(template, &path),
        });
    }
    if source == "image"
        && let Some(image) = &volume.image
    {
        let path = path.child("image");
        required(&mut errors, &path.child("reference"), str_of(&image.reference));
        let supported = ["Always", "IfNotPresent", "Never"];
        one_of(&mut errors, &path.child("pullPolicy"), str_of(&image.pull_policy), &supported);
    }
    errors.extend(validate_api_source(source, volume, path));
    errors.extend(vendor_volumes::validate_in_pod(source, volume, path));
    errors
}

/// Sources that come from the API: ConfigMap, Secret, downward API, projected.
fn validate_api_source(source: &str, volume: &Volume, path: &Path) -> Errors {
    let mut errors = Vec::new();
    match source {
        "secret" => {
            let Some(secret) = &volume.secret else { return errors };
            let path = path.child("secret");
            required(&mut errors, &path.child("secretName"), str_of(&secret.secret_name));
            errors.extend(validate_file_mode(secret.default_mode, &path.child("defaultMode")));
            errors.extend(validate_items(secret.items.as_deref(), &path));
        }
        "configMap" => {
            let Some(map) = &volume.config_map else { return errors };
            let path = path.child("configMap");
            required(&mut errors, &path.child("name"), &map.name);
            errors.extend(validate_file_mode(map.default_mode, &path.child("defaultMode")));
            errors.extend(validate_items(map.items.as_deref(), &path));
        }
        "downwarAPI" => {
            let Some(downward) = &volume.downward_api else { return errors };
            let path = path.child("downwardAPI");
            errors.extend(validate_file_mode(downward.default_mode, &path.child("defaultMode")));
            for file in downward.items.iter().flatten() {
                errors.extend(validate_downward_file(file, &path));
            }
        }
        "projected" => {
            let Some(projected) = &volume.projected else { return errors };
            errors.extend(validate_projected(projected, &path.child("projected")));
        }
        _ => {}
    }
    errors
}

fn validate_csi(csi: &CSIVolumeSource, path: &Path) -> Errors {
    let mut errors = validate_driver_name(&csi.driver, &path.child("driver"));
    if let Some(secret) = &csi.node_publish_secret_ref {
        if secret.name.is_empty() {
            errors.push(FieldError::required(&path.child("nodePublishSecretRef").child("name"), ""));
        } else {
            errors.extend(invalid_each(&path.child("name"), &secret.name, is_dns1123_subdomain(&secret.name)));
        }
    }
    errors
}

/// `ValidateCSIDriverName`.
pub(in crate::kinds) fn validate_driver_name(name: &str, path: &Path) -> Errors {
    const MAX_BYTES: usize = 63;
    if name.is_empty() {
        return vec![FieldError::required(path, "")];
    }
    let mut errors = Vec::new();
    if name.len() > MAX_BYTES {
        errors.push(FieldError::too_long(path, MAX_BYTES));
    }
    errors.extend(invalid_each(path, name, is_dns1123_subdomain(&name.to_ascii_lowercase())));
    errors
}

pub(in crate::kinds) fn validate_host_path(host: &str, ty: Option<&str>, path: &Path) -> Errors {
    if host.is_empty() {
        return vec![FieldError::required(&path.child("path"), "")];
    }
    let mut errors = validate_no_backsteps(host, &path.child("path"));
    if let Some(ty) = ty {
        let supported =
            ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
        one_of(&mut errors, &path.child("type"), ty, &supported);
    }
    errors
}

pub(in crate::kinds) fn validate_nfs(server: &str, export: &str, path: &Path) -> Errors {
    let mut errors = Vec::new();
    required(&mut errors, &path.child("server"), server);
    required(&mut errors, &path.child("path"), export);
    if !export.starts_with('/') {
        errors.push(FieldError::invalid(&path.child("path"), export, "must be an absolute path"));
    }
    errors
}

fn validate_items(items: Option<&[KeyToPath]>, path: &Path) -> Errors {
    let mut errors = Vec::new();
    for (i, item) in items.unwrap_or_default().iter().enumerate() {
        let path = path.child("items").index(i);
        required(&mut errors, &path.child("key"), &item.key);
        required(&mut errors, &path.child("path"), &item.path);
        errors.extend(validate_local_path(&item.path, &path.child("path")));
        errors.extend(validate_file_mode(item.mode, &path.child("mode")));
    }
    errors
}

fn validate_downward_file(file: &DownwardAPIVolumeFile, path: &Path) -> Errors {
    let mut errors = Vec::new();
    required(&mut errors, &path.child("path"), &file.path);
    errors.extend(validate_local_path(&file.path, &path.child("path")));
    match (&file.field_ref, &file.resource_field_ref) {
        (Some(field), resource) => {
            errors.extend(super::containers::validate_field_ref(field, FIELDS, &path.child("fieldRef")));
            if resource.is_some() {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (None, Some(resource)) => {
            let path = path.child("resourceFieldRef");
            errors.extend(super::containers::validate_resource_field_ref(resource, true, &path));
        }
        (None, None) => {
            errors.push(FieldError::required(path, "one of fieldRef and resourceFieldRef is required"));
        }
    }
    errors.extend(validate_file_mode(file.mode, &path.child("mode")));
    errors
}

fn validate_projected(projected: &ProjectedVolumeSource, path: &Path) -> Errors {
    let mut errors = validate_file_mode(projected.default_mode, &path.child("defaultMode"));
    let mut taken: Vec<&str> = Vec::new();
    for (i, source) in projected.sources.iter().flatten().enumerate() {
        errors.extend(validate_projection(source, path, &path.child("sources").index(i), &mut taken));
    }
    errors
}

fn validate_projection<'a>(source: &'a VolumeProjection, path: &Path, at: &Path, taken: &mut Vec<&'a str>) -> Errors {
    let mut errors = Vec::new();
    let mut count = 0;
    let mut take = |errors: &mut Errors, file: &'a str, value: &str| {
        if !file.is_empty() && taken.contains(&file) {
            errors.push(FieldError::invalid(path, value, "conflicting duplicate paths"));
        }
        taken.push(file);
    };
    let secret = source.secret.as_ref().map(|s| ("secret", &s.name, s.items.as_deref()));
    let map = source.config_map.as_ref().map(|m| ("configMap", &m.name, m.items.as_deref()));
    for (field, name, items) in [secret, map].into_iter().flatten() {
        count += 1;
        required(&mut errors, &at.child(field).child("name"), name);
        errors.extend(validate_items(items, &at.child(field)));
        for item in items.unwrap_or_default() {
            take(&mut errors, &item.path, name);
        }
    }
    if let Some(downward) = &source.downward_api {
        count += 1;
        for file in downward.items.iter().flatten() {
            errors.extend(validate_downward_file(file, &at.child("downwardAPI")));
            take(&mut errors, &file.path, &file.path);
        }
    }
    if let Some(token) = &source.service_account_token {
        count += 1;
        let seconds = token.expiration_seconds.unwrap_or(0);
        let at = at.child("serviceAccountToken").child("expirationSeconds");
        if seconds < 600 {
            errors.push(FieldError::invalid(&at, seconds, "may not specify a duration less than 10 minutes"));
        }
        if seconds > 1 << 32 {
            errors.push(FieldError::invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds"));
        }
        if token.path.is_empty() {
            errors.push(FieldError::required(&path.child("path"), ""));
        } else {
            errors.extend(validate_local_path(&token.path, &path.child("path")));
        }
    }
    if let Some(bundle) = &source.cluster_trust_bundle {
        count += 1;
        required(&mut errors, &at.child("clusterTrustBundle").child("path"), &bundle.path);
        errors.extend(validate_local_path(&bundle.path, &at.child("clusterTrustBundle").child("path")));
        take(&mut errors, &bundle.path, &bundle.path);
    }
    count += usize::from(source.pod_certificate.is_some());
    if count > 1 {
        errors.push(FieldError::forbidden(at, "may not specify more than 1 volume type per source"));
    }
    errors
}
