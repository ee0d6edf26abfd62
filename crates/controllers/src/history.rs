//! ControllerRevisions: the templates that a DaemonSet or StatefulSet had (`pkg/controller/history/controller_history.go`). Pure.
//!
//! `kubectl rollout undo` applies `data` as a patch, so it must be `{"spec":{"template":{…,"$patch":"replace"}}}`.

use crate::deployment::template_hash;
use crate::plan::Write;
use crate::pods;
use api::Codec;
use api::k8s::apimachinery::pkg::runtime::RawExtension;
use api::prelude::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Label of pods: which revision they are of.
pub(crate) const HASH_LABEL: &str = "controller-revision-hash";

/// The revisions of an owner, told apart.
pub(crate) struct History {
    /// With the template that is wanted now.
    pub(crate) current: Arc<ControllerRevision>,
    /// All others, by number.
    pub(crate) old: Vec<Arc<ControllerRevision>>,
}

/// What is to be done before there is a history with a current revision.
pub(crate) enum Step {
    /// Nothing.
    Ready(History),
    /// This write; then look again.
    First(Box<Write>),
    /// The name is taken by another template: count the collision in the status; then look again.
    Collision,
}

/// Finds the revision with the wanted template, gives it the highest number, or makes it (`getStatefulSetRevisions`,
/// `constructHistory`). `hash_label` is the label by which the owner's kind marks its revisions.
pub(crate) fn step<K: Object>(
    owner: &K,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
    hash_label: &str,
    known: &[Arc<ControllerRevision>],
) -> Step {
    let wanted = data(template);
    let mut all: Vec<&Arc<ControllerRevision>> = known.iter().filter(|r| r.is_controlled_by(owner.uid())).collect();
    all.sort_by(|a, b| a.revision.cmp(&b.revision).then_with(|| a.name().cmp(b.name())));
    let found = all.iter().rposition(|r| r.data.as_ref().is_some_and(|d| d.0 == wanted)).map(|at| all.remove(at));
    let next = all.last().map_or(0, |r| r.revision) + 1;
    let Some(current) = found else {
        let hash = template_hash(template, collisions);
        let name = format!("{}-{hash}", owner.name());
        if known.iter().any(|r| r.name() == name) {
            return Step::Collision;
        }
        let revision = new(owner, template, wanted, &name, hash_label, &hash, next);
        return Step::First(Box::new(Write::create(revision)));
    };
    if current.revision < next && !all.is_empty() {
        let revision = ControllerRevision { revision: next, ..current.as_ref().clone() };
        return Step::First(Box::new(Write::update(revision)));
    }
    Step::Ready(History { current: current.clone(), old: all.into_iter().cloned().collect() })
}

fn new<K: Object>(
    owner: &K,
    template: &PodTemplateSpec,
    data: Value,
    name: &str,
    hash_label: &str,
    hash: &str,
    revision: i64,
) -> ControllerRevision {
    let mut labels = template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
    labels.insert(hash_label.to_owned(), hash.to_owned());
    ControllerRevision {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: Some(owner.namespace().to_owned()),
            labels: Some(labels),
            annotations: owner.meta().annotations.clone(),
            owner_references: Some(vec![pods::controller_ref(owner)]),
            ..ObjectMeta::default()
        },
        data: Some(RawExtension(data)),
        revision,
    }
}

fn data(template: &PodTemplateSpec) -> Value {
    let mut value: Value = serde_json::from_slice(&Codec::encode(template)).unwrap_or_default();
    value["$patch"] = "replace".into();
    json!({"spec": {"template": value}})
}

/// The template that a revision keeps.
pub(crate) fn template(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let value = revision.data.as_ref()?.0.get("spec")?.get("template")?;
    PodTemplateSpec::decode(value.to_string().as_bytes()).ok()
}

/// Deletes of old revisions beyond the limit, lowest first; those in `live` (by name) stay.
pub(crate) fn clean_up(old: &[Arc<ControllerRevision>], live: &BTreeSet<String>, limit: Option<i32>) -> Vec<Write> {
    let dead: Vec<&Arc<ControllerRevision>> = old.iter().filter(|r| !live.contains(r.name())).collect();
    let keep = usize::try_from(limit.unwrap_or(10)).unwrap_or(usize::MAX);
    dead.iter().take(dead.len().saturating_sub(keep)).map(|r| Write::delete(r.as_ref())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::object;
    use expect_test::{Expect, expect};

    fn set(image: &str) -> Arc<StatefulSet> {
        object(json!({
            "metadata": {"name": "s", "namespace": "ns", "uid": "u"},
            "spec": {"selector": {}, "serviceName": "x", "template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
        }))
    }

    fn check_step(image: &str, known: &[Arc<ControllerRevision>], expected: Expect) -> Option<Arc<ControllerRevision>> {
        let owner = set(image);
        let template = owner.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
        let (text, made) = match step(owner.as_ref(), &template, None, "hash", known) {
            Step::Ready(h) => (format!("ready {} old {}", h.current.revision, h.old.len()), None),
            Step::Collision => ("collision".to_owned(), None),
            Step::First(write) => {
                let made = match &write.verb {
                    crate::plan::Verb::Create(o) | crate::plan::Verb::Update(o) => {
                        o.as_any().downcast_ref::<ControllerRevision>().cloned().map(Arc::new)
                    }
                    _ => None,
                };
                let verb = write.to_string();
                let number = made.as_ref().map_or(0, |m| m.revision);
                (format!("{} {number}", verb.split(' ').next().unwrap_or_default()), made)
            }
        };
        expected.assert_eq(&text);
        made
    }

    #[test]
    fn a_revision_is_made_once_and_comes_back_with_a_higher_number() {
        let one = check_step("a", &[], expect!["create 1"]).expect("a revision is made");
        check_step("a", std::slice::from_ref(&one), expect!["ready 1 old 0"]);
        let two = check_step("b", std::slice::from_ref(&one), expect!["create 2"]).expect("a revision is made");
        let back = check_step("a", &[one.clone(), two.clone()], expect!["update 3"]).expect("a revision is changed");
        check_step("a", &[back.clone(), two.clone()], expect!["ready 3 old 1"]);
        assert_eq!(template(&two).and_then(|t| t.spec).map(|s| s.containers[0].image.clone()), Some(Some("b".into())));
        let stranger = Arc::new(ControllerRevision { data: None, ..one.as_ref().clone() });
        check_step("a", &[stranger], expect!["collision"]);
    }
}
