//! Clients that each send the next request when the last one is answered, on any of the ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame;
use sqlx::{AssertSqlSafe, Connection as _, Executor, PgConnection, PgPool, Postgres};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::rig::Failure;
use crate::rig::client::Client;
use crate::table::{COUNTER, HOT, ROWS, TRIPLES};
use crate::workload::{Operation, Way};
use crate::{cache, relay, set};

/// Before anything counts: connections are made, statements prepared, caches warm.
const WARM_UP: Duration = Duration::from_millis(300);

/// Where the requests go.
#[derive(Clone)]
pub(crate) struct Servers {
    pub(crate) respgres_port: u16,
    pub(crate) redis_port: u16,
    /// The respgres with the relay app's mappings.
    pub(crate) relay_port: u16,
    pub(crate) pool: PgPool,
    pub(crate) postgres_url: String,
}

/// One client's way of sending one request.
enum Sender {
    /// With the prefix of its keys.
    Redis(Client, &'static str),
    Pool(PgPool),
    Connection(Box<PgConnection>),
}

/// What one client measured, or all.
#[derive(Default)]
pub(crate) struct Share {
    /// Of requests; of a replay's pipelines.
    pub(crate) latencies_us: Vec<u32>,
    /// Requests answered in the time that counts.
    pub(crate) counted: u64,
    /// All that were answered.
    pub(crate) acknowledged: u64,
}

/// What a request is made of.
struct Choice {
    random: u32,
    /// For misses: a key that nobody has asked for since it was dropped from the cache.
    uncached: u32,
    /// How many requests this client has sent before.
    number: usize,
}

/// All clients' latencies.
pub(crate) async fn run(
    operation: Operation,
    clients: u32,
    way: Way,
    servers: &Servers,
    length: Duration,
    seed: u32,
) -> Result<Share, Failure> {
    let cursor = Arc::new(AtomicU32::new(0));
    let mut emptying = JoinSet::new();
    if operation == Operation::GetAllMiss && way == Way::Mapped {
        cache::empty(servers.redis_port).await?;
        emptying.spawn(cache::keep_emptying(servers.redis_port, Arc::clone(&cursor)));
    }
    let barrier = Arc::new(Barrier::new(clients as usize));
    let mut driving = JoinSet::new();
    for number in 0..clients {
        let sender = Sender::connect(operation, way, servers).await?;
        let cursor = Arc::clone(&cursor);
        let barrier = Arc::clone(&barrier);
        driving.spawn(drive(sender, operation, seed + number, cursor, barrier, length));
    }
    let mut sum = Share::default();
    while let Some(share) = driving.join_next().await {
        let share = share??;
        sum.latencies_us.extend(share.latencies_us);
        sum.counted += share.counted;
        sum.acknowledged += share.acknowledged;
    }
    // It ends before the clients only when it fails.
    if let Some(ended) = emptying.try_join_next() {
        ended??;
    }
    Ok(sum)
}

async fn drive(
    mut sender: Sender,
    operation: Operation,
    seed: u32,
    cursor: Arc<AtomicU32>,
    barrier: Arc<Barrier>,
    length: Duration,
) -> Result<Share, Failure> {
    let mut share = Share::default();
    let mut random = u64::from(seed) << 17 | 0x9e37_79b9;
    // Clients that replay do not say the same at the same time.
    let mut number = seed as usize * 97;
    barrier.wait().await;
    let from = Instant::now() + WARM_UP;
    let to = from + length;
    loop {
        let start = Instant::now();
        if start >= to {
            return Ok(share);
        }
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let uncached = cache::uncached_id(cursor.fetch_add(1, Ordering::Relaxed));
        let choice = Choice { random: (random >> 32) as u32, uncached, number };
        number += 1;
        let requests = sender.send(operation, &choice).await?;
        let end = Instant::now();
        share.acknowledged += u64::from(requests);
        if end >= from && end < to {
            share.counted += u64::from(requests);
            let latency_us = (end - start).as_micros();
            share.latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        }
    }
}

impl Sender {
    async fn connect(operation: Operation, way: Way, servers: &Servers) -> Result<Self, Failure> {
        let redis = |port, prefix| async move {
            Ok::<_, Failure>(Self::Redis(Client::connect(port).await?, prefix))
        };
        match way {
            Way::Mapped if operation == Operation::Replay => redis(servers.relay_port, "").await,
            Way::Mapped if operation == Operation::SetBehind => {
                redis(servers.respgres_port, cache::BEHIND).await
            }
            Way::Mapped => redis(servers.respgres_port, cache::MAPPED).await,
            Way::PassThrough => redis(servers.respgres_port, cache::UNMAPPED).await,
            Way::Direct => redis(servers.redis_port, cache::UNMAPPED).await,
            Way::Statement => Ok(Self::Pool(servers.pool.clone())),
            Way::Connection => {
                let connection = PgConnection::connect(&servers.postgres_url).await?;
                Ok(Self::Connection(Box::new(connection)))
            }
        }
    }

