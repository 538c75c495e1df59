//! The beat: this proxy says in both stores that it is alive, and hears who else is (see `fleet`).
//!
//! One task a store, so that one that hangs does not keep the beat from the other, and both on a thread of
//! their own, so that a proxy with much to do does not seem dead. Beats go on until all else that this proxy
//! does has ended; then it takes itself out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::time::{sleep, timeout};

use super::fleet::{Fleet, LATE, LEASE, Look, Place, Standing};
use super::switchboard::{Entry, Settled, Switchboard};
use super::switcher::{NotSwitched, call_off};
use super::trust::Trust;
use super::{EngineSettings, Health};
use crate::store::{self, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::control::Control;
use crate::upstream::{self, UpstreamError};

/// How often.
const BEAT: Duration = Duration::from_millis(500);

/// How soon, while somebody waits for what this proxy still has under way.
const SOON: Duration = Duration::from_millis(10);

/// The others are not told more often what has just been heard of them.
const HASTE: Duration = Duration::from_millis(25);

/// A store that has refused to hear of this proxy for so long is worth a warning.
const LASTING: Duration = Duration::from_secs(5);

/// Beats in both stores, until `tasks` are asked to stop.
pub(super) fn start(
    heart: &Heart,
    settings: &EngineSettings,
    tasks: &Tasks,
) -> std::io::Result<()> {
    let redis = RedisBeat::new(heart.clone(), settings);
    let postgres = PostgresBeat::new(heart.clone(), settings);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (ended, has_ended) = tokio::sync::oneshot::channel();
    let tasks_of_beats = tasks.clone();
    std::thread::Builder::new().name("beats".to_owned()).spawn(move || {
        runtime.block_on(async {
            tokio::join!(redis.run(&tasks_of_beats), postgres.run(&tasks_of_beats))
        });
        let _ = ended.send(());
    })?;
    tasks.spawn(async move {
        // It has also ended when the sender is gone.
        let _ = has_ended.await;
    });
    Ok(())
}

/// What both beats share.
#[derive(Clone, Debug)]
pub(super) struct Heart {
    pub(super) fleet: Arc<Fleet>,
    pub(super) trust: Arc<Trust>,
    pub(super) health: Arc<Health>,
    pub(super) board: Arc<Switchboard>,
    started_at_ms: i64,
}

/// Beats in Redis.
#[derive(Debug)]
struct RedisBeat {
    heart: Heart,
    control: Control,
    clock: Option<Clock>,
    lease: Lease,
}

/// Beats in Postgres.
#[derive(Debug)]
struct PostgresBeat {
    heart: Heart,
    postgres: crate::config::Postgres,
    session: Option<Session>,
    clock: Option<Clock>,
    lease: Lease,
}

/// What a store's clock said, some time after it was asked.
#[derive(Clone, Copy, Debug)]
struct Clock {
    asked_at: Instant,
    now_ms: i64,
}

/// The end of the last lease that was asked for in a store, by its clock; ms.
#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    until_ms: i64,
}

// === impl Heart ===

impl Heart {
    pub(super) fn new(
        fleet: Arc<Fleet>,
        trust: Arc<Trust>,
        health: Arc<Health>,
        board: Arc<Switchboard>,
    ) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let started_at_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        Self { fleet, trust, health, board, started_at_ms }
    }

    /// Until the next beat: it is soon where something is to be told, or waited for.
    async fn pause(&self, settled: &Settled) {
        let now = self.board.settle();
        if now != *settled {
            return;
        }
        let pause = if now.is_waiting { SOON } else { BEAT };
        tokio::select! {
            () = self.fleet.nudged() => {}
            () = sleep(pause) => {}
        }
    }

    fn standing(&self, settled: &Settled) -> String {
        let outage = self.trust.outage();
        let standing = Standing {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ms: self.started_at_ms,
            redis: self.trust.believes_any(),
            postgres: !self.health.is_lost(),
            acknowledged: settled.acknowledged.clone(),
            outages: outage.number,
            is_past_redis: outage.lasts,
            knows: self.fleet.knows(|| {
                self.health.is_lost()
                    || self.health.is_degraded()
                    || self.trust.journal.may_be_loose(self.health.losses())
            }),
            process: self.fleet.process().cloned(),
            ..Standing::default()
        };
        serde_json::to_string(&standing).expect("it has names and numbers alone")
    }
}

// === impl Clock ===

impl Clock {
    /// When a lease ends, by the store's clock, that is given now: no later than it ends for us.
    fn lease_from(self, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.asked_at) + LEASE;
        self.now_ms + i64::try_from(passed.as_millis()).unwrap_or(i64::MAX)
    }
}

// === impl Lease ===

