//! Kinds: one file per kind or close family, listed once in [`all`]. Routes, discovery, OpenAPI, RBAC verbs, storage
//! keys, columns and the owner graph are derived by walking that table; a custom resource is one more [`Kind`] built at
//! run time.
//!
//! A built-in kind is a [`Strategy`] over its typed struct (what is *particular* about it, as upstream's
//! `pkg/registry/*/strategy.go`); [`Typed`] turns it into the [`Kind`] the pipeline sees.

mod admission;
mod autoscaling;
mod autoscaling_v1;
mod certificates;
mod column_texts;
mod common;
mod configmap;
mod daemonset;
mod deployment;
mod devices;
mod endpoints;
mod event;
mod extension;
mod flowcontrol;
mod job;
mod job_status;
pub mod metadata;
mod namespace;
mod networking;
mod node;
mod persistentvolumeclaim;
mod plain;
mod pod;
mod podtemplate;
mod quota;
mod rbac;
mod replicaset;
mod resources;
pub use resources::is_extended as is_extended_resource;
pub use service::validate_cluster_ips;
mod secret;
mod service;
mod small;
mod statefulset;
mod storage;
#[cfg(test)]
mod testing;
mod typed;
mod vendor_volumes;
mod workload;

pub use common::human_duration;
pub use pod::qos::qos_class;
pub use typed::Typed;

pub mod table;

use crate::apply::SchemaRef;
use crate::field::Errors;
use crate::schema::check::{self, BodyError, Verdict};
use crate::schema::{Builtin, builtin};
use api::k8s::api::core::v1::PodSpec;
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::{AnyObject, DecodeError, Object};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::LazyLock;

/// The table: one line per kind. Everything that is derived from kinds walks it.
macro_rules! kinds {
    ($($strategy:ty,)*) => {
        static KINDS: LazyLock<Vec<&'static dyn Kind>> = LazyLock::new(|| vec![$(
            // Leaked on purpose: one allocation per kind for the life of the process.
            Box::leak(Box::new(Typed::<$strategy>::new())) as &'static dyn Kind,
        )*]);
    };
}

kinds! {
    configmap::ConfigMapKind,
    namespace::NamespaceKind,
    pod::PodKind,
    plain::Binding,
    small::ComponentStatusKind,
    endpoints::EndpointsKind,
    event::CoreEventKind,
    quota::LimitRangeKind,
    node::NodeKind,
    persistentvolumeclaim::PersistentVolumeClaimKind,
    persistentvolumeclaim::PersistentVolumeKind,
    podtemplate::PodTemplateKind,
    replicaset::ReplicationControllerKind,
    quota::ResourceQuotaKind,
    secret::SecretKind,
    secret::ServiceAccountKind,
    service::ServiceKind,
    extension::APIServiceKind,
    statefulset::ControllerRevisionKind,
    daemonset::DaemonSetKind,
    deployment::DeploymentKind,
    replicaset::ReplicaSetKind,
    statefulset::StatefulSetKind,
    event::EventKind,
    plain::SelfSubjectReview,
    plain::TokenReview,
    plain::LocalSubjectAccessReview,
    plain::SelfSubjectAccessReview,
    plain::SelfSubjectRulesReview,
    plain::SubjectAccessReview,
    autoscaling::AutoscalerKind,
    autoscaling_v1::OldAutoscalerKind,
    job::CronJobKind,
    job::JobKind,
    certificates::CertificateSigningRequestKind,
    networking::IngressClassKind,
    networking::IngressKind,
    networking::IPAddressKind,
    networking::NetworkPolicyKind,
    networking::ServiceCIDRKind,
    small::PodDisruptionBudgetKind,
    rbac::ClusterRoleBindingKind,
    rbac::ClusterRoleKind,
    rbac::RoleBindingKind,
    rbac::RoleKind,
    storage::CSIDriverKind,
    storage::CSINodeKind,
    storage::CSIStorageCapacityKind,
    storage::StorageClassKind,
    storage::VolumeAttachmentKind,
    storage::VolumeAttributesClassKind,
    admission::MutatingAdmissionPolicyKind,
    admission::MutatingAdmissionPolicyBindingKind,
    admission::MutatingWebhookConfigurationKind,
    admission::ValidatingAdmissionPolicyKind,
    admission::ValidatingAdmissionPolicyBindingKind,
    admission::ValidatingWebhookConfigurationKind,
    extension::CustomResourceDefinitionKind,
    small::PriorityClassKind,
    small::LeaseKind,
    small::RuntimeClassKind,
    endpoints::EndpointSliceKind,
    devices::DeviceClassKind,
    devices::ResourceClaimKind,
    devices::ResourceClaimTemplateKind,
    devices::ResourceSliceKind,
    flowcontrol::FlowSchemaKind,
    flowcontrol::PriorityLevelConfigurationKind,
}

