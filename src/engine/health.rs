//! Whether Postgres is there: the one place that knows, for all workers of this proxy.
//!
//! One watcher looks at Postgres four times a second, and at once when a worker has met trouble. When it is
//! lost, whatever waits for it is cut off and nobody else tries to connect, so that clients are answered at
//! once. Keys of mappings that allow it are then served as with `cache_first`: Redis is told first, and the
//! journal has what Postgres lacks.
//!
//! Invariants
//! - Lost is only what a new connection does not reach either, for three tries or a second.
//! - What is cut off has not been committed, unless its COMMIT was on its way: that is in doubt then.
//! - After its return Redis is still told first until Postgres has nearly caught up with the journal; so who
//!   writes through then waits for the rest for moments, not minutes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fleet::Fleet;
use crate::config::{self, OnPostgresDown, Strategy};
use crate::mapping::Mapping;
use crate::store::{Session, StoreError};
use crate::tasks::Tasks;

/// How often Postgres is looked at though nobody has asked.
const LOOK: Duration = Duration::from_millis(250);

/// How long a look may take over a connection that is there, and over a new one.
const ANSWER: Duration = Duration::from_millis(500);
const CONNECT: Duration = Duration::from_secs(1);

/// Postgres is lost after so many failures, or when they have gone on for so long.
const FAILURES: u32 = 3;
const FAILING: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(50);

/// Longer than any look takes.
const VERDICT: Duration = Duration::from_secs(3);

/// Postgres has caught up when the oldest change that it lacks is no older than this.
const NEARLY_MS: u64 = 100;

#[derive(Debug)]
pub struct Health {
    is_lost: AtomicBool,
    /// From the loss until Postgres has caught up.
    is_degraded: AtomicBool,
    /// Redis evicts what only it may have: it is never told first of what is written through as a rule.
    is_strict: AtomicBool,
    /// How often Postgres was lost.
    losses: AtomicU64,
    /// How often an operator wanted new connections.
    renewals: AtomicU64,
    /// The most changes that Postgres lacked since the loss.
    most_changes: AtomicU64,
    inner: Mutex<Inner>,
    /// How many looks have begun, and how many of them have ended.
    looks: watch::Sender<(u64, u64)>,
    wanted: Notify,
    /// Somebody was not let in: a connection that is there tells nothing.
    is_doubted: AtomicBool,
    /// The other proxies, which may go past Redis.
    fleet: Arc<Fleet>,
}

#[derive(Debug)]
struct Inner {
    /// Ends what waits for Postgres.
    cut: CancellationToken,
    /// Since when it has been lost; while degraded.
    since: Instant,
}

/// What operators are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthReport {
    pub is_lost: bool,
    pub is_degraded: bool,
    /// How long it has been so.
    pub seconds: u64,
}

/// Looks at Postgres over a connection of its own.
#[derive(Debug)]
pub(super) struct Watcher {
    health: Arc<Health>,
    postgres: config::Postgres,
    session: Option<Session>,
}

// === impl Health ===

