//! What one client still has to be told, in the order of its requests.
//!
//! Most requests are answered by one lane, in order: those are only counted, and their replies go
//! out as they come. Where another reply has to come first (a slot that a worker fills), the bytes
//! are held until it is there.
//!
//! Invariants
//! - All elements before `lane_at` need nothing more from the lane.
//! - The first element is never complete: complete ones leave at once.
//! - A large value is asked for when it is the first element, and goes out as it comes: it is never held
//!   here.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::queued::Queued;
use crate::command::Proof;
use crate::engine::{Large, Operation, Piece, Watched};
use crate::mapping::MappedKey;

/// One client's requests under way.
#[derive(Debug, Default)]
pub(super) struct Expected {
    elements: VecDeque<Element>,
    /// The first element that the lane still owes something.
    lane_at: usize,
    /// Requests under way, slots included.
    requests: usize,
    last_slot: u32,
}

#[derive(Debug)]
enum Element {
    /// Replies of the lane that go out as they come.
    Replies { count: u32, held: Vec<u8>, muted: bool },
    /// One reply of the lane that has to be looked at as a whole.
    Inspect { inspection: Inspection, gathered: Vec<u8>, muted: bool },
    /// A reply from elsewhere.
    Slot { number: u32, reply: Option<Bytes>, muted: bool },
    /// A reply that comes in pieces.
    Large(LargeReply),
}

/// A reply that is too large to be held.
#[derive(Debug)]
pub(super) enum LargeReply {
    /// It is asked for when it is its turn.
    Waits(Box<Large>),
    Comes {
        pieces: mpsc::Receiver<Piece>,
        /// Pushes, which may stand between replies but not within one.
        pushed: Vec<u8>,
    },
}

/// Why a reply of the lane is looked at.
#[derive(Debug)]
pub(super) enum Inspection {
    /// It is final only if it proves that the key was there.
    Read(Proof, Box<Operation>),
    /// INFO: our own section is added.
    Info,
    /// SELECT on the client's own connection: where it leads if Redis says OK.
    Select(u16),
    /// HELLO on the client's own connection, which changes the protocol version there: the request.
    Hello(Bytes),
    /// CLIENT GETREDIR, TRACKINGINFO: the client that this one redirects to.
    Redirection(u64),
    /// EXEC: what it does to the connection.
    Exec(Vec<Queued>),
    /// MULTI: whether Redis queues what follows.
    Multi,
    /// A command between MULTI and EXEC: whether Redis has queued it.
    Queued,
    /// WATCH of unmapped keys: mapped ones are to be watched, too.
    Watch(Vec<MappedKey>, Arc<Watched>),
}

/// What has to be done about a reply that was looked at; its slot is waiting.
#[derive(Debug)]
pub(super) struct Inspected {
    pub slot: u32,
    pub inspection: Inspection,
    pub reply: Vec<u8>,
}

/// Where delivered bytes belong.
pub(super) enum Delivery {
    /// Out to the client, now.
    Now,
    /// They are kept, or dropped.
    Kept,
    /// A reply is complete that has to be looked at.
    Inspect(Inspected),
}

// === impl Expected ===

impl Expected {
    pub(super) fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    pub(super) fn requests(&self) -> usize {
        self.requests
    }

    /// Whether a reply of the lane is the next thing the client gets: then one more request of the
    /// same run may join the last element.
    fn can_join(&self, muted: bool) -> bool {
        matches!(self.elements.back(), Some(Element::Replies { count, muted: same, .. })
            if *count > 0 && *same == muted)
    }

    /// Expects `count` replies of the lane; true when they join the last run (so that the lane may
    /// merge them too).
    pub(super) fn replies(&mut self, count: u32, muted: bool) -> bool {
        self.requests += count as usize;
        if self.can_join(muted)
            && let Some(Element::Replies { count: run, .. }) = self.elements.back_mut()
        {
            *run += count;
            return true;
        }
        self.elements.push_back(Element::Replies { count, held: Vec::new(), muted });
        false
    }

    /// Expects one reply of the lane that is to be looked at.
    pub(super) fn inspect(&mut self, inspection: Inspection, muted: bool) {
        self.requests += 1;
        self.elements.push_back(Element::Inspect { inspection, gathered: Vec::new(), muted });
    }

    /// Expects a reply from elsewhere; its number.
    pub(super) fn slot(&mut self, muted: bool) -> u32 {
        self.requests += 1;
        self.last_slot = self.last_slot.wrapping_add(1);
        self.elements.push_back(Element::Slot { number: self.last_slot, reply: None, muted });
        self.last_slot
    }

