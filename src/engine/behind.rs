//! Write-behind: Redis first, and Postgres soon after (COHERENCE, "Behind (Redis first) and the flusher").
//!
//! A worker takes whatever has queued up and has Redis run it in one step, which journals what has become of
//! the keys (`lua/behind.lua`). Clients are answered then; the flusher brings the journal to Postgres.
//!
//! Invariants
//! - Operations take effect in the order in which they came.
//! - What no column could hold is refused before Redis is told, as far as that can be known without Postgres.
//! - A step is sent once. When its answer is lost, nobody knows whether it happened, and clients are told so.
//! - What cannot be done behind is done through, in its turn: keys that are to end by themselves, keys that
//!   Redis does not keep (the large ones), and rows that need more than what is written.
//! - Nothing is written past Redis, which alone may know what has become of a key.
//!
//! While Postgres is lost the keys of all mappings that allow it come here. Of what Redis does not have, a part
//! of the value is made then, where the mapping says so: what is journaled of it is merged into the row later,
//! increments as such.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::time::sleep;

use super::barrier::is_dirty;
use super::fits::{How, NEEDY, Way, fits, kind_word};
use super::health::Health;
use super::import::{Importer, Known, Outcome};
use super::load::{Loader, NotLoaded};
use super::operation::{Operation, batches};
use super::patience;
use super::refusal::{
    Happened, fenced, journal_full, journal_not_open, needs_postgres, not_cached, not_yet_known,
    too_busy, upstream_failed,
};
use super::rescue::{answer_the_rest, rescue};
use super::step::Stepping;
use super::through::Writer;
use super::transaction::{Copies, Failure};
use crate::config::{OnPostgresDown, Strategy};
use crate::mapping::MappedKey;
use crate::protocol::Reply;
use crate::store::{StoreError, has_row};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, JOURNAL, JOURNAL_STATE, Script, mark_of};
use crate::value::number::parse_i64;

/// Bytes of arguments that go into one entry of the journal; an operation with more is done through.
const ENTRY_BYTES: usize = 1 << 20;

/// Arguments of one operation: more than Lua takes, or than is good for an entry, are done through.
const MOST_ARGUMENTS: usize = 1000;

/// How long it is waited for a Redis that is away, before clients are told.
const AWAY: Duration = Duration::from_millis(500);

/// How long it is waited for one that has come back to be gone through.
const SWEPT: Duration = Duration::from_secs(2);

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// A connection that was used so lately is taken to live.
const FRESH: Duration = Duration::from_millis(20);

/// How often a key is loaded before its operation is done through.
const LOADS: u32 = 2;

/// A worker that tells Redis first.
#[derive(Debug)]
pub struct BehindWriter {
    through: Writer,
    loader: Loader,
    stepping: Arc<Stepping>,
    known: Known,
    used: Option<Instant>,
}

/// What has become of a step.
enum Stepped {
    /// So many operations were run and answered; and what the keys of the next one lack.
    Ran {
        count: usize,
        to_load: Vec<MappedKey>,
        goes_through: bool,
    },
    NotOpen,
    Full,
    /// Redis does not take it now; nothing has happened.
    NotNow,
    /// Redis has not been gone through yet.
    NotYet,
    Away,
    InDoubt,
}

/// What a proxy may tell Redis now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Believed,
    /// It is there, and has not been gone through yet.
    Met,
    Away,
}

/// Whether a write can be told Redis first, by its kind and by what holds for its keys now.
pub(super) fn may_be_behind(operation: &Operation, health: &Health) -> bool {
    let is_cache_first = |key: &MappedKey| health.strategy_of(&key.mapping) == Strategy::CacheFirst;
    operation.others.is_empty()
        && How::of(operation.command).is_some()
        && operation.keys.iter().all(is_cache_first)
}

// === impl BehindWriter ===

