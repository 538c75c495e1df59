//! Writing values that have one row each: one statement for each kind of change.
//!
//! Invariants
//! - A column that no operation has touched is not written, so what SQL put there stays as it is.
//! - Statement shapes are few: an update names the columns that change if `column_sets` admits it, else
//!   all columns, and a bit a column says for each row whether it changes.
//!
//! One row alone is written with single values instead of arrays, which costs Postgres less.

use std::borrow::Cow;

use super::column_sets::SetsByNumber;
use super::parameters::{Asked, Parameters, condition};
use super::read::{has_row, key_aliases, key_arrays, key_condition, key_parameters};

use super::statement::{Argument, Statement};
use super::write::{Change, Expiries, checked};
use crate::mapping::codec::text_of_epoch_ms;
use crate::mapping::extra;
use crate::mapping::layout::Unencodable;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};
use crate::value::Record;

/// Values of so many bytes go into one statement; Postgres takes a message of at most 1 GiB.
const MAX_STATEMENT_BYTES: usize = 64 << 20;

/// The rows of one mapping that are going to be written.
pub(super) struct WholeRows<'a> {
    deleted: Vec<&'a MappedKey>,
    updated: Vec<Written<'a>>,
    inserted: Vec<Written<'a>>,
    expiries: Expiries<'a>,
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

// === impl WholeRows ===

impl<'a> WholeRows<'a> {
    pub(super) fn of(layout: &'a Layout, order: &[Change<'a>]) -> Result<Self, Unencodable> {
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
        let mut expiries = Expiries::default();
        if layout.expires_at().is_none() {
            deleted.iter().for_each(|key| expiries.push(key, None));
            for row in updated.iter().chain(&inserted).filter(|row| row.expiry_touched) {
                expiries.push(row.key, row.record.expires_at_ms);
            }
        }
        Ok(Self { deleted, updated, inserted, expiries })
    }

    /// Adds the statements that bring them into the mapping's table.
    pub(super) fn write<'s>(
        &'s self,
        mapping: &'s Mapping,
        column_sets: &mut SetsByNumber,
        statements: &mut Vec<Statement<'s>>,
    ) {
        let layout = &mapping.layout;
        // Deletes come first, so that a value that has to be unique can move to another key.
        if !self.deleted.is_empty() {
            statements.push(deleting(layout, &self.deleted));
        }
        for rows in chunks(&self.updated) {
            let shape = UpdateShape::of(mapping, rows, column_sets);
            statements.extend(updating(layout, &shape, rows));
        }
        statements.extend(chunks(&self.inserted).map(|rows| inserting(layout, rows)));
        self.expiries.write(mapping, statements);
    }
}

// === impl UpdateShape ===

impl UpdateShape {
    /// What the rows change, if that is known or there is room to remember it, else everything.
    fn of(mapping: &Mapping, rows: &[Written<'_>], column_sets: &mut SetsByNumber) -> Self {
        let layout = &mapping.layout;
        let all: Vec<usize> = (0..layout.fields().len()).collect();
        let touched = |place: &usize| rows.iter().any(|row| row.columns[*place].is_some());
        let mut columns: Vec<usize> = all.iter().copied().filter(touched).collect();
        if !column_sets.of(rows.len()).admit(&mapping.name, &columns) {
            columns = all;
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
        Self { columns, extra, expiry, masked }
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

fn number_of(rows: &[Written<'_>]) -> i64 {
    i64::try_from(rows.len()).unwrap_or(i64::MAX)
}

/// Gives the next parameter a text of each row: an array, or one alone.
fn bind_texts<'s, T>(
    statement: Statement<'s>,
    asked: Asked,
    texts: impl Iterator<Item = Option<T>>,
) -> Statement<'s>
where
    Argument<'s>: From<Option<T>> + From<Vec<Option<T>>>,
{
    match asked {
        Asked::One => statement.bind(texts.last().flatten()),
        Asked::Several => statement.bind(texts.collect::<Vec<_>>()),
    }
}

fn bind_keys<'s>(
    mut statement: Statement<'s>,
    layout: &Layout,
    asked: Asked,
    rows: &'s [Written<'_>],
) -> Statement<'s> {
    if let (Asked::One, [row]) = (asked, rows) {
        for text in row.key.capture_texts() {
            statement = statement.bind(text);
        }
        return statement;
    }
    for array in key_arrays(layout, rows.iter().map(|row| row.key)) {
        statement = statement.bind(array);
    }
    statement
}

fn column_texts<'r>(
    rows: &'r [Written<'_>],
    place: usize,
) -> impl Iterator<Item = Option<&'r str>> {
    rows.iter().map(move |row| row.columns[place].as_ref().and_then(Option::as_deref))
}

