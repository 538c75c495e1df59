//! What Redis holds while reads are measured: all of what is to be hit, nothing of what is missed.
//!
//! Reads that shall miss walk through the keys in order, each key once a lap; behind them the keys
//! are dropped from Redis past respgres. The distance keeps a reader's own fill from coming after
//! the drop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis_protocol::resp2::types::BytesFrame;

use crate::drive::Servers;
use crate::rig::Failure;
use crate::rig::client::Client;
use crate::table::{self, ROWS};

/// Prefix of the keys that the mapping matches, and of others.
pub(crate) const MAPPED: &str = "bench";
pub(crate) const UNMAPPED: &str = "plain";

/// Prefix of the keys that are written behind.
pub(crate) const BEHIND: &str = "behind";

/// Reads that hit draw from the hashes 1 to this.
pub(crate) const CACHED_KEYS: u32 = 1000;

/// Reads that miss walk through the others.
const UNCACHED_KEYS: u32 = ROWS - CACHED_KEYS;

/// How far the dropping stays behind the reading: more than clients at a time.
const DISTANCE: u32 = 1000;

/// How often a key is read before it has to be in the cache.
const READS: u32 = 1000;

const PAUSE: Duration = Duration::from_millis(10);

/// Keys of one UNLINK.
const BATCH: u32 = 500;

/// The key of the nth read that shall miss.
pub(crate) fn uncached_id(n: u32) -> u32 {
    CACHED_KEYS + 1 + n % UNCACHED_KEYS
}

/// Makes the hashes that are hit: the same 20 fields under mapped and unmapped keys, in the cache.
pub(crate) async fn warm(servers: &Servers) -> Result<(), Failure> {
    let mut client = Client::connect(servers.respgres_port).await?;
    let mut redis = Client::connect(servers.redis_port).await?;
    for prefix in [MAPPED, BEHIND, UNMAPPED] {
        for id in 1..=CACHED_KEYS {
            let key = format!("{prefix}:{id}");
            let row = table::whole_row(id);
            let mut request: Vec<&[u8]> = vec![b"HSET", key.as_bytes()];
            request.extend(row.iter().flatten().map(String::as_bytes));
            client.call(&request).await?;
            read_until_cached(
                &mut client,
                &mut redis,
                &[b"HGETALL", key.as_bytes()],
                2 * row.len(),
            )
            .await?;
        }
    }
    Ok(())
}

/// Reads a whole key until Redis has it: a read that comes right after a write, while its mark is there,
/// fills nothing.
pub(crate) async fn read_until_cached(
    client: &mut Client,
    redis: &mut Client,
    request: &[&[u8]],
    elements: usize,
) -> Result<(), Failure> {
    for _ in 0..READS {
        match client.call(request).await? {
            BytesFrame::Array(found) if found.len() == elements => {}
            other => {
                return Err(format!("{request:?} does not give its elements: {other:?}").into());
            }
        }
        if redis.call(&[b"EXISTS", request[1]]).await? == BytesFrame::Integer(1) {
            return Ok(());
        }
    }
    Err(format!("{request:?} was read {READS} times, and Redis does not have it").into())
}

/// Drops the cached copies of all keys that shall be missed.
pub(crate) async fn empty(redis_port: u16) -> Result<(), Failure> {
    drop_between(&mut Client::connect(redis_port).await?, 0, UNCACHED_KEYS).await
}

/// Drops what was read, at a distance; does not end by itself.
pub(crate) async fn keep_emptying(redis_port: u16, cursor: Arc<AtomicU32>) -> Result<(), Failure> {
    let mut client = Client::connect(redis_port).await?;
    let mut dropped = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let until = cursor.load(Ordering::Relaxed).saturating_sub(DISTANCE);
        drop_between(&mut client, dropped, until).await?;
        dropped = dropped.max(until);
    }
}

/// The keys of the reads from the first number up to, but not with, the second.
async fn drop_between(client: &mut Client, from: u32, until: u32) -> Result<(), Failure> {
    let mut next = from;
    while next < until {
        let end = until.min(next + BATCH);
        let keys: Vec<String> =
            (next..end).map(|n| format!("{MAPPED}:{}", uncached_id(n))).collect();
        let mut request: Vec<&[u8]> = vec![b"UNLINK"];
        request.extend(keys.iter().map(String::as_bytes));
        client.call(&request).await?;
        next = end;
    }
    Ok(())
}
