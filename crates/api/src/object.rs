//! [`Object`]: a typed kind with its identity and codec.

use crate::ObjectMeta;
use serde::de::DeserializeOwned;
use serde_json::Value;
use thiserror::Error;

/// Bytes that are not a valid object of the expected type.
#[derive(Debug, Error)]
#[error("failed to decode {kind}: {source}")]
pub struct DecodeError {
    /// The expected type, e.g. `Pod`.
    pub kind: &'static str,
    /// What the JSON decoder said, with line and column.
    #[source]
    pub source: serde_json::Error,
}

/// JSON in, JSON out, for every type of the API that code here reads (kinds and a few bodies like `DeleteOptions`).
pub trait Codec: Sized {
    /// Parses JSON. Unknown fields are dropped, absent required fields become empty values (validation reports them).
    fn decode(bytes: &[u8]) -> Result<Self, DecodeError>;

    /// JSON with absent fields left out.
    fn encode(&self) -> Vec<u8>;
}

/// A kind: something with `apiVersion`, `kind` and `metadata`.
pub trait Object: Codec + Clone + std::fmt::Debug + Send + Sync + 'static {
    /// API group; empty for the core group.
    const GROUP: &'static str;
    /// Version within the group, e.g. `v1`.
    const VERSION: &'static str;
    /// `group/version`, or `v1` for the core group.
    const API_VERSION: &'static str;
    /// CamelCase kind.
    const KIND: &'static str;
    /// Lower-case plural as it stands in URLs.
    const PLURAL: &'static str;
    /// Whether objects live in a namespace.
    const NAMESPACED: bool;

    /// The object's metadata.
    fn meta(&self) -> &ObjectMeta;
    /// The object's metadata, to change.
    fn meta_mut(&mut self) -> &mut ObjectMeta;
}

macro_rules! codec {
    ($($ty:path),* $(,)?) => {$(
        impl Codec for $ty {
            fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
                decode_json(bytes).map_err(|source| DecodeError { kind: short_name(stringify!($ty)), source })
            }
            fn encode(&self) -> Vec<u8> {
                let mut json = Vec::with_capacity(1024);
                serde_json::to_writer(&mut json, self)
                    .expect("API types serialise without failing: string keys, no custom errors");
                json
            }
        }
    )*};
}

macro_rules! objects {
    ($($namespaced:literal: $($ty:path),* ;)*) => {$($(
        codec!($ty);
        impl Object for $ty {
            const GROUP: &'static str = <$ty as k8s_openapi::Resource>::GROUP;
            const VERSION: &'static str = <$ty as k8s_openapi::Resource>::VERSION;
            const API_VERSION: &'static str = <$ty as k8s_openapi::Resource>::API_VERSION;
            const KIND: &'static str = <$ty as k8s_openapi::Resource>::KIND;
            const PLURAL: &'static str = <$ty as k8s_openapi::Resource>::URL_PATH_SEGMENT;
            const NAMESPACED: bool = $namespaced;
            fn meta(&self) -> &ObjectMeta { &self.metadata }
            fn meta_mut(&mut self) -> &mut ObjectMeta { &mut self.metadata }
        }
    )*)*};
}

use crate::k8s::api::{
    admissionregistration::v1 as admission, apps::v1 as apps, authentication::v1 as authn, authorization::v1 as authz,
    autoscaling::v1 as scale1, autoscaling::v2 as scale2, batch::v1 as batch, certificates::v1 as certs,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery, events::v1 as events,
    flowcontrol::v1 as flow, networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
};
use crate::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiext;
use crate::k8s::apimachinery::pkg::apis::meta::v1 as metav1;
use crate::k8s::kube_aggregator::pkg::apis::apiregistration::v1 as apireg;

objects! {
    true:
        core::ConfigMap, core::Endpoints, core::Event, core::LimitRange, core::PersistentVolumeClaim, core::Pod,
        core::PodTemplate, core::ReplicationController, core::ResourceQuota, core::Secret, core::Service,
        core::ServiceAccount,
        apps::ControllerRevision, apps::DaemonSet, apps::Deployment, apps::ReplicaSet, apps::StatefulSet,
        batch::CronJob, batch::Job,
        scale1::HorizontalPodAutoscaler, scale2::HorizontalPodAutoscaler, scale1::Scale,
        coordination::Lease, discovery::EndpointSlice, events::Event,
        networking::Ingress, networking::NetworkPolicy,
        policy::PodDisruptionBudget, policy::Eviction,
        rbac::Role, rbac::RoleBinding,
        resource::ResourceClaim, resource::ResourceClaimTemplate,
        storage::CSIStorageCapacity,
        authz::LocalSubjectAccessReview, core::Binding;
    false:
        core::Namespace, core::Node, core::PersistentVolume, core::ComponentStatus,
        admission::MutatingAdmissionPolicy, admission::MutatingAdmissionPolicyBinding,
        admission::MutatingWebhookConfiguration, admission::ValidatingAdmissionPolicy,
        admission::ValidatingAdmissionPolicyBinding, admission::ValidatingWebhookConfiguration,
        apiext::CustomResourceDefinition, apireg::APIService,
        authn::SelfSubjectReview, authn::TokenReview, authn::TokenRequest,
        authz::SelfSubjectAccessReview, authz::SelfSubjectRulesReview, authz::SubjectAccessReview,
        certs::CertificateSigningRequest,
        flow::FlowSchema, flow::PriorityLevelConfiguration,
        networking::IPAddress, networking::IngressClass, networking::ServiceCIDR,
        node::RuntimeClass,
        rbac::ClusterRole, rbac::ClusterRoleBinding,
        resource::DeviceClass, resource::ResourceSlice,
        scheduling::PriorityClass,
        storage::CSIDriver, storage::CSINode, storage::StorageClass, storage::VolumeAttachment,
        storage::VolumeAttributesClass;
}

