//! Whatever breaks, nothing that was promised does.
//!
//! Two proxies, a Redis and a Postgres as processes of their own, relays between them, clients at work on
//! keys of every strategy; processes are killed and stopped, links cut and held up, memory and disk fill up, as a
//! seed has it. Then all is mended, and a checker looks through what the clients did and saw, and through
//! both stores.
//!
//! `make chaos` does so for half an hour. `CHAOS_SECONDS` is the time in all, `CHAOS_SEED` the first seed,
//! `CHAOS_SEED_SECONDS` how long the clients of one seed are at work.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a trial tells what it has done")]

#[path = "../coherence/counter.rs"]
mod counter;
#[path = "../coherence/history.rs"]
mod history;
#[path = "../coherence/keys.rs"]
mod keys;
#[path = "../coherence/members.rs"]
mod members;
mod quiet;
#[path = "../coherence/register.rs"]
mod register;
mod relay;
mod schedule;
#[path = "../stack/mod.rs"]
mod stack;
mod strategy;
mod trial;
#[path = "../coherence/workload.rs"]
mod workload;
mod world;

use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_fault_breaks_a_promise() {
    let number = |name: &str, default: u64| match std::env::var(name) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    };
    let in_all = Duration::from_secs(number("CHAOS_SECONDS", 1));
    let length = Duration::from_secs(number("CHAOS_SEED_SECONDS", 9));
    let first = number("CHAOS_SEED", 194);
    let start = Instant::now();
    let (mut seeds, mut faults, mut operations) = (0, 0, 0);
    let mut broken = Vec::new();
    for seed in first.. {
        let tally = trial::run(seed, length).await;
        println!(
            "seed {seed}: {} faults, {} operations checked ({} reads left out, {} requests \
             unanswered), well again after {:.1} s, {} violations",
            tally.faults,
            tally.operations,
            tally.left_out,
            tally.unanswered,
            tally.recovery.as_secs_f64(),
            tally.violations.len()
        );
        for (error, count) in &tally.errors {
            println!("    {count:6} times {error}");
        }
        for violation in tally.violations.iter().take(10).chain(tally.violations.last()) {
            println!("    {violation}");
        }
        seeds += 1;
        faults += tally.faults;
        operations += tally.operations;
        if !tally.violations.is_empty() {
            broken.push(seed);
        }
        assert!(tally.operations > 100, "hardly anything was done");
        if start.elapsed() + start.elapsed() / seeds > in_all {
            break;
        }
    }
    println!(
        "{seeds} seeds, {faults} faults, {operations} operations checked in {:.0} s",
        start.elapsed().as_secs_f64()
    );
    assert!(broken.is_empty(), "promises were broken with the seeds {broken:?}");
}
