//! What the configuration file says: plain values with their defaults, every problem at once.
//!
//! What respgres runs on (patterns, layouts) is made of it elsewhere: see `mapping`.
//!
//! Invariants
//! - Every setting is one row of the table in `settings`; reader, printed defaults, documentation and
//!   environment names are made of it.
//! - No secret appears in a problem or in `Debug`.

mod check;
mod file;
mod print;
pub mod problem;
mod quantity;
mod settings;
mod spelling;
pub mod url;
mod words;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

pub use print::{print_config, print_documentation};
pub use problem::{Problem, Problems};
pub use url::RedisUrl;

/// The whole file.
#[derive(Clone, Debug)]
pub struct Config {
    pub server: Server,
    pub auth: Auth,
    pub limits: Limits,
    pub upstream: Upstream,
    pub postgres: Postgres,
    pub journal: Journal,
    pub proxies: Proxies,
    pub admin: Admin,
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
#[derive(Clone, Default)]
pub struct Auth {
    /// As Redis' `requirepass`: the password of the user `default`.
    pub password: Option<String>,
    pub users: Vec<User>,
}

/// `[[auth.user]]`
#[derive(Clone)]
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
    /// Longest request that is still incomplete (Redis: client-query-buffer-limit), and the most
    /// memory for what a client queues in MULTI where keys are mapped. Default 1 GiB.
    pub max_request_bytes: usize,
    /// Replies waiting for a client before respgres stops reading from it. Default 1 MiB.
    pub client_backlog_bytes: usize,
    /// Replies waiting for a client before it is closed. Default 256 MiB.
    pub client_backlog_max_bytes: usize,
    /// Requests of one client under way before respgres stops reading from it. Default 8192.
    pub client_requests: usize,
}

/// `[upstream]`: the Redis behind us.
#[derive(Clone)]
pub struct Upstream {
    /// `redis://[user[:password]@]host[:port]`, `unix:/path`. Default `redis://127.0.0.1:6379`.
    pub url: String,
    /// The database whose keys are mapped. Default 0.
    pub database: u16,
    /// Default 1 s.
    pub connect_timeout_ms: u64,
    /// The longest that respgres waits for a reply of its own scripts. Default 5 s.
    pub request_timeout_ms: u64,
    /// How long the upstream may answer nobody while requests wait. Default 10 s.
    pub silence_timeout_ms: u64,
    /// First pause before connecting again; doubled up to `reconnect_max_ms`. Default 50 ms.
    pub reconnect_min_ms: u64,
    /// Default 2 s.
    pub reconnect_max_ms: u64,
    /// FLUSHALL, FLUSHDB and SWAPDB while mappings exist. Default `refuse`.
    pub flush: Flush,
    /// Whether clients may run commands that concern the server as a whole. Default false.
    pub admin_commands: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Refused with an error.
    Refuse,
    /// Empties the upstream only: mapped keys come back from Postgres.
    Cache,
    /// Empties the upstream and the mapped tables.
    Truncate,
}

/// `[postgres]`: the store.
#[derive(Clone)]
pub struct Postgres {
    /// `postgres://user:password@host:port/database`, also with `?host=/run/postgresql`. Default
    /// `postgres://localhost/respgres`. Has to be said when there are mappings.
    pub url: String,
    /// Connections that combine writes. Default 1.
    pub writers: usize,
    /// Connections that combine reads after a miss. Default 2.
    pub readers: usize,
    /// Connections that bring large values to clients. Default 4.
    pub streams: usize,
    /// Longest time for one of them. Default 1 min.
    pub stream_timeout_ms: u64,
    /// Most operations in one transaction. Default 1000.
    pub batch_operations: usize,
    /// Default 3 s.
    pub connect_timeout_ms: u64,
    /// Longest statement, lock waits included. Default 5 s.
    pub statement_timeout_ms: u64,
}

/// `[journal]`: what `cache_first` mappings have written to Redis, on its way to Postgres.
#[derive(Clone, Debug)]
pub struct Journal {
    /// Fields and members in the journal before writes have to wait. Default 1,000,000.
    pub max_changes: u64,
    /// Fields and members that are brought to Postgres at once. Default 20,000.
    pub batch_changes: usize,
    /// How long the flusher waits for more. Default 50 ms.
    pub delay_ms: u64,
}

/// `[proxies]`: several respgres on one database.
#[derive(Clone, Debug)]
pub struct Proxies {
    /// Default `refuse`.
    pub split: Split,
    /// Default `eventual`.
    pub redis_loss: RedisLoss,
}

