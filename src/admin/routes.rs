//! The paths, and what each of them does. docs/admin-api.yaml tells of them.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::reply::{Answer, Refusal, ok, told};
use super::report::{self, Standing};
use super::{Shared, gather, guard, jobs, page};
use crate::config::Strategy;
use crate::engine::dead_letters::lines;
use crate::engine::switcher::Switched;
use crate::store::DeadLetter;

/// Dead letters that are told at once, where nothing else is asked for, and at most.
const PAGE: i64 = 100;
const MOST: i64 = 1000;

/// The type of Prometheus' text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) fn router(view: Shared) -> Router {
    let database = Router::new()
        .route("/health", get(health))
        .route("/status", get(status))
        .route("/metrics", get(metrics))
        .route("/journal", get(journal))
        .route("/dead-letters", get(dead_letters))
        .route("/dead-letters/{id}/retry", post(retry_dead_letter))
        .route("/dead-letters/{id}/drop", post(drop_dead_letter))
        .route("/strategy/{strategy}", post(switch))
        .route("/sync/redis-to-postgres", post(jobs::to_postgres))
        .route("/sync/postgres-to-redis", post(jobs::to_redis))
        .route("/consistency-check", get(jobs::check))
        .route("/consistency-fix", post(jobs::fix))
        .route("/jobs", get(jobs::list))
        .route("/jobs/{id}", get(jobs::one))
        .route("/jobs/{id}/cancel", post(jobs::cancel))
        .route("/cache/clear", post(clear_cache))
        .route("/reconnect", post(reconnect));
    Router::new()
        .route("/live", get(live))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_text))
        .route("/", get(page::page))
        .route("/page.css", get(page::style))
        .route("/page.js", get(page::script))
        .route("/figures.js", get(page::figures))
        .nest("/admin/database", database)
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(view.clone(), guard::guard))
        .with_state(view)
}

// --- whether it lives ---

async fn live() -> Answer {
    ok(json!({ "live": true }))
}

async fn ready(State(view): State<Shared>) -> Response {
    let (is_ready, body) = report::readiness(&view).await;
    told(if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, body)
}

// --- looking in ---

async fn health(State(view): State<Shared>) -> Response {
    let (standing, body) = report::health(&view).await;
    let is_down = standing == Standing::Down;
    told(if is_down { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK }, body)
}

async fn status(State(view): State<Shared>) -> Answer {
    ok(report::status(&view).await)
}

async fn metrics(State(view): State<Shared>) -> Answer {
    ok(gather::samples(&view).await.json())
}

async fn metrics_text(State(view): State<Shared>) -> Response {
    let text = gather::samples(&view).await.text();
    ([(header::CONTENT_TYPE, TEXT)], text).into_response()
}

async fn journal(State(view): State<Shared>) -> Answer {
    ok(report::journal(&view))
}

// --- dead letters ---

async fn dead_letters(State(view): State<Shared>, RawQuery(query): RawQuery) -> Answer {
    let (after, most) = page_wanted(query.as_deref().unwrap_or_default())?;
    let letters = view.operator.dead_letters(after, most).await?;
    let is_full = letters.len() == usize::try_from(most).unwrap_or(usize::MAX);
    let next = letters.last().filter(|_| is_full).map(|letter| letter.id);
    let letters: Vec<Value> = letters.iter().map(letter).collect();
    ok(json!({ "dead_letters": letters, "next_after": next }))
}

/// `after` and `limit` of a query.
fn page_wanted(query: &str) -> Result<(i64, i64), Refusal> {
    let bad = |text: String| {
        let advice =
            format!("after is a number from 0 on, limit one from 1 to {MOST}; nothing else");
        Refusal::new(StatusCode::BAD_REQUEST, text, advice)
    };
    let (mut after, mut most) = (0, PAGE);
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = value.parse::<i64>().ok();
        match (name, number) {
            ("after", Some(number @ 0..)) => after = number,
            ("limit", Some(number @ 1..=MOST)) => most = number,
            ("after" | "limit", _) => return Err(bad(format!("{name} is not such a number"))),
            _ => return Err(bad("the query has a name that is not known".to_owned())),
        }
    }
    Ok((after, most))
}

fn letter(kept: &DeadLetter) -> Value {
    let letter = &kept.letter;
    json!({
        "id": kept.id,
        "mapping": letter.mapping,
        "key": letter.key.escape_ascii().to_string(),
        "entry": format!("{}-{}", letter.entry.epoch, letter.entry.number),
        "time": kept.created_at,
        "reason": letter.reason,
        "change": lines(kept),
    })
}

