//! Whether what Redis says of mapped keys is believed: shared by everybody who reads or writes them.
//!
//! Redis is believed only in the run that the keeper has looked through (see `keeper`), and not from
//! the moment on at which a write goes past it. What is not believed is asked of Postgres.
//!
//! Invariants
//! - A write that Redis is told of is told to the run that the keeper has met.
//! - A write goes past Redis only while it is out of reach, and holds a `Bypass` until after its COMMIT.
//!   Its keys stand in the outbox then.
//! - Redis is believed again only when no such write is under way, and what they left in the outbox has
//!   been worked off since.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::journal::Journal;
use crate::upstream::RunId;

#[derive(Debug, Default)]
pub(super) struct Trust {
    /// The run that is believed; 0 for none.
    believed: AtomicU64,
    /// The run that the keeper has met last, believed or not yet; 0 for none.
    met: AtomicU64,
    /// Writes go past Redis.
    is_out: AtomicBool,
    inner: Mutex<Inner>,
    /// Something has changed that the keeper has to know.
    changed: Notify,
    /// Redis is believed now.
    settled: Notify,
    pub(super) journal: Journal,
}

#[derive(Debug, Default)]
struct Inner {
    /// Writes under way that go past Redis.
    bypasses: usize,
    /// How often Redis was lost.
    losses: u64,
    /// How often it was lost while it was there.
    outages: u64,
    /// When the last outage began.
    out_since: Option<Instant>,
}

/// Whether a proxy goes past Redis, for the others to know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outage {
    /// How many there were, this one too.
    pub(super) number: u64,
    /// It is not over: Redis may have copies of before it.
    pub(super) lasts: bool,
}

/// The right to write past Redis, until it is dropped.
#[derive(Debug)]
pub(super) struct Bypass(Arc<Trust>);

/// One attempt of the keeper's to make Redis believable again.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    losses: u64,
}

// === impl Trust ===

impl Trust {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what a connection to this run says is believed.
    pub(super) fn covers(&self, run: Option<RunId>) -> bool {
        run.is_some_and(|run| run.number() == self.believed.load(Ordering::Acquire))
    }

    /// Whether there is no Redis to talk to.
    pub(super) fn is_out(&self) -> bool {
        self.is_out.load(Ordering::Acquire)
    }

    /// Whether this is another run than the keeper has met: others may see, and believe, copies there that
    /// nothing said to this one reaches.
    pub(super) fn is_elsewhere(&self, run: Option<RunId>) -> bool {
        let met = self.met.load(Ordering::Acquire);
        met != 0 && run.is_none_or(|run| run.number() != met)
    }

    pub(super) fn believes_any(&self) -> bool {
        self.believed.load(Ordering::Acquire) != 0
    }

    /// Completes once Redis is believed.
    pub(super) async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            if self.believes_any() {
                return;
            }
            settled.await;
        }
    }

    /// Redis is out of reach: from now on nobody believes it and writes go past it, until the keeper has
    /// got it back.
    pub(super) fn lose(&self) {
        let mut inner = self.inner();
        inner.losses += 1;
        if !self.is_out() {
            inner.outages += 1;
            inner.out_since = Some(Instant::now());
        }
        self.believed.store(0, Ordering::Release);
        self.is_out.store(true, Ordering::Release);
        drop(inner);
        self.changed.notify_one();
    }

    /// The last time that Redis was lost.
    pub(super) fn outage(&self) -> Outage {
        let inner = self.inner();
        let is_whole = self.believes_any() && inner.bypasses == 0;
        Outage { number: inner.outages, lasts: inner.outages > 0 && !is_whole }
    }

    /// How long ago the last one began.
    pub(super) fn outage_age(&self) -> Duration {
        self.inner().out_since.map_or(Duration::MAX, |since| since.elapsed())
    }

    /// The right to write past Redis; `None`: it is there.
    pub(super) fn bypass(self: &Arc<Self>) -> Option<Bypass> {
        let mut inner = self.inner();
        if !self.is_out() {
            return None;
        }
        inner.bypasses += 1;
        Some(Bypass(Arc::clone(self)))
    }

    // --- the keeper's ---

    /// Redis answers, in this run: writes go to it again, though nobody believes it yet.
    pub(super) fn begin_again(&self, run: RunId) -> Attempt {
        let inner = self.inner();
        self.believed.store(0, Ordering::Release);
        self.met.store(run.number(), Ordering::Release);
        self.is_out.store(false, Ordering::Release);
        Attempt { losses: inner.losses }
    }

    /// Whether no write goes past Redis any more.
    pub(super) fn is_free_of_bypasses(&self) -> bool {
        self.inner().bypasses == 0
    }

    /// Believes this run; false when Redis was lost since the attempt began.
    pub(super) fn believe(&self, run: RunId, attempt: Attempt) -> bool {
        let inner = self.inner();
        let is_good = inner.losses == attempt.losses && inner.bypasses == 0;
        if is_good {
            self.believed.store(run.number(), Ordering::Release);
            self.settled.notify_waiters();
        }
        is_good
    }

    /// Completes when Redis has been lost, or `poke` was called, since the last time.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// There is something for the keeper to do.
    pub(super) fn poke(&self) {
        self.changed.notify_one();
    }
}

impl Drop for Bypass {
    fn drop(&mut self) {
        let mut inner = self.0.inner();
        inner.bypasses -= 1;
        if inner.bypasses == 0 {
            self.0.changed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(digit: char) -> RunId {
        RunId::parse(&String::from(digit).repeat(16)).unwrap()
    }

    #[test]
    fn only_the_run_that_was_looked_through_is_believed() {
        let trust = Trust::default();
        assert!(!trust.covers(Some(run('a'))) && !trust.covers(None));
        assert!(!trust.is_elsewhere(Some(run('a'))) && !trust.is_elsewhere(None));
        let attempt = trust.begin_again(run('a'));
        assert!(trust.believe(run('a'), attempt));
        assert!(trust.covers(Some(run('a'))) && !trust.is_elsewhere(Some(run('a'))));
        assert!(trust.is_elsewhere(Some(run('b'))) && trust.is_elsewhere(None));
        assert!(!trust.covers(Some(run('b'))) && !trust.covers(None));
    }

    #[test]
    fn a_write_past_redis_keeps_it_from_being_believed() {
        let trust = Arc::new(Trust::default());
        assert!(trust.bypass().is_none());
        assert_eq!(trust.outage(), Outage::default());
        trust.lose();
        trust.lose();
        let outage = Outage { number: 1, lasts: true };
        assert_eq!(trust.outage(), outage);
        let bypass = trust.bypass().unwrap();
        let attempt = trust.begin_again(run('a'));
        assert!(trust.bypass().is_none());
        assert!(!trust.believe(run('a'), attempt));
        drop(bypass);
        assert!(trust.is_free_of_bypasses());
        assert_eq!(trust.outage(), outage, "it has old copies");
        assert!(trust.believe(run('a'), attempt));
        assert_eq!(trust.outage(), Outage { number: 1, lasts: false });
        trust.lose();
        assert!(!trust.covers(Some(run('a'))));
        assert!(!trust.believe(run('a'), attempt));
    }
}