impl BehindWriter {
    /// `through` does what cannot be done behind, and has the queue and the connections.
    pub(super) fn new(through: Writer, stepping: Arc<Stepping>) -> Self {
        let queue = Arc::clone(&through.queue);
        let through = through.handing_over_to(queue);
        Self { through, loader: Loader::default(), stepping, known: Known::default(), used: None }
    }

    /// Writes until it is asked to stop and nothing is left in its queue.
    pub async fn run(mut self, tasks: &Tasks) {
        loop {
            let operations = tokio::select! {
                biased;
                operations = self.through.queue.take() => operations,
                () = tasks.stopping() => break,
            };
            let most = self.through.settings.postgres.batch_operations.max(1);
            for batch in batches(&operations, most, ENTRY_BYTES) {
                let written = rescue(self.write(batch)).await;
                self.stepping.hold(false);
                if written.is_err() {
                    self.through.session = None;
                    self.through.control = Control::new(self.through.settings.control.clone());
                    answer_the_rest(batch);
                }
            }
        }
        if let Some(session) = self.through.session.take() {
            session.close().await;
        }
    }

    /// Answers every operation of a batch.
    async fn write(&mut self, batch: &[Operation]) {
        let ways: Vec<Way> = batch.iter().map(|operation| self.way(operation)).collect();
        let patience = patience(&self.through.settings.postgres);
        let mut loads: HashMap<Bytes, u32, ahash::RandomState> = HashMap::default();
        // Why nothing goes on.
        let (mut why, mut away_since) = (too_busy(), None);
        let mut at = 0;
        while let Some(operation) = batch.get(at) {
            if self.through.settings.fleet.is_fenced() {
                operation.answer(&fenced());
                at += 1;
                continue;
            }
            if operation.age() >= patience {
                operation.answer(&why);
                at += 1;
                continue;
            }
            let alike =
                |is_so: fn(&Way) -> bool| ways[at..].iter().take_while(|way| is_so(way)).count();
            match &ways[at] {
                Way::Refused(reply) => {
                    operation.answer(reply);
                    at += 1;
                    continue;
                }
                Way::Through if self.is_lost() => {
                    operation.answer(&needs_postgres());
                    at += 1;
                    continue;
                }
                Way::Through => {
                    let count = alike(|way| matches!(way, Way::Through));
                    let run = &batch[at..at + count];
                    self.write_through(run).await;
                    // Postgres was lost meanwhile.
                    let left = run.iter().filter(|operation| operation.is_handed_over());
                    left.for_each(|operation| operation.answer(&needs_postgres()));
                    at += count;
                    continue;
                }
                Way::Behind(_) => {}
            }
            let count = alike(|way| matches!(way, Way::Behind(_)));
            let count = self.without_originals(&batch[at..at + count]).await;
            if count == 0 {
                if self.is_lost() {
                    operation.answer(&needs_postgres());
                    at += 1;
                } else {
                    self.write_through(&batch[at..=at]).await;
                    // Else Postgres was lost meanwhile.
                    at += usize::from(!operation.take_over());
                }
                continue;
            }
            let run = &batch[at..at + count];
            match self.step(run, &ways[at..at + count]).await {
                Stepped::Ran { count, to_load, goes_through } => {
                    self.stepping.hold(false);
                    (why, away_since) = (too_busy(), None);
                    at += count;
                    let Some(next) = run.get(count) else { continue };
                    if self.is_lost() {
                        if let Some(reply) = self.refusal(next, &to_load, goes_through) {
                            next.answer(&reply);
                            at += 1;
                        }
                        continue;
                    }
                    let is_tried =
                        |key: &MappedKey| loads.get(&key.key).is_some_and(|n| *n >= LOADS);
                    let is_loaded = !goes_through
                        && !next.keys.iter().any(is_tried)
                        && self.load(&to_load).await;
                    if !is_loaded && !self.is_lost() {
                        self.write_through(&run[count..=count]).await;
                        // Else Postgres was lost meanwhile, and it can be done behind.
                        at += usize::from(!next.take_over());
                    }
                    for key in to_load {
                        *loads.entry(key.key).or_default() += 1;
                    }
                }
                // Without Postgres that stays so.
                stepped @ (Stepped::NotOpen | Stepped::Full | Stepped::NotYet)
                    if self.is_lost() =>
                {
                    let reply = match stepped {
                        Stepped::NotOpen => journal_not_open(),
                        Stepped::Full => journal_full(),
                        _ => not_yet_known(),
                    };
                    run.iter().for_each(|operation| operation.answer(&reply));
                    at += count;
                }
                Stepped::NotOpen => {
                    why = journal_not_open();
                    self.through.trust.poke();
                    self.pause().await;
                }
                Stepped::Full => {
                    why = journal_full();
                    self.through.trust.journal.want();
                    self.pause().await;
                }
                Stepped::NotYet
                    if away_since.get_or_insert_with(Instant::now).elapsed() < SWEPT =>
                {
                    self.pause().await;
                }
                Stepped::NotYet => {
                    run.iter().for_each(|operation| operation.answer(&not_yet_known()));
                    at += count;
                }
                Stepped::NotNow => {
                    self.write_through(run).await;
                    let left = run.iter().filter(|operation| operation.is_handed_over());
                    left.for_each(|operation| operation.answer(&needs_postgres()));
                    at += count;
                }
                Stepped::Away if away_since.get_or_insert_with(Instant::now).elapsed() < AWAY => {
                    self.pause().await;
                }
                Stepped::Away => {
                    run.iter()
                        .for_each(|operation| operation.answer(&upstream_failed(Happened::No)));
                    at += count;
                }
                // Answered.
                Stepped::InDoubt => at += count,
            }
        }
    }

