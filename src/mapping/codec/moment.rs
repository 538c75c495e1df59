//! Dates and timestamps: ISO 8601, epoch numbers, and Postgres' own text.
//!
//! A timestamp without time zone holds UTC: an offset in a client's bytes is applied, not dropped.

use super::clock::{DAY, SECOND, number, read_clock, read_zone, shortest_fraction};
use super::word::{is_space, trim};

/// How clients spell a timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// `2026-11-20T22:20:35.142Z`; six digits where the value has microseconds.
    Iso8601Ms,
    /// `2026-11-20T22:20:35Z`; as many digits as the value needs.
    Iso8601,
    /// Seconds since 1970, with a fraction where the value has one.
    EpochS,
    /// Milliseconds since 1970, with a fraction where the value has microseconds.
    EpochMs,
    /// Postgres' own text.
    Postgres,
}

/// Microseconds since 2000-01-01 00:00 UTC, as Postgres counts; the ends of `i64` are infinite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment(i64);

/// A calendar date: days since 1970-01-01.
type Day = i64;

/// Days from 1970-01-01 to 2000-01-01.
const DAYS_TO_2000: Day = 10_957;
/// Microseconds from 1970 to 2000.
const MICROS_TO_2000: i64 = DAYS_TO_2000 * DAY;
/// 4714-11-24 BC, the first day that Postgres knows (`JULIAN_MINYEAR` and what follows it).
const FIRST_DAY: Day = -2_440_588;
/// 5874898-01-01, the first day after a date's range.
const DATE_END: Day = 2_145_042_906;
/// 294277-01-01, the first moment after a timestamp's range (`END_TIMESTAMP`).
const MOMENT_END: i64 = 9_223_371_331_200_000_000;

/// The canonical text of a date. As in Postgres, the time of a timestamp is dropped.
pub(super) fn date(text: &str) -> Option<String> {
    let text = trim(text);
    if let Some(moment) = Moment::of_word(text) {
        let text = moment.postgres_text(false);
        return Some(text.strip_suffix(" 00:00:00").unwrap_or(&text).into());
    }
    let (day, _) = read_day_and_time(text)?;
    (FIRST_DAY..DATE_END).contains(&day).then(|| {
        let (year, month, day) = civil(day);
        let (year, era) = postgres_year(year);
        format!("{year:04}-{month:02}-{day:02}{era}")
    })
}

/// A client's or Postgres' text as a timestamp; bare numbers only where the format is an epoch.
pub(super) fn read(text: &str, format: Format) -> Option<Moment> {
    let text = trim(text);
    let number = match format {
        Format::EpochS => read_micros(text, 6),
        Format::EpochMs => read_micros(text, 3),
        Format::Iso8601Ms | Format::Iso8601 | Format::Postgres => None,
    };
    if let Some(micros) = number {
        return Moment::of_unix_micros(micros);
    }
    if let Some(moment) = Moment::of_word(text) {
        return Some(moment);
    }
    let (day, within) = read_day_and_time(text)?;
    Moment::of_unix_micros(i128::from(day) * i128::from(DAY) + i128::from(within))
}

/// Microseconds since 1970 of a timestamp in Postgres' text; `None` for text that is none,
/// the ends of `i64` for the infinite ones.
pub fn micros_of_text(text: &str) -> Option<i64> {
    match read(text, Format::Postgres)? {
        Moment(micros @ (i64::MIN | i64::MAX)) => Some(micros),
        Moment(micros) => Some(micros.saturating_add(MICROS_TO_2000)),
    }
}

/// Milliseconds since 1970 as Postgres' text of a `timestamptz`; infinite beyond its range.
pub fn text_of_epoch_ms(epoch_ms: i64) -> String {
    let infinite = if epoch_ms < 0 { Moment(i64::MIN) } else { Moment(i64::MAX) };
    Moment::of_unix_micros(i128::from(epoch_ms) * 1000).unwrap_or(infinite).postgres_text(true)
}

// === impl Format ===

impl Format {
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "iso8601-ms" => Self::Iso8601Ms,
            "iso8601" => Self::Iso8601,
            "epoch-s" => Self::EpochS,
            "epoch-ms" => Self::EpochMs,
            "postgres" => Self::Postgres,
            _ => return None,
        })
    }
}

// === impl Moment ===

