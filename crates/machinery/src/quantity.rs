//! [`Quantity`]: `500m`, `1.5Gi`, `1e3`. A decimal number that remembers how it was written.
//!
//! Follows `apimachinery/pkg/api/resource` (quantity.go, amount.go, suffix.go): grammar, error texts, rounding (up,
//! away from zero, to nano), the cap of binary quantities and the canonical form, including that a text which is
//! already fit to print is kept as written (`1.125`, `+1`). Always holds: the value is `mantissa * 10^scale` with
//! scale ≥ -9.
//!
//! Differs: upstream's numbers are unbounded, ours have 38 digits; more digits are refused as a numeric error and sums
//! beyond that saturate. `1000E` prints as `1000E`, where upstream loses the exponent and prints `1`; `value()`
//! saturates where upstream wraps around.

use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use thiserror::Error;

/// What is wrong with a quantity, in upstream's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum QuantityError {
    /// Not `<sign><digits>.<digits><suffix>`.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number itself cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is none of ours.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// How a quantity was written and will be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// `12M`: powers of 1000.
    #[default]
    DecimalSi,
    /// `12Mi`: powers of 1024.
    BinarySi,
    /// `12e6`.
    DecimalExponent,
}

/// A number of bytes, cores or things. Compared by value: `1` equals `1000m`.
#[derive(Debug, Clone, Default)]
pub struct Quantity {
    mantissa: i128,
    /// Power of ten; i64 so that arithmetic on an i32 exponent cannot overflow.
    scale: i64,
    format: Format,
    /// The text as written, where upstream would print it unchanged.
    text: Option<Box<str>>,
}

const NANO: i64 = -9;
/// Upstream's `maxAllowed`: binary quantities are capped here.
const MAX_ALLOWED: i128 = i64::MAX as i128;

