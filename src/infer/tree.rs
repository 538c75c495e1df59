//! The names of all keys of a Redis in a bounded tree: one step a level, values of one form in one place.
//!
//! Invariants
//! - Memory depends on how many different words there are, not on how many keys: at most
//!   twice [`MAX_PLACES`] places, and [`MAX_SAMPLES`] keys kept as examples of all of them.
//! - What is kept does not depend on the order in which keys come: of a place those keys are kept whose
//!   hash is smallest. (Only a tree that has run full takes what comes first.)

use std::collections::{BTreeMap, BTreeSet};

use super::profile::Profile;
use super::segment::{Form, Separator, Step, cut};
use crate::mapping::pattern::MAX_KEY_BYTES;
use crate::mapping::registry::lock_number;

/// Places of the tree, each some hundred bytes beside its examples. From then on words are values, which may
/// take as many places again.
pub(super) const MAX_PLACES: usize = 20_000;
/// Keys kept as examples in the whole tree.
pub(super) const MAX_SAMPLES: usize = 400_000;
/// More different words than this at one place of a key are values. Where keys begin, more are taken for
/// words: so many sorts of keys an app may have.
const MAX_WORDS: usize = 200;
const MAX_FIRST_WORDS: usize = 1000;

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HeldType {
    Hash,
    Set,
    String,
    List,
    SortedSet,
    Stream,
    /// Of a module.
    Other,
}

/// All that is known of the names of keys.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// One tree for each type and separator: a word that is a hash's neighbour among sets says nothing of it.
    pub(super) trees: BTreeMap<(HeldType, Separator), Place>,
    /// Keys that no pattern can match: not UTF-8, NUL, too long, empty.
    pub unnamable: u64,
    /// Keys that were not told apart, as the tree was full.
    pub untold: u64,
    pub keys: u64,
    places: usize,
    samples: usize,
    samples_each: usize,
}

/// Where keys that begin alike go on.
#[derive(Debug, Default)]
pub(super) struct Place {
    pub(super) next: BTreeMap<Step, Place>,
    /// Keys that end here.
    pub(super) end: Option<End>,
}

/// Keys of one family.
#[derive(Debug, Default)]
pub(super) struct End {
    pub(super) keys: u64,
    /// Those with the smallest hashes.
    pub(super) samples: BTreeSet<(u64, Box<str>)>,
    pub(super) profile: Profile,
}

// === impl HeldType ===

impl HeldType {
    /// From the reply to TYPE; `None`: the key is gone.
    pub(super) fn of_redis(name: &str) -> Option<Self> {
        Some(match name {
            "none" => return None,
            "hash" => Self::Hash,
            "set" => Self::Set,
            "string" => Self::String,
            "list" => Self::List,
            "zset" => Self::SortedSet,
            "stream" => Self::Stream,
            _ => Self::Other,
        })
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::Set => "set",
            Self::String => "string",
            Self::List => "list",
            Self::SortedSet => "zset",
            Self::Stream => "stream",
            Self::Other => "other",
        }
    }

    /// Whether keys of this type can be mapped.
    pub(super) fn is_mappable(self) -> bool {
        matches!(self, Self::Hash | Self::Set)
    }
}

// === impl Names ===

impl Names {
    /// `samples_each`: how many keys to keep of each family.
    pub(super) fn new(samples_each: usize) -> Self {
        Self { samples_each: samples_each.max(1), ..Self::default() }
    }

    pub(super) fn add(&mut self, key: &[u8], held: HeldType) {
        self.keys += 1;
        let text = std::str::from_utf8(key)
            .ok()
            .filter(|text| !text.is_empty() && text.len() <= MAX_KEY_BYTES && !text.contains('\0'));
        let Some(key) = text else {
            self.unnamable += 1;
            return;
        };
        let (separator, segments) = cut(key);
        let mut place = self.trees.entry((held, separator)).or_default();
        for (depth, segment) in segments.iter().enumerate() {
            let mut step = Step::of(segment);
            let text = Step::Value(Form::Text);
            if step.is_loose() && !place.next.contains_key(&step) {
                let words = place.next.keys().filter(|step| step.is_loose()).count();
                let most = if depth == 0 { MAX_FIRST_WORDS } else { MAX_WORDS };
                if depth > 0 && self.places >= MAX_PLACES || place.next.contains_key(&text) {
                    step = text;
                } else if words >= most {
                    self.places -= place.join_words();
                    step = text;
                }
            }
            if !place.next.contains_key(&step) {
                if self.places >= 2 * MAX_PLACES {
                    self.untold += 1;
                    return;
                }
                self.places += 1;
            }
            place = place.next.entry(step).or_default();
        }
        let end = place.end.get_or_insert_default();
        end.keys += 1;
        self.samples += end.keep(key, self.samples_each);
        if self.samples > MAX_SAMPLES && self.samples_each > 1 {
            self.samples_each /= 2;
            self.samples = 0;
            for tree in self.trees.values_mut() {
                tree.each_end(&mut |end| {
                    while end.samples.len() > self.samples_each {
                        end.samples.pop_last();
                    }
                    self.samples += end.samples.len();
                });
            }
        }
    }

