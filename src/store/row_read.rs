//! Reading values that have one row each: all of the row, or what is needed of it.
//!
//! Who is about to write needs the fields that it names, and whether there are others. So the columns that
//! no key of the reading needs are not brought; `column_sets` keeps the number of statements small. One
//! key alone is looked up with single values instead of arrays, which costs Postgres less.
//!
//! Invariants
//! - The clock is read in the outer query, so after the row was locked.
//! - What `extra` has of a field with a column counts only where the column is known: a field that is
//!   not needed is there if its column is not null, or if it stands in `extra` and all columns that were
//!   not brought are null.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::Row;
use sqlx::ValueRef;
use sqlx::postgres::PgRow;

use super::column_sets::SetsByNumber;
use super::element_read::{BYTES_BEYOND, Want};
use super::parameters::{Asked, condition, parameters};
use super::read::{
    NOW_MS, ReadRows, Reading, RowLock, StoredRow, has_row, kept_expiry, key_aliases, key_arrays,
};
use super::statement::Statement;
use crate::mapping::codec::micros_of_text;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, Mapping};
use crate::value::{Fields, Record};

/// Arguments of one call that `num_nonnulls` takes.
const NONNULLS: usize = 50;

/// What is read of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parts {
    /// All of it; also of keys without a row, for the clock.
    Whole,
    /// The same, until that is too much: of the rows after that nothing but that they are there.
    Fitting,
    /// What is needed. There may be no rows at all: the clock is known otherwise.
    Needed,
}

/// What a statement reads.
struct ReadShape {
    asked: Asked,
    /// Also when there is no row.
    clock: bool,
    /// Places in the layout's fields, ascending.
    columns: Vec<usize>,
}

/// What becomes of the rows of a reading.
pub(super) struct RowIntake<'a> {
    wants: &'a [Want<'a>],
    layout: &'a Layout,
    shape: ReadShape,
    /// The keys' places in the order in which their rows are read.
    order: Vec<usize>,
    now_ms: i64,
    found: Vec<PgRow>,
    /// Bytes that may still come.
    room: usize,
    /// Rows for which there was none, by their numbers.
    left: Vec<i64>,
    rows: Vec<StoredRow>,
}

/// The columns of the statement's rows; after these come `extra`, whether a column that is not read holds
/// something, and the columns that are read: the first two where there are such.
const NOW: usize = 0;
const NUMBER: usize = 1;
const EXPIRES_AT: usize = 2;
const EXTRA: usize = 3;

// === impl ReadShape ===

impl ReadShape {
    fn of(
        mapping: &Mapping,
        wants: &[Want<'_>],
        order: &[usize],
        parts: Parts,
        sets: &mut SetsByNumber,
    ) -> Self {
        let layout = &mapping.layout;
        let all = 0..layout.fields().len();
        if parts != Parts::Needed {
            return Self { asked: Asked::Several, clock: true, columns: all.collect() };
        }
        let mut is_read = vec![false; layout.fields().len()];
        for want in order.iter().map(|place| &wants[*place]) {
            if !is_part(want) {
                is_read.fill(true);
            }
            for place in want.needs.fields.iter().filter_map(|field| layout.column_of(field)) {
                is_read[place] = true;
            }
        }
        let mut columns: Vec<usize> = all.clone().filter(|place| is_read[*place]).collect();
        if columns.len() < all.len() && !sets.of(order.len()).admit(&mapping.name, &columns) {
            columns = all.collect();
        }
        Self { asked: Asked::of(order.len()), clock: false, columns }
    }

    fn leaves_columns(&self, layout: &Layout) -> bool {
        self.columns.len() < layout.fields().len()
    }

    /// Where the columns that are read begin.
    fn first_column(&self, layout: &Layout) -> usize {
        EXTRA + usize::from(layout.extra().is_some()) + usize::from(self.leaves_columns(layout))
    }
}

/// Whether some fields, and whether there are others, is all that is wanted.
fn is_part(want: &Want<'_>) -> bool {
    !want.needs.whole && !want.needs.count && want.needs.sample == 0 && want.whole_up_to == 0
}

// === impl RowIntake ===

impl RowIntake<'_> {
    pub(super) fn take_in(&mut self, row: PgRow) -> Result<(), sqlx::Error> {
        self.now_ms = self.now_ms.max(row.try_get(NOW)?);
        if self.room < usize::MAX {
            let bytes = bytes_of(&row)?;
            if bytes > self.room && !self.found.is_empty() {
                self.room = 0;
                self.left.extend(row.try_get::<Option<i64>, _>(NUMBER)?);
                return Ok(());
            }
            self.room = self.room.saturating_sub(bytes);
        }
        self.found.push(row);
        Ok(())
    }

