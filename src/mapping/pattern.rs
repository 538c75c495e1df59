//! Key patterns such as `apikey:{id:uuid}`: which keys are rows, and which row a key is.
//!
//! Invariants
//! - A pattern covers the whole key, and a key has at most one reading: rendering its captures
//!   gives the very key back. What could be read in two ways is refused when it is parsed.
//! - A captured text can be stored by Postgres (UTF-8, no NUL) and looked up through an index.
//!   A key of which that is not true does not match, and lives in Redis like any unmapped key.
//! - Matching allocates nothing and looks at each byte a bounded number of times.
//!
//! Absent on purpose: alternatives, optional parts, repetition. A table's key columns are fixed.

use std::fmt;
use std::ops::Range;

use crate::value::glob::Glob;

/// Longest key that a pattern matches, in bytes. Redis takes longer ones, and keeps them: a
/// Postgres index entry must fit a third of a page (about 2,700 bytes with its overhead), so
/// the row of a longer key could not be stored, and the key passes through as an unmapped one.
pub const MAX_KEY_BYTES: usize = 2000;

/// What a capture stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CaptureKind {
    /// At least one character; ends before the first character of the literal that follows (which
    /// it therefore cannot contain), or with the key.
    Text,
    /// At least one character of any kind; what follows it is matched from the end of the key.
    /// One a pattern.
    Path,
    /// All that is left, at least one character. Last in its pattern.
    Rest,
    /// As Postgres prints it: lower case, with hyphens.
    Uuid,
    /// A 64-bit integer as Redis and Postgres print it: no `+`, no leading zero, no `-0`.
    Int,
    /// A day of the calendar, `YYYY-MM-DD`, years 0001 to 9999.
    Date,
    /// `YYYY-MM`, years 0001 to 9999.
    Month,
    /// At least one of `a-z`, `0-9`, `_`, `-`; no upper case, so that a column that ignores case
    /// cannot take two keys for one row.
    Slug,
}

/// A piece of a key pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Literal(&'a str),
    /// By its place among the captures.
    Capture(usize),
}

/// A parsed key pattern with the globs of the keys that it leaves alone.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyPattern {
    text: String,
    parts: Vec<Part>,
    /// Where in `parts` the capture stands that takes what the others leave; else their number.
    split: usize,
    names: Vec<String>,
    kinds: Vec<CaptureKind>,
    exclude: Vec<Glob>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Literal(String),
    Capture(Capture),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Capture {
    pub(super) kind: CaptureKind,
    /// Its place among the captures of the pattern.
    index: usize,
    /// First character of the literal that follows.
    pub(super) stop: Option<char>,
}

/// Why a text is no key pattern, with the way out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("an empty pattern matches no key worth mapping")]
    Empty,
    #[error("literals of {0} bytes; mapped keys have at most {MAX_KEY_BYTES}")]
    TooLong(usize),
    #[error("'{{' at byte {0} is never closed; a literal brace is written '{{{{'")]
    Unclosed(usize),
    #[error("'}}' at byte {0} closes nothing; a literal brace is written '}}}}'")]
    Unopened(usize),
    #[error("capture {{{0}}} has no kind; write {{{0}:text}}, or one of: {kinds}", kinds = CaptureKind::LIST)]
    NoKind(String),
    #[error("capture {{{0}:{1}}}: there is no kind {1:?}; there are: {kinds}", kinds = CaptureKind::LIST)]
    UnknownKind(String, String),
    #[error(
        "capture name {0:?} is not a column name; use letters, digits and '_', not a digit first"
    )]
    BadName(String),
    #[error("two captures are named {0:?}; give each its own name")]
    DuplicateName(String),
    #[error("captures {{{0}}} and {{{1}}} touch each other; put a literal between them")]
    Adjacent(String, String),
    #[error("{{{0}:rest}} takes the key's end, so nothing can follow it; use {{{0}:path}}")]
    RestNotLast(String),
    #[error(
        "{{{0}:path}} and {{{1}:{2}}} after it can share the key's bytes in several ways; \
             after a path only uuid, int, date, month and slug can stand"
    )]
    AfterPath(String, String, CaptureKind),
    #[error(
        "the literal {2:?} beside {{{0}:{1}}} could belong to the capture; \
             put another character between them"
    )]
    Greedy(String, CaptureKind, String),
}

