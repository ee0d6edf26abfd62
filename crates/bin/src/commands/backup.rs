//! `dhow backup FILE` and `dhow restore FILE`.

use super::{CommandError, require_root, say};
use crate::cli::Backup;
use crate::control::{self, Request};
use crate::process::Instance;
use crate::{backup, storage};
use std::path::absolute;
use store::{DiskStore, Options};

/// Asks the running dhow, or copies what lies still.
pub(crate) fn make(args: Backup) -> Result<(), CommandError> {
    require_root()?;
    let config = args.settings.resolve()?;
    let file = absolute(&args.file)?;
    if Instance::find(&config.run_dir).is_some() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(control::ask(&config.run_dir, &Request::Backup(file.clone()), |_| {}))?;
    } else if config.etcd.is_some() {
        backup::make(&config.data_dir, &file, |_| None)?;
    } else {
        let store = DiskStore::open(&storage::directory(&config.data_dir), Options::default())?;
        backup::make(&config.data_dir, &file, |to| Some(store.backup(to)))?;
    }
    say(format_args!("Saved the cluster to {}. It holds the cluster's keys: keep it safe.", file.display()));
    Ok(())
}

/// Only where nothing runs and nothing is.
pub(crate) fn restore(args: Backup) -> Result<(), CommandError> {
    require_root()?;
    let config = args.settings.resolve()?;
    if let Some(pid) = Instance::find(&config.run_dir) {
        return Err(format!("dhow runs as process {pid}; stop it with `dhow down` first").into());
    }
    backup::restore(&config.data_dir, &args.file)?;
    say(format_args!("Restored the cluster into {}. Start it with `dhow up`.", config.data_dir.display()));
    Ok(())
}
