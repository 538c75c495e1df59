//! How fast the flusher is: changes gather in the journal while the bench has its lock; then it is let go, until the
//! journal is empty. Of hashes that keys are touched first by it is also told how fast those writes are, as
//! each of them has to be loaded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool};
use tokio::task::JoinSet;

use crate::cache::BEHIND;
use crate::drive::Servers;
use crate::house::House;
use crate::rig::Failure;
use crate::rig::client::Client;
use crate::table::{ROWS, TRIPLES};

/// What the issue asks for.
const GOAL: f64 = 20_000.0;

/// Who writes what is to be flushed.
const CLIENTS: u32 = 50;

/// Keys of the kinds with a row for each element, and elements of each.
const KEYS: u32 = 1000;
const ELEMENTS: u32 = 100;
/// Elements of one request.
const AT_ONCE: u32 = 10;

/// More than it may take.
const LIMIT: Duration = Duration::from_secs(120);

/// The flusher's lock (see `store::sole`).
const LOCK: &str = "1919251312, 2";

/// What is journaled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Kind {
    /// One row a key, of which three columns are set; the rows are there.
    Rows,
    /// A row a field, new.
    Entries,
    /// A row a member, new.
    Members,
}

#[derive(serde::Serialize)]
pub(crate) struct Flushed {
    kind: Kind,
    rows: u32,
    /// Rows that were journaled, a second: of hashes that Redis did not have before.
    written_per_second: f64,
    flushed_per_second: f64,
    /// A row, of respgres, Postgres and Redis, while it is flushed.
    cpu_us: [f64; 3],
}

impl Kind {
    const ALL: [Self; 3] = [Self::Rows, Self::Entries, Self::Members];

    fn name(self) -> &'static str {
        match self {
            Self::Rows => "rows of hashes, three columns each",
            Self::Entries => "fields, a row each",
            Self::Members => "members, a row each",
        }
    }

    fn requests(self) -> u32 {
        match self {
            Self::Rows => ROWS,
            Self::Entries | Self::Members => KEYS * ELEMENTS / AT_ONCE,
        }
    }

    fn rows(self) -> u32 {
        match self {
            Self::Rows => ROWS,
            Self::Entries | Self::Members => KEYS * ELEMENTS,
        }
    }

    fn request(self, number: u32, seed: u32) -> Vec<String> {
        let id = number % KEYS;
        let elements = (0..AT_ONCE).map(|n| format!("element {}", number / KEYS * AT_ONCE + n));
        match self {
            Self::Rows => {
                let triple = &TRIPLES[number as usize % TRIPLES.len()];
                let pairs = triple.names.iter().cloned().zip(triple.values(number + seed));
                let mut request = vec!["HSET".to_owned(), format!("{BEHIND}:{}", number + 1)];
                request.extend(pairs.flat_map(|(name, value)| [name, value]));
                request
            }
            Self::Entries => {
                let mut request = vec!["HSET".to_owned(), format!("{BEHIND}:entries:{id}")];
                request.extend(elements.flat_map(|element| [element, seed.to_string()]));
                request
            }
            Self::Members => {
                let mut request = vec!["SADD".to_owned(), format!("{BEHIND}:members:{id}")];
                request.extend(elements.map(|element| format!("{element} of {seed}")));
                request
            }
        }
    }
}

/// `[[mapping]]` for the kinds with a row for each element.
pub(crate) fn mappings() -> String {
    format!(
        "\n[[mapping]]\nname = \"behind_entries\"\nkey = \"{BEHIND}:entries:{{id:int}}\"\n\
         kind = \"hash_entries\"\ntable = \"behind_entries\"\nstrategy = \"cache_first\"\n\
         field = \"field\"\nvalue = \"value\"\n\
         \n[[mapping]]\nname = \"behind_members\"\nkey = \"{BEHIND}:members:{{id:int}}\"\n\
         kind = \"set\"\ntable = \"behind_members\"\nstrategy = \"cache_first\"\nmember = \"member\"\n"
    )
}

pub(crate) async fn create(pool: &PgPool) -> Result<(), Failure> {
    for statement in [
        "CREATE TABLE behind_entries (id bigint, field text, value text, PRIMARY KEY (id, field))",
        "CREATE TABLE behind_members (id bigint, member text, PRIMARY KEY (id, member))",
    ] {
        pool.execute(statement).await?;
    }
    Ok(())
}

/// All kinds, once; the journal is empty before and after each.
pub(crate) async fn measure(house: &House, round: u32) -> Result<Vec<Flushed>, Failure> {
    let servers = &house.servers;
    let mut all = Vec::new();
    for kind in Kind::ALL {
        // As at first: nothing of it is in Redis, and elements are new.
        forget(servers, kind).await?;
        let holder = hold(servers).await?;
        let start = Instant::now();
        write(servers, kind, round * 7919).await?;
        let written_per_second = f64::from(kind.rows()) / start.elapsed().as_secs_f64();
        let before = house.cpu_seconds()?;
        let start = Instant::now();
        let_go(holder).await?;
        until_empty(servers).await?;
        let took = start.elapsed().as_secs_f64();
        let after = house.cpu_seconds()?;
        let rows = f64::from(kind.rows());
        all.push(Flushed {
            kind,
            rows: kind.rows(),
            written_per_second,
            flushed_per_second: rows / took,
            cpu_us: std::array::from_fn(|at| (after[at] - before[at]) * 1e6 / rows),
        });
        check(servers, kind).await?;
    }
    Ok(all)
}

