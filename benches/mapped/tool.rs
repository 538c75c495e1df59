//! What is written behind, under redis-benchmark: one thread in C, which costs less a request than the bench's own
//! clients and never gives more than one core can take; as people measure Redis.

use serde::Serialize;
use sqlx::AssertSqlSafe;

use crate::behind::drain;
use crate::cache::{BEHIND, CACHED_KEYS, UNMAPPED, read_until_cached};
use crate::house::House;
use crate::rig::Failure;
use crate::rig::client::Client;
use crate::rig::figure::{decimal, grouped, median};
use crate::rig::process;
use crate::workload::Way;

/// What the issue asks for, of direct Redis.
const GOAL: f64 = 0.6;

const CLIENTS: u32 = 50;

/// redis-benchmark's numbers have 12 digits with zeros in front: with a one before them they are integers as they
/// are written.
const FIRST: u64 = 1_000_000_000_000;

const WAYS: [Way; 3] = [Way::Mapped, Way::PassThrough, Way::Direct];

#[derive(Serialize)]
pub(crate) struct Run {
    round: u32,
    way: Way,
    per_second: f64,
    /// A request, of respgres, Postgres and Redis.
    cpu_us: [f64; 3],
}

/// One run of each way, the next one first in the next round; `requests` each.
pub(crate) async fn measure(house: &House, round: u32, requests: u32) -> Result<Vec<Run>, Failure> {
    let servers = &house.servers;
    let value = round + 1;
    if round == 0 {
        let mut client = Client::connect(servers.respgres_port).await?;
        let mut redis = Client::connect(servers.redis_port).await?;
        for number in 0..u64::from(CACHED_KEYS) {
            let key = format!("{BEHIND}:{}", FIRST + number);
            let request = ["HSET", &key, "c1", "text", "c4", "0", "c9", "0"].map(str::as_bytes);
            client.call(&request).await?;
            read_until_cached(&mut client, &mut redis, &[b"HGETALL", key.as_bytes()], 6).await?;
        }
    }
    let mut ways = WAYS;
    ways.rotate_left(round as usize % WAYS.len());
    let mut runs = Vec::new();
    for way in ways {
        let (port, prefix) = match way {
            Way::Mapped => (servers.respgres_port, BEHIND),
            Way::PassThrough => (servers.respgres_port, UNMAPPED),
            _ => (servers.redis_port, UNMAPPED),
        };
        let text = format!(
            "-p {port} -c {CLIENTS} -n {requests} -r {CACHED_KEYS} --csv \
             HSET {prefix}:1__rand_int__ c1 text c4 {value} c9 {value}"
        );
        let program = process::find_program("redis-benchmark")?;
        let before = house.cpu_seconds()?;
        let told = tokio::task::spawn_blocking(move || {
            let arguments: Vec<&str> = text.split(' ').collect();
            process::run(&program, &arguments, None).map_err(|error| error.to_string())
        });
        let told = told.await??;
        let after = house.cpu_seconds()?;
        let cpu_us = std::array::from_fn(|at| (after[at] - before[at]) * 1e6 / f64::from(requests));
        runs.push(Run { round, way, per_second: rate(&told)?, cpu_us });
        if way == Way::Mapped {
            drain(servers.respgres_port).await?;
            check(house, value).await?;
        }
    }
    Ok(runs)
}

/// Of the last line: the test in quotes, then figures in quotes, requests a second first.
fn rate(told: &str) -> Result<f64, Failure> {
    let line = told.lines().last().unwrap_or_default();
    let figure = line.rsplit_once("\",\"").and_then(|_| line.split("\",\"").nth(1));
    let figure = figure.and_then(|figure| figure.trim_matches('"').parse().ok());
    figure.ok_or_else(|| format!("redis-benchmark printed:\n{told}").into())
}

/// Postgres has what was written: nobody measures a proxy that wrote nothing.
async fn check(house: &House, value: u32) -> Result<(), Failure> {
    let query = format!("SELECT count(*) FROM behind_rows WHERE id >= {FIRST} AND c4 = {value}");
    let rows: i64 = sqlx::query_scalar(AssertSqlSafe(query)).fetch_one(house.pool()).await?;
    // Chance leaves one out in e^-200 of all runs of 200,000 requests.
    if rows != i64::from(CACHED_KEYS) {
        return Err(format!("{rows} of {CACHED_KEYS} keys are in Postgres as written").into());
    }
    Ok(())
}

/// The table of medians, with the verdict.
pub(crate) fn table(runs: &[Run]) -> String {
    let mut text = String::from(
        "| way | requests/s | CPU µs a request | mapped to it | goal |\n| --- | --- | --- | --- | --- |\n",
    );
    let of = |way: Way| runs.iter().filter(move |run| run.way == way);
    for way in WAYS {
        let cpu: [f64; 3] = std::array::from_fn(|at| median(of(way).map(|run| run.cpu_us[at])));
        let ratio = median(of(way).filter_map(|run| {
            let mapped = of(Way::Mapped).find(|mapped| mapped.round == run.round)?;
            Some(mapped.per_second / run.per_second)
        }));
        let verdict = match way {
            Way::Direct if ratio >= GOAL => {
                format!("issue 5, at least {GOAL:.2}: yes ({ratio:.3})")
            }
            Way::Direct => format!("issue 5, at least {GOAL:.2}: **NO** ({ratio:.3})"),
            _ => String::from("-"),
        };
        let ratio = if way == Way::Mapped { String::from("-") } else { decimal(ratio) };
        text += &format!(
            "| {} | {} | {} | {ratio} | {verdict} |\n",
            way.name(),
            grouped(median(of(way).map(|run| run.per_second))),
            cpu.map(grouped).join(" / "),
        );
    }
    text
}
