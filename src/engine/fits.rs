//! What Redis may be told first of, and how it is to run it: decided from the operation and its mapping alone.
//!
//! What no column could hold is refused before Redis is told; where only Postgres can say, the operation is
//! done through.

use super::refusal::write_failed;
use crate::command::Command;
use crate::mapping::Mapping;
use crate::protocol::Reply;
use crate::store::StoreError;
use crate::value::ValueKind;
use crate::value::number::parse_i64;

/// Members that one operation draws: more than Lua takes, or than is good for an entry, are done through.
const MOST_DRAWN: i64 = 1000;

/// How Redis is to run an operation, and what it touches: see `lua/behind.lua`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum How {
    Pairs,
    Unique,
    Adds,
    Removes,
    Float,
    Sum,
    Drawn,
    Keys,
}

/// What becomes of an operation.
#[derive(Debug)]
pub(super) enum Way {
    Behind(How),
    Through,
    Refused(Reply),
}

// === impl How ===

impl How {
    pub(super) fn of(command: &Command) -> Option<Self> {
        Some(match command.name {
            "hset" | "hmset" => Self::Pairs,
            "hsetnx" => Self::Unique,
            "sadd" => Self::Adds,
            "hdel" | "srem" => Self::Removes,
            "hincrbyfloat" => Self::Float,
            "hincrby" => Self::Sum,
            "spop" => Self::Drawn,
            "del" | "unlink" => Self::Keys,
            _ => return None,
        })
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pairs => "pairs",
            Self::Unique => "unique",
            Self::Adds => "adds",
            Self::Removes => "removes",
            Self::Float => "float",
            Self::Sum => "sum",
            Self::Drawn => "drawn",
            Self::Keys => "keys",
        }
    }

    /// As `lua/step.lua` reads it; event loops tell no others.
    pub(super) fn letter(self) -> u8 {
        match self {
            Self::Pairs => b'p',
            Self::Unique => b'u',
            Self::Adds => b'a',
            Self::Removes => b'r',
            Self::Float => b'f',
            Self::Sum => b's',
            Self::Drawn | Self::Keys => b'-',
        }
    }
}

// === what fits ===

/// Whether Redis may be told first of this change of a key of the mapping.
pub(super) fn fits<A: AsRef<[u8]>>(how: How, arguments: &[A], mapping: &Mapping) -> Way {
    let layout = &mapping.layout;
    let argument = |at: usize| arguments[at].as_ref();
    let check = |field: &[u8], value: &[u8]| layout.check_field(field, value);
    let refused =
        |error| Way::Refused(write_failed(&StoreError::Unencodable(error), &mapping.name));
    match how {
        How::Pairs => {
            // Of an odd number Redis tells itself.
            for pair in arguments[2..].chunks_exact(2) {
                if arguments.len().is_multiple_of(2)
                    && let Err(error) = check(pair[0].as_ref(), pair[1].as_ref())
                {
                    return refused(error);
                }
            }
        }
        // A field that is there already is not set.
        How::Unique if check(argument(2), argument(3)).is_err() => return Way::Through,
        How::Adds => {
            for member in &arguments[2..] {
                if let Err(error) = check(member.as_ref(), b"") {
                    return refused(error);
                }
            }
        }
        How::Removes => {
            let is_needed = |field: &A| {
                layout.column_of(field.as_ref()).is_some_and(|at| layout.fields()[at].not_null)
            };
            if layout.element().is_none() && arguments[2..].iter().any(is_needed) {
                return Way::Through;
            }
        }
        // Whatever the sum is, there is a place for it; or Postgres has to say.
        How::Sum => {
            let sums: [&[u8]; 3] = [b"0", b"9223372036854775807", b"-9223372036854775808"];
            if sums.iter().any(|sum| check(argument(2), sum).is_err()) {
                return Way::Through;
            }
        }
        How::Float => {
            let large = "9".repeat(4932);
            let sums = ["0", "-0.00000000000000001", "0.12345678901234567", "nan", &large];
            let sums = if layout.extra().is_some() { &sums[..] } else { &sums[..3] };
            let is_out = |sum: &&str| check(argument(2), sum.as_bytes()).is_err();
            if sums.iter().any(is_out) || check(argument(2), large.as_bytes()).is_err() {
                return Way::Through;
            }
        }
        How::Drawn => {
            if arguments
                .get(2)
                .is_some_and(|n| parse_i64(n.as_ref()).is_none_or(|n| n > MOST_DRAWN))
            {
                return Way::Through;
            }
        }
        How::Unique | How::Keys => {}
    }
    Way::Behind(how)
}

/// The word for a hash that cannot be made anew from some of its fields.
pub(super) const NEEDY: &str = "needy";

/// What the script is told of a key of the mapping.
pub(super) fn kind_word(mapping: &Mapping) -> &'static str {
    let layout = &mapping.layout;
    let is_needed =
        |field: &crate::mapping::layout::FieldColumn| field.not_null && field.default.is_none();
    match mapping.holds() {
        ValueKind::Set => "set",
        ValueKind::Hash if layout.element().is_none() && layout.fields().iter().any(is_needed) => {
            NEEDY
        }
        ValueKind::Hash => "hash",
    }
}
