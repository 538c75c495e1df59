//! Reading one element of one key, and whether the key has others: what most writes to a value with a row
//! for each element need.
//!
//! It gives what `element_read` would, which can do all there is to ask for, and takes Postgres a
//! fraction of the time. Everything comes from one statement here, too.

use sqlx::Row;
use sqlx::postgres::PgRow;

use super::element_read::Want;
use super::parameters::{Asked, condition, parameters};
use super::read::{NOW_MS, ReadRows, Reading, StoredRow, has_row, kept_expiry};
use super::statement::Statement;
use crate::mapping::codec::micros_of_text;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, Mapping};
use crate::value::{Fields, Record};

/// What becomes of the one row.
pub(super) struct NamedIntake<'a> {
    mapping: &'a Mapping,
    read: ReadRows,
}

/// The columns of the row; the last three are null where the element is not there.
const NOW: usize = 0;
const EXPIRES_AT: usize = 1;
const OTHERS: usize = 2;
const ELEMENT: usize = 3;
const VALUE: usize = 4;
const EXTRA: usize = 5;

// === impl NamedIntake ===

impl NamedIntake<'_> {
    pub(super) fn take_in(&mut self, row: &PgRow) -> Result<(), sqlx::Error> {
        let now_ms: i64 = row.try_get(NOW)?;
        let expires_at = row.try_get::<Option<&str>, _>(EXPIRES_AT)?.and_then(micros_of_text);
        let expires_at_ms =
            expires_at.filter(|micros| *micros != i64::MAX).map(|micros| micros.div_euclid(1000));
        let others = usize::from(row.try_get::<bool, _>(OTHERS)?);
        let mut fields = Fields::default();
        if let Some(element) = row.try_get::<Option<&str>, _>(ELEMENT)? {
            let (value, extra) = (row.try_get(VALUE)?, row.try_get(EXTRA)?);
            fields.extend(self.mapping.layout.decode_element(element, value, extra));
        }
        let kind = self.mapping.holds();
        let record = Record { kind, fields, others, expires_at_ms, ..Record::default() };
        // As Redis: gone when now is later than the expiry.
        let is_past = expires_at_ms.is_some_and(|at_ms| now_ms > at_ms);
        let present = !record.is_empty();
        let record = Some(record).filter(|record| !is_past && !record.is_empty());
        self.read = ReadRows { now_ms, rows: vec![StoredRow { present, record }] };
        Ok(())
    }

    pub(super) fn finish(self) -> ReadRows {
        self.read
    }
}

/// What reads and locks the row of the element that is wanted, and takes it in; `None` when something else
/// is wanted.
pub(super) fn named_reading<'a>(
    reading: &'a Reading<'a>,
) -> Option<(Statement<'a>, NamedIntake<'a>)> {
    let Reading { mapping, wants } = reading;
    let layout = &mapping.layout;
    let [Want { key, needs, whole_up_to: 0 }] = wants[..] else { return None };
    let is_more = needs.whole || needs.count || needs.sample > 0 || needs.fields.len() != 1;
    if is_more || !has_row(layout, key) {
        return None;
    }
    let element = layout.element_text(needs.fields.first()?)?;
    let mut statement = Statement::new(statement(layout));
    for text in key.capture_texts() {
        statement = statement.bind(text);
    }
    statement = statement.bind(&key.key[..]).bind(mapping.name.as_str()).bind(Some(element));
    let read = ReadRows { now_ms: i64::MIN, rows: vec![StoredRow::default()] };
    Some((statement, NamedIntake { mapping, read }))
}

/// The clock is read in the outer query, so after the row was locked.
fn statement(layout: &Layout) -> String {
    let text = |name: Option<&str>| match name {
        Some(name) => format!("t.{}::text", quote(name)),
        None => "null::text".to_owned(),
    };
    let (name, type_name) = layout
        .element()
        .map_or((String::new(), "text"), |element| (quote(&element.column), &element.type_name));
    let columns = [
        text(layout.element().map(|element| element.column.as_str())),
        text(layout.fields().first().map(|value| value.column.as_str())),
        text(layout.extra().map(|extra| extra.column.as_str())),
    ];
    let mut keys = parameters(layout, Asked::One);
    if !keys.is_empty() {
        keys.push_str(", ");
    }
    let key = layout.keys().len() + 1;
    let (mapping, element) = (key + 1, key + 2);
    let table = layout.table().quoted();
    let mut condition = condition(layout, Asked::One);
    if let Some(present) = layout.element_condition() {
        condition.push_str(" and ");
        condition.push_str(&present);
    }
    format!(
        "select {NOW_MS}, {}::text as expires_at, \
         exists(select from {table} as t where {condition} and t.{name} <> u.element) as others, e.* \
         from (select {keys}${key}::bytea as key, ${element}::text::{type_name} as element) as u \
         left join lateral (select {} from {table} as t \
         where {condition} and t.{name} = u.element for no key update of t) as e(element, value, extra) \
         on true",
        kept_expiry(mapping),
        columns.join(", "),
    )
}
