//! Reads of mapped keys that Redis is asked for: what is kept of them until their replies are there.
//!
//! Nearly all of these replies are final, so no more is kept than what it takes to ask Postgres after all:
//! the bytes of the requests, one behind the other.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};

use crate::command::{Command, Proof};
use crate::engine::Draw;
use crate::engine::route::proves;
use crate::mapping::Pass;
use crate::metrics::{LoopCounts, Side, TIMED};
use crate::protocol::Version;

/// Room that is kept while nothing is asked, bytes.
const KEPT_BYTES: usize = 512;

/// One read under way.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) command: &'static Command,
    /// What a final reply looks like.
    pub(super) proof: Proof,
    /// Its key's, by its place in the configuration file.
    pub(super) mapping: usize,
    /// In which the reply is expected.
    pub(super) version: Version,
    pub(super) pass: Pass,
}

/// The reads of one client that are under way, in their order.
#[derive(Debug, Default)]
pub(super) struct Asks {
    /// Each with the length of its request.
    asks: VecDeque<(Ask, usize)>,
    /// The requests, as they came.
    requests: BytesMut,
    /// Where those are counted that Redis has answered.
    counts: Option<Arc<LoopCounts>>,
    /// Which of these are compared with Postgres.
    draw: Option<Rc<Draw>>,
    /// One that is timed: how many are before it, and since when.
    timed: Option<(usize, Instant)>,
    /// So many are not timed before the next one is.
    untimed: u8,
}

// === impl Ask ===

impl Ask {
    /// Whether a whole reply is final.
    pub(super) fn is_final(&self, reply: &[u8]) -> bool {
        proves(self.proof, reply)
    }

    /// Whether a reply that begins like this is, whatever follows.
    pub(super) fn is_final_from_its_beginning(&self, beginning: &[u8]) -> bool {
        // The others are decided by their first line, or by any line.
        self.proof != Proof::Scanned
            && memchr::memchr(b'\n', beginning).is_some()
            && proves(self.proof, beginning)
    }
}

// === impl Asks ===

impl Asks {
    pub(super) fn push(&mut self, ask: Ask, request: &[u8]) {
        if self.untimed > 0 {
            self.untimed -= 1;
        } else if self.timed.is_none() {
            self.timed = Some((self.asks.len(), Instant::now()));
            self.untimed = TIMED - 1;
        }
        self.asks.push_back((ask, request.len()));
        self.requests.extend_from_slice(request);
    }

    /// What comes in reply to these may be old.
    pub(super) fn doubt(&mut self) {
        self.asks.iter_mut().for_each(|(ask, _)| ask.proof = Proof::Never);
    }

    pub(super) fn first(&self) -> Option<&Ask> {
        self.asks.front().map(|(ask, _)| ask)
    }

    /// Those of a client of this loop.
    pub(super) fn counted_in(counts: Arc<LoopCounts>, draw: Option<Rc<Draw>>) -> Self {
        Self { counts: Some(counts), draw, ..Self::default() }
    }

    /// Forgets the first one: it is answered.
    pub(super) fn pop(&mut self) {
        if let Some((ask, length)) = self.asks.pop_front() {
            let since = self.leave();
            if let Some(counts) = &self.counts {
                counts.hit(ask.command.row(), ask.mapping);
                if let Some(since) = since {
                    counts.took(ask.mapping, Side::Read, since.elapsed());
                }
            }
            if let Some(draw) = &self.draw
                && draw.is_drawn()
            {
                draw.post(&self.requests[..length], ask.mapping);
            }
            self.requests.advance(length);
            self.shrink();
        }
    }

    /// The first one with its request.
    pub(super) fn take(&mut self) -> Option<(Ask, Bytes)> {
        let (ask, length) = self.asks.pop_front()?;
        // Whoever asks Postgres times that.
        self.leave();
        let request = Bytes::copy_from_slice(&self.requests[..length]);
        self.requests.advance(length);
        self.shrink();
        Some((ask, request))
    }

