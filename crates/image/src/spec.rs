//! Manifests, indexes and configurations: OCI image-spec 1.1 and Docker's schema 2, which differ in names only.
//!
//! Unknown fields are ignored and `null` is absence, as in Go.

use crate::Digest;
use serde::{Deserialize, Deserializer, Serialize};
use std::collections::BTreeMap;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a registry is asked for, best first.
pub(crate) const ACCEPT: [&str; 4] = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];

/// Content by address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its address.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// In an index: what it runs on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    pub(crate) fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new() }
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name of the processor: `amd64`, `arm64`.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// `v7`, `v8`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// This machine's.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            "loongarch64" => "loong64",
            other => other,
        };
        Platform { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    /// Whether an image for `other` runs on this.
    fn runs(&self, other: &Platform) -> bool {
        let variant = |platform: &Platform| match (&*platform.architecture, platform.variant.as_deref()) {
            ("arm64", None | Some("v8")) | ("amd64", None | Some("v1")) => None,
            (_, variant) => variant.map(str::to_owned),
        };
        self.os == other.os && self.architecture == other.architecture && variant(self) == variant(other)
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

/// One image for one platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// 2.
    pub schema_version: u32,
    /// May be missing in OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// Bottom first.
    #[serde(default, deserialize_with = "null_is_default")]
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// 2.
    pub schema_version: u32,
    /// May be missing in OCI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// One each.
    #[serde(default, deserialize_with = "null_is_default")]
    pub manifests: Vec<Descriptor>,
}

impl Index {
    /// The first one that runs on `platform`. Build attestations have the platform `unknown/unknown` and never match.
    pub(crate) fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let images = || self.manifests.iter().filter(|m| is_manifest(&m.media_type) || is_index(&m.media_type));
        let matching = images().find(|m| m.platform.as_ref().is_some_and(|p| platform.runs(p)));
        // A layout with one image often does not say what it is for.
        matching.or_else(|| images().find(|m| m.platform.is_none()))
    }

    /// "linux/arm64, windows/amd64".
    pub(crate) fn platforms(&self) -> String {
        let all: Vec<String> =
            self.manifests.iter().filter_map(|m| m.platform.as_ref()).map(Platform::to_string).collect();
        if all.is_empty() { "none".into() } else { all.join(", ") }
    }
}

pub(crate) fn is_manifest(media_type: &str) -> bool {
    matches!(media_type, OCI_MANIFEST | DOCKER_MANIFEST)
}

pub(crate) fn is_index(media_type: &str) -> bool {
    matches!(media_type, OCI_INDEX | DOCKER_LIST)
}

/// Whether it is a layer that can be unpacked. The compression is found by looking at the bytes.
pub(crate) fn is_layer(media_type: &str) -> bool {
    let known = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ];
    known.iter().any(|base| {
        media_type.strip_prefix(base).is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

/// The file that says how to run an image (its digest is the image's id).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigFile {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Go's name of the processor.
    #[serde(deserialize_with = "null_is_default")]
    pub architecture: String,
    /// `linux`.
    #[serde(deserialize_with = "null_is_default")]
    pub os: String,
    /// `v7`, `v8`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Defaults of a container.
    #[serde(deserialize_with = "null_is_default")]
    pub config: ImageConfig,
    /// The layers' contents.
    #[serde(deserialize_with = "null_is_default")]
    pub rootfs: Rootfs,
    /// How each layer came about.
    #[serde(deserialize_with = "null_is_default")]
    pub history: Vec<History>,
}

/// What the layers are when unpacked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rootfs {
    /// `layers`.
    #[serde(rename = "type", deserialize_with = "null_is_default")]
    pub kind: String,
    /// Digests of the uncompressed tars, bottom first.
    #[serde(deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

/// How a layer came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The Dockerfile line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// It changed no files.
    #[serde(deserialize_with = "null_is_default")]
    pub empty_layer: bool,
}