    /// Before the next try; nobody else comes first meanwhile.
    async fn pause(&self) {
        self.stepping.hold(true);
        sleep(PAUSE).await;
    }

    fn is_lost(&self) -> bool {
        self.through.settings.health.is_lost()
    }

    /// What a client is told of an operation that was not run while Postgres is lost; `None`: it can be tried
    /// again.
    fn refusal(
        &self,
        operation: &Operation,
        to_load: &[MappedKey],
        goes_through: bool,
    ) -> Option<Reply> {
        if goes_through {
            return Some(needs_postgres());
        }
        let is_unknown = |key: &&MappedKey| {
            to_load.iter().any(|to_load| to_load.key == key.key) && !self.may_be_part(key)
        };
        let unknown = operation.keys.iter().find(is_unknown)?;
        Some(match self.through.settings.health.policy_of(&unknown.mapping) {
            Some(OnPostgresDown::RedisOnly) => needs_postgres(),
            _ => not_cached(),
        })
    }

    /// Whether a part of the key's value may be made.
    fn may_be_part(&self, key: &MappedKey) -> bool {
        let mapping = self.through.tables.current(&key.mapping);
        let mapping = mapping.as_deref().unwrap_or(&key.mapping);
        // A new row may need more than the part.
        self.through.settings.health.policy_of(mapping) == Some(OnPostgresDown::RedisOnly)
            && kind_word(mapping) != NEEDY
    }

