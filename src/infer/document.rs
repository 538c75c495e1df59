//! The proposal as people and programs read it: a configuration file, SQL, a table of families, JSON.
//!
//! The same keys and values give the same text: nothing here depends on the time or on chance.

use std::fmt::Write as _;

use serde_json::json;

use super::column::percent;
use super::family::{Family, Part};
use super::proposal::{Column, Left, Proposed, Shape, expiry};
use super::segment::{Step, cut};
use crate::config::RedisUrl;
use crate::config::url::Endpoint;

/// Families that the comments and the table list one by one.
const MAX_LISTED: usize = 200;

/// What the head of the file tells.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) keys: u64,
    pub(super) looked_into: u64,
    pub(super) unnamable: u64,
    pub(super) untold: u64,
    pub(super) notes: Vec<String>,
}

/// The configuration file.
pub(super) fn config(
    address: &RedisUrl,
    database: u16,
    head: &Head,
    proposed: &[Proposed],
    left: &[Left],
) -> String {
    let mut text = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| {
        text.write_fmt(parts).expect("writing to a string cannot fail");
        text.push('\n');
    };
    line(format_args!(
        "# A proposal, made of {} keys, {} of which were looked into.",
        head.keys, head.looked_into
    ));
    line(format_args!("# Read it, change what you know better, then:"));
    line(format_args!("#"));
    line(format_args!("#   respgres check-config --config FILE --offline"));
    line(format_args!("#   respgres schema --config FILE --apply"));
    line(format_args!("#   respgres run --config FILE"));
    line(format_args!("#"));
    line(format_args!(
        "# Every column may be NULL, and what a column could not give back byte for byte is kept in \"extra\":"
    ));
    line(format_args!("# clients always read what they wrote."));
    line(format_args!(
        "# A member of a set, or a field with a row of its own, that its column could not give back is"
    ));
    line(format_args!("# refused: text takes all but what is not UTF-8, bytea takes all."));
    for note in notes(head) {
        line(format_args!("# Mind: {note}."));
    }
    line(format_args!("\n[server]\nlisten = \"127.0.0.1:6380\""));
    let url = match &address.endpoint {
        endpoint @ Endpoint::Tcp(..) => format!("redis://{endpoint}"),
        endpoint @ Endpoint::Unix(_) => endpoint.to_string(),
    };
    if address.password.is_some() {
        line(format_args!(
            "\n# The login is not repeated here: give the whole url in RESPGRES__UPSTREAM__URL."
        ));
        line(format_args!("[upstream]"));
    } else {
        line(format_args!("\n[upstream]"));
    }
    line(format_args!("url = {}", quoted(&url)));
    if database != 0 {
        line(format_args!("database = {database}"));
    }
    line(format_args!("\n[postgres]\nurl = \"postgres://localhost/respgres\""));
    for one in proposed {
        line(format_args!("\n{}", mapping(one).trim_end()));
    }
    if !left.is_empty() {
        line(format_args!("\n# === What stays in Redis ===\n#"));
        for Left { family, reason } in left.iter().take(MAX_LISTED) {
            let pattern = for_comment(&family.pattern());
            line(format_args!(
                "# {pattern}  ({}, {}): {reason}",
                family.held.name(),
                keys(family.keys)
            ));
        }
        if left.len() > MAX_LISTED {
            line(format_args!("# and {} more families", left.len() - MAX_LISTED));
        }
    }
    text
}

fn notes(head: &Head) -> Vec<String> {
    let mut notes = head.notes.clone();
    if head.unnamable > 0 {
        notes.push(format!(
            "{} cannot be mapped (not UTF-8 text, or too long) and stay in Redis",
            keys(head.unnamable)
        ));
    }
    if head.untold > 0 {
        notes
            .push(format!("{} were not told apart, there being too many sorts", keys(head.untold)));
    }
    notes
}

