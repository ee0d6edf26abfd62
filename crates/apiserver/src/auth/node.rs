//! The Node authorizer: what a node's own identity may touch (`plugin/pkg/auth/authorizer/node/node_authorizer.go`).
//!
//! A node reads secrets, config maps, claims, volumes and service accounts only if a pod bound to it uses them, its pods and
//! ResourceSlices only through a `spec.nodeName` selector, and only its own Node, Lease and CSINode. NodeRestriction (admission) limits what it
//! writes. Differs from upstream: relations are looked up in the newest state when asked, there is no graph that could
//! lag; and a node may follow Services, EndpointSlices and Nodes, because dhow's agent is also the service proxy (upstream
//! gives that to `system:node-proxier`).

use super::{Attributes, Authorizer, Decision, NonResourceRule, ResourceRule, Rules, UserInfo};
use crate::reader::Reader;
use api::k8s::api::core::v1::{PersistentVolume, PersistentVolumeClaim, PodSpec, SecretReference, Volume};
use api::k8s::api::resource::v1::ResourceSlice;
use api::k8s::api::storage::v1::VolumeAttachment;
use api::prelude::*;
use async_trait::async_trait;
use machinery::pod_references::{config_maps, is_mirror, secrets};
use machinery::selector::FieldSelector;

/// See the file's head.
pub struct NodeAuthorizer {
    reader: Reader,
}

/// The node's name if `user` is a node (`nodeidentifier`).
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix("system:node:").filter(|_| user.is_in("system:nodes"))
}

/// Verbs on resources that every node may use freely: what is left of upstream's `NodeRules` after the special cases, and
/// `system:node-proxier`.
const FREE: &[(&str, &[&str], &[&str])] = &[
    ("authentication.k8s.io", &["tokenreviews"], &["create"]),
    ("authorization.k8s.io", &["subjectaccessreviews", "localsubjectaccessreviews"], &["create"]),
    ("", &["services", "endpoints", "nodes"], &["get", "list", "watch"]),
    ("", &["events"], &["create", "patch", "update"]),
    ("events.k8s.io", &["events"], &["create", "patch", "update"]),
    ("discovery.k8s.io", &["endpointslices"], &["get", "list", "watch"]),
    ("networking.k8s.io", &["servicecidrs"], &["list", "watch"]),
    ("certificates.k8s.io", &["certificatesigningrequests"], &["create", "get", "list", "watch"]),
    ("storage.k8s.io", &["csidrivers"], &["get", "list", "watch"]),
    ("node.k8s.io", &["runtimeclasses"], &["get", "list", "watch"]),
];

impl NodeAuthorizer {
    /// Over the newest state.
    pub fn new(reader: Reader) -> Self {
        NodeAuthorizer { reader }
    }

