//! `projected` volumes: several sources in one directory (`pkg/volume/projected`). `clusterTrustBundle` and
//! `podCertificate` are refused by name.

use super::atomic::{File, Payload};
use super::{VolumeError, VolumeManager, config_map, downward_api, fs_group, fs_user, secret};
use crate::cluster::TokenRequest;
use crate::pod::spec::fields::Facts;
use api::k8s::api::core::v1::{Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, VolumeProjection};
use api::meta::MetaExt;
use jiff::Timestamp;

/// All files of all sources, and when a token is to be renewed. Reports every source that fails.
pub(super) async fn collect(
    manager: &VolumeManager,
    pod: &Pod,
    source: &ProjectedVolumeSource,
    facts: &Facts,
    now: Timestamp,
) -> Result<(Payload, Option<Timestamp>), VolumeError> {
    let mode = source.default_mode.unwrap_or(0o644);
    let (mut payload, mut renew, mut errors) = (Payload::new(), None, Vec::new());
    for projection in source.sources.iter().flatten() {
        match one(manager, pod, projection, mode, facts, now).await {
            Ok((files, at)) => {
                payload.extend(files);
                renew = [renew, at].into_iter().flatten().min();
            }
            Err(e) => errors.push(e),
        }
    }
    match errors.len() {
        0 => Ok((payload, renew)),
        1 => Err(errors.remove(0)),
        _ => Err(VolumeError::Several(errors)),
    }
}

async fn one(
    manager: &VolumeManager,
    pod: &Pod,
    projection: &VolumeProjection,
    mode: i32,
    facts: &Facts,
    now: Timestamp,
) -> Result<(Payload, Option<Timestamp>), VolumeError> {
    if let Some(s) = &projection.secret {
        let object = manager.secret(pod.namespace(), &s.name).await?;
        let optional = s.optional == Some(true);
        return Ok((secret::payload(&s.name, object.as_deref(), s.items.as_ref(), mode, optional)?, None));
    }
    if let Some(s) = &projection.config_map {
        let object = manager.config_map(pod.namespace(), &s.name).await?;
        let optional = s.optional == Some(true);
        return Ok((config_map::payload(&s.name, object.as_deref(), s.items.as_ref(), mode, optional)?, None));
    }
    if let Some(s) = &projection.downward_api {
        return Ok((downward_api::payload(pod, s.items.as_deref().unwrap_or_default(), mode, facts)?, None));
    }
    if let Some(s) = &projection.service_account_token {
        return token(manager, pod, s, mode, now).await;
    }
    let kind = if projection.cluster_trust_bundle.is_some() { "clusterTrustBundle" } else { "podCertificate" };
    Err(VolumeError::Unsupported(format!("projected source {kind}")))
}

/// A token file. With a group or a common user it is private to them: the group gets its bits from the ownership change.
async fn token(
    manager: &VolumeManager,
    pod: &Pod,
    source: &ServiceAccountTokenProjection,
    mode: i32,
    now: Timestamp,
) -> Result<(Payload, Option<Timestamp>), VolumeError> {
    let owner = fs_user(pod);
    let mode = if owner.is_some() || fs_group(pod).is_some() { 0o600 } else { mode };
    let request = TokenRequest {
        pod,
        audience: source.audience.as_deref().filter(|a| !a.is_empty()),
        expiration_seconds: source.expiration_seconds.unwrap_or(3600),
    };
    let got = manager.tokens.get(&*manager.cluster, &request, now).await;
    let (token, renew) = got.map_err(|e| VolumeError::Cluster(format!("failed to fetch token: {e}")))?;
    let file = File { data: token.value.into_bytes(), mode: mode.unsigned_abs(), owner };
    Ok(([(source.path.clone(), file)].into(), Some(renew)))
}
