//! One row of the table: a command, a number of clients, a pipeline depth; and one run of it.

use std::path::Path;
use std::time::Duration;

use crate::rig::Failure;
use crate::rig::process::{self, Process, Program, Stop};
use crate::target::{Kind, Target};

/// Keys (fields, for HSET) are drawn from this many.
const KEYS: u32 = 100_000;

/// A run takes about `--seconds`; one that takes this long has hung.
const RUN_LIMIT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
pub(crate) struct Workload {
    /// As redis-benchmark's `-t` calls it.
    command: &'static str,
    clients: u32,
    pub(crate) pipeline: u32,
}

/// What one run gave.
#[derive(Clone, serde::Serialize)]
pub(crate) struct Measurement {
    pub(crate) round: u32,
    pub(crate) workload: String,
    pub(crate) target: &'static str,
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// CPU seconds per million requests; `None` for direct Redis.
    pub(crate) proxy_cpu: Option<f64>,
    /// The same of Redis behind it.
    pub(crate) redis_cpu: f64,
}

/// One line of redis-benchmark's `--csv`.
struct Line {
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        let mut workloads = Vec::new();
        for pipeline in [1, 16] {
            for clients in [50, 1000] {
                for command in ["get", "set", "hset"] {
                    workloads.push(Self { command, clients, pipeline });
                }
            }
        }
        workloads
    }

    /// Such as `get c50 P16`.
    pub(crate) fn name(&self) -> String {
        format!("{} c{} P{}", self.command, self.clients, self.pipeline)
    }

    /// How many requests direct Redis answers in about `seconds`.
    pub(crate) async fn calibrate(
        &self,
        redis_port: u16,
        seconds: f64,
        directory: &Path,
    ) -> Result<u64, Failure> {
        let requests = 20_000 * u64::from(self.pipeline.min(10));
        let line = self.run(redis_port, requests, directory).await?;
        Ok(((line.requests_per_second * seconds) as u64).max(10_000))
    }

    pub(crate) async fn measure(
        &self,
        round: u32,
        target: &Target,
        redis: &Process,
        requests: u64,
        directory: &Path,
    ) -> Result<Measurement, Failure> {
        let cpu = |process: Option<&Process>| process.map(Process::cpu_seconds).transpose();
        let millions = requests as f64 / 1e6;
        let redis_before = redis.cpu_seconds()?;
        let proxy_before = cpu(target.proxy.as_ref())?;
        let line = self
            .run(target.port, requests, directory)
            .await
            .map_err(|error| format!("{} against {}: {error}", self.name(), target.kind.name()))?;
        let proxy_after = cpu(target.proxy.as_ref())?;
        Ok(Measurement {
            round,
            workload: self.name(),
            target: target.kind.name(),
            requests,
            requests_per_second: line.requests_per_second,
            p50_ms: line.p50_ms,
            p99_ms: line.p99_ms,
            proxy_cpu: proxy_after
                .zip(proxy_before)
                .map(|(after, before)| (after - before) / millions),
            redis_cpu: (redis.cpu_seconds()? - redis_before) / millions,
        })
    }

    async fn run(&self, port: u16, requests: u64, directory: &Path) -> Result<Line, Failure> {
        let arguments = format!(
            "-h 127.0.0.1 -p {port} -c {} -P {} -n {requests} -r {KEYS} -t {} --csv",
            self.clients, self.pipeline, self.command
        );
        let text = redis_benchmark(&arguments, directory).await?;
        parse(&text, self.command).ok_or_else(|| format!("redis-benchmark printed:\n{text}").into())
    }
}

/// Fills Redis with what GET and HSET will find, so that every round works on the same data.
pub(crate) async fn preload(redis_port: u16, directory: &Path) -> Result<(), Failure> {
    let target = Target { kind: Kind::Direct, port: redis_port, proxy: None };
    for command in ["set", "hset"] {
        let workload = Workload { command, clients: 50, pipeline: 64 };
        workload.run(target.port, u64::from(KEYS) * 10, directory).await?;
    }
    Ok(())
}

async fn redis_benchmark(arguments: &str, directory: &Path) -> Result<String, Failure> {
    let mut process = Process::start(Program {
        name: "redis-benchmark",
        path: &process::find_program("redis-benchmark")?,
        arguments: arguments.split(' ').map(String::from).collect(),
        log_directory: directory,
        identity: None,
        stop: Stop::Kill,
    })?;
    process.finish(RUN_LIMIT).await?;
    Ok(process.log()?)
}

/// Columns: test, rps, average, minimum, p50, p95, p99, maximum (milliseconds). Warnings about
/// CONFIG, which a proxy may refuse, stand in lines of their own.
fn parse(text: &str, command: &str) -> Option<Line> {
    let name = format!("\"{}", command.to_uppercase());
    let line = text.lines().find(|line| line.starts_with(&name))?;
    let number = |column: usize| line.split(',').nth(column)?.trim_matches('"').parse().ok();
    Some(Line { requests_per_second: number(1)?, p50_ms: number(4)?, p99_ms: number(6)? })
}
