//! Directories of the provisioner `dhow.dev/local`: made at first use (`persistent.rs`), removed when the API has no
//! PersistentVolume of their name any more.

use super::size;
use api::k8s::api::core::v1::PersistentVolume;
use client::Client;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// On a Node: where its local volumes are.
pub const DIRECTORY: &str = "dhow.dev/local-volumes";
/// What names of made volumes begin with.
const PREFIX: &str = "pvc-";
/// How often to look for what is left over.
const EVERY: Duration = Duration::from_secs(60);

/// Below the agent's data directory.
pub fn root(data_dir: &Path) -> PathBuf {
    data_dir.join("local-volumes")
}

/// Removes left-over directories until `shutdown`.
pub async fn tidy(root: PathBuf, client: Client, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
        for name in names(&root) {
            match client.api::<PersistentVolume>().find("", &name).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let path = root.join(&name);
                    tracing::info!(path = %path.display(), "removing the directory of a volume that is gone");
                    let removed = tokio::task::spawn_blocking(move || size::remove(&path)).await;
                    if let Ok(Err(error)) = removed {
                        tracing::warn!(%error, name, "failed to remove a local volume's directory; trying again later");
                    }
                }
                // Better to keep data than to guess.
                Err(error) => tracing::debug!(error = %base::chain(&error), name, "failed to ask about a volume"),
            }
        }
    }
}

/// Directories of volumes that there are.
fn names(root: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(root).into_iter().flatten().flatten();
    let names = entries.filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|n| n.starts_with(PREFIX)).collect();
    names.sort();
    names
}
