//! The privileged floor: thin, safe wrappers over what only the kernel can do. The only crate with `unsafe`.
//!
//! Invariants: no policy lives here, every file descriptor is owned and close-on-exec, and an error carries the errno of
//! the call that failed. Containers: [`process`], [`mount`], [`cgroup`], [`seccomp`], [`device`], [`pty`]; disks: [`quota`]; plumbing: [`fd`],
//! [`socket`]; ourselves: [`memory`].

pub mod cgroup;
pub mod device;
pub mod fd;
pub mod memory;
pub mod mount;
pub mod netlink;
pub mod nft;
pub mod process;
pub mod pty;
pub mod quota;
pub mod seccomp;
pub mod socket;