/// What a write that goes past Redis owes to the proxies that still reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisLoss {
    /// They drop their copies once it is committed.
    Eventual,
    /// They have dropped them before it is.
    Strict,
}

/// What a proxy does that has lost a store, while others may have lost the other one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Mapped keys that others may be writing the other way are refused.
    Refuse,
    /// It goes on; what others write meanwhile, or what it writes itself, may be lost.
    Available,
}

/// `[admin]`: where operators look in.
#[derive(Clone, Default)]
pub struct Admin {
    /// `host:port`; port 0 takes a free one; empty: nowhere. Default `127.0.0.1:6381`.
    pub listen: String,
    /// Without one only /live and /ready answer.
    pub token: Option<String>,
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
    /// Elements of a value with a row for each: a larger one is not cached. Default 10000.
    pub cache_max_elements: usize,
    /// The share of hits that are compared with Postgres. Default 0.
    pub verify_hits: f64,
    /// What becomes of mapped keys while Postgres is lost; `None`: as the strategy has it, see
    /// [`OnPostgresDown::usual`].
    pub on_postgres_down: Option<OnPostgresDown>,
}

/// Who is written first, who is read first, when the client is told "done".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    DualWrite,
    CacheFirst,
    DatabaseFirst,
    RedisOnly,
    PostgresOnly,
}

// === impl Strategy ===

impl Strategy {
    /// In the order of their declaration.
    pub const ALL: [Self; 5] = [
        Self::DualWrite,
        Self::CacheFirst,
        Self::DatabaseFirst,
        Self::RedisOnly,
        Self::PostgresOnly,
    ];

    /// As it is written in the file.
    pub fn name(self) -> &'static str {
        match self {
            Self::DualWrite => "dual_write",
            Self::CacheFirst => "cache_first",
            Self::DatabaseFirst => "database_first",
            Self::RedisOnly => "redis_only",
            Self::PostgresOnly => "postgres_only",
        }
    }

    /// The strategy of this name.
    ///
    /// # Errors
    /// Which names there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        words::strategy(name)
    }
}

/// What becomes of the rows of a key that is past its expiry; for clients it is absent either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpire {
    Delete,
    /// They stay until the key is written again.
    Keep,
}

/// What becomes of keys that Redis does not have, while Postgres is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnPostgresDown {
    /// They are taken for absent, and what is written to them is merged into their rows later.
    RedisOnly,
    /// They are refused.
    CachedOnly,
    /// So is every write, also to keys that Redis has.
    Reject,
}

impl OnPostgresDown {
    /// What holds where nothing is said. A client that is refused knows where it stands; one that is told
    /// that a key is absent, or that writes what another writes elsewhere, does not. What is written behind
    /// anyway goes on.
    pub fn usual(strategy: Strategy) -> Self {
        if strategy == Strategy::CacheFirst { Self::CachedOnly } else { Self::Reject }
    }
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
    /// Where the file says something.
    pub on_postgres_down: Option<OnPostgresDown>,
    /// Column of the key's own expiry; without one it is kept in `respgres.expiry`.
    pub expires_at: Option<String>,
    /// What becomes of rows past their expiry. Default `delete`.
    pub on_expire: OnExpire,
    /// jsonb column for fields without a column and for bytes that their column cannot give back.
    pub extra: Option<String>,
    /// Capture to column; a capture that is not named here has the column of its own name.
    pub key_columns: BTreeMap<String, String>,
    /// Field to column, in the file's order.
    pub columns: Vec<FieldColumn>,
    /// The column of a row's field (kind `hash_entries`) or member (kind `set`).
    pub element: Option<FieldColumn>,
    /// The column of a row's value (kind `hash_entries`).
    pub value: Option<FieldColumn>,
}

/// What kind of value a mapping's keys hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One row a key, one column a field.
    Hash,
    /// One row a field.
    HashEntries,
    /// One row a member.
    Set,
}

/// One line of `[mapping.columns]`: `field = "column"`, or `field = { column = …, … }`; likewise the
/// settings `field`, `value` and `member`, whose `field` here is their own name.
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

// === impl Config ===

