//! Requests typed by hand: the arguments of an inline request, and their multibulk form.
//!
//! The quoting rules are those of `sdssplitargs` in Redis 7.0.15's `sds.c`.

use bytes::{BufMut, Bytes, BytesMut};

use super::reply::write_count;
use super::request::ProtocolError;

/// Splits an inline request (with or without its line end) into its arguments.
///
/// # Errors
/// [`ProtocolError::UnbalancedQuotes`]: a quote is not closed, or what follows the closing quote
/// is not a space.
pub fn split(line: &[u8]) -> Result<Vec<Bytes>, ProtocolError> {
    let mut rest = line.strip_suffix(b"\n").unwrap_or(line);
    rest = rest.strip_suffix(b"\r").unwrap_or(rest);
    let mut arguments = Vec::new();
    loop {
        rest = skip_spaces(rest);
        if rest.is_empty() {
            return Ok(arguments);
        }
        let mut argument = Vec::new();
        rest = take_argument(rest, &mut argument)?;
        arguments.push(Bytes::from(argument));
    }
}

/// Appends a request in multibulk form.
pub fn encode_request<Argument: AsRef<[u8]>>(arguments: &[Argument], out: &mut BytesMut) {
    write_count(out, b'*', arguments.len());
    for argument in arguments {
        let argument = argument.as_ref();
        write_count(out, b'$', argument.len());
        out.put_slice(argument);
        out.put_slice(b"\r\n");
    }
}

/// C's `isspace` in the locale that Redis runs in.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

fn skip_spaces(line: &[u8]) -> &[u8] {
    let spaces = line.iter().take_while(|&&byte| is_space(byte)).count();
    &line[spaces..]
}

/// Takes one argument off the line. Quotes may open in the middle of an argument, but end it.
fn take_argument<'line>(
    mut line: &'line [u8],
    argument: &mut Vec<u8>,
) -> Result<&'line [u8], ProtocolError> {
    loop {
        match line {
            // Not every space that separates arguments ends one: vertical tab and form feed are
            // part of it.
            [] | [b' ' | b'\n' | b'\r' | b'\t', ..] => return Ok(line),
            [b'"', rest @ ..] => return take_double_quoted(rest, argument),
            [b'\'', rest @ ..] => return take_single_quoted(rest, argument),
            [byte, rest @ ..] => {
                argument.push(*byte);
                line = rest;
            }
        }
    }
}

fn take_double_quoted<'line>(
    mut line: &'line [u8],
    argument: &mut Vec<u8>,
) -> Result<&'line [u8], ProtocolError> {
    loop {
        line = match line {
            [b'\\', b'x', high, low, rest @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                argument.push(hex_digit(*high) << 4 | hex_digit(*low));
                rest
            }
            [b'\\', escaped, rest @ ..] => {
                argument.push(match escaped {
                    b'n' => b'\n',
                    b'r' => b'\r',
                    b't' => b'\t',
                    b'b' => 0x08,
                    b'a' => 0x07,
                    other => *other,
                });
                rest
            }
            [b'"', rest @ ..] => return after_quote(rest),
            [byte, rest @ ..] => {
                argument.push(*byte);
                rest
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

fn take_single_quoted<'line>(
    mut line: &'line [u8],
    argument: &mut Vec<u8>,
) -> Result<&'line [u8], ProtocolError> {
    loop {
        line = match line {
            [b'\\', b'\'', rest @ ..] => {
                argument.push(b'\'');
                rest
            }
            [b'\'', rest @ ..] => return after_quote(rest),
            [byte, rest @ ..] => {
                argument.push(*byte);
                rest
            }
            [] => return Err(ProtocolError::UnbalancedQuotes),
        };
    }
}

/// A closing quote is followed by a space or by nothing.
fn after_quote(rest: &[u8]) -> Result<&[u8], ProtocolError> {
    match rest.first() {
        Some(&byte) if !is_space(byte) => Err(ProtocolError::UnbalancedQuotes),
        _ => Ok(rest),
    }
}

/// The value of a byte that is known to be a hexadecimal digit.
fn hex_digit(byte: u8) -> u8 {
    match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        _ => byte.to_ascii_uppercase() - b'A' + 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &[u8], expected: &[&[u8]]) {
        assert_eq!(split(line).expect("balanced quotes"), expected, "{}", line.escape_ascii());
    }

    #[test]
    fn plain_words_are_split_at_any_blanks() {
        check(b"PING\r\n", &[b"PING"]);
        check(b"PING\n", &[b"PING"]);
        check(b"  set\ta  b \x0b\x0c \r\n", &[b"set", b"a", b"b"]);
        check(b"get a\rb\r\n", &[b"get", b"a", b"b"]);
        check(b"get a\x0bb\n", &[b"get", b"a\x0bb"]);
        check(b"get \xff\xa0\n", &[b"get", b"\xff\xa0"]);
    }

    #[test]
    fn double_quotes_know_escapes() {
        check(br#"set k "a b" "" "#, &[b"set", b"k", b"a b", b""]);
        check(br#""\x41\xfF\n\r\t\b\a\\\"\q""#, &[b"A\xff\n\r\t\x08\x07\\\"q"]);
        check(br#""\x4" "\xg1""#, &[b"x4", b"xg1"]);
        check(br#"a"b c" d"#, &[b"ab c", b"d"]);
    }

    #[test]
    fn single_quotes_know_one_escape() {
        check(br"set 'a \' b' '\n'", &[b"set", b"a ' b", br"\n"]);
    }

    #[test]
    fn unbalanced_quotes_are_refused() {
        for line in [
            &b"set \"a"[..],
            b"set 'a",
            b"set \"a\"b",
            b"set 'a'b",
            b"set \"a\\",
            b"set \"a\\\"",
            b"set \"a\"'b'",
            b"\"",
        ] {
            assert_eq!(
                split(line),
                Err(ProtocolError::UnbalancedQuotes),
                "{}",
                line.escape_ascii()
            );
        }
    }

    #[test]
    fn a_request_is_encoded_as_an_array_of_bulks() {
        let mut out = BytesMut::new();
        encode_request(&[&b"SET"[..], b"", &[b'x'; 12]], &mut out);
        assert_eq!(out, &b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$12\r\nxxxxxxxxxxxx\r\n"[..]);
    }
}
