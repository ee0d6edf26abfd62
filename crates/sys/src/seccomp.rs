//! Installs seccomp filters. What a filter says is decided in `runtime`.

use crate::fd::check_long;
use std::io;

/// One instruction of classic BPF.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Jump if true.
    pub jt: u8,
    /// Jump if false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Installs a filter on this thread, for good. Needs no_new_privs or CAP_SYS_ADMIN.
pub fn install(program: &[Instruction], log: bool) -> io::Result<()> {
    const SECCOMP_SET_MODE_FILTER: libc::c_uint = 1;
    const SECCOMP_FILTER_FLAG_LOG: libc::c_uint = 2;
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let program = libc::sock_fprog { len, filter: program.as_ptr().cast_mut().cast() };
    let flags = if log { SECCOMP_FILTER_FLAG_LOG } else { 0 };
    // SAFETY: Instruction has the layout of sock_filter, and the kernel only reads the program.
    check_long(unsafe { libc::syscall(libc::SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &raw const program) })?;
    Ok(())
}
