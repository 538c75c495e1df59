//! Importing: keys that only Redis has yet are brought to Postgres, whole, before anything is done with them.
//!
//! An app that turns a mapping on has its keys in Redis, and its table is empty. Until the mapping has migrated,
//! whoever asks Postgres for a key and finds no row comes here. A key that has no row, and of which neither
//! `respgres.moved` nor the outbox knows, has never had one: what Redis has of it is the original.
//!
//! Invariants
//! - An import holds the key's lock, and looks for the row, and for the value in Redis, under it. So nobody else
//!   is at the value: writers import before they begin, also those who tell Redis first.
//! - A key that is no original once is none for ever after. So who has found out that it is none needs not look
//!   again.
//! - What the table refuses is written nowhere, and Redis keeps it as it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::EngineSettings;
use super::refusal::{Happened, not_flushed};
use super::refusal::{too_large_to_import, unseen, upstream_failed, write_failed, wrong_type};
use super::tables::Tables;
use super::through::{RACES, connected, set_aside};
use super::transaction::{Copies, Failure, Touched};
use super::trust::Trust;
use crate::command::Needs;
use crate::config::Strategy;
use crate::mapping::layout::Unencodable;
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::Reply;
use crate::store::{Change, Reading, RowLock, Session, StoreError, Want};
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, aside_of, decimal, mark_of};
use crate::value::{Draft, Record, ValueKind};

/// Elements that Redis tells in one step; of more it is asked in slices.
const SLICE: usize = 5_000;

/// The bytes of a value that one write brings over.
pub(super) const MOST_BYTES: usize = 64 << 20;

/// Keys that a worker remembers to be no originals.
const MOST_KNOWN: usize = 100_000;

/// What has become of an import.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Postgres has the key.
    Imported,
    /// There is nothing to import: Redis has a copy at most.
    NoOriginal,
    /// It cannot be brought over, and is still there. `found`: what it holds, and the clock of Postgres then.
    Refused { reply: Reply, found: Option<Box<(Record, i64)>> },
}

/// Keys that are known to be no originals, each as of an entry of its mapping: when that has been in Redis alone in
/// between, they are all originals again.
#[derive(Debug, Default)]
pub(super) struct Known {
    keys: HashMap<Box<[u8]>, u64, ahash::RandomState>,
}

/// What imports, over the connections of a worker.
pub(super) struct Importer<'w> {
    pub(super) settings: &'w EngineSettings,
    pub(super) trust: &'w Arc<Trust>,
    pub(super) tables: &'w Tables,
    pub(super) session: &'w mut Option<Session>,
    pub(super) control: &'w mut Control,
}

/// What Redis says of a key without a row.
pub(super) enum Told {
    Nothing,
    /// Somebody is at it.
    Busy,
    /// It holds something else than its mapping.
    OtherType,
    Large,
    /// It has too many elements to be told in one step.
    Many {
        left_ms: Option<i64>,
        expected: i64,
    },
    Value {
        record: Record,
        left_ms: Option<i64>,
    },
}

// === impl Known ===

impl Known {
    pub(super) fn has(&self, key: &MappedKey) -> bool {
        self.keys.get(&key.key[..]) == Some(&key.mapping.gate.version())
    }

    pub(super) fn add(&mut self, key: &MappedKey) {
        if self.keys.len() >= MOST_KNOWN {
            self.keys.clear();
        }
        self.keys.insert(key.key[..].into(), key.mapping.gate.version());
    }
}

// === impl Importer ===

