//! The memory of this process.

use crate::fd::{check, check_long, own};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// Unmaps, for now, the pages of this program's code: those that run again come back from the page cache by themselves, for a
/// fault each, and those that only a start needs stay away.
pub fn forget_code() -> io::Result<()> {
    for (start, length) in own_code()? {
        // SAFETY: the range is one mapping of a file that is neither writable nor was ever written to (a position-independent
        // program has no relocations in its code), so every page that is dropped is read again as it was.
        if unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// As long as it lives, code that begins to run is mapped a page at a time.
#[derive(Debug)]
pub struct PageByPage {
    _follower: OwnedFd,
}

/// Makes the kernel map no more of this program's code than runs. Otherwise it maps sixteen pages around each that is missing,
/// which saves faults while a program starts, and later keeps mapped what never runs. Needs Linux 6.7.
pub fn map_code_page_by_page() -> io::Result<PageByPage> {
    let follower = follower()?;
    for (start, length) in own_code()? {
        follow(&follower, start, length)?;
    }
    Ok(PageByPage { _follower: follower })
}

// `linux/userfaultfd.h`
const UFFD_USER_MODE_ONLY: libc::c_int = 1;
const UFFD_API: u64 = 0xAA;
const UFFD_FEATURE_PAGEFAULT_FLAG_WP: u64 = 1 << 0;
const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
const UFFDIO_API: libc::Ioctl = libc::_IOWR::<UffdioApi>(0xAA, 0x3F);
const UFFDIO_REGISTER: libc::Ioctl = libc::_IOWR::<UffdioRegister>(0xAA, 0x00);
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;

#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct UffdioRegister {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// Follows writes to pages that are write-protected, without being told of them: there are no such pages, and nothing is
/// followed. What is wanted is a side effect: where writes are followed, the kernel maps only pages that were asked for
/// (`should_fault_around` in `mm/memory.c`).
fn follower() -> io::Result<OwnedFd> {
    let flags = libc::O_CLOEXEC | UFFD_USER_MODE_ONLY;
    // SAFETY: no pointers; the call returns a new descriptor.
    let fd = own(check_long(unsafe { libc::syscall(libc::SYS_userfaultfd, flags) })? as i32);
    let features = UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_WP_ASYNC;
    let mut api = UffdioApi { api: UFFD_API, features, ioctls: 0 };
    // SAFETY: the structure is the one that the request reads and writes.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), UFFDIO_API, &raw mut api) })?;
    Ok(fd)
}

fn follow(follower: &OwnedFd, start: usize, length: usize) -> io::Result<()> {
    let (start, len) = (start as u64, length as u64);
    let mut range = UffdioRegister { start, len, mode: UFFDIO_REGISTER_MODE_WP, ioctls: 0 };
    // SAFETY: the structure is the one that the request reads and writes. No page of the range is protected, so that no access
    // to it waits or changes its meaning.
    check(unsafe { libc::ioctl(follower.as_raw_fd(), UFFDIO_REGISTER, &raw mut range) })?;
    Ok(())
}

fn own_code() -> io::Result<Vec<(usize, usize)>> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let program = std::fs::read_link("/proc/self/exe")?;
    Ok(code_of(&maps, &program.to_string_lossy()))
}

/// Start and length of the mappings that only read and execute `program`.
fn code_of(maps: &str, program: &str) -> Vec<(usize, usize)> {
    let code = maps.lines().filter_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        if !rest.starts_with("r-xp ") || !rest.ends_with(&format!(" {program}")) {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        Some((start, end.checked_sub(start)?))
    });
    code.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_code_of_the_program_is_found() {
        let maps = "\
55d0c0000000-55d0c1000000 r--p 00000000 fe:00 42                         /usr/bin/dhow
55d0c1000000-55d0c3000000 r-xp 01000000 fe:00 42                         /usr/bin/dhow
55d0c3000000-55d0c3100000 rw-p 03000000 fe:00 42                         /usr/bin/dhow
7f0000000000-7f0000100000 r-xp 00000000 fe:00 43                         /usr/lib/libc.so.6
7f0000200000-7f0000201000 r-xp 00000000 00:00 0                          [vdso]
";
        assert_eq!(code_of(maps, "/usr/bin/dhow"), [(0x55d0_c100_0000, 0x200_0000)]);
        assert_eq!(code_of("r-xp /usr/bin/dhow\nx-y r-xp 0 /usr/bin/dhow", "/usr/bin/dhow"), []);
    }

    /// Of a mapping of 64 pages of a file, of which one was read.
    fn resident(follower: Option<&OwnedFd>) -> io::Result<usize> {
        use std::io::Write;
        // SAFETY: no pointers.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).expect("a size");
        let mut file = tempfile::tempfile().expect("made");
        file.write_all(&vec![7; 64 * page]).expect("written");
        let (protection, fd) = (libc::PROT_READ | libc::PROT_EXEC, file.as_raw_fd());
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), 64 * page, protection, libc::MAP_PRIVATE, fd, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        if let Some(follower) = follower {
            follow(follower, start as usize, 64 * page)?;
        }
        // SAFETY: within the mapping and the file.
        assert_eq!(unsafe { start.cast::<u8>().add(40 * page).read_volatile() }, 7);
        let smaps = std::fs::read_to_string("/proc/self/smaps").expect("readable");
        let ours = smaps.lines().skip_while(|l| !l.starts_with(&format!("{:x}-", start as usize)));
        let rss = ours.into_iter().find_map(|l| l.strip_prefix("Rss:")).expect("told of every mapping");
        let kilobytes: usize = rss.trim_end_matches("kB").trim().parse().expect("a number");
        // SAFETY: made above, and nobody uses it any more.
        assert_eq!(unsafe { libc::munmap(start, 64 * page) }, 0);
        Ok(kilobytes * 1024 / page)
    }

    #[test]
    fn only_the_page_that_is_asked_for_is_mapped() {
        let alone = follower().and_then(|follower| resident(Some(&follower)));
        match alone {
            Ok(pages) => assert_eq!(pages, 1),
            // An older kernel, or one that does not let us.
            Err(error) => assert!(error.raw_os_error().is_some(), "{error}"),
        }
        assert!(resident(None).expect("a mapping") >= 1);
    }

    #[test]
    fn the_program_runs_on_without_its_pages() {
        forget_code().expect("Linux lets a process drop its own pages");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("readable");
        let program = std::fs::read_link("/proc/self/exe").expect("readable");
        assert!(!code_of(&maps, &program.to_string_lossy()).is_empty());
    }
}
