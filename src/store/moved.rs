//! Keys that Postgres has had, while their mapping imports: what Redis has of such a key without a row is
//! an old copy, and no original that was never brought over.
//!
//! A key is written down in the transaction that deletes its row. What others delete by SQL stands in the
//! outbox first, and is written down when it is taken out of that. So a key that is in neither, and has no
//! row, has never had one.

use sqlx::Row;

use super::error::StoreError;
use super::session::Session;
use super::statement::Statement;
use super::write::Change;
use crate::mapping::Mapping;

/// Writes down which keys have lost their row.
const WRITE_DOWN: &str = "insert into respgres.moved (mapping, key) \
     select $1::text, u.key from unnest($2::bytea[]) as u(key) on conflict do nothing";

// === impl Session ===

impl Session {
    /// For each key, whether Postgres has had it, or others have changed it by SQL just now.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn has_had(
        &mut self,
        mapping: &Mapping,
        keys: &[&[u8]],
    ) -> Result<Vec<bool>, StoreError> {
        let rows = self
            .attempt(async |connection| {
                sqlx::query(
                    "select exists (select from respgres.moved as m
                             where m.mapping = $1 and m.key = u.key)
                         or exists (select from respgres.outbox as o where o.key = u.key)
                     from unnest($2::bytea[]) with ordinality as u(key, n) order by n",
                )
                .bind(&mapping.name)
                .bind(keys)
                .fetch_all(connection)
                .await
            })
            .await?;
        let known = rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
        known.map_err(|error| self.failed(&error))
    }

    /// Forgets the keys of mappings that have migrated; not while a proxy is alive, which may go by the phase of
    /// before.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn forget_moved(&mut self, mappings: &[&str]) -> Result<(), StoreError> {
        self.attempt(async |connection| {
            sqlx::query(
                "delete from respgres.moved where mapping = any($1) and not exists (
                     select from respgres.proxies where lease_until > clock_timestamp())",
            )
            .bind(mappings)
            .execute(connection)
            .await
            .map(drop)
        })
        .await
    }
}

/// The statement that writes down which of these keys have lost their row; none where none has, or Redis has
/// nothing but copies.
pub(super) fn write_down<'a>(
    mapping: &'a Mapping,
    changes: &[Change<'a>],
) -> Option<Statement<'a>> {
    if !mapping.imports() {
        return None;
    }
    let gone = changes.iter().filter(|change| !change.draft.exists());
    let gone: Vec<&[u8]> = gone.map(|change| &change.key.key[..]).collect();
    (!gone.is_empty()).then(|| Statement::new(WRITE_DOWN).bind(mapping.name.as_str()).bind(gone))
}
