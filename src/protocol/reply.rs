//! Replies of our own, written as RESP2 or RESP3.

use bytes::{BufMut, Bytes, BytesMut};

/// The protocol a client has chosen with HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Version {
    #[default]
    Resp2,
    Resp3,
}

/// A reply that respgres itself gives, independent of the client's protocol version.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// `+OK`
    Status(&'static str),
    /// Without the leading `-`; first word for programs. CR and LF are written as spaces.
    Error(String),
    Integer(i64),
    Bulk(Bytes),
    /// Text for people (INFO, CLIENT LIST): verbatim in RESP3, a bulk string in RESP2.
    Verbatim(Bytes),
    /// A missing value: `$-1` in RESP2, `_` in RESP3.
    Nil,
    /// A missing array: `*-1` in RESP2, `_` in RESP3.
    NilArray,
    Array(Vec<Reply>),
    /// An array of bulk strings that are written already, for those that are very many.
    Written(Bulks),
    /// A map in RESP3, a flat array in RESP2.
    Map(Vec<(Reply, Reply)>),
    /// A set in RESP3, an array in RESP2.
    Set(Vec<Reply>),
    /// An array of pairs in RESP3, a flat array in RESP2.
    Pairs(Vec<(Reply, Reply)>),
}

/// Bulk strings as they go over the wire.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bulks {
    count: usize,
    bytes: usize,
    full: Vec<Bytes>,
    last: BytesMut,
}

/// Bulk strings are gathered in pieces of this size: what has been written is not moved again.
const PIECE_BYTES: usize = 64 << 10;

// === impl Bulks ===

impl Bulks {
    pub fn push(&mut self, bytes: &[u8]) {
        let before = self.last.len();
        write_bulk(&mut self.last, bytes);
        self.count += 1;
        self.bytes += self.last.len() - before;
        if self.last.len() >= PIECE_BYTES {
            self.full.push(std::mem::take(&mut self.last).freeze());
        }
    }

    /// What they take on the wire.
    pub fn size(&self) -> usize {
        self.bytes
    }
}

// === impl Reply ===

impl Reply {
    /// `+OK`
    pub const OK: Self = Self::Status("OK");

    /// An error whose first word is `ERR`.
    pub fn err(message: impl std::fmt::Display) -> Self {
        Self::Error(format!("ERR {message}"))
    }

    /// A bulk string.
    pub fn bulk(bytes: impl Into<Bytes>) -> Self {
        Self::Bulk(bytes.into())
    }

    /// A bulk string, or nil.
    pub fn bulk_or_nil(bytes: Option<impl Into<Bytes>>) -> Self {
        bytes.map_or(Self::Nil, Self::bulk)
    }

    pub fn is_error(&self) -> bool {
        matches!(self, Self::Error(_))
    }

    /// Appends the reply to what a client is to get.
    pub fn write(&self, version: Version, out: &mut BytesMut) {
        match self {
            Self::Status(text) => write_line(out, b'+', text.as_bytes()),
            Self::Error(text) => write_line(out, b'-', text.as_bytes()),
            Self::Integer(value) => {
                out.put_u8(b':');
                write_integer(out, *value);
                out.put_slice(b"\r\n");
            }
            Self::Bulk(bytes) => write_bulk(out, bytes),
            Self::Verbatim(bytes) => match version {
                Version::Resp2 => write_bulk(out, bytes),
                Version::Resp3 => {
                    write_count(out, b'=', bytes.len() + 4);
                    out.put_slice(b"txt:");
                    out.put_slice(bytes);
                    out.put_slice(b"\r\n");
                }
            },
            Self::Nil => out.put_slice(match version {
                Version::Resp2 => b"$-1\r\n",
                Version::Resp3 => b"_\r\n",
            }),
            Self::NilArray => out.put_slice(match version {
                Version::Resp2 => b"*-1\r\n",
                Version::Resp3 => b"_\r\n",
            }),
            Self::Array(elements) => {
                write_count(out, b'*', elements.len());
                elements.iter().for_each(|element| element.write(version, out));
            }
            Self::Written(bulks) => {
                out.reserve(bulks.bytes + 32);
                write_count(out, b'*', bulks.count);
                bulks.full.iter().for_each(|piece| out.put_slice(piece));
                out.put_slice(&bulks.last);
            }
            Self::Map(entries) => {
                match version {
                    Version::Resp2 => write_count(out, b'*', entries.len() * 2),
                    Version::Resp3 => write_count(out, b'%', entries.len()),
                }
                for (key, value) in entries {
                    key.write(version, out);
                    value.write(version, out);
                }
            }
            Self::Pairs(pairs) => {
                match version {
                    Version::Resp2 => write_count(out, b'*', pairs.len() * 2),
                    Version::Resp3 => write_count(out, b'*', pairs.len()),
                }
                for (first, second) in pairs {
                    if version == Version::Resp3 {
                        write_count(out, b'*', 2);
                    }
                    first.write(version, out);
                    second.write(version, out);
                }
            }
            Self::Set(elements) => {
                let kind = match version {
                    Version::Resp2 => b'*',
                    Version::Resp3 => b'~',
                };
                write_count(out, kind, elements.len());
                elements.iter().for_each(|element| element.write(version, out));
            }
        }
    }
}

