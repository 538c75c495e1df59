//! What was seen in the values of a family: which fields, how often, and which column types would give
//! their bytes back.
//!
//! Invariants
//! - A value is judged by the codecs that a mapped column would have, and then forgotten: of values only
//!   counts are kept, and a few shortened examples.
//! - Two profiles can be made one, with the result of having seen all values together.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bytes::Bytes;

use super::segment::Step;
use crate::mapping::codec::Codec;
use crate::mapping::registry::lock_number;
use crate::mapping::shape::{BaseType, ColumnShape};

/// Different fields of one family that are told apart; of more, those with the smallest hashes.
pub(super) const MAX_FIELDS: usize = 512;
/// Examples of values of one sort.
const MAX_EXAMPLES: usize = 3;
/// Characters of an example.
const EXAMPLE_CHARACTERS: usize = 20;

/// A column type that is tried on values.
#[derive(Debug)]
pub(super) struct Candidate {
    pub(super) type_name: &'static str,
    pub(super) format: Option<&'static str>,
    codec: Codec,
    /// What a value begins with that can be one; spares most of the work.
    begins: fn(u8) -> bool,
}

/// What the sampled keys of a family hold.
#[derive(Debug, Default)]
pub(super) struct Profile {
    /// Keys that were looked into.
    pub(super) keys: u64,
    /// Of these, those with an expiry of their own.
    pub(super) expiring: u64,
    /// The longest time that one of them had left.
    pub(super) longest_ms: i64,
    /// Of these, those of which only a part was read.
    pub(super) partial: u64,
    /// Fields or members of the largest one.
    pub(super) largest: u64,
    pub(super) fields: BTreeMap<Bytes, Values>,
    /// Fields from this hash on are not told apart.
    unknown_from: Option<u64>,
    /// The values of all fields; of sets, the members.
    pub(super) all: Values,
    /// Fields whose names look like values.
    pub(super) data_names: u64,
    /// Fields or members that are not UTF-8, or hold a NUL.
    pub(super) binary_names: u64,
    pub(super) longest_name: usize,
}

/// The values of a field.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    pub(super) count: u64,
    pub(super) empty: u64,
    /// By which candidates give them back exactly: one bit each.
    sorts: BTreeMap<u32, Sort>,
    has_spaced_json: bool,
}

#[derive(Clone, Debug, Default)]
struct Sort {
    count: u64,
    examples: BTreeSet<String>,
}

/// All candidates; where two fit equally well the first one is taken.
pub(super) static CANDIDATES: LazyLock<Vec<Candidate>> = LazyLock::new(|| {
    fn word(byte: u8) -> bool {
        byte.is_ascii_alphabetic()
    }
    fn number(byte: u8) -> bool {
        byte.is_ascii_digit() || b"-.".contains(&byte)
    }
    fn digit(byte: u8) -> bool {
        byte.is_ascii_digit()
    }
    fn document(byte: u8) -> bool {
        b"{[".contains(&byte)
    }
    let moment = |format| Candidate::new("timestamptz", Some(format), BaseType::TimestampTz, digit);
    let boolean = |format| Candidate::new("boolean", Some(format), BaseType::Boolean, word);
    vec![
        Candidate::new("uuid", None, BaseType::Uuid, |byte| byte.is_ascii_hexdigit()),
        boolean("true/false"),
        boolean("True/False"),
        boolean("TRUE/FALSE"),
        boolean("yes/no"),
        boolean("on/off"),
        Candidate::new("bigint", None, BaseType::Bigint, number),
        Candidate::new("date", None, BaseType::Date, digit),
        moment("iso8601-ms"),
        moment("iso8601"),
        moment("postgres"),
        moment("epoch-ms"),
        moment("epoch-s"),
        Candidate::new("numeric", None, BaseType::Numeric, number),
        Candidate::new("double precision", None, BaseType::Double, number),
        Candidate::new("jsonb", None, BaseType::Jsonb, document),
        Candidate::new("json", None, BaseType::Json, document),
    ]
});

// === impl Candidate ===

impl Candidate {
    fn new(
        type_name: &'static str,
        format: Option<&'static str>,
        base: BaseType,
        begins: fn(u8) -> bool,
    ) -> Self {
        let column = ColumnShape {
            name: String::new(),
            type_name: type_name.to_owned(),
            base,
            modifier: -1,
            not_null: false,
            default: None,
            generated: false,
            deterministic: true,
        };
        let codec = Codec::new(&column, format).expect("the types and formats are known");
        Self { type_name, format, codec, begins }
    }

