//! Reading rows: one statement for all keys of a mapping.
//!
//! Invariants
//! - Rows are locked in the order of their keys, the same in every session.
//! - "Now" is the clock of Postgres, read after the row was locked: all proxies agree on what has
//!   expired.

use std::fmt::Write as _;

use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Row};

use super::element_read::{Want, statement as element_statement};
use super::error::StoreError;
use super::session::Session;
use crate::command::Needs;
use crate::mapping::codec::micros_of_text;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};
use crate::value::Record;

/// Whether reading keeps other sessions from changing the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowLock {
    None,
    /// Until the transaction's end, `FOR NO KEY UPDATE`: SQL of others that changes the rows waits,
    /// foreign keys that refer to them do not.
    ForUpdate,
}

/// What was read, and when.
#[derive(Debug)]
pub struct ReadRows {
    /// The clock of Postgres, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// In the order of the keys asked for.
    pub rows: Vec<StoredRow>,
}

/// What the table holds for one key, or what of it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRow {
    /// A row is there, though perhaps expired or without a field.
    pub present: bool,
    /// `None`: the key is absent.
    pub record: Option<Record>,
}

// === impl Session ===

impl Session {
    /// Reads the values of these keys of a mapping as a whole, in or outside of a transaction.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn read(
        &mut self,
        mapping: &Mapping,
        keys: &[&MappedKey],
        lock: RowLock,
    ) -> Result<ReadRows, StoreError> {
        if mapping.layout.element().is_some() {
            let needs = Needs { whole: true, ..Needs::default() };
            let wants: Vec<Want<'_>> =
                keys.iter().map(|&key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
            return Box::pin(self.read_parts(mapping, &wants, lock)).await;
        }
        self.forget_stale_statements().await?;
        let layout = &mapping.layout;
        let mut order: Vec<usize> = (0..keys.len()).collect();
        order.sort_unstable_by(|one, other| keys[*one].key.cmp(&keys[*other].key));
        order.retain(|place| has_row(layout, keys[*place]));

        let sql = AssertSqlSafe(statement(layout, lock));
        let mut query = sqlx::query(sql);
        for column in key_arrays(layout, order.iter().map(|place| keys[*place])) {
            query = query.bind(column);
        }
        if layout.expires_at().is_none() {
            query = query
                .bind(order.iter().map(|place| &keys[*place].key[..]).collect::<Vec<_>>())
                .bind(&mapping.name);
        }
        let found = self.attempt(async |connection| query.fetch_all(connection).await).await?;

        let mut read = ReadRows { now_ms: i64::MIN, rows: vec![StoredRow::default(); keys.len()] };
        for row in &found {
            read.now_ms = read.now_ms.max(self.column(row, 0)?);
        }
        for row in &found {
            let Some(number) = self.column::<Option<i64>>(row, 1)? else { continue };
            let place = usize::try_from(number - 1).ok().and_then(|number| order.get(number));
            let Some(place) = place else { continue };
            read.rows[*place] = self.stored_row(layout, row, read.now_ms)?;
        }
        Ok(read)
    }

    fn stored_row(
        &mut self,
        layout: &Layout,
        row: &PgRow,
        now_ms: i64,
    ) -> Result<StoredRow, StoreError> {
        let absent = StoredRow { present: true, record: None };
        let expires_at = self.column::<Option<&str>>(row, 2)?;
        let expires_at_ms = match expires_at.and_then(micros_of_text) {
            None | Some(i64::MAX) => None,
            Some(micros) => Some(micros.div_euclid(1000)),
        };
        // As Redis: gone when now is later than the expiry.
        if expires_at_ms.is_some_and(|expires_at_ms| now_ms > expires_at_ms) {
            return Ok(absent);
        }
        let extra = match layout.extra() {
            Some(_) => self.column::<Option<&str>>(row, 3)?,
            None => None,
        };
        let first = 3 + usize::from(layout.extra().is_some());
        let mut columns = Vec::with_capacity(layout.fields().len());
        for place in 0..layout.fields().len() {
            columns.push(self.column::<Option<&str>>(row, first + place)?);
        }
        let fields = layout.decode(columns.into_iter(), extra);
        if fields.is_empty() {
            return Ok(absent);
        }
        Ok(StoredRow {
            present: true,
            record: Some(Record { fields, expires_at_ms, ..Record::default() }),
        })
    }

    pub(super) fn column<'r, T>(&mut self, row: &'r PgRow, place: usize) -> Result<T, StoreError>
    where
        T: sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        row.try_get(place).map_err(|error| self.failed(&error))
    }
}

