//! Which run of Redis has been looked through for old copies: told in `respgres.control`, the same for
//! all proxies.

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;

/// The row in `respgres.control`.
const NAME: &str = "redis";

/// What is recorded of Redis. Data that a sweep has gone through has an epoch, a key of its own in Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// The run that was gone through; empty: a sweep has begun, and none has ended yet.
    pub run: String,
    /// The epoch that its data got.
    pub epoch: u64,
    /// The first epoch of which that data is a continuation: changes in data of an older one were given up
    /// when other data took its place.
    pub first_epoch: u64,
    /// The last epoch that a sweep was begun for.
    pub last_epoch: u64,
}

// === impl Session ===

impl Session {
    /// What was found out of Redis last; `None`: nothing ever was.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn swept(&mut self) -> Result<Option<Swept>, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query(
                    "select value ->> 'run', (value -> 'epoch')::bigint,
                        (value -> 'first_epoch')::bigint, (value -> 'last_epoch')::bigint
                     from respgres.control where name = $1",
                )
                .bind(NAME)
                .fetch_optional(connection)
                .await
            })
            .await?;
        let Some(row) = row else { return Ok(None) };
        let epoch = |at: usize| {
            let number: Result<Option<i64>, sqlx::Error> = row.try_get(at);
            number.map(|number| number.map_or(0, i64::unsigned_abs))
        };
        let swept = (|| {
            let run = row.try_get(0)?;
            Ok(Swept { run, epoch: epoch(1)?, first_epoch: epoch(2)?, last_epoch: epoch(3)? })
        })();
        swept.map(Some).map_err(|error| self.failed(&error))
    }

    /// Records what has been found out.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn record_swept(&mut self, swept: &Swept) -> Result<(), StoreError> {
        let epochs = [swept.epoch, swept.first_epoch, swept.last_epoch].map(u64::cast_signed);
        self.attempt(async |connection| {
            sqlx::query(
                "insert into respgres.control (name, value) values ($1, jsonb_build_object(
                     'run', $2::text, 'epoch', $3::bigint, 'first_epoch', $4::bigint,
                     'last_epoch', $5::bigint))
                 on conflict (name) do update set value = excluded.value, changed_at = now()",
            )
            .bind(NAME)
            .bind(&swept.run)
            .bind(epochs[0])
            .bind(epochs[1])
            .bind(epochs[2])
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }
}
