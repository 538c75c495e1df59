//! Steps: small operations of many clients that an event loop tells Redis first by itself, all that have come in
//! one turn of it at once (`lua/step.lua`).
//!
//! A worker (see `behind`) needs two changes of threads for each operation, and answers nobody before the next
//! step; a loop has the clients and a lane at hand. But it cannot wait. What needs more than the one step is left
//! to the worker: keys that Redis does not have, an end of their own, parts of values, a journal that is
//! full or closed, a Redis that takes nothing now.
//!
//! Invariants
//! - What a client sent after an operation that is left is left, too.
//! - A step is sent once. When its answer is lost, nobody knows whether it happened.
//! - While the worker waits for Redis or for the journal to take something, no steps are made: who came
//!   first is first.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::{BufMut, Bytes, BytesMut};

use super::Engine;
use super::fits::{How, NEEDY, Way, fits, kind_word};
use super::tables::Tables;
use crate::command::{Command, Mapped};
use crate::config::Strategy;
use crate::mapping::Pass;
use crate::metrics::Side;
use crate::protocol::reply::{write_bulk, write_count, write_integer};
use crate::protocol::scan::{ReplyScanner, Step as Scanned};
use crate::store::has_row;
use crate::upstream::UpstreamError;
use crate::upstream::scripts::{JOURNAL, JOURNAL_STATE, mark_of};

/// Arguments, and their bytes, of an operation that a loop tells Redis itself.
const MOST_ARGUMENTS: usize = 200;
const MOST_BYTES: usize = 16 << 10;
const _: () = assert!(MOST_ARGUMENTS <= u8::MAX as usize, "a byte tells how many there are");

/// Operations, and their bytes, of one step: nobody else gets an answer from Redis meanwhile.
const STEP_OPERATIONS: usize = 200;
const STEP_BYTES: usize = 256 << 10;

/// What event loops have to know of the worker.
#[derive(Debug, Default)]
pub(super) struct Stepping {
    /// By which name Redis knows the script, once the worker has made it known.
    hash: OnceLock<Bytes>,
    /// The worker waits.
    is_held: AtomicBool,
    tables: OnceLock<Arc<Tables>>,
}

/// How Redis is to run an operation that a loop may tell it first.
#[derive(Clone, Copy, Debug)]
pub struct Telling {
    how: How,
    is_needy: bool,
    /// Its key's, by its place in the configuration file.
    mapping: usize,
}

/// A step that is being put together.
#[derive(Debug, Default)]
pub struct Step {
    keys: BytesMut,
    words: BytesMut,
    count: usize,
    word_count: usize,
    text: BytesMut,
}

/// What Redis says of a step.
#[derive(Debug, PartialEq, Eq)]
pub enum Stepped {
    /// The operations' replies, as they go to clients; `None`: it was left.
    Ran(Vec<Option<Bytes>>),
    /// Nothing has happened.
    Not,
    /// It makes no sense.
    Odd,
}

// === impl Telling ===

impl Telling {
    /// Its key's mapping, by its place in the configuration file.
    pub fn mapping(self) -> usize {
        self.mapping
    }
}

// === impl Stepping ===

impl Stepping {
    pub(super) fn learn_tables(&self, tables: &Arc<Tables>) {
        // Engines are started once.
        let _ = self.tables.set(Arc::clone(tables));
    }

    pub(super) fn tables(&self) -> Option<&Arc<Tables>> {
        self.tables.get()
    }

    pub(super) fn learn_hash(&self, hash: impl FnOnce() -> Option<Bytes>) {
        if self.hash.get().is_none()
            && let Some(hash) = hash()
        {
            let _ = self.hash.set(hash);
        }
    }

    pub(super) fn hold(&self, is_held: bool) {
        self.is_held.store(is_held, Ordering::Release);
    }
}

// === impl Engine ===

