//! Which arguments of a request are keys, and whether the request may wait inside Redis.
//!
//! Requests come from clients: counts may be negative, huge or no numbers, arguments may be
//! missing. Where Redis would refuse such a request, no key or too many keys are reported, but
//! never one too few: what is forwarded then changes no key.

use std::ops::Range;

use super::{Command, Path};

/// Where a command's keys are among its arguments (argument 0 is the name).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    None,
    /// Argument 1 alone.
    First,
    /// From argument `first` to the last one (`last` = -1; -2: all but the last, and so on),
    /// every `step`th.
    Range {
        first: u8,
        last: i8,
        step: u8,
    },
    /// A count at argument `count`, then that many keys; `also` is one more key, before the count
    /// (a destination), 0 for none.
    Counted {
        count: u8,
        also: u8,
    },
    /// After the word STREAMS: the first half of what follows.
    Streams,
    /// SORT and SORT_RO: argument 1 and the STORE destination; see also `for_each_pattern`.
    Sort,
    /// GEORADIUS and GEORADIUSBYMEMBER: argument 1 and the STORE/STOREDIST destinations.
    GeoRadius,
    /// MIGRATE: argument 3, or those after KEYS.
    Migrate,
}

// === impl Keys ===

impl Keys {
    /// Whether argument 1, if there is one, is the only key of a request with `count` arguments.
    #[inline]
    pub fn is_first_alone(self, count: usize) -> bool {
        match self {
            Self::First => true,
            Self::Range { first: 1, last: -1, .. } => count == 2,
            _ => false,
        }
    }
}

// === impl Command ===

impl Command {
    /// Calls `visit` with the position of every argument that is a key.
    ///
    /// `count` is the number of arguments with the name, `argument` reads one of them (asked for
    /// positions below `count` only). A position may be visited twice when a client names a
    /// destination twice.
    #[inline]
    pub fn for_each_key<'a>(
        &self,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
        mut visit: impl FnMut(usize),
    ) {
        match self.keys {
            Keys::None => {}
            Keys::First if count > 1 => visit(1),
            Keys::First => {}
            Keys::Range { first, last, step } => {
                let end = match usize::try_from(last) {
                    Ok(last) => (last + 1).min(count),
                    Err(_) => (count + 1).saturating_sub(usize::from(last.unsigned_abs())),
                };
                (usize::from(first)..end).step_by(usize::from(step.max(1))).for_each(visit);
            }
            Keys::Counted { count: place, also } => {
                let place = usize::from(place);
                if also > 0 && usize::from(also) < count {
                    visit(usize::from(also));
                }
                let wanted = if place < count { count_in(argument(place)) } else { 0 };
                // More keys than arguments: Redis refuses that, in its own words.
                if wanted < count - place.min(count) {
                    (place + 1..=place + wanted).for_each(visit);
                }
            }
            Keys::Streams => streams(count, argument).for_each(visit),
            Keys::Sort => sort(count, argument, visit, |_| {}),
            Keys::GeoRadius => geo_radius(count, argument, visit),
            Keys::Migrate => migrate(count, argument).for_each(visit),
        }
    }

    /// Calls `visit` with the position of every argument that is a pattern of keys which the command
    /// looks up beside those that it names: BY and GET of SORT (`weight_*`, `object_*->field`).
    pub fn for_each_pattern<'a>(
        &self,
        count: usize,
        argument: impl Fn(usize) -> &'a [u8],
        visit: impl FnMut(usize),
    ) {
        if self.keys == Keys::Sort {
            sort(count, argument, |_| {}, visit);
        }
    }

    /// Whether the request may wait inside Redis, so that it needs a connection of its own. The
    /// path of XREAD and XREADGROUP is `Path::Blocking`, yet they wait only with BLOCK.
    pub fn is_blocking<'a>(&self, count: usize, argument: impl Fn(usize) -> &'a [u8]) -> bool {
        self.path == Path::Blocking
            && match self.name {
                "xread" | "xreadgroup" => {
                    stream_options(count, argument).is_some_and(|options| options.block)
                }
                // A script that runs holds up every connection that waits for it.
                "script" | "function" => count > 1 && argument(1).eq_ignore_ascii_case(b"kill"),
                _ => true,
            }
    }
}

// === positions ===

