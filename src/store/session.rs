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

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use tokio_util::sync::CancellationToken;

use super::column_sets::SetsByNumber;
use super::error::StoreError;
use super::exchange::{Exchange, Prepared};
use crate::config;
use crate::metrics::OpenSession;

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

/// Statements kept prepared: about ten shapes a mapping, and one more for each set of columns.
pub(super) const STATEMENT_CACHE: usize = 512;

/// How much longer than the server we wait for the server to give up a statement.
const GRACE: Duration = Duration::from_secs(1);

const READ_COMMITTED: &str = "read committed";
const SNAPSHOT: &str = "repeatable read read only";

/// One connection to Postgres.
#[derive(Debug)]
pub struct Session {
    pub(super) connection: PgConnection,
    pub(super) state: State,
    broken: bool,
    statements_stale: bool,
    pub(super) prepared: Prepared,
    pub(super) read_columns: SetsByNumber,
    pub(super) written_columns: SetsByNumber,
    /// The longest that the client waits for one reply.
    pub(super) patience: Duration,
    /// The limit of a statement in the next transactions, where it is not the usual one.
    hurry_ms: Option<u64>,
    /// Ends whatever is under way, and the session with it.
    cut: CancellationToken,
    counted: Option<OpenSession>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
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
            .map_err(|error| StoreError::Unreachable(error.to_string()))?;
        let name = options.get_application_name().unwrap_or("respgres").to_owned();
        let options = options
            .application_name(&name)
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
            prepared: Prepared::default(),
            read_columns: SetsByNumber::new(),
            written_columns: SetsByNumber::new(),
            patience: Duration::from_millis(statement_timeout_ms) + GRACE,
            hurry_ms: None,
            cut: CancellationToken::new(),
            counted: None,
        })
    }

    /// Gives the session up, whatever it is at, when this is cancelled.
    pub fn give_up_with(&mut self, cut: CancellationToken) {
        self.cut = cut;
    }

    /// Counts it so until its end.
    pub fn count_as(&mut self, open: OpenSession) {
        self.counted = Some(open);
    }

    /// Gives each statement of the transactions to come this long, lock waits included; `None`: the
    /// configured time.
    pub fn hurry(&mut self, limit_ms: Option<u64>) {
        self.hurry_ms = limit_ms;
    }

    pub(super) fn is_hurried(&self) -> bool {
        self.hurry_ms.is_some()
    }

    /// The commands that begin a transaction.
    pub(super) fn opening(&self) -> Vec<String> {
        self.opening_in(READ_COMMITTED)
    }

    fn opening_in(&self, mode: &str) -> Vec<String> {
        let begin = format!("begin isolation level {mode}");
        let hurry =
            self.hurry_ms.map(|limit_ms| format!("set local statement_timeout = {limit_ms}"));
        std::iter::once(begin).chain(hurry).collect()
    }

    /// Begins a transaction that holds these keys' locks (see `MappedKey::lock`) until its end, in
    /// one round trip.
    ///
    /// `locks`: ascending, without duplicates; so two batches never wait for each other.
    ///
    /// # Errors
    /// `Timeout` when a lock was not granted in time; no transaction is open then.
    pub async fn begin_locked(&mut self, locks: &[i64]) -> Result<(), StoreError> {
        self.begin_reading(locks, &[]).await.map(drop)
    }

    /// Begins a transaction that only reads, all of it as of one moment.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`]; no transaction is open then.
    pub async fn begin_snapshot(&mut self) -> Result<(), StoreError> {
        let opening = self.opening_in(SNAPSHOT);
        self.exchange(&Exchange { opening, ..Exchange::default() }, |_, _| Ok(())).await
    }

    /// After the table has changed, statements that were prepared for its old shape fail; to be
    /// called outside of a transaction.
    pub(super) async fn forget_stale_statements(&mut self) -> Result<(), StoreError> {
        if self.statements_stale && self.state == State::Idle {
            self.attempt(async |connection| connection.clear_cached_statements().await).await?;
            self.forget_prepared().await?;
            self.statements_stale = false;
            self.read_columns = SetsByNumber::new();
            self.written_columns = SetsByNumber::new();
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
        self.broken || self.cut.is_cancelled()
    }

    pub(super) fn set_broken(&mut self) {
        self.broken = true;
    }

    /// The connection, and whether it is broken, for who keeps account of that.
    pub(super) fn parts(&mut self) -> Result<(&mut PgConnection, &mut bool), StoreError> {
        if self.broken {
            return Err(lost());
        }
        Ok((&mut self.connection, &mut self.broken))
    }

    /// The cheapest question: whether Postgres still answers.
    ///
    /// # Errors
    /// `Unreachable` when it does not.
    pub async fn ping(&mut self) -> Result<(), StoreError> {
        self.attempt(async |connection| connection.ping().await).await
    }

    /// Whether this is a server that takes writes.
    ///
    /// # Errors
    /// `Unreachable` when it is not, or does not answer.
    pub async fn look(&mut self) -> Result<(), StoreError> {
        let is_standby: bool = self
            .attempt(async |connection| {
                sqlx::query_scalar("select pg_is_in_recovery()").fetch_one(connection).await
            })
            .await?;
        match is_standby {
            true => Err(StoreError::Unreachable("the server is a standby".into())),
            false => Ok(()),
        }
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
        self.attempt_within(self.patience, exchange).await
    }

    pub(super) async fn attempt_within<T, F>(
        &mut self,
        limit: Duration,
        exchange: F,
    ) -> Result<T, StoreError>
    where
        F: AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    {
        if self.is_broken() {
            return Err(lost());
        }
        // Stays so when this future is dropped before it ends.
        self.broken = true;
        let exchange = exchange(&mut self.connection);
        let cut = self.cut.clone();
        let ended = tokio::select! {
            biased;
            ended = tokio::time::timeout(limit, exchange) => ended,
            () = cut.cancelled() => {
                return Err(StoreError::Unreachable("it was lost meanwhile".into()));
            }
        };
        match ended {
            Ok(Ok(done)) => {
                self.broken = false;
                Ok(done)
            }
            Ok(Err(error)) => {
                self.broken = false;
                Err(self.failed(&error))
            }
            Err(_) => Err(StoreError::Timeout(format!("no answer within {limit:?}"))),
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
