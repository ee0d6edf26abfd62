//! [`shrink`]: room that decoding leaves in lists.
//!
//! A decoder does not know how many items a list has: the first item makes room for four (of items of more than 1 KB, as containers are, for one), and
//! from there it doubles. Of a pod that is one to two kilobytes. Only kinds of which there are many, or whose lists are long, have anything to do here.

use crate::k8s::api::core::v1 as core;
use crate::k8s::api::discovery::v1 as discovery;
use crate::{Object, ObjectMeta};
use std::any::Any;

/// Gives back the room in an object's lists that nothing stands in. For objects that are kept: it costs about a microsecond for a pod.
pub fn shrink<K: Object>(object: &mut K) {
    meta(object.meta_mut());
    let object: &mut dyn Any = object;
    if let Some(one) = object.downcast_mut::<core::Pod>() {
        if let Some(spec) = &mut one.spec {
            pod_spec(spec);
        }
        if let Some(status) = &mut one.status {
            pod_status(status);
        }
    } else if let Some(one) = object.downcast_mut::<core::Node>() {
        if let Some(spec) = &mut one.spec {
            list(&mut spec.pod_cidrs);
            list(&mut spec.taints);
        }
        if let Some(status) = &mut one.status {
            list(&mut status.addresses);
            list(&mut status.conditions);
            list(&mut status.images).iter_mut().for_each(|image| {
                list(&mut image.names);
            });
        }
    } else if let Some(one) = object.downcast_mut::<discovery::EndpointSlice>() {
        list(&mut one.endpoints).iter_mut().for_each(|endpoint| endpoint.addresses.shrink_to_fit());
        list(&mut one.ports);
    }
}

/// The list's items, when it is as small as it can be.
fn list<T>(list: &mut Option<Vec<T>>) -> &mut [T] {
    list.as_mut().map_or(&mut [], |items| {
        items.shrink_to_fit();
        items
    })
}

fn meta(meta: &mut ObjectMeta) {
    list(&mut meta.owner_references);
    list(&mut meta.finalizers);
    list(&mut meta.managed_fields);
}

fn pod_spec(spec: &mut core::PodSpec) {
    spec.containers.shrink_to_fit();
    spec.containers.iter_mut().chain(list(&mut spec.init_containers)).for_each(container);
    list(&mut spec.ephemeral_containers);
    list(&mut spec.image_pull_secrets);
    list(&mut spec.tolerations);
    list(&mut spec.topology_spread_constraints);
    list(&mut spec.volumes).iter_mut().for_each(|volume| {
        if let Some(projected) = &mut volume.projected {
            list(&mut projected.sources).iter_mut().for_each(|source| {
                if let Some(source) = &mut source.config_map {
                    list(&mut source.items);
                }
                if let Some(source) = &mut source.downward_api {
                    list(&mut source.items);
                }
            });
        }
    });
}

fn container(container: &mut core::Container) {
    list(&mut container.args);
    list(&mut container.command);
    list(&mut container.env);
    list(&mut container.env_from);
    list(&mut container.ports);
    list(&mut container.volume_mounts);
}

fn pod_status(status: &mut core::PodStatus) {
    list(&mut status.conditions);
    list(&mut status.container_statuses);
    list(&mut status.init_container_statuses);
    list(&mut status.host_ips);
    list(&mut status.pod_ips);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Codec;

    #[test]
    fn a_decoded_pod_keeps_no_room_and_every_item() {
        let json = br#"{"metadata":{"name":"a","ownerReferences":[{"apiVersion":"v1","kind":"K","name":"n","uid":"u"}]},
            "spec":{"containers":[{"name":"c","env":[{"name":"A"}],"ports":[{"containerPort":80}],"volumeMounts":[{"name":"v","mountPath":"/v"}]}],
                "volumes":[{"name":"v","projected":{"sources":[{"configMap":{"name":"m","items":[{"key":"k","path":"p"}]}}]}}],
                "tolerations":[{"key":"t"}]},
            "status":{"conditions":[{"type":"Ready","status":"True"}],"podIPs":[{"ip":"10.0.0.1"}]}}"#;
        let mut pod = core::Pod::decode(json).expect("decoded");
        let whole = pod.clone();
        let room = |pod: &core::Pod| {
            let spec = pod.spec.as_ref().expect("spec");
            let container = &spec.containers[0];
            [
                spec.containers.capacity(),
                container.env.as_ref().expect("env").capacity(),
                container.ports.as_ref().expect("ports").capacity(),
                container.volume_mounts.as_ref().expect("mounts").capacity(),
                spec.volumes.as_ref().expect("volumes").capacity(),
                spec.tolerations.as_ref().expect("tolerations").capacity(),
                pod.status.as_ref().and_then(|s| s.conditions.as_ref()).expect("conditions").capacity(),
                pod.metadata.owner_references.as_ref().expect("owners").capacity(),
            ]
        };
        assert!(room(&pod).iter().sum::<usize>() > 8, "decoding leaves some: {:?}", room(&pod));
        shrink(&mut pod);
        assert_eq!((room(&pod), pod), ([1; 8], whole));
    }
}
