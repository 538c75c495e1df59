//! Clients that each send the next request when the last one is answered, on either side.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis_protocol::resp2::types::BytesFrame;
use sqlx::PgPool;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::rig::Failure;
use crate::rig::client::Client;
use crate::rig::figure::quantile;
use crate::table::{COUNTER, HOT, ROWS, TRIPLES};

/// Before anything counts: connections are made, statements prepared, caches warm.
const WARM_UP: Duration = Duration::from_millis(500);

/// Reads draw from this many hashes, which `warm` has put into the cache.
const READ_KEYS: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Operation {
    /// HSET of 3 of 20 fields of a random key; the upsert of 3 columns.
    Set,
    /// HINCRBY of one field of one key by everybody; `SET c = c + 1 … RETURNING`.
    HotIncrement,
    /// HGETALL of a cached hash.
    GetAll,
    /// HGET of a cached hash.
    Get,
}

#[derive(Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Side {
    /// Through the mapping.
    Mapped,
    /// For writes the pool, for reads pass-through.
    Baseline,
}

pub(crate) struct Workload {
    pub(crate) operation: Operation,
    pub(crate) clients: u32,
}

/// What one run gave.
#[derive(serde::Serialize)]
pub(crate) struct Measurement {
    pub(crate) round: u32,
    pub(crate) operation: Operation,
    pub(crate) clients: u32,
    pub(crate) side: Side,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// All operations that were answered, also those before and after the time that counts.
    pub(crate) acknowledged: u64,
}

/// Where the requests go.
#[derive(Clone)]
pub(crate) struct Servers {
    pub(crate) port: u16,
    pub(crate) pool: PgPool,
}

/// One client's way of sending one request.
enum Sender {
    Redis(Client, Side),
    Postgres(PgPool),
}

/// What one client measured.
struct Share {
    latencies_us: Vec<u32>,
    acknowledged: u64,
}

impl Operation {
    pub(crate) fn is_read(self) -> bool {
        matches!(self, Self::GetAll | Self::Get)
    }
}

impl Side {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Baseline => "baseline",
        }
    }

    /// The table that this side writes to.
    pub(crate) fn table(self) -> &'static str {
        match self {
            Self::Mapped => "bench_rows",
            Self::Baseline => "baseline_rows",
        }
    }

    /// The prefix of this side's keys.
    fn prefix(self) -> &'static str {
        match self {
            Self::Mapped => "bench",
            Self::Baseline => "plain",
        }
    }
}

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        let mut workloads = Vec::new();
        for operation in [Operation::Set, Operation::HotIncrement] {
            for clients in [1, 50, 200] {
                workloads.push(Self { operation, clients });
            }
        }
        for operation in [Operation::GetAll, Operation::Get] {
            workloads.push(Self { operation, clients: 50 });
        }
        workloads
    }

    /// Such as `hset c200`.
    pub(crate) fn name(&self) -> String {
        let command = match self.operation {
            Operation::Set => "hset",
            Operation::HotIncrement => "hincrby",
            Operation::GetAll => "hgetall",
            Operation::Get => "hget",
        };
        format!("{command} c{}", self.clients)
    }

    pub(crate) async fn measure(
        &self,
        round: u32,
        side: Side,
        servers: &Servers,
        length: Duration,
    ) -> Result<Measurement, Failure> {
        let barrier = Arc::new(Barrier::new(self.clients as usize));
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let sender = if side == Side::Mapped || self.operation.is_read() {
                Sender::Redis(Client::connect(servers.port).await?, side)
            } else {
                Sender::Postgres(servers.pool.clone())
            };
            let seed = round * 1000 + number;
            clients.spawn(drive(sender, self.operation, seed, Arc::clone(&barrier), length));
        }
        let mut latencies_us = Vec::new();
        let mut acknowledged = 0;
        while let Some(share) = clients.join_next().await {
            let share = share??;
            latencies_us.extend(share.latencies_us);
            acknowledged += share.acknowledged;
        }
        latencies_us.sort_unstable();
        Ok(Measurement {
            round,
            operation: self.operation,
            clients: self.clients,
            side,
            per_second: latencies_us.len() as f64 / length.as_secs_f64(),
            p50_us: quantile(&latencies_us, 0.5),
            p99_us: quantile(&latencies_us, 0.99),
            acknowledged,
        })
    }
}

