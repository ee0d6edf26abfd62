//! Netlink's framing: messages of attributes, padded to four bytes. Writing cannot fail; reading checks every length.

use std::net::IpAddr;

const HEADER: usize = 16;
const NLA_F_NESTED: u16 = 0x8000;
const NLA_TYPE_MASK: u16 = 0x3fff;

/// nlmsghdr without its length and port.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) kind: u16,
    pub(crate) flags: u16,
}

/// A message being written. The header's flags and sequence number are filled in when it is sent.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
    flags: u16,
}

impl Message {
    /// A message of this type; `flags` are those that belong to the request (create, replace, …).
    pub(crate) fn new(kind: u16, flags: u16) -> Message {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        Message { bytes, flags }
    }

    /// Adds flags and the sequence number, and writes the length.
    pub(crate) fn set_header(&mut self, flags: u16, seq: u32) {
        self.pad();
        let len = self.bytes.len() as u32;
        self.bytes[0..4].copy_from_slice(&len.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&(self.flags | flags).to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&seq.to_ne_bytes());
    }

    /// The finished message.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends a fixed part (ifinfomsg, rtmsg, nfgenmsg, …).
    pub(crate) fn raw(&mut self, bytes: &[u8]) -> &mut Message {
        self.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    pub(crate) fn attr(&mut self, kind: u16, value: &[u8]) -> &mut Message {
        let len = (4 + value.len()) as u16;
        self.bytes.extend_from_slice(&len.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a NUL-terminated string.
    pub(crate) fn attr_str(&mut self, kind: u16, value: &str) -> &mut Message {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.attr(kind, &bytes)
    }

    /// Appends one byte.
    pub(crate) fn attr_u8(&mut self, kind: u16, value: u8) -> &mut Message {
        self.attr(kind, &[value])
    }

    /// Appends a number in the machine's order (rtnetlink).
    pub(crate) fn attr_u32(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_ne_bytes())
    }

    /// Appends a number in network order (netfilter).
    pub(crate) fn attr_be32(&mut self, kind: u16, value: u32) -> &mut Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends a number in network order (netfilter).
    pub(crate) fn attr_be64(&mut self, kind: u16, value: u64) -> &mut Message {
        self.attr(kind, &value.to_be_bytes())
    }

    /// Appends an address.
    pub(crate) fn attr_ip(&mut self, kind: u16, ip: IpAddr) -> &mut Message {
        match ip {
            IpAddr::V4(ip) => self.attr(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attr(kind, &ip.octets()),
        }
    }

    /// Appends attributes inside an attribute. The caller keeps a nest under 64 KiB (the length is 16 bits).
    pub(crate) fn nest(&mut self, kind: u16, inside: impl FnOnce(&mut Message)) -> &mut Message {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        self.bytes.extend_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        inside(self);
        let len = self.bytes.len() - start;
        debug_assert!(len <= usize::from(u16::MAX), "nest {kind} is {len} bytes");
        self.bytes[start..start + 2].copy_from_slice(&(len as u16).to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// Attributes of a received message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attrs<'a>(&'a [u8]);

impl<'a> Attrs<'a> {
    /// The attributes in `bytes`; reading stops at the first malformed one.
    pub(crate) fn new(bytes: &'a [u8]) -> Attrs<'a> {
        Attrs(bytes)
    }

    /// The value of the first attribute of this type.
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        let mut all = *self;
        all.find(|(k, _)| *k == kind).map(|(_, v)| v)
    }

    /// The attributes inside an attribute; none if it is absent.
    pub(crate) fn nest(&self, kind: u16) -> Attrs<'a> {
        Attrs(self.get(kind).unwrap_or_default())
    }

    /// A string up to its NUL.
    pub(crate) fn text(&self, kind: u16) -> Option<String> {
        self.get(kind).map(cstr)
    }

    /// A number in the machine's order.
    pub(crate) fn u32(&self, kind: u16) -> Option<u32> {
        ne32(self.get(kind)?)
    }

    /// A number in network order.
    pub(crate) fn be32(&self, kind: u16) -> Option<u32> {
        be32(self.get(kind)?)
    }

    /// An address of either family, told apart by its length.
    pub(crate) fn ip(&self, kind: u16) -> Option<IpAddr> {
        let value = self.get(kind)?;
        <[u8; 4]>::try_from(value).map(IpAddr::from).or_else(|_| <[u8; 16]>::try_from(value).map(IpAddr::from)).ok()
    }
}

impl<'a> Iterator for Attrs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let len = usize::from(u16::from_ne_bytes(self.0.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(self.0.get(2..4)?.try_into().ok()?) & NLA_TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Takes the first message off a datagram: header, body, rest.
pub(crate) fn split_message(bytes: &[u8]) -> Option<(Header, &[u8], &[u8])> {
    let len = usize::try_from(ne32(bytes)?).ok()?;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let flags = u16::from_ne_bytes(bytes.get(6..8)?.try_into().ok()?);
    let body = bytes.get(HEADER..len)?;
    Some((Header { kind, flags }, body, bytes.get(len.next_multiple_of(4)..).unwrap_or_default()))
}

/// The text before the first NUL.
pub(crate) fn cstr(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

/// The first four bytes in the machine's order.
pub(crate) fn ne32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The first four bytes in network order.
pub(crate) fn be32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(..4)?.try_into().ok()?))
}

/// The first two bytes in network order.
pub(crate) fn be16(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?))
}

/// The first eight bytes in network order.
pub(crate) fn be64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_writing_and_reading() {
        let mut m = Message::new(7, 0);
        m.attr_str(1, "eth0").attr_u32(2, 70_000).nest(3, |m| {
            m.attr_u8(4, 9);
        });
        m.set_header(1, 42);
        let (header, body, rest) = split_message(m.bytes()).expect("whole");
        assert_eq!((header.kind, header.flags, rest.len()), (7, 1, 0));
        let attrs = Attrs::new(body);
        assert_eq!(attrs.text(1).as_deref(), Some("eth0"));
        assert_eq!(attrs.u32(2), Some(70_000));
        assert_eq!(attrs.nest(3).get(4), Some(&[9u8][..]));
        assert_eq!(attrs.get(5), None);
    }

    #[test]
    fn malformed_bytes_are_none_and_never_panic() {
        assert!(split_message(&[1, 2, 3]).is_none());
        assert!(split_message(&[255; 20]).is_none());
        assert!(split_message(&[4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]).is_none());
        assert_eq!(Attrs::new(&[2, 0, 1, 0, 9, 9]).next(), None);
        assert_eq!(Attrs::new(&[200, 0, 1, 0]).next(), None);
    }
}
