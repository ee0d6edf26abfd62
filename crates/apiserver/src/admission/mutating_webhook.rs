//! MutatingAdmissionWebhook: hooks that change objects, one after the other
//! (`apiserver/pkg/admission/plugin/webhook/mutating/dispatcher.go`).

use super::configured::Configured;
use super::matching::is_exempt;
use super::review::{is_same, objects_of};
use super::webhook::{Failure, Hook};
use super::{Admission, Operation, Request};
use crate::managed::Owners;
use crate::metrics::Phase;
use crate::reader::KindRef;
use crate::status;
use api::Status;
use api::k8s::api::admissionregistration::v1::MutatingWebhookConfiguration;
use async_trait::async_trait;
use base::Random;
use machinery::kinds::KindInfo;
use machinery::patch::{Patch, PatchType};
use serde::Serialize;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;

const NAME: &str = "MutatingAdmissionWebhook";
/// What annotations of calls begin with.
const MUTATION: &str = "mutation.webhook.admission.k8s.io/";

/// See the file's head.
pub struct MutatingWebhooks {
    hooks: Configured<MutatingWebhookConfiguration, Vec<Hook>>,
    random: Arc<dyn Random>,
}

impl MutatingWebhooks {
    /// `random` makes the UIDs of reviews.
    pub fn new(random: Arc<dyn Random>) -> Self {
        MutatingWebhooks { hooks: Configured::new(hooks_of), random }
    }
}

fn hooks_of(configuration: MutatingWebhookConfiguration) -> Vec<Hook> {
    let name = configuration.metadata.name.unwrap_or_default();
    let hooks = configuration.webhooks.unwrap_or_default();
    hooks.iter().enumerate().map(|(i, hook)| Hook::mutating(&name, i, hook)).collect()
}

#[async_trait]
impl Admission for MutatingWebhooks {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, _: Operation, kind: &KindInfo, _: &str) -> bool {
        !is_exempt(kind)
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        let configurations = self.hooks.all(request).await?;
        if configurations.is_empty() {
            return Ok(());
        }
        request.reinvocation.begin(NAME, request.object.as_deref());
        for (i, hook) in configurations.iter().flat_map(|hooks| hooks.iter()).enumerate() {
            let Some(kind) = hook.wants(request).await? else { continue };
            if !request.reinvocation.may_run(NAME, &hook.id) {
                continue;
            }
            let begun = Instant::now();
            let place = format!("round_{}_index_{i}", request.reinvocation.round());
            let result = self.ask(hook, request, &kind, &place).await;
            hook.count(request, Phase::Admit, begun, &result);
            request.remarks.waited(begun.elapsed());
            let mutated = matches!(result, Ok(true));
            request.remarks.annotate(MUTATION, &place, &Mutation { mutated, ..Mutation::of(hook) }.to_json());
            if mutated {
                request.reinvocation.changed(NAME);
            }
            if hook.reinvoked {
                request.reinvocation.ran(NAME, &hook.id);
            }
            match result {
                Ok(_) => {}
                Err(Failure::Calling(why)) if hook.ignores_failures => {
                    tracing::warn!(webhook = %hook.name, %why, "failed calling webhook, failing open");
                    request.cluster.metrics().failed_open(&hook.name, Phase::Admit);
                    request.remarks.annotate(&format!("failed-open.{MUTATION}"), &place, &hook.name);
                }
                Err(Failure::Calling(why)) => return Err(hook.failed(&why)),
                Err(Failure::Refused(status) | Failure::Unusable(status)) => return Err(*status),
            }
        }
        request.reinvocation.end(NAME, request.object.as_deref());
        Ok(())
    }
}

impl MutatingWebhooks {
    /// Calls a hook and applies its patch; `true` if that changed the object.
    async fn ask(&self, hook: &Hook, request: &mut Request<'_>, kind: &KindRef, place: &str) -> Result<bool, Failure> {
        let refused = |status: Status| Failure::Unusable(Box::new(status));
        let (object, old) = objects_of(request, kind).await.map_err(refused)?;
        let answer = hook.call(request, kind, (&object, &old), &self.random.uuid(), true).await?;
        answer.remark(hook, request);
        let Some(patch) = answer.patch else { return Ok(false) };
        let (configuration, webhook, patch_type) = (&hook.configuration, &hook.name, "JSONPatch");
        let noted = serde_json::to_string(&Patched { configuration, webhook, patch: &patch, patch_type });
        let decoded = Patch::from_value(PatchType::Json, patch)
            .map_err(|error| Failure::Calling(format!("received undecodable patch in webhook response: {error}")))?;
        if request.object.is_none() {
            let why = format!(
                "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
                hook.name
            );
            return Err(refused(status::internal(why)));
        }
        let patched = decoded.apply(None, &object).map_err(|e| refused(status::internal(e)))?;
        request.remarks.annotate_body("patch.webhook.admission.k8s.io/", place, noted.unwrap_or_default());
        if patched == object {
            return Ok(false);
        }
        replace(request, kind, patched).await.map_err(refused)?;
        Ok(true)
    }
}

/// What the audit log is told of a call (`MutationAuditAnnotation`).
#[derive(Serialize)]
struct Mutation<'a> {
    configuration: &'a str,
    webhook: &'a str,
    mutated: bool,
}

impl<'a> Mutation<'a> {
    fn of(hook: &'a Hook) -> Self {
        Mutation { configuration: &hook.configuration, webhook: &hook.name, mutated: false }
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// What it is told of a patch (`PatchAuditAnnotation`).
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Patched<'a> {
    configuration: &'a str,
    webhook: &'a str,
    patch: &'a Value,
    patch_type: &'static str,
}

/// Puts a changed object, JSON of `kind`, into the request: unknown fields are dropped, defaults filled in.
pub(super) async fn replace(request: &mut Request<'_>, kind: &KindRef, changed: Value) -> Result<(), Status> {
    let changed = match is_same(request.kind, kind) {
        true => changed,
        false => request.cluster.convert(changed, kind, request.kind).await?,
    };
    let of_kind = changed["kind"] == request.info().kind.as_ref();
    let bytes = serde_json::to_vec(&changed).map_err(status::internal)?;
    if of_kind {
        let mut object = request.kind.decode(&bytes).map_err(|e| status::internal(e.source))?;
        request.kind.default(&mut *object);
        request.owners = Owners::take(object.meta_mut());
        request.object = Some(object);
        return Ok(());
    }
    if changed["kind"] == "Scale"
        && let Some(object) = request.object.as_deref()
    {
        // A Scale is another view of the object: only the replicas can have changed.
        let mut whole: Value = serde_json::from_slice(&object.encode()).map_err(status::internal)?;
        crate::scale::put_back(&changed, &mut whole, request.kind);
        let object = request.kind.decode(whole.to_string().as_bytes()).map_err(|e| status::internal(e.source))?;
        request.object = Some(object);
        return Ok(());
    }
    // The body of a subresource of another kind (a binding, an eviction).
    let body = request.object.as_deref().map(|body| super::redecode(body, &bytes));
    match body {
        Some(Ok(Some(body))) => request.object = Some(body),
        Some(Err(error)) => return Err(status::internal(error.source)),
        _ => return Err(status::unsupported(&format!("changing the body of {}", request.subresource))),
    }
    Ok(())
}
