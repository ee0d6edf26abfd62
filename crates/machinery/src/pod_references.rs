//! What a pod names of the API (`VisitPodSecretNames`, `VisitPodConfigmapNames` and `HasAPIObjectReference` of `pkg/api/pod/util.go`).

use api::k8s::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, LocalObjectReference, PodSpec, Volume};
use api::k8s::api::core::v1::{ProjectedVolumeSource, VolumeProjection};
use api::meta::MetaExt;
use api::prelude::Pod;

/// On a pod that only shows one that runs without the API.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether the pod only shows one that runs without the API. It may name nothing, or nodes would come to read what they name.
pub fn is_mirror(pod: &Pod) -> bool {
    pod.annotation(MIRROR).is_some()
}

/// Secrets of the pod's namespace. A name that is there several times is told several times.
pub fn secrets(spec: &PodSpec) -> Vec<&str> {
    let mut names: Vec<&str> = spec.image_pull_secrets.iter().flatten().map(|r| r.name.as_str()).collect();
    names.extend(spec.volumes.iter().flatten().flat_map(secrets_of_volume));
    names.extend(env(spec).filter_map(|e| e.secret_key_ref.as_ref()).map(|r| r.name.as_str()));
    names.extend(env_from(spec).filter_map(|f| f.secret_ref.as_ref()).map(|r| r.name.as_str()));
    names.retain(|name| !name.is_empty());
    names
}

fn secrets_of_volume(volume: &Volume) -> Vec<&str> {
    let references: [Option<&LocalObjectReference>; 8] = [
        volume.cephfs.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.cinder.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.csi.as_ref().and_then(|v| v.node_publish_secret_ref.as_ref()),
        volume.flex_volume.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.iscsi.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.rbd.as_ref().and_then(|v| v.secret_ref.as_ref()),
        volume.scale_io.as_ref().map(|v| &v.secret_ref),
        volume.storageos.as_ref().and_then(|v| v.secret_ref.as_ref()),
    ];
    let mut names: Vec<&str> = references.into_iter().flatten().map(|r| r.name.as_str()).collect();
    names.extend(volume.secret.as_ref().and_then(|s| s.secret_name.as_deref()));
    names.extend(volume.azure_file.as_ref().map(|v| v.secret_name.as_str()));
    names.extend(projections(volume.projected.as_ref()).filter_map(|s| s.secret.as_ref()).map(|s| s.name.as_str()));
    names
}

/// ConfigMaps of the pod's namespace, likewise.
pub fn config_maps(spec: &PodSpec) -> Vec<&str> {
    let mut names = Vec::new();
    for volume in spec.volumes.iter().flatten() {
        names.extend(volume.config_map.as_ref().map(|c| c.name.as_str()));
        let projected = projections(volume.projected.as_ref()).filter_map(|s| s.config_map.as_ref());
        names.extend(projected.map(|c| c.name.as_str()));
    }
    names.extend(env(spec).filter_map(|e| e.config_map_key_ref.as_ref()).map(|r| r.name.as_str()));
    names.extend(env_from(spec).filter_map(|f| f.config_map_ref.as_ref()).map(|r| r.name.as_str()));
    names.retain(|name| !name.is_empty());
    names
}

fn projections(volume: Option<&ProjectedVolumeSource>) -> impl Iterator<Item = &VolumeProjection> {
    volume.into_iter().flat_map(|p| p.sources.iter().flatten())
}

/// Of all containers, as the next one.
fn env(spec: &PodSpec) -> impl Iterator<Item = &EnvVarSource> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| &c.env);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.env);
    let all = containers.chain(ephemeral).flat_map(|env: &Option<Vec<EnvVar>>| env.iter().flatten());
    all.filter_map(|e| e.value_from.as_ref())
}

fn env_from(spec: &PodSpec) -> impl Iterator<Item = &EnvFromSource> {
    let containers = spec.containers.iter().chain(spec.init_containers.iter().flatten()).map(|c| &c.env_from);
    let ephemeral = spec.ephemeral_containers.iter().flatten().map(|c| &c.env_from);
    containers.chain(ephemeral).flat_map(|from| from.iter().flatten())
}

