//! The scripts of the cache protocol, driven directly in a real Redis: by hand through the
//! interleavings that each line of them is there for, and by chance through very many others.

mod interleavings;
// Another test uses the rest of it.
#[allow(dead_code)]
#[path = "../redis_server/mod.rs"]
mod redis_server;
mod schedule;
mod world;
