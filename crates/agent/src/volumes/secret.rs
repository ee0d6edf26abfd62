//! `secret` volumes and projections (`pkg/volume/secret`).

use super::VolumeError;
use super::atomic::Payload;
use super::config_map::select;
use api::k8s::api::core::v1::{KeyToPath, Secret};

/// The files of a Secret. `secret` is `None` if there is no such object.
pub fn payload(
    name: &str,
    secret: Option<&Secret>,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<Payload, VolumeError> {
    let Some(secret) = secret else {
        return if optional { Ok(Payload::new()) } else { Err(VolumeError::NoSecret(name.to_owned())) };
    };
    let all = || secret.data.iter().flatten().map(|(k, v)| (k, v.0.as_slice()));
    select(all, items, mode, optional, |key| VolumeError::NoSecretKey(key.to_owned()))
}
