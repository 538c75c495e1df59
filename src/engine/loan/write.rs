//! A loan that may write: under the keys' locks, and with Postgres' consent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::answer::{
    Answer, Keys, MOST_BYTES, answer, answer_not_run, odd_step, too_large, waits_in_vain,
    would_leave,
};
use super::lender::Lender;
use super::step::{Odd, Outcome, Returned, Step};
use super::taken_back::{ClockShift, Reading, Within, take_back};
use super::undo::Undo;
use super::watch::Digest;
use super::{Lent, Loan};
use crate::config::Strategy;
use crate::engine::errand::ErrandFailed;
use crate::engine::refusal::{Happened, in_part, upstream_failed, write_failed};
use crate::engine::through::connected;
use crate::engine::transaction::{
    Begun, Copies, Failure, Prepared, ToldBegun, Touched, begin_call, begin_keys, by_mapping, read,
    roll_back, write_rows,
};
use crate::mapping::{MappedKey, Mapping};
use crate::protocol::Reply;
use crate::store::StoreError;
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::upstream::scripts::Token;
use crate::value::Draft;

/// How often Postgres hears of a transaction that waits for Redis: it ends those that say nothing for
/// longer (`idle_in_transaction_session_timeout`), and a script may run for long.
const SIGN_OF_LIFE: Duration = Duration::from_secs(5);

/// What a step that was run has left.
struct Left {
    returned: Vec<Returned>,
    undo: Undo,
}

// === impl Lender ===

