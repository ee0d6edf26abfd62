//! IP addresses and CIDRs (`apimachinery/pkg/util/validation/ip.go`).
//!
//! "Legacy" fields accept any spelling that Go's old parser took (leading zeros in IPv4 octets); with strict validation,
//! the default of 1.36, those are refused by name. Newer fields want the canonical spelling.

use super::Messages;
use crate::field::{Errors, FieldError, Path, quote};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// `IPv4` or `IPv6`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address; an IPv4-mapped one is IPv4, as in Go.
    pub fn of(ip: IpAddr) -> Family {
        if ip.to_canonical().is_ipv4() { Family::V4 } else { Family::V6 }
    }
    /// As it stands in `ipFamilies`.
    pub fn as_str(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// Parses as `ParseIPSloppy`: leading zeros in IPv4 octets are decimal.
pub fn parse_ip_sloppy(value: &str) -> Option<IpAddr> {
    if let Ok(ip) = value.parse::<IpAddr>() {
        return Some(ip);
    }
    let (head, v4) = match value.rfind(':') {
        Some(colon) => (&value[..=colon], &value[colon + 1..]),
        None => ("", value),
    };
    let mut octets = [0u8; 4];
    let mut parts = v4.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 16 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|e| if part.bytes().all(|b| b == b'0') { Ok(0) } else { Err(e) })
            .ok()?;
    }
    if parts.next().is_some() {
        return None;
    }
    let plain = Ipv4Addr::from(octets);
    if head.is_empty() {
        Some(plain.into())
    } else {
        format!("{head}{plain}").parse::<Ipv6Addr>().ok().map(IpAddr::from)
    }
}

/// Parses `address/length` as `ParseCIDRSloppy`: the address as written and the prefix length.
pub fn parse_cidr_sloppy(value: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    let ip = parse_ip_sloppy(address)?;
    if length.is_empty() || length.len() > 8 || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u32 = length.parse().ok()?;
    let max = if ip.is_ipv4() { 32 } else { 128 };
    (length <= max).then_some((ip, length as u8))
}

/// How Go prints an address: an IPv4-mapped one as IPv4.
pub fn canonical_ip(ip: IpAddr) -> String {
    ip.to_canonical().to_string()
}

fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            Ipv4Addr::from(u32::from(ip) & mask).into()
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            Ipv6Addr::from(u128::from(ip) & mask).into()
        }
    }
}

fn ip_messages(value: &str) -> Result<IpAddr, Messages> {
    let Some(ip) = parse_ip_sloppy(value) else {
        return Err(vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".to_owned()]);
    };
    let strict = value.parse::<IpAddr>();
    match strict {
        Err(_) => Err(vec!["must not have leading 0s".to_owned()]),
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            Err(vec!["must not be an IPv4-mapped IPv6 address".to_owned()])
        }
        Ok(_) => Ok(ip),
    }
}

fn cidr_messages(value: &str) -> Result<(IpAddr, u8), Messages> {
    let Some((ip, length)) = parse_cidr_sloppy(value) else {
        return Err(vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".to_owned()]);
    };
    let (address, digits) = value.split_once('/').unwrap_or_default();
    let zeros = digits.len() > 1 && digits.starts_with('0');
    let message = if address.parse::<IpAddr>().is_err() || zeros {
        "must not have leading 0s in IP or prefix length"
    } else if matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some()) {
        "must not have an IPv4-mapped IPv6 address"
    } else if masked(ip, length) != ip {
        "must not have bits set beyond the prefix length"
    } else {
        return Ok((ip, length));
    };
    Err(vec![message.to_owned()])
}

fn errors_of<T>(path: &Path, value: &str, result: Result<T, Messages>) -> Errors {
    result.err().unwrap_or_default().iter().map(|m| FieldError::invalid(path, value, m)).collect()
}

/// `IsValidIPForLegacyField` with strict validation; values in `old` pass unseen.
pub fn is_valid_ip_legacy(path: &Path, value: &str, old: &[String]) -> Errors {
    if old.iter().any(|o| o == value) { Vec::new() } else { errors_of(path, value, ip_messages(value)) }
}

