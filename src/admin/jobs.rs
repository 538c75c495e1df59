//! Jobs that move or compare data: started here, looked at, ended. What may be asked for has the words of the
//! command line.

use std::fmt;
use std::time::UNIX_EPOCH;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode};
use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use super::Shared;
use super::reply::{Answer, Refusal, ok, told as answer};
use super::routes::{read, wrong_method};
use crate::engine::jobs::{JobReport, Kind, Order};
use crate::engine::moving::{Progress, Repair, Speed};
use crate::engine::operator::NotDone;

/// Connections to each store, where nothing else is said, and at most.
const PARALLEL: usize = 4;
const MOST_PARALLEL: usize = 64;

/// More keys than any Redis has.
const MOST_SAMPLED: u64 = i64::MAX.unsigned_abs();

/// How a sync is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Sync {
    mapping: Option<String>,
    rate: Option<Whole>,
    parallel: Option<Whole>,
}

/// How a check is wanted; `repair` only of a fix.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Comparison {
    mapping: Option<String>,
    rate: Option<Whole>,
    parallel: Option<Whole>,
    sample: Option<Whole>,
    complete: Option<bool>,
    repair: Option<Side>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Side {
    Redis,
    Postgres,
}

/// A number without a fraction, of which JSON knows more than one form: 5, 5.0, 0.5e1.
#[derive(Clone, Copy, Debug)]
struct Whole(u64);

// === starting ===

pub(super) async fn to_postgres(
    State(view): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    start(&view, sync(Kind::ToPostgres, read(&headers, &body)?)?).await
}

pub(super) async fn to_redis(
    State(view): State<Shared>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    start(&view, sync(Kind::ToRedis, read(&headers, &body)?)?).await
}

pub(super) async fn check(
    State(view): State<Shared>,
    method: Method,
    query: Result<Query<Comparison>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    if method != Method::GET {
        // Whoever sends a HEAD means to have nothing begun.
        return Err(wrong_method().await);
    }
    let Query(wanted) = query
        .map_err(|error| bad(format!("the query is not understood: {}", error.body_text())))?;
    if wanted.repair.is_some() {
        return Err(bad("a check repairs nothing: POST to /admin/database/consistency-fix"));
    }
    start(&view, comparison(Kind::Check, wanted)?).await
}

pub(super) async fn fix(State(view): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let wanted: Comparison = read(&headers, &body)?;
    let repair = match wanted.repair {
        Some(Side::Redis) => Repair::Redis,
        Some(Side::Postgres) => Repair::Postgres,
        None => return Err(bad("repair says which side is to get what the other one has")),
    };
    start(&view, comparison(Kind::Fix(repair), wanted)?).await
}

fn sync(kind: Kind, wanted: Sync) -> Result<Order, Refusal> {
    let Sync { mapping, rate, parallel } = wanted;
    let speed = speed(rate, parallel)?;
    Ok(Order { kind, mapping, speed, sample: None, is_complete: false })
}

fn comparison(kind: Kind, wanted: Comparison) -> Result<Order, Refusal> {
    let Comparison { mapping, rate, parallel, sample, complete, repair: _ } = wanted;
    let (speed, is_complete) = (speed(rate, parallel)?, complete.unwrap_or_default());
    let sample = sample.map(|Whole(sample)| sample);
    if sample.is_some() && is_complete {
        return Err(bad(
            "a sample is of what Redis has, so it cannot tell whether that is complete",
        ));
    }
    if sample.is_some_and(|sample| !(1..=MOST_SAMPLED).contains(&sample)) {
        return Err(bad(format!("sample is a number from 1 to {MOST_SAMPLED}")));
    }
    Ok(Order { kind, mapping, speed, sample, is_complete })
}

fn speed(rate: Option<Whole>, parallel: Option<Whole>) -> Result<Speed, Refusal> {
    let rate = u32::try_from(rate.map_or(0, |Whole(rate)| rate));
    let rate = rate.map_err(|_| bad(format!("rate is a number from 0 to {}", u32::MAX)))?;
    let parallel = parallel.map_or(Ok(PARALLEL), |Whole(parallel)| usize::try_from(parallel));
    match parallel {
        Ok(parallel @ 1..=MOST_PARALLEL) => Ok(Speed { keys_per_second: rate, parallel }),
        _ => Err(bad(format!("parallel is a number from 1 to {MOST_PARALLEL}"))),
    }
}