fn mapping(one: &Proposed) -> String {
    let family = &one.family;
    let mut text = String::new();
    let mut line = |parts: std::fmt::Arguments<'_>| {
        text.write_fmt(parts).expect("writing to a string cannot fail");
        text.push('\n');
    };
    line(format_args!(
        "# {}, {} looked into; expire: {}; at most {} {}.",
        keys(family.keys),
        family.profile.keys,
        one.expiry(),
        family.profile.largest,
        if matches!(one.value, Shape::Set(_)) { "members" } else { "fields" },
    ));
    if let Some(example) = example(family) {
        line(format_args!("# For example {}", for_comment(&example)));
    }
    for note in &one.notes {
        line(format_args!("# {}.", for_comment(note)));
    }
    line(format_args!("[[mapping]]"));
    let name = &one.table;
    line(format_args!("name       = {}", quoted(name)));
    line(format_args!("key        = {}", quoted(&family.pattern())));
    if !one.exclude.is_empty() {
        let globs: Vec<String> = one.exclude.iter().map(|glob| quoted(glob)).collect();
        line(format_args!("exclude    = [{}]", globs.join(", ")));
    }
    line(format_args!("kind       = {}", quoted(one.kind().name())));
    line(format_args!("table      = {}", quoted(name)));
    if let Some(column) = &one.expires_at {
        line(format_args!("expires_at = {}", quoted(column)));
    }
    let element = |element: &super::proposal::Element| match element.type_name {
        "text" => quoted(&element.column),
        other => format!("{{ column = {}, type = {} }}", quoted(&element.column), quoted(other)),
    };
    match &one.value {
        Shape::Set(member) => line(format_args!("member     = {}", element(member))),
        Shape::Entries { field, value } => {
            line(format_args!("field      = {}", element(field)));
            for note in &value.notes {
                line(format_args!("# Values: {}.", for_comment(note)));
            }
            line(format_args!(
                "value      = {}",
                column_of("value", value.type_name, value.format)
            ));
        }
        Shape::Hash(_) => {}
    }
    if let Some(column) = &one.extra {
        line(format_args!("extra      = {}", quoted(column)));
    }
    if let Shape::Hash(columns) = &one.value {
        line(format_args!("[mapping.columns]"));
        let widest = columns.iter().map(|column| key(&column.field).chars().count()).max();
        for column in columns {
            let comment = comment(column);
            let definition = column_of(&column.name, column.choice.type_name, column.choice.format);
            let comment = if comment.is_empty() { comment } else { format!("  # {comment}") };
            let width = widest.unwrap_or(0);
            line(format_args!(
                "{:width$} = {definition}{}",
                key(&column.field),
                for_comment(&comment)
            ));
        }
    }
    text
}

fn comment(column: &Column) -> String {
    let mut parts = Vec::new();
    if column.presence < 1.0 {
        parts.push(format!("in {} of the keys", percent(column.presence)));
    }
    parts.extend(column.choice.notes.iter().cloned());
    parts.join("; ")
}

fn column_of(name: &str, type_name: &str, format: Option<&str>) -> String {
    // The usual formats need not be said.
    match (type_name, format) {
        ("text", _) => quoted(name),
        (_, None | Some("true/false" | "iso8601-ms")) => {
            format!("{{ column = {}, type = {} }}", quoted(name), quoted(type_name))
        }
        (_, Some(format)) => format!(
            "{{ column = {}, type = {}, format = {} }}",
            quoted(name),
            quoted(type_name),
            quoted(format)
        ),
    }
}

/// One of the keys; tokens in it are cut off, as who knows one may be able to use it.
fn example(family: &Family) -> Option<String> {
    if !family.has_capture() {
        return None;
    }
    let has_tokens = family
        .parts
        .iter()
        .any(|part| matches!(part, Part::Capture { name: _, is_opaque: true, .. }));
    // The least, so that it is the same from run to run.
    let key = family.sample_keys().min()?;
    let (separator, segments) = cut(key);
    let shown = segments.iter().map(|segment| {
        let is_token =
            has_tokens && matches!(Step::of(segment), Step::Value(super::segment::Form::Opaque));
        let most = if is_token { 6 } else { 60 };
        match segment.char_indices().nth(most) {
            Some((end, _)) => format!("{}…", &segment[..end]),
            None => (*segment).to_owned(),
        }
    });
    let between = separator.map_or(String::new(), String::from);
    Some(shown.collect::<Vec<_>>().join(&between))
}

