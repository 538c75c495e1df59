//! What a client is told when an operation on a mapped key fails. Never addresses, SQL or causes:
//! those are in the log.

use std::time::Duration;

use crate::protocol::Reply;
use crate::store::StoreError;

/// How far a failed write got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    No,
    Maybe,
}

/// How long an operation waits for a mapping whose strategy is just being changed.
pub const GATE_PATIENCE: Duration = Duration::from_secs(5);

/// The reply to one that has waited so long.
pub fn gate_closed() -> Reply {
    Reply::Error(
        "TRYAGAIN the strategy of the key's mapping is just being changed; nothing was done"
            .to_owned(),
    )
}

/// What this proxy has to say while the others may have gone on without it.
pub fn fenced() -> Reply {
    Reply::Error(
        "TRYAGAIN this respgres has not reached the others for some seconds, neither over Redis nor over \
         Postgres; nothing was done"
            .to_owned(),
    )
}

/// The reply to a write that the store did not take.
pub fn write_failed(error: &StoreError, mapping: &str) -> Reply {
    let text = match error {
        StoreError::Refused { constraint, column, message, .. } => {
            let place = match (column, constraint) {
                (Some(column), Some(constraint)) => {
                    format!(", column \"{column}\", constraint \"{constraint}\"")
                }
                (Some(column), None) => format!(", column \"{column}\""),
                (None, Some(constraint)) => format!(", constraint \"{constraint}\""),
                (None, None) => String::new(),
            };
            format!(
                "ERR mapping \"{mapping}\"{place}: Postgres refused the write ({message}); nothing was written"
            )
        }
        StoreError::Unencodable(error) => format!("ERR {error}"),
        StoreError::InDoubt(_) => {
            "ERR the connection to Postgres was lost during COMMIT; the write may have happened"
                .to_owned()
        }
        StoreError::LayoutChanged { .. } => format!(
            "ERR mapping \"{mapping}\": its table no longer fits the mapping; nothing was written"
        ),
        StoreError::Timeout(_) => {
            "ERR Postgres did not answer in time; nothing was written".to_owned()
        }
        StoreError::Raced | StoreError::Retryable { .. } => {
            "ERR other writers were faster; nothing was written".to_owned()
        }
        StoreError::Unreachable(_) => {
            "ERR Postgres is out of reach; nothing was written".to_owned()
        }
    };
    Reply::Error(text)
}

/// What a flush had emptied when it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    Nothing,
    Redis,
}

/// The reply to a flush that the store did not take.
pub fn flush_failed(error: &StoreError, flushed: Flushed) -> Reply {
    let why = match error {
        StoreError::Refused { message, .. } | StoreError::LayoutChanged { message, .. } => {
            format!("Postgres refuses to empty the mapped tables ({message})")
        }
        StoreError::Timeout(_) => "Postgres did not empty the mapped tables in time".to_owned(),
        StoreError::InDoubt(_) => "the connection to Postgres was lost during COMMIT".to_owned(),
        _ => "Postgres is out of reach".to_owned(),
    };
    let what = match (flushed, error) {
        (Flushed::Nothing, _) => "nothing was written",
        (Flushed::Redis, StoreError::InDoubt(_)) => {
            "Redis was emptied, and the mapped tables may have been"
        }
        (Flushed::Redis, _) => "Redis was emptied, and the mapped tables are as they were",
    };
    Reply::err(format!("{why}; {what}"))
}

/// The reply to an operation on a mapping whose table has not answered for some time.
pub fn too_slow(mapping: &str) -> Reply {
    Reply::Error(format!(
        "ERR mapping \"{mapping}\": its table does not answer in time; nothing was written"
    ))
}

/// The reply to an operation that has waited too long for its turn.
pub fn too_busy() -> Reply {
    Reply::err("Postgres is too slow for what is asked of it; nothing was written")
}

/// The same for reads.
pub fn read_too_slow(mapping: &str) -> Reply {
    Reply::Error(format!("ERR mapping \"{mapping}\": its table does not answer in time"))
}

/// The same for reads.
pub fn read_too_busy() -> Reply {
    Reply::err("Postgres is too slow for what is asked of it")
}

/// The reply to a write for which the cache could not be made safe.
pub fn upstream_failed(happened: Happened) -> Reply {
    Reply::Error(match happened {
        Happened::No => "ERR the upstream Redis is out of reach; nothing was written".into(),
        Happened::Maybe => {
            "ERR the upstream Redis is out of reach; a part of the write may have happened".into()
        }
    })
}

/// The reply to a write that waited in vain for room in the journal.
pub fn journal_full() -> Reply {
    Reply::err(
        "the journal is full (journal.max_changes), as Postgres does not take what is in it; nothing was written",
    )
}

