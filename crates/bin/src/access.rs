//! Who may ask, and who decides what for: the cluster's own means, and those of the files that the configuration names, which are
//! read again when they change (`reload.rs`).

use crate::config::{Access, Oidc, TokenWebhook};
use crate::reload::{Reloads, follow};
use apiserver::Reader;
use apiserver::auth::jwt::{self, Configuration, JwtMetrics, JwtTokens};
use apiserver::auth::webhook::{
    self, AuthorizationConfiguration, AuthorizationMetrics, AuthorizerKind, WebhookAuthorizer, WebhookTokens,
    kubeconfig,
};
use apiserver::auth::{Authenticator, Authorizer, Authorizers, Counted, Replaceable};
use apiserver::webhook_client::{ClientConfig, WebhookClient};
use base::Clock;
use std::path::Path;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Who knows tokens that the cluster does not issue itself.
pub(crate) struct ForeignTokens {
    /// In the order in which they are asked.
    pub(crate) authenticators: Vec<Arc<dyn Authenticator>>,
    pub(crate) metrics: JwtMetrics,
}

/// Authenticators of tokens that the cluster does not issue itself. `own` is the cluster's
/// issuer.
pub(crate) fn foreign_tokens(
    access: &Access,
    reader: &Reader,
    clock: &Arc<dyn Clock>,
    own: &str,
    reloads: Reloads,
    shutdown: &CancellationToken,
) -> Result<ForeignTokens, String> {
    let jwt = JwtTokens::new(WebhookClient::new(reader.clone()), clock.clone(), own);
    if let Some(oidc) = &access.oidc {
        jwt.configure(&of_flags(oidc)?, &oidc.signing_algs).map_err(|why| format!("oidc: {why}"))?;
    }
    if let Some(path) = &access.authentication {
        let configured = jwt.clone();
        let apply = move |text: &str| configured.configure(&Configuration::parse(text)?, &[]);
        follow("authentication-config", path, reloads, apply, shutdown)?;
    }
    let metrics = jwt.metrics().clone();
    let mut all: Vec<Arc<dyn Authenticator>> = vec![jwt];
    if let Some(TokenWebhook { kubeconfig, ttl, version }) = &access.token_webhook {
        let wrong = |why: String| format!("authentication-token-webhook-config-file {}: {why}", kubeconfig.display());
        let config = client_config(kubeconfig).map_err(wrong)?;
        let client = WebhookClient::new(reader.clone());
        let webhook = WebhookTokens::new(client, config, version, *ttl, vec![own.to_owned()]).map_err(wrong)?;
        all.push(Arc::new(webhook));
    }
    Ok(ForeignTokens { authenticators: all, metrics })
}

/// The flags of old as a configuration (`pkg/kubeapiserver/options/authentication.go`, `ToAuthenticationConfig`).
fn of_flags(oidc: &Oidc) -> Result<Configuration, String> {
    let certificate_authority = match &oidc.ca_file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path).map_err(|e| format!("failed to read {}: {e}", path.display()))?,
    };
    let claim = |claim: &str, prefix: &str| jwt::Mapping {
        claim: claim.to_owned(),
        prefix: Some(prefix.to_owned()),
        ..jwt::Mapping::default()
    };
    let required = |(claim, value): &(String, String)| jwt::ClaimRule {
        claim: claim.clone(),
        required_value: value.clone(),
        ..jwt::ClaimRule::default()
    };
    let issuer = jwt::JwtIssuer {
        issuer: jwt::Issuer {
            url: oidc.issuer_url.clone(),
            certificate_authority,
            audiences: vec![oidc.client_id.clone()],
            ..jwt::Issuer::default()
        },
        claim_validation_rules: oidc.required_claims.iter().map(required).collect(),
        claim_mappings: jwt::Mappings {
            username: claim(&oidc.username_claim, &oidc.username_prefix),
            groups: oidc.groups.as_ref().map(|(name, prefix)| claim(name, prefix)).unwrap_or_default(),
            ..jwt::Mappings::default()
        },
        ..jwt::JwtIssuer::default()
    };
    Ok(Configuration { jwt: vec![issuer], ..Configuration::default() })
}

