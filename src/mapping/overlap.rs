//! Two patterns that can match the same key: which of them has it, or an example of a key that
//! neither has a better claim to.
//!
//! Both patterns are read as automata, one character at a time, and walked together with the
//! globs of what they exclude (the product construction, breadth first, so that the example is
//! a shortest one). States that can be continued in the same ways are told apart no further: of
//! a year only matters whether it is a leap year, of an integer how long it is and on which side
//! of the largest one it lies. All characters that no pattern names are alike, so a few of them
//! stand for all.
//!
//! Absent on purpose: an answer for keys at the length limit, and for globs with classes of bytes
//! that are not ASCII. At worst a conflict goes untold there; which pattern has the key is
//! settled by the registry's order all the same.

use std::cmp::Ordering;
use std::collections::HashSet;

use super::pattern::{CaptureKind, KeyPattern, Part, days_in_month, is_leap, is_slug_byte};
use crate::value::glob::{Glob, Walk};

/// Places looked at before the search is given up. Real patterns need some hundreds.
const MAX_PLACES: usize = 200_000;

/// Places looked at for a client's glob, which must not cost more than it spares.
const MAX_PLACES_OF_GLOB: usize = 500;

/// Which of two patterns has the keys that both match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// The first: where the patterns first differ it has a literal, the other a capture.
    First,
    /// The second, likewise.
    Second,
    /// No key matches both.
    Disjoint,
    /// Neither: both match this key.
    Conflict(String),
}

/// Settles who has the keys that `first` and `second` both match.
pub fn claim(first: &KeyPattern, second: &KeyPattern) -> Claim {
    match precedence(first, second) {
        Precedence::Literal(Ordering::Less) => Claim::First,
        Precedence::Literal(_) => Claim::Second,
        Precedence::Order(_) => overlap(first, second).map_or(Claim::Disjoint, Claim::Conflict),
    }
}

/// A total order of patterns in which a literal comes before a capture: of the patterns that match
/// a key, the least one has it.
pub fn order(first: &KeyPattern, second: &KeyPattern) -> Ordering {
    match precedence(first, second) {
        Precedence::Literal(ordering) | Precedence::Order(ordering) => ordering,
    }
}

/// Whether the first has the better claim to keys that both match, and there may be such keys: in
/// doubt there are.
pub(super) fn may_take_from(first: &KeyPattern, second: &KeyPattern) -> bool {
    may_meet(first, second) && order(first, second).is_lt()
}

/// Whether some key can begin as both patterns do.
pub(super) fn may_meet(first: &KeyPattern, second: &KeyPattern) -> bool {
    let (one, other) = (first.literal_prefix(), second.literal_prefix());
    one.starts_with(other) || other.starts_with(one)
}

/// A shortest key that both patterns match.
pub fn overlap(first: &KeyPattern, second: &KeyPattern) -> Option<String> {
    if !may_meet(first, second) {
        return None;
    }
    let alphabet = alphabet(first, second);
    let globs: Vec<_> = first.exclude().iter().chain(second.exclude()).collect();
    let start = Place {
        first: State::START,
        second: State::START,
        globs: globs.iter().map(|glob| Walk::new(glob)).collect(),
    };
    let mut seen = HashSet::from([start.clone()]);
    // Places in the order in which they were found, with the one before and the character between.
    let mut queue = vec![(start, 0, '\0')];
    let mut at = 0;
    while at < queue.len() && queue.len() < MAX_PLACES {
        let place = queue[at].0.clone();
        if place.first.accepts(first)
            && place.second.accepts(second)
            && !place.globs.iter().zip(&globs).any(|(walk, glob)| walk.accepts(glob))
        {
            return Some(key_to(&queue, at));
        }
        for &character in &alphabet {
            let seconds = place.second.step(second, character);
            if seconds == [None, None] {
                continue;
            }
            for next in place.first.step(first, character).into_iter().flatten() {
                for other in seconds.into_iter().flatten() {
                    let step = |walk: &Walk, glob| {
                        let mut buffer = [0; 4];
                        let bytes = character.encode_utf8(&mut buffer).bytes();
                        bytes.fold(walk.clone(), |walk, byte| walk.step(glob, byte))
                    };
                    let walks = place.globs.iter().zip(&globs).map(|(walk, glob)| step(walk, glob));
                    let next = Place { first: next, second: other, globs: walks.collect() };
                    if seen.insert(next.clone()) {
                        queue.push((next, at, character));
                    }
                }
            }
        }
        at += 1;
    }
    None
}

