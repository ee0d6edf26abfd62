//! `AuthenticationConfiguration` of `apiserver.config.k8s.io` (`apiserver/pkg/apis/apiserver/{v1,validation}`): read, checked, and
//! its expressions compiled. Pure.

use super::claims::{self, Expression};
use crate::webhook_client::trust;
use machinery::cel::{Env, Type};
use machinery::field::{Errors, FieldError, Path, aggregate};
use serde::Deserialize;
use std::collections::BTreeSet;

/// The versions of the file that are read.
const VERSIONS: [&str; 3] =
    ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// More issuers are not allowed (`validateAuthenticationConfiguration`).
const MAX_ISSUERS: usize = 64;

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    /// `apiserver.config.k8s.io/v1`
    pub api_version: String,
    /// `AuthenticationConfiguration`
    pub kind: String,
    /// Who signs tokens.
    pub jwt: Vec<Authenticator>,
    /// Who needs none; absent means everybody may be nobody.
    pub anonymous: Option<Anonymous>,
}

/// `anonymous`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Anonymous {
    /// Whether requests without credentials are answered at all.
    pub enabled: bool,
    /// If there are some: only at these paths.
    pub conditions: Vec<Condition>,
}

/// `anonymous.conditions[*]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Condition {
    /// The whole path.
    pub path: String,
}

/// `jwt[*]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Authenticator {
    /// Who signs.
    pub issuer: Issuer,
    /// What claims must be.
    pub claim_validation_rules: Vec<ClaimRule>,
    /// What claims mean.
    pub claim_mappings: Mappings,
    /// What the user must be.
    pub user_validation_rules: Vec<UserRule>,
}

/// `jwt[*].issuer`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Issuer {
    /// As tokens name it.
    pub url: String,
    /// Where its document is, if not below `url`.
    #[serde(rename = "discoveryURL")]
    pub discovery_url: Option<String>,
    /// PEM; empty means the system's roots.
    pub certificate_authority: String,
    /// One of these must be the token's.
    pub audiences: Vec<String>,
    /// `MatchAny`, or empty.
    pub audience_match_policy: String,
    /// Must be empty: there are no egress selectors here.
    pub egress_selector_type: String,
}

/// `jwt[*].claimValidationRules[*]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimRule {
    /// A claim that must have a value.
    pub claim: String,
    /// The value.
    pub required_value: String,
    /// Or an expression that must be true.
    pub expression: String,
    /// What is said if it is not.
    pub message: String,
}

/// `jwt[*].claimMappings`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mappings {
    /// The user's name.
    pub username: Mapping,
    /// Groups.
    pub groups: Mapping,
    /// UID.
    pub uid: Mapping,
    /// More.
    pub extra: Vec<ExtraMapping>,
}

/// A claim with a prefix, or an expression.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mapping {
    /// A claim.
    pub claim: String,
    /// Set before its value.
    pub prefix: Option<String>,
    /// Or an expression over the claims.
    pub expression: String,
}

/// `jwt[*].claimMappings.extra[*]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtraMapping {
    /// `domain/name`
    pub key: String,
    /// An expression over the claims.
    pub value_expression: String,
}

/// `jwt[*].userValidationRules[*]`
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UserRule {
    /// Must be true of `user`.
    pub expression: String,
    /// What is said if it is not.
    pub message: String,
}

/// What a configuration means: checked and compiled.
pub(super) struct Rules {
    pub(super) username: Source,
    pub(super) groups: Option<Source>,
    pub(super) uid: Option<Source>,
    pub(super) extra: Vec<(String, Expression)>,
    /// Claims with their values.
    pub(super) required: Vec<(String, String)>,
    pub(super) claims: Vec<(Expression, String)>,
    pub(super) user: Vec<(Expression, String)>,
}

/// Where a part of the user comes from.
pub(super) enum Source {
    Claim { name: String, prefix: String },
    Expression(Expression),
}

