//! Container images: names, registries, content, layers, root file systems. OCI words only; knows no Pod.
//!
//! ```text
//!   reference ─ registry (distribution protocol) ─> content (blobs by digest) ─> unpack ─> layers (overlay directories)
//!                                    archive (tar, OCI layout) ─┘                             │
//!                                                     store: images.json, snapshots ──────────┘──> OverlayMount
//! ```
//!
//! Nothing here mounts: [`ImageStore::prepare`] says what to mount. Unlike containerd, layers are unpacked without their
//! parents, in parallel and without mounts (`ENGINE.md` §2), and there are no leases: content is collected under the same
//! lock that work pins it under.

mod archive;
mod content;
mod digest;
mod disk;
mod error;
mod http;
mod layers;
mod merged;
mod progress;
mod reference;
mod registries;
mod registry;
mod spec;
mod store;
mod unpack;
mod users;

pub use content::ContentError;
pub use digest::{Digest, DigestError};
pub use disk::DiskUse;
pub use error::ImageError;
pub use http::HttpError;
pub use merged::{Found, Merged};
pub use progress::{Progress, State};
pub use reference::{DEFAULT_REGISTRY, Reference, ReferenceError};
pub use registries::{Credentials, Mirror, Registries, Registry};
pub use registry::RegistryError;
pub use spec::{ConfigFile, Descriptor, History, ImageConfig, Index, Manifest, Platform, Rootfs};
pub use store::{Image, ImageLayer, ImageStore, Options, OverlayMount, Removed, Transfer};
pub use unpack::{UnpackError, UnpackLimits};
pub use users::{ResolvedUser, UserError, additional_groups_of, resolve_user};
