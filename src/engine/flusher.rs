//! The flusher: brings what Redis was told first to Postgres (COHERENCE, "Behind (Redis first) and the
//! flusher").
//!
//! Each proxy has one; the one that has the lock works, on the very connection that the lock belongs to. One that
//! cannot work, as it has lost Redis, gives it back.
//!
//! Invariants
//! - Entries reach Postgres in the order of the journal. The last one that did is recorded in the same
//!   transaction, so a crash at any point neither loses nor repeats one.
//! - A batch is written only if, once the keys' locks are held, its last entry is still in the journal of the
//!   run that is believed. Else Redis has lost it, and others may have written since.
//! - What Postgres refuses for good becomes a dead letter, and its key goes to the outbox, in the same
//!   transaction; it never holds up the rest. Everything else is tried again until it succeeds.
//!
//! Absent on purpose: a queue in this process. It may die at any line.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::EngineSettings;
use super::fold::{Folded, Folding, NoSum};
use super::tables::Tables;
use super::through::{RACES, connected};
use super::transaction::{Touched, begin_reading, by_mapping, write_rows};
use super::trust::Trust;
use crate::config::Strategy;
use crate::mapping::{MappedKey, Mapping, Registry};
use crate::store::sole::Work;
use crate::store::{Applied, Letter, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::control::{Control, Frame};
use crate::upstream::journal::EntryId;
use crate::upstream::scripts::{Call, JOURNAL, JOURNAL_STATE, Script, aside_of, decimal, mark_of};
use crate::upstream::{RunId, UpstreamError};
use crate::value::Draft;

/// How long Redis may keep the flusher waiting for an entry; shorter than any call may take.
const WAIT_MS: u64 = 400;

/// How often the flusher looks where nothing is written behind: there may be something left.
const LOOK: Duration = Duration::from_millis(500);

/// How long the flusher waits before it tries again: what failed, and to get the lock.
const PAUSE: Duration = Duration::from_millis(100);

/// A trouble that lasts so long is worth a warning.
const LASTING: Duration = Duration::from_secs(2);

/// Entries that are read at once; each is at most about a megabyte.
const ENTRIES: usize = 64;

/// A batch is no longer than this, and one reading.
const BATCH_BYTES: usize = 16 << 20;

/// Keys of one batch, each of which has a lock: Postgres has room for `max_locks_per_transaction` times about
/// `max_connections` of all sessions' together, 6,400 by default.
const BATCH_KEYS: usize = 3000;

/// A batch of more keys is not searched for what Postgres refuses: smaller ones are.
const SEARCHED_KEYS: usize = 500;

/// How often a batch is halved at most.
const HALVED: u32 = 16;

/// Keys that are told clean in one step: nobody else gets an answer from Redis meanwhile.
const CLEANED_KEYS: usize = 500;

#[derive(Debug)]
pub(super) struct Flusher {
    settings: EngineSettings,
    trust: Arc<Trust>,
    registry: Arc<Registry>,
    tables: Arc<Tables>,
    session: Option<Session>,
    control: Control,
    /// The last entry that Postgres has; known while the session has the lock.
    applied: Option<EntryId>,
    /// There was more than went into the last batch.
    has_more: bool,
    /// How often batches are halved now, as larger ones have failed.
    halved: u32,
    /// Since when something is wrong, and whether a warning has said so.
    trouble: Option<(Instant, bool)>,
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// What the journal adds to a row cannot be added to it.
    #[error(transparent)]
    NoSum(#[from] NoSum),
}

/// A batch of the journal.
struct Batch {
    run: RunId,
    first: EntryId,
    last: EntryId,
    /// As they are counted in the journal.
    changes: u64,
    keys: Vec<Folded>,
    /// What each key is to the mappings; `None`: nothing any more.
    mapped: Vec<Option<MappedKey>>,
    /// Keys whose changes Postgres refuses, and why.
    dead: Vec<(usize, String)>,
}

/// What has become of an attempt.
#[derive(PartialEq, Eq)]
enum Attempt {
    Written,
    /// Redis has lost the batch.
    Gone,
    /// Postgres refuses some of it, and it is too large to find out what.
    TooLarge,
}

/// Whether an attempt is meant.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Write,
    /// Only to find out whether Postgres takes it.
    Trial,
}

// === impl Flusher ===

impl Flusher {
    pub(super) fn new(
        settings: &EngineSettings,
        trust: Arc<Trust>,
        registry: Arc<Registry>,
        tables: Arc<Tables>,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            trust,
            registry,
            tables,
            session: None,
            applied: None,
            has_more: false,
            halved: 0,
            trouble: None,
        }
    }

    /// Flushes until it is asked to stop.
    pub(super) async fn run(mut self, tasks: &Tasks) {
        tokio::select! {
            () = self.keep_flushing() => {}
            () = tasks.stopping() => {}
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn keep_flushing(&mut self) {
        loop {
            match self.turn().await {
                Ok(()) => self.trouble = None,
                Err(trouble) => {
                    self.tell(&trouble);
                    self.let_go().await;
                    sleep(PAUSE).await;
                }
            }
        }
    }

    fn tell(&mut self, trouble: &Trouble) {
        let is_first = self.trouble.is_none();
        let (since, warned) = self.trouble.get_or_insert_with(|| (Instant::now(), false));
        let what = "the journal is not brought to Postgres";
        // Of a Redis that is gone others tell; and what it has cannot be had.
        let is_worth = matches!(trouble, Trouble::Store(_)) && !self.settings.health.is_lost();
        if is_worth && !*warned && since.elapsed() >= LASTING {
            *warned = true;
            tracing::warn!(error = %trouble, "{what}");
        } else if is_first {
            tracing::debug!(error = %trouble, "{what}");
        }
    }

    /// Waits for entries, and brings a batch of them to Postgres.
    async fn turn(&mut self) -> Result<(), Trouble> {
        let Some(run) = self.believed_run().await? else {
            self.let_go().await;
            sleep(PAUSE).await;
            return Ok(());
        };
        if !self.has_more && !self.finds_entry().await? {
            return Ok(());
        }
        let Some(applied) = self.lock().await? else {
            sleep(PAUSE).await;
            return Ok(());
        };
        if !self.has_more {
            let delay = Duration::from_millis(self.settings.journal.delay_ms);
            tokio::select! {
                () = sleep(delay) => {}
                () = self.trust.journal.wanted() => {}
            }
        }
        let Some(batch) = self.read(run, applied).await? else { return Ok(()) };
        let flushed = self.flush(batch, applied).await;
        if let Err(Trouble::Store(_)) = &flushed {
            // A smaller one takes less time, and fewer locks.
            self.halved = (self.halved + 1).min(HALVED);
        }
        flushed
    }

    /// Lets another proxy have the lock, as this one cannot work now, and what Postgres has is asked again.
    async fn let_go(&mut self) {
        self.has_more = false;
        if self.applied.take().is_some()
            && let Some(session) = self.session.as_mut().filter(|session| !session.is_broken())
            && let Err(error) = session.unlock_keys().await
        {
            tracing::debug!(%error, "the right to flush goes with its session");
            self.session = None;
        }
    }

    /// Whether there is an entry; waits for one a while.
    async fn finds_entry(&mut self) -> Result<bool, UpstreamError> {
        let is_behind = |mapping: &Arc<Mapping>| mapping.strategy() == Strategy::CacheFirst;
        // Then entries are to be expected.
        let waits = self.registry.mappings().any(is_behind);
        if waits || self.settings.health.is_degraded() {
            let most_ms = self.settings.control.request_timeout_ms / 2;
            return self.control.wait_for_entry(WAIT_MS.min(most_ms.max(1))).await;
        }
        // Who waits is counted by Redis among the clients that are blocked, for all to see.
        let finds = self.control.journal_state().await?.entries > 0;
        if !finds {
            tokio::select! {
                () = sleep(LOOK) => {}
                () = self.trust.journal.wanted() => {}
            }
        }
        Ok(finds)
    }

    /// The run of Redis over our connection, if it is believed.
    async fn believed_run(&mut self) -> Result<Option<RunId>, UpstreamError> {
        let mut run = self.control.run_id().await?;
        if !self.trust.covers(run) && self.trust.believes_any() {
            run = self.control.run_id_anew().await?;
        }
        Ok(run.filter(|_| self.trust.covers(run)))
    }

    /// The last entry that Postgres has, if this flusher has the lock.
    async fn lock(&mut self) -> Result<Option<EntryId>, StoreError> {
        if self.session.as_ref().is_none_or(Session::is_broken) {
            self.applied = None;
        }
        let session = connected(&mut self.session, &self.settings).await?;
        if self.applied.is_none() && session.take_on(Work::Flush).await? {
            let Applied { epoch, number } = session.applied().await?;
            self.applied = Some(EntryId { epoch, number });
        }
        Ok(self.applied)
    }

    async fn read(&mut self, run: RunId, applied: EntryId) -> Result<Option<Batch>, UpstreamError> {
        let most_changes = (self.settings.journal.batch_changes >> self.halved).max(1);
        let most_keys = (BATCH_KEYS >> self.halved).max(1);
        let mut folding = Folding::new(applied);
        let mut ids: Option<(EntryId, EntryId)> = None;
        let (mut size, mut bytes, mut changes) = (0, 0, 0);
        self.has_more = true;
        // Few clients make small entries: what was read at once may be far from a batch.
        'pages: while self.has_more
            && size < most_changes
            && folding.len() < most_keys
            && bytes < BATCH_BYTES
        {
            let after = ids.map(|(_, last)| last);
            let page = self.control.entries(after, ENTRIES).await?;
            self.has_more = page.len() == ENTRIES;
            for entry in page {
                // Only of one epoch is it sure that none was lost between two looks.
                let is_other = after.is_some_and(|after| after.epoch != entry.id.epoch);
                let is_full =
                    size >= most_changes || folding.len() >= most_keys || bytes >= BATCH_BYTES;
                if is_other || is_full {
                    self.has_more = true;
                    break 'pages;
                }
                (size, bytes) = (size + entry.size(), bytes + entry.bytes);
                changes += entry.changes;
                ids = Some((ids.map_or(entry.id, |(first, _)| first), entry.id));
                folding.add(entry);
            }
        }
        let Some((first, last)) = ids else { return Ok(None) };
        let keys = folding.end();
        let mapped = keys.iter().map(|folded| self.registry.mapped_key(&folded.key)).collect();
        Ok(Some(Batch { run, first, last, changes, keys, mapped, dead: Vec::new() }))
    }

    // --- to Postgres ---

    async fn flush(&mut self, mut batch: Batch, applied: EntryId) -> Result<(), Trouble> {
        if batch.last > applied {
            match self.write(&mut batch).await? {
                Attempt::Written => self.halved = self.halved.saturating_sub(1),
                Attempt::Gone => return Ok(()),
                Attempt::TooLarge => {
                    let to_be_searched = (BATCH_KEYS / SEARCHED_KEYS).ilog2() + 1;
                    self.halved = (self.halved + 1).clamp(to_be_searched, HALVED);
                    self.has_more = true;
                    return Ok(());
                }
            }
            self.applied = Some(batch.last);
            self.trust.journal.tell_flushed(batch.keys.iter().map(Folded::size).sum());
        }
        self.clean(&batch).await?;
        Ok(())
    }

    /// Writes a batch, but for what Postgres refuses.
    async fn write(&mut self, batch: &mut Batch) -> Result<Attempt, Trouble> {
        let (mut races, mut looked, mut sorted) = (0, false, 0);
        let mut good = self.split(batch);
        loop {
            let error = match self.attempt(batch, &good, Purpose::Write).await {
                Ok(attempt) => {
                    if attempt == Attempt::Written && !batch.dead.is_empty() {
                        tell_dead(batch);
                    }
                    return Ok(attempt);
                }
                Err(Trouble::Store(error)) => error,
                Err(Trouble::NoSum(_)) => {
                    if batch.is_too_large_to_search() {
                        return Ok(Attempt::TooLarge);
                    }
                    good = self.sort_out(batch, good).await?;
                    continue;
                }
                Err(trouble) => return Err(trouble),
            };
            match error {
                StoreError::Raced | StoreError::Retryable { .. } if races < RACES => races += 1,
                StoreError::LayoutChanged { .. } if !looked => {
                    looked = true;
                    self.look_again(batch, &good).await?;
                    batch.dead.clear();
                    good = self.split(batch);
                }
                StoreError::Refused { .. }
                | StoreError::Unencodable(_)
                | StoreError::LayoutChanged { .. }
                    if sorted < RACES =>
                {
                    if batch.is_too_large_to_search() {
                        return Ok(Attempt::TooLarge);
                    }
                    sorted += 1;
                    good = self.sort_out(batch, good).await?;
                }
                error => return Err(error.into()),
            }
        }
    }

    /// The places of what is owed; what has no table any more is dead.
    fn split(&self, batch: &mut Batch) -> Vec<usize> {
        let mut good = Vec::new();
        for (at, folded) in batch.keys.iter().enumerate().filter(|(_, folded)| folded.owed) {
            debug_assert!(folded.newest <= batch.last);
            match &batch.mapped[at] {
                None => batch.dead.push((at, "no mapping has this key any more".to_owned())),
                Some(key) if self.tables.current(&key.mapping).is_none() => {
                    batch.dead.push((at, "its table no longer fits the mapping".to_owned()));
                }
                Some(_) => good.push(at),
            }
        }
        good
    }

    async fn look_again(&mut self, batch: &Batch, good: &[usize]) -> Result<(), StoreError> {
        let mut looked = Vec::new();
        for key in good.iter().filter_map(|&at| batch.mapped[at].as_ref()) {
            if !looked.contains(&key.mapping.index) {
                looked.push(key.mapping.index);
                let session = connected(&mut self.session, &self.settings).await?;
                self.tables.look_again(session, &key.mapping).await?;
            }
        }
        Ok(())
    }

    /// Finds what Postgres refuses among these keys, and gives the others.
    async fn sort_out(
        &mut self,
        batch: &mut Batch,
        suspects: Vec<usize>,
    ) -> Result<Vec<usize>, Trouble> {
        let mut good: Vec<usize> = Vec::new();
        let mut parts = vec![suspects];
        while let Some(mut part) = parts.pop() {
            let tried: Vec<usize> = good.iter().chain(&part).copied().collect();
            match self.attempt(batch, &tried, Purpose::Trial).await {
                Ok(_) => good = tried,
                Err(
                    trouble @ (Trouble::NoSum(_)
                    | Trouble::Store(
                        StoreError::Refused { .. }
                        | StoreError::Unencodable(_)
                        | StoreError::LayoutChanged { .. },
                    )),
                ) => {
                    if let [at] = part[..] {
                        batch.dead.push((at, trouble.to_string()));
                    } else {
                        let second = part.split_off(part.len() / 2);
                        parts.extend([second, part]);
                    }
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(good)
    }

    /// One transaction with the changes of these keys.
    async fn attempt(
        &mut self,
        batch: &Batch,
        good: &[usize],
        purpose: Purpose,
    ) -> Result<Attempt, Trouble> {
        let done = self.transact(batch, good, purpose).await;
        if !matches!(done, Ok(Attempt::Written))
            && let Some(session) = &mut self.session
            && let Err(error) = session.rollback().await
        {
            // The session is broken and with it the transaction, and the lock.
            tracing::debug!(%error, "rollback failed");
        }
        done
    }

    async fn transact(
        &mut self,
        batch: &Batch,
        good: &[usize],
        purpose: Purpose,
    ) -> Result<Attempt, Trouble> {
        let mut touched = Vec::with_capacity(good.len());
        for &at in good {
            let Some(key) = &batch.mapped[at] else { continue };
            let Some(mapping) = self.tables.current(&key.mapping) else { continue };
            let draft = Draft::new(mapping.holds(), None);
            let needs = batch.keys[at].needs();
            touched.push(Touched { key, needs, mapping, present: false, draft });
        }
        let dead: Vec<&MappedKey> =
            batch.dead.iter().filter_map(|(at, _)| batch.mapped[*at].as_ref()).collect();
        let locked = touched.iter().map(|touched| touched.key).chain(dead.iter().copied());
        let mut locks: Vec<i64> = locked.map(MappedKey::lock).collect();
        locks.sort_unstable();
        locks.dedup();

        let groups = by_mapping(&touched);
        // Not `connected`: another session would not have the flusher's lock.
        let session = self.session.as_mut().filter(|session| !session.is_broken());
        let Some(session) = session else {
            let text = "the flusher's connection was lost".to_owned();
            return Err(StoreError::Unreachable(text).into());
        };
        begin_reading(session, &locks, &groups, &mut touched).await?;
        // Under the locks, and with the tables held against being emptied.
        if self.control.run_id().await? != Some(batch.run)
            || !self.trust.covers(Some(batch.run))
            || !self.control.has_entry(batch.last).await?
        {
            return Ok(Attempt::Gone);
        }
        for (touched, &at) in touched.iter_mut().zip(good) {
            batch.keys[at].apply(&mut touched.draft)?;
        }
        write_rows(session, &groups, &touched).await?;
        if purpose == Purpose::Trial {
            session.check_constraints().await?;
            session.rollback().await?;
            return Ok(Attempt::Written);
        }
        if !batch.dead.is_empty() {
            session.add_dead_letters(&letters(batch)).await?;
            session.add_to_outbox(&dead).await?;
        }
        let EntryId { epoch, number } = batch.last;
        session.record_applied(Applied { epoch, number }).await?;
        session.commit().await?;
        Ok(Attempt::Written)
    }

    // --- to Redis ---

    /// Tells Redis what Postgres has.
    async fn clean(&mut self, batch: &Batch) -> Result<(), UpstreamError> {
        let mut calls = Vec::new();
        let mut cleaned: Vec<(&Folded, &MappedKey, bool)> = Vec::new();
        let mut dead = vec![false; batch.keys.len()];
        batch.dead.iter().for_each(|(at, _)| dead[*at] = true);
        for ((folded, mapped), is_dead) in batch.keys.iter().zip(&batch.mapped).zip(dead) {
            // A key of no mapping is an ordinary one of Redis' now.
            cleaned.extend(mapped.as_ref().map(|mapped| (folded, mapped, is_dead)));
        }
        let mut parts: Vec<&[(&Folded, &MappedKey, bool)]> = cleaned.chunks(CLEANED_KEYS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            // The entries go when all of their keys are done.
            calls.push(clean_call(part, batch, number + 1 == count));
        }
        if self.control.run_id().await? != Some(batch.run) {
            // Its data is gone through anew, and what is in it is read again.
            return Ok(());
        }
        for reply in self.control.call(&calls).await? {
            if let Frame::Error(text) = reply {
                return Err(UpstreamError::Refused(text.to_string()));
            }
        }
        Ok(())
    }
}

// === impl Batch ===

impl Batch {
    /// Whether a smaller one is better searched for what Postgres refuses: each try writes all that was found good
    /// so far. One entry cannot be divided.
    fn is_too_large_to_search(&self) -> bool {
        self.keys.len() > SEARCHED_KEYS && self.first < self.last
    }
}

/// `is_last`: the entries go, too.
fn clean_call(keys: &[(&Folded, &MappedKey, bool)], batch: &Batch, is_last: bool) -> Call {
    let mut names = vec![Bytes::from_static(JOURNAL_STATE), Bytes::from_static(JOURNAL)];
    let until = if is_last { batch.last.text() } else { Bytes::new() };
    let mut arguments = vec![until, batch.first.text(), batch.last.next().text()];
    arguments.push(Bytes::from(batch.changes.to_string()));
    for (folded, mapped, is_dead) in keys {
        let key = &mapped.key;
        names.extend([key.clone(), mark_of(key), aside_of(key)]);
        arguments.push(folded.newest.text());
        arguments.push(decimal(mapped.mapping.cache_ttl_ms));
        arguments.push(match is_dead {
            true => Bytes::from_static(b"drop"),
            false => decimal(mapped.mapping.negative_ttl_ms),
        });
    }
    Call { script: Script::Clean, keys: names, arguments }
}

fn letters(batch: &Batch) -> Vec<Letter> {
    let letter = |(at, reason): &(usize, String)| {
        let folded = &batch.keys[*at];
        let EntryId { epoch, number } = folded.newest;
        let mapping = batch.mapped[*at].as_ref().map(|key| key.mapping.name.clone());
        Letter {
            mapping: mapping.unwrap_or_default(),
            key: folded.key.to_vec(),
            change: folded.to_change().write(),
            entry: Applied { epoch, number },
            reason: reason.clone(),
        }
    };
    batch.dead.iter().map(letter).collect()
}

fn tell_dead(batch: &Batch) {
    for (at, reason) in &batch.dead {
        let mapping = batch.mapped[*at].as_ref().map_or("", |key| key.mapping.name.as_str());
        tracing::error!(
            mapping,
            reason,
            "Postgres refuses a change that clients were told of; see `respgres journal dlq list`"
        );
    }
}