/// All built-in kinds.
pub fn all() -> &'static [&'static dyn Kind] {
    &KINDS
}

/// The built-in kind served at this group, version and plural.
pub fn find(group: &str, version: &str, plural: &str) -> Option<&'static dyn Kind> {
    static BY_PLURAL: LazyLock<HashMap<&str, Vec<&dyn Kind>>> = LazyLock::new(|| {
        let mut index: HashMap<&str, Vec<&dyn Kind>> = HashMap::new();
        all().iter().for_each(|kind| index.entry(&kind.info().plural).or_default().push(*kind));
        index
    });
    BY_PLURAL.get(plural)?.iter().copied().find(|k| k.info().group == group && k.info().version == version)
}

/// Identity and shape of a served resource. Facts only; strategies never depend on them.
#[derive(Debug, Clone)]
pub struct KindInfo {
    /// API group; empty for core.
    pub group: Cow<'static, str>,
    /// Served version, e.g. `v1`.
    pub version: Cow<'static, str>,
    /// CamelCase kind.
    pub kind: Cow<'static, str>,
    /// The kind of lists.
    pub list_kind: Cow<'static, str>,
    /// Lower-case plural.
    pub plural: Cow<'static, str>,
    /// Lower-case singular.
    pub singular: Cow<'static, str>,
    /// `po`, `deploy`, …
    pub short_names: Vec<Cow<'static, str>>,
    /// `all`, …
    pub categories: Vec<Cow<'static, str>>,
    /// Whether objects live in a namespace.
    pub namespaced: bool,
    /// Verbs on the resource itself, as in discovery, sorted.
    pub verbs: Vec<Cow<'static, str>>,
    /// Subresources, sorted by name.
    pub subresources: Vec<Subresource>,
    /// `group/plural` under which objects are stored; differs from the served name where one object is served by
    /// several groups or versions (events, HPAs).
    pub storage: Cow<'static, str>,
}

impl KindInfo {
    /// `group/version`, or the bare version for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_string() } else { format!("{}/{}", self.group, self.version) }
    }
    /// `plural.group`, or the bare plural for core: as messages name it.
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() { self.plural.to_string() } else { format!("{}.{}", self.plural, self.group) }
    }
    /// The group by which errors name the kind: to upstream's internal types all events are of the core group.
    pub fn error_group(&self) -> &str {
        if self.group == "events.k8s.io" { "" } else { &self.group }
    }
    /// What to warn of whoever uses the kind (`APILifecycleDeprecated` of the generated types).
    pub fn deprecation(&self) -> Option<&'static str> {
        match (self.group.as_ref(), self.kind.as_ref()) {
            ("", "ComponentStatus") => Some("v1 ComponentStatus is deprecated in v1.19+"),
            ("", "Endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"),
            _ => None,
        }
    }
    /// Whether `name` is a subresource.
    pub fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|s| s.name == name)
    }
}

