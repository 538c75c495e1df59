//! Sizes and durations as an operator writes them.

/// Longest duration, so that no sum of durations and clocks overflows: ten years.
const MAX_DURATION_MS: u128 = 3650 * 86_400_000;

/// Reads a duration such as `24h`, `500ms`, `1.5s`, as milliseconds.
///
/// # Errors
/// What is wrong and the way out. Parts of a millisecond, zero, and more than ten years are refused.
pub(super) fn duration_ms(text: &str) -> Result<u64, String> {
    let units = [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
    let advice = "a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"";
    let (number, unit) = split_unit(text);
    let Some((_, factor)) = units.into_iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() {
            format!("a duration needs its unit: \"{number}ms\", \"{number}s\"")
        } else {
            format!("{text:?} is not a duration; write {advice}")
        });
    };
    match multiply(number, factor) {
        Some(0) => Err(format!("{text:?} is not longer than nothing; write {advice}")),
        Some(ms) if ms <= MAX_DURATION_MS => Ok(u64::try_from(ms).unwrap_or(u64::MAX)),
        Some(_) => Err(format!("{text:?} is longer than ten years; write at most \"3650d\"")),
        None => Err(format!("{text:?} is not a duration of whole milliseconds; write {advice}")),
    }
}

/// Reads a size such as `512mb`, as bytes. Units as in redis.conf: `k` is 1000, `kb` 1024, and
/// so on; upper and lower case mean the same.
///
/// # Errors
/// What is wrong and the way out.
pub(super) fn size_bytes(text: &str) -> Result<u64, String> {
    let units = [
        ("", 1),
        ("b", 1),
        ("k", 1000),
        ("kb", 1 << 10),
        ("m", 1_000_000),
        ("mb", 1 << 20),
        ("g", 1_000_000_000),
        ("gb", 1 << 30),
    ];
    let (number, unit) = split_unit(text);
    units
        .into_iter()
        .find(|(name, _)| name.eq_ignore_ascii_case(unit))
        .and_then(|(_, factor)| multiply(number, factor))
        .and_then(|bytes| u64::try_from(bytes).ok())
        .ok_or_else(|| {
            format!(
                "{text:?} is not a size; write bytes, or a number and its unit (kb, mb, gb), such \
                 as \"512mb\""
            )
        })
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..end], text[end..].trim_start())
}

/// A decimal number times a whole one, where that is a whole one.
fn multiply(number: &str, factor: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.len() > 20 || fraction.len() > 9 {
        return None;
    }
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let parts = fraction.parse::<u128>().ok()?.checked_mul(factor)?;
    let whole = whole.parse::<u128>().ok()?.checked_mul(factor)?;
    parts.is_multiple_of(scale).then(|| whole + parts / scale)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        #[rustfmt::skip]
        let cases: &[(&str, Result<u64, &str>)] = &[
            ("24h", Ok(86_400_000)),
            ("500ms", Ok(500)),
            ("1.5s", Ok(1500)),
            ("1.001s", Ok(1001)),
            ("10 s", Ok(10_000)),
            ("2m", Ok(120_000)),
            ("3650d", Ok(315_360_000_000)),
            ("3651d", Err("\"3651d\" is longer than ten years; write at most \"3650d\"")),
            ("99999999999999999999d", Err("\"99999999999999999999d\" is longer than ten years; write at most \"3650d\"")),
            ("5", Err("a duration needs its unit: \"5ms\", \"5s\"")),
            ("0s", Err("\"0s\" is not longer than nothing; write a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"")),
            ("1.5ms", Err("\"1.5ms\" is not a duration of whole milliseconds; write a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"")),
            ("1..5s", Err("\"1..5s\" is not a duration of whole milliseconds; write a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"")),
            ("1h30m", Err("\"1h30m\" is not a duration; write a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"")),
            ("-1s", Err("\"-1s\" is not a duration; write a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"")),
            ("s", Err("\"s\" is not a duration of whole milliseconds; write a number and its unit (ms, s, m, h, d), such as \"500ms\", \"1.5s\" or \"24h\"")),
        ];
        for (text, expected) in cases {
            assert_eq!(duration_ms(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn sizes_have_the_units_of_redis() {
        #[rustfmt::skip]
        let cases: &[(&str, Option<u64>)] = &[
            ("0", Some(0)),
            ("512mb", Some(536_870_912)),
            ("512 MB", Some(536_870_912)),
            ("1.5gb", Some(1_610_612_736)),
            ("1k", Some(1000)),
            ("7b", Some(7)),
            ("0.3b", None),
            ("1tb", None),
            ("", None),
            ("mb", None),
            ("-1", None),
            ("99999999999999999999gb", None),
        ];
        for (text, expected) in cases {
            assert_eq!(size_bytes(text).ok(), *expected, "{text}");
        }
    }
}
