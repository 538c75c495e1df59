//! The Redis side: clients' connections, each served by one event loop.
//!
//! An event loop is a thread with a single-threaded runtime. It owns its clients, its connections
//! to the upstream and one read buffer, and shares nothing with the other loops but the engine and
//! the roster of clients, so that the path of a request takes no lock.

mod alarm;
mod asked;
mod client;
mod client_command;
mod conversation;
mod errand;
mod event_loop;
mod expect;
mod fence;
mod info;
mod large;
mod listener;
mod local;
mod mapped;
mod pin;
mod queued;
mod roster;
mod spare_input;
mod step;
mod subscription;
mod survey;
mod takeover;
mod tracking;
mod transaction;
mod users;
mod watch;
mod way;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::config::{self, RedisUrl};
use crate::engine::Engine;

pub use alarm::Alarm;
pub use listener::{Server, ServerError};
pub use roster::Roster;
pub use users::Users;

/// What the event loops share.
pub struct Shared {
    pub engine: Arc<Engine>,
    pub roster: Roster,
    pub users: Users,
    pub limits: config::Limits,
    pub upstream: config::Upstream,
    pub upstream_address: RedisUrl,
    pub max_clients: usize,
    pub started: std::time::Instant,
    /// Until when a client has had Redis pause writes, milliseconds since `started`.
    pub writes_paused_until_ms: AtomicU64,
    /// HTTP on the Redis port.
    pub http_requests: Alarm,
    /// The upstream's version, as its INFO told at start; HELLO shows it.
    pub redis_version: String,
}
