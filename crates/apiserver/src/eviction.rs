//! `pods/eviction`: a delete that asks the disruption budgets first (`pkg/registry/core/pod/storage/eviction.go`).

use crate::api_server::{ApiServer, Call};
use crate::codec::Expected;
use crate::options::DeleteOptions;
use crate::reader::KindRef;
use crate::response::Answer;
use crate::subresources::{admit, created, decode_as, set_condition};
use crate::{Body, pipeline, status};
use api::k8s::api::policy::v1::{Eviction, PodDisruptionBudget};
use api::prelude::{MetaExt, Pod};
use api::status::StatusCause;
use api::{AnyObject, Codec, Status, Time};
use jiff::Timestamp;
use machinery::selector::LabelSelector;

/// More pods than this are not kept in a budget's `disruptedPods`.
const MAX_DISRUPTED: usize = 2000;
/// How often a delete that raced with a change of the pod starts over.
const ATTEMPTS: usize = 20;

/// POST to `pods/eviction`.
pub(crate) async fn answer(server: &ApiServer, call: &Call, kind: &KindRef, body: Body) -> Result<Answer, Status> {
    let expected = Expected { group: "policy", version: "v1", kind: "Eviction" };
    let (eviction, options) = decode_as::<Eviction>(call, body, expected).await?;
    if eviction.name() != call.info.name {
        return Err(status::bad_request("name in URL does not match name in Eviction object"));
    }
    let eviction = admit(server, call, kind, &options, eviction).await?;
    let bytes = eviction.delete_options.as_ref().map(Codec::encode).unwrap_or_default();
    let mut delete = DeleteOptions::parse(&call.query, &bytes)?;
    delete.dry_run |= options.dry_run;
    for _ in 0..ATTEMPTS {
        let found = server.reader().get::<Pod>(&call.info.namespace, &call.info.name).await?;
        let pod = found.ok_or_else(|| status::not_found(kind.info(), &call.info.name))?;
        // What is another pod now, or was changed, stays so.
        crate::delete_plan::check_preconditions(pod.meta(), kind.info(), &delete)?;
        match evict_once(server, call, kind, &pod, &delete).await {
            Err(refused) if refused.reason == "Conflict" && delete.resource_version.is_none() => {}
            Err(refused) => return Err(refused),
            Ok(()) => return Ok(created()),
        }
    }
    Err(status::timeout(format!("couldn't evict pod {:?} due to conflicts", call.info.name), 10))
}

async fn evict_once(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    pod: &Pod,
    asked: &DeleteOptions,
) -> Result<(), Status> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let budgets: Vec<PodDisruptionBudget> = server.reader().list(namespace).await?;
    let verdict = decide(pod, &budgets)?;
    let mut delete = asked.clone();
    match &verdict {
        Verdict::Ignore { fixed } => {
            if *fixed && delete.resource_version.is_none() {
                delete.resource_version = pod.metadata.resource_version.clone();
            }
        }
        Verdict::Free => {}
        Verdict::Unhealthy => delete.resource_version = pod.metadata.resource_version.clone(),
        Verdict::Spend(budget) => spend(server, namespace, budget, name, delete.dry_run).await?,
    }
    let deleted = mark_and_delete(server, call, kind, pod, delete).await;
    match (deleted, verdict) {
        // The pod became healthy in between; the client asks again.
        (Err(conflict), Verdict::Unhealthy) if conflict.reason == "Conflict" && asked.resource_version.is_none() => {
            Err(still_processed(""))
        }
        (result, _) => result,
    }
}

/// What the budgets say about one pod.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// The pod runs nothing: no budget counts it. `fixed`: only in the state that was seen.
    Ignore { fixed: bool },
    /// No budget covers it.
    Free,
    /// It is not ready and does not count.
    Unhealthy,
    /// One disruption of this budget.
    Spend(String),
}

