//! Reading values that have one row an element: no more of them than is needed.
//!
//! Invariants
//! - A key's expiry, the named elements and the number of others come from one statement, so they
//!   belong together; a value that is read as a whole, or drawn from, comes from a second one. A writer
//!   holds the key's lock meanwhile; a reader may see what was committed in between, as if it had come
//!   a little later.
//! - Rows are locked in the order of keys and elements, the same in every session.

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{AssertSqlSafe, Postgres};

use super::error::StoreError;
use super::read::{ReadRows, RowLock, StoredRow, has_row, key_aliases, key_arrays, key_condition};
use super::session::Session;
use crate::command::Needs;
use crate::mapping::codec::micros_of_text;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};
use crate::value::Record;

/// One key, and what is wanted of it.
#[derive(Clone, Copy, Debug)]
pub struct Want<'a> {
    pub key: &'a MappedKey,
    pub needs: &'a Needs,
    /// The value is wanted as a whole if it has no more elements than this.
    pub whole_up_to: usize,
}

/// The columns of the first statement's rows.
const NUMBER: usize = 1;
const EXPIRES_AT: usize = 2;
const COUNT: usize = 3;
const ELEMENT: usize = 4;

// === impl Want ===

impl Want<'_> {
    /// How many elements to count; `None`: all there are.
    fn bound(&self) -> Option<i64> {
        if self.needs.count {
            return None;
        }
        let part = self.needs.fields.len().saturating_add(self.needs.drawn());
        i64::try_from(part.max(self.whole_up_to).saturating_add(1)).ok()
    }
}

// === impl Session ===

