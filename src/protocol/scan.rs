//! The boundaries of replies in the bytes that the upstream sends.
//!
//! Replies go to clients as they came, so all that has to be known of them is where they end.
//! The scanner reads the type bytes and lengths of RESP2 and RESP3, counts the elements that are
//! still to come, and steps over everything else.
//!
//! Invariants
//! - No byte is looked at twice, and the bytes of bulk strings not even once.
//! - One counter, no recursion, no stack: depth costs nothing.
//! - An attribute (`|`) belongs to the reply after it: both are one frame.
//!
//! Absent on purpose: judging what stands in a line, and the streamed types (`$?`, `*?`, `;`, `.`),
//! which no Redis sends.

use memchr::memchr;

/// What the bytes hold of the current frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The current frame ends after so many of the bytes; those that follow are unseen.
    End(usize),
    /// All bytes belong to the current frame, which goes on.
    Partial,
    /// This is no RESP, for the given reason. The scanner is of no use any more.
    Error(&'static str),
}

/// Finds the ends of replies; resumes where the last bytes ended.
#[derive(Clone, Debug)]
pub struct ReplyScanner {
    /// Values of the current frame that are still to come; 0 between frames.
    pending: u64,
    place: Place,
    /// The type byte of the current or last frame, 0 while only attributes of it were seen.
    kind: u8,
}

/// Where in a value the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The type byte of a value.
    Type,
    /// In the length after the type byte `kind`.
    Length { kind: u8, length: Length },
    /// At the line feed after a length.
    LengthEnd { kind: u8, length: Length },
    /// In a line that is stepped over.
    Line,
    /// In such a line, after a carriage return.
    LineEnd,
    /// In a bulk string: so many bytes are to come, its line end included.
    Body(u64),
}

/// A length of which some digits were read.
#[derive(Clone, Copy, Debug, Default)]
struct Length {
    value: u64,
    digits: u8,
    negative: bool,
}

/// What follows a complete header.
enum Next {
    Value,
    Body(u64),
}

const BAD_TYPE: &str = "a reply of an unknown type";
const BAD_LENGTH: &str = "a reply with an invalid length";
const BAD_BULK_END: &str = "a bulk string without a line end";
const TOO_MANY: &str = "a reply with too many elements";

// === impl ReplyScanner ===

impl Default for ReplyScanner {
    fn default() -> Self {
        Self { pending: 0, place: Place::Type, kind: 0 }
    }
}

impl ReplyScanner {
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the next unseen bytes, at most to the end of the current frame.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Step {
        if self.pending == 0 {
            if bytes.is_empty() {
                return Step::Partial;
            }
            // Most replies are one small value that is all there.
            if let Some((kind, end)) = whole_small_value(bytes) {
                self.kind = kind;
                return Step::End(end);
            }
            self.pending = 1;
            self.kind = 0;
        }
        self.resume(bytes)
    }

    /// Whether the current or last frame is a RESP3 push message, which answers no request. Known
    /// once the first byte of the frame (after its attributes) was read.
    pub fn is_push(&self) -> bool {
        self.kind == b'>'
    }

    /// The type byte of the current or last frame, 0 while only attributes of it were read.
    pub fn kind(&self) -> u8 {
        self.kind
    }

    /// Whether the next byte begins a new frame.
    pub fn is_between_frames(&self) -> bool {
        self.pending == 0
    }

    fn resume(&mut self, bytes: &[u8]) -> Step {
        let mut index = 0;
        while index < bytes.len() {
            let rest = &bytes[index..];
            let read = match self.place {
                Place::Type => self.header(rest),
                Place::Length { kind, length } => self.length(kind, length, rest),
                Place::LengthEnd { kind, length } => self.length_end(kind, length, rest[0]),
                Place::Line | Place::LineEnd => Ok(self.line(rest)),
                Place::Body(left) => self.body(left, rest),
            };
            match read {
                Ok(read) => index += read,
                Err(reason) => return Step::Error(reason),
            }
            if self.pending == 0 {
                return Step::End(index);
            }
        }
        Step::Partial
    }

