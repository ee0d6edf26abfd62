//! Versions and groups in order.
use super::*;

#[test]
fn versions_in_kubernetes_order() {
    let mut all = ["foo1", "v1alpha2", "v11beta2", "v1", "v10", "v2", "v3beta1", "foo10", "v12alpha1"];
    all.sort_by_key(|v| Reverse(version_rank(v)));
    assert_eq!(all, ["v10", "v2", "v1", "v11beta2", "v3beta1", "v12alpha1", "v1alpha2", "foo1", "foo10"]);
}

#[test]
fn groups_by_priority_then_name() {
    let local = [
        ("batch", "v1"),
        ("apps", "v1"),
        ("z.io", "v1"),
        ("a.io", "v1"),
        ("autoscaling", "v1"),
        ("autoscaling", "v2"),
        ("", "v1"),
    ];
    let groups = Aggregation::default().groups(local.into_iter());
    let names: Vec<String> = groups
        .iter()
        .map(|(g, v)| format!("{g} {}", v.iter().map(|v| v.version.as_str()).collect::<Vec<_>>().join(",")))
        .collect();
    assert_eq!(names, ["apps v1", "autoscaling v2,v1", "batch v1", "a.io v1", "z.io v1"]);
}