/// The table of medians, with the verdict.
pub(crate) fn table(measured: &[Flushed]) -> String {
    use crate::rig::figure::{grouped, median};
    let mut text = String::from(
        "| journaled | rows | flushed, rows/s | CPU µs a row | written before, rows/s | goal |\n\
         | --- | --- | --- | --- | --- | --- |\n",
    );
    for kind in Kind::ALL {
        let of = |figure: &dyn Fn(&Flushed) -> f64| {
            median(measured.iter().filter(|one| one.kind == kind).map(figure))
        };
        let flushed = of(&|one| one.flushed_per_second);
        let cpu: [f64; 3] = std::array::from_fn(|at| of(&|one| one.cpu_us[at]));
        let verdict = if flushed >= GOAL { "yes" } else { "**NO**" };
        text += &format!(
            "| {} | {} | {} | {} | {} | issue 5, at least {}: {verdict} |\n",
            kind.name(),
            grouped(f64::from(kind.rows())),
            grouped(flushed),
            cpu.map(grouped).join(" / "),
            grouped(of(&|one| one.written_per_second)),
            grouped(GOAL),
        );
    }
    text
}

async fn forget(servers: &Servers, kind: Kind) -> Result<(), Failure> {
    let mut redis = Client::connect(servers.redis_port).await?;
    let (prefix, from, to) = match kind {
        Kind::Rows => (BEHIND.to_owned(), 1, ROWS + 1),
        Kind::Entries => (format!("{BEHIND}:entries"), 0, KEYS),
        Kind::Members => (format!("{BEHIND}:members"), 0, KEYS),
    };
    for id in from..to {
        let key = format!("{prefix}:{id}");
        let mark = format!("respgres:m:{key}");
        redis.call(&[b"UNLINK", key.as_bytes(), mark.as_bytes()]).await?;
    }
    let table = match kind {
        Kind::Rows => return Ok(()),
        Kind::Entries => "behind_entries",
        Kind::Members => "behind_members",
    };
    servers.pool.execute(AssertSqlSafe(format!("TRUNCATE {table}"))).await?;
    Ok(())
}

async fn hold(servers: &Servers) -> Result<PgConnection, Failure> {
    let mut connection = PgConnection::connect(&servers.postgres_url).await?;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_locks
         WHERE locktype = 'advisory' AND (classid, objid) = (1919251312, 2) AND database =
             (SELECT oid FROM pg_database WHERE datname = current_database())";
    let start = Instant::now();
    loop {
        connection.execute(end).await?;
        let take = format!("SELECT pg_try_advisory_lock({LOCK})");
        let has: bool = sqlx::query_scalar(AssertSqlSafe(take)).fetch_one(&mut connection).await?;
        if has {
            return Ok(connection);
        }
        if start.elapsed() > LIMIT {
            return Err("the flusher does not let go of its lock".into());
        }
    }
}

async fn let_go(mut holder: PgConnection) -> Result<(), Failure> {
    holder.execute(AssertSqlSafe(format!("SELECT pg_advisory_unlock({LOCK})"))).await?;
    Ok(())
}

async fn write(servers: &Servers, kind: Kind, seed: u32) -> Result<(), Failure> {
    let next = Arc::new(AtomicU32::new(0));
    let mut writing = JoinSet::new();
    for _ in 0..CLIENTS {
        let mut client = Client::connect(servers.respgres_port).await?;
        let next = Arc::clone(&next);
        writing.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= kind.requests() {
                    return Ok::<_, Failure>(());
                }
                let request = kind.request(number, seed);
                let request: Vec<&[u8]> = request.iter().map(String::as_bytes).collect();
                client.call(&request).await?;
            }
        });
    }
    while let Some(written) = writing.join_next().await {
        written??;
    }
    Ok(())
}

async fn until_empty(servers: &Servers) -> Result<(), Failure> {
    let mut redis = Client::connect(servers.redis_port).await?;
    let start = Instant::now();
    while redis.call(&[b"XLEN", b"respgres:journal"]).await? != BytesFrame::Integer(0) {
        if start.elapsed() > LIMIT {
            return Err(format!("the journal is not empty after {LIMIT:?}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Postgres has what was written: nobody measures a flusher that wrote nothing.
async fn check(servers: &Servers, kind: Kind) -> Result<(), Failure> {
    let count = match kind {
        Kind::Rows => return Ok(()),
        Kind::Entries => "SELECT count(*) FROM behind_entries",
        Kind::Members => "SELECT count(*) FROM behind_members",
    };
    let rows: i64 = sqlx::query_scalar(count).fetch_one(&servers.pool).await?;
    if rows != i64::from(kind.rows()) {
        return Err(format!("{kind:?}: {} rows were written, {rows} are there", kind.rows()).into());
    }
    Ok(())
}
