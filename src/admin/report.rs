//! How the proxy and its stores are, in JSON.

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::{Shared, View, jobs};
use crate::mapping::registry::Plan;
use crate::metrics::Trouble;
use crate::store::Phases;

/// What the answer begins with: whether all is well, for those who look at nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Ok,
    /// Clients are served, though not all of them as usual.
    Degraded,
    /// Mapped keys are not served, or without mappings no key at all.
    Down,
}

// === impl Standing ===

impl Standing {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// Whether clients should be sent here, and what that was told from: a proxy is ready when it can serve anything
/// of what it is for. Without mappings that takes Redis. With mappings it takes either store, and that this proxy is
/// not fenced: with one store lost every proxy is as badly off, and to take them all out would help nobody.
pub(super) async fn readiness(view: &View) -> (bool, Value) {
    let engine = view.operator.engine();
    let redis = view.operator.redis_answers().await;
    if !engine.has_mappings() {
        return (redis, json!({ "ready": redis, "redis": redis }));
    }
    let (postgres, fenced) = (!engine.health().is_lost, engine.is_fenced());
    let ready = !fenced && (redis || postgres);
    (ready, json!({ "ready": ready, "redis": redis, "postgres": postgres, "fenced": fenced }))
}

pub(super) async fn health(view: &View) -> (Standing, Value) {
    let engine = view.operator.engine();
    let (ready, _) = readiness(view).await;
    let answers = view.operator.redis_answers().await;
    if !engine.has_mappings() {
        let standing = if ready { Standing::Ok } else { Standing::Down };
        let body = json!({ "status": standing.name(), "redis": { "answers": answers } });
        return (standing, body);
    }
    let (postgres, fleet, journal) = (engine.health(), engine.fleet(), engine.journal());
    let believed = engine.believes_redis();
    let aside = set_aside(view);
    let is_whole = answers && believed && !postgres.is_lost && !postgres.is_degraded;
    let standing = match ready {
        false => Standing::Down,
        true if is_whole && !fleet.is_apart && aside.is_empty() => Standing::Ok,
        true => Standing::Degraded,
    };
    let state = match (postgres.is_lost, postgres.is_degraded) {
        (true, _) => "lost",
        (false, true) => "catching_up",
        (false, false) => "up",
    };
    let body = json!({
        "status": standing.name(),
        "redis": { "answers": answers, "believed": believed },
        "postgres": { "state": state, "for_seconds": postgres.seconds },
        "degraded_mappings": engine.degraded_mappings(),
        "set_aside_mappings": aside,
        "fenced": fleet.is_fenced,
        "apart": fleet.is_apart,
        "dead_letters": journal.dead_letters,
    });
    (standing, body)
}

pub(super) async fn status(view: &Shared) -> Value {
    let (_, health) = health(view).await;
    let engine = view.operator.engine();
    let fleet = engine.has_mappings().then(|| {
        let fleet = engine.fleet();
        json!({
            "id": fleet.id,
            "proxies": fleet.proxies,
            "missing_in_redis": fleet.missing_in_redis,
            "missing_in_postgres": fleet.missing_in_postgres,
        })
    });
    let clients = (view.clients)();
    let phases = view.operator.phases().await;
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": view.started.elapsed().as_secs(),
        "clients": clients.connected,
        "health": health,
        "fleet": fleet,
        "journal": journal(view),
        "mappings": mappings(view, phases.as_ref()),
        "jobs": jobs::all(view),
        "troubles": view.troubles.last().iter().map(trouble).collect::<Vec<_>>(),
    })
}

/// As of the last look, at most about a second ago.
pub(super) fn journal(view: &View) -> Value {
    let journal = view.operator.engine().journal();
    json!({
        "entries": journal.entries,
        "changes": journal.changes,
        "lag_ms": journal.lag_ms,
        "flushed_changes": journal.flushed,
        "dead_letters": journal.dead_letters,
    })
}

fn mappings(view: &View, phases: Option<&Phases>) -> Vec<Value> {
    let engine = view.operator.engine();
    let (degraded, aside) = (engine.degraded_mappings(), set_aside(view));
    let mapping = |plan: &Plan| {
        let config = &plan.config;
        let mut served = engine.registry().all().iter();
        let served = served.find(|known| known.name == config.name);
        let strategy = served.map_or(config.strategy, |mapping| mapping.strategy());
        let counts = engine.metrics().mapping(plan.index);
        let (hits, misses) =
            (engine.metrics().hits(plan.index), counts.map_or(0, |c| c.misses.get()));
        json!({
            "name": config.name,
            "key": config.key,
            "kind": config.kind.name(),
            "table": config.table,
            "strategy": strategy.name(),
            "phase": phases.and_then(|phases| phases.get(&config.name)).map(|phase| phase.name()),
            "passes_through": served.is_none_or(|mapping| !mapping.gate.has_rows()),
            "degraded": degraded.contains(&config.name),
            "set_aside": aside.contains(&config.name),
            "hits": hits,
            "misses": misses,
        })
    };
    view.plans.iter().map(mapping).collect()
}

fn trouble(trouble: &Trouble) -> Value {
    let at = trouble.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let level = if trouble.is_error { "error" } else { "warning" };
    json!({
        "at": at,
        "level": level,
        "text": trouble.text,
        "mapping": trouble.mapping,
        "count": trouble.count,
    })
}

/// Mappings whose tables do not fit them any more.
fn set_aside(view: &View) -> Vec<String> {
    let names = view.plans.iter().map(|plan| plan.config.name.clone());
    names.filter(|name| view.operator.is_set_aside(name)).collect()
}
