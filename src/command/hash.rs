//! Commands on hashes, with the replies and error texts of Redis 7.0.15 (t_hash.c).
//!
//! The caller has checked the arity and that the key, argument 1, is mapped to a hash. Errors come
//! in Redis' order: what an argument alone makes wrong is told before the value is looked at.

use bytes::Bytes;

use super::{Need, Proof, Read, Write};
use crate::protocol::Reply;
use crate::value::{Draft, Record};

// === reads ===

/// HGET
pub const GET: Read = Read {
    proof: Proof::NonNil,
    need: field,
    reply: |args, record, _| value(record, &args[2]).map_or(Reply::Nil, Reply::Bulk),
};

/// HMGET
pub const MULTI_GET: Read = Read {
    proof: Proof::AnyNonNil,
    need: |args| Need::Fields(args[2..].to_vec()),
    reply: |args, record, _| {
        let get = |field| value(record, field).map_or(Reply::Nil, Reply::Bulk);
        Reply::Array(args[2..].iter().map(get).collect())
    },
};

/// HGETALL
pub const GET_ALL: Read = Read {
    proof: Proof::NonEmpty,
    need: |_| Need::Whole,
    reply: |_, record, _| {
        let pair = |(field, value)| (Reply::Bulk(field), Reply::Bulk(value));
        Reply::Map(entries(record).map(pair).collect())
    },
};

/// HKEYS
pub const FIELDS: Read = Read {
    proof: Proof::NonEmpty,
    need: |_| Need::Whole,
    reply: |_, record, _| {
        Reply::Array(entries(record).map(|(field, _)| Reply::Bulk(field)).collect())
    },
};

/// HVALS
pub const VALUES: Read = Read {
    proof: Proof::NonEmpty,
    need: |_| Need::Whole,
    reply: |_, record, _| {
        Reply::Array(entries(record).map(|(_, value)| Reply::Bulk(value)).collect())
    },
};

/// HEXISTS
pub const EXISTS: Read = Read {
    proof: Proof::NonZero,
    need: field,
    reply: |args, record, _| Reply::Integer(i64::from(value(record, &args[2]).is_some())),
};

/// HLEN
pub const LENGTH: Read = Read {
    proof: Proof::NonZero,
    need: |_| Need::Whole,
    reply: |_, record, _| integer(record.map_or(0, |record| record.fields.len())),
};

/// HSTRLEN
pub const VALUE_LENGTH: Read = Read {
    proof: Proof::NonZero,
    need: field,
    reply: |args, record, _| integer(value(record, &args[2]).map_or(0, |value| value.len())),
};

// === writes ===

/// HSET
pub const SET: Write = Write {
    run: |args, draft, _| match set_pairs("hset", args, draft) {
        Ok(added) => integer(added),
        Err(error) => error,
    },
};

/// HMSET
pub const MULTI_SET: Write = Write {
    run: |args, draft, _| match set_pairs("hmset", args, draft) {
        Ok(_) => Reply::Status("OK"),
        Err(error) => error,
    },
};

/// HSETNX
pub const SET_IF_ABSENT: Write = Write {
    run: |args, draft, _| {
        let absent = draft.get(&args[2]).is_none();
        if absent {
            draft.set(args[2].clone(), args[3].clone());
        }
        Reply::Integer(i64::from(absent))
    },
};

/// HDEL
pub const DELETE: Write = Write {
    run: |args, draft, _| integer(args[2..].iter().filter(|field| draft.remove(field)).count()),
};

/// Sets the pairs from argument 2 on; the number of fields that are new.
fn set_pairs(name: &str, args: &[Bytes], draft: &mut Draft) -> Result<usize, Reply> {
    if !args.len().is_multiple_of(2) {
        return Err(Reply::Error(format!("ERR wrong number of arguments for '{name}' command")));
    }
    let mut added = 0;
    for pair in args[2..].chunks_exact(2) {
        added += usize::from(draft.set(pair[0].clone(), pair[1].clone()));
    }
    Ok(added)
}

// === arguments and replies ===

/// What HGET, HEXISTS and HSTRLEN need: the field of argument 2.
fn field(args: &[Bytes]) -> Need {
    Need::Fields(vec![args[2].clone()])
}

fn value(record: Option<&Record>, field: &Bytes) -> Option<Bytes> {
    record.and_then(|record| record.fields.get(field)).cloned()
}

fn entries(record: Option<&Record>) -> impl Iterator<Item = (Bytes, Bytes)> {
    let fields = record.into_iter().flat_map(|record| &record.fields);
    fields.map(|(field, value)| (field.clone(), value.clone()))
}

fn integer(length: usize) -> Reply {
    Reply::Integer(length.try_into().expect("a length fits, as no object is larger than i64::MAX"))
}
