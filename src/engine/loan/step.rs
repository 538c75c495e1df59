//! The atomic step of a loan: the requests between MULTI and EXEC, and what Redis says to them.
//!
//! Pure: bytes in, bytes out. The client's own replies are never decoded.

use std::ops::Range;

use bytes::{Bytes, BytesMut};

use crate::protocol::inline::encode_request;
use crate::protocol::scan::{ReplyScanner, Step as ScanStep};
use crate::upstream::scripts::{aside_of_lent, decimal};
use crate::value::{Fields, Record, ValueKind};

/// Fields or members in one request that lends a value. Redis takes 1,048,576 arguments.
const PART: usize = 10_000;

/// Requests of one atomic step, under construction.
#[derive(Debug)]
pub(super) struct Step {
    out: BytesMut,
    /// Requests after MULTI.
    count: usize,
    /// Those that lend: none of them may fail.
    lends: Range<usize>,
    /// The client's.
    clients: Range<usize>,
}

/// What Redis said to a step.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// It was not run: what Redis says.
    Refused { of_client: Option<Bytes>, of_step: Option<Bytes>, exec: Bytes },
    /// It was not run: a watched key was changed.
    Changed,
    /// The replies to all requests between MULTI and EXEC.
    Ran(Vec<Bytes>),
}

/// What a key that was lent holds after the requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Returned {
    Absent,
    Value {
        fields: Fields,
        expires_at_ms: Option<i64>,
    },
    /// Something of this type, which is not what was lent.
    Other(String),
}

/// A key that is not mapped, as DUMP and PEXPIRETIME show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Dumped {
    /// `None`: the key is absent.
    pub(super) value: Option<Bytes>,
    pub(super) expires_at_ms: i64,
}

/// A reply that is no reply to what was asked.
#[derive(Debug)]
pub(super) struct Odd;

// === impl Step ===

impl Step {
    pub(super) fn new() -> Self {
        let mut step = Self { out: BytesMut::new(), count: 0, lends: 0..0, clients: 0..0 };
        encode_request(&["MULTI"], &mut step.out);
        step
    }

    fn push<Word: AsRef<[u8]>>(&mut self, words: &[Word]) {
        encode_request(words, &mut self.out);
        self.count += 1;
    }

    /// Asks what a key that is not mapped holds; two replies.
    pub(super) fn dump(&mut self, key: &[u8]) {
        self.push(&[&b"DUMP"[..], key]);
        self.push(&[&b"PEXPIRETIME"[..], key]);
    }

    /// Puts a value in the place of a key, all of them one after the other. `expires_at_ms` is by
    /// Redis' clock.
    pub(super) fn lend(&mut self, key: &[u8], record: Option<&Record>, expires_at_ms: Option<i64>) {
        if self.lends.is_empty() {
            self.lends.start = self.count;
        }
        debug_assert!(self.lends.is_empty() || self.lends.end == self.count);
        self.lend_one(key, record, expires_at_ms);
        self.lends.end = self.count;
    }

    fn lend_one(&mut self, key: &[u8], record: Option<&Record>, expires_at_ms: Option<i64>) {
        self.push(&[&b"UNLINK"[..], key]);
        let Some(record) = record else { return };
        let fields: Vec<(&Bytes, &Bytes)> = record.fields.iter().collect();
        for part in fields.chunks(PART) {
            let mut words: Vec<&[u8]> = Vec::with_capacity(2 + 2 * part.len());
            match record.kind {
                ValueKind::Hash => words.extend([&b"HSET"[..], key]),
                ValueKind::Set => words.extend([&b"SADD"[..], key]),
            }
            for (field, value) in part {
                words.push(field);
                if record.kind == ValueKind::Hash {
                    words.push(value);
                }
            }
            self.push(&words);
        }
        if let Some(expires_at_ms) = expires_at_ms {
            self.push(&[&b"PEXPIREAT"[..], key, &decimal(expires_at_ms)]);
        }
    }

    /// Moves a cached copy out of the way, if there is one.
    pub(super) fn set_aside(&mut self, key: &[u8]) {
        self.push(&[&b"RENAME"[..], key, &aside_of_lent(key)]);
    }

    /// Takes a lent value away and brings the cached copy back.
    pub(super) fn bring_back(&mut self, key: &[u8]) {
        self.push(&[&b"UNLINK"[..], key]);
        self.push(&[&b"RENAME"[..], &aside_of_lent(key), key]);
    }

    /// A request of ours; one reply.
    pub(super) fn ask(&mut self, words: &[Bytes]) {
        self.push(words);
    }

    /// A request of the client's, as it came.
    pub(super) fn request(&mut self, bytes: &[u8]) {
        if self.clients.is_empty() {
            self.clients.start = self.count;
        }
        self.out.extend_from_slice(bytes);
        self.count += 1;
        self.clients.end = self.count;
    }

