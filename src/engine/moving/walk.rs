//! Walking through Redis, or through tables: the keys of some mappings, in batches of one mapping each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;

use super::pace::Pace;
use super::progress::Counters;
use super::{Ground, MovingError};
use crate::mapping::{MappedKey, Mapping};
use crate::store::Session;
use crate::tasks::Tasks;
use crate::upstream::control::{Control, Frame, scan_page};

/// Names that Redis is asked for at once.
const SCAN_COUNT: &str = "1000";

/// Keys that go to a worker together. All of their locks are held while they are written, so clients that want
/// one of them wait for so many.
pub(super) const BATCH_KEYS: usize = 250;

/// How often RANDOMKEY is asked for each key of a sample.
const MOST_DRAWS: u64 = 20;

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
        ground.hold_on(tasks).await?;
        let (next, mut names) = scan_page(control.command(&scan(cursor)).await?)?;
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

/// Gives so many keys of the mappings away that Redis chooses by chance, or fewer where there are hardly any.
pub(super) async fn sample_of_redis(
    ground: &Ground,
    mappings: &[Arc<Mapping>],
    sample: u64,
    pace: &mut Pace,
    counters: &Counters,
    tasks: &Tasks,
    to: &Sender<Vec<MappedKey>>,
) -> Result<(), MovingError> {
    let mut control = Control::new(ground.settings.control.clone());
    counters.expected.store(sample, Ordering::Relaxed);
    let (mut left, mut draws) = (sample, sample.saturating_mul(MOST_DRAWS));
    let word = [Bytes::from_static(b"RANDOMKEY")];
    while left > 0 && draws > 0 {
        let together = usize::try_from(draws.min(BATCH_KEYS as u64)).unwrap_or(BATCH_KEYS);
        draws -= together as u64;
        ground.hold_on(tasks).await?;
        let mut of_mapping: HashMap<usize, Vec<MappedKey>> = HashMap::new();
        for frame in control.commands(&vec![&word[..]; together]).await? {
            let Frame::BulkString(name) = frame else { continue };
            let Some(key) = ground.registry.mapped_key(&name) else { continue };
            if left > 0 && mappings.iter().any(|mapping| mapping.index == key.mapping.index) {
                left -= 1;
                of_mapping.entry(key.mapping.index).or_default().push(key);
            }
        }
        for (_, keys) in of_mapping {
            counters.add(&counters.walked, keys.len());
            give(keys, pace, tasks, to).await?;
        }
    }
    Ok(())
}

/// Goes through the rows of the mappings, and gives their keys away.
pub(super) async fn walk_through_tables(
    ground: &Ground,
    mappings: &[Arc<Mapping>],
    pace: &mut Pace,
    counters: &Counters,
    tasks: &Tasks,
    to: &Sender<Vec<MappedKey>>,
) -> Result<(), MovingError> {
    let mut session = Session::connect(&ground.settings.postgres).await?;
    for mapping in mappings {
        let size = session.table_size(mapping).await?;
        counters.expected.fetch_add(size.keys.unsigned_abs(), Ordering::Relaxed);
    }
    session.walk_along_indexes().await?;
    let most = pace.together(BATCH_KEYS);
    for mapping in mappings {
        let mut after = None;
        loop {
            if tasks.is_stopping() {
                return Err(MovingError::Cancelled);
            }
            let page = session.key_page(mapping, after.as_ref(), most).await?;
            counters.add(&counters.walked, page.looked_at);
            let keys = page.keys.iter();
            let keys = keys.filter_map(|values| ground.registry.key_of_row(mapping, values));
            give(keys.collect(), pace, tasks, to).await?;
            after = page.last;
            if after.is_none() {
                break;
            }
        }
    }
    session.close().await;
    Ok(())
}
