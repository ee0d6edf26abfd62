//! An image with the measured program and nothing else, as an OCI layout for `dhow image import`.

use crate::fail::{Result, io};
use crate::program;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::path::Path;

/// Its name.
pub(crate) const NAME: &str = "bench.local/stamp:1";

/// Writes the layout into `dir`.
pub(crate) fn write(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir.join("blobs/sha256")).map_err(io("write an image"))?;
    let mut layer = tar::Builder::new(Vec::new());
    let content = program::elf();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o755);
    header.set_size(content.len() as u64);
    layer.append_data(&mut header, "stamp", &content[..]).map_err(io("write an image"))?;
    let layer = blob(dir, "application/vnd.oci.image.layer.v1.tar", layer.into_inner().map_err(io("write an image"))?)?;
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Entrypoint": ["/stamp", "wait"], "Env": ["PATH=/"]},
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"]]},
    });
    let config = blob(dir, "application/vnd.oci.image.config.v1+json", config.to_string().into_bytes())?;
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({"schemaVersion": 2, "mediaType": kind, "config": config, "layers": [layer]});
    let mut manifest = blob(dir, kind, manifest.to_string().into_bytes())?;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": NAME, "io.containerd.image.name": NAME});
    let index =
        json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [manifest]});
    std::fs::write(dir.join("index.json"), index.to_string()).map_err(io("write an image"))?;
    std::fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).map_err(io("write an image"))
}

/// Writes a blob; returns its descriptor.
fn blob(dir: &Path, kind: &str, bytes: Vec<u8>) -> Result<Value> {
    let digest = hex::encode(Sha256::digest(&bytes));
    std::fs::write(dir.join("blobs/sha256").join(&digest), &bytes).map_err(io("write an image"))?;
    Ok(json!({"mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len()}))
}
