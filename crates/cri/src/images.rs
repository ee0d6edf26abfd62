//! Images: found, pulled, removed, counted.

use crate::{Shared, error};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use image::{Credentials, DiskUse, Image, Reference, Transfer};
use node_api::cri::{self, AuthConfig, FilesystemIdentifier, FilesystemUsage, Int64Value, UInt64Value};
use std::sync::Arc;
use tonic::Status;

impl Shared {
    /// By any of its names, its id or the beginning of it.
    pub(crate) fn find_image(&self, text: &str) -> Option<Arc<Image>> {
        let by_name = || text.parse::<Reference>().ok().and_then(|r| self.images.find(&r.to_string()));
        by_name().or_else(|| self.images.find(text))
    }

    pub(crate) fn image(&self, text: &str) -> Result<Arc<Image>, Status> {
        self.find_image(text).ok_or_else(|| Status::not_found(format!("image {text:?} not found")))
    }

    /// All, or the one that is named.
    pub(crate) fn list_images(&self, named: &str) -> Vec<cri::Image> {
        match named {
            "" => self.images.list().iter().map(|i| describe(i)).collect(),
            name => self.find_image(name).iter().map(|i| describe(i)).collect(),
        }
    }

    /// Brings it here; its id.
    pub(crate) async fn pull_image(&self, name: &str, auth: Option<AuthConfig>) -> Result<String, Status> {
        let reference: Reference = name.parse().map_err(|e: image::ReferenceError| error::image(e.into()))?;
        let transfer = Transfer { credentials: auth.map(credentials).transpose()?.flatten(), ..Transfer::default() };
        let image = self.images.pull(&reference, &transfer).await.map_err(error::image)?;
        Ok(image.id.to_string())
    }

    /// Removes it with all its names. Fine if there is none.
    pub(crate) async fn remove_image(&self, name: &str) -> Result<(), Status> {
        let Some(image) = self.find_image(name) else { return Ok(()) };
        match self.images.remove(&image.id.to_string()).await {
            // Somebody else was faster.
            Err(e) if e.is_not_found() => Ok(()),
            other => other.map(drop).map_err(error::image),
        }
    }

    /// What images and the writable layers of containers take, which lie on one file system.
    pub(crate) async fn image_fs(&self) -> Result<FilesystemUsage, Status> {
        let dir = self.config.images_dir.clone();
        let timestamp = self.now_ns();
        let walked = dir.clone();
        let used = tokio::task::spawn_blocking(move || DiskUse::of(&walked)).await.map_err(|e| error::other(&e))?;
        Ok(FilesystemUsage {
            timestamp,
            fs_id: Some(FilesystemIdentifier { mountpoint: dir.to_string_lossy().into_owned() }),
            used_bytes: Some(UInt64Value { value: used.bytes }),
            inodes_used: Some(UInt64Value { value: used.inodes }),
        })
    }
}

/// An image in the interface's words.
pub(crate) fn describe(image: &Image) -> cri::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<i64>().ok();
    cri::Image {
        id: image.id.to_string(),
        repo_tags: image.names.clone(),
        repo_digests: image.digests.clone(),
        size: image.size,
        uid: uid.map(|value| Int64Value { value }),
        username: if uid.is_none() { user.to_owned() } else { String::new() },
        ..cri::Image::default()
    }
}

/// A login as kubelets send it; `auth` is `user:password` in base64. `None`: nothing was said.
fn credentials(auth: AuthConfig) -> Result<Option<Credentials>, Status> {
    if !auth.registry_token.is_empty() {
        return Err(error::unsupported("a registry token"));
    }
    let identity_token = Some(auth.identity_token).filter(|t| !t.is_empty());
    if !auth.username.is_empty() || identity_token.is_some() {
        return Ok(Some(Credentials { username: auth.username, password: auth.password, identity_token }));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    let invalid = || Status::invalid_argument("invalid authorization: not base64 of user:password");
    let text = STANDARD.decode(&auth.auth).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(invalid)?;
    let (username, password) = text.split_once(':').ok_or_else(invalid)?;
    let password = password.trim_matches('\0').to_owned();
    Ok(Some(Credentials { username: username.to_owned(), password, identity_token: None }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logins() {
        let auth = |username: &str, auth: &str| AuthConfig {
            username: username.into(),
            password: "p".into(),
            auth: auth.into(),
            ..AuthConfig::default()
        };
        let login = |a: AuthConfig| credentials(a).map(|c| c.map(|c| format!("{}/{}", c.username, c.password)));
        assert_eq!(login(auth("me", "")).expect("valid").as_deref(), Some("me/p"));
        assert_eq!(login(auth("", "dXNlcjpwYXNz")).expect("valid").as_deref(), Some("user/pass"));
        assert_eq!(login(AuthConfig::default()).expect("valid"), None);
        assert_eq!(login(auth("", "!")).expect_err("no base64").code(), tonic::Code::InvalidArgument);
        let token = AuthConfig { registry_token: "t".into(), ..AuthConfig::default() };
        assert_eq!(login(token).expect_err("is refused").code(), tonic::Code::Unimplemented);
    }
}