impl Moment {
    fn of_unix_micros(micros: i128) -> Option<Self> {
        let first = i128::from(FIRST_DAY - DAYS_TO_2000) * i128::from(DAY);
        let since_2000 = micros - i128::from(MICROS_TO_2000);
        let in_range = (first..i128::from(MOMENT_END)).contains(&since_2000);
        in_range.then(|| i64::try_from(since_2000).ok().map(Self)).flatten()
    }

    fn of_word(text: &str) -> Option<Self> {
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        match () {
            () if is("infinity") => Some(Self(i64::MAX)),
            () if is("-infinity") => Some(Self(i64::MIN)),
            () if is("epoch") => Some(Self(-MICROS_TO_2000)),
            () => None,
        }
    }

    fn is_infinite(self) -> bool {
        matches!(self.0, i64::MIN | i64::MAX)
    }

    /// Rounded to so many digits of a second, half away from 2000-01-01, as `timestamp(3)` does
    /// (`AdjustTimestampForTypmod`); `None` when that leaves the range.
    pub(super) fn rounded(self, digits: u32) -> Option<Self> {
        if digits >= 6 || self.is_infinite() {
            return Some(self);
        }
        let unit = 10_i64.pow(6 - digits);
        let magnitude = (self.0.abs() + unit / 2) / unit * unit;
        let micros = if self.0 < 0 { -magnitude } else { magnitude };
        let first = (FIRST_DAY - DAYS_TO_2000) * DAY;
        (first..MOMENT_END).contains(&micros).then_some(Self(micros))
    }

    /// The text that Postgres gives back: of a `timestamptz` when `zoned`.
    pub(super) fn postgres_text(self, zoned: bool) -> String {
        match self.0 {
            i64::MAX => "infinity".into(),
            i64::MIN => "-infinity".into(),
            _ => {
                let (year, era) = postgres_year(self.civil().0);
                let (_, month, day) = self.civil();
                let (hour, minute, second, micros) = self.clock();
                let fraction = shortest_fraction(micros);
                let zone = if zoned { "+00" } else { "" };
                format!(
                    "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction}{zone}{era}"
                )
            }
        }
    }

    /// The bytes that a client gets.
    pub(super) fn client_text(self, format: Format, zoned: bool) -> String {
        if self.is_infinite() {
            return self.postgres_text(zoned);
        }
        match format {
            Format::Postgres => self.postgres_text(zoned),
            Format::EpochS => self.epoch_text(6),
            Format::EpochMs => self.epoch_text(3),
            Format::Iso8601 => self.iso_text(&shortest_fraction(self.clock().3)),
            Format::Iso8601Ms => {
                let micros = self.clock().3;
                self.iso_text(&if micros % 1000 == 0 {
                    format!(".{:03}", micros / 1000)
                } else {
                    format!(".{micros:06}")
                })
            }
        }
    }

    /// Years outside of 0 to 9999 have a sign and six digits, as in ECMAScript.
    fn iso_text(self, fraction: &str) -> String {
        let (year, month, day) = self.civil();
        let (hour, minute, second, _) = self.clock();
        let year = match year {
            0..=9999 => format!("{year:04}"),
            _ if year < 0 => format!("-{:06}", -year),
            _ => format!("+{year:06}"),
        };
        format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
    }

    /// Units of `10^-places` microseconds since 1970, with a fraction where there is one.
    fn epoch_text(self, places: u32) -> String {
        let micros = i128::from(self.0) + i128::from(MICROS_TO_2000);
        let unit = 10_i128.pow(places);
        let (whole, part) = (micros.abs() / unit, micros.abs() % unit);
        let sign = if micros < 0 { "-" } else { "" };
        if part == 0 {
            return format!("{sign}{whole}");
        }
        let width = usize::try_from(places).unwrap_or(6);
        let part = format!("{part:0width$}");
        format!("{sign}{whole}.{}", part.trim_end_matches('0'))
    }

    fn civil(self) -> (i64, i64, i64) {
        civil(self.0.div_euclid(DAY) + DAYS_TO_2000)
    }

    /// Hour, minute, second, microsecond.
    fn clock(self) -> (i64, i64, i64, i64) {
        let micros = self.0.rem_euclid(DAY);
        let seconds = micros / SECOND;
        (seconds / 3600, seconds / 60 % 60, seconds % 60, micros % SECOND)
    }
}

// === the calendar (proleptic Gregorian, year 0 = 1 BC) ===

fn civil(day: Day) -> (i64, i64, i64) {
    // Years that start in March, in eras of 400 years: leap days come last.
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let year = year + era * 400;
    if month < 10 { (year, month + 3, day) } else { (year + 1, month - 9, day) }
}

