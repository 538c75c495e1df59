//! A client's own connection to the upstream, while it has state there that a shared one cannot
//! carry: a transaction, watched keys, subscriptions, a blocking command, tracking, MONITOR.

use std::cell::Cell;
use std::fmt;
use std::rc::Rc;

use bytes::BytesMut;

use super::conversation::{Flow, Request, Talk};
use super::event_loop::EventLoop;
use super::queued::Queued;
use super::roster::Standing;
use super::subscription::Subscriptions;
use super::takeover::Kept;
use crate::command::{Command, Path, lookup};
use crate::protocol::{Reply, Version};
use crate::upstream::Lane;

pub(super) struct Pin {
    pub(super) lane: Rc<Lane<EventLoop>>,
    /// The lane with the client's watch, while `lane` has its queue, and whether it is spoiled; see
    /// `takeover`.
    pub(super) watch_lane: Option<(Rc<Lane<EventLoop>>, bool)>,
    /// Copies of what was queued since MULTI, where keys are mapped.
    pub(super) kept: Option<Kept>,
    /// Between MULTI and EXEC or DISCARD.
    pub(super) multi: bool,
    /// A command of the transaction was refused: EXEC has to fail.
    pub(super) aborted: bool,
    /// A command of the transaction is for keys that Redis alone has.
    pub(super) queues_passing: Cell<bool>,
    /// What is watched can be compared no more: EXEC runs nothing, as if it had changed.
    pub(super) watches_stale: bool,
    /// Redis has refused to queue a command, as far as its replies were looked at: its EXEC fails.
    pub(super) queue_failed: bool,
    /// Commands sent since MULTI that Redis queues, unless it refuses them.
    pub(super) queued: usize,
    /// What EXEC is going to do to the connection.
    pub(super) effects: Vec<Queued>,
    /// The database in which the next queued command will run, after a queued SELECT.
    pub(super) queued_database: Option<u16>,
    pub(super) watching: bool,
    /// Until the reply of a blocking command is there.
    pub(super) blocking: bool,
    /// The command waits for elements, inside Redis.
    pub(super) waits_in_redis: bool,
    pub(super) subscriptions: Option<Subscriptions>,
    /// MONITOR, CLIENT TRACKING: until the client leaves or resets.
    pub(super) sticky: bool,
    /// CLIENT TRACKING: the client that this one redirects to, or 0.
    pub(super) tracking: Option<u64>,
    /// The connection carries state that cannot be taken back: it is closed, not kept.
    pub(super) spoiled: bool,
}

// === impl Pin ===

impl Pin {
    pub(super) fn new(lane: Rc<Lane<EventLoop>>) -> Self {
        Self {
            lane,
            watch_lane: None,
            kept: None,
            multi: false,
            aborted: false,
            queues_passing: Cell::new(false),
            watches_stale: false,
            queue_failed: false,
            queued: 0,
            effects: Vec::new(),
            queued_database: None,
            watching: false,
            blocking: false,
            waits_in_redis: false,
            subscriptions: None,
            sticky: false,
            tracking: None,
            spoiled: false,
        }
    }

    /// What CLIENT LIST shows of it.
    pub(super) fn standing(&self) -> Standing {
        Standing {
            multi: self.multi.then_some(self.queued),
            subscriptions: self.subscriptions.as_ref().map_or([0; 3], Subscriptions::counts),
            tracks: self.tracking,
            monitors: self.sticky && !self.lane.is_accounted() && self.subscriptions.is_none(),
        }
    }

    /// The client that this one redirects to, by its number here.
    pub(super) fn redirects_to(&self) -> Option<u64> {
        self.tracking.filter(|&target| target != 0)
    }

    /// Closes its connections.
    pub(super) fn close(&self) {
        self.lane.close();
        if let Some((lane, _)) = &self.watch_lane {
            lane.close();
        }
    }

    pub(super) fn end_transaction(&mut self) {
        self.kept = None;
        self.multi = false;
        self.aborted = false;
        self.queues_passing.set(false);
        self.watches_stale = false;
        self.queue_failed = false;
        self.watching = false;
        self.queued = 0;
        self.effects.clear();
        self.queued_database = None;
    }

    /// Whether a mapped key is in the transaction.
    pub(super) fn has_mapped_keys(&self) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.mapped)
    }

    /// Why no mapped key can be in the transaction, nor be watched in it.
    pub(super) fn why_not_taken_over(&self) -> Option<&'static str> {
        if self.tracking.is_some() {
            // Redis would not remember what is read over another lane.
            return Some("a client that tracks cannot use mapped keys in a transaction");
        }
        (self.watching && self.watch_lane.is_none()).then_some(
            "a client that subscribes, or that others redirect to, cannot watch keys and use mapped \
             ones in one transaction",
        )
    }

    /// Whether the connection may be given back once nothing is under way on it.
    pub(super) fn is_over(&self) -> bool {
        !self.multi && !self.watching && !self.sticky && self.subscriptions.is_none()
    }

    /// Whether the client loses something with the connection.
    pub(super) fn has_state(&self) -> bool {
        self.multi
            || self.watching
            || self.sticky
            || self.subscriptions.as_ref().is_some_and(|subscriptions| !subscriptions.is_over())
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pin")
            .field("multi", &self.multi)
            .field("watching", &self.watching)
            .field("sticky", &self.sticky)
            .finish_non_exhaustive()
    }
}

