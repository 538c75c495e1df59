//! Going back to Redis alone: what the command line does and tells, whether or not respgres runs.

use std::time::{Duration, Instant};

use super::stores::{Stores, named, not_switched};
use super::{AppError, Setup, worker_runtime};
use crate::config::Strategy;
use crate::engine::rollback::{RolledBack, Steps};

/// How often progress is told.
const OFTEN: Duration = Duration::from_secs(1);

/// Brings one mapping back to Redis alone, or all; what was done, line by line. `tell` hears of the progress. `limit`: how long
/// clients may wait.
///
/// # Errors
/// Why a mapping is as it was. Of several those before the one that is named are back.
pub fn roll_back(
    setup: &Setup,
    mapping: Option<&str>,
    (limit, rate): (Duration, u32),
    tell: &mut dyn FnMut(&str),
) -> Result<Vec<String>, AppError> {
    worker_runtime()?.block_on(async {
        let plans = named(setup, mapping)?;
        if !setup.needs_postgres() {
            return Ok(plans.iter().map(|plan| already(&plan.config.name)).collect());
        }
        let mut stores = Stores::open(setup).await?;
        let mut lines = Vec::new();
        for plan in plans {
            let name = &plan.config.name;
            // Those that are not here pass through.
            let Some(bound) = stores.bound(plan) else {
                lines.push(already(name));
                continue;
            };
            if bound.strategy() == Strategy::RedisOnly {
                lines.push(already(name));
                continue;
            }
            let mut switcher = stores.switcher(limit, false);
            let mut teller = Teller { name, told_at: Instant::now(), told: Steps::default() };
            let done = switcher
                .roll_back(&bound, plan.config.strategy, rate, &mut |steps| {
                    teller.tell(steps, tell)
                })
                .await;
            match done.map_err(|error| not_switched(name, error))? {
                RolledBack::Already => lines.push(already(name)),
                RolledBack::Done { steps: Steps { put, compared, again }, waited } => {
                    let step = |(keys, took): (usize, Duration), what: &str| {
                        format!("{name}: {keys} keys {what}, in {:.1} s", took.as_secs_f64())
                    };
                    lines.push(step(put, "put into Redis"));
                    lines.push(step(compared, "compared with their rows, byte for byte"));
                    lines.push(step(again, "put again that were changed meanwhile"));
                    let waited = waited.as_millis();
                    lines.push(format!("{name}: redis_only; clients waited for {waited} ms"));
                }
            }
        }
        stores.close().await;
        Ok(lines)
    })
}

/// Tells now and then how far it is.
struct Teller<'a> {
    name: &'a str,
    told_at: Instant,
    told: Steps,
}

// === impl Teller ===

impl Teller<'_> {
    fn tell(&mut self, steps: &Steps, tell: &mut dyn FnMut(&str)) {
        if self.told_at.elapsed() < OFTEN || *steps == self.told {
            return;
        }
        (self.told_at, self.told) = (Instant::now(), *steps);
        let Steps { put, compared, again } = steps;
        tell(&format!(
            "{}: {} keys put into Redis, {} compared, {} put again",
            self.name, put.0, compared.0, again.0
        ));
    }
}

fn already(name: &str) -> String {
    format!("{name}: lives in Redis alone already")
}
