//! Verify: both sides are compared, key by key and byte by byte, while clients write.
//!
//! A key is compared without its lock first; only if it seems to be different it is looked at again under the lock,
//! where no writer is at it. What Postgres is going to have is waited for. A repair is done under the same lock: the
//! copy is dropped, as one of the outbox is, or the row gets what Redis has.
//!
//! A row whose key Redis lacks is a difference only where Redis is to have every key. While a mapping moves in it is
//! told all the same, as it may be one that nobody has meant to be there.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use super::compare::{Difference, Held, What, difference, own_left_ms};
use super::crew::{Work, deal_with_all};
use super::progress::Counters;
use super::walk::{sample_of_redis, walk_through_redis, walk_through_tables};
use super::warm::Warming;
use super::{Ground, Hand, MovingError, Speed};
use crate::command::Needs;
use crate::mapping::{MappedKey, Mapping};
use crate::store::{Change, Reading, RowLock, StoreError, StoredRow, Want};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, aside_of, mark_of};
use crate::value::Draft;

/// A value with more elements is not told in one step, so not compared.
const MOST_ELEMENTS: usize = 200_000;

/// How often, and how long apart, a key is looked at again that Postgres is going to have, or that is going to be
/// dropped.
const TRIES: u32 = 250;
const PAUSE: Duration = Duration::from_millis(20);

/// Comparing both sides.
#[derive(Clone, Debug)]
pub struct Verify {
    pub mappings: Vec<Arc<Mapping>>,
    pub speed: Speed,
    /// Only so many keys of Redis, chosen by chance.
    pub sample: Option<u64>,
    /// Redis is to have every key.
    pub is_complete: bool,
    pub repair: Option<Repair>,
}

/// Which side gets what the other one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    Redis,
    Postgres,
}

/// What is said of a key that Redis lacks.
const ALONE: &str =
    "in Postgres alone, which is no difference: copies end, and new keys are rows first";

/// What both sides have of a key under its lock.
pub(super) enum Seen {
    /// The same; or Redis has nothing of it, and need not.
    Same,
    /// The transaction that holds the lock is still open.
    Different(Box<Apart>),
    /// One side had yet to get what the other one has.
    NotYet,
}

/// The two sides that differ.
pub(super) struct Apart {
    pub(super) found: Difference,
    row: StoredRow,
    now_ms: i64,
    held: Held,
}

/// Looks for rows whose keys Redis lacks.
struct LookForAlone;

/// What is done with keys.
struct Compare {
    is_complete: bool,
    repair: Option<Repair>,
}

// === impl Verify ===

impl Verify {
    pub(super) async fn run(
        self,
        ground: Arc<Ground>,
        counters: &Arc<Counters>,
        tasks: &Tasks,
    ) -> Result<(), MovingError> {
        let Self { mappings, speed, sample, is_complete, repair } = self;
        let compare = Compare { is_complete, repair };
        let is_moving_in = |mapping: &&Arc<Mapping>| mapping.imports();
        let moving_in: Vec<Arc<Mapping>> = match sample {
            None if !is_complete => mappings.iter().filter(is_moving_in).cloned().collect(),
            _ => Vec::new(),
        };
        deal_with_all(compare, &ground, speed, counters, tasks, async |pace, to| {
            if let Some(sample) = sample {
                return sample_of_redis(&ground, &mappings, sample, pace, counters, tasks, to)
                    .await;
            }
            walk_through_redis(&ground, &mappings, pace, counters, tasks, to).await?;
            if is_complete {
                walk_through_tables(&ground, &mappings, pace, counters, tasks, to).await?;
            }
            Ok(())
        })
        .await?;
        if moving_in.is_empty() {
            return Ok(());
        }
        deal_with_all(LookForAlone, &ground, speed, counters, tasks, async |pace, to| {
            walk_through_tables(&ground, &moving_in, pace, counters, tasks, to).await
        })
        .await
    }
}

// === impl LookForAlone ===

impl Work for LookForAlone {
    /// Those that Redis has were compared before.
    const COUNTS: bool = false;

    async fn deal_with(
        &self,
        hand: &mut Hand,
        keys: &[MappedKey],
        counters: &Counters,
    ) -> Result<(), MovingError> {
        // Where a writer is at it the value is aside.
        let exists =
            |key: &MappedKey| [Bytes::from_static(b"EXISTS"), key.key.clone(), aside_of(&key.key)];
        let asked: Vec<[Bytes; 3]> = keys.iter().map(exists).collect();
        let asked: Vec<&[Bytes]> = asked.iter().map(|words| &words[..]).collect();
        for (key, told) in keys.iter().zip(hand.control.commands(&asked).await?) {
            match told {
                Frame::Integer(0) => counters.remark(key, ALONE),
                Frame::Error(text) => return Err(UpstreamError::Refused(text.to_string()).into()),
                _ => {}
            }
        }
        Ok(())
    }
}

