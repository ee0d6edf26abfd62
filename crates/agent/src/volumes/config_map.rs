//! `configMap` volumes and projections (`pkg/volume/configmap`).

use super::VolumeError;
use super::atomic::{File, Payload};
use api::k8s::api::core::v1::{ConfigMap, KeyToPath};

/// The files of a ConfigMap. `map` is `None` if there is no such object.
pub fn payload(
    name: &str,
    map: Option<&ConfigMap>,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
) -> Result<Payload, VolumeError> {
    let Some(map) = map else {
        return if optional { Ok(Payload::new()) } else { Err(VolumeError::NoConfigMap(name.to_owned())) };
    };
    let text = map.data.iter().flatten().map(|(k, v)| (k, v.as_bytes()));
    let binary = map.binary_data.iter().flatten().map(|(k, v)| (k, v.0.as_slice()));
    let all = || text.clone().chain(binary.clone());
    select(all, items, mode, optional, |key| VolumeError::NoConfigMapKey(key.to_owned()))
}

/// All keys, or those that `items` name, with their modes. Shared with Secrets.
pub(super) fn select<'a, I: Iterator<Item = (&'a String, &'a [u8])>>(
    all: impl Fn() -> I,
    items: Option<&Vec<KeyToPath>>,
    mode: i32,
    optional: bool,
    missing: impl Fn(&str) -> VolumeError,
) -> Result<Payload, VolumeError> {
    let file = |data: &[u8], mode: i32| File { data: data.to_vec(), mode: mode.unsigned_abs() & 0o777, owner: None };
    let Some(items) = items.filter(|i| !i.is_empty()) else {
        return Ok(all().map(|(k, v)| (k.clone(), file(v, mode))).collect());
    };
    let mut out = Payload::new();
    for item in items {
        match all().find(|(k, _)| **k == item.key) {
            Some((_, data)) => {
                out.insert(item.path.clone(), file(data, item.mode.unwrap_or(mode)));
            }
            None if optional => {}
            None => return Err(missing(&item.key)),
        }
    }
    Ok(out)
}
