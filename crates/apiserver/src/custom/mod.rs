//! Custom resources, as far as they need the cluster: which are served (`serve`), and their objects in every version (`view`).
//! What a definition means for an object is [`machinery::custom`]'s.

mod serve;
pub(crate) mod view;

pub(crate) use serve::prepare_delete;

use machinery::custom::{CustomKind, Definition};
use machinery::kinds::KindInfo;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Whether the kind is CustomResourceDefinition itself.
pub(crate) fn is_definition(info: &KindInfo) -> bool {
    info.group == "apiextensions.k8s.io" && info.kind == "CustomResourceDefinition"
}

/// One version of a custom resource, and how it is served.
#[derive(Debug, Clone)]
pub struct Custom {
    /// What its objects are.
    pub kind: Arc<CustomKind>,
    /// All versions.
    pub definition: Arc<Definition>,
    /// Discovery shows it.
    pub established: bool,
    /// Its definition is being deleted: nothing new is created.
    pub terminating: bool,
    /// Ends its watches: the definition changed or is gone.
    pub closed: CancellationToken,
}
