//! Who a process runs as, from numbers and from the container's own `/etc/passwd` and `/etc/group`. Pure.
//!
//! Same rules as opencontainers/runc `libcontainer/user` (now moby/sys/user): a number need not exist in the files.

use crate::spec::User;

/// Numbers for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups, the primary one among them.
    pub groups: Vec<u32>,
    /// From `/etc/passwd`.
    pub home: Option<String>,
}

struct Passwd<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn passwd(text: &str) -> impl Iterator<Item = Passwd<'_>> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some(Passwd {
            name: f.first()?,
            uid: f.get(2)?.parse().ok()?,
            gid: f.get(3)?.parse().ok()?,
            home: f.get(5).copied().unwrap_or(""),
        })
    })
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let f: Vec<&str> = line.split(':').collect();
        Some((*f.first()?, f.get(2)?.parse().ok()?, f.get(3).copied().unwrap_or("")))
    })
}

/// Resolves; the error is a sentence.
pub fn resolve(user: &User, passwd_text: &str, group_text: &str) -> Result<Resolved, String> {
    let name = user.name.as_deref().unwrap_or("");
    let (user_part, group_part) = name.split_once(':').unwrap_or((name, ""));
    let number = user.uid.or_else(|| user_part.parse().ok()).or(if user_part.is_empty() { Some(0) } else { None });
    let entry = match number {
        Some(uid) => passwd(passwd_text).find(|p| p.uid == uid),
        None => passwd(passwd_text).find(|p| p.name == user_part),
    };
    let uid = match (number, &entry) {
        (Some(uid), _) => uid,
        (None, Some(p)) => p.uid,
        (None, None) => return Err(format!("unable to find user {user_part}: no matching entries in passwd file")),
    };
    let gid = match user.gid.or_else(|| group_part.parse().ok()) {
        Some(gid) => gid,
        None if group_part.is_empty() => entry.as_ref().map_or(0, |p| p.gid),
        None => match groups(group_text).find(|(n, _, _)| *n == group_part) {
            Some((_, gid, _)) => gid,
            None => return Err(format!("unable to find group {group_part}: no matching entries in group file")),
        },
    };
    // The primary group is among the supplementary ones, else a set-group-id program could shed it (CVE-2022-36109).
    let mut all = vec![gid];
    if let (true, Some(p)) = (user.merge_image_groups, &entry) {
        all.extend(
            groups(group_text).filter(|(_, _, members)| members.split(',').any(|m| m == p.name)).map(|(_, gid, _)| gid),
        );
    }
    // Those of the image come first, as in containerd; the container's status shows this order.
    all.extend(&user.additional_gids);
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|gid| seen.insert(*gid));
    let home = entry.map(|p| p.home.to_owned()).filter(|h| !h.is_empty());
    Ok(Resolved { uid, gid, groups: all, home })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:44::/srv:/bin/false\nbroken\n";
    const GROUP: &str = "root:x:0:\nweb:x:44:\nlog:x:50:other,web\n";

    fn check(
        name: Option<&str>,
        uid: Option<u32>,
        gid: Option<u32>,
        want: Result<(u32, u32, &[u32], Option<&str>), &str>,
    ) {
        let user = User { name: name.map(Into::into), uid, gid, additional_gids: vec![7, 7], merge_image_groups: true };
        let got = resolve(&user, PASSWD, GROUP);
        let got = got.as_ref().map(|r| (r.uid, r.gid, &r.groups[..], r.home.as_deref())).map_err(|e| e.as_str());
        assert_eq!(got, want);
    }

    #[test]
    fn names_and_numbers_are_found_in_the_images_files() {
        check(None, None, None, Ok((0, 0, &[0, 7], Some("/root"))));
        check(Some("web"), None, None, Ok((33, 44, &[44, 50, 7], Some("/srv"))));
        check(Some("web:log"), None, None, Ok((33, 50, &[50, 7], Some("/srv"))));
        check(Some("33:9"), None, None, Ok((33, 9, &[9, 50, 7], Some("/srv"))));
        check(Some("1234"), None, None, Ok((1234, 0, &[0, 7], None)));
        check(Some("web"), Some(5), Some(6), Ok((5, 6, &[6, 7], None)));
        check(Some("nope"), None, None, Err("unable to find user nope: no matching entries in passwd file"));
        check(Some("web:nope"), None, None, Err("unable to find group nope: no matching entries in group file"));
    }
}
