//! The table of medians with its verdicts, and the file of raw figures.

use std::fmt::Write as _;
use std::path::Path;

use crate::rig::Failure;
use crate::rig::figure::{decimal, grouped, median, verdict};
use crate::target::Kind;
use crate::workload::{Measurement, Workload};

/// Share of twemproxy's throughput that pipelined requests must reach.
const PIPELINED_GOAL: f64 = 1.15;

/// The measurements of one workload.
struct Row<'a> {
    measurements: Vec<&'a Measurement>,
}

impl Row<'_> {
    fn of(&self, kind: Kind) -> impl Iterator<Item = &Measurement> {
        self.measurements.iter().copied().filter(move |one| one.target == kind.name())
    }

    fn median(&self, kind: Kind, figure: fn(&Measurement) -> Option<f64>) -> f64 {
        median(self.of(kind).filter_map(figure))
    }

    /// The median of the ratios that each round gave by itself.
    fn ratio(&self, kind: Kind, to: Kind) -> f64 {
        median(self.of(kind).filter_map(|one| {
            let other = self.of(to).find(|other| other.round == one.round)?;
            Some(one.requests_per_second / other.requests_per_second)
        }))
    }
}

pub(crate) fn table(workloads: &[Workload], measurements: &[Measurement]) -> String {
    let mut text = String::from(
        "| workload | target | requests/s | to direct | to twemproxy | proxy CPU s/million \
         | Redis CPU s/million | p50 ms | p99 ms | fast enough | less CPU |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for workload in workloads {
        let name = workload.name();
        let row =
            Row { measurements: measurements.iter().filter(|one| one.workload == name).collect() };
        for kind in [Kind::Direct, Kind::Twemproxy, Kind::Respgres] {
            if row.of(kind).next().is_none() {
                continue;
            }
            let to_direct = row.ratio(kind, Kind::Direct);
            let to_twemproxy = row.ratio(kind, Kind::Twemproxy);
            let cpu = row.median(kind, |one| one.proxy_cpu);
            let twemproxy_cpu = row.median(Kind::Twemproxy, |one| one.proxy_cpu);
            let goal = if workload.pipeline == 1 { 1.0 } else { PIPELINED_GOAL };
            let judged = kind == Kind::Respgres;
            let fast = (judged && to_twemproxy.is_finite()).then_some(to_twemproxy >= goal);
            let frugal = (judged && twemproxy_cpu.is_finite()).then_some(cpu < twemproxy_cpu);
            // Writing to a String cannot fail.
            let _ = writeln!(
                text,
                "| {name} | {} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                kind.name(),
                grouped(row.median(kind, |one| Some(one.requests_per_second))),
                decimal(to_direct),
                decimal(to_twemproxy),
                decimal(cpu),
                decimal(row.median(kind, |one| Some(one.redis_cpu))),
                decimal(row.median(kind, |one| Some(one.p50_ms))),
                decimal(row.median(kind, |one| Some(one.p99_ms))),
                verdict(fast),
                verdict(frugal),
            );
        }
    }
    let rounds = measurements.iter().map(|one| one.round + 1).max().unwrap_or(0);
    let _ = writeln!(
        text,
        "\nMedians over {rounds} rounds; ratios are medians of each round's own ratio. Fast enough: \
         at least 1.00 times twemproxy at P1, {PIPELINED_GOAL} times at P16. Less CPU: than twemproxy, \
         per request."
    );
    text
}

/// Writes every run's figures as JSON.
pub(crate) fn save(measurements: &[Measurement], file: &Path) -> Result<(), Failure> {
    std::fs::write(file, serde_json::to_vec_pretty(measurements)?)?;
    Ok(())
}