    /// Asks what a key holds and takes it away; four replies.
    pub(super) fn take_back(&mut self, key: &[u8], kind: ValueKind) {
        self.push(&[&b"TYPE"[..], key]);
        match kind {
            ValueKind::Hash => self.push(&[&b"HGETALL"[..], key]),
            ValueKind::Set => self.push(&[&b"SMEMBERS"[..], key]),
        }
        self.push(&[&b"PEXPIRETIME"[..], key]);
        self.push(&[&b"UNLINK"[..], key]);
    }

    /// Ends the step: the bytes to send and the number of replies to them.
    pub(super) fn finish(&mut self) -> (Bytes, u32) {
        let mut bytes = std::mem::take(&mut self.out);
        encode_request(&["EXEC"], &mut bytes);
        (bytes.freeze(), u32::try_from(self.count + 2).unwrap_or(u32::MAX))
    }

    /// Where the client's replies stand among those of the step.
    pub(super) fn clients(&self) -> Range<usize> {
        self.clients.clone()
    }

    /// Understands the replies, of which there are as many as `finish` said. What was lent in part is
    /// not to be taken for what the requests have left.
    pub(super) fn outcome(&self, replies: &[Bytes]) -> Result<Outcome, Odd> {
        let (Some(exec), true) = (replies.last(), replies.len() == self.count + 2) else {
            return Err(Odd);
        };
        match exec.first() {
            Some(b'*') if exec.starts_with(b"*-1") => Ok(Outcome::Changed),
            Some(b'_') => Ok(Outcome::Changed),
            Some(b'*') => {
                let elements = elements(exec)?;
                let has_lent = elements.len() == self.count
                    && !elements[self.lends.clone()].iter().any(is_error);
                if has_lent { Ok(Outcome::Ran(elements)) } else { Err(Odd) }
            }
            Some(b'-') => {
                let queued = &replies[1..=self.count];
                let first_error =
                    |replies: &[Bytes]| replies.iter().find(|reply| is_error(reply)).cloned();
                let of_client = first_error(&queued[self.clients()]);
                let of_step = first_error(&replies[..=self.count]);
                Ok(Outcome::Refused { of_client, of_step, exec: exec.clone() })
            }
            _ => Err(Odd),
        }
    }
}

fn is_error(reply: &Bytes) -> bool {
    reply.first() == Some(&b'-')
}

// === what Redis says ===

impl Returned {
    /// From the four replies to `take_back`.
    pub(super) fn read(replies: &[Bytes], kind: ValueKind) -> Result<Self, Odd> {
        let [found, value, expires_at, _] = replies else { return Err(Odd) };
        let found = found.strip_prefix(b"+").and_then(|found| found.strip_suffix(b"\r\n"));
        let found = found.ok_or(Odd)?;
        if found == b"none" {
            return Ok(Self::Absent);
        }
        if found != kind.name().as_bytes() {
            return Ok(Self::Other(String::from_utf8_lossy(found).into_owned()));
        }
        let mut values = elements(value)?.into_iter();
        let mut fields = Fields::default();
        while let Some(field) = values.next() {
            let value = match kind {
                ValueKind::Hash => text_of(&values.next().ok_or(Odd)?)?,
                ValueKind::Set => Bytes::new(),
            };
            fields.insert(text_of(&field)?, value);
        }
        let expires_at_ms = Some(integer(expires_at)?).filter(|&at_ms| at_ms >= 0);
        Ok(Self::Value { fields, expires_at_ms })
    }
}

impl Dumped {
    /// From the two replies to `dump`.
    pub(super) fn read(replies: &[Bytes]) -> Result<Self, Odd> {
        let [value, expires_at] = replies else { return Err(Odd) };
        Ok(Self { value: bulk(value)?, expires_at_ms: integer(expires_at)? })
    }
}

/// The elements of an array, a set or a map, each as it came.
pub(super) fn elements(reply: &Bytes) -> Result<Vec<Bytes>, Odd> {
    if !matches!(reply.first(), Some(b'*' | b'~' | b'%')) {
        return Err(Odd);
    }
    let mut at = memchr::memchr(b'\n', reply).ok_or(Odd)? + 1;
    let mut elements = Vec::new();
    let mut scanner = ReplyScanner::new();
    while at < reply.len() {
        let ScanStep::End(length) = scanner.next(&reply[at..]) else { return Err(Odd) };
        elements.push(reply.slice(at..at + length));
        at += length;
    }
    Ok(elements)
}

/// The bytes of a bulk string that is not nil.
pub(super) fn text_of(reply: &Bytes) -> Result<Bytes, Odd> {
    bulk(reply)?.ok_or(Odd)
}

/// A bulk string's bytes; `None` for nil.
fn bulk(reply: &Bytes) -> Result<Option<Bytes>, Odd> {
    if reply.starts_with(b"$-1") || reply.starts_with(b"_") {
        return Ok(None);
    }
    let start = memchr::memchr(b'\n', reply).ok_or(Odd)? + 1;
    let end = reply.len().checked_sub(2).filter(|&end| end >= start).ok_or(Odd)?;
    if reply.starts_with(b"$") { Ok(Some(reply.slice(start..end))) } else { Err(Odd) }
}