impl Quantity {
    /// Reads a quantity. No surrounding white space.
    pub fn parse(text: &str) -> Result<Quantity, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let parts = Parts::split(text)?;
        let suffix = Suffix::read(parts.suffix).ok_or(QuantityError::Suffix)?;
        if let Some(quick) = parts.exact(suffix, text)? {
            return Ok(quick);
        }
        if !parts.digits {
            return Err(QuantityError::Numeric);
        }
        match suffix {
            Suffix::Decimal(exponent, format) => parts.decimal(i64::from(exponent), format),
            Suffix::Binary(power) => Ok(parts.binary(power)),
        }
    }

    /// Reads the JSON form: text (white space around it is accepted) or a number; `null` is zero.
    pub fn from_json(value: &Value) -> Result<Quantity, QuantityError> {
        match value {
            Value::Null => Ok(Quantity::default()),
            Value::String(s) => Self::parse(s.trim()),
            Value::Number(n) => Self::parse(&n.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// `value` as it is.
    pub fn new(value: i64, format: Format) -> Quantity {
        Self::make(i128::from(value), 0, format)
    }

    /// `value` thousandths.
    pub fn from_milli(value: i64, format: Format) -> Quantity {
        Self::make(i128::from(value), -3, format)
    }

    fn make(mantissa: i128, scale: i64, format: Format) -> Quantity {
        Quantity { mantissa, scale, format, text: None }
    }

    /// How it is printed.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Whether it is 0.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// Rounded away from zero to a whole number; saturates.
    pub fn value(&self) -> i64 {
        self.scaled_value(0)
    }

    /// Thousandths, rounded away from zero; saturates.
    pub fn milli_value(&self) -> i64 {
        self.scaled_value(-3)
    }

    /// In units of `10^scale`, rounded away from zero; saturates.
    pub fn scaled_value(&self, scale: i32) -> i64 {
        let shift = self.scale - i64::from(scale);
        let wide = if shift >= 0 {
            scale_up(self.mantissa, shift).unwrap_or(if self.mantissa < 0 { i128::MIN } else { i128::MAX })
        } else {
            scale_down(self.mantissa, -shift).0
        };
        wide.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The whole number it is, if it is one that fits.
    pub fn as_i64(&self) -> Option<i64> {
        let whole = if self.scale >= 0 {
            scale_up(self.mantissa, self.scale)?
        } else {
            match scale_down(self.mantissa, -self.scale) {
                (whole, true) => whole,
                (_, false) => return None,
            }
        };
        i64::try_from(whole).ok()
    }

    /// The nearest double; for ratios and scores only.
    pub fn as_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.scale.clamp(-400, 400) as i32)
    }

    /// Rounds away from zero to a multiple of `10^scale`; true if that changed nothing.
    pub fn round_up(&mut self, scale: i32) -> bool {
        let scale = i64::from(scale);
        if self.scale >= scale {
            return true;
        }
        let (mantissa, exact) = scale_down(self.mantissa, scale - self.scale);
        *self = Self::make(mantissa, scale, self.format);
        exact
    }

    /// Adds. A zero takes over the other's format, as upstream.
    pub fn add(&mut self, other: &Quantity) {
        self.combine(other.mantissa, other);
    }

    /// Subtracts. A zero takes over the other's format, as upstream.
    pub fn sub(&mut self, other: &Quantity) {
        self.combine(other.mantissa.saturating_neg(), other);
    }

    /// Multiplies; saturates.
    pub fn mul(&mut self, factor: i64) {
        self.mantissa = self.mantissa.saturating_mul(i128::from(factor));
        self.text = None;
    }

    /// The opposite number.
    #[must_use]
    pub fn neg(&self) -> Quantity {
        Self::make(self.mantissa.saturating_neg(), self.scale, self.format)
    }

    fn combine(&mut self, mantissa: i128, other: &Quantity) {
        self.text = None;
        if self.mantissa == 0 {
            self.format = other.format;
            if mantissa != 0 {
                (self.mantissa, self.scale) = (mantissa, other.scale);
            }
            return;
        }
        if mantissa == 0 {
            return;
        }
        let low = self.scale.min(other.scale);
        match (scale_up(self.mantissa, self.scale - low), scale_up(mantissa, other.scale - low)) {
            (Some(a), Some(b)) => (self.mantissa, self.scale) = (a.saturating_add(b), low),
            // 38 digits apart: the smaller one does not show.
            (Some(_), None) => (self.mantissa, self.scale) = (mantissa, other.scale),
            (None, _) => {}
        }
    }
}

/// The canonical text of a quantity: what a client reads back after writing `text`.
pub fn canonical(text: &str) -> Result<String, QuantityError> {
    Ok(Quantity::parse(text.trim())?.to_string())
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let low = self.scale.min(other.scale);
        match (scale_up(self.mantissa, self.scale - low), scale_up(other.mantissa, other.scale - low)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // Only one of them was scaled; what does not fit is the larger in magnitude.
            (None, _) => self.mantissa.cmp(&0),
            (_, None) => 0.cmp(&other.mantissa),
        }
    }
}

impl std::str::FromStr for Quantity {
    type Err = QuantityError;
    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Quantity::parse(text)
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(text) = &self.text {
            return f.write_str(text);
        }
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        // A binary quantity that is small or not whole is printed as a decimal one, so that nothing is rounded.
        if self.format == Format::BinarySi
            && let Some(whole) = self.whole()
            && whole.unsigned_abs() >= 1024
        {
            return write_binary(f, whole);
        }
        self.write_decimal(f)
    }
}

impl Quantity {
    fn whole(&self) -> Option<i128> {
        if self.scale >= 0 {
            return scale_up(self.mantissa, self.scale);
        }
        let (whole, exact) = scale_down(self.mantissa, -self.scale);
        exact.then_some(whole)
    }

    fn write_decimal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut mantissa, mut exponent) = (self.mantissa, self.scale);
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        // Suffixes end at E; the rest becomes zeros. Exponents have no end.
        let top = if self.format == Format::DecimalExponent { i64::MAX } else { 18 };
        let target = (exponent - exponent.rem_euclid(3)).min(top);
        let zeros = usize::try_from(exponent - target).unwrap_or(0);
        write!(f, "{mantissa}{:0<zeros$}", "")?;
        match self.format {
            Format::DecimalExponent if target == 0 => Ok(()),
            Format::DecimalExponent => write!(f, "e{target}"),
            _ => f.write_str(decimal_suffix(target)),
        }
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut whole: i128) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut power = 0;
    while whole % 1024 == 0 && power + 1 < SUFFIXES.len() {
        whole /= 1024;
        power += 1;
    }
    write!(f, "{whole}{}", SUFFIXES[power])
}