/// The number of keys that a request announces, 0 when Redis would refuse it.
fn count_in(argument: &[u8]) -> usize {
    std::str::from_utf8(argument).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

struct StreamOptions {
    block: bool,
    /// The argument after STREAMS.
    first: usize,
}

/// The options of XREAD and XREADGROUP; `None` when there is no STREAMS or an unknown word.
fn stream_options<'a>(count: usize, argument: impl Fn(usize) -> &'a [u8]) -> Option<StreamOptions> {
    let mut block = false;
    let mut position = 1;
    while position < count {
        let word = argument(position);
        position += if word.eq_ignore_ascii_case(b"streams") {
            return Some(StreamOptions { block, first: position + 1 });
        } else if word.eq_ignore_ascii_case(b"block") {
            block = true;
            2
        } else if word.eq_ignore_ascii_case(b"count") {
            2
        } else if word.eq_ignore_ascii_case(b"group") {
            3
        } else if word.eq_ignore_ascii_case(b"noack") {
            1
        } else {
            return None;
        };
    }
    None
}

fn streams<'a>(count: usize, argument: impl Fn(usize) -> &'a [u8]) -> Range<usize> {
    match stream_options(count, argument) {
        Some(StreamOptions { first, .. }) if (count - first).is_multiple_of(2) => {
            first..first + (count - first) / 2
        }
        _ => 0..0,
    }
}

fn sort<'a>(
    count: usize,
    argument: impl Fn(usize) -> &'a [u8],
    mut visit: impl FnMut(usize),
    mut visit_pattern: impl FnMut(usize),
) {
    if count > 1 {
        visit(1);
    }
    let mut position = 2;
    while position < count {
        let word = argument(position);
        let more = position + 1 < count;
        if word.eq_ignore_ascii_case(b"store") && more {
            // The destination may be an option's word: looked at as both, as Redis does.
            visit(position + 1);
            position += 1;
        } else if (word.eq_ignore_ascii_case(b"by") || word.eq_ignore_ascii_case(b"get")) && more {
            // Without an asterisk BY means "do not sort", and GET looks nothing up.
            if argument(position + 1).contains(&b'*') {
                visit_pattern(position + 1);
            }
            position += 2;
        } else if word.eq_ignore_ascii_case(b"limit") {
            position += 3;
        } else {
            position += 1;
        }
    }
}

/// The options start after `key longitude latitude radius unit`, or after `key member radius
/// unit`: a unit is never one of the words looked for.
fn geo_radius<'a>(
    count: usize,
    argument: impl Fn(usize) -> &'a [u8],
    mut visit: impl FnMut(usize),
) {
    if count > 1 {
        visit(1);
    }
    let mut position = 5;
    while position + 1 < count {
        let word = argument(position);
        if word.eq_ignore_ascii_case(b"store") || word.eq_ignore_ascii_case(b"storedist") {
            visit(position + 1);
            position += 1;
        }
        position += 1;
    }
}

/// `MIGRATE host port key|"" database timeout [options] [KEYS key …]`. A password that is the
/// word KEYS makes what follows it look like keys.
fn migrate<'a>(count: usize, argument: impl Fn(usize) -> &'a [u8]) -> Range<usize> {
    if count <= 3 {
        return 0..0;
    }
    let is_keys = |&position: &usize| argument(position).eq_ignore_ascii_case(b"keys");
    match (6..count).find(is_keys) {
        Some(position) if argument(3).is_empty() => position + 1..count,
        _ => 3..4,
    }
}

#[cfg(test)]
mod tests {
    use crate::command::{COMMANDS, lookup};
    use proptest::prelude::*;

    fn words(request: &str) -> Vec<&[u8]> {
        request
            .split(' ')
            .map(|word| if word == "''" { &b""[..] } else { word.as_bytes() })
            .collect()
    }

    fn check(request: &str, expected: &str) {
        let words = words(request);
        let command = lookup(words[0]).expect("a known command");
        let mut keys = Vec::new();
        command.for_each_key(words.len(), |i| words[i], |position| keys.push(words[position]));
        let keys = keys.iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>();
        assert_eq!(keys.join(" "), expected, "{request}");
    }

