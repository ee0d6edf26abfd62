//! Rounds of a Deployment as text: what it sees in, what it plans out.

use super::*;
use crate::testing::{at, object};
use expect_test::{Expect, expect};

/// A Recreate Deployment of 2 whose template changed from `app:0` (one ReplicaSet: pods wanted, pods not yet ended).
fn check_recreate(wanted: i64, running: usize, expected: Expect) {
    check_recreate_of(2, &[("old", wanted, running)], expected);
}

/// The same of another size, with some ReplicaSets.
fn check_recreate_of(replicas: i64, sets: &[(&str, i64, usize)], expected: Expect) {
    let template = |image: &str| json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "app", "image": image}]}});
    let selector = json!({"matchLabels": {"app": "web"}});
    let d = object::<Deployment>(json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 2},
        "spec": {"replicas": replicas, "selector": selector, "strategy": {"type": "Recreate"}, "template": template("app:1")},
    }));
    let owner = serde_json::to_value(pods::controller_ref(d.as_ref())).expect("an owner");
    let set = |name: &str, wanted: i64| {
        object::<ReplicaSet>(json!({
            "metadata": {"name": format!("web-{name}"), "namespace": "ns", "uid": name, "labels": {"app": "web"},
                "annotations": {REVISION: "1", DESIRED: "2", MAX: "2"}, "ownerReferences": [owner]},
            "spec": {"replicas": wanted, "selector": selector, "template": template(&format!("app:0-{name}"))},
        }))
    };
    let view = View {
        d,
        sets: sets.iter().map(|(name, wanted, _)| set(name, *wanted)).collect(),
        running: sets.iter().map(|(name, _, running)| ((*name).to_owned(), *running)).collect(),
    };
    let plan = Deployments::plan(&view, at(0));
    // The new one's name ends with a hash.
    let texts = plan.writes.iter().map(|w| w.to_string()).filter(|w| !w.starts_with("status"));
    expected.assert_eq(
        &texts
            .map(|w| w.replace("web-old", "old").replace("web-other", "other"))
            .map(|w| w.split("web-").next().unwrap_or_default().to_owned())
            .collect::<Vec<_>>()
            .join("; "),
    );
}

#[test]
fn recreate_makes_the_new_replica_set_when_the_old_pods_are_gone() {
    check_recreate(2, 2, expect![[r#"update ReplicaSet ns/old"#]]);
    check_recreate(0, 1, expect![[r#""#]]);
    check_recreate(0, 0, expect![[r#"create ReplicaSet ns/"#]]);
}

#[test]
fn what_became_recreate_while_its_size_changed_goes_on() {
    let both = [("old", 1, 1), ("other", 2, 2)];
    check_recreate_of(3, &both, expect![[r#"update ReplicaSet ns/old; update ReplicaSet ns/other"#]]);
}