    /// The first one leaves; since when it was under way, if it is timed.
    fn leave(&mut self) -> Option<Instant> {
        let (before, since) = self.timed?;
        self.timed = before.checked_sub(1).map(|before| (before, since));
        (before == 0).then_some(since)
    }

    fn shrink(&mut self) {
        if !self.asks.is_empty() {
            return;
        }
        // What was read is behind the beginning: taking it back costs nothing now.
        if !self.requests.try_reclaim(1) || self.requests.capacity() > KEPT_BYTES {
            self.requests = BytesMut::new();
        }
        if self.asks.capacity() * size_of::<(Ask, usize)>() > KEPT_BYTES {
            self.asks = VecDeque::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::lookup;
    use crate::config::Strategy;
    use crate::mapping::Gate;
    use crate::metrics::Metrics;

    fn ask(proof: Proof) -> Ask {
        let pass = Gate::new(Strategy::DualWrite, false).enter().unwrap();
        let command = lookup(b"hget").unwrap();
        Ask { command, proof, mapping: 0, version: Version::Resp2, pass }
    }

    #[test]
    fn requests_are_kept_until_they_are_answered() {
        let mut asks = Asks::default();
        for request in [&b"first"[..], b"second", b"third"] {
            asks.push(ask(Proof::NonNil), request);
        }
        asks.pop();
        assert_eq!(&asks.take().unwrap().1[..], b"second");
        asks.push(ask(Proof::NonNil), b"fourth");
        asks.pop();
        assert_eq!(&asks.take().unwrap().1[..], b"fourth");
        assert!(asks.first().is_none() && asks.take().is_none());
        asks.push(ask(Proof::NonNil), &[b'x'; 10_000]);
        asks.pop();
        assert!(asks.requests.capacity() <= KEPT_BYTES);
    }

    #[test]
    fn one_in_seventeen_is_timed() {
        let metrics = Metrics::new(1, 1);
        let mut asks = Asks::counted_in(metrics.of_new_loop(), None);
        let mut answered = |under_way: usize| {
            (0..under_way).for_each(|_| asks.push(ask(Proof::NonNil), b"request"));
            (0..under_way).for_each(|_| asks.pop());
            metrics.loop_seconds(0, Side::Read).count
        };
        assert_eq!([answered(1), answered(15), answered(1), answered(1)], [1, 1, 1, 2]);
        // Those that come while one is timed wait for their turn.
        assert_eq!([answered(40), answered(1), answered(16)], [3, 4, 4]);
        // One that Redis does not answer is none of these.
        asks.push(ask(Proof::NonNil), b"request");
        asks.take();
        asks.push(ask(Proof::NonNil), b"request");
        asks.pop();
        assert_eq!(metrics.loop_seconds(0, Side::Read).count, 4);
    }

    #[test]
    fn the_first_line_decides_where_it_can() {
        let check = |proof, beginning: &str, expected| {
            let is_final = ask(proof).is_final_from_its_beginning(beginning.as_bytes());
            assert_eq!(is_final, expected, "{proof:?} {beginning:?}");
        };
        check(Proof::NonNil, "$10", false);
        check(Proof::NonNil, "$1000\r\nx", true);
        check(Proof::NonEmpty, "*2\r\n$1\r", true);
        check(Proof::NonEmpty, "*2\r", false);
        check(Proof::AnyNonNil, "*3\r\n$-1\r\n$-1", false);
        check(Proof::AnyNonNil, "*3\r\n$-1\r\n$5\r\nab", true);
        check(Proof::AnyNonZero, "*3\r\n:0\r\n:1", false);
        check(Proof::AnyNonZero, "*3\r\n:0\r\n:1\r\n", true);
        check(Proof::Scanned, "*2\r\n$1\r\n8\r\n*0\r", false);
        check(Proof::NonNil, "-LOADING x\r\n", false);
    }
}
