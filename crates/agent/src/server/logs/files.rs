//! Which files a log is, in which order, and where to begin. `<n>.log` is written to; `<n>.log.<time>` were, before.

use super::LogError;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Bytes of one read when looking for lines from the end.
const BLOCK: u64 = 64 * 1024;

/// A file's identity: its name changes when it is rotated, this does not.
type Id = (u64, u64);

/// The files of one log, the one that is being read, and how to find the next.
pub(super) struct LogFiles {
    path: PathBuf,
    current: tokio::fs::File,
    id: Id,
}

impl LogFiles {
    /// Opens the log where it begins, or `tail` lines before its end. Blocks.
    pub(super) fn open(path: &Path, tail: Option<u64>) -> Result<Self, LogError> {
        let fail = |source| LogError::Open { path: path.to_owned(), source };
        // The newest must be there; the others may go at any time.
        File::open(path).map_err(fail)?;
        let files = open_all(path).map_err(fail)?;
        let (file, id) = begin(files, tail).map_err(fail)?.ok_or_else(|| fail(io::ErrorKind::NotFound.into()))?;
        Ok(LogFiles { path: path.to_owned(), current: tokio::fs::File::from_std(file), id })
    }

    pub(super) fn current(&mut self) -> &mut tokio::fs::File {
        &mut self.current
    }

    /// Goes on to the file that was begun after the current one; whether there is one. Only at the end of the current.
    ///
    /// The writer renames a file after its last write, so a file with a successor gets no more: but it may have got
    /// some since we came to its end, which is why it is looked at once more before it is left ([`Self::has_more`]).
    pub(super) async fn next(&mut self) -> Result<bool, LogError> {
        let (path, id) = (self.path.clone(), self.id);
        let log = self.path.clone();
        let fail = |source| LogError::Open { path: log.clone(), source };
        let next = tokio::task::spawn_blocking(move || open_all(&path).map(|files| after(files, id)));
        let next = next.await.map_err(|e| fail(io::Error::other(e)))?.map_err(fail)?;
        let Some((file, id)) = next else { return Ok(false) };
        if self.has_more().await.map_err(fail)? {
            return Ok(true);
        }
        self.current = tokio::fs::File::from_std(file);
        self.id = id;
        Ok(true)
    }

    async fn has_more(&mut self) -> io::Result<bool> {
        use tokio::io::AsyncSeekExt;
        let position = self.current.stream_position().await?;
        Ok(self.current.metadata().await?.len() > position)
    }
}

/// All files of a log, oldest first, the newest last.
fn open_all(path: &Path) -> io::Result<Vec<(File, Id)>> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Ok(Vec::new()) };
    let mut files = Vec::new();
    // A rotation between listing and opening: the same file under two names, or one we miss. Hence by identity, newest first.
    let newest = identified(File::open(path))?;
    let names = std::fs::read_dir(dir)?.filter_map(Result::ok).map(|entry| entry.file_name());
    for rotated in rotated(name, names) {
        if let Some((file, id)) = identified(File::open(dir.join(rotated)))?
            && newest.as_ref().is_none_or(|(_, newest)| *newest != id)
        {
            files.push((file, id));
        }
    }
    files.extend(newest);
    Ok(files)
}

/// Names of rotated files, oldest first: their time is in the name. Packed ones are left out.
fn rotated(name: &OsStr, names: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut prefix = name.as_encoded_bytes().to_vec();
    prefix.push(b'.');
    let is_time =
        |rest: &[u8]| rest.first().is_some_and(u8::is_ascii_digit) && rest.iter().all(|b| b"0123456789-.".contains(b));
    let mut found: Vec<OsString> =
        names.filter(|n| n.as_encoded_bytes().strip_prefix(prefix.as_slice()).is_some_and(is_time)).collect();
    found.sort();
    found
}

fn identified(opened: io::Result<File>) -> io::Result<Option<(File, Id)>> {
    match opened {
        Ok(file) => {
            let meta = file.metadata()?;
            Ok(Some((file, (meta.dev(), meta.ino()))))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The file after `id`. If `id` has been removed, all that are left are newer.
fn after(files: Vec<(File, Id)>, id: Id) -> Option<(File, Id)> {
    let at = files.iter().position(|(_, found)| *found == id).map_or(0, |i| i + 1);
    files.into_iter().nth(at)
}

/// The file to begin with, at the right place.
fn begin(files: Vec<(File, Id)>, tail: Option<u64>) -> io::Result<Option<(File, Id)>> {
    let Some(mut wanted) = tail else {
        return Ok(files.into_iter().next());
    };
    let mut first = None;
    for (mut file, id) in files.into_iter().rev() {
        if first.is_some() && wanted == 0 {
            break;
        }
        let (start, found) = last_lines(&mut file, wanted)?;
        file.seek(SeekFrom::Start(start))?;
        wanted -= found;
        first = Some((file, id));
    }
    Ok(first)
}

/// Where the last `wanted` lines begin, and how many there are. A line without its end is one.
fn last_lines(file: &mut File, wanted: u64) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.len();
    if wanted == 0 || size == 0 {
        return Ok((size, 0));
    }
    let mut found = 0;
    let mut end = size;
    let mut block = Vec::with_capacity(BLOCK as usize);
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.by_ref().take(end - start).read_to_end(&mut block)?;
        for (i, byte) in block.iter().enumerate().rev() {
            let next = start + i as u64 + 1;
            // Before the last byte of the file no line begins.
            if *byte == b'\n' && next < size {
                found += 1;
                if found == wanted {
                    return Ok((next, found));
                }
            }
        }
        end = start;
    }
    Ok((0, found + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotated_files_by_age() {
        let names = [
            "0.log",
            "0.log.20260102-030405.000000002",
            "0.log.20260102-030405.000000001",
            "0.log.20250101-000000.gz",
            "10.log.2",
        ];
        let found = rotated(OsStr::new("0.log"), names.into_iter().map(OsString::from));
        assert_eq!(found, ["0.log.20260102-030405.000000001", "0.log.20260102-030405.000000002"]);
    }
}