fn day_of(year: i64, month: i64, day: i64) -> Option<Day> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) {
        return None;
    }
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_era = year.rem_euclid(400);
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    Some(year.div_euclid(400) * 146_097 + days - 719_468)
}

/// The year as Postgres counts, without a year 0, and its era.
fn postgres_year(year: i64) -> (i64, &'static str) {
    if year > 0 { (year, "") } else { (1 - year, " BC") }
}

// === reading ===

/// A day, and microseconds since its midnight in UTC: below 0 or beyond a day where the offset
/// leads there. An era may stand at the end.
fn read_day_and_time(text: &str) -> Option<(Day, i64)> {
    let (text, before_christ) = without_era(text);
    let (day, rest) = read_day(text, before_christ)?;
    let (micros, zone) = match rest.strip_prefix(['T', 't']) {
        Some(rest) => read_clock(trim(rest))?,
        None => read_clock(trim(rest)).unwrap_or((0, rest)),
    };
    Some((day, micros - read_zone(zone)?.unwrap_or(0) * SECOND))
}

/// Without `BC` or `AD` at the end.
fn without_era(text: &str) -> (&str, bool) {
    let Some((rest, era)) = text.split_at_checked(text.len().saturating_sub(2)) else {
        return (text, false);
    };
    match era.to_ascii_uppercase().as_str() {
        _ if rest.ends_with(|before: char| before.is_ascii_alphabetic()) => (text, false),
        "BC" => (trim(rest), true),
        "AD" => (trim(rest), false),
        _ => (text, false),
    }
}

/// `YYYY-MM-DD` at the front (a year of 4 to 7 digits), or a year with a sign and six digits. What
/// follows cannot be mistaken for more of the date.
fn read_day(text: &str, before_christ: bool) -> Option<(Day, &str)> {
    let (sign, unsigned) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => (0, text),
    };
    let (year, rest) = number(unsigned, 4, 7)?;
    let signed_right = sign == 0 || (unsigned.len() - rest.len() == 6 && !before_christ);
    let (month, rest) = number(rest.strip_prefix('-')?, 1, 2)?;
    let (day, rest) = number(rest.strip_prefix('-')?, 1, 2)?;
    let year = match (sign, before_christ) {
        (-1, _) if year == 0 => return None,
        (-1, _) => -year,
        (0, false) if year == 0 => return None,
        (_, true) if year == 0 => return None,
        (_, true) => 1 - year,
        _ => year,
    };
    let rest_begins_right = match rest.as_bytes().first() {
        None | Some(b'+' | b'Z' | b'z' | b'T' | b't') => true,
        Some(other) => is_space(*other),
    };
    if !signed_right || !rest_begins_right {
        return None;
    }
    Some((day_of(year, month, day)?, rest))
}

