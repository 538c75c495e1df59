//! Commands on keys of any type, with the replies and error texts of Redis 7.0.15 (expire.c,
//! db.c).
//!
//! The caller has checked the arity. DEL, UNLINK and EXISTS answer for one key; the caller adds
//! up. A record past its expiry is absent: whoever loads it sees to that.

use bytes::Bytes;

use super::{Need, Proof, Read, Write};
use crate::protocol::Reply;
use crate::value::number::parse_i64;
use crate::value::{Draft, Record};

// === reads ===

/// EXISTS, TOUCH
pub const EXISTS: Read = Read {
    of: None,
    proof: Proof::NonZero,
    need: |_| Need::Existence,
    reply: |_, record, _| Reply::Integer(i64::from(record.is_some())),
};

/// TYPE
pub const TYPE: Read = Read {
    of: None,
    proof: Proof::NotNone,
    need: |_| Need::Existence,
    reply: |_, record, _| Reply::Status(record.map_or("none", |record| record.kind.name())),
};

/// TTL: seconds left, rounded to the nearest.
pub const TTL: Read = Read {
    of: None,
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, now_ms| expiry(record, |at_ms| seconds(left(at_ms, now_ms))),
};

/// PTTL: milliseconds left.
pub const PTTL: Read = Read {
    of: None,
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, now_ms| expiry(record, |at_ms| left(at_ms, now_ms)),
};

/// EXPIRETIME: seconds since the Unix epoch, rounded to the nearest.
pub const EXPIRETIME: Read = Read {
    of: None,
    proof: Proof::Never,
    need: |_| Need::Expiry,
    reply: |_, record, _| expiry(record, seconds),
};