    /// How many operations, from the first on, are on keys that Redis does not have alone. What it does is
    /// brought to Postgres, if that takes it.
    async fn without_originals(&mut self, run: &[Operation]) -> usize {
        let is_unknown = |key: &&MappedKey| key.mapping.imports() && !self.known.has(&key.key);
        let unknown: Vec<&MappedKey> =
            run.iter().flat_map(|operation| &operation.keys).filter(is_unknown).collect();
        if unknown.is_empty() {
            return run.len();
        }
        let names: Vec<&Bytes> = unknown.iter().map(|key| &key.key).collect();
        let is_lost = self.is_lost();
        let Writer { settings, trust, tables, session, control, .. } = &mut self.through;
        let clean = match Copies::in_redis(trust, control).await {
            Ok(_) => clean_values(control, &names).await,
            Err(error) => Err(error),
        };
        let clean = match clean {
            Ok(clean) => clean,
            Err(error) => {
                tracing::debug!(%error, "what Redis has alone is not known");
                trust.lose();
                return 0;
            }
        };
        let mut left = HashSet::new();
        let mut seen = HashSet::new();
        for key in unknown.into_iter().filter(|key| clean.contains(&key.key)) {
            if !seen.insert(&key.key) {
                continue;
            }
            let mut importer = Importer { settings, trust, tables, session, control };
            match if is_lost { Err(Failure::Unseen) } else { importer.import(key).await } {
                Ok(Outcome::Imported | Outcome::NoOriginal) => self.known.add(&key.key),
                // Whoever writes through knows what to say.
                Ok(Outcome::Refused { .. }) => drop(left.insert(&key.key)),
                Err(failure) => {
                    tracing::debug!(?failure, "a key is not imported");
                    left.insert(&key.key);
                }
            }
        }
        let is_left =
            |operation: &Operation| operation.keys.iter().any(|key| left.contains(&key.key));
        run.iter().take_while(|operation| !is_left(operation)).count()
    }

    async fn write_through(&mut self, operations: &[Operation]) {
        self.through.write(operations).await;
        self.used = None;
    }

    /// Whether it is worth trying again.
    async fn load(&mut self, keys: &[MappedKey]) -> bool {
        if keys.iter().any(|key| self.loader.is_large(&key.key)) {
            return false;
        }
        let Writer { settings, tables, session, control, .. } = &mut self.through;
        let keys: Vec<&MappedKey> = keys.iter().collect();
        match self.loader.load(&keys, settings, tables, session, control).await {
            Ok(()) => true,
            // The one who writes through knows what to say of a store that is gone.
            Err(NotLoaded::Store(error)) => {
                tracing::debug!(%error, "a value could not be loaded to be written behind");
                if matches!(error, StoreError::Unreachable(_)) {
                    self.through.settings.health.is_lost_now().await;
                }
                false
            }
            Err(NotLoaded::Upstream(error)) => {
                tracing::debug!(%error, "a value could not be loaded to be written behind");
                true
            }
        }
    }

    // --- what can be done behind ---

    fn way(&self, operation: &Operation) -> Way {
        let Some(how) = How::of(operation.command) else { return Way::Through };
        if operation.arguments.len() > MOST_ARGUMENTS || operation.size() > ENTRY_BYTES {
            return Way::Through;
        }
        let is_lost = self.is_lost();
        for key in &operation.keys {
            let Some(mapping) = self.through.tables.current(&key.mapping) else {
                return Way::Through;
            };
            if self.through.settings.health.policy_of(&mapping) == Some(OnPostgresDown::Reject) {
                return Way::Through;
            }
            let is_large = !is_lost && self.loader.is_large(&key.key);
            if !has_row(&mapping.layout, key) || is_large {
                return Way::Through;
            }
            match fits(how, &operation.arguments, &mapping) {
                Way::Behind(_) => {}
                way => return way,
            }
        }
        Way::Behind(how)
    }

    // --- one step ---

    async fn standing(&mut self) -> Standing {
        let Writer { trust, control, .. } = &mut self.through;
        match Copies::in_redis(trust, control).await {
            Ok(Copies::Kept) => Standing::Believed,
            Ok(_) => Standing::Met,
            Err(error) => {
                tracing::debug!(%error, "Redis cannot be told first");
                Standing::Away
            }
        }
    }

