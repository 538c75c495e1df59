//! Errands: requests of the engine's workers that run over this loop's private lanes (see
//! `engine::errand`), and lanes that are held ready for them.
//!
//! While a lane runs an errand it belongs to the errand, not to a client: a client that leaves
//! meanwhile takes nothing with it.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use slab::Slab;

use super::event_loop::EventLoop;
use crate::engine::errand::Done;
use crate::engine::{Errand, ErrandFailed, Over};
use crate::upstream::lane::{Delivered, Owner};
use crate::upstream::{Lane, UpstreamError};

/// Owners of lanes that are errands; see `EventLoop::enter` for those that are clients.
const ERRAND: u64 = 1 << 63;

#[derive(Default)]
pub(super) struct Errands {
    running: RefCell<Slab<Running>>,
    held: RefCell<Slab<Held>>,
}

struct Running {
    lane: Rc<Lane<EventLoop>>,
    replies: Vec<Bytes>,
    /// How many replies are still to come.
    awaited: u32,
    spoils: bool,
    /// `None`: nobody waits for the replies.
    done: Option<Done>,
}

struct Held {
    lane: Rc<Lane<EventLoop>>,
    spoiled: bool,
}

/// The number of the errand that owns a lane.
pub(super) fn errand_of(owner: Owner) -> Option<usize> {
    let number = usize::try_from(owner.0 & !ERRAND).unwrap_or(usize::MAX);
    (owner.0 & ERRAND != 0).then_some(number)
}

// === impl EventLoop ===

impl EventLoop {
    /// Keeps a lane on which nothing is under way, and the state on it, for an errand to come. Its
    /// number.
    pub(super) fn hold(&self, lane: Rc<Lane<Self>>, spoiled: bool) -> u32 {
        lane.give_to(None);
        let number = self.errands.held.borrow_mut().insert(Held { lane, spoiled });
        u32::try_from(number).expect("there are fewer lanes than that")
    }

    /// The errand that a lane was held for does not come.
    pub(super) fn let_go(&self, number: u32) {
        let number = number as usize;
        let held = self.errands.held.borrow_mut().try_remove(number);
        if let Some(Held { lane, spoiled }) = held {
            self.forget_watch(lane, spoiled);
        }
    }

    /// Gives back a lane on which keys are watched and nothing is under way.
    pub(super) fn forget_watch(&self, lane: Rc<Lane<Self>>, spoiled: bool) {
        self.send_out(lane, b"*1\r\n$7\r\nUNWATCH\r\n", 1, spoiled, None);
    }

    /// Gives back a lane on which a transaction is open and nothing is under way.
    pub(super) fn discard(&self, lane: Rc<Lane<Self>>) {
        self.send_out(lane, b"*1\r\n$7\r\nDISCARD\r\n", 1, false, None);
    }

    pub(super) fn run_errand(&self, errand: Errand) {
        let Errand { over, requests, replies, spoils, done } = errand;
        let (lane, spoiled) = match over {
            Over::Spare { database, version } => {
                (self.private_lane_of(None, database, version), false)
            }
            Over::Held(number) => {
                let held = self.errands.held.borrow_mut().try_remove(number as usize);
                let Some(Held { lane, spoiled }) = held else {
                    let lost = UpstreamError::Lost("the lane of the client is gone".into());
                    // Nobody to tell when this fails: the worker has gone.
                    let _ = done.send(Err(ErrandFailed::NotRun(lost)));
                    return;
                };
                (lane, spoiled)
            }
        };
        self.send_out(lane, &requests, replies, spoils || spoiled, Some(done));
    }

    fn send_out(
        &self,
        lane: Rc<Lane<Self>>,
        requests: &[u8],
        replies: u32,
        spoils: bool,
        done: Option<Done>,
    ) {
        let mut running = self.errands.running.borrow_mut();
        let place = running.vacant_entry();
        let owner = Owner(ERRAND | place.key() as u64);
        lane.give_to(Some(owner));
        place.insert(Running {
            lane: Rc::clone(&lane),
            replies: Vec::new(),
            awaited: replies,
            spoils,
            done,
        });
        drop(running);
        if !lane.append(owner, requests, replies, Delivered::Together) {
            self.errand_failed(owner, ErrandFailed::NotRun(lane.last_error()));
        }
    }

    /// A reply to a request of an errand.
    pub(super) fn errand_replied(&self, number: usize, frame: &[u8]) {
        let mut all = self.errands.running.borrow_mut();
        let Some(running) = all.get_mut(number) else { return };
        if running.done.is_some() {
            running.replies.push(Bytes::copy_from_slice(frame));
        }
        running.awaited -= 1;
        if running.awaited > 0 {
            return;
        }
        let Running { lane, replies, spoils, done, .. } = all.remove(number);
        drop(all);
        if spoils {
            lane.close();
        } else {
            self.keep_lane(lane);
        }
        if let Some(done) = done {
            let _ = done.send(Ok(replies));
        }
    }

    /// The lane of an errand is gone, or was never there.
    pub(super) fn errand_failed(&self, owner: Owner, failed: ErrandFailed) {
        let running = errand_of(owner)
            .and_then(|number| self.errands.running.borrow_mut().try_remove(number));
        if let Some(Running { lane, done, .. }) = running {
            lane.close();
            if let Some(done) = done {
                let _ = done.send(Err(failed));
            }
        }
    }

    /// The loop ends: those who wait for errands are told that nobody knows.
    pub(super) fn drop_errands(&self) {
        self.mailbox.close();
        self.errands.running.borrow_mut().clear();
        self.errands.held.borrow_mut().clear();
    }
}

/// What has become of the requests when a lane fails with this.
pub(super) fn failure_of(error: &UpstreamError) -> ErrandFailed {
    match error {
        UpstreamError::Connect { .. }
        | UpstreamError::Refused(_)
        | UpstreamError::Timeout(_)
        | UpstreamError::Elsewhere => ErrandFailed::NotRun(error.clone()),
        UpstreamError::Lost(_) | UpstreamError::Silent(_) | UpstreamError::Protocol(_) => {
            ErrandFailed::InDoubt(error.clone())
        }
    }
}
