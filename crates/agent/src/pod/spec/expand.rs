//! `$(NAME)` in commands, arguments and values (`third_party/forked/golang/expansion`).

/// Replaces every `$(NAME)` that `lookup` knows; `$$` is a literal `$`; what is unknown stays as written.
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = rest.strip_prefix('(').and_then(|r| r.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => out.extend(["$(", name, ")"]),
            }
            rest = after;
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::expand;

    #[test]
    fn follows_upstreams_table() {
        let lookup = |name: &str| (name == "VAR").then(|| "value".to_owned());
        for (input, want) in [
            ("$(VAR)", "value"),
            ("a $(VAR) b", "a value b"),
            ("$(MISSING)", "$(MISSING)"),
            ("$$(VAR)", "$(VAR)"),
            ("$$$(VAR)", "$value"),
            ("$VAR", "$VAR"),
            ("$(VAR", "$(VAR"),
            ("tail$", "tail$"),
            ("$(VAR)$(VAR)", "valuevalue"),
            ("$()", "$()"),
        ] {
            assert_eq!(expand(input, lookup), want, "{input}");
        }
    }
}
