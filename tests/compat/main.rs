//! Clients cannot tell respgres from Redis: the same conversation held with both, for everything
//! that touches no mapped key. What differs on purpose is in docs/differences.md, and in
//! `difference` here.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]
#![allow(clippy::disallowed_methods, reason = "a test's tasks end with its runtime")]
// A test's own modules have nobody else to be private from.
#![allow(unreachable_pub)]

mod admin;
mod blocking;
mod both;
mod client;
mod difference;
mod handshake;
mod hang;
mod load;
mod malformed;
#[path = "../stack/mod.rs"]
mod stack;
mod subscription;
mod transaction;
mod upstream;
