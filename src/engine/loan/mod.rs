//! Loans: commands that Redis runs on mapped keys, for respgres does not compute them itself; and
//! transactions and scripts with mapped keys.
//!
//! The keys' true values are lent to Redis for one atomic step that nobody else can look into: the
//! values are put there, the client's requests run, what has become of the values is read, and they
//! are taken away again. What has changed goes to Postgres.
//!
//! Invariants
//! - Of a loan that may write, every mapped key's advisory lock is held from before its row is read
//!   until COMMIT or ROLLBACK, and `begin` of every lent key is answered before the step is sent: from
//!   then on the key is absent in Redis, and no fill is accepted, whatever becomes of the marks: a fill
//!   needs the lock (see `miss`). So a script that runs for longer than the lease changes nothing.
//! - After the step, whether it ran, failed or is in doubt, Redis has no value of a lent key that it had
//!   not before. So what was never committed is never seen.
//! - The client is told Redis' own bytes, after COMMIT.
//! - Keys that are not mapped are changed by the step itself. If the mapped part is refused then, they
//!   are put back, where they still are as the step left them; else the client is told that a part of
//!   the write may have happened.
//! - A loan that only reads takes no lock and begins nothing: the cached copies step aside within the
//!   atomic step.
//!
//! Loans cannot wait in circles with the combining writers: both take their locks ascending before
//! any row, go through the tables in one order, and wait for Redis only while they hold locks; Redis
//! waits for nobody.
//!
//! Absent on purpose: mapped keys that a script uses without declaring them, as in a Redis Cluster.

mod answer;
mod lender;
mod lookup;
mod read;
mod request;
mod step;
mod taken_back;
mod undo;
pub mod watch;
mod write;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::errand::Runner;
use super::mailbox::ReplyTo;
use crate::mapping::{MappedKey, Pass};
use crate::protocol::Reply;
use answer::Answer;
use watch::Watched;

pub(super) use lender::Lender;
pub use request::{Admission, Lent, enter_all};

/// Loans under way at once. A script that runs for long holds up none of the others, as far as Redis
/// goes on with them; most loans wait for their COMMIT.
pub(super) const LENDERS: usize = 4;

/// What clients want of the lenders.
#[derive(Debug)]
pub enum Job {
    Loan(Box<Loan>),
    /// WATCH: what these keys hold is to be remembered.
    Watch {
        keys: Vec<MappedKey>,
        watched: Arc<Watched>,
        /// It is inside at the gates of the keys' mappings until it is done.
        _passes: Vec<Pass>,
        told: Told,
    },
}

/// Requests of one client that are run in one atomic step.
#[derive(Debug)]
pub struct Loan {
    pub requests: Vec<Lent>,
    /// They came between MULTI and EXEC: one reply for all of them.
    pub transaction: bool,
    /// EXEC does nothing if one of these has changed.
    pub watched: Option<Arc<Watched>>,
    /// A request changes the state of the connection (SELECT).
    pub spoils: bool,
    /// It is inside at the gates of its keys' mappings, and of the watched ones', until it is done.
    pub passes: Vec<Pass>,
    pub runner: Runner,
    pub told: Told,
}

/// The client's slot, which is answered once.
#[derive(Debug)]
pub struct Told {
    reply_to: ReplyTo,
    arrived: Instant,
    answered: AtomicBool,
}

// === impl Job ===

impl Job {
    pub(super) fn told(&self) -> &Told {
        match self {
            Self::Loan(loan) => &loan.told,
            Self::Watch { told, .. } => told,
        }
    }
}

// === impl Loan ===

impl Loan {
    /// Whether any of the requests may change a key.
    fn writes(&self) -> bool {
        self.requests.iter().any(|request| !request.only_reads)
    }

    /// Whether it may be run again when all that it did has been undone: messages are not, nor are keys
    /// that a script does not declare.
    fn may_run_again(&self) -> bool {
        self.runner.may_run_again() && !self.requests.iter().any(Lent::leaves_traces)
    }

    /// The mapping to name where something fails as a whole.
    fn mapping_name(&self) -> &str {
        let key = self.requests.iter().find_map(|request| request.keys.first());
        key.map_or("", |key| key.mapping.name.as_str())
    }
}

// === impl Told ===

impl Told {
    pub fn new(reply_to: ReplyTo) -> Self {
        Self { reply_to, arrived: Instant::now(), answered: AtomicBool::new(false) }
    }

    /// Answers with a reply of our own; what comes after the first answer is dropped.
    pub(super) fn answer(&self, reply: &Reply) {
        if !self.answered.swap(true, Ordering::Relaxed) {
            self.reply_to.answer(reply);
        }
    }

    /// The same, also with Redis' own bytes.
    fn tell(&self, answer: &Answer) {
        match answer {
            Answer::Reply(reply) => self.answer(reply),
            Answer::Bytes(bytes) => {
                if !self.answered.swap(true, Ordering::Relaxed) {
                    self.reply_to.answer_bytes(bytes.clone());
                }
            }
        }
    }

    fn age(&self) -> Duration {
        self.arrived.elapsed()
    }
}
