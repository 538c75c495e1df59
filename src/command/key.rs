//! Commands on keys of any type, with the replies and error texts of Redis 7.0.15 (expire.c,
//! db.c). A mapped key is a hash.
//!
//! The caller has checked the arity. DEL, UNLINK and EXISTS answer for one key; the caller adds
//! up. A record past its expiry is absent: whoever loads it sees to that.

use super::{Need, Proof, Read, Write};
use crate::protocol::Reply;
use crate::value::Record;

// === reads ===

/// EXISTS
pub const EXISTS: Read = Read {
    proof: Proof::NonZero,
    need: |_| Need::Existence,
    reply: |_, record, _| Reply::Integer(i64::from(record.is_some())),
};

/// TYPE
pub const TYPE: Read = Read {
    proof: Proof::NotNone,
    need: |_| Need::Existence,
    reply: |_, record, _| Reply::Status(if record.is_some() { "hash" } else { "none" }),
};

/// TTL: seconds left, rounded to the nearest.
pub const TTL: Read = Read {
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, now_ms| expiry(record, |at_ms| seconds(left(at_ms, now_ms))),
};

/// PTTL: milliseconds left.
pub const PTTL: Read = Read {
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, now_ms| expiry(record, |at_ms| left(at_ms, now_ms)),
};

/// EXPIRETIME: seconds since the Unix epoch, rounded to the nearest.
pub const EXPIRETIME: Read = Read {
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, _| expiry(record, seconds),
};

/// PEXPIRETIME: milliseconds since the Unix epoch.
pub const PEXPIRETIME: Read = Read {
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, _| expiry(record, |at_ms| at_ms),
};

/// -2 for an absent key, -1 for one that stays.
fn expiry(record: Option<&Record>, show: impl FnOnce(i64) -> i64) -> Reply {
    Reply::Integer(match record {
        None => -2,
        Some(Record { expires_at_ms: None, .. }) => -1,
        Some(Record { expires_at_ms: Some(at_ms), .. }) => show(*at_ms),
    })
}

fn left(at_ms: i64, now_ms: i64) -> i64 {
    at_ms.saturating_sub(now_ms).max(0)
}

fn seconds(ms: i64) -> i64 {
    ms.saturating_add(500) / 1000
}

// === writes ===

/// DEL, UNLINK
pub const DELETE: Write = Write { run: |_, draft, _| Reply::Integer(i64::from(draft.delete())) };

/// PERSIST
pub const PERSIST: Write = Write {
    run: |_, draft, _| {
        let expires = draft.expires_at_ms().is_some();
        draft.set_expires_at_ms(None);
        Reply::Integer(i64::from(expires))
    },
};
