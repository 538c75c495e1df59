//! Parts of a batch: what goes into one transaction. Most batches are one; where a table is slow, or set aside, its
//! operations do not take the others with them (see `slow` and `tables`).

use std::time::Instant;

use super::super::operation::Operation;
use super::super::patience;
use super::super::refusal::{too_busy, too_slow, write_failed};
use super::super::slow::Verdict;
use super::{Writer, connected, mapping_name, set_aside};
use crate::mapping::Mapping;
use crate::store::StoreError;

/// Operations of a batch, by their places, that go into one transaction.
#[derive(Clone, Debug, Default)]
pub(super) struct Part {
    pub(super) places: Vec<usize>,
    /// The like of it has run out of time before: it gets less.
    pub(super) hurried: bool,
    /// It is to find out whether a slow table is back.
    pub(super) trial: bool,
    /// The shapes of its tables have been read again.
    pub(super) looked: bool,
}

// === impl Writer ===

impl Writer {
    /// Refuses what has waited too long and what cannot be done now; makes parts of the rest.
    pub(super) async fn sort_out(&mut self, batch: &[Operation]) -> Vec<Part> {
        let patience = patience(&self.settings.postgres);
        // The first operation has waited longest.
        let in_time = batch.first().is_none_or(|operation| operation.age() < patience);
        let whole = Part { places: (0..batch.len()).collect(), ..Part::default() };
        if in_time && self.slow.is_empty() && !self.tables.any_aside() {
            return vec![whole];
        }
        let (mut parts, mut run) = (Vec::new(), Part::default());
        for (at, operation) in batch.iter().enumerate() {
            if operation.age() >= patience {
                operation.answer(&too_busy());
                continue;
            }
            if let Some(error) = self.aside(operation).await {
                operation.answer(&write_failed(&error, mapping_name(operation)));
                continue;
            }
            match self.judge(operation) {
                Verdict::Usual => run.places.push(at),
                Verdict::Hurry => {
                    run.hurried = true;
                    run.places.push(at);
                }
                Verdict::Trial => {
                    parts.push(std::mem::take(&mut run));
                    let places = vec![at];
                    parts.push(Part { places, hurried: true, trial: true, looked: false });
                }
                Verdict::Refuse => operation.answer(&too_slow(mapping_name(operation))),
            }
        }
        parts.push(run);
        parts.reverse();
        parts
    }

    /// Why an operation cannot be done whose mapping is set aside; looks now and then whether it
    /// still has to be.
    async fn aside(&mut self, operation: &Operation) -> Option<StoreError> {
        if !self.tables.any_aside() {
            return None;
        }
        for key in &operation.keys {
            if self.tables.is_due(&key.mapping)
                && let Err(error) = self.look_again(&key.mapping).await
            {
                return Some(error);
            }
            if self.tables.current(&key.mapping).is_none() {
                return Some(set_aside());
            }
        }
        None
    }

    pub(super) async fn look_again(&mut self, mapping: &Mapping) -> Result<(), StoreError> {
        let session = connected(&mut self.session, &self.settings).await?;
        self.tables.look_again(session, mapping).await
    }

    /// The worst verdict on the mappings of an operation.
    fn judge(&mut self, operation: &Operation) -> Verdict {
        let now = Instant::now();
        let mut worst = Verdict::Usual;
        for key in &operation.keys {
            match self.slow.judge(key.mapping.index, now) {
                Verdict::Refuse if worst != Verdict::Trial => return Verdict::Refuse,
                // The same mapping again, of which this is the trial.
                Verdict::Refuse | Verdict::Usual => {}
                Verdict::Hurry if worst == Verdict::Trial => {}
                verdict => worst = verdict,
            }
        }
        worst
    }

    pub(super) fn is_refused(&self, operation: &Operation) -> bool {
        let now = Instant::now();
        operation.keys.iter().any(|key| self.slow.refuses(key.mapping.index, now))
    }
}
