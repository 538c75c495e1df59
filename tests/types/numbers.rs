//! Integers, numerics, floats, and domains over them.

use crate::property::House;
use crate::subject::{Subject, spelled};
use crate::values::{around, random};

#[rustfmt::skip]
const NUMBERS: &[&str] = &[
    "0", "5", "-5", "+5", " 5", "5 ", " 7", "\t5\n", "007", "-007", "-0", "+0", "00", "13", "13.00",
    "999", "1000", "32767", "32768", "-32768", "-32769", "2147483647", "2147483648", "-2147483648",
    "-2147483649", "9223372036854775807", "9223372036854775808", "-9223372036854775808",
    "-9223372036854775809", "1.5", "1.50", "1.005", "-1.005", "1.004999", "9.90", "1e-7", "1E+21",
    "1e21", "1E5", "1.25e1", ".5", "5.", "-.5", "0x10", "0b1", "0o7", "1_000", "", "-", "+", ".", "e5",
    "1e", "abc", "NaN", "nan", "-nan", "inf", "Infinity", "-Infinity", "+inf", "INF", "infinit",
    "12.4472437", "99999999.995", "99999999.994", "0.005", "-0.005", "0.0049", "0e5", "0.000", "-0.00",
    "1e3", "15e-1", "00.10", "1e-400", "1e400", "5e-324", "2e-324", "1.7976931348623157e308", "1.8e308",
    "3.4028235e38", "3.5e38", "1e-45", "1e-46", "0.1", "1e15", "1e14", "123456789012345",
    "1234567890123456", "1e6", "999999", "1e-4", "1e-5", "16777217", "9007199254740993",
    "123456789012345678901234567890.123456789", "1e131071", "1e131072", "1e-16383", "1e-16384",
    "0.0012", "0.012", "12345", "499", "0.0012374999999999999",
];
const BYTES: &str = "0123456789.-+eE x";

fn values(seed: u64) -> Vec<Vec<u8>> {
    let mut values = around(seed, NUMBERS, BYTES);
    let mut random = random(seed);
    for _ in 0..200 {
        let bits = random.bits();
        values.push(format!("{}", f64::from_bits(bits)).into());
        values.push(format!("{:e}", f32::from_bits((bits >> 32) as u32)).into());
        values.push(format!("{}", bits as i64 >> random.below(63)).into());
        values.push(format!("{}.{:02}", bits >> 40, bits % 100).into());
    }
    values
}

#[tokio::test]
async fn integers() {
    let mut house = House::new().await;
    for type_name in ["smallint", "integer", "bigint", "small", "nested"] {
        let subject = Subject::new(type_name, values(1)).documented(spelled::INTEGER);
        house.examine(&subject).await;
    }
}

#[tokio::test]
async fn numerics() {
    let mut house = House::new().await;
    for type_name in
        ["numeric", "numeric(10,2)", "numeric(30)", "numeric(3,5)", "numeric(5,-2)", "price"]
    {
        let subject = Subject::new(type_name, values(2)).documented(spelled::NUMERIC);
        house.examine(&subject).await;
    }
}

#[tokio::test]
async fn floats() {
    let mut house = House::new().await;
    for type_name in ["double precision", "real"] {
        let subject = Subject::new(type_name, values(3)).documented(spelled::NUMERIC);
        house.examine(&subject).await;
    }
}
