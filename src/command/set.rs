//! Commands on sets, with the replies and error texts of Redis 7.0.15 (t_set.c).
//!
//! The caller has checked the arity and that the key, argument 1, is mapped to a set.

use bytes::Bytes;

use super::scan::{Step, at_most, count_to_draw, draw, need_to_draw};
use super::{Listing, Need, Proof, Read, Write};
use crate::protocol::Reply;
use crate::value::number::parse_i64;
use crate::value::{Draft, Record, ValueKind};

const SET: Option<ValueKind> = Some(ValueKind::Set);

// === reads ===

/// SISMEMBER
pub const IS_MEMBER: Read = Read {
    of: SET,
    proof: Proof::NonZero,
    need: named,
    reply: |args, record, _| is_member(record, &args[2]),
};

/// SMISMEMBER
pub const ARE_MEMBERS: Read = Read {
    of: SET,
    proof: Proof::AnyNonZero,
    need: named,
    reply: |args, record, _| {
        Reply::Array(args[2..].iter().map(|member| is_member(record, member)).collect())
    },
};

/// SCARD
pub const CARDINALITY: Read = Read {
    of: SET,
    proof: Proof::NonZero,
    need: |_| Need::Count,
    reply: |_, record, _| integer(record.map_or(0, Record::len)),
};

/// SMEMBERS
pub const MEMBERS: Read = Read {
    of: SET,
    proof: Proof::NonEmpty,
    need: |_| Need::Each(Listing::Members),
    reply: |_, record, _| Listing::Members.reply(record),
};

/// SRANDMEMBER
pub const RANDOM: Read = Read {
    of: SET,
    proof: Proof::NonEmpty,
    need: |args| need_to_draw(args.get(2)),
    reply: |args, record, _| random(args, record).unwrap_or_else(Reply::Error),
};

/// SSCAN
pub const SCAN: Read = Read {
    of: SET,
    proof: Proof::Scanned,
    need: |args| Step::need(args, Listing::StepOfMembers),
    reply: |args, record, _| match Step::parse(args, record.is_some()) {
        Err(error) => Reply::Error(error),
        Ok(step) => {
            let wanted = members(record).filter(|member| step.wants(member));
            Step::reply(wanted.map(Reply::Bulk).collect())
        }
    },
};

// === writes ===

/// SADD
pub const ADD: Write = Write {
    of: SET,
    need: named,
    run: |args, draft, _| {
        let absent = |member: &&Bytes| draft.get(member).is_none();
        let mut added = 0;
        for member in args[2..].iter().filter(absent).cloned().collect::<Vec<_>>() {
            added += usize::from(draft.set(member, Bytes::new()));
        }
        integer(added)
    },
};

/// SREM
pub const REMOVE: Write = Write {
    of: SET,
    need: named,
    run: |args, draft, _| integer(args[2..].iter().filter(|member| draft.remove(member)).count()),
};

/// SPOP
pub const POP: Write = Write {
    of: SET,
    need: |args| match args.get(2).map(|count| parse_i64(count)) {
        None => Need::Sample(1),
        Some(Some(count @ 0..)) => Need::Sample(at_most(count)),
        Some(_) => Need::Existence,
    },
    run: |args, draft, _| pop(args, draft).unwrap_or_else(Reply::Error),
};

fn pop(args: &[Bytes], draft: &mut Draft) -> Result<Reply, String> {
    let count = match &args[2..] {
        [] => None,
        [count] => match parse_i64(count) {
            Some(count @ 0..) => Some(at_most(count)),
            _ => return Err("ERR value is out of range, must be positive".to_owned()),
        },
        _ => return Err("ERR syntax error".to_owned()),
    };
    let mut drawn = draft.record().map_or(Vec::new(), |record| record.draw(count.unwrap_or(1)));
    for member in &drawn {
        draft.remove(member);
    }
    Ok(match count {
        None => Reply::bulk_or_nil(drawn.pop()),
        Some(_) => Reply::Set(drawn.into_iter().map(Reply::Bulk).collect()),
    })
}

fn random(args: &[Bytes], record: Option<&Record>) -> Result<Reply, String> {
    let count = match &args[2..] {
        [] => {
            let drawn = record.and_then(|record| record.draw(1).pop());
            return Ok(Reply::bulk_or_nil(drawn));
        }
        [count] => count_to_draw(count)?,
        _ => return Err("ERR syntax error".to_owned()),
    };
    let Some(record) = record else { return Ok(Reply::Array(Vec::new())) };
    let drawn = draw(record, count)?;
    Ok(Reply::Array(drawn.into_iter().map(Reply::Bulk).collect()))
}

// === arguments and replies ===

