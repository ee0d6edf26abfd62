//! Extended resources that a node has as devices, not by a device plugin (`plugins/dynamicresources/extendeddynamicresources.go`):
//! a DeviceClass names the resource, and the scheduler makes a claim for what the pod's containers ask for. Pure.

use super::Devices;
use crate::resources::Resources;
use api::k8s::api::core::v1::{Container, ContainerExtendedResourceRequest, Pod};
use api::k8s::api::resource::v1::{DeviceClaim, DeviceRequest, ExactDeviceRequest, ResourceClaim, ResourceClaimSpec};
use api::meta::MetaExt;
use api::{ObjectMeta, OwnerReference};
use machinery::kinds::is_extended_resource;
use machinery::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Resources with this prefix are a DeviceClass's (`ResourceDeviceClassPrefix`).
pub(super) const OF_CLASS: &str = "deviceclass.resource.kubernetes.io/";
/// On a claim that the scheduler made (`ExtendedResourceClaimAnnotation`).
const MADE: &str = "resource.kubernetes.io/extended-resource-claim";

/// The claim for a pod's extended resources on a node.
#[derive(Debug, Clone)]
pub(crate) struct Extended {
    /// It does not exist yet, and has no name.
    pub(crate) claim: Arc<ResourceClaim>,
    /// Which container gets which devices.
    pub(crate) mappings: Arc<[ContainerExtendedResourceRequest]>,
}

/// Whether a node that has so much of a resource by itself has it as devices (`shouldDelegateResourceToDRA`).
pub(crate) fn is_of_devices(devices: &Devices, resource: &str, allocatable: &Resources) -> bool {
    allocatable.scalar.get(resource).copied().unwrap_or(0) <= 0 && class_of(devices, resource).is_some()
}

/// The class whose devices a resource is, if its name may be one's.
pub(crate) fn class_of<'a>(devices: &'a Devices, resource: &str) -> Option<&'a str> {
    if !is_extended_resource(resource) && !resource.starts_with(OF_CLASS) {
        return None;
    }
    devices.class_of(resource)
}

/// The UID of the pod for whose extended resources a claim was made, if it was.
pub(super) fn made_for(claim: &ResourceClaim) -> Option<&String> {
    claim.controller().filter(|_| claim.annotation(MADE) == Some("true")).map(|owner| &owner.uid)
}

/// The claim that was made for a pod in an earlier attempt (`findExtendedResourceClaim`).
pub(crate) fn find(devices: &Devices, pod: &Pod) -> Option<Arc<ResourceClaim>> {
    devices.made_for(pod.uid()).find(|claim| claim.namespace() == pod.namespace()).cloned()
}

/// The claim for these resources of a pod; `None`: there are none.
pub(crate) fn claim(devices: &Devices, pod: &Pod, resources: &BTreeSet<&str>) -> Option<Extended> {
    let (mut requests, mut mappings) = (Vec::new(), Vec::new());
    for resource in resources {
        if let Some(class) = devices.class_of(resource) {
            let (more, mapped) = of_resource(pod, resource, class);
            requests.extend(more);
            mappings.extend(mapped);
        }
    }
    if requests.is_empty() {
        return None;
    }
    requests.sort_by(|a, b| a.name.cmp(&b.name));
    let owner = OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name().to_owned(),
        uid: pod.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        namespace: pod.metadata.namespace.clone(),
        generate_name: Some(format!("{}-extended-resources-", pod.name())),
        // Until it exists: tells it apart from all others.
        uid: Some(format!("extended-resources-of-{}", pod.uid())),
        owner_references: Some(vec![owner]),
        annotations: Some([(MADE.to_owned(), "true".to_owned())].into()),
        ..ObjectMeta::default()
    };
    let spec = ResourceClaimSpec { devices: Some(DeviceClaim { requests: Some(requests), ..DeviceClaim::default() }) };
    Some(Extended { claim: Arc::new(ResourceClaim { metadata, spec, status: None }), mappings: mappings.into() })
}

/// A container, with its place among all of the pod.
type Placed<'a> = (usize, &'a Container);