    /// Has Redis run operations, as many as it can, and answers those.
    async fn step(&mut self, run: &[Operation], ways: &[Way]) -> Stepped {
        if self.used.is_none_or(|used| used.elapsed() > FRESH)
            && self.through.control.live_run_id().await.is_err()
        {
            self.through.trust.lose();
            return Stepped::Away;
        }
        match self.standing().await {
            Standing::Believed => {}
            Standing::Met => return Stepped::NotYet,
            Standing::Away => {
                self.through.trust.lose();
                return Stepped::Away;
            }
        }
        let (call, keys) = self.call(run, ways);
        let is_loose = keys.iter().any(|key| key.mapping.strategy() != Strategy::CacheFirst);
        let loose = is_loose.then(|| self.through.trust.journal.begin_loose_step());
        let health = &self.through.settings.health;
        if keys.iter().any(|key| health.may_not_tell_first(&key.mapping)) {
            // Since it was decided that Redis is told first, others may have been told that nobody does that.
            return Stepped::NotNow;
        }
        let told = self.through.control.call(&[call]).await;
        drop(loose);
        self.used = Some(Instant::now());
        self.stepping.learn_hash(|| self.through.control.hash_of(Script::Step));
        let in_doubt = |error: &UpstreamError| {
            tracing::warn!(%error, "what was told Redis first may or may not have happened");
            run.iter().for_each(|operation| operation.answer(&upstream_failed(Happened::Maybe)));
            Stepped::InDoubt
        };
        let parts = match told.map(|mut replies| replies.pop()) {
            Ok(Some(Frame::Array(parts))) => parts,
            // Before a script begins.
            Ok(Some(Frame::Error(text))) if is_for_later(&text) => {
                tracing::debug!(error = %text, "Redis cannot be told first");
                return Stepped::NotNow;
            }
            Ok(Some(Frame::Error(text))) => {
                return in_doubt(&UpstreamError::Refused(text.to_string()));
            }
            Ok(_) => return in_doubt(&UpstreamError::Protocol("an odd answer to behind".into())),
            Err(error @ UpstreamError::Connect { .. }) => {
                tracing::debug!(%error, "Redis cannot be told first");
                self.through.trust.lose();
                return Stepped::Away;
            }
            Err(error) => {
                self.through.trust.lose();
                return in_doubt(&error);
            }
        };
        let mut parts = parts.into_iter();
        let states = match (parts.next(), parts.next()) {
            (Some(Frame::BulkString(word)), None) if &word[..] == b"EPOCH" => {
                return Stepped::NotOpen;
            }
            (Some(Frame::BulkString(word)), None) if &word[..] == b"FULL" => return Stepped::Full,
            (_, Some(Frame::BulkString(states))) => states,
            _ => return in_doubt(&UpstreamError::Protocol("an odd answer to behind".into())),
        };
        let mut count = 0;
        for ((operation, way), reply) in run.iter().zip(ways).zip(parts) {
            operation.answer(&reply_of(way, reply));
            count += 1;
        }
        let (mut to_load, mut goes_through) = (Vec::new(), false);
        if let Some(next) = run.get(count) {
            for (key, state) in keys.iter().zip(states) {
                if state == b'l' {
                    to_load.push((*key).clone());
                }
                goes_through |= state == b't' && next.keys.iter().any(|named| named.key == key.key);
            }
        }
        Stepped::Ran { count, to_load, goes_through }
    }

