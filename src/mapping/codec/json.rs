//! JSON: what the type `json` takes as it is, and the form that `jsonb` gives back.

use serde_json::Value;

use super::number;

/// Deeper documents are no value of a column: Postgres parses them on its stack. (serde_json reads
/// documents for `jsonb` down to 128 levels.)
const MAX_DEPTH: usize = 512;

/// Whether the type `json` takes the text (which it then keeps as it is).
pub(super) fn is_json(text: &str) -> bool {
    depth(text) <= MAX_DEPTH && serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok()
}

/// The text that a `jsonb` column gives back: keys by length, then by bytes, the last of equal keys,
/// one space after colons and commas, numbers as numerics. `limit` bytes at most, and a little.
pub(super) fn jsonb(text: &str, limit: usize) -> Option<String> {
    let value: Value = serde_json::from_str(text).ok()?;
    let mut canonical = String::with_capacity(text.len());
    write_value(&mut canonical, &value, limit)?;
    Some(canonical)
}

/// Nothing when there is a NUL in a string, a number out of a numeric's range, or too much.
fn write_value(text: &mut String, value: &Value, limit: usize) -> Option<()> {
    if text.len() > limit {
        return None;
    }
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(true) => text.push_str("true"),
        Value::Bool(false) => text.push_str("false"),
        Value::Number(value) => text.push_str(&number::numeric(value.as_str(), None)?),
        Value::String(value) => {
            if value.contains('\0') {
                return None;
            }
            write_json_string(text, value);
        }
        Value::Array(values) => {
            text.push('[');
            for (place, value) in values.iter().enumerate() {
                text.push_str(if place == 0 { "" } else { ", " });
                write_value(text, value, limit)?;
            }
            text.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(name, _)| (name.len(), name.as_bytes()));
            text.push('{');
            for (place, (name, value)) in members.into_iter().enumerate() {
                text.push_str(if place == 0 { "" } else { ", " });
                if name.contains('\0') {
                    return None;
                }
                write_json_string(text, name);
                text.push_str(": ");
                write_value(text, value, limit)?;
            }
            text.push('}');
        }
    }
    Some(())
}

/// A string as Postgres escapes it (`escape_json`). A NUL, which `jsonb` does not take, is written as
/// it is.
pub fn write_json_string(text: &mut String, value: &str) {
    text.push('"');
    for character in value.chars() {
        match character {
            '\u{8}' => text.push_str("\\b"),
            '\u{c}' => text.push_str("\\f"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            '"' => text.push_str("\\\""),
            '\\' => text.push_str("\\\\"),
            _ if character < ' ' => text.push_str(&format!("\\u{:04x}", u32::from(character))),
            _ => text.push(character),
        }
    }
    text.push('"');
}

/// How deep brackets are nested outside of strings.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_postgres_takes() {
        for text in ["{}", " [1, 2.50e3]\n", "\"\\u0000\"", "\"\\ud800\"", "null", "-0"] {
            assert!(is_json(text), "{text}");
        }
        for text in ["", "{", "[1,]", "01", "NaN", "'a'", "{\"a\":1}x", "\"\t\""] {
            assert!(!is_json(text), "{text}");
        }
        assert!(is_json(&format!("{}{}", "[".repeat(512), "]".repeat(512))));
        assert!(!is_json(&format!("{}{}", "[".repeat(513), "]".repeat(513))));
    }

    #[test]
    fn jsonb_has_its_own_form() {
        for (text, value) in [
            (r#"{"bb":1,"a":2,"a":3}"#, r#"{"a": 3, "bb": 1}"#),
            (r#"[1.50,1e3,-0,1E-2]"#, "[1.50, 1000, 0, 0.01]"),
            (r#""\u0041\u001f\/\ud83d\ude00""#, "\"A\\u001f/\u{1f600}\""),
            ("[ ]", "[]"),
        ] {
            assert_eq!(jsonb(text, 1 << 20).as_deref(), Some(value), "{text}");
        }
        for text in ["", "\"\\u0000\"", "\"\\ud800\"", "1e999999", "{\"\\u0000\":1}"] {
            assert_eq!(jsonb(text, 1 << 20), None, "{text}");
        }
        // Nine bytes stand for 131,072.
        let long = |count: usize| format!("[{}]", vec!["1e131071"; count].join(","));
        assert_eq!(jsonb(&long(7), 1 << 20).map(|text| text.len()), Some(7 * 131_074));
        assert_eq!(jsonb(&long(100_000), 1 << 20), None);
    }
}
