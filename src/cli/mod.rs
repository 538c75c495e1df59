//! The command line: what people may ask of the program.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// A caching proxy that speaks Redis' protocol: existing apps connect to it instead of to Redis.
/// Keys that match no mapping pass straight through to the Redis behind it; hashes whose keys match
/// a mapping live in typed Postgres tables and are cached in Redis.
#[derive(Debug, Parser)]
#[command(name = "respgres", version)]
pub struct CommandLine {
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the proxy until SIGINT or SIGTERM.
    ///
    /// Needs the Redis behind it and, if there are mappings, Postgres with their tables (see
    /// `respgres schema`).
    Run(ConfigFile),
    /// Say everything that is wrong with a configuration file, and its mappings' tables if Postgres
    /// is in reach.
    CheckConfig(CheckConfig),
    /// Print every setting with its default and a comment: a file to start from.
    PrintConfig {
        /// As a page of documentation.
        #[arg(long)]
        documentation: bool,
    },
    /// Print, as a page of documentation, what becomes of each Redis command.
    PrintCommands,
    /// Tell how a running respgres and its stores are, by its admin API.
    ///
    /// Where that is, and the token, is read from the configuration.
    Status {
        #[command(flatten)]
        file: ConfigFile,
        /// As JSON, for programs.
        #[arg(long)]
        json: bool,
    },
    /// Tell the metrics of a running respgres, by its admin API: docs/metrics.md.
    Metrics {
        #[command(flatten)]
        file: ConfigFile,
        /// Every second those numbers that have changed, and by how much, until Ctrl-C.
        #[arg(long)]
        watch: bool,
    },
    /// Print, as a page of documentation, what is counted.
    PrintMetrics,
    /// Tell of one key its mapping, the SQL that reads it, and what either store has of it.
    ///
    /// Of values only the sizes are told. Running proxies tell the same by `RESPGRES EXPLAIN key`.
    Explain {
        #[command(flatten)]
        file: ConfigFile,
        /// The key, as an app names it.
        key: String,
    },
    /// Look into a live Redis and propose mappings for it: a configuration file and the SQL of its tables.
    ///
    /// Reads only, by SCAN and at a bounded rate. What it has found is told in a table (standard error); the
    /// proposal (standard output) is a file to read, to change and to run on. Ctrl-C makes it propose what is
    /// known until then, after a short look into values; once more: at once.
    Infer(Infer),
    /// What mappings with the strategy `cache_first` have written to Redis, on its way to Postgres.
    #[command(subcommand)]
    Journal(JournalVerb),
    /// The proxies that run on the same database.
    #[command(subcommand)]
    Proxies(ProxiesVerb),
    /// How far the mappings have moved from Redis to Postgres.
    ///
    /// preparation: the keys live in Redis alone, the tables are only checked. dual_write, backfill, verify: a key
    /// that Postgres lacks is brought over whole by the first operation that needs it there. migrated: Redis has
    /// nothing but copies.
    #[command(subcommand)]
    Phase(PhaseVerb),
    /// By which strategy mappings go, for all proxies.
    #[command(subcommand)]
    Strategy(StrategyVerb),
    /// Go back to Redis alone, while no respgres runs.
    ///
    /// The keys of the mappings are put into Redis, whole, and compared with their rows, byte for byte. Then the
    /// mappings are redis_only, whatever the configuration file says, and the app may as well be pointed at Redis itself. The tables stay
    /// as they are. What fails leaves a mapping as it was.
    Rollback {
        #[command(flatten)]
        file: ConfigFile,
        /// Only this mapping; without it, or with `all`, all of them.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
        /// Do not ask.
        #[arg(long)]
        force: bool,
    },
    /// Bring all keys that only Redis has to Postgres, while clients go on.
    ///
    /// Each key is imported as the first write to it would do. A running respgres is needed, and the phase of the
    /// mappings: it is `backfill` from then on, and `verify` when every key has been brought over. May be ended at any time (Ctrl-C, or kill) and
    /// begun again. The exit code is 1 if a table has refused keys: they are told, and stay in Redis.
    Backfill {
        #[command(flatten)]
        file: ConfigFile,
        /// Only of this mapping.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
        #[command(flatten)]
        speed: Speed,
    },
    /// Compare Redis and Postgres, key by key and byte by byte, while clients go on.
    ///
    /// Different are values, ends (by more than a second) and types, and keys that Redis has and Postgres lacks. That Redis
    /// lacks a key is as it is to be, as copies end, unless --complete is given. The exit code is 1 if differences are left.
    Verify(Verify),
    /// Bring one store up to the other, while clients go on.
    ///
    /// From redis to postgres: what `backfill` does. From postgres to redis: keys that have a row are filled into
    /// Redis, as the first read of each would do; what Redis has stays. May be ended at any time and begun again.
    Sync {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(long, value_parser = ["redis", "postgres"])]
        from: String,
        #[arg(long, value_parser = ["redis", "postgres"])]
        to: String,
        /// Only of this mapping.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
        #[command(flatten)]
        speed: Speed,
    },
    /// Print the tables that the mappings want, as SQL.
    Schema {
        #[command(flatten)]
        file: ConfigFile,
        /// Also the triggers that tell respgres when others change the tables by SQL: cached copies of what
        /// they change are dropped within milliseconds. Each such statement then writes the keys of its rows
        /// into `respgres.outbox`.
        #[arg(long)]
        triggers: bool,
        /// Run the SQL on the configured database, and respgres' own migrations.
        #[arg(long)]
        apply: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum StrategyVerb {
    /// Tell by which strategy mappings go.
    Get {
        #[command(flatten)]
        file: ConfigFile,
        /// Only this one.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
    },
    /// Change the strategy of a mapping for all proxies at once, while clients go on.
    ///
    /// Clients of the mapping wait for some milliseconds. From then on what is said here holds, also over
    /// restarts, and not the configuration file. What cannot be done in time is called off: all is as before.
    Set {
        #[command(flatten)]
        file: ConfigFile,
        /// dual_write, cache_first, database_first or postgres_only. A mapping that is redis_only imports its keys from
        /// then on (see `respgres phase`).
        strategy: String,
        /// Only this mapping; without it, all that are not redis_only, one after the other.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
        /// Seconds that clients may have to wait for each mapping; they are told -TRYAGAIN after five.
        #[arg(long, value_name = "SECONDS", default_value_t = 10)]
        timeout: u64,
        /// Where the mapping leaves redis_only: delete the rows that its table has from before.
        #[arg(long)]
        discard_rows: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum ProxiesVerb {
    /// List them.
    ///
    /// Each has a lease in Redis and one in Postgres, and one that is without a lease in both serves no mapped
    /// key.
    List(ConfigFile),
    /// Forget a proxy that has died and will not come back.
    ///
    /// The others do that by themselves where they have both stores.
    Forget {
        #[command(flatten)]
        file: ConfigFile,
        /// Its id.
        id: String,
    },
}

/// What is on its way from Redis to Postgres.
#[derive(Debug, Subcommand)]
pub enum JournalVerb {
    /// Tell how far Postgres is behind.
    Status(ConfigFile),
    /// See to changes that Postgres refused: dead letters.
    #[command(subcommand)]
    Dlq(DeadLetterVerb),
}

/// The phases of mappings.
#[derive(Debug, Subcommand)]
pub enum PhaseVerb {
    /// Tell the phase of each mapping.
    Get {
        #[command(flatten)]
        file: ConfigFile,
        /// Only of this one.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
    },
    /// Record another phase; proxies have it from their next start on.
    ///
    /// Asks before a step with which keys may be lost.
    Set {
        #[command(flatten)]
        file: ConfigFile,
        #[arg(value_parser = ["preparation", "dual_write", "backfill", "verify", "migrated"])]
        phase: String,
        /// Only of this one.
        #[arg(long, value_name = "NAME")]
        mapping: Option<String>,
        /// Do not ask.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub enum DeadLetterVerb {
    /// List them, oldest first: number, time, mapping, key, reason.
    List(ConfigFile),
    /// Show what a change was.
    Show {
        #[command(flatten)]
        file: ConfigFile,
        /// Its number.
        id: i64,
    },
    /// Make a change, now that Postgres may take it; it is no dead letter any more then.
    ///
    /// Fields that were written since get the older value.
    Retry {
        #[command(flatten)]
        file: ConfigFile,
        /// Its number.
        id: i64,
    },
    /// Forget a change.
    Drop {
        #[command(flatten)]
        file: ConfigFile,
        /// Its number.
        id: i64,
    },
}

#[derive(Debug, Args)]
pub struct ConfigFile {
    /// The configuration file (TOML). Settings can be overridden by the environment:
    /// RESPGRES__POSTGRES__URL is postgres.url.
    #[arg(long, short, value_name = "FILE", env = "RESPGRES_CONFIG")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct CheckConfig {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Only the file, without looking into the database.
    #[arg(long)]
    pub offline: bool,
}

#[derive(Debug, Args)]
pub struct Verify {
    #[command(flatten)]
    pub file: ConfigFile,
    /// Only of this mapping.
    #[arg(long, value_name = "NAME")]
    pub mapping: Option<String>,
    /// Only so many keys of Redis, chosen by chance.
    #[arg(long, value_name = "N", conflicts_with_all = ["full", "complete"])]
    pub sample: Option<u64>,
    /// All keys, as without --sample.
    #[arg(long)]
    pub full: bool,
    /// Redis is to have every key that Postgres has.
    #[arg(long)]
    pub complete: bool,
    /// Have this side get what the other one has, wherever they are different. A key that only Redis has, and Postgres
    /// has never had, is not taken from Redis.
    #[arg(long, value_name = "SIDE", value_parser = ["redis", "postgres"])]
    pub repair: Option<String>,
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub speed: Speed,
}

#[derive(Debug, Args)]
pub struct Speed {
    /// Most keys in a second; 0 for as many as it can.
    #[arg(long, value_name = "KEYS/S", default_value_t = 0)]
    pub rate: u32,
    /// Connections to each store.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallel: u16,
}

#[derive(Debug, Args)]
pub struct Infer {
    /// The Redis: redis://[user[:password]@]host[:port], or unix:/path.
    #[arg(long, value_name = "URL", env = "RESPGRES__UPSTREAM__URL", hide_env_values = true)]
    pub redis: String,
    /// The number of its database.
    #[arg(long, value_name = "NUMBER", default_value_t = 0)]
    pub database: u16,
    /// Most keys to look at in a second.
    #[arg(long, value_name = "KEYS", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub rate: u32,
    /// Most keys to look at; 0 for all. Names take no memory beyond some megabytes, however many they are.
    #[arg(long, value_name = "KEYS", default_value_t = 1_000_000)]
    pub limit: u64,
    /// Keys of each family whose values are looked at.
    #[arg(long, value_name = "KEYS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub samples: u32,
    /// Write respgres.toml and schema.sql into this directory instead of printing them.
    #[arg(long, value_name = "DIRECTORY")]
    pub output: Option<PathBuf>,
    /// Print all of it as JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// Reads the program's arguments; on a bad command line, or for `--help`, it tells the user and ends
/// the process (exit code 2, or 0).
pub fn parse() -> CommandLine {
    CommandLine::parse()
}
