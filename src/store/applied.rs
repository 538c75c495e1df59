//! How far the journal has been brought to the tables, and who may bring it.

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;

/// The one journal that there is; a cluster of Redis would have several.
const JOURNAL: &str = "journal";

/// Epoch and number of an entry of the journal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Applied {
    pub epoch: u64,
    pub number: u64,
}

// === impl Session ===

impl Session {
    /// The last entry that is in the tables; of epoch 0 when none is.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn applied(&mut self) -> Result<Applied, StoreError> {
        let row = self
            .attempt(async |connection| {
                sqlx::query("select epoch, number from respgres.applied where journal = $1")
                    .bind(JOURNAL)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        let Some(row) = row else { return Ok(Applied::default()) };
        let number = |at: usize| row.try_get::<i64, _>(at).map(i64::unsigned_abs);
        let applied = (|| Ok(Applied { epoch: number(0)?, number: number(1)? }))();
        applied.map_err(|error| self.failed(&error))
    }

    /// Records the last entry that is in the tables, within the transaction that brings it there.
    ///
    /// # Errors
    /// `Raced` when a later one is there already; else those of the statement, see [`StoreError`].
    pub async fn record_applied(&mut self, applied: Applied) -> Result<(), StoreError> {
        let (epoch, number) = (applied.epoch.cast_signed(), applied.number.cast_signed());
        let changed = self
            .attempt(async |connection| {
                let done = sqlx::query(
                    "insert into respgres.applied as a (journal, epoch, number) values ($1, $2, $3)
                     on conflict (journal) do update
                     set epoch = excluded.epoch, number = excluded.number
                     where (a.epoch, a.number) < (excluded.epoch, excluded.number)",
                )
                .bind(JOURNAL)
                .bind(epoch)
                .bind(number)
                .execute(connection)
                .await?;
                Ok(done.rows_affected())
            })
            .await?;
        if changed == 1 { Ok(()) } else { Err(StoreError::Raced) }
    }

    /// Has what would be checked at COMMIT checked now, within a transaction.
    ///
    /// # Errors
    /// What COMMIT would say.
    pub async fn check_constraints(&mut self) -> Result<(), StoreError> {
        self.command("set constraints all immediate".to_owned()).await
    }
}