/// Whether the key columns can hold the key: a number may be out of a column's range.
pub(super) fn has_row(layout: &Layout, key: &MappedKey) -> bool {
    let fits = |(column, text): (&crate::mapping::layout::KeyColumn, &str)| {
        column.codec.encode(text.as_bytes()).exact
    };
    layout.keys().iter().zip(key.capture_texts()).all(fits)
}

/// The captures of all keys, an array a key column.
pub(super) fn key_arrays<'k>(
    layout: &Layout,
    keys: impl ExactSizeIterator<Item = &'k MappedKey>,
) -> Vec<Vec<&'k str>> {
    let mut arrays = vec![Vec::with_capacity(keys.len()); layout.keys().len()];
    for key in keys {
        for (array, text) in arrays.iter_mut().zip(key.capture_texts()) {
            array.push(text);
        }
    }
    arrays
}

/// `$1::text[]::uuid[], $2::text[]::date[]`: the key arrays as values of the columns' types.
pub(super) fn key_parameters(layout: &Layout) -> String {
    let mut sql = String::new();
    for (place, key) in layout.keys().iter().enumerate() {
        let comma = if place == 0 { "" } else { ", " };
        write!(sql, "{comma}${}::text[]::{}[]", place + 1, key.type_name)
            .expect("writing to a string cannot fail");
    }
    sql
}

/// `t."id" = u.k0 and …`; `true` for the rows of a key without captures.
pub(super) fn key_condition(layout: &Layout) -> String {
    let equal = |(place, key): (usize, &crate::mapping::layout::KeyColumn)| {
        format!("t.{} = u.k{place}", quote(&key.column))
    };
    let equal: Vec<_> = layout.keys().iter().enumerate().map(equal).collect();
    if equal.is_empty() { "true".to_owned() } else { equal.join(" and ") }
}

/// `k0, k1, …`
pub(super) fn key_aliases(layout: &Layout) -> String {
    (0..layout.keys().len()).map(|place| format!("k{place}")).collect::<Vec<_>>().join(", ")
}

/// The statement that reads rows of a mapping, as people may be shown it.
pub fn select_statement(layout: &Layout) -> String {
    match layout.element() {
        Some(_) => element_statement(layout, RowLock::None),
        None => statement(layout, RowLock::None),
    }
}

/// The expiry of `u.key` in `respgres.expiry`, for the mapping of a parameter. A query of its own for each
/// key, as a join may be planned so that it reads the expiry of all keys.
pub(super) fn kept_expiry(mapping: usize) -> String {
    format!(
        "(select e.expires_at from respgres.expiry as e where e.mapping = ${mapping}::text \
         and e.key = u.key)"
    )
}

/// The clock is read in the outer query, so after the row was locked, and also when no row is found.
fn statement(layout: &Layout, lock: RowLock) -> String {
    let keys = key_parameters(layout);
    let aliases = key_aliases(layout);
    let condition = key_condition(layout);
    let table = layout.table().quoted();
    let mut columns = String::new();
    let (source, expires_at) = match layout.expires_at() {
        Some(column) => (
            format!(
                "unnest({keys}) with ordinality as u({aliases}, n) join {table} as t on {condition}"
            ),
            format!("t.{}", quote(column)),
        ),
        None => {
            let (raw, mapping) = (layout.keys().len() + 1, layout.keys().len() + 2);
            (
                format!(
                    "unnest({keys}, ${raw}::bytea[]) with ordinality as u({aliases}, key, n) \
                     join {table} as t on {condition}"
                ),
                kept_expiry(mapping),
            )
        }
    };
    write!(columns, "u.n, {expires_at}::text as expires_at")
        .expect("writing to a string cannot fail");
    if let Some(extra) = layout.extra() {
        write!(columns, ", t.{}::text as extra", quote(&extra.column))
            .expect("writing to a string cannot fail");
    }
    for (place, field) in layout.fields().iter().enumerate() {
        write!(columns, ", t.{}::text as c{place}", quote(&field.column))
            .expect("writing to a string cannot fail");
    }
    let lock = match lock {
        RowLock::None => "",
        RowLock::ForUpdate => " for no key update of t",
    };
    format!(
        "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint, r.* \
         from (values (1)) as clock left join (select {columns} from {source}{lock}) as r on true"
    )
}
