//! What is different between a row and what Redis has of its key.
//!
//! - Of a key that Redis does not have nothing is different, unless it is to have all of them.
//! - The end of a copy says whose it is (see `engine::copy`): an odd one is the key's own, and no copy outlives that.
//!   An even one, or none, says that the key has none.

use bytes::Bytes;

use super::super::import::take_in;
use crate::mapping::Mapping;
use crate::store::StoredRow;
use crate::upstream::UpstreamError;
use crate::upstream::control::Frame;
use crate::value::Record;

/// How far the ends of a key may be apart on both sides: they are told by two clocks, one after the other.
pub(super) const TOLERANCE_MS: i64 = 1000;

/// The bytes of a field or value that are shown.
const SHOWN: usize = 24;

/// What Redis has of a key.
#[derive(Debug)]
pub(super) enum Held {
    Nothing,
    /// Postgres is going to have it.
    Dirty,
    OtherType(String),
    Large,
    Value {
        record: Record,
        /// As PEXPIRETIME and PTTL tell it.
        ends_at_ms: i64,
        left_ms: i64,
    },
}

/// A difference between both sides.
#[derive(Debug)]
pub(super) struct Difference {
    pub(super) what: What,
    /// For people.
    pub(super) detail: String,
}

/// Its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    MissingInRedis,
    MissingInPostgres,
    OtherType,
    Value,
    End,
}

// === impl What ===

impl What {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::MissingInRedis => "missing in Redis",
            Self::MissingInPostgres => "missing in Postgres",
            Self::OtherType => "of another type in Redis",
            Self::Value => "different values",
            Self::End => "different ends",
        }
    }
}

// === impl Held ===

impl Held {
    /// What the script says of one key.
    pub(super) fn of(frame: Frame, mapping: &Mapping) -> Result<Self, UpstreamError> {
        let odd = || UpstreamError::Protocol("an odd answer while a key was looked at".into());
        let Frame::Array(parts) = frame else { return Err(odd()) };
        let mut parts = parts.into_iter();
        let Some(Frame::BulkString(word)) = parts.next() else { return Err(odd()) };
        Ok(match (&word[..], parts.next(), parts.next(), parts.next()) {
            (b"NONE", ..) => Self::Nothing,
            (b"DIRTY", ..) => Self::Dirty,
            (b"LARGE", ..) => Self::Large,
            (b"TYPE", Some(Frame::BulkString(name)), ..) => {
                Self::OtherType(String::from_utf8_lossy(&name).into_owned())
            }
            (
                b"VALUE",
                Some(Frame::Integer(ends_at_ms)),
                Some(Frame::Integer(left_ms)),
                Some(Frame::Array(values)),
            ) => {
                let mut record = Record { kind: mapping.holds(), ..Record::default() };
                take_in(&mut record, values)?;
                // Its time has come just now.
                if record.fields.is_empty() {
                    return Ok(Self::Nothing);
                }
                Self::Value { record, ends_at_ms, left_ms }
            }
            _ => return Err(odd()),
        })
    }
}

/// The key's own end as a copy tells it: how long it has left; `None`: it has none.
pub(super) fn own_left_ms(ends_at_ms: i64, left_ms: i64) -> Option<i64> {
    (ends_at_ms > 0 && ends_at_ms % 2 == 1).then_some(left_ms)
}

/// What is different. `now_ms`: the clock of Postgres when the row was read. `is_complete`: Redis is to have every key.
pub(super) fn difference(
    mapping: &Mapping,
    row: &StoredRow,
    now_ms: i64,
    held: &Held,
    is_complete: bool,
) -> Option<Difference> {
    let found = |what, detail| Some(Difference { what, detail });
    let (record, ends_at_ms, left_ms) = match (held, &row.record) {
        (Held::Nothing, Some(_)) if is_complete => {
            return found(What::MissingInRedis, String::new());
        }
        (Held::Nothing | Held::Dirty | Held::Large, _) => return None,
        (Held::OtherType(name), _) => return found(What::OtherType, name.clone()),
        (Held::Value { .. }, None) => return found(What::MissingInPostgres, String::new()),
        (Held::Value { record, ends_at_ms, left_ms }, Some(_)) => (record, *ends_at_ms, *left_ms),
    };
    let stored = row.record.as_ref()?;
    if let Some(detail) = of_fields(record, stored) {
        return found(What::Value, detail);
    }
    let stored_left_ms = stored.expires_at_ms.map(|at_ms| at_ms.saturating_sub(now_ms));
    let is_cached = left_ms <= mapping.cache_ttl_ms.saturating_add(TOLERANCE_MS);
    let is_same = match (own_left_ms(ends_at_ms, left_ms), stored_left_ms) {
        (None, None) => ends_at_ms < 0 || is_cached,
        (Some(left), Some(stored)) => {
            (left - stored).abs() <= TOLERANCE_MS || (left < stored && is_cached)
        }
        _ => false,
    };
    if is_same {
        return None;
    }
    let text = |left_ms: Option<i64>| left_ms.map_or("none".to_owned(), |ms| format!("in {ms} ms"));
    let redis = (ends_at_ms > 0).then_some(left_ms);
    found(What::End, format!("{} in Redis, {} in Postgres", text(redis), text(stored_left_ms)))
}

fn of_fields(redis: &Record, postgres: &Record) -> Option<String> {
    let names = redis.fields.keys().chain(postgres.fields.keys());
    let differs = |name: &&Bytes| redis.fields.get(*name) != postgres.fields.get(*name);
    let mut differing: Vec<&Bytes> = names.filter(differs).collect();
    differing.sort_unstable();
    differing.dedup();
    let name = differing.first()?;
    let side = |record: &Record| match record.fields.get(*name) {
        None => "nothing".to_owned(),
        Some(value) => format!("\"{}\"", shortened(value)),
    };
    let more = if differing.len() > 1 {
        format!(" and {} more", differing.len() - 1)
    } else {
        String::new()
    };
    let name = shortened(name);
    Some(format!("\"{name}\" is {} in Redis, {} in Postgres{more}", side(redis), side(postgres)))
}

fn shortened(bytes: &[u8]) -> String {
    match bytes.get(..SHOWN) {
        Some(first) if bytes.len() > SHOWN => format!("{}…", first.escape_ascii()),
        _ => bytes.escape_ascii().to_string(),
    }
}