    fn gives_back(&self, value: &[u8]) -> bool {
        let fits = value.first().is_some_and(|&first| (self.begins)(first));
        fits && self.is_likely(value) && self.codec.encode(value).exact
    }

    /// Any integer is some moment; these are moments of our time.
    fn is_likely(&self, value: &[u8]) -> bool {
        let digits = match self.format {
            Some("epoch-s") => 10,
            Some("epoch-ms") => 13,
            _ => return true,
        };
        value.len() == digits && matches!(value[0], b'1' | b'2')
    }
}

// === impl Profile ===

impl Profile {
    /// A key's expiry: milliseconds left, or a negative number for none, as PTTL tells it.
    pub(super) fn see_key(&mut self, left_ms: i64, elements: u64, is_whole: bool) {
        self.keys += 1;
        if left_ms >= 0 {
            self.expiring += 1;
            self.longest_ms = self.longest_ms.max(left_ms);
        }
        self.largest = self.largest.max(elements);
        self.partial += u64::from(!is_whole);
    }

    pub(super) fn see_field(&mut self, field: &Bytes, value: &[u8]) {
        self.see_name(field);
        self.all.see(value);
        let hash = lock_number(field).cast_unsigned();
        if self.unknown_from.is_none_or(|from| hash < from) {
            self.fields.entry(field.clone()).or_default().see(value);
            self.forget_most();
        }
    }

    pub(super) fn see_member(&mut self, member: &[u8]) {
        self.see_name(member);
        self.all.see(member);
    }

    fn see_name(&mut self, name: &[u8]) {
        self.longest_name = self.longest_name.max(name.len());
        match std::str::from_utf8(name).ok().filter(|name| !name.contains('\0')) {
            None => self.binary_names += 1,
            Some(name) => {
                let is_data = |part| !matches!(Step::of(part), Step::Literal(_));
                let parts = || name.split([':', '/']);
                let has_data = parts().any(is_data) || super::segment::is_surely_value(name);
                // Names in parts, such as `model:x:tokens`, are made of values.
                self.data_names += u64::from(has_data || parts().count() > 2);
            }
        }
    }

    fn forget_most(&mut self) {
        while self.fields.len() > MAX_FIELDS {
            let hash = |field: &Bytes| lock_number(field).cast_unsigned();
            let last = self.fields.keys().max_by_key(|field| hash(field)).cloned();
            let Some(last) = last else { return };
            self.fields.remove(&last);
            self.unknown_from = Some(hash(&last));
        }
    }

    /// Whether there are fields that were not told apart.
    pub(super) fn has_more_fields(&self) -> bool {
        self.unknown_from.is_some()
    }

    pub(super) fn merge(&mut self, other: Profile) {
        self.keys += other.keys;
        self.expiring += other.expiring;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
        self.partial += other.partial;
        self.largest = self.largest.max(other.largest);
        self.all.merge(other.all);
        self.data_names += other.data_names;
        self.binary_names += other.binary_names;
        self.longest_name = self.longest_name.max(other.longest_name);
        for (field, values) in other.fields {
            self.fields.entry(field).or_default().merge(values);
        }
        self.unknown_from = match (self.unknown_from, other.unknown_from) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        if let Some(from) = self.unknown_from {
            self.fields.retain(|field, _| lock_number(field).cast_unsigned() < from);
        }
        self.forget_most();
    }

    /// How much of both the fields are the same, from 0 to 1; those that most keys have count.
    pub(super) fn likeness(&self, other: &Profile) -> f64 {
        let usual = |profile: &Profile| -> BTreeSet<Bytes> {
            let most = profile.fields.values().map(|values| values.count).max().unwrap_or(0);
            let usual = profile.fields.iter().filter(|(_, values)| values.count * 4 >= most);
            usual.map(|(field, _)| field.clone()).collect()
        };
        let (one, other) = (usual(self), usual(other));
        let both = one.intersection(&other).count();
        let all = one.union(&other).count();
        if all == 0 { 1.0 } else { both as f64 / all as f64 }
    }
}

// === impl Values ===