impl Engine {
    /// How an event loop may tell Redis first of a request with one mapped key, over a connection to a run of
    /// Redis that is believed, let in at the gate of the key's mapping; `None`: it is for a worker. `arguments`: with
    /// the name.
    pub fn telling(&self, command: &Command, arguments: &[&[u8]]) -> Option<(Telling, Pass)> {
        let how = How::of(command).filter(|how| !matches!(how, How::Keys | How::Drawn))?;
        let Mapped::Write(write) = command.mapped else { return None };
        let is_small = arguments.len() <= MOST_ARGUMENTS
            && arguments.iter().map(|argument| argument.len()).sum::<usize>() <= MOST_BYTES;
        let stepping = &self.stepping;
        if !is_small || stepping.hash.get().is_none() || stepping.is_held.load(Ordering::Acquire) {
            return None;
        }
        let key = self.registry.mapped_key(&Bytes::copy_from_slice(arguments[1]))?;
        let pass = key.mapping.gate.enter()?;
        let is_told_first = key.mapping.strategy() == Strategy::CacheFirst
            && self.health.strategy_of(&key.mapping) == Strategy::CacheFirst
            && !self.health.is_lost()
            // Redis may have such a key with an end of its own, and nobody else.
            && !key.mapping.imports();
        if !is_told_first || write.of.is_some_and(|of| of != key.mapping.holds()) {
            return None;
        }
        let mapping = stepping.tables.get()?.current(&key.mapping)?;
        let is_fit = has_row(&mapping.layout, &key)
            && matches!(fits(how, arguments, &mapping), Way::Behind(_));
        let telling =
            Telling { how, is_needy: kind_word(&mapping) == NEEDY, mapping: mapping.index };
        is_fit.then_some((telling, pass))
    }

    /// The request that runs a step; `None` while Redis may not know the script.
    pub fn request_of(&self, step: &Step) -> Option<BytesMut> {
        let most = self.journal_changes.to_string();
        self.stepping.hash.get().map(|hash| step.request(hash, most.as_bytes()))
    }

    /// Counts an operation that a step has done.
    pub fn count_told(&self, telling: Telling, reply: &[u8]) {
        if let Some(counts) = self.metrics.mapping(telling.mapping) {
            counts.untimed(Side::Write, reply.first() == Some(&b'-'));
        }
    }

    /// A step may or may not have happened.
    pub fn doubt_step(&self, error: &UpstreamError) {
        tracing::warn!(%error, "what was told Redis first may or may not have happened");
        if !matches!(error, UpstreamError::Protocol(_)) {
            // It is not believed before it has been looked at.
            self.trust.lose();
        }
    }
}

// === impl Step ===

