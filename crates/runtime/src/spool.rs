//! What a container has written and its log does not hold yet, kept where the death of the supervisor cannot reach it.
//!
//! Bytes go from the pipe to a file in memory in one system call, which also moves the file's position; the agent holds a duplicate of the
//! descriptor and so of the position. A killed supervisor therefore leaves every byte either in the pipe or here. A [`Mark`] at the
//! file's start tells from where bytes are still to be logged and, while a write to the log is under way, up to where and with which
//! time: who takes over makes the same entries again and appends those that are missing. A terminal cannot be spliced: there, what was
//! read and not yet appended (one read) can be lost.

use std::io::{self, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

/// Where bytes begin; the mark is before.
const DATA: u64 = 4096;
/// Memory of logged bytes is given back in pieces of this size.
const PIECE: u64 = 64 * 1024;

/// How far the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Mark {
    /// Everything before is in the log.
    start: u64,
    /// Up to where a write to the log goes that has begun.
    end: u64,
    /// The time of its entries; 0 if none has begun.
    time_ns: i64,
    /// What is at `start` continues a line whose beginning is in the log.
    continued: bool,
}

#[derive(Debug)]
pub(crate) struct Spool {
    file: std::fs::File,
    mark: Mark,
    end: u64,
    freed: u64,
}

/// What a spool holds when it is taken over.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Unlogged {
    /// See [`Mark`].
    pub(crate) continued: bool,
    /// Bytes of which some may be in the log, and the time of their entries.
    pub(crate) begun: Option<(Vec<u8>, i64)>,
    /// Bytes of which none is.
    pub(crate) rest: Vec<u8>,
}

impl Spool {
    pub(crate) fn new() -> io::Result<Self> {
        let mut file = sys::fd::memfd("dhow-output")?;
        file.seek(SeekFrom::Start(DATA))?;
        let mark = Mark { start: DATA, end: DATA, ..Mark::default() };
        let spool = Spool { file, mark, end: DATA, freed: DATA };
        spool.write_mark()?;
        Ok(spool)
    }

    /// Takes over from a dead supervisor.
    pub(crate) fn adopt(fd: OwnedFd) -> io::Result<(Self, Unlogged)> {
        let mut file = std::fs::File::from(fd);
        let end = file.stream_position()?;
        let mut words = [0u8; 32];
        file.read_exact_at(&mut words, 0)?;
        let mark = Mark::decode(&words);
        let begun_to = if mark.time_ns == 0 { mark.start } else { mark.end };
        if !(DATA..=end).contains(&mark.start) || !(mark.start..=end).contains(&begun_to) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an impossible mark"));
        }
        let read = |from: u64, to: u64| {
            let mut bytes = vec![0; (to - from) as usize];
            file.read_exact_at(&mut bytes, from).map(|()| bytes)
        };
        let begun = if mark.time_ns == 0 { None } else { Some((read(mark.start, begun_to)?, mark.time_ns)) };
        let unlogged = Unlogged { continued: mark.continued, begun, rest: read(begun_to, end)? };
        Ok((Spool { file, mark, end, freed: DATA }, unlogged))
    }

    /// Takes what a pipe has to give, into `buf` as well. As read: `WouldBlock`, or 0 at the end.
    pub(crate) fn fill(&mut self, pipe: BorrowedFd<'_>, buf: &mut [u8]) -> io::Result<usize> {
        let n = sys::fd::splice(pipe, self.file.as_fd(), buf.len())?;
        self.file.read_exact_at(&mut buf[..n], self.end)?;
        self.end += n as u64;
        Ok(n)
    }

    /// Takes what was read from a terminal.
    pub(crate) fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.end += bytes.len() as u64;
        Ok(())
    }

    /// Says that entries of this time, made of everything here, are about to be written to the log.
    pub(crate) fn begin(&mut self, time_ns: i64) -> io::Result<()> {
        (self.mark.end, self.mark.time_ns) = (self.end, time_ns);
        self.write_mark()
    }

    /// Says that everything but the last `kept` bytes is in the log.
    pub(crate) fn logged(&mut self, kept: usize, continued: bool) -> io::Result<()> {
        let start = self.end - kept as u64;
        self.mark = Mark { start, end: start, time_ns: 0, continued };
        self.write_mark()?;
        let free_to = start / PIECE * PIECE;
        // The first piece holds the mark.
        let free_from = self.freed.next_multiple_of(PIECE);
        if free_to > free_from {
            sys::fd::punch_hole(self.file.as_fd(), free_from, free_to - free_from)?;
            self.freed = free_to;
        }
        Ok(())
    }

    /// Says that nobody is to take this over: it could not be kept true.
    pub(crate) fn void(mut self) {
        self.mark.start = u64::MAX;
        // In place, so that it needs no memory.
        self.write_mark().ok();
    }

    fn write_mark(&self) -> io::Result<()> {
        self.file.write_all_at(&self.mark.encode(), 0)
    }
}