/// The reply to a write that waited in vain for Redis to be gone through.
pub fn not_yet_known() -> Reply {
    Reply::err(
        "the upstream Redis has just come back and is still looked through; nothing was written",
    )
}

/// The reply to a write that waited in vain for the journal to be opened.
pub fn journal_not_open() -> Reply {
    Reply::err("the journal in the upstream Redis is not open; nothing was written")
}

/// The reply to a write of a key of which Postgres has not got all in time.
pub fn not_flushed() -> Reply {
    Reply::Error(
        "TRYAGAIN the key has changes that Postgres does not know yet; nothing was written".into(),
    )
}

/// The reply to a write without Redis, which may have changes that Postgres does not know.
pub fn may_be_ahead() -> Reply {
    Reply::Error(
        "TRYAGAIN the upstream Redis is out of reach, and may have changes that Postgres does not know yet; \
         nothing was written"
            .into(),
    )
}

/// The same for reads.
pub fn read_may_be_ahead() -> Reply {
    Reply::Error(
        "TRYAGAIN the upstream Redis is out of reach, and may have changes that Postgres does not know yet"
            .into(),
    )
}

/// The reply to a write without Redis, while others may go on without Postgres.
pub fn write_apart() -> Reply {
    Reply::Error(
        "TRYAGAIN the upstream Redis is out of reach, and another respgres may be without Postgres; nothing was \
         written"
            .into(),
    )
}

/// The reply to a write without Redis, of which others may have copies there.
pub fn not_dropped() -> Reply {
    Reply::Error(
        "TRYAGAIN the upstream Redis is out of reach, and no other respgres has dropped its copy; nothing was \
         written"
            .into(),
    )
}

/// The reply to a read without Postgres, while others may go on without Redis.
pub fn read_apart() -> Reply {
    Reply::Error(
        "TRYAGAIN Postgres is out of reach, and another respgres may be without Redis".into(),
    )
}

/// The reply to a write that needs Postgres, while that is lost.
pub fn needs_postgres() -> Reply {
    Reply::Error(
        "TRYAGAIN Postgres is out of reach, and this write cannot be done without it; nothing was written"
            .into(),
    )
}

/// The reply to a question that only Postgres can answer, while that is lost.
pub fn only_postgres_knows() -> Reply {
    Reply::Error("TRYAGAIN Postgres is out of reach, and only it knows when a key ends".into())
}

/// The reply about a key that is only in Postgres, while that is lost; what comes of a write.
pub fn not_cached() -> Reply {
    Reply::Error("TRYAGAIN Postgres is out of reach, and Redis does not have this key".into())
}

/// The refusal of a write of which a part may stay all the same.
pub fn in_part(refusal: Reply) -> Reply {
    let Reply::Error(text) = refusal else { return refusal };
    let why = text.strip_suffix("; nothing was written").unwrap_or(&text);
    Reply::Error(format!("{why}; a part of the write may have happened"))
}

/// The reply to an operation on a key without a row, while Redis, which may have it, is out of reach.
pub fn unseen() -> Reply {
    Reply::Error(
        "TRYAGAIN the upstream Redis is out of reach, and may alone have this key; nothing was written"
            .into(),
    )
}

/// The same for reads.
pub fn read_unseen() -> Reply {
    Reply::Error("TRYAGAIN the upstream Redis is out of reach, and may alone have this key".into())
}

/// The reply to an operation on a key that is something else in Redis.
pub fn wrong_type() -> Reply {
    Reply::Error("WRONGTYPE Operation against a key holding the wrong kind of value".into())
}

/// The reply to an operation on a key that only Redis has, and that is too large to be brought over.
pub fn too_large_to_import(mapping: &str, most_bytes: usize) -> Reply {
    Reply::err(format!(
        "mapping \"{mapping}\": only Redis has this key, and more than {} MiB of it, which is too much to be \
         brought to Postgres by one operation; nothing was written",
        most_bytes >> 20
    ))
}

/// The reply to an operation that would empty Redis of keys that only it has.
pub fn has_originals(mapping: &str) -> Reply {
    Reply::err(format!(
        "mapping \"{mapping}\" is not migrated: Redis may alone have keys of it; nothing was emptied"
    ))
}

/// The reply to a read whose other keys Redis had to answer for.
pub fn upstream_not_read() -> Reply {
    Reply::err("the upstream Redis is out of reach")
}

/// The reply to a read that the store did not answer.
pub fn read_failed(error: &StoreError, mapping: &str) -> Reply {
    Reply::Error(match error {
        StoreError::LayoutChanged { .. } | StoreError::Refused { .. } => {
            format!("ERR mapping \"{mapping}\": its table no longer fits the mapping")
        }
        StoreError::Timeout(_) => "ERR Postgres did not answer in time".into(),
        _ => "ERR Postgres is out of reach".into(),
    })
}