// === impl Talk ===

impl Talk {
    /// A request that needs, or whose client has, a connection of its own.
    pub(super) fn pinned(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        let over = self.client.session.borrow().pin.as_ref().is_some_and(Pin::is_over);
        if over {
            // The last reply of the state before is still to come.
            if !self.drained() {
                return Flow::Wait;
            }
            self.give_back_lane();
            return self.go(self.way(request), request);
        }
        let flow = match self.unaccounted(command, request) {
            Some(flow) => flow,
            None => self.accounted(command, request),
        };
        self.client.show_standing();
        flow
    }

    fn accounted(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        let in_multi = self.client.session.borrow().pin.as_ref().is_some_and(|pin| pin.multi);
        let argument = |at: usize| request.argument(at);
        match command.path {
            Path::Transaction => self.transaction(command, request),
            Path::Subscription => self.subscription(command, request),
            Path::Stream if !in_multi => {
                if !command.arity_ok(request.count()) {
                    self.refuse(&Reply::Error(command.arity_error()));
                    return Flow::Done;
                }
                self.with_pin(request, |pin| {
                    pin.sticky = true;
                    pin.lane.set_accounted(false);
                })
            }
            Path::Blocking if !in_multi && command.is_blocking(request.count(), argument) => {
                self.wait_in_redis(command.name, request)
            }
            _ => self.forward_apart(request),
        }
    }

    /// Forwards a request that may wait inside Redis, over a connection of its own.
    pub(super) fn wait_in_redis(&self, name: &str, request: &Request<'_>) -> Flow {
        // A busy Redis refuses to SELECT, so the commands that end that must not need it.
        let is_of_no_database = matches!(name, "script" | "function" | "shutdown");
        let database = self.client.session.borrow().database;
        if !self.pin_in(if is_of_no_database { 0 } else { database }) {
            return Flow::Wait;
        }
        if let Some(pin) = &mut self.client.session.borrow_mut().pin {
            pin.blocking = true;
            pin.waits_in_redis =
                lookup(name.as_bytes()).is_some_and(|known| known.path == Path::Blocking);
            pin.lane.set_patient(true);
            self.client.entry.begin_wait(pin.lane.upstream_id());
        }
        if matches!(name, "wait" | "waitaof") {
            // They wait for what their connection saw written. A command before them makes that
            // all that was written until now, over whichever connection.
            let delivered = self.client.expected.borrow_mut().replies(1, true);
            self.append(b"*1\r\n$4\r\nPING\r\n", 1, delivered);
        }
        self.forward_run(request.bytes, 1);
        // What follows waits for the reply.
        self.drained();
        Flow::Done
    }

    /// Makes sure of a connection of its own, changes its state and forwards the request there.
    pub(super) fn with_pin(&self, request: &Request<'_>, change: impl FnOnce(&mut Pin)) -> Flow {
        if !self.pin() {
            return Flow::Wait;
        }
        let mut session = self.client.session.borrow_mut();
        let Some(pin) = &mut session.pin else { return Flow::Wait };
        change(pin);
        let is_accounted = pin.lane.is_accounted();
        let lane = Rc::clone(&pin.lane);
        drop(session);
        if is_accounted {
            self.forward_run(request.bytes, 1);
        } else if !lane.append_unanswered(request.bytes) {
            self.client.leave_when_told();
        }
        Flow::Done
    }

    /// Forwards one request among those of its lane.
    pub(super) fn forward_apart(&self, request: &Request<'_>) -> Flow {
        if !self.may_forward() {
            return Flow::Wait;
        }
        if let Some(flow) = self.queue_kept(request) {
            return flow;
        }
        self.forward_run(request.bytes, 1);
        if let Some(pin) = &mut self.client.session.borrow_mut().pin
            && pin.multi
        {
            pin.queued += 1;
        }
        Flow::Done
    }

    /// Gets a connection of its own for the client; false when requests are under way elsewhere.
    pub(super) fn pin(&self) -> bool {
        let database = self.client.session.borrow().database;
        self.pin_in(database)
    }

