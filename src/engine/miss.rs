//! Reads that Redis could not answer for good: after a miss, and by strategies that ask Postgres
//! (COHERENCE, "Read").
//!
//! A reader takes whatever reads have queued up, asks once for each key however many clients wait
//! for it, first in Redis (is the key there, known to be absent, or may this reader fill it?), then,
//! for all keys of a mapping in one statement, in Postgres.
//!
//! Invariants
//! - A read is answered from a statement that began after the read had come.
//! - A mapping that cannot be read fails alone.
//! - While Postgres is lost, keys that Redis does not have are taken for absent where their mapping says so;
//!   nothing is filled from that.
//! - A fill is sent only if, in the same transaction and before the row was read, no writer held the
//!   key's lock; a writer that comes later voids the reader's mark.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::asked::{Asked, Found, Residence, keys_of, wanted};
use super::barrier::{NotFlushed, until_clean};
use super::fill::{fill, unlease};
use super::import::{Importer, Outcome};
use super::operation::{Operation, batches, total};
use super::queue::Queue;
use super::refusal::{
    fenced, not_cached, only_postgres_knows, read_apart, read_failed, read_may_be_ahead,
    read_too_busy, read_too_slow, read_unseen, upstream_not_read,
};
use super::rescue::{answer_the_rest, rescue};
use super::slow::{Slow, Verdict, hurry_ms};
use super::tables::Tables;
use super::through::{connected, set_aside};
use super::transaction::Failure;
use super::trust::Trust;
use super::{BATCH_BYTES, EngineSettings, patience};
use crate::command::{Listing, Need, Needs};
use crate::config::{OnPostgresDown, Strategy};
use crate::mapping::{MappedKey, Mapping};
use crate::metrics::{Counter, MappingCounts};
use crate::protocol::Reply;
use crate::store::{ReadRows, Reading, Session, StoreError, Want};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, Token, mark_of};

/// How often it is tried again to reach a Postgres that is there.
const TRIES: u8 = 2;

/// Keys that are filled or asked for by one statement.
const BATCH_KEYS: usize = 500;

/// How long a key that was too large for the cache is not looked at as a whole again.
pub(super) const LARGE_FOR: Duration = Duration::from_secs(60);

/// More than so many large keys are not remembered.
pub(super) const MOST_LARGE: usize = 10_000;

/// A worker that reads what is not, or may not be, in Redis.
#[derive(Debug)]
pub struct MissReader {
    settings: EngineSettings,
    trust: Arc<Trust>,
    tables: Arc<Tables>,
    slow: Slow,
    session: Option<Session>,
    /// How often it has taken new connections because an operator wanted it.
    renewals: u64,
    control: Control,
    queue: Arc<Queue>,
    /// Keys that were too large to be filled, and since when. A matter of speed: to find out again means
    /// to count up to `cache_max_elements` rows.
    large: HashMap<Bytes, Instant, ahash::RandomState>,
}

/// Keys of one mapping.
#[derive(Clone)]
struct Group {
    mapping: Arc<Mapping>,
    /// Their places among the keys asked for.
    places: Vec<usize>,
}

/// Mappings whose rows are read in one transaction.
struct Part {
    groups: Vec<Group>,
    hurried: bool,
    /// It has failed before, for a reason that may have gone.
    again: bool,
    /// How often Postgres was not to be had, though it is there.
    lost: u8,
}

// === impl Part ===

impl Part {
    fn places(&self) -> Vec<usize> {
        self.groups.iter().flat_map(|group| group.places.iter().copied()).collect()
    }
}

// === impl MissReader ===

