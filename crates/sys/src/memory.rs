//! The memory of this process.

use std::io;

/// Unmaps, for now, the pages of this program's code: those that run again come back from the page cache by themselves, for a
/// fault each, and those that only a start needs stay away.
pub fn forget_code() -> io::Result<()> {
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let program = std::fs::read_link("/proc/self/exe")?;
    for (start, length) in code_of(&maps, &program.to_string_lossy()) {
        // SAFETY: the range is one mapping of a file that is neither writable nor was ever written to (a position-independent
        // program has no relocations in its code), so every page that is dropped is read again as it was.
        if unsafe { libc::madvise(start as *mut libc::c_void, length, libc::MADV_DONTNEED) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
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

    #[test]
    fn the_program_runs_on_without_its_pages() {
        forget_code().expect("Linux lets a process drop its own pages");
        let maps = std::fs::read_to_string("/proc/self/maps").expect("readable");
        let program = std::fs::read_link("/proc/self/exe").expect("readable");
        assert!(!code_of(&maps, &program.to_string_lossy()).is_empty());
    }
}