codec!(
    apiext::JSONSchemaProps,
    metav1::DeleteOptions,
    metav1::LabelSelector,
    metav1::ObjectMeta,
    metav1::Status,
    core::PodSpec,
    core::PodStatus,
    core::PodTemplateSpec
);

/// Times that Go's types have by value, so that they may be `null` or absent, but ours require: where they stand, their
/// name, and Go's zero time, which clients read as "not set".
const TIMES: [(&str, &str, &str); 2] = [
    ("conditions", "lastTransitionTime", "0001-01-01T00:00:00Z"),
    ("series", "lastObservedTime", "0001-01-01T00:00:00.000000Z"),
];

/// A list of whole objects within one (of a StatefulSet), which Go takes whatever they say they are; ours are only what they are.
const OBJECTS: &str = "volumeClaimTemplates";

/// Parses JSON; what fails is looked at again with the missing times of [`TIMES`] filled in, and without what [`OBJECTS`] say they
/// are.
fn decode_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    // Once for all texts in it: the decoder would look at each of them.
    let Ok(json) = std::str::from_utf8(bytes) else { return Err(not_text(bytes)) };
    serde_json::from_str(json).or_else(|error| {
        let Ok(mut value) = serde_json::from_str::<Value>(json) else { return Err(error) };
        if !amend(&mut value) {
            return Err(error);
        }
        // As text again: a second deserialiser would be all of a type's code a second time.
        serde_json::to_string(&value).and_then(|json| serde_json::from_str(&json)).map_err(|_| error)
    })
}

/// What is wrong with bytes that are not UTF-8.
fn not_text(bytes: &[u8]) -> serde_json::Error {
    let refused = serde_json::from_slice::<Value>(bytes).err();
    refused.unwrap_or_else(|| serde::de::Error::custom("invalid unicode code point"))
}

/// Whether there was anything to amend.
fn amend(value: &mut Value) -> bool {
    let mut filled = false;
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| filled |= amend(item)),
        Value::Object(fields) => {
            for (key, value) in fields {
                if let (OBJECTS, Value::Array(items)) = (key.as_str(), &mut *value) {
                    for object in items.iter_mut().filter_map(Value::as_object_mut) {
                        filled |= object.remove("apiVersion").is_some() | object.remove("kind").is_some();
                    }
                }
                for (_, time, zero) in TIMES.iter().filter(|(place, ..)| place == key) {
                    let places = match &mut *value {
                        Value::Array(items) => items.as_mut_slice(),
                        one => std::slice::from_mut(one),
                    };
                    for place in places.iter_mut().filter_map(Value::as_object_mut) {
                        if place.get(*time).is_none_or(Value::is_null) {
                            place.insert((*time).to_owned(), (*zero).into());
                            filled = true;
                        }
                    }
                }
                filled |= amend(value);
            }
        }
        _ => {}
    }
    filled
}

fn short_name(path: &'static str) -> &'static str {
    path.rsplit(':').next().unwrap_or(path).trim()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_may_come_without_its_time() {
        for time in [r#","lastTransitionTime":null"#, ""] {
            let text = format!(
                r#"{{"metadata":{{"name":"s"}},"status":{{"conditions":[{{"type":"A","status":"True"{time}}}]}}}}"#
            );
            let service = core::Service::decode(text.as_bytes()).expect("as Go reads it");
            let conditions = service.status.and_then(|s| s.conditions).expect("one");
            assert_eq!(conditions[0].last_transition_time.0.to_string(), "0001-01-01T00:00:00Z");
        }
    }

    #[test]
    fn templates_of_claims_may_say_that_they_are_anything() {
        let text = r#"{"metadata":{"name":"s"},"spec":{"volumeClaimTemplates":[{"kind":"","apiVersion":null,"metadata":{"name":"a"}}]}}"#;
        let set = apps::StatefulSet::decode(text.as_bytes()).expect("as Go reads it");
        let claims = set.spec.and_then(|s| s.volume_claim_templates).expect("one");
        assert_eq!(claims[0].metadata.name.as_deref(), Some("a"));
    }

    #[test]
    fn what_is_wrong_otherwise_is_told_of_the_given_text() {
        let error = core::Service::decode(br#"{"status":{"conditions":[{"type":7}]}}"#).expect_err("a number");
        assert!(error.to_string().contains("line 1 column"), "{error}");
    }
}
