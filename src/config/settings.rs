//! The table of settings: every setting once, with its default, its bounds and what it is for.
//!
//! The reader, the printed default file, the documentation and the environment's names are all made
//! of these rows, so that they cannot disagree.

use std::ops::RangeInclusive;

use super::url::{RedisUrl, check_listen, check_postgres};
use super::words;
use super::{Config, FieldColumn, Mapping, User};

/// One setting of `T`.
pub(super) struct Setting<T> {
    pub(super) name: &'static str,
    pub(super) presence: Presence,
    pub(super) slot: Slot<T>,
    /// For people; sentences, Markdown's backquotes.
    pub(super) about: &'static str,
}

/// What holds when the file does not say. All texts are TOML values.
#[derive(Clone, Copy)]
pub(super) enum Presence {
    Default(&'static str),
    /// There need not be one; with an example.
    Optional(&'static str),
    /// There has to be one; with an example.
    Required(&'static str),
    /// Known, and refused: with why and the way out.
    NotYet(&'static str),
}

/// What kind of value a setting has, and how it gets into `T`.
pub(super) enum Slot<T> {
    /// A text; `Err` says what is wrong with it and the way out.
    Text(fn(&mut T, &str) -> Result<(), String>),
    Number(RangeInclusive<u64>, fn(&mut T, u64)),
    /// A part of a whole, from 0 to 1.
    Share(fn(&mut T, f64)),
    /// Bytes, at least 1.
    Size(fn(&mut T, usize)),
    /// Milliseconds, at least 1.
    Duration(fn(&mut T, u64)),
    /// True or false.
    Flag(fn(&mut T, bool)),
    /// A list of texts; the check is made for each.
    Texts(fn(&mut T, &str) -> Result<(), String>),
    /// A table of texts.
    Names(fn(&mut T, &str, &str) -> Result<(), String>),
    /// A text (the first setting of a column) or a table.
    Column(fn(&mut T, FieldColumn) -> Result<(), String>),
    /// A table whose values are such columns.
    Columns(fn(&mut T, FieldColumn)),
}

/// A table of the file that stands in it once.
pub(super) struct Section {
    pub(super) name: &'static str,
    pub(super) about: &'static str,
    pub(super) settings: &'static [Setting<Config>],
}

use Presence::{Default, NotYet, Optional, Required};

const fn row<T>(
    name: &'static str,
    presence: Presence,
    slot: Slot<T>,
    about: &'static str,
) -> Setting<T> {
    Setting { name, presence, slot, about }
}

/// A number that its row's bounds keep small.
fn count(number: u64) -> usize {
    usize::try_from(number).expect("the bounds of counts are far below 2^32")
}

/// All sections, in the order in which they are printed.
#[rustfmt::skip]
pub(super) static SECTIONS: &[Section] = &[
    Section { name: "server", about: "Where clients connect.", settings: &[
        row("listen", Default("\"127.0.0.1:6380\""),
            Slot::Text(|c, v| { check_listen(v)?; c.server.listen = v.to_owned(); Ok(()) }),
            "Address and port; port 0 takes a free one, which the log tells."),
        row("threads", Default("0"), Slot::Number(0..=1024, |c, v| c.server.threads = count(v)),
            "Event loops, each with its own upstream connections. 0: the machine's cores minus one, \
             at least 1. One loop batches best as long as one core suffices."),
        row("max_clients", Default("10000"), Slot::Number(1..=1_000_000, |c, v| c.server.max_clients = count(v)),
            "Clients at a time; one more is told `-ERR max number of clients reached`."),
    ]},
    Section { name: "auth", about: "Who may connect. Without a password and without users everybody may.", settings: &[
        row("password", Optional("\"…\""),
            Slot::Text(|c, v| { words::not_empty(v)?; c.auth.password = Some(v.to_owned()); Ok(()) }),
            "The password of the user `default`, as Redis' `requirepass`."),
    ]},
    Section { name: "limits", about: "Bounds on what one client can make respgres hold.", settings: &[
        row("max_argument_bytes", Default("\"512mb\""), Slot::Size(|c, v| c.limits.max_argument_bytes = v),
            "Longest argument of a command (Redis: `proto-max-bulk-len`)."),
        row("max_request_bytes", Default("\"1gb\""), Slot::Size(|c, v| c.limits.max_request_bytes = v),
            "Longest request that is still incomplete (Redis: `client-query-buffer-limit`); and the most memory for what a client queues in `MULTI` where keys are mapped."),
        row("client_backlog_bytes", Default("\"1mb\""), Slot::Size(|c, v| c.limits.client_backlog_bytes = v),
            "Replies that wait for a client before respgres stops reading from it."),
        row("client_backlog_max_bytes", Default("\"256mb\""), Slot::Size(|c, v| c.limits.client_backlog_max_bytes = v),
            "Replies that wait for a client before it is closed."),
        row("client_requests", Default("8192"), Slot::Number(1..=1_000_000, |c, v| c.limits.client_requests = count(v)),
            "Requests of one client under way before respgres stops reading from it."),
    ]},
    Section { name: "upstream", about: "The Redis behind respgres: all unmapped keys, and the cached copies of mapped ones.", settings: &[
        row("url", Default("\"redis://127.0.0.1:6379\""),
            Slot::Text(|c, v| { RedisUrl::parse(v)?; c.upstream.url = v.to_owned(); Ok(()) }),
            "`redis://[user[:password]@]host[:port]` or `unix:/path`; special characters in user and \
             password are percent-encoded."),
        row("database", Default("0"), Slot::Number(0..=65_535, |c, v| c.upstream.database = u16::try_from(v).unwrap_or(u16::MAX)),
            "The database whose keys are mapped; the others pass through."),
        row("connect_timeout", Default("\"1s\""), Slot::Duration(|c, v| c.upstream.connect_timeout_ms = v),
            "Longest wait for a connection."),
        row("request_timeout", Default("\"5s\""), Slot::Duration(|c, v| c.upstream.request_timeout_ms = v),
            "Longest wait for the reply to a request of respgres' own."),
        row("silence_timeout", Default("\"10s\""), Slot::Duration(|c, v| c.upstream.silence_timeout_ms = v),
            "How long Redis may say nothing while requests of clients wait, before it is taken to hang; then a \
             new connection is tried for `connect_timeout`, and if that gets no answer either, what waits is told \
             that the connection was lost. Slow commands do no harm, unless they hold up all of Redis for so \
             long; keep it above `busy-reply-threshold` of Redis. Commands that wait inside Redis, such as \
             BLPOP, are never given up for it."),
        row("reconnect_min", Default("\"50ms\""), Slot::Duration(|c, v| c.upstream.reconnect_min_ms = v),
            "First pause before connecting again; doubled at each failure."),
        row("reconnect_max", Default("\"2s\""), Slot::Duration(|c, v| c.upstream.reconnect_max_ms = v),
            "Longest pause before connecting again."),
        row("flush", Default("\"refuse\""),
            Slot::Text(|c, v| { c.upstream.flush = words::flush(v)?; Ok(()) }),
            "FLUSHALL, FLUSHDB and SWAPDB while there are mappings. `refuse`: an error. `cache`: they \
             empty the upstream alone, and mapped keys come back from Postgres; an error while a mapping has not \
             migrated (see `respgres phase`), as Redis may alone have keys of it. `truncate`: FLUSHALL and \
             FLUSHDB empty the mapped tables too; the user needs the right to TRUNCATE them. SWAPDB of \
             the database with mappings is always refused."),
        row("admin_commands", Default("false"), Slot::Flag(|c, v| c.upstream.admin_commands = v),
            "Whether clients may run what changes or stops the Redis server as a whole; if not, they are \
             told `-NOPERM` as by a Redis that denies it to its user. That is all that Redis flags as \
             `admin`, such as CONFIG SET, DEBUG, SHUTDOWN, REPLICAOF, SAVE, ACL SETUSER (docs/commands.md has \
             the list), but for what only looks, such as CONFIG GET, MONITOR and SLOWLOG GET. What CONFIG GET \
             and MONITOR show, passwords of Redis among it, only an ACL user in `upstream.url` can hide."),
    ]},
    Section { name: "postgres", about: "The store of mapped keys.", settings: &[
        row("url", Default("\"postgres://localhost/respgres\""),
            Slot::Text(|c, v| { check_postgres(v)?; c.postgres.url = v.to_owned(); Ok(()) }),
            "`postgres://user:password@host:port/database`, or `postgres:///database?host=/run/postgresql` \
             for a Unix socket. Has to be said when there are mappings, and is not used otherwise."),
        row("writers", Default("1"), Slot::Number(1..=64, |c, v| c.postgres.writers = count(v)),
            "Connections that write. Each combines what has queued up into one transaction, so few are \
             faster than many."),
        row("readers", Default("2"), Slot::Number(1..=64, |c, v| c.postgres.readers = count(v)),
            "Connections that read what the cache lacks; they combine in the same way."),
        row("streams", Default("4"), Slot::Number(1..=64, |c, v| c.postgres.streams = count(v)),
            "Connections that bring values too large for the cache (see `defaults.cache_max_elements`) to clients \
             that ask for all of one (SMEMBERS, HGETALL, HKEYS, HVALS; HSCAN and SSCAN without MATCH): one value at a time each, at its client's \
             pace. They are opened when they are needed."),
        row("stream_timeout", Default("\"1m\""), Slot::Duration(|c, v| c.postgres.stream_timeout_ms = v),
            "Longest time until a client has all of such a value, of which Postgres keeps a snapshot meanwhile. \
             After that, or after 10 s in which it takes nothing, its connection is closed: half a reply cannot be \
             taken back."),
        row("batch_operations", Default("1000"), Slot::Number(1..=100_000, |c, v| c.postgres.batch_operations = count(v)),
            "Most operations in one transaction."),
        row("connect_timeout", Default("\"3s\""), Slot::Duration(|c, v| c.postgres.connect_timeout_ms = v),
            "Longest wait for a connection."),
        row("statement_timeout", Default("\"5s\""), Slot::Duration(|c, v| c.postgres.statement_timeout_ms = v),
            "Longest statement, its waits for locks included."),
    ]},
    Section { name: "journal", about: "What mappings with the strategy `cache_first`, and others while Postgres was lost, have written to Redis, on its way to Postgres.", settings: &[
        row("max_changes", Default("1000000"), Slot::Number(1..=1_000_000_000, |c, v| c.journal.max_changes = v),
            "Fields and members that may be in the journal; each takes about as much memory of Redis as its name \
             and value. When it is full writes wait, at most twice `postgres.statement_timeout`, and are refused \
             then. A batch that was begun before may exceed it."),
        row("batch_changes", Default("20000"), Slot::Number(1..=1_000_000, |c, v| c.journal.batch_changes = count(v)),
            "About so many of them, of at most about 3,000 keys, are brought to Postgres in one transaction, and \
             fewer after one that has failed. Keys that change often are written once in it."),
        row("delay", Default("\"50ms\""), Slot::Duration(|c, v| c.journal.delay_ms = v),
            "How long respgres waits for more before it brings fewer to Postgres, unless one of its clients waits for \
             them; those of another respgres wait that long, too. A Redis that loses its data loses what waits."),
    ]},
    Section { name: "proxies", about: "Several respgres on one database.", settings: &[
        row("split", Default("\"refuse\""),
            Slot::Text(|c, v| { c.proxies.split = words::split(v)?; Ok(()) }),
            "What becomes of mapped keys (but for those of `cache_first`) where this respgres has lost one store and another \
             may have lost the other one, or is not heard of: both would write what the other does not see. `refuse`: \
             they are refused until it is known that nobody does. `available`: they are served, and acknowledged \
             writes may be lost. A respgres that runs alone is never refused."),
        row("redis_loss", Default("\"eventual\""),
            Slot::Text(|c, v| { c.proxies.redis_loss = words::redis_loss(v)?; Ok(()) }),
            "What a write by a respgres that has lost Redis owes to others that reach it. `eventual`: they drop their copy \
             some milliseconds after it was acknowledged. `strict`: one of them has dropped it before, so that nobody reads \
             the old value any more; where none of them reaches Redis, such writes are refused."),
    ]},
    Section { name: "admin", about: "The admin HTTP API, with metrics: where operators look in. docs/admin-api.yaml has its paths; in a browser it is a page.", settings: &[
        row("listen", Default("\"127.0.0.1:6381\""),
            Slot::Text(|c, v| { if !v.is_empty() { check_listen(v)?; } c.admin.listen = v.to_owned(); Ok(()) }),
            "Address and port; port 0 takes a free one, which the log tells; empty: there is no such API. Other addresses \
             than those of this machine alone need a token."),
        row("token", Optional("\"…\""),
            Slot::Text(|c, v| { words::token(v)?; c.admin.token = Some(v.to_owned()); Ok(()) }),
            "What requests have to bring, as `Authorization: Bearer …`. Without one only `/live` and `/ready` tell \
             anything. Better said by the environment, `RESPGRES__ADMIN__TOKEN`, than in a file."),
    ]},
    Section { name: "log", about: "The log.", settings: &[
        row("format", Default("\"text\""),
            Slot::Text(|c, v| { c.log.format = words::log_format(v)?; Ok(()) }),
            "`text` for people, `json` for programs."),
        row("level", Default("\"info\""),
            Slot::Text(|c, v| { words::log_level(v)?; c.log.level = v.to_owned(); Ok(()) }),
            "`error`, `warn`, `info`, `debug`, `trace`, or a filter by module such as \
             `info,respgres::engine=debug`."),
    ]},
    Section { name: "defaults", about: "What holds for mappings that do not say otherwise.", settings: &[
        row("strategy", Default("\"dual_write\""),
            Slot::Text(|c, v| { c.defaults.strategy = words::strategy(v)?; Ok(()) }),
            "Who is written first, and who is read first. `dual_write`: Postgres, then Redis; read from \
             Redis, else Postgres. `cache_first`: Redis, and Postgres soon after; read likewise; as durable as Redis \
             is. `database_first`: written likewise, read from Postgres. `redis_only`, \
             `postgres_only`: that one alone."),
        row("cache_ttl", Default("\"24h\""), Slot::Duration(|c, v| c.defaults.cache_ttl_ms = v),
            "Life of a cached copy in Redis; not what TTL shows."),
        row("negative_ttl", Default("\"5s\""), Slot::Duration(|c, v| c.defaults.negative_ttl_ms = v),
            "How long it is remembered that a key has no row."),
        row("lease", Default("\"10s\""), Slot::Duration(|c, v| c.defaults.lease_ms = v),
            "Life of a reader's or writer's mark in Redis; a matter of speed only."),
        row("cache_max_elements", Default("10000"), Slot::Number(1..=500_000, |c, v| c.defaults.cache_max_elements = count(v)),
            "A set, or a hash of the kind `hash_entries`, that has more elements, or more than 4 MB, is not put into the \
             cache: to do so keeps Redis busy with one key. Its elements are read one by one from Postgres, and all of \
             them are streamed from there."),
        row("verify_hits", Default("0.0"), Slot::Share(|c, v| c.defaults.verify_hits = v),
            "The share of reads answered by Redis, from 0 (none) to 1 (all), whose keys are compared with Postgres soon \
             after, as `respgres verify` does it, at most 1000 a second. `respgres_hit_checks_total` counts what comes of it, and \
             a difference is a warning in the log. Each costs a look into both stores."),
        row("on_postgres_down", Optional("\"cached_only\""),
            Slot::Text(|c, v| { c.defaults.on_postgres_down = Some(words::on_postgres_down(v)?); Ok(()) }),
            "What becomes of keys of `dual_write`, `database_first` and `cache_first` while Postgres is lost. `reject` \
             (usual, but for `cache_first`): what Redis has can be read, all else is refused. `cached_only` (usual for \
             `cache_first`): what Redis has is read and written there, and the journal has what Postgres has to get; of \
             others `-TRYAGAIN` is told. `redis_only`: so, and keys that Redis does not have are taken for absent, and \
             what is written to them is merged into their rows later. Where several respgres may lose different \
             stores at the same time, see `proxies.split`."),
    ]},
];

/// `[[auth.user]]`
#[rustfmt::skip]
pub(super) static USER: &[Setting<User>] = &[
    row("name", Required("\"app\""),
        Slot::Text(|u, v| { words::user_name(v)?; u.name = v.to_owned(); Ok(()) }),
        "What the client gives to `AUTH name password`."),
    row("password", Required("\"…\""),
        Slot::Text(|u, v| { words::not_empty(v)?; u.password = v.to_owned(); Ok(()) }),
        "Its password."),
];

/// `[[mapping]]`
#[rustfmt::skip]
pub(super) static MAPPING: &[Setting<Mapping>] = &[
    row("name", Required("\"api_keys\""),
        Slot::Text(|m, v| { m.name = v.to_owned(); words::mapping_name(v) }),
        "What logs, metrics and errors call the mapping."),
    row("key", Required("\"apikey:{id:uuid}\""),
        Slot::Text(|m, v| { words::not_empty(v)?; m.key = v.to_owned(); Ok(()) }),
        "Which keys: a text with captures `{name:kind}`; the kinds are `text`, `path`, `rest`, `uuid`, `int`, \
         `date`, `month` and `slug`."),
    row("exclude", Optional("[\"apikey:test:*\"]"),
        Slot::Texts(|m, v| { words::not_empty(v)?; m.exclude.push(v.to_owned()); Ok(()) }),
        "Keys that the pattern shall leave alone: globs as KEYS and SCAN take them."),
    row("kind", Default("\"hash\""),
        Slot::Text(|m, v| { m.kind = words::kind(v)?; Ok(()) }),
        "What the keys hold. `hash`: a hash, one row a key, one column a field. `hash_entries`: a hash, one \
         row a field, for hashes whose fields are not known beforehand. `set`: a set, one row a member."),
    row("table", Required("\"api_keys\""),
        Slot::Text(|m, v| { words::table(v)?; m.table = v.to_owned(); Ok(()) }),
        "`table` or `schema.table`, in the spelling of the database's catalog."),
    row("strategy", Optional("\"database_first\""),
        Slot::Text(|m, v| { m.strategy = words::strategy(v)?; Ok(()) }),
        "Where it differs from `[defaults]`."),
    row("cache_ttl", Optional("\"1h\""), Slot::Duration(|m, v| m.cache_ttl_ms = v),
        "Where it differs from `[defaults]`."),
    row("negative_ttl", Optional("\"1s\""), Slot::Duration(|m, v| m.negative_ttl_ms = v),
        "Where it differs from `[defaults]`."),
    row("on_postgres_down", Optional("\"cached_only\""),
        Slot::Text(|m, v| { m.on_postgres_down = Some(words::on_postgres_down(v)?); Ok(()) }),
        "Where it differs from `[defaults]`."),
    row("expires_at", Optional("\"key_expires_at\""),
        Slot::Text(|m, v| { words::column(v)?; m.expires_at = Some(v.to_owned()); Ok(()) }),
        "Column (`timestamptz`) of the key's own expiry: EXPIRE, TTL; for the kind `hash`. Without one it is \
         kept in the table `respgres.expiry`."),
    row("on_expire", Default("\"delete\""),
        Slot::Text(|m, v| { m.on_expire = words::on_expire(v)?; Ok(()) }),
        "What becomes of the rows of a key that is past its expiry. `delete`: one of the proxies deletes them, a \
         few hundred at a time; with a column for `expires_at`, an index on it makes that cheap. `keep`: they \
         stay until the key is written again. For clients the key is absent either way."),
    row("extra", Optional("\"extra\""),
        Slot::Text(|m, v| { words::column(v)?; m.extra = Some(v.to_owned()); Ok(()) }),
        "Column (`jsonb`) for fields without a column of their own, and for bytes that a column of its type \
         could not give back as they were. Without one such a write is refused."),
    row("key_columns", Optional("{ id = \"key_id\" }"),
        Slot::Names(|m, k, v| { words::column(v)?; m.key_columns.insert(k.to_owned(), v.to_owned()); Ok(()) }),
        "Capture to column, for captures whose column is not called as they are."),
    row("columns", Optional("{ name = \"name\", isActive = { column = \"is_active\", type = \"boolean\" } }"),
        Slot::Columns(|m, v| m.columns.push(v)),
        "Field to column, for the kind `hash`; mostly written as a table of its own, `[mapping.columns]`."),
    row("field", Optional("\"field\""),
        Slot::Column(element),
        "The column of a row's field, for the kind `hash_entries`; takes what `[mapping.columns]` takes. A \
         field that the column's type could not give back as it was is refused; `bytea` takes all. Types to \
         which different texts are equal (`numeric`, `jsonb`, …) are not for it."),
    row("value", Optional("{ column = \"count\", type = \"bigint\" }"),
        Slot::Column(|m, v| { m.value = Some(v); Ok(()) }),
        "The column of a row's value, for the kind `hash_entries`."),
    row("member", Optional("\"member\""),
        Slot::Column(element),
        "The column of a row's member, for the kind `set`. A member that the column's type could not give back \
         as it was is refused; `bytea` takes all. Types to which different texts are equal (`numeric`, `jsonb`, \
         …) are not for it."),
];

/// `field = { column = …, … }` of `[mapping.columns]`
#[rustfmt::skip]
pub(super) static COLUMN: &[Setting<FieldColumn>] = &[
    row("column", Required("\"is_active\""),
        Slot::Text(|c, v| { words::column(v)?; c.column = v.to_owned(); Ok(()) }),
        "The column's name; alone it can be written without braces: `field = \"column\"`."),
    row("format", Optional("\"yes/no\""),
        Slot::Text(|c, v| { words::format(v)?; c.format = Some(v.to_owned()); Ok(()) }),
        "How clients spell the value, where that is not the usual way of the column's type. `boolean`: \
         `true/false` (usual), `1/0`, `yes/no`, any `a/b`. `timestamptz`: `iso8601-ms` (usual, \
         `2026-11-20T22:20:30.783Z`), `iso8601`, `epoch-s`, `epoch-ms`, `postgres`."),
    row("type", Optional("\"boolean\""),
        Slot::Text(|c, v| { words::column_type(v)?; c.column_type = Some(v.to_owned()); Ok(()) }),
        "The column's type for `respgres schema`, which makes it `text` where nothing is said. The running \
         proxy takes the types from the database."),
    row("encrypt", NotYet("not available yet; remove it, and let the application encrypt the value"),
        Slot::Text(|_, _| Ok(())), ""),
];

/// A row is found by one of `field` and `member`; which one the kind wants is checked when it is known.
fn element(mapping: &mut Mapping, column: FieldColumn) -> Result<(), String> {
    if let Some(FieldColumn { field: other, .. }) = &mapping.element {
        return Err(format!(
            "{other:?} is there already, and a mapping has one of them; remove one"
        ));
    }
    mapping.element = Some(column);
    Ok(())
}
