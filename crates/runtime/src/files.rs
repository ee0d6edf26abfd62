//! Removing directories without what others have mounted into them.

use std::io;
use std::path::Path;

/// Removes a directory and all that is in it; fine if there is none. Refused while something is mounted there: its content is somebody
/// else's (upstream's `pkg/util/removeall` goes by the file system, which a bind mount does not change).
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    if let Some(point) = sys::mount::mounted_below(dir)?.first() {
        let text = format!("something is mounted at {}, which was not mounted by dhow: unmount it", point.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
    }
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