fn decide(pod: &Pod, budgets: &[PodDisruptionBudget]) -> Result<Verdict, Status> {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
    let over = matches!(phase, "Succeeded" | "Failed") || pod.is_deleting();
    if over || phase == "Pending" {
        return Ok(Verdict::Ignore { fixed: !over });
    }
    let mut covering = Vec::new();
    for budget in budgets {
        let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
        let selector = LabelSelector::from_api(selector).map_err(status::internal)?;
        if selector.matches(&pod.metadata.labels) {
            covering.push(budget);
        }
    }
    let budget = match covering.as_slice() {
        [] => return Ok(Verdict::Free),
        [one] => *one,
        _ => {
            let text =
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
            return Err(Status::failure(500, "", text));
        }
    };
    if !is_ready(pod) {
        let always =
            budget.spec.as_ref().and_then(|s| s.unhealthy_pod_eviction_policy.as_deref()) == Some("AlwaysAllow");
        let state = budget.status.clone().unwrap_or_default();
        let desired = state.desired_healthy.unwrap_or(0);
        let healthy_enough = state.current_healthy.unwrap_or(0) >= desired && desired > 0;
        if always || healthy_enough {
            return Ok(Verdict::Unhealthy);
        }
    }
    Ok(Verdict::Spend(budget.name().to_owned()))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// `checkAndDecrement`, on the newest state of the budget.
async fn spend(server: &ApiServer, namespace: &str, budget: &str, pod: &str, dry_run: bool) -> Result<(), Status> {
    let kind = server.find_kind("policy", "v1", "poddisruptionbudgets").ok_or_else(status::no_such_path)?;
    let now = crate::delete_plan::truncate(server.clock_now());
    let change = |object: &mut dyn AnyObject| match api::any::downcast_mut::<PodDisruptionBudget>(object) {
        Some(budget) => decrement(budget, pod, now),
        None => Err(status::internal("not a disruption budget")),
    };
    server.rewrite(&kind, namespace, budget, dry_run, &change).await?;
    Ok(())
}

fn decrement(budget: &mut PodDisruptionBudget, pod: &str, now: Timestamp) -> Result<(), Status> {
    let name = budget.name().to_owned();
    let generation = budget.metadata.generation.unwrap_or(0);
    let state = budget.status.get_or_insert_default();
    if state.observed_generation.unwrap_or(0) < generation {
        return Err(still_processed(&name));
    }
    let forbid = |why: &str| Err(status::forbidden("policy", "poddisruptionbudget", &name, why));
    let allowed = state.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return forbid("pdb disruptions allowed is negative");
    }
    if state.disrupted_pods.as_ref().is_some_and(|p| p.len() > MAX_DISRUPTED) {
        return forbid("DisruptedPods map too big - too many evictions not confirmed by PDB controller");
    }
    let (healthy, desired) = (state.current_healthy.unwrap_or(0), state.desired_healthy.unwrap_or(0));
    if allowed == 0 {
        let condition = state.conditions.iter().flatten().find(|c| c.type_ == "DisruptionAllowed");
        let told = condition.filter(|c| c.status == "False" && !c.message.is_empty());
        let text = match told {
            Some(c) if c.reason == "SyncFailed" => format!(
                "The disruption budget {name} does not allow evicting pods currently because it failed sync: {}",
                c.message
            ),
            _ if healthy <= desired => {
                format!("The disruption budget {name} needs {desired} healthy pods and has {healthy} currently")
            }
            Some(c) => format!(
                "The disruption budget {name} does not allow evicting pods currently ({}): {}",
                c.reason, c.message
            ),
            None => format!("The disruption budget {name} does not allow evicting pods currently"),
        };
        return Err(too_many(0, text));
    }
    state.disruptions_allowed = Some(allowed - 1);
    state.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), Time(now));
    Ok(())
}

fn too_many(retry_after_seconds: i32, cause: String) -> Status {
    let text = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut refused = status::too_many_requests(text, retry_after_seconds);
    if let Some(details) = &mut refused.details {
        let reason = "DisruptionBudget".into();
        details.causes.push(StatusCause { reason, message: cause, ..StatusCause::default() });
    }
    refused
}

fn still_processed(budget: &str) -> Status {
    too_many(10, format!("The disruption budget {budget} is still being processed by the server."))
}

/// Tells in the pod's status why it goes, then deletes it.
async fn mark_and_delete(
    server: &ApiServer,
    call: &Call,
    kind: &KindRef,
    pod: &Pod,
    mut delete: DeleteOptions,
) -> Result<(), Status> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    if !delete.dry_run {
        let now = crate::delete_plan::truncate(server.clock_now());
        let wanted = delete.clone();
        let change = |object: &mut dyn AnyObject| {
            crate::delete_plan::check_preconditions(object.meta(), kind.info(), &wanted)?;
            if let Some(pod) = api::any::downcast_mut::<Pod>(object) {
                set_condition(pod, "DisruptionTarget", Some(("EvictionByEvictionAPI", "Eviction API: evicting")), now);
            }
            Ok(())
        };
        let stored = server.rewrite(kind, namespace, pod.name(), false, &change).await?;
        if delete.resource_version.is_some() {
            delete.resource_version = Some(stored.revision().0.to_string());
        }
    }
    pipeline::delete_in(server, call, kind, namespace, name, &delete).await?;
    Ok(())
}
