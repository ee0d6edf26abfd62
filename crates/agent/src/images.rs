//! [`Images`]: what the agent wants of an image store. The adapter to crate `image` is `adapters/images.rs`.

use crate::engine::Rootfs;
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;
use thiserror::Error;

/// Why an image could not be had.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The reference cannot be read.
    #[error("couldn't parse image name \"{reference}\": {why}")]
    InvalidName {
        /// As written.
        reference: String,
        /// What is wrong.
        why: String,
    },
    /// Registry, network, digest or disk.
    #[error("{0}")]
    Failed(String),
}

/// What the agent asks of the image store.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image called `reference` (or with that id), if it is on the node.
    async fn find(&self, reference: &str) -> Result<Option<Image>, ImageError>;
    /// Fetches the image. Cancelling the future lets go of it; others who wait for the same data are not disturbed.
    async fn pull(&self, reference: &str, credentials: &[Credential]) -> Result<Image, ImageError>;
    /// A writable root file system for container `container` from the image with this id.
    async fn prepare(&self, image: &str, container: &str) -> Result<Rootfs, ImageError>;
    /// The read-only layers of an image for a volume of container `container`, topmost first; kept until
    /// [`Self::release`].
    async fn layers(&self, image: &str, container: &str, volume: &str) -> Result<Vec<PathBuf>, ImageError>;
    /// `/etc/passwd` and `/etc/group` of an image, empty where there is none; `None`: whoever keeps the image does not show its files.
    fn user_files(&self, image: &str) -> Result<Option<(String, String)>, ImageError>;
    /// Gives up what [`Self::prepare`] and [`Self::layers`] made. Fine if there is nothing.
    async fn release(&self, container: &str) -> Result<(), ImageError>;
    /// Gives up what was made for other containers than these. Called once, at start.
    async fn retain(&self, containers: &[String]) -> Result<(), ImageError>;
    /// All images on the node, for the node's status.
    async fn list(&self) -> Result<Vec<Image>, ImageError>;
    /// Ids of images that containers or their volumes use.
    async fn in_use(&self) -> Result<Vec<String>, ImageError>;
    /// Removes an image with all its names, if nothing uses it; tells how many bytes that freed.
    async fn remove(&self, image: &str) -> Result<u64, ImageError>;
    /// The directory that takes what container `container` writes to its root, if it has one.
    fn upper(&self, container: &str) -> Option<PathBuf>;
    /// Where images are kept; its file system's size is the node's ephemeral storage.
    fn root(&self) -> PathBuf;
}

/// An image on the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    /// Id in the store: the digest of its configuration.
    pub id: String,
    /// `name@digest` if known, else the id (`imageID` in the status).
    pub digest_reference: String,
    /// All its names.
    pub names: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// How long the transfer took, if there was one.
    pub pull_time: Option<Duration>,
    /// The login that it was made with, if it was made with one.
    pub pulled_with: Option<Credential>,
    /// What to run.
    pub config: ImageConfig,
}

/// The part of an image's configuration that a container starts from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// `Entrypoint`
    pub entrypoint: Vec<String>,
    /// `Cmd`
    pub command: Vec<String>,
    /// `Env`, `NAME=value`
    pub env: Vec<String>,
    /// `User`: name or id, perhaps with group.
    pub user: String,
    /// `WorkingDir`
    pub working_dir: String,
    /// `StopSignal`
    pub stop_signal: Option<String>,
}

/// Which Secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SecretId {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
}

/// A login for a registry, from an image pull secret or a program of the node.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// As it is the key in a docker config: host, perhaps with a path.
    pub registry: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: String,
    /// The Secret that it is from; none if it is the node's.
    pub secret: Option<SecretId>,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The password belongs in no log.
        f.debug_struct("Credential")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}
