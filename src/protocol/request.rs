//! The boundaries of requests in the bytes that a client sends.
//!
//! Every byte of every client passes here, so the scanner copies nothing and allocates nothing
//! per request: it says where a request ends and where its arguments are. The rules and texts
//! are those of `processMultibulkBuffer` and `processInlineBuffer` in Redis 7.0.15's
//! `networking.c`.
//!
//! Invariants
//! - No byte is looked at twice, however small the pieces are in which it arrives.
//! - How the bytes are split into pieces does not change what comes out.
//! - Memory follows the bytes that are there, never the counts that a client announces.
//! - No recursion: a request is flat, a nested array is an error.
//!
//! One difference: a line that is too long is always refused. Redis lets it pass when its end
//! happens to come with the same read, so that the packets decide.

use std::ops::Range;

use bytes::BytesMut;
use memchr::{memchr, memchr2};

/// Longest list of arguments of a client that has yet to authenticate.
const UNAUTHENTICATED_ARGUMENTS: i64 = 10;
/// Longest argument of a client that has yet to authenticate, bytes.
const UNAUTHENTICATED_ARGUMENT_BYTES: i64 = 16_384;
/// Room for that many arguments is kept from one request to the next.
const KEPT_ARGUMENTS: usize = 1024;

/// What a client may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestLimits {
    /// Longest argument, bytes (Redis: `proto-max-bulk-len`).
    pub max_argument_bytes: usize,
    /// Longest inline request or length line, bytes, at least 16 (Redis: `PROTO_INLINE_MAX_SIZE`,
    /// 64 KiB).
    pub max_inline_bytes: usize,
}

/// What stands at the start of the buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scanned {
    /// The beginning of a request.
    Incomplete,
    /// So many bytes that are no request: a blank line, `*0`, `*-1`.
    Skip(usize),
    /// A whole multibulk request of so many bytes; see [`Scanner::arguments`].
    Request(usize),
    /// A whole inline request of so many bytes, its line end included; it has at least one
    /// argument, or its quotes are wrong: see [`super::inline::split`].
    Inline(usize),
    /// Nothing more can be understood: tell the client and close.
    Error(ProtocolError),
}

/// Why a connection has to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("invalid multibulk length")]
    InvalidMultibulkLength,
    #[error("unauthenticated multibulk length")]
    UnauthenticatedMultibulkLength,
    #[error("too big mbulk count string")]
    TooBigMultibulkCount,
    #[error("expected '$', got '{}'", .0.escape_ascii())]
    ExpectedBulk(u8),
    #[error("invalid bulk length")]
    InvalidBulkLength,
    #[error("unauthenticated bulk length")]
    UnauthenticatedBulkLength,
    #[error("too big bulk count string")]
    TooBigBulkCount,
    #[error("too big inline request")]
    TooBigInline,
    #[error("unbalanced quotes in request")]
    UnbalancedQuotes,
    /// A browser or a cross-protocol attack; gets no reply at all. See [`is_http_probe`].
    #[error("possible cross protocol scripting: an HTTP request")]
    HttpProbe,
}

/// Finds requests in the bytes of one client; resumes where the last bytes ended.
#[derive(Debug, Default)]
pub struct Scanner {
    /// Where the arguments found so far are, from the request's start.
    arguments: Vec<Range<usize>>,
    /// Arguments of the current request that are still to come; 0 between requests.
    remaining: usize,
    /// The first byte of the current request that is not understood yet.
    position: usize,
    /// Up to here no line end was found; at least `position` while a line is incomplete.
    searched: usize,
    /// Length of the argument that starts at `position`; `None` while its length line is to come.
    bulk_bytes: Option<usize>,
}

/// A line `<type byte><length>\r<any byte>`.
enum LengthLine {
    Incomplete,
    TooLong,
    /// The line's value, unless it is no number, and where the next line starts.
    Complete(Option<i64>, usize),
}

// === impl Scanner ===

impl Scanner {
    pub fn new() -> Self {
        Self::default()
    }

    /// Says what stands at the start of `buffer`.
    ///
    /// `buffer` begins with the current request. After [`Scanned::Incomplete`] the next call has
    /// the same bytes and more; after `Request`, `Inline` and `Skip` it begins behind those bytes.
    /// `authenticated` is true also when no password is required.
    #[inline]
    pub fn next(&mut self, buffer: &[u8], authenticated: bool, limits: &RequestLimits) -> Scanned {
        if self.remaining == 0 {
            self.arguments.clear();
            if self.arguments.capacity() > KEPT_ARGUMENTS {
                self.arguments.shrink_to(KEPT_ARGUMENTS);
            }
            match buffer.first() {
                Some(b'*') => {}
                Some(_) => return self.inline(buffer, limits),
                None => return Scanned::Incomplete,
            }
            if let Some(scanned) = self.header(buffer, authenticated, limits) {
                return scanned;
            }
        }
        self.bulks(buffer, authenticated, limits)
    }

