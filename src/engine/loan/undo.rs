//! Putting back keys that are not mapped, when the mapped part of a loan was refused after Redis had
//! changed them.
//!
//! Others may have seen the change meanwhile. Whoever has changed such a key since keeps what he wrote.
//! (A hash table that is growing is dumped in another order once somebody has looked into it: then it
//! counts as changed, stays as it is, and the client is told.)

use bytes::Bytes;

use super::step::{Dumped, Odd};
use crate::upstream::control::{Control, Frame};
use crate::upstream::scripts::{Call, Script, decimal};

/// Keys that a step has changed.
#[derive(Debug, Default)]
pub(super) struct Undo {
    changed: Vec<Changed>,
}

#[derive(Debug)]
struct Changed {
    key: Bytes,
    before: Dumped,
    after: Dumped,
}

// === impl Undo ===

impl Undo {
    /// From the replies to `dump` of these keys, before and after.
    pub(super) fn read(keys: &[Bytes], before: &[Bytes], after: &[Bytes]) -> Result<Self, Odd> {
        let mut changed = Vec::new();
        for ((key, before), after) in keys.iter().zip(before.chunks(2)).zip(after.chunks(2)) {
            let (before, after) = (Dumped::read(before)?, Dumped::read(after)?);
            if before != after {
                changed.push(Changed { key: key.clone(), before, after });
            }
        }
        Ok(Self { changed })
    }

    fn call(&self) -> Call {
        let mut arguments = Vec::with_capacity(4 * self.changed.len());
        for Changed { before, after, .. } in &self.changed {
            for Dumped { value, expires_at_ms } in [after, before] {
                arguments.extend([value.clone().unwrap_or_default(), decimal(*expires_at_ms)]);
            }
        }
        let keys = self.changed.iter().map(|changed| changed.key.clone()).collect();
        Call { script: Script::Undo, keys, arguments }
    }

    /// Puts the keys back; whether all of them are what they were.
    pub(super) async fn undo(&self, control: &mut Control) -> bool {
        if self.changed.is_empty() {
            return true;
        }
        match control.call(&[self.call()]).await.as_deref() {
            Ok([Frame::Integer(0)]) => true,
            Ok([Frame::Integer(count)]) => {
                tracing::warn!(
                    count,
                    "a refused write is undone in part: others have changed keys that are not mapped"
                );
                false
            }
            Ok(odd) => {
                tracing::warn!(?odd, "the unmapped part of a refused write is not undone");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "the unmapped part of a refused write may not be undone");
                false
            }
        }
    }
}