// === impl CaptureKind ===

impl CaptureKind {
    const ALL: [CaptureKind; 8] = {
        use CaptureKind::*;
        [Text, Path, Rest, Uuid, Int, Date, Month, Slug]
    };

    /// All kinds, for messages and documentation.
    pub const LIST: &str = "text, path, rest, uuid, int, date, month, slug";

    /// The word in the pattern.
    pub fn name(self) -> &'static str {
        match self {
            CaptureKind::Text => "text",
            CaptureKind::Path => "path",
            CaptureKind::Rest => "rest",
            CaptureKind::Uuid => "uuid",
            CaptureKind::Int => "int",
            CaptureKind::Date => "date",
            CaptureKind::Month => "month",
            CaptureKind::Slug => "slug",
        }
    }

    /// Whether a captured value may touch `neighbour` without the border between them being in
    /// doubt. `before`: the neighbour stands left of the capture.
    fn ends_at(self, neighbour: char, before: bool) -> bool {
        match self {
            CaptureKind::Int => !(neighbour.is_ascii_digit() || before && neighbour == '-'),
            CaptureKind::Slug => !u8::try_from(neighbour).is_ok_and(is_slug_byte),
            _ => true,
        }
    }
}

impl fmt::Display for CaptureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Capture ===

impl Capture {
    /// How many bytes at the start of `key` the capture takes; `None` when it cannot match there.
    fn take_first(&self, key: &[u8]) -> Option<usize> {
        let run = |accepts: fn(u8) -> bool, from: usize| {
            let length = key[from..].iter().position(|&byte| !accepts(byte));
            from + length.unwrap_or(key.len() - from)
        };
        let length = match self.kind {
            CaptureKind::Text => self.stop.map_or(Some(key.len()), |stop| find(key, stop))?,
            CaptureKind::Path | CaptureKind::Rest => key.len(),
            CaptureKind::Uuid => UUID_BYTES,
            CaptureKind::Date => DATE_BYTES,
            CaptureKind::Month => MONTH_BYTES,
            CaptureKind::Int => {
                run(|byte| byte.is_ascii_digit(), usize::from(key.starts_with(b"-")))
            }
            CaptureKind::Slug => run(is_slug_byte, 0),
        };
        self.accepts(key.get(..length)?).then_some(length)
    }

    /// How many bytes at the end of `key` the capture takes.
    fn take_last(&self, key: &[u8]) -> Option<usize> {
        let run = |accepts: fn(u8) -> bool| {
            key.iter().rev().position(|&byte| !accepts(byte)).unwrap_or(key.len())
        };
        let length = match self.kind {
            CaptureKind::Text | CaptureKind::Path | CaptureKind::Rest => key.len(),
            CaptureKind::Uuid => UUID_BYTES,
            CaptureKind::Date => DATE_BYTES,
            CaptureKind::Month => MONTH_BYTES,
            CaptureKind::Int => {
                let digits = run(|byte| byte.is_ascii_digit());
                digits + usize::from(key[..key.len() - digits].ends_with(b"-"))
            }
            CaptureKind::Slug => run(is_slug_byte),
        };
        self.accepts(&key[key.len().checked_sub(length)?..]).then_some(length)
    }

    fn accepts(&self, value: &[u8]) -> bool {
        match self.kind {
            CaptureKind::Text | CaptureKind::Path | CaptureKind::Rest => is_storable(value),
            CaptureKind::Uuid => is_uuid(value),
            CaptureKind::Date => is_date(value),
            CaptureKind::Month => is_month(value),
            CaptureKind::Int => is_int(value),
            CaptureKind::Slug => !value.is_empty(),
        }
    }
}

