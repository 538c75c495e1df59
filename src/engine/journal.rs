//! What this proxy knows of the journal, for whoever asks how far Postgres is behind; and how the flusher is
//! woken by who cannot wait.
//!
//! Of keys that are written through as a rule the journal has changes only when some proxy had lost Postgres.
//! While it may, nothing of such keys is done past Redis: that is told from the last look at Redis that found
//! none, if Postgres has been there and nothing was written behind since.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::upstream::journal::JournalState;

#[derive(Debug)]
pub struct Journal {
    entries: AtomicU64,
    changes: AtomicU64,
    lag_ms: AtomicU64,
    dead_letters: AtomicU64,
    /// Changes that this proxy has brought to Postgres.
    flushed: AtomicU64,
    wanted: Notify,
    /// How often there was a reason to think that it may have changes of keys that are written through.
    reasons: AtomicU64,
    /// How many of the reasons the last good look has disproved.
    disproved: AtomicU64,
    /// How often Postgres had been lost by then.
    losses: AtomicU64,
    /// Steps under way that may add such changes.
    steps: AtomicU64,
}

/// As of the last look, at most about a second ago.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JournalReport {
    pub entries: u64,
    pub changes: u64,
    /// How old the oldest entry is.
    pub lag_ms: u64,
    pub dead_letters: u64,
    pub flushed: u64,
}

/// A step that may add changes of keys that are written through as a rule; until it is dropped.
#[derive(Debug)]
pub(super) struct LooseStep<'j>(&'j Journal);

/// A look at the journal, from before Redis was asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    reasons: u64,
    losses: u64,
}

// === impl Journal ===

impl Default for Journal {
    /// What was never looked at may have any changes.
    fn default() -> Self {
        Self {
            entries: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            lag_ms: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            flushed: AtomicU64::new(0),
            wanted: Notify::new(),
            reasons: AtomicU64::new(1),
            disproved: AtomicU64::new(0),
            losses: AtomicU64::new(0),
            steps: AtomicU64::new(0),
        }
    }
}

impl Journal {
    pub fn report(&self) -> JournalReport {
        let read = |number: &AtomicU64| number.load(Ordering::Relaxed);
        JournalReport {
            entries: read(&self.entries),
            changes: read(&self.changes),
            lag_ms: read(&self.lag_ms),
            dead_letters: read(&self.dead_letters),
            flushed: read(&self.flushed),
        }
    }

    pub(super) fn tell(&self, state: JournalState) {
        self.entries.store(state.entries, Ordering::Relaxed);
        self.changes.store(state.changes, Ordering::Relaxed);
        self.lag_ms.store(state.lag_ms, Ordering::Relaxed);
    }

    pub(super) fn tell_dead_letters(&self, count: u64) {
        self.dead_letters.store(count, Ordering::Relaxed);
    }

    pub(super) fn tell_flushed(&self, changes: usize) {
        self.flushed.fetch_add(changes as u64, Ordering::Relaxed);
    }

    /// Somebody waits for what is in the journal.
    pub(super) fn want(&self) {
        self.wanted.notify_one();
    }

    /// Completes when somebody waits, or has begun to since the last time.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    // --- keys that are written through as a rule ---

    /// Whether Redis may have changes of such keys that Postgres lacks, which was lost so often.
    pub(super) fn may_be_loose(&self, losses: u64) -> bool {
        self.steps.load(Ordering::SeqCst) > 0
            || self.losses.load(Ordering::Acquire) != losses
            || self.disproved.load(Ordering::Acquire) != self.reasons.load(Ordering::Acquire)
    }

    /// Whoever asks `may_be_loose` once `Split::is_apart` says so sees this step, or it sees that it is apart: one
    /// order for both (`SeqCst`), as each writes the one and reads the other.
    pub(super) fn begin_loose_step(&self) -> LooseStep<'_> {
        self.steps.fetch_add(1, Ordering::SeqCst);
        LooseStep(self)
    }

    /// `losses`: how often Postgres was lost so far.
    pub(super) fn begin_look(&self, losses: u64) -> Look {
        Look { reasons: self.reasons.load(Ordering::Acquire), losses }
    }

    /// A look at both stores has ended well. `is_loose`: Redis had such changes.
    pub(super) fn end_look(&self, look: Look, is_loose: bool) {
        if is_loose {
            self.reasons.fetch_add(1, Ordering::AcqRel);
        } else {
            self.losses.store(look.losses, Ordering::Release);
            self.disproved.store(look.reasons, Ordering::Release);
        }
    }
}

impl Drop for LooseStep<'_> {
    fn drop(&mut self) {
        // First this: there is no moment between in which nothing is known of it.
        self.0.reasons.fetch_add(1, Ordering::AcqRel);
        self.0.steps.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_look_that_began_after_the_last_reason_disproves_it() {
        let journal = Journal::default();
        assert!(journal.may_be_loose(0));
        journal.end_look(journal.begin_look(0), false);
        assert!(!journal.may_be_loose(0));
        let look = journal.begin_look(0);
        let step = journal.begin_loose_step();
        assert!(journal.may_be_loose(0));
        drop(step);
        journal.end_look(look, false);
        assert!(journal.may_be_loose(0), "what the step added may have come after the look");
        journal.end_look(journal.begin_look(0), false);
        assert!(!journal.may_be_loose(0));
        journal.end_look(journal.begin_look(0), true);
        assert!(journal.may_be_loose(0));
        journal.end_look(journal.begin_look(0), false);
        assert!(journal.may_be_loose(1), "Postgres was lost since");
    }
}
