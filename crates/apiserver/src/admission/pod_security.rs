//! PodSecurity (`k8s.io/pod-security-admission/admission/admission.go`): pods must keep to the level that their namespace's
//! labels set; workloads that make such pods are warned of it.

mod checks;

use super::{Admission, Operation, Request};
use crate::status;
use api::prelude::*;
use api::{ObjectMeta, Status};
use async_trait::async_trait;
use checks::{Level, LevelVersion, Version};
use machinery::field::{Errors, FieldError, Path};
use machinery::kinds::KindInfo;
use std::collections::{BTreeMap, BTreeSet};

const PREFIX: &str = "pod-security.kubernetes.io/";
/// Of a namespace whose level gets stricter, no more pods are looked at (`defaultNamespaceMaxPodsToCheck`).
const MAX_PODS: usize = 3000;
/// Versions of policies after this one do not exist yet.
const MINOR: u32 = 36;
/// Parts of pods that say nothing about security (`ignoredPodSubresources`).
const IGNORED: [&str; 8] = ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];

/// Who and what is not looked at.
#[derive(Debug, Clone, Default)]
pub struct Exemptions {
    /// Users by name.
    pub usernames: Vec<String>,
    /// Namespaces.
    pub namespaces: Vec<String>,
    /// RuntimeClasses.
    pub runtime_classes: Vec<String>,
}

/// See the file's head.
#[derive(Debug, Default)]
pub struct PodSecurity {
    /// Who and what is not looked at.
    exemptions: Exemptions,
    /// What holds where labels say nothing.
    defaults: Policy,
}

impl PodSecurity {
    /// With `defaults` where labels say nothing.
    pub(super) fn new(defaults: Policy, exemptions: Exemptions) -> Self {
        PodSecurity { exemptions, defaults }
    }
}

/// What is wrong with a level and a version.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wrong {
    Level,
    Version,
}

impl Wrong {
    pub(super) fn detail(self) -> &'static str {
        match self {
            Wrong::Level => "must be one of privileged, baseline, restricted",
            Wrong::Version => "must be \"latest\" or \"v1.x\"",
        }
    }
}

/// A level as of a version, from text; empty means the default.
pub(super) fn mode(level: &str, version: &str) -> Result<LevelVersion, Wrong> {
    let level = if level.is_empty() { Some(Level::default()) } else { Level::parse(level) };
    let version = if version.is_empty() { Some(Version::default()) } else { Version::parse(version) };
    Ok(LevelVersion { level: level.ok_or(Wrong::Level)?, version: version.ok_or(Wrong::Version)? })
}

#[async_trait]
impl Admission for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn handles(&self, operation: Operation, kind: &KindInfo, subresource: &str) -> bool {
        if !matches!(operation, Operation::Create | Operation::Update) {
            return false;
        }
        match (&*kind.group, &*kind.plural) {
            ("", "pods") => !IGNORED.contains(&subresource),
            ("", "namespaces" | "replicationcontrollers" | "podtemplates")
            | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
            | ("batch", "jobs" | "cronjobs") => subresource.is_empty(),
            _ => false,
        }
    }

    async fn validate(&self, request: &Request<'_>) -> Result<(), Status> {
        if request.is::<Namespace>() {
            return self.check_namespace(request).await;
        }
        let exempt = |list: &[String], name: &str| !name.is_empty() && list.iter().any(|e| e == name);
        if exempt(&self.exemptions.namespaces, request.namespace) {
            exempt_by(request, "namespace");
            return Ok(());
        }
        if exempt(&self.exemptions.usernames, &request.user.name) {
            exempt_by(request, "user");
            return Ok(());
        }
        let Some(namespace) = request.reader().shared::<Namespace>("", request.namespace).await? else {
            return match request.is::<Pod>() {
                true => Err(status::internal(format!("failed to lookup namespace {:?}", request.namespace))),
                false => Ok(()),
            };
        };
        let (policy, errors) = self.policy(&namespace);
        let pods = request.is::<Pod>();
        let lax = |mode: &LevelVersion| mode.level == Level::Privileged;
        if errors.is_empty() && lax(&policy.audit) && lax(&policy.warn) && (!pods || lax(&policy.enforce)) {
            if pods {
                request.remarks.annotate(PREFIX, "enforce-policy", "privileged:latest");
            }
            count(request, true, &policy.enforce, "enforce");
            return Ok(());
        }
        if let (Some(new), Some(old)) = (request.object_as::<Pod>(), request.old_object_as::<Pod>())
            && !is_significant(new, old)
        {
            return Ok(());
        }
        let Some((meta, spec)) = template(request) else { return Ok(()) };
        if exempt(&self.exemptions.runtime_classes, spec.runtime_class_name.as_deref().unwrap_or_default()) {
            exempt_by(request, "runtimeClass");
            return Ok(());
        }
        if !errors.is_empty() {
            let text = format!("Failed to parse policy: {}", machinery::field::aggregate(&errors));
            request.remarks.annotate(PREFIX, "error", &text);
        }
        evaluate(request, &policy, &meta, &spec, pods)
    }
}

