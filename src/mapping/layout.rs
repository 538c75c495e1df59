//! How a mapped value lies in its table: key columns, field columns, `extra`, expiry; or, for the
//! kinds with one row an element, key columns, the element's column, and the value's.
//!
//! Invariants
//! - Every row gives back exactly one key, or one element of one key: these columns have a unique
//!   index of their own.
//! - A field or member that a row is found by is in its column exactly, or it is refused.
//! - A field with a column is in the column, in `extra` (bytes that the column cannot give back),
//!   or in both; a field without a column is in `extra`.
//! - Bytes in `extra` of a field with a column count only while they still mean what the column
//!   holds, so that an UPDATE by SQL is seen.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::Bytes;

use super::codec::Codec;
use super::extra;
use super::shape::{TableName, quote};
use crate::config::Kind;
use crate::value::Fields;

/// The longest value that is brought to Postgres: it takes a message of at most 1 GiB, and text
/// forms double the bytes.
pub const MAX_VALUE_BYTES: usize = 128 << 20;

/// Where a mapping's keys and fields are in its table.
#[derive(Clone, Debug)]
pub struct Layout {
    pub(super) mapping: String,
    pub(super) table: TableName,
    pub(super) keys: Vec<KeyColumn>,
    /// Places in `keys`, in the order of the columns in the unique index.
    pub(super) key_order: Vec<usize>,
    /// The column of a row's field or member; `None`: one row a key.
    pub(super) element: Option<KeyColumn>,
    /// With one row an element: the value's column alone, or none for sets.
    pub(super) fields: Vec<FieldColumn>,
    pub(super) extra: Option<ExtraColumn>,
    pub(super) expires_at: Option<String>,
    pub(super) by_field: HashMap<Bytes, usize, ahash::RandomState>,
}

/// A column that holds one of the key's captures.
#[derive(Clone, Debug)]
pub struct KeyColumn {
    pub capture: String,
    pub column: String,
    /// Ready for a cast.
    pub type_name: String,
    /// Captures that it does not give back exactly are out of the column's range: no row can be
    /// theirs.
    pub codec: Codec,
}

/// A column that holds one field.
#[derive(Clone, Debug)]
pub struct FieldColumn {
    pub field: Bytes,
    pub column: String,
    /// Ready for a cast.
    pub type_name: String,
    pub codec: Codec,
    pub not_null: bool,
    /// SQL of the column's default; only used where the column is NOT NULL.
    pub default: Option<String>,
}

/// An element as a row: Postgres' text for its columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementRow<'a> {
    pub element: Cow<'a, str>,
    /// `None` for members of sets, and for a value that only `extra` has.
    pub value: Option<Cow<'a, str>>,
    pub extra: Option<String>,
}

/// The jsonb column for fields without a column and for odd bytes.
#[derive(Clone, Debug)]
pub struct ExtraColumn {
    pub column: String,
    pub not_null: bool,
}

/// A hash as a row: Postgres' text for every column of the layout.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row<'a> {
    /// In the layout's order of fields.
    pub columns: Vec<Option<Cow<'a, str>>>,
    /// A JSON object; `None` when there is nothing to keep in it.
    pub extra: Option<String>,
}

/// A field whose bytes the mapping has no place for. Nothing of the hash may be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("mapping {mapping:?}: {reason}; nothing was written")]
pub struct Unencodable {
    pub mapping: String,
    /// As a client may see it: what is not UTF-8 replaced. Empty when the key itself has no place.
    pub field: String,
    pub column: Option<String>,
    pub type_name: Option<String>,
    /// What is wrong, for people.
    pub reason: String,
}

