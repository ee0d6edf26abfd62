//! Who may ask, and who decides what for: the cluster's own means, and those of the files that the configuration names. The files
//! are read again when they change; what is wrong then is logged, and the old state stays.

use crate::config::{Access, Oidc, TokenWebhook};
use apiserver::Reader;
use apiserver::auth::jwt::{self, Configuration, JwtMetrics, JwtTokens};
use apiserver::auth::webhook::{
    AuthorizationConfiguration, AuthorizationMetrics, AuthorizerKind, WebhookAuthorizer, WebhookTokens, kubeconfig,
};
use apiserver::auth::{Authenticator, Authorizer, Authorizers, Masters, Replaceable};
use apiserver::webhook_client::{ClientConfig, WebhookClient};
use base::Clock;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at (upstream's `PollInterval`).
const LOOK: Duration = Duration::from_secs(60);

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
    shutdown: &CancellationToken,
) -> Result<ForeignTokens, String> {
    let jwt = JwtTokens::new(WebhookClient::new(reader.clone()), clock.clone(), own);
    if let Some(oidc) = &access.oidc {
        jwt.configure(&of_flags(oidc)?, &oidc.signing_algs).map_err(|why| format!("oidc: {why}"))?;
    }
    if let Some(path) = &access.authentication {
        let configured = jwt.clone();
        let apply = move |text: &str| configured.configure(&Configuration::parse(text)?, &[]);
        follow("authentication-config", path, apply, shutdown)?;
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

/// Who decides: the masters' rule first, then Node and RBAC, or what the file says. Webhooks are counted in `metrics`.
pub(crate) fn authorizer(
    access: &Access,
    own: OwnAuthorizers,
    reader: &Reader,
    metrics: &AuthorizationMetrics,
    shutdown: &CancellationToken,
) -> Result<Arc<dyn Authorizer>, String> {
    let masters: Arc<dyn Authorizer> = Arc::new(Masters);
    let all = Replaceable::new(Authorizers(vec![masters.clone(), own.node.clone(), own.rbac.clone()]));
    if let Some(path) = &access.authorization {
        let (replaced, metrics) = (all.clone(), metrics.clone());
        let client = Arc::new(WebhookClient::new(reader.clone()));
        let apply = move |text: &str| {
            let mut list = vec![masters.clone()];
            for entry in &AuthorizationConfiguration::parse(text)?.authorizers {
                list.push(match entry.kind() {
                    AuthorizerKind::Node => own.node.clone(),
                    AuthorizerKind::Rbac => own.rbac.clone(),
                    AuthorizerKind::Webhook(webhook) => {
                        let file = webhook.connection_info.kube_config_file.clone().unwrap_or_default();
                        let config = client_config(Path::new(&file)).map_err(|why| format!("{file}: {why}"))?;
                        let (client, metrics) = (client.clone(), metrics.clone());
                        Arc::new(WebhookAuthorizer::new(&entry.name, webhook, config, client, metrics))
                    }
                });
            }
            replaced.replace(Authorizers(list));
            Ok(())
        };
        follow("authorization-config", path, apply, shutdown)?;
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

/// Applies a file now, which must work, and again whenever it changes.
fn follow(
    flag: &'static str,
    path: &Path,
    apply: impl Fn(&str) -> Result<(), String> + Send + Sync + 'static,
    shutdown: &CancellationToken,
) -> Result<(), String> {
    let mut seen = read(path).and_then(|text| apply(&text).map(|()| text)).map_err(|why| wrong(flag, path, &why))?;
    let (path, shutdown): (PathBuf, _) = (path.to_owned(), shutdown.clone());
    base::tasks::detach(flag, async move {
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            let text = match read(&path) {
                Ok(text) if text == seen => continue,
                Ok(text) => text,
                Err(why) => {
                    tracing::error!(
                        error = wrong(flag, &path, &why),
                        "a file cannot be read; its last contents stay in force"
                    );
                    continue;
                }
            };
            match apply(&text) {
                Ok(()) => tracing::info!(path = %path.display(), "a changed file is in force"),
                Err(why) => {
                    tracing::error!(
                        error = wrong(flag, &path, &why),
                        "a changed file is wrong; its last contents stay in force"
                    );
                }
            }
            seen = text;
        }
    });
    Ok(())
}

fn read(path: &Path) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|e| e.to_string())
}

fn wrong(flag: &str, path: &Path, why: &str) -> String {
    format!("{flag} {}: {why}", path.display())
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
