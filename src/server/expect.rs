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
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::asked::{Ask, Asks};
use super::queued::Queued;
use crate::engine::{Draw, Large, Piece, Watched};
use crate::mapping::{MappedKey, Pass};
use crate::metrics::LoopCounts;
use crate::upstream::lane::Delivered;

/// One client's requests under way.
#[derive(Debug, Default)]
pub(super) struct Expected {
    elements: VecDeque<Element>,
    /// What `Asked` elements are replies to.
    asks: Asks,
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
    /// Replies of the lane, each of which goes out as it comes if it proves that its key was there.
    Asked { count: u32, held: Vec<u8>, partial: Partial, muted: bool },
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

/// The reply under way among `Asked` ones.
#[derive(Debug)]
enum Partial {
    /// What has come of it proves nothing yet.
    Unproven(Vec<u8>),
    /// It is final; the rest goes out as it comes.
    Proven,
}

/// Why a reply of the lane is looked at.
#[derive(Debug)]
pub(super) enum Inspection {
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
    /// WATCH of unmapped keys: mapped ones are to be watched, too, which are let in already.
    Watch(Vec<MappedKey>, Arc<Watched>, Vec<Pass>),
}

/// What has to be done about a reply that was looked at; its slot is waiting.
#[derive(Debug)]
pub(super) struct Inspected {
    pub slot: u32,
    pub inspection: Inspection,
    pub reply: Vec<u8>,
}

/// A mapped read that Redis could not answer for good; its slot is waiting.
#[derive(Debug)]
pub(super) struct Unproven {
    pub slot: u32,
    pub ask: Ask,
    /// As it came.
    pub request: Bytes,
}

/// Where delivered bytes belong.
pub(super) enum Delivery {
    /// Out to the client, now.
    Now,
    /// They are kept, or dropped.
    Kept,
    /// A reply is complete that has to be looked at.
    Inspect(Inspected),
    /// A reply is complete that proves nothing.
    Unproven(Unproven),
}

// === impl Expected ===

impl Expected {
    /// Of a client of the loop that counts so.
    pub(super) fn counted_in(counts: Arc<LoopCounts>, draw: Option<Rc<Draw>>) -> Self {
        Self { asks: Asks::counted_in(counts, draw), ..Self::default() }
    }

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

    /// Expects `count` replies of the lane; how the lane may deliver them.
    pub(super) fn replies(&mut self, count: u32, muted: bool) -> Delivered {
        self.requests += count as usize;
        if self.can_join(muted)
            && let Some(Element::Replies { count: run, .. }) = self.elements.back_mut()
        {
            *run += count;
            return Delivered::Joined;
        }
        self.elements.push_back(Element::Replies { count, held: Vec::new(), muted });
        Delivered::Together
    }

