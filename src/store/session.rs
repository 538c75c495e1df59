//! A session: one connection to Postgres, owned by one worker, and the transaction on it.
//!
//! Invariants
//! - READ COMMITTED: a statement sees what was committed before it began, so what is read after a
//!   lock was granted is what the lock's last holder left. (A snapshot takes no locks.)
//! - Text forms do not depend on the server's configuration: see `SETTINGS`.
//! - Statements look rows up by the key index, whatever the planner knows of the table: a plan made
//!   while the table was small would stay after it has grown.
//! - A proxy that stands still within a transaction does not hold its locks for ever.
//! - A future dropped half-way leaves the session broken, never in an unknown transaction.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, Row};

use super::error::StoreError;
use crate::config;

/// A setting of ours that is on in our sessions: what they write, respgres knows.
pub(super) const OWN_WRITES: &str = "respgres.own_writes";

const SETTINGS: &str =
    "set time zone 'UTC'; set datestyle = 'ISO, YMD'; set intervalstyle = 'postgres';
    set bytea_output = 'hex'; set extra_float_digits = 1;
    set client_encoding = 'UTF8'; set standard_conforming_strings = on;
    set default_transaction_isolation = 'read committed'; set default_transaction_deferrable = off;
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
    set plan_cache_mode = 'force_generic_plan'; set respgres.own_writes = 'on';
    set idle_in_transaction_session_timeout = '15s';";

/// Statements kept prepared: about ten shapes a mapping.
const STATEMENT_CACHE: usize = 512;

/// How much longer than the server we wait for the server to give up a statement.
const GRACE: Duration = Duration::from_secs(1);

const READ_COMMITTED: &str = "read committed";

/// One connection to Postgres.
#[derive(Debug)]
pub struct Session {
    pub(super) connection: PgConnection,
    state: State,
    broken: bool,
    statements_stale: bool,
    /// By mapping: the sets of columns that updates have named so far, see `write`.
    pub(super) column_sets: HashMap<String, Vec<Vec<usize>>, ahash::RandomState>,
    /// The longest that the client waits for one reply.
    patience: Duration,
    /// The limit of a statement in the next transactions, where it is not the usual one.
    hurry_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    InTransaction,
    Failed,
}

// === impl Session ===

