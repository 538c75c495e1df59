//! Telling Redis what Postgres has got of a batch.

use bytes::Bytes;

use super::super::fold::Folded;
use super::{Batch, Flusher};
use crate::mapping::MappedKey;
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::upstream::scripts::{Call, JOURNAL, JOURNAL_STATE, Script, aside_of, decimal, mark_of};

/// Keys that are told clean in one step: nobody else gets an answer from Redis meanwhile.
const CLEANED_KEYS: usize = 500;

// === impl Flusher ===

impl Flusher {
    /// Tells Redis what Postgres has.
    pub(super) async fn clean(&mut self, batch: &Batch) -> Result<(), UpstreamError> {
        let mut calls = Vec::new();
        let mut cleaned: Vec<(&Folded, &MappedKey, bool)> = Vec::new();
        let mut dead = vec![false; batch.keys.len()];
        batch.dead.iter().for_each(|(at, _)| dead[*at] = true);
        for ((folded, mapped), is_dead) in batch.keys.iter().zip(&batch.mapped).zip(dead) {
            // A key of no mapping is an ordinary one of Redis' now.
            cleaned.extend(mapped.as_ref().map(|mapped| (folded, mapped, is_dead)));
        }
        let mut parts: Vec<&[(&Folded, &MappedKey, bool)]> = cleaned.chunks(CLEANED_KEYS).collect();
        if parts.is_empty() {
            parts.push(&[]);
        }
        let count = parts.len();
        for (number, part) in parts.into_iter().enumerate() {
            // The entries go when all of their keys are done.
            calls.push(clean_call(part, batch, number + 1 == count));
        }
        if self.control.run_id().await? != Some(batch.run) {
            // Its data is gone through anew, and what is in it is read again.
            return Ok(());
        }
        for reply in self.control.call(&calls).await? {
            if let Frame::Error(text) = reply {
                return Err(UpstreamError::Refused(text.to_string()));
            }
        }
        Ok(())
    }
}

/// `is_last`: the entries go, too.
fn clean_call(keys: &[(&Folded, &MappedKey, bool)], batch: &Batch, is_last: bool) -> Call {
    let mut names = vec![Bytes::from_static(JOURNAL_STATE), Bytes::from_static(JOURNAL)];
    let until = if is_last { batch.last.text() } else { Bytes::new() };
    let mut arguments = vec![until, batch.first.text(), batch.last.next().text()];
    arguments.push(Bytes::from(batch.changes.to_string()));
    for (folded, mapped, is_dead) in keys {
        let key = &mapped.key;
        names.extend([key.clone(), mark_of(key), aside_of(key)]);
        arguments.push(folded.newest.text());
        arguments.push(decimal(mapped.mapping.cache_ttl_ms));
        arguments.push(match is_dead {
            true => Bytes::from_static(b"drop"),
            false => decimal(mapped.mapping.negative_ttl_ms),
        });
    }
    Call { script: Script::Clean, keys: names, arguments }
}
