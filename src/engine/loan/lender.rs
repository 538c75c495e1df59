//! A lender: the worker that brings loans about, one transaction each.
//!
//! What fails before the step has happened nowhere, and is tried again where that may help. What is
//! refused after it is undone, see `undo`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::step::{Odd, Outcome, Returned, Step};
use super::taken_back::{ClockShift, Reading, Within, take_back};
use super::undo::Undo;
use super::watch::{Digest, Digester, Watched};
use super::{Job, Lent, Loan};
use crate::command::Needs;
use crate::config::Strategy;
use crate::engine::errand::ErrandFailed;
use crate::engine::queue::Queue;
use crate::engine::refusal::{
    Happened, in_part, read_failed, too_busy, upstream_failed, upstream_not_read, write_failed,
};
use crate::engine::rescue::rescue;
use crate::engine::tables::Tables;
use crate::engine::through::{connected, set_aside};
use crate::engine::transaction::{
    Begun, Failure, Prepared, Touched, begin_call, begin_keys, by_mapping, read, roll_back,
    write_rows,
};
use crate::engine::{EngineSettings, patience};
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::Reply;
use crate::protocol::reply::write_count;
use crate::store::{RowLock, Session, StoreError};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::Token;
use crate::value::Draft;

/// The most that is lent, and put back, at once. It is sent to Redis, held there beside all else, and
/// read back.
const MOST_BYTES: usize = 64 << 20;

/// How often Postgres hears of a transaction that waits for Redis: it ends those that say nothing for
/// longer (`idle_in_transaction_session_timeout`), and a script may run for long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// How often a loan is tried again while other sessions are faster or a key is dirty.
const TRIES: u32 = 50;
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(in crate::engine) struct Lender {
    settings: EngineSettings,
    tables: Arc<Tables>,
    digester: Digester,
    session: Option<Session>,
    control: Control,
    queue: Arc<Queue<Job>>,
}

/// What the client is told.
enum Answer {
    /// By Redis.
    Bytes(Bytes),
    /// By us.
    Reply(Reply),
}

/// The keys of a loan, each once.
struct Keys<'a> {
    /// Those that are lent come first.
    touched: Vec<Touched<'a>>,
    lent: usize,
    /// Keys that are not mapped and may have to be put back.
    others: Vec<Bytes>,
}

/// What a step that was run has left.
struct Left {
    returned: Vec<Returned>,
    undo: Undo,
}

// === impl Lender ===

impl Lender {
    pub(in crate::engine) fn new(
        settings: &EngineSettings,
        tables: Arc<Tables>,
        digester: Digester,
        queue: Arc<Queue<Job>>,
    ) -> Self {
        Self {
            control: Control::new(settings.control.clone()),
            settings: settings.clone(),
            tables,
            digester,
            session: None,
            queue,
        }
    }

    /// Lends until it is asked to stop and nothing is left in its queue.
    pub(in crate::engine) async fn run(mut self, tasks: &Tasks) {
        loop {
            let job = tokio::select! {
                biased;
                job = self.queue.take_one() => job,
                () = tasks.stopping() => break,
            };
            if rescue(self.serve(&job)).await.is_err() {
                tracing::error!("a lender panicked; it starts again with new connections");
                self.session = None;
                self.control = Control::new(self.settings.control.clone());
                job.told().answer(&Reply::err("internal error; a write may have happened"));
            }
        }
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }

    async fn serve(&mut self, job: &Job) {
        if job.told().age() >= patience(&self.settings.postgres) {
            job.told().answer(&too_busy());
            return;
        }
        match job {
            Job::Loan(loan) => {
                let answer = match self.persist(loan).await {
                    Ok(answer) => answer,
                    Err(failure) => Answer::Reply(self.reply_to(&failure, loan)),
                };
                match answer {
                    Answer::Bytes(bytes) => loan.told.answer_bytes(bytes),
                    Answer::Reply(reply) => loan.told.answer(&reply),
                }
            }
            Job::Watch { keys, watched, told } => {
                let mut known = self.remember(keys, watched).await;
                if matches!(known, Err(StoreError::Unreachable(_))) {
                    // The session had died unnoticed.
                    known = self.remember(keys, watched).await;
                }
                told.answer(&match known {
                    Ok(()) => Reply::OK,
                    Err(error) => {
                        tracing::warn!(%error, "a mapped key cannot be watched");
                        let mapping = keys.first().map_or("", |key| key.mapping.name.as_str());
                        read_failed(&error, mapping)
                    }
                });
            }
        }
    }

