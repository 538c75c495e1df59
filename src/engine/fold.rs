//! What a batch of the journal makes of each key: its entries, one after the other, put together.
//!
//! Entries say what keys hold, so of several about one field the last one counts; where they say what was added
//! to a field, that is added to what came before, in the end to what the row holds. Entries that Postgres has
//! already say nothing new, but their keys may still have to be told clean.

use std::collections::HashMap;

use bytes::Bytes;
use indexmap::IndexMap;

use crate::command::Needs;
use crate::upstream::journal::{Entry, EntryId, KeyChange, Step};
use crate::value::Draft;
use crate::value::number::{LongDouble, format_i64, parse_i64};

/// One key of a batch.
#[derive(Clone, Debug)]
pub(super) struct Folded {
    pub(super) key: Bytes,
    /// The newest of its entries in the batch.
    pub(super) newest: EntryId,
    /// Postgres lacks some of it.
    pub(super) owed: bool,
    cleared: bool,
    names: IndexMap<Bytes, Now, ahash::RandomState>,
}

/// What a field holds, or what has become of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Now {
    /// `None`: it is not known; else whether it is there, and with which value.
    known: Option<Option<Bytes>>,
    /// What was added since, in order.
    steps: Vec<Step>,
}

/// What was added cannot be added to what the row holds.
#[derive(Debug, thiserror::Error)]
#[error("a number was added to what is no number, or the sum is too large")]
pub struct NoSum;

/// A batch that is put together, entry by entry.
#[derive(Debug)]
pub(super) struct Folding {
    /// The last entry that Postgres has.
    applied: EntryId,
    places: HashMap<Bytes, usize, ahash::RandomState>,
    folded: Vec<Folded>,
}

// === impl Folding ===

impl Folding {
    pub(super) fn new(applied: EntryId) -> Self {
        Self { applied, places: HashMap::default(), folded: Vec::new() }
    }

    /// Adds an entry; they come in their order.
    pub(super) fn add(&mut self, entry: Entry) {
        let Self { applied, places, folded } = self;
        for change in entry.keys {
            let known = places.get(&change.key).copied();
            let at = known.unwrap_or_else(|| {
                places.insert(change.key.clone(), folded.len());
                folded.push(Folded::new(change.key.clone()));
                folded.len() - 1
            });
            folded[at].newest = entry.id;
            if entry.id > *applied {
                folded[at].add(change);
            }
        }
    }

    /// How many keys there are.
    pub(super) fn len(&self) -> usize {
        self.folded.len()
    }

    /// All keys of the entries, in the order in which they came first.
    pub(super) fn end(self) -> Vec<Folded> {
        self.folded
    }
}

// === impl Folded ===

impl Folded {
    fn new(key: Bytes) -> Self {
        Self {
            key,
            newest: EntryId::default(),
            owed: false,
            cleared: false,
            names: IndexMap::default(),
        }
    }

    /// What has become of the key as somebody has kept it.
    pub(super) fn of(change: KeyChange, newest: EntryId) -> Self {
        let mut folded = Self { newest, ..Self::new(change.key.clone()) };
        folded.add(change);
        folded
    }

    fn add(&mut self, change: KeyChange) {
        self.owed = true;
        if change.cleared {
            self.cleared = true;
            self.names.clear();
        }
        if self.names.is_empty() {
            self.names.reserve(change.names.len());
        }
        for (name, value) in change.names {
            self.names.insert(name, Now { known: Some(value), steps: Vec::new() });
        }
        for (name, step) in change.steps {
            self.names.entry(name).or_default().add(step);
        }
    }

    /// Rows or columns that it changes, about.
    pub(super) fn size(&self) -> usize {
        self.names.len().max(1)
    }

    /// What the draft has to know of the row.
    pub(super) fn needs(&self) -> Needs {
        let mut needs = Needs { existence: true, ..Needs::default() };
        if !self.cleared {
            needs.fields.extend(self.names.keys().cloned());
        }
        needs
    }

    /// Changes the draft of what the row holds.
    pub(super) fn apply(&self, draft: &mut Draft) -> Result<(), NoSum> {
        if self.cleared {
            draft.delete();
        }
        // Set first: a row that is emptied on the way would be another one.
        for (name, now) in &self.names {
            let before = match &now.known {
                Some(known) => known.as_ref(),
                None => draft.get(name),
            };
            if let Some(value) = now.sum(before)? {
                draft.set(name.clone(), value);
            }
        }
        for (name, now) in &self.names {
            if now.known == Some(None) && now.steps.is_empty() {
                draft.remove(name);
            }
        }
        Ok(())
    }

