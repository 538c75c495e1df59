//! The value of a mapped key: its fields or members, and when the key expires.

use bytes::Bytes;
use indexmap::IndexMap;

/// Field to value, in the order in which the fields were first set; a set's members are fields with
/// empty values.
pub type Fields = IndexMap<Bytes, Bytes, ahash::RandomState>;

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
        let mut names: Vec<Bytes> = if self.others == 0 {
            self.fields.keys().cloned().collect()
        } else {
            self.sample.iter().filter(|name| self.fields.contains_key(*name)).cloned().collect()
        };
        let count = count.min(names.len());
        for at in 0..count {
            let other = fastrand::usize(at..names.len());
            names.swap(at, other);
        }
        names.truncate(count);
        names
    }

    /// Names drawn at random, the same one perhaps again; of a record that is known as a whole.
    pub fn draw_with_repetition(&self, count: usize) -> impl Iterator<Item = &Bytes> {
        let known = self.fields.len();
        let count = if known == 0 { 0 } else { count };
        let draw = move |_| self.fields.get_index(fastrand::usize(..known));
        (0..count).filter_map(draw).map(|(name, _)| name)
    }
}
