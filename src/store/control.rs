//! What operators have settled for all proxies, one row of `respgres.control` a mapping: by which strategy it
//! goes (see `engine::switchboard`).

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;

/// What NOTIFY wakes the proxies with.
pub(super) const CONTROL_CHANNEL: &str = "respgres_control";

const PREFIX: &str = "mapping:";

// === impl Session ===

impl Session {
    /// All entries: mapping, and value as JSON.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn mapping_entries(&mut self) -> Result<Vec<(String, String)>, StoreError> {
        let rows = self
            .attempt(async |connection| {
                sqlx::query(
                    "select substr(name, length($1) + 1), value::text from respgres.control
                     where starts_with(name, $1)",
                )
                .bind(PREFIX)
                .fetch_all(connection)
                .await
            })
            .await?;
        let entries = rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?)));
        entries.collect::<Result<_, sqlx::Error>>().map_err(|error| self.failed(&error))
    }

    /// Changes the members of an entry that are in `members`, a JSON object, and leaves others as they are;
    /// the proxies are told. `false`: its version is another one than `version`, and nothing was changed.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn change_mapping_entry(
        &mut self,
        mapping: &str,
        version: u64,
        members: &str,
    ) -> Result<bool, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query(
                    "with changed as (
                         insert into respgres.control as c (name, value) values ($1, $3::text::jsonb)
                         on conflict (name) do update
                         set value = c.value || excluded.value, changed_at = now()
                         where coalesce((c.value ->> 'version')::bigint, 0) = $2
                         returning 1)
                     select count(*), pg_notify($4, '') from changed",
                )
                .bind(format!("{PREFIX}{mapping}"))
                .bind(version.cast_signed())
                .bind(members)
                .bind(CONTROL_CHANNEL)
                .fetch_one(connection)
                .await
            })
            .await?;
        let count: Result<i64, sqlx::Error> = row.try_get(0);
        count.map(|count| count == 1).map_err(|error| self.failed(&error))
    }

    /// Ends the sessions of a proxy that is taken for dead; how many that were. What they were committing may
    /// have happened.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn end_sessions_of(&mut self, proxy: &str) -> Result<i64, StoreError> {
        self.attempt(async |connection| {
            sqlx::query_scalar(
                "select count(pg_terminate_backend(pid, 1000)) from pg_stat_activity
                 where datname = current_database() and usename = current_user
                     and application_name = $1",
            )
            .bind(application_name(proxy))
            .fetch_one(connection)
            .await
        })
        .await
    }
}

/// By which name Postgres knows a proxy's sessions.
pub fn application_name(proxy: &str) -> String {
    format!("respgres-{proxy}")
}