    // --- tries ---

    /// Tries until it is done, or is not worth trying any more.
    async fn persist(&mut self, loan: &Loan) -> Result<Answer, Failure> {
        let (mut tries, mut lost, mut looked) = (0, false, false);
        loop {
            let was_connected = self.session.is_some();
            let done = if loan.writes() || loan.watched.is_some() {
                self.lend(loan).await
            } else {
                self.lend_to_read(loan).await
            };
            let failure = match done {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if self.session.as_ref().is_some_and(Session::is_broken) {
                self.session = None;
            }
            match &failure {
                Failure::Store(StoreError::Raced | StoreError::Retryable { .. })
                | Failure::Dirty
                    if tries < TRIES =>
                {
                    tries += 1;
                    tokio::time::sleep(PAUSE).await;
                }
                Failure::Store(StoreError::Unreachable(_)) if was_connected && !lost => lost = true,
                Failure::Upstream(UpstreamError::Lost(_)) if !lost => lost = true,
                Failure::Store(StoreError::LayoutChanged { .. }) if !looked => {
                    looked = true;
                    self.look_at_tables(loan).await;
                }
                Failure::Store(error) => {
                    tracing::warn!(%error, "a loan failed");
                    return Err(failure);
                }
                Failure::Upstream(error) => {
                    tracing::warn!(%error, "a loan failed");
                    return Err(failure);
                }
                Failure::Dirty => {
                    tracing::warn!("a loan failed: a key stayed dirty");
                    return Err(failure);
                }
            }
        }
    }

    async fn look_at_tables(&mut self, loan: &Loan) {
        for key in loan.requests.iter().flat_map(|request| &request.keys) {
            let Ok(session) = connected(&mut self.session, &self.settings).await else { return };
            if !self.tables.looked_lately(&key.mapping)
                && let Err(error) = self.tables.look_again(session, &key.mapping).await
            {
                tracing::warn!(%error, "the shape of a table could not be read again");
            }
        }
    }

    fn reply_to(&self, failure: &Failure, loan: &Loan) -> Reply {
        let name = loan.mapping_name();
        match failure {
            Failure::Store(error) if loan.writes() => write_failed(error, name),
            Failure::Store(error) => read_failed(error, name),
            // What Redis says to everybody just now.
            Failure::Upstream(UpstreamError::Refused(text)) if is_for_later(text) => {
                Reply::Error(text.clone())
            }
            Failure::Upstream(_) if loan.writes() => upstream_failed(Happened::No),
            Failure::Upstream(_) => upstream_not_read(),
            Failure::Dirty => Reply::Error(
                "TRYAGAIN the key has changes that Postgres does not know yet; nothing was written"
                    .to_owned(),
            ),
        }
    }

    // --- WATCH ---

    async fn remember(&mut self, keys: &[MappedKey], watched: &Watched) -> Result<(), StoreError> {
        for key in keys {
            let mapping = self.tables.current(&key.mapping).ok_or_else(set_aside)?;
            let session = connected(&mut self.session, &self.settings).await?;
            let read = session.read(&mapping, &[key], RowLock::None).await?;
            let record = read.rows.first().and_then(|row| row.record.as_ref());
            watched.add(key.clone(), self.digester.digest(record));
        }
        Ok(())
    }

    fn has_changed(&self, touched: &[Touched<'_>], watched: &[(MappedKey, Digest)]) -> bool {
        watched.iter().any(|(key, digest)| {
            let touched = touched.iter().find(|touched| touched.key.key == key.key);
            touched.is_none_or(|touched| self.digester.digest(touched.draft.record()) != *digest)
        })
    }

    // --- a loan that only reads ---

    async fn lend_to_read(&mut self, loan: &Loan) -> Result<Answer, Failure> {
        let mut keys = self.keys_of(loan, &[]).map_err(Failure::Store)?;
        let session = connected(&mut self.session, &self.settings).await.map_err(Failure::Store)?;
        session.begin_snapshot().await.map_err(Failure::Store)?;
        let from = Instant::now();
        let now_ms = match read_snapshot(session, &mut keys.touched).await {
            Ok(now_ms) => now_ms,
            Err(error) => return Err(roll_back(session, Failure::Store(error)).await),
        };
        let at = Within { from, to: Instant::now() };
        session.rollback().await.map_err(Failure::Store)?;
        if let Some(refusal) = too_large(&keys) {
            return Ok(Answer::Reply(refusal));
        }
        let mut shift = ClockShift::default();
        if keys.touched.iter().any(|touched| touched.draft.expires_at_ms().is_some()) {
            let redis = self.ask_the_time().await.map_err(Failure::Upstream)?;
            shift = ClockShift::between(Reading { now_ms, at }, redis);
        }
        let mut step = Step::new();
        for Touched { key, draft, .. } in &keys.touched {
            step.set_aside(&key.key);
            lend_draft(&mut step, key, draft, shift);
        }
        for request in &loan.requests {
            step.request(&request.bytes);
        }
        for touched in &keys.touched {
            step.bring_back(&touched.key.key);
        }
        let (bytes, count) = step.bytes();
        let replies = match loan.runner.run(bytes, count, loan.spoils).await {
            Ok(replies) => replies,
            Err(ErrandFailed::NotRun(error) | ErrandFailed::InDoubt(error)) => {
                return Err(Failure::Upstream(error));
            }
        };
        match step.outcome(&replies).map_err(odd)? {
            Outcome::Ran(elements) => Ok(answer(loan, &elements[step.clients()])),
            not_run => Ok(answer_not_run(loan, not_run)),
        }
    }

    /// The clock of Redis.
    async fn ask_the_time(&mut self) -> Result<Reading, UpstreamError> {
        let from = Instant::now();
        let time = self.control.command(&[Bytes::from_static(b"TIME")]).await?;
        let number = |frame: &Frame| match frame {
            Frame::BulkString(digits) => std::str::from_utf8(digits).ok()?.parse::<i64>().ok(),
            _ => None,
        };
        let Frame::Array(parts) = &time else { return Err(odd_time()) };
        let [seconds, micros] = &parts[..] else { return Err(odd_time()) };
        let (Some(seconds), Some(micros)) = (number(seconds), number(micros)) else {
            return Err(odd_time());
        };
        let at = Within { from, to: Instant::now() };
        Ok(Reading { now_ms: seconds.saturating_mul(1000).saturating_add(micros / 1000), at })
    }

    // --- a loan that may write ---

    async fn lend(&mut self, loan: &Loan) -> Result<Answer, Failure> {
        let watched = loan.watched.as_ref().map_or_else(Vec::new, |watched| watched.keys());
        let mut keys = self.keys_of(loan, &watched).map_err(Failure::Store)?;
        let mut locks: Vec<i64> = keys.touched.iter().map(|touched| touched.key.lock()).collect();
        locks.sort_unstable();
        locks.dedup();

        let session = connected(&mut self.session, &self.settings).await.map_err(Failure::Store)?;
        if let Err(error) = session.begin_locked(&locks).await {
            return Err(roll_back(session, Failure::Store(error)).await);
        }
        let groups = by_mapping(&keys.touched);
        let from = Instant::now();
        let now_ms = match read(session, &groups, &mut keys.touched).await {
            Ok(now_ms) => now_ms,
            Err(error) => return Err(roll_back(session, Failure::Store(error)).await),
        };
        let postgres = Reading { now_ms, at: Within { from, to: Instant::now() } };
        let stop = match self.before_it_begins(&keys, &watched).await {
            Ok(stop) => stop,
            Err(error) => return Err(self.abandon(Failure::Upstream(error)).await),
        };
        if let Some(reply) = stop {
            self.roll_back().await;
            return Ok(Answer::Reply(reply));
        }
        let (begun, shift) = match self.begin(&keys, postgres).await {
            Ok(begun) => begun,
            Err(failure) => return Err(self.abandon(failure).await),
        };
        let Keys { touched, lent, others } = keys;
        let mut prepared = Prepared { replies: Vec::new(), touched, open: true, begun };

        let step = full_step(loan, &prepared.touched[..lent], &others, shift);
        let ran = match self.run_step(loan, &step).await {
            Ok(replies) => step.outcome(&replies),
            Err(failed) => return self.not_known_to_have_run(failed, loan, &prepared).await,
        };
        let elements = match ran {
            Ok(Outcome::Ran(elements)) => elements,
            Ok(not_run) => {
                self.end_unchanged(&prepared).await;
                return Ok(answer_not_run(loan, not_run));
            }
            Err(Odd) => {
                let failed = ErrandFailed::InDoubt(odd_step());
                return self.not_known_to_have_run(failed, loan, &prepared).await;
            }
        };
        let reply = answer(loan, &elements[step.clients()]);
        if let (false, [request], Answer::Bytes(bytes)) =
            (loan.transaction, &loan.requests[..], &reply)
            && request.may_wait
            && is_nil(bytes)
        {
            self.end_unchanged(&prepared).await;
            return Ok(Answer::Reply(Reply::Error(request.would_wait())));
        }
        let Ok(left) = read_left(&elements, &prepared.touched[..lent], &others) else {
            let failed = ErrandFailed::InDoubt(odd_step());
            return self.not_known_to_have_run(failed, loan, &prepared).await;
        };
        for (touched, returned) in prepared.touched.iter_mut().zip(left.returned) {
            if let Returned::Other(kind) = &returned {
                let refusal = would_leave(loan, touched.key, kind);
                return Ok(self.undo(&left.undo, &prepared, refusal).await);
            }
            take_back(&mut touched.draft, returned, shift);
        }
        Ok(self.write(&groups, prepared, &left.undo, reply).await)
    }

    /// Each key once, with its table's present layout.
    fn keys_of<'a>(
        &self,
        loan: &'a Loan,
        watched: &'a [(MappedKey, Digest)],
    ) -> Result<Keys<'a>, StoreError> {
        let mut touched: Vec<Touched<'a>> = Vec::new();
        let mut add = |key: &'a MappedKey| -> Result<usize, StoreError> {
            if touched.iter().any(|known| known.key.key == key.key) {
                return Ok(touched.len());
            }
            let mapping = self.tables.current(&key.mapping).ok_or_else(set_aside)?;
            touched.push(Touched {
                key,
                needs: Needs { whole: true, ..Needs::default() },
                mapping,
                present: false,
                draft: Draft::new(key.mapping.holds(), None),
            });
            Ok(touched.len())
        };
        let mut lent = 0;
        for key in loan.requests.iter().flat_map(|request| &request.keys) {
            lent = add(key)?;
        }
        for (key, _) in watched {
            add(key)?;
        }
        let mut others: Vec<Bytes> = Vec::new();
        if lent > 0 {
            // Without mapped keys nothing can be refused afterwards.
            let writing = loan.requests.iter().filter(|request| !request.only_reads);
            others.extend(writing.flat_map(|request| &request.others).cloned());
            others.sort_unstable();
            others.dedup();
        }
        Ok(Keys { touched, lent, others })
    }

    /// Why nothing is to be begun.
    async fn before_it_begins(
        &mut self,
        keys: &Keys<'_>,
        watched: &[(MappedKey, Digest)],
    ) -> Result<Option<Reply>, UpstreamError> {
        if self.has_changed(&keys.touched, watched) {
            return Ok(Some(Reply::NilArray));
        }
        if let Some(refusal) = too_large(keys) {
            return Ok(Some(refusal));
        }
        let mut bytes = 0;
        let asked = |key: &Bytes| {
            [Bytes::from_static(b"MEMORY"), Bytes::from_static(b"USAGE"), key.clone()]
        };
        let commands: Vec<[Bytes; 3]> = keys.others.iter().map(asked).collect();
        let commands: Vec<&[Bytes]> = commands.iter().map(|words| &words[..]).collect();
        if !commands.is_empty() {
            for size in self.control.commands(&commands).await? {
                match size {
                    Frame::Integer(size) => bytes += usize::try_from(size).unwrap_or(0),
                    Frame::Error(text) => return Err(UpstreamError::Refused(text.to_string())),
                    _ => {}
                }
            }
        }
        Ok((bytes > MOST_BYTES).then(|| {
            Reply::err(format!(
                "the keys that are not mapped take more than {} MiB, which could not be put back if \
                 Postgres refused; nothing was written",
                MOST_BYTES >> 20
            ))
        }))
    }

    /// From here on nobody finds or fills the lent keys.
    async fn begin(
        &mut self,
        keys: &Keys<'_>,
        postgres: Reading,
    ) -> Result<(Option<Begun>, ClockShift), Failure> {
        let token = Token::writer();
        let has_copies = |&at: &usize| keys.touched[at].mapping.strategy != Strategy::PostgresOnly;
        let places: Vec<usize> = (0..keys.lent).filter(has_copies).collect();
        let from = Instant::now();
        let call = begin_call(&keys.touched, &places, &token, self.settings.lease_ms);
        let upstream_now_ms = begin_keys(&mut self.control, call).await?;
        let at = Within { from, to: Instant::now() };
        let Some(upstream_now_ms) = upstream_now_ms else {
            if keys.lent == 0 {
                return Ok((None, ClockShift::default()));
            }
            let redis = self.ask_the_time().await.map_err(Failure::Upstream)?;
            return Ok((None, ClockShift::between(postgres, redis)));
        };
        let passed_ms = i64::try_from(postgres.at.from.elapsed().as_millis()).unwrap_or(i64::MAX);
        let store_now_ms = postgres.now_ms.saturating_add(passed_ms).saturating_add(1);
        let begun = Begun { token, places, upstream_now_ms, store_now_ms };
        let shift = ClockShift::between(postgres, Reading { now_ms: upstream_now_ms, at });
        Ok((Some(begun), shift))
    }

    /// Runs the step; Postgres hears of us meanwhile.
    async fn run_step(&mut self, loan: &Loan, step: &Step) -> Result<Vec<Bytes>, ErrandFailed> {
        let (bytes, count) = step.bytes();
        let mut running = std::pin::pin!(loan.runner.run(bytes, count, loan.spoils));
        loop {
            tokio::select! {
                replies = &mut running => return replies,
                () = tokio::time::sleep(SIGN_OF_LIFE) => {}
            }
            if let Some(session) = &mut self.session
                && let Err(error) = session.ping().await
            {
                // What Redis has done is undone when COMMIT fails.
                tracing::debug!(%error, "Postgres was lost while Redis ran a loan");
            }
        }
    }

    /// Brings the changes to Postgres; what to tell the client.
    async fn write(
        &mut self,
        groups: &[(Arc<Mapping>, Vec<usize>)],
        prepared: Prepared<'_>,
        undo: &Undo,
        reply: Answer,
    ) -> Answer {
        if !prepared.touched.iter().any(|touched| touched.draft.is_changed()) {
            self.end_unchanged(&prepared).await;
            return reply;
        }
        let Some(session) = &mut self.session else { return reply };
        for group in groups {
            let written = write_rows(session, std::slice::from_ref(group), &prepared.touched).await;
            if let Err(error) = written {
                let refusal = self.refusal(error, &group.0).await;
                return self.undo(undo, &prepared, refusal).await;
            }
        }
        match session.commit().await {
            Ok(()) => {
                if let Some(end) = prepared.end() {
                    self.control.post(&[end]).await;
                }
                reply
            }
            Err(error @ StoreError::InDoubt(_)) => {
                tracing::warn!(%error, "a loan failed");
                Answer::Reply(write_failed(&error, ""))
            }
            Err(error) => {
                let changed = prepared.touched.iter().find(|touched| touched.draft.is_changed());
                let Some(mapping) = changed.map(|touched| Arc::clone(&touched.mapping)) else {
                    return reply;
                };
                let refusal = self.refusal(error, &mapping).await;
                self.undo(undo, &prepared, refusal).await
            }
        }
    }

    /// What a client is told of Postgres' error, with the columns that only the catalog knows.
    async fn refusal(&mut self, mut error: StoreError, mapping: &Mapping) -> Reply {
        match &error {
            StoreError::Refused { .. } | StoreError::Unencodable(_) => {
                tracing::info!(%error, "a write was refused");
            }
            _ => tracing::warn!(%error, "a loan failed"),
        }
        if let StoreError::Refused { constraint: Some(name), column, .. } = &mut error
            && column.is_none()
        {
            self.roll_back().await;
            if let Some(session) = &mut self.session
                && let Ok(columns) = session.constraint_columns(mapping.layout.table(), name).await
                && !columns.is_empty()
            {
                *column = Some(columns.join(", "));
            }
        }
        write_failed(&error, &mapping.name)
    }

    // --- ends without COMMIT ---

    /// Nothing has begun.
    async fn abandon(&mut self, failure: Failure) -> Failure {
        self.roll_back().await;
        failure
    }

    async fn roll_back(&mut self) {
        if let Some(session) = &mut self.session
            && let Err(error) = session.rollback().await
        {
            // The session is broken and with it the transaction.
            tracing::debug!(%error, "rollback failed");
        }
    }

    /// Nothing has to be written: the copies are right.
    async fn end_unchanged(&mut self, prepared: &Prepared<'_>) {
        self.roll_back().await;
        if let Some(end) = prepared.end() {
            self.control.post(&[end]).await;
        }
    }

    /// Redis has run the step, and Postgres does not take it.
    async fn undo(&mut self, undo: &Undo, prepared: &Prepared<'_>, refusal: Reply) -> Answer {
        let undone = undo.undo(&mut self.control).await;
        self.roll_back().await;
        if let Some(end) = prepared.end_of_aborted() {
            self.control.post(&[end]).await;
        }
        Answer::Reply(if undone { refusal } else { in_part(refusal) })
    }

    /// The step was not run, or nobody knows. What was lent is not there any more in either case, and
    /// Postgres is as it was.
    async fn not_known_to_have_run(
        &mut self,
        failed: ErrandFailed,
        loan: &Loan,
        prepared: &Prepared<'_>,
    ) -> Result<Answer, Failure> {
        self.end_unchanged(prepared).await;
        match failed {
            ErrandFailed::NotRun(error) => Err(Failure::Upstream(error)),
            ErrandFailed::InDoubt(error) => {
                tracing::warn!(%error, "a loan failed");
                let reaches_others = loan
                    .requests
                    .iter()
                    .any(|request| !request.only_reads && request.reaches_others());
                let happened = if reaches_others { Happened::Maybe } else { Happened::No };
                Ok(Answer::Reply(upstream_failed(happened)))
            }
        }
    }
}

