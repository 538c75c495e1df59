//! What a statement is about: keys, and what belongs to each of them, as its parameters.
//!
//! Several keys come as arrays, which `unnest` makes rows of. One key alone comes as single values: then
//! there is no join, but an index lookup, which costs Postgres less.

use std::fmt::Write as _;

use super::read::{key_aliases, key_condition, key_parameters};
use crate::mapping::Layout;
use crate::mapping::layout::KeyColumn;
use crate::mapping::shape::quote;

/// How the keys, and what belongs to them, come into a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// As single values.
    One,
    /// As arrays.
    Several,
}

/// Numbers the parameters of a statement, and names them in what they are rows, or the row, of.
pub(super) struct Parameters {
    asked: Asked,
    sql: String,
    aliases: String,
    pub(super) count: usize,
}

// === impl Asked ===

impl Asked {
    pub(super) fn of(number: usize) -> Self {
        if number == 1 { Self::One } else { Self::Several }
    }
}

// === impl Parameters ===

impl Parameters {
    pub(super) fn of_keys(layout: &Layout, asked: Asked) -> Self {
        let (sql, aliases) = (parameters(layout, asked), key_aliases(layout));
        Self { asked, sql, aliases, count: layout.keys().len() }
    }

    /// `casts`: the types that the value is brought to, one after the other.
    pub(super) fn add(&mut self, casts: &[&str], alias: &str) {
        let comma = if self.count == 0 { "" } else { ", " };
        self.count += 1;
        let Self { asked, sql, aliases, count } = self;
        write!(sql, "{comma}${count}").expect("writing to a string cannot fail");
        for cast in casts {
            let array = if *asked == Asked::One { "" } else { "[]" };
            write!(sql, "::{cast}{array}").expect("writing to a string cannot fail");
        }
        if *asked == Asked::One {
            write!(sql, " as {alias}").expect("writing to a string cannot fail");
        }
        write!(aliases, "{comma}{alias}").expect("writing to a string cannot fail");
    }

    /// What stands in FROM.
    pub(super) fn source(&self) -> String {
        let Self { asked, sql, aliases, .. } = self;
        match asked {
            Asked::One => format!("(select {sql}) as u"),
            Asked::Several => format!("unnest({sql}) as u({aliases})"),
        }
    }
}

// === what they say of keys ===

/// `$1::text::uuid as k0, …` for one key, else see `key_parameters`.
pub(super) fn parameters(layout: &Layout, asked: Asked) -> String {
    if asked == Asked::Several {
        return key_parameters(layout);
    }
    let parameter = |(place, key): (usize, &KeyColumn)| {
        format!("${}::text::{} as k{place}", place + 1, key.type_name)
    };
    layout.keys().iter().enumerate().map(parameter).collect::<Vec<_>>().join(", ")
}

/// `t."id" = u.k0 and …` for one key, of which no join is made that could be turned round; else see
/// `key_condition`.
pub(super) fn condition(layout: &Layout, asked: Asked) -> String {
    if asked == Asked::Several || layout.keys().is_empty() {
        return key_condition(layout);
    }
    let equal =
        |(place, key): (usize, &KeyColumn)| format!("t.{} = u.k{place}", quote(&key.column));
    layout.keys().iter().enumerate().map(equal).collect::<Vec<_>>().join(" and ")
}
