//! The backfill: every key that only Redis has is brought to Postgres.
//!
//! It is the import of `engine::import`, of many keys at once. A key that somebody writes through a proxy meanwhile
//! is imported by whoever has its lock first. Keys that have a row are passed over without their lock, so a
//! backfill that was killed and is begun again soon is where it was.
//!
//! What a table refuses stays in Redis, is noted, and stops nothing.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::super::import::Outcome;
use super::super::through::connected;
use super::super::transaction::Failure;
use super::crew::{Work, deal_with_all};
use super::progress::Counters;
use super::walk::walk_through_redis;
use super::{Ground, Hand, MovingError, Speed};
use crate::command::Needs;
use crate::mapping::{MappedKey, Mapping, Phase};
use crate::protocol::Reply;
use crate::store::{RowLock, StoreError, Want};
use crate::tasks::Tasks;

/// How often, and how long apart, a key is tried again that somebody is at.
const BUSY_TRIES: u32 = 50;
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// Bringing what only Redis has to Postgres.
#[derive(Clone, Debug)]
pub struct Backfill {
    /// Those that have not migrated.
    pub mappings: Vec<Arc<Mapping>>,
    pub speed: Speed,
}

/// What is done with keys that may have no row.
struct Import;

// === impl Backfill ===

impl Backfill {
    pub(super) async fn run(
        self,
        ground: Arc<Ground>,
        counters: &Arc<Counters>,
        tasks: &Tasks,
    ) -> Result<(), MovingError> {
        self.advance(&ground, Phase::Backfill, tasks).await?;
        deal_with_all(Import, &ground, self.speed, counters, tasks, async |pace, to| {
            walk_through_redis(&ground, &self.mappings, pace, counters, tasks, to).await
        })
        .await?;
        if counters.progress().findings == 0 {
            self.advance(&ground, Phase::Verify, tasks).await?;
        }
        Ok(())
    }

    /// Records the phase, of mappings that are not as far.
    async fn advance(
        &self,
        ground: &Ground,
        phase: Phase,
        tasks: &Tasks,
    ) -> Result<(), MovingError> {
        ground.hold_on(tasks).await?;
        let names: Vec<&str> = self.mappings.iter().map(|mapping| &mapping.name[..]).collect();
        let mut session = ground.session.lock().await;
        let session = connected(&mut session, &ground.settings).await?;
        Ok(session.advance_phases(&names, phase).await?)
    }
}

// === impl Import ===

impl Work for Import {
    async fn deal_with(
        &self,
        hand: &mut Hand,
        keys: &[MappedKey],
        counters: &Counters,
    ) -> Result<(), MovingError> {
        let Some(first) = keys.first() else { return Ok(()) };
        let mapping = hand.current(&first.mapping)?;
        let missing = if hand.meets_rows {
            without_row(hand, &mapping, keys).await?
        } else {
            // These have none either, as it seems; the import sees that anyway.
            keys.iter().collect()
        };
        hand.meets_rows = missing.len() < keys.len();
        // The first part last.
        let mut parts = vec![&missing[..]];
        while let Some(part) = parts.pop() {
            let (first, second) = match part {
                [] => continue,
                [key] => {
                    alone(hand, key, counters).await?;
                    continue;
                }
                part => part.split_at(part.len() / 2),
            };
            match hand.importer().import_together(&mapping, part).await {
                Ok(done) => {
                    counters.add(&counters.written, done.imported);
                    hand.meets_rows |= done.no_originals > 0;
                    for at in done.left_out {
                        alone(hand, part[at], counters).await?;
                    }
                }
                // One of them is to blame.
                Err(Failure::Store(StoreError::Refused { .. } | StoreError::Unencodable(_))) => {
                    parts.extend([second, first]);
                }
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(())
    }
}

/// Those of which Postgres has no row, as it seems.
async fn without_row<'k>(
    hand: &mut Hand,
    mapping: &Mapping,
    keys: &'k [MappedKey],
) -> Result<Vec<&'k MappedKey>, MovingError> {
    let needs = Needs { existence: true, ..Needs::default() };
    let wants: Vec<Want<'_>> =
        keys.iter().map(|key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
    let read = hand.session().await?.read_parts(mapping, &wants, RowLock::None).await?;
    Ok(keys.iter().zip(read.rows).filter(|(_, row)| !row.present).map(|(key, _)| key).collect())
}

/// Imports a key; notes why it cannot be.
async fn alone(hand: &mut Hand, key: &MappedKey, counters: &Counters) -> Result<(), MovingError> {
    let mut tries = 0;
    loop {
        match hand.importer().import(key).await {
            Ok(Outcome::Imported) => counters.add(&counters.written, 1),
            Ok(Outcome::NoOriginal) => {}
            Ok(Outcome::Refused { reply, .. }) => counters.note(key, text_of(reply), ""),
            Err(Failure::Dirty) if tries < BUSY_TRIES => {
                tries += 1;
                hand.ground.trust.journal.want();
                sleep(BUSY_PAUSE).await;
                continue;
            }
            Err(Failure::Dirty) => {
                counters.note(key, "somebody was at it all the time; begin again".to_owned(), "");
            }
            Err(failure) => return Err(failure.into()),
        }
        return Ok(());
    }
}

fn text_of(reply: Reply) -> String {
    match reply {
        Reply::Error(text) => text.strip_prefix("ERR ").map(str::to_owned).unwrap_or(text),
        other => format!("{other:?}"),
    }
}
