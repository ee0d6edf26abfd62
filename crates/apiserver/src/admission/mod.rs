//! Admission: what may be refused or completed only with a look at the cluster. One file per plugin, one table.
//!
//! Plugins see a decoded, defaulted object before validation (`mutate`) and after it (`validate`), in upstream's order
//! (`pkg/kubeapiserver/options/plugins.go`, `AllOrderedPlugins`): all mutations first, then all validations.
//!
//! Invariant: plugins keep nothing between requests but what they can rebuild from the store.

mod certificates;
mod configured;
mod default_ingress_class;
mod default_toleration_seconds;
mod expressions;
mod limit_ranger;
mod matching;
mod mutating_policy;
mod mutating_webhook;
mod namespace_lifecycle;
mod node_declared_features;
mod node_restriction;
mod owner_references;
mod pod_resize;
mod pod_security;
mod pod_topology_labels;
mod policy;
mod priority;
mod reinvocation;
mod resource_quota;
mod review;
mod role_escalation;
mod runtime_class;
mod service_account;
mod settings;
mod storage_class;
mod storage_protection;
mod taint_nodes;
mod validating_policy;
mod validating_webhook;
mod webhook;

use crate::auth::{Rules, UserInfo};
use crate::managed::{NO_OWNERS, Owners};
use crate::metrics::{AdmissionMetrics, Phase};
use crate::reader::{KindRef, Reader, Stored};
use crate::remarks::Remarks;
use crate::status;
use api::k8s::api::core::v1::PodSpec;
use api::prelude::{Node, Pod};
use api::status::StatusCause;
use api::{AnyObject, DecodeError, Object, Status};
use async_trait::async_trait;
use base::Random;
use machinery::kinds::KindInfo;
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::time::Instant;

pub use certificates::{CertificateApproval, CertificateSigning, CertificateSubjectRestriction};
pub use default_ingress_class::DefaultIngressClass;
pub use default_toleration_seconds::DefaultTolerationSeconds;
pub use limit_ranger::LimitRanger;
pub use mutating_policy::MutatingPolicies;
pub use mutating_webhook::MutatingWebhooks;
pub use namespace_lifecycle::NamespaceLifecycle;
pub use node_declared_features::NodeDeclaredFeatures;
pub use node_restriction::NodeRestriction;
pub use owner_references::OwnerReferences;
pub use pod_resize::PodResize;
pub use pod_security::{Exemptions, PodSecurity};
pub use pod_topology_labels::PodTopologyLabels;
pub use priority::Priority;
pub use reinvocation::Reinvocation;
pub use resource_quota::ResourceQuotas;
pub use role_escalation::RoleEscalation;
pub use runtime_class::RuntimeClasses;
pub use service_account::ServiceAccounts;
pub use settings::{LimitedResource, Settings};
pub use storage_class::{DefaultStorageClass, VolumeClaimResize};
pub use storage_protection::StorageProtection;
pub use taint_nodes::TaintNodes;
pub use validating_policy::ValidatingPolicies;
pub use validating_webhook::ValidatingWebhooks;

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a POST to a subresource (`binding`, `eviction`, `token`).
    Create,
    /// A change.
    Update,
    /// A deletion.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// As admission reviews name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Create => "CREATE",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Connect => "CONNECT",
        }
    }
}

/// One request as admission sees it.
pub struct Request<'a> {
    /// What.
    pub operation: Operation,
    /// The resource. With a subresource of another kind (scale, binding, eviction) `object` is of that kind.
    pub kind: &'a KindRef,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// Namespace, or empty.
    pub namespace: &'a str,
    /// Name; empty while `generateName` has not been answered, and for deletecollection.
    pub name: &'a str,
    /// Who.
    pub user: &'a UserInfo,
    /// Nothing will be stored.
    pub dry_run: bool,
    /// CreateOptions, UpdateOptions, DeleteOptions, or the connect options' query.
    pub options: &'a Value,
    /// The new object; `None` for deletes and connects.
    pub object: Option<Box<dyn AnyObject>>,
    /// The object before; `None` for creates.
    pub old_object: Option<&'a dyn AnyObject>,
    /// The managedFields of the new object.
    pub owners: Owners,
    /// Those of the object before.
    pub old_owners: &'a Owners,
    /// For warnings and audit annotations.
    pub remarks: &'a Remarks,
    /// Which mutations are to run again.
    pub reinvocation: Reinvocation,
    /// Reads of the cluster, and writes of one's own.
    pub cluster: &'a dyn Cluster,
}

