//! Who is to blame when a part of a batch was not written: those operations are answered, or handed over, and the
//! others are tried again in new parts.
//!
//! What cannot be told apart is halved until one is left.

use std::time::Instant;

use super::super::behind;
use super::super::import;
use super::super::operation::Operation;
use super::super::refusal::{
    Happened, may_be_ahead, not_dropped, not_flushed, upstream_failed, write_apart, write_failed,
};
use super::super::transaction::Failure;
use super::part::Part;
use super::{Writer, mapping_name, may_be_behind, needs_upstream};
use crate::protocol::Reply;
use crate::store::StoreError;

// === impl Writer ===

impl Writer {
    /// Answers those who are to blame, and makes new parts of the others.
    pub(super) async fn settle(
        &mut self,
        failure: Failure,
        batch: &[Operation],
        mut part: Part,
        parts: &mut Vec<Part>,
    ) {
        match &failure {
            Failure::Store(StoreError::LayoutChanged { .. }) if !part.looked => {
                for &at in &part.places {
                    self.look_at_tables(&batch[at]).await;
                }
                part.looked = true;
                parts.push(part);
                return;
            }
            Failure::Store(StoreError::LayoutChanged { .. }) if self.tables.any_aside() => {
                let is_aside = |operation: &Operation| {
                    operation.keys.iter().any(|key| self.tables.current(&key.mapping).is_none())
                };
                let (aside, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| is_aside(&batch[at]));
                if !aside.is_empty() {
                    answer_all(&failure, batch, &aside);
                    parts.push(Part { places: others, ..part });
                    return;
                }
            }
            // Those that leave no copy in Redis do not need it.
            Failure::Upstream(_) => {
                let (cached, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| needs_upstream(&batch[at]));
                answer_all(&failure, batch, &cached);
                parts.push(Part { places: others, ..part });
                return;
            }
            Failure::Refused { key, .. } => {
                let has_key = |operation: &Operation| {
                    operation.keys.iter().any(|of_operation| of_operation.key == *key)
                };
                let (refused, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| has_key(&batch[at]));
                answer_all(&failure, batch, &refused);
                parts.push(Part { places: others, ..part });
                return;
            }
            Failure::Ahead | Failure::Apart => {
                let (ahead, others): (Vec<usize>, Vec<usize>) =
                    part.places.iter().partition(|&&at| may_be_behind(&batch[at]));
                if ahead.is_empty() {
                    answer_all(&failure, batch, &others);
                    return;
                }
                answer_all(&failure, batch, &ahead);
                parts.push(Part { places: others, ..part });
                return;
            }
            Failure::Store(StoreError::Unreachable(_))
                if self.behind.is_some() && self.settings.health.is_degraded() =>
            {
                self.is_handing_over = true;
                part.places.iter().for_each(|&at| self.hand_over(&batch[at]));
                return;
            }
            _ => {}
        }
        let blames_one = match &failure {
            Failure::Store(error) => {
                !matches!(error, StoreError::Unreachable(_) | StoreError::InDoubt(_))
            }
            Failure::Dirty | Failure::Unseen | Failure::Originals(_) => true,
            Failure::Upstream(_)
            | Failure::Ahead
            | Failure::Apart
            | Failure::NotDropped
            | Failure::Refused { .. } => false,
        };
        let timed_out = matches!(failure, Failure::Store(StoreError::Timeout(_)));
        if blames_one && part.places.len() > 1 {
            part.hurried |= timed_out;
            let second = part.places.split_off(part.places.len() / 2);
            parts.push(Part { places: second, ..part.clone() });
            parts.push(part);
            return;
        }
        if let (true, [at]) = (timed_out, &part.places[..]) {
            self.settings.metrics.slow_queries.add(1);
            for key in &batch[*at].keys {
                self.slow.strike(key.mapping.index, Instant::now());
            }
        }
        let failure = match part.places[..] {
            [at] => self.name_columns(failure, &batch[at]).await,
            _ => failure,
        };
        answer_all(&failure, batch, &part.places);
    }

    /// Leaves an operation to who tells Redis first, where it can be done without Postgres.
    pub(super) fn hand_over(&self, operation: &Operation) {
        if operation.is_answered() {
            return;
        }
        if behind::may_be_behind(operation, &self.settings.health) {
            operation.hand_over();
        } else {
            let error = StoreError::Unreachable(String::new());
            operation.answer(&write_failed(&error, mapping_name(operation)));
        }
    }

    async fn look_at_tables(&mut self, operation: &Operation) {
        for key in &operation.keys {
            if self.tables.looked_lately(&key.mapping) {
                continue;
            }
            if let Err(error) = self.look_again(&key.mapping).await {
                tracing::warn!(%error, "the shape of a table could not be read again");
            }
        }
    }

    /// Postgres names the columns only of NOT NULL constraints; the catalog knows those of the others.
    async fn name_columns(&mut self, mut failure: Failure, operation: &Operation) -> Failure {
        if let Failure::Store(StoreError::Refused { constraint: Some(name), column, .. }) =
            &mut failure
            && column.is_none()
            && let (Some(session), Some(key)) = (&mut self.session, operation.keys.first())
            && let Ok(columns) = session.constraint_columns(key.mapping.layout.table(), name).await
            && !columns.is_empty()
        {
            *column = Some(columns.join(", "));
        }
        failure
    }
}

fn answer_all(failure: &Failure, batch: &[Operation], places: &[usize]) {
    for &at in places {
        batch[at].answer(&reply_to_failure(failure, &batch[at]));
    }
}

fn reply_to_failure(failure: &Failure, operation: &Operation) -> Reply {
    match failure {
        Failure::Store(error) => write_failed(error, mapping_name(operation)),
        Failure::Upstream(_) => upstream_failed(Happened::No),
        Failure::Dirty => not_flushed(),
        Failure::Ahead => may_be_ahead(),
        Failure::Unseen | Failure::Refused { .. } | Failure::Originals(_) => {
            import::reply_to(failure, mapping_name(operation))
        }
        Failure::Apart => write_apart(),
        Failure::NotDropped => not_dropped(),
    }
}

/// Where a part is given up.
pub(super) fn log(failure: &Failure) {
    match failure {
        Failure::Store(error @ (StoreError::Refused { .. } | StoreError::Unencodable(_))) => {
            tracing::info!(%error, "a write was refused");
        }
        Failure::Store(error) => tracing::warn!(%error, "a write failed"),
        Failure::Upstream(error) => tracing::warn!(%error, "a write failed"),
        Failure::Dirty => tracing::warn!("a write failed: a key stayed dirty"),
        Failure::Unseen => {
            tracing::debug!("not written: Redis is out of reach, and may alone have a key")
        }
        // The importer has told of it.
        Failure::Refused { .. } => {}
        Failure::Originals(_) => tracing::warn!("a write failed: a key was not imported"),
        Failure::Ahead => tracing::debug!("not written: Redis is out of reach, and may be ahead"),
        Failure::NotDropped => {
            tracing::warn!("not written: Redis is out of reach, and nobody has dropped its copies");
        }
        Failure::Apart => {
            tracing::warn!(
                "not written: Redis is out of reach, and others may be without Postgres; see `respgres proxies list`"
            );
        }
    }
}
