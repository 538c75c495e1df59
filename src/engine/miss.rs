//! Reads that Redis could not answer for good: after a miss, and by strategies that ask Postgres
//! (COHERENCE, "Read").
//!
//! A reader takes whatever reads have queued up, asks once for each key however many clients wait
//! for it, first in Redis (is the key there, known to be absent, or may this reader fill it?), then,
//! for all keys of a mapping in one statement, in Postgres.
//!
//! Invariants
//! - A read is answered from a statement that began after the read had come.
//! - A fill is sent only if, in the same transaction and before the row was read, no writer held the
//!   key's lock; a writer that comes later voids the reader's mark.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::EngineSettings;
use super::operation::{Operation, total};
use super::queue::Queue;
use super::refusal::{Happened, read_failed, upstream_failed};
use super::through::cached_ttl_ms;
use crate::command::Need;
use crate::config::{self, Strategy};
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::Reply;
use crate::store::{ReadRows, RowLock, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, Token, decimal, mark_of};
use crate::value::{Fields, Record};

/// Keys that are filled or asked for by one statement.
const BATCH_KEYS: usize = 500;

/// A worker that reads what is not, or may not be, in Redis.
#[derive(Debug)]
pub struct MissReader {
    postgres: config::Postgres,
    lease_ms: u64,
    session: Option<Session>,
    control: Control,
    queue: Arc<Queue>,
}

/// One key that at least one client asks for.
struct Asked<'a> {
    key: &'a MappedKey,
    needs: Vec<Need>,
    residence: Residence,
    found: Found,
}

/// What Redis says of a key.
enum Residence {
    /// It was not asked, or is out of reach.
    Unknown,
    /// It is there, with what is needed of it.
    Here(Record),
    /// Reading it gives this error.
    Error(String),
    /// Known to be absent.
    Absent,
    /// A writer or another reader is at it: ask Postgres, store nothing.
    Through,
    /// This reader may fill it.
    Fill(Token),
}

/// What the key holds.
enum Found {
    Nothing,
    Record { record: Option<Record>, now_ms: i64 },
    Error(Reply),
}

// === impl MissReader ===