impl Lease {
    /// The end of the next one: later than that of the last, as stores hear of no other. After a beat that took long
    /// a store's clock is taken to be as much ahead, and those of the next beats would end before it.
    fn next(&mut self, clock: Clock, now: Instant) -> i64 {
        let until_ms = clock.lease_from(now);
        let ahead_ms = self.until_ms.saturating_sub(until_ms);
        // A clock that was further ahead was set back, or was another one.
        let most_ms = i64::try_from((LATE + LEASE).as_millis()).unwrap_or(i64::MAX);
        let is_ahead = (0..most_ms).contains(&ahead_ms);
        self.until_ms = if is_ahead { self.until_ms + 1 } else { until_ms };
        self.until_ms
    }
}

// === impl RedisBeat ===

impl RedisBeat {
    fn new(heart: Heart, settings: &EngineSettings) -> Self {
        Self {
            heart,
            control: Control::new(settings.control.clone()),
            clock: None,
            lease: Lease::default(),
        }
    }

    /// Beats until it is asked to stop.
    async fn run(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.keep_beating() => {}
            () = tasks.stopping() => {}
        }
        let id = self.heart.fleet.id().to_owned();
        let leaving = self.control.stop_proxy(&id);
        if let Ok(Err(error)) = timeout(LATE, leaving).await {
            tracing::debug!(%error, "Redis was not told that this proxy stops");
        }
    }

    async fn keep_beating(&mut self) {
        let mut refused = Refusals::default();
        loop {
            let settled = self.heart.board.settle();
            let beat = timeout(LATE, self.beat(&settled)).await;
            let late = u64::try_from(LATE.as_millis()).unwrap_or(u64::MAX);
            let result = beat.unwrap_or(Err(UpstreamError::Timeout(late)));
            if let Err(error) = &result {
                self.clock = None;
                refused.tell(matches!(error, UpstreamError::Refused(_)), error);
                sleep(BEAT).await;
            } else {
                refused = Refusals::default();
                self.heart.pause(&settled).await;
            }
        }
    }

    async fn beat(&mut self, settled: &Settled) -> Result<(), UpstreamError> {
        if self.clock.is_none() {
            let asked_at = Instant::now();
            let now_ms = self.control.clock_ms().await?;
            self.clock = Some(Clock { asked_at, now_ms });
        }
        let Some(clock) = self.clock else { return Ok(()) };
        let fleet = Arc::clone(&self.heart.fleet);
        let sent_at = Instant::now();
        let entry = upstream::proxies::ProxyEntry {
            id: fleet.id().to_owned(),
            lease_until_ms: self.lease.next(clock, sent_at),
            standing: self.heart.standing(settled),
        };
        fleet.tell_redis();
        let roll = self.control.beat(&entry, &fleet.dead()).await?;
        self.clock = Some(Clock { asked_at: sent_at, now_ms: roll.now_ms });
        let is_in = |proxy: &upstream::proxies::ProxyEntry| {
            proxy.id == entry.id && proxy.lease_until_ms == entry.lease_until_ms
        };
        let is_renewed = roll.proxies.iter().any(is_in);
        let proxies = roll.proxies.into_iter();
        let proxies = proxies.map(|proxy| (proxy.id, proxy.lease_until_ms, proxy.standing));
        fleet.tell(
            Place::Redis,
            Look {
                asked_at: sent_at,
                answered_at: Instant::now(),
                now_ms: roll.now_ms,
                proxies: proxies.collect(),
            },
        );
        let newer = self.heart.board.newer_than(&roll.entries);
        for (mapping, _, text) in roll.entries {
            if let Some(entry) = Entry::parse(&text) {
                self.heart.board.hear(&mapping, entry);
            }
        }
        // Not before this proxy goes by what others may have settled without it.
        if is_renewed && !self.heart.board.settle().is_behind {
            fleet.renew(Place::Redis, sent_at);
        }
        if !newer.is_empty() {
            // Redis has lost it, or was not there.
            self.control.announce(&newer).await?;
        }
        Ok(())
    }
}

// === impl PostgresBeat ===

impl PostgresBeat {
    fn new(heart: Heart, settings: &EngineSettings) -> Self {
        Self {
            heart,
            postgres: settings.postgres.clone(),
            session: None,
            clock: None,
            lease: Lease::default(),
        }
    }