    fn call<'o>(&self, run: &'o [Operation], ways: &[Way]) -> (Call, Vec<&'o MappedKey>) {
        let mut places: HashMap<&[u8], usize, ahash::RandomState> = HashMap::default();
        let mut keys: Vec<&MappedKey> = Vec::new();
        for key in run.iter().flat_map(|operation| &operation.keys) {
            places.entry(&key.key).or_insert_with(|| {
                keys.push(key);
                keys.len()
            });
        }
        let word = |text: &'static str| Bytes::from_static(text.as_bytes());
        let number = |number: usize| Bytes::from(number.to_string());
        let mut names = vec![Bytes::from_static(JOURNAL_STATE), Bytes::from_static(JOURNAL)];
        names.extend(keys.iter().flat_map(|key| [key.key.clone(), mark_of(&key.key)]));
        let most = self.through.settings.journal.max_changes;
        let is_loose = keys.iter().any(|key| key.mapping.strategy() != Strategy::CacheFirst);
        let loose = word(if is_loose { "loose" } else { "" });
        let mut arguments = vec![Bytes::from(most.to_string()), loose];
        arguments.extend(keys.iter().map(|key| {
            let mapping = self.through.tables.current(&key.mapping);
            let kind = kind_word(mapping.as_deref().unwrap_or(&key.mapping));
            if self.may_be_part(key) { Bytes::from(format!("{kind}+")) } else { word(kind) }
        }));
        for (operation, way) in run.iter().zip(ways) {
            let Way::Behind(how) = way else { continue };
            arguments.push(word(how.word()));
            if *how == How::Keys {
                // Each one once: the second time there is nothing to delete.
                let mut seen = HashSet::new();
                let named = operation.keys.iter().map(|key| places[&key.key[..]]);
                let named: Vec<usize> = named.filter(|place| seen.insert(*place)).collect();
                arguments.extend([word("0"), number(named.len())]);
                arguments.extend(named.into_iter().map(number));
            } else {
                arguments.extend([
                    number(places[&operation.keys[0].key[..]]),
                    number(operation.arguments.len()),
                ]);
                arguments.extend_from_slice(&operation.arguments);
            }
        }
        (Call { script: Script::Behind, keys: names, arguments }, keys)
    }
}

/// Which of these keys Redis has, without changes that Postgres is going to get.
async fn clean_values(
    control: &mut Control,
    keys: &[&Bytes],
) -> Result<HashSet<Bytes>, UpstreamError> {
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    let asked: Vec<[Bytes; 2]> = keys
        .iter()
        .flat_map(|key| [[word("EXISTS"), (*key).clone()], [word("GET"), mark_of(key)]])
        .collect();
    let asked: Vec<&[Bytes]> = asked.iter().map(|words| &words[..]).collect();
    let told = match control.commands(&asked).await {
        // The connection had died unnoticed.
        Err(UpstreamError::Lost(_)) => control.commands(&asked).await,
        told => told,
    };
    let mut clean = HashSet::new();
    for (key, told) in keys.iter().zip(told?.chunks(2)) {
        match told {
            [Frame::Integer(0), _] => {}
            [Frame::Integer(_), mark] if is_dirty(mark) => {}
            [Frame::Integer(_), _] => drop(clean.insert((*key).clone())),
            [Frame::Error(text), _] => return Err(UpstreamError::Refused(text.to_string())),
            _ => return Err(UpstreamError::Protocol("an odd answer to EXISTS".into())),
        }
    }
    Ok(clean)
}

/// What Redis says of itself, before it runs a script.
pub(super) fn is_for_later(error: &str) -> bool {
    let first = error.split(' ').next().unwrap_or_default();
    matches!(
        first,
        "OOM"
            | "BUSY"
            | "LOADING"
            | "MASTERDOWN"
            | "MISCONF"
            | "NOPERM"
            | "NOREPLICAS"
            | "READONLY"
    )
}

fn reply_of(way: &Way, frame: Frame) -> Reply {
    match frame {
        Frame::BulkString(digits) if matches!(way, Way::Behind(How::Sum)) => {
            parse_i64(&digits).map_or(Reply::Bulk(digits), Reply::Integer)
        }
        Frame::Integer(number) => Reply::Integer(number),
        Frame::BulkString(text) => Reply::Bulk(text),
        Frame::SimpleString(_) => Reply::OK,
        Frame::Error(text) => Reply::Error(text.to_string()),
        Frame::Null => Reply::Nil,
        Frame::Array(drawn) => {
            let member = |frame| match frame {
                Frame::BulkString(member) => Some(Reply::Bulk(member)),
                _ => None,
            };
            Reply::Set(drawn.into_iter().filter_map(member).collect())
        }
    }
}