impl MissReader {
    pub(super) fn new(
        settings: &EngineSettings,
        trust: Arc<Trust>,
        tables: Arc<Tables>,
        queue: Arc<Queue>,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            trust,
            tables,
            slow: Slow::default(),
            session: None,
            renewals: settings.health.renewals(),
            queue,
            large: HashMap::default(),
        }
    }

    /// Reads until it is asked to stop and nothing is left in its queue.
    pub async fn run(mut self, tasks: &Tasks) {
        loop {
            let operations = tokio::select! {
                biased;
                operations = self.queue.take() => operations,
                () = tasks.stopping() => break,
            };
            self.renew().await;
            for batch in batches(&operations, usize::MAX, BATCH_BYTES) {
                if rescue(self.read(batch)).await.is_err() {
                    self.session = None;
                    self.control = Control::new(self.settings.control.clone());
                    answer_the_rest(batch);
                }
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Takes new connections where an operator has wanted that since the last batch.
    async fn renew(&mut self) {
        let renewals = self.settings.health.renewals();
        if self.renewals != renewals {
            self.renewals = renewals;
            self.control = Control::new(self.settings.control.clone());
            if let Some(session) = self.session.take() {
                session.close().await;
            }
        }
    }

    /// Answers a batch of reads.
    async fn read(&mut self, batch: &[Operation]) {
        let patience = patience(&self.settings.postgres);
        let (late, operations): (Vec<&Operation>, Vec<&Operation>) =
            batch.iter().partition(|operation| operation.age() >= patience);
        for operation in late {
            operation.answer(&read_too_busy());
        }
        if self.settings.fleet.is_fenced() {
            operations.iter().for_each(|operation| operation.answer(&fenced()));
            return;
        }
        let (mut asked, places) = keys_of(&operations);
        for part in asked.chunks_mut(BATCH_KEYS) {
            self.ask_redis(part).await;
            self.wait_for_the_journal(part).await;
            self.ask_postgres(part).await;
            if self.import(part).await {
                self.ask_postgres(part).await;
            }
        }
        if self.settings.fleet.is_fenced() {
            // What was told may be old: this proxy may have stood still before it asked.
            operations.iter().for_each(|operation| operation.answer(&fenced()));
            return;
        }
        for (operation, places) in operations.iter().zip(&places) {
            if let Some(listing) = large_listing(operation, places, &asked) {
                operation.put_off(listing);
                continue;
            }
            let reply = self.reply(operation, places, &asked).await;
            operation.answer(&reply);
        }
    }

    /// Fills keys that Redis does not have, as if somebody had asked for them; how many were. `None`:
    /// a store cannot be asked now.
    pub(super) async fn warm(&mut self, keys: &[MappedKey]) -> Option<usize> {
        let asked = |key| Asked {
            key,
            needs: Needs { existence: true, ..Needs::default() },
            residence: Residence::Unknown,
            cached: None,
            stored: None,
        };
        let mut asked: Vec<Asked<'_>> = keys.iter().map(asked).collect();
        self.ask_redis(&mut asked).await;
        if asked.iter().any(|asked| matches!(asked.residence, Residence::Unknown)) {
            return None;
        }
        self.ask_postgres(&mut asked).await;
        let is_filled = |asked: &&Asked<'_>| {
            let is_there = matches!(asked.stored, Some(Found::Record { record: Some(_), .. }));
            is_there && matches!(asked.residence, Residence::Fill(_))
        };
        let filled = asked.iter().filter(is_filled).count();
        let failed = |asked: &Asked<'_>| matches!(asked.stored, Some(Found::Error(_)));
        // Until Redis has taken in what was posted.
        self.control.command(&[Bytes::from_static(b"PING")]).await.ok()?;
        (!asked.iter().any(failed)).then_some(filled)
    }

    async fn reply(
        &mut self,
        operation: &Operation,
        places: &[usize],
        asked: &[Asked<'_>],
    ) -> Reply {
        let Some(read) = operation.as_read() else {
            return Reply::err("this command does not read");
        };
        let need = (read.need)(&operation.arguments);
        let replies = places.iter().map(|&at| match asked[at].found(&need) {
            Some(Found::Record { record, now_ms }) => {
                (read.reply)(&operation.arguments, record.as_ref(), *now_ms)
            }
            Some(Found::Error(reply)) => reply.clone(),
            None => Reply::err("the key was not read"),
        });
        let reply = total(replies);
        if operation.others.is_empty() {
            return reply;
        }
        let words = operation.for_others();
        let others = match self.control.command(&words).await {
            // It only reads, so it may be asked twice.
            Err(UpstreamError::Lost(_)) => self.control.command(&words).await,
            told => told,
        };
        let others = match others {
            Ok(Frame::Integer(count)) => Reply::Integer(count),
            Ok(Frame::Error(text)) => Reply::Error(text.to_string()),
            Ok(_) | Err(_) => upstream_not_read(),
        };
        total([reply, others].into_iter())
    }

    // --- Redis ---

    /// Asks for the keys that have a side in Redis.
    async fn ask_redis(&mut self, asked: &mut [Asked<'_>]) {
        let has_side = |asked: &Asked<'_>| {
            asked.key.mapping.strategy() != Strategy::PostgresOnly
                && asked.needs.of_value()
                && !self.settings.health.is_apart(&asked.key.mapping)
        };
        let of_redis: Vec<usize> = (0..asked.len()).filter(|&at| has_side(&asked[at])).collect();
        if of_redis.is_empty() || self.trust.is_out() {
            return;
        }
        let mut told = self.miss(asked, &of_redis).await;
        if matches!(told, Err(UpstreamError::Lost(_))) {
            // The connection had died unnoticed. With new tokens: the old ones may still arrive.
            told = self.miss(asked, &of_redis).await;
        }
        match told {
            Ok(told) => {
                for (&at, (token, reply)) in of_redis.iter().zip(told) {
                    asked[at].take_in(token, reply);
                }
            }
            // Postgres has every mapped key.
            Err(error) => {
                tracing::debug!(%error, "a miss is answered by Postgres alone");
                self.trust.lose();
            }
        }
    }

    /// What the script says of each key; nothing where this Redis is not believed.
    async fn miss(
        &mut self,
        asked: &[Asked<'_>],
        of_redis: &[usize],
    ) -> Result<Vec<(Token, Frame)>, UpstreamError> {
        let mut run = self.control.run_id().await?;
        if !self.trust.covers(run) && self.trust.believes_any() {
            // That may be the run before, over a connection that has died with it or outlives a failover.
            run = self.control.run_id_anew().await?;
        }
        if !self.trust.covers(run) {
            return Ok(Vec::new());
        }
        let (mut calls, mut tokens) = (Vec::new(), Vec::new());
        for &at in of_redis {
            let token = Token::reader();
            let lease_ms = Bytes::from(self.settings.lease_ms.to_string());
            let kind = asked[at].key.mapping.holds().name();
            let mut arguments = vec![token.text(), lease_ms, Bytes::from_static(kind.as_bytes())];
            let has_rows = asked[at].key.mapping.layout.element().is_some();
            let most = if has_rows { self.settings.cache_max_elements } else { usize::MAX };
            arguments.extend(wanted(&asked[at].needs, most));
            let key = &asked[at].key.key;
            calls.push(Call {
                script: Script::Miss,
                keys: vec![key.clone(), mark_of(key)],
                arguments,
            });
            tokens.push(token);
        }
        let replies = self.control.call(&calls).await?;
        Ok(tokens.into_iter().zip(replies).collect())
    }

    /// Keys of which Redis may be ahead are asked of Postgres when it has caught up.
    async fn wait_for_the_journal(&mut self, asked: &mut [Asked<'_>]) {
        if self.settings.health.is_lost() {
            return;
        }
        let ahead: Vec<usize> = (0..asked.len()).filter(|&at| asked[at].may_be_ahead()).collect();
        let keys: Vec<&Bytes> = ahead.iter().map(|&at| &asked[at].key.key).collect();
        if keys.is_empty() {
            return;
        }
        let mut clean = Err(NotFlushed::Upstream(UpstreamError::Elsewhere));
        if !self.trust.is_out() {
            clean =
                until_clean((&self.trust, &self.settings.health), &mut self.control, &keys).await;
            if matches!(clean, Err(NotFlushed::Upstream(_))) {
                self.trust.lose();
            }
        }
        let Err(error) = clean else { return };
        let is_out = matches!(error, NotFlushed::Upstream(_));
        // Of what is written through as a rule Redis has nothing that Postgres lacks, or nobody knows.
        let health = &self.settings.health;
        let may_be_loose = is_out
            && (!health.fleet().may_pass_redis(&self.trust, true).await
                || self.trust.journal.may_be_loose(health.losses()));
        for at in ahead {
            let is_rule = asked[at].key.mapping.strategy() == Strategy::CacheFirst;
            let reply = match (is_out, is_rule) {
                (true, false) if !may_be_loose => continue,
                (true, false) => read_may_be_ahead(),
                _ => error.reply(),
            };
            asked[at].stored = Some(Found::Error(reply));
        }
    }

    // --- Postgres ---

    async fn ask_postgres(&mut self, asked: &mut [Asked<'_>]) {
        let of_store: Vec<usize> =
            (0..asked.len()).filter(|&at| asked[at].is_for_store()).collect();
        if !of_store.is_empty() && self.settings.health.is_lost() {
            self.do_without(asked, &of_store).await;
            return;
        }
        let mut parts = self.sort_out(asked, &of_store).await;
        while let Some(part) = parts.pop() {
            if part.groups.is_empty() {
                continue;
            }
            let was_connected = self.session.is_some();
            match self.select(asked, &part).await {
                Ok(free) => {
                    for group in &part.groups {
                        self.slow.clear(group.mapping.index);
                    }
                    self.post_fills(asked, &part, &free).await;
                }
                Err(StoreError::Unreachable(_)) if self.settings.health.is_lost() => {
                    self.do_without(asked, &part.places()).await;
                }
                // The session had died unnoticed.
                Err(StoreError::Unreachable(_)) if was_connected && !part.again => {
                    parts.push(Part { again: true, ..part });
                }
                Err(StoreError::Unreachable(_)) if self.settings.health.is_lost_now().await => {
                    self.do_without(asked, &part.places()).await;
                }
                Err(StoreError::Unreachable(_)) if part.lost < TRIES => {
                    parts.push(Part { lost: part.lost + 1, ..part });
                }
                Err(error) => self.settle(error, asked, part, &mut parts).await,
            }
        }
    }

    /// Imports keys of which Postgres has no row, and Redis the whole. True: Postgres has to be asked again, as
    /// others may have imported them since.
    async fn import(&mut self, asked: &mut [Asked<'_>]) -> bool {
        let mut is_any = false;
        for asked in asked.iter_mut().filter(|asked| asked.may_be_original()) {
            let Self { settings, trust, tables, session, control, .. } = self;
            let mut importer = Importer { settings, trust, tables, session, control };
            let name = &asked.key.mapping.name;
            asked.stored = match importer.import(asked.key).await {
                Ok(Outcome::Imported | Outcome::NoOriginal) => {
                    is_any = true;
                    None
                }
                Ok(Outcome::Refused { found: Some(found), .. }) => {
                    let (record, now_ms) = *found;
                    Some(Found::Record { record: Some(record), now_ms })
                }
                Ok(Outcome::Refused { reply, found: None }) => Some(Found::Error(reply)),
                Err(failure) => Some(Found::Error(match failure {
                    Failure::Store(error) => read_failed(&error, name),
                    Failure::Upstream(error) => NotFlushed::Upstream(error).reply(),
                    Failure::Unseen => read_unseen(),
                    _ => NotFlushed::Late.reply(),
                })),
            };
        }
        is_any
    }

    /// Answers without Postgres, as the mappings say.
    async fn do_without(&mut self, asked: &mut [Asked<'_>], places: &[usize]) {
        let mut calls = Vec::new();
        let is_down = StoreError::Unreachable(String::new());
        for &at in places {
            let Asked { key, needs, residence, cached, stored } = &mut asked[at];
            if let Residence::Fill(lease) = residence {
                calls.push(unlease(key, lease));
            }
            let policy = self.settings.health.policy_of(&key.mapping);
            let is_believed = self.trust.believes_any();
            if policy == Some(OnPostgresDown::RedisOnly) && is_believed && needs.of_value() {
                cached.get_or_insert(Found::Record { record: None, now_ms: 0 });
            }
            // What Redis has told answers all the same, but for the end of the key.
            let refusal = match policy {
                _ if self.settings.health.is_apart(&key.mapping) => read_apart(),
                Some(OnPostgresDown::CachedOnly | OnPostgresDown::RedisOnly) if needs.expiry => {
                    only_postgres_knows()
                }
                Some(OnPostgresDown::CachedOnly) if is_believed => not_cached(),
                _ => read_failed(&is_down, &key.mapping.name),
            };
            *stored = Some(Found::Error(refusal));
        }
        if !calls.is_empty() {
            self.control.post(&calls).await;
        }
    }

    /// Answers for the mappings that cannot be read now; makes parts of the others, the first one
    /// last.
    async fn sort_out(&mut self, asked: &mut [Asked<'_>], of_store: &[usize]) -> Vec<Part> {
        let (mut usual, mut parts) = (Vec::new(), Vec::new());
        for mut group in by_mapping(asked, of_store) {
            let mut failed = None;
            if self.tables.any_aside() && self.tables.is_due(&group.mapping) {
                failed = self.look_again(&group.mapping).await.err();
            }
            match self.tables.current(&group.mapping) {
                Some(current) => group.mapping = current,
                None => {
                    self.give_up(&failed.unwrap_or_else(set_aside), asked, group).await;
                    continue;
                }
            }
            match self.slow.judge(group.mapping.index, Instant::now()) {
                Verdict::Usual => usual.push(group),
                Verdict::Hurry | Verdict::Trial => {
                    parts.push(Part { groups: vec![group], hurried: true, again: false, lost: 0 });
                }
                Verdict::Refuse => {
                    let reply = read_too_slow(&group.mapping.name);
                    self.tell(&reply, asked, &group).await;
                }
            }
        }
        parts.push(Part { groups: usual, hurried: false, again: false, lost: 0 });
        parts
    }

    async fn look_again(&mut self, mapping: &Mapping) -> Result<(), StoreError> {
        let session = connected(&mut self.session, &self.settings).await?;
        self.tables.look_again(session, mapping).await
    }

    /// Reads the rows of all groups; for each key, in their order, whether it may be filled.
    async fn select(
        &mut self,
        asked: &mut [Asked<'_>],
        part: &Part,
    ) -> Result<Vec<bool>, StoreError> {
        let timeout_ms = self.settings.postgres.statement_timeout_ms;
        let session = connected(&mut self.session, &self.settings).await?;
        session.hurry(part.hurried.then(|| hurry_ms(timeout_ms)));
        let limit = Duration::from_millis(2 * timeout_ms);
        let (large, most) = (&self.large, self.settings.cache_max_elements);
        match tokio::time::timeout(limit, select_in(session, asked, part, large, most)).await {
            Ok(read) => read,
            Err(_) => {
                self.session = None;
                Err(StoreError::Timeout(format!("no rows within {limit:?}")))
            }
        }
    }

    /// After a failure: the groups are tried one by one, or given up.
    async fn settle(
        &mut self,
        error: StoreError,
        asked: &mut [Asked<'_>],
        mut part: Part,
        parts: &mut Vec<Part>,
    ) {
        let hurried = part.hurried || matches!(error, StoreError::Timeout(_));
        let is_gone = matches!(error, StoreError::Unreachable(_));
        if !is_gone && part.groups.len() > 1 {
            let alone = |group| Part { groups: vec![group], hurried, again: false, lost: 0 };
            parts.extend(part.groups.into_iter().map(alone));
            return;
        }
        if let (StoreError::LayoutChanged { .. }, false, [group]) =
            (&error, part.again, &mut part.groups[..])
            && self.look_again(&group.mapping).await.is_ok()
            && let Some(current) = self.tables.current(&group.mapping)
        {
            group.mapping = current;
            parts.push(Part { again: true, ..part });
            return;
        }
        tracing::warn!(%error, "a read from Postgres failed");
        for group in part.groups {
            if matches!(error, StoreError::Timeout(_)) {
                self.settings.metrics.slow_queries.add(1);
                self.slow.strike(group.mapping.index, Instant::now());
            }
            self.give_up(&error, asked, group).await;
        }
    }

    async fn give_up(&mut self, error: &StoreError, asked: &mut [Asked<'_>], group: Group) {
        let reply = read_failed(error, &group.mapping.name);
        self.tell(&reply, asked, &group).await;
    }

    /// Postgres does not answer for these keys.
    async fn tell(&mut self, reply: &Reply, asked: &mut [Asked<'_>], group: &Group) {
        let mut calls = Vec::new();
        for &at in &group.places {
            asked[at].stored = Some(Found::Error(reply.clone()));
            if let Residence::Fill(lease) = &asked[at].residence {
                calls.push(unlease(asked[at].key, lease));
            }
        }
        if !calls.is_empty() {
            self.control.post(&calls).await;
        }
    }

    fn remember_large(&mut self, asked: &[Asked<'_>], part: &Part) {
        for &at in part.groups.iter().flat_map(|group| &group.places) {
            let Some(Found::Record { record: Some(record), .. }) = &asked[at].stored else {
                continue;
            };
            let most = self.settings.cache_max_elements;
            let was_tried = whole_up_to(&asked[at], &self.large, most) > 0;
            if was_tried && record.len() > most {
                if self.large.len() >= MOST_LARGE {
                    self.large.retain(|_, since| since.elapsed() < LARGE_FOR);
                }
                if self.large.len() < MOST_LARGE {
                    self.large.insert(asked[at].key.key.clone(), Instant::now());
                }
            }
        }
    }

    /// Fills with what was read, and ends the leases that may not be used.
    async fn post_fills(&mut self, asked: &[Asked<'_>], part: &Part, free: &[bool]) {
        self.remember_large(asked, part);
        let mut calls = Vec::new();
        let mut free = free.iter();
        for group in &part.groups {
            let counts = self.settings.metrics.mapping(group.mapping.index);
            let count = |counter: fn(&MappingCounts) -> &Counter, count: usize| {
                if let Some(counts) = counts {
                    counter(counts).add(count as u64);
                }
            };
            count(|counts| &counts.misses, group.places.len());
            for &at in &group.places {
                let Asked { key, residence: Residence::Fill(lease), stored, .. } = &asked[at]
                else {
                    continue;
                };
                let is_free = free.next().is_some_and(|free| *free);
                if !is_free {
                    count(|counts| &counts.refused_fills, 1);
                }
                let call = match stored {
                    Some(Found::Record { record, now_ms }) if is_free => {
                        let most = self.settings.cache_max_elements;
                        fill(key, &group.mapping, lease, record.as_ref(), *now_ms, most)
                    }
                    _ => unlease(key, lease),
                };
                if call.script == Script::Fill {
                    count(|counts| &counts.fills, 1);
                }
                calls.push(call);
            }
        }
        if !calls.is_empty() {
            self.control.post(&calls).await;
        }
    }
}

// === what Postgres has ===

/// Up to how many elements a key is to be read whole, though less is needed: so that it can be filled, or
/// listed at once.
fn whole_up_to(
    asked: &Asked<'_>,
    large: &HashMap<Bytes, Instant, ahash::RandomState>,
    most: usize,
) -> usize {
    let is_wanted = asked.needs.each || matches!(asked.residence, Residence::Fill(_));
    let is_large = large.get(&asked.key.key).is_some_and(|since| since.elapsed() < LARGE_FOR);
    if is_wanted && !is_large { most } else { 0 }
}

/// How all of a value is to be told that was too large to be read at once.
fn large_listing(operation: &Operation, places: &[usize], asked: &[Asked<'_>]) -> Option<Listing> {
    let asked = asked.get(*places.first()?).filter(|asked| asked.needs.each)?;
    let need = (operation.as_read()?.need)(&operation.arguments);
    let Need::Each(listing) = need else { return None };
    match asked.found(&need) {
        Some(Found::Record { record: Some(record), .. }) if record.others > 0 => Some(listing),
        _ => None,
    }
}

/// For each key with a lease, in the order of the groups, whether it may be used.
async fn select_in(
    session: &mut Session,
    asked: &mut [Asked<'_>],
    part: &Part,
    large: &HashMap<Bytes, Instant, ahash::RandomState>,
    most: usize,
) -> Result<Vec<bool>, StoreError> {
    let places = part.groups.iter().flat_map(|group| &group.places);
    let locks: Vec<i64> = places
        .filter(|&&at| matches!(asked[at].residence, Residence::Fill(_)))
        .map(|&at| asked[at].key.lock())
        .collect();
    let wants = |group: &Group| {
        let want = |&at: &usize| Want {
            key: asked[at].key,
            needs: &asked[at].needs,
            whole_up_to: whole_up_to(&asked[at], large, most),
        };
        group.places.iter().map(want).collect()
    };
    let readings: Vec<Reading<'_>> = part
        .groups
        .iter()
        .map(|group| Reading { mapping: &group.mapping, wants: wants(group) })
        .collect();
    let (free, read) = session.read_probed(&locks, &readings).await?;
    for (group, ReadRows { now_ms, rows }) in part.groups.iter().zip(read) {
        for (&at, row) in group.places.iter().zip(rows) {
            asked[at].stored = Some(Found::Record { record: row.record, now_ms });
        }
    }
    Ok(free)
}

fn by_mapping(asked: &[Asked<'_>], of_store: &[usize]) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for &at in of_store {
        let mapping = &asked[at].key.mapping;
        match groups.iter_mut().find(|group| group.mapping.index == mapping.index) {
            Some(group) => group.places.push(at),
            None => groups.push(Group { mapping: Arc::clone(mapping), places: vec![at] }),
        }
    }
    groups
}
