//! Text to tree: a lexer and a precedence-climbing parser of CEL's grammar (cel-spec `doc/langdef.md`,
//! `cel-go/parser/gen/CEL.g4`), with optional syntax (`a.?b`, `a[?b]`, `[?x]`, `{?k: v}`).
//!
//! Places of nodes are cel-go's: a call is at its parenthesis, an operator or selection at its sign.

use super::ast::{Element, Entry, Expr, FieldInit, Kind};
use super::errors::Issue;
use super::macros;
use super::value::Value;

/// cel-go's limits (`parser/options.go`).
const MAX_DEPTH: usize = 250;
const MAX_CODE_POINTS: usize = 100_000;

/// Names that no variable may have.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Ident(String),
    Int(String),
    Uint(String),
    Double(f64),
    Text(String),
    Bytes(Vec<u8>),
    /// Operators and brackets.
    Sign(&'static str),
    End,
}

impl Token {
    fn show(&self) -> String {
        match self {
            Token::Ident(name) => format!("'{name}'"),
            Token::Int(text) | Token::Uint(text) => format!("'{text}'"),
            Token::Double(number) => format!("'{number}'"),
            Token::Text(text) => format!("'\"{text}\"'"),
            Token::Bytes(_) => "'b\"…\"'".to_owned(),
            Token::Sign(sign) => format!("'{sign}'"),
            Token::End => "'<EOF>'".to_owned(),
        }
    }
}

#[derive(Debug)]
struct Spanned {
    token: Token,
    at: usize,
}

/// Parses an expression, macros expanded (`cel.bind` only if it `binds`). Also answers how many ids were given.
pub(super) fn parse(source: &str, binds: bool) -> Result<(Expr, usize), Vec<Issue>> {
    let characters: Vec<char> = source.chars().collect();
    if characters.len() > MAX_CODE_POINTS {
        let size = characters.len();
        return Err(vec![Issue::at(
            0,
            format!("expression code point size exceeds limit: size: {size}, limit {MAX_CODE_POINTS}"),
        )]);
    }
    let tokens = lex(&characters).map_err(|issue| vec![issue])?;
    let mut parser = Parser { tokens, next: 0, depth: 0, nodes: Nodes { next: 0, binds } };
    let expr = parser.expression().map_err(|issue| vec![issue])?;
    if parser.peek() != &Token::End {
        let found = parser.peek().show();
        return Err(vec![Issue::at(parser.at(), format!("Syntax error: mismatched input {found} expecting <EOF>"))]);
    }
    Ok((expr, parser.nodes.next))
}

// === lexer ===

/// Longest first.
const SIGNS: &[&str] = &[
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]",
    "{", "}",
];

fn lex(source: &[char]) -> Result<Vec<Spanned>, Issue> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < source.len() {
        let c = source[at];
        if c.is_whitespace() {
            at += 1;
            continue;
        }
        if source[at..].starts_with(&['/', '/']) {
            at += source[at..].iter().position(|c| *c == '\n').unwrap_or(source.len() - at);
            continue;
        }
        let start = at;
        let token = if let Some(prefix) = string_prefix(&source[at..]) {
            let (token, end) = lex_string(source, at, prefix)?;
            at = end;
            token
        } else if c.is_ascii_digit() || (c == '.' && source.get(at + 1).is_some_and(char::is_ascii_digit)) {
            let (token, end) = lex_number(source, at)?;
            at = end;
            token
        } else if c.is_ascii_alphabetic() || c == '_' {
            while source.get(at).is_some_and(|c| c.is_ascii_alphanumeric() || *c == '_') {
                at += 1;
            }
            Token::Ident(source[start..at].iter().collect())
        } else {
            let sign = SIGNS.iter().find(|sign| sign.chars().enumerate().all(|(i, c)| source.get(at + i) == Some(&c)));
            let Some(sign) = sign else {
                let shown: String = source[at..(at + 2).min(source.len())].iter().collect();
                let message = format!("Syntax error: token recognition error at: '{shown}'");
                return Err(Issue::at(at, message));
            };
            at += sign.len();
            Token::Sign(sign)
        };
        tokens.push(Spanned { token, at: start });
    }
    tokens.push(Spanned { token: Token::End, at: source.len() });
    Ok(tokens)
}