impl Session {
    /// Reads what is wanted of these keys of a mapping, in or outside of a transaction; rows that hold a
    /// whole value are read whole.
    ///
    /// # Errors
    /// Those of the statements, see [`StoreError`].
    pub async fn read_parts(
        &mut self,
        mapping: &Mapping,
        wants: &[Want<'_>],
        lock: RowLock,
    ) -> Result<ReadRows, StoreError> {
        if mapping.layout.element().is_none() {
            let keys: Vec<&MappedKey> = wants.iter().map(|want| want.key).collect();
            return self.read(mapping, &keys, lock).await;
        }
        self.forget_stale_statements().await?;
        let layout = &mapping.layout;
        let mut order: Vec<usize> = (0..wants.len()).collect();
        order.sort_unstable_by(|one, other| wants[*one].key.key.cmp(&wants[*other].key.key));
        order.retain(|place| has_row(layout, wants[*place].key));

        let mut read = self.read_named(mapping, wants, &order, lock).await?;
        let whole: Vec<usize> = order
            .iter()
            .copied()
            .filter(|&place| {
                let Want { needs, whole_up_to, .. } = &wants[place];
                let record = read.rows[place].record.as_ref();
                record.is_some_and(|record| {
                    let is_wanted = needs.whole || record.len() <= *whole_up_to;
                    is_wanted && record.others > 0
                })
            })
            .collect();
        if !whole.is_empty() {
            self.read_whole(mapping, wants, &whole, lock, &mut read.rows).await?;
        }
        let drawn = |&place: &usize| {
            let record = read.rows[place].record.as_ref();
            wants[place].needs.drawn() > 0 && record.is_some_and(|record| record.others > 0)
        };
        let drawn: Vec<usize> = order.into_iter().filter(drawn).collect();
        if !drawn.is_empty() {
            self.read_sample(mapping, wants, &drawn, lock, &mut read.rows).await?;
        }
        Ok(read)
    }

    /// Expiry, number and named elements.
    async fn read_named(
        &mut self,
        mapping: &Mapping,
        wants: &[Want<'_>],
        order: &[usize],
        lock: RowLock,
    ) -> Result<ReadRows, StoreError> {
        let layout = &mapping.layout;
        let mut named: Vec<(usize, std::borrow::Cow<'_, str>)> = Vec::new();
        for (number, &place) in order.iter().enumerate() {
            let fields = wants[place].needs.fields.iter();
            let from = named.len();
            named.extend(fields.filter_map(|field| Some((number, layout.element_text(field)?))));
            named[from..].sort_unstable();
        }
        let sql = named_statement(layout, lock);
        let mut query = sqlx::query(AssertSqlSafe(sql));
        let keys = || order.iter().map(|place| wants[*place].key);
        for array in key_arrays(layout, keys()) {
            query = query.bind(array);
        }
        query = query
            .bind(keys().map(|key| &key.key[..]).collect::<Vec<_>>())
            .bind(order.iter().map(|place| wants[*place].bound()).collect::<Vec<_>>())
            .bind(&mapping.name);
        let keys_of_named: Vec<&MappedKey> =
            named.iter().map(|(number, _)| wants[order[*number]].key).collect();
        for array in key_arrays(layout, keys_of_named.into_iter()) {
            query = query.bind(array);
        }
        query = query
            .bind(named.iter().map(|(number, _)| ordinal(*number)).collect::<Vec<_>>())
            .bind(named.iter().map(|(_, element)| element.as_ref()).collect::<Vec<_>>());
        let found = self.attempt(async |connection| query.fetch_all(connection).await).await?;

        let mut read = ReadRows { now_ms: i64::MIN, rows: vec![StoredRow::default(); wants.len()] };
        for row in &found {
            read.now_ms = read.now_ms.max(self.column(row, 0)?);
        }
        for row in &found {
            let Some(place) = self.place_of(row, NUMBER, order)? else { continue };
            if let Some(count) = self.column::<Option<i64>>(row, COUNT)? {
                let count = usize::try_from(count).unwrap_or(0);
                let expires_at = self.column::<Option<&str>>(row, EXPIRES_AT)?;
                let expires_at_ms = match expires_at.and_then(micros_of_text) {
                    None | Some(i64::MAX) => None,
                    Some(micros) => Some(micros.div_euclid(1000)),
                };
                // As Redis: gone when now is later than the expiry.
                let is_past = expires_at_ms.is_some_and(|at_ms| read.now_ms > at_ms);
                let record = (count > 0 && !is_past).then(|| Record {
                    kind: mapping.holds(),
                    others: count,
                    expires_at_ms,
                    ..Record::default()
                });
                read.rows[place] = StoredRow { present: count > 0, record };
            }
        }
        for row in &found {
            let Some(place) = self.place_of(row, NUMBER, order)? else { continue };
            let Some((element, value)) = self.element(layout, row, ELEMENT)? else { continue };
            if let Some(record) = &mut read.rows[place].record
                && record.fields.insert(element, value).is_none()
            {
                record.others = record.others.saturating_sub(1);
            }
        }
        Ok(read)
    }

    async fn read_whole(
        &mut self,
        mapping: &Mapping,
        wants: &[Want<'_>],
        order: &[usize],
        lock: RowLock,
        rows: &mut [StoredRow],
    ) -> Result<(), StoreError> {
        let layout = &mapping.layout;
        let mut query = sqlx::query(AssertSqlSafe(whole_statement(layout, lock)));
        for array in key_arrays(layout, order.iter().map(|place| wants[*place].key)) {
            query = query.bind(array);
        }
        query = query.bind(ordinals(order));
        let found = self.fetch_elements(layout, query, order).await?;
        for &place in order {
            if let Some(record) = &mut rows[place].record {
                record.fields.clear();
                record.others = 0;
            }
        }
        for (place, element, value) in found {
            if let Some(record) = &mut rows[place].record {
                record.fields.insert(element, value);
            }
        }
        // The last element may have gone meanwhile.
        for &place in order {
            rows[place].record.take_if(|record| record.is_empty());
        }
        Ok(())
    }

    async fn read_sample(
        &mut self,
        mapping: &Mapping,
        wants: &[Want<'_>],
        order: &[usize],
        lock: RowLock,
        rows: &mut [StoredRow],
    ) -> Result<(), StoreError> {
        let layout = &mapping.layout;
        let mut query = sqlx::query(AssertSqlSafe(sample_statement(layout, lock)));
        for array in key_arrays(layout, order.iter().map(|place| wants[*place].key)) {
            query = query.bind(array);
        }
        let drawn = order.iter().map(|place| i64::try_from(wants[*place].needs.drawn()).ok());
        query = query.bind(ordinals(order)).bind(drawn.collect::<Vec<_>>());
        for (place, element, value) in self.fetch_elements(layout, query, order).await? {
            let Some(record) = &mut rows[place].record else { continue };
            if record.fields.insert(element.clone(), value).is_none() {
                record.others = record.others.saturating_sub(1);
            }
            record.sample.push(element);
        }
        Ok(())
    }

    async fn fetch_elements(
        &mut self,
        layout: &Layout,
        query: Query<'_, Postgres, PgArguments>,
        order: &[usize],
    ) -> Result<Vec<(usize, bytes::Bytes, bytes::Bytes)>, StoreError> {
        let found = self.attempt(async |connection| query.fetch_all(connection).await).await?;
        let mut elements = Vec::with_capacity(found.len());
        for row in &found {
            let Some(place) = self.place_of(row, 0, order)? else { continue };
            if let Some((element, value)) = self.element(layout, row, 1)? {
                elements.push((place, element, value));
            }
        }
        Ok(elements)
    }

    fn place_of(
        &mut self,
        row: &PgRow,
        column: usize,
        order: &[usize],
    ) -> Result<Option<usize>, StoreError> {
        let number = self.column::<Option<i64>>(row, column)?;
        let place = number.and_then(|number| usize::try_from(number - 1).ok());
        Ok(place.and_then(|place| order.get(place)).copied())
    }

    /// The element whose columns begin at `first`.
    fn element(
        &mut self,
        layout: &Layout,
        row: &PgRow,
        first: usize,
    ) -> Result<Option<(bytes::Bytes, bytes::Bytes)>, StoreError> {
        let Some(element) = self.column::<Option<&str>>(row, first)? else { return Ok(None) };
        let value = self.column::<Option<&str>>(row, first + 1)?;
        let extra = self.column::<Option<&str>>(row, first + 2)?;
        Ok(layout.decode_element(element, value, extra))
    }
}

/// A number as `with ordinality` counts.
fn ordinal(number: usize) -> i64 {
    i64::try_from(number).map_or(i64::MAX, |number| number + 1)
}

fn ordinals(order: &[usize]) -> Vec<i64> {
    (0..order.len()).map(ordinal).collect()
}

// === statements ===

/// `t."field"::text, t."value"::text, t."extra"::text`
fn element_columns(layout: &Layout) -> String {
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

/// ` and t."value" is not null`, for rows that are no element without a value.
fn and_present(layout: &Layout) -> String {
    layout.element_condition().map_or(String::new(), |condition| format!(" and {condition}"))
}

fn element_name(layout: &Layout) -> String {
    layout.element().map_or_else(String::new, |element| quote(&element.column))
}

fn locking(lock: RowLock) -> &'static str {
    match lock {
        RowLock::None => "",
        RowLock::ForUpdate => " for no key update of t",
    }
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

/// The clock is read in the outer query, so after the rows were locked, and also when none is found.
fn named_statement(layout: &Layout, lock: RowLock) -> String {
    let (condition, present) = (key_condition(layout), and_present(layout));
    let (table, columns) = (layout.table().quoted(), element_columns(layout));
    let mapping = layout.keys().len() + 3;
    let asked = sources(layout, 1, &["bytea[]", "bigint[]"]);
    let element_type = layout.element().map_or("text", |element| element.type_name.as_str());
    let element_type = format!("text[]::{element_type}[]");
    let named = sources(layout, mapping + 1, &["bigint[]", &element_type]);
    let (name, locking) = (element_name(layout), locking(lock));
    format!(
        "select floor(extract(epoch from clock_timestamp()) * 1000)::bigint, r.* \
         from (values (1)) as clock left join (\
         select u.n, e.expires_at::text, c.count, null::text, null::text, null::text \
         from unnest({asked}) with ordinality as u({}) \
         left join respgres.expiry as e on e.mapping = ${mapping}::text and e.key = u.key \
         cross join lateral (select count(*) from (select from {table} as t \
         where {condition}{present} limit u.bound) as b) as c(count) \
         union all select s.* from (select u.n, null::text, null::bigint, {columns} \
         from unnest({named}) as u({}) join {table} as t on {condition} and t.{name} = u.element\
         {present}{locking}) as s) as r on true",
        names(layout, "key, bound, n"),
        names(layout, "n, element"),
    )
}

fn whole_statement(layout: &Layout, lock: RowLock) -> String {
    format!(
        "select u.n, {} from unnest({}) as u({}) join {} as t on {}{}{}",
        element_columns(layout),
        sources(layout, 1, &["bigint[]"]),
        names(layout, "n"),
        layout.table().quoted(),
        key_condition(layout),
        and_present(layout),
        locking(lock)
    )
}

fn sample_statement(layout: &Layout, lock: RowLock) -> String {
    format!(
        "select u.n, s.* from unnest({}) as u({}) \
         cross join lateral (select {} from {} as t where {}{} order by random() limit u.drawn{}) \
         as s",
        sources(layout, 1, &["bigint[]", "bigint[]"]),
        names(layout, "n, drawn"),
        element_columns(layout),
        layout.table().quoted(),
        key_condition(layout),
        and_present(layout),
        locking(lock)
    )
}
