//! Kinds that need no more than a name rule: no defaults, no validation of their bodies, the default columns. All of
//! them are requests in the shape of an object: they are created, answered and forgotten (`KindInfo::verbs` is
//! `[create]`), and what is wrong with one is said by who answers it.

use super::Strategy;
use crate::field::Errors;
use crate::validation::{Messages, is_dns1123_subdomain, is_path_segment_name};
use api::k8s::api::{authentication::v1 as authn, authorization::v1 as authz, core::v1 as core};

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
    SelfSubjectReview: authn::SelfSubjectReview, is_path_segment_name;
    TokenReview: authn::TokenReview, is_path_segment_name;
    LocalSubjectAccessReview: authz::LocalSubjectAccessReview, is_path_segment_name;
    SelfSubjectAccessReview: authz::SelfSubjectAccessReview, is_path_segment_name;
    SelfSubjectRulesReview: authz::SelfSubjectRulesReview, is_path_segment_name;
    SubjectAccessReview: authz::SubjectAccessReview, is_path_segment_name;
}