impl Configuration {
    /// Reads a file (YAML or JSON). The error is for who wrote it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let parsed: Configuration = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        if parsed.kind != "AuthenticationConfiguration" || !VERSIONS.contains(&parsed.api_version.as_str()) {
            return Err(format!(
                "expected kind AuthenticationConfiguration of {}, got {:?} of {:?}",
                VERSIONS[0], parsed.kind, parsed.api_version
            ));
        }
        Ok(parsed)
    }

    /// The rules of each issuer, or everything that is wrong. `own` issues the cluster's own tokens.
    pub(super) fn compile(&self, own: &str) -> Result<Vec<Rules>, String> {
        let root = Path::new("jwt");
        let mut errors = Errors::new();
        if self.jwt.len() > MAX_ISSUERS {
            errors.push(FieldError::too_many(&root, self.jwt.len(), MAX_ISSUERS));
        }
        let (mut issuers, mut documents) = (BTreeSet::new(), BTreeSet::new());
        let mut all = Vec::new();
        for (i, one) in self.jwt.iter().enumerate() {
            let path = root.index(i);
            let issuer = path.child("issuer");
            check_issuer(&one.issuer, own, &issuer, &mut errors);
            all.push(rules(one, &path, &mut errors));
            if !issuers.insert(&one.issuer.url) {
                errors.push(FieldError::duplicate(&issuer.child("url"), one.issuer.url.as_str()));
            }
            if let Some(url) = one.issuer.discovery_url.as_ref().filter(|u| !u.is_empty())
                && !documents.insert(url)
            {
                errors.push(FieldError::duplicate(&issuer.child("discoveryURL"), url.as_str()));
            }
        }
        if let Some(anonymous) = self.anonymous.as_ref().filter(|a| !a.enabled && !a.conditions.is_empty()) {
            let paths: Vec<&str> = anonymous.conditions.iter().map(|c| c.path.as_str()).collect();
            let path = Path::new("anonymous").child("conditions");
            let detail = "enabled should be set to true when conditions are defined";
            errors.push(FieldError::invalid(&path, &serde_json::json!(paths), detail));
        }
        if errors.is_empty() { Ok(all) } else { Err(aggregate(&errors)) }
    }
}

fn check_issuer(issuer: &Issuer, own: &str, path: &Path, errors: &mut Errors) {
    let at = path.child("url");
    match issuer.url.as_str() {
        "" => errors.push(FieldError::required(&at, "")),
        url if url == own => {
            let detail = format!("URL must not overlap with disallowed issuers: [{own}]");
            errors.push(FieldError::invalid(&at, url, &detail));
        }
        url => check_url(url, &at, errors),
    }
    if let Some(url) = issuer.discovery_url.as_deref().filter(|u| !u.is_empty()) {
        let at = path.child("discoveryURL");
        if url.trim_end_matches('/') == issuer.url.trim_end_matches('/') {
            errors.push(FieldError::invalid(&at, url, "discoveryURL must be different from URL"));
        }
        check_url(url, &at, errors);
    }
    check_audiences(issuer, path, errors);
    if !issuer.certificate_authority.is_empty()
        && let Err(why) = trust::client_config(issuer.certificate_authority.as_bytes(), None)
    {
        errors.push(FieldError::invalid(&path.child("certificateAuthority"), "<omitted>", &why));
    }
    if !issuer.egress_selector_type.is_empty() {
        let detail = "egress selectors are not supported by this server";
        let value = issuer.egress_selector_type.as_str();
        errors.push(FieldError::invalid(&path.child("egressSelectorType"), value, detail));
    }
}

fn check_url(text: &str, path: &Path, errors: &mut Errors) {
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(path, text, detail));
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        Err(error) => return wrong(&error.to_string()),
    };
    if url.scheme() != "https" {
        wrong("URL scheme must be https");
    }
    if !url.username().is_empty() || url.password().is_some() {
        wrong("URL must not contain a username or password");
    }
    if url.query().is_some_and(|q| !q.is_empty()) {
        wrong("URL must not contain a query");
    }
    if url.fragment().is_some_and(|f| !f.is_empty()) {
        wrong("URL must not contain a fragment");
    }
}

