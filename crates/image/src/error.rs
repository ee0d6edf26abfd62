//! Why an image operation failed. Every text names the image, registry or digest and what to do.

use crate::content::ContentError;
use crate::registry::RegistryError;
use crate::unpack::UnpackError;
use crate::{Digest, ReferenceError};
use std::path::PathBuf;
use thiserror::Error;

/// Why an image operation failed. Whatever it was, nothing is half done.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The name is not one.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// The registry did not do what was asked.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// Content could not be kept or is damaged.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// A layer could not be unpacked.
    #[error("failed to unpack layer {diff_id}")]
    Unpack {
        /// The layer.
        diff_id: Digest,
        /// Why.
        #[source]
        source: UnpackError,
    },
    /// It is not here.
    #[error("image {0} is not on this node: pull or import it")]
    NotFound(String),
    /// It is something else than a container image.
    #[error("{what} has the unsupported media type {media_type:?}: it is not a container image that dhow can run")]
    UnsupportedMediaType {
        /// A reference or digest.
        what: String,
        /// What it says to be.
        media_type: String,
    },
    /// It does not run here.
    #[error("{what} has no image for {wanted}, only for {found}")]
    NoPlatform {
        /// A reference.
        what: String,
        /// This machine.
        wanted: String,
        /// What there is.
        found: String,
    },
    /// Its parts contradict each other or the format.
    #[error("{what} is not a valid image: {why}")]
    Malformed {
        /// A reference, digest or file.
        what: String,
        /// What is wrong.
        why: String,
    },
    /// A container needs it.
    #[error("image {image} is used by container {container}: remove the container first")]
    InUse {
        /// The image.
        image: String,
        /// The container.
        container: String,
    },
    /// The id is taken.
    #[error("container {0} already has a root file system from another image")]
    SnapshotExists(String),
    /// The id cannot be a file name.
    #[error("invalid container id {0:?}: only letters, digits, '.', '_' and '-' are possible")]
    InvalidId(String),
    /// Another process has the store.
    #[error("the image store {} is in use by another process (it holds {}): stop that one first", dir.display(), lock.display())]
    StoreInUse {
        /// The directory.
        dir: PathBuf,
        /// The lock file.
        lock: PathBuf,
    },
    /// The list of images cannot be read.
    #[error("{} is damaged ({why}): restore it, or remove it and pull the images again; the content is kept", path.display())]
    IndexDamaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A thread of ours ended unexpectedly.
    #[error("internal error while working on images: {0}")]
    Internal(String),
}

impl ImageError {
    /// Whether the image (or tag) does not exist, as opposed to any other failure.
    pub fn is_not_found(&self) -> bool {
        matches!(self, ImageError::NotFound(_) | ImageError::Registry(RegistryError::NotFound { .. }))
    }
}
