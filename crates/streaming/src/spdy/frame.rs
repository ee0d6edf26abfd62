//! SPDY/3 frames as values: bytes in, frames out, and back. No I/O.
//!
//! Data frames are handed out in pieces as they arrive, so a frame of 16 MiB needs no buffer of that size; everything else
//! is at most [`MAX_CONTROL`] long and unpacks to at most [`MAX_HEADERS`]. Layout: SPDY draft 3, as
//! `vendor/github.com/moby/spdystream/spdy` reads and writes it.

use super::dictionary::dictionary;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::collections::BTreeMap;
use thiserror::Error;

/// Longest control frame taken.
const MAX_CONTROL: usize = 256 * 1024;
/// Longest header block taken, unpacked.
const MAX_HEADERS: usize = 256 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

const FIN: u8 = 1;

/// Names in lower case.
pub type Headers = BTreeMap<String, String>;

/// Why a stream is refused or given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    ProtocolError = 1,
    RefusedStream = 3,
    Cancel = 5,
}

/// What goes over the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "words of the protocol")]
pub enum Frame {
    SynStream {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    SynReply {
        id: u32,
        fin: bool,
        headers: Headers,
    },
    RstStream {
        id: u32,
        status: u32,
    },
    Ping {
        id: u32,
    },
    GoAway {
        last: u32,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// SETTINGS, HEADERS, WINDOW_UPDATE: correct, and of no meaning here (spdystream knows no flow control).
    Ignored,
}

/// The peer does not speak SPDY/3.
#[derive(Debug, Error, PartialEq, Eq)]
#[allow(missing_docs, reason = "the texts say it")]
pub enum FrameError {
    #[error("SPDY version {0} instead of 3")]
    Version(u16),
    #[error("unknown SPDY control frame type {0}")]
    Type(u16),
    #[error("a SPDY control frame of {0} bytes")]
    TooLong(usize),
    #[error("a truncated SPDY frame")]
    Truncated,
    #[error("a SPDY header block that cannot be unpacked")]
    Compression,
    #[error("SPDY headers longer than {MAX_HEADERS} bytes")]
    HeadersTooLong,
    #[error("SPDY headers that are no text")]
    NotText,
    #[error("SPDY stream 0")]
    StreamZero,
}

/// Bytes to frames. Keeps the state of header compression: after an error the connection is lost.
pub struct Decoder {
    inflate: Decompress,
    /// Of the data frame that is arriving: stream, whether it is the last, bytes to come.
    data: Option<(u32, bool, usize)>,
}

impl Default for Decoder {
    fn default() -> Self {
        Decoder { inflate: Decompress::new(true), data: None }
    }
}

impl Decoder {
    /// Of a new connection.
    pub fn new() -> Self {
        Decoder::default()
    }

    /// Takes one frame, or a piece of one, from the front of `input`; `None`: more bytes are needed.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
        if let Some((id, fin, left)) = self.data {
            if input.is_empty() && left > 0 {
                return Ok(None);
            }
            let bytes = input.split_to(left.min(input.len())).freeze();
            let left = left - bytes.len();
            self.data = (left > 0).then_some((id, fin, left));
            return Ok(Some(Frame::Data { id, fin: fin && left == 0, bytes }));
        }
        let Some(head) = input.first_chunk::<8>() else { return Ok(None) };
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        let flags = head[4];
        let length = usize::from(head[5]) << 16 | usize::from(head[6]) << 8 | usize::from(head[7]);
        if first & 0x8000_0000 == 0 {
            if first == 0 {
                return Err(FrameError::StreamZero);
            }
            input.advance(8);
            self.data = Some((first, flags & FIN != 0, length));
            return self.decode(input);
        }
        if length > MAX_CONTROL {
            return Err(FrameError::TooLong(length));
        }
        if input.len() < 8 + length {
            return Ok(None);
        }
        let version = (first >> 16 & 0x7fff) as u16;
        if version != 3 {
            return Err(FrameError::Version(version));
        }
        input.advance(8);
        let body = input.split_to(length).freeze();
        self.control((first & 0xffff) as u16, flags, body).map(Some)
    }

    fn control(&mut self, kind: u16, flags: u8, mut body: Bytes) -> Result<Frame, FrameError> {
        let fin = flags & FIN != 0;
        let need = match kind {
            SYN_STREAM => 10,
            SYN_REPLY | HEADERS | PING | SETTINGS => 4,
            RST_STREAM | GOAWAY | WINDOW_UPDATE => 8,
            other => return Err(FrameError::Type(other)),
        };
        if body.len() < need {
            return Err(FrameError::Truncated);
        }
        let id = body.get_u32() & 0x7fff_ffff;
        if id == 0 && matches!(kind, SYN_STREAM | SYN_REPLY | RST_STREAM | HEADERS) {
            return Err(FrameError::StreamZero);
        }
        Ok(match kind {
            SYN_STREAM => {
                body.advance(6); // Associated stream, priority, slot.
                Frame::SynStream { id, fin, headers: self.headers(&body)? }
            }
            SYN_REPLY => Frame::SynReply { id, fin, headers: self.headers(&body)? },
            HEADERS => {
                // Unpacked all the same: the compression's state goes through all blocks.
                self.headers(&body)?;
                if fin { Frame::Data { id, fin, bytes: Bytes::new() } } else { Frame::Ignored }
            }
            RST_STREAM => Frame::RstStream { id, status: body.get_u32() },
            PING => Frame::Ping { id },
            GOAWAY => Frame::GoAway { last: id },
            _ => Frame::Ignored,
        })
    }

    fn headers(&mut self, packed: &[u8]) -> Result<Headers, FrameError> {
        let block = self.unpack(packed)?;
        let mut block = block.as_slice();
        let count = take_u32(&mut block)?;
        let mut headers = Headers::new();
        for _ in 0..count {
            let name = take_text(&mut block)?.to_ascii_lowercase();
            let value = take_text(&mut block)?;
            headers.insert(name, value);
        }
        Ok(headers)
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, FrameError> {
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() > MAX_HEADERS {
                return Err(FrameError::HeadersTooLong);
            }
            out.reserve(1024);
            let (before_in, before_out) = (self.inflate.total_in(), out.len());
            let result = self.inflate.decompress_vec(packed, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.inflate.total_in() - before_in).unwrap_or(usize::MAX);
            packed = packed.get(used..).ok_or(FrameError::Compression)?;
            match result {
                Ok(Status::Ok) => {}
                Ok(Status::BufError) if packed.is_empty() => {}
                Ok(_) => return Err(FrameError::Compression),
                Err(error) if error.needs_dictionary().is_some() => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| FrameError::Compression)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Compression),
            }
            if packed.is_empty() && out.len() < out.capacity() {
                return Ok(out);
            }
            if used == 0 && out.len() == before_out {
                return Err(FrameError::Compression);
            }
        }
    }
}

