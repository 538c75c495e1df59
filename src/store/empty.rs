//! Emptying mapped tables: FLUSHALL and FLUSHDB where the configuration lets them.

use sqlx::{AssertSqlSafe, Executor};

use super::error::StoreError;
use super::session::Session;
use crate::mapping::Mapping;

// === impl Session ===

impl Session {
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