impl Lender {
    pub(super) async fn lend(&mut self, loan: &Loan) -> Result<Answer, Failure> {
        let watched = loan.watched.as_ref().map_or_else(Vec::new, |watched| watched.keys());
        let mut keys = self.keys_of(loan, &[], &watched).map_err(Failure::Store)?;
        if let Some(refusal) = self.import(keys.touched.iter().map(|touched| touched.key)).await? {
            return Ok(Answer::Reply(refusal));
        }
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
        let stop = match self.before_it_begins(loan, &keys, &watched).await {
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
        let mut prepared =
            Prepared { replies: Vec::new(), touched, open: true, written: false, begun };

        let mut step = full_step(loan, &prepared.touched[..lent], &others, shift);
        let ran = match self.run_step(loan, &mut step).await {
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
        if let Some(refusal) = waits_in_vain(loan, &reply) {
            self.end_unchanged(&prepared).await;
            return Ok(Answer::Reply(refusal));
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
        self.write(loan, &groups, prepared, &left.undo, reply).await
    }

    fn has_changed(&self, touched: &[Touched<'_>], watched: &[(MappedKey, Digest)]) -> bool {
        let digests: HashMap<&[u8], Digest> =
            watched.iter().map(|(key, digest)| (&key.key[..], *digest)).collect();
        touched.iter().any(|Touched { key, draft, .. }| {
            let watched = digests.get(&key.key[..]);
            watched.is_some_and(|digest| self.digester.digest(draft.record()) != *digest)
        })
    }

    /// Why nothing is to be begun.
    async fn before_it_begins(
        &mut self,
        loan: &Loan,
        keys: &Keys<'_>,
        watched: &[(MappedKey, Digest)],
    ) -> Result<Option<Reply>, UpstreamError> {
        let changed_before = loan.watched.as_ref().is_some_and(|watched| watched.has_changed());
        if changed_before || self.has_changed(&keys.touched, watched) {
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
        // What is watched must not change either, where Redis may be told first.
        let is_begun = |&at: &usize| {
            let mapping = &keys.touched[at].mapping;
            mapping.may_be_behind()
                || (at < keys.lent && mapping.strategy() != Strategy::PostgresOnly)
        };
        let places: Vec<usize> = (0..keys.touched.len()).filter(is_begun).collect();
        let is_behind = |touched: &Touched<'_>| touched.mapping.strategy() == Strategy::CacheFirst;
        let may_be = |touched: &Touched<'_>| touched.mapping.may_be_behind();
        let losses = self.settings.health.losses();
        let is_ahead = keys.touched.iter().any(is_behind)
            || (keys.touched.iter().any(may_be) && self.trust.journal.may_be_loose(losses));
        let copies = if is_ahead {
            Copies::known(&self.trust, &mut self.control).await?
        } else {
            let copies = Copies::in_redis(&self.trust, &mut self.control).await;
            copies.map_err(Failure::Upstream)?
        };
        let from = Instant::now();
        let lease_ms = self.settings.lease_ms;
        let call = begin_call(&keys.touched, &places, &token, lease_ms, &copies);
        let told = begin_keys(&mut self.control, call).await?;
        let at = Within { from, to: Instant::now() };
        let Some(ToldBegun { upstream_now_ms, ends_ms }) = told else {
            if keys.lent == 0 {
                return Ok((None, ClockShift::default()));
            }
            let redis = self.ask_the_time().await.map_err(Failure::Upstream)?;
            return Ok((None, ClockShift::between(postgres, redis)));
        };
        let passed_ms = i64::try_from(postgres.at.from.elapsed().as_millis()).unwrap_or(i64::MAX);
        let store_now_ms = postgres.now_ms.saturating_add(passed_ms).saturating_add(1);
        let begun = Begun { token, places, ends_ms, upstream_now_ms, store_now_ms };
        let shift = ClockShift::between(postgres, Reading { now_ms: upstream_now_ms, at });
        Ok((Some(begun), shift))
    }

    /// Runs the step; Postgres hears of us meanwhile.
    async fn run_step(&mut self, loan: &Loan, step: &mut Step) -> Result<Vec<Bytes>, ErrandFailed> {
        let (bytes, count) = step.finish();
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

    /// Brings the changes to Postgres; what to tell the client, if it has not been told.
    async fn write(
        &mut self,
        loan: &Loan,
        groups: &[(Arc<Mapping>, Vec<usize>)],
        prepared: Prepared<'_>,
        undo: &Undo,
        reply: Answer,
    ) -> Result<Answer, Failure> {
        if !prepared.touched.iter().any(|touched| touched.draft.is_changed()) {
            self.end_unchanged(&prepared).await;
            return Ok(reply);
        }
        let session = self.session.as_mut().expect("it has begun the transaction");
        for group in groups {
            let written = write_rows(session, std::slice::from_ref(group), &prepared.touched).await;
            if let Err(error) = written {
                return self.not_written(loan, error, &group.0, &prepared, undo).await;
            }
        }
        match session.commit().await {
            Ok(()) => {
                loan.told.tell(&reply);
                if let Some(end) = prepared.end() {
                    self.control.post(&[end]).await;
                }
                Ok(reply)
            }
            Err(error @ StoreError::InDoubt(_)) => {
                tracing::warn!(%error, "a loan failed");
                Ok(Answer::Reply(write_failed(&error, "")))
            }
            Err(error) => {
                let changed = prepared.touched.iter().find(|touched| touched.draft.is_changed());
                let mapping = &changed.expect("something has changed").mapping;
                self.not_written(loan, error, mapping, &prepared, undo).await
            }
        }
    }

    /// Postgres does not take the changes: they are undone, and tried again where others were faster.
    async fn not_written(
        &mut self,
        loan: &Loan,
        error: StoreError,
        mapping: &Mapping,
        prepared: &Prepared<'_>,
        undo: &Undo,
    ) -> Result<Answer, Failure> {
        let was_faster = matches!(error, StoreError::Raced | StoreError::Retryable { .. });
        if !was_faster || !loan.may_run_again() {
            let refusal = self.refusal(error, mapping).await;
            return Ok(self.undo(undo, prepared, refusal).await);
        }
        if self.take_all_back(undo, prepared).await {
            Err(Failure::Store(error))
        } else {
            Ok(Answer::Reply(in_part(write_failed(&error, &mapping.name))))
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
        let undone = self.take_all_back(undo, prepared).await;
        Answer::Reply(if undone { refusal } else { in_part(refusal) })
    }

    /// Whether everything is as it was.
    async fn take_all_back(&mut self, undo: &Undo, prepared: &Prepared<'_>) -> bool {
        let undone = undo.undo(&mut self.control).await;
        self.roll_back().await;
        if let Some(end) = prepared.end_of_aborted() {
            self.control.post(&[end]).await;
        }
        undone
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
                let reaches_others = loan.requests.iter().any(Lent::reaches_others);
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

pub(super) fn lend_draft(step: &mut Step, key: &MappedKey, draft: &Draft, shift: ClockShift) {
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