fn take_u32(block: &mut &[u8]) -> Result<u32, FrameError> {
    if block.len() < 4 { Err(FrameError::Truncated) } else { Ok(block.get_u32()) }
}

fn take_text(block: &mut &[u8]) -> Result<String, FrameError> {
    let length = take_u32(block)? as usize;
    if block.len() < length {
        return Err(FrameError::Truncated);
    }
    let (text, rest) = block.split_at(length);
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| FrameError::NotText)
}

/// Frames to bytes.
pub struct Encoder {
    deflate: Compress,
}

impl Default for Encoder {
    fn default() -> Self {
        let mut deflate = Compress::new(Compression::best(), true);
        // A fresh compressor takes any dictionary.
        if deflate.set_dictionary(&dictionary()).is_err() {
            tracing::error!("zlib refused the SPDY dictionary");
        }
        Encoder { deflate }
    }
}

impl Encoder {
    /// Of a new connection.
    pub fn new() -> Self {
        Encoder::default()
    }

    /// Appends a frame.
    pub fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        let mut body = BytesMut::new();
        let (kind, flags) = match frame {
            Frame::SynStream { id, fin, headers } => {
                body.put_u32(*id);
                body.put_bytes(0, 6);
                self.headers(headers, &mut body);
                (SYN_STREAM, u8::from(*fin))
            }
            Frame::SynReply { id, fin, headers } => {
                body.put_u32(*id);
                self.headers(headers, &mut body);
                (SYN_REPLY, u8::from(*fin))
            }
            Frame::RstStream { id, status } => {
                body.put_u32(*id);
                body.put_u32(*status);
                (RST_STREAM, 0)
            }
            Frame::Ping { id } => {
                body.put_u32(*id);
                (PING, 0)
            }
            Frame::GoAway { last } => {
                body.put_u32(*last);
                body.put_u32(0);
                (GOAWAY, 0)
            }
            Frame::Data { id, fin, bytes } => {
                out.put_u32(*id & 0x7fff_ffff);
                put_length(out, u8::from(*fin), bytes.len());
                out.put_slice(bytes);
                return;
            }
            Frame::Ignored => return,
        };
        out.put_u16(0x8003);
        out.put_u16(kind);
        put_length(out, flags, body.len());
        out.put_slice(&body);
    }

    fn headers(&mut self, headers: &Headers, out: &mut BytesMut) {
        let mut block = Vec::new();
        block.put_u32(headers.len() as u32);
        for (name, value) in headers {
            for text in [name, value] {
                block.put_u32(text.len() as u32);
                block.put_slice(text.as_bytes());
            }
        }
        let mut packed = Vec::with_capacity(block.len() + 64);
        let mut rest = block.as_slice();
        loop {
            let before = self.deflate.total_in();
            // Writing to memory with room fails only on misuse of the compressor.
            if self.deflate.compress_vec(rest, &mut packed, FlushCompress::Sync).is_err() {
                tracing::error!("zlib failed to pack SPDY headers");
                break;
            }
            rest = &rest[(self.deflate.total_in() - before) as usize..];
            if rest.is_empty() && packed.len() < packed.capacity() {
                break;
            }
            packed.reserve(256);
        }
        out.put_slice(&packed);
    }
}

