//! A field's bytes as the value of a typed column, and back, without losing a byte.
//!
//! Columns travel as Postgres' own text, under the session settings of the store (time zone UTC,
//! ISO dates, hex bytea, shortest floats).
//!
//! Invariants
//! - `encode` gives the canonical text: what `column::text` says after the value was stored.
//! - `exact` means that `render` of that text gives the very same bytes.
//! - Bytes of which Postgres would refuse the type (out of range, too long) have no value here.
//! - What is read as a value is at most what Postgres' own input reads; of its spellings that
//!   depend on version, settings or the clock (`0x10`, `1_000`, `tomorrow`, `20.11.2026`) none is.
//!   docs/types.md says for each type what counts.

mod array;
mod clock;
mod float;
mod json;
mod moment;
mod network;
mod number;
mod word;

use std::borrow::Cow;

use bytes::Bytes;

use super::shape::{BaseType, ColumnShape, ElementShape};

pub use json::write_json_string;
pub use moment::{micros_of_text, text_of_epoch_ms};

/// How one column's values are spelled by clients and by Postgres.
#[derive(Clone, Debug)]
pub struct Codec {
    kind: Kind,
}

/// What a field's bytes are to a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded<'a> {
    /// The column's value as Postgres writes it; `None`: the bytes are no value of the type.
    pub column: Option<Cow<'a, str>>,
    /// Whether rendering the value gives the very same bytes.
    pub exact: bool,
}

#[derive(Clone, Debug)]
enum Kind {
    Text {
        max_characters: Option<usize>,
    },
    /// Blanks at the end do not count.
    Char {
        characters: Option<usize>,
    },
    Bytea,
    Integer {
        min: i64,
        max: i64,
    },
    Numeric {
        limit: Option<number::Precision>,
    },
    Real,
    Double,
    Boolean {
        yes: String,
        no: String,
    },
    Date,
    Time {
        zoned: bool,
        digits: u32,
    },
    Moment {
        format: moment::Format,
        zoned: bool,
        digits: u32,
    },
    Uuid,
    Inet,
    Cidr,
    Macaddr,
    Json,
    Jsonb,
    Enum {
        labels: Vec<String>,
    },
    Array {
        element: Box<Codec>,
    },
}

const MOMENT_FORMATS: &str = "iso8601-ms, iso8601, epoch-s, epoch-ms, postgres";
const SUPPORTED: &str = "text, varchar, char, bytea, smallint, integer, bigint, numeric, real, double \
                         precision, boolean, date, time, timetz, timestamp, timestamptz, uuid, inet, \
                         cidr, macaddr, json, jsonb, enums, arrays of these";

/// How much longer than the bytes a value's canonical text may be: `1e131071` is a number of 8 bytes
/// whose text has 131,072, and a document or an array may hold many.
const MAX_GROWTH_BYTES: usize = 16 << 20;

// === impl Codec ===