/// `EvaluatePod`
fn evaluate(
    request: &Request<'_>,
    policy: &Policy,
    meta: &ObjectMeta,
    spec: &PodSpec,
    enforce: bool,
) -> Result<(), Status> {
    let violations = |mode: &LevelVersion| checks::violations(mode, meta, spec);
    let refused = enforce.then(|| violations(&policy.enforce)).filter(|v| !v.is_empty());
    if enforce {
        request.remarks.annotate(PREFIX, "enforce-policy", &policy.enforce.to_string());
        count(request, refused.is_none(), &policy.enforce, "enforce");
    }
    let noted = violations(&policy.audit);
    if !noted.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.audit, noted.details());
        request.remarks.annotate(PREFIX, "audit-violations", &text);
        count(request, false, &policy.audit, "audit");
    }
    if let Some(refused) = refused {
        let why = format!("violates PodSecurity \"{}\": {}", policy.enforce, refused.details());
        let info = request.info();
        return Err(status::forbidden(&info.group, &info.plural, request.name, &why));
    }
    let warned = violations(&policy.warn);
    if !warned.is_empty() {
        let text = format!("would violate PodSecurity \"{}\": {}", policy.warn, warned.details());
        request.remarks.add([text]);
        count(request, false, &policy.warn, "warn");
    }
    Ok(())
}

fn exempt_by(request: &Request<'_>, what: &str) {
    request.remarks.annotate(PREFIX, "exempt", what);
    request.cluster.metrics().pod_security.exempted(request);
}

fn count(request: &Request<'_>, allowed: bool, by: &LevelVersion, mode: &str) {
    let version = match by.version {
        Version::Minor(minor) if by.level != Level::Privileged => match minor > MINOR {
            true => "future".to_owned(),
            false => format!("v1.{minor}"),
        },
        // Privileged is the same in all versions.
        _ => "latest".to_owned(),
    };
    request.cluster.metrics().pod_security.evaluated(request, allowed, (by.level.as_str(), &version), mode);
}

/// The pod, or the one that a workload makes.
fn template(request: &Request<'_>) -> Option<(ObjectMeta, PodSpec)> {
    use api::k8s::api::core::v1::PodTemplate;
    let of = |t: &PodTemplateSpec| Some((t.metadata.clone().unwrap_or_default(), t.spec.clone()?));
    if let Some(pod) = request.object_as::<Pod>() {
        return Some((pod.metadata.clone(), pod.spec.clone().unwrap_or_default()));
    }
    let template = match &*request.info().kind {
        "PodTemplate" => request.object_as::<PodTemplate>()?.template.as_ref(),
        "ReplicationController" => request.object_as::<ReplicationController>()?.spec.as_ref()?.template.as_ref(),
        "ReplicaSet" => request.object_as::<ReplicaSet>()?.spec.as_ref()?.template.as_ref(),
        "Deployment" => Some(&request.object_as::<Deployment>()?.spec.as_ref()?.template),
        "StatefulSet" => Some(&request.object_as::<StatefulSet>()?.spec.as_ref()?.template),
        "DaemonSet" => Some(&request.object_as::<DaemonSet>()?.spec.as_ref()?.template),
        "Job" => Some(&request.object_as::<Job>()?.spec.as_ref()?.template),
        "CronJob" => {
            let job = &request.object_as::<CronJob>()?.spec.job_template;
            job.spec.as_ref().map(|s| &s.template)
        }
        _ => None,
    };
    of(template?)
}

/// Whether an update changes what is checked: containers or their images (`isSignificantPodUpdate`).
fn is_significant(new: &Pod, old: &Pod) -> bool {
    let images = |pod: &Pod| {
        let spec = pod.spec.clone().unwrap_or_default();
        let list = |l: Vec<api::k8s::api::core::v1::Container>| l.into_iter().map(|c| c.image).collect::<Vec<_>>();
        (list(spec.containers), list(spec.init_containers.unwrap_or_default()))
    };
    let extra = |pod: &Pod| -> BTreeMap<String, Option<String>> {
        let list = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone()).unwrap_or_default();
        list.into_iter().map(|c| (c.name, c.image)).collect()
    };
    let before = extra(old);
    images(new) != images(old) || extra(new).iter().any(|(name, image)| before.get(name) != Some(image))
}

