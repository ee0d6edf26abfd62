//! `dhow reset`: as if dhow had never been here.

use super::{CommandError, down, install, require_root, say};
use crate::bootstrap::{files, kubeconfig};
use crate::cli::Reset;
use crate::config;
use crate::traces::{self, Place};
use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

/// Asks first, unless told not to.
pub(crate) fn run(reset: Reset) -> Result<(), CommandError> {
    require_root()?;
    let config = reset.settings.resolve()?;
    if !reset.yes && !confirmed(&config.data_dir)? {
        return Err("nothing was removed".into());
    }
    down::stop(&config)?;
    traces::remove_all(&Place::of(&config))?;
    files::remove(&config.kubeconfig)?;
    remove_if_empty(Path::new(config::CONFIG_DIR))?;
    if config.merge_kubeconfig
        && let Some(home) = config::invoking_home()
    {
        kubeconfig::unmerge(&home.join(".kube/config"))?;
    }
    if install::remove(&config.data_dir)? {
        say("Removed the unit dhow.service; `systemctl daemon-reload` tells systemd.");
    }
    say("Removed all containers, networks, images and data.");
    Ok(())
}

/// `/etc/dhow` is ours; what a person put there stays, and so does it.
fn remove_if_empty(dir: &Path) -> std::io::Result<()> {
    use std::io::ErrorKind::{DirectoryNotEmpty, NotFound};
    match std::fs::remove_dir(dir) {
        Err(e) if !matches!(e.kind(), DirectoryNotEmpty | NotFound) => Err(e),
        _ => Ok(()),
    }
}

fn confirmed(data_dir: &Path) -> Result<bool, CommandError> {
    if !std::io::stdin().is_terminal() {
        return Err("this removes all data of the cluster; say --yes if you mean it".into());
    }
    write!(std::io::stdout(), "This removes the cluster and all its data in {}. Go on? [y/N] ", data_dir.display())?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_goes_only_when_nothing_is_in_it() {
        let dir = tempfile::tempdir().expect("temp dir");
        let ours = dir.path().join("dhow");
        std::fs::create_dir(&ours).expect("made");
        std::fs::write(ours.join("registries.yaml"), "").expect("written");
        remove_if_empty(&ours).expect("stays");
        assert!(ours.exists());
        std::fs::remove_file(ours.join("registries.yaml")).expect("removed");
        remove_if_empty(&ours).expect("goes");
        assert!(!ours.exists());
        remove_if_empty(&ours).expect("is gone already");
    }
}
