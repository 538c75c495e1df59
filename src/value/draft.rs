//! One key's value while the operations of a batch are applied to it, one after the other.
//!
//! Invariants
//! - A draft holds no record without fields or members, here or among the others that it does not
//!   know: removing the last one deletes the key.
//! - Of a record that is known in part, operations touch what they have asked for alone.
//! - A deleted key forgets its expiry, as in Redis.
//! - `delta` describes the way from the state before the batch to the state after it; applied
//!   to a cached copy of the former it gives the latter.

use bytes::Bytes;
use indexmap::IndexSet;

use super::record::{Fields, Record, ValueKind};

/// A key's value under change.
#[derive(Clone, Debug)]
pub struct Draft {
    /// What a key made anew holds.
    kind: ValueKind,
    record: Option<Record>,
    existed: bool,
    replaced: bool,
    touched: IndexSet<Bytes, ahash::RandomState>,
    expiry_touched: bool,
}

/// What a batch did to one key, for the cached copy of the value before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delta {
    /// The cached copy is still right.
    Unchanged,
    /// The cached copy has to go: the key was deleted (and perhaps made anew).
    Drop,
    /// Apply these to the cached copy.
    Change { set: Vec<(Bytes, Bytes)>, removed: Vec<Bytes> },
}

impl Draft {
    /// Starts from what the key held before the batch; `kind` is what keys of its mapping hold.
    pub fn new(kind: ValueKind, before: Option<Record>) -> Self {
        debug_assert!(before.as_ref().is_none_or(|record| !record.is_empty()));
        Self {
            kind,
            existed: before.is_some(),
            record: before,
            replaced: false,
            touched: IndexSet::default(),
            expiry_touched: false,
        }
    }

    /// The value as the operations so far have left it; `None` when the key is absent.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    pub fn exists(&self) -> bool {
        self.record.is_some()
    }

    /// Whether the key was there before the batch.
    pub fn existed(&self) -> bool {
        self.existed
    }

    /// Whether the key was deleted at some point of the batch.
    pub fn replaced(&self) -> bool {
        self.replaced
    }

    pub fn fields(&self) -> Option<&Fields> {
        self.record.as_ref().map(|record| &record.fields)
    }

    pub fn get(&self, field: &[u8]) -> Option<&Bytes> {
        self.fields()?.get(field)
    }

    /// Sets one field; true when the field is new.
    pub fn set(&mut self, field: Bytes, value: Bytes) -> bool {
        self.touched.insert(field.clone());
        let kind = self.kind;
        let record = self.record.get_or_insert_with(|| Record { kind, ..Record::default() });
        record.fields.insert(field, value).is_none()
    }

    /// Removes one field, and with the last one the key; true when the field was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Some(record) = &mut self.record else { return false };
        let Some((field, _)) = record.fields.shift_remove_entry(field) else { return false };
        self.touched.insert(field);
        if record.is_empty() {
            self.delete();
        }
        true
    }

    /// Deletes the key; true when it was there.
    pub fn delete(&mut self) -> bool {
        self.touched.clear();
        self.expiry_touched = false;
        self.replaced |= self.record.is_some();
        self.record.take().is_some()
    }

    pub fn expires_at_ms(&self) -> Option<i64> {
        self.record.as_ref().and_then(|record| record.expires_at_ms)
    }

    /// Sets (`Some`) or removes (`None`) the key's expiry; no effect on an absent key.
    pub fn set_expires_at_ms(&mut self, expires_at_ms: Option<i64>) {
        if let Some(record) = &mut self.record
            && record.expires_at_ms != expires_at_ms
        {
            record.expires_at_ms = expires_at_ms;
            self.expiry_touched = true;
        }
    }

    /// Fields set or removed since the start, or since the key was last deleted.
    pub fn touched(&self) -> impl Iterator<Item = &Bytes> {
        self.touched.iter()
    }

    pub fn expiry_touched(&self) -> bool {
        self.expiry_touched
    }

    /// True when Postgres has to hear of it.
    pub fn is_changed(&self) -> bool {
        self.replaced || self.expiry_touched || !self.touched.is_empty()
    }

    pub fn delta(&self) -> Delta {
        let Some(record) = &self.record else {
            return if self.existed { Delta::Drop } else { Delta::Unchanged };
        };
        if self.replaced || !self.existed {
            return Delta::Drop;
        }
        if self.touched.is_empty() {
            return Delta::Unchanged;
        }
        let mut set = Vec::new();
        let mut removed = Vec::new();
        for field in &self.touched {
            match record.fields.get(field) {
                Some(value) => set.push((field.clone(), value.clone())),
                None => removed.push(field.clone()),
            }
        }
        Delta::Change { set, removed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(fields: &[(&'static str, &'static str)]) -> Option<Record> {
        let fields = fields.iter().map(|(f, v)| (Bytes::from(*f), Bytes::from(*v))).collect();
        Some(Record { fields, ..Record::default() })
    }

    #[test]
    fn removing_the_last_field_deletes_the_key_and_its_expiry() {
        let mut draft = Draft::new(ValueKind::Hash, record(&[("a", "1")]));
        draft.set_expires_at_ms(Some(5));
        assert!(draft.remove(b"a"));
        assert!(!draft.exists());
        draft.set("b".into(), "2".into());
        assert_eq!(draft.expires_at_ms(), None);
        assert_eq!(draft.delta(), Delta::Drop);
    }

    #[test]
    fn a_change_of_a_known_key_names_only_what_changed() {
        let mut draft = Draft::new(ValueKind::Hash, record(&[("a", "1"), ("b", "2")]));
        assert!(!draft.set("a".into(), "3".into()));
        assert!(draft.remove(b"b"));
        let expected =
            Delta::Change { set: vec![("a".into(), "3".into())], removed: vec!["b".into()] };
        assert_eq!(draft.delta(), expected);
    }

    #[test]
    fn an_expiry_alone_leaves_the_cached_fields_as_they_are() {
        let mut draft = Draft::new(ValueKind::Hash, record(&[("a", "1")]));
        draft.set_expires_at_ms(Some(9));
        assert!(draft.is_changed());
        assert_eq!(draft.delta(), Delta::Unchanged);
    }
}
