//! Hits under check: a share of the reads that Redis has answered is compared with Postgres, soon after.
//!
//! An event loop decides of each hit by counting down, and posts the key of one that is drawn. One worker, with
//! connections of its own, compares the keys as `verify` does: first without their locks, then, where there seems to be a
//! difference, under them. It only looks: what is different stays so.
//!
//! Invariants
//! - Nobody waits for a check, and what waits to be checked is bounded: what there is no room for is counted as
//!   skipped.
//! - A difference is told only of a copy that readers would have been given: Redis was believed, the mapping read from it,
//!   and neither the journal nor the outbox had something for the key.
//! - Each hit that was drawn is counted once: same, different or skipped.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::sleep;

use super::super::EngineSettings;
use super::super::rescue::rescue;
use super::super::tables::Tables;
use super::super::trust::Trust;
use super::compare::{Held, What, difference};
use super::verify::{Seen, look, look_under_lock};
use super::{Ground, Hand, MovingError, Part};
use crate::mapping::{MappedKey, Mapping, Registry};
use crate::metrics::{MappingCounts, Metrics};
use crate::protocol::request::{RequestLimits, Scanned, Scanner};
use crate::store::RowLock;
use crate::tasks::Tasks;

/// Keys that may wait to be checked.
const ROOM: usize = 1000;

/// Keys that are compared at once, and how long each of them costs the next ones: at most 1000 a second.
const BATCH: usize = 100;
const PACE: Duration = Duration::from_millis(1);

/// How often a key is looked at that Postgres is going to have, or that is going to be dropped: for a second.
const TRIES: u32 = 50;

/// How long nothing is checked after a store was out of reach.
const PAUSE: Duration = Duration::from_millis(500);

/// How seldom the log tells of differences of one mapping.
const SILENCE: Duration = Duration::from_mins(1);

/// It was a request when it came: no bound is too small for it.
const LIMITS: RequestLimits =
    RequestLimits { max_argument_bytes: usize::MAX, max_inline_bytes: usize::MAX };

/// The keys under way from event loops to the worker; of a proxy that checks any.
#[derive(Debug)]
pub(in crate::engine) struct Checks {
    share: f64,
    metrics: Arc<Metrics>,
    to: Sender<Bytes>,
    /// Until the worker takes them.
    keys: Mutex<Option<Receiver<Bytes>>>,
}

/// Which hits of one event loop are checked.
#[derive(Debug)]
pub struct Draw {
    share: f64,
    /// Hits before the next one that is drawn.
    left: Cell<u64>,
    metrics: Arc<Metrics>,
    to: Sender<Bytes>,
}

/// The worker.
pub(in crate::engine) struct Checker {
    ground: Arc<Ground>,
    hand: Hand,
    keys: Receiver<Bytes>,
    /// How often it has taken new connections because an operator wanted it.
    renewals: u64,
    /// By the mapping's place: when differences were last told, and how many have come since.
    told: HashMap<usize, (Instant, u64)>,
}

// === impl Checks ===

impl Checks {
    /// `None`: no hit is checked.
    pub(in crate::engine) fn of(settings: &EngineSettings) -> Option<Self> {
        let share = settings.verify_hits;
        (share > 0.0).then(|| Self::new(share, Arc::clone(&settings.metrics), ROOM))
    }

    fn new(share: f64, metrics: Arc<Metrics>, room: usize) -> Self {
        let (to, keys) = channel(room);
        Self { share, metrics, to, keys: Mutex::new(Some(keys)) }
    }

    /// For the one worker.
    pub(in crate::engine) fn take_keys(&self) -> Option<Receiver<Bytes>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// For one more event loop.
    pub(in crate::engine) fn draw(&self) -> Draw {
        let (metrics, to) = (Arc::clone(&self.metrics), self.to.clone());
        Draw { share: self.share, left: Cell::new(gap(self.share)), metrics, to }
    }
}

// === impl Draw ===

impl Draw {
    /// Whether the hit that has just happened is to be checked.
    pub fn is_drawn(&self) -> bool {
        match self.left.get() {
            0 => {
                self.left.set(gap(self.share));
                true
            }
            left => {
                self.left.set(left - 1);
                false
            }
        }
    }

