//! What is measured: an operation, a number of clients, and the ways that lead to the same end.

use std::time::Duration;

use crate::behind;
use crate::drive;
use crate::house::House;
use crate::rig::Failure;
use crate::rig::figure::quantile;

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Operation {
    /// HSET of 3 of 20 fields of a random key; the upsert of 3 columns.
    Set,
    /// HSET of 3 of 20 fields of a cached hash whose mapping is written behind.
    SetBehind,
    /// HINCRBY of one field of one key by everybody; `SET c = c + 1 … RETURNING`.
    HotIncrement,
    /// HGETALL of a cached hash.
    GetAll,
    /// HGET of a cached hash.
    Get,
    /// HGETALL of a hash that Redis does not have; `SELECT` of the row.
    GetAllMiss,
    /// SADD of a new member to one of many sets; `INSERT` of the row.
    AddMember,
    /// SISMEMBER of a cached set.
    IsMember,
    /// SISMEMBER of a set that is too large to be cached; `SELECT` of the row.
    IsMemberThrough,
    /// What a real app once said, in its pipelines; of several clients each says it all.
    Replay,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub(crate) enum Way {
    /// Through the mapping.
    Mapped,
    /// One sqlx statement at a time on a pool of 16 connections.
    Statement,
    /// The same on a connection of the client's own, which nothing checks or waits for: for a write,
    /// a bare commit.
    Connection,
    /// Through respgres, keys that no mapping matches.
    PassThrough,
    /// Redis itself.
    Direct,
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
    pub(crate) way: Way,
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// A request, of respgres, Postgres and Redis.
    pub(crate) cpu_us: [f64; 3],
    /// All operations that were answered, also those before and after the time that counts.
    pub(crate) acknowledged: u64,
}

impl Operation {
    const ALL: [Self; 10] = [
        Self::Set,
        Self::SetBehind,
        Self::HotIncrement,
        Self::GetAll,
        Self::Get,
        Self::GetAllMiss,
        Self::AddMember,
        Self::IsMember,
        Self::IsMemberThrough,
        Self::Replay,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Set => "hset",
            Self::SetBehind => "hset behind",
            Self::HotIncrement => "hincrby hot",
            Self::GetAll => "hgetall hit",
            Self::Get => "hget hit",
            Self::GetAllMiss => "hgetall miss",
            Self::AddMember => "sadd",
            Self::IsMember => "sismember hit",
            Self::IsMemberThrough => "sismember through",
            Self::Replay => "relay replay",
        }
    }
}

impl Way {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mapped => "mapped",
            Self::Statement => "one statement, pool",
            Self::Connection => "bare commit",
            Self::PassThrough => "pass-through",
            Self::Direct => "direct Redis",
        }
    }
}

impl Workload {
    pub(crate) fn all() -> Vec<Self> {
        Operation::ALL
            .into_iter()
            .flat_map(|operation| [1, 50, 200].map(|clients| Self { operation, clients }))
            .collect()
    }

    /// Such as `hset c200`.
    pub(crate) fn name(&self) -> String {
        format!("{} c{}", self.operation.name(), self.clients)
    }

    /// The ways of this operation, `Mapped` first.
    pub(crate) fn ways(&self) -> Vec<Way> {
        let mut ways = vec![Way::Mapped];
        match self.operation {
            Operation::Set | Operation::HotIncrement | Operation::AddMember => {
                ways.push(Way::Statement);
                if self.clients == 1 {
                    ways.push(Way::Connection);
                }
                ways.push(Way::Direct);
            }
            Operation::SetBehind
            | Operation::GetAll
            | Operation::Get
            | Operation::IsMember
            | Operation::Replay => ways.extend([Way::PassThrough, Way::Direct]),
            Operation::GetAllMiss | Operation::IsMemberThrough => {
                ways.extend([Way::Statement, Way::Direct]);
            }
        }
        ways
    }

    pub(crate) async fn measure(
        &self,
        round: u32,
        way: Way,
        house: &House,
        length: Duration,
    ) -> Result<Measurement, Failure> {
        let seed = round * 1000;
        let servers = &house.servers;
        let before = house.cpu_seconds()?;
        let run = drive::run(self.operation, self.clients, way, servers, length, seed);
        let share =
            run.await.map_err(|error| format!("{} ({}): {error}", self.name(), way.name()))?;
        let after = house.cpu_seconds()?;
        let cpu_us =
            std::array::from_fn(|at| (after[at] - before[at]) * 1e6 / share.acknowledged as f64);
        if self.operation == Operation::SetBehind && way == Way::Mapped {
            // Nobody else pays for what it has left to do.
            let drained = behind::drain(servers.respgres_port).await?;
            eprintln!("{} (round {round}): {drained}", self.name());
        }
        let mut latencies_us = share.latencies_us;
        latencies_us.sort_unstable();
        Ok(Measurement {
            round,
            operation: self.operation,
            clients: self.clients,
            way,
            per_second: share.counted as f64 / length.as_secs_f64(),
            p50_us: quantile(&latencies_us, 0.5),
            p99_us: quantile(&latencies_us, 0.99),
            cpu_us,
            acknowledged: share.acknowledged,
        })
    }
}
