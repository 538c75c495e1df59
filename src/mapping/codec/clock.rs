//! The time of day: alone, as the types `time` and `timetz` hold it, and as a part of a timestamp.
//!
//! A day has the moment 24:00:00 at its end, and a minute may have a second 60, which is the next
//! minute's first.

use super::word::trim;

pub(super) const SECOND: i64 = 1_000_000;
pub(super) const DAY: i64 = 86_400 * SECOND;

/// The canonical text of a time of day, rounded to so many digits of a second; with its offset when
/// `zoned`, else an offset is dropped, as by Postgres.
pub(super) fn time(text: &str, digits: u32, zoned: bool) -> Option<String> {
    let (micros, rest) = read_clock(trim(text))?;
    let offset = read_zone(rest)?.unwrap_or(0);
    let unit = 10_i64.pow(6 - digits.min(6));
    let micros = (micros + unit / 2) / unit * unit;
    let (seconds, fraction) = (micros / SECOND, shortest_fraction(micros % SECOND));
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    let offset = if zoned { offset_text(offset) } else { String::new() };
    Some(format!("{hour:02}:{minute:02}:{second:02}{fraction}{offset}"))
}

/// `H:MM[:SS[.fraction]]` at the front: microseconds since midnight, at most a whole day.
pub(super) fn read_clock(text: &str) -> Option<(i64, &str)> {
    let (hour, rest) = number(text, 1, 2)?;
    let (minute, mut rest) = number(rest.strip_prefix(':')?, 1, 2)?;
    let (mut second, mut micros) = (0, 0);
    if let Some(seconds) = rest.strip_prefix(':') {
        (second, rest) = number(seconds, 1, 2)?;
        if let Some(fraction) = rest.strip_prefix('.') {
            (micros, rest) = read_fraction(fraction);
        }
    }
    let within = (hour * 3600 + minute * 60 + second) * SECOND + micros;
    let in_range = minute < 60 && second <= 60 && within <= DAY;
    (in_range && !rest.starts_with(['.', ':'])).then_some((within, rest))
}

/// Digits of a second in microseconds, rounded as Postgres does it (`ParseFractionalSecond`): read
/// as a binary fraction, which then is rounded half to even.
fn read_fraction(text: &str) -> (i64, &str) {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, rest) = text.split_at(length);
    let fraction: f64 = format!("0.{digits}0").parse().unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, reason = "it is between 0 and a million")]
    let micros = (fraction * 1e6).round_ties_even() as i64;
    (micros, rest)
}

/// Seconds east of Greenwich, after spaces: `Z`, `UTC` and `GMT` in any case, `±HH`, `±HHMM`,
/// `±HH:MM`, `±HH:MM:SS`. The inner `None`: nothing is said.
#[expect(clippy::option_option, reason = "text that is no zone is something else than no text")]
pub(super) fn read_zone(text: &str) -> Option<Option<i64>> {
    let text = trim(text);
    let sign = match text.as_bytes().first() {
        None => return Some(None),
        Some(b'+') => 1,
        Some(b'-') => -1,
        Some(_) => {
            let is_zero = ["z", "utc", "gmt"].iter().any(|word| text.eq_ignore_ascii_case(word));
            return is_zero.then_some(Some(0));
        }
    };
    let (first, mut rest) = number(&text[1..], 1, 4)?;
    let mut parts =
        if text.len() - rest.len() > 3 { [first / 100, first % 100, 0] } else { [first, 0, 0] };
    if text.len() - rest.len() <= 3 {
        for part in &mut parts[1..] {
            let Some(digits) = rest.strip_prefix(':') else { break };
            (*part, rest) = number(digits, 1, 2)?;
        }
    }
    let [hours, minutes, seconds] = parts;
    let in_range = hours < 16 && minutes < 60 && seconds < 60 && rest.is_empty();
    in_range.then_some(Some(sign * (hours * 3600 + minutes * 60 + seconds)))
}

/// `+02`, `-05:30`, `+00:00:01`.
fn offset_text(offset: i64) -> String {
    let sign = if offset < 0 { '-' } else { '+' };
    let (hours, minutes, seconds) =
        (offset.abs() / 3600, offset.abs() / 60 % 60, offset.abs() % 60);
    match (minutes, seconds) {
        (0, 0) => format!("{sign}{hours:02}"),
        (_, 0) => format!("{sign}{hours:02}:{minutes:02}"),
        _ => format!("{sign}{hours:02}:{minutes:02}:{seconds:02}"),
    }
}

/// A number of `least` to `most` digits at the front, not followed by another digit.
pub(super) fn number(text: &str, least: usize, most: usize) -> Option<(i64, &str)> {
    let length = text.bytes().take_while(u8::is_ascii_digit).count();
    if !(least..=most).contains(&length) {
        return None;
    }
    Some((text[..length].parse().ok()?, &text[length..]))
}

/// `.142` of 142000 microseconds; nothing of 0.
pub(super) fn shortest_fraction(micros: i64) -> String {
    if micros == 0 {
        return String::new();
    }
    format!(".{micros:06}").trim_end_matches('0').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_postgres_writes_them() {
        for (text, value) in [
            ("10:11", "10:11:00"),
            (" 1:2:3.50 ", "01:02:03.5"),
            ("24:00", "24:00:00"),
            ("23:59:60", "24:00:00"),
            ("10:11:60.5", "10:12:00.5"),
            ("23:59:59.9999999", "24:00:00"),
            ("10:11:12.0000005", "10:11:12"),
            ("10:11:12.1428575", "10:11:12.142858"),
            ("10:11:12.", "10:11:12"),
            ("10:11:12+02", "10:11:12"),
        ] {
            assert_eq!(time(text, 6, false).as_deref(), Some(value), "{text}");
        }
        for text in ["", "10", "24:00:01", "23:59:60.5", "10:60", "25:00", "10:11.5", "10:11:12x"] {
            assert_eq!(time(text, 6, false), None, "{text}");
        }
        assert_eq!(time("10:11:12.135", 2, false).as_deref(), Some("10:11:12.14"));
    }

    #[test]
    fn a_zoned_time_keeps_its_offset() {
        for (text, value) in [
            ("10:11", "10:11:00+00"),
            ("10:11z", "10:11:00+00"),
            ("10:11 +02", "10:11:00+02"),
            ("10:11+0230", "10:11:00+02:30"),
            ("10:11-02:30:15", "10:11:00-02:30:15"),
            ("10:11+2:3", "10:11:00+02:03"),
        ] {
            assert_eq!(time(text, 6, true).as_deref(), Some(value), "{text}");
        }
        for text in ["10:11+", "10:11+16", "10:11+02:60", "10:11+02:", "10:11 PM", "10:11CET"] {
            assert_eq!(time(text, 6, true), None, "{text}");
        }
    }
}