// === namespaces ===

impl PodSecurity {
    fn policy(&self, namespace: &Namespace) -> (Policy, Errors) {
        Policy::of(namespace.metadata.labels.as_ref().unwrap_or(&BTreeMap::new()), &self.defaults)
    }

    /// `ValidateNamespace`
    async fn check_namespace(&self, request: &Request<'_>) -> Result<(), Status> {
        let Some(new) = request.object_as::<Namespace>() else { return Ok(()) };
        let (policy, errors) = self.policy(new);
        let old = request.old_object_as::<Namespace>().map(|old| self.policy(old));
        let known = old.as_ref().is_some_and(|(_, before)| *before == errors);
        if !errors.is_empty() && !known {
            return Err(status::invalid("", "Namespace", request.name, &errors));
        }
        let exempt = self.exemptions.namespaces.iter().any(|n| n == new.name());
        let stricter = match &old {
            None => exempt,
            Some((old, _)) => {
                let (new, old) = (&policy.enforce, &old.enforce);
                new != old && new.level != Level::Privileged && (new.version != old.version || new.level > old.level)
            }
        };
        if !stricter {
            return Ok(());
        }
        if exempt {
            request.remarks.add(self.exempt_warning(new, &policy));
            return Ok(());
        }
        let pods = request.reader().list::<Pod>(new.name()).await?;
        request.remarks.add(self.warnings(new.name(), &policy.enforce, pods));
        Ok(())
    }

    fn exempt_warning(&self, namespace: &Namespace, policy: &Policy) -> Option<String> {
        let modes = [("enforce", &policy.enforce), ("audit", &policy.audit), ("warn", &policy.warn)];
        let lax = |m: &LevelVersion| m.level == Level::Privileged;
        if modes.iter().all(|(_, m)| lax(m)) || policy.is_like(&self.defaults) {
            return None;
        }
        let said = |mode: &str| {
            let labels = namespace.metadata.labels.as_ref();
            labels.is_some_and(|l| {
                l.contains_key(&format!("{PREFIX}{mode}")) || l.contains_key(&format!("{PREFIX}{mode}-version"))
            })
        };
        let texts: Vec<String> =
            modes.iter().filter(|(n, m)| !lax(m) && said(n)).map(|(n, m)| format!("{n}={m}")).collect();
        Some(format!(
            "namespace {:?} is exempt from Pod Security, and the policy ({}) will be ignored",
            namespace.name(),
            texts.join(", ")
        ))
    }

    /// What runs against a new level: several pods of one kind are told of once (`EvaluatePodsInNamespace`).
    fn warnings(&self, namespace: &str, enforce: &LevelVersion, mut pods: Vec<Pod>) -> Vec<String> {
        let class = |p: &Pod| p.spec.as_ref().and_then(|s| s.runtime_class_name.clone()).unwrap_or_default();
        pods.retain(|p| !self.exemptions.runtime_classes.contains(&class(p)));
        // One of each controller first.
        let mut seen = BTreeSet::new();
        let (first, more): (Vec<Pod>, Vec<Pod>) =
            pods.into_iter().partition(|p| p.controller().is_none_or(|c| seen.insert(c.uid.clone())));
        let all: Vec<Pod> = first.into_iter().chain(more).collect();
        let mut found: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for pod in all.iter().take(MAX_PODS) {
            let violations = checks::violations(enforce, &pod.metadata, &pod.spec.clone().unwrap_or_default());
            if !violations.is_empty() {
                found.entry(violations.reasons()).or_default().push(pod.name());
            }
        }
        let mut warnings = Vec::new();
        if all.len() > MAX_PODS {
            warnings.push(format!(
                "new PodSecurity enforce level only checked against the first {MAX_PODS} of {} existing pods",
                all.len()
            ));
        }
        if !found.is_empty() {
            warnings.push(format!(
                "existing pods in namespace {namespace:?} violate the new PodSecurity enforce level \"{enforce}\""
            ));
        }
        let mut lines: Vec<String> = found
            .into_iter()
            .map(|(reasons, mut names)| {
                names.sort_unstable();
                match names.as_slice() {
                    [one] => format!("{one}: {reasons}"),
                    [one, _] => format!("{one} (and 1 other pod): {reasons}"),
                    many => format!("{} (and {} other pods): {reasons}", many[0], many.len() - 1),
                }
            })
            .collect();
        lines.sort();
        warnings.extend(lines);
        warnings
    }
}

