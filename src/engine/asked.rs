//! Keys that clients ask for: what is needed of each, and what the stores have told of it.

use std::collections::HashMap;

use bytes::Bytes;

use super::operation::Operation;
use crate::command::{Need, Needs};
use crate::config::Strategy;
use crate::mapping::MappedKey;
use crate::protocol::Reply;
use crate::upstream::control::Frame;
use crate::upstream::scripts::Token;
use crate::value::{Fields, Record, ValueKind};

/// Fields that the script asks for by name; for more it takes the whole hash. (Lua's `unpack` takes
/// 8,000 at most.)
const MOST_FIELDS: usize = 1000;

/// One key that at least one client asks for.
pub(super) struct Asked<'a> {
    pub(super) key: &'a MappedKey,
    /// All but the expiry Redis may tell; that only Postgres can.
    pub(super) needs: Needs,
    pub(super) residence: Residence,
    pub(super) cached: Option<Found>,
    pub(super) stored: Option<Found>,
}

/// What Redis says of a key.
pub(super) enum Residence {
    /// It was not asked, or is out of reach.
    Unknown,
    /// A writer or another reader is at it: ask Postgres, store nothing.
    Through,
    /// It has told what there is to tell.
    Told,
    /// So it has, and Postgres does not know all of it yet.
    Ahead,
    /// This reader may fill it.
    Fill(Lease),
}

/// The right to fill a key.
pub(super) struct Lease {
    pub(super) token: Token,
    /// The clock of Redis when it was given, so before the row is read; milliseconds since the Unix
    /// epoch. What Postgres says is left of the key's own time is reckoned from here, so that the
    /// copy does not outlive the key.
    pub(super) upstream_now_ms: i64,
}

/// What the key holds.
#[derive(Clone)]
pub(super) enum Found {
    Record { record: Option<Record>, now_ms: i64 },
    Error(Reply),
}

// === impl Asked ===

impl Asked<'_> {
    /// Redis' answer to `miss`.
    pub(super) fn take_in(&mut self, token: Token, reply: Frame) {
        let Frame::Array(parts) = reply else { return };
        let mut parts = parts.into_iter();
        let Some(Frame::BulkString(word)) = parts.next() else { return };
        let told = |record| Found::Record { record, now_ms: 0 };
        let second = parts.next();
        let is_ahead = match (&word[..], &second) {
            (b"ABSENT", Some(Frame::BulkString(more))) => &more[..] == b"AHEAD",
            (word, _) => word == b"AHEAD",
        };
        let word = if is_ahead && &word[..] == b"AHEAD" { &b"HIT"[..] } else { &word[..] };
        match (word, second) {
            (b"FILL", Some(Frame::Integer(upstream_now_ms))) => {
                self.residence = Residence::Fill(Lease { token, upstream_now_ms });
                return;
            }
            (b"ABSENT", _) => self.cached = Some(told(None)),
            (b"HIT", None) => {
                let kind = self.key.mapping.holds();
                // It is there, so there is something in it.
                self.cached = Some(told(Some(Record { kind, others: 1, ..Record::default() })));
            }
            (b"HIT", Some(Frame::Integer(count))) => {
                let kind = self.key.mapping.holds();
                let others = usize::try_from(count).unwrap_or(0);
                self.cached = Some(told(Some(Record { kind, others, ..Record::default() })));
            }
            (b"HIT", Some(Frame::Array(values))) => {
                let record = record(self.key.mapping.holds(), Wanted::of(&self.needs), values);
                self.cached = Some(told(Some(record)));
            }
            (b"HIT", Some(Frame::Error(text))) if text.starts_with("WRONGTYPE") => {
                self.cached = Some(Found::Error(Reply::Error(text.to_string())));
            }
            (b"THROUGH", _) => {
                self.residence = Residence::Through;
                return;
            }
            _ => return,
        }
        self.residence = if is_ahead { Residence::Ahead } else { Residence::Told };
    }

    pub(super) fn is_for_store(&self) -> bool {
        let by_redis = match self.residence {
            // Redis has what is newest.
            Residence::Ahead => true,
            Residence::Told => self.key.mapping.strategy() != Strategy::DatabaseFirst,
            _ => false,
        };
        // All of it is wanted, and it is too much for one answer: Postgres is going to tell it piece by piece.
        let is_to_be_imported =
            self.key.mapping.imports() && self.needs.each && self.is_told_in_part();
        self.stored.is_none() && (self.needs.expiry || !by_redis || is_to_be_imported)
    }

    fn is_told_in_part(&self) -> bool {
        matches!(&self.cached, Some(Found::Record { record: Some(record), .. }) if record.others > 0)
    }

    /// Whether Redis may alone have this key, of which Postgres has been asked and has no row. Who was told
    /// that Redis does not have it was told so before Postgres was asked.
    pub(super) fn may_be_original(&self) -> bool {
        let is_there = match self.residence {
            Residence::Unknown => true,
            Residence::Told | Residence::Ahead => {
                matches!(self.cached, Some(Found::Record { record: Some(_), .. } | Found::Error(_)))
            }
            Residence::Through | Residence::Fill(_) => false,
        };
        let has_no_row = matches!(self.stored, Some(Found::Record { record: None, .. }));
        self.key.mapping.imports() && is_there && has_no_row
    }

    /// Whether Postgres is going to be asked for a key of which Redis may be ahead. A reader that may fill it,
    /// or that somebody else keeps from it, has been told that Redis is not; so has, but for a moment, one who
    /// was told what a clean key holds.
    pub(super) fn may_be_ahead(&self) -> bool {
        self.key.mapping.may_be_behind()
            && self.is_for_store()
            && matches!(self.residence, Residence::Unknown | Residence::Ahead)
    }

    /// What answers a need: Postgres where it was asked and has answered, else Redis.
    pub(super) fn found(&self, need: &Need) -> Option<&Found> {
        match (&self.stored, &self.cached) {
            (Some(Found::Error(_)) | None, Some(cached)) if *need != Need::Expiry => Some(cached),
            (stored, _) => stored.as_ref(),
        }
    }
}

