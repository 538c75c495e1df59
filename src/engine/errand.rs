//! Requests that a worker has an event loop run over one of its private lanes, in one piece, and
//! whose replies come back to the worker as Redis wrote them.
//!
//! A private lane speaks the client's protocol version, is in the client's database, and waits for
//! nobody else; and if it is the lane on which the client watches keys, their watch holds for the
//! requests. How long they may take is the lane's business, which gives up a Redis that is silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::mailbox::{Mail, Mailbox};
use crate::protocol::Version;
use crate::upstream::UpstreamError;

/// Requests on their way to an event loop.
#[derive(Debug)]
pub struct Errand {
    pub over: Over,
    pub requests: Bytes,
    /// How many replies they get.
    pub replies: u32,
    /// The lane carries state afterwards that nobody else may get.
    pub spoils: bool,
    pub done: Done,
}

/// Where the replies are awaited; dropped, it says that nobody knows what has become of the errand.
pub type Done = oneshot::Sender<Result<Vec<Bytes>, ErrandFailed>>;

/// Which lane.
#[derive(Clone, Copy, Debug)]
pub enum Over {
    /// Any that is free.
    Spare { database: u16, version: Version },
    /// One that the loop holds ready, by its number.
    Held(u32),
}

/// Why there are no replies.
#[derive(Clone, Debug)]
pub enum ErrandFailed {
    /// Nothing was sent.
    NotRun(UpstreamError),
    /// The requests may have been run.
    InDoubt(UpstreamError),
}

/// Whom to ask to run an errand. A lane that is held for it and never used is given back.
#[derive(Debug)]
pub struct Runner {
    mailbox: Arc<Mailbox>,
    over: Over,
    used: AtomicBool,
}

// === impl Runner ===

impl Runner {
    pub fn new(mailbox: Arc<Mailbox>, over: Over) -> Self {
        Self { mailbox, over, used: AtomicBool::new(false) }
    }

    /// Whether `run` can be called again.
    pub(super) fn may_run_again(&self) -> bool {
        matches!(self.over, Over::Spare { .. })
    }

    /// Runs the requests. A lane that is held can be used once.
    ///
    /// # Errors
    /// When there are no replies, or not all.
    pub async fn run(
        &self,
        requests: Bytes,
        replies: u32,
        spoils: bool,
    ) -> Result<Vec<Bytes>, ErrandFailed> {
        self.used.store(true, Ordering::Relaxed);
        let (done, replied) = oneshot::channel();
        let errand = Errand { over: self.over, requests, replies, spoils, done };
        self.mailbox.put(Mail::Errand(errand));
        replied.await.unwrap_or_else(|_| {
            let text = "its event loop has ended".to_owned();
            Err(ErrandFailed::InDoubt(UpstreamError::Lost(text)))
        })
    }
}

impl Drop for Runner {
    fn drop(&mut self) {
        if let Over::Held(number) = self.over
            && !self.used.load(Ordering::Relaxed)
        {
            self.mailbox.put(Mail::GiveBack(number));
        }
    }
}