impl Health {
    pub fn new(fleet: Arc<Fleet>) -> Self {
        Self {
            is_lost: AtomicBool::new(false),
            is_degraded: AtomicBool::new(false),
            is_strict: AtomicBool::new(false),
            losses: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
            most_changes: AtomicU64::new(0),
            inner: Mutex::new(Inner { cut: CancellationToken::new(), since: Instant::now() }),
            looks: watch::Sender::new((0, 0)),
            wanted: Notify::new(),
            is_doubted: AtomicBool::new(false),
            fleet,
        }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn is_lost(&self) -> bool {
        self.is_lost.load(Ordering::Acquire)
    }

    /// Whether Redis is told first of keys that are written through as a rule.
    pub fn is_degraded(&self) -> bool {
        self.is_degraded.load(Ordering::Acquire) && !self.is_strict.load(Ordering::Relaxed)
    }

    /// Has it never be so.
    pub(crate) fn never_degrade(&self) {
        self.is_strict.store(true, Ordering::Relaxed);
    }

    /// The strategy that holds for a mapping now.
    pub(super) fn strategy_of(&self, mapping: &Mapping) -> Strategy {
        if mapping.may_be_behind() && self.is_degraded() && !self.may_not_tell_first(mapping) {
            Strategy::CacheFirst
        } else {
            mapping.strategy()
        }
    }

    /// What becomes of keys that only Postgres could tell of; `None`: it can be asked.
    pub(super) fn policy_of(&self, mapping: &Mapping) -> Option<OnPostgresDown> {
        if !self.is_lost() {
            return None;
        }
        let is_strict = self.is_strict.load(Ordering::Relaxed);
        Some(match is_strict || !mapping.may_be_behind() || self.is_apart(mapping) {
            true => OnPostgresDown::Reject,
            false => mapping.on_postgres_down(),
        })
    }

    /// Whether others may change keys of the mapping past Redis, as this proxy may have told them that it knows;
    /// whether or not Postgres is there again.
    pub(super) fn may_not_tell_first(&self, mapping: &Mapping) -> bool {
        mapping.strategy() != Strategy::CacheFirst && self.fleet.is_apart()
    }

    /// Whether Postgres is lost, or just found again, and others may change keys of the mapping past Redis, which is not to be
    /// believed then.
    pub(super) fn is_apart(&self, mapping: &Mapping) -> bool {
        // Keys of which Redis is told first nobody writes past it.
        mapping.strategy() != Strategy::CacheFirst && self.is_lost_apart()
    }

    /// The same for what is written through as a rule.
    pub(super) fn is_lost_apart(&self) -> bool {
        self.is_degraded.load(Ordering::Acquire) && self.fleet.is_apart()
    }

    pub(super) fn fleet(&self) -> &Arc<Fleet> {
        &self.fleet
    }

    pub(super) fn losses(&self) -> u64 {
        self.losses.load(Ordering::Acquire)
    }

    /// Has workers take new connections for their next batches.
    pub(super) fn renew(&self) {
        self.renewals.fetch_add(1, Ordering::Release);
    }

    /// How often they were to.
    pub(super) fn renewals(&self) -> u64 {
        self.renewals.load(Ordering::Acquire)
    }

    pub fn report(&self) -> HealthReport {
        let is_degraded = self.is_degraded.load(Ordering::Acquire);
        HealthReport {
            is_lost: self.is_lost(),
            is_degraded: self.is_degraded(),
            seconds: if is_degraded { self.inner().since.elapsed().as_secs() } else { 0 },
        }
    }

    /// What ends when Postgres is lost; an error when it is.
    pub(super) fn cut(&self) -> Result<CancellationToken, StoreError> {
        let inner = self.inner();
        if self.is_lost() {
            return Err(StoreError::Unreachable("it is known to be lost".into()));
        }
        Ok(inner.cut.clone())
    }

    /// Whether Postgres is lost, by a look that begins now: for who has met trouble.
    pub(super) async fn is_lost_now(&self) -> bool {
        if self.is_lost() {
            return true;
        }
        let mut looks = self.looks.subscribe();
        let wanted = looks.borrow_and_update().0 + 1;
        self.is_doubted.store(true, Ordering::Release);
        self.wanted.notify_one();
        let ended = looks.wait_for(|(_, ended)| *ended >= wanted);
        // Without a watcher nobody looks.
        drop(timeout(VERDICT, ended).await);
        self.is_lost()
    }

    fn lose(&self, error: &StoreError) {
        let mut inner = self.inner();
        if self.is_lost() {
            return;
        }
        if !self.is_degraded.load(Ordering::Acquire) {
            inner.since = Instant::now();
            self.most_changes.store(0, Ordering::Relaxed);
        }
        self.losses.fetch_add(1, Ordering::Release);
        self.is_degraded.store(true, Ordering::Release);
        self.is_lost.store(true, Ordering::Release);
        inner.cut.cancel();
        drop(inner);
        tracing::warn!(%error, "Postgres is lost: mapped keys are served from Redis, where their mappings allow");
    }

    fn find_again(&self) {
        let mut inner = self.inner();
        if self.is_lost() {
            inner.cut = CancellationToken::new();
            self.is_lost.store(false, Ordering::Release);
        }
    }

    /// How far Postgres is behind, by a look at Redis that has just ended.
    pub(super) fn tell_journal(&self, changes: u64, lag_ms: u64) {
        if !self.is_degraded.load(Ordering::Acquire) {
            return;
        }
        let most = self.most_changes.fetch_max(changes, Ordering::Relaxed).max(changes);
        let inner = self.inner();
        if self.is_lost() || (changes > 0 && lag_ms > NEARLY_MS) {
            return;
        }
        self.is_degraded.store(false, Ordering::Release);
        let seconds = inner.since.elapsed().as_secs_f64();
        drop(inner);
        tracing::info!(seconds, changes = most, "Postgres is there again, and has caught up");
    }

    fn begin_look(&self) {
        self.looks.send_modify(|(begun, _)| *begun += 1);
    }

    fn end_look(&self) {
        self.looks.send_modify(|(begun, ended)| *ended = *begun);
    }
}

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(health: Arc<Health>, postgres: &config::Postgres) -> Self {
        Self { health, postgres: postgres.clone(), session: None }
    }

