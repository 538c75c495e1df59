//! Commands that Redis runs on mapped keys, transactions and scripts: the same as in plain Redis, byte
//! for byte; and what happens when a store does not take its part.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "a test spawns what it waits for")]

mod alike;
mod commands;
mod lookups;
mod random;
mod refusals;
mod scripts;
#[path = "../stack/mod.rs"]
mod stack;
mod stores;
mod taken_over;
mod transactions;