    /// Reads a value's type byte, and what follows as far as it is there. Gives the bytes read.
    #[inline]
    fn header(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let kind = bytes[0];
        // While an attribute is read, the value that it belongs to is pending besides.
        if self.kind == 0 && self.pending == 1 && kind != b'|' {
            self.kind = kind;
        }
        if let Some((_, end)) = whole_small_value(bytes) {
            self.pending -= 1;
            return Ok(end);
        }
        match kind {
            b'+' | b'-' | b':' | b',' | b'(' | b'#' | b'_' => {
                self.place = Place::Line;
                Ok(1 + self.line(&bytes[1..]))
            }
            b'$' | b'*' | b'%' | b'~' | b'=' | b'!' | b'>' | b'|' => {
                self.place = Place::Length { kind, length: Length::default() };
                Ok(1)
            }
            _ => Err(BAD_TYPE),
        }
    }

    fn length(
        &mut self,
        kind: u8,
        mut length: Length,
        bytes: &[u8],
    ) -> Result<usize, &'static str> {
        for (index, &byte) in bytes.iter().enumerate() {
            match byte {
                b'0'..=b'9' => {
                    length.digits += 1;
                    length.value = length.value * 10 + u64::from(byte - b'0');
                    // 18 digits cannot overflow, and nothing is that long.
                    if length.digits > 18 {
                        return Err(BAD_LENGTH);
                    }
                }
                b'-' if length.digits == 0 && !length.negative => length.negative = true,
                b'\r' if length.digits > 0 => {
                    self.place = Place::LengthEnd { kind, length };
                    return match bytes.get(index + 1) {
                        Some(&end) => Ok(index + 1 + self.length_end(kind, length, end)?),
                        None => Ok(index + 1),
                    };
                }
                _ => return Err(BAD_LENGTH),
            }
        }
        self.place = Place::Length { kind, length };
        Ok(bytes.len())
    }

    fn length_end(&mut self, kind: u8, length: Length, byte: u8) -> Result<usize, &'static str> {
        if byte != b'\n' {
            return Err(BAD_LENGTH);
        }
        let next = match length.negative {
            false => self.count(kind, length.value)?,
            // Nil is the only negative length, and RESP2's bulk strings and arrays have it.
            true if length.value == 1 && matches!(kind, b'$' | b'*') => {
                self.pending -= 1;
                Next::Value
            }
            true => return Err(BAD_LENGTH),
        };
        self.place = match next {
            Next::Value => Place::Type,
            Next::Body(bytes) => Place::Body(bytes),
        };
        Ok(1)
    }

    /// Counts what a complete header announces.
    fn count(&mut self, kind: u8, length: u64) -> Result<Next, &'static str> {
        let more = match kind {
            b'$' | b'=' | b'!' => return Ok(Next::Body(length + 2)),
            b'%' | b'|' => length * 2,
            _ => length,
        };
        // The value itself is done; an attribute is none.
        let done = u64::from(kind != b'|');
        self.pending = (self.pending - done).checked_add(more).ok_or(TOO_MANY)?;
        Ok(Next::Value)
    }

    /// Steps over a line. Gives the bytes read.
    fn line(&mut self, bytes: &[u8]) -> usize {
        let mut index = 0;
        while let Some(&byte) = bytes.get(index) {
            match (self.place, byte) {
                (Place::LineEnd, b'\n') => {
                    self.pending -= 1;
                    self.place = Place::Type;
                    return index + 1;
                }
                (Place::LineEnd, b'\r') => index += 1,
                _ => match memchr(b'\r', &bytes[index..]) {
                    Some(found) => {
                        self.place = Place::LineEnd;
                        index += found + 1;
                    }
                    None => {
                        self.place = Place::Line;
                        return bytes.len();
                    }
                },
            }
        }
        index
    }

    /// Steps over a bulk string and checks its line end. Gives the bytes read.
    fn body(&mut self, left: u64, bytes: &[u8]) -> Result<usize, &'static str> {
        let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
        let left_after = left - here as u64;
        // Of the last two bytes those that are here: 2 (or 1) left means that the line feed (or
        // the carriage return too) is still to come.
        for (left_behind, expected) in [(1, b'\r'), (0, b'\n')] {
            let is_here = left > left_behind && left_after <= left_behind;
            if is_here && bytes[(left - left_behind - 1) as usize] != expected {
                return Err(BAD_BULK_END);
            }
        }
        if left_after == 0 {
            self.pending -= 1;
            self.place = Place::Type;
        } else {
            self.place = Place::Body(left_after);
        }
        Ok(here)
    }
}