impl AsFd for Spool {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Mark {
    /// One write: a killed process has written all of it or nothing.
    fn encode(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (to, word) in
            out.chunks_exact_mut(8).zip([self.start, self.end, self.time_ns.cast_unsigned(), u64::from(self.continued)])
        {
            to.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    fn decode(words: &[u8; 32]) -> Mark {
        let (words, _) = words.as_chunks::<8>();
        let word = |at: usize| u64::from_le_bytes(words[at]);
        Mark { start: word(0), end: word(1), time_ns: word(2).cast_signed(), continued: word(3) != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dup(spool: &Spool) -> OwnedFd {
        sys::fd::dup_above(spool.as_fd(), 3).unwrap()
    }

    fn unlogged(begun: Option<(&str, i64)>, rest: &str, continued: bool) -> Unlogged {
        Unlogged { continued, begun: begun.map(|(b, t)| (b.into(), t)), rest: rest.into() }
    }

    #[test]
    fn whoever_takes_over_finds_every_byte() {
        let (r, w) = sys::fd::pipe().unwrap();
        let mut spool = Spool::new().unwrap();
        let mut buf = [0; 100];
        let mut put = |spool: &mut Spool, text: &str| {
            sys::fd::write(w.as_fd(), text.as_bytes()).unwrap();
            assert_eq!(spool.fill(r.as_fd(), &mut buf).unwrap(), text.len());
            assert_eq!(&buf[..text.len()], text.as_bytes());
        };
        put(&mut spool, "one\ntw");
        assert_eq!(Spool::adopt(dup(&spool)).unwrap().1, unlogged(None, "one\ntw", false));
        spool.begin(77).unwrap();
        put(&mut spool, "o");
        assert_eq!(Spool::adopt(dup(&spool)).unwrap().1, unlogged(Some(("one\ntw", 77)), "o", false));
        spool.logged(3, true).unwrap();
        let (mut spool, found) = Spool::adopt(dup(&spool)).unwrap();
        assert_eq!(found, unlogged(None, "two", true));
        put(&mut spool, "!");
        spool.append(b"?").unwrap();
        assert_eq!(Spool::adopt(dup(&spool)).unwrap().1, unlogged(None, "two!?", true));
        assert_eq!(spool.fill(r.as_fd(), &mut [0; 10]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(w);
        assert_eq!(spool.fill(r.as_fd(), &mut [0; 10]).unwrap(), 0);
    }

    #[test]
    fn memory_of_what_is_logged_is_given_back() {
        let mut spool = Spool::new().unwrap();
        for _ in 0..64 {
            spool.append(&[b'x'; 32 * 1024]).unwrap();
            spool.logged(10, false).unwrap();
        }
        let blocks = std::os::unix::fs::MetadataExt::blocks(&spool.file.metadata().unwrap());
        assert!(blocks * 512 <= 4 * PIECE, "{blocks} blocks of 512 bytes");
        assert_eq!(Spool::adopt(dup(&spool)).unwrap().1, unlogged(None, "xxxxxxxxxx", false));
    }

    #[test]
    fn an_impossible_mark_is_an_error() {
        let mut file = sys::fd::memfd("junk").unwrap();
        file.write_all(&[0xff; 5000]).unwrap();
        assert!(Spool::adopt(file.into()).is_err());
        let spool = Spool::new().unwrap();
        let kept = dup(&spool);
        spool.void();
        assert!(Spool::adopt(kept).is_err());
    }
}
