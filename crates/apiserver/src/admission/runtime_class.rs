//! RuntimeClass (`plugin/pkg/admission/runtimeclass/admission.go`): a pod gets the overhead, node selector and tolerations of
//! the class it names.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::core::v1::{PodSpec, Toleration};
use api::k8s::api::node::v1::RuntimeClass;
use api::prelude::Pod;
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use machinery::quota::{self, ResourceList};

/// See the file's head.
pub struct RuntimeClasses;

#[async_trait]
impl Admission for RuntimeClasses {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        operation == Operation::Create && kind.group.is_empty() && kind.kind == "Pod" && subresource.is_empty()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let Some(class) = class_of(request).await? else { return Ok(()) };
        let Some(mut spec) = request.object_as::<Pod>().and_then(|p| p.spec.clone()) else { return Ok(()) };
        apply(&mut spec, &class).map_err(|why| request.forbidden(&why))?;
        if let Some(pod) = request.object_as_mut::<Pod>() {
            pod.spec = Some(spec);
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let class = class_of(request).await?;
        let overhead = request.object_as::<Pod>().and_then(|p| p.spec.as_ref()?.overhead.clone());
        let defined = class.and_then(|c| c.overhead).map(|o| o.pod_fixed.unwrap_or_default());
        match (&defined, &overhead) {
            (None, Some(_)) => {
                Err(request
                    .forbidden("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"))
            }
            (Some(defined), given) if !is_same(defined, given.as_ref().unwrap_or(&ResourceList::new())) => {
                Err(request.forbidden(WRONG))
            }
            _ => Ok(()),
        }
    }
}

const WRONG: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

async fn class_of(request: &Request<'_>) -> Result<Option<RuntimeClass>, Status> {
    let name = request.object_as::<Pod>().and_then(|p| p.spec.as_ref()?.runtime_class_name.clone());
    let Some(name) = name else { return Ok(None) };
    match request.reader().get::<RuntimeClass>("", &name).await? {
        Some(class) => Ok(Some(class)),
        None => Err(request.forbidden(&format!("pod rejected: RuntimeClass {name:?} not found"))),
    }
}

fn is_same(a: &ResourceList, b: &ResourceList) -> bool {
    a.len() == b.len() && quota::parse(Some(a)) == quota::parse(Some(b))
}

/// `setOverhead`, `setScheduling`
fn apply(spec: &mut PodSpec, class: &RuntimeClass) -> Result<(), String> {
    if let Some(overhead) = &class.overhead {
        let defined = overhead.pod_fixed.clone().unwrap_or_default();
        if spec.overhead.as_ref().is_some_and(|given| !given.is_empty() && !is_same(given, &defined)) {
            return Err(WRONG.into());
        }
        spec.overhead = Some(defined);
    }
    let Some(scheduling) = &class.scheduling else { return Ok(()) };
    if let Some(wanted) = &scheduling.node_selector {
        let given = spec.node_selector.get_or_insert_default();
        for (key, value) in wanted {
            if let Some(other) = given.get(key).filter(|other| *other != value) {
                return Err(format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; pod.spec.nodeSelector[{key}] = {other}"
                ));
            }
            given.insert(key.clone(), value.clone());
        }
    }
    let all: Vec<Toleration> =
        spec.tolerations.iter().flatten().chain(scheduling.tolerations.iter().flatten()).cloned().collect();
    spec.tolerations = Some(merge(&all)).filter(|l| !l.is_empty());
    Ok(())
}

/// Drops what another toleration covers; of equal ones the first stays (`MergeTolerations`).
fn merge(all: &[Toleration]) -> Vec<Toleration> {
    let mut merged: Vec<Toleration> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let covered = merged.iter().any(|m| covers(m, one)) || all[i + 1..].iter().any(|l| l != one && covers(l, one));
        if !covered {
            merged.push(one.clone());
        }
    }
    merged
}

/// `isSuperset`
fn covers(wide: &Toleration, narrow: &Toleration) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    if wide == narrow {
        return true;
    }
    let exists = text(&wide.operator) == "Exists";
    if text(&wide.key) != text(&narrow.key) && !(text(&wide.key).is_empty() && exists) {
        return false;
    }
    if text(&wide.effect) != text(&narrow.effect) && !text(&wide.effect).is_empty() {
        return false;
    }
    if text(&wide.effect) == "NoExecute"
        && let Some(seconds) = wide.toleration_seconds
        && narrow.toleration_seconds.is_none_or(|s| s > seconds)
    {
        return false;
    }
    match text(&wide.operator).as_str() {
        "Exists" => true,
        "Equal" | "" => {
            // As upstream: an open operator is no `Equal` here.
            text(&narrow.operator) == "Equal" && text(&wide.value) == text(&narrow.value)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use expect_test::{Expect, expect};
    use serde_json::json;

    fn check_apply(spec: &str, expected: Expect) {
        let class = json!({"metadata": {"name": "r"}, "handler": "h", "overhead": {"podFixed": {"cpu": "1"}},
            "scheduling": {"nodeSelector": {"a": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        let class = RuntimeClass::decode(class.to_string().as_bytes()).expect("a literal");
        let pod = Pod::decode(format!(r#"{{"spec":{spec}}}"#).as_bytes()).expect("a literal");
        let mut spec = pod.spec.unwrap_or_default();
        let text = match apply(&mut spec, &class) {
            Ok(()) => json!({"o": spec.overhead, "n": spec.node_selector, "t": spec.tolerations}).to_string(),
            Err(why) => why,
        };
        expected.assert_eq(&text);
    }

    #[test]
    fn a_class_adds_to_the_pod_or_refuses_it() {
        check_apply(
            r#"{"containers":[],"nodeSelector":{"x":"y"},"tolerations":[{"key":"k","operator":"Equal","value":"v"}]}"#,
            expect![[r#"{"n":{"a":"b","x":"y"},"o":{"cpu":"1"},"t":[{"key":"k","operator":"Exists"}]}"#]],
        );
        check_apply(
            r#"{"containers":[],"nodeSelector":{"a":"c"}}"#,
            expect!["conflict: runtimeClass.scheduling.nodeSelector[a] = b; pod.spec.nodeSelector[a] = c"],
        );
        check_apply(
            r#"{"containers":[],"overhead":{"cpu":"2"}}"#,
            expect!["pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"],
        );
        check_apply(
            r#"{"containers":[],"overhead":{"cpu":"1000m"}}"#,
            expect![[r#"{"n":{"a":"b"},"o":{"cpu":"1"},"t":[{"key":"k","operator":"Exists"}]}"#]],
        );
    }
}