// === impl KeyPattern ===

impl KeyPattern {
    /// Parses a pattern; `{{` and `}}` stand for braces.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        let (mut parts, names) = split_parts(text)?;
        if parts.is_empty() {
            return Err(PatternError::Empty);
        }
        let literal_bytes = parts.iter().map(Part::literal).map(str::len).sum::<usize>();
        if literal_bytes > MAX_KEY_BYTES {
            return Err(PatternError::TooLong(literal_bytes));
        }
        for at in 0..parts.len() {
            let stop = parts.get(at + 1).and_then(|next| next.literal().chars().next());
            if let Part::Capture(capture) = &mut parts[at] {
                capture.stop = stop;
            }
        }
        check_borders(&parts, &names)?;
        let takes_the_rest = |part: &Part| {
            matches!(part, Part::Capture(capture)
                if matches!(capture.kind, CaptureKind::Path | CaptureKind::Rest))
        };
        let split = parts.iter().position(takes_the_rest).unwrap_or(parts.len());
        let kinds = parts.iter().filter_map(Part::capture).map(|capture| capture.kind).collect();
        Ok(Self { text: text.to_owned(), parts, split, names, kinds, exclude: Vec::new() })
    }

    /// The same pattern without the keys that one of `globs` matches.
    #[must_use]
    pub fn excluding(mut self, globs: impl IntoIterator<Item = Glob>) -> Self {
        self.exclude.extend(globs);
        self
    }

    /// Whether the key belongs to the pattern. Allocates nothing: asked for each key of each
    /// request.
    pub fn matches(&self, key: &[u8]) -> bool {
        self.walk(key, |_, _| {})
    }

    /// Where the captures stand in the key, in the pattern's order; `None` when it does not match.
    pub fn captures(&self, key: &[u8]) -> Option<Vec<Range<usize>>> {
        let mut captures = vec![0..0; self.kinds.len()];
        self.walk(key, |index, range| captures[index] = range).then_some(captures)
    }

    /// The key with these values in place of the captures, in the pattern's order.
    ///
    /// The inverse of `captures` for values that came from a key. A row that others wrote can
    /// hold values that no key has (a `:` in a `text`): ask `captures` before you trust the key.
    pub fn render(&self, values: &[&str]) -> Vec<u8> {
        debug_assert_eq!(values.len(), self.kinds.len());
        let mut key = Vec::with_capacity(self.text.len() + 32 * values.len());
        for part in &self.parts {
            key.extend_from_slice(match part {
                Part::Literal(literal) => literal.as_bytes(),
                Part::Capture(capture) => values[capture.index].as_bytes(),
            });
        }
        key
    }

    /// What a key consists of, from its beginning to its end.
    pub fn pieces(&self) -> impl Iterator<Item = Piece<'_>> {
        self.parts.iter().map(|part| match part {
            Part::Literal(literal) => Piece::Literal(literal),
            Part::Capture(capture) => Piece::Capture(capture.index),
        })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The captures' names, in the pattern's order.
    pub fn capture_names(&self) -> &[String] {
        &self.names
    }

    /// The captures' kinds, in the pattern's order.
    pub fn capture_kinds(&self) -> &[CaptureKind] {
        &self.kinds
    }

    /// The bytes with which every key of the pattern begins.
    pub fn literal_prefix(&self) -> &str {
        self.parts[0].literal()
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn exclude(&self) -> &[Glob] {
        &self.exclude
    }

    /// Reads the key from the left up to the capture that takes the rest, then from the right.
    fn walk(&self, key: &[u8], mut found: impl FnMut(usize, Range<usize>)) -> bool {
        if key.len() > MAX_KEY_BYTES {
            return false;
        }
        let (mut start, mut end) = (0, key.len());
        for part in &self.parts[..self.split] {
            match part {
                Part::Literal(literal) if key[start..].starts_with(literal.as_bytes()) => {
                    start += literal.len();
                }
                Part::Literal(_) => return false,
                Part::Capture(capture) => {
                    let Some(length) = capture.take_first(&key[start..]) else { return false };
                    found(capture.index, start..start + length);
                    start += length;
                }
            }
        }
        for part in self.parts[self.split..].iter().rev() {
            match part {
                Part::Literal(literal) if key[start..end].ends_with(literal.as_bytes()) => {
                    end -= literal.len();
                }
                Part::Literal(_) => return false,
                Part::Capture(capture) => {
                    let Some(length) = capture.take_last(&key[start..end]) else { return false };
                    found(capture.index, end - length..end);
                    end -= length;
                }
            }
        }
        start == end && !self.exclude.iter().any(|glob| glob.matches(key))
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPattern({:?})", self.text)
    }
}