    /// Beats until it is asked to stop.
    async fn run(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.keep_beating() => {}
            () = tasks.stopping() => {}
        }
        let id = self.heart.fleet.id().to_owned();
        if let Some(mut session) = self.session.take().filter(|session| !session.is_broken()) {
            if let Ok(Err(error)) = timeout(LATE, session.take_out_proxy(&id)).await {
                tracing::debug!(%error, "Postgres was not told that this proxy stops");
            }
            session.close().await;
        }
    }

    async fn keep_beating(&mut self) {
        let mut refused = Refusals::default();
        loop {
            let settled = self.heart.board.settle();
            let late = || StoreError::Unreachable(format!("no answer within {LATE:?}"));
            let result = match self.heart.health.is_lost() {
                true => Err(StoreError::Unreachable("it is known to be lost".into())),
                false => timeout(LATE, self.beat(&settled)).await.unwrap_or_else(|_| Err(late())),
            };
            if let Err(error) = &result {
                (self.session, self.clock) = (None, None);
                refused.tell(matches!(error, StoreError::Refused { .. }), error);
                sleep(BEAT).await;
                continue;
            }
            refused = Refusals::default();
            if result.unwrap_or(false) {
                sleep(HASTE).await;
            } else {
                self.heart.pause(&settled).await;
            }
        }
    }

    /// Whether the others are to know at once what this one has just heard.
    async fn beat(&mut self, settled: &Settled) -> Result<bool, StoreError> {
        if self.session.is_none() {
            self.session = Some(Session::connect(&self.postgres).await?);
        }
        let Some(session) = &mut self.session else { return Ok(false) };
        let clock = match self.clock {
            Some(clock) => clock,
            None => Clock { asked_at: Instant::now(), now_ms: session.clock_ms().await? },
        };
        let heart = &self.heart;
        let fleet = &heart.fleet;
        let standing = heart.standing(settled);
        let sent_at = Instant::now();
        let entry = store::ProxyEntry {
            id: fleet.id().to_owned(),
            lease_until_ms: self.lease.next(clock, sent_at),
            standing: standing.clone(),
        };
        session.beat(&entry).await?;
        let dead = fleet.dead();
        if !dead.is_empty() && session.take_out_stale_proxies(&dead).await? > 0 {
            tracing::info!(?dead, "proxies that have not been heard of are taken out");
        }
        let asked_at = Instant::now();
        let roll = session.proxies().await?;
        self.clock = Some(Clock { asked_at, now_ms: roll.now_ms });
        let is_in = |proxy: &store::ProxyEntry| {
            proxy.id == entry.id && proxy.lease_until_ms == entry.lease_until_ms
        };
        let is_renewed = roll.proxies.iter().any(is_in);
        let proxies = roll.proxies.into_iter();
        let proxies = proxies.map(|proxy| (proxy.id, proxy.lease_until_ms, proxy.standing));
        fleet.tell(
            Place::Postgres,
            Look {
                asked_at,
                answered_at: Instant::now(),
                now_ms: roll.now_ms,
                proxies: proxies.collect(),
            },
        );
        let mut entries = Vec::new();
        for (mapping, text) in session.mapping_entries().await? {
            if let Some(entry) = Entry::parse(&text) {
                self.heart.board.hear(&mapping, entry.clone());
                entries.push((mapping, entry));
            }
        }
        if is_renewed && !self.heart.board.settle().is_behind {
            fleet.renew(Place::Postgres, sent_at);
        }
        let has_news = self.heart.standing(settled) != standing;
        match call_off(session, &entries).await {
            Err(NotSwitched::Store(error)) => Err(error),
            // Others were faster.
            _ => Ok(has_news),
        }
    }
}

// === refusals ===

/// A store that answers, but does not take beats.
#[derive(Debug, Default)]
struct Refusals {
    since: Option<Instant>,
    is_told: bool,
}

impl Refusals {
    fn tell(&mut self, is_refused: bool, error: &dyn std::fmt::Display) {
        tracing::debug!(%error, "a beat of this proxy was not heard");
        if !is_refused {
            *self = Self::default();
            return;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        if !self.is_told && since.elapsed() >= LASTING {
            self.is_told = true;
            tracing::warn!(%error, "this proxy cannot tell the others that it is alive");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lease_ends_after_the_one_before() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut lease = Lease::default();
        // The first beat took 1.9 s, and the store told its time at the end of that.
        assert_eq!(lease.next(Clock { asked_at: at(0), now_ms: 101_900 }, at(2000)), 106_900);
        // So the lease is 1.9 s longer than it had to be; those of the next ones, which are quick, are not shorter.
        let quick = |ms: u64| {
            let now_ms = 100_000 + i64::try_from(ms).unwrap();
            Clock { asked_at: at(ms), now_ms }
        };
        assert_eq!(lease.next(quick(2000), at(2500)), 106_901);
        assert_eq!(lease.next(quick(2500), at(3000)), 106_902);
        assert_eq!(lease.next(quick(3900), at(4400)), 107_400);
        assert_eq!(lease.next(quick(4400), at(4900)), 107_900);
        // A store whose clock is an hour behind is another one.
        let other = Clock { asked_at: at(5000), now_ms: 100 };
        assert_eq!(lease.next(other, at(5100)), 3200);
    }
}