/// A path below an object, as discovery lists it.
#[derive(Debug, Clone)]
pub struct Subresource {
    /// `status`, `scale`, `log`, …
    pub name: Cow<'static, str>,
    /// The kind of its bodies and, if it is of another group, that group and version.
    pub kind: Cow<'static, str>,
    /// Group of `kind`; empty means same as parent.
    pub group: Cow<'static, str>,
    /// Version of `kind`; empty means same as parent.
    pub version: Cow<'static, str>,
    /// Verbs, sorted.
    pub verbs: Vec<Cow<'static, str>>,
}

/// What the pipeline sees of a kind. Every method is pure.
pub trait Kind: Send + Sync {
    /// Identity.
    fn info(&self) -> &KindInfo;

    /// Bytes of the served version to an object. Unknown fields are dropped (strict checks happened before, on the schema).
    fn decode(&self, bytes: &[u8]) -> Result<Box<dyn AnyObject>, DecodeError>;

    /// An object of another version of this kind as this version's, if the two differ in more than names.
    fn convert(&self, _other: &dyn AnyObject) -> Option<Box<dyn AnyObject>> {
        None
    }

    /// An object as it is shown and stored: what its text has beyond what was set, and what it leaves out, is as in upstream's
    /// structs.
    fn encode(&self, object: &dyn AnyObject) -> Vec<u8> {
        object.encode()
    }

    /// [`Kind::encode`], for who owns what: a list that is always shown belongs to whoever sent it empty, until it is stored.
    fn encode_owned(&self, object: &dyn AnyObject) -> Vec<u8> {
        self.encode(object)
    }

    /// Fills defaults in place. Idempotent.
    fn default(&self, object: &mut dyn AnyObject);

    /// Before validation of a create: clears what clients may not set (status), sets generation and the like.
    fn prepare_create(&self, object: &mut dyn AnyObject);

    /// Before validation of an update of the main resource or of `subresource` (`status`, …): copies from `old` what
    /// this path may not touch, bumps generation when the spec changed.
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject, subresource: Option<&str>);

    /// All field errors of a new object, metadata included.
    fn validate_create(&self, object: &dyn AnyObject) -> Errors;

    /// All field errors of a change, metadata included.
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject, subresource: Option<&str>) -> Errors;

    /// `Warning:` header texts for this object (deprecated fields and the like), given what it was before.
    fn warnings(&self, _object: &dyn AnyObject, _old: Option<&dyn AnyObject>) -> Vec<String> {
        Vec::new()
    }

    /// The types of its objects, for patches and field ownership; `None` if it has none.
    fn schema(&self) -> Option<SchemaRef<'_>> {
        let Builtin { schema, .. } = builtin();
        let info = self.info();
        Some(SchemaRef { schema, ty: builtin().by_kind(&info.group, &info.version, &info.kind)? })
    }

    /// Checks a body before it is decoded: what a strict server complains about (unknown and duplicate fields), and whether
    /// the body means something else than it says.
    fn check(&self, json: &[u8]) -> Result<Verdict, BodyError> {
        match self.schema() {
            Some(SchemaRef { schema, ty }) => check::verdict(schema, ty, json),
            None => Ok(Verdict::default()),
        }
    }

    /// Differs for kinds of one name that treat the same bytes differently: a custom resource before and after its definition
    /// changed. 0 for built-in kinds.
    fn revision(&self) -> u64 {
        0
    }

    /// Where the replicas are that a `scale` subresource shows.
    fn scale(&self) -> Option<&ScalePaths> {
        None
    }

    /// May PUT/PATCH create the object (`AllowCreateOnUpdate`)?
    fn allow_create_on_update(&self) -> bool {
        false
    }

    /// May an update come without resourceVersion (`AllowUnconditionalUpdate`)?
    fn allow_unconditional_update(&self) -> bool {
        true
    }

    /// Grace period in seconds if the kind dies gracefully (pods): given the object and what the caller asked for.
    /// `None` = delete at once.
    fn graceful_period(&self, _object: &dyn AnyObject, _asked: Option<i64>) -> Option<i64> {
        None
    }

    /// Values that field selectors may ask for, beside `metadata.name` and `metadata.namespace`.
    fn selectable_fields(&self, _object: &dyn AnyObject) -> Vec<(Cow<'static, str>, String)> {
        Vec::new()
    }

    /// Names of those fields, so that an unknown one is refused.
    fn selectable_field_names(&self) -> &[Cow<'static, str>] {
        &[]
    }

    /// Columns of `kubectl get`, first `Name`, mostly last `Age`.
    fn columns(&self) -> &[Column];

    /// One cell per column. `now` is for ages.
    fn cells(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value>;
}

