//! What is wrong between settings that are right one by one.

use std::collections::{HashMap, HashSet};

use super::file::{Reading, step};
use super::url::is_loopback;
use super::{Config, Kind, Mapping, Problem, words};

/// More than any application has tables; conflicts are looked for in all pairs.
const MAX_MAPPINGS: usize = 1000;

/// Adds to the reading's problems those that show only when settings are seen together.
pub(super) fn check(reading: &mut Reading) {
    let config = &reading.config;
    let mut found = bounds(config);
    found.extend(users(config));
    found.extend(admin(config));
    if !config.mappings.is_empty() && !reading.said.iter().any(|path| path == "postgres.url") {
        found.push(Problem::new(
            "postgres.url",
            "is missing, and mappings need it; write url = \"postgres://user:password@host:port/database\"",
        ));
    }
    if config.mappings.len() > MAX_MAPPINGS {
        let text = format!("{} mappings; there can be {MAX_MAPPINGS}", config.mappings.len());
        found.push(Problem::new("mapping", text));
    }
    let mut names = HashMap::new();
    for (index, mapping) in config.mappings.iter().enumerate() {
        let path = mapping.path(index);
        if let Some(first) = names.insert(&mapping.name, index).filter(|_| !mapping.name.is_empty())
        {
            let text = format!("mapping[{first}] has the same name; give each its own");
            found.push(Problem::new(format!("{path}.name"), text));
        }
        // Columns that could not be read are there all the same.
        let unread = |name: &str| {
            let below = format!("{path}.{name}");
            reading.problems.iter().any(|known| known.path.starts_with(&below))
        };
        kind(mapping, &path, unread, &mut found);
        columns(mapping, &path, &mut found);
    }
    reading.problems.extend(found);
}

fn bounds(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let (limits, upstream) = (&config.limits, &config.upstream);
    if limits.max_argument_bytes > limits.max_request_bytes {
        found.push(Problem::new(
            "limits.max_argument_bytes",
            "is more than limits.max_request_bytes, of which an argument is a part",
        ));
    }
    if limits.client_backlog_bytes > limits.client_backlog_max_bytes {
        found.push(Problem::new(
            "limits.client_backlog_bytes",
            "is more than limits.client_backlog_max_bytes, at which the client is closed",
        ));
    }
    if upstream.reconnect_min_ms > upstream.reconnect_max_ms {
        found.push(Problem::new(
            "upstream.reconnect_min",
            "is more than upstream.reconnect_max, up to which the pauses grow",
        ));
    }
    found
}

/// Who is not on this machine needs a token.
fn admin(config: &Config) -> Option<Problem> {
    let admin = &config.admin;
    if admin.token.is_some() || admin.listen.is_empty() || is_loopback(&admin.listen) {
        return None;
    }
    Some(Problem::new(
        "admin.listen",
        "is for others than this machine alone, and there is no admin.token; set one, or listen on 127.0.0.1",
    ))
}

fn users(config: &Config) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut names = HashSet::new();
    for (index, user) in config.auth.users.iter().enumerate() {
        let path = format!("auth.user[{index}].name");
        if !user.name.is_empty() && !names.insert(&user.name) {
            let text = format!("there is a user {:?} already; give each its own name", user.name);
            found.push(Problem::new(path, text));
        } else if user.name == "default" && config.auth.password.is_some() {
            let text = "auth.password is the password of the user \"default\"; remove one of them";
            found.push(Problem::new(path, text));
        }
    }
    found
}

/// Each kind has settings of its own for what its values lie in.
fn kind(mapping: &Mapping, path: &str, unread: impl Fn(&str) -> bool, found: &mut Vec<Problem>) {
    let element = mapping.element.as_ref().map(|column| column.field.as_str());
    let said = [
        ("columns", !mapping.columns.is_empty()),
        ("expires_at", mapping.expires_at.is_some()),
        ("extra", mapping.extra.is_some()),
        ("field", element == Some("field")),
        ("value", mapping.value.is_some()),
        ("member", element == Some("member")),
    ];
    let (required, optional): (&[&str], &[&str]) = match mapping.kind {
        Kind::Hash => (&[], &["columns", "expires_at", "extra"]),
        Kind::HashEntries => (&["field", "value"], &["extra"]),
        Kind::Set => (&["member"], &[]),
    };
    let kind = mapping.kind.name();
    for (name, is_said) in said {
        let is_known = required.contains(&name) || optional.contains(&name);
        if is_said && !is_known {
            let text = format!(
                "means nothing for the kind {kind:?}, which has {}; remove it, or choose another kind",
                [required, optional].concat().join(", ")
            );
            found.push(Problem::new(format!("{path}.{name}"), text));
        } else if !is_said && required.contains(&name) && !unread(name) {
            let text =
                format!("is missing, and the kind {kind:?} needs it; write {name} = \"{name}\"");
            found.push(Problem::new(format!("{path}.{name}"), text));
        }
    }
    let holds_nothing = mapping.columns.is_empty() && mapping.extra.is_none();
    if mapping.kind == Kind::Hash && holds_nothing && !unread("columns") {
        let text = "there is no column that a field could go to; write some, or extra = \"extra\"";
        found.push(Problem::new(format!("{path}.columns"), text));
    }
}

/// Each column has one use, and a format that its type knows.
fn columns(mapping: &Mapping, path: &str, found: &mut Vec<Problem>) {
    let mut uses: HashMap<&str, String> = HashMap::new();
    let own = [("expires_at", &mapping.expires_at), ("extra", &mapping.extra)];
    let own =
        own.iter().filter_map(|(name, column)| Some(((*name).to_owned(), column.as_deref()?)));
    let keys = mapping.key_columns.iter();
    let keys = keys.map(|(capture, column)| (step("key_columns", capture), column.as_str()));
    let fields = mapping.columns.iter();
    let fields = fields.map(|column| (step("columns", &column.field), column));
    let parts = [&mapping.element, &mapping.value].into_iter().flatten();
    let parts = parts.map(|column| (column.field.clone(), column));
    let typed: Vec<_> = fields.chain(parts).collect();
    let named = typed.iter().map(|(name, column)| (name.clone(), column.column.as_str()));
    for (name, column) in own.chain(keys).chain(named) {
        if let Some(first) = uses.get(column) {
            let text = format!("{first} has the column {column:?} already; give each its own");
            found.push(Problem::new(format!("{path}.{name}"), text));
        } else {
            uses.insert(column, name);
        }
    }
    for (name, column) in typed {
        if let (Some(format), Some(column_type)) = (&column.format, &column.column_type)
            && let Err(text) = words::format_fits_type(format, column_type)
        {
            found.push(Problem::new(format!("{path}.{name}.format"), text));
        }
    }
}