    /// The lane has sent bytes in which `ended` replies end. They all belong to one element.
    pub(super) fn deliver(&mut self, bytes: &[u8], ended: u32, out: &mut Vec<u8>) -> Delivery {
        while let Some(Element::Slot { .. } | Element::Large(_)) = self.elements.get(self.lane_at) {
            self.lane_at += 1;
        }
        self.requests = self.requests.saturating_sub(ended as usize);
        let is_first = self.lane_at == 0;
        match self.elements.get_mut(self.lane_at) {
            Some(Element::Replies { count, held, muted }) => {
                debug_assert!(*count >= ended, "the lane and the client count alike");
                *count = count.saturating_sub(ended);
                let done = *count == 0;
                let muted = *muted;
                if !muted && !is_first {
                    held.extend_from_slice(bytes);
                }
                if done && !is_first {
                    self.lane_at += 1;
                } else if done {
                    self.elements.pop_front();
                    if !self.elements.is_empty() {
                        if !muted {
                            out.extend_from_slice(bytes);
                        }
                        self.release(out);
                        return Delivery::Kept;
                    }
                }
                if is_first && !muted { Delivery::Now } else { Delivery::Kept }
            }
            Some(Element::Inspect { gathered, .. }) => {
                gathered.extend_from_slice(bytes);
                if ended == 0 {
                    return Delivery::Kept;
                }
                self.requests += 1;
                self.last_slot = self.last_slot.wrapping_add(1);
                let slot = self.last_slot;
                let element = &mut self.elements[self.lane_at];
                let Element::Inspect { muted, .. } = *element else { return Delivery::Kept };
                let waiting = Element::Slot { number: slot, reply: None, muted };
                let Element::Inspect { inspection, gathered, .. } =
                    std::mem::replace(element, waiting)
                else {
                    return Delivery::Kept;
                };
                Delivery::Inspect(Inspected { slot, inspection, reply: gathered })
            }
            Some(Element::Slot { .. } | Element::Large(_)) | None => Delivery::Kept,
        }
    }

    /// A slot's reply is too large to be held.
    pub(super) fn put_off(&mut self, slot: u32, large: Box<Large>, out: &mut Vec<u8>) {
        let is_it = |element: &&mut Element| match element {
            Element::Slot { number, reply: None, .. } => *number == slot,
            _ => false,
        };
        match self.elements.iter_mut().find(is_it) {
            // Nobody will see it.
            Some(Element::Slot { muted: true, .. }) => self.fill(slot, Bytes::new(), out),
            Some(element) => *element = Element::Large(LargeReply::Waits(large)),
            None => {}
        }
    }

    /// A large reply whose turn it is.
    pub(super) fn large(&mut self) -> Option<&mut LargeReply> {
        match self.elements.front_mut() {
            Some(Element::Large(large)) => Some(large),
            _ => None,
        }
    }

    /// Keeps bytes that stand outside of the order of replies, if there is a part of a reply before them;
    /// how many are kept then.
    pub(super) fn keep_push(&mut self, bytes: &[u8]) -> Option<usize> {
        let Some(LargeReply::Comes { pushed, .. }) = self.large() else { return None };
        pushed.extend_from_slice(bytes);
        Some(pushed.len())
    }

    /// The large reply whose turn it was is complete; whatever can go out now is appended to `out`.
    pub(super) fn end_large(&mut self, out: &mut Vec<u8>) {
        if let Some(LargeReply::Comes { pushed, .. }) = self.large() {
            out.append(pushed);
            self.elements.pop_front();
            self.lane_at = self.lane_at.saturating_sub(1);
            self.requests = self.requests.saturating_sub(1);
            self.release(out);
        }
    }

    /// A slot's reply is there; whatever can go out now is appended to `out`.
    pub(super) fn fill(&mut self, slot: u32, bytes: Bytes, out: &mut Vec<u8>) {
        let found = self.elements.iter_mut().find_map(|element| match element {
            Element::Slot { number, reply, .. } if *number == slot => Some(reply),
            _ => None,
        });
        if let Some(reply @ None) = found {
            *reply = Some(bytes);
            self.requests = self.requests.saturating_sub(1);
            self.release(out);
        }
    }

    /// Moves what is complete at the front to `out`.
    fn release(&mut self, out: &mut Vec<u8>) {
        loop {
            match self.elements.front_mut() {
                Some(Element::Slot { reply: Some(reply), muted, .. }) => {
                    if !*muted {
                        out.extend_from_slice(reply);
                    }
                }
                Some(Element::Replies { count, held, .. }) => {
                    out.append(held);
                    if *count > 0 {
                        break;
                    }
                }
                Some(
                    Element::Slot { reply: None, .. } | Element::Inspect { .. } | Element::Large(_),
                )
                | None => break,
            }
            self.elements.pop_front();
            self.lane_at = self.lane_at.saturating_sub(1);
        }
    }