impl MissReader {
    pub fn new(settings: &EngineSettings, control: Control, queue: Arc<Queue>) -> Self {
        Self {
            postgres: settings.postgres.clone(),
            lease_ms: settings.lease_ms,
            session: None,
            control,
            queue,
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
            self.read(&operations).await;
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Answers a batch of reads.
    async fn read(&mut self, operations: &[Operation]) {
        let (mut asked, places) = keys_of(operations);
        for part in asked.chunks_mut(BATCH_KEYS) {
            self.ask_redis(part).await;
            self.ask_postgres(part).await;
        }
        for (operation, places) in operations.iter().zip(&places) {
            let reply = self.reply(operation, places, &asked).await;
            operation.answer(&reply);
        }
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
        let replies = places.iter().map(|&at| match &asked[at].found {
            Found::Record { record, now_ms } => {
                (read.reply)(&operation.arguments, record.as_ref(), *now_ms)
            }
            Found::Error(reply) => reply.clone(),
            Found::Nothing => Reply::err("the key was not read"),
        });
        let reply = total(replies);
        if operation.others.is_empty() {
            return reply;
        }
        let others = match self.control.command(&operation.for_others()).await {
            Ok(Frame::Integer(count)) => Reply::Integer(count),
            Ok(Frame::Error(text)) => Reply::Error(text.to_string()),
            Ok(_) | Err(_) => upstream_failed(Happened::No),
        };
        total([reply, others].into_iter())
    }

    // --- Redis ---

    /// Asks for the keys that have a side in Redis.
    async fn ask_redis(&mut self, asked: &mut [Asked<'_>]) {
        let mut calls = Vec::new();
        let mut of_calls = Vec::new();
        for (at, asked) in asked.iter().enumerate() {
            let strategy = asked.key.mapping.strategy;
            if strategy == Strategy::PostgresOnly || asked.needs.contains(&Need::Expiry) {
                continue;
            }
            let token = Token::reader();
            let mut arguments = vec![token.text(), Bytes::from(self.lease_ms.to_string())];
            arguments.extend(wanted(&asked.needs));
            let key = &asked.key.key;
            let keys = vec![key.clone(), mark_of(key)];
            calls.push(Call { script: Script::Miss, keys, arguments });
            of_calls.push((at, token));
        }
        if calls.is_empty() {
            return;
        }
        match self.control.call(&calls).await {
            Ok(replies) => {
                for ((at, token), reply) in of_calls.into_iter().zip(replies) {
                    asked[at].residence = residence(reply, token, &asked[at].needs);
                }
            }
            // Postgres has every mapped key.
            Err(error) => tracing::debug!(%error, "a miss is answered by Postgres alone"),
        }
    }

    // --- Postgres ---

    async fn ask_postgres(&mut self, asked: &mut [Asked<'_>]) {
        let mut of_store = Vec::new();
        for (at, asked) in asked.iter_mut().enumerate() {
            let first = asked.key.mapping.strategy == Strategy::DatabaseFirst;
            match &asked.residence {
                Residence::Error(text) if !first => {
                    asked.found = Found::Error(Reply::Error(text.clone()));
                }
                Residence::Here(record) if !first => {
                    asked.found = Found::Record { record: Some(record.clone()), now_ms: 0 };
                }
                Residence::Absent if !first => {
                    asked.found = Found::Record { record: None, now_ms: 0 };
                }
                _ => of_store.push(at),
            }
        }
        if of_store.is_empty() {
            return;
        }
        let read = match self.select(asked, &of_store).await {
            Err(StoreError::Unreachable(_) | StoreError::LayoutChanged { .. }) => {
                // The session had died unnoticed, or knew an older table.
                self.select(asked, &of_store).await
            }
            other => other,
        };
        let fill = match read {
            Ok(free) => self.fills(asked, &of_store, &free),
            Err(error) => {
                tracing::warn!(%error, "a read from Postgres failed");
                for &at in &of_store {
                    asked[at].found = found_without_store(&asked[at], &error);
                }
                self.fills(asked, &of_store, &vec![false; of_store.len()])
            }
        };
        if !fill.is_empty() {
            self.control.post(&fill).await;
        }
    }

    /// Reads the rows; for each key, whether it may be filled.
    async fn select(
        &mut self,
        asked: &mut [Asked<'_>],
        of_store: &[usize],
    ) -> Result<Vec<bool>, StoreError> {
        if self.session.as_ref().is_none_or(Session::is_broken) {
            self.session = None;
            self.session = Some(Session::connect(&self.postgres).await?);
        }
        let session = self.session.as_mut().expect("it was connected just now");
        let fills: Vec<usize> = of_store
            .iter()
            .copied()
            .filter(|&at| matches!(asked[at].residence, Residence::Fill(_)))
            .collect();
        let read = select_in(session, asked, of_store, &fills).await;
        if let Err(error) = session.rollback().await {
            // It only read; what it has read is good.
            tracing::debug!(%error, "ending a read failed");
        }
        let free = read?;
        Ok(of_store
            .iter()
            .map(|at| fills.iter().position(|fill| fill == at).is_some_and(|place| free[place]))
            .collect())
    }

    /// The fills of what was read, and the end of the leases that may not be used.
    fn fills(&self, asked: &[Asked<'_>], of_store: &[usize], free: &[bool]) -> Vec<Call> {
        let mut calls = Vec::new();
        for (&at, &free) in of_store.iter().zip(free) {
            let Asked { key, residence: Residence::Fill(token), found, .. } = &asked[at] else {
                continue;
            };
            let mark = mark_of(&key.key);
            let call = match found {
                Found::Record { record, now_ms } if free => {
                    fill(key, mark, token, record.as_ref(), *now_ms)
                }
                _ => Call {
                    script: Script::Unlease,
                    keys: vec![mark],
                    arguments: vec![token.text()],
                },
            };
            calls.push(call);
        }
        calls
    }
}

/// Each key once, with all that is needed of it; and for each operation where its keys stand.
fn keys_of(operations: &[Operation]) -> (Vec<Asked<'_>>, Vec<Vec<usize>>) {
    let mut asked: Vec<Asked<'_>> = Vec::new();
    let mut known: HashMap<&[u8], usize, ahash::RandomState> = HashMap::default();
    let mut places = Vec::with_capacity(operations.len());
    for operation in operations {
        let need = operation.as_read().map(|read| (read.need)(&operation.arguments));
        let mut of_operation = Vec::with_capacity(operation.keys.len());
        for key in &operation.keys {
            let at = *known.entry(&key.key).or_insert_with(|| {
                let residence = Residence::Unknown;
                asked.push(Asked { key, needs: Vec::new(), residence, found: Found::Nothing });
                asked.len() - 1
            });
            if let Some(need) = &need
                && !asked[at].needs.contains(need)
            {
                asked[at].needs.push(need.clone());
            }
            of_operation.push(at);
        }
        places.push(of_operation);
    }
    (asked, places)
}

// === what Redis has ===

/// What the script has to read if the key is there, so that all needs are met.
fn wanted(needs: &[Need]) -> Vec<Bytes> {
    if let [Need::Fields(fields)] = needs {
        let word = Bytes::from_static(b"fields");
        return std::iter::once(word).chain(fields.iter().cloned()).collect();
    }
    let only_existence = needs.iter().all(|need| *need == Need::Existence);
    vec![Bytes::from_static(if only_existence { b"existence" } else { b"whole" })]
}

fn residence(reply: Frame, token: Token, needs: &[Need]) -> Residence {
    let Frame::Array(parts) = reply else { return Residence::Unknown };
    let mut parts = parts.into_iter();
    let word = match parts.next() {
        Some(Frame::BulkString(word)) => word,
        _ => return Residence::Unknown,
    };
    match &word[..] {
        b"FILL" => Residence::Fill(token),
        b"ABSENT" => Residence::Absent,
        b"HIT" => match parts.next() {
            None => Residence::Here(Record::default()),
            Some(Frame::Error(text)) => Residence::Error(text.to_string()),
            Some(Frame::Array(values)) => Residence::Here(partial(values, needs)),
            Some(_) => Residence::Unknown,
        },
        _ => Residence::Through,
    }
}

/// The record, or the part of it that was asked for.
fn partial(values: Vec<Frame>, needs: &[Need]) -> Record {
    let mut fields = Fields::default();
    let bytes = |frame: Frame| match frame {
        Frame::BulkString(bytes) => Some(bytes),
        _ => None,
    };
    if let [Need::Fields(names)] = needs {
        for (name, value) in names.iter().zip(values) {
            if let Some(value) = bytes(value) {
                fields.insert(name.clone(), value);
            }
        }
    } else {
        let mut values = values.into_iter();
        while let (Some(name), Some(value)) = (values.next(), values.next()) {
            if let (Some(name), Some(value)) = (bytes(name), bytes(value)) {
                fields.insert(name, value);
            }
        }
    }
    Record { fields, expires_at_ms: None }
}

// === what Postgres has ===

async fn select_in(
    session: &mut Session,
    asked: &mut [Asked<'_>],
    of_store: &[usize],
    fills: &[usize],
) -> Result<Vec<bool>, StoreError> {
    let free = if fills.is_empty() {
        Vec::new()
    } else {
        let locks: Vec<i64> = fills.iter().map(|&at| asked[at].key.lock()).collect();
        session.begin_probed(&locks).await?
    };
    for (mapping, places) in by_mapping(asked, of_store) {
        let keys: Vec<&MappedKey> = places.iter().map(|&at| asked[at].key).collect();
        let ReadRows { now_ms, rows } = session.read(&mapping, &keys, RowLock::None).await?;
        for (at, row) in places.into_iter().zip(rows) {
            asked[at].found = Found::Record { record: row.record, now_ms };
        }
    }
    Ok(free)
}

fn by_mapping(asked: &[Asked<'_>], of_store: &[usize]) -> Vec<(Arc<Mapping>, Vec<usize>)> {
    let mut groups: Vec<(Arc<Mapping>, Vec<usize>)> = Vec::new();
    for &at in of_store {
        let mapping = &asked[at].key.mapping;
        match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, mapping)) {
            Some((_, places)) => places.push(at),
            None => groups.push((Arc::clone(mapping), vec![at])),
        }
    }
    groups
}

/// `database_first` reads fall back to Redis when Postgres is out of reach.
fn found_without_store(asked: &Asked<'_>, error: &StoreError) -> Found {
    match &asked.residence {
        Residence::Here(record) if asked.key.mapping.strategy == Strategy::DatabaseFirst => {
            Found::Record { record: Some(record.clone()), now_ms: 0 }
        }
        _ => Found::Error(read_failed(error, &asked.key.mapping.name)),
    }
}

fn fill(key: &MappedKey, mark: Bytes, token: &Token, record: Option<&Record>, now_ms: i64) -> Call {
    let mapping = &key.mapping;
    let mut arguments = vec![token.text()];
    match record {
        Some(record) => {
            arguments.push(decimal(cached_ttl_ms(mapping, record.expires_at_ms, now_ms)));
            for (field, value) in &record.fields {
                arguments.extend([field.clone(), value.clone()]);
            }
        }
        None => arguments.push(decimal(mapping.negative_ttl_ms)),
    }
    Call { script: Script::Fill, keys: vec![key.key.clone(), mark], arguments }
}