    pub(super) fn finish(mut self) -> Result<ReadRows, sqlx::Error> {
        for row in &self.found {
            let Some(number) = row.try_get::<Option<i64>, _>(NUMBER)? else { continue };
            let Some(place) = self.place(number) else { continue };
            self.rows[place] = self.stored_row(&self.wants[place], row)?;
        }
        for &number in &self.left {
            let Some(place) = self.place(number) else { continue };
            let record = Some(Record { others: 1, ..Record::default() });
            self.rows[place] = StoredRow { present: true, record };
        }
        Ok(ReadRows { now_ms: self.now_ms, rows: self.rows })
    }

    /// Of the key of a row.
    fn place(&self, number: i64) -> Option<usize> {
        let number = usize::try_from(number - 1).ok()?;
        self.order.get(number).copied()
    }

    fn stored_row(&self, want: &Want<'_>, row: &PgRow) -> Result<StoredRow, sqlx::Error> {
        let absent = StoredRow { present: true, record: None };
        let expires_at = row.try_get::<Option<&str>, _>(EXPIRES_AT)?;
        let expires_at_ms = match expires_at.and_then(micros_of_text) {
            None | Some(i64::MAX) => None,
            Some(micros) => Some(micros.div_euclid(1000)),
        };
        // As Redis: gone when now is later than the expiry.
        if expires_at_ms.is_some_and(|expires_at_ms| self.now_ms > expires_at_ms) {
            return Ok(absent);
        }
        let (fields, others) = if self.shape.clock || !is_part(want) {
            self.whole(row)?
        } else {
            self.part(want, row)?
        };
        if fields.is_empty() && others == 0 {
            return Ok(absent);
        }
        let record = Record { fields, others, expires_at_ms, ..Record::default() };
        Ok(StoredRow { present: true, record: Some(record) })
    }

    fn extra<'r>(&self, row: &'r PgRow) -> Result<Option<&'r str>, sqlx::Error> {
        if self.layout.extra().is_none() { Ok(None) } else { row.try_get(EXTRA) }
    }

    fn whole(&self, row: &PgRow) -> Result<(Fields, usize), sqlx::Error> {
        let first = self.shape.first_column(self.layout);
        let mut columns = Vec::with_capacity(self.layout.fields().len());
        for place in 0..self.layout.fields().len() {
            columns.push(row.try_get::<Option<&str>, _>(first + place)?);
        }
        Ok((self.layout.decode(columns.into_iter(), self.extra(row)?), 0))
    }

    /// The fields that are needed, and a number that is above 0 if there are others.
    fn part(&self, want: &Want<'_>, row: &PgRow) -> Result<(Fields, usize), sqlx::Error> {
        let Self { layout, shape, .. } = self;
        let first = shape.first_column(layout);
        let mut others = 0;
        if shape.leaves_columns(layout) && row.try_get::<bool, _>(first - 1)? {
            others += 1;
        }
        let needed = &want.needs.fields;
        let is_needed = |place: usize| needed.contains(&layout.fields()[place].field);
        for (at, place) in shape.columns.iter().enumerate() {
            if others > 0 {
                break;
            }
            others += usize::from(!is_needed(*place) && !row.try_get_raw(first + at)?.is_null());
        }
        let column = |place: usize| match shape.columns.binary_search(&place) {
            Ok(at) => row.try_get::<Option<&str>, _>(first + at),
            Err(_) => Ok(None),
        };
        let extra = self.extra(row)?;
        if extra.is_some() {
            let mut columns = vec![None; layout.fields().len()];
            for place in needed.iter().filter_map(|field| layout.column_of(field)) {
                columns[place] = column(place)?;
            }
            let mut fields = layout.decode(columns.into_iter(), extra);
            let all = fields.len();
            fields.retain(|field, _| needed.contains(field));
            others += all - fields.len();
            return Ok((fields, others));
        }
        let mut fields = Fields::with_capacity_and_hasher(needed.len(), Default::default());
        for field in needed {
            let Some(place) = layout.column_of(field) else { continue };
            if let Some(text) = column(place)? {
                fields.insert(field.clone(), layout.fields()[place].codec.render(text));
            }
        }
        Ok((fields, others))
    }
}

fn bytes_of(row: &PgRow) -> Result<usize, sqlx::Error> {
    let mut bytes = 0;
    for column in 0..row.len() {
        bytes += row.try_get_raw(column)?.as_bytes().map_or(0, <[u8]>::len);
    }
    Ok(bytes)
}

