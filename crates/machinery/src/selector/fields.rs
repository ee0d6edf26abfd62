//! Field selectors: `status.phase=Running,spec.nodeName!=a`.
//!
//! Follows `apimachinery/pkg/fields/selector.go`: `\`, `,` and `=` are escaped in values; an absent field is the empty
//! text. Which fields a kind knows is the kind's business; the caller checks [`FieldSelector::requirements`].

use super::SelectorError;
use std::fmt;

/// One condition on one field.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// Path, e.g. `metadata.name`.
    pub field: String,
    /// Whether the field must equal the value, or must not.
    pub equal: bool,
    /// Unescaped.
    pub value: String,
}

impl FieldRequirement {
    /// Whether a field with this value satisfies it; absent fields count as empty.
    pub fn matches_value(&self, value: Option<&str>) -> bool {
        (value.unwrap_or_default() == self.value) == self.equal
    }
}

impl fmt::Display for FieldRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.field, if self.equal { "=" } else { "!=" })?;
        for c in self.value.chars() {
            if matches!(c, '\\' | ',' | '=') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        Ok(())
    }
}

/// Conditions on fields that must all hold. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Reads the text form. Terms are sorted, as upstream, but by how they are shown: what is shown reads as the same.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let terms = terms.into_iter().filter(|t| !t.is_empty());
        let mut requirements = terms.map(|term| parse_term(text, term)).collect::<Result<Vec<_>, _>>()?;
        requirements.sort_by_cached_key(ToString::to_string);
        Ok(FieldSelector { requirements })
    }

    /// All of these conditions.
    pub fn of(requirements: Vec<FieldRequirement>) -> Self {
        FieldSelector { requirements }
    }

    /// Whether it restricts nothing.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Its conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether an object with these fields is selected.
    pub fn matches_by<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|r| r.matches_value(value(&r.field)))
    }

    /// The one value that a field must have, if there is one: for indexes and single-object watches.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|r| r.equal && r.field == field).map(|r| r.value.as_str())
    }
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, requirement) in self.requirements.iter().enumerate() {
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{requirement}")?;
        }
        Ok(())
    }
}

/// Splits at commas that no backslash precedes.
fn split_terms(text: &str) -> Vec<&str> {
    let mut escaped = false;
    let is_separator = |c: char| {
        let separates = c == ',' && !escaped;
        escaped = c == '\\' && !escaped;
        separates
    };
    text.split(is_separator).collect()
}

fn parse_term(whole: &str, term: &str) -> Result<FieldRequirement, SelectorError> {
    let bad = || SelectorError::Syntax(format!("invalid selector: '{whole}'; can't understand '{term}'"));
    // A `!` alone is part of the name.
    let at =
        (0..term.len()).find(|i| matches!(term.as_bytes()[*i..], [b'=', ..] | [b'!', b'=', ..])).ok_or_else(bad)?;
    let (field, rest) = term.split_at(at);
    let (equal, value) = match rest.strip_prefix("!=") {
        Some(value) => (false, value),
        None => (true, rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')).ok_or_else(bad)?),
    };
    Ok(FieldRequirement { field: field.to_owned(), equal, value: unescape(value)? })
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let escape = |text: &str| SelectorError::Syntax(format!("invalid field selector: invalid escape sequence: {text}"));
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(c) => return Err(escape(&format!("\\{c}"))),
                None => return Err(escape("\\")),
            },
            // Upstream prints the code of the character.
            ',' | '=' => {
                let text = format!("invalid field selector: unescaped character in value: {}", u32::from(c));
                return Err(SelectorError::Syntax(text));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn texts_have_a_canonical_form_or_upstreams_error() {
        let cases = [
            ("", ""),
            ("x=a,y=b", "x=a,y=b"),
            ("y!=b,x==a", "x=a,y!=b"),
            ("metadata.name=", "metadata.name="),
            (r"x=a\,b\=c\\", r"x=a\,b\=c\\"),
            (",,x=a", "x=a"),
            ("x", "invalid selector: 'x'; can't understand 'x'"),
            ("a,x=b", "invalid selector: 'a,x=b'; can't understand 'a'"),
            ("x=a||y=b", "invalid field selector: unescaped character in value: 61"),
            (r"x=\a", r"invalid field selector: invalid escape sequence: \a"),
            (r"x=a\", r"invalid field selector: invalid escape sequence: \"),
        ];
        for (text, want) in cases {
            let got = FieldSelector::parse(text).map_or_else(|e| e.to_string(), |s| s.to_string());
            assert_eq!(got, want, "{text}");
        }
    }

    #[test]
    fn absent_fields_are_empty() {
        let pods = FieldSelector::parse("spec.nodeName=,status.phase!=Failed").expect("valid");
        assert!(pods.matches_by(|f| (f == "status.phase").then_some("Running")));
        assert!(!pods.matches_by(|_| Some("a")));
        assert_eq!(pods.exact("spec.nodeName"), Some(""));
        assert_eq!(pods.exact("status.phase"), None);
    }

    /// `==` comes after `=.`, what it means before.
    #[test]
    fn terms_stand_in_the_order_in_which_they_are_shown() {
        let shown = FieldSelector::parse("=.,==").expect("valid").to_string();
        assert_eq!(shown, "=,=.");
        assert_eq!(FieldSelector::parse(&shown).expect("valid").to_string(), shown);
    }

    proptest! {
        #[test]
        fn any_text_parses_to_itself_or_fails(text in "[a-c.!=,\\\\é]{0,16}") {
            if let Ok(first) = FieldSelector::parse(&text) {
                let again = FieldSelector::parse(&first.to_string());
                prop_assert_eq!(again.map(|s| s.to_string()), Ok(first.to_string()));
            }
        }
    }
}
