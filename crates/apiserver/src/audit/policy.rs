//! Which requests are noted, and how much of them (`apiserver/pkg/audit/policy/checker.go`, `audit.k8s.io/v1` Policy).

use crate::auth::Attributes;
use serde::Deserialize;

/// How much is noted of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum Level {
    /// Nothing.
    None,
    /// Who did what when, and what came of it.
    Metadata,
    /// And the request's body.
    Request,
    /// And the answer's.
    RequestResponse,
}

impl Level {
    /// As policies and events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Level::None => "None",
            Level::Metadata => "Metadata",
            Level::Request => "Request",
            Level::RequestResponse => "RequestResponse",
        }
    }
}

/// When something is noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
pub enum Stage {
    /// Before anything is done.
    RequestReceived,
    /// An answer that takes long begins.
    ResponseStarted,
    /// The answer is complete.
    ResponseComplete,
    /// We failed.
    Panic,
}

/// Rules; the first that matches counts.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    api_version: String,
    kind: String,
    #[serde(default, rename = "metadata")]
    _metadata: serde_json::Value,
    rules: Vec<Rule>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    #[serde(default)]
    omit_managed_fields: bool,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Rule {
    level: Level,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    user_groups: Vec<String>,
    #[serde(default)]
    verbs: Vec<String>,
    #[serde(default)]
    resources: Vec<GroupResources>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default, rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    #[serde(default)]
    omit_stages: Vec<Stage>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct GroupResources {
    #[serde(default)]
    group: String,
    #[serde(default)]
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
}

/// What the policy says of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) level: Level,
    pub(super) omit_stages: Vec<Stage>,
    pub(super) omit_managed_fields: bool,
}

/// What holds if nobody says otherwise: everything but what the system asks itself all day long.
const DEFAULT: &str = include_str!("../../data/audit-policy.yaml");

impl Default for Policy {
    fn default() -> Self {
        Policy::parse(DEFAULT).expect("data/audit-policy.yaml is a policy, a test says")
    }
}

impl Policy {
    /// Reads YAML or JSON. Errors are for whoever wrote the file.
    pub fn parse(text: &str) -> Result<Policy, String> {
        let policy: Policy = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if policy.api_version != "audit.k8s.io/v1" || policy.kind != "Policy" {
            return Err("it must be a Policy of audit.k8s.io/v1".into());
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            let resource = !rule.resources.is_empty() || !rule.namespaces.is_empty();
            if resource && !rule.non_resource_urls.is_empty() {
                return Err(format!("rules[{i}]: rules cannot apply to both regular resources and non-resource URLs"));
            }
            let wrong = |u: &&String| !u.starts_with('/') && *u != "*" || u.trim_end_matches('*').contains('*');
            if let Some(url) = rule.non_resource_urls.iter().find(wrong) {
                return Err(format!(
                    "rules[{i}]: {url:?}: non-resource URLs begin with '/', and '*' stands only at the end"
                ));
            }
        }
        Ok(policy)
    }

    pub(super) fn verdict(&self, a: &Attributes<'_>) -> Verdict {
        let rule = self.rules.iter().find(|r| r.matches(a));
        let own = rule.map(|r| r.omit_stages.as_slice()).unwrap_or_default();
        Verdict {
            level: rule.map_or(Level::None, |r| r.level),
            omit_stages: self.omit_stages.iter().chain(own).copied().collect(),
            omit_managed_fields: rule.and_then(|r| r.omit_managed_fields).unwrap_or(self.omit_managed_fields),
        }
    }
}

impl Rule {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        let has = |list: &[String], value: &str| list.iter().any(|x| x == value);
        let open = |list: &[String], value: &str| list.is_empty() || has(list, value);
        if !open(&self.users, &a.user.name) || !open(&self.verbs, a.verb) {
            return false;
        }
        if !self.user_groups.is_empty() && !self.user_groups.iter().any(|g| a.user.is_in(g)) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return a.is_resource_request
                && open(&self.namespaces, a.namespace)
                && (self.resources.is_empty() || self.resources.iter().any(|r| r.matches(a)));
        }
        self.non_resource_urls.is_empty()
            || !a.is_resource_request && self.non_resource_urls.iter().any(|url| path_matches(url, a.path))
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*" || pattern == path || pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*'))
}

impl GroupResources {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        if self.group != a.group && self.group != "*" {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        let named = self.resource_names.is_empty() || self.resource_names.iter().any(|n| n == a.name);
        let fits = |r: &String| match r.split_once('/') {
            None => r == "*" || a.subresource.is_empty() && r == a.resource,
            Some((resource, "*")) => resource == a.resource,
            Some((resource, subresource)) => {
                subresource == a.subresource && (resource == "*" || resource == a.resource)
            }
        };
        named && self.resources.iter().any(fits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UserInfo;

    /// `user VERB resource/sub [ns]` or `user VERB /path`.
    fn level(policy: &Policy, request: &str) -> Level {
        let words: Vec<&str> = request.split(' ').collect();
        let is_resource_request = !words[2].starts_with('/');
        let (resource, subresource) = words[2].split_once('/').unwrap_or((words[2], ""));
        let user = UserInfo::new(words[0], &["system:authenticated"]);
        let attributes = Attributes {
            user: &user,
            verb: words[1],
            group: "",
            version: "v1",
            resource: if is_resource_request { resource } else { "" },
            subresource: if is_resource_request { subresource } else { "" },
            namespace: words.get(3).copied().unwrap_or_default(),
            name: "",
            path: words[2],
            is_resource_request,
            field_selector: "",
            label_selector: "",
        };
        policy.verdict(&attributes).level
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let policy = Policy::parse(
            r#"{apiVersion: audit.k8s.io/v1, kind: Policy, rules: [
                {level: None, users: [bot], verbs: [get]},
                {level: Request, resources: [{resources: ["pods/*", secrets]}], namespaces: [a]},
                {level: Metadata, nonResourceURLs: ["/logs*"]},
                {level: RequestResponse, resources: [{group: "*", resources: ["*"]}]}]}"#,
        )
        .expect("a literal policy");
        assert_eq!(level(&policy, "bot get pods a"), Level::None);
        assert_eq!(level(&policy, "bot update pods/status a"), Level::Request);
        assert_eq!(level(&policy, "ann get secrets a"), Level::Request);
        assert_eq!(level(&policy, "ann get secrets b"), Level::RequestResponse);
        assert_eq!(level(&policy, "ann get /logs/x"), Level::Metadata);
        assert_eq!(level(&policy, "ann get /other"), Level::None);
    }

    #[test]
    fn the_default_notes_people_and_leaves_the_loops_out() {
        let policy = Policy::default();
        assert_eq!(level(&policy, "ann get pods a"), Level::Metadata);
        assert_eq!(level(&policy, "system:kube-scheduler watch pods"), Level::None);
        assert_eq!(level(&policy, "system:kube-scheduler create pods/binding a"), Level::Metadata);
        assert_eq!(level(&policy, "ann get /readyz"), Level::None);
    }

    #[test]
    fn mistakes_are_named() {
        let parse =
            |rules: &str| Policy::parse(&format!("{{apiVersion: audit.k8s.io/v1, kind: Policy, rules: {rules}}}"));
        let why = parse("[{level: None, namespaces: [a], nonResourceURLs: [/x]}]").expect_err("both");
        assert_eq!(why, "rules[0]: rules cannot apply to both regular resources and non-resource URLs");
        assert!(parse("[{level: Everything}]").is_err());
    }
}