/// A decimal number of units of `10^places` microseconds, exact to the microsecond.
fn read_micros(text: &str, places: usize) -> Option<i128> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let plain = !whole.is_empty()
        && whole.len() <= 20
        && fraction.len() <= places
        && (fraction.is_empty() != digits.contains('.'))
        && all_digits(whole)
        && all_digits(fraction);
    if !plain {
        return None;
    }
    let micros: i128 = format!("{whole}{fraction:0<places$}").parse().ok()?;
    Some(if text.starts_with('-') { -micros } else { micros })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn zoned(text: &str) -> Option<String> {
        read(text, Format::Iso8601Ms).map(|moment| moment.postgres_text(true))
    }

    #[test]
    fn iso_timestamps_are_read_with_their_offset() {
        for (text, value) in [
            ("2026-11-20T22:20:35.142Z", "2026-11-20 22:20:35.142+00"),
            ("2026-11-20T22:20:35.142+02:00", "2026-11-20 20:20:35.142+00"),
            ("2026-11-20 22:20:35-0530", "2026-11-21 03:50:35+00"),
            ("2030-01-01", "2030-01-01 00:00:00+00"),
            ("2030-01-01T10:30", "2030-01-01 10:30:00+00"),
            ("1969-12-31T23:59:59.9999995Z", "1970-01-01 00:00:00+00"),
            ("+010000-01-01T00:00:00.000Z", "10000-01-01 00:00:00+00"),
            ("-000001-01-01T00:00:00Z", "0002-01-01 00:00:00+00 BC"),
            ("0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
            ("4714-11-24 00:00:00+00 BC", "4714-11-24 00:00:00+00 BC"),
            ("294276-12-31 23:59:59.999999+00", "294276-12-31 23:59:59.999999+00"),
            ("infinity", "infinity"),
            ("-Infinity", "-infinity"),
            ("Epoch", "1970-01-01 00:00:00+00"),
            ("2026-01-01Z", "2026-01-01 00:00:00+00"),
            ("2026-01-01 -02", "2026-01-01 02:00:00+00"),
            ("2026-01-01T10:00:00.Z", "2026-01-01 10:00:00+00"),
            ("2026-01-01t1:02 utc", "2026-01-01 01:02:00+00"),
            ("2026-01-01T10:00:00+0", "2026-01-01 10:00:00+00"),
            ("2026-12-31T24:00:00Z", "2027-01-01 00:00:00+00"),
            ("2016-12-31T23:59:60Z", "2017-01-01 00:00:00+00"),
            ("0044-03-15bc", "0044-03-15 00:00:00+00 BC"),
            ("2026-01-01 10:00 AD", "2026-01-01 10:00:00+00"),
            // Half a microsecond is rounded to the even one.
            ("2026-01-01 00:00:00.0000005", "2026-01-01 00:00:00+00"),
            ("2026-01-01 00:00:00.0000015", "2026-01-01 00:00:00.000002+00"),
        ] {
            assert_eq!(zoned(text).as_deref(), Some(value), "{text}");
        }
        for text in [
            "",
            "now",
            "2026",
            "2026-02-29",
            "2026-13-01",
            "0000-01-01",
            "26-01-01",
            "2026-01-01T25:00:00Z",
            "2026-01-01T10",
            "294277-01-01",
            "4714-11-23 BC",
            "1893456000000",
            "2026-01-01T",
            "2026-01-01-02",
            "2026-01-01 24:00:01",
            "2026-01-01 23:59:60.5",
            "2026-01-01 10:00 PM",
            "2026-01-01T10:00ZBC",
        ] {
            assert_eq!(zoned(text), None, "{text}");
        }
    }

    #[test]
    fn every_format_gives_its_own_bytes_back() {
        for (format, texts) in [
            (
                Format::Iso8601Ms,
                [
                    "2026-11-20T22:20:35.142Z",
                    "2026-11-20T22:20:35.142001Z",
                    "-000043-03-15T00:00:00.000Z",
                ],
            ),
            (
                Format::Iso8601,
                ["2026-11-20T22:20:35Z", "2026-11-20T22:20:35.5Z", "+012026-11-20T22:20:35Z"],
            ),
            (Format::EpochS, ["1893456000", "-1.5", "0"]),
            (Format::EpochMs, ["1893456000000", "-1", "1.001"]),
            (
                Format::Postgres,
                ["2026-11-20 22:20:35.142+00", "infinity", "0001-01-01 00:00:00+00 BC"],
            ),
        ] {
            for text in texts {
                let moment = read(text, format).expect(text);
                assert_eq!(moment.client_text(format, true), text);
                let stored = moment.postgres_text(true);
                assert_eq!(read(&stored, Format::Postgres), Some(moment));
            }
        }
    }

    #[test]
    fn days_go_there_and_back_over_the_whole_range() {
        for day in (FIRST_DAY..DATE_END).step_by(99_991).chain([FIRST_DAY, DATE_END - 1]) {
            let (year, month, of_month) = civil(day);
            assert_eq!(day_of(year, month, of_month), Some(day));
        }
        assert_eq!(date("5874897-12-31").as_deref(), Some("5874897-12-31"));
        assert_eq!(date("5874898-01-01"), None);
        assert_eq!(date("2026-11-20T22:20:35.142Z").as_deref(), Some("2026-11-20"));
        assert_eq!(date("2026-1-5").as_deref(), Some("2026-01-05"));
    }

    #[test]
    fn a_column_with_fewer_digits_rounds() {
        let moment = read("2026-01-01T00:00:00.1235Z", Format::Iso8601).expect("valid");
        let rounded = moment.rounded(3).expect("in range");
        assert_eq!(rounded.postgres_text(false), "2026-01-01 00:00:00.124");
    }

    #[test]
    fn an_expiry_goes_there_and_back_in_milliseconds() {
        for epoch_ms in [0, -1, 1_893_456_000_123] {
            assert_eq!(micros_of_text(&text_of_epoch_ms(epoch_ms)), Some(epoch_ms * 1000));
        }
        assert_eq!(text_of_epoch_ms(i64::MAX), "infinity");
        assert_eq!(micros_of_text("infinity"), Some(i64::MAX));
    }
}
