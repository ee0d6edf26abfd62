//! `dhow backup` and `dhow restore`: one tar file with the store and the certificates' folder, which is all that makes a cluster
//! this cluster. Made while dhow runs, by SQLite's own backup: a consistent copy, writes go on.

use crate::storage;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use store::BackupError;
use thiserror::Error;

/// What is in the file, beside the data directory's names.
const PKI: &str = "pki";
const STORE: &str = "store";

/// No backup was made, or it was not restored.
#[derive(Debug, Error)]
pub(crate) enum Error {
    /// Copying the store.
    #[error(transparent)]
    Store(#[from] BackupError),
    /// The store is not in the data directory.
    #[error("the store of this cluster is in etcd; save that with `etcdctl snapshot save`, and {} beside it", pki.display())]
    Elsewhere {
        /// What etcd does not have.
        pki: PathBuf,
    },
    /// The destination exists.
    #[error("{} exists already; move it away or choose another name", path.display())]
    Exists {
        /// It.
        path: PathBuf,
    },
    /// The archive is no backup.
    #[error("{} is no backup of dhow: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Reading or writing failed.
    #[error("failed to {verb} {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn at<'a>(verb: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Error + 'a {
    move |source| Error::Io { verb, path: path.to_owned(), source }
}

/// Writes `file`, readable by root only: it holds the cluster's keys. `copy_store` makes the copy of the store at the path it
/// is given. Blocks.
pub(crate) fn make(
    data_dir: &Path,
    file: &Path,
    copy_store: impl FnOnce(&Path) -> Option<Result<(), BackupError>>,
) -> Result<(), Error> {
    if file.exists() {
        return Err(Error::Exists { path: file.to_owned() });
    }
    let pki = data_dir.join(PKI);
    // In the data directory: the copy may not fit where the file does, and is no more secret than what is there.
    let work = data_dir.join(format!(".backup.{}", std::process::id()));
    let made = (|| {
        match copy_store(&work) {
            Some(copied) => copied?,
            None => return Err(Error::Elsewhere { pki: pki.clone() }),
        }
        pack(&work, &pki, file)
    })();
    for leftover in [work.clone(), unfinished(file)] {
        let removed = if leftover.is_dir() { fs::remove_dir_all(&leftover) } else { fs::remove_file(&leftover) };
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, path = %leftover.display(), "failed to remove what a backup left");
        }
    }
    made
}

fn unfinished(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

fn pack(store: &Path, pki: &Path, file: &Path) -> Result<(), Error> {
    let temp = unfinished(file);
    let failed = at("write", &temp);
    let out = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temp).map_err(&failed)?;
    let mut tar = tar::Builder::new(out);
    tar.mode(tar::HeaderMode::Complete);
    tar.append_dir_all(STORE, store).map_err(&failed)?;
    tar.append_dir_all(PKI, pki).map_err(at("read", pki))?;
    let out = tar.into_inner().map_err(&failed)?;
    out.sync_all().map_err(&failed)?;
    fs::rename(&temp, file).and_then(|()| base::files::sync_parent(file)).map_err(at("write", file))
}

/// Puts a backup into a data directory that has no cluster yet.
pub(crate) fn restore(data_dir: &Path, file: &Path) -> Result<(), Error> {
    let targets = [storage::directory(data_dir), data_dir.join(PKI)];
    if let Some(taken) = targets.iter().find(|t| t.exists()) {
        return Err(Error::Exists { path: taken.clone() });
    }
    DirBuilder::new().recursive(true).mode(0o700).create(data_dir).map_err(at("create", data_dir))?;
    let work = data_dir.join(format!(".restore.{}", std::process::id()));
    let done = unpack(file, &work).and_then(|()| {
        for (name, target) in [STORE, PKI].iter().zip(&targets) {
            fs::rename(work.join(name), target).map_err(at("write", target))?;
        }
        File::open(data_dir).and_then(|d| d.sync_all()).map_err(at("write", data_dir))
    });
    if let Err(error) = fs::remove_dir_all(&work)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(%error, path = %work.display(), "failed to remove what a restore left");
    }
    done
}

