//! Kinds that need no more than a name rule: no defaults, no validation of their bodies, the columns Name and Age.
//! A kind leaves this file when it gets rules of its own.

use super::Strategy;
use crate::field::Errors;
use crate::validation::{Messages, is_dns1123_label, is_dns1123_subdomain, is_path_segment_name};
use api::k8s::api::{
    admissionregistration::v1 as admission, authentication::v1 as authn, authorization::v1 as authz,
    autoscaling::v1 as scale1, autoscaling::v2 as scale2, certificates::v1 as certs,
    coordination::v1 as coordination, core::v1 as core,
    flowcontrol::v1 as flow, networking::v1 as networking, node::v1 as node, policy::v1 as policy, rbac::v1 as rbac,
    resource::v1 as resource, scheduling::v1 as scheduling, storage::v1 as storage,
};
use api::k8s::apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiext;
use api::k8s::kube_aggregator::pkg::apis::apiregistration::v1 as apireg;

macro_rules! plain {
    ($($strategy:ident: $object:ty, $name:path;)*) => {$(
        #[doc = concat!("A plain kind: ", stringify!($object), ".")]
        pub(super) struct $strategy;

        impl Strategy for $strategy {
            type Object = $object;

            fn validate_name(name: &str) -> Messages {
                $name(name)
            }

            fn validate(_object: &$object) -> Errors {
                Vec::new()
            }
        }
    )*};
}

plain! {
    Binding: core::Binding, is_dns1123_subdomain;
    ComponentStatus: core::ComponentStatus, is_dns1123_subdomain;
    APIService: apireg::APIService, is_path_segment_name;
    SelfSubjectReview: authn::SelfSubjectReview, is_path_segment_name;
    TokenReview: authn::TokenReview, is_path_segment_name;
    LocalSubjectAccessReview: authz::LocalSubjectAccessReview, is_path_segment_name;
    SelfSubjectAccessReview: authz::SelfSubjectAccessReview, is_path_segment_name;
    SelfSubjectRulesReview: authz::SelfSubjectRulesReview, is_path_segment_name;
    SubjectAccessReview: authz::SubjectAccessReview, is_path_segment_name;
    HorizontalPodAutoscalerV2: scale2::HorizontalPodAutoscaler, is_dns1123_subdomain;
    HorizontalPodAutoscalerV1: scale1::HorizontalPodAutoscaler, is_dns1123_subdomain;
    CertificateSigningRequest: certs::CertificateSigningRequest, is_dns1123_subdomain;
    IngressClass: networking::IngressClass, is_dns1123_subdomain;
    Ingress: networking::Ingress, is_dns1123_subdomain;
    IPAddress: networking::IPAddress, is_path_segment_name;
    NetworkPolicy: networking::NetworkPolicy, is_dns1123_subdomain;
    ServiceCIDR: networking::ServiceCIDR, is_dns1123_subdomain;
    PodDisruptionBudget: policy::PodDisruptionBudget, is_dns1123_subdomain;
    ClusterRoleBinding: rbac::ClusterRoleBinding, is_path_segment_name;
    ClusterRole: rbac::ClusterRole, is_path_segment_name;
    RoleBinding: rbac::RoleBinding, is_path_segment_name;
    Role: rbac::Role, is_path_segment_name;
    CSIDriver: storage::CSIDriver, is_dns1123_subdomain;
    CSINode: storage::CSINode, is_dns1123_subdomain;
    CSIStorageCapacity: storage::CSIStorageCapacity, is_dns1123_subdomain;
    StorageClass: storage::StorageClass, is_dns1123_subdomain;
    VolumeAttachment: storage::VolumeAttachment, is_dns1123_subdomain;
    VolumeAttributesClass: storage::VolumeAttributesClass, is_dns1123_subdomain;
    MutatingAdmissionPolicy: admission::MutatingAdmissionPolicy, is_dns1123_subdomain;
    MutatingAdmissionPolicyBinding: admission::MutatingAdmissionPolicyBinding, is_dns1123_subdomain;
    MutatingWebhookConfiguration: admission::MutatingWebhookConfiguration, is_dns1123_subdomain;
    ValidatingAdmissionPolicy: admission::ValidatingAdmissionPolicy, is_dns1123_subdomain;
    ValidatingAdmissionPolicyBinding: admission::ValidatingAdmissionPolicyBinding, is_dns1123_subdomain;
    ValidatingWebhookConfiguration: admission::ValidatingWebhookConfiguration, is_dns1123_subdomain;
    CustomResourceDefinition: apiext::CustomResourceDefinition, is_dns1123_subdomain;
    PriorityClass: scheduling::PriorityClass, is_dns1123_subdomain;
    Lease: coordination::Lease, is_dns1123_subdomain;
    RuntimeClass: node::RuntimeClass, is_dns1123_subdomain;
    DeviceClass: resource::DeviceClass, is_dns1123_subdomain;
    ResourceClaim: resource::ResourceClaim, is_dns1123_subdomain;
    ResourceClaimTemplate: resource::ResourceClaimTemplate, is_dns1123_subdomain;
    ResourceSlice: resource::ResourceSlice, is_dns1123_subdomain;
    FlowSchema: flow::FlowSchema, is_path_segment_name;
    PriorityLevelConfiguration: flow::PriorityLevelConfiguration, is_path_segment_name;
}
