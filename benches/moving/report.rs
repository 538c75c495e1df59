//! The page: what was measured, and whether the goals hold.

use std::fmt::Write as _;
use std::path::Path;

use crate::house::House;
use crate::rig::figure::{decimal, grouped, median, verdict};
use crate::rig::{Failure, process};
use crate::{Figure, Measured};

/// Keys a second that a backfill has to bring over.
const GOAL: f64 = 20_000.0;

pub(crate) fn figures(measured: &Measured) -> String {
    let mut text = format!(
        "{} keys. Nobody else is at work.\n\n\
         | job | seconds | keys/s | CPU µs a key | in all | cores that others kept busy | goal |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        grouped(measured.keys as f64)
    );
    for (number, job) in measured.jobs.iter().enumerate() {
        let goal = if number == 0 {
            format!("{} keys/s: {}", grouped(GOAL), verdict(Some(job.per_second >= GOAL)))
        } else {
            "-".to_owned()
        };
        let [itself, respgres, postgres, redis] = job.cpu_us.map(decimal);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {:.1} | {} | {itself} / {respgres} / {postgres} / {redis} | {} | {} | {goal} |",
            job.name,
            job.seconds,
            grouped(job.per_second),
            grouped(job.cpu_us.iter().sum()),
            decimal(job.others),
        );
    }
    text.push('\n');
    for job in &measured.jobs {
        let _ = writeln!(text, "- {}: {}", job.name, job.told);
    }
    if let Some(rows) = measured.killed_at {
        let _ = writeln!(
            text,
            "\nThe one that was killed had brought {} keys over. After the second one, and after the first, \
             every key is in Postgres as it was made in Redis.",
            grouped(rows as f64)
        );
    }
    if !measured.clients.is_empty() {
        text.push_str(&clients(measured));
    }
    text
}

fn clients(measured: &Measured) -> String {
    let mut text = format!(
        "\n## What clients feel\n\n\
         Eight clients, alone and beside a backfill of {} keys a second, half of what it can.\n\n\
         | requests | alone: a second, p50 µs, p99 µs | beside it | p99 to alone | less than doubled |\n\
         | --- | --- | --- | --- | --- |\n",
        grouped(measured.rate as f64)
    );
    for (workload, alone, beside) in &measured.clients {
        let of =
            |figures: &[Figure], figure: fn(&Figure) -> f64| median(figures.iter().map(figure));
        let row = |figures: &[Figure]| {
            format!(
                "{}, {}, {}",
                grouped(of(figures, |one| one.per_second)),
                grouped(of(figures, |one| one.p50_us)),
                grouped(of(figures, |one| one.p99_us))
            )
        };
        let ratio = of(beside, |one| one.p99_us) / of(alone, |one| one.p99_us);
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {} |",
            workload.name(),
            row(alone),
            row(beside),
            decimal(ratio),
            verdict(Some(ratio < 2.0))
        );
    }
    let rounds = measured.clients.first().map_or(0, |(_, alone, _)| alone.len());
    let _ = writeln!(text, "\nMedians over {rounds} runs.");
    text
}

/// Where the figures come from: versions, kernel, cores, load. No dates, no names of machines.
pub(crate) async fn setting(respgres: &Path, house: &House) -> Result<String, Failure> {
    let redis = process::run(&process::find_program("redis-server")?, &["--version"], None)?;
    let redis = redis.split(" sha=").next().unwrap_or_default();
    let respgres = process::run(respgres, &["--version"], None)?;
    let postgres: String = sqlx::query_scalar("SHOW server_version").fetch_one(&house.pool).await?;
    let fsync: String = sqlx::query_scalar("SHOW fsync").fetch_one(&house.pool).await?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    Ok(format!(
        "- {cores} cores, shared by Postgres, Redis, respgres, the job and the clients; Linux {}\n\
         - {}, {redis}, Postgres {postgres} with fsync {fsync} and its defaults, over a Unix socket\n",
        kernel.trim(),
        respgres.trim(),
    ))
}

/// The whole page.
pub(crate) fn page(setting: &str, measured: &Measured) -> String {
    format!(
        "# What moving in costs\n\n\
         Written by `make bench-moving` (`cargo bench --bench moving -- --write \
         docs/performance-moving.md`).\n\n\
         Hashes of ten fields, for a table with a typed column each (three bigint, a boolean, a timestamptz, five \
         text, and `extra`), under `dual_write`. CPU is that of the job / the running respgres / Postgres / Redis; a µs a key is a \
         second a million keys. The seconds are those of the whole command. How much can be done in a second \
         depends on what others do on the machine meanwhile, so that is told beside it: how many of its cores were busy \
         with something else.\n\n\
         {setting}\n## Jobs\n\n{}",
        figures(measured)
    )
}
