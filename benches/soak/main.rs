//! A soak: clients that come, go and die for half an hour, and what that leaves behind.
//!
//! `cargo bench --bench soak -- --help`. Small values and values of 1 MB through one event loop;
//! connections cut in the middle of requests and of replies; subscribers, blocking pops and
//! transactions that vanish (see `visitor`). It fails when resident memory or open files still grow
//! in the last third of the time, when a client that behaves well gets a wrong reply, and when files
//! stay open after everybody has left.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "it talks to a terminal")]

#[path = "../rig/mod.rs"]
mod rig;
mod visitor;
mod watch;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::task::JoinSet;

use rig::process::{self, Process};
use rig::{Failure, interrupted};
use visitor::{Behaviour, Visitor};
use watch::Watch;

/// What may be open when all clients have left, above what was open before they came: upstream
/// connections, of which some are kept for the next client that needs one of its own.
const KEPT_FILES: usize = 16;

/// Until closed connections have been noticed on both sides.
const LEAVE: Duration = Duration::from_secs(10);

/// Watches respgres' memory and open files while clients come, go and die.
#[derive(Parser)]
struct Options {
    /// How long, minutes.
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Clients at a time.
    #[arg(long, default_value_t = 24)]
    clients: u32,
    /// How much resident memory may grow from the second third of the time to the last, MB.
    #[arg(long, default_value_t = 4.0)]
    growth_mb: f64,
    /// Seed of the clients' random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The respgres to watch.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_respgres"))]
    binary: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Failure> {
    let options = Options::parse();
    if !options.bench {
        println!("soak: run it with `make soak`");
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        tokio::select! {
            result = soak(&options) => result,
            error = interrupted() => Err(error),
        }
    })
}

async fn soak(options: &Options) -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let (_redis, redis_port) = process::start_redis(directory.path()).await?;
    let port = process::free_port()?;
    // What is looked for are leaks: a machine that is busy with other things is no reason to end.
    let configuration = format!(
        "[admin]\nlisten = \"\"\n\n[server]\nlisten = \"127.0.0.1:{port}\"\nthreads = 1\n\n\
         [upstream]\nurl = \"redis://127.0.0.1:{redis_port}\"\nconnect_timeout = \"15s\"\n"
    );
    let respgres =
        process::start_respgres(&options.binary, &configuration, port, directory.path()).await?;
    visitor::preload(port).await?;
    let files_before = settled_files(&respgres, 0).await?;

    let start = Instant::now();
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let mut visitors = JoinSet::new();
    for number in 0..options.clients {
        let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(u64::from(number));
        visitors.spawn(Visitor::new(port, seed).visit_until(start + length));
    }
    let mut watch = Watch::new(length);
    let mut second = tokio::time::interval(Duration::from_secs(1));
    let mut visits = [0_u64; Behaviour::ALL.len()];
    loop {
        tokio::select! {
            _ = second.tick() => {
                if let Some(line) = watch.look(&respgres, start.elapsed())? {
                    println!("{line}");
                }
            }
            ended = visitors.join_next() => match ended {
                Some(counts) => {
                    for (sum, count) in visits.iter_mut().zip(counts??) {
                        *sum += count;
                    }
                }
                None => break,
            },
        }
    }

    for (behaviour, count) in Behaviour::ALL.iter().zip(visits) {
        println!("{count:>9} times a client {}", behaviour.name());
    }
    let files_after = settled_files(&respgres, files_before + KEPT_FILES).await?;
    println!(
        "all clients gone: {:.1} MB, {files_after} open files, {files_before} before they came",
        respgres.resident_mb()?
    );
    let mut complaints = watch.complaints(options.growth_mb);
    if files_after > files_before + KEPT_FILES {
        complaints.push(format!("{} files stay open", files_after - files_before));
    }
    complaints.extend(
        respgres
            .log()?
            .lines()
            .filter(|line| line.contains(" ERROR ") || line.contains("panicked"))
            .take(10)
            .map(|line| format!("the log says: {line}")),
    );
    if complaints.is_empty() { Ok(()) } else { Err(complaints.join("; ").into()) }
}

/// Open files of the process once they are `wanted` or fewer; what there are when that takes too
/// long. With 0 wanted: once they no longer change.
async fn settled_files(process: &Process, wanted: usize) -> Result<usize, Failure> {
    let start = Instant::now();
    let mut last = usize::MAX;
    loop {
        let files = process.files()?;
        if files <= wanted || (wanted == 0 && files == last) || start.elapsed() > LEAVE {
            return Ok(files);
        }
        last = files;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
