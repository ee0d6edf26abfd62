//! Kubernetes objects as data.
//!
//! The types are upstream's published API 1.36 (`k8s-openapi`), re-exported as [`k8s`]. This crate is the only place
//! where their serde code is instantiated (it is large): everybody else calls [`Codec::decode`] and
//! [`Codec::encode`]. Unknown fields are dropped on decoding, as upstream's typed decoding does.
//!
//! Invariant: no behaviour here. Defaults, validation and rules live in `machinery`.

pub mod any;
pub mod meta;
mod object;
mod shrink;
pub mod status;
mod unstructured;

pub use any::AnyObject;
pub use k8s_openapi as k8s;
pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference, Time};
pub use object::{Codec, DecodeError, Object};
pub use shrink::shrink;
pub use status::Status;
pub use unstructured::Unstructured;

/// The commonly used kinds under short names.
pub mod prelude {
    pub use crate::k8s::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
    pub use crate::k8s::api::batch::v1::{CronJob, Job};
    pub use crate::k8s::api::coordination::v1::Lease;
    pub use crate::k8s::api::core::v1::{
        ConfigMap, Endpoints, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod, PodSpec, PodStatus,
        PodTemplateSpec, ReplicationController, Secret, Service, ServiceAccount,
    };
    pub use crate::k8s::api::discovery::v1::EndpointSlice;
    pub use crate::k8s::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
    pub use crate::meta::MetaExt;
    pub use crate::{AnyObject, Object, ObjectMeta};
}
