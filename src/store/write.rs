//! Writing: what has become of keys, as statements, and those brought to Postgres.
//!
//! Invariants
//! - Rows are changed in the order of their keys, the same in every session.
//! - What Postgres says has changed is what was to change, or the transaction fails: statements that
//!   must find all of their rows check that themselves, so that a COMMIT can be sent behind them.
//! - No plan reads a whole table, not even one that was made while the table was small; see
//!   `read::key_condition`.
//!
//! A change that follows from a row's old values needs the key's lock: see `Session::begin_reading`.

use super::element_write::ElementRows;
use super::error::{RACED, StoreError};
use super::exchange::{COMMIT, Exchange};
use super::moved::write_down;
use super::row_write::WholeRows;
use super::session::Session;
use super::statement::Statement;
use crate::mapping::codec::text_of_epoch_ms;
use crate::mapping::{MappedKey, Mapping};
use crate::value::Draft;

/// What has become of one key.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub key: &'a MappedKey,
    /// As `StoredRow::present` said.
    pub present: bool,
    pub draft: &'a Draft,
}

/// The rows of one mapping that are going to be written.
enum Rows<'a> {
    Whole(WholeRows<'a>),
    Elements(ElementRows<'a>),
}

/// What becomes of keys' own expiry in `respgres.expiry`.
#[derive(Default)]
pub(super) struct Expiries<'a> {
    pub(super) staying: Vec<&'a [u8]>,
    /// At so many milliseconds since the Unix epoch.
    pub(super) expiring: Vec<(&'a [u8], i64)>,
}

// === impl Session ===

impl Session {
    /// Brings changes of a mapping's keys into its table, within the transaction begun before. Each
    /// key comes once.
    ///
    /// # Errors
    /// `Raced` when a row that was absent has appeared, or one that was there has gone;
    /// `Unencodable` when a field has no place; else those of the statements. After any of them the
    /// transaction has to be rolled back.
    pub async fn write(
        &mut self,
        mapping: &Mapping,
        changes: &[Change<'_>],
    ) -> Result<(), StoreError> {
        self.write_within(&[(mapping, changes)], None).await
    }

    /// As [`Session::write`] for keys of several mappings, and COMMIT; small changes in one round
    /// trip.
    ///
    /// # Errors
    /// `InDoubt` when the connection was lost after COMMIT had been sent; with any other error nothing
    /// was written, and the transaction has ended.
    pub async fn write_and_commit(
        &mut self,
        changes: &[(&Mapping, &[Change<'_>])],
    ) -> Result<(), StoreError> {
        let written = self.write_within(changes, Some(COMMIT)).await;
        if matches!(written, Err(StoreError::Unencodable(_))) {
            self.rollback().await?;
        }
        written
    }

    async fn write_within(
        &mut self,
        changes: &[(&Mapping, &[Change<'_>])],
        closing: Option<&'static str>,
    ) -> Result<(), StoreError> {
        let rows = changes.iter().map(|(mapping, changes)| Rows::of(mapping, changes));
        let rows: Vec<(&Mapping, Rows<'_>)> = changes
            .iter()
            .map(|(mapping, _)| *mapping)
            .zip(rows)
            .map(|(mapping, rows)| Ok((mapping, rows?)))
            .collect::<Result<_, StoreError>>()?;
        let mut exchange = Exchange { closing, ..Exchange::default() };
        for (mapping, rows) in &rows {
            let statements = &mut exchange.statements;
            match rows {
                Rows::Whole(rows) => rows.write(mapping, &mut self.written_columns, statements),
                Rows::Elements(rows) => rows.write(mapping, statements),
            }
        }
        let of_mapping =
            changes.iter().filter_map(|(mapping, changes)| write_down(mapping, changes));
        exchange.statements.extend(of_mapping);
        if exchange.statements.is_empty() && closing.is_none() {
            return Ok(());
        }
        self.exchange(&exchange, |_, _| Ok(())).await
    }
}

// === impl Rows ===

impl<'a> Rows<'a> {
    fn of(mapping: &'a Mapping, changes: &[Change<'a>]) -> Result<Self, StoreError> {
        let mut order: Vec<Change<'a>> = changes.to_vec();
        order.sort_unstable_by(|one, other| one.key.key.cmp(&other.key.key));
        debug_assert!(order.is_sorted_by(|one, next| one.key.key < next.key.key));
        Ok(match mapping.layout.element() {
            None => Self::Whole(WholeRows::of(&mapping.layout, &order)?),
            Some(_) => Self::Elements(ElementRows::of(&mapping.layout, &order)?),
        })
    }
}

// === impl Expiries ===

impl<'a> Expiries<'a> {
    pub(super) fn push(&mut self, key: &'a MappedKey, expires_at_ms: Option<i64>) {
        match expires_at_ms {
            None => self.staying.push(&key.key),
            Some(expires_at_ms) => self.expiring.push((&key.key, expires_at_ms)),
        }
    }

    pub(super) fn write<'s>(&'s self, mapping: &'s Mapping, statements: &mut Vec<Statement<'s>>) {
        if !self.staying.is_empty() {
            // Each key is looked up alone, as in `read`.
            let statement = Statement::new(
                "delete from respgres.expiry where ctid = any(array(select (select e.ctid \
                 from respgres.expiry as e where e.mapping = $1::text and e.key = u.key) \
                 from unnest($2::bytea[]) as u(key)))",
            );
            statements.push(statement.bind(mapping.name.as_str()).bind(self.staying.clone()));
        }
        if !self.expiring.is_empty() {
            let statement = Statement::new(
                "insert into respgres.expiry (mapping, key, expires_at) \
                 select $1::text, u.key, u.expires_at \
                 from unnest($2::bytea[], $3::text[]::timestamptz[]) as u(key, expires_at) \
                 on conflict (mapping, key) do update set expires_at = excluded.expires_at",
            );
            let keys: Vec<&[u8]> = self.expiring.iter().map(|(key, _)| *key).collect();
            let time = |(_, ms): &(&[u8], i64)| Some(text_of_epoch_ms(*ms));
            let times: Vec<Option<String>> = self.expiring.iter().map(time).collect();
            statements.push(statement.bind(mapping.name.as_str()).bind(keys).bind(times));
        }
    }
}

/// The statement, which fails with `Raced` unless it changes as many rows as parameter `wanted` says.
pub(super) fn checked(statement: &str, wanted: usize) -> String {
    // A cast that fails says so itself; there is no function to be made in the database for it.
    format!(
        "with changed as ({statement} returning 1) select ('{RACED}: ' || count(*))::int \
         from changed having count(*) <> ${wanted}::bigint"
    )
}
