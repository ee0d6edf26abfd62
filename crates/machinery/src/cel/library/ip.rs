//! `ip('10.0.0.1')` and `cidr('10.0.0.0/8')` (`apiserver/pkg/cel/library/ip.go`, `…/cidr.go`). Addresses are as strict as
//! Go's `netip`; IPv4 mapped into IPv6 is refused.

use super::std::to_string;
use super::{Answer, Def, def};
use crate::cel::errors::EvalError;
use crate::cel::value::Value;
use ipnet::IpNet;
use std::net::{IpAddr, Ipv6Addr};

pub(super) const OVERLOADS: &[Def] = &[
    def("ip", "string_to_ip", "(string) -> IP", |a| text(a, |t| parse_ip(t).map(Value::Ip))),
    def("ip", "cidr_ip", "CIDR.() -> IP", |a| cidr(a, |ip, _| Ok(Value::Ip(ip)))),
    def("isIP", "is_ip", "(string) -> bool", |a| text(a, |t| Ok(parse_ip(t).is_ok().into()))),
    def("ip.isCanonical", "ip_is_canonical", "(string) -> bool", |a| {
        text(a, |t| Ok((parse_ip(t)?.to_string() == t).into()))
    }),
    def("string", "ip_to_string", "(IP) -> string", to_string),
    def("family", "ip_family", "IP.() -> int", |a| ip(a, |ip| Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })))),
    def("isUnspecified", "ip_is_unspecified", "IP.() -> bool", |a| ip(a, |ip| Ok(ip.is_unspecified().into()))),
    def("isLoopback", "ip_is_loopback", "IP.() -> bool", |a| ip(a, |ip| Ok(ip.is_loopback().into()))),
    def("isLinkLocalMulticast", "ip_is_link_local_multicast", "IP.() -> bool", |a| {
        ip(a, |ip| Ok(is_link_local_multicast(ip).into()))
    }),
    def("isLinkLocalUnicast", "ip_is_link_local_unicast", "IP.() -> bool", |a| {
        ip(a, |ip| Ok(is_link_local_unicast(ip).into()))
    }),
    def("isGlobalUnicast", "ip_is_global_unicast", "IP.() -> bool", |a| ip(a, |ip| Ok(is_global_unicast(ip).into()))),
    def("cidr", "string_to_cidr", "(string) -> CIDR", |a| text(a, |t| parse_cidr(t).map(|(ip, n)| Value::Cidr(ip, n)))),
    def("isCIDR", "is_cidr", "(string) -> bool", |a| text(a, |t| Ok(parse_cidr(t).is_ok().into()))),
    def("string", "cidr_to_string", "(CIDR) -> string", to_string),
    def("prefixLength", "cidr_prefix_length", "CIDR.() -> int", |a| cidr(a, |_, bits| Ok(Value::Int(i64::from(bits))))),
    def("masked", "cidr_masked", "CIDR.() -> CIDR", |a| {
        cidr(a, |ip, bits| network(ip, bits).map(|net| Value::Cidr(net.network(), bits)))
    }),
    def("containsIP", "cidr_contains_ip_string", "CIDR.(string) -> bool", contains_ip),
    def("containsIP", "cidr_contains_ip_ip", "CIDR.(IP) -> bool", contains_ip),
    def("containsCIDR", "cidr_contains_cidr_string", "CIDR.(string) -> bool", contains_cidr),
    def("containsCIDR", "cidr_contains_cidr", "CIDR.(CIDR) -> bool", contains_cidr),
];

fn text(args: &[Value], run: impl FnOnce(&str) -> Answer) -> Answer {
    match args {
        [Value::String(text)] => run(text),
        _ => Err(EvalError::no_overload()),
    }
}

fn ip(args: &[Value], run: impl FnOnce(IpAddr) -> Answer) -> Answer {
    match args {
        [Value::Ip(ip)] => run(*ip),
        _ => Err(EvalError::no_overload()),
    }
}

fn cidr(args: &[Value], run: impl FnOnce(IpAddr, u8) -> Answer) -> Answer {
    match args {
        [Value::Cidr(ip, bits)] => run(*ip, *bits),
        _ => Err(EvalError::no_overload()),
    }
}

fn parse_ip(text: &str) -> Result<IpAddr, EvalError> {
    if text.contains('%') {
        return Err(EvalError::new(format!("IP address {text:?} with zone value is not allowed")));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        ))
    })?;
    match is_mapped(ip) {
        true => Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))),
        false => Ok(ip),
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn parse_cidr(text: &str) -> Result<(IpAddr, u8), EvalError> {
    const FAILED: &str = "network address parse error during conversion from string";
    let parsed = text.split_once('/').and_then(|(ip, bits)| {
        let ip: IpAddr = ip.parse().ok()?;
        let plain = bits == "0" || (!bits.starts_with('0') && bits.bytes().all(|b| b.is_ascii_digit()));
        let bits: u8 = bits.parse().ok().filter(|b| plain && *b <= if ip.is_ipv4() { 32 } else { 128 })?;
        Some((ip, bits))
    });
    match parsed {
        None => Err(EvalError::new(format!("{FAILED}: {FAILED}: netip.ParsePrefix({text:?}): no '/'"))),
        Some((ip, _)) if is_mapped(ip) => {
            Err(EvalError::new(format!("{FAILED}: IPv4-mapped IPv6 address {text:?} is not allowed")))
        }
        Some(both) => Ok(both),
    }
}

fn network(ip: IpAddr, bits: u8) -> Result<IpNet, EvalError> {
    IpNet::new(ip, bits).map_err(|error| EvalError::new(error.to_string()))
}

fn contains_ip(args: &[Value]) -> Answer {
    let (net, other) = match args {
        [Value::Cidr(ip, bits), Value::Ip(other)] => (network(*ip, *bits)?, *other),
        [Value::Cidr(ip, bits), Value::String(text)] => (network(*ip, *bits)?, parse_ip(text)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok(net.contains(&other).into())
}

fn contains_cidr(args: &[Value]) -> Answer {
    let (net, (ip, bits)) = match args {
        [Value::Cidr(ip, bits), Value::Cidr(other, length)] => (network(*ip, *bits)?, (*other, *length)),
        [Value::Cidr(ip, bits), Value::String(text)] => (network(*ip, *bits)?, parse_cidr(text)?),
        _ => return Err(EvalError::no_overload()),
    };
    Ok((net.contains(&ip) && net.prefix_len() <= bits).into())
}

fn is_link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn is_link_local_v6(ip: Ipv6Addr) -> bool {
    ip.segments()[0] & 0xffc0 == 0xfe80
}

fn is_link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => is_link_local_v6(v6),
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !broadcast && !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !is_link_local_unicast(ip)
}
