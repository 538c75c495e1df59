//! Values too large to be held: what clients get of them, how much memory that takes, and what clients
//! that do not read do to others.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "a test spawns what it waits for")]

mod memory;
mod pace;
mod reader;
mod replies;
#[path = "../stack/mod.rs"]
mod stack;

use stack::Stack;

pub const MAPPINGS: &str = r#"
[[mapping]]
name = "ids"
key = "ids:{id:int}"
kind = "set"
table = "ids"
member = { column = "member", type = "bigint" }

[[mapping]]
name = "counts"
key = "counts:{day:date}"
kind = "hash_entries"
table = "counts"
field = "what"
value = { column = "amount", type = "bigint" }
extra = "extra"

[[mapping]]
name = "words"
key = "words:{id:int}"
kind = "set"
table = "words"
member = "member"
"#;

pub const COUNTS: &str = "counts:2026-11-20";

/// So many words are more than the sockets between hold.
pub const WORDS: usize = 10_000;

/// The `n`-th word.
const WORD: &str = "n || repeat('x', 1000)";

impl Stack {
    /// Gives `ids:1` the members 1 to `count`.
    pub async fn add_ids(&self, count: usize) {
        let sql = format!("insert into ids select 1, n from generate_series(1, {count}) as n");
        self.sql_execute(&sql).await;
    }

    /// Gives `COUNTS` the fields `f1`, `f2`, … with the values 1, 2, ….
    pub async fn add_counts(&self, count: usize) {
        self.sql_execute(&format!(
            "insert into counts select '2026-11-20', 'f' || n, n from generate_series(1, {count}) as n"
        ))
        .await;
    }

    /// Gives `words:1` so many members of a kilobyte.
    pub async fn add_words(&self) {
        let sql =
            format!("insert into words select 1, {} from generate_series(1, {WORDS}) as n", WORD);
        self.sql_execute(&sql).await;
    }

    /// Transactions of respgres that are open in Postgres.
    pub async fn open_transactions(&self) -> i64 {
        self.sql_i64(
            "select count(*) from pg_stat_activity where datname = current_database() \
             and pid <> pg_backend_pid() and xact_start is not null",
        )
        .await
    }
}