impl Request<'_> {
    /// The facts of the resource.
    pub fn info(&self) -> &KindInfo {
        self.kind.info()
    }

    /// Whether the resource (not the subresource's body) is `K`.
    pub fn is<K: Object>(&self) -> bool {
        self.info().group == K::GROUP && self.info().kind == K::KIND
    }

    /// The new object, if it is a `K`.
    pub fn object_as<K: Object>(&self) -> Option<&K> {
        api::any::downcast_ref(self.object.as_deref()?)
    }

    /// The new object, to change, if it is a `K`.
    pub fn object_as_mut<K: Object>(&mut self) -> Option<&mut K> {
        api::any::downcast_mut(self.object.as_deref_mut()?)
    }

    /// The object before, if it is a `K`.
    pub fn old_object_as<K: Object>(&self) -> Option<&K> {
        api::any::downcast_ref(self.old_object?)
    }

    /// The spec that a pod on a node had and is to have, and the node's name.
    fn changed_on_node(&self) -> Option<(&PodSpec, &PodSpec, &str)> {
        let old = self.old_object_as::<Pod>()?.spec.as_ref()?;
        let new = self.object_as::<Pod>()?.spec.as_ref()?;
        let node = new.node_name.as_deref().filter(|name| !name.is_empty())?;
        Some((old, new, node))
    }

    /// The node of a pod; without one the request is refused.
    async fn node(&self, name: &str) -> Result<Node, Status> {
        let found = self.reader().get::<Node>("", name).await?;
        found.ok_or_else(|| self.forbidden(&format!("node {name:?} not found")))
    }

    /// Reads of the newest state.
    pub fn reader(&self) -> &Reader {
        self.cluster.reader()
    }

    /// 403 in admission's words (`admission/errors.go`, `NewForbidden`): `pods "web" is forbidden: <why>`. An object without a
    /// name yet goes by its `generateName`.
    pub fn forbidden(&self, why: &str) -> Status {
        let of_object = || {
            let meta = self.object.as_deref()?.meta();
            let text = |field: &Option<String>| field.clone().filter(|t| !t.is_empty());
            text(&meta.name).or_else(|| text(&meta.generate_name))
        };
        let name =
            if self.name.is_empty() { of_object().unwrap_or_else(|| "Unknown".into()) } else { self.name.into() };
        status::forbidden(&self.info().group, &self.info().plural, &name, why)
    }

    /// [`Self::forbidden`] with a machine-readable cause.
    pub fn forbidden_because(&self, why: &str, cause: StatusCause) -> Status {
        let mut status = self.forbidden(why);
        if let Some(details) = &mut status.details {
            details.causes.push(cause);
        }
        status
    }
}

/// What plugins may do to the cluster: read it, and write objects of their own through the whole pipeline as the server itself.
#[async_trait]
pub trait Cluster: Send + Sync {
    /// Reads of the newest state.
    fn reader(&self) -> &Reader;

    /// Creates an object (`kind` says where); no authorization, everything else as for clients.
    async fn create(&self, kind: &KindRef, namespace: &str, object: Box<dyn AnyObject>) -> Result<Stored, Status>;

    /// Replaces an object or its `subresource` (`""` = itself); 409 if `object`'s resourceVersion is not the newest.
    async fn update(&self, kind: &KindRef, subresource: &str, object: Box<dyn AnyObject>) -> Result<Stored, Status>;

