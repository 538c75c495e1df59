//! Journaled changes that Postgres refused: kept until somebody has seen to them.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::applied::Applied;
use super::error::StoreError;
use super::session::Session;

const COLUMNS: &str = "id, mapping, key, change, epoch, number, reason, \
     to_char(created_at at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')";

/// A change that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// Of the mapping; empty when the key belongs to none any more.
    pub mapping: String,
    pub key: Vec<u8>,
    /// What had become of the key, as in the journal.
    pub change: Vec<u8>,
    /// The newest entry that it comes from.
    pub entry: Applied,
    pub reason: String,
}

/// One that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    pub id: i64,
    pub letter: Letter,
    /// ISO 8601.
    pub created_at: String,
}

// === impl Session ===

impl Session {
    /// Keeps changes that were refused, within the transaction that brings the others to the tables.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn add_dead_letters(&mut self, letters: &[Letter]) -> Result<(), StoreError> {
        let texts = |text: fn(&Letter) -> &str| letters.iter().map(text).collect::<Vec<_>>();
        let bytes = |bytes: fn(&Letter) -> &[u8]| letters.iter().map(bytes).collect::<Vec<_>>();
        let numbers = |of: fn(&Letter) -> u64| {
            letters.iter().map(|l| of(l).cast_signed()).collect::<Vec<_>>()
        };
        self.attempt(async |connection| {
            sqlx::query(
                "insert into respgres.dead_letters (mapping, key, change, epoch, number, reason)
                 select * from unnest($1::text[], $2::bytea[], $3::bytea[], $4::bigint[],
                     $5::bigint[], $6::text[])",
            )
            .bind(texts(|letter| &letter.mapping))
            .bind(bytes(|letter| &letter.key))
            .bind(bytes(|letter| &letter.change))
            .bind(numbers(|letter| letter.entry.epoch))
            .bind(numbers(|letter| letter.entry.number))
            .bind(texts(|letter| &letter.reason))
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }

    /// Those that are kept, oldest first.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn dead_letters(
        &mut self,
        after: i64,
        most: i64,
    ) -> Result<Vec<DeadLetter>, StoreError> {
        let rows = self
            .attempt(async |connection| {
                let select = format!(
                    "select {COLUMNS} from respgres.dead_letters where id > $1 order by id limit $2"
                );
                sqlx::query(sqlx::AssertSqlSafe(select))
                    .bind(after)
                    .bind(most)
                    .fetch_all(connection)
                    .await
            })
            .await?;
        let read = rows.iter().map(dead_letter).collect::<Result<_, _>>();
        read.map_err(|error| self.failed(&error))
    }

    /// One of them.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn dead_letter(&mut self, id: i64) -> Result<Option<DeadLetter>, StoreError> {
        let row = self
            .attempt(async |connection| {
                let select = format!("select {COLUMNS} from respgres.dead_letters where id = $1");
                sqlx::query(sqlx::AssertSqlSafe(select)).bind(id).fetch_optional(connection).await
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        dead_letter(&row).map(Some).map_err(|error| self.failed(&error))
    }

    /// How many are kept.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn count_dead_letters(&mut self) -> Result<u64, StoreError> {
        let count: i64 = self
            .attempt(async |connection| {
                sqlx::query_scalar("select count(*) from respgres.dead_letters")
                    .fetch_one(connection)
                    .await
            })
            .await?;
        Ok(count.unsigned_abs())
    }

    /// Drops one; false when it is not there.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn drop_dead_letter(&mut self, id: i64) -> Result<bool, StoreError> {
        self.attempt(async |connection| {
            let done = sqlx::query("delete from respgres.dead_letters where id = $1")
                .bind(id)
                .execute(connection)
                .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }
}

fn dead_letter(row: &PgRow) -> Result<DeadLetter, sqlx::Error> {
    let number = |at: usize| row.try_get::<i64, _>(at).map(i64::unsigned_abs);
    Ok(DeadLetter {
        id: row.try_get(0)?,
        letter: Letter {
            mapping: row.try_get(1)?,
            key: row.try_get(2)?,
            change: row.try_get(3)?,
            entry: Applied { epoch: number(4)?, number: number(5)? },
            reason: row.try_get(6)?,
        },
        created_at: row.try_get(7)?,
    })
}