    /// Where the arguments of the last [`Scanned::Request`] are, from its start. They stay until
    /// `next` is called again.
    pub fn arguments(&self) -> &[Range<usize>] {
        &self.arguments
    }

    /// Argument `index` of the last [`Scanned::Request`], whose bytes `buffer` begins with.
    ///
    /// # Panics
    /// When the request has no such argument, or `buffer` does not begin with it.
    #[inline]
    pub fn argument<'buffer>(&self, buffer: &'buffer [u8], index: usize) -> &'buffer [u8] {
        &buffer[self.arguments[index].clone()]
    }

    /// Memory that the scanner holds beside itself, bytes.
    pub fn memory_bytes(&self) -> usize {
        self.arguments.capacity() * size_of::<Range<usize>>()
    }

    /// Reads `*<count>`; `None` when arguments follow.
    #[inline]
    fn header(
        &mut self,
        buffer: &[u8],
        authenticated: bool,
        limits: &RequestLimits,
    ) -> Option<Scanned> {
        let (count, next) = match self.length_line(buffer, b'*', limits.max_inline_bytes) {
            LengthLine::Complete(Some(count), next) if count <= i64::from(i32::MAX) => {
                (count, next)
            }
            LengthLine::Complete(..) => {
                return Some(self.fail(ProtocolError::InvalidMultibulkLength));
            }
            LengthLine::Incomplete => return Some(Scanned::Incomplete),
            LengthLine::TooLong => return Some(self.fail(ProtocolError::TooBigMultibulkCount)),
        };
        if count > UNAUTHENTICATED_ARGUMENTS && !authenticated {
            return Some(self.fail(ProtocolError::UnauthenticatedMultibulkLength));
        }
        match usize::try_from(count) {
            Ok(count @ 1..) => {
                self.remaining = count;
                self.position = next;
                None
            }
            _ => {
                self.reset();
                Some(Scanned::Skip(next))
            }
        }
    }

    /// Reads the arguments.
    #[inline]
    fn bulks(&mut self, buffer: &[u8], authenticated: bool, limits: &RequestLimits) -> Scanned {
        loop {
            let bulk_bytes = match self.bulk_bytes {
                Some(bulk_bytes) => bulk_bytes,
                None => match self.bulk_length(buffer, authenticated, limits) {
                    Ok(bulk_bytes) => bulk_bytes,
                    Err(scanned) => return scanned,
                },
            };
            let end = self.position + bulk_bytes;
            // The two bytes after an argument are dropped unread, as Redis does.
            if buffer.len() < end + 2 {
                self.bulk_bytes = Some(bulk_bytes);
                return Scanned::Incomplete;
            }
            self.bulk_bytes = None;
            self.arguments.push(self.position..end);
            self.position = end + 2;
            self.remaining -= 1;
            if self.remaining == 0 {
                self.reset();
                return Scanned::Request(end + 2);
            }
        }
    }

    /// Reads `$<length>` and steps over it.
    #[inline]
    fn bulk_length(
        &mut self,
        buffer: &[u8],
        authenticated: bool,
        limits: &RequestLimits,
    ) -> Result<usize, Scanned> {
        let (bulk_bytes, next) = match self.length_line(buffer, b'$', limits.max_inline_bytes) {
            LengthLine::Complete(bulk_bytes, next) => (bulk_bytes, next),
            LengthLine::Incomplete => return Err(Scanned::Incomplete),
            LengthLine::TooLong => return Err(self.fail(ProtocolError::TooBigBulkCount)),
        };
        match buffer[self.position] {
            b'$' => {}
            other => return Err(self.fail(ProtocolError::ExpectedBulk(other))),
        }
        let Some(length) = bulk_bytes.and_then(|bulk_bytes| usize::try_from(bulk_bytes).ok())
        else {
            return Err(self.fail(ProtocolError::InvalidBulkLength));
        };
        if length > limits.max_argument_bytes {
            return Err(self.fail(ProtocolError::InvalidBulkLength));
        }
        if bulk_bytes > Some(UNAUTHENTICATED_ARGUMENT_BYTES) && !authenticated {
            return Err(self.fail(ProtocolError::UnauthenticatedBulkLength));
        }
        self.position = next;
        Ok(length)
    }

    /// Reads the line at `position`, which should begin with `kind`.
    #[inline]
    fn length_line(&mut self, buffer: &[u8], kind: u8, max_line_bytes: usize) -> LengthLine {
        if let Some((&first, digits)) = buffer.get(self.position..).and_then(<[u8]>::split_first)
            && first == kind
            && let Some((length, bytes)) = short_length(digits)
        {
            return LengthLine::Complete(Some(length), self.position + 1 + bytes);
        }
        self.odd_length_line(buffer, max_line_bytes)
    }

    /// A line that is incomplete, long or wrong.
    #[cold]
    fn odd_length_line(&mut self, buffer: &[u8], max_line_bytes: usize) -> LengthLine {
        let Some(end) = self.line_end(buffer, b'\r') else {
            let line_bytes = buffer.len().saturating_sub(self.position);
            return match line_bytes > max_line_bytes {
                true => LengthLine::TooLong,
                false => LengthLine::Incomplete,
            };
        };
        if end - self.position > max_line_bytes {
            return LengthLine::TooLong;
        }
        if buffer.len() < end + 2 {
            return LengthLine::Incomplete;
        }
        // The first byte may itself be the carriage return; it is no number then.
        let digits = buffer.get(self.position + 1..end).unwrap_or_default();
        LengthLine::Complete(parse_length(digits), end + 2)
    }

    /// Where the first `end` byte after `position` is. As Redis searches with `strchr`, a NUL
    /// before it hides it: the line is taken for incomplete until it is too long.
    fn line_end(&mut self, buffer: &[u8], end: u8) -> Option<usize> {
        let start = self.searched.max(self.position);
        let unseen = buffer.get(start..).unwrap_or_default();
        let found = memchr2(end, 0, unseen).map(|index| start + index);
        self.searched = found.unwrap_or(buffer.len().max(start));
        found.filter(|&index| buffer[index] == end)
    }

    fn inline(&mut self, buffer: &[u8], limits: &RequestLimits) -> Scanned {
        let Some(end) = self.line_end(buffer, b'\n') else {
            return match buffer.len() > limits.max_inline_bytes {
                true => self.fail(ProtocolError::TooBigInline),
                false => Scanned::Incomplete,
            };
        };
        if end > limits.max_inline_bytes {
            return self.fail(ProtocolError::TooBigInline);
        }
        self.reset();
        match buffer[..end].iter().all(|&byte| super::inline::is_space(byte)) {
            true => Scanned::Skip(end + 1),
            false => Scanned::Inline(end + 1),
        }
    }

    fn fail(&mut self, error: ProtocolError) -> Scanned {
        self.reset();
        Scanned::Error(error)
    }

    /// The next byte begins a new request.
    #[inline]
    fn reset(&mut self) {
        self.remaining = 0;
        self.position = 0;
        self.searched = 0;
        self.bulk_bytes = None;
    }
}

