//! One row of the tables: a command, a number of clients, a pipeline depth; and one run of it.
//!
//! redis-benchmark drives all rows but one. Its histogram has steps of 8 µs, which is coarse for a
//! single client's median; that row has a client of its own (see `lone`). p99.9 is read from
//! redis-benchmark's distribution by percentile, at the first step that covers it.

use std::path::Path;
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;

use crate::figures::Measurement;
use crate::lone;
use crate::rig::Failure;
use crate::rig::client::Client;
use crate::rig::process::{self, Process, Program, Stop};
use crate::target::Target;

/// Small values: keys `key:000000000000` and up.
const KEYS: u32 = 100_000;

/// Hashes of 20 fields, and values of 10 KB.
const LARGER_KEYS: u32 = 1000;

/// Values of 1 MB.
const LARGEST_KEYS: u32 = 10;

/// A run takes about `--seconds`; one that takes this long has hung.
const RUN_LIMIT: Duration = Duration::from_secs(120);

/// What redis-benchmark replaces by a number of 12 digits.
const RANDOM: &str = "__rand_int__";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Command {
    Get,
    Set,
    Hset,
    Hgetall,
    Mget,
    Get10KB,
    Set10KB,
    Get1MB,
}

#[derive(Clone, Copy)]
pub(crate) struct Workload {
    command: Command,
    clients: u32,
    pipeline: u32,
}

/// What one run told.
pub(crate) struct Run {
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Set => "set",
            Self::Hset => "hset",
            Self::Hgetall => "hgetall",
            Self::Mget => "mget",
            Self::Get10KB => "get 10KB",
            Self::Set10KB => "set 10KB",
            Self::Get1MB => "get 1MB",
        }
    }

    fn keys(self) -> u32 {
        match self {
            Self::Get | Self::Set | Self::Hset | Self::Mget => KEYS,
            Self::Hgetall | Self::Get10KB | Self::Set10KB => LARGER_KEYS,
            Self::Get1MB => LARGEST_KEYS,
        }
    }

    fn arguments(self) -> Vec<String> {
        let key = |prefix: &str| format!("{prefix}:{RANDOM}");
        match self {
            Self::Get => vec!["GET".into(), key("key")],
            Self::Set => vec!["SET".into(), key("key"), "xxx".into()],
            Self::Hset => {
                vec!["HSET".into(), "myhash".into(), key("element"), "xxx".into()]
            }
            Self::Hgetall => vec!["HGETALL".into(), key("hash")],
            Self::Mget => [vec!["MGET".into()], vec![key("key"); 10]].concat(),
            Self::Get10KB => vec!["GET".into(), key("larger")],
            Self::Set10KB => vec!["SET".into(), key("larger"), "x".repeat(10 << 10)],
            Self::Get1MB => vec!["GET".into(), key("largest")],
        }
    }
}

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        use Command::{Get, Get1MB, Get10KB, Hgetall, Hset, Mget, Set, Set10KB};
        let mut workloads = Vec::new();
        let mut add = |commands: &[Command], clients: u32, pipeline: u32| {
            workloads.extend(commands.iter().map(|&command| Self { command, clients, pipeline }));
        };
        add(&[Get], 1, 1);
        for pipeline in [1, 16] {
            add(&[Get, Set, Hset, Hgetall, Mget], 50, pipeline);
        }
        add(&[Get], 50, 64);
        add(&[Get], 500, 1);
        for pipeline in [1, 16] {
            add(&[Get, Set, Hset], 1000, pipeline);
        }
        add(&[Get10KB, Set10KB, Get1MB], 50, 1);
        workloads
    }

    /// Such as `get c50 P16` or `get 10KB c50 P1`.
    pub(crate) fn name(&self) -> String {
        format!("{} c{} P{}", self.command.name(), self.clients, self.pipeline)
    }

    /// How many requests direct Redis answers in about `seconds`.
    pub(crate) async fn calibrate(
        &self,
        redis_port: u16,
        seconds: f64,
        directory: &Path,
    ) -> Result<u64, Failure> {
        let requests = match self.command {
            Command::Get1MB => 1000,
            _ => 20_000 * u64::from(self.pipeline.min(10)),
        };
        let run = self.run(redis_port, requests, directory).await?;
        Ok(((run.requests_per_second * seconds) as u64).max(1000))
    }

    /// That the target answers this row's command as Redis itself does: redis-benchmark counts
    /// errors and missing keys as it counts replies.
    pub(crate) async fn probe(&self, redis_port: u16, target: &Target) -> Result<(), Failure> {
        let number = format!("{:012}", self.command.keys() - 1);
        let arguments: Vec<String> = self
            .command
            .arguments()
            .into_iter()
            .map(|argument| argument.replace(RANDOM, &number))
            .collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let wanted = Client::connect(redis_port).await?.call(&arguments).await?;
        let found = Client::connect(target.port).await?.call(&arguments).await?;
        if found != wanted {
            return Err("another reply than Redis'".into());
        }
        let empty = match &found {
            BytesFrame::Null => true,
            BytesFrame::Array(elements) => {
                elements.is_empty() || elements.contains(&BytesFrame::Null)
            }
            _ => false,
        };
        if empty { Err("the key that is asked for is not there".into()) } else { Ok(()) }
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
        let run = self
            .run(target.port, requests, directory)
            .await
            .map_err(|error| format!("{} against {}: {error}", self.name(), target.kind.name()))?;
        let proxy_after = cpu(target.proxy.as_ref())?;
        Ok(Measurement {
            round,
            workload: self.name(),
            target: target.kind,
            requests,
            requests_per_second: run.requests_per_second,
            p50_us: run.p50_us,
            p99_us: run.p99_us,
            p999_us: run.p999_us,
            proxy_cpu: proxy_after
                .zip(proxy_before)
                .map(|(after, before)| (after - before) / millions),
            redis_cpu: (redis.cpu_seconds()? - redis_before) / millions,
        })
    }

    async fn run(&self, port: u16, requests: u64, directory: &Path) -> Result<Run, Failure> {
        if self.clients == 1 {
            return lone::run(port, requests, self.command.keys()).await;
        }
        let options = format!(
            "-h 127.0.0.1 -p {port} -c {} -P {} -n {requests} -r {}",
            self.clients,
            self.pipeline,
            self.command.keys()
        );
        let mut arguments: Vec<String> = options.split(' ').map(String::from).collect();
        arguments.extend(self.command.arguments());
        let text = redis_benchmark(arguments, directory).await?;
        parse(&text).ok_or_else(|| format!("redis-benchmark printed:\n{text}").into())
    }
}