fn decimal_suffix(exponent: i64) -> &'static str {
    match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => "",
    }
}

fn pow10(n: i64) -> Option<i128> {
    10i128.checked_pow(u32::try_from(n).ok()?)
}

/// `mantissa * 10^by`, if it fits. Zero always fits.
fn scale_up(mantissa: i128, by: i64) -> Option<i128> {
    if mantissa == 0 {
        return Some(0);
    }
    mantissa.checked_mul(pow10(by)?)
}

/// `mantissa / 10^by` rounded away from zero, and whether nothing was lost.
fn scale_down(mantissa: i128, by: i64) -> (i128, bool) {
    let Some(divisor) = pow10(by) else {
        return (mantissa.signum(), mantissa == 0);
    };
    let exact = mantissa % divisor == 0;
    let quotient = mantissa / divisor;
    (if exact { quotient } else { quotient + mantissa.signum() }, exact)
}

// === parsing ===

#[derive(Clone, Copy)]
enum Suffix {
    Decimal(i32, Format),
    /// Power of two.
    Binary(u32),
}

impl Suffix {
    fn read(text: &str) -> Option<Suffix> {
        let decimal = |e| Some(Suffix::Decimal(e, Format::DecimalSi));
        match text {
            "" => decimal(0),
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            "Ki" => Some(Suffix::Binary(10)),
            "Mi" => Some(Suffix::Binary(20)),
            "Gi" => Some(Suffix::Binary(30)),
            "Ti" => Some(Suffix::Binary(40)),
            "Pi" => Some(Suffix::Binary(50)),
            "Ei" => Some(Suffix::Binary(60)),
            _ => {
                let exponent = text.strip_prefix(['e', 'E'])?;
                Some(Suffix::Decimal(exponent.parse().ok()?, Format::DecimalExponent))
            }
        }
    }
}

/// A quantity's text taken apart; digits only in `num` (no leading zeros, never empty) and `denom`.
struct Parts<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
    /// Whether there was a digit at all.
    digits: bool,
}

impl<'a> Parts<'a> {
    fn split(text: &'a str) -> Result<Parts<'a>, QuantityError> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let stripped = unsigned.trim_start_matches('0');
        if stripped.is_empty() {
            // Upstream reads a lone sign as zero, too.
            return Ok(Parts { negative: false, num: "0", denom: "", suffix: "", digits: true });
        }
        let (num, rest) = take_digits(stripped);
        let (denom, suffix) = match rest.strip_prefix('.') {
            Some(fraction) => take_digits(fraction),
            None => ("", rest),
        };
        let exponent = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if !exponent.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        let digits = stripped.len() != unsigned.len() || !num.is_empty() || !denom.is_empty();
        let num = if num.is_empty() { "0" } else { num };
        Ok(Parts { negative: text.starts_with('-'), num, denom, suffix, digits })
    }

    /// Upstream's fast path: numbers that fit an int64 without loss, and whose text is kept if it is fit to print.
    fn exact(&self, suffix: Suffix, text: &str) -> Result<Option<Quantity>, QuantityError> {
        let digits = (self.num.len() + self.denom.len()) as i64;
        let (exponent, shift, precision, format) = match suffix {
            Suffix::Decimal(exponent, format) => (i64::from(exponent), 0, 18 - digits, format),
            Suffix::Binary(power) if self.denom.is_empty() => {
                (0, power, 15 - digits - i64::from(power * 3 / 10) - 1, Format::BinarySi)
            }
            Suffix::Binary(_) => return Ok(None),
        };
        let scale = exponent - self.denom.len() as i64;
        if precision < 0 || scale < NANO {
            return Ok(None);
        }
        let shifted = match self.denom {
            "" => Cow::Borrowed(self.num),
            denom => Cow::Owned([self.num, denom].concat()),
        };
        let value = i128::from(shifted.parse::<i64>().map_err(|_| QuantityError::Numeric)?);
        let keep = match format {
            Format::BinarySi => shift % 10 == 0 && value & 7 != 0,
            _ => scale % 3 == 0 && !shifted.ends_with("000") && !shifted.starts_with('0'),
        };
        let mantissa = value << shift;
        let mut q = Quantity::make(if self.negative { -mantissa } else { mantissa }, scale, format);
        q.text = keep.then(|| text.into());
        Ok(Some(q))
    }

