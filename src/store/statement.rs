//! A statement with its arguments, in the two forms in which it goes to the server.
//!
//! Bound: the arguments as bytes, a message of its own. Called: prepared under a name before, it is
//! `execute name('…')` with the arguments as text, and several of those go in one message. Calls
//! save round trips, which cost more than a small statement does; binding saves the quoting, which
//! costs more than a round trip when values are large.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

/// SQL whose parameters all say their types (`$1::text[]`), and a value for each.
#[derive(Debug)]
pub(super) struct Statement<'a> {
    pub(super) sql: String,
    arguments: Vec<Argument<'a>>,
}

/// One value of a statement.
#[derive(Debug)]
pub(super) enum Argument<'a> {
    Text(&'a str),
    /// Perhaps a null.
    MaybeText(Option<Cow<'a, str>>),
    Integer(i64),
    ByteString(&'a [u8]),
    Texts(Vec<Option<Cow<'a, str>>>),
    ByteStrings(Vec<Cow<'a, [u8]>>),
    Integers(Vec<Option<i64>>),
}

// === impl Statement ===

impl<'a> Statement<'a> {
    pub(super) fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), arguments: Vec::new() }
    }

    /// Gives the next parameter its value.
    pub(super) fn bind(mut self, argument: impl Into<Argument<'a>>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// About the bytes of its arguments.
    pub(super) fn size(&self) -> usize {
        self.arguments.iter().map(Argument::size).sum()
    }

    /// Whether it can be called: a text with a NUL cannot be said in SQL. (Bound, it is refused.)
    pub(super) fn is_callable(&self) -> bool {
        self.arguments.iter().all(Argument::is_sayable)
    }

    pub(super) fn bound(&self) -> Query<'_, sqlx::Postgres, PgArguments> {
        let mut query = sqlx::query(AssertSqlSafe(self.sql.as_str().to_owned()));
        for argument in &self.arguments {
            query = match argument {
                Argument::Text(text) => query.bind(*text),
                Argument::MaybeText(text) => query.bind(text.as_deref()),
                Argument::Integer(number) => query.bind(*number),
                Argument::ByteString(bytes) => query.bind(*bytes),
                Argument::Texts(texts) => {
                    query.bind(texts.iter().map(Option::as_deref).collect::<Vec<_>>())
                }
                Argument::ByteStrings(strings) => {
                    query.bind(strings.iter().map(AsRef::as_ref).collect::<Vec<&[u8]>>())
                }
                Argument::Integers(numbers) => query.bind(numbers.as_slice()),
            };
        }
        query
    }

    /// Adds `execute name(…)`.
    pub(super) fn write_call(&self, name: &str, sql: &mut String) {
        sql.push_str("execute ");
        sql.push_str(name);
        for (place, argument) in self.arguments.iter().enumerate() {
            sql.push_str(if place == 0 { "(" } else { ", " });
            if matches!(argument, Argument::MaybeText(None)) {
                sql.push_str("null");
                continue;
            }
            sql.push_str("E'");
            argument.write_quoted(sql);
            sql.push('\'');
        }
        if !self.arguments.is_empty() {
            sql.push(')');
        }
    }
}

// === impl Argument ===

impl Argument<'_> {
    fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::MaybeText(text) => text.as_ref().map_or(0, |text| text.len()),
            Self::Integer(_) => 8,
            Self::ByteString(bytes) => 4 + 2 * bytes.len(),
            Self::Texts(texts) => {
                texts.iter().map(|text| 4 + text.as_ref().map_or(0, |text| text.len())).sum()
            }
            Self::ByteStrings(strings) => strings.iter().map(|bytes| 4 + 2 * bytes.len()).sum(),
            Self::Integers(numbers) => 8 * numbers.len(),
        }
    }

    fn is_sayable(&self) -> bool {
        let has_nul = |text: &str| memchr::memchr(0, text.as_bytes()).is_some();
        match self {
            Self::Text(text) => !has_nul(text),
            Self::MaybeText(text) => !text.as_ref().is_some_and(|text| has_nul(text)),
            Self::Texts(texts) => !texts.iter().flatten().any(|text| has_nul(text)),
            Self::Integer(_) | Self::ByteString(_) | Self::ByteStrings(_) | Self::Integers(_) => {
                true
            }
        }
    }

    /// As it stands between the quotes of `E'…'`: what that means is the same whatever
    /// `standard_conforming_strings` says, so that no text of a client's can end the literal.
    fn write_quoted(&self, sql: &mut String) {
        match self {
            Self::Text(text) => push_text(sql, text),
            Self::MaybeText(text) => push_text(sql, text.as_deref().unwrap_or_default()),
            Self::Integer(number) => push_number(sql, *number),
            Self::ByteString(bytes) => {
                sql.push_str(r"\\x");
                push_hex(sql, bytes);
            }
            Self::Texts(texts) => push_array(sql, texts, |sql, text| match text {
                None => sql.push_str("null"),
                Some(text) => {
                    sql.push('"');
                    // Of the array first, then of the literal.
                    push_escaped(sql, text, |byte| match byte {
                        b'\'' => Some("''"),
                        b'"' => Some(r#"\\""#),
                        b'\\' => Some(r"\\\\"),
                        _ => None,
                    });
                    sql.push('"');
                }
            }),
            Self::ByteStrings(strings) => push_array(sql, strings, |sql, bytes| {
                sql.push_str(r#""\\\\x"#);
                push_hex(sql, bytes);
                sql.push('"');
            }),
            Self::Integers(numbers) => push_array(sql, numbers, |sql, number| match number {
                None => sql.push_str("null"),
                Some(number) => push_number(sql, *number),
            }),
        }
    }
}

fn push_text(sql: &mut String, text: &str) {
    push_escaped(sql, text, |byte| match byte {
        b'\'' => Some("''"),
        b'\\' => Some(r"\\"),
        _ => None,
    });
}

fn push_array<T>(sql: &mut String, elements: &[T], push: impl Fn(&mut String, &T)) {
    sql.push('{');
    for (place, element) in elements.iter().enumerate() {
        if place > 0 {
            sql.push(',');
        }
        push(sql, element);
    }
    sql.push('}');
}

/// `escape`: what stands for a byte that is special.
fn push_escaped(sql: &mut String, text: &str, escape: impl Fn(u8) -> Option<&'static str>) {
    let mut from = 0;
    // Special bytes are ASCII, so they are characters of their own.
    for (at, byte) in text.bytes().enumerate() {
        if let Some(escaped) = escape(byte) {
            sql.push_str(&text[from..at]);
            sql.push_str(escaped);
            from = at + 1;
        }
    }
    sql.push_str(&text[from..]);
}

fn push_number(sql: &mut String, number: i64) {
    write!(sql, "{number}").expect("writing to a string cannot fail");
}

fn push_hex(sql: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for byte in bytes {
        sql.push(char::from(DIGITS[usize::from(byte >> 4)]));
        sql.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
}

// === what an argument can be made of ===

impl<'a> From<&'a str> for Argument<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(text)
    }
}

