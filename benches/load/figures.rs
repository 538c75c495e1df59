//! All that was measured, and the medians and ratios that are taken from it.
//!
//! Ratios and differences are taken within a round before their median: machines drift.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::rig::Failure;
use crate::rig::figure::median;
use crate::target::Kind;

/// What one run gave.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Measurement {
    pub(crate) round: u32,
    pub(crate) workload: String,
    pub(crate) target: Kind,
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// CPU seconds per million requests; `None` for direct Redis.
    pub(crate) proxy_cpu: Option<f64>,
    /// The same of Redis behind it.
    pub(crate) redis_cpu: f64,
}

/// Resident memory of a proxy, MB of 1024 * 1024 bytes.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Memory {
    pub(crate) target: Kind,
    /// How many were idle when `connected_mb` was read.
    pub(crate) connections: u32,
    pub(crate) idle_mb: f64,
    pub(crate) connected_mb: f64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Figures {
    pub(crate) machine: Machine,
    /// Seconds that a run against direct Redis takes.
    pub(crate) seconds: f64,
    /// Event loops of respgres.
    pub(crate) threads: usize,
    /// Names of workloads in the order of the tables.
    pub(crate) rows: Vec<String>,
    pub(crate) measurements: Vec<Measurement>,
    pub(crate) memory: Vec<Memory>,
}

impl Figures {
    /// # Errors
    /// When there is no such file, or it is not what `save` writes.
    pub(crate) fn load(file: &Path) -> Result<Self, Failure> {
        let text = std::fs::read(file).map_err(|error| format!("{}: {error}", file.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }

    /// Every run's figures, as JSON.
    pub(crate) fn save(&self, file: &Path) -> Result<(), Failure> {
        std::fs::write(file, serde_json::to_vec_pretty(self)?)?;
        Ok(())
    }

    pub(crate) fn rounds(&self) -> u32 {
        self.measurements.iter().map(|one| one.round + 1).max().unwrap_or(0)
    }

    /// Whether there is any run against the target.
    pub(crate) fn has_target(&self, kind: Kind) -> bool {
        self.measurements.iter().any(|one| one.target == kind)
    }

    /// `NAN` when the target was not measured; likewise below.
    pub(crate) fn median(&self, row: &str, kind: Kind, figure: fn(&Measurement) -> f64) -> f64 {
        median(self.of(row, kind).map(figure))
    }

    pub(crate) fn throughput_ratio(&self, row: &str, kind: Kind, to: Kind) -> f64 {
        median(
            self.pairs(row, kind, to)
                .map(|(one, other)| one.requests_per_second / other.requests_per_second),
        )
    }

    /// CPU of the proxy per request.
    pub(crate) fn cpu_ratio(&self, row: &str, kind: Kind, to: Kind) -> f64 {
        median(
            self.pairs(row, kind, to)
                .filter_map(|(one, other)| Some(one.proxy_cpu? / other.proxy_cpu?)),
        )
    }

    pub(crate) fn above_direct(
        &self,
        row: &str,
        kind: Kind,
        figure: fn(&Measurement) -> f64,
    ) -> f64 {
        let pairs = self.pairs(row, kind, Kind::Direct);
        median(pairs.map(|(one, other)| figure(one) - figure(other)))
    }

    fn of<'a>(&'a self, row: &'a str, kind: Kind) -> impl Iterator<Item = &'a Measurement> {
        self.measurements.iter().filter(move |one| one.target == kind && one.workload == row)
    }

    fn pairs<'a>(
        &'a self,
        row: &'a str,
        kind: Kind,
        to: Kind,
    ) -> impl Iterator<Item = (&'a Measurement, &'a Measurement)> {
        self.of(row, kind).filter_map(move |one| {
            let other = self.of(row, to).find(|other| other.round == one.round)?;
            Some((one, other))
        })
    }
}
