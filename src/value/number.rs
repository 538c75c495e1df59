//! Redis' number grammar: the integers and long doubles that commands take and values hold.
//!
//! HINCRBYFLOAT computes in `long double`, which on x86-64 is the x87 format of 80 bits. A client
//! sees its rounding in the digits of the reply, so it is computed in that format here too, on
//! every machine. The rules are those of `string2ll` and `string2ld` in Redis 7.0.15's `util.c`,
//! of `ld2string(LD_STR_HUMAN)` there, and of glibc's `strtold`.
//!
//! Absent on purpose: NaN as a number (Redis refuses it wherever it could come in), and hexadecimal
//! output.

use bytes::Bytes;
use num_bigint::BigUint;
use rustc_apfloat::Float;
use rustc_apfloat::ieee::X87DoubleExtended;

/// From this length on Redis does not even try to read a long double, bytes
/// (`MAX_LONG_DOUBLE_CHARS`).
const TOO_LONG_BYTES: usize = 5 * 1024;
/// Beyond these powers of ten and of two every numeral overflows or, below zero, vanishes.
const BEYOND_DECIMAL: i64 = 5_000;
const BEYOND_BINARY: i64 = 17_000;
/// Digits after the point that Redis shows.
const FRACTION_DIGITS: usize = 17;
const FRACTION_SCALE: u128 = 10u128.pow(FRACTION_DIGITS as u32);
/// Hexadecimal digits that are kept; one more tells whether anything was cut off. 64 bits and one
/// to round by would do.
const HEXADECIMAL_DIGITS: usize = 24;

/// Reads an integer as `string2ll` does: no plus, no leading zero, no `-0`, no space.
pub fn parse_i64(text: &[u8]) -> Option<i64> {
    let magnitude = text.strip_prefix(b"-").unwrap_or(text);
    match magnitude {
        [b'0'] if text.len() == 1 => Some(0),
        [b'1'..=b'9', ..] => std::str::from_utf8(text).ok()?.parse().ok(),
        _ => None,
    }
}

/// An integer as Redis stores and shows it.
pub fn format_i64(value: i64) -> Bytes {
    Bytes::from(value.to_string())
}

/// A number of the x87 format: 64 bits of precision. Never NaN when it comes from [`Self::parse`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LongDouble(X87DoubleExtended);

// === impl LongDouble ===

impl LongDouble {
    pub const ZERO: Self = Self(X87DoubleExtended::ZERO);

    /// Reads a number as `string2ld` does: what `strtold` takes to the last byte (decimal,
    /// hexadecimal, `inf`, `infinity`), without a space in front, neither NaN nor out of range.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() >= TOO_LONG_BYTES {
            return None;
        }
        let (is_negative, magnitude) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            _ => (false, text),
        };
        let value = if is_one_of(magnitude, [b"inf", b"infinity"]) {
            X87DoubleExtended::INFINITY
        } else if let [b'0', b'x' | b'X', digits @ ..] = magnitude {
            Numeral::split(digits, u8::is_ascii_hexdigit, b'p')?.hexadecimal()?
        } else {
            Numeral::split(magnitude, u8::is_ascii_digit, b'e')?.decimal()?
        };
        Some(Self(if is_negative { -value } else { value }))
    }

    /// False for a sum that Redis refuses: "increment would produce NaN or Infinity".
    pub fn is_finite(self) -> bool {
        self.0.is_finite()
    }

    /// The number as HINCRBYFLOAT shows it (`ld2string` with `LD_STR_HUMAN`): rounded to 17 digits
    /// after the point, without zeros at the end, never with an exponent.
    pub fn to_human(self) -> String {
        if !self.is_finite() {
            return match (self.0.is_nan(), self.0.is_negative()) {
                (true, _) => "nan".to_owned(),
                (false, true) => "-inf".to_owned(),
                (false, false) => "inf".to_owned(),
            };
        }
        let magnitude = self.magnitude();
        match self.0.is_negative() && magnitude != "0" {
            true => format!("-{magnitude}"),
            false => magnitude,
        }
    }

    /// The digits of a finite number, without its sign.
    fn magnitude(self) -> String {
        // 64 bits with the leading one among them, 15 of exponent, the sign.
        let bits = self.0.to_bits();
        let significand = bits & u128::from(u64::MAX);
        let exponent = ((bits >> 64) & 0x7fff) as i32;
        // The last bit of the significand is worth 2^power; denormals have the exponent 0 for 1.
        let power = exponent.max(1) - 16_383 - 63;
        if power >= 0 {
            return (BigUint::from(significand) << power).to_string();
        }
        let scaled = round_half_even(significand * FRACTION_SCALE, power.unsigned_abs());
        let digits = format!("{}.{:017}", scaled / FRACTION_SCALE, scaled % FRACTION_SCALE);
        digits.trim_end_matches('0').trim_end_matches('.').to_owned()
    }
}

