//! What health checks answer, of a server and of a node (`handleRootHealth` in `apiserver/pkg/server/healthz/healthz.go`).

/// A name, and what is wrong.
pub type Check = (&'static str, Result<(), String>);

/// Whether all is well, and the lines of `/<group>?verbose`.
pub fn report(group: &str, checks: &[Check], excluded: &[&str]) -> (bool, String) {
    let mut text = String::new();
    let mut well = true;
    for (name, result) in checks {
        match result {
            _ if excluded.contains(name) => text.push_str(&format!("[+]{name} excluded: ok\n")),
            Ok(()) => text.push_str(&format!("[+]{name} ok\n")),
            Err(_) => {
                text.push_str(&format!("[-]{name} failed: reason withheld\n"));
                well = false;
            }
        }
    }
    let mut unknown: Vec<String> =
        excluded.iter().filter(|e| !checks.iter().any(|(name, _)| name == *e)).map(|e| format!("{e:?}")).collect();
    unknown.sort();
    unknown.dedup();
    if !unknown.is_empty() {
        let names = unknown.join(",");
        text.push_str(&format!("warn: some health checks cannot be excluded: no matches for {names}\n"));
    }
    text.push_str(&format!("{group} check {}\n", if well { "passed" } else { "failed" }));
    (well, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(excluded: &[&str], expected: Expect) {
        let checks = [("ping", Ok(())), ("hook/a", Ok(())), ("hook/b", Err("not finished".to_owned()))];
        let (well, text) = report("readyz", &checks, excluded);
        expected.assert_eq(&format!("{well}\n{text}"));
    }

    #[test]
    fn what_has_begun_and_is_not_done_fails_unless_excluded() {
        check(
            &[],
            expect![[r#"
                false
                [+]ping ok
                [+]hook/a ok
                [-]hook/b failed: reason withheld
                readyz check failed
            "#]],
        );
        check(
            &["hook/b", "x", "etcd", "x"],
            expect![[r#"
                true
                [+]ping ok
                [+]hook/a ok
                [+]hook/b excluded: ok
                warn: some health checks cannot be excluded: no matches for "etcd","x"
                readyz check passed
            "#]],
        );
    }
}
