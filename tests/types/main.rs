//! What holds of every type that a column may have, held against a real Postgres with values that
//! are canonical, oddly spelled, out of range, or nothing at all.
//!
//! For each type (see `property`):
//! 1. with an extra column any bytes come back as they were written;
//! 2. the column holds the value that Postgres itself reads from them, whenever it reads one;
//! 3. without an extra column the same bytes come back, or the write is refused and nothing written;
//! 4. after an UPDATE by SQL clients see the new value, as Postgres or the format writes it;
//! 5. an UPDATE by SQL to the value that is there already leaves clients their bytes.
//!
//! `RESPGRES_TYPES_SEED=7 cargo test --test types` tries other values than usual.
//!
//! Postgres' reading is narrowed to the spellings that docs/types.md names: `subject::spelled`.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]

mod arrays;
mod documented;
mod moments;
mod numbers;
mod property;
#[path = "../stack/mod.rs"]
mod stack;
mod subject;
mod through;
mod values;
mod words;
