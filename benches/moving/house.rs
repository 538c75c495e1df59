//! The stores, a respgres over them, and what they hold.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame;
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, PgPool};
use tempfile::TempDir;

use crate::rig::Failure;
use crate::rig::client::Client;
use crate::rig::cluster::Cluster;
use crate::rig::process::{self, Process, Program, Stop, ended_children_seconds};

/// Keys that one script call makes.
const FILLED: u64 = 5_000;

/// Makes keys; what a field holds follows from the key's number.
const FILL: &str = "for i = ARGV[1], ARGV[2] do
    redis.call('HSET', string.format('thing:%07d', i), 'views', i, 'likes', 1, 'size', 1000 * i,
        'name', 'name ' .. i, 'kind', 'x', 'text', 'some longer text', 'isPublic', 'true',
        'owner', 'abc', 'mail', 'a@b.c', 'createdAt', '2026-01-02T03:04:05.678Z')
end";

/// Rows that are not what `FILL` has made, whatever clients have done to `likes`.
const ODD: &str = "select count(*) from things where views <> id::bigint or likes < 1
    or size <> 1000 * views or name <> 'name ' || views or kind <> 'x' or text <> 'some longer text'
    or not is_public or owner <> 'abc' or mail <> 'a@b.c' or created_at <> '2026-01-02T03:04:05.678Z'
    or num_nulls(views, likes, size, name, kind, text, is_public, owner, mail, created_at) > 0
    or extra is not null";

pub(crate) struct House {
    pub(crate) port: u16,
    pub(crate) pool: PgPool,
    binary: PathBuf,
    config: PathBuf,
    respgres: Process,
    redis: Process,
    redis_port: u16,
    cluster: Cluster,
    directory: TempDir,
}

/// Seconds of CPU so far.
pub(crate) struct Cpu {
    /// Of the running respgres, Postgres and Redis.
    pub(crate) ours: [f64; 3],
    /// Of jobs that have ended.
    pub(crate) ended: f64,
    /// Of all on this machine.
    pub(crate) busy: f64,
}

// === impl House ===

impl House {
    pub(crate) async fn start(binary: &Path) -> Result<Self, Failure> {
        let directory = tempfile::tempdir()?;
        let cluster = Cluster::start().await?;
        let pool = PgPoolOptions::new().max_connections(2).connect(cluster.url()).await?;
        let (redis, redis_port) = process::start_redis(directory.path()).await?;
        let port = process::free_port()?;
        let config = directory.path().join("jobs.toml");
        let text = configuration(port, redis_port, cluster.url());
        std::fs::write(&config, &text)?;
        let file = config.display().to_string();
        process::run(binary, &["schema", "--config", &file, "--apply"], None)?;
        let respgres = process::start_respgres(binary, &text, port, directory.path()).await?;
        let house = Self {
            port,
            pool,
            binary: binary.to_owned(),
            config,
            respgres,
            redis,
            redis_port,
            cluster,
            directory,
        };
        house.import_from_now_on().await?;
        Ok(house)
    }

    /// Sets the phase back that an empty Redis gave the mapping, and waits until respgres goes by it.
    async fn import_from_now_on(&self) -> Result<(), Failure> {
        self.is_there().await?;
        let file = self.config.display().to_string();
        let words = ["phase", "set", "dual_write", "--config", &file, "--force"];
        process::run(&self.binary, &words, None).map(drop)
    }

    /// Ends respgres and starts it again.
    pub(crate) async fn restart(&mut self) -> Result<(), Failure> {
        let text = std::fs::read_to_string(&self.config)?;
        let directory = self.directory.path().to_owned();
        // The old one goes first: both listen on one port.
        self.respgres.end();
        self.respgres = process::start_respgres(&self.binary, &text, self.port, &directory).await?;
        self.is_there().await
    }