    /// Keeps at most `all` examples, as evenly as may be.
    pub(super) fn thin_out(&mut self, all: usize) {
        let mut ends = 0;
        self.trees.values_mut().for_each(|tree| tree.each_end(&mut |_| ends += 1));
        let each = (all / ends.max(1)).max(3);
        self.samples_each = self.samples_each.min(each);
        for tree in self.trees.values_mut() {
            tree.each_end(&mut |end| {
                while end.samples.len() > self.samples_each {
                    end.samples.pop_last();
                }
            });
        }
    }
}

// === impl Place ===

impl Place {
    /// Visits all keys' ends, in the order of their names.
    pub(super) fn each_end(&mut self, visit: &mut dyn FnMut(&mut End)) {
        if let Some(end) = &mut self.end {
            visit(end);
        }
        for place in self.next.values_mut() {
            place.each_end(visit);
        }
    }

    /// Of all keys that come by here, those with the least name.
    pub(super) fn first_end(&self) -> Option<&End> {
        self.end.as_ref().or_else(|| self.next.values().find_map(Place::first_end))
    }

    /// Makes one value of all words; gives how many places fewer there are.
    fn join_words(&mut self) -> usize {
        let before = self.count();
        let words: Vec<Step> = self.next.keys().filter(|step| step.is_loose()).cloned().collect();
        self.join(&words);
        before - self.count()
    }

    /// Makes one place of those that these steps lead to, reached by any text.
    pub(super) fn join(&mut self, steps: &[Step]) {
        let mut joined = self.next.remove(&Step::Value(Form::Text)).unwrap_or_default();
        for step in steps {
            if let Some(place) = self.next.remove(step) {
                joined.merge(place);
            }
        }
        self.next.insert(Step::Value(Form::Text), joined);
    }

    fn merge(&mut self, other: Place) {
        if let Some(end) = other.end {
            self.end.get_or_insert_default().merge(end);
        }
        for (step, place) in other.next {
            self.next.entry(step).or_default().merge(place);
        }
        let words = self.next.keys().filter(|step| step.is_loose()).count();
        let has_text = self.next.contains_key(&Step::Value(Form::Text));
        if words > MAX_WORDS || has_text && words > 0 {
            let words: Vec<Step> =
                self.next.keys().filter(|step| step.is_loose()).cloned().collect();
            self.join(&words);
        }
    }

    fn count(&self) -> usize {
        1 + self.next.values().map(Place::count).sum::<usize>()
    }
}

// === impl End ===

impl End {
    /// Keeps the key if its hash is among the smallest; gives how many more are kept now.
    fn keep(&mut self, key: &str, most: usize) -> usize {
        let hash = spread(lock_number(key.as_bytes()).cast_unsigned());
        if self.samples.len() >= most && self.samples.last().is_some_and(|last| last.0 <= hash) {
            return 0;
        }
        let is_new = self.samples.insert((hash, key.into()));
        if self.samples.len() > most {
            self.samples.pop_last();
            return 0;
        }
        usize::from(is_new)
    }

    fn merge(&mut self, other: End) {
        self.keys += other.keys;
        self.samples.extend(other.samples);
        self.profile.merge(other.profile);
    }

    pub(super) fn sample_keys(&self) -> impl Iterator<Item = &str> {
        self.samples.iter().map(|(_, key)| &**key)
    }
}

/// Neighbouring numbers far from each other (the finalizer of SplitMix64).
fn spread(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn places(names: &Names) -> usize {
        names.trees.values().map(Place::count).sum()
    }

    #[test]
    fn a_million_keys_take_no_more_room_than_a_thousand() {
        let mut names = Names::new(50);
        for number in 0..1_000_000_u32 {
            names.add(format!("user:{number}:profile").as_bytes(), HeldType::Hash);
        }
        assert_eq!((names.keys, places(&names)), (1_000_000, 4));
        assert_eq!(names.samples, 50);
        for number in 0..100_000_u32 {
            // Words without digits, each another one.
            let word: String =
                format!("{number:05}").bytes().map(|byte| char::from(byte + 49)).collect();
            names.add(format!("tag:{word}:{word}").as_bytes(), HeldType::Set);
        }
        assert!(places(&names) < 1000, "{}", places(&names));
    }

    #[test]
    fn what_is_kept_does_not_depend_on_the_order() {
        let keys: Vec<String> = (0..2000).map(|n| format!("s:{n}:w{}", n % 7)).collect();
        let mut one = Names::new(10);
        keys.iter().for_each(|key| one.add(key.as_bytes(), HeldType::Hash));
        let mut other = Names::new(10);
        keys.iter().rev().for_each(|key| other.add(key.as_bytes(), HeldType::Hash));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
    }

    #[test]
    fn keys_that_no_pattern_can_match_are_only_counted() {
        let mut names = Names::new(10);
        for key in [&b"\xff\xfe"[..], b"", b"a\0b", &[b'x'; MAX_KEY_BYTES + 1]] {
            names.add(key, HeldType::Hash);
        }
        assert_eq!((names.keys, names.unnamable, names.trees.len()), (4, 4, 0));
    }
}
