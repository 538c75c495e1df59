//! The table of medians with its verdict, and the file of raw figures.

use std::fmt::Write as _;
use std::path::Path;

use crate::drive::{Measurement, Operation, Side, Workload};
use crate::rig::Failure;
use crate::rig::figure::{decimal, grouped, median, verdict};

/// What combined writes must gain over one statement a write, and with how many clients.
const GOAL: f64 = 3.0;
const GOAL_CLIENTS: u32 = 200;

pub(crate) fn table(workloads: &[Workload], measurements: &[Measurement]) -> String {
    let mut text = String::from(
        "| workload | mapped/s | p50 µs | p99 µs | baseline | baseline/s | p50 µs | p99 µs | ratio \
         | goal holds |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for workload in workloads {
        let rows: Vec<&Measurement> = measurements
            .iter()
            .filter(|one| one.operation == workload.operation && one.clients == workload.clients)
            .collect();
        let of = |side: Side, figure: fn(&Measurement) -> f64| {
            median(rows.iter().filter(|one| one.side == side).map(|one| figure(one)))
        };
        let figures = |side: Side| {
            [
                grouped(of(side, |one| one.per_second)),
                grouped(of(side, |one| one.p50_us)),
                grouped(of(side, |one| one.p99_us)),
            ]
            .join(" | ")
        };
        // Each round gives its own ratio, because machines drift.
        let ratio = median(rows.iter().filter(|one| one.side == Side::Mapped).filter_map(|one| {
            let other = rows
                .iter()
                .find(|other| other.side == Side::Baseline && other.round == one.round)?;
            Some(one.per_second / other.per_second)
        }));
        let judged = workload.operation == Operation::Set && workload.clients == GOAL_CLIENTS;
        let baseline =
            if workload.operation.is_read() { "pass-through" } else { "one statement, pool" };
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {baseline} | {} | {} | {} |",
            workload.name(),
            figures(Side::Mapped),
            figures(Side::Baseline),
            decimal(ratio),
            verdict((judged && ratio.is_finite()).then_some(ratio >= GOAL)),
        );
    }
    let rounds = measurements.iter().map(|one| one.round + 1).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "\nMedians over {rounds} rounds; ratios are medians of each round's own ratio. The goal: \
         hset with {GOAL_CLIENTS} clients at least {GOAL} times the pool."
    );
    text
}

/// Writes every run's figures as JSON.
pub(crate) fn save(measurements: &[Measurement], file: &Path) -> Result<(), Failure> {
    std::fs::write(file, serde_json::to_vec_pretty(measurements)?)?;
    Ok(())
}
