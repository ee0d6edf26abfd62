//! What an update of a pod keeps of the old one.

use crate::kinds::common::{str_of, visit_list};
use api::k8s::api::core::v1::{Container, ContainerStatus, PodStatus};
use api::k8s::apimachinery::pkg::api::resource::Quantity;
use api::prelude::Pod;
use std::collections::BTreeMap;

/// A status update cannot clear the QoS class or the observed generations.
pub(super) fn keep_status_of(new: &mut Pod, old: &Pod) {
    let new = new.status.get_or_insert_default();
    let Some(old) = &old.status else { return };
    if str_of(&new.qos_class).is_empty() {
        new.qos_class = old.qos_class.clone();
    }
    if new.observed_generation.unwrap_or(0) == 0 {
        new.observed_generation = old.observed_generation;
    }
    let mut generations: BTreeMap<&str, Vec<Option<i64>>> = BTreeMap::new();
    for condition in old.conditions.iter().flatten().rev() {
        generations.entry(&condition.type_).or_default().push(condition.observed_generation);
    }
    for condition in new.conditions.iter_mut().flatten() {
        // Conditions of one type may repeat: they keep their generations in order.
        let before = generations.get_mut(condition.type_.as_str()).and_then(Vec::pop).flatten();
        if condition.observed_generation.unwrap_or(0) == 0 {
            condition.observed_generation = before;
        }
    }
}

/// `resize` changes resources and resize policies of containers and of the pod; a renamed or missing container is left
/// for validation to refuse.
pub(super) fn keep_all_but_resources(new: &mut Pod, old: &Pod) {
    let (Some(new_spec), Some(old_spec)) = (&mut new.spec, &old.spec) else { return };
    let count = |containers: &Option<Vec<Container>>| containers.as_ref().map_or(0, Vec::len);
    if new_spec.containers.len() != old_spec.containers.len()
        || count(&new_spec.init_containers) != count(&old_spec.init_containers)
    {
        return;
    }
    let mut spec = old_spec.clone();
    spec.resources = new_spec.resources.take();
    spec.containers = merge_resources(std::mem::take(&mut new_spec.containers), &old_spec.containers);
    let init = merge_resources(
        new_spec.init_containers.take().unwrap_or_default(),
        old_spec.init_containers.as_deref().unwrap_or_default(),
    );
    spec.init_containers = (!init.is_empty()).then_some(init);
    *new_spec = spec;
}

fn merge_resources(new: Vec<Container>, old: &[Container]) -> Vec<Container> {
    if new.iter().zip(old).any(|(n, o)| n.name != o.name) {
        return new;
    }
    new.into_iter()
        .zip(old)
        .map(|(n, o)| Container { resources: n.resources, resize_policy: n.resize_policy, ..o.clone() })
        .collect()
}

/// All quantities of a status.
pub(super) fn status_quantities(status: &mut PodStatus, visit: &mut dyn FnMut(&mut Quantity)) {
    visit_list(&mut status.allocated_resources, visit);
    if let Some(resources) = &mut status.resources {
        visit_list(&mut resources.limits, visit);
        visit_list(&mut resources.requests, visit);
    }
    let lists: [&mut Option<Vec<ContainerStatus>>; 3] =
        [&mut status.container_statuses, &mut status.init_container_statuses, &mut status.ephemeral_container_statuses];
    for container in lists.into_iter().flatten().flatten() {
        visit_list(&mut container.allocated_resources, visit);
        if let Some(resources) = &mut container.resources {
            visit_list(&mut resources.limits, visit);
            visit_list(&mut resources.requests, visit);
        }
    }
}
