//! One transaction of through-writes, up to its COMMIT (COHERENCE, "Through").
//!
//! Invariants
//! - Every key's lock is held before its row is read, and until COMMIT or ROLLBACK.
//! - `begin` of every changed key is sent after the locks were granted, with a token of its own, and
//!   answered before COMMIT is sent.
//! - A copy never outlives the key's own expiry, whatever the clocks of Redis and Postgres say: its
//!   end is reckoned on the clock of Redis from the moment of `begin`, less the time that has passed
//!   since Postgres told what is left.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::barrier::is_any_dirty;
use super::copy::ends_at_ms;
use super::fleet::Fleet;
use super::import::{Known, see_to_missing};
use super::operation::{Operation, total};
use super::refusal::write_failed;
use super::tables::Tables;
use super::through::{give_back, set_aside};
use super::trust::{Bypass, Trust};
use crate::command::Needs;
use crate::config::Strategy;
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::Reply;
use crate::store::{Change, ReadRows, Reading, RowLock, Session, StoreError, Want};
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, Token, aside_of, decimal, mark_of};
use crate::value::{Delta, Draft, ValueKind};

/// Bytes and arguments of one `end`; copies that do not fit are dropped, and filled when they are
/// read. Redis takes a request of 1,048,576 arguments at most.
const END_BYTES: usize = 16 << 20;
const END_ARGUMENTS: usize = 256 << 10;

/// Up to so many keys, the rows are written in one message with COMMIT, after `begin`. That is one round
/// trip less, while with more keys it pays to have Postgres and Redis work at the same time.
const WRITTEN_WITH_COMMIT: usize = 8;

/// Why a batch was not written.
#[derive(Debug)]
pub(super) enum Failure {
    Store(StoreError),
    /// The cache could not be made safe.
    Upstream(UpstreamError),
    /// A key has changes that Postgres does not know yet.
    Dirty,
    /// Redis is out of reach, and may have such changes.
    Ahead,
    /// These keys have no row, and Redis has them: perhaps it alone.
    Originals(Vec<Bytes>),
    /// Redis is out of reach, and may alone have a key.
    Unseen,
    /// A key that only Redis has cannot be brought to Postgres.
    Refused {
        key: Bytes,
        reply: Reply,
    },
    /// Redis is out of reach, and others may go by it without Postgres.
    Apart,
    /// Redis is out of reach, and nobody has dropped the copies there.
    NotDropped,
}

/// A transaction that has to be committed, or that had nothing to write.
pub(super) struct Prepared<'a> {
    pub(super) replies: Vec<Reply>,
    pub(super) touched: Vec<Touched<'a>>,
    pub(super) open: bool,
    /// The rows are changed already.
    pub(super) written: bool,
    pub(super) begun: Option<Begun>,
}

/// Keys that nobody may read or fill until the writer has ended.
pub(super) struct Begun {
    pub(super) token: Token,
    /// Their places in `touched`.
    pub(super) places: Vec<usize>,
    /// When each copy would have ended; as PEXPIRETIME tells it.
    pub(super) ends_ms: Vec<i64>,
    /// The clock of Redis at `begin`, milliseconds since the Unix epoch.
    pub(super) upstream_now_ms: i64,
    /// What the clock of Postgres had reached by then at most.
    pub(super) store_now_ms: i64,
}

/// What becomes of the cached copies of keys that are written.
#[derive(Debug)]
pub(super) enum Copies {
    /// They are kept aside, and given back with the changes.
    Kept,
    /// They are not to be believed, and go.
    Dropped,
    /// Redis is out of reach: the outbox says which have to go.
    Bypassed { _right: Bypass },
}

/// One key of a batch.
pub(super) struct Touched<'a> {
    pub(super) key: &'a MappedKey,
    /// What the operations need of it.
    pub(super) needs: Needs,
    /// With the table's present layout.
    pub(super) mapping: Arc<Mapping>,
    /// A row is there, though perhaps expired.
    pub(super) present: bool,
    pub(super) draft: Draft,
}

// === impl Prepared ===