    /// Whether a pod bound to `node` uses the object.
    async fn is_used(&self, node: &str, a: &Attributes<'_>) -> bool {
        let pods = match self.reader.list::<Pod>(a.namespace).await {
            Ok(pods) => pods,
            Err(error) => {
                tracing::error!(error = %base::chain(&error), "failed to read pods; the node is refused");
                return false;
            }
        };
        let bound = pods.iter().filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node));
        if a.resource == "pods" {
            return bound.clone().any(|p| p.name() == a.name);
        }
        // A node makes these itself, and must not come to read what they name.
        let mut bound = bound.filter(|p| !is_mirror(p));
        match a.resource {
            "secrets" if !bound.clone().any(|p| p.spec.as_ref().is_some_and(|s| secrets(s).contains(&a.name))) => {
                self.volumes_use_secret(node, a).await
            }
            "persistentvolumes" => {
                let claims =
                    bound.flat_map(|p| claims_of(p).into_iter().map(|c| (p.namespace().to_owned(), c))).collect();
                self.claims_use_volume(claims, a.name).await
            }
            "resourceclaims" => bound.any(|p| resource_claims_of(p).contains(&a.name)),
            resource => bound.any(|p| p.spec.as_ref().is_some_and(|s| spec_uses(s, p.name(), resource, a.name))),
        }
    }

    async fn claims_use_volume(&self, claims: Vec<(String, String)>, volume: &str) -> bool {
        for (namespace, claim) in claims {
            let claim = self.reader.get::<PersistentVolumeClaim>(&namespace, &claim).await;
            if let Ok(Some(claim)) = claim
                && claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()) == Some(volume)
            {
                return matches!(self.reader.get::<PersistentVolume>("", volume).await, Ok(Some(_)));
            }
        }
        false
    }

    /// Whether a volume of a pod of the node names a secret (`VisitPVSecretNames`); the pod may be of any namespace.
    async fn volumes_use_secret(&self, node: &str, a: &Attributes<'_>) -> bool {
        let Ok(pods) = self.reader.list::<Pod>("").await else { return false };
        let bound = pods.iter().filter(|p| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node));
        for pod in bound.filter(|p| !is_mirror(p)) {
            for claim in claims_of(pod) {
                let Ok(Some(claim)) = self.reader.get::<PersistentVolumeClaim>(pod.namespace(), &claim).await else {
                    continue;
                };
                let name = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default();
                let volume = self.reader.get::<PersistentVolume>("", name).await.ok().flatten();
                if volume.is_some_and(|v| volume_uses_secret(&v, a.namespace, a.name)) {
                    return true;
                }
            }
        }
        false
    }

    /// Whether a VolumeAttachment is of this node.
    async fn attachment(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if a.verb != "get" || a.name.is_empty() || !a.subresource.is_empty() {
            return no("can only get individual resources of this type");
        }
        match self.reader.get::<VolumeAttachment>("", a.name).await {
            Ok(Some(attachment)) if attachment.spec.node_name == node => Decision::ALLOW,
            _ => Decision::NoOpinion(format!("no relationship found between node '{node}' and this object")),
        }
    }

    /// Slices of the node's own drivers (`authorizeResourceSlice`); NodeRestriction looks at those that are made.
    async fn slice(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if !a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match a.verb {
            "create" => Decision::ALLOW,
            "get" | "update" | "patch" | "delete" => match self.reader.get::<ResourceSlice>("", a.name).await {
                Ok(Some(slice)) if slice.spec.node_name.as_deref() == Some(node) => Decision::ALLOW,
                _ => Decision::NoOpinion(format!("no relationship found between node '{node}' and this object")),
            },
            "list" | "watch" | "deletecollection" if selects_node(node, a) => Decision::ALLOW,
            "list" | "watch" | "deletecollection" => {
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    async fn related(&self, node: &str, a: &Attributes<'_>, verbs: &[&str], text: &str) -> Decision {
        if !verbs.contains(&a.verb) {
            return no(text);
        }
        if !a.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if a.name.is_empty() {
            return no("No Object name found");
        }
        if self.is_used(node, a).await {
            return Decision::ALLOW;
        }
        Decision::NoOpinion(format!("no relationship found between node '{node}' and this object"))
    }

    async fn pod(&self, node: &str, a: &Attributes<'_>) -> Decision {
        let scoped = selects_node(node, a);
        match (a.subresource, a.verb) {
            // NodeRestriction limits these to the node's own (mirror) pods.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => Decision::ALLOW,
            ("", "list" | "watch") if scoped => Decision::ALLOW,
            ("", "list" | "watch") if a.name.is_empty() => {
                no("can only list/watch pods with spec.nodeName field selector")
            }
            ("", "get" | "list" | "watch") => self.related(node, a, &["get", "list", "watch"], "").await,
            _ => no(""),
        }
    }
}

/// Whether only what is on the node is asked for.
fn selects_node(node: &str, a: &Attributes<'_>) -> bool {
    FieldSelector::parse(a.field_selector).is_ok_and(|selector| selector.exact("spec.nodeName") == Some(node))
}

fn no(why: &str) -> Decision {
    Decision::NoOpinion(why.to_owned())
}

/// Node and Lease and CSINode: the node's own.
fn own(node: &str, a: &Attributes<'_>) -> Decision {
    match a.resource {
        "nodes" => match (a.subresource, a.verb) {
            // NodeRestriction limits these to the node's own object.
            ("", "create" | "update" | "patch") | ("status", "update" | "patch") => Decision::ALLOW,
            _ => no(""),
        },
        "leases" if a.namespace != "kube-node-lease" => {
            no("can only access leases in the \"kube-node-lease\" system namespace")
        }
        "leases" if !["get", "create", "update", "patch", "delete"].contains(&a.verb) => {
            no("can only get, create, update, patch, or delete a node lease")
        }
        "leases" if a.verb != "create" && a.name != node => {
            no("can only access node lease with the same name as the requesting node")
        }
        "csinodes" if !["get", "create", "update", "patch", "delete"].contains(&a.verb) => {
            no("can only get, create, update, patch, or delete a CSINode")
        }
        "csinodes" if a.verb != "create" && a.name != node => {
            no("can only access CSINode with the same name as the requesting node")
        }
        _ => Decision::ALLOW,
    }
}

fn is_free(a: &Attributes<'_>) -> bool {
    a.subresource.is_empty()
        && FREE.iter().any(|(group, resources, verbs)| {
            *group == a.group && resources.contains(&a.resource) && verbs.contains(&a.verb)
        })
}

#[async_trait]
impl Authorizer for NodeAuthorizer {
    async fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let Some(node) = node_name(a.user) else { return no("") };
        if !a.is_resource_request {
            return no("");
        }
        if is_free(a) {
            return Decision::ALLOW;
        }
        match (a.group, a.resource) {
            ("", "secrets" | "configmaps") => {
                self.related(node, a, &["get", "list", "watch"], "can only read resources of this type").await
            }
            ("", "persistentvolumeclaims") if a.subresource == "status" => {
                if ["get", "update", "patch"].contains(&a.verb) {
                    Decision::ALLOW
                } else {
                    no("can only get/update/patch this type")
                }
            }
            ("", "persistentvolumeclaims" | "persistentvolumes") | ("resource.k8s.io", "resourceclaims") => {
                self.related(node, a, &["get"], "can only get individual resources of this type").await
            }
            ("", "serviceaccounts") if a.subresource == "token" && a.verb == "create" => {
                let account = Attributes { subresource: "", verb: "get", ..*a };
                self.related(node, &account, &["get"], "").await
            }
            ("", "serviceaccounts") => {
                self.related(node, a, &["get"], "can only create tokens for individual service accounts").await
            }
            ("resource.k8s.io", "resourceslices") => self.slice(node, a).await,
            ("storage.k8s.io", "volumeattachments") => self.attachment(node, a).await,
            ("", "pods") => self.pod(node, a).await,
            ("", "nodes") | ("coordination.k8s.io", "leases") | ("storage.k8s.io", "csinodes") => own(node, a),
            _ => no(""),
        }
    }

    async fn rules_for(&self, user: &UserInfo, _namespace: &str) -> Rules {
        if node_name(user).is_none() {
            return Rules::default();
        }
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Rules {
            resource: FREE
                .iter()
                .map(|(group, resources, verbs)| ResourceRule {
                    verbs: list(verbs),
                    api_groups: list(&[group]),
                    resources: list(resources),
                    resource_names: Vec::new(),
                })
                .collect(),
            non_resource: Vec::<NonResourceRule>::new(),
            incomplete: Some("node authorizer does not support user rule resolution".into()),
        }
    }
}

// === what a pod uses ===

fn spec_uses(spec: &PodSpec, pod: &str, resource: &str, name: &str) -> bool {
    match resource {
        "secrets" => secrets(spec).contains(&name),
        "configmaps" => config_maps(spec).contains(&name),
        "serviceaccounts" => spec.service_account_name.as_deref() == Some(name),
        "persistentvolumeclaims" => volumes(spec).any(|v| claim_of(v, pod).as_deref() == Some(name)),
        _ => false,
    }
}

fn volumes(spec: &PodSpec) -> impl Iterator<Item = &Volume> {
    spec.volumes.iter().flatten()
}

fn claim_of(volume: &Volume, pod: &str) -> Option<String> {
    let named = volume.persistent_volume_claim.as_ref().map(|c| c.claim_name.clone());
    named.or_else(|| volume.ephemeral.as_ref().map(|_| format!("{pod}-{}", volume.name)))
}

fn claims_of(pod: &Pod) -> Vec<String> {
    pod.spec.iter().flat_map(volumes).filter_map(|v| claim_of(v, pod.name())).collect()
}

/// Those that it names, those made for it, and the one for its extended resources.
fn resource_claims_of(pod: &Pod) -> Vec<&str> {
    let named = pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten());
    let named = named.filter_map(|c| c.resource_claim_name.as_deref());
    let made = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let made = made.filter_map(|c| c.resource_claim_name.as_deref());
    let extended = pod.status.iter().filter_map(|s| s.extended_resource_claim_status.as_ref());
    named.chain(made).chain(extended.map(|c| c.resource_claim_name.as_str())).collect()
}