    /// Any decimal: what is finer than nano is rounded up on the digits themselves.
    fn decimal(&self, exponent: i64, format: Format) -> Result<Quantity, QuantityError> {
        let all = format!("{}{}", self.num, self.denom);
        let scale = exponent - self.denom.len() as i64;
        let dropped = usize::try_from((NANO - scale).max(0)).unwrap_or(usize::MAX).min(all.len());
        let (kept, lost) = all.split_at(all.len() - dropped);
        let kept = kept.trim_start_matches('0');
        let zeros = kept.len() - kept.trim_end_matches('0').len();
        let exact = lost.bytes().all(|b| b == b'0');
        // Trailing zeros go into the scale, unless a carry has to be added to the last digit.
        let (kept, zeros) = if exact { (&kept[..kept.len() - zeros], zeros) } else { (kept, 0) };
        let mut mantissa: i128 = if kept.is_empty() { 0 } else { kept.parse().map_err(|_| QuantityError::Numeric)? };
        if !exact {
            mantissa = mantissa.checked_add(1).ok_or(QuantityError::Numeric)?;
        }
        let scale = scale.max(NANO) + zeros as i64;
        Ok(Quantity::make(
            if self.negative { -mantissa } else { mantissa },
            if mantissa == 0 { 0 } else { scale },
            format,
        ))
    }

    /// A binary quantity with a fraction or many digits: capped, rounded up to nano.
    fn binary(&self, power: u32) -> Quantity {
        // 19 digits of fraction times 2^60 fit; what is finer only rounds up.
        const FRACTION_DIGITS: usize = 19;
        let (fraction, finer) = self.denom.split_at(self.denom.len().min(FRACTION_DIGITS));
        let mut part: i128 = fraction.parse().unwrap_or(0);
        if finer.bytes().any(|b| b != b'0') {
            part += 1;
        }
        let whole = self.num.parse::<i128>().ok().filter(|n| *n <= MAX_ALLOWED).map(|n| n << power);
        let capped = Quantity::make(MAX_ALLOWED, 0, Format::BinarySi);
        let q = match whole {
            Some(whole) if whole <= MAX_ALLOWED => {
                let (nanos, _) = match fraction.len() as i64 - 9 {
                    by @ 0.. => scale_down(part << power, by),
                    by => (scale_up(part << power, -by).unwrap_or(i128::MAX), true),
                };
                // Both terms are below 2^63 * 10^9 and 2^60 * 10^9.
                Quantity::make(whole * 1_000_000_000 + nanos, NANO, Format::BinarySi).min(capped)
            }
            _ => capped,
        };
        let format = if q.sign() > 0 && q < Quantity::new(1, Format::DecimalSi) { Format::DecimalSi } else { q.format };
        Quantity::make(if self.negative { -q.mantissa } else { q.mantissa }, q.scale, format)
    }
}

