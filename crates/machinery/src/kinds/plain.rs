//! Kinds that need no more than a name rule: no defaults, no validation of their bodies, the columns Name and Age.
//! A kind leaves this file when it gets rules of its own.

use super::Strategy;
use crate::field::Errors;
use crate::validation::{Messages, is_dns1123_subdomain, is_path_segment_name};
use api::k8s::api::{
    admissionregistration::v1 as admission, authentication::v1 as authn, authorization::v1 as authz,
    certificates::v1 as certs, core::v1 as core, flowcontrol::v1 as flow, resource::v1 as resource,
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
    CertificateSigningRequest: certs::CertificateSigningRequest, is_dns1123_subdomain;
    MutatingAdmissionPolicy: admission::MutatingAdmissionPolicy, is_dns1123_subdomain;
    MutatingAdmissionPolicyBinding: admission::MutatingAdmissionPolicyBinding, is_dns1123_subdomain;
    MutatingWebhookConfiguration: admission::MutatingWebhookConfiguration, is_dns1123_subdomain;
    ValidatingAdmissionPolicy: admission::ValidatingAdmissionPolicy, is_dns1123_subdomain;
    ValidatingAdmissionPolicyBinding: admission::ValidatingAdmissionPolicyBinding, is_dns1123_subdomain;
    ValidatingWebhookConfiguration: admission::ValidatingWebhookConfiguration, is_dns1123_subdomain;
    CustomResourceDefinition: apiext::CustomResourceDefinition, is_dns1123_subdomain;
    DeviceClass: resource::DeviceClass, is_dns1123_subdomain;
    ResourceClaim: resource::ResourceClaim, is_dns1123_subdomain;
    ResourceClaimTemplate: resource::ResourceClaimTemplate, is_dns1123_subdomain;
    ResourceSlice: resource::ResourceSlice, is_dns1123_subdomain;
    FlowSchema: flow::FlowSchema, is_path_segment_name;
    PriorityLevelConfiguration: flow::PriorityLevelConfiguration, is_path_segment_name;
}
