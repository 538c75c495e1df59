//! The internal tables, schema `respgres`, through sqlx's migrations.
//!
//! Any number of proxies may start at once: sqlx takes an advisory lock. A proxy whose tables are
//! up to date needs no right to create any, and a newer proxy's migrations do not bother an older.

use std::borrow::Cow;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::{Row, SqlSafeStr};

use super::error::StoreError;
use super::session::Session;

/// In the order of their numbers, which never change, as the texts never do.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, "internal tables", include_str!("../../migrations/0001_internal_tables.sql")),
    (2, "expiry by time", include_str!("../../migrations/0002_expiry_by_time.sql")),
    (3, "journal", include_str!("../../migrations/0003_journal.sql")),
    (4, "proxies", include_str!("../../migrations/0004_proxies.sql")),
    (5, "moved", include_str!("../../migrations/0005_moved.sql")),
];

const TABLE: &str = "respgres.migrations";

// === impl Session ===

impl Session {
    /// Brings the internal tables up to date.
    ///
    /// # Errors
    /// `Refused` when the user may not create them, or when a migration that was applied here has
    /// another text now. After an error the session is broken: it may still hold sqlx's lock.
    pub async fn migrate(&mut self) -> Result<(), StoreError> {
        if self.is_migrated().await? {
            return Ok(());
        }
        let mut migrator = Migrator::with_migrations(migrations().collect());
        migrator.dangerous_set_table_name(TABLE);
        migrator.create_schema("respgres");
        migrator.set_ignore_missing(true);
        let done = self
            .attempt(async |connection| {
                migrator.run_direct(None, connection, false).await.map_err(|error| match error {
                    MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => {
                        error
                    }
                    other => sqlx::Error::Migrate(Box::new(other)),
                })
            })
            .await;
        if done.is_err() {
            self.set_broken();
        }
        done
    }

    async fn is_migrated(&mut self) -> Result<bool, StoreError> {
        let known: bool = self
            .attempt(async |connection| {
                sqlx::query_scalar("select to_regclass($1) is not null")
                    .bind(TABLE)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        if !known {
            return Ok(false);
        }
        let applied = self
            .attempt(async |connection| {
                sqlx::query("select version, checksum from respgres.migrations where success")
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let applied = applied.iter().filter_map(|row| {
            Some((row.try_get::<i64, _>(0).ok()?, row.try_get::<Vec<u8>, _>(1).ok()?))
        });
        let applied: Vec<_> = applied.collect();
        Ok(migrations().all(|migration| {
            let is_it =
                |row: &(i64, Vec<u8>)| row.0 == migration.version && row.1 == *migration.checksum;
            applied.iter().any(is_it)
        }))
    }
}

fn migrations() -> impl Iterator<Item = Migration> {
    MIGRATIONS.iter().map(|(version, name, sql)| {
        let kind = MigrationType::Simple;
        Migration::new(*version, Cow::Borrowed(*name), kind, sql.into_sql_str(), false)
    })
}