/// Appends a bulk string.
pub fn write_bulk(out: &mut BytesMut, bytes: &[u8]) {
    out.reserve(bytes.len() + 16);
    write_count(out, b'$', bytes.len());
    out.put_slice(bytes);
    out.put_slice(b"\r\n");
}

/// Appends a length line: `kind`, the number, a line end.
pub fn write_count(out: &mut BytesMut, kind: u8, count: usize) {
    out.put_u8(kind);
    write_digits(out, count as u64);
    out.put_slice(b"\r\n");
}

/// Appends a number in decimal.
pub fn write_integer(out: &mut BytesMut, value: i64) {
    if value < 0 {
        out.put_u8(b'-');
    }
    write_digits(out, value.unsigned_abs());
}

fn write_digits(out: &mut BytesMut, mut value: u64) {
    // 20 digits are enough for 2^64 - 1.
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.put_slice(&digits[start..]);
}

/// A line end inside of a text would let its author forge a reply.
fn write_line(out: &mut BytesMut, kind: u8, text: &[u8]) {
    out.put_u8(kind);
    let start = out.len();
    out.put_slice(text);
    for byte in &mut out[start..] {
        if matches!(byte, b'\r' | b'\n') {
            *byte = b' ';
        }
    }
    out.put_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reply: &Reply, resp2: &str, resp3: &str) {
        for (version, expected) in [(Version::Resp2, resp2), (Version::Resp3, resp3)] {
            let mut out = BytesMut::from("before");
            reply.write(version, &mut out);
            assert_eq!(out[6..].escape_ascii().to_string(), expected.escape_default().to_string());
        }
    }

    #[test]
    fn bulk_strings_written_before_are_an_array() {
        let mut bulks = Bulks::default();
        check(&Reply::Written(bulks.clone()), "*0\r\n", "*0\r\n");
        let text = "x".repeat(1000);
        let mut expected = "*200\r\n".to_owned();
        for _ in 0..200 {
            bulks.push(text.as_bytes());
            expected.push_str(&format!("$1000\r\n{text}\r\n"));
        }
        assert_eq!(bulks.size(), 200 * 1009);
        check(&Reply::Written(bulks), &expected, &expected);
    }

    #[test]
    fn replies_without_a_version_are_the_same_in_both() {
        for (reply, expected) in [
            (Reply::OK, "+OK\r\n"),
            (Reply::err("no"), "-ERR no\r\n"),
            (Reply::Integer(0), ":0\r\n"),
            (Reply::Integer(-42), ":-42\r\n"),
            (Reply::Integer(i64::MAX), ":9223372036854775807\r\n"),
            (Reply::Integer(i64::MIN), ":-9223372036854775808\r\n"),
            (Reply::bulk("hello"), "$5\r\nhello\r\n"),
            (Reply::bulk(""), "$0\r\n\r\n"),
            (Reply::Array(vec![]), "*0\r\n"),
            (Reply::Array(vec![Reply::Integer(1), Reply::OK]), "*2\r\n:1\r\n+OK\r\n"),
        ] {
            check(&reply, expected, expected);
        }
    }

    #[test]
    fn replies_with_a_version_differ() {
        check(&Reply::Nil, "$-1\r\n", "_\r\n");
        check(&Reply::bulk_or_nil(None::<Bytes>), "$-1\r\n", "_\r\n");
        check(&Reply::NilArray, "*-1\r\n", "_\r\n");
        check(
            &Reply::Map(vec![(Reply::bulk("a"), Reply::Nil)]),
            "*2\r\n$1\r\na\r\n$-1\r\n",
            "%1\r\n$1\r\na\r\n_\r\n",
        );
        check(&Reply::Set(vec![Reply::OK]), "*1\r\n+OK\r\n", "~1\r\n+OK\r\n");
        check(&Reply::Verbatim("hi".into()), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n");
    }

    #[test]
    fn nobody_can_forge_a_reply_with_a_line_end_in_an_error() {
        let reply = Reply::Error("ERR unknown command 'a\r\n+OK\r\n'".into());
        let expected = "-ERR unknown command 'a  +OK  '\r\n";
        check(&reply, expected, expected);
    }

    #[test]
    fn an_independent_decoder_reads_what_was_written() {
        use redis_protocol::resp3::decode::complete::decode;
        use redis_protocol::resp3::types::OwnedFrame as Frame;
        let reply = Reply::Array(vec![
            Reply::OK,
            Reply::err("broken"),
            Reply::Integer(-7),
            Reply::bulk(vec![0, 255, 13, 10]),
            Reply::Nil,
            Reply::Set(vec![Reply::Integer(1)]),
        ]);
        let mut out = BytesMut::new();
        reply.write(Version::Resp3, &mut out);
        let (frame, used) = decode(&out).expect("well formed").expect("complete");
        assert_eq!(used, out.len());
        let Frame::Array { data, .. } = frame else { panic!("an array was written") };
        assert!(matches!(&data[0], Frame::SimpleString { data, .. } if data == b"OK"));
        assert!(matches!(&data[1], Frame::SimpleError { data, .. } if data == "ERR broken"));
        assert!(matches!(&data[2], Frame::Number { data: -7, .. }));
        assert!(matches!(&data[3], Frame::BlobString { data, .. } if data == &[0, 255, 13, 10]));
        assert!(matches!(&data[4], Frame::Null));
        assert!(matches!(&data[5], Frame::Set { data, .. } if data.len() == 1));
    }
}
