//! Integers and exact decimals, in the text that Postgres gives back.

use super::word::trim;

/// The most digits before the point of a numeric (`src/backend/utils/adt/numeric.c`).
const MAX_INTEGER_DIGITS: i64 = 131_072;
/// The most digits after the point of a numeric.
const MAX_SCALE: i64 = 16_383;

/// The `(precision, scale)` of a numeric column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Precision {
    precision: i64,
    scale: i64,
}

/// A decimal number: `0.d1 d2 d3 … × 10^point`, without zeros at the front.
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    /// How many digits stand before the decimal point; negative for 0.00…
    point: i64,
    /// How many digits are shown after the point.
    scale: i64,
}

// === impl Precision ===

impl Precision {
    /// From `atttypmod`: precision in the upper 16 bits, scale as a signed number of 11 bits.
    pub(super) fn of_modifier(modifier: i32) -> Option<Self> {
        let packed = modifier.checked_sub(4).filter(|packed| *packed >= 0)?;
        let precision = i64::from(packed >> 16 & 0xffff);
        let scale = i64::from(((packed & 0x7ff) ^ 1024) - 1024);
        Some(Self { precision, scale })
    }
}

/// The canonical text of an integer between `min` and `max`.
pub(super) fn integer(text: &str, min: i64, max: i64) -> Option<String> {
    let text = trim(text);
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: i64 = text.parse().ok()?;
    (min..=max).contains(&value).then(|| value.to_string())
}

/// The canonical text of a numeric; with a precision, rounded to it half away from zero.
pub(super) fn numeric(text: &str, limit: Option<&Precision>) -> Option<String> {
    let text = trim(text);
    if let Some(special) = special(text) {
        let fits = limit.is_none() || special == "NaN";
        return fits.then(|| special.to_owned());
    }
    let mut decimal = Decimal::read(text)?;
    // Too many digits after the point are no value, though a precision would round them away.
    if decimal.scale > MAX_SCALE {
        return None;
    }
    if let Some(limit) = limit {
        decimal.round(limit.scale);
        if !decimal.digits.is_empty() && decimal.point > limit.precision - limit.scale {
            return None;
        }
    }
    let is_zero = decimal.digits.is_empty();
    (is_zero || decimal.point <= MAX_INTEGER_DIGITS).then(|| decimal.text())
}

fn special(text: &str) -> Option<&'static str> {
    if text.eq_ignore_ascii_case("nan") {
        return Some("NaN");
    }
    let (negative, word) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let infinite = word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("infinity");
    infinite.then_some(if negative { "-Infinity" } else { "Infinity" })
}

// === impl Decimal ===

impl Decimal {
    /// `[+-] digits [. digits] [e [+-] digits]`, with at least one digit before or after the point.
    fn read(text: &str) -> Option<Self> {
        let negative = text.starts_with('-');
        let text = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, exponent) = match text.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, read_exponent(exponent)?),
            None => (text, 0),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let scale = (length(fraction) - exponent).max(0);
        let all: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = all.iter().take_while(|digit| **digit == b'0').count();
        let point = length(whole) + exponent - i64::try_from(zeros).ok()?;
        Some(Self { negative, digits: all[zeros..].to_vec(), point, scale })
    }

    /// Rounds half away from zero to `scale` digits after the point; a negative scale rounds before
    /// the point and shows none after it.
    fn round(&mut self, scale: i64) {
        let keep = self.point + scale;
        let length = i64::try_from(self.digits.len()).unwrap_or(i64::MAX);
        self.scale = scale.max(0);
        if keep >= length {
            return;
        }
        let Ok(kept) = usize::try_from(keep) else {
            self.digits.clear();
            return;
        };
        let up = self.digits[kept] >= b'5';
        self.digits.truncate(kept);
        if !up {
            return;
        }
        for digit in self.digits.iter_mut().rev() {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.digits.insert(0, b'1');
        self.point += 1;
    }

    fn text(&self) -> String {
        let mut text = String::new();
        if self.negative && self.digits.iter().any(|digit| *digit != b'0') {
            text.push('-');
        }
        let digit_at = |place: i64| {
            usize::try_from(place).ok().and_then(|place| self.digits.get(place)).copied()
        };
        if self.point <= 0 || self.digits.is_empty() {
            text.push('0');
        } else {
            text.extend((0..self.point).map(|place| char::from(digit_at(place).unwrap_or(b'0'))));
        }
        if self.scale > 0 {
            text.push('.');
            let places = self.point..self.point + self.scale;
            text.extend(places.map(|place| char::from(digit_at(place).unwrap_or(b'0'))));
        }
        text
    }
}

