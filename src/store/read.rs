//! Reading rows: one statement for all keys of a mapping.
//!
//! Invariants
//! - Rows are locked in the order of their keys, the same in every session.
//! - "Now" is the clock of Postgres, read after the row was locked: all proxies agree on what has
//!   expired.

use std::fmt::Write as _;

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::element_read::{ElementIntake, Want, element_reading, statement as element_statement};
use super::error::StoreError;
use super::exchange::{COMMIT, Exchange};
use super::session::Session;
use super::statement::Statement;
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

/// Keys of one mapping, and what is wanted of each.
#[derive(Clone, Debug)]
pub struct Reading<'a> {
    pub mapping: &'a Mapping,
    pub wants: Vec<Want<'a>>,
}

/// What the rows of one reading become.
enum Intake<'a> {
    Rows(RowIntake<'a>),
    Elements(ElementIntake<'a>),
}

/// Rows that hold a whole value.
struct RowIntake<'a> {
    layout: &'a Layout,
    /// The keys' places in the order in which their rows are read.
    order: Vec<usize>,
    now_ms: i64,
    found: Vec<PgRow>,
    rows: Vec<StoredRow>,
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
        let needs = Needs { whole: true, ..Needs::default() };
        let wants: Vec<Want<'_>> =
            keys.iter().map(|&key| Want { key, needs: &needs, whole_up_to: 0 }).collect();
        self.read_parts(mapping, &wants, lock).await
    }

    /// Reads what is wanted of these keys of a mapping, in or outside of a transaction; rows that hold a
    /// whole value are read whole.
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn read_parts(
        &mut self,
        mapping: &Mapping,
        wants: &[Want<'_>],
        lock: RowLock,
    ) -> Result<ReadRows, StoreError> {
        let readings = [Reading { mapping, wants: wants.to_vec() }];
        let (_, mut read) = self.read_within(Exchange::default(), None, &readings, lock).await?;
        Ok(read.remove(0))
    }

    /// Begins a transaction that holds these keys' locks (see `MappedKey::lock`) until its end, and
    /// reads and locks rows once they are granted; small readings in one round trip.
    ///
    /// `locks`: ascending, without duplicates; so two batches never wait for each other.
    ///
    /// # Errors
    /// `Timeout` when a lock was not granted in time, or those of the statements; no transaction is
    /// open then.
    pub async fn begin_reading(
        &mut self,
        locks: &[i64],
        readings: &[Reading<'_>],
    ) -> Result<Vec<ReadRows>, StoreError> {
        debug_assert!(locks.is_sorted_by(|one, next| one < next));
        let exchange = Exchange { opening: self.opening(), ..Exchange::default() };
        let locking =
            "select count(pg_advisory_xact_lock(key)) > 0 from unnest($1::bigint[]) as k(key)";
        let locking = (!locks.is_empty()).then(|| Statement::new(locking).bind(locks.to_vec()));
        let (_, read) = self.read_within(exchange, locking, readings, RowLock::ForUpdate).await?;
        Ok(read)
    }

    /// Probes these keys' locks, and reads rows after that in the same transaction, which has then
    /// ended; small readings in one round trip. True where no writer held the key.
    ///
    /// # Errors
    /// Those of the statements, see [`StoreError`].
    pub async fn read_probed(
        &mut self,
        locks: &[i64],
        readings: &[Reading<'_>],
    ) -> Result<(Vec<bool>, Vec<ReadRows>), StoreError> {
        let opening = self.opening();
        // A statement alone needs no transaction, but for its time limit.
        let exchange = if locks.is_empty() && !self.is_hurried() {
            Exchange::default()
        } else {
            Exchange { opening, closing: Some(COMMIT), ..Exchange::default() }
        };
        let probe = "select pg_try_advisory_xact_lock_shared(key) \
             from unnest($1::bigint[]) with ordinality as k(key, n) order by n";
        let probe = (!locks.is_empty()).then(|| Statement::new(probe).bind(locks.to_vec()));
        self.read_within(exchange, probe, readings, RowLock::None).await
    }

    /// The flags that the first statement gives, and what the readings after it do.
    async fn read_within<'a>(
        &mut self,
        mut exchange: Exchange<'a>,
        first: Option<Statement<'a>>,
        readings: &'a [Reading<'a>],
        lock: RowLock,
    ) -> Result<(Vec<bool>, Vec<ReadRows>), StoreError> {
        let mut flags = Vec::new();
        let mut intakes = Vec::with_capacity(readings.len());
        let before = usize::from(first.is_some());
        exchange.statements.extend(first);
        for reading in readings {
            let (statement, intake) = if reading.mapping.layout.element().is_none() {
                let (statement, intake) = row_reading(reading, lock);
                (statement, Intake::Rows(intake))
            } else {
                let (statement, intake) = element_reading(reading, lock);
                (statement, Intake::Elements(intake))
            };
            exchange.statements.push(statement);
            intakes.push(intake);
        }
        self.exchange(&exchange, |number, row| match number.checked_sub(before) {
            None => {
                flags.push(row.try_get(0)?);
                Ok(())
            }
            Some(number) => intakes[number].take_in(row),
        })
        .await?;
        let read = intakes.into_iter().map(Intake::finish).collect::<Result<_, _>>();
        Ok((flags, read.map_err(|error| self.failed(&error))?))
    }
}

