//! Limits of directories by project quotas, which ext4 (feature `project`, mounted with `prjquota`) and XFS (`prjquota`) have: every file
//! below a directory belongs to its project, and what a project may have on the file system is limited. Needs Linux 5.14 (quotactl_fd).

use crate::fd::{check, check_long};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// `struct fsxattr`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    cow_extent_size: u32,
    pad: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR`, which hold the size of the structure.
const GET_ATTRIBUTES: libc::c_ulong = 0x801c_581f;
const SET_ATTRIBUTES: libc::c_ulong = 0x401c_5820;
/// `FS_XFLAG_PROJINHERIT`: what is made in the directory belongs to its project, too.
const INHERIT: u32 = 0x200;

/// `PRJQUOTA`
const PROJECTS: u32 = 2;
/// `Q_SETQUOTA`, `Q_GETQUOTA` and `Q_XGETQSTATV`
const SET: u32 = 0x80_0008;
const GET: u32 = 0x80_0007;
const STATE: u32 = 0x5808;
/// `QIF_BLIMITS`
const BLOCK_LIMITS: u32 = 1;
/// `FS_QUOTA_PDQ_ENFD`
const PROJECTS_ENFORCED: u16 = 1 << 5;
/// `FS_QSTATV_VERSION1`
const STATE_VERSION: i8 = 1;
/// `QIF_DQBLKSIZE`
const BLOCK: u64 = 1024;

/// `struct if_dqblk`
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Usage {
    hard_blocks: u64,
    soft_blocks: u64,
    bytes: u64,
    hard_inodes: u64,
    soft_inodes: u64,
    inodes: u64,
    block_time: u64,
    inode_time: u64,
    valid: u32,
}

/// `struct fs_quota_statv`, of which only the beginning is read.
#[repr(C)]
#[derive(Default)]
struct State {
    version: i8,
    pad: u8,
    flags: u16,
    in_core: u32,
    rest: [u64; 24],
}

/// What a project has, and may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project {
    /// Bytes.
    pub used: u64,
    /// Bytes; 0 is no limit.
    pub limit: u64,
}

/// # Safety
///
/// `argument` is what `command` reads or writes.
unsafe fn quotactl<T>(fs: BorrowedFd<'_>, command: u32, id: u32, argument: *mut T) -> io::Result<()> {
    let command = libc::c_long::from((command << 8) | PROJECTS);
    // SAFETY: as the caller says; the descriptor is open.
    check_long(unsafe { libc::syscall(libc::SYS_quotactl_fd, fs.as_raw_fd(), command, id, argument) }).map(drop)
}

/// Whether the file system on which `fs` is limits projects. An error says why it is not even asked.
pub fn enforces(fs: BorrowedFd<'_>) -> io::Result<bool> {
    let mut state = State { version: STATE_VERSION, ..State::default() };
    // SAFETY: the command writes a structure of this version, which is not longer than ours.
    unsafe { quotactl(fs, STATE, 0, &raw mut state) }?;
    Ok(state.flags & PROJECTS_ENFORCED != 0)
}

/// The project to which a file or directory belongs; 0 is none.
pub fn project_of(file: BorrowedFd<'_>) -> io::Result<u32> {
    attributes(file).map(|a| a.project)
}

fn attributes(file: BorrowedFd<'_>) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the request writes one structure.
    check(unsafe { libc::ioctl(file.as_raw_fd(), GET_ATTRIBUTES, &raw mut attributes) })?;
    Ok(attributes)
}

/// Makes a file or directory belong to a project, with what will be made in it.
pub fn set_project(file: BorrowedFd<'_>, id: u32, is_directory: bool) -> io::Result<()> {
    let before = attributes(file)?;
    let flags = if is_directory { before.flags | INHERIT } else { before.flags };
    let after = Attributes { flags, project: id, ..before };
    // SAFETY: the request reads one structure.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_ATTRIBUTES, &raw const after) }).map(drop)
}

/// What a project has on the file system of `fs`.
pub fn get(fs: BorrowedFd<'_>, id: u32) -> io::Result<Project> {
    let mut usage = Usage::default();
    // SAFETY: the command writes one structure.
    unsafe { quotactl(fs, GET, id, &raw mut usage) }?;
    Ok(Project { used: usage.bytes, limit: usage.hard_blocks.saturating_mul(BLOCK) })
}

/// Limits a project to so many bytes, rounded up to whole KiB; 0 is no limit.
pub fn limit(fs: BorrowedFd<'_>, id: u32, bytes: u64) -> io::Result<()> {
    let blocks = bytes.div_ceil(BLOCK);
    let mut usage = Usage { hard_blocks: blocks, soft_blocks: blocks, valid: BLOCK_LIMITS, ..Usage::default() };
    // SAFETY: the command reads one structure.
    unsafe { quotactl(fs, SET, id, &raw mut usage) }
}
