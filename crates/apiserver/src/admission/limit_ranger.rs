//! LimitRanger (`plugin/pkg/admission/limitranger/admission.go`): pods get the defaults of their namespace's LimitRanges, and
//! pods and claims outside of their bounds are refused.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::core::v1::{Container, LimitRange, LimitRangeItem, ResourceRequirements};
use api::prelude::*;
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use machinery::quantity::Quantity;
use machinery::quota::{self, ResourceList, Side, Usage};

/// What was filled in stands in this annotation.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
/// Above this, thousandths do not fit (`resource.MaxMilliValue`).
const MAX_MILLI: i64 = i64::MAX / 1000;

/// See the file's head.
pub struct LimitRanger;

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        match (&*kind.group, &*kind.kind, subresource) {
            ("", "Pod", "") => operation == Operation::Create,
            ("", "Pod", "resize") => operation == Operation::Update,
            ("", "PersistentVolumeClaim", "") => matches!(operation, Operation::Create | Operation::Update),
            _ => false,
        }
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if request.object_as::<Pod>().is_none() || is_going(request) {
            return Ok(());
        }
        let ranges = request.reader().shared_list::<LimitRange>(request.namespace).await?;
        if let Some(pod) = request.object_as_mut::<Pod>() {
            ranges.iter().for_each(|range| fill(pod, range));
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        if is_going(request) {
            return Ok(());
        }
        for range in request.reader().shared_list::<LimitRange>(request.namespace).await? {
            let items = range.spec.as_ref().map_or(&[][..], |s| &s.limits);
            let wrong = match (request.object_as::<Pod>(), request.object_as::<PersistentVolumeClaim>()) {
                (Some(pod), _) => check_pod(pod, items),
                (_, Some(claim)) => check_claim(claim, items),
                _ => Vec::new(),
            };
            if let Some(why) = aggregate(wrong) {
                return Err(request.forbidden(&why));
            }
        }
        Ok(())
    }
}

fn is_going(request: &Request<'_>) -> bool {
    request.old_object.is_some_and(|o| o.meta().deletion_timestamp.is_some())
}

/// Several texts in one, each once (`utilerrors.NewAggregate`).
fn aggregate(texts: Vec<String>) -> Option<String> {
    let mut once: Vec<String> = Vec::new();
    for text in texts {
        if !once.contains(&text) {
            once.push(text);
        }
    }
    match once.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => Some(format!("[{}]", many.join(", "))),
    }
}

// === defaults ===

/// `PodMutateLimitFunc`
fn fill(pod: &mut Pod, range: &LimitRange) {
    let mut defaults = ResourceRequirements::default();
    for item in range.spec.iter().flat_map(|s| &s.limits).filter(|i| i.type_ == "Container") {
        defaults.limits.get_or_insert_default().extend(item.default.clone().unwrap_or_default());
        defaults.requests.get_or_insert_default().extend(item.default_request.clone().unwrap_or_default());
    }
    let spec = pod.spec.get_or_insert_default();
    let mut notes = Vec::new();
    for container in &mut spec.containers {
        fill_container(container, &defaults, "container", &mut notes);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        fill_container(container, &defaults, "init container", &mut notes);
    }
    if !notes.is_empty() {
        let text = format!("LimitRanger plugin set: {}", notes.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.into(), text);
    }
}

fn fill_container(container: &mut Container, defaults: &ResourceRequirements, what: &str, notes: &mut Vec<String>) {
    let resources = container.resources.get_or_insert_default();
    let mut merge = |into: &mut Option<ResourceList>, from: &Option<ResourceList>, kind: &str| {
        let into = into.get_or_insert_default();
        let missing: Vec<_> = from.iter().flatten().filter(|(name, _)| !into.contains_key(*name)).collect();
        if !missing.is_empty() {
            let names: Vec<&str> = missing.iter().map(|(name, _)| name.as_str()).collect();
            notes.push(format!("{} {kind} for {what} {}", names.join(", "), container.name));
        }
        into.extend(missing.into_iter().map(|(name, value)| (name.clone(), value.clone())));
    };
    merge(&mut resources.requests, &defaults.requests, "request");
    merge(&mut resources.limits, &defaults.limits, "limit");
    for list in [&mut resources.requests, &mut resources.limits] {
        if list.as_ref().is_some_and(ResourceList::is_empty) {
            *list = None;
        }
    }
}