/// PEXPIRETIME: milliseconds since the Unix epoch.
pub const PEXPIRETIME: Read = Read {
    of: None,
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

/// To the nearest second. A time that is near `i64::MAX` is rounded up beyond it on the way.
fn seconds(ms: i64) -> i64 {
    let rounded = (ms.max(0).unsigned_abs() + 500) / 1000;
    rounded.try_into().expect("a thousandth of less than u64::MAX fits")
}

// === writes ===

/// DEL, UNLINK
pub const DELETE: Write = Write {
    of: None,
    need: |_| Need::Existence,
    run: |_, draft, _| Reply::Integer(i64::from(draft.delete())),
};

/// PERSIST
pub const PERSIST: Write = Write {
    of: None,
    need: |_| Need::Existence,
    run: |_, draft, _| {
        let expires = draft.expires_at_ms().is_some();
        draft.set_expires_at_ms(None);
        Reply::Integer(i64::from(expires))
    },
};

/// EXPIRE: seconds from now.
pub const EXPIRE: Write = Write {
    of: None,
    need: |_| Need::Existence,
    run: |args, draft, now_ms| {
        expire("expire", args, draft, Time { now_ms, start_ms: now_ms, unit_ms: 1000 })
    },
};

/// PEXPIRE: milliseconds from now.
pub const PEXPIRE: Write = Write {
    of: None,
    need: |_| Need::Existence,
    run: |args, draft, now_ms| {
        expire("pexpire", args, draft, Time { now_ms, start_ms: now_ms, unit_ms: 1 })
    },
};

/// EXPIREAT: seconds since the Unix epoch.
pub const EXPIREAT: Write = Write {
    of: None,
    need: |_| Need::Existence,
    run: |args, draft, now_ms| {
        expire("expireat", args, draft, Time { now_ms, start_ms: 0, unit_ms: 1000 })
    },
};

/// PEXPIREAT: milliseconds since the Unix epoch.
pub const PEXPIREAT: Write = Write {
    of: None,
    need: |_| Need::Existence,
    run: |args, draft, now_ms| {
        expire("pexpireat", args, draft, Time { now_ms, start_ms: 0, unit_ms: 1 })
    },
};

// === the EXPIRE family ===

/// How a command of the EXPIRE family counts.
struct Time {
    now_ms: i64,
    /// What the argument counts from.
    start_ms: i64,
    /// What one of the argument is worth.
    unit_ms: i64,
}

/// NX, XX, GT and LT, as often as a client likes.
#[derive(Default)]
struct Conditions {
    absent: bool,
    present: bool,
    later: bool,
    earlier: bool,
}

/// The options are read before the time, and both before the key is looked at.
fn expire(name: &str, args: &[Bytes], draft: &mut Draft, time: Time) -> Reply {
    let conditions = match Conditions::parse(&args[3..]) {
        Ok(conditions) => conditions,
        Err(error) => return Reply::Error(error),
    };
    let Some(argument) = parse_i64(&args[2]) else {
        return Reply::Error("ERR value is not an integer or out of range".to_owned());
    };
    let at_ms = argument.checked_mul(time.unit_ms).and_then(|ms| ms.checked_add(time.start_ms));
    let Some(at_ms) = at_ms else {
        return Reply::Error(format!("ERR invalid expire time in '{name}' command"));
    };
    if !draft.exists() || !conditions.hold(draft.expires_at_ms(), at_ms) {
        return Reply::Integer(0);
    }
    if at_ms <= time.now_ms {
        draft.delete();
    } else {
        draft.set_expires_at_ms(Some(at_ms));
    }
    Reply::Integer(1)
}

impl Conditions {
    fn parse(options: &[Bytes]) -> Result<Self, String> {
        let mut conditions = Self::default();
        for option in options {
            // A C string: it ends at the first NUL.
            let option = option.split(|byte| *byte == 0).next().unwrap_or_default();
            match option.to_ascii_lowercase().as_slice() {
                b"nx" => conditions.absent = true,
                b"xx" => conditions.present = true,
                b"gt" => conditions.later = true,
                b"lt" => conditions.earlier = true,
                _ => {
                    let option = String::from_utf8_lossy(option);
                    let option = option.trim_end_matches(['\r', '\n']);
                    return Err(format!("ERR Unsupported option {option}"));
                }
            }
        }
        if conditions.absent && (conditions.present || conditions.later || conditions.earlier) {
            return Err(
                "ERR NX and XX, GT or LT options at the same time are not compatible".to_owned()
            );
        }
        if conditions.later && conditions.earlier {
            return Err("ERR GT and LT options at the same time are not compatible".to_owned());
        }
        Ok(conditions)
    }

    /// A key that stays is later than every time.
    fn hold(&self, current_ms: Option<i64>, at_ms: i64) -> bool {
        (!self.absent || current_ms.is_none())
            && (!self.present || current_ms.is_some())
            && (!self.later || current_ms.is_some_and(|current_ms| at_ms > current_ms))
            && (!self.earlier || current_ms.is_none_or(|current_ms| at_ms < current_ms))
    }
}

#[cfg(test)]
mod tests {
    use crate::command::example::{NOW_MS, check};

    #[test]
    fn a_key_is_there_or_not() {
        check("a=1", "EXISTS k", "(integer) 1", "a=1");
        check("", "EXISTS k", "(integer) 0", "");
        check("a=1", "TYPE k", "hash", "a=1");
        check("", "TYPE k", "none", "");
        check("a=1 @99999", "DEL k", "(integer) 1", "");
        check("", "DEL k", "(integer) 0", "");
        check("a=1", "UNLINK k", "(integer) 1", "");
    }

    #[test]
    fn times_are_rounded_as_in_redis() {
        assert_eq!(NOW_MS, 10_000);
        check("a=1 @11499", "TTL k", "(integer) 1", "a=1 @11499");
        check("a=1 @11500", "TTL k", "(integer) 2", "a=1 @11500");
        check("a=1 @11500", "PTTL k", "(integer) 1500", "a=1 @11500");
        check("a=1 @9000", "PTTL k", "(integer) 0", "a=1 @9000");
        check("a=1 @11499", "EXPIRETIME k", "(integer) 11", "a=1 @11499");
        check("a=1 @11500", "EXPIRETIME k", "(integer) 12", "a=1 @11500");
        check("a=1 @11500", "PEXPIRETIME k", "(integer) 11500", "a=1 @11500");
        for command in ["TTL k", "PTTL k", "EXPIRETIME k", "PEXPIRETIME k"] {
            check("a=1", command, "(integer) -1", "a=1");
            check("", command, "(integer) -2", "");
        }
    }

    #[test]
    fn expiries_are_set_and_removed() {
        check("a=1", "EXPIRE k 2", "(integer) 1", "a=1 @12000");
        check("a=1", "PEXPIRE k 2", "(integer) 1", "a=1 @10002");
        check("a=1", "EXPIREAT k 20", "(integer) 1", "a=1 @20000");
        check("a=1", "PEXPIREAT k 20000", "(integer) 1", "a=1 @20000");
        check("", "EXPIRE k 2", "(integer) 0", "");
        check("a=1 @20000", "PERSIST k", "(integer) 1", "a=1");
        check("a=1", "PERSIST k", "(integer) 0", "a=1");
        check("", "PERSIST k", "(integer) 0", "");
    }

    #[test]
    fn a_time_that_has_come_deletes_the_key() {
        for command in ["EXPIRE k 0", "PEXPIRE k -1", "EXPIREAT k 10", "PEXPIREAT k -5"] {
            check("a=1 @20000", command, "(integer) 1", "");
            check("", command, "(integer) 0", "");
        }
    }

    #[test]
    fn conditions_compare_with_the_expiry_that_is_there() {
        let stays = "a=1";
        let expires = "a=1 @12000";
        check(stays, "EXPIRE k 5 NX", "(integer) 1", "a=1 @15000");
        check(expires, "EXPIRE k 5 nx", "(integer) 0", expires);
        check(stays, "EXPIRE k 5 XX", "(integer) 0", stays);
        check(expires, "EXPIRE k 5 XX", "(integer) 1", "a=1 @15000");
        check(stays, "EXPIRE k 5 GT", "(integer) 0", stays);
        check(expires, "EXPIRE k 5 GT", "(integer) 1", "a=1 @15000");
        check(expires, "EXPIRE k 2 GT", "(integer) 0", expires);
        check(expires, "EXPIRE k -1 GT", "(integer) 0", expires);
        check(stays, "EXPIRE k 5 LT", "(integer) 1", "a=1 @15000");
        check(expires, "EXPIRE k 2 LT", "(integer) 0", expires);
        check(expires, "EXPIRE k 1 LT", "(integer) 1", "a=1 @11000");
        check(expires, "EXPIRE k 1 XX LT lt", "(integer) 1", "a=1 @11000");
    }

    #[test]
    fn options_are_read_before_the_time_and_the_time_before_the_key() {
        let error = "(error) ERR Unsupported option AB";
        check("", "EXPIRE k x NX AB GT", error, "");
        let error = "(error) ERR NX and XX, GT or LT options at the same time are not compatible";
        check("", "EXPIRE k x NX GT LT", error, "");
        let error = "(error) ERR GT and LT options at the same time are not compatible";
        check("a=1", "EXPIRE k x GT LT", error, "a=1");
        let error = "(error) ERR value is not an integer or out of range";
        check("", "EXPIRE k 1.5 NX", error, "");
        for (command, name) in [
            ("EXPIRE k 9223372036854775", "expire"),
            ("EXPIRE k -9223372036854776", "expire"),
            ("pexpire k 9223372036854775807", "pexpire"),
            ("EXPIREAT k 9223372036854776", "expireat"),
        ] {
            let error = format!("(error) ERR invalid expire time in '{name}' command");
            check("a=1", command, &error, "a=1");
        }
        check("a=1", "PEXPIREAT k 9223372036854775807", "(integer) 1", "a=1 @9223372036854775807");
    }
}
