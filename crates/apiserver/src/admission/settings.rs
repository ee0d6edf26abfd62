//! Settings of admission plugins: an AdmissionConfiguration of `apiserver.config.k8s.io`
//! (`apiserver/pkg/admission/config.go`), with those of PodSecurity
//! (`pod-security-admission/admission/api/{load,validation}`) and of ResourceQuota
//! (`apiserver/pkg/admission/plugin/resourcequota/apis/resourcequota`). Pure; reading files is the caller's.

use super::pod_security::{Exemptions, PodSecurity};
use api::k8s::api::core::v1::ScopedResourceSelectorRequirement;
use machinery::field::{Errors, FieldError, Path, aggregate};
use machinery::validation::{is_dns1123_label, is_dns1123_subdomain};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeSet;

/// What plugins are told. The default is upstream's.
#[derive(Default)]
pub struct Settings {
    pub(super) pod_security: PodSecurity,
    pub(super) limited: Vec<LimitedResource>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    plugins: Vec<Plugin>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Plugin {
    name: String,
    #[serde(default)]
    path: String,
    #[serde(default)]
    configuration: Value,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct PodSecurityConfiguration {
    api_version: String,
    kind: String,
    defaults: Defaults,
    exemptions: ExemptionLists,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ExemptionLists {
    usernames: Vec<String>,
    namespaces: Vec<String>,
    runtime_classes: Vec<String>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct ResourceQuotaConfiguration {
    api_version: String,
    kind: String,
    limited_resources: Vec<LimitedResource>,
}

/// A resource that is only for namespaces whose quota speaks of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LimitedResource {
    /// Of the objects that use it.
    pub api_group: String,
    /// Plural.
    pub resource: String,
    /// Names of used resources that contain one of these are limited.
    pub match_contains: Vec<String>,
    /// Objects in one of these scopes are limited.
    pub match_scopes: Vec<ScopedResourceSelectorRequirement>,
}

impl Settings {
    /// Reads a file (YAML or JSON); `read` gives the text of a file that it names. The error is for who wrote it.
    pub fn parse(text: &str, read: &dyn Fn(&str) -> Result<String, String>) -> Result<Self, String> {
        let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if file.kind != "AdmissionConfiguration" || !file.api_version.starts_with("apiserver.config.k8s.io/v1") {
            return Err(format!(
                "expected kind AdmissionConfiguration of apiserver.config.k8s.io/v1, got {:?} of {:?}",
                file.kind, file.api_version
            ));
        }
        let mut settings = Settings::default();
        for plugin in file.plugins {
            let wrong = |why: String| format!("{}: {why}", plugin.name);
            let value = match plugin.path.as_str() {
                "" => plugin.configuration,
                path => serde_saphyr::from_str(&read(path).map_err(wrong)?).map_err(|e| wrong(e.to_string()))?,
            };
            match plugin.name.as_str() {
                "PodSecurity" => settings.pod_security = pod_security(value).map_err(wrong)?,
                "ResourceQuota" => settings.limited = limited(value).map_err(wrong)?,
                other => return Err(format!("unsupported: settings of the admission plugin {other}")),
            }
        }
        Ok(settings)
    }
}

fn decode<T: DeserializeOwned + Default>(value: Value) -> Result<T, String> {
    if value.is_null() { Ok(T::default()) } else { serde_json::from_value(value).map_err(|e| e.to_string()) }
}

fn check_type(api_version: &str, group: &str, (kind, wanted): (&str, &str)) -> Result<(), String> {
    let is_known = api_version.split_once('/').is_some_and(|(g, v)| g == group && v.starts_with("v1"));
    match (is_known || api_version.is_empty()) && (kind == wanted || kind.is_empty()) {
        true => Ok(()),
        false => Err(format!("expected kind {wanted} of {group}/v1, got {kind:?} of {api_version:?}")),
    }
}

fn pod_security(value: Value) -> Result<PodSecurity, String> {
    let read: PodSecurityConfiguration = decode(value)?;
    let kind = (read.kind.as_str(), "PodSecurityConfiguration");
    check_type(&read.api_version, "pod-security.admission.config.k8s.io", kind)?;
    let mut errors = Errors::new();
    let d = &read.defaults;
    let mut mode = |name: &str, level: &str, version: &str| {
        let path = Path::new("defaults");
        super::pod_security::mode(level, version).unwrap_or_else(|wrong| {
            let (at, value) = match wrong {
                super::pod_security::Wrong::Level => (path.child(name), level),
                super::pod_security::Wrong::Version => (path.child(&format!("{name}-version")), version),
            };
            errors.push(FieldError::invalid(&at, value, wrong.detail()));
            Default::default()
        })
    };
    let policy = super::pod_security::Policy {
        enforce: mode("enforce", &d.enforce, &d.enforce_version),
        warn: mode("warn", &d.warn, &d.warn_version),
        audit: mode("audit", &d.audit, &d.audit_version),
    };
    let lists = &read.exemptions;
    check_names("namespaces", &lists.namespaces, &|name| is_dns1123_label(name).join(", "), &mut errors);
    check_names("runtimeClasses", &lists.runtime_classes, &|name| is_dns1123_subdomain(name).join(", "), &mut errors);
    let no_user = |name: &str| if name.is_empty() { "username must not be empty".to_owned() } else { String::new() };
    check_names("usernames", &lists.usernames, &no_user, &mut errors);
    if !errors.is_empty() {
        return Err(aggregate(&errors));
    }
    let ExemptionLists { usernames, namespaces, runtime_classes } = read.exemptions;
    Ok(PodSecurity::new(policy, Exemptions { usernames, namespaces, runtime_classes }))
}

fn check_names(list: &str, names: &[String], wrong: &dyn Fn(&str) -> String, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        let path = Path::new("exemptions").child(list).index(i);
        let why = wrong(name);
        if !why.is_empty() {
            errors.push(FieldError::invalid(&path, name.as_str(), &why));
        } else if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name.as_str()));
        }
    }
}

