//! Emptying mapped tables: FLUSHALL and FLUSHDB where the configuration lets them, and what is there of a mapping
//! whose keys are all in Redis now.

use sqlx::{AssertSqlSafe, Executor, Row};

use super::error::StoreError;
use super::session::Session;
use crate::mapping::Mapping;

// === impl Session ===

impl Session {
    /// Whether there is any row in a mapping's table.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn has_rows(&mut self, mapping: &Mapping) -> Result<bool, StoreError> {
        let table = mapping.layout.table().quoted();
        let exists = AssertSqlSafe(format!("select exists (select from {table})"));
        let row = self
            .attempt(async |connection| sqlx::query(exists).fetch_one(connection).await)
            .await?;
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    /// Forgets all that is known of a mapping's keys, and with `and_rows` the rows too.
    ///
    /// # Errors
    /// `Refused` when a foreign key of another table leads here, or the user may not TRUNCATE. No
    /// transaction is open after an error.
    pub async fn forget_rows(
        &mut self,
        mapping: &Mapping,
        and_rows: bool,
    ) -> Result<(), StoreError> {
        if and_rows {
            self.begin_empty(&[mapping]).await?;
        } else {
            self.begin_locked(&[]).await?;
        }
        let done = self
            .attempt(async |connection| {
                sqlx::query(
                    "with m as (delete from respgres.moved where mapping = $1),
                         e as (delete from respgres.expiry where mapping = $1)
                     delete from respgres.outbox where mapping = $1",
                )
                .bind(&mapping.name)
                .execute(connection)
                .await
            })
            .await;
        match done {
            Ok(_) => self.commit().await,
            Err(error) => {
                if !self.is_broken() {
                    self.rollback().await?;
                }
                Err(error)
            }
        }
    }

    /// Begins a transaction that empties the tables of these mappings, with the keys' own expiry.
    /// Until it ends nobody else reads or writes these tables.
    ///
    /// `mappings`: in the order of their places in the configuration, which is the order in which
    /// writers go through the tables.
    ///
    /// # Errors
    /// `Refused` when a foreign key of another table leads here, or the user may not TRUNCATE. No
    /// transaction is open after an error.
    pub async fn begin_empty(&mut self, mappings: &[&Mapping]) -> Result<(), StoreError> {
        debug_assert!(mappings.is_sorted_by_key(|mapping| mapping.index));
        let tables: Vec<_> =
            mappings.iter().map(|mapping| mapping.layout.table().quoted()).collect();
        let tables = tables.join(", ");
        let names: Vec<&str> = mappings.iter().map(|mapping| mapping.name.as_str()).collect();
        self.begin_locked(&[]).await?;
        let truncate = AssertSqlSafe(format!("truncate {tables}"));
        let done = self
            .attempt(async |connection| {
                connection.execute(sqlx::raw_sql(truncate)).await?;
                sqlx::query("delete from respgres.expiry where mapping = any($1)")
                    .bind(names)
                    .execute(connection)
                    .await
            })
            .await;
        match done {
            Ok(_) => Ok(()),
            Err(error) => {
                if !self.is_broken() {
                    self.rollback().await?;
                }
                Err(error)
            }
        }
    }
}
