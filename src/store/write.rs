//! Writing rows: one statement for each table and kind of change.
//!
//! Invariants
//! - Rows are changed in the order of their keys, the same in every session.
//! - A column that no operation has touched is not written, so what SQL put there stays as it is.
//! - Statement shapes are few: the sets of columns that updates name are remembered up to
//!   `MAX_COLUMN_SETS` a mapping; after that an update names all columns, and a bit a column says
//!   for each row whether it changes.
//!
//! An update that reads a row's old values must hold the key's lock: see `Session::begin_locked`.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use super::error::StoreError;
use super::read::{has_row, key_aliases, key_arrays, key_condition, key_parameters};
use super::session::Session;
use crate::mapping::codec::text_of_epoch_ms;
use crate::mapping::extra;
use crate::mapping::layout::Unencodable;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};
use crate::value::{Draft, Record};

/// Column sets of updates that get a statement of their own, a mapping.
const MAX_COLUMN_SETS: usize = 8;

/// Values of so many bytes go into one statement; Postgres takes a message of at most 1 GiB.
const MAX_STATEMENT_BYTES: usize = 64 << 20;

/// What has become of one key.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    pub key: &'a MappedKey,
    /// As `StoredRow::present` said.
    pub present: bool,
    pub draft: &'a Draft,
}

/// One row that is going to be written.
struct Written<'a> {
    key: &'a MappedKey,
    record: &'a Record,
    /// By place in the layout's fields; the outer `None`: not touched.
    columns: Vec<Option<Option<Cow<'a, str>>>>,
    /// The row's old values count for nothing.
    whole: bool,
    /// Touched fields under their names in `extra`, as a Postgres array; for rows that are not whole.
    names: String,
    extra: Option<String>,
    expiry_touched: bool,
}

/// What an update names.
struct UpdateShape {
    /// Places in the layout's fields, ascending.
    columns: Vec<usize>,
    extra: bool,
    expiry: bool,
    /// Not all rows change all of these, or some are written anew.
    masked: bool,
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
        let layout = &mapping.layout;
        let mut order: Vec<&Change<'_>> = changes.iter().collect();
        order.sort_unstable_by(|one, other| one.key.key.cmp(&other.key.key));
        debug_assert!(order.is_sorted_by(|one, next| one.key.key < next.key.key));
        if layout.element().is_some() {
            return self.write_elements(mapping, &order).await;
        }

        let (mut deleted, mut updated, mut inserted) = (Vec::new(), Vec::new(), Vec::new());
        for change in order {
            let Some(record) = change.draft.record() else {
                if change.present {
                    deleted.push(change.key);
                }
                continue;
            };
            let whole = !change.present || !change.draft.existed() || change.draft.replaced();
            if !whole && !change.draft.is_changed() {
                continue;
            }
            let row = Written::new(layout, change, record, whole)?;
            if change.present { updated.push(row) } else { inserted.push(row) }
        }
        // Deletes come first, so that a value that has to be unique can move to another key.
        if !deleted.is_empty() {
            self.delete(layout, &deleted).await?;
        }
        for rows in chunks(&updated) {
            self.update(mapping, rows).await?;
        }
        for rows in chunks(&inserted) {
            self.insert(layout, rows).await?;
        }
        if layout.expires_at().is_none() {
            self.write_expiry(mapping, &deleted, &updated, &inserted).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, layout: &Layout, keys: &[&MappedKey]) -> Result<(), StoreError> {
        let sql = format!(
            "delete from {} as t using unnest({}) as u({}) where {}",
            layout.table().quoted(),
            key_parameters(layout),
            key_aliases(layout),
            key_condition(layout)
        );
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for array in key_arrays(layout, keys.iter().copied()) {
            query = query.bind(array);
        }
        self.execute(query).await.map(drop)
    }