#[derive(Debug, Clone, Copy)]
struct Prefix {
    length: usize,
    raw: bool,
    bytes: bool,
}

fn string_prefix(rest: &[char]) -> Option<Prefix> {
    let mut prefix = Prefix { length: 0, raw: false, bytes: false };
    for c in rest {
        match c {
            'r' | 'R' if !prefix.raw => prefix.raw = true,
            'b' | 'B' if !prefix.bytes => prefix.bytes = true,
            '"' | '\'' => return Some(prefix),
            _ => return None,
        }
        prefix.length += 1;
    }
    None
}

/// A string or bytes literal that begins at `start`, and where it ends.
fn lex_string(source: &[char], start: usize, prefix: Prefix) -> Result<(Token, usize), Issue> {
    let mut at = start + prefix.length;
    let quote = source[at];
    let triple = source[at..].starts_with(&[quote; 3]);
    at += if triple { 3 } else { 1 };
    let unfinished = |end: usize| {
        let shown: String = source[start..end].iter().collect();
        Issue::at(start, format!("Syntax error: token recognition error at: '{shown}'"))
    };
    let mut text = String::new();
    let mut bytes = Vec::new();
    loop {
        let Some(&c) = source.get(at) else { return Err(unfinished(source.len())) };
        if c == quote && (!triple || source[at..].starts_with(&[quote; 3])) {
            at += if triple { 3 } else { 1 };
            break;
        }
        if !triple && matches!(c, '\n' | '\r') {
            return Err(unfinished(at));
        }
        let (code, is_byte, length) = match c {
            '\\' if !prefix.raw => escape(&source[at..]).ok_or_else(|| unfinished(at + 1))?,
            c => (c as u32, false, 1),
        };
        at += length;
        match (prefix.bytes, is_byte, char::from_u32(code)) {
            (true, true, _) => bytes.push(u8::try_from(code).map_err(|_| unfinished(at))?),
            (true, false, Some(c)) => bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes()),
            (false, _, Some(c)) => text.push(c),
            (_, _, None) => return Err(Issue::at(start, "Syntax error: invalid unicode code point".to_owned())),
        }
    }
    Ok((if prefix.bytes { Token::Bytes(bytes) } else { Token::Text(text) }, at))
}

/// The code of an escape sequence, whether a bytes literal takes it as a byte, and its length.
fn escape(rest: &[char]) -> Option<(u32, bool, usize)> {
    let digits = |from: usize, count: usize, radix: u32| {
        let text: String = rest.get(from..from + count)?.iter().collect();
        let well_formed = text.chars().all(|c| c.is_digit(radix));
        u32::from_str_radix(&text, radix).ok().filter(|_| well_formed)
    };
    let simple = |code: u32| Some((code, true, 2));
    match rest.get(1)? {
        'a' => simple(7),
        'b' => simple(8),
        't' => simple(9),
        'n' => simple(10),
        'v' => simple(11),
        'f' => simple(12),
        'r' => simple(13),
        c @ ('\\' | '\'' | '"' | '`' | '?') => simple(*c as u32),
        'x' | 'X' => Some((digits(2, 2, 16)?, true, 4)),
        'u' => Some((digits(2, 4, 16)?, false, 6)),
        'U' => Some((digits(2, 8, 16)?, false, 10)),
        '0'..='3' => Some((digits(1, 3, 8)?, true, 4)),
        _ => None,
    }
}

fn lex_number(source: &[char], start: usize) -> Result<(Token, usize), Issue> {
    let digits = |mut at: usize, radix: u32| {
        while source.get(at).is_some_and(|c| c.is_digit(radix)) {
            at += 1;
        }
        at
    };
    let is = |at: usize, set: &[char]| source.get(at).is_some_and(|c| set.contains(c));
    let text = |end: usize| source[start..end].iter().collect::<String>();
    if source[start] == '0' && is(start + 1, &['x', 'X']) {
        let end = digits(start + 2, 16);
        return Ok(match is(end, &['u', 'U']) {
            true => (Token::Uint(text(end)), end + 1),
            false => (Token::Int(text(end)), end),
        });
    }
    let mut end = digits(start, 10);
    let mut is_double = false;
    if is(end, &['.']) && source.get(end + 1).is_some_and(char::is_ascii_digit) {
        is_double = true;
        end = digits(end + 1, 10);
    }
    if is(end, &['e', 'E']) {
        let sign = usize::from(is(end + 1, &['+', '-']));
        let after = digits(end + 1 + sign, 10);
        if after > end + 1 + sign {
            is_double = true;
            end = after;
        }
    }
    if is_double {
        let number = text(end).parse::<f64>();
        return number
            .map(|n| (Token::Double(n), end))
            .map_err(|_| Issue::at(start, "invalid double literal".to_owned()));
    }
    Ok(match is(end, &['u', 'U']) {
        true => (Token::Uint(text(end)), end + 1),
        false => (Token::Int(text(end)), end),
    })
}

