//! Exchanges: statements that go to the server together, with what opens and closes their
//! transaction.
//!
//! Invariants
//! - In one message as in several, each statement begins when the one before it has ended, and sees
//!   what was committed until then. The first that fails is the last: COMMIT is not reached.
//! - A statement is called under a name only once it has certainly been prepared; so nothing is left
//!   prepared that nobody knows.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Either, Executor};

use super::error::StoreError;
use super::session::{STATEMENT_CACHE, Session, State};
use super::statement::Statement;

/// Arguments of so many bytes go in one message.
const TOGETHER_BYTES: usize = 64 << 10;

pub(super) const COMMIT: &str = "commit";

/// Statements of a session that can be called by name.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    names: HashMap<String, String, ahash::RandomState>,
    latest: u64,
}

/// What goes to the server together.
#[derive(Debug, Default)]
pub(super) struct Exchange<'a> {
    /// Commands that begin a transaction.
    pub(super) opening: Vec<String>,
    pub(super) statements: Vec<Statement<'a>>,
    /// The command that ends it.
    pub(super) closing: Option<&'static str>,
}

// === impl Exchange ===

impl Exchange<'_> {
    fn fits_one_message(&self) -> bool {
        self.statements.iter().all(Statement::is_callable)
            && self.statements.iter().map(Statement::size).sum::<usize>() <= TOGETHER_BYTES
    }
}

// === impl Session ===

impl Session {
    /// Carries out an exchange; `take` gets every row with the number of its statement.
    ///
    /// # Errors
    /// Of the first command or statement that fails; the transaction has then ended, or the session
    /// is broken and it ends with it. `InDoubt` when the connection was lost after the closing had
    /// been sent.
    pub(super) async fn exchange(
        &mut self,
        exchange: &Exchange<'_>,
        mut take: impl FnMut(usize, PgRow) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), StoreError> {
        self.forget_stale_statements().await?;
        let done = if exchange.fits_one_message() {
            match self.prepare(&exchange.statements).await {
                Ok(()) => self.in_one_message(exchange, &mut take).await,
                failed => failed,
            }
        } else {
            self.one_by_one(exchange, &mut take).await
        };
        let is_whole = !exchange.opening.is_empty() || exchange.closing.is_some();
        if done.is_err() && !self.is_broken() && is_whole {
            self.rollback().await?;
        }
        done
    }

    async fn in_one_message(
        &mut self,
        exchange: &Exchange<'_>,
        take: &mut (impl FnMut(usize, PgRow) -> Result<(), sqlx::Error> + Send),
    ) -> Result<(), StoreError> {
        let Exchange { opening, statements, closing } = exchange;
        let mut sql = opening.join("; ");
        for statement in statements {
            if !sql.is_empty() {
                sql.push_str("; ");
            }
            statement.write_call(&self.prepared.names[&statement.sql], &mut sql);
        }
        if let Some(closing) = closing {
            sql.push_str("; ");
            sql.push_str(closing);
        }
        let mut ended = 0;
        let limit = self.limit_of(statements.len());
        if !opening.is_empty() {
            self.state = State::InTransaction;
        }
        let done = self
            .attempt_within(limit, async |connection| {
                let mut results = connection.fetch_many(sqlx::raw_sql(AssertSqlSafe(sql)));
                while let Some(result) = results.try_next().await? {
                    match result {
                        Either::Left(_) => ended += 1,
                        Either::Right(row) => take(ended - opening.len(), row)?,
                    }
                }
                Ok(())
            })
            .await;
        let Some(closing) = closing else { return done };
        if done.is_ok() || ended == opening.len() + statements.len() {
            // When the closing itself fails the transaction has ended, too.
            self.state = State::Idle;
        }
        match done {
            Err(error) if self.is_broken() && *closing == COMMIT => {
                Err(StoreError::InDoubt(error.to_string()))
            }
            done => done,
        }
    }

    async fn one_by_one(
        &mut self,
        exchange: &Exchange<'_>,
        take: &mut (impl FnMut(usize, PgRow) -> Result<(), sqlx::Error> + Send),
    ) -> Result<(), StoreError> {
        let Exchange { opening, statements, closing } = exchange;
        if !opening.is_empty() {
            self.state = State::InTransaction;
            self.command(opening.join("; ")).await?;
        }
        for (number, statement) in statements.iter().enumerate() {
            self.attempt(async |connection| {
                let mut rows = statement.bound().fetch(connection);
                while let Some(row) = rows.try_next().await? {
                    take(number, row)?;
                }
                Ok(())
            })
            .await?;
        }
        match closing {
            None => Ok(()),
            Some(COMMIT) => self.commit().await,
            Some(_) => self.rollback().await,
        }
    }

    /// Commands without a result.
    pub(super) async fn command(&mut self, sql: String) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            connection.execute(sqlx::raw_sql(AssertSqlSafe(sql))).await.map(drop)
        })
        .await
    }

    /// The server gives up each statement after its own time.
    fn limit_of(&self, statements: usize) -> Duration {
        let more = u32::try_from(statements.saturating_sub(1)).unwrap_or(u32::MAX);
        self.patience.saturating_add(self.patience.saturating_mul(more))
    }

    /// Gives statements their names; a round trip each, once a session.
    async fn prepare(&mut self, statements: &[Statement<'_>]) -> Result<(), StoreError> {
        let names = &self.prepared.names;
        let new = statements.iter().filter(|statement| !names.contains_key(&statement.sql));
        if names.len() + new.count() > STATEMENT_CACHE {
            self.forget_prepared().await?;
        }
        for Statement { sql, .. } in statements {
            if self.prepared.names.contains_key(sql) {
                continue;
            }
            self.prepared.latest += 1;
            let name = format!("respgres_{}", self.prepared.latest);
            let prepare = format!("prepare {name} as {sql}");
            if self.state == State::Idle && self.is_hurried() {
                // It may have to wait for the table, and not for longer than what follows.
                self.state = State::InTransaction;
                let prepared =
                    self.command(format!("{}; {prepare}", self.opening().join("; "))).await;
                if !self.is_broken() {
                    self.rollback().await?;
                }
                prepared?;
            } else {
                self.command(prepare).await?;
            }
            self.prepared.names.insert(sql.clone(), name);
        }
        Ok(())
    }

    pub(super) async fn forget_prepared(&mut self) -> Result<(), StoreError> {
        let names: Vec<String> = self.prepared.names.drain().map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(());
        }
        let forget: Vec<String> = names.iter().map(|name| format!("deallocate {name}")).collect();
        self.command(forget.join("; ")).await
    }
}
