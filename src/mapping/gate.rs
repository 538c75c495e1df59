//! The gate of a mapping: by which strategy its keys are served now, and whether any operation on them is
//! under way. A strategy is changed while the gate is closed and nobody is inside.
//!
//! Invariants
//! - Who is inside sees one strategy for all of his time.
//! - Who has found the gate closed has not been inside; who has closed it and then found nobody inside knows
//!   that nobody will be.
//! - While Redis alone has the keys, nobody is let in: their requests pass through, and are counted only once the
//!   gate is closed, by the event loops that have them under way.
//!
//! Who is inside is counted in several places, so that event loops do not wait for each other's memory. One
//! leaves where he came in, and so do those whom he let in.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};

use crate::config::Strategy;

/// Places to count in: a few more than there are threads that serve clients, most often.
const PLACES: usize = 8;

/// Of one mapping; it lives as long as the program.
#[derive(Debug)]
pub struct Gate {
    strategy: AtomicU8,
    /// Which entry of `respgres.control` the strategy is from; 0: the configuration file.
    version: AtomicU64,
    /// Redis may have keys that Postgres lacks.
    imports: AtomicBool,
    is_closed: AtomicBool,
    inside: [Place; PLACES],
}

/// On a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Place(AtomicUsize);

/// Somebody is inside.
#[derive(Debug)]
pub struct Pass {
    gate: &'static Gate,
    place: usize,
}

thread_local! {
    static PLACE: Cell<usize> = const { Cell::new(PLACES) };
}

static NEXT_PLACE: AtomicUsize = AtomicUsize::new(0);

// === impl Gate ===

impl PartialEq for Gate {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Gate {}

impl Gate {
    /// An open one. There is one for each mapping of the configuration, for as long as the program runs.
    pub fn new(strategy: Strategy, imports: bool) -> &'static Self {
        Box::leak(Box::new(Self {
            strategy: AtomicU8::new(strategy as u8),
            version: AtomicU64::new(0),
            imports: AtomicBool::new(imports),
            is_closed: AtomicBool::new(false),
            inside: Default::default(),
        }))
    }

    pub fn strategy(&self) -> Strategy {
        let number = usize::from(self.strategy.load(Ordering::Acquire));
        Strategy::ALL[number]
    }

    /// Whether a read may be answered by Redis.
    pub fn reads_redis(&self) -> bool {
        matches!(self.strategy(), Strategy::DualWrite | Strategy::CacheFirst)
    }

    pub fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Whether Redis may have keys that Postgres lacks.
    pub fn imports(&self) -> bool {
        self.imports.load(Ordering::Acquire)
    }

    /// Whether the keys have a side in Postgres.
    pub fn has_rows(&self) -> bool {
        self.strategy() != Strategy::RedisOnly
    }

    /// Whether requests for the keys pass through, uncounted.
    pub fn passes_through(&self) -> bool {
        // In this order: who sees it open after a change sees the change.
        !self.is_closed() && !self.has_rows()
    }

    /// Lets somebody in; `None` while it is closed, or Redis alone has the keys.
    pub fn enter(&'static self) -> Option<Pass> {
        let pass = self.hold();
        (!self.is_closed() && self.has_rows()).then_some(pass)
    }

    /// Counts somebody for whom the keys are in Redis alone; `None` while it is closed, or Postgres has them.
    pub fn enter_passing(&'static self) -> Option<Pass> {
        let pass = self.hold();
        self.passes_through().then_some(pass)
    }

    /// Counts somebody, also while it is closed: he may be at the keys since before.
    pub fn hold(&'static self) -> Pass {
        Pass::new(self, this_place())
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::SeqCst)
    }

    pub fn close(&self) {
        self.is_closed.store(true, Ordering::SeqCst);
    }

    /// Whether nobody is inside. Of a gate that is closed it stays so.
    pub fn is_empty(&self) -> bool {
        self.inside.iter().all(|place| place.0.load(Ordering::SeqCst) == 0)
    }

    /// Goes by this strategy from now on; to be called while it is closed, and nobody inside.
    pub fn adopt(&self, strategy: Strategy, version: u64) {
        if !self.has_rows() && strategy != Strategy::RedisOnly {
            // All keys are in Redis now.
            self.imports.store(true, Ordering::Release);
        }
        self.strategy.store(strategy as u8, Ordering::Release);
        self.version.store(version, Ordering::Release);
    }

    /// The strategy is the same in a newer version of the entry.
    pub fn confirm(&self, version: u64) {
        self.version.store(version, Ordering::Release);
    }

    pub fn open(&self) {
        self.is_closed.store(false, Ordering::SeqCst);
    }
}

// === impl Pass ===

impl Pass {
    fn new(gate: &'static Gate, place: usize) -> Self {
        gate.inside[place].0.fetch_add(1, Ordering::SeqCst);
        Self { gate, place }
    }
}

impl Clone for Pass {
    fn clone(&self) -> Self {
        Self::new(self.gate, self.place)
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.gate.inside[self.place].0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where this thread counts.
fn this_place() -> usize {
    PLACE.with(|place| {
        if place.get() == PLACES {
            place.set(NEXT_PLACE.fetch_add(1, Ordering::Relaxed) % PLACES);
        }
        place.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_inside_keeps_the_strategy_and_those_he_lets_in_count_too() {
        let gate = Gate::new(Strategy::DualWrite, false);
        let pass = gate.enter().unwrap();
        gate.close();
        assert!(gate.enter().is_none());
        let other = pass.clone();
        drop(pass);
        assert!(!gate.is_empty());
        std::thread::spawn(move || drop(other)).join().unwrap();
        assert!(gate.is_empty());
        gate.adopt(Strategy::PostgresOnly, 3);
        gate.open();
        assert_eq!((gate.strategy(), gate.version()), (Strategy::PostgresOnly, 3));
        assert!(gate.enter().is_some());
    }

    #[test]
    fn keys_that_redis_alone_has_pass_through_until_it_is_closed_and_are_imported_afterwards() {
        let gate = Gate::new(Strategy::RedisOnly, false);
        assert!(gate.passes_through() && gate.enter().is_none());
        let passing = gate.enter_passing().unwrap();
        gate.close();
        assert!(!gate.passes_through() && gate.enter_passing().is_none());
        let held = gate.hold();
        drop(passing);
        assert!(!gate.is_empty());
        drop(held);
        assert!(gate.is_empty() && !gate.imports());
        gate.adopt(Strategy::DualWrite, 2);
        gate.open();
        assert!(gate.imports() && gate.enter().is_some() && gate.enter_passing().is_none());
    }

    #[test]
    fn nobody_slips_in_while_it_is_closed() {
        let gate = Gate::new(Strategy::DualWrite, false);
        let threads: Vec<_> = (0..4)
            .map(|_| {
                std::thread::spawn(move || {
                    for _ in 0..2000 {
                        if let Some(_pass) = gate.enter() {
                            let before = gate.strategy();
                            std::thread::yield_now();
                            assert_eq!(gate.strategy(), before);
                        }
                    }
                })
            })
            .collect();
        for version in 1..200 {
            gate.close();
            while !gate.is_empty() {
                std::thread::yield_now();
            }
            let strategies = [Strategy::PostgresOnly, Strategy::CacheFirst, Strategy::DualWrite];
            gate.adopt(strategies[usize::try_from(version % 3).unwrap()], version);
            gate.open();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    }
}