/// Fills Redis with what the reads will find, so that every round works on the same data.
pub(crate) async fn preload(redis_port: u16) -> Result<(), Failure> {
    let value = |bytes: usize| format!("string.rep('x', {bytes})");
    let strings = |prefix: &str, keys: u32, value: &str| {
        format!(
            "local value = {value} for n = 0, {keys} - 1 do \
             redis.call('SET', string.format('{prefix}:%012d', n), value) end"
        )
    };
    let mut client = Client::connect(redis_port).await?;
    for script in [
        strings("key", KEYS, &value(3)),
        strings("larger", LARGER_KEYS, &value(10 << 10)),
        strings("largest", LARGEST_KEYS, &value(1 << 20)),
        format!(
            "for n = 0, {KEYS} - 1 do \
             redis.call('HSET', 'myhash', string.format('element:%012d', n), 'xxx') end"
        ),
        format!(
            "for n = 0, {LARGER_KEYS} - 1 do for field = 1, 20 do \
             redis.call('HSET', string.format('hash:%012d', n), 'field' .. field, 'value' .. n) \
             end end"
        ),
    ] {
        client.call(&[b"EVAL", script.as_bytes(), b"0"]).await?;
    }
    Ok(())
}

async fn redis_benchmark(arguments: Vec<String>, directory: &Path) -> Result<String, Failure> {
    let mut process = Process::start(Program {
        name: "redis-benchmark",
        path: &process::find_program("redis-benchmark")?,
        arguments,
        log_directory: directory,
        identity: None,
        stop: Stop::Kill,
    })?;
    process.finish(RUN_LIMIT).await?;
    Ok(process.log()?)
}

/// Reads what redis-benchmark prints for people: the distribution by percentile, `99.902% <= 1.231
/// milliseconds (cumulative count 99905)`, then a cumulative one, then the summary, whose last line
/// is average, minimum, p50, p95, p99, maximum in milliseconds.
fn parse(text: &str) -> Option<Run> {
    let (_, text) = text.split_once("Latency by percentile distribution:")?;
    let (percentiles, text) = text.split_once("Cumulative distribution of latencies:")?;
    let p999 = percentiles.lines().find_map(|line| {
        let (share, rest) = line.split_once("% <= ")?;
        let share: f64 = share.trim().parse().ok()?;
        let milliseconds: f64 = rest.split(' ').next()?.parse().ok()?;
        (share >= 99.9).then_some(milliseconds)
    })?;
    let (_, text) = text.split_once("throughput summary: ")?;
    let requests_per_second = text.split(' ').next()?.parse().ok()?;
    let summary: Vec<f64> = text
        .lines()
        .rfind(|line| !line.trim().is_empty())?
        .split_ascii_whitespace()
        .map_while(|figure| figure.parse().ok())
        .collect();
    let [_, _, p50, _, p99, _] = summary[..] else { return None };
    Some(Run { requests_per_second, p50_us: p50 * 1e3, p99_us: p99 * 1e3, p999_us: p999 * 1e3 })
}