/// What most need: the members from argument 2 on.
fn named(args: &[Bytes]) -> Need {
    Need::Fields(args[2..].to_vec())
}

fn is_member(record: Option<&Record>, member: &Bytes) -> Reply {
    Reply::Integer(i64::from(record.is_some_and(|record| record.fields.contains_key(member))))
}

fn members(record: Option<&Record>) -> impl Iterator<Item = Bytes> {
    record.into_iter().flat_map(|record| record.fields.keys().cloned())
}

fn integer(length: usize) -> Reply {
    Reply::Integer(length.try_into().expect("a length fits, as no object is larger than i64::MAX"))
}

#[cfg(test)]
mod tests {
    use crate::command::example::check;

    #[test]
    fn reads_show_what_is_there() {
        let state = "{a b}";
        check(state, "SISMEMBER k a", "(integer) 1", state);
        check(state, "SISMEMBER k c", "(integer) 0", state);
        check(state, "SMISMEMBER k b c b", "[(integer) 1, (integer) 0, (integer) 1]", state);
        check(state, "SCARD k", "(integer) 2", state);
        check(state, "SMEMBERS k", "{\"a\", \"b\"}", state);
        check(state, "TYPE k", "set", state);
        check("", "SMEMBERS k", "{}", "");
        check("", "SCARD k", "(integer) 0", "");
        check("", "SMISMEMBER k a b", "[(integer) 0, (integer) 0]", "");
    }

    #[test]
    fn members_are_counted_when_they_come_and_go() {
        check("", "SADD k a b a", "(integer) 2", "{a b}");
        check("{a}", "SADD k a b", "(integer) 1", "{a b}");
        check("{a b @99999}", "SREM k a c a", "(integer) 1", "{b @99999}");
        check("{a b @99999}", "SREM k b a", "(integer) 2", "");
        check("", "SREM k a", "(integer) 0", "");
    }

    #[test]
    fn what_is_drawn_is_there() {
        check("{a}", "SRANDMEMBER k", "\"a\"", "{a}");
        check("{a}", "SRANDMEMBER k 5", "[\"a\"]", "{a}");
        check("{a}", "SRANDMEMBER k -3", "[\"a\", \"a\", \"a\"]", "{a}");
        let many =
            "(error) ERR value is out of range, at most 1048576 can be drawn with repetition";
        check("{a}", "SRANDMEMBER k -1048577", many, "{a}");
        check("{a}", "SRANDMEMBER k 0", "[]", "{a}");
        check("", "SRANDMEMBER k", "(nil)", "");
        check("", "SRANDMEMBER k 5", "[]", "");
        check("{a}", "SPOP k", "\"a\"", "");
        check("{a}", "SPOP k 7", "{\"a\"}", "");
        check("{a b}", "SPOP k 0", "{}", "{a b}");
        check("", "SPOP k", "(nil)", "");
        check("", "SPOP k 1", "{}", "");
        let range = "(error) ERR value is out of range, value must between \
                     -9223372036854775807 and 9223372036854775807";
        check("{a}", "SRANDMEMBER k -9223372036854775808", range, "{a}");
        let integer = "(error) ERR value is not an integer or out of range";
        check("{a}", "SRANDMEMBER k x", integer, "{a}");
        let positive = "(error) ERR value is out of range, must be positive";
        check("{a}", "SPOP k x", positive, "{a}");
        check("{a}", "SPOP k -1", positive, "{a}");
        check("{a}", "SPOP k 1 2", "(error) ERR syntax error", "{a}");
        check("{a}", "SRANDMEMBER k 1 2", "(error) ERR syntax error", "{a}");
    }

    #[test]
    fn one_step_shows_all_that_matches() {
        check("{a b}", "SSCAN k 0", "[\"0\", [\"a\", \"b\"]]", "{a b}");
        check("{a b}", "SSCAN k 17 match b* COUNT 1", "[\"0\", [\"b\"]]", "{a b}");
        check("{a}", "SSCAN k 0 MATCH b MATCH *", "[\"0\", [\"a\"]]", "{a}");
        check("", "SSCAN k 0", "[\"0\", []]", "");
        check("", "SSCAN k 0 COUNT x", "[\"0\", []]", "");
        check("", "SSCAN k x COUNT x", "(error) ERR invalid cursor", "");
        check("{a}", "SSCAN k x", "(error) ERR invalid cursor", "{a}");
        check("{a}", "SSCAN k 0 COUNT 0", "(error) ERR syntax error", "{a}");
        check("{a}", "SSCAN k 0 COUNT", "(error) ERR syntax error", "{a}");
        let integer = "(error) ERR value is not an integer or out of range";
        check("{a}", "SSCAN k 0 COUNT a", integer, "{a}");
    }
}
