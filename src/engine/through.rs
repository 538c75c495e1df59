//! Through-writes: Postgres first, then the cached copies (COHERENCE, "Through").
//!
//! A writer takes whatever operations have queued up while its last transaction was under way and
//! brings them to Postgres in one transaction. Operations on one key are applied one after the
//! other to one draft; each client gets its own reply, after the commit.
//!
//! Invariants
//! - Every key's lock is held before its row is read, and until COMMIT or ROLLBACK.
//! - `begin` of every changed key is answered before COMMIT is sent, and is sent after the locks
//!   were granted.
//! - Nothing of a failed operation is written; its neighbours are tried again without it.
//! - After a COMMIT in doubt nothing is done in Redis: the marks of the writer lapse by themselves,
//!   and until then every reader asks Postgres.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::EngineSettings;
use super::operation::{Operation, total};
use super::queue::Queue;
use super::refusal::{Happened, upstream_failed, write_failed};
use crate::config::{self, Strategy};
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::Reply;
use crate::store::{Change, RowLock, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, Token, aside_of, decimal, mark_of};
use crate::value::{Delta, Draft};

/// How often a batch is tried again when other sessions were faster.
const RACES: u32 = 5;

/// How often, and how long apart, a batch is tried again while a key of it is dirty.
const DIRTY_TRIES: u32 = 50;
const DIRTY_PAUSE_MS: u64 = 20;

/// A worker that brings writes to Postgres.
#[derive(Debug)]
pub struct Writer {
    postgres: config::Postgres,
    lease_ms: u64,
    session: Option<Session>,
    control: Control,
    queue: Arc<Queue>,
}

/// One key of a batch.
struct Touched<'a> {
    key: &'a MappedKey,
    /// A row is there, though perhaps expired.
    present: bool,
    draft: Draft,
}

/// Why a batch was not written.
enum Failure {
    Store(StoreError),
    /// The cache could not be made safe.
    Upstream(UpstreamError),
    /// A key has changes that Postgres does not know yet.
    Dirty,
}

/// A batch that is in Postgres.
struct Written<'a> {
    replies: Vec<Reply>,
    /// Ends of the keys that were begun.
    end: Option<Call>,
    touched: Vec<Touched<'a>>,
}

// === impl Writer ===

impl Writer {
    pub fn new(settings: &EngineSettings, control: Control, queue: Arc<Queue>) -> Self {
        Self {
            postgres: settings.postgres.clone(),
            lease_ms: settings.lease_ms,
            session: None,
            control,
            queue,
        }
    }