// === bounds ===

/// What a container, pod or claim asks for.
struct Asked {
    requests: Usage,
    limits: Usage,
}

/// `PodValidateLimitFunc`
fn check_pod(pod: &Pod, items: &[LimitRangeItem]) -> Vec<String> {
    let spec = pod.spec.clone().unwrap_or_default();
    let mut wrong = Vec::new();
    for item in items {
        match item.type_.as_str() {
            "Container" => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let resources = container.resources.clone().unwrap_or_default();
                    let asked = Asked {
                        requests: quota::parse(resources.requests.as_ref()),
                        limits: quota::parse(resources.limits.as_ref()),
                    };
                    wrong.extend(check(item, &asked));
                }
            }
            "Pod" => {
                let asked = Asked {
                    requests: quota::spec_resources(&spec, Side::Requests),
                    limits: quota::spec_resources(&spec, Side::Limits),
                };
                wrong.extend(check(item, &asked));
            }
            _ => {}
        }
    }
    wrong
}

fn check(item: &LimitRangeItem, asked: &Asked) -> Vec<String> {
    let kind = &item.type_;
    let min = quota::parse(item.min.as_ref());
    let max = quota::parse(item.max.as_ref());
    let ratio = quota::parse(item.max_limit_request_ratio.as_ref());
    let below = min.iter().filter_map(|(name, least)| check_min(kind, name, least, asked));
    let above = max.iter().filter_map(|(name, most)| check_max(kind, name, most, asked));
    let uneven = ratio.iter().filter_map(|(name, most)| check_ratio(kind, name, most, asked));
    below.chain(above).chain(uneven).collect()
}

/// `PersistentVolumeClaimValidateLimitFunc`
fn check_claim(claim: &PersistentVolumeClaim, items: &[LimitRangeItem]) -> Vec<String> {
    let resources = claim.spec.as_ref().and_then(|s| s.resources.clone()).unwrap_or_default();
    let asked = Asked { requests: quota::parse(resources.requests.as_ref()), limits: Usage::new() };
    let mut wrong = Vec::new();
    for item in items.iter().filter(|i| i.type_ == "PersistentVolumeClaim") {
        let kind = &item.type_;
        let min = quota::parse(item.min.as_ref());
        wrong.extend(min.iter().filter_map(|(name, least)| check_min(kind, name, least, &asked)));
        for (name, most) in quota::parse(item.max.as_ref()) {
            match asked.requests.get(&name) {
                None => wrong.push(format!("maximum {name} usage per {kind} is {most}.  No request is specified")),
                Some(request) if is_more(request, &most) => {
                    wrong.push(format!("maximum {name} usage per {kind} is {most}, but request is {request}"));
                }
                Some(_) => {}
            }
        }
    }
    wrong
}

fn check_min(kind: &str, name: &str, least: &Quantity, asked: &Asked) -> Option<String> {
    let bound = format!("minimum {name} usage per {kind} is {least}");
    let Some(request) = asked.requests.get(name) else { return Some(format!("{bound}.  No request is specified")) };
    if is_more(least, request) {
        return Some(format!("{bound}, but request is {request}"));
    }
    let limit = asked.limits.get(name).filter(|limit| is_more(least, limit))?;
    Some(format!("{bound}, but limit is {limit}"))
}

fn check_max(kind: &str, name: &str, most: &Quantity, asked: &Asked) -> Option<String> {
    let bound = format!("maximum {name} usage per {kind} is {most}");
    let Some(limit) = asked.limits.get(name) else { return Some(format!("{bound}.  No limit is specified")) };
    if is_more(limit, most) {
        return Some(format!("{bound}, but limit is {limit}"));
    }
    let request = asked.requests.get(name).filter(|request| is_more(request, most))?;
    Some(format!("{bound}, but request is {request}"))
}