/// The first kind of thing in the API that the pod needs, if there is one: then it cannot run without.
pub fn first(spec: &PodSpec) -> Option<&'static str> {
    if spec.service_account_name.as_deref().is_some_and(|name| !name.is_empty()) {
        return Some("serviceaccounts");
    }
    if !secrets(spec).is_empty() {
        return Some("secrets");
    }
    if !config_maps(spec).is_empty() {
        return Some("configmaps");
    }
    if spec.resource_claims.as_ref().is_some_and(|claims| !claims.is_empty()) {
        return Some("resourceclaims");
    }
    spec.volumes.iter().flatten().find_map(first_of_volume)
}

fn first_of_volume(volume: &Volume) -> Option<&'static str> {
    let kinds = [
        (volume.config_map.is_some(), "configmaps (via configmap volumes)"),
        (volume.secret.is_some(), "secrets (via secret volumes)"),
        (volume.csi.is_some(), "csidrivers (via CSI volumes)"),
        (volume.glusterfs.is_some(), "endpoints (via glusterFS volumes)"),
        (volume.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        (volume.ephemeral.is_some(), "persistentvolumeclaims (via ephemeral volumes)"),
        (volume.azure_file.is_some(), "secrets (via azureFile volumes)"),
    ];
    let own = kinds.into_iter().find(|(is, _)| *is).map(|(_, text)| text);
    own.or_else(|| projections(volume.projected.as_ref()).find_map(first_of_projection))
}

fn first_of_projection(source: &VolumeProjection) -> Option<&'static str> {
    let kinds = [
        (source.config_map.is_some(), "configmaps (via projected volumes)"),
        (source.secret.is_some(), "secrets (via projected volumes)"),
        (source.service_account_token.is_some(), "serviceaccounts (via projected volumes)"),
        (source.cluster_trust_bundle.is_some(), "clustertrustbundles"),
        (source.pod_certificate.is_some(), "podcertificates"),
    ];
    kinds.into_iter().find(|(is, _)| *is).map(|(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;

    fn spec(text: &str) -> PodSpec {
        PodSpec::decode(text.as_bytes()).expect("literal is a pod spec")
    }

    #[test]
    fn volumes_environment_and_pulls_name_secrets_and_config_maps() {
        let spec = spec(
            r#"{"imagePullSecrets":[{"name":"pull"},{"name":""}],
                "volumes":[{"name":"v","secret":{"secretName":"vol"}},{"name":"c","configMap":{"name":"cfg"}},
                    {"name":"p","projected":{"sources":[{"configMap":{"name":"kube-root-ca.crt"}},{"secret":{"name":"proj"}}]}},
                    {"name":"f","csi":{"driver":"d","nodePublishSecretRef":{"name":"publish"}}}],
                "containers":[{"name":"a","env":[{"name":"X","valueFrom":{"secretKeyRef":{"name":"env","key":"k"}}}],
                    "envFrom":[{"configMapRef":{"name":"from"}}]}],
                "ephemeralContainers":[{"name":"e","envFrom":[{"secretRef":{"name":"debug"}}]}]}"#,
        );
        assert_eq!(secrets(&spec), ["pull", "vol", "proj", "publish", "env", "debug"]);
        assert_eq!(config_maps(&spec), ["cfg", "kube-root-ca.crt", "from"]);
    }

    #[test]
    fn what_needs_the_api_is_told_by_kind() {
        let check = |rest: &str, want: Option<&str>| {
            assert_eq!(first(&spec(&format!(r#"{{"containers":[],{rest}}}"#))), want, "{rest}");
        };
        let volume =
            |source: &str| format!(r#""volumes":[{{"name":"h","hostPath":{{"path":"/"}}}},{{"name":"v",{source}}}]"#);
        check(r#""serviceAccountName":"default""#, Some("serviceaccounts"));
        check(r#""resourceClaims":[{"name":"c","resourceClaimName":"c"}]"#, Some("resourceclaims"));
        check(r#""imagePullSecrets":[{"name":"s"}]"#, Some("secrets"));
        check(&volume(r#""configMap":{"name":"c"}"#), Some("configmaps"));
        check(&volume(r#""secret":{}"#), Some("secrets (via secret volumes)"));
        check(&volume(r#""persistentVolumeClaim":{"claimName":"c"}"#), Some("persistentvolumeclaims"));
        let token = r#""projected":{"sources":[{"downwardAPI":{}},{"serviceAccountToken":{"path":"t"}}]}"#;
        check(&volume(token), Some("serviceaccounts (via projected volumes)"));
        check(&volume(r#""projected":{"sources":[{"downwardAPI":{}}]}"#), None);
        check(&volume(r#""emptyDir":{}"#), None);
    }
}
