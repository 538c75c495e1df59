//! Writing values that have one row an element: the rows of the elements that changed, and no others.
//!
//! Invariants
//! - Rows are changed in the order of keys and elements, the same in every session.
//! - A key that was deleted by name, or whose time had come, loses all its rows before it gets new ones;
//!   one that went with its last elements loses their rows, so that one which SQL has just added stays.
//!
//! The caller holds the keys' locks, and has read what it changes: see `Session::begin_reading`.

use std::borrow::Cow;

use super::element_read::{names, sources};
use super::error::StoreError;
use super::parameters::{Asked, Parameters};
use super::read::{equals, has_row, key_arrays, key_condition};
use super::statement::Statement;
use super::write::{Change, Expiries};
use crate::mapping::layout::ElementRow;
use crate::mapping::shape::quote;
use crate::mapping::{Layout, MappedKey, Mapping};

/// Rows that go into one statement, and the bytes of their values where one alone is not larger.
const STATEMENT_ROWS: usize = 20_000;
const STATEMENT_BYTES: usize = 64 << 20;

/// The rows of one mapping that are going to be written.
#[derive(Default)]
pub(super) struct ElementRows<'a> {
    /// Keys that lose all of them.
    cleared: Vec<&'a MappedKey>,
    removed: Vec<Element<'a>>,
    set: Vec<Element<'a>>,
    expiries: Expiries<'a>,
}

/// One row.
struct Element<'a> {
    key: &'a MappedKey,
    row: ElementRow<'a>,
}

// === impl Element ===

impl Element<'_> {
    fn size(&self) -> usize {
        let ElementRow { element, value, extra } = &self.row;
        element.len()
            + value.as_ref().map_or(0, |value| value.len())
            + extra.as_ref().map_or(0, String::len)
    }
}

// === impl ElementRows ===

impl<'a> ElementRows<'a> {
    pub(super) fn of(layout: &'a Layout, order: &[Change<'a>]) -> Result<Self, StoreError> {
        let mut rows = Self::default();
        let Self { cleared, removed, set, expiries } = &mut rows;
        for &Change { key, present, draft } in order {
            if !has_row(layout, key) {
                if draft.exists() {
                    return Err(layout.key_out_of_range().into());
                }
                continue;
            }
            let is_cleared = !draft.existed() || draft.cleared();
            if is_cleared && present {
                cleared.push(key);
            }
            if is_cleared || draft.replaced() || draft.expiry_touched() {
                expiries.push(key, draft.expires_at_ms());
            }
            let (from_removed, from_set) = (removed.len(), set.len());
            for name in draft.touched() {
                match draft.get(name) {
                    Some(value) => {
                        let row = layout.encode_element(name, value)?;
                        set.push(Element { key, row });
                    }
                    None if is_cleared => {}
                    None => {
                        let Some(element) = layout.element_text(name) else { continue };
                        let row = ElementRow { element, value: None, extra: None };
                        removed.push(Element { key, row });
                    }
                }
            }
            removed[from_removed..].sort_unstable_by(by_element);
            set[from_set..].sort_unstable_by(by_element);
        }
        Ok(rows)
    }

    /// Adds the statements that bring them into the mapping's table.
    pub(super) fn write<'s>(&'s self, mapping: &'s Mapping, statements: &mut Vec<Statement<'s>>) {
        let layout = &mapping.layout;
        if !self.cleared.is_empty() {
            statements.push(clearing(layout, &self.cleared));
        }
        statements.extend(chunks(&self.removed).map(|rows| removing(layout, rows)));
        statements.extend(chunks(&self.set).map(|rows| setting(layout, rows)));
        self.expiries.write(mapping, statements);
    }
}

// === the statements ===

fn clearing<'s>(layout: &Layout, keys: &[&'s MappedKey]) -> Statement<'s> {
    let mut statement = Statement::new(format!(
        "delete from {} as t using unnest({}) as u({}) where {}",
        layout.table().quoted(),
        sources(layout, 1, &["bigint[]"]),
        names(layout, "n"),
        key_condition(layout)
    ));
    for array in key_arrays(layout, keys.iter().copied()) {
        statement = statement.bind(array);
    }
    // An array for the rows of a key without captures to come from.
    statement.bind(vec![0_i64; keys.len()])
}

