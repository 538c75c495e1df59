//! What the command line tells of strategies, and changes.

use std::time::Duration;

use super::stores::{Stores, connected, named, not_switched};
use super::{AppError, Setup, worker_runtime};
use crate::config::Strategy;
use crate::engine::switchboard::Entry;
use crate::engine::switcher::{NotSwitched, Switched};
use crate::mapping::registry::Plan;

/// By which strategy mappings go, one a line.
///
/// # Errors
/// When there is no such mapping, or Postgres does not tell.
pub fn get(setup: &Setup, mapping: Option<&str>) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let plans = named(setup, mapping)?;
        let mut entries = Vec::new();
        if setup.needs_postgres() {
            let mut session = connected(setup).await?;
            entries = session.mapping_entries().await?;
            session.close().await;
        }
        let line = |plan: &&Plan| {
            let name = &plan.config.name;
            let entry = entries.iter().find(|(mapping, _)| mapping == name);
            let entry = entry.and_then(|(_, text)| Entry::parse(text)).unwrap_or_default();
            match &entry.target {
                _ if entry.is_unset() => format!("{name}: {}", plan.config.strategy.name()),
                None => format!("{name}: {}, by order", entry.strategy),
                Some(target) => format!("{name}: {}, being changed to {target}", entry.strategy),
            }
        };
        Ok(plans.iter().map(line).collect())
    })
}

/// Changes the strategy of a mapping, or of all.
///
/// # Errors
/// Why it is as it was. Of several mappings those before the one that is named are changed.
pub fn set(
    setup: &Setup,
    strategy: &str,
    mapping: Option<&str>,
    limit: Duration,
    discards_rows: bool,
) -> Result<Vec<String>, AppError> {
    let target = Strategy::parse(strategy).map_err(AppError::NoStrategy)?;
    worker_runtime()?.block_on(async {
        let plans = named(setup, mapping)?;
        let mut stores = Stores::open(setup).await?;
        let mut lines = Vec::new();
        for plan in plans {
            let name = &plan.config.name;
            let failed = |error| not_switched(name, error);
            let Some(bound) = stores.bound(plan) else {
                if mapping.is_none() {
                    continue;
                }
                let phase = stores.phases.get(name);
                let waits = phase.is_some_and(|phase| phase.passes_through());
                return Err(failed(match waits {
                    true => NotSwitched::Preparation,
                    false => NotSwitched::NoTable,
                }));
            };
            if !setup.needs_postgres() {
                return Err(failed(NotSwitched::WithoutPostgres));
            }
            if bound.strategy() == Strategy::RedisOnly && mapping.is_none() {
                continue;
            }
            let mut switcher = stores.switcher(limit, discards_rows);
            let done = switcher.switch(&bound, plan.config.strategy, target).await;
            lines.push(match done.map_err(failed)? {
                Switched::Already => format!("{name}: is {strategy} already"),
                Switched::Done { waited } => {
                    format!("{name}: {strategy}; clients waited for {} ms", waited.as_millis())
                }
            });
        }
        stores.close().await;
        Ok(lines)
    })
}
