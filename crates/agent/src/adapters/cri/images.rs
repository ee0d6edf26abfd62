//! [`Images`] over the runtime's image service. Root file systems are the runtime's business.

use super::super::images::{logins, reference};
use super::{CriError, ImageService, Runtime, call, watch};
use crate::engine::Rootfs;
use crate::images::{Credential, Image, ImageConfig, ImageError, Images};
use async_trait::async_trait;
use image::Reference;
use node_api::cri::{
    AuthConfig, Image as CriImage, ImageFsInfoRequest, ImageSpec, ImageStatusRequest, ListImagesRequest,
    PullImageRequest, RemoveImageRequest,
};
use std::path::PathBuf;
use std::time::Instant;

/// The images of a foreign runtime.
pub struct CriImages {
    service: ImageService,
    runtime: Runtime,
    root: PathBuf,
}

impl CriImages {
    pub(super) async fn open(service: ImageService, runtime: Runtime) -> Result<Self, CriError> {
        let info = call(service.clone().image_fs_info(ImageFsInfoRequest {})).await?;
        let mountpoint = info.image_filesystems.into_iter().find_map(|f| f.fs_id).map(|id| id.mountpoint);
        let root = mountpoint.filter(|m| !m.is_empty()).ok_or(CriError::Empty("ImageFsInfo"))?;
        Ok(CriImages { service, runtime, root: root.into() })
    }

    async fn status(&self, name: &str) -> Result<Option<Image>, ImageError> {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        let request = ImageStatusRequest { image, verbose: false };
        let answer = call(self.service.clone().image_status(request)).await.map_err(failed)?;
        Ok(answer.image.map(translate))
    }

    async fn pull_with(&self, name: &str, auth: Option<AuthConfig>) -> Result<Image, ImageError> {
        let image = Some(ImageSpec { image: name.to_owned(), ..ImageSpec::default() });
        let request = PullImageRequest { image, auth, sandbox_config: None };
        // As long as it takes: whoever waits may give up.
        let pulled = self.service.clone().pull_image(request).await.map_err(|e| failed(CriError::from(e)))?;
        let reference = pulled.into_inner().image_ref;
        let found = self.status(&reference).await?;
        found.ok_or_else(|| ImageError::Failed(format!("failed to find the image {reference} that was pulled")))
    }
}

fn failed(error: CriError) -> ImageError {
    ImageError::Failed(error.to_string())
}

fn translate(image: CriImage) -> Image {
    let user = match &image.uid {
        Some(uid) => uid.value.to_string(),
        None => image.username.clone(),
    };
    Image {
        digest_reference: image.repo_digests.first().cloned().unwrap_or_else(|| image.id.clone()),
        id: image.id,
        names: image.repo_tags.into_iter().chain(image.repo_digests).collect(),
        size: image.size,
        pull_time: None,
        pulled_with: None,
        config: ImageConfig { user, ..ImageConfig::default() },
    }
}

#[async_trait]
impl Images for CriImages {
    async fn find(&self, text: &str) -> Result<Option<Image>, ImageError> {
        if text.starts_with("sha256:") {
            return self.status(text).await;
        }
        self.status(&reference(text)?.to_string()).await
    }

    async fn pull(&self, text: &str, credentials: &[Credential]) -> Result<Image, ImageError> {
        let reference: Reference = reference(text)?;
        let (name, begun) = (reference.to_string(), Instant::now());
        // One after the other, as the kubelet does; without any if none fits.
        let mut logins: Vec<Option<&Credential>> = logins(&reference, credentials).into_iter().map(Some).collect();
        if logins.is_empty() {
            logins.push(None);
        }
        let mut last = None;
        for login in logins {
            let auth = login.map(|c| AuthConfig {
                username: c.username.clone(),
                password: c.password.clone(),
                ..AuthConfig::default()
            });
            match self.pull_with(&name, auth).await {
                Ok(image) => {
                    let (pull_time, pulled_with) = (Some(begun.elapsed()), login.cloned());
                    return Ok(Image { pull_time, pulled_with, ..image });
                }
                Err(e) => last = Some(e),
            }
        }
        Err(last.unwrap_or_else(|| ImageError::Failed("no attempt was made".into())))
    }

    async fn prepare(&self, _: &str, _: &str) -> Result<Rootfs, ImageError> {
        Ok(Rootfs::default())
    }

    async fn layers(&self, _: &str, _: &str, _: &str) -> Result<Vec<PathBuf>, ImageError> {
        Ok(Vec::new())
    }

    fn user_files(&self, _: &str) -> Result<Option<(String, String)>, ImageError> {
        Ok(None)
    }

    async fn release(&self, _: &str) -> Result<(), ImageError> {
        Ok(())
    }

    async fn retain(&self, _: &[String]) -> Result<(), ImageError> {
        Ok(())
    }

    async fn list(&self) -> Result<Vec<Image>, ImageError> {
        let all = call(self.service.clone().list_images(ListImagesRequest::default())).await.map_err(failed)?;
        Ok(all.images.into_iter().map(translate).collect())
    }

    async fn in_use(&self) -> Result<Vec<String>, ImageError> {
        let (_, containers) = watch::lists(&self.runtime).await.map_err(failed)?;
        let mut names: Vec<String> = Vec::new();
        for c in containers {
            // Runtimes that do not tell the id tell something that finds the image.
            let id = if c.image_id.is_empty() { c.image_ref } else { c.image_id };
            match self.status(&id).await? {
                Some(image) => names.push(image.id),
                None => names.push(id),
            }
        }
        // Sandboxes run from images that runtimes pin.
        let all = call(self.service.clone().list_images(ListImagesRequest::default())).await.map_err(failed)?;
        names.extend(all.images.into_iter().filter(|i| i.pinned).map(|i| i.id));
        Ok(names)
    }

    async fn remove(&self, id: &str) -> Result<u64, ImageError> {
        let size = self.status(id).await?.map_or(0, |i| i.size);
        let image = Some(ImageSpec { image: id.to_owned(), ..ImageSpec::default() });
        call(self.service.clone().remove_image(RemoveImageRequest { image })).await.map_err(failed)?;
        Ok(size)
    }

    fn upper(&self, _: &str) -> Option<PathBuf> {
        None
    }

    fn root(&self) -> PathBuf {
        self.root.clone()
    }
}