impl std::ops::Add for LongDouble {
    type Output = Self;

    /// The sum, rounded to the nearest number, to the even one of two.
    fn add(self, other: Self) -> Self {
        Self((self.0 + other.0).value)
    }
}

/// What is written between the sign and the end: `digits` times 10 (or 2) to the `exponent`.
struct Numeral {
    /// Without leading zeros; empty for zero.
    digits: String,
    /// How many of the digits stand after the point.
    fraction_digits: i64,
    exponent: i64,
}

// === impl Numeral ===

impl Numeral {
    /// Takes `text` apart; `None` if it is no numeral to its last byte.
    fn split(text: &[u8], is_digit: fn(&u8) -> bool, exponent_mark: u8) -> Option<Self> {
        let (whole, rest) = split_digits(text, is_digit);
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => split_digits(rest, is_digit),
            _ => (&[][..], rest),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest {
            [] => 0,
            [mark, rest @ ..] if mark.to_ascii_lowercase() == exponent_mark => exponent(rest)?,
            _ => return None,
        };
        let digits = whole.iter().chain(fraction).skip_while(|&&digit| digit == b'0');
        Some(Self {
            digits: digits.map(|&digit| char::from(digit)).collect(),
            fraction_digits: fraction.len() as i64,
            exponent,
        })
    }

    /// The nearest number; `None` if it is beyond the range.
    fn decimal(&self) -> Option<X87DoubleExtended> {
        let digits = self.digits.trim_end_matches('0');
        if digits.is_empty() {
            return Some(X87DoubleExtended::ZERO);
        }
        let cut = (self.digits.len() - digits.len()) as i64;
        let power = self.exponent.saturating_sub(self.fraction_digits).saturating_add(cut);
        if power.saturating_add(digits.len() as i64).abs() > BEYOND_DECIMAL {
            return None;
        }
        in_range(&format!("{digits}e{power}"))
    }

    fn hexadecimal(&self) -> Option<X87DoubleExtended> {
        let digits = self.digits.trim_end_matches('0');
        if digits.is_empty() {
            return Some(X87DoubleExtended::ZERO);
        }
        let kept = &digits[..digits.len().min(HEXADECIMAL_DIGITS)];
        let cut = (self.digits.len() - kept.len()) as i64;
        let power = self.exponent.saturating_add((cut - self.fraction_digits) * 4);
        if power.saturating_add(kept.len() as i64 * 4).abs() > BEYOND_BINARY {
            return None;
        }
        // What was cut off is not zero: a one behind the point tells the rounding so.
        let sticky = if kept.len() < digits.len() { "1" } else { "0" };
        in_range(&format!("0x{kept}.{sticky}p{power}"))
    }
}

/// Reads a numeral that is not zero; `None` where it rounds to zero or to infinity (ERANGE).
fn in_range(numeral: &str) -> Option<X87DoubleExtended> {
    let value = numeral.parse::<X87DoubleExtended>().ok()?;
    value.is_finite_non_zero().then_some(value)
}

fn split_digits(text: &[u8], is_digit: fn(&u8) -> bool) -> (&[u8], &[u8]) {
    text.split_at(text.iter().take_while(|&byte| is_digit(byte)).count())
}

