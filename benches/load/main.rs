//! Pass-through under load: direct Redis, twemproxy and respgres, in turn, with redis-benchmark.
//!
//! `cargo bench --bench load -- --help`. Rounds are interleaved because machines drift: each round
//! measures every row against every target once, and ratios are taken within a round before
//! their median. All raw figures go to `target/tmp/load.json`.
//!
//! The goals that each row is judged by: not slower than twemproxy at `-P 1`, at least 1.15 times
//! twemproxy at `-P 16`, and less CPU per request than twemproxy in every row.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod report;
#[path = "../rig/mod.rs"]
mod rig;
mod target;
mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

use rig::{Failure, interrupted};
use target::{Kind, Target};
use workload::{Measurement, Workload};

/// Measures pass-through with redis-benchmark: direct, through twemproxy, through respgres.
#[derive(Parser)]
struct Options {
    /// Rounds; each measures every workload against every target once.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Two rounds of half a second a run, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this, such as `get`, `P16` or `c1000`.
    #[arg(long)]
    only: Option<String>,
    /// What to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "direct,twemproxy,respgres")]
    targets: Vec<Kind>,
    /// Seconds that one run against direct Redis should take.
    #[arg(long, default_value_t = 2.5)]
    seconds: f64,
    /// Event loops of respgres (twemproxy has one).
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The respgres to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_respgres"))]
    binary: PathBuf,
    /// Seconds after which no further run is started; the table then shows what there is.
    #[arg(long, default_value_t = 1500)]
    limit: u64,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if !options.bench {
        println!("load: run it with `cargo bench --bench load`");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            result = measure(&options) => result,
            result = interrupted() => result,
        }
    })
}

async fn measure(options: &Options) -> Result<(), Failure> {
    let (rounds, seconds) =
        if options.quick { (2, 0.5) } else { (options.rounds, options.seconds) };
    let wanted = options.only.as_deref().unwrap_or_default();
    let workloads: Vec<Workload> =
        Workload::all().into_iter().filter(|workload| workload.name().contains(wanted)).collect();
    if workloads.is_empty() {
        return Err(format!("no workload's name contains {wanted:?}").into());
    }
    let directory = tempfile::tempdir()?;
    let (redis, redis_port) = rig::process::start_redis(directory.path()).await?;
    let mut targets = Vec::new();
    for kind in &options.targets {
        let target =
            Target::start(*kind, redis_port, &options.binary, options.threads, directory.path());
        targets.push(target.await?);
    }
    workload::preload(redis_port, directory.path()).await?;
    let mut requests = Vec::new();
    for workload in &workloads {
        requests.push(workload.calibrate(redis_port, seconds, directory.path()).await?);
    }

    let start = Instant::now();
    let mut measurements: Vec<Measurement> = Vec::new();
    'rounds: for round in 0..rounds {
        eprintln!("round {} of {rounds}, {} s so far", round + 1, start.elapsed().as_secs());
        for (workload, requests) in workloads.iter().zip(&requests) {
            for index in 0..targets.len() {
                if start.elapsed() > Duration::from_secs(options.limit) {
                    eprintln!("stopped after {} s: see --limit", options.limit);
                    break 'rounds;
                }
                // Nobody is always first, when the machine is coolest or the cache coldest.
                let target = &targets[(index + round as usize) % targets.len()];
                let run = workload.measure(round, target, &redis, *requests, directory.path());
                measurements.push(run.await?);
            }
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load.json");
    report::save(&measurements, &file)?;
    println!("{}", report::table(&workloads, &measurements));
    println!("Raw figures: {}", file.display());
    Ok(())
}
