//! Blobs by digest, on disk.
//!
//! ```text
//!   blobs/sha256/ab/<64 hex>   complete, verified, synced, read-only
//!   ingest/<64 hex>.part       begun; goes on where it ended, also after a crash
//!   ingest/<number>.tmp        of unknown digest; worthless after a crash
//! ```
//!
//! Always holds: a file under `blobs` has the content its name says (it gets that name only after hashing and syncing).

use crate::Digest;
use crate::digest::Hasher;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// Why content could not be kept.
#[derive(Debug, Error)]
pub enum ContentError {
    /// Not what it was said to be. It is thrown away.
    #[error(
        "content of {expected} is not what it should be (it is {found}): the source or the way from it is damaged, try again or from elsewhere"
    )]
    Mismatch {
        /// The address.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Longer or shorter than announced. It is thrown away.
    #[error("content of {digest} has {found} bytes instead of {expected}: the source or the way from it is damaged")]
    Size {
        /// The address.
        digest: Digest,
        /// What was announced.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// No space.
    #[error("no space left for {what} in {}: free some space (dhow image prune), nothing is half done", dir.display())]
    DiskFull {
        /// A digest or name.
        what: String,
        /// Where.
        dir: PathBuf,
    },
    /// Not there.
    #[error("content {0} is missing: pull or import the image again")]
    Missing(Digest),
    /// Any other failure of the file system.
    #[error("failed to {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl ContentError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ContentError {
        let path = path.to_owned();
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let what = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                ContentError::DiskFull { what, dir: path.parent().unwrap_or(Path::new("/")).to_owned() }
            }
            _ => ContentError::Io { action, path, source },
        }
    }
}

/// The store of blobs.
pub(crate) struct Content {
    blobs: PathBuf,
    ingest: PathBuf,
    next: AtomicU64,
}

