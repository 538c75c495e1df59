//! Pass-through under load: direct Redis, twemproxy, haproxy and respgres, in turn.
//!
//! `cargo bench --bench load -- --help`. Rounds are interleaved because machines drift: each round
//! measures every row against every target once, and ratios are taken within a round before
//! their median. All raw figures go to `target/tmp/load.json`, from which `--from` makes tables and
//! plot again. The goals that rows are judged by stand in `goal`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod figures;
mod goal;
mod lone;
mod machine;
mod memory;
mod plot;
mod report;
#[path = "../rig/mod.rs"]
mod rig;
mod target;
mod workload;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

use figures::Figures;
use machine::Machine;
use rig::{Failure, interrupted};
use target::{Kind, Surroundings, Target};
use workload::Workload;

/// Measures pass-through: direct, through twemproxy and haproxy if they are installed, through
/// respgres.
#[derive(Parser)]
struct Options {
    /// Rounds; each measures every workload against every target once.
    #[arg(long, default_value_t = 6)]
    rounds: u32,
    /// Two rounds of half a second a run, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose name contains this, such as `get`, `P16` or `c1000`; without memory.
    #[arg(long)]
    only: Option<String>,
    /// What to measure.
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "direct,twemproxy,haproxy,respgres"
    )]
    targets: Vec<Kind>,
    /// Seconds that one run against direct Redis should take.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Event loops of respgres (the others have one).
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// The respgres to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_respgres"))]
    binary: PathBuf,
    /// Seconds after which no further run is started; the table then shows what there is.
    #[arg(long, default_value_t = 5400)]
    limit: u64,
    /// Write the page here, and the plot beside it.
    #[arg(long, value_name = "FILE.md")]
    write: Option<PathBuf>,
    /// Measure nothing: take the raw figures of an earlier run.
    #[arg(long, value_name = "FILE.json")]
    from: Option<PathBuf>,
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
    let figures = match &options.from {
        Some(file) => Figures::load(file)?,
        None => {
            rig::process::raise_file_limit()?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    result = measure(&options) => result,
                    error = interrupted() => Err(error),
                }
            })?
        }
    };
    println!("{}", report::tables(&figures));
    if let Some(page) = &options.write {
        let plot = page.with_extension("svg");
        std::fs::write(&plot, plot::draw(&figures))?;
        let plot_name = plot.file_name().unwrap_or_default().to_string_lossy();
        std::fs::write(page, report::page(&figures, &plot_name))?;
        println!("Written: {}, {}", page.display(), plot.display());
    }
    Ok(())
}

async fn measure(options: &Options) -> Result<Figures, Failure> {
    let (rounds, seconds) =
        if options.quick { (2, 0.5) } else { (options.rounds, options.seconds) };
    let wanted = options.only.as_deref().unwrap_or_default();
    let workloads: Vec<Workload> =
        Workload::all().into_iter().filter(|workload| workload.name().contains(wanted)).collect();
    if workloads.is_empty() {
        return Err(format!("no workload's name contains {wanted:?}").into());
    }
    let kinds = installed(&options.targets);
    let directory = tempfile::tempdir()?;
    let (redis, redis_port) = rig::process::start_redis(directory.path()).await?;
    let surroundings = Surroundings {
        redis_port,
        respgres: &options.binary,
        threads: options.threads,
        directory: directory.path(),
    };
    let mut figures = Figures {
        machine: Machine::ask(&kinds, &options.binary),
        seconds,
        threads: options.threads,
        rows: workloads.iter().map(Workload::name).collect(),
        measurements: Vec::new(),
        memory: Vec::new(),
    };
    if options.only.is_none() {
        for kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
            eprintln!("memory of {}", kind.name());
            figures.memory.push(memory::measure(*kind, &surroundings).await?);
        }
    }
    let mut targets = Vec::new();
    for kind in kinds {
        targets.push(Target::start(kind, &surroundings).await?);
    }
    workload::preload(redis_port).await?;
    let mut requests = Vec::new();
    for workload in &workloads {
        for target in &targets {
            workload.probe(redis_port, target).await.map_err(|error| {
                format!("{} against {}: {error}", workload.name(), target.kind.name())
            })?;
        }
        requests.push(workload.calibrate(redis_port, seconds, directory.path()).await?);
    }

    let start = Instant::now();
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
                figures.measurements.push(run.await?);
            }
        }
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("load.json");
    figures.save(&file)?;
    eprintln!("raw figures: {}", file.display());
    Ok(figures)
}

/// The targets whose program is there; the others are named and left out.
fn installed(wanted: &[Kind]) -> Vec<Kind> {
    Kind::ALL
        .into_iter()
        .filter(|kind| wanted.contains(kind))
        .filter(|kind| {
            let Some(program) = kind.program() else { return true };
            let found = rig::process::find_program(program).is_ok();
            if !found {
                eprintln!("{} is left out: {program} is not installed", kind.name());
            }
            found
        })
        .collect()
}
