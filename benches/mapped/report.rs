//! The page: the table of medians with its verdicts; and the file of raw figures.

use std::fmt::Write as _;
use std::path::Path;

use sqlx::PgPool;

use crate::goal;
use crate::rig::figure::{decimal, grouped, median};
use crate::rig::{Failure, process};
use crate::workload::{Measurement, Way, Workload};

pub(crate) fn table(workloads: &[Workload], measurements: &[Measurement]) -> String {
    let mut text = String::from(
        "| workload | way | requests/s | p50 µs | p99 µs | CPU µs a request | mapped to it | \
         p50 to its | goals |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for workload in workloads {
        let rows: Vec<&Measurement> = measurements
            .iter()
            .filter(|one| one.operation == workload.operation && one.clients == workload.clients)
            .collect();
        for way in workload.ways() {
            let of = |figure: fn(&Measurement) -> f64| {
                median(rows.iter().filter(|one| one.way == way).map(|one| figure(one)))
            };
            let cpu: [fn(&Measurement) -> f64; 3] =
                [|one| one.cpu_us[0], |one| one.cpu_us[1], |one| one.cpu_us[2]];
            let cpu = cpu.map(|figure| grouped(of(figure)));
            // Each round gives its own ratio, because machines drift.
            let mapped_to_it = |figure: fn(&Measurement) -> f64| {
                if way == Way::Mapped {
                    return f64::NAN;
                }
                median(rows.iter().filter(|one| one.way == way).filter_map(|one| {
                    let mapped = rows
                        .iter()
                        .find(|other| other.way == Way::Mapped && other.round == one.round)?;
                    Some(figure(mapped) / figure(one))
                }))
            };
            let throughput = mapped_to_it(|one| one.per_second);
            let latency = mapped_to_it(|one| one.p50_us);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                workload.name(),
                way.name(),
                grouped(of(|one| one.per_second)),
                grouped(of(|one| one.p50_us)),
                grouped(of(|one| one.p99_us)),
                cpu.join(" / "),
                decimal(throughput),
                decimal(latency),
                goal::judge(workload, way, throughput, latency),
            );
        }
    }
    let rounds = measurements.iter().map(|one| one.round + 1).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "\nMedians over {rounds} rounds; ratios are medians of each round's own ratio."
    );
    text
}

/// Where the figures come from: versions, kernel, cores. No dates, no names of machines.
pub(crate) async fn setting(
    respgres: &Path,
    pool: &PgPool,
    durability: &str,
    seconds: f64,
) -> Result<String, Failure> {
    let redis = process::run(&process::find_program("redis-server")?, &["--version"], None)?;
    let redis = redis.split(" sha=").next().unwrap_or_default();
    let respgres = process::run(respgres, &["--version"], None)?;
    let postgres: String = sqlx::query_scalar("SHOW server_version").fetch_one(pool).await?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!(
        "- {cores} cores, shared by Postgres, Redis, respgres and the clients; Linux {}\n\
         - {}, {redis}, Postgres {postgres} with {durability}, over a Unix socket\n\
         - about {seconds} s a run\n",
        kernel.trim(),
        respgres.trim(),
    ))
}

/// The whole page.
pub(crate) fn page(setting: &str, workloads: &[Workload], measurements: &[Measurement]) -> String {
    format!(
        "# What mapped keys cost\n\n\
         Written by `make bench-mapped` (`cargo bench --bench mapped -- --write \
         docs/performance-mapped.md`).\n\n\
         Hashes and sets in tables, under `dual_write`. Writes are compared with one SQL statement each, \
         on a pool of 16 connections, and for one client on a connection of its own (\"bare commit\"); \
         reads that the cache answers with the same reads of keys that no mapping matches \
         (\"pass-through\"); all with Redis alone. `c` is the number of clients. Every client sends its \
         next request when the last is answered. The relay replay is an app's recorded traffic in its \
         pipelines, without the pauses; its latencies are those of a pipeline, and of several clients \
         each says all of it. CPU is that of respgres / Postgres / Redis. Absolute figures drift where \
         cores and disks are shared: compare ratios within one run only.\n\n\
         {setting}\n{}",
        table(workloads, measurements)
    )
}

/// The page on what is written behind; `by_tool` and `flushed` are the tables of redis-benchmark and of the flusher.
pub(crate) fn behind_page(
    setting: &str,
    workloads: &[Workload],
    measurements: &[Measurement],
    by_tool: &str,
    flushed: &str,
) -> String {
    format!(
        "# What writing behind costs\n\n\
         Written by `make bench-behind` (`cargo bench --bench mapped -- --behind --write \
         docs/performance-behind.md`).\n\n\
         HSET of three of 20 typed columns, under `cache_first`, beside the same in Redis alone and through respgres \
         to a key that no mapping matches (\"pass-through\": what any proxy has to pay), in turns. \
         The keys are random ones of 1,000 that Redis has; the flusher works meanwhile, and what it has left to \
         do is done before the next run. `c` is the number of clients, each of which sends its next request when \
         the last is answered. CPU is that of respgres / Postgres / Redis; a µs a request is a second a million \
         requests. Absolute figures drift where cores and disks are shared: compare ratios within one run only.\n\n\
         {setting}\n{}\n\
         ## Under redis-benchmark\n\n\
         The same with `redis-benchmark -c 50 -r 1000`, whose one thread takes less of the machine for a request than \
         the clients above, and is what direct Redis waits for. The hashes have three fields, all of which are set.\n\n\
         {by_tool}\n\
         ## The flusher\n\n\
         While it is held, 50 clients write; then it is let go, and what counts is the time until the journal is \
         empty, its wait for the lock (up to 0.1 s) included. Rows of hashes are those of 100,000 keys of which Redis \
         has none before, so \"written before\" is how fast keys are written that have to be loaded first. Fields and members are \
         new, ten a request.\n\n\
         {flushed}\n\
         How far Postgres is behind is told by `INFO respgres`: `respgres_journal_lag_ms`, \
         `respgres_journal_entries`, `respgres_journal_changes`, `respgres_journal_flushed_changes`.\n",
        table(workloads, measurements)
    )
}

/// Writes every run's figures as JSON.
pub(crate) fn save(measurements: &[Measurement], file: &Path) -> Result<(), Failure> {
    std::fs::write(file, serde_json::to_vec_pretty(measurements)?)?;
    Ok(())
}