/// What containers ask of one resource (`createRequestsAndMappings`). Init containers that end use what later containers
/// have; what they need beyond is asked for once, for the one that needs most.
fn of_resource(pod: &Pod, resource: &str, class: &str) -> (Vec<DeviceRequest>, Vec<ContainerExtendedResourceRequest>) {
    let (staying, ending) = containers(pod);
    let mapping = |container: &Container, request: &str| ContainerExtendedResourceRequest {
        container_name: container.name.clone(),
        resource_name: resource.to_owned(),
        request_name: request.to_owned(),
    };
    let (mut requests, mut mappings) = (BTreeMap::new(), Vec::new());
    for (at, container) in staying {
        if let Some((wanted, name)) = wanted(at, container, resource) {
            mappings.push(mapping(container, &name));
            requests.insert(at, (name, wanted));
        }
    }
    let mut beyond: Option<(String, i64)> = None;
    let mut short = Vec::new();
    for (at, container) in ending {
        let Some((mut missing, name)) = wanted(at, container, resource) else { continue };
        for (later, has) in requests.range(at..).map(|(_, request)| request) {
            if missing > 0 {
                mappings.push(mapping(container, later));
                missing -= has;
            }
        }
        if missing > 0 {
            if beyond.as_ref().is_none_or(|(_, most)| *most < missing) {
                beyond = Some((name, missing));
            }
            short.push(container);
        }
    }
    if let Some((name, _)) = &beyond {
        mappings.extend(short.iter().map(|container| mapping(container, name)));
    }
    let all = beyond.into_iter().chain(requests.into_values());
    (all.map(|(name, count)| request(name, class, count)).collect(), mappings)
}

fn request(name: String, class: &str, count: i64) -> DeviceRequest {
    let exactly = ExactDeviceRequest {
        device_class_name: class.to_owned(),
        allocation_mode: Some("ExactCount".to_owned()),
        count: Some(count),
        ..ExactDeviceRequest::default()
    };
    DeviceRequest { name, exactly: Some(exactly), ..DeviceRequest::default() }
}

/// Those that stay, sidecars among them, and the init containers that end (`partitionContainerIndices`).
fn containers(pod: &Pod) -> (Vec<Placed<'_>>, Vec<Placed<'_>>) {
    let Some(spec) = &pod.spec else { return (Vec::new(), Vec::new()) };
    let init = spec.init_containers.as_deref().unwrap_or_default();
    let all = init.iter().chain(&spec.containers).enumerate();
    all.partition(|(at, container)| *at >= init.len() || container.restart_policy.as_deref() == Some("Always"))
}

