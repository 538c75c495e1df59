//! Counters: one set for each event loop, which alone counts in it, and one for each mapping.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::histogram::{Histogram, Snapshot};

/// Microseconds.
const LATENCIES: &[u64] = &[
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 500_000, 1_000_000,
    2_500_000, 5_000_000,
];

/// Of what an event loop does itself; microseconds.
const LOOP_LATENCIES: &[u64] = &[
    50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 200_000, 500_000,
    1_000_000, 5_000_000,
];

/// Of so many operations that an event loop does itself, one is timed: of each client's reads, and of each loop's
/// writes. No pipeline is likely to be as long, nor a multiple: it would always be the same one of its requests.
pub const TIMED: u8 = 17;

/// A number that only grows; several threads may count.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// Which way a request has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// To Redis as it came.
    Pass,
    /// So, over a connection of its client's own.
    Pinned,
    /// A mapped read that Redis has answered.
    Hit,
    /// To the stores, by the mapping's strategy.
    Mapped,
    /// Over the keys of both stores.
    Survey,
    /// Answered by respgres itself.
    Local,
    Refused,
}

/// What an error of respgres' own begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    Err,
    WrongType,
    TryAgain,
    NoAuth,
    NoPerm,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Read,
    Write,
}

/// What one event loop counts. Aligned, so that no two loops write to one cache line.
#[derive(Debug)]
#[repr(align(128))]
pub struct LoopCounts {
    /// By the command's row, then by `Way`.
    requests: Box<[AtomicU64]>,
    /// By mapping.
    hits: Box<[AtomicU64]>,
    /// By mapping, then by `Side`: how long took what the loop has done itself, of what was timed.
    seconds: Box<[[Histogram; 2]]>,
    connections: AtomicU64,
}

/// What is counted of one mapping by workers.
#[derive(Debug)]
pub struct MappingCounts {
    /// By `Side`: those that went well, and those that were told an error.
    operations: [[Counter; 2]; 2],
    seconds: [Histogram; 2],
    pub misses: Counter,
    pub fills: Counter,
    /// Copies that were not made, as a writer was at the key.
    pub refused_fills: Counter,
    /// Hits that were compared with Postgres, by what came of it.
    pub same_checks: Counter,
    pub different_checks: Counter,
    pub skipped_checks: Counter,
}

// === impl Counter ===

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

// === impl Way ===

impl Way {
    pub const ALL: [Self; 7] = [
        Self::Pass,
        Self::Pinned,
        Self::Hit,
        Self::Mapped,
        Self::Survey,
        Self::Local,
        Self::Refused,
    ];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Pinned => "pinned",
            Self::Hit => "hit",
            Self::Mapped => "mapped",
            Self::Survey => "survey",
            Self::Local => "local",
            Self::Refused => "refused",
        }
    }
}

// === impl Error ===

impl Error {
    pub const ALL: [Self; 6] =
        [Self::Err, Self::WrongType, Self::TryAgain, Self::NoAuth, Self::NoPerm, Self::Other];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Err => "err",
            Self::WrongType => "wrongtype",
            Self::TryAgain => "tryagain",
            Self::NoAuth => "noauth",
            Self::NoPerm => "noperm",
            Self::Other => "other",
        }
    }

    pub(super) fn of(text: &str) -> Self {
        let first = text.split(' ').next().unwrap_or_default();
        let all = Self::ALL.into_iter();
        all.filter(|error| *error != Self::Other)
            .find(|error| first.eq_ignore_ascii_case(error.name()))
            .unwrap_or(Self::Other)
    }
}

// === impl Side ===

impl Side {
    pub const ALL: [Self; 2] = [Self::Read, Self::Write];

    /// As a label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

fn whole_us(took: Duration) -> u64 {
    u64::try_from(took.as_micros()).unwrap_or(u64::MAX)
}

// === impl LoopCounts ===

/// Cheaper than adding as one step: nobody else adds.
fn bump(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.store(counter.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }
}

impl LoopCounts {
    pub(super) fn new(commands: usize, mappings: usize) -> Self {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Self {
            requests: zeros(commands * Way::ALL.len()),
            hits: zeros(mappings),
            seconds: (0..mappings)
                .map(|_| [(); 2].map(|()| Histogram::new(LOOP_LATENCIES, 1e-6)))
                .collect(),
            connections: AtomicU64::new(0),
        }
    }

    /// One more request of the command in this row.
    pub fn request(&self, row: usize, way: Way) {
        bump(self.requests.get(row * Way::ALL.len() + way as usize));
    }

    /// One more read that Redis has answered.
    pub fn hit(&self, row: usize, mapping: usize) {
        self.request(row, Way::Hit);
        bump(self.hits.get(mapping));
    }

    /// An operation that the loop has done itself, and that was timed.
    pub fn took(&self, mapping: usize, side: Side, took: Duration) {
        if let Some(seconds) = self.seconds.get(mapping) {
            seconds[side as usize].observe(whole_us(took));
        }
    }

    /// One more client.
    pub fn enter(&self) {
        bump(Some(&self.connections));
    }

    pub(super) fn requests(&self, row: usize, way: Way) -> u64 {
        self.requests[row * Way::ALL.len() + way as usize].load(Ordering::Relaxed)
    }

    pub(super) fn hits(&self, mapping: usize) -> u64 {
        self.hits.get(mapping).map_or(0, |hits| hits.load(Ordering::Relaxed))
    }

    pub(super) fn seconds(&self, mapping: usize, side: Side) -> Snapshot {
        let seconds = self.seconds.get(mapping).map(|seconds| seconds[side as usize].snapshot());
        seconds.unwrap_or_default()
    }

    pub(super) fn connections(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }
}

// === impl MappingCounts ===

impl Default for MappingCounts {
    fn default() -> Self {
        Self {
            operations: Default::default(),
            seconds: [(); 2].map(|()| Histogram::new(LATENCIES, 1e-6)),
            misses: Counter::default(),
            fills: Counter::default(),
            refused_fills: Counter::default(),
            same_checks: Counter::default(),
            different_checks: Counter::default(),
            skipped_checks: Counter::default(),
        }
    }
}

impl MappingCounts {
    /// Counts an operation that was answered.
    pub fn operation(&self, side: Side, is_error: bool, took: Duration) {
        self.operations[side as usize][usize::from(is_error)].add(1);
        self.seconds[side as usize].observe(whole_us(took));
    }

    /// The same where it is an event loop that times some (see `LoopCounts::took`).
    pub fn untimed(&self, side: Side, is_error: bool) {
        self.operations[side as usize][usize::from(is_error)].add(1);
    }

    pub fn operations(&self, side: Side, is_error: bool) -> u64 {
        self.operations[side as usize][usize::from(is_error)].get()
    }

    pub fn seconds(&self, side: Side) -> &Histogram {
        &self.seconds[side as usize]
    }
}