async fn retry_dead_letter(State(view): State<Shared>, Path(id): Path<String>) -> Answer {
    let id = letter_id(&id)?;
    view.operator.retry_dead_letter(id).await?;
    tracing::info!(id, "an operator has had a dead letter written");
    ok(json!({ "id": id, "done": "written" }))
}

async fn drop_dead_letter(State(view): State<Shared>, Path(id): Path<String>) -> Answer {
    let id = letter_id(&id)?;
    view.operator.drop_dead_letter(id).await?;
    tracing::info!(id, "an operator has dropped a dead letter");
    ok(json!({ "id": id, "done": "dropped" }))
}

fn letter_id(text: &str) -> Result<i64, Refusal> {
    let id = text.parse::<i64>().ok().filter(|id| *id >= 0);
    id.ok_or_else(|| {
        let advice = "GET /admin/database/dead-letters lists their numbers";
        Refusal::new(StatusCode::BAD_REQUEST, "a dead letter is named by a number", advice)
    })
}

// --- strategies ---

/// By which names the path has them.
const STRATEGIES: [(&str, Strategy); 5] = [
    ("dual-write", Strategy::DualWrite),
    ("cache-first", Strategy::CacheFirst),
    ("database-first", Strategy::DatabaseFirst),
    ("redis-only", Strategy::RedisOnly),
    ("postgres-only", Strategy::PostgresOnly),
];

async fn switch(
    State(view): State<Shared>,
    Path(strategy): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Answer {
    let known = STRATEGIES.iter().find(|(name, _)| *name == strategy);
    let Some((_, strategy)) = known else {
        let names = STRATEGIES.map(|(name, _)| name).join(", ");
        let status = StatusCode::NOT_FOUND;
        return Err(Refusal::new(
            status,
            "there is no such strategy",
            format!("there are {names}"),
        ));
    };
    let Which { mapping } = read(&headers, &body)?;
    let done = view.operator.switch(mapping.as_deref(), *strategy).await?;
    let told = |(name, switched): (String, Switched)| {
        let (changed, waited_ms) = match switched {
            Switched::Already => (false, 0),
            Switched::Done { waited } => (true, waited.as_millis()),
        };
        tracing::info!(
            mapping = name,
            strategy = strategy.name(),
            changed,
            "an operator has chosen a strategy"
        );
        json!({ "name": name, "changed": changed, "waited_ms": u64::try_from(waited_ms).unwrap_or(u64::MAX) })
    };
    let mappings: Vec<Value> = done.into_iter().map(told).collect();
    ok(json!({ "strategy": strategy.name(), "mappings": mappings }))
}

// --- connections ---

async fn reconnect(State(view): State<Shared>) -> Answer {
    let (redis, postgres) = view.operator.reconnect().await;
    tracing::info!(redis, postgres, "an operator has had connections taken anew");
    ok(json!({ "redis": redis, "postgres": postgres }))
}

// --- the cache ---

/// Which mapping something is about; all, where nothing is said.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    mapping: Option<String>,
}

async fn clear_cache(State(view): State<Shared>, headers: HeaderMap, body: Bytes) -> Answer {
    let Which { mapping } = read(&headers, &body)?;
    let cleared = view.operator.clear_cache(mapping.as_deref()).await?;
    tracing::info!(mapping, keys = cleared.keys, "an operator has had cached copies dropped");
    ok(json!({ "keys": cleared.keys, "pending": cleared.pending }))
}

/// A body in JSON; none says nothing.
pub(super) fn read<T: Default + for<'de> Deserialize<'de>>(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Refusal> {
    if body.is_empty() {
        return Ok(T::default());
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.and_then(|kind| kind.split(';').next()).unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "the body is of a type that is not understood",
            "send JSON, with the header Content-Type: application/json",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        let advice = "docs/admin-api.yaml tells what the body may be";
        Refusal::new(
            StatusCode::BAD_REQUEST,
            format!("the body is not understood: {error}"),
            advice,
        )
    })
}

// --- what is not there ---

async fn unknown_path() -> Refusal {
    let advice = "docs/admin-api.yaml lists the paths";
    Refusal::new(StatusCode::NOT_FOUND, "there is no such path", advice)
}

pub(super) async fn wrong_method() -> Refusal {
    let advice = "what only looks is a GET, what does something a POST";
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "the path is not for this method", advice)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_asked_for_by_two_numbers() {
        let check = |query: &str, expected: Option<(i64, i64)>| {
            assert_eq!(page_wanted(query).ok(), expected, "{query}");
        };
        check("", Some((0, 100)));
        check("after=7", Some((7, 100)));
        check("limit=1&after=2", Some((2, 1)));
        check("limit=0", None);
        check("limit=1001", None);
        check("after=-1", None);
        check("after=", None);
        check("page=1", None);
    }
}
