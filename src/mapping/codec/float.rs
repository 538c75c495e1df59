//! Binary floating point numbers, in the shortest text that Postgres gives back.
//!
//! Postgres writes the shortest decimal that lies strictly between the midpoints to the
//! neighbouring floats; a decimal exactly on a midpoint, which needs round-half-even to be read
//! back, is passed over, and of two equally near decimals the one with an even last digit is taken
//! (`src/common/ryu_common.h`, `d2s.c`); Rust's shortest differs in both. It is written plainly for exponents -4 to 14 (-4 to 5 for `real`), else as `1.5e+21`.

use super::word::trim;

/// A decimal `digits × 10^exponent`.
#[derive(Clone, Copy)]
struct Shortest {
    digits: u64,
    exponent: i32,
}

pub(super) fn double(text: &str) -> Option<String> {
    let text = trim(text);
    if let Some(special) = special(text) {
        return Some(special.into());
    }
    let value: f64 = plain(text)?.parse().ok()?;
    if value.is_infinite() || (value == 0.0 && has_digit_above_zero(text)) {
        return None;
    }
    let bits = value.abs().to_bits();
    let stored = i32::try_from(bits >> 52).ok()?;
    let fraction = bits & ((1 << 52) - 1);
    let (mantissa, power) =
        if stored == 0 { (fraction, -1074) } else { (fraction | 1 << 52, stored - 1075) };
    let reads_back = |decimal: Shortest| decimal.parse::<f64>() == Some(value.abs());
    let nth = |places: usize| read_scientific(&format!("{:.*e}", places, value.abs()));
    let found = read_scientific(&format!("{:e}", value.abs()))?;
    let found = chosen_by_postgres(found, mantissa, power, fraction == 0, reads_back, nth);
    Some(found.text(value.is_sign_negative(), 15))
}

pub(super) fn real(text: &str) -> Option<String> {
    let text = trim(text);
    if let Some(special) = special(text) {
        return Some(special.into());
    }
    let value: f32 = plain(text)?.parse().ok()?;
    if value.is_infinite() || (value == 0.0 && has_digit_above_zero(text)) {
        return None;
    }
    let bits = value.abs().to_bits();
    let stored = i32::try_from(bits >> 23).ok()?;
    let fraction = u64::from(bits & ((1 << 23) - 1));
    let (mantissa, power) =
        if stored == 0 { (fraction, -149) } else { (fraction | 1 << 23, stored - 150) };
    let reads_back = |decimal: Shortest| decimal.parse::<f32>() == Some(value.abs());
    let nth = |places: usize| read_scientific(&format!("{:.*e}", places, value.abs()));
    let found = read_scientific(&format!("{:e}", value.abs()))?;
    let found = chosen_by_postgres(found, mantissa, power, fraction == 0, reads_back, nth);
    Some(found.text(value.is_sign_negative(), 6))
}

fn special(text: &str) -> Option<&'static str> {
    let (negative, word) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if word.eq_ignore_ascii_case("nan") && word.len() == text.len() {
        return Some("NaN");
    }
    let infinite = word.eq_ignore_ascii_case("inf") || word.eq_ignore_ascii_case("infinity");
    infinite.then_some(if negative { "-Infinity" } else { "Infinity" })
}

/// The text when it is a decimal number: words and hexadecimal floats are not.
fn plain(text: &str) -> Option<&str> {
    let is_part = |byte: u8| byte.is_ascii_digit() || b"+-.eE".contains(&byte);
    text.bytes().all(is_part).then_some(text)
}

/// Whether a number that was read as zero is none, but too small.
fn has_digit_above_zero(text: &str) -> bool {
    text.bytes()
        .take_while(|byte| !byte.eq_ignore_ascii_case(&b'e'))
        .any(|byte| matches!(byte, b'1'..=b'9'))
}

/// Postgres' choice, given Rust's (`found`) for `mantissa × 2^power`. `nth`: the nearest decimal with
/// so many digits after the first, half to even.
fn chosen_by_postgres(
    found: Shortest,
    mantissa: u64,
    power: i32,
    power_of_two: bool,
    reads_back: impl Fn(Shortest) -> bool,
    nth: impl Fn(usize) -> Option<Shortest>,
) -> Shortest {
    if mantissa == 0 {
        return found;
    }
    let on_midpoint = |decimal: Shortest| decimal.is_midpoint(mantissa, power, power_of_two);
    let good = |decimal: &Shortest| !on_midpoint(*decimal) && reads_back(*decimal);
    let places = found.digits.to_string().len();
    let even = nth(places - 1).filter(good);
    if !on_midpoint(found) {
        return even.unwrap_or(found);
    }
    let beside = Shortest { digits: found.digits + 1, ..found };
    let longer = || (places..18).filter_map(nth).find(good);
    even.or_else(|| Some(beside).filter(good)).or_else(longer).unwrap_or(found)
}