fn integer(reply: &Bytes) -> Result<i64, Odd> {
    let digits = reply.strip_prefix(b":").and_then(|rest| rest.strip_suffix(b"\r\n")).ok_or(Odd)?;
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or(Odd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(texts: &[&'static str]) -> Vec<Bytes> {
        texts.iter().map(|text| Bytes::from(*text)).collect()
    }

    fn step() -> Step {
        let mut step = Step::new();
        step.lend(b"k", None, None);
        step.request(b"*1\r\n$4\r\nPING\r\n");
        step
    }

    #[test]
    fn a_value_is_lent_in_parts() {
        let mut step = Step::new();
        let fields = (0..PART + 1).map(|n| (Bytes::from(n.to_string()), Bytes::new())).collect();
        let record = Record { kind: ValueKind::Set, fields, ..Record::default() };
        step.lend(b"k", Some(&record), Some(7));
        let (bytes, replies) = step.finish();
        // MULTI, UNLINK, twice SADD, PEXPIREAT, EXEC
        assert_eq!(replies, 6);
        assert!(bytes.ends_with(
            b"*3\r\n$4\r\nSADD\r\n$1\r\nk\r\n$5\r\n10000\r\n\
              *3\r\n$9\r\nPEXPIREAT\r\n$1\r\nk\r\n$1\r\n7\r\n*1\r\n$4\r\nEXEC\r\n"
        ));
    }

    #[test]
    fn the_outcome_is_what_exec_says() {
        let step = step();
        let outcome = |texts: &[&'static str]| step.outcome(&replies(texts));
        let queued = "+QUEUED\r\n";
        let ran = outcome(&["+OK\r\n", queued, queued, "*2\r\n:0\r\n+PONG\r\n"]).unwrap();
        assert_eq!(ran, Outcome::Ran(replies(&[":0\r\n", "+PONG\r\n"])));
        assert_eq!(step.clients(), 1..2);
        for nil in ["*-1\r\n", "_\r\n"] {
            assert_eq!(outcome(&["+OK\r\n", queued, queued, nil]).unwrap(), Outcome::Changed);
        }
        let (bad, exec) = ("-ERR no\r\n", "-EXECABORT x\r\n");
        let refused = outcome(&["+OK\r\n", queued, bad, exec]).unwrap();
        let bad = Some(Bytes::from(bad));
        let exec = Bytes::from(exec);
        assert_eq!(refused, Outcome::Refused { of_client: bad.clone(), of_step: bad, exec });
        assert!(outcome(&["+OK\r\n", queued, "*1\r\n:0\r\n"]).is_err());
        assert!(outcome(&["+OK\r\n", queued, queued, "*1\r\n:0\r\n"]).is_err());
        // What was not lent as a whole says nothing of the value.
        assert!(outcome(&["+OK\r\n", queued, queued, "*2\r\n-ERR no\r\n+PONG\r\n"]).is_err());
        let failed = outcome(&["+OK\r\n", queued, queued, "*2\r\n:0\r\n-ERR no\r\n"]).unwrap();
        assert_eq!(failed, Outcome::Ran(replies(&[":0\r\n", "-ERR no\r\n"])));
    }

    #[test]
    fn what_comes_back_is_read_in_both_versions() {
        let pairs = [("a", "1"), ("b", "")].map(|(f, v)| (Bytes::from(f), Bytes::from(v)));
        let fields: Fields = pairs.into_iter().collect();
        for value in [
            "*4\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$0\r\n\r\n",
            "%2\r\n$1\r\na\r\n$1\r\n1\r\n$1\r\nb\r\n$0\r\n\r\n",
        ] {
            let came = replies(&["+hash\r\n", value, ":5\r\n", ":1\r\n"]);
            let expected = Returned::Value { fields: fields.clone(), expires_at_ms: Some(5) };
            assert_eq!(Returned::read(&came, ValueKind::Hash).unwrap(), expected);
        }
        let members: Fields = std::iter::once((Bytes::from("a"), Bytes::new())).collect();
        for value in ["*1\r\n$1\r\na\r\n", "~1\r\n$1\r\na\r\n"] {
            let came = replies(&["+set\r\n", value, ":-1\r\n", ":1\r\n"]);
            let expected = Returned::Value { fields: members.clone(), expires_at_ms: None };
            assert_eq!(Returned::read(&came, ValueKind::Set).unwrap(), expected);
        }
        let came = replies(&["+none\r\n", "*0\r\n", ":-2\r\n", ":0\r\n"]);
        assert_eq!(Returned::read(&came, ValueKind::Hash).unwrap(), Returned::Absent);
        let came = replies(&["+string\r\n", "-WRONGTYPE x\r\n", ":-1\r\n", ":1\r\n"]);
        let expected = Returned::Other("string".to_owned());
        assert_eq!(Returned::read(&came, ValueKind::Hash).unwrap(), expected);
        let dumped = Dumped::read(&replies(&["$-1\r\n", ":-2\r\n"])).unwrap();
        assert_eq!(dumped, Dumped { value: None, expires_at_ms: -2 });
    }
}