fn volume_uses_secret(volume: &PersistentVolume, namespace: &str, name: &str) -> bool {
    let Some(csi) = volume.spec.as_ref().and_then(|s| s.csi.as_ref()) else { return false };
    let references = [
        &csi.controller_publish_secret_ref,
        &csi.controller_expand_secret_ref,
        &csi.node_stage_secret_ref,
        &csi.node_publish_secret_ref,
        &csi.node_expand_secret_ref,
    ];
    let named = |r: &SecretReference| r.namespace.as_deref() == Some(namespace) && r.name.as_deref() == Some(name);
    references.into_iter().flatten().any(named)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::store_with;
    use api::Codec;
    use serde_json::json;

    #[test]
    fn a_pod_uses_what_it_names() {
        let spec = PodSpec::decode(
            br#"{"serviceAccountName":"sa","volumes":[{"name":"v","secret":{"secretName":"vol"}},{"name":"c","configMap":{"name":"cfg"}},
                {"name":"data","persistentVolumeClaim":{"claimName":"pvc"}},{"name":"e","ephemeral":{}}],"containers":[]}"#,
        )
        .expect("literal is a pod spec");
        for (resource, name) in [
            ("secrets", "vol"),
            ("configmaps", "cfg"),
            ("persistentvolumeclaims", "pvc"),
            ("persistentvolumeclaims", "web-e"),
            ("serviceaccounts", "sa"),
        ] {
            assert!(spec_uses(&spec, "web", resource, name), "{resource} {name}");
        }
        assert!(!spec_uses(&spec, "web", "secrets", "other"));
    }

    #[test]
    fn a_pod_uses_claims_that_it_names_and_those_made_for_it() {
        let pod = Pod::decode(
            br#"{"metadata":{"name":"p"},
                "spec":{"containers":[],"resourceClaims":[{"name":"a","resourceClaimName":"shared"},{"name":"b","resourceClaimTemplateName":"t"}]},
                "status":{"resourceClaimStatuses":[{"name":"b","resourceClaimName":"p-b-x"}],
                    "extendedResourceClaimStatus":{"resourceClaimName":"p-ext","requestMappings":[]}}}"#,
        )
        .expect("literal is a pod");
        assert_eq!(resource_claims_of(&pod), ["shared", "p-b-x", "p-ext"]);
    }

    /// Of something in `default`.
    fn reading(user: &UserInfo) -> Attributes<'_> {
        Attributes {
            user,
            verb: "get",
            group: "",
            version: "v1",
            resource: "",
            subresource: "",
            namespace: "default",
            name: "",
            path: "",
            is_resource_request: true,
            field_selector: "",
            label_selector: "",
        }
    }

    #[tokio::test]
    async fn a_node_reads_what_its_pods_name_but_not_what_its_mirrors_do() {
        let pod = |name: &str, annotations: serde_json::Value| {
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default", "annotations": annotations},
                "spec": {"nodeName": "n", "containers": [], "volumes": [{"name": "v", "secret": {"secretName": name}}]}})
        };
        let store = store_with(vec![
            ("/pods/default/own", pod("own", json!({}))),
            ("/pods/default/mirror", pod("mirror", json!({"kubernetes.io/config.mirror": "x"}))),
        ]);
        let authorizer = NodeAuthorizer::new(Reader::new(store.await));
        let user = UserInfo::new("system:node:n", &["system:nodes"]);
        let mut got = Vec::new();
        for (resource, name) in [("secrets", "own"), ("secrets", "mirror"), ("pods", "own"), ("pods", "mirror")] {
            got.push(authorizer.authorize(&Attributes { resource, name, ..reading(&user) }).await.is_allowed());
        }
        assert_eq!(got, [true, false, true, true]);
    }

    #[tokio::test]
    async fn a_node_has_the_slices_that_name_it() {
        let slice = |name: &str, node: &str| {
            json!({"apiVersion": "resource.k8s.io/v1", "kind": "ResourceSlice", "metadata": {"name": name},
                "spec": {"driver": "d", "nodeName": node, "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}})
        };
        let store = store_with(vec![
            ("/resource.k8s.io/resourceslices/own", slice("own", "n")),
            ("/resource.k8s.io/resourceslices/foreign", slice("foreign", "m")),
        ]);
        let authorizer = NodeAuthorizer::new(Reader::new(store.await));
        let user = UserInfo::new("system:node:n", &["system:nodes"]);
        let mut got = Vec::new();
        for (verb, name, field_selector) in [
            ("create", "", ""),
            ("delete", "own", ""),
            ("delete", "foreign", ""),
            ("list", "", ""),
            ("deletecollection", "", "spec.driver=d,spec.nodeName=n"),
            ("deletecollection", "", "spec.nodeName=m"),
        ] {
            let attributes = Attributes {
                verb,
                group: "resource.k8s.io",
                resource: "resourceslices",
                namespace: "",
                name,
                field_selector,
                ..reading(&user)
            };
            got.push(authorizer.authorize(&attributes).await.is_allowed());
        }
        assert_eq!(got, [true, true, false, false, true, false]);
    }
}