/// Where a custom resource has what its Scale shows, as names from the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec: Vec<String>,
    /// Replicas there are.
    pub status: Vec<String>,
    /// The label selector, as text.
    pub selector: Option<Vec<String>>,
}

/// metav1.TableColumnDefinition.
#[derive(Debug, Clone)]
pub struct Column {
    /// Header.
    pub name: Cow<'static, str>,
    /// OpenAPI type: `string`, `integer`, …
    pub ty: &'static str,
    /// OpenAPI format, e.g. `name`.
    pub format: &'static str,
    /// 0 = always shown, 1 = with `-o wide`.
    pub priority: i32,
    /// What it shows.
    pub description: Cow<'static, str>,
}

/// When `generateName` is held against a kind's rule for names. Nobody reads it any more when it could be wrong; which kinds check it
/// again is whichever validate all of an object's metadata with each update (`ValidateObjectMeta` upstream).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenerateName {
    /// When the object is created.
    Create,
    /// Also when it is changed.
    Always,
    /// Never: the name that is made is what counts (`ValidateObjectMetaWithOpts`).
    Never,
}

/// What is particular about a built-in kind. Implemented by a unit struct per kind, over the typed object.
/// Defaults of the methods fit a plain kind without status.
pub trait Strategy: Send + Sync + 'static {
    /// The typed object.
    type Object: Object;

    /// Fills defaults (`pkg/apis/<group>/v1/defaults.go`). Idempotent.
    fn default(_object: &mut Self::Object) {}
    /// Clears status and so on (`PrepareForCreate`). Metadata basics are done for all kinds by the pipeline.
    fn prepare_create(_object: &mut Self::Object) {}
    /// `PrepareForUpdate` of the main resource.
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object) {}
    /// `PrepareForUpdate` of `/status`: usually spec and most metadata copied from `old`.
    fn prepare_status_update(_new: &mut Self::Object, _old: &Self::Object) {}
    /// Field errors of spec and so on; metadata is checked for all kinds by [`Typed`] with [`Self::validate_name`].
    fn validate(object: &Self::Object) -> Errors;
    /// Field errors that only a new object can have, beyond [`Self::validate`].
    fn validate_create(_object: &Self::Object) -> Errors {
        Vec::new()
    }
    /// Field errors of a change beyond [`Self::validate`] of the new object.
    fn validate_update(_new: &Self::Object, _old: &Self::Object) -> Errors {
        Vec::new()
    }
    /// Field errors of a status change.
    fn validate_status_update(_new: &Self::Object, _old: &Self::Object) -> Errors {
        Vec::new()
    }
    /// What is wrong with a name of this kind; messages as upstream (`NameIsDNSSubdomain`, …).
    fn validate_name(name: &str) -> Vec<String>;
    /// See [`Kind::warnings`].
    fn warnings(_object: &Self::Object, _old: Option<&Self::Object>) -> Vec<String> {
        Vec::new()
    }
    /// When `generateName` is held against the rule for names.
    const GENERATE_NAME: GenerateName = GenerateName::Create;
    /// Whether finalizers without a prefix must be Kubernetes' own: the kinds that `pkg/apis/core/validation` checks.
    const CHECKS_FINALIZERS: bool = true;
    /// See [`Kind::allow_create_on_update`].
    const ALLOW_CREATE_ON_UPDATE: bool = false;
    /// See [`Kind::allow_unconditional_update`].
    const ALLOW_UNCONDITIONAL_UPDATE: bool = true;
    /// See [`Kind::graceful_period`].
    fn graceful_period(_object: &Self::Object, _asked: Option<i64>) -> Option<i64> {
        None
    }
    /// See [`Kind::selectable_field_names`].
    const SELECTABLE: &'static [&'static str] = &[];
    /// See [`Kind::selectable_fields`].
    fn selectable_fields(_object: &Self::Object) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// Columns; the default is upstream's default table, Name and Created At.
    fn columns() -> Vec<Column> {
        vec![common::name_column(), common::typed_column("Created At", "date")]
    }
    /// Cells, as many as columns.
    fn cells(object: &Self::Object, _now: jiff::Timestamp) -> Vec<Value> {
        vec![common::name(object), common::created_at(object)]
    }
    /// Shows every quantity in the object, so that [`Typed`] can bring them into canonical form on decode as upstream
    /// does, and refuse the malformed.
    fn quantities(_object: &mut Self::Object, _visit: &mut dyn FnMut(&mut Quantity)) {}
    /// The pods that the object is or makes: [`Typed`] drops from them what is not served.
    fn pod_spec(_object: &mut Self::Object) -> Option<&mut PodSpec> {
        None
    }
    /// See [`Kind::convert`].
    fn convert(_other: &dyn AnyObject) -> Option<Self::Object> {
        None
    }
    /// `PrepareForUpdate` of a subresource other than `status`.
    fn prepare_subresource_update(_name: &str, _new: &mut Self::Object, _old: &Self::Object) {}
    /// Field errors of a change through a subresource other than `status`.
    fn validate_subresource_update(_name: &str, _new: &Self::Object, _old: &Self::Object) -> Errors {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_served_resource_has_one_kind() {
        for info in table::all() {
            let kind = find(&info.group, &info.version, &info.plural);
            assert!(kind.is_some(), "{}/{} {} has no kind", info.group, info.version, info.plural);
        }
        assert_eq!(table::all().len(), all().len());
    }

    #[test]
    fn no_kind_panics_on_an_empty_object() {
        let now = jiff::Timestamp::UNIX_EPOCH;
        for kind in all() {
            let name = kind.info().group_resource();
            let empty = kind.decode(b"{}").unwrap_or_else(|e| panic!("{name}: {e}"));
            assert!(!kind.validate_create(&*empty).is_empty(), "{name}: an object without a name is refused");
            let mut new = empty.clone();
            kind.default(&mut *new);
            kind.prepare_create(&mut *new);
            assert!(!kind.validate_create(&*new).is_empty());
            for subresource in [None, Some("status"), Some("scale"), Some("nonsense")] {
                let mut changed = empty.clone();
                kind.prepare_update(&mut *changed, &*new, subresource);
                kind.validate_update(&*changed, &*new, subresource);
            }
            assert_eq!(kind.cells(&*empty, now).len(), kind.columns().len(), "{name}: one cell per column");
            assert_eq!(kind.cells(&*new, now).len(), kind.columns().len(), "{name}: one cell per column");
            kind.warnings(&*empty, None);
            kind.graceful_period(&*empty, None);
            for (field, _) in kind.selectable_fields(&*new) {
                assert!(kind.selectable_field_names().contains(&field), "{name}: {field}");
            }
        }
    }

    #[test]
    fn a_quantity_that_is_not_there_is_zero() {
        let kind = find("resource.k8s.io", "v1", "resourceslices").expect("is served");
        let slice = kind.decode(br#"{"spec":{"driver":"a","devices":[{"name":"d","capacity":{"c":{}}}]}}"#);
        let text = String::from_utf8(slice.expect("as Go reads it").encode()).expect("text");
        assert!(text.contains(r#""capacity":{"c":{"value":"0"}}"#), "{text}");
    }

    #[test]
    fn defaults_are_idempotent() {
        for kind in all() {
            let mut once = kind.decode(b"{}").expect("an empty object");
            kind.default(&mut *once);
            let mut twice = once.clone();
            kind.default(&mut *twice);
            assert_eq!(once.encode(), twice.encode(), "{}", kind.info().group_resource());
        }
    }
}
