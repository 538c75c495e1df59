//! Work that one proxy does for all of them: who does it holds an advisory lock meanwhile.

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;

/// The first of two numbers, so that it is the lock of no key.
const CLASS: i32 = 0x7265_7370;

/// A work of which there is one at a time on a database. The numbers are never to change: proxies of
/// all versions have to agree on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Looking through Redis for old copies.
    Sweep = 1,
    /// Bringing the journal to Postgres.
    Flush = 2,
    /// Deleting rows past their expiry.
    Expire = 3,
    /// Changing the strategy of a mapping.
    Switch = 4,
    /// Taking a mapping back to Redis alone, or into or out of `postgres_only`; all sessions of jobs that move keys have a part in it, which excludes that.
    Move = 5,
}

// === impl Session ===

impl Session {
    /// Takes on a work, until `lay_down` or the end of the session; false when another session has it.
    /// To be called outside of a transaction.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn take_on(&mut self, work: Work) -> Result<bool, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query("select pg_try_advisory_lock($1, $2)")
                    .bind(CLASS)
                    .bind(work as i32)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    /// Takes a part in a work that several sessions may have a part in, until the end of the session; false when another
    /// one has all of it.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn take_part(&mut self, work: Work) -> Result<bool, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query("select pg_try_advisory_lock_shared($1, $2)")
                    .bind(CLASS)
                    .bind(work as i32)
                    .fetch_one(connection)
                    .await
            })
            .await?;
        row.try_get(0).map_err(|error| self.failed(&error))
    }

    /// Locks keys for writing until `unlock_keys`, or the end of the session; those of a transaction add to it.
    /// Ascending, as everybody does.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn lock_keys(&mut self, locks: &[i64]) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query("select count(pg_advisory_lock(key)) from unnest($1::bigint[]) as k(key)")
                .bind(locks)
                .execute(connection)
                .await
                .map(drop)
        })
        .await
    }

    /// Gives back all that the session has locked.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn unlock_keys(&mut self) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query("select pg_advisory_unlock_all()").execute(connection).await.map(drop)
        })
        .await
    }

    /// Lets others have a work that this session has taken on.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn lay_down(&mut self, work: Work) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            // Another session than the one that took it on has nothing to give back: Postgres would warn.
            sqlx::query(
                "select pg_advisory_unlock($1::int4, $2::int4) where exists (
                     select from pg_locks where locktype = 'advisory' and granted
                         and pid = pg_backend_pid() and objsubid = 2
                         and classid = $1::int4::oid and objid = $2::int4::oid)",
            )
            .bind(CLASS)
            .bind(work as i32)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }
}
