//! Redis' glob patterns: which keys a mapping leaves alone, and which keys a client lists.
//!
//! A glob means what it means to `KEYS` and `SCAN … MATCH` of Redis 7.0 (`stringmatchlen` in
//! util.c): `*`, `?`, `[abc]`, `[^a-z]`, `\x`. Matching goes back to the last `*` only, so its
//! time is bounded by the product of the two lengths whatever the glob is.

/// A compiled glob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glob {
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// `*`; never two in a row.
    Star,
    /// `?`
    Any,
    Byte(u8),
    /// `[…]`; the ends of a range are signed bytes, as in Redis on x86.
    Class {
        negated: bool,
        ranges: Vec<(i8, i8)>,
    },
}

impl Token {
    fn accepts(&self, byte: u8) -> bool {
        match self {
            Token::Star | Token::Any => true,
            Token::Byte(expected) => *expected == byte,
            Token::Class { negated, ranges } => {
                let byte = byte as i8;
                ranges.iter().any(|&(low, high)| low <= byte && byte <= high) != *negated
            }
        }
    }
}

// === impl Glob ===

impl Glob {
    /// Compiles a glob. Every text is one: Redis knows no malformed glob.
    pub fn new(pattern: &[u8]) -> Self {
        let mut tokens = Vec::new();
        let mut rest = pattern;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            match first {
                b'*' if tokens.last() == Some(&Token::Star) => {}
                b'*' => tokens.push(Token::Star),
                b'?' => tokens.push(Token::Any),
                b'[' => tokens.push(class(&mut rest)),
                b'\\' => match rest.split_first() {
                    Some((&escaped, after)) => {
                        tokens.push(Token::Byte(escaped));
                        rest = after;
                    }
                    None => tokens.push(Token::Byte(b'\\')),
                },
                byte => tokens.push(Token::Byte(byte)),
            }
        }
        Self { tokens }
    }

    /// What becomes of texts that begin like this: all match, none does, or `None`: it depends on the rest.
    pub(crate) fn decides(&self, beginning: &[u8]) -> Option<bool> {
        for (at, token) in self.tokens.iter().enumerate() {
            match (token, beginning.get(at)) {
                (Token::Star, _) if at + 1 == self.tokens.len() => return Some(true),
                (Token::Byte(expected), Some(byte)) if expected == byte => {}
                (Token::Byte(_), Some(_)) => return Some(false),
                _ => return None,
            }
        }
        None
    }

    /// Whether it names no byte that is not ASCII.
    pub(crate) fn is_ascii(&self) -> bool {
        self.tokens.iter().all(|token| match token {
            Token::Star | Token::Any => true,
            Token::Byte(byte) => byte.is_ascii(),
            Token::Class { ranges, .. } => ranges.iter().all(|&(low, high)| low >= 0 && high >= 0),
        })
    }

    /// Whether the whole of `text` matches. As in Redis, an empty text is matched by the empty
    /// glob alone, not even by `*`.
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.is_empty() {
            return self.tokens.is_empty();
        }
        let (mut at, mut token) = (0, 0);
        // Where to go on when the tokens after the last star fail: the star, and the text's place.
        let mut retry: Option<(usize, usize)> = None;
        while at < text.len() {
            match self.tokens.get(token) {
                Some(Token::Star) => {
                    retry = Some((token, at));
                    token += 1;
                }
                Some(other) if other.accepts(text[at]) => {
                    at += 1;
                    token += 1;
                }
                _ => {
                    let Some((star, from)) = retry else { return false };
                    retry = Some((star, from + 1));
                    at = from + 1;
                    token = star + 1;
                }
            }
        }
        self.tokens[token..].iter().all(|token| *token == Token::Star)
    }
}

/// A glob read byte by byte: the places in it that the bytes so far can have led to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Walk {
    places: Vec<usize>,
    started: bool,
}

impl Walk {
    pub(crate) fn new(glob: &Glob) -> Self {
        let mut walk = Self { places: vec![0], started: false };
        walk.settle(glob);
        walk
    }

    pub(crate) fn step(&self, glob: &Glob, byte: u8) -> Self {
        let mut places = Vec::with_capacity(self.places.len() + 1);
        for &place in &self.places {
            match glob.tokens.get(place) {
                Some(Token::Star) => places.push(place),
                Some(token) if token.accepts(byte) => places.push(place + 1),
                _ => {}
            }
        }
        let mut walk = Self { places, started: true };
        walk.settle(glob);
        walk
    }

