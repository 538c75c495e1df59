//! The admin HTTP API: what operators, their scripts and Prometheus are told, and what they have done.
//!
//! It has a port and a thread of its own: whoever asks, and however often, takes nothing from the event loops but
//! their share of the machine.
//!
//! Invariants
//! - Without the token nothing answers but /live and /ready, which tell no more than yes or no and why, and the
//!   files of the web page, in which nothing is.
//! - Nothing that is told has passwords or addresses of stores in it.
//! - docs/admin-api.yaml is all that there is; a test compares the two.

mod gather;
mod guard;
mod jobs;
mod listener;
mod page;
mod reply;
mod report;
mod routes;

use std::sync::Arc;
use std::time::Instant;

use crate::engine::operator::Operator;
use crate::mapping::registry::Plan;
use crate::metrics::Troubles;

pub use listener::{Admin, AdminError};

/// What the API looks at.
pub struct View {
    pub operator: Operator,
    /// Of the configuration file, in its order.
    pub plans: Vec<Plan>,
    /// What the log has warned of.
    pub troubles: Arc<Troubles>,
    pub started: Instant,
    /// What there is to say of clients now.
    pub clients: Box<dyn Fn() -> Clients + Send + Sync>,
    /// `None`: nobody may ask for more than whether the proxy lives.
    pub token: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clients {
    pub connected: usize,
    /// Bytes of replies that wait for them.
    pub output_bytes: usize,
}

type Shared = Arc<View>;
