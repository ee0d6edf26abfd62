//! The kubeconfig by which an authentication or authorization webhook is reached: the current context's cluster and user
//! (`client-go/tools/clientcmd`). Reading the files that it names is the caller's.

use crate::webhook_client::{ClientConfig, Credentials, Proxy, Reach, Target};
use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::Deserialize;

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct File {
    clusters: Vec<NamedCluster>,
    users: Vec<NamedUser>,
    contexts: Vec<NamedContext>,
    current_context: String,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: String,
    certificate_authority_data: String,
    insecure_skip_tls_verify: bool,
    tls_server_name: String,
    proxy_url: String,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: String,
    client_certificate_data: String,
    client_key: String,
    client_key_data: String,
    token: String,
    #[serde(rename = "tokenFile")]
    token_file: String,
    username: String,
    password: String,
    exec: Option<serde_json::Value>,
    auth_provider: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
}

/// How to reach the webhook. `read` gives the bytes of a file that the kubeconfig names.
pub fn parse(text: &str, read: &dyn Fn(&str) -> Result<Vec<u8>, String>) -> Result<ClientConfig, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let context = match file.current_context.as_str() {
        "" => None,
        name => {
            let found = file.contexts.iter().find(|c| c.name == name);
            Some(&found.ok_or_else(|| format!("context {name:?} does not exist"))?.context)
        }
    };
    let cluster = match context {
        Some(Context { cluster: name, .. }) => file.clusters.iter().find(|c| c.name == *name).map(|c| &c.cluster),
        None => None,
    };
    let cluster = cluster.ok_or("invalid configuration: no configuration has been provided")?;
    let user = context.and_then(|c| file.users.iter().find(|u| u.name == c.user)).map(|u| &u.user);
    check_supported(cluster, user)?;
    let data = |inline: &str, path: &str| match (inline, path) {
        ("", "") => Ok(None),
        ("", path) => read(path).map(Some),
        (inline, _) => BASE64.decode(inline).map(Some).map_err(|e| e.to_string()),
    };
    let ca_bundle = data(&cluster.certificate_authority_data, &cluster.certificate_authority)?.unwrap_or_default();
    let mut credentials = Credentials::default();
    if let Some(user) = user {
        let chain = data(&user.client_certificate_data, &user.client_certificate)?;
        let key = data(&user.client_key_data, &user.client_key)?;
        credentials.identity = match (chain, key) {
            (Some(chain), Some(key)) => Some((chain, key)),
            (None, None) => None,
            _ => return Err("client-certificate and client-key belong together; give both or none".into()),
        };
        credentials.authorization = authorization(user, read)?;
    }
    // What follows the path is nothing to client-go (`rest.NewRESTClient`).
    let url = cluster.server.split(['?', '#']).next().unwrap_or_default();
    let reach = reach(cluster, &ca_bundle)?;
    Ok(ClientConfig { target: Target::Url(url.to_owned()), ca_bundle, credentials, reach })
}

fn reach(cluster: &Cluster, ca_bundle: &[u8]) -> Result<Reach, String> {
    let unchecked = cluster.insecure_skip_tls_verify;
    if unchecked && !ca_bundle.is_empty() {
        return Err("specifying a root certificates file with the insecure flag is not allowed".into());
    }
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    let proxy = given(&cluster.proxy_url).map(|url| Proxy::parse(&url)).transpose();
    let proxy = proxy.map_err(|why| format!("invalid 'proxy-url' {:?}: {why}", cluster.proxy_url))?;
    Ok(Reach { server_name: given(&cluster.tls_server_name), unchecked, proxy })
}

/// What we do not do is refused by name (why `exec` is: `docs/decisions/0008-…`).
fn check_supported(cluster: &Cluster, user: Option<&User>) -> Result<(), String> {
    if !["https://", "http://"].iter().any(|scheme| cluster.server.starts_with(scheme)) {
        return Err(format!("unsupported: the server {:?} is no URL", cluster.server));
    }
    let unsupported = [
        (user.is_some_and(|u| u.exec.is_some()), "exec"),
        (user.is_some_and(|u| u.auth_provider.is_some()), "auth-provider"),
    ];
    match unsupported.iter().find(|(is_set, _)| *is_set) {
        Some((_, name)) => Err(format!("unsupported: {name} in the kubeconfig of a webhook")),
        None => Ok(()),
    }
}

fn authorization(user: &User, read: &dyn Fn(&str) -> Result<Vec<u8>, String>) -> Result<Option<String>, String> {
    if !user.token_file.is_empty() {
        let token = String::from_utf8(read(&user.token_file)?).map_err(|e| e.to_string())?;
        return Ok(Some(format!("Bearer {}", token.trim())));
    }
    Ok(match (user.token.as_str(), user.username.as_str()) {
        ("", "") => None,
        ("", name) => Some(format!("Basic {}", BASE64.encode(format!("{name}:{}", user.password)))),
        (token, _) => Some(format!("Bearer {token}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(user: &str, cluster: &str) -> String {
        let text = format!(
            "current-context: c\ncontexts: [{{name: c, context: {{cluster: k, user: u}}}}]\nclusters: [{{name: k, cluster: {{{cluster}}}}}]\nusers: [{{name: u, user: {{{user}}}}}]"
        );
        match parse(&text, &|path| Ok(format!("<{path}>").into_bytes())) {
            Ok(config) => format!(
                "{:?} {} {:?} {}",
                config.target,
                String::from_utf8_lossy(&config.ca_bundle),
                config.credentials.authorization,
                config.credentials.identity.is_some()
            ),
            Err(why) => why,
        }
    }

    #[test]
    fn the_current_context_counts() {
        let cluster = "server: https://h/x, certificate-authority: ca.pem";
        assert_eq!(check("token: t", cluster), r#"Url("https://h/x") <ca.pem> Some("Bearer t") false"#);
        assert_eq!(check("client-certificate: c, client-key: k", cluster), r#"Url("https://h/x") <ca.pem> None true"#);
        assert_eq!(
            check("username: a, password: b", cluster),
            r#"Url("https://h/x") <ca.pem> Some("Basic YTpi") false"#
        );
        assert_eq!(check("exec: {command: x}", cluster), "unsupported: exec in the kubeconfig of a webhook");
        assert_eq!(check("", "server: http://h"), r#"Url("http://h")  None false"#);
        assert_eq!(check("", "server: 'http://h/x?a=b#c'"), r#"Url("http://h/x")  None false"#);
        let insecure = "server: https://h, insecure-skip-tls-verify: true";
        assert_eq!(check("", insecure), r#"Url("https://h")  None false"#);
        assert_eq!(
            check("", &format!("{insecure}, certificate-authority: ca.pem")),
            "specifying a root certificates file with the insecure flag is not allowed"
        );
        assert_eq!(check("", "server: https://h, proxy-url: 'socks5://a:b@p'"), r#"Url("https://h")  None false"#);
        assert_eq!(
            check("", "server: https://h, proxy-url: 'ftp://p'"),
            r#"invalid 'proxy-url' "ftp://p": unsupported scheme "ftp", must be http, https, or socks5"#
        );
        assert_eq!(check("", "server: h"), r#"unsupported: the server "h" is no URL"#);
        let none = parse("{}", &|_| Ok(Vec::new())).expect_err("nothing in it");
        assert_eq!(none, "invalid configuration: no configuration has been provided");
    }
}
