//! Moving a million keys: backfill and verify beside clients, and one that is killed half-way.
//!
//! `cargo bench --bench moving -- --help`. It has a Redis and a Postgres of its own; Postgres runs with its defaults,
//! fsync on. The keys are hashes of ten fields, for a table with a typed column each.
//!
//! What others do on the machine changes what can be done in a second, but hardly what a key costs: so each job's
//! CPU is told as well, and how busy others were.
//!
//! At the end every key must be in Postgres as it was in Redis, so that nobody measures a backfill that lost some.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

mod clients;
mod house;
mod job;
mod report;
#[path = "../rig/mod.rs"]
mod rig;

use std::path::PathBuf;

use clap::Parser;

use clients::{Figure, Workload};
use house::House;
use job::Job;
use rig::{Failure, interrupted};

/// Measures backfill and verify, and what clients feel of them.
#[derive(Parser)]
struct Options {
    #[arg(long, default_value_t = 1_000_000)]
    keys: u64,
    /// Seconds of one run of clients.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Runs of each kind of clients, alone and beside a backfill.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only the jobs: nobody is killed, and there are no clients.
    #[arg(long)]
    jobs: bool,
    /// What the jobs are given with `--parallel`.
    #[arg(long)]
    parallel: Option<u32>,
    /// The respgres to measure.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_respgres"))]
    binary: PathBuf,
    /// Write the page here.
    #[arg(long, value_name = "FILE.md")]
    write: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

/// All that is measured.
struct Measured {
    keys: u64,
    jobs: Vec<Job>,
    /// How many keys the one that was killed had brought over.
    killed_at: Option<u64>,
    /// The rate of the throttled one.
    rate: u64,
    clients: Vec<(Workload, Vec<Figure>, Vec<Figure>)>,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if !options.bench {
        println!("moving: run it with `cargo bench --bench moving`");
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
    let keys = options.keys;
    let mut house = House::start(&options.binary).await?;
    let mut measured =
        Measured { keys, jobs: Vec::new(), killed_at: None, rate: 0, clients: Vec::new() };
    let parallel: Vec<String> = options
        .parallel
        .iter()
        .flat_map(|count| ["--parallel".into(), count.to_string()])
        .collect();
    let with = |verb: &str| -> Vec<String> {
        std::iter::once(verb.to_owned()).chain(parallel.iter().cloned()).collect()
    };

    eprintln!("{keys} keys are put into Redis");
    house.fill(keys).await?;
    measured.jobs.push(house.run("backfill", &with("backfill")).await?);
    measured.jobs.push(house.run("backfill, when all keys have a row", &with("backfill")).await?);
    measured.jobs.push(house.run("verify", &with("verify")).await?);
    house.check(keys).await?;

    if !options.jobs {
        house.begin_anew(keys).await?;
        measured.killed_at = Some(house.kill_half_way(keys, &with("backfill")).await?);
        measured.jobs.push(house.run("backfill, after a kill -9", &with("backfill")).await?);
        measured.jobs.push(house.run("verify, after that", &with("verify")).await?);
        house.check(keys).await?;

        house.begin_anew(keys).await?;
        measured.rate = (measured.jobs[0].per_second / 2.0) as u64;
        measured.clients = clients::beside(&house, options, measured.rate).await?;
    }
    let setting = report::setting(&options.binary, &house).await?;
    println!("{}", report::figures(&measured));
    if let Some(page) = &options.write {
        std::fs::write(page, report::page(&setting, &measured))?;
        println!("Written: {}", page.display());
    }
    Ok(())
}
