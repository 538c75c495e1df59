//! The values of all metrics at one moment.

use super::View;
use crate::command::COMMANDS;
use crate::config::Strategy;
use crate::mapping::registry::Plan;
use crate::metrics::{Error, Role, Samples, Side};

/// What there is to tell now. Of the stores only the outbox is asked for, and for a second at most.
pub(super) async fn samples(view: &View) -> Samples {
    let mut samples = Samples::default();
    proxy(view, &mut samples);
    mappings(view, &mut samples);
    on_the_way(view, &mut samples).await;
    stores(view, &mut samples);
    samples
}

fn proxy(view: &View, samples: &mut Samples) {
    let metrics = view.operator.engine().metrics();
    let clients = (view.clients)();
    samples.add("respgres_up", &[env!("CARGO_PKG_VERSION")], 1_u64);
    samples.add("respgres_uptime_seconds", &[], view.started.elapsed().as_secs_f64());
    samples.add("respgres_clients", &[], clients.connected);
    samples.add("respgres_client_output_bytes", &[], clients.output_bytes);
    samples.add("respgres_connections_total", &[], metrics.connections());
    for (row, way, count) in metrics.requests() {
        let command = COMMANDS.get(row).map_or("unknown", |command| command.name);
        samples.add("respgres_commands_total", &[command, way.name()], count);
    }
    for error in Error::ALL {
        samples.add("respgres_errors_total", &[error.name()], metrics.errors(error));
    }
}

fn mappings(view: &View, samples: &mut Samples) {
    let engine = view.operator.engine();
    let metrics = engine.metrics();
    let degraded = engine.degraded_mappings();
    let has_rows = |plan: &&Plan| {
        let mut served = engine.registry().mappings();
        plan.config.strategy != Strategy::RedisOnly || served.any(|known| known.index == plan.index)
    };
    for plan in view.plans.iter().filter(has_rows) {
        let Some(counts) = metrics.mapping(plan.index) else { continue };
        let (name, hits) = (plan.config.name.as_str(), metrics.hits(plan.index));
        for side in Side::ALL {
            for (outcome, is_error) in [("ok", false), ("error", true)] {
                let is_hit = side == Side::Read && !is_error;
                let count = counts.operations(side, is_error) + if is_hit { hits } else { 0 };
                let labels = [name, side.name(), outcome];
                samples.add("respgres_mapped_operations_total", &labels, count);
            }
            let seconds = counts.seconds(side).snapshot();
            samples.add("respgres_mapped_seconds", &[name, side.name()], seconds);
            let seconds = metrics.loop_seconds(plan.index, side);
            samples.add("respgres_mapped_loop_seconds", &[name, side.name()], seconds);
        }
        let results = [
            ("hit", hits),
            ("miss", counts.misses.get()),
            ("fill", counts.fills.get()),
            ("refused", counts.refused_fills.get()),
        ];
        for (result, count) in results {
            samples.add("respgres_cache_total", &[name, result], count);
        }
        let results = [
            ("same", &counts.same_checks),
            ("different", &counts.different_checks),
            ("skipped", &counts.skipped_checks),
        ];
        for (result, count) in results {
            samples.add("respgres_hit_checks_total", &[name, result], count.get());
        }
        let is_degraded = degraded.iter().any(|degraded| degraded == name);
        samples.add("respgres_degraded", &[name], is_degraded);
    }
    samples.add("respgres_loans_total", &[], metrics.loans.get());
    samples.add("respgres_batch_operations", &[], metrics.batches.snapshot());
    samples.add("respgres_slow_queries_total", &[], metrics.slow_queries.get());
}

#[allow(clippy::cast_precision_loss, reason = "nothing lags for 2^52 ms")]
async fn on_the_way(view: &View, samples: &mut Samples) {
    let journal = view.operator.engine().journal();
    samples.add("respgres_journal_entries", &[], journal.entries);
    samples.add("respgres_journal_changes", &[], journal.changes);
    samples.add("respgres_journal_lag_seconds", &[], journal.lag_ms as f64 / 1000.0);
    samples.add("respgres_journal_flushed_changes_total", &[], journal.flushed);
    samples.add("respgres_dead_letters", &[], journal.dead_letters);
    if let Some(outbox) = view.operator.outbox().await {
        samples.add("respgres_outbox_rows", &[], outbox.rows);
        samples.add("respgres_outbox_lag_seconds", &[], outbox.lag_seconds);
    }
}

fn stores(view: &View, samples: &mut Samples) {
    let engine = view.operator.engine();
    if !engine.has_mappings() {
        return;
    }
    for role in Role::ALL {
        let count = engine.metrics().sessions.count(role) as u64;
        samples.add("respgres_postgres_connections", &[role.name()], count);
    }
    let fleet = engine.fleet();
    samples.add("respgres_postgres_up", &[], !engine.health().is_lost);
    samples.add("respgres_redis_believed", &[], engine.believes_redis());
    samples.add("respgres_proxies", &[], fleet.proxies);
    samples.add("respgres_proxies_missing", &["redis"], fleet.missing_in_redis);
    samples.add("respgres_proxies_missing", &["postgres"], fleet.missing_in_postgres);
    samples.add("respgres_fenced", &[], fleet.is_fenced);
    samples.add("respgres_apart", &[], fleet.is_apart);
}
