//! Values spelled as words or as hexadecimal digits: booleans, UUIDs, bytea.

use bytes::Bytes;

/// A boolean as Postgres reads it: any unambiguous beginning of true, false, yes, no, on, off, or
/// 1 or 0, in any case, spaces around it allowed (`parse_bool`).
pub(super) fn boolean(text: &str) -> Option<bool> {
    let word = trim(text);
    let begins = |of: &str, least: usize| {
        word.len() >= least
            && of.len() >= word.len()
            && of.as_bytes()[..word.len()].eq_ignore_ascii_case(word.as_bytes())
    };
    if begins("true", 1) || begins("yes", 1) || begins("on", 2) || word == "1" {
        Some(true)
    } else if begins("false", 1) || begins("no", 1) || begins("off", 2) || word == "0" {
        Some(false)
    } else {
        None
    }
}

/// A UUID as Postgres reads it (32 hexadecimal digits, a hyphen allowed after every fourth, braces
/// allowed around them), in the form that it writes.
pub(super) fn uuid(text: &str) -> Option<String> {
    let digits = match text.strip_prefix('{') {
        Some(rest) => rest.strip_suffix('}')?,
        None => text,
    };
    let mut canonical = String::with_capacity(36);
    let mut count = 0;
    let mut hyphen_allowed = false;
    for byte in digits.bytes() {
        if byte == b'-' && hyphen_allowed {
            hyphen_allowed = false;
            continue;
        }
        if !byte.is_ascii_hexdigit() || count == 32 {
            return None;
        }
        if matches!(count, 8 | 12 | 16 | 20) {
            canonical.push('-');
        }
        canonical.push(char::from(byte.to_ascii_lowercase()));
        count += 1;
        hyphen_allowed = count % 4 == 0 && count < 32;
    }
    (count == 32).then_some(canonical)
}

/// The text for a type of at most so many characters: blanks beyond them are cut off, anything else
/// there is too much.
pub(super) fn at_most(text: &str, max_characters: Option<usize>) -> Option<&str> {
    let Some(max) = max_characters.filter(|max| text.len() > *max) else { return Some(text) };
    let end = text.char_indices().nth(max).map_or(text.len(), |(end, _)| end);
    text[end..].bytes().all(|byte| byte == b' ').then_some(&text[..end])
}

/// The bytes of a bytea as SQL users may write it: hexadecimal digits after `\x`, else text with
/// `\\` and `\101` for a backslash and for odd bytes.
pub(super) fn bytes_of_input(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("\\x") {
        return hex_pairs(digits.bytes());
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        rest = match rest {
            [] => return Some(bytes),
            [b'\\', b'\\', rest @ ..] => {
                bytes.push(b'\\');
                rest
            }
            [b'\\', a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', rest @ ..] => {
                bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest
            }
            [b'\\', ..] => return None,
            [byte, rest @ ..] => {
                bytes.push(*byte);
                rest
            }
        };
    }
}

/// Bytes as Postgres writes a bytea: `\x6869`.
pub(super) fn hex_of(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(2 + 2 * bytes.len());
    text.push_str("\\x");
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// The bytes of a bytea's text; text that is none stands for itself.
pub(super) fn bytes_of_hex(text: &str) -> Bytes {
    let decoded = text.strip_prefix("\\x").and_then(|digits| hex_pairs(digits.bytes()));
    decoded.map_or_else(|| Bytes::copy_from_slice(text.as_bytes()), Bytes::from)
}

/// Two digits a byte, with spaces between bytes.
fn hex_pairs(mut digits: impl Iterator<Item = u8>) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = Vec::with_capacity(digits.size_hint().0 / 2);
    while let Some(high) = digits.next() {
        if !matches!(high, b' ' | b'\n' | b'\t' | b'\r') {
            bytes.push(digit(high)? << 4 | digit(digits.next()?)?);
        }
    }
    Some(bytes)
}

/// Without the space that Postgres' input functions skip.
pub(super) fn trim(text: &str) -> &str {
    trim_end(trim_start(text))
}

pub(super) fn trim_start(text: &str) -> &str {
    text.trim_start_matches(|character| u8::try_from(character).is_ok_and(is_space))
}

pub(super) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(|character| u8::try_from(character).is_ok_and(is_space))
}

/// C's `isspace`.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_read_as_postgres_reads_them() {
        for word in ["t", "TRUE", " tru ", "y", "Yes", "on", "1"] {
            assert_eq!(boolean(word), Some(true), "{word}");
        }
        for word in ["f", "False", "n", "no", "of", "off", "0\n"] {
            assert_eq!(boolean(word), Some(false), "{word}");
        }
        for word in ["", "o", "truex", "2", "01", "ja", "1.0"] {
            assert_eq!(boolean(word), None, "{word}");
        }
    }

    #[test]
    fn uuids_take_their_canonical_form() {
        let canonical = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for text in [
            canonical,
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ] {
            assert_eq!(uuid(text).as_deref(), Some(canonical), "{text}");
        }
        for text in [
            "",
            "a0eebc99",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a-0eebc999c0b4ef8bb6d6bb9bd380a11",
            "a0eebc999c0b4ef8bb6d6bb9bd380a11-",
        ] {
            assert_eq!(uuid(text), None, "{text}");
        }
    }

    #[test]
    fn bytea_goes_there_and_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(bytes_of_hex(&hex_of(&all)), all);
        assert_eq!(hex_of(b"hi"), "\\x6869");
    }
}
