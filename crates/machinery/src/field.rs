//! Field paths and field errors, in upstream's words (`k8s.io/apimachinery/pkg/util/validation/field`).

use api::status::StatusCause;
use std::fmt;

/// A path like `spec.containers[0].name`. Cheap to extend; built on the way down.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// A path of one field.
    pub fn new(root: &str) -> Self {
        Path(root.to_owned())
    }
    /// The empty path.
    pub fn root() -> Self {
        Path(String::new())
    }
    /// `self.name`
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() { Path(name.to_owned()) } else { self.then(&[".", name]) }
    }
    /// `self[i]`
    #[must_use]
    pub fn index(&self, i: usize) -> Self {
        self.key(&i.to_string())
    }
    /// `self[key]`
    #[must_use]
    pub fn key(&self, key: &str) -> Self {
        self.then(&["[", key, "]"])
    }

    /// Validation makes a path for every field it looks at, so this is one allocation.
    fn then(&self, parts: &[&str]) -> Self {
        let mut text = String::with_capacity(self.0.len() + parts.iter().map(|part| part.len()).sum::<usize>());
        text.push_str(&self.0);
        parts.iter().for_each(|part| text.push_str(part));
        Path(text)
    }

    /// The text; `<nil>` for the empty path, as upstream prints it.
    pub fn as_str(&self) -> &str {
        if self.0.is_empty() { "<nil>" } else { &self.0 }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What kind of mistake a field error is; gives the cause's machine reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorType {
    /// The value refers to something that is not there.
    NotFound,
    /// A value is missing.
    Required,
    /// A value occurs twice.
    Duplicate,
    /// A value has the right type but is not acceptable.
    Invalid,
    /// A value is not one of the allowed ones.
    NotSupported,
    /// A value is not allowed here at all.
    Forbidden,
    /// A string or list is too long.
    TooLong,
    /// A list or map has too many items.
    TooMany,
    /// Our fault.
    Internal,
    /// A value has the wrong type.
    TypeInvalid,
}

impl ErrorType {
    /// `FieldValueRequired` and so on.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorType::NotFound => "FieldValueNotFound",
            ErrorType::Required => "FieldValueRequired",
            ErrorType::Duplicate => "FieldValueDuplicate",
            ErrorType::Invalid => "FieldValueInvalid",
            ErrorType::NotSupported => "FieldValueNotSupported",
            ErrorType::Forbidden => "FieldValueForbidden",
            ErrorType::TooLong => "FieldValueTooLong",
            ErrorType::TooMany => "FieldValueTooMany",
            ErrorType::Internal => "InternalError",
            ErrorType::TypeInvalid => "FieldValueTypeInvalid",
        }
    }
}

/// One mistake in one field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// What kind of mistake.
    pub kind: ErrorType,
    /// Where.
    pub path: Path,
    /// Upstream's `ErrorBody()`: everything after `path: `.
    pub body: String,
}

/// All mistakes of an object; validation never stops at the first.
pub type Errors = Vec<FieldError>;

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body)
    }
}