fn take_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn q(text: &str) -> Quantity {
        Quantity::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[track_caller]
    fn check_canonical(cases: &[(&str, &str)]) {
        for (text, want) in cases {
            let got = canonical(text).unwrap_or_else(|e| e.to_string());
            assert_eq!(&got, want, "{text}");
        }
    }

    #[test]
    fn canonical_texts_are_upstreams() {
        check_canonical(&[
            ("0", "0"),
            ("0m", "0"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1025Ki", "1025Ki"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("0.1", "100m"),
            ("0.1m", "100u"),
            ("100000k", "100M"),
            ("1e3", "1e3"),
            ("10e2", "1e3"),
            ("1E3", "1E3"),
            ("12e1", "120"),
            ("1023", "1023"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("1.5Ki", "1536"),
            ("1.1Ki", "1126400m"),
            ("9Ei", "9223372036854775807"),
            ("-1.5Gi", "-1536Mi"),
            ("0.0000000001", "1n"),
            ("-0.0000000001", "-1n"),
            ("1000E", "1000E"),
            // Texts that upstream keeps because they are fit to print.
            ("1.125", "1.125"),
            ("+1", "+1"),
            ("01", "01"),
            // Numbers beyond an int64.
            ("1234567890123456789012", "1234567890123456789012"),
            ("12345678901234567890k", "12345678901234567890k"),
            ("1e50", "100e48"),
            ("+", "0"),
        ]);
    }

    #[test]
    fn errors_are_upstreams() {
        let format = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
        check_canonical(&[
            ("", format),
            ("1 000", format),
            ("1x", format),
            ("1.2.3", format),
            ("é", format),
            ("1Kii", "unable to parse quantity's suffix"),
            ("1K", "unable to parse quantity's suffix"),
            ("1mi", "unable to parse quantity's suffix"),
            ("1e", "unable to parse quantity's suffix"),
            ("Pi", "unable to parse numeric part of quantity"),
            ("1e99999999999", "unable to parse quantity's suffix"),
        ]);
    }

    #[test]
    fn values_round_away_from_zero() {
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1.5Gi").value(), 1536 << 20);
        assert_eq!(q("0.1m").milli_value(), 1);
        assert_eq!(q("2").milli_value(), 2000);
        assert_eq!(q("1e50").value(), i64::MAX);
        assert_eq!(q("1Gi").as_i64(), Some(1 << 30));
        assert_eq!(q("1m").as_i64(), None);
        let mut tiny = q("1u");
        assert!(!tiny.round_up(-3));
        assert_eq!(tiny.to_string(), "1m");
    }

    #[test]
    fn sums_keep_the_first_format_unless_it_is_zero() {
        let mut sum = Quantity::default();
        sum.add(&q("1Gi"));
        sum.add(&q("512Mi"));
        assert_eq!(sum.to_string(), "1536Mi");
        sum.sub(&q("1G"));
        assert_eq!(sum.to_string(), "610612736");
        let mut cpu = q("250m");
        cpu.add(&q("0.75"));
        assert_eq!(cpu.to_string(), "1");
    }

    #[test]
    fn comparison_is_by_value() {
        assert_eq!(q("1"), q("1000m"));
        assert!(q("1Ki") > q("1k"));
        assert!(q("1e60") > q("1Ei"));
        assert!(q("-1e60") < q("1n"));
    }

    proptest! {
        #[test]
        fn any_text_parses_or_fails_without_panic(text in ".{0,24}") {
            drop(canonical(&text));
        }

        #[test]
        fn quantity_like_text_prints_to_itself(text in "[+-]?[0-9]{0,25}(\\.[0-9]{0,25})?(|[numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,10})") {
            if let Ok(first) = Quantity::parse(&text) {
                let printed = Quantity::make(first.mantissa, first.scale, first.format).to_string();
                // A huge exponent prints as at most 21 characters more than the digits.
                let again = Quantity::parse(&printed).map_err(|e| TestCaseError::fail(format!("{text} -> {printed}: {e}")))?;
                prop_assert_eq!(&again, &first, "{} -> {}", text, printed);
                prop_assert_eq!(canonical(&printed).ok(), Some(printed));
            }
        }

        #[test]
        fn adding_and_subtracting_is_a_round_trip(a in -1_000_000_000_000i64..1_000_000_000_000, b in -1_000_000_000i64..1_000_000_000) {
            let mut sum = Quantity::from_milli(a, Format::DecimalSi);
            sum.add(&Quantity::new(b, Format::BinarySi));
            sum.sub(&Quantity::new(b, Format::BinarySi));
            prop_assert_eq!(sum.milli_value(), a);
        }
    }
}
