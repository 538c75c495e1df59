//! What this proxy knows of the journal, for whoever asks how far Postgres is behind; and how the flusher is
//! woken by who cannot wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

use crate::upstream::journal::JournalState;

#[derive(Debug, Default)]
pub struct Journal {
    entries: AtomicU64,
    changes: AtomicU64,
    lag_ms: AtomicU64,
    dead_letters: AtomicU64,
    /// Changes that this proxy has brought to Postgres.
    flushed: AtomicU64,
    wanted: Notify,
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

// === impl Journal ===

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
}
