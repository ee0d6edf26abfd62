//! Who `USER` is: names of an image's `/etc/passwd` and `/etc/group` become numbers.
//!
//! Follows moby/sys `user/user.go` (`GetExecUser`): a number that `/etc/passwd` does not know is a user with group 0;
//! a group that is given replaces the user's own and the additional ones.

use crate::Merged;
use std::io;
use thiserror::Error;

/// A user as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResolvedUser {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Additional group ids, ascending.
    pub groups: Vec<u32>,
    /// From `/etc/passwd`, if it knows the user.
    pub name: Option<String>,
    /// From `/etc/passwd`; `/` if it does not say.
    pub home: String,
}

/// Why a user has no number.
#[derive(Debug, Error)]
pub enum UserError {
    /// `/etc/passwd` has no such name.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// `/etc/group` has no such name.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// Out of range.
    #[error("user or group id {0} is not between 0 and 2147483647")]
    Range(String),
    /// The files cannot be read.
    #[error("failed to read {file} of the image")]
    Io {
        /// Which.
        file: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Resolves `user[:group]`, names or numbers, in the files of an image. Empty is root.
pub fn resolve_user(files: &Merged, spec: &str) -> Result<ResolvedUser, UserError> {
    let read = |file| files.read(file).map(Option::unwrap_or_default).map_err(|source| UserError::Io { file, source });
    resolve(&read("/etc/passwd")?, &read("/etc/group")?, spec)
}

/// [`resolve_user`] on the files' texts.
fn resolve(passwd: &str, group: &str, spec: &str) -> Result<ResolvedUser, UserError> {
    let (user, wanted_group) = spec.split_once(':').unwrap_or((spec, ""));
    let number = id(user)?;
    let is_wanted = |entry: &[&str]| match (user, number) {
        ("", _) => parse(entry, 2) == Some(0),
        (name, number) => entry[0] == name || (number.is_some() && parse(entry, 2) == number),
    };
    let entry = lines(passwd, 4).find(|entry| is_wanted(entry) && parse(entry, 2).is_some());
    let mut resolved = ResolvedUser { home: "/".into(), ..ResolvedUser::default() };
    match (&entry, number) {
        (Some(entry), _) => {
            resolved.uid = parse(entry, 2).unwrap_or(0);
            resolved.gid = parse(entry, 3).unwrap_or(0);
            resolved.name = Some(entry[0].to_owned());
            resolved.home = entry.get(5).filter(|home| !home.is_empty()).map_or("/", |home| home).to_owned();
        }
        (None, Some(number)) => resolved.uid = number,
        (None, None) if user.is_empty() => {}
        (None, None) => return Err(UserError::UnknownUser(user.to_owned())),
    }
    if wanted_group.is_empty() {
        resolved.groups = additional_groups(group, resolved.name.as_deref());
        return Ok(resolved);
    }
    let number = id(wanted_group)?;
    let named = lines(group, 3).find(|entry| entry[0] == wanted_group).and_then(|entry| parse(&entry, 2));
    resolved.gid = named.or(number).ok_or_else(|| UserError::UnknownGroup(wanted_group.to_owned()))?;
    Ok(resolved)
}

/// The groups of `/etc/group` that list a user (for containers that run as a number from elsewhere).
pub fn additional_groups_of(files: &Merged, name: &str) -> Result<Vec<u32>, UserError> {
    let file = "/etc/group";
    let text = files.read(file).map_err(|source| UserError::Io { file, source })?.unwrap_or_default();
    Ok(additional_groups(&text, Some(name)))
}

fn additional_groups(group: &str, name: Option<&str>) -> Vec<u32> {
    let Some(name) = name else { return Vec::new() };
    let member = |entry: &Vec<&str>| entry.get(3).is_some_and(|users| users.split(',').any(|user| user.trim() == name));
    let mut groups: Vec<u32> = lines(group, 3).filter(member).filter_map(|entry| parse(&entry, 2)).collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}

/// A number if `text` is one.
fn id(text: &str) -> Result<Option<u32>, UserError> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        Ok(number) if number <= i32::MAX as u32 => Ok(Some(number)),
        _ => Err(UserError::Range(text.to_owned())),
    }
}

fn lines(text: &str, fields: usize) -> impl Iterator<Item = Vec<&str>> {
    let entry = |line: &'_ str| !line.is_empty() && !line.starts_with('#');
    text.lines()
        .map(str::trim)
        .filter(move |line| entry(line))
        .map(|line| line.split(':').collect())
        .filter(move |entry: &Vec<&str>| entry.len() >= fields)
}

fn parse(entry: &[&str], field: usize) -> Option<u32> {
    entry.get(field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\n# comment\nbroken\nweb:x:33:34:www:/var/www:/bin/false\nnum:x:1000:1000::\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:web\nlogs:x:50:web,num\nadm:x:4:root, web\n";

    fn check(spec: &str, expected: Expect) {
        let shown = match resolve(PASSWD, GROUP, spec) {
            Ok(user) => format!("{}:{} {:?} {:?} {}", user.uid, user.gid, user.groups, user.name, user.home),
            Err(error) => error.to_string(),
        };
        expected.assert_eq(&shown);
    }

    #[test]
    fn users_and_groups_become_numbers() {
        check("", expect![[r#"0:0 [4] Some("root") /root"#]]);
        check("web", expect![[r#"33:34 [4, 34, 50] Some("web") /var/www"#]]);
        check("33", expect![[r#"33:34 [4, 34, 50] Some("web") /var/www"#]]);
        check("num", expect![[r#"1000:1000 [50] Some("num") /"#]]);
        check("4242", expect!["4242:0 [] None /"]);
        check("web:logs", expect![[r#"33:50 [] Some("web") /var/www"#]]);
        check("4242:77", expect!["4242:77 [] None /"]);
        check("nobody", expect!["unable to find user nobody: no matching entries in passwd file"]);
        check("web:none", expect!["unable to find group none: no matching entries in group file"]);
        check("4294967296", expect!["user or group id 4294967296 is not between 0 and 2147483647"]);
    }

    #[test]
    fn image_without_files_has_root() {
        assert_eq!(resolve("", "", "").unwrap().uid, 0);
        assert_eq!(
            resolve("", "", "5:6").unwrap(),
            ResolvedUser { uid: 5, gid: 6, home: "/".into(), ..Default::default() }
        );
    }
}