fn check_ratio(kind: &str, name: &str, most: &Quantity, asked: &Asked) -> Option<String> {
    let bound = format!("{name} max limit to request ratio per {kind} is {most}");
    let given = |list: &Usage| list.get(name).cloned().filter(|q| !q.is_zero());
    let Some(request) = given(&asked.requests) else {
        return Some(format!("{bound}, but no request is specified or request is 0"));
    };
    let Some(limit) = given(&asked.limits) else {
        return Some(format!("{bound}, but no limit is specified or limit is 0"));
    };
    let [limit, request, bounded] = [&limit, &request, most].map(Quantity::as_f64);
    let ratio = limit / request;
    (ratio > bounded).then(|| format!("{bound}, but provided ratio is {ratio:.6}"))
}

/// In thousandths if all fit, else in whole numbers (`requestLimitEnforcedValues`).
fn is_more(a: &Quantity, b: &Quantity) -> bool {
    if a.value() <= MAX_MILLI && b.value() <= MAX_MILLI {
        return a.milli_value() > b.milli_value();
    }
    a.value() > b.value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};
    use serde_json::{Value, json};

    fn object<K: Object>(value: Value) -> K {
        K::decode(value.to_string().as_bytes()).expect("a literal")
    }

    fn range(item: Value) -> LimitRange {
        object(json!({"metadata": {"name": "r"}, "spec": {"limits": [item]}}))
    }

    fn pod(resources: Value) -> Pod {
        object(json!({"metadata": {"name": "p"}, "spec": {
            "containers": [{"name": "c", "resources": resources}], "initContainers": [{"name": "i"}]}}))
    }

    fn check_bounds(item: Value, resources: Value, expected: Expect) {
        let items = range(item).spec.map(|s| s.limits).unwrap_or_default();
        let mut pod = pod(resources);
        if let Some(spec) = &mut pod.spec {
            spec.init_containers = None;
        }
        expected.assert_eq(&aggregate(check_pod(&pod, &items)).unwrap_or_default());
    }

    #[test]
    fn what_is_missing_is_filled_in_and_told() {
        let mut pod = pod(json!({"requests": {"cpu": "300m"}}));
        let item = json!({"type": "Container", "default": {"cpu": "500m"}, "defaultRequest": {"cpu": "100m", "memory": "1Gi"}});
        fill(&mut pod, &range(item));
        let spec = pod.spec.clone().unwrap_or_default();
        let all = |c: &Container| serde_json::to_string(&json!(c.resources)).expect("JSON");
        expect![[r#"{"limits":{"cpu":"500m"},"requests":{"cpu":"300m","memory":"1Gi"}}"#]]
            .assert_eq(&all(&spec.containers[0]));
        expect![[
            r#"LimitRanger plugin set: memory request for container c; cpu limit for container c; cpu, memory request for init container i; cpu limit for init container i"#
        ]]
        .assert_eq(pod.annotation(ANNOTATION).unwrap_or_default());
    }

    #[test]
    fn bounds_of_containers_and_pods() {
        let item = json!({"type": "Container", "min": {"cpu": "100m"}, "max": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "2"}});
        check_bounds(
            item.clone(),
            json!({"requests": {"cpu": "50m"}, "limits": {"cpu": "1500m"}}),
            expect![
                "[minimum cpu usage per Container is 100m, but request is 50m, maximum cpu usage per Container is 1, but limit is 1500m, cpu max limit to request ratio per Container is 2, but provided ratio is 30.000000]"
            ],
        );
        check_bounds(item, json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}}), expect![""]);
        check_bounds(
            json!({"type": "Pod", "max": {"memory": "1Gi"}, "min": {"memory": "1Mi"}}),
            json!({}),
            expect![
                "[minimum memory usage per Pod is 1Mi.  No request is specified, maximum memory usage per Pod is 1Gi.  No limit is specified]"
            ],
        );
    }

    #[test]
    fn bounds_of_claims() {
        let item = json!({"type": "PersistentVolumeClaim", "min": {"storage": "2Gi"}, "max": {"storage": "4Gi"}});
        let items = range(item).spec.map(|s| s.limits).unwrap_or_default();
        let claim = object(json!({"metadata": {"name": "c"}, "spec": {"resources": {"requests": {"storage": "8Gi"}}}}));
        expect!["maximum storage usage per PersistentVolumeClaim is 4Gi, but request is 8Gi"]
            .assert_eq(&aggregate(check_claim(&claim, &items)).unwrap_or_default());
    }
}