/// Reads what Rust's `{:e}` writes: `1.25e-7`; zeros at the end of the digits are dropped.
fn read_scientific(text: &str) -> Option<Shortest> {
    let (mantissa, exponent) = text.split_once('e')?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut digits: u64 = format!("{whole}{fraction}").parse().ok()?;
    let mut exponent: i32 = exponent.parse().ok()?;
    exponent -= i32::try_from(fraction.len()).ok()?;
    while digits != 0 && digits.is_multiple_of(10) {
        digits /= 10;
        exponent += 1;
    }
    Some(Shortest { digits, exponent: if digits == 0 { 0 } else { exponent } })
}

// === impl Shortest ===

impl Shortest {
    fn parse<T: std::str::FromStr>(self) -> Option<T> {
        format!("{}e{}", self.digits, self.exponent).parse().ok()
    }

    /// Whether the decimal is exactly half-way between `mantissa × 2^power` and the float above or
    /// below it (which is nearer by half below a power of two).
    fn is_midpoint(self, mantissa: u64, power: i32, power_of_two: bool) -> bool {
        // Of a midpoint with 17 digits, 5^|exponent| divides a number of at most 57 bits.
        if self.exponent.abs() > 24 {
            return false;
        }
        let five = 5u128.pow(self.exponent.unsigned_abs());
        let digits = u128::from(self.digits);
        let odd_part = if self.exponent >= 0 {
            digits * five
        } else if digits % five == 0 {
            digits / five
        } else {
            return false;
        };
        let own = binary(odd_part, self.exponent);
        let mantissa = u128::from(mantissa);
        let below = if power_of_two {
            binary(4 * mantissa - 1, power - 2)
        } else {
            binary(2 * mantissa - 1, power - 1)
        };
        own == below || own == binary(2 * mantissa + 1, power - 1)
    }

    fn text(self, negative: bool, plain_below: i32) -> String {
        let digits = self.digits.to_string();
        let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
        let exponent = self.exponent + length - 1;
        let sign = if negative { "-" } else { "" };
        if self.digits == 0 {
            return format!("{sign}0");
        }
        if !(-4..plain_below).contains(&exponent) {
            let (first, rest) = digits.split_at(1);
            let point = if rest.is_empty() { "" } else { "." };
            let mark = if exponent < 0 { '-' } else { '+' };
            return format!("{sign}{first}{point}{rest}e{mark}{:02}", exponent.unsigned_abs());
        }
        let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
        if self.exponent >= 0 {
            format!("{sign}{digits}{}", zeros(self.exponent))
        } else if exponent >= 0 {
            let (whole, fraction) = digits.split_at(usize::try_from(exponent).unwrap_or(0) + 1);
            format!("{sign}{whole}.{fraction}")
        } else {
            format!("{sign}0.{}{digits}", zeros(-exponent - 1))
        }
    }
}

/// `number × 2^power` with an odd number, so that equal values compare equal.
fn binary(number: u128, power: i32) -> (u128, i32) {
    let zeros = number.trailing_zeros();
    (number >> zeros.min(127), power + i32::try_from(zeros).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_are_written_as_postgres_writes_them() {
        for (text, value) in [
            ("1e-7", "1e-07"),
            ("1e+21", "1e+21"),
            ("0.1", "0.1"),
            ("1.50", "1.5"),
            ("123456789012345", "123456789012345"),
            ("1234567890123456", "1.234567890123456e+15"),
            ("0.0001", "0.0001"),
            ("0.00001", "1e-05"),
            ("-0", "-0"),
            ("5e-324", "5e-324"),
            ("1e23", "9.999999999999999e+22"),
            ("100", "100"),
            (" inf", "Infinity"),
            ("NaN", "NaN"),
        ] {
            assert_eq!(double(text).as_deref(), Some(value), "{text}");
        }
        for text in ["", "1e400", "1e-400", "0x10", "abc", "1e", ".", "infinit", "-nan"] {
            assert_eq!(double(text), None, "{text}");
        }
    }

    #[test]
    fn reals_have_six_plain_digits() {
        for (text, value) in [
            ("100000", "100000"),
            ("1000000", "1e+06"),
            ("0.1", "0.1"),
            ("16777216", "1.6777216e+07"),
        ] {
            assert_eq!(real(text).as_deref(), Some(value), "{text}");
        }
        assert_eq!(real("1e39"), None);
        assert_eq!(real("1e-50"), None);
    }
}