// === impl Intake ===

impl Intake<'_> {
    fn take_in(&mut self, row: PgRow) -> Result<(), sqlx::Error> {
        match self {
            Self::Rows(intake) => intake.take_in(row),
            Self::Elements(intake) => intake.take_in(&row),
        }
    }

    fn finish(self) -> Result<ReadRows, sqlx::Error> {
        match self {
            Self::Rows(intake) => intake.finish(),
            Self::Elements(intake) => Ok(intake.finish()),
        }
    }
}

// === impl RowIntake ===

impl RowIntake<'_> {
    fn take_in(&mut self, row: PgRow) -> Result<(), sqlx::Error> {
        self.now_ms = self.now_ms.max(row.try_get(0)?);
        self.found.push(row);
        Ok(())
    }

    fn finish(mut self) -> Result<ReadRows, sqlx::Error> {
        for row in &self.found {
            let Some(number) = row.try_get::<Option<i64>, _>(1)? else { continue };
            let place = usize::try_from(number - 1).ok().and_then(|number| self.order.get(number));
            let Some(place) = place else { continue };
            self.rows[*place] = stored_row(self.layout, row, self.now_ms)?;
        }
        Ok(ReadRows { now_ms: self.now_ms, rows: self.rows })
    }
}

fn stored_row(layout: &Layout, row: &PgRow, now_ms: i64) -> Result<StoredRow, sqlx::Error> {
    let absent = StoredRow { present: true, record: None };
    let expires_at = row.try_get::<Option<&str>, _>(2)?;
    let expires_at_ms = match expires_at.and_then(micros_of_text) {
        None | Some(i64::MAX) => None,
        Some(micros) => Some(micros.div_euclid(1000)),
    };
    // As Redis: gone when now is later than the expiry.
    if expires_at_ms.is_some_and(|expires_at_ms| now_ms > expires_at_ms) {
        return Ok(absent);
    }
    let extra = match layout.extra() {
        Some(_) => row.try_get::<Option<&str>, _>(3)?,
        None => None,
    };
    let first = 3 + usize::from(layout.extra().is_some());
    let mut columns = Vec::with_capacity(layout.fields().len());
    for place in 0..layout.fields().len() {
        columns.push(row.try_get::<Option<&str>, _>(first + place)?);
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

/// What reads rows that hold a whole value, and takes them in.
fn row_reading<'a>(reading: &'a Reading<'a>, lock: RowLock) -> (Statement<'a>, RowIntake<'a>) {
    let Reading { mapping, wants } = reading;
    let layout = &mapping.layout;
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_unstable_by(|one, other| wants[*one].key.key.cmp(&wants[*other].key.key));
    order.retain(|place| has_row(layout, wants[*place].key));

    let mut statement = Statement::new(statement(layout, lock));
    for column in key_arrays(layout, order.iter().map(|place| wants[*place].key)) {
        statement = statement.bind(column);
    }
    if layout.expires_at().is_none() {
        statement = statement
            .bind(order.iter().map(|place| &wants[*place].key.key[..]).collect::<Vec<_>>())
            .bind(mapping.name.as_str());
    }
    let rows = vec![StoredRow::default(); wants.len()];
    (statement, RowIntake { layout, order, now_ms: i64::MIN, found: Vec::new(), rows })
}

/// Whether the key columns can hold the key: a number may be out of a column's range.
pub fn has_row(layout: &Layout, key: &MappedKey) -> bool {
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

/// `t."id" = any(array[u.k0]) and t."day" = u.k1 and …`; `true` for the rows of a key without captures.
pub(super) fn key_condition(layout: &Layout) -> String {
    let equal = |(place, key): (usize, &crate::mapping::layout::KeyColumn)| {
        equals(place, &key.column, &format!("u.k{place}"))
    };
    let equal: Vec<_> = layout.keys().iter().enumerate().map(equal).collect();
    if equal.is_empty() { "true".to_owned() } else { equal.join(" and ") }
}

/// The value of a column, by its place in the unique index, is another's; in a form that looks rows up by
/// that index and does nothing else. Were the first one a plain `=`, the planner might turn the join
/// round and walk through the whole index in its order, which costs nothing while the table is small; and
/// the plan stays when it has grown. (Were the others not, it might read all rows with the first value.)
pub(super) fn equals(place: usize, column: &str, other: &str) -> String {
    let column = quote(column);
    if place == 0 {
        format!("t.{column} = any(array[{other}])")
    } else {
        format!("t.{column} = {other}")
    }
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
