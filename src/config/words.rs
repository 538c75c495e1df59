//! What the words of a configuration file may be: names, identifiers, and those of a fixed list.
//!
//! Every function's error says what is wrong and the way out.

use super::spelling::advice;
use super::{Flush, Kind, LogFormat, OnExpire, OnPostgresDown, RedisLoss, Split, Strategy};

/// Longest identifier of Postgres, in bytes (NAMEDATALEN - 1).
const MAX_IDENTIFIER_BYTES: usize = 63;

/// Formats of timestamps; a format with a `/` is one of booleans.
const TIME_FORMATS: [&str; 5] = ["iso8601-ms", "iso8601", "epoch-s", "epoch-ms", "postgres"];

/// A word of a fixed list.
fn word<T: Copy>(text: &str, what: &str, words: &[(&str, T)]) -> Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        format!("there is no {what} {text:?}; {}", advice(text, &known))
    })
}

/// What a header can carry.
pub(super) fn token(text: &str) -> Result<(), String> {
    not_empty(text)?;
    if text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Ok(());
    }
    Err("a header cannot carry it; take ASCII letters, digits and signs, without spaces".to_owned())
}

pub(super) fn strategy(text: &str) -> Result<Strategy, String> {
    let words = Strategy::ALL.map(|strategy| (strategy.name(), strategy));
    word(text, "strategy", &words)
}

pub(super) fn kind(text: &str) -> Result<Kind, String> {
    let words = [Kind::Hash, Kind::HashEntries, Kind::Set].map(|kind| (kind.name(), kind));
    word(text, "kind", &words)
}

pub(super) fn on_postgres_down(text: &str) -> Result<OnPostgresDown, String> {
    let words = [
        ("redis_only", OnPostgresDown::RedisOnly),
        ("cached_only", OnPostgresDown::CachedOnly),
        ("reject", OnPostgresDown::Reject),
    ];
    word(text, "word", &words)
}

pub(super) fn split(text: &str) -> Result<Split, String> {
    word(text, "word", &[("refuse", Split::Refuse), ("available", Split::Available)])
}

pub(super) fn redis_loss(text: &str) -> Result<RedisLoss, String> {
    word(text, "word", &[("eventual", RedisLoss::Eventual), ("strict", RedisLoss::Strict)])
}

pub(super) fn flush(text: &str) -> Result<Flush, String> {
    let words = [("refuse", Flush::Refuse), ("cache", Flush::Cache), ("truncate", Flush::Truncate)];
    word(text, "word", &words)
}

pub(super) fn on_expire(text: &str) -> Result<OnExpire, String> {
    word(text, "word", &[("delete", OnExpire::Delete), ("keep", OnExpire::Keep)])
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    word(text, "format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])
}

pub(super) fn log_level(text: &str) -> Result<(), String> {
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let is_name = !text.contains(['=', ',', ':', '[']);
    if is_name && !levels.contains(&text.to_ascii_lowercase().as_str()) {
        return Err(format!("there is no level {text:?}; {}", advice(text, &levels)));
    }
    let filter = tracing_subscriber::EnvFilter::builder().parse(text);
    filter.map(drop).map_err(|error| {
        format!("{text:?} is not a filter ({error}); write \"info\", or \"info,respgres=debug\"")
    })
}

pub(super) fn not_empty(text: &str) -> Result<(), String> {
    if text.is_empty() { Err("is empty; say something, or remove it".to_owned()) } else { Ok(()) }
}

pub(super) fn user_name(text: &str) -> Result<(), String> {
    // As ACL SETUSER, Redis' own check of a user's name.
    if text.is_empty() || text.contains(|c: char| c.is_whitespace() || c == '\0') {
        return Err(format!("{text:?} is not a user's name; use one without spaces"));
    }
    Ok(())
}

pub(super) fn mapping_name(text: &str) -> Result<(), String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    if text.is_empty() || text.len() > MAX_IDENTIFIER_BYTES || !text.bytes().all(fits) {
        return Err(format!(
            "{text:?} is not a mapping's name; use letters, digits, '_', '-' and '.', at most \
             {MAX_IDENTIFIER_BYTES}"
        ));
    }
    Ok(())
}

pub(super) fn column(text: &str) -> Result<(), String> {
    identifier(text, "column")
}

pub(super) fn table(text: &str) -> Result<(), String> {
    let Some((schema, table)) = text.split_once('.') else { return identifier(text, "table") };
    if schema == "respgres" {
        return Err(
            "the schema \"respgres\" holds respgres' own tables; use another one".to_owned()
        );
    }
    identifier(schema, "schema")?;
    identifier(table, "table")
}

fn identifier(text: &str, what: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
    let first_fits = text.starts_with(|c: char| c.is_alphabetic() || c == '_');
    if !first_fits || text.len() > MAX_IDENTIFIER_BYTES || !text.chars().all(fits) {
        return Err(format!(
            "{text:?} is not a {what}'s name; use letters, digits, '_' and '$', a letter or '_' first, \
             at most {MAX_IDENTIFIER_BYTES} bytes"
        ));
    }
    Ok(())
}

pub(super) fn format(text: &str) -> Result<(), String> {
    if is_boolean_format(text) || TIME_FORMATS.contains(&text) {
        return Ok(());
    }
    if let Some((one, other)) = text.split_once('/') {
        return Err(if one == other {
            format!("{text:?} spells true and false alike; write two different words")
        } else {
            format!("{text:?} is not two words with a '/' between them; write \"yes/no\"")
        });
    }
    Err(format!(
        "there is no format {text:?}; {}, and for booleans any \"a/b\"",
        advice(text, &TIME_FORMATS).trim_end_matches('?'),
    ))
}

fn is_boolean_format(text: &str) -> bool {
    let mut words = text.split('/');
    match (words.next(), words.next(), words.next()) {
        (Some(one), Some(other), None) => !one.is_empty() && !other.is_empty() && one != other,
        _ => false,
    }
}

pub(super) fn column_type(text: &str) -> Result<(), String> {
    let fits = |c: char| c.is_alphanumeric() || " _.,()[]$".contains(c);
    if !text.starts_with(|c: char| c.is_alphabetic() || c == '_') || !text.chars().all(fits) {
        return Err(format!("{text:?} is not a type; write \"bigint\", \"timestamptz\", \"text\""));
    }
    Ok(())
}

/// Whether a format belongs to another kind of type than the column's.
pub(super) fn format_fits_type(format: &str, column_type: &str) -> Result<(), String> {
    let name = column_type.to_ascii_lowercase();
    let usual = if matches!(name.as_str(), "boolean" | "bool") {
        if is_boolean_format(format) {
            return Ok(());
        }
        "booleans are spelled \"true/false\", \"1/0\", any \"a/b\"".to_owned()
    } else if name.starts_with("timestamp") {
        if TIME_FORMATS.contains(&format) {
            return Ok(());
        }
        format!("timestamps have {}", TIME_FORMATS.join(", "))
    } else {
        "only booleans and timestamps have formats; remove it".to_owned()
    };
    Err(format!("the format {format:?} is none of the type {column_type:?}; {usual}"))
}