// === impl Compare ===

impl Work for Compare {
    async fn deal_with(
        &self,
        hand: &mut Hand,
        keys: &[MappedKey],
        counters: &Counters,
    ) -> Result<(), MovingError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let mapping = hand.current(&first.mapping)?;
        let held = look(hand, &mapping, keys).await?;
        let wanted: Vec<&MappedKey> = keys.iter().collect();
        let read = hand.session().await?.read(&mapping, &wanted, RowLock::None).await?;
        for ((key, row), held) in keys.iter().zip(&read.rows).zip(&held) {
            let differs = difference(&mapping, row, read.now_ms, held, self.is_complete).is_some();
            match held {
                Held::Large => {
                    counters.note(key, "too many elements to be compared".to_owned(), "");
                }
                Held::Dirty => self.look_again(hand, &mapping, key, counters).await?,
                _ if differs => self.look_again(hand, &mapping, key, counters).await?,
                _ => {}
            }
        }
        Ok(())
    }
}

impl Compare {
    /// Compares a key under its lock; tells, and repairs.
    async fn look_again(
        &self,
        hand: &mut Hand,
        mapping: &Arc<Mapping>,
        key: &MappedKey,
        counters: &Counters,
    ) -> Result<(), MovingError> {
        let apart = match look_under_lock(hand, mapping, key, self.is_complete, TRIES).await? {
            Seen::Same => return Ok(()),
            Seen::NotYet => {
                let what = "Postgres has not caught up with Redis, or the other way";
                counters.note(key, what.to_owned(), "");
                return Ok(());
            }
            Seen::Different(apart) => apart,
        };
        let Apart { found, row, now_ms, held } = *apart;
        counters.note(key, found.what.text().to_owned(), &found.detail);
        let repaired = match self.repair {
            None => Ok(false),
            Some(Repair::Redis) => self.to_redis(hand, mapping, key, &found).await,
            Some(Repair::Postgres) => {
                to_postgres(hand, mapping, key, &row, (&held, &found), now_ms).await
            }
        };
        // What has been committed has ended by itself.
        if let Some(session) = hand.session.as_mut() {
            session.rollback().await?;
        }
        match repaired {
            Ok(true) => counters.add(&counters.written, 1),
            Ok(false) => {}
            Err(MovingError::Store(
                error @ (StoreError::Refused { .. } | StoreError::Unencodable(_)),
            )) => counters.note_more(key, "not repaired".to_owned(), &error.to_string()),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Redis gets what Postgres has: what it has goes, under the lock, as what is in the outbox does.
    async fn to_redis(
        &self,
        hand: &mut Hand,
        mapping: &Arc<Mapping>,
        key: &MappedKey,
        found: &Difference,
    ) -> Result<bool, MovingError> {
        let session = hand.session().await?;
        if found.what == What::MissingInPostgres
            && mapping.imports()
            && session.has_had(mapping, &[&key.key]).await? == [false]
        {
            // Nobody else has it.
            return Ok(false);
        }
        if found.what != What::MissingInRedis {
            drop_copy(&mut hand.control, key).await?;
        }
        if self.is_complete {
            hand.session().await?.rollback().await?;
            let mut warming = Warming::new(&hand.ground);
            warming.fill(std::slice::from_ref(key)).await?;
        }
        Ok(true)
    }
}

/// Compares a key under its lock, where no writer is at it. What one side is going to get is waited for, so many
/// times.
pub(super) async fn look_under_lock(
    hand: &mut Hand,
    mapping: &Arc<Mapping>,
    key: &MappedKey,
    is_complete: bool,
    tries: u32,
) -> Result<Seen, MovingError> {
    for _ in 0..tries {
        let needs = Needs { whole: true, ..Needs::default() };
        let wants = vec![Want { key, needs: &needs, whole_up_to: 0 }];
        let session = hand.session().await?;
        let mut read =
            session.begin_reading(&[key.lock()], &[Reading { mapping, wants }]).await?.remove(0);
        let is_going = session.is_key_in_outbox(&key.key).await?;
        let (row, now_ms) = (read.rows.pop().unwrap_or_default(), read.now_ms);
        let one = std::slice::from_ref(key);
        let held = look(hand, mapping, one).await?.pop().unwrap_or(Held::Nothing);
        if is_going || matches!(held, Held::Dirty) {
            hand.session().await?.rollback().await?;
            hand.ground.trust.journal.want();
            sleep(PAUSE).await;
            continue;
        }
        return match difference(mapping, &row, now_ms, &held, is_complete) {
            Some(found) => Ok(Seen::Different(Box::new(Apart { found, row, now_ms, held }))),
            None => {
                hand.session().await?.rollback().await?;
                Ok(Seen::Same)
            }
        };
    }
    Ok(Seen::NotYet)
}

/// The row becomes what Redis has.
async fn to_postgres(
    hand: &mut Hand,
    mapping: &Arc<Mapping>,
    key: &MappedKey,
    row: &StoredRow,
    (held, found): (&Held, &Difference),
    now_ms: i64,
) -> Result<bool, MovingError> {
    if matches!(held, Held::Nothing) {
        // A reader who has read the row before may be about to fill.
        drop_copy(&mut hand.control, key).await?;
    }
    let session = hand.session().await?;
    let mut draft = Draft::new(mapping.holds(), row.record.clone());
    match held {
        Held::Nothing => {
            draft.delete();
        }
        Held::Value { record, ends_at_ms, left_ms } => {
            if row.record.is_none()
                && mapping.imports()
                && session.has_had(mapping, &[&key.key]).await? == [false]
            {
                // The import is to do it, with all that belongs to that.
                session.rollback().await?;
                let imported = hand.importer().import(key).await?;
                return Ok(matches!(imported, super::super::import::Outcome::Imported));
            }
            let stored = row.record.as_ref().map(|record| &record.fields);
            let gone = stored.into_iter().flat_map(|fields| fields.keys());
            let gone: Vec<Bytes> =
                gone.filter(|name| !record.fields.contains_key(*name)).cloned().collect();
            for (name, value) in &record.fields {
                mapping.layout.check_field(name, value).map_err(StoreError::Unencodable)?;
                if draft.get(name) != Some(value) {
                    draft.set(name.clone(), value.clone());
                }
            }
            for name in gone {
                draft.remove(&name);
            }
            if found.what != What::Value {
                let left_ms = own_left_ms(*ends_at_ms, *left_ms);
                draft.set_expires_at_ms(left_ms.map(|left_ms| now_ms.saturating_add(left_ms)));
            }
        }
        Held::Dirty | Held::OtherType(_) | Held::Large => return Ok(false),
    }
    let changes = [Change { key, present: row.present, draft: &draft }];
    session.write_and_commit(&[(&**mapping, &changes)]).await?;
    Ok(true)
}

/// Whatever Redis has of a key goes, and nobody who has read it before may fill; under the key's lock.
async fn drop_copy(control: &mut Control, key: &MappedKey) -> Result<(), MovingError> {
    let keys = vec![key.key.clone(), mark_of(&key.key), aside_of(&key.key)];
    match control.call(&[Call { script: Script::Inval, keys, arguments: Vec::new() }]).await?.pop()
    {
        Some(Frame::Array(dirty)) if dirty.is_empty() => Ok(()),
        Some(Frame::Error(text)) => Err(UpstreamError::Refused(text.to_string()).into()),
        _ => Err(MovingError::Stuck),
    }
}

/// What Redis has of keys of one mapping, in the run in which the job began.
pub(super) async fn look(
    hand: &mut Hand,
    mapping: &Mapping,
    keys: &[MappedKey],
) -> Result<Vec<Held>, MovingError> {
    let call = Call {
        script: Script::Look,
        keys: keys.iter().flat_map(|key| [key.key.clone(), mark_of(&key.key)]).collect(),
        arguments: vec![
            Bytes::from_static(mapping.holds().name().as_bytes()),
            Bytes::from(MOST_ELEMENTS.to_string()),
        ],
    };
    let told = hand.control.call(&[call]).await?.pop();
    if hand.ground.trust.is_elsewhere(hand.control.run_id().await?) {
        return Err(MovingError::StartedAnew);
    }
    let answers = match told {
        Some(Frame::Array(answers)) if answers.len() == keys.len() => answers,
        Some(Frame::Error(text)) => return Err(UpstreamError::Refused(text.to_string()).into()),
        _ => return Err(UpstreamError::Protocol("an odd answer to a look".into()).into()),
    };
    let held = answers.into_iter().map(|answer| Held::of(answer, mapping));
    Ok(held.collect::<Result<_, _>>()?)
}