/// Defaults of a container. Names are Docker's and OCI's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ImageConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`; empty = root.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `8080/tcp`.
    #[serde(deserialize_with = "set_of_keys", serialize_with = "keys_of_set", skip_serializing_if = "Vec::is_empty")]
    pub exposed_ports: Vec<String>,
    /// `NAME=value`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments, or what is run if there is no entrypoint.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Paths that are to be volumes.
    #[serde(deserialize_with = "set_of_keys", serialize_with = "keys_of_set", skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<String>,
    /// Empty = `/`.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free text.
    #[serde(deserialize_with = "null_is_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// `SIGTERM`, `15`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
}

fn null_is_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// Go's sets are maps to empty objects.
fn set_of_keys<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    let map: Option<BTreeMap<String, serde::de::IgnoredAny>> = Option::deserialize(from)?;
    Ok(map.unwrap_or_default().into_keys().collect())
}

fn keys_of_set<S: serde::Serializer>(keys: &[String], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(keys.iter().map(|key| (key, serde_json::Value::Object(serde_json::Map::new()))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_configuration_with_nulls_is_read() {
        let text = r#"{"architecture":"amd64","os":"linux","config":{"User":"","ExposedPorts":{"80/tcp":{},"443/tcp":{}},
            "Env":["PATH=/bin"],"Cmd":null,"Entrypoint":["/x"],"Volumes":null,"Labels":null,"OnBuild":null,
            "StopSignal":"SIGQUIT"},"rootfs":{"type":"layers","diff_ids":null},"history":[{"created_by":"x"}]}"#;
        let file: ConfigFile = serde_json::from_str(text).unwrap();
        assert_eq!(file.config.exposed_ports, ["443/tcp", "80/tcp"]);
        assert_eq!((file.config.cmd.len(), file.config.entrypoint.len()), (0, 1));
        assert_eq!(file.config.stop_signal.as_deref(), Some("SIGQUIT"));
        let again: ConfigFile = serde_json::from_str(&serde_json::to_string(&file).unwrap()).unwrap();
        assert_eq!(again, file);
    }

    #[test]
    fn index_chooses_the_platform() {
        let of = |n: u8, platform: Option<(&str, &str, Option<&str>)>| Descriptor {
            platform: platform.map(|(os, architecture, variant)| Platform {
                os: os.into(),
                architecture: architecture.into(),
                variant: variant.map(str::to_owned),
            }),
            ..Descriptor::new(OCI_MANIFEST, Digest::of(&[n]), 1)
        };
        let index = |manifests| Index { schema_version: 2, media_type: None, manifests };
        let host = |arch: &str| Platform { os: "linux".into(), architecture: arch.into(), variant: None };
        let many = index(vec![
            of(0, Some(("unknown", "unknown", None))),
            of(1, Some(("windows", "amd64", None))),
            of(2, Some(("linux", "arm64", Some("v8")))),
            of(3, Some(("linux", "amd64", None))),
        ]);
        assert_eq!(many.choose(&host("amd64")).unwrap().digest, Digest::of(&[3]));
        assert_eq!(many.choose(&host("arm64")).unwrap().digest, Digest::of(&[2]));
        assert_eq!(many.choose(&host("s390x")), None);
        assert!(index(vec![of(4, None)]).choose(&host("s390x")).is_some());
    }

    #[test]
    fn layers_are_told_by_their_type() {
        for known in [
            "application/vnd.oci.image.layer.v1.tar",
            "application/vnd.oci.image.layer.v1.tar+zstd",
            "application/vnd.docker.image.rootfs.diff.tar.gzip",
        ] {
            assert!(is_layer(known), "{known}");
        }
        assert!(!is_layer("application/vnd.oci.image.layer.v1.tar+encrypted"));
        assert!(!is_layer("application/vnd.cncf.helm.chart.content.v1.tar+gzip"));
    }
}
