//! What the configuration file says: plain values with their defaults, every problem at once.
//!
//! What respgres runs on (patterns, layouts) is made of it elsewhere: see `mapping`.

pub mod problem;

use std::collections::BTreeMap;

pub use problem::{Problem, Problems};

/// The whole file.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub auth: Auth,
    pub limits: Limits,
    pub upstream: Upstream,
    pub postgres: Postgres,
    pub log: Log,
    pub defaults: Defaults,
    pub mappings: Vec<Mapping>,
}

/// `[server]`: where clients connect.
#[derive(Clone, Debug)]
pub struct Server {
    /// `host:port`; port 0 takes a free one (printed in the log). Default `127.0.0.1:6380`.
    pub listen: String,
    /// Event loops; 0: the machine's cores minus one, at least 1. Default 0.
    pub threads: usize,
    /// Default 10000; one client more is told `-ERR max number of clients reached`.
    pub max_clients: usize,
}

/// `[auth]`: who may connect. Without a password and without users everybody may.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// As Redis' `requirepass`: the password of the user `default`.
    pub password: Option<String>,
    pub users: Vec<User>,
}

/// `[[auth.user]]`
#[derive(Clone, Debug)]
pub struct User {
    pub name: String,
    pub password: String,
}

/// `[limits]`: bounds on what one client can make respgres hold. Sizes are bytes in the file
/// as numbers or with a unit ("512mb").
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest argument (Redis: proto-max-bulk-len). Default 512 MiB.
    pub max_argument_bytes: usize,
    /// Longest request that is still incomplete (Redis: client-query-buffer-limit). Default 1 GiB.
    pub max_request_bytes: usize,
    /// Replies waiting for a client before respgres stops reading from it. Default 1 MiB.
    pub client_backlog_bytes: usize,
    /// Replies waiting for a client before it is closed. Default 256 MiB.
    pub client_backlog_max_bytes: usize,
    /// Requests of one client under way before respgres stops reading from it. Default 8192.
    pub client_requests: usize,
}

/// `[upstream]`: the Redis behind us.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// `redis://[user[:password]@]host[:port]`, `unix:/path`. Default `redis://127.0.0.1:6379`.
    pub url: String,
    /// The database whose keys are mapped. Default 0.
    pub database: u16,
    /// Default 1 s.
    pub connect_timeout_ms: u64,
    /// The longest that respgres waits for a reply of its own scripts. Default 5 s.
    pub request_timeout_ms: u64,
    /// First pause before connecting again; doubled up to `reconnect_max_ms`. Default 50 ms.
    pub reconnect_min_ms: u64,
    /// Default 2 s.
    pub reconnect_max_ms: u64,
    /// FLUSHALL, FLUSHDB and SWAPDB while mappings exist. Default `refuse`.
    pub flush: Flush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Refused with an error.
    Refuse,
    /// Empties the upstream only: mapped keys come back from Postgres.
    Cache,
}

/// `[postgres]`: the store.
#[derive(Clone, Debug)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`, also with `?host=/run/postgresql`. Default
    /// `postgres://localhost/respgres`. Needed only when there are mappings.
    pub url: String,
    /// Connections that combine writes. Default 1.
    pub writers: usize,
    /// Connections that combine reads after a miss. Default 2.
    pub readers: usize,
    /// Most operations in one transaction. Default 1000.
    pub batch_operations: usize,
    /// Default 3 s.
    pub connect_timeout_ms: u64,
    /// Longest statement, lock waits included. Default 5 s.
    pub statement_timeout_ms: u64,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    pub format: LogFormat,
    /// A tracing filter: `info`, `respgres=debug`. Default `info`.
    pub level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// `[defaults]`: for mappings that do not say otherwise.
#[derive(Clone, Debug)]
pub struct Defaults {
    pub strategy: Strategy,
    /// Life of a cached copy. Default 24 h.
    pub cache_ttl_ms: u64,
    /// How long "there is no such row" is remembered. Default 5 s.
    pub negative_ttl_ms: u64,
    /// Life of a reader's or writer's mark in Redis; a matter of speed only. Default 10 s.
    pub lease_ms: u64,
}

/// Who is written first, who is read first, when the client is told "done".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    DualWrite,
    DatabaseFirst,
    RedisOnly,
    PostgresOnly,
}

/// `[[mapping]]`
#[derive(Clone, Debug)]
pub struct Mapping {
    pub name: String,
    /// A key pattern such as `apikey:{id:uuid}`.
    pub key: String,
    /// Globs of keys that the pattern shall leave alone.
    pub exclude: Vec<String>,
    pub kind: Kind,
    /// `table` or `schema.table`.
    pub table: String,
    pub strategy: Strategy,
    pub cache_ttl_ms: u64,
    pub negative_ttl_ms: u64,
    /// Column of the key's own expiry; without one it is kept in `respgres.expiry`.
    pub expires_at: Option<String>,
    /// jsonb column for fields without a column and for bytes that their column cannot give back.
    pub extra: Option<String>,
    /// Capture to column; a capture that is not named here has the column of its own name.
    pub key_columns: BTreeMap<String, String>,
    /// Field to column, in the file's order.
    pub columns: Vec<FieldColumn>,
}

/// What kind of value a mapping's keys hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Hash,
}

/// One line of `[mapping.columns]`: `field = "column"`, or `field = { column = …, … }`.
#[derive(Clone, Debug)]
pub struct FieldColumn {
    pub field: String,
    pub column: String,
    /// How a client's bytes spell the column's value, where that is not the type's usual way:
    /// booleans `true/false` (default), `1/0`, `yes/no`, any `a/b`; timestamps `iso8601-ms`
    /// (default), `iso8601`, `epoch-s`, `epoch-ms`, `postgres`.
    pub format: Option<String>,
    /// The column's type for `respgres schema`; default `text`. The running proxy reads types from
    /// the database.
    pub column_type: Option<String>,
}

// === impl Mapping ===

impl Mapping {
    /// How problems name the mapping: `mapping[3] "usage"`. `index`: its place in the file, from 0.
    pub fn path(&self, index: usize) -> String {
        format!("mapping[{index}] {:?}", self.name)
    }
}
