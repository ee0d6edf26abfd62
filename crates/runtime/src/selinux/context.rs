//! Contexts as text, and those that the machine's policy names for containers.

use super::Error;
use crate::spec::SelinuxLabels;
use std::fmt;
use std::path::{Path, PathBuf};

/// `user:role:type:level`. The level may be empty: not every policy has any.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Context {
    /// SELinux' users are not the machine's.
    pub user: String,
    /// `object_r` for files.
    pub role: String,
    /// What rules are about.
    pub kind: String,
    /// Sensitivity and categories, or a range of two such.
    pub level: String,
}

impl Context {
    /// `None` if it has no type.
    pub fn parse(label: &str) -> Option<Context> {
        let mut parts = label.splitn(4, ':').map(str::to_owned);
        let (user, role, kind) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Context { user, role, kind, level: parts.next().unwrap_or_default() })
    }
}

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Context { user, role, kind, level } = self;
        match level.as_str() {
            "" => write!(f, "{user}:{role}:{kind}"),
            _ => write!(f, "{user}:{role}:{kind}:{level}"),
        }
    }
}

/// What a pod or container asks for; what is empty is left to the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Of processes and files.
    pub user: String,
    /// Of processes.
    pub role: String,
    /// Of processes.
    pub kind: String,
    /// Of processes and files.
    pub level: String,
}

impl Wish {
    /// Nothing is asked for.
    pub fn is_empty(&self) -> bool {
        *self == Wish::default()
    }

    /// What has the form of a label; whether there is one the kernel knows.
    pub(super) fn check(&self) -> Result<(), Error> {
        if !self.level.is_empty() && !is_level(&self.level) {
            return Err(Error::Level(self.level.clone()));
        }
        // What policies are written with (checkpolicy's identifiers).
        let written = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        match [&self.user, &self.role, &self.kind].into_iter().find(|part| !part.bytes().all(written)) {
            Some(part) => Err(Error::Invalid(part.clone())),
            None => Ok(()),
        }
    }
}

/// `s0`, `s0-s1:c1`, `s0:c1,c5.c7`: as containerd's `checkSelinuxLevel` (`internal/cri/server/helpers.go`).
fn is_level(text: &str) -> bool {
    let sensitivity = |t: &str| matches!(t.as_bytes(), [b's', digit] if digit.is_ascii_digit());
    let category = |t: &str| {
        t.strip_prefix('c').is_some_and(|n| (1..=4).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let (range, categories) = text.split_once(':').map_or((text, None), |(range, rest)| (range, Some(rest)));
    let (low, high) = range.split_once('-').map_or((range, None), |(low, high)| (low, Some(high)));
    sensitivity(low)
        && high.is_none_or(sensitivity)
        && categories.is_none_or(|all| {
            all.split(',').all(|part| match part.split_once('.') {
                Some((first, last)) => category(first) && category(last),
                None => category(part),
            })
        })
}

/// What the policy names for containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Defaults {
    pub(super) process: Context,
    pub(super) file: Context,
    /// Of files that every container may read, such as those of images.
    pub(super) shared: Context,
}

impl Defaults {
    /// Of the machine's policy (`go-selinux/selinux_linux.go`, `openContextFile`).
    pub(super) fn read() -> Option<Defaults> {
        let shared = Path::new("/usr/share/containers/selinux/contexts");
        let text = std::fs::read_to_string(shared).or_else(|_| std::fs::read_to_string(of_policy()));
        Defaults::parse(&text.ok()?)
    }

    /// Lines are like `process = "system_u:system_r:container_t:s0"`.
    pub(super) fn parse(text: &str) -> Option<Defaults> {
        let context = |key| Context::parse(value_of(text, key)?);
        let (process, file) = (context("process")?, context("file")?);
        Some(Defaults { shared: context("ro_file").unwrap_or_else(|| file.clone()), process, file })
    }

    /// Files have user and level of the processes, and a type of their own.
    pub(super) fn labels(&self, wish: &Wish, level: &str) -> SelinuxLabels {
        let or = |wished: &str, default: &str| if wished.is_empty() { default } else { wished }.to_owned();
        let process = Context {
            user: or(&wish.user, &self.process.user),
            role: or(&wish.role, &self.process.role),
            kind: or(&wish.kind, &self.process.kind),
            level: level.to_owned(),
        };
        let mount = Context { user: or(&wish.user, &self.file.user), level: level.to_owned(), ..self.file.clone() };
        SelinuxLabels { process: process.to_string(), mount: mount.to_string() }
    }
}

/// Which policy it is says `/etc/selinux/config`.
fn of_policy() -> PathBuf {
    let config = std::fs::read_to_string("/etc/selinux/config").unwrap_or_default();
    Path::new("/etc/selinux").join(value_of(&config, "SELINUXTYPE").unwrap_or_default()).join("contexts/lxc_contexts")
}

/// The last line with a key counts; comments begin with `#` or `;`.
fn value_of<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';']));
    let mut pairs = lines.filter_map(|line| line.split_once('='));
    pairs.rfind(|(k, _)| k.trim() == key).map(|(_, value)| value.trim().trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_are_read_and_written() {
        for label in ["u:r:t", "u:r:t:s0", "u:r:t:s0-s1:c1,c2.c9"] {
            assert_eq!(Context::parse(label).map(|c| c.to_string()).as_deref(), Some(label));
        }
        assert_eq!(Context::parse("u:r:t:s0:c1,c2").map(|c| c.level).as_deref(), Some("s0:c1,c2"));
        assert_eq!((Context::parse(""), Context::parse("u:r")), (None, None));
    }

    #[test]
    fn the_policys_contexts_are_found() {
        let text =
            "# containers\nprocess = \"a:b:c:s0\"\n;file = \"no\"\n\n  file=\"d:e:f:s0\"  \nro_file = \"g:h:i:s0\"\n";
        let found = Defaults::parse(text).map(|d| format!("{} {} {}", d.process, d.file, d.shared));
        assert_eq!(found.as_deref(), Some("a:b:c:s0 d:e:f:s0 g:h:i:s0"));
        let without = Defaults::parse("process = \"a:b:c\"\nfile = \"d:e:f\"\n").map(|d| d.shared.to_string());
        assert_eq!(without.as_deref(), Some("d:e:f"));
        assert_eq!(Defaults::parse("process = \"a:b:c\"\n"), None);
        assert_eq!(Defaults::parse("process = \"\"\nfile = \"a:b:c\"\n"), None);
        assert_eq!(
            value_of("#SELINUXTYPE=x\nSELINUX=enforcing\nSELINUXTYPE=targeted\n", "SELINUXTYPE"),
            Some("targeted")
        );
    }

    #[test]
    fn levels_have_a_form() {
        for good in ["s0", "s0-s1", "s0:c1", "s0:c1,c2", "s0:c1.c5,c9", "s0-s1:c0.c1023"] {
            assert!(is_level(good), "{good}");
        }
        for bad in
            ["", "s", "s10", "0", "s0:", "s0:c", "s0:c12345", "s0:c1,", "s0:c1;", "s0-", "c1", "s0:c1.c2.c3", "s0 "]
        {
            assert!(!is_level(bad), "{bad:?}");
        }
    }
}
