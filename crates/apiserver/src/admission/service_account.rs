//! ServiceAccount (`plugin/pkg/admission/serviceaccount/admission.go`): every pod runs as an account of its namespace and,
//! unless it or the account says no, gets a token for it mounted at the usual place.
//!
//! Differs from upstream: no waiting for the account to appear in an informer; a read sees every acknowledged write, but
//! the account of a new namespace is made by a controller, so for a short while a pod may still be refused.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::core::v1::{
    ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath, LocalObjectReference,
    ObjectFieldSelector, PodSpec, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use api::prelude::{Pod, ServiceAccount};
use async_trait::async_trait;
use base::Random;
use machinery::kinds::KindInfo;
use machinery::pod_references::is_mirror;
use std::sync::Arc;

/// Where containers find their token (`DefaultAPITokenMountPath`).
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// One hour and seven seconds (`WarnOnlyBoundTokenExpirationPeriod`): upstream's mark of an injected token.
const EXPIRATION_SECONDS: i64 = 3607;

/// See the file's head.
pub struct ServiceAccounts {
    /// For the volume's name.
    pub random: Arc<dyn Random>,
}

#[async_trait]
impl Admission for ServiceAccounts {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create && kind.group.is_empty() && kind.kind == "Pod" && subresource.is_empty()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(pod) = request.object_as_mut::<Pod>() else { return Ok(()) };
        if is_mirror(pod) {
            return Ok(());
        }
        let spec = pod.spec.get_or_insert_default();
        let name = spec.service_account_name.get_or_insert_default();
        if name.is_empty() {
            "default".clone_into(name);
        }
        let name = name.clone();
        spec.service_account = Some(name.clone());
        let namespace = request.namespace.to_owned();
        let account = request.reader().shared::<ServiceAccount>(&namespace, &name).await?;
        let Some(account) = account else {
            return Err(request.forbidden(&format!(
                "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
            )));
        };
        let Some(spec) = request.object_as_mut::<Pod>().and_then(|p| p.spec.as_mut()) else { return Ok(()) };
        if wants_token(spec, &account) {
            mount_token(spec, &*self.random);
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            let names =
                account.image_pull_secrets.iter().flatten().map(|r| LocalObjectReference { name: r.name.clone() });
            spec.image_pull_secrets = Some(names.collect::<Vec<_>>()).filter(|l| !l.is_empty());
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let Some(pod) = request.object_as::<Pod>() else { return Ok(()) };
        if !is_mirror(pod) {
            return Ok(());
        }
        let spec = pod.spec.clone().unwrap_or_default();
        if spec.service_account_name.is_some_and(|n| !n.is_empty()) {
            return Err(request.forbidden("a mirror pod may not reference service accounts"));
        }
        Ok(())
    }
}

/// The pod decides, then the account, then yes (`shouldAutomount`).
fn wants_token(spec: &PodSpec, account: &ServiceAccount) -> bool {
    spec.automount_service_account_token.or(account.automount_service_account_token).unwrap_or(true)
}

/// Adds the volume and mounts it wherever nothing else is mounted at the path.
fn mount_token(spec: &mut PodSpec, random: &dyn Random) {
    let existing =
        spec.volumes.iter().flatten().find(|v| v.name.starts_with("kube-api-access-")).map(|v| v.name.clone());
    let name = existing.clone().unwrap_or_else(|| format!("kube-api-access-{}", random.suffix(5)));
    let mut used = false;
    for container in spec.init_containers.iter_mut().flatten().chain(&mut spec.containers) {
        used |= mount(container, &name);
    }
    if used && existing.is_none() {
        spec.volumes.get_or_insert_default().push(token_volume(name));
    }
}

fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    let free = mounts.iter().all(|m| m.mount_path != MOUNT_PATH);
    if free {
        mounts.push(VolumeMount {
            name: volume.to_owned(),
            mount_path: MOUNT_PATH.to_owned(),
            read_only: Some(true),
            ..VolumeMount::default()
        });
    }
    free
}

/// Token, CA bundle and namespace in one folder (`TokenVolumeSource`).
fn token_volume(name: String) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            audience: None,
            expiration_seconds: Some(EXPIRATION_SECONDS),
            path: "token".into(),
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".into(),
            items: Some(vec![KeyToPath { key: "ca.crt".into(), path: "ca.crt".into(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let field = ObjectFieldSelector { api_version: Some("v1".into()), field_path: "metadata.namespace".into() };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".into(),
                field_ref: Some(field),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name,
        projected: Some(ProjectedVolumeSource { default_mode: Some(0o644), sources: Some(vec![token, ca, namespace]) }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use base::SeededRandom;

    fn spec(json: &str) -> PodSpec {
        PodSpec::decode(json.as_bytes()).expect("literal is a pod spec")
    }

    #[test]
    fn every_container_gets_the_token_once() {
        let mut spec = spec(r#"{"initContainers":[{"name":"i"}],"containers":[{"name":"a"},{"name":"b"}]}"#);
        mount_token(&mut spec, &SeededRandom::new(1));
        let before = spec.clone();
        mount_token(&mut spec, &SeededRandom::new(2));
        assert_eq!(spec, before);
        let volume = &spec.volumes.as_ref().expect("added")[0];
        assert!(volume.name.starts_with("kube-api-access-"));
        assert!(spec.containers.iter().all(|c| c.volume_mounts.as_ref().is_some_and(|m| m[0].name == volume.name)));
    }

    #[test]
    fn a_container_with_its_own_mount_there_is_left_alone() {
        let mut spec = spec(&format!(
            r#"{{"containers":[{{"name":"a","volumeMounts":[{{"name":"mine","mountPath":"{MOUNT_PATH}"}}]}}]}}"#
        ));
        mount_token(&mut spec, &SeededRandom::new(1));
        assert_eq!(spec.volumes, None);
    }

    #[test]
    fn the_pod_decides_before_the_account() {
        let account = ServiceAccount { automount_service_account_token: Some(false), ..ServiceAccount::default() };
        assert!(!wants_token(&spec("{}"), &account));
        assert!(wants_token(&spec(r#"{"automountServiceAccountToken":true}"#), &account));
        assert!(wants_token(&spec("{}"), &ServiceAccount::default()));
    }
}