// === impl Part ===

impl Part {
    /// The literal; empty for a capture.
    pub(super) fn literal(&self) -> &str {
        match self {
            Part::Literal(literal) => literal,
            Part::Capture(_) => "",
        }
    }

    fn capture(&self) -> Option<&Capture> {
        match self {
            Part::Literal(_) => None,
            Part::Capture(capture) => Some(capture),
        }
    }
}

/// Splits a pattern into literals and captures; the names of the captures beside them.
fn split_parts(text: &str) -> Result<(Vec<Part>, Vec<String>), PatternError> {
    let (mut parts, mut names) = (Vec::new(), Vec::<String>::new());
    let mut literal = String::new();
    let mut characters = text.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        let is_brace = matches!(character, '{' | '}');
        if !is_brace || characters.next_if(|&(_, next)| next == character).is_some() {
            literal.push(character);
        } else if character == '}' {
            return Err(PatternError::Unopened(at));
        } else {
            let inside = &text[at + 1..];
            let Some(length) = inside.find(['{', '}']).filter(|&l| inside[l..].starts_with('}'))
            else {
                return Err(PatternError::Unclosed(at));
            };
            let (name, kind) = parse_capture(&inside[..length])?;
            if names.iter().any(|known| known == name) {
                return Err(PatternError::DuplicateName(name.to_owned()));
            }
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Capture(Capture { kind, index: names.len(), stop: None }));
            names.push(name.to_owned());
            while characters.next_if(|&(next, _)| next <= at + 1 + length).is_some() {}
        }
    }
    if !literal.is_empty() {
        parts.push(Part::Literal(literal));
    }
    Ok((parts, names))
}

fn parse_capture(inside: &str) -> Result<(&str, CaptureKind), PatternError> {
    let Some((name, word)) = inside.split_once(':') else {
        return Err(PatternError::NoKind(inside.to_owned()));
    };
    let is_name = !name.is_empty()
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !is_name {
        return Err(PatternError::BadName(name.to_owned()));
    }
    match CaptureKind::ALL.into_iter().find(|kind| kind.name() == word) {
        Some(kind) => Ok((name, kind)),
        None => Err(PatternError::UnknownKind(name.to_owned(), word.to_owned())),
    }
}

/// Refuses what could be read in more than one way.
fn check_borders(parts: &[Part], names: &[String]) -> Result<(), PatternError> {
    let mut path: Option<&str> = None;
    for (at, part) in parts.iter().enumerate() {
        let Part::Capture(Capture { kind, index, stop }) = *part else { continue };
        let name = names[index].clone();
        if let Some(Part::Capture(next)) = parts.get(at + 1) {
            return Err(PatternError::Adjacent(name, names[next.index].clone()));
        }
        if kind == CaptureKind::Rest && at + 1 < parts.len() {
            return Err(PatternError::RestNotLast(name));
        }
        if let Some(stop) = stop.filter(|&stop| !kind.ends_at(stop, false)) {
            return Err(PatternError::Greedy(name, kind, stop.to_string()));
        }
        let takes_any = matches!(kind, CaptureKind::Text | CaptureKind::Path | CaptureKind::Rest);
        match path {
            Some(path) if takes_any => {
                return Err(PatternError::AfterPath(path.to_owned(), name, kind));
            }
            Some(_) => {
                // Two captures never touch, so a literal stands before this one.
                let before = parts[at - 1].literal().chars().next_back();
                if let Some(before) = before.filter(|&before| !kind.ends_at(before, true)) {
                    return Err(PatternError::Greedy(name, kind, before.to_string()));
                }
            }
            None if kind == CaptureKind::Path => path = Some(&names[index]),
            None => {}
        }
    }
    Ok(())
}