impl Prepared<'_> {
    /// Whether there is something to commit.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Commits; writes before, where that has not been done.
    pub(super) async fn commit(&self, session: &mut Session) -> Result<(), StoreError> {
        if self.written {
            return session.commit().await;
        }
        let groups = by_mapping(&self.touched);
        let changes: Vec<(&Mapping, Vec<Change<'_>>)> =
            changes_of(&groups, &self.touched).collect();
        let changes: Vec<(&Mapping, &[Change<'_>])> =
            changes.iter().map(|(mapping, changes)| (*mapping, &changes[..])).collect();
        session.write_and_commit(&changes).await
    }

    /// What to tell the cache after COMMIT.
    pub(super) fn end(&self) -> Option<Call> {
        self.begun.as_ref().map(|begun| end_call(&self.touched, begun, false))
    }

    /// What to tell the cache when there certainly was no COMMIT: the copies come back as they were.
    pub(super) fn end_of_aborted(&self) -> Option<Call> {
        self.begun.as_ref().map(|begun| end_call(&self.touched, begun, true))
    }
}

// === impl Copies ===

impl Copies {
    /// What the state of Redis allows, as of now. `is_ahead`: it may have changes that Postgres does not know,
    /// of the keys in question; then they are not written past it, nor in a run that nobody has gone through
    /// (see `known`). `may_be_behind`: it may be told first of one of them.
    pub(super) async fn now(
        trust: &Arc<Trust>,
        fleet: &Fleet,
        control: &mut Control,
        may_be_behind: bool,
        is_ahead: impl Fn() -> bool,
    ) -> Result<Self, Failure> {
        if trust.is_out() && !fleet.may_pass_redis(trust, may_be_behind).await {
            return Err(Failure::Apart);
        }
        if let Some(right) = trust.bypass() {
            // It may be another outage by now.
            if !fleet.may_pass_redis_now(trust, may_be_behind) {
                return Err(Failure::Apart);
            }
            // Asked once the right is there: whoever adds changes meanwhile is seen.
            return if is_ahead() {
                Err(Failure::Ahead)
            } else {
                Ok(Self::Bypassed { _right: right })
            };
        }
        match Self::in_redis(trust, control).await.map_err(Failure::Upstream)? {
            Self::Kept => Ok(Self::Kept),
            _ if is_ahead() => Err(Failure::Dirty),
            copies => Ok(copies),
        }
    }

    /// As `now`, for keys of which Redis may be ahead: of what it has, all has to be known. Were they written
    /// in a run that nobody has gone through, older data could come back in its place, with changes that were
    /// given up by then, and nobody would know that.
    pub(super) async fn known(trust: &Trust, control: &mut Control) -> Result<Self, Failure> {
        match Self::in_redis(trust, control).await.map_err(Failure::Upstream)? {
            Self::Kept => Ok(Self::Kept),
            _ => Err(Failure::Dirty),
        }
    }

    /// As `now`, for who needs Redis.
    pub(super) async fn in_redis(
        trust: &Trust,
        control: &mut Control,
    ) -> Result<Self, UpstreamError> {
        let mut run = control.run_id().await?;
        if trust.is_elsewhere(run) {
            // A connection to the Redis of before may outlive a failover.
            run = control.run_id_anew().await?;
        }
        if trust.is_elsewhere(run) {
            return Err(UpstreamError::Elsewhere);
        }
        Ok(if trust.covers(run) { Self::Kept } else { Self::Dropped })
    }
}

/// Does all of a transaction but its COMMIT. `spared`: keys that are known to be no originals. After an error the transaction has ended, or the session
/// is broken and it ends with it.
pub(super) async fn prepare<'a>(
    session: &mut Session,
    control: &mut Control,
    tables: &Tables,
    copies: &Copies,
    lease_ms: u64,
    (operations, spared): (&[&'a Operation], &Known),
) -> Result<Prepared<'a>, Failure> {
    let (mut touched, places) = keys_of(operations, tables).map_err(Failure::Store)?;
    let mut locks: Vec<i64> = touched.iter().map(|touched| touched.key.lock()).collect();
    locks.sort_unstable();
    locks.dedup();

    let groups = by_mapping(&touched);
    let asked_at = Instant::now();
    let now_ms =
        begin_reading(session, &locks, &groups, &mut touched).await.map_err(Failure::Store)?;
    if let Err(failure) = see_to_missing(control, copies, &touched, spared).await {
        return Err(roll_back(session, failure).await);
    }
    let replies = apply(operations, &places, &mut touched, now_ms);
    if let Err(failure) = see_to_unchanged(control, copies, &touched).await {
        return Err(roll_back(session, failure).await);
    }
    if !touched.iter().any(|touched| touched.draft.is_changed()) {
        // Nothing to write: the replies are true as of now.
        session.rollback().await.map_err(Failure::Store)?;
        return Ok(Prepared { replies, touched, open: false, written: true, begun: None });
    }

    let token = Token::writer();
    let begun: Vec<usize> = (0..touched.len()).filter(|&at| is_cached(&touched[at])).collect();
    let begin = begin_call(&touched, &begun, &token, lease_ms, copies);
    let goes_past_redis = matches!(copies, Copies::Bypassed { .. }) && !begun.is_empty();
    let is_written_now = goes_past_redis || touched.len() > WRITTEN_WITH_COMMIT;
    let writing = async {
        if is_written_now {
            write_rows(session, &groups, &touched).await?;
        }
        if goes_past_redis {
            let keys: Vec<&MappedKey> = begun.iter().map(|&at| touched[at].key).collect();
            session.add_to_outbox(&keys).await?;
        }
        Ok(())
    };
    let (written, told) = tokio::join!(writing, begin_keys(control, begin));
    // A millisecond more, for what rounding takes.
    let passed_ms = i64::try_from(asked_at.elapsed().as_millis()).unwrap_or(i64::MAX);
    let store_now_ms = now_ms.saturating_add(passed_ms).saturating_add(1);
    let told = match told {
        Ok(told) => told,
        // Not begun, or nobody knows: the marks lapse.
        Err(failure) => return Err(roll_back(session, failure).await),
    };
    let begun = told.map(|ToldBegun { upstream_now_ms, ends_ms }| Begun {
        token,
        places: begun,
        ends_ms,
        upstream_now_ms,
        store_now_ms,
    });
    let prepared = Prepared { replies, touched, open: true, written: is_written_now, begun };
    if let Err(error) = written {
        let failure = roll_back(session, Failure::Store(error)).await;
        if let Some(end) = prepared.end_of_aborted() {
            give_back(control, end).await;
        }
        return Err(failure);
    }
    Ok(prepared)
}

/// Of a row that stays as it is `begin` says nothing; all the same its operation has to know what clients were
/// told of the key.
async fn see_to_unchanged(
    control: &mut Control,
    copies: &Copies,
    touched: &[Touched<'_>],
) -> Result<(), Failure> {
    let is_of_store =
        |touched: &&Touched<'_>| !touched.draft.is_changed() && touched.mapping.may_be_behind();
    let marks: Vec<Bytes> =
        touched.iter().filter(is_of_store).map(|touched| mark_of(&touched.key.key)).collect();
    if marks.is_empty() || matches!(copies, Copies::Bypassed { .. }) {
        return Ok(());
    }
    match is_any_dirty(control, &marks).await {
        Ok(true) => Err(Failure::Dirty),
        Ok(false) => Ok(()),
        Err(error) => Err(Failure::Upstream(error)),
    }
}

// === steps of a transaction ===

/// Each key once, and for each operation where its keys stand.
fn keys_of<'a>(
    operations: &[&'a Operation],
    tables: &Tables,
) -> Result<(Vec<Touched<'a>>, Vec<Vec<usize>>), StoreError> {
    let mut touched: Vec<Touched<'a>> = Vec::new();
    let mut known: HashMap<&[u8], usize, ahash::RandomState> = HashMap::default();
    let mut places = Vec::with_capacity(operations.len());
    for operation in operations {
        let mut of_operation = Vec::with_capacity(operation.keys.len());
        for key in &operation.keys {
            let at = match known.get(&key.key[..]) {
                Some(&at) => at,
                None => {
                    let mapping = tables.current(&key.mapping).ok_or_else(set_aside)?;
                    touched.push(Touched {
                        key,
                        needs: Needs::default(),
                        mapping,
                        present: false,
                        draft: Draft::new(key.mapping.holds(), None),
                    });
                    known.insert(&key.key, touched.len() - 1);
                    touched.len() - 1
                }
            };
            if let Some(write) = operation.as_write() {
                touched[at].needs.add((write.need)(&operation.arguments));
            }
            of_operation.push(at);
        }
        places.push(of_operation);
    }
    Ok((touched, places))
}

/// The places of the keys of each mapping.
pub(super) fn by_mapping(touched: &[Touched<'_>]) -> Vec<(Arc<Mapping>, Vec<usize>)> {
    let mut groups: Vec<(Arc<Mapping>, Vec<usize>)> = Vec::new();
    for (at, Touched { mapping, .. }) in touched.iter().enumerate() {
        match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, mapping)) {
            Some((_, places)) => places.push(at),
            None => groups.push((Arc::clone(mapping), vec![at])),
        }
    }
    // All writers go through the tables in the same order.
    groups.sort_unstable_by_key(|(mapping, _)| mapping.index);
    groups
}

/// Takes the locks and then reads the rows; what Postgres' clock said.
pub(super) async fn begin_reading(
    session: &mut Session,
    locks: &[i64],
    groups: &[(Arc<Mapping>, Vec<usize>)],
    touched: &mut [Touched<'_>],
) -> Result<i64, StoreError> {
    let read = session.begin_reading(locks, &readings(groups, touched)).await?;
    Ok(take_in(groups, touched, read))
}

/// Reads the rows of keys whose locks are held; what Postgres' clock said.
pub(super) async fn read(
    session: &mut Session,
    groups: &[(Arc<Mapping>, Vec<usize>)],
    touched: &mut [Touched<'_>],
) -> Result<i64, StoreError> {
    let mut read = Vec::with_capacity(groups.len());
    for Reading { mapping, wants } in readings(groups, touched) {
        read.push(session.read_parts(mapping, &wants, RowLock::ForUpdate).await?);
    }
    Ok(take_in(groups, touched, read))
}

fn readings<'t>(
    groups: &'t [(Arc<Mapping>, Vec<usize>)],
    touched: &'t [Touched<'_>],
) -> Vec<Reading<'t>> {
    let want = |&at: &usize| {
        let Touched { key, needs, .. } = &touched[at];
        Want { key, needs, whole_up_to: 0 }
    };
    let reading = |(mapping, places): &'t (Arc<Mapping>, Vec<usize>)| Reading {
        mapping,
        wants: places.iter().map(want).collect(),
    };
    groups.iter().map(reading).collect()
}

