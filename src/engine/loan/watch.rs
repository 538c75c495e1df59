//! WATCH on mapped keys: what they held is remembered, and compared under their locks when EXEC comes.
//!
//! Compared are values and expiries: a key that was changed and changed back in between counts as
//! unchanged, as does one that was written with what it held already.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ahash::RandomState;
use bytes::Bytes;

use crate::mapping::MappedKey;
use crate::value::Record;

/// The mapped keys that one client watches.
#[derive(Debug, Default)]
pub struct Watched {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// What each key held when it was watched first.
    keys: BTreeMap<Bytes, (MappedKey, Digest)>,
    /// A key that was watched again held something else by then.
    has_changed: bool,
}

/// Of 128 bits, keyed at random in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Digest(u64, u64);

/// Two hash functions of this process' own.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Digester(RandomState, RandomState);

// === impl Watched ===

impl Watched {
    pub(super) fn add(&self, watched: Vec<(MappedKey, Digest)>) {
        let mut known = self.known();
        for (key, digest) in watched {
            let (_, first) = known.keys.entry(key.key.clone()).or_insert((key, digest));
            let is_same = *first == digest;
            known.has_changed |= !is_same;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.known().keys.is_empty()
    }

    pub(super) fn keys(&self) -> Vec<(MappedKey, Digest)> {
        self.known().keys.values().cloned().collect()
    }

    pub(super) fn has_changed(&self) -> bool {
        self.known().has_changed
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Digester ===

impl Digester {
    pub(super) fn digest(&self, record: Option<&Record>) -> Digest {
        let Some(record) = record else { return Digest(0, 0) };
        let mut fields: Vec<(&Bytes, &Bytes)> = record.fields.iter().collect();
        fields.sort_unstable();
        let hash = |state: &RandomState| {
            let mut hasher = state.build_hasher();
            hasher.write_i64(record.expires_at_ms.unwrap_or(-1));
            for part in fields.iter().flat_map(|(field, value)| [field, value]) {
                hasher.write_usize(part.len());
                hasher.write(part);
            }
            hasher.finish()
        };
        Digest(hash(&self.0), hash(&self.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_apart_and_their_order_is_not() {
        let digester = Digester::default();
        let digest = |pairs: &[(&'static str, &'static str)], expires_at_ms| {
            let fields = pairs.iter().map(|(f, v)| (Bytes::from(*f), Bytes::from(*v))).collect();
            digester.digest(Some(&Record { fields, expires_at_ms, ..Record::default() }))
        };
        let one = digest(&[("a", "1"), ("b", "2")], None);
        assert_eq!(one, digest(&[("b", "2"), ("a", "1")], None));
        for other in [
            digest(&[("a", "1"), ("b", "2")], Some(1)),
            digest(&[("a", "1")], None),
            digest(&[("a", "1b"), ("", "2")], None),
            digest(&[("a", "2"), ("b", "1")], None),
            digester.digest(None),
        ] {
            assert_ne!(one, other);
        }
    }
}