impl Step {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it takes another operation.
    pub fn has_room(&self) -> bool {
        self.count < STEP_OPERATIONS && self.words.len() < STEP_BYTES
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Adds an operation; `follows`: it comes after the one before it, of the same client.
    pub fn add(&mut self, telling: Telling, follows: bool, arguments: &[&[u8]]) {
        self.count += 1;
        let key = arguments[1];
        write_bulk(&mut self.keys, key);
        write_bulk(&mut self.keys, &mark_of(key));
        // The script has the key already.
        let words = arguments[..1].iter().chain(&arguments[2..]);
        let count = arguments.len() - 1;
        self.word_count += 2 + count;
        let follows = b'0' + u8::from(follows) + 2 * u8::from(telling.is_needy);
        let count = u8::try_from(count).unwrap_or(u8::MAX);
        write_bulk(&mut self.words, &[telling.how.letter(), follows, count]);
        self.text.clear();
        write_change(&mut self.text, telling.how, arguments);
        write_bulk(&mut self.words, &self.text);
        for word in words {
            write_bulk(&mut self.words, word);
        }
    }

    fn request(&self, hash: &[u8], most: &[u8]) -> BytesMut {
        let mut request = BytesMut::with_capacity(self.keys.len() + self.words.len() + 200);
        write_count(&mut request, b'*', 2 * self.count + self.word_count + 6);
        write_bulk(&mut request, b"EVALSHA");
        write_bulk(&mut request, hash);
        write_number(&mut request, 2 * self.count + 2);
        write_bulk(&mut request, JOURNAL_STATE);
        write_bulk(&mut request, JOURNAL);
        request.put_slice(&self.keys);
        write_bulk(&mut request, most);
        request.put_slice(&self.words);
        request
    }

    /// Forgets what is in it.
    pub fn clear(&mut self) {
        self.keys.clear();
        self.words.clear();
        (self.count, self.word_count) = (0, 0);
    }
}

// === impl Stepped ===

impl Stepped {
    /// `told`: how the operations of the step were told.
    pub fn read(reply: &Bytes, told: impl ExactSizeIterator<Item = Telling>) -> Self {
        match reply.first() {
            Some(b'+') if &reply[..] == b"+EPOCH\r\n" || &reply[..] == b"+FULL\r\n" => {
                return Self::Not;
            }
            // Before a script begins.
            Some(b'-') if says_before_it_runs(&reply[1..]) => return Self::Not,
            Some(b'*') => {}
            _ => return Self::Odd,
        }
        let Some(head) = memchr::memchr(b'\n', reply) else { return Self::Odd };
        let mut at = head + 1;
        let mut scanner = ReplyScanner::new();
        let mut replies = Vec::with_capacity(told.len());
        for telling in told {
            let Scanned::End(length) = scanner.next(&reply[at..]) else { return Self::Odd };
            let one = reply.slice(at..at + length);
            at += length;
            replies.push(match &one[..] {
                b"+LEFT\r\n" => None,
                _ if telling.how == How::Sum => Some(integer_of(&one)),
                _ => Some(one),
            });
        }
        if at == reply.len() { Self::Ran(replies) } else { Self::Odd }
    }
}

/// Whether Redis refuses a script before it runs.
fn says_before_it_runs(error: &[u8]) -> bool {
    let first = error.split(|byte| matches!(byte, b' ' | b'\r')).next().unwrap_or_default();
    first == b"NOSCRIPT" || std::str::from_utf8(first).is_ok_and(super::behind::is_for_later)
}

/// A sum as clients are told it: the script tells it as a text, as Lua has not all integers.
fn integer_of(reply: &Bytes) -> Bytes {
    let text = reply.split(|byte| *byte == b'\n').nth(1);
    match text.filter(|_| reply.first() == Some(&b'$')) {
        Some(digits) => Bytes::from([b":", digits, b"\n"].concat()),
        None => reply.clone(),
    }
}

/// What the journal says of an operation that has changed something (see `upstream::journal`), of a sum all but
/// the sum.
fn write_change(out: &mut BytesMut, how: How, arguments: &[&[u8]]) {
    let names = match how {
        How::Pairs | How::Unique => (arguments.len() - 2) / 2,
        How::Sum | How::Float => 1,
        How::Adds | How::Removes | How::Drawn | How::Keys => arguments.len() - 2,
    };
    tell(out, &[arguments[1]]);
    tell(out, &[b"kept"]);
    tell_number(out, names);
    match how {
        How::Pairs | How::Unique => {
            for pair in arguments[2..].chunks_exact(2) {
                tell(out, &[pair[0]]);
                tell(out, &[b"+", pair[1]]);
            }
        }
        How::Sum | How::Float => tell(out, &[arguments[2]]),
        How::Adds | How::Removes | How::Drawn | How::Keys => {
            for name in &arguments[2..] {
                tell(out, &[name]);
                tell(out, &[if how == How::Adds { b"+" } else { b"-" }]);
            }
        }
    }
}

/// A text as it stands in the journal: its length, a colon, and itself.
fn tell(out: &mut BytesMut, parts: &[&[u8]]) {
    write_digits(out, parts.iter().map(|part| part.len()).sum());
    out.put_u8(b':');
    parts.iter().for_each(|part| out.put_slice(part));
}

fn tell_number(out: &mut BytesMut, number: usize) {
    write_digits(out, digits_of(number));
    out.put_u8(b':');
    write_digits(out, number);
}

/// Appends a number as a bulk string.
fn write_number(out: &mut BytesMut, number: usize) {
    write_count(out, b'$', digits_of(number));
    write_digits(out, number);
    out.put_slice(b"\r\n");
}

fn write_digits(out: &mut BytesMut, number: usize) {
    write_integer(out, i64::try_from(number).unwrap_or(i64::MAX));
}

fn digits_of(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |power| power as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::upstream::journal::KeyChange;

    fn telling(name: &str) -> Telling {
        let how = How::of(lookup(name.as_bytes()).unwrap()).unwrap();
        Telling { how, is_needy: false, mapping: 0 }
    }

    fn words(request: &str) -> Vec<&[u8]> {
        request.split(' ').map(str::as_bytes).collect()
    }

    #[test]
    fn the_journal_is_told_what_has_become_of_the_key() {
        let check = |request: &str, names: &[(&'static str, Option<&'static str>)]| {
            let arguments = words(request);
            let mut text = BytesMut::new();
            let how = telling(&request.split(' ').next().unwrap().to_lowercase()).how;
            write_change(&mut text, how, &arguments);
            if matches!(how, How::Sum | How::Float) {
                // What the script adds.
                text.extend_from_slice(b"2:+7");
            }
            let change = KeyChange {
                key: "k".into(),
                cleared: false,
                names: names
                    .iter()
                    .map(|(name, now)| ((*name).into(), now.map(Bytes::from)))
                    .collect(),
                steps: Vec::new(),
            };
            assert_eq!(text, change.write(), "{request}");
        };
        check("HSET k a 1 long-name-here 22", &[("a", Some("1")), ("long-name-here", Some("22"))]);
        check("HMSET k a 1", &[("a", Some("1"))]);
        check("HSETNX k a 1", &[("a", Some("1"))]);
        check("SADD k a b", &[("a", Some("")), ("b", Some(""))]);
        check("HDEL k a b", &[("a", None), ("b", None)]);
        check("SREM k a", &[("a", None)]);
        check("HINCRBY k n 3", &[("n", Some("7"))]);
        check("HINCRBYFLOAT k n 3", &[("n", Some("7"))]);
    }

    #[test]
    fn a_step_is_one_request() {
        let mut step = Step::default();
        let needy = Telling { is_needy: true, ..telling("hset") };
        step.add(telling("hset"), false, &words("HSET a f 1"));
        step.add(needy, true, &words("HSET b f 10"));
        let request = step.request(b"hash", b"100");
        let text = String::from_utf8(request.to_vec()).unwrap();
        let told: Vec<&str> =
            text.split("\r\n").skip(1).filter(|line| !line.starts_with('$')).collect();
        let expected = "EVALSHA hash 6 respgres:journal-state respgres:journal a respgres:m:a b respgres:m:b 100 \
             p0\u{3} 1:a4:kept1:11:f2:+1 HSET f 1 p3\u{3} 1:b4:kept1:11:f3:+10 HSET f 10 ";
        assert_eq!(told.join(" "), expected);
        assert!(text.starts_with(&format!("*{}\r\n", told.len() - 1)));
        step.clear();
        assert!(step.is_empty());
        step.add(telling("sadd"), false, &words("SADD s m"));
        assert!(step.request(b"hash", b"100").starts_with(b"*12\r\n"));
    }

    #[test]
    fn replies_are_those_of_redis_but_for_sums() {
        let read = |reply: &'static str, names: &[&str]| {
            Stepped::read(&Bytes::from(reply), names.iter().map(|name| telling(name)))
        };
        let reply = "*5\r\n:1\r\n$2\r\n-7\r\n+LEFT\r\n-ERR x\r\n$3\r\n1.5\r\n";
        let told = read(reply, &["hset", "hincrby", "hset", "hincrby", "hincrbyfloat"]);
        let replies =
            [Some(":1\r\n"), Some(":-7\r\n"), None, Some("-ERR x\r\n"), Some("$3\r\n1.5\r\n")];
        assert_eq!(told, Stepped::Ran(replies.map(|reply| reply.map(Bytes::from)).to_vec()));
        for refusal in [
            "+FULL\r\n",
            "+EPOCH\r\n",
            "-NOSCRIPT No matching script.\r\n",
            "-OOM command not allowed\r\n",
            "-LOADING x\r\n",
        ] {
            assert_eq!(read(refusal, &["hset"]), Stepped::Not, "{refusal}");
        }
        for odd in
            ["-ERR Error running script\r\n", ":1\r\n", "*1\r\n:1\r\n:2\r\n", "*0\r\n", "+OK\r\n"]
        {
            assert_eq!(read(odd, &["hset"]), Stepped::Odd, "{odd}");
        }
    }
}