fn take_in(
    groups: &[(Arc<Mapping>, Vec<usize>)],
    touched: &mut [Touched<'_>],
    read: Vec<ReadRows>,
) -> i64 {
    let mut now_ms = i64::MIN;
    for ((mapping, places), read) in groups.iter().zip(read) {
        now_ms = now_ms.max(read.now_ms);
        for (&at, row) in places.iter().zip(read.rows) {
            touched[at].present = row.present;
            touched[at].draft = Draft::new(mapping.holds(), row.record);
        }
    }
    now_ms
}

/// Applies the operations to the drafts, in order.
fn apply(
    operations: &[&Operation],
    places: &[Vec<usize>],
    touched: &mut [Touched<'_>],
    now_ms: i64,
) -> Vec<Reply> {
    let apply_one = |(operation, places): (&&Operation, &Vec<usize>)| {
        let Some(write) = operation.as_write() else {
            return Reply::err("this command does not write");
        };
        let replies = places.iter().map(|&at| {
            let Touched { mapping, draft, .. } = &mut touched[at];
            let takes_all = mapping.layout.element().is_none() && mapping.layout.extra().is_some();
            draft.begin_operation();
            if takes_all {
                return (write.run)(&operation.arguments, draft, now_ms);
            }
            // Values that no column can hold have to be refused before they are mixed with others.
            let reply = (write.run)(&operation.arguments, draft, now_ms);
            let refusal = unencodable(mapping, draft);
            if refusal.is_some() {
                draft.take_back();
            }
            refusal.unwrap_or(reply)
        });
        total(replies)
    };
    operations.iter().zip(places).map(apply_one).collect()
}

fn unencodable(mapping: &Mapping, draft: &Draft) -> Option<Reply> {
    for (field, value) in draft.latest() {
        if let Err(error) = mapping.layout.check_field(field, value) {
            return Some(write_failed(&StoreError::Unencodable(error), &mapping.name));
        }
    }
    None
}

pub(super) async fn write_rows(
    session: &mut Session,
    groups: &[(Arc<Mapping>, Vec<usize>)],
    touched: &[Touched<'_>],
) -> Result<(), StoreError> {
    for (mapping, changes) in changes_of(groups, touched) {
        session.write(mapping, &changes).await?;
    }
    Ok(())
}

/// The changed keys of each mapping that has any.
fn changes_of<'t>(
    groups: &'t [(Arc<Mapping>, Vec<usize>)],
    touched: &'t [Touched<'_>],
) -> impl Iterator<Item = (&'t Mapping, Vec<Change<'t>>)> {
    let changes = |places: &[usize]| {
        places
            .iter()
            .map(|&at| &touched[at])
            .filter(|touched| touched.draft.is_changed())
            .map(|Touched { key, present, draft, .. }| Change { key, present: *present, draft })
            .collect::<Vec<_>>()
    };
    groups
        .iter()
        .map(move |(mapping, places)| (&**mapping, changes(places)))
        .filter(|(_, changes)| !changes.is_empty())
}

pub(super) async fn roll_back(session: &mut Session, failure: Failure) -> Failure {
    if let Err(error) = session.rollback().await {
        // The session is broken and with it the transaction.
        tracing::debug!(%error, "rollback failed");
    }
    failure
}

// === the cached copies ===

/// Whether other readers may have, or get, a copy of this key that the write makes old.
fn is_cached(touched: &Touched<'_>) -> bool {
    touched.draft.is_changed() && touched.mapping.strategy() != Strategy::PostgresOnly
}

fn names(touched: &[Touched<'_>], begun: &[usize]) -> Vec<Bytes> {
    let names = |&at: &usize| {
        let key = &touched[at].key.key;
        [key.clone(), mark_of(key), aside_of(key)]
    };
    begun.iter().flat_map(names).collect()
}

pub(super) fn begin_call(
    touched: &[Touched<'_>],
    begun: &[usize],
    token: &Token,
    lease_ms: u64,
    copies: &Copies,
) -> Option<Call> {
    let mut arguments = vec![token.text(), Bytes::from(lease_ms.to_string())];
    match copies {
        Copies::Kept => {}
        Copies::Dropped => arguments.push(Bytes::from_static(b"drop")),
        Copies::Bypassed { .. } => return None,
    }
    let keys = names(touched, begun);
    (!begun.is_empty()).then_some(Call { script: Script::Begin, keys, arguments })
}

/// What Redis says when keys have begun.
pub(super) struct ToldBegun {
    /// Its clock.
    pub(super) upstream_now_ms: i64,
    /// When each copy would have ended.
    pub(super) ends_ms: Vec<i64>,
}

/// Begins; `None` when there is nothing to begin.
pub(super) async fn begin_keys(
    control: &mut Control,
    begin: Option<Call>,
) -> Result<Option<ToldBegun>, Failure> {
    let Some(begin) = begin else { return Ok(None) };
    let mut replies = control.call(&[begin]).await.map_err(Failure::Upstream)?;
    match replies.pop() {
        Some(Frame::Array(answer)) => match &answer[..] {
            [Frame::Integer(now_ms), Frame::Array(ends)] => {
                let end = |end: &Frame| if let Frame::Integer(end) = end { *end } else { 0 };
                let ends_ms = ends.iter().map(end).collect();
                Ok(Some(ToldBegun { upstream_now_ms: *now_ms, ends_ms }))
            }
            _ => Err(Failure::Dirty),
        },
        Some(Frame::Error(text)) => {
            Err(Failure::Upstream(UpstreamError::Refused(text.to_string())))
        }
        _ => Err(Failure::Upstream(UpstreamError::Protocol("an odd answer to begin".into()))),
    }
}

/// `aborted`: the values set aside come back as they were, with the ends that they had: the drafts hold what
/// was not written.
fn end_call(touched: &[Touched<'_>], begun: &Begun, aborted: bool) -> Call {
    let mut arguments = vec![begun.token.text()];
    let mut bytes = 0;
    for (place, &at) in begun.places.iter().enumerate() {
        let Touched { mapping, draft, .. } = &touched[at];
        let end_before_ms = begun.ends_ms.get(place).copied().filter(|&end_ms| end_ms > 0);
        let delta = match (aborted, end_before_ms) {
            (false, _) => draft.delta(),
            (true, Some(_)) => Delta::Unchanged,
            // A copy of ours has an end.
            (true, None) => Delta::Drop,
        };
        let kind = mapping.holds();
        let (mut set, mut removed, mut mode) = match delta {
            Delta::Unchanged => (Vec::new(), Vec::new(), kind.name()),
            Delta::Drop => (Vec::new(), Vec::new(), "drop"),
            Delta::Change { set, removed } => (set, removed, kind.name()),
        };
        let size = |bytes: usize, field: &Bytes| bytes + field.len();
        bytes = set.iter().flat_map(|(field, value)| [field, value]).fold(bytes, size);
        bytes = removed.iter().fold(bytes, size);
        let count = arguments.len() + 2 * set.len() + removed.len();
        if bytes > END_BYTES || count > END_ARGUMENTS {
            (set, removed, mode) = (Vec::new(), Vec::new(), "drop");
        }
        let left_ms = cached_ttl_ms(mapping, draft.expires_at_ms(), begun.store_now_ms);
        arguments.push(Bytes::from_static(mode.as_bytes()));
        let expires = draft.expires_at_ms().is_some();
        arguments.push(decimal(match end_before_ms {
            Some(end_before_ms) if aborted => end_before_ms,
            _ => ends_at_ms(begun.upstream_now_ms, left_ms, expires),
        }));
        arguments.push(Bytes::from(set.len().to_string()));
        for (field, value) in set {
            arguments.push(field);
            if kind == ValueKind::Hash {
                arguments.push(value);
            }
        }
        arguments.push(Bytes::from(removed.len().to_string()));
        arguments.extend(removed);
    }
    Call { script: Script::End, keys: names(touched, &begun.places), arguments }
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
