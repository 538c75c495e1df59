//! What a piece of a key looks like: a word of the app, or a value such as an id or a day.
//!
//! Keys are cut at one separator each; what lies between is a segment. A segment that is a value stands
//! for all values of its form, so that a million keys need one place in the tree.
//!
//! Absent on purpose: dictionaries. A word is what looks like nothing else.

use std::sync::LazyLock;

use crate::mapping::KeyPattern;
use crate::mapping::pattern::CaptureKind;

/// The form of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Form {
    Uuid,
    Date,
    Month,
    /// Digits, perhaps with a minus; an integer, or an hour such as `07`.
    Digits,
    /// Letters and digits without a meaning for people: a token, a digest, an id of another sort.
    Opaque,
    /// Anything at all; never of one segment, but of many that differ.
    Text,
}

/// One step from a key's beginning to its end: the segment, or what it stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Step {
    Literal(String),
    Value(Form),
    /// A value between literals: `user_17`, `day-2026-11-20.log`.
    Within(String, Form, String),
}

/// Of keys with more, the last segment holds the rest.
const MAX_SEGMENTS: usize = 24;

/// Where keys are cut; `None`: a key of one segment.
pub(super) type Separator = Option<char>;

// === impl Step ===

impl Step {
    pub(super) fn of(segment: &str) -> Self {
        let cut = |start: usize, end: usize, form| {
            Self::Within(segment[..start].to_owned(), form, segment[end..].to_owned())
        };
        match (Form::of(segment), within(segment)) {
            (Some(form), _) if form != Form::Opaque => Self::Value(form),
            // `cart_` and a uuid look opaque too.
            (_, Some((start, end, form))) if form != Form::Digits => cut(start, end, form),
            (Some(form), _) => Self::Value(form),
            (None, Some((start, end, form))) => cut(start, end, form),
            (None, None) => Self::Literal(segment.to_owned()),
        }
    }

    /// Whether others like it may turn out to be values of one place.
    pub(super) fn is_loose(&self) -> bool {
        match self {
            Self::Literal(_) => true,
            Self::Within(_, form, _) => *form == Form::Digits,
            Self::Value(_) => false,
        }
    }

    /// The value in a segment that this step stands for.
    pub(super) fn value_in<'a>(&self, segment: &'a str) -> &'a str {
        match self {
            Self::Literal(_) | Self::Value(_) => segment,
            Self::Within(before, _, after) => {
                segment.get(before.len()..segment.len() - after.len()).unwrap_or(segment)
            }
        }
    }
}

// === impl Form ===

impl Form {
    fn of(segment: &str) -> Option<Self> {
        let digits = segment.strip_prefix('-').unwrap_or(segment);
        if is(CaptureKind::Uuid, segment) {
            Some(Self::Uuid)
        } else if is(CaptureKind::Date, segment) {
            Some(Self::Date)
        } else if is(CaptureKind::Month, segment) {
            Some(Self::Month)
        } else if !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
            Some(Self::Digits)
        } else if is_opaque(segment) {
            Some(Self::Opaque)
        } else {
            None
        }
    }
}

/// Whether a capture of this kind takes all of the text and nothing beyond it.
pub(super) fn is(kind: CaptureKind, text: &str) -> bool {
    static PATTERNS: LazyLock<Vec<(CaptureKind, KeyPattern)>> = LazyLock::new(|| {
        use CaptureKind::{Date, Int, Month, Slug, Uuid};
        let pattern = |kind: CaptureKind| {
            KeyPattern::parse(&format!("{{v:{kind}}}")).expect("one capture is a pattern")
        };
        [Uuid, Int, Date, Month, Slug].map(|kind| (kind, pattern(kind))).into()
    });
    let known = PATTERNS.iter().find(|(known, _)| *known == kind);
    known.is_none_or(|(_, pattern)| pattern.matches(text.as_bytes()))
}

/// Cuts a key: at colons, else at slashes, else at dots where there is more than one.
pub(super) fn cut(key: &str) -> (Separator, Vec<&str>) {
    let dots = || key.matches('.').count() > 1 && !is_address(key);
    let separator = if key.contains(':') {
        ':'
    } else if key.contains('/') {
        '/'
    } else if dots() {
        '.'
    } else {
        return (None, vec![key]);
    };
    (Some(separator), key.splitn(MAX_SEGMENTS, separator).collect())
}

/// Whether a segment that nothing else is known of is a value rather than a word, for all one can see.
pub(super) fn is_surely_value(segment: &str) -> bool {
    let runs = digit_runs(segment).len();
    let has = |accepts: fn(char) -> bool| segment.contains(accepts);
    has(|c| c == '@' || c.is_whitespace())
        || is_address(segment)
        || runs >= 2 && segment.len() >= 8 && has(|c| "-_.".contains(c))
}

/// Whether a segment may well be a value: beside another one like it, it is taken for one.
pub(super) fn may_be_value(segment: &str) -> bool {
    let odd = |c: char| c.is_ascii_digit() || !c.is_ascii() || " @%+,.".contains(c);
    segment.contains(odd)
}

