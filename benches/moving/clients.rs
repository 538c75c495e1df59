//! Clients of a running respgres, and how long they wait, with a throttled backfill beside them and without.
//!
//! Paced clients send their requests when it is time, whether or not the last one was answered soon, and wait since
//! then: as those of an app. The others send the next one when the last is answered, which keeps the
//! machine busy without any backfill.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::Options;
use crate::house::House;
use crate::rig::Failure;
use crate::rig::client::Client;
use crate::rig::figure::quantile;

const CLIENTS: u32 = 8;

/// Keys that have come over before.
const MOVED: u64 = 10_000;

/// How long a backfill runs before clients come.
const RUN_UP: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    Read,
    WriteMoved,
    WriteAny,
}

/// What clients do, and whether at a pace.
#[derive(Clone, Copy)]
pub(crate) struct Workload {
    pub(crate) request: Request,
    pub(crate) is_paced: bool,
}

/// Of one run.
pub(crate) struct Figure {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) per_second: f64,
}

// === impl Request ===

impl Request {
    /// Of all paced clients together: far less than they could. Each write waits for a disk.
    fn per_second(self) -> u32 {
        if self == Self::Read { 1000 } else { 100 }
    }
}

// === impl Workload ===

impl Workload {
    fn all() -> impl Iterator<Item = Self> {
        let requests = [Request::Read, Request::WriteMoved, Request::WriteAny];
        [true, false].into_iter().flat_map(move |is_paced| {
            requests.into_iter().map(move |request| Self { request, is_paced })
        })
    }

    pub(crate) fn name(self) -> String {
        let request = match self.request {
            Request::Read => "HGET of any key",
            Request::WriteMoved => "HINCRBY of keys that have come over",
            Request::WriteAny => "HINCRBY of any key",
        };
        let pace = if self.is_paced {
            format!("{} a second", self.request.per_second())
        } else {
            "one after the other".to_owned()
        };
        format!("{request}, {pace}")
    }

    async fn measure(self, house: &House, options: &Options) -> Result<Figure, Failure> {
        let length = Duration::from_secs_f64(options.seconds);
        let mut clients = JoinSet::new();
        for number in 0..CLIENTS {
            clients.spawn(self.client(house.port, options.keys, number, length));
        }
        let mut waits = Vec::new();
        while let Some(of_client) = clients.join_next().await {
            waits.append(&mut of_client??);
        }
        waits.sort_unstable();
        Ok(Figure {
            p50_us: quantile(&waits, 0.5),
            p99_us: quantile(&waits, 0.99),
            per_second: waits.len() as f64 / options.seconds,
        })
    }

    /// How long each request took, µs.
    async fn client(
        self,
        port: u16,
        keys: u64,
        number: u32,
        length: Duration,
    ) -> Result<Vec<u32>, Failure> {
        let mut client = Client::connect(port).await?;
        let each = Duration::from_secs(1) * CLIENTS / self.request.per_second();
        let start = Instant::now();
        let mut due = start + each * number / CLIENTS;
        let mut waits = Vec::new();
        while start.elapsed() < length {
            if self.is_paced {
                sleep_until(due).await;
            } else {
                due = Instant::now();
            }
            let most = if self.request == Request::WriteMoved { MOVED.min(keys) } else { keys };
            let key = format!("thing:{:07}", fastrand::u64(..most));
            let reply = match self.request {
                Request::Read => client.call(&[b"HGET", key.as_bytes(), b"name"]).await?,
                _ => client.call(&[b"HINCRBY", key.as_bytes(), b"likes", b"1"]).await?,
            };
            drop(reply);
            waits.push(u32::try_from(due.elapsed().as_micros()).unwrap_or(u32::MAX));
            due += each;
        }
        Ok(waits)
    }
}

/// Clients alone, and then beside a backfill at this rate.
///
/// # Errors
/// When the backfill ends before the clients do.
pub(crate) async fn beside(
    house: &House,
    options: &Options,
    rate: u64,
) -> Result<Vec<(Workload, Vec<Figure>, Vec<Figure>)>, Failure> {
    let mut client = Client::connect(house.port).await?;
    for number in 0..MOVED.min(options.keys) {
        let key = format!("thing:{number:07}");
        client.call(&[b"HINCRBY", key.as_bytes(), b"likes", b"1"]).await?;
    }
    let mut all: Vec<(Workload, Vec<Figure>, Vec<Figure>)> =
        Workload::all().map(|workload| (workload, Vec::new(), Vec::new())).collect();
    for round in 0..options.rounds {
        eprintln!("clients alone, round {} of {}", round + 1, options.rounds);
        for (workload, alone, _) in &mut all {
            alone.push(workload.measure(house, options).await?);
        }
    }
    let words = ["backfill", "--rate", &rate.to_string()].map(str::to_owned);
    let mut backfill = house.begin(&words)?;
    tokio::time::sleep(RUN_UP).await;
    for round in 0..options.rounds {
        eprintln!("beside {rate} keys/s, round {} of {}", round + 1, options.rounds);
        for (workload, _, beside) in &mut all {
            beside.push(workload.measure(house, options).await?);
            if !backfill.is_running()? {
                return Err("the backfill ended too soon: take more keys".into());
            }
        }
    }
    Ok(all)
}