/// The number behind `e` or `p`; far beyond every range it saturates.
fn exponent(text: &[u8]) -> Option<i64> {
    let (is_negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits.iter().fold(0i64, |magnitude, digit| {
        magnitude.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    Some(if is_negative { -magnitude } else { magnitude })
}

fn is_one_of<const N: usize>(text: &[u8], words: [&[u8]; N]) -> bool {
    words.iter().any(|word| word.eq_ignore_ascii_case(text))
}

/// `value` divided by 2^`power` (at least 1), as glibc's `printf` rounds. `value` is below 2^121.
fn round_half_even(value: u128, power: u32) -> u128 {
    if power >= u128::BITS {
        return 0;
    }
    let quotient = value >> power;
    let rest = value - (quotient << power);
    let half = 1u128 << (power - 1);
    match rest.cmp(&half) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Equal => quotient + (quotient & 1),
        std::cmp::Ordering::Greater => quotient + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_read_as_redis_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("7", 7),
            ("-1", -1),
            ("1000", 1000),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
        ] {
            assert_eq!(parse_i64(text.as_bytes()), Some(expected), "{text}");
            assert_eq!(format_i64(expected), text);
        }
        for text in [
            "",
            "-",
            "+1",
            "01",
            "00",
            "-0",
            "-01",
            " 1",
            "1 ",
            "1.0",
            "1e3",
            "0x1",
            "1a",
            "--1",
            "9223372036854775808",
            "-9223372036854775809",
            "99999999999999999999999",
            "1\0",
        ] {
            assert_eq!(parse_i64(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_i64(b"\xff1"), None);
    }

    /// What redis-server 7.0.15 on x86-64 answered to HSET key field a; HINCRBYFLOAT key field b.
    #[test]
    fn sums_have_the_digits_of_redis() {
        for (a, b, expected) in [
            ("10.5", "0.1", "10.6"),
            ("5.0e3", "2.0e2", "5200"),
            ("0.1", "0.2", "0.3"),
            ("3.0", "1.0", "4"),
            ("-0", "0", "0"),
            ("-1e-30", "0", "0"),
            ("1e-17", "0", "0.00000000000000001"),
            ("5e-18", "0", "0"),
            ("4.9e-18", "0", "0"),
            ("0x1p-18", "0", "0.00000381469726562"),
            ("9007199254740993", "0", "9007199254740993"),
            ("18446744073709551615", "1", "18446744073709551616"),
            ("18446744073709551617", "0", "18446744073709551616"),
            ("9223372036854775807", "9223372036854775807", "18446744073709551614"),
            ("1.7", "-1.7", "0"),
            ("0.30000000000000004", "0", "0.30000000000000004"),
            ("3.141592653589793238462643", "0", "3.14159265358979324"),
            ("1e20", "1", "100000000000000000000"),
            ("1e40", "1", "9999999999999999999783686092270256259072"),
            ("0x1.8p1", "+.5", "3.5"),
            ("5.", "0x.8", "5.5"),
            ("0e99999999999999999999", "1E3", "1000"),
            ("3.6e-4951", "0", "0"),
            ("1.50", "0", "1.5"),
            ("34808.8", "+0.247", "34809.0470000000000006"),
            ("-260341.14", "-9386685434", "-9386945775.13999999966472387"),
            ("-26515.02", "-84292.51711000951310857e-28", "-26515.01999999999999957"),
            ("-95219783717", "-95855942255706762398e-1169", "-95219783717"),
            (
                "745328.17715",
                "0.18162861666961189020429430481686133673",
                "745328.35877861666961053",
            ),
            ("+0x1ce81p-64", "199486e-2353", "0.00000000000000642"),
            ("718.2", "+7.66", "725.85999999999999999"),
            ("893185.1472", "-832.81527427e-19", "893185.147199999999998"),
            ("0.7127959720331789096791", "-511.51", "-510.7972040279668211"),
            ("+6140.0", "-0.986652223640", "6139.01334777635999984"),
            ("60433.101", "-458248.8678", "-397815.76679999999998927"),
            ("-0x69dfdp-23", "-0x53f4a5.5069ec317733f0f3p61", "-12687018744628583723958272"),
            ("0x13f.72ebc83e23289dffp30", "1.0564270e-27", "343005655567.53433462977409363"),
            ("-0.22539434664932053797", "-429637903795776703070320e-2177", "-0.22539434664932054"),
            ("310579029891", "0x8ef89p-53", "310579029891"),
            ("-691.0816", "-0x252a.68dc04c6c4c0e187p-56", "-691.08160000000013207"),
        ] {
            let read = |text: &str| LongDouble::parse(text.as_bytes()).expect(text);
            assert_eq!((read(a) + read(b)).to_human(), expected, "{a} + {b}");
        }
    }

    #[test]
    fn text_that_is_no_long_double_is_refused() {
        for text in [
            "",
            " 5",
            "5 ",
            ".",
            "+",
            "-",
            "1e",
            "1e+",
            "0x",
            "0x.",
            "0x1p",
            "0x1p-",
            "nan",
            "NaN",
            "nan(1)",
            "-nan",
            "infinit",
            "infx",
            "1_0",
            "--1",
            "+-1",
            "- 1",
            "1,5",
            "abc",
            "1e5x",
            "2e4932",
            "1e-4951",
            "1e99999999999999999999",
            "1e-99999999999999999999",
            "0x1p16384",
            "0x1p-16446",
            "5\0",
            "\0",
            "1.2.3",
            "0x1.p",
            "e5",
            "0x1g",
        ] {
            assert_eq!(LongDouble::parse(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(LongDouble::parse(&[b'1'; 5120]), None);
        assert_eq!(LongDouble::parse(&[b'0'; 5120]), None);
        assert!(LongDouble::parse(&[b'0'; 5119]).is_some());
    }

    #[test]
    fn infinity_is_read_but_is_not_finite() {
        for (text, shown) in [("inf", "inf"), ("-INF", "-inf"), ("+Infinity", "inf")] {
            let value = LongDouble::parse(text.as_bytes()).expect(text);
            assert!(!value.is_finite());
            assert_eq!(value.to_human(), shown);
        }
        let infinity = LongDouble::parse(b"inf").expect("a word for infinity");
        let sum = infinity + LongDouble::parse(b"-inf").expect("a word for infinity");
        assert!(!sum.is_finite());
        assert_eq!(sum.to_human(), "nan");
        let most = LongDouble::parse(b"1.18e4932").expect("in range");
        assert!(most.is_finite() && !(most + most).is_finite());
    }
}