const UUID_BYTES: usize = 36;
const DATE_BYTES: usize = 10;
const MONTH_BYTES: usize = 7;

fn find(key: &[u8], stop: char) -> Option<usize> {
    match u8::try_from(stop) {
        Ok(byte) if stop.is_ascii() => memchr::memchr(byte, key),
        _ => memchr::memmem::find(key, stop.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

pub(super) fn is_slug_byte(byte: u8) -> bool {
    matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-')
}

/// Not empty, and something that a Postgres text can hold.
fn is_storable(value: &[u8]) -> bool {
    !value.is_empty() && memchr::memchr(0, value).is_none() && std::str::from_utf8(value).is_ok()
}

fn is_uuid(value: &[u8]) -> bool {
    value.len() == UUID_BYTES
        && value.iter().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => *byte == b'-',
            _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
        })
}

fn is_int(value: &[u8]) -> bool {
    let digits = value.strip_prefix(b"-").unwrap_or(value);
    let canonical = match digits {
        [] => false,
        [b'0', ..] => value.len() == 1,
        _ => true,
    };
    canonical && std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok())
}

/// The number that `value`'s digits make; `None` when there is anything else among them.
fn digits(value: &[u8]) -> Option<u32> {
    value.iter().try_fold(0, |number, byte| {
        byte.is_ascii_digit().then(|| number * 10 + u32::from(byte - b'0'))
    })
}

fn is_month(value: &[u8]) -> bool {
    value.len() == MONTH_BYTES
        && value[4] == b'-'
        && digits(&value[..4]).is_some_and(|year| year > 0)
        && digits(&value[5..]).is_some_and(|month| (1..=12).contains(&month))
}

fn is_date(value: &[u8]) -> bool {
    if value.len() != DATE_BYTES || value[7] != b'-' || !is_month(&value[..MONTH_BYTES]) {
        return false;
    }
    let number = |range: Range<usize>| digits(&value[range]);
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else {
        return false;
    };
    (1..=days_in_month(month, is_leap(year))).contains(&day)
}

pub(super) fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

