//! A value, as the operations that made it.
//!
//! With the operations themselves for a value, a read that lacks one and a change made twice are seen
//! at once. A value that is absent has a history too: the last of it is a delete.

/// One change to the key. Each is made once, by one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Operation {
    Increment(u8),
    Delete(u8),
}

/// Operations of a whole run: one creates the key, the others come from the processes.
const MOST: usize = 7;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct History {
    operations: [Option<Operation>; MOST],
}

/// A set of operations, one bit each.
pub(crate) type Set = u8;

// === impl Operation ===

impl Operation {
    pub(crate) fn bit(self) -> Set {
        match self {
            Self::Increment(number) | Self::Delete(number) => 1 << number,
        }
    }
}

// === impl History ===

impl History {
    pub(crate) fn of(operations: &[Operation]) -> Self {
        operations.iter().fold(Self::default(), |history, &operation| history.with(operation))
    }

    pub(crate) fn with(mut self, operation: Operation) -> Self {
        let free = self.operations.iter_mut().find(|place| place.is_none());
        // Only a mutant makes an operation so often that there is no room; it is caught by then.
        if let Some(place) = free {
            *place = Some(operation);
        }
        self
    }

    fn iter(&self) -> impl Iterator<Item = Operation> {
        self.operations.iter().map_while(|operation| *operation)
    }

    pub(crate) fn set(&self) -> Set {
        self.iter().fold(0, |set, operation| set | operation.bit())
    }

    /// Whether the key is there.
    pub(crate) fn exists(&self) -> bool {
        matches!(self.iter().last(), Some(Operation::Increment(_)))
    }

    /// Whether an operation was made more than once.
    pub(crate) fn repeats(&self) -> bool {
        self.iter().count() as u32 > self.set().count_ones()
    }
}
