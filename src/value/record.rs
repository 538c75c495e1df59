//! The value of a mapped key: its fields or members, and when the key expires.

use bytes::Bytes;
use indexmap::{IndexMap, IndexSet};

/// Field to value, in the order in which the fields were first set; a set's members are fields with
/// empty values.
pub type Fields = IndexMap<Bytes, Bytes, ahash::RandomState>;

/// Less than one in so many is few.
const FEW: usize = 8;

/// What a key holds, in Redis' words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ValueKind {
    #[default]
    Hash,
    Set,
}

/// What a mapped key holds, or the part of it that was asked for. A record has at least one field or
/// member, here or among the others: a key without any is absent, as in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub kind: ValueKind,
    pub fields: Fields,
    /// At least so many fields or members are there beside `fields`; exactly so many where their
    /// number was asked for.
    pub others: usize,
    /// Names among `fields` that were drawn at random, each once, where a part was asked for so.
    pub sample: Vec<Bytes>,
    /// The key's own expiry, milliseconds since the Unix epoch; `None` for a key that stays.
    pub expires_at_ms: Option<i64>,
}

// === impl ValueKind ===

impl ValueKind {
    /// As TYPE says it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Set => "set",
        }
    }
}

// === impl Record ===

impl Record {
    /// The number of fields or members.
    pub fn len(&self) -> usize {
        self.fields.len() + self.others
    }

    /// Whether nothing at all is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Different names drawn at random, as many as are known and at most `count`.
    pub fn draw(&self, count: usize) -> Vec<Bytes> {
        let known = if self.others == 0 { self.fields.len() } else { self.sample.len() };
        let name = |at: usize| {
            let (name, _) = if self.others == 0 {
                self.fields.get_index(at)?
            } else {
                self.fields.get_key_value(self.sample.get(at)?)?
            };
            Some(name)
        };
        // A few of many: no list of all is made for them.
        if count < known / FEW {
            let mut drawn =
                IndexSet::with_capacity_and_hasher(count, ahash::RandomState::default());
            for _ in 0..FEW * count {
                if drawn.len() == count {
                    break;
                }
                drawn.extend(name(fastrand::usize(..known)).cloned());
            }
            if drawn.len() == count {
                return drawn.into_iter().collect();
            }
        }
        let mut names: Vec<Bytes> = (0..known).filter_map(name).cloned().collect();
        let count = count.min(names.len());
        for at in 0..count {
            let other = fastrand::usize(at..names.len());
            names.swap(at, other);
        }
        names.truncate(count);
        names
    }

    /// Names drawn at random, the same one perhaps again; the number of others is exact, and so many
    /// names, or all, are in `fields` or `sample`.
    pub fn draw_with_repetition(&self, count: usize) -> Vec<Bytes> {
        if self.is_empty() {
            return Vec::new();
        }
        // All are equally likely, so whichever comes anew may be the next of a sample.
        let mut anew = self.draw(count).into_iter();
        let mut seen: Vec<Bytes> = Vec::new();
        let mut drawn = Vec::with_capacity(count);
        for _ in 0..count {
            let at = fastrand::usize(..self.len());
            if at >= seen.len() {
                seen.extend(anew.next());
            }
            drawn.extend(seen.get(at).or(seen.last()).cloned());
        }
        drawn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(count: usize) -> Record {
        let fields = (0..count).map(|at| (Bytes::from(at.to_string()), Bytes::new()));
        Record { kind: ValueKind::Set, fields: fields.collect(), ..Record::default() }
    }

    #[test]
    fn what_is_drawn_is_known_and_different() {
        let whole = record(100);
        let sample: Vec<Bytes> = (50..90).map(|at: u32| Bytes::from(at.to_string())).collect();
        let part = Record { others: 1000, sample: sample.clone(), ..record(90) };
        for count in [0, 1, 3, 4, 5, 39, 40, 41, 100, 1000] {
            for (record, known) in [(&whole, 100), (&part, 40)] {
                let drawn = record.draw(count);
                assert_eq!(drawn.len(), count.min(known));
                let different: IndexSet<&Bytes> = drawn.iter().collect();
                assert_eq!(different.len(), drawn.len());
                assert!(record.others == 0 || drawn.iter().all(|name| sample.contains(name)));
            }
        }
    }

    #[test]
    fn what_has_gone_from_the_fields_is_not_drawn_from_the_sample() {
        let sample: Vec<Bytes> = (0..40).map(|at: u32| Bytes::from(at.to_string())).collect();
        let part = Record { others: 1000, sample, ..record(2) };
        for count in [1, 2, 3] {
            assert_eq!(part.draw(count).len(), count.min(2));
        }
    }

    #[test]
    fn draws_with_repetition_are_even_and_know_the_others() {
        fastrand::seed(7);
        for record in [
            record(10),
            Record { others: 7, sample: vec!["0".into(), "1".into(), "2".into()], ..record(3) },
        ] {
            let (mut same, draws) = (0, 20_000);
            for _ in 0..draws {
                let drawn = record.draw_with_repetition(2);
                assert_eq!(drawn.len(), 2);
                same += usize::from(drawn[0] == drawn[1]);
            }
            // One in ten.
            assert!((draws / 12..draws / 8).contains(&same), "{same}");
        }
        assert_eq!(record(3).draw_with_repetition(500).len(), 500);
        assert_eq!(record(0).draw_with_repetition(5).len(), 0);
    }
}