impl Codec {
    /// The codec of a column, with the format that the configuration gives it.
    ///
    /// # Errors
    /// What is wrong with the type or the format, with the way out.
    pub fn new(column: &ColumnShape, format: Option<&str>) -> Result<Self, String> {
        let length = |modifier: i32| usize::try_from(modifier - 4).ok();
        let digits = u32::try_from(column.modifier).unwrap_or(6).min(6);
        let kind = match &column.base {
            BaseType::Boolean => return boolean(format.unwrap_or("true/false")),
            BaseType::Timestamp | BaseType::TimestampTz => return moment_codec(column, format),
            BaseType::Text => Kind::Text { max_characters: None },
            BaseType::Varchar => Kind::Text { max_characters: length(column.modifier) },
            BaseType::Char => Kind::Char { characters: length(column.modifier) },
            BaseType::Bytea => Kind::Bytea,
            BaseType::Smallint => Kind::Integer { min: i16::MIN.into(), max: i16::MAX.into() },
            BaseType::Integer => Kind::Integer { min: i32::MIN.into(), max: i32::MAX.into() },
            BaseType::Bigint => Kind::Integer { min: i64::MIN, max: i64::MAX },
            BaseType::Numeric => {
                Kind::Numeric { limit: number::Precision::of_modifier(column.modifier) }
            }
            BaseType::Real => Kind::Real,
            BaseType::Double => Kind::Double,
            BaseType::Date => Kind::Date,
            BaseType::Time => Kind::Time { zoned: false, digits },
            BaseType::TimeTz => Kind::Time { zoned: true, digits },
            BaseType::Uuid => Kind::Uuid,
            BaseType::Inet => Kind::Inet,
            BaseType::Cidr => Kind::Cidr,
            BaseType::Macaddr => Kind::Macaddr,
            BaseType::Json => Kind::Json,
            BaseType::Jsonb => Kind::Jsonb,
            BaseType::Enum(labels) => Kind::Enum { labels: labels.clone() },
            BaseType::Array(element) => Kind::Array { element: element_codec(column, element)? },
            BaseType::Other => {
                return Err(format!(
                    "type {} is not supported; make the column text, or one of: {SUPPORTED}",
                    column.type_name
                ));
            }
        };
        match format {
            None => Ok(Self { kind }),
            Some(format) => Err(format!(
                "format \"{format}\" means nothing for type {}; leave it out (formats are for \
                 boolean and timestamp columns)",
                column.type_name
            )),
        }
    }

    /// What a client's bytes are to the column.
    pub fn encode<'a>(&self, bytes: &'a [u8]) -> Encoded<'a> {
        if let Kind::Bytea = self.kind {
            return Encoded { column: Some(word::hex_of(bytes).into()), exact: true };
        }
        let Some(text) = carried(bytes) else { return Encoded::NOTHING };
        match &self.kind {
            Kind::Boolean { yes, no } => {
                let value = match () {
                    () if text == yes => Some(true),
                    () if text == no => Some(false),
                    () => word::boolean(text),
                };
                let Some(value) = value else { return Encoded::NOTHING };
                Encoded {
                    column: Some(Cow::Borrowed(if value { "true" } else { "false" })),
                    exact: text == if value { yes } else { no },
                }
            }
            Kind::Moment { format, zoned, digits } => {
                let Some(moment) = moment::read(text, *format) else { return Encoded::NOTHING };
                let Some(moment) = moment.rounded(*digits) else { return Encoded::NOTHING };
                Encoded {
                    exact: moment.client_text(*format, *zoned) == text,
                    column: Some(moment.postgres_text(*zoned).into()),
                }
            }
            Kind::Inet => {
                let Some(column) = network::inet(text) else { return Encoded::NOTHING };
                Encoded { exact: network::host(&column) == text, column: Some(column.into()) }
            }
            _ => match self.canonical(text) {
                Some(canonical) => Encoded { exact: canonical == text, column: Some(canonical) },
                None => Encoded::NOTHING,
            },
        }
    }

    /// The text that Postgres gives back of a value, for kinds that clients get in that text.
    fn canonical<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        let max_bytes = || text.len().saturating_mul(4).saturating_add(MAX_GROWTH_BYTES);
        let canonical = match &self.kind {
            Kind::Text { max_characters } => {
                return word::at_most(text, *max_characters).map(Cow::Borrowed);
            }
            Kind::Char { characters } => {
                let text = word::at_most(text, *characters)?;
                return Some(text.trim_end_matches(' ').into());
            }
            Kind::Json => return json::is_json(text).then_some(Cow::Borrowed(text)),
            Kind::Enum { labels } => {
                return labels.iter().any(|label| label == text).then_some(Cow::Borrowed(text));
            }
            Kind::Integer { min, max } => number::integer(text, *min, *max),
            Kind::Numeric { limit } => number::numeric(text, limit.as_ref()),
            Kind::Real => float::real(text),
            Kind::Double => float::double(text),
            Kind::Date => moment::date(text),
            Kind::Time { zoned, digits } => clock::time(text, *digits, *zoned),
            Kind::Uuid => word::uuid(text),
            Kind::Cidr => network::cidr(text),
            Kind::Macaddr => network::macaddr(text),
            Kind::Jsonb => json::jsonb(text, max_bytes()),
            Kind::Array { element } => {
                array::canonical(text, max_bytes(), |text| element.element(text))
            }
            Kind::Bytea | Kind::Boolean { .. } | Kind::Moment { .. } | Kind::Inet => {
                return self.element(text);
            }
        };
        canonical.map(Cow::Owned)
    }

    /// The text that a value has within an array: that of the type's output function, where
    /// `column::text` is another.
    fn element<'a>(&self, text: &'a str) -> Option<Cow<'a, str>> {
        match &self.kind {
            Kind::Boolean { .. } => {
                word::boolean(text).map(|value| if value { "t" } else { "f" }.into())
            }
            Kind::Char { characters: None } => Some(text.into()),
            Kind::Char { characters: Some(width) } => {
                let text = word::at_most(text, Some(*width))?;
                Some(format!("{text:width$}").into())
            }
            Kind::Bytea => word::bytes_of_input(text).map(|bytes| word::hex_of(&bytes).into()),
            Kind::Inet => network::inet(text).map(|text| network::host(&text).to_owned().into()),
            Kind::Moment { zoned, digits, .. } => {
                let moment = moment::read(text, moment::Format::Postgres)?.rounded(*digits)?;
                Some(moment.postgres_text(*zoned).into())
            }
            _ => self.canonical(text),
        }
    }

    /// The bytes that a client gets for a column's value, given as Postgres' text.
    pub fn render(&self, text: &str) -> Bytes {
        match &self.kind {
            Kind::Bytea => word::bytes_of_hex(text),
            Kind::Boolean { yes, no } => {
                Bytes::copy_from_slice(if text == "true" { yes } else { no }.as_bytes())
            }
            Kind::Moment { format, zoned, .. } => {
                match moment::read(text, moment::Format::Postgres) {
                    Some(moment) => moment.client_text(*format, *zoned).into(),
                    None => Bytes::copy_from_slice(text.as_bytes()),
                }
            }
            Kind::Inet => Bytes::copy_from_slice(network::host(text).as_bytes()),
            _ => Bytes::copy_from_slice(text.as_bytes()),
        }
    }

    /// Whether bytes that were kept beside the column still stand for what the column holds.
    pub fn still_means(&self, bytes: &[u8], column: Option<&str>) -> bool {
        self.encode(bytes).column.as_deref() == column
    }
}