    #[test]
    fn keys_are_found_where_redis_finds_them() {
        check("PING", "");
        check("GET", "");
        check("get k", "k");
        check("MGET a b c", "a b c");
        check("MSET a 1 b 2", "a b");
        check("MSET a 1 b", "a b");
        check("BLPOP a b 0", "a b");
        check("BLPOP a", "");
        check("BLPOP", "");
        check("RENAME a b", "a b");
        check("RENAME a", "a");
        check("BITOP AND d a b", "d a b");
        check("OBJECT ENCODING k", "k");
        check("OBJECT HELP", "");
        check("MEMORY USAGE k SAMPLES 5", "k");
        check("ZUNION 2 a b WITHSCORES", "a b");
        check("ZUNIONSTORE d 2 a b WEIGHTS 1 2", "d a b");
        check("ZUNIONSTORE d", "d");
        check("EVAL script 0 argument", "");
        check("EVAL script 1 a argument", "a");
        check("LMPOP 2 a b LEFT", "a b");
        check("BLMPOP 0 2 a b LEFT", "a b");
        check("XREAD COUNT 5 STREAMS a b 0 0", "a b");
        check("XREADGROUP GROUP g streams NOACK STREAMS a >", "a");
        check("XREAD STREAMS a b 0", "");
        check("XREAD STREAMS", "");
        check("SORT a* BY w_* LIMIT 0 1 GET # GET o_*->f STORE d", "a* d");
        check("SORT a BY nosort STORE", "a");
        check("GEORADIUS k 1 2 3 m STORE d", "k d");
        check("GEORADIUSBYMEMBER k m 3 m STOREDIST d COUNT 1", "k d");
        check("MIGRATE h 1 k 0 10", "k");
        check("MIGRATE h 1 '' 0 10 COPY AUTH p KEYS a b", "a b");
        check("MSETEX 2 a 1 b 2 EX 10", "a b EX");
    }

    #[test]
    fn patterns_of_keys_are_no_keys() {
        let words = words("SORT a* BY w_* LIMIT 0 1 GET # GET o_*->f GET o STORE d*");
        let command = lookup(words[0]).expect("a known command");
        let mut patterns = Vec::new();
        command.for_each_pattern(words.len(), |i| words[i], |at| patterns.push(words[at]));
        assert_eq!(patterns, [&b"w_*"[..], b"o_*->f"]);
    }

    #[test]
    fn counts_that_lie_are_survived() {
        check("EVAL script -1 a", "");
        check("EVAL script x a", "");
        check("EVAL script 9223372036854775807 a b", "");
        check("EVAL script 3 a b", "");
        check("EVAL script 99999999999999999999 a b", "");
        check("ZUNIONSTORE d 5 a", "d");
    }

    #[test]
    fn only_what_may_wait_is_blocking() {
        let is_blocking = |request: &str| {
            let words = words(request);
            let command = lookup(words[0]).expect("a known command");
            command.is_blocking(words.len(), |i| words[i])
        };
        assert!(is_blocking("BLPOP a 0"));
        assert!(is_blocking("XREAD BLOCK 0 STREAMS a $"));
        assert!(is_blocking("XREADGROUP GROUP g c COUNT 1 block 0 STREAMS a >"));
        assert!(!is_blocking("XREAD COUNT 1 STREAMS BLOCK 0"));
        assert!(!is_blocking("XREADGROUP GROUP block block STREAMS a >"));
        assert!(!is_blocking("LPOP a"));
        assert!(is_blocking("SCRIPT kill") && is_blocking("FUNCTION KILL"));
        assert!(!is_blocking("SCRIPT LOAD kill") && !is_blocking("SCRIPT"));
    }

    proptest! {
        #[test]
        fn positions_are_arguments_of_the_request(
            row in 0..COMMANDS.len(),
            arguments in prop::collection::vec(
                prop::sample::select(vec![
                    "", "a*", "-1", "0", "2", "9223372036854775807", "STREAMS", "BLOCK", "GROUP",
                    "COUNT", "STORE", "BY", "GET", "LIMIT", "KEYS", "AUTH", "AUTH2", "x",
                ]),
                0..12,
            ),
        ) {
            let count = arguments.len() + 1;
            let argument = |i: usize| if i == 0 { &b"name"[..] } else { arguments[i - 1].as_bytes() };
            COMMANDS[row].for_each_key(count, argument, |position| {
                assert!(position > 0 && position < count);
            });
            COMMANDS[row].is_blocking(count, argument);
        }
    }
}
