//! The QoS class of a pod (`pkg/apis/core/helper/qos/qos.go`).

use crate::quantity::Quantity;
use api::k8s::api::core::v1::ResourceRequirements;
use api::k8s::apimachinery::pkg::api::resource::Quantity as Text;
use api::prelude::Pod;
use std::collections::BTreeMap;

type List = BTreeMap<String, Text>;
type Sums = BTreeMap<String, Quantity>;

/// `Guaranteed` if every container limits CPU and memory and asks for just that; `BestEffort` if none asks for or
/// limits anything; else `Burstable`. Resources of the pod itself count instead of its containers' where given.
pub fn qos_class(pod: &Pod) -> &'static str {
    let Some(spec) = &pod.spec else { return "BestEffort" };
    let (mut requests, mut limits) = (Sums::new(), Sums::new());
    let mut guaranteed = true;
    let mut take = |resources: Option<&ResourceRequirements>, always: bool| {
        let asked = resources.and_then(|r| r.requests.as_ref());
        let limited = resources.and_then(|r| r.limits.as_ref());
        add(&mut requests, asked);
        let found = add(&mut limits, limited);
        if found < 2 && (always || limited.is_some_and(|l| !l.is_empty())) {
            guaranteed = false;
        }
    };
    if spec.resources.is_some() {
        take(spec.resources.as_ref(), false);
    } else {
        for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
            take(container.resources.as_ref(), true);
        }
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if guaranteed && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// Adds the positive CPU and memory quantities of `list`; how many there were.
fn add(sums: &mut Sums, list: Option<&List>) -> usize {
    let mut found = 0;
    for (name, text) in list.into_iter().flatten() {
        if name != "cpu" && name != "memory" {
            continue;
        }
        let Ok(quantity) = Quantity::parse(&text.0) else { continue };
        if quantity.sign() > 0 {
            found += 1;
            match sums.get_mut(name) {
                Some(sum) => sum.add(&quantity),
                None => {
                    sums.insert(name.clone(), quantity);
                }
            }
        }
    }
    found
}