impl<'a> From<Option<&'a str>> for Argument<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::MaybeText(text.map(Cow::Borrowed))
    }
}

impl<'a> From<Option<Cow<'a, str>>> for Argument<'a> {
    fn from(text: Option<Cow<'a, str>>) -> Self {
        Self::MaybeText(text)
    }
}

impl From<Option<String>> for Argument<'_> {
    fn from(text: Option<String>) -> Self {
        Self::MaybeText(text.map(Cow::Owned))
    }
}

impl From<i64> for Argument<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(number)
    }
}

impl<'a> From<Vec<&'a str>> for Argument<'a> {
    fn from(texts: Vec<&'a str>) -> Self {
        Self::Texts(texts.into_iter().map(|text| Some(Cow::Borrowed(text))).collect())
    }
}

impl<'a> From<Vec<Option<&'a str>>> for Argument<'a> {
    fn from(texts: Vec<Option<&'a str>>) -> Self {
        Self::Texts(texts.into_iter().map(|text| text.map(Cow::Borrowed)).collect())
    }
}

impl<'a> From<Vec<Option<Cow<'a, str>>>> for Argument<'a> {
    fn from(texts: Vec<Option<Cow<'a, str>>>) -> Self {
        Self::Texts(texts)
    }
}

impl From<Vec<Option<String>>> for Argument<'_> {
    fn from(texts: Vec<Option<String>>) -> Self {
        Self::Texts(texts.into_iter().map(|text| text.map(Cow::Owned)).collect())
    }
}

impl<'a> From<&'a [u8]> for Argument<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::ByteString(bytes)
    }
}

impl<'a> From<Vec<&'a [u8]>> for Argument<'a> {
    fn from(strings: Vec<&'a [u8]>) -> Self {
        Self::ByteStrings(strings.into_iter().map(Cow::Borrowed).collect())
    }
}

impl From<Vec<Vec<u8>>> for Argument<'_> {
    fn from(strings: Vec<Vec<u8>>) -> Self {
        Self::ByteStrings(strings.into_iter().map(Cow::Owned).collect())
    }
}

impl From<Vec<i64>> for Argument<'_> {
    fn from(numbers: Vec<i64>) -> Self {
        Self::Integers(numbers.into_iter().map(Some).collect())
    }
}

impl From<Vec<Option<i64>>> for Argument<'_> {
    fn from(numbers: Vec<Option<i64>>) -> Self {
        Self::Integers(numbers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(statement: &Statement<'_>) -> String {
        let mut sql = String::new();
        statement.write_call("p1", &mut sql);
        sql
    }

    #[test]
    fn a_call_quotes_its_arguments() {
        assert_eq!(call(&Statement::new("select 1")), "execute p1");
        let statement = Statement::new("")
            .bind("it's \\ \"so\"")
            .bind(-7)
            .bind(vec![Some(r#"a'b"c\d, {é}"#), None, Some("")])
            .bind(vec![&b"\0'\xff"[..], b""])
            .bind(vec![Some(i64::MIN), None])
            .bind(Vec::<i64>::new())
            .bind(None::<&str>)
            .bind(Some("n'ull"))
            .bind(&b"\0'\xff"[..]);
        let expected = r#"execute p1(E'it''s \\ "so"', E'-7', "#.to_owned()
            + r#"E'{"a''b\\"c\\\\d, {é}",null,""}', "#
            + r#"E'{"\\\\x0027ff","\\\\x"}', E'{-9223372036854775808,null}', E'{}', null, E'n''ull', E'\\x0027ff')"#;
        assert_eq!(call(&statement), expected);
    }

    #[test]
    fn a_text_with_a_nul_cannot_be_called() {
        assert!(Statement::new("").bind("a").bind(vec![&b"\0"[..]]).is_callable());
        assert!(!Statement::new("").bind("a\0").is_callable());
        assert!(!Statement::new("").bind(Some("a\0")).is_callable());
        assert!(!Statement::new("").bind(vec![Some("a"), Some("\0")]).is_callable());
    }
}