impl Config {
    /// Reads a file, and the overrides in the environment of the process.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(path: &Path) -> Result<Self, Problems> {
        Self::load_with(path, |_| Ok(())).map(|(config, ())| config)
    }

    /// As `load`, and lets `further` make something of it, so that its problems are told together
    /// with those of the file. `further` may be given a configuration with problems: what could not be
    /// read has its default, or is empty.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub fn load_with<T>(
        path: &Path,
        further: impl FnOnce(&Config) -> Result<T, Vec<Problem>>,
    ) -> Result<(Self, T), Problems> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| Problems {
            file: file.clone(),
            problems: vec![Problem::new("", format!("the file cannot be read: {error}"))],
        })?;
        let environment = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        let (config, mut problems) = Self::read(&text, environment);
        match further(&config) {
            Ok(made) if problems.is_empty() => return Ok((config, made)),
            Ok(_) => {}
            Err(more) => problems.extend(more),
        }
        Err(Problems { file, problems })
    }

    /// Reads the text of a file with these variables of an environment, those that do not begin with
    /// `RESPGRES__` being ignored.
    ///
    /// # Errors
    /// Everything that is wrong; the file is called `respgres.toml`.
    pub fn from_toml(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Problems> {
        let (config, problems) = Self::read(text, environment);
        if problems.is_empty() {
            Ok(config)
        } else {
            Err(Problems { file: "respgres.toml".to_owned(), problems })
        }
    }

    /// What can be read, and everything that is wrong.
    fn read(
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> (Self, Vec<Problem>) {
        let mut reading = file::Reading::new(text, environment);
        check::check(&mut reading);
        (reading.config, reading.problems)
    }

    /// Nothing said at all; not valid.
    fn blank() -> Self {
        Self {
            server: Server { listen: String::new(), threads: 0, max_clients: 0 },
            auth: Auth::default(),
            limits: Limits {
                max_argument_bytes: 0,
                max_request_bytes: 0,
                client_backlog_bytes: 0,
                client_backlog_max_bytes: 0,
                client_requests: 0,
            },
            upstream: Upstream {
                url: String::new(),
                database: 0,
                connect_timeout_ms: 0,
                request_timeout_ms: 0,
                silence_timeout_ms: 0,
                reconnect_min_ms: 0,
                reconnect_max_ms: 0,
                flush: Flush::Refuse,
                admin_commands: false,
            },
            postgres: Postgres {
                url: String::new(),
                writers: 0,
                readers: 0,
                streams: 0,
                stream_timeout_ms: 0,
                batch_operations: 0,
                connect_timeout_ms: 0,
                statement_timeout_ms: 0,
            },
            journal: Journal { max_changes: 0, batch_changes: 0, delay_ms: 0 },
            proxies: Proxies { split: Split::Refuse, redis_loss: RedisLoss::Eventual },
            admin: Admin::default(),
            log: Log { format: LogFormat::Text, level: String::new() },
            defaults: Defaults {
                strategy: Strategy::DualWrite,
                cache_ttl_ms: 0,
                negative_ttl_ms: 0,
                lease_ms: 0,
                cache_max_elements: 0,
                verify_hits: 0.0,
                on_postgres_down: None,
            },
            mappings: Vec::new(),
        }
    }
}

impl Default for Config {
    /// What an empty file says.
    fn default() -> Self {
        let mut config = Self::blank();
        for setting in settings::SECTIONS.iter().flat_map(|section| section.settings) {
            file::apply_default(setting, &mut config);
        }
        config
    }
}

// === impl Debug, without secrets ===

impl fmt::Debug for Auth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = self.password.as_ref().map(|_| "…");
        f.debug_struct("Auth").field("password", &password).field("users", &self.users).finish()
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "…");
        f.debug_struct("Admin").field("listen", &self.listen).field("token", &token).finish()
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User").field("name", &self.name).field("password", &"…").finish()
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream")
            .field("url", &url::without_secrets(&self.url))
            .field("database", &self.database)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("request_timeout_ms", &self.request_timeout_ms)
            .field("silence_timeout_ms", &self.silence_timeout_ms)
            .field("reconnect_min_ms", &self.reconnect_min_ms)
            .field("reconnect_max_ms", &self.reconnect_max_ms)
            .field("flush", &self.flush)
            .field("admin_commands", &self.admin_commands)
            .finish()
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres")
            .field("url", &url::without_secrets(&self.url))
            .field("writers", &self.writers)
            .field("readers", &self.readers)
            .field("batch_operations", &self.batch_operations)
            .field("connect_timeout_ms", &self.connect_timeout_ms)
            .field("statement_timeout_ms", &self.statement_timeout_ms)
            .finish()
    }
}

// === impl Kind ===

impl Kind {
    /// As the configuration spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hash => "hash",
            Self::HashEntries => "hash_entries",
            Self::Set => "set",
        }
    }
}

// === impl Mapping ===

impl Mapping {
    /// How problems name the mapping: `mapping[3] "usage"`. `index`: its place in the file, from 0.
    pub fn path(&self, index: usize) -> String {
        if self.name.is_empty() {
            format!("mapping[{index}]")
        } else {
            format!("mapping[{index}] {:?}", self.name)
        }
    }
}