/// How much a container asks for of a resource, and the name of its request: by its place and that of the resource among
/// all it asks for.
fn wanted(at: usize, container: &Container, resource: &str) -> Option<(i64, String)> {
    let requests = container.resources.as_ref()?.requests.as_ref()?;
    let amount = Quantity::parse(&requests.get(resource)?.0).ok()?.value();
    let place = requests.keys().position(|name| name == resource)?;
    (amount > 0).then(|| (amount, format!("container-{at}-request-{place}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use api::k8s::api::resource::v1::DeviceClass;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn class(devices: &mut Devices, name: &str, resource: Option<&str>, created: &str) {
        let metadata = json!({"name": name, "creationTimestamp": created});
        let text = json!({"metadata": metadata, "spec": {"extendedResourceName": resource}}).to_string();
        devices.apply_class(name, Some(Arc::new(DeviceClass::decode(text.as_bytes()).expect("a class"))));
    }

    /// The requests and mappings of a pod's claim. Containers: `NAME[!][+] RESOURCE=AMOUNT…; …`, `!` for an init container
    /// that ends, `+` for a sidecar.
    #[track_caller]
    fn check(containers: &str, expected: Expect) {
        let (mut init, mut all, mut resources) = (Vec::new(), Vec::new(), BTreeSet::new());
        for line in containers.split("; ") {
            let mut words = line.split(' ');
            let name = words.next().expect("a name");
            let amounts: Vec<(&str, &str)> = words.filter_map(|word| word.split_once('=')).collect();
            resources.extend(amounts.iter().map(|(resource, _)| *resource).filter(|resource| *resource != "cpu"));
            let requests: serde_json::Map<String, Value> =
                amounts.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
            let mut container = json!({"name": name.trim_end_matches(['!', '+']), "resources": {"requests": requests}});
            if name.ends_with('+') {
                container["restartPolicy"] = "Always".into();
            }
            if name.ends_with(['!', '+']) { init.push(container) } else { all.push(container) }
        }
        let pod = json!({"metadata": {"name": "p", "uid": "u"}, "spec": {"initContainers": init, "containers": all}});
        let pod = Pod::decode(pod.to_string().as_bytes()).expect("a pod");
        let mut devices = Devices::default();
        class(&mut devices, "gpu", Some("e.com/gpu"), "2026-01-01T00:00:00Z");
        let found = claim(&devices, &pod, &resources);
        let requests = found.iter().flat_map(|e| e.claim.spec.devices.iter().flat_map(|d| d.requests.iter().flatten()));
        let request = |r: &DeviceRequest| {
            let exact = r.exactly.as_ref().expect("an exact request");
            format!("{}={}x{}", r.name, exact.count.unwrap_or_default(), exact.device_class_name)
        };
        let mapping = |m: &ContainerExtendedResourceRequest| format!("{}:{}", m.container_name, m.request_name);
        let mapped = found.iter().flat_map(|e| e.mappings.iter().map(mapping));
        let (requests, mapped): (Vec<String>, Vec<String>) = (requests.map(request).collect(), mapped.collect());
        expected.assert_eq(&format!("{} | {}", requests.join(" "), mapped.join(" ")));
    }

    #[test]
    fn containers_get_requests_and_those_that_end_lend_theirs() {
        check("a e.com/gpu=2 cpu=1; b cpu=1", expect![["container-0-request-1=2xgpu | a:container-0-request-1"]]);
        check("a cpu=1", expect![[" | "]]);
        check(
            "i! e.com/gpu=1; a e.com/gpu=2",
            expect![["container-1-request-0=2xgpu | a:container-1-request-0 i:container-1-request-0"]],
        );
        check(
            "i! e.com/gpu=3; j! e.com/gpu=5; a e.com/gpu=2",
            expect![[
                "container-1-request-0=3xgpu container-2-request-0=2xgpu | a:container-2-request-0 i:container-2-request-0 j:container-2-request-0 i:container-1-request-0 j:container-1-request-0"
            ]],
        );
        // A sidecar has its own, and lends them to those before it only.
        check(
            "i! e.com/gpu=1; s+ e.com/gpu=1; j! e.com/gpu=1; a cpu=1",
            expect![[
                "container-1-request-0=1xgpu container-2-request-0=1xgpu | s:container-1-request-0 i:container-1-request-0 j:container-2-request-0"
            ]],
        );
        check(
            "a deviceclass.resource.kubernetes.io/gpu=1 e.com/gpu=1",
            expect![[
                "container-0-request-0=1xgpu container-0-request-1=1xgpu | a:container-0-request-0 a:container-0-request-1"
            ]],
        );
    }

    #[test]
    fn a_claim_that_was_made_for_a_pod_is_found_while_it_is_there() {
        let pod = Pod::decode(br#"{"metadata":{"name":"p","namespace":"ns","uid":"u"}}"#).expect("a pod");
        let mut devices = Devices::default();
        let mut found = |namespace: &str, name: &str, owner: Option<&str>, made: &str| {
            let owned = |uid| json!([{"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
            let metadata = |uid| json!({"namespace": namespace, "name": name, "ownerReferences": owned(uid), "annotations": {MADE: made}});
            let text = owner.map(|uid| json!({"metadata": metadata(uid), "spec": {}}).to_string());
            let claim = text.map(|text| Arc::new(ResourceClaim::decode(text.as_bytes()).expect("a claim")));
            devices.apply_claim(namespace, name, claim);
            find(&devices, &pod).map(|claim| claim.name().to_owned())
        };
        assert_eq!(found("ns", "a", Some("other"), "true"), None);
        assert_eq!(found("elsewhere", "b", Some("u"), "true"), None);
        assert_eq!(found("ns", "c", Some("u"), "false"), None);
        assert_eq!(found("ns", "d", Some("u"), "true").as_deref(), Some("d"));
        assert_eq!(found("ns", "d", Some("u"), "true").as_deref(), Some("d"));
        assert_eq!(found("ns", "d", None, ""), None);
    }

    #[test]
    fn a_resource_is_of_the_newest_class_that_names_it() {
        let mut devices = Devices::default();
        let of = |devices: &Devices, resource: &str| class_of(devices, resource).map(str::to_owned);
        class(&mut devices, "b", Some("e.com/gpu"), "2026-01-01T00:00:00Z");
        class(&mut devices, "a", Some("e.com/gpu"), "2026-01-01T00:00:00Z");
        assert_eq!(of(&devices, "e.com/gpu").as_deref(), Some("a"));
        class(&mut devices, "c", Some("e.com/gpu"), "2026-01-02T00:00:00Z");
        assert_eq!(of(&devices, "e.com/gpu").as_deref(), Some("c"));
        class(&mut devices, "c", None, "2026-01-02T00:00:00Z");
        assert_eq!(of(&devices, "e.com/gpu").as_deref(), Some("a"));
        assert_eq!(of(&devices, "deviceclass.resource.kubernetes.io/c").as_deref(), Some("c"));
        assert_eq!((of(&devices, "deviceclass.resource.kubernetes.io/d"), of(&devices, "cpu")), (None, None));
        devices.apply_class("a", None);
        devices.apply_class("b", None);
        assert_eq!(of(&devices, "e.com/gpu"), None);
    }
}