fn extra_texts<'r>(rows: &'r [Written<'_>]) -> impl Iterator<Item = Option<&'r str>> {
    rows.iter().map(|row| row.extra.as_deref())
}

fn expiry_texts(rows: &[Written<'_>]) -> impl Iterator<Item = Option<String>> {
    rows.iter().map(|row| row.record.expires_at_ms.map(text_of_epoch_ms))
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

fn deleting<'s>(layout: &Layout, keys: &[&'s MappedKey]) -> Statement<'s> {
    let mut statement = Statement::new(format!(
        "delete from {} as t using unnest({}) as u({}) where {}",
        layout.table().quoted(),
        key_parameters(layout),
        key_aliases(layout),
        key_condition(layout)
    ));
    for array in key_arrays(layout, keys.iter().copied()) {
        statement = statement.bind(array);
    }
    statement
}

fn inserting<'s>(layout: &Layout, rows: &'s [Written<'_>]) -> Statement<'s> {
    let asked = Asked::of(rows.len());
    let statement = Statement::new(insert_statement(layout, asked));
    let mut statement = bind_keys(statement, layout, asked, rows);
    for place in 0..layout.fields().len() {
        statement = bind_texts(statement, asked, column_texts(rows, place));
    }
    if layout.extra().is_some() {
        statement = bind_texts(statement, asked, extra_texts(rows));
    }
    if layout.expires_at().is_some() {
        statement = bind_texts(statement, asked, expiry_texts(rows));
    }
    statement.bind(number_of(rows))
}

/// `None` when nothing in the table changes.
fn updating<'s>(
    layout: &Layout,
    shape: &UpdateShape,
    rows: &'s [Written<'_>],
) -> Option<Statement<'s>> {
    if shape.columns.is_empty() && !shape.extra && !shape.expiry {
        return None;
    }
    // Masks are for rows that differ.
    let asked = if shape.masked { Asked::Several } else { Asked::of(rows.len()) };
    let statement = Statement::new(update_statement(layout, shape, asked));
    let mut statement = bind_keys(statement, layout, asked, rows);
    for place in &shape.columns {
        statement = bind_texts(statement, asked, column_texts(rows, *place));
    }
    if shape.extra {
        statement = bind_texts(statement, asked, extra_texts(rows));
        let names = rows.iter().map(|row| Some(row.names.as_str()));
        statement = bind_texts(statement, asked, names);
    }
    if shape.expiry {
        statement = bind_texts(statement, asked, expiry_texts(rows));
    }
    if shape.masked {
        statement = statement.bind(rows.iter().map(|row| row.mask(shape)).collect::<Vec<_>>());
    }
    Some(statement.bind(number_of(rows)))
}

/// A column's values, and what to write of a row. They are cast one by one: an array of texts cannot be
/// cast to an array of arrays.
fn add_column(parameters: &mut Parameters, layout: &Layout, place: usize) -> String {
    parameters.add(&["text"], &format!("c{place}"));
    format!("u.c{place}::{}", layout.fields()[place].type_name)
}

fn insert_statement(layout: &Layout, asked: Asked) -> String {
    let mut parameters = Parameters::of_keys(layout, asked);
    let key_columns: Vec<_> = layout.keys().iter().map(|key| quote(&key.column)).collect();
    let mut columns = key_columns.clone();
    let mut values: Vec<_> = (0..key_columns.len()).map(|place| format!("u.k{place}")).collect();
    for (place, field) in layout.fields().iter().enumerate() {
        let value = add_column(&mut parameters, layout, place);
        columns.push(quote(&field.column));
        values.push(match &field.default {
            Some(default) => format!("coalesce({value}, {default})"),
            None => value,
        });
    }
    if let Some(extra) = layout.extra() {
        parameters.add(&["text", "jsonb"], "extra");
        columns.push(quote(&extra.column));
        values.push(if extra.not_null { "coalesce(u.extra, '{}')" } else { "u.extra" }.into());
    }
    if let Some(column) = layout.expires_at() {
        parameters.add(&["text", "timestamptz"], "expires_at");
        columns.push(quote(column));
        values.push("u.expires_at".into());
    }
    let insert = format!(
        "insert into {} ({}) select {} from {} on conflict ({}) do nothing",
        layout.table().quoted(),
        columns.join(", "),
        values.join(", "),
        parameters.source(),
        key_columns.join(", ")
    );
    checked(&insert, parameters.count + 1)
}

fn update_statement(layout: &Layout, shape: &UpdateShape, asked: Asked) -> String {
    let mut parameters = Parameters::of_keys(layout, asked);
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
        let value = add_column(&mut parameters, layout, *column);
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
        parameters.add(&["text", "jsonb"], "extra");
        parameters.add(&["text"], "names");
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
        parameters.add(&["text", "timestamptz"], "expires_at");
        settings.push(set(column, flags + 2, "u.expires_at"));
    }
    if shape.masked {
        parameters.add(&["bytea"], "mask");
    }
    let update = format!(
        "update {} as t set {} from {} where {}",
        layout.table().quoted(),
        settings.join(", "),
        parameters.source(),
        condition(layout, asked)
    );
    checked(&update, parameters.count + 1)
}