    /// Watches until it is asked to stop.
    pub(super) async fn run(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.keep_looking() => {}
            () = tasks.stopping() => {}
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn keep_looking(&mut self) {
        let health = Arc::clone(&self.health);
        loop {
            health.begin_look();
            if health.is_doubted.swap(false, Ordering::AcqRel) {
                // A server that has died may leave sessions for some moments.
                self.session = None;
            }
            match self.look().await {
                Ok(()) => health.find_again(),
                Err(error) => health.lose(&error),
            }
            health.end_look();
            tokio::select! {
                () = health.wanted.notified() => {}
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn look(&mut self) -> Result<(), StoreError> {
        let (since, mut failures) = (Instant::now(), 0);
        loop {
            let Err(error) = self.look_once().await else { return Ok(()) };
            self.session = None;
            failures += 1;
            if self.health.is_lost() || failures >= FAILURES || since.elapsed() >= FAILING {
                return Err(error);
            }
            sleep(PAUSE).await;
        }
    }

    async fn look_once(&mut self) -> Result<(), StoreError> {
        let late = |limit: Duration| StoreError::Unreachable(format!("no answer within {limit:?}"));
        if self.session.is_none() {
            let connecting = Session::connect(&self.postgres);
            let connected = timeout(CONNECT, connecting).await;
            self.session = Some(connected.unwrap_or_else(|_| Err(late(CONNECT)))?);
        }
        let Some(session) = &mut self.session else { return Ok(()) };
        timeout(ANSWER, session.look()).await.unwrap_or_else(|_| Err(late(ANSWER)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alone() -> Health {
        Health::new(Arc::new(Fleet::new(config::Split::Refuse)))
    }

    fn gone() -> StoreError {
        StoreError::Unreachable("gone".into())
    }

    #[test]
    fn what_waits_is_cut_off_and_nobody_else_tries() {
        let health = alone();
        let cut = health.cut().unwrap();
        assert!(!cut.is_cancelled() && !health.is_degraded());
        health.lose(&gone());
        assert!(cut.is_cancelled() && health.is_lost() && health.is_degraded());
        assert!(health.cut().is_err());
        health.find_again();
        assert!(!health.is_lost() && !health.cut().unwrap().is_cancelled());
        assert_eq!(health.losses(), 1);
    }

    #[test]
    fn redis_is_told_first_until_postgres_has_nearly_caught_up() {
        let health = alone();
        health.lose(&gone());
        health.tell_journal(0, 0);
        assert!(health.is_degraded(), "it is lost");
        health.find_again();
        health.tell_journal(5, NEARLY_MS + 1);
        assert!(health.is_degraded());
        health.tell_journal(5, NEARLY_MS);
        assert!(!health.is_degraded());
    }

    #[test]
    fn a_redis_that_evicts_is_never_told_first() {
        let health = alone();
        health.never_degrade();
        health.lose(&gone());
        assert!(health.is_lost() && !health.is_degraded());
    }
}
