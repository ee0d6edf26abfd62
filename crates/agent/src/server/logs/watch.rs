//! [`DirWatch`]: the kernel tells when something happens in a log's directory: a write, a rotation.

use super::LogError;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// An inotify instance for one directory.
pub(super) struct DirWatch {
    fd: AsyncFd<OwnedFd>,
}

impl DirWatch {
    /// Watches the directory that `file` is in.
    pub(super) fn new(file: &Path) -> Result<Self, LogError> {
        let dir = file.parent().unwrap_or(Path::new("."));
        let fail = |source: io::Error| LogError::Watch { path: dir.to_owned(), source };
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).map_err(|e| fail(e.into()))?;
        let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVE | WatchFlags::DELETE;
        inotify::add_watch(&fd, dir, events | WatchFlags::ONLYDIR).map_err(|e| fail(e.into()))?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types that change their descriptor; OwnedFd does not"
        )]
        let fd = AsyncFd::new(fd).map_err(fail)?;
        Ok(DirWatch { fd })
    }

    /// Waits for the next change and takes all that have come: what they were does not matter.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut guard = self.fd.readable().await?;
            let mut events = [0; 4096];
            let mut any = false;
            loop {
                match rustix::io::read(self.fd.get_ref(), &mut events) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => any = true,
                    Err(rustix::io::Errno::AGAIN) => break,
                    Err(rustix::io::Errno::INTR) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            guard.clear_ready();
            if any {
                return Ok(());
            }
        }
    }
}
