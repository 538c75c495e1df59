//! Column sets: which columns the statements of a session name.
//!
//! A statement that names the columns it is about, and no others, is cheaper than one about all of them;
//! but every set of columns is a statement of its own, to be prepared and kept. So sets are
//! remembered in the order in which they come up to a limit; a set that comes later is not admitted, and
//! the statement about all columns serves.

use std::collections::HashMap;

/// Sets of places in a layout's fields, by mapping.
#[derive(Debug)]
pub(super) struct ColumnSets {
    /// Sets admitted, a mapping.
    most: usize,
    known: HashMap<String, Vec<Vec<usize>>, ahash::RandomState>,
}

/// Sets of statements about one key, and of those about several: those are unions, of which there are many
/// that come once.
#[derive(Debug)]
pub(super) struct SetsByNumber {
    pub(super) of_one: ColumnSets,
    pub(super) of_several: ColumnSets,
}

/// What apps write together in one command is a few sets.
const MOST_OF_ONE: usize = 32;
const MOST_OF_SEVERAL: usize = 8;

// === impl ColumnSets ===

impl ColumnSets {
    fn new(most: usize) -> Self {
        Self { most, known: HashMap::default() }
    }

    /// Whether there may be a statement about these columns alone.
    pub(super) fn admit(&mut self, mapping: &str, columns: &[usize]) -> bool {
        let Some(known) = self.known.get_mut(mapping) else {
            self.known.insert(mapping.to_owned(), vec![columns.to_vec()]);
            return true;
        };
        if known.iter().any(|set| set == columns) {
            return true;
        }
        let has_room = known.len() < self.most;
        if has_room {
            known.push(columns.to_vec());
        }
        has_room
    }
}

// === impl SetsByNumber ===

impl SetsByNumber {
    pub(super) fn new() -> Self {
        Self { of_one: ColumnSets::new(MOST_OF_ONE), of_several: ColumnSets::new(MOST_OF_SEVERAL) }
    }

    pub(super) fn of(&mut self, number: usize) -> &mut ColumnSets {
        if number == 1 { &mut self.of_one } else { &mut self.of_several }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_admitted_up_to_a_limit_and_stay() {
        let mut sets = ColumnSets::new(2);
        for (mapping, columns, admitted) in [
            ("a", &[1][..], true),
            ("a", &[1, 2], true),
            ("a", &[2], false),
            ("a", &[1], true),
            ("b", &[2], true),
        ] {
            assert_eq!(sets.admit(mapping, columns), admitted, "{mapping} {columns:?}");
        }
    }
}
