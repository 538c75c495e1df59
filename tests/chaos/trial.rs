//! One seed: clients at work, faults by schedule, then the verdict.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use sqlx::{Executor, Row};

use crate::history::{Action, Operation, Span};
use crate::keys::Names;
use crate::quiet;
use crate::schedule::{self, Event};
use crate::strategy::{self, Keeps};
use crate::workload::{Manners, Record, Scene, Size};
use crate::world::{Log, World};

/// Gentle enough for two cores: what a fault does is to be seen, not what a machine does that is overloaded.
const CLIENTS: u32 = 12;
const PAUSE: Duration = Duration::from_millis(8);
const PATIENCE: Duration = Duration::from_secs(4);

/// Keys that are counted and not, of each form and strategy; and so many times more that are not hot, of
/// which what is old can be seen before it is written again.
const COLD: u32 = 7;

/// Clocks of two processes on one machine differ by less.
const CLOCKS_NS: u64 = 5_000_000;

/// What one seed came to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) faults: usize,
    /// Operations whose history was checked.
    pub(crate) operations: usize,
    /// Reads that were left out: see `may_be_old`.
    pub(crate) left_out: usize,
    pub(crate) unanswered: u64,
    /// From when the last fault was mended until every key was served again, by each proxy.
    pub(crate) recovery: Duration,
    /// What clients were told instead of a result, and how often.
    pub(crate) errors: BTreeMap<String, u64>,
    pub(crate) violations: Vec<String>,
}

/// Tells what to look at when a trial fails.
struct Told {
    seed: u64,
    length: Duration,
}

/// Brings the faults of `seed` and checks everything that is promised.
pub(crate) async fn run(seed: u64, length: Duration) -> Tally {
    let told = Told { seed, length };
    let events = schedule::draw(seed, length);
    let world =
        World::start_in(if seed.is_multiple_of(2) { "migrated" } else { "dual_write" }).await;
    let names = strategy::names();
    let hot = 6 * u32::try_from(strategy::STRATEGIES.len()).expect("a few");
    let keys = hot + COLD * hot;
    let size = Size { clients: CLIENTS, seconds: length.as_secs(), keys };
    let manners = Manners { pause: PAUSE, patience: PATIENCE, hot: Some(hot) };
    let scene = Scene::new(world.addresses(), size, names.clone(), manners);
    let epoch = SystemTime::now() - scene.elapsed();
    let (mut violations, mut recovery) = (Vec::new(), Duration::ZERO);
    let mut record = scene
        .play(async |scene| {
            join_all(events.iter().map(async |event| {
                tokio::time::sleep(event.at.saturating_sub(scene.elapsed())).await;
                world.suffer(event).await;
            }))
            .await;
            let mended = scene.elapsed();
            violations = quiet::recovered(&world, &names).await;
            recovery = scene.elapsed() - mended;
        })
        .await;

    violations.extend(quiet::check(&world, &names, keys, quiet::RECOVERY).await);
    let waited = waited(&world, epoch).await;
    let left_out = drop_reads(&mut record, |key, span| may_be_old(&waited, &names.key(key), span));
    if events.iter().any(|event| event.fault.costs_data_of_redis()) {
        keep_keys(&mut record, |key| strategy::of(&names, key).keeps == Keeps::Always);
    }
    violations.extend(record.check());
    let logs = world.logs().await;
    violations.extend(check_logs(&logs));
    for (side, proxy) in world.proxies.iter().enumerate() {
        if proxy.lock().await.has_ended() {
            violations.push(format!("proxy {side} has ended"));
        }
    }
    if !violations.is_empty() {
        let place = write_down(&told, &events, &record, &names, keys, &logs, &violations);
        violations.push(format!(
            "{told}; schedule, logs and what was done to these keys are in {}",
            place.display()
        ));
    }
    let errors = record.errors.clone().into_iter().collect();
    let (operations, unanswered) = (operations(&record), record.unanswered);
    Tally { faults: events.len(), operations, left_out, unanswered, recovery, errors, violations }
}

// --- reads that may be old ---

/// When a key was in the outbox, since the start of the run.
pub(crate) type Waited = HashMap<String, Vec<Span>>;

/// A proxy that reaches Redis may show what a key held before another one, which does not reach it, wrote
/// past it: until its copy has gone, which is when it leaves the outbox. README says so.
fn may_be_old(waited: &Waited, name: &str, span: Span) -> bool {
    waited.get(name).is_some_and(|times| {
        times.iter().any(|time| span.start_ns <= time.end_ns && span.end_ns >= time.start_ns)
    })
}

pub(crate) async fn waited(world: &World, epoch: SystemTime) -> Waited {
    let query = "
        select convert_from(key, 'UTF8'), (extract(epoch from min(at)) * 1e6)::bigint,
            (extract(epoch from max(at) filter (where is_over)) * 1e6)::bigint
        from chaos.waited group by id, key";
    let mut connection = world.sql().await.expect("Postgres has been mended");
    let rows = connection.fetch_all(query).await.expect("the table is ours");
    let epoch_ns = epoch.duration_since(UNIX_EPOCH).expect("it is later than 1970").as_nanos();
    let since = |micros: i64| {
        let ns = u128::try_from(micros).expect("it is later than 1970") * 1000;
        u64::try_from(ns.saturating_sub(epoch_ns)).expect("no run takes 500 years")
    };
    let mut waited = Waited::new();
    for row in rows {
        let start_ns = since(row.get(1)).saturating_sub(CLOCKS_NS);
        let end_ns = row.get::<Option<i64>, _>(2).map_or(u64::MAX, |end| since(end) + CLOCKS_NS);
        waited.entry(row.get(0)).or_default().push(Span { start_ns, end_ns });
    }
    waited
}