impl Importer<'_> {
    /// Brings a key to Postgres, if only Redis has it.
    pub(super) async fn import(&mut self, key: &MappedKey) -> Result<Outcome, Failure> {
        let mut tries = 0;
        loop {
            let was_connected = self.session.is_some();
            let error = match self.try_import(key).await {
                Err(Failure::Store(error)) => error,
                done => return done,
            };
            if self.session.as_ref().is_some_and(Session::is_broken) {
                *self.session = None;
            }
            tries += 1;
            match error {
                StoreError::Raced | StoreError::Retryable { .. } if tries <= RACES => {}
                StoreError::Unreachable(_) if was_connected && tries == 1 => {}
                // Whether it was imported is found out by whoever comes next; the client's own operation
                // has not happened.
                StoreError::InDoubt(text) => {
                    return Err(Failure::Store(StoreError::Unreachable(text)));
                }
                error => return Err(Failure::Store(error)),
            }
        }
    }

    /// Imports those of the keys that only Redis has; why one of them cannot be.
    pub(super) async fn import_all<'k>(
        &mut self,
        keys: impl Iterator<Item = &'k MappedKey>,
        known: &mut Known,
    ) -> Result<Option<Reply>, Failure> {
        let unknown: Vec<&MappedKey> =
            keys.filter(|key| key.mapping.imports() && !known.has(key)).collect();
        if unknown.is_empty() {
            return Ok(None);
        }
        Copies::known(self.trust, self.control).await?;
        let names: Vec<&Bytes> = unknown.iter().map(|key| &key.key).collect();
        let there = those_there(self.control, &names).await.map_err(Failure::Upstream)?;
        for key in unknown.into_iter().filter(|key| there.contains(&key.key)) {
            match self.import(key).await? {
                Outcome::Imported | Outcome::NoOriginal => known.add(key),
                Outcome::Refused { reply, .. } => return Ok(Some(reply)),
            }
        }
        Ok(None)
    }

    async fn try_import(&mut self, key: &MappedKey) -> Result<Outcome, Failure> {
        let mapping =
            self.tables.current(&key.mapping).ok_or_else(|| Failure::Store(set_aside()))?;
        if self.trust.is_out() {
            return Err(Failure::Unseen);
        }
        Copies::known(self.trust, self.control).await?;
        let session = connected(self.session, self.settings).await.map_err(Failure::Store)?;
        session.hurry(None);
        let asked_at = Instant::now();
        let begun = match begin(session, &[key], &mapping).await {
            Ok(begun) if begun.originals.is_empty() => {
                session.rollback().await.map_err(Failure::Store)?;
                return Ok(Outcome::NoOriginal);
            }
            Ok(begun) => begun,
            Err(error) => return Err(self.give_up(Failure::Store(error)).await),
        };
        let (mut record, left_ms) = match ask(self.control, key, &mapping).await {
            Ok(Told::Value { record, left_ms }) => (record, left_ms),
            Ok(told) => {
                self.end().await?;
                let refused = |reply| Ok(Outcome::Refused { reply, found: None });
                return match told {
                    Told::Busy => Err(Failure::Dirty),
                    Told::OtherType => refused(wrong_type()),
                    Told::Large | Told::Many { .. } => {
                        refused(too_large_to_import(&mapping.name, MOST_BYTES))
                    }
                    Told::Nothing | Told::Value { .. } => Ok(Outcome::NoOriginal),
                };
            }
            Err(error) => return Err(self.give_up(Failure::Upstream(error)).await),
        };
        let now_ms = begun.now_ms_after(asked_at.elapsed());
        record.expires_at_ms = left_ms.map(|left_ms| now_ms.saturating_add(left_ms));
        let refused = match self.write(key, &mapping, &record).await {
            Ok(()) => {
                tracing::debug!(mapping = %mapping.name, "a key was imported");
                if left_ms.is_none() {
                    self.adopt(&[adopt(&[key], &mapping)]).await;
                }
                return Ok(Outcome::Imported);
            }
            Err(error @ (StoreError::Refused { .. } | StoreError::Unencodable(_))) => error,
            Err(error) => return Err(self.give_up(Failure::Store(error)).await),
        };
        let reply = self.refusal(refused, &mapping).await;
        Ok(Outcome::Refused { reply, found: Some(Box::new((record, now_ms))) })
    }

    /// Waits for it: nobody is to set ends any more once the key is let go, as Redis alone may have it by then.
    pub(super) async fn adopt(&mut self, calls: &[Call]) {
        if let Err(error) = self.control.call(calls).await {
            tracing::debug!(%error, "what was imported has no end in Redis");
        }
    }

    async fn write(
        &mut self,
        key: &MappedKey,
        mapping: &Mapping,
        record: &Record,
    ) -> Result<(), StoreError> {
        let draft = draft_of(mapping, record.clone()).map_err(StoreError::Unencodable)?;
        let changes = [Change { key, present: false, draft: &draft }];
        let session = self.session.as_mut().expect("it has begun the transaction");
        session.write_and_commit(&[(mapping, &changes)]).await
    }

    /// What a client is told of Postgres' error, with the columns that only the catalog knows.
    async fn refusal(&mut self, mut error: StoreError, mapping: &Mapping) -> Reply {
        tracing::info!(%error, mapping = %mapping.name, "a key that only Redis has cannot be imported");
        if let Some(session) = self.session.as_mut()
            && session.rollback().await.is_ok()
            && let StoreError::Refused { constraint: Some(name), column, .. } = &mut error
            && column.is_none()
            && let Ok(columns) = session.constraint_columns(mapping.layout.table(), name).await
            && !columns.is_empty()
        {
            *column = Some(columns.join(", "));
        }
        write_failed(&error, &mapping.name)
    }

    pub(super) async fn end(&mut self) -> Result<(), Failure> {
        let session = self.session.as_mut().expect("it has begun the transaction");
        session.rollback().await.map_err(Failure::Store)
    }

    pub(super) async fn give_up(&mut self, failure: Failure) -> Failure {
        if let Err(Failure::Store(error)) = self.end().await {
            // The session is broken and with it the transaction.
            tracing::debug!(%error, "rollback failed");
        }
        failure
    }
}

