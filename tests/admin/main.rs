//! The admin API over a running respgres: who is let in, what is told, what is done, and that clients do not
//! notice.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]

mod document;
mod doors;
mod health;
mod hits;
mod house;
mod http;
mod jobs;
mod metrics;
mod page;
#[path = "../stack/mod.rs"]
mod stack;
mod verbs;
