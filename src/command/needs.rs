//! What commands need of a value: one command, and several that are answered together.

use bytes::Bytes;
use indexmap::IndexSet;

use super::Listing;

/// What a command needs of the value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// All fields or members.
    Whole,
    /// Each of them, for a listing: those of a large value one after the other.
    Each(Listing),
    /// These fields or members, and whether there are others.
    Fields(Vec<Bytes>),
    /// Only whether the key is there.
    Existence,
    /// Whether the key is there, and its own expiry.
    Expiry,
    /// How many fields or members there are.
    Count,
    /// So many fields or members drawn at random, each once.
    Sample(usize),
    /// So many drawn at random, the same one perhaps again: that takes their number as well.
    Repeated(usize),
}

/// What several commands need of one key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// All fields or members, at once.
    pub whole: bool,
    /// All of them; not to be held where they are too many.
    pub each: bool,
    pub fields: IndexSet<Bytes, ahash::RandomState>,
    pub existence: bool,
    pub expiry: bool,
    pub count: bool,
    /// What all of them draw, one after the other.
    pub sample: usize,
}

// === impl Needs ===

impl Needs {
    pub fn add(&mut self, need: Need) {
        match need {
            Need::Whole => self.whole = true,
            Need::Each(_) => self.each = true,
            Need::Fields(fields) => self.fields.extend(fields),
            Need::Existence => self.existence = true,
            Need::Expiry => self.expiry = true,
            Need::Count => self.count = true,
            Need::Sample(count) => self.sample = self.sample.saturating_add(count),
            Need::Repeated(count) => {
                self.count = true;
                self.sample = self.sample.saturating_add(count);
            }
        }
    }

    /// Whether anything but the expiry is needed.
    pub fn of_value(&self) -> bool {
        let Self { whole, each, fields, existence, expiry: _, count, sample } = self;
        *whole || *each || *existence || *count || *sample > 0 || !fields.is_empty()
    }

    /// How many have to be drawn, so that there are enough even if others of these commands remove what
    /// they name.
    pub fn drawn(&self) -> usize {
        if self.sample == 0 { 0 } else { self.sample.saturating_add(self.fields.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_several_need_is_needed_once() {
        let mut needs = Needs::default();
        for fields in [["a", "b"], ["b", "c"]] {
            needs.add(Need::Fields(fields.map(Bytes::from).to_vec()));
        }
        assert!(needs.fields.iter().eq(["a", "b", "c"]));
        assert!(!needs.whole && !needs.expiry && needs.of_value());
        assert_eq!(needs.drawn(), 0);
        needs.add(Need::Sample(2));
        needs.add(Need::Sample(1));
        assert_eq!(needs.drawn(), 6);
        assert!(!needs.count);
        needs.add(Need::Repeated(4));
        assert_eq!(needs.drawn(), 10);
        assert!(needs.count);
    }
}