    /// The server's clock.
    fn now(&self) -> jiff::Timestamp;

    /// Everything that a user may do in a namespace, as rules.
    async fn rules(&self, user: &UserInfo, namespace: &str) -> Rules;

    /// A served kind.
    fn find_kind(&self, group: &str, version: &str, kind: &str) -> Option<KindRef>;

    /// Asks the authorizer (for plugins whose rule is "may do this only who may do that").
    async fn allowed(&self, attributes: &crate::auth::Attributes<'_>) -> bool;

    /// What admission counts.
    fn metrics(&self) -> &AdmissionMetrics;

    /// Calls webhooks.
    fn webhooks(&self) -> &crate::webhook_client::WebhookClient;

    /// Other groups and versions in which the same objects are served.
    fn equivalents(&self, kind: &KindRef) -> Vec<KindRef>;

    /// The served kind of this group, version and kind.
    fn kind_named(&self, group: &str, version: &str, kind: &str) -> Option<KindRef>;

    /// An object, as JSON, in another of its versions.
    async fn convert(&self, object: Value, from: &KindRef, to: &KindRef) -> Result<Value, Status>;
}

/// An admission plugin.
#[async_trait]
pub trait Admission: Send + Sync {
    /// Upstream's name, e.g. `NamespaceLifecycle`.
    fn name(&self) -> &'static str;

    /// Whether the plugin wants to see such requests; cheap, asked first. `subresource` is empty for the object itself.
    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool;