fn length(digits: &str) -> i64 {
    i64::try_from(digits.len()).unwrap_or(i64::MAX)
}

/// Beyond half of an `int` Postgres does not even read an exponent, zero's included.
fn read_exponent(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|exponent: &i64| exponent.abs() < i64::from(i32::MAX / 2))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(precision: i64, scale: i64, text: &str) -> Option<String> {
        numeric(text, Some(&Precision { precision, scale }))
    }

    #[test]
    fn integers_lose_sign_zeros_and_space() {
        for (text, value) in [(" 5", "5"), ("+5", "5"), ("-007", "-7"), ("-0", "0"), ("5\t", "5")] {
            assert_eq!(integer(text, i64::MIN, i64::MAX).as_deref(), Some(value), "{text}");
        }
        for text in ["", "+", "5.0", "1e3", "0x10", "1_000", "--5", "+-5", "9223372036854775808"] {
            assert_eq!(integer(text, i64::MIN, i64::MAX), None, "{text}");
        }
        assert_eq!(integer("32768", i16::MIN.into(), i16::MAX.into()), None);
    }

    #[test]
    fn a_numeric_keeps_its_scale() {
        for (text, value) in [
            ("1.50", "1.50"),
            ("1e-7", "0.0000001"),
            ("1e+21", "1000000000000000000000"),
            ("1.5e1", "15"),
            ("1.25e1", "12.5"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-0.00", "0.00"),
            ("000120.0", "120.0"),
            ("0e5", "0"),
            ("nan", "NaN"),
            ("-inf", "-Infinity"),
        ] {
            assert_eq!(numeric(text, None).as_deref(), Some(value), "{text}");
        }
        for text in ["", ".", "-", "e5", "1e", "1e+", "1.2.3", "0x10", "1e131072", "1e-16384"] {
            assert_eq!(numeric(text, None), None, "{text}");
        }
        assert_eq!(numeric("1e131071", None).map(|text| text.len()), Some(131_072));
    }

    #[test]
    fn a_precision_rounds_half_away_from_zero() {
        for (text, value) in
            [("1.55", "1.6"), ("-1.55", "-1.6"), ("0.04", "0.0"), ("5", "5.0"), ("9.95", "10.0")]
        {
            assert_eq!(typed(10, 1, text).as_deref(), Some(value), "{text}");
        }
        assert_eq!(typed(3, 1, "99.95"), None);
        assert_eq!(typed(3, 1, "99.94").as_deref(), Some("99.9"));
        assert_eq!(typed(2, -3, "12345").as_deref(), Some("12000"));
        assert_eq!(typed(2, -3, "499").as_deref(), Some("0"));
        assert_eq!(typed(2, 4, "0.0012").as_deref(), Some("0.0012"));
        assert_eq!(typed(2, 4, "0.012"), None);
        assert_eq!(typed(5, 2, "inf"), None);
        assert_eq!(typed(5, 2, "1e-16383").as_deref(), Some("0.00"));
        assert_eq!(typed(5, 2, "1e-16384"), None);
        assert_eq!(typed(5, 2, "0e200000").as_deref(), Some("0.00"));
    }

    #[test]
    fn a_modifier_holds_precision_and_scale() {
        let modifier = (10 << 16 | 2) + 4;
        assert_eq!(Precision::of_modifier(modifier), Some(Precision { precision: 10, scale: 2 }));
        assert_eq!(Precision::of_modifier(-1), None);
    }
}
