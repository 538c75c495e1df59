//! Names for captures, tables and columns, from the words of keys and fields.
//!
//! Every name can be written in SQL without quotes: lower case, no reserved word, none of the columns that
//! Postgres gives to every table.

use std::collections::BTreeSet;

use super::segment::Form;
use crate::mapping::pattern::CaptureKind;

/// Longest table name; its index has a longer one.
const MAX_TABLE_BYTES: usize = 40;
/// Longest column name, with room for a number.
const MAX_COLUMN_BYTES: usize = 55;

/// Reserved in Postgres 15 as a column's or table's name, and the system columns.
#[rustfmt::skip]
const RESERVED: &[&str] = &[
    "all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric", "authorization", "binary",
    "both", "case", "cast", "check", "cmax", "cmin", "collate", "collation", "column", "concurrently",
    "constraint", "create", "cross", "ctid", "current_catalog", "current_date", "current_role",
    "current_schema", "current_time", "current_timestamp", "current_user", "default", "deferrable", "desc",
    "distinct", "do", "else", "end", "except", "false", "fetch", "for", "foreign", "freeze", "from", "full",
    "grant", "group", "having", "ilike", "in", "initially", "inner", "intersect", "into", "is", "isnull",
    "join", "lateral", "leading", "left", "like", "limit", "localtime", "localtimestamp", "natural", "not",
    "notnull", "null", "offset", "on", "only", "or", "order", "outer", "overlaps", "placing", "primary",
    "references", "returning", "right", "select", "session_user", "similar", "some", "symmetric", "system_user",
    "table", "tableoid", "tablesample", "then", "to", "trailing", "true", "union", "unique", "user", "using",
    "variadic", "verbose", "when", "where", "window", "with", "xmax", "xmin",
];

/// Words that no capture is named after where there is another one.
const GENERIC: &[&str] = &[
    "all", "alltime", "by", "count", "current", "daily", "data", "day", "hour", "hourly", "id",
    "index", "info", "item", "latest", "list", "minute", "month", "monthly", "set", "stats",
    "total", "v1", "v2", "weekly", "yearly",
];

/// Names the captures of one key, from its beginning to its end.
#[derive(Debug, Default)]
pub(super) struct Naming {
    /// The literal before, until a capture has taken its name.
    word: Option<String>,
    taken: BTreeSet<String>,
}

// === impl Naming ===

impl Naming {
    /// A literal.
    pub(super) fn pass(&mut self, text: &str) {
        let word = snake_case(text);
        // Words of time and of order say how often, not what.
        let says_what = self.word.is_none() || !GENERIC.contains(&word.as_str());
        if !word.is_empty() && says_what {
            self.word = Some(singular(&word));
        }
    }

    pub(super) fn capture(&mut self, kind: CaptureKind, form: Form, is_hour: bool) -> String {
        let name = match (kind, form) {
            (CaptureKind::Date, _) => "day".to_owned(),
            (CaptureKind::Month, _) => "month".to_owned(),
            (_, Form::Digits) if is_hour => "hour".to_owned(),
            (_, Form::Text | Form::Date | Form::Month) => {
                self.word.take().unwrap_or_else(|| "name".to_owned())
            }
            (_, Form::Uuid | Form::Digits | Form::Opaque) => match self.word.take() {
                Some(word) => format!("{word}_id"),
                None => "id".to_owned(),
            },
        };
        unique(&allowed(&name, "_key"), MAX_COLUMN_BYTES, &mut self.taken)
    }
}

/// The name of a table, from a key's literals; where another one has it, with what its keys begin to vary by.
pub(super) fn table(words: &[String], by: Option<&str>, taken: &mut BTreeSet<String>) -> String {
    let name = snake_case(&words.join("_"));
    let name = if name.is_empty() { "entries".to_owned() } else { name };
    let name = allowed(&name, "s");
    match by {
        Some(by) if taken.contains(&name) => {
            unique(&format!("{name}_by_{by}"), MAX_TABLE_BYTES, taken)
        }
        _ => unique(&name, MAX_TABLE_BYTES, taken),
    }
}