fn limited(value: Value) -> Result<Vec<LimitedResource>, String> {
    let read: ResourceQuotaConfiguration = decode(value)?;
    let kind = match read.kind.as_str() {
        // The name of old.
        "Configuration" => "ResourceQuotaConfiguration",
        other => other,
    };
    let group = match read.api_version.split_once('/') {
        Some(("resourcequota.admission.k8s.io", _)) => "resourcequota.admission.k8s.io",
        _ => "apiserver.config.k8s.io",
    };
    check_type(&read.api_version, group, (kind, "ResourceQuotaConfiguration"))?;
    // Every entry must say what it is about (`validation.go`).
    let root = Path::new("limitedResources");
    let unnamed = read.limited_resources.iter().position(|l| l.resource.is_empty());
    match unnamed {
        Some(i) => Err(aggregate(&[FieldError::required(&root.index(i).child("resource"), "")])),
        None => Ok(read.limited_resources),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(plugins: &str, expected: Expect) {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{plugins}]");
        let read = |path: &str| {
            match path {
            "quota.yaml" => Ok("apiVersion: apiserver.config.k8s.io/v1\nkind: ResourceQuotaConfiguration\nlimitedResources: [{resource: pods, matchContains: [cpu]}]".to_owned()),
            _ => Err("no such file".to_owned()),
        }
        };
        let shown = match Settings::parse(&text, &read) {
            Ok(settings) => format!("{:?} {:?}", settings.pod_security, settings.limited),
            Err(why) => why,
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn plugins_are_told() {
        check(
            "{name: PodSecurity, configuration: {apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: baseline, enforce-version: v1.30}, exemptions: {namespaces: [kube-system]}}}, {name: ResourceQuota, path: quota.yaml}",
            expect![[
                r#"PodSecurity { exemptions: Exemptions { usernames: [], namespaces: ["kube-system"], runtime_classes: [] }, defaults: Policy { enforce: LevelVersion { level: Baseline, version: Minor(30) }, audit: LevelVersion { level: Privileged, version: Latest }, warn: LevelVersion { level: Privileged, version: Latest } } } [LimitedResource { api_group: "", resource: "pods", match_contains: ["cpu"], match_scopes: [] }]"#
            ]],
        );
    }

    #[test]
    fn mistakes_are_named() {
        check(
            "{name: PodSecurity, configuration: {defaults: {enforce: strict, warn-version: v2}, exemptions: {usernames: [''], namespaces: [A, a, a]}}}",
            expect![[
                r#"PodSecurity: [defaults.enforce: Invalid value: "strict": must be one of privileged, baseline, restricted, defaults.warn-version: Invalid value: "v2": must be "latest" or "v1.x", exemptions.namespaces[0]: Invalid value: "A": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?'), exemptions.namespaces[2]: Duplicate value: "a", exemptions.usernames[0]: Invalid value: "": username must not be empty]"#
            ]],
        );
        check("{name: ResourceQuota, path: other.yaml}", expect!["ResourceQuota: no such file"]);
        check(
            "{name: ResourceQuota, configuration: {limitedResources: [{}]}}",
            expect!["ResourceQuota: limitedResources[0].resource: Required value"],
        );
        check(
            "{name: ImagePolicyWebhook}",
            expect!["unsupported: settings of the admission plugin ImagePolicyWebhook"],
        );
    }
}