pub(super) fn days_in_month(month: u32, leap: bool) -> u32 {
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "79b2d64f-620b-4cd6-bb38-05a1af7e68a1";

    /// Asserts that the pattern reads the key as these values, and gives it back.
    fn check(pattern: &str, key: &str, expected: Option<&[&str]>) {
        let pattern = KeyPattern::parse(pattern).unwrap();
        let key = key.replace("ID", ID);
        let captures = pattern.captures(key.as_bytes());
        let values = captures
            .map(|captures| captures.into_iter().map(|range| &key[range]).collect::<Vec<_>>());
        let expected =
            expected.map(|values| values.iter().map(|v| v.replace("ID", ID)).collect::<Vec<_>>());
        assert_eq!(
            values.as_ref().map(|values| values.iter().map(|v| v.to_string()).collect()),
            expected,
            "{pattern:?} on {key:?}"
        );
        assert_eq!(pattern.matches(key.as_bytes()), values.is_some());
        if let Some(values) = values {
            assert_eq!(pattern.render(&values), key.as_bytes());
        }
    }

    #[test]
    fn keys_are_read_as_the_pattern_says() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, Option<&[&str]>)] = &[
            ("apikey:{id:uuid}", "apikey:ID", Some(&["ID"])),
            ("apikey:{id:uuid}", "apikey:hash_map", None),
            ("apikey:{id:uuid}", "apikey:79B2D64F-620b-4cd6-bb38-05a1af7e68a1", None),
            ("apikey:{id:uuid}", "apikey:ID:", None),
            ("apikey:{id:uuid}", "xapikey:ID", None),
            ("usage:global:total", "usage:global:total", Some(&[])),
            ("usage:global:total", "usage:global:total2", None),
            ("u:{a:text}:{b:text}", "u:1:2", Some(&["1", "2"])),
            ("u:{a:text}:{b:text}", "u:1:2:3", Some(&["1", "2:3"])),
            ("u:{a:text}:{b:text}", "u::2", None),
            ("u:{a:text}:{b:text}", "u:1:", None),
            ("u:{a:text}::{b:text}", "u:1:2::3", None),
            ("u:{a:text}", "u:é", Some(&["é"])),
            ("u:{a:text}é{b:text}", "u:èéê", Some(&["è", "ê"])),
            ("u:{a:text}", "u:a\0", None),
            ("m:{model:path}:{day:date}", "m:a:b:c:2026-11-20", Some(&["a:b:c", "2026-11-20"])),
            ("m:{model:path}:{day:date}", "m:2026-11-20:2026-11-20", Some(&["2026-11-20", "2026-11-20"])),
            ("m:{model:path}:{day:date}", "m:2026-11-20", None),
            ("m:{model:path}:{day:date}", "m::2026-11-20", None),
            ("m:{model:path}:x:{n:int}", "m:q:x:-5", Some(&["q", "-5"])),
            ("m:{model:path}:x:{n:int}", "m:q:x:x:5", Some(&["q:x", "5"])),
            ("m:{model:path}:x", "m:x", None),
            ("m:{model:path}:{h:slug}", "m:a:B:07", Some(&["a:B", "07"])),
            ("usage:{id:uuid}:model:daily:{model:path}:{day:date}", "usage:ID:model:daily:us.c:v1:0:2026-11-20", Some(&["ID", "us.c:v1:0", "2026-11-20"])),
            ("r:{a:rest}", "r:a:b:", Some(&["a:b:"])),
            ("r:{a:rest}", "r:", None),
            ("n:{n:int}", "n:0", Some(&["0"])),
            ("n:{n:int}", "n:-0", None),
            ("n:{n:int}", "n:07", None),
            ("n:{n:int}", "n:+7", None),
            ("n:{n:int}", "n:9223372036854775807", Some(&["9223372036854775807"])),
            ("n:{n:int}", "n:9223372036854775808", None),
            ("n:{n:int}", "n:-9223372036854775808", Some(&["-9223372036854775808"])),
            ("n:{n:int}-{m:int}", "n:-1--2", Some(&["-1", "-2"])),
            ("d:{d:date}", "d:2024-02-29", Some(&["2024-02-29"])),
            ("d:{d:date}", "d:2023-02-29", None),
            ("d:{d:date}", "d:1900-02-29", None),
            ("d:{d:date}", "d:2000-02-29", Some(&["2000-02-29"])),
            ("d:{d:date}", "d:0000-01-01", None),
            ("d:{d:date}", "d:2026-13-01", None),
            ("d:{d:date}", "d:2026-04-31", None),
            ("d:{d:date}", "d:2026-4-3", None),
            ("d:{m:month}", "d:2026-12", Some(&["2026-12"])),
            ("d:{m:month}", "d:2026-00", None),
            ("d:{m:month}", "d:2026-12-01", None),
            ("s:{s:slug}!", "s:a_b-9!", Some(&["a_b-9"])),
            ("s:{s:slug}!", "s:A!", None),
            ("s:{s:slug}!", "s:!", None),
            ("set{{t}}:{n:int}", "set{t}:1", Some(&["1"])),
            ("{{{n:int}}}", "{1}", Some(&["1"])),
        ];
        for (pattern, key, expected) in cases {
            check(pattern, key, *expected);
        }
    }

    #[test]
    fn text_that_postgres_cannot_hold_is_not_captured() {
        let pattern = KeyPattern::parse("k:{a:text}").unwrap();
        assert!(!pattern.matches(b"k:\xff"));
        assert!(!pattern.matches(b"k:a\0b"));
        assert!(pattern.matches(&[b"k:".as_slice(), &[b'x'; MAX_KEY_BYTES - 2]].concat()));
        assert!(!pattern.matches(&[b"k:".as_slice(), &[b'x'; MAX_KEY_BYTES - 1]].concat()));
    }

    #[test]
    fn excluded_keys_do_not_match() {
        let pattern = KeyPattern::parse("usage:model:daily:{model:text}:{day:date}")
            .unwrap()
            .excluding([Glob::new(b"usage:*:index:*")]);
        assert!(pattern.matches(b"usage:model:daily:m:2026-11-20"));
        assert!(!pattern.matches(b"usage:model:daily:index:2026-11-20"));
        assert_eq!(pattern.captures(b"usage:model:daily:index:2026-11-20"), None);
    }

    #[test]
    fn what_is_wrong_with_a_pattern_is_said_with_the_way_out() {
        #[rustfmt::skip]
        let cases: &[(&str, &str)] = &[
            ("", "an empty pattern matches no key worth mapping"),
            ("a{b", "'{' at byte 1 is never closed; a literal brace is written '{{'"),
            ("a{b{c}}", "'{' at byte 1 is never closed; a literal brace is written '{{'"),
            ("a}b", "'}' at byte 1 closes nothing; a literal brace is written '}}'"),
            ("a:{id}", "capture {id} has no kind; write {id:text}, or one of: text, path, rest, uuid, int, date, month, slug"),
            ("a:{id:guid}", "capture {id:guid}: there is no kind \"guid\"; there are: text, path, rest, uuid, int, date, month, slug"),
            ("a:{1d:text}", "capture name \"1d\" is not a column name; use letters, digits and '_', not a digit first"),
            ("a:{a:int}:{a:int}", "two captures are named \"a\"; give each its own name"),
            ("a:{a:int}{b:text}", "captures {a} and {b} touch each other; put a literal between them"),
            ("a:{a:rest}:b", "{a:rest} takes the key's end, so nothing can follow it; use {a:path}"),
            ("{a:path}:{b:text}", "{a:path} and {b:text} after it can share the key's bytes in several ways; after a path only uuid, int, date, month and slug can stand"),
            ("{a:path}:{b:path}", "{a:path} and {b:path} after it can share the key's bytes in several ways; after a path only uuid, int, date, month and slug can stand"),
            ("{a:int}0", "the literal \"0\" beside {a:int} could belong to the capture; put another character between them"),
            ("{a:slug}-b", "the literal \"-\" beside {a:slug} could belong to the capture; put another character between them"),
            ("{p:path}-{a:int}", "the literal \"-\" beside {a:int} could belong to the capture; put another character between them"),
        ];
        for (pattern, expected) in cases {
            assert_eq!(KeyPattern::parse(pattern).unwrap_err().to_string(), *expected, "{pattern}");
        }
        assert_eq!(
            KeyPattern::parse(&"x".repeat(2001)).unwrap_err().to_string(),
            "literals of 2001 bytes; mapped keys have at most 2000"
        );
    }

    proptest! {
        #[test]
        fn rendering_the_captures_gives_the_key(
            pattern in super::super::overlap::tests::pattern(),
            key in super::super::overlap::tests::key(),
        ) {
            if let Some(captures) = pattern.captures(key.as_bytes()) {
                let values: Vec<&str> = captures.into_iter().map(|range| &key[range]).collect();
                prop_assert_eq!(pattern.render(&values), key.as_bytes());
            }
        }

        #[test]
        fn any_bytes_are_matched_without_a_panic(
            pattern in super::super::overlap::tests::pattern(),
            key in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            prop_assert_eq!(pattern.matches(&key), pattern.captures(&key).is_some());
        }
    }
}
