//! The text form of label selectors: lexer, parser, and the rules for label keys and values.
//!
//! Follows the lexer of `apimachinery/pkg/labels/selector.go` to the letter, because its quirks are visible: `in` and
//! `notin` are words or operators by position, a NUL byte ends a token. Label rules: `apimachinery/pkg/api/validate/content`.

use super::{Operator, Requirement, SelectorError};
use crate::field::{FieldError, Path};
use std::collections::BTreeSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Error,
    End,
    ClosedPar,
    Comma,
    Not,
    DoubleEquals,
    Equals,
    Greater,
    Word,
    In,
    Less,
    NotEquals,
    NotIn,
    OpenPar,
}

#[derive(Debug, Clone)]
struct Token {
    kind: Kind,
    text: String,
}

fn keyword(text: &str) -> Option<Kind> {
    Some(match text {
        ")" => Kind::ClosedPar,
        "," => Kind::Comma,
        "!" => Kind::Not,
        "==" => Kind::DoubleEquals,
        "=" => Kind::Equals,
        ">" => Kind::Greater,
        "in" => Kind::In,
        "<" => Kind::Less,
        "!=" => Kind::NotEquals,
        "notin" => Kind::NotIn,
        "(" => Kind::OpenPar,
        _ => return None,
    })
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r' | '\n')
}

fn is_special(c: char) -> bool {
    matches!(c, '=' | '!' | '(' | ')' | ',' | '>' | '<')
}

/// Splits into tokens; the last is [`Kind::End`] and there is only one.
fn scan(text: &str) -> Vec<Token> {
    let mut rest = text;
    let mut tokens = Vec::new();
    loop {
        rest = rest.trim_start_matches(is_space);
        let token = match rest.chars().next() {
            None | Some('\0') => Token { kind: Kind::End, text: String::new() },
            Some(c) if is_special(c) => scan_special(&mut rest),
            Some(_) => scan_word(&mut rest),
        };
        let end = token.kind == Kind::End;
        tokens.push(token);
        if end {
            return tokens;
        }
    }
}

fn scan_word(rest: &mut &str) -> Token {
    let end = rest.find(|c| c == '\0' || is_special(c) || is_space(c)).unwrap_or(rest.len());
    let (word, tail) = rest.split_at(end);
    *rest = tail.strip_prefix('\0').unwrap_or(tail);
    Token { kind: keyword(word).unwrap_or(Kind::Word), text: word.to_owned() }
}

/// The longest operator at the start. All characters here are ASCII.
fn scan_special(rest: &mut &str) -> Token {
    let run = rest.find(|c| !is_special(c)).unwrap_or(rest.len());
    let longest = (1..=run.min(2)).rev().find_map(|n| keyword(&rest[..n]).map(|kind| (n, kind)));
    let (length, kind) = longest.unwrap_or((run, Kind::Error));
    let (text, tail) = rest.split_at(length);
    *rest = tail;
    let text = if kind == Kind::Error { format!("error expected: keyword found '{text}'") } else { text.to_owned() };
    Token { kind, text }
}

pub(super) fn parse(text: &str) -> Result<Vec<Requirement>, SelectorError> {
    let mut parser = Parser { tokens: scan(text), position: 0 };
    let mut requirements = Vec::new();
    loop {
        let next = parser.peek();
        match next.kind {
            Kind::Word | Kind::Not => requirements.push(parser.requirement()?),
            Kind::End => return Ok(requirements),
            _ => return Err(unexpected(&next, ", expected: !, identifier, or 'end of string'")),
        }
        let token = parser.take();
        match token.kind {
            Kind::End => return Ok(requirements),
            Kind::Comma => {
                let next = parser.peek();
                if !matches!(next.kind, Kind::Word | Kind::Not) {
                    return Err(unexpected(&next, ", expected: identifier after ','"));
                }
            }
            _ => return Err(unexpected(&token, ", expected: ',' or 'end of string'")),
        }
    }
}

fn unexpected(token: &Token, expected: &str) -> SelectorError {
    SelectorError::Syntax(format!("found '{}'{expected}", token.text))
}

/// The same, from within a requirement.
fn bad_requirement(token: &Token, expected: &str) -> SelectorError {
    SelectorError::Syntax(format!("unable to parse requirement: found '{}'{expected}", token.text))
}

struct Parser {
    tokens: Vec<Token>,
    position: usize,
}

impl Parser {
    /// The next token as an operator would see it.
    fn peek_operator(&self) -> Token {
        let end = Token { kind: Kind::End, text: String::new() };
        self.tokens.get(self.position).cloned().unwrap_or(end)
    }

    /// The next token as a key or value would see it: `in` and `notin` are words.
    fn peek(&self) -> Token {
        let mut token = self.peek_operator();
        if matches!(token.kind, Kind::In | Kind::NotIn) {
            token.kind = Kind::Word;
        }
        token
    }