fn bad(error: impl Into<String>) -> Refusal {
    let advice = "docs/admin-api.yaml tells what may be asked for";
    Refusal::new(StatusCode::BAD_REQUEST, error, advice)
}

async fn start(view: &Shared, order: Order) -> Answer {
    let job = view.operator.start_job(order).await?;
    Ok(answer(StatusCode::ACCEPTED, told(&job, false)))
}

// === looking, and ending ===

pub(super) async fn list(State(view): State<Shared>) -> Answer {
    ok(json!({ "jobs": all(&view) }))
}

pub(super) async fn one(State(view): State<Shared>, Path(id): Path<String>) -> Answer {
    let id = number(&id)?;
    shown(view.operator.jobs().get(id), id, true)
}

pub(super) async fn cancel(State(view): State<Shared>, Path(id): Path<String>) -> Answer {
    let id = number(&id)?;
    let job = view.operator.jobs().cancel(id);
    if job.is_some() {
        tracing::info!(job = id, "an operator has had a job ended");
    }
    shown(job, id, false)
}

fn shown(job: Option<JobReport>, id: u64, with_findings: bool) -> Answer {
    ok(told(&job.ok_or(NotDone::NoJob(id))?, with_findings))
}

fn number(text: &str) -> Result<u64, Refusal> {
    text.parse().map_err(|_| {
        let advice = "GET /admin/database/jobs lists their numbers";
        Refusal::new(StatusCode::BAD_REQUEST, "a job is named by a number", advice)
    })
}

/// All there are to tell of, without what they have found.
pub(super) fn all(view: &Shared) -> Vec<Value> {
    view.operator.jobs().list().iter().map(|job| told(job, false)).collect()
}

/// A job; `with_findings`, which have keys in them.
pub(super) fn told(job: &JobReport, with_findings: bool) -> Value {
    let Order { kind, mapping, speed, sample, is_complete } = &job.order;
    let Progress { walked, expected, done, written, findings, elapsed } = job.progress;
    let started_at = job.started_at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let repair = match kind {
        Kind::Fix(Repair::Redis) => Some("redis"),
        Kind::Fix(Repair::Postgres) => Some("postgres"),
        _ => None,
    };
    let is_over = job.error.is_some() || !matches!(job.state.name(), "running" | "cancelling");
    let left = job.progress.left().filter(|_| !is_over).map(|left| left.as_secs());
    let mut body = json!({
        "id": job.id,
        "kind": kind.name(),
        "mapping": mapping,
        "rate": speed.keys_per_second,
        "parallel": speed.parallel,
        "sample": sample,
        "complete": is_complete,
        "repair": repair,
        "state": job.state.name(),
        "error": job.error,
        "started_at": started_at.as_secs(),
        "seconds": elapsed.as_secs_f64(),
        "seconds_left": left,
        "keys_per_second": job.progress.rate(),
        "walked": walked,
        "expected": expected,
        "done": done,
        "written": written,
        "findings": findings,
    });
    if with_findings {
        let finding = |found: &crate::engine::moving::Finding| {
            json!({
                "mapping": found.mapping,
                "what": found.what,
                "keys": found.keys,
                "examples": found.examples,
            })
        };
        body["found"] = job.findings.iter().map(finding).collect();
    }
    body
}

// === impl Whole ===

impl<'de> Deserialize<'de> for Whole {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_u64(WholeNumber)
    }
}

/// Reads a `Whole`.
struct WholeNumber;

impl Visitor<'_> for WholeNumber {
    type Value = Whole;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a number from 0 on without a fraction")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Whole, E> {
        Ok(Whole(number))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Whole, E> {
        /// Up to here a f64 has every whole number.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        if number.fract() != 0.0 || !(0.0..=EXACT).contains(&number) {
            return Err(E::invalid_value(Unexpected::Float(number), &self));
        }
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seen to above")]
        Ok(Whole(number as u64))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_are_read_in_all_their_forms() {
        let check = |text: &str, expected: Option<u64>| {
            let read = serde_json::from_str::<Whole>(text).ok().map(|Whole(number)| number);
            assert_eq!(read, expected, "{text}");
        };
        check("5", Some(5));
        check("5.0", Some(5));
        check("0.5e1", Some(5));
        check("-0", Some(0));
        check("18446744073709551615", Some(u64::MAX));
        check("5.5", None);
        check("-1", None);
        check("1e300", None);
        check("1e999", None);
        check("\"5\"", None);
        check("true", None);
    }
}
