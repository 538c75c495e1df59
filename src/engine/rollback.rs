//! The way back: a mapping's keys live in Redis alone from then on, as if the app had never used respgres; while
//! clients go on, or while no proxy runs.
//!
//! All values are put into Redis whole, and compared with their rows (see `completion`); what clients touch meanwhile is
//! put again, until that is little. Then the gates close (see `switcher`), Postgres gets what the journal has, the rest is
//! put, and the strategy is `redis_only`.
//!
//! Invariants
//! - Once the gates are closed nothing but the switcher changes values, ends, or what stands beside them: operations have let go
//!   of their keys, and keepers neither drop copies of the mapping (`Gate::is_leaving`) nor sweep. What others change by SQL is put
//!   from its row, too.
//! - Redis is the one that it began with, had room for everything, and has evicted nothing meanwhile.
//! - Until the strategy is `redis_only` all goes on as before, however this ends. Values that were put are true copies; what
//!   is called off gives them their ends back, and what is killed leaves them without.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::Instant;

use super::completion::Completing;
use super::switchboard::Entry;
use super::switcher::{NotSwitched, Switcher};
use crate::config::Strategy;
use crate::mapping::{MappedKey, Mapping};
use crate::store::sole::Work;
use crate::upstream::control::Frame;
use crate::upstream::run::RunId;

/// So few touched keys may be left when the gates close, and so often, at most, it is tried to come that far.
const FEW: usize = 200;
const ROUNDS: usize = 2000;

/// Rows of the outbox that are read at once.
const ROWS: i64 = 1000;

/// The member of a mapping's entry that says so (see `say_that_values_become_whole`).
const COMPLETING: &str = "completing";

/// Mappings of which Redis may have copies without an end, from their entries.
pub(super) fn may_have_endless_copies(entries: &[(String, String)]) -> HashSet<String> {
    let is_so = |text: &str| {
        let value: Option<serde_json::Value> = serde_json::from_str(text).ok();
        value.is_some_and(|value| value[COMPLETING] == true)
    };
    entries.iter().filter(|(_, text)| is_so(text)).map(|(name, _)| name.clone()).collect()
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolledBack {
    /// It is `redis_only` already.
    Already,
    Done {
        steps: Steps,
        /// How long clients had to wait.
        waited: Duration,
    },
}

/// What was done, and how long it took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Steps {
    /// Keys that were put into Redis.
    pub put: (usize, Duration),
    /// Keys that were read back, and compared with their rows.
    pub compared: (usize, Duration),
    /// Keys that clients had touched meanwhile, and that were put again.
    pub again: (usize, Duration),
}

/// Which Redis it is, and how much it has evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    run: Option<RunId>,
    epoch: Option<u64>,
    evicted: u64,
}

// === impl Switcher ===