// === impl Encoded ===

impl Encoded<'_> {
    const NOTHING: Self = Self { column: None, exact: false };
}

/// The bytes as text that Postgres can carry: UTF-8 without NUL.
pub fn carried(bytes: &[u8]) -> Option<&str> {
    if memchr::memchr(0, bytes).is_some() {
        return None;
    }
    std::str::from_utf8(bytes).ok()
}

fn boolean(format: &str) -> Result<Codec, String> {
    match format.split_once('/') {
        Some((yes, no)) if yes != no && !no.contains('/') => {
            Ok(Codec { kind: Kind::Boolean { yes: yes.into(), no: no.into() } })
        }
        _ => Err(format!(
            "format \"{format}\" is none for a boolean; write the words for true and for false \
             with a slash between them, as in \"true/false\" or \"1/0\""
        )),
    }
}

fn moment_codec(column: &ColumnShape, format: Option<&str>) -> Result<Codec, String> {
    let format = match format {
        None => moment::Format::Iso8601Ms,
        Some(name) => moment::Format::of_name(name).ok_or_else(|| {
            format!("format \"{name}\" is none for a timestamp; use one of: {MOMENT_FORMATS}")
        })?,
    };
    let zoned = column.base == BaseType::TimestampTz;
    let digits = u32::try_from(column.modifier).unwrap_or(6).min(6);
    Ok(Codec { kind: Kind::Moment { format, zoned, digits } })
}

fn element_codec(column: &ColumnShape, element: &ElementShape) -> Result<Box<Codec>, String> {
    let shape =
        ColumnShape { base: element.base.clone(), modifier: element.modifier, ..column.clone() };
    Codec::new(&shape, None).map(Box::new)
}