fn check_audiences(issuer: &Issuer, path: &Path, errors: &mut Errors) {
    let at = path.child("audiences");
    if issuer.audiences.is_empty() {
        errors.push(FieldError::required(&at, &format!("at least one {} is required", at.as_str())));
        return;
    }
    let mut seen = BTreeSet::new();
    for (i, audience) in issuer.audiences.iter().enumerate() {
        if audience.is_empty() {
            errors.push(FieldError::required(&at.index(i), ""));
        }
        if !seen.insert(audience) {
            errors.push(FieldError::duplicate(&at.index(i), audience.as_str()));
        }
    }
    let policy = issuer.audience_match_policy.as_str();
    let mut wrong = |detail: &str| errors.push(FieldError::invalid(&path.child("audienceMatchPolicy"), policy, detail));
    match (issuer.audiences.len(), policy) {
        (_, "MatchAny") | (1, "") => {}
        (1, _) => wrong("audienceMatchPolicy must be empty or MatchAny for single audience"),
        _ => wrong("audienceMatchPolicy must be MatchAny for multiple audiences"),
    }
}

/// What is found wrong goes into `errors`; the rules are good only if nothing is.
fn rules(one: &Authenticator, path: &Path, errors: &mut Errors) -> Rules {
    let env = claims::claims_env();
    let mut compiler = Compiler { env: &env, errors };
    let mut verified = false;
    let at = path.child("claimValidationRules");
    let mut required: Vec<(String, String)> = Vec::new();
    let mut of_claims: Vec<(Expression, String)> = Vec::new();
    for (i, rule) in one.claim_validation_rules.iter().enumerate() {
        compiler.claim_rule(rule, &at.index(i), &mut required, &mut of_claims);
    }
    let maps = &one.claim_mappings;
    let at = path.child("claimMappings");
    let username = compiler.source(&maps.username, &at.child("username"), true);
    let groups = compiler.source(&maps.groups, &at.child("groups"), false);
    let uid = compiler.uid(&maps.uid, &at.child("uid"));
    let extra = compiler.extra(&maps.extra, &at.child("extra"));
    for expression in of_claims.iter().map(|(e, _)| e).chain(extra.iter().map(|(_, e)| e)) {
        verified |= expression.selects("email_verified");
    }
    if let Some(Source::Expression(expression)) = &username
        && expression.selects("email")
        && !verified
        && !expression.selects("email_verified")
    {
        let detail = "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression";
        let at = at.child("username").child("expression");
        compiler.errors.push(FieldError::invalid(&at, maps.username.expression.as_str(), detail));
    }
    let user = user_rules(&one.user_validation_rules, &path.child("userValidationRules"), compiler.errors);
    let username = username.unwrap_or(Source::Claim { name: String::new(), prefix: String::new() });
    Rules { username, groups, uid, extra, required, claims: of_claims, user }
}

struct Compiler<'a> {
    env: &'a Env,
    errors: &'a mut Errors,
}

