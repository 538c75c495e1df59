//! The table of metrics: every family once, with its kind, its labels, what bounds them, and what it means.
//!
//! The page for Prometheus, the admin API's JSON and docs/metrics.md are made of these rows.
//!
//! Absent on purpose: latencies of what passes through (that would be two looks at a clock a request, of which Redis
//! itself tells enough); connections to Postgres by state (each belongs to one worker, which keeps it, busy or not); the
//! bytes of requests and replies.

/// Metrics of one name.
#[derive(Debug)]
pub struct Family {
    pub name: &'static str,
    pub kind: Kind,
    /// Names of labels, each with what its values are.
    pub labels: &'static [(&'static str, &'static str)],
    pub help: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

use Kind::{Counter, Gauge, Histogram};

type Labels = &'static [(&'static str, &'static str)];

const MAPPING: (&str, &str) = ("mapping", "the mappings of the configuration file");
const STORE: (&str, &str) = ("store", "redis, postgres");
const SIDE: (&str, &str) = ("kind", "read, write");

const fn row(name: &'static str, kind: Kind, labels: Labels, help: &'static str) -> Family {
    Family { name, kind, labels, help }
}

/// All families, in the order in which they are told.
#[rustfmt::skip]
pub static FAMILIES: &[Family] = &[
    // The proxy
    row("respgres_up", Gauge, &[("version", "the one that runs")], "1 while the proxy runs."),
    row("respgres_uptime_seconds", Gauge, &[], "Time since the proxy was started."),
    row("respgres_clients", Gauge, &[], "Clients that are connected."),
    row("respgres_client_output_bytes", Gauge, &[], "Bytes of replies that wait for clients."),
    row("respgres_connections_total", Counter, &[], "Clients that have connected."),
    row("respgres_commands_total", Counter,
        &[("command", "the command table, and unknown"), ("path", "pass, pinned, hit, mapped, survey, local, refused")],
        "Requests by command and by their way: to Redis as they came (pass), over a connection of the client's own \
         (pinned), a mapped read that Redis' copy has answered (hit), other mapped keys (mapped), keys of both stores \
         (survey), answered by respgres (local), refused before any of these."),
    row("respgres_errors_total", Counter, &[("kind", "err, wrongtype, tryagain, noauth, noperm, other")],
        "Errors that respgres itself has told clients, by their first word."),
    // Mappings
    row("respgres_mapped_operations_total", Counter, &[MAPPING, SIDE, ("outcome", "ok, error")],
        "Operations on mapped keys that were answered, hits among them; but for what Redis runs on lent values."),
    row("respgres_mapped_seconds", Histogram, &[MAPPING, SIDE],
        "Time from the request to its answer, of operations that workers have done: misses, and writes. Of the \
         others see respgres_mapped_loop_seconds."),
    row("respgres_mapped_loop_seconds", Histogram, &[MAPPING, SIDE],
        "The same of operations that event loops do themselves: hits, and writes that they tell Redis first. One in 17 is \
         timed: of each client's reads, and of each loop's writes."),
    row("respgres_cache_total", Counter, &[MAPPING, ("result", "hit, miss, fill, refused")],
        "What became of reads: answered by Redis' copy (hit), keys asked of Postgres (miss), copies made (fill), and copies \
         not made as a writer was at the key (refused)."),
    row("respgres_hit_checks_total", Counter, &[MAPPING, ("result", "same, different, skipped")],
        "Hits that were to be compared with Postgres (`defaults.verify_hits`), by what came of it: both had the same, they had \
         not, or it was not compared (too many waited, a store was out of reach, the copy or the mapping's strategy had changed, \
         Postgres had yet to get what Redis has)."),
    row("respgres_degraded", Gauge, &[MAPPING],
        "1 while Redis is told first, as Postgres is lost or has not caught up, though that is not the mapping's strategy."),
    row("respgres_loans_total", Counter, &[],
        "Requests, or whole transactions, that Redis was to run on lent values of mapped keys."),
    row("respgres_batch_operations", Histogram, &[], "Operations that were brought to Postgres in one transaction."),
    // On the way to Postgres
    row("respgres_journal_entries", Gauge, &[], "Entries in the journal."),
    row("respgres_journal_changes", Gauge, &[], "Fields and members in the journal."),
    row("respgres_journal_lag_seconds", Gauge, &[], "Age of the journal's oldest entry."),
    row("respgres_journal_flushed_changes_total", Counter, &[], "Changes that this proxy has brought to Postgres."),
    row("respgres_dead_letters", Gauge, &[], "Changes that Postgres has refused and nobody has seen to."),
    row("respgres_outbox_rows", Gauge, &[], "Keys whose copies have still to be dropped; absent while Postgres does not tell."),
    row("respgres_outbox_lag_seconds", Gauge, &[], "Age of the oldest of these; absent while Postgres does not tell."),
    // Stores and proxies
    row("respgres_postgres_up", Gauge, &[], "1 while Postgres is there; absent without mappings."),
    row("respgres_redis_believed", Gauge, &[], "1 while mapped keys are read from Redis; absent without mappings."),
    row("respgres_slow_queries_total", Counter, &[], "Statements on a mapping's table that ran out of time."),
    row("respgres_postgres_connections", Gauge, &[("role", "write, read, stream, lend, keep, expire, flush, survey, check, operate")],
        "Connections to Postgres that workers have open, by what they are for; absent without mappings. Beside them a proxy has one \
         for its beats, one that listens, and for moments one that looks whether Postgres is there; so does a job that walks through tables."),
    row("respgres_proxies", Gauge, &[], "Proxies on the database, this one too; absent without mappings."),
    row("respgres_proxies_missing", Gauge, &[STORE], "Those without a lease in a store; absent without mappings."),
    row("respgres_fenced", Gauge, &[], "1 while this proxy serves no mapped key, as it has a lease in neither store."),
    row("respgres_apart", Gauge, &[], "1 while another proxy may be without the store that this one has."),
];

// === impl Kind ===

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

// === impl Family ===

impl Family {
    pub(super) fn named(name: &str) -> Option<&'static Self> {
        FAMILIES.iter().find(|family| family.name == name)
    }
}