    /// Has it checked: the request as it came, of one key of the mapping at this place.
    pub fn post(&self, request: &[u8], mapping: usize) {
        let mut scanner = Scanner::new();
        if !matches!(scanner.next(request, true, &LIMITS), Scanned::Request(_)) {
            debug_assert!(false, "it was a request when it came");
            return;
        }
        let key = Bytes::copy_from_slice(scanner.argument(request, 1));
        if let Err(TrySendError::Full(_)) = self.to.try_send(key)
            && let Some(counts) = self.metrics.mapping(mapping)
        {
            counts.skipped_checks.add(1);
        }
    }
}

/// How many hits are left out before the next one, if each is drawn with this probability.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the quotient of two logarithms below 0; what is too large becomes the largest number"
)]
fn gap(share: f64) -> u64 {
    if share >= 1.0 {
        return 0;
    }
    ((1.0 - fastrand::f64()).ln() / (-share).ln_1p()) as u64
}

// === impl Checker ===

impl Checker {
    pub(in crate::engine) fn new(
        settings: &EngineSettings,
        registry: Arc<Registry>,
        tables: Arc<Tables>,
        trust: Arc<Trust>,
        keys: Receiver<Bytes>,
    ) -> Self {
        let renewals = settings.health.renewals();
        let settings = settings.clone();
        // It has no part in moving keys, and needs none: it changes nothing.
        let (part, session) = (Arc::new(Part::new(&registry)), tokio::sync::Mutex::default());
        let ground = Arc::new(Ground { settings, registry, tables, trust, part, session });
        Self { hand: Hand::new(&ground), ground, keys, renewals, told: HashMap::new() }
    }

    /// Checks until it is asked to stop.
    pub(in crate::engine) async fn run(mut self, tasks: &Tasks) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                () = tasks.stopping() => break,
                taken = self.keys.recv_many(&mut batch, BATCH) => if taken == 0 { break },
            }
            let keys: Vec<MappedKey> =
                batch.drain(..).filter_map(|key| self.ground.registry.mapped_key(&key)).collect();
            let mut pause = PACE * u32::try_from(keys.len()).unwrap_or(u32::MAX);
            let checked = tokio::select! {
                checked = self.check(keys) => checked,
                () = tasks.stopping() => break,
            };
            if !checked {
                pause = PAUSE;
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = tasks.stopping() => break,
            }
        }
        self.hand.close().await;
    }

    /// False when a store was out of reach.
    async fn check(&mut self, mut keys: Vec<MappedKey>) -> bool {
        let renewals = self.ground.settings.health.renewals();
        if std::mem::replace(&mut self.renewals, renewals) != renewals {
            self.take_new_hand().await;
        }
        keys.sort_by_key(|key| key.mapping.index);
        let mut is_well = true;
        for keys in keys.chunk_by(|one, other| one.mapping.index == other.mapping.index) {
            let Some(mapping) = keys.first().map(|key| Arc::clone(&key.mapping)) else { continue };
            let metrics = &self.ground.settings.metrics;
            let Some(counts) = metrics.mapping(mapping.index).cloned() else { continue };
            let mut told = Told { counts: &counts, left: keys.len(), different: 0 };
            let done = rescue(compare(&mut self.hand, &mapping, keys, &mut told)).await;
            told.counts.skipped_checks.add(told.left as u64);
            self.warn(&mapping, told.different);
            match done {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::debug!(%error, mapping = %mapping.name, "hits were not checked");
                    is_well = false;
                    self.take_new_hand().await;
                }
                Err(_) => {
                    tracing::error!("the check of hits panicked; it goes on with new connections");
                    is_well = false;
                    self.hand = Hand::new(&self.ground);
                }
            }
        }
        is_well
    }

    /// Whatever the old one was at.
    async fn take_new_hand(&mut self) {
        std::mem::replace(&mut self.hand, Hand::new(&self.ground)).close().await;
    }

    /// Tells the log at once, and then seldom.
    fn warn(&mut self, mapping: &Mapping, different: u64) {
        if different == 0 {
            return;
        }
        let told = self.told.get(&mapping.index);
        let (last, untold) = told.map_or((None, 0), |(last, untold)| (Some(*last), *untold));
        let different = untold + different;
        if let Some(last) = last.filter(|last| last.elapsed() < SILENCE) {
            self.told.insert(mapping.index, (last, different));
            return;
        }
        self.told.insert(mapping.index, (Instant::now(), 0));
        tracing::warn!(mapping = %mapping.name, different, "Redis has answered what Postgres does not have");
    }
}