    /// Bytes that wait for an earlier reply.
    pub(super) fn held_bytes(&self) -> usize {
        let held = |element: &Element| match element {
            Element::Replies { held, .. } => held.len(),
            Element::Inspect { gathered, .. } => gathered.len(),
            Element::Slot { reply, .. } => reply.as_ref().map_or(0, Bytes::len),
            Element::Large(LargeReply::Comes { pushed, .. }) => pushed.len(),
            Element::Large(LargeReply::Waits(_)) => 0,
        };
        if self.elements.len() <= 1 { 0 } else { self.elements.iter().map(held).sum() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deliver(expected: &mut Expected, bytes: &[u8], ended: u32, out: &mut Vec<u8>) {
        if let Delivery::Now = expected.deliver(bytes, ended, out) {
            out.extend_from_slice(bytes);
        }
    }

    #[test]
    fn replies_of_the_lane_wait_for_a_slot_before_them() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        assert!(!expected.replies(1, false));
        let slot = expected.slot(false);
        assert!(!expected.replies(1, false));
        assert!(expected.replies(1, false));
        deliver(&mut expected, b"+1\r\n", 1, &mut out);
        deliver(&mut expected, b"+3\r\n+", 1, &mut out);
        assert_eq!(out, b"+1\r\n");
        expected.fill(slot, Bytes::from_static(b"+2\r\n"), &mut out);
        assert_eq!(out, b"+1\r\n+2\r\n+3\r\n+");
        deliver(&mut expected, b"4\r\n", 1, &mut out);
        assert_eq!(out, b"+1\r\n+2\r\n+3\r\n+4\r\n");
        assert!(expected.is_empty());
        assert_eq!(expected.requests(), 0);
    }

    #[test]
    fn slots_filled_out_of_order_go_out_in_order() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        let (first, second) = (expected.slot(false), expected.slot(false));
        expected.fill(second, Bytes::from_static(b"b"), &mut out);
        assert_eq!(out, b"");
        expected.fill(first, Bytes::from_static(b"a"), &mut out);
        assert_eq!(out, b"ab");
        assert!(expected.is_empty());
    }

    #[test]
    fn an_inspected_reply_becomes_a_slot_that_later_replies_wait_for() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        expected.inspect(Inspection::Info, false);
        expected.replies(1, false);
        assert!(matches!(expected.deliver(b"$1\r", 0, &mut out), Delivery::Kept));
        let Delivery::Inspect(inspected) = expected.deliver(b"\nx\r\n", 1, &mut out) else {
            panic!("the reply is complete");
        };
        assert_eq!(inspected.reply, b"$1\r\nx\r\n");
        deliver(&mut expected, b":1\r\n", 1, &mut out);
        assert_eq!(out, b"");
        expected.fill(inspected.slot, Bytes::from_static(b"!"), &mut out);
        assert_eq!(out, b"!:1\r\n");
        assert!(expected.is_empty());
    }

    #[test]
    fn muted_requests_are_counted_but_not_told() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        expected.replies(2, true);
        assert!(!expected.replies(1, false));
        deliver(&mut expected, b"+1\r\n+2\r\n", 2, &mut out);
        deliver(&mut expected, b"+3\r\n", 1, &mut out);
        assert_eq!(out, b"+3\r\n");
        assert!(expected.is_empty());
    }

    #[test]
    fn what_comes_after_a_large_reply_waits_and_what_was_pushed_comes_first() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        let slot = expected.slot(false);
        let (_sender, pieces) = mpsc::channel(1);
        let comes = LargeReply::Comes { pieces, pushed: Vec::new() };
        expected.elements.push_back(Element::Large(comes));
        expected.requests += 1;
        expected.replies(1, false);
        deliver(&mut expected, b"+3\r\n", 1, &mut out);
        assert!(expected.large().is_none());
        assert_eq!(expected.keep_push(b">0\r\n"), None);
        expected.fill(slot, Bytes::from_static(b"+1\r\n"), &mut out);
        assert_eq!(out, b"+1\r\n");
        assert!(expected.large().is_some());
        assert_eq!(expected.keep_push(b">0\r\n"), Some(4));
        assert_eq!(expected.keep_push(b">0\r\n"), Some(8));
        assert_eq!(expected.held_bytes(), 12);
        out.clear();
        expected.end_large(&mut out);
        assert_eq!(out, b">0\r\n>0\r\n+3\r\n");
        assert!(expected.is_empty());
        assert_eq!(expected.requests(), 0);
    }
}