fn removing<'s>(layout: &Layout, rows: &'s [Element<'_>]) -> Statement<'s> {
    let (name, type_name) = element_of(layout);
    let mut statement = Statement::new(format!(
        "delete from {} as t using unnest({}) as u({}) where {} and {}",
        layout.table().quoted(),
        sources(layout, 1, &[&format!("text[]::{type_name}[]")]),
        names(layout, "element"),
        key_condition(layout),
        equals(layout.keys().len(), name, "u.element")
    ));
    for array in key_arrays(layout, rows.iter().map(|row| row.key)) {
        statement = statement.bind(array);
    }
    statement.bind(elements(rows))
}

fn setting<'s>(layout: &Layout, rows: &'s [Element<'_>]) -> Statement<'s> {
    let mut statement = Statement::new(set_statement(layout, Asked::of(rows.len())));
    let has_value = !layout.fields().is_empty();
    if let [Element { key, row }] = rows {
        for text in key.capture_texts() {
            statement = statement.bind(text);
        }
        statement = statement.bind(&*row.element);
        if has_value {
            statement = statement.bind(row.value.as_deref());
        }
        if layout.extra().is_some() {
            statement = statement.bind(row.extra.as_deref());
        }
        return statement;
    }
    for array in key_arrays(layout, rows.iter().map(|row| row.key)) {
        statement = statement.bind(array);
    }
    statement = statement.bind(elements(rows));
    if has_value {
        let values = rows.iter().map(|row| row.row.value.as_deref());
        statement = statement.bind(values.collect::<Vec<_>>());
    }
    if layout.extra().is_some() {
        let extras = rows.iter().map(|row| row.row.extra.as_deref());
        statement = statement.bind(extras.collect::<Vec<_>>());
    }
    statement
}

fn by_element(one: &Element<'_>, other: &Element<'_>) -> std::cmp::Ordering {
    one.row.element.cmp(&other.row.element)
}

fn elements<'r>(rows: &'r [Element<'_>]) -> Vec<&'r str> {
    rows.iter().map(|row| &*row.row.element).collect()
}

/// The name and the type of the element's column.
fn element_of(layout: &Layout) -> (&str, &str) {
    layout.element().map_or(("", "text"), |element| (&element.column, &element.type_name))
}

fn set_statement(layout: &Layout, asked: Asked) -> String {
    let (name, type_name) = element_of(layout);
    let mut columns: Vec<String> = layout.keys().iter().map(|key| quote(&key.column)).collect();
    columns.push(quote(name));
    let unique = columns.join(", ");
    let mut parameters = Parameters::of_keys(layout, asked);
    parameters.add(&["text", type_name], "element");
    let mut values: Vec<Cow<'_, str>> =
        (0..layout.keys().len()).map(|place| format!("u.k{place}").into()).collect();
    values.push("u.element".into());
    let mut settings = Vec::new();
    if let Some(value) = layout.fields().first() {
        // Cast one by one: arrays of arrays have no text of their own.
        parameters.add(&["text"], "value");
        let column = quote(&value.column);
        settings.push(format!("{column} = excluded.{column}"));
        columns.push(column);
        values.push(format!("u.value::{}", value.type_name).into());
    }
    if let Some(extra) = layout.extra() {
        parameters.add(&["text", "jsonb"], "extra");
        let column = quote(&extra.column);
        settings.push(format!("{column} = excluded.{column}"));
        columns.push(column);
        values.push(if extra.not_null { "coalesce(u.extra, '{}')" } else { "u.extra" }.into());
    }
    let on_conflict = if settings.is_empty() {
        "do nothing".to_owned()
    } else {
        format!("do update set {}", settings.join(", "))
    };
    format!(
        "insert into {} ({}) select {} from {} on conflict ({unique}) {on_conflict}",
        layout.table().quoted(),
        columns.join(", "),
        values.join(", "),
        parameters.source(),
    )
}

fn chunks<'r, 'a>(rows: &'r [Element<'a>]) -> impl Iterator<Item = &'r [Element<'a>]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut size = 0;
        let fits = |row: &&Element<'_>| {
            size += row.size();
            size <= STATEMENT_BYTES
        };
        let most = rest.len().min(STATEMENT_ROWS);
        let count = rest[..most].iter().take_while(fits).count().max(1).min(rest.len());
        let (chunk, after) = rest.split_at(count);
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}
