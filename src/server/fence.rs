//! The fence: what passes through to keys of a mapping that leaves `redis_only` is waited for.
//!
//! Nobody has counted these requests, as that would cost each of them something. But a loop knows what it has
//! appended to its lanes, and since the mapping's gate is closed it appends no more of them. So each lane holds a
//! pass with the last request that it owes a reply to; the gate is empty when all of them have come.
//!
//! Invariants
//! - A request is looked at and appended in one go, so none is in between when the loop takes its mail.
//! - What Redis has queued since MULTI is not run: the keys have another side by then. Nor is a transaction of a client
//!   that has watched such keys, as changes past Redis would not be seen: its EXEC answers as if they were changed.
//!
//! Absent on purpose: waiting for commands that wait inside Redis. They take from lists, sorted sets and streams,
//! which a mapping does not hold.

use std::rc::Rc;

use super::client::Client;
use super::event_loop::EventLoop;
use super::pin::Pin;
use crate::mapping::Pass;

// === impl EventLoop ===

impl EventLoop {
    /// Holds a pass until all that is under way now is answered.
    pub(super) fn fence(&self, pass: &Pass) {
        let mut patient = Vec::new();
        for client in self.all_clients() {
            if let Some(pin) = &mut client.session.borrow_mut().pin {
                pin.aborted |= pin.multi && pin.queues_passing.get();
                pin.watches_stale |= pin.watching && client.has_passed.get();
                if pin.waits_in_redis {
                    patient.push(Rc::clone(&pin.lane));
                }
            }
        }
        for lane in self.all_lanes() {
            if !patient.iter().any(|other| Rc::ptr_eq(other, &lane)) {
                lane.hold(pass.clone());
            }
        }
    }
}

// === impl Client ===

impl Client {
    /// A request for keys that Redis alone has: to be remembered where it may leave something in the connection.
    pub(super) fn passes(&self, pin: Option<&Pin>, starts: bool) {
        if starts || pin.is_some() {
            self.has_passed.set(true);
        }
        if let Some(pin) = pin.filter(|pin| pin.multi) {
            pin.queues_passing.set(true);
        }
    }
}
