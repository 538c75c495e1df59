//! Reading values that have one row an element: no more of them than is needed.
//!
//! Invariants
//! - Everything comes from one statement, so from one snapshot: a key's expiry, the number of its
//!   elements, those that were named, and all or a sample of them belong together, whoever writes
//!   meanwhile. (A row that had to be waited for is read as it is after the wait.)
//! - Rows become records as they arrive: a large value is never held twice.
//! - Rows are locked in the order of keys and elements, the same in every session; those of a sample
//!   in any order.

use std::borrow::Cow;

use bytes::Bytes;
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::read::{
    ReadRows, Reading, RowLock, StoredRow, has_row, kept_expiry, key_aliases, key_arrays,
    key_condition,
};
use super::statement::Statement;
use crate::command::Needs;
use crate::mapping::codec::micros_of_text;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};
use crate::value::{Fields, Record};

/// Rows that one statement reads at most beyond what is needed, and about their bytes.
const ROWS_BEYOND: i64 = 100_000;
pub(super) const BYTES_BEYOND: usize = 16 << 20;

/// A value of more bytes, about, does not come whole unless it is needed so.
pub const WHOLE_BYTES: usize = 4 << 20;

/// One key, and what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    pub key: &'a MappedKey,
    pub needs: &'a Needs,
    /// The value is wanted as a whole, though less is needed, if it has no more elements than this and
    /// no more than [`WHOLE_BYTES`], and the values before it have left room. Where each element is
    /// needed, nothing but this brings them.
    pub whole_up_to: usize,
}

/// What the rows of a reading become, as they arrive.
pub(super) struct ElementIntake<'a> {
    mapping: &'a Mapping,
    /// The keys' places in the order in which their rows are read.
    order: Vec<usize>,
    /// In that order.
    gathered: Vec<Gathered>,
    now_ms: i64,
    rows: Vec<StoredRow>,
}

/// What has come of one key so far.
#[derive(Default)]
struct Gathered {
    count: usize,
    expires_at_ms: Option<i64>,
    is_whole: bool,
    fields: Fields,
    sample: Vec<Bytes>,
}

/// The columns of the statement's rows. A row is a key's own, with its count and perhaps its expiry, or an
/// element's.
const NOW: usize = 0;
const NUMBER: usize = 1;
const COUNT: usize = 2;
const EXPIRES_AT: usize = 3;
/// Of a key: it comes as a whole. Of an element: it was drawn.
const FLAG: usize = 4;
const ELEMENT: usize = 5;
const VALUE: usize = 6;
const EXTRA: usize = 7;

// === impl Want ===

impl Want<'_> {
    /// How many elements to count; `None`: all there are.
    fn bound(&self) -> Option<i64> {
        let part = self.needs.fields.len().saturating_add(self.needs.drawn());
        match (self.needs.whole, self.needs.count) {
            // They come anyway.
            (true, _) => Some(1),
            (false, true) => None,
            (false, false) => i64::try_from(part.max(self.whole_up_to).saturating_add(1)).ok(),
        }
    }

    /// Up to how many elements all of them come; `None`: in any case.
    fn whole(&self) -> Option<i64> {
        if self.needs.whole { None } else { Some(integer(self.whole_up_to)) }
    }

    /// The elements to be looked up by name.
    fn names(&self) -> impl Iterator<Item = &Bytes> {
        self.needs.fields.iter().filter(|_| !self.needs.whole)
    }
}

// === impl ElementIntake ===

impl ElementIntake<'_> {
    pub(super) fn take_in(&mut self, row: &PgRow) -> Result<(), sqlx::Error> {
        self.now_ms = self.now_ms.max(row.try_get::<Option<i64>, _>(NOW)?.unwrap_or(i64::MIN));
        // As `with ordinality` counts.
        let number = row.try_get::<Option<i64>, _>(NUMBER)?;
        let number = number.and_then(|number| usize::try_from(number - 1).ok());
        match number.and_then(|number| self.gathered.get_mut(number)) {
            Some(of) => of.take_in(&self.mapping.layout, row),
            None => Ok(()),
        }
    }

    pub(super) fn finish(self) -> ReadRows {
        let Self { mapping, order, gathered, now_ms, mut rows } = self;
        for (place, gathered) in order.into_iter().zip(gathered) {
            rows[place] = gathered.stored_row(mapping, now_ms);
        }
        ReadRows { now_ms, rows }
    }
}

