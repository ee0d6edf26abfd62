//! The served GA resources of Kubernetes 1.36, loaded once from `data/kinds.tsv` (made by `cargo xtask codegen`).
//!
//! Invariant: facts of discovery only, in upstream's order of preference; what a kind *does* is in its own file.

use super::{KindInfo, Subresource};
use std::borrow::Cow;
use std::sync::LazyLock;

/// Resources of two groups that are one object (`pkg/kubeapiserver/default_storage_factory_builder.go`,
/// `AddCohabitatingResources`): served name, stored name. Several versions of one group share storage anyway.
const COHABITING: &[(&str, &str)] = &[("events.k8s.io/events", "events")];

const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

static KINDS: LazyLock<Vec<KindInfo>> = LazyLock::new(|| parse(include_str!("../../data/kinds.tsv")));

/// Every served GA resource, core first, then in discovery's order of groups and versions.
pub fn all() -> &'static [KindInfo] {
    &KINDS
}

/// The resource whose objects are of this kind.
pub fn info(group: &str, version: &str, kind: &str) -> Option<KindInfo> {
    all().iter().find(|k| k.kind == kind && k.version == version && k.group == group).cloned()
}

/// The resource with this plural name.
pub fn resource(group: &str, version: &str, plural: &str) -> Option<&'static KindInfo> {
    all().iter().find(|k| k.plural == plural && k.version == version && k.group == group)
}

fn parse(table: &'static str) -> Vec<KindInfo> {
    let mut kinds: Vec<KindInfo> = Vec::new();
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        let mut columns = line.split('\t');
        let mut next = || columns.next().expect("the committed table has all its columns");
        if next() == "r" {
            let (group, version, kind, plural, singular) = (next(), next(), next(), next(), next());
            kinds.push(KindInfo {
                group: group.into(),
                version: version.into(),
                kind: kind.into(),
                list_kind: format!("{kind}List").into(),
                plural: plural.into(),
                singular: singular.into(),
                namespaced: next() == "N",
                verbs: verbs(next()),
                short_names: words(next()),
                categories: words(next()),
                storage: storage(group, plural),
                subresources: Vec::new(),
            });
        } else {
            let (name, group, version, kind) = (next(), next(), next(), next());
            let parent = kinds.last_mut().expect("a subresource follows its resource");
            parent.subresources.push(Subresource {
                name: name.into(),
                kind: kind.into(),
                group: group.into(),
                version: version.into(),
                verbs: verbs(next()),
            });
        }
    }
    kinds
}

fn storage(group: &str, plural: &'static str) -> Cow<'static, str> {
    if group.is_empty() {
        return plural.into();
    }
    let served = format!("{group}/{plural}");
    match COHABITING.iter().find(|(name, _)| *name == served) {
        Some((_, stored)) => Cow::Borrowed(stored),
        None => served.into(),
    }
}

fn verbs(text: &'static str) -> Vec<Cow<'static, str>> {
    if text == "*" { VERBS.iter().map(|v| Cow::Borrowed(*v)).collect() } else { words(text) }
}

fn words(text: &'static str) -> Vec<Cow<'static, str>> {
    text.split(',').filter(|w| !w.is_empty()).map(Cow::Borrowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(group: &str, version: &str, kind: &str, expected: Expect) {
        let k = info(group, version, kind).expect("the kind is served");
        let mut text = format!(
            "{} {} {} short={} categories={} namespaced={} storage={}\n{}\n",
            k.api_version(),
            k.kind,
            k.group_resource(),
            k.short_names.join(","),
            k.categories.join(","),
            k.namespaced,
            k.storage,
            k.verbs.join(" ")
        );
        for s in &k.subresources {
            text.push_str(&format!("/{} {} {}/{} {}\n", s.name, s.kind, s.group, s.version, s.verbs.join(" ")));
        }
        expected.assert_eq(&text);
    }

    #[test]
    fn a_deployment_is_as_discovery_says() {
        check(
            "apps",
            "v1",
            "Deployment",
            expect![[r#"
                apps/v1 Deployment deployments.apps short=deploy categories=all namespaced=true storage=apps/deployments
                create delete deletecollection get list patch update watch
                /scale Scale autoscaling/v1 get patch update
                /status Deployment / get patch update
            "#]],
        );
    }

    #[test]
    fn events_of_both_groups_are_one_object() {
        assert_eq!(info("", "v1", "Event").expect("served").storage, "events");
        assert_eq!(info("events.k8s.io", "v1", "Event").expect("served").storage, "events");
        let hpa = |v| info("autoscaling", v, "HorizontalPodAutoscaler").expect("served").storage;
        assert_eq!(hpa("v1"), hpa("v2"));
    }

    #[test]
    fn names_are_unique_and_only_ga_is_served() {
        let mut seen = std::collections::HashSet::new();
        for k in all() {
            assert!(seen.insert((k.api_version(), k.plural.clone())), "{} {}", k.api_version(), k.plural);
            assert!(k.version[1..].bytes().all(|b| b.is_ascii_digit()), "{}", k.version);
            assert!(k.subresources.is_sorted_by(|a, b| a.name < b.name));
            assert!(k.verbs.is_sorted());
        }
        assert!(all().len() > 60, "{}", all().len());
    }
}
