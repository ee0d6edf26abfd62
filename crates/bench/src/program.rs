//! The program that runs in measured containers: 200 bytes of machine code without a library. It notes the time of its first
//! instruction in `/out/stamp` (if there is such a directory), and ends; with any argument it waits for ever instead.

use crate::fail::{Fail, Result, io};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Where it writes its time: seconds and nanoseconds of the monotonic clock, eight bytes each.
const PATH: &[u8] = b"/out/stamp\0";
const LOAD_AT: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// Linux on x86-64.
fn code() -> Vec<u8> {
    let mut code = vec![
        0x4c, 0x8b, 0x24, 0x24, // mov r12, [rsp]       argc
        0x48, 0x83, 0xec, 0x20, // sub rsp, 32
        0xbf, 0x01, 0, 0, 0, // mov edi, CLOCK_MONOTONIC
        0x48, 0x89, 0xe6, // mov rsi, rsp
        0xb8, 0xe4, 0, 0, 0, // mov eax, clock_gettime
        0x0f, 0x05, // syscall
        0x48, 0x8d, 0x3d, 0, 0, 0, 0, // lea rdi, [rip + path]
    ];
    let after_lea = code.len();
    code.extend([
        0xbe, 0x41, 0x02, 0, 0, // mov esi, O_WRONLY|O_CREAT|O_TRUNC
        0xba, 0xa4, 0x01, 0, 0, // mov edx, 0644
        0xb8, 0x02, 0, 0, 0, // mov eax, open
        0x0f, 0x05, // syscall
        0x89, 0xc7, // mov edi, eax
        0x48, 0x89, 0xe6, // mov rsi, rsp
        0xba, 0x10, 0, 0, 0, // mov edx, 16
        0xb8, 0x01, 0, 0, 0, // mov eax, write
        0x0f, 0x05, // syscall
        0x49, 0x83, 0xfc, 0x01, // cmp r12, 1
        0x7e, 0x09, // jle exit
        0xb8, 0x22, 0, 0, 0, // mov eax, pause
        0x0f, 0x05, // syscall
        0xeb, 0xf7, // jmp pause
        0x31, 0xff, // exit: xor edi, edi
        0xb8, 0xe7, 0, 0, 0, // mov eax, exit_group
        0x0f, 0x05, // syscall
    ]);
    let distance = (code.len() - after_lea) as u32;
    code[after_lea - 4..after_lea].copy_from_slice(&distance.to_le_bytes());
    code.extend(PATH);
    code
}

/// The whole file: ELF header, one loaded segment, code.
pub(crate) fn elf() -> Vec<u8> {
    let code = code();
    let size = HEADERS + code.len() as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend([2u16, 62].iter().flat_map(|v| v.to_le_bytes())); // executable, x86-64
    out.extend(1u32.to_le_bytes());
    out.extend([LOAD_AT + HEADERS, 64, 0].iter().flat_map(|v: &u64| v.to_le_bytes())); // entry, program headers, no sections
    out.extend(0u32.to_le_bytes());
    out.extend([64u16, 56, 1, 0, 0, 0].iter().flat_map(|v| v.to_le_bytes()));
    out.extend([1u32, 5].iter().flat_map(|v| v.to_le_bytes())); // load, read and execute
    out.extend([0, LOAD_AT, LOAD_AT, size, size, 0x1000].iter().flat_map(|v: &u64| v.to_le_bytes()));
    out.extend(code);
    out
}

/// Writes it to `path`.
pub(crate) fn write(path: &Path) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        let why = "the measured program exists for x86-64 only".into();
        return Err(Fail::Refused { what: "measure containers".into(), why });
    }
    let what = || format!("write {}", path.display());
    std::fs::write(path, elf()).map_err(io(what()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).map_err(io(what()))
}

/// The time in a stamp file, in nanoseconds.
pub(crate) fn read_stamp(path: &Path) -> Result<u64> {
    let bytes = std::fs::read(path).map_err(io(format!("read {}", path.display())))?;
    let number = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (number(0), number(8)) {
        (Some(seconds), Some(nanos)) => Ok(seconds * 1_000_000_000 + nanos),
        _ => Err(Fail::Refused {
            what: format!("read {}", path.display()),
            why: "the program did not write its time".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a test runs the program")]
    fn it_runs_ends_and_waits_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("stamp");
        write(&path).unwrap();
        assert!(std::process::Command::new(&path).status().unwrap().success());
        let mut waits = std::process::Command::new(&path).arg("wait").spawn().unwrap();
        assert!(waits.try_wait().unwrap().is_none());
        waits.kill().unwrap();
        waits.wait().unwrap();
    }
}