impl Session {
    /// Connects, and settles what the text forms depend on.
    ///
    /// # Errors
    /// `Unreachable`, also for a URL that is none and for refused credentials.
    pub async fn connect(postgres: &config::Postgres) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(&postgres.url)
            .map_err(|error| StoreError::Unreachable(error.to_string()))?
            .application_name("respgres")
            .statement_cache_capacity(STATEMENT_CACHE)
            .disable_statement_logging();
        let limit = Duration::from_millis(postgres.connect_timeout_ms);
        let statement_timeout_ms = postgres.statement_timeout_ms;
        let connecting = async {
            let mut connection = options.connect().await?;
            let settings = format!("{SETTINGS} set statement_timeout = {statement_timeout_ms};");
            connection.execute(sqlx::raw_sql(AssertSqlSafe(settings))).await?;
            Ok(connection)
        };
        let connection = match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| match StoreError::of(&error) {
                error @ StoreError::Unreachable(_) => error,
                other => StoreError::Unreachable(other.to_string()),
            })?,
            Err(_) => {
                let text = format!("no connection within {} ms", limit.as_millis());
                return Err(StoreError::Unreachable(text));
            }
        };
        Ok(Self {
            connection,
            state: State::Idle,
            broken: false,
            statements_stale: false,
            column_sets: HashMap::default(),
            patience: Duration::from_millis(statement_timeout_ms) + GRACE,
            hurry_ms: None,
        })
    }

    /// Gives each statement of the transactions to come this long, lock waits included; `None`: the
    /// configured time.
    pub fn hurry(&mut self, limit_ms: Option<u64>) {
        self.hurry_ms = limit_ms;
    }

    fn begin_statement(&self, mode: &str) -> String {
        let mut sql = format!("begin isolation level {mode}");
        if let Some(limit_ms) = self.hurry_ms {
            write!(sql, "; set local statement_timeout = {limit_ms}")
                .expect("writing to a string cannot fail");
        }
        sql
    }

    /// Begins a transaction that holds these keys' locks (see `MappedKey::lock`) until its end, in
    /// one round trip.
    ///
    /// `locks`: ascending, without duplicates; so two batches never wait for each other.
    ///
    /// # Errors
    /// `Timeout` when a lock was not granted in time; no transaction is open then.
    pub async fn begin_locked(&mut self, locks: &[i64]) -> Result<(), StoreError> {
        debug_assert!(locks.is_sorted_by(|one, next| one < next));
        let sql = match locks {
            [] => self.begin_statement(READ_COMMITTED),
            _ => format!(
                "{}; select count(pg_advisory_xact_lock(key)) from unnest('{}'::bigint[]) as key",
                self.begin_statement(READ_COMMITTED),
                array_of(locks)
            ),
        };
        self.begin(sql).await.map(drop)
    }

    /// Begins a transaction and probes these keys' locks, in one round trip: true where no writer
    /// holds the key. What is probed free stays so until the transaction's end.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`]; no transaction is open then.
    pub async fn begin_probed(&mut self, locks: &[i64]) -> Result<Vec<bool>, StoreError> {
        if locks.is_empty() {
            self.begin_locked(locks).await?;
            return Ok(Vec::new());
        }
        let sql = format!(
            "{}; select pg_try_advisory_xact_lock_shared(key) as free \
             from unnest('{}'::bigint[]) with ordinality as k(key, n) order by n",
            self.begin_statement(READ_COMMITTED),
            array_of(locks)
        );
        let rows = self.begin(sql).await?;
        let free = |row: &PgRow| row.try_get::<bool, _>(0);
        rows.iter().map(free).collect::<Result<_, _>>().map_err(|error| self.failed(&error))
    }

    /// Begins a transaction that only reads, all of it as of one moment.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`]; no transaction is open then.
    pub async fn begin_snapshot(&mut self) -> Result<(), StoreError> {
        self.begin(self.begin_statement("repeatable read read only")).await.map(drop)
    }

    async fn begin(&mut self, sql: String) -> Result<Vec<PgRow>, StoreError> {
        debug_assert_eq!(self.state, State::Idle, "the last transaction has not ended");
        self.forget_stale_statements().await?;
        self.state = State::InTransaction;
        let begun = self
            .attempt(async |connection| {
                connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql))).await
            })
            .await;
        if begun.is_err() && !self.broken {
            self.rollback().await?;
        }
        begun
    }

    /// After the table has changed, statements that were prepared for its old shape fail; to be
    /// called outside of a transaction.
    pub(super) async fn forget_stale_statements(&mut self) -> Result<(), StoreError> {
        if self.statements_stale && self.state == State::Idle {
            self.attempt(async |connection| connection.clear_cached_statements().await).await?;
            self.statements_stale = false;
            self.column_sets.clear();
        }
        Ok(())
    }

    /// Ends the transaction and keeps its changes.
    ///
    /// # Errors
    /// `InDoubt` when the connection was lost after COMMIT had been sent; with any other error
    /// nothing was written.
    pub async fn commit(&mut self) -> Result<(), StoreError> {
        if self.broken {
            return Err(lost());
        }
        if self.state == State::Failed {
            self.rollback().await?;
            return Err(StoreError::Refused {
                code: "25P02".into(),
                constraint: None,
                column: None,
                message: "the transaction has failed before".into(),
            });
        }
        let ended = self
            .attempt(async |connection| connection.execute(sqlx::raw_sql("commit")).await.map(drop))
            .await;
        self.state = State::Idle;
        match ended {
            Err(error) if self.broken => Err(StoreError::InDoubt(error.to_string())),
            ended => ended,
        }
    }

    /// Ends the transaction without its changes; nothing to do outside of one.
    ///
    /// # Errors
    /// `Unreachable`: Postgres will roll back by itself.
    pub async fn rollback(&mut self) -> Result<(), StoreError> {
        if self.state == State::Idle {
            return Ok(());
        }
        self.attempt(async |connection| {
            connection.execute(sqlx::raw_sql("rollback")).await.map(drop)
        })
        .await?;
        self.state = State::Idle;
        Ok(())
    }

    /// Whether the connection is lost, or stuck in a call that was given up: drop the session, at
    /// once, as Postgres may hold its locks until then.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn set_broken(&mut self) {
        self.broken = true;
    }

    /// The cheapest question: whether Postgres still answers.
    ///
    /// # Errors
    /// `Unreachable` when it does not.
    pub async fn ping(&mut self) -> Result<(), StoreError> {
        self.attempt(async |connection| connection.ping().await).await
    }

    /// Says goodbye to Postgres. A transaction that has not ended is rolled back there.
    pub async fn close(self) {
        // A connection that cannot be closed is gone already.
        drop(tokio::time::timeout(GRACE, self.connection.close()).await);
    }

    /// Runs one exchange with the server, and keeps account of what it did to the session.
    pub(super) async fn attempt<T, F>(&mut self, exchange: F) -> Result<T, StoreError>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    {
        if self.broken {
            return Err(lost());
        }
        // Stays so when this future is dropped before it ends.
        self.broken = true;
        let exchange = exchange(&mut self.connection);
        match tokio::time::timeout(self.patience, exchange).await {
            Ok(Ok(done)) => {
                self.broken = false;
                Ok(done)
            }
            Ok(Err(error)) => {
                self.broken = false;
                Err(self.failed(&error))
            }
            Err(_) => Err(StoreError::Timeout(format!("no answer within {:?}", self.patience))),
        }
    }

    pub(super) fn failed(&mut self, error: &sqlx::Error) -> StoreError {
        self.broken |= StoreError::breaks(error);
        if self.state == State::InTransaction {
            self.state = State::Failed;
        }
        let error = StoreError::of(error);
        self.statements_stale |= matches!(error, StoreError::LayoutChanged { .. });
        error
    }
}

fn lost() -> StoreError {
    StoreError::Unreachable("the connection was lost before".into())
}

/// `{1,2,3}`
fn array_of(numbers: &[i64]) -> String {
    let mut text = String::with_capacity(2 + 21 * numbers.len());
    for number in numbers {
        text.push(if text.is_empty() { '{' } else { ',' });
        write!(text, "{number}").expect("writing to a string cannot fail");
    }
    text.push('}');
    text
}
