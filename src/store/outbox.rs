//! The outbox: keys whose rows were changed past Redis, so that its copies of them have to go
//! (COHERENCE, "Outbox").
//!
//! A row is added in the transaction that changes the key, and deleted once the copy is gone. Any proxy
//! may do that, several at once.

use std::time::Duration;

use sqlx::Row;
use sqlx::postgres::{PgListener, PgPool, PgPoolOptions};

use super::control::CONTROL_CHANNEL;
use super::error::StoreError;
use super::session::Session;
use crate::config;
use crate::mapping::MappedKey;

/// What NOTIFY wakes the proxies with.
pub const CHANNEL: &str = "respgres_outbox";

/// A key in the outbox.
#[derive(Clone, Debug)]
pub struct OutboxRow {
    pub id: i64,
    pub key: Vec<u8>,
}

/// How much there is in it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OutboxState {
    pub rows: u64,
    /// Age of the oldest row.
    pub lag_seconds: f64,
}

// === impl Session ===

impl Session {
    /// Adds keys, within the transaction begun before; the proxies are woken by its COMMIT.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn add_to_outbox(&mut self, keys: &[&MappedKey]) -> Result<(), StoreError> {
        let names: Vec<&str> = keys.iter().map(|key| key.mapping.name.as_str()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key.key[..]).collect();
        self.attempt(async |connection| {
            sqlx::query(
                "with added as (
                     insert into respgres.outbox (mapping, key)
                     select * from unnest($1::text[], $2::bytea[]))
                 select pg_notify($3, '')",
            )
            .bind(names)
            .bind(keys)
            .bind(CHANNEL)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }

    /// Puts keys in at once, outside any transaction; their rows.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn put_into_outbox(&mut self, keys: &[&MappedKey]) -> Result<Vec<i64>, StoreError> {
        let names: Vec<&str> = keys.iter().map(|key| key.mapping.name.as_str()).collect();
        let keys: Vec<&[u8]> = keys.iter().map(|key| &key.key[..]).collect();
        self.attempt(async |connection| {
            sqlx::query_scalar(
                "with added as (
                     insert into respgres.outbox (mapping, key)
                     select * from unnest($1::text[], $2::bytea[]) returning id),
                 told as materialized (select pg_notify($3, ''))
                 select id from added, told",
            )
            .bind(names)
            .bind(keys)
            .bind(CHANNEL)
            .fetch_all(connection)
            .await
        })
        .await
    }

    /// Whether any of these rows is still there.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn is_any_in_outbox(&mut self, ids: &[i64]) -> Result<bool, StoreError> {
        self.attempt(async |connection| {
            sqlx::query_scalar("select exists (select from respgres.outbox where id = any($1))")
                .bind(ids)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// How much there is in it.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn outbox_state(&mut self) -> Result<OutboxState, StoreError> {
        let (rows, lag_seconds): (i64, f64) = self
            .attempt(async |connection| {
                sqlx::query_as(
                    "select count(*), coalesce(greatest(extract(epoch from
                         clock_timestamp() - min(created_at)), 0), 0)::float8
                     from respgres.outbox",
                )
                .fetch_one(connection)
                .await
            })
            .await?;
        Ok(OutboxState { rows: rows.unsigned_abs(), lag_seconds })
    }

    /// Whether a key is there.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn is_key_in_outbox(&mut self, key: &[u8]) -> Result<bool, StoreError> {
        self.attempt(async |connection| {
            sqlx::query_scalar("select exists (select from respgres.outbox where key = $1)")
                .bind(key)
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// The oldest keys that are there.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn read_outbox(
        &mut self,
        after: i64,
        most: i64,
    ) -> Result<Vec<OutboxRow>, StoreError> {
        let rows = self
            .attempt(async |connection| {
                sqlx::query(
                    "select id, key from respgres.outbox where id > $1 order by id limit $2",
                )
                .bind(after)
                .bind(most)
                .fetch_all(connection)
                .await
            })
            .await?;
        let row = |row: &sqlx::postgres::PgRow| {
            Ok(OutboxRow { id: row.try_get(0)?, key: row.try_get(1)? })
        };
        rows.iter()
            .map(row)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|error| self.failed(&error))
    }

    /// The newest row that is there, of a mapping or of all, of those up to `until`.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn newest_in_outbox(
        &mut self,
        mapping: Option<&str>,
        until: Option<i64>,
    ) -> Result<Option<i64>, StoreError> {
        self.attempt(async |connection| {
            sqlx::query_scalar(
                "select max(id) from respgres.outbox
                 where mapping = coalesce($1::text, mapping) and id <= coalesce($2::bigint, id)",
            )
            .bind(mapping)
            .bind(until)
            .fetch_one(connection)
            .await
        })
        .await
    }

    /// Takes keys out whose copies are gone; of mappings that import it is written down that Postgres has had
    /// them (see `moved`).
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn delete_from_outbox(
        &mut self,
        ids: &[i64],
        importing: &[&str],
    ) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query(
                "with taken as (
                     delete from respgres.outbox where id = any($1) returning mapping, key)
                 insert into respgres.moved (mapping, key)
                 select distinct mapping, key from taken where mapping = any($2)
                 on conflict do nothing",
            )
            .bind(ids)
            .bind(importing)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }
}

/// A connection that is told when something has come into the outbox, or an entry of a mapping has changed.
#[derive(Debug)]
pub struct Listener {
    inner: PgListener,
    /// Of this connection alone: a listener takes its connection from a pool.
    pool: PgPool,
}

// === impl Listener ===

impl Listener {
    /// Connects and listens.
    ///
    /// # Errors
    /// `Unreachable` when Postgres is not there within the configured time, or refuses.
    pub async fn connect(postgres: &config::Postgres) -> Result<Self, StoreError> {
        let limit = Duration::from_millis(postgres.connect_timeout_ms);
        let connecting = async {
            let options = PgPoolOptions::new().max_connections(1);
            let pool = options.max_lifetime(None).idle_timeout(None).connect(&postgres.url).await?;
            let mut listener = Self { inner: PgListener::connect_with(&pool).await?, pool };
            listener.inner.eager_reconnect(false);
            listener.inner.listen_all([CHANNEL, CONTROL_CHANNEL]).await?;
            Ok(listener)
        };
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map_err(|error| StoreError::of(&error)),
            Err(_) => Err(StoreError::Unreachable(format!("no connection within {limit:?}"))),
        }
    }

    /// Completes when something has come into the outbox, or else (`false`) when an entry of a mapping has
    /// changed.
    ///
    /// # Errors
    /// `Unreachable` when the connection is lost: what came since is not known.
    pub async fn next(&mut self) -> Result<bool, StoreError> {
        match self.inner.try_recv().await {
            Ok(Some(told)) => Ok(told.channel() == CHANNEL),
            Ok(None) => Err(StoreError::Unreachable("the listener's connection was lost".into())),
            Err(error) => Err(StoreError::of(&error)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // An open pool tests a connection that it gets back, and warns when it is lost.
        drop(self.pool.close());
    }
}