fn unpack(file: &Path, work: &Path) -> Result<(), Error> {
    let foreign = |why: String| Error::Foreign { path: file.to_owned(), why };
    let mut tar = tar::Archive::new(File::open(file).map_err(at("read", file))?);
    DirBuilder::new().mode(0o700).create(work).map_err(at("create", work))?;
    for entry in tar.entries().map_err(at("read", file))? {
        let mut entry = entry.map_err(|e| foreign(e.to_string()))?;
        let path = entry.path().map_err(|e| foreign(e.to_string()))?.into_owned();
        let ours = path.components().all(|c| matches!(c, Component::Normal(_)))
            && path.components().next().is_some_and(|c| c.as_os_str() == STORE || c.as_os_str() == PKI);
        let kind = entry.header().entry_type();
        if !ours || !(kind.is_file() || kind.is_dir()) {
            return Err(foreign(format!("it holds {}", path.display())));
        }
        entry.set_preserve_permissions(true);
        entry.unpack_in(work).map_err(at("write", work))?;
    }
    for name in [STORE, PKI] {
        if !work.join(name).is_dir() {
            return Err(foreign(format!("it has no {name}")));
        }
    }
    sync(work)
}

/// Everything below is on the disk before it gets its name.
fn sync(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(at("read", dir))? {
        let path = entry.map_err(at("read", dir))?.path();
        if path.is_dir() {
            sync(&path)?;
        } else {
            File::open(&path).and_then(|f| f.sync_all()).map_err(at("write", &path))?;
        }
    }
    File::open(dir).and_then(|d| d.sync_all()).map_err(at("write", dir))
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::{At, DiskStore, Key, Op, Options, Store, Txn, Value};

    async fn cluster(dir: &Path) -> DiskStore {
        fs::create_dir_all(dir.join(PKI)).expect("a folder");
        fs::write(dir.join("pki/ca.key"), "secret").expect("a file");
        let store = DiskStore::open(&storage::directory(dir), Options::default()).expect("opens");
        let op = Op::Create { key: Key::new("/a/x"), value: Value::plain("1") };
        store.commit(Txn { ops: vec![op] }).await.expect("commits");
        store
    }

    #[tokio::test]
    async fn a_backup_of_a_running_store_is_a_cluster_elsewhere() {
        let dir = tempfile::tempdir().expect("a folder");
        let (one, two, file) = (dir.path().join("one"), dir.path().join("two"), dir.path().join("backup.tar"));
        let store = cluster(&one).await;
        make(&one, &file, |to| Some(store.backup(to))).expect("a backup");
        assert!(matches!(make(&one, &file, |to| Some(store.backup(to))), Err(Error::Exists { .. })));
        restore(&two, &file).expect("restores");
        assert!(matches!(restore(&two, &file), Err(Error::Exists { .. })));
        assert_eq!(fs::read_to_string(two.join("pki/ca.key")).expect("a file"), "secret");
        let restored = DiskStore::open(&storage::directory(&two), Options::default()).expect("opens");
        let read = restored.get(&Key::new("/a/x"), At::Latest).await.expect("reads");
        assert_eq!(read.value.map(|e| e.value.clone()).as_deref(), Some(&b"1"[..]));
        for dir in [&one, &two] {
            let names: Vec<String> = fs::read_dir(dir)
                .expect("lists")
                .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
                .collect();
            assert!(!names.iter().any(|n| n.starts_with('.')), "{names:?}");
        }
    }

    #[tokio::test]
    async fn archives_of_others_are_refused() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("x.tar");
        let mut tar = tar::Builder::new(File::create(&file).expect("a file"));
        let mut header = tar::Header::new_gnu();
        header.set_size(0);
        header.set_cksum();
        tar.append_data(&mut header, "etc/passwd", io::empty()).expect("appends");
        tar.into_inner().expect("ends");
        let target = dir.path().join("data");
        assert!(matches!(restore(&target, &file), Err(Error::Foreign { .. })));
        assert!(fs::read_dir(&target).expect("lists").next().is_none(), "nothing is left");
    }
}