    async fn insert(&mut self, layout: &Layout, rows: &[Written<'_>]) -> Result<(), StoreError> {
        let mut query = sqlx::query(AssertSqlSafe(insert_statement(layout)));
        for array in key_arrays(layout, rows.iter().map(|row| row.key)) {
            query = query.bind(array);
        }
        for place in 0..layout.fields().len() {
            query = query.bind(column_array(rows, place));
        }
        if layout.extra().is_some() {
            query = query.bind(extra_array(rows));
        }
        if layout.expires_at().is_some() {
            query = query.bind(expiry_array(rows));
        }
        self.execute_on_all(query, rows.len()).await
    }

    async fn update(&mut self, mapping: &Mapping, rows: &[Written<'_>]) -> Result<(), StoreError> {
        let layout = &mapping.layout;
        let shape = self.update_shape(mapping, rows);
        if shape.columns.is_empty() && !shape.extra && !shape.expiry {
            return Ok(());
        }
        let mut query = sqlx::query(AssertSqlSafe(update_statement(layout, &shape)));
        for array in key_arrays(layout, rows.iter().map(|row| row.key)) {
            query = query.bind(array);
        }
        for place in &shape.columns {
            query = query.bind(column_array(rows, *place));
        }
        if shape.extra {
            query = query.bind(extra_array(rows));
            query = query.bind(rows.iter().map(|row| row.names.as_str()).collect::<Vec<_>>());
        }
        if shape.expiry {
            query = query.bind(expiry_array(rows));
        }
        if shape.masked {
            query = query.bind(rows.iter().map(|row| row.mask(&shape)).collect::<Vec<_>>());
        }
        self.execute_on_all(query, rows.len()).await
    }

    /// What the rows change, if that is known or there is room to remember it, else everything.
    fn update_shape(&mut self, mapping: &Mapping, rows: &[Written<'_>]) -> UpdateShape {
        let layout = &mapping.layout;
        let all: Vec<usize> = (0..layout.fields().len()).collect();
        let touched = |place: &usize| rows.iter().any(|row| row.columns[*place].is_some());
        let mut columns: Vec<usize> = all.iter().copied().filter(touched).collect();
        let known = self.column_sets.entry(mapping.name.clone()).or_default();
        if !known.contains(&columns) {
            if known.len() < MAX_COLUMN_SETS {
                known.push(columns.clone());
            } else {
                columns = all;
            }
        }
        let extra = layout.extra().is_some() && rows.iter().any(|row| row.changes_extra());
        let has_expiry = layout.expires_at().is_some();
        let expiry = has_expiry && rows.iter().any(|row| row.expiry_touched);
        let changes_all = |row: &Written<'_>| {
            !row.whole
                && columns.iter().all(|place| row.columns[*place].is_some())
                && (!extra || row.changes_extra())
                && (!expiry || row.expiry_touched)
        };
        let masked = !rows.iter().all(changes_all);
        UpdateShape { columns, extra, expiry, masked }
    }

    /// Keeps `respgres.expiry` in step, for a mapping without a column for it.
    async fn write_expiry(
        &mut self,
        mapping: &Mapping,
        deleted: &[&MappedKey],
        updated: &[Written<'_>],
        inserted: &[Written<'_>],
    ) -> Result<(), StoreError> {
        let mut staying: Vec<&[u8]> = deleted.iter().map(|key| &key.key[..]).collect();
        let mut expiring = Vec::new();
        for row in updated.iter().chain(inserted).filter(|row| row.expiry_touched) {
            match row.record.expires_at_ms {
                None => staying.push(&row.key.key),
                Some(expires_at_ms) => expiring.push((&row.key.key[..], expires_at_ms)),
            }
        }
        self.keep_expiry(mapping, staying, &expiring).await
    }

    /// Brings keys that stay, and keys that expire at so many milliseconds since the Unix epoch, into
    /// `respgres.expiry`.
    pub(super) async fn keep_expiry(
        &mut self,
        mapping: &Mapping,
        staying: Vec<&[u8]>,
        expiring: &[(&[u8], i64)],
    ) -> Result<(), StoreError> {
        if !staying.is_empty() {
            // Each key is looked up alone, as in `read`.
            let query = sqlx::query(
                "delete from respgres.expiry where ctid = any(array(select (select e.ctid \
                 from respgres.expiry as e where e.mapping = $1::text and e.key = u.key) \
                 from unnest($2::bytea[]) as u(key)))",
            );
            self.execute(query.bind(&mapping.name).bind(staying)).await?;
        }
        if !expiring.is_empty() {
            let query = sqlx::query(
                "insert into respgres.expiry (mapping, key, expires_at) \
                 select $1::text, u.key, u.expires_at \
                 from unnest($2::bytea[], $3::text[]::timestamptz[]) as u(key, expires_at) \
                 on conflict (mapping, key) do update set expires_at = excluded.expires_at",
            );
            let keys: Vec<&[u8]> = expiring.iter().map(|(key, _)| *key).collect();
            let times: Vec<_> = expiring.iter().map(|(_, ms)| text_of_epoch_ms(*ms)).collect();
            self.execute(query.bind(&mapping.name).bind(keys).bind(times)).await?;
        }
        Ok(())
    }

    async fn execute_on_all(
        &mut self,
        query: Query<'_, sqlx::Postgres, PgArguments>,
        rows: usize,
    ) -> Result<(), StoreError> {
        let changed = self.execute(query).await?;
        if usize::try_from(changed) == Ok(rows) { Ok(()) } else { Err(StoreError::Raced) }
    }

    pub(super) async fn execute(
        &mut self,
        query: Query<'_, sqlx::Postgres, PgArguments>,
    ) -> Result<u64, StoreError> {
        let done = self.attempt(async |connection| query.execute(connection).await).await?;
        Ok(done.rows_affected())
    }
}

// === impl Written ===

impl<'a> Written<'a> {
    fn new(
        layout: &Layout,
        change: &Change<'a>,
        record: &'a Record,
        whole: bool,
    ) -> Result<Self, Unencodable> {
        if !has_row(layout, change.key) {
            return Err(layout.key_out_of_range());
        }
        let mut columns = vec![None; layout.fields().len()];
        let mut extra = extra::Writer::default();
        let mut names = String::new();
        let mut values = vec![None; layout.fields().len()];
        if whole {
            for (field, value) in &record.fields {
                layout.encode_field(field, value, &mut values, &mut extra)?;
            }
            columns = values.into_iter().map(Some).collect();
        } else {
            for field in change.draft.touched() {
                if let Some(value) = record.fields.get(field) {
                    layout.encode_field(field, value, &mut values, &mut extra)?;
                }
                if let Some(place) = layout.column_of(field) {
                    columns[place] = Some(values[place].take());
                }
                push_array_element(&mut names, &extra::name_of(field));
            }
        }
        names.push_str(if names.is_empty() { "{}" } else { "}" });
        let expiry_touched = whole || change.draft.expiry_touched();
        let extra = extra.finish();
        Ok(Self { key: change.key, record, columns, whole, names, extra, expiry_touched })
    }

    fn changes_extra(&self) -> bool {
        self.whole || self.names.len() > 2
    }

    /// A bit for each column of the shape, then: extra is patched, extra is replaced, expiry.
    fn mask(&self, shape: &UpdateShape) -> Vec<u8> {
        let columns = shape.columns.iter().map(|place| self.columns[*place].is_some());
        let bits = columns.chain([self.changes_extra(), self.whole, self.expiry_touched]);
        let mut mask = vec![0; (shape.columns.len() + 3).div_ceil(8)];
        for (place, _) in bits.enumerate().filter(|(_, bit)| *bit) {
            // As Postgres' get_bit counts: from the lowest bit of the first byte.
            mask[place / 8] |= 1 << (place % 8);
        }
        mask
    }

    fn size(&self) -> usize {
        let columns = self.columns.iter().flatten().flatten();
        columns.map(|text| text.len()).sum::<usize>()
            + self.names.len()
            + self.extra.as_ref().map_or(0, String::len)
    }
}

/// Rows in their order, cut so that a statement stays below `MAX_STATEMENT_BYTES` where it can.
fn chunks<'r, 'a>(rows: &'r [Written<'a>]) -> impl Iterator<Item = &'r [Written<'a>]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |row: &&Written<'_>| {
            size += row.size();
            size <= MAX_STATEMENT_BYTES
        };
        let count = rest.iter().take_while(fits).count().max(1).min(rest.len());
        let (chunk, after) = rest.split_at(count);
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn column_array<'r>(rows: &'r [Written<'_>], place: usize) -> Vec<Option<&'r str>> {
    rows.iter().map(|row| row.columns[place].as_ref().and_then(Option::as_deref)).collect()
}

fn extra_array<'r>(rows: &'r [Written<'_>]) -> Vec<Option<&'r str>> {
    rows.iter().map(|row| row.extra.as_deref()).collect()
}

fn expiry_array(rows: &[Written<'_>]) -> Vec<Option<String>> {
    rows.iter().map(|row| row.record.expires_at_ms.map(text_of_epoch_ms)).collect()
}

/// Adds an element to the text of a Postgres array, which the caller closes.
fn push_array_element(text: &mut String, element: &str) {
    text.push(if text.is_empty() { '{' } else { ',' });
    text.push('"');
    for character in element.chars() {
        if matches!(character, '"' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text.push('"');
}

// === statements ===

/// Numbers the parameters of a statement, and names them in the `unnest` they are rows of.
struct Parameters {
    sql: String,
    aliases: String,
    count: usize,
}

impl Parameters {
    fn of_keys(layout: &Layout) -> Self {
        let (sql, aliases) = (key_parameters(layout), key_aliases(layout));
        Self { sql, aliases, count: layout.keys().len() }
    }

    fn add(&mut self, cast: &str, alias: &str) {
        self.count += 1;
        write!(self.sql, ", ${}::{cast}", self.count).expect("writing to a string cannot fail");
        write!(self.aliases, ", {alias}").expect("writing to a string cannot fail");
    }

    /// A column's values, and what to write of a row. They are cast one by one: an array of texts
    /// cannot be cast to an array of arrays.
    fn add_column(&mut self, layout: &Layout, place: usize) -> String {
        self.add("text[]", &format!("c{place}"));
        format!("u.c{place}::{}", layout.fields()[place].type_name)
    }
}

fn insert_statement(layout: &Layout) -> String {
    let mut parameters = Parameters::of_keys(layout);
    let key_columns: Vec<_> = layout.keys().iter().map(|key| quote(&key.column)).collect();
    let mut columns = key_columns.clone();
    let mut values: Vec<_> = (0..key_columns.len()).map(|place| format!("u.k{place}")).collect();
    for (place, field) in layout.fields().iter().enumerate() {
        let value = parameters.add_column(layout, place);
        columns.push(quote(&field.column));
        values.push(match &field.default {
            Some(default) => format!("coalesce({value}, {default})"),
            None => value,
        });
    }
    if let Some(extra) = layout.extra() {
        parameters.add("text[]::jsonb[]", "extra");
        columns.push(quote(&extra.column));
        values.push(if extra.not_null { "coalesce(u.extra, '{}')" } else { "u.extra" }.into());
    }
    if let Some(column) = layout.expires_at() {
        parameters.add("text[]::timestamptz[]", "expires_at");
        columns.push(quote(column));
        values.push("u.expires_at".into());
    }
    format!(
        "insert into {} ({}) select {} from unnest({}) as u({}) on conflict ({}) do nothing",
        layout.table().quoted(),
        columns.join(", "),
        values.join(", "),
        parameters.sql,
        parameters.aliases,
        key_columns.join(", ")
    )
}

fn update_statement(layout: &Layout, shape: &UpdateShape) -> String {
    let mut parameters = Parameters::of_keys(layout);
    let mut settings = Vec::new();
    let bit = |place: usize| format!("get_bit(u.mask, {place}) = 1");
    let set = |column: &str, place: usize, value: &str| {
        let column = quote(column);
        if shape.masked {
            format!("{column} = case when {} then {value} else t.{column} end", bit(place))
        } else {
            format!("{column} = {value}")
        }
    };
    let flags = shape.columns.len();
    for (place, column) in shape.columns.iter().enumerate() {
        let value = parameters.add_column(layout, *column);
        let field = &layout.fields()[*column];
        // A row that is written anew is one that is inserted.
        let value = match &field.default {
            Some(default) if shape.masked => format!(
                "case when {} then coalesce({value}, {default}) else {value} end",
                bit(flags + 1)
            ),
            _ => value,
        };
        settings.push(set(&field.column, place, &value));
    }
    if let (true, Some(extra)) = (shape.extra, layout.extra()) {
        parameters.add("text[]::jsonb[]", "extra");
        parameters.add("text[]", "names");
        let old = format!("t.{}", quote(&extra.column));
        let (new, empty) =
            if extra.not_null { ("coalesce(u.extra, '{}')", "null") } else { ("u.extra", "'{}'") };
        let replaced = if shape.masked { bit(flags + 1) } else { "false".into() };
        let value = format!(
            "case when {replaced} or {old} is null or jsonb_typeof({old}) <> 'object' then {new} \
             when u.extra is null and not {old} ?| u.names::text[] then {old} \
             else nullif(({old} - u.names::text[]) || coalesce(u.extra, '{{}}'), {empty}) end"
        );
        settings.push(set(&extra.column, flags, &value));
    }
    if let (true, Some(column)) = (shape.expiry, layout.expires_at()) {
        parameters.add("text[]::timestamptz[]", "expires_at");
        settings.push(set(column, flags + 2, "u.expires_at"));
    }
    if shape.masked {
        parameters.add("bytea[]", "mask");
    }
    format!(
        "update {} as t set {} from unnest({}) as u({}) where {}",
        layout.table().quoted(),
        settings.join(", "),
        parameters.sql,
        parameters.aliases,
        key_condition(layout)
    )
}