/// What reads of rows that are elements what is wanted, and takes it in.
pub(super) fn element_reading<'a>(
    reading: &'a Reading<'a>,
    lock: RowLock,
) -> (Statement<'a>, ElementIntake<'a>) {
    let Reading { mapping, wants } = reading;
    let layout = &mapping.layout;
    let mut order: Vec<usize> = (0..wants.len()).collect();
    order.sort_unstable_by(|one, other| wants[*one].key.key.cmp(&wants[*other].key.key));
    order.retain(|place| has_row(layout, wants[*place].key));

    let mut named: Vec<(usize, Cow<'a, str>)> = Vec::new();
    for (number, &place) in order.iter().enumerate() {
        let from = named.len();
        let names = wants[place].names();
        named.extend(names.filter_map(|name| Some((number, layout.element_text(name)?))));
        named[from..].sort_unstable();
    }
    let asked = || order.iter().map(|place| &wants[*place]);
    let mut statement = Statement::new(statement(layout, lock));
    for array in key_arrays(layout, order.iter().map(|place| wants[*place].key)) {
        statement = statement.bind(array);
    }
    statement = statement
        .bind(asked().map(|want| &want.key.key[..]).collect::<Vec<_>>())
        .bind(asked().map(Want::bound).collect::<Vec<_>>())
        .bind(asked().map(Want::whole).collect::<Vec<_>>())
        .bind(asked().map(|want| integer(want.needs.drawn())).collect::<Vec<_>>())
        .bind(mapping.name.as_str());
    let keys_of_named: Vec<&MappedKey> =
        named.iter().map(|(number, _)| wants[order[*number]].key).collect();
    for array in key_arrays(layout, keys_of_named.into_iter()) {
        statement = statement.bind(array);
    }
    statement = statement
        .bind(named.iter().map(|(number, _)| integer(number + 1)).collect::<Vec<_>>())
        .bind(named.into_iter().map(|(_, element)| Some(element)).collect::<Vec<_>>());
    let gathered = order.iter().map(|_| Gathered::default()).collect();
    let rows = vec![StoredRow::default(); wants.len()];
    (statement, ElementIntake { mapping, order, gathered, now_ms: i64::MIN, rows })
}

// === impl Gathered ===

impl Gathered {
    fn take_in(&mut self, layout: &Layout, row: &PgRow) -> Result<(), sqlx::Error> {
        let flag = row.try_get::<bool, _>(FLAG)?;
        if let Some(count) = row.try_get::<Option<i64>, _>(COUNT)? {
            self.count = usize::try_from(count).unwrap_or(0);
            let expires_at = row.try_get::<Option<&str>, _>(EXPIRES_AT)?.and_then(micros_of_text);
            self.expires_at_ms = expires_at
                .filter(|micros| *micros != i64::MAX)
                .map(|micros| micros.div_euclid(1000));
            self.is_whole = flag;
            return Ok(());
        }
        let Some(element) = row.try_get::<Option<&str>, _>(ELEMENT)? else { return Ok(()) };
        let (value, extra) = (row.try_get(VALUE)?, row.try_get(EXTRA)?);
        if let Some((element, value)) = layout.decode_element(element, value, extra) {
            if flag {
                self.sample.push(element.clone());
            }
            self.fields.insert(element, value);
        }
        Ok(())
    }

    fn stored_row(self, mapping: &Mapping, now_ms: i64) -> StoredRow {
        let Self { count, expires_at_ms, is_whole, fields, sample } = self;
        // As Redis: gone when now is later than the expiry.
        let is_past = expires_at_ms.is_some_and(|at_ms| now_ms > at_ms);
        let others = if is_whole { 0 } else { count.saturating_sub(fields.len()) };
        let record = Record { kind: mapping.holds(), fields, others, sample, expires_at_ms };
        StoredRow {
            present: count > 0,
            record: Some(record).filter(|record| !is_past && !record.is_empty()),
        }
    }
}

fn integer(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

// === the statement ===

/// `t."field"::text, t."value"::text, t."extra"::text`
pub(super) fn element_columns(layout: &Layout) -> String {
    let column = |name: Option<&str>| match name {
        Some(name) => format!("t.{}::text", quote(name)),
        None => "null::text".to_owned(),
    };
    [
        column(layout.element().map(|element| element.column.as_str())),
        column(layout.fields().first().map(|value| value.column.as_str())),
        column(layout.extra().map(|extra| extra.column.as_str())),
    ]
    .join(", ")
}

/// About the bytes of an element, without looking at values that are stored apart.
fn element_bytes(layout: &Layout) -> String {
    let is_text =
        |name: &str| matches!(name, "text" | "bytea") || name.starts_with("character varying");
    let bytes = |column: &str, type_name: &str| {
        let size = if is_text(type_name) { "octet_length" } else { "pg_column_size" };
        format!("coalesce({size}(t.{}), 0)", quote(column))
    };
    let element = layout.element().map(|element| bytes(&element.column, &element.type_name));
    let value = layout.fields().first().map(|value| bytes(&value.column, &value.type_name));
    let extra = layout.extra().map(|extra| bytes(&extra.column, "jsonb"));
    let columns: Vec<String> = [element, value, extra].into_iter().flatten().collect();
    if columns.is_empty() { "0".to_owned() } else { columns.join(" + ") }
}

/// What stands in an `unnest`: the key columns' arrays from parameter `first` on, then these.
pub(super) fn sources(layout: &Layout, first: usize, others: &[&str]) -> String {
    let mut sources = Vec::new();
    for (place, key) in layout.keys().iter().enumerate() {
        sources.push(format!("${}::text[]::{}[]", first + place, key.type_name));
    }
    for (place, cast) in others.iter().enumerate() {
        sources.push(format!("${}::{cast}", first + layout.keys().len() + place));
    }
    sources.join(", ")
}

/// The names of an `unnest`'s columns: those of the keys, then these.
pub(super) fn names(layout: &Layout, others: &str) -> String {
    match &key_aliases(layout)[..] {
        "" => others.to_owned(),
        keys => format!("{keys}, {others}"),
    }
}

/// The clock is read in the outer query, so after a row was locked, and also when none is found. Elements
/// that were not locked need none of their own. `offset 0` keeps the planner from turning a join round: to
/// look in the keys for each row of the table seems cheap while the table is small.
pub(super) fn statement(layout: &Layout, lock: RowLock) -> String {
    let (table, columns) = (layout.table().quoted(), element_columns(layout));
    let (name, type_name) = layout
        .element()
        .map_or((String::new(), "text"), |element| (quote(&element.column), &element.type_name));
    let condition = match layout.element_condition() {
        None => key_condition(layout),
        Some(present) => format!("{} and {present}", key_condition(layout)),
    };
    let bytes = element_bytes(layout);
    let (clock, locking) = match lock {
        RowLock::None => ("r.count is not null or r.n is null", ""),
        RowLock::ForUpdate => ("true", " for no key update of t"),
    };
    let others = ["bytea[]", "bigint[]", "bigint[]", "bigint[]"];
    let mapping = layout.keys().len() + others.len() + 1;
    let expires_at = kept_expiry(mapping);
    let asked = sources(layout, 1, &others);
    let asked_names = names(layout, "key, bound, whole, drawn, n");
    let named = sources(layout, mapping + 1, &["bigint[]", &format!("text[]::{type_name}[]")]);
    let named_names = names(layout, "n, element");
    format!(
        "with counted as materialized (\
         select u.*, {expires_at}::text as expires_at, c.count, coalesce(c.bytes, 0) as bytes \
         from unnest({asked}) with ordinality as u({asked_names}) \
         cross join lateral (select count(*), sum(b.bytes) from (\
         select case when u.whole > 0 then {bytes} end from {table} as t where {condition} \
         limit u.bound) as b(bytes)) as c(count, bytes)), \
         fitting as materialized (select *, count <= whole and bytes <= {WHOLE_BYTES} as fits from counted), \
         asked as materialized (select *, whole is null or fits and \
         sum(count) filter (where fits) over (order by n) <= greatest(whole, {ROWS_BEYOND}) and \
         sum(bytes) filter (where fits) over (order by n) <= {BYTES_BEYOND} as is_whole \
         from fitting) \
         select case when {clock} \
         then floor(extract(epoch from clock_timestamp()) * 1000)::bigint end, r.* \
         from (values (1)) as clock left join (\
         select n, count, expires_at, is_whole as flag, null::text, null::text, null::text from asked \
         union all select u.n, null::bigint, null::text, false, s.* \
         from unnest({named}) as u({named_names}) cross join lateral (\
         select {columns} from {table} as t where {condition} and t.{name} = u.element \
         offset 0{locking}) as s \
         union all select u.n, null::bigint, null::text, false, s.* from asked as u \
         cross join lateral (\
         select {columns} from {table} as t where {condition} offset 0{locking}) as s \
         where u.is_whole \
         union all select u.n, null::bigint, null::text, true, s.* from asked as u \
         cross join lateral (select {columns} from {table} as t where {condition} \
         order by random() limit u.drawn{locking}) as s \
         where u.drawn > 0 and not u.is_whole) as r on true",
    )
}
