//! The commands, one file each. They print for people; errors go to standard error as one sentence, exit code 1 (wrong
//! usage: 2, by clap).

pub(crate) mod agent;
pub(crate) mod backup;
pub(crate) mod cri;
pub(crate) mod down;
pub(crate) mod image;
pub(crate) mod install;
pub(crate) mod reset;
mod start;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod up;

/// Any failure, printed with its causes.
pub(crate) type CommandError = Box<dyn std::error::Error + Send + Sync>;

/// Refuses politely.
pub(crate) fn require_root() -> Result<(), CommandError> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    Err("dhow needs root to make namespaces, mounts and networks; run it with sudo".into())
}

/// A line for people.
pub(crate) fn say(text: impl std::fmt::Display) {
    use std::io::Write;
    // Nobody may be listening any more (a closed pipe); that is no reason to fail.
    drop(writeln!(std::io::stdout(), "{text}"));
}
