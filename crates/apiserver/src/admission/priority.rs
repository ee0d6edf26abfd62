//! Priority (`plugin/pkg/admission/priority/admission.go`): a pod's `priorityClassName` becomes its number; without one the
//! global default class, or 0, applies. An update that leaves it out keeps it.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::scheduling::v1::PriorityClass;
use api::prelude::{MetaExt, Pod};
use async_trait::async_trait;
use machinery::kinds::KindInfo;
use std::sync::Arc;

/// See the file's head.
pub struct Priority;

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        match (&*kind.group, &*kind.kind) {
            ("", "Pod") => matches!(operation, Operation::Create | Operation::Update) && subresource.is_empty(),
            ("scheduling.k8s.io", "PriorityClass") => matches!(operation, Operation::Create | Operation::Update),
            _ => false,
        }
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if request.operation == Operation::Update {
            keep(request);
            return Ok(());
        }
        let Some(spec) = request.object_as::<Pod>().and_then(|p| p.spec.as_ref()) else { return Ok(()) };
        let asked = spec.priority_class_name.clone().filter(|n| !n.is_empty());
        let (priority, preemption) = (spec.priority, spec.preemption_policy.clone());
        let class = match &asked {
            Some(name) => {
                let class = request.reader().shared::<PriorityClass>("", name).await?;
                Some(class.ok_or_else(|| request.forbidden(&format!("no PriorityClass with name {name} was found")))?)
            }
            None => default_class(request.reader().shared_list::<PriorityClass>("").await?),
        };
        let value = class.as_ref().and_then(|c| c.value).unwrap_or(0);
        if let Some(given) = priority.filter(|p| *p != value) {
            return Err(request.forbidden(&format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name"
            )));
        }
        let policy =
            class.as_ref().and_then(|c| c.preemption_policy.clone()).unwrap_or_else(|| "PreemptLowerPriority".into());
        if let Some(given) = preemption.filter(|p| *p != policy) {
            return Err(request.forbidden(&format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority admission controller computed {policy} from the given PriorityClass name"
            )));
        }
        if let Some(spec) = request.object_as_mut::<Pod>().and_then(|p| p.spec.as_mut()) {
            if asked.is_none() {
                spec.priority_class_name = class.map(|c| c.name().to_owned());
            }
            spec.priority = Some(value);
            spec.preemption_policy = Some(policy);
        }
        Ok(())
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let Some(class) = request.object_as::<PriorityClass>() else { return Ok(()) };
        if class.global_default != Some(true) {
            return Ok(());
        }
        let others = request.reader().list::<PriorityClass>("").await?;
        match others.iter().find(|o| o.global_default == Some(true) && o.name() != class.name()) {
            Some(other) => Err(request.forbidden(&format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.name()
            ))),
            None => Ok(()),
        }
    }
}

/// What a pod has, it keeps; validation refuses other changes.
fn keep(request: &mut Request<'_>) {
    let Some(old) = request.old_object_as::<Pod>().and_then(|p| p.spec.as_ref()) else { return };
    let (priority, policy) = (old.priority, old.preemption_policy.clone());
    if let Some(spec) = request.object_as_mut::<Pod>().and_then(|p| p.spec.as_mut()) {
        spec.priority = spec.priority.or(priority);
        spec.preemption_policy = spec.preemption_policy.take().or(policy);
    }
}

/// Of several defaults (possible by a race) the lowest counts.
fn default_class(classes: Vec<Arc<PriorityClass>>) -> Option<Arc<PriorityClass>> {
    classes.into_iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value)
}