// === policies ===

/// What a namespace enforces, notes and warns of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: LevelVersion,
    pub(super) audit: LevelVersion,
    pub(super) warn: LevelVersion,
}

impl Policy {
    /// From labels. Wrong ones are told, and mean the strictest for enforcing and nothing for the rest
    /// (`PolicyToEvaluate`).
    fn of(labels: &BTreeMap<String, String>, defaults: &Policy) -> (Policy, Errors) {
        let mut policy = defaults.clone();
        let mut errors = Errors::new();
        let path = |label: &str| Path::new("metadata").child("labels").key(&format!("{PREFIX}{label}"));
        let label = |name: &str| {
            let named = labels.iter().find(|(key, _)| key.strip_prefix(PREFIX) == Some(name));
            named.map(|(_, text)| text)
        };
        let mut enforced = false;
        for (name, mode) in [("enforce", &mut policy.enforce), ("audit", &mut policy.audit), ("warn", &mut policy.warn)]
        {
            if let Some(text) = label(name) {
                let level = Level::parse(text);
                enforced |= name == "enforce" && level.is_some();
                mode.level = level.unwrap_or_else(|| {
                    errors.push(FieldError::invalid(&path(name), text.as_str(), Wrong::Level.detail()));
                    if name == "enforce" { Level::Restricted } else { Level::Privileged }
                });
            }
            let name = format!("{name}-version");
            if let Some(text) = label(&name) {
                mode.version = Version::parse(text).unwrap_or_else(|| {
                    errors.push(FieldError::invalid(&path(&name), text.as_str(), Wrong::Version.detail()));
                    Version::Latest
                });
            }
        }
        // Whoever says only what is enforced is warned of it, too.
        if label("warn").is_none() && enforced && policy.enforce.level > policy.warn.level {
            policy.warn.level = policy.enforce.level;
            if label("warn-version").is_none() {
                policy.warn.version = policy.enforce.version;
            }
        }
        (policy, errors)
    }

    fn is_like(&self, other: &Policy) -> bool {
        let like = |a: &LevelVersion, b: &LevelVersion| {
            a == b || (a.level == Level::Privileged && b.level == Level::Privileged)
        };
        like(&self.enforce, &other.enforce) && like(&self.audit, &other.audit) && like(&self.warn, &other.warn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::Codec;
    use expect_test::{Expect, expect};

    fn check_policy(labels: &[(&str, &str)], expected: Expect) {
        let labels = labels.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).to_owned())).collect();
        let (p, errors) = Policy::of(&labels, &Policy::default());
        let mut text = format!("enforce={} audit={} warn={}", p.enforce, p.audit, p.warn);
        errors.iter().for_each(|e| text.push_str(&format!("\n{e}")));
        expected.assert_eq(&text);
    }

    #[test]
    fn labels_to_policies() {
        check_policy(&[], expect!["enforce=privileged:latest audit=privileged:latest warn=privileged:latest"]);
        check_policy(
            &[("enforce", "baseline"), ("enforce-version", "v1.25")],
            expect!["enforce=baseline:v1.25 audit=privileged:latest warn=baseline:v1.25"],
        );
        check_policy(
            &[("enforce", "strict"), ("audit-version", "1.25"), ("warn", "restricted")],
            expect![[r#"
                enforce=restricted:latest audit=privileged:latest warn=restricted:latest
                metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "strict": must be one of privileged, baseline, restricted
                metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: "1.25": must be "latest" or "v1.x""#]],
        );
    }

    #[test]
    fn pods_that_run_already_are_told_of_together() {
        let pod = |name: &str, extra: &str| {
            let json = format!(r#"{{"metadata":{{"name":"{name}"}},"spec":{{"containers":[{{"name":"c"}}]{extra}}}}}"#);
            Pod::decode(json.as_bytes()).expect("a literal")
        };
        let host = r#","hostNetwork":true"#;
        let pods = vec![
            pod("b", host),
            pod("a", host),
            pod("c", ""),
            pod("d", r#","hostPID":true,"volumes":[{"name":"v","hostPath":{"path":"/"}}]"#),
        ];
        let enforce = LevelVersion { level: Level::Baseline, version: Version::Latest };
        let warnings = PodSecurity::default().warnings("ns", &enforce, pods);
        expect![[r#"
            existing pods in namespace "ns" violate the new PodSecurity enforce level "baseline:latest"
            a (and 1 other pod): host namespaces
            d: host namespaces, hostPath volumes"#]]
        .assert_eq(&warnings.join("\n"));
    }
}
