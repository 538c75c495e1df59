//! Which proxies run on the database: `respgres.proxies`.
//!
//! A lease is told as a moment by Postgres' own clock, reckoned from an answer that came before: a renewal
//! that is delivered late does not prolong it.

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;

/// All proxies that are registered, and what time it was; milliseconds since the Unix epoch, by Postgres'
/// clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyRoll {
    pub now_ms: i64,
    pub proxies: Vec<ProxyEntry>,
}

/// One registered proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyEntry {
    pub id: String,
    pub lease_until_ms: i64,
    /// What it says of itself, as JSON.
    pub standing: String,
}

// === impl Session ===

impl Session {
    /// What time it is, by Postgres' clock.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn clock_ms(&mut self) -> Result<i64, StoreError> {
        self.attempt(async |connection| {
            sqlx::query_scalar("select (extract(epoch from clock_timestamp()) * 1000)::bigint")
                .fetch_one(connection)
                .await
        })
        .await
    }

    /// Registers a proxy, or prolongs its lease. An older renewal that comes late changes nothing.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn beat(&mut self, entry: &ProxyEntry) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query(
                "insert into respgres.proxies as p (id, lease_until, standing)
                 values ($1::text::uuid, to_timestamp($2::float8 / 1000), $3::text::jsonb)
                 on conflict (id) do update
                 set lease_until = excluded.lease_until, standing = excluded.standing
                 where p.lease_until < excluded.lease_until",
            )
            .bind(&entry.id)
            .bind(entry.lease_until_ms)
            .bind(&entry.standing)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }

    /// All proxies that are registered.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn proxies(&mut self) -> Result<ProxyRoll, StoreError> {
        let rows = self
            .attempt(async |connection| {
                sqlx::query(
                    "select (extract(epoch from now.at) * 1000)::bigint, p.id::text,
                        (extract(epoch from p.lease_until) * 1000)::bigint, p.standing::text
                     from (select clock_timestamp() as at) as now
                     left join respgres.proxies p on true",
                )
                .fetch_all(connection)
                .await
            })
            .await?;
        let roll = (|| {
            let mut roll = ProxyRoll::default();
            for row in &rows {
                roll.now_ms = row.try_get(0)?;
                // None is registered: one row, without a proxy.
                let Some(id) = row.try_get(1)? else { break };
                let (lease_until_ms, standing) = (row.try_get(2)?, row.try_get(3)?);
                roll.proxies.push(ProxyEntry { id, lease_until_ms, standing });
            }
            Ok(roll)
        })();
        roll.map_err(|error| self.failed(&error))
    }

    /// Takes out those of these proxies whose lease has ended; how many that were.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn take_out_stale_proxies(&mut self, ids: &[String]) -> Result<u64, StoreError> {
        self.attempt(async |connection| {
            sqlx::query(
                "delete from respgres.proxies
                 where id::text = any($1) and lease_until < clock_timestamp()",
            )
            .bind(ids)
            .execute(connection)
            .await
            .map(|done| done.rows_affected())
        })
        .await
    }

    /// Takes out a proxy that stops.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn take_out_proxy(&mut self, id: &str) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query("delete from respgres.proxies where id::text = $1")
                .bind(id)
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }
}