    /// As `pin`; a new connection is in this database.
    fn pin_in(&self, database: u16) -> bool {
        if self.client.session.borrow().pin.is_some() {
            return self.may_forward();
        }
        if !self.drained() {
            return false;
        }
        let lane = self.event_loop.private_lane(&self.client, database);
        self.client.entry.get_connection(lane.upstream_id());
        self.client.session.borrow_mut().pin = Some(Pin::new(lane));
        true
    }

    /// Gives the client's own connection back when it carries no state any more.
    pub(super) fn give_back_lane(&self) {
        if !self.client.expected.borrow().is_empty() {
            return;
        }
        let mut session = self.client.session.borrow_mut();
        let Some(pin) = &mut session.pin else { return };
        pin.waits_in_redis = false;
        if std::mem::take(&mut pin.blocking) {
            pin.spoiled |= self.client.entry.end_wait();
            pin.lane.set_patient(false);
        }
        if pin.subscriptions.as_ref().is_some_and(Subscriptions::is_over) {
            pin.subscriptions = None;
            pin.lane.set_accounted(true);
        }
        if !pin.is_over() {
            return;
        }
        if !self.client.entry.release_connection() {
            pin.sticky = true;
            return;
        }
        if let Some(pin) = session.pin.take() {
            self.client.has_passed.set(false);
            drop(session);
            self.client.show_standing();
            if pin.spoiled {
                pin.lane.close();
            } else {
                self.event_loop.keep_lane(pin.lane);
            }
        }
    }

    /// A RESP2 client that is subscribed, or that monitors: everything goes to its connection, and
    /// everything that comes from there goes to it.
    fn unaccounted(&self, command: &'static Command, request: &Request<'_>) -> Option<Flow> {
        let mut session = self.client.session.borrow_mut();
        let pin = session.pin.as_mut().filter(|pin| !pin.lane.is_accounted())?;
        let leaves = matches!(command.name, "quit" | "reset");
        let is_over = pin.subscriptions.as_ref().is_some_and(Subscriptions::is_over);
        if !is_over && let Some(refusal) = self.guard(command, request, false) {
            if pin.subscriptions.as_ref().is_some_and(Subscriptions::awaits) {
                self.client.stalled.set(true);
                return Some(Flow::Wait);
            }
            let mut reply = BytesMut::new();
            Reply::Error(refusal).write(session.version, &mut reply);
            self.client.push(&reply);
            return Some(Flow::Done);
        }
        if let Some(subscriptions) = &mut pin.subscriptions {
            let stays = command.path == Path::Subscription || command.name == "ping";
            if !stays {
                if subscriptions.awaits() {
                    // Only then it shows whether Redis still counts it as subscribed.
                    self.client.stalled.set(true);
                    return Some(Flow::Wait);
                }
                if subscriptions.is_over() {
                    drop(session);
                    self.give_back_lane();
                    return Some(self.go(self.way(request), request));
                }
            }
            if !leaves {
                // What Redis does not take from a subscriber it refuses itself.
                subscriptions.sent(command.name, request.count() - 1, true);
            }
        } else if command.path == Path::Local && !leaves {
            let mut reply = BytesMut::new();
            let name = command.name.to_ascii_uppercase();
            let text = format!("{name} is not supported while the connection monitors");
            Reply::err(text).write(session.version, &mut reply);
            self.client.push(&reply);
            return Some(Flow::Done);
        }
        if leaves {
            drop(session);
            return Some(self.local(command, request));
        }
        if !pin.lane.append_unanswered(request.bytes) {
            drop(session);
            self.client.leave_when_told();
        }
        Some(Flow::Done)
    }

    fn subscription(&self, command: &'static Command, request: &Request<'_>) -> Flow {
        let session = self.client.session.borrow();
        let version = session.version;
        if session.pin.as_ref().is_some_and(|pin| pin.multi) {
            drop(session);
            self.refuse(&Reply::Error(format!(
                "ERR {} is not supported inside MULTI",
                command.name.to_ascii_uppercase()
            )));
            return Flow::Done;
        }
        drop(session);
        if !command.arity_ok(request.count()) {
            self.refuse(&Reply::Error(command.arity_error()));
            return Flow::Done;
        }
        // In RESP2 the confirmations are replies like any other: what is under way comes first.
        if version == Version::Resp2 && !self.drained() {
            return Flow::Wait;
        }
        if !self.pin() {
            return Flow::Wait;
        }
        let mut session = self.client.session.borrow_mut();
        let Some(pin) = &mut session.pin else { return Flow::Wait };
        if version == Version::Resp2 {
            pin.lane.set_accounted(false);
        }
        let subscriptions = pin.subscriptions.get_or_insert_default();
        subscriptions.sent(command.name, request.count() - 1, version == Version::Resp2);
        if !pin.lane.append_unanswered(request.bytes) {
            drop(session);
            self.client.leave_when_told();
        }
        Flow::Done
    }
}
