//! Reading: locks, and then the values of keys, one statement for all keys of a mapping.
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
use super::named_read::{NamedIntake, named_reading};
use super::row_read::{Parts, RowIntake, row_reading, row_statement};
use super::session::Session;
use super::statement::Statement;
use crate::command::Needs;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};
use crate::value::Record;

/// The clock of Postgres, milliseconds since the Unix epoch.
pub(super) const NOW_MS: &str = "floor(extract(epoch from clock_timestamp()) * 1000)::bigint";

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

/// How rows are read.
#[derive(Clone, Copy)]
struct Way {
    lock: RowLock,
    parts: Parts,
}

/// What the rows of one reading become.
enum Intake<'a> {
    Rows(RowIntake<'a>),
    Elements(ElementIntake<'a>),
    Named(NamedIntake<'a>),
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

    /// Reads the values of these keys of a mapping as `read` does, as far as there is room for them: of one that has
    /// more than `most_elements` rows, or that comes after too many bytes of others, it says only that it is
    /// there (`Record::others`).
    ///
    /// # Errors
    /// Those of the statement, see [`StoreError`].
    pub async fn read_what_fits(
        &mut self,
        mapping: &Mapping,
        keys: &[&MappedKey],
        most_elements: usize,
    ) -> Result<ReadRows, StoreError> {
        let needs = Needs::default();
        let want = |&key| Want { key, needs: &needs, whole_up_to: most_elements };
        let readings = [Reading { mapping, wants: keys.iter().map(want).collect() }];
        let way = Way { lock: RowLock::None, parts: Parts::Fitting };
        let (_, mut read) = self.read_within(Exchange::default(), None, &readings, way).await?;
        Ok(read.remove(0))
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
        let way = Way { lock, parts: Parts::Whole };
        let (_, mut read) = self.read_within(Exchange::default(), None, &readings, way).await?;
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
        // Postgres aggregates first, so the clock is read when all of them are granted.
        let locking = format!(
            "select count(pg_advisory_xact_lock(key)), {NOW_MS} from unnest($1::bigint[]) as k(key)"
        );
        if locks.is_empty() {
            let way = Way { lock: RowLock::ForUpdate, parts: Parts::Whole };
            return Ok(self.read_within(exchange, None, readings, way).await?.1);
        }
        let locking = Statement::new(locking).bind(locks.to_vec());
        let way = Way { lock: RowLock::ForUpdate, parts: Parts::Needed };
        let (locked, mut read) = self.read_within(exchange, Some(locking), readings, way).await?;
        let now_ms: i64 = match locked.first() {
            Some(row) => row.try_get(1).map_err(|error| self.failed(&error))?,
            None => i64::MIN,
        };
        for read in &mut read {
            read.now_ms = read.now_ms.max(now_ms);
        }
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
        let way = Way { lock: RowLock::None, parts: Parts::Whole };
        let (probed, read) = self.read_within(exchange, probe, readings, way).await?;
        let free = probed.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>();
        Ok((free.map_err(|error| self.failed(&error))?, read))
    }

    /// The rows that the first statement gives, and what the readings after it do.
    async fn read_within<'a>(
        &mut self,
        mut exchange: Exchange<'a>,
        first: Option<Statement<'a>>,
        readings: &'a [Reading<'a>],
        way: Way,
    ) -> Result<(Vec<PgRow>, Vec<ReadRows>), StoreError> {
        let mut rows = Vec::new();
        let mut intakes = Vec::with_capacity(readings.len());
        let before = usize::from(first.is_some());
        exchange.statements.extend(first);
        for reading in readings {
            let (statement, intake) = if reading.mapping.layout.element().is_none() {
                let sets = &mut self.read_columns;
                let (statement, intake) = row_reading(reading, way.lock, way.parts, sets);
                (statement, Intake::Rows(intake))
            } else if let (Parts::Needed, Some((statement, intake))) =
                (way.parts, named_reading(reading))
            {
                (statement, Intake::Named(intake))
            } else {
                let (statement, intake) = element_reading(reading, way.lock);
                (statement, Intake::Elements(intake))
            };
            exchange.statements.push(statement);
            intakes.push(intake);
        }
        self.exchange(&exchange, |number, row| match number.checked_sub(before) {
            None => {
                rows.push(row);
                Ok(())
            }
            Some(number) => intakes[number].take_in(row),
        })
        .await?;
        let read = intakes.into_iter().map(Intake::finish).collect::<Result<_, _>>();
        Ok((rows, read.map_err(|error| self.failed(&error))?))
    }
}

// === impl Intake ===

impl Intake<'_> {
    fn take_in(&mut self, row: PgRow) -> Result<(), sqlx::Error> {
        match self {
            Self::Rows(intake) => intake.take_in(row),
            Self::Elements(intake) => intake.take_in(&row),
            Self::Named(intake) => intake.take_in(&row),
        }
    }

    fn finish(self) -> Result<ReadRows, sqlx::Error> {
        match self {
            Self::Rows(intake) => intake.finish(),
            Self::Elements(intake) => Ok(intake.finish()),
            Self::Named(intake) => Ok(intake.finish()),
        }
    }
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
        None => row_statement(layout),
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
