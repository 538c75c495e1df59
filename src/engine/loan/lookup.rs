//! What a SORT looks up by its BY and GET patterns: keys that it does not name, for which they are depends
//! on what it sorts.
//!
//! They are found before the step and lent with the keys that are named. What is sorted is asked again
//! within the step: if by then it leads to a mapped key that is not lent, the reply counts for nothing, and
//! the loan is tried again.
//!
//! Absent on purpose: lookups of a SORT that stores what it finds, or in a transaction. A step that has
//! changed something cannot count for nothing.

use std::collections::HashSet;

use bytes::Bytes;

use super::Loan;
use super::lender::Lender;
use super::request::enter_all;
use super::step::{Odd, Step, elements, text_of};
use crate::engine::Engine;
use crate::engine::refusal::gate_closed;
use crate::engine::through::{connected, set_aside};
use crate::engine::transaction::Failure;
use crate::mapping::{MappedKey, Pass, Registry};
use crate::protocol::Reply;
use crate::store::{RowLock, StoreError};
use crate::upstream::control::Frame;

/// The most elements whose keys are looked up.
const MOST_ELEMENTS: usize = 100_000;

/// The patterns of a request, and what it sorts.
#[derive(Clone, Debug)]
pub(super) struct Lookups {
    key: Bytes,
    /// Those that mapped keys may match; each has an asterisk.
    patterns: Vec<Bytes>,
}

// === impl Lookups ===

impl Lookups {
    pub(super) fn new(key: Bytes, patterns: Vec<Bytes>) -> Self {
        Self { key, patterns }
    }

    /// The words of a request that shows what is sorted, whatever its type.
    fn words(&self) -> [Bytes; 7] {
        let word = Bytes::from_static;
        let limit = Bytes::from((MOST_ELEMENTS + 1).to_string());
        let (by, order) = (word(b"BY"), word(b"nosort"));
        [word(b"SORT"), self.key.clone(), by, order, word(b"LIMIT"), word(b"0"), limit]
    }

    /// The mapped keys that these elements lead to.
    fn keys(&self, registry: &Registry, elements: &[Bytes]) -> Vec<MappedKey> {
        let keys = self.patterns.iter().flat_map(|pattern| {
            elements.iter().filter_map(|element| registry.mapped_key(&key_of(pattern, element)?))
        });
        keys.collect()
    }
}

/// The key that a pattern means for an element: the asterisk stands for the element, and what follows
/// `->` is a field.
fn key_of(pattern: &[u8], element: &[u8]) -> Option<Bytes> {
    let star = memchr::memchr(b'*', pattern)?;
    let (before, after) = (&pattern[..star], &pattern[star + 1..]);
    let arrow = after.windows(2).position(|two| two == b"->");
    // An arrow without a field is a part of the name.
    let end = arrow.filter(|at| at + 2 < after.len()).unwrap_or(after.len());
    Some([before, element, &after[..end]].concat().into())
}

// === impl Loan ===

impl Loan {
    fn lookups(&self) -> impl Iterator<Item = &Lookups> {
        self.requests.iter().filter_map(|request| request.lookups.as_ref())
    }

    /// Asks within the step what is sorted, before the client's requests.
    pub(super) fn ask_what_is_sorted(&self, step: &mut Step) {
        for lookups in self.lookups() {
            step.ask(&lookups.words());
        }
    }
}

// === impl Engine ===

impl Engine {
    /// The mapping of a key that the patterns of a SORT could mean.
    pub(super) fn mapping_looked_up_in(&self, pattern: &[u8]) -> Option<&str> {
        let star = memchr::memchr(b'*', pattern)?;
        let mapping = self.registry().that_may_hold(&pattern[..star])?;
        Some(&mapping.name)
    }
}

// === impl Lender ===

impl Lender {
    /// The mapped keys that the loan looks up, as things are now, and what it holds as long as it is at them; or why it
    /// must not.
    pub(super) async fn look_up(
        &mut self,
        loan: &Loan,
    ) -> Result<Result<(Vec<MappedKey>, Vec<Pass>), Reply>, Failure> {
        let mut keys = Vec::new();
        for lookups in loan.lookups() {
            let elements = match self.registry.mapped_key(&lookups.key) {
                Some(key) => self.elements_of(&key).await.map_err(Failure::Store)?,
                None => match self.control.command(&lookups.words()).await {
                    Ok(Frame::Array(frames)) => frames.into_iter().filter_map(bytes_of).collect(),
                    // The request itself will say what is wrong with the key.
                    Ok(_) => Vec::new(),
                    Err(error) => return Err(Failure::Upstream(error)),
                },
            };
            if elements.len() > MOST_ELEMENTS {
                return Ok(Err(Reply::err(format!(
                    "what is sorted has more than {MOST_ELEMENTS} elements, and BY or GET could look up \
                     a mapped key for each"
                ))));
            }
            keys.append(&mut lookups.keys(&self.registry, &elements));
        }
        Ok(match enter_all(&keys) {
            Some(passes) => Ok((keys, passes)),
            // No lender waits at a gate: others have to get on.
            None => Err(gate_closed()),
        })
    }

    async fn elements_of(&mut self, key: &MappedKey) -> Result<Vec<Bytes>, StoreError> {
        // What comes of a key that is behind is seen when it is asked again within the step.
        let mapping = self.tables.current(&key.mapping).ok_or_else(set_aside)?;
        let session = connected(&mut self.session, &self.settings).await?;
        let read = session.read(&mapping, &[key], RowLock::None).await?;
        let record = read.rows.into_iter().next().and_then(|row| row.record);
        Ok(record.map_or_else(Vec::new, |record| record.fields.keys().cloned().collect()))
    }

    /// Whether what the step says of what is sorted leads to no other mapped keys than these.
    /// `replies` end with those to `ask_what_is_sorted`.
    pub(super) fn has_lent_all<'a>(
        &self,
        loan: &Loan,
        replies: &[Bytes],
        lent: impl Iterator<Item = &'a MappedKey>,
    ) -> Result<bool, Odd> {
        let lent: HashSet<&[u8]> = lent.map(|key| &key.key[..]).collect();
        let asked = replies.len().saturating_sub(loan.lookups().count());
        for (lookups, reply) in loan.lookups().zip(&replies[asked..]) {
            if reply.starts_with(b"-") {
                continue;
            }
            let sorted: Vec<Bytes> =
                elements(reply)?.iter().map(text_of).collect::<Result<_, _>>()?;
            let keys = lookups.keys(&self.registry, &sorted);
            if !keys.iter().all(|key| lent.contains(&key.key[..])) {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

fn bytes_of(frame: Frame) -> Option<Bytes> {
    match frame {
        Frame::BulkString(bytes) => Some(bytes),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_the_key_that_redis_takes_it_for() {
        let key = |pattern: &str, element: &str| {
            let key = key_of(pattern.as_bytes(), element.as_bytes());
            key.map(|key| String::from_utf8(key.to_vec()).unwrap())
        };
        let is = |key: &str| Some(key.to_owned());
        assert_eq!(key("thing:*->size", "1"), is("thing:1"));
        assert_eq!(key("thing:*", "1"), is("thing:1"));
        assert_eq!(key("thing:*:x->size->y", "1"), is("thing:1:x"));
        assert_eq!(key("thing:*->", "1"), is("thing:1->"));
        assert_eq!(key("a->b:*", "*"), is("a->b:*"));
        assert_eq!(key("*:*", "1"), is("1:*"));
        assert_eq!(key("nosort", "1"), None);
    }
}