    /// Waits until respgres has gone through Redis.
    async fn is_there(&self) -> Result<(), Failure> {
        let start = Instant::now();
        loop {
            let mut client = Client::connect(self.port).await?;
            let answer = client.call(&[b"TTL", b"thing:none"]).await;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if start.elapsed() > Duration::from_secs(60) => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    /// Puts so many keys into Redis, as an app has done before there was a respgres.
    pub(crate) async fn fill(&mut self, keys: u64) -> Result<(), Failure> {
        let mut redis = Client::connect(self.redis_port).await?;
        for first in (0..keys).step_by(FILLED as usize) {
            let last = keys.min(first + FILLED) - 1;
            let (first, last) = (first.to_string(), last.to_string());
            redis
                .call(&[b"EVAL", FILL.as_bytes(), b"0", first.as_bytes(), last.as_bytes()])
                .await?;
        }
        self.restart().await
    }

    /// As at the start, with so many keys that only Redis has.
    pub(crate) async fn begin_anew(&mut self, keys: u64) -> Result<(), Failure> {
        eprintln!("{keys} keys are put into Redis again");
        self.pool.execute("truncate things; truncate respgres.moved").await?;
        let mut redis = Client::connect(self.redis_port).await?;
        // Not what respgres knows of this Redis.
        let forget = "local cursor = '0'
            repeat
                local page = redis.call('SCAN', cursor, 'MATCH', 'thing:*', 'COUNT', 100000)
                cursor = page[1]
                for _, key in ipairs(page[2]) do redis.call('UNLINK', key) end
            until cursor == '0'";
        redis.call(&[b"EVAL", forget.as_bytes(), b"0"]).await?;
        self.import_from_now_on().await?;
        self.fill(keys).await
    }

    /// Begins a job.
    pub(crate) fn begin(&self, arguments: &[String]) -> Result<Process, Failure> {
        let config = ["--config".to_owned(), self.config.display().to_string()];
        Process::start(Program {
            name: "job",
            path: &self.binary,
            arguments: arguments.iter().cloned().chain(config).collect(),
            log_directory: self.directory.path(),
            identity: None,
            stop: Stop::Kill,
        })
    }

    pub(crate) async fn rows(&self) -> Result<u64, Failure> {
        let rows: i64 =
            sqlx::query_scalar("select count(*) from things").fetch_one(&self.pool).await?;
        Ok(rows.unsigned_abs())
    }

    /// # Errors
    /// Unless Postgres has every key as it was made, and Redis has it still.
    pub(crate) async fn check(&self, keys: u64) -> Result<(), Failure> {
        let odd: i64 = sqlx::query_scalar(ODD).fetch_one(&self.pool).await?;
        let rows = self.rows().await?;
        let mut redis = Client::connect(self.redis_port).await?;
        let held = redis.call(&[b"DBSIZE"]).await?;
        let has_all = matches!(held, BytesFrame::Integer(held) if held.unsigned_abs() >= keys);
        if odd == 0 && rows == keys && has_all {
            return Ok(());
        }
        Err(format!("{rows} rows of {keys}, {odd} of them odd; Redis has {held:?} keys").into())
    }

    pub(crate) fn cpu(&self) -> Result<Cpu, Failure> {
        let [respgres, redis] = [self.respgres.cpu_seconds()?, self.redis.cpu_seconds()?];
        Ok(Cpu {
            ours: [respgres, self.cluster.cpu_seconds()?, redis],
            ended: ended_children_seconds()?,
            busy: busy_seconds()?,
        })
    }
}

// === impl Cpu ===

impl Cpu {
    pub(crate) fn since(&self, before: &Self) -> Self {
        let mut ours = self.ours;
        ours.iter_mut().zip(before.ours).for_each(|(now, then)| *now -= then);
        Self { ours, ended: self.ended - before.ended, busy: self.busy - before.busy }
    }
}

/// Of all processors (proc(5): stat), waiting for disks left out.
fn busy_seconds() -> Result<f64, Failure> {
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    let ticks: Vec<f64> =
        line.split_ascii_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
    match ticks[..] {
        [user, nice, system, _, _, irq, softirq, ..] => {
            Ok((user + nice + system + irq + softirq) / 100.0)
        }
        _ => Err("cannot read /proc/stat".into()),
    }
}

fn configuration(port: u16, redis_port: u16, postgres: &str) -> String {
    let columns = [
        ("views", "views", "bigint", ""),
        ("likes", "likes", "bigint", ""),
        ("size", "size", "bigint", ""),
        ("name", "name", "text", ""),
        ("kind", "kind", "text", ""),
        ("text", "text", "text", ""),
        ("isPublic", "is_public", "boolean", "true/false"),
        ("owner", "owner", "text", ""),
        ("mail", "mail", "text", ""),
        ("createdAt", "created_at", "timestamptz", "iso8601-ms"),
    ];
    let column = |(field, column, kind, format): (&str, &str, &str, &str)| {
        let format =
            if format.is_empty() { String::new() } else { format!(", format = \"{format}\"") };
        format!("{field} = {{ column = \"{column}\", type = \"{kind}\"{format} }}\n")
    };
    let columns: String = columns.into_iter().map(column).collect();
    format!(
        "[admin]\nlisten = \"\"\n\n[server]\nlisten = \"127.0.0.1:{port}\"\n\n\
         [upstream]\nurl = \"redis://127.0.0.1:{redis_port}\"\n\n[postgres]\nurl = \"{postgres}\"\n\n\
         [[mapping]]\nname = \"things\"\nkey = \"thing:{{id:text}}\"\ntable = \"things\"\n\
         extra = \"extra\"\n[mapping.columns]\n{columns}"
    )
}
