//! [`Images`] over crate `image`.
//!
//! Root file systems of pods are called `pod-<container id>` in the store, so that those of other users of the same
//! store are never taken for leftovers of ours.

use crate::credential_providers::url_matches;
use crate::engine::Rootfs;
use crate::images::{Credential, Image, ImageConfig, ImageError, Images};
use async_trait::async_trait;
use image::{ImageStore, Reference, Transfer};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

const PREFIX: &str = "pod-";

/// The image store of this node.
pub struct StoreImages {
    store: ImageStore,
    root: PathBuf,
}

impl StoreImages {
    /// `root` is the directory that the store was opened with.
    pub fn new(store: ImageStore, root: PathBuf) -> Self {
        StoreImages { store, root }
    }
}

/// The container that a root file system or an image volume (`pod-<container id>.<volume>`) was made for.
fn container_of(snapshot: &str) -> Option<&str> {
    snapshot.strip_prefix(PREFIX)?.split('.').next()
}

fn failed(error: image::ImageError) -> ImageError {
    ImageError::Failed(base::chain(&error))
}

/// The name in full.
pub(super) fn reference(text: &str) -> Result<Reference, ImageError> {
    text.parse()
        .map_err(|e: image::ReferenceError| ImageError::InvalidName { reference: text.to_owned(), why: e.to_string() })
}

fn translate(image: &image::Image) -> Image {
    let config = &image.config;
    Image {
        id: image.id.to_string(),
        digest_reference: image.digests.first().cloned().unwrap_or_else(|| image.id.to_string()),
        names: image.digests.iter().chain(&image.names).cloned().collect(),
        size: image.size,
        pull_time: None,
        pulled_with: None,
        config: ImageConfig {
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
            env: config.env.clone(),
            user: config.user.clone(),
            working_dir: config.working_dir.clone(),
            stop_signal: config.stop_signal.clone(),
        },
    }
}

#[async_trait]
impl Images for StoreImages {
    async fn find(&self, text: &str) -> Result<Option<Image>, ImageError> {
        // The store also finds by the beginning of an id, which a pod's image never means.
        let name = if text.starts_with("sha256:") { text.to_owned() } else { reference(text)?.to_string() };
        Ok(self.store.find(&name).map(|found| translate(&found)))
    }

    async fn pull(&self, text: &str, credentials: &[Credential]) -> Result<Image, ImageError> {
        let reference = reference(text)?;
        let begun = Instant::now();
        let mut last = None;
        // One after the other, as the kubelet does; without any if none fits.
        let logins = logins(&reference, credentials);
        let logins = if logins.is_empty() { vec![None] } else { logins.into_iter().map(Some).collect() };
        for login in logins {
            let credentials = login.map(|c| image::Credentials {
                username: c.username.clone(),
                password: c.password.clone(),
                identity_token: None,
            });
            match self.store.pull(&reference, &Transfer { credentials, ..Transfer::default() }).await {
                Ok(pulled) => {
                    let (pull_time, pulled_with) = (Some(begun.elapsed()), login.cloned());
                    return Ok(Image { pull_time, pulled_with, ..translate(&pulled) });
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.map_or_else(|| ImageError::Failed("no attempt was made".into()), failed))
    }

    async fn prepare(&self, id: &str, container: &str) -> Result<Rootfs, ImageError> {
        let found: Arc<image::Image> =
            self.store.find(id).ok_or_else(|| ImageError::Failed(format!("image {id} is not on this node")))?;
        let root = self.store.prepare(&format!("{PREFIX}{container}"), &found).await.map_err(failed)?;
        Ok(Rootfs { lower: root.lower, upper: root.upper, work: root.work })
    }

    async fn layers(&self, id: &str, container: &str, volume: &str) -> Result<Vec<PathBuf>, ImageError> {
        Ok(self.prepare(id, &format!("{container}.{volume}")).await?.lower)
    }

    fn user_files(&self, id: &str) -> Result<Option<(String, String)>, ImageError> {
        let found = self.store.find(id).ok_or_else(|| ImageError::Failed(format!("image {id} is not on this node")))?;
        let files = self.store.files(&found);
        let read = |path: &str| {
            let text = files.read(path).map_err(|e| ImageError::Failed(format!("failed to read {path} of {id}: {e}")));
            text.map(Option::unwrap_or_default)
        };
        Ok(Some((read("/etc/passwd")?, read("/etc/group")?)))
    }

    async fn release(&self, container: &str) -> Result<(), ImageError> {
        let roots = self.store.snapshots().into_iter().filter(|(id, _)| container_of(id) == Some(container));
        for (id, _) in roots {
            self.store.remove_snapshot(&id).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn retain(&self, containers: &[String]) -> Result<(), ImageError> {
        for (id, _) in self.store.snapshots() {
            if let Some(container) = container_of(&id)
                && !containers.iter().any(|c| c == container)
            {
                self.store.remove_snapshot(&id).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        Ok(self.store.list().iter().map(|i| translate(i)).collect())
    }

    async fn in_use(&self) -> Result<Vec<String>, ImageError> {
        Ok(self.store.snapshots().into_iter().map(|(_, image)| image.to_string()).collect())
    }

    async fn remove(&self, id: &str) -> Result<u64, ImageError> {
        self.store.remove(id).await.map(|removed| removed.bytes).map_err(failed)
    }

    fn upper(&self, container: &str) -> Option<PathBuf> {
        self.store.upper(&format!("{PREFIX}{container}"))
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }
}

/// Logins whose key fits the image, the most particular first (`pkg/credentialprovider/keyring.go`).
pub(crate) fn logins<'a>(reference: &Reference, credentials: &'a [Credential]) -> Vec<&'a Credential> {
    let wanted = reference.name();
    let fits = |c: &&Credential| {
        let key = registry_key(&c.registry);
        let particular = wanted == key || wanted.strip_prefix(&key).is_some_and(|rest| rest.starts_with('/'));
        particular || key.contains(['*', '?']) && url_matches(&key, &wanted)
    };
    let mut found: Vec<&Credential> = credentials.iter().filter(fits).collect();
    found.sort_by_key(|c| std::cmp::Reverse(registry_key(&c.registry).len()));
    found
}

/// `https://index.docker.io/v1/` → `docker.io`.
fn registry_key(text: &str) -> String {
    let bare = text.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
    let bare = bare.strip_suffix("/v1").or_else(|| bare.strip_suffix("/v2")).unwrap_or(bare);
    match bare {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        other => other.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins_fit_by_host_and_path() {
        let credential = |registry: &str| Credential {
            registry: registry.into(),
            username: registry.into(),
            password: String::new(),
            secret: None,
        };
        let all = [
            "https://index.docker.io/v1/",
            "r.example",
            "r.example/team",
            "r.example.evil",
            "other",
            "*.cloud.example",
        ]
        .map(credential);
        let check = |image: &str, want: &[&str]| {
            let reference: Reference = image.parse().expect("a reference");
            let got: Vec<&str> = logins(&reference, &all).into_iter().map(|c| c.username.as_str()).collect();
            assert_eq!(got, want, "{image}");
        };
        check("nginx", &["https://index.docker.io/v1/"]);
        check("r.example/team/app:1", &["r.example/team", "r.example"]);
        check("r.example/teams/app", &["r.example"]);
        check("eu.cloud.example/app", &["*.cloud.example"]);
        check("quay.example/x", &[]);
    }
}
