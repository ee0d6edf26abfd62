//! `downwardAPI` volumes and projections (`pkg/volume/downwardapi`).

use super::VolumeError;
use super::atomic::{File, Payload};
use crate::pod::spec::fields::{self, Facts};
use api::k8s::api::core::v1::{DownwardAPIVolumeFile, Pod};

/// The files.
pub fn payload(pod: &Pod, items: &[DownwardAPIVolumeFile], mode: i32, facts: &Facts) -> Result<Payload, VolumeError> {
    let mut out = Payload::new();
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(selector), _) => fields::field(pod, selector, facts)?,
            (None, Some(selector)) => fields::resource(pod, None, selector, facts)?,
            (None, None) => String::new(),
        };
        let mode = item.mode.unwrap_or(mode).unsigned_abs() & 0o777;
        out.insert(item.path.clone(), File { data: text.into_bytes(), mode, owner: None });
    }
    Ok(out)
}