impl Compiler<'_> {
    fn compile(&mut self, text: &str, path: &Path, wanted: &[Type]) -> Option<Expression> {
        match Expression::new(text, self.env, wanted) {
            Ok(expression) => Some(expression),
            Err(why) => {
                self.errors.push(FieldError::invalid(path, text, &why));
                None
            }
        }
    }

    fn claim_rule(
        &mut self,
        rule: &ClaimRule,
        path: &Path,
        required: &mut Vec<(String, String)>,
        of_claims: &mut Vec<(Expression, String)>,
    ) {
        let invalid = |path: &Path, value: &str, detail: &str| FieldError::invalid(path, value, detail);
        match (rule.claim.as_str(), rule.expression.as_str()) {
            ("", "") => self.errors.push(FieldError::required(path, "claim or expression is required")),
            (claim, "") => {
                if !rule.message.is_empty() {
                    let detail = "may not be specified when claim is set";
                    self.errors.push(invalid(&path.child("message"), &rule.message, detail));
                }
                if required.iter().any(|(known, _)| known == claim) {
                    self.errors.push(FieldError::duplicate(&path.child("claim"), claim));
                }
                required.push((claim.to_owned(), rule.required_value.clone()));
            }
            ("", text) => {
                if !rule.required_value.is_empty() {
                    let detail = "may not be specified when expression is set";
                    self.errors.push(invalid(&path.child("requiredValue"), &rule.required_value, detail));
                }
                let path = path.child("expression");
                if of_claims.iter().any(|(known, _)| known.text() == text) {
                    self.errors.push(FieldError::duplicate(&path, text));
                } else if let Some(expression) = self.compile(text, &path, &[Type::Bool]) {
                    of_claims.push((expression, rule.message.clone()));
                }
            }
            (claim, _) => self.errors.push(invalid(path, claim, "claim and expression can't both be set")),
        }
    }

    fn source(&mut self, mapping: &Mapping, path: &Path, is_required: bool) -> Option<Source> {
        match (mapping.claim.as_str(), mapping.expression.as_str()) {
            ("", "") => {
                if is_required {
                    self.errors.push(FieldError::required(path, "claim or expression is required"));
                }
                None
            }
            ("", text) => {
                if let Some(prefix) = &mapping.prefix {
                    let detail = "may not be specified when expression is set";
                    self.errors.push(FieldError::invalid(&path.child("prefix"), prefix.as_str(), detail));
                }
                self.compile(text, &path.child("expression"), &[]).map(Source::Expression)
            }
            (claim, "") => {
                if mapping.prefix.is_none() {
                    let detail =
                        "prefix is required when claim is set. It can be set to an empty string to disable prefixing";
                    self.errors.push(FieldError::required(&path.child("prefix"), detail));
                }
                Some(Source::Claim { name: claim.to_owned(), prefix: mapping.prefix.clone().unwrap_or_default() })
            }
            _ => {
                self.errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
                None
            }
        }
    }

    fn uid(&mut self, mapping: &Mapping, path: &Path) -> Option<Source> {
        match (mapping.claim.as_str(), mapping.expression.as_str()) {
            ("", "") => None,
            ("", text) => self.compile(text, &path.child("expression"), &[]).map(Source::Expression),
            (claim, "") => Some(Source::Claim { name: claim.to_owned(), prefix: String::new() }),
            _ => {
                self.errors.push(FieldError::invalid(path, "", "claim and expression can't both be set"));
                None
            }
        }
    }

    fn extra(&mut self, mappings: &[ExtraMapping], path: &Path) -> Vec<(String, Expression)> {
        let mut all: Vec<(String, Expression)> = Vec::new();
        for (i, mapping) in mappings.iter().enumerate() {
            let path = path.index(i);
            let (key, at) = (mapping.key.as_str(), path.child("key"));
            let domain = key.split_once('/').filter(|(domain, rest)| !domain.is_empty() && !rest.is_empty());
            if key.is_empty() {
                self.errors.push(FieldError::required(&at, ""));
            } else if domain.is_none() {
                let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
                self.errors.push(FieldError::invalid(&at, key, detail));
            }
            if key != key.to_lowercase() {
                self.errors.push(FieldError::invalid(&at, key, "must be lowercase"));
            }
            let domain = domain.map_or("", |(domain, _)| domain);
            let reserved = |of: &str| domain == of || domain.strip_suffix(of).is_some_and(|rest| rest.ends_with('.'));
            if reserved("kubernetes.io") || reserved("k8s.io") {
                let detail = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
                self.errors.push(FieldError::invalid(&at, key, detail));
            }
            let text = mapping.value_expression.as_str();
            if mappings[..i].iter().any(|earlier| earlier.key == key) {
                self.errors.push(FieldError::duplicate(&at, key));
            } else if text.is_empty() {
                self.errors.push(FieldError::required(&path.child("valueExpression"), ""));
            } else if let Some(expression) = self.compile(text, &path.child("valueExpression"), &[]) {
                all.push((key.to_owned(), expression));
            }
        }
        all
    }
}

fn user_rules(rules: &[UserRule], path: &Path, errors: &mut Errors) -> Vec<(Expression, String)> {
    let env = claims::user_env();
    let mut compiler = Compiler { env: &env, errors };
    let mut all: Vec<(Expression, String)> = Vec::new();
    for (i, rule) in rules.iter().enumerate() {
        let (at, text) = (path.index(i).child("expression"), rule.expression.as_str());
        if text.is_empty() {
            compiler.errors.push(FieldError::required(&at, ""));
        } else if rules[..i].iter().any(|earlier| earlier.expression == text) {
            compiler.errors.push(FieldError::duplicate(&at, text));
        } else if let Some(expression) = compiler.compile(text, &at, &[Type::Bool]) {
            all.push((expression, rule.message.clone()));
        }
    }
    all
}
