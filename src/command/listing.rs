//! Replies that list a whole value: HGETALL, HKEYS, HVALS, SMEMBERS; HSCAN and SSCAN without a pattern.
//!
//! Made in two ways that give the same bytes: as a reply from a record, and element by element from a
//! value that is too large to be held.

use bytes::{Bytes, BytesMut};

use super::scan::Step;
use crate::protocol::reply::{write_bulk, write_count};
use crate::protocol::{Reply, Version};
use crate::value::Record;

/// What of each element a reply has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// The fields of a hash, with their values.
    Entries,
    Fields,
    Values,
    /// The members of a set.
    Members,
    /// The one step of a scan: fields and their values, or members.
    StepOfEntries,
    StepOfMembers,
}

// === impl Listing ===

impl Listing {
    /// The reply for a value that is known as a whole.
    pub(super) fn reply(self, record: Option<&Record>) -> Reply {
        let entries = record.into_iter().flat_map(|record| &record.fields);
        let bulk = |bytes: &Bytes| Reply::Bulk(bytes.clone());
        match self {
            Self::Entries => {
                Reply::Map(entries.map(|(field, value)| (bulk(field), bulk(value))).collect())
            }
            Self::Fields => Reply::Array(entries.map(|(field, _)| bulk(field)).collect()),
            Self::Values => Reply::Array(entries.map(|(_, value)| bulk(value)).collect()),
            Self::Members => Reply::Set(entries.map(|(member, _)| bulk(member)).collect()),
            Self::StepOfEntries => {
                Step::reply(entries.flat_map(|(field, value)| [bulk(field), bulk(value)]).collect())
            }
            Self::StepOfMembers => Step::reply(entries.map(|(member, _)| bulk(member)).collect()),
        }
    }

    /// What comes before the elements, of which there are `count`.
    pub fn write_head(self, count: usize, version: Version, out: &mut BytesMut) {
        match (self, version) {
            (Self::Entries, Version::Resp2) => write_count(out, b'*', 2 * count),
            (Self::Entries, Version::Resp3) => write_count(out, b'%', count),
            (Self::Members, Version::Resp3) => write_count(out, b'~', count),
            (Self::Fields | Self::Values, _) | (Self::Members, Version::Resp2) => {
                write_count(out, b'*', count);
            }
            (Self::StepOfEntries | Self::StepOfMembers, _) => {
                write_count(out, b'*', 2);
                write_bulk(out, Step::LAST);
                write_count(out, b'*', if self == Self::StepOfEntries { 2 * count } else { count });
            }
        }
    }

    /// An element; a set's member has no value.
    pub fn write_element(self, name: &[u8], value: &[u8], out: &mut BytesMut) {
        match self {
            Self::Entries | Self::StepOfEntries => {
                write_bulk(out, name);
                write_bulk(out, value);
            }
            Self::Fields | Self::Members | Self::StepOfMembers => write_bulk(out, name),
            Self::Values => write_bulk(out, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTINGS: [Listing; 6] = [
        Listing::Entries,
        Listing::Fields,
        Listing::Values,
        Listing::Members,
        Listing::StepOfEntries,
        Listing::StepOfMembers,
    ];

    #[test]
    fn both_ways_give_the_same_bytes() {
        let pairs = [("a", "1"), ("", ""), ("b\r\n", "\0")];
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        for count in 0..=pairs.len() {
            let fields = pairs[..count].iter().map(|(name, value)| (bytes(name), bytes(value)));
            let record = Record { fields: fields.collect(), ..Record::default() };
            for listing in LISTINGS {
                for version in [Version::Resp2, Version::Resp3] {
                    let (mut whole, mut parts) = (BytesMut::new(), BytesMut::new());
                    listing.reply(Some(&record)).write(version, &mut whole);
                    listing.write_head(count, version, &mut parts);
                    for (name, value) in &record.fields {
                        listing.write_element(name, value, &mut parts);
                    }
                    assert_eq!(whole, parts, "{listing:?} {version:?} {count}");
                }
            }
        }
    }
}
