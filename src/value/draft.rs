//! One key's value while the operations of a batch are applied to it, one after the other.
//!
//! Invariants
//! - A draft holds no record without fields or members, here or among the others that it does not
//!   know: removing the last one deletes the key.
//! - Of a record that is known in part, operations touch what they have asked for alone.
//! - A deleted key forgets its expiry, as in Redis.
//! - What an operation has set can be taken back, as if it had not been; an operation that removes sets
//!   nothing.
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
    cleared: bool,
    touched: IndexSet<Bytes, ahash::RandomState>,
    expiry_touched: bool,
    latest: Vec<Latest>,
}

/// What the latest operation has set, and what was there before.
#[derive(Clone, Debug)]
struct Latest {
    field: Bytes,
    before: Option<Bytes>,
    was_touched: bool,
    existed: bool,
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
            cleared: false,
            touched: IndexSet::default(),
            expiry_touched: false,
            latest: Vec::new(),
        }
    }

    /// A key that was absent has got this value.
    pub fn made(record: Record) -> Self {
        debug_assert!(!record.is_empty());
        let mut draft = Self::new(record.kind, None);
        draft.touched.extend(record.fields.keys().cloned());
        draft.expiry_touched = record.expires_at_ms.is_some();
        draft.record = Some(record);
        draft
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

    /// Whether the key was deleted at some point of the batch, by name or with its last field.
    pub fn replaced(&self) -> bool {
        self.replaced
    }

    /// Whether it was deleted by name: then also what the draft does not know of it has gone.
    pub fn cleared(&self) -> bool {
        self.cleared
    }

    pub fn fields(&self) -> Option<&Fields> {
        self.record.as_ref().map(|record| &record.fields)
    }

    pub fn get(&self, field: &[u8]) -> Option<&Bytes> {
        self.fields()?.get(field)
    }

    /// The next operation begins: what the last one has set stays.
    pub fn begin_operation(&mut self) {
        self.latest.clear();
    }

    /// What the latest operation has set.
    pub fn latest(&self) -> impl Iterator<Item = (&Bytes, &Bytes)> {
        self.latest.iter().filter_map(|set| Some((&set.field, self.get(&set.field)?)))
    }

    /// Takes back what the latest operation has set.
    pub fn take_back(&mut self) {
        while let Some(Latest { field, before, was_touched, existed }) = self.latest.pop() {
            if !was_touched {
                self.touched.swap_remove(&field);
            }
            let Some(record) = &mut self.record else { continue };
            match before {
                Some(value) => drop(record.fields.insert(field, value)),
                None => drop(record.fields.swap_remove(&field)),
            }
            if !existed {
                self.record = None;
            }
        }
    }

    /// Sets one field; true when the field is new.
    pub fn set(&mut self, field: Bytes, value: Bytes) -> bool {
        let (kind, existed) = (self.kind, self.exists());
        let was_touched = !self.touched.insert(field.clone());
        let record = self.record.get_or_insert_with(|| Record { kind, ..Record::default() });
        let before = record.fields.insert(field.clone(), value);
        let is_new = before.is_none();
        self.latest.push(Latest { field, before, was_touched, existed });
        is_new
    }

    /// Removes one field, and with the last one the key; true when the field was there.
    pub fn remove(&mut self, field: &[u8]) -> bool {
        let Some(record) = &mut self.record else { return false };
        // In any order: to keep it, all the others would have to be moved.
        let Some((field, _)) = record.fields.swap_remove_entry(field) else { return false };
        self.touched.insert(field);
        if record.is_empty() {
            self.end();
        }
        true
    }

    /// Deletes the key; true when it was there.
    pub fn delete(&mut self) -> bool {
        let existed = self.exists();
        if existed {
            self.touched.clear();
            self.cleared = true;
            self.end();
        }
        existed
    }

    fn end(&mut self) {
        self.record = None;
        self.replaced = true;
        self.expiry_touched = false;
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

    /// Fields set or removed since the start, or since the key was last deleted by name.
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
    fn a_key_that_went_with_its_last_field_took_nothing_else_along() {
        let mut draft = Draft::new(ValueKind::Hash, record(&[("a", "1")]));
        assert!(draft.remove(b"a"));
        assert!(draft.replaced() && !draft.cleared());
        assert!(!draft.delete());
        assert!(draft.touched().eq(["a"]));
        draft.set("b".into(), "2".into());
        assert!(draft.delete());
        assert!(draft.cleared());
        assert_eq!(draft.touched().count(), 0);
    }

    #[test]
    fn what_was_taken_back_has_never_been() {
        let mut draft = Draft::new(ValueKind::Hash, record(&[("a", "1")]));
        draft.set("b".into(), "2".into());
        draft.begin_operation();
        for (field, value) in [("a", "2"), ("b", "3"), ("c", "4"), ("c", "5"), ("a", "6")] {
            draft.set(field.into(), value.into());
        }
        assert_eq!(draft.latest().count(), 5);
        draft.take_back();
        assert_eq!(draft.fields(), record(&[("a", "1"), ("b", "2")]).as_ref().map(|r| &r.fields));
        assert!(draft.touched().eq(["b"]));

        let mut draft = Draft::new(ValueKind::Hash, None);
        draft.begin_operation();
        draft.set("a".into(), "1".into());
        draft.set("b".into(), "1".into());
        draft.take_back();
        assert!(!draft.exists() && !draft.is_changed());
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
    fn a_key_that_was_made_is_as_one_whose_fields_were_set() {
        let mut set = Draft::new(ValueKind::Hash, None);
        set.set("a".into(), "1".into());
        set.set("b".into(), "2".into());
        set.set_expires_at_ms(Some(9));
        let mut made = record(&[("a", "1"), ("b", "2")]).unwrap();
        made.expires_at_ms = Some(9);
        let made = Draft::made(made);
        assert_eq!((made.record(), made.existed()), (set.record(), false));
        assert!(made.touched().eq(set.touched()) && made.expiry_touched() && made.is_changed());
        assert_eq!(made.delta(), set.delta());
        let staying = Draft::made(record(&[("a", "1")]).unwrap());
        assert!(!staying.expiry_touched());
    }

    #[test]
    fn an_expiry_alone_leaves_the_cached_fields_as_they_are() {
        let mut draft = Draft::new(ValueKind::Hash, record(&[("a", "1")]));
        draft.set_expires_at_ms(Some(9));
        assert!(draft.is_changed());
        assert_eq!(draft.delta(), Delta::Unchanged);
    }
}
