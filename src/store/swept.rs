//! Which run of Redis has been looked through for old copies: told in `respgres.control`, the same for
//! all proxies.

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;

/// The row in `respgres.control`.
const NAME: &str = "redis";

// === impl Session ===

impl Session {
    /// The run that was looked through last, as it was recorded; `None`: none ever was.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn swept_run(&mut self) -> Result<Option<String>, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query("select value ->> 'run' from respgres.control where name = $1")
                    .bind(NAME)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    /// Records the run that has been looked through.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn record_swept_run(&mut self, run: &str) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query(
                "insert into respgres.control (name, value) values ($1, jsonb_build_object('run', $2::text))
                 on conflict (name) do update set value = excluded.value, changed_at = now()",
            )
            .bind(NAME)
            .bind(run)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }
}