/// The warning about an address that a legacy field took though it is not how it should be written
/// (`GetWarningsForIP`).
pub fn ip_warning(value: &str, path: impl FnOnce() -> Path) -> Option<String> {
    let ip = parse_ip_sloppy(value)?;
    let canonical = canonical_ip(ip);
    if canonical == value {
        return None;
    }
    let (path, shown, canonical) = (path(), quote(value), quote(&canonical));
    Some(if Family::of(ip) == Family::V4 || value.parse::<IpAddr>().is_err() {
        format!("{path}: non-standard IP address {shown} is invalid: use {canonical}")
    } else {
        format!("{path}: IPv6 address {shown} should be in RFC 5952 canonical format ({canonical})")
    })
}

/// `IsValidIP`: strict and canonical.
pub fn is_valid_ip(path: &Path, value: &str) -> Errors {
    let result = ip_messages(value).and_then(|ip| {
        let canonical = canonical_ip(ip);
        if canonical == value { Ok(()) } else { Err(vec![format!("must be in canonical form ({canonical:?})")]) }
    });
    errors_of(path, value, result)
}

/// `IsValidCIDRForLegacyField` with strict validation; values in `old` pass unseen.
pub fn is_valid_cidr_legacy(path: &Path, value: &str, old: &[String]) -> Errors {
    if old.iter().any(|o| o == value) { Vec::new() } else { errors_of(path, value, cidr_messages(value)) }
}

/// `IsValidCIDR`: strict and canonical.
pub fn is_valid_cidr(path: &Path, value: &str) -> Errors {
    let result = cidr_messages(value).and_then(|(ip, length)| {
        let canonical = format!("{}/{length}", canonical_ip(ip));
        if canonical == value { Ok(()) } else { Err(vec![format!("must be in canonical form ({canonical:?})")]) }
    });
    errors_of(path, value, result)
}

/// `IsValidInterfaceAddress`: an address with the length of its network, canonical.
pub fn validate_interface_address(path: &Path, value: &str) -> Errors {
    let Some((ip, length)) = parse_cidr_sloppy(value) else {
        let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
        return vec![FieldError::invalid(path, value, detail)];
    };
    let is_mapped = ip.is_ipv6() && ip.to_canonical().is_ipv4();
    let length = if is_mapped && length > 32 { length.saturating_sub(96) } else { length };
    let canonical = format!("{}/{length}", canonical_ip(ip));
    if canonical == value {
        return Vec::new();
    }
    vec![FieldError::invalid(path, value, &format!("must be in canonical form ({canonical:?})"))]
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    fn check(f: impl Fn(&Path, &str) -> Errors, inputs: &[&str], expected: Expect) {
        let path = Path::new("ip");
        let lines: Vec<String> =
            inputs.iter().map(|i| f(&path, i).first().map_or_else(|| format!("{i} ok"), ToString::to_string)).collect();
        expected.assert_eq(&lines.join("\n"));
    }

    #[test]
    fn addresses() {
        let inputs = ["10.0.0.1", "10.0.0.01", "::ffff:1.2.3.4", "FE80::1", "x", "1.2.3", "2001:db8::1"];
        check(
            is_valid_ip,
            &inputs,
            expect![[r#"
            10.0.0.1 ok
            ip: Invalid value: "10.0.0.01": must not have leading 0s
            ip: Invalid value: "::ffff:1.2.3.4": must not be an IPv4-mapped IPv6 address
            ip: Invalid value: "FE80::1": must be in canonical form ("fe80::1")
            ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            ip: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)
            2001:db8::1 ok"#]],
        );
        check(
            |p, v| is_valid_ip_legacy(p, v, &["010.0.0.1".to_owned()]),
            &["FE80::1", "010.0.0.1", "000.0.0.1"],
            expect![[r#"
            FE80::1 ok
            010.0.0.1 ok
            ip: Invalid value: "000.0.0.1": must not have leading 0s"#]],
        );
    }

    #[test]
    fn prefixes() {
        let inputs = ["10.0.0.0/8", "10.0.0.1/8", "10.0.0.0/08", "::/0", "10.0.0.0/33", "10.0.0.0"];
        check(
            is_valid_cidr,
            &inputs,
            expect![[r#"
            10.0.0.0/8 ok
            ip: Invalid value: "10.0.0.1/8": must not have bits set beyond the prefix length
            ip: Invalid value: "10.0.0.0/08": must not have leading 0s in IP or prefix length
            ::/0 ok
            ip: Invalid value: "10.0.0.0/33": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)
            ip: Invalid value: "10.0.0.0": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"#]],
        );
    }
}
