//! The scripts of the cache protocol, driven directly in a real Redis: by hand through the
//! interleavings that each line of them is there for, and by chance through very many others.

#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

mod behind;
mod blocking;
mod complete;
mod flushing;
mod import;
mod interleavings;
mod schedule;
#[path = "../stack/mod.rs"]
mod stack;
mod step;
mod world;