/// A table of all families, with what becomes of each.
pub(super) fn summary(head: &Head, proposed: &[Proposed], left: &[Left]) -> String {
    let mut rows = vec![["keys", "type", "pattern", "expire", "proposal"].map(str::to_owned)];
    for one in proposed {
        let columns = match &one.value {
            Shape::Hash(columns) => {
                let typed =
                    columns.iter().filter(|column| column.choice.type_name != "text").count();
                format!("hash, {} columns, {typed} typed", columns.len())
            }
            Shape::Entries { value, .. } => format!("hash_entries of {}", value.type_name),
            Shape::Set(_) => "set".to_owned(),
        };
        rows.push([
            one.family.keys.to_string(),
            one.family.held.name().to_owned(),
            for_comment(&one.family.pattern()),
            one.expiry(),
            format!("{}: {columns}", one.table),
        ]);
    }
    for Left { family, reason } in left.iter().take(MAX_LISTED) {
        rows.push([
            family.keys.to_string(),
            family.held.name().to_owned(),
            for_comment(&family.pattern()),
            expiry(&family.profile),
            format!("stays in Redis: {}", for_comment(reason)),
        ]);
    }
    let widths: [usize; 4] = std::array::from_fn(|at| {
        rows.iter().map(|row| row[at].chars().count().min(72)).max().unwrap_or(0)
    });
    let [keys_width, type_width, pattern_width, expiry_width] = widths;
    let mut text = String::new();
    for [keys, held, pattern, expiry, what] in rows {
        writeln!(
            text,
            "{keys:>keys_width$}  {held:type_width$}  {pattern:pattern_width$}  {expiry:expiry_width$}  {what}"
        )
        .expect("writing to a string cannot fail");
    }
    writeln!(
        text,
        "{}, {} looked into: {} mappings proposed, {} families stay in Redis",
        keys(head.keys),
        head.looked_into,
        proposed.len(),
        left.len()
    )
    .expect("writing to a string cannot fail");
    for note in notes(head) {
        writeln!(text, "mind: {note}").expect("writing to a string cannot fail");
    }
    text
}

/// All of it for programs.
pub(super) fn json(
    head: &Head,
    proposed: &[Proposed],
    left: &[Left],
    config: &str,
    schema: &str,
) -> serde_json::Value {
    let mappings: Vec<_> = proposed
        .iter()
        .map(|one| {
            let columns: Vec<_> = match &one.value {
                Shape::Hash(columns) => columns
                    .iter()
                    .map(|column| {
                        json!({
                            "field": column.field,
                            "column": column.name,
                            "type": column.choice.type_name,
                            "format": column.choice.format,
                            "presence": column.presence,
                            "canonical_share": column.choice.share,
                            "notes": column.choice.notes,
                        })
                    })
                    .collect(),
                _ => Vec::new(),
            };
            json!({
                "name": one.table,
                "key": one.family.pattern(),
                "exclude": one.exclude,
                "kind": one.kind().name(),
                "table": one.table,
                "type": one.family.held.name(),
                "keys": one.family.keys,
                "looked_into": one.family.profile.keys,
                "expire": one.expiry(),
                "expires_at": one.expires_at,
                "largest": one.family.profile.largest,
                "columns": columns,
                "notes": one.notes,
            })
        })
        .collect();
    let left: Vec<_> = left
        .iter()
        .map(|Left { family, reason }| {
            json!({
                "key": family.pattern(),
                "type": family.held.name(),
                "keys": family.keys,
                "expire": expiry(&family.profile),
                "reason": reason,
            })
        })
        .collect();
    json!({
        "keys": head.keys,
        "looked_into": head.looked_into,
        "notes": notes(head),
        "mappings": mappings,
        "stay_in_redis": left,
        "config": config,
        "schema": schema,
    })
}

fn keys(count: u64) -> String {
    if count == 1 { "1 key".to_owned() } else { format!("{count} keys") }
}

/// A text as TOML has it.
fn quoted(text: &str) -> String {
    // JSON's escapes are TOML's, but for the character that JSON need not escape.
    serde_json::Value::from(text).to_string().replace('\u{7f}', "\\u007F")
}

fn key(name: &str) -> String {
    let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_bare) { name.to_owned() } else { quoted(name) }
}

/// On one line, whatever it says.
fn for_comment(text: &str) -> String {
    text.chars()
        .map(|character| if character.is_control() { '\u{fffd}' } else { character })
        .collect()
}
