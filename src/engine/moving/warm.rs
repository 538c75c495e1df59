//! Warming up: keys that have a row are filled into Redis, as the first read of each would do.
//!
//! What Redis has is left as it is; a fill is sent only if no writer was at the key before its row was read, and none
//! has come since (see `engine::miss`).

use std::sync::Arc;

use super::super::miss::MissReader;
use super::crew::{Work, deal_with_all};
use super::progress::Counters;
use super::walk::walk_through_tables;
use super::{Ground, Hand, MovingError, Speed};
use crate::mapping::{MappedKey, Mapping};
use crate::tasks::Tasks;
use crate::upstream::UpstreamError;

/// Filling Redis from Postgres.
#[derive(Clone, Debug)]
pub struct Warm {
    /// Those that leave copies in Redis.
    pub mappings: Vec<Arc<Mapping>>,
    pub speed: Speed,
}

/// A reader that nobody asks anything.
pub(super) struct Warming {
    reader: MissReader,
}

/// What is done with keys.
struct Fill;

// === impl Warm ===

impl Warm {
    pub(super) async fn run(
        self,
        ground: Arc<Ground>,
        counters: &Arc<Counters>,
        tasks: &Tasks,
    ) -> Result<(), MovingError> {
        deal_with_all(Fill, &ground, self.speed, counters, tasks, async |pace, to| {
            walk_through_tables(&ground, &self.mappings, pace, counters, tasks, to).await
        })
        .await
    }
}

// === impl Fill ===

impl Work for Fill {
    async fn deal_with(
        &self,
        hand: &mut Hand,
        keys: &[MappedKey],
        counters: &Counters,
    ) -> Result<(), MovingError> {
        let ground = Arc::clone(&hand.ground);
        let warming = hand.warming.get_or_insert_with(|| Warming::new(&ground));
        let filled = warming.fill(keys).await?;
        counters.add(&counters.written, filled);
        Ok(())
    }
}

// === impl Warming ===

impl Warming {
    pub(super) fn new(ground: &Ground) -> Self {
        let Ground { settings, trust, .. } = ground;
        let tables = Arc::clone(&ground.tables);
        Self { reader: MissReader::new(settings, Arc::clone(trust), tables, Arc::default()) }
    }

    /// Fills those that Redis does not have; how many.
    pub(super) async fn fill(&mut self, keys: &[MappedKey]) -> Result<usize, MovingError> {
        let filled = self.reader.warm(keys).await;
        filled.ok_or_else(|| UpstreamError::Lost("keys could not be filled".into()).into())
    }
}