    /// Writes until it is asked to stop and nothing is left in its queue.
    pub async fn run(mut self, tasks: &Tasks) {
        loop {
            let operations = tokio::select! {
                biased;
                operations = self.queue.take() => operations,
                () = tasks.stopping() => break,
            };
            for batch in operations.chunks(self.postgres.batch_operations.max(1)) {
                self.write(batch).await;
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    /// Brings a batch to Postgres and answers every operation of it.
    async fn write(&mut self, batch: &[Operation]) {
        // Parts still to be done, the first one last.
        let mut parts: Vec<Range<usize>> = vec![0..batch.len()];
        while let Some(part) = parts.pop() {
            let operations = &batch[part.clone()];
            let Err(failure) = self.write_part(operations).await else { continue };
            let blames_one = matches!(
                failure,
                Failure::Store(
                    StoreError::Refused { .. }
                        | StoreError::Unencodable(_)
                        | StoreError::LayoutChanged { .. }
                        | StoreError::Timeout(_)
                )
            );
            if blames_one && operations.len() > 1 {
                let middle = part.start + operations.len() / 2;
                parts.push(middle..part.end);
                parts.push(part.start..middle);
                continue;
            }
            for operation in operations {
                operation.answer(&reply_to_failure(&failure, operation));
            }
        }
    }

    /// Brings operations to Postgres, all or none, and answers them if all.
    async fn write_part(&mut self, operations: &[Operation]) -> Result<(), Failure> {
        let (mut races, mut dirty, mut lost) = (0, 0, 0);
        loop {
            let failure = match self.transact(operations).await {
                Ok(written) => {
                    self.answer(operations, written).await;
                    return Ok(());
                }
                Err(failure) => failure,
            };
            if self.session.as_ref().is_some_and(Session::is_broken) {
                self.session = None;
            }
            match &failure {
                Failure::Store(error @ (StoreError::Raced | StoreError::Retryable { .. }))
                    if races < RACES =>
                {
                    tracing::debug!(%error, "writing again");
                    races += 1;
                }
                // The session had died unnoticed, or knew an older table; nothing was committed.
                Failure::Store(StoreError::Unreachable(_) | StoreError::LayoutChanged { .. })
                    if lost < 1 =>
                {
                    lost += 1;
                }
                Failure::Dirty if dirty < DIRTY_TRIES => {
                    dirty += 1;
                    tokio::time::sleep(std::time::Duration::from_millis(DIRTY_PAUSE_MS)).await;
                }
                _ => {
                    log(&failure);
                    return Err(failure);
                }
            }
        }
    }

    /// One try at one transaction.
    async fn transact<'a>(&mut self, operations: &'a [Operation]) -> Result<Written<'a>, Failure> {
        if self.session.is_none() {
            let session = Session::connect(&self.postgres).await.map_err(Failure::Store)?;
            self.session = Some(session);
        }
        let session = self.session.as_mut().expect("it was connected just now");
        let (mut touched, places) = keys_of(operations);
        let mut locks: Vec<i64> = touched.iter().map(|touched| touched.key.lock()).collect();
        locks.sort_unstable();
        locks.dedup();

        session.begin_locked(&locks).await.map_err(Failure::Store)?;
        let groups = by_mapping(&touched);
        let now_ms = match read(session, &groups, &mut touched).await {
            Ok(now_ms) => now_ms,
            Err(error) => return Err(roll_back(session, Failure::Store(error)).await),
        };
        let replies = apply(operations, &places, &mut touched, now_ms);
        if !touched.iter().any(|touched| touched.draft.is_changed()) {
            // Nothing to write: the replies are true as of now.
            session.rollback().await.map_err(Failure::Store)?;
            return Ok(Written { replies, end: None, touched });
        }

        let token = Token::writer();
        let begun: Vec<usize> = (0..touched.len()).filter(|&at| is_cached(&touched[at])).collect();
        let begin = begin_call(&touched, &begun, &token, self.lease_ms);
        let (written, begin) = tokio::join!(
            write_rows(session, &groups, &touched),
            begin_keys(&mut self.control, begin)
        );
        let failure = match (written, begin) {
            (Ok(()), Ok(())) => match session.commit().await {
                Ok(()) => {
                    let end = (!begun.is_empty())
                        .then(|| end_call(&touched, &begun, &token, now_ms, false));
                    return Ok(Written { replies, end, touched });
                }
                Err(error @ StoreError::InDoubt(_)) => return Err(Failure::Store(error)),
                Err(error) => Failure::Store(error),
            },
            (Err(error), Ok(())) => Failure::Store(error),
            // Not begun, or nobody knows: the marks lapse.
            (_, Err(failure)) => return Err(roll_back(session, failure).await),
        };
        let failure = roll_back(session, failure).await;
        if !begun.is_empty() {
            let end = end_call(&touched, &begun, &token, now_ms, true);
            self.control.post(&[end]).await;
        }
        Err(failure)
    }

    /// Tells the clients, then the cache.
    async fn answer(&mut self, operations: &[Operation], written: Written<'_>) {
        let Written { replies, end, touched } = written;
        drop(touched);
        for (operation, reply) in operations.iter().zip(replies) {
            if operation.others.is_empty() {
                operation.answer(&reply);
                continue;
            }
            let others = self.control.command(&operation.for_others()).await;
            let others = match others {
                Ok(Frame::Integer(count)) => Reply::Integer(count),
                Ok(Frame::Error(text)) => Reply::Error(text.to_string()),
                Ok(_) | Err(_) => upstream_failed(Happened::Maybe),
            };
            operation.answer(&total([reply, others].into_iter()));
        }
        if let Some(end) = end {
            self.control.post(&[end]).await;
        }
    }
}

// === steps of a transaction ===

/// Each key once, and for each operation where its keys stand.
fn keys_of(operations: &[Operation]) -> (Vec<Touched<'_>>, Vec<Vec<usize>>) {
    let mut touched: Vec<Touched<'_>> = Vec::new();
    let mut known: HashMap<&[u8], usize, ahash::RandomState> = HashMap::default();
    let mut places = Vec::with_capacity(operations.len());
    for operation in operations {
        let of_operation = operation.keys.iter().map(|key| {
            *known.entry(&key.key).or_insert_with(|| {
                touched.push(Touched { key, present: false, draft: Draft::new(None) });
                touched.len() - 1
            })
        });
        places.push(of_operation.collect());
    }
    (touched, places)
}

/// The places of the keys of each mapping.
fn by_mapping(touched: &[Touched<'_>]) -> Vec<(Arc<Mapping>, Vec<usize>)> {
    let mut groups: Vec<(Arc<Mapping>, Vec<usize>)> = Vec::new();
    for (at, Touched { key, .. }) in touched.iter().enumerate() {
        match groups.iter_mut().find(|(mapping, _)| Arc::ptr_eq(mapping, &key.mapping)) {
            Some((_, places)) => places.push(at),
            None => groups.push((Arc::clone(&key.mapping), vec![at])),
        }
    }
    // All writers go through the tables in the same order.
    groups.sort_unstable_by_key(|(mapping, _)| mapping.index);
    groups
}

async fn read(
    session: &mut Session,
    groups: &[(Arc<Mapping>, Vec<usize>)],
    touched: &mut [Touched<'_>],
) -> Result<i64, StoreError> {
    let mut now_ms = i64::MIN;
    for (mapping, places) in groups {
        let keys: Vec<&MappedKey> = places.iter().map(|&at| touched[at].key).collect();
        let read = session.read(mapping, &keys, RowLock::ForUpdate).await?;
        now_ms = now_ms.max(read.now_ms);
        for (&at, row) in places.iter().zip(read.rows) {
            touched[at].present = row.present;
            touched[at].draft = Draft::new(row.record);
        }
    }
    Ok(now_ms)
}

/// Applies the operations to the drafts, in order.
fn apply(
    operations: &[Operation],
    places: &[Vec<usize>],
    touched: &mut [Touched<'_>],
    now_ms: i64,
) -> Vec<Reply> {
    let apply_one = |(operation, places): (&Operation, &Vec<usize>)| {
        let Some(write) = operation.as_write() else {
            return Reply::err("this command does not write");
        };
        let replies = places.iter().map(|&at| {
            let Touched { key, draft, .. } = &mut touched[at];
            let mapping = &key.mapping;
            if mapping.layout.extra().is_some() {
                return (write.run)(&operation.arguments, draft, now_ms);
            }
            // Values that no column can hold have to be refused before they are mixed with others.
            let before = draft.clone();
            let reply = (write.run)(&operation.arguments, draft, now_ms);
            match unencodable(mapping, draft) {
                None => reply,
                Some(refusal) => {
                    *draft = before;
                    refusal
                }
            }
        });
        total(replies)
    };
    operations.iter().zip(places).map(apply_one).collect()
}

fn unencodable(mapping: &Mapping, draft: &Draft) -> Option<Reply> {
    let touched = draft.touched().filter_map(|field| Some((field, draft.get(field)?)));
    for (field, value) in touched {
        if let Err(error) = mapping.layout.check_field(field, value) {
            return Some(write_failed(&StoreError::Unencodable(error), &mapping.name));
        }
    }
    None
}

async fn write_rows(
    session: &mut Session,
    groups: &[(Arc<Mapping>, Vec<usize>)],
    touched: &[Touched<'_>],
) -> Result<(), StoreError> {
    for (mapping, places) in groups {
        let changes: Vec<Change<'_>> = places
            .iter()
            .map(|&at| &touched[at])
            .filter(|touched| touched.draft.is_changed())
            .map(|Touched { key, present, draft }| Change { key, present: *present, draft })
            .collect();
        if !changes.is_empty() {
            session.write(mapping, &changes).await?;
        }
    }
    Ok(())
}

async fn roll_back(session: &mut Session, failure: Failure) -> Failure {
    if let Err(error) = session.rollback().await {
        // The session is broken and with it the transaction.
        tracing::debug!(%error, "rollback failed");
    }
    failure
}

// === the cached copies ===

/// Whether other readers may have, or get, a copy of this key that the write makes old.
fn is_cached(touched: &Touched<'_>) -> bool {
    touched.draft.is_changed() && touched.key.mapping.strategy != Strategy::PostgresOnly
}

fn names(touched: &[Touched<'_>], begun: &[usize]) -> Vec<Bytes> {
    let names = |&at: &usize| {
        let key = &touched[at].key.key;
        [key.clone(), mark_of(key), aside_of(key)]
    };
    begun.iter().flat_map(names).collect()
}

fn begin_call(
    touched: &[Touched<'_>],
    begun: &[usize],
    token: &Token,
    lease_ms: u64,
) -> Option<Call> {
    (!begun.is_empty()).then(|| Call {
        script: Script::Begin,
        keys: names(touched, begun),
        arguments: vec![token.text(), Bytes::from(lease_ms.to_string())],
    })
}

async fn begin_keys(control: &mut Control, begin: Option<Call>) -> Result<(), Failure> {
    let Some(begin) = begin else { return Ok(()) };
    let mut replies = control.call(&[begin]).await.map_err(Failure::Upstream)?;
    match replies.pop() {
        Some(Frame::Array(dirty)) if dirty.is_empty() => Ok(()),
        Some(Frame::Array(_)) => Err(Failure::Dirty),
        Some(Frame::Error(text)) => {
            Err(Failure::Upstream(UpstreamError::Refused(text.to_string())))
        }
        _ => Err(Failure::Upstream(UpstreamError::Protocol("an odd answer to begin".into()))),
    }
}

/// `aborted`: the values set aside are dropped, not restored: how long they may live is not known
/// here, for the drafts hold the expiry that was not written.
fn end_call(
    touched: &[Touched<'_>],
    begun: &[usize],
    token: &Token,
    now_ms: i64,
    aborted: bool,
) -> Call {
    let mut arguments = vec![token.text()];
    for &at in begun {
        let Touched { key, draft, .. } = &touched[at];
        let delta = if aborted { Delta::Drop } else { draft.delta() };
        let (set, removed, mode) = match delta {
            Delta::Unchanged => (Vec::new(), Vec::new(), "keep"),
            Delta::Drop => (Vec::new(), Vec::new(), "drop"),
            Delta::Change { set, removed } => (set, removed, "keep"),
        };
        arguments.push(Bytes::from_static(mode.as_bytes()));
        arguments.push(decimal(cached_ttl_ms(&key.mapping, draft.expires_at_ms(), now_ms)));
        arguments.push(Bytes::from(set.len().to_string()));
        for (field, value) in set {
            arguments.extend([field, value]);
        }
        arguments.push(Bytes::from(removed.len().to_string()));
        arguments.extend(removed);
    }
    Call { script: Script::End, keys: names(touched, begun), arguments }
}

/// How long a copy may live: as the mapping says, but not beyond the key's own expiry.
pub(super) fn cached_ttl_ms(mapping: &Mapping, expires_at_ms: Option<i64>, now_ms: i64) -> i64 {
    match expires_at_ms {
        None => mapping.cache_ttl_ms,
        Some(expires_at_ms) => {
            mapping.cache_ttl_ms.min(expires_at_ms.saturating_sub(now_ms)).max(0)
        }
    }
}

// === failures ===

fn reply_to_failure(failure: &Failure, operation: &Operation) -> Reply {
    let mapping = operation.keys.first().map_or("", |key| key.mapping.name.as_str());
    match failure {
        Failure::Store(error) => write_failed(error, mapping),
        Failure::Upstream(_) => upstream_failed(Happened::No),
        Failure::Dirty => Reply::Error(
            "TRYAGAIN the key has changes that Postgres does not know yet; nothing was written"
                .to_owned(),
        ),
    }
}

fn log(failure: &Failure) {
    match failure {
        Failure::Store(error @ (StoreError::Refused { .. } | StoreError::Unencodable(_))) => {
            tracing::info!(%error, "a write was refused");
        }
        Failure::Store(error) => tracing::warn!(%error, "a write failed"),
        Failure::Upstream(error) => tracing::warn!(%error, "a write failed"),
        Failure::Dirty => tracing::warn!("a write failed: a key stayed dirty"),
    }
}
