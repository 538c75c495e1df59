//! The index of the command table: a command by its name, without allocation, in any case.
//!
//! An open-addressed table made by the compiler. A name's hash takes its length and its first and
//! last eight bytes (overlapping where it is shorter), so that hashing needs no loop.

use super::{COMMANDS, Command};

/// Four times the number of commands: few names share a slot.
const SLOTS: usize = 2048;
const EMPTY: u16 = u16::MAX;

static INDEX: [u16; SLOTS] = build();

/// Finds a command by its name, in any case.
#[inline]
pub fn lookup(name: &[u8]) -> Option<&'static Command> {
    if name.is_empty() {
        return None;
    }
    let mut slot = slot_of(name);
    while INDEX[slot] != EMPTY {
        let command = &COMMANDS[usize::from(INDEX[slot])];
        if command.name.as_bytes().eq_ignore_ascii_case(name) {
            return Some(command);
        }
        slot = (slot + 1) % SLOTS;
    }
    None
}

const fn build() -> [u16; SLOTS] {
    assert!(COMMANDS.len() * 2 < SLOTS, "the index needs free slots");
    let mut index = [EMPTY; SLOTS];
    let mut row = 0;
    while row < COMMANDS.len() {
        let mut slot = slot_of(COMMANDS[row].name.as_bytes());
        while index[slot] != EMPTY {
            slot = (slot + 1) % SLOTS;
        }
        index[slot] = row as u16;
        row += 1;
    }
    index
}

/// `name` is not empty.
const fn slot_of(name: &[u8]) -> usize {
    let length = name.len();
    let (head, tail) = if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        (u64::from_le_bytes(*head), u64::from_le_bytes(*tail))
    } else if let (Some(head), Some(tail)) = (name.first_chunk(), name.last_chunk()) {
        (u32::from_le_bytes(*head) as u64, u32::from_le_bytes(*tail) as u64)
    } else {
        (name[0] as u64 | (name[length / 2] as u64) << 8, name[length - 1] as u64)
    };
    // Bit 5 set: letters in lower case. Names that differ in nothing else share a slot, no more.
    let folded = (head | 0x2020_2020_2020_2020)
        .wrapping_add((tail | 0x2020_2020_2020_2020).rotate_left(29))
        .wrapping_add(length as u64);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 53) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_is_found_by_its_name_in_any_case() {
        for command in COMMANDS {
            let found = lookup(command.name.as_bytes()).expect(command.name);
            assert_eq!(found.name, command.name);
            let found = lookup(command.name.to_uppercase().as_bytes()).expect(command.name);
            assert_eq!(found.name, command.name);
        }
    }

    #[test]
    fn what_is_not_a_command_is_not_found() {
        for name in [
            "",
            "g",
            "ge",
            "gett",
            "get ",
            "\u{7}et",
            "hgetal",
            "hgetalll",
            "g%t",
            "restore\rasking",
        ] {
            assert!(lookup(name.as_bytes()).is_none(), "{name:?}");
        }
        assert!(lookup(&[0xff; 70_000]).is_none());
        assert!(lookup(&[b'G' & !0x20 & !0x40, b'E', b'T']).is_none());
    }

    #[test]
    fn names_are_few_to_a_slot() {
        let mut longest = 0;
        for command in COMMANDS {
            let mut slot = slot_of(command.name.as_bytes());
            let mut steps = 1;
            while COMMANDS[usize::from(INDEX[slot])].name != command.name {
                slot = (slot + 1) % SLOTS;
                steps += 1;
            }
            longest = longest.max(steps);
        }
        assert!(longest <= 4, "{longest} names are compared to find one: rotate by another number");
    }
}
