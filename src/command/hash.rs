//! Commands on hashes, with the replies and error texts of Redis 7.0.15 (t_hash.c).
//!
//! The caller has checked the arity and that the key, argument 1, is mapped to a hash. Errors come
//! in Redis' order: what an argument alone makes wrong is told before the value is looked at.

use bytes::Bytes;

use super::scan::{Step, count_to_draw, draw, need_to_draw};
use super::{Listing, Need, Proof, Read, Write};
use crate::protocol::Reply;
use crate::value::number::{LongDouble, format_i64, parse_i64};
use crate::value::{Draft, Record, ValueKind};

const HASH: Option<ValueKind> = Some(ValueKind::Hash);

// === reads ===

/// HGET
pub const GET: Read = Read {
    of: HASH,
    proof: Proof::NonNil,
    need: field,
    reply: |args, record, _| value(record, &args[2]).map_or(Reply::Nil, Reply::Bulk),
};

/// HMGET
pub const MULTI_GET: Read = Read {
    of: HASH,
    proof: Proof::AnyNonNil,
    need: |args| Need::Fields(args[2..].to_vec()),
    reply: |args, record, _| {
        let get = |field| value(record, field).map_or(Reply::Nil, Reply::Bulk);
        Reply::Array(args[2..].iter().map(get).collect())
    },
};

/// HGETALL
pub const GET_ALL: Read = Read {
    of: HASH,
    proof: Proof::NonEmpty,
    need: |_| Need::Each(Listing::Entries),
    reply: |_, record, _| Listing::Entries.reply(record),
};

/// HKEYS
pub const FIELDS: Read = Read {
    of: HASH,
    proof: Proof::NonEmpty,
    need: |_| Need::Each(Listing::Fields),
    reply: |_, record, _| Listing::Fields.reply(record),
};

/// HVALS
pub const VALUES: Read = Read {
    of: HASH,
    proof: Proof::NonEmpty,
    need: |_| Need::Each(Listing::Values),
    reply: |_, record, _| Listing::Values.reply(record),
};

/// HEXISTS
pub const EXISTS: Read = Read {
    of: HASH,
    proof: Proof::NonZero,
    need: field,
    reply: |args, record, _| Reply::Integer(i64::from(value(record, &args[2]).is_some())),
};

/// HLEN
pub const LENGTH: Read = Read {
    of: HASH,
    proof: Proof::NonZero,
    need: |_| Need::Count,
    reply: |_, record, _| integer(record.map_or(0, Record::len)),
};

/// HSTRLEN
pub const VALUE_LENGTH: Read = Read {
    of: HASH,
    proof: Proof::NonZero,
    need: field,
    reply: |args, record, _| integer(value(record, &args[2]).map_or(0, |value| value.len())),
};

/// HRANDFIELD
pub const RANDOM: Read = Read {
    of: HASH,
    proof: Proof::NonEmpty,
    need: |args| need_to_draw(args.get(2)),
    reply: |args, record, _| random(args, record).unwrap_or_else(Reply::Error),
};

/// HSCAN
pub const SCAN: Read = Read {
    of: HASH,
    proof: Proof::Scanned,
    need: |args| Step::need(args, Listing::StepOfEntries),
    reply: |args, record, _| match Step::parse(args, record.is_some()) {
        Err(error) => Reply::Error(error),
        Ok(step) => {
            let wanted = entries(record).filter(|(field, _)| step.wants(field));
            let pair = |(field, value)| [Reply::Bulk(field), Reply::Bulk(value)];
            Step::reply(wanted.flat_map(pair).collect())
        }
    },
};

// === writes ===

/// HSET
pub const SET: Write = Write {
    of: HASH,
    need: pairs,
    run: |args, draft, _| match set_pairs("hset", args, draft) {
        Ok(added) => integer(added),
        Err(error) => error,
    },
};

/// HMSET
pub const MULTI_SET: Write = Write {
    of: HASH,
    need: pairs,
    run: |args, draft, _| match set_pairs("hmset", args, draft) {
        Ok(_) => Reply::Status("OK"),
        Err(error) => error,
    },
};

/// HSETNX
pub const SET_IF_ABSENT: Write = Write {
    of: HASH,
    need: field,
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
    of: HASH,
    need: |args| Need::Fields(args[2..].to_vec()),
    run: |args, draft, _| integer(args[2..].iter().filter(|field| draft.remove(field)).count()),
};

