//! What is counted, where it is counted, and how it is told.
//!
//! Event loops count in counters of their own ([`LoopCounts`]), workers in those of the mapping
//! ([`MappingCounts`]); who asks adds them up.
//!
//! Invariants
//! - To count takes no lock and no allocation, and for what passes through no look at a clock.
//! - Labels are bounded: commands by the command table, mappings by the configuration file, all else by lists.
//!   Nothing that a client names becomes one.

mod counts;
mod document;
mod histogram;
mod samples;
mod sessions;
mod table;
mod troubles;

use std::sync::{Arc, Mutex, PoisonError};

pub use counts::{Counter, Error, LoopCounts, MappingCounts, Side, TIMED, Way};
pub use document::document;
pub use histogram::{Histogram, Snapshot};
pub use samples::{Samples, Value};
pub use sessions::{OpenSession, Role, Sessions};
pub use table::{FAMILIES, Family, Kind};
pub use troubles::{Recorder, Trouble, Troubles};

/// Operations of a batch.
const BATCHES: &[u64] = &[1, 2, 5, 10, 20, 50, 100, 200, 500, 1000];

/// All that one proxy counts.
#[derive(Debug)]
pub struct Metrics {
    /// Rows of the command table, and one for what is not in it.
    commands: usize,
    loops: Mutex<Vec<Arc<LoopCounts>>>,
    /// By their places in the configuration file.
    mappings: Vec<Arc<MappingCounts>>,
    /// Operations that were brought to Postgres in one transaction.
    pub batches: Histogram,
    /// Statements that ran out of time.
    pub slow_queries: Counter,
    /// Requests and transactions that Redis was to run on lent values.
    pub loans: Counter,
    pub sessions: Arc<Sessions>,
    errors: [Counter; Error::ALL.len()],
}

// === impl Metrics ===

impl Metrics {
    /// For so many commands and mappings.
    pub fn new(commands: usize, mappings: usize) -> Self {
        Self {
            commands: commands + 1,
            loops: Mutex::default(),
            mappings: (0..mappings).map(|_| Arc::default()).collect(),
            batches: Histogram::new(BATCHES, 1.0),
            slow_queries: Counter::default(),
            loans: Counter::default(),
            sessions: Arc::default(),
            errors: Default::default(),
        }
    }

    /// Counters for work that is no client's; its connections are counted with all others.
    pub fn aside(&self) -> Self {
        let sessions = Arc::clone(&self.sessions);
        Self { sessions, ..Self::new(self.commands - 1, self.mappings.len()) }
    }

    /// Counters for one more event loop.
    pub fn of_new_loop(&self) -> Arc<LoopCounts> {
        let counts = Arc::new(LoopCounts::new(self.commands, self.mappings.len()));
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&counts));
        counts
    }

    /// Those of the mapping at this place.
    pub fn mapping(&self, index: usize) -> Option<&Arc<MappingCounts>> {
        self.mappings.get(index)
    }

    /// Counts an error that respgres itself has told a client.
    pub fn tell_error(&self, text: &str) {
        self.errors[Error::of(text) as usize].add(1);
    }

    pub fn errors(&self, error: Error) -> u64 {
        self.errors[error as usize].get()
    }

    /// Requests by the command's row and their way, over all loops; those that there were.
    pub fn requests(&self) -> Vec<(usize, Way, u64)> {
        let loops = self.loops();
        let pairs = (0..self.commands).flat_map(|row| Way::ALL.map(|way| (row, way)));
        let sums = pairs.map(|(row, way)| {
            (row, way, loops.iter().map(|counts| counts.requests(row, way)).sum())
        });
        sums.filter(|(_, _, count)| *count > 0).collect()
    }

    /// Reads of a mapping that Redis has answered.
    pub fn hits(&self, mapping: usize) -> u64 {
        self.loops().iter().map(|counts| counts.hits(mapping)).sum()
    }

    /// How long took what event loops have done themselves of a mapping, of what was timed.
    pub fn loop_seconds(&self, mapping: usize, side: Side) -> Snapshot {
        let mut sum = Snapshot::default();
        self.loops().iter().for_each(|counts| sum.add(counts.seconds(mapping, side)));
        sum
    }

    /// Clients that have come so far.
    pub fn connections(&self) -> u64 {
        self.loops().iter().map(|counts| counts.connections()).sum()
    }

    fn loops(&self) -> Vec<Arc<LoopCounts>> {
        self.loops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_loops_have_counted_is_added_up() {
        let metrics = Metrics::new(3, 2);
        let loops = [metrics.of_new_loop(), metrics.of_new_loop()];
        loops[0].request(0, Way::Pass);
        loops[1].request(0, Way::Pass);
        // What is not in the table is counted as one.
        loops[1].request(3, Way::Refused);
        loops[1].hit(2, 1);
        loops[0].enter();
        let expected = [(0, Way::Pass, 2), (2, Way::Hit, 1), (3, Way::Refused, 1)];
        assert_eq!(metrics.requests(), expected);
        assert_eq!((metrics.hits(0), metrics.hits(1), metrics.connections()), (0, 1, 1));
    }

    #[test]
    fn errors_are_of_few_kinds() {
        let metrics = Metrics::new(1, 1);
        for text in ["ERR no", "TRYAGAIN later", "MINE own", ""] {
            metrics.tell_error(text);
        }
        let told = Error::ALL.map(|error| (error.name(), metrics.errors(error)));
        let expected = [
            ("err", 1),
            ("wrongtype", 0),
            ("tryagain", 1),
            ("noauth", 0),
            ("noperm", 0),
            ("other", 2),
        ];
        assert_eq!(told, expected);
    }
}