fn drop_reads(record: &mut Record, may_be_old: impl Fn(u32, Span) -> bool) -> usize {
    let mut dropped = 0;
    let histories = record.histories.iter_mut().map(|(key, history)| (*key, history));
    let pairs = record.pairs.iter_mut().map(|((key, _), history)| (*key, history));
    for (key, history) in histories.chain(pairs) {
        let before = history.len();
        history.retain(|operation| {
            let is_read = matches!(operation.action, Action::Read(_) | Action::Count(_));
            !is_read || !may_be_old(key, operation.span)
        });
        dropped += before - history.len();
    }
    dropped
}

fn keep_keys(record: &mut Record, is_promised: impl Fn(u32) -> bool) {
    record.histories.retain(|key, _| is_promised(*key));
    record.pairs.retain(|(key, _), _| is_promised(*key));
    record.cleared.retain(|key, _| is_promised(*key));
}

fn operations(record: &Record) -> usize {
    let Record { histories, pairs, cleared, .. } = record;
    let all = histories.values().chain(pairs.values()).chain(cleared.values());
    all.map(Vec::len).sum()
}

// --- what is left to look at ---

fn check_logs(logs: &[Log]) -> Vec<String> {
    let is_bad = |line: &str| line.contains("panicked") || line.contains(" ERROR ");
    let of_proxies = logs.iter().filter(|log| log.name.starts_with("proxy"));
    // One that gives up at its start says why as an error, not as a line of the log.
    of_proxies
        .flat_map(|log| log.lines.iter().map(move |line| (log, line)))
        .filter(|(_, line)| is_bad(line))
        .map(|(log, line)| format!("{}: {line}", log.name))
        .collect()
}

/// Everything about a run that broke a promise; gives the directory.
fn write_down(
    told: &Told,
    events: &[Event],
    record: &Record,
    names: &Names,
    keys: u32,
    logs: &[Log],
    violations: &[String],
) -> PathBuf {
    let place = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("chaos-{}", told.seed));
    let _ = std::fs::remove_dir_all(&place);
    std::fs::create_dir_all(&place).expect("target is ours");
    let write = |name: &str, lines: Vec<String>| {
        std::fs::write(place.join(name), lines.join("\n") + "\n").expect("target is ours");
    };
    write("schedule", events.iter().map(Event::to_string).collect());
    write("violations", violations.to_vec());
    write("summary", vec![record.summary()]);
    for log in logs {
        write(&format!("{}.log", log.name), log.lines.clone());
    }
    for key in 0..keys {
        let name = names.key(key);
        let is_of_key = |violation: &String| {
            violation.strip_prefix(&name).is_some_and(|rest| rest.starts_with([' ', ':']))
        };
        if violations.iter().any(is_of_key) {
            write(&name.replace(':', "-"), history(record, key));
        }
    }
    place
}

/// What was done to a key, in the order of the beginnings.
fn history(record: &Record, key: u32) -> Vec<String> {
    let pairs = record.pairs.iter().filter(|((of, _), _)| *of == key);
    let pairs = pairs.flat_map(|((_, version), history)| {
        history.iter().map(move |operation| (format!("{}: ", version.text()), operation))
    });
    let whole = [record.histories.get(&key), record.cleared.get(&key)];
    let whole = whole.into_iter().flatten().flatten();
    let mut all: Vec<(String, &Operation)> =
        whole.map(|operation| (String::new(), operation)).chain(pairs).collect();
    all.sort_by_key(|(_, operation)| operation.span.start_ns);
    all.into_iter().map(|(of, operation)| format!("{of}{operation}")).collect()
}

// === impl Told ===

impl std::fmt::Display for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seconds = self.length.as_secs();
        write!(
            f,
            "once more: CHAOS_SEED={} CHAOS_SEED_SECONDS={seconds} CHAOS_SECONDS=1",
            self.seed
        )?;
        write!(f, " make chaos")
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{self}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Version;

    fn span(start_ns: u64, end_ns: u64) -> Span {
        Span { start_ns, end_ns }
    }

    #[test]
    fn only_reads_while_the_key_was_in_the_outbox_are_left_out() {
        let names = strategy::names();
        let waited = Waited::from([(names.key(0), vec![span(100, 200), span(500, 600)])]);
        let version = Version { client: 0, serial: 0 };
        let mut record = Record::default();
        let at = [(10, 99), (10, 100), (150, 160), (200, 300), (201, 499), (90, 700)];
        for key in 0..2 {
            for action in [Action::Read(None), Action::Write(version), Action::Increment(Some(1))] {
                let operations =
                    at.map(|(start_ns, end_ns)| Operation { span: span(start_ns, end_ns), action });
                record.histories.entry(key).or_default().extend(operations);
            }
        }
        let old = |key: u32, span| may_be_old(&waited, &names.key(key), span);
        assert_eq!(drop_reads(&mut record, old), 4);
        assert_eq!((record.histories[&0].len(), record.histories[&1].len()), (14, 18));
        assert_eq!(operations(&record), 32);
        keep_keys(&mut record, |key| key == 1);
        assert_eq!(operations(&record), 18);
    }

    #[test]
    fn what_a_proxy_logs_when_it_panics_is_found() {
        let log = |name: &str, line: &str| Log { name: name.into(), lines: vec![line.into()] };
        let logs = [
            log("proxy-0", "thread 'main' panicked at src/main.rs:1:1"),
            log("proxy-1", "2026-01-01T00:00:00Z ERROR respgres::app: something"),
            log("proxy-1", "2026-01-01T00:00:00Z  WARN respgres::app: upstream lost"),
            log("postgres", " ERROR : something"),
        ];
        assert_eq!(check_logs(&logs).len(), 2);
    }
}
