//! Finding keys past their expiry, the longest expired first, some at a time.
//!
//! What is found may have been given more time, or be gone, by the time it is locked: it has to be read
//! again. "Now" is the clock of Postgres.

use sqlx::{AssertSqlSafe, Row};

use super::error::StoreError;
use super::keys::KeyValues;
use super::session::Session;
use crate::mapping::Mapping;
use crate::mapping::shape::quote;

/// Where a look through expired keys goes on: behind this moment, as Postgres writes it.
pub(super) type Moment = String;

/// Some expired keys.
#[derive(Debug)]
pub struct ExpiredPage<K> {
    pub keys: Vec<K>,
    /// `None`: there are no more.
    pub next: Option<Moment>,
}

/// A key in `respgres.expiry`.
#[derive(Clone, Debug)]
pub struct ExpiredKey {
    /// The mapping's name.
    pub mapping: String,
    pub key: Vec<u8>,
}

// === impl Session ===

impl Session {
    /// Rows of a mapping with a column for the expiry: at most `most` of those that expired after a
    /// moment, all others first.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn expired_rows(
        &mut self,
        mapping: &Mapping,
        after: Option<&Moment>,
        most: usize,
    ) -> Result<ExpiredPage<KeyValues>, StoreError> {
        let Some(sql) = rows_statement(mapping) else {
            return Ok(ExpiredPage { keys: Vec::new(), next: None });
        };
        self.forget_stale_statements().await?;
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(i64::try_from(most).unwrap_or(i64::MAX))
            .bind(after.map_or("-infinity", String::as_str));
        let rows = self.attempt(async |connection| query.fetch_all(connection).await).await?;
        let (mut keys, mut next) = (Vec::with_capacity(rows.len()), None);
        for row in &rows {
            let (values, at): (Option<KeyValues>, Moment) =
                (|| Ok((row.try_get(0)?, row.try_get(1)?)))()
                    .map_err(|error: sqlx::Error| self.failed(&error))?;
            keys.extend(values);
            next = Some(at);
        }
        Ok(ExpiredPage { keys, next: next.filter(|_| rows.len() >= most) })
    }

    /// The same of `respgres.expiry`, for these mappings.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn expired_keys(
        &mut self,
        mappings: &[&str],
        after: Option<&Moment>,
        most: usize,
    ) -> Result<ExpiredPage<ExpiredKey>, StoreError> {
        let query = sqlx::query(
            "select mapping, key, expires_at::text from respgres.expiry \
             where expires_at <= clock_timestamp() and expires_at > $2::text::timestamptz \
               and mapping = any($3::text[]) \
             order by expires_at limit $1",
        )
        .bind(i64::try_from(most).unwrap_or(i64::MAX))
        .bind(after.map_or("-infinity", String::as_str))
        .bind(mappings);
        let rows = self.attempt(async |connection| query.fetch_all(connection).await).await?;
        let (mut keys, mut next) = (Vec::with_capacity(rows.len()), None);
        for row in &rows {
            let (mapping, key, at): (String, Vec<u8>, Moment) =
                (|| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?)))()
                    .map_err(|error: sqlx::Error| self.failed(&error))?;
            keys.push(ExpiredKey { mapping, key });
            next = Some(at);
        }
        Ok(ExpiredPage { keys, next: next.filter(|_| rows.len() >= most) })
    }

    /// Forgets the expiry of keys that have no row, within the transaction begun before.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn forget_expired(
        &mut self,
        mapping: &Mapping,
        keys: &[&[u8]],
    ) -> Result<(), StoreError> {
        let query = sqlx::query(
            "delete from respgres.expiry where mapping = $1 and key = any($2) \
             and expires_at <= clock_timestamp()",
        )
        .bind(mapping.name.as_str())
        .bind(keys);
        self.attempt(async |connection| query.execute(connection).await.map(drop)).await
    }
}

fn rows_statement(mapping: &Mapping) -> Option<String> {
    let layout = &mapping.layout;
    let expires_at = quote(layout.expires_at()?);
    let keys: Vec<String> =
        layout.keys().iter().map(|key| format!("t.{}::text", quote(&key.column))).collect();
    let complete: Vec<String> =
        layout.keys().iter().map(|key| format!("t.{} is not null", quote(&key.column))).collect();
    Some(format!(
        "select array[{}]::text[], t.{expires_at}::text from {} as t \
         where t.{expires_at} <= clock_timestamp() and t.{expires_at} > $2::text::timestamptz and {} \
         order by t.{expires_at} limit $1",
        keys.join(", "),
        layout.table().quoted(),
        complete.join(" and "),
    ))
}