/// Whether a key of the pattern may match a glob that a client has sent. Keys that the pattern
/// excludes count as its own; in doubt the answer is yes.
pub fn may_match(pattern: &KeyPattern, glob: &Glob) -> bool {
    // Most globs begin with letters and end with a star.
    if let Some(decided) = glob.decides(pattern.literal_prefix().as_bytes()) {
        return decided;
    }
    if !glob.is_ascii() {
        // The alphabet has few of the characters that are not.
        return true;
    }
    let alphabet = alphabet(pattern, pattern);
    let start = (State::START, Walk::new(glob));
    let mut seen = HashSet::from([start.clone()]);
    let mut queue = vec![start];
    let mut at = 0;
    while let Some((state, walk)) = queue.get(at).cloned() {
        if queue.len() > MAX_PLACES_OF_GLOB || state.accepts(pattern) && walk.accepts(glob) {
            return true;
        }
        for &character in &alphabet {
            let mut buffer = [0; 4];
            let bytes = character.encode_utf8(&mut buffer).bytes();
            let walk = bytes.fold(walk.clone(), |walk, byte| walk.step(glob, byte));
            if walk.is_lost() {
                continue;
            }
            for state in state.step(pattern, character).into_iter().flatten() {
                let next = (state, walk.clone());
                if seen.insert(next.clone()) {
                    queue.push(next);
                }
            }
        }
        at += 1;
    }
    false
}

enum Precedence {
    /// Where they first differ one has a literal: `Less` when it is the first.
    Literal(Ordering),
    /// Neither has the better claim; some order all the same.
    Order(Ordering),
}

