//! Named formats: `format.dns1123Label().validate(text)` (`apiserver/pkg/cel/library/format.go`).

use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
use crate::go_url::Url;
use crate::validation::{
    is_dns1035_label, is_dns1123_label, is_dns1123_subdomain, is_label_key, is_label_value, mask_trailing_dash,
};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

/// A named format.
#[derive(Debug)]
pub struct Format {
    /// As `format.named` knows it.
    pub(crate) name: &'static str,
    /// What is wrong with a text.
    check: fn(&str) -> Vec<String>,
    /// The length of the regular expression that the check would take, for its cost.
    pub(crate) regex_size: u64,
}

const FORMATS: &[Format] = &[
    Format { name: "dns1123Label", check: is_dns1123_label, regex_size: 30 },
    Format { name: "dns1123Subdomain", check: is_dns1123_subdomain, regex_size: 60 },
    Format { name: "dns1035Label", check: is_dns1035_label, regex_size: 30 },
    Format { name: "qualifiedName", check: is_label_key, regex_size: 60 },
    Format { name: "dns1123LabelPrefix", check: |t| is_dns1123_label(&mask_trailing_dash(t)), regex_size: 30 },
    Format { name: "dns1123SubdomainPrefix", check: |t| is_dns1123_subdomain(&mask_trailing_dash(t)), regex_size: 60 },
    Format { name: "dns1035LabelPrefix", check: |t| is_dns1035_label(&mask_trailing_dash(t)), regex_size: 30 },
    Format { name: "labelValue", check: is_label_value, regex_size: 40 },
    Format { name: "uri", check: uri, regex_size: 1200 },
    Format { name: "uuid", check: uuid, regex_size: 80 },
    Format { name: "byte", check: byte, regex_size: 72 },
    Format { name: "date", check: date, regex_size: 110 },
    Format { name: "datetime", check: datetime, regex_size: 110 },
];

pub(super) const OVERLOADS: &[Def] = &[
    def("format.dns1123Label", "format.dns1123Label", "() -> Format", |_| Ok(Value::Format(&FORMATS[0]))),
    def("format.dns1123Subdomain", "format.dns1123Subdomain", "() -> Format", |_| Ok(Value::Format(&FORMATS[1]))),
    def("format.dns1035Label", "format.dns1035Label", "() -> Format", |_| Ok(Value::Format(&FORMATS[2]))),
    def("format.qualifiedName", "format.qualifiedName", "() -> Format", |_| Ok(Value::Format(&FORMATS[3]))),
    def("format.dns1123LabelPrefix", "format.dns1123LabelPrefix", "() -> Format", |_| Ok(Value::Format(&FORMATS[4]))),
    def("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix", "() -> Format", |_| {
        Ok(Value::Format(&FORMATS[5]))
    }),
    def("format.dns1035LabelPrefix", "format.dns1035LabelPrefix", "() -> Format", |_| Ok(Value::Format(&FORMATS[6]))),
    def("format.labelValue", "format.labelValue", "() -> Format", |_| Ok(Value::Format(&FORMATS[7]))),
    def("format.uri", "format.uri", "() -> Format", |_| Ok(Value::Format(&FORMATS[8]))),
    def("format.uuid", "format.uuid", "() -> Format", |_| Ok(Value::Format(&FORMATS[9]))),
    def("format.byte", "format.byte", "() -> Format", |_| Ok(Value::Format(&FORMATS[10]))),
    def("format.date", "format.date", "() -> Format", |_| Ok(Value::Format(&FORMATS[11]))),
    def("format.datetime", "format.datetime", "() -> Format", |_| Ok(Value::Format(&FORMATS[12]))),
    def("format.named", "format-named", "(string) -> optional(Format)", |a| match a {
        [Value::String(name)] => {
            let found = FORMATS.iter().find(|f| f.name == &**name);
            Ok(Value::Optional(found.map(|f| Value::Format(f).into())))
        }
        _ => Err(EvalError::no_overload()),
    }),
    def("validate", "format-validate", "Format.(string) -> optional(list(string))", validate),
];

fn validate(args: &[Value]) -> Answer {
    let [Value::Format(format), Value::String(text)] = args else { return Err(EvalError::no_overload()) };
    let problems = (format.check)(text);
    match problems.is_empty() {
        true => Ok(Value::Optional(None)),
        false => Ok(Value::some(problems.into_iter().map(Value::from).collect::<Vec<_>>().into())),
    }
}

fn uri(text: &str) -> Vec<String> {
    Url::parse_request(text).err().into_iter().collect()
}

fn uuid(text: &str) -> Vec<String> {
    let digits: Vec<char> = text.chars().filter(|c| *c != '-').collect();
    let groups: Vec<usize> = text.split('-').map(str::len).collect();
    let shape = groups == [8, 4, 4, 4, 12] || groups == [32];
    let fine = shape && digits.iter().all(char::is_ascii_hexdigit);
    if fine { Vec::new() } else { vec!["does not match the UUID format".to_owned()] }
}

fn byte(text: &str) -> Vec<String> {
    if BASE64.decode(text).is_ok() { Vec::new() } else { vec!["invalid base64".to_owned()] }
}

fn date(text: &str) -> Vec<String> {
    let fine = text.len() == 10 && text.parse::<jiff::civil::Date>().is_ok();
    if fine { Vec::new() } else { vec!["invalid date".to_owned()] }
}

fn datetime(text: &str) -> Vec<String> {
    if text.parse::<jiff::Timestamp>().is_ok() { Vec::new() } else { vec!["invalid datetime".to_owned()] }
}
