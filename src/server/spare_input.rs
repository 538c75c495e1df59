//! Buffers that a client has grown for a long request, kept a little while for the next one.
//!
//! A long request is gathered before it is forwarded. Growing a fresh buffer for each costs more than
//! all else about it: the kernel has to provide every page anew.
//!
//! Invariants
//! - What is kept is bounded, and goes back piece by piece while nobody needs it.
//! - Spare buffers are empty: no bytes of one client reach another.

use std::cell::RefCell;

use bytes::BytesMut;

/// Kept at most, all buffers of a loop together.
const KEPT_BYTES: usize = 8 << 20;

#[derive(Debug, Default)]
pub(super) struct SpareInputs {
    buffers: RefCell<Vec<BytesMut>>,
}

// === impl SpareInputs ===

impl SpareInputs {
    /// Keeps an empty buffer, unless there are enough.
    pub(super) fn keep(&self, buffer: BytesMut) {
        debug_assert!(buffer.is_empty());
        let mut buffers = self.buffers.borrow_mut();
        let kept_bytes: usize = buffers.iter().map(BytesMut::capacity).sum();
        if kept_bytes + buffer.capacity() <= KEPT_BYTES {
            buffers.push(buffer);
        }
    }

    /// The buffer that was used last: its pages are the likeliest to be in a cache.
    pub(super) fn take(&self) -> Option<BytesMut> {
        self.buffers.borrow_mut().pop()
    }

    /// Called every second: gives the buffer back that has waited longest.
    pub(super) fn give_back(&self) {
        let mut buffers = self.buffers.borrow_mut();
        if !buffers.is_empty() {
            buffers.remove(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spare_buffers_are_bounded_and_given_back() {
        let spare = SpareInputs::default();
        for _ in 0..20 {
            spare.keep(BytesMut::with_capacity(1 << 20));
        }
        assert_eq!(spare.buffers.borrow().len(), 8);
        assert_eq!(spare.take().map(|buffer| buffer.capacity()), Some(1 << 20));
        spare.keep(BytesMut::with_capacity(KEPT_BYTES));
        assert_eq!(spare.buffers.borrow().len(), 7);
        for _ in 0..20 {
            spare.give_back();
        }
        assert!(spare.take().is_none());
    }
}
