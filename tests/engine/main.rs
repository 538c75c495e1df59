//! What mapped keys do when something is in the way: constraints, tables that change or are locked,
//! a store that is gone, a worker that panics.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]
#![allow(clippy::disallowed_methods, reason = "a test spawns what it waits for")]

mod batches;
mod behind;
mod behind_outage;
mod calls;
mod constraints;
mod dead_letters;
mod degrade;
mod elements;
mod expired_rows;
mod expiry;
mod fleet;
mod import;
mod outage;
mod outbox;
mod panics;
#[path = "../chaos/relay.rs"]
mod relay;
mod restart;
mod rollback;
mod rollback_beside_sql;
mod split;
#[path = "../stack/mod.rs"]
mod stack;
mod steps;
mod switch;
mod switch_redis_only;
mod tables;