/// Data is cut long before 2^24 by whoever writes it.
fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    out.put_u32(u32::from(flags) << 24 | (length as u32 & 0x00ff_ffff));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> Headers {
        pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
    }

    fn all(decoder: &mut Decoder, input: &mut BytesMut) -> Result<Vec<Frame>, FrameError> {
        let mut frames = Vec::new();
        while let Some(frame) = decoder.decode(input)? {
            frames.push(frame);
        }
        Ok(frames)
    }

    #[test]
    fn frames_survive_the_wire_in_any_pieces() {
        let sent = vec![
            Frame::SynStream { id: 1, fin: false, headers: headers(&[("streamtype", "error")]) },
            Frame::SynStream { id: 3, fin: true, headers: headers(&[("streamtype", "data"), ("port", "8080")]) },
            Frame::SynReply { id: 1, fin: false, headers: Headers::new() },
            Frame::Ping { id: 1 },
            Frame::RstStream { id: 3, status: 5 },
            Frame::Data { id: 1, fin: true, bytes: Bytes::new() },
            Frame::GoAway { last: 3 },
        ];
        let (mut encoder, mut wire) = (Encoder::new(), BytesMut::new());
        sent.iter().for_each(|f| encoder.encode(f, &mut wire));
        let whole = all(&mut Decoder::new(), &mut wire.clone()).expect("own frames");
        assert_eq!(whole, sent);
        let (mut decoder, mut input, mut frames) = (Decoder::new(), BytesMut::new(), Vec::new());
        for byte in wire {
            input.put_u8(byte);
            frames.extend(all(&mut decoder, &mut input).expect("own frames"));
        }
        assert_eq!(frames, sent);
    }

    /// Written by `vendor/github.com/moby/spdystream/spdy` (Go's zlib): three SYN_STREAMs of one connection.
    #[test]
    fn headers_of_spdystream_are_read() {
        let wire = include!("spdystream.in");
        let frames = all(&mut Decoder::new(), &mut BytesMut::from(&wire[..])).expect("upstream's frames");
        let of = |id, kind: &str, request: &str| Frame::SynStream {
            id,
            fin: false,
            headers: headers(&[("port", "8080"), ("requestid", request), ("streamtype", kind)]),
        };
        assert_eq!(frames, [of(1, "error", "0"), of(3, "data", "0"), of(5, "error", "1")]);
    }

    #[test]
    fn long_data_comes_in_pieces() {
        let mut decoder = Decoder::new();
        let mut input = BytesMut::from(&[0, 0, 0, 7, 1, 0, 0, 5, b'a', b'b'][..]);
        let piece = |bytes: &'static [u8], fin| Frame::Data { id: 7, fin, bytes: Bytes::from_static(bytes) };
        assert_eq!(all(&mut decoder, &mut input), Ok(vec![piece(b"ab", false)]));
        input.put_slice(b"cde");
        assert_eq!(all(&mut decoder, &mut input), Ok(vec![piece(b"cde", true)]));
    }

    #[test]
    fn bad_frames_are_errors() {
        let check = |bytes: &[u8], expected: FrameError| {
            assert_eq!(all(&mut Decoder::new(), &mut BytesMut::from(bytes)), Err(expected));
        };
        check(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1], FrameError::Version(2));
        check(&[0x80, 3, 0, 5, 0, 0, 0, 0], FrameError::Type(5));
        check(&[0x80, 3, 0, 1, 0, 0x10, 0, 0], FrameError::TooLong(1 << 20));
        check(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0], FrameError::Truncated);
        check(&[0x80, 3, 0, 2, 0, 0, 0, 8, 0, 0, 0, 1, 1, 2, 3, 4], FrameError::Compression);
        check(&[0, 0, 0, 0, 0, 0, 0, 0], FrameError::StreamZero);
    }

    /// A block of zeros that unpacks to a thousand times its size.
    #[test]
    fn bombs_are_refused() {
        let mut deflate = Compress::new(Compression::best(), true);
        deflate.set_dictionary(&dictionary()).expect("fresh");
        let mut packed = Vec::with_capacity(1 << 20);
        deflate.compress_vec(&vec![0; 8 << 20], &mut packed, FlushCompress::Sync).expect("room");
        let mut wire = BytesMut::new();
        wire.put_slice(&[0x80, 3, 0, 2]);
        wire.put_u32(packed.len() as u32 + 4);
        wire.put_u32(1);
        wire.put_slice(&packed);
        assert_eq!(all(&mut Decoder::new(), &mut wire), Err(FrameError::HeadersTooLong));
    }
}
