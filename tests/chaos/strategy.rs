//! What is promised under each strategy: one line for each.

use std::fmt::Write;

use crate::keys::Names;

/// A strategy, and what holds for its keys.
#[derive(Debug)]
pub(crate) struct Strategy {
    pub(crate) name: &'static str,
    strategy: &'static str,
    on_postgres_down: &'static str,
    /// When things are quiet, Postgres has what clients read.
    pub(crate) has_rows: bool,
    /// When things are quiet, Redis gets a copy of what is read.
    pub(crate) has_copies: bool,
    pub(crate) keeps: Keeps,
}

/// How long what was acknowledged is there, and each key is as one register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeps {
    Always,
    /// As long as Redis keeps its own data: not if it comes back with less, or evicts.
    WithRedis,
}

#[rustfmt::skip]
pub(crate) static STRATEGIES: &[Strategy] = &[
    //       name              strategy          on_postgres_down  rows   copies  keeps
    strategy("dual_write",     "dual_write",     "reject",         true,  true,   Keeps::Always),
    strategy("database_first", "database_first", "reject",         true,  true,   Keeps::Always),
    strategy("postgres_only",  "postgres_only",  "reject",         true,  false,  Keeps::Always),
    strategy("redis_only",     "redis_only",     "reject",         false, false,  Keeps::WithRedis),
    strategy("cache_first",    "cache_first",    "cached_only",    true,  true,   Keeps::WithRedis),
    // What was written while Postgres was away is as durable as Redis is.
    strategy("dual_cached",    "dual_write",     "cached_only",    true,  true,   Keeps::WithRedis),
    strategy("first_cached",   "database_first", "cached_only",    true,  true,   Keeps::WithRedis),
];

const fn strategy(
    name: &'static str,
    strategy: &'static str,
    on_postgres_down: &'static str,
    has_rows: bool,
    has_copies: bool,
    keeps: Keeps,
) -> Strategy {
    Strategy { name, strategy, on_postgres_down, has_rows, has_copies, keeps }
}

/// A family of keys for each.
pub(crate) fn names() -> Names {
    Names::of(STRATEGIES.iter().map(|strategy| format!("{}:", strategy.name)))
}

pub(crate) fn of(names: &Names, key: u32) -> &'static Strategy {
    &STRATEGIES[names.family(key)]
}

/// The mappings whose strategy is changed in a run; what it is in the end, too.
pub(crate) const SWITCHED: [&str; 3] =
    ["dual_write_rows", "dual_write_entries", "dual_write_members"];
pub(crate) const INITIAL: &str = "dual_write";

/// The mappings that have rows.
pub(crate) fn mapping_names() -> Vec<String> {
    let have_rows = STRATEGIES.iter().filter(|strategy| strategy.has_rows);
    let kinds = |name| ["rows", "entries", "members"].map(|kind| format!("{name}_{kind}"));
    have_rows.flat_map(|strategy| kinds(strategy.name)).collect()
}

/// A hash, a hash with a row a field, and a set of each.
pub(crate) fn mappings() -> String {
    let mut text = String::new();
    for Strategy { name, strategy, on_postgres_down, .. } in STRATEGIES {
        write!(
            text,
            r#"
[[mapping]]
name = "{name}_rows"
key = "{name}:coherence:{{id:int}}"
kind = "hash"
table = "{name}_rows"
strategy = "{strategy}"
on_postgres_down = "{on_postgres_down}"
[mapping.columns]
first = "first"
second = "second"
counter = {{ column = "counter", type = "bigint" }}

[[mapping]]
name = "{name}_entries"
key = "{name}:entries:{{id:int}}"
kind = "hash_entries"
table = "{name}_entries"
strategy = "{strategy}"
on_postgres_down = "{on_postgres_down}"
field = "field"
value = "value"

[[mapping]]
name = "{name}_members"
key = "{name}:set:{{id:int}}"
kind = "set"
table = "{name}_members"
strategy = "{strategy}"
on_postgres_down = "{on_postgres_down}"
member = "member"
"#
        )
        .expect("a text takes more");
    }
    text
}
