//! The table of medians with its verdicts, and the file of raw figures.

use std::fmt::Write as _;
use std::path::Path;

use crate::goal;
use crate::rig::Failure;
use crate::rig::figure::{decimal, grouped, median};
use crate::workload::{Measurement, Way, Workload};

pub(crate) fn table(workloads: &[Workload], measurements: &[Measurement]) -> String {
    let mut text = String::from(
        "| workload | way | requests/s | p50 µs | p99 µs | mapped to it | p50 to its | goals |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- |\n",
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
                "| {} | {} | {} | {} | {} | {} | {} | {} |",
                workload.name(),
                way.name(),
                grouped(of(|one| one.per_second)),
                grouped(of(|one| one.p50_us)),
                grouped(of(|one| one.p99_us)),
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

/// Writes every run's figures as JSON.
pub(crate) fn save(measurements: &[Measurement], file: &Path) -> Result<(), Failure> {
    std::fs::write(file, serde_json::to_vec_pretty(measurements)?)?;
    Ok(())
}