/// Each key once, with all that is needed of it; and for each operation where its keys stand.
pub(super) fn keys_of<'a>(operations: &[&'a Operation]) -> (Vec<Asked<'a>>, Vec<Vec<usize>>) {
    let mut asked: Vec<Asked<'a>> = Vec::new();
    let mut known: HashMap<&[u8], usize, ahash::RandomState> = HashMap::default();
    let mut places = Vec::with_capacity(operations.len());
    for operation in operations {
        let need = operation.as_read().map(|read| (read.need)(&operation.arguments));
        let mut of_operation = Vec::with_capacity(operation.keys.len());
        for key in &operation.keys {
            let at = *known.entry(&key.key).or_insert_with(|| {
                asked.push(Asked {
                    key,
                    needs: Needs::default(),
                    residence: Residence::Unknown,
                    cached: None,
                    stored: None,
                });
                asked.len() - 1
            });
            if let Some(need) = &need {
                asked[at].needs.add(need.clone());
            }
            of_operation.push(at);
        }
        places.push(of_operation);
    }
    (asked, places)
}

// === what Redis has ===

/// What the script has to read if the key is there, so that all needs are met.
enum Wanted<'a> {
    Existence,
    Count,
    /// These, which are not too many.
    Fields(&'a indexmap::IndexSet<Bytes, ahash::RandomState>),
    /// All, unless that is too much to be held.
    Each,
    Whole,
}

impl<'a> Wanted<'a> {
    fn of(needs: &'a Needs) -> Self {
        let Needs { whole, each, fields, existence: _, expiry: _, count, sample } = needs;
        if *each && !*whole && *sample == 0 && !*count && fields.is_empty() {
            return Self::Each;
        }
        match (*whole || *each || *sample > 0, *count, fields.len()) {
            (true, ..) | (_, true, 1..) | (_, _, MOST_FIELDS..) => Self::Whole,
            (false, true, 0) => Self::Count,
            (false, false, 0) => Self::Existence,
            (false, false, _) => Self::Fields(fields),
        }
    }
}

/// The words by which the script is told; a large value has more elements than `most`.
pub(super) fn wanted(needs: &Needs, most: usize) -> Vec<Bytes> {
    match Wanted::of(needs) {
        Wanted::Existence => vec![Bytes::from_static(b"existence")],
        Wanted::Count => vec![Bytes::from_static(b"count")],
        Wanted::Each => vec![Bytes::from_static(b"each"), Bytes::from(most.to_string())],
        Wanted::Whole => vec![Bytes::from_static(b"whole")],
        Wanted::Fields(fields) => {
            let word = Bytes::from_static(b"fields");
            std::iter::once(word).chain(fields.iter().cloned()).collect()
        }
    }
}

/// The record, or the part of it that was asked for.
fn record(kind: ValueKind, wanted: Wanted<'_>, values: Vec<Frame>) -> Record {
    let mut fields = Fields::default();
    let bytes = |frame: Frame| match frame {
        Frame::BulkString(bytes) => Some(bytes),
        // SMISMEMBER: the member is there, without a value.
        Frame::Integer(1) => Some(Bytes::new()),
        _ => None,
    };
    let mut values = values.into_iter();
    let mut others = 0;
    match (wanted, kind) {
        (Wanted::Fields(names), _) => {
            for (name, value) in names.iter().zip(values) {
                if let Some(value) = bytes(value) {
                    fields.insert(name.clone(), value);
                }
            }
            others = usize::from(fields.is_empty());
        }
        (_, ValueKind::Hash) => {
            while let (Some(name), Some(value)) = (values.next(), values.next()) {
                if let (Some(name), Some(value)) = (bytes(name), bytes(value)) {
                    fields.insert(name, value);
                }
            }
        }
        (_, ValueKind::Set) => {
            fields.extend(values.filter_map(bytes).map(|member| (member, Bytes::new())));
        }
    }
    Record { kind, fields, others, ..Record::default() }
}
