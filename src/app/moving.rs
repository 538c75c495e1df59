//! Jobs of the command line that move data: started, watched on a terminal or in lines, ended by Ctrl-C.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::stores::connected;
use super::{AppError, Setup, bind, engine_settings, phase, registry, strategy_of, worker_runtime};
use crate::config::Strategy;
use crate::engine::moving::{
    Backfill, Finding, Ground, Job, MovingError, Progress, Repair, Running, Speed, Verify, Warm,
    start,
};
use crate::mapping::{Mapping, Phase};
use crate::store::Phases;

/// How often a terminal is told how far it is, and how often somebody else.
const TICK: Duration = Duration::from_millis(200);
const BETWEEN_LINES: Duration = Duration::from_secs(5);

/// What a job has come to.
#[derive(Debug)]
pub struct Report {
    pub lines: Vec<String>,
    /// Nothing is left to be seen to.
    pub is_clean: bool,
}

/// What verify is to do.
#[derive(Clone, Copy, Debug)]
pub struct Comparison {
    pub sample: Option<u64>,
    pub is_complete: bool,
    pub repair: Option<Repair>,
    pub json: bool,
}

/// Brings all keys of one mapping, or of all that have not migrated, to Postgres.
///
/// # Errors
/// When it cannot begin, or not go on.
pub fn backfill(setup: &Setup, mapping: Option<&str>, speed: Speed) -> Result<Report, AppError> {
    worker_runtime()?.block_on(async {
        let (ground, names, phases) = ground(setup, mapping).await?;
        let mut report = Report { lines: Vec::new(), is_clean: true };
        let has_migrated =
            |mapping: &Arc<Mapping>| phases.get(&mapping.name) == Some(&Phase::Migrated);
        let (migrated, mappings): (Vec<_>, Vec<_>) =
            named(&ground, &names).into_iter().partition(has_migrated);
        report.lines.extend(migrated.iter().map(|mapping| {
            format!("{}: has migrated: Redis has nothing but copies of it", mapping.name)
        }));
        if mappings.is_empty() {
            return Ok(report);
        }
        let mut running = start(Job::Backfill(Backfill { mappings, speed }), ground);
        let ended = watch(&mut running, "imported", "refused").await?;
        let progress = running.progress();
        let Progress { done, written, findings, .. } = progress;
        let pace = pace_of(&progress);
        report
            .lines
            .push(format!("{done} keys seen, {written} imported, {findings} refused, {pace}"));
        report.lines.extend(running.findings().iter().flat_map(lines_of));
        report.is_clean = findings == 0;
        ended_well(ended, report)
    })
}

/// Fills Redis with what Postgres has and it has not.
///
/// # Errors
/// When it cannot begin, or not go on.
pub fn warm(setup: &Setup, mapping: Option<&str>, speed: Speed) -> Result<Report, AppError> {
    worker_runtime()?.block_on(async {
        let (ground, names, _) = ground(setup, mapping).await?;
        let mut mappings = named(&ground, &names);
        mappings.retain(|mapping| mapping.strategy() != Strategy::PostgresOnly);
        let mut running = start(Job::Warm(Warm { mappings, speed }), ground);
        let ended = watch(&mut running, "filled", "found").await?;
        let progress = running.progress();
        let pace = pace_of(&progress);
        let Progress { done, written, .. } = progress;
        let lines = vec![format!("{done} keys seen, {written} filled, {pace}")];
        ended_well(ended, Report { lines, is_clean: true })
    })
}

/// Compares both sides, and repairs one of them if that is wanted.
///
/// # Errors
/// When it cannot begin, or not go on.
pub fn verify(
    setup: &Setup,
    mapping: Option<&str>,
    speed: Speed,
    comparison: Comparison,
) -> Result<Report, AppError> {
    let Comparison { sample, is_complete, repair, json } = comparison;
    worker_runtime()?.block_on(async {
        let (ground, names, _) = ground(setup, mapping).await?;
        let mappings = named(&ground, &names);
        let verify = Verify { mappings, speed, sample, is_complete, repair };
        let mut running = start(Job::Verify(verify), ground);
        let ended = watch(&mut running, "repaired", "different").await?;
        let (progress, found) = (running.progress(), running.findings());
        let remarks = running.remarks();
        let Progress { done, written, findings, .. } = progress;
        let is_clean = findings == written && ended.is_ok();
        if json && !matches!(&ended, Err(error) if !matches!(error, MovingError::Cancelled)) {
            let as_json = |found: &[Finding]| -> Vec<_> {
                let of_one = |Finding { mapping, what, keys, examples }: &Finding| {
                    serde_json::json!({"mapping": mapping, "what": what, "keys": keys, "examples": examples})
                };
                found.iter().map(of_one).collect()
            };
            let all = serde_json::json!({
                "compared": done, "differences": findings, "repaired": written, "ended": ended.is_ok(),
                "seconds": progress.elapsed.as_secs_f64(), "found": as_json(&found),
                "remarks": as_json(&remarks),
            });
            return Ok(Report { lines: vec![format!("{all:#}")], is_clean });
        }
        let pace = pace_of(&progress);
        let mut lines =
            vec![format!("{done} keys compared, {findings} different, {written} repaired, {pace}")];
        lines.extend(found.iter().chain(&remarks).flat_map(lines_of));
        ended_well(ended, Report { lines, is_clean })
    })
}