impl Switcher<'_> {
    /// Brings a mapping back to Redis alone. `initial` is what the file says. As long as clients go on, no more keys a
    /// second than `rate` are put and compared; `tell` hears now and then how many were.
    ///
    /// # Errors
    /// Why it is as it was.
    pub async fn roll_back(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
        rate: u32,
        tell: &mut dyn FnMut(&Steps),
    ) -> Result<RolledBack, NotSwitched> {
        self.take_right().await?;
        let done = match self.session.take_on(Work::Move).await {
            Ok(true) => self.roll_back_alone(mapping, initial, rate, tell).await,
            Ok(false) => Err(NotSwitched::Moving),
            Err(error) => Err(error.into()),
        };
        for work in [Work::Move, Work::Switch] {
            if let Err(error) = self.session.lay_down(work).await {
                tracing::debug!(%error, "the right to change strategies goes with its session");
            }
        }
        done
    }

    async fn roll_back_alone(
        &mut self,
        mapping: &Mapping,
        initial: Strategy,
        rate: u32,
        tell: &mut dyn FnMut(&Steps),
    ) -> Result<RolledBack, NotSwitched> {
        let entry = self.clean_entry(mapping, initial).await?;
        if entry.strategy == Strategy::RedisOnly.name() {
            return Ok(RolledBack::Already);
        }
        if entry.strategy == Strategy::PostgresOnly.name() {
            return Err(NotSwitched::NoCopies);
        }
        if let Some(policy) = self.eviction().await? {
            return Err(NotSwitched::Evicts(policy));
        }
        let is_anybody_there = self.look("").await?.values().any(|seen| seen.is_alive);
        if !is_anybody_there && self.control.ends_of_journal().await?.is_some() {
            return Err(NotSwitched::Unflushed);
        }
        let Some(swept) = self.session.swept().await? else {
            return self.stay_in_redis(mapping, &entry).await;
        };
        let place = self.place().await?;
        if place.run.map(|run| run.to_string()) != Some(swept.run)
            || place.epoch != Some(swept.epoch)
        {
            return Err(NotSwitched::NotSwept);
        }
        self.session.walk_along_indexes().await?;
        self.say_that_values_become_whole(mapping, &entry, true).await?;
        let mut completing = self.begin_completing(rate).await?;
        let mut steps = Steps::default();
        let (mut barrier, mut began) = (None, Instant::now());
        let mut done = self.get_whole(mapping, &completing, &mut steps, tell).await;
        if done.is_ok() {
            began = Instant::now();
            completing.is_last = true;
            match self.change(mapping, &entry, Some(Strategy::RedisOnly)).await {
                Ok(closing) => {
                    let closing = barrier.insert(closing);
                    done = self.finish(mapping, closing, &completing, place, &mut steps).await;
                }
                Err(error) => done = Err(error),
            }
        }
        if let Err(why) = done {
            return Err(self.give_up(mapping, barrier, place, why).await);
        }
        let Some(barrier) = barrier else { return Err(NotSwitched::Raced) };
        let settled = self.settle(mapping, barrier, Strategy::RedisOnly, None).await?;
        if let Err(error) = self.say_that_values_become_whole(mapping, &settled, false).await {
            tracing::debug!(%error, "sweeps take more than they need to for copies");
        }
        if let Err(error) = self.until_acknowledged(mapping, settled.version, self.limit).await {
            tracing::warn!(%error, "a strategy is changed, but not all proxies are known to go by it");
        }
        let waited = began.elapsed();
        if let Err(error) = self.end_completing().await {
            tracing::debug!(%error, "Redis forgets by itself that somebody completed values");
        }
        tell(&steps);
        tracing::info!(mapping = %mapping.name, ?waited, "the mapping lives in Redis alone");
        Ok(RolledBack::Done { steps, waited })
    }

    /// Where no respgres has had mappings yet: Redis has everything, as the table has no row, and keeps it when the first
    /// one starts.
    async fn stay_in_redis(
        &mut self,
        mapping: &Mapping,
        entry: &Entry,
    ) -> Result<RolledBack, NotSwitched> {
        let began = Instant::now();
        let barrier = self.change(mapping, entry, Some(Strategy::RedisOnly)).await?;
        let mut ready = self.let_go(mapping, &barrier, began + self.limit).await;
        if ready.is_ok() {
            ready = self.look_for_rows(mapping).await;
        }
        if let Err(why) = ready {
            self.change(mapping, &barrier, None).await?;
            return Err(why);
        }
        let settled = self.settle(mapping, barrier, Strategy::RedisOnly, None).await?;
        if let Err(error) = self.until_acknowledged(mapping, settled.version, self.limit).await {
            tracing::warn!(%error, "a strategy is changed, but not all proxies are known to go by it");
        }
        Ok(RolledBack::Done { steps: Steps::default(), waited: began.elapsed() })
    }

    /// With the gates closed: whether the table may have what Redis lacks. One that has started meanwhile may have written.
    async fn look_for_rows(&mut self, mapping: &Mapping) -> Result<(), NotSwitched> {
        if self.session.swept().await?.is_some() || self.session.has_rows(mapping).await? {
            return Err(NotSwitched::NotSwept);
        }
        Ok(())
    }

    /// While clients go on: until Redis has all values, but for a few that are being touched.
    async fn get_whole(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        steps: &mut Steps,
        tell: &mut dyn FnMut(&Steps),
    ) -> Result<(), NotSwitched> {
        let began = Instant::now();
        let mut so_far = *steps;
        self.put_all(mapping, completing, &mut |count| {
            so_far.put = (count, began.elapsed());
            tell(&so_far);
        })
        .await?;
        self.put_again(mapping, completing, &mut so_far).await?;
        let began = Instant::now();
        self.compare_all(mapping, completing, &mut |count| {
            so_far.compared = (count, began.elapsed());
            tell(&so_far);
        })
        .await?;
        self.put_again(mapping, completing, &mut so_far).await?;
        *steps = so_far;
        Ok(())
    }

    /// Puts what was touched, until that is little, or does not become less.
    async fn put_again(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
        steps: &mut Steps,
    ) -> Result<(), NotSwitched> {
        let began = Instant::now();
        for _ in 0..ROUNDS {
            let (touched, put) = self.put_touched(mapping, completing).await?;
            steps.again.0 += put;
            if touched < FEW {
                break;
            }
        }
        steps.again.1 += began.elapsed();
        Ok(())
    }

    /// With the gates being closed: until Redis has everything.
    async fn finish(
        &mut self,
        mapping: &Mapping,
        barrier: &Entry,
        completing: &Completing,
        place: Place,
        steps: &mut Steps,
    ) -> Result<(), NotSwitched> {
        let deadline = Instant::now() + self.limit;
        self.let_go(mapping, barrier, deadline).await?;
        self.until_flushed(deadline).await?;
        let began = Instant::now();
        loop {
            let (touched, put) = self.put_touched(mapping, completing).await?;
            steps.again.0 += put;
            if touched == 0 {
                break;
            }
            if Instant::now() >= deadline {
                return Err(NotSwitched::TooMuch);
            }
        }
        self.put_what_is_in_the_outbox(mapping, completing).await?;
        self.mend_ends().await?;
        steps.again.1 += began.elapsed();
        self.go_on(completing).await?;
        self.check(place).await
    }

    /// What others have changed by SQL until now. What they change meanwhile, maybe faster than it can be put, holds
    /// nobody up.
    async fn put_what_is_in_the_outbox(
        &mut self,
        mapping: &Mapping,
        completing: &Completing,
    ) -> Result<(), NotSwitched> {
        let newest = self.session.newest_in_outbox(None, None).await?;
        let mut after = i64::MIN;
        while newest.is_some_and(|newest| after < newest) {
            let rows = self.session.read_outbox(after, ROWS).await?;
            let Some(last) = rows.last() else { break };
            after = last.id;
            let mut ids = Vec::new();
            // One key may stand there many times.
            let (mut keys, mut seen): (Vec<MappedKey>, _) = (Vec::new(), HashSet::new());
            for row in rows {
                let key = self.registry.mapped_key(&Bytes::from(row.key));
                if let Some(key) = key.filter(|key| key.mapping.index == mapping.index) {
                    ids.push(row.id);
                    if seen.insert(key.key.clone()) {
                        keys.push(key);
                    }
                }
            }
            if !keys.is_empty() {
                self.put(mapping, completing, &keys).await?;
                let importing =
                    if mapping.imports() { vec![&mapping.name[..]] } else { Vec::new() };
                self.session.delete_from_outbox(&ids, &importing).await?;
            }
        }
        Ok(())
    }

    /// All goes on as before; says why.
    async fn give_up(
        &mut self,
        mapping: &Mapping,
        barrier: Option<Entry>,
        place: Place,
        why: NotSwitched,
    ) -> NotSwitched {
        if let Some(barrier) = barrier
            && let Err(error) = self.change(mapping, &barrier, None).await
        {
            tracing::debug!(%error, "the next proxy that beats calls it off");
        }
        // Evicted values look as if somebody had deleted them.
        let why = match (why, self.check(place).await) {
            (NotSwitched::Different(_) | NotSwitched::Stalled, Err(better)) => better,
            (why, _) => why,
        };
        let mended = async {
            self.give_ends_back(mapping).await?;
            let entry = self.entry(mapping).await?;
            self.say_that_values_become_whole(mapping, &entry, false).await
        };
        if let Err(error) = mended.await {
            tracing::debug!(%error, "copies without an end stay in Redis");
        }
        if let Err(error) = self.end_completing().await {
            tracing::debug!(%error, "Redis forgets by itself that somebody completed values");
        }
        why
    }

    /// Copies may be without an end from now on: a sweep must not take them for what only Redis has, also when their
    /// rows are gone by then.
    async fn say_that_values_become_whole(
        &mut self,
        mapping: &Mapping,
        entry: &Entry,
        they_do: bool,
    ) -> Result<(), NotSwitched> {
        let members = json!({ COMPLETING: they_do }).to_string();
        match self.session.change_mapping_entry(&mapping.name, entry.version, &members).await? {
            true => Ok(()),
            false => Err(NotSwitched::Raced),
        }
    }

    async fn check(&mut self, place: Place) -> Result<(), NotSwitched> {
        let now = self.place().await?;
        if now.evicted != place.evicted {
            return Err(NotSwitched::Evicted);
        }
        if now != place { Err(NotSwitched::NotSwept) } else { Ok(()) }
    }

    async fn place(&mut self) -> Result<Place, NotSwitched> {
        let run = self.control.live_run_id().await?;
        let epoch = self.control.journal_state().await?.epoch;
        let words = ["INFO", "stats"].map(|word| Bytes::from_static(word.as_bytes()));
        let told = self.control.command(&words).await?;
        // Where respgres' user may not ask, the operator has to know.
        let evicted = match &told {
            Frame::BulkString(text) => number(text, "evicted_keys:"),
            _ => 0,
        };
        Ok(Place { run, epoch, evicted })
    }
}

fn number(text: &[u8], name: &str) -> u64 {
    let text = String::from_utf8_lossy(text);
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(name));
    lines.next().and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}
