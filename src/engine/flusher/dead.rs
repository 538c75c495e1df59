//! What Postgres refuses of a batch: it is searched for by trying parts, and kept as dead letters.

use super::{Batch, Flusher, Purpose, Trouble};
use crate::store::{Applied, Letter, StoreError};
use crate::upstream::journal::EntryId;

/// A batch of more keys is not searched for what Postgres refuses: smaller ones are.
pub(super) const SEARCHED_KEYS: usize = 500;

// === impl Flusher ===

impl Flusher {
    /// Finds what Postgres refuses among these keys, and gives the others.
    pub(super) async fn sort_out(
        &mut self,
        batch: &mut Batch,
        suspects: Vec<usize>,
    ) -> Result<Vec<usize>, Trouble> {
        let mut good: Vec<usize> = Vec::new();
        let mut parts = vec![suspects];
        while let Some(mut part) = parts.pop() {
            let tried: Vec<usize> = good.iter().chain(&part).copied().collect();
            match self.attempt(batch, &tried, Purpose::Trial).await {
                Ok(_) => good = tried,
                Err(
                    trouble @ (Trouble::NoSum(_)
                    | Trouble::Store(
                        StoreError::Refused { .. }
                        | StoreError::Unencodable(_)
                        | StoreError::LayoutChanged { .. },
                    )),
                ) => {
                    if let [at] = part[..] {
                        batch.dead.push((at, trouble.to_string()));
                    } else {
                        let second = part.split_off(part.len() / 2);
                        parts.extend([second, part]);
                    }
                }
                Err(trouble) => return Err(trouble),
            }
        }
        Ok(good)
    }
}

// === impl Batch ===

impl Batch {
    /// Whether a smaller one is better searched for what Postgres refuses: each try writes all that was found good
    /// so far. One entry cannot be divided.
    pub(super) fn is_too_large_to_search(&self) -> bool {
        self.keys.len() > SEARCHED_KEYS && self.first < self.last
    }
}

pub(super) fn letters(batch: &Batch) -> Vec<Letter> {
    let letter = |(at, reason): &(usize, String)| {
        let folded = &batch.keys[*at];
        let EntryId { epoch, number } = folded.newest;
        let mapping = batch.mapped[*at].as_ref().map(|key| key.mapping.name.clone());
        Letter {
            mapping: mapping.unwrap_or_default(),
            key: folded.key.to_vec(),
            change: folded.to_change().write(),
            entry: Applied { epoch, number },
            reason: reason.clone(),
        }
    };
    batch.dead.iter().map(letter).collect()
}

pub(super) fn tell_dead(batch: &Batch) {
    for (at, reason) in &batch.dead {
        let mapping = batch.mapped[*at].as_ref().map_or("", |key| key.mapping.name.as_str());
        tracing::error!(
            mapping,
            reason,
            "Postgres refuses a change that clients were told of; see `respgres journal dlq list`"
        );
    }
}