/// Makes the hashes that are read: the same fields under mapped and unmapped keys, in the cache.
pub(crate) async fn warm(servers: &Servers) -> Result<(), Failure> {
    let mut client = Client::connect(servers.port).await?;
    for side in [Side::Mapped, Side::Baseline] {
        for id in 1..=READ_KEYS {
            let key = format!("{}:{id}", side.prefix());
            for triple in TRIPLES.iter() {
                let [a, b, c] = &triple.names;
                let [x, y, z] = &triple.values(id);
                let request = ["HSET", &key, a, x, b, y, c, z].map(str::as_bytes);
                client.call(&request).await?;
            }
            match client.call(&[b"HGETALL", key.as_bytes()]).await? {
                BytesFrame::Array(elements) if elements.len() == 40 => {}
                other => return Err(format!("{key} does not have its 20 fields: {other:?}").into()),
            }
        }
    }
    Ok(())
}

async fn drive(
    mut sender: Sender,
    operation: Operation,
    seed: u32,
    barrier: Arc<Barrier>,
    length: Duration,
) -> Result<Share, Failure> {
    let mut share = Share { latencies_us: Vec::new(), acknowledged: 0 };
    let mut random = u64::from(seed) << 17 | 0x9e37_79b9;
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
        sender.send(operation, (random >> 32) as u32).await?;
        let end = Instant::now();
        share.acknowledged += 1;
        if end >= from && end < to {
            let latency_us = (end - start).as_micros();
            share.latencies_us.push(u32::try_from(latency_us).unwrap_or(u32::MAX));
        }
    }
}

impl Sender {
    async fn send(&mut self, operation: Operation, random: u32) -> Result<(), Failure> {
        let triple = &TRIPLES[random as usize % TRIPLES.len()];
        // The low bits chose the triple; the values shall fit a four-byte integer.
        let (id, seed) = ((random >> 5) % ROWS + 1, random >> 6);
        match self {
            Self::Redis(client, side) => {
                let prefix = side.prefix();
                match operation {
                    Operation::Set => {
                        let key = format!("{prefix}:{id}");
                        let [a, b, c] = &triple.names;
                        let [x, y, z] = &triple.values(seed);
                        let request = ["HSET", &key, a, x, b, y, c, z].map(str::as_bytes);
                        client.call(&request).await?;
                    }
                    Operation::HotIncrement => {
                        let key = format!("{prefix}:{HOT}");
                        let request = ["HINCRBY", &key, COUNTER, "1"].map(str::as_bytes);
                        client.call(&request).await?;
                    }
                    Operation::GetAll => {
                        let key = format!("{prefix}:{}", id % READ_KEYS + 1);
                        client.call(&["HGETALL", &key].map(str::as_bytes)).await?;
                    }
                    Operation::Get => {
                        let key = format!("{prefix}:{}", id % READ_KEYS + 1);
                        client.call(&["HGET", &key, &triple.names[0]].map(str::as_bytes)).await?;
                    }
                }
            }
            Self::Postgres(pool) => match operation {
                Operation::Set => {
                    triple.upsert(id, seed).execute(&*pool).await?;
                }
                _ => {
                    // The one-statement form of HINCRBY.
                    sqlx::query_scalar::<_, i64>(
                        "INSERT INTO baseline_rows AS row (id, c0) VALUES ($1, 1) \
                         ON CONFLICT (id) DO UPDATE SET c0 = coalesce(row.c0, 0) + 1 RETURNING c0",
                    )
                    .bind(i64::from(HOT))
                    .fetch_one(&*pool)
                    .await?;
                }
            },
        }
        Ok(())
    }
}
