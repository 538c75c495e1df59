//! Values to write: those given, mutations of them, random ones, and what is of no type at all.

use crate::stack::Random;

/// Values a type, of which most are mutations of those given.
const VALUES: usize = 800;
const MEGABYTE: usize = 1 << 20;

/// Values that look like some type, or like nothing.
const STRANGERS: &[&[u8]] = &[
    b"",
    b" ",
    b"\0",
    b"a\0b",
    b"5\0",
    b"\xff\xfe",
    b"5\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"NULL",
    b"null",
    b"{}",
    b"[]",
    b"'",
    b"\\",
    b"\\x41",
    b"\"",
    b"0",
    b"1",
    b"-1",
    b"true",
    b"2026-11-20T22:20:35.142Z",
    b"6f2a1a52-2a0c-4a8e-9a39-0d6f5bb1c111",
    b"{\"base64\":\"AA==\"}",
    b"base64:AA==",
    b"\xf0\x9f\x98\x80",
];

/// The same in every run, unless RESPGRES_TYPES_SEED says otherwise.
pub fn random(seed: u64) -> Random {
    let other = std::env::var("RESPGRES_TYPES_SEED").ok();
    let other: u64 = other.map_or(0, |text| text.parse().expect("a seed is a number"));
    Random::new(seed ^ (other << 32))
}

/// The given values, as they are and with up to three bytes of the alphabet put in, put over, left
/// out; then what is the same for every type.
pub fn around(seed: u64, given: &[&str], alphabet: &str) -> Vec<Vec<u8>> {
    let mut random = random(seed);
    let mut values: Vec<Vec<u8>> = given.iter().map(|text| text.as_bytes().to_vec()).collect();
    while values.len() < VALUES {
        values.push(mutation(&mut random, given, alphabet));
    }
    values.extend(strangers(&mut random));
    values
}

/// Values that no mutation would find.
pub fn strangers(random: &mut Random) -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = STRANGERS.iter().map(|bytes| bytes.to_vec()).collect();
    for _ in 0..200 {
        let length = random.below(24);
        values.push((0..length).map(|_| random.bits().to_le_bytes()[3]).collect());
    }
    let zeros = "0".repeat(MEGABYTE);
    for _ in 0..2 {
        values.push(match random.below(5) {
            0 => vec![b'7'; MEGABYTE],
            1 => vec![b' '; MEGABYTE],
            2 => vec![0xff; MEGABYTE],
            3 => format!("{zeros}5").into(),
            _ => "ü".repeat(MEGABYTE / 2).into(),
        });
    }
    values
}

fn mutation(random: &mut Random, given: &[&str], alphabet: &str) -> Vec<u8> {
    let mut value = random.pick(given).as_bytes().to_vec();
    for _ in 0..random.below(4) {
        let byte = alphabet.as_bytes()[random.below(alphabet.len())];
        let place = random.below(value.len() + 1);
        match random.below(3) {
            0 => value.insert(place, byte),
            1 if place < value.len() => value[place] = byte,
            _ if place < value.len() => drop(value.remove(place)),
            _ => {}
        }
    }
    value
}