/// What one field's bytes are to the row.
pub(crate) enum Place<'a> {
    /// In its column alone.
    Column(Cow<'a, str>),
    /// In `extra`, with the value, if there is one, in the column too.
    Extra(Option<Cow<'a, str>>),
}

// === impl Layout ===

impl Layout {
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// In the order of the key pattern's captures.
    pub fn keys(&self) -> &[KeyColumn] {
        &self.keys
    }

    /// The places of the key columns in the order of their unique index: who walks through the table
    /// compares and sorts in this order, so that the index serves both.
    pub fn key_order(&self) -> &[usize] {
        &self.key_order
    }

    /// What the keys hold, and in how many rows.
    pub fn kind(&self) -> Kind {
        match (&self.element, self.fields.is_empty()) {
            (None, _) => Kind::Hash,
            (Some(_), false) => Kind::HashEntries,
            (Some(_), true) => Kind::Set,
        }
    }

    /// The column of a row's field or member; `None`: one row a key.
    pub fn element(&self) -> Option<&KeyColumn> {
        self.element.as_ref()
    }

    /// In the configuration's order; with one row an element: the value's column alone, or none for
    /// sets.
    pub fn fields(&self) -> &[FieldColumn] {
        &self.fields
    }

    pub fn extra(&self) -> Option<&ExtraColumn> {
        self.extra.as_ref()
    }

    /// The column of the key's own expiry; `None`: it is kept in `respgres.expiry`.
    pub fn expires_at(&self) -> Option<&str> {
        self.expires_at.as_deref()
    }

    /// The place among `fields` of the column that holds a field.
    pub fn column_of(&self, field: &[u8]) -> Option<usize> {
        self.by_field.get(field).copied()
    }

    /// Whether there is a place for a field with this value, or for a member (without a value).
    ///
    /// # Errors
    /// Without an `extra` column: a field without a column, and bytes that the field's column cannot
    /// give back. With one: bytes without a value for a NOT NULL column. In any case: a value longer
    /// than [`MAX_VALUE_BYTES`], and a field or member that its own column cannot give back.
    pub fn check_field(&self, field: &[u8], value: &[u8]) -> Result<(), Unencodable> {
        if self.element.is_some() {
            self.encode_element(field, value).map(drop)
        } else {
            self.place(field, value).map(drop)
        }
    }

    /// An element's name as its column holds it; `None`: no row can be its own.
    pub fn element_text<'a>(&self, element: &'a [u8]) -> Option<Cow<'a, str>> {
        let encoded = self.element.as_ref()?.codec.encode(element);
        encoded.column.filter(|_| encoded.exact)
    }

    /// The row of one element; `value` is empty for a set's member.
    ///
    /// # Errors
    /// As [`Layout::check_field`].
    pub fn encode_element<'a>(
        &self,
        element: &'a [u8],
        value: &'a [u8],
    ) -> Result<ElementRow<'a>, Unencodable> {
        let Some(text) = self.element_text(element) else {
            let column = self.element.as_ref();
            let (name, type_name) =
                column.map_or(("", ""), |column| (&column.column, &column.type_name));
            return Err(Unencodable {
                mapping: self.mapping.clone(),
                field: String::from_utf8_lossy(element).into_owned(),
                column: Some(name.to_owned()),
                type_name: Some(type_name.to_owned()),
                reason: format!(
                    "{} {:?} could not be given back unchanged by column {name:?} of type \
                     {type_name}",
                    if self.fields.is_empty() { "member" } else { "field" },
                    String::from_utf8_lossy(element),
                ),
            });
        };
        let mut row = ElementRow { element: text, value: None, extra: None };
        if let Some(column) = self.fields.first() {
            row.value = match self.place_in(Some(column), element, value)? {
                Place::Column(text) => Some(text),
                Place::Extra(text) => {
                    let mut extra = extra::Writer::default();
                    extra.put(&column.field, value);
                    row.extra = extra.finish();
                    text
                }
            };
        }
        Ok(row)
    }

    /// The element of a row, with its value (empty for a set's member); `None` for a row without a
    /// value, which is no element.
    pub fn decode_element(
        &self,
        element: &str,
        value: Option<&str>,
        extra: Option<&str>,
    ) -> Option<(Bytes, Bytes)> {
        let element = self.element.as_ref()?.codec.render(element);
        let Some(column) = self.fields.first() else { return Some((element, Bytes::new())) };
        let kept = extra.and_then(|extra| extra::read(extra).shift_remove(&column.field));
        let value = match (kept, value) {
            (Some(kept), value) if column.codec.still_means(&kept, value) => kept,
            (_, Some(value)) => column.codec.render(value),
            (_, None) => return None,
        };
        Some((element, value))
    }

    /// SQL that says whether a row, called `t`, is an element: one with a value in either place.
    pub fn element_condition(&self) -> Option<String> {
        let value = quote(&self.fields.first()?.column);
        Some(match &self.extra {
            None => format!("t.{value} is not null"),
            Some(extra) => {
                let extra = quote(&extra.column);
                format!("(t.{value} is not null or t.{extra} ? 'value')")
            }
        })
    }

    /// What to say of a key that the key columns cannot hold.
    pub fn key_out_of_range(&self) -> Unencodable {
        let types: Vec<_> = self.keys.iter().map(|key| key.type_name.as_str()).collect();
        Unencodable {
            mapping: self.mapping.clone(),
            field: String::new(),
            column: None,
            type_name: None,
            reason: format!("the key does not fit into its columns ({})", types.join(", ")),
        }
    }

    /// The row of a whole hash.
    ///
    /// # Errors
    /// As [`Layout::check_field`], for the first field that has no place.
    pub fn encode<'a>(&self, fields: &'a Fields) -> Result<Row<'a>, Unencodable> {
        let mut row = Row { columns: vec![None; self.fields.len()], extra: None };
        let mut extra = extra::Writer::default();
        for (field, value) in fields {
            self.encode_field(field, value, &mut row.columns, &mut extra)?;
        }
        row.extra = extra.finish();
        Ok(row)
    }

    /// Puts one field into a row.
    pub(crate) fn encode_field<'a>(
        &self,
        field: &[u8],
        value: &'a [u8],
        columns: &mut [Option<Cow<'a, str>>],
        extra: &mut extra::Writer,
    ) -> Result<(), Unencodable> {
        let column = match self.place(field, value)? {
            Place::Column(text) => Some(text),
            Place::Extra(text) => {
                extra.put(field, value);
                text
            }
        };
        if let Some(index) = self.column_of(field) {
            columns[index] = column;
        }
        Ok(())
    }

    /// The hash of a row: fields with columns in the configuration's order, then those of `extra`.
    pub fn decode<'a>(
        &self,
        columns: impl Iterator<Item = Option<&'a str>>,
        extra: Option<&str>,
    ) -> Fields {
        let mut fields = Fields::default();
        let mut extra = extra.map(extra::read).unwrap_or_default();
        for (column, text) in self.fields.iter().zip(columns) {
            let kept = if extra.is_empty() { None } else { extra.shift_remove(&column.field) };
            let value = match (kept, text) {
                (Some(kept), text) if column.codec.still_means(&kept, text) => Some(kept),
                (_, Some(text)) => Some(column.codec.render(text)),
                (_, None) => None,
            };
            if let Some(value) = value {
                fields.insert(column.field.clone(), value);
            }
        }
        fields.extend(extra);
        fields
    }

    fn place<'a>(&self, field: &[u8], value: &'a [u8]) -> Result<Place<'a>, Unencodable> {
        let column = self.column_of(field).map(|index| &self.fields[index]);
        self.place_in(column, field, value)
    }

    fn place_in<'a>(
        &self,
        column: Option<&FieldColumn>,
        field: &[u8],
        value: &'a [u8],
    ) -> Result<Place<'a>, Unencodable> {
        let refused = |reason: String| Unencodable {
            mapping: self.mapping.clone(),
            field: String::from_utf8_lossy(field).into_owned(),
            column: column.map(|column| column.column.clone()),
            type_name: column.map(|column| column.type_name.clone()),
            reason: format!("field {:?} {reason}", String::from_utf8_lossy(field)),
        };
        if value.len() > MAX_VALUE_BYTES {
            return Err(refused(format!("is longer than {} MiB", MAX_VALUE_BYTES >> 20)));
        }
        let Some(column) = column else {
            return match self.extra {
                Some(_) => Ok(Place::Extra(None)),
                None => Err(refused("has no column, and there is no extra column".into())),
            };
        };
        let encoded = column.codec.encode(value);
        match (encoded.column, encoded.exact) {
            (Some(text), true) => Ok(Place::Column(text)),
            (None, _) if column.not_null => Err(refused(format!(
                "has no value of type {} for the NOT NULL column {:?}",
                column.type_name, column.column
            ))),
            (text, _) if self.extra.is_some() => Ok(Place::Extra(text)),
            _ => Err(refused(format!(
                "could not be given back unchanged by column {:?} of type {}, and there is no \
                 extra column",
                column.column, column.type_name
            ))),
        }
    }
}
