//! Walking through Redis: the keys of some mappings, in batches of one mapping each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::pace::Pace;
use super::progress::Counters;
use super::{Ground, MovingError};
use crate::mapping::{MappedKey, Mapping};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};

/// Names that Redis is asked for at once.
const SCAN_COUNT: &str = "1000";

/// Keys that go to a worker together. All of their locks are held while they are written, so clients that want
/// one of them wait for so many.
pub(super) const BATCH_KEYS: usize = 250;

/// Goes through all keys of Redis, and gives those of the mappings away. Every key that is there from the
/// beginning to the end comes at least once.
pub(super) async fn walk_through_redis(
    ground: &Ground,
    mappings: &[Arc<Mapping>],
    pace: &mut Pace,
    counters: &Counters,
    tasks: &Tasks,
    to: &Sender<Vec<MappedKey>>,
) -> Result<(), MovingError> {
    let mut control = Control::new(ground.settings.control.clone());
    let size = control.command(&[Bytes::from_static(b"DBSIZE")]).await?;
    if let Frame::Integer(size) = size {
        counters.expected.store(size.unsigned_abs(), Ordering::Relaxed);
    }
    let most = pace.together(BATCH_KEYS);
    let mut waiting: HashMap<usize, Vec<MappedKey>> = HashMap::new();
    let mut cursor = Bytes::from_static(b"0");
    loop {
        if tasks.is_stopping() {
            return Err(MovingError::Cancelled);
        }
        let (next, mut names) = page(control.command(&scan(cursor)).await?)?;
        counters.add(&counters.walked, names.len());
        names.sort_unstable();
        names.dedup();
        for key in names.iter().filter_map(|name| ground.registry.mapped_key(name)) {
            if !mappings.iter().any(|mapping| mapping.index == key.mapping.index) {
                continue;
            }
            let of_mapping = waiting.entry(key.mapping.index).or_default();
            of_mapping.push(key);
            if of_mapping.len() >= most {
                give(std::mem::take(of_mapping), pace, tasks, to).await?;
            }
        }
        if &next[..] == b"0" {
            break;
        }
        cursor = next;
    }
    for (_, keys) in waiting {
        if !keys.is_empty() {
            give(keys, pace, tasks, to).await?;
        }
    }
    Ok(())
}

/// Gives a batch to whoever is free, when its time has come.
pub(super) async fn give(
    keys: Vec<MappedKey>,
    pace: &mut Pace,
    tasks: &Tasks,
    to: &Sender<Vec<MappedKey>>,
) -> Result<(), MovingError> {
    let given = async {
        pace.pass(keys.len()).await;
        // Nobody is there where all have failed; they tell why.
        to.send(keys).await.map_err(|_| MovingError::Died)
    };
    tokio::select! {
        given = given => given,
        () = tasks.stopping() => Err(MovingError::Cancelled),
    }
}

fn scan(cursor: Bytes) -> [Bytes; 4] {
    let word = |word: &'static str| Bytes::from_static(word.as_bytes());
    [word("SCAN"), cursor, word("COUNT"), word(SCAN_COUNT)]
}

/// A page of SCAN: the next cursor, and names.
fn page(told: Frame) -> Result<(Bytes, Vec<Bytes>), UpstreamError> {
    let odd = || UpstreamError::Protocol("an odd answer to SCAN".into());
    let parts = match told {
        Frame::Array(parts) => parts,
        Frame::Error(text) => return Err(UpstreamError::Refused(text.to_string())),
        _ => return Err(odd()),
    };
    let mut parts = parts.into_iter();
    match (parts.next(), parts.next()) {
        (Some(Frame::BulkString(cursor)), Some(Frame::Array(names))) => {
            let name = |frame| if let Frame::BulkString(name) = frame { Some(name) } else { None };
            Ok((cursor, names.into_iter().filter_map(name).collect()))
        }
        _ => Err(odd()),
    }
}
