//! ValidatingAdmissionWebhook: hooks that judge objects, all at the same time
//! (`apiserver/pkg/admission/plugin/webhook/validating/dispatcher.go`).

use super::configured::Configured;
use super::matching::is_exempt;
use super::review::{is_same, objects_of};
use super::webhook::{Failure, Hook};
use super::{Admission, Operation, Request};
use crate::metrics::Phase;
use crate::reader::KindRef;
use api::Status;
use api::k8s::api::admissionregistration::v1::ValidatingWebhookConfiguration;
use async_trait::async_trait;
use base::Random;
use machinery::kinds::KindInfo;
use serde_json::Value;
use std::sync::Arc;
use tokio::time::Instant;

/// See the file's head.
pub struct ValidatingWebhooks {
    hooks: Configured<ValidatingWebhookConfiguration, Vec<Hook>>,
    random: Arc<dyn Random>,
}

impl ValidatingWebhooks {
    /// `random` makes the UIDs of reviews.
    pub fn new(random: Arc<dyn Random>) -> Self {
        ValidatingWebhooks { hooks: Configured::new(hooks_of), random }
    }
}

fn hooks_of(configuration: ValidatingWebhookConfiguration) -> Vec<Hook> {
    let name = configuration.metadata.name.unwrap_or_default();
    let hooks = configuration.webhooks.unwrap_or_default();
    hooks.iter().enumerate().map(|(i, hook)| Hook::validating(&name, i, hook)).collect()
}

#[async_trait]
impl Admission for ValidatingWebhooks {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _: Operation, kind: &KindInfo, _: &str) -> bool {
        !is_exempt(kind)
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        let configurations = self.hooks.all(request).await?;
        let mut wanting: Vec<(&Hook, KindRef)> = Vec::new();
        for hook in configurations.iter().flat_map(|hooks| hooks.iter()) {
            if let Some(kind) = hook.wants(request).await? {
                wanting.push((hook, kind));
            }
        }
        // Every version of the objects is made once.
        let mut versions: Vec<(KindRef, (Value, Value))> = Vec::new();
        for (_, kind) in &wanting {
            if !versions.iter().any(|(known, _)| is_same(known, kind)) {
                versions.push((kind.clone(), objects_of(request, kind).await?));
            }
        }
        let calls = wanting.iter().enumerate().filter_map(|(i, (hook, kind))| {
            let (_, (object, old)) = versions.iter().find(|(known, _)| is_same(known, kind))?;
            Some(self.ask(i, hook, request, kind, (object, old)))
        });
        let begun = Instant::now();
        let results: Vec<Result<(), Status>> = futures_util::future::join_all(calls).await;
        request.remarks.waited(begun.elapsed());
        results.into_iter().collect()
    }
}

impl ValidatingWebhooks {
    async fn ask(
        &self,
        i: usize,
        hook: &Hook,
        request: &Request<'_>,
        kind: &KindRef,
        objects: (&Value, &Value),
    ) -> Result<(), Status> {
        let begun = Instant::now();
        let result = hook.call(request, kind, objects, &self.random.uuid(), false).await;
        hook.count(request, Phase::Validate, begun, &result);
        match result {
            Ok(answer) => {
                answer.remark(hook, request);
                Ok(())
            }
            Err(Failure::Calling(why)) if hook.ignores_failures => {
                tracing::warn!(webhook = %hook.name, %why, "failed calling webhook, failing open");
                request.cluster.metrics().failed_open(&hook.name, Phase::Validate);
                let key = format!("round_0_index_{i}");
                request.remarks.annotate("failed-open.validating.webhook.admission.k8s.io/", &key, &hook.name);
                Ok(())
            }
            Err(Failure::Calling(why)) => Err(hook.failed(&why)),
            Err(Failure::Refused(status) | Failure::Unusable(status)) => Err(*status),
        }
    }
}
