//! AppArmor: which profile confines a container, and which the kernel has.
//!
//! Profiles are the business of the machine's administrator (`apparmor_parser`); nothing here loads any. So the runtime's default is a
//! name: where no profile of that name is loaded, it confines nothing.

use std::io;

/// What confines containers that ask for nothing else, where it is loaded.
pub const DEFAULT: &str = "dhow-default";

/// What a container asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// [`DEFAULT`].
    Default,
    /// Nothing.
    Unconfined,
    /// This one.
    Profile(String),
}

/// Whether this kernel enforces profiles (upstream's `third_party/forked/libcontainer/apparmor`).
pub fn is_enabled() -> bool {
    let enabled = std::fs::read_to_string("/sys/module/apparmor/parameters/enabled");
    std::path::Path::new("/sys/kernel/security/apparmor").exists() && enabled.is_ok_and(|text| text.starts_with('Y'))
}

/// Whether the kernel has a profile of this name.
pub fn is_loaded(name: &str) -> bool {
    lists(&std::fs::read_to_string("/sys/kernel/security/apparmor/profiles").unwrap_or_default(), name)
}

/// The profile to enter, which may not be loaded; privileged containers are confined only if they ask for it.
pub fn profile(wish: Option<&Wish>, privileged: bool) -> Option<String> {
    match wish {
        Some(Wish::Profile(name)) => Some(name.clone()),
        Some(Wish::Unconfined) => None,
        Some(Wish::Default) | None => (!privileged && is_loaded(DEFAULT)).then(|| DEFAULT.to_owned()),
    }
}

/// Lines are like `name (enforce)`.
fn lists(profiles: &str, name: &str) -> bool {
    profiles.lines().any(|line| line.rsplit_once(" (").is_some_and(|(n, _)| n == name))
}

/// The profile is entered by the next exec of this thread. It must be loaded.
pub(crate) fn enter_on_exec(profile: &str) -> io::Result<()> {
    let write = |path: &str| std::fs::write(path, format!("exec {profile}"));
    match write("/proc/thread-self/attr/apparmor/exec") {
        // Linux before 5.8: the file is that of the only module there is.
        Err(e) if e.kind() == io::ErrorKind::NotFound && is_enabled() && is_loaded(profile) => {
            write("/proc/thread-self/attr/exec")
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_profiles_are_whole_lines() {
        let text = "dhow-default (enforce)\n/usr/sbin/a b (complain)\n";
        assert!(lists(text, "dhow-default") && lists(text, "/usr/sbin/a b"));
        assert!(!lists(text, "dhow") && !lists(text, "/usr/sbin/a") && !lists("", ""));
    }

    #[test]
    fn only_a_named_profile_confines_the_privileged() {
        let named = Wish::Profile("x".into());
        assert_eq!(profile(Some(&named), true).as_deref(), Some("x"));
        assert_eq!(profile(Some(&Wish::Unconfined), false), None);
        assert_eq!(profile(Some(&Wish::Default), true), None);
    }
}