/// HINCRBY
pub const INCREMENT: Write = Write {
    of: HASH,
    need: field,
    run: |args, draft, _| match increment(args, draft) {
        Ok(sum) => Reply::Integer(sum),
        Err(error) => Reply::Error(error.to_owned()),
    },
};

/// HINCRBYFLOAT
pub const INCREMENT_FLOAT: Write = Write {
    of: HASH,
    need: field,
    run: |args, draft, _| match increment_float(args, draft) {
        Ok(sum) => Reply::Bulk(sum),
        Err(error) => Reply::Error(error.to_owned()),
    },
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

fn increment(args: &[Bytes], draft: &mut Draft) -> Result<i64, &'static str> {
    let step = parse_i64(&args[3]).ok_or("ERR value is not an integer or out of range")?;
    let value = match draft.get(&args[2]) {
        Some(value) => parse_i64(value).ok_or("ERR hash value is not an integer")?,
        None => 0,
    };
    let sum = value.checked_add(step).ok_or("ERR increment or decrement would overflow")?;
    draft.set(args[2].clone(), format_i64(sum));
    Ok(sum)
}

fn increment_float(args: &[Bytes], draft: &mut Draft) -> Result<Bytes, &'static str> {
    let step = LongDouble::parse(&args[3]).ok_or("ERR value is not a valid float")?;
    if !step.is_finite() {
        return Err("ERR value is NaN or Infinity");
    }
    let value = match draft.get(&args[2]) {
        Some(value) => LongDouble::parse(value).ok_or("ERR hash value is not a float")?,
        None => LongDouble::ZERO,
    };
    let sum = value + step;
    if !sum.is_finite() {
        return Err("ERR increment would produce NaN or Infinity");
    }
    let sum = Bytes::from(sum.to_human());
    draft.set(args[2].clone(), sum.clone());
    Ok(sum)
}

fn random(args: &[Bytes], record: Option<&Record>) -> Result<Reply, String> {
    let Some(count) = args.get(2) else {
        let drawn = record.and_then(|record| record.draw(1).pop());
        return Ok(Reply::bulk_or_nil(drawn));
    };
    let count = count_to_draw(count)?;
    let with_values = match &args[3..] {
        [] => false,
        [option] if option.eq_ignore_ascii_case(b"withvalues") => true,
        _ => return Err("ERR syntax error".to_owned()),
    };
    if with_values && count.unsigned_abs() > i64::MAX.unsigned_abs() / 2 {
        return Err("ERR value is out of range".to_owned());
    }
    let Some(record) = record else { return Ok(Reply::Array(Vec::new())) };
    let drawn = draw(record, count)?;
    let value = |name: &Bytes| record.fields.get(name).cloned().unwrap_or_default();
    Ok(if with_values {
        let pair = |name: Bytes| (Reply::Bulk(name.clone()), Reply::Bulk(value(&name)));
        Reply::Pairs(drawn.into_iter().map(pair).collect())
    } else {
        Reply::Array(drawn.into_iter().map(Reply::Bulk).collect())
    })
}

// === arguments and replies ===

/// What HSET and HMSET need: the fields that they set.
fn pairs(args: &[Bytes]) -> Need {
    Need::Fields(args[2..].iter().step_by(2).cloned().collect())
}

/// What most need: the field of argument 2.
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

#[cfg(test)]
mod tests {
    use crate::command::example::check;

    #[test]
    fn reads_show_what_is_there() {
        let state = "a=1 b=two";
        check(state, "HGET k a", "\"1\"", state);
        check(state, "HGET k c", "(nil)", state);
        check(state, "HMGET k b c b", "[\"two\", (nil), \"two\"]", state);
        check(state, "HGETALL k", "{\"a\": \"1\", \"b\": \"two\"}", state);
        check(state, "HKEYS k", "[\"a\", \"b\"]", state);
        check(state, "HVALS k", "[\"1\", \"two\"]", state);
        check(state, "HEXISTS k a", "(integer) 1", state);
        check(state, "HEXISTS k c", "(integer) 0", state);
        check(state, "HLEN k", "(integer) 2", state);
        check(state, "HSTRLEN k b", "(integer) 3", state);
        check(state, "HSTRLEN k c", "(integer) 0", state);
    }