/// What reads rows that hold a whole value, and takes them in.
pub(super) fn row_reading<'a>(
    reading: &'a Reading<'a>,
    lock: RowLock,
    parts: Parts,
    sets: &mut SetsByNumber,
) -> (Statement<'a>, RowIntake<'a>) {
    let Reading { mapping, wants } = reading;
    let layout = &mapping.layout;
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_unstable_by(|one, other| wants[*one].key.key.cmp(&wants[*other].key.key));
    order.retain(|place| has_row(layout, wants[*place].key));

    let shape = ReadShape::of(mapping, wants, &order, parts, sets);
    let mut statement = Statement::new(statement(layout, &shape, lock));
    let names_keys = layout.expires_at().is_none();
    if let (Asked::One, &[place]) = (shape.asked, &order[..]) {
        let key = wants[place].key;
        for text in key.capture_texts() {
            statement = statement.bind(text);
        }
        if names_keys {
            statement = statement.bind(&key.key[..]);
        }
    } else {
        for column in key_arrays(layout, order.iter().map(|place| wants[*place].key)) {
            statement = statement.bind(column);
        }
        if names_keys {
            let keys = order.iter().map(|place| &wants[*place].key.key[..]);
            statement = statement.bind(keys.collect::<Vec<_>>());
        }
    }
    if names_keys {
        statement = statement.bind(mapping.name.as_str());
    }
    let rows = vec![StoredRow::default(); wants.len()];
    let found = Vec::with_capacity(order.len());
    let room = if parts == Parts::Fitting { BYTES_BEYOND } else { usize::MAX };
    let (now_ms, left) = (i64::MIN, Vec::new());
    (statement, RowIntake { wants, layout, shape, order, now_ms, found, room, left, rows })
}

// === the statement ===

/// The statement that reads whole rows, as people may be shown it.
pub(super) fn row_statement(layout: &Layout) -> String {
    let columns = (0..layout.fields().len()).collect();
    let shape = ReadShape { asked: Asked::Several, clock: true, columns };
    statement(layout, &shape, RowLock::None)
}

fn statement(layout: &Layout, shape: &ReadShape, lock: RowLock) -> String {
    let keys = parameters(layout, shape.asked);
    let aliases = key_aliases(layout);
    let (raw, mapping) = (layout.keys().len() + 1, layout.keys().len() + 2);
    let expires_at: Cow<'_, str> = match layout.expires_at() {
        Some(column) => format!("t.{}", quote(column)).into(),
        None => kept_expiry(mapping).into(),
    };
    let names_keys = layout.expires_at().is_none();
    let (source, number) = match (shape.asked, names_keys) {
        (Asked::One, true) => {
            let comma = if keys.is_empty() { "" } else { ", " };
            (format!("(select {keys}{comma}${raw}::bytea as key) as u"), "1::bigint as n")
        }
        (Asked::One, false) => (format!("(select {keys}) as u"), "1::bigint as n"),
        (Asked::Several, true) => (
            format!("unnest({keys}, ${raw}::bytea[]) with ordinality as u({aliases}, key, n)"),
            "u.n",
        ),
        (Asked::Several, false) => {
            (format!("unnest({keys}) with ordinality as u({aliases}, n)"), "u.n")
        }
    };
    let mut columns = String::new();
    write!(columns, "{number}, {expires_at}::text as expires_at")
        .expect("writing to a string cannot fail");
    if let Some(extra) = layout.extra() {
        write!(columns, ", t.{}::text as extra", quote(&extra.column))
            .expect("writing to a string cannot fail");
    }
    if shape.leaves_columns(layout) {
        columns.push_str(", ");
        columns.push_str(&others(layout, shape));
    }
    for &place in &shape.columns {
        write!(columns, ", t.{}::text as c{place}", quote(&layout.fields()[place].column))
            .expect("writing to a string cannot fail");
    }
    let lock = match lock {
        RowLock::None => "",
        RowLock::ForUpdate => " for no key update of t",
    };
    let table = layout.table().quoted();
    let condition = condition(layout, shape.asked);
    let rows = format!("select {columns} from {source} join {table} as t on {condition}{lock}");
    if shape.clock {
        format!("select {NOW_MS}, r.* from (values (1)) as clock left join ({rows}) as r on true")
    } else {
        format!("select {NOW_MS}, r.* from ({rows}) as r")
    }
}

/// Whether one of the columns that are not read holds something.
fn others(layout: &Layout, shape: &ReadShape) -> String {
    let is_left = |place: &usize| shape.columns.binary_search(place).is_err();
    let left: Vec<String> = (0..layout.fields().len())
        .filter(is_left)
        .map(|place| format!("t.{}", quote(&layout.fields()[place].column)))
        .collect();
    let counts: Vec<String> =
        left.chunks(NONNULLS).map(|some| format!("num_nonnulls({})", some.join(", "))).collect();
    format!("{} > 0 as others", counts.join(" + "))
}