// === parser ===

/// Gives out ids; macros make nodes with it, too.
pub(super) struct Nodes {
    next: usize,
    /// Whether there is `cel.bind`.
    pub(super) binds: bool,
}

impl Nodes {
    pub(super) fn make(&mut self, at: usize, kind: Kind) -> Expr {
        let id = self.next;
        self.next += 1;
        Expr { id, at, kind }
    }

    pub(super) fn call(&mut self, at: usize, function: &str, args: Vec<Expr>) -> Expr {
        self.make(at, Kind::Call { function: function.into(), target: None, args })
    }

    pub(super) fn ident(&mut self, at: usize, name: &str) -> Expr {
        self.make(at, Kind::Ident(name.into()))
    }

    pub(super) fn literal(&mut self, at: usize, value: Value) -> Expr {
        self.make(at, Kind::Literal(value))
    }
}

struct Parser {
    tokens: Vec<Spanned>,
    next: usize,
    depth: usize,
    nodes: Nodes,
}

/// Sign, cel-go's function, how tight it binds.
const BINARY: &[(&str, &str, u8)] = &[
    ("||", "_||_", 1),
    ("&&", "_&&_", 2),
    ("<=", "_<=_", 3),
    (">=", "_>=_", 3),
    ("==", "_==_", 3),
    ("!=", "_!=_", 3),
    ("<", "_<_", 3),
    (">", "_>_", 3),
    ("+", "_+_", 4),
    ("-", "_-_", 4),
    ("*", "_*_", 5),
    ("/", "_/_", 5),
    ("%", "_%_", 5),
];
const RELATION: u8 = 3;

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.next].token
    }

    fn at(&self) -> usize {
        self.tokens[self.next].at
    }

    fn advance(&mut self) -> Token {
        let token = self.peek().clone();
        if self.next + 1 < self.tokens.len() {
            self.next += 1;
        }
        token
    }

    fn take(&mut self, sign: &str) -> bool {
        let found = matches!(self.peek(), Token::Sign(s) if *s == sign);
        if found {
            self.advance();
        }
        found
    }

    fn expect(&mut self, sign: &str) -> Result<(), Issue> {
        if self.take(sign) {
            return Ok(());
        }
        Err(self.unexpected(&format!("'{sign}'")))
    }

    fn unexpected(&self, expecting: &str) -> Issue {
        let found = self.peek().show();
        Issue::at(self.at(), format!("Syntax error: mismatched input {found} expecting {expecting}"))
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Self) -> Result<T, Issue>) -> Result<T, Issue> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Issue::at(self.at(), format!("expression recursion limit exceeded: {MAX_DEPTH}")));
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    fn expression(&mut self) -> Result<Expr, Issue> {
        self.deeper(|p| {
            let condition = p.binary(1)?;
            let at = p.at();
            if !p.take("?") {
                return Ok(condition);
            }
            let yes = p.binary(1)?;
            p.expect(":")?;
            let no = p.expression()?;
            Ok(p.nodes.call(at, "_?_:_", vec![condition, yes, no]))
        })
    }

    fn binary(&mut self, tightest: u8) -> Result<Expr, Issue> {
        let mut left = self.unary()?;
        let mut length = 0;
        loop {
            let (function, binds) = match self.peek() {
                Token::Sign(sign) => match BINARY.iter().find(|(s, ..)| s == sign) {
                    Some((_, function, binds)) => (*function, *binds),
                    None => return Ok(left),
                },
                Token::Ident(name) if name == "in" => ("@in", RELATION),
                _ => return Ok(left),
            };
            if binds < tightest {
                return Ok(left);
            }
            // A chain is as deep a tree as nested brackets are.
            length += 1;
            if length > MAX_DEPTH {
                return Err(Issue::at(self.at(), format!("expression recursion limit exceeded: {MAX_DEPTH}")));
            }
            let at = self.at();
            self.advance();
            let right = self.deeper(|p| p.binary(binds + 1))?;
            left = self.nodes.call(at, function, vec![left, right]);
        }
    }

    fn unary(&mut self) -> Result<Expr, Issue> {
        let at = self.at();
        for (sign, function) in [("!", "!_"), ("-", "-_")] {
            if !self.take(sign) {
                continue;
            }
            let mut count = 1;
            while self.take(sign) {
                count += 1;
            }
            // `-5` is a literal, so that the smallest integer can be written.
            if sign == "-" && count == 1 && matches!(self.peek(), Token::Int(_) | Token::Double(_)) {
                let number = self.number(at, true)?;
                return self.members(number);
            }
            let operand = self.member()?;
            return Ok(if count % 2 == 0 { operand } else { self.nodes.call(at, function, vec![operand]) });
        }
        self.member()
    }

    fn number(&mut self, at: usize, negative: bool) -> Result<Expr, Issue> {
        let bad = |what: &str| Issue::at(at, format!("invalid {what} literal"));
        let value = match self.advance() {
            Token::Double(number) => Value::Double(if negative { -number } else { number }),
            Token::Uint(text) => Value::Uint(unsigned(&text).ok_or_else(|| bad("uint"))?),
            Token::Int(text) => {
                let number = unsigned(&text).ok_or_else(|| bad("int"))?;
                let number = if negative { -i128::from(number) } else { i128::from(number) };
                Value::Int(i64::try_from(number).map_err(|_| bad("int"))?)
            }
            _ => return Err(bad("number")),
        };
        Ok(self.nodes.literal(at, value))
    }

    fn member(&mut self) -> Result<Expr, Issue> {
        let primary = self.primary()?;
        self.members(primary)
    }

    /// `.field`, `.?field`, `.call(…)`, `[index]`, `[?index]` after a primary.
    fn members(&mut self, mut expr: Expr) -> Result<Expr, Issue> {
        let mut length = 0;
        loop {
            let at = self.at();
            let dot = self.take(".");
            if !dot && !self.take("[") {
                return Ok(expr);
            }
            length += 1;
            if length > MAX_DEPTH {
                return Err(Issue::at(at, format!("expression recursion limit exceeded: {MAX_DEPTH}")));
            }
            let optional = self.take("?");
            if !dot {
                let index = self.expression()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                expr = self.nodes.call(at, function, vec![expr, index]);
                continue;
            }
            let Token::Ident(name) = self.peek().clone() else { return Err(self.unexpected("IDENTIFIER")) };
            self.advance();
            let open = self.at();
            if optional {
                let field = self.nodes.literal(at, Value::from(name.as_str()));
                expr = self.nodes.call(at, "_?._", vec![expr, field]);
            } else if self.take("(") {
                let args = self.arguments(")")?;
                expr = self.called(open, &name, Some(expr), args)?;
            } else {
                let kind = Kind::Select { operand: Box::new(expr), field: name.into(), test_only: false };
                expr = self.nodes.make(at, kind);
                if self.is_struct(&expr) {
                    expr = self.structure(expr)?;
                }
            }
        }
    }

    fn called(&mut self, at: usize, name: &str, target: Option<Expr>, args: Vec<Expr>) -> Result<Expr, Issue> {
        match macros::expand(&mut self.nodes, at, name, target, args)? {
            macros::Expansion::Done(expr) => Ok(expr),
            macros::Expansion::NoMacro { target, args } => {
                let target = target.map(Box::new);
                Ok(self.nodes.make(at, Kind::Call { function: name.into(), target, args }))
            }
        }
    }

    fn is_struct(&self, name: &Expr) -> bool {
        matches!(self.peek(), Token::Sign("{")) && name.qualified_name().is_some()
    }

    fn primary(&mut self) -> Result<Expr, Issue> {
        let at = self.at();
        match self.peek().clone() {
            Token::Int(_) | Token::Uint(_) | Token::Double(_) => self.number(at, false),
            Token::Text(text) => {
                self.advance();
                Ok(self.nodes.literal(at, Value::from(text.as_str())))
            }
            Token::Bytes(bytes) => {
                self.advance();
                Ok(self.nodes.literal(at, Value::Bytes(bytes.into())))
            }
            Token::Sign("(") => {
                self.advance();
                let inner = self.expression()?;
                self.expect(")")?;
                Ok(inner)
            }
            Token::Sign("[") => {
                self.advance();
                let list = self.list()?;
                Ok(self.nodes.make(at, Kind::List(list)))
            }
            Token::Sign("{") => {
                self.advance();
                let entries = self.map()?;
                Ok(self.nodes.make(at, Kind::Map(entries)))
            }
            Token::Sign(".") => {
                // A name of the root container, which is the only one here.
                self.advance();
                match self.peek() {
                    Token::Ident(_) => self.name(at),
                    _ => Err(self.unexpected("IDENTIFIER")),
                }
            }
            Token::Ident(_) => self.name(at),
            Token::Sign(_) | Token::End => Err(self.unexpected(
                "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
            )),
        }
    }

    fn name(&mut self, at: usize) -> Result<Expr, Issue> {
        let Token::Ident(name) = self.advance() else { return Err(self.unexpected("IDENTIFIER")) };
        let literal = match name.as_str() {
            "true" => Some(Value::Bool(true)),
            "false" => Some(Value::Bool(false)),
            "null" => Some(Value::Null),
            _ => None,
        };
        if let Some(value) = literal {
            return Ok(self.nodes.literal(at, value));
        }
        if name == "in" {
            return Err(Issue::at(at, "Syntax error: mismatched input 'in' expecting IDENTIFIER".to_owned()));
        }
        if RESERVED.contains(&name.as_str()) {
            return Err(Issue::at(at, format!("reserved identifier: {name}")));
        }
        let open = self.at();
        if self.take("(") {
            let args = self.arguments(")")?;
            return self.called(open, &name, None, args);
        }
        let ident = self.nodes.ident(at, &name);
        if self.is_struct(&ident) {
            return self.structure(ident);
        }
        Ok(ident)
    }

    fn arguments(&mut self, end: &'static str) -> Result<Vec<Expr>, Issue> {
        let mut args = Vec::new();
        if self.take(end) {
            return Ok(args);
        }
        loop {
            args.push(self.expression()?);
            if self.take(end) {
                return Ok(args);
            }
            self.expect(",")?;
        }
    }

    fn list(&mut self) -> Result<Vec<Element>, Issue> {
        let mut items = Vec::new();
        loop {
            if self.take("]") {
                return Ok(items);
            }
            let optional = self.take("?");
            items.push(Element { value: self.expression()?, optional });
            if !self.take(",") {
                self.expect("]")?;
                return Ok(items);
            }
        }
    }

    fn map(&mut self) -> Result<Vec<Entry>, Issue> {
        let mut entries = Vec::new();
        loop {
            if self.take("}") {
                return Ok(entries);
            }
            let optional = self.take("?");
            let key = self.expression()?;
            self.expect(":")?;
            entries.push(Entry { key, value: self.expression()?, optional });
            if !self.take(",") {
                self.expect("}")?;
                return Ok(entries);
            }
        }
    }

    /// `Type{field: value}` after its name.
    fn structure(&mut self, name: Expr) -> Result<Expr, Issue> {
        let at = self.at();
        self.expect("{")?;
        let mut fields = Vec::new();
        while !self.take("}") {
            let optional = self.take("?");
            let Token::Ident(field) = self.peek().clone() else { return Err(self.unexpected("IDENTIFIER")) };
            self.advance();
            let colon = self.at();
            self.expect(":")?;
            fields.push(FieldInit { name: field.into(), at: colon, value: self.expression()?, optional });
            if !self.take(",") {
                self.expect("}")?;
                break;
            }
        }
        let name = name.qualified_name().unwrap_or_default();
        Ok(self.nodes.make(at, Kind::Struct { name, fields }))
    }
}

fn unsigned(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}
