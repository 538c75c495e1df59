//! Mapped hashes and sets under load: respgres' combined writes beside one sqlx statement a write.
//!
//! `cargo bench --bench mapped -- --help`. It has a Redis and a Postgres of its own; Postgres runs
//! with fsync and synchronous_commit on, as in production. Writes of all ways go to tables of the same
//! shape with 100,000 rows, in interleaved rounds. Reads that the cache answers are compared with reads
//! of the same values under keys that no mapping matches, reads that it cannot answer with one
//! SELECT each. The goals stand in `goal`.
//!
//! At the end the hot counters in Postgres must hold every acknowledged increment, so that nobody
//! measures a proxy that wrote nothing. All raw figures go to `target/tmp/mapped.json`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod behind;
mod cache;
mod drive;
mod flusher;
mod goal;
mod house;
mod relay;
mod report;
#[path = "../rig/mod.rs"]
mod rig;
mod set;
mod table;
mod tool;
mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use sqlx::{Executor, PgPool};

use house::House;
use rig::{Failure, interrupted};
use workload::{Measurement, Operation, Way, Workload};

/// Measures mapped writes and misses against one statement each, and hits against pass-through.
#[derive(Parser)]
struct Options {
    /// Rounds; each measures all ways of every workload once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Two rounds of a fifth of a second a run, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this, such as `hset` or `c200`.
    #[arg(long)]
    only: Option<String>,
    /// What is written behind, and how fast the flusher is; the page is one of its own.
    #[arg(long)]
    behind: bool,
    /// Seconds of one run, after 0.3 that do not count.
    #[arg(long, default_value_t = 0.8)]
    seconds: f64,
    /// The respgres to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_respgres"))]
    binary: PathBuf,
    /// Seconds after which no further run is started; the table then shows what there is.
    #[arg(long, default_value_t = 700)]
    limit: u64,
    /// Write the page here.
    #[arg(long, value_name = "FILE.md")]
    write: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if !options.bench {
        println!("mapped: run it with `cargo bench --bench mapped`");
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            result = measure(&options) => result,
            error = interrupted() => Err(error),
        }
    })
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let (rounds, seconds) =
        if options.quick { (2, 0.2) } else { (options.rounds, options.seconds) };
    let wanted = options.only.as_deref().unwrap_or_default();
    let is_wanted = |workload: &Workload| {
        let is_behind = workload.operation == Operation::SetBehind;
        workload.name().contains(wanted) && (is_behind || !options.behind)
    };
    let workloads: Vec<Workload> = Workload::all().into_iter().filter(is_wanted).collect();
    if workloads.is_empty() {
        return Err(format!("no workload's name contains {wanted:?}").into());
    }
    let house = House::start(&options.binary).await?;
    let durability = durability(house.pool()).await?;

    let start = Instant::now();
    let length = Duration::from_secs_f64(seconds);
    let mut measurements: Vec<Measurement> = Vec::new();
    let (mut flushed, mut by_tool) = (Vec::new(), Vec::new());
    'rounds: for round in 0..rounds {
        eprintln!("round {} of {rounds}, {} s so far", round + 1, start.elapsed().as_secs());
        for workload in &workloads {
            let mut ways = workload.ways();
            // Nobody is always first.
            let first = round as usize % ways.len();
            ways.rotate_left(first);
            for way in ways {
                if start.elapsed() > Duration::from_secs(options.limit) {
                    eprintln!("stopped after {} s: see --limit", options.limit);
                    break 'rounds;
                }
                measurements.push(workload.measure(round, way, &house, length).await?);
            }
        }
        if options.behind {
            let requests = if options.quick { 30_000 } else { 200_000 };
            by_tool.extend(tool::measure(&house, round, requests).await?);
            flushed.extend(flusher::measure(&house, round).await?);
            cache::warm(&house.servers).await?;
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mapped.json");
    report::save(&measurements, &file)?;
    println!("{}", report::table(&workloads, &measurements));
    if options.behind {
        println!("{}\n{}", tool::table(&by_tool), flusher::table(&flushed));
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("behind.json");
        std::fs::write(file, serde_json::to_vec_pretty(&(&by_tool, &flushed))?)?;
    }
    println!("Postgres: {durability}. Raw figures: {}", file.display());
    if let Some(page) = &options.write {
        let setting = report::setting(&options.binary, house.pool(), &durability, seconds).await?;
        let text = if options.behind {
            let [by_tool, flushed] = [tool::table(&by_tool), flusher::table(&flushed)];
            report::behind_page(&setting, &workloads, &measurements, &by_tool, &flushed)
        } else {
            report::page(&setting, &workloads, &measurements)
        };
        std::fs::write(page, text)?;
        println!("Written: {}", page.display());
    }
    check_counter(house.pool(), &measurements).await
}

/// # Errors
/// When Postgres does not run as the comparison demands.
async fn durability(pool: &PgPool) -> Result<String, Failure> {
    let mut shown = Vec::new();
    for setting in ["fsync", "synchronous_commit", "full_page_writes"] {
        let query = format!("SELECT current_setting('{setting}')");
        let value: String = sqlx::query_scalar(sqlx::AssertSqlSafe(query)).fetch_one(pool).await?;
        if value != "on" {
            return Err(format!("{setting} is {value}; the comparison needs it on").into());
        }
        shown.push(format!("{setting} {value}"));
    }
    pool.execute("CHECKPOINT").await?;
    Ok(shown.join(", "))
}

/// The rows must say what the clients were told.
async fn check_counter(pool: &PgPool, measurements: &[Measurement]) -> Result<(), Failure> {
    for (table, ways) in
        [("bench_rows", &[Way::Mapped][..]), ("baseline_rows", &[Way::Statement, Way::Connection])]
    {
        let acknowledged: u64 = measurements
            .iter()
            .filter(|one| one.operation == Operation::HotIncrement && ways.contains(&one.way))
            .map(|one| one.acknowledged)
            .sum();
        let held = table::hot_counter(pool, table).await?;
        if i64::try_from(acknowledged)? != held {
            return Err(format!(
                "{table}: {acknowledged} increments were acknowledged, Postgres holds {held}"
            )
            .into());
        }
    }
    Ok(())
}
