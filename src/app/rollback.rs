//! Going back to Redis alone: what the command line does while no respgres runs.

use std::time::{Duration, Instant};

use super::{AppError, Setup, bind, engine_settings, registry, worker_runtime};
use crate::config::Strategy;
use crate::engine::rollback::RolledBack;
use crate::engine::switcher::{NotSwitched, Switcher};
use crate::mapping::registry::Plan;
use crate::store::Session;
use crate::upstream::control::Control;

/// How often progress is told.
const OFTEN: Duration = Duration::from_secs(1);

/// Brings one mapping back to Redis alone, or all; what was done, line by line. `tell` hears of the progress.
///
/// # Errors
/// Why a mapping is as it was. Of several those before the one that is named are back.
pub fn roll_back(
    setup: &Setup,
    mapping: Option<&str>,
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let chosen = |plan: &&Plan| mapping.is_none_or(|name| plan.config.name == name);
        let plans: Vec<&Plan> = setup.plans.iter().filter(chosen).collect();
        if let (Some(name), true) = (mapping, plans.is_empty()) {
            let names: Vec<&str> = setup.plans.iter().map(|plan| &*plan.config.name).collect();
            return Err(AppError::NoMapping(name.to_owned(), names.join(", ")));
        }
        if !setup.needs_postgres() {
            return Ok(plans.iter().map(|plan| already(&plan.config.name)).collect());
        }
        let settings = engine_settings(setup)?;
        let mut session = Session::connect(&setup.config.postgres).await?;
        session.migrate().await?;
        let entries = session.mapping_entries().await?;
        let phases = session.phases().await?;
        let mappings = bind(&mut session, &setup.plans, &phases, &entries).await?;
        let registry = registry(mappings.clone(), &setup.plans);
        let mut control = Control::new(settings.control);
        let mut lines = Vec::new();
        for plan in plans {
            let name = &plan.config.name;
            // Those that are not here pass through.
            let Some(bound) = mappings.iter().find(|mapping| mapping.index == plan.index) else {
                lines.push(already(name));
                continue;
            };
            if bound.strategy() == Strategy::RedisOnly {
                lines.push(already(name));
                continue;
            }
            let mut switcher = Switcher {
                session: &mut session,
                control: &mut control,
                registry: &registry,
                limit: Duration::ZERO,
                discards_rows: false,
            };
            let mut told_at = Instant::now();
            let mut progress = |put: usize, compared: usize| {
                if told_at.elapsed() >= OFTEN {
                    told_at = Instant::now();
                    tell(&format!("{name}: {put} keys put into Redis, {compared} compared"));
                }
            };
            let done = switcher.roll_back(bound, plan.config.strategy, &mut progress).await;
            let failed = |error| match error {
                NotSwitched::InDoubt(_) => AppError::InDoubt(name.clone(), Box::new(error)),
                error => AppError::NotSwitched(name.clone(), Box::new(error)),
            };
            lines.push(match done.map_err(failed)? {
                RolledBack::Already => already(name),
                RolledBack::Done { keys, took } => format!(
                    "{name}: redis_only; {keys} keys put into Redis and compared with their rows, byte for byte, \
                     in {} ms",
                    took.as_millis()
                ),
            });
        }
        session.close().await;
        Ok(lines)
    })
}

fn already(name: &str) -> String {
    format!("{name}: lives in Redis alone already")
}
