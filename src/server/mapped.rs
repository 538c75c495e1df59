//! Requests with mapped keys, on their way to the engine and in their order.
//!
//! Invariants
//! - A mapped write starts when everything before it has been answered, other writes to the same
//!   worker excepted; everything else starts when the mapped writes before it have been answered.
//!   So another client never sees a later command's effect without an earlier one's.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::asked::Ask;
use super::conversation::{Flow, Request, Talk};
use super::expect::Unproven;
use crate::command::{Command, Mapped};
use crate::engine::refusal::{GATE_PATIENCE, gate_closed};
use crate::engine::route::{MappedRoute, Touch};
use crate::engine::{Admission, Loan, Over, ReplyTo, Runner, Told};
use crate::metrics;
use crate::protocol::Reply;
use crate::protocol::request::{Scanned, Scanner};
use crate::upstream::lane::Delivered;

/// Stands for a worker where what is under way is no write of any.
pub(super) const NO_WRITER: usize = usize::MAX;

// === impl Talk ===

impl Talk {
    /// Hands over a request that touches a mapped key; its arity has been checked.
    pub(super) fn mapped(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        if self.client.session.borrow().pin.as_ref().is_some_and(|pin| pin.multi) {
            let flow = self.queue_mapped(command, request);
            self.count_if_done(flow, metrics::Way::Pinned);
            self.client.show_standing();
            return flow;
        }
        let client = &self.client;
        if matches!(command.mapped, Mapped::Write(_)) {
            if client.writes.get() == 0 && !self.drained() {
                return Flow::Wait;
            }
            if let Some(flow) = self.tell_first(command, request) {
                self.count_if_done(flow, metrics::Way::Mapped);
                return flow;
            }
        } else if !self.may_forward() {
            return Flow::Wait;
        }
        let engine = &self.event_loop.shared.engine;
        let touch = engine.touch(command, request.count(), |at| request.argument(at));
        if let Touch::Asks(proof, gate, mapping) = touch
            && self.believes_redis()
        {
            let pass = gate.enter().filter(|_| gate.reads_redis());
            let Some(pass) = pass else { return self.wait_at_gate() };
            let version = client.version();
            self.expect_asked(Ask { command, proof, mapping, version, pass }, request);
            self.append(request.bytes, 1, Delivered::OneByOne);
            return Flow::Done;
        }
        let bytes = Bytes::copy_from_slice(request.bytes);
        let arguments = arguments_of(&bytes, request.scanner);
        match engine.route_mapped(command, &bytes, arguments, self.reply_to(0)) {
            MappedRoute::Read(mut operation) => {
                if !engine.admit(&mut operation) {
                    return self.wait_at_gate();
                }
                if !operation.others.is_empty() {
                    // The keys that are not mapped are asked for over another connection: not
                    // before, and not while, the client's other requests change them.
                    if !self.drained() {
                        return Flow::Wait;
                    }
                    client.writer.set(NO_WRITER);
                    client.writes.set(1);
                }
                let muted = client.take_muted();
                operation.reply_to.slot = client.expected.borrow_mut().slot(muted);
                engine.read(*operation);
            }
            MappedRoute::Write(mut operation) => {
                if !engine.admit(&mut operation) {
                    return self.wait_at_gate();
                }
                let writer = engine.writer_of(&operation);
                if client.writes.get() > 0 && client.writer.get() != writer && !self.drained() {
                    return Flow::Wait;
                }
                client.writer.set(writer);
                client.writes.set(client.writes.get() + 1);
                let muted = client.take_muted();
                operation.reply_to.slot = client.expected.borrow_mut().slot(muted);
                engine.write(*operation, writer);
            }
            MappedRoute::Lend(lent) => {
                // It runs over another connection: not before, and not while, the client's other
                // requests do.
                if !self.drained() {
                    return Flow::Wait;
                }
                let Admission::In(passes) = engine.admit_loan([&*lent], None) else {
                    return self.wait_at_gate();
                };
                client.writer.set(NO_WRITER);
                client.writes.set(1);
                let muted = client.take_muted();
                let slot = client.expected.borrow_mut().slot(muted);
                let over = Over::Spare { database: engine.database(), version: client.version() };
                engine.lend(Loan {
                    requests: vec![*lent],
                    transaction: false,
                    watched: None,
                    spoils: false,
                    passes,
                    runner: Runner::new(Arc::clone(&self.event_loop.mailbox), over),
                    told: Told::new(self.reply_to(slot)),
                });
            }
            MappedRoute::Watch { keys, others } => {
                let flow = self.watch_mapped(request.argument(0), keys, &others);
                self.count_if_done(flow, metrics::Way::Pinned);
                return flow;
            }
            MappedRoute::Refuse(text) => {
                self.refuse(&Reply::Error(text));
                self.count(metrics::Way::Refused);
                return Flow::Done;
            }
            MappedRoute::Wait => return self.wait_at_gate(),
        }
        self.count(metrics::Way::Mapped);
        Flow::Done
    }

    /// The strategy of a key's mapping is just being changed: the request is tried again until it may go on,
    /// or has waited for too long.
    pub(super) fn wait_at_gate(&self) -> Flow {
        if let Some(flow) = self.wait_on() {
            return flow;
        }
        self.refuse(&gate_closed());
        self.count(metrics::Way::Refused);
        Flow::Done
    }

    /// The same; `None`: it has waited for too long.
    pub(super) fn wait_on(&self) -> Option<Flow> {
        let client = &self.client;
        let since = client.at_gate_since.get().unwrap_or_else(Instant::now);
        if since.elapsed() >= GATE_PATIENCE {
            return None;
        }
        client.at_gate_since.set(Some(since));
        client.stalled.set(true);
        self.event_loop.wake_soon(client);
        Some(Flow::Wait)
    }

    // --- asking Redis ---

    /// Whether what Redis says now of mapped keys is believed.
    pub(super) fn believes_redis(&self) -> bool {
        self.event_loop.shared.engine.believes(self.lane().run_id())
    }

    /// Expects the reply to a read that is about to be appended.
    pub(super) fn expect_asked(&self, ask: Ask, request: &Request<'_>) {
        let muted = self.client.take_muted();
        self.client.expected.borrow_mut().ask(ask, request.bytes, muted);
    }

    /// Asks Postgres what Redis could not answer for good.
    pub(super) fn read_slowly(&self, unproven: Unproven) {
        let Unproven { slot, ask, request } = unproven;
        let mut scanner = Scanner::new();
        let Scanned::Request(_) = scanner.next(&request, true, &self.limits) else {
            debug_assert!(false, "it was a request when it came");
            return;
        };
        let reply_to = ReplyTo { version: ask.version, ..self.reply_to(slot) };
        let arguments = arguments_of(&request, &scanner);
        self.event_loop.counts.request(ask.command.row(), metrics::Way::Mapped);
        self.event_loop.shared.engine.read_one(ask.command, arguments, reply_to, ask.pass);
    }

    /// Where the reply to a request of this client's goes.
    pub(super) fn reply_to(&self, slot: u32) -> ReplyTo {
        ReplyTo {
            mailbox: Arc::clone(&self.event_loop.mailbox),
            owner: self.client.owner,
            slot,
            version: self.client.version(),
        }
    }
}

/// The arguments of a request, as parts of its bytes.
pub(super) fn arguments_of(bytes: &Bytes, scanner: &Scanner) -> Vec<Bytes> {
    scanner.arguments().iter().map(|range| bytes.slice(range.clone())).collect()
}
