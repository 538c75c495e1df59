//! A loan that only reads: values as of one moment, and no lock.
//!
//! The cached copies step aside within the atomic step and come back in it, with the life that they
//! had. What a key that is not mapped holds is read at the moment of the step, which is a later one.

use std::time::Instant;

use bytes::Bytes;

use super::Loan;
use super::answer::{Answer, answer, answer_not_run, odd_step, too_large, waits_in_vain};
use super::lender::Lender;
use super::step::{Odd, Outcome, Step};
use super::taken_back::{ClockShift, Reading, Within};
use super::write::lend_draft;
use crate::engine::errand::ErrandFailed;
use crate::engine::through::connected;
use crate::engine::transaction::{Failure, Touched, by_mapping, roll_back};
use crate::mapping::MappedKey;
use crate::store::{RowLock, Session, StoreError};
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::value::Draft;

// === impl Lender ===

impl Lender {
    pub(super) async fn lend_to_read(&mut self, loan: &Loan) -> Result<Answer, Failure> {
        let (looked_up, _passes) = match self.look_up(loan).await? {
            Ok(found) => found,
            Err(refusal) => return Ok(Answer::Reply(refusal)),
        };
        let mut keys = self.keys_of(loan, &looked_up, &[]).map_err(Failure::Store)?;
        let touched = keys.touched.iter().map(|touched| touched.key);
        if let Err(reply) = self.until_clean(touched).await {
            return Ok(Answer::Reply(reply));
        }
        if let Some(refusal) = self.import(keys.touched.iter().map(|touched| touched.key)).await? {
            return Ok(Answer::Reply(refusal));
        }
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
        for touched in &keys.touched {
            step.set_aside(&touched.key.key);
        }
        for Touched { key, draft, .. } in &keys.touched {
            lend_draft(&mut step, key, draft, shift);
        }
        loan.ask_what_is_sorted(&mut step);
        for request in &loan.requests {
            step.request(&request.bytes);
        }
        for touched in &keys.touched {
            step.bring_back(&touched.key.key);
        }
        let (bytes, count) = step.finish();
        let replies = match loan.runner.run(bytes, count, loan.spoils).await {
            Ok(replies) => replies,
            Err(ErrandFailed::NotRun(error) | ErrandFailed::InDoubt(error)) => {
                return Err(Failure::Upstream(error));
            }
        };
        match step.outcome(&replies).map_err(odd)? {
            Outcome::Ran(elements) => {
                let lent = keys.touched.iter().map(|touched| touched.key);
                let sorted = &elements[..step.clients().start];
                if !self.has_lent_all(loan, sorted, lent).map_err(odd)? {
                    return Err(Failure::Store(StoreError::Raced));
                }
                let reply = answer(loan, &elements[step.clients()]);
                Ok(waits_in_vain(loan, &reply).map_or(reply, Answer::Reply))
            }
            not_run => Ok(answer_not_run(loan, not_run)),
        }
    }

    /// The clock of Redis.
    pub(super) async fn ask_the_time(&mut self) -> Result<Reading, UpstreamError> {
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

fn odd(_: Odd) -> Failure {
    Failure::Upstream(odd_step())
}

fn odd_time() -> UpstreamError {
    UpstreamError::Protocol("an odd answer to TIME".into())
}