// === a loan's step ===

fn full_step(loan: &Loan, lent: &[Touched<'_>], others: &[Bytes], shift: ClockShift) -> Step {
    let mut step = Step::new();
    for key in others {
        step.dump(key);
    }
    for Touched { key, draft, .. } in lent {
        lend_draft(&mut step, key, draft, shift);
    }
    for request in &loan.requests {
        step.request(&request.bytes);
    }
    for Touched { key, mapping, .. } in lent {
        step.take_back(&key.key, mapping.holds());
    }
    for key in others {
        step.dump(key);
    }
    step
}

fn lend_draft(step: &mut Step, key: &MappedKey, draft: &Draft, shift: ClockShift) {
    let expires_at_ms = draft.expires_at_ms().map(|at_ms| shift.to_redis(at_ms));
    step.lend(&key.key, draft.record(), expires_at_ms);
}

/// Reads what `full_step` has asked.
fn read_left(elements: &[Bytes], lent: &[Touched<'_>], others: &[Bytes]) -> Result<Left, Odd> {
    let dumps = 2 * others.len();
    let (before, rest) = elements.split_at_checked(dumps).ok_or(Odd)?;
    let (rest, after) = rest.split_at_checked(rest.len().saturating_sub(dumps)).ok_or(Odd)?;
    let start = rest.len().checked_sub(4 * lent.len()).ok_or(Odd)?;
    let taken_back = rest[start..].chunks(4).zip(lent);
    let returned = taken_back
        .map(|(replies, touched)| Returned::read(replies, touched.mapping.holds()))
        .collect::<Result<_, _>>()?;
    Ok(Left { returned, undo: Undo::read(others, before, after)? })
}

async fn read_snapshot(
    session: &mut Session,
    touched: &mut [Touched<'_>],
) -> Result<i64, StoreError> {
    let mut now_ms = i64::MIN;
    for (mapping, places) in by_mapping(touched) {
        let keys: Vec<&MappedKey> = places.iter().map(|&at| touched[at].key).collect();
        let read = session.read(&mapping, &keys, RowLock::None).await?;
        now_ms = now_ms.max(read.now_ms);
        for (&at, row) in places.iter().zip(read.rows) {
            touched[at].draft = Draft::new(mapping.holds(), row.record);
        }
    }
    Ok(now_ms)
}

// === answers ===

fn too_large(keys: &Keys<'_>) -> Option<Reply> {
    let fields = keys.touched[..keys.lent].iter().filter_map(|touched| touched.draft.fields());
    let bytes: usize = fields.flatten().map(|(field, value)| field.len() + value.len()).sum();
    (bytes > MOST_BYTES).then(|| {
        Reply::err(format!(
            "the values of the mapped keys take more than {} MiB, which is not lent to Redis; nothing \
             was written",
            MOST_BYTES >> 20
        ))
    })
}

fn answer(loan: &Loan, replies: &[Bytes]) -> Answer {
    if let (false, [reply]) = (loan.transaction, replies) {
        return Answer::Bytes(reply.clone());
    }
    let mut bytes = BytesMut::new();
    write_count(&mut bytes, b'*', replies.len());
    for reply in replies {
        bytes.extend_from_slice(reply);
    }
    Answer::Bytes(bytes.freeze())
}

/// The step was not run: Redis' own words for the client's request, or for what surrounds it.
fn answer_not_run(loan: &Loan, outcome: Outcome) -> Answer {
    match outcome {
        Outcome::Refused { exec, .. } if loan.transaction => Answer::Bytes(exec),
        Outcome::Refused { of_client, of_step, exec } => {
            Answer::Bytes(of_client.or(of_step).unwrap_or(exec))
        }
        Outcome::Changed | Outcome::Ran(_) => Answer::Reply(Reply::NilArray),
    }
}

fn would_leave(loan: &Loan, key: &MappedKey, kind: &str) -> Reply {
    let names = |request: &&Lent| {
        !request.only_reads && request.keys.iter().any(|named| named.key == key.key)
    };
    let request = loan.requests.iter().find(names).or(loan.requests.first());
    Reply::Error(request.map_or_else(String::new, |request| request.would_leave(key, kind)))
}

fn is_nil(reply: &[u8]) -> bool {
    reply.starts_with(b"*-1") || reply.starts_with(b"$-1") || reply.starts_with(b"_")
}

fn is_for_later(error: &str) -> bool {
    let first = error.split(' ').next().unwrap_or_default();
    matches!(first, "BUSY" | "LOADING" | "MASTERDOWN")
}

fn odd(_: Odd) -> Failure {
    Failure::Upstream(odd_step())
}

fn odd_step() -> UpstreamError {
    UpstreamError::Protocol("an odd answer to an atomic step".into())
}

fn odd_time() -> UpstreamError {
    UpstreamError::Protocol("an odd answer to TIME".into())
}