/// Compares the patterns at the first place where they differ.
fn precedence(first: &KeyPattern, second: &KeyPattern) -> Precedence {
    let (mut left, mut right) = (tokens(first), tokens(second));
    loop {
        return match (left.next(), right.next()) {
            (Some(one), Some(other)) if one == other => continue,
            (Some(Token::Literal(_)), Some(Token::Capture(_))) => {
                Precedence::Literal(Ordering::Less)
            }
            (Some(Token::Capture(_)), Some(Token::Literal(_))) => {
                Precedence::Literal(Ordering::Greater)
            }
            (one, other) => Precedence::Order(one.cmp(&other).reverse()),
        };
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    Literal(u8),
    Capture(CaptureKind),
}

fn tokens(pattern: &KeyPattern) -> impl Iterator<Item = Token> {
    pattern.parts().iter().flat_map(|part| {
        let capture = match part {
            Part::Literal(_) => None,
            Part::Capture(capture) => Some(Token::Capture(capture.kind)),
        };
        part.literal().bytes().map(Token::Literal).chain(capture)
    })
}

/// Characters that together can lead wherever any character can: all of ASCII (a glob's class can
/// tell any of them from any other), those of the literals, and some of two to four bytes.
fn alphabet(first: &KeyPattern, second: &KeyPattern) -> Vec<char> {
    let literals = [first, second].into_iter().flat_map(KeyPattern::parts).map(Part::literal);
    let mut alphabet: Vec<char> = "x".chars().chain('a'..='z').chain('0'..='9').collect();
    let others = ('\x01'..='\x7f').chain(literals.flat_map(str::chars));
    for character in others.chain(['é', 'ß', 'न', '键', '🦀', '🐘']) {
        if !alphabet[1..].contains(&character) {
            alphabet.push(character);
        }
    }
    alphabet
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    first: State,
    second: State,
    globs: Vec<Walk>,
}

fn key_to(queue: &[(Place, usize, char)], mut at: usize) -> String {
    let mut characters = Vec::new();
    while at != 0 {
        characters.push(queue[at].2);
        at = queue[at].1;
    }
    characters.into_iter().rev().collect()
}

/// Where in a pattern the reading of a key stands: at a part that has been read in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct State {
    part: usize,
    progress: Progress,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Progress {
    /// So many characters of a literal or a uuid; of what has no length, none or some.
    At(usize),
    /// So many characters of a date or month, and what matters of them.
    Calendar { at: usize, value: u32 },
    /// So many digits; how they compare with as many digits of the largest integer.
    Digits { negative: bool, count: usize, against_largest: Ordering },
    /// A zero: no digit can follow.
    Zero,
}

// === impl State ===

impl State {
    const START: State = State { part: 0, progress: Progress::At(0) };

    fn after(part: usize) -> State {
        State { part: part + 1, progress: Progress::At(0) }
    }

    /// Whether the key may end here.
    fn accepts(self, pattern: &KeyPattern) -> bool {
        let parts = pattern.parts();
        self.part == parts.len()
            || self.part + 1 == parts.len() && self.may_leave(&parts[self.part])
    }

    /// The states that the next character can lead to: one within the part, or, from a part that has
    /// no length of its own, one in the part that follows.
    fn step(self, pattern: &KeyPattern, character: char) -> [Option<State>; 2] {
        let Some(part) = pattern.parts().get(self.part) else { return [None, None] };
        let within = self.within(part, character);
        let left = self.may_leave(part).then(|| State::after(self.part));
        let left = left.and_then(|next| {
            let part = pattern.parts().get(next.part)?;
            next.within(part, character)
        });
        [within, left]
    }

    /// Whether a part without a length of its own may end here.
    fn may_leave(self, part: &Part) -> bool {
        let Part::Capture(capture) = part else { return false };
        match (capture.kind, self.progress) {
            (CaptureKind::Int, Progress::Zero) => true,
            (CaptureKind::Int, Progress::Digits { count, against_largest, .. }) => {
                count > 0 && (count < 19 || against_largest != Ordering::Greater)
            }
            (CaptureKind::Uuid | CaptureKind::Date | CaptureKind::Month, _) => false,
            (_, progress) => progress == Progress::At(1),
        }
    }

    fn within(self, part: &Part, character: char) -> Option<State> {
        let stay = |progress| Some(State { part: self.part, progress });
        let advance = |at: usize, length: usize| {
            if at + 1 == length {
                Some(State::after(self.part))
            } else {
                stay(Progress::At(at + 1))
            }
        };
        let capture = match (part, self.progress) {
            (Part::Literal(literal), Progress::At(at)) => {
                let mut rest = literal.chars().skip(at);
                let matches = rest.next() == Some(character);
                let next = if rest.next().is_none() {
                    Some(State::after(self.part))
                } else {
                    stay(Progress::At(at + 1))
                };
                return next.filter(|_| matches);
            }
            (Part::Literal(_), _) => return None,
            (Part::Capture(capture), _) => capture,
        };
        match (capture.kind, self.progress) {
            (CaptureKind::Text, _) if capture.stop == Some(character) => None,
            (CaptureKind::Text | CaptureKind::Path | CaptureKind::Rest, _) => {
                stay(Progress::At(1)).filter(|_| character != '\0')
            }
            (CaptureKind::Slug, _) => {
                let is_slug = u8::try_from(character).is_ok_and(is_slug_byte);
                stay(Progress::At(1)).filter(|_| is_slug)
            }
            (CaptureKind::Uuid, Progress::At(at)) => {
                let fits = match at {
                    8 | 13 | 18 | 23 => character == '-',
                    _ => matches!(character, '0'..='9' | 'a'..='f'),
                };
                advance(at, 36).filter(|_| fits)
            }
            (CaptureKind::Int, progress) => stay(next_digit(progress, character)?),
            (kind @ (CaptureKind::Date | CaptureKind::Month), progress) => {
                let (at, value) = match progress {
                    Progress::Calendar { at, value } => (at, value),
                    _ => (0, 0),
                };
                let value = next_of_date(at, value, character)?;
                let length = if kind == CaptureKind::Date { 10 } else { 7 };
                if at + 1 == length {
                    Some(State::after(self.part))
                } else {
                    stay(Progress::Calendar { at: at + 1, value })
                }
            }
            _ => None,
        }
    }
}

/// Reads one more character of a canonical 64-bit integer.
fn next_digit(progress: Progress, character: char) -> Option<Progress> {
    let (negative, count, against_largest) = match progress {
        Progress::At(_) => (false, 0, Ordering::Equal),
        Progress::Digits { negative, count, against_largest } => (negative, count, against_largest),
        _ => return None,
    };
    if character == '-' && progress == Progress::At(0) {
        return Some(Progress::Digits { negative: true, count: 0, against_largest });
    }
    if !character.is_ascii_digit() {
        return None;
    }
    if character == '0' && count == 0 {
        return (!negative).then_some(Progress::Zero);
    }
    let largest = if negative { "9223372036854775808" } else { "9223372036854775807" };
    let digit = largest.chars().nth(count)?;
    let against_largest = against_largest.then(character.cmp(&digit));
    Some(Progress::Digits { negative, count: count + 1, against_largest })
}

/// Reads the character at place `at` of a date. `value` stands for all dates so far that can go
/// on in the same ways.
fn next_of_date(at: usize, value: u32, character: char) -> Option<u32> {
    if matches!(at, 4 | 7) {
        return (character == '-').then_some(value);
    }
    let digit = character.to_digit(10)?;
    // A digit of which matters only whether it is zero and whether it is odd.
    let parity = match digit {
        0 => 0,
        odd if odd % 2 == 1 => 1,
        _ => 2,
    };
    match at {
        0 => Some(parity),
        1 => Some(match value * 10 + digit {
            0 => 0,
            century if century % 4 == 0 => 4,
            _ => 1,
        }),
        2 => Some(value * 10 + parity),
        3 => {
            let year = value * 10 + digit;
            (year > 0).then_some(u32::from(is_leap(year)))
        }
        5 => (digit <= 1).then_some(value * 10 + digit),
        6 => {
            let (leap, month) = (value / 10 == 1, value % 10 * 10 + digit);
            (1..=12).contains(&month).then(|| days_in_month(month, leap))
        }
        8 => (digit <= 3).then_some(value * 10 + digit),
        _ => {
            let (days, day) = (value / 10, value % 10 * 10 + digit);
            (1..=days).contains(&day).then_some(0)
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::value::glob::Glob;

    /// Patterns over few characters, so that many of them overlap.
    pub(in super::super) fn pattern() -> impl Strategy<Value = KeyPattern> {
        let kind = prop::sample::select(vec![
            "text", "text", "path", "rest", "int", "date", "month", "slug", "uuid",
        ]);
        let literal = prop::sample::select(vec!["", "a", ":", "::", "-", "1", "a:", ":a:", "é"]);
        let piece = (prop::option::of(kind), literal);
        (prop::collection::vec(piece, 1..4), prop::option::of("[a:*?]{0,4}")).prop_filter_map(
            "not a pattern",
            |(pieces, exclude)| {
                let mut text = String::new();
                for (index, (kind, literal)) in pieces.iter().enumerate() {
                    if let Some(kind) = kind {
                        text.push_str(&format!("{{c{index}:{kind}}}"));
                    }
                    text.push_str(literal);
                }
                let globs = exclude.into_iter().map(|glob| Glob::new(glob.as_bytes()));
                Some(KeyPattern::parse(&text).ok()?.excluding(globs))
            },
        )
    }

    /// Keys that such patterns are likely to match.
    pub(in super::super) fn key() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "a",
            "b",
            ":",
            "::",
            "-",
            "0",
            "1",
            "-1",
            "9223372036854775807",
            "9223372036854775808",
            "2024-02-29",
            "2023-02-29",
            "1900-02-29",
            "2026-11-20",
            "2026-11",
            "2026-13",
            "0000-01",
            "79b2d64f-620b-4cd6-bb38-05a1af7e68a1",
            "é",
            "ê",
            "A",
        ]);
        prop::collection::vec(piece, 1..6).prop_map(|pieces| pieces.concat())
    }

    /// Whether the automaton takes the key, every way followed.
    fn automaton_matches(pattern: &KeyPattern, key: &str) -> bool {
        let mut states = HashSet::from([State::START]);
        for character in key.chars() {
            states =
                states.iter().flat_map(|state| state.step(pattern, character)).flatten().collect();
        }
        states.iter().any(|state| state.accepts(pattern))
            && !pattern.exclude().iter().any(|glob| glob.matches(key.as_bytes()))
    }

    #[test]
    fn a_glob_that_no_key_can_match_is_known() {
        let check = |pattern: &str, glob: &str, expected| {
            let pattern = KeyPattern::parse(pattern).unwrap();
            let glob = Glob::new(glob.as_bytes());
            assert_eq!(may_match(&pattern, &glob), expected, "{pattern:?} {glob:?}");
        };
        check("apikey:{id:uuid}", "*", true);
        check("apikey:{id:uuid}", "apikey:*", true);
        check("apikey:{id:uuid}", "apikey:6f1c*", true);
        check("apikey:{id:uuid}", "apikey:6x1c*", false);
        check("apikey:{id:uuid}", "apikey:index", false);
        check("apikey:{id:uuid}", "usage:*", false);
        check("apikey:{id:uuid}", "*key*-*", true);
        check("apikey:{id:uuid}", "*:index", false);
        check("usage:{id:int}:{day:date}", "usage:*:2026-*", true);
        check("usage:{id:int}:{day:date}", "usage:*:2026-13-*", false);
        check("usage:{id:int}", "usage:[a-f]*", false);
        check("name:{n:text}", "name:ü", true);
        check("name:{n:text}", "name:[^a]", true);
        check("name:{n:text}", "", false);
        check("name:{n:text}", "nam", false);
        check("name:{n:text}", "name:", false);
        check("name:{n:text}", "na*", true);
        check("name:{n:text}", "name:a*", true);
        check("{n:text}", "a*", true);
        check("{n:text}", "*", true);
        // More ways than are looked at: in doubt, yes.
        check("n:{n:text}", "*a*b*c*d*e*f*g*h*i*j*k*l*m*n*o*p*q*r*s*t*u*v*w*x*y*z*?", true);
    }

    proptest! {
        #[test]
        fn a_glob_that_matches_a_key_of_the_pattern_may_match(
            key in "[a-c]{0,3}:[a-cé]{1,4}", glob in "[a-c:*?é]{0,6}|([a-c:]|\\[[\\^]?a-b\\]|[*]){0,6}"
        ) {
            let pattern = KeyPattern::parse("{one:text}:{two:text}").unwrap();
            let glob = Glob::new(glob.as_bytes());
            if pattern.matches(key.as_bytes()) && glob.matches(key.as_bytes()) {
                prop_assert!(may_match(&pattern, &glob));
            }
        }
    }

    fn claim_of(first: &str, second: &str) -> Claim {
        let [first, second] = [first, second].map(|text| {
            let (text, exclude) = text.split_once(" without ").unwrap_or((text, ""));
            let globs = exclude.split_whitespace().map(|glob| Glob::new(glob.as_bytes()));
            KeyPattern::parse(text).unwrap().excluding(globs)
        });
        let claim = claim(&first, &second);
        if let Claim::Conflict(key) = &claim {
            assert!(first.matches(key.as_bytes()), "{first:?} does not match {key}");
            assert!(second.matches(key.as_bytes()), "{second:?} does not match {key}");
        }
        claim
    }

    /// Asserts who has the keys that both patterns match, whichever of them comes first. Of a
    /// conflict's examples any shortest one will do.
    fn check(first: &str, second: &str, expected: &Claim) {
        let swapped = match claim_of(second, first) {
            Claim::First => Claim::Second,
            Claim::Second => Claim::First,
            other => other,
        };
        for found in [claim_of(first, second), swapped] {
            match (&found, expected) {
                (Claim::Conflict(key), Claim::Conflict(example)) => {
                    assert_eq!(key.len(), example.len(), "{first} and {second}: {key}");
                }
                _ => assert_eq!(found, *expected, "{first} and {second}"),
            }
        }
    }

    #[test]
    fn a_literal_beats_a_capture_and_other_overlaps_are_conflicts() {
        use Claim::*;
        let conflict = |key: &str| Conflict(key.to_owned());
        let id = "aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa";
        #[rustfmt::skip]
        let cases: &[(&str, &str, Claim)] = &[
            ("apikey:hash_map", "apikey:{id:uuid}", First),
            ("usage:global:total", "usage:{id:text}", First),
            ("usage:{id:uuid}", "usage:{kind:slug}:{day:date}", Disjoint),
            ("usage:{id:text}", "usage:{id:text}", conflict("usage:x")),
            ("usage:{id:text}", "usage:{day:date}", conflict("usage:1001-10-10")),
            ("usage:{id:uuid}", "usage:{day:date}", Disjoint),
            ("usage:{id:uuid}", "usage:{day:month}", Disjoint),
            ("usage:{n:int}", "usage:{day:date}", Disjoint),
            ("usage:{n:int}", "usage:{s:slug}", conflict("usage:0")),
            ("u:{d:date}", "u:{m:month}", Disjoint),
            ("u:{a:uuid}", "u:{s:slug}", conflict(&format!("u:{id}"))),
            ("u:{a:text}", "u:{a:text}:x", conflict("u:x:x")),
            ("u:{a:text} without u:*:*", "u:{a:text}:x", Disjoint),
            ("u:{a:text}:{b:slug}", "u:{a:text}:x", Second),
            ("u:{p:path}:b", "u:{p:path}:c", Disjoint),
            ("u:{p:path}:{d:date}", "u:{p:path}:{m:month}", Disjoint),
            ("u:{p:path}:b:c", "u:{p:path}:c", conflict("u:x:b:c")),
            ("u:{a:text}:b{r:rest}", "u:{a:text};c{r:rest}", conflict("u:x;c:bx")),
            ("usage:model:daily:{m:path}:{d:date}", "usage:{u:uuid}:model:daily:{m:path}:{d:date}", First),
            ("a", "b", Disjoint),
            ("a", "a", conflict("a")),
            ("a:{t:text} without ?:?", "a:{s:path} without a:*a", conflict("a:bb")),
        ];
        for (first, second, expected) in cases {
            check(first, second, expected);
        }
    }

    #[test]
    fn every_day_and_no_other_is_read_as_a_date() {
        let pattern = KeyPattern::parse("{d:date}").unwrap();
        for year in ["0000", "0001", "0004", "0100", "0400", "1900", "2000", "2023", "2024", "9999"]
        {
            for month in 0..=13 {
                for day in 0..=32 {
                    let key = format!("{year}-{month:02}-{day:02}");
                    let matches = pattern.matches(key.as_bytes());
                    assert_eq!(automaton_matches(&pattern, &key), matches, "{key}");
                }
            }
        }
        let month = KeyPattern::parse("{m:month}").unwrap();
        for year in 0..10_000 {
            let key = format!("{year:04}-02-29");
            assert_eq!(automaton_matches(&pattern, &key), pattern.matches(key.as_bytes()), "{key}");
            assert_eq!(automaton_matches(&month, &key[..7]), year > 0, "{key}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn automaton_and_matcher_take_the_same_keys(pattern in pattern(), key in key()) {
            prop_assert_eq!(
                automaton_matches(&pattern, &key),
                pattern.matches(key.as_bytes()),
                "{:?} on {:?}", pattern, key
            );
        }

        #[test]
        fn an_example_is_matched_by_both(first in pattern(), second in pattern()) {
            if let Some(key) = overlap(&first, &second) {
                prop_assert!(first.matches(key.as_bytes()), "{:?} on {:?}", first, key);
                prop_assert!(second.matches(key.as_bytes()), "{:?} on {:?}", second, key);
            }
        }

        #[test]
        fn a_key_that_both_match_is_an_overlap(
            first in pattern(),
            second in pattern(),
            keys in prop::collection::vec(key(), 20),
        ) {
            let both = keys.iter().find(|key| {
                first.matches(key.as_bytes()) && second.matches(key.as_bytes())
            });
            if let Some(key) = both {
                let example = overlap(&first, &second);
                prop_assert!(example.is_some(), "{:?} and {:?}: {:?}", first, second, key);
            }
        }

        #[test]
        fn the_order_is_one(
            patterns in prop::collection::vec(pattern(), 3),
        ) {
            let [a, b, c] = &patterns[..] else { unreachable!() };
            prop_assert_eq!(order(a, b), order(b, a).reverse());
            if order(a, b).is_le() && order(b, c).is_le() {
                prop_assert!(order(a, c).is_le());
            }
        }
    }
}