/// Recognizes a frame that is one value of a usual type, short and all there. Gives its type byte
/// and its bytes.
#[inline]
fn whole_small_value(bytes: &[u8]) -> Option<(u8, usize)> {
    let kind = *bytes.first()?;
    match kind {
        b'$' => {
            if bytes.starts_with(b"$-1\r\n") {
                return Some((kind, 5));
            }
            let (length, start) = small_length(&bytes[1..])?;
            let end = start + 1 + length;
            let is_whole = *bytes.get(end + 1)? == b'\n' && bytes[end] == b'\r';
            is_whole.then_some((kind, end + 2))
        }
        b'+' | b':' => {
            // Shorter than what a search by vectors pays for.
            let end = bytes.iter().take(24).position(|&byte| byte == b'\r')?;
            (*bytes.get(end + 1)? == b'\n').then_some((kind, end + 2))
        }
        _ => None,
    }
}

/// A length of at most nine digits with its line end; gives it and the bytes taken.
#[inline]
fn small_length(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut length = 0;
    for (index, &byte) in bytes.iter().take(10).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let is_end = index > 0 && byte == b'\r' && bytes.get(index + 1) == Some(&b'\n');
            return is_end.then_some((length, index + 2));
        }
        length = length * 10 + usize::from(digit);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of the frames in `input`, which arrives in pieces of `piece` bytes.
    fn scan(input: &[u8], piece: usize) -> Result<Vec<(u8, usize)>, &'static str> {
        let mut scanner = ReplyScanner::new();
        let mut frames = Vec::new();
        let mut frame_bytes = 0;
        for piece in input.chunks(piece) {
            let mut unseen = piece;
            while !unseen.is_empty() {
                match scanner.next(unseen) {
                    Step::End(bytes) => {
                        frames.push((scanner.kind(), frame_bytes + bytes));
                        frame_bytes = 0;
                        unseen = &unseen[bytes..];
                        assert!(scanner.is_between_frames());
                    }
                    Step::Partial => {
                        frame_bytes += unseen.len();
                        unseen = &[];
                        assert!(!scanner.is_between_frames());
                    }
                    Step::Error(reason) => return Err(reason),
                }
            }
        }
        Ok(frames)
    }

    #[track_caller]
    fn check(frames: &[&[u8]]) {
        let expected: Vec<_> = frames.iter().map(|frame| frame.len()).collect();
        let input = frames.concat();
        for piece in [1, 2, 3, 5, 8, input.len()] {
            let frames = scan(&input, piece).expect("RESP");
            let found: Vec<_> = frames.into_iter().map(|(_, bytes)| bytes).collect();
            assert_eq!(found, expected, "{} in pieces of {piece}", input.escape_ascii());
        }
    }

    #[track_caller]
    fn check_error(input: &[u8], expected: &str) {
        for piece in [1, 2, 3, input.len()] {
            assert_eq!(scan(input, piece), Err(expected), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn values_of_every_type_end_where_they_end() {
        check(&[
            b"+OK\r\n",
            b"+\r\n",
            b"-ERR wrong number of arguments for 'get' command\r\n",
            b":1000\r\n",
            b":-9223372036854775808\r\n",
            b"$5\r\nhello\r\n",
            b"$0\r\n\r\n",
            b"$-1\r\n",
            b"$9\r\n\r\n$3\r\n*1\r\r\n",
            b"*-1\r\n",
            b"*0\r\n",
            b"_\r\n",
            b"#t\r\n",
            b",-1.5e300\r\n",
            b",inf\r\n",
            b"(3492890328409238509324850943850943825024385\r\n",
            b"!21\r\nSYNTAX invalid syntax\r\n",
            b"=15\r\ntxt:Some string\r\n",
            b"%0\r\n",
            b"~0\r\n",
        ]);
    }

    #[test]
    fn aggregates_end_with_their_last_element() {
        check(&[
            b"*3\r\n:1\r\n$-1\r\n+OK\r\n",
            b"*2\r\n*2\r\n:1\r\n:2\r\n*1\r\n*0\r\n",
            b"%2\r\n+a\r\n:1\r\n+b\r\n*1\r\n:2\r\n",
            b"~2\r\n+a\r\n%1\r\n+k\r\n$1\r\nv\r\n",
            b">3\r\n+message\r\n+channel\r\n$2\r\nhi\r\n",
            b"|1\r\n+ttl\r\n:3600\r\n$1\r\nv\r\n",
            b"|1\r\n+a\r\n*1\r\n+b\r\n*2\r\n|1\r\n+c\r\n+d\r\n:1\r\n:2\r\n",
        ]);
    }

    #[test]
    fn a_push_is_known_as_one() {
        let mut scanner = ReplyScanner::new();
        for (frame, is_push) in [
            (&b"+OK\r\n"[..], false),
            (b">2\r\n+a\r\n*0\r\n", true),
            (b"*1\r\n>0\r\n", false),
            (b"|1\r\n+a\r\n+b\r\n>1\r\n+c\r\n", true),
            (b"$1\r\na\r\n", false),
            (b"|0\r\n+c\r\n", false),
        ] {
            assert_eq!(scanner.next(frame), Step::End(frame.len()), "{}", frame.escape_ascii());
            assert_eq!(scanner.is_push(), is_push, "{}", frame.escape_ascii());
        }
        assert_eq!(scanner.next(b">"), Step::Partial);
        assert!(scanner.is_push());
    }

    #[test]
    fn a_lone_carriage_return_does_not_end_a_line() {
        check(&[b"+a\rb\r\r\n", b"-\r\r\r\n", b"+a\nb\r\n"]);
    }

    #[test]
    fn depth_costs_nothing() {
        let mut deep = b"*1\r\n".repeat(1_000_000);
        deep.extend_from_slice(b":1\r\n");
        assert_eq!(scan(&deep, 1000), Ok(vec![(b'*', deep.len())]));
    }

    #[test]
    fn a_large_reply_is_linear_even_byte_by_byte() {
        let mut large = b"$4500000\r\n".to_vec();
        large.resize(large.len() + 4_500_000, b'x');
        large.extend_from_slice(b"\r\n");
        let mut line = vec![b'+'];
        line.resize(1_000_000, b'y');
        line.extend_from_slice(b"\r\n");
        let started = std::time::Instant::now();
        assert_eq!(scan(&large, 1), Ok(vec![(b'$', large.len())]));
        assert_eq!(scan(&line, 1), Ok(vec![(b'+', line.len())]));
        assert!(started.elapsed().as_secs() < 15, "{:?}", started.elapsed());
    }

    #[test]
    fn bytes_that_are_no_reply_are_refused() {
        check_error(b"hello\r\n", BAD_TYPE);
        check_error(b"\r\n", BAD_TYPE);
        check_error(b"*1\r\nx", BAD_TYPE);
        check_error(b"$3\r\nabcd\r\n", BAD_BULK_END);
        check_error(b"$3\r\nabc\rx", BAD_BULK_END);
        check_error(b"$3\r\nabcxx", BAD_BULK_END);
        for line in [
            "$\r\n",
            "$-\r\n",
            "$-2\r\n",
            "%-1\r\n",
            "$1x\r\n",
            "$1\rx",
            "$--1\r\n",
            "*?\r\n",
            "$9999999999999999999\r\n",
            "*1-\r\n",
            "$+1\r\n",
        ] {
            check_error(line.as_bytes(), BAD_LENGTH);
        }
        let most = b"*999999999999999999\r\n";
        check_error(&[&most[..], &most.repeat(20)].concat(), TOO_MANY);
    }

    #[test]
    fn no_bytes_change_nothing() {
        let mut scanner = ReplyScanner::new();
        assert_eq!(scanner.next(b""), Step::Partial);
        assert!(scanner.is_between_frames());
    }
}
