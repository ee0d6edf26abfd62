//! Where the server's objects are: in a directory of its own, or in an etcd cluster that servers share.

use crate::bootstrap::encryption::{Encryption, EncryptionError};
use crate::config::{Config, Etcd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use store::{BackupError, DiskStore, EtcdError, EtcdOptions, EtcdStore, OpenError, Store};
use thiserror::Error;

/// Between two attempts to reach etcd, at first.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// And at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The store cannot be used.
#[derive(Debug, Error)]
pub(crate) enum StorageError {
    /// The data directory.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// The keys of what is encrypted in it.
    #[error(transparent)]
    Encryption(#[from] EncryptionError),
    /// The etcd cluster.
    #[error(transparent)]
    Etcd(#[from] EtcdError),
    /// A file of --etcd-*.
    #[error("failed to read {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The thread that opened it panicked.
    #[error("failed to open the store")]
    Panicked(#[from] tokio::task::JoinError),
}

/// The open store.
#[derive(Clone)]
pub(crate) enum Storage {
    /// This server's alone.
    Disk(Arc<DiskStore>),
    /// Shared.
    Etcd(Arc<EtcdStore>),
}

impl Storage {
    /// Opens what the configuration names.
    pub(crate) async fn open(config: &Config) -> Result<Self, StorageError> {
        let seal = Encryption::open(&config.data_dir.join("pki"))?;
        if let Some(etcd) = &config.etcd {
            let options = EtcdOptions { seal: Some(Arc::new(seal)), ..options(etcd)? };
            return Ok(Storage::Etcd(Arc::new(wait_for_etcd(options).await?)));
        }
        let dir = directory(&config.data_dir);
        let options = store::Options { seal: Some(Arc::new(seal)), ..store::Options::default() };
        let opened = tokio::task::spawn_blocking(move || DiskStore::open(&dir, options)).await??;
        Ok(Storage::Disk(Arc::new(opened)))
    }

    /// As the API server sees it.
    pub(crate) fn as_store(&self) -> Arc<dyn Store> {
        match self {
            Storage::Disk(store) => store.clone(),
            Storage::Etcd(store) => store.clone(),
        }
    }

    /// Other servers may use it at the same time.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Storage::Etcd(_))
    }

    /// A consistent copy in the new directory `to`; `None` if it is not ours to copy. Blocks.
    pub(crate) fn backup(&self, to: &Path) -> Option<Result<(), BackupError>> {
        match self {
            Storage::Disk(store) => Some(store.backup(to)),
            Storage::Etcd(_) => None,
        }
    }
}

/// Opens the store once etcd answers. A cluster comes up in any order, so one that does not answer yet is waited for, as agents wait for
/// their server; the log says so.
async fn wait_for_etcd(options: EtcdOptions) -> Result<EtcdStore, EtcdError> {
    let mut said = String::new();
    let mut pause = FIRST_PAUSE;
    loop {
        let error = match EtcdStore::open(options.clone()).await {
            Err(error @ EtcdError::Unreachable { .. }) => error.to_string(),
            opened_or_wrong => return opened_or_wrong,
        };
        if error != said {
            tracing::warn!("{error}; waiting for it");
            said = error;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// The store's part of the data directory.
pub(crate) fn directory(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

fn options(etcd: &Etcd) -> Result<EtcdOptions, StorageError> {
    let read = |path: &PathBuf| std::fs::read(path).map_err(|source| StorageError::File { path: path.clone(), source });
    let identity = match &etcd.identity {
        Some((cert, key)) => Some((read(cert)?, read(key)?)),
        None => None,
    };
    Ok(EtcdOptions {
        endpoints: etcd.servers.clone(),
        ca_pem: etcd.ca_file.as_ref().map(read).transpose()?,
        identity,
        prefix: etcd.prefix.clone(),
        ..EtcdOptions::default()
    })
}