    /// The number of requests that were answered.
    async fn send(&mut self, operation: Operation, choice: &Choice) -> Result<u32, Failure> {
        match self {
            Self::Redis(client, _) if operation == Operation::Replay => {
                let pipeline = &relay::TRAFFIC[choice.number % relay::TRAFFIC.len()];
                client.pipeline(&pipeline.bytes, pipeline.requests).await?;
                return Ok(pipeline.requests);
            }
            Self::Redis(client, prefix) => command(client, prefix, operation, choice).await?,
            Self::Pool(pool) => statement(&*pool, operation, choice).await?,
            Self::Connection(connection) => statement(&mut **connection, operation, choice).await?,
        }
        Ok(1)
    }
}

impl Choice {
    fn triple(&self) -> usize {
        self.random as usize % TRIPLES.len()
    }

    /// The low bits chose the triple.
    fn id(&self) -> u32 {
        (self.random >> 5) % ROWS + 1
    }

    /// Small enough for what is made of it to fit a four-byte integer.
    fn seed(&self) -> u32 {
        self.random >> 6
    }

    fn cached(&self) -> u32 {
        self.id() % cache::CACHED_KEYS + 1
    }
}

async fn command(
    client: &mut Client,
    prefix: &str,
    operation: Operation,
    choice: &Choice,
) -> Result<(), Failure> {
    let triple = &TRIPLES[choice.triple()];
    match operation {
        Operation::Set | Operation::SetBehind => {
            let id = if operation == Operation::Set { choice.id() } else { choice.cached() };
            let key = format!("{prefix}:{id}");
            let [a, b, c] = &triple.names;
            let [x, y, z] = &triple.values(choice.seed());
            let request = ["HSET", &key, a, x, b, y, c, z].map(str::as_bytes);
            client.call(&request).await?;
        }
        Operation::HotIncrement => {
            let key = format!("{prefix}:{HOT}");
            client.call(&["HINCRBY", &key, COUNTER, "1"].map(str::as_bytes)).await?;
        }
        Operation::Get => {
            let key = format!("{prefix}:{}", choice.cached());
            let reply = client.call(&["HGET", &key, &triple.names[0]].map(str::as_bytes)).await?;
            if reply == BytesFrame::Null {
                return Err(format!("{key} has no {}", triple.names[0]).into());
            }
        }
        Operation::GetAll | Operation::GetAllMiss => {
            let misses = operation == Operation::GetAllMiss && prefix == cache::MAPPED;
            let id = if misses { choice.uncached } else { choice.cached() };
            let key = format!("{prefix}:{id}");
            match client.call(&["HGETALL", &key].map(str::as_bytes)).await? {
                BytesFrame::Array(elements) if !elements.is_empty() => {}
                other => return Err(format!("HGETALL {key} answers {other:?}").into()),
            }
        }
        Operation::AddMember => {
            let key = set::key(prefix, set::GROWING + choice.id() % set::SETS);
            client
                .call(&["SADD", &key, &set::new_member(choice.random)].map(str::as_bytes))
                .await?;
        }
        Operation::IsMember | Operation::IsMemberThrough => {
            let (id, members) = match operation {
                Operation::IsMember => (set::SMALL + choice.id() % set::SETS, set::SMALL_MEMBERS),
                _ => (set::LARGE, set::LARGE_MEMBERS),
            };
            let (key, member) = (set::key(prefix, id), set::member(choice.seed() % members));
            match client.call(&["SISMEMBER", &key, &member].map(str::as_bytes)).await? {
                BytesFrame::Integer(1) => {}
                other => return Err(format!("SISMEMBER {key} {member} is {other:?}").into()),
            }
        }
        Operation::Replay => {}
    }
    Ok(())
}

async fn statement<'c>(
    executor: impl Executor<'c, Database = Postgres>,
    operation: Operation,
    choice: &Choice,
) -> Result<(), Failure> {
    match operation {
        Operation::Set => {
            let upsert = TRIPLES[choice.triple()].upsert(choice.id(), choice.seed());
            upsert.execute(executor).await?;
        }
        Operation::HotIncrement => {
            // The one-statement form of HINCRBY.
            sqlx::query_scalar::<_, i64>(
                "INSERT INTO baseline_rows AS row (id, c0) VALUES ($1, 1) \
                 ON CONFLICT (id) DO UPDATE SET c0 = coalesce(row.c0, 0) + 1 RETURNING c0",
            )
            .bind(i64::from(HOT))
            .fetch_one(executor)
            .await?;
        }
        Operation::AddMember => {
            sqlx::query(
                "INSERT INTO baseline_members (id, member) VALUES ($1, $2) ON CONFLICT DO NOTHING",
            )
            .bind(i64::from(choice.id() % set::SETS))
            .bind(set::new_member(choice.random))
            .execute(executor)
            .await?;
        }
        Operation::IsMemberThrough => {
            sqlx::query("SELECT 1 FROM bench_members WHERE id = $1 AND member = $2")
                .bind(i64::from(set::LARGE))
                .bind(set::member(choice.seed() % set::LARGE_MEMBERS))
                .fetch_one(executor)
                .await?;
        }
        Operation::Replay | Operation::IsMember | Operation::SetBehind => {}
        Operation::GetAll | Operation::Get | Operation::GetAllMiss => {
            sqlx::query(AssertSqlSafe("SELECT * FROM baseline_rows WHERE id = $1"))
                .bind(i64::from(choice.uncached))
                .fetch_one(executor)
                .await?;
        }
    }
    Ok(())
}