/// Counts what has become of keys of one mapping.
struct Told<'c> {
    counts: &'c MappingCounts,
    /// Keys of which nothing has been counted yet.
    left: usize,
    different: u64,
}

/// Compares keys of one mapping that Redis has given to readers.
async fn compare(
    hand: &mut Hand,
    mapping: &Arc<Mapping>,
    keys: &[MappedKey],
    told: &mut Told<'_>,
) -> Result<(), MovingError> {
    // One strategy holds for all of the time.
    let pass = mapping.gate.enter();
    if pass.is_none() || !mapping.gate.reads_redis() || !is_believed(hand).await? {
        return Ok(());
    }
    let Ok(mapping) = hand.current(mapping) else { return Ok(()) };
    let held = look(hand, &mapping, keys).await?;
    let wanted: Vec<&MappedKey> = keys.iter().collect();
    let read = hand.session().await?.read(&mapping, &wanted, RowLock::None).await?;
    for ((key, row), held) in keys.iter().zip(&read.rows).zip(&held) {
        match held {
            // There is nothing, or too much, to be compared.
            Held::Nothing | Held::Large => {}
            Held::Dirty => look_again(hand, &mapping, key, told).await?,
            _ if difference(&mapping, row, read.now_ms, held, false).is_some() => {
                look_again(hand, &mapping, key, told).await?;
            }
            _ => told.same(),
        }
    }
    Ok(())
}

/// Compares a key under its lock.
async fn look_again(
    hand: &mut Hand,
    mapping: &Arc<Mapping>,
    key: &MappedKey,
    told: &mut Told<'_>,
) -> Result<(), MovingError> {
    let apart = match look_under_lock(hand, mapping, key, false, TRIES).await? {
        Seen::Same => {
            told.same();
            return Ok(());
        }
        Seen::NotYet => return Ok(()),
        Seen::Different(apart) => apart,
    };
    let what = apart.found.what;
    let session = hand.session().await?;
    // What only Redis has of a mapping that imports is what it is to have.
    let is_original = what == What::MissingInPostgres
        && mapping.imports()
        && session.has_had(mapping, &[&key.key]).await? == [false];
    session.rollback().await?;
    if is_original || !is_believed(hand).await? {
        return Ok(());
    }
    tracing::trace!(key = %key.key.escape_ascii(), what = what.text(), "a hit differs from Postgres");
    told.different();
    Ok(())
}

/// Whether readers are given what this connection is told.
async fn is_believed(hand: &mut Hand) -> Result<bool, MovingError> {
    let run = hand.control.run_id().await?;
    Ok(hand.ground.trust.covers(run) && !hand.ground.settings.health.is_lost_apart())
}

// === impl Told ===

impl Told<'_> {
    fn same(&mut self) {
        self.left -= 1;
        self.counts.same_checks.add(1);
    }

    fn different(&mut self) {
        self.left -= 1;
        self.different += 1;
        self.counts.different_checks.add(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(share: f64, hits: u32) -> u32 {
        let metrics = Arc::new(Metrics::new(1, 1));
        let draw = Checks::new(share, metrics, 1).draw();
        (0..hits).map(|_| u32::from(draw.is_drawn())).sum()
    }

    #[test]
    fn a_share_of_the_hits_is_drawn() {
        fastrand::seed(7);
        assert_eq!(drawn(1.0, 1000), 1000);
        let some = drawn(0.1, 100_000);
        assert!((9_500..10_500).contains(&some), "{some}");
        assert!(drawn(1e-9, 1000) <= 1);
        assert_eq!(drawn(f64::MIN_POSITIVE, 1000), 0);
    }

    #[test]
    fn a_key_is_posted_and_what_there_is_no_room_for_is_counted() {
        let metrics = Arc::new(Metrics::new(1, 1));
        let checks = Checks::new(1.0, Arc::clone(&metrics), 1);
        let (draw, mut keys) = (checks.draw(), checks.take_keys().unwrap());
        for _ in 0..3 {
            draw.post(b"*3\r\n$4\r\nHGET\r\n$3\r\nk:1\r\n$1\r\nf\r\n", 0);
        }
        assert_eq!(keys.try_recv().unwrap(), "k:1");
        assert!(keys.try_recv().is_err());
        assert_eq!(metrics.mapping(0).unwrap().skipped_checks.get(), 2);
    }
}
