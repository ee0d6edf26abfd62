//! Programs that know logins for registries: the kubelet's image credential providers (`pkg/credentialprovider/plugin`).
//!
//! An administrator names them in a `CredentialProviderConfig` and puts them into one directory. They are the only programs of the
//! node that dhow runs by itself: the interface is one program per cloud, which the cloud's maker supplies, so there is nothing else
//! to talk to. Asked over standard input, answered over standard output; answers are kept as long as they say. Differs: tokens of
//! service accounts (`tokenAttributes`) are refused when the configuration is read.

use crate::images::Credential;
use base::Clock;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};

/// What a program may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// What it may answer.
const ANSWER_MAX_BYTES: u64 = 1 << 20;
const GROUP: &str = "credentialprovider.kubelet.k8s.io/";
/// Versions of the interface; they differ in nothing that is used here.
const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha1"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    kind: String,
    api_version: String,
    #[serde(default)]
    providers: Vec<Provider>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Provider {
    name: String,
    #[serde(default)]
    match_images: Vec<String>,
    #[serde(default)]
    default_cache_duration: Option<String>,
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    token_attributes: Option<Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Variable {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    kind: String,
    api_version: String,
    cache_key_type: String,
    #[serde(default)]
    cache_duration: Option<String>,
    #[serde(default)]
    auth: BTreeMap<String, Login>,
}

#[derive(Debug, Deserialize)]
struct Login {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

/// An answer that is still good.
#[derive(Debug, Clone)]
struct Kept {
    credentials: Vec<Credential>,
    until: Timestamp,
}

/// All that are configured.
#[derive(Debug, Default)]
pub struct CredentialProviders {
    dir: PathBuf,
    providers: Vec<Provider>,
    /// By program and what the answer is good for: an image, a registry, or everything (`""`).
    kept: Mutex<BTreeMap<(String, String), Kept>>,
}

impl CredentialProviders {
    /// Reads the configuration; `dir` has the programs.
    pub fn load(config: &Path, dir: PathBuf) -> Result<Self, String> {
        let text = std::fs::read_to_string(config).map_err(|e| format!("failed to read {}: {e}", config.display()))?;
        let providers = providers_of(&text).map_err(|e| format!("{}: {e}", config.display()))?;
        match providers.iter().find(|p| !dir.join(&p.name).is_file()) {
            Some(missing) => {
                Err(format!("plugin binary executable {} did not exist", dir.join(&missing.name).display()))
            }
            None => Ok(CredentialProviders { dir, providers, kept: Mutex::default() }),
        }
    }

    /// Logins for a repository such as `registry.example/team/app`, from every program that knows some. One that fails is told of in
    /// the log.
    pub async fn credentials(&self, repository: &str, clock: &dyn Clock) -> Vec<Credential> {
        let mut out = Vec::new();
        for provider in self.providers.iter().filter(|p| p.match_images.iter().any(|m| url_matches(m, repository))) {
            if let Some(kept) = self.kept(&provider.name, repository, clock.now()) {
                out.extend(kept);
                continue;
            }
            match self.ask(provider, repository).await {
                Ok(answer) => out.extend(self.keep(provider, repository, answer, clock.now())),
                Err(error) => tracing::warn!(provider = provider.name, repository, error, "failed to get credentials"),
            }
        }
        out
    }

    fn kept(&self, provider: &str, repository: &str, now: Timestamp) -> Option<Vec<Credential>> {
        let mut kept = self.kept.lock();
        kept.retain(|_, k| now <= k.until);
        let of = |key: &str| kept.get(&(provider.to_owned(), key.to_owned())).map(|k| k.credentials.clone());
        of(repository).or_else(|| of(registry(repository))).or_else(|| of(""))
    }

    fn keep(&self, provider: &Provider, repository: &str, answer: Answer, now: Timestamp) -> Vec<Credential> {
        let login = |(registry, login): (String, Login)| Credential {
            secret: None,
            registry,
            username: login.username,
            password: login.password,
        };
        let credentials: Vec<Credential> = answer.auth.into_iter().map(login).collect();
        let key = match answer.cache_key_type.as_str() {
            "Image" => repository,
            "Registry" => registry(repository),
            _ => "",
        };
        let said = answer.cache_duration.or_else(|| provider.default_cache_duration.clone());
        let duration = said.and_then(|d| machinery::schema::parse_go_duration(&d)).unwrap_or(0);
        if duration > 0 {
            let kept = Kept { credentials: credentials.clone(), until: now + SignedDuration::from_nanos(duration) };
            self.kept.lock().insert((provider.name.clone(), key.to_owned()), kept);
        }
        credentials
    }

    async fn ask(&self, provider: &Provider, repository: &str) -> Result<Answer, String> {
        let request = json!({
            "kind": "CredentialProviderRequest",
            "apiVersion": provider.api_version,
            "image": repository,
        });
        let (program, request) = (self.dir.join(&provider.name), request.to_string());
        let ran = tokio::time::timeout(PATIENCE, run(&program, provider, &request)).await;
        let text = ran.map_err(|_| "context deadline exceeded".to_owned())??;
        answer_of(&text, &provider.api_version)
    }
}

async fn run(program: &Path, provider: &Provider, request: &str) -> Result<Vec<u8>, String> {
    let failed = |e: std::io::Error| format!("error execing credential provider plugin {}: {e}", provider.name);
    let mut child = tokio::process::Command::new(program)
        .args(&provider.args)
        .envs(provider.env.iter().map(|v| (&v.name, &v.value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read what it is asked may still answer.
        stdin.write_all(request.as_bytes()).await.ok();
    }
    let (answer, complaint) = tokio::join!(read_all(child.stdout.take()), read_all(child.stderr.take()));
    let (answer, complaint) = (answer.map_err(failed)?, complaint.map_err(failed)?);
    let status = child.wait().await.map_err(failed)?;
    if status.success() {
        return Ok(answer);
    }
    let complaint = String::from_utf8_lossy(&complaint);
    Err(format!("error execing credential provider plugin {}: {status}: {}", provider.name, complaint.trim()))
}

async fn read_all(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut out = Vec::new();
    if let Some(stream) = stream {
        stream.take(ANSWER_MAX_BYTES).read_to_end(&mut out).await?;
    }
    Ok(out)
}

/// Never tells what was answered: it may be a password.
fn answer_of(text: &[u8], version: &str) -> Result<Answer, String> {
    let undecodable = |_| "error decoding credential provider plugin response from stdout".to_owned();
    let answer: Answer = serde_json::from_slice(text).map_err(undecodable)?;
    if answer.api_version != version {
        return Err(format!(
            "apiVersion from credential plugin response did not match expected apiVersion:{version}, actual apiVersion:{}",
            answer.api_version
        ));
    }
    if answer.kind != "CredentialProviderResponse" {
        return Err(format!("failed to decode CredentialProviderResponse, unexpected Kind: {:?}", answer.kind));
    }
    match answer.cache_key_type.as_str() {
        "Image" | "Registry" | "Global" => Ok(answer),
        other => Err(format!("credential provider plugin did not return a valid cacheKeyType: {other:?}")),
    }
}

/// `validateCredentialProviderConfig`
fn providers_of(text: &str) -> Result<Vec<Provider>, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if file.kind != "CredentialProviderConfig" || !file.api_version.starts_with("kubelet.config.k8s.io/v1") {
        return Err(format!(
            "is a {} {}, not a kubelet.config.k8s.io/v1 CredentialProviderConfig",
            file.api_version, file.kind
        ));
    }
    if file.providers.is_empty() {
        return Err("providers: at least 1 item in plugins is required".into());
    }
    let mut names = std::collections::BTreeSet::new();
    for p in &file.providers {
        let wrong = |what: &str| Err(format!("providers: {:?}: {what}", p.name));
        let period = p.default_cache_duration.as_deref().map(machinery::schema::parse_go_duration);
        if p.name.is_empty() || p.name.contains(['/', ' ']) || p.name == "." || p.name == ".." {
            return wrong("name must be a file name without spaces");
        }
        if !names.insert(&p.name) {
            return wrong("is named twice");
        }
        if !p.api_version.strip_prefix(GROUP).is_some_and(|v| VERSIONS.contains(&v)) {
            return wrong("apiVersion must be credentialprovider.kubelet.k8s.io/v1 or an earlier one");
        }
        if p.match_images.is_empty() {
            return wrong("at least 1 item in matchImages is required");
        }
        if !matches!(period, Some(Some(nanos)) if nanos >= 0) {
            return wrong("defaultCacheDuration must be a duration like 12h, 0s or more");
        }
        if p.token_attributes.is_some() {
            return wrong("tokenAttributes is not supported by dhow");
        }
    }
    Ok(file.providers)
}

fn registry(repository: &str) -> &str {
    repository.split('/').next().unwrap_or(repository)
}

/// Whether a key such as `*.registry.example/team` fits a repository: each part of the host by itself, the same port, the path from
/// its beginning (`URLsMatch`).
pub fn url_matches(glob: &str, repository: &str) -> bool {
    let split = |text: &str| {
        let bare = text.trim_start_matches("https://").trim_start_matches("http://");
        let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
        let (host, port) = host.split_once(':').unwrap_or((host, ""));
        (host.split('.').map(str::to_owned).collect::<Vec<_>>(), port.to_owned(), path.to_owned())
    };
    let ((wanted, port, path), (parts, own_port, own_path)) = (split(glob), split(repository));
    port == own_port
        && own_path.starts_with(&path)
        && wanted.len() == parts.len()
        && wanted.iter().zip(&parts).all(|(glob, part)| part_matches(glob, part))
}

/// `*` is any text, `?` any character.
fn part_matches(glob: &str, part: &str) -> bool {
    match glob.chars().next() {
        None => part.is_empty(),
        Some('*') => {
            (0..=part.len()).filter(|i| part.is_char_boundary(*i)).any(|i| part_matches(&glob[1..], &part[i..]))
        }
        Some(c) => part
            .chars()
            .next()
            .is_some_and(|p| (c == '?' || c == p) && part_matches(&glob[c.len_utf8()..], &part[p.len_utf8()..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SystemClock;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn images_match_part_by_part() {
        for (glob, repository, want) in [
            ("*.dkr.ecr.*.amazonaws.com", "123.dkr.ecr.us-east-1.amazonaws.com/a", true),
            ("*.io", "registry.k8s.io/pause", false),
            ("gcr.io/team", "gcr.io/team/app", true),
            ("gcr.io/team", "gcr.io/other", false),
            ("r.example:5000", "r.example/x", false),
            ("r?.ex*le", "r1.example/x", true),
        ] {
            assert_eq!(url_matches(glob, repository), want, "{glob} {repository}");
        }
    }

    fn config(provider: &str) -> String {
        format!("apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders: [{provider}]")
    }

    const GOOD: &str = "{name: p, matchImages: ['*.example'], defaultCacheDuration: 1h, apiVersion: credentialprovider.kubelet.k8s.io/v1, \
        args: [--fast], env: [{name: WHO, value: me}]}";

    #[test]
    fn a_configuration_is_checked() {
        let error = |provider: &str| providers_of(&config(provider)).expect_err("is wrong");
        assert!(error("").contains("at least 1 item in plugins"));
        assert!(error(&GOOD.replace("name: p,", "name: ../p,")).contains("file name"));
        assert!(error(&GOOD.replace("/v1", "/v9")).contains("apiVersion"));
        assert!(error(&GOOD.replace("1h", "soon")).contains("defaultCacheDuration"));
        assert!(error(&GOOD.replace("args", "tokenAttributes: {}, args")).contains("tokenAttributes is not supported"));
        assert!(error(&format!("{GOOD}, {GOOD}")).contains("twice"));
    }

    #[tokio::test]
    async fn a_program_is_asked_once_for_a_registry() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("config.yaml");
        std::fs::write(&file, config(GOOD)).expect("written");
        let missing = CredentialProviders::load(&file, dir.path().into()).expect_err("no program");
        assert!(missing.ends_with("/p did not exist"), "{missing}");
        let script = "#!/bin/sh\nread request\necho \"$WHO $1 $request\" >>\"$0.asked\"\n\
            echo '{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\
            \"cacheKeyType\":\"Registry\",\"auth\":{\"r.example\":{\"username\":\"u\",\"password\":\"p\"}}}'\n";
        let program = dir.path().join("p");
        std::fs::write(&program, script).expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("executable");
        let providers = CredentialProviders::load(&file, dir.path().into()).expect("valid");
        let want =
            Credential { registry: "r.example".into(), username: "u".into(), password: "p".into(), secret: None };
        for repository in ["r.example/a", "r.example/b"] {
            assert_eq!(providers.credentials(repository, &SystemClock).await, std::slice::from_ref(&want));
        }
        assert_eq!(providers.credentials("elsewhere.org/a", &SystemClock).await, []);
        let asked = std::fs::read_to_string(dir.path().join("p.asked")).expect("it was asked");
        assert!(asked.starts_with("me --fast {") && asked.contains(r#""image":"r.example/a""#), "{asked}");
        assert_eq!(asked.lines().count(), 1);
    }
}