fn is_address(segment: &str) -> bool {
    segment.parse::<std::net::IpAddr>().is_ok()
}

/// Letters and digits in an order that no word has.
fn is_opaque(segment: &str) -> bool {
    let bytes = segment.as_bytes();
    if !(10..=512).contains(&bytes.len()) {
        return false;
    }
    if !bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_=+".contains(byte)) {
        return false;
    }
    let has = |accepts: fn(&u8) -> bool| bytes.iter().any(accepts);
    let is_hexadecimal = bytes.len() >= 16
        && bytes.iter().all(u8::is_ascii_hexdigit)
        && has(u8::is_ascii_digit)
        && has(u8::is_ascii_alphabetic);
    let changes = bytes.windows(2).filter(|pair| {
        pair.iter().all(u8::is_ascii_alphanumeric)
            && pair[0].is_ascii_digit() != pair[1].is_ascii_digit()
    });
    is_hexadecimal || changes.count() >= 3
}

/// Where in a segment its one value lies, set off by something that is neither letter nor digit.
fn within(segment: &str) -> Option<(usize, usize, Form)> {
    let is_border = |c: Option<char>| c.is_none_or(|c| c.is_ascii() && !c.is_ascii_alphanumeric());
    let is_set_off = |start: usize, end: usize| {
        is_border(segment[..start].chars().next_back()) && is_border(segment[end..].chars().next())
    };
    let forms = [
        (Form::Uuid, CaptureKind::Uuid, 36),
        (Form::Date, CaptureKind::Date, 10),
        (Form::Month, CaptureKind::Month, 7),
    ];
    for (form, kind, length) in forms {
        for start in 0..(segment.len() + 1).saturating_sub(length) {
            let Some(text) = segment.get(start..start + length) else { continue };
            if is(kind, text) && is_set_off(start, start + length) {
                let rest = [&segment[..start], &segment[start + length..]];
                // A second number makes it something else, such as a moment.
                let is_plain = rest.iter().all(|rest| digit_runs(rest).is_empty());
                return is_plain.then_some((start, start + length, form));
            }
        }
    }
    let [(start, end)] = digit_runs(segment)[..] else { return None };
    is_set_off(start, end).then_some((start, end, Form::Digits))
}

fn digit_runs(segment: &str) -> Vec<(usize, usize)> {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for (at, _) in segment.bytes().enumerate().filter(|(_, byte)| byte.is_ascii_digit()) {
        match runs.last_mut() {
            Some((_, end)) if *end == at => *end = at + 1,
            _ => runs.push((at, at + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_words_values_or_values_within_words() {
        let within = |before: &str, form, after: &str| {
            Step::Within(before.to_owned(), form, after.to_owned())
        };
        let word = |text: &str| Step::Literal(text.to_owned());
        #[rustfmt::skip]
        let cases = [
            ("6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab", Step::Value(Form::Uuid)),
            ("2026-11-20", Step::Value(Form::Date)),
            ("2026-11", Step::Value(Form::Month)),
            ("17", Step::Value(Form::Digits)),
            ("-5", Step::Value(Form::Digits)),
            ("07", Step::Value(Form::Digits)),
            ("04cea47943d3a3bb5ae7bf85ffabc35c", Step::Value(Form::Opaque)),
            ("lw2lb3ree3", Step::Value(Form::Opaque)),
            ("user_17", within("user_", Form::Digits, "")),
            ("1}", within("", Form::Digits, "}")),
            ("log-2026-11-20.gz", within("log-", Form::Date, ".gz")),
            ("cart_6f1c0d3e-5b7a-4c2d-9e8f-0123456789ab", within("cart_", Form::Uuid, "")),
            ("daily", word("daily")),
            ("", word("")),
            ("usage_index_v2", word("usage_index_v2")),
            ("30days", word("30days")),
            ("claude-sonnet-4-20250514", word("claude-sonnet-4-20250514")),
            ("2026-11-16T00", word("2026-11-16T00")),
            ("größe_1é", word("größe_1é")),
        ];
        for (segment, expected) in cases {
            assert_eq!(Step::of(segment), expected, "{segment}");
        }
    }

    #[test]
    fn a_key_is_cut_at_one_separator() {
        assert_eq!(cut("a:b/c:d"), (Some(':'), vec!["a", "b/c", "d"]));
        assert_eq!(cut("a/b.c"), (Some('/'), vec!["a", "b.c"]));
        assert_eq!(cut("a.b.c"), (Some('.'), vec!["a", "b", "c"]));
        assert_eq!(cut("10.0.0.1"), (None, vec!["10.0.0.1"]));
        assert_eq!(cut("example.com"), (None, vec!["example.com"]));
    }

    #[test]
    fn a_value_is_told_from_a_word() {
        for value in ["claude-sonnet-4-20250514", "a@b.c", "team a", "127.0.0.1"] {
            assert!(is_surely_value(value), "{value}");
        }
        for word in ["daily", "index", "v2", "usage_index_v2", "hash_map"] {
            assert!(!is_surely_value(word), "{word}");
        }
    }
}