/// The locks of keys are held; these of them have no row, and never had one.
pub(super) struct Begun {
    /// Their places, ascending.
    pub(super) originals: Vec<usize>,
    /// What the clock of Postgres said.
    now_ms: i64,
}

// === impl Begun ===

impl Begun {
    /// What its clock says by now. Never sooner than in Redis: a millisecond more, for what rounding takes.
    pub(super) fn now_ms_after(&self, passed: Duration) -> i64 {
        let passed_ms = i64::try_from(passed.as_millis()).unwrap_or(i64::MAX);
        self.now_ms.saturating_add(passed_ms).saturating_add(1)
    }
}

/// Takes the locks of keys of one mapping, and sees which of them may be originals. Each key comes once.
pub(super) async fn begin(
    session: &mut Session,
    keys: &[&MappedKey],
    mapping: &Mapping,
) -> Result<Begun, StoreError> {
    let mut locks: Vec<i64> = keys.iter().map(|key| key.lock()).collect();
    locks.sort_unstable();
    locks.dedup();
    let needs = Needs { existence: true, ..Needs::default() };
    let wants = keys.iter().map(|key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
    let read = session.begin_reading(&locks, &[Reading { mapping, wants }]).await?.remove(0);
    let has_no_row = |&at: &usize| read.rows.get(at).is_some_and(|row| !row.present);
    let missing: Vec<usize> = (0..keys.len()).filter(has_no_row).collect();
    if missing.is_empty() {
        return Ok(Begun { originals: missing, now_ms: read.now_ms });
    }
    let names: Vec<&[u8]> = missing.iter().map(|&at| &keys[at].key[..]).collect();
    let had = session.has_had(mapping, &names).await?;
    let originals = missing.into_iter().zip(had).filter(|(_, had)| !had).map(|(at, _)| at);
    Ok(Begun { originals: originals.collect(), now_ms: read.now_ms })
}

/// What becomes of an absent key that gets this value.
pub(super) fn draft_of(mapping: &Mapping, record: Record) -> Result<Draft, Unencodable> {
    for (name, value) in &record.fields {
        mapping.layout.check_field(name, value)?;
    }
    Ok(Draft::made(record))
}

// === what Redis has ===

/// The keys that are there.
pub(super) async fn those_there(
    control: &mut Control,
    keys: &[&Bytes],
) -> Result<HashSet<Bytes, ahash::RandomState>, UpstreamError> {
    let exists = |keys: &[&Bytes]| -> Vec<Bytes> {
        let word = Bytes::from_static(b"EXISTS");
        std::iter::once(word).chain(keys.iter().map(|&key| key.clone())).collect()
    };
    let all = exists(keys);
    let told = match control.command(&all).await {
        // What changes nothing may be asked again where the connection had died unnoticed.
        Err(UpstreamError::Lost(_)) => control.command(&all).await,
        told => told,
    };
    // Mostly none is.
    if count(told?)? == 0 {
        return Ok(HashSet::default());
    }
    let each: Vec<Vec<Bytes>> = keys.iter().map(|&key| exists(&[key])).collect();
    let each: Vec<&[Bytes]> = each.iter().map(|words| &words[..]).collect();
    let mut there = HashSet::default();
    for (&key, told) in keys.iter().zip(control.commands(&each).await?) {
        if count(told)? > 0 {
            there.insert(key.clone());
        }
    }
    Ok(there)
}

/// Under the locks of these keys: those without a row have to be imported first where Redis has them.
pub(super) async fn see_to_missing(
    control: &mut Control,
    copies: &Copies,
    touched: &[Touched<'_>],
    spared: &Known,
) -> Result<(), Failure> {
    let is_missing = |touched: &&Touched<'_>| {
        touched.mapping.imports() && !touched.present && !spared.has(touched.key)
    };
    let missing: Vec<&Bytes> =
        touched.iter().filter(is_missing).map(|touched| &touched.key.key).collect();
    if missing.is_empty() {
        return Ok(());
    }
    match copies {
        Copies::Kept => {}
        // It is being gone through.
        Copies::Dropped => return Err(Failure::Dirty),
        Copies::Bypassed { .. } => return Err(Failure::Unseen),
    }
    let there = those_there(control, &missing).await.map_err(Failure::Upstream)?;
    if there.is_empty() { Ok(()) } else { Err(Failure::Originals(there.into_iter().collect())) }
}

/// Whether Redis, which cannot be asked, may have any of these keys alone: none of them may be put into the outbox
/// then, as whoever works that off drops what Redis has.
pub(super) async fn may_be_any_original(
    session: &mut Session,
    tables: &Tables,
    keys: &[&MappedKey],
) -> Result<bool, StoreError> {
    let needs = Needs { existence: true, ..Needs::default() };
    for key in keys.iter().filter(|key| key.mapping.imports()) {
        let mapping = tables.current(&key.mapping).ok_or_else(set_aside)?;
        let want = [Want { key, needs: &needs, whole_up_to: 0 }];
        let read = session.read_parts(&mapping, &want, RowLock::None).await?;
        let has_row = read.rows.first().is_some_and(|row| row.present);
        if !has_row && !session.has_had(&mapping, &[&key.key]).await?.contains(&true) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a client is told whose key could not be looked for.
pub(super) fn reply_to(failure: &Failure, mapping: &str) -> Reply {
    match failure {
        Failure::Store(error) => write_failed(error, mapping),
        Failure::Upstream(_) => upstream_failed(Happened::No),
        Failure::Unseen => unseen(),
        Failure::Refused { reply, .. } => reply.clone(),
        Failure::Dirty
        | Failure::Ahead
        | Failure::Apart
        | Failure::NotDropped
        | Failure::Originals(_) => not_flushed(),
    }
}

async fn ask(
    control: &mut Control,
    key: &MappedKey,
    mapping: &Mapping,
) -> Result<Told, UpstreamError> {
    let answer = control.call(&[original(&[key], mapping, MOST_BYTES)]).await?.pop();
    let frame = answers(answer.ok_or_else(odd)?, 1)?.pop().ok_or_else(odd)?;
    let (left_ms, expected) = match told(frame, mapping)? {
        Told::Many { left_ms, expected } => (left_ms, expected),
        told => return Ok(told),
    };
    let mut record = Record { kind: mapping.holds(), ..Record::default() };
    if !take_in_slices(control, key, &mut record).await? {
        return Ok(Told::Large);
    }
    Ok(value(record, left_ms, expected))
}

/// Asks what Redis has of keys, where that takes no more than so many bytes a key.
pub(super) fn original(keys: &[&MappedKey], mapping: &Mapping, most_bytes: usize) -> Call {
    let of_key = |key: &&MappedKey| [key.key.clone(), mark_of(&key.key), aside_of(&key.key)];
    Call {
        script: Script::Original,
        keys: keys.iter().flat_map(of_key).collect(),
        arguments: vec![
            Bytes::from_static(mapping.holds().name().as_bytes()),
            Bytes::from(SLICE.to_string()),
            Bytes::from(most_bytes.to_string()),
        ],
    }
}

/// What it says to that, one answer a key.
pub(super) fn answers(frame: Frame, keys: usize) -> Result<Vec<Frame>, UpstreamError> {
    match frame {
        Frame::Array(answers) if answers.len() == keys => Ok(answers),
        Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
        _ => Err(odd()),
    }
}

/// What it says of a key.
pub(super) fn told(frame: Frame, mapping: &Mapping) -> Result<Told, UpstreamError> {
    let Frame::Array(parts) = frame else { return Err(odd()) };
    let mut parts = parts.into_iter();
    let Some(Frame::BulkString(word)) = parts.next() else { return Err(odd()) };
    match &word[..] {
        b"NONE" => return Ok(Told::Nothing),
        b"DIRTY" | b"HELD" => return Ok(Told::Busy),
        b"TYPE" => return Ok(Told::OtherType),
        b"LARGE" => return Ok(Told::Large),
        _ => {}
    }
    let (Some(Frame::Integer(left_ms)), Some(Frame::Integer(expected))) =
        (parts.next(), parts.next())
    else {
        return Err(odd());
    };
    let left_ms = (left_ms >= 0).then_some(left_ms);
    let Some(Frame::Array(values)) = parts.next() else {
        return Ok(Told::Many { left_ms, expected });
    };
    let mut record = Record { kind: mapping.holds(), ..Record::default() };
    take_in(&mut record, values)?;
    Ok(value(record, left_ms, expected))
}

fn value(record: Record, left_ms: Option<i64>, expected: i64) -> Told {
    // Redis has dropped some of it, or all, as its time has come.
    if usize::try_from(expected) != Ok(record.fields.len()) {
        return Told::Busy;
    }
    Told::Value { record, left_ms }
}

/// Nobody changes the value meanwhile. False: it is too large.
async fn take_in_slices(
    control: &mut Control,
    key: &MappedKey,
    record: &mut Record,
) -> Result<bool, UpstreamError> {
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    let scan = word(if record.kind == ValueKind::Set { "SSCAN" } else { "HSCAN" });
    let (mut cursor, mut bytes) = (word("0"), 0);
    loop {
        let words =
            [scan.clone(), key.key.clone(), cursor, word("COUNT"), Bytes::from(SLICE.to_string())];
        let Frame::Array(parts) = control.command(&words).await? else { return Err(odd()) };
        let mut parts = parts.into_iter();
        let (Some(Frame::BulkString(next)), Some(Frame::Array(values))) =
            (parts.next(), parts.next())
        else {
            return Err(odd());
        };
        let size =
            |frame: &Frame| if let Frame::BulkString(bytes) = frame { bytes.len() } else { 0 };
        bytes += values.iter().map(size).sum::<usize>();
        if bytes > MOST_BYTES {
            return Ok(false);
        }
        take_in(record, values)?;
        if &next[..] == b"0" {
            return Ok(true);
        }
        cursor = next;
    }
}

pub(super) fn take_in(record: &mut Record, values: Vec<Frame>) -> Result<(), UpstreamError> {
    let bytes = |frame: Option<Frame>| match frame {
        Some(Frame::BulkString(bytes)) => Ok(bytes),
        _ => Err(odd()),
    };
    let mut values = values.into_iter();
    while let Some(name) = values.next() {
        let value = match record.kind {
            ValueKind::Hash => bytes(values.next())?,
            ValueKind::Set => Bytes::new(),
        };
        record.fields.insert(bytes(Some(name))?, value);
    }
    Ok(())
}

/// Makes copies of what were originals; where there are none they go, now that Postgres has them.
pub(super) fn adopt(keys: &[&MappedKey], mapping: &Mapping) -> Call {
    if mapping.strategy() == Strategy::PostgresOnly {
        let of_key = |key: &&MappedKey| [key.key.clone(), mark_of(&key.key), aside_of(&key.key)];
        let keys = keys.iter().flat_map(of_key).collect();
        return Call { script: Script::Inval, keys, arguments: Vec::new() };
    }
    let keys = keys.iter().flat_map(|key| [key.key.clone(), mark_of(&key.key)]).collect();
    Call { script: Script::Adopt, keys, arguments: vec![decimal(mapping.cache_ttl_ms)] }
}

fn count(frame: Frame) -> Result<i64, UpstreamError> {
    match frame {
        Frame::Integer(count) => Ok(count),
        Frame::Error(text) => Err(UpstreamError::Refused(text.to_string())),
        _ => Err(odd()),
    }
}

fn odd() -> UpstreamError {
    UpstreamError::Protocol("an odd answer while a key was imported".into())
}