    #[test]
    fn what_is_drawn_is_there() {
        check("a=1", "HRANDFIELD k", "\"a\"", "a=1");
        check("a=1", "HRANDFIELD k 4", "[\"a\"]", "a=1");
        check("a=1", "HRANDFIELD k -2 withvalues", "{\"a\": \"1\", \"a\": \"1\"}", "a=1");
        check("", "HRANDFIELD k", "(nil)", "");
        check("", "HRANDFIELD k 4", "[]", "");
        check("a=1", "HRANDFIELD k 1 values", "(error) ERR syntax error", "a=1");
        let most = "(error) ERR value is out of range";
        check("a=1", "HRANDFIELD k 9223372036854775807 WITHVALUES", most, "a=1");
        check("a=1 b=2", "HSCAN k 0 MATCH b", "[\"0\", [\"b\", \"2\"]]", "a=1 b=2");
    }

    #[test]
    fn reads_of_an_absent_key_are_empty() {
        check("", "HGET k a", "(nil)", "");
        check("", "HMGET k a b", "[(nil), (nil)]", "");
        check("", "HGETALL k", "{}", "");
        check("", "HKEYS k", "[]", "");
        check("", "HVALS k", "[]", "");
        check("", "HEXISTS k a", "(integer) 0", "");
        check("", "HLEN k", "(integer) 0", "");
        check("", "HSTRLEN k a", "(integer) 0", "");
    }

    #[test]
    fn sets_count_the_fields_that_are_new() {
        check("", "HSET k a 1", "(integer) 1", "a=1");
        check("a=1", "HSET k a 2 b 3 b 4", "(integer) 1", "a=2 b=4");
        check("a=1 @99999", "HSET k a 2", "(integer) 0", "a=2 @99999");
        check("a=1", "HMSET k a 2 b 3", "OK", "a=2 b=3");
        check("a=1", "HSETNX k a 2", "(integer) 0", "a=1");
        check("a=1", "HSETNX k b 2", "(integer) 1", "a=1 b=2");
        check("", "HSETNX k b 2", "(integer) 1", "b=2");
    }

    #[test]
    fn a_field_without_a_value_is_refused() {
        let error = "(error) ERR wrong number of arguments for 'hset' command";
        check("a=1", "HSET k a 2 b", error, "a=1");
        let error = "(error) ERR wrong number of arguments for 'hmset' command";
        check("", "HmSeT k a 2 b", error, "");
    }

    #[test]
    fn removing_the_last_field_deletes_the_key() {
        check("a=1 b=2", "HDEL k a a c", "(integer) 1", "b=2");
        check("a=1 b=2 @99999", "HDEL k a b c", "(integer) 2", "");
        check("", "HDEL k a", "(integer) 0", "");
    }

    #[test]
    fn increments_are_exact() {
        check("", "HINCRBY k a 5", "(integer) 5", "a=5");
        check("a=5 @99999", "HINCRBY k a -7", "(integer) -2", "a=-2 @99999");
        check("a=1", "HINCRBY k b 0", "(integer) 0", "a=1 b=0");
        let most = "a=9223372036854775807";
        check(most, "HINCRBY k a 1", "(error) ERR increment or decrement would overflow", most);
        check(most, "HINCRBY k a -9223372036854775808", "(integer) -1", "a=-1");
        check("a=3.0e3", "HINCRBYFLOAT k a 200", "\"3200\"", "a=3200");
        check("a=10.5", "HINCRBYFLOAT k a 0.1", "\"10.6\"", "a=10.6");
        check("", "HINCRBYFLOAT k a -.5", "\"-0.5\"", "a=-0.5");
    }

    #[test]
    fn an_increment_is_read_before_the_value() {
        let error = "(error) ERR value is not an integer or out of range";
        for step in ["x", "1.5", "+1", "01", "9223372036854775808", ""] {
            check("a=x", &format!("HINCRBY k a {step}"), error, "a=x");
        }
        check("a=x", "HINCRBY k a 1", "(error) ERR hash value is not an integer", "a=x");
        check("a=01", "HINCRBY k a 1", "(error) ERR hash value is not an integer", "a=01");
        check("a=x", "HINCRBYFLOAT k a x", "(error) ERR value is not a valid float", "a=x");
        check("a=x", "HINCRBYFLOAT k a 1", "(error) ERR hash value is not a float", "a=x");
        check("a=x", "HINCRBYFLOAT k a inf", "(error) ERR value is NaN or Infinity", "a=x");
        let error = "(error) ERR increment would produce NaN or Infinity";
        check("a=inf", "HINCRBYFLOAT k a 1", error, "a=inf");
    }
}