/// What jobs run on, the mappings that are meant, none of which passes through, and the phases of all.
async fn ground<'s>(
    setup: &'s Setup,
    mapping: Option<&str>,
) -> Result<(Arc<Ground>, Vec<&'s str>, Phases), AppError> {
    let mut session = connected(setup).await?;
    let phases = session.phases().await?;
    let entries = session.mapping_entries().await?;
    let mut names = phase::chosen(setup, &phases, mapping)?;
    if mapping.is_none() {
        // Of several, those that operators have sent back to Redis are none that move.
        let is_redis_only = |name: &str| {
            let mut plans = setup.plans.iter().filter(|plan| plan.config.name == name);
            plans.any(|plan| strategy_of(plan, &entries) == Strategy::RedisOnly)
        };
        names.retain(|name| !is_redis_only(name));
    }
    let mappings = bind(&mut session, &setup.plans, &phases, &entries).await?;
    session.close().await;
    let registry = registry(mappings, &setup.plans);
    for name in &names {
        let passes_through = phases.get(*name).is_none_or(|phase| phase.passes_through());
        if passes_through || !registry.mappings().any(|known| known.name == *name) {
            return Err(AppError::NotMoving((*name).to_owned()));
        }
    }
    let ground = Ground::open(&engine_settings(setup)?, registry).await?;
    Ok((Arc::new(ground), names, phases))
}

fn named(ground: &Ground, names: &[&str]) -> Vec<Arc<Mapping>> {
    let mappings = ground.mappings();
    mappings.filter(|mapping| names.contains(&&mapping.name[..])).cloned().collect()
}

/// A job that was cancelled has done what it says; begun again it goes on.
fn ended_well(ended: Result<(), MovingError>, mut report: Report) -> Result<Report, AppError> {
    match ended {
        Ok(()) => Ok(report),
        Err(MovingError::Cancelled) => {
            report.lines.push("it was ended before its end; begun again, it goes on".to_owned());
            report.is_clean = false;
            Ok(report)
        }
        Err(error) => Err(error.into()),
    }
}

fn lines_of(finding: &Finding) -> Vec<String> {
    let Finding { mapping, what, keys, examples } = finding;
    let more = if *keys > examples.len() as u64 { ", …" } else { "" };
    vec![format!("{mapping}: {keys} keys: {what}"), format!("  {}{more}", examples.join(", "))]
}

fn pace_of(progress: &Progress) -> String {
    format!("{:.0} keys/s in {:.1} s", progress.rate(), progress.elapsed.as_secs_f64())
}

// === watching ===

/// Tells how far a job is until it has ended. Ctrl-C, or SIGTERM, has it end what is under way; once more: at once.
async fn watch(
    running: &mut Running,
    verb: &'static str,
    finding: &'static str,
) -> Result<Result<(), MovingError>, AppError> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut teller = Teller::new(verb, finding);
    let mut is_cancelled = false;
    let ended = loop {
        let progress = running.progress();
        let stop = async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        };
        tokio::select! {
            ended = running.ended() => break ended,
            () = stop => {
                if is_cancelled {
                    break Err(MovingError::Cancelled);
                }
                is_cancelled = true;
                running.cancel();
            }
            () = sleep(TICK) => teller.tell(&progress),
        }
    };
    teller.clear();
    Ok(ended)
}

/// The bar on a terminal, lines elsewhere.
struct Teller {
    verb: &'static str,
    finding: &'static str,
    bar: Option<ProgressBar>,
    told: Instant,
}

// === impl Teller ===

impl Teller {
    fn new(verb: &'static str, finding: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {msg}");
            let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(0).with_style(style)
        });
        Self { verb, finding, bar, told: Instant::now() }
    }

    fn tell(&mut self, progress: &Progress) {
        let Progress { walked, expected, done, written, findings, .. } = progress;
        let left = progress.left().map_or("?".to_owned(), |left| left.as_secs().to_string());
        let rate = progress.rate();
        let (verb, finding) = (self.verb, self.finding);
        let text = format!(
            "{done} seen, {written} {verb}, {findings} {finding}, {rate:.0} keys/s, {left} s left"
        );
        if let Some(bar) = &self.bar {
            // There may be more by now than there were.
            bar.set_length((*expected).max(*walked));
            bar.set_position(*walked);
            bar.set_message(text);
        } else if self.told.elapsed() >= BETWEEN_LINES {
            self.told = Instant::now();
            // Somebody who has gone away is no reason to stop.
            let _ =
                writeln!(std::io::stderr(), "{walked} of about {expected} keys of Redis: {text}");
        }
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