/// The name of a column, from a field.
pub(super) fn column(field: &str, taken: &mut BTreeSet<String>) -> String {
    let name = snake_case(field);
    let name = if name.is_empty() { "field".to_owned() } else { name };
    unique(&allowed(&name, "_value"), MAX_COLUMN_BYTES, taken)
}

/// `rateLimitCost` is `rate_limit_cost`, `HTTPPort` is `http_port`; what is no letter or digit is `_`.
pub(super) fn snake_case(text: &str) -> String {
    let characters: Vec<char> = text.chars().collect();
    let mut name = String::new();
    for (at, &character) in characters.iter().enumerate() {
        if !character.is_ascii_alphanumeric() {
            if !name.is_empty() && !name.ends_with('_') {
                name.push('_');
            }
            continue;
        }
        let before = at.checked_sub(1).map(|at| characters[at]);
        let begins_word = character.is_ascii_uppercase()
            && before.is_some_and(|before| {
                before.is_ascii_lowercase()
                    || before.is_ascii_digit()
                    || before.is_ascii_uppercase()
                        && characters.get(at + 1).is_some_and(char::is_ascii_lowercase)
            });
        if begins_word && !name.ends_with('_') && !name.is_empty() {
            name.push('_');
        }
        name.push(character.to_ascii_lowercase());
    }
    let name = name.trim_end_matches('_');
    match name.as_bytes().first() {
        Some(first) if first.is_ascii_digit() => format!("n{name}"),
        _ => name.to_owned(),
    }
}

/// `users` is `user`; words that do not end like a plural stay.
fn singular(word: &str) -> String {
    let is_plural = word.len() > 3 && word.ends_with('s');
    let stays = ["ss", "us", "is", "ies"].iter().any(|end| word.ends_with(end));
    if is_plural && !stays { word[..word.len() - 1].to_owned() } else { word.to_owned() }
}

fn allowed(name: &str, ending: &str) -> String {
    let is_reserved = RESERVED.contains(&name) || name.starts_with("pg_");
    if is_reserved { format!("{name}{ending}") } else { name.to_owned() }
}

fn unique(name: &str, most: usize, taken: &mut BTreeSet<String>) -> String {
    let name = name[..name.len().min(most)].trim_end_matches('_');
    let mut found = name.to_owned();
    let mut number = 2;
    while taken.contains(&found) {
        found = format!("{name}_{number}");
        number += 1;
    }
    taken.insert(found.clone());
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_sql() {
        for (field, expected) in [
            ("rateLimitCost", "rate_limit_cost"),
            ("HTTPPort", "http_port"),
            ("enableOpenAIResponses", "enable_open_ai_responses"),
            ("ephemeral5mTokens", "ephemeral5m_tokens"),
            ("a-b.c d", "a_b_c_d"),
            ("order", "order_value"),
            ("ctid", "ctid_value"),
            ("5xx", "n5xx"),
            ("größe", "gr_e"),
            ("", "field"),
            ("__x__", "x"),
        ] {
            assert_eq!(column(field, &mut BTreeSet::new()), expected, "{field}");
        }
        let mut taken = BTreeSet::new();
        assert_eq!(column("aB", &mut taken), "a_b");
        assert_eq!(column("a_b", &mut taken), "a_b_2");
        let mut tables = BTreeSet::new();
        let user = ["user".to_owned()];
        assert_eq!(table(&user, None, &mut tables), "users");
        assert_eq!(table(&user, Some("day"), &mut tables), "users_by_day");
        assert_eq!(table(&user, Some("day"), &mut tables), "users_by_day_2");
        assert_eq!(table(&[], None, &mut tables), "entries");
        assert_eq!(column(&"x".repeat(300), &mut BTreeSet::new()).len(), MAX_COLUMN_BYTES);
    }

    #[test]
    fn reserved_words_are_avoided() {
        for word in RESERVED {
            assert_ne!(column(word, &mut BTreeSet::new()), *word);
        }
    }
}