    /// Expects a reply of the lane that is final if it proves that the key was there.
    pub(super) fn ask(&mut self, ask: Ask, request: &[u8], muted: bool) {
        self.requests += 1;
        self.asks.push(ask, request);
        match self.elements.back_mut() {
            Some(Element::Asked { count, muted: same, .. }) if *count > 0 && *same == muted => {
                *count += 1;
            }
            _ => {
                let partial = Partial::Unproven(Vec::new());
                let asked = Element::Asked { count: 1, held: Vec::new(), partial, muted };
                self.elements.push_back(asked);
            }
        }
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

    /// The lane has sent bytes in which `ended` replies end. They all belong to one element; of those
    /// that were asked for, one ends at most.
    pub(super) fn deliver(&mut self, bytes: &[u8], ended: u32, out: &mut Vec<u8>) -> Delivery {
        self.skip_slots();
        match self.elements.get_mut(self.lane_at) {
            Some(Element::Replies { .. }) => self.pass(bytes, ended, out),
            Some(Element::Asked { partial: Partial::Proven, .. }) => {
                if ended > 0 {
                    self.asks.pop();
                }
                self.pass(bytes, ended, out)
            }
            Some(Element::Asked { partial: Partial::Unproven(gathered), .. }) => {
                let Some(ask) = self.asks.first() else { return Delivery::Kept };
                if ended > 0 && gathered.is_empty() {
                    if !ask.is_final(bytes) {
                        return self.unproven();
                    }
                    self.asks.pop();
                    return self.pass(bytes, ended, out);
                }
                gathered.extend_from_slice(bytes);
                if ended > 0 && !ask.is_final(gathered) {
                    return self.unproven();
                }
                if ended == 0 && !ask.is_final_from_its_beginning(gathered) {
                    return Delivery::Kept;
                }
                let gathered = std::mem::take(gathered);
                if ended > 0 {
                    self.asks.pop();
                }
                match self.pass(&gathered, ended, out) {
                    Delivery::Now => out.extend_from_slice(&gathered),
                    Delivery::Kept | Delivery::Inspect(_) | Delivery::Unproven(_) => {}
                }
                Delivery::Kept
            }
            Some(Element::Inspect { gathered, .. }) => {
                gathered.extend_from_slice(bytes);
                if ended == 0 {
                    return Delivery::Kept;
                }
                let slot = self.next_slot();
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

    /// What comes in reply to mapped reads may be old.
    pub(super) fn doubt(&mut self) {
        self.asks.doubt();
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

    /// The lane is lost: the next reply will not come, `error` in its stead. A part of it may have.
    pub(super) fn deliver_failure(&mut self, error: &[u8], out: &mut Vec<u8>) -> Delivery {
        self.skip_slots();
        match self.elements.get(self.lane_at) {
            Some(Element::Asked { .. }) => self.unproven(),
            _ => self.deliver(error, 1, out),
        }
    }

    fn skip_slots(&mut self) {
        while let Some(Element::Slot { .. } | Element::Large(_)) = self.elements.get(self.lane_at) {
            self.lane_at += 1;
        }
    }

    fn next_slot(&mut self) -> u32 {
        self.last_slot = self.last_slot.wrapping_add(1);
        self.last_slot
    }

    /// Bytes of replies that are final go out, or are held.
    #[inline]
    fn pass(&mut self, bytes: &[u8], ended: u32, out: &mut Vec<u8>) -> Delivery {
        let is_first = self.lane_at == 0;
        let (count, held, muted) = match self.elements.get_mut(self.lane_at) {
            Some(Element::Replies { count, held, muted }) => (count, held, *muted),
            Some(Element::Asked { count, held, partial, muted }) => {
                match (ended, &mut *partial) {
                    (0, _) => *partial = Partial::Proven,
                    (_, Partial::Proven) => *partial = Partial::Unproven(Vec::new()),
                    (_, Partial::Unproven(_)) => {}
                }
                (count, held, *muted)
            }
            _ => return Delivery::Kept,
        };
        debug_assert!(*count >= ended, "the lane and the client count alike");
        self.requests = self.requests.saturating_sub(ended as usize);
        *count = count.saturating_sub(ended);
        let done = *count == 0;
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

    /// The reply to what was asked first proves nothing: a slot takes its place.
    fn unproven(&mut self) -> Delivery {
        let slot = self.next_slot();
        let Some(Element::Asked { count, held, muted, .. }) = self.elements.get_mut(self.lane_at)
        else {
            return Delivery::Kept;
        };
        let muted = *muted;
        let after = count.saturating_sub(1);
        let waiting = Element::Slot { number: slot, reply: None, muted };
        if held.is_empty() {
            self.elements[self.lane_at] = waiting;
        } else {
            // What came before it is held on, apart.
            let before = Element::Replies { count: 0, held: std::mem::take(held), muted };
            self.elements[self.lane_at] = before;
            self.lane_at += 1;
            self.elements.insert(self.lane_at, waiting);
        }
        if after > 0 {
            let partial = Partial::Unproven(Vec::new());
            let rest = Element::Asked { count: after, held: Vec::new(), partial, muted };
            self.elements.insert(self.lane_at + 1, rest);
        }
        match self.asks.take() {
            Some((ask, request)) => Delivery::Unproven(Unproven { slot, ask, request }),
            None => Delivery::Kept,
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
                Some(Element::Replies { count, held, .. } | Element::Asked { count, held, .. }) => {
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
            Element::Asked { held, partial: Partial::Unproven(gathered), .. } => {
                held.len() + gathered.len()
            }
            Element::Asked { held, .. } => held.len(),
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
    use crate::command::{Proof, lookup};
    use crate::config::Strategy;
    use crate::mapping::Gate;
    use crate::protocol::Version;

    fn deliver(expected: &mut Expected, bytes: &[u8], ended: u32, out: &mut Vec<u8>) {
        if let Delivery::Now = expected.deliver(bytes, ended, out) {
            out.extend_from_slice(bytes);
        }
    }

    #[test]
    fn replies_of_the_lane_wait_for_a_slot_before_them() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        assert_eq!(expected.replies(1, false), Delivered::Together);
        let slot = expected.slot(false);
        assert_eq!(expected.replies(1, false), Delivered::Together);
        assert_eq!(expected.replies(1, false), Delivered::Joined);
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
        assert_eq!(expected.replies(1, false), Delivered::Together);
        deliver(&mut expected, b"+1\r\n+2\r\n", 2, &mut out);
        deliver(&mut expected, b"+3\r\n", 1, &mut out);
        assert_eq!(out, b"+3\r\n");
        assert!(expected.is_empty());
    }

    fn ask(expected: &mut Expected, request: &[u8]) {
        let ask = Ask {
            command: lookup(b"hget").expect("it is in the table"),
            proof: Proof::NonNil,
            mapping: 0,
            version: Version::Resp2,
            pass: Gate::new(Strategy::DualWrite, false).enter().expect("it is open"),
        };
        expected.ask(ask, request, false);
    }

    #[test]
    fn a_reply_that_proves_nothing_becomes_a_slot_between_the_others() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        for request in [&b"one"[..], b"two", b"three"] {
            ask(&mut expected, request);
        }
        deliver(&mut expected, b"$1\r\n1\r\n", 1, &mut out);
        assert_eq!(out, b"$1\r\n1\r\n");
        out.clear();
        let Delivery::Unproven(unproven) = expected.deliver(b"$-1\r\n", 1, &mut out) else {
            panic!("nil proves nothing");
        };
        assert_eq!(&unproven.request[..], b"two");
        deliver(&mut expected, b"$1\r\n3\r\n", 1, &mut out);
        assert_eq!((&out[..], expected.requests()), (&b""[..], 1));
        expected.fill(unproven.slot, Bytes::from_static(b"2"), &mut out);
        assert_eq!(out, b"2$1\r\n3\r\n");
        assert!(expected.is_empty());
        assert_eq!(expected.requests(), 0);
    }

    #[test]
    fn what_is_held_stays_before_a_slot_that_comes_later() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        let slot = expected.slot(false);
        ask(&mut expected, b"one");
        ask(&mut expected, b"two");
        deliver(&mut expected, b"$1\r\n1\r\n", 1, &mut out);
        let Delivery::Unproven(unproven) = expected.deliver(b"$-1\r\n", 1, &mut out) else {
            panic!("nil proves nothing");
        };
        assert_eq!(expected.replies(1, false), Delivered::Together);
        deliver(&mut expected, b"+3\r\n", 1, &mut out);
        expected.fill(unproven.slot, Bytes::from_static(b"2"), &mut out);
        assert_eq!(out, b"");
        expected.fill(slot, Bytes::from_static(b"0"), &mut out);
        assert_eq!(out, b"0$1\r\n1\r\n2+3\r\n");
        assert!(expected.is_empty());
    }

    #[test]
    fn a_long_reply_goes_out_from_where_it_is_proven() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        ask(&mut expected, b"one");
        ask(&mut expected, b"two");
        deliver(&mut expected, b"$1", 0, &mut out);
        assert_eq!(out, b"");
        deliver(&mut expected, b"0\r\n012", 0, &mut out);
        assert_eq!(out, b"$10\r\n012");
        deliver(&mut expected, b"345", 0, &mut out);
        deliver(&mut expected, b"6789\r\n", 1, &mut out);
        assert_eq!(out, b"$10\r\n0123456789\r\n");
        // The next one has to prove itself.
        deliver(&mut expected, b"$-", 0, &mut out);
        let Delivery::Unproven(unproven) = expected.deliver(b"1\r\n", 1, &mut out) else {
            panic!("nil proves nothing");
        };
        assert_eq!(&unproven.request[..], b"two");
        expected.fill(unproven.slot, Bytes::from_static(b"!"), &mut out);
        assert_eq!(out, b"$10\r\n0123456789\r\n!");
        assert!(expected.is_empty());
    }

    #[test]
    fn what_was_asked_of_a_lost_lane_proves_nothing() {
        let (mut expected, mut out) = (Expected::default(), Vec::new());
        ask(&mut expected, b"one");
        expected.replies(1, false);
        let Delivery::Unproven(unproven) = expected.deliver_failure(b"-ERR lost\r\n", &mut out)
        else {
            panic!("Postgres knows it");
        };
        let delivery = expected.deliver_failure(b"-ERR lost\r\n", &mut out);
        assert!(matches!(delivery, Delivery::Kept));
        expected.fill(unproven.slot, Bytes::from_static(b"1"), &mut out);
        assert_eq!(out, b"1-ERR lost\r\n");
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