impl Values {
    pub(super) fn see(&mut self, value: &[u8]) {
        self.count += 1;
        if value.is_empty() {
            self.empty += 1;
            return;
        }
        let mut sort = 0_u32;
        for (at, candidate) in CANDIDATES.iter().enumerate() {
            sort |= u32::from(candidate.gives_back(value)) << at;
        }
        self.has_spaced_json |= matches!(value[0], b'{' | b'[') && is_spaced(value);
        let sort = self.sorts.entry(sort).or_default();
        sort.count += 1;
        sort.examples.insert(shortened(value));
        if sort.examples.len() > MAX_EXAMPLES {
            sort.examples.pop_last();
        }
    }

    fn merge(&mut self, other: Values) {
        self.count += other.count;
        self.empty += other.empty;
        self.has_spaced_json |= other.has_spaced_json;
        for (sort, more) in other.sorts {
            let known = self.sorts.entry(sort).or_default();
            known.count += more.count;
            known.examples.extend(more.examples);
            while known.examples.len() > MAX_EXAMPLES {
                known.examples.pop_last();
            }
        }
    }

    /// How many values there are that are not empty.
    pub(super) fn filled(&self) -> u64 {
        self.count - self.empty
    }

    /// How many values a candidate gives back.
    pub(super) fn exact(&self, candidate: usize) -> u64 {
        let sorts = self.sorts.iter().filter(|(sort, _)| *sort >> candidate & 1 == 1);
        sorts.map(|(_, sort)| sort.count).sum()
    }

    /// Some of those that it does not give back.
    pub(super) fn odd(&self, candidate: usize) -> Vec<&str> {
        let sorts = self.sorts.iter().filter(|(sort, _)| *sort >> candidate & 1 == 0);
        let examples: BTreeSet<&str> =
            sorts.flat_map(|(_, sort)| sort.examples.iter().map(String::as_str)).collect();
        examples.into_iter().take(MAX_EXAMPLES).collect()
    }

    /// Whether documents are among them that jsonb writes with spaces; `["a"]` is one to all JSON types.
    pub(super) fn has_spaced_json(&self) -> bool {
        self.has_spaced_json
    }
}

fn is_spaced(value: &[u8]) -> bool {
    [&b", "[..], b": "].iter().any(|space| memchr::memmem::find(value, space).is_some())
}

/// A value as people may see it: its beginning, on one line.
pub(super) fn shortened(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(&value[..value.len().min(4 * EXAMPLE_CHARACTERS)]);
    let mut short: String =
        text.chars().take(EXAMPLE_CHARACTERS).flat_map(char::escape_debug).collect();
    if text.chars().count() > EXAMPLE_CHARACTERS || value.len() > 4 * EXAMPLE_CHARACTERS {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_by_what_gives_them_back() {
        let mut values = Values::default();
        for value in ["5", "9.90", "1e-7", "", "12"] {
            values.see(value.as_bytes());
        }
        let at = |name: &str| CANDIDATES.iter().position(|known| known.type_name == name).unwrap();
        assert_eq!((values.count, values.empty, values.filled()), (5, 1, 4));
        assert_eq!((values.exact(at("bigint")), values.exact(at("numeric"))), (2, 3));
        assert_eq!(values.odd(at("numeric")), ["1e-7"]);
        assert_eq!(values.exact(at("uuid")), 0);
    }

    #[test]
    fn profiles_are_made_one_as_if_all_had_been_seen_together() {
        let field = |number: u32| Bytes::from(format!("field{number}"));
        let (mut one, mut other, mut both) =
            (Profile::default(), Profile::default(), Profile::default());
        for number in 0..2000 {
            let half = if number % 3 == 0 { &mut one } else { &mut other };
            half.see_field(&field(number % 900), b"17");
            both.see_field(&field(number % 900), b"17");
        }
        one.merge(other);
        assert!(one.has_more_fields());
        assert_eq!(format!("{one:?}"), format!("{both:?}"));
    }

    #[test]
    fn examples_are_short_and_on_one_line() {
        assert_eq!(shortened(b"a\nb\0"), "a\\nb\\0");
        assert_eq!(shortened(&[b'x'; 100]).chars().count(), EXAMPLE_CHARACTERS + 1);
        assert_eq!(shortened("ä".repeat(21).as_bytes()), format!("{}…", "ä".repeat(20)));
    }
}
