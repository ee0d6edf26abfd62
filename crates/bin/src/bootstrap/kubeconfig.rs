//! kubeconfig files: our own, and merging it into the invoking user's.

use super::files::{self, FileError};
use super::pki::KeyCert;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// The name of cluster, user and context in kubeconfig files.
pub(crate) const NAME: &str = "dhow";

/// A kubeconfig could not be written.
#[derive(Debug, Error)]
pub(crate) enum KubeconfigError {
    /// Reading or writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// The user's file is not what kubectl would accept; it is left alone.
    #[error("{} is not a kubeconfig ({why}); use --kubeconfig with dhow's own file instead", path.display())]
    NotKubeconfig {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
}

/// The parts of a kubeconfig with one cluster.
pub(crate) fn kubeconfig(server: &str, ca_pem: &str, user: &KeyCert) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {"server": server, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": NAME, "user": {
            "client-certificate-data": STANDARD.encode(&user.cert_pem),
            "client-key-data": STANDARD.encode(&user.key_pem),
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME}}],
        "current-context": NAME,
        "preferences": {},
    })
}

/// Writes `config` as the whole file.
pub(crate) fn write(path: &Path, config: &Value) -> Result<(), KubeconfigError> {
    Ok(files::write(path, to_yaml(config).as_bytes(), 0o600)?)
}

/// Puts our entries into the file at `path`, keeping everything else; makes dhow current if nothing was.
pub(crate) fn merge(path: &Path, config: &Value) -> Result<(), KubeconfigError> {
    let merged = match read(path)? {
        None => config.clone(),
        Some(theirs) => merged(theirs, config),
    };
    Ok(files::write(path, to_yaml(&merged).as_bytes(), 0o600)?)
}

/// Takes our entries out of the file at `path` again.
pub(crate) fn unmerge(path: &Path) -> Result<(), KubeconfigError> {
    let Some(mut theirs) = read(path)? else { return Ok(()) };
    for list in ["clusters", "users", "contexts"] {
        if let Some(items) = theirs.get_mut(list).and_then(Value::as_array_mut) {
            items.retain(|item| item["name"] != NAME);
        }
    }
    if theirs["current-context"] == NAME {
        theirs["current-context"] = "".into();
    }
    Ok(files::write(path, to_yaml(&theirs).as_bytes(), 0o600)?)
}

fn read(path: &Path) -> Result<Option<Value>, KubeconfigError> {
    let bad = |why: String| KubeconfigError::NotKubeconfig { path: path.to_owned(), why };
    let Some(content) = files::read(path)? else { return Ok(None) };
    let text = String::from_utf8(content).map_err(|e| bad(e.to_string()))?;
    if text.trim().is_empty() {
        return Ok(None);
    }
    let value: Value = serde_saphyr::from_str(&text).map_err(|e| bad(e.to_string()))?;
    if value.is_object() { Ok(Some(value)) } else { Err(bad("it is not a YAML mapping".into())) }
}

fn merged(mut theirs: Value, ours: &Value) -> Value {
    for list in ["clusters", "users", "contexts"] {
        let mut items: Vec<Value> = theirs[list].as_array().cloned().unwrap_or_default();
        items.retain(|item| item["name"] != NAME);
        items.extend(ours[list].as_array().cloned().unwrap_or_default());
        theirs[list] = items.into();
    }
    if theirs["current-context"].as_str().unwrap_or_default().is_empty() {
        theirs["current-context"] = NAME.into();
    }
    for key in ["apiVersion", "kind"] {
        if theirs[key].is_null() {
            theirs[key] = ours[key].clone();
        }
    }
    theirs
}

/// JSON is YAML; indented, so that people can read it.
fn to_yaml(value: &Value) -> String {
    let mut text = serde_json::to_string_pretty(value).expect("a JSON value prints");
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> KeyCert {
        KeyCert { cert_pem: "C".into(), key_pem: "K".into() }
    }

    #[test]
    fn merging_keeps_what_others_wrote_and_unmerging_restores_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("config");
        let theirs = "apiVersion: v1\nkind: Config\nclusters:\n- name: prod\n  cluster: {server: 'https://x'}\n\
                      users: []\ncontexts: []\ncurrent-context: prod\n";
        std::fs::write(&path, theirs).expect("temp file");
        merge(&path, &kubeconfig("https://127.0.0.1:1", "CA", &pair())).expect("merges");
        merge(&path, &kubeconfig("https://127.0.0.1:2", "CA", &pair())).expect("merges again");
        let value = read(&path).expect("reads").expect("is there");
        assert_eq!(value["current-context"], "prod");
        assert_eq!(value["clusters"].as_array().map(Vec::len), Some(2));
        assert_eq!(value["clusters"][1]["cluster"]["server"], "https://127.0.0.1:2");
        unmerge(&path).expect("unmerges");
        let value = read(&path).expect("reads").expect("is there");
        assert_eq!(value["clusters"].as_array().map(Vec::len), Some(1));
    }

    #[test]
    fn a_foreign_file_is_left_alone() {
        let dir = tempfile::tempdir().expect("temp dir");
        let path = dir.path().join("config");
        std::fs::write(&path, "- just a list\n").expect("temp file");
        let error = merge(&path, &kubeconfig("s", "CA", &pair())).expect_err("must refuse");
        assert!(error.to_string().contains("not a kubeconfig"), "{error}");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "- just a list\n");
    }
}