// === impl ProtocolError ===

impl ProtocolError {
    /// Appends the error reply that the client gets before it is closed; nothing for those who
    /// are closed without a word.
    pub fn write(&self, out: &mut BytesMut) {
        match self {
            Self::HttpProbe => {}
            Self::ExpectedBulk(byte) => {
                out.extend_from_slice(b"-ERR Protocol error: expected '$', got '");
                // Redis makes spaces of line ends in error texts; other bytes go out as they came.
                out.extend_from_slice(&[if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }]);
                out.extend_from_slice(b"'\r\n");
            }
            _ => out.extend_from_slice(format!("-ERR Protocol error: {self}\r\n").as_bytes()),
        }
    }
}

/// Whether a command of this name shows that an HTTP client is talking to us. Redis'
/// `processCommand` closes those without a reply, so that a web page cannot make a browser send
/// commands.
pub fn is_http_probe(name: &[u8]) -> bool {
    // Redis compares C strings: what follows a NUL does not count.
    let name = &name[..memchr(0, name).unwrap_or(name.len())];
    name.eq_ignore_ascii_case(b"host:") || name.eq_ignore_ascii_case(b"post")
}

/// The usual length line, all there: at most nine digits, a carriage return and one byte more.
/// Gives the length and the bytes taken. `None` asks for the careful way.
#[inline]
fn short_length(bytes: &[u8]) -> Option<(i64, usize)> {
    let mut length = i64::from(digit(*bytes.first()?)?);
    let mut index = 1;
    loop {
        let byte = *bytes.get(index)?;
        let Some(digit) = digit(byte) else {
            return (byte == b'\r' && bytes.len() > index + 1).then_some((length, index + 2));
        };
        if length == 0 || index == 9 {
            return None;
        }
        length = length * 10 + i64::from(digit);
        index += 1;
    }
}

#[inline]
fn digit(byte: u8) -> Option<u8> {
    let digit = byte.wrapping_sub(b'0');
    (digit < 10).then_some(digit)
}

/// A number as Redis' `string2ll` takes it: no plus, no leading zero, no `-0`, no space.
fn parse_length(digits: &[u8]) -> Option<i64> {
    let magnitude = digits.strip_prefix(b"-").unwrap_or(digits);
    match magnitude {
        [b'0'] if digits.len() == 1 => Some(0),
        [b'1'..=b'9', ..] => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