    /// Whether no text that begins like this matches.
    pub(crate) fn is_lost(&self) -> bool {
        self.places.is_empty()
    }

    pub(crate) fn accepts(&self, glob: &Glob) -> bool {
        self.places.contains(&glob.tokens.len()) && (self.started || glob.tokens.is_empty())
    }

    /// A star may stand for nothing; and once it is reached, what lies before it is of no more
    /// use, since the star can swallow whatever the places before it could still consume.
    fn settle(&mut self, glob: &Glob) {
        for index in 0..self.places.len() {
            if glob.tokens.get(self.places[index]) == Some(&Token::Star) {
                self.places.push(self.places[index] + 1);
            }
        }
        let last_star = |place: &usize| glob.tokens.get(*place) == Some(&Token::Star);
        if let Some(star) = self.places.iter().copied().filter(last_star).max() {
            self.places.retain(|&place| place >= star);
        }
        self.places.sort_unstable();
        self.places.dedup();
    }
}

/// Reads a class, `rest` standing behind its `[`. A class that is never closed ends with the glob.
fn class(rest: &mut &[u8]) -> Token {
    let negated = rest.first() == Some(&b'^');
    if negated {
        *rest = &rest[1..];
    }
    let mut ranges = Vec::new();
    loop {
        match **rest {
            [] => break,
            [b'\\', byte, ..] => {
                ranges.push((byte as i8, byte as i8));
                *rest = &rest[2..];
            }
            [b']', ..] => {
                *rest = &rest[1..];
                break;
            }
            [start, b'-', end, ..] => {
                let (start, end) = (start as i8, end as i8);
                ranges.push((start.min(end), start.max(end)));
                *rest = &rest[3..];
            }
            [byte, ..] => {
                ranges.push((byte as i8, byte as i8));
                *rest = &rest[1..];
            }
        }
    }
    Token::Class { negated, ranges }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn globs_mean_what_they_mean_to_redis() {
        #[rustfmt::skip]
        let cases: &[(&str, &str, bool)] = &[
            // glob           text             matches
            ("*",             "a",             true),
            ("*",             "",              false),
            ("",              "",              true),
            ("",              "a",             false),
            ("a*",            "a",             true),
            ("a**",           "a",             true),
            ("a*?",           "a",             false),
            ("a*?",           "ab",            true),
            ("usage:*:index:*", "usage:model:daily:index:2026-11-20", true),
            ("usage:*:index:*", "usage:index:2026-11-20", false),
            ("*ab",           "aab",           true),
            ("*a*b",          "xaxbx",         false),
            ("h[ae]llo",      "hallo",         true),
            ("h[ae]llo",      "hillo",         false),
            ("h[^e]llo",      "hello",         false),
            ("h[^e]llo",      "hallo",         true),
            ("h[a-c]",        "hb",            true),
            ("h[c-a]",        "hb",            true),
            ("h[a-]x]",       "h^",            true),
            (r"h[\]]",        "h]",            true),
            (r"h[\a-z]",      "h-",            true),
            (r"h[\a-z]",      "hb",            false),
            ("h[abc",         "hc",            true),
            ("h[",            "h[",            false),
            ("h[^",           "hx",            true),
            (r"h\*",          "h*",            true),
            (r"h\*",          "hx",            false),
            (r"h\",           r"h\",           true),
        ];
        for &(glob, text, expected) in cases {
            assert_eq!(
                Glob::new(glob.as_bytes()).matches(text.as_bytes()),
                expected,
                "{glob} {text}"
            );
        }
    }

    #[test]
    fn many_stars_do_not_blow_up() {
        let glob = Glob::new("a*".repeat(200).as_bytes());
        assert!(!glob.matches("a".repeat(199).as_bytes()));
        let glob = Glob::new(format!("{}b", "*a".repeat(100)).as_bytes());
        assert!(!glob.matches("a".repeat(5000).as_bytes()));
    }

    proptest! {
        #[test]
        fn walking_byte_by_byte_comes_to_the_same_answer(
            glob in "[ab*?]{0,8}|[ab*\\[\\]^-]{0,8}",
            text in "[ab-]{0,8}",
        ) {
            let glob = Glob::new(glob.as_bytes());
            let walk = text.bytes().fold(Walk::new(&glob), |walk, byte| walk.step(&glob, byte));
            prop_assert_eq!(walk.accepts(&glob), glob.matches(text.as_bytes()));
        }
    }
}