impl FieldError {
    fn make(kind: ErrorType, path: &Path, body: String) -> Self {
        FieldError { kind, path: path.clone(), body }
    }
    fn with_detail(mut body: String, detail: &str) -> String {
        if !detail.is_empty() {
            body.push_str(": ");
            body.push_str(detail);
        }
        body
    }
    /// `Required value: detail`
    pub fn required(path: &Path, detail: &str) -> Self {
        Self::make(ErrorType::Required, path, Self::with_detail("Required value".into(), detail))
    }
    /// `Invalid value: "v": detail`. `value` is printed as upstream prints it: strings quoted, numbers bare, structs as JSON.
    pub fn invalid(path: &Path, value: impl BadValue, detail: &str) -> Self {
        Self::make(ErrorType::Invalid, path, Self::with_detail(format!("Invalid value: {}", value.show()), detail))
    }
    /// `Unsupported value: "v": supported values: "a", "b"`
    pub fn not_supported(path: &Path, value: impl BadValue, supported: &[&str]) -> Self {
        let mut body = format!("Unsupported value: {}", value.show());
        if !supported.is_empty() {
            let list: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
            body = format!("{body}: supported values: {}", list.join(", "));
        }
        Self::make(ErrorType::NotSupported, path, body)
    }
    /// `Forbidden: detail`
    pub fn forbidden(path: &Path, detail: &str) -> Self {
        Self::make(ErrorType::Forbidden, path, Self::with_detail("Forbidden".into(), detail))
    }
    /// `Duplicate value: "v"`
    pub fn duplicate(path: &Path, value: impl BadValue) -> Self {
        Self::make(ErrorType::Duplicate, path, format!("Duplicate value: {}", value.show()))
    }
    /// `Not found: "v"`
    pub fn not_found(path: &Path, value: impl BadValue) -> Self {
        Self::make(ErrorType::NotFound, path, format!("Not found: {}", value.show()))
    }
    /// `Too long: may not be more than N bytes`
    pub fn too_long(path: &Path, max_bytes: usize) -> Self {
        Self::make(ErrorType::TooLong, path, format!("Too long: may not be more than {max_bytes} bytes"))
    }
    /// `Too many: N: must have at most M items`
    pub fn too_many(path: &Path, actual: usize, max: usize) -> Self {
        let items = if max == 1 { "item" } else { "items" };
        Self::make(ErrorType::TooMany, path, format!("Too many: {actual}: must have at most {max} {items}"))
    }
    /// As it stands in a Status.
    pub fn to_cause(&self) -> StatusCause {
        StatusCause { reason: self.kind.reason().into(), message: self.body.clone(), field: self.path.to_string() }
    }
}

/// Text as Go's `%q` shows it (`strconv.Quote`).
pub fn quote(text: &str) -> String {
    use std::fmt::Write;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\t' => out.push_str("\\t"),
            '\n' => out.push_str("\\n"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\r' => out.push_str("\\r"),
            ' ' => out.push(' '),
            c if !c.is_control() && !c.is_whitespace() => out.push(c),
            // Writing to a String does not fail.
            c if c < '\u{80}' => drop(write!(out, "\\x{:02x}", u32::from(c))),
            c if c < '\u{10000}' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => drop(write!(out, "\\U{:08x}", u32::from(c))),
        }
    }
    out.push('"');
    out
}

/// A value printed inside a field error.
pub trait BadValue {
    /// Strings quoted as Go's `%q`, the rest as JSON.
    fn show(&self) -> String;
}

impl BadValue for &str {
    fn show(&self) -> String {
        quote(self)
    }
}
impl BadValue for &String {
    fn show(&self) -> String {
        quote(self)
    }
}
impl BadValue for String {
    fn show(&self) -> String {
        quote(self)
    }
}
impl BadValue for i32 {
    fn show(&self) -> String {
        self.to_string()
    }
}
impl BadValue for i64 {
    fn show(&self) -> String {
        self.to_string()
    }
}
impl BadValue for usize {
    fn show(&self) -> String {
        self.to_string()
    }
}
impl BadValue for bool {
    fn show(&self) -> String {
        self.to_string()
    }
}
impl BadValue for &serde_json::Value {
    fn show(&self) -> String {
        self.to_string()
    }
}

/// The text upstream makes of a list of errors (`ErrorList.ToAggregate`): one as is, several in brackets, duplicates once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut seen: Vec<String> = Vec::new();
    for e in errors {
        let text = e.to_string();
        if !seen.contains(&text) {
            seen.push(text);
        }
    }
    if seen.len() == 1 { seen.remove(0) } else { format!("[{}]", seen.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_go_quotes() {
        for (text, shown) in
            [("a\0b", r#""a\x00b""#), ("\"\\\n", r#""\"\\\n""#), ("é\u{85}", r#""é\u0085""#), ("\u{7f}", r#""\x7f""#)]
        {
            assert_eq!(quote(text), shown);
        }
    }

    #[test]
    fn errors_print_as_upstream() {
        let spec = Path::new("spec");
        let e = FieldError::not_supported(&spec.child("restartPolicy"), "x", &["Always", "Never"]);
        assert_eq!(e.to_string(), r#"spec.restartPolicy: Unsupported value: "x": supported values: "Always", "Never""#);
        let r = FieldError::required(&spec.child("containers").index(0).child("name"), "");
        assert_eq!(r.to_string(), "spec.containers[0].name: Required value");
        assert_eq!(aggregate(&[r.clone(), r.clone()]), "spec.containers[0].name: Required value");
    }
}