impl Content {
    pub(crate) fn open(root: &Path) -> Result<Self, ContentError> {
        let content =
            Content { blobs: root.join("blobs/sha256"), ingest: root.join("ingest"), next: AtomicU64::new(0) };
        for dir in [&content.blobs, &content.ingest] {
            std::fs::create_dir_all(dir).map_err(ContentError::io("create", dir))?;
        }
        for file in read_dir(&content.ingest)? {
            if file.extension().is_some_and(|extension| extension == "tmp") {
                std::fs::remove_file(&file).map_err(ContentError::io("remove", &file))?;
            }
        }
        Ok(content)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        let hex = digest.hex();
        self.blobs.join(&hex[..2]).join(hex)
    }

    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.path(digest).exists()
    }

    pub(crate) fn open_blob(&self, digest: &Digest) -> Result<File, ContentError> {
        let path = self.path(digest);
        File::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ContentError::Missing(digest.clone()),
            _ => ContentError::io("open", &path)(error),
        })
    }

    /// A small blob, verified again because decisions hang on it.
    pub(crate) fn read(&self, digest: &Digest) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        self.open_blob(digest)?.read_to_end(&mut bytes).map_err(ContentError::io("read", &self.path(digest)))?;
        let found = Digest::of(&bytes);
        if found != *digest {
            return Err(ContentError::Mismatch { expected: digest.clone(), found });
        }
        Ok(bytes)
    }

    pub(crate) fn size(&self, digest: &Digest) -> Result<u64, ContentError> {
        let metadata = self.open_blob(digest)?.metadata();
        Ok(metadata.map_err(ContentError::io("stat", &self.path(digest)))?.len())
    }

    /// Keeps `bytes`, whose digest is known to be right.
    pub(crate) fn put(&self, bytes: &[u8]) -> Result<Digest, ContentError> {
        self.put_stream(&mut &*bytes).map(|(digest, _)| digest)
    }

    /// Keeps whatever comes. Returns its digest and length.
    pub(crate) fn put_stream(&self, from: &mut dyn Read) -> Result<(Digest, u64), ContentError> {
        let path = self.ingest.join(format!("{}.tmp", self.next.fetch_add(1, Ordering::Relaxed)));
        let outcome = self.spool(from, &path);
        if outcome.is_err() {
            discard(&path);
        }
        outcome
    }

    fn spool(&self, from: &mut dyn Read, path: &Path) -> Result<(Digest, u64), ContentError> {
        let failed = |action| ContentError::io(action, path);
        let mut file = File::options().create_new(true).write(true).open(path).map_err(failed("create"))?;
        let (mut hasher, mut size) = (Hasher::default(), 0);
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = from.read(&mut buffer).map_err(failed("read for"))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            file.write_all(&buffer[..read]).map_err(failed("write"))?;
            size += read as u64;
        }
        let digest = hasher.finish();
        self.commit(file, path, &digest)?;
        Ok((digest, size))
    }

    /// Begins a blob or goes on with it. Reads what is there already.
    pub(crate) fn ingest(&self, digest: &Digest, size: u64) -> Result<Ingest, ContentError> {
        let path = self.ingest.join(format!("{}.part", digest.hex()));
        let failed = |action| ContentError::io(action, &path);
        let open = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let mut ingest = Ingest {
            file: open.map_err(failed("open"))?,
            path: path.clone(),
            digest: digest.clone(),
            size,
            offset: 0,
            hasher: Hasher::default(),
        };
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = ingest.file.read(&mut buffer).map_err(failed("read"))?;
            if read == 0 {
                break;
            }
            ingest.hasher.update(&buffer[..read]);
            ingest.offset += read as u64;
        }
        if ingest.offset > size {
            ingest.restart()?;
        }
        Ok(ingest)
    }

    /// Verifies and keeps a complete ingest.
    pub(crate) fn finish(&self, ingest: Ingest) -> Result<(), ContentError> {
        let found = ingest.hasher.finish();
        let wrong = if ingest.offset != ingest.size {
            Some(ContentError::Size { digest: ingest.digest.clone(), expected: ingest.size, found: ingest.offset })
        } else if found != ingest.digest {
            Some(ContentError::Mismatch { expected: ingest.digest.clone(), found })
        } else {
            None
        };
        match wrong {
            Some(error) => {
                discard(&ingest.path);
                Err(error)
            }
            None => self.commit(ingest.file, &ingest.path, &ingest.digest),
        }
    }

    fn commit(&self, file: File, path: &Path, digest: &Digest) -> Result<(), ContentError> {
        let to = self.path(digest);
        let failed = |action| ContentError::io(action, path);
        file.set_permissions(std::fs::Permissions::from_mode(0o444)).map_err(failed("protect"))?;
        file.sync_all().map_err(failed("sync"))?;
        let dir = to.parent().unwrap_or(&self.blobs);
        std::fs::create_dir_all(dir).map_err(ContentError::io("create", dir))?;
        std::fs::rename(path, &to).map_err(failed("rename"))?;
        base::files::sync_parent(&to).map_err(ContentError::io("sync", dir))
    }

    /// All complete blobs.
    pub(crate) fn all(&self) -> Result<Vec<Digest>, ContentError> {
        let mut all = Vec::new();
        for dir in read_dir(&self.blobs)? {
            for file in read_dir(&dir)? {
                let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
                all.extend(format!("sha256:{name}").parse::<Digest>());
            }
        }
        Ok(all)
    }

    /// Forgets a blob. Returns the bytes freed.
    pub(crate) fn remove(&self, digest: &Digest) -> Result<u64, ContentError> {
        let path = self.path(digest);
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(ContentError::io("remove", &path)(error)),
            _ => Ok(size),
        }
    }

    /// Throws away begun downloads other than `wanted`.
    pub(crate) fn remove_ingests(&self, wanted: impl Fn(&Digest) -> bool) -> Result<(), ContentError> {
        for file in read_dir(&self.ingest)? {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if let Ok(digest) = format!("sha256:{stem}").parse::<Digest>()
                && !wanted(&digest)
            {
                discard(&file);
            }
        }
        Ok(())
    }
}

/// A blob on its way.
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
    digest: Digest,
    size: u64,
    offset: u64,
    hasher: Hasher,
}

impl Ingest {
    /// What is there.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    pub(crate) fn is_complete(&self) -> bool {
        self.offset >= self.size
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        let found = self.offset + bytes.len() as u64;
        if found > self.size {
            discard(&self.path);
            return Err(ContentError::Size { digest: self.digest.clone(), expected: self.size, found });
        }
        self.file.write_all(bytes).map_err(ContentError::io("write", &self.path))?;
        self.hasher.update(bytes);
        self.offset = found;
        Ok(())
    }

    /// Begins again.
    pub(crate) fn restart(&mut self) -> Result<(), ContentError> {
        let failed = |action| ContentError::io(action, &self.path);
        self.file.set_len(0).map_err(failed("truncate"))?;
        io::Seek::rewind(&mut self.file).map_err(failed("rewind"))?;
        (self.offset, self.hasher) = (0, Hasher::default());
        Ok(())
    }
}

pub(crate) fn read_dir(dir: &Path) -> Result<Vec<PathBuf>, ContentError> {
    let failed = || ContentError::io("list", dir);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(failed())? {
        paths.push(entry.map_err(failed())?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Writes `bytes` so that the file has either its old content or all of the new one, whatever happens.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), ContentError> {
    base::files::replace_durably(path, base::files::PRIVATE, |out| out.write_all(bytes))
        .map_err(ContentError::io("write", path))
}

/// Removes a file that is worthless; what cannot be removed is swept later.
pub(crate) fn discard(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, path = %path.display(), "nothing to discard");
    }
}
