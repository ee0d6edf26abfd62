//! DefaultTolerationSeconds (`plugin/pkg/admission/defaulttolerationseconds/admission.go`): a pod stays five minutes on a node
//! that is not ready or unreachable, unless it says otherwise.

use super::{Admission, Operation, Request};
use api::Status;
use api::k8s::api::core::v1::Toleration;
use api::prelude::Pod;
use async_trait::async_trait;
use machinery::kinds::KindInfo;

const SECONDS: i64 = 300;
const TAINTS: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// See the file's head.
pub struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && kind.group.is_empty()
            && kind.kind == "Pod"
            && subresource.is_empty()
    }

    async fn mutate(&self, request: &mut Request<'_>) -> Result<(), Status> {
        if let Some(pod) = request.object_as_mut::<Pod>() {
            let tolerations = pod.spec.get_or_insert_default().tolerations.get_or_insert_default();
            let missing: Vec<Toleration> = TAINTS
                .iter()
                .filter(|taint| !tolerations.iter().any(|t| tolerates(t, taint)))
                .map(|t| toleration(t))
                .collect();
            tolerations.extend(missing);
        }
        Ok(())
    }
}

fn tolerates(toleration: &Toleration, taint: &str) -> bool {
    let key = toleration.key.as_deref().unwrap_or_default();
    let effect = toleration.effect.as_deref().unwrap_or_default();
    (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
}

fn toleration(taint: &str) -> Toleration {
    Toleration {
        key: Some(taint.to_owned()),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        toleration_seconds: Some(SECONDS),
        value: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_open_toleration_covers_both_taints() {
        let all = Toleration { operator: Some("Exists".into()), ..Toleration::default() };
        assert!(TAINTS.iter().all(|t| tolerates(&all, t)));
        let schedule_only = Toleration { effect: Some("NoSchedule".into()), ..all };
        assert!(!tolerates(&schedule_only, TAINTS[0]));
        assert!(tolerates(&toleration(TAINTS[1]), TAINTS[1]));
        assert!(!tolerates(&toleration(TAINTS[1]), TAINTS[0]));
    }
}