    /// Refuses or completes. Refusals that do not need the final object belong here, as upstream's `Admit`.
    async fn mutate(&self, _request: &mut Request<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Refuses; sees the object as it will be stored.
    async fn validate(&self, _request: &Request<'_>) -> Result<(), Status> {
        Ok(())
    }

    /// Whether [`Admission::together`] is to be asked; cheap.
    fn joins(&self, _operation: Operation, _kind: &KindInfo, _subresource: &str) -> bool {
        false
    }

    /// What must be written in the same commit as the object, or not at all. Asked last, and again when somebody else wrote
    /// in between.
    async fn together(&self, _request: &Request<'_>) -> Result<Together, Status> {
        Ok(Together::default())
    }
}

/// Writes that go with a write.
#[derive(Default)]
pub struct Together {
    /// Changed objects, none twice.
    pub changes: Vec<Companion>,
    /// Held until the commit is done.
    pub hold: Option<tokio::sync::OwnedMutexGuard<()>>,
}

/// A changed object that goes with a write.
pub struct Companion {
    /// Its kind.
    pub kind: &'static dyn machinery::kinds::Kind,
    /// What it was made from.
    pub stored: Stored,
    /// What it becomes.
    pub object: Box<dyn AnyObject>,
}

impl Together {
    /// For the commit.
    pub(crate) fn ops(&mut self) -> Result<Vec<store::Op>, Status> {
        let ops = self.changes.iter_mut().map(|companion| {
            let mut value = crate::encode::to_value(companion.kind, &mut *companion.object, &NO_OWNERS)?;
            value.derived = Some(Arc::new(crate::reader::Header::of(&*companion.object, companion.kind)));
            let (key, expected) = (companion.stored.entry.key.clone(), companion.stored.revision());
            Ok(store::Op::Update { key, expected, value })
        });
        ops.collect()
    }
}

/// Plugins that are off unless somebody asks for them, as upstream (`DefaultOffAdmissionPlugins`).
const OFF: [&str; 1] = ["OwnerReferencesPermissionEnforcement"];

/// What upstream checks where objects are stored, and nobody can turn off.
const PERMANENT: [&str; 1] = ["RoleEscalation"];

/// Names of plugins that are on or off against the default.
#[derive(Debug, Clone, Default)]
pub struct Switches {
    /// `--enable-admission-plugins`
    pub on: Vec<String>,
    /// `--disable-admission-plugins`
    pub off: Vec<String>,
}

/// The plugins that are on by default, in upstream's order.
pub fn default_plugins(random: Arc<dyn Random>) -> Vec<Box<dyn Admission>> {
    plugins(random, &Switches::default(), Settings::default()).expect("no name is wrong")
}

/// The plugins that are on. Fails with upstream's words about names that are none or contradict
/// (`pkg/server/options/admission.go`).
pub fn plugins(
    random: Arc<dyn Random>,
    switches: &Switches,
    settings: Settings,
) -> Result<Vec<Box<dyn Admission>>, String> {
    let mut all = table(random, settings);
    let is_known = |name: &String| !PERMANENT.contains(&name.as_str()) && all.iter().any(|p| p.name() == name);
    for (flag, names) in [("enable", &switches.on), ("disable", &switches.off)] {
        if let Some(wrong) = names.iter().find(|name| !is_known(name)) {
            return Err(format!("{flag}-admission-plugins plugin \"{wrong}\" is unknown"));
        }
    }
    let both: BTreeSet<&str> =
        switches.on.iter().filter(|name| switches.off.contains(name)).map(String::as_str).collect();
    if !both.is_empty() {
        let both = Vec::from_iter(both).join(" ");
        return Err(format!("[{both}] in enable-admission-plugins and disable-admission-plugins overlapped"));
    }
    let has = |names: &[String], name: &str| names.iter().any(|n| n == name);
    all.retain(|p| !has(&switches.off, p.name()) && (!OFF.contains(&p.name()) || has(&switches.on, p.name())));
    Ok(all)
}

/// Every plugin.
fn table(random: Arc<dyn Random>, settings: Settings) -> Vec<Box<dyn Admission>> {
    vec![
        Box::new(RoleEscalation),
        Box::new(NamespaceLifecycle),
        Box::new(LimitRanger),
        Box::new(ServiceAccounts { random: random.clone() }),
        Box::new(NodeRestriction),
        Box::new(TaintNodes),
        Box::new(settings.pod_security),
        Box::new(Priority),
        Box::new(DefaultTolerationSeconds),
        Box::new(DefaultStorageClass),
        Box::new(StorageProtection),
        Box::new(OwnerReferences),
        Box::new(VolumeClaimResize),
        Box::new(RuntimeClasses),
        Box::new(CertificateApproval),
        Box::new(CertificateSigning),
        Box::new(CertificateSubjectRestriction),
        Box::new(DefaultIngressClass),
        Box::new(PodTopologyLabels),
        Box::new(NodeDeclaredFeatures),
        Box::new(PodResize),
        Box::new(MutatingPolicies::new()),
        Box::new(MutatingWebhooks::new(random.clone())),
        Box::new(ValidatingPolicies::new()),
        Box::new(ValidatingWebhooks::new(random)),
        Box::new(ResourceQuotas::new(settings.limited)),
    ]
}

/// Of several defaults the newest counts, then the first by name.
fn newest<K: Object>(classes: &[K]) -> Option<&K> {
    let age = |class: &K| class.meta().creation_timestamp.as_ref().map(|t| t.0);
    let name = |class: &K| class.meta().name.clone();
    classes.iter().max_by(|a, b| age(a).cmp(&age(b)).then_with(|| name(b).cmp(&name(a))))
}

/// All mutations in order; stops at the first refusal.
pub(crate) async fn mutate(plugins: &[Box<dyn Admission>], request: &mut Request<'_>) -> Result<(), Status> {
    let begun = Instant::now();
    let result = mutate_in_rounds(plugins, request).await;
    request.cluster.metrics().step(Phase::Admit, request.operation, result.is_err(), begun.elapsed());
    result
}

async fn mutate_in_rounds(plugins: &[Box<dyn Admission>], request: &mut Request<'_>) -> Result<(), Status> {
    loop {
        for (place, plugin) in plugins.iter().enumerate() {
            if plugin.handles(request.operation, request.kind.info(), request.subresource) {
                let begun = Instant::now();
                let result = plugin.mutate(request).await;
                let metrics = request.cluster.metrics();
                metrics.plugin(place, Phase::Admit, request.operation, result.is_err(), begun.elapsed());
                result?;
            }
        }
        if !request.reinvocation.next_round() {
            return Ok(());
        }
    }
}

/// The body of a subresource of another kind (binding, eviction, token) from changed JSON; `None` if we know no such body.
fn redecode(body: &dyn AnyObject, json: &[u8]) -> Result<Option<Box<dyn AnyObject>>, DecodeError> {
    use api::Codec;
    use api::k8s::api::authentication::v1::TokenRequest;
    use api::k8s::api::core::v1::Binding;
    use api::k8s::api::policy::v1::Eviction;
    let body = body.as_any();
    Ok(if body.is::<Binding>() {
        Some(Box::new(Binding::decode(json)?))
    } else if body.is::<Eviction>() {
        Some(Box::new(Eviction::decode(json)?))
    } else if body.is::<TokenRequest>() {
        Some(Box::new(TokenRequest::decode(json)?))
    } else {
        None
    })
}

/// All validations in order; stops at the first refusal.
pub(crate) async fn validate(plugins: &[Box<dyn Admission>], request: &Request<'_>) -> Result<(), Status> {
    let (metrics, begun) = (request.cluster.metrics(), Instant::now());
    let mut result = Ok(());
    for (place, plugin) in plugins.iter().enumerate() {
        if plugin.handles(request.operation, request.kind.info(), request.subresource) {
            let begun = Instant::now();
            result = plugin.validate(request).await;
            metrics.plugin(place, Phase::Validate, request.operation, result.is_err(), begun.elapsed());
            if result.is_err() {
                break;
            }
        }
    }
    metrics.step(Phase::Validate, request.operation, result.is_err(), begun.elapsed());
    result
}

/// What the plugins want written together with the object.
pub(crate) async fn together(plugins: &[Box<dyn Admission>], request: &Request<'_>) -> Result<Together, Status> {
    let mut all = Together::default();
    for plugin in plugins {
        if plugin.joins(request.operation, request.kind.info(), request.subresource) {
            let more = plugin.together(request).await?;
            all.changes.extend(more.changes);
            all.hold = all.hold.or(more.hold);
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// What is off of the default and on beside it, or why not.
    fn check(on: &[&str], off: &[&str], expected: Expect) {
        let random = || Arc::new(base::SystemRandom);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let switches = Switches { on: names(on), off: names(off) };
        let text = match plugins(random(), &switches, Settings::default()) {
            Err(why) => why,
            Ok(plugins) => {
                let (before, after) = (default_plugins(random()), plugins);
                let has = |all: &[Box<dyn Admission>], name| all.iter().any(|p| p.name() == name);
                let gone = before.iter().filter(|p| !has(&after, p.name())).map(|p| format!("-{}", p.name()));
                let new = after.iter().filter(|p| !has(&before, p.name())).map(|p| format!("+{}", p.name()));
                gone.chain(new).collect::<Vec<_>>().join(" ")
            }
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn plugins_are_switched_by_name() {
        check(
            &["OwnerReferencesPermissionEnforcement", "LimitRanger"],
            &["Priority"],
            expect!["-Priority +OwnerReferencesPermissionEnforcement"],
        );
        check(&["Nonsense"], &[], expect![[r#"enable-admission-plugins plugin "Nonsense" is unknown"#]]);
        check(&[], &["RoleEscalation"], expect![[r#"disable-admission-plugins plugin "RoleEscalation" is unknown"#]]);
        check(
            &["Priority", "LimitRanger"],
            &["LimitRanger", "Priority"],
            expect!["[LimitRanger Priority] in enable-admission-plugins and disable-admission-plugins overlapped"],
        );
    }
}
