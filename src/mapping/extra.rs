//! The `extra` column: a JSON object of fields without a column and of bytes that a column cannot
//! give back.
//!
//! `{"field": "text", "field2": {"base64": "…"}, "base64:…": "text"}`: values that JSON cannot carry
//! (NUL, not UTF-8) are wrapped in an object; field names that it cannot carry, or that look like a
//! wrapped one, get `base64:` and their Base64 for a name. What SQL users write there in other
//! shapes is read leniently: numbers, booleans, arrays and objects as their JSON text, null as
//! nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::codec::{carried, write_json_string};
use crate::value::Fields;

const WRAPPED_NAME: &str = "base64:";
const WRAPPED_VALUE: &str = "base64";

/// Writes an `extra` object, field after field.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    text: String,
}

impl Writer {
    pub(crate) fn put(&mut self, field: &[u8], value: &[u8]) {
        self.text.push(if self.text.is_empty() { '{' } else { ',' });
        write_json_string(&mut self.text, &name_of(field));
        self.text.push(':');
        match carried(value) {
            Some(value) => write_json_string(&mut self.text, value),
            None => {
                self.text.push_str("{\"base64\":\"");
                STANDARD.encode_string(value, &mut self.text);
                self.text.push_str("\"}");
            }
        }
    }

    /// The object; `None` when nothing was put into it.
    pub(crate) fn finish(mut self) -> Option<String> {
        if self.text.is_empty() {
            return None;
        }
        self.text.push('}');
        Some(self.text)
    }
}

/// The name under which a field stands in the object.
pub(crate) fn name_of(field: &[u8]) -> std::borrow::Cow<'_, str> {
    match carried(field) {
        Some(name) if !name.starts_with(WRAPPED_NAME) => name.into(),
        _ => format!("{WRAPPED_NAME}{}", STANDARD.encode(field)).into(),
    }
}

/// The fields of an `extra` column's text; none when it is no object.
pub(super) fn read(text: &str) -> Fields {
    let Ok(Value::Object(members)) = serde_json::from_str(text) else { return Fields::default() };
    let entries = members.into_iter().filter_map(|(name, value)| {
        let field = match name.strip_prefix(WRAPPED_NAME).map(|name| STANDARD.decode(name)) {
            Some(Ok(field)) => Bytes::from(field),
            _ => Bytes::from(name),
        };
        Some((field, value_of(value)?))
    });
    entries.collect()
}

fn value_of(value: Value) -> Option<Bytes> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(Bytes::from(text)),
        Value::Object(members) if members.len() == 1 => {
            let wrapped = members.get(WRAPPED_VALUE).and_then(Value::as_str);
            let bytes = wrapped.and_then(|wrapped| STANDARD.decode(wrapped).ok());
            Some(bytes.map_or_else(|| Value::Object(members).to_string().into(), Bytes::from))
        }
        other => Some(other.to_string().into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(fields: &[(&[u8], &[u8])]) -> (String, Fields) {
        let mut writer = Writer::default();
        fields.iter().for_each(|(field, value)| writer.put(field, value));
        let text = writer.finish().expect("there are fields");
        let read = read(&text);
        (text, read)
    }

    #[test]
    fn names_and_values_that_json_cannot_carry_come_back() {
        let fields: &[(&[u8], &[u8])] = &[
            (b"plain", b"text \"quoted\""),
            (b"", b""),
            (b"nul\0", b"\0"),
            (b"\xff", b"\xfe"),
            (b"base64:aGk=", b"{\"base64\":\"aGk=\"}"),
            (b"base64:", b"x"),
        ];
        let (text, read) = round(fields);
        assert!(!text.contains("\\u0000"), "{text}");
        assert_eq!(read.len(), fields.len());
        for (field, value) in fields {
            assert_eq!(read.get(*field).map(|value| &value[..]), Some(*value), "{field:?}");
        }
    }

    #[test]
    fn what_sql_users_write_is_read_leniently() {
        let read = read(r#"{"n": 1.50, "t": true, "z": null, "a": [1, "x"], "base64:!": "b"}"#);
        let read: Vec<_> = read.iter().map(|(field, value)| (&field[..], &value[..])).collect();
        let expected: Vec<(&[u8], &[u8])> =
            vec![(b"a", b"[1,\"x\"]"), (b"base64:!", b"b"), (b"n", b"1.50"), (b"t", b"true")];
        assert_eq!(read, expected);
        assert!(super::read("[1]").is_empty());
    }
}