/// The authorizers that this server has by itself.
#[derive(Clone)]
pub(crate) struct OwnAuthorizers {
    pub(crate) node: Arc<dyn Authorizer>,
    pub(crate) rbac: Arc<dyn Authorizer>,
}

/// What lists of authorizers are made of.
struct Chains {
    own: OwnAuthorizers,
    client: Arc<WebhookClient>,
    metrics: AuthorizationMetrics,
}

impl Chains {
    /// Node and RBAC; their names are those of upstream's `--authorization-mode`.
    fn default(&self) -> Authorizers {
        Authorizers(vec![self.node("node"), self.rbac("rbac")])
    }

    /// What a file says.
    fn configured(&self, config: &AuthorizationConfiguration) -> Result<Authorizers, String> {
        let one = |entry: &webhook::Entry| match entry.kind() {
            AuthorizerKind::Node => Ok(self.node(&entry.name)),
            AuthorizerKind::Rbac => Ok(self.rbac(&entry.name)),
            AuthorizerKind::Webhook(webhook) => {
                let file = webhook.connection_info.kube_config_file.clone().unwrap_or_default();
                let config = client_config(Path::new(&file)).map_err(|why| format!("{file}: {why}"))?;
                let (client, metrics) = (self.client.clone(), self.metrics.clone());
                let made = WebhookAuthorizer::new(&entry.name, webhook, config, client, metrics);
                Ok(self.metrics.decisions.of("Webhook", &entry.name, Arc::new(made)))
            }
        };
        let all: Result<Vec<Counted>, String> = config.authorizers.iter().map(one).collect();
        Ok(Authorizers(all?))
    }

    fn node(&self, name: &str) -> Counted {
        self.metrics.decisions.of("Node", name, self.own.node.clone())
    }

    fn rbac(&self, name: &str) -> Counted {
        self.metrics.decisions.of("RBAC", name, self.own.rbac.clone())
    }
}

/// Who decides on all but masters: Node and RBAC, or what the file says. Decisions are counted in `metrics`.
pub(crate) fn authorizer(
    access: &Access,
    own: OwnAuthorizers,
    reader: &Reader,
    metrics: &AuthorizationMetrics,
    reloads: Reloads,
    shutdown: &CancellationToken,
) -> Result<Arc<dyn Authorizer>, String> {
    let chains = Chains { own, client: Arc::new(WebhookClient::new(reader.clone())), metrics: metrics.clone() };
    let all = Replaceable::new(chains.default());
    if let Some(path) = &access.authorization {
        let replaced = all.clone();
        let apply = move |text: &str| {
            replaced.replace(chains.configured(&AuthorizationConfiguration::parse(text)?)?);
            Ok(())
        };
        follow("authorization-config", path, reloads, apply, shutdown)?;
    }
    Ok(all)
}

/// The kubeconfig of a webhook; files that it names are relative to it.
fn client_config(path: &Path) -> Result<ClientConfig, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let dir = path.parent().unwrap_or(Path::new("/"));
    let read = |name: &str| {
        let file = dir.join(name);
        std::fs::read(&file).map_err(|e| format!("failed to read {}: {e}", file.display()))
    };
    kubeconfig::parse(&text, &read)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_old_are_a_configuration() {
        let oidc = Oidc {
            issuer_url: "https://issuer".into(),
            client_id: "us".into(),
            ca_file: None,
            username_claim: "sub".into(),
            username_prefix: "https://issuer#".into(),
            groups: None,
            signing_algs: vec!["RS256".into()],
            required_claims: vec![("hd".into(), "example.com".into())],
        };
        let made = of_flags(&oidc).expect("no file is read");
        let store: Arc<dyn store::Store> = Arc::new(store::MemoryStore::new(store::Limits::default()));
        let clock: Arc<dyn Clock> = base::SystemClock::shared();
        let tokens = JwtTokens::new(WebhookClient::new(Reader::new(store)), clock, "https://own");
        assert_eq!(tokens.configure(&made, &oidc.signing_algs), Ok(()));
        let none = tokens.configure(&made, &["none".to_owned()]);
        assert_eq!(none, Err("oidc: unsupported signing alg: \"none\"".to_owned()));
    }
}