    /// In the journal's own form.
    pub(super) fn to_change(&self) -> KeyChange {
        KeyChange {
            key: self.key.clone(),
            cleared: self.cleared,
            names: self
                .names
                .iter()
                .filter_map(|(name, now)| Some((name.clone(), now.known.clone()?)))
                .collect(),
            steps: self
                .names
                .iter()
                .flat_map(|(name, now)| now.steps.iter().map(|step| (name.clone(), step.clone())))
                .collect(),
        }
    }
}

// === impl Now ===

impl Now {
    fn add(&mut self, step: Step) {
        if let (Some(Step::Integer(last)), Step::Integer(step)) = (self.steps.last_mut(), &step)
            && let (Some(one), Some(other)) = (parse_i64(last), parse_i64(step))
            && let Some(sum) = one.checked_add(other)
        {
            *last = format_i64(sum);
            return;
        }
        self.steps.push(step);
    }

    /// What it comes to, where this was there before.
    fn sum(&self, before: Option<&Bytes>) -> Result<Option<Bytes>, NoSum> {
        let mut value = before.cloned();
        for step in &self.steps {
            value = Some(added(value.as_ref(), step).ok_or(NoSum)?);
        }
        Ok(value)
    }
}

/// As Redis adds.
fn added(value: Option<&Bytes>, step: &Step) -> Option<Bytes> {
    match step {
        Step::Integer(step) => {
            let value = value.map_or(Some(0), |value| parse_i64(value))?;
            value.checked_add(parse_i64(step)?).map(format_i64)
        }
        Step::Float(step) => {
            let value = value.map_or(Some(LongDouble::ZERO), |value| LongDouble::parse(value))?;
            let sum = value + LongDouble::parse(step)?;
            sum.is_finite().then(|| Bytes::from(sum.to_human()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::value::{Fields, Record, ValueKind};

    fn fold(entries: Vec<Entry>, applied: EntryId) -> Vec<Folded> {
        let mut folding = Folding::new(applied);
        entries.into_iter().for_each(|entry| folding.add(entry));
        folding.end()
    }

    fn entry(number: u64, key: &str, cleared: bool, names: &[(&str, Option<&str>)]) -> Entry {
        let name = |(name, value): &(&str, Option<&str>)| {
            let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
            (Bytes::copy_from_slice(name.as_bytes()), value)
        };
        let key = Bytes::copy_from_slice(key.as_bytes());
        let names = names.iter().map(name).collect();
        let keys = vec![KeyChange { key, cleared, names, steps: Vec::new() }];
        Entry { id: EntryId { epoch: 1, number }, at_ms: 0, changes: 1, bytes: 0, keys }
    }

    fn after(before: &[(&'static str, &'static str)], folded: &Folded) -> String {
        let fields: Fields = before.iter().map(|(f, v)| ((*f).into(), (*v).into())).collect();
        let record = (!fields.is_empty()).then(|| Record { fields, ..Record::default() });
        let mut draft = Draft::new(ValueKind::Hash, record);
        folded.apply(&mut draft).unwrap();
        let mut told: Vec<String> = draft.fields().map_or_else(Vec::new, |fields| {
            let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
            fields.iter().map(|(f, v)| format!("{}={}", text(f), text(v))).collect()
        });
        told.sort();
        told.join(" ")
    }

    #[test]
    fn the_last_word_on_each_field_counts() {
        let entries = vec![
            entry(1, "k", false, &[("a", Some("1")), ("b", Some("1"))]),
            entry(2, "other", false, &[("a", Some("9"))]),
            entry(3, "k", false, &[("a", None), ("c", Some("3"))]),
            entry(4, "k", false, &[("a", Some("4"))]),
        ];
        let folded = fold(entries, EntryId::default());
        assert_eq!(folded.len(), 2);
        assert_eq!(folded[0].newest.number, 4);
        assert_eq!(after(&[("x", "0")], &folded[0]), "a=4 b=1 c=3 x=0");
    }

    #[test]
    fn a_key_that_was_deleted_by_name_keeps_nothing_of_before() {
        let entries = vec![
            entry(1, "k", false, &[("a", Some("1"))]),
            entry(2, "k", true, &[("b", Some("2"))]),
        ];
        let folded = fold(entries, EntryId::default());
        assert_eq!(after(&[("x", "0")], &folded[0]), "b=2");
        let folded = fold(vec![entry(1, "k", true, &[])], EntryId::default());
        assert_eq!(after(&[("x", "0")], &folded[0]), "");
    }

    #[test]
    fn what_postgres_has_is_not_written_again() {
        let entries = vec![
            entry(1, "k", false, &[("a", Some("1"))]),
            entry(2, "old", false, &[("a", Some("1"))]),
            entry(3, "k", false, &[("b", Some("3"))]),
        ];
        let folded = fold(entries, EntryId { epoch: 1, number: 2 });
        assert_eq!(after(&[("a", "newer")], &folded[0]), "a=newer b=3");
        assert!(folded[0].owed && !folded[1].owed);
        assert_eq!(folded[1].newest.number, 2);
    }

    #[test]
    fn a_value_whose_fields_all_change_names_is_still_the_same_row() {
        let change = entry(1, "k", false, &[("a", None), ("b", Some("1"))]);
        let folded = fold(vec![change], EntryId::default());
        let record = Record {
            fields: [("a".into(), "1".into())].into_iter().collect(),
            ..Record::default()
        };
        let mut draft = Draft::new(ValueKind::Hash, Some(record));
        folded[0].apply(&mut draft).unwrap();
        assert!(!draft.replaced() && draft.fields().unwrap().len() == 1);
    }

    fn steps(number: u64, steps: &[(&str, Step)]) -> Entry {
        let mut entry = entry(number, "k", false, &[]);
        let steps = steps.iter().map(|(name, step)| (name.to_string().into(), step.clone()));
        entry.keys[0].steps = steps.collect();
        entry
    }

    fn int(step: &'static str) -> Step {
        Step::Integer(Bytes::from(step))
    }

    fn float(step: &'static str) -> Step {
        Step::Float(Bytes::from(step))
    }

    #[test]
    fn what_was_added_is_added_to_what_came_before() {
        let entries = vec![
            steps(1, &[("row", int("5")), ("new", int("1")), ("f", float("0.25"))]),
            entry(2, "k", false, &[("set", Some("10")), ("gone", None)]),
            steps(
                3,
                &[("row", int("-2")), ("set", int("3")), ("gone", int("4")), ("f", float("1"))],
            ),
            entry(4, "k", false, &[("new", Some("9"))]),
        ];
        let folded = fold(entries, EntryId::default());
        let row = [("row", "100"), ("new", "7"), ("gone", "8"), ("f", "1.5")];
        assert_eq!(after(&row, &folded[0]), "f=2.75 gone=4 new=9 row=103 set=13");
        // Nor is it lost or doubled on its way through a dead letter.
        let again = Folded::of(folded[0].to_change(), EntryId::default());
        assert_eq!(after(&row, &again), "f=2.75 gone=4 new=9 row=103 set=13");
    }

    #[test]
    fn what_was_added_to_what_was_deleted_begins_at_nothing() {
        let mut cleared = entry(2, "k", true, &[]);
        cleared.keys[0].steps = vec![("n".into(), int("2"))];
        let entries = vec![steps(1, &[("n", int("5"))]), cleared];
        assert_eq!(after(&[("n", "100")], &fold(entries, EntryId::default())[0]), "n=2");
    }

    #[test]
    fn what_postgres_has_is_not_added_again() {
        let entries = vec![steps(1, &[("n", int("5"))]), steps(2, &[("n", int("1"))])];
        let folded = fold(entries, EntryId { epoch: 1, number: 1 });
        assert_eq!(after(&[("n", "5")], &folded[0]), "n=6");
    }

    #[test]
    fn there_is_no_sum_of_texts_nor_beyond_the_largest_number() {
        let check = |row: &str, step: Step| {
            let folded = fold(vec![steps(1, &[("n", step)])], EntryId::default());
            let fields = [(Bytes::from("n"), Bytes::copy_from_slice(row.as_bytes()))];
            let record = Record { fields: fields.into_iter().collect(), ..Record::default() };
            folded[0].apply(&mut Draft::new(ValueKind::Hash, Some(record))).is_ok()
        };
        assert!(check("1", int("1")) && check("1.5", float("1")));
        assert!(!check("text", int("1")) && !check("text", float("1")));
        assert!(!check("1.5", int("1")) && !check("9223372036854775807", int("1")));
    }
}
