//! What `dhow image` does, in whichever process owns the store.

use crate::cli::ImageCommand;
use crate::control::Reply;
use image::{Image, ImageStore, Options, Progress, Reference, Registries, State, Transfer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc::UnboundedSender;

/// [`ImageCommand`] as it goes over the control socket; paths are absolute.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ImageRequest {
    Pull(String),
    Push(String),
    Import(PathBuf, Option<String>),
    Export(String, PathBuf),
    Ls,
    Inspect(String),
    Tag(String, String),
    Rm(Vec<String>),
    Prune,
}

impl ImageRequest {
    /// The request that a command line means.
    pub(crate) fn of(command: ImageCommand) -> std::io::Result<Self> {
        Ok(match command {
            ImageCommand::Pull { reference } => ImageRequest::Pull(reference),
            ImageCommand::Push { reference } => ImageRequest::Push(reference),
            ImageCommand::Import { path, name } => ImageRequest::Import(std::path::absolute(path)?, name),
            ImageCommand::Export { reference, output } => ImageRequest::Export(reference, std::path::absolute(output)?),
            ImageCommand::Ls => ImageRequest::Ls,
            ImageCommand::Inspect { reference } => ImageRequest::Inspect(reference),
            ImageCommand::Tag { reference, name } => ImageRequest::Tag(reference, name),
            ImageCommand::Rm { references } => ImageRequest::Rm(references),
            ImageCommand::Prune => ImageRequest::Prune,
        })
    }
}

/// Opens the store of a data directory. Blocks; fails if another process has it.
pub(crate) fn open(data_dir: &Path, registries: &Path) -> Result<ImageStore, String> {
    let registries = match std::fs::read_to_string(registries) {
        Ok(text) => serde_saphyr::from_str::<Registries>(&text)
            .map_err(|e| format!("{} is not a valid registry configuration: {e}", registries.display()))?,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Registries::default(),
        Err(e) => return Err(format!("failed to read {}: {e}", registries.display())),
    };
    let options = Options { registries, ..Options::default() };
    let store = ImageStore::open(&data_dir.join("images"), options).map_err(|e| base::chain(&e))?;
    if let Err(error) = runtime::selinux::label_layers(&data_dir.join("images/layers")) {
        tracing::warn!(%error, "the layers of images have not got the SELinux label that lets containers use them");
    }
    Ok(store)
}

/// Does it. Errors are sentences.
pub(crate) async fn run(
    store: &ImageStore,
    request: ImageRequest,
    replies: UnboundedSender<Reply>,
) -> Result<Value, String> {
    let text = |e: image::ImageError| base::chain(&e);
    match request {
        ImageRequest::Pull(name) => {
            let image = store.pull(&parse(&name)?, &transfer(replies)).await.map_err(text)?;
            Ok(describe(&image))
        }
        ImageRequest::Push(name) => {
            store.push(&parse(&name)?, &transfer(replies)).await.map_err(text)?;
            Ok(json!({"pushed": name}))
        }
        ImageRequest::Import(path, name) => {
            let images = store.import(&path).await.map_err(text)?;
            let images = match (name, images.as_slice()) {
                (None, _) => images,
                (Some(name), [one]) => vec![store.tag(&one.id.to_string(), &parse(&name)?).map_err(text)?],
                (Some(_), many) => {
                    return Err(format!(
                        "--name needs an archive with one image; {} has {}",
                        path.display(),
                        many.len()
                    ));
                }
            };
            Ok(images.iter().map(|i| describe(i)).collect())
        }
        ImageRequest::Export(name, path) => {
            let file =
                std::fs::File::create_new(&path).map_err(|e| format!("failed to create {}: {e}", path.display()))?;
            match store.export(std::slice::from_ref(&name), file).await {
                Ok(()) => Ok(json!({"written": path})),
                Err(error) => {
                    // Half an archive helps nobody; the error is what matters.
                    drop(std::fs::remove_file(&path));
                    Err(text(error))
                }
            }
        }
        ImageRequest::Ls => Ok(store.list().iter().map(|i| describe(i)).collect()),
        ImageRequest::Inspect(name) => {
            let image = store.inspect(&name).map_err(text)?;
            let mut value = describe(&image);
            value["config"] = serde_json::to_value(&image.file).map_err(|e| e.to_string())?;
            value["layers"] = image.layers.iter().map(|l| json!(l.blob.digest.to_string())).collect();
            Ok(value)
        }
        ImageRequest::Tag(name, new) => Ok(describe(&*store.tag(&name, &parse(&new)?).map_err(text)?)),
        ImageRequest::Rm(names) => {
            let (mut gone, mut bytes) = (Vec::new(), 0);
            for name in names {
                let removed = store.remove(&name).await.map_err(text)?;
                gone.extend(removed.untagged);
                gone.extend(removed.deleted.iter().map(ToString::to_string));
                bytes += removed.bytes;
            }
            Ok(json!({"removed": gone, "bytes": bytes}))
        }
        ImageRequest::Prune => {
            let removed = store.prune(|_| false).await.map_err(text)?;
            let gone: Vec<String> = removed.deleted.iter().map(ToString::to_string).collect();
            Ok(json!({"removed": gone, "bytes": removed.bytes}))
        }
    }
}

fn parse(name: &str) -> Result<Reference, String> {
    name.parse().map_err(|e: image::ReferenceError| base::chain(&e))
}

fn describe(image: &Image) -> Value {
    json!({"id": image.id.to_string(), "names": image.names, "digests": image.digests, "size": image.size, "stored": image.stored})
}

fn transfer(replies: UnboundedSender<Reply>) -> Transfer {
    let listener = move |news: Progress| {
        let Progress::Layer { digest, state } = news else { return };
        let (state, done, total) = match state {
            State::Exists => ("exists", 0, 0),
            State::Downloading { done, total } => ("downloading", done, total),
            State::Downloaded => ("downloaded", 0, 0),
            State::Unpacking => ("unpacking", 0, 0),
            State::Ready => ("ready", 0, 0),
            State::Uploading { total } => ("uploading", 0, total),
            State::Uploaded => ("uploaded", 0, 0),
        };
        let digest = digest.to_string();
        let layer = digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex).chars().take(12).collect();
        // Whoever asked may have stopped listening.
        drop(replies.send(Reply::Progress { layer, state: state.into(), done, total }));
    };
    Transfer { progress: Some(Arc::new(listener)), ..Transfer::default() }
}