    fn take(&mut self) -> Token {
        let token = self.peek();
        self.position += 1;
        token
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let mut token = self.take();
        let negated = token.kind == Kind::Not;
        if negated {
            token = self.take();
        }
        if token.kind != Kind::Word {
            return Err(bad_requirement(&token, ", expected: identifier"));
        }
        let key = token.text;
        let problems = label_key_errors(&key);
        if !problems.is_empty() {
            let error = FieldError::invalid(&Path::root(), &key, &problems.join("; "));
            return Err(SelectorError::Requirement(vec![error]));
        }
        let (operator, values) = if negated {
            (Operator::DoesNotExist, BTreeSet::new())
        } else if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            (Operator::Exists, BTreeSet::new())
        } else {
            let operator = self.operator()?;
            let listed = matches!(operator, Operator::In | Operator::NotIn);
            (operator, if listed { self.values()? } else { self.exact_value()? })
        };
        let values = values.into_iter().collect();
        Requirement::new(&key, operator, values, &Path::root()).map_err(SelectorError::Requirement)
    }

    fn operator(&mut self) -> Result<Operator, SelectorError> {
        let token = self.peek_operator();
        self.position += 1;
        Ok(match token.kind {
            Kind::In => Operator::In,
            Kind::Equals => Operator::Equals,
            Kind::DoubleEquals => Operator::DoubleEquals,
            Kind::Greater => Operator::GreaterThan,
            Kind::Less => Operator::LessThan,
            Kind::NotIn => Operator::NotIn,
            Kind::NotEquals => Operator::NotEquals,
            _ => return Err(bad_requirement(&token, ", expected: in, notin, =, ==, !=, gt, lt")),
        })
    }

    fn values(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let open = self.take();
        if open.kind != Kind::OpenPar {
            return Err(bad_requirement(&open, " expected: '('"));
        }
        let first = self.peek();
        match first.kind {
            Kind::Word | Kind::Comma => {
                let values = self.list()?;
                // `list` stops before the closing parenthesis.
                self.position += 1;
                Ok(values)
            }
            Kind::ClosedPar => {
                self.position += 1;
                Ok(BTreeSet::from([String::new()]))
            }
            _ => Err(bad_requirement(&first, ", expected: ',', ')' or identifier")),
        }
    }

    /// Words and commas up to a closing parenthesis; nothing between two commas is the empty value.
    fn list(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        let mut values = BTreeSet::new();
        loop {
            let token = self.take();
            let next = self.peek();
            match token.kind {
                Kind::Word => {
                    values.insert(token.text);
                    match next.kind {
                        Kind::Comma => {}
                        Kind::ClosedPar => return Ok(values),
                        _ => return Err(bad_requirement(&next, ", expected: ',' or ')'")),
                    }
                }
                Kind::Comma => {
                    if values.is_empty() || matches!(next.kind, Kind::ClosedPar | Kind::Comma) {
                        values.insert(String::new());
                    }
                    if next.kind == Kind::ClosedPar {
                        return Ok(values);
                    }
                }
                _ => return Err(bad_requirement(&token, ", expected: ',', or identifier")),
            }
        }
    }

    fn exact_value(&mut self) -> Result<BTreeSet<String>, SelectorError> {
        if matches!(self.peek().kind, Kind::End | Kind::Comma) {
            return Ok(BTreeSet::from([String::new()]));
        }
        let token = self.take();
        if token.kind == Kind::Word {
            return Ok(BTreeSet::from([token.text]));
        }
        Err(bad_requirement(&token, ", expected: identifier"))
    }
}

// === label rules ===

const NAME_FORMAT: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";
const NAME_PROBLEM: &str =
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
const NAME_MAX_BYTES: usize = 63;
const PREFIX_MAX_BYTES: usize = 253;

/// What is wrong with a label key (`content.IsLabelKey`); empty if nothing.
pub fn label_key_errors(key: &str) -> Vec<String> {
    let example =
        format!("(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{NAME_FORMAT}')");
    let mut errors = Vec::new();
    let (prefix, name) = match key.split_once('/') {
        Some((_, name)) if name.contains('/') => {
            let hint = "with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("a valid label key {NAME_PROBLEM} {example} {hint}")];
        }
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    match prefix {
        Some("") => errors.push("prefix part must be non-empty".to_owned()),
        Some(prefix) => errors.extend(subdomain_errors(prefix).into_iter().map(|e| format!("prefix part {e}"))),
        None => {}
    }
    if name.is_empty() {
        errors.push("name part must be non-empty".to_owned());
    } else if name.len() > NAME_MAX_BYTES {
        errors.push(format!("name part must be no more than {NAME_MAX_BYTES} bytes"));
    }
    if !is_name(name) {
        errors.push(format!("name part {NAME_PROBLEM} {example}"));
    }
    errors
}

/// What is wrong with a label value (`content.IsLabelValue`); empty if nothing.
pub fn label_value_errors(value: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if value.len() > NAME_MAX_BYTES {
        errors.push(format!("must be no more than {NAME_MAX_BYTES} bytes"));
    }
    if !value.is_empty() && !is_name(value) {
        errors.push(format!(
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '({NAME_FORMAT})?')"
        ));
    }
    errors
}

/// Whether `text` matches [`NAME_FORMAT`] from end to end.
fn is_name(text: &str) -> bool {
    let bytes = text.as_bytes();
    let ends = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    ends(bytes.first()) && ends(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn subdomain_errors(text: &str) -> Vec<String> {
    let mut errors = Vec::new();
    if text.len() > PREFIX_MAX_BYTES {
        errors.push(format!("must be no more than {PREFIX_MAX_BYTES} bytes"));
    }
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_label = |l: &str| {
        let b = l.as_bytes();
        b.first().is_some_and(inner) && b.last().is_some_and(inner) && b.iter().all(|b| inner(b) || *b == b'-')
    };
    if !text.split('.').all(is_label) {
        errors.push("a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')".to_owned());
    }
    errors
}
