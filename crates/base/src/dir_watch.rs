//! Tells that something in directories changed (inotify); what, the caller reads for itself.

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Watches from when it was made. Without inotify it never tells anything; callers look by themselves now and then.
pub struct DirWatch {
    fd: Option<AsyncFd<OwnedFd>>,
}

impl DirWatch {
    /// Watches these directories; those that are not there are left out.
    pub fn new<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> Self {
        DirWatch { fd: watch(dirs).ok() }
    }

    /// Waits for a change since this was made. Make another one before reading what changed.
    pub async fn changed(&mut self) {
        let readable: Option<io::Result<()>> = match &self.fd {
            Some(fd) => Some(fd.readable().await.map(drop)),
            None => None,
        };
        if !matches!(readable, Some(Ok(()))) {
            std::future::pending::<()>().await;
        }
    }
}

fn watch<'a>(dirs: impl IntoIterator<Item = &'a Path>) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let events =
        WatchFlags::CREATE | WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
    for dir in dirs {
        match inotify::add_watch(&fd, dir, events) {
            Err(error) if error != rustix::io::Errno::NOENT => return Err(error.into()),
            _ => {}
        }
    }
    #[expect(deprecated, reason = "its successor is unsafe for types that change their descriptor; OwnedFd does not")]
    AsyncFd::new(fd)
}
